//! Devices that write readings nobody ever overwrites, and readers of the other region's devices.

use super::pace::Pace;
use super::{FAMILY, Shared, TELEMETRY, Who, put, shown};
use crate::plan::REGIONS;
use rand::Rng;
use std::sync::Arc;
use tidemark_checkers::history::{Action, Nanos};
use tidemark_client::{Client, RowMutation, Writer};

/// A device's row takes readings that long, so that a row stays small.
const ROW_NANOS: Nanos = 2_000_000_000;
/// Columns of a reading: all of them are there, or none (O12).
const COLUMNS: [&str; 3] = ["humidity", "pressure", "temperature"];
/// Devices of a region, in both tablets.
const DEVICES: [&str; 4] = ["dev-0", "dev-1", "sensor-2", "sensor-3"];

fn row(region: usize, device: usize, bucket: Nanos) -> String {
    format!("{}-{}-{bucket:05}", DEVICES[device], REGIONS[region])
}

/// Writes readings, one after the other, through the batching writer.
pub(super) async fn write(shared: Arc<Shared>, writer: Writer, region: usize, mut pace: Pace) {
    let who = Who {
        client: pace.client,
        region,
        table: TELEMETRY,
    };
    while pace.turn().await {
        let device = pace.chance.random_range(0..DEVICES.len());
        let row = row(region, device, shared.now() / ROW_NANOS);
        let id = shared.recorder().next_id();
        // A version that no other write has: the operation's number.
        let version = i64::try_from(id).expect("a run has fewer operations");
        let value = format!("r{id}");
        let action = Action::Write {
            mutations: COLUMNS.iter().map(|q| put(q, version, &value)).collect(),
        };
        let mutation = COLUMNS
            .iter()
            .fold(RowMutation::new(&row), |row, q| row.put(FAMILY, q, version, &value));
        let ask = async { writer.write(mutation).await?.await };
        shared.operate(&who, row.as_bytes(), id, action, ask, |_| None).await;
    }
}

/// Reads rows that the other region writes, while they arrive.
pub(super) async fn read(shared: Arc<Shared>, client: Client, region: usize, mut pace: Pace) {
    let table = client.table(TELEMETRY);
    let who = Who {
        client: pace.client,
        region,
        table: TELEMETRY,
    };
    while pace.turn().await {
        let device = pace.chance.random_range(0..DEVICES.len());
        let bucket = (shared.now() / ROW_NANOS).saturating_sub(pace.chance.random_range(0..2));
        let row = row(1 - region, device, bucket);
        let id = shared.recorder().next_id();
        let action = Action::Read {
            latest: None,
            column: None,
        };
        shared
            .operate(&who, row.as_bytes(), id, action, table.get(&row), shown)
            .await;
    }
}
