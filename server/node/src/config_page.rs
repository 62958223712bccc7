//! `tidemarkd config check`: every value with its origin.

use crate::args::Options;
use anyhow::Result;
use std::io::Write;

/// Loads the settings as serving would, and prints them. An error is what serving would say.
pub fn check(options: &Options) -> Result<()> {
    let settings = options.settings()?;
    let mut out = std::io::stdout().lock();
    let typed = serde_json::to_value(&settings.typed)?;
    for (name, origin) in &settings.origins {
        let value = name
            .split_once('.')
            .and_then(|(section, field)| typed.get(section)?.get(field));
        let value = value.map(ToString::to_string).unwrap_or_default();
        writeln!(out, "{name:<32} {value:<32} {origin}")?;
    }
    for (node, address) in &settings.seeds {
        writeln!(out, "{:<32} {address}", format!("seed {}", node.0))?;
    }
    eprintln!(
        "ok: node {} of region {} (number {})",
        settings.node.0, settings.typed.region.name, settings.region.0
    );
    Ok(())
}
