//! The product's network seams over turmoil's connections.

use async_trait::async_trait;
use futures::StreamExt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tidemark_node::surroundings::{Listener, Network};
use tidemark_proto::dial::Dialing;
use tidemark_proto::{Accepted, ByteStream, Dial, Dialer};
use turmoil::net::{TcpListener, TcpStream};

/// The port on which every node listens; each is a host of its own.
pub const PORT: u16 = 7311;

/// Connects to simulated hosts, by `name:port`.
struct SimulatedDial;

impl Dial for SimulatedDial {
    fn dial(&self, address: String) -> Dialing {
        Box::pin(async move {
            let connected = TcpStream::connect(address.as_str()).await?;
            Ok(Box::new(connected) as Box<dyn ByteStream>)
        })
    }
}

/// The way to simulated hosts.
pub fn dialer() -> Dialer {
    Dialer::through(Arc::new(SimulatedDial))
}

/// What a node is given.
#[derive(Clone, Copy, Debug)]
pub struct SimulatedNetwork;

#[async_trait]
impl Network for SimulatedNetwork {
    fn dialer(&self) -> Dialer {
        dialer()
    }

    async fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        let listener = TcpListener::bind(address).await?;
        let accepted = futures::stream::unfold(listener, |listener| async {
            let accepted = listener.accept().await;
            Some((accepted.map(|(stream, _)| Accepted(Box::new(stream))), listener))
        });
        Ok(Listener::Connections(accepted.boxed()))
    }

    /// Nobody in a simulation reads pages.
    async fn listen_for_pages(&self, _address: SocketAddr) -> io::Result<Option<tokio::net::TcpListener>> {
        Ok(None)
    }
}
