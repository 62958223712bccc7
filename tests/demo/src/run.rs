//! The demo's story, phase by phase, on one clock. What is measured where:
//!
//! ```text
//! steady      load, probers, sensor files
//! leader      kill -9 of a tablet leader ── leader_gap_ms: longest pause of its tablets' probers
//! region      kill -9 of all of east ────── rpo: scan of west at once; rto_ms: first beat by west, slowest tablet
//! return      east's processes start ────── converge_ms: until each has what the other had then
//! audit       scan of both regions, compared with every acknowledged cell
//! ```

use crate::audit;
use crate::beats::Beats;
use crate::fleet::{Fleet, METRICS};
use crate::load::{Shared, drive, load_series, probe, probe_row};
use crate::options::{Options, Plan};
use crate::progress::{Moment, Progress};
use crate::report::{Report, SettingsReport};
use crate::sensors::read_directory;
use crate::stage::{REGIONS, Stage, TABLE, TABLETS};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tidemark_client::{Client, Digest, WriterOptions, now_micros};
use tidemark_harness::oracle::Acknowledged;
use tidemark_harness::ready::wait_for;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// East and west in the list of regions.
const EAST: usize = 0;
const WEST: usize = 1;

/// A region of three nodes restarts within this.
const READY_MAX: Duration = Duration::from_secs(90);
/// Both regions are equal within this after the load.
const CONVERGE_MAX: Duration = Duration::from_secs(180);
/// Every ticket is settled within this after the load: longer than the client's own deadline.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// A run in progress.
struct Run {
    plan: Plan,
    stage: Stage,
    shared: Arc<Shared>,
    progress: Arc<Progress>,
    probe_rows: Vec<String>,
    sensors: Acknowledged,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<Result<()>>>,
    report: Report,
}

/// Runs everything under `dir`. An error means that the story could not be told to its end; what was lost or unequal is
/// in the report.
pub async fn run(options: &Options, dir: &Path, progress: Arc<Progress>) -> Result<Report> {
    let work = async {
        let mut run = Run::start(options, dir, progress).await?;
        run.steady(options).await?;
        run.lose_leader().await?;
        run.lose_region().await?;
        run.regain_region().await?;
        run.audit().await?;
        anyhow::Ok(run.report)
    };
    let limit = options.deadline();
    tokio::time::timeout(limit, work)
        .await
        .with_context(|| format!("not finished after {} s", limit.as_secs()))?
}

impl Run {
    async fn start(options: &Options, dir: &Path, progress: Arc<Progress>) -> Result<Run> {
        progress.phase("starting two regions of three servers");
        let mut stage = Stage::start(dir, options.devices).await?;
        progress.phase("creating the table, switching replication on");
        stage.set_up().await?;
        let mut probe_rows = vec![probe_row(None)];
        probe_rows.extend(stage.splits.iter().map(|split| probe_row(Some(split))));
        let shared = Arc::new(Shared::new(REGIONS.map(str::to_owned).to_vec(), probe_rows.len()));
        let report = Report {
            settings: SettingsReport {
                seconds: options.seconds,
                seed: options.seed,
                devices: options.devices,
                rate: options.rate,
                tablets: TABLETS,
            },
            ..Report::default()
        };
        let (stop, _) = watch::channel(false);
        let sensors = Acknowledged::default();
        let plan = options.plan();
        Ok(Run {
            plan,
            stage,
            shared,
            progress,
            probe_rows,
            sensors,
            stop,
            tasks: Vec::new(),
            report,
        })
    }

    /// Starts the load and lets it run in peace; loads the sensor files.
    async fn steady(&mut self, options: &Options) -> Result<()> {
        self.progress.phase("steady load, east preferred");
        let end = Instant::now() + self.plan.steady;
        let table = self.stage.table();
        let fleet = Fleet::new(options.seed, options.devices);
        let writer = table.writer(WriterOptions::default());
        self.tasks.push(tokio::spawn(drive(
            self.shared.clone(),
            writer.clone(),
            fleet,
            options.rate,
            self.stop.subscribe(),
        )));
        for (tablet, row) in self.probe_rows.iter().enumerate() {
            // Alone in its batch and sent at once: a beat measures the service, not the batching.
            let alone = WriterOptions {
                linger: Duration::ZERO,
                ..WriterOptions::default()
            };
            let probing = probe(
                self.shared.clone(),
                table.writer(alone),
                tablet,
                row.clone(),
                self.stop.subscribe(),
            );
            self.tasks.push(tokio::spawn(async move {
                probing.await;
                Ok(())
            }));
        }
        self.tasks.push(tokio::spawn(watch_progress(
            self.shared.clone(),
            self.progress.clone(),
            self.stage.app.clone(),
            self.stage.only.clone(),
            self.stop.subscribe(),
        )));
        if let Some(dir) = &options.csv {
            let series = read_directory(dir)?;
            let (sensors, failed) = load_series(&self.shared, &writer, &series).await;
            self.progress.say(&format!(
                "{} sensor files, {} readings acknowledged",
                series.len(),
                sensors.len()
            ));
            ensure!(
                failed == 0,
                "{failed} sensor readings were not acknowledged: {}",
                self.shared.first_error.lock()
            );
            self.sensors = sensors;
        }
        tokio::time::sleep_until(end.into()).await;
        // The first second belongs to connections and caches.
        let now = self.shared.at_micros();
        let gaps = self
            .shared
            .beats
            .iter()
            .map(|beats| beats.lock().gap_micros(1_000_000, now));
        self.report.steady_gap_ms = gaps.max().unwrap_or(0).div_ceil(1_000);
        Ok(())
    }

    /// `kill -9` of a tablet's leader under load; its node comes back while the load goes on.
    async fn lose_leader(&mut self) -> Result<()> {
        let (leader, led) = self.stage.a_leader().await?;
        self.progress.phase(&format!(
            "kill -9 of east's node {leader}, leader of {} of {TABLETS} tablets",
            led.len()
        ));
        let end = Instant::now() + self.plan.leader_lost;
        let east = self.stage.world.region(REGIONS[EAST])?;
        let killed_at = self.shared.at_micros();
        east.node(leader)?.kill()?;
        tokio::time::sleep(self.plan.node_pause).await;
        self.progress.say(&format!("node {leader} of east starts again"));
        east.node(leader)?.start()?;
        east.wait_ready(READY_MAX).await?;
        tokio::time::sleep_until(end.into()).await;
        let now = self.shared.at_micros();
        let gaps = led.iter().map(|tablet| {
            self.shared.beats[*tablet]
                .lock()
                .of_region(EAST as u8)
                .gap_micros(killed_at, now)
        });
        self.report.leader_gap_ms = gaps.max().unwrap_or(0).div_ceil(1_000);
        self.progress
            .say(&format!("longest gap of its tablets: {} ms", self.report.leader_gap_ms));
        Ok(())
    }

    /// `kill -9` of all of east under load: what did west not have, and when does it take writes?
    async fn lose_region(&mut self) -> Result<()> {
        self.progress.phase("kill -9 of all of east");
        let end = Instant::now() + self.plan.region_lost;
        self.report.lag_max_ms = self.shared.lag_max_ms.load(Ordering::Relaxed);
        // Losing a region that nobody writes to would measure nothing.
        self.writes_go_to_east().await?;
        let killed_at = self.shared.at_micros();
        self.stage.world.region(REGIONS[EAST])?.kill_all()?;
        // Every process is gone now: nothing is acknowledged by east after this moment.
        let dead_at = self.shared.at_micros();
        let shown = audit::scan(&self.stage.only[WEST], &self.shared);
        let (rto, shown) = tokio::join!(self.first_beats(killed_at), shown);
        self.report.rto_ms = (rto? - killed_at).div_ceil(1_000);
        let (count, oldest) = audit::missing_of_east(&self.shared, &self.probe_rows, &shown?);
        self.report.rpo_writes = count;
        // The ledger notes an acknowledgement a moment after it came, so a missing write is at least a millisecond old.
        self.report.rpo_ms = oldest.map_or(0, |at| dead_at.saturating_sub(at).div_ceil(1_000).max(1));
        self.progress.say(&format!(
            "west took over after {} ms; {count} writes that east had acknowledged were not there yet",
            self.report.rto_ms
        ));
        tokio::time::sleep_until(end.into()).await;
        Ok(())
    }

    /// Waits until every tablet's last acknowledged beat came from east.
    async fn writes_go_to_east(&self) -> Result<()> {
        let in_east = || async {
            let last = |beats: &parking_lot::Mutex<Beats>| beats.lock().all().last().map(|b| usize::from(b.region));
            let all = self.shared.beats.iter().all(|beats| last(beats) == Some(EAST));
            Ok(all.then_some(()))
        };
        wait_for("the load to write to east again", SETTLE_MAX, in_east).await
    }

    /// Waits until each region has applied whatever the other had acknowledged at `moment`, by both regions' own account.
    async fn caught_up(&self, moment_micros: i64) -> Result<()> {
        let done = || async {
            let links = self.stage.links().await?;
            Ok(links
                .iter()
                .all(|l| l.acknowledged_micros >= moment_micros)
                .then_some(()))
        };
        wait_for(
            "both regions to have what the other had at the return",
            CONVERGE_MAX,
            done,
        )
        .await
    }

    /// When west had acknowledged a beat of every tablet.
    async fn first_beats(&self, killed_at: u64) -> Result<u64> {
        let first = || async {
            let west = WEST as u8;
            let firsts = self.shared.beats.iter().map(|b| b.lock().first_by(west, killed_at));
            Ok(firsts
                .collect::<Option<Vec<u64>>>()
                .and_then(|all| all.into_iter().max()))
        };
        wait_for("west to acknowledge a write of every tablet", SETTLE_MAX, first).await
    }

    /// East comes back; the load goes on a while, ends, and both regions become equal.
    async fn regain_region(&mut self) -> Result<()> {
        self.progress.phase("east's servers start again");
        let began = Instant::now();
        let returned_micros = now_micros();
        let east = self.stage.world.region(REGIONS[EAST])?;
        east.start_all()?;
        east.wait_ready(READY_MAX).await?;
        self.report.region_ready_ms = millis(began.elapsed());
        self.progress
            .say(&format!("east is ready after {} ms", self.report.region_ready_ms));
        self.caught_up(returned_micros).await?;
        self.report.converge_ms = millis(began.elapsed());
        self.progress.say(&format!(
            "both have what the other had, {} ms after east's start",
            self.report.converge_ms
        ));
        tokio::time::sleep_until((began + self.plan.region_back).into()).await;
        self.end_load().await?;
        let ended = Instant::now();
        self.progress.phase("waiting until both regions are equal");
        let equal = wait_for("both regions to be equal", CONVERGE_MAX, || self.compare()).await;
        self.report.settle_ms = millis(ended.elapsed());
        match equal {
            Ok(()) => self
                .progress
                .say(&format!("equal {} ms after the load ended", self.report.settle_ms)),
            // Not the end of the story: the audit tells what is lost.
            Err(e) => self.report.troubles.push(format!("{e:#}")),
        }
        Ok(())
    }

    async fn end_load(&mut self) -> Result<()> {
        self.progress.phase("the load ends");
        self.stop.send_replace(true);
        for task in self.tasks.drain(..) {
            tokio::time::timeout(SETTLE_MAX, task)
                .await
                .context("a part of the load did not end")???;
        }
        Ok(())
    }

    /// `Some` if nothing is in flight between the regions and their digests are the same.
    async fn compare(&self) -> Result<Option<()>> {
        for (link, name) in self.stage.links().await?.iter().zip(REGIONS) {
            // The backlog is never empty for long: idle tablets go on telling that nothing is missing.
            ensure!(
                link.lag_ms == 0 && link.state == "STREAMING",
                "{name} is {} {}: lag {} ms",
                link.state,
                link.cause,
                link.lag_ms
            );
        }
        let [east, west] = self.digests().await?;
        ensure!(
            east == west,
            "digests differ: east {}, west {}",
            describe(&east),
            describe(&west)
        );
        Ok(Some(()))
    }

    async fn digests(&self) -> Result<[Digest; 2]> {
        let now = now_micros();
        let [east, west] = [EAST, WEST].map(|region| self.stage.only[region].table(TABLE));
        let (east, west) = tokio::join!(east.digest(Vec::new(), Some(now)), west.digest(Vec::new(), Some(now)));
        Ok([east?, west?])
    }

    /// Both regions against every acknowledged cell, and against each other.
    async fn audit(&mut self) -> Result<()> {
        self.progress.phase("auditing both regions cell by cell");
        let digests = self.digests().await?;
        for (index, digest) in digests.iter().enumerate() {
            let shown = audit::scan(&self.stage.only[index], &self.shared).await?;
            let (mut region, examples) = audit::full(&self.shared, &self.probe_rows, &self.sensors, shown);
            region.name = REGIONS[index].to_owned();
            region.rows = digest.rows;
            region.cells = digest.cells;
            region.content_hash = hex(&digest.content_hash);
            region.stamps_hash = hex(&digest.stamps_hash);
            for example in examples.iter().take(6) {
                self.report
                    .troubles
                    .push(format!("{} lacks or changed: {example}", region.name));
            }
            self.report.regions.push(region);
        }
        self.count_writes();
        self.report.judge();
        Ok(())
    }

    fn count_writes(&mut self) {
        let totals = self.shared.ledger.lock().totals();
        let probes: u64 = self.shared.beats.iter().map(|b| b.lock().all().len() as u64).sum();
        let writes = &mut self.report.writes;
        writes.ticks_issued = totals.issued;
        writes.ticks_acknowledged = totals.acknowledged;
        writes.ticks_refused = totals.refused;
        writes.ticks_unknown = totals.unknown;
        writes.ticks_skipped = self.shared.skipped.load(Ordering::Relaxed);
        writes.probes_acknowledged = probes;
        writes.sensor_cells_acknowledged = self.sensors.len() as u64;
        writes.cells_acknowledged = totals.acknowledged * METRICS as u64 + probes + self.sensors.len() as u64;
        writes.first_error = self.shared.first_error.lock().clone();
    }
}

/// Shows the moment twice a second until the load ends.
async fn watch_progress(
    shared: Arc<Shared>,
    progress: Arc<Progress>,
    app: Client,
    only: Vec<Client>,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    const EVERY: Duration = Duration::from_millis(500);
    let mut before = 0;
    while !*stop.borrow() {
        tokio::time::sleep(EVERY).await;
        let acknowledged = shared.acknowledged.load(Ordering::Relaxed);
        let active = app.active_region();
        let index = REGIONS.iter().position(|r| *r == active).unwrap_or(EAST);
        let admin = only[index].admin();
        // A region that just died would hold the display up; the lag is then simply not known.
        let status = tokio::time::timeout(EVERY, admin.replication_status(Some(TABLE), false)).await;
        let links = status.ok().and_then(Result::ok).unwrap_or_default();
        let lag_ms = links.first().map(|l| l.lag_ms);
        shared.lag_max_ms.fetch_max(lag_ms.unwrap_or(0), Ordering::Relaxed);
        let rate = (acknowledged - before) * 1_000 / u64::try_from(EVERY.as_millis()).unwrap_or(1);
        progress.show(&Moment {
            acknowledged,
            rate,
            lag_ms,
            active,
        });
        before = acknowledged;
    }
    Ok(())
}

fn describe(digest: &Digest) -> String {
    format!(
        "{} rows {} cells {}",
        digest.rows,
        digest.cells,
        hex(&digest.content_hash)
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
