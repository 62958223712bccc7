//! Disks that lose power, run full, fail or dawdle.

use super::process::{kill_together, stands_still};
use super::{Done, Ground, NOTICED_MAX, noticed};
use crate::arena::{At, Server};
use crate::disk::{Disk, Recovered};
use crate::plan::{NODES, REGIONS, Target};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::time::{Duration, Instant};
use tokio::sync::OwnedMutexGuard;
use tokio::time::sleep;

type Held = (At, OwnedMutexGuard<Server>);

/// How long a process goes on with a disk that is gone.
const ZOMBIE: Duration = Duration::from_millis(300);

/// One node loses power. `stopped`: the process stands still first, so that it never hears of it; otherwise it meets the
/// errors of a disk that went, and must not acknowledge anything on their strength.
pub(super) async fn power_loss(ground: &Ground<'_>, target: Target, stopped: bool, down: Duration) -> Result<Done> {
    let at = ground.watch.who(target)?;
    let mut held = vec![(at, ground.arena.lock(at).await)];
    lose_power(&mut held, stopped).await?;
    sleep(down).await;
    let effect = regain_power(ground, &mut held).await?;
    Ok(Done::to(at, effect))
}

/// A whole region loses power at one moment: what it acknowledged must be on its disks, because it is nowhere else yet.
pub(super) async fn region_power_loss(ground: &Ground<'_>, region: usize, down: Duration) -> Result<Done> {
    let mut held = Vec::new();
    for node in 1..=NODES {
        held.push((At { region, node }, ground.arena.lock(At { region, node }).await));
    }
    lose_power(&mut held, true).await?;
    sleep(down).await;
    let effect = regain_power(ground, &mut held).await?;
    Ok(Done {
        whom: REGIONS[region].to_owned(),
        effect,
        gap: None,
    })
}

/// Every process stands still while its disk goes, in both cases. XFS looks whether it was shut down and then whether the log
/// must be forced; a shutdown between the two looks has dropped what was to be forced, and the sync reports success for what
/// is gone. No power loss does that: a process that loses its power hears of nothing. A process that stands has no sync
/// under way.
async fn lose_power(held: &mut [Held], stopped: bool) -> Result<()> {
    for (_, server) in held.iter() {
        disk(server)?.set_canaries()?;
    }
    for (at, server) in held.iter() {
        let pid = server.process.pid().with_context(|| format!("{at} runs"))?;
        server.process.signal(Signal::STOP)?;
        let stands = noticed(NOTICED_MAX, || stands_still(pid).then_some(())).await;
        ensure!(stands.is_some(), "{at} did not stop within {NOTICED_MAX:?}");
    }
    for (_, server) in held.iter() {
        disk(server)?.lose_power()?;
    }
    if !stopped {
        for (_, server) in held.iter() {
            server.process.signal(Signal::CONT)?;
        }
        sleep(ZOMBIE).await;
    }
    kill_together(held)
}

/// The power is back; every server is ready. Says what shows that it was a power loss.
async fn regain_power(ground: &Ground<'_>, held: &mut [Held]) -> Result<Option<String>> {
    let mut lost = true;
    for (at, server) in held.iter_mut() {
        let Recovered {
            unsynced_gone,
            synced_kept,
        } = disk(server)?.regain_power()?;
        ensure!(
            synced_kept,
            "the disk of {at} lost what was synced: not a fault of the store"
        );
        lost &= unsynced_gone;
        server.process.start()?;
    }
    let mut ready = Duration::ZERO;
    for (at, server) in held.iter_mut() {
        ready = ready.max(ground.arena.wait_ready(*at, server).await?);
    }
    Ok(lost.then(|| {
        format!(
            "{} file system(s) came back without what was not synced; ready {} ms after the start",
            held.len(),
            ready.as_millis()
        )
    }))
}

fn disk(server: &Server) -> Result<&Disk> {
    server
        .disk
        .as_ref()
        .context("this profile gives every node a disk of its own")
}

/// No space is left for a while.
pub(super) async fn disk_full(ground: &Ground<'_>, target: Target, lasting: Duration) -> Result<Done> {
    let at = ground.watch.who(target)?;
    let server = ground.arena.lock(at).await;
    let disk = disk(&server)?;
    let refused = ground.seen.refusals("STORAGE_FULL");
    let began = Instant::now();
    let taken = disk.fill()?;
    let low = noticed(NOTICED_MAX, || {
        let page = ground.watch.page_since(at, began)?;
        (page.disk_low || page.trouble.contains("disk")).then_some(page.trouble)
    })
    .await;
    sleep(lasting).await;
    disk.relieve()?;
    let relieved = Instant::now();
    let back = noticed(NOTICED_MAX, || {
        let page = ground.watch.page_since(at, relieved)?;
        page.trouble.is_empty().then_some(())
    })
    .await;
    let refused = ground.seen.refusals("STORAGE_FULL") - refused;
    let effect = low.zip(back).map(|(trouble, ())| {
        format!(
            "{} MiB taken; it said: {trouble}; {refused} writes refused; well again without a restart",
            taken >> 20
        )
    });
    Ok(Done::to(at, effect))
}

/// A sync fails. The node must not go on as if nothing had been; it is started again, with the power of its disk lost in
/// between if it has a disk of its own, so that whatever it trusted is gone.
pub(super) async fn sync_fails(ground: &Ground<'_>, target: Target, skip: u64) -> Result<Done> {
    let at = ground.watch.who(target)?;
    let mut server = ground.arena.lock(at).await;
    let shim = server.syncs.as_ref().context("this profile preloads the shim")?;
    let old = shim.syncs()?;
    shim.fail(skip, 1)?;
    let failed = || shim.syncs().ok().filter(|now| now.failed > old.failed);
    let hit = noticed(NOTICED_MAX, failed).await;
    let since = Instant::now();
    let said = noticed(NOTICED_MAX, || {
        let page = ground.watch.page_since(at, since)?;
        (!page.trouble.is_empty()).then_some(page.trouble)
    })
    .await;
    shim.calm()?;
    let mut held = vec![(at, server)];
    let lost = if held[0].1.disk.is_some() {
        lose_power(&mut held, true).await?;
        regain_power(ground, &mut held).await?
    } else {
        server = held.pop().context("it was put there")?.1;
        server.process.kill()?;
        server.process.start()?;
        ground.arena.wait_ready(at, &mut server).await?;
        Some("restarted".to_owned())
    };
    let effect = match (hit, said, lost) {
        (Some(now), Some(said), Some(lost)) => Some(format!("sync {} failed; it said: {said}; {lost}", now.calls)),
        _ => None,
    };
    Ok(Done::to(at, effect))
}

/// Syncs take long.
pub(super) async fn sync_slow(
    ground: &Ground<'_>,
    target: Target,
    syncs: u64,
    by: Duration,
    lasting: Duration,
) -> Result<Done> {
    let at = ground.watch.who(target)?;
    let server = ground.arena.lock(at).await;
    let shim = server.syncs.as_ref().context("this profile preloads the shim")?;
    let (old, from) = (shim.syncs()?, ground.seen.now());
    shim.slow(syncs, by)?;
    sleep(lasting).await;
    shim.calm()?;
    let slowed = shim.syncs()?.slowed - old.slowed;
    Ok(Done {
        gap: Some(ground.seen.longest_gap(at.region, from, ground.seen.now())),
        ..Done::to(
            at,
            (slowed > 0).then(|| format!("{slowed} syncs took {} ms longer", by.as_millis())),
        )
    })
}
