//! What a kernel family hands to the engine: source, and how to launch it.

use crate::{Packing, Pointer, TensorMapParam};
use kiln_graph::{Bindings, Dim};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One way to run a region on a GPU: its kernels in launch order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Implementation {
    /// The family that made it, for instance `gemm`.
    pub family: String,
    /// The family's Config, as JSON: it is part of the timing cache's key.
    pub config: serde_json::Value,
    /// Usually one. The region's result holds what it updates ([`kiln_fuse::Region::updated`]) before the first runs.
    pub kernels: Vec<Kernel>,
    /// Bytes of device scratch that the kernels share for one launch of the region: what is in them before is undefined.
    pub scratch_bytes: Dim,
    /// Bytes of device memory that are zero before the first kernel, and that the kernels leave zero: semaphores. They are cleared once, not for
    /// each launch, and all regions of a plan take turns with them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub zeroed_bytes: Dim,
    /// Other forms of constant inputs, made when the engine is built: see [`Pointer::Packed`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packed: Vec<Packing>,
}

fn is_zero(dim: &Dim) -> bool {
    dim.is(0)
}

impl Implementation {
    /// Kernels without memory of their own.
    pub fn new(family: impl Into<String>, config: serde_json::Value, kernels: Vec<Kernel>) -> Implementation {
        let (scratch_bytes, zeroed_bytes) = (Dim::from(0), Dim::from(0));
        Implementation { family: family.into(), config, kernels, scratch_bytes, zeroed_bytes, packed: Vec::new() }
    }
}

/// CUDA C of one kernel and its launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// Name of the `extern "C" __global__` function.
    pub entry: String,
    /// Header-free CUDA C.
    pub source: String,
    /// Geometry and arguments.
    pub launch: Launch,
    /// What it checks as it runs: where data addresses something. Check `i` that fails raises [`Param::FaultCode`] `+ i` in
    /// [`Param::Fault`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<String>,
}

/// Launch geometry and arguments, as expressions over the region's symbols.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// Thread blocks.
    pub grid: Grid,
    /// Blocks of a cluster on each axis, at most [`MAX_CLUSTER`] in all; ones: no clusters.
    #[serde(default = "one_block", skip_serializing_if = "is_one_block")]
    pub cluster: [u32; 3],
    /// Threads on each axis of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub dynamic_shared: u32,
    /// Arguments in order.
    pub params: Vec<Param>,
}

/// Blocks that a cluster may have on every GPU that has clusters (CUDA C++ Programming Guide, "Thread Block Clusters").
pub const MAX_CLUSTER: u32 = 8;

fn one_block() -> [u32; 3] {
    [1; 3]
}

fn is_one_block(cluster: &[u32; 3]) -> bool {
    *cluster == one_block()
}

impl Launch {
    /// Whether blocks are launched in clusters.
    pub fn clustered(&self) -> bool {
        !is_one_block(&self.cluster)
    }
}

/// How many blocks are launched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grid {
    /// Blocks on each axis, multiples of the cluster's. Any extent of 0 means there is nothing to do.
    Fixed([Dim; 3]),
    /// One axis, with as many blocks as run at once but no more than there is work for: the kernel takes tile after tile, `gridDim.x` apart.
    Persistent {
        /// Tiles; 0 means there is nothing to do.
        tiles: Dim,
        /// Blocks that run on one SM at once.
        per_sm: u32,
    },
}

impl Grid {
    /// Blocks on each axis, where a GPU has `sms` SMs. A persistent grid's are whole clusters, one at least: as many as cover the tiles, and as
    /// fit the GPU. None is clamped to what a GPU can launch.
    ///
    /// # Errors
    /// Symbols without a value, overflow.
    pub fn blocks(&self, bindings: &Bindings, sms: u32, cluster: [u32; 3]) -> kiln_graph::Result<[i64; 3]> {
        match self {
            Grid::Fixed([x, y, z]) => Ok([x.eval(bindings)?, y.eval(bindings)?, z.eval(bindings)?]),
            Grid::Persistent { tiles, per_sm } => {
                let (tiles, cluster) = (tiles.eval(bindings)?, i64::from(cluster[0].max(1)));
                let most = (i64::from(sms).saturating_mul(i64::from(*per_sm)) / cluster).max(1);
                let needed = tiles / cluster + i64::from(tiles % cluster > 0);
                Ok([needed.min(most) * cluster, 1, 1])
            }
        }
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Grid::Fixed([x, y, z]) => write!(f, "[{x}, {y}, {z}]"),
            Grid::Persistent { tiles, per_sm } => write!(f, "min({tiles}, {per_sm} * SMs)"),
        }
    }
}

/// One kernel argument.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Param {
    /// Device pointer to the region's input of that index.
    Input(usize),
    /// Device pointer to the region's output of that index.
    Output(usize),
    /// Device pointer to the scratch: [`Implementation::scratch_bytes`].
    Scratch,
    /// Device pointer to the memory that is zero: [`Implementation::zeroed_bytes`].
    Zeroed,
    /// Device pointer to [`Implementation::packed`] of that index.
    Packed(usize),
    /// Device pointer to an `i32` that becomes the greatest code raised.
    Fault,
    /// The code of the kernel's first check, an `i32` above 0.
    FaultCode,
    /// A 32-bit integer; a value outside `i32` is an error at launch.
    I32(Dim),
    /// A 64-bit integer.
    I64(Dim),
    /// An `f32`, by its bits: any value is kept as it is, NaN too.
    F32(u32),
    /// A tensor map by value, `const __grid_constant__` in the kernel: 128 bytes, aligned to 64.
    TensorMap(Box<TensorMapParam>),
}

impl Param {
    /// Where it points, or the tensor map's base.
    pub fn pointer(&self) -> Option<Pointer> {
        match self {
            Param::Input(i) => Some(Pointer::Input(*i)),
            Param::Output(i) => Some(Pointer::Output(*i)),
            Param::Scratch => Some(Pointer::Scratch),
            Param::Zeroed => Some(Pointer::Zeroed),
            Param::Packed(i) => Some(Pointer::Packed(*i)),
            Param::TensorMap(map) => Some(map.base),
            Param::Fault | Param::FaultCode | Param::I32(_) | Param::I64(_) | Param::F32(_) => None,
        }
    }

    /// Bytes of the kernel's parameter.
    pub fn bytes(&self) -> usize {
        match self {
            Param::FaultCode | Param::I32(_) | Param::F32(_) => 4,
            Param::TensorMap(_) => crate::TENSOR_MAP_BYTES,
            _ => 8,
        }
    }

    /// The expressions that it is computed from.
    pub fn dims(&self) -> Vec<&Dim> {
        match self {
            Param::I32(dim) | Param::I64(dim) => vec![dim],
            Param::TensorMap(map) => map.dims().collect(),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_persistent_grid_is_whole_clusters_that_cover_the_tiles_and_fit_the_gpu() {
        let blocks = |tiles: i64, per_sm, sms, cluster| {
            let grid = Grid::Persistent { tiles: Dim::from("T"), per_sm };
            grid.blocks(&Bindings::from([("T".to_owned(), tiles)]), sms, [cluster, 1, 1]).unwrap()
        };
        for (tiles, per_sm, sms, cluster, expected) in [
            (0, 1, 132, 1, 0),
            (1, 1, 132, 1, 1),
            (131, 1, 132, 1, 131),
            (133, 1, 132, 1, 132),
            (1000, 2, 132, 1, 264),
            (1, 1, 132, 2, 2),
            (7, 1, 132, 4, 8),
            // 133 SMs hold 66 clusters of 2.
            (1000, 1, 133, 2, 132),
            // Smaller than one cluster: one runs all the same.
            (1000, 1, 1, 2, 2),
            (i64::MAX, 1, 132, 2, 132),
        ] {
            assert_eq!(blocks(tiles, per_sm, sms, cluster), [expected, 1, 1], "{tiles} {per_sm} {sms} {cluster}");
        }
    }
}
