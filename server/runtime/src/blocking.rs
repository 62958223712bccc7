//! Work that may block: where it runs, and how it hands on what it makes.
//!
//! In a server it runs on tokio's pool of threads, so that a disk that is slow holds up nobody else. Which of those threads
//! ends first is up to the machine, so a process that must repeat itself from a seed calls [`stay_on_one_thread`] first:
//! blocking work is then an ordinary task, run to its end in its turn. A setting of the process and not a value that is
//! handed around, because no part of a server has a reason to differ from another.

use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Whether blocking work runs as an ordinary task.
static ON_ONE_THREAD: AtomicBool = AtomicBool::new(false);
/// Messages that work on one thread may be ahead of its reader, who cannot run before the work has ended.
const AHEAD_ON_ONE_THREAD: usize = 65_536;

/// From now on this process runs blocking work as ordinary tasks. For simulations: a server would stall.
pub fn stay_on_one_thread() {
    ON_ONE_THREAD.store(true, Ordering::Relaxed);
}

fn is_on_one_thread() -> bool {
    ON_ONE_THREAD.load(Ordering::Relaxed)
}

/// Runs work where blocking harms nobody. The handle gives its result, or says that it panicked.
pub fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    if is_on_one_thread() {
        tokio::spawn(async move { work() })
    } else {
        tokio::task::spawn_blocking(work)
    }
}

/// A channel from blocking work to an async reader; the work may be `ahead` messages ahead.
pub fn handover<T: Send>(ahead: usize) -> (HandoverSender<T>, mpsc::Receiver<T>) {
    let ahead = if is_on_one_thread() { AHEAD_ON_ONE_THREAD } else { ahead };
    let (sender, receiver) = mpsc::channel(ahead);
    (HandoverSender(sender), receiver)
}

/// The blocking end of [`handover`].
#[derive(Debug)]
pub struct HandoverSender<T>(mpsc::Sender<T>);

/// The reader has gone away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReaderLeft;

impl<T: Send> HandoverSender<T> {
    /// Hands a message on, waiting for room.
    pub fn send(&self, message: T) -> Result<(), ReaderLeft> {
        if !is_on_one_thread() {
            return self.0.blocking_send(message).map_err(|_| ReaderLeft);
        }
        match self.0.try_send(message) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(ReaderLeft),
            // Waiting would be for ever, and dropping the message would be a wrong answer.
            Err(mpsc::error::TrySendError::Full(_)) => {
                panic!("work on one thread is {AHEAD_ON_ONE_THREAD} messages ahead of its reader")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, because the setting is the process's.
    #[tokio::test]
    async fn work_runs_on_a_thread_of_its_own_until_the_process_stays_on_one() {
        let here = std::thread::current().id();
        let elsewhere = spawn_blocking(|| std::thread::current().id());
        assert_ne!(elsewhere.await.unwrap(), here);
        let (sender, mut reader) = handover(1);
        let sending = spawn_blocking(move || (0..3).try_for_each(|n| sender.send(n)));
        for n in 0..3 {
            assert_eq!(reader.recv().await, Some(n));
        }
        assert_eq!(sending.await.unwrap(), Ok(()));

        stay_on_one_thread();
        assert_eq!(spawn_blocking(|| std::thread::current().id()).await.unwrap(), here);
        let (sender, mut reader) = handover(1);
        assert_eq!((0..3).try_for_each(|n| sender.send(n)), Ok(()));
        for n in 0..3 {
            assert_eq!(reader.recv().await, Some(n));
        }
        drop(reader);
        assert_eq!(sender.send(4), Err(ReaderLeft));
        ON_ONE_THREAD.store(false, Ordering::Relaxed);
    }
}
