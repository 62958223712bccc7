//! Read barriers that share confirmation rounds.
//!
//! A linearizable read needs a proof, made after the read arrived, that this node still leads, and everything that was
//! answered before must be applied here. One such round serves all readers that arrived before it began; those who arrive during
//! a round wait for the next one. So there is at most one round in flight per group, however many readers there are.

use crate::error::ReadError;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Makes one confirmation round.
pub(crate) type Round = Arc<dyn Fn() -> BoxFuture<'static, Result<(), ReadError>> + Send + Sync>;

#[derive(Default)]
struct Waiting {
    running: bool,
    readers: Vec<oneshot::Sender<Result<(), ReadError>>>,
}

/// The readers of one group.
pub(crate) struct Barrier {
    waiting: Arc<Mutex<Waiting>>,
    readers_max: usize,
}

impl Barrier {
    pub(crate) fn new(readers_max: usize) -> Barrier {
        Barrier {
            waiting: Arc::default(),
            readers_max,
        }
    }

    /// Waits for a round that begins after this call.
    pub(crate) async fn wait(&self, round: Round) -> Result<(), ReadError> {
        let (sender, receiver) = oneshot::channel();
        let start = {
            let mut waiting = self.waiting.lock();
            if waiting.readers.len() >= self.readers_max {
                return Err(ReadError::Unavailable(
                    "too many readers wait for a barrier".to_string(),
                ));
            }
            waiting.readers.push(sender);
            !std::mem::replace(&mut waiting.running, true)
        };
        if start {
            // In a task of its own: a reader that gives up must not take the others' round with it.
            tokio::spawn(run(self.waiting.clone(), round));
        }
        receiver
            .await
            .unwrap_or_else(|_| Err(ReadError::Unavailable("the round was abandoned".to_string())))
    }
}

async fn run(waiting: Arc<Mutex<Waiting>>, round: Round) {
    loop {
        let readers = {
            let mut waiting = waiting.lock();
            if waiting.readers.is_empty() {
                waiting.running = false;
                return;
            }
            std::mem::take(&mut waiting.readers)
        };
        let result = round().await;
        for reader in readers {
            let _ = reader.send(result.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn readers_share_rounds_but_never_one_that_began_before_them() {
        let rounds = Arc::new(AtomicU64::new(0));
        let gate = Arc::new(Semaphore::new(0));
        let round: Round = {
            let (rounds, gate) = (rounds.clone(), gate.clone());
            Arc::new(move || {
                let (rounds, gate) = (rounds.clone(), gate.clone());
                Box::pin(async move {
                    rounds.fetch_add(1, Ordering::SeqCst);
                    gate.acquire().await.unwrap().forget();
                    Ok(())
                })
            })
        };
        let barrier = Arc::new(Barrier::new(1000));
        let wait = |barrier: &Arc<Barrier>| {
            let (barrier, round) = (barrier.clone(), round.clone());
            tokio::spawn(async move { barrier.wait(round).await })
        };
        let first = wait(&barrier);
        while rounds.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let later: Vec<_> = (0..100).map(|_| wait(&barrier)).collect();
        while barrier.waiting.lock().readers.len() < 100 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(1);
        first.await.unwrap().unwrap();
        gate.add_permits(1);
        for reader in later {
            reader.await.unwrap().unwrap();
        }
        assert_eq!(rounds.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_full_queue_refuses() {
        let barrier = Barrier::new(0);
        let round: Round = Arc::new(|| Box::pin(async { Ok(()) }));
        assert!(matches!(barrier.wait(round).await, Err(ReadError::Unavailable(_))));
    }
}
