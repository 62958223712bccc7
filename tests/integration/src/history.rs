//! Which write may have won? (O5, O6)
//!
//! Stamps are not shown to clients, so the oracle goes by time: both regions of a test run on one machine, hence on one
//! clock, and a write that began clearly after another one was acknowledged has the greater stamp (R2), in whichever
//! region it was made. Writes that overlap may win in either order; the regions must then agree, which their digests say.
//!
//! ```text
//! time   ──────────────────────────────>
//! w1     |-----|                             w1 ended before w3 began: w1 cannot win
//! w2         |---------|                     w2 and w3 overlap: either may have won
//! w3               |-----|
//! ```

use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What a write did to one coordinate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It put this value.
    Put(Bytes),
    /// It deleted the coordinate.
    Delete,
}

#[derive(Clone, Debug)]
struct Write {
    began: Instant,
    ended: Instant,
    effect: Effect,
}

/// Writes by coordinate.
#[derive(Clone, Debug)]
pub struct History<K> {
    writes: BTreeMap<K, Vec<Write>>,
    margin: Duration,
}

impl<K: Ord + Clone> History<K> {
    /// No writes yet. Writes closer together than `margin` count as overlapping: stamps have milliseconds.
    pub fn new(margin: Duration) -> History<K> {
        History {
            writes: BTreeMap::new(),
            margin,
        }
    }

    /// Notes an acknowledged write's effect on a coordinate.
    pub fn note(&mut self, coordinate: K, began: Instant, ended: Instant, effect: Effect) {
        self.writes
            .entry(coordinate)
            .or_default()
            .push(Write { began, ended, effect });
    }

    /// Takes another history's writes.
    pub fn merge(&mut self, other: History<K>) {
        for (coordinate, writes) in other.writes {
            self.writes.entry(coordinate).or_default().extend(writes);
        }
    }

    /// Coordinates that were written.
    pub fn coordinates(&self) -> impl Iterator<Item = &K> {
        self.writes.keys()
    }

    /// True if that may be shown at a coordinate (`None` = nothing) after all its writes.
    pub fn allows(&self, coordinate: &K, shown: Option<&Bytes>) -> bool {
        let Some(writes) = self.writes.get(coordinate) else {
            return shown.is_none();
        };
        let last_start = writes.iter().map(|w| w.began).max();
        let may_win = writes
            .iter()
            .filter(|w| last_start.is_some_and(|start| w.ended + self.margin >= start));
        let mut effects = may_win.map(|w| &w.effect);
        effects.any(|effect| match (effect, shown) {
            (Effect::Put(value), Some(shown)) => value == shown,
            (Effect::Delete, None) => true,
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writes_that_nobody_followed_may_win() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let mut history = History::new(Duration::from_millis(2));
        let put = |v: &'static [u8]| Effect::Put(Bytes::from_static(v));
        history.note("c", at(0), at(10), put(b"1"));
        history.note("c", at(5), at(30), put(b"2"));
        history.note("c", at(20), at(40), Effect::Delete);
        let allows = |shown: Option<&'static [u8]>| history.allows(&"c", shown.map(Bytes::from_static).as_ref());
        assert!(!allows(Some(b"1")), "it ended before the last one began");
        assert!(allows(Some(b"2")) && allows(None), "these two overlap");
        assert!(!allows(Some(b"3")), "nobody wrote it");
        assert!(history.allows(&"never", None) && !history.allows(&"never", Some(&Bytes::new())));
    }

    #[test]
    fn stamps_within_the_margin_may_be_in_either_order() {
        let zero = Instant::now();
        let mut history = History::new(Duration::from_millis(2));
        let ms = Duration::from_millis(1);
        history.note(1, zero, zero + ms, Effect::Put(Bytes::from_static(b"1")));
        history.note(1, zero + 2 * ms, zero + 3 * ms, Effect::Delete);
        assert!(history.allows(&1, Some(&Bytes::from_static(b"1"))) && history.allows(&1, None));
    }
}
