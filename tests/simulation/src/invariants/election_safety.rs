//! Elections are safe. Leaders are ordered by (term, node), and a term may see more than one of them; what must hold is that
//! a replica never goes back to an earlier leader, and that a leader holds whatever was committed under earlier ones.

use super::{Invariant, Place, Replica};
use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use tidemark_base::NodeId;
use tidemark_consensus::LogPosition;
use tidemark_tablet::Role;

/// Who leads: ordered.
type LeaderId = (u64, NodeId);

#[derive(Default)]
pub(super) struct ElectionSafety {
    /// Whom each replica followed last, in each life of its process.
    followed: BTreeMap<(String, u64, Place), LeaderId>,
    /// The greatest committed position of each group, and the leader of whoever said so.
    committed: BTreeMap<Place, (LogPosition, LeaderId)>,
}

impl Invariant for ElectionSafety {
    fn name(&self) -> &'static str {
        "election safety"
    }

    fn look(&mut self, replicas: &[Replica]) -> Result<u64> {
        for replica in replicas {
            let status = &replica.status;
            let Some(leader) = status.leader else { continue };
            let id = (status.term, leader);
            let key = (replica.site.name.clone(), replica.site.lives(), replica.place());
            let before = self.followed.insert(key, id);
            ensure!(
                before.is_none_or(|before| before <= id),
                "{} {}: follows {id:?} after {before:?}",
                replica.site.name,
                status.group
            );
            let Some(index) = status.committed_index else { continue };
            let Some(position) = replica.log.position(status.group, index) else {
                continue;
            };
            let known = self.committed.entry(replica.place()).or_insert((position, id));
            if position.index > known.0.index {
                *known = (position, id);
            }
        }
        let mut compared = 0;
        for replica in replicas.iter().filter(|replica| replica.status.role == Role::Leader) {
            let status = &replica.status;
            let Some((position, under)) = self.committed.get(&replica.place()) else {
                continue;
            };
            // One that was deposed and has not heard of it is of no harm: nobody follows.
            if (status.term, status.node) < *under {
                continue;
            }
            ensure!(
                replica.holds(position),
                "{} leads {} of region {} in term {} without entry {position:?}, which is committed",
                replica.site.name,
                status.group,
                replica.site.region,
                status.term
            );
            compared += 1;
        }
        Ok(compared)
    }
}
