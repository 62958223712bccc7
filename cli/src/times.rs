//! Times and durations as people type them, and versions as they are shown.
//!
//! A moment is RFC 3339 (`2013-12-02T21:15:00Z`), the same with a space and without a zone (then UTC), `now`, relative to
//! now (`-15m`, `+1h`), or an integer: microseconds since 1970. Versions are shown as RFC 3339 in UTC.

use crate::failure::{Failure, Result};
use jiff::Timestamp;
use std::time::Duration;

/// Microseconds since 1970.
pub(crate) fn moment(text: &str, now_micros: i64) -> Result<i64> {
    let text = text.trim();
    let wrong = || {
        Failure::usage(format!("{text:?} is not a time"))
            .next("give RFC 3339 (2013-12-02T21:15:00Z), -15m, now, or microseconds since 1970")
    };
    if text == "now" {
        return Ok(now_micros);
    }
    if let Ok(micros) = text.parse::<i64>() {
        // `-15` without a unit is nearly always a forgotten unit, and no version is negative.
        return if micros >= 0 && !text.starts_with('+') {
            Ok(micros)
        } else {
            Err(wrong())
        };
    }
    for (sign, factor) in [('-', -1), ('+', 1)] {
        if let Some(rest) = text.strip_prefix(sign) {
            let micros = duration(rest).map_err(|_| wrong())?.as_micros();
            let micros = i64::try_from(micros).map_err(|_| wrong())?;
            return Ok(now_micros.saturating_add(factor * micros));
        }
    }
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(timestamp.as_microsecond());
    }
    let civil = text.parse::<jiff::civil::DateTime>().map_err(|_| wrong())?;
    let zoned = civil.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| wrong())?;
    Ok(zoned.timestamp().as_microsecond())
}

/// The version of a cell: a [`moment`] from 1970 on. Below that the wire has a mark of its own, "the server's time".
pub(crate) fn version(text: &str, now_micros: i64) -> Result<i64> {
    let micros = moment(text, now_micros)?;
    if micros < 0 {
        return Err(Failure::usage(format!("{text:?} is before 1970, where versions begin"))
            .next("give a time from 1970-01-01T00:00:00Z on"));
    }
    Ok(micros)
}

/// A duration with its unit: `15m`, `1h30m`, `250ms`.
pub(crate) fn duration(text: &str) -> Result<Duration> {
    humantime::parse_duration(text.trim()).map_err(|_| {
        Failure::usage(format!("{text:?} is not a duration")).next("give a number and its unit: 15m, 30d, 500ms")
    })
}

/// A version as it is shown; one beyond the calendar as the integer that it is.
pub(crate) fn show(version: i64) -> String {
    match Timestamp::from_microsecond(version) {
        Ok(timestamp) => timestamp.to_string(),
        Err(_) => version.to_string(),
    }
}

/// A duration in the form that [`duration`] reads: days at most, because a month has no fixed length.
pub(crate) fn show_duration(duration: Duration) -> String {
    let units = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];
    let mut rest_ms = duration.as_millis();
    let mut out = String::new();
    for (unit, ms) in units {
        if rest_ms >= ms {
            out.push_str(&format!("{}{unit}", rest_ms / ms));
            rest_ms %= ms;
        }
    }
    if out.is_empty() { "0s".to_owned() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let now = 1_700_000_000_000_000;
        let at = |text: &str| moment(text, now).ok();
        assert_eq!(at("2013-12-02T21:15:00Z"), Some(1_386_018_900_000_000));
        assert_eq!(at("2013-12-02 21:15:00"), Some(1_386_018_900_000_000));
        assert_eq!(at("2013-12-02 21:15:00.000000"), Some(1_386_018_900_000_000));
        assert_eq!(at("2013-12-02T22:15:00+01:00"), Some(1_386_018_900_000_000));
        assert_eq!(at("2013-12-02"), Some(1_385_942_400_000_000));
        assert_eq!(at("-15m"), Some(now - 900_000_000));
        assert_eq!(at("+1h"), Some(now + 3_600_000_000));
        assert_eq!(at("now"), Some(now));
        assert_eq!(at("1386018900000000"), Some(1_386_018_900_000_000));
        for bad in ["", "-15", "yesterday", "2013-13-02", "-", "12:00"] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }

    #[test]
    fn versions_round_trip_through_what_is_shown() {
        for version in [
            0,
            1,
            1_386_018_900_000_000,
            1_386_018_900_000_001,
            1_386_018_900_123_000,
            i64::MAX,
        ] {
            assert_eq!(moment(&show(version), 0).unwrap(), version, "{}", show(version));
        }
        assert_eq!(show(1_386_018_900_000_000), "2013-12-02T21:15:00Z");
    }

    #[test]
    fn no_version_is_negative() {
        assert_eq!(version("1970-01-01T00:00:00Z", 0).unwrap(), 0);
        for before in ["1969-12-31T23:59:59.999999Z", "1969-12-31 23:59:59", "-1s", "-1"] {
            assert!(version(before, 0).is_err(), "{before}");
        }
    }

    #[test]
    fn durations_are_shown_as_they_are_typed() {
        for text in ["90d", "1d12h", "1h30m", "5s", "250ms", "365d", "0s"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
    }
}
