//! Named tasks. A task that panics is never silent, and a stop knows by name who did not end.
//!
//! A bare `tokio::spawn` loses a panic in a handle that nobody reads: the process then runs on without its feed reader
//! or its log writer, which is worse than stopping. Here a panic is an ERROR with the task's name, and the hook that
//! the process installed decides (the server stops: the task may have owned state that is now half-changed).

use parking_lot::Mutex;
use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// Called with a task's name and the panic's message, on the thread that ran the task. Must not block.
pub type FatalHook = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// A set of named tasks. Clones are the same set.
#[derive(Clone)]
pub struct Tasks {
    shared: Arc<Shared>,
}

struct Shared {
    running: Mutex<Running>,
    /// Woken whenever a task leaves `running`.
    left: Notify,
    fatal: FatalHook,
}

#[derive(Default)]
struct Running {
    next: u64,
    tasks: BTreeMap<u64, Task>,
}

struct Task {
    name: String,
    /// None for the instant between registration and spawn.
    abort: Option<AbortHandle>,
}

impl Tasks {
    /// A set whose tasks' panics are only logged. For tests and tools; a server installs a hook.
    pub fn new() -> Tasks {
        Tasks::with_fatal_hook(Arc::new(|_, _| {}))
    }

    /// A set whose tasks' panics are logged and then reported to `fatal`.
    pub fn with_fatal_hook(fatal: FatalHook) -> Tasks {
        let shared = Shared {
            running: Mutex::default(),
            left: Notify::new(),
            fatal,
        };
        Tasks {
            shared: Arc::new(shared),
        }
    }

    /// Starts a task on the current tokio runtime. The name is for people (`feed-reader tablet-7`); it need not be
    /// unique. The set keeps no result: a task that has one sends it.
    pub fn spawn<F>(&self, name: impl Into<String>, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let name = name.into();
        let id = self.register(&name);
        // Leaves the set however the task ends: by itself, by panic, by abort, or with its runtime.
        let membership = Membership {
            shared: self.shared.clone(),
            id,
        };
        let shared = self.shared.clone();
        let handle = tokio::spawn(async move {
            let _membership = membership;
            if let Err(message) = catch_panic(future).await {
                tracing::error!(task = %name, panic = %message, "a task panicked");
                (shared.fatal)(&name, &message);
            }
        });
        // The task may have ended already; then there is nothing left to abort.
        if let Some(task) = self.shared.running.lock().tasks.get_mut(&id) {
            task.abort = Some(handle.abort_handle());
        }
    }

    /// Waits until no task is left, at most `deadline` long, and returns the names of those that did not end. They
    /// keep running; `abort_all` ends them at their next await.
    pub async fn join_all(&self, deadline: Duration) -> Vec<String> {
        let all_ended = async {
            loop {
                // Registered before the look, so that a task that leaves in between still wakes us.
                let left = self.shared.left.notified();
                if self.shared.running.lock().tasks.is_empty() {
                    return;
                }
                left.await;
            }
        };
        match tokio::time::timeout(deadline, all_ended).await {
            Ok(()) => Vec::new(),
            Err(_) => self.names(),
        }
    }

    /// Ends every task at its next await. What a task owns is dropped there, so this is for tasks that did not heed
    /// the shutdown signal, after `join_all`.
    pub fn abort_all(&self) {
        let running = self.shared.running.lock();
        for abort in running.tasks.values().filter_map(|task| task.abort.as_ref()) {
            abort.abort();
        }
    }

    /// The names of the tasks that run now, oldest first.
    pub fn names(&self) -> Vec<String> {
        self.shared
            .running
            .lock()
            .tasks
            .values()
            .map(|task| task.name.clone())
            .collect()
    }

    fn register(&self, name: &str) -> u64 {
        let mut running = self.shared.running.lock();
        let id = running.next;
        running.next += 1;
        running.tasks.insert(
            id,
            Task {
                name: name.to_owned(),
                abort: None,
            },
        );
        id
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Tasks::new()
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tasks").field(&self.names()).finish()
    }
}

/// A task's place in the set, given up on drop.
struct Membership {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.shared.running.lock().tasks.remove(&self.id);
        self.shared.left.notify_waiters();
    }
}

/// Runs a future; a panic inside becomes its message. The future is not polled again afterwards and is dropped, so
/// nobody sees its half-changed state through it.
async fn catch_panic<F: Future<Output = ()>>(future: F) -> Result<(), String> {
    let mut future = Box::pin(future);
    std::future::poll_fn(
        move |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => Poll::Ready(Ok(())),
            Err(payload) => Poll::Ready(Err(panic_message(payload.as_ref()))),
        },
    )
    .await
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shutdown::Shutdown;

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn join_waits_for_tasks_that_heed_the_signal() {
        let (tasks, shutdown) = (Tasks::new(), Shutdown::new());
        for n in 0..10 {
            let shutdown = shutdown.clone();
            tasks.spawn(format!("waiter {n}"), async move { shutdown.wait().await });
        }
        assert_eq!(tasks.names().len(), 10);
        shutdown.trigger();
        assert_eq!(tasks.join_all(LONG).await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn join_names_those_that_did_not_end_and_abort_ends_them() {
        let tasks = Tasks::new();
        tasks.spawn("stuck", std::future::pending());
        assert_eq!(tasks.join_all(Duration::from_millis(50)).await, ["stuck"]);
        tasks.abort_all();
        assert_eq!(tasks.join_all(LONG).await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_panic_reaches_the_hook_with_name_and_message() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let hook: FatalHook = {
            let seen = seen.clone();
            Arc::new(move |name, message| seen.lock().push(format!("{name}: {message}")))
        };
        let tasks = Tasks::with_fatal_hook(hook);
        tasks.spawn("feed-reader", async { panic!("record {}", 7) });
        tasks.spawn("shipper", async { panic!("plain") });
        assert_eq!(tasks.join_all(LONG).await, Vec::<String>::new());
        let mut seen = seen.lock().clone();
        seen.sort();
        assert_eq!(seen, ["feed-reader: record 7", "shipper: plain"]);
    }

    #[tokio::test]
    async fn an_empty_set_joins_at_once() {
        assert!(Tasks::new().join_all(Duration::ZERO).await.is_empty());
    }
}
