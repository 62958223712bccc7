//! What was written and what became of it: the truth that both regions must agree with (O5, O6).
//!
//! Every tick has a version of its own, rising, so the list of ticks is sorted and a version finds its tick by bisection.
//! A tick takes 64 bytes; an hour at 1,500 a second is 350 MB.
//!
//! ```text
//! issue ──> pending ──┬─ acknowledge(region, when)  must be in both regions at the end
//!                     ├─ refuse                     was never applied, says the server
//!                     └─ leave unknown              may be there or not: counted, not lost
//! ```

use crate::fleet::{KINDS, METRICS, Tick, device_of, value_text};

/// Index of a region in the demo's list; 0 is the preferred one.
pub type RegionIndex = u8;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No answer yet.
    Pending,
    /// Acknowledged by a region, at microseconds of the run.
    Acknowledged {
        /// Which region said so.
        region: RegionIndex,
        /// When, in microseconds since the start of the run.
        at_micros: u64,
    },
    /// Refused for certain: not applied.
    Refused,
    /// Sent, and nobody knows.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    version: i64,
    tick: Tick,
    outcome: Outcome,
}

/// All ticks of a run.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Vec<Entry>,
}

/// Number of a tick in its ledger.
pub type TickNumber = usize;

/// Totals of a ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Ticks handed to the writer.
    pub issued: u64,
    /// Acknowledged by any region.
    pub acknowledged: u64,
    /// Refused for certain.
    pub refused: u64,
    /// Unknown or still pending.
    pub unknown: u64,
}

impl Ledger {
    /// Notes a tick that is about to be written. Versions must rise.
    pub fn issue(&mut self, version: i64, tick: Tick) -> TickNumber {
        assert!(
            self.entries.last().is_none_or(|last| last.version < version),
            "versions of a run rise"
        );
        self.entries.push(Entry {
            version,
            tick,
            outcome: Outcome::Pending,
        });
        self.entries.len() - 1
    }

    /// Notes what became of a tick.
    pub fn settle(&mut self, number: TickNumber, outcome: Outcome) {
        self.entries[number].outcome = outcome;
    }

    /// Counts.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals {
            issued: self.entries.len() as u64,
            ..Totals::default()
        };
        for entry in &self.entries {
            match entry.outcome {
                Outcome::Acknowledged { .. } => totals.acknowledged += 1,
                Outcome::Refused => totals.refused += 1,
                Outcome::Pending | Outcome::Unknown => totals.unknown += 1,
            }
        }
        totals
    }

    /// Starts a comparison with what a region shows.
    pub fn check(&self) -> Check {
        Check {
            right: vec![0; self.entries.len()],
            wrong: vec![0; self.entries.len()],
            strangers: 0,
        }
    }

    /// Adds one shown cell of a device's row to a comparison.
    pub fn see(&self, check: &mut Check, row: &[u8], qualifier: &[u8], version: i64, value: &[u8]) {
        let number = self.entries.binary_search_by_key(&version, |e| e.version).ok();
        let metric = KINDS.iter().position(|k| k.name.as_bytes() == qualifier);
        let (Some(number), Some(metric)) = (number, metric) else {
            // A tick that was issued after the comparison began is no stranger, and none of its business.
            check.strangers += u64::from(number.is_none());
            return;
        };
        if number >= check.right.len() {
            return;
        }
        let tick = &self.entries[number].tick;
        if device_of(row) != Some(tick.device) {
            check.strangers += 1;
        } else if value_text(tick.values[metric]).as_bytes() == value {
            check.right[number] |= 1 << metric;
        } else {
            check.wrong[number] |= 1 << metric;
        }
    }

    /// What a comparison over a whole region found.
    pub fn verdict(&self, check: &Check) -> Verdict {
        let mut verdict = Verdict {
            strangers: check.strangers,
            ..Verdict::default()
        };
        for (entry, (right, wrong)) in self.entries.iter().zip(check.right.iter().zip(&check.wrong)) {
            if !matches!(entry.outcome, Outcome::Acknowledged { .. }) {
                verdict.unacknowledged_shown += u64::from(*right != 0);
                continue;
            }
            verdict.cells_expected += METRICS as u64;
            let different = u64::from((wrong & !right).count_ones());
            let missing = METRICS as u64 - u64::from((right | wrong).count_ones());
            verdict.cells_different += different;
            verdict.cells_missing += missing;
            if different + missing > 0 && verdict.examples.len() < 3 {
                verdict
                    .examples
                    .push(format!("device {} version {}", entry.tick.device, entry.version));
            }
        }
        verdict
    }

    /// Ticks that `region` acknowledged and of which a comparison lacks a cell: how many, and the acknowledgement of the
    /// oldest, in microseconds of the run.
    pub fn missing_of(&self, region: RegionIndex, check: &Check) -> (u64, Option<u64>) {
        let all = (1u16 << METRICS) - 1;
        let mut count = 0;
        let mut oldest: Option<u64> = None;
        for (entry, right) in self.entries.iter().zip(&check.right) {
            if let Outcome::Acknowledged { region: by, at_micros } = entry.outcome
                && by == region
                && *right != all
            {
                count += 1;
                oldest = Some(oldest.map_or(at_micros, |o| o.min(at_micros)));
            }
        }
        (count, oldest)
    }
}

/// Which cells of which ticks a region showed, one bit a metric.
#[derive(Clone, Debug)]
pub struct Check {
    right: Vec<u16>,
    wrong: Vec<u16>,
    strangers: u64,
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged cells.
    pub cells_expected: u64,
    /// Acknowledged cells that are not shown.
    pub cells_missing: u64,
    /// Acknowledged cells shown with another value.
    pub cells_different: u64,
    /// Ticks shown although nobody acknowledged them (their answer was lost): not an error.
    pub unacknowledged_shown: u64,
    /// Cells that nobody wrote.
    pub strangers: u64,
    /// The first few ticks with a missing or different cell.
    pub examples: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Fleet, device_row};

    fn shown(ledger: &Ledger, check: &mut Check, number: TickNumber, skip: usize) {
        let entry = ledger.entries[number];
        for (kind, value) in KINDS.iter().zip(entry.tick.values).skip(skip) {
            let row = device_row(entry.tick.device);
            ledger.see(
                check,
                row.as_bytes(),
                kind.name.as_bytes(),
                entry.version,
                value_text(value).as_bytes(),
            );
        }
    }

    fn filled(count: i64) -> Ledger {
        let mut fleet = Fleet::new(1, 5);
        let mut ledger = Ledger::default();
        for n in 0..count {
            let number = ledger.issue(n * 10, fleet.tick());
            ledger.settle(
                number,
                Outcome::Acknowledged {
                    region: (n % 2) as u8,
                    at_micros: n as u64,
                },
            );
        }
        ledger
    }

    #[test]
    fn a_region_that_shows_everything_lost_nothing() {
        let mut ledger = filled(4);
        ledger.settle(3, Outcome::Unknown);
        let mut check = ledger.check();
        for number in 0..4 {
            shown(&ledger, &mut check, number, 0);
        }
        let verdict = ledger.verdict(&check);
        assert_eq!(
            (verdict.cells_expected, verdict.cells_missing, verdict.cells_different),
            (30, 0, 0)
        );
        assert_eq!((verdict.unacknowledged_shown, verdict.strangers), (1, 0));
        assert_eq!(
            ledger.totals(),
            Totals {
                issued: 4,
                acknowledged: 3,
                refused: 0,
                unknown: 1
            }
        );
    }

    #[test]
    fn each_kind_of_difference_is_found() {
        let ledger = filled(3);
        let mut check = ledger.check();
        shown(&ledger, &mut check, 0, 3);
        shown(&ledger, &mut check, 1, 1);
        let row = device_row(ledger.entries[1].tick.device);
        ledger.see(&mut check, row.as_bytes(), KINDS[0].name.as_bytes(), 10, b"x");
        ledger.see(&mut check, row.as_bytes(), KINDS[0].name.as_bytes(), 11, b"x");
        ledger.see(&mut check, b"dev-999999", KINDS[0].name.as_bytes(), 10, b"x");
        let verdict = ledger.verdict(&check);
        assert_eq!(
            (verdict.cells_missing, verdict.cells_different, verdict.strangers),
            (13, 1, 2)
        );
        assert_eq!(verdict.examples.len(), 3);
    }

    #[test]
    fn what_a_region_had_alone_is_counted_with_its_age() {
        let ledger = filled(6);
        let mut check = ledger.check();
        for number in [0, 1, 3, 5] {
            shown(&ledger, &mut check, number, 0);
        }
        assert_eq!(ledger.missing_of(0, &check), (2, Some(2)));
        assert_eq!(ledger.missing_of(1, &check), (0, None));
    }
}
