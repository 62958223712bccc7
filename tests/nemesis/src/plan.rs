//! What will be done to whom, decided by profile and seed alone and readable before it happens.
//!
//! ```text
//! plan := step*                 one after the other, with a pause of good weather between them
//! step := fault, target, time   the mix also has steps of two faults that overlap
//! ```
//! A target is a role (the leader of a tablet, a follower) and not a node, because who has the role is known only when
//! the step begins; which node it was stands in the report.

use crate::options::{Options, Profile};
use crate::wan::Way;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Duration;

mod words;

/// Regions by index, for people.
pub const REGIONS: [&str; 2] = ["east", "west"];
/// Nodes of a region.
pub const NODES: u64 = 3;
/// More than any run has time for.
const STEPS_MAX: usize = 10_000;

/// When a node gives up waiting for its leader; part of every node's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two signs of life of a leader.
    pub heartbeat_ms: u64,
    /// A follower waits at least that long,
    pub election_min_ms: u64,
    /// and at most that long.
    pub election_max_ms: u64,
}

impl Timing {
    /// The product's defaults: what is measured with them may be reported.
    pub const DEFAULT: Timing = Timing {
        heartbeat_ms: 150,
        election_min_ms: 500,
        election_max_ms: 750,
    };
    /// Shorter, so that thirty election time-outs fit into a short run.
    pub const QUICK: Timing = Timing {
        heartbeat_ms: 60,
        election_min_ms: 250,
        election_max_ms: 400,
    };
}

/// Who is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The node that leads most tablets of a region.
    Leader(usize),
    /// A node of the region that leads as few as any.
    Follower(usize),
}

impl Target {
    /// The region by index.
    pub fn region(self) -> usize {
        match self {
            Target::Leader(region) | Target::Follower(region) => region,
        }
    }
}

/// One fault. The fields say what their names say; a line above each would repeat the sentence of its fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Fault {
    /// kill -9, and a start after that time.
    Kill { target: Target, down: Duration },
    /// SIGSTOP, and SIGCONT after that time, which is `tenths` tenths of an election time-out.
    Pause {
        target: Target,
        tenths: u32,
        stopped: Duration,
    },
    /// Cut off from its neighbours, or from everybody.
    Isolate {
        target: Target,
        everybody: bool,
        lasting: Duration,
    },
    /// Only one direction is cut.
    OneWay {
        target: Target,
        incoming: bool,
        lasting: Duration,
    },
    /// The link between the regions is cut; `None` = both ways.
    WanCut { way: Option<Way>, lasting: Duration },
    /// The link loses packets and is slow.
    WanStorm {
        loss_per_million: u32,
        delay: Duration,
        jitter: Duration,
        lasting: Duration,
    },
    /// The link is narrow.
    WanNarrow { kilobits: u32, lasting: Duration },
    /// kill -9 of a whole region.
    RegionKill { region: usize, down: Duration },
    /// The node's file system loses what was not synced; `stopped`: the process never sees an error of the disk.
    PowerLoss {
        target: Target,
        stopped: bool,
        down: Duration,
    },
    /// All nodes of a region lose power at one moment.
    RegionPowerLoss { region: usize, down: Duration },
    /// The node's file system is full.
    DiskFull { target: Target, lasting: Duration },
    /// A sync fails, after `skip` that do not; the node is started again afterwards.
    SyncFails { target: Target, skip: u64 },
    /// Syncs take that much longer.
    SyncSlow {
        target: Target,
        syncs: u64,
        by: Duration,
        lasting: Duration,
    },
    /// The clock is wrong from one moment to the next, and right again after a while.
    Clock {
        target: Target,
        offset_ms: i64,
        lasting: Duration,
    },
}

/// Faults that begin together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Good weather before it.
    pub pause: Duration,
    /// One or two.
    pub faults: Vec<Fault>,
}

/// The whole plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How the nodes are configured.
    pub timing: Timing,
    /// In order.
    pub steps: Vec<Step>,
}

impl Plan {
    /// The plan of a run.
    pub fn of(options: &Options) -> Plan {
        let mut draw = Draw {
            rng: ChaCha8Rng::seed_from_u64(options.seed),
            timing: match options.profile {
                Profile::Pause | Profile::Mix => Timing::QUICK,
                _ => Timing::DEFAULT,
            },
        };
        let steps = if let Some(kills) = options.kills {
            (0..kills).map(|n| draw.measured_kill(n)).collect()
        } else if let Some(minutes) = options.minutes {
            draw.steps_for(options.profile, |steps| total(steps) >= minutes)
        } else if let Some(count) = options.count {
            draw.steps_for(options.profile, |steps| steps.len() >= count as usize)
        } else {
            draw.pass(options.profile)
        };
        let mut plan = Plan {
            timing: draw.timing,
            steps,
        };
        if let Some(count) = options.count {
            plan.steps.truncate(count as usize);
        }
        plan
    }

    /// How long all of it takes if nothing waits.
    pub fn length(&self) -> Duration {
        total(&self.steps)
    }
}

fn total(steps: &[Step]) -> Duration {
    steps.iter().map(Step::length).sum()
}

impl Step {
    fn length(&self) -> Duration {
        self.pause + self.faults.iter().map(Fault::length).max().unwrap_or_default()
    }
}

/// Draws faults by seed.
struct Draw {
    rng: ChaCha8Rng,
    timing: Timing,
}

impl Draw {
    fn steps_for(&mut self, profile: Profile, enough: impl Fn(&[Step]) -> bool) -> Vec<Step> {
        let mut steps = Vec::new();
        while !enough(&steps) && steps.len() < STEPS_MAX {
            steps.extend(self.pass(profile));
        }
        steps
    }

    /// Every fault of the profile once, in an order by chance.
    fn pass(&mut self, profile: Profile) -> Vec<Step> {
        let mut faults = self.faults(profile);
        faults.shuffle(&mut self.rng);
        let mut steps: Vec<Step> = Vec::new();
        for fault in faults {
            // In the mix every third step gets a second fault: faults that meet are worse than their sum.
            let joins = profile == Profile::Mix && self.rng.random_ratio(1, 3);
            match steps.last_mut() {
                Some(last) if joins && last.faults.len() == 1 && last.faults[0].overlaps_well(&fault) => {
                    last.faults.push(fault);
                }
                _ => steps.push(Step {
                    pause: self.between(600, 1_400),
                    faults: vec![fault],
                }),
            }
        }
        steps
    }

    /// The regions by turns: while one is hit, the replicas of the other catch up and its leaders settle. The node is
    /// started again when its successors have answered, however long that takes.
    fn measured_kill(&mut self, number: u32) -> Step {
        Step {
            pause: self.between(700, 1_300),
            faults: vec![Fault::Kill {
                target: Target::Leader(number as usize % REGIONS.len()),
                down: Duration::from_millis(300),
            }],
        }
    }

    fn faults(&mut self, profile: Profile) -> Vec<Fault> {
        let leader = Target::Leader(self.rng.random_range(0..2));
        let other_leader = Target::Leader(1 - leader.region());
        let follower = Target::Follower(self.rng.random_range(0..2));
        match profile {
            Profile::Kill => vec![
                self.kill(leader),
                self.kill(other_leader),
                self.kill(follower),
                self.kill(leader),
            ],
            Profile::Pause => vec![
                self.pause(leader, 5),
                self.pause(other_leader, 30),
                self.pause(leader, 300),
            ],
            Profile::Partition => self.cuts(leader, other_leader, follower),
            Profile::WanCut => self.weather(),
            Profile::RegionKill => vec![Fault::RegionKill {
                region: leader.region(),
                down: self.between(3_000, 5_000),
            }],
            Profile::PowerLoss => vec![
                self.power_loss(leader),
                self.power_loss(follower),
                Fault::RegionPowerLoss {
                    region: other_leader.region(),
                    down: self.between(200, 1_000),
                },
            ],
            Profile::DiskFull => vec![self.disk_full(leader), self.disk_full(follower)],
            Profile::Fsync => vec![
                self.sync_fails(leader),
                self.sync_slow(other_leader),
                self.sync_fails(follower),
                self.sync_fails(other_leader),
            ],
            Profile::Clock => self.clocks(leader, other_leader),
            Profile::Mix => Profile::SINGLE.into_iter().flat_map(|p| self.faults(p)).collect(),
        }
    }

    fn kill(&mut self, target: Target) -> Fault {
        Fault::Kill {
            target,
            down: self.between(200, 2_500),
        }
    }

    fn pause(&mut self, target: Target, tenths: u32) -> Fault {
        Fault::Pause {
            target,
            tenths,
            stopped: Duration::from_millis(self.timing.election_max_ms * u64::from(tenths) / 10),
        }
    }

    fn cuts(&mut self, leader: Target, other_leader: Target, follower: Target) -> Vec<Fault> {
        vec![
            // Clients still reach it: whoever asks the old leader must not get an old answer.
            Fault::Isolate {
                target: leader,
                everybody: false,
                lasting: self.between(2_500, 4_000),
            },
            Fault::Isolate {
                target: follower,
                everybody: true,
                lasting: self.between(1_000, 3_000),
            },
            Fault::OneWay {
                target: other_leader,
                incoming: true,
                lasting: self.between(2_500, 4_000),
            },
            Fault::OneWay {
                target: leader,
                incoming: false,
                lasting: self.between(2_500, 4_000),
            },
        ]
    }

    fn weather(&mut self) -> Vec<Fault> {
        let way = *[Way::There, Way::Back]
            .choose(&mut self.rng)
            .expect("there are two ways");
        vec![
            Fault::WanCut {
                way: None,
                lasting: self.between(4_000, 6_000),
            },
            Fault::WanCut {
                way: Some(way),
                lasting: self.between(2_500, 4_000),
            },
            Fault::WanStorm {
                loss_per_million: self.rng.random_range(20_000..150_000),
                delay: self.between(20, 120),
                jitter: self.between(0, 60),
                lasting: self.between(2_500, 4_000),
            },
            Fault::WanNarrow {
                kilobits: self.rng.random_range(30..90),
                lasting: self.between(2_000, 3_000),
            },
        ]
    }

    fn power_loss(&mut self, target: Target) -> Fault {
        Fault::PowerLoss {
            target,
            stopped: self.rng.random_ratio(2, 3),
            down: self.between(100, 1_500),
        }
    }

    fn disk_full(&mut self, target: Target) -> Fault {
        Fault::DiskFull {
            target,
            lasting: self.between(3_000, 5_000),
        }
    }

    fn sync_fails(&mut self, target: Target) -> Fault {
        Fault::SyncFails {
            target,
            skip: self.rng.random_range(0..200),
        }
    }

    fn sync_slow(&mut self, target: Target) -> Fault {
        let by = self.between(30, 400);
        Fault::SyncSlow {
            target,
            syncs: self.rng.random_range(5..20),
            by,
            lasting: self.between(2_500, 3_500),
        }
    }

    fn clocks(&mut self, leader: Target, other_leader: Target) -> Vec<Fault> {
        let sign = if self.rng.random_ratio(1, 2) { 1 } else { -1 };
        vec![
            // Within the allowed skew nothing needs to be noticed; just outside it must be.
            Fault::Clock {
                target: leader,
                offset_ms: sign * self.rng.random_range(400..2_000),
                lasting: self.between(3_000, 4_000),
            },
            Fault::Clock {
                target: other_leader,
                offset_ms: -3_600_000,
                lasting: self.between(3_000, 4_000),
            },
            Fault::Clock {
                target: leader,
                offset_ms: 3_600_000,
                lasting: self.between(3_000, 4_000),
            },
        ]
    }

    fn between(&mut self, low_ms: u64, high_ms: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(low_ms..=high_ms))
    }
}
