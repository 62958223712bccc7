//! Simulated time: how long the run has lasted for whoever asks, and what a node's clock makes of it.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tidemark_runtime::Clock;

/// Wall time at the start of every run, seconds since 1970. A date that is no round number of anything.
pub const EPOCH_SECONDS: u64 = 1_751_357_733;

/// What was answered last, nanoseconds: outside of hosts there is no other time.
static LAST_NANOS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static SIMULATED: Cell<bool> = const { Cell::new(false) };
    static ASKING: Cell<bool> = const { Cell::new(false) };
    static STEPPING: Cell<bool> = const { Cell::new(false) };
}

/// From now on this thread's operating system tells simulated time.
pub fn simulate_this_thread() {
    SIMULATED.with(|simulated| simulated.set(true));
}

/// True on the thread of the simulation.
pub fn is_simulated() -> bool {
    SIMULATED.try_with(Cell::get).unwrap_or(false)
}

/// Time since the start of the run, as the running host sees it.
pub fn elapsed() -> Duration {
    // Hosts have clocks only while the world steps: one that is being taken down or started measures from another start.
    // And asking for the simulated time may itself ask the operating system for the time.
    if !STEPPING.get() || ASKING.replace(true) {
        return Duration::from_nanos(LAST_NANOS.load(Ordering::Relaxed));
    }
    let elapsed = turmoil::sim_elapsed();
    ASKING.set(false);
    match elapsed {
        Some(elapsed) => {
            LAST_NANOS.store(elapsed.as_nanos() as u64, Ordering::Relaxed);
            elapsed
        }
        None => Duration::from_nanos(LAST_NANOS.load(Ordering::Relaxed)),
    }
}

/// Steps the world; `elapsed` then says how far it has come, which is the time outside of steps.
pub fn step<T>(step: impl FnOnce() -> T, elapsed: impl FnOnce() -> Duration) -> T {
    STEPPING.set(true);
    let stepped = step();
    STEPPING.set(false);
    LAST_NANOS.store(elapsed().as_nanos() as u64, Ordering::Relaxed);
    stepped
}

/// The same in nanoseconds.
pub fn nanos() -> u64 {
    elapsed().as_nanos() as u64
}

/// True wall time in microseconds: what a clock without an offset says.
pub fn wall_micros() -> i64 {
    EPOCH_SECONDS as i64 * 1_000_000 + elapsed().as_micros() as i64
}

/// A node's clock. Clones are one clock.
#[derive(Clone, Debug, Default)]
pub struct SiteClock {
    /// Always, and no fault: what NTP leaves.
    skew_micros: i64,
    offset_micros: Arc<AtomicI64>,
    wrong_answers: Arc<AtomicU64>,
}

impl SiteClock {
    /// One that is always so much ahead (or behind, if negative).
    pub fn skewed(skew_micros: i64) -> SiteClock {
        SiteClock {
            skew_micros,
            ..SiteClock::default()
        }
    }

    /// How often it was asked while it was wrong.
    pub fn wrong_answers(&self) -> u64 {
        self.wrong_answers.load(Ordering::Relaxed)
    }

    /// Sets by how much the wall clock is wrong.
    pub fn set_offset_micros(&self, offset: i64) {
        self.offset_micros.store(offset, Ordering::Relaxed);
    }
}

impl Clock for SiteClock {
    fn now_micros(&self) -> i64 {
        let offset = self.offset_micros.load(Ordering::Relaxed);
        self.wrong_answers.fetch_add(u64::from(offset != 0), Ordering::Relaxed);
        wall_micros() + self.skew_micros + offset
    }

    fn monotonic(&self) -> Duration {
        elapsed()
    }
}
