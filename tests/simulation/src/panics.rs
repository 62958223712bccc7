//! Panics anywhere in the process fail the run, also those that some library swallows.

use std::sync::atomic::{AtomicBool, Ordering};

static ANY: AtomicBool = AtomicBool::new(false);

/// Notes panics from now on, and prints them as before.
pub fn watch() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        ANY.store(true, Ordering::Relaxed);
        before(info);
    }));
}

/// True if there was one.
pub fn any() -> bool {
    ANY.load(Ordering::Relaxed)
}
