//! The layer's handle: starts its tasks, answers the other regions, carries out an operator's verbs, reports.

use crate::counters::{Counters, LinkGauges};
use crate::keeper::keep_schemas;
use crate::link::TabletAccess;
use crate::link::{PeerConnector, PeerIdentity, PrepareTable, Prepared, RegionIdentity, ReleaseTable, Ship, Shipped};
use crate::receiver::{Receiver, check_peer};
use crate::report::{IncomingReport, LinkReport, NodeReport};
use crate::settings::ReplicationSettings;
use crate::shipper::{Shipper, ShipperParts};
use crate::status::{self, LastKnown, Now, covers};
use crate::verbs::{Enabled, Verbs, identity};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::{Result, RowRange};
use tidemark_catalog::{Catalog, LinkChange};
use tidemark_runtime::{Entropy, Metrics, SharedClock, Shutdown, Tasks};
use tidemark_tablet::{StreamId, StreamState, Tablet};

/// What a replicator is started with.
pub struct ReplicatorOptions {
    /// Tables, tablets, peers, links.
    pub catalog: Catalog,
    /// The tablets.
    pub tablets: Arc<dyn TabletAccess>,
    /// The way to peers.
    pub peers: Arc<dyn PeerConnector>,
    /// Time.
    pub clock: SharedClock,
    /// Jitter and request ids.
    pub entropy: Entropy,
    /// Where its tasks run.
    pub tasks: Tasks,
    /// Where its metrics are declared.
    pub metrics: Metrics,
    /// Bounds; values outside their limits are moved into them.
    pub settings: ReplicationSettings,
}

/// See the module. Clones are the same replicator.
#[derive(Clone)]
pub struct Replicator {
    inner: Arc<Inner>,
}

struct Inner {
    catalog: Catalog,
    tablets: Arc<dyn TabletAccess>,
    clock: SharedClock,
    settings: Arc<ReplicationSettings>,
    counters: Arc<Counters>,
    shipper: Arc<Shipper>,
    receiver: Receiver,
    verbs: Verbs,
    known: Mutex<LastKnown>,
    /// Links whose gauges are shown.
    shown: Mutex<BTreeMap<(String, String), ()>>,
    stop: Shutdown,
}

impl Replicator {
    /// Starts the streams of this node and the task that brings schemas to its tablets. Call inside a tokio runtime.
    pub fn start(options: ReplicatorOptions) -> Replicator {
        let settings = Arc::new(options.settings.clamped());
        let counters = Arc::new(Counters::new(&options.metrics));
        let stop = Shutdown::new();
        let shipper = Arc::new(Shipper::new(ShipperParts {
            catalog: options.catalog.clone(),
            tablets: options.tablets.clone(),
            peers: options.peers.clone(),
            clock: options.clock.clone(),
            entropy: options.entropy.fork(),
            tasks: options.tasks.clone(),
            settings: settings.clone(),
            counters: counters.clone(),
            stop: stop.clone(),
        }));
        let receiver = Receiver::new(
            options.catalog.clone(),
            options.tablets.clone(),
            options.clock.clone(),
            counters.clone(),
            &settings,
        );
        let verbs = Verbs {
            catalog: options.catalog.clone(),
            tablets: options.tablets.clone(),
            peers: options.peers,
            clock: options.clock.clone(),
            entropy: options.entropy.fork(),
            patience: Duration::from_millis(settings.verb_timeout_ms),
        };
        let inner = Arc::new(Inner {
            catalog: options.catalog.clone(),
            tablets: options.tablets.clone(),
            clock: options.clock,
            settings,
            counters,
            shipper: shipper.clone(),
            receiver,
            verbs,
            known: Mutex::default(),
            shown: Mutex::default(),
            stop: stop.clone(),
        });
        let keeper = keep_schemas(options.catalog, options.tablets, stop);
        options.tasks.spawn("schema-keeper", keeper);
        let weak = Arc::downgrade(&inner);
        options.tasks.spawn("shipper", async move {
            shipper
                .run(|| {
                    if let Some(inner) = weak.upgrade() {
                        inner.show();
                    }
                })
                .await;
        });
        Replicator { inner }
    }

    /// Stops its tasks. What is under way is dropped; all of it is repeatable.
    pub fn stop(&self) {
        self.inner.stop.trigger();
    }

    /// What this node knows of replication now.
    pub fn node_report(&self) -> NodeReport {
        self.inner.node_report()
    }

    /// Every link of a table, or of all tables, as the whole region sees it: asks the other nodes. A node that cannot be
    /// asked is not an error: what only it knows shows as BLOCKED, with an upper bound of the lag.
    pub async fn status(&self, table: Option<&str>, with_tablets: bool) -> Result<Vec<LinkReport>> {
        let inner = &self.inner;
        if let Some(table) = table {
            inner.catalog.view().table_or_error(table)?;
        }
        let mut reports = vec![inner.node_report()];
        for report in inner.tablets.remote_reports().await {
            match report {
                Ok(report) => reports.push(report),
                Err(error) => tracing::debug!(%error, "a node did not report"),
            }
        }
        let all = status::links(&inner.catalog.view(), None);
        let now = Now {
            ms: inner.clock.now_ms(),
            monotonic: inner.clock.monotonic(),
        };
        let mut known = inner.known.lock();
        Ok(status::merge(&all, table, &reports, &mut known, now, with_tablets))
    }

    /// A region asks who this is, and whether it is known here.
    pub async fn on_identify(&self, asker: RegionIdentity) -> Result<PeerIdentity> {
        let view = self.inner.catalog.view();
        Ok(PeerIdentity {
            region: identity(&view),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            knows_asker: check_peer(&view, &asker).is_ok(),
        })
    }

    /// A peer switches replication of a table on: makes sure that the table is here, empty, with the same families, and
    /// linked back. Errors: FAILED_PRECONDITION with PEER_UNKNOWN, PEER_MISMATCH, TABLE_NOT_EMPTY, FAMILY_MISMATCH, LINK_STALE.
    pub async fn on_prepare_table(&self, request: PrepareTable) -> Result<Prepared> {
        self.inner.verbs.on_prepare_table(request).await
    }

    /// A peer ends replication of a table with this region.
    pub async fn on_release_table(&self, request: ReleaseTable) -> Result<()> {
        self.inner.verbs.on_release_table(request).await
    }

    /// A peer ships records. Answered when every tablet concerned has committed its share. Errors: FAILED_PRECONDITION
    /// (LINK_MISSING, PEER_UNKNOWN, PEER_MISMATCH), BUSY, UNAVAILABLE (QUARANTINE_FULL, STREAM_WINDOW, no leader), INVALID_ARGUMENT
    /// (RUN_DAMAGED, RUN_TOO_LARGE). A repeat is always safe.
    pub async fn on_ship(&self, ship: Ship) -> Result<Shipped> {
        self.inner.receiver.on_ship(ship).await
    }

    /// Switches replication of a table with a peer on, in both regions. May be repeated.
    pub async fn enable(&self, table: &str, peer: &str) -> Result<Enabled> {
        self.inner.verbs.enable(table, peer).await
    }

    /// Switches it off, in both regions unless `local_only`. What was not shipped yet stays here and is not shipped.
    pub async fn disable(&self, table: &str, peer: &str, local_only: bool) -> Result<()> {
        self.inner.verbs.disable(table, peer, local_only).await
    }

    /// Stops shipping from this region; the feed goes on being written and kept.
    pub async fn pause(&self, table: &str, peer: &str) -> Result<()> {
        self.inner.verbs.set_link(table, peer, LinkChange::Pause).await
    }

    /// Ships again from where it stopped.
    pub async fn resume(&self, table: &str, peer: &str) -> Result<()> {
        self.inner.verbs.set_link(table, peer, LinkChange::Resume).await
    }
}

impl Inner {
    fn node_report(&self) -> NodeReport {
        let unconfirmed = self.unconfirmed();
        let (now_ms, now) = (self.clock.now_ms(), self.clock.monotonic());
        let views = self.shipper.views();
        NodeReport {
            node: self.catalog.group().status().node.0,
            streams: views
                .iter()
                .map(|view| {
                    let unconfirmed = unconfirmed.get(&view.tablet).copied().unwrap_or(Duration::MAX);
                    view.report(now_ms, now, unconfirmed, self.settings.lag_warn_ms)
                })
                .collect(),
            links: self.counters.links(),
            incoming: self.incoming(),
            heard: self.receiver.heard(),
        }
    }

    /// For how long the leadership of each tablet here is not confirmed; zero where it is.
    fn unconfirmed(&self) -> BTreeMap<u64, Duration> {
        let of = |tablet: Tablet| {
            let leadership = tablet.group().leadership();
            leadership
                .is_own()
                .then_some((tablet.descriptor().tablet.0, leadership.unconfirmed))
        };
        self.tablets.local().into_iter().filter_map(of).collect()
    }

    /// Watermarks of the tablets led here, per link.
    fn incoming(&self) -> Vec<IncomingReport> {
        let view = self.catalog.view();
        let mut reports = Vec::new();
        for tablet in self.tablets.local() {
            let leadership = tablet.group().leadership();
            let Some(table) = view.table_by_id(tablet.descriptor().table) else {
                continue;
            };
            if !leadership.ready {
                continue;
            }
            for (peer, link) in &table.links {
                reports.push(incoming_of(&tablet, &table.name, peer, link.peer, leadership.term));
            }
        }
        reports
    }

    /// Sets the gauges of this node's links.
    fn show(&self) {
        let unconfirmed = self.unconfirmed();
        let (now_ms, now) = (self.clock.now_ms(), self.clock.monotonic());
        let mut links: BTreeMap<(String, String), LinkGauges> = BTreeMap::new();
        for view in self.shipper.views() {
            let of_leader = unconfirmed.get(&view.tablet).copied().unwrap_or(Duration::MAX);
            let report = view.report(now_ms, now, of_leader, self.settings.lag_warn_ms);
            let link = links.entry((report.table, report.peer)).or_default();
            link.lag_ms = link.lag_ms.max(report.lag_ms);
            link.lag_unknown_tablets += u64::from(!report.lag_known);
            link.backlog_records += report.backlog_records;
        }
        for incoming in self.incoming() {
            let link = links.entry((incoming.table, incoming.peer)).or_default();
            link.rows_quarantined += incoming.rows_quarantined;
        }
        let mut shown = self.shown.lock();
        for ((table, peer), ()) in shown.iter().filter(|(link, ())| !links.contains_key(*link)) {
            self.counters.hide(table, peer);
        }
        for ((table, peer), gauges) in &links {
            self.counters.show(table, peer, gauges);
        }
        for (peer, bytes) in self.shipper.memory_used() {
            self.counters.show_memory(&peer, bytes);
        }
        *shown = links.into_keys().map(|link| (link, ())).collect();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}

/// One tablet's watermarks of one peer: the least over the streams that share rows with it, if they cover it.
fn incoming_of(tablet: &Tablet, table: &str, peer: &str, region: tidemark_base::RegionId, term: u64) -> IncomingReport {
    let state = tablet.replication_state();
    let range = &tablet.descriptor().range;
    let of_peer = |stream: &(&StreamId, &StreamState)| stream.0.region == region;
    let streams: Vec<&StreamState> = state.streams.iter().filter(of_peer).map(|(_, stream)| stream).collect();
    let watermarks = watermarks(range, &streams);
    IncomingReport {
        table: table.to_owned(),
        peer: peer.to_owned(),
        tablet: tablet.descriptor().tablet.0,
        term,
        covered: watermarks.is_some(),
        applied_hlc: watermarks.map_or(0, |(applied, _)| applied),
        complete_hlc: watermarks.map_or(0, |(_, complete)| complete),
        rows_quarantined: streams.iter().map(|stream| stream.quarantined_rows).sum(),
        rows_applied: streams.iter().map(|stream| stream.rows_applied).sum(),
    }
}

fn watermarks(range: &RowRange, streams: &[&StreamState]) -> Option<(u64, u64)> {
    let overlapping: Vec<&&StreamState> = streams.iter().filter(|stream| stream.range.overlaps(range)).collect();
    let mut ranges: Vec<(&[u8], Option<&[u8]>)> = overlapping
        .iter()
        .map(|stream| (&stream.range.start[..], stream.range.end.as_deref()))
        .collect();
    ranges.sort();
    let applied = overlapping.iter().map(|stream| stream.applied_hlc).min()?;
    let complete = overlapping.iter().map(|stream| stream.complete_hlc).min()?;
    covers(&ranges, &range.start, range.end.as_deref()).then_some((applied, complete))
}
