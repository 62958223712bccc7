//! `tidemark-link`: two regions of three servers with a link of a given length between them, and a command of `tidemark` that runs
//! beside them. For figures of replication that a loopback cannot give.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tidemark_harness::world::binary;
use tidemark_nemesis::arena::{Arena, run_name};
use tidemark_nemesis::plan::REGIONS;
use tidemark_nemesis::wan::{Traffic, Way, Weather};
use tidemark_nemesis::{capability, network, orphans};

const EXAMPLES: &str = "\
Examples:
  ./x link -- bench lag --seconds 30 --rate 100000     replication lag over 80 ms there and back
  ./x link --rtt-ms 200 --loss-per-million 1000 -- bench lag --seconds 30 --rate 100000 --server-pids {east}
  ./x link -- cluster status

{east} and {west} in the command become the process ids of a region's servers. The command knows both regions: east first.
It needs root (namespaces) and the packages iproute2, iptables, util-linux, procps.";

/// Two regions with a long link between them, and a command of tidemark.
#[derive(Debug, Parser)]
#[command(name = "tidemark-link", version, after_help = EXAMPLES)]
struct Options {
    /// Milliseconds there and back.
    #[arg(long, default_value_t = 80, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=10_000))]
    rtt_ms: u64,

    /// Up to so many more on each way, by chance; packets keep their order.
    #[arg(long, default_value_t = 0, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=10_000))]
    jitter_ms: u64,

    /// Of a million packets, so many are lost.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    loss_per_million: u32,

    /// Decides jitter and loss.
    #[arg(long, default_value_t = 1, value_name = "S")]
    seed: u64,

    /// What to run.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match perform(&options) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("link: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(options: &Options) -> Result<u8> {
    capability::check_network()?;
    orphans::remove();
    let weather = Weather {
        delay: Duration::from_micros(options.rtt_ms * 500),
        jitter: Duration::from_millis(options.jitter_ms),
        loss_per_million: options.loss_per_million,
        blackhole: false,
    };
    let prefix = format!("tidemark-link-{}-", std::process::id());
    let dir = tempfile::Builder::new().prefix(&prefix).tempdir()?;
    let network = network::Network::with_link(&run_name(std::process::id()), options.seed, weather)?;
    // Threads stand where their parent stood: the command runs where both regions are near.
    network::enter(&network.client_place()?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("no runtime")?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = between(options, network, dir.path()) => outcome,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(10));
    outcome
}

async fn between(options: &Options, network: network::Network, dir: &Path) -> Result<u8> {
    eprintln!(
        "two regions of three servers, {} ms there and back between them",
        options.rtt_ms
    );
    let arena = Arena::plain(network, dir)?;
    arena.start().await?;
    let mut pids = [String::new(), String::new()];
    for at in arena.all() {
        let pid = arena.lock(at).await.process.pid().context("a server ended")?;
        let of_region = &mut pids[at.region];
        if !of_region.is_empty() {
            of_region.push(',');
        }
        *of_region += &pid.to_string();
    }
    let words = options.command.iter().map(|word| {
        let named = REGIONS.iter().zip(&pids);
        named.fold(word.clone(), |word, (name, pids)| {
            word.replace(&format!("{{{name}}}"), pids)
        })
    });
    let before = traffic(&arena)?;
    let status = tokio::process::Command::new(binary("tidemark")?)
        .arg("--address")
        .arg(arena.addresses(0).join(","))
        .arg("--region-addresses")
        .arg(arena.addresses(1).join(","))
        .args(words)
        .kill_on_drop(true)
        .status()
        .await
        .context("tidemark does not start")?;
    for ((now, before), way) in traffic(&arena)?
        .iter()
        .zip(before)
        .zip(["east to west", "west to east"])
    {
        eprintln!(
            "over the link, {way}: {} bytes in {} packets, headers included; {} lost, {} did not fit",
            now.bytes - before.bytes,
            now.delivered - before.delivered,
            now.lost - before.lost,
            now.overflowed - before.overflowed
        );
    }
    for at in arena.all() {
        arena.lock(at).await.process.check_alive()?;
    }
    ensure!(status.code().is_some(), "the command was ended by a signal");
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn traffic(arena: &Arena) -> Result<[Traffic; 2]> {
    let wan = arena.network()?.wan();
    Ok([wan.traffic(Way::There), wan.traffic(Way::Back)])
}
