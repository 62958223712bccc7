//! Every decoder of this crate that reads bytes from outside (log, disk, peers), by name, for tests with arbitrary bytes
//! (tests/decoders, fuzz/). A new decoder gets a line here.

use crate::command::Command;
use crate::feed::{FeedEntry, FeedHead};
use crate::quarantine::{self, Entry};
use crate::remote::{RemoteBatch, RemoteOutcome};
use crate::state::Marks;
use crate::stream::Cursor;
use crate::tokens::{self, Remembered};
use bytes::Bytes;

/// A decoder's name, and a function that decodes and says whether the bytes were what it decodes.
pub type Decoder = (&'static str, fn(&[u8]) -> bool);

/// What is decoded, and a function that decodes it and says whether it was that.
pub const DECODERS: &[Decoder] = &[
    ("tablet-command", tablet_command),
    ("feed-entry", feed_entry),
    ("remote-batch", remote_batch),
    ("tablet-state", tablet_state),
];

fn tablet_command(bytes: &[u8]) -> bool {
    Command::decode(&Bytes::copy_from_slice(bytes)).is_ok()
}

/// What is read is written back as the same entry.
fn feed_entry(bytes: &[u8]) -> bool {
    let Ok(entry) = FeedEntry::decode(&Bytes::copy_from_slice(bytes)) else {
        return false;
    };
    assert_eq!(FeedEntry::decode(&entry.encode()).ok(), Some(entry));
    true
}

/// What is read is written back as the same batch.
fn remote_batch(bytes: &[u8]) -> bool {
    let outcome = RemoteOutcome::decode(bytes).is_ok();
    let Ok(batch) = RemoteBatch::decode(&Bytes::copy_from_slice(bytes)) else {
        return outcome;
    };
    assert_eq!(RemoteBatch::decode(&batch.encode()).ok(), Some(batch));
    true
}

/// State records of a tablet, each tried.
fn tablet_state(bytes: &[u8]) -> bool {
    let shared = Bytes::copy_from_slice(bytes);
    let read = [
        Marks::decode(bytes).is_ok(),
        FeedHead::decode(bytes).is_ok(),
        Cursor::decode(bytes).is_ok(),
        Entry::decode(&shared).is_ok(),
        Remembered::decode(&shared).is_ok(),
        quarantine::parse_key(bytes).is_ok(),
        tokens::parse_key(bytes).is_ok(),
    ];
    read.contains(&true)
}
