//! Replication between regions, as an operator switches and sees it: peers are the catalog's, links the replication
//! layer's.

use crate::call::{ADMIN_LIMIT, answer};
use crate::context::ServiceContext;
use crate::convert;
use crate::quarantine;
use crate::region_client::RegionClients;
use tidemark_base::{Error, ErrorKind, RegionId};
use tidemark_catalog::{Command, PeerRecord};
use tidemark_proto::v1::{self, replication_server::Replication};
use tidemark_replication::{LinkReport, PeerConnector, StreamReport};
use tonic::{Request, Response, Status};

type Answered<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Clone)]
pub struct ReplicationService {
    context: ServiceContext,
}

impl ReplicationService {
    /// Answers for the region, through this node.
    pub fn new(context: ServiceContext) -> ReplicationService {
        ReplicationService { context }
    }
}

#[tonic::async_trait]
impl Replication for ReplicationService {
    async fn add_peer(&self, request: Request<v1::AddPeerRequest>) -> Answered<v1::Peer> {
        let (metadata, _, message) = request.into_parts();
        let work = |_| async move {
            let mut record = convert::peer_record(message.peer.as_ref())?;
            if record.region == NOT_GIVEN {
                record.region = ask_region(&self.context, &record).await?;
            }
            let peer = convert::peer(&record);
            self.context.catalog.execute(Command::PutPeer(record)).await?;
            Ok(peer)
        };
        answer(&self.context, "Replication.AddPeer", &metadata, ADMIN_LIMIT, work).await
    }

    async fn list_peers(&self, request: Request<v1::ListPeersRequest>) -> Answered<v1::ListPeersResponse> {
        let (metadata, _, _) = request.into_parts();
        let work = |_| async move {
            self.context.newer_catalog(0).await?;
            let peers = self.context.catalog.view().peers.values().map(convert::peer).collect();
            Ok(v1::ListPeersResponse { peers })
        };
        answer(&self.context, "Replication.ListPeers", &metadata, ADMIN_LIMIT, work).await
    }

    async fn remove_peer(&self, request: Request<v1::RemovePeerRequest>) -> Answered<v1::RemovePeerResponse> {
        let (metadata, _, message) = request.into_parts();
        let work = |_| async move {
            self.context
                .catalog
                .execute(Command::RemovePeer { name: message.name })
                .await?;
            Ok(v1::RemovePeerResponse {})
        };
        answer(&self.context, "Replication.RemovePeer", &metadata, ADMIN_LIMIT, work).await
    }

    async fn enable_replication(
        &self,
        request: Request<v1::EnableReplicationRequest>,
    ) -> Answered<v1::EnableReplicationResponse> {
        let (metadata, _, message) = request.into_parts();
        let work = |_| async move {
            let enabled = self.context.replicator.enable(&message.table, &message.peer).await?;
            Ok(v1::EnableReplicationResponse {
                created_at_peer: enabled.created_at_peer,
                families_added: enabled.families_added,
                families_added_here: enabled.families_added_here,
            })
        };
        answer(
            &self.context,
            "Replication.EnableReplication",
            &metadata,
            ADMIN_LIMIT,
            work,
        )
        .await
    }

    async fn disable_replication(
        &self,
        request: Request<v1::DisableReplicationRequest>,
    ) -> Answered<v1::DisableReplicationResponse> {
        let (metadata, _, message) = request.into_parts();
        let work = |_| async move {
            let replicator = &self.context.replicator;
            replicator
                .disable(&message.table, &message.peer, message.local_only)
                .await?;
            Ok(v1::DisableReplicationResponse {})
        };
        answer(
            &self.context,
            "Replication.DisableReplication",
            &metadata,
            ADMIN_LIMIT,
            work,
        )
        .await
    }

    async fn pause_replication(
        &self,
        request: Request<v1::PauseReplicationRequest>,
    ) -> Answered<v1::PauseReplicationResponse> {
        let (metadata, _, message) = request.into_parts();
        let work = |_| async move {
            self.context.replicator.pause(&message.table, &message.peer).await?;
            Ok(v1::PauseReplicationResponse {})
        };
        answer(
            &self.context,
            "Replication.PauseReplication",
            &metadata,
            ADMIN_LIMIT,
            work,
        )
        .await
    }

    async fn resume_replication(
        &self,
        request: Request<v1::ResumeReplicationRequest>,
    ) -> Answered<v1::ResumeReplicationResponse> {
        let (metadata, _, message) = request.into_parts();
        let work = |_| async move {
            self.context.replicator.resume(&message.table, &message.peer).await?;
            Ok(v1::ResumeReplicationResponse {})
        };
        answer(
            &self.context,
            "Replication.ResumeReplication",
            &metadata,
            ADMIN_LIMIT,
            work,
        )
        .await
    }

    async fn replication_status(
        &self,
        request: Request<v1::ReplicationStatusRequest>,
    ) -> Answered<v1::ReplicationStatusResponse> {
        let (metadata, _, message) = request.into_parts();
        let work = |_| async move {
            let table = (!message.table.is_empty()).then_some(message.table.as_str());
            let links = self.context.replicator.status(table, message.tablets).await?;
            if let (Some(table), true) = (table, links.is_empty()) {
                return Err(not_replicated(table).into());
            }
            let links = links.into_iter().map(wire_link).collect();
            Ok(v1::ReplicationStatusResponse { links })
        };
        answer(
            &self.context,
            "Replication.ReplicationStatus",
            &metadata,
            ADMIN_LIMIT,
            work,
        )
        .await
    }

    async fn list_quarantine(
        &self,
        request: Request<v1::ListQuarantineRequest>,
    ) -> Answered<v1::ListQuarantineResponse> {
        let (metadata, _, message) = request.into_parts();
        let work = |_| async move { quarantine::list(&self.context, message).await };
        answer(
            &self.context,
            "Replication.ListQuarantine",
            &metadata,
            ADMIN_LIMIT,
            work,
        )
        .await
    }

    async fn discard_quarantine(
        &self,
        request: Request<v1::DiscardQuarantineRequest>,
    ) -> Answered<v1::DiscardQuarantineResponse> {
        let (metadata, _, message) = request.into_parts();
        let work = |call| async move { quarantine::discard(&self.context, &call, message).await };
        answer(
            &self.context,
            "Replication.DiscardQuarantine",
            &metadata,
            ADMIN_LIMIT,
            work,
        )
        .await
    }
}

/// In a request to add a peer: its number is to be asked of it.
const NOT_GIVEN: RegionId = RegionId(0);

/// Asks a peer at its addresses for its number. Connections of its own: the peer is not registered yet, and may not be.
async fn ask_region(context: &ServiceContext, record: &PeerRecord) -> tidemark_base::Result<RegionId> {
    let connector = RegionClients::new(context.identity.clone(), context.peers.dialer().clone());
    let link = connector.link(record);
    let found = link.identify(context.identity.region_identity()).await.map_err(|error| {
        let message = format!("the number of region {} cannot be asked: {}", record.name, error.message());
        let error = match error.delay() {
            Some(delay) => Error::new(error.kind(), error.reason().to_owned(), message).retry_after(delay),
            None => Error::new(error.kind(), error.reason().to_owned(), message),
        };
        error
            .object(format!("peer {}", record.name))
            .action("give it: tidemark peer add NAME --region NUMBER --addresses HOST:PORT; or start that region and repeat")
    })?;
    if found.region.name != record.name {
        let message = format!(
            "the region at these addresses calls itself {}, not {}",
            found.region.name, record.name
        );
        return Err(Error::new(ErrorKind::FailedPrecondition, "PEER_MISMATCH", message)
            .object(format!("peer {}", record.name))
            .action(format!("use its name, {}, or other addresses", found.region.name)));
    }
    Ok(found.region.region)
}

fn not_replicated(table: &str) -> Error {
    let message = format!("table {table} is not replicated");
    Error::new(ErrorKind::FailedPrecondition, "NOT_REPLICATED", message)
        .object(format!("table {table}"))
        .action(format!("tidemark replication enable {table} --peer NAME"))
}

fn wire_link(link: LinkReport) -> v1::LinkStatus {
    v1::LinkStatus {
        table: link.table,
        peer: link.peer,
        state: link.state.name().to_owned(),
        cause: link.cause,
        action: link.action,
        outgoing: Some(v1::Outgoing {
            lag_ms: link.outgoing.lag_ms,
            backlog_records: link.outgoing.backlog_records,
            backlog_bytes: link.outgoing.backlog_bytes,
            rows_shipped: link.outgoing.rows_shipped,
            bytes_shipped: link.outgoing.bytes_shipped,
            acknowledged_micros: link.outgoing.acknowledged_micros,
            lag_known: link.outgoing.lag_known,
        }),
        incoming: Some(v1::Incoming {
            rpo_ms: link.incoming.rpo_ms,
            applied_micros: link.incoming.applied_micros,
            complete_micros: link.incoming.complete_micros,
            rows_quarantined: link.incoming.rows_quarantined,
            rows_applied: link.incoming.rows_applied,
            rpo_known: link.incoming.rpo_known,
        }),
        streams: link.streams.into_iter().map(wire_stream).collect(),
    }
}

fn wire_stream(stream: StreamReport) -> v1::StreamStatus {
    v1::StreamStatus {
        tablet: stream.tablet,
        state: stream.state.name().to_owned(),
        lag_ms: stream.lag_ms,
        lag_known: stream.lag_known,
        backlog_records: stream.backlog_records,
        backlog_bytes: stream.backlog_bytes,
        cause: stream.cause,
    }
}
