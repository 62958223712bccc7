//! The JSON forms of what the catalog proposes, answers and stores. Readable with any tool, and evolvable: a reader
//! ignores fields that it does not know and fills in those that are missing; a change of meaning raises `v`.
//!
//! ```text
//! command  := {"v":1, "request":"<32 hex digits>", "now_ms":N, "command":{"<verb>":{…}},
//!              "founding":{"cluster":"…", "region":{"name":"…", "number":N}, "seeds":[N…]}?}
//! response := {"v":1, "revision":N, "ok":"done" | {"table":N} | {"cluster":"…"}}
//!           | {"v":1, "revision":N, "error":{"kind":"NOT_FOUND", "reason":"…", "object":"…", "message":"…",
//!              "action":"…", "retry_after_ms":N?}}
//! row keys := base64 (standard alphabet, padded)
//! ```
//!
//! One worked example of each stands in this module's tests. The stored state is drawn in `codec::state`, its file in
//! `store`.

mod command;
mod records;
mod state;

#[cfg(test)]
mod tests;

pub(crate) use state::Stored;

use crate::command::{Answer, Envelope, Founding, RequestId, Response};
use crate::limits::COMMAND_BYTES_MAX;
use crate::state::Identity;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tidemark_base::{Error, ErrorKind, NodeId, RegionId, TableId};

/// The version of every form here.
const VERSION: u32 = 1;

/// Bytes that are not what they should be, or of a newer release.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) String);

impl Malformed {
    fn new(say: impl std::fmt::Display) -> Malformed {
        Malformed(say.to_string())
    }
}

#[derive(Serialize, Deserialize)]
struct EnvelopeForm {
    v: u32,
    request: String,
    now_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    founding: Option<FoundingForm>,
    command: command::CommandForm,
}

#[derive(Serialize, Deserialize)]
struct FoundingForm {
    cluster: String,
    region: RegionForm,
    seeds: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
struct RegionForm {
    name: String,
    number: u16,
}

impl From<&Founding> for FoundingForm {
    fn from(founding: &Founding) -> FoundingForm {
        let Identity {
            cluster,
            region_name,
            region,
        } = founding.identity.clone();
        FoundingForm {
            cluster,
            region: RegionForm {
                name: region_name,
                number: region.0,
            },
            seeds: founding.seeds.iter().map(|node| node.0).collect(),
        }
    }
}

impl From<FoundingForm> for Founding {
    fn from(form: FoundingForm) -> Founding {
        let (region_name, region) = (form.region.name, RegionId(form.region.number));
        Founding {
            identity: Identity {
                cluster: form.cluster,
                region_name,
                region,
            },
            seeds: form.seeds.into_iter().map(NodeId).collect(),
        }
    }
}

/// A command for the log.
pub(crate) fn encode_envelope(envelope: &Envelope) -> Bytes {
    to_bytes(&EnvelopeForm {
        v: VERSION,
        request: envelope.request.to_string(),
        now_ms: envelope.now_ms,
        founding: envelope.founding.as_ref().map(FoundingForm::from),
        command: command::CommandForm::from(&envelope.command),
    })
}

/// A command from the log or from another node.
pub(crate) fn decode_envelope(bytes: &[u8]) -> Result<Envelope, Malformed> {
    if bytes.len() > COMMAND_BYTES_MAX {
        return Err(Malformed::new(format!(
            "a command of {} bytes; at most {COMMAND_BYTES_MAX}",
            bytes.len()
        )));
    }
    check_version(bytes)?;
    let form: EnvelopeForm = serde_json::from_slice(bytes).map_err(Malformed::new)?;
    Ok(Envelope {
        request: request_id(&form.request)?,
        now_ms: form.now_ms,
        founding: form.founding.map(Founding::from),
        command: form.command.into_command()?,
    })
}

#[derive(Serialize, Deserialize)]
struct ResponseForm {
    v: u32,
    revision: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ok: Option<AnswerForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<ErrorForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AnswerForm {
    Done,
    Table(u64),
    Cluster(String),
}

#[derive(Serialize, Deserialize)]
struct ErrorForm {
    kind: String,
    reason: String,
    #[serde(default)]
    object: String,
    message: String,
    #[serde(default)]
    action: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

impl ResponseForm {
    fn from_response(response: &Response) -> ResponseForm {
        let (ok, error) = match &response.outcome {
            Ok(Answer::Done) => (Some(AnswerForm::Done), None),
            Ok(Answer::Table(id)) => (Some(AnswerForm::Table(id.0)), None),
            Ok(Answer::Cluster(id)) => (Some(AnswerForm::Cluster(id.clone())), None),
            Err(error) => (None, Some(ErrorForm::from_error(error))),
        };
        ResponseForm {
            v: VERSION,
            revision: response.revision,
            ok,
            error,
        }
    }

    fn into_response(self) -> Result<Response, Malformed> {
        let outcome = match (self.ok, self.error) {
            (Some(AnswerForm::Done), None) => Ok(Answer::Done),
            (Some(AnswerForm::Table(id)), None) => Ok(Answer::Table(TableId(id))),
            (Some(AnswerForm::Cluster(id)), None) => Ok(Answer::Cluster(id)),
            (None, Some(error)) => Err(error.into_error()),
            _ => return Err(Malformed::new("a response has either an answer or an error")),
        };
        Ok(Response {
            revision: self.revision,
            outcome,
        })
    }
}

impl ErrorForm {
    fn from_error(error: &Error) -> ErrorForm {
        ErrorForm {
            kind: error.kind().name().to_owned(),
            reason: error.reason().to_owned(),
            object: error.object_name().to_owned(),
            message: error.message().to_owned(),
            action: error.next_action().to_owned(),
            retry_after_ms: error
                .delay()
                .map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    fn into_error(self) -> Error {
        // A kind of a newer release: the caller can do no better than report it.
        let kind = ErrorKind::from_name(&self.kind).unwrap_or(ErrorKind::Internal);
        let error = Error::new(kind, self.reason, self.message)
            .object(self.object)
            .action(self.action);
        match self.retry_after_ms {
            Some(ms) => error.retry_after(Duration::from_millis(ms)),
            None => error,
        }
    }
}

/// What apply answers, as bytes for the proposer.
pub(crate) fn encode_response(response: &Response) -> Bytes {
    to_bytes(&ResponseForm::from_response(response))
}

/// The inverse of [`encode_response`].
pub(crate) fn decode_response(bytes: &[u8]) -> Result<Response, Malformed> {
    check_version(bytes)?;
    let form: ResponseForm = serde_json::from_slice(bytes).map_err(Malformed::new)?;
    form.into_response()
}

/// Looks at `v` alone first, so that a newer form is called newer and not malformed.
fn check_version(bytes: &[u8]) -> Result<(), Malformed> {
    #[derive(Deserialize)]
    struct Versioned {
        v: u32,
    }
    let form: Versioned = serde_json::from_slice(bytes).map_err(Malformed::new)?;
    match form.v {
        VERSION => Ok(()),
        newer => Err(Malformed::new(format!(
            "form {newer}; this release knows form {VERSION}"
        ))),
    }
}

fn to_bytes(form: &impl Serialize) -> Bytes {
    serde_json::to_vec(form)
        .expect("strings, numbers and maps with text keys always have a JSON form")
        .into()
}

fn request_id(text: &str) -> Result<RequestId, Malformed> {
    let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    match u128::from_str_radix(text, 16) {
        Ok(value) if digits => Ok(RequestId(value.to_be_bytes())),
        _ => Err(Malformed::new("a request id has 32 hex digits")),
    }
}

fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn from_base64(text: &str) -> Result<Bytes, Malformed> {
    STANDARD.decode(text).map(Bytes::from).map_err(Malformed::new)
}
