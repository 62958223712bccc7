//! The load: ticks that become due by the clock whether or not earlier ones are answered, and probers that write one small
//! row after another so that gaps are measured to about ten milliseconds.
//!
//! ```text
//! fleet ─ due by the clock ─> ledger.issue ─> writer.write (waits while its memory is full)
//!                                               └─ ticket ─> bounded channel ─> collector: ledger.settle
//! prober (one a tablet): write, await, note the beat, 10 ms pause
//! ```

use crate::beats::{Beat, Beats};
use crate::fleet::{Fleet, KINDS, Tick, device_row, value_text};
use crate::ledger::{Ledger, Outcome, RegionIndex, TickNumber};
use crate::sensors::Series;
use anyhow::Result;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidemark_client::{ClientError, RowMutation, WriteTicket, Writer, now_micros};
use tidemark_harness::oracle::Acknowledged;
use tokio::sync::{mpsc, watch};

/// The family that everything is written to.
pub const FAMILY: &str = "m";

/// The qualifier of a prober's cells.
pub const BEAT: &str = "beat";

/// The qualifier of a sensor file's readings.
pub const READING: &str = "value";

/// Readings of a sensor file that go into one row mutation.
const READINGS_PER_MUTATION: usize = 250;

/// Tickets that are waited for at one time; at 1,500 ticks a second that is over ten seconds without any answer.
const TICKETS_MAX: usize = 16 << 10;

/// How far the load may run behind the clock before ticks are skipped instead of sent late.
const BEHIND_MAX: Duration = Duration::from_secs(2);

/// What all parts of the load share.
#[derive(Debug)]
pub struct Shared {
    /// Microseconds of the run are counted from here.
    pub started: Instant,
    /// What was written.
    pub ledger: Mutex<Ledger>,
    /// Ticks acknowledged so far.
    pub acknowledged: AtomicU64,
    /// Ticks that were due and not tried.
    pub skipped: AtomicU64,
    /// One a tablet.
    pub beats: Vec<Mutex<Beats>>,
    /// The greatest lag seen so far, in milliseconds.
    pub lag_max_ms: AtomicU64,
    /// The first error that a write ended with.
    pub first_error: Mutex<String>,
    /// Names of the regions, by [`RegionIndex`].
    pub regions: Vec<String>,
    last_version: Mutex<i64>,
}

impl Shared {
    /// Nothing written yet.
    pub fn new(regions: Vec<String>, tablets: usize) -> Shared {
        Shared {
            started: Instant::now(),
            ledger: Mutex::default(),
            acknowledged: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            beats: (0..tablets).map(|_| Mutex::default()).collect(),
            lag_max_ms: AtomicU64::new(0),
            first_error: Mutex::default(),
            regions,
            last_version: Mutex::new(0),
        }
    }

    /// Now, in microseconds of the run.
    pub fn at_micros(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// A version that no other write of this run has, near the wall clock.
    pub fn next_version(&self) -> i64 {
        let mut last = self.last_version.lock();
        *last = now_micros().max(*last + 1);
        *last
    }

    fn region_index(&self, name: &str) -> RegionIndex {
        let index = self.regions.iter().position(|r| r == name).unwrap_or(usize::MAX);
        RegionIndex::try_from(index).unwrap_or(RegionIndex::MAX)
    }

    fn note_error(&self, error: &ClientError) {
        let mut first = self.first_error.lock();
        if first.is_empty() {
            *first = error.to_string();
        }
    }
}

/// Writes ticks at `rate` a second until `stop` turns true; returns when every ticket is settled.
pub async fn drive(
    shared: Arc<Shared>,
    writer: Writer,
    mut fleet: Fleet,
    rate: u32,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let (tickets, receiver) = mpsc::channel(TICKETS_MAX);
    let collector = tokio::spawn(collect(shared.clone(), receiver));
    let started = Instant::now();
    let mut done = 0u64;
    let mut beat = tokio::time::interval(Duration::from_millis(5));
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !*stop.borrow() {
        beat.tick().await;
        let due = (started.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        let behind_max = u64::from(rate) * BEHIND_MAX.as_secs();
        let skip = (due - done.min(due)).saturating_sub(behind_max);
        shared.skipped.fetch_add(skip, Ordering::Relaxed);
        done += skip;
        while done < due && !*stop.borrow() {
            done += 1;
            issue(&shared, &writer, fleet.tick(), &tickets).await?;
        }
    }
    drop(tickets);
    collector.await?;
    Ok(())
}

async fn issue(
    shared: &Shared,
    writer: &Writer,
    tick: Tick,
    tickets: &mpsc::Sender<(TickNumber, WriteTicket)>,
) -> Result<()> {
    let (number, version) = {
        // Both under the ledger's lock: versions rise in the ledger.
        let mut ledger = shared.ledger.lock();
        let version = shared.next_version();
        (ledger.issue(version, tick), version)
    };
    match writer.write(mutation(&tick, version)).await {
        Ok(ticket) => tickets
            .send((number, ticket))
            .await
            .map_err(|_| anyhow::anyhow!("the collector is gone"))?,
        Err(error) => settle(shared, number, Err(error)),
    }
    Ok(())
}

/// One tick as one row mutation.
fn mutation(tick: &Tick, version: i64) -> RowMutation {
    KINDS
        .iter()
        .zip(tick.values)
        .fold(RowMutation::new(device_row(tick.device)), |row, (kind, value)| {
            row.put(FAMILY, kind.name, version, value_text(value))
        })
}

async fn collect(shared: Arc<Shared>, mut receiver: mpsc::Receiver<(TickNumber, WriteTicket)>) {
    let mut waiting = FuturesUnordered::new();
    let mut open = true;
    while open || !waiting.is_empty() {
        tokio::select! {
            ticket = receiver.recv(), if open && waiting.len() < TICKETS_MAX => match ticket {
                Some((number, ticket)) => waiting.push(async move { (number, ticket.await) }),
                None => open = false,
            },
            Some((number, result)) = waiting.next(), if !waiting.is_empty() => {
                settle(&shared, number, result.map(|written| written.region));
            }
        }
    }
}

fn settle(shared: &Shared, number: TickNumber, result: Result<String, ClientError>) {
    let outcome = match result {
        Ok(region) => {
            shared.acknowledged.fetch_add(1, Ordering::Relaxed);
            Outcome::Acknowledged {
                region: shared.region_index(&region),
                at_micros: shared.at_micros(),
            }
        }
        Err(error) => {
            shared.note_error(&error);
            if error.is_unknown_outcome() {
                Outcome::Unknown
            } else {
                Outcome::Refused
            }
        }
    };
    shared.ledger.lock().settle(number, outcome);
}

/// Writes the probe row of one tablet again and again until `stop` turns true. One write at a time, so that the time
/// between two beats is the time without service.
pub async fn probe(shared: Arc<Shared>, writer: Writer, tablet: usize, row: String, stop: watch::Receiver<bool>) {
    let mut beat = tokio::time::interval(Duration::from_millis(10));
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !*stop.borrow() {
        beat.tick().await;
        let version = shared.next_version();
        let mutation = RowMutation::new(&row).put(FAMILY, BEAT, version, version.to_string());
        let result = match writer.write(mutation).await {
            Ok(ticket) => ticket.await,
            Err(error) => Err(error),
        };
        match result {
            Ok(written) => {
                let region = shared.region_index(&written.region);
                shared.beats[tablet].lock().note(Beat {
                    at_micros: shared.at_micros(),
                    region,
                    version,
                });
            }
            Err(error) => shared.note_error(&error),
        }
    }
}

/// Writes the readings of sensor files, each file one row, and returns the cells that were acknowledged. The second number
/// counts readings that were not.
pub async fn load_series(shared: &Shared, writer: &Writer, series: &[Series]) -> (Acknowledged, u64) {
    let mut oracle = Acknowledged::default();
    let mut failed = 0;
    for one in series {
        let row = Bytes::from(one.row.clone());
        let mut tickets = Vec::new();
        for readings in one.readings.chunks(READINGS_PER_MUTATION) {
            let mutation = readings
                .iter()
                .fold(RowMutation::new(&row), |mutation, (version, value)| {
                    mutation.put(FAMILY, READING, *version, value)
                });
            tickets.push((readings, writer.write(mutation).await));
        }
        for (readings, ticket) in tickets {
            let result = match ticket {
                Ok(ticket) => ticket.await.map(|_| ()),
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                shared.note_error(&error);
                failed += readings.len() as u64;
                continue;
            }
            for (version, value) in readings {
                let qualifier = Bytes::from_static(READING.as_bytes());
                oracle.note(row.clone(), FAMILY, qualifier, *version, Bytes::from(value.clone()));
            }
        }
    }
    (oracle, failed)
}

/// The row of a tablet's prober: in the tablet that begins at the given split row (`None`: the first one), and no device's.
pub fn probe_row(split: Option<&String>) -> String {
    format!("{}~beat", split.cloned().unwrap_or_else(|| device_row(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{device_of, split_rows};

    #[test]
    fn a_tick_is_one_mutation_of_ten_puts_that_may_be_repeated() {
        let row = mutation(&Fleet::new(1, 10).tick(), 7);
        assert_eq!(row.len(), KINDS.len());
        assert!(row.may_repeat());
    }

    #[test]
    fn each_tablet_has_a_probe_row_of_its_own() {
        let splits = split_rows(10_000, 4);
        let rows: Vec<String> = std::iter::once(probe_row(None))
            .chain(splits.iter().map(|s| probe_row(Some(s))))
            .collect();
        for (n, row) in rows.iter().enumerate() {
            assert_eq!(device_of(row.as_bytes()), None);
            assert_eq!(splits.iter().filter(|s| *s <= row).count(), n, "{row}");
        }
    }

    #[test]
    fn versions_rise_and_are_never_given_twice() {
        let shared = Shared::new(vec!["east".into()], 1);
        let versions: Vec<i64> = (0..1_000).map(|_| shared.next_version()).collect();
        assert!(versions.windows(2).all(|w| w[0] < w[1]));
        assert_eq!(
            (shared.region_index("east"), shared.region_index("south")),
            (0, RegionIndex::MAX)
        );
    }
}
