//! Bad input gets a clear error, end to end, and nothing is written.

use anyhow::{Context, ensure};
use std::time::Duration;
use tidemark_base::limits::{QUALIFIER_BYTES_MAX, ROW_BYTES_MAX};
use tidemark_client::{ErrorKind, Filter, RowMutation, ScanRequest, now_micros};
use tidemark_integration::command::Tidemark;
use tidemark_integration::scene::{FAMILY, Scene, TABLE, alone};
use tidemark_integration::shown;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_says_what_is_wrong() {
    alone(Duration::from_secs(180), async {
        let scene = Scene::one(1, "").await?;
        scene.create(&[]).await?;
        let tidemark = Tidemark::new(&scene.world.regions[0].addresses())?;
        let long = "k".repeat(ROW_BYTES_MAX + 1);
        let cases: &[(&[&str], i32, &[&str])] = &[
            (&["put", "nowhere", "r", "m:q=v"], 1, &["nowhere", "table list"]),
            (&["scan", "nowhere"], 1, &["nowhere"]),
            (&["put", TABLE, "r", "x:q=v"], 1, &["x", "add-family"]),
            (&["put", TABLE, &long, "m:q=v"], 1, &["4096"]),
            (
                &["put", TABLE, "r", "m:q=v", "--version", "2999-01-01T00:00:00Z"],
                1,
                &["ahead"],
            ),
            (&["put", TABLE, "r", "no-column"], 2, &["no-column"]),
            (
                &["table", "create", "white space", "--family", "m"],
                1,
                &["white space"],
            ),
            (&["table", "create", TABLE, "--family", "m"], 1, &[TABLE, "exist"]),
            (
                &["replication", "enable", TABLE, "--peer", "south"],
                1,
                &["south", "peer add"],
            ),
            (&["get", TABLE, "not-there"], 1, &["not-there"]),
            (&["frobnicate"], 2, &["frobnicate"]),
        ];
        for (arguments, code, words) in cases {
            tidemark.refused(arguments, *code, words).await?;
        }
        let nobody = Tidemark::new(&["127.0.0.1:1".to_owned()])?;
        nobody
            .refused(&["--timeout", "2s", "scan", TABLE], 3, &["127.0.0.1:1"])
            .await?;
        ensure!(shown::cells(&scene.table(0)).await?.is_empty(), "something was written");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold_at_the_edge_and_beyond() {
    alone(Duration::from_secs(120), async {
        let scene = Scene::one(1, "").await?;
        scene.create(&[]).await?;
        let table = scene.table(0);
        let put = |row: &str, qualifier: &str| RowMutation::new(row).put(FAMILY, qualifier, now_micros(), "v");
        table.mutate_row(put(&"k".repeat(ROW_BYTES_MAX), "q")).await?;
        table.mutate_row(put("r", &"q".repeat(QUALIFIER_BYTES_MAX))).await?;
        let day = 24 * 3600 * 1_000_000;
        table
            .put("r", FAMILY, "future", now_micros() + day - 60_000_000, "v")
            .await?;
        let refused = [
            table.mutate_row(put(&"k".repeat(ROW_BYTES_MAX + 1), "q")).await,
            table.mutate_row(put("r", &"q".repeat(QUALIFIER_BYTES_MAX + 1))).await,
            table.mutate_row(put("", "q")).await,
            table.mutate_row(RowMutation::new("r").put("none", "q", 1, "v")).await,
            table
                .mutate_row(RowMutation::new("r").put(FAMILY, "q", now_micros() + day + 60_000_000, "v"))
                .await,
        ];
        for (case, outcome) in refused.into_iter().enumerate() {
            let error = outcome.err().with_context(|| format!("case {case} was accepted"))?;
            ensure!(error.kind() == ErrorKind::InvalidArgument, "case {case}: {error:?}");
        }
        let broken = Filter::new().row_regex("(");
        let error = shown::scanned(&table, ScanRequest::all().filter(broken))
            .await
            .err()
            .context("a broken regex")?;
        ensure!(error.to_string().contains("regex"), "{error:?}");
        ensure!(shown::cells(&table).await?.len() == 3);
        Ok(())
    })
    .await;
}
