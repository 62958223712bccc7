//! What is going on, on standard error.

use std::time::Instant;

/// Lines with the time since the start.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
}

impl Progress {
    /// The clock starts now.
    pub fn new() -> Progress {
        Progress {
            started: Instant::now(),
        }
    }

    /// Something began or happened.
    pub fn say(&self, text: &str) {
        eprintln!("[{:7.1} s] {text}", self.started.elapsed().as_secs_f64());
    }
}

impl Default for Progress {
    fn default() -> Self {
        Progress::new()
    }
}
