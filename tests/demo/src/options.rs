//! The command line of the demo, and how the load's time is divided among its phases.

use clap::Parser;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  ./x demo                                  half a minute of load, two disasters, a report
  ./x demo --seconds 120 --rate 2000        longer and harder
  ./x demo --csv sensors --json report.json sensor files too, and the report for a machine
  ./x demo --seed 7 --keep                  another fleet; logs and data stay for a look

The last line is `demo: ok lost=0 equal=true leader_gap_ms=... rto_ms=... rpo_ms=... converge_ms=...`. The exit code is 0
only if no acknowledged write is lost and both regions are equal.";

/// Two regions of three servers each take a fleet's readings, lose a leader, lose a region, get it back, and end equal.
#[derive(Clone, Debug, Parser)]
#[command(name = "tidemark-demo", version, after_help = EXAMPLES)]
pub struct Options {
    /// Seconds of load in all phases together.
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = clap::value_parser!(u64).range(12..=86_400))]
    pub seconds: u64,

    /// Also load every *.csv of this directory (header `timestamp,value`, UTC times).
    #[arg(long, value_name = "DIR")]
    pub csv: Option<PathBuf>,

    /// What the fleet measures is decided by this number alone.
    #[arg(long, default_value_t = 1, value_name = "S")]
    pub seed: u64,

    /// Write the report to this file as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Devices of the fleet, ten metrics each.
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(8..=1_000_000))]
    pub devices: u32,

    /// Ticks a second; a tick is one device's ten metrics at one time.
    #[arg(long, default_value_t = 1_500, value_name = "TICKS", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,

    /// Keep the directory with configurations, logs and data (it is kept anyway when the demo fails).
    #[arg(long)]
    pub keep: bool,
}

/// How long each phase lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Both regions whole.
    pub steady: Duration,
    /// From the leader's death on; its node comes back inside this phase.
    pub leader_lost: Duration,
    /// From east's death on.
    pub region_lost: Duration,
    /// From the start of east's processes on.
    pub region_back: Duration,
    /// Between a leader's death and the start of its node.
    pub node_pause: Duration,
}

impl Options {
    /// Divides the load's time: 30 % whole, 25 % without a leader, 25 % without a region, 20 % after its return.
    pub fn plan(&self) -> Plan {
        let part = |percent: u64| Duration::from_millis(self.seconds * 10 * percent);
        let leader_lost = part(25);
        Plan {
            steady: part(30),
            leader_lost,
            region_lost: part(25),
            region_back: part(20),
            node_pause: Duration::from_secs(3).min(leader_lost / 2),
        }
    }

    /// The run ends within this, whatever happens: the load's time plus starting, catching up and auditing.
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(self.seconds * 2 + 300)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_plan_adds_up() {
        for seconds in ["12", "30", "600"] {
            let options = Options::try_parse_from(["demo", "--seconds", seconds]).unwrap();
            let plan = options.plan();
            let sum = plan.steady + plan.leader_lost + plan.region_lost + plan.region_back;
            assert_eq!(sum.as_secs(), options.seconds);
            assert!(plan.node_pause < plan.leader_lost);
        }
    }

    #[test]
    fn usage_is_sound_and_bounds_hold() {
        Options::command().debug_assert();
        assert!(Options::try_parse_from(["demo", "--seconds", "11"]).is_err());
        assert!(Options::try_parse_from(["demo", "--rate", "0"]).is_err());
        assert!(
            Options::command()
                .render_long_help()
                .to_string()
                .contains("./x demo --seed")
        );
    }
}
