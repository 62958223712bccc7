//! What clients do while faults happen, and what they saw.
//!
//! ```text
//! in each region             table      what it is for
//!   registers, counters      registers  linearizability: rows of one region; one attempt is one operation
//!   fleet                    telemetry  every acknowledged cell in both regions, whole rows (O6, O12)
//!   rivals                   telemetry  both regions write one coordinate: convergence, causality (O5, O8)
//!   readers                  telemetry  what the other region wrote, as it arrives (O7, O12)
//!   watermarks                          what each region says of its lag (O7, O14)
//!   probes                   pulse      the time without service; not judged, not replicated
//! across regions
//!   roamers                  telemetry  clients that may go to the other region
//! ```
//! Everything but the probes is written down in the history. Loads are modest: two cores carry six servers.

mod fleet;
mod pace;
mod probes;
mod registers;
mod rivals;
mod roamers;
mod watermarks;

use crate::plan::REGIONS;
use anyhow::{Context, Result};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidemark_checkers::Recorder;
use tidemark_checkers::history::{Action, Cell, Mutation, Nanos, Operation, Outcome, Seen};
use tidemark_client::{Client, ClientError, ClientOptions, ErrorKind, RetryPolicy, Row};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Replicated; its rows belong to one region each.
pub const REGISTERS: &str = "registers";
/// Replicated; everything else that is judged.
pub const TELEMETRY: &str = "telemetry";
/// Local to each region, for the probes.
pub const PULSE: &str = "pulse";
/// The family of all tables.
pub const FAMILY: &str = "m";
/// First row of the second tablet of [`TELEMETRY`].
pub const TELEMETRY_SPLIT: &str = "n";
/// First rows of the later tablets of [`PULSE`].
pub const PULSE_SPLITS: [&str; 2] = ["pulse-1", "pulse-2"];

/// Clients have ended within this after they were told to: longer than their own deadlines.
const END_MAX: Duration = Duration::from_secs(45);

/// What all clients share and faults look at.
#[derive(Debug)]
pub struct Shared {
    started: Instant,
    recorder: Recorder,
    seen: Mutex<SeenByClients>,
}

#[derive(Debug, Default)]
struct SeenByClients {
    /// Acknowledged writes, by region.
    acknowledged: [u64; 2],
    /// Ended operations, and those that succeeded.
    ended: u64,
    succeeded: u64,
    /// Failures by error kind.
    refusals: BTreeMap<&'static str, u64>,
    /// An example of each kind and reason.
    examples: BTreeMap<String, String>,
    /// When each prober was answered, by region and tablet.
    pulses: BTreeMap<(usize, usize), Vec<Nanos>>,
    /// When a roamer that prefers the first region was answered by the second.
    roams: Vec<(Nanos, usize, usize)>,
    /// What was said about lag, and when.
    lags: Vec<(Nanos, Option<u64>)>,
}

/// How clients behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// One attempt is one operation.
    Once,
    /// Repeats what may be repeated.
    Steady,
}

impl Shared {
    /// Nothing done yet; the run's clock starts now.
    pub fn new(recorder: Recorder) -> Shared {
        Shared {
            started: Instant::now(),
            recorder,
            seen: Mutex::default(),
        }
    }

    /// Nanoseconds of the run's clock.
    pub fn now(&self) -> Nanos {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The history.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Writes that a region acknowledged.
    pub fn acknowledged_by(&self, region: usize) -> u64 {
        self.seen.lock().acknowledged[region]
    }

    /// Operations that ended, and those of them that succeeded.
    pub fn totals(&self) -> (u64, u64) {
        let seen = self.seen.lock();
        (seen.ended, seen.succeeded)
    }

    /// Failures of that kind.
    pub fn refusals(&self, kind: &str) -> u64 {
        self.seen.lock().refusals.get(kind).copied().unwrap_or(0)
    }

    /// All failures by kind.
    pub fn all_refusals(&self) -> BTreeMap<String, u64> {
        let seen = self.seen.lock();
        seen.refusals.iter().map(|(kind, n)| ((*kind).to_owned(), *n)).collect()
    }

    /// One example of each kind of failure.
    pub fn examples(&self) -> BTreeMap<String, String> {
        self.seen.lock().examples.clone()
    }

    /// The longest time within `from..to` in which some tablet of a region's probes was not answered.
    pub fn longest_gap(&self, region: usize, from: Nanos, to: Nanos) -> Duration {
        let seen = self.seen.lock();
        let of_region = seen.pulses.iter().filter(|((r, _), _)| *r == region);
        let gaps = of_region.map(|(_, pulses)| gap(pulses, from, to));
        Duration::from_nanos(gaps.max().unwrap_or(0))
    }

    /// True if the probes of all tablets of a region were answered after that moment.
    pub fn answered_since(&self, region: usize, since: Nanos) -> bool {
        let seen = self.seen.lock();
        let last = |tablet| seen.pulses.get(&(region, tablet)).and_then(|pulses| pulses.last());
        (0..=PULSE_SPLITS.len()).all(|tablet| last(tablet).is_some_and(|at| *at > since))
    }

    /// How long after `from` the client that prefers the other region was answered by `region`; `None` until it was.
    pub fn roamed_to(&self, region: usize, from: Nanos) -> Option<Duration> {
        let seen = self.seen.lock();
        let first = seen
            .roams
            .iter()
            .find(|(at, home, by)| *at > from && *by == region && *home != region)?;
        Some(Duration::from_nanos(first.0 - from))
    }

    /// The greatest lag stated since then by any region; `None` if one said that it does not know.
    pub fn lag_max_ms(&self, from: Nanos) -> Option<u64> {
        let seen = self.seen.lock();
        let since = seen.lags.iter().filter(|(at, _)| *at >= from);
        since.map(|(_, lag)| *lag).try_fold(0, |most, lag| Some(most.max(lag?)))
    }

    fn note_pulse(&self, region: usize, tablet: usize) {
        let now = self.now();
        self.seen.lock().pulses.entry((region, tablet)).or_default().push(now);
    }

    fn note_error(&self, error: &ClientError) {
        let mut seen = self.seen.lock();
        *seen.refusals.entry(error.kind().name()).or_default() += 1;
        let key = format!("{} {}", error.kind().name(), error.reason());
        seen.examples.entry(key).or_insert_with(|| error.to_string());
    }

    /// One recorded operation of a client: begun before `ask` runs, ended after it.
    pub(crate) async fn operate<T, F>(
        &self,
        who: &Who,
        row: &[u8],
        id: u64,
        action: Action,
        ask: F,
        seen: impl FnOnce(&T) -> Option<Seen>,
    ) -> Option<T>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let reads = matches!(action, Action::Read { .. } | Action::Scan { .. });
        let region = REGIONS[who.region];
        self.recorder.begin(Operation::begun(
            id,
            who.client,
            region,
            who.table,
            row,
            action,
            self.now(),
        ));
        let answer = ask.await;
        let returned = self.now();
        match answer {
            Ok(answer) => {
                self.recorder.end(id, returned, Outcome::Ok, seen(&answer), None);
                let mut counts = self.seen.lock();
                counts.ended += 1;
                counts.succeeded += 1;
                counts.acknowledged[who.region] += u64::from(!reads);
                Some(answer)
            }
            Err(error) => {
                self.note_error(&error);
                let outcome = if reads { Outcome::Fail } else { outcome_of(&error) };
                self.recorder.end(id, returned, outcome, None, Some(words(&error)));
                self.seen.lock().ended += 1;
                None
            }
        }
    }
}

/// Who asks where.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub(crate) client: u64,
    pub(crate) region: usize,
    pub(crate) table: &'static str,
}

/// What a failed write leaves behind: only where the client is certain that nothing happened is it a failure.
pub(crate) fn outcome_of(error: &ClientError) -> Outcome {
    match error.kind() {
        ErrorKind::UnknownOutcome | ErrorKind::DeadlineExceeded | ErrorKind::Internal | ErrorKind::Corruption => {
            Outcome::Unknown
        }
        _ => Outcome::Fail,
    }
}

pub(crate) fn words(error: &ClientError) -> String {
    format!("{} {}", error.kind().name(), error.reason())
}

/// The cells of a row as the history has them.
pub(crate) fn cells(row: &Row) -> Vec<Cell> {
    let cell = |c: &tidemark_client::Cell| Cell {
        family: c.family.to_string(),
        qualifier: (&c.qualifier).into(),
        version: c.version,
        value: (&c.value).into(),
        stamp: None,
    };
    row.cells.iter().map(cell).collect()
}

/// What a read of one row showed.
pub(crate) fn shown(row: &Option<Row>) -> Option<Seen> {
    Some(Seen::Cells(row.as_ref().map(cells).unwrap_or_default()))
}

/// A put of the history and of the client in one.
pub(crate) fn put(qualifier: &str, version: i64, value: &str) -> Mutation {
    Mutation::put(FAMILY, qualifier, version, value)
}

/// A client of one region.
pub(crate) async fn connect(region: usize, addresses: &[String], patience: Patience) -> Result<Client> {
    let builder = ClientOptions::builder()
        .region(REGIONS[region], addresses.to_vec())
        .connect_timeout(Duration::from_millis(500))
        .request_timeout(Duration::from_millis(1_500));
    let retry = match patience {
        // The pause before a repeat is longer than the time for all attempts together: there is no second one.
        Patience::Once => RetryPolicy {
            initial: Duration::from_secs(60),
            max: Duration::from_secs(60),
            multiplier: 1.0,
            deadline: Duration::from_secs(2),
        },
        Patience::Steady => RetryPolicy {
            max: Duration::from_millis(100),
            deadline: Duration::from_secs(25),
            ..RetryPolicy::default()
        },
    };
    let options = builder
        .first_answer_within(Duration::from_secs(30))
        .retry(retry)
        .build()?;
    Client::connect(options)
        .await
        .with_context(|| format!("no client of {}", REGIONS[region]))
}

/// The running load.
#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    listening: Vec<JoinHandle<()>>,
}

impl Load {
    /// Connects all clients and starts them. `pulse` is the time between two probes of a tablet.
    pub async fn start(shared: &Arc<Shared>, addresses: &[Vec<String>], seed: u64, pulse: Duration) -> Result<Load> {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Vec::new();
        let mut listening = Vec::new();
        let mut clients = 1..;
        let mut number = || clients.next().expect("numbers do not run out");
        for (region, of_region) in addresses.iter().enumerate() {
            let once = connect(region, of_region, Patience::Once).await?;
            let steady = connect(region, of_region, Patience::Steady).await?;
            let pace = |client: u64, every_ms| pace::Pace::new(seed, client, every_ms, stopped.clone());
            for _ in 0..2 {
                let client = number();
                tasks.push(tokio::spawn(registers::registers(
                    shared.clone(),
                    once.clone(),
                    region,
                    pace(client, 40),
                )));
            }
            let client = number();
            tasks.push(tokio::spawn(registers::counters(
                shared.clone(),
                steady.clone(),
                region,
                pace(client, 80),
            )));
            let writer = steady
                .table(TELEMETRY)
                .writer(tidemark_client::WriterOptions::default());
            for _ in 0..2 {
                let client = number();
                tasks.push(tokio::spawn(fleet::write(
                    shared.clone(),
                    writer.clone(),
                    region,
                    pace(client, 60),
                )));
            }
            let client = number();
            tasks.push(tokio::spawn(fleet::read(
                shared.clone(),
                steady.clone(),
                region,
                pace(client, 150),
            )));
            for _ in 0..2 {
                let client = number();
                tasks.push(tokio::spawn(rivals::write(
                    shared.clone(),
                    once.clone(),
                    region,
                    pace(client, 70),
                )));
            }
            let client = number();
            tasks.push(tokio::spawn(rivals::scan(
                shared.clone(),
                steady.clone(),
                region,
                pace(client, 400),
            )));
            for tablet in 0..=PULSE_SPLITS.len() {
                let beat = pace::Pace::new(seed, 0, pulse.as_millis() as u64, stopped.clone());
                tasks.push(tokio::spawn(probes::probe(
                    shared.clone(),
                    steady.clone(),
                    region,
                    tablet,
                    beat,
                )));
            }
            let roamer = roamers::connect(region, addresses).await?;
            let client = number();
            tasks.push(tokio::spawn(roamers::write(
                shared.clone(),
                roamer,
                region,
                pace(client, 40),
            )));
            listening.push(tokio::spawn(watermarks::listen(shared.clone(), once.clone(), region)));
        }
        Ok(Load { stop, tasks, listening })
    }

    /// Ends the clients and waits until each has its last answer; watermarks are still listened to.
    pub async fn quiet(&mut self) -> Result<()> {
        self.stop.send_replace(true);
        for task in self.tasks.drain(..) {
            tokio::time::timeout(END_MAX, task)
                .await
                .context("a client did not end")??;
        }
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.tasks.iter().chain(&self.listening).for_each(JoinHandle::abort);
    }
}

/// The longest time between two answers that overlaps `from..to`, silence before `to` included.
fn gap(pulses: &[Nanos], from: Nanos, to: Nanos) -> Nanos {
    let first = pulses.partition_point(|at| *at < from).saturating_sub(1);
    let mut longest = 0;
    let mut last = pulses.get(first).map_or(from, |at| (*at).min(to));
    for at in pulses.iter().skip(first).take_while(|at| **at <= to) {
        longest = longest.max(at.saturating_sub(last));
        last = *at;
    }
    longest.max(to.saturating_sub(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_spans_the_fault_and_silence_counts() {
        let pulses = [10, 20, 95, 100];
        assert_eq!(gap(&pulses, 25, 99), 75);
        assert_eq!(gap(&pulses, 15, 18), 8);
        assert_eq!(gap(&pulses, 96, 500), 400);
        assert_eq!(gap(&[], 5, 50), 45);
    }

    #[test]
    fn a_region_has_answered_when_each_of_its_tablets_has() {
        let shared = Shared::new(Recorder::new(Vec::new()));
        let tablets = 0..=PULSE_SPLITS.len();
        let answer = |region, tablet, at| {
            let mut seen = shared.seen.lock();
            seen.pulses.entry((region, tablet)).or_default().push(at);
        };
        assert!(!shared.answered_since(0, 5));
        tablets.clone().for_each(|tablet| answer(0, tablet, 5 + tablet as u64));
        assert!(!shared.answered_since(0, 5), "the first tablet is silent");
        answer(0, 0, 9);
        assert!(shared.answered_since(0, 5) && !shared.answered_since(1, 5));
    }

    #[test]
    fn an_unknown_lag_is_not_a_small_one() {
        let shared = Shared::new(Recorder::new(Vec::new()));
        shared
            .seen
            .lock()
            .lags
            .extend([(1, Some(900)), (5, Some(3)), (9, Some(7))]);
        assert_eq!(shared.lag_max_ms(2), Some(7));
        shared.seen.lock().lags.push((10, None));
        assert_eq!(shared.lag_max_ms(2), None);
    }
}
