//! A panic costs one request, never the process; it is counted and logged with its place.

use prometheus::IntCounter;

/// Counts panics from now on, and logs where they happened. The message is kept out of clients' sight elsewhere.
pub fn count(counter: &IntCounter) {
    let counter = counter.clone();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        counter.inc();
        let place = info
            .location()
            .map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        log::error!("panic at {place}; this is a bug of tollgate");
        before(info);
    }));
}
