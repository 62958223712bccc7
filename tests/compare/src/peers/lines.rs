//! InfluxDB's line protocol, which VictoriaMetrics and QuestDB take as well: a tick a line.
//!
//! ```text
//! m,device=device-0000017 metric_00=49.9,metric_01=50.12 1760000001234
//! ```

use crate::load::{Batch, Sender};
use crate::web::Connection;
use anyhow::Result;
use std::io::Write;
use tidemark_bench::fleet;

/// Sends each batch as one request.
pub struct LineSender {
    connection: Connection,
    path: &'static str,
    names: Vec<String>,
    lines: Vec<u8>,
}

impl LineSender {
    /// To `path` of `host`, whose times are milliseconds.
    pub fn open(host: &str, path: &'static str, names: Vec<String>) -> Result<LineSender> {
        Ok(LineSender {
            connection: Connection::open(host)?,
            path,
            names,
            lines: Vec::new(),
        })
    }
}

impl Sender for LineSender {
    fn send(&mut self, batch: &Batch) -> Result<()> {
        self.lines.clear();
        write_lines(&mut self.lines, &self.names, batch)?;
        self.connection.request("POST", self.path, &self.lines)?;
        Ok(())
    }
}

fn write_lines(lines: &mut Vec<u8>, names: &[String], batch: &Batch) -> Result<()> {
    for (device, version, values) in batch.iter() {
        write!(lines, "m,device={}", fleet::row(device))?;
        let mut before = b' ';
        for (name, value) in names.iter().zip(values) {
            lines.push(before);
            before = b',';
            write!(lines, "{name}={value}")?;
        }
        writeln!(lines, " {}", version / 1_000)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_a_line() {
        let batch = Batch {
            ticks: vec![(17, 1_760_000_001_234_000)],
            values: vec![49.9, 50.0],
        };
        let mut lines = Vec::new();
        write_lines(&mut lines, &["a".into(), "b".into()], &batch).unwrap();
        assert_eq!(lines, b"m,device=device-0000017 a=49.9,b=50 1760000001234\n");
    }
}
