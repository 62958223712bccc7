//! InfluxDB 1.x.

use super::lines::LineSender;
use super::{About, Peer, Site};
use crate::load::Sender;
use crate::process::{Process, disk_bytes, free_port};
use crate::web::{Connection, answers};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidemark_bench::fleet::Fleet;

/// How long it may take to bring everything into its final files.
const COMPACTED_WITHIN: Duration = Duration::from_secs(120);

pub(super) struct InfluxDb {
    process: Option<Process>,
    binary: PathBuf,
    dir: PathBuf,
    host: String,
    version: String,
    fleet: Fleet,
}

pub(super) fn start(site: &Site) -> Result<InfluxDb> {
    let package = site.shelf.debian("influxdb")?;
    let mut influx = InfluxDb {
        process: None,
        binary: package.dir.join("usr/bin/influxd"),
        dir: site.dir.clone(),
        host: String::new(),
        version: package.version,
        fleet: site.fleet.clone(),
    };
    influx.launch("")?;
    let mut connection = Connection::open(&influx.host)?;
    connection.request("POST", "/query?q=CREATE%20DATABASE%20bench", b"")?;
    Ok(influx)
}

impl InfluxDb {
    /// Starts it with its own defaults, plus lines of its `[data]` section.
    fn launch(&mut self, data_settings: &str) -> Result<()> {
        let place = |name: &str| self.dir.join(name).display().to_string();
        let host = format!("127.0.0.1:{}", free_port()?);
        let config = format!(
            "reporting-disabled = true\nbind-address = \"127.0.0.1:{}\"\n[meta]\ndir = {:?}\n[data]\ndir = {:?}\nwal-dir = \
             {:?}\n{data_settings}\n[http]\nbind-address = {host:?}\nlog-enabled = false\n[monitor]\nstore-enabled = false\n",
            free_port()?,
            place("meta"),
            place("data"),
            place("wal"),
        );
        let path = self.dir.join("influxdb.conf");
        std::fs::write(&path, config)?;
        let arguments = ["-config".to_owned(), path.display().to_string()];
        let mut process = Process::start(&self.binary, &arguments, &[], &self.dir.join("log"))?;
        process.wait_ready(Duration::from_secs(120), || answers(&host, "/ping"))?;
        (self.process, self.host) = (Some(process), host);
        Ok(())
    }

    fn files(&self, ending: &str) -> Result<usize> {
        count(&self.dir.join("data"), ending)
    }
}

fn count(dir: &Path, ending: &str) -> Result<usize> {
    let mut files = 0;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        files += if path.is_dir() {
            count(&path, ending).unwrap_or(0)
        } else {
            usize::from(path.to_string_lossy().ends_with(ending))
        };
    }
    Ok(files)
}

impl Peer for InfluxDb {
    fn about(&self) -> About {
        About {
            version: self.version.clone(),
            copies: 1,
            durability: "one fsync a request (its default)",
            how: "line protocol over HTTP; a series a device, a field a metric; request log and self-monitoring off",
        }
    }

    fn pids(&self) -> Vec<u32> {
        self.process.iter().map(Process::pid).collect()
    }

    fn sender(&self) -> Result<Box<dyn Sender>> {
        let path = "/write?db=bench&precision=ms";
        Ok(Box::new(LineSender::open(&self.host, path, self.fleet.metric_names())?))
    }

    /// It compacts what has been cold for hours; for the bytes on disk it is started again with seconds instead, after
    /// everything else was measured.
    fn settle(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.stop()?;
        }
        self.launch("cache-snapshot-write-cold-duration = \"1s\"\ncompact-full-write-cold-duration = \"1s\"")?;
        let deadline = Instant::now() + COMPACTED_WITHIN;
        let (mut last, mut since) = (0, Instant::now());
        while Instant::now() < deadline {
            let bytes = self.disk_bytes()?;
            if bytes != last || self.files(".tmp")? > 0 {
                (last, since) = (bytes, Instant::now());
            }
            if since.elapsed() > Duration::from_secs(12) {
                break;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64> {
        Ok(disk_bytes(&self.dir.join("data"))? + disk_bytes(&self.dir.join("wal"))?)
    }

    fn log_bytes(&self) -> Result<u64> {
        disk_bytes(&self.dir.join("wal"))
    }

    fn samples(&mut self) -> Result<Option<u64>> {
        let path = "/query?db=bench&q=SELECT%20count(metric_00)%20FROM%20m";
        let answer = Connection::open(&self.host)?.request("GET", path, b"")?;
        let answer: serde_json::Value = serde_json::from_slice(&answer)?;
        let ticks = answer["results"][0]["series"][0]["values"][0][1].as_u64();
        Ok(Some(ticks.context("no count in its answer")? * self.fleet.metrics))
    }

    fn stop(mut self: Box<Self>) -> Result<()> {
        self.process.take().map_or(Ok(()), Process::stop)
    }
}
