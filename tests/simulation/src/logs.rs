//! What the nodes log, kept in memory by node, so that the checkers can read it (no panic, no secret, no unlisted ERROR).
//!
//! All nodes are in one process and write to one subscriber; turmoil steps each of them inside a span with its name.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{self, Write};
use tidemark_checkers::NodeLog;
use tracing_subscriber::fmt::MakeWriter;

/// What is kept: everything of ours that a server would log by default, and what anybody warns of. turmoil's spans name
/// the node.
pub const FILTER: &str = "warn,tidemark=info,turmoil=info";
/// Lines of a node that are kept; a run that logs more fails, by a line that says so.
const LINES_MAX: usize = 100_000;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Where the subscriber writes.
#[derive(Clone, Copy, Debug)]
pub struct Kept;

impl Write for Kept {
    /// The formatter writes each event at once.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut lines = LINES.lock();
        let text = String::from_utf8_lossy(bytes).into_owned();
        match lines.len().cmp(&LINES_MAX) {
            std::cmp::Ordering::Less => lines.push(text),
            std::cmp::Ordering::Equal => lines.push("ERROR more lines than are kept\n".to_owned()),
            std::cmp::Ordering::Greater => {}
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Kept {
    type Writer = Kept;

    fn make_writer(&'a self) -> Kept {
        Kept
    }
}

/// What was logged so far, by node.
pub fn taken() -> Vec<NodeLog> {
    let mut logs: BTreeMap<String, String> = BTreeMap::new();
    for line in LINES.lock().iter() {
        let node = line
            .split("node{name=\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next());
        logs.entry(node.unwrap_or("rig").to_owned()).or_default().push_str(line);
    }
    logs.into_iter().map(|(node, text)| NodeLog { node, text }).collect()
}
