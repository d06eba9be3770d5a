//! ldmatrix and stmatrix: which lane gives the address of which 16-byte row.

use crate::{Conflicts, Mode, RegisterLayout, SharedLayout, wavefronts};

/// Bytes of a row of one 8 x 8 matrix of 16-bit elements.
const ROW: u32 = 16;

/// How ldmatrix loads, or stmatrix stores, a tile between registers and shared memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixAccess {
    /// Whether it takes `.trans`.
    pub trans: bool,
    /// Matrices an instruction: 1, 2 or 4.
    pub count: u32,
    /// Axis along which a row lies.
    pub axis: usize,
    /// Elements of a row.
    pub elements: u32,
    /// Who gives which row: the tile in units of rows along `axis`, whose *registers* are the instructions in the order of the fragment's
    /// registers, and whose threads are those that give addresses. Lanes past the eight of each matrix repeat.
    pub rows: RegisterLayout,
}

impl MatrixAccess {
    /// The first element of the row whose address a thread gives to an instruction.
    pub fn row(&self, instruction: u32, thread: u32) -> Vec<u32> {
        let mut at = self.rows.coordinate(instruction, thread);
        at[self.axis] *= self.elements;
        at
    }

    /// Passes over the banks of all instructions of the tile.
    pub fn bank_conflicts(&self, shared: &SharedLayout) -> Conflicts {
        let mut total = Conflicts::default();
        for instruction in 0..self.rows.registers() {
            for warp in 0..self.rows.threads() / 32 {
                let addresses: Vec<u32> =
                    (0..8 * self.count).map(|lane| shared.offset(&self.row(instruction, 32 * warp + lane))).collect();
                total += wavefronts(&addresses, ROW);
            }
        }
        total
    }
}

impl SharedLayout {
    /// How ldmatrix (or stmatrix) with `count` matrices an instruction serves a register layout; `None` where it does not: the layout is
    /// not made of its fragments, rows of 16 bytes do not lie together, or elements that are not 16 bits would be transposed.
    pub fn matrix_access(&self, registers: &RegisterLayout, count: u32) -> Option<MatrixAccess> {
        let bytes = self.element_bytes();
        let axis = self.fastest()?;
        if registers.shape() != self.shape()
            || registers.rank() != 2
            || !matches!(bytes, 1 | 2 | 4)
            || !matches!(count, 1 | 2 | 4)
        {
            return None;
        }
        let elements = ROW / bytes;
        if !self.contiguous(axis).is_multiple_of(elements) {
            return None;
        }
        let across = 1 - axis;
        // The axis along which a thread's word lies: that of the rows, or the other with .trans.
        let fragment = |axis: usize| {
            let word = 4 / bytes;
            let mut shape = [8; 2];
            shape[axis] = 4 * word;
            let lanes = [Mode::along(axis, 4, word), Mode::along(1 - axis, 8, 1)];
            RegisterLayout::new(&shape, &[Mode::along(axis, word, 1)], &lanes).ok()
        };
        let plain = registers.divide(&fragment(axis)?).map(|grid| (grid, false));
        let (grid, trans) = plain.or_else(|| {
            let turned = (bytes == 2).then(|| fragment(across)).flatten()?;
            Some((registers.divide(&turned)?, true))
        })?;
        // The lowest digits of the grid's registers number the matrices of an instruction: eight lanes each give its rows.
        let in_rows =
            |mode: &Mode| Mode { stride: if mode.axis == across { 8 * mode.stride } else { mode.stride }, ..*mode };
        let mut lanes = vec![Mode::along(across, 8, 1)];
        let mut instructions = Vec::new();
        let mut left = count;
        for mode in grid.register_modes().iter().map(in_rows) {
            let taken = if left == 1 { 1 } else { left.min(mode.extent) };
            if !left.is_multiple_of(taken) || mode.extent % taken != 0 {
                return None;
            }
            left /= taken;
            lanes.push(Mode { extent: taken, ..mode });
            instructions.push(Mode { extent: mode.extent / taken, stride: mode.stride * taken, ..mode });
        }
        if left != 1 {
            return None;
        }
        lanes.push(Mode::copies(4 / count));
        lanes.extend(grid.thread_modes().iter().map(in_rows));
        let mut shape = registers.shape().to_vec();
        shape[axis] /= elements;
        let rows = RegisterLayout::new(&shape, &instructions, &lanes).ok()?;
        Some(MatrixAccess { trans, count, axis, elements, rows })
    }
}
