//! Families as people type them: `NAME[:ttl=30d,max-versions=3,compression=zstd,layout=series,block=1h]`.

use crate::failure::{Failure, Result};
use crate::times::{duration, show_duration};
use tidemark_client::{Compression, Family, Layout};

/// Parses one family.
pub(crate) fn family(text: &str) -> Result<Family> {
    let (name, settings) = text.split_once(':').unwrap_or((text, ""));
    let mut family = Family::new(name);
    let mut block = None;
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
            "layout" => {
                family.layout = match value {
                    "cells" => Some(Layout::Cells),
                    "series" => Some(Layout::Series { block: None }),
                    _ => return Err(wrong(text, "layout is cells or series")),
                }
            }
            "block" => block = Some(duration(value)?),
            _ => {
                let known = "the settings are ttl, max-versions, compression, layout and block";
                return Err(wrong(text, known));
            }
        }
    }
    match &mut family.layout {
        Some(Layout::Series { block: length }) => *length = block,
        _ if block.is_some() => {
            return Err(wrong(
                text,
                "block is the length of time blocks: it needs layout=series",
            ));
        }
        _ => {}
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
    // Cells are what one gets without a word.
    if let Some(Layout::Series { block }) = family.layout {
        settings.push("layout=series".to_owned());
        settings.extend(block.map(|block| format!("block={}", show_duration(block))));
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
        for text in [
            "m",
            "m:max-versions=1",
            "m:ttl=90s",
            "m:ttl=1h30m,compression=none",
            "m:layout=series",
            "m:ttl=30d,layout=series,block=6h",
        ] {
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
            "m:layout=rows",
            "m:block=1h",
            "m:layout=cells,block=1h",
            "a b",
        ] {
            assert!(family(bad).is_err(), "{bad}");
        }
    }
}
