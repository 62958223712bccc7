//! What must hold at every moment, looked at from outside while the run goes on; one file each.
//!
//! The looks happen between two steps of the world, when nobody runs. A node that is down is not seen; what it promised is
//! remembered.

mod applied_committed;
mod committed_quorum;
mod election_safety;
mod stamps_rise;
mod state_hash;
mod watermark_truth;

use crate::site::Site;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_base::GroupId;
use tidemark_consensus::{LogPosition, LogStore};
use tidemark_services::TabletDirectory;
use tidemark_tablet::{GroupStatus, Tablet};

/// A group of a region.
type Place = (usize, GroupId);

/// One replica, as it is now.
pub(crate) struct Replica {
    pub(crate) site: Arc<Site>,
    pub(crate) status: GroupStatus,
    /// None for the catalog.
    pub(crate) tablet: Option<Tablet>,
    pub(crate) log: Arc<dyn LogStore>,
}

impl Replica {
    fn place(&self) -> Place {
        (self.site.region, self.status.group)
    }

    /// True if the entry is in the log here, or in what the log has been purged of, or applied. Purging is asked of the log
    /// itself: a replica that has just started has no status yet.
    fn holds(&self, position: &LogPosition) -> bool {
        let group = self.status.group;
        let purged = self.log.state(group).purged;
        self.log.position(group, position.index) == Some(*position)
            || purged.is_some_and(|purged| purged.index >= position.index)
            || self
                .status
                .applied_index
                .is_some_and(|applied| applied >= position.index)
    }
}

/// Something that must hold.
trait Invariant {
    fn name(&self) -> &'static str;

    /// How often to look: every so many looks.
    fn every(&self) -> u64 {
        1
    }

    /// Looks at all replicas; returns how much was compared, so that a run can be told from one that saw nothing.
    fn look(&mut self, replicas: &[Replica]) -> Result<u64>;
}

/// All of them.
pub struct Invariants {
    sites: Vec<Arc<Site>>,
    all: Vec<Box<dyn Invariant>>,
    counts: BTreeMap<String, u64>,
}

impl Invariants {
    /// Nothing has been seen.
    pub fn new(sites: Vec<Arc<Site>>) -> Invariants {
        Invariants {
            sites,
            all: vec![
                Box::new(election_safety::ElectionSafety::default()),
                Box::new(applied_committed::AppliedCommitted),
                Box::new(committed_quorum::CommittedQuorum::default()),
                Box::new(state_hash::StateHash::default()),
                Box::new(stamps_rise::StampsRise::default()),
                Box::new(watermark_truth::WatermarkTruth::default()),
            ],
            counts: BTreeMap::new(),
        }
    }

    /// The n-th look.
    pub fn look(&mut self, n: u64) -> Result<()> {
        self.look_at(|every| n.is_multiple_of(every))
    }

    /// The last look, at everything.
    pub fn look_at_the_end(&mut self) -> Result<()> {
        self.look_at(|_| true)?;
        let blind: Vec<&str> = self
            .all
            .iter()
            .map(|invariant| invariant.name())
            .filter(|name| self.counts.get(*name).is_none_or(|n| *n == 0))
            .collect();
        anyhow::ensure!(blind.is_empty(), "invariants that had nothing to compare: {blind:?}");
        Ok(())
    }

    /// How much each has compared.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.clone()
    }

    fn look_at(&mut self, due: impl Fn(u64) -> bool) -> Result<()> {
        let replicas = replicas(&self.sites);
        for invariant in &mut self.all {
            if due(invariant.every()) {
                let name = invariant.name();
                let compared = invariant.look(&replicas).with_context(|| name.to_owned())?;
                *self.counts.entry(name.to_owned()).or_default() += compared;
            }
        }
        Ok(())
    }
}

fn replicas(sites: &[Arc<Site>]) -> Vec<Replica> {
    let mut replicas = Vec::new();
    for site in sites {
        let Some(inside) = site.inside() else { continue };
        replicas.push(Replica {
            site: site.clone(),
            status: inside.catalog.group().status(),
            tablet: None,
            log: inside.log.clone(),
        });
        for tablet in inside.tablets.all() {
            replicas.push(Replica {
                site: site.clone(),
                status: tablet.group().status(),
                tablet: Some(tablet),
                log: inside.log.clone(),
            });
        }
    }
    replicas
}
