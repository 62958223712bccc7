//! Settings in two stages: what was typed ([`Typed`], from defaults, file, environment and flags, in rising order of
//! precedence), then checked and given units ([`Settings`]). Components (clock, store, transport) are not settings; what
//! must agree across a region lives in the catalog.
//!
//! Environment: `TIDEMARK_NODE__ID=1` sets `node.id`; two underscores stand for the dot.

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytesize::ByteSize;
use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tidemark_base::names::check_name;
use tidemark_base::{NodeId, RegionId};

/// What was typed. Unknown fields are refused, so that a misspelt one is not silently a default.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Typed {
    /// This process.
    pub node: NodeSection,
    /// The region that it belongs to.
    pub region: RegionSection,
    /// Where it listens.
    pub listen: ListenSection,
    /// The nodes that found the region's cluster, this one included. Empty: this node alone.
    pub seeds: Vec<SeedSection>,
    /// Disk and memory.
    pub storage: StorageSection,
    /// Admission.
    pub limits: LimitsSection,
    /// Raft timing.
    pub consensus: ConsensusSection,
    /// Replication timing.
    pub replication: ReplicationSection,
    /// Log output.
    pub log: LogSection,
}

/// `[node]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeSection {
    /// Number of this node in its region, 1 or more, never reused.
    pub id: u64,
    /// Availability zone: replicas of a tablet are spread over zones.
    pub zone: String,
    /// Directory of this node's data; created if missing.
    pub data_dir: PathBuf,
}

/// `[region]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegionSection {
    /// The region's name; peers register it under this name.
    pub name: String,
    /// The region's number, 1..=65535, part of every stamp, never reused.
    pub number: u16,
    /// Name of the cluster; the region's name unless set. Nodes of another cluster are refused.
    pub cluster: String,
}

/// `[listen]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenSection {
    /// gRPC: clients, neighbours, peer regions.
    pub grpc: String,
    /// HTTP: /metrics, /healthz, /readyz, /status.
    pub admin: String,
    /// What others dial to reach this node; the gRPC address unless set.
    pub advertise: String,
    /// Allow addresses other than loopback although there is no TLS yet.
    pub insecure: bool,
}

/// `[[seeds]]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedSection {
    /// The node's number.
    pub id: u64,
    /// Its advertised gRPC address, host:port.
    pub address: String,
}

/// `[storage]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageSection {
    /// Block cache of all tablets together.
    pub block_cache: ByteSize,
    /// Memtables of all tablets together.
    pub memtables: ByteSize,
    /// Rows whose newest cells are kept ready, all tablets together; 0 = none.
    pub kept_rows: ByteSize,
    /// Writes are refused while less than this is free on the disk, so that Raft and flushes always find room.
    pub disk_reserve: ByteSize,
    /// A segment of the shared Raft log.
    pub log_segment: ByteSize,
    /// How often each tablet forgets garbage.
    pub garbage_interval: String,
}

/// `[limits]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Bytes of writes that have been admitted and not answered.
    pub write_bytes_in_flight: ByteSize,
    /// Scans at one time.
    pub scans: usize,
}

/// `[consensus]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsensusSection {
    /// Between heartbeats, milliseconds.
    pub heartbeat_ms: u64,
    /// Least election time-out, milliseconds; at least three heartbeats.
    pub election_min_ms: u64,
    /// Greatest election time-out, milliseconds.
    pub election_max_ms: u64,
    /// After so many milliseconds without anything to do a group stops beating; 0 = never.
    pub rest_after_ms: u64,
}

/// `[replication]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplicationSection {
    /// How often an idle replicated tablet tells its peers that nothing is missing, milliseconds.
    pub close_interval_ms: u64,
}

/// `[log]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// A level or a filter such as `info,tidemark_replication=debug`.
    pub level: String,
    /// `text` or `json`.
    pub format: String,
}

impl Default for NodeSection {
    fn default() -> Self {
        NodeSection {
            id: 1,
            zone: "a".into(),
            data_dir: "tidemark-data".into(),
        }
    }
}

impl Default for RegionSection {
    fn default() -> Self {
        RegionSection {
            name: "local".into(),
            number: 1,
            cluster: String::new(),
        }
    }
}

impl Default for ListenSection {
    fn default() -> Self {
        ListenSection {
            grpc: "127.0.0.1:7311".into(),
            admin: "127.0.0.1:7312".into(),
            advertise: String::new(),
            insecure: false,
        }
    }
}

impl Default for StorageSection {
    fn default() -> Self {
        StorageSection {
            block_cache: ByteSize::mib(256),
            memtables: ByteSize::mib(256),
            kept_rows: ByteSize::mib(64),
            disk_reserve: ByteSize::mib(512),
            log_segment: ByteSize::mib(64),
            garbage_interval: "1h".into(),
        }
    }
}

impl Default for LimitsSection {
    fn default() -> Self {
        LimitsSection {
            write_bytes_in_flight: ByteSize::mib(256),
            scans: 256,
        }
    }
}

impl Default for ConsensusSection {
    fn default() -> Self {
        ConsensusSection {
            heartbeat_ms: 150,
            election_min_ms: 500,
            election_max_ms: 750,
            rest_after_ms: 3_000,
        }
    }
}

impl Default for ReplicationSection {
    fn default() -> Self {
        ReplicationSection { close_interval_ms: 200 }
    }
}

impl Default for LogSection {
    fn default() -> Self {
        LogSection {
            level: "info".into(),
            format: "text".into(),
        }
    }
}

/// Checked settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// As typed, for display.
    pub typed: Typed,
    /// This node.
    pub node: NodeId,
    /// This region.
    pub region: RegionId,
    /// The cluster's name.
    pub cluster: String,
    /// gRPC listener.
    pub grpc: SocketAddr,
    /// HTTP listener.
    pub admin: SocketAddr,
    /// What others dial.
    pub advertise: String,
    /// Founders of the cluster, by node; contains this node if it is one.
    pub seeds: BTreeMap<NodeId, String>,
    /// Between garbage collections of a tablet.
    pub garbage_interval: std::time::Duration,
    /// Where each value came from, by its dotted name: for `config check`.
    pub origins: BTreeMap<String, String>,
}

/// Variables with the prefix of settings that are none: the tool's, and in a test build the planted bug.
const NOT_SETTINGS: &[&str] = match cfg!(feature = "planted-bugs") {
    true => &["address", "config", "log", "planted_bug"],
    false => &["address", "config", "log"],
};

/// Reads defaults, then `file`, then the environment, then `flags` (dotted name -> value).
pub fn load(file: Option<&Path>, flags: &BTreeMap<String, figment::value::Value>) -> Result<Settings> {
    let mut figment = Figment::from(Serialized::defaults(Typed::default()));
    if let Some(path) = file {
        ensure!(path.exists(), "configuration file {} does not exist", path.display());
        figment = figment.merge(Toml::file_exact(path));
    }
    figment = figment.merge(Env::prefixed("TIDEMARK_").ignore(NOT_SETTINGS).split("__"));
    for (name, value) in flags {
        figment = figment.merge(Serialized::global(name, value.clone()));
    }
    let typed: Typed = figment.extract().map_err(explain)?;
    let origins = origins(&figment, &typed, flags);
    check(typed, origins)
}

fn explain(error: figment::Error) -> anyhow::Error {
    let lines: Vec<String> = error
        .into_iter()
        .map(|e| {
            let place = e.metadata.as_ref().map(|m| match &m.source {
                Some(source) => source.to_string(),
                None => m.name.to_string(),
            });
            let path = e.path.join(".");
            format!(
                "{}{}{}",
                if path.is_empty() {
                    String::new()
                } else {
                    format!("{path}: ")
                },
                e.kind,
                place.map(|p| format!(" (in {p})")).unwrap_or_default()
            )
        })
        .collect();
    anyhow!("the configuration is not legal: {}", lines.join("; "))
}

fn origins(
    figment: &Figment,
    typed: &Typed,
    flags: &BTreeMap<String, figment::value::Value>,
) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let Ok(serde_json::Value::Object(sections)) = serde_json::to_value(typed) else {
        return out;
    };
    for (section, fields) in sections {
        let serde_json::Value::Object(fields) = fields else {
            continue;
        };
        for field in fields.keys() {
            let name = format!("{section}.{field}");
            let origin = if flags.contains_key(&name) {
                "flag".to_owned()
            } else {
                match figment.find_metadata(&name) {
                    Some(m) if m.name.contains("Typed") => "default".to_owned(),
                    Some(m) => m.source.as_ref().map_or_else(|| m.name.to_string(), |s| s.to_string()),
                    None => "default".to_owned(),
                }
            };
            out.insert(name, origin);
        }
    }
    out
}

/// Checks what was typed. `origins` is for display.
pub fn check(typed: Typed, origins: BTreeMap<String, String>) -> Result<Settings> {
    ensure!(typed.node.id >= 1, "node.id is 0; nodes are numbered from 1");
    ensure!(
        typed.region.number >= 1,
        "region.number is 0; regions are numbered from 1 to 65535"
    );
    for (what, name) in [("region", &typed.region.name), ("zone", &typed.node.zone)] {
        check_name(what, name).map_err(|e| anyhow!("{e}"))?;
    }
    let cluster = if typed.region.cluster.is_empty() {
        typed.region.name.clone()
    } else {
        typed.region.cluster.clone()
    };
    check_name("cluster", &cluster).map_err(|e| anyhow!("{e}"))?;
    let grpc = listener("listen.grpc", &typed.listen.grpc, typed.listen.insecure)?;
    let admin = listener("listen.admin", &typed.listen.admin, typed.listen.insecure)?;
    let advertise = if typed.listen.advertise.is_empty() {
        typed.listen.grpc.clone()
    } else {
        typed.listen.advertise.clone()
    };
    let node = NodeId(typed.node.id);
    let mut seeds = BTreeMap::new();
    for seed in &typed.seeds {
        ensure!(seed.id >= 1, "a seed has id 0; nodes are numbered from 1");
        if seeds.insert(NodeId(seed.id), seed.address.clone()).is_some() {
            bail!("two seeds have the id {}", seed.id);
        }
    }
    if seeds.is_empty() {
        seeds.insert(node, advertise.clone());
    }
    if let Some(address) = seeds.get(&node) {
        ensure!(
            *address == advertise,
            "this node (id {}) advertises {advertise}, but its entry in seeds says {address}; make them agree",
            typed.node.id
        );
    }
    let c = &typed.consensus;
    ensure!(
        c.heartbeat_ms >= 10,
        "consensus.heartbeat_ms is {}; at least 10",
        c.heartbeat_ms
    );
    ensure!(
        c.election_min_ms >= 3 * c.heartbeat_ms && c.election_max_ms > c.election_min_ms,
        "consensus: election_min_ms ({}) is at least three heartbeats ({}), election_max_ms ({}) is greater",
        c.election_min_ms,
        c.heartbeat_ms,
        c.election_max_ms
    );
    ensure!(
        (20..=60_000).contains(&typed.replication.close_interval_ms),
        "replication.close_interval_ms is {}; 20 to 60000",
        typed.replication.close_interval_ms
    );
    ensure!(
        matches!(typed.log.format.as_str(), "text" | "json"),
        "log.format is text or json"
    );
    ensure!(
        typed.storage.log_segment.as_u64() >= 1 << 20,
        "storage.log_segment is at least 1 MiB"
    );
    ensure!(typed.limits.scans >= 1, "limits.scans is at least 1");
    let garbage_interval = humantime::parse_duration(&typed.storage.garbage_interval).with_context(|| {
        format!(
            "storage.garbage_interval {:?} is not a duration",
            typed.storage.garbage_interval
        )
    })?;
    let region = RegionId(typed.region.number);
    Ok(Settings {
        typed,
        node,
        region,
        cluster,
        grpc,
        admin,
        advertise,
        seeds,
        garbage_interval,
        origins,
    })
}

fn listener(name: &str, text: &str, insecure: bool) -> Result<SocketAddr> {
    let address: SocketAddr = text
        .parse()
        .with_context(|| format!("{name} {text:?} is not an address like 127.0.0.1:7311"))?;
    ensure!(
        address.ip().is_loopback() || insecure,
        "{name} is {address}, which other machines can reach, and there is neither TLS nor access control yet; bind \
         loopback, or give --insecure if the network around it is trusted"
    );
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn defaults_are_one_node_on_loopback() {
        let s = load(None, &BTreeMap::new()).unwrap();
        assert_eq!(
            (s.node, s.region, s.cluster.as_str()),
            (NodeId(1), RegionId(1), "local")
        );
        assert!(s.grpc.ip().is_loopback() && s.seeds.len() == 1);
    }

    #[test]
    fn flags_beat_the_file_and_origins_tell() {
        let (_dir, path) = file("[node]\nid = 3\nzone = \"c\"\n");
        let flags = BTreeMap::from([("node.zone".to_owned(), figment::value::Value::from("d"))]);
        let s = load(Some(&path), &flags).unwrap();
        assert_eq!((s.typed.node.id, s.typed.node.zone.as_str()), (3, "d"));
        assert_eq!(s.origins["node.zone"], "flag");
        assert!(s.origins["node.id"].contains("t.toml"), "{:?}", s.origins["node.id"]);
        assert_eq!(s.origins["region.name"], "default");
    }

    #[test]
    fn mistakes_name_the_field() {
        for (text, part) in [
            ("[node]\nidd = 3\n", "idd"),
            ("[node]\nid = \"x\"\n", "node.id"),
            ("[listen]\ngrpc = \"0.0.0.0:1\"\n", "--insecure"),
            ("[listen]\ngrpc = \"nowhere\"\n", "listen.grpc"),
            ("[region]\nname = \"a b\"\n", "region"),
            ("[consensus]\nheartbeat_ms = 400\n", "heartbeats"),
            ("[[seeds]]\nid = 1\naddress = \"127.0.0.1:9\"\n", "make them agree"),
        ] {
            let (_dir, path) = file(text);
            let error = load(Some(&path), &BTreeMap::new()).unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}
