//! The writer's task: owns the core, waits for everything that can wake it, and carries its batches.

use super::core::{Batch, Core, Pending, Settled};
use super::{Message, WriterOptions};
use crate::call::chance;
use crate::error::{ClientError, Failure, Reach};
use crate::routing::RoutingView;
use crate::table::{Table, unencodable, write};
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::{BatchBuilder, ErrorKind};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Messages taken at once.
const MESSAGES_MAX: usize = 1_024;
/// Between two looks for a routing table that could not be had.
const ROUTING_PAUSE: Duration = Duration::from_millis(50);

/// Runs until the inbox is closed and everything is settled.
pub(super) async fn run(table: Table, options: WriterOptions, mut inbox: mpsc::Receiver<Message>) {
    let shared = table.shared.clone();
    let follow = || table.region.unwrap_or_else(|| shared.active());
    let mut core = Core::new(options, shared.options.retry.clone(), follow());
    let mut region = table.shared.watch_active();
    let mut sends: JoinSet<Settled> = JoinSet::new();
    let mut lookups: JoinSet<std::result::Result<Arc<RoutingView>, Failure>> = JoinSet::new();
    let mut messages = Vec::new();
    let mut open = true;
    loop {
        let now = Instant::now();
        if follow() != core.region() {
            core.set_region(follow(), now);
        }
        for batch in core.poll(now) {
            sends.spawn(send(table.clone(), batch));
        }
        if let Some(stale) = core.wants_view().filter(|_| lookups.is_empty()) {
            lookups.spawn(look_up(table.clone(), core.region(), stale));
        }
        if !open && core.is_idle() {
            return;
        }
        let wake_at = core.wake_at(now);
        tokio::select! {
            count = inbox.recv_many(&mut messages, MESSAGES_MAX), if open => {
                open = count > 0;
                for message in messages.drain(..) {
                    take(&mut core, &mut inbox, message);
                }
            }
            Some(settled) = sends.join_next() => {
                let Ok(settled) = settled else {
                    // Its rows are gone and their order with them: stop rather than guess. Tickets say so.
                    tracing::error!(table = %table.name, "a write task died; the writer stops");
                    return;
                };
                core.settle(settled, Instant::now(), chance());
            }
            Some(found) = lookups.join_next() => match found {
                Ok(Ok(view)) => core.set_view(view, Instant::now()),
                Ok(Err(failure)) if failure.error.kind() == ErrorKind::NotFound => core.no_table(&failure.error, Instant::now()),
                // The look-up has paused already; writes that wait too long end by their deadlines.
                Ok(Err(_)) | Err(_) => {}
            },
            changed = region.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = sleep_until(wake_at) => {}
        }
    }
}

fn take(core: &mut Core, inbox: &mut mpsc::Receiver<Message>, message: Message) {
    match message {
        Message::Write(pending) => core.push(pending, Instant::now()),
        Message::Flush(done) => core.push_flush(done),
        Message::Close(done) => {
            inbox.close();
            core.push_flush(done);
        }
    }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn look_up(table: Table, region: usize, stale: Option<u64>) -> std::result::Result<Arc<RoutingView>, Failure> {
    let found = table.shared.routing(region, &table.name, stale).await;
    let no_newer = match &found {
        Ok(view) => stale.is_some_and(|stale| view.generation <= stale),
        Err(_) => true,
    };
    if no_newer {
        table.shared.pause(ROUTING_PAUSE, region).await;
    }
    found
}

/// Encodes and sends one batch and sorts the answer by rows.
async fn send(table: Table, batch: Batch) -> Settled {
    let Batch { view, tablet, rows } = batch;
    let (region, generation, tablet_id) = (view.region, view.generation, view.tablets[tablet].id);
    let mut builder = BatchBuilder::default();
    let mut outcomes: Vec<Option<Failure>> = Vec::with_capacity(rows.len());
    let mut sent = Vec::with_capacity(rows.len());
    for (at, pending) in rows.iter().enumerate() {
        let encoded = pending.mutation.encode(&view.family_ids, &mut builder);
        if encoded.is_ok() {
            sent.push(at);
        }
        outcomes.push(encoded.err().map(|error| unencodable(&table.name, error)));
    }
    let name = table.shared.regions[region].name.clone();
    if let Some(packed) = builder.finish() {
        let timeout = table.shared.options.request_timeout;
        let answer = match table.shared.target_of(region, Some(view), Some(tablet), timeout) {
            Ok(target) => {
                let rpc = write(&target, &table.name, tablet_id, &packed);
                table.shared.watched(&target, table.region.is_none(), rpc).await
            }
            Err(failure) => Err(failure),
        };
        match answer {
            Ok(answer) => {
                for failure in answer.failures {
                    let at = sent.get(failure.index as usize);
                    if let (Some(at), Some(error)) = (at, failure.error) {
                        outcomes[*at] = Some(row_failure(error, &name));
                    }
                }
            }
            Err(failure) => {
                for at in sent {
                    outcomes[at] = Some(failure.clone());
                }
            }
        }
    }
    let outcome = |(pending, failure): (Pending, Option<Failure>)| (pending, failure.map_or(Ok(name.clone()), Err));
    Settled {
        region,
        tablet_id,
        generation,
        rows: rows.into_iter().zip(outcomes).map(outcome).collect(),
    }
}

fn row_failure(error: tidemark_proto::v1::Error, region: &str) -> Failure {
    Failure {
        error: ClientError::from_wire(error).at(region, ""),
        reach: Reach::Answered,
        leader: None,
    }
}
