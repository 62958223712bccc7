//! HBase, standalone: master, region server and ZooKeeper in one process, on the local file system, from Maven's central
//! registry. What it is given and how is in `java/HBaseLoader.java`.

use super::{About, Peer, Site};
use crate::load::Sender;
use crate::loader::{Loader, Program, jars};
use crate::process::{Process, disk_bytes, free_port};
use anyhow::{Context, Result};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Built with Hadoop 3: the other build's Hadoop 2 is older than Java 17.
const PACKAGE: [&str; 3] = ["org.apache.hbase", "hbase-server", "2.6.4-hadoop3"];
/// What its own start script says for a Java that keeps its insides closed.
const JAVA_OPTIONS: &str = "-Dorg.apache.hbase.thirdparty.io.netty.tryReflectionSetAccessible=true \
    --add-modules=jdk.unsupported --add-opens=java.base/java.nio=ALL-UNNAMED \
    --add-opens=java.base/sun.nio.ch=ALL-UNNAMED --add-opens=java.base/java.lang=ALL-UNNAMED \
    --add-opens=java.base/jdk.internal.ref=ALL-UNNAMED --add-opens=java.base/java.lang.reflect=ALL-UNNAMED \
    --add-opens=java.base/java.util=ALL-UNNAMED --add-opens=java.base/java.util.concurrent=ALL-UNNAMED \
    --add-exports=java.base/jdk.internal.misc=ALL-UNNAMED --add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED";
/// A fixed size, because its default, a quarter of whatever the machine has, would make the figures the machine's.
const HEAP: &str = "-Xmx4g";
const LOGGING: &str = "log4j.rootLogger=INFO, console\nlog4j.appender.console=org.apache.log4j.ConsoleAppender\n\
    log4j.appender.console.layout=org.apache.log4j.PatternLayout\n\
    log4j.appender.console.layout.ConversionPattern=%d{ISO8601} %-5p [%t] %c{2}: %m%n\n";
const READY_WITHIN: Duration = Duration::from_secs(120);

/// What its write-ahead log does before the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sync {
    /// Its default: an hflush, which on this file system gives the log to the operating system.
    Flush,
    /// An hsync, which here is an fsync.
    Fsync,
}

pub(super) struct HBase {
    process: Process,
    loader: Loader,
    root: PathBuf,
    sync: Sync,
    version: String,
}

pub(super) fn start(site: &Site, sync: Sync) -> Result<HBase> {
    let [group, artifact, version] = PACKAGE;
    let package = site.shelf.maven_library("hbase", group, artifact, version)?;
    let conf = site.dir.join("conf");
    let root = site.dir.join("root");
    let zookeeper = free_port()?;
    std::fs::create_dir_all(&conf)?;
    std::fs::write(conf.join("hbase-site.xml"), settings(&site.dir, &root, zookeeper, sync))?;
    std::fs::write(conf.join("log4j.properties"), LOGGING)?;
    let options: Vec<String> = JAVA_OPTIONS.split_whitespace().map(str::to_owned).collect();
    let mut arguments = options.clone();
    let path = format!("{}:{}", conf.display(), jars(&package.dir));
    let rest = [HEAP, "-cp", &path, "org.apache.hadoop.hbase.master.HMaster", "start"];
    arguments.extend(rest.map(str::to_owned));
    let mut process = Process::start(Path::new("java"), &arguments, &[], &site.dir.join("log"))?;
    // Its ZooKeeper comes first; the loader waits for the rest.
    process.wait_ready(READY_WITHIN, || TcpStream::connect(("127.0.0.1", zookeeper)).is_ok())?;
    let program = Program {
        class: "HBaseLoader",
        source: include_str!("../../java/HBaseLoader.java"),
        lib: &package.dir,
        conf: &conf,
        options: &options,
        arguments: &[],
    };
    let loader = Loader::start(&program, &site.fleet.metric_names(), &site.dir)?;
    Ok(HBase {
        process,
        loader,
        root,
        sync,
        version: package.version,
    })
}

/// Where its things are, and that it listens on loopback only; everything else as it is.
fn settings(dir: &Path, root: &Path, zookeeper: u16, sync: Sync) -> String {
    let pairs = [
        ("hbase.cluster.distributed", "false".to_owned()),
        ("hbase.rootdir", format!("file://{}", root.display())),
        ("hbase.tmp.dir", dir.join("tmp").display().to_string()),
        // As its own standalone configuration has it: this file system cannot promise what HDFS can.
        ("hbase.unsafe.stream.capability.enforce", "false".to_owned()),
        ("hbase.wal.hsync", (sync == Sync::Fsync).to_string()),
        ("hbase.localcluster.assign.random.ports", "true".to_owned()),
        ("hbase.master.info.port", "-1".to_owned()),
        ("hbase.regionserver.info.port", "-1".to_owned()),
        ("hbase.master.hostname", "localhost".to_owned()),
        ("hbase.unsafe.regionserver.hostname", "localhost".to_owned()),
        ("hbase.master.ipc.address", "127.0.0.1".to_owned()),
        ("hbase.regionserver.ipc.address", "127.0.0.1".to_owned()),
        ("hbase.zookeeper.quorum", "127.0.0.1".to_owned()),
        ("hbase.zookeeper.property.clientPort", zookeeper.to_string()),
        ("hbase.zookeeper.property.clientPortAddress", "127.0.0.1".to_owned()),
        (
            "hbase.zookeeper.property.dataDir",
            dir.join("zookeeper").display().to_string(),
        ),
    ];
    let properties =
        pairs.map(|(name, value)| format!("<property><name>{name}</name><value>{value}</value></property>\n"));
    format!("<configuration>\n{}</configuration>\n", properties.concat())
}

impl Peer for HBase {
    fn about(&self) -> About {
        About {
            version: self.version.clone(),
            copies: 1,
            durability: match self.sync {
                Sync::Flush => "none: in its log, given to the OS without fsync (its default)",
                Sync::Fsync => "fsync before the answer (hbase.wal.hsync)",
            },
            how: "its Java client, a put of all rows a batch; a row a device and tick, a column a metric; standalone, one \
                  region; heap 4 GiB; web pages off",
        }
    }

    fn pids(&self) -> Vec<u32> {
        vec![self.process.pid()]
    }

    fn client_pids(&self) -> Vec<u32> {
        vec![self.loader.pid()]
    }

    fn sender(&self) -> Result<Box<dyn Sender>> {
        self.loader.sender()
    }

    fn settle(&mut self) -> Result<()> {
        self.loader.settle()
    }

    /// Tables and logs. What was compacted away waits in its archive for some minutes and counts no more.
    fn disk_bytes(&self) -> Result<u64> {
        Ok(disk_bytes(&self.root.join("data"))? + self.log_bytes()?)
    }

    fn log_bytes(&self) -> Result<u64> {
        Ok(disk_bytes(&self.root.join("WALs"))? + disk_bytes(&self.root.join("oldWALs"))?)
    }

    fn samples(&mut self) -> Result<Option<u64>> {
        self.loader.count().map(Some)
    }

    fn stop(self: Box<Self>) -> Result<()> {
        self.loader.stop()?;
        self.process.stop().context("HBase")
    }
}
