//! The state as a consensus state machine: apply, publish, flush, checkpoint, install.
//!
//! Flushing: the document is rewritten after every [`FLUSH_COMMANDS`] commands, whenever consensus asks, and when a node's
//! incarnation became known (it decides whose votes count while the log is not replayed yet). Between two flushes the Raft log is what survives; a restart loads the document and the log's rest is replayed.

use crate::codec;
use crate::command::Response;
use crate::operation::bootstrap;
use crate::state::{CatalogState, Identity};
use crate::store::{self, WriteError};
use crate::view::CatalogView;
use arc_swap::ArcSwap;
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidemark_base::{ErrorKind, Result};
use tidemark_consensus::{AppliedState, ApplyError, CheckpointError, Entry, Payload, StateMachine, StateMachineFault};
use tokio::sync::watch;

/// Commands after which the document is rewritten without being asked for.
const FLUSH_COMMANDS: u64 = 64;

/// Where readers find the newest view.
pub(crate) struct Published {
    view: ArcSwap<CatalogView>,
    revision: watch::Sender<u64>,
}

impl Published {
    fn new(view: CatalogView) -> Published {
        let revision = watch::Sender::new(view.revision);
        Published {
            view: ArcSwap::from_pointee(view),
            revision,
        }
    }

    pub(crate) fn view(&self) -> Arc<CatalogView> {
        self.view.load_full()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// The view first, then the revision: whoever is woken sees at least that view.
    fn publish(&self, view: CatalogView) {
        let revision = view.revision;
        self.view.store(Arc::new(view));
        self.revision.send_replace(revision);
    }
}

/// This node's replica of the catalog.
pub(crate) struct Machine {
    dir: PathBuf,
    /// What this node's settings say; a catalog that says otherwise belongs to others.
    identity: Identity,
    applied: AppliedState,
    state: CatalogState,
    published: Arc<Published>,
    durable_index: u64,
    commands_unflushed: u64,
    /// An uncertain write: reported by the next apply, which stops the group here.
    poison: Option<String>,
}

impl Machine {
    /// Loads what the last flush left. Refuses a damaged document and one of another cluster.
    pub(crate) fn open(dir: &Path, identity: &Identity) -> Result<Machine> {
        store::prepare(dir)?;
        let (applied, state) = match store::load(dir)? {
            Some(stored) => (stored.applied, stored.state),
            None => (AppliedState::default(), CatalogState::new(identity)),
        };
        if state.identity() != *identity {
            let error = bootstrap::another(&state.identity(), identity);
            return Err(error.object(store::path(dir).display().to_string()));
        }
        Ok(Machine {
            dir: dir.to_owned(),
            identity: identity.clone(),
            durable_index: applied.position.map_or(0, |position| position.index),
            applied,
            published: Arc::new(Published::new(state.view.clone())),
            state,
            commands_unflushed: 0,
            poison: None,
        })
    }

    pub(crate) fn published(&self) -> Arc<Published> {
        self.published.clone()
    }

    fn apply_command(&mut self, bytes: &[u8]) -> std::result::Result<Response, StateMachineFault> {
        // Skipping what this release cannot read would make this replica differ from the others for ever.
        let envelope = codec::decode_envelope(bytes).map_err(|malformed| {
            StateMachineFault(format!("a catalog command in the log is not readable: {malformed}"))
        })?;
        let response = self.state.execute(&envelope);
        self.check_identity()?;
        tracing::debug!(
            verb = envelope.command.verb(),
            revision = response.revision,
            "catalog command applied"
        );
        Ok(response)
    }

    fn check_identity(&self) -> std::result::Result<(), StateMachineFault> {
        let founded = self.state.identity();
        if founded == self.identity {
            return Ok(());
        }
        Err(StateMachineFault(
            bootstrap::another(&founded, &self.identity).to_string(),
        ))
    }

    fn flush(&mut self) {
        match store::save(&self.dir, &self.applied, &self.state) {
            Ok(()) => {
                self.durable_index = self.applied.position.map_or(0, |position| position.index);
                self.commands_unflushed = 0;
            }
            // The log keeps what is not flushed. Tried again when asked, or after as many commands again.
            Err(error @ WriteError::Kept(_)) => {
                tracing::warn!(path = %store::path(&self.dir).display(), %error, "catalog not flushed");
                self.commands_unflushed = 0;
            }
            Err(error @ WriteError::Uncertain(_)) => self.poison = Some(error.to_string()),
        }
    }

    fn check_poison(&self) -> std::result::Result<(), StateMachineFault> {
        self.poison.clone().map_or(Ok(()), |say| Err(StateMachineFault(say)))
    }
}

/// How many nodes' incarnations are known; one that is known does not change.
fn incarnations(view: &CatalogView) -> usize {
    view.nodes.values().filter(|node| !node.incarnation.is_empty()).count()
}

impl StateMachine for Machine {
    fn applied(&mut self) -> std::result::Result<AppliedState, StateMachineFault> {
        Ok(self.applied.clone())
    }

    fn apply(&mut self, entries: Vec<Entry>) -> std::result::Result<Vec<Bytes>, ApplyError> {
        self.check_poison()?;
        let before = self.state.view.revision;
        let known = incarnations(&self.state.view);
        let mut responses = Vec::with_capacity(entries.len());
        for entry in entries {
            let response = match entry.payload {
                Payload::Blank => Bytes::new(),
                Payload::Membership(bytes) => {
                    self.applied.membership = Some((entry.position, bytes));
                    Bytes::new()
                }
                Payload::Command(bytes) => {
                    self.commands_unflushed += 1;
                    codec::encode_response(&self.apply_command(&bytes)?)
                }
            };
            self.applied.position = Some(entry.position);
            responses.push(response);
        }
        if self.state.view.revision != before {
            self.published.publish(self.state.view.clone());
        }
        if self.commands_unflushed >= FLUSH_COMMANDS || incarnations(&self.state.view) != known {
            self.flush();
            self.check_poison()?;
        }
        Ok(responses)
    }

    fn durable_index(&self) -> u64 {
        self.durable_index
    }

    fn request_flush(&mut self) {
        if self.poison.is_none() {
            self.flush();
        }
    }

    fn checkpoint(&mut self, dir: &Path) -> std::result::Result<AppliedState, CheckpointError> {
        self.check_poison()?;
        store::save_copy(dir, &self.applied, &self.state)
            .map_err(|error| CheckpointError::Kept(format!("checkpoint into {}: {error}", dir.display())))?;
        Ok(self.applied.clone())
    }

    fn install(&mut self, dir: &Path) -> std::result::Result<AppliedState, CheckpointError> {
        self.check_poison()?;
        let say = |what: String| format!("install from {}: {what}", dir.display());
        let fault = |what: String| CheckpointError::Fault(StateMachineFault(say(what)));
        let stored = store::load(dir).map_err(|error| match error.kind() {
            ErrorKind::Corruption => fault(error.to_string()),
            _ => CheckpointError::Kept(say(error.to_string())),
        })?;
        let stored = stored.ok_or_else(|| fault("there is no catalog in it".to_owned()))?;
        // Before anything is replaced: a snapshot of another cluster must not destroy this one's state.
        if stored.state.identity() != self.identity {
            return Err(fault(
                bootstrap::another(&stored.state.identity(), &self.identity).to_string(),
            ));
        }
        store::save(&self.dir, &stored.applied, &stored.state).map_err(|error| match error {
            WriteError::Kept(_) => CheckpointError::Kept(say(error.to_string())),
            WriteError::Uncertain(_) => fault(error.to_string()),
        })?;
        self.applied = stored.applied;
        self.state = stored.state;
        self.durable_index = self.applied.position.map_or(0, |position| position.index);
        self.commands_unflushed = 0;
        self.published.publish(self.state.view.clone());
        Ok(self.applied.clone())
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
