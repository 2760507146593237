//! The successor's end, while the process before it is still leaving.
//!
//! A service manager hears of the end of its own children. The successor is a child of the process before it until that one
//! ends, which with long streams takes minutes: if it crashes meanwhile, it would be the watchdog that notices, and until then
//! clients wait for a service that is not there.

use std::process::Child;

/// Ends this process when its successor has failed, even one that had been followed itself by then, which can not be told
/// from here: then the successor is the service manager's own, which hears of its end
/// and starts the service again. What is still in flight here would be ended by that anyway. Where there is no service
/// manager, what is in flight goes on.
pub(super) fn mind(mut successor: Child) {
    let pid = successor.id();
    let minded = std::thread::Builder::new().name("successor".to_owned()).spawn(move || {
        let Ok(status) = successor.wait() else {
            return;
        };
        if status.success() {
            return;
        }
        log::error!("process {pid}, which serves instead of this one, has ended ({status})");
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            log::error!("this process ends too, so that the service manager starts another one at once");
            std::process::exit(1);
        }
    });
    if let Err(error) = minded {
        log::warn!("nobody notices if process {pid} ends while this one leaves: {error}");
    }
}
