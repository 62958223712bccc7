//! [`Client`], and what its handles share: regions, routing, connections and the choice of a node.

use crate::admin::Admin;
use crate::connections::{Connections, MESSAGE_BYTES_MAX, NodeChannels};
use crate::error::{ClientError, Failure, Reach, Result};
use crate::failover::{Event, Failover, Patience};
use crate::options::ClientOptions;
use crate::routing::RoutingView;
use crate::row::{Row, unpack};
use crate::table::Table;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tidemark_base::ErrorKind;
use tidemark_proto::v1;
use tidemark_proto::v1::tables_client::TablesClient;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tonic::transport::Channel;

/// Tables whose routing is remembered; beyond it all are forgotten together.
const TABLES_MAX: usize = 4_096;
/// Nodes asked, one after the other, before a refresh of the routing counts as failed.
const ROUTING_NODES_MAX: usize = 3;
/// Time limit of one routing request; short, because writes wait for it.
const ROUTING_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to one or several regions. Cheap to clone; all clones share everything.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

impl Client {
    /// A client of those regions. Waits until the preferred one, or failing that another one, answers, at most for
    /// `first_answer_within`; if none does, the error is [`ErrorKind::Unavailable`].
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), tidemark_client::ClientError> {
    /// use tidemark_client::{Client, ClientOptions};
    /// let client = Client::connect(ClientOptions::single(["127.0.0.1:7311"])?).await?;
    /// println!("{}", client.active_region());
    /// # Ok(()) }
    /// ```
    pub async fn connect(options: ClientOptions) -> Result<Client> {
        let shared = Arc::new(Shared::new(options));
        crate::probe::first(&shared).await?;
        if shared.regions.len() > 1 {
            tokio::spawn(crate::probe::run(Arc::downgrade(&shared)));
        }
        Ok(Client { shared })
    }

    /// The name of the region in use.
    pub fn active_region(&self) -> String {
        self.shared.active_name.borrow().clone()
    }

    /// Follows the name of the region in use.
    pub fn watch_region(&self) -> watch::Receiver<String> {
        self.shared.active_name.subscribe()
    }

    /// A handle of a table. Asks nothing: a table that does not exist is an error of the first request.
    pub fn table(&self, name: &str) -> Table {
        Table::new(self.shared.clone(), name)
    }

    /// Administration of the region in use; see [`Admin::in_region`] for another one.
    pub fn admin(&self) -> Admin {
        Admin::new(self.shared.clone())
    }

    /// The settings.
    pub fn options(&self) -> &ClientOptions {
        &self.shared.options
    }
}

/// One region's nodes and tables.
#[derive(Debug)]
pub(crate) struct RegionState {
    pub(crate) name: Arc<str>,
    pub(crate) seeds: Vec<Arc<str>>,
    tables: Mutex<HashMap<String, Arc<TableSlot>>>,
    next_node: AtomicUsize,
}

/// One table's routing in one region.
#[derive(Debug, Default)]
struct TableSlot {
    view: ArcSwapOption<RoutingView>,
    generations: AtomicU64,
    /// Held by the one task that refreshes; the others wait for its result.
    refresh: tokio::sync::Mutex<()>,
}

/// Where one attempt goes.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) region: usize,
    pub(crate) address: Arc<str>,
    pub(crate) node: Arc<NodeChannels>,
    pub(crate) view: Option<Arc<RoutingView>>,
    /// Index of the tablet in the view.
    pub(crate) tablet: Option<usize>,
    pub(crate) timeout: Duration,
}

impl Target {
    /// A request with the attempt's time limit, which the server sees too.
    pub(crate) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(self.timeout);
        request
    }

    pub(crate) fn data(&self) -> v1::data_client::DataClient<Channel> {
        v1::data_client::DataClient::new(self.node.channel())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn tables(&self) -> TablesClient<Channel> {
        TablesClient::new(self.node.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn replication(&self) -> v1::replication_client::ReplicationClient<Channel> {
        v1::replication_client::ReplicationClient::new(self.node.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn cluster(&self) -> v1::cluster_client::ClusterClient<Channel> {
        v1::cluster_client::ClusterClient::new(self.node.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The rows of packed cells, by the names that the routing view knows.
    pub(crate) fn unpack(&self, packed: &Bytes) -> std::result::Result<Vec<Row>, Failure> {
        let view = self.view.as_ref().ok_or_else(|| {
            let text = "the answer is packed, although nothing packed was asked for";
            Failure::local(ClientError::new(ErrorKind::Corruption, "PACKED_CELLS_UNASKED", text))
        })?;
        unpack(packed, &view.family_names).map_err(Failure::local)
    }

    /// The tablet's number, 0 if it is not known.
    pub(crate) fn tablet_id(&self) -> u64 {
        match (&self.view, self.tablet) {
            (Some(view), Some(at)) => view.tablets[at].id,
            _ => 0,
        }
    }

    /// A forwarded answer says where to go next time.
    pub(crate) fn learn(&self, redirect: Option<v1::Redirect>) {
        if let (Some(view), Some(redirect)) = (&self.view, redirect) {
            view.learn(redirect.tablet, &redirect.address);
        }
    }
}

/// What all handles of a client share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: ClientOptions,
    pub(crate) connections: Connections,
    pub(crate) regions: Vec<RegionState>,
    failover: Mutex<Failover>,
    active_name: watch::Sender<String>,
    /// Wakes the prober before its time.
    pub(crate) probe_wanted: Notify,
}

impl Shared {
    fn new(options: ClientOptions) -> Shared {
        let region = |r: &crate::options::RegionEndpoints| RegionState {
            name: r.name.as_str().into(),
            seeds: r.addresses.iter().map(|a| Arc::from(a.as_str())).collect(),
            tables: Mutex::new(HashMap::new()),
            next_node: AtomicUsize::new(0),
        };
        let patience = Patience {
            failover_after: options.failover_after,
            stalled_after: options.failover_stalled_after,
            failback_after: options.failback_after,
        };
        Shared {
            connections: Connections::new(&options),
            regions: options.regions.iter().map(region).collect(),
            failover: Mutex::new(Failover::new(options.regions.len(), patience)),
            active_name: watch::Sender::new(options.regions[0].name.clone()),
            probe_wanted: Notify::new(),
            options,
        }
    }

    /// Index of the region in use.
    pub(crate) fn active(&self) -> usize {
        self.failover.lock().active()
    }

    /// Follows the name of the region in use.
    pub(crate) fn watch_active(&self) -> watch::Receiver<String> {
        self.active_name.subscribe()
    }

    pub(crate) fn suspicious(&self, region: usize) -> bool {
        self.failover.lock().suspicious(region)
    }

    /// Index of the region of that name.
    pub(crate) fn region_named(&self, name: &str) -> Result<usize> {
        let at = self.regions.iter().position(|r| *r.name == *name);
        at.ok_or_else(|| {
            let message = format!("region {name} is not among the regions of this client");
            crate::ClientError::new(ErrorKind::InvalidArgument, "REGION_UNKNOWN", message)
        })
    }

    /// Resolves when the region is not in use any more.
    pub(crate) async fn left(&self, region: usize) {
        let mut name = self.active_name.subscribe();
        let own = &self.regions[region].name;
        // The sender lives as long as `self`, so that an error cannot come; if it did, nobody would be told to leave.
        if name.wait_for(|active| **active != **own).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Resolves when the region was left because it does not answer any more. What is under way in a region that was
    /// left for a better one may still end well: it is not given up.
    pub(crate) async fn lost(&self, region: usize) {
        self.left(region).await;
        if !self.suspicious(region) {
            std::future::pending::<()>().await;
        }
    }

    /// Feeds the choice of the region.
    pub(crate) fn note(&self, region: usize, event: Event) {
        let moved = self.failover.lock().apply(region, event, Instant::now());
        if let Some(next) = moved {
            tracing::warn!(
                from = %self.active_name.borrow().as_str(),
                to = %self.regions[next].name,
                "another region is used from now on"
            );
            self.active_name.send_replace(self.regions[next].name.to_string());
        }
    }

    pub(crate) fn note_answer(&self, target: &Target) {
        target.node.note_answer();
        self.note(target.region, Event::Served);
    }

    pub(crate) fn note_failure(&self, target: &Target, failure: &Failure) {
        if let (Some(view), Some(tablet)) = (&target.view, target.tablet) {
            match &failure.leader {
                Some(leader) => view.learn(view.tablets[tablet].id, leader),
                None if crate::call::blames_leader(failure) => view.forget(tablet, &target.address),
                None => {}
            }
        }
        match failure.reach {
            Reach::Local => {}
            // Leaving a region says nothing about it that is not known already.
            Reach::Lost if failure.error.reason() == "REGION_LEFT" => {}
            Reach::Unsent | Reach::Lost => {
                target.node.note_unreachable();
                self.note(target.region, Event::Unreachable);
                self.probe_wanted.notify_one();
            }
            Reach::Answered => {
                target.node.note_answer();
                match failure.error.kind() {
                    ErrorKind::Unavailable | ErrorKind::NotLeader => self.note(target.region, Event::Stalled),
                    // Any node may say so of a catalog that it could not ask: no proof that the region does its work.
                    ErrorKind::NotFound => {}
                    _ => self.note(target.region, Event::Served),
                }
            }
        }
    }

    fn slot(&self, region: usize, table: &str) -> Arc<TableSlot> {
        let mut tables = self.regions[region].tables.lock();
        if let Some(slot) = tables.get(table) {
            return slot.clone();
        }
        if tables.len() >= TABLES_MAX {
            tables.clear();
        }
        tables.entry(table.to_owned()).or_default().clone()
    }

    /// Names of the tables in use in the region, a few of them.
    pub(crate) fn tables_in_use(&self, most: usize) -> Vec<String> {
        let tables = self.regions[self.active()].tables.lock();
        tables.keys().take(most).cloned().collect()
    }

    /// The table's routing in the region. `stale` is the generation of a view that failed its user: a newer one is
    /// then fetched, and if that fails the old one is better than none.
    pub(crate) async fn routing(
        &self,
        region: usize,
        table: &str,
        stale: Option<u64>,
    ) -> std::result::Result<Arc<RoutingView>, Failure> {
        let slot = self.slot(region, table);
        let good = |view: &Arc<RoutingView>| stale.is_none_or(|stale| view.generation > stale);
        if let Some(view) = slot.view.load_full().filter(good) {
            return Ok(view);
        }
        let _guard = slot.refresh.lock().await;
        if let Some(view) = slot.view.load_full().filter(good) {
            return Ok(view);
        }
        match self.fetch_routing(region, table).await {
            Ok(wire) => {
                let generation = slot.generations.fetch_add(1, Ordering::Relaxed) + 1;
                let view = Arc::new(RoutingView::new(region, generation, wire));
                slot.view.store(Some(view.clone()));
                Ok(view)
            }
            Err(failure) if failure.error.kind() == ErrorKind::NotFound => {
                slot.view.store(None);
                Err(failure)
            }
            Err(failure) => slot.view.load_full().ok_or(failure),
        }
    }

    async fn fetch_routing(&self, region: usize, table: &str) -> std::result::Result<v1::Routing, Failure> {
        let mut tried = 0;
        loop {
            tried += 1;
            let timeout = self.options.request_timeout.min(ROUTING_TIMEOUT);
            let target = self.target(region, None, None, timeout)?;
            let request = v1::GetRoutingRequest {
                table: table.to_owned(),
            };
            let mut tables = target.tables();
            let rpc = async { Ok(tables.get_routing(target.request(request)).await?.into_inner()) };
            match self.watched(&target, false, rpc).await {
                Ok(routing) => return Ok(routing),
                Err(failure) => {
                    let elsewhere = matches!(failure.reach, Reach::Unsent | Reach::Lost);
                    if !elsewhere || tried >= ROUTING_NODES_MAX {
                        // A lost read has no effect: whoever asked may repeat whatever it was about to do.
                        let reach = match failure.reach {
                            Reach::Lost => Reach::Unsent,
                            reach => reach,
                        };
                        return Err(Failure { reach, ..failure });
                    }
                }
            }
        }
    }

    /// Chooses a node: the leader of the row's tablet, else a replica, else any; those that could not be reached a
    /// moment ago only if there is no other.
    pub(crate) fn target(
        &self,
        region: usize,
        view: Option<Arc<RoutingView>>,
        row: Option<&[u8]>,
        timeout: Duration,
    ) -> std::result::Result<Target, Failure> {
        let tablet = match (&view, row) {
            (Some(view), Some(row)) => view.tablet_of(row),
            _ => None,
        };
        self.target_of(region, view, tablet, timeout)
    }

    /// The same for a tablet by its index in the view.
    pub(crate) fn target_of(
        &self,
        region: usize,
        view: Option<Arc<RoutingView>>,
        tablet: Option<usize>,
        timeout: Duration,
    ) -> std::result::Result<Target, Failure> {
        let leader = match (&view, tablet) {
            (Some(view), Some(tablet)) => view.tablets[tablet].leader(),
            _ => None,
        };
        let address = leader.unwrap_or_else(|| self.any_node(region, view.as_deref(), tablet));
        Ok(Target {
            region,
            node: self.connections.node(&address)?,
            address,
            view,
            tablet,
            timeout,
        })
    }

    fn any_node(&self, region: usize, view: Option<&RoutingView>, tablet: Option<usize>) -> Arc<str> {
        let state = &self.regions[region];
        let turn = state.next_node.fetch_add(1, Ordering::Relaxed);
        let replicas = view
            .zip(tablet)
            .map_or(&[][..], |(view, at)| &view.tablets[at].replicas);
        let nodes = view.map_or(&[][..], |view| &view.nodes);
        for group in [replicas, nodes, &state.seeds] {
            let near: Vec<&Arc<str>> = group.iter().filter(|a| !self.connections.avoided(a)).collect();
            if !near.is_empty() {
                return near[turn % near.len()].clone();
            }
        }
        state.seeds[turn % state.seeds.len()].clone()
    }

    /// Every address of the region that is known.
    pub(crate) fn addresses(&self, region: usize) -> Vec<Arc<str>> {
        let state = &self.regions[region];
        let mut all = state.seeds.clone();
        for slot in state.tables.lock().values() {
            if let Some(view) = &*slot.view.load() {
                all.extend(view.nodes.iter().cloned());
            }
        }
        all.sort();
        all.dedup();
        all
    }
}
