//! `tidemark bench` on one node: what it writes is there, what it reads is whole, and the report says so. Not how fast.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;
use tidemark_client::ScanRequest;
use tidemark_integration::command::Tidemark;
use tidemark_integration::scene::{Scene, alone};

const FLEET: [&str; 6] = ["--devices", "20", "--ticks", "400", "--metrics", "3"];

async fn report(tidemark: &Tidemark, workload: &[&str]) -> Result<Value> {
    let arguments: Vec<&str> = ["--output", "json", "bench"].iter().chain(workload).copied().collect();
    let said = tidemark.ok(&arguments).await?;
    let report: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    ensure!(
        report["errors"] == 0 && report["wrong"] == 0 && report["unsent"] == 0,
        "{report}"
    );
    Ok(report)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_loaded_is_read_back_whole() {
    alone(Duration::from_secs(120), async {
        let scene = Scene::one(1, "").await?;
        let tidemark = Tidemark::new(&scene.world.regions[0].addresses())?;
        let pid = scene.world.regions[0].nodes[0]
            .pid()
            .context("the node runs")?
            .to_string();
        let loading = ["--batch", "100", "--clients", "3", "--fresh", "--server-pids", &pid];
        let loaded = report(&tidemark, &[&["ingest"], &FLEET[..], &loading[..]].concat()).await?;
        ensure!(
            loaded["samples"] == 24_000 && loaded["rows_per_s"].as_u64() > Some(0),
            "{loaded}"
        );
        ensure!(loaded["server_rss_mb"].as_u64() > Some(0), "{loaded}");
        let count = scene.clients[0].table("bench").count(ScanRequest::all()).await?;
        ensure!((count.rows, count.cells) == (20, 24_000), "{count:?}");

        let few = ["--ops", "40", "--clients", "4"];
        let latest = report(&tidemark, &[&["latest", "--batch", "5"], &FLEET[..], &few[..]].concat()).await?;
        ensure!(latest["ops"] == 40, "{latest}");
        let paced = ["--rate", "200", "--seconds", "0.5"];
        let hour = report(&tidemark, &[&["hour"], &FLEET[..], &paced[..]].concat()).await?;
        ensure!(hour["ops"] == 100 && hour["samples"] == 100 * 360 * 3, "{hour}");
        let scan = report(&tidemark, &[&["scan"], &FLEET[..]].concat()).await?;
        ensure!(scan["samples"] == 24_000, "{scan}");
        let aggregate = report(&tidemark, &[&["aggregate"], &FLEET[..]].concat()).await?;
        ensure!(aggregate["samples"] == 24_000, "{aggregate}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mix_runs_and_reports_its_kinds_of_ops() {
    alone(Duration::from_secs(120), async {
        let scene = Scene::one(1, "").await?;
        let tidemark = Tidemark::new(&scene.world.regions[0].addresses())?;
        for mix in ["a", "b", "c", "d", "e", "f"] {
            let options = [
                "ycsb",
                "--mix",
                mix,
                "--records",
                "200",
                "--ops",
                "100",
                "--clients",
                "4",
            ];
            let ran = report(&tidemark, &options).await?;
            ensure!(ran["ops"] == 100, "{mix}: {ran}");
            ensure!((mix == "a") <= ran["update_p50_ms"].is_number(), "{mix}: {ran}");
        }
        let elsewhere = ["bench", "ingest", "--devices", "1", "--server-pids", "4194305"];
        tidemark.refused(&elsewhere, 1, &["--server-pids"]).await?;
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lag_is_seen_between_two_regions() {
    alone(Duration::from_secs(120), async {
        let scene = Scene::two(1).await?;
        let tidemark = Tidemark::new(&scene.world.regions[0].addresses())?;
        let west = scene.world.regions[1].addresses().join(",");
        let load = [
            "--rate",
            "2000",
            "--seconds",
            "2",
            "--batch",
            "20",
            "--clients",
            "2",
            "--probes",
            "10",
        ];
        let options = [&["--region-addresses", &west, "lag"], &FLEET[..], &load[..]].concat();
        let ran = report(&tidemark, &options).await?;
        ensure!(ran["ops"] == 20 && ran["load_errors"] == 0, "{ran}");
        ensure!(
            ran["p50_ms"].as_f64() > Some(0.0) && ran["link_bytes"].as_u64() > Some(0),
            "{ran}"
        );
        Ok(())
    })
    .await;
}
