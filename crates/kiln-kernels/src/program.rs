//! Tile programs of a region, and what their parameters are bound to at launch.

use crate::{Error, Grid, Kernel, Launch, Param, Result};
use kiln_graph::Dim;
use kiln_target::arch::Arch;
use kiln_tile::pass::Watch;
use kiln_tile::{DType, KernelParam, Program, compile_watched};

/// What a parameter of a [`TileProgram`] is bound to.
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    /// The region's input of that index.
    Input(usize),
    /// The region's output of that index.
    Output(usize),
    /// The value of a dimension expression.
    Dim(Dim),
    /// Where faults are noted.
    Fault,
    /// The code of the first check.
    FaultCode,
}

/// One kernel of a region before it is compiled: the level between the reference interpreter and CUDA C.
#[derive(Clone, Debug)]
pub struct TileProgram {
    /// The kernel.
    pub program: Program,
    /// One for each parameter of the program, in order.
    pub arguments: Vec<Argument>,
    /// Points of the program's domain.
    pub points: Dim,
    /// What its checks are of, in the order of their codes.
    pub checks: Vec<String>,
}

impl TileProgram {
    /// CUDA C for `arch`, and how to launch it.
    pub fn compile(&self, arch: Arch) -> Result<Kernel> {
        self.compile_watched(arch, &mut |_, _| {})
    }

    /// [`TileProgram::compile`], showing `watch` what each pass of the tile compiler leaves behind.
    pub fn compile_watched(&self, arch: Arch, watch: &mut Watch<'_>) -> Result<Kernel> {
        let _span = tracing::debug_span!("kernel", name = self.program.name).entered();
        let kernel = compile_watched(&self.program, arch, watch)
            .map_err(|source| Error::Tile { region: self.program.name.clone(), source: source.into() })?;
        let params = self.arguments.iter().zip(&kernel.params).map(|(argument, param)| match argument {
            Argument::Input(i) => Param::Input(*i),
            Argument::Output(i) => Param::Output(*i),
            Argument::Fault => Param::Fault,
            Argument::FaultCode => Param::FaultCode,
            Argument::Dim(dim) if matches!(param, KernelParam::Scalar { dtype: DType::I32, .. }) => {
                Param::I32(dim.clone())
            }
            Argument::Dim(dim) => Param::I64(dim.clone()),
        });
        let blocks = self.points.ceil_div(&Dim::from(i64::from(kernel.points_per_block)));
        let launch = Launch {
            grid: Grid::Fixed([blocks, Dim::from(1), Dim::from(1)]),
            cluster: [1; 3],
            block: [kernel.threads, 1, 1],
            dynamic_shared: kernel.dynamic_shared,
            params: params.collect(),
        };
        let checks = self.checks.clone();
        Ok(Kernel { entry: kernel.name.clone(), source: kernel.source, launch, checks })
    }
}
