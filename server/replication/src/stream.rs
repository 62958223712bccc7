//! One stream's task: carries out what [`crate::stream_core`] decides, and shows how the stream stands.
//!
//! Everything that can wake it is in one `select!`: an answer from the peer, a run from the feed, a look at the unread
//! part, a position written down, a change of the feed, an order (pause, stop), and time.

use crate::cause::Cause;
use crate::counters::Counters;
use crate::feed_reader::{self, FeedRead, Peeked};
use crate::lag::{Lacking, Lag, millis};
use crate::link::{PeerLink, RegionIdentity, Ship, Shipped};
use crate::report::{StreamReport, StreamState};
use crate::settings::RUN_HELD_BYTES_MAX;
use crate::settings::ReplicationSettings;
use crate::stream_core::{FeedEnd, Step, StreamCore, StreamStart};
use crate::window::Message;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::{Error, RegionId, Result, TableId};
use tidemark_runtime::{ByteBudget, Entropy, Permit, SharedClock, Shutdown};
use tidemark_tablet::{ReplicationState, Tablet};
use tokio::sync::watch;

/// A stream that has not shown itself for that long is not believed any more.
const STALLED_MS: u64 = 5_000;

/// What a stream is made from.
pub struct StreamParts {
    /// The tablet, led here.
    pub tablet: Tablet,
    /// In which term.
    pub term: u64,
    /// This region.
    pub from: RegionIdentity,
    /// Name of the table.
    pub table: String,
    /// Name of the peer.
    pub peer: String,
    /// Its number.
    pub peer_region: RegionId,
    /// The table's number there.
    pub peer_table: TableId,
    /// Which link this is, as the schema numbers it.
    pub link_number: u64,
    /// When it was made.
    pub linked_at_ms: u64,
    /// The way to it.
    pub link: Arc<dyn PeerLink>,
    /// Bounds.
    pub settings: Arc<ReplicationSettings>,
    /// Memory that all streams to this peer share.
    pub memory: ByteBudget,
    /// Time.
    pub clock: SharedClock,
    /// Jitter.
    pub entropy: Entropy,
    /// What was moved.
    pub counters: Arc<Counters>,
    /// True while an operator holds the link.
    pub paused: watch::Receiver<bool>,
    /// Where the stream shows itself.
    pub view: Arc<Mutex<StreamView>>,
    /// Ends the stream.
    pub stop: Shutdown,
}

/// How a stream stands, as last shown; ages are computed when it is asked for, so that a stuck task cannot keep a lag
/// small.
#[derive(Clone, Debug)]
pub struct StreamView {
    /// Table name.
    pub table: String,
    /// Peer name.
    pub peer: String,
    /// Tablet number.
    pub tablet: u64,
    /// Term of the leader.
    pub term: u64,
    /// Held by an operator.
    pub paused: bool,
    /// Why it does not simply flow.
    pub cause: Option<Cause>,
    /// What the peer lacks, as far as it is known.
    pub lacking: Lacking,
    /// Acknowledged up to here.
    pub acked_seq: u64,
    /// Last record.
    pub last_seq: u64,
    /// Everything of the tablet up to here is applied at the peer; 0 = not known.
    pub acknowledged_hlc: u64,
    /// Bytes in the feed.
    pub feed_bytes: u64,
    /// When the stream last showed itself, monotonic.
    pub updated_at: Duration,
}

impl StreamView {
    /// The view of a stream that has not run yet: what can be seen at a first look.
    pub fn new(
        (table, peer): (String, String),
        first: &StreamCore,
        tablet: u64,
        term: u64,
        now: Duration,
    ) -> StreamView {
        StreamView {
            table,
            peer,
            tablet,
            term,
            paused: false,
            cause: first.cause(),
            lacking: first.lacking(),
            acked_seq: 0,
            last_seq: 0,
            acknowledged_hlc: 0,
            feed_bytes: 0,
            updated_at: now,
        }
    }

    /// The lag at this moment. Of a stream that is silent for long nobody knows what came to it meanwhile: that is not
    /// older than its silence.
    pub fn lag(&self, now_ms: u64, now: Duration) -> Lag {
        let shown = self.lacking.lag(now_ms, now);
        let silent = millis(now.saturating_sub(self.updated_at));
        if silent <= STALLED_MS {
            return shown;
        }
        Lag {
            ms: shown.ms.max(silent),
            known: false,
        }
    }

    /// The report at this moment, of a leadership that is not confirmed for that long.
    pub fn report(&self, now_ms: u64, now: Duration, unconfirmed: Duration, lag_warn_ms: u64) -> StreamReport {
        let link_age_ms = now_ms.saturating_sub(self.lacking.linked_at_ms);
        let lag = self.lag(now_ms, now).confirmed(unconfirmed, link_age_ms);
        let silent = millis(now.saturating_sub(self.updated_at));
        let cause = match (self.paused, silent > STALLED_MS) {
            (true, _) => Some(Cause::Paused),
            (false, true) => Some(Cause::Stalled(silent)),
            (false, false) => self.cause.clone(),
        };
        let state = match &cause {
            Some(Cause::Paused) => StreamState::Paused,
            Some(cause) if cause.blocks() => StreamState::Blocked,
            _ if lag.ms > lag_warn_ms => StreamState::Lagging,
            _ => StreamState::Streaming,
        };
        let words = |cause: &Cause| (cause.words(&self.peer), cause.action(&self.table, &self.peer));
        let (words, action) = cause.as_ref().map(words).unwrap_or_default();
        StreamReport {
            table: self.table.clone(),
            peer: self.peer.clone(),
            tablet: self.tablet,
            term: self.term,
            state,
            cause: words,
            action,
            lag_ms: lag.ms,
            lag_known: lag.known,
            backlog_records: self.last_seq.saturating_sub(self.acked_seq),
            backlog_bytes: if self.last_seq > self.acked_seq {
                self.feed_bytes
            } else {
                0
            },
            acked_seq: self.acked_seq,
            last_seq: self.last_seq,
            acknowledged_micros: ((self.acknowledged_hlc >> 16) * 1_000) as i64,
            rows_quarantined: self.lacking.held.rows,
        }
    }
}

type Read = (std::result::Result<FeedRead, String>, Option<Permit>, Duration);

/// What is under way. Each is at most one, but the messages, which the window bounds.
struct Running {
    sends: FuturesUnordered<BoxFuture<'static, (u64, Result<Shipped>)>>,
    read: Option<BoxFuture<'static, Read>>,
    peek: Option<BoxFuture<'static, std::result::Result<Peeked, String>>>,
    ack: Option<BoxFuture<'static, Option<u64>>>,
}

/// Runs a stream until it is stopped. Dropping what is under way is harmless: everything is repeatable.
pub async fn run(parts: StreamParts) {
    let mut feed = parts.tablet.watch_replication();
    let mut paused = parts.paused.clone();
    let tick = Duration::from_millis(parts.settings.reconcile_interval_ms);
    let link = LinkStart {
        peer: parts.peer_region,
        number: parts.link_number,
        made_at_ms: parts.linked_at_ms,
    };
    let mut core = first_look(&parts.tablet, link, parts.settings.clone(), parts.clock.monotonic());
    let acked_seq = core.window().acked_seq();
    let mut running = Running {
        sends: FuturesUnordered::new(),
        read: None,
        peek: None,
        ack: None,
    };
    tracing::debug!(table = parts.table, peer = parts.peer, tablet = %parts.tablet.descriptor().tablet, acked_seq, "stream starts");
    loop {
        look_around(&parts, &mut core, &mut feed, &mut paused);
        let wait = begin_steps(&parts, &mut core, &mut running);
        show(&parts, &core, &feed);
        let sleep = wait.map_or(tick, |wait| wait.clamp(Duration::from_millis(1), tick));
        tokio::select! {
            _ = parts.stop.wait() => return,
            Some((first_seq, answer)) = running.sends.next(), if !running.sends.is_empty() => {
                answered(&parts, &mut core, first_seq, answer);
            }
            read = pending(&mut running.read) => finished_read(&parts, &mut core, &mut running, read),
            peeked = pending(&mut running.peek) => match peeked {
                Ok(peeked) => core.peeked(peeked.found, peeked.to_seq, parts.clock.monotonic()),
                Err(_) => core.peek_failed(),
            },
            written = pending(&mut running.ack) => core.ack_done(written, parts.clock.monotonic()),
            changed = feed.changed() => if changed.is_err() { return },
            changed = paused.changed() => if changed.is_err() { return },
            _ = tokio::time::sleep(sleep) => {}
        }
    }
}

/// A link as a stream begins on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkStart {
    pub(crate) peer: RegionId,
    pub(crate) number: u64,
    pub(crate) made_at_ms: u64,
}

/// A stream at the moment at which it begins: what the tablet knows of it.
pub(crate) fn first_look(
    tablet: &Tablet,
    link: LinkStart,
    settings: Arc<ReplicationSettings>,
    now: Duration,
) -> StreamCore {
    let (state, peer) = (tablet.replication_state(), &link.peer);
    let start = StreamStart {
        acked_seq: state.acked.get(peer).copied(),
        acked_hlc: state.acked_hlc.get(peer).copied().unwrap_or(0),
        held: state.acked_held.get(peer).copied().unwrap_or_default(),
        linked_at_ms: link.made_at_ms,
    };
    let mut core = StreamCore::new(settings, start, now);
    core.set_schema_known(schema_names(tablet, link.peer, link.number));
    core.feed_at(feed_end(&state, link.peer), now);
    core
}

fn schema_names(tablet: &Tablet, peer: RegionId, link: u64) -> bool {
    tablet.schema().is_some_and(|schema| schema.link(peer) == Some(link))
}

fn feed_end(state: &ReplicationState, peer: RegionId) -> FeedEnd {
    FeedEnd {
        last_seq: state.feed_last_seq,
        last_rows_seq: state.last_rows_seq,
        persisted_seq: state.acked.get(&peer).copied(),
    }
}

/// Waits for a future that may not be there; takes it away when it is done.
async fn pending<T>(slot: &mut Option<BoxFuture<'static, T>>) -> T {
    match slot {
        Some(future) => {
            let value = future.await;
            *slot = None;
            value
        }
        None => std::future::pending().await,
    }
}

fn look_around(
    parts: &StreamParts,
    core: &mut StreamCore,
    feed: &mut watch::Receiver<Arc<ReplicationState>>,
    paused: &mut watch::Receiver<bool>,
) {
    let state = feed.borrow_and_update().clone();
    core.set_schema_known(schema_names(&parts.tablet, parts.peer_region, parts.link_number));
    core.set_paused(*paused.borrow_and_update());
    core.feed_at(feed_end(&state, parts.peer_region), parts.clock.monotonic());
}

/// Begins everything that is to be done now; returns how long nothing more is.
fn begin_steps(parts: &StreamParts, core: &mut StreamCore, running: &mut Running) -> Option<Duration> {
    loop {
        let now = parts.clock.monotonic();
        match core.next(now) {
            Step::Send(mut ship) => {
                core.put_lag(&mut ship, parts.clock.now_ms(), now);
                send(parts, core, running, *ship);
            }
            Step::Read { from_seq, fresh } => running.read = Some(begin_read(parts, from_seq, fresh)),
            Step::Peek { from_seq } => {
                let tablet = parts.tablet.clone();
                running.peek = Some(Box::pin(blocking(move || feed_reader::peek(&tablet, from_seq))));
            }
            Step::Ack(seq, held) => {
                let (tablet, peer, link) = (parts.tablet.clone(), parts.peer_region, parts.link_number);
                running.ack = Some(Box::pin(async move {
                    match tablet.acknowledge_feed(peer, link, seq, held).await {
                        Ok(()) => Some(seq),
                        Err(error) => {
                            tracing::debug!(tablet = %tablet.descriptor().tablet, %error, "position not written down; later");
                            None
                        }
                    }
                }));
            }
            Step::Wait(until) => return until.map(|until| until.saturating_sub(now)),
        }
    }
}

fn begin_read(parts: &StreamParts, from_seq: u64, fresh: bool) -> BoxFuture<'static, Read> {
    let (tablet, memory, clock) = (parts.tablet.clone(), parts.memory.clone(), parts.clock.clone());
    let bytes_max = parts.settings.ship_bytes_max;
    Box::pin(async move {
        // Of the greatest run, because the next record may have the greatest size; what is not needed goes back at once.
        // Whoever waits here holds only messages that go out without reading: nobody waits for him in turn. The settings
        // see to it that the budget holds one such run; if not, reading without a permit is better than a stream that
        // stops.
        let permit = memory.acquire(RUN_HELD_BYTES_MAX).await.ok();
        let read = blocking(move || feed_reader::read_run(&tablet, from_seq, fresh, bytes_max)).await;
        (read, permit, clock.monotonic())
    })
}

async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> std::result::Result<T, String> + Send + 'static,
) -> std::result::Result<T, String> {
    match tidemark_runtime::spawn_blocking(job).await {
        Ok(result) => result,
        Err(error) => Err(format!("the reader stopped: {error}")),
    }
}

fn finished_read(parts: &StreamParts, core: &mut StreamCore, running: &mut Running, read: Read) {
    let (result, permit, read_at) = read;
    let now = parts.clock.monotonic();
    match result {
        Ok(FeedRead::Run(run)) => {
            let ship = Ship {
                from: parts.from.clone(),
                table: parts.table.clone(),
                from_table: parts.tablet.descriptor().table,
                to_table: parts.peer_table,
                tablet: parts.tablet.descriptor().tablet,
                range: parts.tablet.descriptor().range.clone(),
                first_seq: core.window().next_seq(),
                last_seq: run.last_seq,
                codec: run.codec,
                records: run.records,
                records_bytes: run.records_bytes,
                lag_ms: 0,
                lag_known: false,
            };
            let memory = permit.map(|mut permit| {
                permit.shrink_to(run.records_bytes as usize);
                Arc::new(permit)
            });
            let message = Message {
                ship,
                rows: run.rows,
                oldest_rows_hlc: run.oldest_rows_hlc,
                closed_hlc: run.closed_hlc,
                read_at,
                memory,
            };
            let ship = core.read_done(message, run.full, parts.clock.now_ms(), now);
            send(parts, core, running, ship);
        }
        Ok(FeedRead::Empty) => core.read_empty(now),
        // Another leader has shipped it and let the feed be cut: nothing is missing, and this stream is about to be ended.
        Ok(FeedRead::Trimmed { .. }) if !leads_in(&parts.tablet, parts.term) => core.read_empty(now),
        Ok(FeedRead::Trimmed { first_seq }) => {
            tracing::error!(
                table = parts.table,
                peer = parts.peer,
                first_seq,
                "the feed lacks what the peer needs"
            );
            core.feed_trimmed(first_seq);
        }
        Err(why) => {
            tracing::error!(table = parts.table, peer = parts.peer, %why, "the feed cannot be read");
            core.read_failed(why, now);
        }
    }
}

/// True while this node leads the tablet in the very term in which the stream was started.
fn leads_in(tablet: &Tablet, term: u64) -> bool {
    let status = tablet.group().status();
    tablet.leads() && status.term == term
}

fn send(parts: &StreamParts, core: &StreamCore, running: &Running, mut ship: Ship) {
    let leadership = parts.tablet.group().leadership();
    let unconfirmed = match leadership.is_own() {
        true => leadership.unconfirmed,
        false => Duration::MAX,
    };
    core.put_confirmed_lag(&mut ship, unconfirmed, parts.clock.now_ms());
    let sends = core.window().message(ship.first_seq).map_or(1, |(_, sends)| sends);
    parts
        .counters
        .sending(&parts.table, &parts.peer, ship.records.len() as u64, sends);
    let link = parts.link.clone();
    let timeout = Duration::from_millis(parts.settings.ship_timeout_ms);
    running.sends.push(Box::pin(async move {
        let first_seq = ship.first_seq;
        let answer = match tokio::time::timeout(timeout, link.ship(ship)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::new(
                tidemark_base::ErrorKind::DeadlineExceeded,
                "SHIP_TIMEOUT",
                format!("no answer within {} ms", timeout.as_millis()),
            )),
        };
        (first_seq, answer)
    }));
}

fn answered(parts: &StreamParts, core: &mut StreamCore, first_seq: u64, answer: Result<Shipped>) {
    let now = parts.clock.monotonic();
    let answer = match answer {
        Ok(shipped) if shipped.clock_quarantine => {
            let cause = Cause::ClockQuarantine(shipped.cause);
            let delay = Duration::from_millis(parts.settings.retry_delay_max_ms);
            Err((cause, delay))
        }
        Ok(shipped) => Ok(shipped),
        Err(error) => Err(core.judge(&error)),
    };
    match answer {
        Ok(shipped) => {
            let advance = core.sent_ok(first_seq, &shipped, now);
            parts.counters.shipped(&parts.table, &parts.peer, advance.rows);
        }
        Err((cause, delay)) => {
            if core.cause().as_ref() != Some(&cause) {
                tracing::warn!(
                    table = parts.table, peer = parts.peer, tablet = %parts.tablet.descriptor().tablet,
                    cause = %cause.words(&parts.peer), "shipping is held up"
                );
            }
            core.sent_failed(first_seq, cause, now + parts.entropy.jitter(delay));
        }
    }
}

fn show(parts: &StreamParts, core: &StreamCore, feed: &watch::Receiver<Arc<ReplicationState>>) {
    let state = feed.borrow().clone();
    let acked_seq = core.window().acked_seq();
    let acknowledged_hlc = core.acknowledged_hlc(state.feed_last_seq, state.closed);
    let mut view = parts.view.lock();
    view.paused = core.paused();
    view.cause = core.cause();
    view.lacking = core.lacking();
    view.acked_seq = acked_seq;
    view.last_seq = core.last_seq();
    view.acknowledged_hlc = acknowledged_hlc;
    view.feed_bytes = state.feed_bytes;
    view.updated_at = parts.clock.monotonic();
}
