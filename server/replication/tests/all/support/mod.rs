//! Regions in one process: a real catalog and real tablets with engines in memory, each in a group of one node, joined by
//! links that can be cut, delayed, doubled, and made to lose answers.

pub mod oracle;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tidemark_base::{
    BatchBuilder, Error, FamilyId, NodeId, PackedBatch, RegionId, Result, RowRange, Stamp, TableSchema, TabletId,
};
use tidemark_catalog::{
    Catalog, CatalogForward, CatalogOptions, CatalogView, Command, FamilySpec, PeerRecord, RequestId,
};
use tidemark_consensus::testing::MemoryNetwork;
use tidemark_consensus::{ConsensusSettings, Host, HostOptions, MemoryLog};
use tidemark_replication::{
    LinkReport, NodeReport, PeerConnector, PeerIdentity, PeerLink, PrepareTable, Prepared, RegionIdentity,
    ReleaseTable, ReplicationSettings, Replicator, ReplicatorOptions, Ship, Shipped, TabletAccess,
};
use tidemark_runtime::{Clock, Entropy, Metrics, SharedClock, SystemClock, Tasks};
use tidemark_tablet::factory::MemoryFactory;
use tidemark_tablet::{Tablet, TabletDescriptor, TabletOptions, TabletSettings};

/// How long a condition may take to come true on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
const NODE: NodeId = NodeId(1);

/// The system's clock, set wrong on purpose.
pub struct SkewedClock {
    system: SystemClock,
    skew_micros: AtomicI64,
}

impl Clock for SkewedClock {
    fn now_micros(&self) -> i64 {
        self.system.now_micros() + self.skew_micros.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        self.system.monotonic()
    }
}

/// The tablets of the only node of a region.
#[derive(Default)]
pub struct Gate {
    tablets: RwLock<BTreeMap<TabletId, Tablet>>,
    /// Stopped, and to be started again.
    stopped: Mutex<BTreeSet<TabletId>>,
    known: Mutex<BTreeSet<TabletId>>,
    /// No tablet has a leader for remote facts.
    pub leaderless: AtomicBool,
    /// Calls that met that.
    pub turned_away: AtomicU64,
}

impl Gate {
    pub fn get(&self, tablet: TabletId) -> Result<Tablet> {
        let found = self.tablets.read().get(&tablet).cloned();
        found.ok_or_else(|| Error::unavailable("NO_LEADER", "not started yet", Duration::from_millis(50)))
    }
}

#[async_trait]
impl TabletAccess for Gate {
    fn local(&self) -> Vec<Tablet> {
        self.tablets.read().values().cloned().collect()
    }

    async fn apply_remote(&self, tablet: TabletId, command: Bytes) -> Result<Bytes> {
        if self.leaderless.load(Ordering::Relaxed) {
            self.turned_away.fetch_add(1, Ordering::Relaxed);
            let delay = Duration::from_millis(100);
            return Err(Error::unavailable("NO_LEADER", "nobody leads it right now", delay));
        }
        self.get(tablet)?.apply_remote(command).await
    }

    async fn set_schema(&self, tablet: TabletId, schema: Arc<TableSchema>, require_empty: bool) -> Result<()> {
        self.get(tablet)?.set_schema(schema, require_empty).await
    }

    async fn remote_reports(&self) -> Vec<Result<NodeReport>> {
        Vec::new()
    }
}

/// What a link does to messages; one per direction.
#[derive(Default)]
pub struct Wire {
    /// Nothing passes.
    pub cut: AtomicBool,
    /// Every message arrives twice.
    pub double: AtomicBool,
    /// Every n-th answer is lost, although the message arrived; 0 = none.
    pub lose_answer_each: AtomicU64,
    /// Messages are delayed by up to that many milliseconds, so that they overtake each other.
    pub delay_ms_max: AtomicU64,
    /// Records are on their way and do not arrive while it is set.
    pub hold: AtomicBool,
    /// The next answers to a preparation are lost.
    pub lose_prepare_answers: AtomicU64,
    ships: AtomicU64,
}

/// All links between all regions of a test.
pub struct Wires {
    regions: RwLock<BTreeMap<String, Replicator>>,
    wires: Mutex<BTreeMap<(String, String), Arc<Wire>>>,
    entropy: Entropy,
}

impl Wires {
    pub fn new(seed: u64) -> Arc<Wires> {
        Arc::new(Wires {
            regions: RwLock::default(),
            wires: Mutex::default(),
            entropy: Entropy::from_seed(seed),
        })
    }

    pub fn wire(&self, from: &str, to: &str) -> Arc<Wire> {
        let mut wires = self.wires.lock();
        wires.entry((from.to_owned(), to.to_owned())).or_default().clone()
    }
}

struct Connector {
    from: String,
    wires: Arc<Wires>,
}

impl PeerConnector for Connector {
    fn link(&self, peer: &PeerRecord) -> Arc<dyn PeerLink> {
        Arc::new(TestLink {
            wire: self.wires.wire(&self.from, &peer.name),
            to: peer.name.clone(),
            wires: self.wires.clone(),
        })
    }
}

struct TestLink {
    to: String,
    wire: Arc<Wire>,
    wires: Arc<Wires>,
}

fn unreachable() -> Error {
    Error::unavailable("PEER_UNREACHABLE", "the link is cut", Duration::from_millis(20))
}

impl TestLink {
    fn reach(&self) -> Result<Replicator> {
        if self.wire.cut.load(Ordering::Relaxed) {
            return Err(unreachable());
        }
        self.wires.regions.read().get(&self.to).cloned().ok_or_else(unreachable)
    }
}

#[async_trait]
impl PeerLink for TestLink {
    async fn identify(&self, asker: RegionIdentity) -> Result<PeerIdentity> {
        self.reach()?.on_identify(asker).await
    }

    async fn prepare_table(&self, request: PrepareTable) -> Result<Prepared> {
        let dry_run = request.dry_run;
        let answer = self.reach()?.on_prepare_table(request).await;
        let left = self.wire.lose_prepare_answers.load(Ordering::Relaxed);
        if !dry_run && left > 0 {
            self.wire.lose_prepare_answers.store(left - 1, Ordering::Relaxed);
            return Err(unreachable());
        }
        answer
    }

    async fn release_table(&self, request: ReleaseTable) -> Result<()> {
        self.reach()?.on_release_table(request).await
    }

    async fn ship(&self, ship: Ship) -> Result<Shipped> {
        let delay_ms_max = self.wire.delay_ms_max.load(Ordering::Relaxed);
        if delay_ms_max > 0 {
            let delay_ms = self.wires.entropy.range(0..delay_ms_max);
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        }
        while self.wire.hold.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let region = self.reach()?;
        if self.wire.double.load(Ordering::Relaxed) {
            let _first_answer_is_lost = region.on_ship(ship.clone()).await;
        }
        let answer = region.on_ship(ship).await;
        let count = self.wire.ships.fetch_add(1, Ordering::Relaxed) + 1;
        let each = self.wire.lose_answer_each.load(Ordering::Relaxed);
        if each > 0 && count.is_multiple_of(each) {
            return Err(unreachable());
        }
        self.reach()?;
        answer
    }
}

struct Alone;

impl CatalogForward for Alone {
    fn propose_at(&self, _: NodeId, _: Bytes) -> futures::future::BoxFuture<'static, Result<Bytes>> {
        Box::pin(async { Err(Error::internal("a region of one node forwards nothing")) })
    }
}

/// One region of one node.
pub struct Region {
    pub name: String,
    pub id: RegionId,
    pub catalog: Catalog,
    pub gate: Arc<Gate>,
    pub replicator: Replicator,
    pub clock: Arc<SkewedClock>,
    pub metrics: Metrics,
    entropy: Entropy,
    host: Host,
    tasks: Tasks,
    _dir: tempfile::TempDir,
}

/// Fast enough for tests, slow enough for a busy machine.
fn consensus() -> ConsensusSettings {
    ConsensusSettings::default()
}

pub fn replication() -> ReplicationSettings {
    ReplicationSettings {
        ship_bytes_max: 8 << 10,
        ship_linger_ms: 2,
        retry_delay_ms: 20,
        retry_delay_max_ms: 200,
        ack_interval_ms: 50,
        reconcile_interval_ms: 20,
        lag_warn_ms: 1_000,
        verb_timeout_ms: 20_000,
        ..ReplicationSettings::default()
    }
}

impl Region {
    /// Starts a region and waits until its catalog serves.
    pub async fn start(name: &str, number: u16, wires: &Arc<Wires>, tablets: TabletSettings) -> Region {
        Region::start_with(name, number, wires, tablets, replication()).await
    }

    /// The same with other settings of the layer.
    pub async fn start_with(
        name: &str,
        number: u16,
        wires: &Arc<Wires>,
        tablets: TabletSettings,
        settings: ReplicationSettings,
    ) -> Region {
        let dir = tempfile::tempdir().unwrap();
        let entropy = Entropy::from_seed(u64::from(number));
        let clock = Arc::new(SkewedClock {
            system: SystemClock::new(),
            skew_micros: AtomicI64::new(0),
        });
        let shared: SharedClock = clock.clone();
        let network = MemoryNetwork::new();
        let host = Host::open(HostOptions {
            node: NODE,
            log: MemoryLog::new(),
            snapshot_dir: dir.path().join("snapshots"),
            transport: network.transport(NODE),
            settings: consensus(),
            entropy: tidemark_runtime::Entropy::from_os(),
        })
        .await
        .unwrap();
        network.attach(NODE, host.clone());
        let catalog = Catalog::start(CatalogOptions {
            host: host.clone(),
            dir: dir.path().join("catalog"),
            cluster: format!("{name}-cluster"),
            region_name: name.to_owned(),
            region: RegionId(number),
            node: NODE,
            clock: shared.clone(),
            entropy: entropy.fork(),
            forward: Arc::new(Alone),
            voters: BTreeSet::from([NODE]),
        })
        .await
        .unwrap();
        let (gate, tasks, metrics) = (Arc::new(Gate::default()), Tasks::new(), Metrics::new());
        tasks.spawn(
            "tablets",
            keep_tablets(
                catalog.clone(),
                host.clone(),
                gate.clone(),
                shared.clone(),
                tasks.clone(),
                tablets,
            ),
        );
        let replicator = Replicator::start(ReplicatorOptions {
            catalog: catalog.clone(),
            tablets: gate.clone(),
            peers: Arc::new(Connector {
                from: name.to_owned(),
                wires: wires.clone(),
            }),
            clock: shared,
            entropy: entropy.fork(),
            tasks: tasks.clone(),
            metrics: metrics.clone(),
            settings,
        });
        wires.regions.write().insert(name.to_owned(), replicator.clone());
        let region = Region {
            name: name.to_owned(),
            id: RegionId(number),
            catalog,
            gate,
            replicator,
            clock,
            metrics,
            entropy,
            host,
            tasks,
            _dir: dir,
        };
        until("the catalog is founded", || region.catalog.view().cluster_id.is_some()).await;
        region.register_node().await;
        region
    }

    async fn register_node(&self) {
        let register = Command::RegisterNode {
            id: NODE,
            address: format!("{}.example:7311", self.name),
            zone: "a".into(),
            version: "0".into(),
            now_ms: 1,
            incarnation: String::new(),
        };
        self.catalog.execute(register).await.unwrap();
    }

    pub fn view(&self) -> Arc<CatalogView> {
        self.catalog.view()
    }

    pub async fn add_peer(&self, peer: &Region) {
        let record = PeerRecord {
            name: peer.name.clone(),
            region: peer.id,
            addresses: vec![format!("{}.example:7311", peer.name)],
        };
        self.catalog.execute(Command::PutPeer(record)).await.unwrap();
    }

    pub async fn create_table(&self, table: &str, families: &[&str], split_at: &[&str]) {
        let create = Command::CreateTable {
            request_id: RequestId::random(&self.entropy),
            name: table.to_owned(),
            families: families.iter().map(|name| FamilySpec::new(*name)).collect(),
            split_at: split_at
                .iter()
                .map(|row| Bytes::copy_from_slice(row.as_bytes()))
                .collect(),
            max_future_micros: None,
            if_not_exists: false,
            generations: None,
        };
        self.catalog.execute(create).await.unwrap();
        self.table_ready(table).await;
    }

    pub async fn add_family(&self, table: &str, family: &str) {
        self.alter(table, vec![FamilySpec::new(family)], Vec::new()).await;
    }

    /// Replaces a family's settings.
    pub async fn set_family(&self, table: &str, family: FamilySpec) {
        self.alter(table, Vec::new(), vec![family]).await;
    }

    async fn alter(&self, table: &str, add: Vec<FamilySpec>, set: Vec<FamilySpec>) {
        let alter = Command::AlterTable {
            request_id: RequestId::random(&self.entropy),
            name: table.to_owned(),
            add,
            set,
            drop: Vec::new(),
            max_future_micros: None,
            generations: None,
            now_micros: self.clock.now_micros(),
            hlc: tidemark_catalog::alter_hlc(&*self.clock),
        };
        self.catalog.execute(alter).await.unwrap();
        self.table_ready(table).await;
    }

    /// Waits until every tablet of the table leads and has the present schema.
    pub async fn table_ready(&self, table: &str) {
        until("the table's tablets are ready", || {
            let view = self.view();
            let Some(record) = view.table(table) else { return false };
            view.tablets_of(record.id).all(|tablet| {
                self.gate.get(tablet.id).is_ok_and(|tablet| {
                    tablet.group().status().leader_ready
                        && tablet.schema().is_some_and(|schema| schema.revision >= record.revision)
                })
            })
        })
        .await;
    }

    /// The table's tablets in range order.
    pub fn tablets(&self, table: &str) -> Vec<Tablet> {
        let view = self.view();
        let record = view.table(table).expect("the table was created");
        view.tablets_of(record.id)
            .map(|tablet| self.gate.get(tablet.id).unwrap())
            .collect()
    }

    /// Writes a batch whose rows all lie in one tablet, retrying what may pass; the stamp of its first row.
    pub async fn write(&self, table: &str, batch: &PackedBatch) -> Stamp {
        let key = batch.rows().next().unwrap().key().to_vec();
        let deadline = self.clock.monotonic() + PATIENCE;
        loop {
            let id = {
                let view = self.view();
                view.route(view.table(table).unwrap().id, &key).unwrap().id
            };
            let written = self.gate.get(id).unwrap().write(batch.clone(), 0).await;
            match written {
                Ok(outcome) => {
                    assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
                    return outcome.first_stamp.expect("rows were written");
                }
                Err(error) if error.kind().is_retryable() && self.clock.monotonic() < deadline => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Writes one cell.
    pub async fn put(&self, table: &str, row: &str, family: &str, value: &str) -> Stamp {
        self.write(table, &cell(row, family, value)).await
    }

    /// Every visible cell: row, family, qualifier, version, value.
    pub fn cells(&self, table: &str) -> oracle::Cells {
        oracle::visible(self.facts(table))
    }

    pub fn facts(&self, table: &str) -> Vec<tidemark_base::fact::Fact> {
        let tablets = self.tablets(table);
        tablets
            .iter()
            .flat_map(|tablet| tablet.engine().facts().unwrap())
            .collect()
    }

    /// The digests of all tablets, summed: content and stamps.
    pub async fn digest(&self, table: &str) -> (u64, u128, u128) {
        let mut sum = (0, 0u128, 0u128);
        for tablet in self.tablets(table) {
            let digest = tablet.digest(RowRange::all(), 0).await.unwrap();
            sum.0 += digest.cells;
            sum.1 = sum.1.wrapping_add(digest.content_hash);
            sum.2 = sum.2.wrapping_add(digest.stamps_hash);
        }
        sum
    }

    pub async fn status(&self, table: &str) -> LinkReport {
        let mut links = self.replicator.status(Some(table), true).await.unwrap();
        assert_eq!(links.len(), 1, "one link");
        links.remove(0)
    }

    pub async fn status_with(&self, table: &str, peer: &str) -> LinkReport {
        let links = self.replicator.status(Some(table), true).await.unwrap();
        links
            .into_iter()
            .find(|link| link.peer == peer)
            .expect("the link is there")
    }

    /// Waits until the status says so.
    pub async fn until_status(&self, table: &str, what: &str, says: impl Fn(&LinkReport) -> bool) -> LinkReport {
        let deadline = self.clock.monotonic() + PATIENCE;
        loop {
            let status = self.status(table).await;
            if says(&status) {
                return status;
            }
            assert!(self.clock.monotonic() < deadline, "{what}: {status:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops every tablet as a crash would; they are opened again from their last flush and the log.
    pub async fn restart_tablets(&self) {
        let tablets: Vec<Tablet> = self.gate.local();
        for tablet in tablets {
            self.gate.tablets.write().remove(&tablet.descriptor().tablet);
            tablet.stop().await;
            self.gate.stopped.lock().insert(tablet.descriptor().tablet);
        }
    }

    pub fn skew(&self, by: Duration) {
        let micros = i64::try_from(by.as_micros()).unwrap();
        self.clock.skew_micros.fetch_add(micros, Ordering::Relaxed);
    }

    pub async fn stop(self) {
        self.replicator.stop();
        self.tasks.abort_all();
        self.host.shutdown(Duration::from_secs(2)).await;
    }
}

/// Starts the tablets that the catalog knows, and maintains them.
async fn keep_tablets(
    catalog: Catalog,
    host: Host,
    gate: Arc<Gate>,
    clock: SharedClock,
    tasks: Tasks,
    settings: TabletSettings,
) {
    let factory = Arc::new(MemoryFactory::new());
    loop {
        let view = catalog.view();
        for record in view.tablets.values() {
            let again = gate.stopped.lock().remove(&record.id);
            if !gate.known.lock().insert(record.id) && !again {
                continue;
            }
            let descriptor = TabletDescriptor {
                tablet: record.id,
                table: record.table,
                table_name: view
                    .table_by_id(record.table)
                    .map(|table| table.name.clone())
                    .unwrap_or_default(),
                range: record.range.clone(),
            };
            let tablet = Tablet::start(TabletOptions {
                descriptor,
                host: host.clone(),
                factory: factory.clone(),
                clock: clock.clone(),
                tasks: tasks.clone(),
                settings: settings.clone(),
                initial_schema: None,
                metrics: Metrics::new(),
            })
            .await
            .unwrap();
            tablet.group().initialize(BTreeSet::from([NODE])).await.unwrap();
            gate.tablets.write().insert(record.id, tablet);
        }
        for tablet in gate.local() {
            tablet.maintain().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Settings of tablets for tests: closes come fast.
pub fn tablet_settings() -> TabletSettings {
    TabletSettings {
        close_interval_ms: 50,
        ..TabletSettings::default()
    }
}

/// Waits for a condition, with a deadline.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let clock = SystemClock::new();
    while !holds() {
        assert!(clock.monotonic() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A batch of one cell with the qualifier `q` at version 1.
pub fn cell(row: &str, family: &str, value: &str) -> PackedBatch {
    let mut batch = BatchBuilder::new();
    batch.begin_row(row.as_bytes()).unwrap();
    batch
        .put(FamilyId::derive(family, 0), b"q", 1, value.as_bytes())
        .unwrap();
    batch.end_row().unwrap();
    batch.finish().unwrap()
}

/// Two regions that know each other, with a table in the first.
pub async fn east_and_west(seed: u64) -> (Arc<Wires>, Region, Region) {
    let wires = Wires::new(seed);
    let east = Region::start("east", 1, &wires, tablet_settings()).await;
    let west = Region::start("west", 2, &wires, tablet_settings()).await;
    east.add_peer(&west).await;
    west.add_peer(&east).await;
    (wires, east, west)
}

/// Waits until all regions hold the same cells with the same stamps.
pub async fn until_equal(table: &str, regions: &[&Region]) {
    let clock = SystemClock::new();
    loop {
        let mut digests = Vec::new();
        for region in regions {
            digests.push(region.digest(table).await);
        }
        if digests.windows(2).all(|pair| pair[0] == pair[1]) && settled(table, regions).await {
            return;
        }
        if clock.monotonic() > PATIENCE {
            let mut all = Vec::new();
            for region in regions {
                all.push(region.replicator.status(Some(table), true).await.unwrap());
            }
            panic!("the regions do not become equal: {digests:?}\n{all:#?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// True if no region has an unapplied write.
async fn settled(table: &str, regions: &[&Region]) -> bool {
    for region in regions {
        let links = region.replicator.status(Some(table), false).await.unwrap();
        if links
            .iter()
            .any(|link| link.outgoing.lag_ms > 0 || !link.outgoing.lag_known)
        {
            return false;
        }
    }
    true
}
