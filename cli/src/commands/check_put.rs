//! `tidemark check-put`: a put on a condition.

use super::put::mutation;
use crate::connect::Context;
use crate::failure::{Code, Failure, Result};
use crate::text::{assignment, column, unescape};
use clap::{ArgGroup, Args};
use tidemark_client::{CompareOp, Filter, RowMutation, now_micros};

/// Write cells of a row if a condition holds, atomically; exit code 1 if it does not
#[derive(Debug, Args)]
#[command(
    group(ArgGroup::new("condition").required(true).args(["if_value", "if_present", "if_absent"])),
    before_help = "\
Examples:
  tidemark check-put telemetry device-17 --if meta:owner=alice meta:owner=bob
  tidemark check-put telemetry device-17 --if-absent meta:owner meta:owner=alice"
)]
pub(crate) struct CheckPut {
    /// The table
    table: String,
    /// The row
    row: String,
    /// What to write
    #[arg(value_name = "FAMILY:QUALIFIER=VALUE", required = true)]
    cells: Vec<String>,
    /// The newest value of that column is this one
    #[arg(long = "if", value_name = "FAMILY:QUALIFIER=VALUE")]
    if_value: Option<String>,
    /// That family or column has a cell
    #[arg(long, value_name = "FAMILY[:QUALIFIER]")]
    if_present: Option<String>,
    /// That family or column has no cell
    #[arg(long, value_name = "FAMILY[:QUALIFIER]")]
    if_absent: Option<String>,
}

/// Runs it.
pub(crate) async fn run(check: CheckPut, context: &Context) -> Result<()> {
    let put = mutation(&check.row, &check.cells, now_micros())?;
    let row = unescape(&check.row)?;
    let nothing = RowMutation::new(&row);
    let absent = check.if_absent.is_some();
    let predicate = match (&check.if_value, check.if_present.as_ref().or(check.if_absent.as_ref())) {
        (Some(text), _) => {
            let (family, qualifier, value) = assignment(text)?;
            Filter::new()
                .families([family])
                .qualifiers([qualifier])
                .latest(1)
                .value(CompareOp::Equal, value)
        }
        (None, Some(text)) => match column(text)? {
            (family, Some(qualifier)) => Filter::new().families([family]).qualifiers([qualifier]),
            (family, None) => Filter::new().families([family]),
        },
        (None, None) => return Err(Failure::usage("no condition")),
    };
    let (on_match, on_mismatch) = if absent { (nothing, put) } else { (put, nothing) };
    let table = context.table(&check.table).await?;
    let matched = table
        .check_and_mutate(&row, Some(predicate), on_match, on_mismatch)
        .await?;
    if matched == absent {
        let what = format!("nothing was written: the condition does not hold for row {}", check.row);
        let next = format!("tidemark get {} {}", check.table, check.row);
        return Err(Failure::new(Code::Refused, what).next(next));
    }
    Ok(())
}
