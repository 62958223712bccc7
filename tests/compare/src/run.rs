//! The order of things: run by run, in each run peer by peer.

use crate::load::{self, Loaded, Sender};
use crate::package::{Shelf, say};
use crate::peers::{self, About, Peer, Site};
use crate::spin::Spinners;
use crate::verdict::{Figures, Row, Verdict};
use anyhow::{Context, Result, ensure};
use clap::Parser;
use std::path::PathBuf;
use tidemark_bench::fleet::Fleet;
use tidemark_bench::meter::{Cost, Meter, usage};

/// Loads the same rows into Tidemark and other stores and prints one table
#[derive(Clone, Debug, Parser)]
#[command(name = "tidemark-compare", max_term_width = 110)]
pub struct Options {
    /// Only these peers; all of them by default
    #[arg(long, value_delimiter = ',')]
    pub peer: Vec<String>,
    /// Values that each peer gets, about: a whole number of ticks a device
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000_000))]
    pub samples: u64,
    /// Devices; each is a row, or ten series
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub devices: u64,
    /// Ticks of a batch
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub batch: u64,
    /// Clients that send at once
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub clients: u64,
    /// How often everything is done; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=99))]
    pub runs: u64,
    /// Write all figures of all runs to a file
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Where packages are kept between runs
    #[arg(long, default_value = "target/compare")]
    pub packages: PathBuf,
    /// Where the peers' data goes meanwhile; a temporary directory by default
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// No idle-priority loops beside the load
    #[arg(long)]
    pub no_spinners: bool,
}

impl Options {
    fn fleet(&self) -> Fleet {
        let metrics = Fleet::of(1, 1).metrics;
        Fleet::of(self.devices, (self.samples / self.devices / metrics).max(1))
    }

    fn names(&self) -> Result<Vec<String>> {
        for name in &self.peer {
            ensure!(
                peers::NAMES.contains(&name.as_str()),
                "there is no peer {name:?}; there are {}",
                peers::NAMES.join(", ")
            );
        }
        if self.peer.is_empty() {
            return Ok(peers::NAMES.iter().map(|name| (*name).to_owned()).collect());
        }
        Ok(self.peer.clone())
    }
}

/// Compares, and says what came of it.
pub fn run(options: &Options) -> Result<Verdict> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let place = match &options.dir {
        Some(dir) => tempfile::Builder::new().prefix("compare-").tempdir_in(dir)?,
        None => tempfile::Builder::new().prefix("compare-").tempdir()?,
    };
    std::fs::create_dir_all(&options.packages)?;
    let fleet = options.fleet();
    let spinners = if options.no_spinners {
        None
    } else {
        Some(Spinners::start()?)
    };
    let mut verdict = Verdict::new(&fleet, options, spinners.as_ref().map_or(0, Spinners::count));
    let mut names = options.names()?;
    for run in 1..=options.runs {
        for name in names.clone() {
            let dir = place.path().join(format!("{name}-{run}"));
            std::fs::create_dir_all(&dir)?;
            let site = Site {
                shelf: Shelf::new(options.packages.canonicalize()?),
                dir: dir.clone(),
                fleet: fleet.clone(),
                batch: options.batch,
                runtime: runtime.handle().clone(),
            };
            match one(&name, &site, options) {
                Ok((about, figures)) => {
                    say(&format!("run {run}, {name}: {}", figures.line()));
                    verdict.add(&name, about, figures);
                }
                Err(error) => {
                    let reason = format!("{error:#}");
                    say(&format!("*** SKIPPED: {name}: {reason}"));
                    verdict.skip(&name, reason);
                    names.retain(|other| *other != name);
                }
            }
            std::fs::remove_dir_all(&dir)?;
        }
    }
    drop(spinners);
    Ok(verdict)
}

/// One peer, once: from nothing to nothing.
fn one(name: &str, site: &Site, options: &Options) -> Result<(About, Figures)> {
    let mut peer = peers::start(name, site)?;
    let result = measure(peer.as_mut(), site, options);
    let about = peer.about();
    let stopped = peer.stop();
    let figures = result?;
    stopped.with_context(|| format!("{name} does not end"))?;
    Ok((about, figures))
}

fn measure(peer: &mut dyn Peer, site: &Site, options: &Options) -> Result<Figures> {
    let senders: Vec<Box<dyn Sender>> = (0..options.clients).map(|_| peer.sender()).collect::<Result<_>>()?;
    let pids = peer.pids();
    let meters = Meters {
        peer: Meter::start(&pids)?,
        clients: Meter::start(&peer.client_pids())?,
    };
    let loaded = load::run(&site.fleet, site.batch as usize, senders)?;
    let cost = meters.cost()?;
    peer.settle().context("bringing it to rest")?;
    // A peer that was started again to come to rest has other processes: what that cost is not known.
    let settled = meters.cost().ok();
    let found = peer.samples().context("counting what it has")?;
    if let Some(found) = found {
        ensure!(
            found == loaded.samples,
            "it says that it has {found} samples; it was sent {}",
            loaded.samples
        );
    }
    let copies = u64::from(peer.about().copies);
    let log = peer.log_bytes()?;
    let bytes = (peer.disk_bytes()? - log) / copies;
    let mut figures = figures(loaded, cost, settled, pids.is_empty())?;
    figures.bytes_per_sample = bytes as f64 / loaded.samples as f64;
    figures.log_mb = (log / copies) as f64 / 1e6;
    Ok(figures)
}

/// The peer and this process, and what of the client runs in processes of its own.
struct Meters {
    peer: Meter,
    clients: Meter,
}

impl Meters {
    fn cost(&self) -> std::io::Result<Cost> {
        let mut cost = self.peer.cost()?;
        // To their meter they are servers; this process is in the other one already.
        cost.client_cpu_s += self.clients.cost()?.server_cpu_s;
        Ok(cost)
    }
}

fn figures(loaded: Loaded, cost: Cost, settled: Option<Cost>, in_process: bool) -> Result<Figures> {
    let samples = loaded.samples as f64;
    let cpu = |cost: &Cost| (cost.server_cpu_s + cost.client_cpu_s) * 1e6 / samples;
    let rss = if in_process {
        usage(std::process::id())?.rss_bytes_max
    } else {
        cost.server_rss_bytes_max
    };
    Ok(Figures {
        samples_per_s: samples / loaded.elapsed.as_secs_f64(),
        cpu_us_per_sample: cpu(&cost),
        client_cpu_us_per_sample: cost.client_cpu_s * 1e6 / samples,
        settle_cpu_us_per_sample: settled.map(|settled| (cpu(&settled) - cpu(&cost)).max(0.0)),
        bytes_per_sample: 0.0,
        log_mb: 0.0,
        batch_p50_ms: loaded.latency.p50,
        batch_p99_ms: loaded.latency.p99,
        rss_mb: rss as f64 / 1e6,
    })
}

/// A peer's row of the verdict is the median of its runs, figure by figure.
pub fn median(row: &Row) -> Option<Figures> {
    let of = |figure: fn(&Figures) -> f64| middle(row.runs.iter().map(figure).collect());
    let settle: Vec<f64> = row.runs.iter().filter_map(|f| f.settle_cpu_us_per_sample).collect();
    Some(Figures {
        samples_per_s: of(|f| f.samples_per_s)?,
        cpu_us_per_sample: of(|f| f.cpu_us_per_sample)?,
        client_cpu_us_per_sample: of(|f| f.client_cpu_us_per_sample)?,
        settle_cpu_us_per_sample: middle(settle),
        bytes_per_sample: of(|f| f.bytes_per_sample)?,
        log_mb: of(|f| f.log_mb)?,
        batch_p50_ms: of(|f| f.batch_p50_ms)?,
        batch_p99_ms: of(|f| f.batch_p99_ms)?,
        rss_mb: of(|f| f.rss_mb)?,
    })
}

fn middle(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    let half = numbers.len() / 2;
    match numbers.len() {
        0 => None,
        n if n % 2 == 1 => Some(numbers[half]),
        _ => Some((numbers[half - 1] + numbers[half]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(middle(vec![]), None);
        assert_eq!(middle(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(middle(vec![4.0, 1.0]), Some(2.5));
    }

    #[test]
    fn samples_are_whole_ticks_of_all_devices_and_peers_have_names() {
        let options = Options::parse_from(["compare", "--samples", "1000000", "--devices", "100"]);
        assert_eq!(options.fleet().samples(), 1_000_000);
        assert_eq!(options.names().unwrap().len(), peers::NAMES.len());
        let wrong = Options::parse_from(["compare", "--peer", "mongodb"]);
        assert!(wrong.names().unwrap_err().to_string().contains("victoria-metrics"));
    }
}
