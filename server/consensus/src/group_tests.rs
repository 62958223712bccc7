//! What only the inside of a group can bring about: a panic in openraft's own task, and what was flushed under which vote.

use super::group::holds_on_disk;
use crate::error::{ProposeError, ReadError};
use crate::host::{Host, HostOptions};
use crate::log::{FileLog, FileLogOptions, MemoryLog};
use crate::raft::{LeaderId, LogId, RaftVote, Types};
use crate::settings::ConsensusSettings;
use crate::testing::{FaultyDisk, MachineDisk, MemoryNetwork};
use crate::types::Role;
use bytes::Bytes;
use openraft::raft::FlushPoint;
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
