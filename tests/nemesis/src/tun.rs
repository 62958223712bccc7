//! Attaching to a TUN device: the one place of the rig with a system call that has no safe form.

use anyhow::{Context, Result, ensure};
use rustix::ioctl::{Updater, ioctl};
use std::fs::File;

/// `TUNSETIFF` of linux/if_tun.h.
const ATTACH: rustix::ioctl::Opcode = 0x4004_54ca;
/// A device of IP packets (`IFF_TUN`), without a header before each (`IFF_NO_PI`).
const PLAIN_PACKETS: u16 = 0x0001 | 0x1000;

/// Linux's `struct ifreq`, of which only name and flags matter here.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Attaches to the device of that name in this thread's network namespace; it must exist. Each read gives a packet that
/// was routed into the device, each write makes one come out of it.
pub fn attach(name: &str) -> Result<File> {
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: PLAIN_PACKETS,
        rest: [0; 22],
    };
    ensure!(name.len() < request.name.len(), "{name} is too long for a device");
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .context("cannot open /dev/net/tun")?;
    // SAFETY: TUNSETIFF takes a pointer to a struct ifreq, which InterfaceRequest is in size (40 bytes on 64-bit Linux)
    // and layout; it lives until the call is over, and every bit pattern that the kernel may write into it is valid.
    #[allow(unsafe_code)]
    unsafe { ioctl(&file, Updater::<ATTACH, InterfaceRequest>::new(&mut request)) }
        .with_context(|| format!("cannot attach to {name}"))?;
    Ok(file)
}

const _: () = assert!(size_of::<InterfaceRequest>() == 40, "struct ifreq has 40 bytes");
