//! The coarse error: its kind says what the caller should do; a stable reason, the object's name and the next action
//! say the rest. A new kind is added only if a caller would act differently.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// What the caller should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Change the request: it can never succeed as it is.
    InvalidArgument,
    /// Name something that exists.
    NotFound,
    /// Choose another name, or use what is there.
    AlreadyExists,
    /// Change the system's state first (the action says how), then repeat.
    FailedPrecondition,
    /// Repeat later: nothing was done.
    Unavailable,
    /// Overload: nothing was done; repeat after the delay given.
    Busy,
    /// Ask the node named in the hint: nothing was done.
    NotLeader,
    /// The request may or may not have taken effect. A repeat of a put with its own version is safe; an increment
    /// needs its idempotency token.
    UnknownOutcome,
    /// The caller's deadline passed before an answer; like [`ErrorKind::UnknownOutcome`] for writes.
    DeadlineExceeded,
    /// The disk is full: reads go on, writes wait for an operator to make room.
    StorageFull,
    /// Stored bytes are not what was written. An operator must look.
    Corruption,
    /// This server or the other side does not have that feature.
    Unsupported,
    /// A defect of Tidemark. Report it.
    Internal,
}

impl ErrorKind {
    /// True where the same request may be sent again without thought: it had no effect.
    pub fn is_retryable(self) -> bool {
        matches!(self, ErrorKind::Unavailable | ErrorKind::Busy | ErrorKind::NotLeader)
    }

    /// The stable upper-case name, as it stands in logs and JSON.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::InvalidArgument => "INVALID_ARGUMENT",
            ErrorKind::NotFound => "NOT_FOUND",
            ErrorKind::AlreadyExists => "ALREADY_EXISTS",
            ErrorKind::FailedPrecondition => "FAILED_PRECONDITION",
            ErrorKind::Unavailable => "UNAVAILABLE",
            ErrorKind::Busy => "BUSY",
            ErrorKind::NotLeader => "NOT_LEADER",
            ErrorKind::UnknownOutcome => "UNKNOWN_OUTCOME",
            ErrorKind::DeadlineExceeded => "DEADLINE_EXCEEDED",
            ErrorKind::StorageFull => "STORAGE_FULL",
            ErrorKind::Corruption => "CORRUPTION",
            ErrorKind::Unsupported => "UNSUPPORTED",
            ErrorKind::Internal => "INTERNAL",
        }
    }

    /// The kind of that [`ErrorKind::name`].
    pub fn from_name(name: &str) -> Option<ErrorKind> {
        use ErrorKind::*;
        [
            InvalidArgument,
            NotFound,
            AlreadyExists,
            FailedPrecondition,
            Unavailable,
            Busy,
            NotLeader,
            UnknownOutcome,
            DeadlineExceeded,
            StorageFull,
            Corruption,
            Unsupported,
            Internal,
        ]
        .into_iter()
        .find(|kind| kind.name() == name)
    }
}

/// An error as it crosses layers and the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    kind: ErrorKind,
    reason: Cow<'static, str>,
    object: String,
    message: String,
    action: String,
    retry_after: Option<Duration>,
}

/// A result with the coarse error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of that kind. `reason` is a stable word in upper case (`FAMILY_UNKNOWN`), `message` a sentence that
    /// says what failed and why.
    pub fn new(kind: ErrorKind, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Error {
        Error(Box::new(Inner {
            kind,
            reason: reason.into(),
            object: String::new(),
            message: message.into(),
            action: String::new(),
            retry_after: None,
        }))
    }

    /// Shorthand for [`ErrorKind::InvalidArgument`].
    pub fn invalid(reason: &'static str, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::InvalidArgument, reason, message)
    }

    /// Shorthand for [`ErrorKind::Corruption`].
    pub fn corruption(reason: &'static str, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Corruption, reason, message)
    }

    /// Shorthand for [`ErrorKind::Unavailable`] with a delay after which a repeat makes sense.
    pub fn unavailable(reason: &'static str, message: impl Into<String>, retry_after: Duration) -> Error {
        Error::new(ErrorKind::Unavailable, reason, message).retry_after(retry_after)
    }

    /// Shorthand for [`ErrorKind::Internal`].
    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Internal, "INTERNAL", message)
    }

    /// Names the object that the error is about (`table telemetry`).
    pub fn object(mut self, object: impl Into<String>) -> Error {
        self.0.object = object.into();
        self
    }

    /// Says what to do next (`create the family: tidemark table alter …`).
    pub fn action(mut self, action: impl Into<String>) -> Error {
        self.0.action = action.into();
        self
    }

    /// Says after what delay a repeat makes sense.
    pub fn retry_after(mut self, delay: Duration) -> Error {
        self.0.retry_after = Some(delay);
        self
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
    /// The stable reason.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }
    /// The object's name, or empty.
    pub fn object_name(&self) -> &str {
        &self.0.object
    }
    /// What failed and why.
    pub fn message(&self) -> &str {
        &self.0.message
    }
    /// The next step, or empty.
    pub fn next_action(&self) -> &str {
        &self.0.action
    }
    /// The delay before a repeat, where one helps.
    pub fn delay(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.reason, self.0.message)?;
        if !self.0.object.is_empty() {
            write!(f, " ({})", self.0.object)?;
        }
        if !self.0.action.is_empty() {
            write!(f, "; {}", self.0.action)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
