//! When a seed has had its chance. Time on the wall says nothing: a seed that runs beside other work, or at idle priority,
//! may wait for a processor as long as it likes.

use std::time::{Duration, Instant};

/// A process that has used so much CPU goes round in circles: the longest seeds take 20 s.
const CPU_LIMIT: Duration = Duration::from_secs(300);
/// One that has used none for so long, and waits for none, hangs.
const IDLE_LIMIT: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Clock ticks of a second, as Linux shows them to everybody.
const TICKS: u64 = 100;

/// What a process has done with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Use {
    cpu: Duration,
    /// A thread of it runs, wants to run, or waits for a disk.
    busy: bool,
}

/// Follows one process.
pub struct Patience {
    pid: u32,
    looked: Instant,
    /// When it was last seen to get on, and how far it had come.
    moved: Instant,
    cpu: Duration,
}

impl Patience {
    /// It has just been started.
    pub fn new(pid: u32) -> Patience {
        let now = Instant::now();
        Patience {
            pid,
            looked: now,
            moved: now,
            cpu: Duration::ZERO,
        }
    }

    /// Why there is nothing to wait for any more, if so.
    pub fn exhausted(&mut self) -> Option<String> {
        if self.looked.elapsed() < LOOK_EVERY {
            return None;
        }
        self.looked = Instant::now();
        // Gone, or about to be: the caller will see its end.
        let seen = used(self.pid)?;
        self.judge(seen, Instant::now())
    }

    fn judge(&mut self, seen: Use, now: Instant) -> Option<String> {
        if seen.busy || seen.cpu > self.cpu {
            (self.moved, self.cpu) = (now, seen.cpu);
        }
        if seen.cpu > CPU_LIMIT {
            return Some(format!("it did not end within {CPU_LIMIT:?} of CPU"));
        }
        (now - self.moved > IDLE_LIMIT).then(|| format!("it did nothing for {IDLE_LIMIT:?}"))
    }
}

/// Over all threads of a process, as the kernel counts.
fn used(pid: u32) -> Option<Use> {
    let (mut ticks, mut busy) = (0, false);
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let Ok(stat) = std::fs::read_to_string(task.path().join("stat")) else {
            continue;
        };
        // The name in parentheses may contain anything. Behind it: the state, and as 12th and 13th the times.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        busy |= matches!(fields.first(), Some(&("R" | "D")));
        ticks += fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    }
    let cpu = Duration::from_millis(ticks * 1_000 / TICKS);
    Some(Use { cpu, busy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_a_processor_is_no_hang_and_waiting_for_nothing_is() {
        let began = Instant::now();
        let mut patience = Patience::new(1);
        let after = |seconds| began + Duration::from_secs(seconds);
        let seen = |cpu, busy| Use {
            cpu: Duration::from_secs(cpu),
            busy,
        };
        assert_eq!(patience.judge(seen(0, true), after(10_000)), None);
        assert_eq!(patience.judge(seen(1, false), after(20_000)), None);
        assert_eq!(patience.judge(seen(1, false), after(20_100)), None);
        assert!(patience.judge(seen(1, false), after(20_200)).is_some());
        assert!(patience.judge(seen(301, true), after(20_201)).is_some());
    }

    #[test]
    fn the_kernel_is_asked() {
        let began = Instant::now();
        let mut use_of_own = used(std::process::id()).unwrap();
        while use_of_own.cpu.is_zero() && began.elapsed() < Duration::from_secs(60) {
            use_of_own = used(std::process::id()).unwrap();
        }
        assert!(use_of_own.busy && !use_of_own.cpu.is_zero());
        assert_eq!(used(u32::MAX), None);
    }
}
