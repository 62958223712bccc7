//! What is the same for every request: its deadline, its span, its numbers, and a panic that becomes an error.

use crate::context::ServiceContext;
use crate::errors::Failure;
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tidemark_base::{Error, ErrorKind};
use tidemark_runtime::{BUCKETS_SECONDS, CounterFamily, HistogramFamily, SharedClock};
use tokio::sync::mpsc;
use tonic::metadata::MetadataMap;
use tonic::{Response, Status};
use tracing::Instrument;

/// Set on a request that a node passed on: the next node answers it or says who does, and passes nothing on.
pub const FORWARDED: &str = "tidemark-forwarded";

/// The deadline of a request on data that brings none.
pub const DATA_LIMIT: Duration = Duration::from_secs(30);
/// The deadline of an administrative request that brings none.
pub const ADMIN_LIMIT: Duration = Duration::from_secs(60);
/// A client that takes nothing of a stream for that long loses it: the stream holds a thread and a view of the storage, or
/// bytes of the node's budget for writes.
pub const STALL: Duration = Duration::from_secs(60);
/// The answer must be under way a little before the caller stops waiting, or it learns less than we know.
const MARGIN_MAX: Duration = Duration::from_millis(20);

/// One request, as far as all of them are alike.
#[derive(Clone)]
pub struct Call {
    /// Another node passed it on.
    pub forwarded: bool,
    clock: SharedClock,
    /// When it must be answered, on the monotonic clock.
    ends: Duration,
}

impl Call {
    /// A request that arrived now with these headers and is answered within `limit` or its own deadline.
    pub fn new(clock: &SharedClock, metadata: &MetadataMap, limit: Duration) -> Call {
        let asked = metadata
            .get("grpc-timeout")
            .and_then(|text| parse_timeout(text.to_str().ok()?));
        let limit = asked.map_or(limit, |asked| (asked - MARGIN_MAX.min(asked / 10)).min(limit));
        Call {
            forwarded: metadata.contains_key(FORWARDED),
            clock: clock.clone(),
            ends: clock.monotonic().saturating_add(limit),
        }
    }

    /// The same request with the whole time again, for a further step of a stream: how long a stream lasts is its client's
    /// affair, how long one step may take is ours.
    pub fn renewed(&self, limit: Duration) -> Call {
        Call {
            ends: self.clock.monotonic().saturating_add(limit),
            ..self.clone()
        }
    }

    /// What is left of its time.
    pub fn left(&self) -> Duration {
        self.ends.saturating_sub(self.clock.monotonic())
    }
}

/// Numbers about requests, declared once.
#[derive(Clone)]
pub struct CallMetrics {
    requests: CounterFamily,
    seconds: HistogramFamily,
}

impl CallMetrics {
    /// Declares them, or finds them declared.
    pub fn new(metrics: &tidemark_runtime::Metrics) -> CallMetrics {
        CallMetrics {
            requests: metrics.counter(
                "tidemark_grpc_requests",
                "Requests answered, by method and kind of outcome.",
                &["method", "kind"],
            ),
            seconds: metrics.histogram(
                "tidemark_grpc_request_seconds",
                "Time from a request's arrival to its answer (of a stream: to its first message), by method.",
                &["method"],
                BUCKETS_SECONDS,
            ),
        }
    }

    /// Counts one answered request.
    pub fn count(&self, method: &str, kind: Option<ErrorKind>, took: Duration) {
        self.requests.with(&[method, kind.map_or("OK", ErrorKind::name)]).inc();
        self.seconds.with(&[method]).observe_duration(took);
    }
}

/// Answers one request: runs `work` until its deadline and turns what comes out into a response.
pub async fn answer<T, F>(
    context: &ServiceContext,
    method: &'static str,
    metadata: &MetadataMap,
    limit: Duration,
    work: impl FnOnce(Call) -> F,
) -> Result<Response<T>, Status>
where
    F: Future<Output = Result<T, Failure>>,
{
    let began = context.clock.monotonic();
    let call = Call::new(&context.clock, metadata, limit);
    let left = call.left();
    let work = AssertUnwindSafe(work(call).instrument(tracing::debug_span!("request", method))).catch_unwind();
    // Timers are coarse: a request whose time is over already would still run.
    let running = async {
        match left.is_zero() {
            true => Ok(Err(overdue(left).into())),
            false => work.await,
        }
    };
    let outcome = match tokio::time::timeout(left, running).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => {
            tracing::error!(method, "a request's handler panicked");
            Err(
                Error::internal("the request's handler failed; the server's log has the details")
                    .action("report it, with the server's log")
                    .into(),
            )
        }
        Err(_) => Err(overdue(left).into()),
    };
    let kind = outcome.as_ref().err().map(|failure| failure.error.kind());
    let took = context.clock.monotonic().saturating_sub(began);
    CallMetrics::new(&context.metrics).count(method, kind, took);
    if let Err(failure) = &outcome {
        tracing::debug!(method, error = %failure.error, "request failed");
    }
    outcome.map(Response::new).map_err(Status::from)
}

/// Runs the rest of a stream in a task of its own; a panic ends the stream with an error instead of as if it were complete.
pub fn spawn_stream<T, F>(name: &'static str, out: mpsc::Sender<Result<T, Status>>, work: F)
where
    T: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        if AssertUnwindSafe(work).catch_unwind().await.is_err() {
            tracing::error!(name, "a stream's task panicked");
            let error = Error::internal("the stream failed inside the server; its log has the details");
            // The client may have left.
            let _ = out.send_timeout(Err(Failure::from(error).into()), STALL).await;
        }
    });
}

/// The error for a request whose time is over.
pub fn overdue(limit: Duration) -> Error {
    Error::new(
        ErrorKind::DeadlineExceeded,
        "DEADLINE_EXCEEDED",
        format!(
            "no answer within {} ms; a write may still take effect",
            limit.as_millis()
        ),
    )
}

/// The value of `grpc-timeout`: at most eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3_600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_runtime::ManualClock;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (text, expected) in [
            ("1S", Some(Duration::from_secs(1))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3_600))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("", None),
            ("S", None),
            ("1", None),
            ("123456789S", None),
            ("-1S", None),
            ("é", None),
        ] {
            assert_eq!(parse_timeout(text), expected, "{text}");
        }
    }

    #[test]
    fn a_call_ends_by_its_own_deadline_or_by_the_limit() {
        let clock = ManualClock::new(0);
        let mut metadata = MetadataMap::new();
        let limit = Duration::from_secs(30);
        assert_eq!(Call::new(&clock.shared(), &metadata, limit).left(), limit);
        metadata.insert("grpc-timeout", "1S".parse().unwrap());
        metadata.insert(FORWARDED, "1".parse().unwrap());
        let call = Call::new(&clock.shared(), &metadata, limit);
        assert_eq!(call.left(), Duration::from_millis(980));
        assert!(call.forwarded);
        clock.advance(Duration::from_secs(2));
        assert_eq!(call.left(), Duration::ZERO);
        let renewed = call.renewed(limit);
        assert!(renewed.left() == limit && renewed.forwarded);
    }
}
