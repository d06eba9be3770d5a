//! `kiln cache`.

use super::out::bytes;
use clap::Subcommand;
use kiln_cuda::Home;
use kiln_host::{Cache, Entry, Total, parse_size};
use miette::{Result, miette};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// List, shrink or empty the caches of engines and compiled kernels.
///
/// There are two: `engines`, what `run`, `compare` and `bench` built of models, and `cubins`, compiled GPU kernels. Both are in $KILN_HOME (default
/// ~/.cache/kiln) and keep themselves under $KILN_CACHE_LIMIT bytes each (such as 500MiB; default 4GiB): what was used least recently goes first. Losing
/// an entry costs only the time of building it again.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show what is kept and how much of it: one entry a line, the most recently used first.
    List(Options),
    /// Remove what was used least recently until each cache is under its limit.
    Prune {
        /// Bytes that each cache may keep, such as `500MiB`; default: $KILN_CACHE_LIMIT, or 4GiB.
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        limit: Option<u64>,
        #[command(flatten)]
        options: Options,
    },
    /// Remove everything that is kept.
    Clear(Options),
}

#[derive(clap::Args)]
struct Options {
    /// Print as JSON; sizes are bytes, times are seconds since an entry was used.
    #[arg(long)]
    json: bool,
}

/// One cache, by name and with what reads its entries.
struct Named {
    name: &'static str,
    cache: Cache,
    describe: fn(&Entry) -> std::result::Result<String, String>,
}

/// A cache for [`Action::List`].
#[derive(Serialize)]
struct Listing {
    cache: &'static str,
    folder: PathBuf,
    limit: u64,
    #[serde(flatten)]
    total: Total,
    kept: Vec<Kept>,
}

#[derive(Serialize)]
struct Kept {
    path: PathBuf,
    bytes: u64,
    unused_for_s: u64,
    /// What it is of; none where it cannot be read.
    of: Option<String>,
    error: Option<String>,
}

/// What one cache lost.
#[derive(Serialize)]
struct Removal {
    cache: &'static str,
    removed: Total,
    left: Total,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let home = Home::from_env().map_err(|e| miette!("{e}"))?;
    let engine = |e: &Entry| {
        let header = kiln_engine::read_header(&e.path).map_err(|e| e.to_string())?;
        let targets: Vec<String> = header.targets.into_iter().map(|t| t.target).collect();
        Ok(format!("{} for {}", header.model, targets.join(", ")))
    };
    let cubin = |e: &Entry| kiln_cuda::describe_entry(&e.path).map(|(kernel, arch)| format!("{kernel} for {arch}"));
    let caches = [
        Named { name: "engines", cache: home.engine_cache(), describe: engine },
        Named { name: "cubins", cache: home.cubin_cache(), describe: cubin },
    ];
    match &args.action {
        Action::List(options) => list(&caches, options),
        Action::Prune { limit, options } => remove(&caches, *limit, options),
        Action::Clear(options) => remove(&caches, Some(0), options),
    }
}

fn list(caches: &[Named], options: &Options) -> Result<ExitCode> {
    let mut listings = Vec::new();
    for Named { name, cache, describe } in caches {
        let entries = cache.entries().map_err(|e| failed("list", cache, &e))?;
        let now = SystemTime::now();
        let kept = |entry: &Entry| {
            let (of, error) = match describe(entry) {
                Ok(of) => (Some(of), None),
                Err(error) => (None, Some(error)),
            };
            let unused = now.duration_since(entry.used).unwrap_or_default();
            Kept { path: entry.path.clone(), bytes: entry.bytes, unused_for_s: unused.as_secs(), of, error }
        };
        listings.push(Listing {
            cache: name,
            folder: cache.folder().to_owned(),
            limit: cache.limit(),
            total: entries.iter().collect(),
            kept: entries.iter().map(kept).collect(),
        });
    }
    if options.json {
        super::print_json(&listings)?;
        return Ok(ExitCode::SUCCESS);
    }
    for l in &listings {
        outln!("{}: {} of at most {} in {}", l.cache, said(l.total), bytes(l.limit as usize), l.folder.display())?;
        for entry in &l.kept {
            let of = entry.of.as_ref().or(entry.error.as_ref()).map_or("", |text| text.as_str());
            let age = age(Duration::from_secs(entry.unused_for_s));
            let file = entry.path.strip_prefix(&l.folder).unwrap_or(&entry.path);
            outln!("  {:>10} {age:>8}  {of}  {}", bytes(entry.bytes as usize), file.display())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(caches: &[Named], limit: Option<u64>, options: &Options) -> Result<ExitCode> {
    let mut removals = Vec::new();
    for Named { name, cache, .. } in caches {
        let removed = cache.prune(limit.unwrap_or(cache.limit())).map_err(|e| failed("remove from", cache, &e))?;
        let left = cache.entries().map_err(|e| failed("list", cache, &e))?.iter().collect();
        removals.push(Removal { cache: name, removed, left });
    }
    if options.json {
        super::print_json(&removals)?;
        return Ok(ExitCode::SUCCESS);
    }
    for r in &removals {
        outln!("{}: removed {}, left {}", r.cache, said(r.removed), said(r.left))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn failed(action: &str, cache: &Cache, error: &std::io::Error) -> miette::Report {
    miette!("cannot {action} {}: {error}", cache.folder().display())
}

fn said(total: Total) -> String {
    let noun = if total.entries == 1 { "entry" } else { "entries" };
    format!("{} {noun}, {}", total.entries, bytes(total.bytes as usize))
}

/// A time in its largest unit.
fn age(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
