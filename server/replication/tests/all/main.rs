//! Regions in one process, joined by links that can be cut. One binary, so that linking happens once.

#![allow(clippy::unwrap_used)] // These are tests, their short forms included.

mod convergence;
mod links;
mod receiving;
mod support;
mod verbs;
