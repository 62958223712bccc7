//! The command line of the rig.

use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  ./x nemesis --profile kill                       one pass, about half a minute
  ./x nemesis --profile mix --minutes 30 --seed 7  everything, for half an hour
  ./x nemesis --profile kill --kills 100           how long a lost leader is missed: p50, p99
  ./x nemesis --profile power-loss --count 200     that many power losses
  ./x nemesis --profile partition --show-plan      what would be done, and nothing is done

Needs root (namespaces, mounts) and the packages iproute2, iptables, xfsprogs, faketime, util-linux. With --without-root
the servers listen on loopback and only these profiles exist: kill, pause, region-kill, fsync, clock.";

/// Two regions of three real servers, clients, and faults; then a verdict on what the clients saw.
#[derive(Clone, Debug, Parser)]
#[command(name = "tidemark-nemesis", version, after_help = EXAMPLES)]
pub struct Options {
    /// Which faults.
    #[arg(long, value_enum)]
    pub profile: Profile,

    /// How long faults go on; without it (and without --kills, --count) one pass over the profile's faults.
    #[arg(long, value_name = "M", value_parser = minutes)]
    pub minutes: Option<Duration>,

    /// Decides the plan and the load.
    #[arg(long, default_value_t = 1, value_name = "S")]
    pub seed: u64,

    /// Kill a leader that often, and nothing else.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub kills: Option<u32>,

    /// That many steps of the profile.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000), conflicts_with_all = ["kills", "minutes"])]
    pub count: Option<u32>,

    /// Write the report to this file as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Print the plan and end.
    #[arg(long)]
    pub show_plan: bool,

    /// Leave out what needs root, and say so.
    #[arg(long)]
    pub without_root: bool,

    /// Keep the directory with configurations, logs, data and history (it is kept anyway when the run fails).
    #[arg(long)]
    pub keep: bool,
}

/// A family of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// kill -9 of leaders and others.
    Kill,
    /// SIGSTOP for half, three and thirty election time-outs.
    Pause,
    /// Nodes cut off, wholly or one way.
    Partition,
    /// The link between the regions cut, lossy, slow, narrow.
    WanCut,
    /// A whole region killed.
    RegionKill,
    /// File systems lose what was not synced.
    PowerLoss,
    /// No space left.
    DiskFull,
    /// Syncs that fail or take long.
    Fsync,
    /// Clocks that are wrong or jump.
    Clock,
    /// All of them.
    Mix,
}

impl Profile {
    /// The profiles that one other profile does not contain.
    pub const SINGLE: [Profile; 9] = [
        Profile::Kill,
        Profile::Pause,
        Profile::Partition,
        Profile::WanCut,
        Profile::RegionKill,
        Profile::PowerLoss,
        Profile::DiskFull,
        Profile::Fsync,
        Profile::Clock,
    ];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Kill => "kill",
            Profile::Pause => "pause",
            Profile::Partition => "partition",
            Profile::WanCut => "wan-cut",
            Profile::RegionKill => "region-kill",
            Profile::PowerLoss => "power-loss",
            Profile::DiskFull => "disk-full",
            Profile::Fsync => "fsync",
            Profile::Clock => "clock",
            Profile::Mix => "mix",
        }
    }

    /// True if it cannot be done on loopback and in plain directories.
    pub fn needs_root(self) -> bool {
        match self {
            Profile::Kill | Profile::Pause | Profile::RegionKill | Profile::Fsync | Profile::Clock => false,
            Profile::Partition | Profile::WanCut | Profile::PowerLoss | Profile::DiskFull | Profile::Mix => true,
        }
    }
}

impl Options {
    /// The command that repeats the run.
    pub fn command(&self) -> String {
        let mut words = format!("./x nemesis --profile {} --seed {}", self.profile.name(), self.seed);
        if let Some(minutes) = self.minutes {
            words += &format!(" --minutes {}", minutes.as_secs_f64() / 60.0);
        }
        if let Some(kills) = self.kills {
            words += &format!(" --kills {kills}");
        }
        if let Some(count) = self.count {
            words += &format!(" --count {count}");
        }
        if self.without_root {
            words += " --without-root";
        }
        words
    }
}

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=10_000.0).contains(&minutes) {
        Ok(Duration::from_secs_f64(minutes * 60.0))
    } else {
        Err("between 0.1 and 10000".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn usage_is_sound() {
        <Options as CommandFactory>::command().debug_assert();
        assert!(Options::try_parse_from(["n", "--profile", "kill", "--count", "1", "--minutes", "1"]).is_err());
        assert!(Options::try_parse_from(["n", "--profile", "kill", "--minutes", "0"]).is_err());
        assert!(Options::try_parse_from(["n"]).is_err());
    }

    #[test]
    fn the_command_repeats_the_run() {
        let line = [
            "n",
            "--profile",
            "wan-cut",
            "--minutes",
            "0.5",
            "--seed",
            "9",
            "--without-root",
        ];
        let options = Options::try_parse_from(line).unwrap();
        assert_eq!(
            options.command(),
            "./x nemesis --profile wan-cut --seed 9 --minutes 0.5 --without-root"
        );
        for profile in Profile::SINGLE {
            let again = Options::try_parse_from(["n", "--profile", profile.name()]).unwrap();
            assert_eq!(again.profile, profile);
        }
    }
}
