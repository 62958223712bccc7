//! Both regions write the same coordinates: who wins is decided by stamps alone, and alike everywhere.

use super::pace::Pace;
use super::{FAMILY, Shared, TELEMETRY, Who, cells, put, shown};
use futures::TryStreamExt;
use rand::Rng;
use std::sync::Arc;
use tidemark_checkers::history::{Action, Mutation, Nanos, Seen, SeenRow};
use tidemark_client::{Client, Row, RowMutation, RowRange, ScanRequest, Table, VersionRange};

/// Rows at a time, in both tablets.
const ROWS: [&str; 3] = ["both-0", "both-1", "rival-2"];
/// Columns that are written together.
const COLUMNS: [&str; 2] = ["a", "b"];
/// The one version.
const VERSION: i64 = 1;
/// A row is used that long.
const ROW_NANOS: Nanos = 5_000_000_000;

fn row(which: usize, now: Nanos) -> String {
    format!("{}-{:04}", ROWS[which], now / ROW_NANOS)
}

/// Reads and then overwrites or deletes (O8: what was read is beaten everywhere), or writes without looking. One attempt
/// each: a repeat would be a second write with a greater stamp.
pub(super) async fn write(shared: Arc<Shared>, client: Client, region: usize, mut pace: Pace) {
    let table = client.table(TELEMETRY);
    let who = Who {
        client: pace.client,
        region,
        table: TELEMETRY,
    };
    while pace.turn().await {
        let row = row(pace.chance.random_range(0..ROWS.len()), shared.now());
        if pace.chance.random_ratio(1, 2) {
            read(&shared, &who, &table, &row).await;
        }
        let id = shared.recorder().next_id();
        let (mutations, mutation) = if pace.chance.random_ratio(1, 10) {
            delete(&row)
        } else {
            overwrite(&row, id)
        };
        let action = Action::Write { mutations };
        shared
            .operate(&who, row.as_bytes(), id, action, table.mutate_row(mutation), |_| None)
            .await;
    }
}

async fn read(shared: &Shared, who: &Who, table: &Table, row: &str) {
    let id = shared.recorder().next_id();
    let action = Action::Read {
        latest: None,
        column: None,
    };
    shared
        .operate(who, row.as_bytes(), id, action, table.get(row), shown)
        .await;
}

fn overwrite(row: &str, id: u64) -> (Vec<Mutation>, RowMutation) {
    let value = format!("x{id}");
    let mutations = COLUMNS.iter().map(|q| put(q, VERSION, &value)).collect();
    let mutation = COLUMNS
        .iter()
        .fold(RowMutation::new(row), |row, q| row.put(FAMILY, q, VERSION, &value));
    (mutations, mutation)
}

fn delete(row: &str) -> (Vec<Mutation>, RowMutation) {
    let mutations = vec![Mutation::DeleteRow {
        versions: Default::default(),
    }];
    (mutations, RowMutation::new(row).delete_row(VersionRange::ALL))
}

/// Scans the rows that are fought over: each of them must be whole.
pub(super) async fn scan(shared: Arc<Shared>, client: Client, region: usize, mut pace: Pace) {
    let table = client.table(TELEMETRY);
    let who = Who {
        client: pace.client,
        region,
        table: TELEMETRY,
    };
    while pace.turn().await {
        let start = row(0, shared.now());
        let end = format!("{start}~");
        let id = shared.recorder().next_id();
        let action = Action::Scan {
            end: Some((&end).into()),
        };
        let range = RowRange {
            start: start.clone().into(),
            end: Some(end.into()),
        };
        let ask = table.scan(ScanRequest::range(range)).try_collect::<Vec<Row>>();
        let rows = |rows: &Vec<Row>| {
            let seen = rows.iter().map(|row| SeenRow {
                row: (&row.key).into(),
                cells: cells(row),
            });
            Some(Seen::Rows(seen.collect()))
        };
        shared.operate(&who, start.as_bytes(), id, action, ask, rows).await;
    }
}
