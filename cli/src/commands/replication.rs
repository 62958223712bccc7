//! `tidemark replication …`: per table, between this region and its peers.

use crate::args::a_duration;
use crate::commands::quarantine;
use crate::connect::Context;
use crate::failure::{Code, Failure, Result};
use crate::output::{Form, Printer, one};
use clap::{Args, Subcommand};
use serde_json::Value;
use std::time::{Duration, Instant};
use tidemark_client::{Admin, LinkStatus};

/// How long `wait` waits, unless told otherwise.
const WAIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);

/// See the module.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Replicate a table with a peer, both ways; the table is created there if it is missing
    #[command(before_help = "Examples:\n  tidemark replication enable telemetry --peer west")]
    Enable(Link),
    /// Stop replicating a table, in both regions
    #[command(before_help = "Examples:\n  tidemark replication disable telemetry --peer west")]
    Disable {
        #[command(flatten)]
        link: Link,
        /// Switch it off here although the peer does not answer
        #[arg(long)]
        local_only: bool,
    },
    /// Stop shipping to the peer; what is written meanwhile is kept for it
    Pause(Link),
    /// Go on shipping
    Resume(Link),
    Status(Status),
    Wait(Wait),
    /// Rows of a peer that cannot be applied here
    #[command(subcommand)]
    Quarantine(quarantine::Command),
}

/// A table and a peer.
#[derive(Debug, Args)]
pub(crate) struct Link {
    /// The table
    table: String,
    /// The peer; may be left away if the table has only one
    #[arg(long)]
    peer: Option<String>,
}

/// Show state, lag and backlog
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  tidemark replication status
  tidemark replication status telemetry --tablets")]
pub(crate) struct Status {
    /// The table [default: all that are replicated]
    table: Option<String>,
    /// One line a tablet
    #[arg(long)]
    tablets: bool,
}

/// Wait until the peers have caught up; exit code 3 if they have not in time
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  tidemark replication wait telemetry
  tidemark replication wait telemetry --peer west --max-lag 250ms --timeout 5m")]
pub(crate) struct Wait {
    /// The table
    table: String,
    /// Only this peer [default: all]
    #[arg(long)]
    peer: Option<String>,
    /// How far behind a peer may be
    #[arg(long, default_value = "1s", value_parser = a_duration)]
    max_lag: Duration,
}

/// Runs it.
pub(crate) async fn run(command: Command, context: &Context) -> Result<()> {
    match command {
        Command::Wait(wait) => return wait_for(wait, context).await,
        Command::Status(status) => return show(status, context).await,
        Command::Quarantine(command) => return quarantine::run(command, context).await,
        _ => {}
    }
    let admin = context.client().await?.admin();
    match command {
        Command::Enable(link) => {
            let peer = named_peer(&admin, &link, false).await?;
            let outcome = admin.enable_replication(&link.table, &peer).await?;
            let fields = [
                ("table", link.table.into()),
                ("peer", peer.into()),
                ("created_at_peer", outcome.created_at_peer.into()),
                ("families_added", outcome.families_added.into()),
                ("families_added_here", outcome.families_added_here.into()),
            ];
            one(context.form, &fields)
        }
        Command::Disable { link, local_only } => {
            let peer = named_peer(&admin, &link, true).await?;
            admin.disable_replication(&link.table, &peer, local_only).await?;
            eprintln!("{} is not replicated with {peer} any more", link.table);
            Ok(())
        }
        Command::Pause(link) => {
            let peer = named_peer(&admin, &link, true).await?;
            admin.pause_replication(&link.table, &peer).await?;
            eprintln!(
                "paused {} to {peer}; go on with: tidemark replication resume {}",
                link.table, link.table
            );
            Ok(())
        }
        Command::Resume(link) => {
            let peer = named_peer(&admin, &link, true).await?;
            admin.resume_replication(&link.table, &peer).await?;
            eprintln!("resumed {} to {peer}", link.table);
            Ok(())
        }
        Command::Status(_) | Command::Wait(_) | Command::Quarantine(_) => Ok(()),
    }
}

/// The peer that was named, or the only one there is: of the table, or of the region.
async fn named_peer(admin: &Admin, link: &Link, of_table: bool) -> Result<String> {
    if let Some(peer) = &link.peer {
        return Ok(peer.clone());
    }
    let mut peers = if of_table {
        admin.get_table(&link.table).await?.peers
    } else {
        admin.list_peers().await?.into_iter().map(|peer| peer.name).collect()
    };
    match (peers.pop(), peers.is_empty()) {
        (Some(peer), true) => Ok(peer),
        (None, _) if of_table => Err(Failure::new(Code::Refused, format!("{} is not replicated", link.table))
            .next(format!("tidemark replication enable {} --peer NAME", link.table))),
        (None, _) => Err(Failure::new(Code::Refused, "this region knows no peer")
            .next("tidemark peer add NAME --addresses host:port,…")),
        (Some(_), false) => {
            Err(Failure::usage("there are several peers: say which with --peer").next("tidemark peer list"))
        }
    }
}

async fn show(status: Status, context: &Context) -> Result<()> {
    let admin = context.client().await?.admin();
    let links = admin
        .replication_status(status.table.as_deref(), status.tablets)
        .await?;
    if status.tablets {
        return show_tablets(&links, context);
    }
    let columns = [
        "table",
        "peer",
        "state",
        "lag_ms",
        "lag_known",
        "backlog_records",
        "backlog_bytes",
        "rpo_ms",
        "rpo_known",
        "rows_shipped",
        "rows_applied",
        "rows_quarantined",
        "cause",
        "action",
    ];
    let mut printer = Printer::stdout(context.form, &columns)?;
    for link in links {
        printer.push(vec![
            link.table.into(),
            link.peer.into(),
            link.state.as_str().into(),
            age(context.form, link.lag_ms, link.lag_known),
            link.lag_known.into(),
            link.backlog_records.into(),
            link.backlog_bytes.into(),
            age(context.form, link.rpo_ms, link.rpo_known),
            link.rpo_known.into(),
            link.rows_shipped.into(),
            link.rows_applied.into(),
            link.rows_quarantined.into(),
            link.cause.into(),
            link.action.into(),
        ])?;
    }
    printer.finish()
}

fn show_tablets(links: &[LinkStatus], context: &Context) -> Result<()> {
    let columns = [
        "table",
        "peer",
        "tablet",
        "state",
        "lag_ms",
        "lag_known",
        "backlog_records",
        "backlog_bytes",
        "cause",
    ];
    let mut printer = Printer::stdout(context.form, &columns)?;
    for link in links {
        for stream in &link.streams {
            printer.push(vec![
                link.table.as_str().into(),
                link.peer.as_str().into(),
                stream.tablet.into(),
                stream.state.as_str().into(),
                age(context.form, stream.lag_ms, stream.lag_known),
                stream.lag_known.into(),
                stream.backlog_records.into(),
                stream.backlog_bytes.into(),
                stream.cause.as_str().into(),
            ])?;
        }
    }
    printer.finish()
}

/// A lag is exact, however the link stands, or an upper bound: people see which; programs get the number, and beside it
/// whether it is known.
fn age(form: Form, ms: u64, known: bool) -> Value {
    match (form, known) {
        (Form::Table, false) => format!("<= {ms}").into(),
        _ => ms.into(),
    }
}

/// The same in a sentence.
fn in_words(ms: u64, known: bool) -> String {
    if known {
        format!("{ms} ms")
    } else {
        format!("at most {ms} ms (not known exactly)")
    }
}

async fn wait_for(wait: Wait, context: &Context) -> Result<()> {
    let timeout = context.timeout_or(WAIT);
    let began = Instant::now();
    let admin = context.client_with(timeout).await?.admin();
    loop {
        let mut links = admin.replication_status(Some(&wait.table), false).await?;
        links.retain(|link| wait.peer.as_ref().is_none_or(|peer| *peer == link.peer));
        if links.is_empty() {
            let with = wait
                .peer
                .as_deref()
                .map(|peer| format!(" with {peer}"))
                .unwrap_or_default();
            return Err(
                Failure::new(Code::Refused, format!("{} is not replicated{with}", wait.table))
                    .next(format!("tidemark replication enable {} --peer NAME", wait.table)),
            );
        }
        let behind = links.iter().find(|link| !caught_up(link, wait.max_lag));
        let Some(behind) = behind else {
            let lag_ms = links.iter().map(|link| link.lag_ms).max().unwrap_or(0);
            let known = links.iter().all(|link| link.lag_known);
            return one(
                context.form,
                &[
                    ("table", wait.table.into()),
                    ("lag_ms", age(context.form, lag_ms, known)),
                    ("lag_known", known.into()),
                    ("waited_ms", (began.elapsed().as_millis() as u64).into()),
                ],
            );
        };
        if began.elapsed() + POLL > timeout {
            let LinkStatus {
                peer,
                state,
                lag_ms,
                lag_known,
                cause,
                action,
                ..
            } = behind;
            let because = if cause.is_empty() {
                String::new()
            } else {
                format!(": {cause}")
            };
            let lag = in_words(*lag_ms, *lag_known);
            let what = format!("{peer} is {lag} behind in {} and {state}{because}", wait.table);
            return Err(Failure::new(Code::Unavailable, what)
                .next(action.as_str())
                .next(format!("tidemark replication status {} --tablets", wait.table)));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Close enough, and on its way: the lag of a link that does not ship says nothing about the next moment. A lag that is not
/// known is an upper bound, so one that is small enough will do.
fn caught_up(link: &LinkStatus, max_lag: Duration) -> bool {
    let ships = matches!(link.state.as_str(), "STREAMING" | "LAGGING");
    ships && u128::from(link.lag_ms) <= max_lag.as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_that_is_not_known_is_marked_as_the_upper_bound_that_it_is() {
        assert_eq!(age(Form::Table, 7, false), Value::from("<= 7"));
        assert_eq!(age(Form::Table, 7, true), Value::from(7));
        for form in [Form::Json, Form::Jsonl, Form::Csv] {
            assert_eq!(age(form, 7, false), Value::from(7), "programs read lag_known: {form:?}");
        }
        assert_eq!(in_words(7, true), "7 ms");
        assert_eq!(in_words(7, false), "at most 7 ms (not known exactly)");
    }
}
