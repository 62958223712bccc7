//! The handle on a tablet: what the layers above ask of it.

use crate::admit::{Admitted, Gate, range_tombstones_full};
use crate::closed::ClosedEngine;
use crate::descriptor::TabletDescriptor;
use crate::error;
use crate::factory::EngineFactory;
use crate::feed::FeedHead;
use crate::machine::Machine;
use crate::operation::acknowledge_feed::AcknowledgeFeed;
use crate::operation::check_and_mutate::CheckAndMutateCommand;
use crate::operation::read_modify_write::{ReadModifyWriteCommand, RmwRule};
use crate::operation::{acknowledge_feed, discard, set_schema};
use crate::proposer::{Proposer, QUEUE_LEN, Request, What};
use crate::quarantine::{self, Discarded, QuarantinePage};
use crate::reading::{ReadEnd, Reader};
use crate::remote::RemoteBatch;
use crate::replication_state::{PeerQuarantine, ReplicationState};
use crate::response::{self, OwnedCell};
use crate::settings::TabletSettings;
use crate::shared::Shared;
use crate::stream::StreamId;
use crate::tokens::{Token, TokenTerms};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidemark_base::aggregate::{AggregateSpec, Aggregates};
use tidemark_base::{
    CellRef, Error, PackedBatch, ReadFilter, ReadSpec, RegionId, Result, RowRange, RowRef, Stamp, TableSchema, limits,
};
use tidemark_consensus::{Group, Host, Role};
use tidemark_engine::kept::asks_for_newest;
use tidemark_engine::{Engine, EngineError, RangeDigest};
use tidemark_runtime::{ByteBudget, Metrics, SharedClock, Shutdown, Tasks};
use tokio::sync::{mpsc, oneshot, watch};

/// Bytes counted for a request besides its payload.
const REQUEST_BYTES: usize = 256;
/// Bytes of feed looked at in one go while searching for a record with rows.
const FEED_LOOK_BYTES: usize = 256 << 10;

/// What a tablet is started with.
pub struct TabletOptions {
    /// Which tablet.
    pub descriptor: TabletDescriptor,
    /// The node's groups.
    pub host: Host,
    /// Where its engine comes from.
    pub factory: Arc<dyn EngineFactory>,
    /// Wall and monotonic time.
    pub clock: SharedClock,
    /// Where its tasks run.
    pub tasks: Tasks,
    /// Bounds and intervals.
    pub settings: TabletSettings,
    /// Proposed by the first leader of a tablet that has no schema in its log yet.
    pub initial_schema: Option<Arc<TableSchema>>,
    /// Where it counts.
    pub metrics: Metrics,
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteOutcome {
    /// Rows that were not written, by index in the batch, ascending, and why.
    pub failures: Vec<(u32, Error)>,
    /// Rows that were written.
    pub rows_written: u32,
    /// Stamp of the first row that went through the log; `None` if none did.
    pub first_stamp: Option<Stamp>,
}

/// A conditional write of one row.
#[derive(Clone, Debug)]
pub struct CheckAndMutate {
    /// The row that is checked and mutated.
    pub row: Bytes,
    /// Matches if it lets at least one cell of the row through.
    pub predicate: ReadFilter,
    /// One row mutation of `row`, applied on a match.
    pub on_match: Option<PackedBatch>,
    /// The same without a match.
    pub on_mismatch: Option<PackedBatch>,
    /// Chosen by the client; the operation takes effect once per token.
    pub token: Token,
    /// The writer's epoch (R20); 0 for active-active tables.
    pub epoch: u32,
}

/// Appends and increments on one row.
#[derive(Clone, Debug)]
pub struct ReadModifyWrite {
    /// The row.
    pub row: Bytes,
    /// Applied in order; all or none.
    pub rules: Vec<RmwRule>,
    /// Chosen by the client; the operation takes effect once per token.
    pub token: Token,
    /// The writer's epoch (R20); 0 for active-active tables.
    pub epoch: u32,
}

/// A tablet on this node. Clones are the same tablet.
#[derive(Clone)]
pub struct Tablet {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    host: Host,
    group: Group,
    queue: mpsc::Sender<Request>,
    budget: ByteBudget,
    shutdown: Shutdown,
}

impl Tablet {
    /// Opens the engine, starts this node's replica of the group and the tablet's tasks. The group has to be initialised by
    /// whoever creates the tablet ([`Tablet::group`]).
    pub async fn start(options: TabletOptions) -> Result<Tablet> {
        let TabletOptions {
            descriptor,
            host,
            factory,
            clock,
            tasks,
            settings,
            initial_schema,
            metrics,
        } = options;
        settings.validate()?;
        let budget = ByteBudget::new(settings.queue_bytes_max);
        let named = descriptor.clone();
        let open = move || -> Result<(Arc<Shared>, Machine)> {
            let engine = factory
                .open(descriptor.tablet)
                .map_err(|e| error::engine(&descriptor, e))?;
            let shared = Arc::new(Shared::new(descriptor, settings, clock, factory, engine, &metrics));
            let machine = Machine::open(shared.clone())
                .map_err(|f| Error::corruption("TABLET_CORRUPT", f.0).object(shared.descriptor.to_string()))?;
            Ok((shared, machine))
        };
        let opened = tidemark_runtime::spawn_blocking(open).await;
        let (shared, machine) = opened.map_err(|e| Error::internal(format!("opening a tablet panicked: {e}")))??;
        let group = host
            .start_group(shared.descriptor.tablet.group(), Box::new(machine))
            .await
            .map_err(|e| error::consensus(&named, e))?;
        let (queue, requests) = mpsc::channel(QUEUE_LEN);
        let shutdown = Shutdown::new();
        let proposer = Proposer::new(
            shared.clone(),
            group.clone(),
            host.log().clone(),
            shutdown.child(),
            requests,
            initial_schema,
        );
        tasks.spawn(format!("proposer {}", shared.descriptor.tablet), proposer.run());
        let flusher = flush_when_wanted(shared.clone(), shutdown.child());
        tasks.spawn(format!("flusher {}", shared.descriptor.tablet), flusher);
        Ok(Tablet {
            inner: Arc::new(Inner {
                shared,
                host,
                group,
                queue,
                budget,
                shutdown,
            }),
        })
    }

    /// Which tablet this is.
    pub fn descriptor(&self) -> &TabletDescriptor {
        &self.inner.shared.descriptor
    }

    /// Its Raft group.
    pub fn group(&self) -> &Group {
        &self.inner.group
    }

    /// Stops the replica on this node; the log and the engine's files stay. What waits is answered. The engine closes as soon
    /// as the last cursor on it ends.
    pub async fn stop(&self) {
        self.inner.shutdown.trigger();
        self.inner.host.stop_group(self.inner.group.id()).await;
        // Handles may live on in other tasks; the engine must not, or it could not be opened again.
        self.inner.shared.replace_engine(Arc::new(ClosedEngine));
    }

    /// The schema as applied from the log.
    pub fn schema(&self) -> Option<Arc<TableSchema>> {
        self.inner.shared.schema()
    }

    /// True if this node leads the tablet, as far as it knows.
    pub fn leads(&self) -> bool {
        self.inner.group.leadership().is_own()
    }

    /// Writes a batch, on the leader: checks, normalises (R5), stamps (R2), waits for commit and apply.
    ///
    /// Rows that cannot be written fail alone. An error of the whole call says whether anything may have been done:
    /// `NOT_LEADER`, `BUSY` and `UNAVAILABLE` did nothing, `UNKNOWN_OUTCOME` may have.
    pub async fn write(&self, batch: PackedBatch, epoch: u32) -> Result<WriteOutcome> {
        let shared = &self.inner.shared;
        let gate = self.gate()?;
        let gate = gate.gate(shared);
        gate.check_epoch(epoch)?;
        self.check_feed_room()?;
        let rows = batch.rows_len();
        let Admitted {
            batch,
            kept,
            mut failures,
        } = gate.admit(&batch)?;
        let Some(batch) = batch else {
            return Ok(WriteOutcome {
                failures,
                rows_written: 0,
                first_stamp: None,
            });
        };
        let (answer, outcome) = oneshot::channel();
        self.send(batch.bytes().len(), What::Write(batch, answer))?;
        let (first, refused) = self.wait(outcome).await?;
        let original = |row: u32| kept.as_ref().map_or(row, |kept| kept[row as usize]);
        failures.extend(refused.into_iter().map(|(row, error)| (original(row), error)));
        failures.sort_by_key(|(row, _)| *row);
        let rows_written = rows.saturating_sub(failures.len()) as u32;
        shared.counters.rows_written.add(u64::from(rows_written));
        Ok(WriteOutcome {
            failures,
            rows_written,
            first_stamp: Some(first),
        })
    }

    /// Writes one of two mutations by a predicate, on the leader; returns whether it matched. Linearizable; once per token.
    pub async fn check_and_mutate(&self, op: CheckAndMutate) -> Result<bool> {
        let gate = self.gate()?;
        let gate = gate.gate(&self.inner.shared);
        gate.check_epoch(op.epoch)?;
        gate.check_key(&op.row)?;
        self.check_feed_room()?;
        let admit = |batch: Option<PackedBatch>| batch.map(|b| gate.admit_row(&op.row, &b)).transpose();
        let command = CheckAndMutateCommand {
            stamp: Stamp::MIN,
            terms: self.terms(op.token),
            on_match: admit(op.on_match)?,
            on_mismatch: admit(op.on_mismatch)?,
            predicate: op.predicate,
            row: op.row,
        };
        let batches = [&command.on_match, &command.on_mismatch];
        let bytes: usize = batches.into_iter().flatten().map(|b| b.bytes().len()).sum();
        let what = |answer| What::CheckAndMutate(Box::new(command), answer);
        let body = self.ask(bytes, what).await?;
        Ok(body.first().is_some_and(|matched| *matched != 0))
    }

    /// Applies appends and increments to one row, on the leader; returns what the columns hold now. Linearizable; once per
    /// token.
    pub async fn read_modify_write(&self, op: ReadModifyWrite) -> Result<Vec<OwnedCell>> {
        let gate = self.gate()?;
        let gate = gate.gate(&self.inner.shared);
        gate.check_epoch(op.epoch)?;
        gate.check_key(&op.row)?;
        gate.admit_rules(&op.rules)?;
        self.check_feed_room()?;
        let bytes = op.rules.iter().map(|r| r.qualifier.len() + 32).sum::<usize>() + op.row.len();
        let command = ReadModifyWriteCommand {
            stamp: Stamp::MIN,
            terms: self.terms(op.token),
            now_micros: gate.now_micros,
            row: op.row,
            rules: op.rules,
        };
        let what = |answer| What::ReadModifyWrite(Box::new(command), answer);
        let body = self.ask(bytes, what).await?;
        response::decode_cells(&body).map_err(response::defect)
    }

    /// Applies a peer's facts, on the leader: an encoded [`RemoteBatch`] in, an encoded [`crate::RemoteOutcome`] out. May be
    /// repeated and reordered.
    ///
    /// Refusals took nothing: `STREAM_WINDOW`, `QUARANTINE_FULL`, `PEER_NOT_LINKED`, `CLOCK_QUARANTINE` (R8).
    pub async fn apply_remote(&self, command: Bytes) -> Result<Bytes> {
        let shared = &self.inner.shared;
        let batch = RemoteBatch::decode(&command).map_err(|e| {
            Error::invalid(
                "REMOTE_BATCH_MALFORMED",
                format!("the remote batch is malformed: {}", e.0),
            )
        })?;
        let deletes_range = |row: RowRef<'_>| matches!(row, RowRef::RangeDelete { .. });
        let ranges = batch
            .parts
            .iter()
            .flat_map(|p| p.batch.rows())
            .filter(|r| deletes_range(r.clone()));
        let ranges = ranges.count();
        if ranges > 0 && shared.engine().range_tombstones() + ranges > limits::RANGE_TOMBSTONES_MAX {
            let error = range_tombstones_full();
            let text = error.message().to_owned();
            return Err(Error::unavailable(
                "RANGE_TOMBSTONES_FULL",
                text,
                Duration::from_secs(5),
            ));
        }
        let greatest = batch.greatest_hlc();
        let body = self
            .ask(command.len(), |answer| What::Remote(command, greatest, answer))
            .await?;
        let outcome = crate::RemoteOutcome::decode(&body).map_err(response::defect)?;
        shared.counters.remote_rows.add(outcome.rows_applied);
        if outcome.duplicate {
            shared.counters.remote_duplicates.inc();
        }
        Ok(body)
    }

    /// Proposes a schema if it is newer than the applied one. With `require_empty` it is refused (`TABLE_NOT_EMPTY`) if it
    /// adds a peer after rows were written; decided at apply, so that no write slips in between.
    pub async fn set_schema(&self, schema: Arc<TableSchema>, require_empty: bool) -> Result<()> {
        if self.schema().is_some_and(|applied| applied.revision >= schema.revision) {
            return Ok(());
        }
        let command = set_schema::encode(&schema, require_empty);
        self.ask(command.len(), |answer| What::Plain(command, answer))
            .await
            .map(drop)
    }

    /// The peer has every feed record up to `seq`, over that link; of these, `held` wait in its quarantine. What no peer
    /// needs any more is trimmed (R13).
    pub async fn acknowledge_feed(&self, peer: RegionId, link: u64, seq: u64, held: PeerQuarantine) -> Result<()> {
        if self
            .replication_state()
            .acked
            .get(&peer)
            .is_some_and(|acked| *acked >= seq)
        {
            return Ok(());
        }
        let command = acknowledge_feed::encode(&AcknowledgeFeed { peer, link, seq, held });
        self.ask(command.len(), |answer| What::Plain(command, answer))
            .await
            .map(drop)
    }

    /// Returns when a read of [`Tablet::engine`] made from now on is linearizable.
    pub async fn read_barrier(&self) -> Result<()> {
        let barrier = self.inner.group.read_barrier().await;
        barrier.map_err(|e| error::read(&self.inner.shared.descriptor, e))
    }

    /// The engine as it is now. Scans run on blocking threads of the caller; a snapshot may replace the engine meanwhile,
    /// and the old one stays readable for who holds it.
    pub fn engine(&self) -> Arc<dyn Engine> {
        self.inner.shared.engine()
    }

    /// Calls `each` for every cell that the spec lets through, in order, with the bytes of storage that were visited so far,
    /// until it returns false. The spec is normalised. With `in_memory` it never waits for a disk; without, it belongs on a
    /// thread that may.
    pub fn read_cells(
        &self,
        spec: &ReadSpec,
        in_memory: bool,
        mut each: impl FnMut(&CellRef<'_>, u64) -> bool,
    ) -> Result<ReadEnd> {
        let reader = Reader {
            engine: &*self.engine(),
            now_micros: self.now_micros(),
            in_memory,
        };
        let end = match asks_for_newest(spec) {
            true => reader.newest(spec, &mut each),
            false => reader.walk(spec, &mut each),
        };
        match end {
            Err(EngineError::NotInMemory(_)) if in_memory => Ok(ReadEnd::NotInMemory),
            end => end.map_err(error::engine_error),
        }
    }

    /// As [`Tablet::read_cells`], from rows that are kept ready alone. False if that is not all; what was given by then is true,
    /// and incomplete.
    pub fn read_kept(&self, spec: &ReadSpec, mut each: impl FnMut(&CellRef<'_>, u64) -> bool) -> bool {
        if !asks_for_newest(spec) {
            return false;
        }
        let reader = Reader {
            engine: &*self.engine(),
            now_micros: self.now_micros(),
            in_memory: true,
        };
        reader.kept(spec, &mut each)
    }

    /// The clock that decides expiry of reads, microseconds.
    pub fn now_micros(&self) -> i64 {
        self.inner.shared.clock.now_micros()
    }

    /// The digest of the visible cells of that part of the tablet (R25), as of `now_micros`.
    pub async fn digest(&self, range: RowRange, now_micros: i64) -> Result<RangeDigest> {
        let shared = self.inner.shared.clone();
        let range = range.intersect(&shared.descriptor.range);
        if range.is_empty() {
            return Ok(RangeDigest::default());
        }
        let digest = move || {
            let digest = shared.engine().digest(&range, now_micros);
            digest.map_err(|e| error::engine(&shared.descriptor, e))
        };
        let digest = tidemark_runtime::spawn_blocking(digest).await;
        digest.map_err(|e| Error::internal(format!("a digest panicked: {e}")))?
    }

    /// The groups of what a read of this tablet returns, as of `now_micros`. The spec is normalised.
    pub async fn aggregate(&self, mut spec: ReadSpec, now_micros: i64, wanted: AggregateSpec) -> Result<Aggregates> {
        let shared = self.inner.shared.clone();
        let mut groups = Aggregates::new(wanted);
        let ranges = spec
            .ranges
            .iter()
            .map(|range| range.intersect(&shared.descriptor.range));
        spec.ranges = ranges.filter(|range| !range.is_empty()).collect();
        if spec.ranges.is_empty() {
            return Ok(groups);
        }
        let gather = move || {
            let done = shared.engine().aggregate(&spec, now_micros, &mut groups);
            done.map(|()| groups).map_err(|e| error::engine(&shared.descriptor, e))
        };
        let gathered = tidemark_runtime::spawn_blocking(gather).await;
        gathered.map_err(|e| Error::internal(format!("an aggregate panicked: {e}")))?
    }

    /// What apply has reached.
    pub fn replication_state(&self) -> Arc<ReplicationState> {
        self.inner.shared.replication()
    }

    /// Wakes after every apply: for the shipper and watermarks.
    pub fn watch_replication(&self) -> watch::Receiver<Arc<ReplicationState>> {
        self.inner.shared.watch_replication()
    }

    /// The hlc of the oldest write that the peer has not acknowledged; `None` if it has them all. Closing records are no
    /// writes. Usually answered from memory; otherwise it reads the feed.
    pub fn oldest_unacked_hlc(&self, peer: RegionId) -> Result<Option<u64>> {
        let shared = &self.inner.shared;
        let state = shared.replication();
        let acked = state.acked.get(&peer).copied().unwrap_or(0);
        if acked >= state.last_rows_seq {
            return Ok(None);
        }
        if let Some((seq, hlc)) = shared.oldest_unacked.lock().get(&peer)
            && *seq > acked
        {
            return Ok(Some(*hlc));
        }
        let found = self
            .first_rows_after(acked)
            .map_err(|e| error::engine(&shared.descriptor, e))?;
        if let Some(found) = found {
            shared.oldest_unacked.lock().insert(peer, found);
        }
        Ok(found.map(|(_, hlc)| hlc))
    }

    fn first_rows_after(&self, acked: u64) -> std::result::Result<Option<(u64, u64)>, tidemark_engine::EngineError> {
        let engine = self.engine();
        let mut from = acked + 1;
        loop {
            let records = engine.feed(from, FEED_LOOK_BYTES)?;
            let Some(last) = records.last() else {
                return Ok(None);
            };
            from = last.seq + 1;
            for record in &records {
                // A record that does not decode may carry rows; its age is that of the next one that does.
                if let Ok(FeedHead { rows: true, first }) = FeedHead::decode(&record.bytes) {
                    return Ok(Some((record.seq, first.hlc)));
                }
            }
        }
    }

    /// What waits in quarantine, of all peers or of one, by stream and record: at most `limit` entries, and fewer where they
    /// are large. Any replica may be asked; one that follows may be a moment behind.
    pub async fn quarantine(&self, region: Option<RegionId>, limit: usize) -> Result<QuarantinePage> {
        let shared = self.inner.shared.clone();
        let page = move || {
            let page = quarantine::page(&*shared.engine(), region, limit);
            page.map_err(|e| error::engine(&shared.descriptor, e))
        };
        let page = tidemark_runtime::spawn_blocking(page).await;
        page.map_err(|e| Error::internal(format!("showing the quarantine panicked: {e}")))?
    }

    /// Gives up what waits in quarantine of that peer, on the leader: the named entries, or all of it. The rows will never
    /// be here, and `complete` no longer waits for them. For an operator who has decided so; nothing else calls it.
    pub async fn discard_quarantine(&self, region: RegionId, places: &[(StreamId, u64)]) -> Result<Discarded> {
        if places.len() > discard::PLACES_MAX {
            let say = format!(
                "{} entries are named; at most {} at a time",
                places.len(),
                discard::PLACES_MAX
            );
            return Err(Error::invalid("ENTRIES_TOO_MANY", say).action("name fewer, or discard all of a peer's"));
        }
        let command = discard::encode(region, places);
        let body = self.ask(command.len(), |answer| What::Plain(command, answer)).await?;
        discard::decode_answer(&body).map_err(response::defect)
    }

    /// R8: whether this node may stamp. While it may not, writes get `CLOCK_SKEW`; reads and remote facts go on. Allowed
    /// means that the clock is right at this moment; if it jumps before the next call, stamping ends by itself.
    pub fn set_stamping_allowed(&self, allowed: bool, reason: &str) {
        let shared = &self.inner.shared;
        if allowed {
            *shared.clock_found_right.lock() = Some((shared.clock.now_ms(), shared.clock.monotonic()));
        }
        *shared.stamping_refused.lock() = (!allowed).then(|| reason.to_owned());
    }

    /// What an operator must look at: a poisoned engine, a fault of apply or of the group.
    pub fn trouble(&self) -> Option<String> {
        let shared = &self.inner.shared;
        let fault = shared.fault.lock().clone();
        let fault = fault.or_else(|| self.inner.group.status().fault);
        fault.or_else(|| shared.engine().poisoned())
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// Puts a request into the proposer's queue, or says at once that there is no room.
    pub(crate) fn send(&self, bytes: usize, what: What) -> Result<()> {
        let descriptor = &self.inner.shared.descriptor;
        if self.inner.shared.no_space.load(Ordering::Relaxed) {
            return Err(error::apply_waits(descriptor));
        }
        let bytes = (bytes + REQUEST_BYTES).min(self.inner.budget.capacity());
        let permit = self.inner.budget.try_acquire(bytes);
        let permit = permit.ok_or_else(|| error::queue_full(descriptor))?;
        self.inner
            .queue
            .try_send(Request { what, permit })
            .map_err(|e| match e {
                mpsc::error::TrySendError::Full(_) => error::queue_full(descriptor),
                mpsc::error::TrySendError::Closed(_) => error::stopped("the tablet does not run on this node any more"),
            })
    }

    /// Waits for an answer of the proposer. The request stays in the log's order whatever becomes of the caller.
    pub(crate) async fn wait<T>(&self, outcome: oneshot::Receiver<Result<T>>) -> Result<T> {
        let patience = Duration::from_millis(self.inner.shared.settings.write_timeout_ms);
        match tokio::time::timeout(patience, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(error::unknown_outcome("the tablet stopped before it answered")),
            Err(_) => Err(error::unknown_outcome(format!(
                "no answer within {} ms",
                patience.as_millis()
            ))),
        }
        .map_err(|e| {
            if e.object_name().is_empty() {
                e.object(self.descriptor().to_string())
            } else {
                e
            }
        })
    }

    fn gate(&self) -> Result<GateParts> {
        let shared = &self.inner.shared;
        let status = self.inner.group.status();
        if status.role != Role::Leader {
            return Err(error::not_leader(&shared.descriptor, status.leader));
        }
        let schema = shared.schema().ok_or_else(crate::apply::schema_pending)?;
        Ok(GateParts {
            schema,
            now_micros: shared.clock.now_micros(),
            range_tombstones: shared.engine().range_tombstones(),
        })
    }

    fn check_feed_room(&self) -> Result<()> {
        let max = self.inner.shared.settings.feed_bytes_max;
        let held = if max == 0 {
            0
        } else {
            self.replication_state().feed_bytes
        };
        if held <= max {
            return Ok(());
        }
        let text = format!("the feed holds {held} bytes that a peer has not taken; {max} is the bound");
        Err(Error::unavailable("FEED_FULL", text, Duration::from_secs(5))
            .action("bring the peer back, or give it up: tidemark replication disable"))
    }

    fn terms(&self, token: Token) -> TokenTerms {
        TokenTerms {
            token,
            expiry_ms: 0,
            tokens_max: self.inner.shared.settings.tokens_max,
        }
    }
}

/// What a gate is made of, owned across the checks.
struct GateParts {
    schema: Arc<TableSchema>,
    now_micros: i64,
    range_tombstones: usize,
}

impl GateParts {
    fn gate<'a>(&'a self, shared: &'a Shared) -> Gate<'a> {
        Gate {
            descriptor: &shared.descriptor,
            schema: &self.schema,
            now_micros: self.now_micros,
            range_tombstones: self.range_tombstones,
        }
    }
}

/// Flushes whenever someone asks, one flush at a time.
async fn flush_when_wanted(shared: Arc<Shared>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            _ = shutdown.wait() => return,
            _ = shared.flush_wanted.notified() => {}
        }
        let flushing = shared.clone();
        match tidemark_runtime::spawn_blocking(move || flushing.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(tablet = %shared.descriptor, %error, "flush failed; asked again later"),
            Err(error) => tracing::error!(tablet = %shared.descriptor, %error, "flush panicked"),
        }
    }
}
