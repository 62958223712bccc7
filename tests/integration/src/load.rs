//! Writers that note what was acknowledged, and how long the longest of them waited.

use crate::scene::FAMILY;
use anyhow::{Result, ensure};
use bytes::Bytes;
use std::time::{Duration, Instant};
use tidemark_client::{RowMutation, Table, Writer, WriterOptions, now_micros};
use tidemark_harness::oracle::{Acknowledged, Coordinate};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Several writers, each with its own rows, each sending one row after the other.
#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    writers: Vec<JoinHandle<Notes>>,
}

/// What came of a load.
#[derive(Debug, Default)]
pub struct Notes {
    /// Acknowledged cells.
    pub acknowledged: Acknowledged,
    /// Writes that ended with an error.
    pub failed: Vec<String>,
    /// The longest time between two acknowledgements of one writer.
    pub gap: Duration,
}

const QUALIFIERS: [&str; 2] = ["a", "b"];

impl Load {
    /// Starts `writers` writers; every row is `prefix`, the writer's number and a count, and has two cells of about
    /// `value_bytes`.
    pub fn start(table: &Table, prefix: &str, writers: usize, value_bytes: usize) -> Load {
        let (stop, _) = watch::channel(false);
        let writer = table.writer(WriterOptions {
            linger: Duration::from_millis(1),
            ..WriterOptions::default()
        });
        let start = |n: usize| {
            let rows = format!("{}{n:02}-", prefix);
            tokio::spawn(write_rows(writer.clone(), rows, value_bytes, stop.subscribe()))
        };
        Load {
            writers: (0..writers).map(start).collect(),
            stop,
        }
    }

    /// Ends the load and returns what was acknowledged.
    pub async fn end(self) -> Result<Notes> {
        self.stop.send_replace(true);
        let mut all = Notes::default();
        for writer in self.writers {
            let notes = writer.await?;
            all.acknowledged.merge(notes.acknowledged);
            all.failed.extend(notes.failed);
            all.gap = all.gap.max(notes.gap);
        }
        Ok(all)
    }
}

async fn write_rows(writer: Writer, rows: String, value_bytes: usize, stop: watch::Receiver<bool>) -> Notes {
    let mut notes = Notes::default();
    let mut last = Instant::now();
    let mut count = 0u64;
    while !*stop.borrow() {
        count += 1;
        let (row, version) = (format!("{rows}{count:08}"), now_micros());
        let value = value_of(&row, value_bytes);
        let mutation = QUALIFIERS.iter().fold(RowMutation::new(&row), |mutation, q| {
            mutation.put(FAMILY, q, version, &value)
        });
        let outcome = match writer.write(mutation).await {
            Ok(ticket) => ticket.await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(_) => {
                for q in QUALIFIERS {
                    let (row, q) = (Bytes::from(row.clone()), Bytes::from_static(q.as_bytes()));
                    notes.acknowledged.note(row, FAMILY, q, version, value.clone());
                }
                notes.gap = notes.gap.max(last.elapsed());
                last = Instant::now();
            }
            Err(error) => notes.failed.push(error.to_string()),
        }
    }
    notes.gap = notes.gap.max(last.elapsed());
    notes
}

/// Not compressible by much, and different for each row.
fn value_of(row: &str, bytes: usize) -> Bytes {
    use rand::{RngCore, SeedableRng};
    let seed = row.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut value = vec![0; bytes.max(8)];
    rand_chacha::ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut value);
    value.into()
}

/// Fails unless every acknowledged cell is shown with its value.
pub fn ensure_nothing_lost(acknowledged: &Acknowledged, shown: Vec<(Coordinate, Bytes)>) -> Result<()> {
    ensure!(
        !acknowledged.is_empty(),
        "nothing was acknowledged, so nothing is proved"
    );
    let audit = acknowledged.audit(shown);
    ensure!(
        audit.missing == 0 && audit.different == 0,
        "acknowledged writes are lost: {audit:?}"
    );
    Ok(())
}
