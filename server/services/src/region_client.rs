//! The way to other regions: tries a peer's addresses in turn and stays with the one that works.
//!
//! Every request between regions may be repeated without harm, so a connection that breaks under way is a reason to ask
//! the next address, not to give up. Streams are spread over a few lanes, each with its own connection and its own choice
//! of address, so that one slow node of the peer does not carry everything.

use crate::channel::{MESSAGE_BYTES_MAX, channel};
use crate::context::NodeIdentity;
use crate::convert::region as convert;
use crate::errors::from_status;
use crate::peer_client::timed;
use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tidemark_base::{Error, ErrorKind, Result};
use tidemark_catalog::PeerRecord;
use tidemark_proto::Dialer;
use tidemark_proto::region::region_client::RegionClient;
use tidemark_replication::{
    PeerConnector, PeerIdentity, PeerLink, PrepareTable, Prepared, RegionIdentity, ReleaseTable, Ship, Shipped,
};
use tonic::transport::Channel;
use tonic::{Response, Status};

/// Lanes (connections) per peer. Two, so that one connection's flow control does not stall all streams; not measured yet.
const LANES: usize = 2;
/// A question to another region, a slow WAN included.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// Preparing a table creates it there and waits for its tablets.
const PREPARE_LIMIT: Duration = Duration::from_secs(30);
/// A run is committed by a quorum there before it is answered.
const SHIP_LIMIT: Duration = Duration::from_secs(30);

/// Links to peer regions, kept per peer.
pub struct RegionClients {
    identity: NodeIdentity,
    dialer: Dialer,
    links: Mutex<BTreeMap<String, Arc<RegionLink>>>,
}

impl RegionClients {
    /// No link yet.
    pub fn new(identity: NodeIdentity, dialer: Dialer) -> Arc<RegionClients> {
        Arc::new(RegionClients {
            identity,
            dialer,
            links: Mutex::default(),
        })
    }
}

impl PeerConnector for RegionClients {
    fn link(&self, peer: &PeerRecord) -> Arc<dyn PeerLink> {
        let mut links = self.links.lock();
        match links.get(&peer.name) {
            Some(link) if link.addresses == peer.addresses => link.clone(),
            _ => {
                let link = Arc::new(RegionLink::new(
                    peer,
                    self.identity.node.0 as usize,
                    self.dialer.clone(),
                ));
                links.insert(peer.name.clone(), link.clone());
                link
            }
        }
    }
}

struct RegionLink {
    dialer: Dialer,
    peer: String,
    addresses: Vec<String>,
    lanes: Vec<Lane>,
}

/// A connection for each address, and the one that worked last.
struct Lane {
    channels: Mutex<Vec<Option<Channel>>>,
    current: AtomicUsize,
}

impl RegionLink {
    fn new(peer: &PeerRecord, node: usize, dialer: Dialer) -> RegionLink {
        let count = peer.addresses.len().max(1);
        let lane = |lane: usize| Lane {
            channels: Mutex::new(vec![None; peer.addresses.len()]),
            // Nodes of this region start at different nodes of the other one.
            current: AtomicUsize::new((node + lane) % count),
        };
        RegionLink {
            dialer,
            peer: peer.name.clone(),
            addresses: peer.addresses.clone(),
            lanes: (0..LANES).map(lane).collect(),
        }
    }

    fn client(&self, lane: &Lane, index: usize) -> Result<RegionClient<Channel>> {
        let mut channels = lane.channels.lock();
        let connected = match &channels[index] {
            Some(channel) => channel.clone(),
            None => channels[index]
                .insert(channel(&self.dialer, &self.addresses[index])?)
                .clone(),
        };
        let client = RegionClient::new(connected);
        Ok(client
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// Asks the peer's addresses in turn, beginning with the one that worked last, until one answers.
    async fn ask<T, F>(&self, lane: usize, limit: Duration, exchange: impl Fn(RegionClient<Channel>) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        let lane = &self.lanes[lane % LANES];
        let first = lane.current.load(Ordering::Relaxed);
        let mut last = None;
        for step in 0..self.addresses.len() {
            let index = (first + step) % self.addresses.len();
            let client = self.client(lane, index)?;
            let error = match tokio::time::timeout(limit, exchange(client)).await {
                Ok(Ok(response)) => {
                    lane.current.store(index, Ordering::Relaxed);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => from_status(&status).error,
                Err(_) => crate::call::overdue(limit),
            };
            if !matches!(
                error.reason(),
                "PEER_UNREACHABLE" | "CONNECTION_LOST" | "DEADLINE_EXCEEDED"
            ) {
                lane.current.store(index, Ordering::Relaxed);
                return Err(error);
            }
            last = Some(format!("{}: {}", self.addresses[index], error.message()));
        }
        Err(self.unreachable(last))
    }

    fn unreachable(&self, last: Option<String>) -> Error {
        let why = last.unwrap_or_else(|| "no address is registered".to_owned());
        let message = format!("no node of region {} answers; {why}", self.peer);
        Error::new(ErrorKind::Unavailable, "PEER_UNREACHABLE", message)
            .object(format!("peer {}", self.peer))
            .action("check the region and the network between; addresses are changed with: tidemark peer add")
            .retry_after(Duration::from_millis(500))
    }
}

#[async_trait]
impl PeerLink for RegionLink {
    async fn identify(&self, asker: RegionIdentity) -> Result<PeerIdentity> {
        let request = tidemark_proto::region::IdentifyRequest {
            from: Some(convert::wire_region(&asker)),
        };
        let exchange = |mut client: RegionClient<Channel>| {
            let request = timed(request.clone(), ASK_LIMIT);
            async move { client.identify(request).await }
        };
        convert::identity(self.ask(0, ASK_LIMIT, exchange).await?)
    }

    async fn prepare_table(&self, request: PrepareTable) -> Result<Prepared> {
        let request = convert::wire_prepare(&request);
        let exchange = |mut client: RegionClient<Channel>| {
            let request = timed(request.clone(), PREPARE_LIMIT);
            async move { client.prepare_table(request).await }
        };
        self.ask(0, PREPARE_LIMIT, exchange).await.map(convert::prepared)
    }

    async fn release_table(&self, request: ReleaseTable) -> Result<()> {
        let request = convert::wire_release(&request);
        let exchange = |mut client: RegionClient<Channel>| {
            let request = timed(request.clone(), PREPARE_LIMIT);
            async move { client.release_table(request).await }
        };
        self.ask(0, PREPARE_LIMIT, exchange).await.map(|_| ())
    }

    async fn ship(&self, ship: Ship) -> Result<Shipped> {
        let lane = ship.tablet.0 as usize;
        let request = convert::wire_ship(ship);
        let exchange = |mut client: RegionClient<Channel>| {
            let request = timed(request.clone(), SHIP_LIMIT);
            async move { client.ship(request).await }
        };
        self.ask(lane, SHIP_LIMIT, exchange).await.map(convert::shipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_base::{NodeId, RegionId};

    fn identity() -> NodeIdentity {
        NodeIdentity {
            cluster: "c".into(),
            region_name: "east".into(),
            region: RegionId(1),
            node: NodeId(1),
            address: "127.0.0.1:1".into(),
            version: "0".into(),
            incarnation: String::new(),
        }
    }

    #[tokio::test]
    async fn a_region_that_is_away_is_unavailable_and_named() {
        // A listener that is dropped again: nobody listens on its port.
        let gone = || {
            std::net::TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .to_string()
        };
        let peer = PeerRecord {
            name: "west".into(),
            region: RegionId(2),
            addresses: vec![gone(), gone()],
        };
        let clients = RegionClients::new(identity(), Dialer::system());
        let error = clients
            .link(&peer)
            .identify(identity().region_identity())
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.reason()),
            (ErrorKind::Unavailable, "PEER_UNREACHABLE")
        );
        assert!(error.message().contains("west"), "{error}");
    }
}
