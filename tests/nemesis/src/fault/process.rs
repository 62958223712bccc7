//! Processes that end or stand still.

use super::{Done, Ground, NOTICED_MAX};
use crate::arena::{At, Server};
use crate::plan::{NODES, REGIONS, Target};
use anyhow::{Context, Result};
use rustix::process::Signal;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// A pause from this many tenths of an election time-out on makes another leader.
const ELECTS_TENTHS: u32 = 20;

/// kill -9, and a start after a while. Of a leader: how long its tablets were not served.
pub(super) async fn kill(ground: &Ground<'_>, target: Target, down: Duration) -> Result<Done> {
    let at = ground.watch.who(target)?;
    let mut server = ground.arena.lock(at).await;
    let before = ground.watch.leaders(at.region);
    let from = ground.seen.now();
    let old = server.process.pid().context("it runs")?;
    server.process.kill()?;
    let gone = !alive(old);
    sleep(down).await;
    let led = before.values().any(|l| l.node == at.node);
    let moved = if led {
        // Before the node comes back, so that it is not simply elected again, and that the whole gap is measured.
        let moved = ground.watch.successor(at, &before, NOTICED_MAX).await;
        served_again(ground, at.region).await;
        moved
    } else {
        None
    };
    server.process.start()?;
    let ready = ground.arena.wait_ready(at, &mut server).await?;
    let new = server.process.pid().context("it runs again")?;
    let gap = led.then(|| ground.seen.longest_gap(at.region, from, ground.seen.now()));
    let restarted = format!("process {old} gone, {new} ready after {} ms", ready.as_millis());
    let effect = match (gone, led, moved) {
        (true, false, _) => Some(restarted),
        (true, true, Some(moved)) => Some(format!("{restarted}; {moved}")),
        _ => None,
    };
    Ok(Done {
        gap,
        ..Done::to(at, effect)
    })
}

/// SIGSTOP and SIGCONT.
pub(super) async fn pause(ground: &Ground<'_>, target: Target, tenths: u32, stopped: Duration) -> Result<Done> {
    let at = ground.watch.who(target)?;
    let server = ground.arena.lock(at).await;
    let before = ground.watch.leaders(at.region);
    let from = ground.seen.now();
    let pid = server.process.pid().context("it runs")?;
    server.process.signal(Signal::STOP)?;
    let stood = super::noticed(NOTICED_MAX, || (state(pid) == Some('T')).then_some(()))
        .await
        .is_some();
    let began = Instant::now();
    sleep(stopped).await;
    let led = before.values().any(|l| l.node == at.node);
    let elects = led && tenths >= ELECTS_TENTHS;
    // On a busy machine the others may need longer than planned; the pause then lasts until they have elected.
    let patience = if elects { NOTICED_MAX } else { Duration::ZERO };
    let moved = ground.watch.successor(at, &before, patience).await;
    if elects {
        served_again(ground, at.region).await;
    }
    let stood_for = format!("state T for {} ms", began.elapsed().as_millis());
    server.process.signal(Signal::CONT)?;
    drop(server);
    if led && !elects {
        served_again(ground, at.region).await;
    }
    let gap = led.then(|| ground.seen.longest_gap(at.region, from, ground.seen.now()));
    let effect = match (stood, elects, moved) {
        (true, true, Some(moved)) => Some(format!("{stood_for}; {moved}")),
        (true, false, moved) => super::joined([Some(stood_for), moved]),
        _ => None,
    };
    Ok(Done {
        gap,
        ..Done::to(at, effect)
    })
}

/// kill -9 of a whole region. The gap is that of clients who may go to the other region.
pub(super) async fn kill_region(ground: &Ground<'_>, region: usize, down: Duration) -> Result<Done> {
    let mut servers = Vec::new();
    for node in 1..=NODES {
        servers.push((At { region, node }, ground.arena.lock(At { region, node }).await));
    }
    let from = ground.seen.now();
    kill_together(&mut servers)?;
    let other = 1 - region;
    let before = ground.seen.acknowledged_by(other);
    let own = ground.seen.acknowledged_by(region);
    sleep(down).await;
    // The other region must have taken the roaming clients' writes before this one is back.
    let took_over = super::noticed(NOTICED_MAX, || ground.seen.roamed_to(other, from)).await;
    let meanwhile = ground.seen.acknowledged_by(other) - before;
    let own_meanwhile = ground.seen.acknowledged_by(region) - own;
    let (mut pids, mut ready) = (Vec::new(), Duration::ZERO);
    for (_, server) in &mut servers {
        server.process.start()?;
        pids.extend(server.process.pid());
    }
    for (at, server) in &mut servers {
        ready = ready.max(ground.arena.wait_ready(*at, server).await?);
    }
    let effect = took_over.map(|rto| {
        format!(
            "{} acknowledged {meanwhile} writes meanwhile, {own_meanwhile} more answers came of {}; clients moved after {} \
             ms; ready {} ms after its start",
            REGIONS[other],
            REGIONS[region],
            rto.as_millis(),
            ready.as_millis()
        )
    });
    Ok(Done {
        whom: REGIONS[region].to_owned(),
        effect,
        gap: took_over,
    })
}

/// Waits until each tablet of the region has answered from now on: a gap that is still open would be measured too short.
async fn served_again(ground: &Ground<'_>, region: usize) {
    let since = ground.seen.now();
    let answered = || ground.seen.answered_since(region, since).then_some(());
    // Longer than that, and the gap is what it is; the verdict asks for readiness at the end.
    super::noticed(NOTICED_MAX, answered).await;
}

/// Kills every server of the list at one moment, so that none notices the others' end.
pub(super) fn kill_together(servers: &mut [(At, tokio::sync::OwnedMutexGuard<Server>)]) -> Result<()> {
    for (_, server) in servers.iter() {
        server.process.signal(Signal::KILL)?;
    }
    servers.iter_mut().try_for_each(|(_, server)| server.process.kill())
}

/// True while a process of that number exists.
fn alive(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

/// The state of a process as the kernel shows it; `T` = stopped.
fn state(pid: u32) -> Option<char> {
    state_in(&format!("/proc/{pid}/stat"))
}

fn state_in(stat: &str) -> Option<char> {
    let stat = std::fs::read_to_string(stat).ok()?;
    // The name in parentheses may contain anything.
    stat.rsplit_once(") ")?.1.chars().next()
}

/// True if every thread is stopped: one that was in the kernel when it was told to stop gets on until it would leave it.
pub(super) fn stands_still(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let mut states = threads
        .flatten()
        .map(|thread| state_in(&thread.path().join("stat").display().to_string()))
        .peekable();
    states.peek().is_some() && states.all(|state| state == Some('T'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_stands_still_when_all_of_it_does() {
        assert!(!stands_still(std::process::id()) && !stands_still(u32::MAX));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        assert!(!stands_still(child.id()));
        rustix::process::kill_process(pid, Signal::STOP).unwrap();
        let began = Instant::now();
        while !stands_still(child.id()) && began.elapsed() < Duration::from_secs(60) {}
        let stood = stands_still(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(stood);
    }
}
