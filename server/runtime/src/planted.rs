//! Bugs planted on purpose, so that the tests can prove that they would find the real ones.
//!
//! A checker that has never caught anything proves nothing. Each variant of [`Bug`] is a mistake that a store like this
//! has made somewhere; the product asks [`planted`] at the line where it would be made, and `./x mutants` runs the rig
//! with one of them at a time and fails unless the rig fails.
//!
//! Without the feature `planted-bugs` the question is the constant `false` and the mistake is not even compiled; with it
//! a release build is refused. One build holds them all, and the run chooses: a build for each would compile the
//! workspace once a bug for the same evidence.

/// A mistake that can be planted. The name in the environment is the variant's name in kebab case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// Log entries are reported durable without a sync.
    LogNotSynced = 1,
    /// A vote is reported durable without a sync.
    VoteNotSynced,
    /// The leader answers a write before a quorum has it.
    AckBeforeQuorum,
    /// A read does not confirm that its node still leads.
    ReadNotConfirmed,
    /// Two stamps that differ in their region alone: whichever arrives last wins.
    TieByArrival,
    /// A tombstone goes before the stable cut has passed it (R12).
    TombstoneDroppedEarly,
    /// The cursor of a stream is kept although the facts of the batch were not applied.
    CursorBeforeApply,
    /// A compaction gives a survivor a new stamp (R6).
    CompactionRestamps,
    /// A remote fact does not move the local clock (R7).
    HlcNotMerged,
    /// What came from a peer goes into the feed again (R14).
    OriginShippedBack,
    /// A retried increment is applied again: its token is not looked up.
    IncrementTwice,
    /// A failed sync is tried again and then trusted, although the kernel may have dropped the pages.
    FailedSyncTrusted,
    /// A snapshot is installed without the membership that it carries.
    SnapshotWithoutMembership,
    /// `complete` passes over what stands in quarantine (R17).
    QuarantineNotCounted,
    /// A feed batch may end inside a row mutation (R16, O12).
    RowCutInTheMiddle,
    /// An unfinished record at the log's end is taken for a whole one.
    TornTailTrusted,
    /// A delete that finds nothing yet is forgotten; a put that it overtook comes after it and stays.
    DeleteOvertakesPut,
    /// Two values at one coordinate of one row mutation both get into the log, with one stamp (R5).
    RowNotNormalised,
    /// A paused stream goes on retrying what had failed.
    PausedStreamRetried,
    /// A family that is created again gets the id of the dropped one, and its cells.
    DroppedFamilyReturns,
    /// One record that cannot be read holds up everything behind it (R17).
    QueueStuckOnBadRecord,
    /// After a time-out the whole window goes out again at once.
    RetriesFlood,
    /// What waits in quarantine does not hold the stable cut, so the delete that it needs is gone when it comes out (R12).
    QuarantineNotPinned,
    /// The feed is trimmed by the fastest peer (R13).
    FeedTrimmedByFastest,
}

impl Bug {
    /// All of them, in the order in which `./x mutants` runs them.
    pub const ALL: [Bug; 24] = [
        Bug::LogNotSynced,
        Bug::VoteNotSynced,
        Bug::AckBeforeQuorum,
        Bug::ReadNotConfirmed,
        Bug::TieByArrival,
        Bug::TombstoneDroppedEarly,
        Bug::CursorBeforeApply,
        Bug::CompactionRestamps,
        Bug::HlcNotMerged,
        Bug::OriginShippedBack,
        Bug::IncrementTwice,
        Bug::FailedSyncTrusted,
        Bug::SnapshotWithoutMembership,
        Bug::QuarantineNotCounted,
        Bug::RowCutInTheMiddle,
        Bug::TornTailTrusted,
        Bug::DeleteOvertakesPut,
        Bug::RowNotNormalised,
        Bug::PausedStreamRetried,
        Bug::DroppedFamilyReturns,
        Bug::QueueStuckOnBadRecord,
        Bug::RetriesFlood,
        Bug::QuarantineNotPinned,
        Bug::FeedTrimmedByFastest,
    ];

    /// The name on the command line and in `TIDEMARK_PLANTED_BUG`: `log-not-synced`.
    pub fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_ascii_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }

    /// The bug of that name.
    pub fn parse(name: &str) -> Option<Bug> {
        Bug::ALL.into_iter().find(|bug| bug.name() == name)
    }
}

/// Whether this process runs with that bug.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn planted(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
pub use switch::{planted, select};

#[cfg(feature = "planted-bugs")]
mod switch {
    use super::Bug;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU8, Ordering};

    #[cfg(not(debug_assertions))]
    compile_error!("planted bugs belong to test builds: build without the feature `planted-bugs`");

    /// Where a process that was not told otherwise finds the name of its bug.
    const VARIABLE: &str = "TIDEMARK_PLANTED_BUG";

    static SELECTED: OnceLock<AtomicU8> = OnceLock::new();

    fn selected() -> &'static AtomicU8 {
        SELECTED.get_or_init(|| {
            let bug = std::env::var(VARIABLE)
                .ok()
                .filter(|name| !name.is_empty())
                .map(|name| {
                    // A mutant that silently runs without its bug would count as caught or missed for no reason.
                    Bug::parse(&name).unwrap_or_else(|| panic!("{VARIABLE}: there is no bug named {name:?}"))
                });
            if let Some(bug) = bug {
                tracing::warn!(bug = %bug.name(), "this process runs with a planted bug");
            }
            AtomicU8::new(bug.map_or(0, |bug| bug as u8))
        })
    }

    /// Whether this process runs with that bug.
    pub fn planted(bug: Bug) -> bool {
        selected().load(Ordering::Relaxed) == bug as u8
    }

    /// Chooses the bug of this process; `None` is the product as it is. For a world inside one process.
    pub fn select(bug: Option<Bug>) {
        selected().store(bug.map_or(0, |bug| bug as u8), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_has_a_name_of_its_own() {
        for bug in Bug::ALL {
            assert_eq!(Bug::parse(&bug.name()), Some(bug));
        }
        assert_eq!(Bug::LogNotSynced.name(), "log-not-synced");
        assert_eq!(Bug::parse(""), None);
    }

    #[cfg(not(feature = "planted-bugs"))]
    #[test]
    fn the_product_has_none() {
        const _: () = assert!(!planted(Bug::LogNotSynced));
    }
}
