//! Nothing is applied that is not committed.

use super::{Invariant, Replica};
use anyhow::{Result, ensure};

pub(super) struct AppliedCommitted;

impl Invariant for AppliedCommitted {
    fn name(&self) -> &'static str {
        "applied <= committed"
    }

    fn look(&mut self, replicas: &[Replica]) -> Result<u64> {
        let mut compared = 0;
        for replica in replicas {
            let status = &replica.status;
            let Some(applied) = status.applied_index else { continue };
            ensure!(
                status.committed_index.is_some_and(|committed| applied <= committed),
                "{} {}: applied {applied}, committed {:?}",
                replica.site.name,
                status.group,
                status.committed_index
            );
            compared += 1;
        }
        Ok(compared)
    }
}
