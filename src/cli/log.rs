//! `KILN_LOG`: which stages report on standard error when they end, and how long they took.

use miette::{Result, miette};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, registry};

/// Turns on what `KILN_LOG` asks for, if it is set: a level (`info`), or levels of crates (`kiln_fuse=debug,kiln_cuda=info`).
pub fn start() -> Result<()> {
    let Some(filter) = std::env::var_os("KILN_LOG").filter(|filter| !filter.is_empty()) else { return Ok(()) };
    let filter = filter.to_str().ok_or_else(|| refused("it is no UTF-8"))?;
    let targets: Targets = filter.parse().map_err(|e| refused(&format!("`{filter}`: {e}")))?;
    if let Some((name, _)) = targets.iter().find(|(name, _)| *name != "kiln" && !name.starts_with("kiln_")) {
        return Err(refused(&format!("`{name}` is neither a level nor one of Kiln's crates")));
    }
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_span_events(FmtSpan::CLOSE);
    registry().with(layer.with_filter(targets)).try_init().map_err(|e| refused(&e.to_string()))
}

fn refused(why: &str) -> miette::Report {
    miette!(
        help =
            "a level (error, warn, info, debug, trace) for all, or CRATE=LEVEL for some: KILN_LOG=info,kiln_fuse=debug",
        "KILN_LOG: {why}"
    )
}
