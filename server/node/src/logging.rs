//! Structured logs on standard error: text for people, JSON lines for collectors.

use crate::settings::Settings;
use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

/// Installs the process's subscriber. Called once, before anything logs.
pub fn start(settings: &Settings) -> Result<()> {
    let level = &settings.typed.log.level;
    // openraft tells every step of every group at info; that is debugging, not news for an operator.
    let quiet = format!("openraft=warn,{level}");
    let filter = EnvFilter::try_new(&quiet).with_context(|| format!("log.level {level:?} is not a level or filter"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let outcome = match settings.typed.log.format.as_str() {
        "json" => builder.json().try_init(),
        _ => builder.with_ansi(false).try_init(),
    };
    outcome.map_err(|e| anyhow::anyhow!("cannot start logging: {e}"))
}
