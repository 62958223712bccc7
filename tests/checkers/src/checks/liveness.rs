//! O14: once the faults are healed, every region serves within a bound, regions become equal within a bound, and no
//! stream's oldest age grows.

use crate::history::{Action, Nanos, Outcome, PhaseName};
use crate::{Evidence, Report};

const PROPERTY: &str = "O14 liveness";

/// Only runs that say when they were healed.
pub fn check(evidence: &Evidence<'_>, report: &mut Report) {
    let Some(healed) = evidence.history.phase(PhaseName::Healed) else {
        return;
    };
    report.count("heals", 1);
    served(evidence, healed, report);
    converged(evidence, healed, report);
    fresh(evidence, healed, report);
}

/// A read and a write of each table, asked and answered in each of its regions.
fn served(evidence: &Evidence<'_>, healed: Nanos, report: &mut Report) {
    let bound = healed.saturating_add(evidence.plan.serve_within);
    for table in evidence.history.run().iter().flat_map(|run| &run.tables) {
        for region in &table.regions {
            for (kind, is_write) in [("write", true), ("read", false)] {
                let asked = evidence.history.operations.iter().filter(|o| {
                    let write = !matches!(o.action, Action::Read { .. } | Action::Scan { .. });
                    o.table == table.name && o.region == *region && o.call >= healed && write == is_write
                });
                let first = asked.filter(|o| o.outcome == Outcome::Ok).map(|o| o.end()).min();
                if first.is_none_or(|first| first > bound) {
                    let when = first.map_or("never".to_owned(), |at| {
                        format!("{} ms after the heal", (at - healed) / 1_000_000)
                    });
                    let what = format!(
                        "no {kind} of {} was served in {region} in time: first {when}",
                        table.name
                    );
                    report.find(PROPERTY, what, []);
                }
                report.count("regions that had to serve after the heal", 1);
            }
        }
    }
}

fn converged(evidence: &Evidence<'_>, healed: Nanos, report: &mut Report) {
    let replicated = evidence
        .history
        .run()
        .is_some_and(|run| run.tables.iter().any(|t| t.regions.len() > 1));
    if !replicated {
        return;
    }
    let quiet = evidence.history.phase(PhaseName::Quiet).unwrap_or(healed).max(healed);
    let bound = quiet.saturating_add(evidence.plan.converge_within);
    match evidence.history.phase(PhaseName::Converged) {
        Some(at) if at <= bound => report.count("convergences in time", 1),
        Some(at) => {
            let late = at.saturating_sub(quiet) / 1_000_000;
            report.find(
                PROPERTY,
                format!("regions were equal only {late} ms after the last write"),
                [],
            );
        }
        None => report.find(PROPERTY, "regions never became equal", []),
    }
}

/// Both ends and the link are healthy from the heal on: what is stated must stay below the bound, and be known.
fn fresh(evidence: &Evidence<'_>, healed: Nanos, report: &mut Report) {
    let plan = evidence.plan;
    let from = healed
        .saturating_add(plan.serve_within)
        .saturating_add(plan.clock_ahead);
    for stated in evidence.history.watermarks.iter().filter(|w| w.call >= from) {
        report.count("lags looked at after the heal", 1);
        let (origin, peer) = (&stated.origin, &stated.peer);
        match stated.lag_ms {
            None => report.find(
                PROPERTY,
                format!("{origin} -> {peer}: the lag is unknown although all is healed"),
                [],
            ),
            Some(lag) if lag > plan.lag_max_ms => {
                report.find(
                    PROPERTY,
                    format!("{origin} -> {peer}: a lag of {lag} ms although all is healed"),
                    [],
                );
            }
            Some(_) => {}
        }
    }
}
