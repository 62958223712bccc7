//! The cluster's state: every node is asked now, bounded in time; one that does not answer is not alive.

use crate::call::{ADMIN_LIMIT, answer};
use crate::context::{Pong, ServiceContext};
use crate::convert;
use futures::future::join_all;
use std::collections::BTreeMap;
use std::time::Duration;
use tidemark_base::{GroupId, NodeId};
use tidemark_catalog::CatalogView;
use tidemark_proto::v1::{self, cluster_server::Cluster};
use tonic::{Request, Response, Status};

/// How long a node has for its answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The service.
#[derive(Clone)]
pub struct ClusterService {
    context: ServiceContext,
}

impl ClusterService {
    /// Answers for the region, through this node.
    pub fn new(context: ServiceContext) -> ClusterService {
        ClusterService { context }
    }

    async fn status(&self, tablets: bool) -> v1::ClusterStatusResponse {
        let view = self.context.catalog.view();
        let asked = view.nodes.keys().map(|node| async { (*node, self.ask(*node).await) });
        let pongs: BTreeMap<NodeId, Pong> = join_all(asked)
            .await
            .into_iter()
            .filter_map(|(node, pong)| Some((node, pong?)))
            .collect();
        let identity = &self.context.identity;
        v1::ClusterStatusResponse {
            region: identity.region_name.clone(),
            region_id: u32::from(identity.region.0),
            version: identity.version.clone(),
            nodes: nodes(&view, &pongs),
            tablets: if tablets {
                self.tablets(&view, &pongs)
            } else {
                Vec::new()
            },
            catalog_leader: self.context.catalog.group().leader().map_or(0, |node| node.0),
        }
    }

    async fn ask(&self, node: NodeId) -> Option<Pong> {
        if node == self.context.identity.node {
            return Some(self.context.node_info.pong());
        }
        let pong = tokio::time::timeout(PATIENCE, self.context.peers.ping(node))
            .await
            .ok()?
            .ok()?;
        for leading in &pong.leading {
            self.context.leaders.report(leading.group, leading.term, node);
        }
        Some(pong)
    }

    fn tablets(&self, view: &CatalogView, pongs: &BTreeMap<NodeId, Pong>) -> Vec<v1::TabletStatus> {
        let led = by_group(pongs);
        let all = view.tablets.values().map(|tablet| {
            let leading = led.get(&tablet.id.group());
            v1::TabletStatus {
                tablet: tablet.id.0,
                table: view
                    .table_by_id(tablet.table)
                    .map(|table| table.name.clone())
                    .unwrap_or_default(),
                range: Some(convert::wire_range(&tablet.range)),
                replicas: tablet.replicas.iter().map(|node| node.0).collect(),
                leader: leading.map_or(0, |(node, _)| node.0),
                disk_bytes: leading.map_or(0, |(_, leading)| leading.disk_bytes),
                trouble: match leading {
                    Some((_, leading)) => leading.trouble.clone(),
                    None => "no node says that it leads this tablet".to_owned(),
                },
            }
        });
        all.collect()
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn cluster_status(
        &self,
        request: Request<v1::ClusterStatusRequest>,
    ) -> Result<Response<v1::ClusterStatusResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let work = |_| async move { Ok(self.status(message.tablets).await) };
        answer(&self.context, "Cluster.ClusterStatus", &metadata, ADMIN_LIMIT, work).await
    }
}

/// Of two nodes that both say that they lead, the one of the later term does.
fn by_group(pongs: &BTreeMap<NodeId, Pong>) -> BTreeMap<GroupId, (NodeId, &crate::context::LeadingGroup)> {
    let mut led: BTreeMap<GroupId, (NodeId, &crate::context::LeadingGroup)> = BTreeMap::new();
    for (node, pong) in pongs {
        for leading in &pong.leading {
            let entry = led.entry(leading.group).or_insert((*node, leading));
            if leading.term > entry.1.term {
                *entry = (*node, leading);
            }
        }
    }
    led
}

fn nodes(view: &CatalogView, pongs: &BTreeMap<NodeId, Pong>) -> Vec<v1::NodeStatus> {
    let led = by_group(pongs);
    let all = view.nodes.values().map(|record| {
        let pong = pongs.get(&record.id);
        let leaders = led.values().filter(|(node, _)| *node == record.id).count();
        let empty = Pong::default();
        let known = pong.unwrap_or(&empty);
        v1::NodeStatus {
            node: Some(convert::node(record)),
            alive: pong.is_some(),
            tablets: known.tablets,
            leaders: u32::try_from(leaders).unwrap_or(u32::MAX),
            disk_used_bytes: known.disk_used_bytes,
            disk_free_bytes: known.disk_free_bytes,
            version: pong.map_or_else(|| record.version.clone(), |pong| pong.version.clone()),
            trouble: match pong {
                Some(pong) => pong.trouble.clone(),
                None => format!("does not answer at {}", record.address),
            },
        }
    });
    all.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::LeadingGroup;
    use tidemark_catalog::NodeRecord;

    fn pong(term: u64) -> Pong {
        Pong {
            version: "9".into(),
            tablets: 3,
            leading: vec![LeadingGroup {
                group: GroupId(2),
                term,
                ..LeadingGroup::default()
            }],
            ..Pong::default()
        }
    }

    #[test]
    fn a_silent_node_is_not_alive_and_the_later_term_leads() {
        let mut view = CatalogView::default();
        for id in [1, 2, 3] {
            let record = NodeRecord {
                id: NodeId(id),
                address: format!("h:{id}"),
                zone: "z".into(),
                version: "1".into(),
                registered_ms: 0,
                incarnation: String::new(),
            };
            view.nodes.insert(NodeId(id), record);
        }
        let pongs = BTreeMap::from([(NodeId(1), pong(4)), (NodeId(2), pong(5))]);
        let nodes = nodes(&view, &pongs);
        assert_eq!(
            nodes.iter().map(|n| (n.alive, n.leaders)).collect::<Vec<_>>(),
            [(true, 0), (true, 1), (false, 0)]
        );
        assert_eq!((nodes[0].version.as_str(), nodes[2].version.as_str()), ("9", "1"));
        assert!(nodes[2].trouble.contains("h:3"));
    }
}
