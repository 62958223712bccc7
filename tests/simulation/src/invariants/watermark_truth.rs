//! INV-40: what a peer calls complete is there. For every stream that a replica at the peer knows, each fact that the
//! origin's tablet holds of its own making, in the stream's range and at or below `complete`, is held at the peer too, or
//! was collected there as garbage.
//!
//! ```text
//! three regions   east deletes what north has put; west has both, nothing older can come, and forgets both
//!                 north, cut off from east, still shows its put: what makes it garbage is held at east alone
//! ```
//! So what hides a fact is looked for in all regions, now and at the look before, and nothing is said while a tablet is not
//! seen. Not among all that was ever held: a tombstone that went too early would excuse what it did.

use super::{Invariant, Replica};
use anyhow::{Result, anyhow, ensure};
use std::collections::{BTreeMap, BTreeSet};
use tidemark_base::fact::{Fact, OwnedScope};
use tidemark_base::{RowRange, Stamp, TombstoneRef};

#[derive(Default)]
pub(super) struct WatermarkTruth {
    /// What each tablet held at the look before: a replica that lags may be all that is seen of it now.
    before: BTreeMap<(u16, u64), Vec<Fact>>,
    /// Tablets that were seen at a look, at most.
    tablets: usize,
}

impl Invariant for WatermarkTruth {
    fn name(&self) -> &'static str {
        "watermark truth"
    }

    fn every(&self) -> u64 {
        50
    }

    fn look(&mut self, replicas: &[Replica]) -> Result<u64> {
        let mut compared = 0;
        let origins = origins(replicas)?;
        self.tablets = self.tablets.max(origins.len());
        if origins.len() < self.tablets {
            self.before = origins;
            return Ok(0);
        }
        let everywhere: Vec<&Fact> = origins.values().chain(self.before.values()).flatten().collect();
        for replica in replicas {
            let Some(tablet) = &replica.tablet else { continue };
            let state = tablet.replication_state();
            if state.streams.is_empty() {
                continue;
            }
            let held = tablet.engine().facts().map_err(|e| anyhow!("{e}"))?;
            let known: BTreeSet<&Fact> = held.iter().collect();
            for (stream, at) in &state.streams {
                let Some(facts) = origins.get(&(stream.region.0, stream.tablet)) else {
                    continue;
                };
                let range = tablet.descriptor().range.intersect(&at.range);
                for fact in facts {
                    let stamp = stamp(fact);
                    if stamp.region != stream.region || stamp.hlc > at.complete_hlc || !rows(fact).overlaps(&range) {
                        continue;
                    }
                    compared += 1;
                    ensure!(
                        known.contains(fact) || may_be_forgotten(fact, everywhere.iter().copied().chain(&held)),
                        "{} {}: the stream of tablet {} of region {} is complete to {}, and {fact:?} is not there",
                        replica.site.name,
                        tablet.descriptor().tablet,
                        stream.tablet,
                        stream.region.0,
                        at.complete_hlc
                    );
                }
            }
        }
        self.before = origins;
        Ok(compared)
    }
}

/// What each tablet holds at the origin, by region and tablet: of its replicas the one that has applied most. Not the one
/// with most facts: a replica that lags still holds what the others and the peer have collected as garbage since.
fn origins(replicas: &[Replica]) -> Result<BTreeMap<(u16, u64), Vec<Fact>>> {
    let mut origins: BTreeMap<(u16, u64), (Option<u64>, Vec<Fact>)> = BTreeMap::new();
    for replica in replicas {
        let Some(tablet) = &replica.tablet else { continue };
        let key = (replica.site.region as u16 + 1, tablet.descriptor().tablet.0);
        let applied = replica.status.applied_index;
        if origins.get(&key).is_none_or(|(most, _)| applied > *most) {
            let facts = tablet.engine().facts().map_err(|e| anyhow!("{e}"))?;
            origins.insert(key, (applied, facts));
        }
    }
    Ok(origins.into_iter().map(|(key, (_, facts))| (key, facts)).collect())
}

/// Garbage: a tombstone behind the stable cut, or a cell that some fact hides.
fn may_be_forgotten<'a>(fact: &Fact, mut all: impl Iterator<Item = &'a Fact>) -> bool {
    let Fact::Cell {
        row,
        family,
        qualifier,
        version,
        stamp,
        ..
    } = fact
    else {
        return true;
    };
    all.any(|other| match other {
        Fact::Cell {
            row: r,
            family: f,
            qualifier: q,
            version: v,
            stamp: s,
            ..
        } => (r, f, q, v) == (row, family, qualifier, version) && s > stamp,
        Fact::Tombstone {
            row: first,
            scope,
            versions,
            stamp: s,
        } => {
            let tombstone = TombstoneRef {
                row: first,
                scope: scope.borrow(),
                versions: *versions,
                stamp: *s,
            };
            s > stamp && tombstone.covers(row, *family, qualifier, *version)
        }
    })
}

fn stamp(fact: &Fact) -> Stamp {
    match fact {
        Fact::Cell { stamp, .. } | Fact::Tombstone { stamp, .. } => *stamp,
    }
}

fn rows(fact: &Fact) -> RowRange {
    match fact {
        Fact::Tombstone {
            row,
            scope: OwnedScope::RowRange { end },
            ..
        } => RowRange {
            start: row.clone(),
            end: end.clone(),
        },
        Fact::Cell { row, .. } | Fact::Tombstone { row, .. } => RowRange::row(row),
    }
}
