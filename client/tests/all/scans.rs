//! Scans that break in the middle, at message borders and inside rows.

use crate::fake::{FakeRegion, options};
use futures::TryStreamExt;
use std::time::Duration;
use tidemark_client::{Client, Count, Filter, RetryPolicy, Row, RowRange, ScanRequest};

async fn client(region: &FakeRegion) -> Client {
    let retry = RetryPolicy {
        initial: Duration::from_millis(1),
        max: Duration::from_millis(5),
        ..RetryPolicy::default()
    };
    Client::connect(options(&[region]).retry(retry).build().expect("legal options"))
        .await
        .expect("the region answers")
}

fn keys(rows: &[Row]) -> Vec<String> {
    rows.iter()
        .map(|row| String::from_utf8_lossy(&row.key).into_owned())
        .collect()
}

#[tokio::test]
async fn a_broken_scan_goes_on_without_a_row_twice_or_lost() {
    let region = FakeRegion::start("east", 2, &["row-030", "row-031", "row-070"]);
    region.fill(100);
    let table = client(&region).await.table("t");
    let all: Vec<String> = (0..100).map(|n| format!("row-{n:03}")).collect();
    for reverse in [false, true] {
        for limit in [0, 1, 37, 100, 1_000] {
            for breaks in [vec![], vec![0, 1, 2, 3, 4, 5, 6, 1, 1, 0, 0, 2], vec![1; 40]] {
                region.state.lock().scan_breaks = breaks.into();
                let request = ScanRequest::all().reverse(reverse).limit(limit);
                let rows: Vec<Row> = table.scan(request).try_collect().await.unwrap();
                let mut expected = all.clone();
                if reverse {
                    expected.reverse();
                }
                expected.truncate(if limit == 0 { 100 } else { limit as usize });
                assert_eq!(keys(&rows), expected, "reverse {reverse}, limit {limit}");
                assert!(rows.iter().all(|row| row.cells.len() == 3), "rows are whole");
            }
        }
    }
}

#[tokio::test]
async fn ranges_points_and_counts() {
    let region = FakeRegion::start("east", 2, &["row-030", "row-070"]);
    region.fill(100);
    let table = client(&region).await.table("t");
    let ranges = [
        RowRange::prefix(b"row-02"),
        RowRange::row(b"row-069"),
        RowRange::prefix(b"row-07"),
        RowRange::row(b"row-070"),
    ];
    region.state.lock().scan_breaks.extend([2, 1, 1]);
    let rows: Vec<Row> = table
        .scan(ScanRequest::ranges(ranges.clone()))
        .try_collect()
        .await
        .unwrap();
    let mut expected: Vec<String> = (20..30).chain(69..80).map(|n| format!("row-{n:03}")).collect();
    assert_eq!(keys(&rows), expected);
    let rows: Vec<Row> = table
        .scan(ScanRequest::ranges(ranges).reverse(true))
        .try_collect()
        .await
        .unwrap();
    expected.reverse();
    assert_eq!(keys(&rows), expected);
    let count = table.count(ScanRequest::prefix("row-0")).await.unwrap();
    assert_eq!(count, Count { rows: 100, cells: 300 });
    let none: Vec<Row> = table.scan(ScanRequest::ranges([])).try_collect().await.unwrap();
    assert!(none.is_empty());

    let wanted = ["row-099", "row-001", "absent", "row-050", "row-001"];
    let rows = table.read_rows(wanted, Filter::new()).await.unwrap();
    assert_eq!(keys(&rows), ["row-001", "row-050", "row-099"]);
    assert_eq!(rows[0].value("m", "q1").map(|v| &v[..]), Some(&b"1/1"[..]));
    assert_eq!(table.get("absent").await.unwrap(), None);
}

#[tokio::test]
async fn a_sign_of_life_inside_a_row_does_not_tear_it() {
    let region = FakeRegion::start("east", 2, &["row-030"]);
    region.fill(60);
    region.state.lock().scan_quiet = true;
    let table = client(&region).await.table("t");
    for reverse in [false, true] {
        region.state.lock().scan_breaks = vec![2, 3, 5, 1].into();
        let rows: Vec<Row> = table
            .scan(ScanRequest::all().reverse(reverse))
            .try_collect()
            .await
            .unwrap();
        assert_eq!(rows.len(), 60);
        assert!(rows.iter().all(|row| row.cells.len() == 3), "rows are whole");
    }
}

#[tokio::test]
async fn a_scan_finds_a_table_that_was_made_anew() {
    let region = FakeRegion::start("east", 2, &["row-030"]);
    region.fill(3);
    let table = client(&region).await.table("t");
    let rows: Vec<Row> = table.scan(ScanRequest::all()).try_collect().await.unwrap();
    assert_eq!(rows.len(), 3);
    region.recreate();
    region.fill(5);
    let rows: Vec<Row> = table.scan(ScanRequest::all()).try_collect().await.unwrap();
    assert_eq!(rows.len(), 5);
}

#[tokio::test]
async fn a_scan_of_a_missing_table_ends_with_its_error() {
    let region = FakeRegion::start("east", 1, &[]);
    let table = client(&region).await.table("missing");
    let mut scan = table.scan(ScanRequest::all());
    assert_eq!(scan.try_next().await.unwrap_err().reason(), "NOT_FOUND_HERE");
    assert_eq!(scan.try_next().await.unwrap(), None);
}
