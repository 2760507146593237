//! The trade in tickets of calendar windows.

use super::{
    Alarm, Answer, Books, Exchange, IDLE, MILLISECOND, Market, Order, Page, SECOND, THRIFTY_IDLE, Visit, What,
};
use crate::throttle::books::GATHER;
use crate::throttle::counter::still_counts;
use crate::throttle::lease::tickets::{News, Standing, Tickets};
use crate::throttle::terms::Terms;
use crate::throttle::window::{Time, Window};

/// The longest that a closed window is left alone, as a power of two of seconds.
const PROBES_MOST: u8 = 16;

/// How long before its beginning the next window is first thought of.
const AHEAD: u64 = 60 * SECOND;

/// The shortest that a closed sliding window is left alone, in nanoseconds.
const SLIDING_PAUSE: u64 = 50 * MILLISECOND;

/// What to ask for, and of which window.
pub(super) fn visit(books: &mut Books, tickets: &Tickets, terms: &Terms, visit: &Visit<'_>) -> Option<(u32, What)> {
    let shape = terms.quota.shape();
    let (now, market) = (visit.now, visit.market);
    let window = shape.window_of(now);
    let standing = tickets.standing(window.index);
    look(books, tickets, &window, &standing, visit);

    // What was admitted in the window before is charged while its counter still counts for something.
    if let Some(before) = window.index.checked_sub(1)
        && tickets.standing(before).debt() > 0
        && let Some(order) = charge(books, before, tickets.standing(before).debt(), 0, market)
    {
        return Some((before, order));
    }
    if visit.leaving {
        if standing.debt() > 0 {
            return charge(books, window.index, standing.debt(), 0, market).map(|order| (window.index, order));
        }
        return [window.index, window.index.saturating_add(1)]
            .into_iter()
            .find_map(|index| hand_back(books, tickets, index, market));
    }

    if visit.thrifty {
        return spare(books, tickets, terms, (&window, &standing), visit);
    }
    if let Some(order) = buy(books, tickets, terms, (&window, &standing), visit) {
        return Some((window.index, order));
    }
    if books.idle_at.rings(now) {
        books.idle_at = Alarm::OFF;
        if standing.held() > 0 {
            if books.idle_spent == standing.spent {
                return hand_back(books, tickets, window.index, market);
            }
            books.idle_spent = standing.spent;
            let ahead = ahead(terms, left(books.page(window.index), terms, &window, now), market);
            if standing.open && standing.held() < ahead {
                // Also to hear what is left.
                let want = ahead - standing.held();
                return charge(books, window.index, 0, want, market).map(|order| (window.index, order));
            }
            books.idle_at.set(now.plus(idle_after(terms, standing.held(), ahead)));
        }
    }
    if books.prefetch_at.rings(now) {
        books.prefetch_at = Alarm::OFF;
        let next = window.index.saturating_add(1);
        let untouched = books.page(next).own == 0;
        if untouched && now < window.end && books.pace > 1.0 {
            let want = books
                .demand(market)
                .max(ahead(terms, terms.limit(), market))
                .clamp(1, most(terms.limit(), market));
            return charge(books, next, 0, want, market).map(|order| (next, order));
        }
    }
    None
}

/// Enters an answer.
pub(super) fn settle(
    exchange: &mut Exchange,
    books: &mut Books,
    tickets: &Tickets,
    order: &Order,
    answer: Answer,
    now: Time,
    market: &Market,
) {
    let Answer::Count {
        value,
        previous,
        expires,
    } = answer
    else {
        return;
    };
    let (charge, want, expire) = match order.what {
        What::Take { charge, want, expire } => (charge, want, expire),
        What::Heal { .. } => (0, 0, true),
        What::Return { .. } | What::Restore { .. } | What::Fill { .. } => return,
    };
    let terms = &order.terms;
    let shape = terms.quota.shape();
    let window = shape.window_at(order.window);
    let before = value.saturating_sub(i64::from(charge)).saturating_sub(i64::from(want));
    let data = books.traded_with;
    let page = books.page(order.window);
    if let What::Take { .. } = order.what
        && before < i64::from(page.own)
    {
        // The store has lost the counter. What it handed out now is not used; the debt is charged again after the healing.
        // Other data than it was traded with, from now on; so it is for every other counter of this node.
        page.known = true;
        page.heard = page.heard.max(page.own);
        exchange.losses = exchange.losses.wrapping_add(1);
        return;
    }
    let previous = previous.map_or(page.previous, clamp);
    let limit = room_at(terms, &window, previous, now);
    let valid = i64::from(limit) - before.max(0) - i64::from(charge);
    let granted = u32::try_from(valid.max(0)).unwrap_or(u32::MAX).min(want);
    let void = want - granted;
    let heard = clamp(value - i64::from(void));
    page.own = page.own.saturating_add(charge).saturating_add(granted);
    page.heard = heard;
    page.previous = previous;
    page.known = true;
    if expire {
        page.expires = expires;
    }
    page.data = data;
    let left = limit.saturating_sub(heard);
    let ahead = ahead(terms, left, market);

    let standing = tickets.standing(order.window);
    let in_hand = standing
        .held()
        .saturating_add(granted)
        .saturating_sub(standing.debt().saturating_sub(charge));
    let probe_at = if left > 0 {
        page.probes = 0;
        now
    } else if shape.slides() {
        reopens(terms, &window, page, now)
    } else if in_hand > 0 {
        now
    } else {
        let pause = SECOND << page.probes.min(PROBES_MOST);
        page.probes = page.probes.saturating_add(1);
        now.plus(pause).min(window.end)
    };
    let news = News {
        granted: charge.saturating_add(granted),
        left,
        limit: terms.limit(),
        probe_at,
        low: books.low_mark(market).max(low_ahead(ahead)),
        share: share(books, terms, order.window),
    };
    tickets.enter(order.window, &news);

    if void > 0 {
        exchange.returns.push_back(Order {
            what: What::Return { count: void },
            ..order.clone()
        });
    }
    if charge > 0 {
        let beyond = before.saturating_add(i64::from(charge)) - before.max(i64::from(terms.limit()));
        let beyond = beyond.clamp(0, i64::from(charge));
        (exchange.overshoot)(beyond as f64 / f64::from(terms.limit().max(1)));
    }
    if in_hand > 0 {
        books.idle_spent = standing.spent;
        let idle = if exchange.thrifty {
            THRIFTY_IDLE
        } else {
            idle_after(terms, in_hand, ahead)
        };
        books.idle_at.set(now.plus(idle));
    }
    // Not for a window that ends in a month: a timer keeps the lease.
    if books.pace > 1.0 && now < window.end && window.end.since(now) <= AHEAD {
        // Gateways do not come at the same moment, and not much too early.
        let ahead = u64::from(market.dice) * market.term / u64::from(u32::MAX);
        let least = 4 * market.round_trip + GATHER;
        books.prefetch_at = Alarm::at(window.end.minus(ahead.max(least)).max(now));
    }
}

/// Brings the pace up to date.
fn look(books: &mut Books, tickets: &Tickets, window: &Window, standing: &Standing, visit: &Visit<'_>) {
    let refused = tickets.refused();
    let (looked_in, looked_spent, looked_refused) = books.looked;
    let spent = if looked_in == window.index {
        standing.spent.saturating_sub(looked_spent)
    } else {
        standing.spent
    };
    let asked = spent.saturating_add(refused.wrapping_sub(looked_refused));
    books.looked = (window.index, standing.spent, refused);
    books.keep_pace(asked, visit.now, visit.market);
}

/// Tickets for the window that is open now, and what is owed in it.
fn buy(
    books: &mut Books,
    tickets: &Tickets,
    terms: &Terms,
    (window, standing): (&Window, &Standing),
    visit: &Visit<'_>,
) -> Option<What> {
    let (now, market) = (visit.now, visit.market);
    let debt = standing.debt();
    let credit = terms.credit(market.instances);
    // Not for a single request.
    let ahead = if standing.spent > 1 {
        ahead(terms, left(books.page(window.index), terms, window, now), market)
    } else {
        0
    };
    let pressed = visit.waiting > 0
        || standing.held() < books.low_mark(market)
        || (debt > 0 && (debt > credit || u64::from(debt) * 2 >= u64::from(credit)))
        // What comes now and then rides on credit.
        || (standing.held() < low_ahead(ahead) && (standing.held() > 0 || debt > 1));
    if !standing.open {
        // Here a debt waits for nothing; and what was put off in the window before must not ring for ever.
        books.flush_at = Alarm::OFF;
        let changed = tickets.limit_heard() != terms.limit();
        let due = now >= tickets.probe_at() || changed;
        let wanted = visit.waiting > 0 || !visit.timer;
        if standing.held() == 0 && due && wanted {
            let want = if terms.quota.shape().slides() || changed {
                let left = left(books.page(window.index), terms, window, now);
                books.demand(market).clamp(1, most(left, market))
            } else {
                1
            };
            return charge(books, window.index, debt, want, market);
        }
        if debt > 0 {
            return charge(books, window.index, debt, 0, market);
        }
        return None;
    }
    if pressed {
        let left = left(books.page(window.index), terms, window, now);
        let want = books
            .demand(market)
            .saturating_add(visit.waiting)
            .max(ahead.saturating_sub(standing.held()))
            .clamp(1, most(left, market));
        books.flush_at = Alarm::OFF;
        return charge(books, window.index, debt, want, market);
    }
    if debt == 0 {
        books.flush_at = Alarm::OFF;
        return None;
    }
    if books.flush_at.rings(now) {
        books.flush_at = Alarm::OFF;
        return charge(books, window.index, debt, 0, market);
    }
    books.flush_at.set(now.plus(terms.flush_after()));
    None
}

/// What requests wait for, and what is owed; everything else goes back.
fn spare(
    books: &mut Books,
    tickets: &Tickets,
    terms: &Terms,
    (window, standing): (&Window, &Standing),
    visit: &Visit<'_>,
) -> Option<(u32, What)> {
    let (now, market) = (visit.now, visit.market);
    books.flush_at = Alarm::OFF;
    books.prefetch_at = Alarm::OFF;
    let debt = standing.debt();
    let missing = visit.waiting.saturating_sub(standing.held());
    let may_have = standing.open || now >= tickets.probe_at() || tickets.limit_heard() != terms.limit();
    let want = if may_have { missing } else { 0 };
    if want > 0 || debt > 0 {
        return charge(books, window.index, debt, want, market).map(|order| (window.index, order));
    }
    if visit.waiting == 0 && standing.held() > 0 {
        // Who waited for them until now may be about to take them. An alarm that is further away is an older one.
        let soon = books.idle_at.get().is_some_and(|at| at <= now.plus(THRIFTY_IDLE));
        if soon && !books.idle_at.rings(now) {
            return None;
        }
    }
    books.idle_at = Alarm::OFF;
    let held = (visit.waiting == 0).then_some(window.index);
    (held.into_iter())
        .chain([window.index.saturating_add(1)])
        .find_map(|index| hand_back(books, tickets, index, market))
}

/// The order for a window; one to heal the counter first, if it was traded with other data before. None if there is
/// nothing to order.
fn charge(books: &mut Books, window: u32, charge: u32, want: u32, market: &Market) -> Option<What> {
    if charge == 0 && want == 0 {
        return None;
    }
    let page = books.page(window);
    if page.known && page.data != market.data {
        // It counts as healed when the answer is there.
        return Some(What::Heal {
            seen: page.heard.max(page.own),
        });
    }
    Some(What::Take {
        charge,
        want,
        // Where nothing is on this gateway's account, the key may be gone and come back by this order, without an end.
        expire: !page.expires || page.own == 0,
    })
}

/// The order that hands back what is in the hand. What was bought of other data than the store has now is dropped: to
/// hand it back would make a counter that was lost count from below zero.
fn hand_back(books: &mut Books, tickets: &Tickets, window: u32, market: &Market) -> Option<(u32, What)> {
    let page = books.page(window);
    let count = tickets.withdraw(window);
    if count == 0 {
        return None;
    }
    let same_data = page.data == market.data;
    page.own = page.own.saturating_sub(count);
    if same_data {
        page.heard = page.heard.saturating_sub(count);
    }
    // Not spent by anybody: no pace.
    if books.looked.0 == window {
        books.looked.1 = books.looked.1.saturating_add(count);
    }
    same_data.then_some((window, What::Return { count }))
}

/// What is taken whatever the pace is, if so much is left in the store.
fn ahead(terms: &Terms, left: u32, market: &Market) -> u32 {
    if market.term == 0 {
        return 0;
    }
    terms.ahead(left, market.instances)
}

/// With less than this in the hand of what was taken ahead, more is ordered.
fn low_ahead(ahead: u32) -> u32 {
    ahead / 4
}

/// After how long tickets are looked at that may be idle: what lies within what may be taken ahead hurts nobody.
fn idle_after(terms: &Terms, held: u32, ahead: u32) -> u64 {
    // What was ordered was a part of what was left before it.
    if held <= ahead.saturating_add(ahead / 8) {
        terms.review_after()
    } else {
        IDLE
    }
}

/// What one order may take at most of what is left.
fn most(left: u32, market: &Market) -> u32 {
    (left / market.instances.saturating_mul(2).max(1)).max(1)
}

/// What is left in the store, as last heard.
fn left(page: &Page, terms: &Terms, window: &Window, now: Time) -> u32 {
    if page.known {
        room_at(terms, window, page.previous, now).saturating_sub(page.heard)
    } else {
        terms.limit()
    }
}

/// What may be issued in a window by now: the limit, less what the window before still weighs if the limit slides.
fn room_at(terms: &Terms, window: &Window, previous: u32, now: Time) -> u32 {
    let limit = terms.limit();
    if !terms.quota.shape().slides() {
        return limit;
    }
    limit.saturating_sub(still_counts(previous.min(limit), window, now))
}

/// When a sliding window that is closed now has something again: when the window before weighs less than it does now.
fn reopens(terms: &Terms, window: &Window, page: &Page, now: Time) -> Time {
    let limit = terms.limit();
    let previous = u128::from(page.previous.min(limit).max(1));
    // heard + previous · share < limit; the share that allows one more:
    let room = u128::from(limit.saturating_sub(page.heard).saturating_sub(1));
    let length = u128::from(window.length());
    let may_be_left = u64::try_from((room * length / previous).min(length)).unwrap_or(u64::MAX);
    let at = if page.heard < limit {
        window.end.minus(may_be_left)
    } else {
        window.end
    };
    at.max(now.plus(SLIDING_PAUSE)).min(window.end.max(now))
}

/// This gateway's part of what is admitted, in millionths: in the window before, and in this one so far.
///
/// Gateways work it out at different moments, and their parts must add up to about one all the same. So what this one has
/// is set against the whole limit, and not only against what was heard of: else all that came to a new window one
/// after the other would each have been the only one for a moment, and take a whole for its part.
fn share(books: &Books, terms: &Terms, window: u32) -> u32 {
    let before = window.wrapping_sub(1);
    let pages = books.pages.iter().filter(|page| page.known);
    let (own, heard) = pages.fold((0, 0), |(own, heard), page| match page.window {
        at if at == window => (own + u64::from(page.own), heard + u64::from(page.heard)),
        at if at == before => (own + u64::from(page.own), heard),
        _ => (own, heard),
    });
    let all = u64::from(terms.limit().max(1)) + heard;
    u32::try_from((own * 1_000_000 / all).min(1_000_000)).unwrap_or(1_000_000)
}

fn clamp(value: i64) -> u32 {
    u32::try_from(value.max(0)).unwrap_or(u32::MAX)
}
