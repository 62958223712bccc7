//! Stores that are spoken to by a Java library of their own: a Java process of ours takes the batches from here and
//! gives them to it. It is a part of the client, and so is its CPU.
//!
//! ```text
//!  this process                            loader (tests/compare/java)                    store
//!  generator ─▶ batch, clock ─▶ frame ─▶ its own connection and thread ─▶ its library ─▶ server
//!               clock        ◀─ answer ◀──────────────────────────────────────────────────┘
//! ```
//!
//! One connection on loopback a client, one question at a time on it. Everything is big-endian, as Java reads it:
//!
//! ```text
//! question  kind:u8  length:u32  body
//!           W  metrics:u16 ticks:u32 (length:u8 row, version:i64, value:f64 * metrics) * ticks      write a batch
//!           S                                                                                       come to rest
//!           C                                                                                       count samples
//! answer    status:u8  length:u32  body
//!           0  number:i64                                                                           done
//!           1  text                                                                                 not done: why
//!
//! W, a tick with the values 1 and 2 of row "d" at 5 µs:
//! 57 00000020  0002 00000001  01 64 0000000000000005 3ff0000000000000 4000000000000000
//! ```

use crate::load::{Batch, Sender};
use crate::package::run;
use crate::process::{Process, free_port};
use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tidemark_bench::fleet;

const LOADER: &str = include_str!("../java/Loader.java");
/// The loader listens when its store is up and has its table.
const READY_WITHIN: Duration = Duration::from_secs(180);
const BATCH_WITHIN: Duration = Duration::from_secs(120);
/// Coming to rest and counting take as long as there is data.
const REST_WITHIN: Duration = Duration::from_secs(1_800);
const ANSWER_BYTES_MAX: u32 = 1 << 20;

/// What a loader is made of.
#[derive(Debug)]
pub struct Program<'a> {
    /// The name of its class.
    pub class: &'a str,
    /// Its Java source.
    pub source: &'a str,
    /// Jars of the store's client library.
    pub lib: &'a Path,
    /// Settings of that library, as files.
    pub conf: &'a Path,
    /// Options for the virtual machine.
    pub options: &'a [String],
    /// Behind the port and the names of the metrics.
    pub arguments: &'a [String],
}

/// A running loader.
#[derive(Debug)]
pub struct Loader {
    process: Process,
    port: u16,
}

impl Loader {
    /// Compiles the program in a directory of its own below `dir`, starts it, and waits until its store has a table.
    pub fn start(program: &Program<'_>, metrics: &[String], dir: &Path) -> Result<Loader> {
        let dir = dir.join("loader");
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("Loader.java"), LOADER)?;
        let file = format!("{}.java", program.class);
        std::fs::write(dir.join(&file), program.source)?;
        // Compiled before it is started, so that the compiler's CPU and memory are nobody's.
        run(Command::new("javac")
            .args(["-nowarn", "-cp", &jars(program.lib), "-d", ".", "Loader.java", &file])
            .current_dir(&dir))?;
        let port = free_port()?;
        let mut arguments = program.options.to_vec();
        let path = [dir.clone(), program.conf.to_owned(), PathBuf::from(jars(program.lib))];
        let path = path.map(|part| part.display().to_string()).join(":");
        arguments.extend(["-Xmx1g".to_owned(), "-cp".to_owned(), path, program.class.to_owned()]);
        arguments.extend([port.to_string(), metrics.join(",")]);
        arguments.extend_from_slice(program.arguments);
        let mut process = Process::start(Path::new("java"), &arguments, &[], &dir.join("log"))?;
        process
            .wait_ready(READY_WITHIN, || TcpStream::connect(("127.0.0.1", port)).is_ok())
            .context("its loader")?;
        Ok(Loader { process, port })
    }

    /// Its process, a part of the client.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A client's connection.
    pub fn sender(&self) -> Result<Box<dyn Sender>> {
        Ok(Box::new(FrameSender {
            stream: connect(self.port, BATCH_WITHIN)?,
            frame: Vec::new(),
        }))
    }

    /// Brings everything into the files in which it stays.
    pub fn settle(&self) -> Result<()> {
        ask(&mut connect(self.port, REST_WITHIN)?, &question(b'S')).map(|_| ())
    }

    /// Samples that the store has.
    pub fn count(&self) -> Result<u64> {
        ask(&mut connect(self.port, REST_WITHIN)?, &question(b'C'))
    }

    /// Ends it.
    pub fn stop(self) -> Result<()> {
        self.process.stop()
    }
}

/// Every jar of a directory, as a class path says it.
pub fn jars(lib: &Path) -> String {
    lib.join("*").display().to_string()
}

fn connect(port: u16, patience: Duration) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).context("the loader cannot be reached")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

struct FrameSender {
    stream: TcpStream,
    frame: Vec<u8>,
}

impl Sender for FrameSender {
    fn send(&mut self, batch: &Batch) -> Result<()> {
        write_batch(&mut self.frame, batch)?;
        ask(&mut self.stream, &self.frame).map(|_| ())
    }
}

fn question(kind: u8) -> [u8; 5] {
    [kind, 0, 0, 0, 0]
}

fn write_batch(frame: &mut Vec<u8>, batch: &Batch) -> Result<()> {
    frame.clear();
    frame.extend(question(b'W'));
    let metrics = batch.values.len() / batch.ticks.len().max(1);
    frame.extend(u16::try_from(metrics)?.to_be_bytes());
    frame.extend(u32::try_from(batch.ticks.len())?.to_be_bytes());
    for (device, version, values) in batch.iter() {
        write_tick(frame, &fleet::row(device), version, values)?;
    }
    seal(frame)
}

fn write_tick(frame: &mut Vec<u8>, row: &str, version: i64, values: &[f64]) -> Result<()> {
    frame.push(u8::try_from(row.len())?);
    frame.extend(row.as_bytes());
    frame.extend(version.to_be_bytes());
    values.iter().for_each(|value| frame.extend(value.to_be_bytes()));
    Ok(())
}

/// Puts the length of the body where it belongs.
fn seal(frame: &mut [u8]) -> Result<()> {
    let length = u32::try_from(frame.len() - 5)?;
    frame[1..5].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

fn ask(stream: &mut TcpStream, frame: &[u8]) -> Result<u64> {
    stream.write_all(frame).context("the loader does not listen")?;
    let mut head = [0; 5];
    stream.read_exact(&mut head).context("the loader does not answer")?;
    let [status, length @ ..] = head;
    let length = u32::from_be_bytes(length);
    ensure!(length <= ANSWER_BYTES_MAX, "the loader's answer of {length} bytes");
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).context("the loader does not answer")?;
    if status != 0 {
        bail!("the loader says: {}", String::from_utf8_lossy(&body));
    }
    let number: [u8; 8] = body.try_into().ok().context("the loader's answer is no number")?;
    Ok(u64::from_be_bytes(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden: the example above.
    #[test]
    fn a_batch_is_framed_as_it_is_drawn() {
        let mut frame = question(b'W').to_vec();
        frame.extend(2u16.to_be_bytes());
        frame.extend(1u32.to_be_bytes());
        write_tick(&mut frame, "d", 5, &[1.0, 2.0]).unwrap();
        seal(&mut frame).unwrap();
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "570000002000020000000101640000000000000005\
             3ff00000000000004000000000000000"
        );
    }

    #[test]
    fn a_batch_has_its_rows_and_metrics() {
        let batch = Batch {
            ticks: vec![(17, 1_000), (18, 2_000)],
            values: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        };
        let mut frame = Vec::new();
        write_batch(&mut frame, &batch).unwrap();
        let tick = 1 + "device-0000017".len() + 8 + 3 * 8;
        assert_eq!(frame.len(), 5 + 2 + 4 + 2 * tick);
        assert_eq!(frame[..5], [b'W', 0, 0, 0, (6 + 2 * tick) as u8]);
        assert_eq!(frame[5..11], [0, 3, 0, 0, 0, 2]);
    }
}
