//! The history of a run: what clients asked and saw, what was done to the servers, on one clock.
//!
//! ```text
//! history  := line*            JSON, one record a line, in any order; docs/formats/history.md shows one of each
//! record   := run | op | fault | watermark | mark | phase
//! time     := nanoseconds of ONE clock for the whole run (simulated, or the machine's monotonic one), from its start
//! ```
//! What a workload must keep, so that the checkers can judge it:
//! - a value is put at most once at a coordinate (put the operation's id into it): a value that is shown names its writer;
//! - `call` is taken before the request leaves, `returned` after the answer has arrived: intervals may be too wide, never
//!   too narrow;
//! - `Fail` means that the server certainly did not and never will apply it; whatever is not certain is `Unknown`;
//! - one attempt is one operation, unless repeating it does no harm (puts with their own versions).
//!
//! Records are written when an operation ends; what is open when the recorder is closed is written as unknown.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::sync::Arc;

/// Nanoseconds of the run's clock.
pub type Nanos = u64;

/// The format that this code writes.
pub const FORMAT: u32 = 1;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// What ran; the first line.
    Run(Run),
    /// A client's operation.
    Op(Operation),
    /// A fault that was planned and what came of it.
    Fault(Fault),
    /// What a region said about a peer's lag.
    Watermark(Watermark),
    /// Something rare that the run wants to have met.
    Mark(Mark),
    /// A phase began.
    Phase(Phase),
}

/// What ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// [`FORMAT`].
    pub format: u32,
    /// Who made it (`simulation`, `nemesis power-loss`).
    pub name: String,
    /// The seed that repeats it.
    pub seed: u64,
    /// Regions by name.
    pub regions: Vec<String>,
    /// Tables.
    pub tables: Vec<Table>,
    /// The command that repeats it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub command: String,
}

/// A table as the run made it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// The regions that have it; more than one: they replicate it with each other.
    pub regions: Vec<String>,
    /// Its families.
    pub families: Vec<Family>,
}

/// A family's settings that decide what is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Family {
    /// Its name.
    pub name: String,
    /// Microseconds after which a cell expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_micros: Option<i64>,
    /// Versions kept of a column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_versions: Option<u32>,
}

/// What a client asked, when, and what came back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Unique in the history.
    pub id: u64,
    /// Who asked; a client has one operation at a time.
    pub client: u64,
    /// The region that was asked.
    pub region: String,
    /// The table.
    pub table: String,
    /// The row; of a scan or range delete the first one.
    pub row: Octets,
    /// What was asked.
    pub action: Action,
    /// Before the request left.
    pub call: Nanos,
    /// After the answer came; absent if none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned: Option<Nanos>,
    /// What became of it.
    pub outcome: Outcome,
    /// What the answer showed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
    /// The write's stamp, if the observer can know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<Stamp>,
    /// The error's kind and reason, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Acknowledged.
    Ok,
    /// Certainly without effect, now and later.
    Fail,
    /// It may take effect at any time after its call, or never.
    Unknown,
}

/// What is asked of one row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Action {
    /// Mutations of the row, in order and atomic.
    Write {
        /// At least one.
        mutations: Vec<Mutation>,
    },
    /// A linearizable read of the row.
    Read {
        /// Only the newest so many versions of each column.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        latest: Option<u32>,
        /// Only that column.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        column: Option<Column>,
    },
    /// One of two writes, by what is there.
    CheckAndMutate {
        /// What is asked of the row.
        predicate: Predicate,
        /// If it holds.
        on_match: Vec<Mutation>,
        /// If not.
        on_mismatch: Vec<Mutation>,
    },
    /// Adds to the newest value of a column, a counter of eight bytes, big endian; the new cell is the column's newest.
    Increment {
        /// The column.
        column: Column,
        /// What is added.
        by: i64,
    },
    /// Appends to the newest value of a column; the new cell is the column's newest.
    Append {
        /// The column.
        column: Column,
        /// What is appended.
        value: Octets,
    },
    /// A scan of `[row, end)`; each row is from one moment, the rows are not.
    Scan {
        /// First row not included; absent = to the end of the table.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        end: Option<Octets>,
    },
    /// Deletes versions of the rows in `[row, end)`; not atomic over rows.
    DeleteRange {
        /// First row not included; absent = to the end of the table.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        end: Option<Octets>,
        /// Which versions.
        #[serde(default)]
        versions: Versions,
    },
}

/// A column of a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Column {
    /// The family's name.
    pub family: String,
    /// The qualifier.
    pub qualifier: Octets,
}

/// One mutation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Mutation {
    /// Puts a cell; with a version of the client's own.
    Put {
        /// The family's name.
        family: String,
        /// The qualifier.
        qualifier: Octets,
        /// Microseconds.
        version: i64,
        /// Unique at its coordinate.
        value: Octets,
    },
    /// Deletes versions of a column.
    DeleteColumn {
        /// The family's name.
        family: String,
        /// The qualifier.
        qualifier: Octets,
        /// Which versions.
        #[serde(default)]
        versions: Versions,
    },
    /// Deletes versions of a family.
    DeleteFamily {
        /// The family's name.
        family: String,
        /// Which versions.
        #[serde(default)]
        versions: Versions,
    },
    /// Deletes versions of the row.
    DeleteRow {
        /// Which versions.
        #[serde(default)]
        versions: Versions,
    },
}

/// A closed range of versions; the default is all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// First.
    pub from: i64,
    /// Last.
    pub to: i64,
}

impl Versions {
    /// All.
    pub const ALL: Versions = Versions {
        from: i64::MIN,
        to: i64::MAX,
    };

    /// True if it is in the range.
    pub fn contains(&self, version: i64) -> bool {
        self.from <= version && version <= self.to
    }
}

impl Default for Versions {
    fn default() -> Self {
        Versions::ALL
    }
}

/// What [`Action::CheckAndMutate`] asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Predicate {
    /// The row shows a cell.
    Exists,
    /// The newest value of a column is that.
    Newest {
        /// The column.
        column: Column,
        /// Its value.
        value: Octets,
    },
}

/// What an answer showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// The cells of a read; of an increment or append the cell as written.
    Cells(Vec<Cell>),
    /// Whether the predicate held.
    Matched(bool),
    /// The rows of a scan.
    Rows(Vec<SeenRow>),
}

/// A row that a scan showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenRow {
    /// The row.
    pub row: Octets,
    /// Its cells.
    pub cells: Vec<Cell>,
}

/// A cell as shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cell {
    /// The family's name.
    pub family: String,
    /// The qualifier.
    pub qualifier: Octets,
    /// Microseconds.
    pub version: i64,
    /// The value.
    pub value: Octets,
    /// Its stamp, if the observer can see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<Stamp>,
}

/// A stamp (R2), compared left to right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// 0 for active-active tables.
    pub epoch: u32,
    /// Milliseconds since 1970 in the upper 48 bits, a count in the lower 16.
    pub hlc: u64,
    /// The region's number.
    pub region: u16,
}

/// A fault: planned, done, and seen to have had an effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// As in the plan.
    pub id: String,
    /// What was done (`kill`, `partition`, `wan-cut`).
    pub kind: String,
    /// To whom (`east/n2`, `east<->west`).
    pub target: String,
    /// When it began.
    pub began: Nanos,
    /// When it ended; absent if it has no end (a kill) or never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Nanos>,
    /// What shows that it had an effect (`17 packets dropped`); absent = nothing did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
}

/// What a region said: everything that `origin` acknowledged more than `lag_ms` before the answer is at `peer`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// The table.
    pub table: String,
    /// Where the writes were made.
    pub origin: String,
    /// Where they must be.
    pub peer: String,
    /// Before it was asked.
    pub call: Nanos,
    /// After it was answered.
    pub returned: Nanos,
    /// The lag that was stated; absent = "unknown".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_ms: Option<u64>,
    /// The smallest `complete` of the table's streams, if the observer can see it: an HLC of the origin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete_hlc: Option<u64>,
}

/// Something rare happened (`snapshot-installed`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Its name.
    pub name: String,
    /// When it was noticed.
    pub at: Nanos,
    /// How often.
    pub count: u64,
}

/// A phase of the run began, or a milestone was reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// Which.
    pub name: PhaseName,
    /// When.
    pub at: Nanos,
}

/// The phases, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseName {
    /// Tables exist, links run, clients begin.
    Begin,
    /// Faults from here on.
    Faults,
    /// All faults are healed from here on.
    Healed,
    /// Clients have stopped writing.
    Quiet,
    /// All regions were seen equal.
    Converged,
    /// The run is over.
    End,
}

/// What a region shows at the end, and what it counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalState {
    /// The region.
    pub region: String,
    /// The moment that decided expiry, microseconds since 1970; the same for all regions.
    pub now_micros: i64,
    /// Its tables, whole.
    pub tables: Vec<TableState>,
    /// Its incoming links.
    #[serde(default)]
    pub links: Vec<LinkCount>,
}

/// A table's visible cells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableState {
    /// The table.
    pub table: String,
    /// Every visible cell by row.
    pub rows: Vec<SeenRow>,
    /// The digest of the content as the servers computed it, in hexadecimal, if asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_hash: Option<String>,
    /// The same with stamps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamps_hash: Option<String>,
}

/// What crossed a directed link, in row mutations, counted when all was quiet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkCount {
    /// The table.
    pub table: String,
    /// Where they were made.
    pub origin: String,
    /// Where they arrived.
    pub peer: String,
    /// Row mutations that entered the origin's feed for this peer, all of its own making.
    pub originated: u64,
    /// Row mutations that the peer applied from this origin, repeats not counted.
    pub applied: u64,
    /// Row mutations of another origin that came over this link: a loop.
    #[serde(default)]
    pub foreign: u64,
}

/// What a node logged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeLog {
    /// Which node (`east/n2`).
    pub node: String,
    /// Its lines.
    pub text: String,
}

/// Bytes that are mostly text: printable ASCII stands for itself, all else and `%` as `%` and two hexadecimal digits.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Octets(pub Vec<u8>);

impl Octets {
    /// The readable form.
    pub fn text(&self) -> String {
        let mut out = String::with_capacity(self.0.len());
        for byte in &self.0 {
            match byte {
                b'%' => out.push_str("%25"),
                0x20..=0x7e => out.push(char::from(*byte)),
                _ => out.push_str(&format!("%{byte:02x}")),
            }
        }
        out
    }

    /// The inverse of [`Octets::text`].
    pub fn parse(text: &str) -> Result<Octets, String> {
        let mut out = Vec::with_capacity(text.len());
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            if byte != b'%' {
                out.push(byte);
                continue;
            }
            let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
            match (digit(bytes.next()), digit(bytes.next())) {
                (Some(high), Some(low)) => out.push((high * 16 + low) as u8),
                _ => return Err("`%` without two hexadecimal digits".to_owned()),
            }
        }
        Ok(Octets(out))
    }
}

impl fmt::Debug for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text())
    }
}

impl fmt::Display for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl<T: AsRef<[u8]>> From<T> for Octets {
    fn from(bytes: T) -> Octets {
        Octets(bytes.as_ref().to_vec())
    }
}

impl Serialize for Octets {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Octets, D::Error> {
        let text = String::deserialize(deserializer)?;
        Octets::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl Mutation {
    /// A put.
    pub fn put(family: &str, qualifier: impl AsRef<[u8]>, version: i64, value: impl AsRef<[u8]>) -> Mutation {
        Mutation::Put {
            family: family.to_owned(),
            qualifier: qualifier.into(),
            version,
            value: value.into(),
        }
    }
}

/// Writes a history. Cheap to clone; all clones write to one place.
///
/// The caller gives the times, so that a simulation's are simulated.
#[derive(Clone)]
pub struct Recorder {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    sink: Box<dyn Write + Send>,
    next_id: u64,
    open: BTreeMap<u64, Operation>,
    failed: Option<String>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recorder({} open)", self.inner.lock().open.len())
    }
}

impl Recorder {
    /// Writes to a file, a buffer, a pipe.
    pub fn new(sink: impl Write + Send + 'static) -> Recorder {
        Recorder {
            inner: Arc::new(Mutex::new(Inner {
                sink: Box::new(sink),
                next_id: 1,
                open: BTreeMap::new(),
                failed: None,
            })),
        }
    }

    /// A number for the next operation, so that its values can carry it.
    pub fn next_id(&self) -> u64 {
        let mut inner = self.inner.lock();
        inner.next_id += 1;
        inner.next_id - 1
    }

    /// Notes that an operation is about to be sent. It is written when [`Recorder::end`] is called, or as unknown when the
    /// recorder closes.
    pub fn begin(&self, operation: Operation) {
        self.inner.lock().open.insert(operation.id, operation);
    }

    /// Notes an operation's end. One that is not open is ignored: it was closed as unknown before its answer came.
    pub fn end(&self, id: u64, returned: Nanos, outcome: Outcome, seen: Option<Seen>, error: Option<String>) {
        let mut inner = self.inner.lock();
        let Some(mut operation) = inner.open.remove(&id) else {
            return;
        };
        operation.returned = Some(returned);
        operation.outcome = outcome;
        operation.seen = seen;
        operation.error = error;
        inner.write(&Record::Op(operation));
    }

    /// Writes any other record, or a whole operation.
    pub fn write(&self, record: &Record) {
        self.inner.lock().write(record);
    }

    /// Writes what is open as unknown and says whether everything could be written.
    pub fn close(&self) -> Result<(), String> {
        let mut inner = self.inner.lock();
        for (_, mut operation) in std::mem::take(&mut inner.open) {
            operation.outcome = Outcome::Unknown;
            operation.returned = None;
            inner.write(&Record::Op(operation));
        }
        if let Err(error) = inner.sink.flush() {
            inner.failed.get_or_insert(error.to_string());
        }
        inner.failed.clone().map_or(Ok(()), Err)
    }
}

impl Inner {
    /// A failed write is remembered, not raised: a history that is not whole must fail the run at its end, not break
    /// clients in its middle.
    fn write(&mut self, record: &Record) {
        let line = serde_json::to_string(record).map_err(|e| e.to_string());
        let written = line.and_then(|line| writeln!(self.sink, "{line}").map_err(|e| e.to_string()));
        if let Err(error) = written {
            self.failed.get_or_insert(error);
        }
    }
}

impl Operation {
    /// An operation that has not ended.
    pub fn begun(
        id: u64,
        client: u64,
        region: &str,
        table: &str,
        row: impl AsRef<[u8]>,
        action: Action,
        call: Nanos,
    ) -> Operation {
        Operation {
            id,
            client,
            region: region.to_owned(),
            table: table.to_owned(),
            row: row.into(),
            action,
            call,
            returned: None,
            outcome: Outcome::Unknown,
            seen: None,
            stamp: None,
            error: None,
        }
    }

    /// When it must have taken effect, if it did: its return, or never-ending for one without an answer.
    pub fn end(&self) -> Nanos {
        match self.outcome {
            Outcome::Unknown => Nanos::MAX,
            _ => self.returned.unwrap_or(Nanos::MAX),
        }
    }

    /// True if it may have changed something.
    pub fn may_write(&self) -> bool {
        self.outcome != Outcome::Fail && !matches!(self.action, Action::Read { .. } | Action::Scan { .. })
    }
}
