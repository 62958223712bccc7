//! What a row does, one operation after the other: the sequential meaning that a linear order must have.
//!
//! ```text
//! state    := the row's cells, by column, newest version first
//! column   := plain: written with versions of the clients' own; reads show its versions
//!           | counter: written by increments and appends; its cells' versions are the servers', so only the newest value is
//!             compared, and nothing else may write there but deletes of all versions
//! ```
//! Values are numbers into a table of byte strings, so that states are small: the search keeps many.

use crate::history::{Action, Cell, Column, Mutation, Nanos, Octets, Operation, Outcome, Predicate, Seen, Versions};
use crate::writes::RowRead;
use std::collections::{BTreeSet, HashMap, HashSet};

/// An operation of a row.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The operation's id.
    pub id: u64,
    /// Its call.
    pub call: Nanos,
    /// Its return; the end of time if its outcome is unknown.
    pub returned: Nanos,
    /// What it does and has seen.
    pub what: What<'a>,
}

/// What an operation does, and what was seen if it was answered.
#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    /// A read of the row.
    Read(RowRead<'a>),
    /// Anything else.
    Write(&'a Operation),
}

impl<'a> Input<'a> {
    /// A write that did not fail.
    pub fn write(operation: &'a Operation) -> Input<'a> {
        Input {
            id: operation.id,
            call: operation.call,
            returned: operation.end(),
            what: What::Write(operation),
        }
    }

    /// An answered read.
    pub fn read(read: &RowRead<'a>) -> Input<'a> {
        Input {
            id: read.operation.id,
            call: read.operation.call,
            returned: read.operation.end(),
            what: What::Read(*read),
        }
    }

    /// True if it certainly took effect.
    pub fn is_certain(&self) -> bool {
        match self.what {
            What::Read(_) => true,
            What::Write(operation) => operation.outcome == Outcome::Ok,
        }
    }

    fn mutation_lists(&self) -> Vec<&'a [Mutation]> {
        match self.what {
            What::Write(operation) => match &operation.action {
                Action::Write { mutations } => vec![mutations],
                Action::CheckAndMutate {
                    on_match, on_mismatch, ..
                } => vec![on_match, on_mismatch],
                _ => Vec::new(),
            },
            What::Read(_) => Vec::new(),
        }
    }

    fn counter(&self) -> Option<&'a Column> {
        match self.what {
            What::Write(operation) => match &operation.action {
                Action::Increment { column, .. } | Action::Append { column, .. } => Some(column),
                _ => None,
            },
            What::Read(_) => None,
        }
    }

    fn is_conditional(&self) -> bool {
        matches!(self.what, What::Write(operation) if matches!(operation.action, Action::CheckAndMutate { .. }))
    }
}

fn counters<'a>(inputs: &[Input<'a>]) -> BTreeSet<&'a Column> {
    inputs.iter().filter_map(Input::counter).collect()
}

/// Why a row cannot be searched, if it cannot.
pub fn check(inputs: &[Input<'_>]) -> Result<(), &'static str> {
    let counters = counters(inputs);
    for input in inputs {
        if matches!(input.what, What::Write(operation) if matches!(operation.action, Action::DeleteRange { .. })) {
            return Err("rows not searched: a range delete, which may be done in part");
        }
        if input.is_conditional()
            && input.is_certain()
            && !matches!(input.what, What::Write(o) if matches!(o.seen, Some(Seen::Matched(_))))
        {
            return Err("rows not searched: a conditional write does not say whether it matched");
        }
        for mutation in input.mutation_lists().into_iter().flatten() {
            let partial = |versions: &Versions| *versions != Versions::ALL && !counters.is_empty();
            let mixed = match mutation {
                Mutation::Put { family, qualifier, .. } => counters
                    .iter()
                    .any(|c| c.family == *family && c.qualifier == *qualifier),
                Mutation::DeleteColumn { versions, .. }
                | Mutation::DeleteFamily { versions, .. }
                | Mutation::DeleteRow { versions } => partial(versions),
            };
            if mixed {
                return Err("rows not searched: versions of clients and of servers in one column");
            }
        }
    }
    Ok(())
}

/// Leaves out writes of unknown outcome that only put, and whose values no read shows, in rows without conditional writes
/// and counters: with or without them the same reads are explained, and the search is spared their every place.
pub fn drop_unseen(inputs: &mut Vec<Input<'_>>) {
    if inputs
        .iter()
        .any(|input| input.is_conditional() || input.counter().is_some())
    {
        return;
    }
    let mut shown: HashSet<(&str, &Octets, i64, &Octets)> = HashSet::new();
    for input in inputs.iter() {
        if let What::Read(read) = input.what {
            shown.extend(
                read.cells
                    .iter()
                    .map(|c| (&*c.family, &c.qualifier, c.version, &c.value)),
            );
        }
    }
    inputs.retain(|input| {
        let mut mutations = input.mutation_lists().into_iter().flatten();
        input.is_certain()
            || mutations.any(|mutation| match mutation {
                Mutation::Put {
                    family,
                    qualifier,
                    version,
                    value,
                } => shown.contains(&(&**family, qualifier, *version, value)),
                _ => true,
            })
    });
}

/// A row's cells: (column, version, value), by column, newest version first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State(Vec<(u16, i64, u32)>);

/// The version under which a counter's one cell is kept.
const COUNTER: i64 = i64::MAX;

/// The tables behind the numbers in states.
pub struct Model<'a> {
    by_name: HashMap<(&'a str, &'a Octets), u16>,
    families: Vec<&'a str>,
    counters: HashSet<u16>,
    values: HashMap<Octets, u32>,
    texts: Vec<Octets>,
}

impl<'a> Model<'a> {
    /// Numbers the columns of a row.
    pub fn new(inputs: &[Input<'a>]) -> Model<'a> {
        let mut model = Model {
            by_name: HashMap::new(),
            families: Vec::new(),
            counters: HashSet::new(),
            values: HashMap::new(),
            texts: Vec::new(),
        };
        for input in inputs {
            for mutation in input.mutation_lists().into_iter().flatten() {
                if let Mutation::Put { family, qualifier, .. } = mutation {
                    model.column(family, qualifier);
                }
            }
            if let Some(column) = input.counter() {
                let number = model.column(&column.family, &column.qualifier);
                model.counters.insert(number);
            }
        }
        model
    }

    /// The state after an operation, or `None` if it cannot have been answered so in that state.
    pub fn step(&mut self, state: &State, input: &Input<'a>) -> Option<State> {
        match input.what {
            What::Read(read) => self.explains(state, &read).then(|| state.clone()),
            What::Write(operation) => self.write(state, operation),
        }
    }

    fn write(&mut self, state: &State, operation: &'a Operation) -> Option<State> {
        let certain = operation.outcome == Outcome::Ok;
        match &operation.action {
            Action::Write { mutations } => Some(self.mutate(state, mutations)),
            Action::CheckAndMutate {
                predicate,
                on_match,
                on_mismatch,
            } => {
                let matched = self.holds(state, predicate);
                if certain && operation.seen != Some(Seen::Matched(matched)) {
                    return None;
                }
                Some(self.mutate(state, if matched { on_match } else { on_mismatch }))
            }
            Action::Increment { column, by } => {
                let old = self.newest(state, column).map(|value| value.0.clone());
                let old = match old {
                    None => 0,
                    // A value that is no counter: the server refuses, so an acknowledged one is not explained.
                    Some(bytes) => match <[u8; 8]>::try_from(&bytes[..]) {
                        Ok(bytes) => i64::from_be_bytes(bytes),
                        Err(_) => return (!certain).then(|| state.clone()),
                    },
                };
                let new = Octets(old.wrapping_add(*by).to_be_bytes().to_vec());
                self.count(state, operation, column, new)
            }
            Action::Append { column, value } => {
                let mut new = self.newest(state, column).map_or(Vec::new(), |old| old.0.clone());
                new.extend_from_slice(&value.0);
                self.count(state, operation, column, Octets(new))
            }
            _ => Some(state.clone()),
        }
    }

    /// Writes a counter's new value, if it is the one that was seen.
    fn count(&mut self, state: &State, operation: &Operation, column: &Column, new: Octets) -> Option<State> {
        if let (Outcome::Ok, Some(Seen::Cells(cells))) = (operation.outcome, &operation.seen) {
            let seen = cells
                .iter()
                .find(|c| c.family == column.family && c.qualifier == column.qualifier);
            if seen.is_some_and(|seen| seen.value != new) {
                return None;
            }
        }
        let number = self.by_name.get(&(&*column.family, &column.qualifier)).copied()?;
        let value = self.value(&new);
        let mut next = state.clone();
        next.put(number, COUNTER, value);
        Some(next)
    }

    fn mutate(&mut self, state: &State, mutations: &'a [Mutation]) -> State {
        let mut next = state.clone();
        for mutation in mutations {
            match mutation {
                Mutation::Put {
                    family,
                    qualifier,
                    version,
                    value,
                } => {
                    let (column, value) = (self.column(family, qualifier), self.value(value));
                    next.put(column, *version, value);
                }
                Mutation::DeleteColumn {
                    family,
                    qualifier,
                    versions,
                } => {
                    let column = self.by_name.get(&(&**family, qualifier)).copied();
                    next.0
                        .retain(|(c, version, _)| Some(*c) != column || !versions.contains(*version));
                }
                Mutation::DeleteFamily { family, versions } => {
                    let families = &self.families;
                    next.0
                        .retain(|(c, version, _)| families[usize::from(*c)] != family || !versions.contains(*version));
                }
                Mutation::DeleteRow { versions } => next.0.retain(|(_, version, _)| !versions.contains(*version)),
            }
        }
        next
    }

    fn holds(&self, state: &State, predicate: &Predicate) -> bool {
        match predicate {
            Predicate::Exists => !state.0.is_empty(),
            Predicate::Newest { column, value } => self.newest(state, column) == Some(value),
        }
    }

    fn newest(&self, state: &State, column: &Column) -> Option<&Octets> {
        let number = self.by_name.get(&(&*column.family, &column.qualifier))?;
        let cell = state.0.iter().find(|(c, _, _)| c == number)?;
        Some(&self.texts[cell.2 as usize])
    }

    /// True if the read's answer is what the state shows.
    fn explains(&self, state: &State, read: &RowRead<'_>) -> bool {
        let mut shown: Vec<(u16, i64, u32)> = Vec::with_capacity(read.cells.len());
        for cell in read.cells {
            // A column or value that no write knows is in no state.
            let (Some(column), Some(value)) = (self.column_of(cell), self.values.get(&cell.value)) else {
                return false;
            };
            let counter = self.counters.contains(&column);
            let newer = read
                .cells
                .iter()
                .any(|c| (&c.family, &c.qualifier) == (&cell.family, &cell.qualifier) && c.version > cell.version);
            if !(counter && newer) {
                shown.push((column, if counter { COUNTER } else { cell.version }, *value));
            }
        }
        shown.sort_by_key(|(column, version, _)| (*column, std::cmp::Reverse(*version)));
        let asked = read
            .column
            .map(|column| self.by_name.get(&(&*column.family, &column.qualifier)).copied());
        let mut counts: HashMap<u16, u32> = HashMap::new();
        let expected = state
            .0
            .iter()
            .filter(|(column, _, _)| asked.is_none_or(|asked| asked == Some(*column)));
        let expected = expected.filter(|(column, _, _)| {
            let count = counts.entry(*column).or_default();
            *count += 1;
            read.latest.is_none_or(|n| *count <= n)
        });
        expected.eq(shown.iter())
    }

    fn column_of(&self, cell: &Cell) -> Option<u16> {
        self.by_name.get(&(&*cell.family, &cell.qualifier)).copied()
    }

    fn column(&mut self, family: &'a str, qualifier: &'a Octets) -> u16 {
        let next = u16::try_from(self.families.len()).expect("a row of a test has few columns");
        let number = *self.by_name.entry((family, qualifier)).or_insert(next);
        if number == next {
            self.families.push(family);
        }
        number
    }

    fn value(&mut self, value: &Octets) -> u32 {
        if let Some(number) = self.values.get(value) {
            return *number;
        }
        let number = u32::try_from(self.texts.len()).expect("a row of a test has few values");
        self.values.insert(value.clone(), number);
        self.texts.push(value.clone());
        number
    }
}

impl State {
    fn put(&mut self, column: u16, version: i64, value: u32) {
        let key = |cell: &(u16, i64, u32)| (cell.0, std::cmp::Reverse(cell.1));
        match self.0.binary_search_by_key(&(column, std::cmp::Reverse(version)), key) {
            Ok(at) => self.0[at].2 = value,
            Err(at) => self.0.insert(at, (column, version, value)),
        }
    }
}
