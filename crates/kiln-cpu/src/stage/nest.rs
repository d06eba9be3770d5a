//! Runs a loop nest.

use super::Context;
use super::parallel::{share, threads_for};
use crate::lower::{Mode, Nest};
use crate::memory::Slot;
use crate::program::{Coords, Machine, Rect, Tile, quick};
use smallvec::smallvec;

impl Nest {
    pub(crate) fn scratch_bytes(&self) -> usize {
        if self.quick { self.thread_bytes() } else { self.thread_bytes() * self.threads }
    }

    pub(crate) fn name(&self) -> &'static str {
        match (self.mode, self.phases.is_empty() && self.row.len() == self.full.len()) {
            (Mode::Straight, true) => "map",
            (Mode::Straight, false) => "rows",
            (Mode::Chunked, _) => "long rows",
            (Mode::Columns, _) => "columns",
        }
    }

    pub(crate) fn run(&self, cx: Context<'_>) {
        if self.quick {
            return quick::run(&self.program, &self.dims, cx.slots, cx.scratch);
        }
        let units = self.counts.iter().product();
        let parts = threads_for(self.work * self.program.instrs.len() / 4, self.threads);
        let slots = cx.slots;
        share(cx.pool, parts, units, cx.scratch, self.thread_bytes(), |scratch, next| {
            self.work_off(slots, scratch, next);
        });
    }

    fn work_off(
        &self,
        slots: &[Slot<'_>],
        scratch: &mut [u8],
        next: &mut dyn FnMut() -> Option<std::ops::Range<usize>>,
    ) {
        let mut machine: Option<Machine<'_>> = None;
        let mut scratch = Some(scratch);
        let mut tile = Tile { coords: smallvec![0; self.dims.len()], full: self.full, row: self.row };
        while let Some(range) = next() {
            let machine = machine.get_or_insert_with(|| {
                let mut m = Machine::new(&self.program, &self.registers, slots, scratch.take().unwrap_or_default());
                m.prepare();
                m
            });
            for unit in range {
                let mut rest = unit;
                for (&(dim, block), &count) in self.blocks.iter().zip(&self.counts).rev() {
                    tile.coords[dim] = rest % count * block;
                    rest /= count;
                }
                match self.mode {
                    Mode::Straight => {
                        self.clip(&mut tile);
                        machine.run(&tile);
                    }
                    Mode::Chunked | Mode::Columns => self.passes(machine, &mut tile),
                }
            }
        }
    }

    /// Cuts a tile at the ends of its dims.
    fn clip(&self, tile: &mut Tile) {
        let cut = |rect: Rect, coords: &[usize]| {
            let left = |dim: Option<usize>, extent: usize| dim.map_or(extent, |d| extent.min(self.dims[d] - coords[d]));
            let cols = left(rect.col_dim, rect.cols / rect.inner) * rect.inner;
            Rect { rows: left(rect.row_dim, rect.rows), cols, ..rect }
        };
        tile.full = cut(self.full, &tile.coords);
        tile.row = cut(self.row, &tile.coords);
    }

    /// Runs the passes of one block of rows.
    fn passes(&self, machine: &mut Machine<'_>, tile: &mut Tile) {
        let counts: Coords = self.inner.iter().map(|&(d, b)| self.dims[d].div_ceil(b.max(1))).collect();
        let steps: usize = counts.iter().product();
        for phase in &self.phases {
            for &(dim, _) in &self.inner {
                tile.coords[dim] = 0;
            }
            self.clip(tile);
            let rows = tile.row.len();
            for &id in &phase.rows {
                machine.step(id, tile);
            }
            for &id in &phase.reductions {
                machine.reduce_begin(id, rows);
            }
            if !phase.body.is_empty() || !phase.reductions.is_empty() {
                for step in 0..steps {
                    let mut rest = step;
                    for (&(dim, block), &count) in self.inner.iter().zip(&counts).rev() {
                        tile.coords[dim] = rest % count * block;
                        rest /= count;
                    }
                    self.clip(tile);
                    let position = self.inner.iter().fold(0, |at, &(dim, _)| at * self.dims[dim] + tile.coords[dim]);
                    for &id in &phase.body {
                        if !self.program.instrs[id].kind.is_reduction() {
                            machine.step(id, tile);
                        }
                    }
                    for &id in &phase.reductions {
                        machine.reduce_tile(id, tile, position);
                    }
                }
            }
            for &id in &phase.reductions {
                machine.reduce_end(id, rows);
            }
        }
    }
}
