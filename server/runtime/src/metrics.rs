//! One registry of metrics, shown as OpenMetrics text.
//!
//! ```text
//! let writes = metrics.counter("tidemark_write_rows", "Rows written, by table.", &["table"]);
//! let rows = writes.with(&["telemetry"]);      // look up once, keep the handle
//! rows.add(100);                               // shown as tidemark_write_rows_total{table="telemetry"} 100
//! ```
//!
//! Names are `tidemark_<noun>_<unit>`, the unit last: `tidemark_feed_lag_seconds`, `tidemark_memtable_bytes`. Prefer base
//! units (seconds, bytes); counters get `_total` by themselves.
//!
//! **Label sets are bounded.** Each set of label values is a time series that the scraper keeps for weeks, and table
//! names come from users. A family holds at most `LABEL_SETS_MAX` sets; whatever comes later is counted under the value
//! `other`, so that sums stay right. Rows, keys and request ids are never labels.

use parking_lot::{Mutex, RwLock};
use prometheus_client::encoding::{EncodeMetric, text};
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::{TypedMetric, counter, gauge, histogram};
use prometheus_client::registry::Registry;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Label sets of one family before further ones are counted under `other`. 1,000 sets of a histogram with 20 buckets
/// are some 20,000 series: what one scrape of one server may reasonably hold.
pub const LABEL_SETS_MAX: usize = 1_000;

/// The label value under which everything beyond `LABEL_SETS_MAX` is counted.
pub const LABEL_OVERFLOW: &str = "other";

/// Upper bounds for times: 50 µs to about 100 s, doubling. In seconds.
pub const BUCKETS_SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_2, 0.000_4, 0.000_8, 0.001_6, 0.003_2, 0.006_4, 0.012_8, 0.025_6, 0.051_2, 0.102_4,
    0.204_8, 0.409_6, 0.819_2, 1.638_4, 3.276_8, 6.553_6, 13.107_2, 26.214_4, 52.428_8, 104.857_6,
];

/// Upper bounds for sizes: 256 bytes to 64 MiB, by four.
pub const BUCKETS_BYTES: &[f64] = &[
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// Upper bounds for numbers of things (rows in a batch, entries in an append): 1 to 65,536, by four.
pub const BUCKETS_COUNT: &[f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0];

type Labels = Vec<(&'static str, String)>;
type Buckets = &'static [f64];

/// The registry. Clones are the same registry.
#[derive(Clone, Default)]
pub struct Metrics {
    shared: Arc<Mutex<Declared>>,
}

#[derive(Default)]
struct Declared {
    registry: Registry,
    by_name: HashMap<&'static str, AnyFamily>,
}

#[derive(Clone)]
enum AnyFamily {
    Counter(CounterFamily),
    Gauge(GaugeFamily),
    Histogram(HistogramFamily),
}

impl Metrics {
    /// An empty registry. A process has one; a test may have many.
    pub fn new() -> Metrics {
        Metrics::default()
    }

    /// Declares a counter, or returns the family that was declared under this name before. `help` is a sentence.
    ///
    /// Panics on a name that breaks the scheme above or was declared as something else: both are mistakes in the code
    /// that every start of the process shows.
    pub fn counter(&self, name: &'static str, help: &str, labels: &'static [&'static str]) -> CounterFamily {
        let declared = self.declare(name, help, labels, (), AnyFamily::Counter);
        let AnyFamily::Counter(family) = declared else {
            panic!("{name} was declared as another kind of metric")
        };
        family.checked(name, labels)
    }

    /// Declares a gauge: a value that goes up and down, in the unit that its name ends in. As `counter` otherwise.
    pub fn gauge(&self, name: &'static str, help: &str, labels: &'static [&'static str]) -> GaugeFamily {
        let declared = self.declare(name, help, labels, (), AnyFamily::Gauge);
        let AnyFamily::Gauge(family) = declared else {
            panic!("{name} was declared as another kind of metric")
        };
        family.checked(name, labels)
    }

    /// Declares a histogram with the given upper bounds (`BUCKETS_SECONDS`, `BUCKETS_BYTES`, `BUCKETS_COUNT`). As
    /// `counter` otherwise.
    pub fn histogram(
        &self,
        name: &'static str,
        help: &str,
        labels: &'static [&'static str],
        buckets: Buckets,
    ) -> HistogramFamily {
        let declared = self.declare(name, help, labels, buckets, AnyFamily::Histogram);
        let AnyFamily::Histogram(family) = declared else {
            panic!("{name} was declared as another kind of metric")
        };
        family.checked(name, labels)
    }

    /// All metrics as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        let declared = self.shared.lock();
        text::encode(&mut out, &declared.registry).expect("writing into a String cannot fail");
        out
    }

    fn declare<M: Kind>(
        &self,
        name: &'static str,
        help: &str,
        labels: &'static [&'static str],
        make: M::Make,
        wrap: fn(MetricFamily<M>) -> AnyFamily,
    ) -> AnyFamily {
        let mut declared = self.shared.lock();
        if let Some(family) = declared.by_name.get(name) {
            return family.clone();
        }
        assert!(
            is_name(name),
            "{name} is not a metric name: use tidemark_<noun>_<unit>, lower case"
        );
        let family = MetricFamily::<M>::new(labels, make);
        // The encoder puts the full stop itself.
        declared
            .registry
            .register(name, help.trim_end_matches('.'), family.shown.clone());
        let wrapped = wrap(family);
        declared.by_name.insert(name, wrapped.clone());
        wrapped
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("declared", &self.shared.lock().by_name.len())
            .finish()
    }
}

fn is_name(name: &str) -> bool {
    name.strip_prefix("tidemark_").is_some_and(|rest| {
        !rest.is_empty()
            && rest
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    })
}

/// What the families of counters, gauges and histograms differ in: how a metric is made.
pub trait Kind: EncodeMetric + TypedMetric + Clone + fmt::Debug + Send + Sync + 'static {
    /// What making one needs.
    type Make: Copy + fmt::Debug + Send + Sync + 'static;
    /// Makes one at zero.
    fn make(make: Self::Make) -> Self;
}

/// All metrics of one name, told apart by their labels. Clones are the same family.
#[derive(Clone)]
pub struct MetricFamily<M: Kind> {
    labels: &'static [&'static str],
    /// What the encoder walks.
    shown: Family<Labels, M, Maker<M>>,
    /// The same metrics, found by label values alone and counted, which `shown` cannot do.
    known: Arc<RwLock<HashMap<Vec<String>, M>>>,
}

/// Counters by label.
pub type CounterFamily = MetricFamily<Counter>;
/// Gauges by label.
pub type GaugeFamily = MetricFamily<Gauge>;
/// Histograms by label.
pub type HistogramFamily = MetricFamily<Histogram>;

impl<M: Kind> MetricFamily<M> {
    fn new(labels: &'static [&'static str], make: M::Make) -> MetricFamily<M> {
        MetricFamily {
            labels,
            shown: Family::new_with_constructor(Maker { make }),
            known: Arc::default(),
        }
    }

    /// The metric with these label values, in the order of the declaration; made when it is not there yet. Beyond
    /// `LABEL_SETS_MAX` sets it is the one whose values are all `other`.
    ///
    /// A look-up costs a lock and a hash: on a hot path look up once and keep the handle.
    pub fn with(&self, values: &[&str]) -> M {
        assert_eq!(
            values.len(),
            self.labels.len(),
            "one value per label of {:?}",
            self.labels
        );
        let key: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        if let Some(metric) = self.known.read().get(&key) {
            return metric.clone();
        }
        let mut known = self.known.write();
        let key = if known.contains_key(&key) || known.len() < LABEL_SETS_MAX {
            key
        } else {
            vec![LABEL_OVERFLOW.to_owned(); self.labels.len()]
        };
        let labels: Labels = self.labels.iter().copied().zip(key.iter().cloned()).collect();
        known
            .entry(key)
            .or_insert_with(|| self.shown.get_or_create_owned(&labels))
            .clone()
    }

    /// The metric of a family without labels.
    pub fn plain(&self) -> M {
        self.with(&[])
    }

    /// Forgets a label set: its object is gone (a dropped table, a tablet that left). Handles still held count into
    /// the void.
    pub fn remove(&self, values: &[&str]) {
        let key: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        let mut known = self.known.write();
        if known.remove(&key).is_some() {
            let labels: Labels = self.labels.iter().copied().zip(key).collect();
            self.shown.remove(&labels);
        }
    }

    fn checked(self, name: &str, labels: &[&str]) -> Self {
        assert_eq!(self.labels, labels, "{name} was declared with other labels");
        self
    }
}

impl<M: Kind> fmt::Debug for MetricFamily<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricFamily")
            .field("labels", &self.labels)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug)]
struct Maker<M: Kind> {
    make: M::Make,
}

impl<M: Kind> MetricConstructor<M> for Maker<M> {
    fn new_metric(&self) -> M {
        M::make(self.make)
    }
}

/// A number that only rises. Clones are the same counter.
#[derive(Clone, Debug, Default)]
pub struct Counter(counter::Counter);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.0.inc();
    }

    /// `n` more.
    pub fn add(&self, n: u64) {
        self.0.inc_by(n);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// A number that goes up and down. Clones are the same gauge.
#[derive(Clone, Debug, Default)]
pub struct Gauge(gauge::Gauge<f64, AtomicU64>);

impl Gauge {
    /// Sets it. Whole numbers are exact to 2^53.
    pub fn set(&self, value: f64) {
        self.0.set(value);
    }

    /// Adds to it, or takes from it with a negative value.
    pub fn add(&self, value: f64) {
        self.0.inc_by(value);
    }

    /// Its value.
    pub fn get(&self) -> f64 {
        self.0.get()
    }
}

/// A distribution over fixed buckets. Clones are the same histogram.
#[derive(Clone, Debug)]
pub struct Histogram(histogram::Histogram);

impl Histogram {
    /// One observation, in the unit that the name ends in.
    pub fn observe(&self, value: f64) {
        self.0.observe(value);
    }

    /// One observation of a time, in seconds.
    pub fn observe_duration(&self, duration: std::time::Duration) {
        self.0.observe(duration.as_secs_f64());
    }
}

impl Kind for Counter {
    type Make = ();
    fn make((): ()) -> Self {
        Counter::default()
    }
}

impl Kind for Gauge {
    type Make = ();
    fn make((): ()) -> Self {
        Gauge::default()
    }
}

impl Kind for Histogram {
    type Make = Buckets;
    fn make(buckets: Buckets) -> Self {
        Histogram(histogram::Histogram::new(buckets.iter().copied()))
    }
}

/// The encoder sees through the newtypes, which exist so that no caller depends on the library's types.
macro_rules! transparent {
    ($outer:ty, $inner:ty) => {
        impl TypedMetric for $outer {
            const TYPE: prometheus_client::metrics::MetricType = <$inner as TypedMetric>::TYPE;
        }
        impl EncodeMetric for $outer {
            fn encode(&self, encoder: prometheus_client::encoding::MetricEncoder) -> Result<(), fmt::Error> {
                self.0.encode(encoder)
            }
            fn metric_type(&self) -> prometheus_client::metrics::MetricType {
                <$inner as TypedMetric>::TYPE
            }
        }
    };
}

transparent!(Counter, counter::Counter);
transparent!(Gauge, gauge::Gauge<f64, AtomicU64>);
transparent!(Histogram, histogram::Histogram);

#[cfg(test)]
mod tests {
    use super::*;

    /// Empty braces are the library's; the grammar of OpenMetrics allows them.
    #[test]
    fn the_text_is_what_a_scraper_expects() {
        let metrics = Metrics::new();
        metrics
            .counter("tidemark_write_rows", "Rows written, by table.", &["table"])
            .with(&["telemetry"])
            .add(100);
        metrics
            .gauge("tidemark_feed_lag_seconds", "Age of the oldest unshipped write.", &[])
            .plain()
            .set(1.5);
        let sizes = metrics
            .histogram("tidemark_batch_bytes", "Sizes of batches.", &[], &[10.0, 100.0])
            .plain();
        sizes.observe(50.0);
        let expected = "\
# HELP tidemark_write_rows Rows written, by table.
# TYPE tidemark_write_rows counter
tidemark_write_rows_total{table=\"telemetry\"} 100
# HELP tidemark_feed_lag_seconds Age of the oldest unshipped write.
# TYPE tidemark_feed_lag_seconds gauge
tidemark_feed_lag_seconds{} 1.5
# HELP tidemark_batch_bytes Sizes of batches.
# TYPE tidemark_batch_bytes histogram
tidemark_batch_bytes_sum{} 50.0
tidemark_batch_bytes_count{} 1
tidemark_batch_bytes_bucket{le=\"10.0\"} 0
tidemark_batch_bytes_bucket{le=\"100.0\"} 1
tidemark_batch_bytes_bucket{le=\"+Inf\"} 1
# EOF
";
        assert_eq!(metrics.encode(), expected);
    }

    #[test]
    fn declaring_again_gives_the_same_family() {
        let metrics = Metrics::new();
        let declare = || metrics.clone().counter("tidemark_restarts", "Restarts.", &[]).plain();
        declare().inc();
        declare().inc();
        assert_eq!(declare().get(), 2);
        assert_eq!(metrics.encode().matches("tidemark_restarts_total{} 2").count(), 1);
    }

    #[test]
    fn label_sets_beyond_the_bound_are_counted_together() {
        let family = Metrics::new().counter("tidemark_write_rows", "Rows.", &["table"]);
        for n in 0..LABEL_SETS_MAX + 5 {
            family.with(&[&format!("table{n}")]).inc();
        }
        assert_eq!(family.with(&[LABEL_OVERFLOW]).get(), 5);
        assert_eq!(family.with(&["table0"]).get(), 1);
        assert_eq!(family.known.read().len(), LABEL_SETS_MAX + 1);
    }

    #[test]
    fn a_removed_label_set_is_not_shown_and_starts_again_from_zero() {
        let metrics = Metrics::new();
        let family = metrics.gauge("tidemark_tablet_bytes", "Size.", &["table"]);
        family.with(&["gone"]).set(7.0);
        family.remove(&["gone"]);
        family.remove(&["never there"]);
        assert!(!metrics.encode().contains("gone"));
        assert_eq!(family.with(&["gone"]).get(), 0.0);
    }

    #[test]
    fn names_follow_the_scheme() {
        assert!(is_name("tidemark_feed_lag_seconds"));
        for bad in ["feed_lag_seconds", "tidemark_", "tidemark_Feed", "tidemark_feed-lag"] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_name_has_one_kind_and_one_set_of_labels() {
        let metrics = Metrics::new();
        metrics.counter("tidemark_rows", "Rows.", &["table"]);
        let panics = |declare: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(declare)).is_err();
        assert!(panics(&|| drop(metrics.gauge("tidemark_rows", "Rows.", &["table"]))));
        assert!(panics(&|| drop(metrics.counter("tidemark_rows", "Rows.", &[]))));
        assert!(!panics(&|| drop(metrics.counter("tidemark_rows", "Rows.", &["table"]))));
    }
}
