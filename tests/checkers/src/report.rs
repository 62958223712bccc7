//! What was found: for people, and as JSON.

use crate::history::Run;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Findings of one checker that are written out; the rest is counted.
const SHOWN_MAX: u64 = 10;

/// Something that no correct run shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The property's number or name (`O6`).
    pub property: &'static str,
    /// What is wrong, with what was expected.
    pub what: String,
    /// The operations that show it.
    pub operations: Vec<u64>,
}

/// The verdict over a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Who ran.
    pub run: String,
    /// The command that repeats it.
    pub command: String,
    /// What is wrong, at most ten of each property.
    pub findings: Vec<Finding>,
    /// How many findings there are of each property.
    pub found: BTreeMap<&'static str, u64>,
    /// What was looked at.
    pub counts: BTreeMap<&'static str, u64>,
    /// What people should know although it is not wrong.
    pub notes: Vec<String>,
}

impl Report {
    /// Nothing found yet.
    pub fn new(run: Option<&Run>) -> Report {
        Report {
            run: run.map_or_else(String::new, |run| format!("{}, seed {}", run.name, run.seed)),
            command: run.map_or_else(String::new, |run| run.command.clone()),
            ..Report::default()
        }
    }

    /// True if nothing is wrong.
    pub fn passed(&self) -> bool {
        self.found.is_empty()
    }

    /// Notes something wrong.
    pub fn find(&mut self, property: &'static str, what: impl Into<String>, operations: impl IntoIterator<Item = u64>) {
        let found = self.found.entry(property).or_default();
        *found += 1;
        if *found <= SHOWN_MAX {
            self.findings.push(Finding {
                property,
                what: what.into(),
                operations: operations.into_iter().collect(),
            });
        }
    }

    /// Counts what was looked at.
    pub fn count(&mut self, what: &'static str, n: u64) {
        *self.counts.entry(what).or_default() += n;
    }

    /// How many were looked at.
    pub fn counted(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    /// Adds a note.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// The machine's form.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("texts and numbers are always JSON")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.run, if self.passed() { "passed" } else { "FAILED" })?;
        for (property, found) in &self.found {
            writeln!(f, "  {property}: {found} found")?;
            for finding in self.findings.iter().filter(|finding| finding.property == *property) {
                write!(f, "    {}", finding.what)?;
                if !finding.operations.is_empty() {
                    write!(f, " (operations {:?})", finding.operations)?;
                }
                writeln!(f)?;
            }
        }
        writeln!(f, "  looked at:")?;
        for (what, n) in &self.counts {
            writeln!(f, "    {n:>9} {what}")?;
        }
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        if !self.passed() && !self.command.is_empty() {
            writeln!(f, "  again: {}", self.command)?;
        }
        Ok(())
    }
}
