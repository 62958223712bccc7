//! The product's network seams over turmoil's connections, which count what is sent from whom to whom.

use async_trait::async_trait;
use futures::StreamExt;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tidemark_node::surroundings::{Listener, Network};
use tidemark_proto::dial::Dialing;
use tidemark_proto::{Accepted, ByteStream, Dial, Dialer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

/// The port on which every node listens; each is a host of its own.
pub const PORT: u16 = 7311;

/// Messages by sender and receiver. One simulation a process, so one map.
static SENT: Mutex<BTreeMap<(String, String), Arc<AtomicU64>>> = Mutex::new(BTreeMap::new());

fn counter(from: &str, to: &str) -> Arc<AtomicU64> {
    SENT.lock().entry((from.to_owned(), to.to_owned())).or_default().clone()
}

/// How many messages one host has sent to the other, arrived or not.
pub fn sent(from: &str, to: &str) -> u64 {
    counter(from, to).load(Ordering::Relaxed)
}

/// Connects to simulated hosts, by `name:port`.
struct SimulatedDial {
    from: String,
}

impl Dial for SimulatedDial {
    fn dial(&self, address: String) -> Dialing {
        let to = address.split(':').next().unwrap_or_default().to_owned();
        let sent = counter(&self.from, &to);
        Box::pin(async move {
            sent.fetch_add(1, Ordering::Relaxed);
            let stream = TcpStream::connect(address.as_str()).await?;
            Ok(Box::new(Counted { stream, sent }) as Box<dyn ByteStream>)
        })
    }
}

/// The way of one host to the others.
pub fn dialer(from: &str) -> Dialer {
    Dialer::through(Arc::new(SimulatedDial { from: from.to_owned() }))
}

/// What a node is given.
#[derive(Clone, Debug)]
pub struct SimulatedNetwork {
    name: String,
}

impl SimulatedNetwork {
    /// For the host of that name.
    pub fn of(name: &str) -> SimulatedNetwork {
        SimulatedNetwork { name: name.to_owned() }
    }
}

#[async_trait]
impl Network for SimulatedNetwork {
    fn dialer(&self) -> Dialer {
        dialer(&self.name)
    }

    async fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        let listener = TcpListener::bind(address).await?;
        let own = self.name.clone();
        let accepted = futures::stream::unfold((listener, own), |(listener, own)| async {
            let accepted = listener.accept().await.map(|(stream, peer)| {
                let to = turmoil::reverse_lookup(peer.ip()).unwrap_or_default();
                let sent = counter(&own, &to);
                Accepted(Box::new(Counted { stream, sent }))
            });
            Some((accepted, (listener, own)))
        });
        Ok(Listener::Connections(accepted.boxed()))
    }

    /// Nobody in a simulation reads pages.
    async fn listen_for_pages(&self, _address: SocketAddr) -> io::Result<Option<tokio::net::TcpListener>> {
        Ok(None)
    }
}

/// A connection that counts its messages.
struct Counted {
    stream: TcpStream,
    sent: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if matches!(written, Poll::Ready(Ok(_))) {
            self.sent.fetch_add(1, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
