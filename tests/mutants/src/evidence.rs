//! Which evidence must catch which bug.
//!
//! Each bug has at least one row, and the compiler sees to it. The first row is the cheapest; where a higher layer sees the
//! bug as its users would, that layer has a row of its own. `says` is a part of the failure's own words: a test that fails
//! for another reason has found something else, or nothing.

use tidemark_runtime::planted::Bug;

/// Where evidence stands, from the cheapest to the dearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// One rule or one store by itself: unit and property tests.
    Rules,
    /// Several nodes or regions in one process.
    Groups,
    /// The whole product in one thread, from a seed.
    Simulation,
    /// Real processes on real file systems.
    Servers,
}

impl Layer {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Layer::Rules => "rules",
            Layer::Groups => "groups",
            Layer::Simulation => "simulation",
            Layer::Servers => "servers",
        }
    }
}

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Means {
    /// One test of a package: of its library, or of a file in its `tests`.
    Test {
        /// The package.
        package: &'static str,
        /// The test file's name; `None` is the library.
        target: Option<&'static str>,
        /// The test's whole name.
        name: &'static str,
    },
    /// Seeds of the simulation, one after the other, until one fails.
    Seeds {
        /// The first seed.
        first: u64,
        /// How many at most.
        count: u64,
    },
    /// A run of the nemesis.
    Servers {
        /// Its profile.
        profile: &'static str,
        /// Its seed.
        seed: u64,
        /// Its steps.
        count: u64,
    },
}

/// What must catch a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Where it stands.
    pub layer: Layer,
    /// What is run.
    pub means: Means,
    /// The failure says one of these.
    pub says: &'static [&'static str],
}

impl Means {
    /// For tables: short, and enough to find it.
    pub fn name(&self) -> String {
        match self {
            Means::Test { package, target, name } => {
                let package = package.trim_start_matches("tidemark-");
                match target {
                    Some(target) => format!("{package}/{target} {name}"),
                    None => format!("{package} {name}"),
                }
            }
            Means::Seeds { first, count } => format!("seeds {first} to {}", first + count - 1),
            Means::Servers { profile, seed, count } => format!("{profile}, seed {seed}, {count} steps"),
        }
    }
}

const fn rules(package: &'static str, name: &'static str, says: &'static [&'static str]) -> Evidence {
    let means = Means::Test {
        package,
        target: None,
        name,
    };
    Evidence {
        layer: Layer::Rules,
        means,
        says,
    }
}

const fn file(
    layer: Layer,
    package: &'static str,
    target: &'static str,
    name: &'static str,
    says: &'static [&'static str],
) -> Evidence {
    let means = Means::Test {
        package,
        target: Some(target),
        name,
    };
    Evidence { layer, means, says }
}

/// Seeds of the simulation, of which the first is known to do. The others are for the day on which a change of anything has
/// made another run of it.
const fn seeds(first: u64, says: &'static [&'static str]) -> Evidence {
    let means = Means::Seeds { first, count: SEEDS };
    Evidence {
        layer: Layer::Simulation,
        means,
        says,
    }
}

/// A run of real servers.
const fn servers(profile: &'static str, seed: u64, count: u64, says: &'static [&'static str]) -> Evidence {
    let means = Means::Servers { profile, seed, count };
    Evidence {
        layer: Layer::Servers,
        means,
        says,
    }
}

/// Seeds that are tried until one fails.
const SEEDS: u64 = 8;
const CONSENSUS: &str = "tidemark-consensus";
const ENGINE: &str = "tidemark-engine";
const TABLET: &str = "tidemark-tablet";
const CATALOG: &str = "tidemark-catalog";
const REPLICATION: &str = "tidemark-replication";
// What invariants of the simulation say first.
const STATE: &str = "equal state at equal position";
const WATERMARK: &str = "watermark truth";
const FEED: &str = "stamps rise";
// What the checkers of histories say.
const LINEARIZABLE: &str = "linearizable: ";
const ACKNOWLEDGED: &str = "O6 acknowledged: ";
const COMPLETE: &str = "O7 watermark: ";

/// The evidence against a bug. Exhaustive, so that a bug without evidence does not compile.
pub fn evidence(bug: Bug) -> Vec<Evidence> {
    match bug {
        Bug::LogNotSynced
        | Bug::VoteNotSynced
        | Bug::FailedSyncTrusted
        | Bug::TornTailTrusted
        | Bug::ReadNotConfirmed
        | Bug::AckBeforeQuorum
        | Bug::SnapshotWithoutMembership => of_groups(bug),
        Bug::TieByArrival
        | Bug::TombstoneDroppedEarly
        | Bug::CompactionRestamps
        | Bug::DeleteOvertakesPut
        | Bug::RowNotNormalised
        | Bug::DroppedFamilyReturns
        | Bug::IncrementTwice => of_facts(bug),
        Bug::CursorBeforeApply
        | Bug::HlcNotMerged
        | Bug::OriginShippedBack
        | Bug::QuarantineNotCounted
        | Bug::RowCutInTheMiddle
        | Bug::PausedStreamRetried
        | Bug::QueueStuckOnBadRecord
        | Bug::RetriesFlood
        | Bug::QuarantineNotPinned
        | Bug::FeedTrimmedByFastest => of_streams(bug),
    }
}

/// Log, votes, reads, members.
fn of_groups(bug: Bug) -> Vec<Evidence> {
    match bug {
        Bug::LogNotSynced => vec![
            rules(
                CONSENSUS,
                "log::file_tests::an_entry_is_reported_only_behind_a_sync",
                &["was reported durable without a sync"],
            ),
            seeds(2, &["the Raft log of this node is gone", "committed on a quorum", "O6"]),
            servers("power-loss", 1, 3, &[ACKNOWLEDGED]),
        ],
        Bug::VoteNotSynced => vec![rules(
            CONSENSUS,
            "log::file_tests::a_vote_is_reported_only_behind_a_sync",
            &["was reported durable without a sync"],
        )],
        Bug::FailedSyncTrusted => vec![
            rules(
                CONSENSUS,
                "log::file_tests::a_failed_sync_poisons_the_store_for_ever",
                &["Err(LogError::Poisoned(_))"],
            ),
            seeds(2, &["log damaged", "committed on a quorum", "O6"]),
        ],
        Bug::TornTailTrusted => vec![rules(
            CONSENSUS,
            "log::file_tests::a_write_interrupted_anywhere_is_cut_off",
            &["cut at"],
        )],
        Bug::ReadNotConfirmed => vec![
            file(
                Layer::Groups,
                CONSENSUS,
                "cluster",
                "a_partitioned_old_leader_answers_no_linearizable_read",
                &["unwrap_err"],
            ),
            servers("partition", 1, 4, &[LINEARIZABLE, ACKNOWLEDGED, COMPLETE]),
        ],
        Bug::AckBeforeQuorum => vec![
            file(
                Layer::Groups,
                TABLET,
                "cluster",
                "a_leader_without_a_quorum_acknowledges_no_write",
                &["a write that no quorum has was acknowledged"],
            ),
            seeds(7, &["O6", "linearizable"]),
        ],
        Bug::SnapshotWithoutMembership => vec![file(
            Layer::Groups,
            CONSENSUS,
            "cluster",
            "a_follower_behind_a_purged_log_gets_a_snapshot_with_its_membership",
            &["right: [n1, n2, n3]"],
        )],
        _ => Vec::new(),
    }
}

/// What wins, what is visible, what is forgotten.
fn of_facts(bug: Bug) -> Vec<Evidence> {
    const NEUTRAL: &str = "neutral::schedules_are_neutral_in_memory";
    const SHOWN: &[&str] = &["Test failed: assertion failed: `(left == right)`"];
    match bug {
        Bug::TieByArrival => vec![
            file(
                Layer::Rules,
                ENGINE,
                "conformance",
                "ties::the_greater_region_wins_whichever_comes_first",
                &["written in the order [2, 1]"],
            ),
            seeds(2, &["O5 converged"]),
        ],
        Bug::TombstoneDroppedEarly | Bug::CompactionRestamps => {
            vec![
                file(Layer::Rules, ENGINE, "conformance", NEUTRAL, SHOWN),
                seeds(3, &[STATE, WATERMARK, "O5", "O6", "O8"]),
            ]
        }
        Bug::DeleteOvertakesPut => vec![
            rules(
                TABLET,
                "tests::remote::a_delete_hides_an_older_put_that_comes_behind_it",
                &["a put came back that a newer delete covers"],
            ),
            seeds(12, &[STATE, WATERMARK, "O5"]),
        ],
        Bug::RowNotNormalised => vec![
            rules(
                TABLET,
                "admit::tests::two_values_at_one_coordinate_of_a_row_mutation_become_the_later_one",
                &["one stamp cannot order two values (R5)"],
            ),
            seeds(2, &["two values with one stamp"]),
        ],
        Bug::DroppedFamilyReturns => vec![rules(
            CATALOG,
            "operation::tests::a_dropped_family_comes_back_as_another_one",
            &["a name alone is no family"],
        )],
        Bug::IncrementTwice => vec![
            rules(TABLET, "tests::properties::a_token_counts_once", SHOWN),
            file(
                Layer::Groups,
                TABLET,
                "cluster",
                "conditional_writes_are_decided_once",
                &["each token counts once"],
            ),
            seeds(9, &["O6", "linearizable"]),
        ],
        _ => Vec::new(),
    }
}

/// What crosses between regions, and what is known of it.
fn of_streams(bug: Bug) -> Vec<Evidence> {
    const KEPT: &str = "tests::remote::facts_keep_their_stamps_and_stay_out_of_the_feed";
    match bug {
        Bug::CursorBeforeApply => vec![
            rules(
                TABLET,
                "tests::remote::a_full_quarantine_parks_the_stream",
                &["nothing was taken, so nothing is lost"],
            ),
            seeds(2, &[WATERMARK, "O5", "O6"]),
        ],
        Bug::HlcNotMerged => vec![
            rules(TABLET, KEPT, &["R7"]),
            file(
                Layer::Groups,
                TABLET,
                "cluster",
                "an_idle_tablet_with_peers_closes_and_a_peers_facts_come_in",
                &["a write after a peer's fact beats it (R7)"],
            ),
        ],
        Bug::OriginShippedBack => vec![
            rules(TABLET, KEPT, &["only what originated here (R14)"]),
            file(
                Layer::Groups,
                REPLICATION,
                "all",
                "convergence::three_regions_in_a_mesh_ship_each_write_once_over_each_link",
                &["ships what was written there, once"],
            ),
            seeds(2, &[FEED, "O13"]),
        ],
        Bug::QuarantineNotCounted => vec![
            rules(
                TABLET,
                "tests::remote::unknown_families_wait_whole_and_hold_the_complete_watermark",
                &["what waits is not complete"],
            ),
            seeds(2, &[WATERMARK]),
        ],
        Bug::RowCutInTheMiddle => vec![
            rules(
                TABLET,
                "tests::operations::a_row_mutation_stands_whole_in_one_feed_record",
                &["a record for each batch"],
            ),
            seeds(2, &[FEED, "O12"]),
        ],
        Bug::PausedStreamRetried => vec![rules(
            REPLICATION,
            "stream_core::tests::a_paused_stream_retries_nothing_until_it_is_resumed",
            &["sent again while paused"],
        )],
        Bug::QueueStuckOnBadRecord => vec![file(
            Layer::Groups,
            REPLICATION,
            "all",
            "receiving::a_record_that_cannot_be_read_is_kept_aside_once_and_the_rest_flows",
            &["a record of it cannot be read"],
        )],
        Bug::RetriesFlood => vec![rules(
            REPLICATION,
            "window::tests::after_a_failure_one_message_at_a_time_goes_until_one_succeeds",
            &["take_retry"],
        )],
        Bug::QuarantineNotPinned => vec![rules(
            TABLET,
            "replication_state::tests::the_cut_is_the_least_of_all_that_may_still_arrive",
            &["what waits holds the cut"],
        )],
        Bug::FeedTrimmedByFastest => vec![rules(
            TABLET,
            "tests::operations::the_feed_is_trimmed_by_the_slowest_peer",
            &["the other peer holds everything"],
        )],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_has_evidence_that_says_what_is_wrong() {
        for bug in Bug::ALL {
            let all = evidence(bug);
            assert!(!all.is_empty(), "{}: nothing would catch it", bug.name());
            assert!(
                all.iter().all(|e| !e.says.is_empty()),
                "{}: any failure would do",
                bug.name()
            );
            assert!(all.is_sorted_by_key(|e| e.layer), "{}: the cheapest first", bug.name());
        }
    }
}
