//! The plan, carried out: what is on at the moment, what it did, and how it is undone.
//!
//! A fault begins once its time has come and the sites that it is about are up, and ends once its time is over and its
//! effect was seen: a disk that nobody writes to for want of a leader, or a cut across which nobody happens to send, would
//! otherwise prove nothing. Both waits are bounded; what was not seen by then fails the run.

use crate::network;
use crate::plan::{Kind, Planned};
use crate::site::{NODES, Site, name, names, region_of};
use crate::trace::Trace;
use crate::workload::clients;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tidemark_checkers::Recorder;
use tidemark_checkers::history::{Fault, Record};
use turmoil::Sim;

/// How long a fault may go on beyond its time until its effect is seen. Streams that were cut off try again every few
/// seconds, and a region elects in a second.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Room that a full disk has left.
const FULL_BYTES: u64 = 100;

/// Carries out a plan.
pub struct Faults {
    sites: BTreeMap<String, Arc<Site>>,
    plan: Vec<Planned>,
    begun: Option<Duration>,
    on: BTreeMap<usize, On>,
    done: BTreeSet<usize>,
    effects: BTreeMap<String, String>,
    times: BTreeMap<usize, (Duration, Option<Duration>)>,
    /// Directed links that drop, as they are set.
    dropping: BTreeSet<(String, String)>,
    holding: BTreeSet<(String, String)>,
    /// Processes that were up when they were killed.
    killed: u64,
    trace: Trace,
}

/// A fault that is on.
#[derive(Clone, Copy, Debug)]
struct On {
    /// What was counted before, to see what it does.
    count: u64,
    /// When its time is over.
    until: Duration,
}

impl Faults {
    /// Nothing is on.
    pub fn new(sites: Vec<Arc<Site>>, plan: Vec<Planned>, trace: Trace) -> Faults {
        Faults {
            sites: sites.into_iter().map(|site| (site.name.clone(), site)).collect(),
            plan,
            begun: None,
            on: BTreeMap::new(),
            done: BTreeSet::new(),
            effects: BTreeMap::new(),
            times: BTreeMap::new(),
            dropping: BTreeSet::new(),
            holding: BTreeSet::new(),
            killed: 0,
            trace,
        }
    }

    /// The plan's times count from here.
    pub fn begin(&mut self, now: Duration) {
        self.begun = Some(now);
    }

    /// What showed that a fault had an effect.
    pub fn effect(&self, id: &str) -> Option<&String> {
        self.effects.get(id)
    }

    /// True if a node has every reason not to start.
    pub fn may_refuse(&self, site: &str) -> bool {
        let flipped = |planned: &Planned| planned.kind == Kind::FlippedBit(site.to_owned());
        self.plan
            .iter()
            .enumerate()
            .any(|(n, planned)| flipped(planned) && self.times.contains_key(&n))
    }

    /// Turns on and off what is due.
    pub fn step(&mut self, sim: &mut Sim<'_>) {
        let Some(begun) = self.begun else { return };
        let now = sim.elapsed() - begun.min(sim.elapsed());
        for n in 0..self.plan.len() {
            match self.on.get(&n).copied() {
                _ if self.done.contains(&n) => {}
                None if self.plan[n].from <= now && self.has_target(n) => self.turn_on(sim, n, now),
                Some(on) if on.until + PATIENCE <= now || (on.until <= now && self.effect_of(n, on).is_some()) => {
                    self.turn_off(sim, n);
                }
                _ => {}
            }
        }
    }

    /// True if every fault of the plan has come and gone.
    pub fn all_done(&self) -> bool {
        self.done.len() == self.plan.len()
    }

    fn has_target(&self, n: usize) -> bool {
        let needs = self.plan[n].kind.needs();
        needs.iter().all(|site| self.sites[site].inside().is_some())
    }

    /// What it has done so far.
    fn effect_of(&self, n: usize, on: On) -> Option<String> {
        let kind = &self.plan[n].kind;
        let count = self.count(kind).saturating_sub(on.count);
        match kind {
            Kind::FlippedBit(site) => self.sites[site].refused(),
            _ => (count > 0).then(|| format!("{count} {}", unit(kind))),
        }
    }

    /// Undoes everything.
    pub fn heal(&mut self, sim: &mut Sim<'_>) {
        for n in self.on.keys().copied().collect::<Vec<_>>() {
            self.turn_off(sim, n);
        }
        self.begun = None;
    }

    /// Each fault with its effect, for people; also into the history.
    pub fn report(&self, recorder: &Recorder) -> Vec<String> {
        let mut lines = Vec::new();
        for (n, planned) in self.plan.iter().enumerate() {
            let Some((began, ended)) = self.times.get(&n) else {
                continue;
            };
            let effect = self.effects.get(&planned.id).cloned();
            lines.push(format!(
                "{}: {}",
                planned.id,
                effect.as_deref().unwrap_or("nothing was seen of it")
            ));
            recorder.write(&Record::Fault(Fault {
                id: planned.id.clone(),
                kind: planned.kind.word().to_owned(),
                target: planned.kind.target(),
                began: began.as_nanos() as u64,
                ended: ended.map(|ended| ended.as_nanos() as u64),
                effect,
            }));
        }
        lines
    }

    fn turn_on(&mut self, sim: &mut Sim<'_>, n: usize, now: Duration) {
        let planned = self.plan[n].clone();
        self.trace.event("fault on", planned.id.as_bytes());
        tracing::info!(fault = %planned.id, "on");
        let on = On {
            count: self.count(&planned.kind),
            until: now + (planned.until - planned.from),
        };
        match &planned.kind {
            Kind::Crash(site) => self.crash(sim, site),
            Kind::CrashRegion(region) => names(*region).for_each(|site| self.crash(sim, &site)),
            Kind::FlippedBit(site) => {
                self.crash(sim, site);
                if self.sites[site].storage.disk.flip_a_bit() {
                    sim.bounce(site.as_str());
                }
            }
            Kind::ClockOffset(site, ms) => self.sites[site].clock.set_offset_micros(ms * 1_000),
            Kind::SlowDisk(site) => self.sites[site].storage.disk.be_slow(true),
            Kind::FullDisk(site) => self.sites[site].storage.disk.leave_free(FULL_BYTES),
            Kind::FailedSync(site) => self.sites[site].storage.disk.fail_syncs(1),
            Kind::Cut(..)
            | Kind::CutOneWay(..)
            | Kind::Hold(..)
            | Kind::Isolate(_)
            | Kind::LostAnswers(_)
            | Kind::CutWan(..) => {}
        }
        self.on.insert(n, on);
        self.times.insert(n, (sim.elapsed(), None));
        self.set_links(sim);
    }

    fn turn_off(&mut self, sim: &mut Sim<'_>, n: usize) {
        let planned = self.plan[n].clone();
        self.trace.event("fault off", planned.id.as_bytes());
        tracing::info!(fault = %planned.id, "off");
        let seen = self.on.remove(&n).and_then(|on| self.effect_of(n, on));
        self.done.insert(n);
        match &planned.kind {
            Kind::Crash(site) => self.bounce(sim, site),
            Kind::CrashRegion(region) => names(*region).for_each(|site| self.bounce(sim, &site)),
            // It stays away: its log is damaged.
            Kind::FlippedBit(_) => {}
            Kind::ClockOffset(site, _) => self.sites[site].clock.set_offset_micros(0),
            Kind::FullDisk(site) => self.sites[site].storage.disk.leave_free(u64::MAX / 2),
            // A store that saw a sync fail takes nothing until it is opened again.
            Kind::FailedSync(site) => {
                self.crash(sim, site);
                self.bounce(sim, site);
            }
            Kind::SlowDisk(site) => self.sites[site].storage.disk.be_slow(false),
            Kind::Cut(..)
            | Kind::CutOneWay(..)
            | Kind::Hold(..)
            | Kind::Isolate(_)
            | Kind::LostAnswers(_)
            | Kind::CutWan(..) => {}
        }
        self.set_links(sim);
        if let Some((_, ended)) = self.times.get_mut(&n) {
            *ended = Some(sim.elapsed());
        }
        if let Some(seen) = seen {
            self.effects.insert(planned.id, seen);
        }
    }

    /// The number that grows when the fault has an effect.
    fn count(&self, kind: &Kind) -> u64 {
        let disk = |site: &String| self.sites[site].storage.disk.counts();
        match kind {
            Kind::Crash(_) | Kind::CrashRegion(_) => self.killed,
            Kind::ClockOffset(site, _) => self.sites[site].clock.wrong_answers(),
            Kind::SlowDisk(site) => disk(site).slow_syncs,
            Kind::FullDisk(site) => disk(site).refused,
            Kind::FailedSync(site) => disk(site).failed_syncs,
            Kind::FlippedBit(site) => disk(site).flipped,
            Kind::Cut(..)
            | Kind::CutOneWay(..)
            | Kind::Hold(..)
            | Kind::Isolate(_)
            | Kind::LostAnswers(_)
            | Kind::CutWan(..) => links(kind).iter().map(|(from, to)| network::sent(from, to)).sum(),
        }
    }

    fn crash(&mut self, sim: &mut Sim<'_>, site: &str) {
        let own = self.sites[site].clone();
        self.killed += u64::from(own.inside().is_some());
        own.forget();
        sim.crash(site);
        own.storage.disk.crash();
    }

    fn bounce(&self, sim: &mut Sim<'_>, site: &str) {
        sim.bounce(site);
    }

    /// Makes every link what the faults that are on say together: of two cuts of one link, the end of the first must not
    /// end the second.
    fn set_links(&mut self, sim: &mut Sim<'_>) {
        let on = |n: &usize| self.on.contains_key(n);
        let kinds: Vec<&Kind> = (0..self.plan.len()).filter(on).map(|n| &self.plan[n].kind).collect();
        let mut dropping = BTreeSet::new();
        let mut holding = BTreeSet::new();
        for kind in kinds {
            match kind {
                Kind::Hold(a, b) => drop(holding.insert(ordered(a, b))),
                Kind::Cut(..) | Kind::CutOneWay(..) | Kind::Isolate(_) | Kind::LostAnswers(_) | Kind::CutWan(..) => {
                    dropping.extend(links(kind));
                }
                _ => {}
            }
        }
        let pairs: BTreeSet<(String, String)> = dropping
            .symmetric_difference(&self.dropping)
            .map(|(a, b)| ordered(a, b))
            .chain(holding.symmetric_difference(&self.holding).cloned())
            .collect();
        for (a, b) in pairs {
            // From the beginning: turmoil has one state for each direction, and the last call wins.
            sim.release(a.as_str(), b.as_str());
            let forth = dropping.contains(&(a.clone(), b.clone()));
            let back = dropping.contains(&(b.clone(), a.clone()));
            match (forth, back) {
                (true, true) => sim.partition(a.as_str(), b.as_str()),
                (true, false) => sim.partition_oneway(a.as_str(), b.as_str()),
                (false, true) => sim.partition_oneway(b.as_str(), a.as_str()),
                (false, false) if holding.contains(&(a.clone(), b.clone())) => sim.hold(a.as_str(), b.as_str()),
                (false, false) => {}
            }
        }
        self.dropping = dropping;
        self.holding = holding;
    }
}

fn ordered(a: &str, b: &str) -> (String, String) {
    if a < b {
        (a.to_owned(), b.to_owned())
    } else {
        (b.to_owned(), a.to_owned())
    }
}

/// The directed links that a fault touches.
fn links(kind: &Kind) -> Vec<(String, String)> {
    match kind {
        Kind::Cut(a, b) | Kind::Hold(a, b) => vec![(a.clone(), b.clone()), (b.clone(), a.clone())],
        Kind::CutOneWay(a, b) => vec![(a.clone(), b.clone())],
        Kind::Isolate(site) => {
            let neighbours = (1..=NODES).map(|node| format!("{}{node}", &site[..1]));
            neighbours
                .filter(|other| other != site)
                .flat_map(|other| [(other.clone(), site.clone()), (site.clone(), other)])
                .collect()
        }
        Kind::LostAnswers(site) => clients(region_of(site)).map(|client| (site.clone(), client)).collect(),
        Kind::CutWan(a, b) => {
            let pairs = names(*a).flat_map(|here| (1..=NODES).map(move |there| (here.clone(), name(*b, there))));
            pairs
                .flat_map(|(here, there)| [(here.clone(), there.clone()), (there, here)])
                .collect()
        }
        _ => Vec::new(),
    }
}

fn unit(kind: &Kind) -> &'static str {
    match kind {
        Kind::Crash(_) | Kind::CrashRegion(_) => "processes killed",
        Kind::ClockOffset(..) => "wrong answers of the clock",
        Kind::SlowDisk(_) => "slow syncs",
        Kind::FullDisk(_) => "writes without room",
        Kind::FailedSync(_) => "syncs failed",
        Kind::FlippedBit(_) => "bits",
        Kind::Hold(..) => "messages held",
        Kind::LostAnswers(_) => "messages to clients lost",
        Kind::Cut(..) | Kind::CutOneWay(..) | Kind::Isolate(_) | Kind::CutWan(..) => "messages sent into the cut",
    }
}
