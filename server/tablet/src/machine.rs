//! The tablet as a state machine of its Raft group: entries in, facts and responses out.
//!
//! One owner, no clock, no await. A fault (failed commit, damaged log, broken invariant) stops the replica: what it holds
//! after an uncertain write is not known, and a reopened engine stands at a cut that is.

use crate::apply::Step;
use crate::command::Command;
use crate::room::RoomWait;
use crate::shared::Shared;
use crate::state::{KEY_APPLIED, State, fault};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tidemark_consensus::{AppliedState, ApplyError, CheckpointError, Entry, Payload, StateMachine, StateMachineFault};
use tidemark_engine::{Engine, EngineError};

/// See the module.
pub(crate) struct Machine {
    shared: Arc<Shared>,
    engine: Arc<dyn Engine>,
    state: State,
    /// Set while the disk is full.
    room_wait: Option<RoomWait>,
}

impl Machine {
    /// Opens the state that the engine holds: its flushed cut. Blocks.
    pub(crate) fn open(shared: Arc<Shared>) -> Result<Machine, StateMachineFault> {
        let engine = shared.engine();
        let state = State::load(&*engine, shared.descriptor.range.clone())?;
        shared.tell_time(&*engine);
        shared.publish(&state, &*engine);
        Ok(Machine {
            shared,
            engine,
            state,
            room_wait: None,
        })
    }

    fn keep_fault(&self, fault: &StateMachineFault) {
        self.shared.fault.lock().get_or_insert_with(|| fault.0.clone());
    }

    /// See `room.rs`.
    fn wait_for_room(&mut self, responses: Vec<Bytes>, why: String) -> Result<Vec<Bytes>, ApplyError> {
        let now = self.shared.clock.monotonic();
        let wait = self.room_wait.get_or_insert_with(|| RoomWait::new(now));
        let (factory, tablet) = (&self.shared.factory, self.shared.descriptor.tablet);
        if wait.is_pointless(now, || factory.has_room(tablet)) {
            return Err(fault(format!(
                "there is room on the disk, but the store does not take it: {why}"
            ))
            .into());
        }
        Err(ApplyError::NoSpace { responses, why })
    }

    fn install_checkpoint(&mut self, dir: &Path) -> Result<(), CheckpointError> {
        let installed = self.shared.factory.install(self.shared.descriptor.tablet, dir);
        let engine = installed.map_err(|error| match error {
            EngineError::NoSpace(why) => CheckpointError::Kept(why),
            other => CheckpointError::Fault(fault(other)),
        })?;
        self.state = State::load(&*engine, self.shared.descriptor.range.clone())?;
        self.engine = engine;
        Ok(())
    }
}

/// Applies entries to a state and its engine; the heart of [`Machine`], without anything around it.
///
/// When the disk is full, the state is taken back to what the engine holds: what was committed before counts, the rest can
/// be given again and is applied as if for the first time.
pub(crate) fn apply_entries(
    state: &mut State,
    engine: &dyn Engine,
    entries: Vec<Entry>,
) -> Result<Vec<Bytes>, ApplyError> {
    let first = entries.first().map_or(0, |entry| entry.position.index);
    let mut responses = Vec::with_capacity(entries.len());
    let mut step = Step::new(state, engine);
    let Err(fault) = run_entries(&mut step, entries, &mut responses) else {
        return Ok(responses);
    };
    if !step.no_space() {
        return Err(fault.into());
    }
    drop(step);
    *state = State::load(engine, state.range.clone())?;
    let applied = state.applied.position.map_or(0, |p| p.index);
    responses.truncate((applied + 1).saturating_sub(first) as usize);
    Err(ApplyError::NoSpace {
        responses,
        why: fault.0,
    })
}

fn run_entries(step: &mut Step<'_>, entries: Vec<Entry>, responses: &mut Vec<Bytes>) -> Result<(), StateMachineFault> {
    for entry in entries {
        let response = match &entry.payload {
            Payload::Blank => Bytes::new(),
            Payload::Membership(bytes) => {
                step.state.applied.membership = Some((entry.position, bytes.clone()));
                Bytes::new()
            }
            Payload::Command(bytes) => Command::run(bytes, step)?,
        };
        step.state.applied.position = Some(entry.position);
        responses.push(response);
        step.entry_done()?;
    }
    step.commit()
}

/// The last entry in the engine's flushed cut; 0 = none.
pub(crate) fn durable_index(engine: &dyn Engine) -> u64 {
    let applied = engine.durable_state(KEY_APPLIED);
    let applied = applied.and_then(|bytes| AppliedState::decode(&bytes).ok());
    applied.and_then(|a| a.position).map_or(0, |p| p.index)
}

impl StateMachine for Machine {
    fn applied(&mut self) -> Result<AppliedState, StateMachineFault> {
        Ok(self.state.applied.clone())
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Result<Vec<Bytes>, ApplyError> {
        let result = match apply_entries(&mut self.state, &*self.engine, entries) {
            Err(ApplyError::NoSpace { responses, why }) => self.wait_for_room(responses, why),
            other => {
                self.room_wait = None;
                other
            }
        };
        if let Err(ApplyError::Fault(fault)) = &result {
            self.keep_fault(fault);
            return result;
        }
        self.shared.no_space.store(self.room_wait.is_some(), Ordering::Relaxed);
        self.shared.publish(&self.state, &*self.engine);
        result
    }

    fn durable_index(&self) -> u64 {
        durable_index(&*self.engine)
    }

    fn request_flush(&mut self) {
        self.shared.flush_wanted.notify_one();
    }

    fn checkpoint(&mut self, dir: &Path) -> Result<AppliedState, CheckpointError> {
        // A copy that failed says nothing about the original; if the engine stopped over it, its next write does.
        let copied = self.engine.checkpoint(dir);
        copied.map_err(|error| CheckpointError::Kept(error.to_string()))?;
        Ok(self.state.applied.clone())
    }

    fn install(&mut self, dir: &Path) -> Result<AppliedState, CheckpointError> {
        let installed = self.install_checkpoint(dir);
        if let Err(CheckpointError::Fault(fault)) = &installed {
            self.keep_fault(fault);
        }
        installed?;
        self.room_wait = None;
        self.shared.no_space.store(false, Ordering::Relaxed);
        self.shared.replace_engine(self.engine.clone());
        self.shared.tell_time(&*self.engine);
        self.shared.publish(&self.state, &*self.engine);
        Ok(self.state.applied.clone())
    }
}
