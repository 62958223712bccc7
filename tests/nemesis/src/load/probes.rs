//! The time without service, measured by one small write after another to every tablet of a table of their own.

use super::pace::Pace;
use super::{FAMILY, PULSE, Shared};
use std::sync::Arc;
use tidemark_client::{Client, now_micros};

/// Writes to one tablet's probe row until the load ends; the table keeps one version.
pub(super) async fn probe(shared: Arc<Shared>, client: Client, region: usize, tablet: usize, mut pace: Pace) {
    let table = client.table(PULSE);
    let row = format!("pulse-{tablet}");
    while pace.turn().await {
        match table.put(&row, FAMILY, "at", now_micros(), b"").await {
            Ok(_) => shared.note_pulse(region, tablet),
            Err(error) => shared.note_error(&error),
        }
    }
}
