//! What the driver of a run and its clients share: where the run is, what was asked, what was seen.

use crate::trace::Trace;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_checkers::history::{Phase, PhaseName, Record};
use tidemark_checkers::{FinalState, Recorder};
use tokio::sync::watch;

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Tables are made.
    Setup,
    /// Clients write, faults come and go.
    Begin,
    /// All faults are undone; clients go on.
    Healed,
    /// Clients stop.
    Quiet,
    /// The audit is done.
    End,
}

/// What the driver and the clients share.
#[derive(Clone)]
pub struct Control {
    stage: Arc<watch::Sender<Stage>>,
    counts: Arc<Mutex<Counts>>,
    finals: Arc<Mutex<Vec<FinalState>>>,
    awaited: Arc<Mutex<String>>,
    /// The history.
    pub recorder: Recorder,
    /// The trace.
    pub trace: Trace,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    asked: u64,
    succeeded: u64,
    /// Clients that have not ended.
    clients: u64,
    /// By region and table, writes and reads, since the last change of stage.
    served: BTreeMap<(usize, String, bool), u64>,
}

impl Control {
    /// At the begin of a run.
    pub fn new(recorder: Recorder, trace: Trace) -> Control {
        Control {
            stage: Arc::new(watch::Sender::new(Stage::Setup)),
            counts: Arc::default(),
            finals: Arc::default(),
            awaited: Arc::default(),
            recorder,
            trace,
        }
    }

    /// The stage.
    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Returns when the run is there.
    pub async fn reached(&self, stage: Stage) {
        let mut stages = self.stage.subscribe();
        // The driver holds the sender as long as there are hosts.
        let _ = stages.wait_for(|now| *now >= stage).await;
    }

    /// Goes on to the next stage.
    pub fn enter(&self, stage: Stage) {
        self.counts.lock().served.clear();
        self.trace.event("stage", format!("{stage:?}").as_bytes());
        self.stage.send_replace(stage);
        let names: &[PhaseName] = match stage {
            Stage::Setup => &[],
            Stage::Begin => &[PhaseName::Begin, PhaseName::Faults],
            Stage::Healed => &[PhaseName::Healed],
            Stage::Quiet => &[PhaseName::Quiet],
            Stage::End => &[PhaseName::Converged, PhaseName::End],
        };
        let at = crate::time::nanos();
        for name in names {
            self.recorder.write(&Record::Phase(Phase { name: *name, at }));
        }
    }

    /// Hands in what each region shows in the end.
    pub fn finish(&self, finals: Vec<FinalState>) {
        *self.finals.lock() = finals;
    }

    /// What each region showed in the end.
    pub fn finals(&self) -> Vec<FinalState> {
        self.finals.lock().clone()
    }

    /// Says what is not as it should be yet, for whoever runs out of patience.
    pub fn awaits(&self, what: String) {
        *self.awaited.lock() = what;
    }

    /// What was said last.
    pub fn awaited(&self) -> String {
        self.awaited.lock().clone()
    }

    /// A client has begun.
    pub fn join(&self) {
        self.counts.lock().clients += 1;
    }

    /// A client has ended.
    pub fn leave(&self) {
        self.counts.lock().clients -= 1;
    }

    /// Clients that have not ended.
    pub fn clients(&self) -> u64 {
        self.counts.lock().clients
    }

    /// Operations asked for, and those that succeeded.
    pub fn totals(&self) -> (u64, u64) {
        let counts = self.counts.lock();
        (counts.asked, counts.succeeded)
    }

    /// True if that region has answered a write and a read of each of those tables since the last change of stage: what the
    /// checker asks for after the heal.
    pub fn has_served(&self, region: usize, tables: &[&str]) -> bool {
        let counts = self.counts.lock();
        let served = |table: &str, write| counts.served.get(&(region, table.to_owned(), write));
        tables.iter().all(|table| {
            [true, false]
                .iter()
                .all(|write| served(table, *write).is_some_and(|n| *n > 0))
        })
    }

    /// Counts an operation of a client.
    pub fn note(&self, region: usize, table: &str, write: bool, succeeded: bool) {
        let mut counts = self.counts.lock();
        counts.asked += 1;
        counts.succeeded += u64::from(succeeded);
        let served = counts.served.entry((region, table.to_owned(), write));
        *served.or_default() += u64::from(succeeded);
    }
}
