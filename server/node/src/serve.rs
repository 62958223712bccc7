//! Wiring: builds the layers from below to above, serves, and takes them down in reverse. Decides nothing.
//!
//! ```text
//! start:  data directory, lock -> raft log -> groups -> catalog -> tablets -> replication -> gRPC + HTTP
//! stop:   not ready -> leaderships handed over -> no new requests, in-flight ones answered -> tablets closed -> log closed
//! ```

use crate::args::Options;
use crate::disk::DiskGauge;
use crate::identity::{DataDir, Identity};
use crate::liveness::Liveness;
use crate::logging;
use crate::maintenance;
use crate::report::NodeFacts;
use crate::settings::Settings;
use crate::surroundings::{Bounds, Listener, Storage, Surroundings};
use crate::tablets::{TabletGate, TabletKeeper, TabletKit};
use anyhow::{Context, Result, anyhow};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::NodeId;
use tidemark_catalog::{Catalog, CatalogOptions, Leaders};
use tidemark_consensus::{FileLog, Host, HostOptions, LogStore};
use tidemark_ops::Ops;
use tidemark_proto::Dialer;
use tidemark_replication::{Replicator, ReplicatorOptions};
use tidemark_runtime::{Entropy, Metrics, SharedClock, Shutdown, Tasks};
use tidemark_services::{Admission, NodeIdentity, PeerClients, RegionClients, ServiceContext};
use tokio::net::TcpListener;
use tracing::{error, info};

/// How long a graceful stop may take in all.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// Serves until a signal says stop.
pub fn run(options: &Options) -> Result<()> {
    // Before anything is created: files 0600, directories 0700.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let settings = options.settings()?;
    logging::start(&settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().max(2)))
        .build()
        .context("cannot start the async runtime")?;
    let until_stdin_closes = options.until_stdin_closes;
    let outcome = runtime.block_on(async {
        let node = Node::start(settings).await?;
        let why = wait_for_end(until_stdin_closes, &node).await;
        node.stop(&why).await
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome
}

/// Waits for SIGTERM, SIGINT, the end of standard input (if asked for), or a reason of the node's own.
async fn wait_for_end(until_stdin_closes: bool, node: &Node) -> String {
    use tokio::io::AsyncReadExt;
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return "signals cannot be received".into();
    };
    let stdin_closed = async {
        if !until_stdin_closes {
            return std::future::pending::<()>().await;
        }
        let mut stdin = tokio::io::stdin();
        let mut buffer = [0u8; 64];
        while matches!(stdin.read(&mut buffer).await, Ok(n) if n > 0) {}
    };
    tokio::select! {
        _ = term.recv() => "SIGTERM".into(),
        _ = int.recv() => "SIGINT".into(),
        () = stdin_closed => "standard input closed".into(),
        why = node.ended() => why,
    }
}

/// A running node.
pub struct Node {
    catalog: Catalog,
    shutdown: Shutdown,
    fatal: Shutdown,
    tasks: Tasks,
    host: Host,
    log: Arc<FileLog>,
    keeper: Arc<TabletKeeper>,
    replicator: Replicator,
    peers: Arc<PeerClients>,
    facts: Arc<NodeFacts>,
    _data: Arc<DataDir>,
}

impl Node {
    /// Builds and starts everything on this machine. Returns as soon as it listens; readiness comes with the first catalog
    /// leader.
    pub async fn start(settings: Settings) -> Result<Node> {
        let surroundings = Surroundings::system(&settings);
        Node::start_in(settings, surroundings).await
    }

    /// The same in other surroundings.
    pub async fn start_in(settings: Settings, surroundings: Surroundings) -> Result<Node> {
        let Surroundings {
            clock,
            entropy,
            network,
            storage,
            bounds,
        } = surroundings;
        let log_disk = storage.log_disk();
        let data = DataDir::open(
            &settings.typed.node.data_dir,
            &identity(&settings, &entropy),
            &*log_disk,
        )?;
        let data = Arc::new(data);
        log_start(&settings);
        let fatal = Shutdown::new();
        let fatal_hook = fatal.clone();
        let base = Base {
            clock,
            entropy,
            storage,
            bounds,
            dialer: network.dialer(),
            metrics: Metrics::new(),
            tasks: Tasks::with_fatal_hook(Arc::new(move |_name, _message| fatal_hook.trigger())),
            shutdown: Shutdown::new(),
        };
        // Bound before anything answers, so that an address in use is the first thing said.
        let grpc = network
            .listen(settings.grpc)
            .await
            .with_context(|| format!("cannot listen on {}", settings.grpc))?;
        let admin = network
            .listen_for_pages(settings.admin)
            .await
            .with_context(|| format!("cannot listen on {}", settings.admin))?;
        let layers = Layers::build(&settings, &data, &base).await?;
        // Founding may have written a vote; nobody has heard of it yet.
        maintenance::begin_log(&data, &layers.log).await?;
        let facts = Arc::new(NodeFacts::new(
            settings.clone(),
            layers.catalog.clone(),
            layers.keeper.clone(),
            Arc::new(DiskGauge::new(
                settings.typed.node.data_dir.clone(),
                settings.typed.storage.disk_reserve.as_u64(),
                base.storage.clone(),
            )),
            layers.log.clone(),
            base.clock.clone(),
            base.metrics.clone(),
        ));
        spawn_tasks(&settings, &base, &layers, &facts, grpc, admin);
        let Base { tasks, shutdown, .. } = base;
        let Layers {
            host,
            catalog,
            log,
            keeper,
            replicator,
            peers,
            ..
        } = layers;
        Ok(Node {
            catalog,
            shutdown,
            fatal,
            tasks,
            host,
            log,
            keeper,
            replicator,
            peers,
            facts,
            _data: data,
        })
    }

    /// Returns, with the reason, when the node cannot go on: a task that must not die did, or the others say that this node's
    /// number is another's.
    pub async fn ended(&self) -> String {
        tokio::select! {
            () = self.fatal.wait() => "a task that must not end has ended".into(),
            refused = self.peers.disowned() => {
                let why = format!("{}; {}", refused.message(), refused.next_action());
                error!(reason = refused.reason(), "{why}");
                self.fatal.trigger();
                why
            }
        }
    }

    /// What the node says of itself.
    pub fn facts(&self) -> &Arc<NodeFacts> {
        &self.facts
    }

    /// The Raft groups here.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The catalog's replica here.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The tablets' replicas here.
    pub fn tablets(&self) -> &Arc<TabletKeeper> {
        &self.keeper
    }

    /// The replication of this node's tablets.
    pub fn replicator(&self) -> &Replicator {
        &self.replicator
    }

    /// Takes everything down, bounded in time.
    pub async fn stop(self, why: &str) -> Result<()> {
        info!(why, "stopping");
        self.facts.set_stopping();
        self.host.shutdown(STOP_LIMIT / 3).await;
        self.shutdown.trigger();
        self.replicator.stop();
        let stopping = async {
            self.keeper.stop_all().await;
            self.tasks.join_all(STOP_LIMIT / 3).await
        };
        match tokio::time::timeout(STOP_LIMIT, stopping).await {
            Ok(late) if late.is_empty() => info!("stopped"),
            Ok(late) => info!(?late, "stopped; these tasks did not end in time"),
            Err(_) => error!("stopping took too long; what is acknowledged is in the log"),
        }
        self.log.close();
        if self.fatal.is_triggered() {
            Err(anyhow!("stopped because {why}"))
        } else {
            Ok(())
        }
    }
}

/// What every layer is given.
struct Base {
    clock: SharedClock,
    entropy: Entropy,
    storage: Arc<dyn Storage>,
    bounds: Bounds,
    dialer: Dialer,
    metrics: Metrics,
    tasks: Tasks,
    shutdown: Shutdown,
}

/// The layers, from below to above.
struct Layers {
    identity: NodeIdentity,
    peers: Arc<PeerClients>,
    log: Arc<FileLog>,
    host: Host,
    catalog: Catalog,
    leaders: Leaders,
    keeper: Arc<TabletKeeper>,
    replicator: Replicator,
}

impl Layers {
    async fn build(settings: &Settings, data: &DataDir, base: &Base) -> Result<Layers> {
        let identity = NodeIdentity {
            cluster: settings.cluster.clone(),
            region_name: settings.typed.region.name.clone(),
            region: settings.region,
            node: settings.node,
            address: settings.advertise.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation: data.incarnation(),
        };
        let peers = PeerClients::new(identity.clone(), settings.seeds.clone(), base.dialer.clone());
        let log = open_log(settings, data, base)?;
        let host = Host::open(HostOptions {
            node: settings.node,
            log: log.clone() as Arc<dyn LogStore>,
            snapshot_dir: data.join("snapshots"),
            transport: peers.clone(),
            settings: base.bounds.consensus.clone(),
            entropy: base.entropy.fork(),
        })
        .await
        .map_err(|e| anyhow!("cannot start consensus: {e}"))?;
        let catalog = start_catalog(settings, data, &host, &base.clock, &base.entropy, &peers).await?;
        peers.follow(catalog.clone());
        let leaders = Leaders::default();
        let kit = TabletKit {
            node: settings.node,
            host: host.clone(),
            factory: base.storage.engines(settings, data, &base.clock)?,
            clock: base.clock.clone(),
            tasks: base.tasks.clone(),
            settings: base.bounds.tablet.clone(),
            metrics: base.metrics.clone(),
        };
        let keeper = TabletKeeper::new(kit, catalog.clone());
        let gate = Arc::new(TabletGate {
            keeper: keeper.clone(),
            peers: peers.clone(),
            catalog: catalog.clone(),
            leaders: leaders.clone(),
            node: settings.node,
        });
        let replicator = Replicator::start(ReplicatorOptions {
            catalog: catalog.clone(),
            tablets: gate,
            peers: RegionClients::new(identity.clone(), base.dialer.clone()),
            clock: base.clock.clone(),
            entropy: base.entropy.fork(),
            tasks: base.tasks.clone(),
            metrics: base.metrics.clone(),
            settings: base.bounds.replication.clone(),
        });
        Ok(Layers {
            identity,
            peers,
            log,
            host,
            catalog,
            leaders,
            keeper,
            replicator,
        })
    }
}

/// Starts what listens and what looks around.
fn spawn_tasks(
    settings: &Settings,
    base: &Base,
    layers: &Layers,
    facts: &Arc<NodeFacts>,
    grpc: Listener,
    admin: Option<TcpListener>,
) {
    let context = ServiceContext {
        catalog: layers.catalog.clone(),
        tablets: layers.keeper.clone(),
        replicator: layers.replicator.clone(),
        leaders: layers.leaders.clone(),
        peers: layers.peers.clone(),
        clock: base.clock.clone(),
        entropy: base.entropy.fork(),
        admission: Arc::new(Admission::new(
            settings.typed.limits.write_bytes_in_flight.as_u64() as usize,
            settings.typed.limits.scans,
            facts.clone(),
        )),
        metrics: base.metrics.clone(),
        identity: layers.identity.clone(),
        host: layers.host.clone(),
        node_info: facts.clone(),
    };
    let liveness = Arc::new(Liveness {
        node: settings.node,
        catalog: layers.catalog.clone(),
        keeper: layers.keeper.clone(),
        peers: layers.peers.clone(),
        leaders: layers.leaders.clone(),
        clock: base.clock.clone(),
        steady_since: Default::default(),
    });
    let pages = facts.clone();
    let ops = Ops::new(base.metrics.clone(), facts.clone(), move || pages.status());
    let (tasks, stop) = (&base.tasks, || base.shutdown.child());
    match grpc {
        Listener::Socket(socket) => tasks.spawn("grpc", tidemark_services::serve(socket, context, stop())),
        Listener::Connections(accepted) => {
            tasks.spawn("grpc", tidemark_services::serve_connections(accepted, context, stop()));
        }
    }
    if let Some(admin) = admin {
        tasks.spawn("admin-http", tidemark_ops::serve(admin, ops, stop()));
    }
    tasks.spawn("tablets", layers.keeper.clone().run(stop()));
    tasks.spawn("liveness", liveness.run(stop()));
    tasks.spawn(
        "maintenance",
        maintenance::run(facts.clone(), layers.keeper.clone(), stop()),
    );
    let registering = maintenance::register(
        facts.clone(),
        layers.catalog.clone(),
        layers.peers.clone(),
        layers.identity.clone(),
        base.entropy.fork(),
        stop(),
    );
    tasks.spawn("registration", registering);
}

/// What a new directory is given.
fn identity(settings: &Settings, entropy: &Entropy) -> Identity {
    Identity {
        format: 1,
        cluster: settings.cluster.clone(),
        region: settings.typed.region.name.clone(),
        region_number: settings.region.0,
        node: settings.node.0,
        incarnation: format!("{:016x}{:016x}", entropy.next_u64(), entropy.next_u64()),
        log_begun: false,
    }
}

/// One line for each start, with the effective settings.
fn log_start(settings: &Settings) {
    let effective = serde_json::to_string(&settings.typed).unwrap_or_default();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        region = %settings.typed.region.name,
        node = settings.node.0,
        grpc = %settings.grpc,
        admin = %settings.admin,
        settings = %effective,
        "starting"
    );
}

fn open_log(settings: &Settings, data: &DataDir, base: &Base) -> Result<Arc<FileLog>> {
    FileLog::open(&data.join("log"), base.storage.log_options(settings))
        .map_err(|e| anyhow!("cannot open the Raft log: {e}"))
}

async fn start_catalog(
    settings: &Settings,
    data: &DataDir,
    host: &Host,
    clock: &SharedClock,
    entropy: &Entropy,
    peers: &Arc<PeerClients>,
) -> Result<Catalog> {
    let voters: BTreeSet<NodeId> = settings.seeds.keys().copied().collect();
    Catalog::start(CatalogOptions {
        host: host.clone(),
        dir: data.join("catalog"),
        cluster: settings.cluster.clone(),
        region_name: settings.typed.region.name.clone(),
        region: settings.region,
        node: settings.node,
        clock: clock.clone(),
        entropy: entropy.fork(),
        forward: peers.clone(),
        voters,
    })
    .await
    .map_err(|e| anyhow!("cannot start the catalog: {e}"))
}
