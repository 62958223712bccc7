//! `tidemark import`: files into a table, through the batching writer.

use super::import_file::{Reading, Record, Source, TimeUnit};
use super::import_state::{About, Notes, Position};
use crate::connect::Context;
use crate::failure::{Code, Failure, Result};
use crate::output::one;
use clap::{Args, ValueEnum};
use futures::FutureExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidemark_client::{Client, WriteTicket, Writer, WriterOptions};

/// Between two notes of how far it came.
const RECORDS_PER_STATE: u64 = 50_000;
/// Results not looked at.
const TICKETS_MAX: usize = 100_000;
/// Importing is patient by default: a leader or a region may be lost on the way.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What to do about a record that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnError {
    /// End the import there
    Stop,
    /// Say so, leave the record out and go on; exit code 5 at the end. A region that does not answer ends the import
    Skip,
}

/// Import CSV files, or cells as exported
#[derive(Debug, Args)]
#[command(
    before_help = "\
Examples:
  tidemark import readings.csv --table telemetry --family m
  tidemark import *.csv --table telemetry --family m --row 'sensor-{file}'
  tidemark import fleet.csv --table telemetry --family m --row 'device-{id}' --time-column at --time-unit ms
  tidemark import cells.csv --table telemetry --resume",
    after_help = "\
A CSV file has a header. With the header row,family,qualifier,version,value (as export writes it) each record is a cell;
so is each line of a .jsonl file. In any other file each record is a moment of a row: one column is its time, and every
other column is a column of the table, FAMILY:NAME or, with --family, NAME. Empty fields are left out.
An import can be repeated: the same file writes the same cells."
)]
pub(crate) struct Import {
    /// The files
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The table
    #[arg(long)]
    table: String,
    /// The family of columns whose header names none
    #[arg(long)]
    family: Option<String>,
    /// The row: text with {file} for the file's name without its ending and {NAME} for a column
    /// [default: {row} if there is such a column, else {file}]
    #[arg(long, alias = "row-template", value_name = "TEMPLATE")]
    row: Option<String>,
    /// The column with the time [default: timestamp, time, version or datetime]
    #[arg(long, value_name = "NAME")]
    time_column: Option<String>,
    /// What integers in the time column count
    #[arg(long, value_enum, default_value_t = TimeUnit::Us)]
    time_unit: TimeUnit,
    /// Only these columns; several with commas
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    columns: Vec<String>,
    /// Fields hold no \xNN escapes
    #[arg(long)]
    literal: bool,
    /// Go on where an interrupted import of the same file ended; what it did not reach may have been corrected
    #[arg(long)]
    resume: bool,
    /// What to do about a record that is refused
    #[arg(long, value_enum, default_value_t = OnError::Stop)]
    on_error: OnError,
}

/// What became of the records, in their order.
#[derive(Debug)]
struct Tally {
    on_error: OnError,
    records: u64,
    cells: u64,
    resumed: u64,
    skipped: u64,
    /// Every record of this file up to here is written or left out.
    settled: Position,
    /// The region that the state names, as the client calls it.
    home: String,
    /// Since when records went to another region: a state must not speak of those.
    strayed: bool,
}

/// What will be known of a record.
enum Outcome {
    /// It has no cell.
    Nothing,
    /// The file's fault.
    Refused(Failure),
    Sent {
        line: u64,
        cells: usize,
        ticket: WriteTicket,
    },
}

/// One import under way.
struct Run<'a> {
    import: &'a Import,
    writer: Writer,
    /// Read and not settled, with the place after each.
    waiting: VecDeque<(Position, Outcome)>,
    tally: Tally,
    bar: ProgressBar,
    /// It was said that the state cannot be noted.
    warned: bool,
}

/// Runs it.
pub(crate) async fn run(import: Import, context: &Context) -> Result<()> {
    let began = Instant::now();
    let reading = Reading {
        family: import.family.clone(),
        time_column: import.time_column.clone(),
        time_unit: import.time_unit,
        row: import.row.clone(),
        columns: import.columns.clone(),
        literal: import.literal,
    };
    // Every file is looked at before the first is imported: a wrong flag should not be found after an hour.
    for file in &import.files {
        Source::open(file, &reading)?;
    }
    let client = context.client_with(context.timeout_or(TIMEOUT)).await?;
    let home = client.active_region();
    let mut notes = notes(&import, &reading, &client).await?;
    let mut run = Run {
        import: &import,
        writer: client.table(&import.table).writer(WriterOptions::default()),
        waiting: VecDeque::new(),
        tally: Tally::new(import.on_error, home),
        bar: bar(&import.files)?,
        warned: false,
    };
    let mut result = Ok(());
    for (file, (notes, before)) in import.files.iter().zip(&mut notes) {
        result = run.file(file, &reading, notes, *before).await;
        if result.is_err() {
            break;
        }
    }
    run.bar.finish_and_clear();
    let Tally {
        records,
        cells,
        resumed,
        skipped,
        ..
    } = run.tally;
    let seconds = began.elapsed().as_secs_f64();
    if let Err(failure) = result {
        let next = match failure.is_refusal() {
            true => "correct it and repeat with --resume, or leave such records out with --on-error skip",
            false => "repeat with --resume",
        };
        let failure = failure.next(next);
        eprintln!("imported {records} records before the error; with --resume they are not imported again");
        return Err(if records > 0 { failure.partial() } else { failure });
    }
    for (notes, _) in &notes {
        notes.clear()?;
    }
    let fields = [
        ("files", import.files.len().into()),
        ("records", records.into()),
        ("cells", cells.into()),
        ("resumed_after", resumed.into()),
        ("skipped", skipped.into()),
        ("seconds", ((seconds * 1_000.0).round() / 1_000.0).into()),
        (
            "cells_per_second",
            ((cells as f64 / seconds.max(0.001)).round() as u64).into(),
        ),
    ];
    one(context.form, &fields)?;
    match skipped {
        0 => Ok(()),
        _ => Err(Failure::new(Code::Partial, format!("{skipped} records were left out"))),
    }
}

/// The notes about every file, and where to begin. An import that does not resume leaves no older state behind, not even
/// of a file that it has yet to reach.
async fn notes(import: &Import, reading: &Reading, client: &Client) -> Result<Vec<(Notes, Position)>> {
    let admin = client.admin();
    let table = admin.get_table(&import.table).await?;
    let region = admin.cluster_status(false).await?;
    let options = match serde_json::to_value(reading) {
        Ok(Value::Object(options)) => options,
        other => {
            return Err(Failure::new(
                Code::Refused,
                format!("the flags cannot be noted: {other:?}"),
            ));
        }
    };
    let each = import.files.iter().map(|file| {
        let mut about: About = options.clone();
        let name = file.file_name().map(|name| name.to_string_lossy());
        about.insert("file".into(), name.into());
        about.insert("table".into(), table.name.as_str().into());
        about.insert("table number".into(), table.id.into());
        about.insert("region".into(), region.region.as_str().into());
        about.insert("region number".into(), region.region_id.into());
        match import.resume {
            true => Notes::resume(file, about),
            false => Ok((Notes::begin(file, about)?, Position::default())),
        }
    });
    each.collect()
}

fn bar(files: &[PathBuf]) -> Result<ProgressBar> {
    let mut bytes = 0;
    for file in files {
        bytes += std::fs::metadata(file)?.len();
    }
    // Hidden by itself where stderr is no terminal.
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    let template = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template).map_err(|e| Failure::new(Code::Refused, e.to_string()))?;
    bar.set_style(style);
    Ok(bar)
}

impl Tally {
    fn new(on_error: OnError, home: String) -> Tally {
        Tally {
            on_error,
            records: 0,
            cells: 0,
            resumed: 0,
            skipped: 0,
            settled: Position::default(),
            home,
            strayed: false,
        }
    }

    /// True if the import goes on after that. Only what is wrong with a record itself can be left out: a region that
    /// does not answer, or an outcome that nobody knows, says nothing about the record.
    fn leaves_out(&self, failure: &Failure) -> bool {
        self.on_error == OnError::Skip && failure.is_refusal()
    }

    /// The next record, up to `end`, was written, with so many cells.
    fn written(&mut self, end: Position, cells: usize, region: &str) {
        self.strayed |= region != self.home;
        self.records += 1;
        self.cells += cells as u64;
        self.settled = end;
    }

    /// The next record, up to `end`, had nothing to write.
    fn empty(&mut self, end: Position) {
        self.records += 1;
        self.settled = end;
    }

    /// The next record, up to `end`, failed: gives what to say if it is left out, else the end of the import.
    fn failed(&mut self, end: Position, failure: Failure) -> Result<String> {
        if !self.leaves_out(&failure) {
            return Err(failure);
        }
        self.skipped += 1;
        self.settled = end;
        Ok(format!("skipped: {failure}"))
    }
}

impl Run<'_> {
    async fn file(&mut self, file: &Path, reading: &Reading, notes: &mut Notes, before: Position) -> Result<()> {
        self.tally.resumed += before.records;
        self.tally.settled = before;
        self.bar.set_message(file.display().to_string());
        let start = self.bar.position();
        let result = self.records(file, reading, notes, before, start).await;
        // What nobody waits for any more may still be written; the state does not speak of it.
        self.waiting.clear();
        if result.is_err() || self.import.files.len() > 1 {
            // If a later file fails, this one need not be read again.
            self.note(notes);
        }
        self.bar.set_position(start + std::fs::metadata(file)?.len());
        result
    }

    async fn records(
        &mut self,
        file: &Path,
        reading: &Reading,
        notes: &mut Notes,
        before: Position,
        start: u64,
    ) -> Result<()> {
        let mut source = Source::open(file, reading)?;
        let mut end = Position::default();
        while let Some(record) = source.next() {
            end.records += 1;
            end.bytes = source.position();
            if end.records <= before.records {
                // An end of line may have been added, no more.
                if end.records == before.records && end.bytes > before.bytes + 1 {
                    return Err(notes.goes_on());
                }
                continue;
            }
            self.bar.set_position(start + end.bytes);
            let ends = record.as_ref().is_err_and(|failure| !self.tally.leaves_out(failure));
            let outcome = match record {
                Ok(record) => self.send(record).await?,
                Err(failure) => Outcome::Refused(failure),
            };
            self.waiting.push_back((end, outcome));
            if ends || (end.records - before.records).is_multiple_of(RECORDS_PER_STATE) {
                self.settle_all(file).await?;
                self.note(notes);
            } else {
                self.settle(file, TICKETS_MAX).await?;
            }
        }
        self.settle_all(file).await
    }

    async fn send(&mut self, record: Record) -> Result<Outcome> {
        let cells = record.mutation.len();
        if cells == 0 {
            return Ok(Outcome::Nothing);
        }
        Ok(Outcome::Sent {
            line: record.line,
            cells,
            ticket: self.writer.write(record.mutation).await?,
        })
    }

    async fn settle_all(&mut self, file: &Path) -> Result<()> {
        // Its error is also the one of a ticket, which knows the line.
        let _ = self.writer.flush().await;
        self.settle(file, 0).await
    }

    /// Takes the results that are there, and waits for others while more than `waiting_max` are not.
    async fn settle(&mut self, file: &Path, waiting_max: usize) -> Result<()> {
        loop {
            let many = self.waiting.len() > waiting_max;
            let result = match self.waiting.front_mut() {
                None => return Ok(()),
                Some((_, Outcome::Sent { ticket, .. })) if many => Some(ticket.await),
                Some((_, Outcome::Sent { ticket, .. })) => match ticket.now_or_never() {
                    None => return Ok(()),
                    result => result,
                },
                Some((_, Outcome::Nothing | Outcome::Refused(_))) => None,
            };
            let Some((end, outcome)) = self.waiting.pop_front() else {
                return Ok(());
            };
            let said = match (outcome, result) {
                (Outcome::Sent { cells, .. }, Some(Ok(written))) => {
                    self.tally.written(end, cells, &written.region);
                    continue;
                }
                (Outcome::Sent { line, .. }, Some(Err(error))) => {
                    let place = format!("{}, line {line}", file.display());
                    self.tally.failed(end, Failure::from(error).doing(&place))?
                }
                (Outcome::Refused(failure), _) => self.tally.failed(end, failure)?,
                (Outcome::Nothing | Outcome::Sent { .. }, _) => {
                    self.tally.empty(end);
                    continue;
                }
            };
            self.bar.suspend(|| eprintln!("{said}"));
        }
    }

    /// Not being able to note it is no reason to stop.
    fn note(&mut self, notes: &mut Notes) {
        let settled = self.tally.settled;
        let why = if self.tally.strayed {
            "records went to another region; it will repeat what was written since".to_owned()
        } else if settled == Position::default() {
            return;
        } else {
            match notes.save(settled) {
                Ok(()) => return,
                Err(failure) => failure.to_string(),
            }
        };
        if !self.warned {
            self.warned = true;
            self.bar
                .suspend(|| eprintln!("warning: --resume will not know how far this import came: {why}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(records: u64) -> Position {
        Position {
            records,
            bytes: records * 10,
        }
    }

    #[test]
    fn only_refusals_are_left_out() {
        let mut tally = Tally::new(OnError::Skip, "first".into());
        tally.written(place(1), 2, "first");
        tally.empty(place(2));
        assert!(tally.failed(place(3), Failure::usage("not a time")).is_ok());
        assert!(tally.failed(place(4), Failure::new(Code::Refused, "no family")).is_ok());
        let unread = Failure::from(std::io::Error::other("the disk"));
        let others = [
            Failure::new(Code::Unavailable, "nobody leads"),
            Failure::new(Code::UnknownOutcome, "no answer"),
            unread,
        ];
        for failure in others {
            assert!(tally.failed(place(5), failure).is_err());
        }
        assert_eq!(tally.settled, place(4), "the state ends before what failed");
        assert_eq!((tally.records, tally.cells, tally.skipped), (2, 2, 2));
        let mut tally = Tally::new(OnError::Stop, "first".into());
        assert!(tally.failed(place(1), Failure::usage("not a time")).is_err());
        assert_eq!((tally.settled, tally.skipped), (Position::default(), 0));
    }

    #[test]
    fn a_record_in_another_region_is_noticed() {
        let mut tally = Tally::new(OnError::Stop, "first".into());
        tally.written(place(1), 1, "first");
        assert!(!tally.strayed);
        tally.written(place(2), 1, "second");
        tally.written(place(3), 1, "first");
        assert!(tally.strayed);
    }
}
