//! `kiln kernel --emit check`: runs a kernel, compares it with the reference, counts or times what it does.

use super::bench::{Loaded, Set};
use super::emit::{Made, Speed};
use crate::cli::counters::{self, KernelCounters};
use bytes::Bytes;
use kiln_engine::{Device, KernelImage, Module, SimDevice, open_device};
use kiln_fuse::Region;
use kiln_graph::{DType, Dim, Op, Tensor, interpret};
use kiln_kernels::families::Subject;
use kiln_sim::Options;
use kiln_target::{Gpu, Work};
use kiln_tune::Rotating;
use miette::{IntoDiagnostic, Result, miette};
use serde::Serialize;
use std::sync::mpsc;

/// Most operations that the simulator and the reference interpreter are asked for: minutes.
const MOST_OPS: f64 = (1u64 << 32) as f64;

/// What came of it.
#[derive(Serialize)]
pub struct Check {
    device: String,
    /// Random inputs and warp schedules, one of each a seed.
    seeds: u64,
    /// `interpreter`, or the `cpu` device for what would take it too long.
    reference: &'static str,
    /// The greatest `|found - expected| / |expected|`; none where a run failed.
    rel_error: Option<f64>,
    /// What roundings explain.
    tolerance: f64,
    /// What the simulator's checks found, or why the device refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    pub agrees: bool,
    /// Of the first seed; of the simulator alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    counters: Vec<KernelCounters>,
    /// On a GPU alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<Speed>,
}

/// Runs the kernels on the simulator, or on the device that is named, once for each seed.
///
/// # Errors
/// What keeps it from being tried; a run that fails is a finding of the check.
pub fn check(
    subject: &Subject,
    made: &Made,
    gpu: &Gpu,
    work: &Work,
    device: Option<&str>,
    seeds: u64,
) -> Result<Check> {
    let region = &subject.region;
    let large = work.scalar_ops + work.matrix_ops > MOST_OPS;
    let Some((_, result)) = region.graph.outputs.first() else { return Err(miette!("the kernel has no result")) };
    let tolerance = tolerance(region.graph.ty(*result).dtype, subject.tf32);
    let reference = if large { "cpu" } else { "interpreter" };
    let mut found = Check {
        device: device.map_or_else(|| format!("sim:{}", gpu.arch), str::to_owned),
        seeds,
        reference,
        rel_error: None,
        tolerance,
        error: None,
        agrees: false,
        counters: vec![],
        measured: None,
    };
    if device.is_none() && large {
        return Err(miette!(
            help = "give smaller sizes, or `--device cuda:0`",
            "the simulator would take too long for {:.0e} operations",
            work.scalar_ops + work.matrix_ops
        ));
    }
    match run(region, made, gpu, work, device, &mut found) {
        Ok(()) => {}
        Err(Failure::Before(report)) => return Err(report),
        Err(Failure::Running(error)) => {
            found.rel_error = None;
            found.error = Some(error.to_string());
        }
    }
    found.agrees = found.rel_error.is_some_and(|error| error <= found.tolerance);
    Ok(found)
}

/// Why there is nothing to compare.
enum Failure {
    /// It could not be tried.
    Before(miette::Report),
    /// The device says that something is wrong with the kernel.
    Running(kiln_engine::Error),
}

impl From<miette::Report> for Failure {
    fn from(report: miette::Report) -> Failure {
        Failure::Before(report)
    }
}

impl From<kiln_engine::Error> for Failure {
    fn from(error: kiln_engine::Error) -> Failure {
        Failure::Running(error)
    }
}

fn run(
    region: &Region,
    made: &Made,
    gpu: &Gpu,
    work: &Work,
    device: Option<&str>,
    found: &mut Check,
) -> std::result::Result<(), Failure> {
    for seed in 0..found.seeds {
        let inputs = inputs(region, seed)?;
        let expected = match found.reference {
            "cpu" => on_cpu(region, &inputs)?,
            _ => interpret(&region.graph, &inputs).into_diagnostic()?,
        };
        let (sender, launches) = mpsc::channel();
        let opened: Box<dyn Device> = match device {
            Some(name) => open(name, gpu)?,
            None => {
                let options = Options { seed: seed.checked_sub(1), ..Options::default() };
                let device = SimDevice::new(gpu.arch.name(), options).with_sms(gpu.sms);
                Box::new(if seed == 0 { device.with_counters(sender) } else { device })
            }
        };
        let mut opened = Rotating::new(opened);
        let loaded = Loaded::new(&mut opened, &module(region, made))?;
        let set = Set::new(&mut opened, &loaded, region, &made.implementation.packed, &inputs)?;
        let results = set.run(&mut opened, &loaded, region)?;
        let error =
            results.iter().zip(&expected).map(|(found, expected)| relative(found, expected)).fold(0.0, f64::max);
        found.rel_error = Some(found.rel_error.unwrap_or(0.0).max(error));
        if seed == 0 {
            found.device = opened.name();
            found.counters = counters::add_up(launches.try_iter());
            if device.is_some_and(|name| name.starts_with("cuda")) {
                found.measured = Some(Speed::of(set.seconds(&opened, &loaded)?, work, gpu));
            }
        }
    }
    Ok(())
}

/// The named device, if it runs the kernel.
fn open(name: &str, gpu: &Gpu) -> Result<Box<dyn Device>> {
    let device = open_device(name).into_diagnostic()?;
    match device.target() == gpu.arch.name() {
        true => Ok(device),
        false => Err(miette!("the kernel is for {}, and `{name}` runs {}", gpu.arch, device.target())),
    }
}

fn module<'m>(region: &'m Region, made: &'m Made) -> Module<'m> {
    let implementation = &made.implementation;
    let images = implementation.kernels.iter().zip(&made.images).map(|(kernel, image)| KernelImage {
        kernel,
        cubin: Some(Bytes::from(image.cubin.clone())),
        ptx: Bytes::from(image.ptx.clone()),
    });
    Module {
        region,
        kernels: images.collect(),
        scratch_bytes: implementation.scratch_bytes.clone(),
        zeroed_bytes: implementation.zeroed_bytes.clone(),
    }
}

/// What the CPU device makes of the region: the reference for what is too large for the interpreter.
fn on_cpu(region: &Region, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    let mut device = open_device("cpu").into_diagnostic()?;
    let none = || Dim::from(0);
    let module = Module { region, kernels: vec![], scratch_bytes: none(), zeroed_bytes: none() };
    let loaded = Loaded::new(&mut *device, &module).into_diagnostic()?;
    let set = Set::new(&mut *device, &loaded, region, &[], inputs).into_diagnostic()?;
    set.run(&mut *device, &loaded, region).into_diagnostic()
}

/// Random inputs of a region whose shapes are known.
fn inputs(region: &Region, seed: u64) -> Result<Vec<Tensor>> {
    let graph = &region.graph;
    let random = |(i, v): (usize, &kiln_graph::ValueId)| {
        let ty = graph.ty(*v);
        let shape = ty.const_shape().ok_or_else(|| miette!("the shape of input {i} is not known: {ty}"))?;
        let rows = graph.nodes.iter().find_map(|node| match (&node.op, &node.inputs[..]) {
            (Op::GroupedMatmul { .. }, [x, _, ends]) if ends == v => graph.ty(*x).shape[0].as_const(),
            _ => None,
        });
        if let Some(rows) = rows {
            // Groups are as alike as may be.
            let groups = shape.iter().product::<usize>() as i128;
            let ends: Vec<i128> = (1..=groups).map(|group| i128::from(rows) * group / groups).collect();
            return Tensor::from_i128(ty.dtype, &shape, &ends).into_diagnostic();
        }
        Tensor::random(ty.dtype, &shape, (seed << 8) + i as u64).into_diagnostic()
    };
    graph.inputs.iter().enumerate().map(random).collect()
}

/// A few roundings of the result's type; of wide types as many as sums have; and one of each operand to TF32 where they may be rounded so.
/// Integers are exact.
fn tolerance(dtype: DType, tf32: bool) -> f64 {
    let Some(bits) = dtype.mantissa_bits() else { return 0.0 };
    let rounding = 0.5 * 2f64.powi(-(bits as i32));
    let operands = if tf32 { 2.0 * 0.5 * 2f64.powi(-10) } else { 0.0 };
    operands + if bits < 23 { 4.0 * rounding } else { 256.0 * rounding }
}

/// `|found - expected| / |expected|`; infinite where types or shapes differ, or an element is finite in one alone.
fn relative(found: &Tensor, expected: &Tensor) -> f64 {
    if (found.dtype(), found.shape()) != (expected.dtype(), expected.shape()) {
        return f64::INFINITY;
    }
    let (mut difference, mut norm) = (0.0f64, 0.0f64);
    for (f, e) in found.to_f64_vec().into_iter().zip(expected.to_f64_vec()) {
        if f == e || f.is_nan() && e.is_nan() {
            norm += if e.is_finite() { e * e } else { 0.0 };
            continue;
        }
        difference += (f - e).powi(2);
        norm += e.powi(2);
    }
    match difference {
        0.0 => 0.0,
        _ if (difference / norm).is_finite() => (difference / norm).sqrt(),
        _ => f64::INFINITY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_to_all_of_the_result() {
        let tensor = |values: &[f32]| Tensor::from_slice(&[values.len()], values).unwrap();
        let expected = tensor(&[3.0, 4.0, f32::NEG_INFINITY, f32::NAN]);
        assert_eq!(relative(&expected, &expected), 0.0);
        assert!((relative(&tensor(&[3.0, 4.5, f32::NEG_INFINITY, f32::NAN]), &expected) - 0.1).abs() < 1e-6);
        for wrong in [
            [3.0, f32::NAN, f32::NEG_INFINITY, f32::NAN],
            [3.0, 4.0, 1.0, f32::NAN],
            [3.0, 4.0, f32::NEG_INFINITY, 0.0],
        ] {
            assert_eq!(relative(&tensor(&wrong), &expected), f64::INFINITY, "{wrong:?}");
        }
        assert_eq!(relative(&tensor(&[0.0]), &tensor(&[0.0])), 0.0);
        assert_eq!(relative(&tensor(&[1.0]), &tensor(&[0.0])), f64::INFINITY);
        assert_eq!(relative(&tensor(&[1.0]), &expected), f64::INFINITY);
        assert_eq!(tolerance(DType::I32, true), 0.0);
    }
}
