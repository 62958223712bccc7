//! INV-12, where conformance does not reach: who meets whom, what a batch that fails leaves, memory.

use super::*;
use crate::{Engine, MemoryEngine, RocksEngine, RocksSettings, RocksShared};
use std::sync::atomic::AtomicBool;
use tidemark_base::{FamilySettings, RegionId, Scope, TombstoneRef, VersionRange};
use tidemark_runtime::ManualClock;

fn family(name: &str) -> FamilyId {
    FamilySettings::new(name, 0).id
}

/// A plain family, and one with a TTL of 100 µs.
fn schema() -> Arc<TableSchema> {
    let mut schema = TableSchema::new(RegionId(1));
    schema.families = ["plain", "ttl"].map(|name| FamilySettings::new(name, 0)).into();
    schema.families[1].ttl_micros = Some(100);
    Arc::new(schema)
}

/// And one whose version limit was raised.
fn raised() -> Arc<TableSchema> {
    let mut schema = (*schema()).clone();
    let mut raised = FamilySettings::new("raised", 0);
    raised.set_max_versions(Some(1), 0);
    raised.set_max_versions(Some(2), 1 << 16);
    schema.families.push(raised);
    Arc::new(schema)
}

fn engine() -> MemoryEngine {
    let engine = MemoryEngine::new();
    engine.set_schema(schema());
    engine
}

fn put(engine: &dyn Engine, row: &str, of: &str, qualifier: &str, version: i64, value: &str) {
    let mut batch = engine.write_batch();
    batch.put_cell(CellRef {
        row: row.as_bytes(),
        family: family(of),
        qualifier: qualifier.as_bytes(),
        version,
        stamp: Stamp {
            hlc: 1 << 16,
            ..Stamp::MIN
        },
        value: value.as_bytes(),
    });
    batch.commit().unwrap();
}

fn delete(engine: &dyn Engine, row: &str, scope: Scope<'_>) {
    let mut batch = engine.write_batch();
    batch.put_tombstone(TombstoneRef {
        row: row.as_bytes(),
        scope,
        versions: VersionRange::one(1),
        stamp: Stamp {
            hlc: 2 << 16,
            ..Stamp::MIN
        },
    });
    batch.commit().unwrap();
}

fn text(cells: &mut String, cell: &CellRef<'_>) {
    let word = |bytes| String::from_utf8_lossy(bytes).into_owned();
    *cells += &format!("{}={}@{} ", word(cell.qualifier), word(cell.value), cell.version);
}

fn asked(row: &str, now_micros: i64) -> RowParts<'_> {
    RowParts {
        row: row.as_bytes(),
        families: None,
        now_micros,
    }
}

/// What is kept of a row.
fn kept(engine: &dyn Engine, row: &str, now_micros: i64) -> Option<String> {
    let mut cells = String::new();
    let is_kept = engine.newest(&asked(row, now_micros), &mut |cell, _| {
        text(&mut cells, cell);
        true
    });
    is_kept.then_some(cells)
}

fn read(engine: &dyn Engine, row: &str, now_micros: i64) -> String {
    let mut cells = String::new();
    let mut each = |cell: &CellRef<'_>, _| {
        text(&mut cells, cell);
        true
    };
    engine.read_newest(&asked(row, now_micros), false, &mut each).unwrap();
    cells
}

#[test]
fn a_row_that_was_read_is_kept_and_follows_puts() {
    let engine = engine();
    put(&engine, "r", "plain", "a", 5, "five");
    put(&engine, "r", "plain", "c", 5, "c");
    assert_eq!(kept(&engine, "r", 0), None);
    assert_eq!(read(&engine, "r", 0), "a=five@5 c=c@5 ");
    assert_eq!(kept(&engine, "r", 0).unwrap(), "a=five@5 c=c@5 ");
    put(&engine, "r", "plain", "a", 4, "older");
    put(&engine, "r", "plain", "c", 7, "a longer value");
    put(&engine, "r", "plain", "b", 1, "new column");
    let now = "a=five@5 b=new column@1 c=a longer value@7 ";
    assert_eq!(kept(&engine, "r", 0).unwrap(), now);
    assert_eq!(read(&engine, "r", 0), now);
    // As of an earlier moment than the reader's, and of another row.
    assert_eq!((kept(&engine, "r", -1), kept(&engine, "s", 0)), (None, None));
    // A reader who has enough gets no more.
    let mut seen = 0;
    assert!(engine.newest(&asked("r", 0), &mut |_, _| {
        seen += 1;
        false
    }));
    assert_eq!(seen, 1);
}

#[test]
fn deletes_limits_and_schemas_end_it() {
    let column = Scope::Column {
        family: family("plain"),
        qualifier: b"a",
    };
    let scopes = [
        column,
        Scope::Family {
            family: family("plain"),
        },
        Scope::Row,
        Scope::RowRange { end: None },
    ];
    for scope in scopes {
        let engine = engine();
        put(&engine, "r", "plain", "a", 1, "x");
        put(&engine, "r", "plain", "a", 2, "y");
        read(&engine, "r", 0);
        delete(&engine, "r", scope);
        assert_eq!(kept(&engine, "r", 0), None, "{scope:?}");
        // The tombstone is still there: what comes below it must not be seen.
        assert_eq!(read(&engine, "r", 0), "a=y@2 ");
        assert_eq!(kept(&engine, "r", 0), None, "{scope:?}");
    }
    let engine = engine();
    engine.set_schema(raised());
    put(&engine, "r", "plain", "a", 1, "x");
    assert_eq!(read(&engine, "r", 0), "a=x@1 ");
    assert_eq!(kept(&engine, "r", 0), None);
    put(&engine, "r", "raised", "b", 1, "x");
    assert_eq!(read(&engine, "r", 0), "a=x@1 b=x@1 ");
    assert_eq!(kept(&engine, "r", 0), None);
    let plain = [family("plain")];
    let part = RowParts {
        families: Some(&plain),
        ..asked("r", 0)
    };
    engine.read_newest(&part, false, &mut |_, _| true).unwrap();
    assert!(engine.newest(&part, &mut |_, _| true));
    engine.set_schema(schema());
    put(&engine, "s", "plain", "a", 1, "x");
    read(&engine, "s", 0);
    assert!(kept(&engine, "s", 0).is_some());
    engine.set_schema(schema());
    assert_eq!(kept(&engine, "s", 0), None);
}

#[test]
fn what_expires_is_left_out() {
    let engine = engine();
    put(&engine, "r", "plain", "a", 1, "x");
    put(&engine, "r", "ttl", "b", 1, "x");
    read(&engine, "r", 50);
    assert_eq!(kept(&engine, "r", 100).unwrap().len(), "a=x@1 b=x@1 ".len());
    assert_eq!(kept(&engine, "r", 101).unwrap(), "a=x@1 ");
    assert_eq!(read(&engine, "r", 101), "a=x@1 ");
}

#[test]
fn a_batch_that_fails_ends_it() {
    let engine = engine();
    put(&engine, "r", "plain", "a", 1, "x");
    read(&engine, "r", 0);
    engine.refuse_commits(0, 1);
    let mut batch = engine.write_batch();
    batch.put_cell(CellRef {
        row: b"r",
        family: family("plain"),
        qualifier: b"a",
        version: 9,
        stamp: Stamp::MIN,
        value: b"never",
    });
    // While it is on its way the store answers.
    assert_eq!(kept(&engine, "r", 0), None);
    assert_eq!(read(&engine, "r", 0), "a=x@1 ");
    assert_eq!(kept(&engine, "r", 0), None);
    batch.commit().unwrap_err();
    assert_eq!(kept(&engine, "r", 0), None);
    assert_eq!(read(&engine, "r", 0), "a=x@1 ");
    assert!(kept(&engine, "r", 0).is_some());
}

#[test]
fn what_was_read_before_a_write_is_not_kept_behind_it() {
    let rows = KeptRows::new(KeptBudget::new(1 << 20));
    rows.set_schema(Some(&schema()));
    let cell = CellRef {
        row: b"r",
        family: family("plain"),
        qualifier: b"a",
        version: 1,
        stamp: Stamp::MIN,
        value: b"x",
    };
    let plain = [family("plain")];
    let part = RowParts {
        families: Some(&plain),
        ..asked("r", 0)
    };
    let is_kept = || rows.give(&part, Some(&schema()), &mut |_, _| true);
    let keep = |ticket: &Ticket| {
        let mut row = KeptRow::new(b"r", family("plain"), 0);
        row.put(&cell, 0);
        rows.keep(ticket, row);
        is_kept()
    };
    // Nobody has asked yet: the batch does not look, so nobody may keep anything until it is gone.
    let blind = KeptBatch::begin(&rows);
    assert!(blind.looks == Looks::Blind && rows.ticket(b"r").is_none());
    blind.finish();
    let ticket = rows.ticket(b"r").unwrap();
    let mut batch = KeptBatch::begin(&rows);
    batch.put(&cell);
    assert!(rows.ticket(b"r").is_none() && !keep(&ticket), "while it is on its way");
    batch.finish();
    assert!(!keep(&ticket), "behind it");
    let ticket = rows.ticket(b"r").unwrap();
    assert!(keep(&ticket));
    let ticket = rows.ticket(b"r").unwrap();
    KeptBatch::begin(&rows).delete_range();
    assert!(!is_kept() && !keep(&ticket), "behind one that covers many rows");
    let ticket = rows.ticket(b"r").unwrap();
    rows.set_schema(Some(&schema()));
    assert!(!keep(&ticket), "under another schema");
}

/// A schema command and what comes behind it in one apply share a batch that was begun before the schema was set.
#[test]
fn a_batch_that_spans_a_schema_hides_nothing() {
    let engine = engine();
    let cell = |qualifier: &'static [u8]| CellRef {
        row: b"r",
        family: family("new"),
        qualifier,
        version: 1,
        stamp: Stamp::MIN,
        value: b"x",
    };
    put(&engine, "r", "plain", "a", 1, "x");
    read(&engine, "r", 0);
    let mut batch = engine.write_batch();
    let mut wider = (*schema()).clone();
    wider.families.push(FamilySettings::new("new", 0));
    engine.set_schema(Arc::new(wider));
    assert_eq!(read(&engine, "r", 0), "a=x@1 ");
    assert_eq!(
        kept(&engine, "r", 0).unwrap(),
        "a=x@1 ",
        "kept with nothing in the new family"
    );
    batch.put_cell(cell(b"q"));
    assert_eq!(kept(&engine, "r", 0), None);
    assert_eq!(read(&engine, "r", 0), "a=x@1 ");
    batch.put_cell(cell(b"s"));
    batch.commit().unwrap();
    assert_eq!(kept(&engine, "r", 0), None);
    // Families come in the order of their ids.
    let whole = read(&engine, "r", 0);
    assert!(
        whole.len() == "a=x@1 q=x@1 s=x@1 ".len() && whole.contains("q=x@1 s=x@1 "),
        "{whole}"
    );
    assert_eq!(kept(&engine, "r", 0).unwrap(), whole);
}

/// Where somebody finds no room, whoever has most of it gives some up.
#[test]
fn what_nobody_asks_for_makes_room() {
    let budget = KeptBudget::new(30_000);
    let [old, new] = [KeptRows::new(budget.clone()), KeptRows::new(budget.clone())];
    let fill = |rows: &KeptRows| {
        for n in 0..200 {
            let row = format!("row {n}");
            let ticket = rows.ticket(row.as_bytes()).unwrap();
            rows.keep(&ticket, KeptRow::new(row.as_bytes(), family("plain"), 0));
        }
        rows.stripes()
            .iter()
            .map(|stripe| stripe.lock().rows.len())
            .sum::<usize>()
    };
    assert!(fill(&old) > 50);
    assert_eq!(fill(&new), 0);
    for _ in 0..PARTS {
        fill(&new);
        old.shed();
    }
    assert!(fill(&new) > 50);
    let kept = budget.used_bytes();
    new.shed();
    new.shed();
    assert!(budget.used_bytes() <= kept, "once for each time somebody was refused");
}

#[test]
fn memory_is_bounded_and_given_back() {
    let budget = KeptBudget::new(20_000);
    let rows = KeptRows::new(budget.clone());
    for n in 0..1_000 {
        let row = format!("row {n}");
        let ticket = rows.ticket(row.as_bytes()).unwrap();
        rows.keep(&ticket, KeptRow::new(row.as_bytes(), family("plain"), 0));
        assert!(budget.used_bytes() <= 20_000);
    }
    assert!(budget.used_bytes() > 10_000);
    drop(rows);
    assert_eq!(budget.used_bytes(), 0);
    let none = KeptRows::new(KeptBudget::new(0));
    assert!(none.ticket(b"r").is_none());
}

/// One writer, four readers, three ways to read: what one has seen, nobody who begins afterwards sees older, and both columns
/// of a row are of one write.
fn nobody_sees_a_row_go_back(engine: &dyn Engine) {
    // Not a multiple of the ways to read: each row is read in each.
    const ROWS: usize = 4;
    const WRITES: i64 = 4_000;
    let seen: [AtomicU64; ROWS] = Default::default();
    let (done, hits) = (AtomicBool::new(false), AtomicU64::new(0));
    for row in 0..ROWS {
        put(engine, &row.to_string(), "plain", "a", 0, "0");
        put(engine, &row.to_string(), "plain", "b", 0, "0");
    }
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for n in 1..=WRITES {
                let mut batch = engine.write_batch();
                for row in 0..ROWS {
                    for qualifier in ["a", "b"] {
                        batch.put_cell(CellRef {
                            row: row.to_string().as_bytes(),
                            family: family("plain"),
                            qualifier: qualifier.as_bytes(),
                            version: n,
                            stamp: Stamp {
                                hlc: (n as u64) << 16,
                                ..Stamp::MIN
                            },
                            value: n.to_string().as_bytes(),
                        });
                    }
                }
                batch.commit().unwrap();
                // Between two writes there is time to keep what was read, now and then.
                if n % 8 == 0 {
                    std::thread::sleep(std::time::Duration::from_micros(200));
                }
            }
            done.store(true, Memory::SeqCst);
        });
        for reader in 0..4usize {
            let (seen, done, hits) = (&seen, &done, &hits);
            threads.spawn(move || {
                let mut turn = reader;
                while !done.load(Memory::SeqCst) {
                    turn += 1;
                    let row = turn % ROWS;
                    let before = seen[row].load(Memory::SeqCst);
                    let name = row.to_string();
                    let mut versions = Vec::new();
                    let mut each = |cell: &CellRef<'_>, _| {
                        versions.push(cell.version as u64);
                        true
                    };
                    if turn % 3 == 0 {
                        engine.read_newest(&asked(&name, 0), false, &mut each).unwrap();
                    } else if engine.newest(&asked(&name, 0), &mut each) {
                        hits.fetch_add(1, Memory::Relaxed);
                    } else {
                        let mut spec = ReadSpec::row(name.as_bytes());
                        spec.filter.latest = Some(1);
                        let mut cursor = engine.read(&spec, 0).unwrap();
                        while cursor.advance().unwrap() {
                            each(&cursor.cell(), 0);
                        }
                    }
                    assert_eq!(versions.len(), 2);
                    assert_eq!(versions[0], versions[1], "a row in two pieces");
                    assert!(versions[0] >= before, "{} after {before} was seen", versions[0]);
                    seen[row].fetch_max(versions[0], Memory::SeqCst);
                }
            });
        }
    });
    assert!(hits.load(Memory::Relaxed) > 0, "nothing was kept, nothing was tested");
}

#[test]
fn nobody_sees_a_row_go_back_in_memory() {
    nobody_sees_a_row_go_back(&engine());
}

#[test]
fn nobody_sees_a_row_go_back_on_disk() {
    let shared = RocksShared::new(RocksSettings::default()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let engine = RocksEngine::open(&dir.path().join("t"), &shared, ManualClock::new(1_000).shared()).unwrap();
    engine.set_schema(schema());
    nobody_sees_a_row_go_back(&engine);
}
