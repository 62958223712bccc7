//! As much HTTP/1.1 as the peers need: one kept connection, a body out, a status and a body back.

use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);

/// A connection that is kept.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    host: String,
    head: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub fn open(host: &str) -> Result<Connection> {
        let stream = TcpStream::connect(host).with_context(|| format!("cannot connect to {host}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Connection {
            stream: BufReader::new(stream),
            host: host.to_owned(),
            head: Vec::new(),
        })
    }

    /// One request; an answer other than 2xx is an error with its text.
    pub fn request(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>> {
        self.head.clear();
        write!(
            self.head,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n",
            self.host,
            body.len()
        )?;
        let stream = self.stream.get_mut();
        stream.write_all(&self.head)?;
        stream.write_all(body)?;
        let (status, length) = self.read_head()?;
        let body = match length {
            Length::Known(bytes) => {
                let mut body = vec![0; bytes];
                self.stream.read_exact(&mut body)?;
                body
            }
            Length::Chunked => self.read_chunks()?,
        };
        ensure!(
            (200..300).contains(&status),
            "{method} {path}: {status} {}",
            String::from_utf8_lossy(&body[..body.len().min(300)]).trim()
        );
        Ok(body)
    }

    fn read_line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("the connection was closed");
        }
        Ok(line.trim_end().to_owned())
    }

    fn read_head(&mut self) -> Result<(u16, Length)> {
        let first = self.read_line()?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.with_context(|| format!("not HTTP: {first:?}"))?;
        let mut length = Length::Known(0);
        loop {
            let line = self.read_line()?;
            let Some((name, value)) = line.split_once(':') else {
                return Ok((status, length));
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = Length::Known(value.trim().parse()?),
                "transfer-encoding" if value.trim().eq_ignore_ascii_case("chunked") => length = Length::Chunked,
                _ => {}
            }
        }
    }

    fn read_chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.read_line()?;
            let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)?;
            let at = body.len();
            body.resize(at + size, 0);
            self.stream.read_exact(&mut body[at..])?;
            self.read_line()?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

enum Length {
    Known(usize),
    Chunked,
}

/// True if a GET is answered with 2xx.
pub fn answers(host: &str, path: &str) -> bool {
    Connection::open(host)
        .and_then(|mut c| c.request("GET", path, b""))
        .is_ok()
}
