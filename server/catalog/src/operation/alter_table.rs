//! Alter table: families dropped, changed and added, in this order, all or nothing.

use super::family::{self, Generations};
use crate::command::{Answer, FamilySpec};
use crate::record::TableRecord;
use crate::state::{CatalogState, Outcome, table_mut};
use crate::view::shown;
use tidemark_base::{Error, ErrorKind, Result};

/// What is asked for; see the command.
pub(crate) struct Request<'a> {
    pub(crate) name: &'a str,
    pub(crate) add: &'a [FamilySpec],
    pub(crate) set: &'a [FamilySpec],
    pub(crate) drop: &'a [String],
    pub(crate) max_future_micros: Option<i64>,
    pub(crate) generations: Option<&'a Generations>,
    pub(crate) now_micros: i64,
    pub(crate) hlc: u64,
}

/// Changes the table's families; the schema's revision rises if anything differs afterwards.
pub(crate) fn apply(state: &mut CatalogState, request: &Request<'_>) -> Result<Outcome> {
    let table = table_mut(state, request.name)?;
    check(request)?;
    let mut changed = table.clone();
    for name in request.drop {
        drop_family(&mut changed, name)?;
    }
    for spec in request.set {
        set_family(&mut changed, spec, request)?;
    }
    for spec in request.add {
        let given = request.generations.and_then(|all| all.get(&spec.name).copied());
        family::add(&mut changed, spec, given)?;
    }
    if let Some(micros) = request.max_future_micros {
        changed.max_future_micros = micros;
    }
    if changed == *table {
        return Ok(Outcome::unchanged(Answer::Table(table.id)));
    }
    changed.revision += 1;
    let id = changed.id;
    *table = changed;
    Ok(Outcome::changed(Answer::Table(id)))
}

fn check(request: &Request<'_>) -> Result<()> {
    let families = request.add.len() + request.set.len() + request.drop.len();
    if families == 0 && request.max_future_micros.is_none() {
        return Err(Error::invalid("NOTHING_TO_CHANGE", "the request changes nothing")
            .object(format!("table {}", request.name))
            .action("say what to change: tidemark table alter --help"));
    }
    family::check_specs(request.add)?;
    family::check_specs(request.set)?;
    family::check_distinct(request.drop.iter().map(String::as_str))?;
    request.max_future_micros.map_or(Ok(()), family::check_max_future)
}

fn drop_family(table: &mut TableRecord, name: &str) -> Result<()> {
    let at = position(table, name)?;
    // The generation stays in `next_generations`: a family of that name made later is another one.
    table.families.remove(at);
    Ok(())
}

fn set_family(table: &mut TableRecord, spec: &FamilySpec, request: &Request<'_>) -> Result<()> {
    let at = position(table, &spec.name)?;
    let settings = &mut table.families[at].settings;
    if spec.layout.is_some_and(|layout| layout != settings.layout) {
        let say = format!(
            "the layout of family {} was given when it was made, and stays",
            spec.name
        );
        return Err(Error::new(ErrorKind::FailedPrecondition, "LAYOUT_FIXED", say)
            .object(format!("family {}", spec.name))
            .action("leave layout and block out, or add another family and write to that"));
    }
    settings.set_ttl(spec.ttl_micros, request.now_micros);
    settings.set_max_versions(spec.max_versions, request.hlc);
    settings.compression = spec.compression;
    Ok(())
}

fn position(table: &TableRecord, name: &str) -> Result<usize> {
    table
        .families
        .iter()
        .position(|family| family.settings.name == name)
        .ok_or_else(|| {
            let known: Vec<&str> = table
                .families
                .iter()
                .map(|family| family.settings.name.as_str())
                .collect();
            let say = format!(
                "table {} has no family {}; it has: {}",
                table.name,
                shown(name),
                known.join(", ")
            );
            Error::new(ErrorKind::NotFound, "FAMILY_UNKNOWN", say)
                .object(format!("family {}", shown(name)))
                .action(format!("look at the table: tidemark table describe {}", table.name))
        })
}
