//! Losing a region and coming back.

use crate::fake::{FakeRegion, eventually, options};
use std::time::{Duration, Instant};
use tidemark_client::{Client, RowMutation, SERVER_VERSION, ScanRequest, WriterOptions};

#[tokio::test]
async fn a_lost_region_is_left_and_taken_back_with_patience() {
    let mut east = FakeRegion::start("east", 3, &["row-5"]);
    let west = FakeRegion::start("west", 2, &["row-3", "row-7"]);
    let options = options(&[&east, &west])
        .failback_after(Duration::from_millis(1_500))
        .build()
        .unwrap();
    let client = Client::connect(options).await.unwrap();
    let table = client.table("t");
    let writer = table.writer(WriterOptions::default());
    let put = |n: usize| RowMutation::new(format!("row-{n}")).put("m", "q", 7, n.to_string());
    for n in 0..10 {
        assert_eq!(writer.write(put(n)).await.unwrap().await.unwrap().region, "east");
    }
    // Some writes are under way when the region goes.
    east.gate.send_replace(false);
    let mut tickets = Vec::new();
    for n in 10..20 {
        tickets.push(writer.write(put(n)).await.unwrap());
    }
    eventually("a write is under way", || east.state.lock().bytes_now > 0).await;
    let killed = Instant::now();
    east.kill_all();
    for ticket in tickets {
        assert_eq!(ticket.await.unwrap().region, "west");
    }
    assert!(
        killed.elapsed() < Duration::from_secs(2),
        "the gap was {:?}",
        killed.elapsed()
    );
    assert_eq!(client.active_region(), "west");
    assert_eq!(table.mutate_row(put(20)).await.unwrap().region, "west");

    // It comes back, but not whole: nobody returns. The region's own word is what counts.
    east.state.lock().healthy = false;
    east.gate.send_replace(true);
    east.revive_all();
    eventually("the region answers", || east.state.lock().routings > 0).await;
    let healthy = Instant::now();
    east.state.lock().healthy = true;
    let mut region = client.watch_region();
    let back = tokio::time::timeout(Duration::from_secs(10), region.wait_for(|name| name == "east")).await;
    assert!(back.is_ok(), "in vain: the way back");
    assert!(
        healthy.elapsed() >= Duration::from_millis(1_400),
        "back after only {:?}",
        healthy.elapsed()
    );
    assert_eq!(writer.write(put(21)).await.unwrap().await.unwrap().region, "east");
    writer.close().await.unwrap();
}

#[tokio::test]
async fn what_is_under_way_in_a_region_that_is_left_for_a_better_one_ends_there() {
    let mut east = FakeRegion::start("east", 1, &[]);
    let west = FakeRegion::start("west", 1, &[]);
    east.kill_all();
    let options = options(&[&east, &west])
        .failback_after(Duration::from_millis(200))
        .build()
        .unwrap();
    let client = Client::connect(options).await.unwrap();
    let writer = client.table("t").writer(WriterOptions::default());
    west.gate.send_replace(false);
    let once = RowMutation::new("a").put("m", "q", SERVER_VERSION, "v");
    let under_way = writer.write(once).await.unwrap();
    eventually("the write is under way", || west.state.lock().bytes_now > 0).await;
    east.revive_all();
    eventually("the better region is used", || client.active_region() == "east").await;
    west.gate.send_replace(true);
    assert_eq!(under_way.await.unwrap().region, "west");
}

#[tokio::test]
async fn one_lost_node_is_no_lost_region() {
    let mut east = FakeRegion::start("east", 3, &["row-3", "row-6"]);
    let west = FakeRegion::start("west", 1, &[]);
    let client = Client::connect(options(&[&east, &west]).build().unwrap())
        .await
        .unwrap();
    let table = client.table("t");
    for n in 0..9 {
        table.put(format!("row-{n}"), "m", "q", 7, "v").await.unwrap();
    }
    east.kill(1);
    for tablet in &mut east.state.lock().tablets {
        tablet.leader = if tablet.leader == 1 { 0 } else { tablet.leader };
    }
    let until = Instant::now() + Duration::from_millis(1_500);
    let mut n = 0;
    while Instant::now() < until {
        let written = table.put(format!("row-{}", n % 9), "m", "q", 8, "v").await.unwrap();
        assert_eq!(written.region, "east");
        n += 1;
    }
    assert!(west.state.lock().rows.is_empty());
}

#[tokio::test]
async fn what_may_not_be_repeated_does_not_cross_over() {
    let mut east = FakeRegion::start("east", 1, &[]);
    let west = FakeRegion::start("west", 1, &[]);
    let client = Client::connect(options(&[&east, &west]).build().unwrap())
        .await
        .unwrap();
    let table = client.table("t");
    table.put("a", "m", "q", 7, "v").await.unwrap();
    east.gate.send_replace(false);
    let writer = table.writer(WriterOptions::default());
    let under_way = writer
        .write(RowMutation::new("a").put("m", "q", SERVER_VERSION, "v"))
        .await
        .unwrap();
    eventually("the write is under way", || east.state.lock().bytes_now > 0).await;
    let behind = writer
        .write(RowMutation::new("a").put("m", "q", SERVER_VERSION, "w"))
        .await
        .unwrap();
    east.kill_all();
    assert!(under_way.await.unwrap_err().is_unknown_outcome());
    assert_eq!(behind.await.unwrap().region, "west", "it had not been sent");
    assert_eq!(west.state.lock().log, [(b"a".to_vec(), b"w".to_vec())]);
}

#[tokio::test]
async fn a_client_starts_in_the_region_that_answers() {
    let mut east = FakeRegion::start("east", 1, &[]);
    let west = FakeRegion::start("west", 1, &[]);
    east.kill_all();
    let client = Client::connect(options(&[&east, &west]).build().unwrap())
        .await
        .unwrap();
    assert_eq!(client.active_region(), "west");
    let began = Instant::now();
    let nobody = options(&[&east])
        .first_answer_within(Duration::from_millis(300))
        .build()
        .unwrap();
    let error = Client::connect(nobody).await.unwrap_err();
    assert_eq!(error.reason(), "NODE_UNREACHABLE", "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_scan_crosses_over_only_if_it_may() {
    let mut east = FakeRegion::start("east", 1, &["row-050"]);
    let west = FakeRegion::start("west", 1, &["row-030"]);
    east.fill(100);
    west.fill(100);
    let options = options(&[&east, &west]).build().unwrap();
    let client = Client::connect(options).await.unwrap();
    let table = client.table("t");
    east.state.lock().scan_breaks.extend([5, 0, 0, 0]);
    let mut scan = table.scan(ScanRequest::all().failover(true));
    let mut keys = Vec::new();
    use futures::TryStreamExt;
    while let Some(row) = scan.try_next().await.unwrap() {
        assert_eq!(row.cells.len(), 3);
        keys.push(row.key);
        if keys.len() == 5 {
            east.kill_all();
        }
    }
    let expected: Vec<String> = (0..100).map(|n| format!("row-{n:03}")).collect();
    assert_eq!(keys, expected);
    assert_eq!(client.active_region(), "west");
}

#[tokio::test]
async fn a_region_whose_catalog_cannot_be_asked_is_left_whatever_it_says_of_other_tables() {
    let east = FakeRegion::start("east", 1, &[]);
    let west = FakeRegion::start("west", 1, &[]);
    let options = options(&[&east, &west])
        .failover_stalled_after(Duration::from_millis(500))
        .build()
        .unwrap();
    let client = Client::connect(options).await.unwrap();
    east.state.lock().routing_refused = Some("UNAVAILABLE");
    let missing = client.table("missing");
    let asking = tokio::spawn(async move {
        loop {
            let _ = missing.get("a").await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let written = client.table("t").put("a", "m", "q", 7, "v").await.unwrap();
    assert_eq!(written.region, "west");
    asking.abort();
}

#[tokio::test]
async fn nobody_returns_to_a_region_that_does_not_know_a_table_in_use() {
    let mut east = FakeRegion::start("east", 1, &[]);
    let west = FakeRegion::start("west", 1, &[]);
    east.kill_all();
    let options = options(&[&east, &west])
        .failback_after(Duration::from_millis(200))
        .build()
        .unwrap();
    let client = Client::connect(options).await.unwrap();
    client.table("t").put("a", "m", "q", 7, "v").await.unwrap();
    assert!(client.table("missing").get("a").await.is_err());
    east.state.lock().routing_refused = Some("NOT_FOUND");
    east.revive_all();
    let asked = || east.state.lock().routings;
    eventually("the region is looked at", || asked() >= 3).await;
    assert_eq!(client.active_region(), "west");
    east.state.lock().routing_refused = None;
    eventually("the better region is used", || client.active_region() == "east").await;
}
