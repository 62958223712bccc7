//! The history itself is whole: no line that is no record, no operation twice. A checker that works on half a history
//! proves half of nothing.

use crate::{Evidence, Report};

/// Each problem of the reader is a finding.
pub fn check(evidence: &Evidence<'_>, report: &mut Report) {
    report.count("operations", evidence.history.operations.len() as u64);
    for problem in &evidence.history.problems {
        report.find("history", problem.clone(), []);
    }
}
