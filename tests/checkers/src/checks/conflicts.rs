//! Conflicts: coordinates that two regions wrote without either having seen the other's write. Nothing is wrong with them;
//! a run that had none has not tried what decides them. So they are counted, and the mark [`CONFLICT_SEEN`] stands for them.
//!
//! ```text
//! east   |--- x ---|
//! west        |--- y ---|        one coordinate, both acknowledged, neither certainly first: a conflict
//! ```

use crate::plan::CONFLICT_SEEN;
use crate::writes::Write;
use crate::{Evidence, Report};

/// What is counted.
pub const COUNTED: &str = "coordinates that two regions wrote at the same time";

/// Coordinate by coordinate.
pub fn check(evidence: &Evidence<'_>, report: &mut Report) {
    for (_, _, row) in evidence.writes.rows() {
        for at in row.coordinates() {
            let puts: Vec<&Write<'_>> = row.puts_at(at).filter(|put| put.certain).collect();
            let met = |a: &Write<'_>, b: &Write<'_>| {
                let (a, b) = (a.operation, b.operation);
                a.region != b.region && !evidence.writes.before(a, b) && !evidence.writes.before(b, a)
            };
            let is_conflict = puts
                .iter()
                .enumerate()
                .any(|(n, a)| puts[n + 1..].iter().any(|b| met(a, b)));
            report.count(COUNTED, u64::from(is_conflict));
        }
    }
    if report.counted(COUNTED) == 0 && evidence.plan.marks.iter().any(|name| name == CONFLICT_SEEN) {
        report.find("vacuity", format!("it never happened: {CONFLICT_SEEN}"), []);
    }
}
