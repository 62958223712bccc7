//! Doing what the plan says, and looking whether it had an effect.
//!
//! ```text
//! inflict(fault) ─┬─ process   kill, pause, region kill
//!                 ├─ cuts      partitions, one-way cuts, the link between the regions
//!                 ├─ storage   power loss, full disks, failing and slow syncs
//!                 └─ clock     wrong clocks
//! ```
//! Each fault heals what it did before it returns, also when it had no effect. A fault without an effect is not an error
//! here: the verdict counts it against the run. An error means that the rig could not do its work.

mod clock;
mod cuts;
mod process;
mod storage;

use crate::arena::{Arena, At};
use crate::load::Shared;
use crate::plan::Fault;
use crate::watch::Watch;
use anyhow::Result;
use std::time::{Duration, Instant};

/// How long an effect may take to show on a machine ten times slower.
const NOTICED_MAX: Duration = Duration::from_secs(30);

/// What faults are done to, and by whom their effects are seen.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// The servers.
    pub arena: &'a Arena,
    /// What they say of themselves.
    pub watch: &'a Watch,
    /// What clients see.
    pub seen: &'a Shared,
}

/// What came of a fault.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// Who was hit.
    pub whom: String,
    /// What shows that it had an effect; `None` = nothing does.
    pub effect: Option<String>,
    /// The longest time that a prober of the region waited, where that is a measure of the fault.
    pub gap: Option<Duration>,
}

impl Done {
    fn to(at: At, effect: Option<String>) -> Done {
        Done {
            whom: at.to_string(),
            effect,
            gap: None,
        }
    }
}

/// Does one fault, heals it, and says what it did.
pub async fn inflict(ground: &Ground<'_>, fault: &Fault) -> Result<Done> {
    match *fault {
        Fault::Kill { target, down } => process::kill(ground, target, down).await,
        Fault::Pause {
            target,
            tenths,
            stopped,
        } => process::pause(ground, target, tenths, stopped).await,
        Fault::RegionKill { region, down } => process::kill_region(ground, region, down).await,
        Fault::Isolate {
            target,
            everybody,
            lasting,
        } => cuts::isolate(ground, target, everybody, lasting).await,
        Fault::OneWay {
            target,
            incoming,
            lasting,
        } => cuts::one_way(ground, target, incoming, lasting).await,
        Fault::WanCut { way, lasting } => cuts::wan_cut(ground, way, lasting).await,
        Fault::WanStorm {
            loss_per_million,
            delay,
            jitter,
            lasting,
        } => cuts::wan_storm(ground, loss_per_million, delay, jitter, lasting).await,
        Fault::WanNarrow { kilobits, lasting } => cuts::wan_narrow(ground, kilobits, lasting).await,
        Fault::PowerLoss { target, stopped, down } => storage::power_loss(ground, target, stopped, down).await,
        Fault::RegionPowerLoss { region, down } => storage::region_power_loss(ground, region, down).await,
        Fault::DiskFull { target, lasting } => storage::disk_full(ground, target, lasting).await,
        Fault::SyncFails { target, skip } => storage::sync_fails(ground, target, skip).await,
        Fault::SyncSlow {
            target,
            syncs,
            by,
            lasting,
        } => storage::sync_slow(ground, target, syncs, by, lasting).await,
        Fault::Clock {
            target,
            offset_ms,
            lasting,
        } => clock::wrong(ground, target, offset_ms, lasting).await,
    }
}

/// Asks `check` until it says something or `limit` is over.
async fn noticed<T>(limit: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        if let Some(seen) = check() {
            return Some(seen);
        }
        if began.elapsed() >= limit {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Joins what was seen; `None` if nothing was.
fn joined(parts: impl IntoIterator<Item = Option<String>>) -> Option<String> {
    let all: Vec<String> = parts.into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join("; "))
}
