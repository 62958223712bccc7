//! The outcome, for people and as JSON.

use serde::Serialize;
use std::fmt::Write;

/// One row: one bug and one piece of evidence.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The bug's name.
    pub bug: String,
    /// The layer of the evidence.
    pub layer: &'static str,
    /// The evidence.
    pub evidence: String,
    /// Why it does not count as caught; `None` if it is.
    pub missed: Option<String>,
    /// With the bug, and without it unless that was known already.
    pub seconds: f64,
}

/// All rows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Table {
    /// In the order in which they were run.
    pub rows: Vec<Row>,
}

impl Table {
    /// Bugs that all their evidence caught, and bugs that some of it did not.
    pub fn counts(&self) -> (usize, usize) {
        let mut bugs: Vec<(&str, bool)> = Vec::new();
        for row in &self.rows {
            match bugs.last_mut().filter(|(bug, _)| *bug == row.bug) {
                Some((_, caught)) => *caught &= row.missed.is_none(),
                None => bugs.push((&row.bug, row.missed.is_none())),
            }
        }
        let caught = bugs.iter().filter(|(_, caught)| *caught).count();
        (caught, bugs.len() - caught)
    }

    /// The last line: in the form that `./x test` adds up.
    pub fn last_line(&self) -> String {
        let (caught, missed) = self.counts();
        format!("{caught} passed, {missed} failed")
    }

    /// The rows in columns.
    pub fn text(&self) -> String {
        let width = |of: fn(&Row) -> usize| self.rows.iter().map(of).max().unwrap_or(0);
        let (bugs, layers) = (width(|row| row.bug.len()), width(|row| row.layer.len()));
        let caught_by = width(|row| row.evidence.len());
        let mut out = String::new();
        let mut line = |bug: &str, layer: &str, by: &str, seconds: &str| {
            let written = writeln!(out, "{bug:bugs$} | {layer:layers$} | {by:caught_by$} | {seconds:>7}");
            written.expect("writing into a string cannot fail");
        };
        line("bug", "layer", "caught by", "seconds");
        for row in &self.rows {
            line(&row.bug, row.layer, &row.evidence, &format!("{:.1}", row.seconds));
        }
        for row in &self.rows {
            if let Some(why) = &row.missed {
                let written = writeln!(out, "MISSED {}: {}: {why}", row.bug, row.evidence);
                written.expect("writing into a string cannot fail");
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(bug: &str, missed: Option<&str>) -> Row {
        Row {
            bug: bug.to_owned(),
            layer: "rules",
            evidence: "a test".to_owned(),
            missed: missed.map(str::to_owned),
            seconds: 1.25,
        }
    }

    #[test]
    fn a_bug_is_caught_if_all_its_evidence_caught_it() {
        let rows = vec![row("a", None), row("a", Some("it passes with the bug")), row("b", None)];
        let table = Table { rows };
        assert_eq!(table.counts(), (1, 1));
        assert_eq!(table.last_line(), "1 passed, 1 failed");
        assert!(
            table.text().contains("MISSED a: a test: it passes with the bug"),
            "{}",
            table.text()
        );
        assert_eq!(Table::default().last_line(), "0 passed, 0 failed");
    }
}
