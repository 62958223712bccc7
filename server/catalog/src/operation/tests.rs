//! Each verb: what it does, what it refuses and with which reason, and that a refusal changes nothing.

use crate::command::{Answer, Command, Envelope, FamilySpec, Founding, LinkChange, RequestId};
use crate::limits;
use crate::record::{LinkState, PeerRecord};
use crate::state::{CatalogState, Identity};
use bytes::Bytes;
use std::collections::BTreeMap;
use tidemark_base::limits::{FAMILIES_MAX, ROW_BYTES_MAX, TABLETS_AT_CREATE_MAX};
use tidemark_base::schema::Layout;
use tidemark_base::{ErrorKind, FamilyId, NodeId, RegionId, Result, RowRange, TableId, TabletId};

/// A state that numbers its requests.
struct World {
    state: CatalogState,
    serial: u128,
}

fn identity(region_name: &str) -> Identity {
    Identity {
        cluster: "c".into(),
        region_name: region_name.into(),
        region: RegionId(1),
    }
}

impl World {
    fn empty() -> World {
        World {
            state: CatalogState::new(&identity("east")),
            serial: 0,
        }
    }

    /// Bootstrapped, three nodes in three zones, peer west.
    fn ready() -> World {
        let mut world = World::empty();
        world.run(bootstrap()).unwrap();
        for id in 1..=3 {
            world.run(register(id, &format!("z{id}"), 10)).unwrap();
        }
        world.run(peer("west", 2)).unwrap();
        world
    }

    fn run(&mut self, command: Command) -> Result<Answer> {
        self.run_for("east", command)
    }

    /// Runs it under a fresh request id; checks that a refusal changes nothing.
    fn run_for(&mut self, region_name: &str, command: Command) -> Result<Answer> {
        self.serial += 1;
        let founding = matches!(command, Command::Bootstrap { .. }).then(|| Founding {
            identity: identity(region_name),
            seeds: (1..=3).map(NodeId).collect(),
        });
        let envelope = Envelope {
            request: RequestId(self.serial.to_be_bytes()),
            now_ms: 1_000 + self.serial as u64,
            founding,
            command,
        };
        let before = self.state.clone();
        let response = self.state.execute(&envelope);
        assert_eq!(response.revision, self.state.view.revision);
        if response.outcome.is_err() {
            assert_eq!(self.state, before, "a refusal changed something");
        }
        let again = self.state.clone();
        let repeated = self.state.execute(&envelope);
        assert_eq!(self.state, again, "a retry changed something");
        assert_eq!(repeated, response);
        response.outcome
    }

    #[track_caller]
    fn refused(&mut self, command: Command, reason: &str) {
        let error = self.run(command).expect_err(reason);
        assert_eq!(error.reason(), reason, "{error}");
    }

    fn table(&self, name: &str) -> &crate::record::TableRecord {
        self.state.view.table(name).unwrap()
    }
}

fn bootstrap() -> Command {
    Command::Bootstrap {
        cluster_id: "id".into(),
    }
}

fn register(id: u64, zone: &str, now_ms: u64) -> Command {
    Command::RegisterNode {
        id: NodeId(id),
        address: format!("10.0.0.{id}:7400"),
        zone: zone.into(),
        version: "0.1.0".into(),
        now_ms,
        incarnation: String::new(),
    }
}

fn peer(name: &str, region: u16) -> Command {
    Command::PutPeer(PeerRecord {
        name: name.into(),
        region: RegionId(region),
        addresses: vec!["10.1.0.1:7400".into()],
    })
}

/// As the default of a field of a test's command.
struct Create {
    name: &'static str,
    families: Vec<FamilySpec>,
    split_at: Vec<Bytes>,
    max_future_micros: Option<i64>,
    if_not_exists: bool,
    generations: Option<BTreeMap<String, u32>>,
}

impl Create {
    fn new(name: &'static str, families: &[&str]) -> Create {
        Create {
            name,
            families: families.iter().map(|name| FamilySpec::new(*name)).collect(),
            split_at: Vec::new(),
            max_future_micros: None,
            if_not_exists: false,
            generations: None,
        }
    }

    fn split(mut self, rows: &[&str]) -> Create {
        self.split_at = rows.iter().map(|row| Bytes::copy_from_slice(row.as_bytes())).collect();
        self
    }

    fn command(self) -> Command {
        Command::CreateTable {
            request_id: RequestId([0; 16]),
            name: self.name.into(),
            families: self.families,
            split_at: self.split_at,
            max_future_micros: self.max_future_micros,
            if_not_exists: self.if_not_exists,
            generations: self.generations,
        }
    }
}

#[derive(Default)]
struct Alter {
    add: Vec<FamilySpec>,
    set: Vec<FamilySpec>,
    drop: Vec<&'static str>,
    max_future_micros: Option<i64>,
    generations: Option<BTreeMap<String, u32>>,
}

impl Alter {
    fn command(self, name: &str) -> Command {
        Command::AlterTable {
            request_id: RequestId([0; 16]),
            name: name.into(),
            add: self.add,
            set: self.set,
            drop: self.drop.into_iter().map(str::to_owned).collect(),
            max_future_micros: self.max_future_micros,
            generations: self.generations,
            now_micros: 10_000_000,
            hlc: 77,
        }
    }
}

fn drop_family(name: &'static str) -> Alter {
    Alter {
        drop: vec![name],
        ..Alter::default()
    }
}

fn add_family(name: &str) -> Alter {
    Alter {
        add: vec![FamilySpec::new(name)],
        ..Alter::default()
    }
}

const ENABLE: LinkChange = LinkChange::Enable { peer_table: TableId(5) };

fn link(change: LinkChange) -> Command {
    Command::SetLink {
        table: "t".into(),
        peer: "west".into(),
        change,
    }
}

#[test]
fn bootstrap_comes_first_and_counts_once() {
    let mut world = World::empty();
    world.refused(register(1, "a", 1), "CATALOG_NOT_READY");
    assert_eq!(world.run(Command::Barrier), Ok(Answer::Done));
    assert_eq!(world.run(bootstrap()), Ok(Answer::Cluster("id".into())));
    let second = world.run(Command::Bootstrap {
        cluster_id: "other".into(),
    });
    assert_eq!(second, Ok(Answer::Cluster("id".into())));
    assert_eq!(world.state.view.cluster_id.as_deref(), Some("id"));
    assert_eq!(world.state.view.revision, 1);
    let error = world.run_for("south", bootstrap()).unwrap_err();
    assert_eq!(error.reason(), "WRONG_CLUSTER");
}

#[test]
fn nodes_register_again_and_again() {
    let mut world = World::empty();
    world.run(bootstrap()).unwrap();
    world.run(register(1, "a", 5)).unwrap();
    let revision = world.state.view.revision;
    world.run(register(1, "a", 9)).unwrap();
    assert_eq!(world.state.view.revision, revision, "nothing changed");
    assert_eq!(world.state.view.nodes[&NodeId(1)].registered_ms, 5);
    world.run(register(1, "b", 9)).unwrap();
    assert_eq!(world.state.view.nodes[&NodeId(1)].zone, "b");
    assert_eq!(world.state.view.nodes[&NodeId(1)].registered_ms, 9);
    world.refused(register(0, "a", 1), "NODE_ID_INVALID");
    world.refused(register(4, "no zone", 1), "NAME_INVALID");
    let with = |address: &str, version: &str| Command::RegisterNode {
        id: NodeId(4),
        address: address.into(),
        zone: "a".into(),
        version: version.into(),
        now_ms: 1,
        incarnation: String::new(),
    };
    world.refused(with("nowhere", "1"), "ADDRESS_INVALID");
    world.refused(
        with("h:1", &"v".repeat(limits::VERSION_BYTES_MAX + 1)),
        "VERSION_TOO_LONG",
    );
    world.run(with("h:1", &"v".repeat(limits::VERSION_BYTES_MAX))).unwrap();
}

#[test]
fn a_number_belongs_to_one_incarnation() {
    let mut world = World::empty();
    world.run(bootstrap()).unwrap();
    let come = |address: &str, incarnation: &str| Command::RegisterNode {
        id: NodeId(4),
        address: address.into(),
        zone: "a".into(),
        version: "1".into(),
        now_ms: 1,
        incarnation: incarnation.into(),
    };
    // A state of an older release does not know it yet: the first that tells it keeps the number.
    world.run(come("h:1", "")).unwrap();
    world.run(come("h:1", "first")).unwrap();
    world.run(come("h:2", "first")).unwrap();
    for other in ["second", ""] {
        world.refused(come("h:2", other), "NODE_ID_USED");
    }
    let record = &world.state.view.nodes[&NodeId(4)];
    assert_eq!((record.address.as_str(), record.incarnation.as_str()), ("h:2", "first"));
    let long = "i".repeat(limits::INCARNATION_BYTES_MAX + 1);
    world.refused(come("h:2", &long), "INCARNATION_TOO_LONG");
}

/// Checks INV-32.
#[test]
fn a_table_is_made_with_its_tablets() {
    let mut world = World::ready();
    let made = world.run(Create::new("t", &["m", "s"]).split(&["g", "p"]).command());
    assert_eq!(made, Ok(Answer::Table(TableId(1))));
    let view = &world.state.view;
    let tablets: Vec<_> = view.tablets_of(TableId(1)).collect();
    let ids: Vec<u64> = tablets.iter().map(|tablet| tablet.id.0).collect();
    assert_eq!(ids, [2, 3, 4]);
    let leaders: Vec<u64> = tablets.iter().map(|tablet| tablet.replicas[0].0).collect();
    assert_eq!(leaders, [1, 2, 3]);
    assert!(tablets.iter().all(|tablet| tablet.replicas.len() == 3));
    for (row, id) in [("", 2), ("fz", 2), ("g", 3), ("o", 3), ("p", 4), ("zzz", 4)] {
        assert_eq!(
            view.route(TableId(1), row.as_bytes()).unwrap().id,
            TabletId(id),
            "{row:?}"
        );
    }
    assert_eq!(view.route(TableId(9), b"x"), None);
    let overlapping = view.overlapping(
        TableId(1),
        &RowRange {
            start: "g".into(),
            end: Some("p".into()),
        },
    );
    assert_eq!(overlapping.iter().map(|tablet| tablet.id.0).collect::<Vec<_>>(), [3]);
    assert_eq!(view.overlapping(TableId(1), &RowRange::all()).len(), 3);
    assert_eq!(view.tablets_on(NodeId(2)).count(), 3);
    let schema = view.schema(TableId(1)).unwrap();
    assert_eq!(
        (schema.revision, schema.region, schema.families.len()),
        (1, RegionId(1), 2)
    );
    assert!(schema.peers.is_empty() && schema.family_named("m").is_some());
}

#[test]
fn names_families_and_splits_are_checked() {
    let mut world = World::ready();
    world.refused(Create::new("1t", &[]).command(), "NAME_INVALID");
    world.refused(Create::new("t", &["a b"]).command(), "NAME_INVALID");
    world.refused(Create::new("t", &["m", "m"]).command(), "FAMILY_TWICE");
    for (splits, ok) in [
        (vec!["b", "a"], false),
        (vec!["a", "a"], false),
        (vec![""], false),
        (vec!["a", "b"], true),
    ] {
        let outcome = world.run(Create::new("s", &[]).split(&splits).command());
        assert_eq!(outcome.is_ok(), ok, "{splits:?}");
        assert!(outcome.is_ok() || outcome.unwrap_err().reason() == "SPLIT_INVALID");
    }
    let spec = |ttl, max| FamilySpec {
        ttl_micros: ttl,
        max_versions: max,
        ..FamilySpec::new("m")
    };
    let with = |spec: FamilySpec| {
        Create {
            families: vec![spec],
            ..Create::new("f", &[])
        }
        .command()
    };
    world.refused(with(spec(Some(999), None)), "TTL_TOO_SHORT");
    world.refused(with(spec(Some(-1), None)), "TTL_TOO_SHORT");
    world.refused(with(spec(None, Some(0))), "MAX_VERSIONS_INVALID");
    world.run(with(spec(Some(1_000), Some(1)))).unwrap();
    let future = |micros| {
        Create {
            max_future_micros: Some(micros),
            ..Create::new("u", &[])
        }
        .command()
    };
    world.refused(future(-1), "MAX_FUTURE_INVALID");
    world.refused(future(limits::MAX_FUTURE_MICROS_MAX + 1), "MAX_FUTURE_INVALID");
    world.run(future(limits::MAX_FUTURE_MICROS_MAX)).unwrap();
}

#[test]
fn limits_at_n_minus_1_n_and_n_plus_1() {
    let mut world = World::ready();
    let names: Vec<String> = (0..=FAMILIES_MAX).map(|at| format!("f{at}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for (count, table, ok) in [
        (FAMILIES_MAX - 1, "a", true),
        (FAMILIES_MAX, "b", true),
        (FAMILIES_MAX + 1, "c", false),
    ] {
        let outcome = world.run(Create::new(table, &names[..count]).command());
        assert_eq!(outcome.is_ok(), ok, "{count} families: {outcome:?}");
    }
    world.run(add_family("last").command("a")).unwrap();
    world.refused(add_family("more").command("b"), "FAMILIES_TOO_MANY");
    for (count, table, ok) in [
        (TABLETS_AT_CREATE_MAX - 2, "d", true),
        (TABLETS_AT_CREATE_MAX - 1, "e", true),
        (TABLETS_AT_CREATE_MAX, "f", false),
    ] {
        let split_at = (0..count).map(|at| Bytes::from(format!("{at:05}"))).collect();
        let outcome = world.run(
            Create {
                split_at,
                ..Create::new(table, &[])
            }
            .command(),
        );
        assert_eq!(outcome.is_ok(), ok, "{count} splits: {outcome:?}");
    }
    for (length, table, ok) in [
        (ROW_BYTES_MAX - 1, "g", true),
        (ROW_BYTES_MAX, "h", true),
        (ROW_BYTES_MAX + 1, "i", false),
    ] {
        let split_at = vec![Bytes::from(vec![b'x'; length])];
        let outcome = world.run(
            Create {
                split_at,
                ..Create::new(table, &[])
            }
            .command(),
        );
        assert_eq!(outcome.is_ok(), ok, "{length} bytes: {outcome:?}");
    }
}

#[test]
fn a_table_waits_for_every_seed() {
    let mut world = World::empty();
    world.run(bootstrap()).unwrap();
    world.run(register(1, "a", 1)).unwrap();
    let error = world.run(Create::new("t", &[]).command()).unwrap_err();
    assert_eq!(
        (error.kind(), error.reason()),
        (ErrorKind::Unavailable, "NODES_MISSING")
    );
    assert!(error.message().contains("n2, n3"), "{error}");
    world.run(register(2, "b", 1)).unwrap();
    world.run(register(3, "c", 1)).unwrap();
    world.run(Create::new("t", &[]).command()).unwrap();
}

#[test]
fn if_not_exists_wants_the_same_table() {
    let mut world = World::ready();
    let first = world.run(Create::new("t", &["m"]).command()).unwrap();
    world.refused(Create::new("t", &["m"]).command(), "TABLE_EXISTS");
    let again = |create: Create| Create {
        if_not_exists: true,
        ..create
    };
    assert_eq!(world.run(again(Create::new("t", &["m"])).command()), Ok(first.clone()));
    world.refused(again(Create::new("t", &["m", "s"])).command(), "TABLE_DIFFERS");
    world.refused(again(Create::new("t", &["s"])).command(), "TABLE_DIFFERS");
    let generations = |generation| Some(BTreeMap::from([("m".to_owned(), generation)]));
    let with = |generation| Create {
        generations: generations(generation),
        ..again(Create::new("t", &["m"]))
    };
    assert_eq!(world.run(with(0).command()), Ok(first));
    world.refused(with(1).command(), "TABLE_DIFFERS");
}

#[test]
fn a_dropped_family_comes_back_as_another_one() {
    let mut world = World::ready();
    world.run(Create::new("t", &["m", "s"]).command()).unwrap();
    let old = world.table("t").family("m").unwrap().settings.id;
    world.run(drop_family("m").command("t")).unwrap();
    assert!(world.table("t").family("m").is_none());
    world.run(add_family("m").command("t")).unwrap();
    let family = world.table("t").family("m").unwrap();
    assert_eq!(family.generation, 1, "a name alone is no family");
    assert_ne!(family.settings.id, old);
    let schema = world.table("t").schema(RegionId(1));
    assert_eq!(schema.dropped, [old], "tablets learn what can never come back (R17)");
    assert!(!schema.is_dropped(family.settings.id) && !schema.is_unknown(family.settings.id));
    assert_eq!(world.table("t").revision, 3);
    world.refused(add_family("m").command("t"), "FAMILY_EXISTS");
    world.refused(drop_family("x").command("t"), "FAMILY_UNKNOWN");
    // In one request: away and back.
    world
        .run(
            Alter {
                drop: vec!["m"],
                ..add_family("m")
            }
            .command("t"),
        )
        .unwrap();
    assert_eq!(world.table("t").family("m").unwrap().generation, 2);
    let mut dropped = [0, 1].map(|generation| FamilyId::derive("m", generation));
    dropped.sort();
    assert_eq!(world.table("t").schema(RegionId(1)).dropped, dropped);
}

#[test]
fn a_peers_generations_are_taken_over_or_refused() {
    let mut world = World::ready();
    let generations = |generation| Some(BTreeMap::from([("m".to_owned(), generation)]));
    world
        .run(
            Create {
                generations: generations(3),
                ..Create::new("t", &["m", "s"])
            }
            .command(),
        )
        .unwrap();
    assert_eq!(world.table("t").family("m").unwrap().generation, 3);
    assert_eq!(world.table("t").family("s").unwrap().generation, 0);
    let gone = |world: &World| world.table("t").schema(RegionId(1)).dropped.len();
    assert_eq!(
        gone(&world),
        3,
        "what the peer used up before can never live here either"
    );
    world.run(drop_family("m").command("t")).unwrap();
    assert_eq!(gone(&world), 4);
    world.refused(
        Alter {
            generations: generations(3),
            ..add_family("m")
        }
        .command("t"),
        "FAMILY_GENERATION_USED",
    );
    world
        .run(
            Alter {
                generations: generations(5),
                ..add_family("m")
            }
            .command("t"),
        )
        .unwrap();
    assert_eq!(world.table("t").family("m").unwrap().generation, 5);
    world.run(drop_family("m").command("t")).unwrap();
    world.refused(
        Alter {
            generations: generations(u32::MAX),
            ..add_family("m")
        }
        .command("t"),
        "FAMILIES_EVER_TOO_MANY",
    );
}

/// Where a series family keeps things depends on its time blocks, so they are bounded, and stay what they were.
#[test]
fn a_layout_is_given_once() {
    let mut world = World::ready();
    let family = |layout| FamilySpec {
        layout,
        ..FamilySpec::new("m")
    };
    let series = |block_micros| Some(Layout::Series { block_micros });
    let create = |name: &'static str, layout| {
        Create {
            families: vec![family(layout)],
            ..Create::new(name, &[])
        }
        .command()
    };
    let (least, most) = (limits::SERIES_BLOCK_MICROS_MIN, limits::SERIES_BLOCK_MICROS_MAX);
    for bad in [least - 1, most + 1, 0, i64::MIN] {
        world.refused(create("t", series(bad)), "TIME_BLOCK_INVALID");
    }
    for (name, good) in [("t0", least), ("t1", least + 1), ("t2", most - 1), ("t3", most)] {
        world.run(create(name, series(good))).unwrap();
    }
    world.run(create("cells", None)).unwrap();
    let set = |layout| Alter {
        set: vec![family(layout)],
        ..Alter::default()
    };
    for (table, other) in [
        ("t0", series(most)),
        ("t0", Some(Layout::Cells)),
        ("cells", series(least)),
    ] {
        world.refused(set(other).command(table), "LAYOUT_FIXED");
    }
    for same in [None, series(least)] {
        world.run(set(same).command("t0")).unwrap();
    }
    assert_eq!(
        Some(world.table("t0").family("m").unwrap().settings.layout),
        series(least)
    );
}

#[test]
fn altered_settings_leave_floors_behind() {
    let mut world = World::ready();
    let limited = FamilySpec {
        ttl_micros: Some(1_000_000),
        max_versions: Some(1),
        ..FamilySpec::new("m")
    };
    world
        .run(
            Create {
                families: vec![limited.clone()],
                ..Create::new("t", &[])
            }
            .command(),
        )
        .unwrap();
    let set = |spec: FamilySpec| Alter {
        set: vec![spec],
        ..Alter::default()
    };
    world.run(set(FamilySpec::new("m")).command("t")).unwrap();
    let settings = &world.table("t").family("m").unwrap().settings;
    assert_eq!((settings.ttl_micros, settings.max_versions), (None, None));
    assert_eq!(settings.expiry_floor, 9_000_000);
    assert_eq!(
        (settings.past_limits[0].until, settings.past_limits[0].max_versions),
        (77, 1)
    );
    let revision = world.table("t").revision;
    world.run(set(FamilySpec::new("m")).command("t")).unwrap();
    assert_eq!(world.table("t").revision, revision, "nothing changed");
    world.refused(Alter::default().command("t"), "NOTHING_TO_CHANGE");
    world.refused(set(limited).command("nope"), "TABLE_UNKNOWN");
    world.refused(set(FamilySpec::new("x")).command("t"), "FAMILY_UNKNOWN");
    let future = Alter {
        max_future_micros: Some(5),
        ..Alter::default()
    };
    world.run(future.command("t")).unwrap();
    assert_eq!(world.state.view.schema(TableId(1)).unwrap().max_future_micros, 5);
}

/// Checks INV-30.
#[test]
fn numbers_are_never_reused() {
    let mut world = World::ready();
    world.run(Create::new("t", &[]).split(&["m"]).command()).unwrap();
    assert!(!world.state.view.is_dropped(TabletId(2)) && !world.state.view.is_dropped(TabletId(4)));
    world.run(Command::DropTable { name: "t".into() }).unwrap();
    assert!(world.state.view.tablets.is_empty());
    assert!(world.state.view.is_dropped(TabletId(2)) && world.state.view.is_dropped(TabletId(3)));
    assert!(
        !world.state.view.is_dropped(TabletId(4)),
        "not known yet is not dropped"
    );
    assert!(
        !world.state.view.is_dropped(TabletId(1)),
        "the catalog's own group is no tablet"
    );
    let made = world.run(Create::new("t", &[]).command());
    assert_eq!(made, Ok(Answer::Table(TableId(2))));
    assert_eq!(world.state.view.tablets_of(TableId(2)).next().unwrap().id, TabletId(4));
    world.run(Command::DropTable { name: "t".into() }).unwrap();
    world.refused(Command::DropTable { name: "t".into() }, "TABLE_UNKNOWN");
}

#[test]
fn unknown_tables_suggest_names() {
    let mut world = World::ready();
    for name in ["telemetry", "telemetry.raw", "orders"] {
        world.run(Create::new(name, &[]).command()).unwrap();
    }
    let action = |name: &str| {
        world
            .state
            .view
            .table_or_error(name)
            .unwrap_err()
            .next_action()
            .to_owned()
    };
    assert!(
        action("telemtry").contains("did you mean telemetry?"),
        "{}",
        action("telemtry")
    );
    assert!(
        action("tele").contains("telemetry, telemetry.raw?"),
        "{}",
        action("tele")
    );
    assert_eq!(action("x"), "list the tables: tidemark table list");
    let long = "x".repeat(10_000);
    assert!(world.state.view.table_or_error(&long).unwrap_err().to_string().len() < 400);
}

#[test]
fn peers_have_names_and_numbers_of_their_own() {
    let mut world = World::ready();
    world.run(peer("west", 2)).unwrap();
    world.refused(peer("east", 3), "PEER_IS_SELF");
    world.refused(peer("other", 1), "PEER_IS_SELF");
    world.refused(peer("other", 2), "REGION_TAKEN");
    world.refused(peer("other", 0), "REGION_INVALID");
    world.refused(peer("no name", 3), "NAME_INVALID");
    let with = |addresses: Vec<String>| {
        Command::PutPeer(PeerRecord {
            name: "west".into(),
            region: RegionId(2),
            addresses,
        })
    };
    world.refused(with(vec![]), "ADDRESSES_INVALID");
    world.refused(
        with(vec!["a:1".into(); limits::PEER_ADDRESSES_MAX + 1]),
        "ADDRESSES_INVALID",
    );
    world.refused(with(vec!["a".into()]), "ADDRESS_INVALID");
    world.run(with(vec!["a:1".into(), "b:1".into()])).unwrap();
    assert_eq!(world.state.view.peer_by_region(RegionId(2)).unwrap().addresses.len(), 2);
    world.run(peer("west", 5)).unwrap();
    world.run(Command::RemovePeer { name: "west".into() }).unwrap();
    world.refused(Command::RemovePeer { name: "west".into() }, "PEER_UNKNOWN");
}

#[test]
fn a_link_goes_through_its_life() {
    let mut world = World::ready();
    world.run(Create::new("t", &["m"]).command()).unwrap();
    world.refused(link(ENABLE), "LINK_NOT_PREPARED");
    world.refused(link(LinkChange::Pause), "LINK_UNKNOWN");
    assert_eq!(world.run(link(LinkChange::Remove)), Ok(Answer::Done));
    world.run(link(LinkChange::Prepare)).unwrap();
    assert_eq!(world.table("t").revision, 2);
    let made_ms = world.table("t").links["west"].linked_at_ms;
    assert_eq!(world.state.view.schema(TableId(1)).unwrap().peers, [RegionId(2)]);
    world.run(link(ENABLE)).unwrap();
    world.run(link(ENABLE)).unwrap();
    world.run(link(LinkChange::Prepare)).unwrap();
    let record = &world.table("t").links["west"];
    assert_eq!(
        (record.state, record.paused, record.peer),
        (LinkState::Enabled, false, RegionId(2))
    );
    assert_eq!(world.table("t").revision, 2, "tablets have nothing new to learn");
    world.run(link(LinkChange::Pause)).unwrap();
    assert!(world.table("t").links["west"].paused);
    world.run(link(LinkChange::Resume)).unwrap();
    let record = &world.table("t").links["west"];
    assert!(!record.paused);
    assert_eq!(record.linked_at_ms, made_ms, "a pause does not make the link younger");
    assert!(record.since_ms > made_ms);
    let other = LinkChange::Enable { peer_table: TableId(6) };
    assert_eq!(world.table("t").links["west"].peer_table, Some(TableId(5)));
    world.refused(link(other), "LINK_STALE");
    assert_eq!(world.state.view.schema(TableId(1)).unwrap().link(RegionId(2)), Some(2));
    world.run(link(LinkChange::Remove)).unwrap();
    assert_eq!(world.table("t").revision, 3);
    assert!(world.state.view.schema(TableId(1)).unwrap().peers.is_empty());
    // A later link with the same peer is another one, whatever the clock shows.
    world.run(link(LinkChange::Prepare)).unwrap();
    assert_eq!(world.state.view.schema(TableId(1)).unwrap().link(RegionId(2)), Some(4));
    assert_eq!(world.table("t").links["west"].peer_table, None);
}

#[test]
fn what_is_replicated_is_not_pulled_away() {
    let mut world = World::ready();
    world.run(Create::new("t", &["m"]).command()).unwrap();
    let elsewhere = |peer: &str, table: &str| Command::SetLink {
        table: table.into(),
        peer: peer.into(),
        change: LinkChange::Prepare,
    };
    world.refused(elsewhere("south", "t"), "PEER_UNKNOWN");
    world.refused(elsewhere("west", "u"), "TABLE_UNKNOWN");
    world.run(link(LinkChange::Prepare)).unwrap();
    world.refused(Command::DropTable { name: "t".into() }, "TABLE_REPLICATED");
    world.refused(Command::RemovePeer { name: "west".into() }, "PEER_IN_USE");
    world.refused(peer("west", 7), "PEER_IN_USE");
    world.run(drop_family("m").command("t")).unwrap();
    world.run(link(LinkChange::Remove)).unwrap();
    world.run(Command::DropTable { name: "t".into() }).unwrap();
    world.run(Command::RemovePeer { name: "west".into() }).unwrap();
}

/// Checks INV-31.
#[test]
fn remembered_requests_are_bounded() {
    let mut world = World::ready();
    for turn in 0..limits::REQUESTS_MAX as u64 + 10 {
        world
            .run(register(1, if turn % 2 == 0 { "even" } else { "odd" }, 1))
            .unwrap();
    }
    assert_eq!(world.state.requests.len(), limits::REQUESTS_MAX);
}
