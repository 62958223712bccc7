//! The gRPC server of a node: every service on one listener, with its bounds set explicitly.
//!
//! Explicit, because the library's defaults are not ours: without a value it takes any number of streams per connection,
//! messages of 4 MiB, and no keep-alive, so that a dead client holds its connection for hours.

use crate::channel::{HEADER_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::cluster::ClusterService;
use crate::context::ServiceContext;
use crate::data::DataService;
use crate::peer::PeerService;
use crate::region::RegionService;
use crate::replication::ReplicationService;
use crate::tables::TablesService;
use std::time::Duration;
use tidemark_proto::internal::peer_server::PeerServer;
use tidemark_proto::region::region_server::RegionServer;
use tidemark_proto::v1::cluster_server::ClusterServer;
use tidemark_proto::v1::data_server::DataServer;
use tidemark_proto::v1::replication_server::ReplicationServer;
use tidemark_proto::v1::tables_server::TablesServer;
use tidemark_runtime::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// Requests under way on one connection. A client pipelines some hundred; more wait in its own library.
const STREAMS_MAX: u32 = 1_024;
/// HTTP/2 flow control, per stream and per connection: what a client may have sent before it is read.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// The largest frame that clients may send. A batch of a third of a megabyte is three of them instead of twenty-one of HTTP/2's
/// usual size, each of which costs a write and a read; a small request that waits behind one waits a fraction of a
/// millisecond.
const FRAME_BYTES_MAX: u32 = 128 << 10;
/// Streams that were reset before they were accepted, per connection: a guard against a flood of resets.
const RESETS_MAX: usize = 256;
/// A silent connection is probed that often, and closed when the answer takes longer than the limit.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_LIMIT: Duration = Duration::from_secs(10);
/// How long requests under way have to end once the node stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(4);
/// How long the acceptor pauses after it could not accept (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `shutdown`, then lets requests under way end, bounded in time.
pub async fn serve(listener: TcpListener, context: ServiceContext, shutdown: Shutdown) {
    let accepted = TcpListenerStream::new(listener).then(|accepted| async {
        if let Ok(connection) = &accepted {
            // Set here, because the server sets it only on listeners of its own.
            let _ = connection.set_nodelay(true);
        } else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
        accepted
    });
    serve_connections(accepted, context, shutdown).await;
}

/// The same for connections that come from elsewhere.
pub async fn serve_connections<S, C>(accepted: S, context: ServiceContext, shutdown: Shutdown)
where
    S: Stream<Item = std::io::Result<C>>,
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (routes, health) = match routes(context, shutdown.clone()).await {
        Ok(assembled) => assembled,
        Err(error) => {
            tracing::error!(%error, "the gRPC services cannot be assembled");
            return;
        }
    };
    let server = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_LIMIT))
        .http2_max_pending_accept_reset_streams(Some(RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(RESETS_MAX))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(30)))
        .add_routes(routes);
    let serving = server.serve_with_incoming_shutdown(accepted, shutdown.wait_owned());
    let overdue = async {
        shutdown.wait().await;
        report(&health, ServingStatus::NotServing).await;
        tokio::time::sleep(DRAIN_LIMIT).await;
    };
    tokio::select! {
        served = serving => match served {
            Ok(()) => tracing::debug!("the gRPC server has stopped"),
            Err(error) => tracing::error!(%error, "the gRPC server failed"),
        },
        () = overdue => tracing::info!("requests that did not end in time are cut off"),
    }
}

/// All services, health and reflection.
async fn routes(
    context: ServiceContext,
    shutdown: Shutdown,
) -> Result<(Routes, HealthReporter), tonic_reflection::server::Error> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tidemark_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let (health, health_server) = tonic_health::server::health_reporter();
    report(&health, ServingStatus::Serving).await;
    let mut routes = Routes::builder();
    routes
        .add_service(health_server)
        .add_service(reflection)
        .add_service(sized!(DataServer::new(DataService::new(context.clone()))))
        .add_service(sized!(TablesServer::new(TablesService::new(context.clone()))))
        .add_service(sized!(ReplicationServer::new(ReplicationService::new(context.clone()))))
        .add_service(sized!(ClusterServer::new(ClusterService::new(context.clone()))))
        .add_service(sized!(PeerServer::new(PeerService::new(context.clone(), shutdown))))
        .add_service(sized!(RegionServer::new(RegionService::new(context))));
    Ok((routes.routes(), health))
}

/// Says of the whole server and of each public service how it is.
async fn report(health: &HealthReporter, status: ServingStatus) {
    let public = [
        "",
        DataServer::<DataService>::NAME,
        TablesServer::<TablesService>::NAME,
        ReplicationServer::<ReplicationService>::NAME,
        ClusterServer::<ClusterService>::NAME,
    ];
    for service in public {
        health.set_service_status(service, status).await;
    }
}

/// Sets the size of messages on a generated server; they share no trait that could.
macro_rules! sized {
    ($server:expr) => {
        $server
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    };
}
use sized;
