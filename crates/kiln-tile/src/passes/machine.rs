//! What passes ask of the target.

use crate::dtype::DType;
use crate::expr::Expr;
use crate::ir::View;
use crate::pass::facts::Facts;
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

fn is_one(e: &Expr) -> bool {
    e.as_const() == Some(1)
}
