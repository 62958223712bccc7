//! Regions of nodes: starting, waiting until they serve, losing them, getting them back.

use crate::node::{NodeProcess, NodeSpec};
use crate::ready::{http_get, wait_for};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// One region to start.
#[derive(Clone, Debug)]
pub struct RegionSpec {
    /// Its name.
    pub name: String,
    /// Its number.
    pub number: u16,
    /// How many nodes, each in a zone of its own.
    pub nodes: u64,
}

/// What to start.
#[derive(Clone, Debug)]
pub struct WorldOptions {
    /// The regions.
    pub regions: Vec<RegionSpec>,
    /// Appended to every node's configuration.
    pub extra_config: String,
    /// Where everything is kept; `None` = a temporary directory that goes with the world.
    pub dir: Option<PathBuf>,
}

impl WorldOptions {
    /// One region of `nodes` nodes.
    pub fn one(nodes: u64) -> WorldOptions {
        WorldOptions {
            regions: vec![RegionSpec {
                name: "east".into(),
                number: 1,
                nodes,
            }],
            extra_config: String::new(),
            dir: None,
        }
    }

    /// `east` and `west` with `nodes` nodes each.
    pub fn two(nodes: u64) -> WorldOptions {
        let mut options = WorldOptions::one(nodes);
        options.regions.push(RegionSpec {
            name: "west".into(),
            number: 2,
            nodes,
        });
        options
    }
}

/// A started region.
#[derive(Debug)]
pub struct RegionHandle {
    /// Its name.
    pub name: String,
    /// Its number.
    pub number: u16,
    /// Its nodes, node `id` at index `id - 1`.
    pub nodes: Vec<NodeProcess>,
}

/// All regions of a run. Dropping it ends every process and removes the temporary directory.
#[derive(Debug)]
pub struct World {
    // Before `_dir`: fields drop in order, and processes end before their directories go.
    /// The regions, as in the options.
    pub regions: Vec<RegionHandle>,
    root: PathBuf,
    _dir: Option<tempfile::TempDir>,
}

/// Distinguishes worlds of one process; with the process id it picks a loopback net of its own.
static WORLDS: AtomicU32 = AtomicU32::new(0);

impl World {
    /// Starts all nodes and waits until each region serves.
    pub async fn start(options: WorldOptions) -> Result<World> {
        let mut world = World::prepare(options)?;
        for index in 0..world.regions.len() {
            world.regions[index].start_all()?;
        }
        for index in 0..world.regions.len() {
            world.regions[index].wait_ready(Duration::from_secs(60)).await?;
        }
        Ok(world)
    }

    /// Writes all configurations and starts nothing.
    pub fn prepare(options: WorldOptions) -> Result<World> {
        let binary = binary("tidemarkd")?;
        let (root, dir) = match options.dir {
            Some(path) => (path, None),
            None => {
                let dir = tempfile::Builder::new().prefix("tidemark-").tempdir()?;
                (dir.path().to_owned(), Some(dir))
            }
        };
        // 127.a.b.n: a and b from the process id and a count, n from region and node. All of 127/8 is loopback on Linux.
        let seed = std::process::id()
            .wrapping_mul(31)
            .wrapping_add(WORLDS.fetch_add(1, Ordering::Relaxed));
        let net = format!("127.{}.{}", 16 + (seed >> 8) % 200, 1 + seed % 250);
        let mut regions = Vec::new();
        for region in &options.regions {
            let address = |node: u64, port: u16| format!("{net}.{}:{port}", u64::from(region.number) * 20 + node);
            let seeds: Vec<(u64, String)> = (1..=region.nodes).map(|n| (n, address(n, 7311))).collect();
            let mut nodes = Vec::new();
            for id in 1..=region.nodes {
                let spec = NodeSpec {
                    region: region.name.clone(),
                    region_number: region.number,
                    id,
                    zone: format!("{}-{}", region.name, (b'a' + (id - 1) as u8) as char),
                    grpc: address(id, 7311),
                    admin: address(id, 7312),
                    seeds: seeds.clone(),
                    extra: options.extra_config.clone(),
                };
                nodes.push(NodeProcess::new(
                    &binary,
                    &root.join(&region.name).join(format!("node-{id}")),
                    spec,
                )?);
            }
            regions.push(RegionHandle {
                name: region.name.clone(),
                number: region.number,
                nodes,
            });
        }
        Ok(World {
            regions,
            root,
            _dir: dir,
        })
    }

    /// Where configurations, logs and data are.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The region of that name.
    pub fn region(&mut self, name: &str) -> Result<&mut RegionHandle> {
        self.regions
            .iter_mut()
            .find(|r| r.name == name)
            .with_context(|| format!("no region {name}"))
    }
}

impl RegionHandle {
    /// gRPC addresses of all nodes.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|n| n.spec().grpc.clone()).collect()
    }

    /// Writes the configuration of one node more, which is no seed, and starts nothing: as when a cluster grows.
    pub fn add_node(&mut self, dir: &Path) -> Result<u64> {
        let last = self.nodes.last().context("a region has nodes")?.spec().clone();
        let id = last.id + 1;
        let beside = |address: &str| -> Result<String> {
            let address: std::net::SocketAddrV4 = address.parse()?;
            let [a, b, c, d] = address.ip().octets();
            Ok(format!("{a}.{b}.{c}.{}:{}", d + 1, address.port()))
        };
        let spec = NodeSpec {
            id,
            zone: format!("{}-{}", self.name, (b'a' + (id - 1) as u8) as char),
            grpc: beside(&last.grpc)?,
            admin: beside(&last.admin)?,
            ..last
        };
        let node = NodeProcess::new(
            &binary("tidemarkd")?,
            &dir.join(&self.name).join(format!("node-{id}")),
            spec,
        )?;
        self.nodes.push(node);
        Ok(id)
    }

    /// Starts every node that is not running.
    pub fn start_all(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if node.pid().is_none() {
                node.start()?;
            }
        }
        Ok(())
    }

    /// `kill -9` of every node: all are hit before the first one's end is awaited.
    pub fn kill_all(&mut self) -> Result<()> {
        for node in &self.nodes {
            if node.pid().is_some() {
                node.signal(rustix::process::Signal::KILL)?;
            }
        }
        self.nodes.iter_mut().try_for_each(NodeProcess::kill)
    }

    /// SIGTERM to all at once, then waits for each.
    pub fn stop_all(&mut self, limit: Duration) -> Result<()> {
        for node in &self.nodes {
            if node.pid().is_some() {
                node.signal(rustix::process::Signal::TERM)?;
            }
        }
        for node in &mut self.nodes {
            if node.pid().is_some() {
                let status = node.wait_exit(limit)?;
                ensure!(
                    status.success(),
                    "node {} ended with {status}:\n{}",
                    node.spec().id,
                    node.log_tail(15)
                );
            }
        }
        Ok(())
    }

    /// The node with that number.
    pub fn node(&mut self, id: u64) -> Result<&mut NodeProcess> {
        let index = usize::try_from(id)?
            .checked_sub(1)
            .context("nodes are numbered from 1")?;
        self.nodes.get_mut(index).with_context(|| format!("no node {id}"))
    }

    /// Waits until every running node says that it is ready. A node that ended by itself is an error at once.
    pub async fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        for node in &mut self.nodes {
            if node.pid().is_none() {
                continue;
            }
            let admin = node.spec().admin.clone();
            let what = format!("node {} of {} to be ready", node.spec().id, node.spec().region);
            let waiting = wait_for(&what, limit, || async {
                let (code, body) = http_get(&admin, "/readyz").await?;
                ensure!(code == 200, "{code} {}", body.trim());
                Ok(Some(()))
            });
            tokio::pin!(waiting);
            loop {
                tokio::select! {
                    done = &mut waiting => {
                        done.with_context(|| format!("log of the node:\n{}", node.log_tail(25)))?;
                        break;
                    }
                    () = tokio::time::sleep(Duration::from_millis(200)) => node.check_alive()?,
                }
            }
        }
        Ok(())
    }
}

/// Finds a binary of this workspace beside the running one.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let candidates = own.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    let found = candidates.into_iter().find(|p| p.is_file());
    found.with_context(|| {
        format!(
            "{name} is not built beside {}; run: cargo build -p tidemark-node -p tidemark-cli",
            own.display()
        )
    })
}
