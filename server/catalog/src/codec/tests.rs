//! Golden examples of every form: what stands here was written by a release and is read for ever.

use super::*;
use crate::command::{Command, FamilySpec, LinkChange};
use crate::record::PeerRecord;
use crate::state::CatalogState;
use proptest::prelude::*;
use tidemark_base::schema::{Compression, Layout};
use tidemark_consensus::{AppliedState, LogPosition};

const REQUEST: RequestId = RequestId([0xab; 16]);
const REQUEST_TEXT: &str = "abababababababababababababababab";

fn identity() -> Identity {
    Identity {
        cluster: "tides".into(),
        region_name: "east".into(),
        region: RegionId(1),
    }
}

fn family(name: &str) -> FamilySpec {
    FamilySpec {
        ttl_micros: Some(5_000),
        max_versions: Some(3),
        compression: Compression::Zstd,
        ..FamilySpec::new(name)
    }
}

fn create() -> Command {
    Command::CreateTable {
        request_id: REQUEST,
        name: "telemetry".into(),
        families: vec![family("m"), FamilySpec::new("s")],
        split_at: vec![Bytes::from_static(b"\xff\x00"), Bytes::from_static(b"\xff\xff")],
        max_future_micros: Some(1_000_000),
        if_not_exists: true,
        generations: Some([("m".to_owned(), 2)].into()),
    }
}

fn alter() -> Command {
    Command::AlterTable {
        request_id: REQUEST,
        name: "telemetry".into(),
        add: vec![FamilySpec {
            layout: Some(Layout::Series {
                block_micros: 60_000_000,
            }),
            ..FamilySpec::new("t")
        }],
        set: vec![FamilySpec::new("m")],
        drop: vec!["s".into()],
        max_future_micros: None,
        generations: None,
        now_micros: 9_000_000,
        hlc: 1_310_720,
    }
}

/// Every verb with the text of its command.
fn golden() -> Vec<(Command, &'static str)> {
    vec![
        (
            Command::Bootstrap {
                cluster_id: "c1".into(),
            },
            r#"{"bootstrap":{"cluster_id":"c1"}}"#,
        ),
        (
            Command::RegisterNode {
                id: NodeId(1),
                address: "h:1".into(),
                zone: "a".into(),
                version: "0.1".into(),
                now_ms: 6,
                incarnation: "life".into(),
            },
            r#"{"register_node":{"id":1,"address":"h:1","zone":"a","version":"0.1","now_ms":6,"incarnation":"life"}}"#,
        ),
        (
            create(),
            concat!(
                r#"{"create_table":{"request":"abababababababababababababababab","name":"telemetry","families":["#,
                r#"{"name":"m","ttl_micros":5000,"max_versions":3,"compression":"zstd"},"#,
                r#"{"name":"s","compression":"lz4"}],"split_at":["/wA=","//8="],"max_future_micros":1000000,"#,
                r#""if_not_exists":true,"generations":{"m":2}}}"#
            ),
        ),
        (
            alter(),
            concat!(
                r#"{"alter_table":{"request":"abababababababababababababababab","name":"telemetry","#,
                r#""add":[{"name":"t","compression":"lz4","layout":{"series":{"block_micros":60000000}}}],"set":[{"name":"m","compression":"lz4"}],"drop":["s"],"#,
                r#""now_micros":9000000,"hlc":1310720}}"#
            ),
        ),
        (
            Command::DropTable { name: "t".into() },
            r#"{"drop_table":{"name":"t"}}"#,
        ),
        (
            Command::PutPeer(PeerRecord {
                name: "west".into(),
                region: RegionId(2),
                addresses: vec!["w:1".into()],
            }),
            r#"{"put_peer":{"name":"west","region":2,"addresses":["w:1"]}}"#,
        ),
        (
            Command::RemovePeer { name: "west".into() },
            r#"{"remove_peer":{"name":"west"}}"#,
        ),
        (
            Command::SetLink {
                table: "t".into(),
                peer: "west".into(),
                change: LinkChange::Prepare,
            },
            r#"{"set_link":{"table":"t","peer":"west","change":"prepare"}}"#,
        ),
        (Command::Barrier, r#""barrier""#),
    ]
}

fn envelope(command: Command) -> Envelope {
    let founding = matches!(command, Command::Bootstrap { .. }).then(|| Founding {
        identity: identity(),
        seeds: vec![NodeId(1), NodeId(2)],
    });
    Envelope {
        request: REQUEST,
        now_ms: 7,
        founding,
        command,
    }
}

#[test]
fn commands_have_the_documented_text() {
    let founding = r#""founding":{"cluster":"tides","region":{"name":"east","number":1},"seeds":[1,2]},"#;
    for (command, text) in golden() {
        let founding = if matches!(command, Command::Bootstrap { .. }) {
            founding
        } else {
            ""
        };
        let expected = format!(r#"{{"v":1,"request":"{REQUEST_TEXT}","now_ms":7,{founding}"command":{text}}}"#);
        let encoded = encode_envelope(&envelope(command.clone()));
        assert_eq!(std::str::from_utf8(&encoded).unwrap(), expected);
        assert_eq!(decode_envelope(&encoded).unwrap(), envelope(command));
    }
}

#[test]
fn link_changes_have_their_names() {
    let names = [
        (LinkChange::Prepare, r#""prepare""#),
        (
            LinkChange::Enable { peer_table: TableId(5) },
            r#"{"enable":{"peer_table":5}}"#,
        ),
        (LinkChange::Pause, r#""pause""#),
        (LinkChange::Resume, r#""resume""#),
        (LinkChange::Remove, r#""remove""#),
    ];
    for (change, name) in names {
        let text = serde_json::to_string(&command::LinkChangeForm::from(change)).unwrap();
        assert_eq!(text, name);
        let form: command::LinkChangeForm = serde_json::from_str(&text).unwrap();
        assert_eq!(LinkChange::from(form), change);
    }
}

#[test]
fn responses_have_the_documented_text() {
    let refusal = Error::unavailable("NODES_MISSING", "n2", Duration::from_millis(500))
        .object("table t")
        .action("start n2");
    let golden = [
        (Ok(Answer::Done), r#""ok":"done""#),
        (Ok(Answer::Table(TableId(4))), r#""ok":{"table":4}"#),
        (Ok(Answer::Cluster("c".into())), r#""ok":{"cluster":"c"}"#),
        (
            Err(refusal),
            concat!(
                r#""error":{"kind":"UNAVAILABLE","reason":"NODES_MISSING","object":"table t","message":"n2","#,
                r#""action":"start n2","retry_after_ms":500}"#
            ),
        ),
    ];
    for (outcome, text) in golden {
        let response = Response { revision: 3, outcome };
        let encoded = encode_response(&response);
        assert_eq!(
            std::str::from_utf8(&encoded).unwrap(),
            format!(r#"{{"v":1,"revision":3,{text}}}"#)
        );
        assert_eq!(decode_response(&encoded).unwrap(), response);
    }
}

/// A state with something in every field.
pub(crate) fn rich_state() -> CatalogState {
    let mut state = CatalogState::new(&identity());
    let mut serial = 0u8;
    let mut run = |command: Command| {
        serial += 1;
        let mut envelope = envelope(command);
        envelope.request = RequestId([serial; 16]);
        state.execute(&envelope).outcome.unwrap();
    };
    run(Command::Bootstrap {
        cluster_id: "c1".into(),
    });
    for id in [1, 2] {
        run(Command::RegisterNode {
            id: NodeId(id),
            address: format!("h:{id}"),
            zone: "a".into(),
            version: "0.1".into(),
            now_ms: 6,
            incarnation: if id == 1 { "life".into() } else { String::new() },
        });
    }
    run(Command::PutPeer(PeerRecord {
        name: "west".into(),
        region: RegionId(2),
        addresses: vec!["w:1".into()],
    }));
    run(create());
    run(alter());
    run(Command::SetLink {
        table: "telemetry".into(),
        peer: "west".into(),
        change: LinkChange::Prepare,
    });
    state.requests.drain(..5);
    state
}

fn position(index: u64) -> LogPosition {
    LogPosition {
        term: 1,
        leader: NodeId(1),
        index,
    }
}

#[test]
fn the_state_has_the_documented_text() {
    let applied = AppliedState {
        position: Some(position(9)),
        membership: Some((position(0), Bytes::from_static(b"m"))),
    };
    let encoded = Stored::encode(&applied, &rich_state());
    assert_eq!(
        std::str::from_utf8(&encoded).unwrap(),
        include_str!("state_golden.json").trim_end()
    );
    let stored = Stored::decode(&encoded).unwrap();
    assert_eq!((stored.applied, stored.state), (applied, rich_state()));
    // Before links remembered when they were made: what is known is when they last changed.
    let text = std::str::from_utf8(&encoded).unwrap();
    let older = text.replace(",\n          \"linked_at_ms\": 7", "");
    assert_ne!(older, text);
    assert_eq!(Stored::decode(older.as_bytes()).unwrap().state, rich_state());
}

#[test]
fn unknown_fields_are_ignored_and_newer_forms_are_called_newer() {
    let text = r#"{"v":1,"request":"abababababababababababababababab","now_ms":7,"later":[1],
        "command":{"drop_table":{"name":"t","later":{}}}}"#;
    assert_eq!(
        decode_envelope(text.as_bytes()).unwrap().command,
        Command::DropTable { name: "t".into() }
    );
    let newer = decode_envelope(br#"{"v":2,"anything":0}"#).unwrap_err();
    assert!(newer.to_string().contains("form 2"), "{newer}");
}

#[test]
fn malformed_bytes_are_refused() {
    for bad in [
        "",
        "{}",
        "[]",
        r#"{"v":1}"#,
        r#"{"v":1,"request":"zz","now_ms":0,"command":"barrier"}"#,
        r#"{"v":1,"request":"+bababababababababababababababab","now_ms":0,"command":"barrier"}"#,
        r#"{"v":1,"request":"abababababababababababababababab","now_ms":0,"command":{"unheard_of":{}}}"#,
    ] {
        assert!(decode_envelope(bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(decode_envelope(&vec![b' '; COMMAND_BYTES_MAX + 1]).is_err());
    assert!(decode_response(br#"{"v":1,"revision":1}"#).is_err());
    let text = include_str!("state_golden.json");
    for (from, to) in [
        (r#""next_tablet": 5"#, r#""next_tablet": 4"#),
        (r#""next_table": 2"#, r#""next_table": 1"#),
        (r#""table": 1,"#, r#""table": 7,"#),
    ] {
        assert!(text.contains(from), "{from}");
        assert!(Stored::decode(text.replace(from, to).as_bytes()).is_err(), "{to}");
    }
}

proptest! {
    #[test]
    fn decoders_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..4_000, to: u8) {
        let _ = decode_envelope(&bytes);
        let _ = decode_response(&bytes);
        let _ = Stored::decode(&bytes);
        let mut state = include_bytes!("state_golden.json").to_vec();
        let place = at % state.len();
        state[place] = to;
        let _ = Stored::decode(&state);
        let mut command = encode_envelope(&envelope(create())).to_vec();
        let place = at % command.len();
        command[place] = to;
        let _ = decode_envelope(&command);
    }
}
