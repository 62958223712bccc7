//! The way to the other nodes of this region: Raft messages, pings, reports, and what must be done at a leader.
//!
//! Connections are made when they are first used and kept per node. Raft messages, bulk transfers and forwarded public
//! requests have connections of their own, so that a heartbeat never waits behind a snapshot or a large batch.

use crate::channel::{CONNECT_LIMIT, MESSAGE_BYTES_MAX, channel};
use crate::context::{LeadingGroup, NodeIdentity, Pong};
use crate::errors::{DOMAIN, from_status, from_wire, never_sent};
use crate::quarantine;
use crate::raft_line::{Lost, RaftLine};
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tidemark_base::{Error, ErrorKind, GroupId, NodeId, RegionId, Result, TableSchema, TabletId};
use tidemark_catalog::{Catalog, CatalogForward, NODE_ID_USED, NodeRecord};
use tidemark_consensus::{MessageKind, RaftMessage, Transport, TransportError};
use tidemark_proto::Dialer;
use tidemark_proto::internal::{self as wire, peer_client::PeerClient};
use tidemark_proto::v1::data_client::DataClient;
use tidemark_replication::NodeReport;
use tidemark_tablet::{Discarded, QuarantinePage, StreamId};
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;

/// A ping is for liveness: later than that is as good as not.
const PING_LIMIT: Duration = Duration::from_secs(1);
/// A report is gathered from memory.
const REPORT_LIMIT: Duration = Duration::from_secs(2);
/// A proposal at a leader: above the time-outs of the tablet (10 s), so that its own answer arrives.
const PROPOSE_LIMIT: Duration = Duration::from_secs(12);
/// A catalog command at its leader. Short, because the catalog sends the same command again, to another leader if need be.
const CATALOG_LIMIT: Duration = Duration::from_secs(3);
/// Larger Raft messages, those with entries above all, have a line of their own: a heartbeat never waits behind one.
const SMALL_BYTES_MAX: usize = 512;

/// Connections to the nodes of this region.
pub struct PeerClients {
    identity: NodeIdentity,
    dialer: Dialer,
    /// Addresses from the settings: the catalog itself must be reached before it can be asked.
    seeds: BTreeMap<NodeId, String>,
    catalog: OnceLock<Catalog>,
    nodes: Mutex<BTreeMap<NodeId, NodeChannels>>,
    disowned: watch::Sender<Option<Error>>,
}

#[derive(Clone)]
struct NodeChannels {
    address: String,
    /// Of the first connection, for what is small.
    ping: Channel,
    small: RaftLine,
    large: RaftLine,
    bulk: Channel,
    data: Channel,
}

impl NodeChannels {
    fn new(dialer: &Dialer, address: String) -> Result<NodeChannels> {
        let channel = || channel(dialer, &address);
        let line = |channel: Channel| RaftLine::new(sized(PeerClient::new(channel)));
        let ping = channel()?;
        Ok(NodeChannels {
            small: line(ping.clone()),
            large: line(channel()?),
            ping,
            bulk: channel()?,
            data: channel()?,
            address,
        })
    }
}

impl PeerClients {
    /// No connection yet. `seeds` are the configured addresses.
    pub fn new(identity: NodeIdentity, seeds: BTreeMap<NodeId, String>, dialer: Dialer) -> Arc<PeerClients> {
        Arc::new(PeerClients {
            identity,
            dialer,
            seeds,
            catalog: OnceLock::new(),
            nodes: Mutex::default(),
            disowned: watch::Sender::new(None),
        })
    }

    /// The way that connections are made.
    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// Notes an error that says that this node's number belongs to another incarnation (`NODE_ID_USED`); others are ignored.
    pub fn note_refusal(&self, error: &Error) {
        note_refusal(&self.disowned, error);
    }

    /// Returns when a neighbour or the catalog said that this node's number belongs to another incarnation: this one can
    /// never take part and should end.
    pub async fn disowned(&self) -> Error {
        let mut disowned = self.disowned.subscribe();
        let noted = disowned
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|noted| noted.clone());
        match noted {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }

    /// From now on addresses come from the catalog, where it knows better than the settings. Only the first call counts.
    pub fn follow(&self, catalog: Catalog) {
        let _ = self.catalog.set(catalog);
    }

    /// A client of a node's public data service, for requests that are passed on.
    pub fn data(&self, node: NodeId) -> Result<DataClient<Channel>> {
        let client = DataClient::new(self.channels(node)?.data);
        Ok(client
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// Asks a node how it is. At most one second.
    pub async fn ping(&self, node: NodeId) -> Result<Pong> {
        let request = wire::PingRequest {
            hello: self.hello(node),
        };
        let mut client = self.client(node, |channels| channels.ping.clone())?;
        let pong = within(PING_LIMIT, client.ping(request)).await?;
        let leading = pong.leading.into_iter().map(|leading| LeadingGroup {
            group: GroupId(leading.group),
            term: leading.term,
            disk_bytes: leading.disk_bytes,
            trouble: leading.trouble,
        });
        Ok(Pong {
            version: pong.version,
            now_ms: pong.now_ms,
            tablets: pong.tablets,
            disk_used_bytes: pong.disk_used_bytes,
            disk_free_bytes: pong.disk_free_bytes,
            trouble: pong.trouble,
            leading: leading.collect(),
        })
    }

    /// A node's replication report.
    pub async fn streams(&self, node: NodeId) -> Result<NodeReport> {
        let request = wire::StreamsRequest {
            hello: self.hello(node),
        };
        let mut client = self.client(node, |channels| channels.bulk.clone())?;
        let response = within(REPORT_LIMIT, client.streams(request)).await?;
        NodeReport::decode(&response.report)
    }

    /// Hands remote facts to a node that should lead the tablet.
    pub async fn apply_remote(&self, node: NodeId, tablet: TabletId, command: Bytes) -> Result<Bytes> {
        let request = wire::ApplyRemoteRequest {
            hello: self.hello(node),
            tablet: tablet.0,
            command,
        };
        let mut client = self.client(node, |channels| channels.bulk.clone())?;
        Ok(within(PROPOSE_LIMIT, client.apply_remote(request)).await?.response)
    }

    /// Sets a tablet's schema at a node that should lead it.
    pub async fn set_schema(
        &self,
        node: NodeId,
        tablet: TabletId,
        schema: Arc<TableSchema>,
        require_empty: bool,
    ) -> Result<()> {
        let request = wire::SetSchemaRequest {
            hello: self.hello(node),
            tablet: tablet.0,
            schema: schema.encode().into(),
            require_empty,
        };
        let mut client = self.client(node, |channels| channels.bulk.clone())?;
        within(PROPOSE_LIMIT, client.set_schema(request)).await.map(|_| ())
    }

    /// What waits in the quarantine of a node's replica: of one region's streams, or of all.
    pub async fn quarantine(
        &self,
        node: NodeId,
        tablet: TabletId,
        region: Option<RegionId>,
        limit: usize,
    ) -> Result<QuarantinePage> {
        let request = wire::QuarantineRequest {
            hello: self.hello(node),
            tablet: tablet.0,
            region: region.map_or(0, |region| u32::from(region.0)),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        };
        let mut client = self.client(node, |channels| channels.bulk.clone())?;
        quarantine::page_from(within(REPORT_LIMIT, client.quarantine(request)).await?)
    }

    /// Gives up what waits in the quarantine of a tablet, at a node that should lead it. No place = all of that region.
    pub async fn discard_quarantine(
        &self,
        node: NodeId,
        tablet: TabletId,
        region: RegionId,
        places: &[(StreamId, u64)],
    ) -> Result<Discarded> {
        let places = places.iter().map(|(stream, seq)| quarantine::wire_place(*stream, *seq));
        let request = wire::DiscardQuarantineRequest {
            hello: self.hello(node),
            tablet: tablet.0,
            region: u32::from(region.0),
            places: places.collect(),
        };
        let mut client = self.client(node, |channels| channels.bulk.clone())?;
        let done = within(PROPOSE_LIMIT, client.discard_quarantine(request)).await?;
        Ok(Discarded {
            entries: done.entries,
            rows: done.rows,
            bytes: done.bytes,
        })
    }

    fn hello(&self, to: NodeId) -> Option<wire::Hello> {
        Some(wire::Hello {
            cluster: self.identity.cluster.clone(),
            from: self.identity.node.0,
            to: to.0,
            from_incarnation: self.identity.incarnation.clone(),
            to_incarnation: self.record(to, |record| record.incarnation.clone()).unwrap_or_default(),
        })
    }

    fn client(&self, node: NodeId, pick: impl Fn(&NodeChannels) -> Channel) -> Result<PeerClient<Channel>> {
        Ok(sized(PeerClient::new(pick(&self.channels(node)?))))
    }

    fn channels(&self, node: NodeId) -> Result<NodeChannels> {
        let address = self.address(node).ok_or_else(|| {
            let delay = Duration::from_millis(500);
            Error::unavailable(
                "NODE_UNKNOWN",
                format!("the address of {node} is not known here"),
                delay,
            )
        })?;
        let mut nodes = self.nodes.lock();
        match nodes.get(&node) {
            Some(channels) if channels.address == address => Ok(channels.clone()),
            _ => {
                let channels = NodeChannels::new(&self.dialer, address)?;
                nodes.insert(node, channels.clone());
                Ok(channels)
            }
        }
    }

    fn address(&self, node: NodeId) -> Option<String> {
        let registered = self.record(node, |record| record.address.clone());
        registered.or_else(|| self.seeds.get(&node).cloned())
    }

    /// Something of what the catalog knows of a node.
    fn record<T>(&self, node: NodeId, pick: impl Fn(&NodeRecord) -> T) -> Option<T> {
        let view = self.catalog.get()?.view();
        view.nodes.get(&node).map(pick)
    }
}

impl Transport for PeerClients {
    fn send(
        &self,
        target: NodeId,
        message: RaftMessage,
        timeout: Duration,
    ) -> BoxFuture<'static, std::result::Result<Bytes, TransportError>> {
        let group = message.group.0;
        let bulk = matches!(
            message.kind,
            MessageKind::SnapshotBegin | MessageKind::SnapshotChunk | MessageKind::SnapshotEnd
        );
        let channels = self.channels(target);
        let request = wire::RaftRequest {
            hello: self.hello(target),
            group,
            kind: u32::from(message.kind.code()),
            body: message.body,
            ..wire::RaftRequest::default()
        };
        let disowned = self.disowned.clone();
        Box::pin(async move {
            let channels = channels.map_err(|error| TransportError::Unreachable(error.to_string()))?;
            if bulk {
                let mut client = sized(PeerClient::new(channels.bulk));
                return match tokio::time::timeout(timeout, client.raft(request)).await {
                    Ok(Ok(response)) => Ok(response.into_inner().body),
                    Ok(Err(status)) => Err(failed(&disowned, &status)),
                    Err(_) => Err(TransportError::Timeout),
                };
            }
            let line = match request.body.len() {
                0..=SMALL_BYTES_MAX => channels.small,
                _ => channels.large,
            };
            match line.send(request, timeout).await {
                Ok(answer) if answer.error.is_empty() => Ok(answer.body),
                Ok(answer) => Err(refused(&disowned, &answer.error)),
                Err(Lost::Broken(status)) => Err(failed(&disowned, &status)),
                Err(Lost::Timeout) => Err(TransportError::Timeout),
            }
        })
    }
}

/// The failure of a message of a line, as the other node says it.
fn refused(disowned: &watch::Sender<Option<Error>>, encoded: &[u8]) -> TransportError {
    let error = match tidemark_proto::v1::Error::decode(encoded) {
        Ok(error) => from_wire(&error),
        Err(malformed) => return TransportError::Refused(format!("an error that cannot be read: {malformed}")),
    };
    note_refusal(disowned, &error);
    TransportError::Refused(error.message().to_owned())
}

fn failed(disowned: &watch::Sender<Option<Error>>, status: &Status) -> TransportError {
    note_refusal(disowned, &from_status(status).error);
    transport_error(status)
}

fn sized(client: PeerClient<Channel>) -> PeerClient<Channel> {
    client
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

impl CatalogForward for PeerClients {
    fn propose_at(&self, leader: NodeId, command: Bytes) -> BoxFuture<'static, Result<Bytes>> {
        let client = self.client(leader, |channels| channels.bulk.clone());
        let request = wire::ProposeCatalogRequest {
            hello: self.hello(leader),
            command,
        };
        let disowned = self.disowned.clone();
        Box::pin(async move {
            let mut client = client?;
            let answer = within(CATALOG_LIMIT, client.propose_catalog(request)).await;
            let _ = answer.as_ref().inspect_err(|error| note_refusal(&disowned, error));
            answer
                .map(|answer| answer.response)
                .map_err(|error| match error.kind() {
                    ErrorKind::DeadlineExceeded => Error::new(
                        ErrorKind::UnknownOutcome,
                        "CATALOG_SILENT",
                        format!("{leader} did not answer in time"),
                    ),
                    _ => error,
                })
        })
    }
}

/// Waits for an answer, bounded, and translates the error.
pub(crate) async fn within<T>(
    limit: Duration,
    exchange: impl Future<Output = std::result::Result<Response<T>, Status>>,
) -> Result<T> {
    // The connection itself may take its own limit before the request leaves.
    match tokio::time::timeout(limit.max(CONNECT_LIMIT), exchange).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(from_status(&status).error),
        Err(_) => Err(crate::call::overdue(limit)),
    }
}

fn note_refusal(disowned: &watch::Sender<Option<Error>>, error: &Error) {
    if error.reason() == NODE_ID_USED {
        disowned.send_replace(Some(error.clone()));
    }
}

fn transport_error(status: &Status) -> TransportError {
    if never_sent(status) {
        return TransportError::Unreachable(status.message().to_owned());
    }
    let ours = status
        .get_details_error_info()
        .is_some_and(|info| info.domain == DOMAIN);
    match status.code() {
        _ if ours => TransportError::Refused(status.message().to_owned()),
        Code::DeadlineExceeded | Code::Cancelled => TransportError::Timeout,
        Code::Unimplemented | Code::ResourceExhausted | Code::OutOfRange => TransportError::Refused(status.to_string()),
        _ => TransportError::Unreachable(status.to_string()),
    }
}

/// Marks a message for callers that build requests by hand.
pub(crate) fn timed<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errors::to_status;

    #[test]
    fn transport_errors_say_whether_the_other_node_answered() {
        let refused = to_status(&Error::internal("no such group"), None);
        assert!(matches!(transport_error(&refused), TransportError::Refused(_)));
        let lost = Status::unavailable("connection reset");
        assert!(matches!(transport_error(&lost), TransportError::Unreachable(_)));
        assert_eq!(
            transport_error(&Status::cancelled("Timeout expired")),
            TransportError::Timeout
        );
        assert!(matches!(
            transport_error(&Status::unimplemented("")),
            TransportError::Refused(_)
        ));
    }
}
