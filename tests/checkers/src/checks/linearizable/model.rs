//! What a row does, one operation after the other: the sequential meaning that a linear order must have.
//!
//! ```text
//! state    := the row's cells, by column, newest version first
//! column   := plain: written with versions of the clients' own; reads show its versions
//!           | counter: written by increments and appends; its cells' versions are the servers', so only the newest value is
//!             compared, and nothing else may write there but deletes of all versions
//! ```
//! Values are numbers into a table of byte strings. There is one state, which steps change and take back.

use crate::history::{Action, Cell, Column, Mutation, Nanos, Octets, Operation, Outcome, Predicate, Seen, Versions};
use crate::writes::RowRead;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

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

    /// True if what was answered depends on what came before.
    pub fn answers(&self) -> bool {
        match self.what {
            What::Read(_) => true,
            What::Write(operation) => {
                operation.outcome == Outcome::Ok && !matches!(operation.action, Action::Write { .. })
            }
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

/// A cell's place: its column, and its version, the newest first.
type Place = (u16, Reverse<i64>);

/// A row's cells by place, with a fingerprint that follows every change: a search visits more states than it could keep.
#[derive(Clone, Debug, Default)]
pub struct State {
    cells: BTreeMap<Place, u32>,
    fingerprint: u128,
}

/// What an operation changed: places and what stood there.
#[derive(Debug)]
pub struct Undo(Vec<(Place, Option<u32>)>);

/// The version under which a counter's one cell is kept.
const COUNTER: i64 = i64::MAX;

impl State {
    /// Equal states have equal ones; two of the states of a search with equal ones that differ: once in 2^100 searches.
    pub fn fingerprint(&self) -> u128 {
        self.fingerprint
    }

    /// Takes back the last operation.
    pub fn undo(&mut self, undo: Undo) {
        for (place, before) in undo.0.into_iter().rev() {
            self.set(place, before, &mut Vec::new());
        }
    }

    fn set(&mut self, place: Place, value: Option<u32>, undo: &mut Vec<(Place, Option<u32>)>) {
        let before = match value {
            Some(value) => self.cells.insert(place, value),
            None => self.cells.remove(&place),
        };
        for cell in [before, value].into_iter().flatten() {
            let (column, Reverse(version)) = place;
            self.fingerprint ^= fingerprint(&[u64::from(column), version as u64, u64::from(cell)]);
        }
        undo.push((place, before));
    }
}

/// 128 bits of a few numbers: two chains of splitmix64 steps.
pub fn fingerprint(numbers: &[u64]) -> u128 {
    let chain = |salt: u64| {
        numbers.iter().fold(salt, |hash, number| {
            let mut z = (hash ^ number).wrapping_add(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        })
    };
    u128::from(chain(1)) << 64 | u128::from(chain(0x7469_6465_6d61_726b))
}

/// What a read shows: column, version, value.
type Shown = Vec<(u16, i64, u32)>;

/// The tables behind the numbers in states.
pub struct Model<'a> {
    by_name: HashMap<(&'a str, &'a Octets), u16>,
    names: Vec<(&'a str, &'a Octets)>,
    counters: HashSet<u16>,
    values: HashMap<Octets, u32>,
    texts: Vec<Octets>,
    /// By operation, what it shows.
    reads: HashMap<u64, Option<Shown>>,
}

impl<'a> Model<'a> {
    /// Numbers the columns of a row.
    pub fn new(inputs: &[Input<'a>]) -> Model<'a> {
        let mut model = Model {
            by_name: HashMap::new(),
            names: Vec::new(),
            counters: HashSet::new(),
            values: HashMap::new(),
            texts: Vec::new(),
            reads: HashMap::new(),
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
        for input in inputs {
            if let What::Read(read) = input.what {
                let shown = model.shown(&read);
                model.reads.insert(input.id, shown);
            }
        }
        model
    }

    /// What a read shows, as a state has it; `None` if it is in no state: a column that no write knows.
    fn shown(&mut self, read: &RowRead<'_>) -> Option<Shown> {
        let mut shown = Shown::with_capacity(read.cells.len());
        for cell in read.cells {
            let column = self.by_name.get(&(&*cell.family, &cell.qualifier)).copied()?;
            let counter = self.counters.contains(&column);
            // Of a counter only the newest cell counts.
            let newer =
                |c: &Cell| c.coordinate().0 == cell.family && c.qualifier == cell.qualifier && c.version > cell.version;
            if !(counter && read.cells.iter().any(newer)) {
                let version = if counter { COUNTER } else { cell.version };
                shown.push((column, version, self.value(&cell.value)));
            }
        }
        shown.sort_by_key(|(column, version, _)| (*column, Reverse(*version)));
        Some(shown)
    }

    /// Changes the state as an operation does, or leaves it and returns `None` if the operation cannot have been answered
    /// so in that state.
    pub fn step(&mut self, state: &mut State, input: &Input<'a>) -> Option<Undo> {
        match input.what {
            What::Read(read) => self.explains(state, &read).then(|| Undo(Vec::new())),
            What::Write(operation) => self.write(state, operation),
        }
    }

    fn write(&mut self, state: &mut State, operation: &'a Operation) -> Option<Undo> {
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
                let old = match self.newest(state, column) {
                    None => 0,
                    // A value that is no counter: the server refuses, so an acknowledged one is not explained.
                    Some(bytes) => match <[u8; 8]>::try_from(&bytes.0[..]) {
                        Ok(bytes) => i64::from_be_bytes(bytes),
                        Err(_) => return (!certain).then(|| Undo(Vec::new())),
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
            _ => Some(Undo(Vec::new())),
        }
    }

    /// Writes a counter's new value, if it is the one that was seen.
    fn count(&mut self, state: &mut State, operation: &Operation, column: &Column, new: Octets) -> Option<Undo> {
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
        let mut undo = Vec::new();
        state.set((number, Reverse(COUNTER)), Some(value), &mut undo);
        Some(Undo(undo))
    }

    fn mutate(&mut self, state: &mut State, mutations: &'a [Mutation]) -> Undo {
        let mut undo = Vec::new();
        for mutation in mutations {
            let (family, qualifier, versions) = match mutation {
                Mutation::Put {
                    family,
                    qualifier,
                    version,
                    value,
                } => {
                    let (column, value) = (self.column(family, qualifier), self.value(value));
                    state.set((column, Reverse(*version)), Some(value), &mut undo);
                    continue;
                }
                Mutation::DeleteColumn {
                    family,
                    qualifier,
                    versions,
                } => (Some(family), Some(qualifier), versions),
                Mutation::DeleteFamily { family, versions } => (Some(family), None, versions),
                Mutation::DeleteRow { versions } => (None, None, versions),
            };
            let covered = |place: &&Place| {
                let (of, name) = self.names[usize::from(place.0)];
                family.is_none_or(|family| family == of)
                    && qualifier.is_none_or(|qualifier| qualifier == name)
                    && versions.contains(place.1.0)
            };
            let places: Vec<Place> = state.cells.keys().filter(covered).copied().collect();
            places.into_iter().for_each(|place| state.set(place, None, &mut undo));
        }
        Undo(undo)
    }

    fn holds(&self, state: &State, predicate: &Predicate) -> bool {
        match predicate {
            Predicate::Exists => !state.cells.is_empty(),
            Predicate::Newest { column, value } => self.newest(state, column) == Some(value),
        }
    }

    fn newest(&self, state: &State, column: &Column) -> Option<&Octets> {
        let number = self.by_name.get(&(&*column.family, &column.qualifier))?;
        let (place, value) = state.cells.range((*number, Reverse(i64::MAX))..).next()?;
        (place.0 == *number).then(|| &self.texts[*value as usize])
    }

    /// True if the read's answer is what the state shows.
    fn explains(&self, state: &State, read: &RowRead<'_>) -> bool {
        let Some(Some(shown)) = self.reads.get(&read.operation.id) else {
            return false;
        };
        let asked = read
            .column
            .map(|column| self.by_name.get(&(&*column.family, &column.qualifier)).copied());
        let mut counts: HashMap<u16, u32> = HashMap::new();
        let cells = state
            .cells
            .iter()
            .map(|((column, Reverse(version)), value)| (*column, *version, *value));
        let expected = cells.filter(|(column, _, _)| asked.is_none_or(|asked| asked == Some(*column)));
        let expected = expected.filter(|(column, _, _)| {
            let count = counts.entry(*column).or_default();
            *count += 1;
            read.latest.is_none_or(|n| *count <= n)
        });
        expected.eq(shown.iter().copied())
    }

    fn column(&mut self, family: &'a str, qualifier: &'a Octets) -> u16 {
        let next = u16::try_from(self.names.len()).expect("a row of a test has few columns");
        let number = *self.by_name.entry((family, qualifier)).or_insert(next);
        if number == next {
            self.names.push((family, qualifier));
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
