//! Connections to other servers: one place for their settings, so that a dead node is noticed in the same time by all.

use std::time::Duration;
use tidemark_base::{Error, Result};
use tidemark_proto::Dialer;
use tonic::transport::{Channel, Endpoint};

/// How long a connection may take to be made. Inside a region it takes milliseconds; over a WAN some hundred.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// A connection that carries nothing is probed that often …
const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
/// … and is given up when the answer to a probe takes longer than that.
const KEEPALIVE_LIMIT: Duration = Duration::from_secs(3);
/// HTTP/2 flow control: what may be under way on one stream, and on the whole connection. Enough for a WAN of 100 ms at
/// some 600 Mbit/s.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Error details travel in headers.
pub const HEADER_BYTES_MAX: u32 = 64 << 10;
/// A message, in either direction: a packed batch of the greatest size (16 MiB and a little) with room for its message.
pub const MESSAGE_BYTES_MAX: usize = 24 << 20;

/// A connection that is made when it is first used, and made again after it broke.
pub fn channel(dialer: &Dialer, address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| {
        Error::invalid("ADDRESS_INVALID", format!("{address:?} is not an address: {error}")).action("use HOST:PORT")
    })?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_LIMIT)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(30)))
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_LIMIT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HEADER_BYTES_MAX);
    Ok(dialer.channel(&endpoint))
}
