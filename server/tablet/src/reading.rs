//! Walks over a tablet's cells. Reads that ask for the newest cells of rows are answered from rows that are kept ready, where
//! they are; reading such a row makes it one.

use tidemark_base::{CellRef, FamilyId, ReadSpec};
use tidemark_engine::kept::{single_row, wants_all_newest, wants_newest};
use tidemark_engine::{EachCell, Engine, EngineError, RowParts};

/// How a walk over a tablet's cells ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadEnd {
    /// All cells were seen.
    All,
    /// Whoever looked at them had enough.
    Stopped,
    /// The rest is on disk. What was seen is true; begin anew where waiting is allowed.
    NotInMemory,
}

/// What a walk goes by.
pub(crate) struct Reader<'a> {
    pub(crate) engine: &'a dyn Engine,
    /// Decides expiry.
    pub(crate) now_micros: i64,
    /// The thread must not wait for a disk.
    pub(crate) in_memory: bool,
}

impl Reader<'_> {
    /// All cells that the spec lets through.
    pub(crate) fn walk(&self, spec: &ReadSpec, each: EachCell<'_>) -> Result<ReadEnd, EngineError> {
        let mut cursor = match self.in_memory {
            true => self.engine.read_in_memory(spec, self.now_micros)?,
            false => self.engine.read(spec, self.now_micros)?,
        };
        while cursor.advance()? {
            if !each(&cursor.cell(), cursor.visited_bytes()) {
                return Ok(ReadEnd::Stopped);
            }
        }
        Ok(ReadEnd::All)
    }

    /// The same for a spec that asks for newest cells. Each row is of a moment of its own, none before the call.
    pub(crate) fn newest(&self, spec: &ReadSpec, each: EachCell<'_>) -> Result<ReadEnd, EngineError> {
        let all = wants_all_newest(&spec.filter);
        let families = sorted_families(spec);
        let mut before = 0;
        for range in &spec.ranges {
            let Some(row) = single_row(range) else { continue };
            let asked = RowParts {
                row,
                families: families.as_deref(),
                now_micros: self.now_micros,
            };
            let (mut more, mut visited) = (true, 0);
            let mut give = |cell: &CellRef<'_>, of_row: u64| {
                visited = of_row;
                more = !wants_newest(&spec.filter, cell) || each(cell, before + of_row);
                more
            };
            let kept = self.engine.newest(&asked, &mut give);
            if !kept && all {
                self.engine.read_newest(&asked, self.in_memory, &mut give)?;
            } else if !kept {
                // Not a whole family for a part of it: it may be a wide one.
                let one = ReadSpec {
                    ranges: vec![range.clone()],
                    ..spec.clone()
                };
                more = self.walk(&one, &mut give)? == ReadEnd::All;
            }
            if !more {
                return Ok(ReadEnd::Stopped);
            }
            before += visited;
        }
        Ok(ReadEnd::All)
    }

    /// The same from what is kept alone; false, and what was given is incomplete, where that is not all.
    pub(crate) fn kept(&self, spec: &ReadSpec, each: EachCell<'_>) -> bool {
        let families = sorted_families(spec);
        let mut rows = spec.ranges.iter().filter_map(single_row);
        rows.all(|row| {
            let asked = RowParts {
                row,
                families: families.as_deref(),
                now_micros: self.now_micros,
            };
            let mut more = true;
            let kept = self.engine.newest(&asked, &mut |cell, visited| {
                more = !wants_newest(&spec.filter, cell) || each(cell, visited);
                more
            });
            kept && more
        })
    }
}

fn sorted_families(spec: &ReadSpec) -> Option<Vec<FamilyId>> {
    let mut families = spec.filter.families.clone()?;
    families.sort_unstable();
    families.dedup();
    Some(families)
}
