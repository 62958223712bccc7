//! Coming back: a follower behind a purged log, and a region whose nodes were all killed.

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tidemark_client::{ScanRequest, now_micros};
use tidemark_harness::ready::{http_get, wait_for};
use tidemark_integration::load::{Load, ensure_nothing_lost};
use tidemark_integration::scene::{FAMILY, SOON, Scene, TABLE, alone};
use tidemark_integration::shown;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_killed_lose_nothing_acknowledged() {
    alone(Duration::from_secs(180), async {
        let mut scene = Scene::one(3, "").await?;
        scene.create(&["k1-", "k2-"]).await?;
        let load = Load::start(&scene.table(0), "k", 4, 300);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let east = &mut scene.world.regions[0];
        east.kill_all()?;
        east.start_all()?;
        east.wait_ready(SOON).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let notes = load.end().await?;
        ensure_nothing_lost(&notes.acknowledged, shown::cells(&scene.table(0)).await?)?;
        // And once more, with nothing under way.
        let before = scene.table(0).digest(Vec::new(), Some(now_micros())).await?;
        let east = &mut scene.world.regions[0];
        east.kill_all()?;
        east.start_all()?;
        east.wait_ready(SOON).await?;
        let after = scene.table(0).digest(Vec::new(), Some(now_micros())).await?;
        ensure!(
            before == after,
            "a restart changed what is shown: {before:?}, {after:?}"
        );
        Ok(())
    })
    .await;
}

/// Small log segments and memtables, so that a few seconds of writes purge the log.
const SMALL: &str = "[storage]\nlog_segment = \"1MiB\"\nmemtables = \"8MiB\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_behind_a_purged_log_catches_up_by_snapshot() {
    alone(Duration::from_secs(240), async {
        let mut scene = Scene::one(3, SMALL).await?;
        scene.create(&[]).await?;
        scene.table(0).put("a-row", FAMILY, "q", now_micros(), "before").await?;
        let leader = scene.leader_of(0, b"k").await?;
        let follower = leader % 3 + 1;
        let known = position(&scene, follower, "last").await?;
        scene.world.regions[0].node(follower)?.kill()?;
        let load = Load::start(&scene.table(0), "k", 8, 16 << 10);
        // From here on the leader does not have what the follower needs next: only a snapshot can help it.
        let purged = wait_for("the leader to purge its log", Duration::from_secs(90), || async {
            let purged = position(&scene, leader, "purged").await?;
            ensure!(
                purged > known + 1_000,
                "purged up to {purged}, the follower has {known}"
            );
            Ok(Some(purged))
        })
        .await?;
        let notes = load.end().await?;
        let east = &mut scene.world.regions[0];
        east.node(follower)?.start()?;
        east.wait_ready(SOON).await?;
        let end = position(&scene, leader, "applied").await?;
        wait_for("the follower to catch up", SOON, || async {
            let applied = position(&scene, follower, "applied").await?;
            ensure!(
                applied >= end,
                "applied {applied} of {end}, the leader had purged {purged}"
            );
            Ok(Some(()))
        })
        .await?;
        // With the follower and one other node, and without the leader, nothing is missing.
        scene.world.regions[0].node(leader)?.kill()?;
        ensure!(scene.table(0).count(ScanRequest::prefix("a-")).await?.rows == 1);
        ensure_nothing_lost(&notes.acknowledged, shown::cells(&scene.table(0)).await?)
    })
    .await;
}

/// A position in the Raft log of the test's tablet, from the status page of a node; 0 = none yet.
async fn position(scene: &Scene, node: u64, name: &str) -> Result<u64> {
    let spec = scene.world.regions[0].nodes[usize::try_from(node)? - 1].spec();
    let (_, page) = http_get(&spec.admin, "/status").await?;
    let page: serde_json::Value = serde_json::from_str(&page)?;
    let tablets = page["tablets"].as_array().context("the status page lists tablets")?;
    let tablet = tablets
        .iter()
        .find(|t| t["table"] == TABLE)
        .context("the tablet is not on this node")?;
    Ok(tablet[name].as_u64().unwrap_or(0))
}
