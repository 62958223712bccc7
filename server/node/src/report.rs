//! What this node says of itself: readiness, the status page, the answer to a neighbour's ping.

use crate::disk::DiskGauge;
use crate::settings::Settings;
use crate::tablets::TabletKeeper;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tidemark_catalog::Catalog;
use tidemark_consensus::FileLog;
use tidemark_ops::Readiness;
use tidemark_runtime::marks::Mark;
use tidemark_runtime::{GaugeFamily, Metrics, SharedClock};
use tidemark_services::{DiskGuard, LeadingGroup, NodeInfo, Pong, TabletDirectory};

/// Everything about this node that others ask for.
pub struct NodeFacts {
    settings: Settings,
    catalog: Catalog,
    keeper: Arc<TabletKeeper>,
    disk: Arc<DiskGauge>,
    log: Arc<FileLog>,
    clock: SharedClock,
    registered: AtomicBool,
    stopping: AtomicBool,
    disk_free: GaugeFamily,
    log_bytes: GaugeFamily,
    tablets: GaugeFamily,
    at_rest: GaugeFamily,
}

impl NodeFacts {
    /// Facts about a node that has just been built.
    pub fn new(
        settings: Settings,
        catalog: Catalog,
        keeper: Arc<TabletKeeper>,
        disk: Arc<DiskGauge>,
        log: Arc<FileLog>,
        clock: SharedClock,
        metrics: Metrics,
    ) -> NodeFacts {
        NodeFacts {
            settings,
            catalog,
            keeper,
            disk,
            log,
            clock,
            registered: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            disk_free: metrics.gauge(
                "tidemark_disk_free_bytes",
                "Free bytes of the data directory's file system",
                &[],
            ),
            log_bytes: metrics.gauge("tidemark_raft_log_bytes", "Bytes of Raft log segments on disk", &[]),
            tablets: metrics.gauge("tidemark_tablets_count", "Replicas on this node, by role", &["role"]),
            at_rest: metrics.gauge(
                "tidemark_tablets_at_rest_count",
                "Replicas on this node that have nothing to do and send nothing",
                &[],
            ),
        }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Wall time in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Notes that the catalog knows this node.
    pub fn set_registered(&self) {
        self.registered.store(true, Ordering::Relaxed);
    }

    /// Notes that the node is going away: not ready from now on.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Measures what changes with time. Returns true if the disk guard's verdict changed.
    pub fn measure(&self) -> bool {
        let changed = self.disk.measure();
        self.disk_free.plain().set(self.disk.free_bytes() as f64);
        self.log_bytes.plain().set(self.log.bytes_on_disk() as f64);
        let all = self.keeper.all();
        let leaders = all.iter().filter(|t| t.group().leadership().is_own()).count();
        self.tablets.with(&["leader"]).set(leaders as f64);
        let at_rest = all.iter().filter(|t| t.group().is_at_rest()).count();
        self.at_rest.plain().set(at_rest as f64);
        self.tablets.with(&["follower"]).set((all.len() - leaders) as f64);
        changed
    }

    /// Free bytes and the reserve, for log lines.
    pub fn disk(&self) -> &DiskGauge {
        &self.disk
    }

    /// The status page.
    pub fn status(&self) -> serde_json::Value {
        let tablets: Vec<serde_json::Value> = self
            .keeper
            .all()
            .iter()
            .map(|tablet| {
                let s = tablet.group().status();
                serde_json::json!({
                    "tablet": tablet.descriptor().tablet.0,
                    "table": tablet.descriptor().table_name,
                    "role": format!("{:?}", s.role),
                    "leader": s.leader.map(|n| n.0),
                    "term": s.term,
                    "applied": s.applied_index,
                    "durable": s.durable_index,
                    "last": s.last_index,
                    "at_rest": tablet.group().is_at_rest(),
                    "purged": s.purged_index,
                    "snapshot": s.snapshot_index,
                    "trouble": tablet.trouble(),
                })
            })
            .collect();
        serde_json::json!({
            "region": self.settings.typed.region.name,
            "node": self.settings.node.0,
            "version": env!("CARGO_PKG_VERSION"),
            "catalog_leader": self.catalog.group().leader().map(|n| n.0),
            "disk_free_bytes": self.disk.free_bytes(),
            "disk_low": self.disk.is_low(),
            "raft_log_bytes": self.log.bytes_on_disk(),
            "trouble": self.trouble(),
            "tablets": tablets,
            "marks": marks(),
        })
    }

    /// What is wrong with this node, in words; empty = nothing.
    pub fn trouble(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        if let Some(why) = self.log.poisoned() {
            parts.push(format!("the Raft log is poisoned: {why}; restart this node"));
        }
        if self.log.stalled_no_space() {
            parts.push("the Raft log waits for disk space".into());
        }
        if self.disk.is_low() {
            parts.push(format!("disk low: {} bytes free", self.disk.free_bytes()));
        }
        if let Some(why) = self.catalog.group().status().fault {
            parts.push(format!("the catalog replica stopped: {why}"));
        }
        parts.extend(
            self.keeper
                .troubles()
                .into_iter()
                .map(|(id, why)| format!("{id}: {why}")),
        );
        parts.join("; ")
    }
}

/// Rare events since the process started: what a test run of real servers looks for.
fn marks() -> serde_json::Value {
    let all = Mark::ALL
        .iter()
        .map(|mark| (mark.name().to_owned(), tidemark_runtime::marks::count(*mark).into()));
    serde_json::Value::Object(all.collect())
}

impl Readiness for NodeFacts {
    fn ready(&self) -> Result<(), String> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err("stopping".into());
        }
        if self.catalog.group().leader().is_none() {
            return Err("the catalog has no leader: are most of the seed nodes up?".into());
        }
        if !self.registered.load(Ordering::Relaxed) {
            return Err("not registered in the catalog yet".into());
        }
        if !self.keeper.has_caught_up() {
            return Err("some tablets of this node have not started yet".into());
        }
        let leaderless = self
            .keeper
            .all()
            .iter()
            .filter(|t| t.group().leader().is_none())
            .count();
        if leaderless > 0 {
            return Err(format!("{leaderless} tablets of this node have no leader"));
        }
        match self.log.poisoned() {
            Some(why) => Err(format!("the Raft log is poisoned: {why}")),
            None => Ok(()),
        }
    }
}

impl NodeInfo for NodeFacts {
    fn pong(&self) -> Pong {
        let all = self.keeper.all();
        let leading = all
            .iter()
            .map(|tablet| (tablet.group().leadership(), tablet))
            .filter(|(leadership, _)| leadership.is_own())
            .map(|(leadership, tablet)| LeadingGroup {
                group: tablet.group().id(),
                term: leadership.term,
                disk_bytes: tablet.engine().disk_bytes(),
                trouble: tablet.trouble().unwrap_or_default(),
            })
            .collect();
        Pong {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now_ms: self.clock.now_ms(),
            tablets: all.len() as u32,
            disk_used_bytes: self.disk.used_bytes(),
            disk_free_bytes: self.disk.free_bytes(),
            trouble: self.trouble(),
            leading,
        }
    }
}

impl DiskGuard for NodeFacts {
    fn is_low(&self) -> bool {
        self.disk.is_low() || self.log.stalled_no_space()
    }

    fn explain(&self) -> String {
        format!(
            "{} bytes are free where {} are kept in reserve ({})",
            self.disk.free_bytes(),
            self.disk.reserve_bytes(),
            self.settings.typed.node.data_dir.display()
        )
    }
}
