//! What is known of each kernel: resources, the least that it has to do, and times.

use super::history::History;
use crate::cli::profile::{Profile, StepTime};
use crate::cli::regions;
use kiln_engine::{Resources, TargetImage, Used, Variant};
use kiln_fuse::{Anchor, RegionId};
use kiln_kernels::candidates;
use kiln_target::{Gpu, Target, Work};
use miette::Result;

/// One way to run a region that an engine has.
pub struct Row {
    /// The region's name, what it computes, and the op that it is scheduled around.
    pub name: String,
    pub summary: String,
    pub anchor: Anchor,
    /// How many steps launch the region; those of a loop count once.
    pub uses: usize,
    /// When it runs, where the region has several variants.
    pub guard: Option<String>,
    /// Who made it, or what the device of the profile runs.
    pub family: String,
    pub config: String,
    /// Entries in order; none for the CPU.
    pub kernels: Vec<(String, Resources)>,
    /// What follows is of the sizes of the report; none where another variant runs there.
    pub work: Option<Work>,
    /// Seconds of a launch: by the roofline, and by the cost model.
    pub floor: Option<f64>,
    pub modelled: Option<f64>,
    /// By the timing cache: alone, over operands that no cache holds.
    pub alone: Option<f64>,
    /// By the profile, the mean of its launches: waiting for the device is part of it.
    pub profiled: Option<f64>,
}

/// Where a time comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    TimingCache,
    Profile,
    Model,
}

impl Row {
    /// Operations of a launch.
    pub fn operations(&self) -> Option<f64> {
        self.work.map(|work| work.scalar_ops + work.matrix_ops)
    }

    /// Seconds of a launch as measured: alone, else in the profile.
    pub fn measured(&self) -> Option<(f64, Source)> {
        let profiled = self.profiled.map(|seconds| (seconds, Source::Profile));
        self.alone.map(|seconds| (seconds, Source::TimingCache)).or(profiled)
    }

    /// As measured, else as modelled.
    pub fn seconds(&self) -> Option<(f64, Source)> {
        self.measured().or(self.modelled.map(|seconds| (seconds, Source::Model)))
    }

    /// Share of what the hardware allows that it reaches.
    pub fn reached(&self) -> Option<(f64, Source)> {
        let (floor, (seconds, source)) = (self.floor?, self.seconds()?);
        (seconds > 0.0).then(|| (floor / seconds, source))
    }

    /// Seconds of all launches in a run: as profiled, else as measured alone, else as modelled.
    pub fn run_seconds(&self) -> Option<f64> {
        self.profiled.or(self.alone).or(self.modelled).map(|seconds| seconds * self.uses as f64)
    }
}

/// The GPUs of a report.
pub struct Gpus {
    /// Whose times the cost model says.
    pub modelled: Gpu,
    /// Whose rooflines are drawn: that of the measurements, else the same.
    pub roof: Gpu,
}

/// All kernels of an image, those first that take most of a run.
pub fn rows(
    image: &TargetImage,
    all: &[Used],
    gpus: Option<&Gpus>,
    profile: Option<&Profile>,
    history: Option<&History>,
) -> Result<Vec<Row>> {
    let launches = profile.map(|profile| profile.launches(&image.plan)).transpose()?.unwrap_or_default();
    let mut rows: Vec<Row> = all.iter().flat_map(|used| of_region(image, used, gpus, &launches, history)).collect();
    let key = |row: &Row| row.run_seconds().unwrap_or(-1.0);
    rows.sort_by(|a, b| key(b).total_cmp(&key(a)));
    Ok(rows)
}

/// Seconds of a launch, the mean of some.
fn mean<'t>(launches: impl Iterator<Item = &'t StepTime>) -> Option<f64> {
    let (count, ms) = launches.fold((0, 0.0), |(count, ms), time| (count + 1, ms + time.ms));
    (count > 0).then(|| ms * 1e-3 / f64::from(count))
}

fn of_region(
    image: &TargetImage,
    used: &Used,
    gpus: Option<&Gpus>,
    launches: &[(RegionId, &StepTime)],
    history: Option<&History>,
) -> Vec<Row> {
    let region = &used.subject.region;
    let work = used.subject.work();
    let own = || launches.iter().filter(|(id, _)| *id == used.id).map(|(_, time)| *time);
    let row = |family: &str, config: &str| Row {
        name: region.name.clone(),
        summary: region.summary.clone(),
        anchor: region.anchor,
        uses: used.uses,
        guard: None,
        family: family.to_owned(),
        config: config.to_owned(),
        kernels: vec![],
        work: Some(work),
        floor: None,
        modelled: None,
        alone: None,
        profiled: mean(own()),
    };
    let Some(compiled) = image.kernels.get(&used.id) else {
        let seen = own().find_map(|time| time.implementation.as_deref());
        return vec![row(seen.unwrap_or_default(), "")];
    };
    let runs = compiled.at(&used.subject.sizes);
    let ways = gpus.and_then(|gpus| candidates(&used.subject, &gpus.modelled).ok()).unwrap_or_default();
    let of_variant = |variant: &Variant| {
        let made = &variant.implementation;
        let way = regions::way(&ways, made);
        let config = way.map_or_else(|| made.config.to_string(), |way| way.text.clone());
        let kernels = made.kernels.iter().zip(&variant.images);
        let mut row = Row {
            guard: (compiled.variants.len() > 1).then(|| variant.guard.to_string()),
            kernels: kernels.map(|(kernel, image)| (kernel.entry.clone(), image.resources)).collect(),
            profiled: None,
            ..row(&made.family, &config)
        };
        if runs.is_some_and(|runs| std::ptr::eq(runs, variant)) {
            row.floor = gpus.map(|gpus| Target::Gpu(gpus.roof.clone()).seconds(&work));
            row.modelled = way.and_then(|way| way.estimate).map(|estimate| estimate.seconds);
            row.alone = history.and_then(|history| history.alone(used, made));
            row.profiled = mean(own());
        } else {
            row.work = None;
        }
        row
    };
    compiled.variants.iter().map(of_variant).collect()
}
