//! Who leads which group, as far as this node has heard: a hint for routing, never a proof.

use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidemark_base::{GroupId, NodeId};

#[derive(Clone, Copy)]
struct Known {
    term: u64,
    /// None after the leader was forgotten: the term stays, so that an older report does not bring back an older leader.
    node: Option<NodeId>,
}

/// The best known leader per group; the newest term wins. Clones are the same table. Bounded by the groups reported;
/// [`Leaders::retain`] lets go of groups that exist no more.
#[derive(Clone, Default)]
pub struct Leaders {
    known: Arc<RwLock<BTreeMap<GroupId, Known>>>,
}

impl Leaders {
    /// An empty table.
    pub fn new() -> Leaders {
        Leaders::default()
    }

    /// Someone said that `node` leads `group` in `term`. Older terms are ignored; an equal term names the same leader
    /// (Raft elects one a term) and so refreshes a forgotten one.
    pub fn report(&self, group: GroupId, term: u64, node: NodeId) {
        let newer = |known: &Known| known.term > term || (known.term == term && known.node == Some(node));
        if self.known.read().get(&group).is_some_and(newer) {
            return;
        }
        let mut known = self.known.write();
        let entry = known.entry(group).or_insert(Known { term, node: Some(node) });
        if entry.term <= term {
            *entry = Known { term, node: Some(node) };
        }
    }

    /// The leader of a group, if one is known.
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.known.read().get(&group)?.node
    }

    /// That node does not answer: do not send anyone there until it is reported again.
    pub fn forget(&self, node: NodeId) {
        for known in self.known.write().values_mut().filter(|known| known.node == Some(node)) {
            known.node = None;
        }
    }

    /// Keeps only these groups.
    pub fn retain(&self, groups: &BTreeSet<GroupId>) {
        self.known.write().retain(|group, _| groups.contains(group));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: GroupId = GroupId(2);

    #[test]
    fn the_newest_term_wins() {
        let leaders = Leaders::new();
        assert_eq!(leaders.leader(G), None);
        leaders.report(G, 3, NodeId(1));
        leaders.report(G, 2, NodeId(2));
        assert_eq!(leaders.leader(G), Some(NodeId(1)));
        leaders.clone().report(G, 4, NodeId(2));
        assert_eq!(leaders.leader(G), Some(NodeId(2)));
    }

    #[test]
    fn a_forgotten_leader_comes_back_only_with_its_own_or_a_later_term() {
        let leaders = Leaders::new();
        leaders.report(G, 4, NodeId(2));
        leaders.report(GroupId(3), 1, NodeId(1));
        leaders.forget(NodeId(2));
        assert_eq!(leaders.leader(G), None);
        assert_eq!(leaders.leader(GroupId(3)), Some(NodeId(1)));
        leaders.report(G, 3, NodeId(1));
        assert_eq!(leaders.leader(G), None);
        leaders.report(G, 4, NodeId(2));
        assert_eq!(leaders.leader(G), Some(NodeId(2)));
        leaders.retain(&BTreeSet::from([GroupId(3)]));
        assert_eq!(leaders.leader(G), None);
    }
}
