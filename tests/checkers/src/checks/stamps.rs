//! O4: a region's stamps rise along a row, over leader changes, restarts and clocks that jump; and no two writes of a row
//! share one (R5). Only for histories in which stamps are known.

use crate::history::{Operation, Outcome, Stamp};
use crate::{Evidence, Report};
use std::collections::BTreeMap;

const PROPERTY: &str = "O4 stamps";

/// Row by row.
pub fn check(evidence: &Evidence<'_>, report: &mut Report) {
    for (table, row, writes) in evidence.writes.rows() {
        let mut stamped: BTreeMap<u64, (&Operation, Stamp)> = BTreeMap::new();
        for operation in writes.writes.iter().map(|write| write.operation) {
            if let (Outcome::Ok, Some(stamp)) = (operation.outcome, operation.stamp) {
                stamped.insert(operation.id, (operation, stamp));
            }
        }
        report.count("stamps compared", stamped.len() as u64);
        let mut holders: BTreeMap<Stamp, u64> = BTreeMap::new();
        for (id, (_, stamp)) in &stamped {
            if let Some(other) = holders.insert(*stamp, *id) {
                let what = format!("{table} {row:?}: two writes have the stamp {stamp:?}");
                report.find(PROPERTY, what, [other, *id]);
            }
        }
        for (later, stamp) in stamped.values() {
            let before = |earlier: &Operation| earlier.region == later.region && earlier.end() < later.call;
            let fell = stamped
                .values()
                .find(|(earlier, greater)| before(earlier) && greater > stamp);
            if let Some((earlier, greater)) = fell {
                let what = format!(
                    "{table} {row:?} in {}: the stamp fell from {greater:?} to {stamp:?}",
                    later.region
                );
                report.find(PROPERTY, what, [earlier.id, later.id]);
            }
        }
    }
}
