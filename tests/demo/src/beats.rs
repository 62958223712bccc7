//! Gaps in service, measured from the acknowledgements of one small write after another.

use crate::ledger::RegionIndex;
use std::collections::HashSet;

/// One acknowledged write of a prober.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// When it was acknowledged, in microseconds of the run.
    pub at_micros: u64,
    /// By which region.
    pub region: RegionIndex,
    /// The version of the cell that it wrote, unique in its row; its value is the same number as text.
    pub version: i64,
}

/// Acknowledgements of one tablet's prober, in the order of time.
#[derive(Clone, Debug, Default)]
pub struct Beats {
    beats: Vec<Beat>,
}

impl Beats {
    /// Notes an acknowledgement; times rise.
    pub fn note(&mut self, beat: Beat) {
        self.beats.push(beat);
    }

    /// All of them.
    pub fn all(&self) -> &[Beat] {
        &self.beats
    }

    /// Those that one region acknowledged: a client that fled to the other region must not hide a gap in this one.
    pub fn of_region(&self, region: RegionIndex) -> Beats {
        Beats {
            beats: self.beats.iter().copied().filter(|b| b.region == region).collect(),
        }
    }

    /// The longest time without an acknowledgement, in microseconds, of all such times that overlap `from..to`. The last
    /// acknowledgement before `from` counts as the beginning of the first one; silence up to `to` counts as well.
    pub fn gap_micros(&self, from: u64, to: u64) -> u64 {
        let first = self.beats.partition_point(|b| b.at_micros < from).saturating_sub(1);
        let mut longest = 0;
        let mut last = self.beats.get(first).map_or(from, |b| b.at_micros.min(to));
        for beat in self.beats.iter().skip(first).take_while(|b| b.at_micros <= to) {
            longest = longest.max(beat.at_micros.saturating_sub(last));
            last = beat.at_micros;
        }
        let next = self.beats.iter().find(|b| b.at_micros > to).map_or(to, |b| b.at_micros);
        longest.max(next.saturating_sub(last))
    }

    /// The first acknowledgement by `region` after `from`, in microseconds of the run.
    pub fn first_by(&self, region: RegionIndex, from: u64) -> Option<u64> {
        let start = self.beats.partition_point(|b| b.at_micros <= from);
        self.beats[start..]
            .iter()
            .find(|b| b.region == region)
            .map(|b| b.at_micros)
    }

    /// Acknowledged writes that are not among `shown`, all of them or those of one region: how many, and when the oldest
    /// of them was acknowledged.
    pub fn missing(&self, region: Option<RegionIndex>, shown: &HashSet<i64>) -> (u64, Option<u64>) {
        let mut count = 0;
        let mut oldest = None;
        for beat in self
            .beats
            .iter()
            .filter(|b| region.is_none_or(|r| r == b.region) && !shown.contains(&b.version))
        {
            count += 1;
            oldest = oldest.or(Some(beat.at_micros));
        }
        (count, oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beats(at: &[(u64, u8)]) -> Beats {
        let mut beats = Beats::default();
        at.iter().for_each(|(at, by)| {
            beats.note(Beat {
                at_micros: *at,
                region: *by,
                version: *at as i64,
            })
        });
        beats
    }

    #[test]
    fn the_gap_spans_the_disaster() {
        let some = beats(&[(10, 0), (20, 0), (95, 0), (100, 0), (400, 0)]);
        assert_eq!(some.gap_micros(25, 100), 300);
        assert_eq!(some.gap_micros(25, 99), 75);
        assert_eq!(some.gap_micros(15, 18), 10);
        assert_eq!(some.gap_micros(96, 500), 300);
    }

    #[test]
    fn silence_is_a_gap() {
        assert_eq!(beats(&[]).gap_micros(5, 50), 45);
        assert_eq!(beats(&[(10, 0)]).gap_micros(20, 50), 40);
    }

    #[test]
    fn the_first_answer_of_the_other_region_ends_the_outage() {
        let some = beats(&[(10, 0), (20, 1), (30, 0), (40, 1)]);
        assert_eq!(some.first_by(1, 20), Some(40));
        assert_eq!(some.first_by(1, 15), Some(20));
        assert_eq!(some.first_by(1, 40), None);
    }

    #[test]
    fn missing_writes_are_counted_with_the_oldest() {
        let some = beats(&[(10, 0), (20, 1), (30, 0), (40, 1)]);
        let shown = HashSet::from([10, 40]);
        assert_eq!(some.missing(None, &shown), (2, Some(20)));
        assert_eq!(some.missing(Some(0), &shown), (1, Some(30)));
        assert_eq!(some.missing(Some(0), &HashSet::from([10, 30])), (0, None));
    }
}
