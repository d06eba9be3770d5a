//! Schedules a program over its loop dims: which dims a tile spans, in what order the rest run, and what a thread needs.

use crate::program::{Id, Kind, Level, Program, Rect, Registers, allocate, quick};

/// Elements a tile aims for: a handful of registers of this many f32 stay in the L1 cache.
const TILE: usize = 1024;
/// Longest row that is reduced within one tile.
const LONGEST_ROW: usize = 8192;
/// Columns shorter than this are taken together with the dim before them.
const SHORT: usize = 16;
/// Side of a tile that transposes.
const TRANSPOSE: usize = 32;

/// How reductions meet the tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// No reductions, or whole rows in a tile: the program runs straight through each tile.
    Straight,
    /// A long row takes several tiles: one pass over the row for each phase.
    Chunked,
    /// Tiles span kept dims and step through the reduced ones: reductions across memory rows.
    Columns,
}

/// One pass over the reduced dims.
#[derive(Clone, Debug, Default)]
pub(crate) struct Phase {
    /// Row-level instructions that run first.
    pub(crate) rows: Vec<Id>,
    /// Full-level instructions that run on every tile of the pass.
    pub(crate) body: Vec<Id>,
    /// Reductions that accumulate over the pass.
    pub(crate) reductions: Vec<Id>,
}

/// A program with its schedule.
#[derive(Debug)]
pub(crate) struct Nest {
    pub(crate) program: Program,
    pub(crate) registers: Registers,
    pub(crate) dims: Vec<usize>,
    pub(crate) mode: Mode,
    /// Dims that threads share out, with the extent of a block of each.
    pub(crate) blocks: Vec<(usize, usize)>,
    /// How many blocks each of those has.
    pub(crate) counts: Vec<usize>,
    /// Dims that run inside, in order, with the extent of a block of each.
    pub(crate) inner: Vec<(usize, usize)>,
    pub(crate) full: Rect,
    pub(crate) row: Rect,
    pub(crate) phases: Vec<Phase>,
    pub(crate) threads: usize,
    /// Elements of the whole domain, a measure of the work.
    pub(crate) work: usize,
    /// Whether it is small and simple enough to run without registers' tiles.
    pub(crate) quick: bool,
}

impl Nest {
    /// Schedules `program` over `dims`, of which the first `kept` index rows.
    pub(crate) fn new(mut program: Program, dims: Vec<usize>, kept: usize, threads: usize) -> Nest {
        let (dims, kept) = collapse(&mut program, dims, kept);
        let work = dims.iter().product();
        let reduces = program.instrs.iter().any(|i| i.kind.is_reduction());
        let mut nest = Nest {
            program,
            registers: Registers::default(),
            dims,
            mode: Mode::Straight,
            blocks: Vec::new(),
            counts: Vec::new(),
            inner: Vec::new(),
            full: Rect::default(),
            row: Rect::default(),
            phases: Vec::new(),
            threads,
            work,
            quick: false,
        };
        if reduces {
            nest.schedule_rows(kept);
        } else {
            nest.full = nest.map_tile(nest.dims.len());
            nest.row = nest.full;
            nest.block_dims(0..nest.dims.len(), nest.full);
        }
        let reuse = nest.mode == Mode::Straight;
        nest.registers = allocate(&nest.program, nest.full.len(), nest.row.len(), reuse);
        if nest.mode != Mode::Straight {
            nest.phases = phases(&nest.program);
        }
        nest.quick = quick::suits(&nest.program, &nest.dims);
        if nest.stores_nibbles() {
            nest.threads = 1;
        }
        nest
    }

    /// Scratch bytes of one thread.
    pub(crate) fn thread_bytes(&self) -> usize {
        if self.quick { quick::bytes(&self.program) } else { self.registers.bytes }
    }

    /// Whether any instruction works on rows rather than elements.
    pub(crate) fn has_rows(&self) -> bool {
        self.program.instrs.iter().any(|i| i.level == Level::Row || i.kind.is_reduction())
    }

    fn stores_nibbles(&self) -> bool {
        let of = |k: &Kind| if let Kind::Store(_, a) = k { Some(self.program.accesses[*a].dtype.bits()) } else { None };
        self.program.instrs.iter().any(|i| of(&i.kind) == Some(4))
    }

    fn strides(&self, level: Level) -> impl Iterator<Item = &[isize]> {
        self.program.instrs.iter().filter(move |i| i.level == level).filter_map(|i| match i.kind {
            Kind::Load(a) | Kind::Store(_, a) => Some(self.program.accesses[a].strides.as_slice()),
            _ => None,
        })
    }

    /// A tile over the dims below `end`: the last one, and the one that makes the best of it.
    fn map_tile(&self, end: usize) -> Rect {
        let Some(col) = end.checked_sub(1) else {
            return Rect::default();
        };
        let width = self.dims[col];
        // A view whose memory runs along another dim is read in square patches.
        let along = self
            .strides(Level::Full)
            .filter(|_| width >= SHORT)
            .filter(|s| s[col].unsigned_abs() > 1)
            .find_map(|s| (0..col).rev().find(|&d| s[d] == 1));
        if let Some(row) = along {
            let cols = even(width, TRANSPOSE);
            let rows = even(self.dims[row], (TILE / cols.max(1)).max(1));
            return Rect { row_dim: Some(row), rows, col_dim: Some(col), cols, ..Rect::default() };
        }
        // Columns of a few elements would make a tile of many rows: they are groups within longer ones.
        let (inner_dim, inner, col) =
            if width < SHORT && col > 0 { (Some(col), width, col - 1) } else { (None, 1, col) };
        let cols = even(self.dims[col], TILE / inner.max(1)) * inner;
        let mut row = col.checked_sub(1);
        if let Some(r) = row
            && self.dims[r] * cols < TILE / 4
        {
            row = (0..col).max_by_key(|&d| (self.dims[d], d));
        }
        let rows = row.map_or(1, |r| even(self.dims[r], (TILE / cols.max(1)).max(1)));
        Rect { row_dim: row, rows, col_dim: Some(col), cols, inner_dim, inner: inner.max(1) }
    }

    fn block_dims(&mut self, dims: std::ops::Range<usize>, rect: Rect) {
        self.blocks = dims.map(|d| (d, block(rect, d))).collect();
        self.counts = self.blocks.iter().map(|&(d, b)| self.dims[d].div_ceil(b.max(1))).collect();
    }

    fn schedule_rows(&mut self, kept: usize) {
        let n = self.dims.len();
        let reduced: usize = self.dims[kept..].iter().product();
        if self.prefers_columns(kept) {
            self.mode = Mode::Columns;
            self.full = self.map_tile(kept);
            self.row = self.full;
            self.block_dims(0..kept, self.full);
            self.inner = (kept..n).map(|d| (d, 1)).collect();
            return;
        }
        let one_tile = n - kept <= 2 && reduced <= LONGEST_ROW;
        if one_tile && n - kept <= 1 {
            // Several short rows share a tile.
            let rows_dim = kept.checked_sub(1);
            let rows = rows_dim.map_or(1, |d| even(self.dims[d], (TILE / reduced.max(1)).max(1)));
            let col_dim = (n > kept).then_some(kept);
            self.full = Rect { row_dim: rows_dim, rows, col_dim, cols: reduced, ..Rect::default() };
            self.row = Rect { col_dim: rows_dim, cols: rows, ..Rect::default() };
            self.block_dims(0..kept, Rect { row_dim: rows_dim, rows, ..Rect::default() });
            return;
        }
        self.block_dims(0..kept, self.row);
        let (row_dim, col) = (n.checked_sub(2).filter(|&d| d >= kept), n - 1);
        if one_tile {
            let rows = row_dim.map_or(1, |d| self.dims[d]);
            self.full = Rect { row_dim, rows, col_dim: Some(col), cols: self.dims[col], ..Rect::default() };
            return;
        }
        self.mode = Mode::Chunked;
        // Tiles that do not fill their columns must not span rows, so that elements stay in order for arg reductions.
        let cols = even(self.dims[col], 4 * TILE);
        let rows = match row_dim {
            Some(d) if cols == self.dims[col] => even(self.dims[d], (4 * TILE / cols.max(1)).max(1)),
            _ => 1,
        };
        self.full = Rect { row_dim, rows, col_dim: Some(col), cols, ..Rect::default() };
        self.inner = (kept..n).map(|d| (d, block(self.full, d))).collect();
    }

    /// Whether memory runs along the rows' dims rather than along the reduced ones.
    fn prefers_columns(&self, kept: usize) -> bool {
        let n = self.dims.len();
        if kept == 0 || kept == n || self.dims[kept..].contains(&0) {
            return false;
        }
        let (mut columns, mut rows) = (0, 0);
        for instr in self.program.instrs.iter().filter(|i| i.level == Level::Full) {
            if let Kind::Load(a) = instr.kind {
                let s = &self.program.accesses[a].strides;
                if s[kept - 1] == 1 && s[n - 1] != 1 {
                    columns += 1;
                } else if s[n - 1] == 1 {
                    rows += 1;
                }
            }
        }
        columns > rows && self.dims[kept - 1] >= 8
    }
}

/// The extent of a block of `dim` for a tile.
fn block(rect: Rect, dim: usize) -> usize {
    if rect.col_dim == Some(dim) {
        rect.cols / rect.inner
    } else if rect.inner_dim == Some(dim) {
        rect.inner
    } else if rect.row_dim == Some(dim) {
        rect.rows
    } else {
        1
    }
}

/// The largest block of at most `limit` that cuts `extent` into parts of nearly equal size.
fn even(extent: usize, limit: usize) -> usize {
    if extent <= limit {
        return extent;
    }
    let parts = extent.div_ceil(limit);
    // A multiple of a vector keeps rows aligned.
    extent.div_ceil(parts).next_multiple_of(16).min(limit)
}

/// Removes dims of extent 1 and merges neighbours that every view walks as one.
fn collapse(program: &mut Program, dims: Vec<usize>, kept: usize) -> (Vec<usize>, usize) {
    let mut extents: Vec<usize> = Vec::new();
    // For each new dim, the old dim whose strides it takes.
    let mut from: Vec<usize> = Vec::new();
    let mut new_kept = 0;
    let merges = |outer: usize, inner: usize, extent: usize| {
        let follows = |s: &[isize]| s[outer] == s[inner] * extent as isize;
        program.accesses.iter().all(|a| follows(&a.strides))
            && program.instrs.iter().all(|i| if let Kind::Iota(_, s) = &i.kind { follows(s) } else { true })
    };
    for (d, &extent) in dims.iter().enumerate() {
        if d == kept {
            new_kept = extents.len();
        }
        if extent == 1 {
            continue;
        }
        let same_group = extents.len() > if d >= kept { new_kept } else { 0 };
        match from.last().copied() {
            Some(last) if same_group && merges(last, d, extent) => {
                let top = extents.len() - 1;
                extents[top] *= extent;
                from[top] = d;
            }
            _ => {
                extents.push(extent);
                from.push(d);
            }
        }
    }
    if kept >= dims.len() {
        new_kept = extents.len();
    }
    for access in &mut program.accesses {
        access.strides = from.iter().map(|&d| access.strides[d]).collect();
    }
    for instr in &mut program.instrs {
        if let Kind::Iota(_, s) = &mut instr.kind {
            *s = from.iter().map(|&d| s[d]).collect();
        }
    }
    (extents, new_kept)
}

/// Splits a program into passes: a reduction's result is available to the passes after its own.
fn phases(program: &Program) -> Vec<Phase> {
    let n = program.instrs.len();
    let mut phase_of = vec![0; n];
    for (i, instr) in program.instrs.iter().enumerate() {
        for a in instr.kind.operands() {
            let after = usize::from(program.instrs[a].kind.is_reduction());
            phase_of[i] = phase_of[i].max(phase_of[a] + after);
        }
    }
    let count = phase_of.iter().zip(&program.instrs).map(|(p, i)| p + usize::from(i.kind.is_reduction())).max();
    let mut phases = vec![Phase::default(); count.unwrap_or(0) + 1];
    for (i, instr) in program.instrs.iter().enumerate() {
        if instr.kind.is_reduction() {
            phases[phase_of[i]].reductions.push(i);
        } else if instr.level == Level::Row {
            phases[phase_of[i]].rows.push(i);
        }
    }
    for (p, phase) in phases.iter_mut().enumerate() {
        // What this pass's reductions and stores need of the full level, whichever pass it could first run in.
        let mut needed = vec![false; n];
        for (i, instr) in program.instrs.iter().enumerate() {
            let sink = instr.kind.is_reduction() || matches!(instr.kind, Kind::Store(..)) && instr.level == Level::Full;
            needed[i] = sink && phase_of[i] == p;
        }
        for i in (0..n).rev() {
            if needed[i] {
                for a in program.instrs[i].kind.operands() {
                    needed[a] |= program.instrs[a].level == Level::Full;
                }
            }
        }
        phase.body = (0..n).filter(|&i| needed[i] && program.instrs[i].level == Level::Full).collect();
    }
    phases
}
