//! `tidemark cluster status`: the region's servers and tablets.

use crate::connect::Context;
use crate::failure::Result;
use crate::output::Printer;
use crate::text::escape;
use clap::Subcommand;
use serde_json::Value;
use tidemark_client::ClusterStatus;

/// See the module.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the servers, or with --tablets the tablets
    #[command(before_help = "Examples:\n  tidemark cluster status\n  tidemark cluster status --tablets")]
    Status {
        /// One line a tablet
        #[arg(long)]
        tablets: bool,
    },
}

/// Runs it.
pub(crate) async fn run(command: Command, context: &Context) -> Result<()> {
    let Command::Status { tablets } = command;
    let status = context.client().await?.admin().cluster_status(tablets).await?;
    let catalog = match status.catalog_leader {
        0 => "the catalog has no leader".to_owned(),
        leader => format!("catalog leader n{leader}"),
    };
    let (region, number, version) = (&status.region, status.region_id, &status.version);
    eprintln!("region {region} (r{number}), version {version}, {catalog}");
    if tablets {
        print_tablets(&status, context)
    } else {
        print_nodes(&status, context)
    }
}

fn print_nodes(status: &ClusterStatus, context: &Context) -> Result<()> {
    let columns = [
        "node",
        "address",
        "zone",
        "alive",
        "tablets",
        "leaders",
        "disk_used_bytes",
        "disk_free_bytes",
        "version",
        "trouble",
    ];
    let mut printer = Printer::stdout(context.form, &columns)?;
    for node in &status.nodes {
        printer.push(vec![
            node.id.into(),
            node.address.as_str().into(),
            node.zone.as_str().into(),
            node.alive.into(),
            node.tablets.into(),
            node.leaders.into(),
            node.disk_used_bytes.into(),
            node.disk_free_bytes.into(),
            node.version.as_str().into(),
            node.trouble.as_str().into(),
        ])?;
    }
    printer.finish()
}

fn print_tablets(status: &ClusterStatus, context: &Context) -> Result<()> {
    let columns = [
        "tablet",
        "table",
        "start",
        "end",
        "leader",
        "replicas",
        "disk_bytes",
        "trouble",
    ];
    let mut printer = Printer::stdout(context.form, &columns)?;
    for tablet in &status.tablets {
        let end = tablet.range.end.as_ref().map_or(Value::Null, |end| escape(end).into());
        let leader = if tablet.leader == 0 {
            Value::Null
        } else {
            tablet.leader.into()
        };
        printer.push(vec![
            tablet.tablet.into(),
            tablet.table.as_str().into(),
            escape(&tablet.range.start).into(),
            end,
            leader,
            tablet.replicas.clone().into(),
            tablet.disk_bytes.into(),
            tablet.trouble.as_str().into(),
        ])?;
    }
    printer.finish()
}
