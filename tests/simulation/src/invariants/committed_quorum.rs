//! What was committed once stays on a quorum, with the same term: replicas that are up and lack it, or hold another entry
//! in its place, are a minority. Also after crashes, for which the logs are read back from what was durable.

use super::{Invariant, Place, Replica};
use crate::site::NODES;
use anyhow::{Result, ensure};
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct CommittedQuorum {
    /// The greatest committed position of each group, and its term.
    committed: BTreeMap<Place, (u64, u64)>,
}

impl Invariant for CommittedQuorum {
    fn name(&self) -> &'static str {
        "committed on a quorum"
    }

    fn look(&mut self, replicas: &[Replica]) -> Result<u64> {
        for replica in replicas {
            let status = &replica.status;
            let Some(index) = status.committed_index else { continue };
            let Some(position) = replica.log.position(status.group, index) else { continue };
            let known = self.committed.entry(replica.place()).or_insert((index, position.term));
            if index >= known.0 {
                ensure!(
                    index > known.0 || position.term == known.1,
                    "{} {}: entry {index} is committed in term {} and in term {}",
                    replica.site.name,
                    status.group,
                    known.1,
                    position.term
                );
                *known = (index, position.term);
            }
        }
        let mut compared = 0;
        for (place, (index, term)) in &self.committed {
            let here = replicas.iter().filter(|replica| replica.place() == *place);
            let mut lacking = Vec::new();
            for replica in here {
                let group = replica.status.group;
                // Asked of the log itself: a replica that has just started has no status yet.
                let purged = replica.log.state(group).purged.is_some_and(|purged| purged.index >= *index);
                let applied = replica.status.applied_index.is_some_and(|applied| applied >= *index);
                let position = replica.log.position(group, *index);
                if !(purged || applied || position.is_some_and(|position| position.term == *term)) {
                    lacking.push(replica.site.name.clone());
                }
                compared += 1;
            }
            ensure!(
                lacking.len() as u64 <= NODES / 2,
                "{} of region {}: entry {index} of term {term} is committed, and {lacking:?} lack it",
                place.1,
                place.0
            );
        }
        Ok(compared)
    }
}
