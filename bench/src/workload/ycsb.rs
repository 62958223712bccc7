//! `ycsb`: the six mixes of the Yahoo! Cloud Serving Benchmark (Cooper et al., 2010), with its sizes: a row of ten fields
//! of 100 bytes, chosen by a scattered Zipfian distribution of skew 0.99.
//!
//! | mix | ops |
//! |---|---|
//! | a | 50 % reads, 50 % updates of one field |
//! | b | 95 % reads, 5 % updates |
//! | c | reads |
//! | d | 95 % reads of the newest rows, 5 % inserts |
//! | e | 95 % scans of up to 100 rows, 5 % inserts |
//! | f | 50 % reads, 50 % read-modify-writes: a read, then an update, as the benchmark's own client does it |

use super::zipf::Zipf;
use super::{Load, Setting, metered, options_of};
use crate::drive::{Done, Pace, Worker, drive};
use crate::noise::Noise;
use crate::report::{Report, round};
use crate::schedule::Rate;
use crate::table::{self, FAMILY, Layout};
use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use futures::TryStreamExt;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemark_base::RowRange;
use tidemark_client::{ClientError, Filter, RowMutation, ScanRequest, Table, Writer, WriterOptions, now_micros};

const FIELDS: u64 = 10;
const FIELD_BYTES: usize = 100;
const SCAN_ROWS_MAX: u64 = 100;
/// Rows that a loading client hands to its writer as one op.
const LOAD_ROWS: u64 = 1_000;
const KINDS: &[&str] = &["read", "update", "insert", "scan", "read_modify_write"];

/// Which ops, in which parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Mix {
    A,
    B,
    C,
    D,
    E,
    F,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Read,
    Update,
    Insert,
    Scan,
    ReadModifyWrite,
}

impl Mix {
    /// The rarer op, with its percentage, and the other one.
    fn ops(self) -> (Op, u64, Op) {
        match self {
            Mix::A => (Op::Update, 50, Op::Read),
            Mix::B => (Op::Update, 5, Op::Read),
            Mix::C => (Op::Update, 0, Op::Read),
            Mix::D => (Op::Insert, 5, Op::Read),
            Mix::E => (Op::Insert, 5, Op::Scan),
            Mix::F => (Op::ReadModifyWrite, 50, Op::Read),
        }
    }
}

/// Options of `ycsb`.
#[derive(Args, Clone, Debug, Serialize)]
pub struct Ycsb {
    /// The mix of ops
    #[arg(long, value_enum)]
    pub mix: Mix,
    #[command(flatten)]
    #[serde(flatten)]
    pub load: Load,
    /// Rows at the beginning
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub records: u64,
    /// The table; created if it is missing
    #[arg(long, default_value = "ycsb")]
    pub table: String,
    /// The rows are there from a run before: do not write them again
    #[arg(long)]
    pub loaded: bool,
    /// Tablets of a new table
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub tablets: u64,
    /// Another seed, other rows
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl Ycsb {
    pub(super) async fn run(&self, setting: &Setting) -> Result<Report> {
        // Rows are `user` and a number spread evenly over eight hexadecimal digits and more.
        let splits = (1..self.tablets).map(|n| format!("user{:02x}", 256 * n / self.tablets).into_bytes());
        let table = table::create(
            &setting.client,
            &self.table,
            Layout::Cells,
            splits.collect(),
            !self.loaded,
        )
        .await?;
        let clients = self.load.clients.unwrap_or(64);
        let shared = Arc::new(Shared {
            mix: self.mix,
            zipf: Zipf::new(self.records),
            records: AtomicU64::new(self.records),
        });
        let mut loaded = None;
        if !self.loaded {
            loaded = Some(self.write_rows(&table).await?);
        }
        let workers = (0..clients).map(|n| Client {
            table: table.clone(),
            noise: Noise::at(&[self.seed, 0x9c5b, n]),
            shared: shared.clone(),
        });
        let name = "ycsb";
        let pace = self.load.pace(100_000);
        let (mut report, _) = metered(setting, name, KINDS, workers.collect(), pace, options_of(self)).await?;
        if let Some(rows_per_s) = loaded {
            report.figure("load_rows_per_s", round(rows_per_s, 0));
        }
        Ok(report)
    }

    /// Writes all rows and says how many a second.
    async fn write_rows(&self, table: &Table) -> Result<f64> {
        let loaders = 4;
        let bound = |n: u64| self.records * n / loaders;
        let workers = (0..loaders).map(|n| Loader {
            writer: table.writer(WriterOptions::default()),
            next: bound(n),
            end: bound(n + 1),
            seed: self.seed,
        });
        let pace = Pace {
            rate: Rate::Max,
            ops_max: Some(u64::MAX),
            seconds_max: None,
        };
        let measured = drive("ycsb load", &["batch"], workers.collect(), pace).await?;
        let error = measured.first_error.unwrap_or_default();
        ensure!(measured.errors == 0, "the rows could not be written: {error}");
        Ok(measured.rows as f64 / measured.elapsed.as_secs_f64())
    }
}

fn row(record: u64) -> String {
    format!("user{:016x}", Noise::at(&[record]).bits())
}

fn field(n: u64) -> String {
    format!("field{n}")
}

fn bytes(noise: &mut Noise) -> Vec<u8> {
    // Printable, as the benchmark's are.
    let mut bytes = Vec::with_capacity(FIELD_BYTES + 8);
    while bytes.len() < FIELD_BYTES {
        bytes.extend(noise.bits().to_le_bytes().map(|b| b' ' + b % 95));
    }
    bytes.truncate(FIELD_BYTES);
    bytes
}

fn whole_row(record: u64, noise: &mut Noise) -> RowMutation {
    let version = now_micros();
    (0..FIELDS).fold(RowMutation::new(row(record)), |mutation, n| {
        mutation.put(FAMILY, field(n), version, bytes(noise))
    })
}

struct Loader {
    writer: Writer,
    next: u64,
    end: u64,
    seed: u64,
}

impl Worker for Loader {
    fn has_more(&self) -> bool {
        self.next < self.end
    }

    async fn run(&mut self) -> std::result::Result<Done, ClientError> {
        let mut done = Done::default();
        while self.has_more() && done.rows < LOAD_ROWS {
            let mut noise = Noise::at(&[self.seed, self.next]);
            drop(self.writer.write(whole_row(self.next, &mut noise)).await?);
            self.next += 1;
            done.rows += 1;
            done.samples += FIELDS;
        }
        self.writer.flush().await?;
        Ok(done)
    }
}

/// What the clients know together.
struct Shared {
    mix: Mix,
    zipf: Zipf,
    /// Rows that are there, inserts included.
    records: AtomicU64,
}

struct Client {
    table: Table,
    noise: Noise,
    shared: Arc<Shared>,
}

impl Client {
    fn record(&mut self) -> u64 {
        let noise = &mut self.noise;
        match self.shared.mix {
            Mix::D => {
                let newest = self.shared.records.load(Ordering::Relaxed) - 1;
                newest - self.shared.zipf.draw(noise).min(newest)
            }
            _ => self.shared.zipf.draw_scattered(noise),
        }
    }

    async fn read(&mut self) -> std::result::Result<Done, ClientError> {
        let record = self.record();
        let found = self.table.get_filtered(row(record), Filter::new().latest(1)).await?;
        let cells = found.map_or(0, |row| row.cells.len() as u64);
        Ok(Done {
            rows: u64::from(cells > 0),
            samples: cells,
            // A row that was inserted this moment may not be there yet.
            wrong: cells != FIELDS && self.shared.mix != Mix::D,
            ..Done::default()
        })
    }

    async fn update(&mut self) -> std::result::Result<Done, ClientError> {
        let record = self.record();
        let (name, value) = (field(self.noise.below(FIELDS)), bytes(&mut self.noise));
        self.table.put(row(record), FAMILY, name, now_micros(), value).await?;
        Ok(Done {
            rows: 1,
            samples: 1,
            ..Done::default()
        })
    }

    async fn insert(&mut self) -> std::result::Result<Done, ClientError> {
        let record = self.shared.records.fetch_add(1, Ordering::Relaxed);
        self.table.mutate_row(whole_row(record, &mut self.noise)).await?;
        Ok(Done {
            rows: 1,
            samples: FIELDS,
            ..Done::default()
        })
    }

    async fn scan(&mut self) -> std::result::Result<Done, ClientError> {
        let from = RowRange {
            start: row(self.record()).into(),
            end: None,
        };
        let rows = 1 + self.noise.below(SCAN_ROWS_MAX);
        let request = ScanRequest::range(from).filter(Filter::new().latest(1)).limit(rows);
        let mut found = self.table.scan(request);
        let mut done = Done::default();
        while let Some(row) = found.try_next().await? {
            done.rows += 1;
            done.samples += row.cells.len() as u64;
        }
        Ok(done)
    }
}

impl Worker for Client {
    async fn run(&mut self) -> std::result::Result<Done, ClientError> {
        let (rare, percent, other) = self.shared.mix.ops();
        let op = if self.noise.below(100) < percent { rare } else { other };
        let done = match op {
            Op::Read => self.read().await?,
            Op::Update => self.update().await?,
            Op::Insert => self.insert().await?,
            Op::Scan => self.scan().await?,
            Op::ReadModifyWrite => {
                let read = self.read().await?;
                let written = self.update().await?;
                Done {
                    samples: read.samples + written.samples,
                    ..read
                }
            }
        };
        let kind = match op {
            Op::Read => 0,
            Op::Update => 1,
            Op::Insert => 2,
            Op::Scan => 3,
            Op::ReadModifyWrite => 4,
        };
        Ok(Done { kind, ..done })
    }
}
