//! O1, O2 and O15, INV-10: whatever is flushed, compacted, collected, restarted or changed in the schema, and in whatever
//! order facts arrive, both engines show what the oracle shows, which forgets nothing.

use crate::world::{self, LATEST_NOW, NOW, World, any_fact, any_fact_of_one_column, read_engine, stamp, write_engine};
use proptest::prelude::*;
use tidemark_base::fact::Fact;
use tidemark_base::schema::{Compression, NO_LIMIT};
use tidemark_base::{CellRef, FamilySettings, ReadSpec, RowRange, Stamp, TableSchema};
use tidemark_engine::{Engine, GarbageCut, RowParts};
use tidemark_oracle::{Oracle, VisibleCell};

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<Fact>),
    Flush,
    Compact,
    Collect(u64),
    Restart,
    MaxVersions(usize, Option<u32>),
    Ttl(usize, Option<i64>),
    AddFamily,
    DropFamily(usize),
    Compression(usize, Compression),
}

/// Half of the schedules stay in one column.
fn any_steps(max: usize) -> impl Strategy<Value = Vec<Step>> {
    prop_oneof![
        proptest::collection::vec(any_step(any_fact().boxed(), 0..3), 1..max),
        proptest::collection::vec(any_step(any_fact_of_one_column().boxed(), 0..1), 1..max),
    ]
}

fn any_step(fact: BoxedStrategy<Fact>, families: std::ops::Range<usize>) -> impl Strategy<Value = Step> {
    let limit = prop_oneof![Just(None), (0u32..4).prop_map(Some)];
    let ttl = prop_oneof![Just(None), (0i64..5).prop_map(Some)];
    let compression = prop_oneof![Just(Compression::None), Just(Compression::Lz4), Just(Compression::Zstd)];
    prop_oneof![
        10 => proptest::collection::vec(fact, 1..8).prop_map(Step::Write),
        2 => Just(Step::Flush),
        4 => Just(Step::Compact),
        2 => (0u64..40).prop_map(Step::Collect),
        1 => Just(Step::Restart),
        3 => (families.clone(), limit).prop_map(|(f, max)| Step::MaxVersions(f, max)),
        1 => (families.clone(), ttl).prop_map(|(f, ttl)| Step::Ttl(f, ttl)),
        1 => Just(Step::AddFamily),
        1 => families.clone().prop_map(Step::DropFamily),
        1 => (families, compression).prop_map(|(f, kind)| Step::Compression(f, kind)),
    ]
}

/// The world, its schema, and the truth.
struct Run {
    world: World,
    schema: TableSchema,
    oracle: Oracle,
    /// No fact at or below it arrives any more.
    stable: Option<Stamp>,
    greatest: Stamp,
}

impl Run {
    fn new(mut world: World) -> Run {
        let schema = world::schema();
        world.set_schema(schema.clone());
        Run {
            world,
            schema,
            oracle: Oracle::new(),
            stable: None,
            greatest: Stamp::MIN,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Write(facts) => {
                let arriving = |fact: &&Fact| self.stable.is_none_or(|s| world::stamp_of(fact) > s);
                let facts: Vec<Fact> = facts.iter().filter(arriving).cloned().collect();
                write_engine(self.world.engine(), &facts).unwrap();
                for fact in facts {
                    self.greatest = self.greatest.max(world::stamp_of(&fact));
                    self.oracle.add(fact);
                }
            }
            Step::Flush => self.world.engine().flush().unwrap(),
            Step::Compact => {
                self.world.engine().flush().unwrap();
                self.world.compact();
            }
            Step::Collect(n) => {
                let stable = self.stable.unwrap_or(Stamp::MIN).max(stamp(*n));
                self.stable = Some(stable);
                let cut = GarbageCut {
                    stable,
                    now_micros: LATEST_NOW,
                };
                self.world.engine().collect_garbage(cut).unwrap();
            }
            Step::Restart => {
                self.world.engine().flush().unwrap();
                self.world.crash();
            }
            Step::MaxVersions(f, max) => {
                // At or above every stamp that was compacted: the greatest there is.
                let until = self.greatest.hlc;
                self.alter(*f, |family| family.set_max_versions(*max, until));
            }
            Step::Compression(f, kind) => self.alter(*f, |family| family.compression = *kind),
            Step::Ttl(f, ttl) => self.alter(*f, |family| family.set_ttl(*ttl, NOW)),
            Step::AddFamily => {
                // An id is not used again (INV-30).
                if self.schema.is_unknown(world::family(2)) {
                    self.schema.families.push(world::new_family(2));
                    self.world.set_schema(self.schema.clone());
                }
            }
            Step::DropFamily(f) => {
                let id = world::family(*f);
                if self.schema.family(id).is_some() {
                    self.schema.families.retain(|family| family.id != id);
                    self.schema.dropped.push(id);
                    self.schema.dropped.sort_unstable();
                    self.world.set_schema(self.schema.clone());
                }
            }
        }
    }

    fn alter(&mut self, index: usize, change: impl FnOnce(&mut FamilySettings)) {
        if let Some(family) = self.schema.families.get_mut(index) {
            // Folding the oldest limits is the one place where eras are not exact.
            if family.past_limits.len() + 1 < FamilySettings::PAST_LIMITS_MAX {
                change(family);
                self.world.set_schema(self.schema.clone());
            }
        }
    }

    fn check(&self, after: &Step) -> Result<(), TestCaseError> {
        let shown = read_engine(self.world.engine(), &ReadSpec::default(), NOW).unwrap();
        prop_assert_eq!(&shown, &self.oracle.visible(&self.schema, NOW), "after {:?}", after);
        self.check_newest(&shown, after)
    }

    /// INV-12: what is kept of a row since an earlier step is what a read gives now; then it is read, and may be kept.
    fn check_newest(&self, shown: &[VisibleCell], after: &Step) -> Result<(), TestCaseError> {
        let engine = self.world.engine();
        for row in ["", "a", "a\0", "b"] {
            let mut newest: Vec<VisibleCell> = shown.iter().filter(|cell| cell.row == row).cloned().collect();
            newest.dedup_by(|older, newer| (older.family, &older.qualifier) == (newer.family, &newer.qualifier));
            let mut seen = Vec::new();
            let asked = RowParts {
                row: row.as_bytes(),
                families: None,
                now_micros: NOW,
            };
            let kept = engine.newest(&asked, &mut |cell, _| {
                seen.push(world::visible(cell));
                true
            });
            prop_assert!(
                !kept || seen == newest,
                "kept of {:?} after {:?}: {:?}",
                row,
                after,
                seen
            );
            seen.clear();
            let read = engine.read_newest(&asked, false, &mut |cell, _| {
                seen.push(world::visible(cell));
                true
            });
            prop_assert_eq!((read, &seen), (Ok(()), &newest));
            // A part of the row is kept by itself.
            let family = world::family(row.len() % 2);
            newest.retain(|cell| cell.family == family);
            let part = RowParts {
                families: Some(std::slice::from_ref(&family)),
                ..asked
            };
            seen.clear();
            let mut each = |cell: &CellRef<'_>, _| {
                seen.push(world::visible(cell));
                true
            };
            if !engine.newest(&part, &mut each) {
                engine.read_newest(&part, false, &mut each).unwrap();
            }
            prop_assert_eq!(seen, newest);
        }
        Ok(())
    }

    fn run(&mut self, steps: &[Step]) -> Result<(), TestCaseError> {
        for step in steps {
            self.step(step);
            self.check(step)?;
        }
        let engine = self.world.engine();
        let digest = world::digest(engine);
        prop_assert_eq!(digest, self.oracle.digest(&RowRange::all(), &self.schema, NOW));
        Ok(())
    }
}

/// What `facts` returns means the same as the engine itself, also after garbage collection.
fn copies_mean_the_same(engine: &dyn Engine, schema: &TableSchema) -> Result<(), TestCaseError> {
    let unlimited = |family: &FamilySettings| family.past_limits.iter().any(|past| past.max_versions == NO_LIMIT);
    if schema.families.iter().any(unlimited) {
        return Ok(());
    }
    let mut copy = Oracle::new();
    engine.facts().unwrap().into_iter().for_each(|fact| copy.add(fact));
    let shown = read_engine(engine, &ReadSpec::default(), NOW).unwrap();
    prop_assert_eq!(shown, copy.visible(schema, NOW));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn schedules_are_neutral_in_memory(steps in any_steps(30)) {
        let mut run = Run::new(World::memory());
        run.run(&steps)?;
        copies_mean_the_same(run.world.engine(), &run.schema)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn schedules_are_neutral_on_disk(steps in any_steps(24)) {
        let mut run = Run::new(World::rocks());
        run.run(&steps)?;
        copies_mean_the_same(run.world.engine(), &run.schema)?;
    }

    #[test]
    fn schedules_are_neutral_in_series(steps in any_steps(24)) {
        let mut run = Run::new(World::series());
        run.run(&steps)?;
        copies_mean_the_same(run.world.engine(), &run.schema)?;
    }

    /// O1: a set has no order and holds everything once.
    #[test]
    fn order_and_duplicates_do_not_matter(
        facts in proptest::collection::vec(any_fact(), 1..40),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let mut shuffled = facts.clone();
        for (at, index) in order.iter().enumerate().take(facts.len()) {
            shuffled.swap(at, index.index(facts.len()));
        }
        shuffled.extend(facts.iter().take(5).cloned());
        let mut oracle = Oracle::new();
        facts.iter().for_each(|fact| oracle.add(fact.clone()));
        for world in World::both() {
            for chunk in shuffled.chunks(3) {
                write_engine(world.engine(), chunk).unwrap();
            }
            let shown = read_engine(world.engine(), &ReadSpec::default(), NOW).unwrap();
            prop_assert_eq!(shown, oracle.visible(&world::schema(), NOW));
            let mut stored = world.engine().facts().unwrap();
            stored.sort();
            prop_assert_eq!(stored, oracle.facts());
        }
    }
}

/// Writes in two rounds with a compaction between them, under a limit that was raised from `limits.0` to `limits.1` when
/// stamps were at `raised`; the facts of one column are (version, stamp).
fn raised(limits: (u32, u32), raised: u64, first: &[(i64, u64)], then: &[(i64, u64)]) {
    for mut world in World::both() {
        let mut schema = world::schema();
        schema.families[0].max_versions = Some(limits.0);
        schema.families[0].set_max_versions(Some(limits.1), stamp(raised).hlc);
        world.set_schema(schema.clone());
        let mut oracle = Oracle::new();
        for round in [first, then] {
            let facts: Vec<Fact> = round
                .iter()
                .map(|(version, n)| world::cell("r", 0, "q", *version, *n, &n.to_string()))
                .collect();
            write_engine(world.engine(), &facts).unwrap();
            facts.into_iter().for_each(|fact| oracle.add(fact));
            world.engine().flush().unwrap();
            world.compact();
            let shown = read_engine(world.engine(), &ReadSpec::default(), NOW).unwrap();
            assert_eq!(shown, oracle.visible(&schema, NOW));
        }
    }
}

#[test]
fn a_version_written_again_still_counts_in_the_era_of_its_first_writing() {
    raised((1, 2), 40, &[(10, 40), (10, 50)], &[(9, 30)]);
}

#[test]
fn what_an_earlier_era_left_over_may_still_be_pushed_out() {
    raised((1, 2), 50, &[(10, 60), (9, 30), (8, 61)], &[(10, 40)]);
}
