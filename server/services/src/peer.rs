//! The internal service, node to node: what this node does for its neighbours. Nothing here forwards: a node that is asked
//! for what it does not lead says so.

use crate::call::{ADMIN_LIMIT, answer, overdue};
use crate::context::ServiceContext;
use crate::convert::region_id;
use crate::errors::{Failure, to_wire};
use crate::forward::{hint, not_leader};
use crate::quarantine;
use bytes::Bytes;
use futures::FutureExt;
use futures::stream::{BoxStream, StreamExt};
use prost::Message;
use std::future::ready;
use std::time::Duration;
use tidemark_base::{Error, ErrorKind, GroupId, NodeId, TableSchema, TabletId};
use tidemark_consensus::{HandleError, MessageKind, RaftMessage};
use tidemark_proto::internal::{self as wire, peer_server::Peer};
use tidemark_runtime::Shutdown;
use tidemark_tablet::Tablet;
use tonic::{Request, Response, Status, Streaming};

/// Messages of one line that are being handled; more wait in the connection.
const LINE_MESSAGES_MAX: usize = 1_024;
/// None of them is handled for longer than that.
const LINE_TIMEOUT_MAX: Duration = Duration::from_secs(30);

type Answered<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Clone)]
pub struct PeerService {
    context: ServiceContext,
    shutdown: Shutdown,
}

impl PeerService {
    /// Answers for this node. Lines end with `shutdown`, or the server would wait for them.
    pub fn new(context: ServiceContext, shutdown: Shutdown) -> PeerService {
        PeerService { context, shutdown }
    }

    async fn raft_message(&self, request: wire::RaftRequest) -> Result<Bytes, Failure> {
        // The hottest path between nodes: no span, no histogram; consensus has its own time-outs and numbers.
        self.check(request.hello)?;
        let code = u8::try_from(request.kind).ok().and_then(MessageKind::from_code);
        let kind = code.ok_or_else(|| {
            let message = format!("Raft message of kind {} is not known to this release", request.kind);
            Failure::from(Error::new(ErrorKind::Unsupported, "MESSAGE_UNKNOWN", message))
        })?;
        let message = RaftMessage {
            group: GroupId(request.group),
            kind,
            body: request.body,
        };
        let handled = self.context.host.handle(message).await;
        handled.map_err(|error| handle_error(error).into())
    }

    /// The answer to a message of a line. Its failure is its own; the line goes on.
    async fn line_answer(self, request: wire::RaftRequest) -> wire::RaftAnswer {
        let id = request.id;
        let wanted = Duration::from_millis(u64::from(request.timeout_ms)).min(LINE_TIMEOUT_MAX);
        let failure = match tokio::time::timeout(wanted, self.raft_message(request)).await {
            Ok(Ok(body)) => {
                return wire::RaftAnswer {
                    id,
                    body,
                    ..wire::RaftAnswer::default()
                };
            }
            Ok(Err(failure)) => failure,
            // Nobody hears it; what it held of the line's bound is free.
            Err(_) => overdue(wanted).into(),
        };
        wire::RaftAnswer {
            id,
            error: to_wire(&failure.error).encode_to_vec().into(),
            ..wire::RaftAnswer::default()
        }
    }

    /// A node of another cluster that took over an address must not vote, nor one that lost its directory: under its old
    /// number it has forgotten what it promised. So neither the sender nor this node may be another than the other expects.
    fn check(&self, hello: Option<wire::Hello>) -> Result<(), Failure> {
        let hello = hello.unwrap_or_default();
        let identity = &self.context.identity;
        let from = NodeId(hello.from);
        if hello.cluster == identity.cluster && hello.to == identity.node.0 {
            if !hello.to_incarnation.is_empty() && hello.to_incarnation != identity.incarnation {
                let message = format!("this is not the {} that {from} knows", identity.node);
                return Err(Error::new(ErrorKind::FailedPrecondition, "WRONG_NODE", message)
                    .action("a node that lost its data directory starts under a new node.id")
                    .into());
            }
            let view = self.context.catalog.view();
            let known = view.nodes.get(&from);
            return Ok(known.map_or(Ok(()), |record| record.check_incarnation(&hello.from_incarnation))?);
        }
        let message = format!(
            "this is n{} of cluster {:?}; the message is from n{} to n{} of cluster {:?}",
            identity.node.0, identity.cluster, hello.from, hello.to, hello.cluster
        );
        Err(Error::new(ErrorKind::FailedPrecondition, "WRONG_NODE", message)
            .action("check the addresses of the seed nodes: two nodes share one, or clusters were mixed")
            .into())
    }

    /// The replica here, if it leads.
    fn led_here(&self, tablet: u64) -> Result<Tablet, Failure> {
        let tablet = TabletId(tablet);
        let here = self.context.tablets.get(tablet);
        let led = here.filter(|replica| replica.group().leader() == Some(self.context.identity.node));
        led.ok_or_else(|| Failure {
            error: not_leader(&self.context, tablet),
            hint: hint(&self.context, tablet),
        })
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn raft(&self, request: Request<wire::RaftRequest>) -> Answered<wire::RaftResponse> {
        let body = self.raft_message(request.into_inner()).await?;
        Ok(Response::new(wire::RaftResponse { body }))
    }

    type RaftLineStream = BoxStream<'static, Result<wire::RaftAnswer, Status>>;

    async fn raft_line(&self, request: Request<Streaming<wire::RaftRequest>>) -> Answered<Self::RaftLineStream> {
        let service = self.clone();
        let over = self.shutdown.wait_owned();
        // Behind a request that cannot be read nothing comes any more.
        let requests = request
            .into_inner()
            .take_until(over)
            .filter_map(|message| ready(message.ok()));
        let answers = requests.map(move |request| service.clone().line_answer(request).map(Ok));
        Ok(Response::new(answers.buffer_unordered(LINE_MESSAGES_MAX).boxed()))
    }

    async fn ping(&self, request: Request<wire::PingRequest>) -> Answered<wire::PingResponse> {
        self.check(request.into_inner().hello)?;
        let pong = self.context.node_info.pong();
        let leading = pong.leading.into_iter().map(|leading| wire::Leading {
            group: leading.group.0,
            term: leading.term,
            disk_bytes: leading.disk_bytes,
            trouble: leading.trouble,
        });
        Ok(Response::new(wire::PingResponse {
            version: pong.version,
            now_ms: pong.now_ms,
            tablets: pong.tablets,
            disk_used_bytes: pong.disk_used_bytes,
            disk_free_bytes: pong.disk_free_bytes,
            trouble: pong.trouble,
            leading: leading.collect(),
        }))
    }

    async fn streams(&self, request: Request<wire::StreamsRequest>) -> Answered<wire::StreamsResponse> {
        let (metadata, _, message) = request.into_parts();
        answer(&self.context, "Peer.Streams", &metadata, ADMIN_LIMIT, |_| async move {
            self.check(message.hello)?;
            let report = self.context.replicator.node_report().encode().into();
            Ok(wire::StreamsResponse { report })
        })
        .await
    }

    async fn propose_catalog(
        &self,
        request: Request<wire::ProposeCatalogRequest>,
    ) -> Answered<wire::ProposeCatalogResponse> {
        let (metadata, _, message) = request.into_parts();
        answer(
            &self.context,
            "Peer.ProposeCatalog",
            &metadata,
            ADMIN_LIMIT,
            |_| async move {
                self.check(message.hello)?;
                let response = self.context.catalog.handle_forwarded(message.command).await?;
                Ok(wire::ProposeCatalogResponse { response })
            },
        )
        .await
    }

    async fn apply_remote(&self, request: Request<wire::ApplyRemoteRequest>) -> Answered<wire::ApplyRemoteResponse> {
        let (metadata, _, message) = request.into_parts();
        answer(
            &self.context,
            "Peer.ApplyRemote",
            &metadata,
            ADMIN_LIMIT,
            |_| async move {
                self.check(message.hello)?;
                let tablet = self.led_here(message.tablet)?;
                let response = tablet.apply_remote(message.command).await?;
                Ok(wire::ApplyRemoteResponse { response })
            },
        )
        .await
    }

    async fn set_schema(&self, request: Request<wire::SetSchemaRequest>) -> Answered<wire::SetSchemaResponse> {
        let (metadata, _, message) = request.into_parts();
        answer(
            &self.context,
            "Peer.SetSchema",
            &metadata,
            ADMIN_LIMIT,
            |_| async move {
                self.check(message.hello)?;
                let schema = TableSchema::decode(&message.schema)
                    .map_err(|error| Error::invalid("SCHEMA_MALFORMED", error.to_string()))?;
                let tablet = self.led_here(message.tablet)?;
                tablet.set_schema(schema.into(), message.require_empty).await?;
                Ok(wire::SetSchemaResponse {})
            },
        )
        .await
    }

    async fn quarantine(&self, request: Request<wire::QuarantineRequest>) -> Answered<wire::QuarantineResponse> {
        let (metadata, _, message) = request.into_parts();
        let work = |_| async move {
            self.check(message.hello)?;
            let tablet = TabletId(message.tablet);
            let here = self
                .context
                .tablets
                .get(tablet)
                .ok_or_else(|| not_leader(&self.context, tablet))?;
            let region = match message.region {
                0 => None,
                region => Some(region_id(region)?),
            };
            let page = here.quarantine(region, message.limit as usize).await?;
            Ok(quarantine::wire_page(page))
        };
        answer(&self.context, "Peer.Quarantine", &metadata, ADMIN_LIMIT, work).await
    }

    async fn discard_quarantine(
        &self,
        request: Request<wire::DiscardQuarantineRequest>,
    ) -> Answered<wire::DiscardQuarantineResponse> {
        let (metadata, _, message) = request.into_parts();
        let work = |_| async move {
            self.check(message.hello)?;
            let tablet = self.led_here(message.tablet)?;
            let places = message.places.into_iter().map(quarantine::place_from);
            let places = places.collect::<tidemark_base::Result<Vec<_>>>()?;
            let done = tablet.discard_quarantine(region_id(message.region)?, &places).await?;
            Ok(wire::DiscardQuarantineResponse {
                entries: done.entries,
                rows: done.rows,
                bytes: done.bytes,
            })
        };
        answer(&self.context, "Peer.DiscardQuarantine", &metadata, ADMIN_LIMIT, work).await
    }
}

fn handle_error(error: HandleError) -> Error {
    let message = error.to_string();
    match error {
        HandleError::UnknownGroup(group) => {
            Error::new(ErrorKind::NotFound, "GROUP_UNKNOWN", message).object(group.to_string())
        }
        HandleError::Malformed(_) => Error::invalid("MESSAGE_MALFORMED", message),
        HandleError::Failed(_) => Error::new(ErrorKind::Unavailable, "GROUP_FAILED", message),
    }
}
