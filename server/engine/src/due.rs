//! Whether a garbage collection can do anything at all. A collection rewrites a whole tablet; on one where nothing has
//! changed since the last that is work for nothing, every interval, for as long as the table exists.
//!
//! ```text
//! due, if since the last collection    a fact was written                    it may supersede, kill, push out
//!                                      the schema is another                 limits, dropped families
//!                                      the first expiry that was left came   R10
//!                                      the cut passed a tombstone that stayed, or the end of an era without a limit   R12
//!      or if the last one made changes: what it deleted still lies in the files until they are rewritten
//! not known (after opening): due
//! ```
//! Everything else that a judge goes by (`reap`) follows from facts, schema, time and cut, so a collection that is not due
//! would drop nothing.

use crate::api::GarbageCut;
use crate::reap::Leftovers;
use std::sync::Arc;
use tidemark_base::{Stamp, TableSchema};

/// What the last collection left, if there was one.
#[derive(Debug, Default)]
pub(crate) struct LastCollection(Option<Collected>);

#[derive(Debug)]
struct Collected {
    facts_written: u64,
    schema: Option<Arc<TableSchema>>,
    stable: Stamp,
    leftovers: Leftovers,
    changed: bool,
}

impl LastCollection {
    /// True if a collection up to this cut may drop something. `facts_written` counts the facts ever committed.
    pub(crate) fn is_due(&self, cut: GarbageCut, schema: Option<&Arc<TableSchema>>, facts_written: u64) -> bool {
        let Some(last) = &self.0 else { return true };
        let passed = |stamp: Stamp| stamp <= cut.stable;
        let expires = |at: i64| at <= cut.now_micros;
        last.changed
            || last.facts_written != facts_written
            || last.schema.as_ref() != schema
            || last.leftovers.first_tombstone.is_some_and(passed)
            || last.leftovers.first_expiry_micros.is_some_and(expires)
            || ends_an_era(last.schema.as_deref(), last.stable, cut.stable)
    }

    /// Notes a collection. `facts_written` as it was before the collection looked at the first fact; `changed` if it
    /// dropped or stripped anything.
    pub(crate) fn note(
        &mut self,
        cut: GarbageCut,
        schema: Option<Arc<TableSchema>>,
        facts_written: u64,
        leftovers: Leftovers,
        changed: bool,
    ) {
        self.0 = Some(Collected {
            facts_written,
            schema,
            stable: cut.stable,
            leftovers,
            changed,
        });
    }

    /// A collection failed half-way: the next one is due.
    pub(crate) fn forget(&mut self) {
        self.0 = None;
    }
}

/// True if a cut that moved so far passed the end of an era without a version limit: only then is known what that era
/// leaves to the next one.
fn ends_an_era(schema: Option<&TableSchema>, from: Stamp, to: Stamp) -> bool {
    let families = schema.map_or(&[][..], |schema| &schema.families);
    families.iter().any(|family| {
        let eras = 0..family.past_limits.len();
        eras.filter(|era| family.era_limit(*era).is_none())
            .any(|era| (from.hlc..to.hlc).contains(&family.era_until(era).saturating_sub(1)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_base::{FamilySettings, RegionId};

    fn stamp(hlc: u64) -> Stamp {
        Stamp {
            epoch: 0,
            hlc,
            region: RegionId(1),
        }
    }

    fn cut(hlc: u64, now_micros: i64) -> GarbageCut {
        GarbageCut {
            stable: stamp(hlc),
            now_micros,
        }
    }

    fn schema() -> Arc<TableSchema> {
        let mut schema = TableSchema::new(RegionId(1));
        schema.families.push(FamilySettings::new("f", 0));
        Arc::new(schema)
    }

    #[test]
    fn only_what_can_drop_something_is_due() {
        let schema = schema();
        let mut last = LastCollection::default();
        assert!(last.is_due(cut(0, 0), Some(&schema), 0), "nothing is known yet");
        let leftovers = Leftovers {
            first_tombstone: Some(stamp(50)),
            first_expiry_micros: Some(900),
        };
        last.note(cut(40, 100), Some(schema.clone()), 7, leftovers, false);
        assert!(!last.is_due(cut(40, 100), Some(&schema), 7));
        assert!(
            !last.is_due(cut(49, 899), Some(&schema), 7),
            "time and cut moved, past nothing"
        );
        assert!(!last.is_due(cut(0, 100), Some(&schema), 7), "a cut that fell back");
        assert!(last.is_due(cut(50, 100), Some(&schema), 7), "the tombstone may go");
        assert!(last.is_due(cut(40, 900), Some(&schema), 7), "a cell expired");
        assert!(last.is_due(cut(40, 100), Some(&schema), 8), "a fact came");
        let mut other = (*schema).clone();
        other.revision += 1;
        assert!(last.is_due(cut(40, 100), Some(&Arc::new(other)), 7), "another schema");
        last.note(cut(40, 100), Some(schema.clone()), 7, Leftovers::default(), true);
        assert!(
            last.is_due(cut(40, 100), Some(&schema), 7),
            "what it deleted is still in files"
        );
        last.note(cut(40, 100), Some(schema.clone()), 7, Leftovers::default(), false);
        last.forget();
        assert!(last.is_due(cut(40, 100), Some(&schema), 7));
    }

    #[test]
    fn the_end_of_an_era_without_a_limit_is_due_once_the_cut_passes_it() {
        let mut limited = (*schema()).clone();
        limited.families[0].set_max_versions(Some(2), 60);
        let limited = Arc::new(limited);
        let mut last = LastCollection::default();
        last.note(cut(40, 0), Some(limited.clone()), 0, Leftovers::default(), false);
        assert!(!last.is_due(cut(59, 0), Some(&limited), 0));
        assert!(last.is_due(cut(60, 0), Some(&limited), 0));
        last.note(cut(60, 0), Some(limited.clone()), 0, Leftovers::default(), false);
        assert!(!last.is_due(cut(99, 0), Some(&limited), 0));
    }
}
