//! One `tidemarkd` process: its configuration, its log file, its life and its several deaths.

use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What a node is told in its configuration file.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Region name.
    pub region: String,
    /// Region number.
    pub region_number: u16,
    /// Node number.
    pub id: u64,
    /// Zone name.
    pub zone: String,
    /// gRPC address.
    pub grpc: String,
    /// HTTP address.
    pub admin: String,
    /// All founders: (id, address).
    pub seeds: Vec<(u64, String)>,
    /// More TOML, appended as it is.
    pub extra: String,
}

/// How a node's process is started, where that is not plainly.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// Words before the command: a program that changes something about its own process and then becomes the command,
    /// with the same process id.
    pub prefix: Vec<String>,
    /// Added to the environment.
    pub environment: Vec<(String, String)>,
    /// The data directory; `None` = `data` beside the configuration.
    pub data_dir: Option<PathBuf>,
}

/// A node's process, running or not.
#[derive(Debug)]
pub struct NodeProcess {
    spec: NodeSpec,
    launch: Launch,
    binary: PathBuf,
    dir: PathBuf,
    child: Option<Child>,
    starts: u32,
}

impl NodeProcess {
    /// Writes the configuration into `dir` and starts nothing yet.
    pub fn new(binary: &Path, dir: &Path, spec: NodeSpec) -> Result<NodeProcess> {
        NodeProcess::launched(binary, dir, spec, Launch::default())
    }

    /// The same, started in another way.
    pub fn launched(binary: &Path, dir: &Path, spec: NodeSpec, launch: Launch) -> Result<NodeProcess> {
        fs::create_dir_all(dir)?;
        let node = NodeProcess {
            spec,
            launch,
            binary: binary.to_owned(),
            dir: dir.to_owned(),
            child: None,
            starts: 0,
        };
        fs::write(node.config_path(), node.config())?;
        Ok(node)
    }

    fn config(&self) -> String {
        let s = &self.spec;
        let mut out = format!(
            "[node]\nid = {}\nzone = \"{}\"\ndata_dir = {:?}\n\n[region]\nname = \"{}\"\nnumber = {}\n\n[listen]\ngrpc = \
             \"{}\"\nadmin = \"{}\"\n\n",
            s.id,
            s.zone,
            self.data_dir(),
            s.region,
            s.region_number,
            s.grpc,
            s.admin
        );
        for (id, address) in &s.seeds {
            out += &format!("[[seeds]]\nid = {id}\naddress = \"{address}\"\n\n");
        }
        out + &s.extra
    }

    /// What the node was told.
    pub fn spec(&self) -> &NodeSpec {
        &self.spec
    }

    /// The node's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.launch.data_dir.clone().unwrap_or_else(|| self.dir.join("data"))
    }

    /// The node's configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("tidemark.toml")
    }

    /// The log file of all its starts.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("tidemarkd.log")
    }

    /// The process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts the process; it ends by itself when this process is gone, because its standard input closes then.
    pub fn start(&mut self) -> Result<()> {
        ensure!(
            self.child.is_none(),
            "node {} of {} is already running",
            self.spec.id,
            self.spec.region
        );
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut words = self
            .launch
            .prefix
            .iter()
            .map(PathBuf::from)
            .chain([self.binary.clone()]);
        let first = words.next().context("there is a binary at least")?;
        let child = Command::new(first)
            .args(words)
            .envs(self.launch.environment.iter().cloned())
            .arg("--config")
            .arg(self.config_path())
            .arg("--until-stdin-closes")
            .stdin(Stdio::piped())
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        self.child = Some(child);
        self.starts += 1;
        Ok(())
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Sends a signal without waiting; the process stays this node's.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let pid = self.pid().context("the node is not running")?;
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("pid 0")?;
        rustix::process::kill_process(pid, signal)?;
        Ok(())
    }

    /// SIGTERM, then waits at most `limit`. An unclean or late end is an error.
    pub fn stop(&mut self, limit: Duration) -> Result<()> {
        if self.child.is_none() {
            return Ok(());
        }
        self.signal(rustix::process::Signal::TERM)?;
        let status = self.wait_exit(limit)?;
        ensure!(
            status.success(),
            "node {} ended with {status}:\n{}",
            self.spec.id,
            self.log_tail(15)
        );
        Ok(())
    }

    /// Waits until the process ends by itself.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let child = self.child.as_mut().context("the node is not running")?;
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!(
                    "node {} of {} did not end within {limit:?}:\n{}",
                    self.spec.id,
                    self.spec.region,
                    self.log_tail(15)
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// An error if the process ended by itself.
    pub fn check_alive(&mut self) -> Result<()> {
        if let Some(child) = self.child.as_mut()
            && let Some(status) = child.try_wait()?
        {
            self.child = None;
            bail!(
                "node {} of {} ended by itself with {status}:\n{}",
                self.spec.id,
                self.spec.region,
                self.log_tail(25)
            );
        }
        Ok(())
    }

    /// The last lines of the node's log, for error messages.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read(self.log_path())
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // Best effort on the way out; the process would also end by itself when its standard input closes.
        let _ = self.kill();
    }
}
