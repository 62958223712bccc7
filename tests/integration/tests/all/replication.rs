//! Two regions: each mutation crosses once (O13), a row arrives whole (O12), pausing and resuming, refusing to begin on a
//! table that has rows.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidemark_client::{ErrorKind, RowMutation, ScanRequest, Table, WriterOptions, now_micros};
use tidemark_harness::ready::wait_for;
use tidemark_integration::command::Tidemark;
use tidemark_integration::scene::{FAMILY, SOON, Scene, TABLE, alone};
use tidemark_integration::shown;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mutation_crosses_each_link_once() {
    alone(Duration::from_secs(180), async {
        let scene = Scene::two(3).await?;
        scene.replicate(&["r-00500"]).await?;
        let (here, there) = (scene.table(0), scene.table(1));
        let (east, west) = tokio::join!(
            write_rows(&here, "r-", 1_000, "east"),
            write_rows(&there, "s-", 700, "west")
        );
        east?;
        west?;
        let digest = scene.wait_equal().await?;
        ensure!(digest.rows == 1_700, "{digest:?}");
        let (east, west) = (scene.link(0).await?, scene.link(1).await?);
        ensure!(east.rows_shipped == 1_000, "east shipped {}", east.rows_shipped);
        ensure!(west.rows_shipped == 700, "west shipped {}", west.rows_shipped);
        ensure!(west.rows_applied == 1_000, "west applied {}", west.rows_applied);
        ensure!(east.rows_applied == 700, "east applied {}", east.rows_applied);
        ensure!(
            east.state == "STREAMING" && west.state == "STREAMING",
            "{east:?} {west:?}"
        );
        Ok(())
    })
    .await;
}

async fn write_rows(table: &Table, prefix: &str, count: u32, value: &str) -> Result<()> {
    let writer = table.writer(WriterOptions::default());
    let mut tickets = Vec::new();
    for n in 0..count {
        let row = RowMutation::new(format!("{prefix}{n:05}"));
        tickets.push(writer.write(row.put(FAMILY, "q", now_micros(), value)).await?);
    }
    for ticket in tickets {
        ticket.await?;
    }
    Ok(())
}

const CELLS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_mutation_arrives_whole() {
    alone(Duration::from_secs(180), async {
        let scene = Scene::two(1).await?;
        scene.replicate(&["w-3"]).await?;
        let done = Arc::new(AtomicBool::new(false));
        let writing = tokio::spawn(write_whole_rows(scene.table(0), done.clone()));
        let (mut looks, mut whole) = (0u64, 0u64);
        while !done.load(Ordering::Relaxed) {
            let seen = look(&scene.table(1)).await?;
            looks += 1;
            whole += seen;
        }
        let written = writing.await??;
        scene.wait_equal().await?;
        let seen = look(&scene.table(1)).await?;
        ensure!(seen == written, "{written} mutations were written, {seen} are there");
        ensure!(
            looks > 3 && whole > 0,
            "{looks} looks saw {whole} mutations: nothing is proved"
        );
        Ok(())
    })
    .await;
}

/// Scans; every mutation that is there at all must be there with all its cells. Mutations seen.
async fn look(table: &Table) -> Result<u64> {
    let mut cells = BTreeMap::<_, usize>::new();
    for ((row, _, _, version), _) in shown::cells(table).await? {
        *cells.entry((row, version)).or_default() += 1;
    }
    for (mutation, count) in &cells {
        ensure!(*count == CELLS, "{count} of {CELLS} cells of {mutation:?} are there");
    }
    Ok(cells.len() as u64)
}

/// Writes rows of 20 cells with one version each, for some seconds; few rows, so that they are written again and again.
async fn write_whole_rows(table: Table, done: Arc<AtomicBool>) -> Result<u64> {
    let writer = table.writer(WriterOptions::default());
    let end = std::time::Instant::now() + Duration::from_secs(6);
    let (mut version, mut written) = (now_micros(), 0);
    while std::time::Instant::now() < end {
        let mut tickets = Vec::new();
        for row in 0..6 {
            version += 1;
            let mutation = (0..CELLS).fold(RowMutation::new(format!("w-{row}")), |m, cell| {
                m.put(FAMILY, format!("cell-{cell:02}"), version, format!("{version} {cell}"))
            });
            tickets.push(writer.write(mutation).await?);
        }
        for ticket in tickets {
            ticket.await?;
            written += 1;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    done.store(true, Ordering::Relaxed);
    Ok(written)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_link_keeps_everything_and_resumes() {
    alone(Duration::from_secs(180), async {
        let scene = Scene::two(1).await?;
        scene.replicate(&[]).await?;
        let tidemark = Tidemark::new(&scene.world.regions[0].addresses())?;
        tidemark.ok(&["replication", "pause", TABLE, "--peer", "west"]).await?;
        wait_for("the link to be paused", SOON, || async {
            Ok((scene.link(0).await?.state == "PAUSED").then_some(()))
        })
        .await?;
        write_rows(&scene.table(0), "p-", 50, "paused").await?;
        write_rows(&scene.table(1), "q-", 20, "other direction").await?;
        wait_for("the other direction to go on", SOON, || async {
            let there = scene.table(0).count(ScanRequest::prefix("q-")).await?;
            Ok((there.rows == 20).then_some(()))
        })
        .await?;
        let link = scene.link(0).await?;
        ensure!(link.backlog_records > 0, "{link:?}");
        ensure!(link.lag_ms > 0, "a paused link lags: {link:?}");
        ensure!(
            scene.table(1).count(ScanRequest::prefix("p-")).await?.rows == 0,
            "a paused link shipped"
        );
        tidemark.ok(&["replication", "resume", TABLE, "--peer", "west"]).await?;
        tidemark
            .ok(&["replication", "wait", TABLE, "--peer", "west", "--timeout", "60s"])
            .await?;
        let digest = scene.wait_equal().await?;
        ensure!(digest.rows == 70, "{digest:?}");
        let status = tidemark
            .ok(&["--output", "jsonl", "replication", "status", TABLE])
            .await?;
        ensure!(status.contains("STREAMING"), "{status}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_with_rows_is_not_enabled() {
    alone(Duration::from_secs(120), async {
        let scene = Scene::two(1).await?;
        scene.introduce().await?;
        scene.create(&[]).await?;
        scene.table(0).put("row", FAMILY, "q", now_micros(), "v").await?;
        let error = scene.clients[0].admin().enable_replication(TABLE, "west").await;
        let error = error.err().context("a table with a row was enabled")?;
        ensure!(error.kind() == ErrorKind::FailedPrecondition, "{error:?}");
        ensure!(
            error.reason() == "TABLE_NOT_EMPTY" && error.to_string().contains(TABLE),
            "{error:?}"
        );
        let status = scene.clients[0].admin().replication_status(None, false).await?;
        ensure!(status.is_empty(), "a refused link is listed: {status:?}");
        // The table goes on as before.
        scene.table(0).put("row", FAMILY, "q", now_micros(), "w").await?;
        let unknown = scene.clients[0].admin().enable_replication(TABLE, "south").await;
        let unknown = unknown.err().context("an unknown peer was accepted")?;
        ensure!(unknown.to_string().contains("south"), "{unknown:?}");
        Ok(())
    })
    .await;
}
