//! Channels to nodes: a few HTTP/2 connections for each address, opened when first used and reopened by themselves.
//!
//! All settings are explicit. Connections open quickly or fail quickly, and a peer that is silent for two seconds is
//! asked for a sign of life, so that a node that vanished without a word is found within four.

use crate::error::Failure;
use crate::options::{ClientOptions, check_address};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tidemark_proto::Dialer;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

/// Greatest message in either direction: the greatest batch (16 MiB) with room for what is around it.
pub(crate) const MESSAGE_BYTES_MAX: usize = 24 << 20;
/// HTTP/2 windows, of a stream and of a connection: enough for a scan at full speed over 10 ms.
const WINDOW_BYTES: u32 = 8 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Addresses remembered; far more than a client meets, so that beyond it all are forgotten together.
const NODES_MAX: usize = 4_096;
/// How long a node that could not be reached is avoided where another will do.
const AVOID: Duration = Duration::from_secs(1);

/// One node's channels.
#[derive(Debug)]
pub(crate) struct NodeChannels {
    channels: Vec<Channel>,
    next: AtomicUsize,
    failed_at: Mutex<Option<Instant>>,
}

impl NodeChannels {
    /// The channels in turn.
    pub(crate) fn channel(&self) -> Channel {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.channels.len();
        self.channels[at].clone()
    }

    pub(crate) fn note_unreachable(&self) {
        *self.failed_at.lock() = Some(Instant::now());
    }

    pub(crate) fn note_answer(&self) {
        *self.failed_at.lock() = None;
    }

    fn avoided(&self) -> bool {
        self.failed_at.lock().is_some_and(|at| at.elapsed() < AVOID)
    }
}

/// All channels of a client, by address.
#[derive(Debug)]
pub(crate) struct Connections {
    connect_timeout: Duration,
    per_node: usize,
    dialer: Dialer,
    nodes: Mutex<HashMap<String, Arc<NodeChannels>>>,
}

impl Connections {
    pub(crate) fn new(options: &ClientOptions) -> Connections {
        Connections {
            connect_timeout: options.connect_timeout,
            per_node: options.connections_per_node,
            dialer: options.dialer.clone(),
            nodes: Mutex::new(HashMap::new()),
        }
    }

    /// The channels to that address. Does not wait: a connection opens with the first request.
    pub(crate) fn node(&self, address: &str) -> Result<Arc<NodeChannels>, Failure> {
        let mut nodes = self.nodes.lock();
        if let Some(node) = nodes.get(address) {
            return Ok(node.clone());
        }
        check_address(address).map_err(Failure::local)?;
        if nodes.len() >= NODES_MAX {
            nodes.clear();
        }
        let endpoint = self.endpoint(address)?;
        let node = Arc::new(NodeChannels {
            channels: (0..self.per_node).map(|_| self.dialer.channel(&endpoint)).collect(),
            next: AtomicUsize::new(0),
            failed_at: Mutex::new(None),
        });
        nodes.insert(address.to_owned(), node.clone());
        Ok(node)
    }

    /// True if the node could not be reached a moment ago.
    pub(crate) fn avoided(&self, address: &str) -> bool {
        self.nodes.lock().get(address).is_some_and(|node| node.avoided())
    }

    fn endpoint(&self, address: &str) -> Result<Endpoint, Failure> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| {
            let message = format!("address {address:?}: {e}");
            Failure::local(crate::ClientError::new(
                crate::ErrorKind::InvalidArgument,
                "OPTIONS_INVALID",
                message,
            ))
        })?;
        Ok(endpoint
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(Duration::from_secs(10)))
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .http2_max_header_list_size(16 << 10)
            .buffer_size(1_024)
            .user_agent(concat!("tidemark-client/", env!("CARGO_PKG_VERSION")))
            .expect("a constant that is a legal header value"))
    }
}
