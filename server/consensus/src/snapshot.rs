//! Moving a replica's state to another node: file by file, chunk by chunk, each with a checksum, one transfer per group and
//! receiver at a time, memory bounded by one chunk.
//!
//! ```text
//! begin := session u64 | sender u64 | vote | state len u32 | applied state | files u32 | (name len u32 | name | bytes u64)*
//! chunk := session u64 | sender u64 | file u32 | offset u64 | crc32c u32 | data (the rest)
//! end   := session u64 | sender u64
//! answer to begin and chunk := empty; answer to end := vote
//! ```
//!
//! The receiver writes into a directory of its own that is removed on any doubt, verifies every length and checksum, syncs
//! every file and directory, and only then lets the state machine install it. A newer `begin` replaces an older transfer.
//! File names are relative, of plain components only: a sender can never make a receiver write elsewhere.

use crate::codec::{self, Malformed, Reader};
use crate::log::Vote;
use crate::network::Connection;
use crate::raft::{self, RaftVote, Types};
use crate::settings::ConsensusSettings;
use crate::state_machine::{SnapshotDir, SnapshotFiles};
use crate::transport::{MessageKind, TransportError};
use crate::types::AppliedState;
use crate::wire;
use bytes::Bytes;
use openraft::raft::SnapshotResponse;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::{GroupId, NodeId};

/// Most files in a snapshot.
const FILES_MAX: usize = 100_000;
/// Longest relative name, in bytes.
const NAME_BYTES_MAX: usize = 512;

/// Why a transfer failed, on either side.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("{0}")]
    Io(String),
    #[error("{0}")]
    Refused(String),
}

fn io_error(path: &Path, error: io::Error) -> SnapshotError {
    SnapshotError::Io(format!("{}: {error}", path.display()))
}

/// A file of a snapshot: its relative name and its length.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileEntry {
    name: String,
    bytes: u64,
}

fn name_is_plain(name: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    name.len() <= NAME_BYTES_MAX && name.split('/').all(plain)
}

// ---------------------------------------------------------------------------------------------------------- sending

/// Sends everything in `files` to the connection's target and waits until it is installed there.
pub(crate) async fn send(
    connection: &Connection,
    settings: &ConsensusSettings,
    session: u64,
    vote: RaftVote,
    files: SnapshotFiles,
) -> Result<SnapshotResponse<Types>, SnapshotError> {
    let dir = files
        .dir
        .clone()
        .ok_or_else(|| SnapshotError::Refused("a snapshot without files".to_string()))?;
    let listing = dir.clone();
    let list = blocking(move || list_files(listing.path())).await?;
    let id = TransferId {
        session,
        sender: connection.sender(),
    };
    let timeout = Duration::from_millis(settings.snapshot_chunk_timeout_ms);
    let begin = encode_begin(id, &raft::vote(&vote), &files.state, &list);
    connection.send(MessageKind::SnapshotBegin, begin, timeout).await?;
    for (number, entry) in list.iter().enumerate() {
        let path = dir.path().join(&entry.name);
        let file = Arc::new(blocking(move || File::open(&path).map_err(|e| io_error(&path, e))).await?);
        let mut offset = 0;
        while offset < entry.bytes {
            let len = (entry.bytes - offset).min(settings.snapshot_chunk_bytes as u64) as usize;
            let (file, name) = (file.clone(), entry.name.clone());
            let chunk = blocking(move || {
                let mut data = vec![0; len];
                file.read_exact_at(&mut data, offset)
                    .map_err(|e| io_error(Path::new(&name), e))?;
                Ok(encode_chunk(id, number as u32, offset, &data))
            })
            .await?;
            connection.send(MessageKind::SnapshotChunk, chunk, timeout).await?;
            offset += len as u64;
        }
    }
    let install = Duration::from_millis(settings.snapshot_install_timeout_ms);
    let mut body = Vec::with_capacity(16);
    id.put(&mut body);
    let answer = connection.send(MessageKind::SnapshotEnd, body.into(), install).await?;
    let mut reader = Reader::new(answer);
    let vote = wire::read_vote(&mut reader)?;
    Ok(SnapshotResponse::new(raft::raft_vote(&vote)))
}

async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, SnapshotError> {
    tidemark_runtime::spawn_blocking(f)
        .await
        .map_err(|error| SnapshotError::Io(error.to_string()))?
}

/// Every regular file below `root`, with a name relative to it, in a stable order.
fn list_files(root: &Path) -> Result<Vec<FileEntry>, SnapshotError> {
    let mut files = Vec::new();
    let mut waiting = vec![(root.to_path_buf(), String::new())];
    while let Some((dir, prefix)) = waiting.pop() {
        for entry in fs::read_dir(&dir).map_err(|e| io_error(&dir, e))? {
            let entry = entry.map_err(|e| io_error(&dir, e))?;
            let path = entry.path();
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let metadata = entry.metadata().map_err(|e| io_error(&path, e))?;
            if !name_is_plain(&name) || files.len() >= FILES_MAX {
                return Err(SnapshotError::Refused(format!(
                    "{}: not a name for a snapshot",
                    path.display()
                )));
            }
            if metadata.is_dir() {
                waiting.push((path, format!("{name}/")));
            } else {
                files.push(FileEntry {
                    name,
                    bytes: metadata.len(),
                });
            }
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

// ------------------------------------------------------------------------------------------------------------ wire

/// Which transfer a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TransferId {
    session: u64,
    sender: NodeId,
}

impl TransferId {
    fn put(&self, out: &mut Vec<u8>) {
        codec::put_u64(out, self.session);
        codec::put_u64(out, self.sender.0);
    }

    fn read(reader: &mut Reader) -> Result<TransferId, Malformed> {
        Ok(TransferId {
            session: reader.u64("session")?,
            sender: NodeId(reader.u64("sender")?),
        })
    }
}

#[derive(Debug)]
struct Begin {
    id: TransferId,
    vote: Vote,
    state: AppliedState,
    files: Vec<FileEntry>,
}

#[derive(Debug)]
struct Chunk {
    id: TransferId,
    file: u32,
    offset: u64,
    crc: u32,
    data: Bytes,
}

fn encode_begin(id: TransferId, vote: &Vote, state: &AppliedState, files: &[FileEntry]) -> Bytes {
    let mut out = Vec::with_capacity(128 + files.len() * 40);
    id.put(&mut out);
    wire::put_vote(&mut out, vote);
    codec::put_bytes(&mut out, &state.encode());
    codec::put_u32(&mut out, files.len() as u32);
    for file in files {
        codec::put_bytes(&mut out, file.name.as_bytes());
        codec::put_u64(&mut out, file.bytes);
    }
    out.into()
}

fn decode_begin(body: Bytes) -> Result<Begin, Malformed> {
    let mut reader = Reader::new(body);
    let id = TransferId::read(&mut reader)?;
    let vote = wire::read_vote(&mut reader)?;
    let state = AppliedState::decode(&reader.bytes("snapshot state")?)?;
    let count = reader.u32("file count")? as usize;
    if count > FILES_MAX || count > reader.remaining() / 12 {
        return Err(Malformed("file count"));
    }
    let mut files = Vec::with_capacity(count);
    for _ in 0..count {
        let name = reader.bytes("file name")?;
        let name = std::str::from_utf8(&name)
            .map_err(|_| Malformed("file name"))?
            .to_string();
        if !name_is_plain(&name) {
            return Err(Malformed("file name"));
        }
        files.push(FileEntry {
            name,
            bytes: reader.u64("file length")?,
        });
    }
    reader.finish("snapshot begin")?;
    Ok(Begin { id, vote, state, files })
}

/// True if it is a transfer's beginning or a chunk.
pub(crate) fn is_message(body: Bytes) -> bool {
    decode_begin(body.clone()).is_ok() || decode_chunk(body).is_ok()
}

fn encode_chunk(id: TransferId, file: u32, offset: u64, data: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(32 + data.len());
    id.put(&mut out);
    codec::put_u32(&mut out, file);
    codec::put_u64(&mut out, offset);
    codec::put_u32(&mut out, crc32c::crc32c(data));
    out.extend_from_slice(data);
    out.into()
}

fn decode_chunk(body: Bytes) -> Result<Chunk, Malformed> {
    let mut reader = Reader::new(body);
    let id = TransferId::read(&mut reader)?;
    let file = reader.u32("chunk file")?;
    let offset = reader.u64("chunk offset")?;
    let crc = reader.u32("chunk checksum")?;
    Ok(Chunk {
        id,
        file,
        offset,
        crc,
        data: reader.tail(),
    })
}

// ------------------------------------------------------------------------------------------------------- receiving

/// The transfer that a group receives, if any. One owner (the group's lock); all its methods block on the disk.
#[derive(Default)]
pub(crate) struct Receiver {
    current: Option<Incoming>,
}

struct Incoming {
    id: TransferId,
    vote: Vote,
    state: AppliedState,
    files: Vec<FileEntry>,
    dir: Arc<SnapshotDir>,
    /// The file being written, and how much of it is there.
    file: usize,
    written: u64,
    open: Option<File>,
    /// Rounds of housekeeping since the last message.
    idle: u32,
}

/// A complete, verified, synced snapshot, ready to be installed.
pub(crate) struct Received {
    pub(crate) vote: RaftVote,
    pub(crate) files: SnapshotFiles,
}

impl Receiver {
    pub(crate) fn begin(&mut self, root: &Path, group: GroupId, body: Bytes) -> Result<(), SnapshotError> {
        let begin = decode_begin(body)?;
        // Removes the directory of the transfer that this one replaces.
        self.current = None;
        let path = root.join(format!("in-{}-{}-{}", group.0, begin.id.sender.0, begin.id.session));
        let dir = SnapshotDir::new(path);
        match fs::remove_dir_all(dir.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(dir.path(), error)),
            _ => {}
        }
        make_dir(dir.path())?;
        for file in &begin.files {
            if let Some((parent, _)) = file.name.rsplit_once('/') {
                make_dir(&dir.path().join(parent))?;
            }
        }
        let mut incoming = Incoming {
            id: begin.id,
            vote: begin.vote,
            state: begin.state,
            files: begin.files,
            dir: Arc::new(dir),
            file: 0,
            written: 0,
            open: None,
            idle: 0,
        };
        incoming.open_next()?;
        self.current = Some(incoming);
        Ok(())
    }

    pub(crate) fn chunk(&mut self, body: Bytes) -> Result<(), SnapshotError> {
        let chunk = decode_chunk(body)?;
        let result = match &mut self.current {
            Some(incoming) if incoming.id == chunk.id => incoming.write(&chunk),
            _ => return Err(SnapshotError::Refused("no such transfer".to_string())),
        };
        if result.is_err() {
            self.current = None;
        }
        result
    }

    pub(crate) fn end(&mut self, body: Bytes) -> Result<Received, SnapshotError> {
        let mut reader = Reader::new(body);
        let id = TransferId::read(&mut reader)?;
        reader.finish("snapshot end")?;
        match self.current.take() {
            Some(incoming) if incoming.id == id => incoming.complete(),
            other => {
                self.current = other;
                Err(SnapshotError::Refused("no such transfer".to_string()))
            }
        }
    }

    /// Forgets a transfer whose sender is silent for more than `rounds` rounds of housekeeping.
    pub(crate) fn expire(&mut self, rounds: u32) {
        if let Some(incoming) = &mut self.current {
            incoming.idle += 1;
            if incoming.idle > rounds {
                self.current = None;
            }
        }
    }
}

impl Incoming {
    /// Opens the next file that expects bytes; empty ones are created on the way.
    fn open_next(&mut self) -> Result<(), SnapshotError> {
        while let Some(entry) = self.files.get(self.file) {
            let path = self.dir.path().join(&entry.name);
            let file = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .map_err(|error| io_error(&path, error))?;
            self.written = 0;
            if entry.bytes > 0 {
                self.open = Some(file);
                return Ok(());
            }
            file.sync_all().map_err(|error| io_error(&path, error))?;
            self.file += 1;
        }
        self.open = None;
        Ok(())
    }

    fn write(&mut self, chunk: &Chunk) -> Result<(), SnapshotError> {
        self.idle = 0;
        if crc32c::crc32c(&chunk.data) != chunk.crc {
            return Err(SnapshotError::Refused("chunk checksum".to_string()));
        }
        let (Some(entry), Some(file)) = (self.files.get(self.file), &mut self.open) else {
            return Err(SnapshotError::Refused("more chunks than files".to_string()));
        };
        let in_order = chunk.file as usize == self.file && chunk.offset == self.written;
        if !in_order || chunk.data.is_empty() || chunk.data.len() as u64 > entry.bytes - self.written {
            return Err(SnapshotError::Refused("chunk out of order".to_string()));
        }
        let path = self.dir.path().join(&entry.name);
        file.write_all(&chunk.data).map_err(|error| io_error(&path, error))?;
        self.written += chunk.data.len() as u64;
        if self.written == entry.bytes {
            file.sync_all().map_err(|error| io_error(&path, error))?;
            self.file += 1;
            self.open_next()?;
        }
        Ok(())
    }

    fn complete(self) -> Result<Received, SnapshotError> {
        if self.file != self.files.len() {
            return Err(SnapshotError::Refused(format!(
                "{} of {} files arrived",
                self.file,
                self.files.len()
            )));
        }
        sync_dirs(self.dir.path())?;
        let files = SnapshotFiles {
            dir: Some(self.dir),
            state: self.state,
        };
        Ok(Received {
            vote: raft::raft_vote(&self.vote),
            files,
        })
    }
}

fn make_dir(path: &Path) -> Result<(), SnapshotError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| io_error(path, error))
}

/// Syncs a directory, the directories below it and the one above, so that every name is as durable as its file.
fn sync_dirs(root: &Path) -> Result<(), SnapshotError> {
    let sync = |path: &Path| {
        File::open(path)
            .and_then(|dir| dir.sync_all())
            .map_err(|e| io_error(path, e))
    };
    let mut waiting: Vec<PathBuf> = vec![root.to_path_buf()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).map_err(|e| io_error(&dir, e))? {
            let entry = entry.map_err(|e| io_error(&dir, e))?;
            if entry.file_type().map_err(|e| io_error(&dir, e))?.is_dir() {
                waiting.push(entry.path());
            }
        }
        sync(&dir)?;
    }
    root.parent().map_or(Ok(()), sync)
}

/// Prepares the directory for snapshots and removes what an earlier process left there (only names of our own making).
pub(crate) fn prepare_root(root: &Path) -> Result<(), String> {
    make_dir(root).map_err(|error| error.to_string())?;
    let describe = |error: io::Error| format!("{}: {error}", root.display());
    for entry in fs::read_dir(root).map_err(describe)? {
        let entry = entry.map_err(describe)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("in-") || name.starts_with("out-") {
            fs::remove_dir_all(entry.path()).map_err(describe)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_cannot_leave_the_directory() {
        for good in ["CURRENT", "000012.sst", "sub/MANIFEST-000004"] {
            assert!(name_is_plain(good), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a//b",
            "a/.",
            "a\\b",
            "a\0b",
            &"x".repeat(600),
        ] {
            assert!(!name_is_plain(bad), "{bad:?}");
        }
    }

    fn begin_with(files: &[(&str, u64)]) -> (TransferId, Bytes) {
        let id = TransferId {
            session: 7,
            sender: NodeId(1),
        };
        let vote = Vote {
            term: 1,
            node: NodeId(1),
            committed: true,
        };
        let files: Vec<FileEntry> = files
            .iter()
            .map(|(name, bytes)| FileEntry {
                name: name.to_string(),
                bytes: *bytes,
            })
            .collect();
        (id, encode_begin(id, &vote, &AppliedState::default(), &files))
    }

    #[test]
    fn a_transfer_arrives_and_a_damaged_one_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let mut receiver = Receiver::default();
        let (id, begin) = begin_with(&[("a", 3), ("empty", 0), ("sub/b", 2)]);
        let mut end = Vec::new();
        id.put(&mut end);
        receiver.begin(root.path(), GroupId(4), begin.clone()).unwrap();
        receiver.chunk(encode_chunk(id, 0, 0, b"he")).unwrap();
        receiver.chunk(encode_chunk(id, 0, 2, b"y")).unwrap();
        receiver.chunk(encode_chunk(id, 2, 0, b"ok")).unwrap();
        let received = receiver.end(end.clone().into()).unwrap();
        let dir = received.files.dir.clone().unwrap();
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"hey");
        assert_eq!(fs::read(dir.path().join("empty")).unwrap(), b"");
        assert_eq!(fs::read(dir.path().join("sub/b")).unwrap(), b"ok");
        drop((received, dir));

        receiver.begin(root.path(), GroupId(4), begin).unwrap();
        let mut damaged = encode_chunk(id, 0, 0, b"he").to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(receiver.chunk(damaged.into()).is_err());
        assert!(receiver.end(end.into()).is_err());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_incomplete_transfer_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let mut receiver = Receiver::default();
        let (id, begin) = begin_with(&[("a", 3)]);
        receiver.begin(root.path(), GroupId(4), begin).unwrap();
        receiver.chunk(encode_chunk(id, 0, 0, b"he")).unwrap();
        let mut end = Vec::new();
        id.put(&mut end);
        assert!(receiver.end(end.into()).is_err());
    }

    proptest! {
        #[test]
        fn decoders_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let bytes = Bytes::from(bytes);
            let _ = decode_begin(bytes.clone());
            let _ = decode_chunk(bytes);
        }
    }
}
