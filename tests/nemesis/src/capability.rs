//! What this machine can do, asked before anything is built: a missing capability is named with what provides it.

use crate::host::works;
use crate::options::{Options, Profile};
use crate::wrong_time;
use anyhow::{Result, bail};
use std::path::Path;

/// What is missing, and what brings it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What cannot be done.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Missing {
    fn new(what: &str, remedy: &str) -> Missing {
        Missing {
            what: what.to_owned(),
            remedy: remedy.to_owned(),
        }
    }
}

/// Fails, naming everything that the run needs and the machine lacks.
pub fn check(options: &Options) -> Result<()> {
    if options.without_root && options.profile.needs_root() {
        bail!(
            "the profile {} needs root; without it there are: {}",
            options.profile.name(),
            rootless().join(", ")
        );
    }
    let missing = missing(options);
    if missing.is_empty() {
        return Ok(());
    }
    let mut text = String::from("this machine lacks what the run needs:");
    for one in &missing {
        text += &format!("\n  {}: {}", one.what, one.remedy);
    }
    if !options.without_root {
        text += &format!(
            "\nwithout root: ./x nemesis --without-root, for the profiles {}",
            rootless().join(", ")
        );
    }
    bail!("{text}")
}

/// Names of the profiles that do not need root.
pub fn rootless() -> Vec<&'static str> {
    let all = Profile::SINGLE.into_iter().filter(|p| !p.needs_root());
    all.map(Profile::name).collect()
}

/// Fails, naming what namespaces and a link need and the machine lacks.
pub fn check_network() -> Result<()> {
    let mut missing = Vec::new();
    if rustix::process::geteuid().is_root() {
        network(&mut missing);
    } else {
        missing.push(Missing::new(
            "root",
            "run it as root, in a virtual machine or a privileged container",
        ));
    }
    let lines = missing.iter().map(|one| format!("\n  {}: {}", one.what, one.remedy));
    let text: String = lines.collect();
    if text.is_empty() {
        return Ok(());
    }
    bail!("this machine lacks what a link between regions needs:{text}")
}

fn missing(options: &Options) -> Vec<Missing> {
    let mut missing = Vec::new();
    let profile = options.profile;
    let mix = profile == Profile::Mix;
    if !options.without_root {
        if !rustix::process::geteuid().is_root() {
            // Everything below would fail for this reason alone.
            return vec![Missing::new(
                "root",
                "run it as root, in a virtual machine or a privileged container",
            )];
        }
        network(&mut missing);
    }
    if (mix || matches!(profile, Profile::PowerLoss | Profile::Fsync)) && !options.without_root {
        disks(&mut missing);
    }
    if (mix || profile == Profile::Clock) && wrong_time::library().is_none() {
        missing.push(Missing::new("libfaketime", "apt-get install faketime"));
    }
    if (mix || profile == Profile::Fsync) && !works("cc", &["--version"]) {
        missing.push(Missing::new("a C compiler (cc)", "apt-get install gcc libc6-dev"));
    }
    missing
}

fn network(missing: &mut Vec<Missing>) {
    for (program, argument, package) in [
        ("ip", "-V", "iproute2"),
        ("tc", "-V", "iproute2"),
        ("iptables", "--version", "iptables"),
        ("nsenter", "--version", "util-linux"),
        ("sysctl", "--version", "procps"),
    ] {
        if !works(program, &[argument]) {
            missing.push(Missing::new(program, &format!("apt-get install {package}")));
        }
    }
    if !Path::new("/dev/net/tun").exists() {
        missing.push(Missing::new(
            "/dev/net/tun",
            "modprobe tun; in a container: --device /dev/net/tun",
        ));
    }
    let probe = format!("tm{}-probe", std::process::id());
    if !works("ip", &["netns", "add", &probe]) {
        missing.push(Missing::new(
            "network namespaces",
            "the right to make them (CAP_SYS_ADMIN), a kernel with CONFIG_NET_NS",
        ));
        return;
    }
    if !works(
        "ip",
        &["netns", "exec", &probe, "iptables", "-w", "-A", "INPUT", "-j", "DROP"],
    ) {
        missing.push(Missing::new(
            "iptables in a namespace",
            "a kernel with netfilter, CAP_NET_ADMIN",
        ));
    }
    if !works("ip", &["-n", &probe, "link", "add", "bridge", "type", "bridge"]) {
        missing.push(Missing::new("bridges", "a kernel with CONFIG_BRIDGE (modprobe bridge)"));
    }
    if !works("ip", &["netns", "delete", &probe]) {
        missing.push(Missing::new(
            "removing a namespace",
            &format!("ip netns delete {probe}"),
        ));
    }
}

fn disks(missing: &mut Vec<Missing>) {
    for program in ["mkfs.xfs", "xfs_io"] {
        if !works(program, &["-V"]) {
            missing.push(Missing::new(program, "apt-get install xfsprogs"));
        }
    }
    if !Path::new("/dev/loop-control").exists() {
        missing.push(Missing::new(
            "loop devices",
            "modprobe loop; in a container: --privileged",
        ));
    }
    let kernel = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !kernel.lines().any(|line| line.trim() == "xfs") && !works("modprobe", &["xfs"]) {
        missing.push(Missing::new(
            "XFS in the kernel",
            "a kernel with CONFIG_XFS_FS (modprobe xfs)",
        ));
    }
}
