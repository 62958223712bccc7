//! One run: setup, faults, heal, liveness, audit. The driver steps the world, applies the plan and looks at the invariants.

use crate::chance;
use crate::faults::Faults;
use crate::invariants::Invariants;
use crate::plan::{self, Planned};
use crate::site::{self, NODES, REGIONS, Shape, Site};
use crate::trace::Trace;
use crate::{audit, workload};
use anyhow::{Context, Result, anyhow, ensure};
use parking_lot::Mutex;
use rand::Rng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tidemark_checkers::Recorder;
use tidemark_checkers::history::{Mark as MarkRecord, Phase, PhaseName, Record, Run};
use tidemark_checkers::{FinalState, History, Plan as JudgedBy};
use tidemark_runtime::Mark;
use tokio::sync::watch;
use turmoil::Sim;

/// Simulated time that hosts run in one go; messages arrive at its multiples.
const TICK: Duration = Duration::from_millis(2);
/// Steps between two looks at the invariants.
const LOOK_EVERY: u64 = 10;
/// How long the world may take to begin.
const SETUP_LIMIT: Duration = Duration::from_secs(60);
/// After the heal each region serves within this. Broken connections are noticed within five seconds, then leaders are
/// elected, then clients find them.
const SERVE_LIMIT: Duration = Duration::from_secs(30);
/// How long clients go on after the heal.
const CALM: Duration = Duration::from_secs(2);
/// Regions are equal and everything acknowledged is shown within this after the clients have stopped.
const AUDIT_LIMIT: Duration = Duration::from_secs(90);

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Tables are made.
    Setup,
    /// Clients write, faults come and go.
    Begin,
    /// All faults are undone; clients go on.
    Healed,
    /// Clients stop.
    Quiet,
    /// The audit is done.
    End,
}

/// What the driver and the clients share.
#[derive(Clone)]
pub struct Control {
    stage: Arc<watch::Sender<Stage>>,
    counts: Arc<Mutex<Counts>>,
    finals: Arc<Mutex<Vec<FinalState>>>,
    /// The history.
    pub recorder: Recorder,
    /// The trace.
    pub trace: Trace,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    asked: u64,
    succeeded: u64,
    /// Clients that have not ended.
    clients: u64,
    /// By region, writes and reads, since the last change of stage.
    served: BTreeMap<(usize, bool), u64>,
}

impl Control {
    /// The stage.
    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Returns when the run is there.
    pub async fn reached(&self, stage: Stage) {
        let mut stages = self.stage.subscribe();
        // The driver holds the sender as long as there are hosts.
        let _ = stages.wait_for(|now| *now >= stage).await;
    }

    /// Goes on to the next stage.
    pub fn enter(&self, stage: Stage) {
        self.counts.lock().served.clear();
        self.trace.event("stage", format!("{stage:?}").as_bytes());
        self.stage.send_replace(stage);
        let names: &[PhaseName] = match stage {
            Stage::Setup => &[],
            Stage::Begin => &[PhaseName::Begin, PhaseName::Faults],
            Stage::Healed => &[PhaseName::Healed],
            Stage::Quiet => &[PhaseName::Quiet],
            Stage::End => &[PhaseName::Converged, PhaseName::End],
        };
        let at = crate::time::nanos();
        for name in names {
            self.recorder.write(&Record::Phase(Phase { name: *name, at }));
        }
    }

    /// Hands in what each region shows in the end.
    pub fn finish(&self, finals: Vec<FinalState>) {
        *self.finals.lock() = finals;
    }

    /// A client has begun.
    pub fn join(&self) {
        self.counts.lock().clients += 1;
    }

    /// A client has ended.
    pub fn leave(&self) {
        self.counts.lock().clients -= 1;
    }

    /// Clients that have not ended.
    pub fn clients(&self) -> u64 {
        self.counts.lock().clients
    }

    /// Counts an operation of a client.
    pub fn note(&self, region: usize, write: bool, succeeded: bool) {
        let mut counts = self.counts.lock();
        counts.asked += 1;
        counts.succeeded += u64::from(succeeded);
        *counts.served.entry((region, write)).or_default() += u64::from(succeeded);
    }
}

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
    pub history: Option<std::path::PathBuf>,
}

/// What a run says of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
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
    /// Marks that fired, with how often.
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
    let control = Control {
        stage: Arc::new(watch::Sender::new(Stage::Setup)),
        counts: Arc::default(),
        finals: Arc::default(),
        recorder: Recorder::new(buffer.clone()),
        trace: trace.clone(),
    };
    let mut outcome = Outcome {
        seed: options.seed,
        ..Outcome::default()
    };
    let mut driven = drive(options, &control, &mut outcome);
    outcome.simulated_ms = crate::time::elapsed().as_millis() as u64;
    let counts = control.counts.lock().clone();
    (outcome.asked, outcome.succeeded) = (counts.asked, counts.succeeded);
    for mark in Mark::ALL {
        let count = tidemark_runtime::marks::count(*mark);
        if count > 0 {
            outcome.marks.insert(mark.name().to_owned(), count);
            let at = crate::time::nanos();
            let name = mark.name().to_owned();
            control.recorder.write(&Record::Mark(MarkRecord { name, at, count }));
        }
    }
    if driven.is_ok() && counts.succeeded * 10 < counts.asked {
        driven = Err(anyhow!(
            "only {} of {} operations succeeded",
            counts.succeeded,
            counts.asked
        ));
    }
    if driven.is_ok() {
        driven = judge(options, &buffer, &control, &mut outcome);
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

/// The checkers' verdict over the history and what each region shows.
fn judge(options: &Options, buffer: &Buffer, control: &Control, outcome: &mut Outcome) -> Result<()> {
    control
        .recorder
        .close()
        .map_err(|error| anyhow!("the history is not whole: {error}"))?;
    let bytes = buffer.0.lock().clone();
    let history = History::read(&bytes[..]);
    let faults = if options.calm {
        Vec::new()
    } else {
        plan::plan(options.seed, options.faults)
    };
    let plan = JudgedBy {
        clock_margin: 2 * plan::greatest_offset(&faults).as_nanos() as u64 + 2_000_000,
        writes_min: 100,
        reads_min: 30,
        success_percent_min: 10,
        linearizable_rows_min: 4,
        faults: faults.into_iter().map(|planned| planned.id).collect(),
        finals: REGIONS.len(),
        serve_within: SERVE_LIMIT.as_nanos() as u64,
        converge_within: AUDIT_LIMIT.as_nanos() as u64,
        ..JudgedBy::default()
    };
    let report = tidemark_checkers::check(&history, &control.finals.lock(), &[], &plan);
    outcome.judged = report.counts.iter().map(|(what, n)| ((*what).to_owned(), *n)).collect();
    ensure!(report.passed(), "{report}");
    Ok(())
}

fn shape(seed: u64) -> Shape {
    let mut rng = chance::stream(seed, "shape");
    Shape {
        seed,
        flush_bytes: rng.random_range(2..40) << 10,
        lag_entries: rng.random_range(8..200),
        garbage_ms: if rng.random_bool(0.5) {
            3_600_000
        } else {
            rng.random_range(2_000..10_000)
        },
    }
}

/// A world of hosts that are not running yet, and their links.
fn world<'a>(seed: u64, sites: &[Arc<Site>]) -> Sim<'a> {
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
    let wan = Duration::from_millis(rng.random_range(5..80));
    for (east, west) in (1..=NODES).flat_map(|e| (1..=NODES).map(move |w| (e, w))) {
        sim.set_link_latency(site::name(0, east), site::name(1, west), wan);
    }
    sim
}

fn drive(options: &Options, control: &Control, outcome: &mut Outcome) -> Result<()> {
    let seed = options.seed;
    let root = tempfile::Builder::new().prefix("tidemark-simulation-").tempdir()?;
    let shape = shape(seed);
    let places = (0..REGIONS.len()).flat_map(|region| (1..=NODES).map(move |node| (region, node)));
    let sites: Vec<Arc<Site>> = places
        .map(|(region, node)| Site::new(&shape, region, node, root.path(), &control.trace))
        .collect();
    let plan = if options.calm {
        Vec::new()
    } else {
        plan::plan(seed, options.faults)
    };
    control.recorder.write(&Record::Run(Run {
        format: tidemark_checkers::history::FORMAT,
        name: "simulation".into(),
        seed,
        regions: REGIONS.map(str::to_owned).to_vec(),
        tables: audit::tables(),
        command: format!("./x simulate --seed {seed}"),
    }));
    let mut sim = world(seed, &sites);
    sim.client("setup", audit::setup(control.clone()));
    for (region, name) in REGIONS.iter().enumerate() {
        for number in 0..workload::CLIENTS {
            let client = workload::run(seed, region, number, control.clone());
            sim.client(format!("client-{name}-{number}"), client);
        }
    }
    sim.client("schema", audit::change_schema(seed, control.clone()));
    let mut driver = Driver {
        sim,
        control,
        faults: Faults::new(sites.clone(), plan.clone(), control.trace.clone()),
        invariants: Invariants::new(sites.clone()),
        sites,
        steps: 0,
    };
    let driven = driver.all(options, outcome);
    outcome.looked_at = driver.invariants.counts();
    outcome.faults = driver.faults.report(&control.recorder);
    driven?;
    check_effects(&plan, &driver.faults)
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
    steps: u64,
}

impl Driver<'_> {
    fn all(&mut self, options: &Options, outcome: &mut Outcome) -> Result<()> {
        let control = self.control;
        self.until(SETUP_LIMIT, "the regions to begin", |_| control.stage() >= Stage::Begin)?;
        self.faults.begin(self.sim.elapsed());
        self.go_on(options.faults)?;
        self.faults.heal(&mut self.sim);
        control.enter(Stage::Healed);
        let healed = self.sim.elapsed();
        self.until(SERVE_LIMIT, "each region to read and write after the heal", |_| {
            let counts = control.counts.lock();
            (0..REGIONS.len()).all(|region| {
                [true, false]
                    .iter()
                    .all(|write| counts.served.get(&(region, *write)).is_some_and(|n| *n > 0))
            })
        })?;
        outcome.served_again_ms = (self.sim.elapsed() - healed).as_millis() as u64;
        self.go_on(CALM)?;
        control.enter(Stage::Quiet);
        let quiet = self.sim.elapsed();
        self.sim
            .client("audit", audit::audit(control.clone(), self.sites.clone()));
        self.until(AUDIT_LIMIT, "the audit", |_| control.stage() == Stage::End)?;
        outcome.audited_ms = (self.sim.elapsed() - quiet).as_millis() as u64;
        self.invariants.look_at_the_end()
    }

    fn go_on(&mut self, lasting: Duration) -> Result<()> {
        let until = self.sim.elapsed() + lasting;
        while self.sim.elapsed() < until {
            self.step()?;
        }
        Ok(())
    }

    fn until(&mut self, limit: Duration, what: &str, reached: impl Fn(&Self) -> bool) -> Result<()> {
        let until = self.sim.elapsed() + limit;
        while !reached(self) {
            ensure!(self.sim.elapsed() < until, "waited {limit:?} for {what}");
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
