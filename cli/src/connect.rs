//! A client from the global flags.

use crate::args::Global;
use crate::failure::Result;
use crate::output::Form;
use std::time::{Duration, Instant};
use tidemark_client::{Client, ClientOptions, RetryPolicy, Table};

/// How long a command tries, unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the first answer of a server may take: a person who forgot to start it should not wait for the timeout.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// The regions' names in this process; what the servers call themselves is in the cluster's status.
const REGIONS: [&str; 2] = ["first", "second"];

/// What every command gets.
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) form: Form,
}

impl Context {
    pub(crate) fn new(global: Global) -> Context {
        Context {
            form: Form::or_default(global.output),
            global,
        }
    }

    /// How long to try: what was asked for, else `default`.
    pub(crate) fn timeout_or(&self, default: Duration) -> Duration {
        self.global.timeout.unwrap_or(default)
    }

    /// Connects.
    pub(crate) async fn client(&self) -> Result<Client> {
        self.client_with(self.timeout_or(TIMEOUT)).await
    }

    /// Connects; each request is tried for `timeout`.
    pub(crate) async fn client_with(&self, timeout: Duration) -> Result<Client> {
        self.connect(timeout, 1).await
    }

    /// Connects, with several connections to each node.
    pub(crate) async fn client_over(&self, connections: usize) -> Result<Client> {
        self.connect(self.timeout_or(TIMEOUT), connections).await
    }

    async fn connect(&self, timeout: Duration, connections: usize) -> Result<Client> {
        let began = Instant::now();
        let least = Duration::from_millis(10);
        let mut options = ClientOptions::builder()
            .region(REGIONS[0], self.global.address.clone())
            .request_timeout(timeout.clamp(least, Duration::from_secs(30)))
            .first_answer_within(timeout.clamp(least, FIRST_ANSWER))
            .connections_per_node(connections)
            .retry(RetryPolicy {
                deadline: timeout.max(least),
                ..RetryPolicy::default()
            });
        if !self.global.region_addresses.is_empty() {
            options = options.region(REGIONS[1], self.global.region_addresses.clone());
        }
        let client = Client::connect(options.build()?).await.map_err(|error| {
            crate::failure::Failure::from(error).next("start a server (tidemarkd --dev) or name one with --address")
        })?;
        self.say(&format!(
            "connected to the {} region ({}) in {} ms",
            client.active_region(),
            self.global.address.join(","),
            began.elapsed().as_millis()
        ));
        Ok(client)
    }

    /// Connects, for one table.
    pub(crate) async fn table(&self, name: &str) -> Result<Table> {
        Ok(self.client().await?.table(name))
    }

    /// Talk for those who asked for it.
    pub(crate) fn say(&self, text: &str) {
        if self.global.verbose {
            eprintln!("{text}");
        }
    }
}
