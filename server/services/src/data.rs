//! The public data service: each method hands its message to its module.

use crate::call::{DATA_LIMIT, answer, spawn_stream};
use crate::context::ServiceContext;
use crate::{aggregate, digest, read, scan, single_row, write, write_stream};
use tidemark_proto::v1::{self, data_server::Data};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

type Answered<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Clone)]
pub struct DataService {
    context: ServiceContext,
}

impl DataService {
    /// Answers for the region, through this node.
    pub fn new(context: ServiceContext) -> DataService {
        DataService { context }
    }
}

#[tonic::async_trait]
impl Data for DataService {
    type WriteStreamStream = ReceiverStream<Result<v1::WriteStreamResponse, Status>>;
    type ScanStream = ReceiverStream<Result<v1::ScanResponse, Status>>;

    async fn write(&self, request: Request<v1::WriteRequest>) -> Answered<v1::WriteResponse> {
        let (metadata, _, message) = request.into_parts();
        let work = |call| async move { write::write(&self.context, &call, message).await };
        answer(&self.context, "Data.Write", &metadata, DATA_LIMIT, work).await
    }

    async fn write_stream(
        &self,
        request: Request<Streaming<v1::WriteStreamRequest>>,
    ) -> Answered<Self::WriteStreamStream> {
        let (metadata, _, incoming) = request.into_parts();
        let (answers, receiver) = mpsc::channel(write_stream::ANSWERS_MAX);
        let context = self.context.clone();
        let out = answers.clone();
        spawn_stream(
            "write stream",
            answers,
            write_stream::serve(context, metadata, incoming, out),
        );
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Answered<v1::ReadResponse> {
        let (metadata, _, message) = request.into_parts();
        let work = |call| async move { read::read(&self.context, &call, message).await };
        answer(&self.context, "Data.Read", &metadata, DATA_LIMIT, work).await
    }

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Answered<Self::ScanStream> {
        let (metadata, _, message) = request.into_parts();
        let work = |call| async move { scan::scan(&self.context, &call, message).await };
        answer(&self.context, "Data.Scan", &metadata, DATA_LIMIT, work).await
    }

    async fn check_and_mutate(
        &self,
        request: Request<v1::CheckAndMutateRequest>,
    ) -> Answered<v1::CheckAndMutateResponse> {
        let (metadata, _, message) = request.into_parts();
        let work = |call| async move { single_row::check_and_mutate(&self.context, &call, message).await };
        answer(&self.context, "Data.CheckAndMutate", &metadata, DATA_LIMIT, work).await
    }

    async fn read_modify_write(
        &self,
        request: Request<v1::ReadModifyWriteRequest>,
    ) -> Answered<v1::ReadModifyWriteResponse> {
        let (metadata, _, message) = request.into_parts();
        let work = |call| async move { single_row::read_modify_write(&self.context, &call, message).await };
        answer(&self.context, "Data.ReadModifyWrite", &metadata, DATA_LIMIT, work).await
    }

    async fn aggregate(&self, request: Request<v1::AggregateRequest>) -> Answered<v1::AggregateResponse> {
        let (metadata, _, message) = request.into_parts();
        let work = |call| async move { aggregate::aggregate(&self.context, &call, message).await };
        // It may read everything, as a digest does.
        answer(
            &self.context,
            "Data.Aggregate",
            &metadata,
            crate::call::ADMIN_LIMIT,
            work,
        )
        .await
    }

    async fn digest(&self, request: Request<v1::DigestRequest>) -> Answered<v1::DigestResponse> {
        let (metadata, _, message) = request.into_parts();
        let work = |call| async move { digest::digest(&self.context, &call, message).await };
        // A digest reads everything: it has the time of an administrative request.
        answer(&self.context, "Data.Digest", &metadata, crate::call::ADMIN_LIMIT, work).await
    }
}
