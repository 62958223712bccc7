//! Waiting for conditions, always with a deadline.

use anyhow::{Context, Result, bail};
use std::future::Future;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Polls `check` until it says `Some`, at most `limit`. The last error or "not yet" is in the message.
pub async fn wait_for<T, F>(what: &str, limit: Duration, mut check: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let deadline = Instant::now() + limit;
    let mut last = String::from("not yet");
    let mut pause = Duration::from_millis(5);
    loop {
        match tokio::time::timeout(limit, check()).await {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) => last = "not yet".into(),
            Ok(Err(e)) => last = format!("{e:#}"),
            Err(_) => last = format!("one check took over {limit:?}; before that: {last}"),
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} for {what}: {last}");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// GET over HTTP/1.1 on loopback: status code and body.
pub async fn http_get(address: &str, path: &str) -> Result<(u16, String)> {
    let work = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.take(16 << 20).read_to_end(&mut bytes).await?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let code = text
            .split(' ')
            .nth(1)
            .and_then(|c| c.parse().ok())
            .context("not an HTTP answer")?;
        let body = text
            .split_once("\r\n\r\n")
            .map(|(_, b)| b.to_owned())
            .unwrap_or_default();
        anyhow::Ok((code, body))
    };
    tokio::time::timeout(Duration::from_secs(5), work)
        .await
        .context("no HTTP answer within 5 s")?
}
