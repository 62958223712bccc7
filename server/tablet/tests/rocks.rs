//! Tablets on RocksDB: what the factory promises about directories, replacement and replay.
// In a test a panic is the answer.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::{
    BatchBuilder, FamilyId, FamilySettings, GroupId, NodeId, ReadSpec, RegionId, RowRange, TableId, TableSchema,
    TabletId,
};
use tidemark_consensus::testing::MemoryNetwork;
use tidemark_consensus::{ConsensusSettings, Host, HostOptions, MemoryLog};
use tidemark_engine::{Engine, RocksSettings, RocksShared};
use tidemark_runtime::{Metrics, SystemClock, Tasks};
use tidemark_tablet::{EngineFactory, RocksFactory, Tablet, TabletDescriptor, TabletOptions, TabletSettings};

const TABLET: TabletId = TabletId(7);
const PATIENCE: Duration = Duration::from_secs(30);

fn factory(root: &Path) -> RocksFactory {
    let shared = RocksShared::new(RocksSettings::default()).unwrap();
    RocksFactory::new(root.to_path_buf(), shared, SystemClock::shared()).unwrap()
}

fn put_state(engine: &Arc<dyn Engine>, value: &[u8]) {
    let mut batch = engine.write_batch();
    batch.put_state(b"x", value);
    batch.commit().unwrap();
    engine.flush().unwrap();
}

fn state(engine: &Arc<dyn Engine>) -> Option<Bytes> {
    engine.state(b"x").unwrap()
}

#[test]
fn a_checkpoint_takes_the_place_of_a_tablet_while_the_old_one_is_read() {
    let root = tempfile::tempdir().unwrap();
    let factory = factory(&root.path().join("tablets"));
    let old = factory.open(TABLET).unwrap();
    put_state(&old, b"old");
    let other = factory.open(TabletId(8)).unwrap();
    put_state(&other, b"new");
    let checkpoint = root.path().join("checkpoint");
    other.checkpoint(&checkpoint).unwrap();

    let new = factory.install(TABLET, &checkpoint).unwrap();
    assert_eq!(state(&new).unwrap(), &b"new"[..]);
    assert_eq!(
        state(&old).unwrap(),
        &b"old"[..],
        "who still reads the old one may go on"
    );
    let dir = root.path().join("tablets/tablet-7");
    assert!(dir.join("data-1").exists() && dir.join("data-2").exists());
    drop(old);
    factory.advance_log_time(TABLET, 1);
    assert!(!dir.join("data-1").exists(), "nobody reads it any more");
    drop(new);
    let again = factory.open(TABLET).unwrap();
    assert_eq!(state(&again).unwrap(), &b"new"[..]);
    drop(again);
    factory.destroy(TABLET).unwrap();
    assert!(!dir.exists());
    assert_eq!(state(&factory.open(TABLET).unwrap()), None);
}

async fn start(host: &Host, factory: Arc<dyn EngineFactory>) -> Tablet {
    let mut schema = TableSchema::new(RegionId(1));
    schema.families.push(FamilySettings::new("f", 0));
    let tablet = Tablet::start(TabletOptions {
        descriptor: TabletDescriptor {
            tablet: TABLET,
            table: TableId(1),
            table_name: "telemetry".to_owned(),
            range: RowRange::all(),
        },
        host: host.clone(),
        factory,
        clock: SystemClock::shared(),
        tasks: Tasks::new(),
        settings: TabletSettings::default(),
        initial_schema: Some(Arc::new(schema)),
        metrics: Metrics::new(),
    })
    .await
    .unwrap();
    tablet.group().initialize(BTreeSet::from([NodeId(1)])).await.unwrap();
    tablet.group().wait_leader_ready(PATIENCE).await.unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    while tablet.schema().is_none() {
        assert!(std::time::Instant::now() < deadline, "no schema");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tablet
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tablet_stops_and_starts_on_its_files_and_its_log() {
    let root = tempfile::tempdir().unwrap();
    let factory: Arc<dyn EngineFactory> = Arc::new(factory(&root.path().join("tablets")));
    let network = MemoryNetwork::new();
    let host = Host::open(HostOptions {
        node: NodeId(1),
        log: MemoryLog::new(),
        snapshot_dir: root.path().join("snapshots"),
        transport: network.transport(NodeId(1)),
        settings: ConsensusSettings::default(),
        entropy: tidemark_runtime::Entropy::from_os(),
    })
    .await
    .unwrap();
    let mut handles = Vec::new();
    for round in 0..3u8 {
        let tablet = start(&host, factory.clone()).await;
        let mut builder = BatchBuilder::new();
        for i in 0..100u8 {
            builder.begin_row(&[round, i]).unwrap();
            builder.put(FamilyId::derive("f", 0), b"q", 5, &[i]).unwrap();
            builder.end_row().unwrap();
        }
        let outcome = tablet.write(builder.finish().unwrap(), 0).await.unwrap();
        assert_eq!(outcome.rows_written, 100);
        tablet.read_barrier().await.unwrap();
        let engine = tablet.engine();
        let mut cursor = engine.read(&ReadSpec::default(), tablet.now_micros()).unwrap();
        let mut cells = 0;
        while cursor.advance().unwrap() {
            cells += 1;
        }
        assert_eq!(cells, 100 * (usize::from(round) + 1));
        drop(cursor);
        drop(engine);
        tablet.maintain().await;
        assert_eq!(tablet.trouble(), None);
        assert_eq!(tablet.group().id(), GroupId(7));
        tablet.stop().await;
        assert!(tablet.engine().is_empty().is_err());
        // A handle that somebody still holds does not keep the files.
        handles.push(tablet);
    }
    host.shutdown(Duration::from_secs(1)).await;
}
