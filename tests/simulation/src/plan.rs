//! Which faults a run has: derived from the seed, overlapping, each with something that would show that it happened.
//!
//! A plan says from when on and how long at least. What it hits may be down or idle at that moment for reasons that no plan
//! foresees (no leader, a peer that nobody dials for seconds), so `faults` begins when the target is there and ends when the
//! effect was seen.

use crate::chance;
use crate::site::{self, NODES, REGIONS, name};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::time::Duration;

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The process is killed and the power goes; it comes back at the end.
    Crash(String),
    /// All of a region at once.
    CrashRegion(usize),
    /// What the two send to each other is dropped.
    Cut(String, String),
    /// What the first sends to the second is dropped; not the other way.
    CutOneWay(String, String),
    /// What the two send to each other waits until the end.
    Hold(String, String),
    /// What the node says to clients is lost; it hears them, and does what they ask.
    LostAnswers(String),
    /// The node cannot reach the others of its region, nor they it; clients can.
    Isolate(String),
    /// The two regions cannot reach each other.
    CutWan(usize, usize),
    /// A wall clock is wrong by so many milliseconds.
    ClockOffset(String, i64),
    /// Syncs take a hundred times as long.
    SlowDisk(String),
    /// The disk is full.
    FullDisk(String),
    /// A sync fails; the node is restarted at the end.
    FailedSync(String),
    /// The process is killed and a bit of its log flips: it must refuse to start, for ever.
    FlippedBit(String),
}

/// A fault of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// `f3 crash e2`.
    pub id: String,
    /// What.
    pub kind: Kind,
    /// After the begin of the faults, at the earliest.
    pub from: Duration,
    /// When it is undone, at the earliest.
    pub until: Duration,
}

impl Kind {
    /// One word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Kind::Crash(_) => "crash",
            Kind::CrashRegion(_) => "crash-region",
            Kind::Cut(..) => "cut",
            Kind::CutOneWay(..) => "cut-one-way",
            Kind::Hold(..) => "hold",
            Kind::LostAnswers(_) => "lost-answers",
            Kind::Isolate(_) => "isolate",
            Kind::CutWan(..) => "cut-wan",
            Kind::ClockOffset(..) => "clock-offset",
            Kind::SlowDisk(_) => "slow-disk",
            Kind::FullDisk(_) => "full-disk",
            Kind::FailedSync(_) => "failed-sync",
            Kind::FlippedBit(_) => "flipped-bit",
        }
    }

    /// On whom.
    pub fn target(&self) -> String {
        match self {
            Kind::Crash(site)
            | Kind::LostAnswers(site)
            | Kind::Isolate(site)
            | Kind::ClockOffset(site, _)
            | Kind::SlowDisk(site)
            | Kind::FullDisk(site)
            | Kind::FailedSync(site)
            | Kind::FlippedBit(site) => site.clone(),
            Kind::CrashRegion(region) => REGIONS[*region].to_owned(),
            Kind::Cut(a, b) | Kind::Hold(a, b) => format!("{a}<->{b}"),
            Kind::CutOneWay(a, b) => format!("{a}->{b}"),
            Kind::CutWan(a, b) => format!("{}<->{}", REGIONS[*a], REGIONS[*b]),
        }
    }

    /// The sites that it is about: they must be up, so that its effect can be seen.
    pub fn needs(&self) -> Vec<String> {
        match self {
            Kind::Cut(a, b) | Kind::Hold(a, b) | Kind::CutOneWay(a, b) => vec![a.clone(), b.clone()],
            Kind::CutWan(..) => Vec::new(),
            Kind::CrashRegion(region) => site::names(*region).collect(),
            other => vec![other.target()],
        }
    }

    /// From when on its sites are as before.
    fn is_over(&self, until: Duration) -> Duration {
        match self {
            // Its node never comes back.
            Kind::FlippedBit(_) => Duration::MAX,
            _ => until + MARGIN,
        }
    }

    /// True if the sites are down, or not themselves, meanwhile.
    fn is_exclusive(&self) -> bool {
        matches!(
            self,
            Kind::Crash(_) | Kind::CrashRegion(_) | Kind::FailedSync(_) | Kind::FlippedBit(_) | Kind::FullDisk(_)
        )
    }
}

/// What a node needs to be itself again after something that took it down.
const MARGIN: Duration = Duration::from_millis(1_500);

/// A plan for so long.
pub fn plan(seed: u64, lasting: Duration) -> Vec<Planned> {
    let mut rng = chance::stream(seed, "plan");
    let wanted = rng.random_range(4..=10);
    let mut plan: Vec<Planned> = Vec::new();
    // Bounded: what does not fit between the others is not tried for ever.
    for _ in 0..wanted * 4 {
        if plan.len() >= wanted {
            break;
        }
        let kind = kind(&mut rng, site::regions(seed), &plan);
        let from = Duration::from_millis(rng.random_range(0..lasting.as_millis() as u64 * 3 / 4));
        let long = match kind {
            Kind::Crash(_) | Kind::CrashRegion(_) | Kind::FlippedBit(_) => 200..5_000,
            Kind::FailedSync(_) => 1_000..4_000,
            Kind::CutOneWay(..) | Kind::Cut(..) | Kind::CutWan(..) | Kind::Isolate(_) => 700..7_000,
            Kind::Hold(..) => 700..4_000,
            Kind::LostAnswers(_) => 700..3_000,
            Kind::ClockOffset(..) => 1_000..8_000,
            Kind::SlowDisk(_) | Kind::FullDisk(_) => 1_000..4_000,
        };
        let until = (from + Duration::from_millis(rng.random_range(long))).min(lasting);
        if until < from + Duration::from_millis(200) || !fits(&plan, &kind, from, until) {
            continue;
        }
        let id = format!("f{} {} {}", plan.len() + 1, kind.word(), kind.target());
        plan.push(Planned { id, kind, from, until });
    }
    plan.sort_by(|a, b| (a.from, &a.id).cmp(&(b.from, &b.id)));
    plan
}

/// By how much the plan's clocks are wrong at most.
pub fn greatest_offset(plan: &[Planned]) -> Duration {
    let offsets = plan.iter().filter_map(|planned| match planned.kind {
        Kind::ClockOffset(_, ms) => Some(ms.unsigned_abs()),
        _ => None,
    });
    Duration::from_millis(offsets.max().unwrap_or(0))
}

/// By how much they are ahead at most.
pub fn greatest_lead(plan: &[Planned]) -> Duration {
    let leads = plan.iter().filter_map(|planned| match planned.kind {
        Kind::ClockOffset(_, ms) => u64::try_from(ms).ok(),
        _ => None,
    });
    Duration::from_millis(leads.max().unwrap_or(0))
}

/// A fault whose target is down anyway would have no effect of its own.
fn fits(plan: &[Planned], kind: &Kind, from: Duration, until: Duration) -> bool {
    plan.iter().all(|other| {
        let apart = other.kind.is_over(other.until) < from || kind.is_over(until) < other.from;
        let together = other.kind.needs().iter().any(|site| kind.needs().contains(site));
        apart || !together || !(other.kind.is_exclusive() || kind.is_exclusive() || other.kind.word() == kind.word())
    })
}

fn kind(rng: &mut ChaCha8Rng, regions: usize, plan: &[Planned]) -> Kind {
    let region = rng.random_range(0..regions);
    let a = rng.random_range(1..=NODES);
    let b = a % NODES + 1;
    let (here, there) = (name(region, a), name(region, b));
    let flipped = plan.iter().any(|other| matches!(other.kind, Kind::FlippedBit(_)));
    match rng.random_range(0..108) {
        0..30 => Kind::Crash(here),
        30..36 => Kind::CrashRegion(region),
        36..41 => Kind::Cut(here, there),
        41..48 => Kind::Isolate(here),
        48..58 => Kind::CutOneWay(here, there),
        58..66 => Kind::Hold(here, there),
        66..73 => {
            let other = (region + 1) % regions;
            Kind::CutWan(region.min(other), region.max(other))
        }
        73..81 => {
            let offsets = [-3_600_000, -2_000, -100, 100, 400, 5_000, 60_000];
            Kind::ClockOffset(here, offsets[rng.random_range(0..offsets.len())])
        }
        81..87 => Kind::SlowDisk(here),
        87..91 => Kind::FullDisk(here),
        91..97 => Kind::FailedSync(here),
        // One node of the run at most: a region needs its quorum back.
        97..100 if flipped => Kind::Crash(here),
        97..100 => Kind::FlippedBit(here),
        _ => Kind::LostAnswers(here),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_seed_has_one_plan_and_all_kinds_come_up() {
        let lasting = Duration::from_secs(20);
        assert_eq!(plan(7, lasting), plan(7, lasting));
        let mut words = BTreeSet::new();
        for seed in 0..200 {
            let plan = plan(seed, lasting);
            assert!(plan.len() >= 3, "seed {seed}: {plan:?}");
            words.extend(plan.iter().map(|planned| planned.kind.word()));
            assert!(plan.iter().all(|planned| planned.until <= lasting));
        }
        assert_eq!(words.len(), 13, "{words:?}");
    }
}
