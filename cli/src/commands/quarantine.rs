//! `tidemark replication quarantine …`: rows of a peer that cannot be applied here.

use crate::connect::Context;
use crate::failure::{Failure, Result};
use crate::output::{Form, Printer, one};
use crate::text::escape;
use crate::times::{show, show_duration};
use clap::{Args, Subcommand};
use serde_json::Value;
use std::time::Duration;

/// See the module.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    List(List),
    Discard(Discard),
}

/// Show what waits, why, and what to do
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  tidemark replication quarantine list telemetry
  tidemark replication quarantine list telemetry --peer west --limit 1000 --output json")]
pub(crate) struct List {
    /// The table
    table: String,
    /// Only what came from this peer [default: from all]
    #[arg(long)]
    peer: Option<String>,
    /// Entries to show, at most 1000
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

/// Give rows up for good: the peer does not send them again, and the regions differ by them
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  tidemark replication quarantine discard telemetry --peer west --entry 5:2:9:258 --accept-loss
  tidemark replication quarantine discard telemetry --peer west --all --accept-loss")]
pub(crate) struct Discard {
    /// The table
    table: String,
    /// The peer that the rows came from
    #[arg(long)]
    peer: String,
    /// An entry, by the id that `list` shows; repeatable
    #[arg(
        long = "entry",
        value_name = "ID",
        conflicts_with = "all",
        required_unless_present = "all"
    )]
    entries: Vec<String>,
    /// Everything of that peer that waits now
    #[arg(long)]
    all: bool,
    /// It is meant: the rows are lost to this region
    #[arg(long)]
    accept_loss: bool,
}

/// Runs it.
pub(crate) async fn run(command: Command, context: &Context) -> Result<()> {
    match command {
        Command::List(list) => show_entries(list, context).await,
        Command::Discard(discard) => give_up(discard, context).await,
    }
}

async fn show_entries(list: List, context: &Context) -> Result<()> {
    let admin = context.client().await?.admin();
    let quarantine = admin
        .list_quarantine(&list.table, list.peer.as_deref(), list.limit)
        .await?;
    let columns = [
        "id",
        "peer",
        "tablet",
        "cause",
        "written",
        age_column(context.form),
        "rows",
        "bytes",
        "sample_rows",
        "action",
    ];
    let mut printer = Printer::stdout(context.form, &columns)?;
    for entry in quarantine.entries {
        let sample: Vec<String> = entry.sample_rows.iter().map(|row| escape(row)).collect();
        printer.push(vec![
            entry.id.into(),
            entry.peer.into(),
            entry.tablet.into(),
            entry.cause.into(),
            match entry.oldest_micros {
                0 => Value::Null,
                micros => show(micros).into(),
            },
            shown_age(context.form, entry.age_ms),
            entry.rows.into(),
            entry.bytes.into(),
            sample.into(),
            entry.action.into(),
        ])?;
    }
    printer.finish()?;
    if quarantine.more {
        eprintln!("there is more than is shown: --limit shows up to 1000 entries");
    }
    Ok(())
}

fn age_column(form: Form) -> &'static str {
    match form {
        Form::Table => "age",
        _ => "age_ms",
    }
}

/// People get a duration in words, programs milliseconds.
fn shown_age(form: Form, age_ms: u64) -> Value {
    match form {
        Form::Table => show_duration(Duration::from_secs(age_ms / 1_000)).into(),
        _ => age_ms.into(),
    }
}

async fn give_up(discard: Discard, context: &Context) -> Result<()> {
    let Discard {
        table,
        peer,
        entries,
        all,
        accept_loss,
    } = discard;
    if !accept_loss {
        let what = match all {
            true => format!("everything that {peer} wrote to {table} and that waits here"),
            false => format!("{} entries of {peer} in {table}", entries.len()),
        };
        return Err(Failure::usage(format!(
            "{what} would be lost to this region: the peer does not send it again, and the regions differ by it"
        ))
        .next(format!(
            "look first: tidemark replication quarantine list {table} --peer {peer}; then repeat with --accept-loss"
        )));
    }
    let admin = context.client().await?.admin();
    let discarded = admin.discard_quarantine(&table, &peer, &entries, accept_loss).await?;
    eprintln!(
        "{} rows of {peer} are lost to this region; the digests of {table} in the two regions may differ from now on",
        discarded.rows
    );
    let fields = [
        ("table", table.into()),
        ("peer", peer.into()),
        ("entries", discarded.entries.into()),
        ("rows", discarded.rows.into()),
        ("bytes", discarded.bytes.into()),
    ];
    one(context.form, &fields)
}
