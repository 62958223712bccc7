//! Faults in words, for the plan and the report.

use super::{Fault, Plan, REGIONS, Target};
use crate::wan::Way;
use std::fmt;
use std::time::Duration;

impl Fault {
    /// How long it lasts by plan.
    pub fn length(&self) -> Duration {
        match *self {
            Fault::Kill { down, .. }
            | Fault::RegionKill { down, .. }
            | Fault::PowerLoss { down, .. }
            | Fault::RegionPowerLoss { down, .. } => down,
            Fault::Pause { stopped, .. } => stopped,
            Fault::Isolate { lasting, .. }
            | Fault::OneWay { lasting, .. }
            | Fault::WanCut { lasting, .. }
            | Fault::WanStorm { lasting, .. }
            | Fault::WanNarrow { lasting, .. }
            | Fault::DiskFull { lasting, .. }
            | Fault::SyncSlow { lasting, .. }
            | Fault::Clock { lasting, .. } => lasting,
            // Until that many syncs have been made, and a restart.
            Fault::SyncFails { .. } => Duration::from_secs(3),
        }
    }

    /// Its kind in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Kill { .. } => "kill",
            Fault::Pause { .. } => "pause",
            Fault::Isolate { .. } => "isolate",
            Fault::OneWay { .. } => "one-way",
            Fault::WanCut { .. } => "wan-cut",
            Fault::WanStorm { .. } => "wan-storm",
            Fault::WanNarrow { .. } => "wan-narrow",
            Fault::RegionKill { .. } => "region-kill",
            Fault::PowerLoss { .. } => "power-loss",
            Fault::RegionPowerLoss { .. } => "region-power-loss",
            Fault::DiskFull { .. } => "disk-full",
            Fault::SyncFails { .. } => "sync-fails",
            Fault::SyncSlow { .. } => "sync-slow",
            Fault::Clock { .. } => "clock",
        }
    }

    /// Among which gaps its own counts: pauses of different lengths have nothing in common.
    pub fn measured_as(&self) -> String {
        match self {
            Fault::Pause { tenths, .. } => {
                format!("pause of {} election time-outs", f64::from(*tenths) / 10.0)
            }
            _ => self.kind().to_owned(),
        }
    }

    /// The region that it hits; `None` = the link.
    pub fn region(&self) -> Option<usize> {
        match *self {
            Fault::WanCut { .. } | Fault::WanStorm { .. } | Fault::WanNarrow { .. } => None,
            Fault::RegionKill { region, .. } | Fault::RegionPowerLoss { region, .. } => Some(region),
            Fault::Kill { target, .. }
            | Fault::Pause { target, .. }
            | Fault::Isolate { target, .. }
            | Fault::OneWay { target, .. }
            | Fault::PowerLoss { target, .. }
            | Fault::DiskFull { target, .. }
            | Fault::SyncFails { target, .. }
            | Fault::SyncSlow { target, .. }
            | Fault::Clock { target, .. } => Some(target.region()),
        }
    }

    /// Who is hit, as far as the plan knows.
    pub fn whom(&self) -> String {
        match *self {
            Fault::WanCut {
                way: Some(Way::There), ..
            } => "east->west".into(),
            Fault::WanCut {
                way: Some(Way::Back), ..
            } => "west->east".into(),
            Fault::WanCut { .. } | Fault::WanStorm { .. } | Fault::WanNarrow { .. } => "east<->west".into(),
            Fault::RegionKill { region, .. } | Fault::RegionPowerLoss { region, .. } => REGIONS[region].into(),
            Fault::Kill { target, .. }
            | Fault::Pause { target, .. }
            | Fault::Isolate { target, .. }
            | Fault::OneWay { target, .. }
            | Fault::PowerLoss { target, .. }
            | Fault::DiskFull { target, .. }
            | Fault::SyncFails { target, .. }
            | Fault::SyncSlow { target, .. }
            | Fault::Clock { target, .. } => target.to_string(),
        }
    }

    /// True if the two may overlap: in different regions, or one of them on the link. Two in one region would mostly be
    /// one region without a quorum, which the region's own faults are for.
    pub fn overlaps_well(&self, other: &Fault) -> bool {
        self.region() != other.region()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Leader(region) => write!(f, "the leader in {}", REGIONS[*region]),
            Target::Follower(region) => write!(f, "a follower in {}", REGIONS[*region]),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whom, ms) = (self.whom(), self.length().as_millis());
        match self {
            Fault::Kill { .. } => write!(f, "kill -9 {whom}, start it after {ms} ms"),
            Fault::Pause { tenths, .. } => {
                write!(
                    f,
                    "stop {whom} for {ms} ms, {}.{} election time-outs",
                    tenths / 10,
                    tenths % 10
                )
            }
            Fault::Isolate { everybody: true, .. } => write!(f, "cut {whom} off from everybody for {ms} ms"),
            Fault::Isolate { .. } => write!(f, "cut {whom} off from its neighbours for {ms} ms; clients reach it"),
            Fault::OneWay { incoming: true, .. } => write!(f, "{whom} hears no neighbour for {ms} ms"),
            Fault::OneWay { .. } => write!(f, "no neighbour hears {whom} for {ms} ms"),
            Fault::WanCut { .. } => write!(f, "cut the link {whom} for {ms} ms"),
            Fault::WanStorm {
                loss_per_million,
                delay,
                jitter,
                ..
            } => write!(
                f,
                "the link {whom} loses {}.{} %, takes {} to {} ms, for {ms} ms",
                loss_per_million / 10_000,
                loss_per_million / 1_000 % 10,
                delay.as_millis(),
                (*delay + *jitter).as_millis()
            ),
            Fault::WanNarrow { kilobits, .. } => write!(f, "the link {whom} has {kilobits} kbit/s for {ms} ms"),
            Fault::RegionKill { .. } => write!(f, "kill -9 all of {whom}, start it after {ms} ms"),
            Fault::PowerLoss { stopped: true, .. } => write!(f, "{whom} loses power, back after {ms} ms"),
            Fault::PowerLoss { .. } => {
                write!(
                    f,
                    "the disk of {whom} goes while it runs, then its power; back after {ms} ms"
                )
            }
            Fault::RegionPowerLoss { .. } => write!(f, "all of {whom} loses power at once, back after {ms} ms"),
            Fault::DiskFull { .. } => write!(f, "the disk of {whom} is full for {ms} ms"),
            Fault::SyncFails { skip, .. } => write!(f, "sync {} of {whom} from then on fails", skip + 1),
            Fault::SyncSlow { syncs, by, .. } => {
                write!(f, "{syncs} syncs of {whom} take {} ms longer", by.as_millis())
            }
            Fault::Clock { offset_ms, .. } => write!(f, "the clock of {whom} jumps by {offset_ms} ms for {ms} ms"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "plan: {} steps, about {} s of faults; election time-out {} to {} ms",
            self.steps.len(),
            self.length().as_secs(),
            self.timing.election_min_ms,
            self.timing.election_max_ms
        )?;
        let mut at = Duration::ZERO;
        for (number, step) in self.steps.iter().enumerate() {
            at += step.pause;
            let faults: Vec<String> = step.faults.iter().map(Fault::to_string).collect();
            writeln!(
                f,
                "{:4}  +{:6.1} s  {}",
                number + 1,
                at.as_secs_f64(),
                faults.join("; meanwhile ")
            )?;
            at += step.faults.iter().map(Fault::length).max().unwrap_or_default();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Options, Profile};
    use clap::Parser;

    fn plan(line: &str) -> Plan {
        Plan::of(&Options::try_parse_from(format!("n {line}").split(' ')).unwrap())
    }

    #[test]
    fn a_seed_decides_the_plan() {
        assert_eq!(plan("--profile mix --seed 3"), plan("--profile mix --seed 3"));
        assert_ne!(plan("--profile mix --seed 3"), plan("--profile mix --seed 4"));
    }

    #[test]
    fn a_pass_has_what_the_profile_promises_and_fits_into_a_test() {
        for profile in Profile::SINGLE {
            for seed in 0..20 {
                let plan = plan(&format!("--profile {} --seed {seed}", profile.name()));
                assert!(
                    plan.length() < Duration::from_secs(25),
                    "{profile:?}: {:?}",
                    plan.length()
                );
                assert!(!plan.steps.is_empty());
            }
        }
        let kinds = |plan: &Plan| {
            let mut kinds: Vec<&str> = plan.steps.iter().flat_map(|s| &s.faults).map(Fault::kind).collect();
            kinds.sort_unstable();
            kinds.dedup();
            kinds.len()
        };
        assert_eq!(kinds(&plan("--profile mix")), 14, "the mix has every kind");
    }

    #[test]
    fn counts_and_minutes_are_kept() {
        assert_eq!(plan("--profile power-loss --count 7").steps.len(), 7);
        assert_eq!(plan("--profile kill --kills 11").steps.len(), 11);
        let long = plan("--profile partition --minutes 3");
        assert!(long.length() >= Duration::from_secs(180) && long.length() < Duration::from_secs(240));
    }

    #[test]
    fn overlapping_faults_hit_different_places() {
        for seed in 0..50 {
            for step in plan(&format!("--profile mix --seed {seed}")).steps {
                assert!(step.faults.len() <= 2);
                if let [a, b] = step.faults[..] {
                    assert_ne!(a.region(), b.region());
                }
            }
        }
    }

    #[test]
    fn a_plan_can_be_read() {
        let text = plan("--profile mix --seed 2").to_string();
        assert!(text.contains("loses power") && text.contains("cut the link"), "{text}");
    }
}
