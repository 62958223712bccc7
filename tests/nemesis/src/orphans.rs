//! What runs left behind that were themselves killed: namespaces and mounts that carry the number of a process which is
//! gone.

use crate::host::attempt;
use std::path::Path;

/// Removes them. Whatever cannot be removed stays, and disturbs nobody: every run has names of its own.
pub fn remove() {
    let namespaces = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for entry in namespaces {
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_orphan(owner_of_namespace(&name)) {
            attempt("ip", &["netns", "delete", &name]);
        }
    }
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    for place in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        if is_orphan(owner_of_mount(place)) {
            attempt("umount", &["--lazy", place]);
        }
    }
}

fn is_orphan(owner: Option<u32>) -> bool {
    owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// `tm123-hub1` -> 123
fn owner_of_namespace(name: &str) -> Option<u32> {
    name.strip_prefix("tm")?.split_once('-')?.0.parse().ok()
}

/// `…/tidemark-nemesis-123-abc/…` -> 123
fn owner_of_mount(place: &str) -> Option<u32> {
    let rest = place.split("/tidemark-nemesis-").nth(1)?;
    rest.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_read() {
        assert_eq!(owner_of_namespace("tm123-hub1"), Some(123));
        assert_eq!(
            owner_of_mount("/tmp/tidemark-nemesis-77-aB3/east/node-1/disk"),
            Some(77)
        );
        for other in ["tm-hub1", "tmx-1", "blue", "tm12"] {
            assert_eq!(owner_of_namespace(other), None, "{other}");
        }
        assert_eq!(owner_of_mount("/var/lib"), None);
        assert!(!is_orphan(Some(std::process::id())) && !is_orphan(None));
    }
}
