//! Places that a good test run must have reached, counted.
//!
//! A test that never meets a torn tail says nothing about torn tails, however green it is. So the few events that prove that
//! a run went where it should leave a mark, and the run fails when one is missing. A mark is one relaxed addition; in a
//! server nobody reads it, which is cheaper than a second code path for tests.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! marks {
    ($($(#[$doc:meta])* $mark:ident => $name:literal,)*) => {
        /// An event that every large enough batch of test runs must contain.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(usize)]
        pub enum Mark {
            $($(#[$doc])* $mark,)*
        }

        impl Mark {
            /// All marks.
            pub const ALL: &[Mark] = &[$(Mark::$mark,)*];

            /// The name in reports.
            pub fn name(self) -> &'static str {
                match self {
                    $(Mark::$mark => $name,)*
                }
            }
        }
    };
}

marks! {
    /// A follower took a whole snapshot.
    SnapshotInstalled => "snapshot installed",
    /// A leader had proposals under way when it found that it no longer leads.
    LeaderChangedUnderLoad => "leader changed under load",
    /// A remote row mutation had to wait in quarantine.
    QuarantineUsed => "quarantine used",
    /// A node that had been the leader refused what only a leader may do.
    StaleLeaderRefused => "stale leader refused",
    /// A group without anything to do went to rest.
    GroupAtRest => "group at rest",
    /// A log was opened whose last frame was torn, and cut.
    TailTorn => "tail torn",
}

static COUNTS: [AtomicU64; Mark::ALL.len()] = [const { AtomicU64::new(0) }; Mark::ALL.len()];

/// Counts the event.
pub fn mark(mark: Mark) {
    COUNTS[mark as usize].fetch_add(1, Ordering::Relaxed);
}

/// How often it was counted in this process.
pub fn count(mark: Mark) -> u64 {
    COUNTS[mark as usize].load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_counted_each_by_itself() {
        let before = count(Mark::TailTorn);
        let others = count(Mark::QuarantineUsed);
        mark(Mark::TailTorn);
        assert_eq!(count(Mark::TailTorn), before + 1);
        assert_eq!(count(Mark::QuarantineUsed), others);
        for (place, mark) in Mark::ALL.iter().enumerate() {
            assert_eq!((*mark as usize, mark.name().is_empty()), (place, false));
        }
    }
}
