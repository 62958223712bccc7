//! QuestDB, from Maven's central registry, by the line protocol over HTTP.

use super::lines::LineSender;
use super::{About, Peer, Site};
use crate::load::Sender;
use crate::package::found;
use crate::process::{Process, disk_bytes, free_port};
use crate::web::{Connection, answers};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidemark_bench::fleet::Fleet;

const VERSION: &str = "9.2.2";
/// Its log is applied to the tables behind the answers; how long that may take.
const APPLIED_WITHIN: Duration = Duration::from_secs(120);

pub(super) struct QuestDb {
    process: Process,
    host: String,
    root: PathBuf,
    version: String,
    fleet: Fleet,
}

pub(super) fn start(site: &Site) -> Result<QuestDb> {
    let package = site.shelf.maven("org.questdb", "questdb", VERSION)?;
    let jar = found(&package.dir, ".jar")?;
    let root = site.dir.join("root");
    std::fs::create_dir_all(root.join("conf"))?;
    let host = format!("127.0.0.1:{}", free_port()?);
    let arguments = [
        "-p",
        &jar.display().to_string(),
        "-m",
        "io.questdb/io.questdb.ServerMain",
        "-d",
    ];
    let mut arguments: Vec<String> = arguments.map(str::to_owned).to_vec();
    arguments.push(root.display().to_string());
    let environment = [
        ("QDB_HTTP_BIND_TO", host.clone()),
        ("QDB_HTTP_MIN_ENABLED", "false".to_owned()),
        ("QDB_PG_ENABLED", "false".to_owned()),
        ("QDB_LINE_TCP_ENABLED", "false".to_owned()),
        ("QDB_TELEMETRY_ENABLED", "false".to_owned()),
    ];
    let mut process = Process::start(Path::new("java"), &arguments, &environment, &site.dir.join("log"))?;
    process.wait_ready(Duration::from_secs(60), || answers(&host, "/exec?query=select%201"))?;
    Ok(QuestDb {
        process,
        host,
        root,
        version: package.version,
        fleet: site.fleet.clone(),
    })
}

impl Peer for QuestDb {
    fn about(&self) -> About {
        About {
            version: self.version.clone(),
            copies: 1,
            durability: "none: written to its log without fsync (its default)",
            how: "line protocol over HTTP; one table, a symbol column for the device, a column a metric; other listeners off",
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
        let deadline = Instant::now() + APPLIED_WITHIN;
        while self.samples()? < Some(self.fleet.samples()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(500));
        }
        // Parts of the log that were applied are removed a little later.
        std::thread::sleep(Duration::from_secs(5));
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64> {
        disk_bytes(&self.root.join("db"))
    }

    fn samples(&mut self) -> Result<Option<u64>> {
        let path = "/exec?query=select%20count()%20from%20m";
        let answer = Connection::open(&self.host)?.request("GET", path, b"")?;
        let answer: serde_json::Value = serde_json::from_slice(&answer)?;
        let ticks = answer["dataset"][0][0].as_u64().context("no count in its answer")?;
        Ok(Some(ticks * self.fleet.metrics))
    }

    fn stop(self: Box<Self>) -> Result<()> {
        self.process.stop().context("QuestDB")
    }
}
