//! `tidemark peer …`: the other regions.

use crate::connect::Context;
use crate::failure::Result;
use crate::output::{Printer, one};
use clap::{Args, Subcommand};
use tidemark_client::Peer;

/// See the module.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Add(Add),
    /// List all peers
    List,
    /// Forget a peer that no table is replicated with
    Remove {
        /// The peer
        name: String,
    },
}

/// Register a peer region, or change its addresses
#[derive(Debug, Args)]
#[command(
    before_help = "Examples:\n  tidemark peer add west --addresses 127.0.0.1:8311,127.0.0.1:8321,127.0.0.1:8331 --region 2"
)]
pub(crate) struct Add {
    /// The region's name, as it calls itself
    name: String,
    /// Some of its nodes, host:port; several with commas
    #[arg(long, value_delimiter = ',', required = true)]
    addresses: Vec<String>,
    /// The region's number, as it calls itself; 0 = ask it
    #[arg(long, default_value_t = 0)]
    region: u32,
}

/// Runs it.
pub(crate) async fn run(command: Command, context: &Context) -> Result<()> {
    let admin = context.client().await?.admin();
    match command {
        Command::Add(add) => {
            let peer = Peer {
                name: add.name,
                region: add.region,
                addresses: add.addresses,
            };
            let peer = admin.add_peer(peer).await?;
            let fields = [
                ("peer", peer.name.into()),
                ("region", peer.region.into()),
                ("addresses", peer.addresses.into()),
            ];
            one(context.form, &fields)
        }
        Command::List => {
            let mut printer = Printer::stdout(context.form, &["peer", "region", "addresses"])?;
            for peer in admin.list_peers().await? {
                printer.push(vec![peer.name.into(), peer.region.into(), peer.addresses.into()])?;
            }
            printer.finish()
        }
        Command::Remove { name } => {
            admin.remove_peer(&name).await?;
            eprintln!("forgot peer {name}");
            Ok(())
        }
    }
}
