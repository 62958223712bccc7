//! What a run had to do, and the checkers' verdict over what it did.

use crate::control::Control;
use crate::plan::{self, Kind, Planned};
use crate::run::{AUDIT_LIMIT, Outcome, SERVE_LIMIT};
use crate::site::Shape;
use crate::{logs, workload};
use anyhow::{Result, anyhow, ensure};
use tidemark_checkers::plan::CONFLICT_SEEN;
use tidemark_checkers::{History, Plan};

/// Judges the history and what each region shows.
pub(crate) fn judge(
    shape: &Shape,
    faults: &[Planned],
    history: &[u8],
    control: &Control,
    outcome: &mut Outcome,
) -> Result<()> {
    let history = History::read(history);
    let plan = Plan {
        clock_margin: 2 * (plan::greatest_offset(faults) + shape.skew).as_nanos() as u64 + 2_000_000,
        clock_ahead: (plan::greatest_lead(faults) + shape.skew).as_nanos() as u64,
        writes_min: 100,
        reads_min: 30,
        success_percent_min: 10,
        linearizable_rows_min: 4,
        faults: faults.iter().map(|planned| planned.id.clone()).collect(),
        finals: shape.regions,
        links_counted: true,
        serve_within: SERVE_LIMIT.as_nanos() as u64,
        converge_within: AUDIT_LIMIT.as_nanos() as u64,
        errors_allowed: errors_allowed(faults),
        // What clients store is theirs: it stands in no log.
        secrets: vec![workload::PRIVATE.to_owned()],
        logs_needed: true,
        ..Plan::default()
    };
    let report = tidemark_checkers::check(&history, &control.finals(), &logs::taken(), &plan);
    outcome.judged = report.counts.iter().map(|(what, n)| ((*what).to_owned(), *n)).collect();
    let conflicts = report.counted(tidemark_checkers::checks::conflicts::COUNTED);
    if conflicts > 0 {
        outcome.marks.insert(CONFLICT_SEEN.to_owned(), conflicts);
    }
    ensure!(report.passed(), "{report}");
    Ok(())
}

/// ERROR lines that belong to what a plan does: each says that a person must look, and here nobody has to.
fn errors_allowed(faults: &[Planned]) -> Vec<String> {
    // openraft says so where whoever asked has given up waiting: a heartbeat whose sender timed out.
    let mut allowed = vec!["to-Raft tx send error"];
    for planned in faults {
        allowed.extend_from_slice(match planned.kind {
            Kind::FailedSync(_) => &[
                "log store poisoned",
                "log store is poisoned",
                "failed to receive from RaftCore",
                "failed to send RaftMsg to RaftCore",
                "failed to send HeartbeatProgress",
                "RaftCore::main error",
                "RaftCore received Notification::StorageError",
                "replica poisoned",
                "a tablet of this node cannot start",
                "garbage collection failed",
            ][..],
            Kind::FullDisk(_) => &["no space for the log", "garbage collection failed"],
            _ => &[],
        });
    }
    allowed.into_iter().map(str::to_owned).collect()
}

/// The history is whole from here on.
pub(crate) fn close(control: &Control) -> Result<()> {
    let closed = control.recorder.close();
    closed.map_err(|error| anyhow!("the history is not whole: {error}"))
}
