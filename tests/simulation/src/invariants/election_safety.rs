//! A term of a group has at most one leader, whoever says so.

use super::{Invariant, Place, Replica};
use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use tidemark_base::NodeId;

#[derive(Default)]
pub(super) struct ElectionSafety {
    leaders: BTreeMap<(Place, u64), (NodeId, String)>,
}

impl Invariant for ElectionSafety {
    fn name(&self) -> &'static str {
        "election safety"
    }

    fn look(&mut self, replicas: &[Replica]) -> Result<u64> {
        let mut compared = 0;
        for replica in replicas {
            let status = &replica.status;
            let Some(leader) = status.leader else { continue };
            let key = (replica.place(), status.term);
            let (known, by) = self
                .leaders
                .entry(key)
                .or_insert_with(|| (leader, replica.site.name.clone()));
            ensure!(
                *known == leader,
                "{} of region {} has two leaders in term {}: {known} by the word of {by}, {leader} by that of {}",
                status.group,
                replica.site.region,
                status.term,
                replica.site.name
            );
            compared += 1;
        }
        Ok(compared)
    }
}
