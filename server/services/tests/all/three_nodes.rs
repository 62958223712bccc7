//! Three nodes on sockets: any of them answers, by passing on at most once; leaders die and are found again.

use crate::world::request::*;
use crate::world::{DEADLINE, World, eventually};
use std::time::Duration;
use tidemark_base::{ErrorKind, TabletId};
use tidemark_proto::v1;
use tidemark_services::call::FORWARDED;
use tidemark_services::errors::from_status;
use tonic::metadata::MetadataValue;

const TABLET: TabletId = TabletId(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_answers_and_says_where_to_go_next_time() {
    let world = World::start(3).await;
    world.nodes[1]
        .tables()
        .create_table(create("t", &["h", "q"]))
        .await
        .unwrap();
    let leader = world.leader(TABLET).await;
    let other = world.other(TABLET).await;
    let mut data = other.data();

    let written = data
        .write(write("t", vec![put("a", "m", "q", 1, "1")]))
        .await
        .unwrap()
        .into_inner();
    let redirect = written.redirect.expect("another node answered");
    assert_eq!(
        (redirect.tablet, redirect.node, &redirect.address),
        (TABLET.0, leader.id.0, &leader.address)
    );
    let rows = ["b", "i", "r"].map(|row| put(row, "m", "q", 1, row)).to_vec();
    let written = data.write(write("t", rows)).await.unwrap().into_inner();
    assert_eq!(written.rows_written, 3, "{:?}", written.failures);
    for node in &world.nodes {
        let rows = node
            .data()
            .read(read("t", &["a", "b", "i", "r"]))
            .await
            .unwrap()
            .into_inner()
            .rows;
        assert_eq!(shown(&rows), ["a=1", "b=b", "i=i", "r=r"]);
        let stream = node
            .data()
            .scan(v1::ScanRequest {
                rows_limit: 3,
                ..scan("t")
            })
            .await
            .unwrap()
            .into_inner();
        assert_eq!(shown(&rows_of(drain(stream).await.unwrap())), ["a=1", "b=b", "i=i"]);
        let stream = node
            .data()
            .scan(v1::ScanRequest {
                reverse: true,
                ..scan("t")
            })
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            shown(&rows_of(drain(stream).await.unwrap())),
            ["r=r", "i=i", "b=b", "a=1"]
        );
    }
    let digest = v1::DigestRequest {
        table: "t".into(),
        now_micros: 1,
        ..v1::DigestRequest::default()
    };
    let first = world.nodes[0].data().digest(digest.clone()).await.unwrap().into_inner();
    assert_eq!((first.rows, first.cells, first.content_hash.len()), (4, 4, 16));
    for node in &world.nodes {
        assert_eq!(node.data().digest(digest.clone()).await.unwrap().into_inner(), first);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_passed_on_once_only() {
    let world = World::start(3).await;
    world.nodes[0].tables().create_table(create("t", &[])).await.unwrap();
    let leader = world.leader(TABLET).await;
    let other = world.other(TABLET).await;
    let mut request = tonic::Request::new(read("t", &["a"]));
    request
        .metadata_mut()
        .insert(FORWARDED, MetadataValue::from_static("1"));
    let failure = from_status(&other.data().read(request).await.unwrap_err());
    assert_eq!(failure.error.kind(), ErrorKind::NotLeader);
    let hint = failure.hint.expect("it knows the leader");
    assert_eq!(
        (hint.tablet, hint.node, hint.address),
        (TABLET, leader.id, leader.address.clone())
    );
    // A replica may answer what need not be the latest.
    let local = v1::ReadRequest {
        consistency: v1::Consistency::Local as i32,
        ..read("t", &["a"])
    };
    let mut request = tonic::Request::new(local);
    request
        .metadata_mut()
        .insert(FORWARDED, MetadataValue::from_static("1"));
    assert!(other.data().read(request).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_row_is_changed_through_any_node_and_counted_once() {
    let world = World::start(3).await;
    world.nodes[2].tables().create_table(create("t", &[])).await.unwrap();
    let count = |token: u8| v1::ReadModifyWriteRequest {
        table: "t".into(),
        row: "r".into(),
        rules: vec![v1::ReadModifyWriteRule {
            family: "m".into(),
            qualifier: "n".into(),
            rule: Some(v1::read_modify_write_rule::Rule::Increment(1)),
        }],
        token: vec![token; 16].into(),
        epoch: 0,
    };
    for (at, node) in world.nodes.iter().enumerate() {
        // Twice with one token, as after a lost answer.
        for _ in 0..2 {
            let response = node
                .data()
                .read_modify_write(count(at as u8))
                .await
                .unwrap()
                .into_inner();
            assert_eq!(&response.row.unwrap().cells[0].value[..], (at as i64 + 1).to_be_bytes());
        }
    }
    let check = v1::CheckAndMutateRequest {
        table: "t".into(),
        row: "r".into(),
        on_match: vec![put_cell("m", "seen", Some(1), "yes")],
        ..v1::CheckAndMutateRequest::default()
    };
    for node in &world.nodes {
        assert!(
            node.data()
                .check_and_mutate(check.clone())
                .await
                .unwrap()
                .into_inner()
                .matched
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_through_another_node_keeps_its_order() {
    let world = World::start(3).await;
    world.nodes[0].tables().create_table(create("t", &[])).await.unwrap();
    let other = world.other(TABLET).await;
    let request = |id: u64| v1::WriteStreamRequest {
        id,
        write: Some(write("t", vec![put("a", "m", "q", 1, &id.to_string())])),
    };
    let requests: Vec<_> = (0..100).map(request).collect();
    let mut answers = other
        .data()
        .write_stream(tokio_stream::iter(requests))
        .await
        .unwrap()
        .into_inner();
    let mut count = 0;
    while let Some(answer) = answers.message().await.unwrap() {
        let Some(v1::write_stream_response::Result::Response(response)) = answer.result else {
            panic!("an answer: {answer:?}")
        };
        assert!(response.rows_written == 1 && response.redirect.is_some());
        count += 1;
    }
    assert_eq!(count, 100);
    let rows = other.data().read(read("t", &["a"])).await.unwrap().into_inner().rows;
    assert_eq!(shown(&rows), ["a=99"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_resume_through_any_node_after_the_leader_died() {
    let world = World::start(3).await;
    world.nodes[0].tables().create_table(create("t", &[])).await.unwrap();
    let dead = world.leader(TABLET).await;
    let alive: Vec<_> = world.nodes.iter().filter(|node| node.id != dead.id).collect();
    alive[0]
        .data()
        .write(write("t", vec![put("a", "m", "q", 1, "before")]))
        .await
        .unwrap();
    dead.kill().await;
    for (at, node) in alive.iter().enumerate() {
        let row = format!("b{at}");
        let writing = async {
            loop {
                match node
                    .data()
                    .write(write("t", vec![put(&row, "m", "q", 1, "after")]))
                    .await
                {
                    Ok(response) => return response.into_inner(),
                    // A put with its own version may be repeated whatever became of it.
                    Err(status) => {
                        let error = from_status(&status).error;
                        let expected = error.kind().is_retryable() || error.kind() == ErrorKind::UnknownOutcome;
                        assert!(expected, "{error}");
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let written = tokio::time::timeout(DEADLINE, writing).await.expect("writes resume");
        assert_eq!(written.rows_written, 1);
    }
    let rows = alive[1]
        .data()
        .read(read("t", &["a", "b0", "b1"]))
        .await
        .unwrap()
        .into_inner()
        .rows;
    assert_eq!(shown(&rows), ["a=before", "b0=after", "b1=after"]);
    let status = alive[0]
        .cluster()
        .cluster_status(v1::ClusterStatusRequest { tablets: true })
        .await
        .unwrap()
        .into_inner();
    let silent: Vec<_> = status
        .nodes
        .iter()
        .filter(|n| !n.alive)
        .map(|n| n.node.clone().unwrap().id)
        .collect();
    assert_eq!(silent, [dead.id.0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_another_cluster_or_for_another_node_are_refused() {
    use tidemark_proto::internal::{Hello, PingRequest, peer_client::PeerClient};
    let world = World::start(1).await;
    let mut client = PeerClient::new(world.nodes[0].channel());
    let hello = |cluster: &str, to| PingRequest {
        hello: Some(Hello {
            cluster: cluster.into(),
            from: 9,
            to,
            ..Hello::default()
        }),
    };
    assert!(client.ping(hello("test", 1)).await.is_ok());
    for wrong in [hello("test", 2), hello("other", 1), PingRequest { hello: None }] {
        let refused = client.ping(wrong).await.unwrap_err();
        assert_eq!(from_status(&refused).error.reason(), "WRONG_NODE");
    }
}

/// A node that lost its directory and comes back under its old number, seen from both ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_incarnation_of_a_node_is_refused_both_ways() {
    use tidemark_proto::internal::{Hello, PingRequest, peer_client::PeerClient};
    let world = World::start(2).await;
    let [one, two] = [&world.nodes[0], &world.nodes[1]];
    eventually("both know both", || {
        [one, two]
            .iter()
            .all(|node| node.context.catalog.view().nodes.len() == 2)
    })
    .await;
    assert!(
        one.context.peers.ping(two.id).await.is_ok(),
        "both fill in what they know"
    );
    let mut client = PeerClient::new(one.channel());
    let incarnation = |node: &crate::world::Node| node.context.identity.incarnation.clone();
    let hello = |from_incarnation: &str, to_incarnation: &str| PingRequest {
        hello: Some(Hello {
            cluster: "test".into(),
            from: two.id.0,
            to: one.id.0,
            from_incarnation: from_incarnation.into(),
            to_incarnation: to_incarnation.into(),
        }),
    };
    let (mine, yours) = (incarnation(two), incarnation(one));
    assert!(client.ping(hello(&mine, &yours)).await.is_ok());
    assert!(client.ping(hello(&mine, "")).await.is_ok(), "not known yet");
    for (wiped, reason) in [
        (hello(&mine, "new life"), "WRONG_NODE"),
        (hello("new life", &yours), "NODE_ID_USED"),
        (hello("new life", ""), "NODE_ID_USED"),
        (hello("", ""), "NODE_ID_USED"),
    ] {
        let refused = from_status(&client.ping(wiped).await.unwrap_err()).error;
        assert_eq!(refused.reason(), reason);
        // Only the one that is told so of itself may take it as a reason to end.
        two.context.peers.note_refusal(&refused);
        let ended = tokio::time::timeout(Duration::ZERO, two.context.peers.disowned()).await;
        assert_eq!(ended.is_ok(), reason == "NODE_ID_USED", "{refused}");
    }
    let untouched = tokio::time::timeout(Duration::ZERO, one.context.peers.disowned()).await;
    assert!(untouched.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_another_node_made_is_known_at_once() {
    let world = World::start(3).await;
    for at in 0..3 {
        let (maker, user) = (&world.nodes[at], &world.nodes[(at + 1) % 3]);
        let name = format!("t{at}");
        maker.tables().create_table(create(&name, &[])).await.unwrap();
        let written = user
            .data()
            .write(write(&name, vec![put("a", "m", "q", 1, "x")]))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(written.rows_written, 1, "{written:?}");
    }
    eventually("every node knows all tables", || {
        world
            .nodes
            .iter()
            .all(|node| node.context.catalog.view().tables.len() == 3)
    })
    .await;
}
