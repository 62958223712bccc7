//! What each region says of the lag of its links, while it happens (O7, O14).

use super::{REGISTERS, Shared, TELEMETRY};
use crate::plan::REGIONS;
use std::sync::Arc;
use std::time::Duration;
use tidemark_checkers::history::{Record, Watermark};
use tidemark_client::{Client, LinkStatus};

/// Between two questions.
const EVERY: Duration = Duration::from_millis(400);
/// A region that needs longer says nothing.
const ANSWER_MAX: Duration = Duration::from_millis(1_500);

/// Asks until it is aborted.
pub(super) async fn listen(shared: Arc<Shared>, client: Client, region: usize) {
    let admin = client.admin();
    loop {
        tokio::time::sleep(EVERY).await;
        let call = shared.now();
        let asked = tokio::time::timeout(ANSWER_MAX, admin.replication_status(None, false)).await;
        let Ok(Ok(links)) = asked else { continue };
        let returned = shared.now();
        for link in links {
            let Some(table) = [REGISTERS, TELEMETRY].into_iter().find(|t| *t == link.table) else {
                continue;
            };
            let lag_ms = stated(&link);
            shared.seen.lock().lags.push((returned, lag_ms));
            shared.recorder().write(&Record::Watermark(Watermark {
                table: table.to_owned(),
                origin: REGIONS[region].to_owned(),
                peer: link.peer.clone(),
                call,
                returned,
                lag_ms,
                complete_hlc: None,
            }));
        }
    }
}

/// The lag, unless the region does not know it: then the number is a lower bound and no promise.
fn stated(link: &LinkStatus) -> Option<u64> {
    (link.state != "BLOCKED").then_some(link.lag_ms)
}
