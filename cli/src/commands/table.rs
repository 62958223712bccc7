//! `tidemark table …`: the tables themselves.

use crate::args::a_duration;
use crate::connect::Context;
use crate::failure::{Failure, Result};
use crate::output::{Printer, one};
use crate::schema;
use crate::splits::{SplitFormat, even};
use crate::text::unescape;
use crate::times::show_duration;
use clap::{Args, Subcommand};
use serde_json::Value;
use std::time::Duration;
use tidemark_client::{Family, TableChange, TableInfo, TableSpec};

const FAMILY: &str = "NAME[:ttl=30d,max-versions=3,compression=zstd,layout=series,block=1h]";

/// See the module.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Create(Create),
    /// List all tables
    List,
    /// Show one table
    Describe {
        /// The table
        table: String,
    },
    Alter(Alter),
    Drop(Drop),
}

/// Create a table
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  tidemark table create telemetry --family m:ttl=90d --family meta:max-versions=3
  tidemark table create telemetry --family m --splits 8 --split-prefix device- --split-format decimal
  tidemark table create telemetry --family m --split-at device-5 --split-at sensor-")]
pub(crate) struct Create {
    /// The table: a letter or _, then letters, digits, _ . -
    table: String,
    /// A family and its settings; repeatable
    #[arg(long = "family", value_name = FAMILY, required = true)]
    families: Vec<String>,
    /// First row of a further tablet; repeatable
    #[arg(long, value_name = "KEY", conflicts_with = "splits")]
    split_at: Vec<String>,
    /// Number of tablets, cut evenly
    #[arg(long, value_name = "N")]
    splits: Option<u32>,
    /// What all keys begin with, for --splits
    #[arg(long, value_name = "TEXT", requires = "splits")]
    split_prefix: Option<String>,
    /// What keys consist of after the prefix, for --splits
    #[arg(long, value_enum, default_value_t = SplitFormat::Printable, requires = "splits")]
    split_format: SplitFormat,
    /// How far ahead of the servers' clocks a version may be [default: 1d]
    #[arg(long, value_name = "DURATION", value_parser = a_duration)]
    max_future: Option<Duration>,
    /// Succeed if the table is there with the same families
    #[arg(long)]
    if_not_exists: bool,
}

/// Add, change and drop families
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  tidemark table alter telemetry --add-family events:ttl=7d
  tidemark table alter telemetry --set-family m:ttl=365d
  tidemark table alter telemetry --drop-family events")]
pub(crate) struct Alter {
    /// The table
    table: String,
    /// A new family; repeatable
    #[arg(long, value_name = FAMILY)]
    add_family: Vec<String>,
    /// A family whose settings are replaced by those given; repeatable
    #[arg(long, value_name = FAMILY)]
    set_family: Vec<String>,
    /// A family that goes with all its cells; repeatable
    #[arg(long, value_name = "NAME")]
    drop_family: Vec<String>,
    /// How far ahead of the servers' clocks a version may be
    #[arg(long, value_name = "DURATION", value_parser = a_duration)]
    max_future: Option<Duration>,
}

/// Drop a table and all its cells
#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  tidemark table drop telemetry --yes")]
pub(crate) struct Drop {
    /// The table
    table: String,
    /// It is meant
    #[arg(long)]
    yes: bool,
}

/// Runs it.
pub(crate) async fn run(command: Command, context: &Context) -> Result<()> {
    match command {
        Command::Create(create) => {
            let doing = format!("creating table {}", create.table);
            let spec = spec(create)?;
            let admin = context.client().await?.admin();
            let info = admin
                .create_table(spec)
                .await
                .map_err(|e| Failure::from(e).doing(&doing))?;
            describe(context, &info)
        }
        Command::List => list(context).await,
        Command::Describe { table } => {
            let info = context.client().await?.admin().get_table(&table).await?;
            describe(context, &info)
        }
        Command::Alter(alter) => {
            let change = TableChange {
                add_families: families(&alter.add_family)?,
                set_families: families(&alter.set_family)?,
                drop_families: alter.drop_family,
                max_future: alter.max_future,
            };
            if change == TableChange::default() {
                return Err(Failure::usage("nothing to change").next("tidemark table alter --help"));
            }
            let info = context
                .client()
                .await?
                .admin()
                .alter_table(&alter.table, change)
                .await?;
            describe(context, &info)
        }
        Command::Drop(Drop { table, yes }) => {
            if !yes {
                return Err(Failure::usage(format!("dropping {table} deletes all its cells"))
                    .next(format!("tidemark table drop {table} --yes")));
            }
            context.client().await?.admin().drop_table(&table).await?;
            eprintln!("dropped {table}");
            Ok(())
        }
    }
}

fn spec(create: Create) -> Result<TableSpec> {
    let split_at = match create.splits {
        Some(tablets) => {
            let prefix = unescape(create.split_prefix.as_deref().unwrap_or_default())?;
            even(tablets, &prefix, create.split_format)?
        }
        None => create
            .split_at
            .iter()
            .map(|key| unescape(key))
            .collect::<Result<Vec<_>>>()?,
    };
    if split_at.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(Failure::usage(
            "--split-at keys are given in ascending order, each once",
        ));
    }
    Ok(TableSpec {
        families: families(&create.families)?,
        split_at,
        max_future: create.max_future,
        if_not_exists: create.if_not_exists,
        ..TableSpec::new(create.table, [])
    })
}

fn families(texts: &[String]) -> Result<Vec<Family>> {
    texts.iter().map(|text| schema::family(text)).collect()
}

async fn list(context: &Context) -> Result<()> {
    let tables = context.client().await?.admin().list_tables().await?;
    let mut printer = Printer::stdout(context.form, &["table", "families", "tablets", "peers"])?;
    for table in tables {
        let families: Vec<String> = table.families.iter().map(schema::show).collect();
        printer.push(vec![
            table.name.into(),
            families.into(),
            table.tablets.into(),
            table.peers.into(),
        ])?;
    }
    printer.finish()
}

fn describe(context: &Context, table: &TableInfo) -> Result<()> {
    let families: Vec<String> = table.families.iter().map(schema::show).collect();
    let fields: [(&str, Value); 6] = [
        ("table", table.name.as_str().into()),
        ("families", families.into()),
        ("tablets", table.tablets.into()),
        ("max_future", show_duration(table.max_future).into()),
        ("revision", table.revision.into()),
        ("peers", table.peers.clone().into()),
    ];
    one(context.form, &fields)
}
