//! L5: what operators and their machines look at, over plain HTTP on a listener of its own.
//!
//! May not know: the request path. It is told what to show (a registry, a readiness, a status) and asks nobody.
//!
//! ```text
//! GET /metrics   OpenMetrics text
//! GET /healthz   200 while the process can answer at all; a failure means: restart it
//! GET /readyz    200 when requests will be served; 503 with the reason in words
//! GET /status    JSON: what this node is and does
//! ```
//!
//! A listener apart from gRPC, so that a scrape still works when the data path is saturated, and so that it may be
//! firewalled differently. Everything is bounded ([`Limits`]): connections, header bytes, the time for a header to
//! arrive and the time for an answer.

mod pages;
mod server;

pub use pages::{Ops, Readiness};
pub use server::{Limits, serve};
