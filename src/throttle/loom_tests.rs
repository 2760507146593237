//! Counters under every order of steps that two or three threads can take (`make loom`).

use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;

use super::atomic::AtomicU64;
use super::counter::{self, Quota};
use super::lease::tickets::{self, Tickets};
use super::lease::tokens::{self, Tokens};
use super::lease::{Conditions, Outcome, Patience};
use super::terms::{Defaults, LIFE, Terms};
use super::window::Time;
use crate::redis::Health;
use crate::revision::{Sharing, WindowKind, WithoutStore};
use crate::units::Ratio;

/// A whole minute, and a whole second of even number.
const NOON: Time = Time::from_unix_seconds(1_795_239_720);

const UP: Conditions = Conditions {
    instances: 1,
    health: Health::Up,
    patience: Patience::None,
};

fn terms(rate: &str, window: WindowKind, overrun: u8) -> Terms {
    let sharing = Sharing {
        max_overrun: Some(Ratio::percent(overrun)),
        on_store_down: Some(WithoutStore::Deny),
        on_timeout: Some(WithoutStore::Deny),
    };
    let quota = Quota::new(rate.parse().unwrap(), window);
    Terms::new([0; 8], quota, sharing, &Defaults::default())
}

fn index(terms: &Terms, now: Time) -> u32 {
    terms.quota.shape().window_of(now).index
}

fn tickets_came(granted: u32, left: u32) -> tickets::News {
    tickets::News {
        granted,
        left,
        limit: 10,
        probe_at: NOON,
        low: 0,
        share: 0,
    }
}

fn tokens_came(charged: u32, granted: u32, closed_until: Time) -> tokens::News {
    tokens::News {
        charged,
        granted,
        good_until: NOON.plus(LIFE),
        kept: false,
        left: 0,
        closed_until,
        low: 0,
        share: 0,
        interval: 1,
    }
}

/// What a request does: how much of it was counted.
fn take(tickets: &Tickets, terms: &Terms, cost: u32, now: Time) -> u32 {
    let spent = tickets.spend(&terms.quota, cost, now).is_some()
        || matches!(tickets.beyond(terms, cost, now, UP, false).0, Outcome::Spent(_));
    if spent { cost } else { 0 }
}

fn take_token(tokens: &Tokens, terms: &Terms, now: Time) -> u32 {
    let spent = tokens.spend(&terms.quota, 1, now).is_some()
        || matches!(tokens.beyond(terms, 1, now, UP, false).0, Outcome::Spent(_));
    u32::from(spent)
}

/// All orders, up to two preemptions: more of them have found nothing new here, and take minutes.
fn model(story: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(story);
}

#[test]
fn no_ticket_is_spent_twice_or_spent_and_handed_back() {
    model(|| {
        let terms = Arc::new(terms("10/m", WindowKind::Fixed, 0));
        let tickets = Arc::new(Tickets::default());
        let window = index(&terms, NOON);
        tickets.enter(window, &tickets_came(3, 7));
        let spenders = [(); 2].map(|()| {
            let (tickets, terms) = (Arc::clone(&tickets), Arc::clone(&terms));
            thread::spawn(move || take(&tickets, &terms, 2, NOON))
        });
        let handed_back = tickets.withdraw(window);
        let spent: u32 = spenders.map(|spender| spender.join().unwrap()).iter().sum();
        let standing = tickets.standing(window);
        assert_eq!(standing.spent, spent + handed_back);
        assert!(standing.spent <= 3);
        assert_eq!(tickets.withdraw(window), 3 - standing.spent);
    });
}

#[test]
fn whoever_sees_the_tickets_of_the_last_answer_sees_that_it_was_the_last() {
    model(|| {
        let terms = Arc::new(terms("10/m", WindowKind::Fixed, 10));
        assert_eq!(terms.credit(1), 1);
        let tickets = Arc::new(Tickets::default());
        let window = index(&terms, NOON);
        // On credit; the exchange charges it, gets one ticket more, and hears that this was the last.
        assert_eq!(take(&tickets, &terms, 1, NOON), 1);
        let charge = tickets.standing(window).debt();
        let spenders = [(); 2].map(|()| {
            let (tickets, terms) = (Arc::clone(&tickets), Arc::clone(&terms));
            thread::spawn(move || take(&tickets, &terms, 1, NOON))
        });
        tickets.enter(window, &tickets_came(charge + 1, 0));
        let spent: u32 = spenders.map(|spender| spender.join().unwrap()).iter().sum();
        assert!(spent <= 1, "the ticket, and no credit on top of it");
        assert_eq!(tickets.standing(window).spent, 1 + spent);
    });
}

#[test]
fn a_window_that_ends_meanwhile_takes_nothing_along() {
    model(|| {
        let terms = Arc::new(terms("10/s", WindowKind::Fixed, 0));
        let tickets = Arc::new(Tickets::default());
        let window = index(&terms, NOON);
        tickets.enter(window, &tickets_came(2, 8));
        let late = {
            let (tickets, terms) = (Arc::clone(&tickets), Arc::clone(&terms));
            thread::spawn(move || take(&tickets, &terms, 1, NOON))
        };
        let after_next = {
            let (tickets, terms) = (Arc::clone(&tickets), Arc::clone(&terms));
            // It shares its words with the window that ends.
            thread::spawn(move || take(&tickets, &terms, 2, NOON.plus(2_000_000_000)))
        };
        tickets.enter(window + 2, &tickets_came(2, 8));
        let (late, after_next) = (late.join().unwrap(), after_next.join().unwrap());
        let standing = tickets.standing(window + 2);
        // The late one counts where it belongs, or in the window that has taken the place: never in both.
        assert!([after_next, after_next + late].contains(&standing.spent));
        assert!(standing.spent <= standing.granted);
        assert_eq!(tickets.standing(window).debt(), 0);
        // An answer that comes too late changes nothing.
        tickets.enter(window, &tickets_came(5, 0));
        assert_eq!(tickets.standing(window + 2), standing);
    });
}

#[test]
fn what_is_given_back_while_others_spend_is_not_lost() {
    model(|| {
        let terms = Arc::new(terms("10/m", WindowKind::Fixed, 0));
        let tickets = Arc::new(Tickets::default());
        let window = index(&terms, NOON);
        tickets.enter(window, &tickets_came(2, 8));
        assert_eq!(take(&tickets, &terms, 1, NOON), 1);
        let spender = {
            let (tickets, terms) = (Arc::clone(&tickets), Arc::clone(&terms));
            thread::spawn(move || take(&tickets, &terms, 1, NOON))
        };
        let giver = {
            let tickets = Arc::clone(&tickets);
            thread::spawn(move || tickets.give_back(1, window))
        };
        let handed_back = tickets.withdraw(window);
        giver.join().unwrap();
        let spent = spender.join().unwrap();
        assert_eq!(spent + handed_back + tickets.withdraw(window), 2);
    });
}

#[test]
fn no_token_is_spent_twice_while_a_new_lot_comes() {
    model(|| {
        let kind = WindowKind::TokenBucket { burst: 10 };
        let terms = Arc::new(terms("10/s", kind, 0));
        let tokens = Arc::new(Tokens::default());
        let _ = tokens.enter(&tokens_came(0, 1, NOON), NOON);
        let spenders = [(); 2].map(|()| {
            let (tokens, terms) = (Arc::clone(&tokens), Arc::clone(&terms));
            thread::spawn(move || take_token(&tokens, &terms, NOON))
        });
        let _ = tokens.enter(&tokens_came(0, 1, NOON), NOON);
        let spent: u32 = spenders.map(|spender| spender.join().unwrap()).iter().sum();
        assert_eq!(spent + tokens.held(NOON), 2);
    });
}

#[test]
fn a_bucket_that_was_just_found_empty_is_owed_what_was_let_in_and_never_less_than_nothing() {
    model(|| {
        let kind = WindowKind::TokenBucket { burst: 10 };
        let terms = Arc::new(terms("10/s", kind, 10));
        assert_eq!(terms.credit(1), 1);
        let tokens = Arc::new(Tokens::default());
        let empty_until = NOON.plus(1_000_000_000);
        let spender = {
            let (tokens, terms) = (Arc::clone(&tokens), Arc::clone(&terms));
            thread::spawn(move || take_token(&tokens, &terms, NOON))
        };
        // Two trades: the first hears that nothing is left, the second charges what is owed by then.
        let first = tokens.owed();
        let _ = tokens.enter(&tokens_came(first, 0, empty_until), NOON);
        let second = tokens.owed();
        let _ = tokens.enter(&tokens_came(second, 0, empty_until), NOON);
        let spent = spender.join().unwrap();
        let owed = tokens.owed();
        assert!(owed <= 1, "{owed}");
        // Whatever was let in is charged or still owed. What was charged for nothing only makes others wait.
        assert!(first + second + owed >= spent);
    });
}

#[test]
fn a_counter_of_one_process_counts_every_request_once() {
    model(|| {
        let quota = Quota::new("3/m".parse().unwrap(), WindowKind::Fixed);
        let word = Arc::new(AtomicU64::new(0));
        let window = quota.shape().window_of(NOON).index;
        assert!(counter::spend(&word, &quota, 3, 1, NOON).is_ok());
        let spender = {
            let word = Arc::clone(&word);
            thread::spawn(move || u32::from(counter::spend(&word, &quota, 3, 2, NOON).is_ok()) * 2)
        };
        let giver = {
            let word = Arc::clone(&word);
            thread::spawn(move || counter::give_back(&word, &quota, 1, window))
        };
        let other = u32::from(counter::spend(&word, &quota, 3, 2, NOON).is_ok()) * 2;
        giver.join().unwrap();
        let spent = spender.join().unwrap() + other;
        assert_eq!(counter::peek(&word, &quota, 3, 0, NOON).unwrap().remaining, 3 - spent);
    });
}
