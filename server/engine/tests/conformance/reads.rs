//! Every read against the oracle, on generated facts and generated specs.

use crate::world::{self, NOW, World, any_fact, family, read_engine, walk, write_engine};
use bytes::Bytes;
use proptest::prelude::*;
use tidemark_base::aggregate::{AggregateSpec, Aggregates, NumberForm};
use tidemark_base::fact::Fact;
use tidemark_base::read::{CompareOp, QualifierFilter, ReadFilter, ReadSpec, ValueFilter};
use tidemark_base::{RowRange, VersionRange};
use tidemark_engine::EngineError;
use tidemark_oracle::Oracle;

fn any_row() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just(""), Just("a"), Just("a\0"), Just("ab"), Just("b"), Just("c")]
}

fn any_qualifier() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just(""),
        Just("w"),
        Just("x"),
        Just("x\0"),
        Just("xx"),
        Just("y"),
        Just("z")
    ]
}

fn any_qualifier_filter() -> impl Strategy<Value = QualifierFilter> {
    prop_oneof![
        3 => Just(QualifierFilter::Any),
        2 => proptest::collection::vec(any_qualifier(), 0..4)
            .prop_map(|list| QualifierFilter::Exact(list.into_iter().map(Into::into).collect())),
        1 => any_qualifier().prop_map(|p| QualifierFilter::Prefix(p.into())),
        1 => (any_qualifier(), proptest::option::of(any_qualifier()))
            .prop_map(|(s, e)| QualifierFilter::Range { start: s.into(), end: e.map(Into::into) }),
        1 => Just(QualifierFilter::Regex("x.?|y".to_owned())),
    ]
}

fn any_value_filter() -> impl Strategy<Value = ValueFilter> {
    let op = prop_oneof![
        Just(CompareOp::Less),
        Just(CompareOp::GreaterOrEqual),
        Just(CompareOp::NotEqual)
    ];
    prop_oneof![
        3 => Just(ValueFilter::Any),
        1 => (op, 0u8..40).prop_map(|(op, n)| ValueFilter::Compare(op, n.to_string().into())),
        1 => Just(ValueFilter::Regex("[12].*/x.?".to_owned())),
    ]
}

fn any_filter() -> impl Strategy<Value = ReadFilter> {
    let versions = prop_oneof![
        2 => Just(VersionRange::ALL),
        1 => (NOW - 6..NOW + 3, NOW - 6..NOW + 3).prop_map(|(from, to)| VersionRange { from, to }),
    ];
    let some = |max| proptest::option::weighted(0.3, 0u32..max);
    (
        proptest::option::weighted(0.4, proptest::collection::vec((0usize..3).prop_map(family), 0..3)),
        any_qualifier_filter(),
        versions,
        some(4),
        any_value_filter(),
        proptest::option::weighted(0.2, Just("a.?".to_owned())),
        proptest::option::weighted(0.1, 0u32..1_000_000),
        some(6),
        any::<bool>(),
    )
        .prop_map(
            |(families, qualifier, versions, latest, value, row_regex, sample, cells_per_row, strip_values)| {
                ReadFilter {
                    families,
                    qualifier,
                    versions,
                    latest,
                    value,
                    row_regex,
                    row_sample_per_million: sample,
                    cells_per_row,
                    strip_values,
                }
            },
        )
}

fn any_spec() -> impl Strategy<Value = ReadSpec> {
    let range = (any_row(), proptest::option::of(any_row())).prop_map(|(start, end)| RowRange {
        start: start.into(),
        end: end.map(Into::into),
    });
    let limit = proptest::option::weighted(0.3, 0u64..4);
    (
        proptest::collection::vec(range, 0..4),
        any::<bool>(),
        any_filter(),
        limit,
    )
        .prop_map(|(ranges, reverse, filter, rows_limit)| {
            let mut spec = ReadSpec {
                ranges,
                reverse,
                filter,
                rows_limit,
            };
            spec.normalize().unwrap();
            spec
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_are_what_the_oracle_says(
        facts in proptest::collection::vec(any_fact(), 0..120),
        flushed in any::<prop::sample::Index>(),
        specs in proptest::collection::vec(any_spec(), 1..40),
        limits in (proptest::option::of(1u32..4), proptest::option::of(1i64..6)),
    ) {
        let mut schema = world::schema();
        schema.families[0].max_versions = limits.0;
        schema.families[1].ttl_micros = limits.1;
        let mut oracle = Oracle::new();
        facts.iter().for_each(|fact| oracle.add(fact.clone()));
        for mut world in World::both() {
            world.set_schema(schema.clone());
            let (before, after) = facts.split_at(flushed.index(facts.len() + 1));
            write_engine(world.engine(), before).unwrap();
            world.engine().flush().unwrap();
            write_engine(world.engine(), after).unwrap();
            for spec in &specs {
                let shown = read_engine(world.engine(), spec, NOW).unwrap();
                prop_assert_eq!(shown, oracle.read(spec, &schema, NOW), "{:?}", spec);
            }
        }
    }
}

/// The same facts with numbers as values, and here and there something else; still a function of coordinate and stamp (R5).
fn with_numbers(fact: &Fact) -> Fact {
    let mut fact = fact.clone();
    if let Fact::Cell {
        version, stamp, value, ..
    } = &mut fact
    {
        let n = (stamp.hlc >> 16) as i64 % 40;
        *value = match n % 9 {
            0 => "none".into(),
            1 => "12345678".into(),
            _ => Bytes::copy_from_slice(&((n + *version % 100) as f64 / 2.0).to_be_bytes()),
        };
    }
    fact
}

fn any_aggregate() -> impl Strategy<Value = AggregateSpec> {
    let form = prop_oneof![5 => Just(NumberForm::Float), 1 => Just(NumberForm::Integer), 1 => Just(NumberForm::Text)];
    let bucket = proptest::option::weighted(0.7, 1i64..6);
    (form, bucket, any::<bool>()).prop_map(|(form, bucket_micros, by_row)| AggregateSpec {
        form,
        bucket_micros,
        by_row,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whether cells are looked at one by one or columns are decoded as numbers.
    #[test]
    fn aggregates_are_those_of_what_a_read_returns(
        facts in proptest::collection::vec(any_fact(), 0..120),
        cells_only in any::<bool>(),
        flushed in any::<prop::sample::Index>(),
        specs in proptest::collection::vec((any_spec(), any_aggregate(), any::<bool>()), 1..40),
        limits in (proptest::option::weighted(0.2, 1u32..4), proptest::option::of(1i64..6)),
    ) {
        let mut schema = world::schema();
        schema.families[0].max_versions = limits.0;
        schema.families[0].ttl_micros = limits.1;
        let wanted = |fact: &&Fact| !cells_only || matches!(fact, Fact::Cell { .. });
        let facts: Vec<Fact> = facts.iter().filter(wanted).map(with_numbers).collect();
        let mut oracle = Oracle::new();
        facts.iter().for_each(|fact| oracle.add(fact.clone()));
        for mut world in World::both() {
            world.set_schema(schema.clone());
            let (before, after) = facts.split_at(flushed.index(facts.len() + 1));
            write_engine(world.engine(), before).unwrap();
            world.engine().flush().unwrap();
            world.compact();
            write_engine(world.engine(), after).unwrap();
            for (spec, aggregate, plain) in &specs {
                let mut spec = spec.clone();
                if *plain {
                    // What columns can answer by themselves.
                    spec.rows_limit = None;
                    spec.filter = ReadFilter {
                        families: spec.filter.families,
                        qualifier: spec.filter.qualifier,
                        versions: spec.filter.versions,
                        ..ReadFilter::default()
                    };
                }
                let mut expected = Aggregates::new(*aggregate);
                for cell in oracle.read(&spec, &schema, NOW) {
                    expected.add(&cell.row, cell.family, &cell.qualifier, cell.version, &cell.value).unwrap();
                }
                let mut found = Aggregates::new(*aggregate);
                world.engine().aggregate(&spec, NOW, &mut found).unwrap();
                let (found, expected): (Vec<_>, Vec<_>) = (found.groups().collect(), expected.groups().collect());
                prop_assert_eq!(found.len(), expected.len(), "{:?} of {:?}", aggregate, spec);
                for (found, expected) in found.iter().zip(&expected) {
                    let mut stats = *found.2;
                    // Added in another order, a sum differs in its last bits.
                    if (stats.sum - expected.2.sum).abs() <= expected.2.sum.abs() * 1e-12 {
                        stats.sum = expected.2.sum;
                    }
                    prop_assert_eq!((found.0, found.1, &stats), *expected, "{:?} of {:?}", aggregate, spec);
                }
            }
        }
    }
}

#[test]
fn a_read_that_may_not_go_to_the_disk_says_where_it_would_have_to() {
    for mut world in World::both() {
        let on_disk = !matches!(world, World::Memory(..));
        // Many blocks: a flush may leave the first one in the cache.
        let value = "v".repeat(3_000);
        let facts: Vec<Fact> = (0..60)
            .map(|row| world::cell(&format!("{row:02}"), 0, "q", 1, 1, &value))
            .collect();
        write_engine(world.engine(), &facts).unwrap();
        let mut seen = Vec::new();
        let everything = ReadSpec::default();
        walk(
            &mut *world.engine().read_in_memory(&everything, NOW).unwrap(),
            &mut seen,
        )
        .unwrap();
        assert_eq!(seen.len(), 60, "what was just written is in memory");
        world.engine().flush().unwrap();
        world.crash();
        let cold = walk(
            &mut *world.engine().read_in_memory(&everything, NOW).unwrap(),
            &mut Vec::new(),
        );
        assert_eq!(matches!(cold, Err(EngineError::NotInMemory(_))), on_disk, "{cold:?}");
        assert_eq!(
            read_engine(world.engine(), &everything, NOW).unwrap(),
            seen,
            "the disk has it"
        );
    }
}

/// It is for threads that others wait for: a row of a long history goes elsewhere, in either direction.
#[test]
fn a_read_in_memory_does_not_walk_a_long_history() {
    let mut world = World::series();
    world.set_schema(world::schema());
    let value = "v".repeat(3_000);
    let facts: Vec<Fact> = (0..200)
        .map(|n| world::cell("r", 0, &format!("q{n:03}"), n, n as u64, &value))
        .collect();
    write_engine(world.engine(), &facts).unwrap();
    for reverse in [false, true] {
        let spec = ReadSpec {
            reverse,
            ..ReadSpec::default()
        };
        let mut seen = Vec::new();
        let short = walk(&mut *world.engine().read_in_memory(&spec, NOW).unwrap(), &mut seen);
        assert!(matches!(short, Err(EngineError::NotInMemory(_))), "{short:?}");
        assert_eq!(read_engine(world.engine(), &spec, NOW).unwrap().len(), 200);
    }
}

/// Narrow reads of wide rows must seek: the visited bytes stay far below the row's.
#[test]
fn narrow_reads_do_not_visit_everything() {
    for world in World::both() {
        let mut facts = Vec::new();
        for column in 0..200 {
            for version in 0..100 {
                facts.push(world::cell(
                    "r",
                    0,
                    &format!("q{column:03}"),
                    version,
                    version as u64,
                    "some value",
                ));
            }
        }
        facts.push(world::cell("r", 1, "last", 1, 1, "v"));
        write_engine(world.engine(), &facts).unwrap();
        world.engine().flush().unwrap();
        let visited = |filter: ReadFilter, cells: usize| {
            let spec = ReadSpec {
                filter,
                ..ReadSpec::row(b"r")
            };
            let mut cursor = world.engine().read(&spec, NOW).unwrap();
            let mut found = 0;
            while cursor.advance().unwrap() {
                found += 1;
            }
            assert_eq!(found, cells);
            cursor.visited_bytes()
        };
        let everything = visited(ReadFilter::default(), 20_001);
        let exact = ReadFilter {
            qualifier: QualifierFilter::Exact(vec!["q007".into(), "q150".into()]),
            latest: Some(1),
            ..ReadFilter::default()
        };
        assert!(visited(exact, 2) < everything / 200);
        let latest = ReadFilter {
            latest: Some(1),
            ..ReadFilter::default()
        };
        assert!(visited(latest, 201) < everything / 5);
        let other = ReadFilter {
            families: Some(vec![family(1)]),
            ..ReadFilter::default()
        };
        assert!(visited(other, 1) < everything / 200);
        let early = ReadFilter {
            versions: VersionRange::one(3),
            ..ReadFilter::default()
        };
        assert!(visited(early, 200) < everything / 4);
    }
}
