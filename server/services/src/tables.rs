//! Tables: created, changed and dropped through the catalog; and what a client needs to route by itself.
//!
//! A change is answered when it works: after create and alter every tablet's leader is asked to have the new schema,
//! bounded in time. A tablet that has no leader then does not fail the request: the table is as the answer says, and its
//! first requests wait for the leader like any others.

use crate::call::{ADMIN_LIMIT, Call, answer};
use crate::context::ServiceContext;
use crate::convert;
use crate::errors::Failure;
use crate::forward::leader_of;
use futures::stream::{self, StreamExt};
use std::time::Duration;
use tidemark_base::names::check_name;
use tidemark_base::{Error, Result, TableId, TabletId, limits};
use tidemark_catalog::{Answer, Command, LinkState, RequestId, TableRecord, alter_hlc};
use tidemark_proto::v1::{self, tables_server::Tables};
use tonic::{Request, Response, Status};

type Answered<T> = std::result::Result<Response<T>, Status>;

/// How long create and alter wait for tablets.
const SETTLE_LIMIT: Duration = Duration::from_secs(15);
/// Between two questions to a tablet that is not ready.
const SETTLE_PAUSE: Duration = Duration::from_millis(50);
/// Tablets asked at one time.
const SETTLE_AT_ONCE: usize = 64;

/// The service.
#[derive(Clone)]
pub struct TablesService {
    context: ServiceContext,
}

impl TablesService {
    /// Answers for the region, through this node.
    pub fn new(context: ServiceContext) -> TablesService {
        TablesService { context }
    }

    async fn create(&self, call: &Call, request: v1::CreateTableRequest) -> std::result::Result<v1::Table, Failure> {
        check_name("table", &request.name)?;
        if request.split_at.len() >= limits::TABLETS_AT_CREATE_MAX {
            let message = format!("{} split keys make too many tablets", request.split_at.len());
            let action = format!("give at most {}", limits::TABLETS_AT_CREATE_MAX - 1);
            return Err(Error::invalid("TABLETS_TOO_MANY", message).action(action).into());
        }
        request.split_at.iter().try_for_each(|row| convert::row_key(row))?;
        let max_future = match request.max_future_ms {
            0 => None,
            ms => Some(convert::max_future_micros(ms)?),
        };
        let command = Command::CreateTable {
            request_id: RequestId::random(&self.context.entropy),
            name: request.name.clone(),
            families: convert::family_specs(&request.families)?,
            split_at: request.split_at,
            max_future_micros: max_future,
            if_not_exists: request.if_not_exists,
            generations: None,
        };
        let table = self.execute(command).await?;
        self.settle(call, table).await;
        Ok(self.described(table)?)
    }

    async fn alter(&self, call: &Call, request: v1::AlterTableRequest) -> std::result::Result<v1::Table, Failure> {
        let clock = &self.context.clock;
        let command = Command::AlterTable {
            request_id: RequestId::random(&self.context.entropy),
            name: request.name.clone(),
            add: convert::family_specs(&request.add_families)?,
            set: convert::family_specs(&request.set_families)?,
            drop: request.drop_families,
            max_future_micros: request.max_future_ms.map(convert::max_future_micros).transpose()?,
            generations: None,
            now_micros: clock.now_micros(),
            hlc: alter_hlc(clock.as_ref()),
        };
        let table = self.execute(command).await?;
        self.settle(call, table).await;
        Ok(self.described(table)?)
    }

    async fn execute(&self, command: Command) -> Result<TableId> {
        match self.context.catalog.execute(command).await? {
            Answer::Table(table) => Ok(table),
            other => Err(Error::internal(format!(
                "the catalog answered {other:?} where a table was expected"
            ))),
        }
    }

    fn described(&self, table: TableId) -> Result<v1::Table> {
        let view = self.context.catalog.view();
        let record = view.table_by_id(table).ok_or_else(|| {
            Error::invalid(
                "TABLE_UNKNOWN",
                "the table was dropped again before it could be answered",
            )
        })?;
        Ok(convert::table(record, &view))
    }

    /// Waits until every tablet's leader has the table's schema, or the time is over.
    async fn settle(&self, call: &Call, table: TableId) {
        let view = self.context.catalog.view();
        let (Some(record), Some(schema)) = (view.table_by_id(table), view.schema(table)) else {
            return;
        };
        if is_being_linked(record) {
            // The schema with the new peer must reach each tablet through the replication layer, which refuses tablets
            // that are not empty; here it would slip past that.
            return;
        }
        let limit = SETTLE_LIMIT.min(call.left().mul_f64(0.8));
        let tablets: Vec<TabletId> = view.tablets_of(table).map(|tablet| tablet.id).collect();
        let count = tablets.len();
        let each = tablets
            .into_iter()
            .map(|tablet| self.offer_schema(tablet, schema.clone()));
        let all = stream::iter(each).buffer_unordered(SETTLE_AT_ONCE).collect::<Vec<()>>();
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::info!(table = %record.name, count, "some tablets are not ready yet");
        }
    }

    /// Asks a tablet's leader to have this schema, until it says yes. The caller bounds the time.
    async fn offer_schema(&self, tablet: TabletId, schema: std::sync::Arc<tidemark_base::TableSchema>) {
        loop {
            let offered = match leader_of(&self.context, tablet) {
                Some(node) if node == self.context.identity.node => match self.context.tablets.get(tablet) {
                    Some(replica) => replica.set_schema(schema.clone(), false).await,
                    None => Err(Error::internal("a tablet stopped")),
                },
                Some(node) => self.context.peers.set_schema(node, tablet, schema.clone(), false).await,
                None => Err(Error::internal("no leader is known yet")),
            };
            match offered {
                Ok(()) => return,
                Err(error) => tracing::debug!(%tablet, %error, "a tablet is not ready yet"),
            }
            tokio::time::sleep(SETTLE_PAUSE).await;
        }
    }

    async fn table(&self, name: &str) -> std::result::Result<v1::Table, Failure> {
        let describe = |table: &crate::context::TableView| {
            let record = table.view.table_or_error(&table.name)?;
            Ok(convert::table(record, &table.view))
        };
        self.context.with_table(name, describe).await
    }

    async fn routing(&self, name: &str) -> std::result::Result<v1::Routing, Failure> {
        let build = |table: &crate::context::TableView| {
            let view = &table.view;
            let record = view.table_or_error(&table.name)?;
            let tablets = view.tablets_of(table.id).map(|tablet| v1::TabletRoute {
                tablet: tablet.id.0,
                range: Some(convert::wire_range(&tablet.range)),
                replicas: tablet.replicas.iter().map(|node| node.0).collect(),
                leader: leader_of(&self.context, tablet.id).map_or(0, |node| node.0),
            });
            Ok(v1::Routing {
                table: record.name.clone(),
                revision: record.revision,
                families: record
                    .families
                    .iter()
                    .map(|f| convert::wire_family(&f.settings))
                    .collect(),
                tablets: tablets.collect(),
                nodes: view.nodes.values().map(convert::node).collect(),
            })
        };
        self.context.with_table(name, build).await
    }
}

/// True between the first and the last step of switching replication on.
fn is_being_linked(record: &TableRecord) -> bool {
    record.links.values().any(|link| link.state == LinkState::Preparing)
}

#[tonic::async_trait]
impl Tables for TablesService {
    async fn create_table(&self, request: Request<v1::CreateTableRequest>) -> Answered<v1::Table> {
        let (metadata, _, message) = request.into_parts();
        let work = |call| async move { self.create(&call, message).await };
        answer(&self.context, "Tables.CreateTable", &metadata, ADMIN_LIMIT, work).await
    }

    async fn list_tables(&self, request: Request<v1::ListTablesRequest>) -> Answered<v1::ListTablesResponse> {
        let (metadata, _, _) = request.into_parts();
        let work = |_| async move {
            // A list says that there is nothing else, which only the catalog as it is now can say.
            self.context.newer_catalog(0).await?;
            let view = self.context.catalog.view();
            let mut tables: Vec<_> = view.tables.values().map(|table| convert::table(table, &view)).collect();
            tables.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(v1::ListTablesResponse { tables })
        };
        answer(&self.context, "Tables.ListTables", &metadata, ADMIN_LIMIT, work).await
    }

    async fn get_table(&self, request: Request<v1::GetTableRequest>) -> Answered<v1::Table> {
        let (metadata, _, message) = request.into_parts();
        let work = |_| async move {
            // Of a table that this node knows, what it knows is answered also while the catalog is away; of another one
            // `with_table` says that.
            let _ = self.context.newer_catalog(0).await;
            self.table(&message.name).await
        };
        answer(&self.context, "Tables.GetTable", &metadata, ADMIN_LIMIT, work).await
    }

    async fn alter_table(&self, request: Request<v1::AlterTableRequest>) -> Answered<v1::Table> {
        let (metadata, _, message) = request.into_parts();
        let work = |call| async move { self.alter(&call, message).await };
        answer(&self.context, "Tables.AlterTable", &metadata, ADMIN_LIMIT, work).await
    }

    async fn drop_table(&self, request: Request<v1::DropTableRequest>) -> Answered<v1::DropTableResponse> {
        let (metadata, _, message) = request.into_parts();
        let work = |_| async move {
            self.context
                .catalog
                .execute(Command::DropTable { name: message.name })
                .await?;
            Ok(v1::DropTableResponse {})
        };
        answer(&self.context, "Tables.DropTable", &metadata, ADMIN_LIMIT, work).await
    }

    async fn get_routing(&self, request: Request<v1::GetRoutingRequest>) -> Answered<v1::Routing> {
        let (metadata, _, message) = request.into_parts();
        let work = |_| async move { self.routing(&message.table).await };
        answer(&self.context, "Tables.GetRouting", &metadata, ADMIN_LIMIT, work).await
    }
}
