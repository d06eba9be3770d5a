//! From a tile program to CUDA C and what is needed to launch it.

use crate::dtype::{DType, Scalar, Type};
use crate::error::{Result, TileError};
use crate::expr::Expr;
use crate::pass::lower::Lowered;
use crate::pass::{Pass, Watch, layout, lower, sync};
use crate::print;
use crate::program::{Access, Param, Program, Worker};
use crate::verify::verify;
use kiln_target::arch::Arch;
use serde::{Deserialize, Serialize};

/// A kernel in CUDA C, ready for NVRTC and for a launch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kernel {
    /// Entry point.
    pub name: String,
    /// CUDA C without includes.
    pub source: String,
    /// What it was generated for.
    pub arch: Arch,
    /// Threads of one block.
    pub threads: u32,
    /// Dynamic shared memory of one block, in bytes.
    pub dynamic_shared: u32,
    /// Launch arguments in order.
    pub params: Vec<KernelParam>,
    /// Points of the domain that one block covers: the grid is the number of points over this, rounded up.
    pub points_per_block: u32,
    /// Points of the domain, over the scalar parameters.
    points: Expr,
    /// Ids of the scalar parameters' variables, in parameter order.
    scalar_ids: Vec<Option<u32>>,
}

/// What one launch argument is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum KernelParam {
    /// A device pointer, 16-byte aligned.
    Buffer {
        /// Its name in the source.
        name: String,
        /// Element type.
        dtype: DType,
        /// How it is used.
        access: Access,
    },
    /// A number, passed as this type ([`DType::I32`] or [`DType::I64`] for a dimension).
    Scalar {
        /// Its name in the source.
        name: String,
        /// Type of the argument.
        dtype: DType,
    },
    /// A tensor map, by value.
    TensorMap(crate::lower::TensorMap),
}

impl Kernel {
    /// A kernel of `(threads, dynamic shared bytes)` a block for `(points of the domain, points that a block covers)`.
    pub(crate) fn new(
        name: String,
        source: String,
        arch: Arch,
        (threads, dynamic_shared): (u32, u32),
        params: &[Param],
        (points, points_per_block): (Expr, u32),
    ) -> Kernel {
        Kernel {
            name,
            source,
            arch,
            threads,
            dynamic_shared,
            params: params.iter().map(kernel_param).collect(),
            points_per_block,
            points,
            scalar_ids: params.iter().map(scalar_id).collect(),
        }
    }

    /// Blocks to launch for these scalar arguments (one entry per parameter, `None` for buffers). Zero means there is
    /// nothing to do: skip the launch.
    pub fn grid(&self, scalars: &[Option<i64>]) -> Result<u32> {
        let points = self.points.substitute(&|var| {
            let position = self.scalar_ids.iter().position(|id| *id == Some(var.id))?;
            scalars.get(position).copied().flatten().map(Expr::index)
        });
        let blocks = points.as_const().map(|points| points.max(0) as u128);
        let blocks = blocks.map(|points| points.div_ceil(self.points_per_block.into()));
        match blocks.and_then(|blocks| i32::try_from(blocks).ok()) {
            Some(blocks) => Ok(blocks.unsigned_abs()),
            None => Err(TileError::Argument {
                kernel: self.name.clone(),
                position: scalars.len(),
                name: "grid".to_owned(),
                what: match blocks {
                    Some(blocks) => format!("{blocks} blocks are more than a grid can have"),
                    None => "a dimension that the grid depends on was not given".to_owned(),
                },
            }),
        }
    }
}

/// Compiles `program` for `arch`.
pub fn compile(program: &Program, arch: Arch) -> Result<Kernel> {
    compile_watched(program, arch, &mut |_, _| {})
}

/// [`compile`], showing `watch` what each [`Pass`] leaves behind.
pub fn compile_watched(program: &Program, arch: Arch, watch: &mut Watch<'_>) -> Result<Kernel> {
    Pass::Verify.run(|| verify(program))?;
    watch(Pass::Verify, program);
    let layouts = Pass::Layout.run(|| layout::layout(program, arch))?;
    watch(Pass::Layout, &print::LaidOut(program, &layouts));
    let body = Pass::Sync.run(|| sync::sync(&program.body));
    watch(Pass::Sync, &print::WithBody(program, &body));
    let width = layouts.width(&program.domain.axes);
    let lowered = Pass::Lower.run(|| lower::lower(program, &body, layouts, arch))?;
    let Lowered { function, helpers, dynamic_shared } = lowered;
    let main = print::function(&function);
    watch(Pass::Lower, &main);
    let source = Pass::Cuda.run(|| {
        let mut source = String::new();
        for helper in &helpers {
            source += &helper.source(arch);
            source.push('\n');
        }
        source + &main
    });
    watch(Pass::Cuda, &source);
    let points_per_block = match program.domain.worker {
        Worker::Block => 1,
        Worker::Warp => program.threads / 32,
        Worker::Thread => program.threads * width,
    };
    let (shape, points) = ((program.threads, dynamic_shared), (program.points(), points_per_block));
    Ok(Kernel::new(function.name, source, arch, shape, &program.params, points))
}

fn scalar_id(param: &Param) -> Option<u32> {
    match param {
        Param::Scalar { var, .. } => Some(var.id),
        Param::Buffer { .. } => None,
    }
}

fn kernel_param(param: &Param) -> KernelParam {
    match param {
        Param::Buffer { buffer, access } => {
            KernelParam::Buffer { name: buffer.name.clone(), dtype: buffer.dtype, access: *access }
        }
        Param::Scalar { var, range, .. } => {
            let dtype = match var.ty {
                Type::Index if range.1 <= i32::MAX.into() && range.0 >= i32::MIN.into() => DType::I32,
                Type::Index => DType::I64,
                Type::Element(dtype) => dtype,
            };
            KernelParam::Scalar { name: var.name.to_string(), dtype }
        }
    }
}

impl KernelParam {
    /// Bytes of a scalar argument, in the order a launch takes them; `None` for a buffer.
    pub fn encode(&self, value: Scalar) -> Option<Vec<u8>> {
        match self {
            KernelParam::Buffer { .. } | KernelParam::TensorMap(_) => None,
            KernelParam::Scalar { dtype, .. } => {
                Some(crate::dtype::Array::from_values(*dtype, [value]).bytes().to_vec())
            }
        }
    }
}
