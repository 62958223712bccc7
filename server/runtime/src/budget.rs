//! A semaphore counted in bytes: who wants to hold payload takes its size first, and waits when there is no room.
//!
//! First come, first served: a large request is not starved by small ones. A request above the whole capacity can
//! never be met and is refused at once; waiting for it would block everybody behind it for ever.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that may be held at one time. Clones are the same budget.
#[derive(Debug, Clone)]
pub struct ByteBudget {
    semaphore: Arc<Semaphore>,
    capacity: usize,
}

/// Bytes taken from a budget; dropping it gives them back.
#[derive(Debug)]
#[must_use = "dropping the permit gives the bytes back"]
pub struct Permit {
    permit: OwnedSemaphorePermit,
}

/// The request is larger than the whole budget: split it, or raise the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes can never fit into a budget of {capacity} bytes")]
pub struct OverCapacity {
    /// What was asked for.
    pub bytes: usize,
    /// What there is.
    pub capacity: usize,
}

impl ByteBudget {
    /// A budget of `capacity` bytes, at most 4 GiB - 1 (a permit counts in 32 bits; larger values are cut to it).
    pub fn new(capacity: usize) -> ByteBudget {
        let capacity = capacity.min(u32::MAX as usize).min(Semaphore::MAX_PERMITS);
        ByteBudget {
            semaphore: Arc::new(Semaphore::new(capacity)),
            capacity,
        }
    }

    /// Takes `bytes` if they are free now and nobody waits for them; None otherwise, also above the capacity.
    pub fn try_acquire(&self, bytes: usize) -> Option<Permit> {
        let count = self.check(bytes).ok()?;
        let permit = self.semaphore.clone().try_acquire_many_owned(count).ok()?;
        Some(Permit { permit })
    }

    /// Takes `bytes`, waiting for its turn. Safe in a `select!`: dropping it gives up the place in the queue and takes
    /// nothing. Above the capacity: `OverCapacity` at once.
    pub async fn acquire(&self, bytes: usize) -> Result<Permit, OverCapacity> {
        let count = self.check(bytes)?;
        let permit = self.semaphore.clone().acquire_many_owned(count).await;
        Ok(Permit {
            permit: permit.expect("the semaphore is private and never closed"),
        })
    }

    /// Bytes that are taken now.
    pub fn used(&self) -> usize {
        self.capacity - self.semaphore.available_permits().min(self.capacity)
    }

    /// Bytes that there are in all.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    fn check(&self, bytes: usize) -> Result<u32, OverCapacity> {
        let over = OverCapacity {
            bytes,
            capacity: self.capacity,
        };
        if bytes > self.capacity {
            return Err(over);
        }
        u32::try_from(bytes).map_err(|_| over)
    }
}

impl Permit {
    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        self.permit.num_permits()
    }

    /// Gives back all but `keep` bytes: for a request that turned out smaller than was reserved for it.
    pub fn shrink_to(&mut self, keep: usize) {
        let excess = self.bytes().saturating_sub(keep);
        drop(self.permit.split(excess));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_permit_takes_and_gives_back() {
        let budget = ByteBudget::new(100);
        let permit = budget.try_acquire(60).expect("the budget is empty");
        assert_eq!((permit.bytes(), budget.used(), budget.capacity()), (60, 60, 100));
        assert!(budget.try_acquire(41).is_none());
        let rest = budget.try_acquire(40).expect("exactly the rest");
        drop(permit);
        assert_eq!(budget.used(), 40);
        drop(rest);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_request_above_the_capacity_is_refused_and_blocks_nobody() {
        let budget = ByteBudget::new(100);
        let _held = budget.try_acquire(100).expect("the budget is empty");
        let refused = budget.acquire(101).await.expect_err("it can never fit");
        assert_eq!(
            refused,
            OverCapacity {
                bytes: 101,
                capacity: 100
            }
        );
        assert!(budget.try_acquire(usize::MAX).is_none());
        assert_eq!(budget.acquire(0).await.expect("nothing always fits").bytes(), 0);
    }

    #[tokio::test]
    async fn a_waiting_request_is_served_before_later_ones() {
        let budget = ByteBudget::new(100);
        let held = budget.try_acquire(50).expect("the budget is empty");
        let large = tokio::spawn({
            let budget = budget.clone();
            async move { budget.acquire(100).await.map(|permit| permit.bytes()) }
        });
        // The large request is in the queue as soon as a small one, which would fit, is refused.
        let queued = async {
            while budget.try_acquire(10).is_some() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), queued)
            .await
            .expect("the large request queues");
        drop(held);
        assert_eq!(large.await.expect("no panic"), Ok(100));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_permit_shrinks_but_never_grows() {
        let budget = ByteBudget::new(100);
        let mut permit = budget.try_acquire(60).expect("the budget is empty");
        permit.shrink_to(10);
        assert_eq!((permit.bytes(), budget.used()), (10, 10));
        permit.shrink_to(50);
        assert_eq!((permit.bytes(), budget.used()), (10, 10));
    }

    #[test]
    fn a_capacity_beyond_32_bits_is_cut() {
        assert_eq!(ByteBudget::new(usize::MAX).capacity(), u32::MAX as usize);
    }
}
