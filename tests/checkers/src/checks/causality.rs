//! O8: read x at r, then write y at r: y beats x everywhere. It needs no clock: a region's stamps lie above everything that
//! it has shown (R7).
//!
//! ```text
//! region r   |--- read shows x ---|
//!                                    |--- y is written over x ---|        so x < y
//! anywhere, at the end                                                    x must not be shown
//! any one region                       a read shows y, a later one x      must not happen
//! ```
//! A value names its writer, so a read names the writes that it saw. Values that two operations put are left out, and
//! counted.

use crate::history::{Octets, Operation, Outcome};
use crate::writes::{Coordinate, RowRead, RowWrites, Write};
use crate::{Evidence, Report};
use std::collections::{BTreeMap, HashMap};

const PROPERTY: &str = "O8 causality";

type Authors<'a, 'w> = HashMap<(Coordinate<'a>, &'a Octets), &'w Write<'a>>;

/// Who was seen when in which region at a coordinate: the region's reads in order of their return.
struct Sighting<'a> {
    read: &'a Operation,
    author: u64,
}

/// Row by row.
pub fn check(evidence: &Evidence<'_>, report: &mut Report) {
    let mut reads: BTreeMap<(&str, &Octets), Vec<RowRead<'_>>> = BTreeMap::new();
    for read in evidence.history.row_reads(&evidence.writes) {
        reads.entry((&read.operation.table, read.row)).or_default().push(read);
    }
    for (table, name, row) in evidence.writes.rows() {
        let authors = row.authors();
        let reads = reads.get(&(table, name)).map_or(&[][..], |reads| reads);
        check_row(evidence, (table, name), row, &authors, reads, report);
    }
}

fn check_row<'a>(
    evidence: &Evidence<'a>,
    (table, name): (&str, &Octets),
    row: &RowWrites<'a>,
    authors: &Authors<'a, '_>,
    reads: &[RowRead<'a>],
    report: &mut Report,
) {
    let mut sightings: BTreeMap<Coordinate<'a>, Vec<Sighting<'a>>> = BTreeMap::new();
    for read in reads {
        for cell in read.cells {
            let at = cell.coordinate();
            if let Some(author) = authors.get(&(at, &cell.value)) {
                let author = author.operation.id;
                let read = read.operation;
                sightings.entry(at).or_default().push(Sighting { read, author });
            }
        }
    }
    for at in row.coordinates() {
        let Some(seen) = sightings.get(at) else {
            continue;
        };
        let beaten = beaten(row, at, seen, report);
        if beaten.is_empty() {
            continue;
        }
        let place = format!("{table} {name:?} {}:{:?}@{}", at.0, at.1, at.2);
        check_finals(evidence, (table, name), at, authors, &beaten, &place, report);
        check_reads(seen, &beaten, &place, report);
    }
}

/// For each write that was seen at a coordinate (or acknowledged) in a region before another one was called there: who
/// certainly beats it.
fn beaten(row: &RowWrites<'_>, at: &Coordinate<'_>, seen: &[Sighting<'_>], report: &mut Report) -> BTreeMap<u64, u64> {
    let mut beaten = BTreeMap::new();
    for later in row.writes.iter().filter(|w| w.certain && w.touches(at)) {
        for sighting in seen {
            let first = sighting.read.region == later.operation.region && sighting.read.end() < later.operation.call;
            if first && sighting.author != later.operation.id {
                report.count("writes after a read of what they overwrite", 1);
                beaten.insert(sighting.author, later.operation.id);
            }
        }
    }
    beaten
}

fn check_finals(
    evidence: &Evidence<'_>,
    (table, name): (&str, &Octets),
    at: &Coordinate<'_>,
    authors: &Authors<'_, '_>,
    beaten: &BTreeMap<u64, u64>,
    place: &str,
    report: &mut Report,
) {
    for state in evidence.finals {
        let rows = state.tables.iter().filter(|t| t.table == table).flat_map(|t| &t.rows);
        let cells = rows.filter(|row| row.row == *name).flat_map(|row| &row.cells);
        for cell in cells.filter(|cell| cell.coordinate() == *at) {
            let author = authors.get(&(cell.coordinate(), &cell.value)).map(|w| w.operation.id);
            if let Some((x, y)) = author.and_then(|x| Some((x, *beaten.get(&x)?))) {
                let what = format!(
                    "at the end {} shows at {place} the value of {x}, which {y} read before it wrote",
                    state.region
                );
                report.find(PROPERTY, what, [x, y]);
            }
        }
    }
}

/// In one region nothing that was seen beaten comes back: y was visible there, so x is beaten there for ever.
fn check_reads(seen: &[Sighting<'_>], beaten: &BTreeMap<u64, u64>, place: &str, report: &mut Report) {
    for back in seen {
        let Some(by) = beaten.get(&back.author) else {
            continue;
        };
        let before = seen.iter().find(|s| {
            s.author == *by
                && s.read.region == back.read.region
                && s.read.end() < back.read.call
                && s.read.outcome == Outcome::Ok
        });
        if let Some(before) = before {
            let region = &back.read.region;
            let what = format!(
                "{region} shows at {place} the value of {} again after that of {by}, which beats it",
                back.author
            );
            report.find(PROPERTY, what, [back.author, *by, before.read.id, back.read.id]);
        }
    }
}
