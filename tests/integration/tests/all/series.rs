//! Series families on real processes: the same answers as families of cells, whatever happens to the servers, and in both
//! regions. Two tables get the same writes; their families have one name and so one id, and so one digest.

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tidemark_client::{
    AggregateRequest, Family, Filter, Layout, NumberForm, RowMutation, ScanRequest, Table, TableSpec, VersionRange,
    WriterOptions, now_micros,
};
use tidemark_harness::ready::wait_for;
use tidemark_integration::command::Tidemark;
use tidemark_integration::scene::{FAMILY, SOON, Scene, TABLE, alone};
use tidemark_integration::shown;

/// Beside [`TABLE`], which keeps series.
const CELLS: &str = "cells";
const DEVICES: i64 = 20;
const TICKS: i64 = 300;
/// Ten seconds, so that the ticks of a device fill several time blocks of five minutes.
const PERIOD_MICROS: i64 = 10_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_series_family_answers_as_one_of_cells_does() {
    alone(Duration::from_secs(300), async {
        let mut scene = Scene::two(3).await?;
        scene.introduce().await?;
        create(&scene).await?;
        let west = &scene.world.regions[1].name;
        scene.clients[0].admin().enable_replication(TABLE, west).await?;
        let told = scene.clients[1].admin().get_table(TABLE).await?;
        ensure!(
            told.families[0].layout == Some(series()),
            "the peer made it as {told:?}"
        );
        let began = (now_micros() / PERIOD_MICROS - TICKS) * PERIOD_MICROS;
        write(&scene, began, 0..TICKS * 2 / 3).await?;
        same(&scene).await?;
        // What was not flushed comes back from the log, and on both sides of it are blocks and ticks.
        scene.world.regions[0].kill_all()?;
        scene.world.regions[0].start_all()?;
        scene.world.regions[0].wait_ready(SOON).await?;
        write(&scene, began, TICKS / 2..TICKS).await?;
        delete(&scene, began).await?;
        same(&scene).await?;
        let digest = scene.wait_equal().await?;
        ensure!(digest.rows == DEVICES as u64 - 1, "{digest:?}");
        aggregates(&scene, began).await?;
        commands(&scene).await
    })
    .await;
}

fn series() -> Layout {
    Layout::Series {
        block: Some(Duration::from_secs(300)),
    }
}

async fn create(scene: &Scene) -> Result<()> {
    for (name, layout) in [(TABLE, Some(series())), (CELLS, None)] {
        let family = Family {
            layout,
            ..Family::new(FAMILY)
        };
        let spec = TableSpec {
            split_at: vec![b"d-10".to_vec()],
            ..TableSpec::new(name, [family])
        };
        scene.clients[0].admin().create_table(spec).await?;
    }
    Ok(())
}

fn tables(scene: &Scene) -> [Table; 2] {
    [TABLE, CELLS].map(|name| scene.clients[0].table(name))
}

/// Ticks of all devices; those at the seams are written a second time, with other values.
async fn write(scene: &Scene, began: i64, ticks: std::ops::Range<i64>) -> Result<()> {
    for table in tables(scene) {
        let writer = table.writer(WriterOptions::default());
        let mut tickets = Vec::new();
        for tick in ticks.clone() {
            for device in 0..DEVICES {
                let number = |metric: i64| ((ticks.start + tick * 7 + device * 3 + metric) % 500) as f64 / 10.0;
                let at = began + tick * PERIOD_MICROS + device;
                let row = RowMutation::new(format!("d-{device:02}"));
                let row = (0..4).fold(row, |row, metric| {
                    row.put(FAMILY, format!("m{metric}"), at, number(metric).to_be_bytes())
                });
                tickets.push(writer.write(row).await?);
            }
        }
        for ticket in tickets {
            ticket.await?;
        }
    }
    Ok(())
}

async fn delete(scene: &Scene, began: i64) -> Result<()> {
    let some = VersionRange {
        from: began + 40 * PERIOD_MICROS,
        to: began + 90 * PERIOD_MICROS,
    };
    for table in tables(scene) {
        table
            .mutate_row(RowMutation::new("d-03").delete_column(FAMILY, "m1"))
            .await?;
        let one = RowMutation::new("d-04").delete_cell(FAMILY, "m2", began + 50 * PERIOD_MICROS + 4);
        table.mutate_row(one).await?;
        table
            .mutate_row(RowMutation::new("d-11").delete_family(FAMILY, some))
            .await?;
        table
            .mutate_row(RowMutation::new("d-12").delete_row(VersionRange::ALL))
            .await?;
    }
    Ok(())
}

/// Cell by cell, and by digest.
async fn same(scene: &Scene) -> Result<()> {
    let [series, cells] = tables(scene);
    let (here, there) = (shown::cells(&series).await?, shown::cells(&cells).await?);
    ensure!(
        !here.is_empty() && here == there,
        "{} and {} cells",
        here.len(),
        there.len()
    );
    let narrow = || {
        let filter = Filter::new().qualifiers(["m1", "m3"]).latest(2);
        ScanRequest::prefix("d-0").filter(filter).reverse(true)
    };
    let (few, same) = (
        shown::scanned(&series, narrow()).await?,
        shown::scanned(&cells, narrow()).await?,
    );
    ensure!(!few.is_empty() && few == same, "{few:?}\n{same:?}");
    let now = Some(now_micros());
    let (here, there) = (
        series.digest(Vec::new(), now).await?,
        cells.digest(Vec::new(), now).await?,
    );
    ensure!(here.content_hash == there.content_hash, "{here:?} {there:?}");
    Ok(())
}

async fn aggregates(scene: &Scene, began: i64) -> Result<()> {
    let [series, cells] = tables(scene);
    let part = VersionRange {
        from: began + 13 * PERIOD_MICROS,
        to: began + 222 * PERIOD_MICROS,
    };
    for (at, select) in [
        ScanRequest::all(),
        ScanRequest::prefix("d-0"),
        ScanRequest::all().filter(Filter::new().versions(part)),
        ScanRequest::all().filter(Filter::new().qualifier_prefix("m1").latest(3)),
    ]
    .into_iter()
    .enumerate()
    {
        let request = AggregateRequest::of(select).every(Duration::from_secs(700));
        for request in [request.clone(), request.by_row()] {
            let here = series.aggregate(request.clone()).await?;
            let there = cells.aggregate(request).await?;
            ensure!(
                !here.is_empty() && here.len() == there.len(),
                "{at}: {here:?}\n{there:?}"
            );
            for (here, there) in here.iter().zip(&there) {
                let sums = (here.stats.sum - there.stats.sum).abs() < 1e-6;
                let mut like = there.clone();
                like.stats.sum = here.stats.sum;
                ensure!(sums && *here == like, "{at}: {here:?} {there:?}");
            }
        }
    }
    let texts = AggregateRequest::of(ScanRequest::all()).numbers(NumberForm::Text);
    let found = series.aggregate(texts).await?;
    ensure!(
        found
            .iter()
            .all(|group| group.stats.count == 0 && group.stats.others > 0),
        "{found:?}"
    );
    // In the other region as well, once it has everything.
    let all = || AggregateRequest::of(ScanRequest::all());
    let here: u64 = series
        .aggregate(all())
        .await?
        .iter()
        .map(|group| group.stats.count)
        .sum();
    let west = scene.table(1);
    wait_for("the other region's aggregate", SOON, || async {
        let there: u64 = west.aggregate(all()).await?.iter().map(|group| group.stats.count).sum();
        Ok((here == there).then_some(()))
    })
    .await
}

/// What an operator and an analyst type.
async fn commands(scene: &Scene) -> Result<()> {
    let tidemark = Tidemark::new(&scene.world.regions[0].addresses())?;
    let said = tidemark.ok(&["table", "describe", TABLE]).await?;
    ensure!(said.contains("layout=series,block=5m"), "{said}");
    let said = tidemark
        .ok(&[
            "aggregate",
            TABLE,
            "--column",
            "m:m0",
            "--numbers",
            "float",
            "--by-row",
            "--prefix",
            "d-07",
        ])
        .await?;
    let group: serde_json::Value = serde_json::from_str(said.trim()).context("one line of JSON")?;
    ensure!(
        group["row"] == "d-07" && group["count"] == TICKS && group["others"] == 0,
        "{said}"
    );
    let set = ["table", "alter", CELLS, "--set-family", "m:layout=series"];
    tidemark.refused(&set, 1, &["layout", "add another family"]).await
}
