//! Two regions of one node each, over their gRPC services: switched on, shipped both ways, equal.

use crate::world::request::*;
use crate::world::{DEADLINE, Node, World};
use tidemark_base::{ErrorKind, NodeId, RegionId, TabletId};
use tidemark_proto::v1;
use tidemark_services::errors::from_status;

async fn add_peer(at: &Node, name: &str, region: u32, peer: &Node) {
    let add = v1::AddPeerRequest {
        peer: Some(v1::Peer {
            name: name.into(),
            region,
            // The first address answers nothing: the next one is found.
            addresses: vec!["127.0.0.1:1".into(), peer.address.clone()],
        }),
    };
    at.replication().add_peer(add).await.unwrap();
}

async fn digest(node: &Node) -> v1::DigestResponse {
    let request = v1::DigestRequest {
        table: "t".into(),
        now_micros: 1,
        ..v1::DigestRequest::default()
    };
    node.data().digest(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_replicated_both_ways() {
    let east = World::start_region("east", RegionId(1), 1).await;
    let west = World::start_region("west", RegionId(2), 1).await;
    let (east, west) = (&east.nodes[0], &west.nodes[0]);
    east.tables().create_table(create("t", &["m"])).await.unwrap();
    add_peer(east, "west", 2, west).await;
    let enable = v1::EnableReplicationRequest {
        table: "t".into(),
        peer: "west".into(),
    };
    let unknown = east.replication().enable_replication(enable.clone()).await.unwrap_err();
    assert!(
        from_status(&unknown).error.next_action().contains("tidemark peer add"),
        "{unknown}"
    );
    add_peer(west, "east", 1, east).await;
    let enabled = east
        .replication()
        .enable_replication(enable)
        .await
        .unwrap()
        .into_inner();
    assert!(enabled.created_at_peer);

    east.data()
        .write(write(
            "t",
            vec![put("a", "m", "q", 1, "east"), put("z", "m", "q", 1, "east")],
        ))
        .await
        .unwrap();
    west.data()
        .write(write(
            "t",
            vec![put("b", "m", "q", 1, "west"), put("y", "m", "q", 1, "west")],
        ))
        .await
        .unwrap();
    let equal = async {
        loop {
            let (left, right) = (digest(east).await, digest(west).await);
            if left.rows == 4 && left == right {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, equal)
        .await
        .expect("both regions become equal");
    let status = v1::ReplicationStatusRequest {
        table: "t".into(),
        tablets: true,
    };
    let links = east
        .replication()
        .replication_status(status)
        .await
        .unwrap()
        .into_inner()
        .links;
    assert_eq!(
        (links.len(), links[0].table.as_str(), links[0].peer.as_str()),
        (1, "t", "west")
    );
    assert_eq!(links[0].streams.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_is_asked_for_its_number() {
    let east = World::start_region("east", RegionId(1), 1).await;
    let west = World::start_region("west", RegionId(2), 1).await;
    let (east, west) = (&east.nodes[0], &west.nodes[0]);
    let add = async |name: &str, address: &str| {
        let peer = v1::Peer {
            name: name.into(),
            region: 0,
            addresses: vec!["127.0.0.1:1".into(), address.into()],
        };
        let request = v1::AddPeerRequest { peer: Some(peer) };
        let answer = east.replication().add_peer(request).await;
        answer
            .map(|peer| peer.into_inner().region)
            .map_err(|status| from_status(&status).error)
    };
    let away = add("west", "127.0.0.1:2").await.unwrap_err();
    assert_eq!(
        (away.kind(), away.reason()),
        (ErrorKind::Unavailable, "PEER_UNREACHABLE"),
        "{away}"
    );
    assert!(away.next_action().contains("--region"), "{away}");
    let other = add("south", &west.address).await.unwrap_err();
    assert_eq!(
        (other.kind(), other.reason()),
        (ErrorKind::FailedPrecondition, "PEER_MISMATCH"),
        "{other}"
    );
    assert!(other.next_action().contains("west"), "{other}");
    assert!(east.context.catalog.view().peers.is_empty());
    assert_eq!(add("west", &west.address).await, Ok(2));
    assert_eq!(east.context.catalog.view().peers["west"].region, RegionId(2));
}

/// Whatever node is asked, and whoever leads the tablets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_wait_are_shown_and_given_up_through_any_node() {
    let east_world = World::start_region("east", RegionId(1), 1).await;
    let west_world = World::start_region("west", RegionId(2), 3).await;
    let (east, west) = (&east_world.nodes[0], &west_world.nodes[0]);
    east.tables().create_table(create("t", &["m"])).await.unwrap();
    add_peer(east, "west", 2, west).await;
    add_peer(west, "east", 1, east).await;
    let link = |table: &str| v1::EnableReplicationRequest {
        table: table.into(),
        peer: "west".into(),
    };
    east.replication().enable_replication(link("t")).await.unwrap();
    let add = v1::AlterTableRequest {
        name: "t".into(),
        add_families: vec![family("late")],
        ..v1::AlterTableRequest::default()
    };
    east.tables().alter_table(add).await.unwrap();
    let rows = vec![put("a", "late", "q", 1, "x"), put("z", "late", "q", 1, "y")];
    east.data().write(write("t", rows)).await.unwrap();

    let list = async |node: &Node| {
        let request = v1::ListQuarantineRequest {
            table: "t".into(),
            ..v1::ListQuarantineRequest::default()
        };
        let answer = node.replication().list_quarantine(request).await.unwrap().into_inner();
        answer.entries
    };
    let both = async {
        loop {
            let entries = list(west).await;
            if entries.iter().map(|entry| entry.rows).sum::<u64>() == 2 {
                return entries;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let entries = tokio::time::timeout(DEADLINE, both).await.expect("both rows wait");
    assert_eq!(entries.len(), 2, "one in each tablet: {entries:?}");
    let mut samples: Vec<_> = entries.iter().flat_map(|entry| entry.sample_rows.clone()).collect();
    samples.sort();
    assert_eq!(samples, ["a", "z"]);
    for entry in &entries {
        assert!(entry.cause.contains("FAMILY_UNKNOWN") && entry.action.contains("tidemark table alter t"));
        assert_eq!((entry.peer.as_str(), entry.id.split(':').count()), ("east", 4));
        // What a node without a replica would be told.
        let tablet = TabletId(entry.tablet);
        let page = west.context.peers.quarantine(NodeId(2), tablet, Some(RegionId(1)), 10);
        assert_eq!(page.await.unwrap().entries.len(), 1);
    }

    let discard = async |node: &Node, ids: &[&str], accept_loss: bool| {
        let request = v1::DiscardQuarantineRequest {
            table: "t".into(),
            peer: "east".into(),
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            accept_loss,
        };
        let answer = node.replication().discard_quarantine(request).await;
        answer
            .map(|done| (done.get_ref().entries, done.get_ref().rows))
            .map_err(|status| from_status(&status).error.reason().to_owned())
    };
    assert_eq!(discard(west, &[], false).await, Err("LOSS_NOT_ACCEPTED".to_owned()));
    assert_eq!(discard(west, &["1:1:1:1"], true).await, Err("ENTRY_INVALID".to_owned()));
    assert_eq!(list(west).await.len(), 2, "refusals discard nothing");
    assert_eq!(discard(west, &[&entries[0].id], true).await, Ok((1, 1)));
    assert_eq!(
        discard(&west_world.nodes[1], &[], true).await,
        Ok((1, 1)),
        "all that is left"
    );
    assert_eq!(discard(&west_world.nodes[2], &[], true).await, Ok((0, 0)));
    // Replicas that follow are a moment behind.
    let gone = async {
        while !list(west).await.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, gone)
        .await
        .expect("nothing waits any more");
}
