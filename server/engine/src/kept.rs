//! Rows kept ready: the newest visible cell of each of their columns, for readers who ask for just that, again and again. What is
//! kept together is what a row has in one family.
//!
//! ```text
//! read     kept? -> answered from here                         no: read the store, and keep what it gave
//! write    begin: take the row out ─> the store's commit ─> finish: put it back, with what was written
//!                 └────── the stripe refuses to keep anything ──────┘
//! ```
//! A kept row must never show less or more than the store would (INV-12):
//!
//! - While a commit is on its way its rows are not kept, so whoever comes is told by the store: nobody sees a row go back.
//! - What a reader found is kept only if no commit of the stripe began or was under way since before it looked: each stripe
//!   counts its commits, and a [`Ticket`] notes the count.
//! - A put with a greater (version, stamp) replaces what is kept of its column, any other is beaten by it. That holds as long as nothing
//!   but puts counts: where a tombstone, a dead marker or a family whose version limit was raised once was seen, nothing is kept, and
//!   a delete ends the keeping. (A limit hides no newest version: it is at least one.)
//! - What is expired is left out when it is answered; whoever asks as of an earlier moment than the one who read is not answered.
//!
//! Nothing is kept, and a batch pays one branch, until somebody has asked. Memory is bounded over all tablets of a node; a stripe
//! that finds no room forgets its rows, and every tablet gives up a part of its own.

use crate::api::{CellCursor, EachCell, EngineError, RowParts};
use crate::source::FactSource;
use crate::view::View;
use parking_lot::Mutex;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering as Memory};
use std::sync::{Arc, OnceLock};
use tidemark_base::read::{QualifierFilter, ReadFilter, ReadSpec, ValueFilter};
use tidemark_base::{CellRef, FamilyId, FamilySettings, Stamp, TableSchema};
use xxhash_rust::xxh3::xxh3_64;

/// Locks of one tablet's kept rows, made when somebody asks: 80 KiB beside the budget. As many as a large batch has rows: what a
/// reader found is kept if no batch had a row of its stripe.
const STRIPES: usize = 1_024;
/// One of so many parts of a tablet's stripes is given up at a time where the memory is short.
const PARTS: usize = 16;
/// A row of more columns, or of more bytes, is not kept.
const COLUMNS_MAX: usize = 128;
const ROW_BYTES_MAX: usize = 16 << 10;
/// What a kept row takes beside its cells and bytes, about.
const ROW_BYTES: usize = 256;

/// Memory for kept rows, of all tablets together.
#[derive(Debug)]
pub struct KeptBudget {
    max_bytes: u64,
    used_bytes: AtomicU64,
    /// How often there was no room.
    refused: AtomicU64,
}

impl KeptBudget {
    /// Room for that many bytes; 0 = nothing is kept.
    pub fn new(max_bytes: u64) -> Arc<KeptBudget> {
        Arc::new(KeptBudget {
            max_bytes,
            used_bytes: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// Bytes in use, about.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Memory::Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.max_bytes);
        self.used_bytes
            .fetch_update(Memory::Relaxed, Memory::Relaxed, add)
            .is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used_bytes.fetch_sub(bytes as u64, Memory::Relaxed);
    }
}

/// The kept rows of one tablet.
pub(crate) struct KeptRows {
    stripes: OnceLock<Box<[Mutex<Stripe>]>>,
    /// Somebody has asked, so batches look.
    active: AtomicBool,
    /// Batches under way that began before somebody asked, and so do not look.
    blind: AtomicU64,
    /// Families of which something may be kept.
    families: Mutex<Arc<Families>>,
    /// How often the schema was set.
    schemas: AtomicU64,
    budget: Arc<KeptBudget>,
    /// The budget's refusals that were seen, and the part that was given up last.
    shed: Mutex<(u64, usize)>,
}

/// Of a schema, each sorted.
#[derive(Default)]
struct Families {
    all: Box<[FamilyId]>,
    /// Those whose version limit was never raised.
    plain: Box<[FamilyId]>,
}

/// Of all families of its rows.
#[derive(Default)]
struct Stripe {
    /// Commits begun.
    begun: u64,
    under_way: u32,
    /// By the hash of row and family.
    rows: HashMap<u64, KeptRow>,
}

/// That a reader may keep what it finds, if nothing is written meanwhile.
pub(crate) struct Ticket {
    /// Of the row.
    hash: u64,
    begun: u64,
}

/// The hash of a row chooses its stripe; this one its place there.
fn place_of(row_hash: u64, family: FamilyId) -> u64 {
    row_hash ^ u64::from(family.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// What a row has in one family.
struct KeptRow {
    row: Box<[u8]>,
    family: FamilyId,
    /// The reader's moment.
    now_micros: i64,
    /// By qualifier.
    cells: Vec<KeptCell>,
    /// Qualifiers and values, and what was overwritten.
    bytes: Vec<u8>,
    /// What it takes of the budget.
    charged: usize,
}

#[derive(Clone, Copy)]
struct KeptCell {
    version: i64,
    stamp: Stamp,
    qualifier: Slice,
    value: Slice,
}

#[derive(Clone, Copy)]
struct Slice {
    at: u32,
    len: u32,
}

impl Slice {
    fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.at as usize..(self.at + self.len) as usize]
    }
}

/// What a put did to a kept row.
#[derive(PartialEq, Eq)]
enum Applied {
    Yes,
    /// The row cannot be kept any longer.
    Ends,
}

impl KeptRow {
    fn new(row: &[u8], family: FamilyId, now_micros: i64) -> KeptRow {
        KeptRow {
            row: row.into(),
            family,
            now_micros,
            cells: Vec::new(),
            bytes: Vec::new(),
            charged: 0,
        }
    }

    fn size(&self) -> usize {
        ROW_BYTES + self.row.len() + self.cells.capacity() * size_of::<KeptCell>() + self.bytes.capacity()
    }

    fn add(&mut self, bytes: &[u8]) -> Slice {
        let at = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        Slice {
            at,
            len: bytes.len() as u32,
        }
    }

    /// Adds the cell at its place, which is looked for at `hint` first. Returns that place.
    fn put(&mut self, cell: &CellRef<'_>, hint: usize) -> (usize, Applied) {
        let is_there = |kept: &KeptCell| kept.qualifier.of(&self.bytes) == cell.qualifier;
        let found = if self.cells.get(hint).is_some_and(is_there) {
            Ok(hint)
        } else {
            self.cells
                .binary_search_by(|kept| kept.qualifier.of(&self.bytes).cmp(cell.qualifier))
        };
        let at = match found {
            Ok(at) => {
                let kept = self.cells[at];
                match (cell.version, cell.stamp).cmp(&(kept.version, kept.stamp)) {
                    Ordering::Less if cell.version < kept.version => return (at, Applied::Yes),
                    Ordering::Equal if kept.value.of(&self.bytes) == cell.value => return (at, Applied::Yes),
                    // Of two values under one stamp (R5) the store must tell, here or further down the coordinate.
                    Ordering::Less | Ordering::Equal => return (at, Applied::Ends),
                    Ordering::Greater => {}
                }
                let value = if kept.value.len as usize == cell.value.len() {
                    let start = kept.value.at as usize;
                    self.bytes[start..start + cell.value.len()].copy_from_slice(cell.value);
                    kept.value
                } else {
                    self.add(cell.value)
                };
                self.cells[at] = KeptCell {
                    version: cell.version,
                    stamp: cell.stamp,
                    value,
                    ..kept
                };
                at
            }
            Err(at) => {
                let kept = KeptCell {
                    version: cell.version,
                    stamp: cell.stamp,
                    qualifier: self.add(cell.qualifier),
                    value: self.add(cell.value),
                };
                self.cells.insert(at, kept);
                at
            }
        };
        let fits = self.cells.len() <= COLUMNS_MAX && self.bytes.len() <= ROW_BYTES_MAX;
        (at, if fits { Applied::Yes } else { Applied::Ends })
    }
}

impl KeptRows {
    pub(crate) fn new(budget: Arc<KeptBudget>) -> KeptRows {
        KeptRows {
            stripes: OnceLock::new(),
            active: AtomicBool::new(false),
            blind: AtomicU64::new(0),
            families: Mutex::default(),
            schemas: AtomicU64::new(0),
            budget,
            shed: Mutex::default(),
        }
    }

    /// Forgets everything, and what readers are about to keep: another schema may show something else.
    pub(crate) fn set_schema(&self, schema: Option<&TableSchema>) {
        let families = schema.map_or(&[][..], |schema| &schema.families[..]);
        let sorted = |wanted: fn(&&FamilySettings) -> bool| {
            let mut ids: Vec<FamilyId> = families.iter().filter(wanted).map(|family| family.id).collect();
            ids.sort_unstable();
            ids.into()
        };
        *self.families.lock() = Arc::new(Families {
            all: sorted(|_| true),
            plain: sorted(|family| family.past_limits.is_empty()),
        });
        self.schemas.fetch_add(1, Memory::SeqCst);
        if self.active.load(Memory::SeqCst) {
            self.for_all_stripes(|stripe| stripe.begun += 1);
        }
    }

    /// Forgets all rows, and does that to each stripe.
    fn for_all_stripes(&self, change: impl Fn(&mut Stripe)) {
        for stripe in self.stripes() {
            let mut stripe = stripe.lock();
            self.forget(&mut stripe);
            change(&mut stripe);
        }
    }

    fn forget(&self, stripe: &mut Stripe) {
        let bytes = stripe.rows.values().map(|row| row.charged).sum();
        self.budget.give_back(bytes);
        // Its memory, too.
        stripe.rows = HashMap::new();
    }

    /// Called every second or so: gives up a part of the rows if somebody found no room since the last call. So what nobody asks for any
    /// longer goes, sooner or later, and what is asked for comes back.
    pub(crate) fn shed(&self) {
        let refused = self.budget.refused.load(Memory::Relaxed);
        let mut shed = self.shed.lock();
        if shed.0 == refused || self.stripes.get().is_none() {
            return;
        }
        *shed = (refused, (shed.1 + 1) % PARTS);
        for stripe in self.stripes().iter().skip(shed.1).step_by(PARTS) {
            self.forget(&mut stripe.lock());
        }
    }

    fn stripe(&self, hash: u64) -> &Mutex<Stripe> {
        &self.stripes()[hash as usize % STRIPES]
    }

    fn stripes(&self) -> &[Mutex<Stripe>] {
        self.stripes
            .get_or_init(|| (0..STRIPES).map(|_| Mutex::default()).collect())
    }

    /// Gives the kept cells, until `each` returns false; false, and nothing given, if not all that is asked for is kept.
    pub(crate) fn give(&self, asked: &RowParts<'_>, schema: Option<&TableSchema>, each: EachCell<'_>) -> bool {
        let (row, now_micros) = (asked.row, asked.now_micros);
        if !self.active.load(Memory::Relaxed) {
            return false;
        }
        let all = self.families.lock().clone();
        let families = asked.families.unwrap_or(&all.all);
        let hash = xxh3_64(row);
        let stripe = self.stripe(hash).lock();
        let kept = |family: &FamilyId| {
            let kept = stripe.rows.get(&place_of(hash, *family));
            kept.filter(|kept| *kept.row == *row && kept.family == *family && kept.now_micros <= now_micros)
        };
        if !families.iter().all(|family| kept(family).is_some()) {
            return false;
        }
        let mut visited = 0;
        for kept in families.iter().filter_map(kept) {
            // The schema is set before its rows are forgotten: a family may be gone from it.
            let Some(settings) = schema.and_then(|schema| schema.family(kept.family)) else {
                continue;
            };
            for cell in kept
                .cells
                .iter()
                .filter(|cell| !settings.expired(cell.version, now_micros))
            {
                let cell = CellRef {
                    row,
                    family: kept.family,
                    qualifier: cell.qualifier.of(&kept.bytes),
                    version: cell.version,
                    stamp: cell.stamp,
                    value: cell.value.of(&kept.bytes),
                };
                visited += (row.len() + cell.qualifier.len() + cell.value.len()) as u64;
                if !each(&cell, visited) {
                    return true;
                }
            }
        }
        true
    }

    /// Before a reader looks into the store. None if what it finds could not be kept.
    pub(crate) fn ticket(&self, row: &[u8]) -> Option<Ticket> {
        if self.budget.max_bytes == 0 {
            return None;
        }
        // In this order, and a batch in the other: one of both sees the other.
        self.active.store(true, Memory::SeqCst);
        if self.blind.load(Memory::SeqCst) > 0 {
            return None;
        }
        let hash = xxh3_64(row);
        let stripe = self.stripe(hash).lock();
        (stripe.under_way == 0).then_some(Ticket {
            hash,
            begun: stripe.begun,
        })
    }

    fn keep(&self, ticket: &Ticket, mut row: KeptRow) {
        let mut stripe = self.stripe(ticket.hash).lock();
        if stripe.under_way > 0 || stripe.begun != ticket.begun {
            return;
        }
        row.charged = row.size();
        if !self.budget.take(row.charged) {
            self.budget.refused.fetch_add(1, Memory::Relaxed);
            self.forget(&mut stripe);
            if !self.budget.take(row.charged) {
                return;
            }
        }
        if let Some(old) = stripe.rows.insert(place_of(ticket.hash, row.family), row) {
            self.budget.give_back(old.charged);
        }
    }

    /// Reads the newest cells of a row, by a view of it alone, until `each` returns false; keeps them if it read all and that is
    /// right.
    pub(crate) fn read_through<S: FactSource>(
        &self,
        asked: &RowParts<'_>,
        view: impl FnOnce(&ReadSpec) -> Result<View<S>, EngineError>,
        each: EachCell<'_>,
    ) -> Result<(), EngineError> {
        let (row, now_micros) = (asked.row, asked.now_micros);
        let mut ticket = self.ticket(row);
        let all = self.families.lock().clone();
        let families = asked.families.unwrap_or(&all.all);
        let mut spec = ReadSpec::row(row);
        spec.filter.latest = Some(1);
        spec.filter.families = Some(families.to_vec());
        let mut view = view(&spec)?;
        let fresh = |family: &FamilyId| KeptRow::new(row, *family, now_micros);
        let mut rows: Vec<KeptRow> = ticket.iter().flat_map(|_| families.iter().map(fresh)).collect();
        let (mut at, mut next) = (0, 0);
        while view.advance()? {
            let cell = view.cell();
            if !each(&cell, view.visited_bytes()) {
                return Ok(());
            }
            if ticket.is_none() {
                continue;
            }
            while rows.get(at).is_some_and(|row| row.family < cell.family) {
                (at, next) = (at + 1, 0);
            }
            let applied = rows.get_mut(at).map(|row| row.put(&cell, next));
            next += 1;
            if !matches!(applied, Some((_, Applied::Yes))) {
                ticket = None;
            }
        }
        if let Some(ticket) = ticket.filter(|_| view.row_is_plain()) {
            // Of other families puts are not watched.
            let plain = |row: &KeptRow| all.plain.binary_search(&row.family).is_ok();
            for mut row in rows.into_iter().filter(plain) {
                row.cells.shrink_to_fit();
                row.bytes.shrink_to_fit();
                self.keep(&ticket, row);
            }
        }
        Ok(())
    }
}

impl Drop for KeptRows {
    fn drop(&mut self) {
        if self.stripes.get().is_some() {
            self.for_all_stripes(|_| {});
        }
    }
}

/// True if a read asks for the newest cell of each column of whole rows, at most of some columns and not older than some
/// version: what kept rows can answer.
pub fn asks_for_newest(spec: &ReadSpec) -> bool {
    let filter = &spec.filter;
    let chosen = match &filter.qualifier {
        QualifierFilter::Any | QualifierFilter::Exact(_) => true,
        QualifierFilter::Prefix(_) | QualifierFilter::Range { .. } | QualifierFilter::Regex(_) => false,
    };
    chosen
        && filter.latest == Some(1)
        && filter.versions.to == i64::MAX
        && filter.value == ValueFilter::Any
        && filter.row_regex.is_none()
        && filter.row_sample_per_million.is_none()
        && filter.cells_per_row.is_none()
        && !filter.strip_values
        && !spec.reverse
        && spec.rows_limit.is_none()
        && !spec.ranges.is_empty()
        && spec.ranges.iter().all(|range| single_row(range).is_some())
}

/// The row of a range that holds just one.
pub fn single_row(range: &tidemark_base::RowRange) -> Option<&[u8]> {
    let end = range.end.as_ref()?;
    let (last, row) = end.split_last()?;
    (*last == 0 && *row == range.start[..]).then_some(row)
}

/// True if a filter that [`asks_for_newest`] lets through such a cell of its families.
pub fn wants_newest(filter: &ReadFilter, cell: &CellRef<'_>) -> bool {
    let column = match &filter.qualifier {
        QualifierFilter::Exact(list) => list.iter().any(|qualifier| *qualifier == *cell.qualifier),
        _ => true,
    };
    column && cell.version >= filter.versions.from
}

/// True if the filter chooses nothing among the newest cells of its families: then what is read can be kept.
pub fn wants_all_newest(filter: &ReadFilter) -> bool {
    filter.qualifier == QualifierFilter::Any && filter.versions.from == i64::MIN
}

/// What one write batch does to kept rows. Dropped without [`KeptBatch::finish`], its rows are no longer kept.
pub(crate) struct KeptBatch<'a> {
    kept: &'a KeptRows,
    looks: Looks,
    families: Arc<Families>,
    schemas: u64,
    /// Rows begun, in their order: one for each run of cells of one row and family.
    taken: Vec<Taken>,
    /// Where in `taken` those stand that were kept.
    index: HashMap<u64, usize>,
    at: Option<usize>,
    /// Where in its row the next cell is expected.
    next: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Looks {
    /// Nobody had asked when it began.
    Blind,
    At(Rows),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    Single,
    All,
}

struct Taken {
    hash: u64,
    family: FamilyId,
    row: Vec<u8>,
    /// None if it was not kept, or is no longer.
    kept: Option<KeptRow>,
}

impl<'a> KeptBatch<'a> {
    pub(crate) fn begin(kept: &'a KeptRows) -> KeptBatch<'a> {
        kept.blind.fetch_add(1, Memory::SeqCst);
        let looks = if kept.active.load(Memory::SeqCst) {
            kept.blind.fetch_sub(1, Memory::SeqCst);
            Looks::At(Rows::Single)
        } else {
            Looks::Blind
        };
        KeptBatch {
            kept,
            looks,
            schemas: kept.schemas.load(Memory::SeqCst),
            families: match looks {
                Looks::Blind => Arc::default(),
                Looks::At(_) => kept.families.lock().clone(),
            },
            taken: Vec::new(),
            index: HashMap::new(),
            at: None,
            next: 0,
        }
    }

    /// A cell that is put.
    #[inline]
    pub(crate) fn put(&mut self, cell: &CellRef<'_>) {
        if self.looks == Looks::At(Rows::Single) && self.knows_families() {
            self.put_single(cell);
        }
    }

    /// False, and nothing is kept until this batch is through, if another schema was set since it began: it does not know of which
    /// families something may be kept by now.
    fn knows_families(&mut self) -> bool {
        let knows = self.schemas == self.kept.schemas.load(Memory::SeqCst);
        if !knows {
            self.delete_range();
        }
        knows
    }

    fn put_single(&mut self, cell: &CellRef<'_>) {
        // Of other families nothing is ever kept.
        if self.families.plain.binary_search(&cell.family).is_err() {
            return;
        }
        let at = self.enter(cell.row, cell.family);
        let Some(kept) = &mut self.taken[at].kept else { return };
        let (place, applied) = kept.put(cell, self.next);
        self.next = place + 1;
        if applied == Applied::Ends {
            self.end(at);
        }
    }

    /// A tombstone of a row or of a part of it: in one family, or in all.
    pub(crate) fn delete(&mut self, row: &[u8], family: Option<FamilyId>) {
        if self.looks != Looks::At(Rows::Single) || !self.knows_families() {
            return;
        }
        let families = self.families.clone();
        for of_row in families
            .plain
            .iter()
            .filter(|id| family.is_none_or(|family| family == **id))
        {
            let at = self.enter(row, *of_row);
            self.end(at);
        }
    }

    /// A tombstone of many rows.
    pub(crate) fn delete_range(&mut self) {
        if self.looks == Looks::At(Rows::Single) {
            self.looks = Looks::At(Rows::All);
            self.kept.for_all_stripes(|stripe| {
                stripe.begun += 1;
                stripe.under_way += 1;
            });
        }
    }

    fn end(&mut self, at: usize) {
        if let Some(kept) = self.taken[at].kept.take() {
            self.kept.budget.give_back(kept.charged);
        }
    }

    /// Takes out what the row has in the family, unless this batch has it already.
    fn enter(&mut self, row: &[u8], family: FamilyId) -> usize {
        let is_it = |taken: &Taken| taken.family == family && taken.row == row;
        if let Some(at) = self.at.filter(|at| is_it(&self.taken[*at])) {
            return at;
        }
        self.next = 0;
        let hash = xxh3_64(row);
        // Only what was kept is told apart: of the rest nothing is noted.
        let known = self.index.get(&place_of(hash, family)).copied();
        let known = known.filter(|at| is_it(&self.taken[*at]));
        let at = known.unwrap_or_else(|| self.take(hash, row, family));
        self.at = Some(at);
        at
    }

    fn take(&mut self, hash: u64, row: &[u8], family: FamilyId) -> usize {
        let place = place_of(hash, family);
        let mut stripe = self.kept.stripe(hash).lock();
        stripe.begun += 1;
        stripe.under_way += 1;
        // One with the same place goes, too.
        let kept = stripe.rows.remove(&place);
        drop(stripe);
        let kept = kept.and_then(|kept| {
            if *kept.row == *row && kept.family == family {
                return Some(kept);
            }
            self.kept.budget.give_back(kept.charged);
            None
        });
        if kept.is_some() {
            self.index.insert(place, self.taken.len());
        }
        self.taken.push(Taken {
            hash,
            family,
            row: row.to_vec(),
            kept,
        });
        self.taken.len() - 1
    }

    /// After the commit: its rows are kept again.
    pub(crate) fn finish(mut self) {
        self.put_back(true);
    }

    fn put_back(&mut self, committed: bool) {
        let budget = &self.kept.budget;
        let keeps = committed
            && self.looks == Looks::At(Rows::Single)
            && self.schemas == self.kept.schemas.load(Memory::SeqCst);
        for taken in self.taken.drain(..) {
            let mut stripe = self.kept.stripe(taken.hash).lock();
            stripe.under_way -= 1;
            let Some(mut row) = taken.kept else { continue };
            budget.give_back(row.charged);
            row.charged = row.size();
            // Another commit of the stripe may be on its way, though not of this row: a tablet has one writer.
            if keeps && budget.take(row.charged) {
                stripe.rows.insert(place_of(taken.hash, taken.family), row);
            }
        }
        match std::mem::replace(&mut self.looks, Looks::At(Rows::Single)) {
            Looks::Blind => {
                self.kept.blind.fetch_sub(1, Memory::SeqCst);
            }
            Looks::At(Rows::All) => self.kept.for_all_stripes(|stripe| stripe.under_way -= 1),
            Looks::At(Rows::Single) => {}
        }
    }
}

impl Drop for KeptBatch<'_> {
    fn drop(&mut self) {
        self.put_back(false);
    }
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
