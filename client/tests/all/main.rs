//! The client against regions that a test plays. One binary, so that linking happens once.

#![allow(clippy::unwrap_used)] // These are tests, their short forms included.

mod fake;
mod regions;
mod scans;
mod writes;
