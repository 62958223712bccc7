//! `tidemark aggregate`: numbers counted and added up where they are.

use crate::args::a_duration;
use crate::connect::Context;
use crate::failure::{Failure, Result};
use crate::output::Printer;
use crate::select::Selection;
use crate::text::escape;
use crate::times::show;
use clap::{Args, ValueEnum};
use serde_json::Value;
use std::time::Duration;
use tidemark_client::{AggregateGroup, AggregateRequest, NumberForm};

/// How values are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Numbers {
    /// Decimal text: -21.5
    Text,
    /// Eight bytes, a big-endian float
    Float,
    /// Eight bytes, a big-endian signed integer: what increment writes
    Integer,
}

/// Count, add up and compare the numbers in cells, by column and time
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  tidemark aggregate telemetry --column m:temperature --since -1d --every 1h
  tidemark aggregate telemetry --prefix device-7 --by-row --numbers float
  tidemark aggregate telemetry --every 15m --output csv")]
pub(crate) struct Aggregate {
    /// The table
    table: String,
    /// One line for each stretch of time of that length; without it one for all time
    #[arg(long, value_name = "DURATION", value_parser = a_duration)]
    every: Option<Duration>,
    /// One line for each row, instead of one for all rows
    #[arg(long)]
    by_row: bool,
    /// How values are read as numbers
    #[arg(long, value_enum, default_value_t = Numbers::Text)]
    numbers: Numbers,
    #[command(flatten)]
    selection: Selection,
}

/// Runs it.
pub(crate) async fn run(aggregate: Aggregate, context: &Context) -> Result<()> {
    if aggregate.selection.limit.is_some() || aggregate.selection.reverse {
        return Err(Failure::usage("--limit and --reverse mean nothing to an aggregate")
            .next("choose rows by --prefix, --start and --end"));
    }
    let mut request = AggregateRequest::of(aggregate.selection.request()?).numbers(match aggregate.numbers {
        Numbers::Text => NumberForm::Text,
        Numbers::Float => NumberForm::Float,
        Numbers::Integer => NumberForm::Integer,
    });
    if let Some(length) = aggregate.every {
        request = request.every(length);
    }
    if aggregate.by_row {
        request = request.by_row();
    }
    let table = context.table(&aggregate.table).await?;
    let groups = table.aggregate(request).await?;
    let (time, row) = (aggregate.every.is_some(), aggregate.by_row);
    let mut columns = vec!["family", "qualifier", "count", "min", "max", "mean", "sum", "others"];
    if time {
        columns.insert(2, "from");
    }
    if row {
        columns.insert(0, "row");
    }
    let mut printer = Printer::stdout(context.form, &columns)?;
    for group in &groups {
        printer.push(record(group, time, row))?;
    }
    printer.finish()?;
    context.say(&format!("{} groups", groups.len()));
    Ok(())
}

fn record(group: &AggregateGroup, time: bool, row: bool) -> Vec<Value> {
    let stats = &group.stats;
    let some = |number: f64| match stats.count {
        0 => Value::Null,
        _ => number.into(),
    };
    let mut record: Vec<Value> = vec![
        group.family.clone().into(),
        escape(&group.qualifier).into(),
        stats.count.into(),
        some(stats.min),
        some(stats.max),
        stats.mean().map_or(Value::Null, Value::from),
        some(stats.sum),
        stats.others.into(),
    ];
    if time {
        record.insert(2, show(group.bucket).into());
    }
    if row {
        record.insert(0, escape(&group.row).into());
    }
    record
}
