//! Nodes that lost their disk, all of it or the Raft log alone: refused, and nobody else is worse off.

use anyhow::{Result, ensure};
use std::time::Duration;
use tidemark_client::now_micros;
use tidemark_harness::NodeProcess;
use tidemark_harness::ready::{http_get, wait_for};
use tidemark_integration::load::{Load, ensure_nothing_lost};
use tidemark_integration::scene::{FAMILY, SOON, Scene, alone};
use tidemark_integration::shown;

/// How soon a node that may not run must have ended.
const END: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_is_refused_under_its_old_id_and_harms_nobody() {
    alone(Duration::from_secs(240), async {
        let mut scene = Scene::one(3, "").await?;
        scene.create(&["k1-", "k2-"]).await?;
        let load = Load::start(&scene.table(0), "k", 4, 300);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let node = scene.world.regions[0].node(2)?;
        node.kill()?;
        std::fs::remove_dir_all(node.data_dir())?;
        node.start()?;
        ensure_ends(scene.world.regions[0].node(2)?, "under a new node.id")?;
        healthy(&mut scene, &[1, 3]).await?;
        let notes = load.end().await?;
        ensure_nothing_lost(&notes.acknowledged, shown::cells(&scene.table(0)).await?)?;
        // Also while nobody has replayed its log: with the wiped node there would be a quorum that forgot.
        let east = &mut scene.world.regions[0];
        east.kill_all()?;
        east.node(2)?.start()?;
        east.node(3)?.start()?;
        ensure_ends(east.node(2)?, "under a new node.id")?;
        east.node(1)?.start()?;
        healthy(&mut scene, &[1, 3]).await?;
        ensure_nothing_lost(&notes.acknowledged, shown::cells(&scene.table(0)).await?)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_lost_its_log_is_refused() {
    alone(Duration::from_secs(180), async {
        let mut scene = Scene::one(3, "").await?;
        scene.create(&[]).await?;
        let node = scene.world.regions[0].node(2)?;
        node.kill()?;
        let (log, away) = (node.data_dir().join("log"), node.data_dir().join("away"));
        std::fs::rename(&log, &away)?;
        node.start()?;
        ensure_ends(node, &log.display().to_string())?;
        healthy(&mut scene, &[1, 3]).await?;
        // With its log it is the node that it was.
        let node = scene.world.regions[0].node(2)?;
        std::fs::rename(&away, &log)?;
        node.start()?;
        scene.world.regions[0].wait_ready(SOON).await?;
        healthy(&mut scene, &[1, 2, 3]).await
    })
    .await;
}

/// The node must end by itself, unhappy, and say why.
fn ensure_ends(node: &mut NodeProcess, word: &str) -> Result<()> {
    let status = node.wait_exit(END)?;
    let said = node.log_tail(12);
    ensure!(status.code() == Some(1), "it ended with {status}: {said}");
    ensure!(said.contains(word), "it does not say {word:?}: {said}");
    Ok(())
}

/// These nodes are ready, and writes are taken in all tablets.
async fn healthy(scene: &mut Scene, nodes: &[u64]) -> Result<()> {
    for id in nodes {
        let node = scene.world.regions[0].node(*id)?;
        node.check_alive()?;
        let admin = node.spec().admin.clone();
        wait_for("a node to be ready", SOON, || async {
            let (code, page) = http_get(&admin, "/readyz").await?;
            ensure!(code == 200, "n{id}: {code} {page}");
            Ok(Some(()))
        })
        .await?;
    }
    for row in ["a", "k1-x", "k2-x"] {
        scene.table(0).put(row, FAMILY, "healthy", now_micros(), "v").await?;
    }
    Ok(())
}
