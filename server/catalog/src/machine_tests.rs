//! The machine against its contract: what is applied is the same on every replica, whatever restarts and snapshots come
//! between, and what it says is durable is.

use super::*;
use crate::command::{Command, Envelope, FamilySpec, Founding, LinkChange, RequestId};
use crate::record::PeerRecord;
use proptest::prelude::*;
use std::collections::BTreeSet;
use tidemark_base::{NodeId, RegionId, TableId, TabletId};
use tidemark_consensus::LogPosition;

fn identity() -> Identity {
    Identity {
        cluster: "c".into(),
        region_name: "east".into(),
        region: RegionId(1),
    }
}

fn entry(index: u64, payload: Payload) -> Entry {
    let position = LogPosition {
        term: 1,
        leader: NodeId(1),
        index,
    };
    Entry { position, payload }
}

fn envelope(request: u8, command: Command) -> Envelope {
    let founding = matches!(command, Command::Bootstrap { .. }).then(|| Founding {
        identity: identity(),
        seeds: vec![NodeId(1)],
    });
    Envelope {
        request: RequestId([request; 16]),
        now_ms: 5,
        founding,
        command,
    }
}

/// A log: membership, bootstrap, node 1, then the commands.
fn log(commands: Vec<(u8, Command)>) -> Vec<Entry> {
    let first = [
        (
            250,
            Command::Bootstrap {
                cluster_id: "id".into(),
            },
        ),
        (251, register(1, "a")),
    ];
    let payloads = std::iter::once(Payload::Membership(Bytes::from_static(b"members"))).chain(
        first
            .into_iter()
            .chain(commands)
            .map(|(request, command)| Payload::Command(codec::encode_envelope(&envelope(request, command)))),
    );
    payloads
        .enumerate()
        .map(|(at, payload)| entry(at as u64, payload))
        .collect()
}

fn register(id: u64, zone: &str) -> Command {
    Command::RegisterNode {
        id: NodeId(id),
        address: format!("h:{id}"),
        zone: zone.into(),
        version: "1".into(),
        now_ms: 1,
        incarnation: String::new(),
    }
}

fn content(machine: &Machine) -> (AppliedState, CatalogState) {
    (machine.applied.clone(), machine.state.clone())
}

fn spec() -> impl Strategy<Value = FamilySpec> {
    let limits = (proptest::option::of(1_000i64..9_999), proptest::option::of(0u32..4));
    (prop_oneof!["m", "s", "t"], limits).prop_map(|(name, (ttl_micros, max_versions))| FamilySpec {
        ttl_micros,
        max_versions,
        ..FamilySpec::new(name)
    })
}

fn command() -> impl Strategy<Value = Command> {
    let table = || prop_oneof!["t", "u"];
    let peer = || prop_oneof!["west", "south"];
    let specs = || proptest::collection::vec(spec(), 0..3);
    let create = (
        table(),
        specs(),
        proptest::collection::btree_set("[a-z]{1,2}", 0..4),
        any::<[u8; 16]>(),
        any::<bool>(),
    );
    let create = create.prop_map(|(name, families, splits, id, if_not_exists)| Command::CreateTable {
        request_id: RequestId(id),
        name,
        families,
        split_at: splits.into_iter().map(Bytes::from).collect(),
        max_future_micros: None,
        if_not_exists,
        generations: None,
    });
    let alter = (
        table(),
        specs(),
        specs(),
        proptest::collection::vec(prop_oneof!["m", "s"], 0..2),
        any::<u32>(),
    );
    let alter = alter.prop_map(|(name, add, set, drop, now)| Command::AlterTable {
        request_id: RequestId([0; 16]),
        name,
        add,
        set,
        drop,
        max_future_micros: None,
        generations: None,
        now_micros: i64::from(now),
        hlc: u64::from(now),
    });
    let change = prop_oneof![
        Just(LinkChange::Prepare),
        (1u64..3).prop_map(|id| LinkChange::Enable {
            peer_table: TableId(id)
        }),
        Just(LinkChange::Pause),
        Just(LinkChange::Resume),
        Just(LinkChange::Remove),
    ];
    prop_oneof![
        3 => create,
        3 => alter,
        1 => table().prop_map(|name| Command::DropTable { name }),
        1 => (1u64..6, "[ab]").prop_map(|(id, zone)| register(id, &zone)),
        2 => (peer(), 1u16..4).prop_map(|(name, region)| Command::PutPeer(PeerRecord {
            name,
            region: RegionId(region),
            addresses: vec!["h:1".into()],
        })),
        1 => peer().prop_map(|name| Command::RemovePeer { name }),
        4 => (table(), peer(), change).prop_map(|(table, peer, change)| Command::SetLink { table, peer, change }),
        1 => Just(Command::Barrier),
    ]
}

/// What must hold in every state.
fn check(state: &CatalogState, seen: &mut BTreeSet<TabletId>) {
    let view = &state.view;
    for table in view.tables.values() {
        assert_eq!(view.table(&table.name), Some(table));
        assert_eq!(view.schema(table.id).as_deref(), Some(&table.schema(RegionId(1))));
        let tablets: Vec<_> = view.tablets_of(table.id).collect();
        assert!(tablets[0].range.start.is_empty() && tablets[tablets.len() - 1].range.end.is_none());
        for pair in tablets.windows(2) {
            assert_eq!(
                pair[0].range.end.as_ref(),
                Some(&pair[1].range.start),
                "every row exactly once"
            );
        }
        for tablet in &tablets {
            assert_eq!(view.route(table.id, &tablet.range.start), Some(*tablet));
            assert!(!tablet.replicas.is_empty() && tablet.replicas.iter().all(|node| view.nodes.contains_key(node)));
        }
        let ids: BTreeSet<_> = table.families.iter().map(|family| family.settings.id).collect();
        assert_eq!(ids.len(), table.families.len());
        assert!(
            table
                .families
                .iter()
                .all(|f| f.generation < table.next_generations[&f.settings.name])
        );
        assert!(table.links.keys().all(|peer| view.peers.contains_key(peer)));
    }
    let covered: usize = view.tables.keys().map(|table| view.tablets_of(*table).count()).sum();
    assert_eq!(covered, view.tablets.len());
    seen.extend(view.tablets.keys());
    assert!(
        seen.iter()
            .all(|id| view.tablets.contains_key(id) != view.is_dropped(*id))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// One replica applies entry by entry; the other in runs, and after each run it crashes, or flushes and crashes, or
    /// is replaced by a third that installs its checkpoint.
    #[test]
    fn replicas_end_equal_whatever_happens_to_them(
        commands in proptest::collection::vec((0u8..40, command()), 1..60),
        runs in proptest::collection::vec((1usize..12, 0u8..4), 1..20),
    ) {
        let home = tempfile::tempdir().unwrap();
        let log = log(commands);
        let mut steady = Machine::open(&home.path().join("steady"), &identity()).unwrap();
        let (mut answers, mut seen) = (Vec::new(), BTreeSet::new());
        for entry in &log {
            answers.extend(steady.apply(vec![entry.clone()]).unwrap());
            check(&steady.state, &mut seen);
        }
        let mut dir = home.path().join("troubled");
        let mut troubled = Machine::open(&dir, &identity()).unwrap();
        let mut runs = runs.into_iter().enumerate();
        loop {
            let next = troubled.applied().unwrap().position.map_or(0, |p| p.index as usize + 1);
            let (turn, (length, trouble)) = runs.next().unwrap_or((usize::MAX, (log.len(), 9)));
            let run = log[next..].iter().take(length).cloned().collect::<Vec<_>>();
            let expected = &answers[next..next + run.len()];
            prop_assert_eq!(&troubled.apply(run).unwrap()[..], expected);
            if trouble == 1 || trouble == 2 {
                if trouble == 2 {
                    troubled.request_flush();
                }
                let durable = troubled.durable_index();
                troubled = Machine::open(&dir, &identity()).unwrap();
                prop_assert_eq!(troubled.applied().unwrap().position.map_or(0, |p| p.index), durable);
            } else if trouble == 3 {
                let checkpoint = home.path().join(format!("checkpoint-{turn}"));
                let promised = troubled.checkpoint(&checkpoint).unwrap();
                dir = home.path().join(format!("replacement-{turn}"));
                let mut replacement = Machine::open(&dir, &identity()).unwrap();
                prop_assert_eq!(replacement.install(&checkpoint).unwrap(), promised);
                let view = replacement.published().view();
                prop_assert_eq!(&*view, &troubled.state.view);
                troubled = replacement;
            }
            if turn == usize::MAX {
                break;
            }
        }
        prop_assert_eq!(content(&steady), content(&troubled));
        let view = steady.published().view();
        prop_assert_eq!(&*view, &troubled.state.view);
    }
}

#[test]
fn flushes_by_itself_after_enough_commands() {
    let home = tempfile::tempdir().unwrap();
    let mut machine = Machine::open(home.path(), &identity()).unwrap();
    let commands = (0..FLUSH_COMMANDS as u8)
        .map(|request| (request, Command::Barrier))
        .collect();
    let log = log(commands);
    machine.apply(log[..FLUSH_COMMANDS as usize].to_vec()).unwrap();
    assert_eq!(machine.durable_index(), 0);
    machine.apply(log[FLUSH_COMMANDS as usize..].to_vec()).unwrap();
    assert_eq!(machine.durable_index(), FLUSH_COMMANDS + 2);
}

/// The catalog's log is replayed only when there is a leader again. Until then, too, a node must know whom to refuse.
#[test]
fn a_nodes_incarnation_is_flushed_at_once() {
    let home = tempfile::tempdir().unwrap();
    let mut machine = Machine::open(home.path(), &identity()).unwrap();
    let mut command = register(9, "a");
    if let Command::RegisterNode { incarnation, .. } = &mut command {
        *incarnation = "life".into();
    }
    machine.apply(log(vec![(77, command)])).unwrap();
    let reopened = Machine::open(home.path(), &identity()).unwrap();
    assert_eq!(reopened.published().view().nodes[&NodeId(9)].incarnation, "life");
}

#[test]
fn another_clusters_state_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let mut machine = Machine::open(home.path(), &identity()).unwrap();
    machine.apply(log(Vec::new())).unwrap();
    machine.request_flush();
    let other = Identity {
        region: RegionId(2),
        ..identity()
    };
    let error = Machine::open(home.path(), &other).map(|_| ()).unwrap_err();
    assert_eq!(error.reason(), "WRONG_CLUSTER");
    assert!(error.to_string().contains("catalog.json"), "{error}");
    let checkpoint = home.path().join("checkpoint");
    machine.checkpoint(&checkpoint).unwrap();
    let mut stranger = Machine::open(&home.path().join("stranger"), &other).unwrap();
    assert!(stranger.install(&checkpoint).is_err());
    assert!(
        stranger.apply(log(Vec::new())).is_err(),
        "founded as another region than configured"
    );
}

#[test]
fn an_unreadable_command_stops_the_replica() {
    let home = tempfile::tempdir().unwrap();
    let mut machine = Machine::open(home.path(), &identity()).unwrap();
    let fault = machine.apply(vec![entry(0, Payload::Command(Bytes::from_static(b"{}")))]);
    assert!(fault.unwrap_err().to_string().contains("not readable"));
}

#[test]
fn a_damaged_document_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    let mut machine = Machine::open(home.path(), &identity()).unwrap();
    machine.apply(log(Vec::new())).unwrap();
    machine.request_flush();
    let path = store::path(home.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    let error = Machine::open(home.path(), &identity()).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), tidemark_base::ErrorKind::Corruption);
    assert!(error.object_name().ends_with("catalog.json"), "{error}");
}

#[test]
fn an_uncertain_write_poisons_and_a_refused_one_does_not() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("catalog");
    let mut machine = Machine::open(&dir, &identity()).unwrap();
    let log = log(vec![(1, Command::Barrier)]);
    machine.apply(log[..2].to_vec()).unwrap();
    // No directory: the new document cannot be written, the old state is untouched.
    std::fs::rename(&dir, home.path().join("away")).unwrap();
    machine.request_flush();
    assert_eq!(machine.durable_index(), 0);
    machine.apply(log[2..3].to_vec()).unwrap();
    // A directory in the document's place: the rename fails, and a failed rename is not taken apart.
    std::fs::create_dir_all(store::path(&dir).join("x")).unwrap();
    machine.request_flush();
    assert_eq!(machine.durable_index(), 0);
    assert!(machine.apply(log[3..].to_vec()).is_err());
}

#[test]
fn a_checkpoint_or_snapshot_without_room_changes_nothing_and_is_tried_again() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("catalog");
    let mut machine = Machine::open(&dir, &identity()).unwrap();
    let log = log(vec![(1, Command::Barrier)]);
    machine.apply(log[..2].to_vec()).unwrap();
    // What cannot be made where it is wanted, as on a full disk.
    let nowhere = home.path().join("no/such/checkpoint");
    assert!(matches!(machine.checkpoint(&nowhere), Err(CheckpointError::Kept(_))));
    machine.apply(log[2..3].to_vec()).unwrap();
    let checkpoint = home.path().join("checkpoint");
    let promised = machine.checkpoint(&checkpoint).unwrap();

    let other = home.path().join("other");
    let mut follower = Machine::open(&other, &identity()).unwrap();
    let away = home.path().join("away");
    std::fs::rename(&other, &away).unwrap();
    assert!(matches!(follower.install(&checkpoint), Err(CheckpointError::Kept(_))));
    assert_eq!(follower.applied().unwrap(), AppliedState::default());
    std::fs::rename(&away, &other).unwrap();
    assert_eq!(follower.install(&checkpoint).unwrap(), promised);
    follower.apply(log[3..].to_vec()).unwrap();
    // An uncertain replacement is another matter.
    std::fs::remove_file(store::path(&other)).unwrap();
    std::fs::create_dir_all(store::path(&other).join("x")).unwrap();
    assert!(matches!(follower.install(&checkpoint), Err(CheckpointError::Fault(_))));
}
