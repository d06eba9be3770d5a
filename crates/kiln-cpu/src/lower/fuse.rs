//! Fuses elementwise ops, views and row reductions into loop nests.

use super::Lowering;
use super::affine::{Affine, dense_strides};
use super::pull::{Domain, Pull, Rows, Stop};
use super::{Nest, anchors};
use crate::error::Result;
use crate::program::{Level, Program};
use crate::stage::Stage;
use kiln_graph::{BinaryOp, Op, UnaryOp, ValueId};

/// A finished program over its loop dims.
struct Built {
    program: Program,
    dims: Vec<usize>,
    kept: usize,
    /// Values stored, and their slots to be.
    stored: Vec<ValueId>,
}

/// Slot numbers of stores while the program is built: `PENDING + i` is the i-th stored value.
const PENDING: usize = usize::MAX / 2;

impl<'g> Lowering<'g> {
    /// Computes `v` by one nest, after stages for what cannot be inside it.
    pub(super) fn fuse(&mut self, v: ValueId) -> Result<()> {
        loop {
            let attempt = match self.last_reduction(v) {
                Some(r) => self.build_rows(v, r),
                None => self.build_map(v),
            };
            match attempt {
                Ok(built) => {
                    self.finish(built);
                    return Ok(());
                }
                Err(Stop::Materialise(u)) if u != v => {
                    self.materialise(u)?;
                }
                Err(Stop::Fail(e)) => return Err(e),
                Err(_) => {
                    let node = self.graph.producer(v);
                    return Err(self.unsupported(node, "has no loop nest".into()));
                }
            }
        }
    }

    fn finish(&mut self, built: Built) {
        let Built { mut program, dims, kept, stored } = built;
        let slots: Vec<usize> = stored.iter().map(|&v| self.assign(v)).collect();
        for access in &mut program.accesses {
            if access.slot >= PENDING {
                access.slot = slots[access.slot - PENDING];
            }
        }
        self.stages.push(Stage::Nest(Box::new(Nest::new(program, dims, kept, self.threads))));
    }

    /// The last reduction that `v` depends on through ops that fuse.
    fn last_reduction(&self, v: ValueId) -> Option<ValueId> {
        let mut seen = vec![false; self.graph.values.len()];
        let mut stack = vec![v];
        let mut last = None;
        while let Some(u) = stack.pop() {
            if std::mem::replace(&mut seen[u.index()], true) || self.dense_slot(u).is_some() {
                continue;
            }
            let node = self.graph.producer(u);
            if anchors::has_own_stage(&node.op) {
                continue;
            }
            if matches!(node.op, Op::Reduce { .. } | Op::ArgReduce { .. }) {
                last = last.max(Some(u));
            }
            stack.extend(&node.inputs);
        }
        last
    }

    fn build_map(&self, v: ValueId) -> Result<Built, Stop> {
        let shape = self.shape(v);
        let mut domain = Domain::new(shape, shape.len());
        loop {
            let coords: Vec<Affine> = (0..shape.len()).map(|a| domain.coord(a)).collect();
            let to = super::affine::linear(&coords, shape);
            let mut pull = Pull::new(self, &domain, None);
            match pull.store(v, &coords, PENDING, &to, Level::Full) {
                Ok(()) => {}
                Err(Stop::Refine { dim, inner }) => {
                    domain.refine(dim, inner);
                    continue;
                }
                Err(stop) => return Err(stop),
            }
            let mut stored = vec![v];
            for &(_, w) in &self.graph.outputs {
                if self.slot_of[w.index()].is_some() || stored.contains(&w) || self.shape(w) != shape {
                    continue;
                }
                let mut more = pull.clone();
                if more.store(w, &coords, PENDING + stored.len(), &to, Level::Full).is_ok() {
                    pull = more;
                    stored.push(w);
                }
            }
            let dims = domain.dims();
            return Ok(Built { program: pull.program, kept: dims.len(), dims, stored });
        }
    }

    fn build_rows(&self, v: ValueId, reduction: ValueId) -> Result<Built, Stop> {
        let node = self.graph.producer(reduction);
        let axes = match &node.op {
            Op::Reduce { axes, .. } => axes.clone(),
            Op::ArgReduce { axis, .. } => vec![*axis],
            _ => return Err(Stop::Materialise(reduction)),
        };
        let Some(&x) = node.inputs.first() else { return Err(Stop::Materialise(reduction)) };
        let shape = self.shape(x).to_vec();
        let kept: Vec<usize> = (0..shape.len()).filter(|a| !axes.contains(a)).collect();
        let order: Vec<usize> = kept.iter().chain(&axes).copied().collect();
        let extents: Vec<usize> = order.iter().map(|&a| shape[a]).collect();
        let mut domain = Domain::new(&extents, kept.len());
        loop {
            let mut coords = vec![Affine::default(); shape.len()];
            for (i, &a) in order.iter().enumerate() {
                coords[a] = domain.coord(i);
            }
            let rows = Rows { shape: shape.clone(), axes: axes.clone(), coords };
            let mut pull = Pull::new(self, &domain, Some(rows.clone()));
            match self.store_root(&mut pull, v, &rows, PENDING) {
                Ok(()) => {}
                Err(Stop::Refine { dim, inner }) => {
                    domain.refine(dim, inner);
                    continue;
                }
                // The nest of these rows does not reach `v`: the reduction gets a nest of its own.
                Err(Stop::Materialise(u)) if u == v && v != reduction => return Err(Stop::Materialise(reduction)),
                Err(stop) => return Err(stop),
            }
            let mut stored = vec![v];
            for &(_, w) in &self.graph.outputs {
                if self.slot_of[w.index()].is_some() || stored.contains(&w) {
                    continue;
                }
                let mut more = pull.clone();
                if self.store_root(&mut more, w, &rows, PENDING + stored.len()).is_ok() {
                    pull = more;
                    stored.push(w);
                }
            }
            return Ok(Built { program: pull.program, kept: domain.kept(), dims: domain.dims(), stored });
        }
    }

    /// Stores `v`, which is a view of something of the rows' shape (a whole value) or of their kept shape (a row value).
    fn store_root(&self, pull: &mut Pull<'_, 'g>, v: ValueId, rows: &Rows, slot: usize) -> Result<(), Stop> {
        let kept: Vec<usize> =
            (0..rows.shape.len()).filter(|a| !rows.axes.contains(a)).map(|a| rows.shape[a]).collect();
        let ones: Vec<usize> =
            (0..rows.shape.len()).map(|a| if rows.axes.contains(&a) { 1 } else { rows.shape[a] }).collect();
        // Peel views off the result, following them in the strides of the store.
        let mut u = v;
        let mut strides = dense_strides(self.shape(v));
        loop {
            let shape = self.shape(u);
            let coords = if shape == rows.shape {
                Some((rows.coords.clone(), Level::Full))
            } else if shape == kept {
                Some((rows.kept_coords(), Level::Row))
            } else if shape == ones {
                let coords = (0..shape.len())
                    .map(|a| if rows.axes.contains(&a) { Affine::default() } else { rows.coords[a].clone() })
                    .collect();
                Some((coords, Level::Row))
            } else {
                None
            };
            if let Some((coords, level)) = coords {
                let to = coords.iter().zip(&strides).fold(Affine::default(), |sum, (c, &s)| sum.plus(c, s));
                return match pull.store(u, &coords, slot, &to, level) {
                    Err(Stop::Materialise(w)) if w == u => Err(Stop::Materialise(v)),
                    other => other,
                };
            }
            let node = self.graph.producer(u);
            match (&node.op, node.inputs.as_slice()) {
                (Op::Permute { perm }, [x]) => {
                    let mut inner = vec![0; perm.len()];
                    for (a, &p) in perm.iter().enumerate() {
                        inner[p] = strides[a];
                    }
                    (u, strides) = (*x, inner);
                }
                (Op::Reshape { .. }, [x]) if strides == dense_strides(shape) => {
                    strides = dense_strides(self.shape(*x));
                    u = *x;
                }
                _ => return Err(Stop::Materialise(v)),
            }
        }
    }

    /// Whether `x`, which a broadcast to `v` repeats, costs enough to be computed once, beforehand.
    pub(super) fn worth_hoisting(&self, x: ValueId, v: ValueId) -> bool {
        self.len(v) >= 8 * self.len(x).max(1) && self.len(x) > 1 && self.cost(x, 8) >= 8
    }

    /// A rough count of the arithmetic in the definition of `v`, cut off at `limit`.
    fn cost(&self, v: ValueId, limit: usize) -> usize {
        if limit == 0 || self.dense_slot(v).is_some() {
            return 0;
        }
        let node = self.graph.producer(v);
        let own = match &node.op {
            Op::Unary(op) => match op {
                UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Not | UnaryOp::Sign | UnaryOp::Floor | UnaryOp::Ceil => 1,
                _ => 8,
            },
            Op::Binary(BinaryOp::Div | BinaryOp::Mod | BinaryOp::Rem | BinaryOp::Pow | BinaryOp::Atan2) => 4,
            Op::Quantize { .. } => 8,
            // A reduction here would be over other rows than the nest's, and those in the nest's rows are never repeated.
            Op::Reduce { .. } | Op::ArgReduce { .. } => 0,
            Op::Const { .. } | Op::DimValue { .. } => 0,
            Op::Permute { .. } | Op::Reshape { .. } | Op::Broadcast { .. } | Op::Slice { .. } => 0,
            _ => 1,
        };
        let mut total = own;
        for &i in &node.inputs {
            if total >= limit {
                break;
            }
            total += self.cost(i, limit - total);
        }
        total
    }
}
