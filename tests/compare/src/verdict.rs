//! The table, and the same as JSON.

use crate::peers::About;
use crate::run::{Options, median};
use serde::Serialize;
use tidemark_bench::fleet::Fleet;

/// What one run of one peer gave.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figures {
    /// Sent and answered, in a second.
    pub samples_per_s: f64,
    /// Client and servers, while loading.
    pub cpu_us_per_sample: f64,
    /// The client's part of it: generator, encoding, protocol.
    pub client_cpu_us_per_sample: f64,
    /// More that it took to come to rest; `None` if the peer was started again for that.
    pub settle_cpu_us_per_sample: Option<f64>,
    /// Of one copy, at rest, without its log.
    pub bytes_per_sample: f64,
    /// What its log still takes then, one copy, where that is apart; it does not grow with the data.
    pub log_mb: f64,
    /// Half of the batches took no longer.
    pub batch_p50_ms: f64,
    /// All but a hundredth of the batches took no longer.
    pub batch_p99_ms: f64,
    /// The most memory of all its processes together.
    pub rss_mb: f64,
}

impl Figures {
    /// In short.
    pub fn line(&self) -> String {
        format!(
            "{:.0} samples/s, {:.2} µs CPU and {:.2} bytes a sample, p99 {:.1} ms, {:.0} MB",
            self.samples_per_s, self.cpu_us_per_sample, self.bytes_per_sample, self.batch_p99_ms, self.rss_mb
        )
    }
}

/// One peer.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub peer: String,
    /// What has to stand beside its numbers.
    pub about: Option<About>,
    /// The median, figure by figure.
    pub median: Option<Figures>,
    /// Each run.
    pub runs: Vec<Figures>,
    /// Why it is not compared, or not in every run.
    pub skipped: Option<String>,
}

/// All peers.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// What was loaded.
    pub fleet: Fleet,
    /// Ticks of a batch.
    pub batch: u64,
    /// Clients at once.
    pub clients: u64,
    /// Runs.
    pub runs: u64,
    /// Idle-priority loops beside the load.
    pub spinners: usize,
    /// True if this program and Tidemark were compiled without optimisation.
    pub debug_build: bool,
    /// The peers.
    pub peers: Vec<Row>,
}

impl Verdict {
    /// Nothing measured yet.
    pub fn new(fleet: &Fleet, options: &Options, spinners: usize) -> Verdict {
        Verdict {
            fleet: fleet.clone(),
            batch: options.batch,
            clients: options.clients,
            runs: options.runs,
            spinners,
            debug_build: cfg!(debug_assertions),
            peers: Vec::new(),
        }
    }

    fn row(&mut self, peer: &str) -> &mut Row {
        let at = self.peers.iter().position(|row| row.peer == peer).unwrap_or_else(|| {
            self.peers.push(Row {
                peer: peer.to_owned(),
                about: None,
                median: None,
                runs: Vec::new(),
                skipped: None,
            });
            self.peers.len() - 1
        });
        &mut self.peers[at]
    }

    /// A run of a peer.
    pub fn add(&mut self, peer: &str, about: About, figures: Figures) {
        let row = self.row(peer);
        row.about = Some(about);
        row.runs.push(figures);
        row.median = median(row);
    }

    /// A peer that is left out from now on.
    pub fn skip(&mut self, peer: &str, reason: String) {
        self.row(peer).skipped = Some(reason);
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        table.set_header([
            "peer",
            "samples/s",
            "CPU µs",
            "client",
            "settle",
            "bytes",
            "log MB",
            "p50 ms",
            "p99 ms",
            "RSS MB",
            "copies",
            "an answer means",
        ]);
        for row in &self.peers {
            let (Some(m), Some(about)) = (&row.median, &row.about) else {
                continue;
            };
            table.add_row([
                row.peer.clone(),
                format!("{:.0}", m.samples_per_s),
                format!("{:.2}", m.cpu_us_per_sample),
                format!("{:.2}", m.client_cpu_us_per_sample),
                m.settle_cpu_us_per_sample
                    .map_or("?".to_owned(), |cpu| format!("{cpu:.2}")),
                format!("{:.2}", m.bytes_per_sample),
                format!("{:.0}", m.log_mb),
                format!("{:.1}", m.batch_p50_ms),
                format!("{:.1}", m.batch_p99_ms),
                format!("{:.0}", m.rss_mb),
                about.copies.to_string(),
                about.durability.to_owned(),
            ]);
        }
        let fleet = &self.fleet;
        let mut text = format!(
            "{} devices x {} ticks x {} metrics = {} samples; batches of {} ticks, {} clients; median of {} runs, {} \
             spinners{}\n\n{table}\n\n",
            fleet.devices,
            fleet.ticks,
            fleet.metrics,
            fleet.samples(),
            self.batch,
            self.clients,
            self.runs,
            self.spinners,
            if self.debug_build {
                "; A DEBUG BUILD of Tidemark and of the client"
            } else {
                ""
            }
        );
        text += "CPU is of client and servers while loading, per sample; client is its part; settle comes on top until the\n";
        text += "files are at rest, ? where the peer is started again for that. Bytes are of one copy, per sample, at rest, without the\n";
        text += "log, which does not grow with the data and stands beside it.\n\n";
        for row in &self.peers {
            if let Some(about) = &row.about {
                text += &format!("{} {}: {}\n", row.peer, about.version, about.how);
            }
        }
        for row in &self.peers {
            if let Some(reason) = &row.skipped {
                text += &format!("*** SKIPPED: {}: {reason}\n", row.peer);
            }
        }
        text
    }
}
