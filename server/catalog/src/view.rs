//! The catalog as readers see it: one immutable snapshot after each apply, with the indexes that routing needs.

use crate::record::{NodeRecord, PeerRecord, TableRecord, TabletRecord};
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_base::{Error, ErrorKind, NodeId, RegionId, Result, RowRange, TableId, TableSchema, TabletId};

/// Everything that the catalog holds, at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogView {
    /// Rises with each change of anything here.
    pub revision: u64,
    /// Random, made when the cluster was bootstrapped; none before that.
    pub cluster_id: Option<String>,
    /// This region's name.
    pub region_name: String,
    /// This region's number.
    pub region: RegionId,
    /// Nodes that have registered.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// Tables.
    pub tables: BTreeMap<TableId, TableRecord>,
    /// Tablets of all tables.
    pub tablets: BTreeMap<TabletId, TabletRecord>,
    /// Peers, by name.
    pub peers: BTreeMap<String, PeerRecord>,
    /// The number of the next tablet; see [`CatalogView::is_dropped`].
    pub(crate) next_tablet: u64,
    names: BTreeMap<String, TableId>,
    /// Tablets of each table in range order.
    ranges: BTreeMap<TableId, Vec<TabletId>>,
    schemas: BTreeMap<TableId, Arc<TableSchema>>,
}

impl CatalogView {
    /// A region in which nothing exists yet. Also for tests of what routes by a view.
    pub fn empty(region_name: &str, region: RegionId) -> CatalogView {
        CatalogView {
            region_name: region_name.to_owned(),
            region,
            next_tablet: crate::state::TABLET_FIRST,
            ..CatalogView::default()
        }
    }

    /// The table of that name.
    pub fn table(&self, name: &str) -> Option<&TableRecord> {
        self.tables.get(self.names.get(name)?)
    }

    /// The table with that number.
    pub fn table_by_id(&self, table: TableId) -> Option<&TableRecord> {
        self.tables.get(&table)
    }

    /// The table of that name, or `TABLE_UNKNOWN` with names that look alike.
    pub fn table_or_error(&self, name: &str) -> Result<&TableRecord> {
        self.table(name).ok_or_else(|| {
            let similar = similar(name, self.names.keys());
            let hint = match similar.is_empty() {
                true => "list the tables: tidemark table list".to_owned(),
                false => format!(
                    "did you mean {}? list the tables: tidemark table list",
                    similar.join(", ")
                ),
            };
            Error::new(
                ErrorKind::NotFound,
                "TABLE_UNKNOWN",
                format!("there is no table {}", shown(name)),
            )
            .object(format!("table {}", shown(name)))
            .action(hint)
        })
    }

    /// The peer of that name, or `PEER_UNKNOWN`.
    pub fn peer_or_error(&self, name: &str) -> Result<&PeerRecord> {
        self.peers.get(name).ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                "PEER_UNKNOWN",
                format!("there is no peer {}", shown(name)),
            )
            .object(format!("peer {}", shown(name)))
            .action("register it: tidemark peer add NAME --region NUMBER --addresses HOST:PORT")
        })
    }

    /// The peer with that region number.
    pub fn peer_by_region(&self, region: RegionId) -> Option<&PeerRecord> {
        self.peers.values().find(|peer| peer.region == region)
    }

    /// A table's tablets in range order; none for an unknown table.
    pub fn tablets_of(&self, table: TableId) -> impl Iterator<Item = &TabletRecord> {
        self.ordered(table).iter().filter_map(|id| self.tablets.get(id))
    }

    /// The tablet that holds a row.
    pub fn route(&self, table: TableId, row: &[u8]) -> Option<&TabletRecord> {
        let ordered = self.ordered(table);
        let after = ordered.partition_point(|id| self.tablets[id].range.start[..] <= *row);
        self.tablets.get(ordered.get(after.checked_sub(1)?)?)
    }

    /// The tablets that share a row with `range`, in range order.
    pub fn overlapping(&self, table: TableId, range: &RowRange) -> Vec<&TabletRecord> {
        self.tablets_of(table)
            .filter(|tablet| tablet.range.overlaps(range))
            .collect()
    }

    /// The schema for a table's tablets; see [`TableRecord::schema`]. The same allocation until its revision changes.
    pub fn schema(&self, table: TableId) -> Option<Arc<TableSchema>> {
        self.schemas.get(&table).cloned()
    }

    /// True if that tablet existed once and its table was dropped. Sound in an old view too, because numbers rise and
    /// are never reused: a tablet that this view has not heard of yet is not dropped, and its files must not be removed.
    pub fn is_dropped(&self, tablet: TabletId) -> bool {
        tablet.0 < self.next_tablet && tablet.0 >= crate::state::TABLET_FIRST && !self.tablets.contains_key(&tablet)
    }

    /// The tablets with a replica on that node.
    pub fn tablets_on(&self, node: NodeId) -> impl Iterator<Item = &TabletRecord> {
        self.tablets
            .values()
            .filter(move |tablet| tablet.replicas.contains(&node))
    }

    /// Rebuilds the indexes after the records changed.
    pub(crate) fn index(&mut self) {
        self.names = self
            .tables
            .values()
            .map(|table| (table.name.clone(), table.id))
            .collect();
        let mut ranges: BTreeMap<TableId, Vec<TabletId>> = BTreeMap::new();
        for tablet in self.tablets.values() {
            ranges.entry(tablet.table).or_default().push(tablet.id);
        }
        for ids in ranges.values_mut() {
            ids.sort_by(|a, b| self.tablets[a].range.start.cmp(&self.tablets[b].range.start));
        }
        self.ranges = ranges;
        let old = std::mem::take(&mut self.schemas);
        for table in self.tables.values() {
            let kept = old
                .get(&table.id)
                .filter(|schema| schema.revision == table.revision && schema.region == self.region);
            let schema = kept.cloned().unwrap_or_else(|| Arc::new(table.schema(self.region)));
            self.schemas.insert(table.id, schema);
        }
    }

    fn ordered(&self, table: TableId) -> &[TabletId] {
        self.ranges.get(&table).map_or(&[], Vec::as_slice)
    }
}

/// A name for a message: never longer than a legal one by much, whatever the caller sent.
pub(crate) fn shown(name: &str) -> String {
    let short: String = name.chars().take(tidemark_base::limits::NAME_BYTES_MAX).collect();
    if short.len() < name.len() {
        format!("{short}…")
    } else {
        short
    }
}

/// At most three names within an edit distance of two, or that begin with what was typed.
fn similar<'a>(name: &str, names: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    if name.is_empty() || name.len() > tidemark_base::limits::NAME_BYTES_MAX {
        return Vec::new();
    }
    let mut found: Vec<(usize, &str)> = names
        .map(|candidate| match candidate.starts_with(name) {
            true => (0, candidate.as_str()),
            false => (distance(name.as_bytes(), candidate.as_bytes()), candidate.as_str()),
        })
        .filter(|(distance, _)| *distance <= 2)
        .collect();
    found.sort_unstable();
    found.into_iter().take(3).map(|(_, candidate)| candidate).collect()
}

/// Levenshtein's distance, one row at a time. Both at most 64 bytes.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(!left.eq_ignore_ascii_case(right));
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
