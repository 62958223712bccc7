//! The window of one stream: which messages are under way, which must go again, and up to where all is acknowledged.
//!
//! ```text
//!            acked                          next
//!   ───────────┤ [ flying ][ done ][ waiting ]├──────────>  seq
//!              message 1     2        3
//! ```
//! Messages may be answered in any order (R15: the target applies in any order); `acked` moves over contiguous done ones
//! only. After a failure one message at a time goes out until one succeeds, then the limit doubles: a peer that has
//! trouble is not flooded with repeats (the sink that its duplicates melt is on the regression list).
//!
//! Synchronous, without a clock: times are given.

use crate::link::Ship;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidemark_runtime::Permit;
use tidemark_runtime::planted::{Bug, planted};

/// What the stream must remember of one message until all before it and itself is acknowledged.
#[derive(Clone, Debug)]
pub struct Message {
    /// The message, ready to be sent again.
    pub ship: Ship,
    /// Row mutations in it.
    pub rows: u64,
    /// Time of its oldest row mutation, by the origin's hybrid logical clock; `None` if it has only close markers.
    pub oldest_rows_hlc: Option<u64>,
    /// Time of its last record.
    pub closed_hlc: u64,
    /// When it was read from the feed, by the monotonic clock.
    pub read_at: Duration,
    /// Its share of the memory that streams to one peer may hold; given back when the message is forgotten.
    pub memory: Option<Arc<Permit>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Flying,
    /// It failed; not before that moment again.
    Waiting(Duration),
    Done,
}

#[derive(Debug)]
struct Slot {
    message: Message,
    progress: Progress,
    sends: u32,
}

/// What came of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advance {
    /// Row mutations acknowledged for the first time.
    pub rows: u64,
    /// Messages acknowledged for the first time.
    pub messages: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Window {
    acked_seq: u64,
    acked_hlc: u64,
    next_seq: u64,
    limit: usize,
    limit_max: usize,
    /// By first sequence; they follow each other without a hole.
    slots: BTreeMap<u64, Slot>,
}

impl Window {
    /// A stream of which everything up to `acked_seq` is acknowledged, the last of it of time `acked_hlc`.
    pub fn new(acked_seq: u64, acked_hlc: u64, limit_max: usize) -> Window {
        Window {
            acked_seq,
            acked_hlc,
            next_seq: acked_seq + 1,
            limit: limit_max,
            limit_max,
            slots: BTreeMap::new(),
        }
    }

    /// Everything up to here is acknowledged.
    pub fn acked_seq(&self) -> u64 {
        self.acked_seq
    }

    /// The time of the last acknowledged record; 0 before the first.
    pub fn acked_hlc(&self) -> u64 {
        self.acked_hlc
    }

    /// What to read next from the feed.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// True if a further message may be read and sent now.
    pub fn has_room(&self) -> bool {
        self.slots.len() < self.limit_max && self.flying() < self.limit && self.earliest_retry().is_none()
    }

    /// Takes a message that goes out now; it begins at [`Window::next_seq`].
    pub fn push(&mut self, message: Message) {
        debug_assert_eq!(message.ship.first_seq, self.next_seq, "messages follow each other");
        self.next_seq = message.ship.last_seq + 1;
        self.slots.insert(
            message.ship.first_seq,
            Slot {
                message,
                progress: Progress::Flying,
                sends: 1,
            },
        );
    }

    /// When the first failed message may go again, if one waits.
    pub fn earliest_retry(&self) -> Option<Duration> {
        let waiting = self.slots.values().filter_map(|slot| match slot.progress {
            Progress::Waiting(until) => Some(until),
            _ => None,
        });
        waiting.min()
    }

    /// A failed message whose time has come, marked as under way again.
    pub fn take_retry(&mut self, now: Duration) -> Option<Ship> {
        if self.flying() >= self.limit {
            return None;
        }
        let due = |slot: &&mut Slot| matches!(slot.progress, Progress::Waiting(until) if until <= now);
        let slot = self.slots.values_mut().find(due)?;
        slot.progress = Progress::Flying;
        slot.sends += 1;
        Some(slot.message.ship.clone())
    }

    /// The message that begins there was applied at the peer, which also says that everything up to `applied_seq` is.
    pub fn succeeded(&mut self, first_seq: u64, applied_seq: u64) -> Advance {
        if let Some(slot) = self.slots.get_mut(&first_seq) {
            slot.progress = Progress::Done;
            self.limit = (self.limit * 2).min(self.limit_max);
        }
        let mut advance = Advance::default();
        while let Some(slot) = self.slots.first_entry() {
            let message = &slot.get().message;
            if slot.get().progress != Progress::Done && message.ship.last_seq > applied_seq {
                break;
            }
            advance.rows += message.rows;
            advance.messages += 1;
            self.acked_seq = message.ship.last_seq;
            self.acked_hlc = self.acked_hlc.max(message.closed_hlc);
            slot.remove();
        }
        if self.slots.is_empty() && applied_seq > self.acked_seq {
            // A predecessor shipped more than it had time to write down: what the peer has is not read again.
            self.acked_seq = applied_seq;
            self.next_seq = applied_seq + 1;
        }
        advance
    }

    /// The message that begins there failed; it goes again not before `retry_at`. True if it was still under way.
    pub fn failed(&mut self, first_seq: u64, retry_at: Duration) -> bool {
        // Planted: whatever failed goes again at once, all of it together.
        let flood = planted(Bug::RetriesFlood);
        let retry_at = if flood { Duration::ZERO } else { retry_at };
        self.limit = if flood { self.limit_max } else { 1 };
        match self.slots.get_mut(&first_seq) {
            Some(slot) if slot.progress == Progress::Flying => {
                slot.progress = Progress::Waiting(retry_at);
                true
            }
            _ => false,
        }
    }

    /// Lets failed messages go at once: something changed that makes a try worth it.
    pub fn retry_now(&mut self) {
        for slot in self.slots.values_mut() {
            if let Progress::Waiting(until) = &mut slot.progress {
                *until = Duration::ZERO;
            }
        }
    }

    /// Forgets every message; what is not acknowledged is read from the feed again.
    pub fn restart(&mut self) {
        self.slots.clear();
        self.next_seq = self.acked_seq + 1;
        self.limit = 1;
    }

    /// Time (origin's clock) and moment of reading (monotonic) of the oldest row mutation that is read but not applied at
    /// the peer.
    pub fn oldest_rows(&self) -> Option<(u64, Duration)> {
        self.slots
            .values()
            .filter(|slot| slot.progress != Progress::Done)
            .find_map(|slot| Some((slot.message.oldest_rows_hlc?, slot.message.read_at)))
    }

    /// Messages under way.
    pub fn flying(&self) -> usize {
        self.slots
            .values()
            .filter(|slot| slot.progress == Progress::Flying)
            .count()
    }

    /// The message that begins there, if it is still remembered, and how often it went out.
    pub fn message(&self, first_seq: u64) -> Option<(&Message, u32)> {
        self.slots.get(&first_seq).map(|slot| (&slot.message, slot.sends))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{RegionIdentity, ShipCodec};
    use bytes::Bytes;
    use proptest::prelude::*;
    use tidemark_base::{RegionId, RowRange, TableId, TabletId};

    fn message(first_seq: u64, last_seq: u64, rows: u64) -> Message {
        Message {
            ship: Ship {
                from: RegionIdentity {
                    name: "east".into(),
                    region: RegionId(1),
                },
                table: "t".into(),
                from_table: TableId(1),
                to_table: TableId(2),
                tablet: TabletId(2),
                range: RowRange::all(),
                first_seq,
                last_seq,
                codec: ShipCodec::None,
                records: Bytes::new(),
                records_bytes: 0,
                lag_ms: 0,
                lag_known: true,
            },
            rows,
            oldest_rows_hlc: (rows > 0).then_some(first_seq * 10),
            closed_hlc: last_seq * 10,
            read_at: Duration::from_secs(first_seq),
            memory: None,
        }
    }

    #[test]
    fn only_the_contiguous_part_is_acknowledged() {
        let mut window = Window::new(4, 0, 3);
        window.push(message(5, 6, 2));
        window.push(message(7, 7, 0));
        window.push(message(8, 9, 1));
        assert!(!window.has_room());
        assert_eq!(window.succeeded(7, 4), Advance::default());
        assert_eq!((window.acked_seq(), window.oldest_rows().unwrap().0), (4, 50));
        assert_eq!(window.succeeded(5, 4), Advance { rows: 2, messages: 2 });
        assert_eq!((window.acked_seq(), window.acked_hlc()), (7, 70));
        assert_eq!(window.oldest_rows(), Some((80, Duration::from_secs(8))));
        assert!(window.has_room());
        window.succeeded(8, 9);
        assert_eq!(
            (window.acked_seq(), window.next_seq(), window.oldest_rows()),
            (9, 10, None)
        );
    }

    #[test]
    fn after_a_failure_one_message_at_a_time_goes_until_one_succeeds() {
        let mut window = Window::new(0, 0, 4);
        window.push(message(1, 1, 1));
        window.push(message(2, 2, 1));
        let at = Duration::from_secs(9);
        assert!(window.failed(1, at) && window.failed(2, at));
        assert!(!window.failed(2, at), "an answer that comes twice counts once");
        assert!(window.take_retry(Duration::from_secs(8)).is_none());
        assert_eq!(window.take_retry(at).unwrap().first_seq, 1);
        assert!(window.take_retry(at).is_none() && !window.has_room());
        window.succeeded(1, 1);
        assert_eq!(window.take_retry(at).unwrap().first_seq, 2);
        assert_eq!(window.message(2).unwrap().1, 2);
        window.succeeded(2, 2);
        assert!(window.has_room());
    }

    #[test]
    fn what_the_peer_has_already_is_not_sent_again() {
        let mut window = Window::new(0, 0, 4);
        window.push(message(1, 1, 1));
        window.succeeded(1, 7);
        assert_eq!((window.acked_seq(), window.next_seq()), (7, 8));
    }

    #[test]
    fn a_restart_begins_behind_what_is_acknowledged() {
        let mut window = Window::new(0, 0, 4);
        window.push(message(1, 3, 1));
        window.push(message(4, 5, 1));
        window.succeeded(1, 3);
        window.restart();
        assert_eq!((window.acked_seq(), window.next_seq(), window.flying()), (3, 4, 0));
    }

    proptest! {
        /// Whatever the order of answers, failures and repeats: acknowledged never passes a message that was not
        /// applied, and when all are applied all are acknowledged once.
        #[test]
        fn any_order_ends_with_all_acknowledged_once(order in proptest::collection::vec((0u64..6, any::<bool>()), 0..60)) {
            let mut window = Window::new(0, 0, 6);
            (1..=6).for_each(|seq| window.push(message(seq, seq, 1)));
            let mut applied = std::collections::BTreeSet::new();
            let mut rows = 0;
            let plan = order.into_iter().chain((0..6).map(|n| (n, true)));
            for (n, success) in plan {
                let seq = n + 1;
                if success {
                    window.retry_now();
                    applied.insert(seq);
                    rows += window.succeeded(seq, 0).rows;
                } else if !applied.contains(&seq) {
                    window.failed(seq, Duration::ZERO);
                }
                let contiguous = (1..=6).take_while(|seq| applied.contains(seq)).count() as u64;
                prop_assert_eq!(window.acked_seq(), contiguous);
                prop_assert_eq!(rows, contiguous);
            }
            prop_assert_eq!(window.acked_seq(), 6);
        }
    }
}
