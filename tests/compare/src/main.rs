//! The `tidemark-compare` binary; everything is in the library.

use anyhow::{Context, Result};
use clap::Parser;
use tidemark_compare::run::{Options, run};

fn main() -> Result<()> {
    // How the program starts itself as one of its spinners: no option for people.
    if std::env::args().nth(1).as_deref() == Some("--spin") {
        tidemark_compare::spin::spin();
        return Ok(());
    }
    let options = Options::parse();
    let verdict = run(&options)?;
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&verdict)?;
        std::fs::write(path, text + "\n").with_context(|| path.display().to_string())?;
    }
    print!("{}", verdict.text());
    Ok(())
}
