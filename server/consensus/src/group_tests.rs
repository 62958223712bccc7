//! What only the inside of a group can bring about: a panic in openraft's own task, what a replica that began anew takes for
//! durable, and what was flushed under which vote.

use super::group::holds_on_disk;
use crate::error::{ProposeError, ReadError};
use crate::host::{Host, HostOptions};
use crate::log::{FileLog, FileLogOptions, LogStore, MemoryLog};
use crate::raft::{LeaderId, LogId, OpaqueBytes, RaftEntry, RaftPayload, RaftVote, Types};
use crate::settings::ConsensusSettings;
use crate::testing::{FaultyDisk, MachineDisk, MemoryNetwork};
use crate::transport::{MessageKind, RaftMessage};
use crate::types::Role;
use crate::wire;
use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, FlushPoint};
use openraft::vote::RaftLeaderId;
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::{GroupId, NodeId};

const G: GroupId = GroupId(7);
const NODE: NodeId = NodeId(1);
const PATIENCE: Duration = Duration::from_secs(20);

/// The end of the task says nothing through openraft's own state: its metrics stay as they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_the_raft_task_is_a_fault_and_the_group_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    let options = HostOptions {
        node: NODE,
        log: MemoryLog::new(),
        snapshot_dir: dir.path().join("snapshots"),
        transport: MemoryNetwork::new().transport(NODE),
        settings: ConsensusSettings::default(),
        entropy: tidemark_runtime::Entropy::from_os(),
    };
    let host = Host::open(options).await.unwrap();
    let disk = MachineDisk::new();
    let group = host.start_group(G, disk.machine()).await.unwrap();
    group.initialize([NODE].into()).await.unwrap();
    group.wait_leader_ready(PATIENCE).await.unwrap();
    group.propose(Bytes::from("one")).await.unwrap();

    group.panic_raft_task().await;
    let ended = |status: &crate::GroupStatus| status.fault.is_some();
    let status = group.wait(PATIENCE, "to show the end", ended).await.unwrap();
    assert_eq!(status.fault.as_deref(), Some("the Raft task ended"));
    assert_eq!(
        (status.role, status.leader, status.leader_ready),
        (Role::Learner, None, false)
    );
    assert_eq!(group.watch().borrow().fault, status.fault);
    let refused = ProposeError::Stopped("the Raft task ended".to_string());
    assert_eq!(group.propose(Bytes::from("two")).await.unwrap_err(), refused);
    assert!(matches!(group.read_barrier().await, Err(ReadError::Stopped(_))));

    host.stop_group(G).await;
    let again = host.start_group(G, disk.machine()).await.unwrap();
    again.wait_leader_ready(PATIENCE).await.unwrap();
    again.propose(Bytes::from("three")).await.unwrap();
    again.read_barrier().await.unwrap();
    assert!(again.status().fault.is_none());
    assert_eq!(disk.commands(), [Bytes::from("one"), Bytes::from("three")]);
    // An end that was asked for is none.
    host.stop_group(G).await;
    assert!(again.status().fault.is_none());
    assert_eq!(
        again.propose(Bytes::new()).await.unwrap_err(),
        ProposeError::Stopped("stopped".to_string())
    );
}

/// INV-04. The entry whose sync failed is still readable in memory: a replica that began anew with it would find it there,
/// write nothing, and tell the leader that it holds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_group_starts_on_a_log_whose_sync_failed() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::new();
    let options = FileLogOptions {
        disk: Arc::new(disk.clone()),
        ..FileLogOptions::default()
    };
    let options = HostOptions {
        node: NODE,
        log: FileLog::open(&dir.path().join("log"), options).unwrap(),
        snapshot_dir: dir.path().join("snapshots"),
        transport: MemoryNetwork::new().transport(NODE),
        settings: ConsensusSettings::default(),
        entropy: tidemark_runtime::Entropy::from_os(),
    };
    let host = Host::open(options).await.unwrap();
    let machine = MachineDisk::new();
    let group = host.start_group(G, machine.machine()).await.unwrap();
    group.initialize([NODE].into()).await.unwrap();
    group.wait_leader_ready(PATIENCE).await.unwrap();
    disk.fail_next_sync();
    assert!(group.propose(Bytes::from("one")).await.is_err());
    host.stop_group(G).await;
    let again = host.start_group(G, machine.machine()).await;
    let error = again.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("poisoned"), "{error}");
}

/// INV-01 across incarnations: an entry that the one before has appended and that still waits for its sync is readable
/// (INV-02). A replica that began with it would write nothing when the leader sends it again, and say that it holds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_starts_again_claims_no_entry_that_still_waits_for_its_sync() {
    let dir = tempfile::tempdir().unwrap();
    let log = MemoryLog::new();
    let options = HostOptions {
        node: NODE,
        log: log.clone(),
        snapshot_dir: dir.path().join("snapshots"),
        transport: MemoryNetwork::new().transport(NODE),
        settings: ConsensusSettings::default(),
        entropy: tidemark_runtime::Entropy::from_os(),
    };
    let host = Host::open(options).await.unwrap();
    let machine = MachineDisk::new();
    let group = host.start_group(G, machine.machine()).await.unwrap();
    let accepted = |answer: Bytes| wire::decode_append_ack(answer).unwrap() == AppendEntriesResponse::Success;
    assert!(accepted(host.handle(append(0)).await.unwrap()));

    log.set_manual_sync(true);
    let (sent, waiting) = (host.clone(), log.unsynced());
    let first = tokio::spawn(async move { sent.handle(append(1)).await });
    while log.unsynced() == waiting {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    group.panic_raft_task().await;
    assert!(first.await.unwrap().is_err(), "nobody was told");
    host.stop_group(G).await;

    let waiting = log.unsynced();
    let starter = host.clone();
    let starting = tokio::spawn(async move { starter.start_group(G, machine.machine()).await });
    while !starting.is_finished() && log.unsynced() == waiting {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    if !starting.is_finished() {
        log.sync();
    }
    starting.await.unwrap().unwrap();
    assert!(accepted(host.handle(append(1)).await.unwrap()));
    log.crash();
    assert!(log.position(G, 1).is_some(), "it was held when that was said");
}

/// From node 2, which leads in term 1: the entry at that index, behind the one before it.
fn append(index: u64) -> RaftMessage {
    let entry = RaftEntry {
        log_id: log_id(1, 2, index),
        payload: RaftPayload::Normal(OpaqueBytes(Bytes::from("one"))),
    };
    let request = AppendEntriesRequest {
        vote: vote(1, 2),
        prev_log_id: index.checked_sub(1).map(|before| log_id(1, 2, before)),
        entries: vec![entry],
        leader_commit: None,
    };
    RaftMessage {
        group: G,
        kind: MessageKind::Append,
        body: wire::encode_append(&request),
    }
}

fn vote(term: u64, node: u64) -> RaftVote {
    RaftVote::new_committed(term, node)
}

fn log_id(term: u64, node: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new(term, node), index)
}

#[test]
fn only_an_entry_of_the_leader_itself_proves_what_lies_before_it() {
    let leader = vote(3, 3);
    let holds = |previous, last| holds_on_disk(&leader, previous, &FlushPoint::<Types>::new(leader, last));
    let old = Some(log_id(1, 1, 7));
    // An entry that another leader left behind sorts above the named one and stands in its place.
    assert!(!holds(old, Some(log_id(2, 2, 3))));
    assert!(!holds(old, None), "only the vote");
    assert!(holds(old, Some(log_id(3, 3, 9))));
    assert!(holds(Some(log_id(3, 3, 9)), Some(log_id(3, 3, 9))));
    assert!(!holds(Some(log_id(3, 3, 10)), Some(log_id(3, 3, 9))), "not there yet");
    assert!(holds(None, None), "nothing is named");
    let earlier = FlushPoint::<Types>::new(vote(2, 2), Some(log_id(2, 2, 9)));
    assert!(!holds_on_disk(&leader, None, &earlier), "the vote is not on disk");
}
