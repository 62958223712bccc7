//! The writer's decisions: which rows go into which batch, when, and what becomes of a failed one. No I/O, no clock.
//!
//! ```text
//!  push ──▶ row busy? ── yes ──▶ waits behind it ◀──────────────────────────────┐
//!             │ no                                                              │ released when nothing of
//!             ▼                                                                 │ the row is ahead any more
//!          queue of its tablet ── poll: full, old, or flushing ──▶ batch (its rows are busy) ──▶ settle
//!                                                  ▲                                              │
//!                                                  └── due again ◀── retries ◀── may be repeated ─┘
//! ```
//! A row is *busy* from the moment a batch takes it until it is settled for good, retries included. So a later mutation
//! of the row is never ahead of an earlier one; in one batch they stand in order, which the server keeps.
//!
//! Every write has a number in the order of the calls, and whatever waits (in a queue, behind a row, without a tablet)
//! stands in a [`Line`], sorted by it. So the order does not depend on the way by which a write came to its place.

use super::{WriterOptions, Written};
use crate::call::{Blame, Safety, Verdict, judge, pause_after};
use crate::error::{ClientError, Failure, Result};
use crate::mutation::RowMutation;
use crate::options::RetryPolicy;
use crate::routing::RoutingView;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::ErrorKind;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

/// How often writes that have nowhere to go look for their deadline.
const HOLD: Duration = Duration::from_millis(100);

/// Writes that wait, by their numbers: the first is the one that was called first.
type Line = BTreeMap<u64, Pending>;

/// One write that is not settled.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Its place in the order of the calls.
    number: u64,
    pub(crate) mutation: RowMutation,
    done: oneshot::Sender<Result<Written>>,
    /// Given back when the write is settled.
    _memory: Option<OwnedSemaphorePermit>,
    deadline: Instant,
    flush: u64,
    attempts: u32,
    /// Some attempt may have taken effect.
    uncertain: bool,
    /// The routing view by which it was refused.
    blame: Blame,
    last_error: Option<ClientError>,
}

impl Pending {
    pub(crate) fn new(
        mutation: RowMutation,
        done: oneshot::Sender<Result<Written>>,
        memory: Option<OwnedSemaphorePermit>,
        deadline: Instant,
    ) -> Pending {
        Pending {
            number: 0,
            mutation,
            done,
            _memory: memory,
            deadline,
            flush: 0,
            attempts: 0,
            uncertain: false,
            blame: Blame::default(),
            last_error: None,
        }
    }
}

/// Rows to send in one request.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) view: Arc<RoutingView>,
    /// Index of the tablet in the view.
    pub(crate) tablet: usize,
    pub(crate) rows: Vec<Pending>,
}

/// What became of a batch: one outcome a row, in its order.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) region: usize,
    pub(crate) tablet_id: u64,
    /// Generation of the view by which it was sent.
    pub(crate) generation: u64,
    /// The name of the region that answered, or the failure of each row.
    pub(crate) rows: Vec<(Pending, std::result::Result<Arc<str>, Failure>)>,
}

/// Rows of one tablet that wait for a batch.
#[derive(Debug, Default)]
struct Queue {
    /// Batches that go again, before anything new.
    again: VecDeque<Vec<Pending>>,
    rows: Line,
    bytes: usize,
    /// When the oldest of `rows` came.
    since: Option<Instant>,
}

/// A row that is under way.
#[derive(Debug, Default)]
struct Busy {
    /// The batch that took it first.
    batch: u64,
    /// Mutations of it that are under way or will go again.
    ahead: usize,
    waiting: Line,
}

#[derive(Debug)]
struct Retry {
    at: Instant,
    rows: Vec<Pending>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Core {
    options: WriterOptions,
    retry: RetryPolicy,
    view: Option<Arc<RoutingView>>,
    /// The region to write to; a view of another one is not used.
    region: usize,
    /// Of the view's tablets.
    queues: Vec<Queue>,
    /// Rows for which no tablet is known.
    unrouted: Line,
    retries: Vec<Retry>,
    busy: HashMap<Bytes, Busy>,
    /// Batches under way, by region and tablet.
    in_flight: HashMap<(usize, u64), usize>,
    batches: u64,
    /// Writes that came in so far.
    pushed: u64,
    /// Writes not settled, by the flush that waits for them.
    outstanding: BTreeMap<u64, usize>,
    flush: u64,
    flushes: VecDeque<(u64, oneshot::Sender<Result<()>>)>,
    first_error: Option<ClientError>,
    /// The view failed someone: a newer one is wanted.
    stale: bool,
}

impl Core {
    pub(crate) fn new(options: WriterOptions, retry: RetryPolicy, region: usize) -> Core {
        Core {
            options,
            retry,
            view: None,
            region,
            queues: Vec::new(),
            unrouted: Line::new(),
            retries: Vec::new(),
            busy: HashMap::new(),
            in_flight: HashMap::new(),
            batches: 0,
            pushed: 0,
            outstanding: BTreeMap::new(),
            flush: 1,
            flushes: VecDeque::new(),
            first_error: None,
            stale: false,
        }
    }

    /// A write comes in.
    pub(crate) fn push(&mut self, mut pending: Pending, now: Instant) {
        pending.number = self.pushed;
        self.pushed += 1;
        pending.flush = self.flush;
        *self.outstanding.entry(self.flush).or_default() += 1;
        self.place(pending, now);
    }

    /// Somebody wants to know when everything so far is settled.
    pub(crate) fn push_flush(&mut self, done: oneshot::Sender<Result<()>>) {
        self.flushes.push_back((self.flush, done));
        self.flush += 1;
        self.answer_flushes();
    }

    /// True if nothing waits and nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// The generation that a wanted view must exceed (`Some(None)`: any view of the region will do); `None` if the
    /// present one is good.
    pub(crate) fn wants_view(&self) -> Option<Option<u64>> {
        match self.usable_view() {
            None if self.outstanding.is_empty() => None,
            None => Some(None),
            Some(view) => self.stale.then_some(Some(view.generation)),
        }
    }

    pub(crate) fn region(&self) -> usize {
        self.region
    }

    /// Another region is to be written to. What failed is sent there at once.
    pub(crate) fn set_region(&mut self, region: usize, now: Instant) {
        self.region = region;
        for retry in &mut self.retries {
            retry.at = now;
        }
    }

    /// A routing view came. All waiting rows are placed anew.
    pub(crate) fn set_view(&mut self, view: Arc<RoutingView>, now: Instant) {
        self.stale = false;
        if self.view.as_ref().is_some_and(|old| Arc::ptr_eq(old, &view)) {
            return;
        }
        let queues = std::mem::take(&mut self.queues);
        let unrouted = std::mem::take(&mut self.unrouted);
        self.queues = view.tablets.iter().map(|_| Queue::default()).collect();
        self.view = Some(view);
        let mut waiting = unrouted;
        for queue in queues {
            for rows in queue.again {
                self.retries.push(Retry { at: now, rows });
            }
            waiting.extend(queue.rows);
        }
        for pending in waiting.into_values() {
            self.place(pending, now);
        }
    }

    /// There is no such table in the region, and no repeat will change that: every write that is not under way fails.
    pub(crate) fn no_table(&mut self, error: &ClientError, now: Instant) {
        let queues = std::mem::take(&mut self.queues);
        let retries = std::mem::take(&mut self.retries);
        self.view = None;
        self.stale = false;
        let mut ahead: Vec<Pending> = retries.into_iter().flat_map(|retry| retry.rows).collect();
        for queue in queues {
            ahead.extend(queue.again.into_iter().flatten());
            self.unrouted.extend(queue.rows);
        }
        for pending in ahead {
            let row = pending.mutation.row().clone();
            self.finish(pending, Err(error.clone()));
            // Without a view, what waited behind it joins the unrouted.
            self.release(&row, now);
        }
        while let Some((_, pending)) = self.unrouted.pop_first() {
            self.finish(pending, Err(error.clone()));
        }
    }

    /// What to send now.
    pub(crate) fn poll(&mut self, now: Instant) -> Vec<Batch> {
        self.expire(now);
        let Some(view) = self.usable_view().cloned() else {
            return Vec::new();
        };
        self.place_retries(&view, now);
        let mut batches = Vec::new();
        for tablet in 0..self.queues.len() {
            let slot = (view.region, view.tablets[tablet].id);
            while self.in_flight.get(&slot).copied().unwrap_or(0) < self.options.in_flight_max {
                let Some(rows) = self.cut(tablet, now) else { break };
                *self.in_flight.entry(slot).or_default() += 1;
                batches.push(Batch {
                    view: view.clone(),
                    tablet,
                    rows,
                });
            }
        }
        batches
    }

    /// When to poll again at the latest, events aside.
    pub(crate) fn wake_at(&self, now: Instant) -> Option<Instant> {
        let Some(view) = self.usable_view() else {
            return (!self.outstanding.is_empty()).then(|| now + HOLD);
        };
        let free = |at: usize| {
            let slot = (view.region, view.tablets[at].id);
            self.in_flight.get(&slot).copied().unwrap_or(0) < self.options.in_flight_max
        };
        let queues = self.queues.iter().enumerate();
        let lingering = queues
            .filter(|(at, _)| free(*at))
            .filter_map(|(_, queue)| queue.since.map(|since| since + self.options.linger));
        let held = (!self.unrouted.is_empty()).then(|| now + HOLD);
        lingering
            .chain(self.retries.iter().map(|retry| retry.at))
            .chain(held)
            .min()
    }

    /// A batch came back. `chance` (`0.0..1.0`) shortens the pause before rows go again.
    pub(crate) fn settle(&mut self, settled: Settled, now: Instant, chance: f64) {
        let slot = (settled.region, settled.tablet_id);
        if let Some(count) = self.in_flight.get_mut(&slot) {
            *count -= 1;
            if *count == 0 {
                self.in_flight.remove(&slot);
            }
        }
        let mut overtaken = overtaken(&settled);
        let mut again = Vec::new();
        let mut pause = Duration::ZERO;
        let mut released = Vec::new();
        for (at, (mut pending, outcome)) in settled.rows.into_iter().enumerate() {
            let row = pending.mutation.row().clone();
            match outcome {
                Ok(region) => {
                    let region = region.to_string();
                    self.finish(pending, Ok(Written { region }));
                    released.push(row);
                }
                Err(failure) => {
                    pending.attempts += 1;
                    let view = (settled.region, settled.generation);
                    let verdict = self.judge(&mut pending, &failure, view, overtaken.remove(&at));
                    let error = failure.error.clone().after_attempts(pending.attempts);
                    if verdict == Verdict::Retry {
                        let hint = error.retry_after();
                        pause = pause.max(pause_after(pending.attempts, &self.retry, hint, chance));
                        pending.last_error = Some(error);
                        again.push(pending);
                    } else {
                        self.finish(pending, Err(error));
                        released.push(row);
                    }
                }
            }
        }
        for row in released {
            self.release(&row, now);
        }
        if !again.is_empty() {
            let moved = settled.region != self.region;
            let at = if moved { now } else { now + pause };
            self.retries.push(Retry { at, rows: again });
        }
    }

    /// `view`: region and generation of the routing view by which it was sent.
    fn judge(&mut self, pending: &mut Pending, failure: &Failure, view: (usize, u64), overtaken: bool) -> Verdict {
        pending.uncertain |= failure.may_have_effect();
        if overtaken {
            // A repeat would put the earlier mutation on top of the later one.
            return Verdict::Fail;
        }
        let safety = if pending.mutation.may_repeat() {
            Safety::Repeatable
        } else {
            Safety::Once
        };
        let verdict = judge(safety, failure, &mut pending.blame, Some(view));
        self.stale |= verdict == Verdict::Retry && crate::call::blames_routing(failure);
        verdict
    }

    /// The view, if it is one of the region that is written to.
    fn usable_view(&self) -> Option<&Arc<RoutingView>> {
        self.view.as_ref().filter(|view| view.region == self.region)
    }

    /// Puts a row where it belongs: behind its busy row, into its tablet's queue, or aside.
    fn place(&mut self, pending: Pending, now: Instant) {
        if let Some(busy) = self.busy.get_mut(pending.mutation.row()) {
            busy.waiting.insert(pending.number, pending);
            return;
        }
        let tablet = self
            .view
            .as_ref()
            .and_then(|view| view.tablet_of(pending.mutation.row()));
        match tablet {
            Some(tablet) => {
                let queue = &mut self.queues[tablet];
                queue.bytes += pending.mutation.bytes_len();
                queue.since.get_or_insert(now);
                queue.rows.insert(pending.number, pending);
            }
            None => {
                self.stale |= self.view.is_some();
                self.unrouted.insert(pending.number, pending);
            }
        }
    }

    /// Sorts the retries that are due into their tablets' queues. Their rows stay busy.
    fn place_retries(&mut self, view: &Arc<RoutingView>, now: Instant) {
        let (due, later) = std::mem::take(&mut self.retries)
            .into_iter()
            .partition(|retry: &Retry| retry.at <= now);
        self.retries = later;
        for retry in due {
            let mut tablets: BTreeMap<usize, Vec<Pending>> = BTreeMap::new();
            let mut homeless = Vec::new();
            for pending in retry.rows {
                match view.tablet_of(pending.mutation.row()) {
                    Some(tablet) => tablets.entry(tablet).or_default().push(pending),
                    None => homeless.push(pending),
                }
            }
            for (tablet, rows) in tablets {
                self.queues[tablet].again.push_back(rows);
            }
            if !homeless.is_empty() {
                self.stale = true;
                let at = now + HOLD;
                self.retries.push(Retry { at, rows: homeless });
            }
        }
    }

    /// The next batch of a tablet, if it is time. Its rows are busy from now on.
    fn cut(&mut self, tablet: usize, now: Instant) -> Option<Vec<Pending>> {
        if let Some(rows) = self.queues[tablet].again.pop_front() {
            return Some(rows);
        }
        let flushing = !self.flushes.is_empty();
        let queue = &mut self.queues[tablet];
        let since = queue.since?;
        let full = queue.bytes >= self.options.batch_bytes || queue.rows.len() >= self.options.batch_rows;
        if !full && !flushing && now < since + self.options.linger {
            return None;
        }
        self.batches += 1;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while let Some(first) = queue.rows.first_entry() {
            let next = first.get().mutation.bytes_len();
            if rows.len() >= self.options.batch_rows || (!rows.is_empty() && bytes + next > self.options.batch_bytes) {
                break;
            }
            let pending = first.remove();
            queue.bytes -= next;
            let busy = self.busy.entry(pending.mutation.row().clone()).or_default();
            if busy.ahead > 0 && busy.batch != self.batches {
                busy.waiting.insert(pending.number, pending);
                continue;
            }
            busy.batch = self.batches;
            busy.ahead += 1;
            bytes += next;
            rows.push(pending);
        }
        if queue.rows.is_empty() {
            queue.since = None;
        }
        (!rows.is_empty()).then_some(rows)
    }

    /// One mutation of the row is settled for good.
    fn release(&mut self, row: &Bytes, now: Instant) {
        let Some(busy) = self.busy.get_mut(row) else { return };
        busy.ahead -= 1;
        if busy.ahead > 0 {
            return;
        }
        let waiting = self.busy.remove(row).map(|busy| busy.waiting).unwrap_or_default();
        for pending in waiting.into_values() {
            self.place(pending, now);
        }
    }

    /// Ends the writes whose deadline has passed while they were not under way.
    fn expire(&mut self, now: Instant) {
        let mut ended = Vec::new();
        for retry in &mut self.retries {
            let rows = std::mem::take(&mut retry.rows);
            let (late, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(|p| p.deadline <= now);
            retry.rows = rows;
            ended.extend(late);
        }
        self.retries.retain(|retry| !retry.rows.is_empty());
        for pending in ended {
            let row = pending.mutation.row().clone();
            self.time_out(pending);
            self.release(&row, now);
        }
        // Writes come with deadlines in their order, so that only the fronts need a look.
        while let Some(pending) = pop_late(&mut self.unrouted, now) {
            self.time_out(pending);
        }
        for at in 0..self.queues.len() {
            while let Some(pending) = pop_late(&mut self.queues[at].rows, now) {
                let queue = &mut self.queues[at];
                queue.bytes -= pending.mutation.bytes_len();
                if queue.rows.is_empty() {
                    queue.since = None;
                }
                self.time_out(pending);
            }
        }
    }

    fn time_out(&mut self, mut pending: Pending) {
        let error = pending.last_error.take().unwrap_or_else(|| {
            ClientError::new(
                ErrorKind::Unavailable,
                "NOT_SENT",
                "the retry deadline passed before the write could be sent",
            )
        });
        self.finish(pending, Err(error));
    }

    /// Tells the caller, gives the memory back, and answers flushes that waited for it. Whatever the error, a write of
    /// which some attempt may have taken effect is an unknown outcome.
    fn finish(&mut self, pending: Pending, result: Result<Written>) {
        let result = result.map_err(|error| match pending.uncertain {
            true => error.into_unknown_outcome(),
            false => error,
        });
        if let Err(error) = &result {
            self.first_error.get_or_insert_with(|| error.clone());
        }
        // Nobody has to look at a ticket.
        let _ = pending.done.send(result);
        if let Some(count) = self.outstanding.get_mut(&pending.flush) {
            *count -= 1;
            if *count == 0 {
                self.outstanding.remove(&pending.flush);
                self.answer_flushes();
            }
        }
    }

    fn answer_flushes(&mut self) {
        while let Some((upto, _)) = self.flushes.front() {
            if self.outstanding.keys().next().is_some_and(|first| first <= upto) {
                return;
            }
            if let Some((_, done)) = self.flushes.pop_front() {
                // Whoever asked may be gone.
                let _ = done.send(self.first_error.take().map_or(Ok(()), Err));
            }
        }
    }
}

/// The first of the line, if its deadline has passed.
fn pop_late(line: &mut Line, now: Instant) -> Option<Pending> {
    let first = line.first_entry()?;
    (first.get().deadline <= now).then(|| first.remove())
}

/// Indexes of failed rows of which a later mutation in the same batch was written.
fn overtaken(settled: &Settled) -> HashSet<usize> {
    let mut written: HashSet<&Bytes> = HashSet::new();
    let mut overtaken = HashSet::new();
    if settled.rows.iter().all(|(_, outcome)| outcome.is_err()) || settled.rows.iter().all(|(_, o)| o.is_ok()) {
        return overtaken;
    }
    for (at, (pending, outcome)) in settled.rows.iter().enumerate().rev() {
        match outcome {
            Ok(_) => {
                written.insert(pending.mutation.row());
            }
            Err(_) if written.contains(pending.mutation.row()) => {
                overtaken.insert(at);
            }
            Err(_) => {}
        }
    }
    overtaken
}
