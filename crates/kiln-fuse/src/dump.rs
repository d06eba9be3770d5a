//! What passes leave behind, as text.

use crate::cuts::{Costs, Launch};
use crate::egraph::{ClassIx, Dag, EGraph, Head, op_of};
use crate::rules::Saturation;
use kiln_graph::{Op, TensorType};
use std::fmt::{self, Display, Formatter};

/// An e-graph, a class a line: `c7 f32[2, 3] = add(c1, c2) | mul(c3, c4)`. With what saturation did, if it was saturated.
pub(crate) struct Classes<'a>(pub &'a EGraph, pub Option<&'a Saturation>);

impl Display for Classes<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Classes(egraph, saturation) = self;
        if let Some(s) = saturation {
            writeln!(f, "{} e-nodes after {} iterations ({})", s.nodes, s.iterations, s.stopped)?;
            s.fired.iter().try_for_each(|(rule, times)| writeln!(f, "  {rule:<32} {times:6}"))?;
        }
        let mut classes: Vec<_> = egraph.classes().collect();
        classes.sort_by_key(|class| class.id);
        for class in classes {
            let ways: Vec<String> = class
                .nodes
                .iter()
                .filter_map(|term| match term.head {
                    Head::Result(part) => Some(way(None, part as usize, term.children.iter())),
                    _ => op_of(egraph, term).map(|(op, operands)| {
                        let operands: Vec<_> = operands.iter().map(|id| egraph.find(*id)).collect();
                        way(Some(&op), 0, operands.iter())
                    }),
                })
                .collect();
            // Classes of attributes have no way to be computed: they are shown where they are used.
            if !ways.is_empty() {
                writeln!(f, "c{}{} = {}", class.id, types(&class.data.types), ways.join(" | "))?;
            }
        }
        Ok(())
    }
}

/// The classes that the outputs can be computed from, operands first, kernels of functions among them.
pub(crate) struct Ordered<'a>(pub &'a Dag);

impl Display for Ordered<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (i, class) in self.0.classes.iter().enumerate() {
            let kernel = self.0.kernel(ClassIx(i as u32));
            let node = |n: &crate::egraph::DagNode| match kernel {
                Some(place) => format!("kernel {}({})", place.function, list(&n.operands)),
                None => way(n.op.as_ref(), n.part, n.operands.iter().map(|c| c.0)),
            };
            let ways: Vec<String> = class.nodes.iter().map(node).collect();
            writeln!(f, "c{i}{} = {}", types(&class.types), ways.join(" | "))?;
        }
        Ok(())
    }
}

/// The chosen launches, over the classes of [`Ordered`].
pub(crate) struct Launches<'a>(pub &'a [Launch], pub &'a Dag, pub &'a Costs<'a>);

impl Display for Launches<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Launches(launches, dag, costs) = self;
        let node = |class: ClassIx, node: u16| {
            let node = &dag.class(class).nodes[usize::from(node)];
            way(node.op.as_ref(), node.part, node.operands.iter().map(|c| c.0))
        };
        for launch in *launches {
            match launch {
                Launch::Region { inner, leaves, outputs, anchor, .. } => {
                    let e = costs.estimate(dag, inner, leaves, outputs, *anchor);
                    let us = e.seconds * 1e6;
                    writeln!(f, "{anchor:?}: {us:.2} us modelled, {} bytes, {} operations", e.bytes, e.ops)?;
                    writeln!(f, "  reads {}", list(leaves))?;
                    inner.iter().try_for_each(|(class, n)| writeln!(f, "  c{} = {}", class.0, node(*class, *n)))?;
                    writeln!(f, "  gives {}", list(outputs))?;
                }
                Launch::Step(class, n) => writeln!(f, "step: c{} = {}", class.0, node(*class, *n))?,
            }
        }
        Ok(())
    }
}

fn list(classes: &[ClassIx]) -> String {
    classes.iter().map(|c| format!("c{}", c.0)).collect::<Vec<_>>().join(", ")
}

/// One e-node: an op, or one result of its operand.
fn way(op: Option<&Op>, part: usize, operands: impl Iterator<Item = impl Display>) -> String {
    let head = match op {
        None => format!("result {part}"),
        Some(op @ (Op::Input { name, .. } | Op::Weight { name, .. })) => format!("{op} {name:?}"),
        // What has no attributes but those that the class's type shows, and what is too long to show.
        Some(
            op @ (Op::Unary(_)
            | Op::Binary(_)
            | Op::Compare(_)
            | Op::Select
            | Op::Reshape { .. }
            | Op::Broadcast { .. }
            | Op::Const { .. }
            | Op::If { .. }
            | Op::Loop { .. }),
        ) => op.to_string(),
        Some(op) => format!("{op:?}"),
    };
    let operands: Vec<String> = operands.map(|c| format!("c{c}")).collect();
    format!("{head}({})", operands.join(", "))
}

fn types(types: &[TensorType]) -> String {
    types.iter().map(|ty| format!(" {ty}")).collect()
}
