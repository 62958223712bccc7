//! The time by which a replica may physically forget expired cells.
//!
//! Conditional writes are evaluated by every replica at the time in their stamp, and a replica that restarts evaluates
//! those behind its flushed cut again. If compaction had meanwhile dropped a cell that was not yet expired at that time, the
//! replica would decide otherwise than its peers did. So compaction does not look at the wall clock but at the **time of
//! the log up to the flushed cut**: nothing that is replayed can carry an earlier one. A wall clock that is behind counts
//! instead, so that a leader's clock that once ran ahead hides nothing from reads that follow the wall.
//!
//! ```text
//! log:   … 12:00:01  12:00:02 | 12:00:03  12:00:07        wall 12:00:08
//!                       flushed cut                        compaction's now = 12:00:02
//! ```

use crate::apply::evaluation_micros;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tidemark_base::Stamp;
use tidemark_runtime::{Clock, SharedClock};

/// The clock that an engine's background compaction is given. Stands at the beginning of time until it is told.
pub struct LogTime {
    wall: SharedClock,
    micros: AtomicI64,
}

impl LogTime {
    /// A log time that never overtakes `wall`.
    pub fn new(wall: SharedClock) -> LogTime {
        LogTime {
            wall,
            micros: AtomicI64::new(i64::MIN),
        }
    }

    /// The log has reached that time up to the flushed cut; microseconds since 1970. It never goes back.
    pub fn advance(&self, micros: i64) {
        self.micros.fetch_max(micros, Ordering::AcqRel);
    }
}

impl Clock for LogTime {
    fn now_micros(&self) -> i64 {
        self.micros.load(Ordering::Acquire).min(self.wall.now_micros())
    }

    fn monotonic(&self) -> Duration {
        self.wall.monotonic()
    }
}

/// The time of a log whose greatest stamp has that hlc, in microseconds.
pub(crate) fn log_micros(hlc_max: u64) -> i64 {
    evaluation_micros(Stamp {
        hlc: hlc_max,
        ..Stamp::MIN
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_runtime::{ManualClock, hlc_from_ms};

    #[test]
    fn it_follows_the_log_but_never_the_future() {
        let wall = ManualClock::new(5_000_000);
        let time = LogTime::new(wall.shared());
        assert_eq!(time.now_micros(), i64::MIN);
        time.advance(log_micros(hlc_from_ms(3_000)));
        assert_eq!(time.now_micros(), 3_000_000);
        time.advance(2_000_000);
        assert_eq!(time.now_micros(), 3_000_000);
        time.advance(9_000_000);
        assert_eq!(time.now_micros(), 5_000_000);
        assert_eq!(log_micros(u64::MAX), (u64::MAX >> 16) as i64 * 1_000);
    }
}
