//! What waits in quarantine: shown, and given up.

use super::Admin;
use crate::call::Safety;
use crate::client::Target;
use crate::error::Result;
use tidemark_proto::v1;

/// Row mutations of one record of a peer that wait in one tablet (R17).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantineEntry {
    /// Names it for [`Admin::discard_quarantine`].
    pub id: String,
    /// The peer that they came from.
    pub peer: String,
    /// The tablet here.
    pub tablet: u64,
    /// Why they wait.
    pub cause: String,
    /// What to do about it.
    pub action: String,
    /// When the oldest was written, by the peer's clock; microseconds. Of a record that cannot be read: not before; 0 = not
    /// known, and then the age is 0 too.
    pub oldest_micros: i64,
    /// How long ago that is, by this region's clock.
    pub age_ms: u64,
    /// How many; 1 for a record that cannot be read.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Some row keys; none of a record that cannot be read.
    pub sample_rows: Vec<Vec<u8>>,
}

/// A part of a table's quarantine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quarantine {
    /// By tablet, oldest record first.
    pub entries: Vec<QuarantineEntry>,
    /// There are more.
    pub more: bool,
}

/// What was given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Discarded {
    /// Entries.
    pub entries: u64,
    /// Row mutations in them.
    pub rows: u64,
    /// Bytes that they counted against the quarantine's bound.
    pub bytes: u64,
}

impl Admin {
    /// What came from peers (of one, if named) for a table and cannot be applied yet; at most `limit` entries, 0 = 100.
    pub async fn list_quarantine(&self, table: &str, peer: Option<&str>, limit: u32) -> Result<Quarantine> {
        let request = v1::ListQuarantineRequest {
            table: table.to_owned(),
            peer: peer.unwrap_or_default().to_owned(),
            limit,
        };
        let list = |t: Target, r| async move { Ok(t.replication().list_quarantine(t.request(r)).await?.into_inner()) };
        let answer = self.ask(Safety::Read, request, list).await?;
        Ok(Quarantine {
            entries: answer.entries.into_iter().map(QuarantineEntry::from).collect(),
            more: answer.more,
        })
    }

    /// Gives up the named entries, or with no id everything of that peer that waits now. The rows are lost to this region:
    /// the peer does not send them again. `accept_loss` says that this is meant; without it the servers refuse.
    pub async fn discard_quarantine(
        &self,
        table: &str,
        peer: &str,
        ids: &[String],
        accept_loss: bool,
    ) -> Result<Discarded> {
        let request = v1::DiscardQuarantineRequest {
            table: table.to_owned(),
            peer: peer.to_owned(),
            ids: ids.to_vec(),
            accept_loss,
        };
        let discard =
            |t: Target, r| async move { Ok(t.replication().discard_quarantine(t.request(r)).await?.into_inner()) };
        // Not repeated by itself: what arrived meanwhile would go too.
        let answer = self.ask(Safety::Once, request, discard).await?;
        Ok(Discarded {
            entries: answer.entries,
            rows: answer.rows,
            bytes: answer.bytes,
        })
    }
}

impl From<v1::QuarantineEntry> for QuarantineEntry {
    fn from(entry: v1::QuarantineEntry) -> QuarantineEntry {
        QuarantineEntry {
            id: entry.id,
            peer: entry.peer,
            tablet: entry.tablet,
            cause: entry.cause,
            action: entry.action,
            oldest_micros: entry.oldest_micros,
            age_ms: entry.age_ms,
            rows: entry.rows,
            bytes: entry.bytes,
            sample_rows: entry.sample_rows.into_iter().map(|row| row.to_vec()).collect(),
        }
    }
}
