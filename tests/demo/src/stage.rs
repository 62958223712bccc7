//! The stage: two regions of real processes, their clients, and what an operator does to them.

use crate::fleet::split_rows;
use crate::load::FAMILY;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidemark_client::{Client, ClientOptions, Family, LinkStatus, Peer, Table, TableSpec};
use tidemark_harness::{World, WorldOptions};

/// The table of the demo.
pub const TABLE: &str = "telemetry";
/// Tablets that it is split into.
pub const TABLETS: u32 = 4;
/// The regions, the preferred one first.
pub const REGIONS: [&str; 2] = ["east", "west"];

/// Servers of a region, one a zone.
pub const NODES: u64 = 3;

/// How long the active region may be silent before the application's client goes to the other one.
const FAILOVER_AFTER: Duration = Duration::from_millis(500);
/// How long the preferred region must be healthy before the client returns; short, so that the demo shows it.
const FAILBACK_AFTER: Duration = Duration::from_secs(2);

/// Everything that runs.
#[derive(Debug)]
pub struct Stage {
    /// The processes.
    pub world: World,
    /// The application's client: prefers east, may go to west.
    pub app: Client,
    /// One client a region that talks to it alone, in the order of [`REGIONS`].
    pub only: Vec<Client>,
    /// First rows of the second and later tablets.
    pub splits: Vec<String>,
}

impl Stage {
    /// Starts the processes under `dir` and connects. The table does not exist yet.
    pub async fn start(dir: &Path, devices: u32) -> Result<Stage> {
        let options = WorldOptions {
            dir: Some(dir.to_owned()),
            ..WorldOptions::two(NODES)
        };
        let mut world = World::start(options).await.context("the servers did not start")?;
        let mut builder = ClientOptions::builder()
            .failover_after(FAILOVER_AFTER)
            .failback_after(FAILBACK_AFTER);
        let mut only = Vec::new();
        for name in REGIONS {
            let addresses = world.region(name)?.addresses();
            builder = builder.region(name, addresses.clone());
            only.push(Client::connect(ClientOptions::builder().region(name, addresses).build()?).await?);
        }
        let app = Client::connect(builder.build()?).await?;
        Ok(Stage {
            world,
            app,
            only,
            splits: split_rows(devices, TABLETS),
        })
    }

    /// Introduces the regions to each other, creates the table and switches its replication on.
    pub async fn set_up(&mut self) -> Result<()> {
        for (here, there) in [(0, 1), (1, 0)] {
            let region = self.world.region(REGIONS[there])?;
            let peer = Peer {
                name: region.name.clone(),
                region: region.number.into(),
                addresses: region.addresses(),
            };
            self.only[here]
                .admin()
                .add_peer(peer)
                .await
                .with_context(|| format!("peer add in {}", REGIONS[here]))?;
        }
        let spec = TableSpec {
            split_at: self.splits.iter().map(|s| s.clone().into_bytes()).collect(),
            // So that a lost answer can be asked again.
            if_not_exists: true,
            ..TableSpec::new(TABLE, [Family::new(FAMILY)])
        };
        self.only[0].admin().create_table(spec).await.context("table create")?;
        self.only[0]
            .admin()
            .enable_replication(TABLE, REGIONS[1])
            .await
            .context("replication enable")?;
        Ok(())
    }

    /// The table through the application's client.
    pub fn table(&self) -> Table {
        self.app.table(TABLE)
    }

    /// The node of east that leads the first tablet, and the indexes of all tablets that it leads.
    pub async fn a_leader(&self) -> Result<(u64, Vec<usize>)> {
        let status = self.only[0].admin().cluster_status(true).await?;
        let mut tablets: Vec<_> = status.tablets.into_iter().filter(|t| t.table == TABLE).collect();
        tablets.sort_by(|a, b| a.range.start.cmp(&b.range.start));
        ensure!(
            tablets.len() == TABLETS as usize,
            "{TABLE} has {} tablets, not {TABLETS}",
            tablets.len()
        );
        let leader = tablets[0].leader;
        ensure!(leader != 0, "the first tablet has no leader");
        let led = (0..tablets.len()).filter(|n| tablets[*n].leader == leader).collect();
        Ok((leader, led))
    }

    /// What each region says about the link to the other, in the order of [`REGIONS`].
    pub async fn links(&self) -> Result<[LinkStatus; 2]> {
        let mut links = Vec::new();
        for client in &self.only {
            let status = client.admin().replication_status(Some(TABLE), false).await?;
            links.push(status.into_iter().next().context("the table has no link")?);
        }
        links
            .try_into()
            .map_err(|_| anyhow::anyhow!("two regions give two links"))
    }
}

/// The log files of all nodes under `dir`, with their last lines. Works also when the stage is gone.
pub fn log_tails(dir: &Path, lines: usize) -> Vec<(PathBuf, String)> {
    let mut tails = Vec::new();
    for region in REGIONS {
        for node in 1..=NODES {
            let path = dir.join(region).join(format!("node-{node}")).join("tidemarkd.log");
            let text = std::fs::read(&path)
                .map(|b| String::from_utf8_lossy(&b).into_owned())
                .unwrap_or_default();
            let all: Vec<&str> = text.lines().collect();
            tails.push((path, all[all.len().saturating_sub(lines)..].join("\n")));
        }
    }
    tails
}
