//! Cassandra, one node, from Maven's central registry. What it is given and how is in `java/CassandraLoader.java`.

use super::{About, Peer, Site};
use crate::load::Sender;
use crate::loader::{Loader, Program, jars};
use crate::package::found;
use crate::process::{Process, disk_bytes, free_port};
use anyhow::{Context, Result};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SERVER: [&str; 3] = ["org.apache.cassandra", "cassandra-all", "5.0.6"];
const DRIVER: [&str; 3] = ["org.apache.cassandra", "java-driver-core", "4.18.1"];
/// What its own option files say for Java 17. The heap has a fixed size, because its default, a quarter of the machine's
/// memory, would make the figures the machine's; touched from the start, as its own options have it.
const JAVA_OPTIONS: &str = "-ea -Xms4g -Xmx4g -Xss256k -XX:+AlwaysPreTouch -XX:+UseTLAB -XX:+ResizeTLAB -XX:+UseNUMA \
    -XX:+PerfDisableSharedMem -XX:+UseG1GC -XX:+ParallelRefProcEnabled -XX:MaxTenuringThreshold=1 \
    -XX:G1HeapRegionSize=16m -XX:G1RSetUpdatingPauseTimePercent=5 -XX:MaxGCPauseMillis=300 \
    -XX:InitiatingHeapOccupancyPercent=70 -Djava.net.preferIPv4Stack=true -Djdk.attach.allowAttachSelf=true \
    -Dio.netty.tryReflectionSetAccessible=true -Dio.netty.allocator.useCacheForAllThreads=true \
    -Dio.netty.allocator.maxOrder=11";
/// Modules and packages that it needs from inside Java 17, by the same files.
const EXPORTS: &str = "java.base/jdk.internal.misc java.management.rmi/com.sun.jmx.remote.internal.rmi \
    java.rmi/sun.rmi.registry java.rmi/sun.rmi.server java.sql/java.sql java.base/java.lang.ref \
    jdk.unsupported/sun.misc jdk.compiler/com.sun.tools.javac.file jdk.attach/sun.tools.attach";
const OPENS: &str = "java.base/java.lang.module java.base/jdk.internal.loader java.base/jdk.internal.ref \
    java.base/jdk.internal.reflect java.base/jdk.internal.math java.base/jdk.internal.module \
    java.base/jdk.internal.util.jar jdk.management/com.sun.management.internal java.base/sun.nio.ch java.base/java.io \
    java.base/java.lang.reflect jdk.compiler/com.sun.tools.javac java.base/java.lang java.base/java.util";
/// Without it everything is logged down to DEBUG; its own configuration writes that to a second file.
const LOGGING: &str = "<configuration><appender name=\"OUT\" class=\"ch.qos.logback.core.ConsoleAppender\"><encoder>\
    <pattern>%-5level [%thread] %date{ISO8601} %F:%L - %msg%n</pattern></encoder></appender>\
    <root level=\"INFO\"><appender-ref ref=\"OUT\"/></root></configuration>\n";
const READY_WITHIN: Duration = Duration::from_secs(180);

/// When its commit log is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sync {
    /// Its default: every ten seconds, behind the answers.
    Periodic,
    /// Before the answer, for all that wait together.
    Batch,
}

pub(super) struct Cassandra {
    process: Process,
    loader: Loader,
    dir: PathBuf,
    sync: Sync,
    version: String,
}

struct Ports {
    cql: u16,
    nodes: u16,
    jmx: u16,
}

pub(super) fn start(site: &Site, sync: Sync) -> Result<Cassandra> {
    let [group, artifact, version] = SERVER;
    let server = site.shelf.maven_library("cassandra", group, artifact, version)?;
    let [group, artifact, version] = DRIVER;
    let driver = site.shelf.maven_library("cassandra-driver", group, artifact, version)?;
    let dir = site.dir.join("node");
    let conf = site.dir.join("conf");
    std::fs::create_dir_all(&conf)?;
    std::fs::create_dir_all(dir.join("tmp"))?;
    let ports = Ports {
        cql: free_port()?,
        nodes: free_port()?,
        jmx: free_port()?,
    };
    std::fs::write(conf.join("cassandra.yaml"), settings(&dir, &ports, sync))?;
    std::fs::write(conf.join("logback.xml"), LOGGING)?;
    let arguments = arguments(&server.dir, &conf, &dir, &ports)?;
    let mut process = Process::start(Path::new("java"), &arguments, &[], &site.dir.join("log"))?;
    // The last thing that it opens.
    process.wait_ready(READY_WITHIN, || TcpStream::connect(("127.0.0.1", ports.cql)).is_ok())?;
    let program = Program {
        class: "CassandraLoader",
        source: include_str!("../../java/CassandraLoader.java"),
        lib: &driver.dir,
        conf: &driver.dir,
        options: &[],
        arguments: &[ports.cql.to_string(), ports.jmx.to_string()],
    };
    let loader = Loader::start(&program, &site.fleet.metric_names(), &site.dir)?;
    Ok(Cassandra {
        process,
        loader,
        dir,
        sync,
        version: server.version,
    })
}

fn arguments(lib: &Path, conf: &Path, dir: &Path, ports: &Ports) -> Result<Vec<String>> {
    let mut arguments: Vec<String> = JAVA_OPTIONS.split_whitespace().map(str::to_owned).collect();
    for (flag, packages) in [("exports", EXPORTS), ("opens", OPENS)] {
        let packages = packages.split_whitespace();
        arguments.extend(packages.map(|package| format!("--add-{flag}={package}=ALL-UNNAMED")));
    }
    arguments.extend([
        format!("-javaagent:{}", found(lib, "jamm-0.4.0.jar")?.display()),
        format!("-Dcassandra.config=file://{}/cassandra.yaml", conf.display()),
        format!("-Dcassandra.storagedir={}", dir.display()),
        format!("-Dcassandra.jmx.local.port={}", ports.jmx),
        format!("-Dcassandra.logdir={}", dir.display()),
        format!("-Djava.io.tmpdir={}/tmp", dir.display()),
        "-Dcassandra-foreground=yes".to_owned(),
        "-cp".to_owned(),
        format!("{}:{}", conf.display(), jars(lib)),
        "org.apache.cassandra.service.CassandraDaemon".to_owned(),
    ]);
    Ok(arguments)
}

/// What its own `cassandra.yaml` sets beyond what is compiled in, ports and directories of ours, and a timeout that lets
/// slow writes be slow instead of failing the load.
fn settings(dir: &Path, ports: &Ports, sync: Sync) -> String {
    let place = |name: &str| dir.join(name).display().to_string();
    let sync = match sync {
        Sync::Periodic => "commitlog_sync: periodic\ncommitlog_sync_period: 10000ms",
        Sync::Batch => "commitlog_sync: batch",
    };
    format!(
        "cluster_name: compare\nnum_tokens: 16\npartitioner: org.apache.cassandra.dht.Murmur3Partitioner\n\
         endpoint_snitch: SimpleSnitch\nstorage_compatibility_mode: CASSANDRA_4\n{sync}\n\
         commitlog_segment_size: 32MiB\nmemtable_allocation_type: heap_buffers\n\
         seed_provider:\n- class_name: org.apache.cassandra.locator.SimpleSeedProvider\n  parameters:\n  - seeds: \
         \"127.0.0.1:{}\"\nlisten_address: 127.0.0.1\nrpc_address: 127.0.0.1\nstorage_port: {}\n\
         native_transport_port: {}\nwrite_request_timeout: 60s\ndata_file_directories:\n- {}\ncommitlog_directory: {}\n\
         hints_directory: {}\nsaved_caches_directory: {}\n",
        ports.nodes,
        ports.nodes,
        ports.cql,
        place("data"),
        place("commitlog"),
        place("hints"),
        place("saved_caches"),
    )
}

impl Peer for Cassandra {
    fn about(&self) -> About {
        About {
            version: self.version.clone(),
            copies: 1,
            durability: match self.sync {
                Sync::Periodic => "none: in memory; its log is fsynced every 10 s (its default)",
                Sync::Batch => "fsync before the answer (commitlog_sync: batch)",
            },
            how: "its Java driver, prepared statements, asynchronous, rows of a partition in an unlogged batch; a partition \
                  a device, a row a tick, a column a metric; one node; heap 4 GiB; write timeout 60 s",
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

    /// Its own tables included, which are small.
    fn disk_bytes(&self) -> Result<u64> {
        Ok(disk_bytes(&self.dir.join("data"))? + self.log_bytes()?)
    }

    fn log_bytes(&self) -> Result<u64> {
        disk_bytes(&self.dir.join("commitlog"))
    }

    fn samples(&mut self) -> Result<Option<u64>> {
        self.loader.count().map(Some)
    }

    fn stop(self: Box<Self>) -> Result<()> {
        self.loader.stop()?;
        self.process.stop().context("Cassandra")
    }
}
