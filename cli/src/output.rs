//! Answers in the form that was asked for: a table for people, JSON, JSON lines or CSV for programs.
//!
//! Records have fixed columns. JSON lines and CSV stream; tables come in pieces of [`TABLE_ROWS`], each with its own
//! widths; JSON is one array. `null` is an empty field in tables and CSV.

use crate::failure::Result;
use clap::ValueEnum;
use serde_json::Value;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

/// Records of one piece of a table.
const TABLE_ROWS: usize = 1_000;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// Aligned columns for people
    Table,
    /// One JSON document
    Json,
    /// One JSON object a line
    Jsonl,
    /// Comma-separated values with a header
    Csv,
}

impl Form {
    /// The form asked for, else a table on a terminal and JSON lines on a pipe.
    pub(crate) fn or_default(form: Option<Form>) -> Form {
        let by_place = if io::stdout().is_terminal() {
            Form::Table
        } else {
            Form::Jsonl
        };
        form.unwrap_or(by_place)
    }
}

/// Where text goes; CSV through its writer, which knows the quoting.
enum Sink<W: Write> {
    Plain(W),
    Csv(Box<csv::Writer<W>>),
}

/// Prints records with the same columns.
pub(crate) struct Printer<W: Write = BufWriter<Stdout>> {
    form: Form,
    columns: Vec<String>,
    out: Sink<W>,
    held: Vec<Vec<Value>>,
    records: u64,
}

impl Printer {
    /// To stdout.
    pub(crate) fn stdout(form: Form, columns: &[&str]) -> Result<Printer> {
        let columns = columns.iter().map(|c| (*c).to_owned()).collect();
        Printer::new(form, columns, BufWriter::new(io::stdout()))
    }
}

impl<W: Write> Printer<W> {
    /// To anything; headers of CSV are written at once.
    pub(crate) fn new(form: Form, columns: Vec<String>, out: W) -> Result<Printer<W>> {
        let out = match form {
            Form::Csv => {
                let mut csv = csv::Writer::from_writer(out);
                csv.write_record(&columns)?;
                Sink::Csv(Box::new(csv))
            }
            _ => Sink::Plain(out),
        };
        Ok(Printer {
            form,
            columns,
            out,
            held: Vec::new(),
            records: 0,
        })
    }

    /// One record, in the order of the columns.
    pub(crate) fn push(&mut self, record: Vec<Value>) -> Result<()> {
        self.records += 1;
        match &mut self.out {
            Sink::Csv(csv) => csv.write_record(record.iter().map(text))?,
            Sink::Plain(_) if self.form == Form::Table => {
                self.held.push(record);
                if self.held.len() >= TABLE_ROWS {
                    self.print_table()?;
                }
            }
            Sink::Plain(out) => {
                let text = object(&self.columns, &record);
                match (self.form, self.records) {
                    (Form::Json, 1) => write!(out, "[\n  {text}")?,
                    (Form::Json, _) => write!(out, ",\n  {text}")?,
                    _ => writeln!(out, "{text}")?,
                }
            }
        }
        Ok(())
    }

    /// Ends the answer.
    pub(crate) fn finish(mut self) -> Result<()> {
        if self.form == Form::Table && (!self.held.is_empty() || self.records == 0) {
            self.print_table()?;
        }
        match &mut self.out {
            Sink::Csv(csv) => csv.flush()?,
            Sink::Plain(out) => {
                match (self.form, self.records) {
                    (Form::Json, 0) => writeln!(out, "[]")?,
                    (Form::Json, _) => writeln!(out, "\n]")?,
                    _ => {}
                }
                out.flush()?;
            }
        }
        Ok(())
    }

    fn print_table(&mut self) -> Result<()> {
        let held = std::mem::take(&mut self.held);
        let mut table = bare_table();
        table.set_header(&self.columns);
        for record in &held {
            table.add_row(record.iter().map(text));
        }
        if let Sink::Plain(out) = &mut self.out {
            writeln!(out, "{table}")?;
        }
        Ok(())
    }
}

/// Prints one thing: a two-column table, one object, or a header with one line.
pub(crate) fn one(form: Form, fields: &[(&str, Value)]) -> Result<()> {
    let mut out = BufWriter::new(io::stdout());
    let columns: Vec<String> = fields.iter().map(|(name, _)| (*name).to_owned()).collect();
    let record: Vec<Value> = fields.iter().map(|(_, value)| value.clone()).collect();
    match form {
        Form::Table => {
            let mut table = bare_table();
            for (name, value) in fields {
                table.add_row([(*name).to_owned(), text(value)]);
            }
            writeln!(out, "{table}")?;
        }
        Form::Json | Form::Jsonl => writeln!(out, "{}", object(&columns, &record))?,
        Form::Csv => {
            let mut printer = Printer::new(form, columns, out)?;
            printer.push(record)?;
            return printer.finish();
        }
    }
    out.flush()?;
    Ok(())
}

fn bare_table() -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table
}

/// Written by hand because JSON objects of the library are sorted by name, and people read them in the columns' order.
fn object(columns: &[String], record: &[Value]) -> String {
    let fields = columns.iter().zip(record);
    let fields: Vec<String> = fields
        .map(|(name, value)| format!("{}:{value}", Value::from(name.as_str())))
        .collect();
    format!("{{{}}}", fields.join(","))
}

/// A value in a table or in CSV.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(form: Form, records: &[Vec<Value>]) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(form, vec!["row".into(), "n".into()], &mut out).unwrap();
        for record in records {
            printer.push(record.clone()).unwrap();
        }
        printer.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_form() {
        let records = [
            vec![Value::from("a,\"b\""), Value::from(1)],
            vec![Value::Null, Value::from(vec!["x", "y"])],
        ];
        assert_eq!(
            print(Form::Jsonl, &records),
            "{\"row\":\"a,\\\"b\\\"\",\"n\":1}\n{\"row\":null,\"n\":[\"x\",\"y\"]}\n"
        );
        assert_eq!(print(Form::Csv, &records), "row,n\n\"a,\"\"b\"\"\",1\n,x y\n");
        let json: Value = serde_json::from_str(&print(Form::Json, &records)).unwrap();
        assert_eq!(json.as_array().map(Vec::len), Some(2));
        assert_eq!(print(Form::Json, &[]), "[]\n");
        assert_eq!(print(Form::Csv, &[]), "row,n\n");
        assert!(print(Form::Table, &records).contains("row"));
    }
}
