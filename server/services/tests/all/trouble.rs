//! What a caller is told while parts of a region are away: nothing that is not certain.

use crate::world::World;
use crate::world::request::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tidemark_base::{Error, ErrorKind, TabletId};
use tidemark_proto::v1;
use tidemark_services::call::{Call, DATA_LIMIT};
use tidemark_services::errors::{from_status, from_wire, to_status};
use tidemark_services::forward::{Answerer, Forwarding, Repeat, at_leader};
use tonic::Status;
use tonic::metadata::MetadataMap;

const TABLET: TabletId = TabletId(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_ask_the_catalog_does_not_say_what_does_not_exist() {
    let world = World::start(3).await;
    let node = &world.nodes[0];
    node.tables().create_table(create("t", &[])).await.unwrap();
    world.nodes[1].kill().await;
    world.nodes[2].kill().await;

    let away = |status: Status| {
        let error = from_status(&status).error;
        assert_eq!(
            (error.kind(), error.reason()),
            (ErrorKind::Unavailable, "CATALOG_UNAVAILABLE"),
            "{error}"
        );
        assert!(error.delay().is_some());
    };
    away(node.data().read(read("u", &["a"])).await.unwrap_err());
    away(node.data().scan(scan("u")).await.unwrap_err());
    let put_in_u = write("u", vec![put("a", "m", "q", 1, "1")]);
    away(node.data().write(put_in_u).await.unwrap_err());
    away(node.tables().list_tables(v1::ListTablesRequest {}).await.unwrap_err());
    away(
        node.replication()
            .list_peers(v1::ListPeersRequest {})
            .await
            .unwrap_err(),
    );
    let table = |name: &str| v1::GetTableRequest { name: name.into() };
    away(node.tables().get_table(table("u")).await.unwrap_err());
    let routing = |table: &str| v1::GetRoutingRequest { table: table.into() };
    away(node.tables().get_routing(routing("u")).await.unwrap_err());

    // What it knows, it says. A family that it does not know may exist by now.
    assert_eq!(
        node.tables().get_table(table("t")).await.unwrap().into_inner().name,
        "t"
    );
    assert!(node.tables().get_routing(routing("t")).await.is_ok());
    let unknown_family = write("t", vec![put("a", "n", "q", 1, "1")]);
    let written = node.data().write(unknown_family).await.unwrap().into_inner();
    let error = from_wire(written.failures[0].error.as_ref().unwrap());
    assert_eq!(error.reason(), "CATALOG_UNAVAILABLE", "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_a_change_may_have_been_made_no_later_failure_is_certain() {
    let world = World::start(3).await;
    world.nodes[0].tables().create_table(create("t", &[])).await.unwrap();
    world.leader(TABLET).await;
    let context = &world.other(TABLET).await.context;
    let record = context.catalog.view().tablets[&TABLET].clone();

    // The first node asked breaks under way, the others refuse.
    let attempt = async |repeat, refusal: Error| {
        let call = Call::new(&context.clock, &MetadataMap::new(), DATA_LIMIT);
        let how = Forwarding {
            repeat,
            answerer: Answerer::Leader,
            onward: true,
        };
        let asked = AtomicUsize::new(0);
        let local = |_| async { Ok(()) };
        let remote = |_, _| {
            let first = asked.fetch_add(1, Ordering::Relaxed) == 0;
            let status = match first {
                true => Status::unavailable("connection reset"),
                false => to_status(&refusal, None),
            };
            async move { Err(status) }
        };
        let failure = at_leader(context, &call, &record, how, local, remote)
            .await
            .unwrap_err();
        assert!(asked.into_inner() > 1 || repeat == Repeat::Risky);
        failure.error
    };
    let gone = || Error::new(ErrorKind::NotFound, "FAMILY_UNKNOWN", "m");
    let not_leader = || Error::new(ErrorKind::NotLeader, "NOT_LEADER", "m");
    assert_eq!(attempt(Repeat::Harmless, gone()).await, gone());
    for refusal in [gone(), not_leader()] {
        let error = attempt(Repeat::Once, refusal.clone()).await;
        assert_eq!(error.kind(), ErrorKind::UnknownOutcome, "{refusal}: {error}");
        assert!(!error.next_action().is_empty());
    }
    assert_eq!(attempt(Repeat::Risky, gone()).await.kind(), ErrorKind::UnknownOutcome);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_of_several_tablets_may_take_longer_than_the_time_to_its_first_message() {
    const LIMIT: Duration = Duration::from_secs(3);
    let world = World::start(3).await;
    world.nodes[0].tables().create_table(create("t", &["m"])).await.unwrap();
    world.leader(TABLET).await;
    // The last tablet is elsewhere, so its scan is a request with a deadline.
    let node = world.other(TabletId(3)).await;
    let value = "x".repeat(256 << 10);
    for request in 0..4 {
        let rows = (0..16).map(|row| put(&format!("a{request}-{row:02}"), "m", "q", 1, &value));
        node.data().write(write("t", rows.collect())).await.unwrap();
    }
    node.data()
        .write(write("t", vec![put("z", "m", "q", 1, "last")]))
        .await
        .unwrap();

    let mut request = tonic::Request::new(scan("t"));
    request.set_timeout(LIMIT);
    let over = tokio::time::Instant::now() + LIMIT;
    let mut stream = node.data().scan(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    // Far more is left than fits between: the scan stands in its first tablet until its time is over.
    tokio::time::sleep_until(over).await;
    let mut messages = vec![first];
    messages.extend(drain(stream).await.unwrap());
    let rows = rows_of(messages);
    assert_eq!(rows.len(), 4 * 16 + 1);
    assert_eq!(shown(&rows[64..]), ["z=last"]);
}
