//! The pages themselves. They know nothing of sockets.
//!
//! Readiness and status come from code that may take locks of busy parts. They run on blocking threads, a few at a
//! time and with a deadline, so that a stuck part makes its page say so instead of making every page hang.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::Value;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tidemark_runtime::Metrics;
use tokio::sync::Semaphore;

/// Questions to the rest of the process that may be under way at one time. A stuck part holds at most this many
/// blocking threads.
const QUESTIONS_MAX: usize = 4;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether this node serves requests.
pub trait Readiness: Send + Sync + 'static {
    /// Ok when requests will be served; otherwise the reason, a sentence for a person (`tablet-7 has no leader`).
    /// Called on a blocking thread; should answer within milliseconds.
    fn ready(&self) -> Result<(), String>;
}

/// For tests and for parts that are one expression: a function that answers.
impl<F> Readiness for F
where
    F: Fn() -> Result<(), String> + Send + Sync + 'static,
{
    fn ready(&self) -> Result<(), String> {
        self()
    }
}

/// What the pages show. Clones show the same.
#[derive(Clone)]
pub struct Ops {
    metrics: Metrics,
    readiness: Arc<dyn Readiness>,
    status: Arc<dyn Fn() -> Value + Send + Sync>,
    questions: Arc<Semaphore>,
}

impl Ops {
    /// The pages of one process. `status` gives the JSON of `/status`; like `Readiness::ready` it runs on a blocking
    /// thread and should answer within milliseconds.
    pub fn new<S>(metrics: Metrics, readiness: Arc<dyn Readiness>, status: S) -> Ops
    where
        S: Fn() -> Value + Send + Sync + 'static,
    {
        Ops {
            metrics,
            readiness,
            status: Arc::new(status),
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
        }
    }

    /// The pages as a service; every answer comes within `answer_max`.
    pub(crate) fn router(self, answer_max: Duration) -> Router {
        Router::new()
            .route("/", get(index))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/metrics", get(metrics))
            .route("/readyz", get(readyz))
            .route("/status", get(status))
            .fallback(|| async { (StatusCode::NOT_FOUND, format!("no such page; there are:\n{INDEX}")) })
            .with_state(Asked { ops: self, answer_max })
    }
}

impl fmt::Debug for Ops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ops").finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Asked {
    ops: Ops,
    answer_max: Duration,
}

impl Asked {
    /// Runs `question` on a blocking thread; the error is the sentence for the page.
    async fn ask<T, Q>(&self, question: Q) -> Result<T, String>
    where
        T: Send + 'static,
        Q: FnOnce() -> T + Send + 'static,
    {
        let answer = async {
            let turn = self.ops.questions.clone().acquire_owned().await;
            let turn = turn.expect("the semaphore is private and never closed");
            // The turn ends with the thread, not with the request: a stuck question must keep counting.
            let asked = tidemark_runtime::spawn_blocking(move || {
                let _turn = turn;
                question()
            });
            asked
                .await
                .map_err(|error| format!("the answer failed: {error}; see the log"))
        };
        match tokio::time::timeout(self.answer_max, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(format!(
                "no answer within {:?}: a part of this process is stuck or overloaded",
                self.answer_max
            )),
        }
    }
}

const INDEX: &str = "/metrics\n/healthz\n/readyz\n/status\n";

async fn index() -> &'static str {
    INDEX
}

async fn metrics(State(asked): State<Asked>) -> Response {
    let metrics = asked.ops.metrics.clone();
    match asked.ask(move || metrics.encode()).await {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(reason) => unavailable(&reason),
    }
}

async fn readyz(State(asked): State<Asked>) -> Response {
    let readiness = asked.ops.readiness.clone();
    match asked.ask(move || readiness.ready()).await {
        Ok(Ok(())) => "ready\n".into_response(),
        Ok(Err(reason)) | Err(reason) => unavailable(&format!("not ready: {reason}")),
    }
}

async fn status(State(asked): State<Asked>) -> Response {
    let status = asked.ops.status.clone();
    match asked.ask(move || status()).await {
        Ok(value) => ([(header::CONTENT_TYPE, "application/json")], format!("{value:#}\n")).into_response(),
        Err(reason) => unavailable(&reason),
    }
}

fn unavailable(reason: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
}
