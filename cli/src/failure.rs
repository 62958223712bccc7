//! How a command ends when it does not succeed: one text form, few exit codes.
//!
//! ```text
//! 0 done   1 the server said no, or it is not there   2 usage   3 unavailable or too late   4 unknown outcome
//! 5 partly done
//! ```

use std::fmt;
use std::io;
use std::process::ExitCode;
use tidemark_client::{ClientError, ErrorKind};

/// Exit codes, documented in docs/operations/cli.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Refused = 1,
    Usage = 2,
    Unavailable = 3,
    UnknownOutcome = 4,
    Partial = 5,
}

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    what: String,
    place: String,
    next: String,
    /// What was asked for can never succeed as it is; what was not asked for with it is not concerned.
    refusal: bool,
    /// Nobody reads any more: nothing to say, and no failure either.
    quiet: bool,
}

impl Failure {
    pub(crate) fn new(code: Code, what: impl Into<String>) -> Failure {
        Failure {
            code,
            what: what.into(),
            place: String::new(),
            next: String::new(),
            refusal: matches!(code, Code::Refused | Code::Usage),
            quiet: false,
        }
    }

    pub(crate) fn usage(what: impl Into<String>) -> Failure {
        Failure::new(Code::Usage, what)
    }

    /// The next step, unless the server has named one.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Failure {
        if self.next.is_empty() {
            self.next = next.into();
        }
        self
    }

    /// Says what was being done: `scan of telemetry`.
    pub(crate) fn doing(mut self, what: &str) -> Failure {
        self.what = format!("{what}: {}", self.what);
        self
    }

    /// True if the fault is in what was asked for, and not in files, servers or the way to them.
    pub(crate) fn is_refusal(&self) -> bool {
        self.refusal
    }

    /// Part of the work is done.
    pub(crate) fn partial(mut self) -> Failure {
        self.code = Code::Partial;
        self
    }

    /// Prints it to stderr and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if self.quiet {
            return ExitCode::SUCCESS;
        }
        eprintln!("error: {}", self.what);
        if !self.place.is_empty() {
            eprintln!("where: {}", self.place);
        }
        if !self.next.is_empty() {
            eprintln!("next:  {}", self.next);
        }
        ExitCode::from(self.code as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// A result of a command or a part of it.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let code = match error.kind() {
            _ if error.reason() == "OPTIONS_INVALID" => Code::Usage,
            ErrorKind::Unavailable | ErrorKind::Busy | ErrorKind::NotLeader | ErrorKind::DeadlineExceeded => {
                Code::Unavailable
            }
            ErrorKind::UnknownOutcome => Code::UnknownOutcome,
            _ => Code::Refused,
        };
        let mut what = format!("{}: {}", error.reason(), error.message());
        if !error.object().is_empty() && !error.message().contains(error.object()) {
            what = format!("{what} ({})", error.object());
        }
        let mut place = Vec::new();
        if !error.region().is_empty() {
            place.push(format!("region {}", error.region()));
        }
        if !error.node().is_empty() {
            place.push(format!("node {}", error.node()));
        }
        if error.attempts() > 1 {
            place.push(format!("{} attempts", error.attempts()));
        }
        let next = if error.action().is_empty() {
            suggestion(&error)
        } else {
            error.action().to_owned()
        };
        Failure {
            code,
            what,
            place: place.join(", "),
            next,
            refusal: error.kind() == ErrorKind::InvalidArgument,
            quiet: false,
        }
    }
}

/// The next command where the server has named none.
fn suggestion(error: &ClientError) -> String {
    let text = match error.kind() {
        ErrorKind::NotFound => "tidemark table list",
        ErrorKind::Unavailable | ErrorKind::DeadlineExceeded | ErrorKind::NotLeader => "tidemark cluster status",
        ErrorKind::Busy => "try again in a moment",
        _ => "",
    };
    text.to_owned()
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        let mut failure = Failure::new(Code::Refused, error.to_string());
        failure.refusal = false;
        // `tidemark scan … | head` is no error.
        failure.quiet = error.kind() == io::ErrorKind::BrokenPipe;
        failure
    }
}

impl From<csv::Error> for Failure {
    fn from(error: csv::Error) -> Failure {
        match error.into_kind() {
            csv::ErrorKind::Io(error) => error.into(),
            other => Failure::new(Code::Refused, format!("CSV: {other:?}")),
        }
    }
}
