//! The stream of writes: requests are taken as they come, written at the same time, answered as they end.
//!
//! ```text
//! loop until the client has ended and everything is answered:
//!     a write ended            -> answer it
//!     room in the window?      -> the next request: cut it, give it a place in the lane of each tablet, start it
//!     the client went away, or takes no answer for a minute     -> stop
//! ```
//! Without room the stream is not read, so HTTP/2's flow control stops the client. Requests that touch one tablet are
//! submitted to it in the stream's order: a tablet here takes the next one as soon as the one before is in its queue, a
//! tablet elsewhere when the one before is answered.

use crate::call::{Call, CallMetrics, DATA_LIMIT, STALL, overdue};
use crate::context::ServiceContext;
use crate::errors::{Failure, to_wire};
use crate::write::{Place, Plan, execute, plan};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use prost::Message;
use std::collections::BTreeMap;
use std::time::Duration;
use tidemark_base::TabletId;
use tidemark_proto::v1::{self, write_stream_response};
use tokio::sync::{mpsc, oneshot};
use tonic::metadata::MetadataMap;
use tonic::{Status, Streaming};

/// Bytes of unanswered requests of one stream; one request more may be under way.
const WINDOW_BYTES: usize = 16 << 20;
/// Unanswered requests of one stream.
const WINDOW_REQUESTS: usize = 1_024;
/// How long a request of a stream waits for its share of the node's bytes.
const PATIENCE: Duration = Duration::from_secs(2);
/// Answers that wait for the client to read them.
pub const ANSWERS_MAX: usize = 64;

type Answer = Result<v1::WriteStreamResponse, Status>;

/// Serves one stream until it ends.
pub async fn serve(
    context: ServiceContext,
    metadata: MetadataMap,
    incoming: Streaming<v1::WriteStreamRequest>,
    answers: mpsc::Sender<Answer>,
) {
    let mut stream = WriteStream {
        call_metrics: CallMetrics::new(&context.metrics),
        context: &context,
        metadata,
        lanes: BTreeMap::new(),
        bytes: 0,
    };
    stream.run(incoming, &answers).await;
}

struct WriteStream<'a> {
    context: &'a ServiceContext,
    call_metrics: CallMetrics,
    metadata: MetadataMap,
    /// The last place in the lane of each tablet that the stream has touched.
    lanes: BTreeMap<TabletId, Option<oneshot::Receiver<()>>>,
    /// Bytes of unanswered requests.
    bytes: usize,
}

/// A request that ended.
struct Ended {
    id: u64,
    bytes: usize,
    began: Duration,
    outcome: Result<v1::WriteResponse, Failure>,
}

impl<'a> WriteStream<'a> {
    async fn run(&mut self, mut incoming: Streaming<v1::WriteStreamRequest>, answers: &mpsc::Sender<Answer>) {
        let mut running: FuturesUnordered<BoxFuture<'a, Ended>> = FuturesUnordered::new();
        let mut open = true;
        while open || !running.is_empty() {
            let room = self.bytes < WINDOW_BYTES && running.len() < WINDOW_REQUESTS;
            tokio::select! {
                Some(ended) = running.next() => {
                    // What is still running is not polled meanwhile, and holds bytes of the node's budget.
                    if answers.send_timeout(Ok(self.answer(ended)), STALL).await.is_err() {
                        return;
                    }
                }
                message = incoming.message(), if open && room => match message {
                    Ok(Some(request)) => {
                        let started = self.start(request).await;
                        running.push(started);
                    }
                    Ok(None) => open = false,
                    // The client reset the stream or sent what cannot be read: nobody waits for the rest.
                    Err(status) => {
                        let _ = answers.send_timeout(Err(status), STALL).await;
                        return;
                    }
                },
                () = answers.closed() => return,
            }
        }
    }

    /// Cuts a request and gives it its places: in the order of the stream, so before anything is awaited for the next.
    async fn start(&mut self, request: v1::WriteStreamRequest) -> BoxFuture<'a, Ended> {
        let id = request.id;
        let bytes = request.encoded_len();
        let began = self.context.clock.monotonic();
        self.bytes += bytes;
        let plan = plan(self.context, &request.write.unwrap_or_default()).await;
        let places = plan.as_ref().map(|plan| self.places(plan)).unwrap_or_default();
        let context = self.context;
        // The stream's own deadline is for the stream; a request in it has the time that a single one has.
        let mut metadata = self.metadata.clone();
        metadata.remove("grpc-timeout");
        let call = Call::new(&context.clock, &metadata, DATA_LIMIT);
        Box::pin(async move {
            let work = async {
                let plan = plan?;
                let _bytes = context.admission.write_in_turn(bytes, PATIENCE).await?;
                execute(context, &call, plan, Some(places)).await
            };
            let outcome = tokio::time::timeout(DATA_LIMIT, work).await;
            Ended {
                id,
                bytes,
                began,
                outcome: outcome.unwrap_or_else(|_| Err(overdue(DATA_LIMIT).into())),
            }
        })
    }

    fn places(&mut self, plan: &Plan) -> BTreeMap<TabletId, Place> {
        let place = |tablet| (tablet, Place::next(self.lanes.entry(tablet).or_default()));
        plan.tablets().map(place).collect()
    }

    fn answer(&mut self, ended: Ended) -> v1::WriteStreamResponse {
        self.bytes -= ended.bytes;
        let took = self.context.clock.monotonic().saturating_sub(ended.began);
        let kind = ended.outcome.as_ref().err().map(|failure| failure.error.kind());
        self.call_metrics.count("Data.WriteStream", kind, took);
        let result = match ended.outcome {
            Ok(response) => write_stream_response::Result::Response(response),
            Err(failure) => write_stream_response::Result::Error(to_wire(&failure.error)),
        };
        v1::WriteStreamResponse {
            id: ended.id,
            result: Some(result),
        }
    }
}
