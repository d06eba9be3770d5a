//! Epilogues of products: a nest that only goes on with a product's result runs on each task's block while the block is in cache.

use super::{Home, Mode, Nest, SlotSpec};
use crate::program::{Kind, Program, Rect, Registers, allocate};
use crate::stage::{MatMul, Stage};

/// Elements that a tile of an epilogue aims for.
const TILE: usize = 1024;

/// What follows a product, over its batch, rows and columns.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) program: Program,
    pub(crate) registers: Registers,
    /// Extents of the dims that make up the batch; then come a dim of rows and one of columns.
    pub(crate) batch: Vec<usize>,
    /// The access that reads the product.
    pub(crate) product: usize,
    /// Largest tile.
    pub(crate) tile: Rect,
}

/// Moves epilogues into the products before them.
pub(super) fn attach(slots: &mut [SlotSpec], stages: Vec<Stage>) -> Vec<Stage> {
    let mut readers = vec![0; slots.len()];
    for stage in &stages {
        stage.each_slot(&mut |slot| readers[slot] += 1);
    }
    let mut attached: Vec<Stage> = Vec::with_capacity(stages.len());
    for stage in stages {
        // The product itself and one access of the nest.
        if let (Some(Stage::MatMul(product)), Stage::Nest(nest)) = (attached.last_mut(), &stage)
            && readers[product.out.slot] == 2
            && matches!(slots[product.out.slot].home, Home::Scratch(_))
            && let Some(tail) = tail(product, nest)
        {
            slots[product.out.slot].len = 0;
            product.tail = Some(tail);
            continue;
        }
        attached.push(stage);
    }
    attached
}

fn tail(product: &MatMul, nest: &Nest) -> Option<Tail> {
    let (m, n) = (product.m, product.n);
    let mut dense = (m * n) as isize;
    for &(extent, strides) in product.batch.iter().rev() {
        if extent > 1 && strides[2] != dense {
            return None;
        }
        dense *= extent as isize;
    }
    let out = &product.out;
    let threads = nest.threads == product.threads;
    if !product.is_float() || nest.mode != Mode::Straight || nest.has_rows() || !threads {
        return None;
    }
    if out.offset != 0 || n > 1 && out.col != 1 || m > 1 && out.row != n as isize || nest.work as isize != dense {
        return None;
    }
    let mut program = nest.program.clone();
    let mut dims = nest.dims.clone();
    let col = cut(&mut program, &mut dims, 0, n)?;
    let row = cut(&mut program, &mut dims, col, m)?;
    // One dim of rows and one of columns, whatever their extent.
    if row - col > 1 || col > 1 {
        return None;
    }
    let batch = dims.len() - row;
    for (missing, at) in [(row == col, batch), (col == 0, batch + 1)] {
        if missing {
            dims.insert(at, 1);
            for strides in strides(&mut program) {
                strides.insert(at, 0);
            }
        }
    }
    let at = program.accesses.iter().position(|a| a.slot == out.slot)?;
    let access = &mut program.accesses[at];
    let mut step = 1;
    let walks = |(&stride, &extent): (&isize, &usize)| {
        let follows = extent == 1 || stride == step;
        step *= extent as isize;
        follows
    };
    if access.offset != 0 || !access.strides.iter().zip(&dims).rev().all(walks) {
        return None;
    }
    // The block of a task, with its own rows.
    let (tm, tn) = product.task();
    access.strides.fill(0);
    access.strides[batch..].copy_from_slice(&[tn as isize, 1]);
    let cols = tn.min(TILE);
    let rows = (TILE / cols.max(1)).clamp(1, tm.max(1));
    let tile = Rect { row_dim: Some(batch), rows, col_dim: Some(batch + 1), cols, ..Rect::default() };
    let registers = allocate(&program, tile.len(), tile.len(), true);
    dims.truncate(batch);
    Some(Tail { program, registers, batch: dims, product: at, tile })
}

/// Cuts the dims so that those after the last `skip` have a product of `extent` at their end; how many dims that makes from the end.
fn cut(program: &mut Program, dims: &mut Vec<usize>, skip: usize, extent: usize) -> Option<usize> {
    let (mut count, mut left) = (skip, extent);
    while left > 1 {
        let d = dims.len().checked_sub(count + 1)?;
        if left < dims[d] {
            if !dims[d].is_multiple_of(left) {
                return None;
            }
            for strides in strides(program) {
                strides.insert(d, strides[d] * left as isize);
            }
            dims.splice(d..=d, [dims[d] / left, left]);
            return Some(count + 1);
        }
        if !left.is_multiple_of(dims[d]) {
            return None;
        }
        left /= dims[d];
        count += 1;
    }
    Some(count)
}

/// Every list of strides in a program.
fn strides(program: &mut Program) -> impl Iterator<Item = &mut Vec<isize>> {
    let iotas = program.instrs.iter_mut().filter_map(|i| match &mut i.kind {
        Kind::Iota(_, strides) => Some(strides),
        _ => None,
    });
    program.accesses.iter_mut().map(|a| &mut a.strides).chain(iotas)
}
