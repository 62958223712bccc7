//! Shows one group's part of the node's log store to openraft.

use crate::log::{Completion, LogError, LogStore};
use crate::raft::{self, LogId, RaftEntry, RaftVote, Types};
use crate::types::Entry;
use futures::stream::{self, Stream, StreamExt};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemark_base::GroupId;
use tokio::sync::oneshot;

/// Entries read at once for apply.
const STREAM_ENTRIES_MAX: u64 = 1024;

/// The last index that survives without the log, as the state machine last said; `0` is none. INV-05 is checked against it.
pub(crate) type DurableFloor = Arc<AtomicU64>;

/// The log of one group; clones read the same log.
#[derive(Clone)]
pub(crate) struct RaftLog {
    pub(crate) store: Arc<dyn LogStore>,
    pub(crate) group: GroupId,
    /// Bytes after which one read for replication, or one batch for apply, stops.
    pub(crate) read_bytes_max: usize,
    /// None only in openraft's storage suite, which purges without a state machine.
    pub(crate) durable: Option<DurableFloor>,
}

fn io_error(error: LogError) -> io::Error {
    io::Error::other(error)
}

impl RaftLog {
    /// Reads what is present of `from..to`; what is not in memory is read by a blocking thread.
    async fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if self.store.is_cached(self.group, from, to) {
            return self.store.read(self.group, from, to, bytes_max).map_err(io_error);
        }
        let (store, group) = (self.store.clone(), self.group);
        tidemark_runtime::spawn_blocking(move || store.read(group, from, to, bytes_max))
            .await
            .map_err(io::Error::other)?
            .map_err(io_error)
    }

    async fn read_raft(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<RaftEntry>> {
        let entries = self.read(from, to, bytes_max).await?;
        entries
            .into_iter()
            .map(|entry| raft::raft_entry(entry).map_err(io::Error::other))
            .collect()
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(from) => from.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(to) => to.saturating_add(1),
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

fn waiter() -> (Completion, oneshot::Receiver<Result<(), LogError>>) {
    let (sender, receiver) = oneshot::channel();
    let done: Completion = Box::new(move |result| {
        let _ = sender.send(result);
    });
    (done, receiver)
}

impl RaftLogReader<Types> for RaftLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let (from, to) = bounds(&range);
        self.read_raft(from, to, usize::MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        Ok(self.store.state(self.group).vote.as_ref().map(raft::raft_vote))
    }

    /// Bounds an append message in bytes, not only in entries.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<RaftEntry>, io::Error> {
        self.read_raft(start, end, self.read_bytes_max).await
    }

    /// Reads piece by piece: a replica that replays a long log must not hold all of it in memory.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<RaftEntry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = bounds(&range);
        let state = (self.clone(), from, to, VecDeque::new());
        stream::unfold(state, |(log, from, to, mut ready)| async move {
            if ready.is_empty() && from < to {
                let piece = to.min(from.saturating_add(STREAM_ENTRIES_MAX));
                match log.read_raft(from, piece, log.read_bytes_max).await {
                    Ok(entries) => ready.extend(entries),
                    Err(error) => return Some((Err(error), (log, to, to, VecDeque::new()))),
                }
            }
            let entry: RaftEntry = ready.pop_front()?;
            let next = entry.log_id.index + 1;
            Some((Ok(entry), (log, next, to, ready)))
        })
        .boxed()
    }
}

impl RaftLogStorage<Types> for RaftLog {
    type LogReader = RaftLog;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let state = self.store.state(self.group);
        // INV-04: asked once, at a group's start; see there.
        if let Some(reason) = self.store.poisoned() {
            return Err(io_error(LogError::Poisoned(reason)));
        }
        Ok(LogState {
            last_purged_log_id: state.purged.as_ref().map(raft::log_id),
            last_log_id: state.last.as_ref().map(raft::log_id),
        })
    }

    async fn get_log_reader(&mut self) -> RaftLog {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        let (done, durable) = waiter();
        self.store
            .save_vote(self.group, raft::vote(vote), done)
            .map_err(io_error)?;
        // INV-01: a vote that could be forgotten could be given twice.
        durable.await.map_err(|_| io_error(LogError::Closed))?.map_err(io_error)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        match committed {
            Some(id) => self
                .store
                .save_committed(self.group, raft::position(&id))
                .map_err(io_error),
            None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.store.state(self.group).committed.as_ref().map(raft::log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().map(raft::entry).collect();
        let bytes: usize = entries.iter().map(|entry| entry.payload.len() + 64).sum();
        let admission = self.store.admission().clone();
        // One append larger than the whole queue takes all of it rather than waiting for ever.
        let permits = u32::try_from(bytes.div_ceil(1024))
            .unwrap_or(u32::MAX)
            .min(ADMISSION_KIB_MAX);
        let permit = admission
            .acquire_many_owned(permits)
            .await
            .map_err(|_| io_error(LogError::Closed))?;
        let done: Completion = Box::new(move |result| {
            drop(permit);
            callback.io_completed(result.map_err(io_error));
        });
        self.store.append(self.group, entries, done).map_err(io_error)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |id| id.index + 1);
        self.store.truncate_from(self.group, from).map_err(io_error)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        // INV-05: what the log alone holds must not leave it.
        if let Some(durable) = &self.durable {
            let durable = durable.load(Ordering::Acquire);
            if log_id.index > durable {
                let group = self.group;
                let text = format!(
                    "INV-05: {group}: purge to {} above the durable index {durable}",
                    log_id.index
                );
                return Err(io::Error::other(text));
            }
        }
        self.store.purge(self.group, raft::position(&log_id)).map_err(io_error)
    }
}

/// The smallest queue that a store may have; an append never asks for more permits.
pub(crate) const ADMISSION_KIB_MAX: u32 = 32 << 10;
