//! Writes that meet: what the other clients hardly ever do by chance.
//!
//! ```text
//! slot n      every region puts one coordinate of row tie-n at the same moment: often with stamps of one time, which
//!             differ in their region alone (R2)
//!             the region whose turn it is deletes row gone-(n-1), which another region has put a slot ago, and puts gone-n:
//!             at a third region, and behind a cut, the delete overtakes the put (R4)
//! ```
//! Each row is written in its slot and never again, so that what came of it is still there in the end.

use crate::control::{Control, Stage};
use crate::time;
use crate::workload::Worker;
use std::time::Duration;

/// Time between two slots.
const SLOT: Duration = Duration::from_millis(250);
/// Clients of other kinds have smaller numbers.
const CLIENT: u64 = 100;

/// One region's part, from the begin to the end of the workload.
pub async fn run(seed: u64, region: usize, regions: usize, control: Control) -> turmoil::Result {
    control.reached(Stage::Begin).await;
    control.join();
    let mut worker = Worker::new(seed, region, CLIENT + region as u64, control.clone());
    while control.stage() < Stage::Quiet {
        if !worker.is_connected(&format!("rival-{region}")).await {
            continue;
        }
        let now = time::elapsed();
        let slot = (now.as_nanos() / SLOT.as_nanos()) as u32 + 1;
        tokio::time::sleep((SLOT * slot).saturating_sub(now)).await;
        let Some(table) = worker.shared.clone() else { continue };
        worker.put_one(&table, &format!("tie-{slot:04}")).await;
        if slot as usize % regions == region {
            worker.delete_row(&table, &format!("gone-{:04}", slot - 1)).await;
            worker.put_one(&table, &format!("gone-{slot:04}")).await;
        }
    }
    control.leave();
    Ok(())
}
