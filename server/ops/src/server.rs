//! The HTTP/1 listener, bounded in every direction.
//!
//! Built on hyper's connection and not on `axum::serve`, because the latter lets a silent client hold a connection
//! for ever and has no bound on their number.

use crate::pages::Ops;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tidemark_runtime::Shutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

/// Bounds of the listener. Few clients are meant: scrapers, probes, a person.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at one time; more wait in the kernel's queue. Default 64.
    pub connections_max: usize,
    /// Time for a whole request header to arrive, also while a kept-alive connection is idle. Default 30 s.
    pub header_wait_max: Duration,
    /// Time for an answer; after it the page says what is stuck. Default 5 s.
    pub answer_max: Duration,
    /// Time that open connections have to end after the shutdown signal. Default 2 s.
    pub drain_max: Duration,
    /// Header fields in a request; more is answered with 431. Default 64.
    pub headers_max: usize,
    /// Bytes of a request that are buffered, hence the longest header. Default 16 KiB; at least 8 KiB (hyper's bound).
    pub header_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections_max: 64,
            header_wait_max: Duration::from_secs(30),
            answer_max: Duration::from_secs(5),
            drain_max: Duration::from_secs(2),
            headers_max: 64,
            header_bytes_max: 16 * 1024,
        }
    }
}

/// After a failed accept (out of file descriptors, mostly): trying again at once would only burn the CPU.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves the pages until the shutdown signal, then lets open requests finish for a bounded time.
pub async fn serve(listener: TcpListener, ops: Ops, shutdown: Shutdown) {
    serve_with(listener, ops, shutdown, Limits::default()).await;
}

pub(crate) async fn serve_with(listener: TcpListener, ops: Ops, shutdown: Shutdown, limits: Limits) {
    let router = ops.router(limits.answer_max);
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.wait() => break,
            accepted = accept(&listener, &places) => {
                let (stream, place) = accepted;
                connections.spawn(connection(stream, place, router.clone(), shutdown.clone(), limits.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.drain_max, drained).await.is_err() {
        tracing::warn!(
            open = connections.len(),
            "operations listener stopped with requests under way"
        );
    }
}

/// Takes a place first: without one the client waits in the kernel's queue, which costs us nothing.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    let place = places
        .clone()
        .acquire_owned()
        .await
        .expect("the semaphore is private and never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) => {
                tracing::warn!(%error, "operations listener cannot accept");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    router: Router,
    shutdown: Shutdown,
    limits: Limits,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_wait_max)
        .max_headers(limits.headers_max)
        .max_buf_size(limits.header_bytes_max)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.wait() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // A client that hangs up or sends nonsense is its own business.
    if let Err(error) = ended {
        tracing::debug!(%error, "operations connection ended");
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
