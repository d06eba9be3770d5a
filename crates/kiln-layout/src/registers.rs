//! Which register of which thread holds an element.

use crate::LayoutError;
use serde::{Deserialize, Serialize};

/// Most registers a thread, threads, or elements along an axis: far above any GPU's, so that products of two fit 64 bits.
const LIMIT: u64 = 1 << 24;

/// One digit of a register or thread index, and how far it goes along one axis of the tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mode {
    /// Values of the digit.
    pub extent: u32,
    /// Elements along `axis` from one value to the next; 0 where all hold copies of the same elements.
    pub stride: u32,
    /// Axis of the tile; 0 where the stride is.
    pub axis: usize,
}

impl Mode {
    /// A digit that goes along an axis.
    pub const fn along(axis: usize, extent: u32, stride: u32) -> Mode {
        Mode { extent, stride, axis: if stride == 0 { 0 } else { axis } }
    }

    /// A digit whose values hold copies.
    pub const fn copies(extent: u32) -> Mode {
        Mode { extent, stride: 0, axis: 0 }
    }

    /// Whether its values hold copies.
    pub const fn is_copies(self) -> bool {
        self.stride == 0
    }
}

/// How the warps (or whatever issues an instruction) share a tile: one factor of their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Deal {
    /// So many along an axis: each has its own part.
    Along(usize, u32),
    /// So many that hold the same.
    Copies(u32),
}

/// A tile of values in registers: the element that (register `r`, thread `t`) holds is the sum over the digits of `r` and of `t`, mixed
/// radix, least significant first.
///
/// A *register* is one element's slot in a thread, not a word: two 16-bit ones share a word. Every element is held, and by equally many;
/// extents need not be powers of two. Modes are kept merged, so that equal values are equal functions. Axes of a matrix are (row, column);
/// the left operand of a product is (m, k), the right (k, n), the accumulator (m, n).
///
/// The text form, also that of serde, is shape, register modes, thread modes, each `extent:stride@axis` or `extent:0`: the accumulator of
/// `m16n8` is `16x8{2:1@1 2:8@0 | 4:2@1 8:1@0}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct RegisterLayout {
    shape: Vec<u32>,
    registers: Vec<Mode>,
    threads: Vec<Mode>,
}

impl RegisterLayout {
    /// A layout of these modes, least significant first.
    ///
    /// # Errors
    /// [`LayoutError::Cover`] where the modes along an axis do not reach each of its elements exactly once; [`LayoutError::Axes`] and
    /// [`LayoutError::Value`] for an axis the tile lacks, an extent of zero, or more than 2^24 of anything.
    pub fn new(shape: &[u32], registers: &[Mode], threads: &[Mode]) -> Result<Self, LayoutError> {
        for modes in [registers, threads] {
            let count = modes.iter().try_fold(1u64, |n, mode| n.checked_mul(u64::from(mode.extent)));
            if count.is_none_or(|n| n == 0 || n > LIMIT) {
                let expected = "1 to 2^24 registers a thread, and threads";
                return Err(LayoutError::Value {
                    what: "product of extents",
                    found: count.unwrap_or(u64::MAX),
                    expected,
                });
            }
            if let Some(mode) = modes.iter().find(|mode| mode.axis >= shape.len() && !mode.is_copies()) {
                let what = format!("axis {}", mode.axis);
                return Err(LayoutError::Axes { what, expected: "an axis", rank: shape.len() });
            }
        }
        for (axis, &extent) in shape.iter().enumerate() {
            covers(axis, extent, registers.iter().chain(threads))?;
        }
        Ok(Self { shape: shape.to_vec(), registers: merged(registers), threads: merged(threads) })
    }

    /// Runs of `vector` neighbours along the first axis of `order`, dealt to threads in turn along the axes of `order`; what is left is
    /// repeated in registers. Threads that find nothing left hold copies; a vector that does not divide the axis is shortened.
    ///
    /// # Errors
    /// `order` must name every axis once, and nothing may be zero.
    pub fn blocked(shape: &[u32], threads: u32, vector: u32, order: &[usize]) -> Result<Self, LayoutError> {
        permutation(order, shape.len())?;
        let mut left = shape.to_vec();
        let mut held = vec![1; shape.len()];
        let mut take = |axis: usize, most: u32| {
            let extent = gcd(left[axis], most);
            let mode = Mode::along(axis, extent, held[axis]);
            left[axis] /= extent.max(1);
            held[axis] *= extent;
            mode
        };
        let mut registers: Vec<Mode> = order.first().map(|&axis| take(axis, vector.max(1))).into_iter().collect();
        let mut dealt = Vec::new();
        let mut idle = threads;
        for &axis in order {
            let mode = take(axis, idle);
            idle /= mode.extent.max(1);
            dealt.push(mode);
        }
        dealt.push(Mode::copies(idle));
        registers.extend(order.iter().map(|&axis| take(axis, 0)));
        Self::new(shape, &registers, &dealt)
    }

    /// The whole tile in registers of every thread, row-major.
    ///
    /// # Errors
    /// No extent may be zero.
    pub fn thread_local(shape: &[u32], threads: u32) -> Result<Self, LayoutError> {
        let registers: Vec<Mode> = (0..shape.len()).rev().map(|axis| Mode::along(axis, shape[axis], 1)).collect();
        Self::new(shape, &registers, &[Mode::copies(threads)])
    }

    /// This layout, of an instruction's fragment, repeated over a larger tile: `warps` (factors of what issues the instruction, fastest
    /// first) each get neighbouring fragments, in registers along the last axis first.
    ///
    /// With `w` by `v` warps of a product, sums take `[Along(1, v), Along(0, w)]`, the left operand `[Copies(v), Along(0, w)]`, the right
    /// `[Along(1, v), Copies(w)]`.
    ///
    /// # Errors
    /// [`LayoutError::Divide`] where the tile is not made of whole fragments for each warp.
    pub fn tile(&self, shape: &[u32], warps: &[Deal]) -> Result<Self, LayoutError> {
        let uneven = || LayoutError::Divide { shape: shape.to_vec(), piece: self.shape.clone() };
        if shape.len() != self.rank() || shape.iter().zip(&self.shape).any(|(&tile, &own)| tile % own != 0) {
            return Err(uneven());
        }
        let grid: Vec<u32> = shape.iter().zip(&self.shape).map(|(&tile, &own)| tile / own).collect();
        let mut repeats = grid.clone();
        for deal in warps {
            match *deal {
                Deal::Along(axis, count) => match repeats.get_mut(axis) {
                    Some(left) if count > 0 && *left % count == 0 => *left /= count,
                    _ => return Err(uneven()),
                },
                Deal::Copies(_) => {}
            }
        }
        let registers: Vec<Mode> = (0..grid.len()).rev().map(|axis| Mode::along(axis, repeats[axis], 1)).collect();
        let mut stride = repeats;
        let dealt = warps.iter().map(|deal| match *deal {
            Deal::Along(axis, count) => {
                let mode = Mode::along(axis, count, stride[axis]);
                stride[axis] *= count;
                mode
            }
            Deal::Copies(count) => Mode::copies(count),
        });
        let threads: Vec<Mode> = dealt.collect();
        self.compose(&Self::new(&grid, &registers, &threads)?)
    }

    /// This layout at every place of a grid of its tiles: the grid's registers and threads count above this one's.
    ///
    /// # Errors
    /// [`LayoutError::Shape`] where the numbers of axes differ.
    pub fn compose(&self, grid: &Self) -> Result<Self, LayoutError> {
        if grid.rank() != self.rank() {
            return Err(LayoutError::Shape { from: self.shape.clone(), to: grid.shape.clone() });
        }
        let scaled = |own: &[Mode], outer: &[Mode]| -> Vec<Mode> {
            let scale = |mode: &Mode| {
                let part = self.shape.get(mode.axis).copied().unwrap_or(1);
                Mode { stride: mode.stride.saturating_mul(part), ..*mode }
            };
            own.iter().copied().chain(outer.iter().map(scale)).collect()
        };
        let shape: Vec<u32> =
            self.shape.iter().zip(&grid.shape).map(|(own, outer)| own.saturating_mul(*outer)).collect();
        Self::new(&shape, &scaled(&self.registers, &grid.registers), &scaled(&self.threads, &grid.threads))
    }

    /// The grid whose [`compose`](Self::compose) with a fragment is this layout, where the fragment tiles it: the grid's registers are
    /// the instructions that each warp issues, in order; its threads are the warps.
    pub fn divide(&self, fragment: &Self) -> Option<Self> {
        if fragment.rank() != self.rank() || self.shape.iter().zip(&fragment.shape).any(|(&own, &part)| own % part != 0)
        {
            return None;
        }
        let rest = |own: &[Mode], part: &[Mode]| -> Option<Vec<Mode>> {
            let mut own = own.to_vec();
            for mode in part {
                let first = own.first_mut()?;
                if first.axis != mode.axis || first.stride != mode.stride || first.extent % mode.extent != 0 {
                    return None;
                }
                *first =
                    Mode { extent: first.extent / mode.extent, stride: first.stride * mode.extent, axis: first.axis };
                if first.extent == 1 {
                    own.remove(0);
                }
            }
            // The fragment covers each axis up to its extent, so every stride left is a multiple.
            Some(
                own.iter()
                    .map(|mode| Mode { stride: mode.stride / fragment.shape.get(mode.axis).unwrap_or(&1), ..*mode })
                    .collect(),
            )
        };
        let shape: Vec<u32> = self.shape.iter().zip(&fragment.shape).map(|(own, part)| own / part).collect();
        Self::new(&shape, &rest(&self.registers, &fragment.registers)?, &rest(&self.threads, &fragment.threads)?).ok()
    }

    /// What a reduction along an axis leaves, with extent 1 there: its registers are gone, its threads hold copies.
    ///
    /// # Errors
    /// [`LayoutError::Axes`] where the tile lacks the axis.
    pub fn slice(&self, axis: usize) -> Result<Self, LayoutError> {
        self.residues(axis, 1)
    }

    /// [`RegisterLayout::slice`] for a reduction that leaves `extent` elements along the axis, each made of those that are a multiple of `extent`
    /// apart.
    ///
    /// # Errors
    /// [`LayoutError::Axes`] where the tile lacks the axis, [`LayoutError::Cover`] where `extent` does not divide its digits.
    pub fn residues(&self, axis: usize, extent: u32) -> Result<Self, LayoutError> {
        let mut shape = self.shape.clone();
        *shape.get_mut(axis).ok_or_else(|| self.no_axis(axis))? = extent;
        // Of a digit along the axis what is left, and what is gone.
        let parts = |mode: &Mode| match mode.axis == axis && !mode.is_copies() {
            true => {
                let left = (extent / mode.stride).clamp(1, mode.extent);
                (Mode { extent: left, ..*mode }, mode.extent / left)
            }
            false => (*mode, 1),
        };
        let mut digits = self.registers.iter().chain(&self.threads);
        if let Some(mode) = digits.find(|mode| !mode.extent.is_multiple_of(parts(mode).0.extent)) {
            let (covered, found) = (u64::from(mode.stride), mode.extent);
            return Err(LayoutError::Cover { axis, extent, covered, found });
        }
        let some = |mode: &Mode| mode.extent > 1;
        let registers: Vec<Mode> = self.registers.iter().map(|mode| parts(mode).0).filter(some).collect();
        let threads = self.threads.iter().flat_map(|mode| {
            let (left, gone) = parts(mode);
            [left, Mode::copies(gone)].into_iter().filter(some)
        });
        Self::new(&shape, &registers, &threads.collect::<Vec<Mode>>())
    }

    /// An axis of extent 1 made `extent` long, every thread holding all of it: register `r` is register `r % registers()` of this one.
    /// Converting `layout.slice(axis)?.broadcast(axis, n)?` to `layout` moves registers only.
    ///
    /// # Errors
    /// [`LayoutError::Axes`] where the axis is absent or longer than 1.
    pub fn broadcast(&self, axis: usize, extent: u32) -> Result<Self, LayoutError> {
        let mut shape = self.shape.clone();
        match shape.get_mut(axis) {
            Some(one) if *one == 1 => *one = extent,
            _ => return Err(self.no_axis(axis)),
        }
        let registers: Vec<Mode> = self.registers.iter().copied().chain([Mode::along(axis, extent, 1)]).collect();
        Self::new(&shape, &registers, &self.threads)
    }

    /// The layout of the transposed tile: its axis `i` is this one's axis `axes[i]`.
    ///
    /// # Errors
    /// `axes` must name every axis once.
    pub fn transpose(&self, axes: &[usize]) -> Result<Self, LayoutError> {
        permutation(axes, self.rank())?;
        let shape: Vec<u32> = axes.iter().map(|&axis| self.shape[axis]).collect();
        let moved = |modes: &[Mode]| -> Vec<Mode> {
            let place = |axis| axes.iter().position(|&from| from == axis).unwrap_or(axis);
            modes.iter().map(|mode| Mode::along(place(mode.axis), mode.extent, mode.stride)).collect()
        };
        Self::new(&shape, &moved(&self.registers), &moved(&self.threads))
    }

    /// Extents of the tile.
    pub fn shape(&self) -> &[u32] {
        &self.shape
    }

    /// Axes of the tile.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Registers of one thread, in elements.
    pub fn registers(&self) -> u32 {
        self.registers.iter().map(|mode| mode.extent).product()
    }

    /// Threads that hold the tile.
    pub fn threads(&self) -> u32 {
        self.threads.iter().map(|mode| mode.extent).product()
    }

    /// Digits of the register index, least significant first.
    pub fn register_modes(&self) -> &[Mode] {
        &self.registers
    }

    /// Digits of the thread index, least significant first.
    pub fn thread_modes(&self) -> &[Mode] {
        &self.threads
    }

    /// How many (register, thread) hold each element.
    pub fn replication(&self) -> u32 {
        let copies = self.registers.iter().chain(&self.threads).filter(|mode| mode.is_copies());
        copies.map(|mode| mode.extent).product()
    }

    /// Whether a thread is the first of those that hold its elements: the one to store them.
    pub fn owner(&self, thread: u32) -> bool {
        digits(&self.threads, thread).all(|(mode, digit)| !mode.is_copies() || digit == 0)
    }

    /// The element that a register of a thread holds.
    pub fn coordinate(&self, register: u32, thread: u32) -> Vec<u32> {
        let mut at = vec![0; self.rank()];
        for (mode, digit) in digits(&self.registers, register).chain(digits(&self.threads, thread)) {
            if !mode.is_copies() {
                at[mode.axis] += digit * mode.stride;
            }
        }
        at
    }

    /// Every (register, thread) that holds an element, ascending by register, then thread; none for an element outside the tile.
    pub fn holders(&self, coordinate: &[u32]) -> Vec<(u32, u32)> {
        if coordinate.len() != self.rank() || coordinate.iter().zip(&self.shape).any(|(at, extent)| at >= extent) {
            return Vec::new();
        }
        let indices = |modes: &[Mode]| {
            let mut found = vec![0u32];
            let mut weight = 1;
            for mode in modes {
                if mode.is_copies() {
                    found =
                        (0..mode.extent).flat_map(|digit| found.iter().map(move |at| at + digit * weight)).collect();
                } else {
                    let digit = coordinate[mode.axis] / mode.stride % mode.extent;
                    found.iter_mut().for_each(|at| *at += digit * weight);
                }
                weight *= mode.extent;
            }
            found
        };
        let threads = indices(&self.threads);
        indices(&self.registers)
            .into_iter()
            .flat_map(|register| threads.iter().map(move |&thread| (register, thread)))
            .collect()
    }

    /// How many consecutive registers hold neighbours along an axis: the widest vector access. Runs begin at multiples of it.
    pub fn contiguous(&self, axis: usize) -> u32 {
        self.registers.first().filter(|mode| mode.axis == axis && mode.stride == 1).map_or(1, |mode| mode.extent)
    }

    fn no_axis(&self, axis: usize) -> LayoutError {
        LayoutError::Axes {
            what: format!("axis {axis}"),
            expected: "an axis (of extent 1 to broadcast)",
            rank: self.rank(),
        }
    }
}

/// The digits of an index.
pub(crate) fn digits(modes: &[Mode], index: u32) -> impl Iterator<Item = (Mode, u32)> {
    modes.iter().scan(index, |rest, mode| {
        let digit = *rest % mode.extent;
        *rest /= mode.extent;
        Some((*mode, digit))
    })
}

/// Whether the modes along an axis reach each element once. Sums of such digits are an interval without repeats only if the strides,
/// sorted, are each the product of the extents before (the generating functions factor in no other way).
fn covers<'a>(axis: usize, extent: u32, modes: impl Iterator<Item = &'a Mode>) -> Result<(), LayoutError> {
    let mut own: Vec<&Mode> = modes.filter(|mode| mode.axis == axis && mode.stride != 0 && mode.extent != 1).collect();
    own.sort_by_key(|mode| mode.stride);
    let mut covered = 1;
    for mode in own {
        if u64::from(mode.stride) != covered {
            return Err(LayoutError::Cover { axis, extent, covered, found: mode.stride });
        }
        covered *= u64::from(mode.extent);
    }
    if covered == u64::from(extent) { Ok(()) } else { Err(LayoutError::Cover { axis, extent, covered, found: 0 }) }
}

/// Modes without digits that are always zero, those that continue each other as one.
fn merged(modes: &[Mode]) -> Vec<Mode> {
    let mut out: Vec<Mode> = Vec::with_capacity(modes.len());
    for mode in modes.iter().filter(|mode| mode.extent != 1) {
        let mode = Mode::along(mode.axis, mode.extent, mode.stride);
        match out.last_mut() {
            Some(last) if last.axis == mode.axis && last.stride * last.extent == mode.stride => {
                last.extent *= mode.extent
            }
            _ => out.push(mode),
        }
    }
    out
}

pub(crate) fn permutation(order: &[usize], rank: usize) -> Result<(), LayoutError> {
    if order.len() == rank && (0..rank).all(|axis| order.contains(&axis)) {
        return Ok(());
    }
    Err(LayoutError::Axes { what: format!("{order:?}"), expected: "every axis once", rank })
}

/// Greatest common divisor; of zero and `b`, `b`.
pub(crate) fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
