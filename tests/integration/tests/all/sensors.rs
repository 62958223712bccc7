//! The sensor files through `tidemark import` and `tidemark export`, and back again.

use anyhow::{Context, Result, ensure};
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidemark_integration::command::Tidemark;
use tidemark_integration::scene::{Scene, alone};

/// Sensor files that the round trip is made with.
const FILES: usize = 26;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sensor_files_go_in_and_come_out_again() {
    alone(Duration::from_secs(300), async {
        let made = tempfile::tempdir()?;
        let files = sensor_files(made.path())?;
        ensure!(files.len() == FILES, "{} files instead of {FILES}", files.len());
        let expected = expected(&files)?;
        let scene = Scene::one(1, "").await?;
        let tidemark = Tidemark::new(&scene.world.regions[0].addresses())?;
        for table in ["first", "second"] {
            tidemark.ok(&["table", "create", table, "--family", "m"]).await?;
        }
        let mut arguments = vec![
            "import".to_owned(),
            "--table".into(),
            "first".into(),
            "--family".into(),
            "m".into(),
        ];
        arguments.extend(files.iter().map(|f| f.display().to_string()));
        tidemark.ok(&arguments).await?;
        let exported = tidemark.ok(&["--output", "csv", "export", "first"]).await?;
        ensure!(
            cells(&exported)? == expected,
            "what came out is not what went in: {}",
            difference(&cells(&exported)?, &expected)
        );

        let again = made.path().join("again.csv");
        std::fs::write(&again, &exported)?;
        tidemark
            .ok(&["import", "--table", "second", &again.display().to_string()])
            .await?;
        let second = tidemark.ok(&["--output", "csv", "export", "second"]).await?;
        ensure!(second == exported, "the second round trip changed something");
        Ok(())
    })
    .await;
}

/// Row and version in microseconds -> value.
type Cells = BTreeMap<(String, i64), String>;

fn difference(got: &Cells, expected: &Cells) -> String {
    let first = expected.iter().find(|(k, v)| got.get(*k) != Some(v));
    format!(
        "{} cells instead of {}, first difference {first:?}",
        got.len(),
        expected.len()
    )
}

/// The files of TIDEMARK_SENSORS or of the shared data beside the checkout; without them, made ones of the same kind.
fn sensor_files(scratch: &Path) -> Result<Vec<PathBuf>> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/sensors");
    let dir = std::env::var_os("TIDEMARK_SENSORS").map_or(beside, PathBuf::from);
    if !dir.is_dir() {
        eprintln!("{} does not exist: sensor files are generated", dir.display());
        return (0..FILES).map(|n| make_file(scratch, n)).collect();
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(&dir)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "csv"));
    files.sort();
    Ok(files)
}

/// One file of the same kind: UTC times at an even step, now and then the same time twice, integers and long decimals.
fn make_file(dir: &Path, number: usize) -> Result<PathBuf> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(number as u64);
    let mut text = "timestamp,value\n".to_owned();
    for reading in 0..2_000 {
        let minutes = 5 * (reading - i64::from(rng.random_range(0..100) == 0));
        let (day, rest) = (minutes.max(0) / 1_440, minutes.max(0) % 1_440);
        let value: f64 = rng.random_range(-50.0..5_000.0);
        let value = if number.is_multiple_of(2) {
            format!("{value:.0}")
        } else {
            value.to_string()
        };
        text += &format!("2014-02-{:02} {:02}:{:02}:00,{value}\n", 1 + day, rest / 60, rest % 60);
    }
    let path = dir.join(format!("made_{number:02}.csv"));
    std::fs::write(&path, text)?;
    Ok(path)
}

/// What the table must hold: of lines with one time the later one counts.
fn expected(files: &[PathBuf]) -> Result<Cells> {
    let mut cells = BTreeMap::new();
    for path in files {
        let stem = path.file_stem().and_then(|s| s.to_str()).context("a readable name")?;
        let mut reader = csv::Reader::from_path(path)?;
        for record in reader.records() {
            let record = record?;
            let (time, value) = (record.get(0).context("a time")?, record.get(1).context("a value")?);
            cells.insert((stem.to_owned(), micros(time)?), value.to_owned());
        }
    }
    Ok(cells)
}

/// Cells of an export with the columns row, family, qualifier, version, value.
fn cells(text: &str) -> Result<Cells> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
    ensure!(
        header == ["row", "family", "qualifier", "version", "value"],
        "{header:?}"
    );
    let mut cells = BTreeMap::new();
    for record in reader.records() {
        let record = record?;
        ensure!((&record[1], &record[2]) == ("m", "value"), "{record:?}");
        let twice = cells.insert((record[0].to_owned(), micros(&record[3])?), record[4].to_owned());
        ensure!(twice.is_none(), "{record:?} came out twice");
    }
    Ok(cells)
}

/// Microseconds since 1970 of `2014-02-14 14:30:00`, of RFC 3339 in UTC, or of a plain number. Counted here by hand, so that
/// the product's own reading of times is not compared with itself.
fn micros(text: &str) -> Result<i64> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let text = text.trim_end_matches('Z').replace('T', " ");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let parts: Vec<i64> = whole.split(['-', ' ', ':']).map(str::parse).collect::<Result<_, _>>()?;
    let [year, month, day, hour, minute, second] = parts[..] else {
        anyhow::bail!("{text} is not a time")
    };
    // Days since 1970 of the proleptic Gregorian calendar, years beginning in March.
    let shifted = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * shifted + shifted / 4 - shifted / 100 + shifted / 400 + day_of_year - 719_468;
    let micros: i64 = if fraction.is_empty() {
        0
    } else {
        format!("{fraction:0<6}")[..6].parse()?
    };
    Ok(((days * 24 + hour) * 60 + minute) * 60_000_000 + second * 1_000_000 + micros)
}

#[test]
fn times_are_counted_right() {
    assert_eq!(micros("1970-01-01 00:00:00").unwrap(), 0);
    assert_eq!(micros("2014-02-14T14:30:00Z").unwrap(), 1_392_388_200_000_000);
    assert_eq!(micros("2000-02-29T23:59:59.5Z").unwrap(), 951_868_799_500_000);
    assert_eq!(micros("17").unwrap(), 17);
}
