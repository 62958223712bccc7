//! What came of a run: for people, and as JSON.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// One fault of the plan, as it was done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FaultReport {
    /// Its number in the plan.
    pub id: String,
    /// Its kind.
    pub kind: &'static str,
    /// As in the plan.
    pub planned: String,
    /// Who was hit.
    pub whom: String,
    /// What shows that it had an effect; absent = nothing does.
    pub effect: Option<String>,
    /// Milliseconds without service that belong to it.
    pub gap_ms: Option<u64>,
    /// Among which gaps it counts: its kind, and for a pause its length.
    pub measured_as: String,
}

/// Times without service of one kind of fault, milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Gaps {
    /// How many.
    pub count: u64,
    /// Half of them were no longer.
    pub p50_ms: u64,
    /// 99 of 100 were no longer.
    pub p99_ms: u64,
    /// The longest.
    pub max_ms: u64,
}

/// The whole report.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The profile.
    pub profile: &'static str,
    /// The seed.
    pub seed: u64,
    /// The command that repeats the run.
    pub command: String,
    /// True if nothing is wrong.
    pub ok: bool,
    /// What broke the run off, if something did.
    pub broken: Option<String>,
    /// Faults in their order.
    pub faults: Vec<FaultReport>,
    /// Times without service by kind of fault.
    pub gaps: BTreeMap<String, Gaps>,
    /// Operations of clients, and those that succeeded.
    pub operations: u64,
    /// Of these.
    pub succeeded: u64,
    /// Failures by kind, with one example of each.
    pub refusals: BTreeMap<String, u64>,
    /// One example each.
    pub examples: BTreeMap<String, String>,
    /// How often a tablet got another leader.
    pub leader_changes: u64,
    /// Marks by name.
    pub marks: BTreeMap<String, u64>,
    /// Milliseconds from the end of the load until both regions were equal.
    pub converged_ms: Option<u64>,
    /// Seconds in all.
    pub seconds: u64,
    /// What the checkers say.
    pub verdict: Option<tidemark_checkers::Report>,
}

impl Report {
    /// Computes the gaps by kind.
    pub fn summarise(&mut self) {
        let mut kinds: BTreeMap<String, Histogram<u64>> = BTreeMap::new();
        for fault in &self.faults {
            if let Some(gap_ms) = fault.gap_ms {
                let histogram = kinds
                    .entry(fault.measured_as.clone())
                    .or_insert_with(|| Histogram::new(3).expect("three digits are allowed"));
                // An auto-resizing histogram takes any number.
                histogram.saturating_record(gap_ms);
            }
        }
        self.gaps = kinds
            .into_iter()
            .map(|(kind, h)| {
                let gaps = Gaps {
                    count: h.len(),
                    p50_ms: h.value_at_quantile(0.5),
                    p99_ms: h.value_at_quantile(0.99),
                    max_ms: h.max(),
                };
                (kind, gaps)
            })
            .collect();
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for fault in &self.faults {
            let effect = fault.effect.as_deref().unwrap_or("NO EFFECT SEEN");
            let gap = fault.gap_ms.map(|ms| format!(", gap {ms} ms")).unwrap_or_default();
            let _ = writeln!(
                out,
                "  {:>5} {:<17} {:<10} {effect}{gap}",
                fault.id, fault.kind, fault.whom
            );
        }
        for (kind, g) in &self.gaps {
            let _ = writeln!(
                out,
                "  without service, {kind}: p50 {} ms, p99 {} ms, longest {} ms of {}",
                g.p50_ms, g.p99_ms, g.max_ms, g.count
            );
        }
        let _ = writeln!(
            out,
            "  {} operations, {} succeeded; {} leader changes; equal {} after the load",
            self.operations,
            self.succeeded,
            self.leader_changes,
            self.converged_ms
                .map_or_else(|| "never".to_owned(), |ms| format!("{ms} ms"))
        );
        for (kind, count) in &self.refusals {
            let _ = writeln!(out, "  {count:>9} {kind}");
        }
        for (kind, example) in self.examples.iter().filter(|_| !self.ok) {
            let _ = writeln!(out, "    {kind}: {example}");
        }
        for (mark, count) in &self.marks {
            let _ = writeln!(out, "  mark {mark}: {count}");
        }
        if let Some(verdict) = &self.verdict {
            let _ = writeln!(out, "{verdict}");
        }
        if let Some(broken) = &self.broken {
            let _ = writeln!(out, "  broken off: {broken}");
        }
        out
    }

    /// The last line.
    pub fn last_line(&self) -> String {
        if self.ok {
            return format!(
                "nemesis: ok profile={} seed={} faults={} operations={} seconds={}",
                self.profile,
                self.seed,
                self.faults.len(),
                self.succeeded,
                self.seconds
            );
        }
        format!(
            "nemesis: FAILED profile={} seed={}; again: {}",
            self.profile, self.seed, self.command
        )
    }
}

/// Whole milliseconds, rounded up: nothing that was measured reads as nothing.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_counted_by_kind() {
        let mut report = Report::default();
        let fault = |kind: &'static str, gap_ms| FaultReport {
            kind,
            gap_ms,
            measured_as: kind.to_owned(),
            ..FaultReport::default()
        };
        report.faults = (1..=100).map(|ms| fault("kill", Some(ms))).collect();
        report.faults.push(fault("pause", None));
        report.summarise();
        let kill = &report.gaps["kill"];
        assert_eq!((kill.count, kill.p50_ms, kill.p99_ms, kill.max_ms), (100, 50, 99, 100));
        assert!(!report.gaps.contains_key("pause"));
        assert!(report.text().contains("NO EFFECT SEEN"));
        assert!(report.last_line().contains("FAILED"));
    }
}
