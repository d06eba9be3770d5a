//! What brings a tile from one register layout to another.

use crate::LayoutError;
use crate::registers::{Mode, RegisterLayout, digits};
use std::collections::BTreeSet;

/// Lanes of a warp.
const WARP: u32 = 32;

/// What a conversion takes, the cheapest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conversion {
    /// Nothing.
    None,
    /// Register `i` becomes the old register `[i]`: the same in every thread.
    Registers(Vec<u32>),
    /// Values move between lanes of a warp.
    Shuffle(Shuffle),
    /// Values move between warps, or extents share no radix: through shared memory.
    Shared,
}

/// Where each register's value comes from, within the warp: digits of the thread index, times steps, added to what the register has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shuffle {
    /// One for each register of the new layout.
    pub registers: Vec<Source>,
    /// Digits of the thread index.
    pub digits: Vec<Digit>,
}

/// An old register of a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Register of the old layout.
    pub register: u32,
    /// Lane of the warp.
    pub lane: u32,
}

/// The digit `thread / divide % extent`, and what it adds to the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digit {
    /// Threads from one value to the next.
    pub divide: u32,
    /// Values.
    pub extent: u32,
    /// What each value adds.
    pub step: Source,
}

impl Shuffle {
    /// Where the value of a register comes from in a thread: register of the old layout, lane of the same warp.
    pub fn source(&self, register: u32, thread: u32) -> Source {
        let mut at = self.registers[register as usize];
        for digit in &self.digits {
            let value = thread / digit.divide % digit.extent;
            at.register += value * digit.step.register;
            at.lane += value * digit.step.lane;
        }
        at
    }

    /// Instructions: for each new register as many shuffles as old registers it may come from in one warp; none where no value changes its lane.
    pub fn shuffles(&self) -> u32 {
        let lanes = || self.digits.iter().filter(|digit| digit.divide < WARP);
        let still = lanes().all(|digit| digit.step.lane == digit.divide)
            && self.registers.iter().all(|source| source.lane == 0);
        let each: u32 = lanes().filter(|digit| digit.step.register != 0).map(|digit| digit.extent).product();
        if still { 0 } else { each * self.registers.len() as u32 }
    }
}

/// What it takes to have a tile in the layout `to` that is in `from`.
///
/// # Errors
/// [`LayoutError::Shape`] where they are layouts of different tiles.
pub fn conversion(from: &RegisterLayout, to: &RegisterLayout) -> Result<Conversion, LayoutError> {
    if from.shape() != to.shape() {
        return Err(LayoutError::Shape { from: from.shape().to_vec(), to: to.shape().to_vec() });
    }
    if from == to {
        return Ok(Conversion::None);
    }
    // A register's offset from thread 0 is the same in all, so the same registers serve exactly when threads mean the same.
    if from.thread_modes() == to.thread_modes() {
        let source = |register| from.holders(&to.coordinate(register, 0)).first().map(|holder| holder.0);
        if let Some(moves) = (0..to.registers()).map(source).collect() {
            return Ok(Conversion::Registers(moves));
        }
    }
    let within = (from.threads() == to.threads()).then(|| shuffle(from, to)).flatten();
    Ok(within.map_or(Conversion::Shared, Conversion::Shuffle))
}

/// A digit after both layouts are cut to the same radices.
#[derive(Clone, Copy)]
struct Piece {
    /// What one value adds to the index.
    weight: u32,
    mode: Mode,
}

impl Piece {
    fn end(self) -> u32 {
        self.weight * self.mode.extent
    }
}

/// Where the layouts' digits cut each axis and the thread index.
struct Cuts {
    axes: Vec<BTreeSet<u32>>,
    threads: BTreeSet<u32>,
}

impl Cuts {
    /// Cuts modes where the axes are cut and, for thread indices, where those are; `None` where a digit cannot be cut there.
    fn pieces(&self, modes: &[Mode], threads: bool) -> Option<Vec<Piece>> {
        let mut out = Vec::new();
        let mut weight = 1;
        for &(mut mode) in modes {
            while mode.extent > 1 {
                // How many values fit below the next cut of the axis, and of the index.
                let below = |cuts: &BTreeSet<u32>, step: u32| {
                    let next = cuts.range(step + 1..).next().copied().filter(|next| *next < step * mode.extent);
                    next.map_or(Some(mode.extent), |next| (next % step == 0).then(|| next / step))
                };
                let axis = if mode.is_copies() { mode.extent } else { below(&self.axes[mode.axis], mode.stride)? };
                let index = if threads { below(&self.threads, weight)? } else { mode.extent };
                let extent = axis.min(index);
                if mode.extent % extent != 0 {
                    return None;
                }
                out.push(Piece { weight, mode: Mode { extent, ..mode } });
                weight *= extent;
                mode = Mode { extent: mode.extent / extent, stride: mode.stride * extent, ..mode };
            }
        }
        Some(out)
    }
}

fn shuffle(from: &RegisterLayout, to: &RegisterLayout) -> Option<Shuffle> {
    let mut cuts = Cuts { axes: vec![BTreeSet::new(); to.rank()], threads: BTreeSet::from([WARP]) };
    for layout in [from, to] {
        for mode in layout.register_modes().iter().chain(layout.thread_modes()).filter(|mode| !mode.is_copies()) {
            cuts.axes[mode.axis].extend([mode.stride, mode.stride * mode.extent]);
        }
    }
    // A thread takes copies from the one most like itself.
    let copies: Vec<Piece> =
        cuts.pieces(from.thread_modes(), false)?.into_iter().filter(|piece| piece.mode.is_copies()).collect();
    copies.iter().for_each(|piece| cuts.threads.extend([piece.weight, piece.end()]));
    for piece in cuts.pieces(to.thread_modes(), true)?.iter().filter(|piece| !piece.mode.is_copies()) {
        cuts.axes[piece.mode.axis].extend([piece.mode.stride, piece.mode.stride * piece.mode.extent]);
    }
    let held: Vec<(Piece, bool)> = [(from.register_modes(), false), (from.thread_modes(), true)]
        .into_iter()
        .map(|(modes, thread)| Some(cuts.pieces(modes, false)?.into_iter().map(move |piece| (piece, thread))))
        .collect::<Option<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect();
    // What one value of a new digit adds to the old register and the old thread.
    let step = |mode: Mode| -> Option<Source> {
        if mode.is_copies() {
            return Some(Source::default());
        }
        let same = |piece: &&(Piece, bool)| piece.0.mode == mode;
        held.iter().find(same).map(|(piece, thread)| match thread {
            true => Source { register: 0, lane: piece.weight },
            false => Source { register: piece.weight, lane: 0 },
        })
    };
    let mut found = Vec::new();
    for piece in cuts.pieces(to.thread_modes(), true)? {
        let mut step = step(piece.mode)?;
        if copies.iter().any(|copy| copy.weight <= piece.weight && piece.weight < copy.end()) {
            step.lane += piece.weight;
        }
        if piece.weight >= WARP {
            // Another warp's registers are out of reach.
            if step.lane != piece.weight {
                return None;
            }
            step.lane = 0;
        }
        found.push(Digit { divide: piece.weight, extent: piece.mode.extent, step });
    }
    let pieces = cuts.pieces(to.register_modes(), false)?;
    let modes: Vec<Mode> = pieces.iter().map(|piece| piece.mode).collect();
    let steps: Vec<Source> = modes.iter().map(|mode| step(*mode)).collect::<Option<_>>()?;
    let registers = (0..to.registers()).map(|register| {
        digits(&modes, register).zip(&steps).fold(Source::default(), |at, ((_, digit), step)| Source {
            register: at.register + digit * step.register,
            lane: at.lane + digit * step.lane,
        })
    });
    let shuffle = Shuffle { registers: registers.collect(), digits: found };
    let farthest = shuffle.registers.iter().map(|source| source.lane).max().unwrap_or(0)
        + shuffle.digits.iter().map(|digit| (digit.extent - 1) * digit.step.lane).sum::<u32>();
    (farthest < WARP).then_some(shuffle)
}
