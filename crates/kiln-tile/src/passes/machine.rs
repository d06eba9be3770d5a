//! What passes ask of the target.

use crate::dtype::DType;
use crate::expr::Expr;
use crate::ir::View;
use crate::pass::facts::Facts;
use kiln_layout::{Deal, LayoutError, Mode, RegisterLayout};
use kiln_target::arch::Arch;

/// The instructions that a program may be made of.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// The architecture.
    pub arch: Arch,
}

impl Machine {
    /// Whether the tensor memory accelerator and mbarriers exist.
    pub fn has_tma(&self) -> bool {
        self.arch.capability() >= 90
    }

    /// Whether `cp.async` exists.
    pub fn has_cp_async(&self) -> bool {
        self.arch.has_cp_async()
    }

    /// Whether a warpgroup multiplies what lies in shared memory.
    pub fn has_wgmma(&self, operands: DType) -> bool {
        self.arch == Arch::Sm90a && matches!(operands, DType::F16 | DType::BF16)
    }

    /// Whether the accelerator can bring the box: its innermost elements are neighbours and start at multiples of 16 bytes, as does every row.
    pub fn tma_takes(&self, facts: &Facts, view: &View) -> bool {
        let bytes = i128::from(view.tensor.dtype.bits() / 8);
        let rank = view.tensor.shape.len();
        let Some(inner) = rank.checked_sub(1) else { return false };
        let rows = view.tensor.strides[..inner].iter().all(|stride| facts.multiple(stride) * bytes % 16 == 0);
        let boxes = view.shape.iter().all(|extent| *extent <= 256 || extent % 256 == 0);
        let line = view.axes[inner].map_or(0, |axis| i128::from(view.shape[axis]) * bytes);
        let whole = line > 0 && (line % 128 == 0 || line == 64 || line == 32);
        self.has_tma()
            && (1..=5).contains(&rank)
            && bytes > 0
            && is_one(&view.tensor.strides[inner])
            && rows
            && boxes
            && whole
    }

    /// Bytes of the widest `cp.async` that brings the box in whole pieces: 16, 8 or 4.
    pub fn cp_async_takes(&self, facts: &Facts, view: &View) -> Option<u32> {
        let inner = view.tensor.shape.len().checked_sub(1)?;
        let bytes = view.tensor.dtype.bits() / 8;
        let axis = view.axes[inner]?;
        if !self.has_cp_async() || bytes == 0 || !is_one(&view.tensor.strides[inner]) {
            return None;
        }
        [16, 8, 4].into_iter().find(|&width| {
            let elements = i128::from(width / bytes);
            let whole = |e: &Expr| facts.multiple(e) % elements == 0;
            elements > 0
                && i128::from(view.shape[axis]) % elements == 0
                && view.tensor.strides[..inner].iter().all(whole)
                && whole(&view.origin[inner])
                && (!view.masked[inner] || whole(&view.tensor.shape[inner]))
        })
    }
}

/// Layouts of a dot's tiles.
pub struct DotLayouts {
    /// Of the accumulator.
    pub accumulator: RegisterLayout,
    left: RegisterLayout,
    deals: Vec<Deal>,
}

impl DotLayouts {
    /// Of a left operand in registers.
    pub fn left(&self, shape: [u32; 2]) -> Result<RegisterLayout, LayoutError> {
        self.left.tile(&shape, &self.deals)
    }
}

impl Machine {
    /// The instruction for `[m, n] += [m, k] [k, n]` by so many warps.
    pub fn dot_atom(&self, [m, n, k]: [u32; 3], operands: DType, sum: DType, warps: u32) -> &'static str {
        let groups = warps / 4;
        let whole = groups > 0 && warps % 4 == 0 && m % (64 * groups) == 0 && n % 8 == 0 && n <= 256 && k % 16 == 0;
        if self.has_wgmma(operands) && sum == DType::F32 && whole {
            return "wgmma";
        }
        match self.arch.mma(operands) {
            Some(shape) if sum == DType::F32 && m % shape.m == 0 && n % shape.n == 0 && k % shape.k == 0 => "mma",
            _ => "fma",
        }
    }

    /// Where an instruction's accumulator and left operand are; `whole`: rows are not cut among warps.
    pub fn dot_layouts(&self, atom: &str, shape: [u32; 2], warps: u32, whole: bool) -> Result<DotLayouts, LayoutError> {
        let lanes = [Mode::along(1, 4, 2), Mode::along(0, 8, 1)];
        let group = [Mode::along(1, 4, 2), Mode::along(0, 8, 1), Mode::along(0, 4, 16)];
        let pairs = |columns: u32| [Mode::along(1, 2, 1), Mode::along(0, 2, 8), Mode::along(1, columns / 8, 8)];
        let (accumulator, left, across, down) = match atom {
            "wgmma" => {
                let accumulator = RegisterLayout::new(&[64, shape[1]], &pairs(shape[1]), &group)?;
                (accumulator, RegisterLayout::new(&[64, 16], &pairs(16), &group)?, 1, warps / 4)
            }
            "mma" => {
                let accumulator = RegisterLayout::new(&[16, 8], &pairs(8), &lanes)?;
                let (across, down) = share(shape, warps, whole);
                (accumulator, RegisterLayout::new(&[16, 16], &pairs(16), &lanes)?, across, down)
            }
            _ => {
                let threads = 32 * warps;
                let columns = (threads.ilog2() / 2).min((shape[1] / 4).max(1).ilog2());
                let columns = 1 << columns;
                let vector = if shape[1] % (4 * columns) == 0 { 4 } else { 1 };
                let accumulator =
                    RegisterLayout::blocked(&[threads / columns, columns * vector], threads, vector, &[1, 0])?;
                (accumulator.clone(), accumulator, 1, 1)
            }
        };
        let deals = vec![Deal::Along(1, across), Deal::Along(0, down)];
        let accumulator = accumulator.tile(&shape, &deals)?;
        Ok(DotLayouts { accumulator, left, deals: vec![Deal::Copies(across), Deal::Along(0, down)] })
    }
}

/// How warps share a tile of m16n8 blocks: across and down; each part as square as may be.
fn share([m, n]: [u32; 2], warps: u32, whole: bool) -> (u32, u32) {
    let fits = |across: &u32| warps % across == 0 && n % (8 * across) == 0 && m % (16 * (warps / across)) == 0;
    let most = if whole { 1 } else { warps };
    let best = (1..=most).filter(fits).min_by_key(|across| (m / (warps / across) + n / across, *across));
    best.map_or((1, warps), |across| (across, warps / across))
}

fn is_one(e: &Expr) -> bool {
    e.as_const() == Some(1)
}
