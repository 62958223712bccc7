//! Admission: what this node takes on at one time. Beyond it a request is refused at once with a delay, before it has
//! cost anything further; nothing queues without a bound.

use std::sync::Arc;
use std::time::Duration;
use tidemark_base::{Error, ErrorKind, Result};
use tidemark_runtime::{ByteBudget, Permit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Point reads at one time. Each holds a blocking thread for some microseconds to milliseconds; tokio has 512.
const READS_MAX: usize = 128;
/// How long a point read waits for its turn before it is refused.
const READ_PATIENCE: Duration = Duration::from_millis(500);
/// The delay that a refused caller is told. About the time in which a full budget drains at disk speed.
const RETRY: Duration = Duration::from_millis(100);
/// The delay while the disk is full: an operator is needed.
const RETRY_FULL: Duration = Duration::from_secs(5);

/// Says whether writes must be refused for want of disk space. Implemented by the node, which measures.
pub trait DiskGuard: Send + Sync {
    /// True while writes must be refused.
    fn is_low(&self) -> bool;
    /// Why, in words.
    fn explain(&self) -> String;
}

/// The bounds of one node.
pub struct Admission {
    write_bytes: ByteBudget,
    scans: Arc<Semaphore>,
    scans_max: usize,
    reads: Arc<Semaphore>,
    guard: Arc<dyn DiskGuard>,
}

/// A turn to read or scan; dropping it ends it.
#[derive(Debug)]
#[must_use = "dropping the turn ends it"]
pub struct Turn {
    _permit: OwnedSemaphorePermit,
}

impl Admission {
    /// Bytes of write requests held at one time (256 MiB is a good default), scans at one time, and the disk's guard.
    pub fn new(write_bytes_max: usize, scans_max: usize, guard: Arc<dyn DiskGuard>) -> Admission {
        Admission {
            write_bytes: ByteBudget::new(write_bytes_max),
            scans: Arc::new(Semaphore::new(scans_max)),
            scans_max,
            reads: Arc::new(Semaphore::new(READS_MAX)),
            guard,
        }
    }

    /// Takes the bytes of a write request, or refuses with BUSY.
    pub fn write(&self, bytes: usize) -> Result<Permit> {
        self.write_bytes.try_acquire(bytes).ok_or_else(|| {
            let held = self.write_bytes.used();
            busy(
                "WRITES_BUSY",
                format!("{held} bytes of writes are in flight on this node"),
            )
        })
    }

    /// Takes the bytes of a write request, waiting up to `patience`: for streams, whose flow control makes waiting
    /// harmless.
    pub async fn write_in_turn(&self, bytes: usize, patience: Duration) -> Result<Permit> {
        match tokio::time::timeout(patience, self.write_bytes.acquire(bytes)).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(over)) => Err(Error::invalid("BATCH_TOO_LARGE", over.to_string()).action("send smaller batches")),
            Err(_) => self.write(bytes),
        }
    }

    /// A turn to scan, or BUSY.
    pub fn scan(&self) -> Result<Turn> {
        let permit = self.scans.clone().try_acquire_owned();
        permit.map(|permit| Turn { _permit: permit }).map_err(|_| {
            busy(
                "SCANS_BUSY",
                format!("this node runs {} scans, which is its bound", self.scans_max),
            )
        })
    }

    /// A turn to read, or BUSY after a short wait.
    pub async fn read(&self) -> Result<Turn> {
        match tokio::time::timeout(READ_PATIENCE, self.reads.clone().acquire_owned()).await {
            Ok(permit) => Ok(Turn {
                _permit: permit.expect("the semaphore is private and never closed"),
            }),
            Err(_) => Err(busy(
                "READS_BUSY",
                "too many reads are under way on this node".to_owned(),
            )),
        }
    }

    /// Refuses with STORAGE_FULL while the disk is low. Asked where a write is about to enter this node's own log.
    pub fn check_disk(&self) -> Result<()> {
        if !self.guard.is_low() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::StorageFull, "DISK_FULL", self.guard.explain())
            .action("make room on that disk; writes return by themselves, reads go on meanwhile")
            .retry_after(RETRY_FULL))
    }

    /// Bytes of write requests held now, for status and metrics.
    pub fn write_bytes_used(&self) -> usize {
        self.write_bytes.used()
    }
}

fn busy(reason: &'static str, message: String) -> Error {
    Error::new(ErrorKind::Busy, reason, message)
        .action("repeat after the delay, with fewer requests at a time")
        .retry_after(RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Disk(bool);

    impl DiskGuard for Disk {
        fn is_low(&self) -> bool {
            self.0
        }
        fn explain(&self) -> String {
            "1 byte is free".into()
        }
    }

    #[tokio::test]
    async fn over_the_bound_is_busy_with_a_delay() {
        let admission = Admission::new(100, 1, Arc::new(Disk(false)));
        let held = admission.write(60).unwrap();
        let error = admission.write(41).unwrap_err();
        assert_eq!((error.kind(), error.reason()), (ErrorKind::Busy, "WRITES_BUSY"));
        assert!(error.delay().is_some());
        let short = Duration::from_millis(1);
        assert_eq!(
            admission.write_in_turn(41, short).await.unwrap_err().kind(),
            ErrorKind::Busy
        );
        assert_eq!(
            admission.write_in_turn(101, short).await.unwrap_err().kind(),
            ErrorKind::InvalidArgument
        );
        drop(held);
        assert!(admission.write_in_turn(41, short).await.is_ok());
        let scan = admission.scan().unwrap();
        assert_eq!(admission.scan().unwrap_err().reason(), "SCANS_BUSY");
        drop(scan);
        assert!(admission.scan().is_ok() && admission.read().await.is_ok());
        assert_eq!(admission.write_bytes_used(), 0);
    }

    #[test]
    fn a_full_disk_refuses_writes_in_words() {
        let error = Admission::new(1, 1, Arc::new(Disk(true))).check_disk().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert!(error.message().contains("1 byte is free") && error.delay().is_some());
        assert!(Admission::new(1, 1, Arc::new(Disk(false))).check_disk().is_ok());
    }
}
