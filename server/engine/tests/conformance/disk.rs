//! What only files can show: crashes at any moment, damaged bytes, checkpoints, compression.

use crate::world::{self, NOW, World, cell, family, open, read_engine, stamp, tombstone, write_engine};
use bytes::Bytes;
use std::fs;
use std::io::BufRead;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tidemark_base::fact::{Fact, OwnedScope};
use tidemark_base::schema::Compression;
use tidemark_base::{CellRef, ReadSpec, RowRange, VersionRange};
use tidemark_engine::{
    Engine, EngineError, GarbageCut, MemoryEngine, RangeDigest, RocksEngine, RocksSettings, RocksShared,
};
use tidemark_runtime::ManualClock;

/// A tablet whose memtables are so small that RocksDB flushes by itself all the time.
fn open_restless(dir: &Path) -> RocksEngine {
    let settings = RocksSettings {
        block_cache_bytes: 4 << 20,
        memtables_bytes: 1 << 20,
        memtable_bytes: 64 << 10,
        ..RocksSettings::default()
    };
    let shared = RocksShared::new(settings).unwrap();
    let engine = RocksEngine::open(dir, &shared, ManualClock::new(NOW).shared()).unwrap();
    engine.set_schema(Arc::new(world::schema()));
    engine
}

/// The `n`-th entry: one cell, one feed record, one row range every now and then, and the position, as one write.
fn apply(engine: &dyn Engine, n: u64) {
    let mut batch = engine.write_batch();
    batch.put_cell(CellRef {
        row: format!("{n:08}").as_bytes(),
        family: family(0),
        qualifier: b"q",
        version: 1,
        stamp: stamp(n),
        value: &[n as u8; 200],
    });
    batch.put_feed(n, &[n as u8; 100]);
    batch.put_state(b"applied", &n.to_le_bytes());
    batch.commit().unwrap();
}

fn applied(value: Option<Bytes>) -> u64 {
    value.map_or(0, |v| u64::from_le_bytes(v[..].try_into().unwrap()))
}

/// Facts, feed and position are from one cut. Returns the position.
fn check_cut(engine: &dyn Engine) -> u64 {
    let position = applied(engine.state(b"applied").unwrap());
    assert_eq!(engine.feed_bounds().unwrap().map_or(0, |(_, last)| last), position);
    let digest = engine.digest(&RowRange::all(), NOW).unwrap();
    assert_eq!(digest.cells, position);
    assert_eq!(engine.feed(1, usize::MAX).unwrap().len() as u64, position);
    position
}

#[test]
fn whatever_rocksdb_flushes_by_itself_is_one_cut() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("t");
    let mut position = 0;
    for round in 0..4 {
        let engine = open_restless(&dir);
        let found = check_cut(&engine);
        assert!(found >= position, "reported {position} durable, found {found}");
        for n in found + 1..=found + 700 {
            apply(&engine, n);
            if n % 97 == round {
                engine.flush().unwrap();
                assert_eq!(applied(engine.durable_state(b"applied")), n);
            }
        }
        position = applied(engine.durable_state(b"applied"));
        assert!(position < found + 700);
    }
    assert!(check_cut(&open_restless(&dir)) > 1_000, "flushes happened");
}

const CHILD_DIR: &str = "TIDEMARK_TEST_CHILD_DIR";

/// The process that the next test kills; does nothing unless it is that process.
#[test]
fn child_writes_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else {
        return;
    };
    let engine = open_restless(Path::new(&dir));
    let first = applied(engine.state(b"applied").unwrap()) + 1;
    for n in first.. {
        apply(&engine, n);
        if n % 50 == 0 {
            engine.flush().unwrap();
            println!("durable {}", applied(engine.durable_state(b"applied")));
        }
    }
}

#[test]
fn kill_nine_leaves_one_cut_at_or_behind_what_was_reported() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("t");
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "disk::child_writes_until_it_is_killed", "--nocapture"])
            .env(CHILD_DIR, &dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut durable = 0;
        let mut reports = 0;
        for line in std::io::BufReader::new(child.stdout.take().unwrap()).lines() {
            if let Some(n) = line.unwrap().strip_prefix("durable ") {
                durable = n.parse().unwrap();
                reports += 1;
            }
            if reports == 6 {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(reports, 6);
        let found = check_cut(&open_restless(&dir));
        assert!(found >= durable, "reported {durable} durable, found {found}");
    }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "LOCK" {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Everything that can be read, or the first error.
fn read_all(dir: &Path) -> Result<(RangeDigest, usize, usize), EngineError> {
    // With a cache of its own: copies of a file share their name in a cache, and a block there is not read again.
    let shared = RocksShared::new(RocksSettings::default()).unwrap();
    let engine = RocksEngine::open(dir, &shared, ManualClock::new(NOW).shared())?;
    engine.set_schema(Arc::new(world::schema()));
    let state = engine.state_scan(b"", b"", usize::MAX)?.len();
    let feed = engine.feed(1, usize::MAX)?.len();
    Ok((engine.digest(&RowRange::all(), NOW)?, state, feed))
}

#[test]
fn a_damaged_file_is_named_and_nothing_is_silently_dropped() {
    let temp = tempfile::tempdir().unwrap();
    let good = temp.path().join("good");
    {
        let engine = open(&good).unwrap();
        let facts: Vec<Fact> = (0..3_000)
            .map(|n| {
                cell(
                    &format!("row {n:06}"),
                    0,
                    "q",
                    1,
                    n % 40,
                    &format!("value {}", n * 7_919),
                )
            })
            .collect();
        write_engine(&engine, &facts).unwrap();
        let mut batch = engine.write_batch();
        for n in 1..500u64 {
            batch.put_feed(n, format!("record {}", n * 7_919).as_bytes());
            batch.put_state(format!("key {n}").as_bytes(), format!("state {}", n * 7_919).as_bytes());
        }
        batch.commit().unwrap();
        engine.flush().unwrap();
    }
    let expected = read_all(&good).unwrap();
    let tables: Vec<PathBuf> = fs::read_dir(&good)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.ends_with(".sst") || name.starts_with("MANIFEST")
        })
        .collect();
    assert!(tables.len() >= 4);
    let (mut tried, mut found) = (0, 0);
    for table in &tables {
        let length = fs::metadata(table).unwrap().len() as usize;
        for part in 0..16 {
            let dir = temp.path().join("damaged");
            copy_dir(&good, &dir);
            let path = dir.join(table.file_name().unwrap());
            let mut bytes = fs::read(&path).unwrap();
            bytes[(length - 1) * part / 15] ^= 0x40;
            fs::write(&path, bytes).unwrap();
            tried += 1;
            match read_all(&dir) {
                // The byte lies where nothing is read from.
                Ok(read) => assert_eq!(read, expected),
                Err(EngineError::Corruption(message)) => {
                    found += 1;
                    assert!(message.contains(&*dir.to_string_lossy()), "{message}");
                }
                Err(other) => panic!("{part} of {}: {other:?}", table.display()),
            }
            fs::remove_dir_all(&dir).unwrap();
        }
    }
    assert!(found * 10 >= tried * 9, "{found} of {tried} flipped bytes were found");
}

#[test]
fn a_missing_file_is_corruption() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("t");
    {
        let engine = open(&dir).unwrap();
        write_engine(&engine, &[cell("r", 0, "q", 1, 1, "v")]).unwrap();
        engine.flush().unwrap();
    }
    let table = fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "sst"))
        .unwrap();
    fs::remove_file(table).unwrap();
    let error = read_all(&dir).unwrap_err();
    assert!(matches!(error, EngineError::Corruption(_)), "{error:?}");
}

#[test]
fn a_directory_has_one_owner_and_is_private() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("t");
    let _engine = open(&dir).unwrap();
    let second = open(&dir).map(|_| ()).unwrap_err();
    assert!(matches!(second, EngineError::Io(_)), "{second:?}");
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_checkpoint_is_the_tablet_of_that_moment() {
    let temp = tempfile::tempdir().unwrap();
    for (index, world) in World::both().into_iter().enumerate() {
        let range = OwnedScope::RowRange { end: Some("c".into()) };
        let facts = [
            cell("a", 0, "q", 1, 1, "hidden"),
            tombstone("a", range, VersionRange::ALL, 2),
            cell("d", 0, "q", 1, 3, "shown"),
        ];
        write_engine(world.engine(), &facts).unwrap();
        let mut batch = world.engine().write_batch();
        batch.put_feed(1, b"one");
        batch.put_state(b"k", b"v");
        batch.commit().unwrap();
        let dir = temp.path().join(format!("checkpoint{index}"));
        world.engine().checkpoint(&dir).unwrap();
        assert!(world.engine().checkpoint(&dir).is_err(), "the directory must not exist");
        write_engine(world.engine(), &[cell("e", 0, "q", 1, 4, "later")]).unwrap();
        let copy: Box<dyn Engine> = match world {
            World::Memory(..) => Box::new(MemoryEngine::open_checkpoint(&dir).unwrap()),
            World::Rocks { .. } => Box::new(open(&dir).unwrap()),
        };
        copy.set_schema(Arc::new(world::schema()));
        let shown = read_engine(&*copy, &ReadSpec::default(), NOW).unwrap();
        assert_eq!(shown.iter().map(|c| &c.value[..]).collect::<Vec<_>>(), [b"shown"]);
        assert_eq!(copy.range_tombstones(), 1);
        assert_eq!(copy.durable_state(b"k"), Some("v".into()));
        assert_eq!(copy.feed(1, 99).unwrap().len(), 1);
        write_engine(&*copy, &[cell("f", 0, "q", 1, 5, "own life")]).unwrap();
        copy.flush().unwrap();
    }
}

#[test]
fn a_damaged_checkpoint_of_the_twin_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let world = World::memory();
    write_engine(world.engine(), &[cell("a", 0, "q", 1, 1, "v")]).unwrap();
    let dir = temp.path().join("c");
    world.engine().checkpoint(&dir).unwrap();
    let path = dir.join("memory.tidemark");
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, bad).unwrap();
        assert!(matches!(
            MemoryEngine::open_checkpoint(&dir),
            Err(EngineError::Corruption(_))
        ));
        fs::write(&path, &good[..at]).unwrap();
        assert!(MemoryEngine::open_checkpoint(&dir).is_err());
    }
}

/// Bytes of files after a collection of 2 MiB that compress well, in a family with that setting; and again after the
/// setting was changed to `then`.
fn bytes_of(first: Compression, then: Compression) -> (u64, u64) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("t");
    let with = |compression: Compression, revision: u64| {
        let mut schema = world::schema();
        schema.revision = revision;
        schema.families[1].compression = compression;
        Arc::new(schema)
    };
    let collect = |engine: &RocksEngine| {
        let cut = GarbageCut {
            stable: stamp(50),
            now_micros: NOW,
        };
        while !engine.collect_garbage(cut).unwrap().skipped {}
        engine.disk_bytes()
    };
    let engine = open(&dir).unwrap();
    engine.set_schema(with(first, 1));
    let facts: Vec<Fact> = (0..2_000)
        .map(|n| cell(&format!("{n:05}"), 1, "q", 1, n % 40, &format!("{:>1024}", n * 7_919)))
        .collect();
    write_engine(&engine, &facts).unwrap();
    // Beside a family of another kind, so that there is something to merge.
    write_engine(&engine, &[cell("00007", 0, "q", 1, 1, "other")]).unwrap();
    let read = |engine: &RocksEngine| read_engine(engine, &ReadSpec::default(), NOW).unwrap();
    let shown = read(&engine);
    assert_eq!(shown.len(), 2_001);
    let before = collect(&engine);
    engine.set_schema(with(then, 2));
    assert_eq!(read(&engine), shown, "facts are found wherever they stand");
    write_engine(&engine, &facts[..100]).unwrap();
    assert_eq!(read(&engine), shown, "and once, where they stand twice");
    let after = collect(&engine);
    assert_eq!(read(&engine), shown);
    drop(engine);
    let engine = open(&dir).unwrap();
    engine.set_schema(with(then, 2));
    assert_eq!(read(&engine), shown, "after opening too");
    (before, after)
}

#[test]
fn families_are_compressed_as_they_say_and_after_a_change_from_the_next_collection_on() {
    const RAW: u64 = 2_000 * 1_024;
    let (none, lz4_then) = bytes_of(Compression::None, Compression::Lz4);
    let (lz4, zstd_then) = bytes_of(Compression::Lz4, Compression::Zstd);
    let (zstd, none_then) = bytes_of(Compression::Zstd, Compression::None);
    let all = format!("none {none}/{none_then}, lz4 {lz4}/{lz4_then}, zstd {zstd}/{zstd_then}");
    println!("{all}");
    assert!(none > RAW && none_then > RAW, "{all}");
    assert!(lz4 < RAW / 4 && lz4_then < RAW / 4, "{all}");
    assert!(zstd < lz4 && zstd_then < lz4_then, "{all}");
    assert!(lz4_then < lz4 * 5 / 4, "nothing is left where it stood: {all}");
}

/// A schema or row range that a crash can still take away must not guide a compaction: what is replayed may need the
/// cells.
#[test]
fn compaction_goes_by_the_flushed_schema_and_row_ranges() {
    let temp = tempfile::tempdir().unwrap();
    let engine = open(&temp.path().join("t")).unwrap();
    engine.set_schema(Arc::new(world::schema()));
    let facts: Vec<Fact> = (0..5).map(|v| cell("r", 0, "q", v, 1, &v.to_string())).collect();
    write_engine(&engine, &facts).unwrap();
    write_engine(&engine, &[cell("s", 0, "q", 1, 1, "v")]).unwrap();
    engine.flush().unwrap();
    let range = OwnedScope::RowRange { end: None };
    write_engine(&engine, &[tombstone("s", range, VersionRange::ALL, 2)]).unwrap();
    let mut narrow = world::schema();
    narrow.families[0].max_versions = Some(1);
    engine.set_schema(Arc::new(narrow));
    let cells = |engine: &dyn Engine| {
        let facts = engine.facts().unwrap();
        facts.iter().filter(|f| matches!(f, Fact::Cell { .. })).count()
    };
    engine.compact();
    assert_eq!(cells(&engine), 6);
    assert_eq!(read_engine(&engine, &ReadSpec::default(), NOW).unwrap().len(), 1);
    engine.flush().unwrap();
    engine.compact();
    assert_eq!(cells(&engine), 2, "one version, and the dead marker of the covered one");
    assert_eq!(read_engine(&engine, &ReadSpec::default(), NOW).unwrap().len(), 1);
}
