//! What the read path and garbage collection ask of an ordered store of facts. Two implementations: an iterator of
//! RocksDB and a walk over a map in memory.

use crate::api::EngineError;
use tidemark_base::{FamilyId, Stamp};

/// Entries of the facts space in key order, from one moment.
pub(crate) trait FactSource: Send {
    /// Moves to the first entry at or behind `key`.
    fn seek(&mut self, key: &[u8]);
    /// Moves to the last entry before `key`, which is a row's prefix (never an entry's whole key).
    fn seek_before(&mut self, key: &[u8]);
    /// Moves to the last entry.
    fn seek_last(&mut self);
    /// Moves to the following entry.
    fn next(&mut self);
    /// Key and stored value here; `None` at the end or after an error.
    fn entry(&self) -> Option<(&[u8], &[u8])>;
    /// Why there is no entry, if not because of the end.
    fn status(&self) -> Result<(), EngineError>;
    /// An error that names this store.
    fn corruption(&self, what: String) -> EngineError;
    /// In which form the fact here is kept.
    fn place(&self) -> Place {
        Place::CELL
    }
    /// How many entries from here on are a *run*: cells of one column, newest first, each the only fact of its coordinate, none
    /// dead, and nothing else among them. 0: not known, so look at the entry. The source stays at the run's first entry until it
    /// is told to pass.
    fn run(&mut self) -> usize {
        0
    }
    /// The `n`th cell of the run, from 0: version and stamp; its value is appended to `value`. `None` behind the run.
    fn run_cell(&self, _n: usize, _value: &mut Vec<u8>) -> Option<(i64, Stamp)> {
        None
    }
    /// Moves over the first `n` entries of the run.
    fn pass_run(&mut self, n: usize) {
        (0..n).for_each(|_| self.next());
    }
    /// Moves behind the last entry of the run's column, which may go on behind the run.
    fn pass_column(&mut self) {}
    /// True if the entry, a fact of that family, should be kept in another place of this store by now.
    fn misplaced(&self, _family: FamilyId) -> bool {
        false
    }
}

/// In which form a fact is kept. It may be kept in both: keys and meaning are equal then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// As a record of its own.
    pub(crate) cell: bool,
    /// In a series record.
    pub(crate) series: bool,
}

impl Place {
    /// As a record of its own, alone.
    pub(crate) const CELL: Place = Place {
        cell: true,
        series: false,
    };
    /// In a series record, alone.
    pub(crate) const SERIES: Place = Place {
        cell: false,
        series: true,
    };
}

/// How many entries are stepped over before a seek is cheaper: a step costs about 0.3 µs, a seek some 5 to 10.
const STEPS_MAX: usize = 12;

/// How far skips of one reader had to go lately, and so how far the next one steps before it seeks. One that reads the newest
/// of many versions would step in vain in every column.
#[derive(Debug)]
pub(crate) struct Patience {
    steps: usize,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { steps: STEPS_MAX }
    }
}

/// Moves forward to the first entry at or behind `target`, by steps where it is near.
pub(crate) fn skip_to<S: FactSource>(source: &mut S, target: &[u8], visited: &mut u64, patience: &mut Patience) {
    for _ in 0..patience.steps {
        match source.entry() {
            Some((key, value)) if key < target => *visited += (key.len() + value.len()) as u64,
            _ => {
                patience.steps = STEPS_MAX.min(patience.steps * 2);
                return;
            }
        }
        source.next();
    }
    if source.entry().is_some_and(|(key, _)| key < target) {
        source.seek(target);
        patience.steps = (patience.steps / 2).max(1);
    }
}
