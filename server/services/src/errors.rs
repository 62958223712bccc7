//! The one error map: what the layers below say, as a gRPC status, and back.
//!
//! ```text
//! kind                 code                  kind                 code
//! INVALID_ARGUMENT     INVALID_ARGUMENT      UNKNOWN_OUTCOME      UNKNOWN
//! NOT_FOUND            NOT_FOUND             DEADLINE_EXCEEDED    DEADLINE_EXCEEDED
//! ALREADY_EXISTS       ALREADY_EXISTS        STORAGE_FULL         RESOURCE_EXHAUSTED
//! FAILED_PRECONDITION  FAILED_PRECONDITION   CORRUPTION           DATA_LOSS
//! UNAVAILABLE          UNAVAILABLE           UNSUPPORTED          UNIMPLEMENTED
//! BUSY                 RESOURCE_EXHAUSTED    INTERNAL             INTERNAL
//! NOT_LEADER           UNAVAILABLE
//!
//! details: google.rpc.ErrorInfo { reason, domain "tidemark",
//!              metadata: kind, object, action, leader_node, leader_address, tablet (those that are known) }
//!          google.rpc.RetryInfo { retry_delay }, where a repeat helps
//! ```
//! The code is for callers that know only gRPC: UNAVAILABLE and RESOURCE_EXHAUSTED say that nothing was done, UNKNOWN that
//! something may have been, and generic retry policies treat them so. The kind in the details is what our own callers use.

use std::collections::HashMap;
use std::error::Error as _;
use std::time::Duration;
use tidemark_base::{Error, ErrorKind, NodeId, TabletId};
use tidemark_proto::v1;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain in `google.rpc.ErrorInfo` of every error that Tidemark itself raised.
pub const DOMAIN: &str = "tidemark";

/// Bytes of a text that goes into a status. Details travel as HTTP/2 headers, which are bounded.
const TEXT_BYTES_MAX: usize = 2_048;

/// Where to ask instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderHint {
    /// The tablet that it is about.
    pub tablet: TabletId,
    /// The node that is believed to lead it.
    pub node: NodeId,
    /// Its gRPC address, `host:port`.
    pub address: String,
}

impl LeaderHint {
    /// The form in which a successful answer carries it.
    pub fn redirect(&self) -> v1::Redirect {
        v1::Redirect {
            tablet: self.tablet.0,
            node: self.node.0,
            address: self.address.clone(),
        }
    }
}

/// A failed request: the error, and where to ask instead if that is known.
///
/// The error itself has no room for a hint, because only this layer knows addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What failed, and what to do.
    pub error: Error,
    /// Where to ask instead.
    pub hint: Option<LeaderHint>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { error, hint: None }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Status {
        to_status(&failure.error, failure.hint.as_ref())
    }
}

/// The gRPC code of a kind; see the module's table.
pub fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::Unavailable | ErrorKind::NotLeader => Code::Unavailable,
        ErrorKind::Busy | ErrorKind::StorageFull => Code::ResourceExhausted,
        ErrorKind::UnknownOutcome => Code::Unknown,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Corruption => Code::DataLoss,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::Internal => Code::Internal,
    }
}

/// An error as a gRPC status with details.
pub fn to_status(error: &Error, hint: Option<&LeaderHint>) -> Status {
    let mut metadata = HashMap::from([("kind".to_owned(), error.kind().name().to_owned())]);
    for (key, text) in [("object", error.object_name()), ("action", error.next_action())] {
        if !text.is_empty() {
            metadata.insert(key.to_owned(), cut(text));
        }
    }
    if let Some(hint) = hint {
        metadata.insert("leader_node".to_owned(), hint.node.0.to_string());
        metadata.insert("leader_address".to_owned(), cut(&hint.address));
        metadata.insert("tablet".to_owned(), hint.tablet.0.to_string());
    }
    let mut details = ErrorDetails::new();
    details.set_error_info(error.reason(), DOMAIN, metadata);
    if let Some(delay) = error.delay() {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(code(error.kind()), cut(error.message()), details)
}

/// A status from another node or region as an error, with the hint that it carries.
///
/// A status that Tidemark did not raise comes from the connection: [`ErrorKind::Unavailable`] if it was never made, so
/// that nothing was sent; [`ErrorKind::UnknownOutcome`] if it broke under way.
pub fn from_status(status: &Status) -> Failure {
    let details = status.get_error_details();
    let Some(info) = details.error_info().filter(|info| info.domain == DOMAIN) else {
        return foreign(status).into();
    };
    let kind = info.metadata.get("kind").and_then(|name| ErrorKind::from_name(name));
    let text = |key: &str| info.metadata.get(key).cloned().unwrap_or_default();
    let mut error = Error::new(
        kind.unwrap_or_else(|| kind_of_code(status.code())),
        info.reason.clone(),
        status.message(),
    )
    .object(text("object"))
    .action(text("action"));
    if let Some(delay) = details.retry_info().and_then(|retry| retry.retry_delay) {
        error = error.retry_after(delay);
    }
    let number = |key: &str| info.metadata.get(key).and_then(|text| text.parse::<u64>().ok());
    let hint = number("leader_node").map(|node| LeaderHint {
        tablet: TabletId(number("tablet").unwrap_or(0)),
        node: NodeId(node),
        address: text("leader_address"),
    });
    Failure { error, hint }
}

/// A per-row or per-request error on the wire.
pub fn to_wire(error: &Error) -> v1::Error {
    v1::Error {
        kind: error.kind().name().to_owned(),
        reason: error.reason().to_owned(),
        object: error.object_name().to_owned(),
        message: error.message().to_owned(),
        action: error.next_action().to_owned(),
        retry_after_ms: error
            .delay()
            .map_or(0, |delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX).max(1)),
    }
}

/// The inverse of [`to_wire`]; a kind that this release does not know becomes [`ErrorKind::Internal`].
pub fn from_wire(error: &v1::Error) -> Error {
    let kind = ErrorKind::from_name(&error.kind).unwrap_or(ErrorKind::Internal);
    let out = Error::new(kind, error.reason.clone(), error.message.clone())
        .object(error.object.clone())
        .action(error.action.clone());
    match error.retry_after_ms {
        0 => out,
        ms => out.retry_after(Duration::from_millis(ms)),
    }
}

/// True if the connection was never made, so that the request cannot have had an effect.
pub fn never_sent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// [`from_status`] for a request that changes something. A status that Tidemark did not raise says nothing about the
/// write, whatever its code: what stands between (a proxy, the connection, the decoder of the answer) may have raised it
/// after the write was done. So it is [`ErrorKind::UnknownOutcome`], unless the connection was never made.
pub fn from_write_status(status: &Status) -> Failure {
    if never_sent(status) || is_ours(status) {
        return from_status(status);
    }
    lost(status).into()
}

fn is_ours(status: &Status) -> bool {
    let info = status.get_details_error_info();
    info.is_some_and(|info| info.domain == DOMAIN)
}

fn lost(status: &Status) -> Error {
    let message = format!("{:?}: {}", status.code(), cut(status.message()));
    Error::new(ErrorKind::UnknownOutcome, "CONNECTION_LOST", message)
}

fn foreign(status: &Status) -> Error {
    if never_sent(status) {
        let delay = Duration::from_millis(100);
        return Error::unavailable("PEER_UNREACHABLE", cut(status.message()), delay);
    }
    let message = || format!("{:?}: {}", status.code(), cut(status.message()));
    match status.code() {
        Code::DeadlineExceeded => Error::new(ErrorKind::DeadlineExceeded, "DEADLINE_EXCEEDED", message()),
        Code::InvalidArgument => Error::invalid("REFUSED", message()),
        Code::Unimplemented => Error::new(ErrorKind::Unsupported, "UNSUPPORTED", message())
            .action("upgrade the other side: it does not know this request"),
        Code::OutOfRange | Code::ResourceExhausted => Error::invalid("MESSAGE_TOO_LARGE", message()),
        _ => lost(status),
    }
}

fn kind_of_code(code: Code) -> ErrorKind {
    match code {
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::InvalidArgument,
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::FailedPrecondition => ErrorKind::FailedPrecondition,
        Code::Unavailable => ErrorKind::Unavailable,
        Code::ResourceExhausted => ErrorKind::Busy,
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        Code::DataLoss => ErrorKind::Corruption,
        Code::Unimplemented => ErrorKind::Unsupported,
        Code::Unknown | Code::Cancelled | Code::Aborted => ErrorKind::UnknownOutcome,
        _ => ErrorKind::Internal,
    }
}

fn cut(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let end = (0..=TEXT_BYTES_MAX)
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [ErrorKind; 13] = [
        ErrorKind::InvalidArgument,
        ErrorKind::NotFound,
        ErrorKind::AlreadyExists,
        ErrorKind::FailedPrecondition,
        ErrorKind::Unavailable,
        ErrorKind::Busy,
        ErrorKind::NotLeader,
        ErrorKind::UnknownOutcome,
        ErrorKind::DeadlineExceeded,
        ErrorKind::StorageFull,
        ErrorKind::Corruption,
        ErrorKind::Unsupported,
        ErrorKind::Internal,
    ];

    fn sample(kind: ErrorKind) -> Error {
        Error::new(kind, "SOME_REASON", "it failed because of that")
            .object("table telemetry")
            .action("do this")
            .retry_after(Duration::from_millis(250))
    }

    #[test]
    fn every_kind_survives_the_status() {
        let hint = LeaderHint {
            tablet: TabletId(7),
            node: NodeId(3),
            address: "127.0.0.1:7003".into(),
        };
        for kind in KINDS {
            let failure = from_status(&to_status(&sample(kind), Some(&hint)));
            assert_eq!(failure.error, sample(kind));
            assert_eq!(failure.hint.as_ref(), Some(&hint));
            let bare = Error::new(kind, "R", "m");
            assert_eq!(from_status(&to_status(&bare, None)), bare.into());
        }
    }

    #[test]
    fn every_kind_survives_the_wire_message() {
        for kind in KINDS {
            assert_eq!(from_wire(&to_wire(&sample(kind))), sample(kind));
        }
        let unknown = v1::Error {
            kind: "FROM_THE_FUTURE".into(),
            ..v1::Error::default()
        };
        assert_eq!(from_wire(&unknown).kind(), ErrorKind::Internal);
    }

    #[test]
    fn a_status_of_somebody_else_is_uncertain_unless_the_connection_was_never_made() {
        let lost = from_status(&Status::unavailable("broken pipe"));
        assert_eq!(lost.error.kind(), ErrorKind::UnknownOutcome);
        let refused = tonic::ConnectError("connection refused".into());
        let refused = from_status(&Status::from_error(Box::new(refused)));
        assert_eq!(refused.error.kind(), ErrorKind::Unavailable, "{refused:?}");
        assert!(refused.error.delay().is_some());
    }

    #[test]
    fn a_write_is_uncertain_after_any_status_of_somebody_else() {
        for code in 1..=16 {
            let status = Status::new(Code::from_i32(code), "from a proxy");
            assert_eq!(
                from_write_status(&status).error.kind(),
                ErrorKind::UnknownOutcome,
                "{status:?}"
            );
        }
        let refused = Status::from_error(Box::new(tonic::ConnectError("connection refused".into())));
        assert_eq!(from_write_status(&refused).error.reason(), "PEER_UNREACHABLE");
        for kind in KINDS {
            let ours = to_status(&sample(kind), None);
            assert_eq!(from_write_status(&ours).error, sample(kind));
        }
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let error = Error::internal("é".repeat(5_000));
        let message = to_status(&error, None).message().to_owned();
        assert!(message.len() <= TEXT_BYTES_MAX + 3 && message.ends_with('…'));
    }
}
