//! openraft's connection to one other replica, on top of the node's transport.

use crate::raft::{RaftVote, Types};
use crate::settings::ConsensusSettings;
use crate::snapshot;
use crate::state_machine::SnapshotFiles;
use crate::transport::{MessageKind, RaftMessage, Transport, TransportError};
use crate::wire;
use bytes::Bytes;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2, Snapshot};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidemark_base::{GroupId, NodeId};

/// Makes connections; a clone per group.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) group: GroupId,
    pub(crate) node: NodeId,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) settings: Arc<ConsensusSettings>,
    /// Numbers this node's snapshot transfers.
    pub(crate) sessions: Arc<AtomicU64>,
}

/// One other replica.
pub(crate) struct Connection {
    network: Network,
    target: NodeId,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Connection {
        Connection {
            network: self.clone(),
            target: NodeId(target),
        }
    }
}

impl Connection {
    /// This node.
    pub(crate) fn sender(&self) -> NodeId {
        self.network.node
    }

    pub(crate) async fn send(
        &self,
        kind: MessageKind,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, TransportError> {
        let message = RaftMessage {
            group: self.network.group,
            kind,
            body,
        };
        let answer = self.network.transport.send(self.target, message, timeout);
        // The transport gives up by itself; this is the belt to its braces.
        tokio::time::timeout(timeout * 2, answer)
            .await
            .unwrap_or(Err(TransportError::Timeout))
    }

    async fn rpc(
        &self,
        kind: MessageKind,
        action: RPCTypes,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, RPCError<Types>> {
        self.send(kind, body, timeout)
            .await
            .map_err(|error| self.rpc_error(error, action, timeout))
    }

    fn rpc_error(&self, error: TransportError, action: RPCTypes, timeout: Duration) -> RPCError<Types> {
        match error {
            TransportError::Timeout => RPCError::Timeout(Timeout {
                action,
                id: self.network.node.0,
                target: self.target.0,
                timeout,
            }),
            // A node that refuses (unknown group, failed replica) is left in peace for a while, like one that is away.
            TransportError::Unreachable(_) | TransportError::Refused(_) => {
                RPCError::Unreachable(Unreachable::new(&error))
            }
        }
    }
}

fn malformed<E: std::error::Error + 'static>(error: E) -> RPCError<Types> {
    RPCError::Network(NetworkError::new(&error))
}

impl RaftNetworkV2<Types> for Connection {
    type SnapshotData = SnapshotFiles;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let body = wire::encode_append(&rpc);
        // openraft allows a heartbeat interval for either kind. That suits heartbeats; entries wait for the follower's disk,
        // and giving up on a slow sync would only send the same entries again and make it slower.
        let timeout = match rpc.entries.is_empty() {
            true => option.soft_ttl(),
            false => Duration::from_millis(self.network.settings.append_timeout_ms),
        };
        let answer = self
            .rpc(MessageKind::Append, RPCTypes::AppendEntries, body, timeout)
            .await?;
        wire::decode_append_ack(answer).map_err(malformed)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let answer = self
            .rpc(
                MessageKind::Vote,
                RPCTypes::Vote,
                wire::encode_vote_request(&rpc),
                option.soft_ttl(),
            )
            .await?;
        wire::decode_vote_response(answer).map_err(malformed)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let answer = self
            .rpc(
                MessageKind::PreVote,
                RPCTypes::Vote,
                wire::encode_vote_request(&rpc),
                option.soft_ttl(),
            )
            .await?;
        wire::decode_vote_response(answer).map_err(malformed)
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: Snapshot<crate::raft::LeaderId, u64, EmptyNode, SnapshotFiles>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let session = self.network.sessions.fetch_add(1, Ordering::Relaxed);
        let settings = self.network.settings.clone();
        let sending = snapshot::send(self, &settings, session, vote, snapshot.snapshot);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sending => sent.map_err(|error| {
                tracing::warn!(group = %self.network.group, target = %self.target, %error, "snapshot transfer failed; it is tried again");
                // Always "unreachable": openraft then backs off instead of making one checkpoint after another.
                StreamingError::Unreachable(Unreachable::new(&error))
            }),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let body = wire::encode_transfer(&req);
        let answer = self
            .rpc(
                MessageKind::TransferLeader,
                RPCTypes::TransferLeader,
                body,
                option.soft_ttl(),
            )
            .await?;
        wire::decode_transfer_ack(answer).map_err(malformed)
    }
}
