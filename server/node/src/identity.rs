//! Whose directory is this? One process at a time (a lock), one node of one cluster for ever (an identity file).
//!
//! ```text
//! identity.json := { format, cluster, region, region_number, node, incarnation, log_begun }
//! ```
//! `incarnation` is made with the directory and goes with it: the others refuse a node that comes back under its old number
//! without it. `log_begun` is set, durably, before anybody may rely on what the Raft log holds: from then on a directory
//! without a log is refused, because an empty log would deny what the node had voted for and acknowledged.
//!
//! A directory that belongs to another node or cluster is refused: a Raft node that came up with somebody else's log or
//! vote would break every promise made by the two.

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use tidemark_consensus::LogDisk;

/// The identity while it is written.
const TEMPORARY: &str = "identity.json.tmp";

/// What a data directory says of its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Layout of the directory; 1.
    pub format: u32,
    /// Cluster name.
    pub cluster: String,
    /// Region name.
    pub region: String,
    /// Region number.
    pub region_number: u16,
    /// Node number.
    pub node: u64,
    /// Which life of that number: 32 hex digits. Empty in a directory of an older release, until it is opened.
    #[serde(default)]
    pub incarnation: String,
    /// Whether the Raft log has begun.
    #[serde(default)]
    pub log_begun: bool,
}

impl Identity {
    fn has_same_owner(&self, other: &Identity) -> bool {
        let owner = |i: &Identity| (i.format, i.cluster.clone(), i.region.clone(), i.region_number, i.node);
        owner(self) == owner(other)
    }
}

/// A locked data directory. The lock goes with the process, however it ends.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    identity: Mutex<Identity>,
    _lock: File,
}

impl DataDir {
    /// Creates or opens the directory, locks it, and checks that it belongs to `identity` and has its log. A new directory
    /// keeps `identity`'s incarnation; an old one has its own.
    pub fn open(root: &Path, identity: &Identity, log: &dyn LogDisk) -> Result<DataDir> {
        fs::create_dir_all(root).with_context(|| format!("cannot create the data directory {}", root.display()))?;
        let lock_path = root.join("LOCK");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .with_context(|| format!("cannot open {}", lock_path.display()))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!(
                "the data directory {} is in use by another process; stop that tidemarkd, or give this one a directory \
                 of its own (--data-dir)",
                root.display()
            );
        }
        let dir = DataDir {
            root: root.to_owned(),
            identity: Mutex::new(identity.clone()),
            _lock: lock,
        };
        dir.take_identity(identity)?;
        dir.check_log(log)?;
        Ok(dir)
    }

    /// Which life of its number this node is.
    pub fn incarnation(&self) -> String {
        self.identity.lock().incarnation.clone()
    }

    /// Notes, durably, that the Raft log has begun; at once if it is noted. Call it when the log holds something, and before
    /// that is of use to others.
    pub fn note_log_begun(&self) -> Result<()> {
        let mut identity = self.identity.lock();
        if !identity.log_begun {
            let begun = Identity {
                log_begun: true,
                ..identity.clone()
            };
            self.write_identity(&begun)?;
            *identity = begun;
        }
        Ok(())
    }

    /// The path of a part of the directory.
    pub fn join(&self, part: &str) -> PathBuf {
        self.root.join(part)
    }

    fn take_identity(&self, identity: &Identity) -> Result<()> {
        let path = self.join("identity.json");
        let found = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return self.begin(identity),
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        };
        let mut found: Identity = serde_json::from_slice(&found).with_context(|| {
            format!(
                "{} is damaged; restore it or start this node with an empty directory under a new id",
                path.display()
            )
        })?;
        if !found.has_same_owner(identity) {
            bail!(
                "the data directory {} belongs to node {} of cluster {:?} (region {} number {}), not to node {} of \
                 cluster {:?} (region {} number {}); point --data-dir at the right one",
                self.root.display(),
                found.node,
                found.cluster,
                found.region,
                found.region_number,
                identity.node,
                identity.cluster,
                identity.region,
                identity.region_number
            );
        }
        if found.incarnation.is_empty() {
            found.incarnation.clone_from(&identity.incarnation);
            self.write_identity(&found)?;
        }
        *self.identity.lock() = found;
        Ok(())
    }

    fn check_log(&self, disk: &dyn LogDisk) -> Result<()> {
        if !self.identity.lock().log_begun {
            return Ok(());
        }
        let log = self.join("log");
        let segments = match disk.list(&log) {
            Ok(files) => files
                .iter()
                .filter(|path| path.extension().is_some_and(|ending| ending == "seg"))
                .count(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", log.display())),
        };
        if segments == 0 {
            bail!(
                "the Raft log of this node is gone: {} has no segment. Acknowledged writes and its vote may be lost; give \
                 it its log back or start it with an empty directory under a new node.id",
                log.display()
            );
        }
        Ok(())
    }

    fn begin(&self, identity: &Identity) -> Result<()> {
        let foreign = fs::read_dir(&self.root)?
            .filter_map(|e| e.ok())
            .any(|e| e.file_name() != "LOCK" && e.file_name() != TEMPORARY);
        if foreign {
            bail!(
                "the directory {} is not empty and has no identity.json: it is not a Tidemark data directory; give an \
                 empty one (--data-dir)",
                self.root.display()
            );
        }
        self.write_identity(identity)
    }

    fn write_identity(&self, identity: &Identity) -> Result<()> {
        let temporary = self.join(TEMPORARY);
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(identity)?)?;
        file.sync_all()?;
        fs::rename(&temporary, self.join("identity.json"))?;
        File::open(&self.root)?.sync_all()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_consensus::SystemDisk;

    fn identity(node: u64) -> Identity {
        Identity {
            format: 1,
            cluster: "c".into(),
            region: "east".into(),
            region_number: 1,
            node,
            incarnation: "first".into(),
            log_begun: false,
        }
    }

    #[test]
    fn an_incarnation_goes_with_its_directory() {
        let root = tempfile::tempdir().unwrap();
        let later = Identity {
            incarnation: "later".into(),
            ..identity(1)
        };
        let open = |identity: &Identity| DataDir::open(root.path(), identity, &SystemDisk).unwrap().incarnation();
        assert_eq!((open(&identity(1)), open(&later)), ("first".into(), "first".into()));
        // A directory of a release that did not know incarnations gets one, once.
        let path = root.path().join("identity.json");
        let old = r#"{"format":1,"cluster":"c","region":"east","region_number":1,"node":1}"#;
        fs::write(&path, old).unwrap();
        assert_eq!((open(&later), open(&identity(1))), ("later".into(), "later".into()));
        // A crash while the very first identity was written.
        fs::rename(&path, root.path().join(TEMPORARY)).unwrap();
        assert_eq!(open(&identity(1)), "first");
    }

    #[test]
    fn a_directory_without_its_log_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("log");
        let segment = log.join("log-0000000000000001.seg");
        DataDir::open(root.path(), &identity(1), &SystemDisk).unwrap();
        let open = || DataDir::open(root.path(), &identity(1), &SystemDisk);
        // Before the log has begun there is nothing to miss.
        let dir = open().unwrap();
        fs::create_dir(&log).unwrap();
        fs::write(&segment, "x").unwrap();
        dir.note_log_begun().unwrap();
        dir.note_log_begun().unwrap();
        drop(dir);
        assert_eq!(open().unwrap().incarnation(), "first");
        for lose in [
            |segment: &Path| fs::remove_file(segment),
            |segment: &Path| fs::remove_dir(segment.parent().unwrap()),
        ] {
            lose(&segment).unwrap();
            let said = open().unwrap_err().to_string();
            assert!(
                said.contains("log of this node is gone") && said.contains(&log.display().to_string()),
                "{said}"
            );
        }
    }

    #[test]
    fn one_process_one_owner() {
        let root = tempfile::tempdir().unwrap();
        let held = DataDir::open(root.path(), &identity(1), &SystemDisk).unwrap();
        // flock locks belong to the open file, so a second open in this process is refused like another process is.
        assert!(
            DataDir::open(root.path(), &identity(1), &SystemDisk)
                .unwrap_err()
                .to_string()
                .contains("in use")
        );
        drop(held);
        assert!(
            DataDir::open(root.path(), &identity(2), &SystemDisk)
                .unwrap_err()
                .to_string()
                .contains("belongs to node 1")
        );
        DataDir::open(root.path(), &identity(1), &SystemDisk).unwrap();
    }

    #[test]
    fn a_foreign_directory_is_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("precious.txt"), "x").unwrap();
        assert!(
            DataDir::open(root.path(), &identity(1), &SystemDisk)
                .unwrap_err()
                .to_string()
                .contains("not a Tidemark")
        );
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("identity.json"), "{").unwrap();
        assert!(
            DataDir::open(root.path(), &identity(1), &SystemDisk)
                .unwrap_err()
                .to_string()
                .contains("damaged")
        );
    }
}
