//! Two regions of one node each, over their gRPC services: switched on, shipped both ways, equal.

#![allow(clippy::unwrap_used)] // These are tests, their short forms included.

mod world;

use tidemark_base::{ErrorKind, RegionId};
use tidemark_proto::v1;
use tidemark_services::errors::from_status;
use world::request::*;
use world::{DEADLINE, Node, World};

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
