//! The service for other regions: hands what they ask to the replication layer.

use crate::call::{ADMIN_LIMIT, answer};
use crate::context::ServiceContext;
use crate::convert::region as convert;
use tidemark_proto::region::{self as wire, region_server::Region};
use tonic::{Request, Response, Status};

type Answered<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Clone)]
pub struct RegionService {
    context: ServiceContext,
}

impl RegionService {
    /// Answers for this region.
    pub fn new(context: ServiceContext) -> RegionService {
        RegionService { context }
    }
}

#[tonic::async_trait]
impl Region for RegionService {
    async fn identify(&self, request: Request<wire::IdentifyRequest>) -> Answered<wire::IdentifyResponse> {
        let (metadata, _, message) = request.into_parts();
        answer(
            &self.context,
            "Region.Identify",
            &metadata,
            ADMIN_LIMIT,
            |_| async move {
                let asker = convert::region(message.from)?;
                let identity = self.context.replicator.on_identify(asker).await?;
                Ok(convert::wire_identity(identity))
            },
        )
        .await
    }

    async fn prepare_table(&self, request: Request<wire::PrepareTableRequest>) -> Answered<wire::PrepareTableResponse> {
        let (metadata, _, message) = request.into_parts();
        answer(
            &self.context,
            "Region.PrepareTable",
            &metadata,
            ADMIN_LIMIT,
            |_| async move {
                let request = convert::prepare(message)?;
                let prepared = self.context.replicator.on_prepare_table(request).await?;
                Ok(convert::wire_prepared(prepared))
            },
        )
        .await
    }

    async fn release_table(&self, request: Request<wire::ReleaseTableRequest>) -> Answered<wire::ReleaseTableResponse> {
        let (metadata, _, message) = request.into_parts();
        answer(
            &self.context,
            "Region.ReleaseTable",
            &metadata,
            ADMIN_LIMIT,
            |_| async move {
                let request = convert::release(message)?;
                self.context.replicator.on_release_table(request).await?;
                Ok(wire::ReleaseTableResponse {})
            },
        )
        .await
    }

    async fn ship(&self, request: Request<wire::ShipRequest>) -> Answered<wire::ShipResponse> {
        let (metadata, _, message) = request.into_parts();
        answer(&self.context, "Region.Ship", &metadata, ADMIN_LIMIT, |_| async move {
            self.context.admission.check_disk()?;
            let ship = convert::ship(message)?;
            let shipped = self.context.replicator.on_ship(ship).await?;
            Ok(convert::wire_shipped(shipped))
        })
        .await
    }
}
