//! Each target over its committed corpus and over mutations of it: no decoder panics, and every good example is read.
//! `UPDATE=1` writes the examples below into the corpus; they are never taken out again, because old bytes must be read for
//! ever.

#![allow(clippy::unwrap_used)] // Everything here is a test.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use tidemark_base::cells::{CellsBuilder, PackedCell};
use tidemark_base::read::{CompareOp, QualifierFilter, ValueFilter};
use tidemark_base::schema::Layout;
use tidemark_base::{
    BatchBuilder, FamilyId, FamilySettings, NodeId, PackedBatch, ReadFilter, RegionId, RowRange, Scope, Stamp,
    TableSchema, VersionRange,
};
use tidemark_consensus::{AppliedState, LogPosition};
use tidemark_decoders::Target;
use tidemark_engine::series::{Merger, TickBuilder};
use tidemark_node::identity::Identity;
use tidemark_replication::run::{self, RunRecord};
use tidemark_tablet::{FeedEntry, RemoteBatch, RemotePart, StreamId};

/// Mutated inputs of one target: seconds for all of them.
const MUTATIONS: u64 = 20_000;
const INPUT_BYTES_MAX: usize = 4_096;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The committed files of a target, by name; `UPDATE` writes them first, once for all tests.
fn files(target: &str) -> BTreeMap<String, Vec<u8>> {
    static UPDATED: Once = Once::new();
    UPDATED.call_once(|| {
        if std::env::var_os("UPDATE").is_some() {
            update();
        }
    });
    let Ok(entries) = std::fs::read_dir(corpus().join(target)) else {
        return BTreeMap::new();
    };
    let file = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, std::fs::read(entry.path()).unwrap())
    };
    entries.map(|entry| file(entry.unwrap())).collect()
}

fn update() {
    for (target, name, bytes) in examples() {
        let dir = corpus().join(target);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("good-{name}")), bytes).unwrap();
    }
}

/// Runs a target; a panic names the input, so that it can be put into the corpus.
fn run_target(name: &str, decode: fn(&[u8]) -> bool, input: &[u8]) -> bool {
    let decoded = catch_unwind(AssertUnwindSafe(|| decode(input)));
    decoded.unwrap_or_else(|_| {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{name} panics; put this into tests/decoders/corpus/{name}/ when it is mended: {hex}");
    })
}

/// All of the library's, and the identity file, whose decoder is serde_json's: it would have the fuzzer compile the whole node.
fn targets() -> Vec<Target> {
    let identity: Target = ("identity", |bytes| serde_json::from_slice::<Identity>(bytes).is_ok());
    let mut all = tidemark_decoders::targets();
    all.push(identity);
    all
}

#[test]
fn every_target_has_examples_that_it_reads() {
    let targets = targets();
    for (name, decode) in &targets {
        let files = files(name);
        let good: Vec<_> = files.iter().filter(|(file, _)| file.starts_with("good-")).collect();
        assert!(!good.is_empty(), "{name} has no example in its corpus");
        for (file, bytes) in good {
            assert!(run_target(name, *decode, bytes), "{name} does not read {file}");
        }
    }
    let known: Vec<&str> = targets.iter().map(|(name, _)| *name).collect();
    for entry in std::fs::read_dir(corpus()).unwrap() {
        let dir = entry.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(&&*dir), "there is no target for corpus/{dir}");
    }
}

/// The examples above are what the encoders write today: else a new form has no example yet.
#[test]
fn the_corpus_holds_what_is_written_today() {
    for (target, name, bytes) in examples() {
        let held = files(target);
        assert!(
            held.values().any(|file| *file == bytes),
            "corpus/{target} does not hold today's {name}: give it a new name and run with UPDATE=1"
        );
    }
}

#[test]
fn mutations_of_the_corpus_never_panic() {
    for (name, decode) in targets() {
        let files: Vec<Vec<u8>> = files(name).into_values().collect();
        let mut random = Random(0x7469_6465);
        let mut read = 0u64;
        for file in &files {
            run_target(name, decode, file);
        }
        for _ in 0..MUTATIONS {
            let input = mutated(&files, &mut random);
            read += u64::from(run_target(name, decode, &input));
        }
        assert!(read < MUTATIONS, "{name} reads whatever it is given: it checks nothing");
    }
}

/// xorshift64*: the same inputs in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n.max(1)
    }
}

/// One to four changes of a file of the corpus.
fn mutated(files: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = files[random.below(files.len())].clone();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        match random.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.below(256) as u8),
            4 if !bytes.is_empty() => drop(bytes.remove(at)),
            // A great number where a length may stand.
            5 => {
                let end = (at + 4).min(bytes.len());
                bytes[at..end].fill(0xff);
            }
            // A part of the same file, or of another, once more.
            6 => {
                let other = &files[random.below(files.len())];
                let from = random.below(other.len());
                let part = other[from..(from + random.below(40)).min(other.len())].to_vec();
                bytes.splice(at..at, part);
            }
            _ => bytes.extend(
                (0..random.below(12))
                    .map(|_| random.below(256) as u8)
                    .collect::<Vec<_>>(),
            ),
        }
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

fn stamp(n: u64) -> Stamp {
    Stamp {
        epoch: 0,
        hlc: n,
        region: RegionId(1),
    }
}

fn batch() -> PackedBatch {
    let family = FamilyId(0x8000_0001);
    let mut batch = BatchBuilder::new();
    batch.begin_row(b"device/7").unwrap();
    batch.delete(Scope::Row, VersionRange { from: 0, to: 9 }).unwrap();
    batch.delete(Scope::Family { family }, VersionRange::ALL).unwrap();
    batch
        .delete(
            Scope::Column {
                family,
                qualifier: b"q",
            },
            VersionRange::one(3),
        )
        .unwrap();
    batch.put(family, b"q", 5, b"value").unwrap();
    batch.end_row().unwrap();
    let range = RowRange {
        start: Bytes::from_static(b"a"),
        end: Some(Bytes::from_static(b"b")),
    };
    batch.push_range_delete(&range, VersionRange::ALL).unwrap();
    batch.finish().unwrap()
}

fn cells() -> Vec<u8> {
    let mut cells = CellsBuilder::new();
    for (row, qualifier, version) in [("a", "q", 2), ("a", "q", 1), ("b", "q", 1)] {
        cells.push(PackedCell {
            row: row.as_bytes(),
            family: FamilyId(0x8000_0001),
            qualifier: qualifier.as_bytes(),
            version,
            value: b"v",
        });
    }
    cells.finish().to_vec()
}

fn schema() -> Vec<u8> {
    let mut family = FamilySettings::new("m", 0);
    family.set_ttl(Some(60_000_000), 0);
    family.set_max_versions(Some(3), 0);
    family.set_max_versions(Some(9), 77);
    let mut schema = TableSchema::new(RegionId(1));
    schema.peers = vec![RegionId(2)];
    let series = FamilySettings {
        layout: Layout::Series {
            block_micros: 3_600_000_000,
        },
        ..FamilySettings::new("s", 1)
    };
    schema.families = vec![family, series];
    schema.encode()
}

/// A tick; a block of floats, texts and a column with holes; what a reader gets of a tick beside a block.
fn series_records() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let tick = |version: i64, text: &str| {
        let mut tick = TickBuilder::new(Vec::new(), version, stamp(version as u64));
        tick.push(b"f", &(version as f64 / 10.0).to_be_bytes());
        tick.push(b"text", text.as_bytes());
        if version % 3 == 0 {
            tick.push(b"holes", b"some value");
        }
        tick.finish()
    };
    let ticks: Vec<Vec<u8>> = (1..12).map(|n| tick(n * 1_000, &format!("2{}.5", n % 4))).collect();
    let block = Merger::new().merge(ticks.iter().map(Vec::as_slice)).unwrap();
    let mut joined = vec![3];
    for value in [&block, &tick(99_000, "on")] {
        joined.extend_from_slice(&(value.len() as u32).to_le_bytes());
        joined.extend_from_slice(value);
    }
    vec![
        ("series-record", "tick", tick(5_000, "20.5")),
        ("series-record", "block", block),
        ("series-record", "joined", joined),
    ]
}

fn filter() -> Vec<u8> {
    let filter = ReadFilter {
        families: Some(vec![FamilyId(7)]),
        qualifier: QualifierFilter::Range {
            start: "a".into(),
            end: Some("b".into()),
        },
        latest: Some(3),
        value: ValueFilter::Compare(CompareOp::Less, "x".into()),
        row_regex: Some("d.*".into()),
        cells_per_row: Some(5),
        ..ReadFilter::default()
    };
    let mut out = Vec::new();
    filter.encode(&mut out);
    out
}

fn feed_entry() -> Vec<u8> {
    let offsets = Some(vec![0, 3]);
    let batch = batch();
    let first = stamp(0x0102);
    FeedEntry::Write { first, offsets, batch }.encode().to_vec()
}

fn region_run() -> Vec<u8> {
    let record = |seq, body: Vec<u8>, unreadable: Option<&str>| RunRecord {
        seq,
        body: body.into(),
        unreadable: unreadable.map(str::to_owned),
    };
    run::encode_run(&[
        record(4, feed_entry(), None),
        record(6, b"??".to_vec(), Some("its checksum")),
    ])
}

fn remote_batch() -> Vec<u8> {
    let part = RemotePart {
        seq: 2,
        first: stamp(0x40),
        offsets: vec![1, 4],
        batch: batch(),
    };
    let batch = RemoteBatch {
        stream: StreamId {
            region: RegionId(2),
            tablet: 9,
        },
        link: 0,
        range: RowRange::all(),
        first_seq: 1,
        last_seq: 3,
        closed_hlc: 7,
        parts: vec![part],
        unreadable: Vec::new(),
    };
    batch.encode().to_vec()
}

fn applied() -> Vec<u8> {
    let position = LogPosition {
        term: 2,
        leader: NodeId(3),
        index: 4,
    };
    let membership = Some((position, Bytes::from_static(b"opaque")));
    let position = Some(position);
    AppliedState { position, membership }.encode()
}

/// A slice with a length below 128, as commands have it.
fn slice(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![u8::try_from(bytes.len()).unwrap()];
    out.extend_from_slice(bytes);
    out
}

fn numbers(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The worked examples of docs/formats/commands.md.
fn commands() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let first = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 1];
    let terms = [vec![0xab; 16], vec![9, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]].concat();
    let rules: &[u8] = &[
        5, 0, 0, 0, 0, 0, 0, 0, 1, b'a', 1, 1, 0, 0, 0x80, 1, b't', 1, 2, b'x', b'y',
    ];
    let command = |name, parts: &[&[u8]]| ("tablet-command", name, parts.concat());
    vec![
        command("write-listed", &[&[1, 1], &first, &slice(batch().bytes())]),
        command("check", &[&[2], &first, &terms, &[1, b'a'], &filter(), &[0]]),
        command("rmw", &[&[3], &first, &terms, rules]),
        command("remote-listed", &[&[4, 0, 4, 0, 0, 0, 0, 0, 0], &remote_batch()]),
        command("schema-series", &[&[5, 1], &slice(&schema())]),
        command("close", &[&[6], &first]),
        command("acknowledge", &[&[7, 2, 0], &numbers(&[3, 258, 4, 5])]),
        command("drain", &[&[8, 2, 1, 0, 0, 0, 0, 0, 0]]),
    ]
}

/// A record of the Raft log as it is drawn in its module: an entry without payload, and its frame's head.
fn log_records() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut body = vec![1u8];
    for value in [5u64, 2, 3, 4] {
        body.extend_from_slice(&value.to_le_bytes());
    }
    body.push(0);
    let mut record = (body.len() as u32).to_le_bytes().to_vec();
    record.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    record.extend_from_slice(&body);
    let mut head = b"TIDELOG1\x02\x01\0\0\0\0\0\0\x01\0\0\0".to_vec();
    head.extend_from_slice(&crc32c::crc32c(&head).to_le_bytes());
    let mut frame = b"TMFR\x2a\0\0\0\x09\0\0\0\0\0\0\0".to_vec();
    frame.extend_from_slice(&crc32c::crc32c(&frame).to_le_bytes());
    frame.extend_from_slice(&record);
    vec![
        ("raft-log", "body", body),
        ("raft-log", "record", record),
        ("raft-log", "segment-head", head),
        ("raft-log", "frame", frame),
    ]
}

/// Good bytes of each target.
fn examples() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let identity = br#"{"format":1,"cluster":"tides","region":"east","region_number":1,"node":3,"incarnation":"ab","log_begun":true}"#;
    let command = br#"{"v":1,"request":"abababababababababababababababab","now_ms":7,"command":{"register_node":{"id":1,"address":"h:1","zone":"a","version":"0.1","now_ms":6,"incarnation":"life"}}}"#;
    let zeros = |n: usize| vec![0u8; n];
    let range = tidemark_engine::key::RangeTombstone {
        start: Bytes::from_static(b"a\0b"),
        end: Some(Bytes::from_static(b"c")),
        versions: VersionRange::ALL,
        stamp: stamp(5),
    };
    let family = FamilyId(0x8000_0001);
    let mut examples = vec![
        ("packed-batch", "all-kinds-listed", batch().bytes().to_vec()),
        ("packed-cells", "three", cells()),
        ("schema", "series", schema()),
        ("filter", "most", filter()),
        (
            "engine-key",
            "cell",
            tidemark_engine::key::cell_key(b"a\0b", family, b"q\0", 5, stamp(7), b"v"),
        ),
        ("engine-key", "range", range.key()),
        ("region-run", "two-records-listed", region_run()),
        ("identity", "node-3", identity.to_vec()),
        ("raft-wire", "vote-answer", [vec![3], zeros(19)].concat()),
        ("raft-wire", "beat", [vec![6], zeros(16)].concat()),
        ("raft-wire", "rest", [vec![7], zeros(39)].concat()),
        ("raft-state", "applied", applied()),
        ("raft-snapshot", "chunk", zeros(32)),
        ("feed-entry", "write-listed", feed_entry()),
        ("feed-entry", "close", vec![2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 7]),
        ("remote-batch", "two-rows-listed", remote_batch()),
        (
            "tablet-state",
            "quarantine",
            vec![1, 5, 0, 0, 0, 0, 0, 0, 0, 3, b's', b'u', b'm', 2, 2, b'x', b'y'],
        ),
        (
            "tablet-state",
            "token",
            vec![1, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 2, 2, b'o', b'k'],
        ),
        ("catalog-command", "register-node", command.to_vec()),
        (
            "catalog-state",
            "series",
            include_bytes!("../../../server/catalog/src/codec/state_golden.json").to_vec(),
        ),
    ];
    examples.extend(commands());
    examples.extend(series_records());
    examples.extend(log_records());
    examples
}
