//! A cluster that grows: a node that is no seed registers, is ready, serves what it does not lead, and takes tablets.

use anyhow::{Context, ensure};
use std::time::Duration;
use tidemark_client::{Client, ClientOptions, Family, TableSpec, now_micros};
use tidemark_harness::ready::wait_for;
use tidemark_integration::scene::{FAMILY, SOON, Scene, TABLE, alone};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins_later_registers_forwards_and_takes_tablets() {
    alone(Duration::from_secs(180), async {
        let mut scene = Scene::one(1, "").await?;
        scene.create(&["m"]).await?;
        scene.table(0).put("a-row", FAMILY, "q", now_micros(), "before").await?;
        let root = scene.world.root().to_owned();
        let east = &mut scene.world.regions[0];
        let id = east.add_node(&root)?;
        east.start_all()?;
        east.wait_ready(SOON).await?;
        wait_for("the node to be listed as live", SOON, || async {
            let status = scene.clients[0].admin().cluster_status(false).await?;
            let node = status.nodes.into_iter().find(|node| node.id == id);
            let node = node.context("not registered")?;
            ensure!(node.alive, "registered and not live");
            Ok(Some(()))
        })
        .await?;
        // It leads nothing that was there before, and any node answers any request.
        let joiner = scene.world.regions[0].node(id)?.spec().grpc.clone();
        let through = Client::connect(ClientOptions::builder().region("east", [joiner]).build()?).await?;
        let row = through
            .table(TABLE)
            .get("a-row")
            .await?
            .context("the row is not there")?;
        ensure!(row.cells.len() == 1, "{row:?}");
        // Of a new table's two tablets it gets one: two nodes make single replicas (see the catalog's placement).
        let spec = TableSpec {
            split_at: vec![b"m".to_vec()],
            ..TableSpec::new("later", [Family::new(FAMILY)])
        };
        through.admin().create_table(spec).await.context("table create")?;
        for row in ["a", "z"] {
            through.table("later").put(row, FAMILY, "q", now_micros(), "v").await?;
        }
        let status = through.admin().cluster_status(true).await?;
        let mine: Vec<_> = status.tablets.iter().filter(|tablet| tablet.table == "later").collect();
        ensure!(mine.iter().any(|tablet| tablet.replicas == [id]), "{mine:?}");
        Ok(())
    })
    .await;
}
