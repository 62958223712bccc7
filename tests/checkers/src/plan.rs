//! What a run had to do, so that a run which did not do it fails.

use crate::history::Nanos;
use serde::{Deserialize, Serialize};

/// A second, in the run's clock.
pub const SECOND: Nanos = 1_000_000_000;

/// The mark that two regions wrote one coordinate at the same time. The history has it, so nobody needs to set it.
pub const CONFLICT_SEEN: &str = "conflict seen";

/// What a run had to do and within which bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// Writes of two regions that lie further apart than this on the run's clock have their stamps in that order: twice the
    /// greatest clock offset that the run makes, and the two milliseconds that a stamp rounds away.
    pub clock_margin: Nanos,
    /// By how much the run puts a clock ahead at most: while some node cannot ask both of its neighbours, such a clock may
    /// stamp, and peers take what it stamped when its time has come, not before (R8).
    pub clock_ahead: Nanos,
    /// Acknowledged writes that the run needs.
    pub writes_min: u64,
    /// Answered reads that the run needs.
    pub reads_min: u64,
    /// Of a hundred operations so many must succeed.
    pub success_percent_min: u64,
    /// Rows that must have been judged for linearizability.
    pub linearizable_rows_min: u64,
    /// Rows whose search may end undecided at its bound.
    pub undecided_rows_max: u64,
    /// Steps of the search for one row.
    pub search_steps_max: u64,
    /// Every fault that was planned, by id.
    pub faults: Vec<String>,
    /// Marks that must have fired.
    pub marks: Vec<String>,
    /// How many final states are needed; 0 = as many as the run has regions.
    pub finals: usize,
    /// True if a link count is needed for each directed link.
    pub links_counted: bool,
    /// After the heal each region serves a read and a write of each of its tables within this.
    pub serve_within: Nanos,
    /// After the heal (and after the clients stop, if that is later) regions are equal within this.
    pub converge_within: Nanos,
    /// From `serve_within` and `clock_ahead` after the heal on no stream is staler than this, milliseconds.
    pub lag_max_ms: u64,
    /// An ERROR line that contains one of these was to be expected of the faults of this run.
    pub errors_allowed: Vec<String>,
    /// What may never stand in a log.
    pub secrets: Vec<String>,
    /// True if there must be logs.
    pub logs_needed: bool,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            clock_margin: 2_000_000,
            clock_ahead: 0,
            writes_min: 1,
            reads_min: 1,
            success_percent_min: 10,
            linearizable_rows_min: 0,
            undecided_rows_max: 0,
            search_steps_max: 2_000_000,
            faults: Vec::new(),
            marks: Vec::new(),
            finals: 0,
            links_counted: false,
            serve_within: 30 * SECOND,
            converge_within: 60 * SECOND,
            lag_max_ms: 30_000,
            errors_allowed: Vec::new(),
            secrets: Vec::new(),
            logs_needed: false,
        }
    }
}
