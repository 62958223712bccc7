//! Logs: no panic, no secret, no ERROR line that was not to be expected. ERROR means that a person must look, so every one
//! is a finding unless the plan says why it is not.

use crate::{Evidence, Report};

const PROPERTY: &str = "logs";
const LINE_SHOWN_MAX: usize = 300;

/// Every line of every node.
pub fn check(evidence: &Evidence<'_>, report: &mut Report) {
    if evidence.logs.is_empty() && evidence.plan.logs_needed {
        report.find(PROPERTY, "there are no logs", []);
    }
    for log in evidence.logs {
        report.count("logs", 1);
        for line in log.text.lines() {
            report.count("log lines", 1);
            let line = plain(line);
            if let Some(what) = wrong(evidence, &line) {
                let shown: String = line.chars().take(LINE_SHOWN_MAX).collect();
                report.find(PROPERTY, format!("{}: {what}: {shown}", log.node), []);
            }
        }
    }
}

fn wrong(evidence: &Evidence<'_>, line: &str) -> Option<&'static str> {
    let plan = evidence.plan;
    if plan
        .secrets
        .iter()
        .any(|secret| !secret.is_empty() && line.contains(secret.as_str()))
    {
        return Some("a secret (the line follows)");
    }
    if line.contains("panicked at") || line.contains("RUST_BACKTRACE") {
        return Some("a panic");
    }
    let listed = || {
        plan.errors_allowed
            .iter()
            .any(|allowed| line.contains(allowed.as_str()))
    };
    (is_error(line) && !listed()).then_some("an unlisted error")
}

/// ERROR as the level: the second word of a text line (after the time), or the level of a JSON line.
fn is_error(line: &str) -> bool {
    let text = line.split_ascii_whitespace().take(3).any(|word| word == "ERROR");
    text || line.contains("\"level\":\"ERROR\"")
}

/// Without the colours of a terminal.
fn plain(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            out.push(c);
            continue;
        }
        // ESC [ parameters letter
        let _ = chars.by_ref().find(char::is_ascii_alphabetic);
    }
    out
}
