//! The streams of this node: one for each tablet that it leads and each peer of that tablet's table, started and stopped
//! as leadership, schema, links and peers change.
//!
//! ```text
//! wanted  = tablets led here x enabled links of their tables        (catalog view, group status)
//! running = what runs; a stream whose term, handle, peer or name changed is stopped and started anew
//! ```
//! A paused link keeps its streams: they ship nothing, and know how old what waits is.

use crate::counters::Counters;
use crate::link::{PeerConnector, RegionIdentity, TabletAccess};
use crate::settings::ReplicationSettings;
use crate::stream::{self, LinkStart, StreamParts, StreamView};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidemark_base::{TableId, TabletId};
use tidemark_catalog::{Catalog, CatalogView, LinkState, PeerRecord};
use tidemark_runtime::{ByteBudget, Entropy, SharedClock, Shutdown, Tasks};
use tidemark_tablet::{ReplicationState, Tablet};
use tokio::sync::watch;

/// What the shipper needs.
pub(crate) struct ShipperParts {
    pub(crate) catalog: Catalog,
    pub(crate) tablets: Arc<dyn TabletAccess>,
    pub(crate) peers: Arc<dyn PeerConnector>,
    pub(crate) clock: SharedClock,
    pub(crate) entropy: Entropy,
    pub(crate) tasks: Tasks,
    pub(crate) settings: Arc<ReplicationSettings>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) stop: Shutdown,
}

type StreamKey = (TabletId, String);

/// What decides whether a running stream is still the right one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    term: u64,
    table: String,
    peer: PeerRecord,
    /// A link that ended and began again is another one.
    link: u64,
    peer_table: TableId,
    linked_at_ms: u64,
}

struct RunningStream {
    identity: Identity,
    /// Tells the handle on the tablet: a tablet that was reopened may lead in its old term, and its old handle shows an
    /// engine that nothing is applied to any more.
    feed: watch::Receiver<Arc<ReplicationState>>,
    /// The task has returned, for whatever reason.
    ended: Arc<AtomicBool>,
    paused: watch::Sender<bool>,
    view: Arc<Mutex<StreamView>>,
    stop: Shutdown,
}

struct WantedStream {
    identity: Identity,
    tablet: Tablet,
    paused: bool,
}

/// See the module. Its methods are called by one task; `views` by anyone.
pub(crate) struct Shipper {
    parts: ShipperParts,
    running: Mutex<BTreeMap<StreamKey, RunningStream>>,
    memory: Mutex<BTreeMap<String, ByteBudget>>,
}

impl Shipper {
    pub(crate) fn new(parts: ShipperParts) -> Shipper {
        Shipper {
            parts,
            running: Mutex::default(),
            memory: Mutex::default(),
        }
    }

    /// Keeps the running streams what they should be, until the shutdown.
    pub(crate) async fn run(self: Arc<Self>, after_round: impl Fn() + Send) {
        let mut changes = self.parts.catalog.watch();
        let interval = Duration::from_millis(self.parts.settings.reconcile_interval_ms);
        loop {
            self.reconcile();
            after_round();
            tokio::select! {
                _ = self.parts.stop.wait() => break,
                changed = changes.changed() => if changed.is_err() { break },
                _ = tokio::time::sleep(interval) => {}
            }
        }
        for running in std::mem::take(&mut *self.running.lock()).into_values() {
            running.stop.trigger();
        }
    }

    /// How every running stream stands.
    pub(crate) fn views(&self) -> Vec<StreamView> {
        let running = self.running.lock();
        running.values().map(|stream| stream.view.lock().clone()).collect()
    }

    /// Bytes of runs held for each peer.
    pub(crate) fn memory_used(&self) -> Vec<(String, usize)> {
        let memory = self.memory.lock();
        memory
            .iter()
            .map(|(peer, budget)| (peer.clone(), budget.used()))
            .collect()
    }

    fn reconcile(&self) {
        let view = self.parts.catalog.view();
        let mut wanted = self.wanted(&view);
        let mut running = self.running.lock();
        running.retain(|key, stream| {
            let keep = wanted.get(key).is_some_and(|wanted| {
                wanted.identity == stream.identity
                    && wanted.tablet.watch_replication().same_channel(&stream.feed)
                    && !stream.ended.load(Ordering::Relaxed)
            });
            if !keep {
                stream.stop.trigger();
            }
            keep
        });
        let known: Vec<StreamKey> = running.keys().cloned().collect();
        for key in known {
            if let (Some(stream), Some(wanted)) = (running.get(&key), wanted.remove(&key)) {
                stream
                    .paused
                    .send_if_modified(|paused| std::mem::replace(paused, wanted.paused) != wanted.paused);
            }
        }
        for (key, wanted) in wanted {
            let stream = self.start(&view, wanted);
            running.insert(key, stream);
        }
    }

    fn wanted(&self, view: &CatalogView) -> BTreeMap<StreamKey, WantedStream> {
        let mut wanted = BTreeMap::new();
        for tablet in self.parts.tablets.local() {
            let leadership = tablet.group().leadership();
            let Some(table) = view.table_by_id(tablet.descriptor().table) else {
                continue;
            };
            if !leadership.ready {
                continue;
            }
            for (name, link) in &table.links {
                let Some(peer) = view.peers.get(name) else { continue };
                let (LinkState::Enabled, Some(peer_table)) = (link.state, link.peer_table) else {
                    continue;
                };
                let identity = Identity {
                    term: leadership.term,
                    table: table.name.clone(),
                    peer: peer.clone(),
                    link: link.link,
                    peer_table,
                    linked_at_ms: link.linked_at_ms,
                };
                let key = (tablet.descriptor().tablet, name.clone());
                let (tablet, paused) = (tablet.clone(), link.paused);
                wanted.insert(
                    key,
                    WantedStream {
                        identity,
                        tablet,
                        paused,
                    },
                );
            }
        }
        wanted
    }

    fn start(&self, view: &CatalogView, wanted: WantedStream) -> RunningStream {
        let parts = &self.parts;
        let WantedStream {
            identity,
            tablet,
            paused,
        } = wanted;
        let stop = parts.stop.child();
        let (pause, paused) = watch::channel(paused);
        let link = LinkStart {
            peer: identity.peer.region,
            number: identity.link,
            made_at_ms: identity.linked_at_ms,
        };
        let first = stream::first_look(&tablet, link, parts.settings.clone(), parts.clock.monotonic());
        let stream_view = Arc::new(Mutex::new(StreamView::new(
            (identity.table.clone(), identity.peer.name.clone()),
            &first,
            tablet.descriptor().tablet.0,
            identity.term,
            parts.clock.monotonic(),
        )));
        let name = format!("stream {} to {}", tablet.descriptor().tablet, identity.peer.name);
        let (feed, ended) = (tablet.watch_replication(), Arc::new(AtomicBool::new(false)));
        let stream = stream::run(StreamParts {
            tablet,
            term: identity.term,
            from: RegionIdentity {
                name: view.region_name.clone(),
                region: view.region,
            },
            table: identity.table.clone(),
            peer: identity.peer.name.clone(),
            peer_region: identity.peer.region,
            peer_table: identity.peer_table,
            link_number: identity.link,
            linked_at_ms: identity.linked_at_ms,
            link: parts.peers.link(&identity.peer),
            settings: parts.settings.clone(),
            memory: self.memory_of(&identity.peer.name),
            clock: parts.clock.clone(),
            entropy: parts.entropy.clone(),
            counters: parts.counters.clone(),
            paused,
            view: stream_view.clone(),
            stop: stop.clone(),
        });
        let flag = ended.clone();
        parts.tasks.spawn(name, async move {
            stream.await;
            flag.store(true, Ordering::Relaxed);
        });
        RunningStream {
            identity,
            feed,
            ended,
            paused: pause,
            view: stream_view,
            stop,
        }
    }

    /// Per peer, so that what waits for one that is away takes nothing from the others.
    fn memory_of(&self, peer: &str) -> ByteBudget {
        let mut memory = self.memory.lock();
        memory
            .entry(peer.to_owned())
            .or_insert_with(|| ByteBudget::new(self.parts.settings.ship_memory_bytes_max))
            .clone()
    }
}
