//! What `kiln kernel` shows of one kernel: its text at every level, and what it uses.

use super::problem::{Element, Extents, Problem};
use kiln_cuda::{CompileRequest, Compiled, Compiler, CubinCache, Disassembler, Home, Nvrtc};
use kiln_graph::Bindings;
use kiln_kernels::families::{self, Built, Offer, Subject};
use kiln_kernels::{Implementation, Kernel};
use kiln_target::arch::Arch;
use kiln_target::{Estimate, Gpu, Target, Work};
use kiln_tile::passes::{Machine, PASSES};
use miette::{IntoDiagnostic, Result};
use serde::Serialize;
use serde_json::Value;
use std::str::FromStr;

/// What to show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Emit {
    /// The tile program after so many passes.
    Tile(usize),
    Cuda,
    Ptx,
    Sass,
    Json,
    Check,
}

impl FromStr for Emit {
    type Err = String;

    fn from_str(text: &str) -> Result<Emit, String> {
        Ok(match text {
            "tile" => Emit::Tile(0),
            "cuda" => Emit::Cuda,
            "ptx" => Emit::Ptx,
            "sass" => Emit::Sass,
            "json" => Emit::Json,
            "check" => Emit::Check,
            _ => {
                let pass = text.strip_prefix("tile:").ok_or("expected tile[:PASS], cuda, ptx, sass, json or check")?;
                let number = PASSES.iter().position(|known| known.name == pass);
                Emit::Tile(
                    number.ok_or_else(|| format!("no pass is called `{pass}`; the passes are\n{}", passes()))? + 1,
                )
            }
        })
    }
}

/// Every pass, in order.
fn passes() -> String {
    PASSES.iter().map(|pass| format!("  {:<12} {:<9} {}\n", pass.name, pass.level.name(), pass.does)).collect()
}

impl Emit {
    /// How the shown text marks a comment.
    pub fn comment(self) -> &'static str {
        if matches!(self, Emit::Tile(_)) { ";" } else { "//" }
    }
}

/// The tile programs after that many passes.
pub fn tile(built: &Built, count: usize, arch: Arch) -> Result<String> {
    let text = built.launches.iter().map(|launch| {
        let mut program = launch.program.clone();
        let machine = Machine::new(arch);
        PASSES[..count].iter().try_for_each(|pass| pass.run(&mut program, &machine)).into_diagnostic()?;
        Ok(program.to_string())
    });
    Ok(text.collect::<Result<Vec<_>>>()?.join("\n"))
}

/// A kernel in all its forms.
pub struct Made {
    pub implementation: Implementation,
    /// One a kernel.
    pub images: Vec<Compiled>,
}

/// CUDA C of what an offer built.
pub fn generate(offer: &Offer, built: &Built, arch: Arch) -> Result<Implementation> {
    families::implementation(offer, built, arch, &mut |_, _, _| {}).into_diagnostic()
}

/// NVRTC, with the cache of `$KILN_HOME`.
pub fn compiler() -> Result<Compiler> {
    let home = Home::from_env().into_diagnostic()?;
    Ok(Compiler::new(&Nvrtc::discover(&home).into_diagnostic()?).with_cache(CubinCache::in_home(&home)))
}

/// Compiles all kernels.
pub fn compile(compiler: &Compiler, implementation: Implementation, arch: Arch) -> Result<Made> {
    let request = |kernel: &Kernel| CompileRequest {
        name: kernel.entry.clone(),
        source: kernel.source.clone(),
        arch: arch.name().to_owned(),
        options: vec![],
        line_info: false,
    };
    let images = implementation.kernels.iter().map(|kernel| compiler.compile(&request(kernel)).into_diagnostic());
    Ok(Made { images: images.collect::<Result<_>>()?, implementation })
}

/// The machine code of all kernels as text.
pub fn sass(images: &[Compiled]) -> Result<String> {
    let disassembler = Disassembler::find().into_diagnostic()?;
    let text = images.iter().map(|image| disassembler.sass(&image.cubin).into_diagnostic());
    Ok(text.collect::<Result<Vec<_>>>()?.join("\n"))
}

/// What is known about a kernel without running it.
#[derive(Serialize)]
pub struct Report {
    family: &'static str,
    op: &'static str,
    dtype: Element,
    sizes: Extents,
    target: Arch,
    gpu: String,
    config: Value,
    kernels: Vec<Resources>,
    estimate: Estimated,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<super::check::Check>,
}

/// What one kernel uses.
#[derive(Serialize)]
struct Resources {
    name: String,
    /// Of a thread.
    registers: u32,
    /// Bytes that a thread stores to and loads from local memory because registers ran out.
    spill_bytes: u32,
    /// Of a CTA.
    static_shared_bytes: u32,
    dynamic_shared_bytes: u32,
    threads: u32,
    /// CTAs.
    grid: [i64; 3],
    cluster: [u32; 3],
    cubin_bytes: usize,
    warnings: Vec<String>,
}

/// The cost model's word.
#[derive(Serialize)]
struct Estimated {
    bytes: f64,
    flops: f64,
    #[serde(flatten)]
    speed: Speed,
}

/// A time, and what it means for the problem's own bytes and operations: each operand and result once, and no padding.
#[derive(Serialize)]
pub struct Speed {
    seconds: f64,
    tflops: f64,
    gbs: f64,
    /// The least time that the GPU's rates allow, over this one.
    roofline_fraction: f64,
}

impl Speed {
    /// Of a run that took `seconds`.
    pub fn of(seconds: f64, work: &Work, gpu: &Gpu) -> Speed {
        let flops = work.scalar_ops + work.matrix_ops;
        let least = Target::Gpu(gpu.clone()).seconds(work);
        Speed {
            seconds,
            tflops: flops / seconds / 1e12,
            gbs: work.bytes / seconds / 1e9,
            roofline_fraction: least / seconds,
        }
    }
}

/// What a problem asks for, whatever kernel answers it.
pub fn work(problem: &Problem, size: &Extents, element: Element, subject: &Subject, estimate: &Estimate) -> Work {
    let matrix_ops = problem.matrix_ops(size);
    // Beside a contraction's, other operations do not count.
    let scalar_ops = if matrix_ops > 0.0 { 0.0 } else { estimate.flops };
    Work { bytes: subject.bytes(), scalar_ops, matrix_ops, operands: element.dtype, tf32: element.tf32 }
}

/// Describes one.
pub fn report(
    (problem, size, dtype): (&Problem, &Extents, Element),
    gpu: &Gpu,
    estimate: &Estimate,
    work: &Work,
    made: &Made,
) -> Result<Report> {
    let resources = |(kernel, image): (&Kernel, &Compiled)| {
        let launch = &kernel.launch;
        Ok(Resources {
            name: kernel.entry.clone(),
            registers: image.log.registers(),
            spill_bytes: image.log.spill_stores() + image.log.spill_loads(),
            static_shared_bytes: image.log.static_smem(),
            dynamic_shared_bytes: launch.dynamic_shared,
            threads: launch.block.iter().product(),
            grid: launch.grid.blocks(&Bindings::new(), gpu.sms, launch.cluster).into_diagnostic()?,
            cluster: launch.cluster,
            cubin_bytes: image.cubin.len(),
            warnings: image.log.warnings.clone(),
        })
    };
    let speed = Speed::of(estimate.seconds, work, gpu);
    Ok(Report {
        family: problem.family,
        op: problem.op,
        dtype,
        sizes: size.clone(),
        target: gpu.arch,
        gpu: gpu.name.clone(),
        config: made.implementation.config.clone(),
        kernels: made.implementation.kernels.iter().zip(&made.images).map(resources).collect::<Result<_>>()?,
        estimate: Estimated { bytes: estimate.bytes, flops: estimate.flops, speed },
        check: None,
    })
}
