//! Where a table's rows live: tablets, their leaders, and the families' names and ids, as a region told them last.
//!
//! A [`RoutingView`] is immutable except for its leaders, which redirects and failures correct in place. It is replaced
//! whole by a refresh.

use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use tidemark_base::{FamilyId, RowRange};
use tidemark_proto::v1;

/// One tablet of a view.
#[derive(Debug)]
pub(crate) struct TabletView {
    pub(crate) id: u64,
    pub(crate) range: RowRange,
    /// Address of the leader; `None` = not known, any node will forward.
    leader: RwLock<Option<Arc<str>>>,
    /// Addresses of all replicas: better places to ask than the other nodes.
    pub(crate) replicas: Vec<Arc<str>>,
}

impl TabletView {
    pub(crate) fn leader(&self) -> Option<Arc<str>> {
        self.leader.read().clone()
    }
}

/// One table as one region told it.
#[derive(Debug)]
pub(crate) struct RoutingView {
    /// Index of the region.
    pub(crate) region: usize,
    /// Counts this client's refreshes of the table, so that a caller can say which view failed it.
    pub(crate) generation: u64,
    /// In the order of their ranges.
    pub(crate) tablets: Vec<TabletView>,
    pub(crate) family_ids: HashMap<String, FamilyId>,
    pub(crate) family_names: HashMap<FamilyId, Arc<str>>,
    /// Addresses of the region's nodes.
    pub(crate) nodes: Vec<Arc<str>>,
}

impl RoutingView {
    pub(crate) fn new(region: usize, generation: u64, wire: v1::Routing) -> RoutingView {
        let nodes: HashMap<u64, Arc<str>> = wire.nodes.into_iter().map(|n| (n.id, n.address.into())).collect();
        let tablet = |t: v1::TabletRoute| {
            let range = t.range.unwrap_or_default();
            TabletView {
                id: t.tablet,
                range: RowRange {
                    start: range.start,
                    end: range.end,
                },
                leader: RwLock::new(nodes.get(&t.leader).cloned()),
                replicas: t.replicas.iter().filter_map(|id| nodes.get(id).cloned()).collect(),
            }
        };
        let mut tablets: Vec<TabletView> = wire.tablets.into_iter().map(tablet).collect();
        tablets.sort_by(|a, b| a.range.start.cmp(&b.range.start));
        let families = |f: &v1::Family| (f.name.clone(), FamilyId(f.id));
        RoutingView {
            region,
            generation,
            tablets,
            family_ids: wire.families.iter().map(families).collect(),
            family_names: wire
                .families
                .into_iter()
                .map(|f| (FamilyId(f.id), Arc::from(f.name)))
                .collect(),
            nodes: nodes.into_values().collect(),
        }
    }

    /// Index of the tablet that holds the row; `None` only if the view has a hole there.
    pub(crate) fn tablet_of(&self, row: &[u8]) -> Option<usize> {
        let after = self.tablets.partition_point(|t| t.range.start[..] <= *row);
        let at = after.checked_sub(1)?;
        self.tablets[at].range.contains(row).then_some(at)
    }

    /// True if every tablet has a leader.
    pub(crate) fn all_led(&self) -> bool {
        self.tablets.iter().all(|t| t.leader().is_some())
    }

    /// A node said who leads the tablet.
    pub(crate) fn learn(&self, tablet: u64, address: &str) {
        if address.is_empty() {
            return;
        }
        if let Some(tablet) = self.tablets.iter().find(|t| t.id == tablet) {
            let known = tablet.leader.read().as_deref() == Some(address);
            if !known {
                *tablet.leader.write() = Some(address.into());
            }
        }
    }

    /// That node is not the leader, or cannot be reached.
    pub(crate) fn forget(&self, tablet: usize, address: &str) {
        if let Some(tablet) = self.tablets.get(tablet) {
            let mut leader = tablet.leader.write();
            if leader.as_deref() == Some(address) {
                *leader = None;
            }
        }
    }

    /// The parts of the ranges that lie in the tablet, in order.
    pub(crate) fn cut(&self, tablet: usize, ranges: &[RowRange]) -> Vec<RowRange> {
        let tablet = &self.tablets[tablet].range;
        let cut = ranges.iter().map(|range| range.intersect(tablet));
        cut.filter(|range| !range.is_empty()).collect()
    }
}

/// Takes away what a scan has behind it: every row up to and including `row`, in its direction.
pub(crate) fn ranges_after(ranges: &mut Vec<RowRange>, row: &[u8], reverse: bool) {
    let rest = if reverse {
        RowRange {
            start: Bytes::new(),
            end: Some(Bytes::copy_from_slice(row)),
        }
    } else {
        let mut next = row.to_vec();
        next.push(0);
        RowRange {
            start: next.into(),
            end: None,
        }
    };
    for range in ranges.iter_mut() {
        *range = range.intersect(&rest);
    }
    ranges.retain(|range| !range.is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &str, end: Option<&str>) -> RowRange {
        RowRange {
            start: start.to_owned().into(),
            end: end.map(|e| e.to_owned().into()),
        }
    }

    fn view() -> RoutingView {
        let tablet = |tablet, start: &str, end: Option<&str>, leader| v1::TabletRoute {
            tablet,
            range: Some(crate::filter::wire_range(&range(start, end))),
            replicas: vec![1, 2],
            leader,
        };
        let node = |id, address: &str| v1::Node {
            id,
            address: address.to_owned(),
            zone: String::new(),
        };
        let wire = v1::Routing {
            tablets: vec![
                tablet(8, "g", Some("p"), 0),
                tablet(7, "", Some("g"), 1),
                tablet(9, "p", None, 2),
            ],
            nodes: vec![node(1, "a:1"), node(2, "b:1")],
            ..v1::Routing::default()
        };
        RoutingView::new(0, 1, wire)
    }

    #[test]
    fn rows_find_their_tablets_and_redirects_are_learnt() {
        let view = view();
        let id = |row: &str| view.tablet_of(row.as_bytes()).map(|at| view.tablets[at].id);
        assert_eq!(["a", "g", "oz", "p", "z"].map(id), [7, 8, 8, 9, 9].map(Some));
        let leader = |at: usize| view.tablets[at].leader().map(|l| l.to_string());
        assert_eq!(leader(0).as_deref(), Some("a:1"));
        assert_eq!(leader(1), None);
        assert!(!view.all_led());
        view.learn(8, "b:1");
        assert_eq!(leader(1).as_deref(), Some("b:1"));
        assert!(view.all_led());
        view.forget(1, "c:1");
        assert_eq!(leader(1).as_deref(), Some("b:1"), "another node's failure says nothing");
        view.forget(1, "b:1");
        assert_eq!(leader(1), None);
    }

    #[test]
    fn a_scan_leaves_behind_what_it_has_seen() {
        let all = vec![range("a", Some("c")), range("m", None)];
        let mut ranges = all.clone();
        ranges_after(&mut ranges, b"b", false);
        assert_eq!(ranges, [range("b\0", Some("c")), range("m", None)]);
        ranges_after(&mut ranges, b"m", false);
        assert_eq!(ranges, [range("m\0", None)]);
        let mut ranges = all;
        ranges_after(&mut ranges, b"n", true);
        assert_eq!(ranges, [range("a", Some("c")), range("m", Some("n"))]);
        ranges_after(&mut ranges, b"m", true);
        assert_eq!(ranges, [range("a", Some("c"))]);
    }
}
