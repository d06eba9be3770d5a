//! From what a family built to CUDA C and launches.

use super::{Built, Offer, TileLaunch};
use crate::lower::Watch;
use crate::tensor_map::{Element, Swizzle, TensorMap, Window};
use crate::{Error, Implementation, Kernel, Launch, Param, Result};
use kiln_graph::Dim;
use kiln_target::atoms::AtomTable;
use kiln_tile::pass::Pass;
use kiln_tile::passes::{Machine, PASSES};
use kiln_tile::program::Param as TileParam;
use kiln_tile::threads::cuda::without_prelude;
use kiln_tile::validate::validate;
use kiln_tile::{DType, KernelParam, TileError, ir, lower};

/// Compiles what an offer built for an architecture, or what is left of its instructions, showing `watch` the programs and the CUDA C.
pub fn implementation(
    offer: &Offer,
    built: &Built,
    atoms: impl Into<AtomTable>,
    watch: &mut Watch<'_>,
) -> Result<Implementation> {
    let machine = Machine::new(atoms);
    let kernels = built.launches.iter().map(|launch| launch.compile(&machine, watch)).collect::<Result<_>>()?;
    let Built { scratch_bytes, zeroed_bytes, packed, .. } = built.clone();
    let made = Implementation::new(offer.family.clone(), offer.config.clone(), kernels);
    Ok(Implementation { scratch_bytes, zeroed_bytes, packed, ..made })
}

impl TileLaunch {
    /// The program after all passes of the tile compiler.
    ///
    /// # Errors
    /// What the architecture cannot do, and what the validator finds wrong with the schedule.
    pub fn scheduled(&self, atoms: impl Into<AtomTable>) -> Result<ir::Program> {
        self.passed(&Machine::new(atoms), &mut |_, _| {})
    }

    /// [`TileLaunch::scheduled`], showing what each pass leaves by its name.
    fn passed(&self, machine: &Machine, seen: &mut dyn FnMut(&str, &ir::Program)) -> Result<ir::Program> {
        ir::verify(&self.program).map_err(|e| self.refused(e))?;
        let mut program = self.program.clone();
        for pass in &PASSES {
            pass.run(&mut program, machine).map_err(|e| self.refused(e))?;
            seen(pass.name, &program);
        }
        validate(&program).map_err(|e| self.refused(e))?;
        Ok(program)
    }

    fn refused(&self, source: TileError) -> Error {
        Error::Tile { region: self.program.name.clone(), source: source.into() }
    }

    fn compile(&self, machine: &Machine, watch: &mut Watch<'_>) -> Result<Kernel> {
        let _span = tracing::debug_span!("kernel", name = self.program.name).entered();
        watch(&self.program.name, Pass::Verify, &self.program);
        let program = self.passed(machine, &mut |pass, program| {
            if pass == "layouts" {
                watch(&self.program.name, Pass::Layout, program);
            }
        })?;
        watch(&self.program.name, Pass::Sync, &program);
        let kernel = lower::compile_threads(&program, machine.atoms.clone()).map_err(|e| self.refused(e))?;
        watch(&kernel.name, Pass::Lower, &without_prelude(&kernel.source));
        watch(&kernel.name, Pass::Cuda, &kernel.source);
        let mut params = vec![];
        for (i, param) in kernel.params.iter().enumerate() {
            params.push(match (param, self.arguments.get(i)) {
                (KernelParam::TensorMap(map), _) => self.tensor_map(&program, map)?,
                (param, Some(argument)) => {
                    argument.param(matches!(param, KernelParam::Scalar { dtype: DType::I32, .. }))
                }
                (_, None) => return Err(self.malformed(format!("its parameter {i} is bound to nothing"))),
            });
        }
        let launch = Launch {
            grid: self.grid(&program)?,
            cluster: [program.schedule.cluster, 1, 1],
            block: [kernel.threads, 1, 1],
            dynamic_shared: kernel.dynamic_shared,
            params,
        };
        Ok(Kernel { entry: kernel.name, source: kernel.source, launch, checks: self.checks.clone() })
    }

    fn malformed(&self, what: String) -> Error {
        Error::Malformed { region: self.program.name.clone(), what }
    }

    /// The tensor map of a parameter, as the kernel's copies need it.
    fn tensor_map(&self, program: &ir::Program, map: &lower::TensorMap) -> Result<Param> {
        let name = || self.malformed(format!("parameter {} has no tensor map", map.tensor));
        let Some(TileParam::Buffer { buffer, .. }) = program.params.get(map.tensor) else { return Err(name()) };
        let base = self.arguments.get(map.tensor).and_then(|argument| argument.param(false).pointer());
        let element = if map.tf32 { Some(Element::Tf32) } else { Element::of(buffer.dtype) }.ok_or_else(name)?;
        let known = self.known(program);
        let dims = |exprs: &[kiln_tile::Expr]| {
            exprs.iter().rev().map(|e| super::built::dim_of(e, &known).ok_or_else(name)).collect::<Result<Vec<Dim>>>()
        };
        let outer = buffer.strides.len().saturating_sub(1);
        let bytes = Dim::from(i64::from(element.bytes()));
        let swizzle = match map.swizzle {
            0 => Swizzle::None,
            32 => Swizzle::B32,
            64 => Swizzle::B64,
            _ => Swizzle::B128,
        };
        let (window, element_strides) = match (&map.windows, &map.extents[..]) {
            (Some(windows), &[channels, pixels]) => {
                let (lower, upper) = (windows.lower.clone(), windows.upper.clone());
                let steps = [&[1], &windows.steps[..], &[1]].concat();
                (Window::Im2col { lower, upper, channels, pixels }, steps)
            }
            _ => (Window::Tiled(map.extents.clone()), vec![]),
        };
        Ok(Param::TensorMap(Box::new(TensorMap {
            base: base.ok_or_else(name)?,
            offset: Dim::from(0),
            element,
            extents: dims(&buffer.shape)?,
            strides: dims(&buffer.strides[..outer])?.into_iter().map(|stride| stride * bytes.clone()).collect(),
            window,
            element_strides,
            swizzle,
            promotion: Default::default(),
        })))
    }
}
