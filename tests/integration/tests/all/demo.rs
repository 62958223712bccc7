//! The command of the README's first screen, short: what it promises a newcomer holds on every commit.

use anyhow::{Context, ensure};
use std::process::Stdio;
use std::time::Duration;
use tidemark_harness::world::binary;
use tidemark_integration::scene::alone;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_loses_a_leader_and_a_region_and_no_write() {
    alone(Duration::from_secs(300), async {
        let dir = tempfile::tempdir()?;
        let json = dir.path().join("report.json");
        let run = tokio::process::Command::new(binary("tidemark-demo")?)
            .args([
                "--seconds",
                "12",
                "--rate",
                "300",
                "--devices",
                "500",
                "--seed",
                "9",
                "--json",
            ])
            .arg(&json)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        let text = String::from_utf8_lossy(&run.stdout).into_owned();
        let shown = || format!("{text}\n{}", String::from_utf8_lossy(&run.stderr));
        ensure!(run.status.success(), "{}:\n{}", run.status, shown());
        let last = text.lines().last().context("the demo printed nothing")?;
        ensure!(last.starts_with("demo: ok lost=0 equal=true leader_gap_ms="), "{last}");
        for figure in ["leader_gap_ms", "rto_ms", "rpo_ms", "converge_ms"] {
            let value = last
                .split(&format!(" {figure}="))
                .nth(1)
                .context("a figure is missing")?;
            let value: u64 = value.split(' ').next().context("a figure is empty")?.parse()?;
            // Killing a leader and a region cannot go unnoticed: a gap of nothing would mean that nothing was killed.
            ensure!(value > 0 || figure == "rpo_ms", "{last}");
        }
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&json)?)?;
        let acknowledged = report["writes"]["ticks_acknowledged"].as_u64().context("no count")?;
        ensure!(
            acknowledged > 1_000,
            "only {acknowledged} ticks acknowledged:\n{}",
            shown()
        );
        ensure!(report["ok"] == true && report["lost"] == 0, "{report}");
        Ok(())
    })
    .await;
}
