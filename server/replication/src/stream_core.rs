//! What one stream decides: what to send, read, look for and write down next. Synchronous, with one owner, without a
//! clock, and tested with lists of events; [`crate::stream`] carries its decisions out.
//!
//! ```text
//! next(now) -> Send     a message whose retry is due
//!            | Read     the next run from the feed          (window has room, something is there, linger is over)
//!            | Peek     how old is what waits unread?       (nothing can be read now: paused or failing)
//!            | Ack      write the acknowledged position down
//!            | Wait     until an event or that moment
//! events: feed_at, read_done, sent_ok, sent_failed, peeked, ack_done, set_paused, set_schema_known
//! ```

use crate::cause::Cause;
use crate::link::{Ship, Shipped};
use crate::settings::ReplicationSettings;
use crate::window::{Advance, Message, Window};
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::Error;
use tidemark_runtime::planted::{Bug, planted};

/// After so many failures in a row the window is given up and read anew, one message at a time: what is held for a peer
/// that is away is memory that others need.
const FAILURES_BEFORE_RESTART: u32 = 3;
/// How long to wait between two looks at what lies unread.
const PEEK_INTERVAL: Duration = Duration::from_millis(500);

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Send this message again.
    Send(Box<Ship>),
    /// Read a run that begins there.
    Read {
        /// First sequence wanted.
        from_seq: u64,
        /// The peer has acknowledged nothing yet: a feed that begins later had nothing for it before.
        fresh: bool,
    },
    /// Find the oldest row mutation at or after that sequence.
    Peek {
        /// First sequence to look at.
        from_seq: u64,
    },
    /// Write the acknowledged position into the tablet.
    Ack(u64),
    /// Nothing until an event, or until that moment.
    Wait(Option<Duration>),
}

/// The oldest row mutation that is not applied at the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oldest {
    /// Its time by this region's hybrid logical clock; `None` if only known to exist.
    pub hlc: Option<u64>,
    /// When this stream first saw it, monotonic.
    pub seen_at: Duration,
}

impl Oldest {
    /// R23: its age by the local clock. Never less than the time for which it has been in sight: a clock that jumps back,
    /// or stamps pulled ahead by another region, must not make the lag small.
    pub fn age_ms(&self, now_ms: u64, now: Duration) -> u64 {
        let by_clock = self.hlc.map_or(0, |hlc| now_ms.saturating_sub(hlc >> 16));
        by_clock.max(millis(now.saturating_sub(self.seen_at)))
    }
}

/// Whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Where the feed ends, as the tablet publishes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedEnd {
    /// Last record.
    pub last_seq: u64,
    /// Last record that carries rows; 0 = none.
    pub last_rows_seq: u64,
    /// What the tablet has written down as acknowledged by the peer.
    pub persisted_seq: Option<u64>,
}

#[derive(Debug, Default)]
struct Peek {
    /// Nothing below it carries rows, or is known otherwise.
    from_seq: u64,
    found: Option<(u64, Oldest)>,
    running: bool,
    last_at: Option<Duration>,
}

/// See the module.
#[derive(Debug)]
pub struct StreamCore {
    settings: Arc<ReplicationSettings>,
    window: Window,
    /// The peer had acknowledged nothing when this stream began, and has not since.
    fresh: bool,
    /// What the tablet has written down.
    persisted_seq: u64,
    acking: bool,
    acked_at: Duration,
    /// Last record in the feed.
    last_seq: u64,
    /// Last record in it that carries rows.
    last_rows_seq: u64,
    /// Since when rows lie unread.
    behind_since: Option<Duration>,
    reading: bool,
    linger_until: Duration,
    read_retry_at: Option<Duration>,
    peek: Peek,
    paused: bool,
    schema_known: bool,
    failures: u32,
    cause: Option<Cause>,
    /// A state that no retry ends.
    halted: Option<Cause>,
    rows_quarantined: u64,
    complete_hlc: u64,
}

impl StreamCore {
    /// A stream that begins behind what the tablet has written down as acknowledged; `None` = nothing yet.
    pub fn new(settings: Arc<ReplicationSettings>, acked_seq: Option<u64>, now: Duration) -> StreamCore {
        let acked = acked_seq.unwrap_or(0);
        StreamCore {
            window: Window::new(acked, settings.ship_window),
            settings,
            fresh: acked_seq.is_none(),
            persisted_seq: acked,
            acking: false,
            acked_at: now,
            last_seq: acked,
            last_rows_seq: 0,
            behind_since: None,
            reading: false,
            linger_until: Duration::ZERO,
            read_retry_at: None,
            peek: Peek::default(),
            paused: false,
            schema_known: false,
            failures: 0,
            cause: None,
            halted: None,
            rows_quarantined: 0,
            complete_hlc: 0,
        }
    }

    /// What to do now. Each answer but `Wait` is marked as begun: its event must follow.
    pub fn next(&mut self, now: Duration) -> Step {
        if let Some(seq) = self.ack_due(now) {
            self.acking = true;
            return Step::Ack(seq);
        }
        // Planted: a pause stops reading, and nobody thought of the retries.
        if planted(Bug::PausedStreamRetried)
            && self.paused
            && let Some(ship) = self.window.take_retry(now)
        {
            return Step::Send(Box::new(ship));
        }
        if self.may_ship() {
            if let Some(ship) = self.window.take_retry(now) {
                return Step::Send(Box::new(ship));
            }
            if self.may_read(now) {
                self.reading = true;
                let (from_seq, fresh) = (self.window.next_seq(), self.fresh);
                return Step::Read { from_seq, fresh };
            }
        }
        if self.peek_due(now) {
            self.peek.running = true;
            self.peek.last_at = Some(now);
            let from_seq = self.peek.from_seq.max(self.window.next_seq());
            return Step::Peek { from_seq };
        }
        Step::Wait(self.wake_at(now))
    }

    fn may_ship(&self) -> bool {
        !self.paused && self.schema_known && self.halted.is_none()
    }

    fn may_read(&self, now: Duration) -> bool {
        !self.reading
            && self.window.next_seq() <= self.last_seq
            && self.window.has_room()
            && self.linger_until <= now
            && self.read_retry_at.is_none_or(|at| at <= now)
    }

    fn ack_due(&self, now: Duration) -> Option<u64> {
        let acked = self.window.acked_seq();
        let advanced = acked.saturating_sub(self.persisted_seq);
        let due = advanced >= self.settings.ack_records || now >= self.acked_at + self.settings.ack_interval();
        (advanced > 0 && !self.acking && due).then_some(acked)
    }

    /// Only when what lies unread will not be read at once: otherwise reading answers the question.
    fn peek_due(&self, now: Duration) -> bool {
        let unread = self.rows_unread();
        let known = self.window.oldest_rows().is_some() || self.peek_found().is_some();
        let soon = self.may_ship() && self.window.has_room() && self.read_retry_at.is_none();
        let rested = self.peek.last_at.is_none_or(|at| now >= at + PEEK_INTERVAL);
        let further = self.peek.from_seq.max(self.window.next_seq()) <= self.last_rows_seq;
        unread && !known && !soon && rested && further && !self.peek.running
    }

    fn peek_found(&self) -> Option<Oldest> {
        self.peek
            .found
            .filter(|(seq, _)| *seq >= self.window.next_seq())
            .map(|(_, oldest)| oldest)
    }

    fn wake_at(&self, now: Duration) -> Option<Duration> {
        let mut moments = Vec::with_capacity(4);
        if self.window.acked_seq() > self.persisted_seq && !self.acking {
            moments.push(self.acked_at + self.settings.ack_interval());
        }
        if self.may_ship() {
            moments.extend(self.window.earliest_retry());
            if self.window.next_seq() <= self.last_seq && self.window.has_room() && !self.reading {
                moments.push(
                    self.read_retry_at
                        .map_or(self.linger_until, |at| at.max(self.linger_until)),
                );
            }
        }
        moments.into_iter().filter(|at| *at > now).min()
    }

    /// The feed now ends there.
    pub fn feed_at(&mut self, end: FeedEnd, now: Duration) {
        self.last_seq = self.last_seq.max(end.last_seq);
        self.last_rows_seq = self.last_rows_seq.max(end.last_rows_seq);
        self.persisted_seq = self.persisted_seq.max(end.persisted_seq.unwrap_or(0));
        self.note_unread(now);
    }

    fn rows_unread(&self) -> bool {
        self.window.next_seq() <= self.last_rows_seq
    }

    fn note_unread(&mut self, now: Duration) {
        match self.rows_unread() {
            true => _ = self.behind_since.get_or_insert(now),
            false => self.behind_since = None,
        }
    }

    /// A run was read and goes out now; `full` if the feed had more than fits. Its lag is set here.
    pub fn read_done(&mut self, mut message: Message, full: bool, now_ms: u64, now: Duration) -> Ship {
        self.reading = false;
        self.read_retry_at = None;
        self.linger_until = if full {
            Duration::ZERO
        } else {
            now + self.settings.ship_linger()
        };
        if matches!(self.cause, Some(Cause::FeedUnreadable(_))) {
            self.cause = None;
        }
        // What the origin itself could not read has no time of its own.
        if message.oldest_rows_hlc == Some(0) {
            message.oldest_rows_hlc = Some(now_ms << 16);
        }
        let (first_seq, mut ship) = (message.ship.first_seq, message.ship.clone());
        // Reading sees what is committed, which the tablet may publish a moment later.
        self.last_seq = self.last_seq.max(ship.last_seq);
        self.window.push(message);
        self.behind_since = None;
        self.note_unread(now);
        ship.lag_ms = self.lag_ms(now_ms, now);
        debug_assert_eq!(
            ship.first_seq, first_seq,
            "the message that was read is the message that goes"
        );
        ship
    }

    /// The feed had nothing there after all.
    pub fn read_empty(&mut self, now: Duration) {
        self.reading = false;
        self.read_retry_at = Some(now + self.settings.ship_linger().max(Duration::from_millis(10)));
    }

    /// The feed could not be read; it is tried again after a while.
    pub fn read_failed(&mut self, why: String, now: Duration) {
        self.reading = false;
        self.read_retry_at = Some(now + Duration::from_millis(self.settings.retry_delay_max_ms));
        self.cause = Some(Cause::FeedUnreadable(why));
    }

    /// The feed no longer holds what the peer needs.
    pub fn feed_trimmed(&mut self, first_seq: u64) {
        self.reading = false;
        let wanted_seq = self.window.next_seq();
        self.halted = Some(Cause::FeedTrimmed { wanted_seq, first_seq });
    }

    /// The peer answered.
    pub fn sent_ok(&mut self, first_seq: u64, answer: &Shipped, now: Duration) -> Advance {
        if answer.applied_seq > self.last_seq {
            self.halted = Some(Cause::PeerAhead {
                applied_seq: answer.applied_seq,
                last_seq: self.last_seq,
            });
            return Advance::default();
        }
        self.failures = 0;
        self.rows_quarantined = answer.rows_quarantined;
        self.complete_hlc = self.complete_hlc.max(answer.complete_hlc);
        let behind = !self.fresh && answer.applied_seq < self.window.acked_seq();
        self.cause = behind.then(|| Cause::PeerBehind {
            applied_seq: answer.applied_seq,
            acked_seq: self.window.acked_seq(),
        });
        let advance = self.window.succeeded(first_seq, answer.applied_seq);
        self.fresh &= self.window.acked_seq() == 0;
        self.behind_since = None;
        self.note_unread(now);
        advance
    }

    /// The peer took nothing, or nobody knows; the message goes again at `retry_at`, which the caller drew with jitter.
    pub fn sent_failed(&mut self, first_seq: u64, cause: Cause, retry_at: Duration) {
        self.cause = Some(cause);
        if !self.window.failed(first_seq, retry_at) {
            return;
        }
        // Messages that were under way together and fail together are one failure.
        if self.window.flying() > 0 {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        let damaged = matches!(self.cause, Some(Cause::Refused(_)));
        if damaged || self.failures >= FAILURES_BEFORE_RESTART {
            // What is forgotten here is still not applied there: its age stays known.
            if let Some((hlc, seen_at)) = self.window.oldest_rows() {
                let hlc = Some(hlc);
                self.peek.found = Some((self.window.acked_seq() + 1, Oldest { hlc, seen_at }));
            }
            self.window.restart();
            self.read_retry_at = Some(retry_at);
        }
    }

    /// The error of a message as a cause and the delay before its retry, before jitter.
    pub fn judge(&self, error: &Error) -> (Cause, Duration) {
        let delay = self.settings.retry_delay(self.failures + 1);
        (Cause::from_error(error), delay.max(error.delay().unwrap_or_default()))
    }

    /// A look at the unread part found its oldest row mutation, or none up to `to_seq`.
    pub fn peeked(&mut self, found: Option<(u64, u64)>, to_seq: u64, now: Duration) {
        self.peek.running = false;
        match found {
            Some((seq, hlc)) => {
                let seen_at = self.behind_since.unwrap_or(now);
                let hlc = Some(hlc);
                self.peek.found = Some((seq, Oldest { hlc, seen_at }));
            }
            None => self.peek.from_seq = self.peek.from_seq.max(to_seq + 1),
        }
    }

    /// A look at the unread part failed: that something is there is all that is known.
    pub fn peek_failed(&mut self) {
        self.peek.running = false;
    }

    /// The position was written down, or not; either way the next try comes after the interval.
    pub fn ack_done(&mut self, written: Option<u64>, now: Duration) {
        self.acking = false;
        self.acked_at = now;
        self.persisted_seq = self.persisted_seq.max(written.unwrap_or(0));
    }

    /// An operator stopped or resumed shipping.
    pub fn set_paused(&mut self, paused: bool) {
        if self.paused && !paused {
            self.window.retry_now();
            self.read_retry_at = None;
        }
        self.paused = paused;
    }

    /// Whether the tablet's applied schema names the peer: before that the feed is not for it.
    pub fn set_schema_known(&mut self, known: bool) {
        self.schema_known = known;
    }

    /// True while an operator holds the stream.
    pub fn paused(&self) -> bool {
        self.paused
    }

    /// Up to where the peer has everything.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// Last record in the feed, as far as this stream has heard.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Row mutations in quarantine at the peer, and up to when the peer is complete (0 = it has not said).
    pub fn quarantine(&self) -> (u64, u64) {
        (self.rows_quarantined, self.complete_hlc)
    }

    /// Why the stream does not simply flow.
    pub fn cause(&self) -> Option<Cause> {
        if let Some(halted) = &self.halted {
            return Some(halted.clone());
        }
        if !self.schema_known {
            return Some(Cause::SchemaPending);
        }
        let quarantined = (self.rows_quarantined > 0).then_some(Cause::Quarantined(self.rows_quarantined));
        self.cause.clone().or(quarantined)
    }

    /// The oldest row mutation that the peer has not applied.
    pub fn oldest(&self) -> Option<Oldest> {
        if let Some((hlc, seen_at)) = self.window.oldest_rows() {
            let hlc = Some(hlc);
            return Some(Oldest { hlc, seen_at });
        }
        if let Some(found) = self.peek_found() {
            return Some(found);
        }
        // Rows lie unread, and nobody has looked at their time: they count from when they came into sight.
        let seen_at = self.behind_since?;
        Some(Oldest { hlc: None, seen_at })
    }

    /// R23, with what waits in the peer's quarantine counted (R17).
    pub fn lag_ms(&self, now_ms: u64, now: Duration) -> u64 {
        lag_ms(self.oldest(), self.rows_quarantined, self.complete_hlc, now_ms, now)
    }
}

/// The lag of a stream with that oldest unapplied write and that quarantine.
pub fn lag_ms(oldest: Option<Oldest>, rows_quarantined: u64, complete_hlc: u64, now_ms: u64, now: Duration) -> u64 {
    let unapplied = oldest.map_or(0, |oldest| oldest.age_ms(now_ms, now));
    let held = match rows_quarantined > 0 && complete_hlc > 0 {
        true => now_ms.saturating_sub(complete_hlc >> 16),
        false => 0,
    };
    unapplied.max(held)
}

#[cfg(test)]
#[path = "stream_core_tests.rs"]
mod tests;
