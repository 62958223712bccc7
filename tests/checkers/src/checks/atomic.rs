//! O12: a row mutation is atomic, at the peer too. A read of the row shows all of a mutation or nothing of it, but for
//! what other writes may have hidden.
//!
//! ```text
//! w puts a=17 and b=17 and deletes c
//! shown a=17, b=16    torn, unless somebody may have written b after w
//! shown a=17, c=3     torn, if c=3 was certainly written before w
//! ```

use crate::history::Octets;
use crate::writes::{Coordinate, RowRead, RowWrites, Write};
use crate::{Evidence, Report};
use std::collections::{BTreeSet, HashMap};

const PROPERTY: &str = "O12 atomicity";

/// Every read, scans row by row.
pub fn check(evidence: &Evidence<'_>, report: &mut Report) {
    let mut authors: HashMap<(&str, &Octets), HashMap<_, _>> = HashMap::new();
    for (table, name, row) in evidence.writes.rows() {
        if row.writes.iter().any(|w| w.puts.len() + w.deletes.len() > 1) {
            authors.insert((table, name), row.authors());
        }
    }
    for read in evidence.history.row_reads(&evidence.writes) {
        let key = (&*read.operation.table, read.row);
        let (Some(row), Some(authors)) = (evidence.writes.row(key.0, key.1), authors.get(&key)) else {
            continue;
        };
        check_read(evidence, row, authors, &read, report);
    }
}

fn check_read<'a>(
    evidence: &Evidence<'a>,
    row: &RowWrites<'a>,
    authors: &HashMap<(Coordinate<'a>, &'a Octets), &Write<'a>>,
    read: &RowRead<'a>,
    report: &mut Report,
) {
    let mut judged = BTreeSet::new();
    for cell in read.cells {
        let Some(write) = authors.get(&(cell.coordinate(), &cell.value)) else {
            continue;
        };
        if write.puts.len() + write.deletes.len() < 2 || !judged.insert(write.operation.id) {
            continue;
        }
        report.count("mutations of several cells seen by a read", 1);
        if let Some(at) = torn_put(evidence, row, write, read) {
            let what = format!(
                "operation {} in {} shows {} but not its {}:{:?}@{}, which nothing can have hidden",
                read.operation.id, read.operation.region, write.operation.id, at.0, at.1, at.2
            );
            report.find(PROPERTY, what, [write.operation.id, read.operation.id]);
        }
        if let Some((at, old)) = torn_delete(evidence, authors, write, read) {
            let what = format!(
                "operation {} in {} shows {} and also {}:{:?}@{} of {old}, which it deletes",
                read.operation.id, read.operation.region, write.operation.id, at.0, at.1, at.2
            );
            report.find(PROPERTY, what, [write.operation.id, old, read.operation.id]);
        }
    }
}

/// A put of the mutation that is not shown and that no other write can have hidden.
fn torn_put<'a>(
    evidence: &Evidence<'a>,
    row: &RowWrites<'a>,
    write: &Write<'a>,
    read: &RowRead<'a>,
) -> Option<Coordinate<'a>> {
    let families = evidence
        .history
        .table(&read.operation.table)
        .map_or(&[][..], |table| &table.families);
    let returned = read.operation.end();
    let hidden = |at: &Coordinate<'_>| {
        let limited = families
            .iter()
            .any(|f| f.name == at.0 && (f.ttl_micros.is_some() || f.max_versions.is_some()));
        // An increment without an answer may have put at any version of its column.
        let unseen = |w: &Write<'_>| {
            w.unseen
                .iter()
                .any(|column| column.family == at.0 && column.qualifier == *at.1)
        };
        limited
            || row.writes.iter().any(|other| {
                other.operation.id != write.operation.id
                    && other.operation.call <= returned
                    && (other.touches(at) || unseen(other))
                    && !evidence.writes.before(other.operation, write.operation)
            })
    };
    let missing = write
        .puts
        .iter()
        .filter(|(at, value)| read.asks_for(at) && read.shows(at) != Some(value));
    missing.map(|(at, _)| *at).find(|at| !hidden(at))
}

/// A cell that the mutation deletes, shown beside it although its author certainly came before.
fn torn_delete<'a>(
    evidence: &Evidence<'a>,
    authors: &HashMap<(Coordinate<'a>, &'a Octets), &Write<'a>>,
    write: &Write<'a>,
    read: &RowRead<'a>,
) -> Option<(Coordinate<'a>, u64)> {
    read.cells.iter().find_map(|cell| {
        let at = cell.coordinate();
        let old = authors.get(&(at, &cell.value))?;
        let deleted = old.operation.id != write.operation.id
            && write.deletes_at(&at)
            && evidence.writes.before(old.operation, write.operation);
        deleted.then_some((at, old.operation.id))
    })
}
