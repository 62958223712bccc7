//! The command line of `tidemarkd`, and its translation into settings.

use crate::settings::{self, Settings};
use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use figment::value::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A Tidemark table server: one node of one region.
#[derive(Debug, Parser)]
#[command(name = "tidemarkd", version, about, before_help = EXAMPLES)]
pub struct Cli {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings for serving.
    #[command(flatten)]
    pub options: Options,
}

const EXAMPLES: &str = "\
Examples:
  tidemarkd --dev                              one region of one node, data in ./tidemark-dev
  tidemarkd --config /etc/tidemark.toml        a node of a real region
  tidemarkd config check --config FILE         is the file legal, and where does each value come from?
  TIDEMARK_NODE__ID=2 tidemarkd --config FILE  the environment goes before the file; flags go before both";

/// Other things that the binary does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Looks at the configuration without starting anything.
    Config {
        /// What to do with it.
        #[command(subcommand)]
        action: ConfigAction,
    },
}

/// `tidemarkd config …`
#[derive(Debug, Subcommand)]
pub enum ConfigAction {
    /// Checks the configuration and prints every value with its origin. Exit code 0 if it is legal. Takes the same
    /// options as serving, before or after its name.
    Check,
}

/// Flags that set or override settings.
#[derive(Clone, Debug, Default, Args)]
pub struct Options {
    /// Configuration file (TOML).
    #[arg(long, global = true, value_name = "FILE", env = "TIDEMARK_CONFIG")]
    pub config: Option<PathBuf>,
    /// One region of one node from a local directory (./tidemark-dev unless --data-dir says otherwise).
    #[arg(long, global = true)]
    pub dev: bool,
    /// Directory of this node's data.
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Number of this node in its region.
    #[arg(long, global = true, value_name = "N")]
    pub node_id: Option<u64>,
    /// Availability zone.
    #[arg(long, global = true)]
    pub zone: Option<String>,
    /// Name of the region.
    #[arg(long, global = true, value_name = "NAME")]
    pub region: Option<String>,
    /// Number of the region, 1..=65535.
    #[arg(long, global = true, value_name = "N")]
    pub region_number: Option<u16>,
    /// gRPC address.
    #[arg(long, global = true, value_name = "IP:PORT")]
    pub listen: Option<String>,
    /// HTTP address of metrics and health.
    #[arg(long, global = true, value_name = "IP:PORT")]
    pub admin_listen: Option<String>,
    /// Allow addresses other than loopback although there is no TLS yet.
    #[arg(long, global = true)]
    pub insecure: bool,
    /// A log level or filter: info, debug, info,tidemark_replication=debug.
    #[arg(long, global = true, value_name = "FILTER")]
    pub log_level: Option<String>,
    /// text or json.
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// End when standard input closes: for programs that start this one and must not leave it behind.
    #[arg(long, global = true, hide = true)]
    pub until_stdin_closes: bool,
}

impl Options {
    /// Reads and checks the settings that these flags, the environment and the file make.
    pub fn settings(&self) -> Result<Settings> {
        settings::load(self.config.as_deref(), &self.flags())
    }

    fn flags(&self) -> BTreeMap<String, Value> {
        let mut out = BTreeMap::new();
        if self.dev {
            out.insert("node.data_dir".to_owned(), Value::from("tidemark-dev"));
            out.insert("storage.disk_reserve".to_owned(), Value::from("64MiB"));
        }
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                out.insert(name.to_owned(), value);
            }
        };
        set(
            "node.data_dir",
            self.data_dir.as_ref().map(|p| Value::from(p.display().to_string())),
        );
        set("node.id", self.node_id.map(Value::from));
        set("node.zone", self.zone.as_deref().map(Value::from));
        set("region.name", self.region.as_deref().map(Value::from));
        set("region.number", self.region_number.map(Value::from));
        set("listen.grpc", self.listen.as_deref().map(Value::from));
        set("listen.admin", self.admin_listen.as_deref().map(Value::from));
        set("listen.insecure", self.insecure.then(|| Value::from(true)));
        set("log.level", self.log_level.as_deref().map(Value::from));
        set("log.format", self.log_format.as_deref().map(Value::from));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_count_before_and_after_the_subcommand() {
        for line in [
            ["--node-id", "5", "config", "check"],
            ["config", "check", "--node-id", "5"],
        ] {
            let cli = Cli::parse_from(["tidemarkd"].into_iter().chain(line));
            assert!(matches!(
                cli.command,
                Some(Command::Config {
                    action: ConfigAction::Check
                })
            ));
            assert_eq!(cli.options.settings().unwrap().typed.node.id, 5);
        }
    }

    #[test]
    fn dev_is_one_local_node() {
        let cli = Cli::parse_from(["tidemarkd", "--dev"]);
        let settings = cli.options.settings().unwrap();
        assert!(settings.typed.node.data_dir.ends_with("tidemark-dev"));
        assert!(settings.grpc.ip().is_loopback());
        let cli = Cli::parse_from(["tidemarkd", "--dev", "--data-dir", "x", "--listen", "127.0.0.1:9"]);
        let settings = cli.options.settings().unwrap();
        assert!(settings.typed.node.data_dir.ends_with("x") && settings.grpc.port() == 9);
    }
}
