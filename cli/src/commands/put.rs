//! `tidemark put`: writes cells of one row.

use crate::connect::Context;
use crate::failure::{Failure, Result};
use crate::text::{assignment, unescape};
use crate::times;
use clap::Args;
use tidemark_client::{RowMutation, SERVER_VERSION, now_micros};

/// Write cells of a row, atomically
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  tidemark put telemetry device-17 m:temperature=21.5 m:humidity=40
  tidemark put telemetry device-17 m:temperature=20.9 --version -15m
  tidemark put telemetry device-17 m:raw='\\x00\\xff'")]
pub(crate) struct Put {
    /// The table
    table: String,
    /// The row
    row: String,
    /// What to write
    #[arg(value_name = "FAMILY:QUALIFIER=VALUE", required = true)]
    cells: Vec<String>,
    /// The version of the cells: a time, or `server` for the servers' clock [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    version: Option<String>,
}

/// Runs it.
pub(crate) async fn run(put: Put, context: &Context) -> Result<()> {
    let now = now_micros();
    let version = match put.version.as_deref() {
        None => now,
        Some("server") => SERVER_VERSION,
        Some(text) => times::version(text, now)?,
    };
    let row = mutation(&put.row, &put.cells, version)?;
    let table = context.table(&put.table).await?;
    let written = table.mutate_row(row).await;
    let written = written.map_err(|e| Failure::from(e).doing(&format!("put into {}", put.table)))?;
    context.say(&format!("written in the {} region", written.region));
    Ok(())
}

/// The mutation for texts of the form `FAMILY:QUALIFIER=VALUE`.
pub(crate) fn mutation(row: &str, cells: &[String], version: i64) -> Result<RowMutation> {
    let mut mutation = RowMutation::new(unescape(row)?);
    for cell in cells {
        let (family, qualifier, value) = assignment(cell)?;
        mutation = mutation.put(&family, qualifier, version, value);
    }
    Ok(mutation)
}
