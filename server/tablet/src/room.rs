//! A full disk under apply: committed entries wait, new ones are refused at the door, and what was applied can be read.
//!
//! The consensus layer gives what was refused again every fraction of a second ([`tidemark_consensus::ApplyError`]). Usually
//! the engine goes on by itself when there is room. If it still refuses although a file of some size could be written for a
//! while, waiting is pointless: the fault ends the replica, and reopening mends it.

use std::time::Duration;

/// Time between two looks at the disk.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Room for so long without the engine taking anything is a fault.
const ROOM_UNUSED_MAX: Duration = Duration::from_secs(30);

/// A wait for room. One for each time that the disk is full.
#[derive(Debug)]
pub(crate) struct RoomWait {
    looked: Duration,
    room_since: Option<Duration>,
}

impl RoomWait {
    /// Begins at that monotonic time.
    pub(crate) fn new(now: Duration) -> RoomWait {
        RoomWait {
            looked: now,
            room_since: None,
        }
    }

    /// The engine refused again; true if it makes no sense to wait on. `has_room` is asked now and then.
    pub(crate) fn is_pointless(&mut self, now: Duration, has_room: impl FnOnce() -> bool) -> bool {
        if now.saturating_sub(self.looked) >= LOOK_EVERY {
            self.looked = now;
            self.room_since = has_room().then(|| self.room_since.unwrap_or(now));
        }
        self.room_since
            .is_some_and(|since| now.saturating_sub(since) >= ROOM_UNUSED_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_ever_on_a_full_disk_and_only_so_long_on_one_with_room() {
        let seconds = Duration::from_secs;
        let mut wait = RoomWait::new(seconds(100));
        for second in 100..1_000 {
            assert!(!wait.is_pointless(seconds(second), || false));
        }
        for second in 1_000..1_030 {
            // Room comes and goes: counted from the last time that there was none.
            assert!(!wait.is_pointless(seconds(second), || second != 1_010));
        }
        let end = (1_030..1_100).find(|second| wait.is_pointless(seconds(*second), || true));
        assert!(end.is_some_and(|end| (1_040..=1_050).contains(&end)), "{end:?}");
    }
}
