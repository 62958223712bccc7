//! The regions of a run: servers at their places, on their disks, with their clocks.
//!
//! ```text
//! Arena ─┬─ Server × 6   process (harness), disk, sync shim, wrong time    each behind a lock: one fault at a time
//!        ├─ Network      namespaces, cuts, the link                        absent without root: all on loopback
//!        └─ directory    configurations, logs, data, history
//! ```

use crate::disk::Disk;
use crate::network::{self, Network};
use crate::options::{Options, Profile};
use crate::plan::{NODES, Plan, REGIONS, Timing};
use crate::shim::{self, SyncShim};
use crate::wrong_time::{self, WrongTime};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidemark_harness::ready::http_get;
use tidemark_harness::{Launch, NodeProcess, NodeSpec, world::binary};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// Ports of every node; each has an address of its own.
const GRPC_PORT: u16 = 7311;
const ADMIN_PORT: u16 = 7312;
/// A node is ready again within this, on a machine ten times slower too.
const READY_MAX: Duration = Duration::from_secs(90);
/// Of a disk that is to run full.
const SMALL_DISK_MIB: u32 = 160;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At {
    /// Region by index.
    pub region: usize,
    /// Node number, from 1.
    pub node: u64,
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/n{}", REGIONS[self.region], self.node)
    }
}

/// One server and everything around its process.
#[derive(Debug)]
pub struct Server {
    // First: fields drop in order, and a process ends before its disk goes.
    /// Its process.
    pub process: NodeProcess,
    /// Its file system, if it has one of its own.
    pub disk: Option<Disk>,
    /// Its syncs, if they can be made to fail.
    pub syncs: Option<SyncShim>,
    /// Its clock, if it can be made wrong.
    pub clock: Option<WrongTime>,
}

/// Everything that runs.
#[derive(Debug)]
pub struct Arena {
    servers: Vec<Vec<Arc<Mutex<Server>>>>,
    addresses: Vec<Vec<String>>,
    admins: Vec<Vec<String>>,
    network: Option<Network>,
    dir: PathBuf,
}

impl Arena {
    /// Makes places, disks and configurations under `dir`; starts no server.
    /// Without a network all servers are on loopback.
    pub fn build(options: &Options, plan: &Plan, network: Option<Network>, dir: &Path) -> Result<Arena> {
        Arena::of(Wants::of(options), plan.timing, network, dir)
    }

    /// As [`Arena::build`], for servers as a user has them: with their defaults, in plain directories.
    pub fn plain(network: Network, dir: &Path) -> Result<Arena> {
        let wants = Wants {
            disk: DiskKind::Plain,
            shim: false,
            clock: false,
            small: false,
        };
        Arena::of(wants, Timing::DEFAULT, Some(network), dir)
    }

    fn of(wants: Wants, timing: Timing, network: Option<Network>, dir: &Path) -> Result<Arena> {
        let shim = if wants.shim { Some(shim::compile(dir)?) } else { None };
        let mut arena = Arena {
            servers: Vec::new(),
            addresses: Vec::new(),
            admins: Vec::new(),
            network,
            dir: dir.to_owned(),
        };
        for region in 0..REGIONS.len() {
            let host = |node| arena.host(region, node);
            let hosts: Vec<String> = (1..=NODES).map(host).collect();
            arena
                .addresses
                .push(hosts.iter().map(|h| format!("{h}:{GRPC_PORT}")).collect());
            arena
                .admins
                .push(hosts.iter().map(|h| format!("{h}:{ADMIN_PORT}")).collect());
            let servers = (1..=NODES)
                .map(|node| {
                    let server = arena.server(At { region, node }, &wants, shim.as_deref(), timing)?;
                    Ok(Arc::new(Mutex::new(server)))
                })
                .collect::<Result<Vec<_>>>()?;
            arena.servers.push(servers);
        }
        Ok(arena)
    }

    fn host(&self, region: usize, node: u64) -> String {
        if self.network.is_some() {
            return network::node_address(region, node).to_string();
        }
        // All of 127/8 is loopback; the process id keeps two runs apart.
        let own = std::process::id();
        format!(
            "127.{}.{}.{}",
            16 + (own >> 8) % 200,
            1 + own % 250,
            region as u64 * 20 + node
        )
    }

    fn server(&self, at: At, wants: &Wants, library: Option<&Path>, timing: Timing) -> Result<Server> {
        let dir = self.dir.join(REGIONS[at.region]).join(format!("node-{}", at.node));
        std::fs::create_dir_all(&dir)?;
        let disk = match wants.disk {
            DiskKind::Plain => None,
            DiskKind::Durable => Some(Disk::durable(&dir)?),
            DiskKind::Small => Some(Disk::small(&dir, SMALL_DISK_MIB)?),
        };
        let syncs = match library {
            Some(library) => Some(SyncShim::new(library, &dir.join("syncs"))?),
            None => None,
        };
        let clock = match (wants.clock, wrong_time::library()) {
            (true, Some(library)) => Some(WrongTime::new(&library, &dir.join("clock"))?),
            _ => None,
        };
        let mut launch = Launch {
            prefix: self
                .network
                .as_ref()
                .map(|n| n.launcher(at.region, at.node))
                .unwrap_or_default(),
            environment: vec![("TIDEMARK_LISTEN__INSECURE".into(), "true".into())],
            data_dir: disk.as_ref().map(|d| d.place().join("data")),
        };
        let mut preloads = Vec::new();
        let added = syncs.iter().flat_map(SyncShim::environment);
        for (name, value) in added.chain(clock.iter().flat_map(WrongTime::environment)) {
            match name.as_str() {
                "LD_PRELOAD" => preloads.push(value),
                _ => launch.environment.push((name, value)),
            }
        }
        if !preloads.is_empty() {
            launch.environment.push(("LD_PRELOAD".into(), preloads.join(":")));
        }
        let process = NodeProcess::launched(&binary("tidemarkd")?, &dir, self.spec(at, wants, timing), launch)?;
        Ok(Server {
            process,
            disk,
            syncs,
            clock,
        })
    }

    fn spec(&self, at: At, wants: &Wants, timing: Timing) -> NodeSpec {
        // Small enough for a small disk, and for segments and flushes to come and go within a short run.
        let small = "[storage]\nblock_cache = \"16MiB\"\nmemtables = \"16MiB\"\ndisk_reserve = \"24MiB\"\nlog_segment = \
                     \"2MiB\"\n\n";
        let addresses = &self.addresses[at.region];
        let index = at.node as usize - 1;
        NodeSpec {
            region: REGIONS[at.region].into(),
            region_number: at.region as u16 + 1,
            id: at.node,
            zone: format!("{}-{}", REGIONS[at.region], (b'a' + index as u8) as char),
            grpc: addresses[index].clone(),
            admin: self.admins[at.region][index].clone(),
            seeds: (1..).zip(addresses.iter().cloned()).collect(),
            extra: format!(
                "{}[consensus]\nheartbeat_ms = {}\nelection_min_ms = {}\nelection_max_ms = {}\n",
                if wants.small { small } else { "" },
                timing.heartbeat_ms,
                timing.election_min_ms,
                timing.election_max_ms
            ),
        }
    }

    /// Starts every server and waits until all are ready.
    pub async fn start(&self) -> Result<()> {
        for at in self.all() {
            self.lock(at).await.process.start()?;
        }
        for at in self.all() {
            let mut server = self.lock(at).await;
            self.wait_ready(at, &mut server).await?;
        }
        Ok(())
    }

    /// Every server.
    pub fn all(&self) -> Vec<At> {
        let regions = 0..self.servers.len();
        regions
            .flat_map(|region| (1..=NODES).map(move |node| At { region, node }))
            .collect()
    }

    /// Takes a server for oneself: nobody else does anything to it until the guard goes.
    pub async fn lock(&self, at: At) -> OwnedMutexGuard<Server> {
        self.servers[at.region][at.node as usize - 1].clone().lock_owned().await
    }

    /// gRPC addresses of a region.
    pub fn addresses(&self, region: usize) -> Vec<String> {
        self.addresses[region].clone()
    }

    /// HTTP address of a server.
    pub fn admin(&self, at: At) -> &str {
        &self.admins[at.region][at.node as usize - 1]
    }

    /// The namespaces and the link; an error without root.
    pub fn network(&self) -> Result<&Network> {
        self.network
            .as_ref()
            .context("there is no network of our own without root")
    }

    /// Log file of a server.
    pub fn log_path(&self, at: At) -> PathBuf {
        self.dir
            .join(REGIONS[at.region])
            .join(format!("node-{}", at.node))
            .join("tidemarkd.log")
    }

    /// Waits until a running server says that it is ready, and says how long it took. One that ended by itself is an
    /// error at once.
    pub async fn wait_ready(&self, at: At, server: &mut Server) -> Result<Duration> {
        let began = Instant::now();
        loop {
            server.process.check_alive()?;
            let asked = tokio::time::timeout(Duration::from_secs(2), http_get(self.admin(at), "/readyz")).await;
            let said = match asked {
                Ok(Ok((200, _))) => return Ok(began.elapsed()),
                Ok(Ok((code, body))) => format!("{code} {}", body.trim()),
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "no answer".into(),
            };
            ensure!(
                began.elapsed() < READY_MAX,
                "{at} was not ready within {READY_MAX:?}: {said}\n{}",
                server.process.log_tail(20)
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The start of all names of a run.
pub fn run_name(process: u32) -> String {
    format!("tm{process}")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DiskKind {
    Plain,
    Durable,
    Small,
}

/// What a profile needs around its processes.
#[derive(Clone, Copy, Debug)]
struct Wants {
    disk: DiskKind,
    shim: bool,
    clock: bool,
    /// Caches, memtables and segments of a small server.
    small: bool,
}

impl Wants {
    fn of(options: &Options) -> Wants {
        let profile = options.profile;
        let mix = profile == Profile::Mix;
        let disk = match profile {
            Profile::DiskFull => DiskKind::Small,
            // A sync that failed and was trusted is seen only when the power goes.
            Profile::PowerLoss | Profile::Mix | Profile::Fsync if !options.without_root => DiskKind::Durable,
            _ => DiskKind::Plain,
        };
        Wants {
            disk,
            shim: mix || profile == Profile::Fsync,
            clock: mix || profile == Profile::Clock,
            small: true,
        }
    }
}
