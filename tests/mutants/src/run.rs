//! Running evidence: one process, with a bug or without, bounded in time, its output in a file.

use crate::binaries::Program;
use crate::evidence::Means;
use crate::judge::{self, Ended, Verdict};
use anyhow::{Context, Result};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tidemark_runtime::planted::Bug;

/// Tells a process of a test build which bug it has.
const VARIABLE: &str = "TIDEMARK_PLANTED_BUG";
/// No process of evidence may take longer, also on a machine that is ten times slower than the one it was tried on.
const TIME_MAX: Duration = Duration::from_secs(180);
/// The same for a run of real servers, which checks itself that nothing in it waits for ever.
const SERVERS_TIME_MAX: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(10);

/// What came of running evidence.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The verdict.
    pub verdict: Verdict,
    /// What alone gives this verdict again: of many seeds, the one that failed.
    pub again: Means,
}

/// Runs evidence and judges it. `says` are the words by which it knows the bug; `dir` is for its output.
///
/// Of seeds with a bug the first counts that says them: one in which the bug breaks something else first, such as a panic of
/// a neighbour, proves nothing, and another may.
pub fn run(program: &Program, means: &Means, bug: Option<Bug>, says: &[&str], dir: &Path) -> Result<Tried> {
    match *means {
        Means::Test { name, .. } => {
            let arguments = [name, "--exact", "--test-threads=1"].map(str::to_owned);
            let (ended, output) = process(program, &arguments, bug, dir, TIME_MAX)?;
            let verdict = judge::of_test(name, &ended, &output);
            let again = *means;
            Ok(Tried { verdict, again })
        }
        Means::Seeds { first, count } => {
            let mut tried = Tried {
                verdict: Verdict::Nothing("there is no seed".to_owned()),
                again: *means,
            };
            for seed in first..first + count {
                let arguments = ["--here".to_owned(), "--seed".to_owned(), seed.to_string()];
                let (ended, output) = process(program, &arguments, bug, dir, TIME_MAX)?;
                tried.verdict = judge::of_seed(&ended, &output);
                if tried.verdict != Verdict::Passed {
                    tried.again = Means::Seeds { first: seed, count: 1 };
                }
                let over = match &tried.verdict {
                    Verdict::Passed => false,
                    Verdict::Failed(words) => bug.is_none() || says.iter().any(|part| words.contains(part)),
                    Verdict::Nothing(_) => true,
                };
                if over {
                    break;
                }
            }
            Ok(tried)
        }
        Means::Servers { profile, seed, count } => {
            let (seed, count) = (seed.to_string(), count.to_string());
            let arguments = ["--profile", profile, "--seed", &seed, "--count", &count].map(str::to_owned);
            let (ended, output) = process(program, &arguments, bug, dir, SERVERS_TIME_MAX)?;
            let verdict = judge::of_servers(&ended, &output);
            let again = *means;
            Ok(Tried { verdict, again })
        }
    }
}

fn process(
    program: &Program,
    arguments: &[String],
    bug: Option<Bug>,
    dir: &Path,
    time_max: Duration,
) -> Result<(Ended, String)> {
    let path = dir.join("output");
    let output = File::create(&path).context("no file for the output")?;
    let mut child = Command::new(&program.path)
        .args(arguments)
        .current_dir(&program.dir)
        .env(VARIABLE, bug.map_or(String::new(), Bug::name))
        // A case that fails on purpose is not for the regressions, and shrinking it tells nobody anything.
        .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1")
        .env("PROPTEST_MAX_SHRINK_ITERS", "0")
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stderr(output.try_clone()?)
        .stdout(output)
        .spawn()
        .with_context(|| format!("{} cannot be started", program.path.display()))?;
    let deadline = Instant::now() + time_max;
    let ended = loop {
        match child.try_wait()? {
            Some(status) => break Ended::Exit(status.code()),
            None if Instant::now() < deadline => std::thread::sleep(POLL),
            None => {
                child.kill()?;
                child.wait()?;
                break Ended::TimedOut;
            }
        }
    };
    let output = std::fs::read(&path).context("the output is gone")?;
    Ok((ended, String::from_utf8_lossy(&output).into_owned()))
}
