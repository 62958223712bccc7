//! L0: everything that a test must be able to take into its own hands, and the plumbing that every task needs.
//!
//! May not know: cells, storage, protocols. What stands here would serve any replicated server.
//!
//! ```text
//! clock     wall and monotonic time, given to whoever needs it; a manual one for tests
//! hlc       hybrid logical clock (R7): stamps that rise although the wall clock may not
//! entropy   the one source of randomness, seedable, so that one seed reproduces a run
//! shutdown  a signal to stop that flows from parents to children
//! tasks     named tasks; a panic is never silent
//! metrics   one registry; families with a bounded number of label sets
//! budget    a semaphore counted in bytes: back-pressure for whatever holds payloads
//! blocking  work that may block: on threads of its own, or, to repeat a run from its seed, in its turn
//! marks     events that a good test run must have met, counted
//! planted   mistakes on purpose, in test builds only, that the tests must find
//! ```
//!
//! This crate is the only place in the server that reads the system's clock or its entropy (kept by the tidy tests).
//! When you add a source of time or randomness, add it here behind a trait or a seed, and nowhere else.

pub mod blocking;
pub mod budget;
pub mod clock;
pub mod entropy;
pub mod hlc;
pub mod marks;
pub mod metrics;
pub mod planted;
pub mod shutdown;
pub mod tasks;

pub use blocking::spawn_blocking;
pub use budget::{ByteBudget, OverCapacity, Permit};
pub use clock::{Clock, ManualClock, SharedClock, SystemClock};
pub use entropy::{Entropy, Randomness, SeededRng};
pub use hlc::{HlcClock, TooFarAhead, hlc_from_ms, hlc_ms};
pub use marks::{Mark, mark};
pub use metrics::{
    BUCKETS_BYTES, BUCKETS_COUNT, BUCKETS_SECONDS, Counter, CounterFamily, Gauge, GaugeFamily, Histogram,
    HistogramFamily, Metrics,
};
pub use shutdown::Shutdown;
pub use tasks::{FatalHook, Tasks};
