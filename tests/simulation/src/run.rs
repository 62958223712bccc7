//! One run: setup, faults, heal, liveness, audit. The driver steps the world, applies the plan and looks at the invariants.

use crate::control::{Control, Stage};
use crate::faults::{Faults, PATIENCE};
use crate::invariants::Invariants;
use crate::plan::{self, Planned};
use crate::site::{self, NODES, REGIONS, Shape, Site};
use crate::trace::Trace;
use crate::{audit, chance, judge, lag, rivals, workload};
use anyhow::{Context, Result, anyhow, ensure};
use parking_lot::Mutex;
use rand::Rng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tidemark_checkers::Recorder;
use tidemark_checkers::history::{Mark as MarkRecord, Record, Run};
use tidemark_checkers::plan::CONFLICT_SEEN;
use tidemark_runtime::Mark;
use turmoil::Sim;

/// Simulated time that hosts run in one go; messages arrive at its multiples.
const TICK: Duration = Duration::from_millis(2);
/// Steps between two looks at the invariants.
const LOOK_EVERY: u64 = 10;
/// How long the world may take to begin.
const SETUP_LIMIT: Duration = Duration::from_secs(60);
/// After the heal each region serves within this. Broken connections are noticed within five seconds, then leaders are
/// elected, then clients find them.
pub(crate) const SERVE_LIMIT: Duration = Duration::from_secs(30);
/// How long clients go on after the heal.
const CALM: Duration = Duration::from_secs(2);
/// Regions are equal and everything acknowledged is shown within this after the clients have stopped.
pub(crate) const AUDIT_LIMIT: Duration = Duration::from_secs(90);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seed.
    pub seed: u64,
    /// How long faults come and go.
    pub faults: Duration,
    /// Without faults, for measuring and for the first look at a problem.
    pub calm: bool,
    /// Where the history goes.
    pub history: Option<PathBuf>,
}

/// What a run says of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// How many regions it has.
    pub regions: usize,
    /// What is wrong; empty = nothing.
    pub failure: String,
    /// The trace's hash.
    pub trace: String,
    /// Events in the trace.
    pub events: u64,
    /// Operations of clients.
    pub asked: u64,
    /// Those that succeeded.
    pub succeeded: u64,
    /// Faults, with what showed their effect.
    pub faults: Vec<String>,
    /// Marks that fired, with how often: those of the product, and that of conflicts, which the history has.
    pub marks: BTreeMap<String, u64>,
    /// Looks at the invariants, by invariant, with what was compared.
    pub looked_at: BTreeMap<String, u64>,
    /// What the checkers looked at.
    pub judged: BTreeMap<String, u64>,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// From the heal until each region served again, simulated milliseconds.
    pub served_again_ms: u64,
    /// From the stop of the clients until the audit was done, simulated milliseconds.
    pub audited_ms: u64,
    /// CPU milliseconds.
    pub cpu_ms: u64,
}

/// Names of all marks that a large enough batch of seeds must have.
pub fn marks() -> impl Iterator<Item = &'static str> {
    Mark::ALL.iter().map(|mark| mark.name()).chain([CONFLICT_SEEN])
}

/// The history while it is made.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs a seed.
pub fn run(options: &Options) -> Outcome {
    let buffer = Buffer::default();
    let trace = Trace::new();
    let control = Control::new(Recorder::new(buffer.clone()), trace.clone());
    let shape = Shape::of(options.seed);
    let plan = match options.calm {
        true => Vec::new(),
        false => plan::plan(options.seed, options.faults),
    };
    let mut outcome = Outcome {
        seed: options.seed,
        regions: shape.regions,
        ..Outcome::default()
    };
    let mut driven = drive(options, &shape, &plan, &control, &mut outcome);
    outcome.simulated_ms = crate::time::elapsed().as_millis() as u64;
    (outcome.asked, outcome.succeeded) = control.totals();
    for mark in Mark::ALL {
        let count = tidemark_runtime::marks::count(*mark);
        if count > 0 {
            outcome.marks.insert(mark.name().to_owned(), count);
            let at = crate::time::nanos();
            let name = mark.name().to_owned();
            control.recorder.write(&Record::Mark(MarkRecord { name, at, count }));
        }
    }
    if driven.is_ok() {
        let closed = judge::close(&control);
        let history = buffer.0.lock().clone();
        driven = closed.and_then(|()| judge::judge(&shape, &plan, &history, &control, &mut outcome));
    }
    let (hash, events) = trace.sum();
    (outcome.trace, outcome.events) = (format!("{hash:016x}"), events);
    if let Err(error) = driven {
        outcome.failure = format!("{error:#}");
    }
    if let Some(path) = &options.history
        && let Err(error) = std::fs::write(path, &*buffer.0.lock())
    {
        eprintln!("the history cannot be written to {}: {error}", path.display());
    }
    outcome
}

/// A world of hosts that are not running yet, and their links.
fn world<'a>(seed: u64, regions: usize, sites: &[Arc<Site>]) -> Sim<'a> {
    let mut rng = chance::stream(seed, "world");
    let mut sim = turmoil::Builder::new()
        .rng_seed(rng.random())
        .epoch(std::time::UNIX_EPOCH + Duration::from_secs(crate::time::EPOCH_SECONDS))
        .tick_duration(TICK)
        .simulation_duration(Duration::from_secs(24 * 3_600))
        .min_message_latency(Duration::from_micros(200))
        .max_message_latency(Duration::from_millis(rng.random_range(3..15)))
        .tcp_capacity(4_096)
        .enable_random_order()
        .build();
    for site in sites {
        let own = site.clone();
        sim.host(site.name.as_str(), move || own.clone().live());
    }
    for (a, b) in site::pairs(regions) {
        let wan = Duration::from_millis(rng.random_range(5..80));
        for (here, there) in (1..=NODES).flat_map(|here| (1..=NODES).map(move |there| (here, there))) {
            sim.set_link_latency(site::name(a, here), site::name(b, there), wan);
        }
    }
    sim
}

fn drive(options: &Options, shape: &Shape, plan: &[Planned], control: &Control, outcome: &mut Outcome) -> Result<()> {
    let (seed, regions) = (options.seed, shape.regions);
    let root = tempfile::Builder::new()
        .prefix("tidemark-simulation-")
        .tempdir_in(files())?;
    let places = (0..regions).flat_map(|region| (1..=NODES).map(move |node| (region, node)));
    let sites: Vec<Arc<Site>> = places
        .map(|(region, node)| Site::new(shape, region, node, root.path(), &control.trace))
        .collect();
    control.recorder.write(&Record::Run(Run {
        format: tidemark_checkers::history::FORMAT,
        name: "simulation".into(),
        seed,
        regions: REGIONS[..regions].iter().map(|name| (*name).to_owned()).collect(),
        tables: audit::tables(regions),
        command: format!("./x simulate --seed {seed}"),
    }));
    let mut sim = world(seed, regions, &sites);
    sim.client("setup", audit::setup(regions, control.clone()));
    for (region, name) in REGIONS.iter().enumerate().take(regions) {
        for (number, host) in workload::clients(region).enumerate() {
            sim.client(host, workload::run(seed, region, number as u64, control.clone()));
        }
        sim.client(
            format!("rival-{name}"),
            rivals::run(seed, region, regions, control.clone()),
        );
        sim.client(format!("lag-{name}"), lag::listen(region, control.clone()));
    }
    sim.client("schema", audit::change_schema(seed, regions, control.clone()));
    let mut driver = Driver {
        sim,
        control,
        faults: Faults::new(sites.clone(), plan.to_vec(), control.trace.clone()),
        invariants: Invariants::new(sites.clone()),
        sites,
        regions,
        steps: 0,
    };
    let driven = driver.all(options, outcome);
    outcome.looked_at = driver.invariants.counts();
    outcome.faults = driver.faults.report(&control.recorder);
    driven?;
    check_effects(plan, &driver.faults)
}

/// Where the few real files go (the catalog's, the identity's): into memory where the machine offers that. They lose nothing
/// in a crash, and what their syncs cost a disk proves nothing.
fn files() -> PathBuf {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => memory.to_owned(),
        false => std::env::temp_dir(),
    }
}

fn check_effects(plan: &[Planned], faults: &Faults) -> Result<()> {
    let without: Vec<&str> = plan
        .iter()
        .filter(|planned| faults.effect(&planned.id).is_none())
        .map(|planned| planned.id.as_str())
        .collect();
    ensure!(
        without.is_empty(),
        "planned faults without an observable effect: {without:?}"
    );
    Ok(())
}

struct Driver<'a> {
    sim: Sim<'static>,
    control: &'a Control,
    faults: Faults,
    invariants: Invariants,
    sites: Vec<Arc<Site>>,
    regions: usize,
    steps: u64,
}

impl Driver<'_> {
    fn all(&mut self, options: &Options, outcome: &mut Outcome) -> Result<()> {
        let control = self.control;
        self.until(SETUP_LIMIT, "the regions to begin", |_| control.stage() >= Stage::Begin)?;
        self.faults.begin(self.sim.elapsed());
        self.go_on(options.faults, |_| false)?;
        // What has not been seen yet is waited for; what is not seen by then fails the run in the end.
        self.go_on(2 * PATIENCE, |driver| driver.faults.all_done())?;
        self.faults.heal(&mut self.sim);
        control.enter(Stage::Healed);
        let healed = self.sim.elapsed();
        self.until(
            SERVE_LIMIT,
            "each region to read and write each table after the heal",
            |driver| {
                (0..driver.regions)
                    .all(|region| control.has_served(region, &[workload::SHARED, &workload::own_table(region)]))
            },
        )?;
        outcome.served_again_ms = (self.sim.elapsed() - healed).as_millis() as u64;
        self.go_on(CALM, |_| false)?;
        control.enter(Stage::Quiet);
        let quiet = self.sim.elapsed();
        self.sim
            .client("audit", audit::audit(self.regions, control.clone(), self.sites.clone()));
        self.until(AUDIT_LIMIT, "the audit", |_| control.stage() == Stage::End)?;
        outcome.audited_ms = (self.sim.elapsed() - quiet).as_millis() as u64;
        self.invariants.look_at_the_end()
    }

    fn go_on(&mut self, at_most: Duration, enough: impl Fn(&Self) -> bool) -> Result<()> {
        let until = self.sim.elapsed() + at_most;
        while self.sim.elapsed() < until && !enough(self) {
            self.step()?;
        }
        Ok(())
    }

    fn until(&mut self, limit: Duration, what: &str, reached: impl Fn(&Self) -> bool) -> Result<()> {
        let until = self.sim.elapsed() + limit;
        while !reached(self) {
            let awaited = self.control.awaited();
            ensure!(self.sim.elapsed() < until, "waited {limit:?} for {what}; {awaited}");
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        self.steps += 1;
        let now = self.sim.elapsed();
        let world = std::cell::RefCell::new(&mut self.sim);
        crate::time::step(|| world.borrow_mut().step(), || world.borrow().elapsed())
            .map_err(|error| anyhow!("{error}"))
            .with_context(|| format!("at {now:?}"))?;
        self.faults.step(&mut self.sim);
        if self.steps.is_multiple_of(LOOK_EVERY) {
            for site in &self.sites {
                if let Some(why) = site.refused() {
                    ensure!(
                        self.faults.may_refuse(&site.name),
                        "{} does not start: {why}",
                        site.name
                    );
                }
            }
            self.invariants
                .look(self.steps / LOOK_EVERY)
                .with_context(|| format!("at {now:?}"))?;
        }
        ensure!(
            !crate::panics::any(),
            "something panicked at {now:?}; see standard error"
        );
        Ok(())
    }
}
