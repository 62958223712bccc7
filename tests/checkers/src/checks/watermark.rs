//! O7, R23: what a region says about a peer is true. If it said a lag of L at time t, then everything that the origin
//! acknowledged before `t - L` is readable at the peer for whoever asks after the answer.
//!
//! ```text
//!   origin   |--- w ---|                                 w ended before call - lag - margin
//!   status                 call |--- "lag 200 ms" ---| returned
//!   peer                                                    |--- read ---|   must show w, or what beat it
//! ```
//! With stamps in the history the `complete` watermark itself is held to the same: every write of the origin with an HLC at
//! or below it must be readable.

use super::acknowledged::{describe, judge_read, operations};
use crate::history::Watermark;
use crate::writes::{RowRead, Write};
use crate::{Evidence, Report};

const PROPERTY: &str = "O7 watermark";
const MS: u64 = 1_000_000;

/// Every read at a peer against the strongest statements made before it.
pub fn check(evidence: &Evidence<'_>, report: &mut Report) {
    report.count("watermarks stated", evidence.history.watermarks.len() as u64);
    let reads = evidence.history.row_reads(&evidence.writes);
    for read in &reads {
        let promises: Vec<&Watermark> = evidence
            .history
            .watermarks
            .iter()
            .filter(|w| {
                w.table == read.operation.table && w.peer == read.operation.region && w.returned < read.operation.call
            })
            .collect();
        let origins: std::collections::BTreeSet<&str> = promises.iter().map(|w| &*w.origin).collect();
        for origin in origins {
            check_read(evidence, read, origin, &promises, report);
        }
    }
}

fn check_read(evidence: &Evidence<'_>, read: &RowRead<'_>, origin: &str, promises: &[&Watermark], report: &mut Report) {
    let margin = evidence.writes.margin();
    let of_origin = || promises.iter().filter(|w| w.origin == origin);
    // The latest moment up to which the peer is said to have everything.
    let up_to = of_origin()
        .filter_map(|w| w.call.checked_sub(w.lag_ms?.saturating_mul(MS))?.checked_sub(margin))
        .max();
    let complete = of_origin().filter_map(|w| w.complete_hlc).max();
    let promised = |w: &Write<'_>| {
        let by_time = up_to.is_some_and(|up_to| w.operation.end() < up_to);
        let by_stamp = matches!((w.operation.stamp, complete), (Some(stamp), Some(complete)) if stamp.hlc <= complete);
        w.certain && w.operation.region == origin && (by_time || by_stamp)
    };
    let row = evidence.writes.row(&read.operation.table, read.row);
    let judged = row.map_or(0, |row| row.writes.iter().filter(|w| promised(w)).count());
    if judged == 0 {
        return;
    }
    report.count("promised writes looked for at a peer", judged as u64);
    let here = &read.operation.region;
    let local = |w: &Write<'_>| w.certain && w.operation.region == *here && w.operation.end() < read.operation.call;
    let returned = read.operation.end();
    let known = |w: &Write<'_>| promised(w) || local(w);
    let possible = |w: &Write<'_>| w.operation.call <= returned;
    for (at, wrong) in judge_read(evidence, read, &known, &possible) {
        let what = describe(&read.operation.table, read.row, &at, &wrong);
        report.find(
            PROPERTY,
            format!(
                "operation {} in {here}, after {origin} was said to be complete: {what}",
                read.operation.id
            ),
            operations(&wrong).into_iter().chain([read.operation.id]),
        );
    }
}
