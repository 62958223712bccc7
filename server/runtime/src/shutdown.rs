//! A signal to stop that is given once, reaches every clone and child, and is never taken back.
//!
//! A child stops with its parent and may be stopped alone (one tablet, one connection) without touching its siblings.

use tokio_util::sync::CancellationToken;

/// A signal to stop. Clones are the same signal.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// A signal of its own, not yet given.
    pub fn new() -> Shutdown {
        Shutdown::default()
    }

    /// A signal that is given when this one is, and may be given alone.
    pub fn child(&self) -> Shutdown {
        Shutdown {
            token: self.token.child_token(),
        }
    }

    /// Gives the signal here and in every child, now or later created. Again is harmless.
    pub fn trigger(&self) {
        self.token.cancel();
    }

    /// Whether the signal was given.
    pub fn is_triggered(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Returns when the signal was given; at once if it was before. Safe in a `select!`: dropping it loses nothing.
    pub async fn wait(&self) {
        self.token.cancelled().await;
    }

    /// Like `wait`, but owns what it needs: for servers that take a `'static` future.
    pub fn wait_owned(&self) -> impl Future<Output = ()> + Send + 'static {
        self.token.clone().cancelled_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_parent_stops_its_children_but_not_the_reverse() {
        let parent = Shutdown::new();
        let (left, right) = (parent.child(), parent.child());
        left.trigger();
        left.wait().await;
        assert!(left.is_triggered() && !right.is_triggered() && !parent.is_triggered());
        parent.trigger();
        right.wait_owned().await;
        assert!(parent.child().is_triggered(), "a child that is born late stops at once");
    }

    #[tokio::test]
    async fn waiting_tasks_are_woken() {
        let shutdown = Shutdown::new();
        let waiting = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.wait().await }
        });
        shutdown.trigger();
        shutdown.trigger();
        waiting.await.expect("the task only waits");
    }
}
