//! One run from its first process to its verdict.
//!
//! ```text
//! build ─> servers ─> tables, links ─> load ─┬─ plan: step, step, …
//!                                            └─ heal: everything runs again
//! end of load ─> equal? (O14) ─> final states ─> history, logs ─> checkers ─> report
//! ```

use crate::arena::Arena;
use crate::fault::{Ground, inflict};
use crate::load::{Load, Shared};
use crate::network::Network;
use crate::options::{Options, Profile};
use crate::plan::{Fault, Plan, REGIONS};
use crate::progress::Progress;
use crate::report::{FaultReport, Report, millis};
use crate::stage::Stage;
use crate::watch::Watch;
use anyhow::{Context, Result};
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidemark_checkers::history::{self, FORMAT, FinalState, NodeLog, Phase, PhaseName, Record};
use tidemark_checkers::{History, Recorder};
use tokio::task::JoinHandle;

/// Both regions are equal within this after the load, on a machine ten times slower too.
const CONVERGE_MAX: Duration = Duration::from_secs(90);
/// Good weather before the first fault and after the last one.
const CALM: Duration = Duration::from_millis(1_200);
/// More than a step may take beyond its plan: each wait in it has a bound of its own. A long run on a busy machine is not to
/// be broken off for being long.
const STEP_MAX: Duration = Duration::from_secs(90);
/// Between two probes of a tablet.
const PULSE: Duration = Duration::from_millis(25);
/// The same where the gap is what is measured.
const PULSE_MEASURED: Duration = Duration::from_millis(10);

/// Runs everything under `dir`. What the run found is in the report, errors included; an error here means that not even
/// that could be said.
pub async fn run(
    options: &Options,
    plan: &Plan,
    network: Option<Network>,
    dir: &Path,
    progress: &Progress,
) -> Result<Report> {
    let began = Instant::now();
    let mut report = Report {
        profile: options.profile.name(),
        seed: options.seed,
        command: options.command(),
        ..Report::default()
    };
    progress.say("preparing disks and configurations");
    let arena = Arc::new(Arena::build(options, plan, network, dir)?);
    let steps = u32::try_from(plan.steps.len()).unwrap_or(u32::MAX);
    let limit = plan.length() + STEP_MAX * steps + Duration::from_secs(300);
    let mut run = Run::new(options, plan, arena, dir, progress)?;
    let told = tokio::time::timeout(limit, run.tell(&mut report)).await;
    let told = told.unwrap_or_else(|_| Err(anyhow::anyhow!("not finished within {} s", limit.as_secs())));
    if let Err(error) = told {
        report.broken = Some(format!("{error:#}"));
    }
    run.judge(&mut report)?;
    // Ended, not only told to: it holds the arena, and with it the network and the disks.
    run.watching.abort();
    let _ = (&mut run.watching).await;
    report.seconds = began.elapsed().as_secs();
    Ok(report)
}

struct Run<'a> {
    options: &'a Options,
    plan: &'a Plan,
    arena: Arc<Arena>,
    watch: Watch,
    watching: JoinHandle<()>,
    shared: Arc<Shared>,
    history: PathBuf,
    progress: &'a Progress,
    finals: Vec<FinalState>,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl<'a> Run<'a> {
    fn new(
        options: &'a Options,
        plan: &'a Plan,
        arena: Arc<Arena>,
        dir: &Path,
        progress: &'a Progress,
    ) -> Result<Run<'a>> {
        let history = dir.join("history.jsonl");
        let file = File::create(&history).context("the history cannot be written")?;
        let shared = Arc::new(Shared::new(Recorder::new(BufWriter::new(file))));
        let watch = Watch::default();
        Ok(Run {
            watching: tokio::spawn(watch.clone().run(arena.clone())),
            options,
            plan,
            arena,
            watch,
            shared,
            history,
            progress,
            finals: Vec::new(),
        })
    }

    fn phase(&self, name: PhaseName) {
        let at = self.shared.now();
        self.shared.recorder().write(&Record::Phase(Phase { name, at }));
    }

    /// Everything up to the final states.
    async fn tell(&mut self, report: &mut Report) -> Result<()> {
        self.shared.recorder().write(&Record::Run(history::Run {
            format: FORMAT,
            name: format!("nemesis {}", self.options.profile.name()),
            seed: self.options.seed,
            regions: REGIONS.map(str::to_owned).to_vec(),
            tables: Stage::tables(),
            command: self.options.command(),
        }));
        self.progress.say("starting two regions of three servers");
        self.arena.start().await.context("the servers did not start")?;
        let addresses: Vec<Vec<String>> = (0..REGIONS.len()).map(|r| self.arena.addresses(r)).collect();
        self.progress.say("creating tables, switching replication on");
        let stage = Stage::set_up(&addresses).await?;
        self.progress.say("clients begin");
        self.phase(PhaseName::Begin);
        let pulse = if self.options.kills.is_some() {
            PULSE_MEASURED
        } else {
            PULSE
        };
        let mut load = Load::start(&self.shared, &addresses, self.options.seed, pulse).await?;
        tokio::time::sleep(CALM).await;
        self.phase(PhaseName::Faults);
        let inflicted = self.inflict(report).await;
        self.phase(PhaseName::Healed);
        inflicted?;
        for at in self.arena.all() {
            let mut server = self.arena.lock(at).await;
            self.arena
                .wait_ready(at, &mut server)
                .await
                .context("after the last fault")?;
        }
        tokio::time::sleep(CALM).await;
        self.progress.say("the load ends");
        load.quiet().await?;
        self.phase(PhaseName::Quiet);
        let quiet = Instant::now();
        self.progress.say("waiting until both regions are equal");
        let equal = stage.converge(CONVERGE_MAX).await;
        if equal.is_ok() {
            report.converged_ms = Some(millis(quiet.elapsed()));
            self.phase(PhaseName::Converged);
        }
        drop(load);
        self.progress.say("reading what both regions show");
        self.finals = stage.final_states().await?;
        self.phase(PhaseName::End);
        equal
    }

    /// The plan, step by step.
    async fn inflict(&self, report: &mut Report) -> Result<()> {
        let steps = self.plan.steps.len();
        for (number, step) in self.plan.steps.iter().enumerate() {
            tokio::time::sleep(step.pause).await;
            let faults = step.faults.iter().enumerate().map(|(which, fault)| {
                let id = fault_id(number, which);
                self.progress.say(&format!("{:>3}/{steps} {fault}", number + 1));
                self.one(id, fault)
            });
            for (done, fault) in futures::future::join_all(faults).await.into_iter().zip(&step.faults) {
                let done = done.with_context(|| format!("step {}: {fault}", number + 1))?;
                report.faults.push(done);
            }
        }
        Ok(())
    }

    async fn one(&self, id: String, fault: &Fault) -> Result<FaultReport> {
        let ground = Ground {
            arena: &self.arena,
            watch: &self.watch,
            seen: &self.shared,
        };
        let began = self.shared.now();
        let done = inflict(&ground, fault).await?;
        let effect = done.effect.as_deref().unwrap_or("NO EFFECT SEEN");
        let gap_ms = done.gap.map(millis);
        let gap = gap_ms.map(|ms| format!("; gap {ms} ms")).unwrap_or_default();
        self.progress.say(&format!("        {}: {effect}{gap}", done.whom));
        self.shared.recorder().write(&Record::Fault(history::Fault {
            id: id.clone(),
            kind: fault.kind().to_owned(),
            target: done.whom.clone(),
            began,
            ended: Some(self.shared.now()),
            effect: done.effect.clone(),
        }));
        Ok(FaultReport {
            id,
            kind: fault.kind(),
            planned: fault.to_string(),
            whom: done.whom,
            effect: done.effect,
            gap_ms,
            measured_as: fault.measured_as(),
        })
    }

    /// Reads back what was written down and lets the checkers judge it.
    fn judge(&mut self, report: &mut Report) -> Result<()> {
        self.progress.say("judging");
        let changes = self.watch.leader_changes();
        let mut marks = self.watch.marks();
        marks.insert(LEADER_CHANGED.to_owned(), changes);
        for (name, count) in marks.iter().filter(|(_, count)| **count > 0) {
            self.shared.recorder().write(&Record::Mark(history::Mark {
                name: name.clone(),
                at: self.shared.now(),
                count: *count,
            }));
        }
        let closed = self.shared.recorder().close();
        closed.map_err(|why| anyhow::anyhow!("the history is not whole: {why}"))?;
        let history = History::read(std::io::BufReader::new(File::open(&self.history)?));
        let expected = expectations(self.options, self.plan);
        let verdict = tidemark_checkers::check(&history, &self.finals, &self.logs(), &expected);
        report.summarise();
        (report.operations, report.succeeded) = self.shared.totals();
        report.refusals = self.shared.all_refusals();
        report.examples = self.shared.examples();
        report.leader_changes = changes;
        report.marks = marks;
        report.ok = report.broken.is_none() && verdict.passed();
        report.verdict = Some(verdict);
        Ok(())
    }

    fn logs(&self) -> Vec<NodeLog> {
        let log = |at| NodeLog {
            node: format!("{at}"),
            text: std::fs::read(self.arena.log_path(at))
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .unwrap_or_default(),
        };
        self.arena.all().into_iter().map(log).collect()
    }
}

/// A run from which rare events are expected.
const LONG: Duration = Duration::from_secs(300);
/// The mark that a tablet got another leader while clients wrote.
const LEADER_CHANGED: &str = "leader changed";

fn fault_id(step: usize, which: usize) -> String {
    format!("{}{}", step + 1, if which == 0 { "" } else { "b" })
}

/// What the run must have done, so that a run which did not do it fails.
fn expectations(options: &Options, plan: &Plan) -> tidemark_checkers::Plan {
    let faults = plan.steps.iter().enumerate();
    let ids = faults.flat_map(|(number, step)| (0..step.faults.len()).map(move |which| fault_id(number, which)));
    let seconds = plan.length().as_secs().max(1);
    let offset_ms = plan.steps.iter().flat_map(|s| &s.faults).map(|fault| match fault {
        Fault::Clock { offset_ms, .. } => offset_ms.unsigned_abs(),
        _ => 0,
    });
    // Both regions write the rivals' rows all the time.
    let mut marks = vec![tidemark_checkers::plan::CONFLICT_SEEN];
    if !matches!(options.profile, Profile::WanCut) {
        marks.push(LEADER_CHANGED);
    }
    // Rarer: only a long run must have met them.
    if options.minutes.is_some_and(|long| long >= LONG) && matches!(options.profile, Profile::Partition | Profile::Mix)
    {
        marks.extend(["leader changed under load", "stale leader refused"]);
    }
    tidemark_checkers::Plan {
        clock_margin: (2 * offset_ms.max().unwrap_or(0) + 2) * 1_000_000,
        // A tenth of what the load asks for: a run in which less succeeds was not under load.
        writes_min: 10 * seconds,
        reads_min: 2 * seconds,
        success_percent_min: 30,
        linearizable_rows_min: 2,
        undecided_rows_max: 0,
        faults: ids.collect(),
        marks: marks.into_iter().map(str::to_owned).collect(),
        finals: REGIONS.len(),
        converge_within: CONVERGE_MAX.as_nanos() as u64,
        errors_allowed: errors_allowed(options.profile),
        logs_needed: true,
        ..tidemark_checkers::Plan::default()
    }
}

/// ERROR lines that belong to what a profile does.
fn errors_allowed(profile: Profile) -> Vec<String> {
    // openraft says so where whoever asked has given up waiting: a heartbeat whose sender timed out.
    let always = ["to-Raft tx send error"];
    let storage = [
        "log store poisoned",
        "log store is poisoned",
        "failed to receive from RaftCore",
        "failed to send RaftMsg to RaftCore",
        "failed to send HeartbeatProgress",
        "RaftCore::main error",
        "RaftCore received Notification::StorageError",
        "takes no more writes",
        "replica poisoned",
        "a tablet of this node cannot start",
        "garbage collection failed",
    ];
    let full = ["no space for the log"];
    let texts: &[&[&str]] = match profile {
        Profile::Fsync | Profile::PowerLoss => &[&storage],
        Profile::DiskFull => &[&full, &["garbage collection failed"]],
        Profile::Mix => &[&storage, &full],
        _ => &[],
    };
    always.into_iter().chain(texts.concat()).map(str::to_owned).collect()
}
