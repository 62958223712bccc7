//! What clients ask: a few rows, so that they meet; every kind of operation; each recorded with simulated times.

use crate::chance;
use crate::control::{Control, Stage};
use crate::network;
use crate::site::{NODES, REGIONS, Shape, address};
use crate::time;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::time::Duration;
use tidemark_checkers::Recorder;
use tidemark_checkers::history::{
    Action, Cell, Column, Mutation, Octets, Operation, Outcome, Predicate, Seen, SeenRow, Versions,
};
use tidemark_client::{
    Client, ClientError, ClientOptions, Filter, RetryPolicy, Row, RowMutation, Rule, ScanRequest, Table, VersionRange,
};

/// The table that both regions have.
pub const SHARED: &str = "shared";
/// The family of every table.
pub const FAMILY: &str = "m";
/// A family that one region has first; what is written to it waits in quarantine at the other.
pub const LATER_FAMILY: &str = "later";
/// Rows of each table.
const ROWS: u32 = 12;
/// Columns of each row.
const QUALIFIERS: u32 = 3;
/// Part of every value that a client puts.
pub const PRIVATE: &str = "private";
/// Where runs are small, one put of so many carries a large value.
const LARGE_EVERY: u32 = 3;
/// Greatest length of a large value.
const LARGE_BYTES: usize = 900;
/// Clients of each region.
pub const CLIENTS: u64 = 3;

/// The hosts of a region's clients that do a bit of everything.
pub fn clients(region: usize) -> impl Iterator<Item = String> {
    (0..CLIENTS).map(move |number| format!("client-{}-{number}", REGIONS[region]))
}

/// The table that only that region has; its rows are linearizable.
pub fn own_table(region: usize) -> String {
    format!("own-{}", REGIONS[region])
}

/// A client of one region that repeats what may be repeated.
pub async fn connect(who: &str, region: usize, patience: Duration) -> Result<Client, ClientError> {
    let retry = RetryPolicy {
        deadline: Duration::from_secs(5),
        ..RetryPolicy::default()
    };
    connect_with(who, region, patience, retry).await
}

/// A client that tries once. A put that is repeated is a second write with a greater stamp: it may come after what somebody
/// wrote who had seen the first, and no order of the operations explains that (O8).
async fn connect_once(who: &str, region: usize, patience: Duration) -> Result<Client, ClientError> {
    // The pause before a repeat is longer than the time for all attempts together.
    let never = Duration::from_secs(60);
    let retry = RetryPolicy {
        initial: never,
        max: never,
        multiplier: 1.0,
        deadline: Duration::from_secs(2),
    };
    connect_with(who, region, patience, retry).await
}

async fn connect_with(who: &str, region: usize, patience: Duration, retry: RetryPolicy) -> Result<Client, ClientError> {
    let options = ClientOptions::builder()
        .region(REGIONS[region], (1..=NODES).map(|node| address(region, node)))
        .request_timeout(Duration::from_secs(2))
        .first_answer_within(patience)
        .retry(retry)
        .dialer(network::dialer(who))
        .build()?;
    Client::connect(options).await
}

/// One client, from the begin to the end of the workload.
pub async fn run(seed: u64, region: usize, number: u64, control: Control) -> turmoil::Result {
    control.reached(Stage::Begin).await;
    control.join();
    let id = region as u64 * CLIENTS + number;
    let mut worker = Worker::new(seed, region, id, control.clone());
    while control.stage() < Stage::Quiet {
        if !worker.is_connected(&format!("client-{id}")).await {
            continue;
        }
        worker.step().await;
        let pause = worker.rng.random_range(5..80);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    control.leave();
    Ok(())
}

/// A client at work: one operation at a time.
pub(crate) struct Worker {
    rng: ChaCha8Rng,
    region: usize,
    client: u64,
    large_values: bool,
    /// The replicated table, once there is a connection.
    pub(crate) shared: Option<Table>,
    own: Option<Table>,
    /// The same for what is repeated under its token: each must count once (O11).
    own_repeated: Option<Table>,
    recorder: Recorder,
    control: Control,
}

/// An operation on its way.
struct Asked {
    id: u64,
    table: String,
    write: bool,
}

impl Worker {
    /// Not connected yet.
    pub(crate) fn new(seed: u64, region: usize, client: u64, control: Control) -> Worker {
        Worker {
            rng: chance::stream(seed, &format!("client {client}")),
            region,
            client,
            large_values: Shape::of(seed).small_runs,
            shared: None,
            own: None,
            own_repeated: None,
            recorder: control.recorder.clone(),
            control,
        }
    }

    /// Connects where it has not yet; false if that did not succeed: the region may be down, and the next try is as good.
    pub(crate) async fn is_connected(&mut self, who: &str) -> bool {
        if self.shared.is_some() {
            return true;
        }
        let patience = Duration::from_secs(2);
        let once = connect_once(who, self.region, patience).await;
        let (Ok(once), Ok(steady)) = (once, connect(who, self.region, patience).await) else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            return false;
        };
        self.shared = Some(once.table(SHARED));
        self.own = Some(once.table(&own_table(self.region)));
        self.own_repeated = Some(steady.table(&own_table(self.region)));
        true
    }

    async fn step(&mut self) {
        let is_shared = self.rng.random_bool(0.7);
        let table = if is_shared { &self.shared } else { &self.own };
        let (Some(table), Some(repeated)) = (table.clone(), self.own_repeated.clone()) else {
            return;
        };
        let row = format!("r-{:02}", self.rng.random_range(0..ROWS));
        match self.rng.random_range(0..100) {
            0..20 if !is_shared => self.increment(&repeated, &row).await,
            20..30 if !is_shared => self.compare(&repeated, &row).await,
            0..65 => self.put(&table, &row).await,
            65..71 => self.delete_column(&table, &row).await,
            71..74 => self.delete_row(&table, &row).await,
            74..95 => self.read(&table, &row).await,
            _ => self.scan(&table).await,
        }
    }

    fn begin(&self, table: &Table, row: &str, id: u64, write: bool, action: Action) -> Asked {
        let region = REGIONS[self.region];
        let operation = Operation::begun(id, self.client, region, table.name(), row, action, time::nanos());
        self.recorder.begin(operation);
        Asked {
            id,
            table: table.name().to_owned(),
            write,
        }
    }

    fn end<T>(&self, asked: Asked, answer: &Result<T, ClientError>, seen: impl FnOnce(&T) -> Option<Seen>) {
        let (outcome, seen, error) = match answer {
            Ok(answer) => (Outcome::Ok, seen(answer), None),
            Err(error) if error.is_unknown_outcome() => (Outcome::Unknown, None, Some(told(error))),
            Err(error) => (Outcome::Fail, None, Some(told(error))),
        };
        self.control
            .note(self.region, &asked.table, asked.write, outcome == Outcome::Ok);
        let text = format!("{} {outcome:?} {seen:?} {error:?}", asked.id);
        self.control
            .trace
            .event(&format!("client {}", self.client), text.as_bytes());
        self.recorder.end(asked.id, time::nanos(), outcome, seen, error);
    }

    fn qualifier(&mut self) -> String {
        format!("q{}", self.rng.random_range(0..QUALIFIERS))
    }

    /// A value that names its writer.
    fn value(&mut self, id: u64, what: impl std::fmt::Display) -> String {
        let mut value = format!("{id}.{what}.{PRIVATE}");
        if self.large_values && self.rng.random_ratio(1, LARGE_EVERY) {
            let long = self.rng.random_range(0..LARGE_BYTES);
            value.extend(std::iter::repeat_n('.', long));
        }
        value
    }

    /// Puts one cell, always at the same place of a row.
    pub(crate) async fn put_one(&mut self, table: &Table, row: &str) {
        let id = self.recorder.next_id();
        let value = self.value(id, 0);
        let mutations = vec![Mutation::put(FAMILY, "q0", 1, &value)];
        let asked = self.begin(table, row, id, true, Action::Write { mutations });
        let answer = table.put(row, FAMILY, "q0", 1, &value).await;
        self.end(asked, &answer, |_| None);
    }

    async fn put(&mut self, table: &Table, row: &str) {
        let id = self.recorder.next_id();
        let mut mutation = RowMutation::new(row);
        let mut mutations = Vec::new();
        for n in 0..self.rng.random_range(1..=3) {
            let (qualifier, version) = (self.qualifier(), self.rng.random_range(1..=4));
            let value = self.value(id, n);
            mutation = mutation.put(FAMILY, &qualifier, version, &value);
            // The later put of one coordinate replaces the earlier one.
            mutations.retain(|m| !matches!(m, Mutation::Put { qualifier: q, version: v, .. } if *q == Octets::from(&qualifier) && *v == version));
            mutations.push(Mutation::put(FAMILY, &qualifier, version, &value));
        }
        let asked = self.begin(table, row, id, true, Action::Write { mutations });
        let answer = table.mutate_row(mutation).await;
        self.end(asked, &answer, |_| None);
    }

    async fn delete_column(&mut self, table: &Table, row: &str) {
        let id = self.recorder.next_id();
        let qualifier = self.qualifier();
        let mutations = vec![Mutation::DeleteColumn {
            family: FAMILY.into(),
            qualifier: Octets::from(&qualifier),
            versions: Versions::ALL,
        }];
        let asked = self.begin(table, row, id, true, Action::Write { mutations });
        let answer = table
            .mutate_row(RowMutation::new(row).delete_column(FAMILY, &qualifier))
            .await;
        self.end(asked, &answer, |_| None);
    }

    pub(crate) async fn delete_row(&mut self, table: &Table, row: &str) {
        let id = self.recorder.next_id();
        let mutations = vec![Mutation::DeleteRow {
            versions: Versions::ALL,
        }];
        let asked = self.begin(table, row, id, true, Action::Write { mutations });
        let answer = table
            .mutate_row(RowMutation::new(row).delete_row(VersionRange::ALL))
            .await;
        self.end(asked, &answer, |_| None);
    }

    async fn read(&mut self, table: &Table, row: &str) {
        let id = self.recorder.next_id();
        let action = Action::Read {
            latest: None,
            column: None,
        };
        let asked = self.begin(table, row, id, false, action);
        let answer = table.get(row).await;
        self.end(asked, &answer, |row| {
            Some(Seen::Cells(row.as_ref().map_or_else(Vec::new, cells)))
        });
    }

    async fn scan(&mut self, table: &Table) {
        let id = self.recorder.next_id();
        let asked = self.begin(table, "", id, false, Action::Scan { end: None });
        let answer = rows(table).await;
        self.end(asked, &answer, |rows| Some(Seen::Rows(rows.clone())));
    }

    async fn increment(&mut self, table: &Table, row: &str) {
        let id = self.recorder.next_id();
        let by = self.rng.random_range(1..=9);
        let column = Column {
            family: FAMILY.into(),
            qualifier: "count".into(),
        };
        let asked = self.begin(table, row, id, true, Action::Increment { column, by });
        let rule = Rule::Increment {
            family: FAMILY.into(),
            qualifier: "count".into(),
            by,
        };
        let answer = table.read_modify_write(row, vec![rule]).await;
        self.end(asked, &answer, |row| Some(Seen::Cells(cells(row))));
    }

    /// Puts if the row is not empty, else puts something else.
    async fn compare(&mut self, table: &Table, row: &str) {
        let id = self.recorder.next_id();
        let (qualifier, version) = (self.qualifier(), self.rng.random_range(1..=4));
        let mut put = |what: &str| {
            let value = self.value(id, what);
            let mutation = RowMutation::new(row).put(FAMILY, &qualifier, version, &value);
            (mutation, vec![Mutation::put(FAMILY, &qualifier, version, &value)])
        };
        let ((yes, on_match), (no, on_mismatch)) = (put("full"), put("empty"));
        let action = Action::CheckAndMutate {
            predicate: Predicate::Exists,
            on_match,
            on_mismatch,
        };
        let asked = self.begin(table, row, id, true, action);
        let answer = table.check_and_mutate(row, None::<Filter>, yes, no).await;
        self.end(asked, &answer, |matched| Some(Seen::Matched(*matched)));
    }
}

fn told(error: &ClientError) -> String {
    format!("{:?} {} {}", error.kind(), error.reason(), error)
}

fn cells(row: &Row) -> Vec<Cell> {
    let cell = |cell: &tidemark_client::Cell| Cell {
        family: cell.family.to_string(),
        qualifier: Octets::from(&cell.qualifier),
        version: cell.version,
        value: Octets::from(&cell.value),
        stamp: None,
    };
    row.cells.iter().map(cell).collect()
}

/// Everything that a table shows.
pub async fn rows(table: &Table) -> Result<Vec<SeenRow>, ClientError> {
    use futures::TryStreamExt;
    let mut scan = table.scan(ScanRequest::all());
    let mut rows = Vec::new();
    while let Some(row) = scan.try_next().await? {
        rows.push(SeenRow {
            row: Octets::from(&row.key),
            cells: cells(&row),
        });
    }
    Ok(rows)
}
