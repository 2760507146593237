//! What gateways are to forget of kept answers, by way of the control plane: told to it, and followed in its log.
//!
//! Orders of administrators always go this way, and what requests change where gateways share no Redis for their answers.
//! Whenever a gateway can not know what it has missed, it forgets everything: too much now and then, too little never.

mod follower;
mod teller;

use std::time::Duration;

pub use self::follower::Follower;
pub use self::teller::Teller;

/// An answer may take this long, beside what it waits for.
const PATIENCE: Duration = Duration::from_secs(15);

/// After a failure: up to so long, twice that after each further one.
const BACKOFF: Duration = Duration::from_millis(250);
const BACKOFF_MOST: Duration = Duration::from_secs(4);

/// How long to wait after so many failures in a row, at most.
fn backoff(failures: u32) -> Duration {
    (BACKOFF * 2_u32.saturating_pow(failures.min(10))).min(BACKOFF_MOST)
}
