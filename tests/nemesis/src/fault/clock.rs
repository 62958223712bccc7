//! Clocks that jump.

use super::{Done, Ground, NOTICED_MAX};
use crate::arena::At;
use crate::plan::Target;
use anyhow::{Context, Result};
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;
use tokio::time::sleep;

/// What a node logs when its clock is not to be trusted (R8).
const NOTICED: &str = "not stamping writes";

/// The wall clock of a node jumps, stays wrong for a while, and jumps back.
pub(super) async fn wrong(ground: &Ground<'_>, target: Target, offset_ms: i64, lasting: Duration) -> Result<Done> {
    let at = ground.watch.who(target)?;
    let server = ground.arena.lock(at).await;
    let clock = server.clock.as_ref().context("this profile fakes the time")?;
    let log = ground.arena.log_path(at);
    let read_from = std::fs::metadata(&log).map_or(0, |m| m.len());
    let before = ground.watch.leaders(at.region);
    let from = ground.seen.now();
    clock.set(offset_ms)?;
    sleep(lasting).await;
    let noticed = super::noticed(NOTICED_MAX, || since(&log, read_from).contains(NOTICED).then_some(())).await;
    let moved = ground.watch.succeeded(at, &before);
    clock.set(0)?;
    // Trust comes back by itself, or the next fault would find a region with one clock less.
    let mended = super::noticed(NOTICED_MAX, || well(ground, at)).await;
    let gap = ground.seen.longest_gap(at.region, from, ground.seen.now());
    let effect = noticed
        .zip(mended)
        .and_then(|((), ())| super::joined([Some(format!("it gave no stamps while {offset_ms} ms off")), moved]));
    Ok(Done {
        gap: Some(gap),
        ..Done::to(at, effect)
    })
}

fn well(ground: &Ground<'_>, at: At) -> Option<()> {
    ground
        .watch
        .page(at, Duration::from_secs(1))?
        .trouble
        .is_empty()
        .then_some(())
}

/// What a file got since it had that length.
fn since(path: &std::path::Path, from: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(8 << 20).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read()
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}
