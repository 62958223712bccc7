//! Losing a leader: by `kill -9`, and by a graceful stop that hands leadership over first.

use anyhow::{Result, ensure};
use std::time::Duration;
use tidemark_integration::load::{Load, ensure_nothing_lost};
use tidemark_integration::scene::{SOON, Scene, alone};
use tidemark_integration::shown;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_loses_nothing_acknowledged() {
    alone(Duration::from_secs(180), async {
        let mut scene = Scene::one(3, "").await?;
        scene.create(&["k1-"]).await?;
        let load = Load::start(&scene.table(0), "k", 4, 200);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let leader = scene.leader_of(0, b"k0").await?;
        scene.world.regions[0].node(leader)?.kill()?;
        let next = wait_for_another(&scene, leader).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let notes = load.end().await?;
        ensure!(next != leader);
        ensure!(
            notes.gap < Duration::from_secs(10),
            "writes stood still for {:?}",
            notes.gap
        );
        ensure_nothing_lost(&notes.acknowledged, shown::cells(&scene.table(0)).await?)?;
        scene.world.regions[0].node(leader)?.start()?;
        scene.world.regions[0].wait_ready(SOON).await?;
        ensure_nothing_lost(&notes.acknowledged, shown::cells(&scene.table(0)).await?)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_stop_hands_leaders_over() {
    alone(Duration::from_secs(180), async {
        let mut scene = Scene::one(3, "").await?;
        scene.create(&[]).await?;
        let load = Load::start(&scene.table(0), "k", 4, 100);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let leader = scene.leader_of(0, b"k").await?;
        // Fails unless the exit code is 0.
        scene.world.regions[0].node(leader)?.stop(Duration::from_secs(30))?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let notes = load.end().await?;
        ensure!(
            notes.failed.is_empty(),
            "writes failed: {:?}",
            &notes.failed[..notes.failed.len().min(3)]
        );
        // Less than the least election time-out and the noise of two busy cores: nobody waited for an election.
        ensure!(
            notes.gap < Duration::from_millis(1_500),
            "writes stood still for {:?}",
            notes.gap
        );
        ensure_nothing_lost(&notes.acknowledged, shown::cells(&scene.table(0)).await?)
    })
    .await;
}

/// Waits until another node leads the tablet.
async fn wait_for_another(scene: &Scene, leader: u64) -> Result<u64> {
    tidemark_harness::ready::wait_for("another leader", SOON, || async {
        let next = scene.leader_of(0, b"k0").await?;
        Ok((next != leader).then_some(next))
    })
    .await
}
