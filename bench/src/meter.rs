//! What processes cost, by their ids, from /proc: CPU time and memory.

use serde::Serialize;
use std::io;
use std::time::{Duration, Instant};

/// Ticks of /proc in a second: fixed in the kernel's interface to programs, whatever the kernel's own clock does.
const TICKS_PER_SECOND: u64 = 100;

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all its threads since its start.
    pub cpu: Duration,
    /// Memory that it has now.
    pub rss_bytes: u64,
    /// The most it has had.
    pub rss_bytes_max: u64,
}

/// Reads it from /proc.
pub fn usage(pid: u32) -> io::Result<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid} is not as expected"));
    let ticks = cpu_ticks(&stat).ok_or_else(malformed)?;
    Ok(Usage {
        cpu: Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND),
        rss_bytes: kilobytes(&status, "VmRSS:").ok_or_else(malformed)? << 10,
        rss_bytes_max: kilobytes(&status, "VmHWM:").ok_or_else(malformed)? << 10,
    })
}

/// Fields 14 and 15, counted behind the name, which may hold spaces and parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn kilobytes(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// What was used while a meter ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// CPU seconds of the servers.
    pub server_cpu_s: f64,
    /// CPU seconds of this process.
    pub client_cpu_s: f64,
    /// Memory of the servers at the end.
    pub server_rss_bytes: u64,
    /// The most they have had since their starts, added up.
    pub server_rss_bytes_max: u64,
    /// Cores in use, on average, servers and client.
    pub cores: f64,
}

/// Meters servers and the own process from its making on.
#[derive(Clone, Debug)]
pub struct Meter {
    servers: Vec<(u32, Usage)>,
    own: Usage,
    started: Instant,
}

impl Meter {
    /// An error if one of the processes does not exist.
    pub fn start(servers: &[u32]) -> io::Result<Meter> {
        let before = |pid: &u32| Ok((*pid, usage(*pid)?));
        Ok(Meter {
            servers: servers.iter().map(before).collect::<io::Result<_>>()?,
            own: usage(std::process::id())?,
            started: Instant::now(),
        })
    }

    /// What was used since the start.
    pub fn cost(&self) -> io::Result<Cost> {
        let mut cost = Cost::default();
        for (pid, before) in &self.servers {
            let now = usage(*pid)?;
            cost.server_cpu_s += (now.cpu - before.cpu).as_secs_f64();
            cost.server_rss_bytes += now.rss_bytes;
            cost.server_rss_bytes_max += now.rss_bytes_max;
        }
        cost.client_cpu_s = (usage(std::process::id())?.cpu - self.own.cpu).as_secs_f64();
        cost.cores = (cost.server_cpu_s + cost.client_cpu_s) / self.started.elapsed().as_secs_f64().max(1e-9);
        Ok(cost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_spaces_and_parentheses_do_not_shift_the_fields() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 100 1000 200";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("nothing"), None);
        assert_eq!(kilobytes("Name:\tx\nVmRSS:\t  1234 kB\n", "VmRSS:"), Some(1234));
    }

    #[test]
    fn this_process_uses_what_it_works() {
        let meter = Meter::start(&[]).unwrap();
        let until = Instant::now() + Duration::from_millis(200);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        let cost = meter.cost().unwrap();
        assert!(cost.client_cpu_s > 0.0 && cost.server_cpu_s == 0.0, "{cost:?}");
        assert!(usage(std::process::id()).unwrap().rss_bytes > 0);
        assert!(Meter::start(&[u32::MAX]).is_err());
    }
}
