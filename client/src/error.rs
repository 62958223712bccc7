//! [`ClientError`]: what failed, where, after how many attempts, and what the caller should do.
//!
//! The kind is the one of the whole system ([`ErrorKind`]); the client adds the region and the node of the last attempt
//! and the number of attempts. [`ErrorKind::UnknownOutcome`] is the one to look at: the write may or may not be there.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::{Error as BaseError, ErrorKind};
use tidemark_proto::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// A result with the client's error.
pub type Result<T> = std::result::Result<T, ClientError>;

const DOMAIN: &str = "tidemark";

/// What went wrong. Cheap to clone: one failed batch is the error of every write in it.
#[derive(Clone)]
pub struct ClientError(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    reason: String,
    object: String,
    message: String,
    action: String,
    retry_after: Option<Duration>,
    attempts: u32,
    region: String,
    node: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl ClientError {
    /// An error that arises in the client itself.
    pub(crate) fn new(kind: ErrorKind, reason: &str, message: impl Into<String>) -> ClientError {
        ClientError(Box::new(Inner {
            kind,
            reason: reason.to_owned(),
            object: String::new(),
            message: message.into(),
            action: String::new(),
            retry_after: None,
            attempts: 0,
            region: String::new(),
            node: String::new(),
            source: None,
        }))
    }

    pub(crate) fn from_wire(error: v1::Error) -> ClientError {
        let kind = ErrorKind::from_name(&error.kind).unwrap_or(ErrorKind::Internal);
        let mut this = ClientError::new(kind, &error.reason, error.message);
        this.0.object = error.object;
        this.0.action = error.action;
        this.0.retry_after = (error.retry_after_ms > 0).then(|| Duration::from_millis(error.retry_after_ms));
        this
    }

    pub(crate) fn object_named(mut self, object: impl Into<String>) -> ClientError {
        self.0.object = object.into();
        self
    }

    pub(crate) fn action_is(mut self, action: impl Into<String>) -> ClientError {
        self.0.action = action.into();
        self
    }

    pub(crate) fn at(mut self, region: &str, node: &str) -> ClientError {
        self.0.region = region.to_owned();
        self.0.node = node.to_owned();
        self
    }

    pub(crate) fn after_attempts(mut self, attempts: u32) -> ClientError {
        self.0.attempts = attempts;
        self
    }

    /// The same failure, seen as a write of which nobody knows whether it took effect. The original is the source.
    pub(crate) fn into_unknown_outcome(self) -> ClientError {
        if self.0.kind == ErrorKind::UnknownOutcome {
            return self;
        }
        let mut this = ClientError::new(
            ErrorKind::UnknownOutcome,
            "OUTCOME_UNKNOWN",
            format!("the write may or may not have taken effect: {}", self.0.message),
        )
        .action_is("read the row; repeat the write if it must be there and a second time does no harm");
        this.0.object = self.0.object.clone();
        this.0.region = self.0.region.clone();
        this.0.node = self.0.node.clone();
        this.0.attempts = self.0.attempts;
        this.0.source = Some(Arc::new(self));
        this
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
    /// True if nobody knows whether the write took effect.
    pub fn is_unknown_outcome(&self) -> bool {
        self.0.kind == ErrorKind::UnknownOutcome
    }
    /// The stable reason (`FAMILY_UNKNOWN`).
    pub fn reason(&self) -> &str {
        &self.0.reason
    }
    /// What it is about (`table telemetry`), or empty.
    pub fn object(&self) -> &str {
        &self.0.object
    }
    /// What failed and why.
    pub fn message(&self) -> &str {
        &self.0.message
    }
    /// The next step, or empty.
    pub fn action(&self) -> &str {
        &self.0.action
    }
    /// The server's hint when a repeat makes sense.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }
    /// How often the request was tried; 0 if it never left the client.
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }
    /// The region of the last attempt, or empty.
    pub fn region(&self) -> &str {
        &self.0.region
    }
    /// The address of the node of the last attempt, or empty.
    pub fn node(&self) -> &str {
        &self.0.node
    }
}

impl From<BaseError> for ClientError {
    fn from(error: BaseError) -> ClientError {
        let mut this = ClientError::new(error.kind(), error.reason(), error.message());
        this.0.object = error.object_name().to_owned();
        this.0.action = error.next_action().to_owned();
        this.0.retry_after = error.delay();
        this
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &self.0;
        write!(f, "{}: {}", e.reason, e.message)?;
        if !e.object.is_empty() {
            write!(f, " ({})", e.object)?;
        }
        if !e.region.is_empty() || !e.node.is_empty() {
            write!(f, " [region {}, node {}", or_dash(&e.region), or_dash(&e.node))?;
            if e.attempts > 1 {
                write!(f, ", {} attempts", e.attempts)?;
            }
            write!(f, "]")?;
        }
        if !e.action.is_empty() {
            write!(f, "; {}", e.action)?;
        }
        Ok(())
    }
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

impl fmt::Debug for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientError({}, {self})", self.0.kind.name())
    }
}

impl StdError for ClientError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

/// How far a failed attempt got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It failed in the client: no node was asked.
    Local,
    /// No connection: nothing left this machine.
    Unsent,
    /// The connection broke, or the answer did not come in time: nobody knows.
    Lost,
    /// The server answered.
    Answered,
}

/// One failed attempt.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) error: ClientError,
    pub(crate) reach: Reach,
    /// The node that leads the tablet, if the server said so.
    pub(crate) leader: Option<String>,
}

impl Failure {
    /// A failure that arose in the client before anything was sent.
    pub(crate) fn local(error: ClientError) -> Failure {
        Failure {
            error,
            reach: Reach::Local,
            leader: None,
        }
    }

    pub(crate) fn timed_out(after: Duration) -> Failure {
        Failure {
            error: ClientError::new(
                ErrorKind::DeadlineExceeded,
                "NO_ANSWER",
                format!("no answer within {} ms", after.as_millis()),
            ),
            reach: Reach::Lost,
            leader: None,
        }
    }

    /// The attempt was given up because its region was left; whether it arrived nobody knows.
    pub(crate) fn region_left() -> Failure {
        Failure {
            error: ClientError::new(
                ErrorKind::Unavailable,
                "REGION_LEFT",
                "the region was given up while the request was under way",
            ),
            reach: Reach::Lost,
            leader: None,
        }
    }

    /// True if the request may have had an effect.
    pub(crate) fn may_have_effect(&self) -> bool {
        match self.reach {
            Reach::Local | Reach::Unsent => false,
            Reach::Lost => true,
            Reach::Answered => matches!(
                self.error.kind(),
                ErrorKind::UnknownOutcome | ErrorKind::DeadlineExceeded
            ),
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        let details = status.get_error_details();
        let retry_after = details.retry_info().and_then(|r| r.retry_delay);
        if let Some(info) = details.error_info().filter(|info| info.domain == DOMAIN) {
            let get = |key: &str| info.metadata.get(key).cloned().unwrap_or_default();
            let kind = ErrorKind::from_name(&get("kind")).unwrap_or(kind_of(status.code()));
            let mut error = ClientError::new(kind, &info.reason, status.message())
                .object_named(get("object"))
                .action_is(get("action"));
            error.0.retry_after = retry_after;
            let leader = Some(get("leader_address")).filter(|address| !address.is_empty());
            error.0.source = Some(Arc::new(status));
            return Failure {
                error,
                reach: Reach::Answered,
                leader,
            };
        }
        let mut error = ClientError::new(ErrorKind::Unavailable, "NODE_UNREACHABLE", describe(&status))
            .action_is("check that the region's servers run and that the address is right");
        error.0.retry_after = retry_after;
        let reach = reach_of(&status);
        error.0.source = Some(Arc::new(status));
        Failure {
            error,
            reach,
            leader: None,
        }
    }
}

/// The status and the innermost cause: "transport error" alone helps nobody.
fn describe(status: &Status) -> String {
    let mut innermost = None;
    let mut source = StdError::source(status);
    while let Some(error) = source {
        innermost = Some(error.to_string());
        source = error.source();
    }
    match innermost {
        Some(cause) if cause != status.message() => format!("{}: {cause}", status.message()),
        _ if status.message().is_empty() => format!("gRPC status {:?}", status.code()),
        _ => status.message().to_owned(),
    }
}

/// A status without our details was made by the transport, on either side, or by something between. Its code says nothing
/// about how far the request got (HTTP/2's "calm down" arrives as ResourceExhausted): only a connection that was never
/// made is proof that nothing was done.
fn reach_of(status: &Status) -> Reach {
    let mut source = StdError::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return Reach::Unsent;
        }
        source = error.source();
    }
    Reach::Lost
}

/// The kind by a code, for details that do not name one that we know.
fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::InvalidArgument,
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::FailedPrecondition => ErrorKind::FailedPrecondition,
        Code::ResourceExhausted => ErrorKind::Busy,
        Code::Unavailable => ErrorKind::Unavailable,
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        Code::DataLoss => ErrorKind::Corruption,
        Code::Unimplemented => ErrorKind::Unsupported,
        _ => ErrorKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_word_makes_a_status_an_answer() {
        for code in (0..=16).map(Code::from_i32) {
            let failure = Failure::from(Status::new(code, "x"));
            assert_eq!(failure.reach, Reach::Lost, "{code:?}");
            assert!(failure.may_have_effect(), "{code:?}");
        }
        let mut details = tonic_types::ErrorDetails::new();
        details.set_error_info("CALM", "elsewhere", std::collections::HashMap::new());
        let foreign = Status::with_error_details(Code::ResourceExhausted, "x", details);
        assert_eq!(Failure::from(foreign).reach, Reach::Lost);
        let mut details = tonic_types::ErrorDetails::new();
        let kind = ("kind".to_owned(), "BUSY".to_owned());
        details.set_error_info("TOO_MANY", DOMAIN, std::collections::HashMap::from([kind]));
        let ours = Failure::from(Status::with_error_details(Code::ResourceExhausted, "x", details));
        assert_eq!((ours.reach, ours.may_have_effect()), (Reach::Answered, false));
    }
}
