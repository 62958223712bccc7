//! Network namespaces of one run: a hub per region with its nodes around it, one place for clients, a link between hubs.
//!
//! ```text
//!  client ──eth0──┐                                        ┌──eth1── client
//!  east 1 ──eth0──┤                                        ├──eth0── west 1
//!  east 2 ──eth0──┼── bridge, east hub ─wan0═══wan0─ west hub, bridge ──┼── west 2
//!  east 3 ──eth0──┘                  (wan.rs)              └──eth0── west 3
//! ```
//! Clients stand in both regions, not behind the link: while it is cut both regions take writes, which is the harder
//! case for what comes together afterwards. All names carry the run's number, all devices live inside the namespaces,
//! and removing the namespaces removes everything.

use crate::host::{attempt, run};
use crate::options::Options;
use crate::plan::NODES;
use crate::wan::{self, Wan, Weather};
use anyhow::{Context, Result};
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// In good weather the link is that long.
const LINK: Weather = Weather {
    delay: Duration::from_millis(5),
    jitter: Duration::from_millis(1),
    loss_per_million: 0,
    blackhole: false,
};
/// The regions' numbers of the third byte in 10.61.x.0/24; no address is seen outside the namespaces.
const NET: [u8; 2] = [10, 61];
/// The hub's own number in each region's network.
const HUB: u8 = 254;
/// The clients' number in each region's network.
const CLIENT: u8 = 100;
/// Where iproute2 keeps namespaces.
const NAMESPACES: &str = "/run/netns";
/// The chain that holds all cuts of a node.
const CUTS: &str = "TIDEMARK";

/// What of a node's traffic is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Both directions.
    Both,
    /// Nothing arrives, everything leaves.
    Incoming,
    /// Everything arrives, nothing leaves.
    Outgoing,
}

/// The namespaces of a run. Dropping it removes them.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    nodes: usize,
    wan: Wan,
}

impl Network {
    /// Makes everything for two regions of `nodes` nodes each. What a failure leaves half made is removed.
    pub fn build(prefix: &str, nodes: usize, seed: u64, weather: Weather) -> Result<Network> {
        let built = lay_out(prefix, nodes).and_then(|()| join(prefix, seed, weather));
        match built {
            Ok(wan) => Ok(Network {
                prefix: prefix.to_owned(),
                nodes,
                wan,
            }),
            Err(error) => {
                remove(prefix, nodes);
                Err(error)
            }
        }
    }

    /// The network of a run with those options.
    pub fn build_for(options: &Options, prefix: &str) -> Result<Network> {
        Network::build(prefix, NODES as usize, options.seed, LINK).context("the network cannot be made")
    }

    /// A network whose link is as long as is said.
    pub fn with_link(prefix: &str, seed: u64, weather: Weather) -> Result<Network> {
        Network::build(prefix, NODES as usize, seed, weather).context("the network cannot be made")
    }

    /// The link between the regions.
    pub fn wan(&self) -> &Wan {
        &self.wan
    }

    /// Words to put before a command so that it runs at that node's place, with the same process id.
    pub fn launcher(&self, region: usize, node: u64) -> Vec<String> {
        let place = namespace_path(&node_name(&self.prefix, region, node));
        vec!["nsenter".into(), format!("--net={}", place.display()), "--".into()]
    }

    /// Opens the clients' place, for threads to move into.
    pub fn client_place(&self) -> Result<File> {
        let path = namespace_path(&client_name(&self.prefix));
        File::open(&path).with_context(|| format!("cannot open {}", path.display()))
    }

    /// Cuts a node off from its neighbours in the region and, if `everybody`, from clients and the other region too.
    pub fn cut(&self, region: usize, node: u64, cut: Cut, everybody: bool) -> Result<()> {
        let name = node_name(&self.prefix, region, node);
        let others: Vec<String> = (1..=self.nodes as u64)
            .filter(|n| *n != node)
            .map(|n| node_address(region, n).to_string())
            .collect();
        let others = if everybody {
            "0.0.0.0/0".to_owned()
        } else {
            others.join(",")
        };
        let rules: &[(&str, &str, &str)] = &[("INPUT", "-i", "-s"), ("OUTPUT", "-o", "-d")];
        for (hook, device, side) in rules {
            let wanted = match cut {
                Cut::Both => true,
                Cut::Incoming => *hook == "INPUT",
                Cut::Outgoing => *hook == "OUTPUT",
            };
            if wanted {
                let chain = format!("{CUTS}-{hook}");
                in_place(
                    &name,
                    &[
                        "iptables", "-w", "-A", &chain, device, "eth0", side, &others, "-j", "DROP",
                    ],
                )?;
            }
        }
        Ok(())
    }

    /// Takes all cuts of a node away and says how many packets they had dropped.
    pub fn heal(&self, region: usize, node: u64) -> Result<u64> {
        let name = node_name(&self.prefix, region, node);
        let mut dropped = 0;
        for hook in ["INPUT", "OUTPUT"] {
            let chain = format!("{CUTS}-{hook}");
            dropped += dropped_packets(&in_place(&name, &["iptables", "-w", "-L", &chain, "-v", "-n", "-x"])?);
            in_place(&name, &["iptables", "-w", "-F", &chain])?;
        }
        Ok(dropped)
    }

    /// Narrows the link to that many kilobits a second in both directions.
    pub fn narrow(&self, kilobits: u32) -> Result<()> {
        for region in 0..2 {
            let rate = format!("{kilobits}kbit");
            in_place(
                &hub_name(&self.prefix, region),
                &[
                    "tc", "qdisc", "replace", "dev", "wan0", "root", "tbf", "rate", &rate, "burst", "2kb", "latency",
                    "300ms",
                ],
            )?;
        }
        Ok(())
    }

    /// How often a packet had to wait for the narrow link or was dropped.
    pub fn held(&self) -> Result<u64> {
        let mut held = 0;
        for region in 0..2 {
            let hub = hub_name(&self.prefix, region);
            let said = in_place(&hub, &["tc", "-s", "qdisc", "show", "dev", "wan0"])?;
            held += number_after(&said, "overlimits ") + number_after(&said, "dropped ");
        }
        Ok(held)
    }

    /// Widens the link again.
    pub fn widen(&self) -> Result<()> {
        for region in 0..2 {
            in_place(
                &hub_name(&self.prefix, region),
                &["tc", "qdisc", "del", "dev", "wan0", "root"],
            )?;
        }
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.wan.stop();
        remove(&self.prefix, self.nodes);
    }
}

/// The address of a node inside the run.
pub fn node_address(region: usize, node: u64) -> Ipv4Addr {
    let last = u8::try_from(node).expect("regions have a handful of nodes");
    in_net(region, last)
}

fn in_net(region: usize, last: u8) -> Ipv4Addr {
    let third = u8::try_from(region + 1).expect("there are two regions");
    Ipv4Addr::new(NET[0], NET[1], third, last)
}

fn lay_out(prefix: &str, nodes: usize) -> Result<()> {
    let client = client_name(prefix);
    add_namespace(&client)?;
    for region in 0..2 {
        let hub = hub_name(prefix, region);
        add_namespace(&hub)?;
        in_place(&hub, &["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"])?;
        run("ip", &["-n", &hub, "link", "add", "bridge", "type", "bridge"])?;
        run("ip", &["-n", &hub, "link", "set", "bridge", "up"])?;
        address(&hub, "bridge", in_net(region, HUB))?;
        for node in 1..=nodes as u64 {
            let name = node_name(prefix, region, node);
            add_namespace(&name)?;
            connect(&hub, &format!("node{node}"), &name, "eth0", node_address(region, node))?;
            let hub_address = in_net(region, HUB).to_string();
            run("ip", &["-n", &name, "route", "add", "default", "via", &hub_address])?;
            for hook in ["INPUT", "OUTPUT"] {
                let chain = format!("{CUTS}-{hook}");
                in_place(&name, &["iptables", "-w", "-N", &chain])?;
                in_place(&name, &["iptables", "-w", "-I", hook, "-j", &chain])?;
            }
        }
        connect(&hub, "client", &client, &format!("eth{region}"), in_net(region, CLIENT))?;
    }
    Ok(())
}

/// Makes the link's devices in the clients' place, attaches to them there, and moves them to the hubs: an attached device
/// may be moved, and so nobody has to attach from two places.
fn join(prefix: &str, seed: u64, weather: Weather) -> Result<Wan> {
    let client = client_name(prefix);
    for device in ["wan-first", "wan-second"] {
        run("ip", &["-n", &client, "tuntap", "add", "dev", device, "mode", "tun"])?;
    }
    let place = File::open(namespace_path(&client))?;
    // A thread of its own: whoever calls this stays where it is.
    let attached = std::thread::spawn(move || {
        enter(&place)?;
        wan::attach_both("wan-first", "wan-second")
    });
    let (first, second) = attached
        .join()
        .map_err(|_| anyhow::anyhow!("attaching to the link's devices panicked"))??;
    for (region, device) in ["wan-first", "wan-second"].into_iter().enumerate() {
        let hub = hub_name(prefix, region);
        run("ip", &["-n", &client, "link", "set", device, "netns", &hub])?;
        run("ip", &["-n", &hub, "link", "set", device, "name", "wan0"])?;
        run("ip", &["-n", &hub, "link", "set", "wan0", "up"])?;
        let other = format!("{}/24", in_net(1 - region, 0));
        run("ip", &["-n", &hub, "route", "add", &other, "dev", "wan0"])?;
    }
    Wan::start(first, second, seed, weather)
}

/// Moves the calling thread to a place: sockets that it opens from now on are there.
pub fn enter(place: &File) -> Result<()> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    use std::os::fd::AsFd;
    move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network))
        .context("cannot enter the network namespace")
}

fn add_namespace(name: &str) -> Result<()> {
    run("ip", &["netns", "add", name])?;
    run("ip", &["-n", name, "link", "set", "lo", "up"])?;
    Ok(())
}

/// A pair of devices: `port` on the hub's bridge, `device` with that address at the other place.
fn connect(hub: &str, port: &str, place: &str, device: &str, at: Ipv4Addr) -> Result<()> {
    run(
        "ip",
        &[
            "link", "add", port, "netns", hub, "type", "veth", "peer", "name", device, "netns", place,
        ],
    )?;
    run("ip", &["-n", hub, "link", "set", port, "master", "bridge"])?;
    run("ip", &["-n", hub, "link", "set", port, "up"])?;
    address(place, device, at)?;
    run("ip", &["-n", place, "link", "set", device, "up"])?;
    Ok(())
}

fn address(place: &str, device: &str, at: Ipv4Addr) -> Result<()> {
    run(
        "ip",
        &["-n", place, "address", "add", &format!("{at}/24"), "dev", device],
    )?;
    Ok(())
}

fn in_place(name: &str, command: &[&str]) -> Result<String> {
    run("ip", &[&["netns", "exec", name], command].concat())
}

/// Removes all namespaces of a run, whatever of them there is.
pub fn remove(prefix: &str, nodes: usize) {
    let mut names = vec![client_name(prefix)];
    for region in 0..2 {
        names.push(hub_name(prefix, region));
        names.extend((1..=nodes as u64).map(|n| node_name(prefix, region, n)));
    }
    for name in names.iter().filter(|name| namespace_path(name).exists()) {
        attempt("ip", &["netns", "delete", name]);
    }
}

fn namespace_path(name: &str) -> PathBuf {
    Path::new(NAMESPACES).join(name)
}

fn hub_name(prefix: &str, region: usize) -> String {
    format!("{prefix}-hub{}", region + 1)
}

fn node_name(prefix: &str, region: usize, node: u64) -> String {
    format!("{prefix}-r{}n{node}", region + 1)
}

fn client_name(prefix: &str) -> String {
    format!("{prefix}-client")
}

/// The packets column of `iptables -L -v -n -x`, over all DROP rules.
fn dropped_packets(listing: &str) -> u64 {
    listing
        .lines()
        .filter(|line| line.contains("DROP"))
        .filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

fn number_after(text: &str, word: &str) -> u64 {
    let numbers = text.split(word).skip(1).filter_map(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().ok()
    });
    numbers.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_what_the_tools_print() {
        let listing = "Chain TIDEMARK-INPUT (1 references)\n    pkts      bytes target     prot opt in     out     source \
                       destination\n      17     2040 DROP       0    --  eth0   *       10.61.1.2            0.0.0.0/0\n       3      \
                       180 DROP       0    --  eth0   *       10.61.1.3            0.0.0.0/0\n";
        assert_eq!(dropped_packets(listing), 20);
        assert_eq!(dropped_packets("Chain TIDEMARK-INPUT (1 references)\n"), 0);
        let qdisc = "qdisc tbf 8001: root refcnt 2 rate 1Mbit burst 16Kb lat 300ms\n Sent 100 bytes 2 pkt (dropped 5, \
                     overlimits 12 requeues 0)\n";
        assert_eq!(number_after(qdisc, "overlimits ") + number_after(qdisc, "dropped "), 17);
    }

    #[test]
    fn addresses_are_distinct() {
        let mut all = vec![in_net(0, HUB), in_net(1, HUB), in_net(0, CLIENT), in_net(1, CLIENT)];
        for region in 0..2 {
            all.extend((1..=3).map(|n| node_address(region, n)));
        }
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 10);
    }
}
