//! The trade in tokens of a bucket.

use super::{Alarm, Answer, Books, Exchange, MILLISECOND, Market, Order, SECOND, Visit, What};
use crate::throttle::lease::tokens::{Lots, News, Tokens};
use crate::throttle::terms::{KEPT, LIFE, Terms};
use crate::throttle::window::Time;

/// A timer keeps the lease, so none is set for longer than this.
const AHEAD: u64 = 60 * SECOND;

/// The shortest that an empty bucket is left alone, in nanoseconds.
const PAUSE: u64 = 50 * MILLISECOND;

/// Tokens live for 200 ms, so a lot is bought for half of that.
const TERM: u64 = LIFE / 2;

/// What to ask for. The window is always 0.
pub(super) fn visit(books: &mut Books, tokens: &Tokens, terms: &Terms, visit: &Visit<'_>) -> Option<(u32, What)> {
    let &Visit {
        now,
        market,
        waiting,
        leaving,
        thrifty,
        timer: _,
    } = visit;
    let market = Market {
        term: market.term.min(TERM),
        ..*market
    };
    let asked = tokens.asked();
    books.keep_pace(asked.wrapping_sub(books.looked.1), now, &market);
    books.looked.1 = asked;

    let owed = tokens.owed();
    let lots = match (leaving, thrifty) {
        (true, _) => Lots::All,
        (false, true) => Lots::Kept,
        (false, false) => Lots::Dead,
    };
    while let Some((count, after)) = tokens.withdraw(lots, now) {
        if let Some(what) = restore(terms, count, after.saturating_add(2 * market.round_trip)) {
            return Some((0, what));
        }
    }
    books.idle_at = tokens.dies_at(now).map_or(Alarm::OFF, Alarm::at);
    if leaving {
        return (owed > 0).then_some((0, What::Fill { charge: owed, want: 0 }));
    }
    let closed = now < tokens.closed_until();
    if closed && tokens.heard_of(&terms.quota) {
        // Set anew: a debt that was charged meanwhile has put it off.
        books.reopen_at = if tokens.closed_until().since(now) <= AHEAD {
            Alarm::at(tokens.closed_until())
        } else {
            Alarm::OFF
        };
        return (owed > 0).then_some((0, What::Fill { charge: owed, want: 0 }));
    }
    if thrifty {
        // What is still in the hand dies within 200 ms, and goes back then.
        books.flush_at = Alarm::OFF;
        books.reopen_at = Alarm::OFF;
        return (waiting > 0 || owed > 0).then_some((
            0,
            What::Fill {
                charge: owed,
                want: waiting,
            },
        ));
    }
    let reopened = books.reopen_at.rings(now);
    if reopened {
        books.reopen_at = Alarm::OFF;
    }
    let held = tokens.held(now);
    let credit = terms.bucket_credit(market.instances);
    let ahead = ahead(terms, tokens.left(), tokens.heard_of(&terms.quota), &market);
    let pressed = waiting > 0
        // Empty at another rate than it has now: it may be full.
        || closed
        || held < books.low_mark(&market)
        || (reopened && books.pace >= 1.0 && held == 0)
        || (owed > 0 && u64::from(owed) * 2 >= u64::from(credit))
        // Not for a single request, and what comes now and then rides on credit.
        || (held < low_ahead(ahead) && asked > 1 && (held > 0 || owed > 1));
    if pressed {
        books.flush_at = Alarm::OFF;
        let most = terms.quota.gained_in(market.term) + u64::from(terms.limit());
        let most = (most / (2 * u64::from(market.instances.max(1)))).max(1);
        let want = books
            .demand(&market)
            .saturating_add(waiting)
            .saturating_sub(held)
            .max(ahead)
            .min(u32::try_from(most).unwrap_or(u32::MAX))
            // A request is served out of one lot: what it waits for has to come at once, whatever else is in the hand.
            .max(waiting)
            .max(1);
        return Some((0, What::Fill { charge: owed, want }));
    }
    if owed == 0 {
        books.flush_at = Alarm::OFF;
        return None;
    }
    if books.flush_at.rings(now) {
        books.flush_at = Alarm::OFF;
        return Some((0, What::Fill { charge: owed, want: 0 }));
    }
    books.flush_at.set(now.plus(SECOND));
    None
}

/// Enters an answer.
pub(super) fn settle(
    exchange: &mut Exchange,
    books: &mut Books,
    tokens: &Tokens,
    order: &Order,
    answer: Answer,
    (sent, now): (Time, Time),
    market: &Market,
) {
    let (Answer::Bucket { granted, left }, What::Fill { charge, want }) = (answer, order.what) else {
        return;
    };
    let quota = &order.terms.quota;
    let granted = granted.min(want);
    // A debt is never greater than the whole bucket, so nothing is closed for longer than it takes to fill twice.
    let longest = quota.time_to_gain(quota.whole()).saturating_mul(2).max(PAUSE);
    let closed_until = if granted < want || left < 0 {
        // Until there is a token for each gateway that may be waiting for one.
        let missing = u64::try_from(1_i64.saturating_sub(left)).unwrap_or(1);
        now.plus(
            quota
                .time_to_gain(u32::try_from(missing).unwrap_or(u32::MAX))
                .clamp(PAUSE, longest),
        )
    } else {
        now
    };
    let market = Market {
        term: market.term.min(TERM),
        ..*market
    };
    let got = charge.saturating_add(granted) as f32;
    let past = books
        .earned_at
        .get()
        .map_or(0.0, |then| now.since(then) as f32 / SECOND as f32);
    books.earned = books.earned * (-past).exp() + got;
    books.earned_at = Alarm::at(now);
    // All gateways together get no more than this in a second.
    let all = quota.gained_in(SECOND) + u64::from(order.terms.limit());
    let share = (books.earned / all.max(1) as f32 * 1e6).clamp(0.0, 1e6) as u32;
    let left = u32::try_from(left.max(0)).unwrap_or(u32::MAX);
    // What was on its way for longer than a token lives would be more than two lots.
    let kept = !exchange.thrifty
        && granted > 0
        && granted == want
        && granted == ahead(&order.terms, left, true, &market)
        && now.since(sent) < LIFE;
    let displaced = tokens.enter(
        &News {
            charged: charge,
            granted,
            // From the moment of asking: so whatever the way back took, no token is older than it may be.
            good_until: sent.plus(if kept { KEPT } else { LIFE }),
            kept,
            left,
            closed_until,
            low: books
                .low_mark(&market)
                .max(low_ahead(ahead(&order.terms, left, true, &market))),
            share,
            interval: quota.interval(),
        },
        now,
    );
    if let Some((count, after)) = displaced
        && let Some(what) = restore(&order.terms, count, after.saturating_add(2 * market.round_trip))
    {
        exchange.returns.push_back(Order { what, ..order.clone() });
    }
}

/// The lot that is bought whatever the pace is, to be kept: of a bucket that was at least half full when the store last
/// answered.
fn ahead(terms: &Terms, left: u32, heard: bool, market: &Market) -> u32 {
    if market.term == 0 || !heard || left < terms.limit() / 2 {
        return 0;
    }
    terms.kept(market.instances)
}

/// With less than this of a lot that was kept in the hand, another one is bought.
fn low_ahead(ahead: u32) -> u32 {
    ahead / 4
}

/// The order that hands tokens back, if the bucket has not gained as much since.
fn restore(terms: &Terms, count: u32, after: u64) -> Option<What> {
    (terms.quota.time_to_gain(count) > after).then_some(What::Restore { count, after })
}
