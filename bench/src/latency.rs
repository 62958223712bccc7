//! How long ops took: one HDR histogram a kind of op, in microseconds, three digits exact, at most an hour.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::Duration;

const HOUR_MICROS: u64 = 3_600_000_000;

/// Latencies of ops of one kind.
#[derive(Clone, Debug)]
pub struct Latencies {
    micros: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Latencies {
        let micros = Histogram::new_with_bounds(1, HOUR_MICROS, 3).expect("bounds that the library documents as valid");
        Latencies { micros }
    }
}

impl Latencies {
    /// One op.
    pub fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.micros.saturating_record(micros.max(1));
    }

    /// Those of another worker.
    pub fn merge(&mut self, other: &Latencies) {
        self.micros.add(&other.micros).expect("all have the same bounds");
    }

    /// Ops recorded.
    pub fn count(&self) -> u64 {
        self.micros.len()
    }

    /// The figures that are reported.
    pub fn summary(&self) -> Summary {
        let at = |quantile: f64| self.micros.value_at_quantile(quantile) as f64 / 1e3;
        Summary {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: self.micros.max() as f64 / 1e3,
            mean: (self.micros.mean()).round() / 1e3,
        }
    }
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Summary {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    pub mean: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_exact_to_three_digits_and_survive_a_merge() {
        let (mut even, mut odd) = (Latencies::default(), Latencies::default());
        for ms in 1..=1_000u64 {
            let half = if ms % 2 == 0 { &mut even } else { &mut odd };
            half.record(Duration::from_millis(ms));
        }
        even.merge(&odd);
        let summary = even.summary();
        assert_eq!(even.count(), 1_000);
        for (found, expected) in [(summary.p50, 500.0), (summary.p99, 990.0), (summary.max, 1_000.0)] {
            assert!(
                (found - expected).abs() / expected < 0.002,
                "{found} instead of {expected}"
            );
        }
        even.record(Duration::ZERO);
        even.record(Duration::from_secs(100_000));
        assert_eq!(even.count(), 1_002, "what is out of bounds counts at the bound");
    }
}
