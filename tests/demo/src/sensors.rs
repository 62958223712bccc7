//! Reading sensor files: CSV with the header `timestamp,value` and UTC times such as `2013-12-02 21:15:00`.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::path::Path;

/// One file's readings, as they go into one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// The row: `sensor/<file stem>`.
    pub row: String,
    /// Version (microseconds since 1970) and value text, by version. Of lines with one time the later one counts.
    pub readings: Vec<(i64, String)>,
    /// Lines that a later line with the same time replaced.
    pub replaced: u64,
}

/// Reads every `*.csv` of a directory, in the order of names. No file at all is an error.
pub fn read_directory(dir: &Path) -> Result<Vec<Series>> {
    let listing = std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut paths = Vec::new();
    for entry in listing {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "csv") {
            paths.push(path);
        }
    }
    paths.sort();
    ensure!(!paths.is_empty(), "{} holds no *.csv file", dir.display());
    paths.iter().map(|path| read_file(path)).collect()
}

/// Reads one file.
pub fn read_file(path: &Path) -> Result<Series> {
    let stem = path
        .file_stem()
        .and_then(|s| s.to_str())
        .with_context(|| format!("{} has no readable name", path.display()))?;
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    read(stem, file).with_context(|| path.display().to_string())
}

fn read(stem: &str, from: impl std::io::Read) -> Result<Series> {
    let mut reader = csv::Reader::from_reader(from);
    let header = reader.headers()?;
    ensure!(
        header.iter().eq(["timestamp", "value"]),
        "the header is {:?}, not `timestamp,value`",
        header.iter().collect::<Vec<_>>().join(",")
    );
    let mut readings = BTreeMap::new();
    let mut replaced = 0;
    for record in reader.records() {
        let record = record?;
        let line = record.position().map_or(0, csv::Position::line);
        let (Some(time), Some(value)) = (record.get(0), record.get(1)) else {
            bail!("line {line} has no two columns")
        };
        let version = version_of(time)
            .with_context(|| format!("line {line}: {time:?} is not a time like 2013-12-02 21:15:00"))?;
        replaced += u64::from(readings.insert(version, value.to_owned()).is_some());
    }
    Ok(Series {
        row: format!("sensor/{stem}"),
        readings: readings.into_iter().collect(),
        replaced,
    })
}

/// Microseconds since 1970 of a UTC time without a zone.
pub fn version_of(time: &str) -> Result<i64> {
    let civil: jiff::civil::DateTime = time.trim().parse()?;
    Ok(civil.to_zoned(jiff::tz::TimeZone::UTC)?.timestamp().as_microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_of_two_lines_with_one_time_counts() {
        let text = "timestamp,value\n1970-01-01 00:00:01,1.5\n1970-01-01 00:00:00,2\n1970-01-01 00:00:01,3\n";
        let series = read("a", text.as_bytes()).unwrap();
        assert_eq!(series.row, "sensor/a");
        assert_eq!(series.readings, [(0, "2".to_owned()), (1_000_000, "3".to_owned())]);
        assert_eq!(series.replaced, 1);
    }

    #[test]
    fn fractions_are_kept_and_mistakes_name_the_line() {
        assert_eq!(version_of("1970-01-01 00:00:00.000123").unwrap(), 123);
        let error = read("a", "timestamp,value\n2013-12-02 21:15:00,1\nnever,2\n".as_bytes()).unwrap_err();
        assert!(error.to_string().contains("line 3"), "{error:#}");
        let error = read("a", "time,value\n".as_bytes()).unwrap_err();
        assert!(error.to_string().contains("time,value"), "{error:#}");
    }

    #[test]
    fn a_directory_without_files_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_directory(dir.path()).is_err());
        std::fs::write(dir.path().join("b.csv"), "timestamp,value\n2020-01-01 00:00:00,1\n").unwrap();
        std::fs::write(dir.path().join("a.csv"), "timestamp,value\n").unwrap();
        std::fs::write(dir.path().join("LICENSE"), "x").unwrap();
        let rows: Vec<_> = read_directory(dir.path()).unwrap().into_iter().map(|s| s.row).collect();
        assert_eq!(rows, ["sensor/a", "sensor/b"]);
    }
}
