//! How a channel reaches its address: through the operating system's sockets, or through a [`Dial`] that the owner of the
//! process brings. Both sides of every wire use it, so it stands here, where tonic is known and nothing else.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::codegen::http::Uri;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};

/// Bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for T {}

/// A connection under way.
pub type Dialing = Pin<Box<dyn Future<Output = io::Result<Box<dyn ByteStream>>> + Send>>;

/// Opens connections.
pub trait Dial: Send + Sync + 'static {
    /// To `host:port`.
    fn dial(&self, address: String) -> Dialing;
}

/// The way to other processes. Clones are the same way.
#[derive(Clone, Default)]
pub struct Dialer(Option<Arc<dyn Dial>>);

impl Dialer {
    /// Through the operating system.
    pub fn system() -> Dialer {
        Dialer(None)
    }

    /// Through somebody else's connections.
    pub fn through(dial: Arc<dyn Dial>) -> Dialer {
        Dialer(Some(dial))
    }

    /// A channel that connects when it is first used, and again after it broke.
    pub fn channel(&self, endpoint: &Endpoint) -> Channel {
        match &self.0 {
            None => endpoint.connect_lazy(),
            Some(dial) => {
                let dial = dial.clone();
                endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| {
                    let address = uri.authority().map(|authority| authority.as_str().to_owned());
                    let dialing = dial.dial(address.unwrap_or_default());
                    async move { dialing.await.map(hyper_util::rt::TokioIo::new) }
                }))
            }
        }
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Dialer(through)"
        } else {
            "Dialer(system)"
        })
    }
}

/// A connection that was accepted from somewhere other than a socket of the operating system.
pub struct Accepted(pub Box<dyn ByteStream>);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
