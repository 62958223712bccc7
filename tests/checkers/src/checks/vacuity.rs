//! A run that did nothing proves nothing: too few operations succeeded, a planned fault had no effect that anybody saw, a
//! mark never fired, a checker had nothing to look at.

use crate::history::{Action, Outcome};
use crate::plan::CONFLICT_SEEN;
use crate::{Evidence, Report};

const PROPERTY: &str = "vacuity";

/// Runs last: it looks at what the other checkers counted.
pub fn check(evidence: &Evidence<'_>, report: &mut Report) {
    operations(evidence, report);
    faults(evidence, report);
    marks(evidence, report);
    looked_at(evidence, report);
}

fn operations(evidence: &Evidence<'_>, report: &mut Report) {
    let plan = evidence.plan;
    let (mut writes, mut reads, mut all) = (0, 0, 0);
    for operation in &evidence.history.operations {
        all += 1;
        if operation.outcome == Outcome::Ok {
            match operation.action {
                Action::Read { .. } | Action::Scan { .. } => reads += 1,
                _ => writes += 1,
            }
        }
    }
    report.count("acknowledged writes", writes);
    report.count("answered reads", reads);
    for (kind, count, min) in [("writes", writes, plan.writes_min), ("reads", reads, plan.reads_min)] {
        if count < min {
            report.find(PROPERTY, format!("only {count} {kind} succeeded, {min} are needed"), []);
        }
    }
    if (writes + reads) * 100 < all * plan.success_percent_min {
        let what = format!("only {} of {all} operations succeeded", writes + reads);
        report.find(PROPERTY, what, []);
    }
}

fn faults(evidence: &Evidence<'_>, report: &mut Report) {
    for id in &evidence.plan.faults {
        let done: Vec<_> = evidence.history.faults.iter().filter(|fault| fault.id == *id).collect();
        if done.is_empty() {
            report.find(PROPERTY, format!("the planned fault {id} was not made"), []);
        }
    }
    for fault in &evidence.history.faults {
        report.count("faults", 1);
        if fault.effect.as_ref().is_none_or(|effect| effect.trim().is_empty()) {
            let what = format!(
                "{} of {} ({}) had no effect that anybody saw",
                fault.kind, fault.target, fault.id
            );
            report.find(PROPERTY, what, []);
        }
    }
}

fn marks(evidence: &Evidence<'_>, report: &mut Report) {
    // Conflicts are found in the history itself.
    for name in evidence.plan.marks.iter().filter(|name| *name != CONFLICT_SEEN) {
        let fired = evidence
            .history
            .marks
            .iter()
            .any(|mark| mark.name == *name && mark.count > 0);
        if !fired {
            report.find(PROPERTY, format!("it never happened: {name}"), []);
        }
    }
}

fn looked_at(evidence: &Evidence<'_>, report: &mut Report) {
    let rows = report.counted("rows searched for a linear order");
    if rows < evidence.plan.linearizable_rows_min {
        let min = evidence.plan.linearizable_rows_min;
        report.find(
            PROPERTY,
            format!("only {rows} rows were searched for a linear order, {min} are needed"),
            [],
        );
    }
    let regions = evidence.history.run().map_or(0, |run| run.regions.len());
    let needed = if evidence.plan.finals == 0 {
        regions
    } else {
        evidence.plan.finals
    };
    if evidence.finals.len() < needed {
        let what = format!("only {} final states, {needed} are needed", evidence.finals.len());
        report.find(PROPERTY, what, []);
    }
}
