//! [`Writer`]: many writes, few requests.
//!
//! ```text
//!  write() ── waits for memory ──▶ inbox ──▶ core: queue per tablet ──▶ batches ──▶ requests, several at once
//!     ▲                                        │  a row that is under way holds back its later mutations
//!     └── ticket: one result a write ◀─────────┘  failures: again after a pause, elsewhere, or an error
//! ```
//! The core decides and does no I/O; the task in `run` owns it and carries bytes.

mod core;
#[cfg(test)]
mod core_tests;
mod run;

use self::core::Pending;
use crate::error::{ClientError, Result};
use crate::mutation::RowMutation;
use crate::table::Table;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tidemark_base::{ErrorKind, limits};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

/// Writes that wait between the callers and the writer's task; memory is bounded by bytes, this only bounds the hand-over.
const INBOX_WRITES: usize = 4_096;

/// How a writer batches. Values outside their bounds are moved to the nearest bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriterOptions {
    /// Bytes of mutations that may wait or be under way; [`Writer::write`] waits beyond it. 64 MiB, 1 KiB to 4 GiB. The
    /// encoded form of what is under way comes on top, at worst as much again.
    pub buffer_bytes_max: usize,
    /// A batch is sent when it has so many bytes; 256 KiB, at most 16 MiB. One greater row goes alone.
    pub batch_bytes: usize,
    /// A batch is sent when it has so many rows; 1,000, at most 65,536.
    pub batch_rows: usize,
    /// A smaller batch is sent when its oldest row has waited so long; 5 ms, at most 10 s.
    pub linger: Duration,
    /// Batches of one tablet under way at once; 4, 1 to 64. Never two with the same row.
    pub in_flight_max: usize,
}

impl Default for WriterOptions {
    fn default() -> WriterOptions {
        WriterOptions {
            buffer_bytes_max: 64 << 20,
            batch_bytes: 256 << 10,
            batch_rows: 1_000,
            linger: Duration::from_millis(5),
            in_flight_max: 4,
        }
    }
}

impl WriterOptions {
    fn bounded(self) -> WriterOptions {
        WriterOptions {
            buffer_bytes_max: self.buffer_bytes_max.clamp(1 << 10, u32::MAX as usize),
            batch_bytes: self.batch_bytes.clamp(1, limits::ROW_MUTATION_BYTES_MAX),
            batch_rows: self.batch_rows.clamp(1, limits::BATCH_ROWS_MAX),
            linger: self.linger.min(Duration::from_secs(10)),
            in_flight_max: self.in_flight_max.clamp(1, 64),
        }
    }
}

/// A write that a quorum has on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The region that acknowledged it.
    pub region: String,
}

/// Batches writes of one table. Cheap to clone; clones share buffer and order.
///
/// **Order**: mutations of one row take effect in the order in which `write` was called for them. Rows are independent.
///
/// **Memory**: `write` waits while `buffer_bytes_max` is used up.
///
/// **Results**: each write has its own, by its [`WriteTicket`]. A dropped ticket loses only the result; the first error
/// since the last [`Writer::flush`] is also returned by `flush`.
///
/// **Lost answers**: a mutation of puts with their own versions is sent again, also to another region. Any other is an
/// [`ErrorKind::UnknownOutcome`] as soon as it may have arrived.
///
/// Dropping the last clone lets what was written finish in the background.
///
/// ```no_run
/// # async fn example(table: tidemark_client::Table) -> Result<(), tidemark_client::ClientError> {
/// use tidemark_client::{RowMutation, WriterOptions, now_micros};
/// let writer = table.writer(WriterOptions::default());
/// for device in 0..10_000 {
///     let row = RowMutation::new(format!("device-{device:05}")).put("m", "temperature", now_micros(), "21.5");
///     let _ticket = writer.write(row).await?;
/// }
/// writer.close().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Writer {
    inbox: mpsc::Sender<Message>,
    memory: Arc<Semaphore>,
    bytes_max: usize,
    deadline: Duration,
}

/// What callers tell the writer's task.
#[derive(Debug)]
pub(crate) enum Message {
    Write(Pending),
    Flush(oneshot::Sender<Result<()>>),
    Close(oneshot::Sender<Result<()>>),
}

impl Writer {
    pub(crate) fn start(table: Table, options: WriterOptions) -> Writer {
        let options = options.bounded();
        let (inbox, messages) = mpsc::channel(INBOX_WRITES);
        let writer = Writer {
            inbox,
            memory: Arc::new(Semaphore::new(options.buffer_bytes_max)),
            bytes_max: options.buffer_bytes_max,
            deadline: table.shared.options.retry.deadline,
        };
        tokio::spawn(run::run(table, options, messages));
        writer
    }

    /// Hands a mutation over, waiting for memory if need be. The ticket resolves when it is settled.
    ///
    /// The retry deadline counts from here. An error means that it was not accepted: `WRITER_CLOSED`.
    pub async fn write(&self, mutation: RowMutation) -> Result<WriteTicket> {
        // A mutation greater than the whole buffer waits for all of it.
        let bytes = mutation.bytes_len().min(self.bytes_max);
        let permits = u32::try_from(bytes).expect("the buffer is bounded at 4 GiB");
        let memory = self
            .memory
            .clone()
            .acquire_many_owned(permits)
            .await
            .map_err(|_| closed())?;
        let (done, result) = oneshot::channel();
        let pending = Pending::new(mutation, done, Some(memory), Instant::now() + self.deadline);
        self.inbox.send(Message::Write(pending)).await.map_err(|_| closed())?;
        Ok(WriteTicket { result })
    }

    /// Sends what waits and returns when every write accepted before is settled: with the first error among the
    /// writes since the last flush, if there was one.
    pub async fn flush(&self) -> Result<()> {
        let (done, result) = oneshot::channel();
        self.inbox.send(Message::Flush(done)).await.map_err(|_| closed())?;
        result.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Flushes and stops the writer, its clones included.
    pub async fn close(self) -> Result<()> {
        let (done, result) = oneshot::channel();
        self.inbox.send(Message::Close(done)).await.map_err(|_| closed())?;
        result.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Bytes that wait or are under way.
    pub fn buffered_bytes(&self) -> usize {
        self.bytes_max - self.memory.available_permits()
    }
}

/// The result of one write, when it is there. Dropping it does not take the write back.
#[derive(Debug)]
pub struct WriteTicket {
    result: oneshot::Receiver<Result<Written>>,
}

impl Future for WriteTicket {
    type Output = Result<Written>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Written>> {
        let result = ready!(Pin::new(&mut self.result).poll(cx));
        Poll::Ready(result.unwrap_or_else(|_| Err(stopped())))
    }
}

fn closed() -> ClientError {
    ClientError::new(ErrorKind::FailedPrecondition, "WRITER_CLOSED", "the writer is closed")
        .action_is("make another one")
}

/// The writer's task is gone, with the runtime or by a defect, and nobody knows what became of the write.
fn stopped() -> ClientError {
    ClientError::new(
        ErrorKind::UnknownOutcome,
        "WRITER_STOPPED",
        "the writer stopped before the write was settled",
    )
}
