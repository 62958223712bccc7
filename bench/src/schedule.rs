//! When each op is due, and who wakes the workers then.
//!
//! Tokio's timers count milliseconds, which is longer than many an op takes. So a thread of its own waits, to about a
//! tenth of a millisecond, and hands out permits; the op's latency counts from its due time and not from the permit.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Ops that become due within this time are handed out together.
const GRAIN: Duration = Duration::from_micros(50);

/// How much is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Each client sends its next op when the last is answered.
    Max,
    /// So many a second, whether answered or not.
    PerSecond(f64),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        if text == "max" {
            return Ok(Rate::Max);
        }
        match text.replace('_', "").parse::<f64>() {
            Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(Rate::PerSecond(rate)),
            _ => Err(format!("{text:?} is neither a number above 0 nor `max`")),
        }
    }
}

impl serde::Serialize for Rate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Rate::Max => serializer.serialize_str("max"),
            Rate::PerSecond(rate) => serializer.serialize_f64(*rate),
        }
    }
}

/// Due times of ops at an even rate.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    started: Instant,
    per_second: f64,
}

impl Schedule {
    /// Op 0 is due at `started`.
    pub fn new(started: Instant, per_second: f64) -> Schedule {
        Schedule { started, per_second }
    }

    /// When op `n` is due.
    pub fn due_at(&self, n: u64) -> Instant {
        self.started + Duration::from_secs_f64(n as f64 / self.per_second)
    }

    /// How many ops are due at that moment.
    pub fn due_by(&self, now: Instant) -> u64 {
        match now.checked_duration_since(self.started) {
            Some(run) => (run.as_secs_f64() * self.per_second) as u64 + 1,
            None => 0,
        }
    }
}

/// Hands out a permit for each op when it is due. Dropping it ends its thread.
#[derive(Debug)]
pub struct Pacer {
    /// One permit an op that is due; closed when no more come.
    pub permits: Arc<Semaphore>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pacer {
    /// For the first `ops` of a schedule.
    pub fn start(schedule: Schedule, ops: u64) -> std::io::Result<Pacer> {
        let permits = Arc::new(Semaphore::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (given, stopped) = (permits.clone(), stop.clone());
        let pace = move || {
            let mut released = 0;
            while released < ops && !stopped.load(Ordering::Relaxed) {
                let due = schedule.due_by(Instant::now()).min(ops);
                if due > released {
                    given.add_permits((due - released) as usize);
                    released = due;
                }
                let wait = schedule.due_at(released).saturating_duration_since(Instant::now());
                std::thread::park_timeout(wait.max(GRAIN));
            }
        };
        let thread = std::thread::Builder::new().name("pacer".into()).spawn(pace)?;
        Ok(Pacer {
            permits,
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It cannot panic, and if it did nothing is left to be done about it.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ops_are_due_evenly_and_the_first_at_once() {
        let schedule = Schedule::new(Instant::now(), 1_000.0);
        assert_eq!(schedule.due_at(0), schedule.started);
        assert_eq!(schedule.due_at(2_500) - schedule.started, Duration::from_millis(2_500));
        assert_eq!(schedule.due_by(schedule.started), 1);
        assert_eq!(schedule.due_by(schedule.started + Duration::from_micros(9_500)), 10);
        assert_eq!(schedule.due_by(schedule.started - Duration::from_millis(1)), 0);
    }

    #[test]
    fn rates_are_numbers_or_max() {
        assert_eq!("max".parse(), Ok(Rate::Max));
        assert_eq!("1_000".parse(), Ok(Rate::PerSecond(1_000.0)));
        for bad in ["", "0", "-1", "fast", "inf"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pacer_gives_each_op_one_permit_and_ends() {
        let pacer = Pacer::start(Schedule::new(Instant::now(), 1e6), 100).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while pacer.permits.available_permits() < 100 {
            assert!(
                Instant::now() < deadline,
                "{} permits",
                pacer.permits.available_permits()
            );
            std::thread::yield_now();
        }
        let permits = pacer.permits.clone();
        drop(pacer);
        assert_eq!(permits.available_permits(), 100);
    }
}
