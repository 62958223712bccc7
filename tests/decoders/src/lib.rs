//! # tidemark-decoders: whatever the bytes, a decoder returns
//!
//! Every decoder that reads bytes from outside (clients, peers, other nodes, disks), by name, in one list. Two things run
//! them:
//!
//! ```text
//! tests/corpus.rs     in `cargo test`: the committed corpus and thousands of mutations of it, in seconds
//! src/bin/fuzz.rs     libFuzzer, guided by coverage, for as long as one likes: `./x fuzz [TARGET] --seconds N`
//! corpus/<target>/    examples, old ones for ever; `good-*` must decode
//! ```
//! A target may panic only if a decoder is wrong: it panics itself, allocates without bound, or does not read back what it
//! wrote. Crates with private decoders list them in their `decoders` module.

use bytes::Bytes;
use tidemark_base::codec::Reader;
use tidemark_base::{PackedBatch, ReadFilter, TableSchema};
use tidemark_engine::key;
use tidemark_engine::series::{ByteOrder, DecodeScratch, Merger, for_each_segment};
use tidemark_replication::{ShipCodec, cut, run};

/// A decoder's name, and the function that says whether bytes are what it reads.
pub type Target = (&'static str, fn(&[u8]) -> bool);

const HERE: &[Target] = &[
    ("packed-batch", packed_batch),
    ("packed-cells", packed_cells),
    ("schema", schema),
    ("filter", filter),
    ("engine-key", engine_key),
    ("series-record", series_record),
    ("region-run", region_run),
];

/// All targets.
pub fn targets() -> Vec<Target> {
    let lists = [
        HERE,
        tidemark_consensus::decoders::DECODERS,
        tidemark_tablet::decoders::DECODERS,
        tidemark_catalog::decoders::DECODERS,
    ];
    lists.concat()
}

/// Runs a target by name.
///
/// # Panics
/// If there is no such target, and if the decoder is wrong.
pub fn run(name: &str, bytes: &[u8]) -> bool {
    let targets = targets();
    let (_, decode) = targets
        .iter()
        .find(|(target, _)| *target == name)
        .expect("a target of that name");
    decode(bytes)
}

/// The bytes with the checksum that they ought to have, so that what lies behind the checksum is reached, too.
fn with_sum(bytes: &[u8]) -> Bytes {
    let mut out = bytes.to_vec();
    out.extend_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
    out.into()
}

/// What is read can be walked, cut and read again.
fn packed_batch(bytes: &[u8]) -> bool {
    let content = &bytes[..bytes.len().saturating_sub(4)];
    let parsed = [Bytes::copy_from_slice(bytes), with_sum(bytes), with_sum(content)].map(PackedBatch::parse);
    for batch in parsed.iter().flatten() {
        assert_eq!(batch.rows().count(), batch.rows_len());
        for row in batch.rows() {
            if let tidemark_base::RowRef::Mutation { mutations, .. } = row {
                let promised = mutations.size_hint().0;
                assert_eq!(mutations.count(), promised, "a checked batch ends early");
            }
        }
        let odd = batch.subset(|row| row % 2 == 1);
        assert_eq!(odd.map_or(0, |odd| odd.rows_len()), batch.rows_len() / 2);
        let normal = tidemark_base::normalize::normalize(batch, 1);
        if let Ok(normal) = normal {
            assert!(!normal.has_server_versions());
            assert_eq!(PackedBatch::parse(normal.bytes().clone()).as_ref(), Ok(&normal));
        }
    }
    parsed[0].is_ok()
}

fn packed_cells(bytes: &[u8]) -> bool {
    let content = &bytes[..bytes.len().saturating_sub(4)];
    for bytes in [with_sum(bytes), with_sum(content)] {
        let _ = tidemark_base::cells::for_each_cell(&bytes, |cell| {
            std::hint::black_box(cell);
        });
    }
    tidemark_base::cells::for_each_cell(bytes, |_| {}).is_ok()
}

fn schema(bytes: &[u8]) -> bool {
    let Ok(schema) = TableSchema::decode(bytes) else {
        return false;
    };
    assert_eq!(TableSchema::decode(&schema.encode()), Ok(schema));
    true
}

fn filter(bytes: &[u8]) -> bool {
    let Ok(filter) = ReadFilter::decode(&mut Reader::new(bytes)) else {
        return false;
    };
    let mut again = Vec::new();
    filter.encode(&mut again);
    assert_eq!(ReadFilter::decode(&mut Reader::new(&again)), Ok(filter));
    true
}

fn engine_key(bytes: &[u8]) -> bool {
    let range = key::RangeTombstone::decode(bytes).is_ok();
    let Ok(row_end) = key::escaped_len(bytes) else {
        return range;
    };
    let mut row = Vec::new();
    key::unescape(&bytes[..row_end], &mut row);
    key::parse_tail(&bytes[row_end..]).is_ok() || range
}

/// A tick, a block, or several behind each other: what is read has one form, and comes to the same however it is read.
fn series_record(bytes: &[u8]) -> bool {
    let content = &bytes[..bytes.len().saturating_sub(4)];
    let mut merger = Merger::new();
    let mut read = false;
    for value in [Bytes::copy_from_slice(bytes), with_sum(bytes), with_sum(content)] {
        numbers_of_columns(&value);
        let Ok(facts) = merger.union([&value[..]]) else {
            continue;
        };
        read = true;
        if facts.is_empty() {
            continue;
        }
        let block = merger.encode(&facts);
        let again = merger.union([&block[..]]).expect("what was encoded is read");
        assert_eq!(again.len(), facts.len());
        assert_eq!(merger.encode(&again), block, "a set of facts has one block");
    }
    read
}

/// The ways around cells, which aggregates take.
fn numbers_of_columns(value: &[u8]) {
    let (mut scratch, mut floats, mut integers) = (DecodeScratch::default(), Vec::new(), Vec::new());
    let (mut versions, mut positions) = (Vec::new(), Vec::new());
    let _ = for_each_segment(value, |segment| {
        segment.versions(&mut versions)?;
        for column in segment.columns() {
            let counts = |read: bool, found: usize| assert!(!read || found == column.cells(), "a number for each cell");
            counts(column.floats(ByteOrder::Big, &mut floats, &mut scratch)?, floats.len());
            counts(column.texts(&mut floats, &mut scratch)?, floats.len());
            counts(
                column.integers(ByteOrder::Little, &mut integers, &mut scratch)?,
                integers.len(),
            );
            column.positions(&mut positions, &mut scratch)?;
            assert!(
                positions.iter().all(|at| (*at as usize) < versions.len()),
                "a tick for each cell"
            );
        }
        Ok(())
    });
}

/// A run of feed records as a peer sends it, compressed or not, and each record in it.
fn region_run(bytes: &[u8]) -> bool {
    let bytes = Bytes::copy_from_slice(bytes);
    let unpacked = run::decompress(ShipCodec::Zstd, &bytes, 1 << 16);
    let runs = [Some(bytes), unpacked.ok()]
        .into_iter()
        .flatten()
        .map(|run| run::decode_run(&run));
    let mut read = false;
    for records in runs.flatten() {
        read = true;
        let _ = cut::decode_records(records);
    }
    read
}
