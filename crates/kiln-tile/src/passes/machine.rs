//! What passes ask of the target.

use crate::dtype::DType;
use crate::expr::Expr;
use crate::ir::{Part, View};
use crate::pass::facts::Facts;
use kiln_layout::{Deal, LayoutError, RegisterLayout};
use kiln_target::arch::Arch;
use kiln_target::atoms::{AtomTable, CopyKind, MatrixType, MmaAtom, MmaKind, Source};

/// The instructions that a program may be made of, and what follows from them.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The instructions.
    pub atoms: AtomTable,
}

impl Machine {
    /// All that an architecture has, or what is left of it.
    pub fn new(atoms: impl Into<AtomTable>) -> Machine {
        Machine { atoms: atoms.into() }
    }

    /// The architecture.
    pub fn arch(&self) -> Arch {
        self.atoms.arch()
    }

    /// Whether the tensor memory accelerator exists, and with it mbarriers that count bytes.
    pub fn has_tma(&self) -> bool {
        self.atoms.has_copy(CopyKind::Tensor)
    }

    /// Whether the tensor memory accelerator brings a box to all CTAs of a cluster.
    pub fn has_multicast(&self) -> bool {
        self.has_tma() && self.atoms.has_copy(CopyKind::TensorMulticast)
    }

    /// Whether the accelerator finds the pixels that windows see.
    pub fn has_windows(&self) -> bool {
        self.has_tma() && self.atoms.has_copy(CopyKind::TensorWindows)
    }

    /// Whether `cp.async` exists.
    pub fn has_cp_async(&self) -> bool {
        self.atoms.has_copy(CopyKind::Async)
    }

    /// Whether the accelerator can bring the box: its innermost elements are neighbours and start at multiples of 16 bytes, as does every row.
    pub fn tma_takes(&self, facts: &Facts, view: &View) -> bool {
        let bytes = i128::from(view.tensor.dtype.bits() / 8);
        let rank = view.tensor.shape.len();
        let Some(inner) = rank.checked_sub(1) else { return false };
        let aligned = |e: &Expr| facts.multiple(e) * bytes % 16 == 0;
        // Of a part of a row the end too: threads that bring the box themselves bring pieces of 16 bytes.
        let rows = view.tensor.strides[..inner].iter().all(aligned)
            && aligned(&view.origin[inner])
            && (inner == 0 || aligned(&view.tensor.shape[inner]));
        let boxes = view.shape.iter().all(|extent| *extent <= 256 || extent.is_multiple_of(256));
        let line = view.axes[inner].map_or(0, |axis| i128::from(view.shape[axis]) * bytes);
        let whole = line > 0 && line % 32 == 0;
        let windows = view.walks.is_empty() || self.has_windows() && are_windows(facts, view);
        self.has_tma()
            && windows
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
        let axis = view.inner()?;
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
                && walks_in_runs(facts, view, elements)
        })
    }
}

/// Whether elements that walks bring to neighbouring places stand together by so many, at multiples of that.
pub fn walks_in_runs(facts: &Facts, view: &View, elements: i128) -> bool {
    let last = view.axes.len().saturating_sub(1);
    let whole = |e: &Expr| facts.multiple(e) % elements == 0;
    let mut walks = view.walks.iter().filter(|walk| walk.parts.iter().any(|part| part.axis == last));
    let (walk, None) = (walks.next(), walks.next()) else { return elements == 1 };
    walk.is_none_or(|walk| {
        let run = |part: &Part| part.axis == last && part.step == 1 && part.base % elements as i64 == 0;
        let innermost = walk.parts.last().is_some_and(|part| run(part) && whole(&part.extent));
        let only = walk.parts.iter().filter(|part| part.axis == last).count() == 1 && view.axes[last].is_none();
        elements == 1 || innermost && only && whole(&walk.first) && whole(&walk.end)
    })
}

/// Whether the accelerator finds the elements: those of all pixels that windows see at one place in them, some channels of each. Images come first,
/// channels last.
fn are_windows(facts: &Facts, view: &View) -> bool {
    let space = view.axes.len().saturating_sub(2);
    let [walk] = &view.walks[..] else { return false };
    if !(1..=3).contains(&space) || walk.parts.len() != space + 1 {
        return false;
    }
    let corner = [1 << 15, 1 << 7, 1 << 4][space - 1];
    let order = walk.parts.iter().enumerate().all(|(axis, part)| part.axis == axis);
    let images = walk.parts[0].base == 0 && walk.parts[0].step == 1;
    let pixels = walk.parts[1..].iter().all(|part| {
        let place = facts.range(&view.origin[part.axis]);
        let near = [part.base, part.last].iter().all(|at| (-corner..corner).contains(at));
        // Places in windows are a word, or bytes of it, or parts of bytes.
        near && part.step <= 8 && place.lo >= 0 && place.hi < i128::from(2 * corner)
    });
    order && images && pixels && view.axes[..=space].iter().all(Option::is_none)
}

/// A dot: its tiles, and how its operands lie in shared memory.
#[derive(Clone, Copy, Debug)]
pub struct DotShape {
    /// Rows, columns, depth.
    pub extents: [u32; 3],
    /// Types of the operands and of the sums.
    pub types: [DType; 3],
    /// Whether the left and the right operand have the axis that is summed over dense in memory; of one in registers it does not matter.
    pub k_major: [bool; 2],
    /// Warps that share it.
    pub warps: u32,
    /// Where operands are rounded to TF32: which of them may be rounded before an instruction reads them, in registers, or by the accelerator
    /// that brings them.
    pub tf32: Option<[bool; 2]>,
}

/// Layouts of a dot's tiles.
pub struct DotLayouts {
    /// Of the accumulator.
    pub accumulator: RegisterLayout,
    /// Of one instruction's left operand.
    left: RegisterLayout,
    /// Of one instruction's right operand, if it comes from registers.
    right: Option<RegisterLayout>,
    /// How many parts warps cut the columns and the rows into.
    cut: [u32; 2],
}

impl DotLayouts {
    /// Of a left operand in registers.
    pub fn left(&self, shape: [u32; 2]) -> Result<RegisterLayout, LayoutError> {
        self.left.tile(&shape, &[Deal::Copies(self.cut[0]), Deal::Along(0, self.cut[1])])
    }

    /// Of a right operand in registers.
    pub fn right(&self, shape: [u32; 2]) -> Result<Option<RegisterLayout>, LayoutError> {
        let deals = [Deal::Along(1, self.cut[0]), Deal::Copies(self.cut[1])];
        self.right.as_ref().map(|right| right.tile(&shape, &deals)).transpose()
    }

    /// Those of a dot whose accumulator is laid out for `width` columns an instruction; `None` if it is not laid out for the instruction.
    pub fn of(atom: &MmaAtom, width: u32, accumulator: &RegisterLayout) -> Option<DotLayouts> {
        let grid = accumulator.divide(&atom.acc_layout(width)?)?;
        let along = |axis: usize| {
            let modes = grid.thread_modes().iter().filter(|mode| mode.axis == axis && !mode.is_copies());
            modes.map(|mode| mode.extent).product()
        };
        let (left, right) = (atom.a_layout(), atom.b_layout());
        Some(DotLayouts { accumulator: accumulator.clone(), left, right, cut: [along(1), along(0)] })
    }

    /// Instructions of a warp, or warpgroup, along rows and columns.
    pub fn repeats(&self, atom: &MmaAtom, width: u32) -> [u32; 2] {
        let shape = self.accumulator.shape();
        [shape[0] / self.cut[1] / atom.m, shape[1] / self.cut[0] / width]
    }
}

impl Machine {
    /// The best instruction for a dot.
    pub fn dot_atom(&self, dot: &DotShape) -> Option<MmaAtom> {
        let [a, b, sum] = dot.types.map(MatrixType::of);
        let [a, b] = if dot.tf32.is_some() { [Some(MatrixType::Tf32); 2] } else { [a, b] };
        let atoms = self.atoms.mma_atoms(a?, b?, sum?);
        atoms.into_iter().find(|atom| fits(atom, dot)).copied()
    }

    /// The instruction of that name.
    pub fn atom(&self, name: &str) -> Option<MmaAtom> {
        MmaAtom::ALL.iter().find(|atom| atom.name() == name).copied()
    }

    /// Where the tiles of a dot are; `whole`: rows are not cut among warps.
    pub fn dot_layouts(
        &self,
        atom: &MmaAtom,
        [m, n]: [u32; 2],
        warps: u32,
        whole: bool,
    ) -> Result<DotLayouts, LayoutError> {
        let uneven = || LayoutError::Divide { shape: vec![m, n], piece: vec![atom.m, atom.widths[0]] };
        let (accumulator, cut) = match atom.kind {
            MmaKind::Wgmma => (atom.acc_layout(n).ok_or_else(uneven)?, [1, warps / 4]),
            MmaKind::Sync => {
                let (across, down) = share([m, n], [atom.m, atom.widths[0]], warps, whole);
                (atom.acc_layout(atom.widths[0]).ok_or_else(uneven)?, [across, down])
            }
            MmaKind::Fma => {
                let [rows, columns] = fma_threads([m, n], warps);
                let vector = fma_run(n, columns);
                let shape = [rows, columns * vector];
                (RegisterLayout::blocked(&shape, rows * columns, vector, &[1, 0])?, [1, 1])
            }
        };
        let deals = [Deal::Along(1, cut[0]), Deal::Along(0, cut[1])];
        let accumulator = accumulator.tile(&[m, n], &deals)?;
        Ok(DotLayouts { accumulator, left: atom.a_layout(), right: atom.b_layout(), cut })
    }
}

/// Whether an instruction tiles a dot and reads its operands as they lie.
fn fits(atom: &MmaAtom, dot: &DotShape) -> bool {
    let [m, n, k] = dot.extents;
    match atom.kind {
        MmaKind::Wgmma => {
            let groups = dot.warps / 4;
            let lies = |k_major: bool| atom.takes_b(Source::Shared { mn_major: !k_major });
            let whole = dot.warps.is_multiple_of(4) && groups > 0 && m.is_multiple_of(atom.m * groups);
            whole
                && atom.widths.contains(&n)
                && k.is_multiple_of(atom.k)
                && dot.k_major.iter().all(|major| lies(*major))
                && dot.tf32.is_none_or(|rounded| rounded == [true; 2])
        }
        MmaKind::Sync => {
            let parts = (1..=dot.warps).any(|across| shares([m, n], [atom.m, atom.widths[0]], dot.warps, across));
            k.is_multiple_of(atom.k) && parts
        }
        MmaKind::Fma => true,
    }
}

fn shares([m, n]: [u32; 2], [rows, columns]: [u32; 2], warps: u32, across: u32) -> bool {
    warps.is_multiple_of(across) && n.is_multiple_of(columns * across) && m.is_multiple_of(rows * (warps / across))
}

/// How warps share a tile of an instruction's blocks: across and down; each part as square as may be.
fn share([m, n]: [u32; 2], block: [u32; 2], warps: u32, whole: bool) -> (u32, u32) {
    let most = if whole && shares([m, n], block, warps, 1) { 1 } else { warps };
    let fits = (1..=most).filter(|across| shares([m, n], block, warps, *across));
    let best = fits.min_by_key(|across| (m / (warps / across) + n / across, *across));
    best.map_or((1, warps), |across| (across, warps / across))
}

/// Neighbouring columns of a thread that multiplies.
fn fma_run(n: u32, columns: u32) -> u32 {
    if n.is_multiple_of(4 * columns) { 4 } else { 1 }
}

/// How the threads of so many warps, where they multiply themselves, share a tile: down and across. A thread's block is such that it loads least for
/// it: as square as may be, its columns in runs of four where these divide the tile; no row is shared beyond a warp.
pub fn fma_threads([m, n]: [u32; 2], warps: u32) -> [u32; 2] {
    let threads = 32 * warps;
    let square = threads.ilog2() / 2;
    let fits = |across: &u32| n.is_multiple_of(1 << across) && m.is_multiple_of(threads >> across);
    let loads = |across: u32| {
        let columns = 1 << across;
        let each = if fma_run(n, columns) == 1 { 2 } else { 1 };
        (m / (threads >> across) + n / columns * each, across.abs_diff(square), across)
    };
    let best = (0..=threads.ilog2().min(5)).filter(fits).min_by_key(|across| loads(*across));
    // What does not divide the tile is told when the layout is made.
    let across = best.unwrap_or(square);
    [threads >> across, 1 << across]
}

fn is_one(e: &Expr) -> bool {
    e.as_const() == Some(1)
}
