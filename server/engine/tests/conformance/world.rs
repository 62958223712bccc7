//! An engine of either kind, and facts to put into it.

use bytes::Bytes;
use proptest::prelude::*;
use std::sync::{Arc, OnceLock};
use tempfile::TempDir;
use tidemark_base::fact::{Fact, OwnedScope};
use tidemark_base::schema::{Compression, Layout};
use tidemark_base::{
    CellRef, FamilyId, FamilySettings, ReadSpec, RegionId, RowRange, Stamp, TableSchema, TombstoneRef, VersionRange,
};
use tidemark_engine::{CellCursor, Engine, EngineError, MemoryEngine, RocksEngine, RocksSettings, RocksShared};
use tidemark_oracle::VisibleCell;
use tidemark_runtime::ManualClock;

/// What reads take for now: 5 s after 1970.
pub const NOW: i64 = 5_000_000;
/// Garbage collection may think that it is this much later (R8's greatest offset) without seeing more than reads do.
pub const LATEST_NOW: i64 = NOW + 10_000_000;
/// Families `a` and `b` are in the schema at first, `c` is not.
pub const FAMILIES: [&str; 3] = ["a", "b", "c"];

pub fn family(index: usize) -> FamilyId {
    FamilyId::derive(FAMILIES[index], 0)
}

pub fn schema() -> TableSchema {
    let mut schema = TableSchema::new(RegionId(1));
    schema.families = (0..2).map(new_family).collect();
    schema
}

/// The same schema with all families but `b` as series; time blocks are short, so that a few versions fill several.
pub fn with_series(mut schema: TableSchema) -> TableSchema {
    for settings in &mut schema.families {
        if settings.name != FAMILIES[1] {
            settings.layout = Layout::Series { block_micros: 3 };
        }
    }
    schema
}

/// Each is compressed in another way, so that each stands in another place of the product's engine.
pub fn new_family(index: usize) -> FamilySettings {
    let mut family = FamilySettings::new(FAMILIES[index], 0);
    family.compression = [Compression::Lz4, Compression::Zstd, Compression::None][index];
    family
}

/// The `n`-th stamp; 20 s after 1970 and later, so that a replica that has applied one is not behind [`LATEST_NOW`].
pub fn stamp(n: u64) -> Stamp {
    Stamp {
        epoch: 0,
        hlc: (20_000 + n) << 16,
        region: RegionId(1),
    }
}

pub fn cell(row: &str, family_index: usize, qualifier: &str, version: i64, n: u64, value: &str) -> Fact {
    Fact::Cell {
        row: row.to_owned().into(),
        family: family(family_index),
        qualifier: qualifier.to_owned().into(),
        version,
        stamp: stamp(n),
        value: value.to_owned().into(),
    }
}

pub fn tombstone(row: &str, scope: OwnedScope, versions: VersionRange, n: u64) -> Fact {
    Fact::Tombstone {
        row: row.to_owned().into(),
        scope,
        versions,
        stamp: stamp(n),
    }
}

pub fn stamp_of(fact: &Fact) -> Stamp {
    match fact {
        Fact::Cell { stamp, .. } | Fact::Tombstone { stamp, .. } => *stamp,
    }
}

/// An engine under test.
pub enum World {
    Memory(MemoryEngine, Option<Arc<TableSchema>>),
    Rocks {
        engine: Option<Box<RocksEngine>>,
        /// Its families keep series where they may.
        series: bool,
        dir: TempDir,
        schema: Option<Arc<TableSchema>>,
    },
}

pub fn shared() -> &'static Arc<RocksShared> {
    static SHARED: OnceLock<Arc<RocksShared>> = OnceLock::new();
    SHARED.get_or_init(|| {
        RocksShared::new(RocksSettings {
            block_cache_bytes: 8 << 20,
            memtables_bytes: 64 << 20,
            memtable_bytes: 4 << 20,
            ..RocksSettings::default()
        })
        .unwrap()
    })
}

pub fn open(dir: &std::path::Path) -> Result<RocksEngine, EngineError> {
    RocksEngine::open(dir, shared(), ManualClock::new(LATEST_NOW).shared())
}

impl World {
    pub fn memory() -> World {
        World::Memory(MemoryEngine::new(), None)
    }

    pub fn rocks() -> World {
        World::rocks_with(false)
    }

    /// The product's engine with series families beside one of cells.
    pub fn series() -> World {
        World::rocks_with(true)
    }

    fn rocks_with(series: bool) -> World {
        let dir = tempfile::tempdir().unwrap();
        let engine = Some(Box::new(open(&dir.path().join("t")).unwrap()));
        World::Rocks {
            engine,
            series,
            dir,
            schema: None,
        }
    }

    /// One of each kind, with the usual schema; the product's engine in both layouts.
    pub fn both() -> [World; 3] {
        let mut worlds = [World::memory(), World::rocks(), World::series()];
        worlds.iter_mut().for_each(|world| world.set_schema(schema()));
        worlds
    }

    pub fn engine(&self) -> &dyn Engine {
        match self {
            World::Memory(engine, _) => engine,
            World::Rocks { engine, .. } => &**engine.as_ref().expect("open between calls"),
        }
    }

    pub fn set_schema(&mut self, new: TableSchema) {
        let new = Arc::new(match self {
            World::Rocks { series: true, .. } => with_series(new),
            _ => new,
        });
        self.engine().set_schema(new.clone());
        match self {
            World::Memory(_, schema) | World::Rocks { schema, .. } => *schema = Some(new),
        }
    }

    /// Background compaction of everything that is flushed.
    pub fn compact(&self) {
        match self {
            World::Memory(engine, _) => engine.compact(LATEST_NOW).unwrap(),
            World::Rocks { engine, .. } => engine.as_ref().expect("open between calls").compact(),
        }
    }

    /// Loses what was not flushed, and opens again.
    pub fn crash(&mut self) {
        match self {
            World::Memory(engine, schema) => {
                engine.crash();
                if let Some(schema) = schema {
                    engine.set_schema(schema.clone());
                }
            }
            World::Rocks {
                engine, dir, schema, ..
            } => {
                drop(engine.take());
                let opened = open(&dir.path().join("t")).unwrap();
                if let Some(schema) = schema {
                    opened.set_schema(schema.clone());
                }
                *engine = Some(Box::new(opened));
            }
        }
    }
}

/// Facts over a small space, so that they meet. A cell's value follows from its coordinate and stamp (R5).
pub fn any_fact() -> impl Strategy<Value = Fact> {
    let row = prop_oneof![Just(""), Just("a"), Just("a\0"), Just("b")];
    let qualifier = prop_oneof![Just(""), Just("x"), Just("x\0"), Just("y")];
    let version = || NOW - 5..NOW + 2;
    let cells = (row.clone(), 0usize..3, qualifier.clone(), version(), 0u64..40)
        .prop_map(|(row, f, q, v, n)| cell(row, f, q, v, n, &format!("{n}/{v}/{q}")));
    let versions = prop_oneof![
        3 => Just(VersionRange::ALL),
        1 => version().prop_map(VersionRange::one),
        1 => (version(), version()).prop_map(|(a, b)| VersionRange { from: a.min(b), to: a.max(b) }),
    ];
    let scope = (
        0usize..3,
        qualifier,
        prop_oneof![Just(None), Just(Some("a\0")), Just(Some("b"))],
        0u8..8,
    )
        .prop_map(|(f, q, end, kind)| match kind {
            0..=3 => OwnedScope::Column {
                family: family(f),
                qualifier: q.into(),
            },
            4 | 5 => OwnedScope::Family { family: family(f) },
            6 => OwnedScope::Row,
            _ => OwnedScope::RowRange {
                end: end.map(|end: &str| end.to_owned().into()),
            },
        });
    let tombstones = (row, scope, versions, 0u64..40).prop_map(|(row, s, v, n)| tombstone(row, s, v, n));
    prop_oneof![5 => cells, 1 => tombstones]
}

/// Facts of one column, so that version limits and eras have something to decide.
pub fn any_fact_of_one_column() -> impl Strategy<Value = Fact> {
    let version = || NOW - 5..NOW + 2;
    let cells = (version(), 0u64..40).prop_map(|(v, n)| cell("a", 0, "x", v, n, &format!("{n}/{v}/x")));
    let versions = prop_oneof![
        1 => Just(VersionRange::ALL),
        4 => version().prop_map(VersionRange::one),
    ];
    let column = OwnedScope::Column {
        family: family(0),
        qualifier: "x".into(),
    };
    let tombstones = (versions, 0u64..40).prop_map(move |(v, n)| tombstone("a", column.clone(), v, n));
    prop_oneof![5 => cells, 1 => tombstones]
}

/// What one read returns, in the oracle's form.
pub fn read_once(engine: &dyn Engine, spec: &ReadSpec, now_micros: i64) -> Result<Vec<VisibleCell>, EngineError> {
    let mut all = Vec::new();
    walk(&mut *engine.read(spec, now_micros)?, &mut all)?;
    Ok(all)
}

/// What an engine's read returns while nobody writes, in the oracle's form. A read that may not go to the disk must see the same, as far as it
/// comes.
pub fn read_engine(engine: &dyn Engine, spec: &ReadSpec, now_micros: i64) -> Result<Vec<VisibleCell>, EngineError> {
    let all = read_once(engine, spec, now_micros)?;
    let mut seen = Vec::new();
    let walked = engine
        .read_in_memory(spec, now_micros)
        .and_then(|mut cursor| walk(&mut *cursor, &mut seen));
    match walked {
        Err(EngineError::NotInMemory(_)) => assert!(all.starts_with(&seen), "{seen:?} is no beginning of {all:?}"),
        walked => assert_eq!((walked, &seen), (Ok(()), &all), "in memory, of {spec:?}"),
    }
    Ok(all)
}

/// Collects a cursor's cells, and checks its marks of row starts.
pub fn walk(cursor: &mut dyn CellCursor, out: &mut Vec<VisibleCell>) -> Result<(), EngineError> {
    while cursor.advance()? {
        let cell = cursor.cell();
        let starts = out.last().is_none_or(|last| last.row != cell.row);
        assert_eq!(cursor.is_row_start(), starts, "row start of {cell:?}");
        out.push(visible(&cell));
    }
    Ok(())
}

/// A cell in the oracle's form.
pub fn visible(cell: &CellRef<'_>) -> VisibleCell {
    VisibleCell {
        row: Bytes::copy_from_slice(cell.row),
        family: cell.family,
        qualifier: Bytes::copy_from_slice(cell.qualifier),
        version: cell.version,
        stamp: cell.stamp,
        value: Bytes::copy_from_slice(cell.value),
    }
}

/// Adds facts to an engine, in one atomic write.
pub fn write_engine<'a>(engine: &dyn Engine, facts: impl IntoIterator<Item = &'a Fact>) -> Result<(), EngineError> {
    let mut batch = engine.write_batch();
    for fact in facts {
        match fact {
            Fact::Cell {
                row,
                family,
                qualifier,
                version,
                stamp,
                value,
            } => batch.put_cell(CellRef {
                row,
                family: *family,
                qualifier,
                version: *version,
                stamp: *stamp,
                value,
            }),
            Fact::Tombstone {
                row,
                scope,
                versions,
                stamp,
            } => batch.put_tombstone(TombstoneRef {
                row,
                scope: scope.borrow(),
                versions: *versions,
                stamp: *stamp,
            }),
        }
    }
    batch.commit()
}

/// The engine's digest of everything, in the oracle's form.
pub fn digest(engine: &dyn Engine) -> tidemark_oracle::Digest {
    let digest = engine.digest(&RowRange::all(), NOW).unwrap();
    tidemark_oracle::Digest {
        rows: digest.rows,
        cells: digest.cells,
        content_hash: digest.content_hash,
        stamps_hash: digest.stamps_hash,
    }
}
