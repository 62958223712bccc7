//! One node: a put and a scan through every door, and `--dev` without any configuration.

use anyhow::{Context, Result, ensure};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tidemark_client::{Client, ClientOptions, Family, RowMutation, ScanRequest, TableSpec, now_micros};
use tidemark_harness::ready::{http_get, wait_for};
use tidemark_harness::world::binary;
use tidemark_integration::command::Tidemark;
use tidemark_integration::scene::{FAMILY, SOON, Scene, TABLE, alone};
use tidemark_integration::shown;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_through_one_door_is_seen_through_the_other() {
    alone(Duration::from_secs(120), async {
        let scene = Scene::one(1, "").await?;
        let tidemark = Tidemark::new(&scene.world.regions[0].addresses())?;
        tidemark.ok(&["table", "create", TABLE, "--family", FAMILY]).await?;
        tidemark
            .ok(&["put", TABLE, "device-17", "m:temperature=21.5", "m:humidity=40"])
            .await?;
        let row = scene
            .table(0)
            .get("device-17")
            .await?
            .context("the row of the command line")?;
        ensure!(row.cells.len() == 2, "{row:?}");
        ensure!(row.value(FAMILY, "temperature").is_some_and(|v| v == "21.5"), "{row:?}");

        let version = now_micros();
        scene
            .table(0)
            .mutate_row(RowMutation::new("device-18").put(FAMILY, "temperature", version, "-3"))
            .await?;
        let listed = tidemark
            .ok(&["--output", "jsonl", "scan", TABLE, "--prefix", "device-"])
            .await?;
        ensure!(
            listed.contains("device-17") && listed.contains("device-18") && listed.contains("-3"),
            "{listed}"
        );
        let one = tidemark.ok(&["--output", "jsonl", "get", TABLE, "device-18"]).await?;
        ensure!(one.contains("device-18") && !one.contains("device-17"), "{one}");
        ensure!(shown::cells(&scene.table(0)).await?.len() == 3);

        tidemark.ok(&["delete", TABLE, "device-17"]).await?;
        ensure!(
            shown::cells(&scene.table(0)).await?.len() == 1,
            "the deleted row is still shown"
        );
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_mode_serves_without_configuration() {
    alone(Duration::from_secs(120), async {
        let dir = tempfile::tempdir()?;
        // Addresses of its own: the default ones may be taken on the machine that runs this.
        let net = format!("127.9.{}.1", std::process::id() % 250 + 1);
        let (grpc, admin) = (format!("{net}:7311"), format!("{net}:7312"));
        let mut server = Command::new(binary("tidemarkd")?)
            .args([
                "--dev",
                "--until-stdin-closes",
                "--listen",
                &grpc,
                "--admin-listen",
                &admin,
            ])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let checked = async {
            wait_for("the server to be ready", SOON, || async {
                Ok((http_get(&admin, "/readyz").await?.0 == 200).then_some(()))
            })
            .await?;
            let client = Client::connect(ClientOptions::single([grpc.clone()])?).await?;
            client
                .admin()
                .create_table(TableSpec::new(TABLE, [Family::new(FAMILY)]))
                .await?;
            client.table(TABLE).put("row", FAMILY, "q", now_micros(), "v").await?;
            ensure!(client.table(TABLE).count(ScanRequest::all()).await?.cells == 1);
            ensure!(
                http_get(&admin, "/metrics").await?.1.contains("tidemark_"),
                "no metrics"
            );
            ensure_private(&dir.path().join("tidemark-dev"))
        }
        .await;
        // Closes its standard input, which ends it.
        drop(server.stdin.take());
        let ended = wait_for("the server to end", SOON, || {
            std::future::ready(Ok(server.try_wait().ok().flatten()))
        })
        .await;
        if ended.is_err() {
            server.kill()?;
        }
        checked?;
        ensure!(ended?.success(), "the server did not end cleanly");
        Ok(())
    })
    .await;
}

/// Data is nobody else's: files 0600, directories 0700.
fn ensure_private(path: &Path) -> Result<()> {
    let metadata = std::fs::symlink_metadata(path)?;
    let mode = metadata.permissions().mode() & 0o777;
    let right = if metadata.is_dir() { 0o700 } else { 0o600 };
    ensure!(mode == right, "{} has mode {mode:o}, not {right:o}", path.display());
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            ensure_private(&entry?.path())?;
        }
    }
    Ok(())
}
