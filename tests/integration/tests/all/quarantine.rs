//! A family that the peer does not know: its rows wait in quarantine, the rest flows, and the quarantine drains by itself
//! when the family exists (R17). What can never drain does not hold the link up: a family that was dropped at the peer, and
//! rows that an operator gives up.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;
use tidemark_client::{RowMutation, ScanRequest, now_micros};
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

/// Waits until the first region's lag is gone: `complete` at the peer has passed everything that was written.
async fn wait_complete(scene: &Scene) -> Result<()> {
    wait_for("the peer to be complete", SOON, || async {
        let (out, incoming) = (scene.link(0).await?, scene.link(1).await?);
        ensure!(
            out.lag_ms == 0 && incoming.rows_quarantined == 0,
            "lag {} ms, {} rows in quarantine",
            out.lag_ms,
            incoming.rows_quarantined
        );
        Ok(Some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_family_dropped_at_the_peer_holds_nothing_up() {
    alone(Duration::from_secs(180), async {
        let scene = Scene::two(1).await?;
        scene.replicate(&[]).await?;
        let east = Tidemark::new(&scene.world.regions[0].addresses())?;
        let west = Tidemark::new(&scene.world.regions[1].addresses())?;
        for region in [&east, &west] {
            region.ok(&["table", "alter", TABLE, "--add-family", "extra"]).await?;
        }
        west.ok(&["table", "alter", TABLE, "--drop-family", "extra"]).await?;
        let now = now_micros();
        // One row of both families, one of the dropped one alone, one of the living one.
        let mixed = RowMutation::new("a")
            .put(FAMILY, "q", now, "lives")
            .put("extra", "q", now, "dead at the peer");
        scene.table(0).mutate_row(mixed).await?;
        scene.table(0).put("b", "extra", "q", now, "dead at the peer").await?;
        scene.table(0).put("c", FAMILY, "q", now, "lives").await?;
        wait_for("the living cells", SOON, || async {
            Ok((scene.table(1).count(ScanRequest::all()).await?.rows == 2).then_some(()))
        })
        .await?;
        wait_complete(&scene).await?;
        // The same name again is another family there: the rows of the old one stay dead, those of the new one come.
        west.ok(&["table", "alter", TABLE, "--add-family", "extra"]).await?;
        east.ok(&["table", "alter", TABLE, "--drop-family", "extra"]).await?;
        east.ok(&["table", "alter", TABLE, "--add-family", "extra"]).await?;
        scene.table(0).put("d", "extra", "q", now_micros(), "new").await?;
        let digest = scene.wait_equal().await?;
        ensure!(digest.cells == 3, "{digest:?}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_what_waits_and_gives_it_up() {
    alone(Duration::from_secs(180), async {
        let scene = Scene::two(1).await?;
        scene.replicate(&[]).await?;
        let east = Tidemark::new(&scene.world.regions[0].addresses())?;
        let west = Tidemark::new(&scene.world.regions[1].addresses())?;
        let peer = scene.world.regions[0].name.clone();
        let list = ["replication", "quarantine", "list", TABLE, "--output", "json"];
        ensure!(entries(&west.ok(&list).await?)?.is_empty(), "nothing waits yet");
        east.ok(&["table", "alter", TABLE, "--add-family", "extra"]).await?;
        for row in ["one", "two"] {
            scene.table(0).put(row, "extra", "q", now_micros(), "waits").await?;
        }
        let waiting = wait_for("both rows to wait", SOON, || async {
            let shown = entries(&west.ok(&list).await?)?;
            let rows: u64 = shown.iter().filter_map(|e| e["rows"].as_u64()).sum();
            Ok((rows == 2).then_some(shown))
        })
        .await?;
        let first = &waiting[0];
        let text = |key: &str| first[key].as_str().unwrap_or_default().to_owned();
        ensure!(text("cause").contains("FAMILY_UNKNOWN"), "{first}");
        ensure!(text("action").contains("--add-family"), "{first}");
        ensure!(first["sample_rows"][0] == "one" && text("peer") == peer, "{first}");
        ensure!(first["age_ms"].as_u64().is_some_and(|age| age < 120_000), "{first}");

        let mut discard = vec!["replication", "quarantine", "discard", TABLE, "--peer", &peer];
        let refused = [&discard[..], &["--all"]].concat();
        west.refused(&refused, 2, &["--accept-loss", "lost"]).await?;
        let stranger = [&discard[..], &["--entry", "1:9:1:1", "--accept-loss"]].concat();
        west.refused(&stranger, 1, &["ENTRY_INVALID"]).await?;
        ensure!(scene.link(1).await?.rows_quarantined == 2, "refusals discard nothing");
        ensure!(scene.link(0).await?.lag_ms > 0, "what waits is missing at the peer");

        // One by name, if the two came as two records; then whatever is left.
        let id = text("id");
        let one = [&discard[..], &["--entry", &id, "--accept-loss", "--output", "json"]].concat();
        let said: Value = serde_json::from_str(&west.ok(&one).await?).context("an answer in JSON")?;
        ensure!(said["entries"] == 1, "{said}");
        discard.extend(["--all", "--accept-loss"]);
        west.ok(&discard).await?;
        ensure!(entries(&west.ok(&list).await?)?.is_empty(), "nothing waits any more");
        wait_complete(&scene).await?;
        // The loss is what was said: the rows never come, the next ones do.
        west.ok(&["table", "alter", TABLE, "--add-family", "extra"]).await?;
        scene.table(0).put("three", "extra", "q", now_micros(), "comes").await?;
        wait_for("the row after them", SOON, || async {
            Ok((scene.table(1).count(ScanRequest::all()).await?.rows == 1).then_some(()))
        })
        .await?;
        Ok(())
    })
    .await;
}

fn entries(json: &str) -> Result<Vec<Value>> {
    serde_json::from_str(json).with_context(|| format!("a list in JSON: {json}"))
}
