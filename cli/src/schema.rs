//! Families as people type them: `NAME[:ttl=30d,max-versions=3,compression=zstd]`.

use crate::failure::{Failure, Result};
use crate::times::{duration, show_duration};
use tidemark_client::{Compression, Family};

/// Parses one family.
pub(crate) fn family(text: &str) -> Result<Family> {
    let (name, settings) = text.split_once(':').unwrap_or((text, ""));
    let mut family = Family::new(name);
    tidemark_base::names::check_name("family", name).map_err(|e| Failure::usage(e.to_string()))?;
    for setting in settings.split(',').filter(|s| !s.is_empty()) {
        let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
        match key {
            "ttl" => family.ttl = Some(duration(value)?),
            "max-versions" => match value.parse() {
                Ok(versions) if versions > 0 => family.max_versions = Some(versions),
                _ => return Err(wrong(text, "max-versions is a positive number")),
            },
            "compression" => {
                family.compression = match value {
                    "lz4" => Compression::Lz4,
                    "zstd" => Compression::Zstd,
                    "none" => Compression::None,
                    _ => return Err(wrong(text, "compression is lz4, zstd or none")),
                }
            }
            _ => return Err(wrong(text, "the settings are ttl, max-versions and compression")),
        }
    }
    Ok(family)
}

/// The same form back.
pub(crate) fn show(family: &Family) -> String {
    let mut settings = Vec::new();
    if let Some(ttl) = family.ttl {
        settings.push(format!("ttl={}", show_duration(ttl)));
    }
    if let Some(versions) = family.max_versions {
        settings.push(format!("max-versions={versions}"));
    }
    match family.compression {
        Compression::Lz4 => {}
        Compression::None => settings.push("compression=none".to_owned()),
        Compression::Zstd => settings.push("compression=zstd".to_owned()),
    }
    if settings.is_empty() {
        family.name.clone()
    } else {
        format!("{}:{}", family.name, settings.join(","))
    }
}

fn wrong(text: &str, why: &str) -> Failure {
    Failure::usage(format!("family {text:?}: {why}"))
        .next("for example: --family m:ttl=30d,max-versions=3,compression=zstd")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn families_are_parsed_and_shown_alike() {
        let full = family("m:ttl=30d,max-versions=3,compression=zstd").unwrap();
        assert_eq!(full.ttl, Some(Duration::from_secs(30 * 86_400)));
        assert_eq!((full.max_versions, full.compression), (Some(3), Compression::Zstd));
        for text in ["m", "m:max-versions=1", "m:ttl=90s", "m:ttl=1h30m,compression=none"] {
            let parsed = family(text).unwrap();
            assert_eq!(
                family(&show(&parsed)).unwrap(),
                parsed,
                "{text} shown as {}",
                show(&parsed)
            );
        }
        for bad in [
            "",
            "1m",
            "m:ttl=30",
            "m:max-versions=0",
            "m:compression=gzip",
            "m:color=red",
            "a b",
        ] {
            assert!(family(bad).is_err(), "{bad}");
        }
    }
}
