//! `kiln tune`, and what `kiln build --tune` shares with it.

use super::model::{self, ModelArgs};
use indicatif::{ProgressBar, ProgressStyle};
use kiln_cuda::{Compiler, CubinCache, Home, Nvrtc};
use kiln_engine::{BuildOptions, Engine, PLANS};
use kiln_fuse::Kernels;
use kiln_host::parse_size;
use kiln_target::{Gpu, Target};
use kiln_tune::{Fit, News, OnDevice, Options, Prices, Timings, Tuned, TunedPlan, TunedRegion, Tuning, tune_plans};
use miette::{IntoDiagnostic, Result, miette};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Measures ways to make each kernel of a model on this machine's GPU, and writes an engine with the fastest. Of a model the best few plans are measured beside each other, and the
/// fastest is kept; an engine has one plan.
///
/// Kernels are compared with the CPU's results before their times count, and run over operands that no cache holds. What was measured is kept in a
/// timing cache, which later builds ask first: two builds with one cache are equal.
#[derive(clap::Args)]
pub struct Args {
    /// An engine (`.kiln`) with code for the GPU, or a model as `kiln build` takes.
    model: PathBuf,
    /// The engine to write; default: the model's name with `.kiln`, or the engine itself.
    #[arg(short, long)]
    output: Option<PathBuf>,
    #[command(flatten)]
    tune: TuneArgs,
    #[command(flatten)]
    options: ModelArgs,
    /// Print as JSON: for each region all candidates with modelled and measured times.
    #[arg(long)]
    json: bool,
}

/// How to tune.
#[derive(clap::Args, Clone, Debug)]
pub struct TuneArgs {
    /// The GPU to measure on: `cuda:N`; default: `cuda:0`.
    #[arg(long)]
    pub device: Option<String>,
    /// How long to measure at most, as `30s` or `5min`; default: a minute. What was found by then is taken.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub budget: Option<Duration>,
    /// Device memory to use at most, such as `2GiB`; default: half of what the GPU has, and no more than 16GiB.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub max_memory: Option<u64>,
    /// The timing cache: a file, or what machines share: a folder (`FOLDER/` or `file://..`) or an object store (`s3://BUCKET/FOLDER`, `gs://..`, `az://..`, where
    /// Kiln is built with the feature `cloud`); default: `timings.jsonl` in $KILN_HOME.
    #[arg(long, value_name = "PLACE")]
    pub timings: Option<Timings>,
    /// Measure every candidate: what the cost model and the search miss.
    #[arg(long)]
    pub exhaustive: bool,
    /// Fit the cost model's coefficients to what is known of the kernels, and print them with their errors: what `kiln-target` has of a GPU as data.
    #[arg(long)]
    pub fit: bool,
}

pub fn parse_time(text: &str) -> std::result::Result<Duration, String> {
    let wrong = || format!("`{text}` is no time; expected something like `30s`, `1.5min` or `500ms`");
    let unit = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let scale = match text[unit..].trim() {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = text[..unit].trim().parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * scale).map_err(|_| wrong())
}

/// Candidates of one batch where all are measured.
const ALL_AT_ONCE: usize = 64;

impl TuneArgs {
    /// Whether anything is said.
    pub fn given(&self) -> bool {
        let TuneArgs { device, budget, max_memory, timings, exhaustive, fit } = self;
        device.is_some() || budget.is_some() || max_memory.is_some() || timings.is_some() || *exhaustive || *fit
    }

    fn device(&self) -> &str {
        self.device.as_deref().unwrap_or("cuda:0")
    }

    /// The GPU to measure on.
    pub fn gpu(&self) -> Result<Gpu> {
        OnDevice::gpu(self.device()).into_diagnostic()
    }

    fn tuning(&self, home: &Home) -> Tuning {
        let timings = self.timings.clone().unwrap_or_else(|| Timings::in_home(home.root()));
        let search = match self.exhaustive {
            true => {
                Options { first: ALL_AT_ONCE, batch: ALL_AT_ONCE, share: 1.0, most: usize::MAX, ..Options::default() }
            }
            false => Options::default(),
        };
        let budget = self.budget.unwrap_or(Tuning::default().budget);
        Tuning { budget, timings: Some(timings), shipped: true, search, fit: self.fit }
    }

    /// What kernels of a build that will be tuned so cost: by the timing cache, where it knows.
    pub fn prices(&self, gpu: &Gpu, options: &BuildOptions) -> Result<Arc<dyn Kernels>> {
        let prices = Prices::of_build(&self.tuning(&options.home), gpu, options);
        Ok(Arc::new(prices.into_diagnostic()?))
    }

    /// Tunes the code for the GPU of engines that differ in their plans for it, with a progress bar on standard error: [`Tuned::plan`] is the one to keep.
    pub fn run(&self, engines: &mut [Engine], gpu: &Gpu, home: &Home, quiet: bool) -> Result<Tuned> {
        let nvrtc = Nvrtc::discover(home).into_diagnostic()?;
        let compiler = Compiler::new(&nvrtc).with_cache(CubinCache::in_home(home));
        let memory =
            self.max_memory.map_or(OnDevice::memory(gpu), |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let tuning = self.tuning(home);
        let mut measure = OnDevice::new(self.device(), memory, compiler).into_diagnostic()?;
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(0) };
        let style = "{prefix:>18} {wide_bar} {pos}/{len} kernels {msg:60!}";
        bar.set_style(ProgressStyle::with_template(style).into_diagnostic()?);
        bar.set_prefix(format!("tune {}", gpu.arch));
        let hear = &mut |news: News<'_>| show(&bar, &news);
        let tuned = tune_plans(engines, gpu, nvrtc.release(), &mut measure, &tuning, hear);
        bar.finish_and_clear();
        let tuned = tuned.into_diagnostic()?;
        tuned.warnings.iter().for_each(|warning| note!("warning: {warning}"));
        Ok(tuned)
    }
}

fn show(bar: &ProgressBar, news: &News<'_>) {
    let best = news.best.map(|seconds| format!(", best {:.1} us", seconds * 1e6)).unwrap_or_default();
    bar.set_length(news.regions.1 as u64);
    bar.set_position(news.regions.0 as u64);
    let (measured, all) = news.measured;
    bar.set_message(format!("{:.0} s left; {measured} of {all}{best}: {}", news.left.as_secs_f64(), news.region));
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let is_model = model::is_model(&args.model);
    let output = match (&args.output, is_model) {
        (Some(output), _) => output.clone(),
        (None, true) => args.model.with_extension("kiln"),
        (None, false) => args.model.clone(),
    };
    kiln_host::destination(&output).map_err(|e| miette!("cannot write {}: {e}", output.display()))?;
    let home = Home::from_env().into_diagnostic()?;
    let gpu = args.tune.gpu()?;
    let mut engines = match is_model {
        true => {
            super::not_over(&output, &model::files(&args.model)?)?;
            let graph = model::import(&args.model, &args.options, &[])?;
            let mut options = model::options(&args.options, &[Target::Gpu(gpu.clone())], home.clone())?;
            options.prices = Some(args.tune.prices(&gpu, &options)?);
            let all = model::build(&graph, &options, args.json, PLANS, &|_| {})?;
            all.into_iter().map(|(engine, _)| engine).collect()
        }
        false => vec![Engine::load(&args.model).into_diagnostic()?],
    };
    let tuned = args.tune.run(&mut engines, &gpu, &home, args.json)?;
    engines[tuned.plan].save(&output).into_diagnostic()?;
    match args.json {
        true => super::print_json(&serde_json::json!({ "engine": output, "tune": tuned }))?,
        false => {
            print(&tuned)?;
            outln!("-> {}", output.display())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Columns of a region's name.
const NAME_WIDTH: usize = 36;

/// Prints what tuning found as a table.
pub fn print(tuned: &Tuned) -> Result<()> {
    outln!("{} on {}: microseconds by the model's choice and tuned, candidates tried", tuned.target, tuned.gpu)?;
    for region in &tuned.regions {
        print_region(region)?;
    }
    let (before, after) = tuned.totals();
    let gain = if after > 0.0 { before / after } else { 1.0 };
    outln!(
        "{:>5} {:NAME_WIDTH$} {before:>10.1} {after:>10.1} {gain:>6.2}x; {} regions can be made in one way only",
        "all",
        "",
        tuned.fixed
    )?;
    print_plans(tuned)?;
    outln!("measured for {:.1} s of {:.0}", tuned.seconds, tuned.budget_seconds)?;
    tuned.fit.as_ref().map_or(Ok(()), print_fit)
}

/// Prints which plan was kept, if there was a choice.
fn print_plans(tuned: &Tuned) -> Result<()> {
    let [_, _, ..] = tuned.plans[..] else { return Ok(()) };
    for (at, TunedPlan { launches, measured_us }) in tuned.plans.iter().enumerate() {
        let (mark, time) = (if at == tuned.plan { " kept" } else { "" }, measured_us.map(|us| format!("{us:.1}")));
        let time = time.unwrap_or_else(|| "not measured".to_owned());
        let name = format!("{at}: {launches} launches{mark}");
        outln!("{:>5} {name:NAME_WIDTH$} {time:>21}", "plan")?;
    }
    let time = |at: usize| tuned.plans[at].measured_us;
    if let (Some(first), Some(kept), 1..) = (time(0), time(tuned.plan), tuned.plan) {
        let less = 100.0 * (1.0 - kept / first);
        outln!("plan {} takes {less:.1} % less than the one that the model ranks first", tuned.plan)?;
    }
    Ok(())
}

/// Prints fitted coefficients, and how good the model is with them and was before.
fn print_fit(fit: &Fit) -> Result<()> {
    let Fit { costs, before, after, held_out } = fit;
    outln!("coefficients fitted to {} candidates of {} kernels:", after.candidates, after.regions)?;
    outln!("{:>24} {:>10} {:>10} {:>10} {:>10}", "", "times off", "rank corr.", "first", "of eight")?;
    for (name, q) in [("before", before), ("fitted", after), ("kernels not fitted to", held_out)] {
        outln!("{name:>24} {:>9.3}x {:>10.3} {:>9.3}x {:>9.3}x", q.error, q.spearman, q.first, q.of_eight)?;
    }
    outln!("{}", serde_json::to_string_pretty(costs).into_diagnostic()?)
}

fn print_region(region: &TunedRegion) -> Result<()> {
    let count = format!("{}/{}", region.tried(), region.candidates.len());
    let sizes = region.sizes.iter().map(|(symbol, size)| format!(" {symbol}={size}"));
    // That kernels are chosen for some sizes goes without saying.
    let sizes: String = if region.typical { String::new() } else { sizes.collect() };
    let name: String = region.name.chars().take(NAME_WIDTH.saturating_sub(sizes.len())).chain(sizes.chars()).collect();
    let start = format!("{:>4}x {name:NAME_WIDTH$}", region.uses);
    match (region.gain(), &region.failure) {
        (_, Some(failure)) => outln!("{start} {failure}"),
        (None, None) => outln!("{start} {:>29} {count}", "not measured"),
        (Some((before, after)), None) => {
            let row = &region.candidates[region.chosen];
            let gain = before / after;
            outln!("{start} {before:>10.1} {after:>10.1} {gain:>6.2}x {count:>9}  {} {}", row.family, row.text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, seconds) in [("30s", 30.0), ("1.5min", 90.0), ("500ms", 0.5), ("0s", 0.0), ("2 h", 7200.0)] {
            assert_eq!(parse_time(text).map(|time| time.as_secs_f64()), Ok(seconds), "{text}");
        }
        for text in ["30", "s", "-1s", "1 week", "nans", "infs", ""] {
            assert!(parse_time(text).unwrap_err().contains("expected something like `30s`"), "{text}");
        }
    }
}
