//! One file per verb, each with `apply`: check everything, then change everything, or refuse and change nothing.

pub(crate) mod alter_table;
pub(crate) mod bootstrap;
pub(crate) mod create_table;
pub(crate) mod drop_table;
pub(crate) mod family;
pub(crate) mod put_peer;
pub(crate) mod register_node;
pub(crate) mod remove_peer;
pub(crate) mod set_link;

#[cfg(test)]
mod tests;
