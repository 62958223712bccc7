//! The one task per tablet that stamps and proposes (R2, R7, O4).
//!
//! ```text
//! write() ─┐                       ┌ coalesce ┐   ┌ stamp ┐   ┌ submit in order ┐
//! cas()   ─┼─ bounded queue ──────►│ writes   ├──►│ HLC   ├──►│ to the log      ├──► answers, as they commit
//! remote()─┘                       └──────────┘   └───────┘   └─────────────────┘
//!                                                     ▲ every remote command is observed first (R7)
//! ```
//! It works only while this node leads and has applied everything of earlier terms: then the published `hlc_max` is above
//! every stamp in the log, and proposals carry the term, so that none can be committed by a later leadership that has seen
//! other stamps. Order of stamps = order of submission = order in the log (INV-20, checked again by apply).
//!
//! A close is due when nothing was stamped for a while, whatever else is proposed meanwhile: a tablet that only receives
//! must tell its peers all the same that it wrote nothing, or their watermarks would stand still (O14). So it comes before
//! the queue, and only what carries a stamp of this region puts it off.

use crate::error;
use crate::operation::check_and_mutate::CheckAndMutateCommand;
use crate::operation::read_modify_write::ReadModifyWriteCommand;
use crate::operation::{check_and_mutate, close, read_modify_write, remote, set_schema, write};
use crate::response::{self, Failures};
use crate::shared::Shared;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::{Error, PackedBatch, Result, Stamp, TableSchema, limits};
use tidemark_consensus::{Group, GroupStatus, LogStore, Pending, ProposeError, Role};
use tidemark_runtime::{HlcClock, Permit, Shutdown};
use tokio::sync::{mpsc, oneshot, watch};

/// Requests that wait in the queue, whatever their size; their bytes have a budget of their own.
pub(crate) const QUEUE_LEN: usize = 8_192;
/// How many closing stamps that no peer took pile up before they come ten times slower.
const CLOSES_UNTAKEN_MAX: u64 = 100;

/// Where an answer goes.
pub(crate) type Answer<T> = oneshot::Sender<Result<T>>;

/// A request to the proposer. The permit stands for its bytes until it is answered.
pub(crate) struct Request {
    pub(crate) what: What,
    pub(crate) permit: Permit,
}

/// What is asked.
pub(crate) enum What {
    /// Rows in normal form. Answered with the stamp of the first row and the rows that apply refused.
    Write(PackedBatch, Answer<(Stamp, Failures)>),
    /// The stamp and the token's expiry are filled in here.
    CheckAndMutate(Box<CheckAndMutateCommand>, Answer<Bytes>),
    /// The stamp and the token's expiry are filled in here.
    ReadModifyWrite(Box<ReadModifyWriteCommand>, Answer<Bytes>),
    /// An encoded remote batch and the greatest hlc in it.
    Remote(Bytes, u64, Answer<Bytes>),
    /// A closing stamp.
    Close(Answer<Bytes>),
    /// A command that needs no stamp.
    Plain(Bytes, Answer<Bytes>),
}

/// See the module.
pub(crate) struct Proposer {
    shared: Arc<Shared>,
    group: Group,
    log: Arc<dyn LogStore>,
    shutdown: Shutdown,
    queue: mpsc::Receiver<Request>,
    status: watch::Receiver<GroupStatus>,
    /// Taken from the queue, but could not be joined with what was proposed.
    held: Option<Request>,
    /// True for those that carry a stamp of this region.
    in_flight: FuturesUnordered<BoxFuture<'static, bool>>,
    /// How many of them do: each closes the log up to its stamp when it commits.
    stamped_in_flight: usize,
    hlc: HlcClock,
    initial_schema: Option<Arc<TableSchema>>,
    /// Monotonic time of the last stamp.
    stamped_at: Duration,
}

impl Proposer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        group: Group,
        log: Arc<dyn LogStore>,
        shutdown: Shutdown,
        queue: mpsc::Receiver<Request>,
        initial_schema: Option<Arc<TableSchema>>,
    ) -> Proposer {
        Proposer {
            status: group.watch(),
            hlc: HlcClock::new(shared.clock.clone(), 0),
            stamped_at: shared.clock.monotonic(),
            in_flight: FuturesUnordered::new(),
            stamped_in_flight: 0,
            held: None,
            shared,
            group,
            log,
            shutdown,
            queue,
            initial_schema,
        }
    }

    /// Runs until the tablet stops; then answers everything that waits.
    pub(crate) async fn run(mut self) {
        while !self.shutdown.is_triggered() {
            let status = self.status.borrow_and_update().clone();
            if status.leader_ready {
                self.lead(status.term).await;
                continue;
            }
            let leads = status.role == Role::Leader;
            tokio::select! {
                _ = self.shutdown.wait() => break,
                changed = self.status.changed() => if changed.is_err() { break },
                // A leader that is not ready yet lets requests wait: it will be in a moment.
                request = self.queue.recv(), if !leads => match request {
                    Some(request) => refuse(request, error::not_leader(&self.shared.descriptor, status.leader)),
                    None => break,
                },
                Some(stamped) = self.in_flight.next() => self.landed(stamped),
            }
            if !leads && let Some(request) = self.held.take() {
                refuse(request, error::not_leader(&self.shared.descriptor, status.leader));
            }
        }
        self.queue.close();
        while let Some(request) = self.held.take().or_else(|| self.queue.try_recv().ok()) {
            refuse(request, error::stopped("the tablet is stopping on this node"));
        }
        // What is in flight is answered by the group's end, which comes next.
        while self.in_flight.next().await.is_some() {}
    }

    /// Proposes while this node leads in that term.
    async fn lead(&mut self, term: u64) {
        self.hlc.observe(self.shared.replication().hlc_max);
        self.stamped_at = self.shared.clock.monotonic();
        if self.shared.schema().is_none()
            && let Some(schema) = self.initial_schema.clone()
        {
            self.submit(term, set_schema::encode(&schema, false), false, |_| {})
                .await;
        }
        while !self.shutdown.is_triggered() {
            let close_in = self.close_in();
            // Before everything else, and above the bound on proposals in flight: there is one at most.
            if close_in == Some(Duration::ZERO) {
                let (answer, _) = oneshot::channel();
                self.propose_close(term, answer, None).await;
            }
            if let Some(request) = self.held.take() {
                self.propose(term, request).await;
                continue;
            }
            let room = self.in_flight.len() < self.shared.settings.proposals_in_flight_max;
            tokio::select! {
                biased;
                _ = self.shutdown.wait() => return,
                Some(stamped) = self.in_flight.next() => self.landed(stamped),
                changed = self.status.changed() => {
                    let status = self.status.borrow_and_update();
                    if changed.is_err() || !status.leader_ready || status.term != term {
                        return;
                    }
                }
                request = self.queue.recv(), if room => match request {
                    Some(request) => self.propose(term, request).await,
                    None => return,
                },
                _ = tokio::time::sleep(close_in.unwrap_or(Duration::MAX)), if close_in.is_some_and(|wait| !wait.is_zero()) => {}
            }
        }
    }

    fn landed(&mut self, stamped: bool) {
        self.stamped_in_flight -= usize::from(stamped);
    }

    /// How long until the tablet is due to say that nothing was written. Only with peers, and only if nothing is in flight
    /// that says more.
    fn close_in(&self) -> Option<Duration> {
        let schema = self.shared.schema()?;
        if schema.peers.is_empty() || self.stamped_in_flight > 0 || self.refused_stamping().is_some() {
            return None;
        }
        let state = self.shared.replication();
        let taken = schema
            .peers
            .iter()
            .map(|p| state.acked.get(p).copied().unwrap_or(0))
            .min();
        let untaken = state.feed_last_seq - taken.unwrap_or(0).max(state.last_rows_seq).min(state.feed_last_seq);
        let slower = if untaken > CLOSES_UNTAKEN_MAX { 10 } else { 1 };
        let interval = Duration::from_millis(self.shared.settings.close_interval_ms * slower);
        let since = self.shared.clock.monotonic().saturating_sub(self.stamped_at);
        Some(interval.saturating_sub(since))
    }

    async fn propose(&mut self, term: u64, request: Request) {
        let Request { what, permit } = request;
        match what {
            What::Write(batch, answer) => self.propose_writes(term, batch, answer, permit).await,
            What::CheckAndMutate(mut command, answer) => match self.stamp(1) {
                Ok(stamp) => {
                    command.stamp = stamp;
                    command.terms.expiry_ms = self.expiry_ms(stamp);
                    let command = check_and_mutate::encode(&command);
                    self.submit_answered(term, command, true, answer, Some(permit)).await;
                }
                Err(error) => reply(answer, Err(error)),
            },
            What::ReadModifyWrite(mut command, answer) => match self.stamp(1) {
                Ok(stamp) => {
                    command.stamp = stamp;
                    command.terms.expiry_ms = self.expiry_ms(stamp);
                    let command = read_modify_write::encode(&command);
                    self.submit_answered(term, command, true, answer, Some(permit)).await;
                }
                Err(error) => reply(answer, Err(error)),
            },
            What::Remote(batch, greatest_hlc, answer) => {
                // R8 before R7: a peer whose clock runs ahead must not drag ours along.
                let offset_max = Duration::from_millis(limits::MAX_OFFSET_MS);
                if let Err(ahead) = self.hlc.observe_within(greatest_hlc, offset_max) {
                    let text = ahead.to_string();
                    let error = Error::unavailable("CLOCK_QUARANTINE", text, Duration::from_secs(1));
                    return reply(answer, Err(error));
                }
                let command = remote::encode(self.shared.settings.quarantine_bytes_max, &batch);
                self.submit_answered(term, command, false, answer, Some(permit)).await;
            }
            What::Close(answer) => self.propose_close(term, answer, Some(permit)).await,
            What::Plain(command, answer) => self.submit_answered(term, command, false, answer, Some(permit)).await,
        }
    }

    /// Joins the writes that wait behind this one into one entry, up to the bound.
    async fn propose_writes(
        &mut self,
        term: u64,
        batch: PackedBatch,
        answer: Answer<(Stamp, Failures)>,
        permit: Permit,
    ) {
        let mut bytes = batch.bytes().len();
        let mut writes = vec![(batch, answer, permit)];
        while bytes < self.shared.settings.proposal_bytes_max {
            match self.queue.try_recv() {
                Ok(Request {
                    what: What::Write(batch, answer),
                    permit,
                }) if bytes + batch.bytes().len() <= self.shared.settings.proposal_bytes_max => {
                    bytes += batch.bytes().len();
                    writes.push((batch, answer, permit));
                }
                Ok(other) => {
                    self.held = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        let mut stamped = Vec::with_capacity(writes.len());
        let mut answers = Vec::with_capacity(writes.len());
        for (batch, answer, permit) in writes {
            match self.stamp(batch.rows_len()) {
                Ok(first) => {
                    stamped.push((first, batch));
                    answers.push((first, answer, permit));
                }
                Err(error) => reply(answer, Err(error)),
            }
        }
        if !stamped.is_empty() {
            let done = move |outcome: Result<Bytes>| answer_writes(answers, outcome);
            self.submit(term, write::encode(&stamped), true, done).await;
        }
    }

    async fn propose_close(&mut self, term: u64, answer: Answer<Bytes>, permit: Option<Permit>) {
        match self.stamp(1) {
            Ok(stamp) => {
                self.submit_answered(term, close::encode(stamp), true, answer, permit)
                    .await;
            }
            Err(error) => reply(answer, Err(error)),
        }
    }

    async fn submit_answered(
        &mut self,
        term: u64,
        command: Bytes,
        stamped: bool,
        answer: Answer<Bytes>,
        permit: Option<Permit>,
    ) {
        let done = move |outcome| {
            reply(answer, outcome);
            drop(permit);
        };
        self.submit(term, command, stamped, done).await;
    }

    /// Gives a command its place in the log's order; `done` gets the body of its response.
    async fn submit(
        &mut self,
        term: u64,
        command: Bytes,
        stamped: bool,
        done: impl FnOnce(Result<Bytes>) + Send + 'static,
    ) {
        let submitted = tokio::select! {
            submitted = self.group.submit_in_term(term, command) => submitted,
            _ = self.shutdown.wait() => Err(ProposeError::Unknown("the tablet is stopping on this node".to_owned())),
        };
        match submitted {
            Ok(pending) => {
                self.shared.counters.entries_proposed.inc();
                let (shared, log) = (self.shared.clone(), self.log.clone());
                self.stamped_in_flight += usize::from(stamped);
                self.in_flight.push(Box::pin(async move {
                    done(outcome(&shared, &*log, pending).await);
                    stamped
                }));
            }
            Err(error) => {
                let no_space = self.log.stalled_no_space();
                done(Err(error::propose(&self.shared.descriptor, error, no_space)));
            }
        }
    }

    /// The first of `count` stamps, above every stamp given or observed before.
    fn stamp(&mut self, count: usize) -> Result<Stamp> {
        let schema = self.shared.schema().ok_or_else(crate::apply::schema_pending)?;
        if let Some(reason) = self.refused_stamping() {
            let text = format!("this node's clock is not trusted: {reason}");
            return Err(Error::unavailable("CLOCK_SKEW", text, Duration::from_millis(500)));
        }
        self.stamped_at = self.shared.clock.monotonic();
        let count =
            u32::try_from(count).map_err(|_| Error::internal("a batch with more rows than a batch can have"))?;
        Ok(Stamp {
            epoch: schema.epoch,
            hlc: self.hlc.reserve(count),
            region: schema.region,
        })
    }

    fn refused_stamping(&self) -> Option<String> {
        self.shared.stamping_refused.lock().clone()
    }

    fn expiry_ms(&self, stamp: Stamp) -> u64 {
        stamp.ms().saturating_add(self.shared.settings.token_ttl_ms)
    }
}

async fn outcome(shared: &Shared, log: &dyn LogStore, pending: Pending) -> Result<Bytes> {
    match pending.outcome().await {
        Ok(proposed) => response::body(&proposed.response),
        Err(error) => Err(error::propose(&shared.descriptor, error, log.stalled_no_space())),
    }
}

/// A write that was proposed: its first stamp, where its answer goes, and its bytes in the budget.
type Proposed = (Stamp, Answer<(Stamp, Failures)>, Permit);

fn answer_writes(answers: Vec<Proposed>, outcome: Result<Bytes>) {
    let decoded = outcome.and_then(|body| response::decode_write(&body).map_err(response::defect));
    match decoded {
        Ok(failures) if failures.len() == answers.len() => {
            for ((first, answer, _permit), failures) in answers.into_iter().zip(failures) {
                reply(answer, Ok((first, failures)));
            }
        }
        Ok(_) => answers.into_iter().for_each(|(_, answer, _)| {
            reply(
                answer,
                Err(Error::internal("apply answered for another number of batches")),
            );
        }),
        Err(error) => answers
            .into_iter()
            .for_each(|(_, answer, _)| reply(answer, Err(error.clone()))),
    }
}

fn refuse(request: Request, error: Error) {
    match request.what {
        What::Write(_, answer) => reply(answer, Err(error)),
        What::CheckAndMutate(_, answer)
        | What::ReadModifyWrite(_, answer)
        | What::Remote(_, _, answer)
        | What::Close(answer)
        | What::Plain(_, answer) => reply(answer, Err(error)),
    }
}

/// The caller may have stopped waiting; then nobody needs the answer.
fn reply<T>(answer: Answer<T>, outcome: Result<T>) {
    let _ = answer.send(outcome);
}
