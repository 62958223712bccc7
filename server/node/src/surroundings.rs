//! What a node takes from outside: time, chance, the network and the disk. In a server they are the operating system's; a
//! simulation brings its own and runs the same node.
//!
//! Two implementations of each seam: the ones here, and the ones of `tests/simulation`. What is behind a seam decides
//! nothing that the node could decide; it only carries bytes, keeps them, and says what time it is.

use crate::identity::DataDir;
use crate::settings::Settings;
use anyhow::{Result, anyhow};
use async_trait::async_trait;
use futures::stream::BoxStream;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tidemark_consensus::{ConsensusSettings, FileLogOptions, LogDisk, SystemDisk};
use tidemark_engine::{RocksSettings, RocksShared};
use tidemark_proto::{Accepted, Dialer};
use tidemark_replication::ReplicationSettings;
use tidemark_runtime::{Entropy, SharedClock, SystemClock};
use tidemark_tablet::{EngineFactory, RocksFactory, TabletSettings};
use tokio::net::TcpListener;

/// Everything that a node takes from outside.
#[derive(Clone)]
pub struct Surroundings {
    /// Time.
    pub clock: SharedClock,
    /// Chance.
    pub entropy: Entropy,
    /// Other processes.
    pub network: Arc<dyn Network>,
    /// What outlives the process.
    pub storage: Arc<dyn Storage>,
    /// Bounds of the layers.
    pub bounds: Bounds,
}

impl Surroundings {
    /// The operating system's, with the bounds that the settings say.
    pub fn system(settings: &Settings) -> Surroundings {
        Surroundings {
            clock: SystemClock::shared(),
            entropy: Entropy::from_os(),
            network: Arc::new(SystemNetwork),
            storage: Arc::new(SystemStorage),
            bounds: Bounds::of(settings),
        }
    }
}

/// Bounds and intervals of the layers. Most are not settings: nobody has had a reason to change them in a server.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Of the Raft groups.
    pub consensus: ConsensusSettings,
    /// Of the tablets.
    pub tablet: TabletSettings,
    /// Of the streams.
    pub replication: ReplicationSettings,
}

impl Bounds {
    /// What the settings say, and the defaults for the rest.
    pub fn of(settings: &Settings) -> Bounds {
        let typed = &settings.typed;
        Bounds {
            consensus: ConsensusSettings {
                heartbeat_ms: typed.consensus.heartbeat_ms,
                election_timeout_min_ms: typed.consensus.election_min_ms,
                election_timeout_max_ms: typed.consensus.election_max_ms,
                rest_after_ms: typed.consensus.rest_after_ms,
                ..ConsensusSettings::default()
            },
            tablet: TabletSettings {
                close_interval_ms: typed.replication.close_interval_ms,
                gc_interval_ms: settings.garbage_interval.as_millis() as u64,
                ..TabletSettings::default()
            },
            replication: ReplicationSettings::default(),
        }
    }
}

/// The way to other processes, and from them.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// How this node connects.
    fn dialer(&self) -> Dialer;

    /// Begins to listen for gRPC.
    async fn listen(&self, address: SocketAddr) -> io::Result<Listener>;

    /// Begins to listen for the pages of the operations listener; none where nobody can ask for them.
    async fn listen_for_pages(&self, address: SocketAddr) -> io::Result<Option<TcpListener>>;
}

/// Where connections arrive.
pub enum Listener {
    /// A socket.
    Socket(TcpListener),
    /// Elsewhere.
    Connections(BoxStream<'static, io::Result<Accepted>>),
}

/// The operating system's sockets.
#[derive(Clone, Copy, Debug)]
pub struct SystemNetwork;

#[async_trait]
impl Network for SystemNetwork {
    fn dialer(&self) -> Dialer {
        Dialer::system()
    }

    async fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        TcpListener::bind(address).await.map(Listener::Socket)
    }

    async fn listen_for_pages(&self, address: SocketAddr) -> io::Result<Option<TcpListener>> {
        TcpListener::bind(address).await.map(Some)
    }
}

/// Free and used bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Free to this process.
    pub free_bytes: u64,
    /// Used by anybody.
    pub used_bytes: u64,
}

/// What outlives the process: the Raft log's files, the tablets' engines, and how much room there is.
pub trait Storage: Send + Sync + 'static {
    /// The files of the Raft log.
    fn log_disk(&self) -> Arc<dyn LogDisk>;

    /// How the Raft log is kept.
    fn log_options(&self, settings: &Settings) -> FileLogOptions;

    /// The tablets' engines.
    fn engines(&self, settings: &Settings, data: &DataDir, clock: &SharedClock) -> Result<Arc<dyn EngineFactory>>;

    /// The room where the data directory is; none if it cannot be measured now.
    fn space(&self, path: &Path) -> Option<Space>;
}

/// Files of the operating system, RocksDB.
#[derive(Clone, Copy, Debug)]
pub struct SystemStorage;

impl Storage for SystemStorage {
    fn log_disk(&self) -> Arc<dyn LogDisk> {
        Arc::new(SystemDisk)
    }

    fn log_options(&self, settings: &Settings) -> FileLogOptions {
        FileLogOptions {
            segment_bytes: settings.typed.storage.log_segment.as_u64(),
            // A start reads all of it: a group that says little must not hold the log of the others for long.
            rewrite_above_bytes: settings.typed.storage.log_segment.as_u64().saturating_mul(2),
            disk: self.log_disk(),
            ..FileLogOptions::default()
        }
    }

    fn engines(&self, settings: &Settings, data: &DataDir, clock: &SharedClock) -> Result<Arc<dyn EngineFactory>> {
        let rocks = RocksSettings {
            block_cache_bytes: settings.typed.storage.block_cache.as_u64() as usize,
            // All of the budget may be one tablet's.
            memtables_bytes: settings.typed.storage.memtables.as_u64() as usize,
            memtable_bytes: settings.typed.storage.memtables.as_u64() as usize,
            kept_rows_bytes: settings.typed.storage.kept_rows.as_u64(),
            ..RocksSettings::default()
        };
        let shared = RocksShared::new(rocks).map_err(|e| anyhow!("cannot set up storage: {e}"))?;
        let root = data.join("tablets");
        let factory =
            RocksFactory::new(root, shared, clock.clone()).map_err(|e| anyhow!("cannot open tablets: {e}"))?;
        Ok(Arc::new(factory))
    }

    fn space(&self, path: &Path) -> Option<Space> {
        let stat = rustix::fs::statvfs(path).ok()?;
        Some(Space {
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            used_bytes: stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize),
        })
    }
}
