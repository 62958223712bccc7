//! Wall and monotonic time behind one trait, so that a test owns both.
//!
//! The two are kept apart on purpose: the wall clock may jump in either direction and is only for versions, stamps and
//! what people read; time-outs, leases and rates use the monotonic one.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A source of time. Cheap to call; never blocks for long.
pub trait Clock: Send + Sync + 'static {
    /// Wall time in microseconds since the Unix epoch; negative before 1970. May jump backwards.
    fn now_micros(&self) -> i64;

    /// Time since an arbitrary start. Never decreases, says nothing about the date.
    fn monotonic(&self) -> Duration;

    /// Wall time in whole milliseconds since the Unix epoch; 0 for any time before it.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.now_micros().div_euclid(1_000)).unwrap_or(0)
    }
}

/// The clock as components hold it: chosen at the start of the process (or by the test), shared by all.
pub type SharedClock = Arc<dyn Clock>;

/// The operating system's clocks.
#[derive(Debug, Clone)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    pub fn new() -> SystemClock {
        SystemClock {
            started: Instant::now(),
        }
    }

    /// The same, ready to be handed around.
    pub fn shared() -> SharedClock {
        Arc::new(SystemClock::new())
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now_micros(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
        }
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// A clock that moves only when it is told to. Clones share one time.
#[derive(Debug, Clone)]
pub struct ManualClock {
    time: Arc<Mutex<ManualTime>>,
}

#[derive(Debug)]
struct ManualTime {
    wall_micros: i64,
    monotonic: Duration,
}

impl ManualClock {
    /// A clock whose wall time is `wall_micros` (Unix epoch) and whose monotonic time is zero.
    pub fn new(wall_micros: i64) -> ManualClock {
        ManualClock {
            time: Arc::new(Mutex::new(ManualTime {
                wall_micros,
                monotonic: Duration::ZERO,
            })),
        }
    }

    /// The same clock as a trait object; it keeps following this one.
    pub fn shared(&self) -> SharedClock {
        Arc::new(self.clone())
    }

    /// Time passes: both clocks move forward.
    pub fn advance(&self, by: Duration) {
        let mut time = self.time.lock();
        time.wall_micros = time.wall_micros.saturating_add(micros(by));
        time.monotonic = time.monotonic.saturating_add(by);
    }

    /// Someone sets the wall clock, in either direction. Monotonic time does not notice.
    pub fn set_micros(&self, wall_micros: i64) {
        self.time.lock().wall_micros = wall_micros;
    }

    /// The wall clock jumps back. Monotonic time does not notice.
    pub fn set_back(&self, by: Duration) {
        let mut time = self.time.lock();
        time.wall_micros = time.wall_micros.saturating_sub(micros(by));
    }
}

impl Clock for ManualClock {
    fn now_micros(&self) -> i64 {
        self.time.lock().wall_micros
    }

    fn monotonic(&self) -> Duration {
        self.time.lock().monotonic
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_time_moves_only_when_told() {
        let clock = ManualClock::new(1_700_000_000_000_000);
        let seen = clock.shared();
        assert_eq!(seen.now_micros(), 1_700_000_000_000_000);
        assert_eq!(seen.now_ms(), 1_700_000_000_000);
        clock.advance(Duration::from_millis(1_500));
        assert_eq!(seen.now_ms(), 1_700_000_001_500);
        assert_eq!(seen.monotonic(), Duration::from_millis(1_500));
    }

    #[test]
    fn a_wall_clock_set_back_leaves_monotonic_time_alone() {
        let clock = ManualClock::new(1_700_000_000_000_000);
        clock.advance(Duration::from_secs(10));
        clock.set_back(Duration::from_secs(3_600));
        assert_eq!(clock.now_ms(), 1_700_000_010_000 - 3_600_000);
        assert_eq!(clock.monotonic(), Duration::from_secs(10));
    }

    #[test]
    fn milliseconds_before_the_epoch_are_zero() {
        assert_eq!(ManualClock::new(-1).now_ms(), 0);
        assert_eq!(ManualClock::new(i64::MIN).now_ms(), 0);
        assert_eq!(ManualClock::new(999).now_ms(), 0);
        assert_eq!(ManualClock::new(1_000).now_ms(), 1);
    }

    #[test]
    fn the_system_clock_is_later_than_this_code_and_does_not_run_backwards() {
        let clock = SystemClock::shared();
        assert!(clock.now_ms() > 1_700_000_000_000);
        let first = clock.monotonic();
        assert!(clock.monotonic() >= first);
    }
}
