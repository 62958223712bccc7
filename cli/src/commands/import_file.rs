//! Files that `import` reads: records become row mutations.
//!
//! | layout | recognised by | a record is |
//! |---|---|---|
//! | cells | CSV with the header `row,family,qualifier,version,value`, as `export` writes it | one cell |
//! | cells | a file that ends in `.jsonl`, with the same fields | one cell |
//! | wide | any other CSV: a time column, the rest columns of the table | a row's cells of one time |

use super::scan::COLUMNS;
use crate::failure::{Code, Failure, Result};
use crate::text::{column, unescape};
use crate::times;
use clap::ValueEnum;
use csv::StringRecord;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use tidemark_client::RowMutation;

/// Names of time columns that need not be named.
const TIME_COLUMNS: [&str; 4] = ["timestamp", "time", "version", "datetime"];
/// The longest line of JSON: the greatest value, escaped byte by byte, and its coordinates.
const LINE_BYTES_MAX: usize = 48 << 20;

/// What integers in a time column count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TimeUnit {
    /// Seconds since 1970
    S,
    /// Milliseconds since 1970
    Ms,
    /// Microseconds since 1970
    Us,
}

impl TimeUnit {
    fn micros(self) -> i64 {
        match self {
            TimeUnit::S => 1_000_000,
            TimeUnit::Ms => 1_000,
            TimeUnit::Us => 1,
        }
    }
}

/// How to read files; named in import states as the flags are.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Reading {
    /// The family of columns that do not name theirs.
    pub(crate) family: Option<String>,
    pub(crate) time_column: Option<String>,
    pub(crate) time_unit: TimeUnit,
    /// With `{file}` and `{column}`.
    pub(crate) row: Option<String>,
    /// Only these columns; empty = all others.
    pub(crate) columns: Vec<String>,
    /// Fields hold no escapes.
    pub(crate) literal: bool,
}

/// One record.
#[derive(Debug, PartialEq)]
pub(crate) struct Record {
    /// In the file, from 1.
    pub(crate) line: u64,
    pub(crate) mutation: RowMutation,
}

/// A file being read.
pub(crate) struct Source {
    layout: Layout,
    literal: bool,
    name: String,
}

enum Layout {
    Cells(Box<csv::Reader<File>>),
    Lines {
        file: BufReader<File>,
        line: u64,
        position: u64,
    },
    Wide(Box<Wide>),
}

struct Wide {
    csv: csv::Reader<File>,
    time: usize,
    unit: TimeUnit,
    row: Vec<Part>,
    /// Position in the record, family, qualifier.
    columns: Vec<(usize, String, Vec<u8>)>,
}

/// A part of a row template.
#[derive(Debug, PartialEq)]
enum Part {
    Text(Vec<u8>),
    Column(usize),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    row: String,
    family: String,
    qualifier: String,
    version: String,
    value: String,
}

impl Source {
    /// Opens a file and finds out its layout.
    pub(crate) fn open(path: &Path, reading: &Reading) -> Result<Source> {
        let name = path.display().to_string();
        let doing = |e: Failure| e.doing(&name);
        let file = File::open(path).map_err(|e| doing(e.into()))?;
        let layout = if path.extension().is_some_and(|e| e == "jsonl" || e == "ndjson") {
            Layout::Lines {
                file: BufReader::new(file),
                line: 0,
                position: 0,
            }
        } else {
            let mut csv = csv::Reader::from_reader(file);
            let header = csv.headers().map_err(|e| doing(e.into()))?.clone();
            if header.iter().eq(COLUMNS) {
                Layout::Cells(Box::new(csv))
            } else {
                let stem = path
                    .file_stem()
                    .map(|s| s.to_string_lossy().into_owned())
                    .unwrap_or_default();
                Layout::Wide(Box::new(wide(csv, &header, &stem, reading).map_err(doing)?))
            }
        };
        Ok(Source {
            layout,
            literal: reading.literal,
            name,
        })
    }

    /// Bytes of the file up to the end of the last record read, or of the header.
    pub(crate) fn position(&self) -> u64 {
        match &self.layout {
            Layout::Cells(csv) => csv.position().byte(),
            Layout::Wide(wide) => wide.csv.position().byte(),
            Layout::Lines { position, .. } => *position,
        }
    }

    /// The next record; an error names file and line, and the one after it can still be read.
    pub(crate) fn next(&mut self) -> Option<Result<Record>> {
        let literal = self.literal;
        let (at, record) = match &mut self.layout {
            Layout::Cells(csv) => next_csv(csv, |record| {
                let field = |at: usize| record.get(at).unwrap_or_default();
                cell(field(0), field(1), field(2), field(3), field(4), literal)
            })?,
            Layout::Wide(wide) => {
                let Wide {
                    csv,
                    time,
                    unit,
                    row,
                    columns,
                } = &mut **wide;
                next_csv(csv, |record| wide_record(record, *time, *unit, row, columns, literal))?
            }
            Layout::Lines { file, line, position } => next_line(file, line, position, literal)?,
        };
        let name = &self.name;
        let located = |failure: Failure| failure.doing(&format!("{name}, line {at}"));
        Some(record.map_err(located))
    }
}

fn field_bytes(text: &str, literal: bool) -> Result<Vec<u8>> {
    if literal {
        return Ok(text.as_bytes().to_vec());
    }
    unescape(text).map_err(|e| e.next("give --literal if the file holds no escapes"))
}

fn cell(row: &str, family: &str, qualifier: &str, version: &str, value: &str, literal: bool) -> Result<RowMutation> {
    let version = times::version(version, 0)?;
    let row = RowMutation::new(field_bytes(row, literal)?);
    Ok(row.put(
        family,
        field_bytes(qualifier, literal)?,
        version,
        field_bytes(value, literal)?,
    ))
}

fn next_csv(
    csv: &mut csv::Reader<File>,
    parse: impl FnOnce(&StringRecord) -> Result<RowMutation>,
) -> Option<(u64, Result<Record>)> {
    let mut record = StringRecord::new();
    let read = csv.read_record(&mut record);
    let line = record.position().map_or(0, csv::Position::line);
    match read {
        Ok(false) => None,
        Ok(true) => {
            let record = parse(&record).map(|mutation| Record { line, mutation });
            Some((line, record))
        }
        Err(error) => {
            let line = error.position().map_or(line, csv::Position::line);
            Some((line, Err(error.into())))
        }
    }
}

fn next_line(
    file: &mut BufReader<File>,
    line: &mut u64,
    position: &mut u64,
    literal: bool,
) -> Option<(u64, Result<Record>)> {
    loop {
        let mut text = Vec::new();
        let mut limited = std::io::Read::take(&mut *file, LINE_BYTES_MAX as u64);
        *line += 1;
        match limited.read_until(b'\n', &mut text) {
            Ok(0) => return None,
            Ok(bytes) => *position += bytes as u64,
            Err(error) => return Some((*line, Err(error.into()))),
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        let parsed = serde_json::from_slice::<Line>(&text)
            .map_err(|e| Failure::new(Code::Refused, format!("not a cell as JSON: {e}")));
        let mutation = parsed.and_then(|l| cell(&l.row, &l.family, &l.qualifier, &l.version, &l.value, literal));
        let record = mutation.map(|mutation| Record { line: *line, mutation });
        return Some((*line, record));
    }
}

fn wide(csv: csv::Reader<File>, header: &StringRecord, stem: &str, reading: &Reading) -> Result<Wide> {
    let names = || header.iter().collect::<Vec<_>>().join(", ");
    let find = |name: &str| {
        header.iter().position(|h| h == name).ok_or_else(|| {
            Failure::new(
                Code::Refused,
                format!("there is no column {name:?}; the columns are {}", names()),
            )
        })
    };
    let time = match &reading.time_column {
        Some(name) => find(name)?,
        None => TIME_COLUMNS.iter().find_map(|name| find(name).ok()).ok_or_else(|| {
            Failure::new(
                Code::Refused,
                format!("no time column is named; the columns are {}", names()),
            )
            .next("say which with --time-column")
        })?,
    };
    let template = match &reading.row {
        Some(template) => template.as_str(),
        None if find("row").is_ok() => "{row}",
        None => "{file}",
    };
    let row = parts(template, stem, &find)?;
    let taken = |at: &usize| *at == time || row.contains(&Part::Column(*at));
    let chosen: Vec<usize> = if reading.columns.is_empty() {
        (0..header.len()).filter(|at| !taken(at)).collect()
    } else {
        reading.columns.iter().map(|name| find(name)).collect::<Result<_>>()?
    };
    let named = |at: usize| {
        let name = header.get(at).unwrap_or_default();
        match (name.contains(':'), &reading.family) {
            (true, _) => {
                let (family, qualifier) = column(name)?;
                Ok((at, family, qualifier.unwrap_or_default()))
            }
            (false, Some(family)) => Ok((at, family.clone(), field_bytes(name, reading.literal)?)),
            (false, None) => {
                Err(Failure::usage(format!("column {name:?} names no family")).next("give one with --family"))
            }
        }
    };
    Ok(Wide {
        csv,
        time,
        unit: reading.time_unit,
        columns: chosen.into_iter().map(named).collect::<Result<_>>()?,
        row,
    })
}

/// Cuts a row template into texts and columns. `{{` stands for a brace.
fn parts(template: &str, stem: &str, find: &impl Fn(&str) -> Result<usize>) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        parts.push(Part::Text(unescape(&rest[..open])?));
        rest = &rest[open + 1..];
        if let Some(tail) = rest.strip_prefix('{') {
            parts.push(Part::Text(b"{".to_vec()));
            rest = tail;
            continue;
        }
        let close = rest
            .find('}')
            .ok_or_else(|| Failure::usage(format!("--row {template:?} lacks a closing brace")))?;
        parts.push(match &rest[..close] {
            "file" => Part::Text(stem.as_bytes().to_vec()),
            name => Part::Column(find(name)?),
        });
        rest = &rest[close + 1..];
    }
    parts.push(Part::Text(unescape(rest)?));
    Ok(parts)
}

fn wide_record(
    record: &StringRecord,
    time: usize,
    unit: TimeUnit,
    row: &[Part],
    columns: &[(usize, String, Vec<u8>)],
    literal: bool,
) -> Result<RowMutation> {
    let field = |at: usize| record.get(at).unwrap_or_default();
    let version = match field(time).parse::<i64>() {
        Ok(number) => number
            .checked_mul(unit.micros())
            .filter(|micros| *micros >= 0)
            .ok_or_else(|| Failure::new(Code::Refused, format!("{number} is not a time")))?,
        Err(_) => times::version(field(time), 0)?,
    };
    let mut key = Vec::new();
    for part in row {
        match part {
            Part::Text(text) => key.extend_from_slice(text),
            Part::Column(at) => key.extend(field_bytes(field(*at), literal)?),
        }
    }
    let mut mutation = RowMutation::new(key);
    for (at, family, qualifier) in columns {
        // An empty field is no reading.
        if !field(*at).is_empty() {
            mutation = mutation.put(family, qualifier, version, field_bytes(field(*at), literal)?);
        }
    }
    Ok(mutation)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROS: i64 = 1_386_018_900_000_000;

    fn reading() -> Reading {
        Reading {
            family: Some("m".into()),
            time_column: None,
            time_unit: TimeUnit::Us,
            row: None,
            columns: Vec::new(),
            literal: false,
        }
    }

    fn read(name: &str, text: &str, reading: &Reading) -> Vec<Result<RowMutation>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        let mut source = Source::open(&path, reading).unwrap();
        std::iter::from_fn(|| source.next())
            .map(|record| record.map(|r| r.mutation))
            .collect()
    }

    #[test]
    fn a_sensor_file_is_one_row_named_after_the_file() {
        let text = "timestamp,value\n2013-12-02 21:15:00,73.9\n2013-12-02 21:20:00,\n";
        let records = read("machine_temperature.csv", text, &reading());
        let expected = RowMutation::new("machine_temperature").put("m", "value", MICROS, "73.9");
        assert_eq!(records[0].as_ref().unwrap(), &expected);
        assert!(records[1].as_ref().unwrap().is_empty(), "an empty field is no reading");
    }

    #[test]
    fn rows_from_templates_and_times_in_units() {
        let settings = Reading {
            row: Some("d-{id}/{file}{{".into()),
            time_unit: TimeUnit::S,
            ..reading()
        };
        let records = read("f.csv", "id,time,n:t,h\n7,1386018900,1,2\n", &settings);
        let expected = RowMutation::new("d-7/f{")
            .put("n", "t", MICROS, "1")
            .put("m", "h", MICROS, "2");
        assert_eq!(records[0].as_ref().unwrap(), &expected);
    }

    #[test]
    fn cells_as_exported_in_both_forms() {
        let expected = RowMutation::new("r\n").put("m", "a,\"b", MICROS, [0, b'x']);
        let csv = "row,family,qualifier,version,value\nr\\x0a,m,\"a,\"\"b\",2013-12-02T21:15:00Z,\\x00x\n";
        assert_eq!(read("c.csv", csv, &reading())[0].as_ref().unwrap(), &expected);
        let json = "{\"row\":\"r\\\\x0a\",\"family\":\"m\",\"qualifier\":\"a,\\\"b\",\
                    \"version\":\"2013-12-02T21:15:00Z\",\"value\":\"\\\\x00x\"}\n\n";
        assert_eq!(read("c.jsonl", json, &reading())[0].as_ref().unwrap(), &expected);
    }

    #[test]
    fn times_before_1970_are_refused() {
        let before = "1969-12-31T23:59:59.999999Z";
        for text in [
            format!("time,v\n{before},1\n-1,1\n"),
            format!("row,family,qualifier,version,value\na,m,q,{before},1\n"),
        ] {
            for record in read("f.csv", &text, &reading()) {
                let failure = record.unwrap_err();
                assert!(failure.is_refusal(), "{failure}");
            }
        }
        let line =
            format!("{{\"row\":\"a\",\"family\":\"m\",\"qualifier\":\"q\",\"version\":\"{before}\",\"value\":\"\"}}\n");
        assert!(read("f.jsonl", &line, &reading())[0].is_err());
    }

    #[test]
    fn positions_are_ends_of_records() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text, expected) in [
            ("f.csv", "time,v\n1,2\nbad,3\n2,\"a\nb\"\n3,4", &[7, 11, 17, 25, 28][..]),
            ("f.jsonl", "{}\n\n{\n", &[0, 3, 6]),
        ] {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            let mut source = Source::open(&path, &reading()).unwrap();
            let mut positions = vec![source.position()];
            while source.next().is_some() {
                positions.push(source.position());
            }
            assert_eq!(positions, expected, "{name}");
        }
    }

    #[test]
    fn a_bad_record_is_named_and_the_next_one_read() {
        let records = read("f.csv", "time,v\nyesterday,1\n2013-12-02 21:15:00,2\n", &reading());
        assert!(records[0].is_err() && records[1].is_ok());
        let none = Reading {
            family: None,
            ..reading()
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f.csv");
        for text in ["a,b\n1,2\n", "time,v\n"] {
            std::fs::write(&path, text).unwrap();
            assert!(Source::open(&path, &none).is_err(), "{text}");
        }
    }
}
