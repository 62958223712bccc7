//! Settings of a client: what was given, checked once, with units, bounds and defaults.

use crate::error::{ClientError, Result};
use std::time::Duration;
use tidemark_base::ErrorKind;
use tidemark_proto::Dialer;

/// A region and some of its nodes. More nodes are learnt from the region itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionEndpoints {
    /// The region's name; it appears in errors and in [`crate::Written`].
    pub name: String,
    /// `host:port` of one or more nodes. All of them are asked when the region seems lost, so give several.
    pub addresses: Vec<String>,
}

/// When and how long to retry.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Pause before the first repeat; 20 ms. Every pause is shortened by a random part of up to a half.
    pub initial: Duration,
    /// Greatest pause; 200 ms. A tablet gets its next leader in half a second to a second; a longer pause would add itself
    /// to that gap. A server that is overloaded asks for more by its own hint.
    pub max: Duration,
    /// Factor from one pause to the next; 2.
    pub multiplier: f64,
    /// From the call until the last attempt ends; 30 s.
    pub deadline: Duration,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            initial: Duration::from_millis(20),
            max: Duration::from_millis(200),
            multiplier: 2.0,
            deadline: Duration::from_secs(30),
        }
    }
}

/// Checked settings; made by [`ClientOptions::builder`].
#[derive(Clone, Debug)]
pub struct ClientOptions {
    pub(crate) regions: Vec<RegionEndpoints>,
    pub(crate) request_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) first_answer_within: Option<Duration>,
    pub(crate) failover_after: Duration,
    pub(crate) failover_stalled_after: Duration,
    pub(crate) failback_after: Duration,
    pub(crate) retry: RetryPolicy,
    pub(crate) connections_per_node: usize,
    pub(crate) dialer: Dialer,
}

impl ClientOptions {
    /// A builder with the defaults and no region.
    pub fn builder() -> ClientOptionsBuilder {
        ClientOptionsBuilder {
            options: ClientOptions {
                regions: Vec::new(),
                request_timeout: Duration::from_secs(5),
                connect_timeout: Duration::from_secs(1),
                first_answer_within: None,
                failover_after: Duration::from_millis(500),
                failover_stalled_after: Duration::from_secs(10),
                failback_after: Duration::from_secs(10),
                retry: RetryPolicy::default(),
                connections_per_node: 1,
                dialer: Dialer::system(),
            },
        }
    }

    /// One region with those addresses (`host:port`) and the defaults for the rest.
    pub fn single<A: Into<String>>(addresses: impl IntoIterator<Item = A>) -> Result<ClientOptions> {
        ClientOptions::builder().region("default", addresses).build()
    }

    /// The regions, the preferred one first.
    pub fn regions(&self) -> &[RegionEndpoints] {
        &self.regions
    }
}

/// Builds [`ClientOptions`]; [`ClientOptionsBuilder::build`] checks them.
///
/// ```
/// use std::time::Duration;
/// let options = tidemark_client::ClientOptions::builder()
///     .region("east", ["127.0.0.1:7311"])
///     .region("west", ["127.0.0.1:8311"])
///     .failover_after(Duration::from_millis(500))
///     .build();
/// assert!(options.is_ok());
/// assert!(tidemark_client::ClientOptions::builder().build().is_err(), "no region");
/// ```
#[derive(Clone, Debug)]
pub struct ClientOptionsBuilder {
    options: ClientOptions,
}

impl ClientOptionsBuilder {
    /// Adds a region; the first one added is preferred.
    pub fn region<A: Into<String>>(self, name: impl Into<String>, addresses: impl IntoIterator<Item = A>) -> Self {
        self.endpoints(RegionEndpoints {
            name: name.into(),
            addresses: addresses.into_iter().map(Into::into).collect(),
        })
    }

    /// Adds a region; the first one added is preferred.
    pub fn endpoints(mut self, region: RegionEndpoints) -> Self {
        self.options.regions.push(region);
        self
    }

    /// How long one attempt may take; 5 s, 10 ms to 10 min.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.options.request_timeout = timeout;
        self
    }

    /// How long a connection may take to open; 1 s, 10 ms to 1 min. Short, because a lost node is found by it.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout;
        self
    }

    /// How long [`crate::Client::connect`] waits for a first answer; as long as `request_timeout`, 10 ms to 10 min.
    pub fn first_answer_within(mut self, duration: Duration) -> Self {
        self.options.first_answer_within = Some(duration);
        self
    }

    /// How long no node of the active region may answer before another region is used; 500 ms, 50 ms to 1 h.
    pub fn failover_after(mut self, duration: Duration) -> Self {
        self.options.failover_after = duration;
        self
    }

    /// How long the active region may answer, but only with "unavailable" (no quorum), before another region is used;
    /// 10 s, at least `failover_after`. Longer than an election.
    pub fn failover_stalled_after(mut self, duration: Duration) -> Self {
        self.options.failover_stalled_after = duration;
        self
    }

    /// How long a better region must have been healthy without a break before it is used again; 10 s, 50 ms to 24 h.
    /// A region without a table that is in use and that the active region has is not healthy: nobody returns to it.
    pub fn failback_after(mut self, duration: Duration) -> Self {
        self.options.failback_after = duration;
        self
    }

    /// When and how long to retry.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.options.retry = retry;
        self
    }

    /// HTTP/2 connections to each node; 1, at most 8. More help a writer that fills a core.
    pub fn connections_per_node(mut self, connections: usize) -> Self {
        self.options.connections_per_node = connections;
        self
    }

    /// How connections are made; through the operating system.
    pub fn dialer(mut self, dialer: Dialer) -> Self {
        self.options.dialer = dialer;
        self
    }

    /// The checked settings, or [`ErrorKind::InvalidArgument`] with the reason `OPTIONS_INVALID`.
    pub fn build(self) -> Result<ClientOptions> {
        let o = self.options;
        if o.regions.is_empty() {
            return Err(invalid("no region is given"));
        }
        for (at, region) in o.regions.iter().enumerate() {
            tidemark_base::names::check_name("region", &region.name)?;
            if o.regions[..at].iter().any(|r| r.name == region.name) {
                return Err(invalid(format!("region {} is given twice", region.name)));
            }
            if region.addresses.is_empty() {
                return Err(invalid(format!("region {} has no address", region.name)));
            }
            for address in &region.addresses {
                check_address(address)?;
            }
        }
        let ms = Duration::from_millis;
        within("request_timeout", o.request_timeout, ms(10), ms(600_000))?;
        within("connect_timeout", o.connect_timeout, ms(10), ms(60_000))?;
        let first = o.first_answer_within.unwrap_or(o.request_timeout);
        within("first_answer_within", first, ms(10), ms(600_000))?;
        within("failover_after", o.failover_after, ms(50), ms(3_600_000))?;
        within(
            "failover_stalled_after",
            o.failover_stalled_after,
            o.failover_after,
            ms(86_400_000),
        )?;
        within("failback_after", o.failback_after, ms(50), ms(86_400_000))?;
        within("retry.initial", o.retry.initial, ms(1), ms(60_000))?;
        within("retry.max", o.retry.max, o.retry.initial, ms(600_000))?;
        within("retry.deadline", o.retry.deadline, ms(10), ms(86_400_000))?;
        if !(1.0..=10.0).contains(&o.retry.multiplier) {
            return Err(invalid("retry.multiplier lies between 1 and 10"));
        }
        if !(1..=8).contains(&o.connections_per_node) {
            return Err(invalid("connections_per_node lies between 1 and 8"));
        }
        Ok(o)
    }
}

/// Checks `host:port`. A scheme is refused, because an address that people copy from elsewhere should fail here and
/// not as a connection that never opens.
pub(crate) fn check_address(address: &str) -> Result<()> {
    let good = address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if good {
        Ok(())
    } else {
        Err(invalid(format!("address {address:?} is not host:port")))
    }
}

fn within(what: &str, value: Duration, least: Duration, most: Duration) -> Result<()> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(invalid(format!(
            "{what} is {value:?}; it lies between {least:?} and {most:?}"
        )))
    }
}

fn invalid(message: impl Into<String>) -> ClientError {
    ClientError::new(ErrorKind::InvalidArgument, "OPTIONS_INVALID", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_outside_their_bounds_are_refused() {
        let good = || ClientOptions::builder().region("east", ["h:1"]);
        assert!(good().build().is_ok());
        assert!(good().region("east", ["h:1"]).build().is_err());
        assert!(good().region("west", Vec::<String>::new()).build().is_err());
        assert!(good().connections_per_node(8).build().is_ok());
        for bad in [
            good().connections_per_node(0),
            good().connections_per_node(9),
            good().request_timeout(Duration::from_millis(9)),
            good().failover_after(Duration::from_millis(49)),
            good().retry(RetryPolicy {
                multiplier: 0.5,
                ..RetryPolicy::default()
            }),
        ] {
            assert_eq!(
                bad.build().err().map(|e| e.reason().to_owned()).as_deref(),
                Some("OPTIONS_INVALID")
            );
        }
    }

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["h:1", "127.0.0.1:7311", "[::1]:7311"] {
            assert!(check_address(good).is_ok(), "{good}");
        }
        for bad in ["", "h", ":1", "h:", "h:0", "h:70000", "http://h:1"] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }
}
