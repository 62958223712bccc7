//! O5: after quiescence all regions show the same, and what the oracle shows.
//!
//! ```text
//! equal       cell by cell (stamps too where they are in the states), and by the servers' own digests
//! the oracle  rows whose every write was acknowledged and has its stamp in the history: the model of tests/oracle says
//!             exactly what must be shown; other rows are held to what O6 can say without stamps
//! ```

use crate::history::{Action, Cell, FinalState, Mutation, Octets, Operation, Seen, SeenRow, TableState};
use crate::history::{Stamp as HistoryStamp, Versions};
use crate::writes::{Coordinate, RowWrites};
use crate::{Evidence, Report};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use tidemark_base::fact::{Fact, OwnedScope};
use tidemark_base::{FamilyId, FamilySettings, RegionId, Stamp, TableSchema, VersionRange};
use tidemark_oracle::Oracle;

const PROPERTY: &str = "O5 converged";

/// All pairs with the first, then each with the oracle.
pub fn check(evidence: &Evidence<'_>, report: &mut Report) {
    for table in evidence.history.run().iter().flat_map(|run| &run.tables) {
        let mut states: Vec<(&FinalState, &TableState)> = Vec::new();
        for state in evidence
            .finals
            .iter()
            .filter(|state| table.regions.contains(&state.region))
        {
            match state.tables.iter().find(|t| t.table == table.name) {
                Some(shown) => states.push((state, shown)),
                None => report.find(
                    PROPERTY,
                    format!("{} has no final state of {}", state.region, table.name),
                    [],
                ),
            }
        }
        for pair in states.windows(2) {
            report.count("pairs of regions compared", 1);
            compare(pair[0], pair[1], report);
        }
        if let Some((state, shown)) = states.first() {
            compare_with_oracle(evidence, &table.name, state, shown, report);
        }
    }
}

fn compare((east, a): (&FinalState, &TableState), (west, b): (&FinalState, &TableState), report: &mut Report) {
    let (names, table) = ((&east.region, &west.region), &a.table);
    let (rows_a, rows_b) = (rows(a), rows(b));
    let keys: BTreeSet<&Octets> = rows_a.keys().chain(rows_b.keys()).copied().collect();
    report.count("rows compared between regions", keys.len() as u64);
    for key in keys {
        let empty = Vec::new();
        let cells = |rows: &BTreeMap<&Octets, &Vec<Cell>>| -> Vec<Cell> {
            let mut cells = (*rows.get(key).unwrap_or(&&empty)).clone();
            cells.sort();
            cells
        };
        let (left, right) = (cells(&rows_a), cells(&rows_b));
        let differs = left.iter().zip(&right).find(|(l, r)| !same(l, r));
        if left.len() != right.len() || differs.is_some() {
            let only = left.iter().find(|l| !right.iter().any(|r| same(l, r)));
            let other = right.iter().find(|r| !left.iter().any(|l| same(l, r)));
            let what = format!(
                "{table} {key:?} differs: {} has {}, {} has {}",
                names.0,
                shown(only),
                names.1,
                shown(other)
            );
            report.find(PROPERTY, what, []);
        }
    }
    for (name, a, b) in [
        ("content", &a.content_hash, &b.content_hash),
        ("stamps", &a.stamps_hash, &b.stamps_hash),
    ] {
        if let (Some(left), Some(right)) = (a, b) {
            report.count("digests compared", 1);
            if left != right {
                let what = format!(
                    "{table}: the {name} digests of {} and {} differ: {left}, {right}",
                    names.0, names.1
                );
                report.find(PROPERTY, what, []);
            }
        }
    }
}

fn rows(state: &TableState) -> BTreeMap<&Octets, &Vec<Cell>> {
    state.rows.iter().map(|row: &SeenRow| (&row.row, &row.cells)).collect()
}

fn same(a: &Cell, b: &Cell) -> bool {
    let stamps = match (a.stamp, b.stamp) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    };
    a.coordinate() == b.coordinate() && a.value == b.value && stamps
}

fn shown(cell: Option<&Cell>) -> String {
    cell.map_or("nothing more".to_owned(), |c| {
        format!("{}:{:?}@{} = {:?}", c.family, c.qualifier, c.version, c.value)
    })
}

fn compare_with_oracle(
    evidence: &Evidence<'_>,
    table: &str,
    state: &FinalState,
    shown: &TableState,
    report: &mut Report,
) {
    let schema = schema(evidence, table);
    let rows_shown = rows(shown);
    for (_, name, row) in evidence.writes.rows().filter(|(of, _, _)| *of == table) {
        let Some(oracle) = facts(name, row) else {
            continue;
        };
        report.count("rows compared with the oracle", 1);
        let expected: BTreeMap<(FamilyId, Bytes, i64), Bytes> = oracle
            .visible(&schema, state.now_micros)
            .into_iter()
            .map(|cell| ((cell.family, cell.qualifier, cell.version), cell.value))
            .collect();
        let cells = rows_shown.get(name).map_or(&[][..], |cells| &cells[..]);
        let actual: BTreeMap<(FamilyId, Bytes, i64), Bytes> = cells
            .iter()
            .map(|cell| {
                (
                    (id(&cell.family), bytes(&cell.qualifier), cell.version),
                    bytes(&cell.value),
                )
            })
            .collect();
        if expected != actual {
            let what = format!(
                "{table} {name:?} in {}: {} cells, the oracle has {}",
                state.region,
                actual.len(),
                expected.len()
            );
            let lost = expected.iter().find(|(at, value)| actual.get(at) != Some(value));
            let more = actual.iter().find(|(at, value)| expected.get(at) != Some(value));
            report.find(PROPERTY, format!("{what}; expected {lost:?}, shown {more:?}"), []);
        }
    }
}

/// The row's facts, if every write that may have had an effect is known with its stamp.
fn facts(name: &Octets, row: &RowWrites<'_>) -> Option<Oracle> {
    let mut oracle = Oracle::new();
    for write in &row.writes {
        let stamp = write.operation.stamp.filter(|_| write.certain)?;
        for mutation in mutations(write.operation)? {
            tombstone(name, mutation, stamp)
                .into_iter()
                .for_each(|fact| oracle.add(fact));
        }
        // Puts come normalised (R5).
        write
            .puts
            .iter()
            .for_each(|(at, value)| oracle.add(cell(name, at, value, stamp)));
    }
    Some(oracle)
}

/// The mutations that an acknowledged operation made, if its one stamp is that of all of them.
fn mutations(operation: &Operation) -> Option<&[Mutation]> {
    match (&operation.action, &operation.seen) {
        (Action::Write { mutations }, _) => Some(mutations),
        (Action::CheckAndMutate { on_match, .. }, Some(Seen::Matched(true))) => Some(on_match),
        (Action::CheckAndMutate { on_mismatch, .. }, Some(Seen::Matched(false))) => Some(on_mismatch),
        (Action::Increment { .. } | Action::Append { .. }, _) => Some(&[]),
        // Each of its tablets gives a range delete a stamp of its own.
        _ => None,
    }
}

/// The tombstone of a delete; `None` for a put.
fn tombstone(row: &Octets, mutation: &Mutation, stamp: HistoryStamp) -> Option<Fact> {
    let (scope, versions) = match mutation {
        Mutation::Put { .. } => return None,
        Mutation::DeleteColumn {
            family,
            qualifier,
            versions,
        } => {
            let (family, qualifier) = (id(family), bytes(qualifier));
            (OwnedScope::Column { family, qualifier }, versions)
        }
        Mutation::DeleteFamily { family, versions } => (OwnedScope::Family { family: id(family) }, versions),
        Mutation::DeleteRow { versions } => (OwnedScope::Row, versions),
    };
    let Versions { from, to } = *versions;
    Some(Fact::Tombstone {
        row: bytes(row),
        scope,
        versions: VersionRange { from, to },
        stamp: base_stamp(stamp),
    })
}

fn cell(row: &Octets, at: &Coordinate<'_>, value: &Octets, stamp: HistoryStamp) -> Fact {
    Fact::Cell {
        row: bytes(row),
        family: id(at.0),
        qualifier: bytes(at.1),
        version: at.2,
        stamp: base_stamp(stamp),
        value: bytes(value),
    }
}

fn schema(evidence: &Evidence<'_>, table: &str) -> TableSchema {
    let mut schema = TableSchema::new(RegionId(1));
    for family in evidence.history.table(table).iter().flat_map(|table| &table.families) {
        let mut settings = FamilySettings::new(&family.name, 0);
        settings.ttl_micros = family.ttl_micros;
        settings.max_versions = family.max_versions;
        schema.families.push(settings);
    }
    schema
}

fn id(family: &str) -> FamilyId {
    FamilyId::derive(family, 0)
}

fn bytes(octets: &Octets) -> Bytes {
    Bytes::copy_from_slice(&octets.0)
}

fn base_stamp(stamp: HistoryStamp) -> Stamp {
    Stamp {
        epoch: stamp.epoch,
        hlc: stamp.hlc,
        region: RegionId(stamp.region),
    }
}
