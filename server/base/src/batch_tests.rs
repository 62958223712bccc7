//! Tests of the packed batch: the golden example, the limits at n-1, n and n+1, hostile bytes.

use super::*;
use proptest::prelude::*;

const F: FamilyId = FamilyId(0x8000_0001);

fn one_put(row: &[u8], qualifier: &[u8], version: i64, value: &[u8]) -> Result<PackedBatch> {
    let mut b = BatchBuilder::new();
    b.begin_row(row)?;
    b.put(F, qualifier, version, value)?;
    b.end_row()?;
    Ok(b.finish().unwrap())
}

#[test]
fn golden() {
    let mut b = BatchBuilder::new();
    b.begin_row(b"dev1").unwrap();
    b.put(F, b"t", 5, b"21.5").unwrap();
    b.put(F, b"h", 5, b"40").unwrap();
    b.delete(
        Scope::Column {
            family: F,
            qualifier: b"u",
        },
        VersionRange::one(7),
    )
    .unwrap();
    b.end_row().unwrap();
    b.push_range_delete(
        &RowRange {
            start: "x".into(),
            end: Some("y".into()),
        },
        VersionRange { from: 0, to: 1 },
    )
    .unwrap();
    let batch = b.finish().unwrap();
    #[rustfmt::skip]
    let expected: &[u8] = &[
        b'T', 2, 0, 2, 1, 1, 0, 0, 0x80, 2, 0, 1, b't', 0, 1, b'h',
        0, 4, b'd', b'e', b'v', b'1', 3, 39, 0, 0, 0,
        5, 0, 5, 0, 0, 0, 0, 0, 0, 0, 4, b'2', b'1', b'.', b'5',
        0x81, 2, b'4', b'0',
        2, 0, 1, b'u', 7, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0,
        1, 1, b'x', 1, 1, b'y', 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(&batch.bytes()[..batch.bytes().len() - 4], expected);
    let sum = crc32c::crc32c(expected).to_le_bytes();
    assert_eq!(&batch.bytes()[expected.len()..], sum);
    assert_eq!(PackedBatch::parse(batch.bytes().clone()).unwrap(), batch);
}

/// The example of format 1 is read as ever, and a part of it is written anew.
#[test]
fn batches_without_a_list_of_columns_are_read() {
    #[rustfmt::skip]
    let content = vec![
        b'T', 1, 0, 2, 1, 1, 0, 0, 0x80,
        0, 4, b'd', b'e', b'v', b'1', 2, 37, 0, 0, 0,
        1, 0, 1, b't', 5, 0, 0, 0, 0, 0, 0, 0, 4, b'2', b'1', b'.', b'5',
        2, 0, 1, b'u', 7, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0,
        1, 1, b'x', 1, 1, b'y', 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
    ];
    let batch = PackedBatch::parse(with_sum(content.clone())).unwrap();
    let first = |batch: &PackedBatch| match batch.rows().next().unwrap() {
        RowRef::Mutation { row, mutations } => (row.to_vec(), format!("{:?}", mutations.collect::<Vec<_>>())),
        RowRef::RangeDelete { .. } => panic!("the first row is a mutation"),
    };
    let part = batch.subset(|row| row == 0).unwrap();
    assert!(part.bytes().starts_with(&MAGIC));
    assert_eq!(first(&part), first(&batch));
    assert_eq!(PackedBatch::parse(part.bytes().clone()).unwrap(), part);
    let mut newer = content;
    newer[1] = 3;
    assert_eq!(
        PackedBatch::parse(with_sum(newer)).unwrap_err().reason(),
        "BATCH_MALFORMED"
    );
}

/// Row, qualifier, version, value.
type Cell = (Vec<u8>, Vec<u8>, i64, Vec<u8>);

fn puts_of(batch: &PackedBatch) -> Vec<Cell> {
    let mut out = Vec::new();
    for row in batch.rows() {
        let RowRef::Mutation { row, mutations } = row else {
            continue;
        };
        for mutation in mutations {
            if let MutationRef::Put {
                qualifier,
                version,
                value,
                ..
            } = mutation
            {
                out.push((row.to_vec(), qualifier.to_vec(), version, value.to_vec()));
            }
        }
    }
    out
}

/// Ticks of the same metrics: a cell costs its value, a length and a byte; the tick its version once.
#[test]
fn a_tick_names_its_version_and_its_columns_once() {
    let build = |ticks: u64| {
        let mut b = BatchBuilder::new();
        for tick in 0..ticks {
            b.begin_row(&tick.to_be_bytes()).unwrap();
            for metric in 0..10u8 {
                let qualifier = [b"metric-".as_slice(), &[b'0' + metric]].concat();
                b.put(F, &qualifier, 1_000 + tick as i64, &[metric; 8]).unwrap();
            }
            b.end_row().unwrap();
        }
        b.finish().unwrap().bytes().len()
    };
    let row_head = 1 + 9 + 1 + 4;
    assert_eq!(build(101) - build(100), row_head + 10 * (1 + 1 + 8) + 1 + 8);
}

/// Columns that never come again fill the list and are then written as they are.
#[test]
fn more_columns_than_the_list_holds_come_back_whole() {
    let mut b = BatchBuilder::new();
    let mut put = Vec::new();
    for n in 0..2_000u32 {
        let row = [b"r".as_slice(), &n.to_be_bytes()].concat();
        b.begin_row(&row).unwrap();
        // New ones, one that is always the same, and one that is too long for the list.
        for qualifier in [n.to_be_bytes().to_vec(), b"same".to_vec(), vec![b'l'; 65]] {
            let version = i64::from(n % 3);
            b.put(F, &qualifier, version, b"v").unwrap();
            put.push((row.clone(), qualifier, version, b"v".to_vec()));
        }
        b.end_row().unwrap();
    }
    assert!(b.bytes_len() >= b.columns.encoded.len() && b.columns.listed.len() == COLUMNS_MAX);
    let bound = b.bytes_len();
    let batch = b.finish().unwrap();
    assert!(batch.bytes().len() <= bound);
    let parsed = PackedBatch::parse(batch.bytes().clone()).unwrap();
    assert_eq!(puts_of(&parsed), put);
    let part = parsed.subset(|row| row == 700).unwrap();
    assert_eq!(
        puts_of(&PackedBatch::parse(part.bytes().clone()).unwrap()),
        put[2_100..2_103]
    );
}

#[test]
fn numbers_that_name_nothing_are_refused() {
    let content = |columns: &[u8], body: &[u8]| {
        let mut out = vec![b'T', 2, 0, 1, 1, 1, 0, 0, 0x80];
        out.extend_from_slice(columns);
        out.extend_from_slice(&[0, 1, b'r', 1, body.len() as u8, 0, 0, 0]);
        out.extend_from_slice(body);
        with_sum(out)
    };
    let put = |op: &[u8]| [op, &[5, 0, 0, 0, 0, 0, 0, 0, 1, b'v']].concat();
    let one = &[1, 0, 1, b'q'];
    assert!(PackedBatch::parse(content(one, &put(&[OP_PUT_LISTED, 0]))).is_ok());
    for (columns, body) in [
        (&one[..], put(&[OP_PUT_LISTED, 1])),
        (&[0], put(&[OP_PUT_LISTED, 0])),
        // No put before it has a version.
        (one, vec![OP_PUT_SAME_VERSION, 1, b'v']),
        // A family that is not there; more columns than there may be, or than there are.
        (&[1, 1, 1, b'q'], put(&[OP_PUT_LISTED, 0])),
        (&[129, 1], put(&[OP_PUT_LISTED, 0])),
        (&[100, 0, 1, b'q'], put(&[OP_PUT_LISTED, 0])),
        // A listed qualifier that is longer than any builder's.
        (&[&[1, 0, 65][..], &[b'q'; 65]].concat(), put(&[OP_PUT_LISTED, 0])),
    ] {
        let error = PackedBatch::parse(content(columns, &body)).unwrap_err();
        assert_eq!(error.reason(), "BATCH_MALFORMED", "{columns:?} {body:?}");
    }
}

/// A put of two bytes stands for a cell with its row and column: what all of them take is bounded, for builder and parser.
#[test]
fn a_batch_that_would_burst_when_it_is_applied_is_refused() {
    let row = vec![b'r'; limits::ROW_BYTES_MAX];
    let puts = 1_024;
    let cell = limits::ROW_BYTES_MAX + 2 + 16;
    let fit = limits::BATCH_EXPANDED_BYTES_MAX / (cell * puts);
    let mut b = BatchBuilder::new();
    let add = |b: &mut BatchBuilder| {
        b.begin_row(&row).unwrap();
        for n in 0..puts {
            b.put(F, &((n % 128) as u16).to_be_bytes(), (n / 128) as i64, b"")
                .unwrap();
        }
        b.end_row()
    };
    for _ in 0..fit {
        add(&mut b).unwrap();
    }
    assert_eq!(add(&mut b).unwrap_err().reason(), "BATCH_TOO_LARGE");
    let batch = b.finish().unwrap();
    assert!(
        batch.bytes().len() < 2 << 20,
        "{} bytes for half a GiB",
        batch.bytes().len()
    );
    assert!(PackedBatch::parse(batch.bytes().clone()).is_ok());
    // The same, and one row more by hand.
    let body = &batch.bytes()[batch.body..batch.bytes().len() - 4];
    let one = &body[..body.len() / fit];
    let names = &batch.bytes()[batch.names_at..batch.body];
    let shape = batch.shape;
    let larger = assemble(names, fit + 1, false, shape, &[body, one].concat());
    assert_eq!(
        PackedBatch::parse(larger.bytes().clone()).unwrap_err().reason(),
        "BATCH_TOO_LARGE"
    );
}

#[test]
fn parsing_sees_what_all_rows_share() {
    let parsed = |build: &dyn Fn(&mut BatchBuilder)| {
        let mut b = BatchBuilder::new();
        b.begin_row(b"r").unwrap();
        build(&mut b);
        b.end_row().unwrap();
        b.begin_row(b"a").unwrap();
        b.put(F, b"q", 3, b"v").unwrap();
        b.end_row().unwrap();
        PackedBatch::parse(b.finish().unwrap().bytes().clone()).unwrap()
    };
    let put = |b: &mut BatchBuilder, qualifier: &[u8], version| b.put(F, qualifier, version, b"v").unwrap();
    let rising = parsed(&|b| {
        [(b"a", 9), (b"b", 2), (b"b", 4)]
            .iter()
            .for_each(|(q, v)| put(b, *q, *v))
    });
    assert_eq!((rising.is_ascending_puts(), rising.version_max()), (true, 9));
    let twice = parsed(&|b| [(b"a", 2), (b"a", 2)].iter().for_each(|(q, v)| put(b, *q, *v)));
    assert!(!twice.is_ascending_puts(), "one coordinate twice");
    let falling = parsed(&|b| [(b"b", 2), (b"a", 12)].iter().for_each(|(q, v)| put(b, *q, *v)));
    assert_eq!((falling.is_ascending_puts(), falling.version_max()), (false, 12));
    let deletes = parsed(&|b| b.delete(Scope::Row, VersionRange::ALL).unwrap());
    assert_eq!((deletes.is_ascending_puts(), deletes.version_max()), (false, 3));
    // A part of a batch is claimed no better than the whole, and what was only built not at all.
    assert!(rising.subset(|row| row == 1).unwrap().version_max() >= 3);
    let built = one_put(b"r", b"q", 5, b"v").unwrap();
    assert!(!built.is_ascending_puts() && built.version_max() >= 5);
}

#[test]
fn limits_at_their_edges() {
    let long = |n: usize| vec![b'k'; n];
    for (len, good) in [
        (limits::ROW_BYTES_MAX - 1, true),
        (limits::ROW_BYTES_MAX, true),
        (limits::ROW_BYTES_MAX + 1, false),
    ] {
        assert_eq!(one_put(&long(len), b"q", 1, b"").is_ok(), good, "row of {len}");
    }
    let max = limits::QUALIFIER_BYTES_MAX;
    for (len, good) in [(max - 1, true), (max, true), (max + 1, false)] {
        assert_eq!(one_put(b"r", &long(len), 1, b"").is_ok(), good, "qualifier of {len}");
    }
    let max = limits::VALUE_BYTES_MAX;
    for (len, good) in [(max - 1, true), (max, true), (max + 1, false)] {
        assert_eq!(one_put(b"r", b"q", 1, &long(len)).is_ok(), good, "value of {len}");
    }
    assert_eq!(one_put(b"", b"q", 1, b"").unwrap_err().reason(), "ROW_EMPTY");
    assert_eq!(one_put(b"r", b"q", -2, b"").unwrap_err().reason(), "VERSION_INVALID");
}

#[test]
fn a_row_mutation_at_its_bound() {
    // head: kind 1 + key slice 2 + mutations 1 + length 4 = 8; the puts: op, column, version, value length; op, value length.
    let with_second_value = |len: usize| {
        let mut b = BatchBuilder::new();
        b.begin_row(b"r").unwrap();
        b.put(F, b"a", 1, &vec![0; limits::VALUE_BYTES_MAX]).unwrap();
        b.put(F, b"b", 1, &vec![0; len]).unwrap();
        b.end_row().map(|()| b.finish().unwrap())
    };
    let overhead = 8 + (1 + 1 + 8 + 4) + (1 + 4);
    let fits = limits::ROW_MUTATION_BYTES_MAX - limits::VALUE_BYTES_MAX - overhead;
    assert!(with_second_value(fits - 1).is_ok());
    let batch = with_second_value(fits).unwrap();
    assert!(PackedBatch::parse(batch.bytes().clone()).is_ok());
    assert_eq!(with_second_value(fits + 1).unwrap_err().reason(), "ROW_TOO_LARGE");
}

#[test]
fn too_many_rows() {
    let mut b = BatchBuilder::new();
    for n in 0..limits::BATCH_ROWS_MAX {
        b.begin_row(&n.to_be_bytes()).unwrap();
        b.put(F, b"", 1, b"").unwrap();
        b.end_row().unwrap();
    }
    assert_eq!(b.begin_row(b"one more").unwrap_err().reason(), "BATCH_TOO_LARGE");
    let batch = b.finish().unwrap();
    assert_eq!(
        PackedBatch::parse(batch.bytes().clone()).unwrap().rows_len(),
        limits::BATCH_ROWS_MAX
    );
}

#[test]
fn a_refused_row_leaves_the_batch_as_it_was() {
    let mut b = BatchBuilder::new();
    b.begin_row(b"a").unwrap();
    b.put(F, b"q", 1, b"v").unwrap();
    b.end_row().unwrap();
    b.begin_row(b"b").unwrap();
    assert!(b.end_row().is_err());
    let batch = b.finish().unwrap();
    assert_eq!(
        batch.rows().map(|r| r.key().to_vec()).collect::<Vec<_>>(),
        vec![b"a".to_vec()]
    );
}

#[test]
fn subsets_keep_bytes_and_flags() {
    let mut b = BatchBuilder::new();
    for (row, version) in [(&b"a"[..], 1), (b"b", SERVER_VERSION), (b"c", 3)] {
        b.begin_row(row).unwrap();
        b.put(F, b"q", version, b"v").unwrap();
        b.end_row().unwrap();
    }
    let batch = b.finish().unwrap();
    assert!(batch.has_server_versions());
    let some = batch.subset(|i| i != 1).unwrap();
    assert!(!some.has_server_versions());
    let again = PackedBatch::parse(some.bytes().clone()).unwrap();
    assert_eq!(
        again.rows().map(|r| r.key().to_vec()).collect::<Vec<_>>(),
        vec![b"a".to_vec(), b"c".to_vec()]
    );
    assert!(batch.subset(|_| false).is_none());
}

#[test]
fn a_flipped_bit_is_found() {
    let batch = one_put(b"row", b"q", 1, b"value").unwrap();
    for bit in 0..batch.bytes().len() * 8 {
        let mut bytes = batch.bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(PackedBatch::parse(bytes.into()).is_err(), "bit {bit}");
    }
}

fn with_sum(mut content: Vec<u8>) -> Bytes {
    let sum = crc32c::crc32c(&content).to_le_bytes();
    content.extend_from_slice(&sum);
    content.into()
}

proptest! {
    #[test]
    fn arbitrary_bytes_with_a_right_checksum_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut content = MAGIC.to_vec();
        content.extend_from_slice(&tail);
        if let Ok(batch) = PackedBatch::parse(with_sum(content)) {
            for row in batch.rows() {
                if let RowRef::Mutation { mutations, .. } = row { mutations.for_each(drop) }
            }
        }
    }

    #[test]
    fn mutated_good_bytes_never_panic(at in 0usize..60, byte in any::<u8>()) {
        let batch = one_put(b"row", b"qualifier", 1, b"some value that is longer").unwrap();
        let mut content = batch.bytes()[..batch.bytes().len() - 4].to_vec();
        let at = at % content.len();
        content[at] = byte;
        let _ = PackedBatch::parse(with_sum(content));
    }
}
