//! Vectorized loops: a thread handles several neighbouring points, loading and storing them together.
//!
//! The body becomes: values that all lanes share, wide loads, an unrolled loop over the lanes, wide stores.

use super::Lower;
use crate::error::Result;
use crate::expr::{Expr, ExprKind};
use crate::pass::layout::vectorize::{is_vectorizable, unconditional_loads};
use crate::print::prelude::Helper;
use crate::program::{Axis, Buffer, Scope, Stmt};
use crate::thread::{CExpr, CStmt, CType};
use std::collections::HashMap;

/// The lanes of the vectorized loop being written.
pub struct Lanes {
    /// How many.
    pub width: u32,
    /// The axis whose neighbours they are.
    axis: u32,
    /// The axis's value in lane 0.
    base: CExpr,
    /// Variable that counts the lanes.
    lane: String,
    /// Index values bound inside, to be seen through in addresses.
    bound: HashMap<u32, Expr>,
    /// Vectors standing for memory. There are as many as a body has accesses, so that they are searched one by one.
    vectors: Vec<Vector>,
}

/// A vector of neighbours in memory.
struct Vector {
    /// Id of the buffer that has them.
    buffer: u32,
    /// Address of the first.
    address: CExpr,
    /// Name of the variable.
    name: String,
}

impl Lanes {
    /// Name of the vector that stands for the memory from `address` on.
    fn vector(&self, buffer: &Buffer, address: &CExpr) -> Option<&str> {
        let stands = |v: &&Vector| v.buffer == buffer.id && v.address == *address;
        self.vectors.iter().find(stands).map(|v| v.name.as_str())
    }
}

/// Whether `stmt` accesses `buffer`.
pub fn touches(stmt: &Stmt, buffer: &Buffer) -> bool {
    find(stmt, &|b| b.id == buffer.id).is_some()
}

/// A fragment of this rank that `stmt` accesses, if it accesses any.
pub fn touched_fragment(stmt: &Stmt, rank: usize) -> Option<Buffer> {
    find(stmt, &|b| b.scope == Scope::Fragment && b.shape.len() == rank)
}

fn find(stmt: &Stmt, test: &dyn Fn(&Buffer) -> bool) -> Option<Buffer> {
    let mut found = None;
    let mut visit = |buffer: &Buffer| {
        if found.is_none() && test(buffer) {
            found = Some(buffer.clone());
        }
    };
    stmt.walk(&mut |s| {
        if let Stmt::Store { buffer, .. } = s {
            visit(buffer);
        }
        for e in s.exprs() {
            e.walk(&mut |e| {
                if let ExprKind::Load(buffer, _) = e.kind() {
                    visit(buffer);
                }
            });
        }
    });
    found
}

impl Lower<'_> {
    /// Writes `body` for the `width` neighbours that one iteration of the loop over `axes` handles; `axis` is the last one.
    pub fn lane_body(&mut self, axes: &[Axis], axis: &Axis, width: u32, body: &[Stmt]) -> Result<()> {
        if width == 1 {
            return self.stmts(body);
        }
        if self.layouts.vectorized(axes) {
            return self.vectorized_body(axis, width, body);
        }
        self.scoped(|lower| lower.scalar_lanes(axis, width, body))
    }

    /// Writes `body` in a loop over lanes that share nothing.
    fn scalar_lanes(&mut self, axis: &Axis, width: u32, body: &[Stmt]) -> Result<()> {
        self.facts.set_axis(&axis.var, &axis.extent);
        let Some((base, ty)) = self.vars.get(&axis.var.id).cloned() else { return self.stmts(body) };
        let name = self.names.fresh("v");
        let lane = CExpr::name(name.clone());
        self.vars.insert(axis.var.id, (base.op("+", lane.clone()), ty));
        self.lane = Some(lane);
        let result = self.nested(|lower| lower.stmts(body));
        self.lane = None;
        self.push(CStmt::unrolled(name, width.into(), result?));
        Ok(())
    }

    /// Writes `body` for `width` neighbours along `axis`, whose variable holds the first one.
    pub fn vectorized_body(&mut self, axis: &Axis, width: u32, body: &[Stmt]) -> Result<()> {
        // Values that all lanes share come first, and a condition that all lanes share goes around; values that differ by
        // lane move inside it.
        let uniform = |lower: &Self, e: &Expr| lower.facts.lane_step(e, width) == Some(0);
        if let [binds @ .., Stmt::If { cond, then, otherwise }] = body {
            let mut inside = vec![];
            let mut bound = HashMap::new();
            for bind in binds {
                match bind {
                    Stmt::Bind { var, value } if !uniform(self, value) => {
                        self.facts.bind(var, value, width);
                        bound.insert(var.id, value.clone());
                        inside.push(bind.clone());
                    }
                    // Lane by lane, but before the condition, which does not guard it.
                    Stmt::Check { violated, .. } if !uniform(self, violated) => {
                        let body: Vec<Stmt> = inside.iter().chain([bind]).cloned().collect();
                        self.vectorized_body(axis, width, &body)?;
                    }
                    bind => self.stmt(&seen_through(bind, &bound))?,
                }
            }
            let cond = self.expr(&see_through(cond, &bound))?;
            let mut branch = |body: &[Stmt]| {
                let body = [&inside, body].concat();
                self.nested(|lower| lower.vectorized_body(axis, width, &body))
            };
            let then = branch(then)?;
            let otherwise = if otherwise.is_empty() { vec![] } else { branch(otherwise)? };
            self.push(CStmt::If { cond, then, otherwise });
            return Ok(());
        }
        self.helpers.insert(Helper::Vec);
        let mut rest = vec![];
        let mut bound = HashMap::new();
        for stmt in body {
            match stmt {
                // It may be made of names that differ from lane to lane: those are not written yet.
                Stmt::Bind { var, value } if uniform(self, value) => self.bind(var, &see_through(value, &bound))?,
                Stmt::Bind { var, value } => {
                    self.facts.bind(var, value, width);
                    bound.insert(var.id, value.clone());
                    rest.push(stmt);
                }
                Stmt::Check { violated, .. } if uniform(self, violated) => self.stmt(&seen_through(stmt, &bound))?,
                stmt => rest.push(stmt),
            }
        }
        let base = self.expr(&Expr::var(&axis.var))?;
        let lane = self.names.fresh("v");
        let lanes = Lanes { width, axis: axis.var.id, base, lane, bound, vectors: vec![] };
        self.lanes = Some(lanes);
        let result = self.lane_loop(&rest);
        self.lanes = None;
        result
    }

    fn lane_loop(&mut self, body: &[&Stmt]) -> Result<()> {
        let Some((width, axis, base, lane)) =
            self.lanes.as_ref().map(|l| (l.width, l.axis, l.base.clone(), l.lane.clone()))
        else {
            return Ok(());
        };
        let mut vector_loads = vec![];
        let mut vector_stores = vec![];
        for stmt in body {
            for e in stmt.exprs() {
                unconditional_loads(e, &mut |buffer, index| vector_loads.push((buffer.clone(), index.to_vec())));
            }
            if let Stmt::Store { buffer, index, .. } = stmt {
                vector_stores.push((buffer.clone(), index.clone()));
            }
        }
        for (buffer, index) in &vector_loads {
            self.vector(buffer, index, true)?;
        }
        let mut stores = vec![];
        for (buffer, index) in &vector_stores {
            stores.extend(self.vector(buffer, index, false)?);
        }
        let ty = self.vars.get(&axis).map_or(CType::Int, |value| value.1);
        self.vars.insert(axis, (base.clone().op("+", CExpr::name(lane.clone())), ty));
        let inner = self.nested(|lower| body.iter().try_for_each(|stmt| lower.stmt(stmt)))?;
        self.vars.insert(axis, (base, ty));
        self.push(CStmt::unrolled(lane, width.into(), inner));
        stores.into_iter().for_each(|store| self.push(store));
        Ok(())
    }

    /// Declares the vector for a wide access, loading it if `load`; returns the statement that stores it.
    fn vector(&mut self, buffer: &Buffer, index: &[Expr], load: bool) -> Result<Option<CStmt>> {
        let Some(width) = self.lanes.as_ref().map(|lanes| lanes.width) else { return Ok(None) };
        if !is_vectorizable(&self.layouts, &self.facts, buffer, index, width) {
            return Ok(None);
        }
        let address = self.address(buffer, index)?;
        if self.lanes.as_ref().is_some_and(|lanes| lanes.vector(buffer, &address).is_some()) {
            return Ok(None);
        }
        let name = self.names.fresh(&format!("{}_v", buffer.name));
        let element = self.element_type(buffer.dtype);
        let ty = format!("Vec<{element}, {width}>");
        let value = load.then(|| CExpr::call(format!("load<{width}>"), [address.clone()]));
        self.push(CStmt::Declare { ty, name: name.clone(), value, constant: load });
        if let Some(lanes) = &mut self.lanes {
            lanes.vectors.push(Vector { buffer: buffer.id, address: address.clone(), name: name.clone() });
        }
        let store = CExpr::call("store", [address, CExpr::name(name)]);
        Ok((!load).then_some(CStmt::Expr(store)))
    }

    /// Address of an element in lane 0.
    fn address(&mut self, buffer: &Buffer, index: &[Expr]) -> Result<CExpr> {
        let mut index = index.to_vec();
        let mut restore = None;
        if let Some(lanes) = &self.lanes {
            index = index.iter().map(|i| see_through(i, &lanes.bound)).collect();
            let ty = self.vars.get(&lanes.axis).map_or(CType::Int, |value| value.1);
            restore = self.vars.insert(lanes.axis, (lanes.base.clone(), ty)).map(|value| (lanes.axis, value));
        }
        let offset = self.offset(buffer, &index)?;
        self.vars.extend(restore);
        Ok(CExpr::name(self.buffer_name(buffer)).offset(offset))
    }

    /// The vector element that stands for a load, if the load was made wide.
    pub fn hoisted(&mut self, buffer: &Buffer, index: &[Expr]) -> Result<Option<CExpr>> {
        let Some(lanes) = &self.lanes else { return Ok(None) };
        if lanes.vectors.is_empty() || !is_vectorizable(&self.layouts, &self.facts, buffer, index, lanes.width) {
            return Ok(None);
        }
        let address = self.address(buffer, index)?;
        let element =
            |lanes: &Lanes| Some(CExpr::name(lanes.vector(buffer, &address)?).at(CExpr::name(lanes.lane.clone())));
        Ok(self.lanes.as_ref().and_then(element))
    }

    /// The vector element that a store goes to first, if the store is wide.
    pub fn deferred(&mut self, buffer: &Buffer, index: &[Expr]) -> Result<Option<CExpr>> {
        self.hoisted(buffer, index)
    }

    /// Index of the register that holds this point of a loop over fragments.
    pub fn register_index(&self) -> Option<Vec<CExpr>> {
        let mut index = self.registers.clone()?;
        let wide = self.lanes.as_ref().map(|lanes| CExpr::name(lanes.lane.clone()));
        if let (Some(lane), Some(last)) = (wide.or(self.lane.clone()), index.last_mut()) {
            *last = last.clone().op("+", lane);
        }
        Some(index)
    }
}

/// A statement between binds with the names that are not written yet replaced.
fn seen_through(stmt: &Stmt, bound: &HashMap<u32, Expr>) -> Stmt {
    match stmt {
        Stmt::Bind { var, value } => Stmt::Bind { var: var.clone(), value: see_through(value, bound) },
        Stmt::Check { violated, fault, code } => {
            Stmt::Check { violated: see_through(violated, bound), fault: fault.clone(), code: code.clone() }
        }
        stmt => stmt.clone(),
    }
}

fn see_through(e: &Expr, bound: &HashMap<u32, Expr>) -> Expr {
    e.substitute(&|var| bound.get(&var.id).map(|value| see_through(value, bound)))
}
