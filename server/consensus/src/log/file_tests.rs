//! What only a disk can do to the file log: torn writes, damage, failed syncs, no space, and old segments.

use super::conformance_tests::{append, at, entries, save_vote, waiter};
use super::{FileLog, FileLogOptions, LogDisk, LogError, LogFile, LogStore, SystemDisk, Vote};
use crate::testing::FaultyDisk;
use crate::types::{Entry, LogPosition, Payload};
use bytes::Bytes;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidemark_base::{GroupId, NodeId};

const G: GroupId = GroupId(5);
const VOTE: Vote = Vote {
    term: 3,
    node: NodeId(2),
    committed: true,
};
const PATIENCE: Duration = Duration::from_secs(20);

fn open(dir: &Path) -> Result<Arc<FileLog>, LogError> {
    FileLog::open(dir, FileLogOptions::default())
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Three acknowledged frames: entries 0..3, a vote, entries 3..6.
fn three_frames(dir: &Path) -> PathBuf {
    let log = open(dir).unwrap();
    append(&*log, G, entries(1, 0..3));
    save_vote(&*log, G, VOTE);
    append(&*log, G, entries(1, 3..6));
    log.close();
    segments(dir).remove(0)
}

/// Offset of the last frame of a file.
fn last_frame(bytes: &[u8]) -> usize {
    bytes.windows(4).rposition(|window| window == b"TMFR").unwrap()
}

#[test]
fn files_and_directories_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let segment = three_frames(&path);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(segment).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_write_interrupted_anywhere_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let segment = three_frames(dir.path());
    let whole = fs::read(&segment).unwrap();
    let start = last_frame(&whole);
    for end in start..whole.len() {
        fs::write(&segment, &whole[..end]).unwrap();
        let log = open(dir.path()).unwrap();
        assert_eq!(log.state(G).last, Some(at(1, 2)), "cut at {end}");
        assert_eq!(log.state(G).vote, Some(VOTE));
        append(&*log, G, entries(2, 3..4));
        drop(log);
        let last = open(dir.path()).unwrap().state(G).last;
        assert_eq!(
            last,
            Some(at(2, 3)),
            "written behind an interrupted write, cut at {end}"
        );
    }
}

#[test]
fn a_sector_that_was_never_written_is_an_interrupted_write() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    append(&*log, G, entries(1, 0..3));
    let big = Entry {
        position: at(1, 3),
        payload: Payload::Command(Bytes::from(vec![7; 5000])),
    };
    append(&*log, G, vec![big]);
    drop(log);
    let segment = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&segment).unwrap();
    bytes[2048..2560].fill(0);
    fs::write(&segment, &bytes).unwrap();
    assert_eq!(open(dir.path()).unwrap().state(G).last, Some(at(1, 2)));
}

/// Found by the simulation: of a frame that began in the last bytes of a sector, that sector had not been written.
#[test]
fn a_head_across_two_sectors_of_which_one_was_never_written_is_an_interrupted_write() {
    for in_first_sector in [1, 2, 5, 15, 19] {
        for hole_in_first in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let log = open(dir.path()).unwrap();
            let segment = || segments(dir.path()).remove(0);
            append(&*log, G, entries(1, 0..1));
            let pad = |index, bytes: usize| Entry {
                position: at(1, index),
                payload: Payload::Command(Bytes::from(vec![7; bytes])),
            };
            append(&*log, G, vec![pad(1, 100)]);
            let frame = fs::metadata(segment()).unwrap().len() as usize;
            append(&*log, G, vec![pad(2, 100)]);
            let next = fs::metadata(segment()).unwrap().len() as usize;
            // The next frame with a payload longer by so much ends where the last one is to begin.
            let end = (next + next - frame + in_first_sector).next_multiple_of(512) - in_first_sector;
            append(&*log, G, vec![pad(3, 100 + end - (next + next - frame))]);
            let start = fs::metadata(segment()).unwrap().len() as usize;
            assert_eq!(start % 512, 512 - in_first_sector);
            append(&*log, G, vec![pad(4, 2_000)]);
            drop(log);
            let mut bytes = fs::read(segment()).unwrap();
            let boundary = start + in_first_sector;
            let hole = if hole_in_first {
                start..boundary
            } else {
                boundary..boundary + 512
            };
            bytes[hole.clone()].fill(0);
            fs::write(segment(), &bytes).unwrap();
            let opened = open(dir.path()).unwrap_or_else(|error| panic!("{hole:?} of frame {start}: {error}"));
            assert_eq!(opened.state(G).last, Some(at(1, 3)));
        }
    }
}

/// Checks INV-06.
#[test]
fn a_flipped_bit_is_refused_naming_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let segment = three_frames(dir.path());
    let whole = fs::read(&segment).unwrap();
    // Everywhere: in the head, in acknowledged frames, and in the last one, which is complete and so was acknowledged too.
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&segment, &damaged).unwrap();
        match open(dir.path()) {
            Err(LogError::Damaged { path, .. }) => assert_eq!(path, segment.display().to_string()),
            // A longer length in the last frame's own head cannot be told from a short file, but its checksum can.
            other => panic!("byte {at}: {:?}", other.map(|log| log.state(G))),
        }
        assert_eq!(fs::read(&segment).unwrap(), damaged, "nothing is changed");
    }
    fs::write(&segment, &whole).unwrap();
    assert_eq!(open(dir.path()).unwrap().state(G).last, Some(at(1, 5)));
}

#[test]
fn damage_in_an_older_segment_and_a_missing_one_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let options = FileLogOptions {
        segment_bytes: 200,
        ..FileLogOptions::default()
    };
    let log = FileLog::open(dir.path(), options).unwrap();
    for i in 0..20 {
        append(&*log, G, entries(1, i..i + 1));
    }
    drop(log);
    let paths = segments(dir.path());
    assert!(paths.len() > 4);
    // Torn or not: an older segment was complete when the next one began.
    let whole = fs::read(&paths[1]).unwrap();
    fs::write(&paths[1], &whole[..whole.len() - 1]).unwrap();
    let error = open(dir.path()).err().unwrap();
    assert!(error.to_string().contains(&paths[1].display().to_string()), "{error}");
    fs::write(&paths[1], &whole).unwrap();
    fs::remove_file(&paths[2]).unwrap();
    let error = open(dir.path()).err().unwrap();
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn an_interrupted_segment_creation_leaves_the_votes_alone() {
    let dir = tempfile::tempdir().unwrap();
    let options = FileLogOptions {
        segment_bytes: 100,
        ..FileLogOptions::default()
    };
    let log = FileLog::open(dir.path(), options.clone()).unwrap();
    save_vote(&*log, G, VOTE);
    append(&*log, G, entries(1, 0..3));
    append(&*log, G, entries(1, 3..4));
    drop(log);
    let last = segments(dir.path()).pop().unwrap();
    let whole = fs::read(&last).unwrap();
    for keep in [0, 10, 24, 30, whole.len() - 1] {
        fs::write(&last, &whole[..keep]).unwrap();
        let log = FileLog::open(dir.path(), options.clone()).unwrap();
        assert_eq!(log.state(G).vote, Some(VOTE), "kept {keep}");
        assert_eq!(log.state(G).last, Some(at(1, 2)));
        append(&*log, G, entries(1, 3..4));
        log.purge(G, at(1, 3)).unwrap();
        drop(log);
        let log = FileLog::open(dir.path(), options.clone()).unwrap();
        assert_eq!((log.state(G).vote, log.state(G).purged), (Some(VOTE), Some(at(1, 3))));
        drop(log);
        // Back to the beginning for the next length.
        for path in segments(dir.path()) {
            fs::remove_file(path).unwrap();
        }
        let log = FileLog::open(dir.path(), options.clone()).unwrap();
        save_vote(&*log, G, VOTE);
        append(&*log, G, entries(1, 0..3));
        append(&*log, G, entries(1, 3..4));
    }
}

fn on_faulty(dir: &Path) -> (FaultyDisk, Arc<FileLog>) {
    let disk = FaultyDisk::new();
    let options = FileLogOptions {
        disk: Arc::new(disk.clone()),
        no_space_retry_ms: 5,
        ..FileLogOptions::default()
    };
    (disk, FileLog::open(dir, options).unwrap())
}

/// Checks INV-04, and INV-01: what was not synced is not reported as done.
#[test]
fn a_failed_sync_poisons_the_store_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, log) = on_faulty(dir.path());
    append(&*log, G, entries(1, 0..3));
    disk.fail_next_sync();
    let (done, result) = waiter();
    log.append(G, entries(1, 3..4), done).unwrap();
    assert!(matches!(
        result.recv_timeout(PATIENCE).unwrap(),
        Err(LogError::Poisoned(_))
    ));
    // The disk would work again; the store must not believe it.
    let syncs = disk.syncs();
    let (done, _) = waiter();
    assert!(matches!(
        log.append(G, entries(1, 4..5), done),
        Err(LogError::Poisoned(_))
    ));
    let (done, _) = waiter();
    assert!(matches!(log.save_vote(G, VOTE, done), Err(LogError::Poisoned(_))));
    assert!(log.poisoned().unwrap().contains("sync"));
    assert_eq!(disk.syncs(), syncs);
    assert_eq!(log.read(G, 0, 3, usize::MAX).unwrap(), entries(1, 0..3), "reads go on");
}

/// Checks INV-01.
#[test]
fn an_entry_is_reported_only_behind_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, log) = on_faulty(dir.path());
    for index in 0..3 {
        let before = disk.syncs();
        append(&*log, G, entries(1, index..index + 1));
        assert!(
            disk.syncs() > before,
            "entry {index} was reported durable without a sync"
        );
    }
}

/// Checks INV-01.
#[test]
fn a_vote_is_reported_only_behind_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, log) = on_faulty(dir.path());
    for term in 3..6 {
        let before = disk.syncs();
        save_vote(&*log, G, Vote { term, ..VOTE });
        assert!(
            disk.syncs() > before,
            "the vote of term {term} was reported durable without a sync"
        );
    }
}

#[test]
fn a_failed_write_poisons_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, log) = on_faulty(dir.path());
    append(&*log, G, entries(1, 0..3));
    disk.fail_next_write();
    let (done, result) = waiter();
    log.append(G, entries(1, 3..4), done).unwrap();
    assert!(matches!(
        result.recv_timeout(PATIENCE).unwrap(),
        Err(LogError::Poisoned(_))
    ));
    assert!(log.poisoned().unwrap().contains("writing"));
}

#[test]
fn without_space_writes_wait_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, log) = on_faulty(dir.path());
    append(&*log, G, entries(1, 0..3));
    disk.set_no_space(true);
    let (done, result) = waiter();
    log.append(G, entries(1, 3..4), done).unwrap();
    let (vote_done, vote_result) = waiter();
    log.save_vote(G, VOTE, vote_done).unwrap();
    eventually("the stall to show", || log.stalled_no_space());
    assert!(result.try_recv().is_err(), "nothing is acknowledged");
    assert_eq!(log.read(G, 0, 4, usize::MAX).unwrap().len(), 4);
    disk.set_no_space(false);
    result.recv_timeout(PATIENCE).unwrap().unwrap();
    vote_result.recv_timeout(PATIENCE).unwrap().unwrap();
    assert!(!log.stalled_no_space());
    assert!(log.poisoned().is_none());
    drop(log);
    let log = open(dir.path()).unwrap();
    assert_eq!((log.state(G).last, log.state(G).vote), (Some(at(1, 3)), Some(VOTE)));
}

#[test]
fn a_log_without_space_can_be_closed() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, log) = on_faulty(dir.path());
    append(&*log, G, entries(1, 0..3));
    disk.set_no_space(true);
    let (done, result) = waiter();
    log.append(G, entries(1, 3..4), done).unwrap();
    eventually("the stall to show", || log.stalled_no_space());
    log.close();
    assert_eq!(result.recv_timeout(PATIENCE).unwrap(), Err(LogError::Closed));
    drop(log);
    assert_eq!(open(dir.path()).unwrap().state(G).last, Some(at(1, 2)));
}

/// Checks INV-04. A frame that fits where the one before it did not must not be written: it would leave a hole behind it.
#[test]
fn a_log_closed_without_space_holds_no_hole() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, log) = on_faulty(dir.path());
    append(&*log, G, entries(1, 0..3));
    disk.set_room_bytes(512);
    let (big_done, big) = waiter();
    log.append(G, vec![kilobyte(1, 3)], big_done).unwrap();
    eventually("the stall to show", || log.stalled_no_space());
    // The writer holds the big one; this one waits behind it.
    let (small_done, small) = waiter();
    log.append(G, entries(1, 4..5), small_done).unwrap();
    let (vote_done, vote) = waiter();
    log.save_vote(G, VOTE, vote_done).unwrap();
    log.close();
    for result in [big, small, vote] {
        assert_eq!(result.recv_timeout(PATIENCE).unwrap(), Err(LogError::Closed));
    }
    drop(log);
    disk.set_no_space(false);
    let log = open(dir.path()).unwrap();
    assert_eq!((log.state(G).last, log.state(G).vote), (Some(at(1, 2)), None));
    append(&*log, G, entries(1, 3..6));
    drop(log);
    let log = open(dir.path()).unwrap();
    assert_eq!(log.read(G, 0, 6, usize::MAX).unwrap(), entries(1, 0..6));
}

fn kilobyte(term: u64, index: u64) -> Entry {
    Entry {
        position: at(term, index),
        payload: Payload::Command(Bytes::from(vec![index as u8; 1024])),
    }
}

#[test]
fn purged_segments_go_and_votes_stay() {
    let dir = tempfile::tempdir().unwrap();
    let options = FileLogOptions {
        segment_bytes: 16 << 10,
        cache_bytes: 8 << 10,
        ..FileLogOptions::default()
    };
    let log = FileLog::open(dir.path(), options).unwrap();
    save_vote(&*log, G, VOTE);
    for i in 0..200 {
        append(&*log, G, vec![kilobyte(1, i)]);
    }
    assert!(log.segments() > 10);
    // Beyond the cache the entries come from the disk.
    assert!(!log.is_cached(G, 0, 10));
    assert_eq!(
        log.read(G, 0, 10, usize::MAX).unwrap(),
        (0..10).map(|i| kilobyte(1, i)).collect::<Vec<_>>()
    );
    assert!(log.is_cached(G, 198, 200));
    log.purge(G, at(1, 190)).unwrap();
    eventually("old segments to go", || log.segments() <= 3);
    assert_eq!(segments(dir.path()).len() as u64, log.segments());
    drop(log);
    let log = open(dir.path()).unwrap();
    assert_eq!(
        (log.state(G).vote, log.state(G).purged, log.state(G).last),
        (Some(VOTE), Some(at(1, 190)), Some(at(1, 199)))
    );
}

#[test]
fn a_resting_group_does_not_hold_old_segments() {
    let dir = tempfile::tempdir().unwrap();
    let options = FileLogOptions {
        segment_bytes: 16 << 10,
        rewrite_above_bytes: 64 << 10,
        cache_bytes: 0,
        ..FileLogOptions::default()
    };
    let log = FileLog::open(dir.path(), options.clone()).unwrap();
    let resting = GroupId(2);
    append(&*log, resting, (0..3).map(|i| kilobyte(1, i)).collect());
    for i in 0..400 {
        append(&*log, G, vec![kilobyte(1, i)]);
        if i % 10 == 9 {
            log.purge(G, at(1, i)).unwrap();
        }
    }
    eventually("the old segment to be rewritten", || log.bytes_on_disk() < 160 << 10);
    let expected: Vec<Entry> = (0..3).map(|i| kilobyte(1, i)).collect();
    assert_eq!(log.read(resting, 0, 9, usize::MAX).unwrap(), expected);
    drop(log);
    let log = FileLog::open(dir.path(), options).unwrap();
    assert_eq!(log.read(resting, 0, 9, usize::MAX).unwrap(), expected);
    append(&*log, resting, vec![kilobyte(1, 3)]);
    assert_eq!(log.state(resting).last, Some(at(1, 3)));
}

#[test]
fn appends_of_many_groups_share_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    let done = Arc::new(AtomicU64::new(0));
    for i in 0..50 {
        for group in 0..64 {
            let done = done.clone();
            let position = LogPosition {
                term: 1,
                leader: NodeId(1),
                index: i,
            };
            let entry = Entry {
                position,
                payload: Payload::Command(Bytes::from_static(b"x")),
            };
            let count = Box::new(move |result: Result<(), LogError>| {
                result.unwrap();
                done.fetch_add(1, Ordering::SeqCst);
            });
            log.append(GroupId(group), vec![entry], count).unwrap();
        }
    }
    eventually("all appends", || done.load(Ordering::SeqCst) == 50 * 64);
    assert!(log.syncs() < 50 * 64 / 4, "{} syncs", log.syncs());
}

/// A disk that fails the first read of what lies behind a segment's head; everything else is the system's.
struct Unreadable(SystemDisk);

struct UnreadableFile(Arc<dyn LogFile>, AtomicU64);

impl LogDisk for Unreadable {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.0.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        self.0.create(path)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(UnreadableFile(self.0.open(path)?, AtomicU64::new(0))))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
}

impl LogFile for UnreadableFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        match offset > 0 && self.1.fetch_add(1, Ordering::Relaxed) == 0 {
            true => Err(io::Error::other("the disk failed a read")),
            false => self.0.read_exact_at(bytes, offset),
        }
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}

/// Checks INV-06: what cannot be read is no interrupted write, however empty it looks.
#[test]
fn a_failed_read_cuts_nothing_off() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    let zeros = Entry {
        position: at(1, 0),
        payload: Payload::Command(Bytes::from(vec![0; 4_000])),
    };
    append(&*log, G, vec![zeros]);
    log.close();
    drop(log);
    let segment = segments(dir.path()).remove(0);
    let whole = fs::read(&segment).unwrap();
    let options = FileLogOptions {
        disk: Arc::new(Unreadable(SystemDisk)),
        ..FileLogOptions::default()
    };
    assert!(matches!(FileLog::open(dir.path(), options), Err(LogError::Io(_))));
    assert_eq!(fs::read(&segment).unwrap(), whole);
    assert_eq!(open(dir.path()).unwrap().state(G).last, Some(at(1, 0)));
}
