//! Both regions write and delete the same cells at the same time; both end with the same winners (O5), and each winner is
//! a write that nobody followed (O6).

use anyhow::{Result, ensure};
use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::{Duration, Instant};
use tidemark_client::{RowMutation, Table, VersionRange};
use tidemark_integration::history::{Effect, History};
use tidemark_integration::scene::{FAMILY, Scene, alone};
use tidemark_integration::shown;

const ROWS: u32 = 6;
const QUALIFIERS: u32 = 3;
const VERSIONS: i64 = 3;
const WRITERS: u64 = 4;
const WRITES: u32 = 150;

/// Row, qualifier, version.
type Coordinate = (String, String, i64);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_overwrites_and_deletes_converge_to_the_right_winners() {
    alone(Duration::from_secs(240), async {
        let scene = Scene::two(3).await?;
        scene.replicate(&["c-2", "c-4"]).await?;
        let writers = (0..2 * WRITERS).map(|n| {
            let region = usize::from(n >= WRITERS);
            tokio::spawn(write(scene.table(region), n))
        });
        let mut history = History::new(Duration::from_millis(5));
        for writer in writers.collect::<Vec<_>>() {
            history.merge(writer.await??);
        }
        scene.wait_equal().await?;
        let east = shown::map(&scene.table(0)).await?;
        let west = shown::map(&scene.table(1)).await?;
        ensure!(east == west, "the digests are equal and the contents are not");
        let mut puts = 0;
        for coordinate in all_coordinates() {
            let (row, qualifier, version) = coordinate.clone();
            let cell = (Bytes::from(row), FAMILY.to_owned(), Bytes::from(qualifier), version);
            let shown = east.get(&cell);
            puts += usize::from(shown.is_some());
            ensure!(
                history.allows(&coordinate, shown),
                "{coordinate:?} shows {shown:?}, which was overwritten or deleted"
            );
        }
        ensure!(puts == east.len(), "cells are shown that nobody wrote");
        ensure!(
            puts > 0 && history.coordinates().count() > puts,
            "{puts} puts won: nothing is proved"
        );
        Ok(())
    })
    .await;
}

fn all_coordinates() -> impl Iterator<Item = Coordinate> {
    let rows = (0..ROWS).map(|n| format!("c-{n}"));
    rows.flat_map(|row| {
        (0..QUALIFIERS).flat_map(move |q| {
            let row = row.clone();
            (1..=VERSIONS).map(move |version| (row.clone(), format!("q{q}"), version))
        })
    })
}

/// One writer: mutations of a few rows, one after the other, each awaited.
async fn write(table: Table, writer: u64) -> Result<History<Coordinate>> {
    let mut rng = ChaCha8Rng::seed_from_u64(writer);
    let mut history = History::new(Duration::ZERO);
    for count in 0..WRITES {
        let (mutation, effects) = random_mutation(&mut rng, &format!("{writer}/{count}"));
        let began = Instant::now();
        table.mutate_row(mutation).await?;
        let ended = Instant::now();
        for (coordinate, effect) in effects {
            history.note(coordinate, began, ended, effect);
        }
    }
    Ok(history)
}

/// A mutation and what it does to every coordinate that it touches.
fn random_mutation(rng: &mut ChaCha8Rng, value: &str) -> (RowMutation, Vec<(Coordinate, Effect)>) {
    let row = format!("c-{}", rng.random_range(0..ROWS));
    let qualifier = format!("q{}", rng.random_range(0..QUALIFIERS));
    let version = rng.random_range(1..=VERSIONS);
    let put = Effect::Put(Bytes::from(value.to_owned()));
    let own: Coordinate = (row.clone(), qualifier.clone(), version);
    let in_row = |of: &dyn Fn(&Coordinate) -> bool| {
        let touched = all_coordinates().filter(|c| c.0 == row && of(c));
        touched.map(|c| (c, Effect::Delete)).collect::<Vec<_>>()
    };
    let mutation = RowMutation::new(&row);
    match rng.random_range(0..100) {
        0..60 => (mutation.put(FAMILY, &qualifier, version, value), vec![(own, put)]),
        60..70 => (
            mutation.delete_cell(FAMILY, &qualifier, version),
            vec![(own, Effect::Delete)],
        ),
        70..80 => (
            mutation.delete_column(FAMILY, &qualifier),
            in_row(&|c| c.1 == qualifier),
        ),
        80..85 => (mutation.delete_family(FAMILY, VersionRange::ALL), in_row(&|_| true)),
        85..90 => (mutation.delete_row(VersionRange::ALL), in_row(&|_| true)),
        _ => {
            // A put after a delete in one mutation survives.
            let mut effects = in_row(&|c| *c != own);
            effects.push((own, put));
            (
                mutation
                    .delete_row(VersionRange::ALL)
                    .put(FAMILY, &qualifier, version, value),
                effects,
            )
        }
    }
}
