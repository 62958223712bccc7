//! Tests on real processes. One binary, so that linking happens once; one test at a time, see `scene::alone`.

mod bad_input;
mod bench;
mod conflicts;
mod damage;
mod demo;
mod disk;
mod joining;
mod leaders;
mod quarantine;
mod replication;
mod restarts;
mod sensors;
mod series;
mod single;
mod wiped;
