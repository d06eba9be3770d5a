//! What is computed when: levels of reductions, and which elements stay for a later level.

use crate::Result;
use crate::value::Values;
use crate::value::dims::numel;
use kiln_fuse::{Region, Role};
use kiln_graph::{DType, Dim, Graph, NodeId, Op, OpKind, ValueId};

/// A region of reductions, taken apart.
pub struct Plan {
    /// The iteration space.
    pub rows: kiln_fuse::Rows,
    /// Extents of a row's axes.
    pub columns: Vec<Dim>,
    /// The reductions, those that depend on no other first.
    pub levels: Vec<Vec<NodeId>>,
    /// Values with an element for each of the rows' that are made before a level and used after it, by that level.
    pub kept: Vec<Vec<ValueId>>,
    /// 32-bit registers that an element takes from one level to the next, at most; what a level makes of it takes their place.
    pub held: u32,
    /// Values of a row that follow from reductions, in order.
    pub of_rows: Vec<ValueId>,
    /// Results with an element for each of the rows' elements, and the others.
    pub full: Vec<usize>,
    pub rest: Vec<usize>,
}

impl Plan {
    /// Takes a Reduce region apart.
    pub fn of(region: &Region, values: &Values) -> Result<Plan> {
        let Some(rows) = region.rows() else { return values.malformed("it has no reduction") };
        let graph = &region.graph;
        let columns = rows.axes.iter().map(|&axis| rows.shape[axis].clone()).collect();
        let levels = levels(region);
        let output = |i: &usize| graph.ty(graph.outputs[*i].1).shape == rows.shape;
        let (full, rest): (Vec<usize>, Vec<usize>) = (0..graph.outputs.len()).partition(output);
        let roles = region.roles();
        let of_rows = graph.nodes.iter().zip(&roles).filter(|(_, role)| **role == Role::Epilogue);
        let of_rows = of_rows.filter_map(|(node, _)| node.outputs.first().copied());
        let of_rows = of_rows.filter(|v| graph.ty(*v).shape != rows.shape).collect();
        let mut plan = Plan { rows, columns, levels, kept: vec![], held: 1, of_rows, full, rest };
        (plan.kept, plan.held) = plan.kept(graph);
        Ok(plan)
    }

    /// Reductions in all.
    pub fn reductions(&self) -> usize {
        self.levels.iter().map(Vec::len).sum()
    }

    /// How often all that there is of a row is combined: places of extremes are found after these.
    pub fn combinations(&self, graph: &Graph) -> usize {
        let positions = |level: &&Vec<NodeId>| level.iter().any(|n| matches!(graph.node(*n).op, Op::ArgReduce { .. }));
        self.levels.len() + self.levels.iter().filter(positions).count()
    }

    /// How often rows are walked.
    pub fn walks(&self, graph: &Graph) -> usize {
        self.combinations(graph) + usize::from(!self.full.is_empty())
    }

    /// 32-bit registers that an element of a row takes at most: what is kept, and what a level combines.
    pub fn words(&self, region: &Region) -> u32 {
        let graph = &region.graph;
        let kept: u32 = self.kept.iter().flatten().map(|v| words(graph.ty(*v).dtype)).sum();
        let operand = |n: &NodeId| words(graph.ty(graph.node(*n).inputs[0]).dtype.compute());
        let level = |level: &Vec<NodeId>| level.iter().map(operand).sum();
        let combined: u32 = self.levels.iter().map(level).max().unwrap_or(1);
        let results: u32 = self.full.iter().map(|i| words(graph.ty(graph.outputs[*i].1).dtype)).sum();
        kept + combined.max(results).max(1)
    }

    /// Walks back from what each level, and the results, are made of, through elementwise ops: what an earlier walk has made stays from then on.
    /// With it the registers that an element takes between levels.
    fn kept(&self, graph: &Graph) -> (Vec<Vec<ValueId>>, u32) {
        let heavy = self.heavy(graph);
        let mut made: Vec<Option<usize>> = vec![None; graph.values.len()];
        let mut kept: Vec<Vec<ValueId>> = vec![vec![]; self.levels.len()];
        let mut held: Vec<Vec<ValueId>> = kept.clone();
        let operands = |level: &Vec<NodeId>| level.iter().map(|n| graph.node(*n).inputs[0]).collect::<Vec<_>>();
        let results = self.full.iter().map(|i| graph.outputs[*i].1).collect();
        for (stage, roots) in self.levels.iter().map(operands).chain([results]).enumerate() {
            let mut open = roots;
            while let Some(v) = open.pop() {
                if !heavy[v.index()] || graph.ty(v).shape != self.rows.shape {
                    continue;
                }
                let node = graph.producer(v);
                // A number is wider than what it was cast from.
                let widens = matches!(node.op, Op::Cast { .. })
                    && graph.ty(node.inputs[0]).dtype.bits() < graph.ty(v).dtype.bits();
                match made[v.index()] {
                    Some(earlier) if earlier < stage && !widens => {
                        if !kept[earlier].contains(&v) {
                            kept[earlier].push(v);
                        }
                        held[earlier..stage].iter_mut().filter(|held| !held.contains(&v)).for_each(|held| held.push(v));
                        continue;
                    }
                    Some(same) if same == stage => continue,
                    Some(_) => {}
                    None => made[v.index()] = Some(stage),
                }
                if node.op.kind() == OpKind::Elementwise {
                    open.extend(&node.inputs);
                }
            }
        }
        let registers = |held: &Vec<ValueId>| held.iter().map(|v| words(graph.ty(*v).dtype)).sum();
        let most: u32 = held.iter().map(registers).max().unwrap_or(0);
        (kept, most.max(1))
    }

    /// Whether a value is made of an operand as large as all rows: the others are cheaper made again than kept.
    fn heavy(&self, graph: &Graph) -> Vec<bool> {
        let all = numel(&self.rows.shape);
        let mut heavy = vec![false; graph.values.len()];
        graph.inputs.iter().for_each(|v| heavy[v.index()] = numel(&graph.ty(*v).shape) == all);
        for node in &graph.nodes {
            let any = node.op.kind() != OpKind::Reduce && node.inputs.iter().any(|v| heavy[v.index()]);
            node.outputs.iter().for_each(|v| heavy[v.index()] |= any);
        }
        heavy
    }
}

/// 32-bit registers of an element.
fn words(dtype: DType) -> u32 {
    dtype.bits().div_ceil(32).max(1)
}

/// The reductions, those that depend on no other first.
fn levels(region: &Region) -> Vec<Vec<NodeId>> {
    let graph = &region.graph;
    let anchors = region.anchors();
    let mut depth = vec![0usize; graph.nodes.len()];
    let mut levels: Vec<Vec<NodeId>> = vec![];
    for (i, node) in graph.nodes.iter().enumerate() {
        let below = node.inputs.iter().map(|v| depth[graph.value(*v).node.index()]).max().unwrap_or(0);
        let own = anchors.contains(&NodeId(i as u32));
        depth[i] = below + usize::from(own);
        if own {
            levels.resize_with(levels.len().max(depth[i]), Vec::new);
            levels[below].push(NodeId(i as u32));
        }
    }
    levels
}
