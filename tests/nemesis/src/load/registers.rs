//! Rows that one region alone reads and writes: what clients see of each must fit one order (linearizability).
//!
//! Every few seconds the clients go on to new rows, so that the search over a row's operations stays small however many
//! of them ended without an answer.

use super::pace::Pace;
use super::{FAMILY, REGISTERS, Shared, Who, put, shown};
use crate::plan::REGIONS;
use rand::Rng;
use std::sync::Arc;
use tidemark_checkers::history::{Action, Column, Mutation, Nanos, Predicate, Seen};
use tidemark_client::{Client, CompareOp, Filter, Row, RowMutation, Rule, Table, VersionRange};

/// The column of a register.
const VALUE: &str = "v";
/// Every put of a register is of this version: later ones replace earlier ones.
const VERSION: i64 = 1;
/// The column of a counter.
const COUNT: &str = "n";
/// Rows at a time.
const ROWS: u64 = 2;
/// A row is used that long.
const ROW_NANOS: Nanos = 2_500_000_000;

fn row(kind: &str, region: usize, now: Nanos, which: u64) -> String {
    format!("{kind}-{}-{:04}-{which}", REGIONS[region], now / ROW_NANOS)
}

fn column(qualifier: &str) -> Column {
    Column {
        family: FAMILY.to_owned(),
        qualifier: qualifier.into(),
    }
}

fn newest(row: &Option<Row>) -> Option<String> {
    let value = row.as_ref()?.value(FAMILY, VALUE)?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// Puts, reads, conditional puts and deletes, one attempt each.
pub(super) async fn registers(shared: Arc<Shared>, client: Client, region: usize, mut pace: Pace) {
    let table = client.table(REGISTERS);
    let who = Who {
        client: pace.client,
        region,
        table: REGISTERS,
    };
    let mut last: Option<String> = None;
    while pace.turn().await {
        let which = pace.chance.random_range(0..ROWS);
        let row = row("reg", region, shared.now(), which);
        let id = shared.recorder().next_id();
        match pace.chance.random_range(0..100) {
            0..40 => last = read(&shared, &who, &table, &row, id).await,
            40..70 => write(&shared, &who, &table, &row, id).await,
            70..93 => swap(&shared, &who, &table, &row, id, last.clone()).await,
            _ => delete(&shared, &who, &table, &row, id).await,
        }
    }
}

async fn read(shared: &Shared, who: &Who, table: &Table, row: &str, id: u64) -> Option<String> {
    let action = Action::Read {
        latest: None,
        column: None,
    };
    let answer = shared
        .operate(who, row.as_bytes(), id, action, table.get(row), shown)
        .await;
    newest(&answer?)
}

async fn write(shared: &Shared, who: &Who, table: &Table, row: &str, id: u64) {
    let value = format!("w{id}");
    let action = Action::Write {
        mutations: vec![put(VALUE, VERSION, &value)],
    };
    let ask = table.put(row, FAMILY, VALUE, VERSION, &value);
    shared.operate(who, row.as_bytes(), id, action, ask, |_| None).await;
}

/// Puts if the newest value is still the one that was read; else changes nothing.
async fn swap(shared: &Shared, who: &Who, table: &Table, row: &str, id: u64, expected: Option<String>) {
    let value = format!("c{id}");
    let expected = expected.unwrap_or_else(|| "nothing".to_owned());
    let action = Action::CheckAndMutate {
        predicate: Predicate::Newest {
            column: column(VALUE),
            value: (&expected).into(),
        },
        on_match: vec![put(VALUE, VERSION, &value)],
        on_mismatch: Vec::new(),
    };
    let filter = Filter::new()
        .families([FAMILY])
        .qualifiers([VALUE])
        .latest(1)
        .value(CompareOp::Equal, &expected);
    let on_match = RowMutation::new(row).put(FAMILY, VALUE, VERSION, &value);
    let ask = table.check_and_mutate(row, Some(filter), on_match, RowMutation::new(row));
    let matched = |matched: &bool| Some(Seen::Matched(*matched));
    shared.operate(who, row.as_bytes(), id, action, ask, matched).await;
}

async fn delete(shared: &Shared, who: &Who, table: &Table, row: &str, id: u64) {
    let action = Action::Write {
        mutations: vec![Mutation::DeleteRow {
            versions: Default::default(),
        }],
    };
    let ask = table.mutate_row(RowMutation::new(row).delete_row(VersionRange::ALL));
    shared.operate(who, row.as_bytes(), id, action, ask, |_| None).await;
}

/// Increments, repeated by the client under one token: each must count once.
pub(super) async fn counters(shared: Arc<Shared>, client: Client, region: usize, mut pace: Pace) {
    let table = client.table(REGISTERS);
    let who = Who {
        client: pace.client,
        region,
        table: REGISTERS,
    };
    while pace.turn().await {
        let row = row("cnt", region, shared.now(), 0);
        let id = shared.recorder().next_id();
        if pace.chance.random_ratio(1, 3) {
            read(&shared, &who, &table, &row, id).await;
            continue;
        }
        let by = pace.chance.random_range(1..10);
        let action = Action::Increment {
            column: column(COUNT),
            by,
        };
        let rule = Rule::Increment {
            family: FAMILY.to_owned(),
            qualifier: COUNT.into(),
            by,
        };
        let ask = table.read_modify_write(&row, vec![rule]);
        let written = |row: &Row| Some(Seen::Cells(super::cells(row)));
        shared.operate(&who, row.as_bytes(), id, action, ask, written).await;
    }
}
