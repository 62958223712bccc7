//! Who wrote what, and what a read may show of it.
//!
//! Stamps decide who wins (R2), but clients do not see them. Three things order two writes without seeing stamps:
//!
//! ```text
//! both stamps are in the history             their order
//! one region, a ended before b was called    a < b: stamps rise along a tablet's log (O4)
//! two regions, a ended `margin` before b     a < b: their clocks differ by less than the margin (R8)
//! ```
//! Whatever else happened, the order of the two is open and each may win. So every judgement here says only what no
//! correct system can show.

use crate::history::{Action, Cell, Column, Mutation, Nanos, Octets, Operation, Outcome, Seen, Versions};
use crate::read::History;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Where a cell stands in its row.
pub type Coordinate<'a> = (&'a str, &'a Octets, i64);

/// One write to one row, as far as it is known.
#[derive(Clone, Debug)]
pub struct Write<'a> {
    /// The operation.
    pub operation: &'a Operation,
    /// True if it was acknowledged and it is known which of its branches was taken.
    pub certain: bool,
    /// Cells that it puts, normalised (R5).
    pub puts: BTreeMap<Coordinate<'a>, &'a Octets>,
    /// What it deletes.
    pub deletes: Vec<Delete<'a>>,
    /// Columns in which it puts a cell that nobody saw: an increment without an answer.
    pub unseen: Vec<&'a Column>,
}

/// What is deleted of a row.
#[derive(Clone, Copy, Debug)]
pub struct Delete<'a> {
    family: Option<&'a str>,
    qualifier: Option<&'a Octets>,
    versions: Versions,
}

impl Delete<'_> {
    /// True if it covers that coordinate.
    pub fn covers(&self, at: &Coordinate<'_>) -> bool {
        self.family.is_none_or(|family| family == at.0)
            && self.qualifier.is_none_or(|qualifier| qualifier == at.1)
            && self.versions.contains(at.2)
    }
}

impl<'a> Write<'a> {
    /// True if it puts or deletes that coordinate.
    pub fn touches(&self, at: &Coordinate<'_>) -> bool {
        self.puts.contains_key(at) || self.deletes_at(at)
    }

    /// True if it deletes that coordinate.
    pub fn deletes_at(&self, at: &Coordinate<'_>) -> bool {
        self.deletes.iter().any(|delete| delete.covers(at))
    }

    fn new(operation: &'a Operation, certain: bool) -> Write<'a> {
        Write {
            operation,
            certain,
            puts: BTreeMap::new(),
            deletes: Vec::new(),
            unseen: Vec::new(),
        }
    }

    fn of_mutations(operation: &'a Operation, certain: bool, mutations: &'a [Mutation]) -> Write<'a> {
        let mut write = Write::new(operation, certain);
        for mutation in mutations {
            let delete = match mutation {
                Mutation::Put {
                    family,
                    qualifier,
                    version,
                    value,
                } => {
                    write.puts.insert((family, qualifier, *version), value);
                    continue;
                }
                Mutation::DeleteColumn {
                    family,
                    qualifier,
                    versions,
                } => Delete {
                    family: Some(family),
                    qualifier: Some(qualifier),
                    versions: *versions,
                },
                Mutation::DeleteFamily { family, versions } => Delete {
                    family: Some(family),
                    qualifier: None,
                    versions: *versions,
                },
                Mutation::DeleteRow { versions } => Delete {
                    family: None,
                    qualifier: None,
                    versions: *versions,
                },
            };
            // R5: a later delete removes the puts that it covers; a later put stays.
            write.puts.retain(|at, _| !delete.covers(at));
            write.deletes.push(delete);
        }
        write
    }
}

/// The writes of one row.
#[derive(Clone, Debug, Default)]
pub struct RowWrites<'a> {
    /// By call time.
    pub writes: Vec<Write<'a>>,
    /// Those that put at a coordinate: an index into `put_lists`, which a look-up by a shorter-lived key can hand out.
    puts: BTreeMap<Coordinate<'a>, usize>,
    put_lists: Vec<Vec<usize>>,
    /// Those that delete anything.
    deletes: Vec<usize>,
    /// Those with unseen cells.
    unseen: Vec<usize>,
}

/// How a coordinate that is shown, or is not, can be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Nobody wrote that value there.
    Stranger,
    /// It was certainly overwritten or deleted: by the second operation.
    Stale(u64, u64),
    /// It must be shown, or what beat it, and nothing is.
    Lost(u64),
}

/// All writes of a history.
#[derive(Clone, Debug)]
pub struct Writes<'a> {
    index: BTreeMap<(&'a str, &'a Octets), usize>,
    rows: Vec<RowWrites<'a>>,
    margin: Nanos,
}

impl<'a> Writes<'a> {
    /// Collects what may have been written.
    pub fn of(history: &'a History, margin: Nanos) -> Writes<'a> {
        let mut rows: BTreeMap<(&'a str, &'a Octets), RowWrites<'a>> = BTreeMap::new();
        let mut ranges = Vec::new();
        for operation in history.operations.iter().filter(|operation| operation.may_write()) {
            if let Action::DeleteRange { end, versions } = &operation.action {
                ranges.push((operation, end.as_ref(), *versions));
                continue;
            }
            let row = rows.entry((&operation.table, &operation.row)).or_default();
            row.writes.extend(row_writes(operation));
        }
        for ((table, row), writes) in &mut rows {
            for (operation, end, versions) in &ranges {
                if operation.table == *table && operation.row <= **row && end.is_none_or(|end| *row < end) {
                    let mut write = Write::new(operation, operation.outcome == Outcome::Ok);
                    write.deletes.push(Delete {
                        family: None,
                        qualifier: None,
                        versions: *versions,
                    });
                    writes.writes.push(write);
                }
            }
            writes.index();
        }
        let index = rows.keys().enumerate().map(|(at, key)| (*key, at)).collect();
        let rows = rows.into_values().collect();
        Writes { index, rows, margin }
    }

    /// The writes of a row.
    pub fn row(&self, table: &str, row: &Octets) -> Option<&RowWrites<'a>> {
        let at = *self.index.get(&(table, row))?;
        Some(&self.rows[at])
    }

    /// All rows, by table and key.
    pub fn rows(&self) -> impl Iterator<Item = (&'a str, &'a Octets, &RowWrites<'a>)> {
        self.index
            .iter()
            .map(|((table, row), at)| (*table, *row, &self.rows[*at]))
    }

    /// The margin between regions.
    pub fn margin(&self) -> Nanos {
        self.margin
    }

    /// True if `a` certainly has the smaller stamp.
    pub fn before(&self, a: &Operation, b: &Operation) -> bool {
        if a.id == b.id {
            return false;
        }
        if let (Some(a), Some(b)) = (a.stamp, b.stamp) {
            return a < b;
        }
        let margin = if a.region == b.region { 0 } else { self.margin };
        a.end().saturating_add(margin) < b.call
    }

    /// Judges what is shown at a coordinate. `known` = writes that are certainly applied where it is shown, `possible` =
    /// those that may be. Limits of versions and time are the caller's business.
    pub fn judge(
        &self,
        row: &RowWrites<'a>,
        at: &Coordinate<'_>,
        shown: Option<&Octets>,
        known: &dyn Fn(&Write<'a>) -> bool,
        possible: &dyn Fn(&Write<'a>) -> bool,
    ) -> Option<Wrong> {
        match shown {
            Some(value) => self.judge_shown(row, at, value, known, possible),
            None => {
                let lost = row.puts_at(at).find(|put| {
                    known(put) && self.beaten(row, at, put, known).is_none() && {
                        let mut deletes = row.deletes.iter().map(|index| &row.writes[*index]);
                        !deletes.any(|delete| {
                            possible(delete)
                                && delete.deletes_at(at)
                                && !self.before(delete.operation, put.operation)
                                // One mutation's own delete does not kill its put (R5).
                                && delete.operation.id != put.operation.id
                        })
                    }
                });
                lost.map(|put| Wrong::Lost(put.operation.id))
            }
        }
    }

    fn judge_shown(
        &self,
        row: &RowWrites<'a>,
        at: &Coordinate<'_>,
        value: &Octets,
        known: &dyn Fn(&Write<'a>) -> bool,
        possible: &dyn Fn(&Write<'a>) -> bool,
    ) -> Option<Wrong> {
        let mut stale = None;
        for put in row
            .puts_at(at)
            .filter(|put| put.puts.get(at) == Some(&value) && possible(put))
        {
            match self.beaten(row, at, put, known) {
                None => return None,
                Some(by) => stale = Some(Wrong::Stale(put.operation.id, by)),
            }
        }
        let unseen = row.unseen.iter().map(|index| &row.writes[*index]).any(|write| {
            possible(write)
                && write
                    .unseen
                    .iter()
                    .any(|column| column.family == at.0 && column.qualifier == *at.1)
        });
        if unseen { None } else { stale.or(Some(Wrong::Stranger)) }
    }

    /// A write that is certainly there and certainly beats that put.
    fn beaten(
        &self,
        row: &RowWrites<'a>,
        at: &Coordinate<'_>,
        put: &Write<'a>,
        known: &dyn Fn(&Write<'a>) -> bool,
    ) -> Option<u64> {
        let deletes = row
            .deletes
            .iter()
            .map(|index| &row.writes[*index])
            .filter(|write| write.deletes_at(at));
        row.puts_at(at)
            .chain(deletes)
            .find(|other| self.before(put.operation, other.operation) && known(other))
            .map(|other| other.operation.id)
    }
}

impl<'a> RowWrites<'a> {
    /// Writes that put at a coordinate.
    pub fn puts_at(&self, at: &Coordinate<'_>) -> impl Iterator<Item = &Write<'a>> + use<'_, 'a> {
        let list = self.puts.get(at).copied();
        list.into_iter()
            .flat_map(|list| &self.put_lists[list])
            .map(|index| &self.writes[*index])
    }

    /// Every coordinate at which a put was asked for.
    pub fn coordinates(&self) -> impl Iterator<Item = &Coordinate<'a>> {
        self.puts.keys()
    }

    /// How many versions of that column above that one may ever have been written.
    pub fn versions_above(&self, at: &Coordinate<'_>) -> usize {
        let above: BTreeSet<i64> = self
            .puts
            .keys()
            .filter(|key| key.0 == at.0 && key.1 == at.1 && key.2 > at.2)
            .map(|key| key.2)
            .collect();
        above.len() + self.unseen.len()
    }

    /// By the value that a put wrote at a coordinate, its operation; values that two operations put there are left out.
    pub fn authors(&self) -> HashMap<(Coordinate<'a>, &'a Octets), &Write<'a>> {
        let mut authors: HashMap<(Coordinate<'a>, &'a Octets), Option<&Write<'a>>> = HashMap::new();
        for write in &self.writes {
            for (at, value) in &write.puts {
                authors
                    .entry((*at, value))
                    .and_modify(|author| {
                        if author.is_some_and(|author| author.operation.id != write.operation.id) {
                            *author = None;
                        }
                    })
                    .or_insert(Some(write));
            }
        }
        authors
            .into_iter()
            .filter_map(|(key, author)| Some((key, author?)))
            .collect()
    }

    fn index(&mut self) {
        self.writes
            .sort_by_key(|write| (write.operation.call, write.operation.id));
        for (index, write) in self.writes.iter().enumerate() {
            for at in write.puts.keys() {
                let list = *self.puts.entry(*at).or_insert_with(|| {
                    self.put_lists.push(Vec::new());
                    self.put_lists.len() - 1
                });
                self.put_lists[list].push(index);
            }
            if !write.deletes.is_empty() {
                self.deletes.push(index);
            }
            if !write.unseen.is_empty() {
                self.unseen.push(index);
            }
        }
    }
}

/// What an operation may have written to its row: of a conditional write without an answer either branch.
fn row_writes(operation: &Operation) -> Vec<Write<'_>> {
    let ok = operation.outcome == Outcome::Ok;
    match (&operation.action, &operation.seen) {
        (Action::Write { mutations }, _) => vec![Write::of_mutations(operation, ok, mutations)],
        (
            Action::CheckAndMutate {
                on_match, on_mismatch, ..
            },
            seen,
        ) => match seen {
            Some(Seen::Matched(true)) if ok => vec![Write::of_mutations(operation, true, on_match)],
            Some(Seen::Matched(false)) if ok => vec![Write::of_mutations(operation, true, on_mismatch)],
            _ => [on_match, on_mismatch]
                .into_iter()
                .map(|mutations| Write::of_mutations(operation, false, mutations))
                .collect(),
        },
        (Action::Increment { column, .. } | Action::Append { column, .. }, seen) => {
            let mut write = Write::new(operation, ok);
            match seen {
                Some(Seen::Cells(cells)) if ok => {
                    write
                        .puts
                        .extend(cells.iter().map(|cell| (cell.coordinate(), &cell.value)));
                }
                _ => {
                    write.certain = false;
                    write.unseen.push(column);
                }
            }
            vec![write]
        }
        _ => Vec::new(),
    }
}

impl Cell {
    /// Where it stands in its row.
    pub fn coordinate(&self) -> Coordinate<'_> {
        (&self.family, &self.qualifier, self.version)
    }
}

/// What a read showed of one row, whole or in part.
#[derive(Clone, Copy, Debug)]
pub struct RowRead<'a> {
    /// The operation: a read or a scan.
    pub operation: &'a Operation,
    /// The row.
    pub row: &'a Octets,
    /// What it showed.
    pub cells: &'a [Cell],
    /// Only so many versions of a column were asked for.
    pub latest: Option<u32>,
    /// Only that column was asked for.
    pub column: Option<&'a Column>,
}

impl<'a> RowRead<'a> {
    /// What is shown at a coordinate.
    pub fn shows(&self, at: &Coordinate<'_>) -> Option<&'a Octets> {
        self.cells
            .iter()
            .find(|cell| cell.coordinate() == *at)
            .map(|cell| &cell.value)
    }

    /// True if the read would show that coordinate if it were visible: it was asked for, and no newer versions fill the
    /// place.
    pub fn asks_for(&self, at: &Coordinate<'_>) -> bool {
        let asked = self
            .column
            .is_none_or(|column| column.family == at.0 && column.qualifier == *at.1);
        let newer = self
            .cells
            .iter()
            .filter(|cell| cell.family == at.0 && cell.qualifier == *at.1 && cell.version > at.2);
        asked && self.latest.is_none_or(|n| newer.count() < n as usize)
    }
}

impl History {
    /// Every answered read of every row that has writes, scans row by row.
    pub fn row_reads<'a>(&'a self, writes: &Writes<'a>) -> Vec<RowRead<'a>> {
        let mut reads = Vec::new();
        for operation in self
            .operations
            .iter()
            .filter(|operation| operation.outcome == Outcome::Ok)
        {
            match (&operation.action, &operation.seen) {
                (Action::Read { latest, column }, Some(Seen::Cells(cells))) => reads.push(RowRead {
                    operation,
                    row: &operation.row,
                    cells,
                    latest: *latest,
                    column: column.as_ref(),
                }),
                (Action::Scan { end }, Some(Seen::Rows(rows))) => {
                    let shown: HashMap<&Octets, &Vec<Cell>> = rows.iter().map(|row| (&row.row, &row.cells)).collect();
                    let in_range = |row: &Octets| *row >= operation.row && end.as_ref().is_none_or(|end| row < end);
                    let written = writes
                        .rows()
                        .filter(|(table, row, _)| *table == operation.table && in_range(row))
                        .map(|(_, row, _)| row);
                    let strangers = rows
                        .iter()
                        .map(|row| &row.row)
                        .filter(|row| writes.row(&operation.table, row).is_none());
                    reads.extend(written.chain(strangers).map(|row| RowRead {
                        operation,
                        row,
                        cells: shown.get(row).map_or(&[], |cells| &cells[..]),
                        latest: None,
                        column: None,
                    }));
                }
                _ => {}
            }
        }
        reads
    }
}
