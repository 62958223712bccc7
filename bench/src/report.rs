//! What is said in the end: one flat record, the same for people and programs.

use crate::drive::Measured;
use crate::latency::Summary;
use crate::meter::Cost;
use serde::Serialize;
use serde_json::Value;

/// The result of one run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Which workload.
    pub workload: &'static str,
    /// The options that it ran with.
    pub options: Value,
    /// From the first op to the last answer.
    pub seconds: f64,
    /// Answered ops.
    pub ops: u64,
    /// Rows written or returned.
    pub rows: u64,
    /// Cells written or returned.
    pub samples: u64,
    /// Answered ops a second.
    pub ops_per_s: f64,
    /// Rows a second.
    pub rows_per_s: f64,
    /// Cells a second.
    pub samples_per_s: f64,
    /// Milliseconds from when an op was due to its answer.
    pub latency_ms: Summary,
    /// The same by kind of op, where there are several.
    pub kinds: Vec<Kind>,
    /// Ops that ended with an error.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
    /// Ops that were answered, but not with what must be there.
    pub wrong: u64,
    /// Ops that were due and never sent, because the run was over.
    pub unsent: u64,
    /// CPU of client and servers, microseconds for each cell; servers only if their process ids were given.
    pub cpu_us_per_sample: Option<f64>,
    /// The same for each op.
    pub cpu_us_per_op: Option<f64>,
    /// The client's part of it.
    pub client_cpu_us_per_op: Option<f64>,
    /// What the processes used.
    pub cost: Option<Cost>,
    /// More figures of this workload, by name.
    pub more: Vec<(&'static str, Value)>,
    /// What one has to know to read the figures.
    pub notes: Vec<String>,
}

/// Ops of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// Answered ops.
    pub ops: u64,
    /// As in [`Report::latency_ms`].
    pub latency_ms: Summary,
}

impl Report {
    /// From what was measured.
    pub fn new(workload: &'static str, options: Value, measured: &Measured, cost: Option<Cost>) -> Report {
        let all = measured.all();
        let seconds = measured.elapsed.as_secs_f64().max(1e-9);
        let kind = |(name, latencies): &(&'static str, crate::latency::Latencies)| Kind {
            name,
            ops: latencies.count(),
            latency_ms: latencies.summary(),
        };
        let mut report = Report {
            workload,
            options,
            seconds,
            ops: all.count(),
            rows: measured.rows,
            samples: measured.samples,
            ops_per_s: all.count() as f64 / seconds,
            rows_per_s: measured.rows as f64 / seconds,
            samples_per_s: measured.samples as f64 / seconds,
            latency_ms: all.summary(),
            errors: measured.errors,
            first_error: measured.first_error.clone(),
            wrong: measured.wrong,
            unsent: measured.unsent,
            cost,
            ..Report::default()
        };
        if measured.kinds.len() > 1 {
            report.kinds = measured.kinds.iter().map(kind).collect();
        }
        if let Some(cost) = cost {
            let micros = (cost.server_cpu_s + cost.client_cpu_s) * 1e6;
            let each = |micros: f64, count: u64| (count > 0).then(|| micros / count as f64);
            report.cpu_us_per_sample = each(micros, measured.samples);
            report.cpu_us_per_op = each(micros, report.ops);
            report.client_cpu_us_per_op = each(cost.client_cpu_s * 1e6, report.ops);
            if cost.server_rss_bytes == 0 {
                report.note("CPU is the client's alone: name the servers by --server-pids to have theirs");
            }
        }
        if measured.unsent > 0 {
            report.note("the cluster was slower than the rate: latencies lack the ops that were never sent");
        }
        if measured.wrong > 0 {
            report.note("some answers lacked cells: was the table loaded with the same fleet?");
        }
        report
    }

    /// Adds what one has to know.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Adds a figure.
    pub fn figure(&mut self, name: &'static str, value: impl Into<Value>) {
        self.more.push((name, value.into()));
    }

    /// One line a figure, for people and for programs; figures that are not known are left out.
    pub fn fields(&self) -> Vec<(String, Value)> {
        let mut fields: Vec<(String, Value)> = vec![
            ("workload".into(), self.workload.into()),
            ("seconds".into(), round(self.seconds, 2)),
            ("ops".into(), self.ops.into()),
            ("ops_per_s".into(), round(self.ops_per_s, 0)),
            ("rows_per_s".into(), round(self.rows_per_s, 0)),
            ("samples".into(), self.samples.into()),
            ("samples_per_s".into(), round(self.samples_per_s, 0)),
        ];
        latencies(&mut fields, "", &self.latency_ms);
        for kind in &self.kinds {
            fields.push((format!("{}_ops", kind.name), kind.ops.into()));
            latencies(&mut fields, &format!("{}_", kind.name), &kind.latency_ms);
        }
        for (name, count) in [("errors", self.errors), ("wrong", self.wrong), ("unsent", self.unsent)] {
            fields.push((name.into(), count.into()));
        }
        if let Some(error) = &self.first_error {
            fields.push(("first_error".into(), error.as_str().into()));
        }
        let costs = [
            ("cpu_us_per_sample", self.cpu_us_per_sample),
            ("cpu_us_per_op", self.cpu_us_per_op),
            ("client_cpu_us_per_op", self.client_cpu_us_per_op),
        ];
        for (name, cost) in costs {
            fields.extend(cost.map(|cost| (name.into(), round(cost, 3))));
        }
        if let Some(cost) = &self.cost {
            fields.push(("cores".into(), round(cost.cores, 2)));
            if cost.server_rss_bytes > 0 {
                fields.push(("server_rss_mb".into(), round(cost.server_rss_bytes as f64 / 1e6, 0)));
                fields.push((
                    "server_rss_max_mb".into(),
                    round(cost.server_rss_bytes_max as f64 / 1e6, 0),
                ));
            }
        }
        fields.extend(self.more.iter().map(|(name, value)| ((*name).into(), value.clone())));
        if !self.notes.is_empty() {
            fields.push(("notes".into(), self.notes.join("; ").into()));
        }
        fields.push(("options".into(), self.options.clone()));
        fields
    }
}

fn latencies(fields: &mut Vec<(String, Value)>, kind: &str, summary: &Summary) {
    let named = [
        ("p50", summary.p50),
        ("p90", summary.p90),
        ("p99", summary.p99),
        ("p999", summary.p999),
        ("max", summary.max),
    ];
    fields.extend(named.map(|(name, ms)| (format!("{kind}{name}_ms"), round(ms, 3))));
}

/// A number as people want to read it.
pub fn round(number: f64, decimals: i32) -> Value {
    let scale = 10f64.powi(decimals);
    let rounded = (number * scale).round() / scale;
    if decimals == 0 {
        (rounded as i64).into()
    } else {
        rounded.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Latencies;
    use std::time::Duration;

    #[test]
    fn a_report_has_rates_costs_and_its_notes() {
        let mut latencies = Latencies::default();
        (0..100).for_each(|_| latencies.record(Duration::from_millis(2)));
        let measured = Measured {
            elapsed: Duration::from_secs(2),
            kinds: vec![("write", latencies)],
            rows: 200,
            samples: 2_000,
            unsent: 3,
            ..Measured::default()
        };
        let cost = Cost {
            server_cpu_s: 0.003,
            client_cpu_s: 0.001,
            server_rss_bytes: 5_000_000,
            ..Cost::default()
        };
        let report = Report::new("ingest", Value::Null, &measured, Some(cost));
        let fields = report.fields();
        let field = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        assert_eq!(field("ops_per_s"), Some(50.into()));
        assert_eq!(field("samples_per_s"), Some(1_000.into()));
        assert_eq!(field("cpu_us_per_sample"), Some(2.0.into()));
        assert_eq!(field("cpu_us_per_op"), Some(40.0.into()));
        assert_eq!(field("unsent"), Some(3.into()));
        assert!(field("notes").is_some_and(|notes| notes.to_string().contains("never sent")));
        assert_eq!(field("write_ops"), None, "one kind needs no rows of its own");
    }
}
