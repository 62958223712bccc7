//! A node of the simulation: what outlives its process, and a look into the process while it lives.

use crate::chance;
use crate::disk::SimulatedDisk;
use crate::network::{PORT, SimulatedNetwork};
use crate::storage::SimulatedStorage;
use crate::time::SiteClock;
use crate::trace::Trace;
use bytesize::ByteSize;
use parking_lot::Mutex;
use rand::Rng;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidemark_base::NodeId;
use tidemark_base::limits::MAX_SKEW_MS;
use tidemark_catalog::Catalog;
use tidemark_node::serve::Node;
use tidemark_node::settings::{self, SeedSection, Settings, Typed};
use tidemark_node::surroundings::{Bounds, Surroundings};
use tidemark_node::tablets::TabletKeeper;
use tidemark_services::TabletDirectory;
use tidemark_tablet::{MemoryFactory, Tablet};

/// Names of the regions, of which a run has the first two or all; a site's name is the first letter and its number.
pub const REGIONS: [&str; 3] = ["east", "west", "north"];
/// Nodes of each region.
pub const NODES: u64 = 3;
/// Size of each node's disk. Small, so that what is kept without need shows.
const DISK_BYTES: u64 = 64 << 20;

/// Of so many seeds one has three regions: half as much again to simulate, and what only a third region shows needs a
/// cut between two of them.
const THREE_REGIONS_EVERY: u32 = 4;
/// A quarantine bound that a run's rows of an unknown family exceed, so that batches are refused; an entry counts 1 KiB.
const SMALL_QUARANTINE_BYTES: u64 = 3 << 10;
/// The smallest run of feed records, so that a backlog needs several.
const SMALL_RUN_BYTES: usize = 4 << 10;

/// What the seed decides of all nodes.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The run's seed.
    pub seed: u64,
    /// How many regions there are.
    pub regions: usize,
    /// Bytes of unflushed facts after which a tablet flushes.
    pub flush_bytes: u64,
    /// Entries that the logs keep for followers that lag.
    pub lag_entries: u64,
    /// Between garbage collections, milliseconds.
    pub garbage_ms: u64,
    /// Runs of feed records are small, and some values are large.
    pub small_runs: bool,
    /// The quarantine holds a few rows only: then batches are refused.
    pub small_quarantine: bool,
    /// Groups go to rest in every pause between two commands, not after seconds.
    pub rests_quickly: bool,
    /// By how much each node's clock is wrong at most, always: less than what a region allows among its nodes (R8).
    pub skew: Duration,
}

/// Greatest skew of a seed that has any. Two clocks differ by twice as much, which must stay below what is allowed.
const SKEW_MAX_MS: u64 = MAX_SKEW_MS * 2 / 5;

impl Shape {
    /// That of a seed.
    pub fn of(seed: u64) -> Shape {
        let mut rng = chance::stream(seed, "shape");
        Shape {
            seed,
            regions: regions(seed),
            flush_bytes: rng.random_range(2..40) << 10,
            lag_entries: rng.random_range(8..200),
            garbage_ms: if rng.random_bool(0.5) {
                3_600_000
            } else {
                rng.random_range(2_000..10_000)
            },
            small_runs: rng.random_bool(0.5),
            small_quarantine: rng.random_bool(0.25),
            rests_quickly: chance::stream(seed, "rest").random_bool(0.5),
            skew: Duration::from_millis(if rng.random_bool(0.4) { SKEW_MAX_MS } else { 0 }),
        }
    }

    fn skew_micros(&self, site: &str) -> i64 {
        let most = self.skew.as_micros() as i64;
        chance::stream(self.seed, &format!("clock {site}")).random_range(-most..=most)
    }
}

/// How many regions a seed has.
pub fn regions(seed: u64) -> usize {
    match chance::stream(seed, "regions").random_ratio(1, THREE_REGIONS_EVERY) {
        true => REGIONS.len(),
        false => REGIONS.len() - 1,
    }
}

/// A node.
pub struct Site {
    /// `e1`.
    pub name: String,
    /// Index into [`REGIONS`].
    pub region: usize,
    /// Its number in the region.
    pub node: NodeId,
    /// Its clock.
    pub clock: SiteClock,
    /// Its disk and engines.
    pub storage: SimulatedStorage,
    shape: Shape,
    data_dir: PathBuf,
    lives: AtomicU64,
    inside: Mutex<Option<Inside>>,
    refused: Mutex<Option<String>>,
}

/// What is looked at in a running node.
#[derive(Clone)]
pub struct Inside {
    /// Its tablets.
    pub tablets: Arc<TabletKeeper>,
    /// Its catalog.
    pub catalog: Catalog,
    /// The log of all its groups.
    pub log: Arc<dyn tidemark_consensus::LogStore>,
}

/// A site's name.
pub fn name(region: usize, node: u64) -> String {
    format!("{}{node}", &REGIONS[region][..1])
}

/// The region of a site.
pub fn region_of(site: &str) -> usize {
    let found = REGIONS.iter().position(|region| region[..1] == site[..1]);
    found.expect("a site is named after its region")
}

/// All sites of a region.
pub fn names(region: usize) -> impl Iterator<Item = String> {
    (1..=NODES).map(move |node| name(region, node))
}

/// Pairs of regions that are linked: each with each.
pub fn pairs(regions: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..regions).flat_map(move |a| (a + 1..regions).map(move |b| (a, b)))
}

/// Its address.
pub fn address(region: usize, node: u64) -> String {
    format!("{}:{PORT}", name(region, node))
}

impl Site {
    /// A node that has never run.
    pub fn new(shape: &Shape, region: usize, node: u64, root: &std::path::Path, trace: &Trace) -> Arc<Site> {
        let name = name(region, node);
        let rng = chance::stream(shape.seed, &format!("disk {name}"));
        Arc::new(Site {
            region,
            node: NodeId(node),
            clock: SiteClock::skewed(shape.skew_micros(&name)),
            storage: SimulatedStorage {
                disk: SimulatedDisk::new(&name, rng, DISK_BYTES, trace.clone()),
                engines: MemoryFactory::new(),
            },
            shape: shape.clone(),
            data_dir: root.join(&name),
            lives: AtomicU64::new(0),
            inside: Mutex::new(None),
            refused: Mutex::new(None),
            name,
        })
    }

    /// One life of its process, to be run as a host.
    pub async fn live(self: Arc<Site>) -> turmoil::Result {
        let life = self.lives.fetch_add(1, Ordering::Relaxed);
        let settings = self.settings().map_err(|e| e.to_string())?;
        let surroundings = self.surroundings(&settings, life);
        let node = match Node::start_in(settings, surroundings).await {
            Ok(node) => node,
            Err(error) => {
                // A process that exits with an error, and a supervisor that gives up.
                *self.refused.lock() = Some(format!("{error:#}"));
                return std::future::pending().await;
            }
        };
        *self.inside.lock() = Some(Inside {
            tablets: node.tablets().clone(),
            catalog: node.catalog().clone(),
            log: node.host().log().clone(),
        });
        let why = node.ended().await;
        Err(format!("{} ended by itself: {why}", self.name).into())
    }

    /// The process is about to be killed: nothing may keep a hand in it.
    pub fn forget(&self) {
        *self.inside.lock() = None;
        *self.refused.lock() = None;
    }

    /// The running process, if it is up.
    pub fn inside(&self) -> Option<Inside> {
        self.inside.lock().clone()
    }

    /// Why it did not start, if it did not.
    pub fn refused(&self) -> Option<String> {
        self.refused.lock().clone()
    }

    /// How often it was started.
    pub fn lives(&self) -> u64 {
        self.lives.load(Ordering::Relaxed)
    }

    /// Its tablets, while it runs.
    pub fn tablets(&self) -> Vec<Tablet> {
        self.inside().map_or_else(Vec::new, |inside| inside.tablets.all())
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        let mut typed = Typed::default();
        typed.node.id = self.node.0;
        typed.node.zone = format!("zone-{}", self.node.0);
        typed.node.data_dir.clone_from(&self.data_dir);
        typed.region.name = REGIONS[self.region].to_owned();
        typed.region.number = self.region as u16 + 1;
        typed.listen.grpc = format!("0.0.0.0:{PORT}");
        typed.listen.admin = format!("0.0.0.0:{}", PORT + 1);
        typed.listen.advertise = address(self.region, self.node.0);
        typed.listen.insecure = true;
        typed.seeds = (1..=NODES)
            .map(|id| SeedSection {
                id,
                address: address(self.region, id),
            })
            .collect();
        typed.storage.disk_reserve = ByteSize::kib(256);
        typed.storage.log_segment = ByteSize::mib(1);
        typed.storage.garbage_interval = format!("{}ms", self.shape.garbage_ms);
        settings::check(typed, Default::default())
    }

    fn surroundings(&self, settings: &Settings, life: u64) -> Surroundings {
        let mut bounds = Bounds::of(settings);
        bounds.tablet.flush_bytes = self.shape.flush_bytes;
        bounds.consensus.snapshot_lag_entries = self.shape.lag_entries;
        bounds.consensus.snapshot_lag_bytes = self.shape.lag_entries * 512;
        bounds.consensus.log_bytes_before_flush = self.shape.flush_bytes;
        if self.shape.rests_quickly {
            bounds.consensus.housekeeping_ms = 40;
            bounds.consensus.rest_after_ms = 40;
        }
        if self.shape.small_runs {
            bounds.replication.ship_bytes_max = SMALL_RUN_BYTES;
        }
        if self.shape.small_quarantine {
            bounds.tablet.quarantine_bytes_max = SMALL_QUARANTINE_BYTES;
        }
        Surroundings {
            clock: Arc::new(self.clock.clone()),
            entropy: chance::entropy(self.shape.seed, &format!("{} life {life}", self.name)),
            network: Arc::new(SimulatedNetwork::of(&self.name)),
            storage: Arc::new(self.storage.clone()),
            bounds,
        }
    }
}
