//! The rewriting: chosen values are held in a wide dtype, and rounded where something else wants them.

use crate::{DType, Graph, Node, Op, Result, UnaryOp, ValueId};

pub(super) struct Rewrite<'a> {
    from: &'a Graph,
    to: Graph,
    wide: DType,
    /// Values to hold in the wide dtype.
    kept: &'a [bool],
    /// Each value in its own dtype, once something wants it so.
    plain: Vec<Option<ValueId>>,
    /// Each value in the wide dtype, once something wants it so.
    widened: Vec<Option<ValueId>>,
}

impl<'a> Rewrite<'a> {
    pub(super) fn new(from: &'a Graph, wide: DType, kept: &'a [bool]) -> Rewrite<'a> {
        let to =
            Graph { nodes: Vec::new(), values: Vec::new(), inputs: Vec::new(), outputs: Vec::new(), ..from.clone() };
        let none = vec![None; from.values.len()];
        Rewrite { from, to, wide, kept, plain: none.clone(), widened: none }
    }

    /// The new graph, and where each value of the old one is in it.
    pub(super) fn run(mut self) -> Result<(Graph, Vec<ValueId>)> {
        for node in &self.from.nodes {
            self.node(node)?;
        }
        for (name, id) in &self.from.outputs {
            let id = self.plain(*id)?;
            self.to.outputs.push((name.clone(), id));
        }
        let places = self.widened.iter().zip(&self.plain).map(|(w, p)| w.or(*p).unwrap_or(ValueId(0))).collect();
        Ok((self.to, places))
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        let keeps = node.outputs.iter().any(|o| self.kept[o.index()]);
        let source = node.inputs.is_empty();
        if let (Op::Cast { to, .. }, false) = (&node.op, source) {
            let (x, y) = (node.inputs[0], node.outputs[0]);
            if self.narrow(x) && (keeps || self.kept[x.index()] && *to == self.wide) {
                self.widened[y.index()] = Some(self.widened(x)?);
                if *to == self.wide {
                    self.plain[y.index()] = self.widened[y.index()];
                }
                return Ok(());
            }
            if keeps && self.from.ty(x).dtype == self.wide {
                self.widened[y.index()] = Some(self.plain(x)?);
                return Ok(());
            }
        }
        // Questions about values that are held wide are answered by what is held.
        let asks = matches!(
            node.op,
            Op::Compare(_) | Op::Unary(UnaryOp::IsNan | UnaryOp::IsInf) | Op::Cast { .. } | Op::ArgReduce { .. }
        );
        let widens = !source && (keeps || asks && node.inputs.iter().any(|v| self.kept[v.index()]));
        let mut operands = Vec::with_capacity(node.inputs.len());
        for &v in &node.inputs {
            operands.push(if widens && self.narrow(v) { self.widened(v)? } else { self.plain(v)? });
        }
        let op = match &node.op {
            Op::Contract { spec, .. } if keeps => Op::Contract { spec: spec.clone(), acc: self.wide, out: self.wide },
            Op::GroupedMatmul { transposed, .. } if keeps => {
                Op::GroupedMatmul { transposed: *transposed, acc: self.wide, out: self.wide }
            }
            Op::Conv { spec, .. } if keeps => Op::Conv { spec: spec.clone(), acc: self.wide, out: self.wide },
            Op::Cast { saturate, .. } if keeps => Op::Cast { to: self.wide, saturate: *saturate },
            op => op.clone(),
        };
        let results = if widens {
            self.to.add(op, &operands, &node.name)?
        } else {
            let types = node.outputs.iter().map(|&o| self.from.ty(o).clone()).collect();
            self.to.push_node(op, &operands, types, &node.name)
        };
        for (&old, &new) in node.outputs.iter().zip(&results) {
            self.to.values[new.index()].name.clone_from(&self.from.value(old).name);
            let held =
                if self.to.ty(new).dtype == self.from.ty(old).dtype { &mut self.plain } else { &mut self.widened };
            held[old.index()] = Some(new);
            if self.kept[old.index()] {
                self.widened(old)?;
            }
        }
        Ok(())
    }

    /// Whether a value has a float dtype narrower than the wide one.
    fn narrow(&self, v: ValueId) -> bool {
        let dtype = self.from.ty(v).dtype;
        dtype.is_float() && dtype.bits() < self.wide.bits()
    }

    fn plain(&mut self, v: ValueId) -> Result<ValueId> {
        let dtype = self.from.ty(v).dtype;
        let (held, other) = (self.plain[v.index()], self.widened[v.index()]);
        let id = self.cast(v, held, other, dtype)?;
        self.plain[v.index()] = Some(id);
        Ok(id)
    }

    fn widened(&mut self, v: ValueId) -> Result<ValueId> {
        let (held, other) = (self.widened[v.index()], self.plain[v.index()]);
        let id = self.cast(v, held, other, self.wide)?;
        self.widened[v.index()] = Some(id);
        Ok(id)
    }

    /// What is held already, or else the other form converted.
    fn cast(&mut self, v: ValueId, held: Option<ValueId>, other: Option<ValueId>, to: DType) -> Result<ValueId> {
        match (held, other) {
            (Some(id), _) => Ok(id),
            (None, Some(id)) if self.to.ty(id).dtype == to => Ok(id),
            (None, Some(id)) => self.to.add1(Op::Cast { to, saturate: false }, &[id], &self.from.producer(v).name),
            (None, None) => Err(crate::Error::Verify(format!("value %{} is used before it is defined", v.0))),
        }
    }
}
