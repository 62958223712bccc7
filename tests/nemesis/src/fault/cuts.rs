//! Traffic that does not arrive, arrives late, or in one direction only.

use super::{Done, Ground, NOTICED_MAX};
use crate::network::Cut;
use crate::plan::Target;
use crate::wan::{Traffic, Wan, Way, Weather};
use anyhow::Result;
use std::time::Duration;
use tokio::time::sleep;

/// A cut node that leads must be replaced within the cut's time and this.
const PATIENCE: Duration = Duration::from_secs(10);

/// A node without its neighbours, or without anybody.
pub(super) async fn isolate(ground: &Ground<'_>, target: Target, everybody: bool, lasting: Duration) -> Result<Done> {
    let at = ground.watch.who(target)?;
    // Nobody else does anything to it meanwhile.
    let _server = ground.arena.lock(at).await;
    let network = ground.arena.network()?;
    let before = ground.watch.leaders(at.region);
    let from = ground.seen.now();
    network.cut(at.region, at.node, Cut::Both, everybody)?;
    sleep(lasting).await;
    let led = before.values().any(|l| l.node == at.node);
    let moved = if led {
        ground.watch.successor(at, &before, PATIENCE).await
    } else {
        None
    };
    let dropped = network.heal(at.region, at.node)?;
    let gap = led.then(|| ground.seen.longest_gap(at.region, from, ground.seen.now()));
    let packets = format!("{dropped} packets dropped");
    let effect = match (dropped > 0, led, moved) {
        (true, false, _) => Some(packets),
        (true, true, Some(moved)) => Some(format!("{packets}; {moved}")),
        _ => None,
    };
    Ok(Done {
        gap,
        ..Done::to(at, effect)
    })
}

/// A node that hears its neighbours and is not heard, or the other way about.
pub(super) async fn one_way(ground: &Ground<'_>, target: Target, incoming: bool, lasting: Duration) -> Result<Done> {
    let at = ground.watch.who(target)?;
    let _server = ground.arena.lock(at).await;
    let network = ground.arena.network()?;
    let before = ground.watch.leaders(at.region);
    let from = ground.seen.now();
    let cut = if incoming { Cut::Incoming } else { Cut::Outgoing };
    network.cut(at.region, at.node, cut, false)?;
    sleep(lasting).await;
    let moved = ground.watch.succeeded(at, &before);
    let dropped = network.heal(at.region, at.node)?;
    let gap = ground.seen.longest_gap(at.region, from, ground.seen.now());
    // Not every one-way cut needs another leader; what was lost needs to be something.
    let packets = (dropped > 0).then(|| format!("{dropped} packets dropped"));
    let effect = packets.and_then(|packets| super::joined([Some(packets), moved]));
    Ok(Done {
        gap: Some(gap),
        ..Done::to(at, effect)
    })
}

/// Nothing crosses the link, or nothing in one direction.
pub(super) async fn wan_cut(ground: &Ground<'_>, way: Option<Way>, lasting: Duration) -> Result<Done> {
    let wan = ground.arena.network()?.wan();
    let ways = way.map_or(vec![Way::There, Way::Back], |way| vec![way]);
    let old = traffic(wan);
    let from = ground.seen.now();
    let restore = change(wan, &ways, |weather| Weather {
        blackhole: true,
        ..weather
    });
    sleep(lasting).await;
    let lag = ground.seen.lag_max_ms(from);
    restore(wan);
    let swallowed: u64 = ways
        .iter()
        .map(|w| wan.traffic(*w).swallowed - old[*w as usize].swallowed)
        .sum();
    // TCP needs both directions: whichever is cut, what one region wrote must have grown old at the other.
    let stale = lag.is_none_or(|lag| u128::from(lag) >= lasting.as_millis() / 4);
    let effect = (swallowed > 0 && stale).then(|| {
        let lag = lag.map_or_else(|| "lag not known".to_owned(), |lag| format!("lag up to {lag} ms"));
        format!("{swallowed} packets swallowed; {lag}")
    });
    Ok(Done {
        whom: words(way).to_owned(),
        effect,
        gap: None,
    })
}

/// The link loses packets and is slow.
pub(super) async fn wan_storm(
    ground: &Ground<'_>,
    loss_per_million: u32,
    delay: Duration,
    jitter: Duration,
    lasting: Duration,
) -> Result<Done> {
    let wan = ground.arena.network()?.wan();
    let old = traffic(wan);
    let restore = change(wan, &[Way::There, Way::Back], |_| Weather {
        delay,
        jitter,
        loss_per_million,
        blackhole: false,
    });
    sleep(lasting).await;
    let lost = || {
        [Way::There, Way::Back]
            .map(|w| wan.traffic(w).lost - old[w as usize].lost)
            .iter()
            .sum::<u64>()
    };
    // A quiet link loses its first packet a little later.
    let seen = super::noticed(NOTICED_MAX, || (lost() > 0).then(lost)).await;
    restore(wan);
    Ok(Done {
        whom: words(None).to_owned(),
        effect: seen.map(|lost| format!("{lost} packets lost")),
        gap: None,
    })
}

/// The link is narrow.
pub(super) async fn wan_narrow(ground: &Ground<'_>, kilobits: u32, lasting: Duration) -> Result<Done> {
    let network = ground.arena.network()?;
    network.narrow(kilobits)?;
    sleep(lasting).await;
    // A quiet link has something to hold a little later.
    let held = super::noticed(NOTICED_MAX, || network.held().ok().filter(|held| *held > 0)).await;
    network.widen()?;
    Ok(Done {
        whom: words(None).to_owned(),
        effect: held.map(|held| format!("{held} times a packet waited or was dropped")),
        gap: None,
    })
}

fn traffic(wan: &Wan) -> [Traffic; 2] {
    [Way::There, Way::Back].map(|way| wan.traffic(way))
}

/// Changes the weather of some ways and returns what changes it back.
fn change<F: Fn(Weather) -> Weather>(wan: &Wan, ways: &[Way], new: F) -> impl FnOnce(&Wan) + use<F> {
    let old: Vec<(Way, Weather)> = ways.iter().map(|way| (*way, wan.weather(*way))).collect();
    for (way, weather) in &old {
        wan.set(*way, new(*weather));
    }
    move |wan| old.into_iter().for_each(|(way, weather)| wan.set(way, weather))
}

fn words(way: Option<Way>) -> &'static str {
    match way {
        None => "east<->west",
        Some(Way::There) => "east->west",
        Some(Way::Back) => "west->east",
    }
}
