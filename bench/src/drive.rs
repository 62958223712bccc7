//! Runs the workers of a workload by a schedule and counts what came of it.
//!
//! ```text
//! pacer ── permit for op n, when due ──▶ first worker that is free ── run ──▶ latency since n was due
//!            (no pacer with `--rate max`: a worker takes its next op at once, latency since then)
//! ```
//! Every run ends: after its ops, after its time, or when no worker has anything left. An op that is due and finds no
//! worker waits, and its latency with it. If the backlog is not worked off [`GRACE`] after the time, the rest is never
//! sent, and is counted: without them the quantiles look better than the cluster was.

use crate::latency::Latencies;
use crate::schedule::{Pacer, Rate, Schedule};
use anyhow::{Result, bail};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidemark_client::ClientError;

/// How long ops that are due may be sent after the end.
const GRACE: Duration = Duration::from_secs(10);
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(2);
/// A run that has done nothing but fail so often ends: there is nothing to be measured.
const FAILURES_AT_FIRST_MAX: u64 = 100;

/// What an op has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Which kind of op it was, by its index in the names given to [`drive`].
    pub kind: usize,
    /// Rows written or returned.
    pub rows: u64,
    /// Cells written or returned.
    pub samples: u64,
    /// It was answered, but not with what must be there.
    pub wrong: bool,
}

/// One client: it does one op after the other.
pub trait Worker: Send + 'static {
    /// False when it has nothing left to do.
    fn has_more(&self) -> bool {
        true
    }

    /// Does the next op.
    fn run(&mut self) -> impl Future<Output = std::result::Result<Done, ClientError>> + Send;
}

/// How fast and how long.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Ops a second.
    pub rate: Rate,
    /// At most so many ops.
    pub ops_max: Option<u64>,
    /// At most so long.
    pub seconds_max: Option<f64>,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// From the first op's due time to the last answer.
    pub elapsed: Duration,
    /// Answered ops, with their latencies, by kind; kinds that did not occur are left out.
    pub kinds: Vec<(&'static str, Latencies)>,
    /// Rows written or returned.
    pub rows: u64,
    /// Cells written or returned.
    pub samples: u64,
    /// Ops that ended with an error.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
    /// Ops that were answered wrongly.
    pub wrong: u64,
    /// Ops that were due and never sent.
    pub unsent: u64,
}

impl Measured {
    /// All kinds together.
    pub fn all(&self) -> Latencies {
        let mut all = Latencies::default();
        self.kinds.iter().for_each(|(_, latencies)| all.merge(latencies));
        all
    }
}

/// What the workers of a run share.
struct Run {
    started: Instant,
    schedule: Option<Schedule>,
    next: AtomicU64,
    ops_max: u64,
    end: Option<Instant>,
    done: AtomicU64,
    samples: AtomicU64,
    errors: AtomicU64,
    over: AtomicBool,
}

/// What one worker counted.
#[derive(Default)]
struct Tally {
    kinds: Vec<Latencies>,
    rows: u64,
    samples: u64,
    errors: u64,
    first_error: Option<ClientError>,
    wrong: u64,
}

/// Runs workers, one task each. `name` stands in the lines of progress; `kinds` are the names of the kinds of ops.
pub async fn drive<W: Worker>(
    name: &'static str,
    kinds: &'static [&'static str],
    workers: Vec<W>,
    pace: Pace,
) -> Result<Measured> {
    let started = Instant::now();
    let ops_max = ops_of(pace)?;
    let (mut schedule, mut pacer) = (None, None);
    if let Rate::PerSecond(rate) = pace.rate {
        let even = Schedule::new(started, rate);
        schedule = Some(even);
        pacer = Some(Pacer::start(even, ops_max)?);
    }
    let grace = if schedule.is_some() { GRACE } else { Duration::ZERO };
    let run = Arc::new(Run {
        started,
        schedule,
        next: AtomicU64::new(0),
        ops_max,
        end: pace.seconds_max.map(|s| started + Duration::from_secs_f64(s) + grace),
        done: AtomicU64::new(0),
        samples: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        over: AtomicBool::new(false),
    });
    let permits = pacer.as_ref().map(|pacer| pacer.permits.clone());
    let tasks: Vec<_> = workers
        .into_iter()
        .map(|worker| tokio::spawn(work(run.clone(), worker, kinds.len(), permits.clone())))
        .collect();
    let progress = tokio::spawn(tell(run.clone(), name));
    let mut tallies = Vec::new();
    for task in tasks {
        tallies.push(task.await?);
    }
    run.over.store(true, Ordering::Relaxed);
    progress.abort();
    let mut measured = sum(kinds, tallies);
    measured.elapsed = started.elapsed();
    if schedule.is_some() {
        // With a rate the number of ops is known; a load that has an end of its own stops asking before.
        let due = schedule.map_or(0, |s| s.due_by(Instant::now())).min(ops_max);
        let sent = run.next.load(Ordering::Relaxed).min(ops_max);
        measured.unsent = if run.has_ended() { due - sent.min(due) } else { 0 };
    }
    Ok(measured)
}

/// How many ops there are at most: with a rate the time gives a number too.
fn ops_of(pace: Pace) -> Result<u64> {
    let by_time = match (pace.rate, pace.seconds_max) {
        (Rate::PerSecond(rate), Some(seconds)) => Some(((rate * seconds).ceil() as u64).max(1)),
        _ => None,
    };
    match (pace.ops_max, by_time) {
        (Some(ops), Some(by_time)) => Ok(ops.min(by_time)),
        (Some(ops), None) | (None, Some(ops)) => Ok(ops),
        (None, None) if pace.seconds_max.is_some() => Ok(u64::MAX),
        (None, None) => bail!("a run needs an end: a number of ops, or a time"),
    }
}

impl Run {
    fn has_ended(&self) -> bool {
        self.over.load(Ordering::Relaxed) || self.end.is_some_and(|end| Instant::now() >= end)
    }

    /// The next op's due time, when it is due; `None` if there is none.
    async fn turn(&self, permits: Option<&tokio::sync::Semaphore>) -> Option<Instant> {
        if let Some(permits) = permits {
            // All permits may be spent: then nobody gives another, and this wakes by the end of the run.
            let left = self.next.load(Ordering::Relaxed) < self.ops_max;
            let waiting = permits.acquire();
            let permit = match self.end {
                _ if !left => return None,
                Some(end) => tokio::time::timeout_at(end.into(), waiting).await.ok()?,
                None => waiting.await,
            };
            permit.ok()?.forget();
        }
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        if n + 1 >= self.ops_max {
            // Nobody has a turn after this one: let those go that wait for it.
            if let Some(permits) = permits {
                permits.close();
            }
        }
        if n >= self.ops_max || self.has_ended() {
            return None;
        }
        Some(self.schedule.map_or_else(Instant::now, |schedule| schedule.due_at(n)))
    }
}

async fn work<W: Worker>(
    run: Arc<Run>,
    mut worker: W,
    kinds: usize,
    permits: Option<Arc<tokio::sync::Semaphore>>,
) -> Tally {
    let mut tally = Tally {
        kinds: vec![Latencies::default(); kinds],
        ..Tally::default()
    };
    while worker.has_more() && !run.has_ended() {
        let Some(due) = run.turn(permits.as_deref()).await else {
            break;
        };
        match worker.run().await {
            Ok(done) => {
                tally.kinds[done.kind].record(due.elapsed());
                tally.rows += done.rows;
                tally.samples += done.samples;
                tally.wrong += u64::from(done.wrong);
                run.done.fetch_add(1, Ordering::Relaxed);
                run.samples.fetch_add(done.samples, Ordering::Relaxed);
            }
            Err(error) => {
                tally.errors += 1;
                tally.first_error.get_or_insert(error);
                let failed = run.errors.fetch_add(1, Ordering::Relaxed) + 1;
                if failed >= FAILURES_AT_FIRST_MAX && run.done.load(Ordering::Relaxed) == 0 {
                    run.over.store(true, Ordering::Relaxed);
                }
            }
        }
    }
    tally
}

fn sum(kinds: &[&'static str], tallies: Vec<Tally>) -> Measured {
    let mut measured = Measured::default();
    let mut latencies = vec![Latencies::default(); kinds.len()];
    for tally in tallies {
        for (all, one) in latencies.iter_mut().zip(&tally.kinds) {
            all.merge(one);
        }
        measured.rows += tally.rows;
        measured.samples += tally.samples;
        measured.errors += tally.errors;
        measured.wrong += tally.wrong;
        if measured.first_error.is_none() {
            measured.first_error = tally.first_error.map(|error| error.to_string());
        }
    }
    let named = kinds.iter().copied().zip(latencies);
    measured.kinds = named.filter(|(_, latencies)| latencies.count() > 0).collect();
    measured
}

/// Lines of progress, until the task is ended.
async fn tell(run: Arc<Run>, name: &'static str) {
    let mut before = (Instant::now(), 0, 0);
    loop {
        tokio::time::sleep(PROGRESS).await;
        let now = Instant::now();
        let (done, samples) = (run.done.load(Ordering::Relaxed), run.samples.load(Ordering::Relaxed));
        let seconds = (now - before.0).as_secs_f64();
        eprintln!(
            "{name}: {:>5.0} s  {:>9.0} ops/s  {:>11.0} samples/s  {} errors",
            run.started.elapsed().as_secs_f64(),
            (done - before.1) as f64 / seconds,
            (samples - before.2) as f64 / seconds,
            run.errors.load(Ordering::Relaxed)
        );
        before = (now, done, samples);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each op takes a moment, and one of them much longer.
    struct Stalls {
        op: u64,
        stall_at: u64,
        stall: Duration,
        left: u64,
    }

    impl Worker for Stalls {
        fn has_more(&self) -> bool {
            self.left > 0
        }

        async fn run(&mut self) -> std::result::Result<Done, ClientError> {
            self.op += 1;
            self.left -= 1;
            if self.op == self.stall_at {
                tokio::time::sleep(self.stall).await;
            }
            Ok(Done {
                rows: 1,
                samples: 10,
                ..Done::default()
            })
        }
    }

    fn stalls(left: u64) -> Stalls {
        Stalls {
            op: 0,
            stall_at: 50,
            stall: Duration::from_millis(400),
            left,
        }
    }

    fn pace(rate: Rate, ops: u64) -> Pace {
        Pace {
            rate,
            ops_max: Some(ops),
            seconds_max: None,
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ops_behind_a_stall_are_seen_to_wait() {
        // At 500 a second some 200 ops become due during the stall: with coordinated omission only one would be slow.
        let open = drive(
            "open",
            &["op"],
            vec![stalls(u64::MAX)],
            pace(Rate::PerSecond(500.0), 500),
        );
        let open = open.await.unwrap();
        let closed = drive("closed", &["op"], vec![stalls(u64::MAX)], pace(Rate::Max, 500));
        let closed = closed.await.unwrap();
        assert_eq!((open.all().count(), closed.all().count()), (500, 500));
        assert!(open.all().summary().p90 > 200.0, "{:?}", open.all().summary());
        assert!(closed.all().summary().p90 < 200.0, "{:?}", closed.all().summary());
        assert!(closed.all().summary().max >= 400.0);
        assert_eq!((open.samples, open.rows, open.unsent), (5_000, 500, 0));
    }

    #[tokio::test]
    async fn a_run_ends_with_its_workers_and_with_its_time() {
        let done = drive("few", &["op"], vec![stalls(20), stalls(10)], pace(Rate::Max, u64::MAX));
        assert_eq!(done.await.unwrap().all().count(), 30);
        let timed = Pace {
            rate: Rate::PerSecond(200.0),
            ops_max: None,
            seconds_max: Some(0.3),
        };
        let done = drive("timed", &["op"], vec![stalls(u64::MAX)], timed).await.unwrap();
        assert_eq!(done.all().count(), 60);
        let endless = Pace {
            seconds_max: None,
            ..timed
        };
        assert!(drive("endless", &["op"], vec![stalls(1)], endless).await.is_err());
    }
}
