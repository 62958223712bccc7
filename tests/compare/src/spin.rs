//! Two idle-priority loops that keep virtual CPUs awake: without them a lone fdatasync takes 4 ms instead of 50 µs on many
//! a virtual machine, for whichever store, because the CPU has to be woken first. They yield to everybody else.

use anyhow::Result;
use std::process::{Child, Command, Stdio};

/// Running loops; dropping it ends them.
#[derive(Debug)]
pub struct Spinners(Vec<Child>);

impl Spinners {
    /// One loop a core, by util-linux' chrt; without it a warning and no loops.
    pub fn start() -> Result<Spinners> {
        let own = std::env::current_exe()?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut spinners = Spinners(Vec::new());
        for _ in 0..cores {
            let mut command = Command::new("chrt");
            command.args(["--idle", "0"]).arg(&own).arg("--spin");
            // The loop watches its standard input, which closes when this process is gone, however it ended.
            match command.stdin(Stdio::piped()).spawn() {
                Ok(child) => spinners.0.push(child),
                Err(error) => {
                    eprintln!("NO SPINNERS: chrt cannot be started ({error}); fsyncs may be slow on idle virtual CPUs");
                    break;
                }
            }
        }
        Ok(spinners)
    }

    /// How many run.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl Drop for Spinners {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that has ended already is no error.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What a spinner does: nothing, without a pause, until its standard input closes.
pub fn spin() {
    std::thread::spawn(|| {
        loop {
            std::hint::spin_loop();
        }
    });
    let mut line = String::new();
    while std::io::stdin().read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
        line.clear();
    }
}
