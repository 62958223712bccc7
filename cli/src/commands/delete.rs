//! `tidemark delete`: cells, columns, families, rows, and ranges of rows.

use crate::connect::Context;
use crate::failure::{Failure, Result};
use crate::select::{CellSelection, Selection};
use crate::text::{column, unescape};
use crate::times;
use clap::Args;
use tidemark_client::{RowMutation, VersionRange, now_micros};

/// Delete a row, parts of it, or a range of rows
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  tidemark delete telemetry device-17                                  the row
  tidemark delete telemetry device-17 m                                a family of it
  tidemark delete telemetry device-17 m:temperature                    a column
  tidemark delete telemetry device-17 m:temperature --until -90d       its older versions
  tidemark delete telemetry device-17 m:temperature --version 2013-12-02T21:15:00Z
  tidemark delete telemetry --prefix test- --yes                       a range of rows")]
pub(crate) struct Delete {
    /// The table
    table: String,
    /// The row
    #[arg(required_unless_present_any = ["prefix", "start", "end"])]
    row: Option<String>,
    /// What of the row; all of it if nothing is named
    #[arg(value_name = "FAMILY[:QUALIFIER]")]
    columns: Vec<String>,
    /// Rows that begin with this
    #[arg(long, conflicts_with_all = ["row", "start", "end"])]
    prefix: Option<String>,
    /// First row of a range
    #[arg(long, conflicts_with = "row")]
    start: Option<String>,
    /// First row after the range
    #[arg(long, conflicts_with = "row")]
    end: Option<String>,
    /// Only this version
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, conflicts_with_all = ["since", "until"])]
    version: Option<String>,
    /// Only versions from this time on
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Only versions up to and including this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// It is meant: ranges ask for it
    #[arg(long)]
    yes: bool,
}

/// Runs it.
pub(crate) async fn run(delete: Delete, context: &Context) -> Result<()> {
    let versions = versions(&delete)?;
    let Some(row) = &delete.row else {
        return delete_range(delete, versions, context).await;
    };
    let mut mutation = RowMutation::new(unescape(row)?);
    if delete.columns.is_empty() {
        mutation = mutation.delete_row(versions);
    }
    for text in &delete.columns {
        mutation = match column(text)? {
            (family, Some(qualifier)) => mutation.delete_column_versions(&family, qualifier, versions),
            (family, None) => mutation.delete_family(&family, versions),
        };
    }
    let table = context.table(&delete.table).await?;
    table.mutate_row(mutation).await?;
    Ok(())
}

fn versions(delete: &Delete) -> Result<VersionRange> {
    if let Some(text) = &delete.version {
        return Ok(VersionRange::one(times::version(text, now_micros())?));
    }
    let cells = CellSelection {
        since: delete.since.clone(),
        until: delete.until.clone(),
        ..CellSelection::default()
    };
    cells.versions()
}

async fn delete_range(delete: Delete, versions: VersionRange, context: &Context) -> Result<()> {
    let selection = Selection {
        prefix: delete.prefix,
        start: delete.start,
        end: delete.end,
        ..Selection::default()
    };
    let range = selection.range()?;
    debug_assert!(selection.names_rows(), "clap asks for a row or for a range");
    if !delete.yes {
        return Err(
            Failure::usage(format!("this deletes every row of a range of {}", delete.table))
                .next("repeat it with --yes; tidemark count with the same range says how many rows that is"),
        );
    }
    let table = context.table(&delete.table).await?;
    table.delete_range(range, versions).await?;
    Ok(())
}
