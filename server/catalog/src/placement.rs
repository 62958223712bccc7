//! Where the tablets of a new table go. Pure and deterministic: every replica of the catalog computes the same plan.
//!
//! ```text
//! for each tablet:
//!     three times: of the nodes not yet chosen, the one with least
//!         (replicas of this tablet in its zone, replicas of this table, replicas of all tables, number)
//!     its leader: of the chosen, the one with least (leaders of this table, leaders of all tables, number)
//! then: while a chain of hand-overs (a tablet's leader to another of its replicas) makes the leaders of this table
//!     more even, do it
//! ```
//!
//! This table's load comes before all tables' load, because a table is a workload: a node that has just joined must not
//! get every leader of the next table. Three replicas, or one where there are fewer than three nodes: two replicas would
//! need both for every write, so they would fail more often than one.

use crate::limits::REPLICAS;
use std::collections::{BTreeMap, VecDeque};
use tidemark_base::NodeId;

/// A node that may take replicas, with what it has already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// What fails together with it.
    pub zone: String,
    /// Replicas that it holds, all tables.
    pub replicas: usize,
    /// Tablets whose preferred leader it is, all tables.
    pub leaders: usize,
}

/// How many replicas a tablet gets where there are that many nodes: 3, or 1 with fewer than 3.
pub fn replica_count(nodes: usize) -> usize {
    if nodes >= REPLICAS { REPLICAS } else { nodes.min(1) }
}

/// The replicas of each of `tablets` tablets, preferred leader first. Empty lists if there is no node.
pub fn place(candidates: &[Candidate], tablets: usize) -> Vec<Vec<NodeId>> {
    let mut loads: Vec<Load<'_>> = candidates.iter().map(Load::new).collect();
    loads.sort_by_key(|load| load.candidate.node);
    let count = replica_count(loads.len());
    let mut plan: Vec<Vec<usize>> = Vec::with_capacity(tablets);
    for _ in 0..tablets {
        let mut chosen = choose(&mut loads, count);
        let least = (0..chosen.len()).min_by_key(|at| {
            let load = &loads[chosen[*at]];
            (load.leaders, load.candidate.leaders + load.leaders, chosen[*at])
        });
        if let Some(leader) = least {
            loads[chosen[leader]].leaders += 1;
            chosen[..=leader].rotate_right(1);
        }
        plan.push(chosen);
    }
    even_out(&mut plan, loads.len());
    let node = |at: &usize| loads[*at].candidate.node;
    plan.iter()
        .map(|replicas| replicas.iter().map(node).collect())
        .collect()
}

struct Load<'a> {
    candidate: &'a Candidate,
    /// Of this table.
    replicas: usize,
    /// Of this table.
    leaders: usize,
}

impl<'a> Load<'a> {
    fn new(candidate: &'a Candidate) -> Load<'a> {
        Load {
            candidate,
            replicas: 0,
            leaders: 0,
        }
    }
}

/// Chooses one tablet's replicas and counts them. Positions in `loads`.
fn choose(loads: &mut [Load<'_>], count: usize) -> Vec<usize> {
    let mut chosen: Vec<usize> = Vec::with_capacity(count);
    let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
    while chosen.len() < count {
        let free = (0..loads.len()).filter(|at| !chosen.contains(at));
        let best = free.min_by_key(|at| {
            let load = &loads[*at];
            let in_zone = zones.get(load.candidate.zone.as_str()).copied().unwrap_or(0);
            (in_zone, load.replicas, load.candidate.replicas + load.replicas, *at)
        });
        let Some(best) = best else { break };
        *zones.entry(loads[best].candidate.zone.as_str()).or_default() += 1;
        loads[best].replicas += 1;
        chosen.push(best);
    }
    chosen
}

/// Moves leadership along chains of replicas until no chain makes the counts more even. Greedy choice alone can end two
/// apart where replica sets overlap little; this ends at the best that the replica sets allow.
fn even_out(plan: &mut [Vec<usize>], nodes: usize) {
    // Each round lowers the sum of squares of the counts, so this ends; the bound is a fuse, far above what is needed.
    for _ in 0..plan.len() * nodes.max(1) {
        let mut counts = vec![0usize; nodes];
        for replicas in plan.iter() {
            if let Some(leader) = replicas.first() {
                counts[*leader] += 1;
            }
        }
        let least = counts.iter().copied().min().unwrap_or(0);
        let mut from: Vec<usize> = (0..nodes).filter(|node| counts[*node] >= least + 2).collect();
        from.sort_by_key(|node| (std::cmp::Reverse(counts[*node]), *node));
        let chain = from.iter().find_map(|start| chain_to_less(plan, &counts, *start));
        let Some(chain) = chain else { return };
        for (tablet, to) in chain {
            let at = plan[tablet].iter().position(|node| *node == to);
            plan[tablet][..=at.unwrap_or(0)].rotate_right(1);
        }
    }
}

/// The shortest chain of hand-overs (tablet, new leader) from `start` to a node that leads at least two tablets fewer.
fn chain_to_less(plan: &[Vec<usize>], counts: &[usize], start: usize) -> Option<Vec<(usize, usize)>> {
    let mut came: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        if counts[node] + 2 <= counts[start] {
            let mut chain = Vec::new();
            let mut at = node;
            while at != start {
                let (previous, tablet) = came[&at];
                chain.push((tablet, at));
                at = previous;
            }
            return Some(chain);
        }
        for (tablet, replicas) in plan.iter().enumerate() {
            if replicas.first() != Some(&node) {
                continue;
            }
            for next in replicas.iter().skip(1) {
                if *next != start && !came.contains_key(next) {
                    came.insert(*next, (node, tablet));
                    queue.push_back(*next);
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn nodes(zones: &[u8]) -> Vec<Candidate> {
        let candidate = |(at, zone): (usize, &u8)| Candidate {
            node: NodeId(at as u64 + 1),
            zone: format!("z{zone}"),
            replicas: 0,
            leaders: 0,
        };
        zones.iter().enumerate().map(candidate).collect()
    }

    fn spread(counts: impl Iterator<Item = usize> + Clone) -> usize {
        counts.clone().max().unwrap_or(0) - counts.min().unwrap_or(0)
    }

    fn count(plan: &[Vec<NodeId>], candidates: &[Candidate], only_leaders: bool) -> Vec<usize> {
        let holds = |node: NodeId| {
            let counted = plan.iter().filter(|replicas| match only_leaders {
                true => replicas.first() == Some(&node),
                false => replicas.contains(&node),
            });
            counted.count()
        };
        candidates.iter().map(|candidate| holds(candidate.node)).collect()
    }

    #[test]
    fn three_nodes_in_three_zones_share_evenly() {
        let plan = place(&nodes(&[0, 1, 2]), 4);
        let leaders: Vec<u64> = plan.iter().map(|replicas| replicas[0].0).collect();
        assert_eq!(leaders, [1, 2, 3, 1]);
        assert!(plan.iter().all(|replicas| replicas.len() == 3));
    }

    #[test]
    fn fewer_than_three_nodes_hold_one_replica_each() {
        assert_eq!(place(&nodes(&[0]), 2), [vec![NodeId(1)], vec![NodeId(1)]]);
        assert_eq!(place(&nodes(&[0, 1]), 2), [vec![NodeId(1)], vec![NodeId(2)]]);
        assert_eq!(place(&[], 1), [Vec::<NodeId>::new()]);
    }

    #[test]
    fn a_new_node_does_not_get_every_leader() {
        let mut candidates = nodes(&[0, 1, 2, 3]);
        for candidate in &mut candidates[..3] {
            (candidate.replicas, candidate.leaders) = (90, 30);
        }
        let plan = place(&candidates, 8);
        assert_eq!(count(&plan, &candidates, true), [2, 2, 2, 2]);
    }

    proptest! {
        #[test]
        fn zones_are_distinct_and_loads_within_one(
            zones in proptest::collection::vec(0u8..6, 1..12),
            tablets in 0usize..80,
            old in proptest::collection::vec((0usize..50, 0usize..50), 12),
        ) {
            let mut candidates = nodes(&zones);
            for (candidate, (replicas, leaders)) in candidates.iter_mut().zip(&old) {
                (candidate.replicas, candidate.leaders) = (*replicas, *leaders);
            }
            let plan = place(&candidates, tablets);
            prop_assert_eq!(&plan, &place(&candidates, tablets));
            prop_assert_eq!(plan.len(), tablets);
            let want = replica_count(zones.len());
            let all_zones: BTreeSet<&u8> = zones.iter().collect();
            for replicas in &plan {
                let distinct: BTreeSet<NodeId> = replicas.iter().copied().collect();
                prop_assert_eq!((replicas.len(), distinct.len()), (want, want));
                let in_zones: BTreeSet<u8> = replicas.iter().map(|node| zones[node.0 as usize - 1]).collect();
                prop_assert_eq!(in_zones.len(), want.min(all_zones.len()));
            }
            let replicas = count(&plan, &candidates, false);
            for zone in all_zones.iter().copied() {
                let of_zone = replicas.iter().zip(&zones).filter(|(_, z)| *z == zone).map(|(count, _)| *count);
                prop_assert!(spread(of_zone) <= 1, "replicas {replicas:?} in zones {zones:?}");
            }
            if all_zones.len() == zones.len() || all_zones.len() == 1 {
                prop_assert!(spread(replicas.iter().copied()) <= 1);
                let leaders = count(&plan, &candidates, true);
                prop_assert!(spread(leaders.iter().copied()) <= 1, "leaders {leaders:?}");
            }
        }
    }
}
