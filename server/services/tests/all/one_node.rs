//! One node, everything behind its gRPC listener: tables, data, errors, reflection.

use crate::world::request::*;
use crate::world::{DEADLINE, World};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use tidemark_base::cells::for_each_cell;
use tidemark_base::{BatchBuilder, ErrorKind, FamilyId};
use tidemark_proto::v1;
use tidemark_services::errors::from_status;
use tokio_stream::StreamExt;
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_made_and_its_first_write_works() {
    let world = World::start(1).await;
    let node = &world.nodes[0];
    let table = node
        .tables()
        .create_table(create("telemetry", &["g", "p"]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((table.tablets, table.families.len(), table.peers.len()), (3, 1, 0));
    assert_eq!(table.families[0].id, FamilyId::derive("m", 0).0);

    let rows = vec![
        put("a", "m", "q", 1, "1"),
        put("z", "m", "q", 1, "3"),
        put("h", "m", "q", 1, "2"),
    ];
    let written = node.data().write(write("telemetry", rows)).await.unwrap().into_inner();
    assert_eq!(
        (written.rows_written, written.failures.len(), written.redirect),
        (3, 0, None)
    );

    let read = node
        .data()
        .read(read("telemetry", &["z", "nothing", "a"]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(shown(&read.rows), ["a=1", "z=3"], "in the order of keys");

    let again = node.tables().create_table(create("telemetry", &[])).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);
    let listed = node
        .tables()
        .list_tables(v1::ListTablesRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.tables, vec![table]);
    let routing = v1::GetRoutingRequest {
        table: "telemetry".into(),
    };
    let routing = node.tables().get_routing(routing).await.unwrap().into_inner();
    assert!(routing.tablets.iter().all(|tablet| tablet.leader == 1) && routing.nodes[0].address == node.address);

    let drop = v1::DropTableRequest {
        name: "telemetry".into(),
    };
    node.tables().drop_table(drop).await.unwrap();
    let gone = node
        .data()
        .read(crate::world::request::read("telemetry", &["a"]))
        .await
        .unwrap_err();
    assert_eq!(from_status(&gone).error.reason(), "TABLE_UNKNOWN");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scans_go_over_tablets_in_both_directions_with_limits_and_filters() {
    let world = World::start(1).await;
    let node = &world.nodes[0];
    node.tables().create_table(create("t", &["c", "e"])).await.unwrap();
    let rows = ["a", "b", "c", "d", "e", "f"]
        .map(|row| put(row, "m", "q", 5, row))
        .to_vec();
    node.data().write(write("t", rows)).await.unwrap();
    let run = async |request: v1::ScanRequest| {
        let stream = node.data().scan(request).await.unwrap().into_inner();
        shown(&rows_of(drain(stream).await.unwrap())).concat()
    };
    assert_eq!(run(scan("t")).await, "a=ab=bc=cd=de=ef=f");
    let reverse = v1::ScanRequest {
        reverse: true,
        rows_limit: 4,
        ..scan("t")
    };
    assert_eq!(run(reverse).await, "f=fe=ed=dc=c");
    let ranges = v1::ScanRequest {
        ranges: vec![range("e", None), range("b", Some("d"))],
        ..scan("t")
    };
    assert_eq!(run(ranges.clone()).await, "b=bc=ce=ef=f");
    let one_tablet = v1::ScanRequest { tablet: 3, ..scan("t") };
    assert_eq!(run(one_tablet).await, "c=cd=d");
    let filter = v1::Filter {
        row_regex: "[bf]".into(),
        ..v1::Filter::default()
    };
    let filtered = v1::ScanRequest {
        filter: Some(filter),
        ..scan("t")
    };
    assert_eq!(run(filtered).await, "b=bf=f");

    let packed = v1::ScanRequest { packed: true, ..ranges };
    let messages = drain(node.data().scan(packed).await.unwrap().into_inner())
        .await
        .unwrap();
    let mut seen = Vec::new();
    for message in &messages {
        for_each_cell(&message.packed, |cell| {
            seen.push(String::from_utf8_lossy(cell.row).into_owned())
        })
        .unwrap();
    }
    assert_eq!(seen.concat(), "bcef");
    assert_eq!(messages.last().unwrap().resume_after, "f");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_is_the_same_packed_or_not_short_or_not() {
    let world = World::start(1).await;
    let node = &world.nodes[0];
    node.tables().create_table(create("t", &["c", "e"])).await.unwrap();
    let rows = ["a", "b", "c", "d", "e", "f"]
        .map(|row| put(row, "m", "q", 5, row))
        .to_vec();
    node.data().write(write("t", rows)).await.unwrap();
    let older = ["a", "d"].map(|row| put(row, "m", "q", 4, "older")).to_vec();
    node.data().write(write("t", older)).await.unwrap();
    // Newest cells of a few rows are read on the request's own thread, everything else on a blocking one.
    for (latest, expected) in [(Some(1), "a=a d=d f=f"), (None, "a=a,older d=d,older f=f")] {
        for packed in [false, true] {
            let filter = v1::Filter {
                latest,
                ..v1::Filter::default()
            };
            let request = v1::ReadRequest {
                filter: Some(filter),
                packed,
                ..read("t", &["f", "a", "d", "missing"])
            };
            let answer = node.data().read(request).await.unwrap().into_inner();
            assert_eq!((answer.rows.is_empty(), answer.packed.is_empty()), (packed, !packed));
            let mut cells: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
            for part in &answer.packed {
                for_each_cell(part, |cell| cells.push((cell.row.to_vec(), cell.value.to_vec()))).unwrap();
            }
            for row in &answer.rows {
                let of = |cell: &v1::Cell| (row.key.to_vec(), cell.value.to_vec());
                cells.extend(row.cells.iter().map(of));
            }
            let shown: Vec<String> = cells
                .chunk_by(|a, b| a.0 == b.0)
                .map(|row| {
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    let values: Vec<String> = row.iter().map(|(_, value)| text(value)).collect();
                    format!("{}={}", text(&row[0].0), values.join(","))
                })
                .collect();
            assert_eq!(shown.join(" "), expected, "latest {latest:?}, packed {packed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_scan_comes_in_many_messages_and_a_client_may_leave() {
    let world = World::start(1).await;
    let node = &world.nodes[0];
    node.tables().create_table(create("t", &[])).await.unwrap();
    let value = "v".repeat(100_000);
    let rows: Vec<_> = (0..60).map(|i| put(&format!("{i:02}"), "m", "q", 5, &value)).collect();
    node.data().write(write("t", rows)).await.unwrap();
    let messages = drain(node.data().scan(scan("t")).await.unwrap().into_inner())
        .await
        .unwrap();
    assert!(messages.len() > 15, "{} messages", messages.len());
    let resumes: BTreeSet<_> = messages.iter().map(|message| message.resume_after.clone()).collect();
    assert!(resumes.contains("59".as_bytes()) && resumes.len() > 15);
    assert_eq!(rows_of(messages).len(), 60);
    // Eight may run at a time; twenty that are left behind must not stay.
    for _ in 0..20 {
        let left = async {
            loop {
                match node.data().scan(scan("t")).await {
                    Ok(stream) => return stream.into_inner().message().await.unwrap(),
                    Err(status) => assert_eq!(from_status(&status).error.kind(), ErrorKind::Busy, "{status}"),
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(DEADLINE, left)
            .await
            .expect("scans that were left make room")
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletes_of_ranges_reach_every_tablet_and_bad_rows_fail_alone() {
    let world = World::start(1).await;
    let node = &world.nodes[0];
    node.tables().create_table(create("t", &["m"])).await.unwrap();
    let rows = ["a", "k", "n", "z"].map(|row| put(row, "m", "q", 5, row)).to_vec();
    node.data().write(write("t", rows)).await.unwrap();
    let mixed = vec![
        put("b", "nope", "q", 5, "x"),
        delete_range("k", Some("o")),
        put("k", "m", "q", 6, "after"),
        put("", "m", "q", 5, "x"),
    ];
    let written = node.data().write(write("t", mixed)).await.unwrap().into_inner();
    assert_eq!(written.rows_written, 2);
    let reasons: Vec<_> = written
        .failures
        .iter()
        .map(|f| (f.index, f.error.clone().unwrap().reason))
        .collect();
    assert_eq!(reasons, [(0, "FAMILY_UNKNOWN".to_owned()), (3, "ROW_EMPTY".to_owned())]);
    assert!(
        written.failures[0]
            .error
            .as_ref()
            .unwrap()
            .action
            .contains("tidemark table alter t")
    );
    let stream = node.data().scan(scan("t")).await.unwrap().into_inner();
    assert_eq!(shown(&rows_of(drain(stream).await.unwrap())), ["a=a", "k=after", "z=z"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_tested_and_changed_once_per_token() {
    let world = World::start(1).await;
    let node = &world.nodes[0];
    node.tables().create_table(create("t", &["m"])).await.unwrap();
    let check = v1::CheckAndMutateRequest {
        table: "t".into(),
        row: "r".into(),
        predicate: None,
        on_match: vec![put_cell("m", "q", Some(2), "second")],
        on_mismatch: vec![put_cell("m", "q", Some(1), "first")],
        token: vec![1; 16].into(),
        epoch: 0,
    };
    let matched = async |request: &v1::CheckAndMutateRequest| {
        node.data()
            .check_and_mutate(request.clone())
            .await
            .unwrap()
            .into_inner()
            .matched
    };
    assert!(!matched(&check).await);
    assert!(!matched(&check).await, "the same token, the same answer");
    let fresh = v1::CheckAndMutateRequest {
        token: vec![].into(),
        ..check.clone()
    };
    assert!(matched(&fresh).await);
    let rows = node.data().read(read("t", &["r"])).await.unwrap().into_inner().rows;
    assert_eq!(shown(&rows), ["r=second", "r=first"]);

    let rule = |rule| v1::ReadModifyWriteRule {
        family: "m".into(),
        qualifier: "n".into(),
        rule: Some(rule),
    };
    let count = v1::ReadModifyWriteRequest {
        table: "t".into(),
        row: "r".into(),
        rules: vec![rule(v1::read_modify_write_rule::Rule::Increment(5))],
        token: vec![2; 16].into(),
        epoch: 0,
    };
    for _ in 0..2 {
        let row = node
            .data()
            .read_modify_write(count.clone())
            .await
            .unwrap()
            .into_inner()
            .row
            .unwrap();
        assert_eq!(
            (&row.key[..], &row.cells[0].value[..]),
            (&b"r"[..], &5i64.to_be_bytes()[..])
        );
        assert_eq!(row.cells[0].family, "m");
    }
    let unlike = v1::ReadModifyWriteRequest {
        rules: vec![v1::ReadModifyWriteRule {
            qualifier: "q".into(),
            ..count.rules[0].clone()
        }],
        token: vec![].into(),
        ..count.clone()
    };
    let refused = node.data().read_modify_write(unlike).await.unwrap_err();
    assert_eq!(from_status(&refused).error.reason(), "NOT_A_COUNTER");
    let bad_token = v1::ReadModifyWriteRequest {
        token: vec![1; 15].into(),
        ..count
    };
    assert_eq!(
        node.data().read_modify_write(bad_token).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_keeps_the_order_of_one_row_and_answers_each_request() {
    let world = World::start(1).await;
    let node = &world.nodes[0];
    node.tables().create_table(create("t", &["m"])).await.unwrap();
    let request = |id: u64| {
        let mut builder = BatchBuilder::new();
        for row in ["a", "z"] {
            builder.begin_row(row.as_bytes()).unwrap();
            builder
                .put(FamilyId::derive("m", 0), b"q", 7, id.to_string().as_bytes())
                .unwrap();
            builder.end_row().unwrap();
        }
        v1::WriteStreamRequest {
            id,
            write: Some(v1::WriteRequest {
                table: "t".into(),
                packed: builder.finish().unwrap().bytes().clone(),
                ..v1::WriteRequest::default()
            }),
        }
    };
    let bad = v1::WriteStreamRequest {
        id: 1_000,
        write: Some(write("nowhere", vec![put("a", "m", "q", 1, "x")])),
    };
    let requests: Vec<_> = (0..300).map(request).chain([bad]).collect();
    let mut answers = node
        .data()
        .write_stream(tokio_stream::iter(requests))
        .await
        .unwrap()
        .into_inner();
    let mut seen = BTreeSet::new();
    while let Some(answer) = answers.next().await {
        let answer = answer.unwrap();
        match answer.result.unwrap() {
            v1::write_stream_response::Result::Response(response) => {
                assert_eq!((response.rows_written, response.failures.len()), (2, 0));
            }
            v1::write_stream_response::Result::Error(error) => {
                assert_eq!((answer.id, error.reason.as_str()), (1_000, "TABLE_UNKNOWN"));
            }
        }
        assert!(seen.insert(answer.id));
    }
    assert_eq!(seen.len(), 301);
    // All were put on one coordinate: the last one submitted has the greatest stamp.
    let rows = node
        .data()
        .read(read("t", &["a", "z"]))
        .await
        .unwrap()
        .into_inner()
        .rows;
    assert_eq!(shown(&rows), ["a=299", "z=299"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn families_are_added_and_dropped() {
    let world = World::start(1).await;
    let node = &world.nodes[0];
    node.tables().create_table(create("t", &["m"])).await.unwrap();
    let alter = v1::AlterTableRequest {
        name: "t".into(),
        add_families: vec![v1::Family {
            max_versions: Some(1),
            ..family("x")
        }],
        ..v1::AlterTableRequest::default()
    };
    let table = node.tables().alter_table(alter).await.unwrap().into_inner();
    assert_eq!(table.families.len(), 2);
    let rows = vec![put("a", "x", "q", 1, "old"), put("z", "x", "q", 1, "old")];
    assert_eq!(
        node.data()
            .write(write("t", rows))
            .await
            .unwrap()
            .into_inner()
            .rows_written,
        2
    );
    let rows = vec![put("a", "x", "q", 2, "new"), put("z", "x", "q", 2, "new")];
    assert_eq!(
        node.data()
            .write(write("t", rows))
            .await
            .unwrap()
            .into_inner()
            .rows_written,
        2
    );
    let rows = node
        .data()
        .read(read("t", &["a", "z"]))
        .await
        .unwrap()
        .into_inner()
        .rows;
    assert_eq!(shown(&rows), ["a=new", "z=new"]);
    let drop = v1::AlterTableRequest {
        name: "t".into(),
        drop_families: vec!["x".into()],
        ..v1::AlterTableRequest::default()
    };
    node.tables().alter_table(drop).await.unwrap();
    let rows = node
        .data()
        .read(read("t", &["a", "z"]))
        .await
        .unwrap()
        .into_inner()
        .rows;
    assert!(rows.is_empty(), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_get_clear_errors() {
    let world = World::start(1).await;
    let node = &world.nodes[0];
    node.tables().create_table(create("telemetry", &[])).await.unwrap();
    let mut data = node.data();
    let reason = |status: tonic::Status| {
        let error = from_status(&status).error;
        (status.code(), error.reason().to_owned(), error.next_action().to_owned())
    };
    let (code, why, action) = reason(
        data.write(write("telemetri", vec![put("a", "m", "q", 1, "x")]))
            .await
            .unwrap_err(),
    );
    assert_eq!((code, why.as_str()), (Code::NotFound, "TABLE_UNKNOWN"));
    assert!(action.contains("telemetry"), "{action}");
    let filter = |filter| v1::ScanRequest {
        filter: Some(filter),
        ..scan("telemetry")
    };
    let unknown = v1::Filter {
        families: vec!["nope".into()],
        ..v1::Filter::default()
    };
    assert_eq!(
        reason(data.scan(filter(unknown)).await.unwrap_err()).1,
        "FAMILY_UNKNOWN"
    );
    let broken = v1::Filter {
        row_regex: "(".into(),
        ..v1::Filter::default()
    };
    assert_eq!(reason(data.scan(filter(broken)).await.unwrap_err()).1, "REGEX_INVALID");
    let wrong_tablet = v1::ScanRequest {
        tablet: 77,
        ..scan("telemetry")
    };
    assert_eq!(reason(data.scan(wrong_tablet).await.unwrap_err()).1, "TABLET_UNKNOWN");
    let damaged = v1::WriteRequest {
        packed: "not a batch".into(),
        ..write("telemetry", vec![])
    };
    assert_eq!(reason(data.write(damaged).await.unwrap_err()).0, Code::InvalidArgument);
    assert_eq!(
        reason(data.write(write("telemetry", vec![])).await.unwrap_err()).1,
        "BATCH_EMPTY"
    );
    let mut far = data
        .write(write("telemetry", vec![put("a", "m", "q", i64::MAX, "x")]))
        .await
        .unwrap()
        .into_inner();
    let failure = far.failures.remove(0).error.unwrap();
    assert_eq!(
        (far.rows_written, failure.kind.as_str()),
        (0, "INVALID_ARGUMENT"),
        "{failure:?}"
    );
    let mut late = tonic::Request::new(read("telemetry", &["a"]));
    late.set_timeout(std::time::Duration::from_nanos(1));
    let late = data.read(late).await.unwrap_err();
    assert!(
        matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{late}"
    );

    node.facts.disk_low.store(true, Ordering::Relaxed);
    let full = data
        .write(write("telemetry", vec![put("a", "m", "q", 1, "x")]))
        .await
        .unwrap_err();
    assert_eq!(from_status(&full).error.kind(), ErrorKind::StorageFull);
    assert!(data.read(read("telemetry", &["a"])).await.is_ok(), "reads go on");
    node.facts.disk_low.store(false, Ordering::Relaxed);
    assert!(
        data.write(write("telemetry", vec![put("a", "m", "q", 1, "x")]))
            .await
            .is_ok()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_and_health_answer() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request, server_reflection_response};
    let world = World::start(1).await;
    let node = &world.nodes[0];
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(node.channel());
    let mut answers = client
        .server_reflection_info(tokio_stream::once(ask))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
    let server_reflection_response::MessageResponse::ListServicesResponse(list) = answer else {
        panic!("a list of services")
    };
    let names: BTreeSet<_> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["Data", "Tables", "Replication", "Cluster"] {
        assert!(names.contains(&format!("tidemark.v1.{name}")), "{names:?}");
    }
    let check = HealthCheckRequest {
        service: "tidemark.v1.Data".into(),
    };
    let health = HealthClient::new(node.channel())
        .check(check)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(health.status, 1, "SERVING");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_are_registered_and_the_cluster_shows_itself() {
    let world = World::start(1).await;
    let node = &world.nodes[0];
    node.tables().create_table(create("t", &["m"])).await.unwrap();
    let peer = v1::Peer {
        name: "west".into(),
        region: 2,
        addresses: vec!["127.0.0.1:9".into()],
    };
    let add = v1::AddPeerRequest {
        peer: Some(peer.clone()),
    };
    node.replication().add_peer(add).await.unwrap();
    let listed = node
        .replication()
        .list_peers(v1::ListPeersRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.peers, vec![peer]);
    let status = v1::ReplicationStatusRequest {
        table: "t".into(),
        tablets: true,
    };
    let unreplicated = node.replication().replication_status(status).await.unwrap_err();
    assert_eq!(unreplicated.code(), Code::FailedPrecondition, "{unreplicated}");
    let enable = v1::EnableReplicationRequest {
        table: "t".into(),
        peer: "west".into(),
    };
    let unreachable = node.replication().enable_replication(enable).await.unwrap_err();
    assert_eq!(
        from_status(&unreachable).error.kind(),
        ErrorKind::Unavailable,
        "{unreachable}"
    );
    let remove = v1::RemovePeerRequest { name: "west".into() };
    node.replication().remove_peer(remove).await.unwrap();

    let status = node
        .cluster()
        .cluster_status(v1::ClusterStatusRequest { tablets: true })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (status.region.as_str(), status.region_id, status.catalog_leader),
        ("east", 1, 1)
    );
    assert_eq!(
        (status.nodes.len(), status.nodes[0].alive, status.nodes[0].leaders),
        (1, true, 2)
    );
    assert!(
        status
            .tablets
            .iter()
            .all(|tablet| tablet.leader == 1 && tablet.trouble.is_empty())
    );
    let metrics = node.context.metrics.encode();
    assert!(
        metrics.contains("tidemark_grpc_requests_total{method=\"Cluster.ClusterStatus\",kind=\"OK\"}"),
        "{metrics}"
    );
}
