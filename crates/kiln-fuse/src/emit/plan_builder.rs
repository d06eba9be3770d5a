//! Buffers and steps.

use super::fold::Folder;
use super::names::{Provenance, unique};
use super::region_builder::{part_of, region_graph};
use crate::cuts::{Choice, Cover, Launch, is_literal};
use crate::egraph::{ClassIx, Dag};
use crate::plan::{Anchor, Buffer, BufferId, BufferKind, Plan, Region, Step};
use crate::{Canonical, Error, Options, RegionId, Result};
use kiln_graph::{Graph, Op, OpKind, TensorType};
use std::collections::{BTreeSet, HashMap};

/// What emission works from.
pub(crate) struct Emission<'a> {
    pub graph: &'a Graph,
    pub dag: &'a Dag,
    pub cover: &'a Cover,
    pub provenance: &'a Provenance,
    pub options: &'a Options,
}

/// The plan of a cover, and the region index of each launch in order (none for other steps).
pub(crate) fn emit(from: &Emission, launches: &[Launch], results: &[ClassIx]) -> Result<(Plan, Vec<Option<usize>>)> {
    let graph = from.graph;
    let mut b = PlanBuilder {
        from,
        plan: Plan {
            name: graph.name.clone(),
            symbols: graph.symbols.clone(),
            constraints: graph.constraints.clone(),
            ..Plan::default()
        },
        buffers: HashMap::new(),
        folder: Folder::new(&graph.weights),
        by_identity: HashMap::new(),
        weight_names: graph.weights.keys().cloned().collect(),
    };
    for v in &graph.inputs {
        let Op::Input { name, ty } = &graph.producer(*v).op else { continue };
        let id = b.buffer(ty.clone(), BufferKind::Input(name.clone()), name, None);
        b.plan.inputs.push(id);
    }
    let mut regions = Vec::with_capacity(launches.len());
    for launch in launches {
        regions.push(match launch {
            Launch::Region { inner, outputs, anchor, kernel, .. } => {
                let operands = kernel.and_then(|k| from.dag.kernel(k)).map_or(&[][..], |place| &place.inputs);
                Some(b.region(inner, outputs, operands, *anchor)?)
            }
            Launch::Step(class, node) => b.step(*class, *node)?,
        });
    }
    for ((name, _), class) in graph.outputs.iter().zip(results) {
        let id = b.output(*class)?;
        b.plan.outputs.push((name.clone(), id));
    }
    Ok((b.plan, regions))
}

struct PlanBuilder<'a> {
    from: &'a Emission<'a>,
    plan: Plan,
    buffers: HashMap<ClassIx, BufferId>,
    folder: Folder<'a>,
    /// Regions by what they compute.
    by_identity: HashMap<RegionId, usize>,
    weight_names: BTreeSet<String>,
}

impl PlanBuilder<'_> {
    fn buffer(&mut self, ty: TensorType, kind: BufferKind, name: &str, alias_of: Option<BufferId>) -> BufferId {
        self.plan.buffers.push(Buffer { ty, kind, name: name.to_owned(), alias_of });
        BufferId(self.plan.buffers.len() as u32 - 1)
    }

    fn temp(&mut self, class: ClassIx) -> BufferId {
        let name = self.from.provenance.value[class.index()].clone();
        let id = self.buffer(self.from.dag.class(class).ty().clone(), BufferKind::Temp, &name, None);
        self.buffers.insert(class, id);
        id
    }

    /// The buffer that holds a class, which an earlier step has written unless it needs none.
    fn read(&mut self, class: ClassIx) -> Result<BufferId> {
        if let Some(id) = self.buffers.get(&class) {
            return Ok(*id);
        }
        let missing = || Error::Plan {
            plan: self.from.graph.name.clone(),
            message: format!("a step reads {} before it is written", self.from.dag.class(class).ty()),
        };
        let id = match self.from.cover.choices[class.index()].clone() {
            Some(Choice::Alias(of)) => self.alias(class, of)?,
            Some(Choice::Free) => self.known(class)?,
            _ => return Err(missing()),
        };
        self.buffers.insert(class, id);
        Ok(id)
    }

    fn alias(&mut self, class: ClassIx, of: ClassIx) -> Result<BufferId> {
        let of = self.read(of)?;
        let base = &self.plan.buffers[of.index()];
        let (kind, base) = (base.kind.clone(), base.alias_of.unwrap_or(of));
        let name = self.from.provenance.value[class.index()].clone();
        Ok(self.buffer(self.from.dag.class(class).ty().clone(), kind, &name, Some(base)))
    }

    /// The buffer of an input, a weight or a folded value.
    fn known(&mut self, class: ClassIx) -> Result<BufferId> {
        let dag = self.from.dag;
        let ty = dag.class(class).ty().clone();
        for node in &dag.class(class).nodes {
            match &node.op {
                Some(Op::Input { name, .. }) => {
                    let own = |id: &&BufferId| self.plan.buffers[id.index()].kind == BufferKind::Input(name.clone());
                    if let Some(id) = self.plan.inputs.iter().find(own) {
                        return Ok(*id);
                    }
                }
                Some(Op::Weight { name, .. }) => {
                    if let Some(data) = self.from.graph.weights.get(name) {
                        self.plan.weights.insert(name.clone(), data.clone());
                    }
                    return Ok(self.buffer(ty, BufferKind::Weight(name.clone()), name, None));
                }
                _ => {}
            }
        }
        // A reshaped weight shares its data.
        for node in &dag.class(class).nodes {
            let weight = |c: ClassIx| dag.class(c).nodes.iter().any(|n| matches!(n.op, Some(Op::Weight { .. })));
            if matches!(node.op, Some(Op::Reshape { .. })) && weight(node.operands[0]) {
                let of = match self.buffers.get(&node.operands[0]) {
                    Some(id) => *id,
                    None => {
                        let id = self.known(node.operands[0])?;
                        self.buffers.insert(node.operands[0], id);
                        id
                    }
                };
                let kind = self.plan.buffers[of.index()].kind.clone();
                return Ok(self.buffer(ty, kind, "", Some(of)));
            }
        }
        let value = self.folder.value(dag, class)?;
        let raw = match self.from.provenance.value[class.index()].as_str() {
            "" => "folded",
            name => name,
        };
        let name = unique(raw, &mut self.weight_names);
        self.plan.weights.insert(name.clone(), value);
        self.plan.folded.insert(name.clone(), self.folder.recipe(dag, class)?);
        Ok(self.buffer(ty, BufferKind::Weight(name.clone()), &name, None))
    }

    fn region(
        &mut self,
        inner: &[(ClassIx, u16)],
        outputs: &[ClassIx],
        operands: &[ClassIx],
        anchor: Anchor,
    ) -> Result<usize> {
        let cone = region_graph(self.from.dag, inner, outputs, operands, self.from.graph, &mut self.folder)?;
        let inputs = cone.operands.iter().map(|c| self.read(*c)).collect::<Result<Vec<_>>>()?;
        let outputs = outputs.iter().map(|c| self.temp(*c)).collect::<Vec<_>>();
        let nodes = self.from.provenance.of(inner);
        Ok(self.run(&cone.graph, anchor, &inputs, &outputs, nodes))
    }

    /// Adds a step that runs a graph as one region, in canonical form and the step's operands in its order. Gives the region's index.
    fn run(
        &mut self,
        graph: &Graph,
        anchor: Anchor,
        inputs: &[BufferId],
        outputs: &[BufferId],
        nodes: Vec<String>,
    ) -> usize {
        let Canonical { region, inputs: from, outputs: to, symbols } = Region::canonical(graph, anchor);
        let index = *self.by_identity.entry(region.identity()).or_insert_with(|| {
            self.plan.regions.push(region);
            self.plan.regions.len() - 1
        });
        let inputs = from.into_iter().map(|i| inputs[i]).collect();
        let outputs = to.into_iter().map(|i| outputs[i]).collect();
        self.plan.steps.push(Step::Run { region: index, inputs, outputs, symbols, nodes });
        index
    }

    /// An op with several results: control flow, top-k.
    fn step(&mut self, class: ClassIx, number: u16) -> Result<Option<usize>> {
        let dag = self.from.dag;
        let node = &dag.class(class).nodes[usize::from(number)];
        let Some(op) = &node.op else { return Ok(None) };
        let mut parts: Vec<Option<ClassIx>> = vec![None; dag.class(class).types.len()];
        for c in dag.indices() {
            if matches!(self.from.cover.choices[c.index()], Some(Choice::Part(of)) if of == class)
                && let Some(slot) = part_of(dag, c, class).and_then(|i| parts.get_mut(i))
            {
                *slot = Some(c);
            }
        }
        if op.kind() == OpKind::Alone {
            let inner = [(class, number)];
            let wanted: Vec<ClassIx> = parts.into_iter().flatten().collect();
            return self.region(&inner, &wanted, &[], Anchor::Alone).map(Some);
        }
        let inputs: Vec<BufferId> = node.operands.iter().map(|c| self.read(*c)).collect::<Result<_>>()?;
        let mut outputs = Vec::with_capacity(parts.len());
        for (i, part) in parts.into_iter().enumerate() {
            outputs.push(match part {
                Some(c) => self.temp(c),
                None => self.buffer(dag.class(class).types[i].clone(), BufferKind::Temp, "", None),
            });
        }
        let body = |graph: &Graph| crate::fuse(graph, self.from.options).map(|f| Box::new(f.plan));
        let step = match op {
            Op::If { then_graph, else_graph } => Step::If {
                cond: inputs[0],
                then_plan: body(then_graph)?,
                else_plan: body(else_graph)?,
                captures: inputs[1..].to_vec(),
                outputs,
            },
            Op::Loop { body: graph, carried, .. } => Step::Loop {
                trip: inputs[0],
                cond: inputs[1],
                body: body(graph)?,
                carried: inputs[2..2 + carried].to_vec(),
                captures: inputs[2 + carried..].to_vec(),
                outputs,
            },
            op => {
                let message = format!("`{}` is neither control flow nor in a region", op.name());
                return Err(Error::Plan { plan: self.from.graph.name.clone(), message });
            }
        };
        self.plan.steps.push(step);
        Ok(None)
    }

    /// A result of the plan: never an input or weight itself, so that results are the caller's to keep.
    fn output(&mut self, class: ClassIx) -> Result<BufferId> {
        let id = if is_literal(self.from.dag, class) && !self.buffers.contains_key(&class) {
            let id = self.known(class)?;
            self.buffers.insert(class, id);
            id
        } else {
            self.read(class)?
        };
        let buffer = &self.plan.buffers[id.index()];
        if buffer.kind == BufferKind::Temp {
            return Ok(id);
        }
        let ty = buffer.ty.clone();
        let mut graph = Graph::new("");
        let op = Op::Input { name: "x0".into(), ty: ty.clone() };
        let x = graph.push_node(op, &[], vec![ty.clone()], "")[0];
        graph.outputs.push(("y0".into(), x));
        super::region_builder::surroundings(&mut graph, self.from.graph);
        let out = self.buffer(ty, BufferKind::Temp, "", None);
        self.run(&graph, Anchor::Map, &[id], &[out], vec![]);
        Ok(out)
    }
}
