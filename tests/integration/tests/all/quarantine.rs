//! A family that the peer does not know: its rows wait in quarantine, the rest flows, and the quarantine drains by itself
//! when the family exists (R17).

use anyhow::ensure;
use std::time::Duration;
use tidemark_client::{ScanRequest, now_micros};
use tidemark_harness::ready::wait_for;
use tidemark_integration::command::Tidemark;
use tidemark_integration::scene::{FAMILY, SOON, Scene, TABLE, alone};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_family_waits_and_the_rest_flows() {
    alone(Duration::from_secs(180), async {
        let scene = Scene::two(1).await?;
        scene.replicate(&[]).await?;
        let east = Tidemark::new(&scene.world.regions[0].addresses())?;
        let west = Tidemark::new(&scene.world.regions[1].addresses())?;
        east.ok(&["table", "alter", TABLE, "--add-family", "extra"]).await?;
        scene.table(0).put("a", FAMILY, "q", now_micros(), "known").await?;
        scene
            .table(0)
            .put("b", "extra", "q", now_micros(), "unknown at the peer")
            .await?;
        scene.table(0).put("c", FAMILY, "q", now_micros(), "known").await?;
        wait_for("the rows around the unknown one", SOON, || async {
            let known = scene.table(1).count(ScanRequest::all()).await?.rows;
            let waiting = scene.link(1).await?.rows_quarantined;
            Ok((known == 2 && waiting == 1).then_some(()))
        })
        .await?;
        let incoming = scene.link(1).await?;
        ensure!(
            incoming.complete_micros < incoming.applied_micros,
            "there is a hole: {incoming:?}"
        );
        let out = scene.link(0).await?;
        ensure!(
            out.lag_ms > 0,
            "what is in quarantine is not complete at the peer (R17, R23): {out:?}"
        );
        west.ok(&["table", "alter", TABLE, "--add-family", "extra"]).await?;
        wait_for("the quarantine to drain", SOON, || async {
            Ok((scene.link(1).await?.rows_quarantined == 0).then_some(()))
        })
        .await?;
        let digest = scene.wait_equal().await?;
        ensure!(digest.rows == 3, "{digest:?}");
        Ok(())
    })
    .await;
}
