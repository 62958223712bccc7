//! The writer's decisions as lists of events.

use super::core::{Batch, Core, Pending, Settled};
use super::{WriterOptions, Written};
use crate::error::{ClientError, Failure, Reach, Result};
use crate::mutation::RowMutation;
use crate::options::RetryPolicy;
use crate::routing::RoutingView;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::ErrorKind;
use tidemark_proto::v1;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A core, a clock that only the test moves, and the callers' ends.
struct World {
    core: Core,
    start: Instant,
    now_ms: u64,
    tickets: Vec<oneshot::Receiver<Result<Written>>>,
}

fn view(region: usize, generation: u64, starts: &[&str]) -> Arc<RoutingView> {
    let tablet = |at: usize| v1::TabletRoute {
        tablet: at as u64 + 2,
        range: Some(v1::RowRange {
            start: starts[at].to_owned().into(),
            end: starts.get(at + 1).map(|end| (*end).to_owned().into()),
        }),
        ..v1::TabletRoute::default()
    };
    let wire = v1::Routing {
        tablets: (0..starts.len()).map(tablet).collect(),
        ..v1::Routing::default()
    };
    Arc::new(RoutingView::new(region, generation, wire))
}

fn failure(reach: Reach, kind: ErrorKind) -> Failure {
    Failure {
        error: ClientError::new(kind, "X", "x"),
        reach,
        leader: None,
    }
}

impl World {
    /// Batches of at most three rows, two of a tablet under way, and tablets cut at `m`.
    fn new() -> World {
        let options = WriterOptions {
            batch_rows: 3,
            linger: Duration::from_millis(5),
            in_flight_max: 2,
            ..WriterOptions::default()
        };
        let start = Instant::now();
        let mut core = Core::new(options, RetryPolicy::default(), 0);
        core.set_view(view(0, 1, &["", "m"]), start);
        World {
            core,
            start,
            now_ms: 0,
            tickets: Vec::new(),
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.now_ms)
    }

    /// Each word is a row and a value: `a1`.
    fn write(&mut self, words: &str) {
        for word in words.split_whitespace() {
            let (row, value) = word.split_at(1);
            let (done, ticket) = oneshot::channel();
            let deadline = self.now() + Duration::from_secs(30);
            let put = RowMutation::new(row).put("m", "q", 7, value);
            let now = self.now();
            self.core.push(Pending::new(put, done, None, deadline), now);
            self.tickets.push(ticket);
        }
    }

    fn poll_at(&mut self, ms: u64) -> Vec<Batch> {
        self.now_ms = ms;
        let now = self.now();
        self.core.poll(now)
    }

    /// Settles a batch with one outcome a row: `+` written, `?` lost, `~` busy, `-` refused.
    fn settle(&mut self, batch: Batch, outcomes: &str) {
        let outcome = |c: char| match c {
            '+' => Ok("east".into()),
            '?' => Err(failure(Reach::Lost, ErrorKind::Unavailable)),
            '~' => Err(failure(Reach::Answered, ErrorKind::Busy)),
            _ => Err(failure(Reach::Answered, ErrorKind::InvalidArgument)),
        };
        assert_eq!(batch.rows.len(), outcomes.len());
        let settled = Settled {
            region: batch.view.region,
            tablet_id: batch.view.tablets[batch.tablet].id,
            generation: batch.view.generation,
            rows: batch.rows.into_iter().zip(outcomes.chars().map(outcome)).collect(),
        };
        let now = self.now();
        self.core.settle(settled, now, 0.0);
    }

    /// Results so far: `+` written, `-` an error, `?` an unknown outcome, `.` open.
    fn results(&mut self) -> String {
        let mut out = String::new();
        for ticket in &mut self.tickets {
            out.push(match ticket.try_recv() {
                Ok(Ok(_)) => '+',
                Ok(Err(error)) if error.is_unknown_outcome() => '?',
                Ok(Err(_)) => '-',
                Err(_) => '.',
            });
        }
        out
    }
}

/// Rows of batches, one word a batch.
fn rows(batches: &[Batch]) -> Vec<String> {
    let row = |pending: &Pending| String::from_utf8_lossy(pending.mutation.row()).into_owned();
    batches
        .iter()
        .map(|batch| batch.rows.iter().map(row).collect())
        .collect()
}

#[test]
fn full_batches_go_at_once_and_others_linger() {
    let mut world = World::new();
    world.write("a1 b1 z1 c1 d1");
    assert_eq!(rows(&world.poll_at(0)), ["abc"]);
    assert_eq!(
        world.core.wake_at(world.now()),
        Some(world.start + Duration::from_millis(5))
    );
    assert!(world.poll_at(4).is_empty());
    assert_eq!(rows(&world.poll_at(5)), ["d", "z"], "one batch a tablet");
}

#[test]
fn a_row_under_way_holds_back_its_later_mutations_and_nothing_else() {
    let mut world = World::new();
    world.write("a1 a2 b1 a3 c1 d1 e1");
    let mut first = world.poll_at(0);
    // The third of `a` waits: it came into another batch than the first two.
    assert_eq!(rows(&first), ["aab", "cde"]);
    world.write("a4");
    assert!(world.poll_at(10).is_empty(), "both places are taken");
    world.settle(first.pop().unwrap(), "+++");
    assert!(world.poll_at(20).is_empty(), "`a` is under way");
    world.settle(first.pop().unwrap(), "+++");
    assert_eq!(rows(&world.poll_at(30)), ["aa"]);
}

#[test]
fn what_failed_goes_again_before_the_rest_of_its_row() {
    let mut world = World::new();
    world.write("a1 b1 c1");
    let batch = world.poll_at(0).pop().unwrap();
    world.write("a2 b2");
    world.settle(batch, "?+-");
    assert_eq!(rows(&world.poll_at(6)), ["b"], "the way is free for `b`, not for `a`");
    let again = world.poll_at(20).pop().unwrap();
    assert_eq!(rows(std::slice::from_ref(&again)), ["a"]);
    world.settle(again, "+");
    assert_eq!(rows(&world.poll_at(30)), ["a"]);
    assert_eq!(world.results(), "++-..");
}

#[test]
fn a_failed_mutation_that_a_later_one_has_overtaken_is_not_repeated() {
    let mut world = World::new();
    world.write("a1 a2 b1");
    let batch = world.poll_at(0).pop().unwrap();
    world.settle(batch, "~+~");
    assert_eq!(world.results(), "-+.");
    assert_eq!(rows(&world.poll_at(50)), ["b"]);
}

#[test]
fn another_region_gets_what_is_outstanding_at_once() {
    let mut world = World::new();
    world.write("a1 b1 z1");
    let mut under_way = world.poll_at(5);
    world.settle(under_way.remove(0), "??");
    world.write("A1");
    let now = world.now();
    world.core.set_region(1, now);
    assert!(world.poll_at(5).is_empty(), "no view of that region yet");
    assert_eq!(world.core.wants_view(), Some(None));
    world.settle(under_way.remove(0), "?");
    world.core.set_view(view(1, 1, &["", "b"]), now);
    let batches = world.poll_at(10);
    let mut sent = rows(&batches);
    sent.sort();
    assert_eq!(sent, ["A", "a", "b", "z"]);
    assert!(batches.iter().all(|batch| batch.view.region == 1));
}

#[test]
fn deadlines_end_what_waits_and_tell_lost_from_never_sent() {
    let mut world = World::new();
    world.write("a1 b1");
    let batch = world.poll_at(5).pop().unwrap();
    world.write("a2");
    world.settle(batch, "?~");
    assert!(world.poll_at(30_000).is_empty());
    assert_eq!(world.results(), "?-.", "what waited behind came later");
    assert!(world.poll_at(30_100).is_empty());
    assert_eq!(world.results().chars().last(), Some('-'));
    assert!(world.core.is_idle());
}

#[test]
fn a_flush_answers_for_what_came_before_it() {
    let mut world = World::new();
    world.write("a1");
    let (done, mut flushed) = oneshot::channel();
    world.core.push_flush(done);
    world.write("b1");
    let mut batches = world.poll_at(0);
    assert_eq!(rows(&batches), ["ab"], "nothing lingers while somebody waits");
    assert!(flushed.try_recv().is_err());
    world.settle(batches.pop().unwrap(), "-~");
    assert!(
        matches!(flushed.try_recv(), Ok(Err(_))),
        "the first error since the last flush"
    );
    let (done, mut flushed) = oneshot::channel();
    world.core.push_flush(done);
    let batch = world.poll_at(50).pop().unwrap();
    world.settle(batch, "+");
    assert!(matches!(flushed.try_recv(), Ok(Ok(()))));
}

#[test]
fn a_table_that_is_gone_fails_everything_that_is_not_under_way() {
    let mut world = World::new();
    world.write("a1 b1 c1 d1");
    let batch = world.poll_at(0).pop().unwrap();
    world.write("a2 z1");
    world.settle(batch, "~++");
    let gone = ClientError::new(ErrorKind::NotFound, "TABLE_UNKNOWN", "gone");
    let now = world.now();
    world.core.no_table(&gone, now);
    assert_eq!(world.results(), "-++---");
    assert!(world.core.is_idle());
}

/// A small generator, so that a seed names a schedule for ever.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % bound as u64) as usize
    }
}

/// What one row's mutations went through: numbers count from 0 in the order of the calls.
#[derive(Debug, Default)]
struct RowLog {
    pushed: usize,
    /// Mutations that were sent at least once.
    sent: usize,
    /// One more than the greatest that was written.
    written: usize,
    under_way: bool,
}

/// A core under random load, and what the region saw of it.
struct Storm {
    core: Core,
    dice: Dice,
    rows: HashMap<Bytes, RowLog>,
    flying: Vec<Batch>,
    tickets: Vec<oneshot::Receiver<Result<Written>>>,
    generation: u64,
    start: Instant,
    now_ms: u64,
}

impl Storm {
    fn new(seed: u64) -> Storm {
        let mut dice = Dice(seed);
        let options = WriterOptions {
            batch_rows: 1 + dice.below(5),
            batch_bytes: 1 + dice.below(60),
            linger: Duration::from_millis(dice.below(4) as u64),
            in_flight_max: 1 + dice.below(3),
            ..WriterOptions::default()
        };
        let start = Instant::now();
        let mut storm = Storm {
            core: Core::new(options, RetryPolicy::default(), 0),
            dice,
            rows: HashMap::new(),
            flying: Vec::new(),
            tickets: Vec::new(),
            generation: 0,
            start,
            now_ms: 0,
        };
        storm.new_view();
        storm
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.now_ms)
    }

    fn new_view(&mut self) {
        self.generation += 1;
        let cuts: [&[&str]; 4] = [&[""], &["", "c"], &["", "b", "d"], &["b", "d"]];
        let starts = cuts[self.dice.below(cuts.len())];
        let now = self.now();
        self.core.set_view(view(0, self.generation, starts), now);
    }

    fn push(&mut self) {
        let row = Bytes::from_static([&b"a"[..], b"b", b"c", b"d"][self.dice.below(4)]);
        let log = self.rows.entry(row.clone()).or_default();
        let (done, ticket) = oneshot::channel();
        let put = RowMutation::new(&row).put("m", "q", log.pushed as i64, "value");
        log.pushed += 1;
        let now = self.now();
        let deadline = now + Duration::from_secs(1_000_000);
        self.core.push(Pending::new(put, done, None, deadline), now);
        self.tickets.push(ticket);
    }

    fn poll(&mut self, seed: u64) {
        let now = self.now();
        for batch in self.core.poll(now) {
            let mut within: HashMap<&Bytes, usize> = HashMap::new();
            for pending in &batch.rows {
                let row = pending.mutation.row();
                let log = self.rows.get_mut(row).unwrap();
                let number = number(pending);
                assert!(number <= log.sent, "seed {seed}: {row:?} {number} before {}", log.sent);
                assert!(
                    number >= log.written,
                    "seed {seed}: {row:?} {number} over {}",
                    log.written
                );
                let before = within.insert(row, number);
                assert!(
                    before.is_none_or(|before| before < number),
                    "seed {seed}: {row:?} turned"
                );
                assert!(
                    before.is_some() || !log.under_way,
                    "seed {seed}: {row:?} twice under way"
                );
                log.under_way = true;
                log.sent = log.sent.max(number + 1);
            }
            self.flying.push(batch);
        }
    }

    /// One batch is answered, each of its rows at random.
    fn answer(&mut self, kindly: bool) {
        if self.flying.is_empty() {
            return;
        }
        let batch = self.flying.swap_remove(self.dice.below(self.flying.len()));
        let whole = self.dice.below(2) == 0;
        let fate = self.dice.below(6);
        let mut rows = Vec::new();
        for pending in batch.rows {
            let fate = if whole { fate } else { self.dice.below(6) };
            let log = self.rows.get_mut(pending.mutation.row()).unwrap();
            log.under_way = false;
            let outcome = match fate {
                _ if kindly => Ok("east".into()),
                0 => Err(failure(Reach::Lost, ErrorKind::Unavailable)),
                1 => Err(failure(Reach::Answered, ErrorKind::Busy)),
                2 => Err(failure(Reach::Answered, ErrorKind::InvalidArgument)),
                _ => Ok("east".into()),
            };
            if outcome.is_ok() {
                log.written = log.written.max(number(&pending) + 1);
            }
            rows.push((pending, outcome));
        }
        let settled = Settled {
            region: 0,
            tablet_id: batch.view.tablets[batch.tablet].id,
            generation: batch.view.generation,
            rows,
        };
        let now = self.now();
        self.core.settle(settled, now, 0.5);
    }
}

/// The version says how many mutations of the row came before.
fn number(pending: &Pending) -> usize {
    match &pending.mutation.to_wire()[0].mutation {
        Some(v1::mutation::Mutation::Put(put)) => put.version.unwrap() as usize,
        other => panic!("a put, not {other:?}"),
    }
}

#[test]
fn a_rows_mutations_go_out_in_the_order_of_the_calls_whatever_the_limits_and_answers() {
    for seed in 0..2_000 {
        let mut storm = Storm::new(seed);
        for _ in 0..200 {
            match storm.dice.below(10) {
                0..=4 => storm.push(),
                5 | 6 => storm.poll(seed),
                7 => storm.answer(false),
                8 if storm.dice.below(8) == 0 => storm.new_view(),
                _ => storm.now_ms += storm.dice.below(30) as u64,
            }
        }
        // Calm: all of it gets through.
        storm.generation += 1;
        let (now, whole) = (storm.now(), view(0, storm.generation, &["", "c"]));
        storm.core.set_view(whole, now);
        for _ in 0..10_000 {
            storm.now_ms += 1_000;
            storm.poll(seed);
            storm.answer(true);
            if storm.core.is_idle() {
                break;
            }
        }
        assert!(storm.core.is_idle(), "seed {seed}: something never went");
        assert!(storm.tickets.iter_mut().all(|ticket| ticket.try_recv().is_ok()));
        assert!(storm.rows.values().all(|log| log.sent == log.pushed), "seed {seed}");
    }
}

#[test]
fn what_a_full_batch_left_behind_stays_ahead_of_what_came_later() {
    let mut world = World::new();
    world.write("a1 b1 c1 a2 d1");
    let first = world.poll_at(0).pop().unwrap();
    world.write("a3 e1");
    // Now the queue gives up `a2`, which waits behind `a1` and before `a3`.
    let second = world.poll_at(1).pop().unwrap();
    assert_eq!(rows(std::slice::from_ref(&second)), ["de"]);
    world.settle(first, "+++");
    let values: Vec<String> = world.poll_at(20).iter().flat_map(values).collect();
    assert_eq!(values, ["2", "3"]);
}

fn values(batch: &Batch) -> Vec<String> {
    let value = |pending: &Pending| match &pending.mutation.to_wire()[0].mutation {
        Some(v1::mutation::Mutation::Put(put)) => String::from_utf8_lossy(&put.value).into_owned(),
        other => panic!("a put, not {other:?}"),
    };
    batch.rows.iter().map(value).collect()
}

#[test]
fn a_write_that_may_have_arrived_is_unknown_also_when_its_table_is_gone() {
    let mut world = World::new();
    world.write("a1 b1 c1");
    let batch = world.poll_at(0).pop().unwrap();
    world.settle(batch, "?~+");
    let gone = ClientError::new(ErrorKind::NotFound, "TABLE_UNKNOWN", "gone");
    let now = world.now();
    world.core.no_table(&gone, now);
    assert_eq!(world.results(), "?-+");
}

#[test]
fn a_refusal_that_an_old_view_explains_is_tried_once_more_with_a_newer_one() {
    for reach in [Reach::Local, Reach::Answered] {
        let mut world = World::new();
        world.write("a1 b1");
        let mut batch = world.poll_at(5).pop().unwrap();
        for generation in [1, 2] {
            assert_eq!(world.results(), "..");
            let outdated = Failure {
                error: ClientError::new(ErrorKind::InvalidArgument, "FAMILY_UNKNOWN", "x"),
                reach,
                leader: None,
            };
            let settled = Settled {
                region: 0,
                tablet_id: 2,
                generation,
                rows: batch.rows.into_iter().map(|row| (row, Err(outdated.clone()))).collect(),
            };
            let now = world.now();
            world.core.settle(settled, now, 0.0);
            if generation == 2 {
                break;
            }
            assert_eq!(world.core.wants_view(), Some(Some(1)));
            world.core.set_view(view(0, 2, &["", "m"]), now);
            batch = world.poll_at(100).pop().unwrap();
        }
        assert_eq!(world.results(), "--");
    }
}
