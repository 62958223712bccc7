//! `tidemark-simulate`: runs seeds, one process each, and says which ones fail and how to run them again.

mod os;

use clap::Parser;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidemark_simulation::patience::Patience;
use tidemark_simulation::run::{Options, Outcome, marks, run};
use tidemark_simulation::{chance, logs, panics};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// A batch of at least so many seeds must have met every mark.
const MARKS_FROM_SEEDS: u64 = 40;

/// Two or three regions of three nodes in one thread, from a seed.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, one after the other.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Goes on with further seeds until so many minutes have passed.
    #[arg(long)]
    minutes: Option<u64>,
    /// Seeds at the same time.
    #[arg(long, default_value_t = 2)]
    jobs: u64,
    /// Simulated seconds during which faults come and go.
    #[arg(long, default_value_t = 8)]
    fault_seconds: u64,
    /// No faults.
    #[arg(long)]
    calm: bool,
    /// Writes the history of a single seed there.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Logs of the nodes to standard error: a level or filter.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Only this seed, in this process; prints its outcome as JSON.
    #[arg(long, hide = true)]
    here: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.here {
        return here(&args);
    }
    let runner = Runner::new(args);
    runner.run()
}

/// One seed in this process.
fn here(args: &Args) -> ExitCode {
    let (kept, shown) = (fmt::layer().with_ansi(false), fmt::layer().with_ansi(false));
    let filter = EnvFilter::new(args.log.as_deref().unwrap_or("off"));
    tracing_subscriber::registry()
        .with(kept.with_writer(logs::Kept).with_filter(EnvFilter::new(logs::FILTER)))
        .with(shown.with_writer(std::io::stderr).with_filter(filter))
        .init();
    panics::watch();
    tidemark_runtime::blocking::stay_on_one_thread();
    let options = Options {
        seed: args.seed,
        faults: Duration::from_secs(args.fault_seconds),
        calm: args.calm,
        history: args.history.clone(),
    };
    // A thread that has made no hash map yet, so that the keys of all of them come from the seed.
    let thread = std::thread::Builder::new().stack_size(64 << 20).spawn(move || {
        os::simulate(chance::stream(options.seed, "operating system"));
        let mut outcome = run(&options);
        outcome.cpu_ms = os::cpu_ms();
        println!(
            "{}",
            serde_json::to_string(&outcome).expect("an outcome is text and numbers")
        );
        // Taking the world down proves nothing and takes time.
        std::process::exit(i32::from(!outcome.failure.is_empty()));
    });
    match thread.map(std::thread::JoinHandle::join) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

struct Runner {
    args: Args,
    began: Instant,
    next: AtomicU64,
    failed: AtomicBool,
    sum: Mutex<Sum>,
}

/// Over all seeds.
#[derive(Default)]
struct Sum {
    seeds: u64,
    of_three_regions: u64,
    failures: Vec<String>,
    marks: BTreeMap<String, u64>,
    faults: u64,
    asked: u64,
    succeeded: u64,
    simulated_ms: u64,
    cpu_ms: u64,
}

impl Runner {
    fn new(args: Args) -> Runner {
        Runner {
            args,
            began: Instant::now(),
            next: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            sum: Mutex::default(),
        }
    }

    fn run(&self) -> ExitCode {
        std::thread::scope(|scope| {
            for _ in 0..self.args.jobs.max(1) {
                scope.spawn(|| {
                    while let Some(seed) = self.take() {
                        self.one(seed);
                    }
                });
            }
        });
        self.report()
    }

    fn take(&self) -> Option<u64> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let in_time = self
            .args
            .minutes
            .map(|minutes| self.began.elapsed() < Duration::from_secs(60 * minutes));
        let more = n < self.args.seeds || in_time.unwrap_or(false);
        more.then(|| self.args.seed.wrapping_add(n))
    }

    fn one(&self, seed: u64) {
        let began = Instant::now();
        let ended = self.child(seed);
        let mut sum = self.sum.lock().expect("nobody panics with it");
        sum.seeds += 1;
        let failure = match &ended {
            Ok(outcome) => {
                sum.of_three_regions += u64::from(outcome.regions > 2);
                sum.asked += outcome.asked;
                sum.succeeded += outcome.succeeded;
                sum.simulated_ms += outcome.simulated_ms;
                sum.cpu_ms += outcome.cpu_ms;
                sum.faults += outcome.faults.len() as u64;
                for (mark, count) in &outcome.marks {
                    *sum.marks.entry(mark.clone()).or_default() += count;
                }
                println!(
                    "seed {seed}: {} trace {} operations {}/{} faults {} simulated {:.1} s cpu {:.1} s wall {:.1} s",
                    if outcome.failure.is_empty() { "ok" } else { "FAILED" },
                    outcome.trace,
                    outcome.succeeded,
                    outcome.asked,
                    outcome.faults.len(),
                    outcome.simulated_ms as f64 / 1e3,
                    outcome.cpu_ms as f64 / 1e3,
                    began.elapsed().as_secs_f64(),
                );
                if self.args.seeds == 1 && self.args.minutes.is_none() {
                    println!("{}", serde_json::to_string_pretty(outcome).unwrap_or_default());
                }
                outcome.failure.clone()
            }
            Err(why) => why.clone(),
        };
        if !failure.is_empty() {
            self.failed.store(true, Ordering::Relaxed);
            println!("seed {seed} FAILED: {failure}\n  again: {}", self.again(seed));
            sum.failures.push(format!("{seed}: {failure}"));
        }
    }

    /// The one command that repeats a seed.
    fn again(&self, seed: u64) -> String {
        let calm = if self.args.calm { " --calm" } else { "" };
        format!(
            "./x simulate --seed {seed} --fault-seconds {}{calm}",
            self.args.fault_seconds
        )
    }

    fn child(&self, seed: u64) -> Result<Outcome, String> {
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut command = Command::new(program);
        command.arg("--here").arg("--seed").arg(seed.to_string());
        command.arg("--fault-seconds").arg(self.args.fault_seconds.to_string());
        if self.args.calm {
            command.arg("--calm");
        }
        if let Some(filter) = &self.args.log {
            command.arg("--log").arg(filter);
        }
        if let Some(path) = &self.args.history {
            command.arg("--history").arg(path);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|e| e.to_string())?;
        let mut patience = Patience::new(child.id());
        // The outcome is one line and fits into the pipe, so that waiting first cannot block the child.
        let status = loop {
            if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
                break status;
            }
            if let Some(why) = patience.exhausted() {
                let _ = child.kill();
                let _ = child.wait();
                return Err(why);
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let output = child.wait_with_output().map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.lines().last().unwrap_or_default();
        serde_json::from_str(last).map_err(|_| format!("it ended with {status} and said {last:?}"))
    }

    fn report(&self) -> ExitCode {
        let sum = self.sum.lock().expect("nobody panics with it");
        println!(
            "{} seeds ({} of three regions), {} failed; {} of {} operations succeeded, {} faults; {:.2} simulated hours; {:.1} s of CPU, {:.2} a seed; {:.1} s",
            sum.seeds,
            sum.of_three_regions,
            sum.failures.len(),
            sum.succeeded,
            sum.asked,
            sum.faults,
            sum.simulated_ms as f64 / 3.6e6,
            sum.cpu_ms as f64 / 1e3,
            sum.cpu_ms as f64 / 1e3 / sum.seeds.max(1) as f64,
            self.began.elapsed().as_secs_f64(),
        );
        for failure in &sum.failures {
            println!("FAILED {failure}");
        }
        let mut missing = Vec::new();
        for mark in marks() {
            let count = sum.marks.get(mark).copied().unwrap_or(0);
            println!("mark {mark}: {count}");
            if count == 0 {
                missing.push(mark);
            }
        }
        if sum.seeds >= MARKS_FROM_SEEDS && !self.args.calm && !missing.is_empty() {
            println!("FAILED: marks that never fired: {missing:?}");
            return ExitCode::FAILURE;
        }
        if self.failed.load(Ordering::Relaxed) {
            return ExitCode::FAILURE;
        }
        ExitCode::SUCCESS
    }
}
