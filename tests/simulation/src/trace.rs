//! A hash over what happened, in order and with its time. Equal hashes: the same run.

use crate::time;
use parking_lot::Mutex;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

/// Collects the run. Clones collect into one.
#[derive(Clone)]
pub struct Trace {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    hash: Xxh3,
    events: u64,
}

impl Trace {
    /// Nothing has happened.
    pub fn new() -> Trace {
        Trace {
            inner: Arc::new(Mutex::new(Inner {
                hash: Xxh3::new(),
                events: 0,
            })),
        }
    }

    /// Something happened now: who, and bytes that tell what.
    pub fn event(&self, who: &str, what: &[u8]) {
        let now = time::nanos();
        let mut inner = self.inner.lock();
        inner.events += 1;
        inner.hash.update(&now.to_le_bytes());
        inner.hash.update(who.as_bytes());
        inner.hash.update(&(what.len() as u64).to_le_bytes());
        inner.hash.update(what);
        if std::env::var_os("TIDEMARK_SIMULATION_TRACE").is_some() {
            let sum = xxhash_rust::xxh3::xxh3_64(what);
            eprintln!("trace {} {now} {who} {} {sum:016x}", inner.events, what.len());
        }
    }

    /// The hash so far, and of how many events.
    pub fn sum(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.hash.digest(), inner.events)
    }
}

impl Default for Trace {
    fn default() -> Trace {
        Trace::new()
    }
}
