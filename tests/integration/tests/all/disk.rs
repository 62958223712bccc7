//! A full disk: reads stay up, writes get a typed error, and writing goes on without a restart when space returns.

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tidemark_client::{Client, ClientOptions, ErrorKind, RetryPolicy, ScanRequest, now_micros};
use tidemark_harness::WorldOptions;
use tidemark_harness::ready::wait_for;
use tidemark_integration::load::{Load, ensure_nothing_lost};
use tidemark_integration::mount::SmallDisk;
use tidemark_integration::scene::{FAMILY, SOON, Scene, TABLE, alone};
use tidemark_integration::shown;

const MIB: u64 = 1 << 20;
const SETTINGS: &str = "[storage]\ndisk_reserve = \"48MiB\"\nlog_segment = \"2MiB\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_writes_only_and_only_while_it_is_full() {
    alone(Duration::from_secs(180), async {
        let dir = tempfile::tempdir()?;
        let Some(disk) = SmallDisk::mount(dir.path(), 192)? else {
            eprintln!("NOT TESTED: this user may not mount a tmpfs, so nothing is known about a full disk");
            return Ok(());
        };
        let options = WorldOptions {
            dir: Some(disk.path().join("world")),
            extra_config: SETTINGS.to_owned(),
            ..WorldOptions::one(1)
        };
        let scene = Scene::start(options).await?;
        scene.create(&[]).await?;
        let table = impatient(&scene).await?.table(TABLE);
        table.put("before", FAMILY, "q", now_micros(), "v").await?;

        let ballast = disk.path().join("ballast");
        fill(&ballast, disk.free()?.saturating_sub(16 * MIB))?;
        let error = wait_for("writes to be refused", SOON, || async {
            Ok(table.put("during", FAMILY, "q", now_micros(), "v").await.err())
        })
        .await?;
        ensure!(error.kind() == ErrorKind::StorageFull, "{error:?}");
        let row = table.get("before").await?.context("reads stay up")?;
        ensure!(row.value(FAMILY, "q").is_some_and(|v| v == "v"), "{row:?}");

        std::fs::remove_file(&ballast)?;
        wait_for("writes to be taken again", SOON, || async {
            table.put("after", FAMILY, "q", now_micros(), "v").await?;
            Ok(Some(()))
        })
        .await?;
        ensure!(table.get("before").await?.is_some() && table.get("after").await?.is_some());
        ensure!(scene.world.regions[0].nodes[0].pid().is_some());
        Ok(())
    })
    .await;
}

/// No reserve to speak of, and memtables that are flushed all the time: log and flushes meet the end of the disk.
const BARE: &str = "[storage]\ndisk_reserve = \"1MiB\"\nlog_segment = \"1MiB\"\nmemtables = \"8MiB\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_filled_to_the_last_byte_under_load_loses_nothing_and_recovers() {
    alone(Duration::from_secs(240), async {
        let dir = tempfile::tempdir()?;
        let Some(disk) = SmallDisk::mount(dir.path(), 256)? else {
            eprintln!("NOT TESTED: this user may not mount a tmpfs, so nothing is known about a full disk");
            return Ok(());
        };
        let options = WorldOptions {
            dir: Some(disk.path().join("world")),
            extra_config: BARE.to_owned(),
            ..WorldOptions::one(1)
        };
        let scene = Scene::start(options).await?;
        scene.create(&[]).await?;
        let table = impatient(&scene).await?.table(TABLE);
        let load = Load::start(&table, "k", 4, 4 << 10);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let ballast = disk.path().join("ballast");
        // Until the file system itself says that it is full; again and again, because flushes make old log superfluous and
        // its removal makes room.
        wait_for("writes to be refused", SOON, || async {
            ensure!(fill(&ballast, u64::MAX).is_err());
            Ok(table.put("during", FAMILY, "q", now_micros(), "v").await.err())
        })
        .await?;
        for _ in 0..10 {
            ensure!(fill(&ballast, u64::MAX).is_err());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        ensure!(
            table.count(ScanRequest::prefix("k00-")).await?.rows > 0,
            "reads stay up"
        );
        std::fs::remove_file(&ballast)?;
        wait_for("writes to be taken again", SOON, || async {
            table.put("after", FAMILY, "q", now_micros(), "v").await?;
            Ok(Some(()))
        })
        .await?;
        let notes = load.end().await?;
        ensure!(
            notes.gap > Duration::from_secs(1),
            "no write met the full disk: nothing is proved"
        );
        ensure_nothing_lost(&notes.acknowledged, shown::cells(&scene.table(0)).await?)
    })
    .await;
}

/// The log has room and the tablets' stores have none: RocksDB itself says that the disk is full, while entries are already
/// committed. They wait to be applied, new writes are refused at the door, and both end by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_room_waits_with_what_is_committed_and_goes_on_without_a_restart() {
    alone(Duration::from_secs(240), async {
        let scene = Scene::one(1, BARE).await?;
        let node = &scene.world.regions[0].nodes[0];
        let (pid, tablets) = (node.pid(), node.data_dir().join("tablets"));
        // Before the first tablet is made: over an empty directory.
        let Some(disk) = SmallDisk::mount(&tablets, 96)? else {
            eprintln!("NOT TESTED: this user may not mount a tmpfs, so nothing is known about a store without room");
            return Ok(());
        };
        scene.create(&[]).await?;
        let table = impatient(&scene).await?.table(TABLE);
        table.put("before", FAMILY, "q", now_micros(), "v").await?;
        let load = Load::start(&table, "k", 4, 4 << 10);
        let ballast = disk.path().join("ballast");
        let refused = "the tablet's store has no room on its disk";
        wait_for("the store to say that it has no room", SOON, || async {
            ensure!(fill(&ballast, u64::MAX).is_err(), "the file system ends");
            let error = table.put("during", FAMILY, "q", now_micros(), "v").await.err();
            Ok(error.filter(|error| error.kind() == ErrorKind::StorageFull && error.to_string().contains(refused)))
        })
        .await?;
        // Not for a moment only: refused and readable for as long as it lasts.
        for _ in 0..10 {
            let _ = fill(&ballast, u64::MAX);
            let error = table.put("during", FAMILY, "q", now_micros(), "v").await.err();
            let error = error.context("a write was taken by a store without room")?;
            ensure!(error.kind() == ErrorKind::StorageFull, "{error:?}");
            let row = table.get("before").await?.context("reads stay up")?;
            ensure!(row.value(FAMILY, "q").is_some_and(|v| v == "v"), "{row:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        std::fs::remove_file(&ballast)?;
        wait_for("writes to be taken again", SOON, || async {
            table.put("after", FAMILY, "q", now_micros(), "v").await?;
            Ok(Some(()))
        })
        .await?;
        let notes = load.end().await?;
        let node = &scene.world.regions[0].nodes[0];
        ensure!(node.pid() == pid, "without a restart of the process");
        let log = std::fs::read_to_string(node.log_path())?;
        ensure!(
            !log.contains("takes no more writes"),
            "a full disk is not a fault: {}",
            node.log_tail(20)
        );
        ensure_nothing_lost(&notes.acknowledged, shown::cells(&scene.table(0)).await?)
    })
    .await;
}

/// A client that gives up soon: a full disk is retried until the deadline, because space may return.
async fn impatient(scene: &Scene) -> Result<Client> {
    let retry = RetryPolicy {
        deadline: Duration::from_secs(1),
        ..RetryPolicy::default()
    };
    let addresses = scene.world.regions[0].addresses();
    Ok(Client::connect(
        ClientOptions::builder()
            .region("east", addresses)
            .retry(retry)
            .build()?,
    )
    .await?)
}

/// Appends so many bytes; an error if the disk is full before that.
fn fill(path: &std::path::Path, bytes: u64) -> Result<()> {
    let mut file = std::fs::File::options().create(true).append(true).open(path)?;
    let block = vec![0xa5; 64 << 10];
    for _ in 0..bytes / block.len() as u64 {
        std::io::Write::write_all(&mut file, &block)?;
    }
    Ok(())
}
