//! Chooses how loops and fragments are spread over threads, and how many neighbouring elements a thread handles at a time.

use crate::error::{Result, TileError};
use crate::expr::{Expr, ExprKind};
use crate::pass::facts::Facts;
use crate::program::{Axis, Buffer, Program, Reduction, Scope, Stmt, Worker};
use std::collections::{HashMap, HashSet};

/// Where the elements of a fragment are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FragmentLayout {
    /// A whole copy in every thread ([`Worker::Thread`]).
    Private,
    /// Runs of neighbours dealt to the threads in turn, as every loop over the same extents deals its points.
    Spread,
}

/// What the layout pass decided.
#[derive(Clone, Debug, Default)]
pub struct Layouts {
    /// Elements a thread handles at a time, by the first loop variable of each loop spread over threads.
    widths: HashMap<u32, u32>,
    fragments: HashMap<u32, FragmentLayout>,
}

impl Layouts {
    /// Elements that a thread handles at a time in the loop over `axes`.
    pub fn width(&self, axes: &[Axis]) -> u32 {
        axes.first().and_then(|axis| self.widths.get(&axis.var.id)).copied().unwrap_or(1)
    }

    /// Layout of a fragment.
    pub fn fragment(&self, buffer: &Buffer) -> FragmentLayout {
        self.fragments.get(&buffer.id).copied().unwrap_or(FragmentLayout::Private)
    }
}

/// Runs the pass.
pub fn layout(program: &Program) -> Result<Layouts> {
    let mut pass = Pass { program, layouts: Layouts::default(), loops: vec![] };
    let mut facts = Facts::of_params(program);
    let axes = &program.domain.axes;
    if program.domain.worker == Worker::Thread {
        let width = widest(&facts, axes, &program.body, &[], program.max_vector);
        if let Some(axis) = axes.first() {
            pass.layouts.widths.insert(axis.var.id, width);
        }
        return Ok(pass.layouts);
    }
    for axis in axes {
        facts.set_axis(&axis.var, &axis.extent);
    }
    pass.body(&mut facts, &program.body)?;
    pass.agree();
    Ok(pass.layouts)
}

struct Pass<'a> {
    program: &'a Program,
    layouts: Layouts,
    /// Each spread loop with the fragments it touches.
    loops: Vec<(u32, HashSet<u32>)>,
}

impl Pass<'_> {
    fn body(&mut self, facts: &mut Facts, body: &[Stmt]) -> Result<()> {
        for stmt in body {
            match stmt {
                Stmt::Bind { var, value } => facts.bind(var, value, 1),
                Stmt::Parallel { axes, body } => self.spread(facts, axes, body, &[])?,
                Stmt::Reduce { axes, body, results } => self.spread(facts, axes, body, results)?,
                Stmt::For { var, end, .. } | Stmt::Pipelined { var, extent: end, .. } => {
                    facts.set_axis(var, end);
                }
                _ => {}
            }
            if !matches!(stmt, Stmt::Parallel { .. } | Stmt::Reduce { .. }) {
                for body in stmt.bodies() {
                    self.body(facts, body)?;
                }
            }
        }
        Ok(())
    }

    fn spread(&mut self, facts: &Facts, axes: &[Axis], body: &[Stmt], results: &[Reduction]) -> Result<()> {
        let mut fragments = HashSet::new();
        let (loaded, stored) = accesses(body, results);
        for (buffer, index) in loaded.into_iter().chain(stored) {
            if buffer.scope != Scope::Fragment {
                continue;
            }
            let own = index.len() == axes.len()
                && index.iter().zip(axes).all(|(i, axis)| matches!(i.kind(), ExprKind::Var(v) if *v == axis.var))
                && axes.iter().zip(&buffer.shape).all(|(axis, extent)| {
                    axis.extent.as_const().is_some() && axis.extent.as_const() == extent.as_const()
                });
            if !own {
                return Err(TileError::Invalid {
                    kernel: self.program.name.clone(),
                    what: "a fragment is indexed by something else than the loop's own variables".to_owned(),
                    place: buffer.name.clone(),
                    help: "loop over exactly its extents and index it with exactly the loop's variables".to_owned(),
                });
            }
            fragments.insert(buffer.id);
            self.layouts.fragments.insert(buffer.id, FragmentLayout::Spread);
        }
        let width = widest(facts, axes, body, results, self.program.max_vector);
        if let Some(axis) = axes.first() {
            self.layouts.widths.insert(axis.var.id, width);
            self.loops.push((axis.var.id, fragments));
        }
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

/// Buffer elements with their indices.
type Accesses = Vec<(Buffer, Vec<Expr>)>;

/// Every load and every store in a loop.
fn accesses(body: &[Stmt], results: &[Reduction]) -> (Accesses, Accesses) {
    let mut loaded = vec![];
    let mut stored = vec![];
    let mut loads = |e: &Expr| {
        e.walk(&mut |e| {
            if let ExprKind::Load(buffer, index) = e.kind() {
                loaded.push((buffer.clone(), index.clone()));
            }
        });
    };
    for stmt in body {
        stmt.walk(&mut |s| {
            s.exprs().into_iter().for_each(&mut loads);
            if let Stmt::Store { buffer, index, .. } | Stmt::Atomic { buffer, index, .. } = s {
                stored.push((buffer.clone(), index.clone()));
            }
        });
    }
    results.iter().for_each(|result| loads(&result.value));
    (loaded, stored)
}

/// Whether lanes of width `width` access neighbours that one aligned wide access covers.
pub fn is_wide(facts: &Facts, buffer: &Buffer, index: &[Expr], width: u32) -> bool {
    let bits = buffer.dtype.bits();
    if bits < 8 || buffer.scope == Scope::Fragment {
        return false;
    }
    let offset = buffer.offset(index);
    let access = i128::from((width * bits).min(128) / bits);
    facts.lane_step(&offset, width) == Some(1) && facts.multiple(&offset) % access == 0
}

/// The greatest width at which all stores of the loop are wide, an access moves at most 32 bytes, and the narrowest type
/// at most 16.
fn widest(facts: &Facts, axes: &[Axis], body: &[Stmt], results: &[Reduction], limit: u32) -> u32 {
    let Some((inner, outer)) = axes.split_last() else { return 1 };
    let (loaded, stored) = accesses(body, results);
    let fragments = loaded.iter().chain(&stored).any(|(buffer, _)| buffer.scope == Scope::Fragment);
    if in_place(body, results) {
        return 1;
    }
    [16, 8, 4, 2]
        .into_iter()
        .filter(|&width| width <= limit && facts.multiple(&inner.extent) % i128::from(width) == 0)
        .find(|&width| {
            let mut facts = facts.clone();
            for axis in outer {
                facts.set_axis(&axis.var, &axis.extent);
            }
            facts.set_lane_axis(&inner.var, &inner.extent, width);
            let mut wide = Wide { facts, width, bits: vec![] };
            if !wide.body(body) {
                return false;
            }
            results.iter().for_each(|result| wide.loads(&result.value));
            let (Some(least), Some(most)) = (wide.bits.iter().min(), wide.bits.iter().max()) else {
                // A loop over registers alone takes whatever the loops that fill them need.
                return fragments;
            };
            width * least <= 128 && width * most <= 256
        })
        .unwrap_or(1)
}

/// Whether the loop loads from a buffer outside of registers that it also stores to.
fn in_place(body: &[Stmt], results: &[Reduction]) -> bool {
    let (loaded, stored) = accesses(body, results);
    stored.iter().any(|(buffer, _)| buffer.scope != Scope::Fragment && loaded.iter().any(|(b, _)| b.id == buffer.id))
}

struct Wide {
    facts: Facts,
    width: u32,
    /// Element sizes of the wide accesses.
    bits: Vec<u32>,
}

impl Wide {
    /// Whether the body can be run lane by lane between wide loads and wide stores: binds, stores, and at most one
    /// condition, last, that is the same in all lanes.
    fn body(&mut self, body: &[Stmt]) -> bool {
        body.iter().enumerate().all(|(i, stmt)| match stmt {
            Stmt::Bind { var, value } => {
                self.loads(value);
                self.facts.bind(var, value, self.width);
                true
            }
            Stmt::Store { buffer, index, value } => {
                self.loads(value);
                let wide = is_wide(&self.facts, buffer, index, self.width);
                if wide {
                    self.bits.push(buffer.dtype.bits());
                }
                wide || buffer.scope == Scope::Fragment
            }
            Stmt::If { cond, then, otherwise } => {
                let before = &body[..i];
                let uniform = |e: &Expr| self.facts.lane_step(e, self.width) == Some(0);
                otherwise.is_empty()
                    && i + 1 == body.len()
                    && uniform(cond)
                    && before.iter().all(|s| matches!(s, Stmt::Bind { value, .. } if uniform(value)))
                    && self.body(then)
            }
            _ => false,
        })
    }

    fn loads(&mut self, e: &Expr) {
        let mut found = vec![];
        unconditional_loads(e, &mut |buffer, index| found.push((buffer.clone(), index.to_vec())));
        for (buffer, index) in found {
            if is_wide(&self.facts, &buffer, &index, self.width) {
                self.bits.push(buffer.dtype.bits());
            }
        }
    }
}

/// Calls `visit` on the loads that evaluating `e` performs whatever its conditions say.
pub fn unconditional_loads(e: &Expr, visit: &mut impl FnMut(&Buffer, &[Expr])) {
    use crate::dtype::DType;
    use crate::expr::BinaryOp;
    match e.kind() {
        ExprKind::Select(c, _, _) => unconditional_loads(c, visit),
        ExprKind::Binary(BinaryOp::And | BinaryOp::Or, a, _) if e.dtype() == DType::Bool => {
            unconditional_loads(a, visit);
        }
        kind => {
            if let ExprKind::Load(buffer, index) = kind {
                visit(buffer, index);
            }
            for operand in e.operands() {
                unconditional_loads(operand, visit);
            }
        }
    }
}
