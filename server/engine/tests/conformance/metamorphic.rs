//! Metamorphic runs: one random list of operations under many options gives the same answers, whatever the engine, its
//! block and memtable sizes, and wherever it is flushed, compacted, collected, copied through a checkpoint or restarted.
//!
//! ```text
//! list     := write | cut | schema change | read, digest        what callers do: the same for all
//! options  := engine, block and memtable bytes, and what is done behind the callers' backs after which step
//! ```
//! A cut is the callers' promise that nothing at or below it arrives any more; whether garbage is then collected is an
//! option. The first options are the plainest; every other's answers must equal theirs, and theirs the oracle's.

use crate::world::{self, LATEST_NOW, NOW, any_fact, read_engine, stamp, write_engine};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tidemark_base::fact::Fact;
use tidemark_base::read::{QualifierFilter, ReadFilter};
use tidemark_base::{FamilySettings, ReadSpec, RowRange, Stamp, TableSchema};
use tidemark_engine::{Engine, GarbageCut, MemoryEngine, RocksEngine, RocksSettings, RocksShared};
use tidemark_oracle::{Oracle, VisibleCell};
use tidemark_runtime::ManualClock;

#[derive(Clone, Debug)]
enum Operation {
    Write(Vec<Fact>),
    Cut(u64),
    MaxVersions(usize, Option<u32>),
    Ttl(usize, Option<i64>),
    Read(Box<ReadSpec>),
}

/// What one operation answered: cells, and the digest of everything.
type Answer = (Vec<VisibleCell>, tidemark_oracle::Digest);

#[derive(Clone, Copy, Debug)]
enum Behind {
    Nothing,
    Flush,
    Compact,
    Restart,
    Copy,
    /// Garbage collection up to the last cut.
    Collect,
}

/// One way to run the list: after the n-th step comes the n-th of `behind`, over and over.
#[derive(Clone, Copy, Debug)]
struct Options {
    name: &'static str,
    /// Block and memtable bytes; `None` = the memory twin.
    rocks: Option<(usize, usize)>,
    /// Families keep series where they may.
    series: bool,
    behind: &'static [Behind],
}

const PLAIN: &[Behind] = &[Behind::Nothing];
const BUSY: &[Behind] = &[
    Behind::Flush,
    Behind::Nothing,
    Behind::Compact,
    Behind::Collect,
    Behind::Restart,
];
const COPIED: &[Behind] = &[
    Behind::Nothing,
    Behind::Flush,
    Behind::Copy,
    Behind::Nothing,
    Behind::Collect,
    Behind::Nothing,
    Behind::Nothing,
];
const COMPACTED: &[Behind] = &[Behind::Nothing, Behind::Compact];
const COLLECTED: &[Behind] = &[Behind::Nothing, Behind::Nothing, Behind::Collect];
const RESTARTED: &[Behind] = &[Behind::Nothing, Behind::Nothing, Behind::Restart];

const fn memory(name: &'static str, behind: &'static [Behind]) -> Options {
    Options {
        name,
        rocks: None,
        series: false,
        behind,
    }
}

const fn rocks(name: &'static str, block: usize, memtable: usize, behind: &'static [Behind]) -> Options {
    Options {
        name,
        rocks: Some((block, memtable)),
        series: false,
        behind,
    }
}

const fn series(name: &'static str, block: usize, memtable: usize, behind: &'static [Behind]) -> Options {
    Options {
        series: true,
        ..rocks(name, block, memtable, behind)
    }
}

const MEMORY: &[Options] = &[
    memory("memory, left alone", PLAIN),
    memory("memory, all kinds", BUSY),
    memory("memory, copied", COPIED),
    memory("memory, compacted", COMPACTED),
    memory("memory, collected", COLLECTED),
    memory("memory, restarted", RESTARTED),
];

const ROCKS: &[Options] = &[
    memory("memory, left alone", PLAIN),
    rocks("usual sizes, left alone", 16 << 10, 4 << 20, PLAIN),
    rocks("blocks of a cell, all kinds", 64, 64 << 10, BUSY),
    rocks("great blocks, all kinds", 1 << 20, 4 << 20, BUSY),
    rocks("small blocks, copied", 256, 64 << 10, COPIED),
    rocks("small blocks, compacted", 256, 4 << 20, COMPACTED),
    rocks("usual sizes, collected", 16 << 10, 64 << 10, COLLECTED),
    rocks("usual sizes, restarted", 16 << 10, 4 << 20, RESTARTED),
    series("series, left alone", 16 << 10, 4 << 20, PLAIN),
    series("series in blocks of one, all kinds", 64, 64 << 10, BUSY),
    series("series in great blocks, copied", 1 << 20, 4 << 20, COPIED),
    series("series, compacted", 256, 4 << 20, COMPACTED),
    series("series, collected", 16 << 10, 64 << 10, COLLECTED),
];

enum Held {
    Memory(MemoryEngine),
    Rocks(Box<RocksEngine>),
    Closed,
}

/// A running engine under some options.
struct Run {
    engine: Held,
    shared: Option<Arc<RocksShared>>,
    series: bool,
    dir: TempDir,
    /// Directories so far: a copy lives in the next one.
    places: u32,
    schema: TableSchema,
    cut: Stamp,
    greatest: Stamp,
}

/// Resources per sizes, made once: a cache and its threads for each run would cost more than the runs.
fn shared(block_bytes: usize, memtable_bytes: usize) -> Arc<RocksShared> {
    static MADE: Mutex<BTreeMap<(usize, usize), Arc<RocksShared>>> = Mutex::new(BTreeMap::new());
    let new = || {
        RocksShared::new(RocksSettings {
            block_cache_bytes: 4 << 20,
            memtables_bytes: 16 << 20,
            memtable_bytes,
            block_bytes,
            ..RocksSettings::default()
        })
        .unwrap()
    };
    let mut made = MADE.lock().unwrap();
    made.entry((block_bytes, memtable_bytes)).or_insert_with(new).clone()
}

impl Run {
    fn new(options: &Options) -> Run {
        let mut run = Run {
            engine: Held::Memory(MemoryEngine::new()),
            shared: options.rocks.map(|(block, memtable)| shared(block, memtable)),
            series: options.series,
            dir: tempfile::tempdir().unwrap(),
            places: 0,
            schema: world::schema(),
            cut: Stamp::MIN,
            greatest: Stamp::MIN,
        };
        if run.shared.is_some() {
            run.open();
        }
        run.set_schema();
        run
    }

    fn set_schema(&self) {
        let schema = self.schema.clone();
        let schema = if self.series {
            world::with_series(schema)
        } else {
            schema
        };
        self.engine().set_schema(Arc::new(schema));
    }

    fn engine(&self) -> &dyn Engine {
        match &self.engine {
            Held::Memory(engine) => engine,
            Held::Rocks(engine) => &**engine,
            Held::Closed => panic!("closed only while it is opened again"),
        }
    }

    fn place(&self) -> PathBuf {
        self.dir.path().join(self.places.to_string())
    }

    /// Opens what is in the current place.
    fn open(&mut self) {
        // The old one first: a directory is open once.
        self.engine = Held::Closed;
        self.engine = match &self.shared {
            Some(shared) => {
                let clock = ManualClock::new(LATEST_NOW).shared();
                Held::Rocks(Box::new(RocksEngine::open(&self.place(), shared, clock).unwrap()))
            }
            None => Held::Memory(MemoryEngine::open_checkpoint(&self.place()).unwrap()),
        };
        self.set_schema();
    }

    fn copy(&mut self) {
        self.places += 1;
        self.engine().checkpoint(&self.place()).unwrap();
        self.open();
    }

    fn behind(&mut self, what: Behind) {
        match what {
            Behind::Nothing => {}
            Behind::Flush => self.engine().flush().unwrap(),
            Behind::Compact => {
                self.engine().flush().unwrap();
                match &self.engine {
                    Held::Memory(engine) => engine.compact(LATEST_NOW).unwrap(),
                    Held::Rocks(engine) => engine.compact(),
                    Held::Closed => {}
                }
            }
            Behind::Restart => {
                self.engine().flush().unwrap();
                match &self.engine {
                    Held::Memory(engine) => {
                        engine.crash();
                        engine.set_schema(Arc::new(self.schema.clone()));
                    }
                    _ => self.open(),
                }
            }
            Behind::Copy => self.copy(),
            Behind::Collect => {
                let cut = GarbageCut {
                    stable: self.cut,
                    now_micros: LATEST_NOW,
                };
                self.engine().collect_garbage(cut).unwrap();
            }
        }
    }

    fn step(&mut self, operation: &Operation) -> Option<Answer> {
        match operation {
            Operation::Write(facts) => {
                let facts = arriving(facts, self.cut);
                write_engine(self.engine(), &facts).unwrap();
                self.greatest = facts.iter().map(world::stamp_of).fold(self.greatest, Stamp::max);
            }
            Operation::Cut(n) => self.cut = self.cut.max(stamp(*n)),
            Operation::MaxVersions(..) | Operation::Ttl(..) => {
                alter(&mut self.schema, operation, self.greatest);
                self.set_schema();
            }
            Operation::Read(spec) => {
                return Some((
                    read_engine(self.engine(), spec, NOW).unwrap(),
                    world::digest(self.engine()),
                ));
            }
        }
        None
    }
}

fn arriving(facts: &[Fact], cut: Stamp) -> Vec<Fact> {
    facts
        .iter()
        .filter(|fact| world::stamp_of(fact) > cut)
        .cloned()
        .collect()
}

type Change<'a> = Box<dyn Fn(&mut FamilySettings) + 'a>;

fn alter(schema: &mut TableSchema, operation: &Operation, greatest: Stamp) {
    let (index, change): (usize, Change<'_>) = match operation {
        Operation::MaxVersions(f, max) => (*f, Box::new(|family| family.set_max_versions(*max, greatest.hlc))),
        Operation::Ttl(f, ttl) => (*f, Box::new(|family| family.set_ttl(*ttl, NOW))),
        _ => return,
    };
    // Folding the oldest limits is the one place where eras are not exact.
    let family = &mut schema.families[index];
    if family.past_limits.len() + 1 < FamilySettings::PAST_LIMITS_MAX {
        change(family);
    }
}

/// The answers of the oracle, which has no options.
fn expected(list: &[Operation]) -> Vec<Answer> {
    let (mut oracle, mut schema) = (Oracle::new(), world::schema());
    let (mut cut, mut greatest) = (Stamp::MIN, Stamp::MIN);
    let mut answers = Vec::new();
    for operation in list {
        match operation {
            Operation::Write(facts) => {
                for fact in arriving(facts, cut) {
                    greatest = greatest.max(world::stamp_of(&fact));
                    oracle.add(fact);
                }
            }
            Operation::Cut(n) => cut = cut.max(stamp(*n)),
            Operation::Read(spec) => {
                answers.push((
                    oracle.read(spec, &schema, NOW),
                    oracle.digest(&RowRange::all(), &schema, NOW),
                ));
            }
            _ => alter(&mut schema, operation, greatest),
        }
    }
    answers
}

fn answers(list: &[Operation], options: &Options) -> Vec<Answer> {
    let mut run = Run::new(options);
    let mut answers = Vec::new();
    for (at, operation) in list.iter().enumerate() {
        answers.extend(run.step(operation));
        run.behind(options.behind[at % options.behind.len()]);
    }
    answers
}

fn the_same(list: &[Operation], all: &[Options]) -> Result<(), TestCaseError> {
    let expected = expected(list);
    for options in all {
        prop_assert_eq!(&answers(list, options), &expected, "{}", options.name);
    }
    Ok(())
}

fn any_read() -> impl Strategy<Value = Operation> {
    let rows = prop_oneof![
        2 => Just(RowRange::all()),
        1 => Just(RowRange::row(b"a")),
        1 => Just(RowRange { start: "a".into(), end: Some("b".into()) }),
    ];
    let qualifier = prop_oneof![
        3 => Just(QualifierFilter::Any),
        1 => Just(QualifierFilter::Prefix("x".into())),
        1 => Just(QualifierFilter::Exact(vec!["".into(), "y".into()])),
    ];
    let some = |max: u32| proptest::option::weighted(0.3, 1..max);
    (rows, any::<bool>(), qualifier, some(3), some(4)).prop_map(|(rows, reverse, qualifier, latest, cells_per_row)| {
        let filter = ReadFilter {
            qualifier,
            latest,
            cells_per_row,
            ..ReadFilter::default()
        };
        let ranges = vec![rows];
        let rows_limit = None;
        Operation::Read(Box::new(ReadSpec {
            ranges,
            reverse,
            filter,
            rows_limit,
        }))
    })
}

fn any_list(length: usize) -> impl Strategy<Value = Vec<Operation>> {
    let limit = prop_oneof![Just(None), (1u32..4).prop_map(Some)];
    let ttl = prop_oneof![Just(None), (1i64..5).prop_map(Some)];
    let one = prop_oneof![
        8 => proptest::collection::vec(any_fact(), 1..10).prop_map(Operation::Write),
        2 => (0u64..40).prop_map(Operation::Cut),
        2 => (0usize..2, limit).prop_map(|(f, max)| Operation::MaxVersions(f, max)),
        1 => (0usize..2, ttl).prop_map(|(f, ttl)| Operation::Ttl(f, ttl)),
        8 => any_read(),
    ];
    proptest::collection::vec(one, length / 2..length)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// O2, O15, INV-10 in the twin.
    #[test]
    fn options_do_not_change_answers_in_memory(list in any_list(40)) {
        the_same(&list, MEMORY)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    /// O2, O15, INV-10 on disk.
    #[test]
    fn options_do_not_change_answers_on_disk(list in any_list(40)) {
        the_same(&list, ROCKS)?;
    }
}
