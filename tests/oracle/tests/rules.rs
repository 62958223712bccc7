//! Layer 1: the pure rules of the product's lowest layer against the oracle, and what the oracle itself must satisfy.
//! The engine is held to the oracle in its own tests (server/engine/tests/conformance).

#![allow(clippy::unwrap_used)] // Everything here is a test.

use bytes::Bytes;
use proptest::prelude::*;
use std::time::Duration;
use tidemark_base::batch::SERVER_VERSION;
use tidemark_base::codec::Reader;
use tidemark_base::fact::{Fact, OwnedScope};
use tidemark_base::normalize::normalize;
use tidemark_base::read::{CompareOp, QualifierFilter, ReadFilter, ValueFilter};
use tidemark_base::schema::{Compression, Eras, NO_LIMIT, PastLimit, VersionRank};
use tidemark_base::{
    BatchBuilder, CellRef, FamilyId, FamilySettings, MutationRef, PackedBatch, ReadSpec, RegionId, RowRange, RowRef,
    Stamp, TableSchema, TombstoneRef, VersionRange,
};
use tidemark_oracle::{Oracle, facts_of};
use tidemark_runtime::{HlcClock, ManualClock};

const NOW: i64 = 1_000;

fn family(n: u32) -> FamilyId {
    FamilyId(0x8000_0000 | n)
}

fn stamp(hlc: u64, region: u16) -> Stamp {
    Stamp {
        epoch: 0,
        hlc,
        region: RegionId(region),
    }
}

fn schema(families: Vec<FamilySettings>) -> TableSchema {
    TableSchema {
        families,
        ..TableSchema::new(RegionId(1))
    }
}

fn unlimited(n: u32) -> FamilySettings {
    FamilySettings {
        id: family(n),
        ..FamilySettings::new("m", n)
    }
}

fn plain_schema() -> TableSchema {
    schema(vec![unlimited(1), unlimited(2)])
}

/// Short byte strings over an alphabet that has the ends of everything.
fn any_key() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(b'a'), Just(0xff)], 0..3).prop_map(Bytes::from)
}

fn any_versions() -> impl Strategy<Value = VersionRange> {
    let some = (0i64..6, 0i64..6).prop_map(|(a, b)| VersionRange {
        from: a.min(b),
        to: a.max(b),
    });
    prop_oneof![2 => Just(VersionRange::ALL), 1 => some]
}

fn any_scope() -> impl Strategy<Value = OwnedScope> {
    prop_oneof![
        3 => (1u32..3, any_key()).prop_map(|(f, qualifier)| OwnedScope::Column { family: family(f), qualifier }),
        2 => (1u32..3).prop_map(|f| OwnedScope::Family { family: family(f) }),
        1 => Just(OwnedScope::Row),
        1 => proptest::option::of(any_key()).prop_map(|end| OwnedScope::RowRange { end }),
    ]
}

/// A value follows from its coordinate and stamp, as R5 demands.
fn any_cell() -> impl Strategy<Value = Fact> {
    let parts = (any_key(), 1u32..3, any_key(), 0i64..6, 0u64..20, 1u16..3);
    parts.prop_map(|(row, f, qualifier, version, hlc, region)| Fact::Cell {
        row,
        family: family(f),
        qualifier,
        version,
        stamp: stamp(hlc, region),
        value: Bytes::from(format!("{hlc}@{region}")),
    })
}

fn any_tombstone() -> impl Strategy<Value = Fact> {
    let parts = (any_key(), any_scope(), any_versions(), 0u64..20, 1u16..3);
    parts.prop_map(|(row, scope, versions, hlc, region)| Fact::Tombstone {
        row,
        scope,
        versions,
        stamp: stamp(hlc, region),
    })
}

fn any_fact() -> impl Strategy<Value = Fact> {
    prop_oneof![4 => any_cell(), 1 => any_tombstone()]
}

fn oracle_of(facts: &[Fact]) -> Oracle {
    let mut oracle = Oracle::new();
    facts.iter().for_each(|fact| oracle.add(fact.clone()));
    oracle
}

/// A mutation with its own bytes.
#[derive(Clone, Debug)]
enum Mutation {
    Put(u32, Bytes, i64, Bytes),
    Delete(OwnedScope, VersionRange),
}

fn any_mutation() -> impl Strategy<Value = Mutation> {
    let version = prop_oneof![6 => 0i64..4, 1 => Just(SERVER_VERSION)];
    let row_scope = any_scope().prop_map(|scope| match scope {
        OwnedScope::RowRange { .. } => OwnedScope::Row,
        scope => scope,
    });
    prop_oneof![
        3 => (1u32..3, any_key(), version, any_key()).prop_map(|(f, q, v, value)| Mutation::Put(f, q, v, value)),
        1 => (row_scope, any_versions()).prop_map(|(scope, versions)| Mutation::Delete(scope, versions)),
    ]
}

type Row = Result<(Bytes, Vec<Mutation>), (Bytes, Bytes, VersionRange)>;

/// Row mutations, and range deletes between them.
fn any_rows() -> impl Strategy<Value = Vec<Row>> {
    let key = any_key().prop_filter("an empty row key is refused", |key| !key.is_empty());
    let row = (key, proptest::collection::vec(any_mutation(), 1..8)).prop_map(Ok);
    let range = (any_key(), any_key(), any_versions())
        .prop_filter("an empty range is refused", |(start, end, _)| start < end)
        .prop_map(Err);
    proptest::collection::vec(prop_oneof![5 => row, 1 => range], 1..5)
}

/// With server versions as they are, or set to a time.
fn build(rows: &[Row], server_version: i64) -> PackedBatch {
    let mut batch = BatchBuilder::new();
    for row in rows {
        match row {
            Ok((key, mutations)) => {
                batch.begin_row(key).unwrap();
                for mutation in mutations {
                    match mutation {
                        Mutation::Put(f, q, version, value) => {
                            let version = if *version == SERVER_VERSION {
                                server_version
                            } else {
                                *version
                            };
                            batch.put(family(*f), q, version, value).unwrap();
                        }
                        Mutation::Delete(scope, versions) => batch.delete(scope.borrow(), *versions).unwrap(),
                    }
                }
                batch.end_row().unwrap();
            }
            Err((start, end, versions)) => {
                let (start, end) = (start.clone(), Some(end.clone()));
                batch.push_range_delete(&RowRange { start, end }, *versions).unwrap();
            }
        }
    }
    batch.finish().unwrap()
}

fn sorted_facts(batch: &PackedBatch) -> Vec<Fact> {
    let mut facts = facts_of(batch, stamp(7, 1));
    facts.sort();
    facts
}

fn texts(batch: &PackedBatch) -> Vec<String> {
    let rows = batch.rows().map(|row| match row {
        RowRef::Mutation { row, mutations } => format!("{row:?} {:?}", mutations.collect::<Vec<MutationRef<'_>>>()),
        range => format!("{range:?}"),
    });
    rows.collect()
}

/// Limits that came, went, rose and fell while stamps rose.
fn any_family_settings() -> impl Strategy<Value = FamilySettings> {
    let limit = || proptest::option::of(1u32..5);
    let changes = proptest::collection::vec((limit(), 0u64..20), 0..6);
    (proptest::option::of(0i64..2_000), changes, limit()).prop_map(|(ttl, changes, last)| {
        let mut settings = unlimited(1);
        let mut until = 0;
        for (max, later) in changes {
            until += later;
            settings.set_max_versions(max, until);
        }
        settings.set_max_versions(last, until + 5);
        settings.set_ttl(ttl, NOW);
        settings
    })
}

fn any_filter() -> impl Strategy<Value = ReadFilter> {
    let qualifier = prop_oneof![
        Just(QualifierFilter::Any),
        proptest::collection::vec(any_key(), 0..3).prop_map(QualifierFilter::Exact),
        any_key().prop_map(QualifierFilter::Prefix),
        (any_key(), proptest::option::of(any_key())).prop_map(|(start, end)| QualifierFilter::Range { start, end }),
        Just(QualifierFilter::Regex("a.*".to_owned())),
    ];
    let value = prop_oneof![
        Just(ValueFilter::Any),
        any_key().prop_map(|operand| ValueFilter::Compare(CompareOp::LessOrEqual, operand)),
        Just(ValueFilter::Regex("[ab]".to_owned())),
    ];
    let some = || proptest::option::of(any::<u32>());
    let families = proptest::option::of(proptest::collection::vec((1u32..4).prop_map(family), 0..3));
    let parts = (
        families,
        qualifier,
        any_versions(),
        value,
        some(),
        some(),
        some(),
        any::<bool>(),
    );
    parts.prop_map(
        |(families, qualifier, versions, value, latest, sample, cells_per_row, strip_values)| ReadFilter {
            families,
            qualifier,
            versions,
            latest,
            value,
            row_regex: latest.map(|n| format!("r{n}")),
            row_sample_per_million: sample,
            cells_per_row,
            strip_values,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// O1: whatever the order, the grouping and the repeats, a union is a union.
    #[test]
    fn merge_is_associative_commutative_and_idempotent(
        a in proptest::collection::vec(any_fact(), 0..12),
        b in proptest::collection::vec(any_fact(), 0..12),
        c in proptest::collection::vec(any_fact(), 0..12),
    ) {
        let merged = |parts: &[&[Fact]]| {
            let mut all = Oracle::new();
            parts.iter().for_each(|part| all.merge(&oracle_of(part)));
            (all.facts(), all.visible(&plain_schema(), NOW))
        };
        let one = merged(&[&a, &b, &c]);
        prop_assert_eq!(&one, &merged(&[&c, &a, &b]));
        prop_assert_eq!(&one, &merged(&[&b, &a, &c, &a, &b]));
        let mut right = oracle_of(&b);
        right.merge(&oracle_of(&c));
        let mut left = oracle_of(&a);
        left.merge(&right);
        prop_assert_eq!(one.0, left.facts());
    }

    /// R4, R9: base's judgement of one cell and one tombstone is the oracle's, for every scope.
    #[test]
    fn one_tombstone_kills_what_the_rules_say(cell in any_cell(), tombstone in any_tombstone()) {
        let visible = !oracle_of(&[cell.clone(), tombstone.clone()]).visible(&plain_schema(), NOW).is_empty();
        let shown = oracle_of(&[cell]).alive();
        if let Fact::Tombstone { row, scope, versions, stamp } = &tombstone {
            let tombstone = TombstoneRef { row, scope: scope.borrow(), versions: *versions, stamp: *stamp };
            prop_assert_eq!(visible, !tombstone.kills(&shown[0].borrow()));
        }
    }

    /// R3, R4: at a coordinate the greatest stamp wins, and what is visible is alive by every tombstone there is; what is
    /// not is beaten or dead.
    #[test]
    fn what_is_visible_wins_its_coordinate_and_is_alive(facts in proptest::collection::vec(any_fact(), 0..40)) {
        let oracle = oracle_of(&facts);
        prop_assert_eq!(oracle.corruption(), None);
        let visible = oracle.visible(&plain_schema(), NOW);
        prop_assert_eq!(&visible, &oracle.alive());
        let tombstones = || facts.iter().filter_map(|fact| match fact {
            Fact::Tombstone { row, scope, versions, stamp } => {
                Some(TombstoneRef { row, scope: scope.borrow(), versions: *versions, stamp: *stamp })
            }
            Fact::Cell { .. } => None,
        });
        let cells: Vec<CellRef<'_>> = facts.iter().filter_map(|fact| match fact {
            Fact::Cell { row, family, qualifier, version, stamp, value } => {
                Some(CellRef { row, family: *family, qualifier, version: *version, stamp: *stamp, value })
            }
            Fact::Tombstone { .. } => None,
        }).collect();
        let at = |cell: &CellRef<'_>| (cell.row.to_vec(), cell.family, cell.qualifier.to_vec(), -cell.version);
        for cell in &cells {
            let beaten = cells.iter().any(|other| at(other) == at(cell) && other.stamp > cell.stamp);
            let dead = tombstones().any(|tombstone| tombstone.kills(cell));
            let shown = visible.iter().any(|shown| shown.borrow() == *cell);
            prop_assert_eq!(shown, !beaten && !dead, "{:?}", cell);
        }
        prop_assert!(visible.windows(2).all(|pair| at(&pair[0].borrow()) < at(&pair[1].borrow())), "in order, each once");
    }

    /// R5: normalising a batch leaves exactly the facts that its mutations leave when they are applied in order.
    #[test]
    fn normal_form_is_the_mutations_in_their_order(rows in any_rows()) {
        let (batch, assigned) = (build(&rows, SERVER_VERSION), build(&rows, NOW));
        let normal = normalize(&batch, NOW).unwrap();
        prop_assert!(!normal.has_server_versions());
        let facts = sorted_facts(&normal);
        prop_assert_eq!(&facts, &sorted_facts(&assigned));
        prop_assert_eq!(oracle_of(&facts).corruption(), None);
        prop_assert_eq!(&normalize(&normal, NOW + 1).unwrap(), &normal, "normal form is normal");
        // Nothing is left that the oracle would have to take away.
        let count = |row: RowRef<'_>| if let RowRef::Mutation { mutations, .. } = row { mutations.count() } else { 1 };
        prop_assert_eq!(normal.rows().map(count).sum::<usize>(), facts.len());
    }

    /// The batch's bytes hold what was put into it, and a subset of its rows keeps theirs.
    #[test]
    fn a_packed_batch_comes_back(rows in any_rows(), keep in any::<u8>()) {
        let batch = build(&rows, SERVER_VERSION);
        let parsed = PackedBatch::parse(batch.bytes().clone()).unwrap();
        prop_assert_eq!((parsed.rows_len(), texts(&parsed)), (rows.len(), texts(&batch)));
        let kept = |row: usize| keep >> (row % 8) & 1 == 1;
        let mut expected = texts(&batch);
        let mut row = 0;
        expected.retain(|_| {
            row += 1;
            kept(row - 1)
        });
        prop_assert_eq!(batch.subset(kept).map_or(Vec::new(), |subset| texts(&subset)), expected);
    }

    /// R10, R11 with limits that were raised and lowered: the rank that engines use is the definition's.
    #[test]
    fn version_limits_are_those_of_the_definition(
        settings in any_family_settings(),
        facts in proptest::collection::vec((0i64..8, 0u64..60), 0..14),
    ) {
        let cell = |(version, hlc): &(i64, u64)| Fact::Cell {
            row: Bytes::from_static(b"r"),
            family: family(1),
            qualifier: Bytes::new(),
            version: *version,
            stamp: stamp(*hlc, 1),
            value: Bytes::from(hlc.to_string()),
        };
        let cells: Vec<Fact> = facts.iter().map(cell).collect();
        let visible = oracle_of(&cells).visible(&schema(vec![settings.clone()]), NOW);
        let shown: Vec<i64> = visible.into_iter().map(|cell| cell.version).collect();
        let mut rank = VersionRank::new();
        let mut expected = Vec::new();
        for version in (0..8).rev() {
            let mut eras = Eras::default();
            let here: Vec<_> = facts.iter().filter(|(v, _)| *v == version).collect();
            here.iter().for_each(|(_, hlc)| eras.insert(settings.era(stamp(*hlc, 1))));
            if !here.is_empty() && !rank.count(&settings, eras) && !settings.expired(version, NOW) {
                expected.push(version);
            }
        }
        prop_assert_eq!(shown, expected, "{:?} now {:?}", settings.past_limits, settings.max_versions);
    }

    /// R10 without overflow, at the ends of time too.
    #[test]
    fn expiry_is_version_plus_ttl(version in any::<i64>(), ttl in 0i64.., now in any::<i64>(), floor in any::<i64>()) {
        let settings = FamilySettings { ttl_micros: Some(ttl), expiry_floor: floor, ..unlimited(1) };
        let cell = Fact::Cell {
            row: Bytes::new(),
            family: family(1),
            qualifier: Bytes::new(),
            version,
            stamp: stamp(1, 1),
            value: Bytes::new(),
        };
        let visible = !oracle_of(&[cell]).visible(&schema(vec![settings.clone()]), now).is_empty();
        prop_assert_eq!(visible, !settings.expired(version, now));
    }

    /// A normalised read asks for the same rows.
    #[test]
    fn joined_ranges_hold_the_same_rows(
        ranges in proptest::collection::vec((any_key(), proptest::option::of(any_key())), 0..6),
        rows in proptest::collection::vec(any_key(), 0..20),
    ) {
        let ranges: Vec<RowRange> = ranges.into_iter().map(|(start, end)| RowRange { start, end }).collect();
        let mut spec = ReadSpec { ranges: ranges.clone(), ..ReadSpec::default() };
        spec.normalize().unwrap();
        let wanted = |ranges: &[RowRange], row: &Bytes| {
            let inside = |range: &RowRange| range.start <= *row && range.end.as_ref().is_none_or(|end| row < end);
            ranges.is_empty() || ranges.iter().any(inside)
        };
        for row in &rows {
            prop_assert_eq!(wanted(&ranges, row), wanted(&spec.ranges, row), "{:?}", row);
        }
        for pair in spec.ranges.windows(2) {
            prop_assert!(pair[0].end.as_ref().is_some_and(|end| *end < pair[1].start), "sorted and apart");
        }
    }

    /// Filters come back as they were, and a comparison means what its sign says.
    #[test]
    fn filters_come_back(filter in any_filter(), value in any_key(), operand in any_key()) {
        let mut bytes = Vec::new();
        filter.encode(&mut bytes);
        let mut reader = Reader::new(&bytes);
        prop_assert_eq!(ReadFilter::decode(&mut reader), Ok(filter));
        prop_assert!(reader.is_empty());
        let signs = [
            (CompareOp::Equal, value == operand),
            (CompareOp::NotEqual, value != operand),
            (CompareOp::Less, value < operand),
            (CompareOp::LessOrEqual, value <= operand),
            (CompareOp::Greater, value > operand),
            (CompareOp::GreaterOrEqual, value >= operand),
        ];
        for (op, holds) in signs {
            prop_assert_eq!(op.holds(&value, &operand), holds);
        }
    }

    #[test]
    fn schemas_come_back(
        settings in proptest::collection::vec(any_family_settings(), 0..4),
        peers in proptest::collection::vec(any::<u16>(), 0..4),
    ) {
        let mut schema = schema(settings);
        schema.peers = peers.into_iter().map(RegionId).collect();
        for (at, family) in schema.families.iter_mut().enumerate() {
            family.compression = [Compression::None, Compression::Lz4, Compression::Zstd][at % 3];
            family.past_limits.truncate(FamilySettings::PAST_LIMITS_MAX - 1);
            family.past_limits.push(PastLimit { until: u64::MAX, max_versions: NO_LIMIT });
        }
        prop_assert_eq!(TableSchema::decode(&schema.encode()), Ok(schema));
    }

    /// R7, R8, O4: whatever the wall clock does, values rise strictly, above all that was observed, and never lag it.
    #[test]
    fn a_hybrid_clock_rises(steps in proptest::collection::vec((0u8..5, 0u64..5_000_000, 1u32..70_000), 1..60)) {
        let start = 1_700_000_000_000_000i64;
        let clock = ManualClock::new(start);
        let mut hlc = HlcClock::new(clock.shared(), 0);
        // The definition: above the last, and at the wall clock if that is more.
        let (mut wall, mut last) = (start, 0u64);
        let ms = |wall: i64| wall as u64 / 1_000;
        for (kind, n, count) in steps {
            match kind {
                0 => {
                    wall += n as i64;
                    clock.advance(Duration::from_micros(n));
                }
                1 => {
                    wall -= 3_600_000_000;
                    clock.set_back(Duration::from_secs(3_600));
                }
                2 => {
                    hlc.observe((ms(wall) << 16) + n);
                    last = last.max((ms(wall) << 16) + n);
                }
                3 => {
                    let far = (ms(wall) + 10_001 + n) << 16;
                    prop_assert!(hlc.observe_within(far, Duration::from_secs(10)).is_err(), "R8");
                }
                _ => {
                    let first = hlc.reserve(count);
                    prop_assert_eq!(first, (last + 1).max(ms(wall) << 16));
                    last = first + u64::from(count) - 1;
                }
            }
            prop_assert_eq!(hlc.last(), last);
        }
    }

    /// R2: stamps order by epoch, then time, then region, and so do their bytes.
    #[test]
    fn stamps_order_left_to_right(a in any::<(u32, u64, u16)>(), b in any::<(u32, u64, u16)>()) {
        let stamp = |(epoch, hlc, region)| Stamp { epoch, hlc, region: RegionId(region) };
        prop_assert_eq!(stamp(a).cmp(&stamp(b)), a.cmp(&b));
        prop_assert_eq!(stamp(a).encode().cmp(&stamp(b).encode()), a.cmp(&b));
        prop_assert_eq!(Stamp::decode(&stamp(a).encode()), stamp(a));
    }
}

#[test]
fn two_values_at_one_coordinate_and_stamp_are_corruption() {
    let cell = |value: &'static str| Fact::Cell {
        row: Bytes::new(),
        family: family(1),
        qualifier: Bytes::new(),
        version: 1,
        stamp: stamp(1, 1),
        value: value.into(),
    };
    assert_eq!(oracle_of(&[cell("a"), cell("a")]).corruption(), None);
    assert!(
        oracle_of(&[cell("a"), cell("b")]).corruption().is_some(),
        "R5: raise an alarm, never pick one"
    );
}
