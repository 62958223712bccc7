//! Hybrid logical clock: time that people can read and that still rises when the wall clock does not.
//!
//! After Kulkarni, Demirbas, Madeppa, Avva and Leone, "Logical Physical Clocks" (2014), in one `u64`:
//!
//! ```text
//! bit 63                                   16 15             0
//!     +--------------------------------------+---------------+
//!     | wall milliseconds since 1970         | logical       |
//!     +--------------------------------------+---------------+
//! 1_700_000_000_000 ms, logical 3  =  0x018b_cfe5_6800_0003
//! ```
//!
//! Compared as a plain integer. A logical part that overflows carries into the milliseconds, which is harmless: the
//! value still rises, and the wall clock catches up. 48 bits of milliseconds last until the year 10889.
//!
//! One owner per clock (the task that stamps for a tablet), hence `&mut self` and no lock: two owners that race for
//! values could both be right about time and wrong about order.

use crate::clock::SharedClock;
use std::fmt;
use std::time::Duration;

const LOGICAL_BITS: u32 = 16;

/// The smallest value whose wall part is `ms` milliseconds since the Unix epoch. Larger than 48 bits saturates.
pub fn hlc_from_ms(ms: u64) -> u64 {
    ms.min(u64::MAX >> LOGICAL_BITS) << LOGICAL_BITS
}

/// The wall part of a value, in milliseconds since the Unix epoch.
pub fn hlc_ms(hlc: u64) -> u64 {
    hlc >> LOGICAL_BITS
}

/// Gives values that rise strictly, whatever the wall clock does (R7, O4).
pub struct HlcClock {
    clock: SharedClock,
    /// The greatest value ever given or observed. Everything given from now on is above it.
    last: u64,
}

impl HlcClock {
    /// A clock that starts above `floor`: the greatest stamp known to the state that it stamps for. A new leader, a
    /// restart and a split child pass what they recovered, so that they continue where their predecessor stopped.
    pub fn new(clock: SharedClock, floor: u64) -> HlcClock {
        HlcClock { clock, last: floor }
    }

    /// The first of `count` consecutive values, each above everything given or observed before and none below the
    /// physical time. `count` 0 is taken as 1.
    pub fn reserve(&mut self, count: u32) -> u64 {
        let physical = hlc_from_ms(self.clock.now_ms());
        let exhausted = "the clock stands after the year 10889: observe() was given a value that R8 must refuse";
        let first = self.last.checked_add(1).expect(exhausted).max(physical);
        self.last = first.checked_add(u64::from(count.max(1)) - 1).expect(exhausted);
        first
    }

    /// A fact with this value was applied: whatever is given from now on is above it. The caller has refused values
    /// that are too far ahead (R8), or uses `observe_within`.
    pub fn observe(&mut self, hlc: u64) {
        self.last = self.last.max(hlc);
    }

    /// Like `observe`, but a value more than `offset_max` ahead of the wall clock is refused and changes nothing (R8):
    /// one node with a clock in the next century must not drag everybody there.
    pub fn observe_within(&mut self, hlc: u64, offset_max: Duration) -> Result<(), TooFarAhead> {
        let offset_max_ms = u64::try_from(offset_max.as_millis()).unwrap_or(u64::MAX);
        let ahead_ms = hlc_ms(hlc).saturating_sub(self.clock.now_ms());
        if ahead_ms > offset_max_ms {
            return Err(TooFarAhead {
                ahead_ms,
                offset_max_ms,
            });
        }
        self.observe(hlc);
        Ok(())
    }

    /// The greatest value given or observed so far.
    pub fn last(&self) -> u64 {
        self.last
    }
}

impl fmt::Debug for HlcClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HlcClock")
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

/// A remote value was further ahead of the local wall clock than allowed (R8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the remote clock is {ahead_ms} ms ahead of ours; at most {offset_max_ms} ms is accepted: check both clocks")]
pub struct TooFarAhead {
    /// How far ahead the value was.
    pub ahead_ms: u64,
    /// How far ahead it may be.
    pub offset_max_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use proptest::prelude::*;

    const START_MS: u64 = 1_700_000_000_000;

    fn manual() -> ManualClock {
        ManualClock::new(START_MS as i64 * 1_000)
    }

    #[test]
    fn the_layout_is_the_one_drawn_above() {
        assert_eq!(hlc_from_ms(START_MS) + 3, 0x018b_cfe5_6800_0003);
        assert_eq!(hlc_ms(0x018b_cfe5_6800_0003), START_MS);
        assert_eq!(hlc_ms(hlc_from_ms(u64::MAX)), u64::MAX >> 16);
    }

    #[test]
    fn values_follow_the_wall_clock_and_rise_within_one_millisecond() {
        let clock = manual();
        let mut hlc = HlcClock::new(clock.shared(), 0);
        assert_eq!(hlc.reserve(1), hlc_from_ms(START_MS));
        assert_eq!(hlc.reserve(3), hlc_from_ms(START_MS) + 1);
        assert_eq!(hlc.last(), hlc_from_ms(START_MS) + 3);
        clock.advance(Duration::from_millis(7));
        assert_eq!(hlc.reserve(1), hlc_from_ms(START_MS + 7));
    }

    #[test]
    fn values_rise_although_the_wall_clock_jumps_back_an_hour() {
        let clock = manual();
        let mut hlc = HlcClock::new(clock.shared(), 0);
        let before = hlc.reserve(10);
        clock.set_back(Duration::from_secs(3_600));
        let after = hlc.reserve(1);
        assert_eq!(after, before + 10);
        clock.advance(Duration::from_secs(3_601));
        assert_eq!(hlc.reserve(1), hlc_from_ms(START_MS + 1_000));
    }

    #[test]
    fn a_successor_starts_above_its_floor_even_with_a_slower_clock() {
        let mut old = HlcClock::new(manual().shared(), 0);
        let last = old.reserve(100) + 99;
        let slower = ManualClock::new((START_MS as i64 - 5_000) * 1_000);
        let mut new = HlcClock::new(slower.shared(), last);
        assert_eq!(new.reserve(1), last + 1);
    }

    #[test]
    fn a_full_logical_part_carries_into_the_milliseconds() {
        let mut hlc = HlcClock::new(manual().shared(), 0);
        hlc.reserve(70_000);
        let next = hlc.reserve(1);
        assert_eq!(next, hlc_from_ms(START_MS) + 70_000);
        assert_eq!(hlc_ms(next), START_MS + 1);
    }

    #[test]
    fn a_value_too_far_ahead_is_refused_and_changes_nothing() {
        let mut hlc = HlcClock::new(manual().shared(), 0);
        let limit = Duration::from_secs(10);
        assert_eq!(hlc.observe_within(hlc_from_ms(START_MS + 10_000), limit), Ok(()));
        let last = hlc.last();
        let refused = hlc.observe_within(hlc_from_ms(START_MS + 10_001), limit);
        assert_eq!(
            refused,
            Err(TooFarAhead {
                ahead_ms: 10_001,
                offset_max_ms: 10_000
            })
        );
        assert_eq!(hlc.last(), last);
    }

    /// What may happen to a clock, in any order.
    #[derive(Debug, Clone)]
    enum Event {
        Advance(u64),
        SetBack(u64),
        Reserve(u32),
        Observe(i64),
        Restart,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0u64..5_000).prop_map(Event::Advance),
            (0u64..7_200_000).prop_map(Event::SetBack),
            (0u32..1_000).prop_map(Event::Reserve),
            (-20_000i64..20_000).prop_map(Event::Observe),
            Just(Event::Restart),
        ]
    }

    proptest! {
        /// O4: whatever is reserved is above everything reserved or observed before, and not below physical time.
        #[test]
        fn stamps_rise_over_every_history(events in prop::collection::vec(event(), 1..200)) {
            let clock = manual();
            let mut hlc = HlcClock::new(clock.shared(), 0);
            let mut greatest = 0u64;
            for event in events {
                match event {
                    Event::Advance(ms) => clock.advance(Duration::from_millis(ms)),
                    Event::SetBack(ms) => clock.set_back(Duration::from_millis(ms)),
                    Event::Reserve(count) => {
                        let first = hlc.reserve(count);
                        prop_assert!(first > greatest);
                        prop_assert!(first >= hlc_from_ms(crate::clock::Clock::now_ms(&clock)));
                        greatest = first + u64::from(count.max(1)) - 1;
                    }
                    Event::Observe(offset_ms) => {
                        let seen = hlc_from_ms(START_MS.saturating_add_signed(offset_ms));
                        hlc.observe(seen);
                        greatest = greatest.max(seen);
                    }
                    Event::Restart => hlc = HlcClock::new(clock.shared(), greatest),
                }
                prop_assert_eq!(hlc.last(), greatest);
            }
        }

        /// O8: a write issued after seeing a remote one beats it, although the local clock is behind.
        #[test]
        fn a_write_after_a_read_beats_what_was_read(behind_ms in 0u64..10_000, count in 1u32..100) {
            let mut remote = HlcClock::new(manual().shared(), 0);
            let seen = remote.reserve(count) + u64::from(count) - 1;
            let clock = manual();
            clock.set_back(Duration::from_millis(behind_ms));
            let mut local = HlcClock::new(clock.shared(), 0);
            prop_assert!(local.observe_within(seen, Duration::from_secs(11)).is_ok());
            prop_assert!(local.reserve(1) > seen);
        }
    }
}
