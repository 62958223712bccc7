//! Create table: checks, ids, tablets, placement.

use super::family::{self, Generations};
use crate::command::{Answer, FamilySpec};
use crate::limits::{TABLES_MAX, TABLETS_MAX};
use crate::placement::{Candidate, place};
use crate::record::{TableRecord, TabletRecord};
use crate::state::{CatalogState, Outcome};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;
use tidemark_base::limits::{FAMILIES_MAX, MAX_FUTURE_MICROS_DEFAULT, ROW_BYTES_MAX, TABLETS_AT_CREATE_MAX};
use tidemark_base::names::check_name;
use tidemark_base::{Error, ErrorKind, Result, RowRange, TableId, TabletId};

/// The reason of the refusal before every seed node has registered.
pub(crate) const NODES_MISSING: &str = "NODES_MISSING";

/// What is asked for; see the command.
pub(crate) struct Request<'a> {
    pub(crate) name: &'a str,
    pub(crate) families: &'a [FamilySpec],
    pub(crate) split_at: &'a [Bytes],
    pub(crate) max_future_micros: Option<i64>,
    pub(crate) if_not_exists: bool,
    pub(crate) generations: Option<&'a Generations>,
}

/// Makes the table and its tablets.
pub(crate) fn apply(state: &mut CatalogState, request: &Request<'_>) -> Result<Outcome> {
    check(request)?;
    if let Some(table) = state.view.table(request.name) {
        return existing(table, request);
    }
    check_room(state, request)?;
    let mut table = TableRecord {
        id: TableId(state.next_table),
        name: request.name.to_owned(),
        revision: 1,
        families: Vec::new(),
        next_generations: BTreeMap::new(),
        max_future_micros: request.max_future_micros.unwrap_or(MAX_FUTURE_MICROS_DEFAULT),
        links: BTreeMap::new(),
    };
    for spec in request.families {
        let given = request.generations.map(|all| all.get(&spec.name).copied().unwrap_or(0));
        family::add(&mut table, spec, given)?;
    }
    // INV-30: numbers only rise. INV-32: `ranges` cuts all rows at the split keys, which were checked to ascend.
    let plan = place(&candidates(state), request.split_at.len() + 1);
    let id = table.id;
    for (range, replicas) in ranges(request.split_at).zip(plan) {
        let tablet = TabletId(state.view.next_tablet);
        state.view.next_tablet += 1;
        state.view.tablets.insert(
            tablet,
            TabletRecord {
                id: tablet,
                table: id,
                range,
                replicas,
            },
        );
    }
    state.next_table += 1;
    state.view.tables.insert(id, table);
    Ok(Outcome::changed(Answer::Table(id)))
}

fn check(request: &Request<'_>) -> Result<()> {
    check_name("table", request.name)?;
    if request.families.len() > FAMILIES_MAX {
        return Err(Error::invalid(
            "FAMILIES_TOO_MANY",
            format!("a table has at most {FAMILIES_MAX} families"),
        )
        .object(format!("table {}", request.name))
        .action("use qualifiers for what is many"));
    }
    family::check_specs(request.families)?;
    request.max_future_micros.map_or(Ok(()), family::check_max_future)?;
    check_splits(request.split_at).map_err(|error| error.object(format!("table {}", request.name)))
}

fn check_splits(split_at: &[Bytes]) -> Result<()> {
    let action = "give ascending, distinct rows of 1 to 4,096 bytes";
    if split_at.len() + 1 > TABLETS_AT_CREATE_MAX {
        let say = format!(
            "{} split keys make more than {TABLETS_AT_CREATE_MAX} tablets",
            split_at.len()
        );
        return Err(Error::invalid("TABLETS_TOO_MANY", say).action("give fewer split keys"));
    }
    for (at, row) in split_at.iter().enumerate() {
        if row.is_empty() || row.len() > ROW_BYTES_MAX {
            let say = format!("split key {at} has {} bytes, not 1 to {ROW_BYTES_MAX}", row.len());
            return Err(Error::invalid("SPLIT_INVALID", say).action(action));
        }
        if at > 0 && *row <= split_at[at - 1] {
            let say = format!("split key {at} is not greater than the one before it");
            return Err(Error::invalid("SPLIT_INVALID", say).action(action));
        }
    }
    Ok(())
}

/// A table of that name is there: an answer only if that was asked for and nothing differs.
fn existing(table: &TableRecord, request: &Request<'_>) -> Result<Outcome> {
    let refuse = |reason: &'static str, say: String| {
        Err(Error::new(ErrorKind::AlreadyExists, reason, say)
            .object(format!("table {}", table.name))
            .action(format!("look at it: tidemark table describe {}", table.name)))
    };
    if !request.if_not_exists {
        return refuse("TABLE_EXISTS", format!("table {} exists", table.name));
    }
    let same_future = request
        .max_future_micros
        .is_none_or(|micros| micros == table.max_future_micros);
    if !same_future || !family::same(table, request.families, request.generations) {
        return refuse(
            "TABLE_DIFFERS",
            format!("table {} exists with other families or settings", table.name),
        );
    }
    Ok(Outcome::unchanged(Answer::Table(table.id)))
}

fn check_room(state: &CatalogState, request: &Request<'_>) -> Result<()> {
    let full = |what: &str, max: usize| {
        Err(Error::new(
            ErrorKind::FailedPrecondition,
            "CATALOG_FULL",
            format!("the region has {max} {what} at most"),
        )
        .action("drop tables that are not needed: tidemark table list"))
    };
    if state.view.tables.len() >= TABLES_MAX {
        return full("tables", TABLES_MAX);
    }
    if state.view.tablets.len() + request.split_at.len() + 1 > TABLETS_MAX {
        return full("tablets", TABLETS_MAX);
    }
    // Without this, a table made while the servers are starting would have one replica for ever.
    let missing: Vec<String> = state
        .seeds
        .iter()
        .filter(|node| !state.view.nodes.contains_key(node))
        .map(|node| node.to_string())
        .collect();
    if missing.is_empty() && !state.view.nodes.is_empty() {
        return Ok(());
    }
    let say = match missing.is_empty() {
        true => "no node has registered yet".to_owned(),
        false => format!("{} of the cluster's seeds have not registered yet", missing.join(", ")),
    };
    Err(Error::unavailable(NODES_MISSING, say, Duration::from_millis(500))
        .action("start every node once, then repeat: tidemark cluster status"))
}

fn candidates(state: &CatalogState) -> Vec<Candidate> {
    let mut loads: BTreeMap<_, (usize, usize)> = BTreeMap::new();
    for tablet in state.view.tablets.values() {
        for (at, node) in tablet.replicas.iter().enumerate() {
            let load = loads.entry(*node).or_default();
            load.0 += 1;
            load.1 += usize::from(at == 0);
        }
    }
    let nodes = state.view.nodes.values();
    let candidate = |node: &crate::record::NodeRecord| {
        let (replicas, leaders) = loads.get(&node.id).copied().unwrap_or_default();
        Candidate {
            node: node.id,
            zone: node.zone.clone(),
            replicas,
            leaders,
        }
    };
    nodes.map(candidate).collect()
}

/// The ranges between the split keys, in order; together every row.
fn ranges(split_at: &[Bytes]) -> impl Iterator<Item = RowRange> {
    let starts = std::iter::once(Bytes::new()).chain(split_at.iter().cloned());
    let ends = split_at.iter().cloned().map(Some).chain(std::iter::once(None));
    starts.zip(ends).map(|(start, end)| RowRange { start, end })
}
