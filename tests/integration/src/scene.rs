//! A started world with clients. Tests run one at a time: each starts several servers, and time limits on two cores mean
//! something only when nobody else runs.

use anyhow::{Context, Result, ensure};
use std::future::Future;
use std::time::Duration;
use tidemark_client::{Client, ClientOptions, Digest, Family, LinkStatus, Peer, Table, TableSpec, now_micros};
use tidemark_harness::ready::wait_for;
use tidemark_harness::{World, WorldOptions};

/// The family that tests write to.
pub const FAMILY: &str = "m";
/// The table that tests write to.
pub const TABLE: &str = "telemetry";
/// How long things may take that happen by themselves.
pub const SOON: Duration = Duration::from_secs(60);

static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Runs a test alone and within a limit, which does not count the waiting.
pub async fn alone(limit: Duration, test: impl Future<Output = Result<()>>) {
    let _turn = ONE_AT_A_TIME.lock().await;
    match tokio::time::timeout(limit, test).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{error:#}"),
        Err(_) => panic!("not finished within {limit:?}"),
    }
}

/// Processes and one client a region that talks to it alone.
#[derive(Debug)]
pub struct Scene {
    /// The processes.
    pub world: World,
    /// One client a region, in the world's order.
    pub clients: Vec<Client>,
}

impl Scene {
    /// One region of `nodes` nodes; `extra` is appended to their configurations.
    pub async fn one(nodes: u64, extra: &str) -> Result<Scene> {
        Scene::start(WorldOptions {
            extra_config: extra.to_owned(),
            ..WorldOptions::one(nodes)
        })
        .await
    }

    /// East and west.
    pub async fn two(nodes: u64) -> Result<Scene> {
        Scene::start(WorldOptions::two(nodes)).await
    }

    /// Starts and connects.
    pub async fn start(options: WorldOptions) -> Result<Scene> {
        let world = World::start(options).await?;
        let mut clients = Vec::new();
        for region in &world.regions {
            let options = ClientOptions::builder()
                .region(&region.name, region.addresses())
                .build()?;
            clients.push(
                Client::connect(options)
                    .await
                    .with_context(|| format!("connect to {}", region.name))?,
            );
        }
        Ok(Scene { world, clients })
    }

    /// The table through the client of a region.
    pub fn table(&self, region: usize) -> Table {
        self.clients[region].table(TABLE)
    }

    /// Creates the table in the first region, with those split rows.
    pub async fn create(&self, splits: &[&str]) -> Result<()> {
        let spec = TableSpec {
            split_at: splits.iter().map(|s| s.as_bytes().to_vec()).collect(),
            ..TableSpec::new(TABLE, [Family::new(FAMILY)])
        };
        self.clients[0]
            .admin()
            .create_table(spec)
            .await
            .context("table create")?;
        Ok(())
    }

    /// Introduces the two regions to each other.
    pub async fn introduce(&self) -> Result<()> {
        for (here, there) in [(0, 1), (1, 0)] {
            let region = &self.world.regions[there];
            let peer = Peer {
                name: region.name.clone(),
                region: region.number.into(),
                addresses: region.addresses(),
            };
            self.clients[here].admin().add_peer(peer).await.context("peer add")?;
        }
        Ok(())
    }

    /// Introduces the regions, creates the table in the first and replicates it both ways.
    pub async fn replicate(&self, splits: &[&str]) -> Result<()> {
        self.introduce().await?;
        self.create(splits).await?;
        let west = &self.world.regions[1].name;
        self.clients[0]
            .admin()
            .enable_replication(TABLE, west)
            .await
            .context("replication enable")?;
        Ok(())
    }

    /// How a region sees the link to the other one.
    pub async fn link(&self, region: usize) -> Result<LinkStatus> {
        let links = self.clients[region]
            .admin()
            .replication_status(Some(TABLE), false)
            .await?;
        links
            .into_iter()
            .find(|l| l.table == TABLE)
            .context("the table has no link")
    }

    /// Waits until neither region lacks anything of the other.
    pub async fn wait_in_step(&self) -> Result<()> {
        for region in 0..2 {
            wait_for("the peer to have everything", SOON, || async {
                let link = self.link(region).await?;
                // The backlog is never empty for long: idle tablets go on telling that nothing is missing.
                ensure!(
                    link.lag_ms == 0 && link.state == "STREAMING",
                    "{} {}: lag {} ms",
                    link.state,
                    link.cause,
                    link.lag_ms
                );
                Ok(Some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until both regions have the same content from the same writes, and returns the digest.
    pub async fn wait_equal(&self) -> Result<Digest> {
        self.wait_in_step().await?;
        wait_for("both regions to be equal", SOON, || async {
            let now = Some(now_micros());
            let east = self.table(0).digest(Vec::new(), now).await?;
            let west = self.table(1).digest(Vec::new(), now).await?;
            ensure!(east == west, "east {east:?}, west {west:?}");
            Ok(Some(east))
        })
        .await
    }

    /// The node of a region that leads the tablet of `row`.
    pub async fn leader_of(&self, region: usize, row: &[u8]) -> Result<u64> {
        wait_for("a tablet leader", SOON, || async {
            let status = self.clients[region].admin().cluster_status(true).await?;
            let tablet = status
                .tablets
                .into_iter()
                .find(|t| t.table == TABLE && t.range.contains(row));
            Ok(tablet.map(|t| t.leader).filter(|leader| *leader != 0))
        })
        .await
    }
}
