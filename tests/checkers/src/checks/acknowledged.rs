//! O6: every acknowledged write is visible, or beaten by a greater stamp, or expired. Two places show it:
//!
//! ```text
//! a read in region r      everything that r acknowledged before the read was called          (R-linearizable reads)
//! a final state           everything that any region acknowledged
//! ```
//! And the other way round: what is shown was written by somebody, and was not certainly overwritten.

use crate::history::{Family, FinalState, Octets, Outcome, SeenRow};
use crate::writes::{Coordinate, RowRead, RowWrites, Write, Wrong};
use crate::{Evidence, Report};
use std::collections::{BTreeSet, HashMap};

const PROPERTY: &str = "O6 acknowledged";

/// Reads while the run goes on, and every final state.
pub fn check(evidence: &Evidence<'_>, report: &mut Report) {
    for read in evidence.history.row_reads(&evidence.writes) {
        check_read(evidence, &read, report);
    }
    for state in evidence.finals {
        check_final(evidence, state, report);
    }
}

fn check_read(evidence: &Evidence<'_>, read: &RowRead<'_>, report: &mut Report) {
    let here = &read.operation.region;
    let call = read.operation.call;
    let returned = read.operation.end();
    let known = |w: &Write<'_>| w.certain && w.operation.region == *here && w.operation.end() < call;
    let possible = |w: &Write<'_>| w.operation.call <= returned;
    let wrong = judge_read(evidence, read, &known, &possible);
    report.count("row reads compared with acknowledged writes", 1);
    for (at, wrong) in wrong {
        let what = describe(&read.operation.table, read.row, &at, &wrong);
        report.find(
            PROPERTY,
            format!("operation {} in {here}: {what}", read.operation.id),
            operations(&wrong).into_iter().chain([read.operation.id]),
        );
    }
}

/// Everything wrong in one read of one row, given what is certainly there and what may be.
pub(crate) fn judge_read<'a>(
    evidence: &Evidence<'a>,
    read: &RowRead<'a>,
    known: &dyn Fn(&Write<'a>) -> bool,
    possible: &dyn Fn(&Write<'a>) -> bool,
) -> Vec<(Coordinate<'a>, Wrong)> {
    let empty = RowWrites::default();
    let row = evidence.writes.row(&read.operation.table, read.row).unwrap_or(&empty);
    let mut wrong = Vec::new();
    for cell in read.cells {
        let at = cell.coordinate();
        let judged = evidence.writes.judge(row, &at, Some(&cell.value), known, possible);
        wrong.extend(judged.map(|w| (at, w)));
    }
    for at in row
        .coordinates()
        .filter(|at| read.asks_for(at) && read.shows(at).is_none())
    {
        let family = family(evidence, &read.operation.table, at.0);
        // Expiry needs the server's clock, which nobody knows here.
        let expires = family.is_some_and(|family| family.ttl_micros.is_some());
        if expires || beyond_limit(row, family, at) {
            continue;
        }
        wrong.extend(evidence.writes.judge(row, at, None, known, possible).map(|w| (*at, w)));
    }
    wrong
}

fn check_final(evidence: &Evidence<'_>, state: &FinalState, report: &mut Report) {
    for table in &state.tables {
        let shown: HashMap<&Octets, &SeenRow> = table.rows.iter().map(|row| (&row.row, row)).collect();
        let rows: BTreeSet<&Octets> = evidence
            .writes
            .rows()
            .filter(|(name, _, _)| *name == table.table)
            .map(|(_, row, _)| row)
            .chain(shown.keys().copied())
            .collect();
        // A table of one region is not in the others.
        let settings = evidence.history.table(&table.table);
        if settings.is_some_and(|settings| !settings.regions.contains(&state.region)) {
            continue;
        }
        for row in rows {
            check_final_row(evidence, state, &table.table, row, shown.get(row).copied(), report);
        }
    }
}

fn check_final_row(
    evidence: &Evidence<'_>,
    state: &FinalState,
    table: &str,
    row: &Octets,
    shown: Option<&SeenRow>,
    report: &mut Report,
) {
    let known = |w: &Write<'_>| w.certain;
    let possible = |w: &Write<'_>| w.operation.outcome != Outcome::Fail;
    let empty = RowWrites::default();
    let writes = evidence.writes.row(table, row).unwrap_or(&empty);
    let mut find = |at: &Coordinate<'_>, wrong: Wrong| {
        let what = describe(table, row, at, &wrong);
        report.find(
            PROPERTY,
            format!("at the end {}: {what}", state.region),
            operations(&wrong),
        );
    };
    let cells = shown.map_or(&[][..], |row| &row.cells);
    let mut compared = 0;
    for cell in cells {
        let at = cell.coordinate();
        compared += 1;
        if let Some(wrong) = evidence.writes.judge(writes, &at, Some(&cell.value), &known, &possible) {
            find(&at, wrong);
        }
    }
    let present: BTreeSet<Coordinate<'_>> = cells.iter().map(|cell| cell.coordinate()).collect();
    for at in writes.coordinates().filter(|at| !present.contains(at)) {
        let family = family(evidence, table, at.0);
        let expired = family
            .and_then(|family| family.ttl_micros)
            .is_some_and(|ttl| at.2.saturating_add(ttl) <= state.now_micros);
        if expired || beyond_limit(writes, family, at) {
            continue;
        }
        compared += 1;
        if let Some(wrong) = evidence.writes.judge(writes, at, None, &known, &possible) {
            find(at, wrong);
        }
    }
    report.count(
        "coordinates of final states compared with acknowledged writes",
        compared,
    );
}

/// R11 ranks over everything ever written: with so many greater versions it may be hidden.
fn beyond_limit(row: &RowWrites<'_>, family: Option<&Family>, at: &Coordinate<'_>) -> bool {
    family
        .and_then(|family| family.max_versions)
        .is_some_and(|n| row.versions_above(at) >= n as usize)
}

fn family<'a>(evidence: &Evidence<'a>, table: &str, family: &str) -> Option<&'a Family> {
    let table = evidence.history.table(table)?;
    table.families.iter().find(|f| f.name == family)
}

pub(crate) fn describe(table: &str, row: &Octets, at: &Coordinate<'_>, wrong: &Wrong) -> String {
    let place = format!("{table} {:?} {}:{:?}@{}", row, at.0, at.1, at.2);
    match wrong {
        Wrong::Stranger => format!("{place} shows a value that nobody wrote there"),
        Wrong::Stale(put, by) => format!("{place} shows the value of {put}, which {by} certainly beats"),
        Wrong::Lost(put) => {
            format!("{place} shows nothing; {put} was acknowledged and nothing later can have hidden it")
        }
    }
}

pub(crate) fn operations(wrong: &Wrong) -> Vec<u64> {
    match wrong {
        Wrong::Stranger => Vec::new(),
        Wrong::Stale(put, by) => vec![*put, *by],
        Wrong::Lost(put) => vec![*put],
    }
}
