//! VictoriaMetrics, single node, by the line protocol that its own comparisons use.

use super::lines::LineSender;
use super::{About, Peer, Site};
use crate::load::Sender;
use crate::process::{Process, disk_bytes, free_port};
use crate::web::{Connection, answers};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::time::Duration;
use tidemark_bench::fleet::Fleet;

/// After the forced flush and merge, files that are no longer needed go by themselves.
const LEFTOVERS: Duration = Duration::from_secs(3);

pub(super) struct VictoriaMetrics {
    process: Process,
    host: String,
    data: PathBuf,
    version: String,
    fleet: Fleet,
}

pub(super) fn start(site: &Site) -> Result<VictoriaMetrics> {
    let package = site.shelf.debian("victoria-metrics")?;
    let data = site.dir.join("data");
    let host = format!("127.0.0.1:{}", free_port()?);
    let arguments = [
        format!("-storageDataPath={}", data.display()),
        format!("-httpListenAddr={host}"),
        // The readings are of a fixed past; by default they would be older than what is kept.
        "-retentionPeriod=100y".to_owned(),
    ];
    let binary = package.dir.join("usr/bin/victoria-metrics");
    let mut process = Process::start(&binary, &arguments, &[], &site.dir.join("log"))?;
    process.wait_ready(Duration::from_secs(60), || answers(&host, "/health"))?;
    Ok(VictoriaMetrics {
        process,
        host,
        data,
        version: package.version,
        fleet: site.fleet.clone(),
    })
}

impl Peer for VictoriaMetrics {
    fn about(&self) -> About {
        About {
            version: self.version.clone(),
            copies: 1,
            durability: "none: answered from memory, on disk within seconds",
            how: "line protocol over HTTP; a series a device and metric; -retentionPeriod=100y",
        }
    }

    fn pids(&self) -> Vec<u32> {
        vec![self.process.pid()]
    }

    fn sender(&self) -> Result<Box<dyn Sender>> {
        let sender = LineSender::open(&self.host, "/write?precision=ms", self.fleet.metric_names())?;
        Ok(Box::new(sender))
    }

    fn settle(&mut self) -> Result<()> {
        let mut connection = Connection::open(&self.host)?;
        connection.request("GET", "/internal/force_flush", b"")?;
        connection.request("GET", "/internal/force_merge", b"")?;
        std::thread::sleep(LEFTOVERS);
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64> {
        disk_bytes(&self.data)
    }

    /// Rows of its storage, by its own metrics.
    fn samples(&mut self) -> Result<Option<u64>> {
        let metrics = Connection::open(&self.host)?.request("GET", "/metrics", b"")?;
        let metrics = String::from_utf8_lossy(&metrics).into_owned();
        let rows = metrics
            .lines()
            .filter(|line| line.starts_with("vm_rows{type=\"storage/"));
        let counts = rows.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(Some(counts.sum::<f64>() as u64))
    }

    fn stop(self: Box<Self>) -> Result<()> {
        self.process.stop().context("VictoriaMetrics")
    }
}
