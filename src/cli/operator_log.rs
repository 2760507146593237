//! The operator log, on standard error.

use log::{Level, Log, Metadata, Record};

/// Writes what `TOLLGATE_LOG` asks for, but for one thing: what other crates say below `info` is not written whatever
/// it says. The engine's debug messages contain whole request and answer heads, cookies and credentials and all.
struct OperatorLog(env_logger::Logger);

/// Starts it; `default_filter` holds when `TOLLGATE_LOG` is not set.
pub fn start(default_filter: &str) {
    let logger = env_logger::Builder::from_env(env_logger::Env::default().filter_or("TOLLGATE_LOG", default_filter))
        .format_timestamp_millis()
        .build();
    log::set_max_level(logger.filter());
    // Only fails when there is a logger already, and then that one goes on.
    let _ = log::set_boxed_logger(Box::new(OperatorLog(logger)));
}

impl Log for OperatorLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_discreet(metadata) && self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if is_discreet(record.metadata()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

fn is_discreet(metadata: &Metadata<'_>) -> bool {
    metadata.level() <= Level::Info || metadata.target().starts_with("tollgate")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_crates_are_not_heard_below_info() {
        let heard = |target: &str, level| is_discreet(&Metadata::builder().target(target).level(level).build());
        assert!(heard("tollgate::gateway", Level::Debug));
        assert!(heard("pingora_proxy", Level::Info));
        assert!(!heard("pingora_proxy::proxy_h1", Level::Debug));
        assert!(!heard("pingora_core", Level::Trace));
    }
}
