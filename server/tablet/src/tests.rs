//! Tests of apply with a list of entries on the memory engine, without any task: what the log says is what happens.

mod dropped;
mod golden;
mod links;
mod operations;
mod properties;
mod remote;
mod remote_support;
mod support;
