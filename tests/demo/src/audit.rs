//! Comparing what a region shows with what was acknowledged: everything by a scan, cell by cell.

use crate::load::{BEAT, FAMILY, Shared};
use crate::report::RegionReport;
use crate::stage::TABLE;
use anyhow::{Context, Result};
use futures::StreamExt;
use std::collections::{HashMap, HashSet};
use tidemark_client::{Client, Row, ScanRequest};
use tidemark_harness::oracle::{Acknowledged, Coordinate};

/// Rows that no fleet writes.
const SENSOR_ROWS: &[u8] = b"sensor/";

/// What one scan of a region showed.
#[derive(Debug)]
pub struct Shown {
    /// The fleet's cells, compared while they were read.
    pub check: crate::ledger::Check,
    /// Versions of each probe row.
    pub beats: HashMap<String, HashSet<i64>>,
    /// Cells of sensor rows.
    pub sensors: Vec<(Coordinate, bytes::Bytes)>,
    /// Probe cells whose value is not what was written.
    pub beats_different: u64,
    /// Cells of rows and columns that nobody writes.
    pub strangers: u64,
}

/// Scans the whole table in one region.
pub async fn scan(client: &Client, shared: &Shared) -> Result<Shown> {
    let check = shared.ledger.lock().check();
    let mut shown = Shown {
        check,
        beats: HashMap::new(),
        sensors: Vec::new(),
        beats_different: 0,
        strangers: 0,
    };
    let mut rows = std::pin::pin!(client.table(TABLE).scan(ScanRequest::all()));
    while let Some(row) = rows.next().await {
        shown.take(shared, &row.context("the audit's scan broke off")?);
    }
    Ok(shown)
}

impl Shown {
    fn take(&mut self, shared: &Shared, row: &Row) {
        if row.key.starts_with(SENSOR_ROWS) {
            let cells = row.cells.iter().map(|c| {
                (
                    (row.key.clone(), c.family.to_string(), c.qualifier.clone(), c.version),
                    c.value.clone(),
                )
            });
            self.sensors.extend(cells);
            return;
        }
        if row.key.ends_with(b"~beat") {
            let versions = self
                .beats
                .entry(String::from_utf8_lossy(&row.key).into_owned())
                .or_default();
            for cell in &row.cells {
                let ours = *cell.family == *FAMILY && cell.qualifier == BEAT.as_bytes();
                self.strangers += u64::from(!ours);
                self.beats_different += u64::from(ours && cell.value != cell.version.to_string().as_bytes());
                versions.insert(cell.version);
            }
            return;
        }
        let ledger = shared.ledger.lock();
        for cell in &row.cells {
            self.strangers += u64::from(*cell.family != *FAMILY);
            ledger.see(&mut self.check, &row.key, &cell.qualifier, cell.version, &cell.value);
        }
    }

    fn versions(&self, row: &str) -> HashSet<i64> {
        self.beats.get(row).cloned().unwrap_or_default()
    }
}

/// How much of what east acknowledged this region lacks: row mutations, and when the oldest of them was acknowledged (in
/// microseconds of the run).
pub fn missing_of_east(shared: &Shared, probe_rows: &[String], shown: &Shown) -> (u64, Option<u64>) {
    let (mut count, mut oldest) = shared.ledger.lock().missing_of(0, &shown.check);
    for (beats, row) in shared.beats.iter().zip(probe_rows) {
        let (more, when) = beats.lock().missing(Some(0), &shown.versions(row));
        count += more;
        oldest = [oldest, when].into_iter().flatten().min();
    }
    (count, oldest)
}

/// Compares everything acknowledged with what a region shows.
pub fn full(
    shared: &Shared,
    probe_rows: &[String],
    sensors: &Acknowledged,
    shown: Shown,
) -> (RegionReport, Vec<String>) {
    let verdict = shared.ledger.lock().verdict(&shown.check);
    let mut report = RegionReport {
        cells_missing: verdict.cells_missing,
        cells_different: verdict.cells_different + shown.beats_different,
        unacknowledged_shown: verdict.unacknowledged_shown,
        strangers: verdict.strangers + shown.strangers,
        ..RegionReport::default()
    };
    let mut examples = verdict.examples;
    for (beats, row) in shared.beats.iter().zip(probe_rows) {
        let (missing, _) = beats.lock().missing(None, &shown.versions(row));
        report.cells_missing += missing;
        if missing > 0 {
            examples.push(format!("{missing} beats of {row}"));
        }
    }
    let audit = sensors.audit(shown.sensors);
    report.cells_missing += audit.missing;
    report.cells_different += audit.different;
    report.strangers += audit.unacknowledged;
    examples.extend(audit.examples);
    (report, examples)
}
