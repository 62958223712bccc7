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

use crate::cause::{Cause, Pace};
use crate::lag::{Lacking, Lag, Oldest};
use crate::link::{Ship, Shipped};
use crate::settings::ReplicationSettings;
use crate::window::{Advance, Message, Window};
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::Error;
use tidemark_runtime::planted::{Bug, planted};
use tidemark_tablet::PeerQuarantine;

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
    /// Write the acknowledged position into the tablet, and what of it waits in the peer's quarantine.
    Ack(u64, PeerQuarantine),
    /// Nothing until an event, or until that moment.
    Wait(Option<Duration>),
}

/// Where a stream begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamStart {
    /// What the tablet has written down as acknowledged by the peer; `None` = nothing yet.
    pub acked_seq: Option<u64>,
    /// Through which time the peer has everything by that.
    pub acked_hlc: u64,
    /// What of that waits in the peer's quarantine, as the peer said when it was written down.
    pub held: PeerQuarantine,
    /// When the link was made, by this region's clock: nothing that the peer lacks is older.
    pub linked_at_ms: u64,
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
    /// A bound of the age of what lies unread, if rows do.
    unread: Option<Oldest>,
    /// Rows lay unread before this stream looked for the first time, and their age is not known yet.
    unsighted: bool,
    /// It has looked for the first time.
    watching: bool,
    /// Through which time everything was read from the feed.
    read_hlc: u64,
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
    /// What waits in the peer's quarantine.
    held: PeerQuarantine,
    /// Records up to here may be among it: an answer that speaks of all of them replaces what is known.
    held_seq: u64,
    /// The peer has spoken of them to this stream; otherwise some may have drained.
    held_heard: bool,
    linked_at_ms: u64,
}

impl StreamCore {
    /// A stream that begins behind what the tablet has written down as acknowledged.
    pub fn new(settings: Arc<ReplicationSettings>, start: StreamStart, now: Duration) -> StreamCore {
        let acked = start.acked_seq.unwrap_or(0);
        let holds = start.held.rows > 0;
        StreamCore {
            window: Window::new(acked, start.acked_hlc, settings.ship_window),
            settings,
            fresh: start.acked_seq.is_none(),
            persisted_seq: acked,
            acking: false,
            acked_at: now,
            last_seq: acked,
            last_rows_seq: 0,
            unread: None,
            unsighted: false,
            watching: false,
            read_hlc: start.acked_hlc,
            reading: false,
            linger_until: Duration::ZERO,
            read_retry_at: None,
            peek: Peek::default(),
            paused: false,
            schema_known: false,
            failures: 0,
            cause: None,
            halted: None,
            held: start.held,
            held_seq: if holds { acked } else { 0 },
            held_heard: !holds,
            linked_at_ms: start.linked_at_ms,
        }
    }

    /// What to do now. Each answer but `Wait` is marked as begun: its event must follow.
    pub fn next(&mut self, now: Duration) -> Step {
        if let Some(seq) = self.ack_due(now) {
            self.acking = true;
            return Step::Ack(seq, self.held);
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
        self.watching = true;
    }

    fn rows_unread(&self) -> bool {
        self.window.next_seq() <= self.last_rows_seq
    }

    fn note_unread(&mut self, now: Duration) {
        if !self.rows_unread() {
            (self.unread, self.unsighted) = (None, false);
        } else if self.unread.is_none() {
            // What comes into sight while this stream watches has just been written. What lay there before may be old, but
            // not as old as what the peer has.
            self.unsighted = !self.watching;
            self.unread = Some(Oldest {
                hlc: Some(self.read_hlc).filter(|hlc| *hlc > 0 && self.unsighted),
                seen_at: now,
            });
        }
    }

    /// What lies behind a run that was read is younger than the run's end.
    fn note_read_to(&mut self, closed_hlc: u64, now: Duration) {
        self.read_hlc = self.read_hlc.max(closed_hlc);
        let hlc = Some(self.read_hlc).filter(|hlc| *hlc > 0);
        self.unread = self.rows_unread().then_some(Oldest { hlc, seen_at: now });
        self.unsighted = self.unread.is_some() && hlc.is_none();
    }

    /// A time that nothing unread lies before, for what has no time of its own.
    fn not_before(&self) -> u64 {
        self.read_hlc.max(self.linked_at_ms << 16)
    }

    /// A run was read and goes out now; `full` if the feed likely has more. Its lag is set here.
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
            message.oldest_rows_hlc = Some(self.not_before());
        }
        let closed_hlc = message.closed_hlc;
        let (first_seq, mut ship) = (message.ship.first_seq, message.ship.clone());
        // Reading sees what is committed, which the tablet may publish a moment later.
        self.last_seq = self.last_seq.max(ship.last_seq);
        self.window.push(message);
        self.note_read_to(closed_hlc, now);
        self.put_lag(&mut ship, now_ms, now);
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
        self.note_quarantine(first_seq, answer);
        let behind = !self.fresh && answer.applied_seq < self.window.acked_seq();
        self.cause = behind.then(|| Cause::PeerBehind {
            applied_seq: answer.applied_seq,
            acked_seq: self.window.acked_seq(),
        });
        let advance = self.window.succeeded(first_seq, answer.applied_seq);
        self.fresh &= self.window.acked_seq() == 0;
        self.note_unread(now);
        advance
    }

    /// Answers may come in another order than they were given. Each speaks of all that waits of the records up to its
    /// `applied_seq`, and of those of its own message. So one that speaks of all records that may be waiting replaces what
    /// is known; another can only add to it.
    fn note_quarantine(&mut self, first_seq: u64, answer: &Shipped) {
        let last_seq = self.window.message(first_seq).map_or(0, |(m, _)| m.ship.last_seq);
        let said = PeerQuarantine {
            rows: answer.rows_quarantined,
            complete_hlc: answer.complete_hlc,
        };
        if answer.applied_seq >= self.held_seq {
            self.held = if said.rows > 0 { said } else { PeerQuarantine::default() };
            self.held_heard = true;
        } else if said.rows > 0 {
            let first = self.held.rows == 0;
            self.held.rows = self.held.rows.max(said.rows);
            self.held.complete_hlc = match first {
                true => said.complete_hlc,
                false => self.held.complete_hlc.min(said.complete_hlc),
            };
        }
        if said.rows > 0 {
            self.held_seq = self.held_seq.max(last_seq).max(answer.applied_seq);
        }
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
    ///
    /// Only who does not answer, or refuses for good, is asked ever more rarely. What passes within a moment (a tablet
    /// that changes its leader, a link that is being switched on) is asked for again soon, however often: such a pause
    /// would be added to the lag, and to what is missing if this region is lost meanwhile (R23).
    pub fn judge(&self, error: &Error) -> (Cause, Duration) {
        let cause = Cause::from_error(error);
        let delay = self.settings.retry_delay(self.failures + 1);
        let delay = match cause.pace(error) {
            Pace::Soon => delay.min(self.settings.retry_delay_soon()),
            Pace::Gentle => delay.min(self.settings.retry_delay_gentle()),
            Pace::Rarer => delay,
        };
        (cause, delay.max(error.delay().unwrap_or_default()))
    }

    /// A look at the unread part found its oldest row mutation, or none up to `to_seq`.
    pub fn peeked(&mut self, found: Option<(u64, u64)>, to_seq: u64, now: Duration) {
        self.peek.running = false;
        match found {
            Some((seq, hlc)) => {
                let seen_at = self.unread.map_or(now, |unread| unread.seen_at);
                // What cannot be read has no time of its own.
                let hlc = Some(if hlc == 0 { self.not_before() } else { hlc });
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

    /// Why the stream does not simply flow.
    pub fn cause(&self) -> Option<Cause> {
        if let Some(halted) = &self.halted {
            return Some(halted.clone());
        }
        if !self.schema_known {
            return Some(Cause::SchemaPending);
        }
        let quarantined = (self.held.rows > 0).then_some(Cause::Quarantined(self.held.rows));
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
        // Rows lie unread, and nobody has looked at their time.
        self.unread
    }

    /// What the peer lacks, as far as it is known (R23); what waits in its quarantine is lacking too (R17).
    pub fn lacking(&self) -> Lacking {
        let looked = self.window.oldest_rows().is_some() || self.peek_found().is_some();
        // Not where the peer seems to be behind: an answer that was overtaken looks like that for a moment.
        let lost = self.halted.is_some();
        Lacking {
            oldest: self.oldest(),
            held: self.held,
            held_heard: self.held_heard,
            bound: self.unsighted && !looked,
            unknown: lost || !self.schema_known || (self.unsighted && !looked && self.read_hlc == 0),
            linked_at_ms: self.linked_at_ms,
        }
    }

    /// Up to when everything of the tablet is applied at the peer; 0 = not known. `closed` is how far the tablet is, should the
    /// peer have all records.
    pub fn acknowledged_hlc(&self, end_seq: u64, closed: u64) -> u64 {
        let all = self.window.acked_seq() >= end_seq;
        let acked = self.window.acked_hlc().max(if all { closed } else { 0 });
        match (self.lacking().unknown, self.held.rows) {
            (true, _) => 0,
            (false, 0) => acked,
            (false, _) => acked.min(self.held.complete_hlc),
        }
    }

    /// The lag at this moment.
    pub fn lag(&self, now_ms: u64, now: Duration) -> Lag {
        self.lacking().lag(now_ms, now)
    }

    /// Tells the peer in a message how much it lacks.
    pub fn put_lag(&self, ship: &mut Ship, now_ms: u64, now: Duration) {
        let lag = self.lag(now_ms, now);
        (ship.lag_ms, ship.lag_known) = (lag.ms, lag.known);
    }

    /// The same of a leader that no quorum has confirmed for that long.
    pub fn put_confirmed_lag(&self, ship: &mut Ship, unconfirmed: Duration, now_ms: u64) {
        let lag = Lag {
            ms: ship.lag_ms,
            known: ship.lag_known,
        };
        let link_age_ms = now_ms.saturating_sub(self.lacking().linked_at_ms);
        let lag = lag.confirmed(unconfirmed, link_age_ms);
        (ship.lag_ms, ship.lag_known) = (lag.ms, lag.known);
    }
}

#[cfg(test)]
#[path = "stream_core_tests.rs"]
mod tests;
