//! Chooses how loops and fragments are spread over threads, and how many neighbouring elements a thread handles at a time.

mod slice;
pub mod tiled;
pub mod vectorize;

use crate::error::{Result, TileError};
use crate::expr::{Expr, ExprKind, Var};
use crate::pass::facts::Facts;
use crate::program::{Axis, Buffer, Program, Scope, Stmt, Worker};
use kiln_target::arch::Arch;
use slice::RowUses;
use std::collections::{HashMap, HashSet};
use tiled::{SharedLayout, Tiled, TiledSlice};
use vectorize::{accesses, copy_width, in_lanes, is_vectorizable, widest};

/// Where the elements of a fragment are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FragmentLayout {
    /// A whole copy in every thread ([`Worker::Thread`]).
    ThreadLocal,
    /// Runs of neighbours dealt to the threads in turn, as every loop over the same extents deals its points.
    Blocked,
    /// As a matrix product needs it.
    Tiled(Tiled),
    /// One element for each row of an accumulator, in every thread that has a part of the row.
    Slice(TiledSlice),
}

/// How the copies of a pipelined loop travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipeline {
    /// `cp.async` from global to shared memory, this many tiles in flight.
    Async {
        /// Copies of each tile.
        stages: u32,
    },
    /// Through registers, loaded one iteration ahead into the other of two tiles.
    Staged,
}

/// What the layout pass decided.
#[derive(Clone, Debug, Default)]
pub struct Layouts {
    /// Elements a thread handles at a time, by the first loop variable of each loop spread over threads.
    widths: HashMap<u32, u32>,
    /// Loops over tiled fragments whose lanes cannot share wide accesses.
    scalar_lanes: HashSet<u32>,
    fragments: HashMap<u32, FragmentLayout>,
    shared: HashMap<u32, SharedLayout>,
    /// By loop variable.
    pipelines: HashMap<u32, Pipeline>,
}

impl Layouts {
    /// Elements that a thread handles at a time in the loop over `axes`.
    pub fn width(&self, axes: &[Axis]) -> u32 {
        axes.first().and_then(|axis| self.widths.get(&axis.var.id)).copied().unwrap_or(1)
    }

    /// Whether the lanes of the loop over `axes` can be handled between wide accesses.
    pub fn vectorized(&self, axes: &[Axis]) -> bool {
        self.width(axes) > 1 && axes.first().is_some_and(|axis| !self.scalar_lanes.contains(&axis.var.id))
    }

    /// Makes `buffer` a blocked fragment whose loop over `axes` is `width` wide.
    pub fn add_blocked(&mut self, buffer: &Buffer) {
        self.fragments.insert(buffer.id, FragmentLayout::Blocked);
    }

    /// Layout of a shared tile; `None` is row-major.
    pub fn shared(&self, buffer: &Buffer) -> Option<SharedLayout> {
        self.shared.get(&buffer.id).copied()
    }

    /// How the copies of the pipelined loop over `var` travel.
    pub fn pipeline(&self, var: &Var) -> Pipeline {
        self.pipelines.get(&var.id).copied().unwrap_or(Pipeline::Staged)
    }

    /// Copies of each tile that the pipelined loop over `var` fills.
    pub fn slots(&self, var: &Var) -> u32 {
        match self.pipeline(var) {
            Pipeline::Async { stages } => stages,
            Pipeline::Staged => 2,
        }
    }

    /// Position of an element, before any swizzle.
    pub fn offset(&self, buffer: &Buffer, index: &[Expr]) -> Expr {
        match (self.shared(buffer), index) {
            (Some(SharedLayout::Padded { stride }), [row, col]) => row * i64::from(stride) + col,
            _ => buffer.offset(index),
        }
    }

    /// Layout of a fragment.
    pub fn fragment(&self, buffer: &Buffer) -> FragmentLayout {
        self.fragments.get(&buffer.id).copied().unwrap_or(FragmentLayout::ThreadLocal)
    }
}

/// Runs the pass.
pub fn layout(program: &Program, arch: Arch) -> Result<Layouts> {
    let mut pass = Pass { program, arch, layouts: Layouts::default(), loops: vec![] };
    let mut facts = Facts::of_params(program);
    let axes = &program.domain.axes;
    if program.domain.worker == Worker::Thread {
        let width = widest(&pass.layouts, &facts, axes, &program.body, &[], program.max_vector);
        if let Some(axis) = axes.first() {
            pass.layouts.widths.insert(axis.var.id, width);
        }
        return Ok(pass.layouts);
    }
    for axis in axes {
        facts.set_axis(&axis.var, &axis.extent);
    }
    let rows = RowUses::of(&program.body);
    pass.products(&program.body, &rows)?;
    pass.rows(&rows)?;
    pass.body(&mut facts, &program.body)?;
    pass.agree();
    Ok(pass.layouts)
}

struct Pass<'a> {
    program: &'a Program,
    arch: Arch,
    layouts: Layouts,
    /// Each cooperative loop with the fragments it touches.
    loops: Vec<(u32, HashSet<u32>)>,
}

impl Pass<'_> {
    /// Lays out accumulators and the tiles they are made from.
    fn products(&mut self, body: &[Stmt], rows: &RowUses) -> Result<()> {
        for stmt in body {
            if let Stmt::Gemm { acc, a, b, transpose_a, transpose_b } = stmt {
                let whole = rows.whole.contains(&acc.id);
                let (left, right) = ((a, *transpose_a), (b, *transpose_b));
                let (tiled, of_a, of_b) = tiled::gemm(self.program, self.arch, (acc, whole), left, right)?;
                let mut agreed = self.put(acc, FragmentLayout::Tiled(tiled))
                    & self.layouts.shared.insert(b.id, of_b).is_none_or(|old| old == of_b);
                agreed &= match (a.scope, tiled) {
                    // Its n8 blocks are halves of k16 blocks.
                    (Scope::Fragment, Tiled::Mma { mi, .. }) => {
                        let depth = a.shape[1].as_const().unwrap_or(0) as u32;
                        self.put(a, FragmentLayout::Tiled(Tiled::Mma { warps_n: 1, mi, ni: depth / 8 }))
                    }
                    _ => self.layouts.shared.insert(a.id, of_a).is_none_or(|old| old == of_a),
                };
                if !agreed {
                    return Err(self.conflict(acc, "two products need different layouts of one tile"));
                }
            }
            for body in stmt.bodies() {
                self.products(body, rows)?;
            }
        }
        Ok(())
    }

    /// Lays out a fragment; whether it had no other layout.
    fn put(&mut self, buffer: &Buffer, layout: FragmentLayout) -> bool {
        self.layouts.fragments.insert(buffer.id, layout).is_none_or(|old| old == layout)
    }

    /// Lays out fragments that have an element a row.
    fn rows(&mut self, uses: &RowUses) -> Result<()> {
        for buffer in &uses.rows {
            let mut layouts = uses.whole.iter().map(|acc| match self.layouts.fragments.get(acc) {
                Some(FragmentLayout::Tiled(tiled)) => tiled.rows(),
                _ => None,
            });
            let first = layouts.next().flatten();
            let (Some(rows), true) = (first, layouts.all(|other| other == first)) else {
                return Err(self.conflict(buffer, "the accumulators that share its rows are not laid out alike"));
            };
            if buffer.const_len() != Some((rows.mi * rows.halves * self.program.threads / rows.lanes).into()) {
                return Err(self.conflict(buffer, "it has not an element for each row of the accumulators"));
            }
            self.layouts.fragments.insert(buffer.id, FragmentLayout::Slice(rows));
        }
        Ok(())
    }

    fn conflict(&self, buffer: &Buffer, what: &str) -> TileError {
        self.invalid(&buffer.name, what, "give each use a tile of its own")
    }

    fn invalid(&self, place: &str, what: &str, help: &str) -> TileError {
        let [what, place, help] = [what, place, help].map(str::to_owned);
        TileError::Invalid { kernel: self.program.name.clone(), what, place, help }
    }

    /// `cp.async` if the architecture has it and every copy is a plain one of 4, 8 or 16 bytes.
    fn pipeline(&mut self, facts: &Facts, stages: u32, body: &[Stmt]) -> Pipeline {
        let mut plain = self.arch.has_cp_async();
        for stmt in body {
            if let Stmt::Copy { axes, .. } = stmt {
                let width = copy_width(&self.layouts, facts, stmt);
                if let Some(axis) = axes.first() {
                    self.layouts.widths.insert(axis.var.id, width);
                }
                plain &= self.is_plain_copy(facts, stmt, width);
            }
        }
        if plain { Pipeline::Async { stages } } else { Pipeline::Staged }
    }

    fn is_plain_copy(&self, facts: &Facts, copy: &Stmt, width: u32) -> bool {
        let Stmt::Copy { dst, axes, body, value, fill, .. } = copy else { return false };
        let ExprKind::Load(from, _) = value.kind() else { return false };
        let zero = matches!(fill.kind(), ExprKind::Const(x) if x.as_f64() == 0.0);
        let mut facts = facts.clone();
        for (i, axis) in axes.iter().enumerate() {
            if i + 1 == axes.len() {
                facts.set_lane_axis(&axis.var, &axis.extent, width);
            } else {
                facts.set_axis(&axis.var, &axis.extent);
            }
        }
        let places_only =
            body.iter().all(|s| s.exprs().iter().all(|e| !e.any(&mut |e| matches!(e.kind(), ExprKind::Load(..)))));
        let index: Vec<Expr> = axes.iter().map(|axis| Expr::var(&axis.var)).collect();
        let whole = width == 1 || is_vectorizable(&self.layouts, &facts, dst, &index, width);
        from.scope == Scope::Global && zero && places_only && whole && width * dst.dtype.bits() >= 32
    }

    fn body(&mut self, facts: &mut Facts, body: &[Stmt]) -> Result<()> {
        for stmt in body {
            match stmt {
                Stmt::Bind { var, value } => facts.bind(var, value, 1),
                Stmt::Parallel { axes, body } => self.distribute(facts, axes, body, &[])?,
                Stmt::Reduce { axes, body, results } => {
                    let values: Vec<Expr> = results.iter().map(|result| result.value.clone()).collect();
                    self.distribute(facts, axes, body, &values)?;
                }
                Stmt::ReduceRows { axes, body, value, into, .. } => {
                    self.distribute(facts, axes, body, std::slice::from_ref(value))?;
                    let tiled = |b: &Buffer| matches!(self.layouts.fragment(b), FragmentLayout::Tiled(_));
                    if !accesses(body, std::slice::from_ref(value)).0.iter().any(|(buffer, _)| tiled(buffer)) {
                        return Err(self.conflict(into, "the values combined are those of no accumulator"));
                    }
                }
                Stmt::For { var, end, .. } => facts.set_axis(var, end),
                Stmt::Pipelined { var, extent, stages, body } => {
                    facts.set_axis(var, extent);
                    let pipeline = self.pipeline(facts, *stages, body);
                    self.layouts.pipelines.insert(var.id, pipeline);
                }
                Stmt::Copy { axes, .. } => {
                    let width = copy_width(&self.layouts, facts, stmt);
                    if let Some(axis) = axes.first() {
                        self.layouts.widths.insert(axis.var.id, width);
                    }
                }
                _ => {}
            }
            if !matches!(
                stmt,
                Stmt::Parallel { .. } | Stmt::Reduce { .. } | Stmt::ReduceRows { .. } | Stmt::Copy { .. }
            ) {
                for body in stmt.bodies() {
                    self.body(facts, body)?;
                }
            }
        }
        Ok(())
    }

    fn distribute(&mut self, facts: &Facts, axes: &[Axis], body: &[Stmt], values: &[Expr]) -> Result<()> {
        let mut fragments = HashSet::new();
        let mut buffers = vec![];
        let mut by_row = None;
        let (loaded, stored) = accesses(body, values);
        let elsewhere = stored.iter().any(|(buffer, _)| buffer.scope != Scope::Fragment);
        let stores = std::iter::repeat_n(false, loaded.len()).chain(std::iter::repeat(true));
        for ((buffer, index), store) in loaded.into_iter().chain(stored).zip(stores) {
            if buffer.scope != Scope::Fragment {
                continue;
            }
            let of_rows =
                !store && index.len() == 1 && matches!(self.layouts.fragment(&buffer), FragmentLayout::Slice(_));
            let own = (index.len() == axes.len() || of_rows)
                && index.iter().zip(axes).all(|(i, axis)| matches!(i.kind(), ExprKind::Var(v) if *v == axis.var))
                && axes.iter().zip(&buffer.shape).all(|(axis, extent)| {
                    axis.extent.as_const().is_some() && axis.extent.as_const() == extent.as_const()
                });
            if !own {
                let what = "a fragment is indexed by something else than the loop's own variables";
                let help = "loop over exactly its extents and index it with exactly the loop's variables";
                return Err(self.invalid(&buffer.name, what, help));
            }
            // An element a row follows the accumulator that has the row.
            if index.len() < axes.len() {
                by_row = Some(buffer);
            } else {
                fragments.insert(buffer.id);
                buffers.push(buffer);
            }
        }
        // One fragment of a product makes all fragments of the loop follow its layout.
        let followed = |layout: &FragmentLayout| matches!(layout, FragmentLayout::Tiled(_) | FragmentLayout::Slice(_));
        let layout = buffers.iter().map(|buffer| self.layouts.fragment(buffer)).find(followed);
        let layout = layout.unwrap_or(FragmentLayout::Blocked);
        for buffer in buffers {
            if !self.put(&buffer, layout) {
                return Err(self.conflict(&buffer, "loops need different layouts of one fragment"));
            }
        }
        let Some(axis) = axes.first() else { return Ok(()) };
        let tiled = matches!(layout, FragmentLayout::Tiled(_));
        if let (false, Some(row)) = (tiled, by_row) {
            let what = "a loop reads it by row, but no accumulator whose rows these are";
            return Err(self.invalid(&row.name, what, "read the accumulator in the same loop"));
        }
        if let FragmentLayout::Slice(_) = layout {
            // Every thread that has a part of a row visits it.
            if values.is_empty() && !elsewhere {
                return Ok(());
            }
            let what = "a loop over rows does more than change fragments";
            let help = "do it in a loop over the accumulator, in one of its columns";
            return Err(self.invalid(&axis.var.name, what, help));
        }
        if let FragmentLayout::Tiled(tiled) = layout {
            self.layouts.widths.insert(axis.var.id, tiled.lanes());
            if !values.is_empty() || !in_lanes(&self.layouts, facts, axes, body, tiled.lanes()) {
                self.layouts.scalar_lanes.insert(axis.var.id);
            }
            return Ok(());
        }
        let width = widest(&self.layouts, facts, axes, body, values, self.program.max_vector);
        self.layouts.widths.insert(axis.var.id, width);
        self.loops.push((axis.var.id, fragments));
        Ok(())
    }

    /// Loops that share a fragment must deal it out alike: the narrowest decides.
    fn agree(&mut self) {
        let mut fragment_width: HashMap<u32, u32> = HashMap::new();
        let mut changed = true;
        while changed {
            changed = false;
            for (id, fragments) in &self.loops {
                let Some(own) = self.layouts.widths.get_mut(id) else { continue };
                for fragment in fragments {
                    let shared = fragment_width.entry(*fragment).or_insert(*own);
                    let width = (*own).min(*shared);
                    changed |= *own != width || *shared != width;
                    (*own, *shared) = (width, width);
                }
            }
        }
    }
}
