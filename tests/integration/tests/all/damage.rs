//! What a node refuses to start on or to read: another cluster's directory, a directory in use, a damaged file.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidemark_client::now_micros;
use tidemark_harness::ready::wait_for;
use tidemark_harness::world::binary;
use tidemark_harness::{NodeProcess, World, WorldOptions};
use tidemark_integration::load::Load;
use tidemark_integration::scene::{FAMILY, SOON, Scene, alone};
use tidemark_integration::shown;

/// Starts a second node with the first one's data directory and an address of its own; it must end by itself, unhappy.
fn ensure_refuses(
    owner: &NodeProcess,
    scratch: &Path,
    change: impl Fn(String) -> String,
    words: &[&str],
) -> Result<()> {
    let config = change(std::fs::read_to_string(owner.config_path())?);
    std::fs::create_dir_all(scratch)?;
    let path = scratch.join("other.toml");
    std::fs::write(&path, config)?;
    let output = std::process::Command::new("timeout")
        .arg("30")
        .arg(binary("tidemarkd")?)
        .arg("--config")
        .arg(&path)
        .stdin(std::process::Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let code = output.status.code();
    ensure!(
        code.is_some_and(|c| c != 0 && c != 124),
        "it started, or hung, with exit code {code:?}: {said}"
    );
    for word in words {
        ensure!(said.contains(word), "it does not say {word:?}: {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_belongs_to_one_process_and_one_cluster() {
    alone(Duration::from_secs(180), async {
        let mut world = World::start(WorldOptions::one(1)).await?;
        let scratch = world.root().join("scratch");
        let elsewhere = |config: String, owner: &NodeProcess| {
            let ip = owner.spec().grpc.split(':').next().unwrap_or_default().to_owned();
            config.replace(&ip, "127.8.0.9")
        };
        let node = world.regions[0].node(1)?;
        let dir = node.data_dir().display().to_string();
        ensure_refuses(node, &scratch, |c| elsewhere(c, node), &[&dir])?;
        node.stop(Duration::from_secs(30))?;
        let other = |c: String| elsewhere(c, node).replace("name = \"east\"", "name = \"east\"\ncluster = \"other\"");
        ensure_refuses(node, &scratch, other, &["other", "east"])?;
        let other = |c: String| {
            c.replace("[node]\nid = 1", "[node]\nid = 2")
                .replace("[[seeds]]\nid = 1", "[[seeds]]\nid = 2")
        };
        ensure_refuses(node, &scratch, other, &["node"])?;
        // And the rightful owner still starts.
        node.start()?;
        world.regions[0].wait_ready(SOON).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_is_named_and_nothing_is_dropped_silently() {
    alone(Duration::from_secs(180), async {
        let mut scene = Scene::one(1, SMALL).await?;
        scene.create(&[]).await?;
        let load = Load::start(&scene.table(0), "k", 4, 16 << 10);
        let dir = scene.world.regions[0].nodes[0].data_dir();
        wait_for("a flushed file", SOON, || async {
            let mut files = Vec::new();
            // A file may go while the directory is read.
            let _ = collect(&dir, &mut files);
            // Two: the last one may still be being written, and would go when the node stops.
            Ok((files.iter().filter(|(bytes, _)| *bytes > 1 << 20).count() > 1).then_some(()))
        })
        .await?;
        let notes = load.end().await?;
        scene.table(0).put("last", FAMILY, "q", now_micros(), "v").await?;
        let node = scene.world.regions[0].node(1)?;
        node.stop(Duration::from_secs(30))?;
        let damaged = damage_greatest_sst(&node.data_dir())?;
        let name = damaged
            .file_name()
            .and_then(|n| n.to_str())
            .context("a name")?
            .to_owned();
        node.start()?;
        // Either the node says so at once, or the first read of the tablet does; never an answer without the cells.
        let shown = tokio::time::timeout(SOON, shown::cells(&scene.table(0))).await;
        if let Ok(Ok(cells)) = &shown {
            let found = notes.acknowledged.audit(cells.clone());
            ensure!(found.missing == 0, "cells were dropped without a word: {found:?}");
        }
        let node = scene.world.regions[0].node(1)?;
        let said = format!("{:?}\n{}", shown.map(|s| s.map(|c| c.len())), node.log_tail(200));
        ensure!(said.contains(&name), "nobody names {name}: {said}");
        ensure!(
            said.to_lowercase().contains("tablet"),
            "nobody names the tablet: {said}"
        );
        Ok(())
    })
    .await;
}

/// Small memtables, so that a few seconds of writes are flushed.
const SMALL: &str = "[storage]\nmemtables = \"8MiB\"\n";

/// Changes bytes in the middle of the greatest SST file.
fn damage_greatest_sst(dir: &Path) -> Result<PathBuf> {
    let mut files = Vec::new();
    collect(dir, &mut files)?;
    let (length, path) = files
        .into_iter()
        .max()
        .context("there is no SST file: nothing was flushed")?;
    let mut bytes = std::fs::read(&path)?;
    let middle = usize::try_from(length / 2)?;
    for byte in &mut bytes[middle..middle + 64] {
        *byte = !*byte;
    }
    std::fs::write(&path, bytes)?;
    Ok(path)
}

fn collect(dir: &Path, files: &mut Vec<(u64, PathBuf)>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "sst") {
            files.push((path.metadata()?.len(), path));
        }
    }
    Ok(())
}
