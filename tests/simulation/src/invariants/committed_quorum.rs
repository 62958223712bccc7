//! What was committed once stays on a quorum, and stays the same: replicas that are up and lack it, or hold another entry
//! in its place, are a minority. Also after crashes, for which the logs are read back from what was durable.

use super::{Invariant, Place, Replica};
use crate::site::NODES;
use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use tidemark_consensus::LogPosition;

#[derive(Default)]
pub(super) struct CommittedQuorum {
    /// The greatest committed position of each group.
    committed: BTreeMap<Place, LogPosition>,
}

impl Invariant for CommittedQuorum {
    fn name(&self) -> &'static str {
        "committed on a quorum"
    }

    fn look(&mut self, replicas: &[Replica]) -> Result<u64> {
        for replica in replicas {
            let status = &replica.status;
            let Some(index) = status.committed_index else { continue };
            let Some(position) = replica.log.position(status.group, index) else {
                continue;
            };
            let known = self.committed.entry(replica.place()).or_insert(position);
            ensure!(
                index != known.index || position == *known,
                "{} {}: {position:?} is committed, and so was {known:?}",
                replica.site.name,
                status.group
            );
            if index > known.index {
                *known = position;
            }
        }
        let mut compared = 0;
        for (place, position) in &self.committed {
            let here = replicas.iter().filter(|replica| replica.place() == *place);
            let mut lacking = Vec::new();
            for replica in here {
                if !replica.holds(position) {
                    lacking.push(replica.site.name.clone());
                }
                compared += 1;
            }
            ensure!(
                lacking.len() as u64 <= NODES / 2,
                "{} of region {}: entry {position:?} is committed, and {lacking:?} lack it",
                place.1,
                place.0
            );
        }
        Ok(compared)
    }
}
