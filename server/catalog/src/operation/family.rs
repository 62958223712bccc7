//! What creating and altering a table share: checks of family settings, and the ids of new families.

use crate::command::FamilySpec;
use crate::limits::{MAX_FUTURE_MICROS_MAX, SERIES_BLOCK_MICROS_MAX, SERIES_BLOCK_MICROS_MIN, TTL_MICROS_MIN};
use crate::record::{FamilyRecord, TableRecord};
use std::collections::{BTreeMap, BTreeSet};
use tidemark_base::limits::{FAMILIES_EVER_MAX, FAMILIES_MAX};
use tidemark_base::names::check_name;
use tidemark_base::schema::{FamilySettings, Layout};
use tidemark_base::{Error, ErrorKind, FamilyId, Result};
use tidemark_runtime::planted::{Bug, planted};

/// Generations by family name, as a peer region has them.
pub(crate) type Generations = BTreeMap<String, u32>;

/// Checks name, ttl and max_versions of one family.
pub(crate) fn check_spec(spec: &FamilySpec) -> Result<()> {
    check_name("family", &spec.name)?;
    let object = format!("family {}", spec.name);
    if spec.ttl_micros.is_some_and(|ttl| ttl < TTL_MICROS_MIN) {
        return Err(Error::invalid("TTL_TOO_SHORT", "a time to live is at least 1 ms")
            .object(object)
            .action("give a longer ttl, or none to keep cells for ever"));
    }
    if spec.max_versions == Some(0) {
        return Err(Error::invalid("MAX_VERSIONS_INVALID", "max_versions is at least 1")
            .object(object)
            .action("give 1 or more, or none to keep all versions"));
    }
    let block = spec.layout.and_then(Layout::block_micros);
    if block.is_some_and(|block| !(SERIES_BLOCK_MICROS_MIN..=SERIES_BLOCK_MICROS_MAX).contains(&block)) {
        return Err(Error::invalid(
            "TIME_BLOCK_INVALID",
            "a time block of a series family is between 1 s and 31 days long",
        )
        .object(object)
        .action("give about as long as holds some hundred readings of a device: block=1h, for example"));
    }
    Ok(())
}

/// Checks every spec, and that no name comes twice.
pub(crate) fn check_specs(specs: &[FamilySpec]) -> Result<()> {
    specs.iter().try_for_each(check_spec)?;
    check_distinct(specs.iter().map(|spec| spec.name.as_str()))
}

/// No name comes twice.
pub(crate) fn check_distinct<'a>(names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Error::invalid("FAMILY_TWICE", "a family is named twice in one request")
                .object(format!("family {name}"))
                .action("name each family once"));
        }
    }
    Ok(())
}

/// Checks the bounds of `max_future`.
pub(crate) fn check_max_future(max_future_micros: i64) -> Result<()> {
    if (0..=MAX_FUTURE_MICROS_MAX).contains(&max_future_micros) {
        return Ok(());
    }
    Err(
        Error::invalid("MAX_FUTURE_INVALID", "max_future is between 0 and a hundred years")
            .action("give 1d, for example"),
    )
}

/// Adds a new family. Its generation is the given one, or the least unused. The table must not have a living family of
/// that name.
pub(crate) fn add(table: &mut TableRecord, spec: &FamilySpec, generation: Option<u32>) -> Result<()> {
    let object = format!("family {}", spec.name);
    if table.family(&spec.name).is_some() {
        let say = format!("table {} has a family {} already", table.name, spec.name);
        return Err(Error::new(ErrorKind::AlreadyExists, "FAMILY_EXISTS", say)
            .object(object)
            .action("change it instead: tidemark table alter"));
    }
    if table.families.len() >= FAMILIES_MAX {
        return Err(Error::invalid(
            "FAMILIES_TOO_MANY",
            format!("a table has at most {FAMILIES_MAX} families"),
        )
        .object(object)
        .action("use qualifiers for what is many, or drop a family"));
    }
    let unused = table.next_generations.get(&spec.name).copied().unwrap_or(0);
    // Planted: a name has one id, whatever became of the family that had it.
    let unused = match planted(Bug::DroppedFamilyReturns) {
        true => unused.saturating_sub(1),
        false => unused,
    };
    let generation = generation.unwrap_or(unused);
    if generation < unused {
        let say = format!(
            "generation {generation} of family {} was used here and dropped; the least unused one is {unused}",
            spec.name
        );
        return Err(Error::new(ErrorKind::FailedPrecondition, "FAMILY_GENERATION_USED", say)
            .object(object)
            .action("drop and re-create the family in the other region until the generations agree"));
    }
    check_ever(table, &spec.name, generation)?;
    check_collision(table, &spec.name, generation)?;
    let mut settings = FamilySettings::new(&spec.name, generation);
    settings.ttl_micros = spec.ttl_micros;
    settings.max_versions = spec.max_versions;
    settings.compression = spec.compression;
    settings.layout = spec.layout.unwrap_or_default();
    table.families.push(FamilyRecord { settings, generation });
    table.next_generations.insert(spec.name.clone(), generation + 1);
    Ok(())
}

/// True if the table's families are what was asked for, names, settings and (where given) generations.
pub(crate) fn same(table: &TableRecord, specs: &[FamilySpec], generations: Option<&Generations>) -> bool {
    table.families.len() == specs.len()
        && specs.iter().all(|spec| {
            table.family(&spec.name).is_some_and(|family| {
                let given = generations.map(|all| all.get(&spec.name).copied().unwrap_or(0));
                family.settings.ttl_micros == spec.ttl_micros
                    && family.settings.max_versions == spec.max_versions
                    && family.settings.compression == spec.compression
                    && family.settings.layout == spec.layout.unwrap_or_default()
                    && given.is_none_or(|generation| generation == family.generation)
            })
        })
}

/// The number of families that a table ever had is bounded. Skipped generations count: they are as good as used.
fn check_ever(table: &TableRecord, name: &str, generation: u32) -> Result<()> {
    let others = table.next_generations.iter().filter(|(other, _)| *other != name);
    let ever: u64 = others.map(|(_, next)| u64::from(*next)).sum::<u64>() + u64::from(generation) + 1;
    if ever <= FAMILIES_EVER_MAX as u64 {
        return Ok(());
    }
    let say = format!("a table may have had at most {FAMILIES_EVER_MAX} families, dropped ones included");
    Err(Error::new(ErrorKind::FailedPrecondition, "FAMILIES_EVER_TOO_MANY", say)
        .object(format!("family {name}"))
        .action("create a new table and move the data there"))
}

/// The id must differ from that of every family that the table ever had: cells of a dropped one may still be stored.
fn check_collision(table: &TableRecord, name: &str, generation: u32) -> Result<()> {
    let id = FamilyId::derive(name, generation);
    let collides = table.next_generations.iter().find(|(other, next)| {
        (0..**next).any(|old| (other.as_str() != name || old != generation) && FamilyId::derive(other, old) == id)
    });
    match collides {
        None => Ok(()),
        Some((other, _)) => {
            let say = format!("the id of family {name} is that of family {other}, by chance");
            Err(Error::invalid("FAMILY_ID_TAKEN", say)
                .object(format!("family {name}"))
                .action("choose another name"))
        }
    }
}
