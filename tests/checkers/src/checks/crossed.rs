//! O13: each row mutation crosses each directed link once. When all is quiet, what the peer applied from an origin is what
//! the origin made, and nothing of a third origin or of the peer itself came over the link.

use crate::{Evidence, Report};

const PROPERTY: &str = "O13 crossed once";

/// The counters of every directed link.
pub fn check(evidence: &Evidence<'_>, report: &mut Report) {
    for link in evidence.finals.iter().flat_map(|state| &state.links) {
        report.count("directed links counted", 1);
        report.count("row mutations that crossed a link", link.applied);
        let name = format!("{} {} -> {}", link.table, link.origin, link.peer);
        if link.applied != link.originated {
            let what = format!(
                "{name}: {} mutations were made and {} applied",
                link.originated, link.applied
            );
            report.find(PROPERTY, what, []);
        }
        if link.foreign > 0 {
            report.find(
                PROPERTY,
                format!("{name}: {} mutations of another origin: a loop", link.foreign),
                [],
            );
        }
    }
    if evidence.plan.links_counted {
        missing(evidence, report);
    }
}

fn missing(evidence: &Evidence<'_>, report: &mut Report) {
    for table in evidence.history.run().iter().flat_map(|run| &run.tables) {
        for origin in &table.regions {
            for peer in table.regions.iter().filter(|peer| *peer != origin) {
                let counted = evidence.finals.iter().flat_map(|state| &state.links);
                let found = counted
                    .filter(|l| l.table == table.name && l.origin == *origin && l.peer == *peer)
                    .count();
                if found != 1 {
                    let what = format!("{} {origin} -> {peer}: {found} counts instead of one", table.name);
                    report.find(PROPERTY, what, []);
                }
            }
        }
    }
}
