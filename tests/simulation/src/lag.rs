//! What each region says of the lag of its links, while it happens (O7, O14).

use crate::control::{Control, Stage};
use crate::site::REGIONS;
use crate::time;
use crate::workload::{SHARED, connect};
use std::time::Duration;
use tidemark_checkers::history::{Record, Watermark};

/// Between two questions.
const EVERY: Duration = Duration::from_millis(400);
/// A region that needs longer says nothing.
const ANSWER_MAX: Duration = Duration::from_millis(1_500);

/// Asks one region until the run ends.
pub async fn listen(region: usize, control: Control) -> turmoil::Result {
    control.reached(Stage::Begin).await;
    let who = format!("lag-{}", REGIONS[region]);
    let mut client = None;
    while control.stage() < Stage::End {
        tokio::time::sleep(EVERY).await;
        let Some(asked) = &client else {
            client = connect(&who, region, Duration::from_secs(2)).await.ok();
            continue;
        };
        let call = time::nanos();
        let answer = tokio::time::timeout(ANSWER_MAX, asked.admin().replication_status(None, false)).await;
        let Ok(Ok(links)) = answer else { continue };
        let returned = time::nanos();
        for link in links.into_iter().filter(|link| link.table == SHARED) {
            // Of a blocked stream the number is a lower bound and no promise.
            let lag_ms = (link.state != "BLOCKED").then_some(link.lag_ms);
            control.recorder.write(&Record::Watermark(Watermark {
                table: link.table,
                origin: REGIONS[region].to_owned(),
                peer: link.peer,
                call,
                returned,
                lag_ms,
                complete_hlc: None,
            }));
        }
    }
    Ok(())
}
