//! One region's graph from a cone of the e-graph.

use super::fold::Folder;
use crate::Result;
use crate::cuts::is_literal;
use crate::egraph::{ClassIx, Dag};
use kiln_graph::{Graph, Op, OpKind, ValueId};
use std::collections::{BTreeSet, HashMap};

/// A region's graph and which classes its inputs are.
pub(crate) struct Cone {
    pub graph: Graph,
    pub operands: Vec<ClassIx>,
}

/// Inner nodes over leaves as a graph: operands `x0, x1, ..` in order of first use, results `y0, y1, ..`, no other names. Leaves that are `kept` are operands even where they are literals.
pub(crate) fn region_graph(
    dag: &Dag,
    inner: &[(ClassIx, u16)],
    outputs: &[ClassIx],
    kept: &[ClassIx],
    model: &Graph,
    folder: &mut Folder,
) -> Result<Cone> {
    let mut graph = Graph::new("");
    let mut values: HashMap<ClassIx, ValueId> = HashMap::new();
    let mut operands = Vec::new();
    let computed: BTreeSet<ClassIx> = inner.iter().map(|i| i.0).collect();
    // Literals go inside, but anchors read memory: what one of those takes directly is a weight of one element.
    let read: BTreeSet<ClassIx> = inner
        .iter()
        .map(|(class, node)| &dag.class(*class).nodes[usize::from(*node)])
        .filter(|node| reads_memory(node.op.as_ref()))
        .flat_map(|node| node.operands.iter().copied())
        .chain(kept.iter().copied())
        .collect();
    let inside = |c: &ClassIx| is_literal(dag, *c) && !read.contains(c);
    // Inputs first, so that a region reads like a function.
    for (class, node) in inner {
        for operand in &dag.class(*class).nodes[usize::from(*node)].operands {
            if !computed.contains(operand) && !values.contains_key(operand) && !inside(operand) {
                let ty = dag.class(*operand).ty().clone();
                let op = Op::Input { name: format!("x{}", operands.len()), ty: ty.clone() };
                values.insert(*operand, graph.push_node(op, &[], vec![ty], "")[0]);
                operands.push(*operand);
            }
        }
    }
    for (class, node) in inner {
        let node = &dag.class(*class).nodes[usize::from(*node)];
        let Some(op) = &node.op else { continue };
        let mut inputs = Vec::with_capacity(node.operands.len());
        for operand in &node.operands {
            let id = match values.get(operand) {
                Some(id) => *id,
                None => {
                    let value = folder.value(dag, *operand)?;
                    let ty = dag.class(*operand).ty().clone();
                    let id = graph.push_node(Op::Const { value }, &[], vec![ty], "")[0];
                    values.insert(*operand, id);
                    id
                }
            };
            inputs.push(id);
        }
        let results = graph.push_node(op.clone(), &inputs, dag.class(*class).types.clone(), "");
        values.insert(*class, results[0]);
        // Results of an op with several are asked for by number.
        for other in outputs.iter().filter(|o| !computed.contains(o)) {
            if let Some(part) = part_of(dag, *other, *class) {
                values.insert(*other, results[part]);
            }
        }
    }
    for (i, class) in outputs.iter().enumerate() {
        if let Some(id) = values.get(class) {
            graph.outputs.push((format!("y{i}"), *id));
        }
    }
    surroundings(&mut graph, model);
    Ok(Cone { graph, operands })
}

fn reads_memory(op: Option<&Op>) -> bool {
    use OpKind::{Alone, Contract, Conv, Scatter, Window};
    op.is_some_and(|op| matches!(op.kind(), Contract | Conv | Window | Scatter | Alone))
}

/// Which result of the op `tuple` a class is.
pub(crate) fn part_of(dag: &Dag, class: ClassIx, tuple: ClassIx) -> Option<usize> {
    dag.class(class).nodes.iter().find_map(|n| (n.op.is_none() && n.operands == [tuple]).then_some(n.part))
}

/// Gives a region's graph what its model knows of symbols; the canonical form keeps of it what concerns the region.
pub(crate) fn surroundings(graph: &mut Graph, model: &Graph) {
    graph.symbols = model.symbols.clone();
    graph.constraints = model.constraints.clone();
}
