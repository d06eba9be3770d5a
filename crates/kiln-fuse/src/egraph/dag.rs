//! The saturated e-graph as a dense acyclic one: classes in topological order, and only those e-nodes whose operands come earlier.
//!
//! Rewriting makes cycles (`x * 1 = x` puts `x` below itself). An e-node stays only if each operand is in another strongly connected
//! component or strictly shallower, so that every choice of e-nodes is a finite term. Of what has a twin with its axes in another order, only those stay that go by twins.

use super::{EGraph, Effort, Head, KernelPlace, Term, op_of};
use crate::rules::LAYOUT;
use egg::Id;
use kiln_graph::{Op, TensorType};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Index of a class in its [`Dag`]: operands have smaller ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ClassIx(pub u32);

impl ClassIx {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One way to compute a class.
#[derive(Clone, Debug)]
pub(crate) struct DagNode {
    /// What it does; `None` for one result of the (single) operand, an op with several or a kernel, and for the kernel itself.
    pub op: Option<Op>,
    /// Which result of the operand, where `op` is none.
    pub part: usize,
    pub operands: Vec<ClassIx>,
    /// Which firing of a rule made it; none if the model wrote it.
    pub made: Option<usize>,
}

/// One value (or, for ops with several results, their tuple).
#[derive(Clone, Debug)]
pub(crate) struct DagClass {
    pub types: Vec<TensorType>,
    /// Op with several results, or a kernel: only reached through `result` nodes.
    pub tuple: bool,
    /// Every element is this value.
    pub splat: Option<f64>,
    pub weight_only: bool,
    pub literal: bool,
    /// Computable from literals and extents.
    pub shapely: bool,
    /// What computing it from weights takes.
    pub effort: Effort,
    pub nodes: Vec<DagNode>,
}

impl DagClass {
    /// The type of a value; a tuple has none.
    pub fn ty(&self) -> &TensorType {
        &self.types[0]
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Dag {
    pub classes: Vec<DagClass>,
    pub(super) index: HashMap<Id, ClassIx>,
    /// What the classes that are kernels compute.
    pub(super) kernels: BTreeMap<ClassIx, KernelPlace>,
}

impl Dag {
    /// The part of an e-graph that `roots` can be computed from.
    pub fn new(egraph: &EGraph, roots: &[Id]) -> Dag {
        let ways = Ways::of(egraph);
        let order = Components::of(&ways, roots);
        let mut index = HashMap::new();
        let mut depth: HashMap<Id, u32> = HashMap::new();
        let mut classes: Vec<DagClass> = Vec::new();
        for component in &order {
            let inside = |id: Id| component.contains(&id);
            // Depths within the component, to a fixed point.
            depth.extend(component.iter().map(|id| (*id, u32::MAX)));
            let looped = component.len() > 1;
            loop {
                let mut changed = false;
                for id in component {
                    let best = ways
                        .values_below(*id)
                        .filter_map(|children| {
                            children.iter().filter(|c| inside(**c)).try_fold(0, |d: u32, c| match depth[c] {
                                u32::MAX => None,
                                below => Some(d.max(below + 1)),
                            })
                        })
                        .min();
                    if let Some(best) = best
                        && best < depth[id]
                    {
                        depth.insert(*id, best);
                        changed = true;
                    }
                }
                if !changed || !looped {
                    break;
                }
            }
            let mut sorted = component.clone();
            sorted.sort_by_key(|id| (depth[id], *id));
            for id in &sorted {
                index.insert(*id, ClassIx(classes.len() as u32));
                let class = &egraph[*id];
                let nodes = ways
                    .terms(*id)
                    .filter_map(|term| {
                        let (op, part, operands) = match term.head {
                            Head::Result(i) => (None, i as usize, term.children.clone()),
                            _ => op_of(egraph, term).map(|(op, operands)| (Some(op), 0, operands))?,
                        };
                        let operands: Vec<Id> = operands.into_iter().map(|c| egraph.find(c)).collect();
                        let earlier = operands.iter().all(|c| !inside(*c) || depth[c] < depth[id]);
                        earlier.then(|| DagNode {
                            op,
                            part,
                            operands: operands.iter().map(|c| index[c]).collect(),
                            made: egraph.analysis.trace.origin(term),
                        })
                    })
                    .collect::<Vec<_>>();
                let tuple = nodes.iter().any(|n| is_tuple(n.op.as_ref()));
                let f = &class.data;
                classes.push(DagClass {
                    types: f.types.clone(),
                    tuple,
                    splat: f.splat,
                    weight_only: f.weight_only,
                    literal: f.literal,
                    shapely: f.shapely,
                    effort: f.effort,
                    nodes,
                });
            }
        }
        Dag { classes, index, kernels: BTreeMap::new() }
    }

    /// The class of an e-class id, if the roots can be computed from it.
    pub fn find(&self, egraph: &EGraph, id: Id) -> Option<ClassIx> {
        self.index.get(&egraph.find(id)).copied()
    }

    /// A class by index.
    pub fn class(&self, ix: ClassIx) -> &DagClass {
        &self.classes[ix.index()]
    }

    /// The kernel that a class stands for.
    pub fn kernel(&self, ix: ClassIx) -> Option<&KernelPlace> {
        self.kernels.get(&ix)
    }

    /// Every class index in topological order.
    pub fn indices(&self) -> impl DoubleEndedIterator<Item = ClassIx> + use<> {
        (0..self.classes.len() as u32).map(ClassIx)
    }
}

/// Whether an op has (or may have) other than one result.
pub(crate) fn is_tuple(op: Option<&Op>) -> bool {
    op.is_some_and(|op| op.kind().is_tuple())
}

/// The e-nodes of classes.
struct Ways<'a> {
    egraph: &'a EGraph,
    /// Classes that have twins: e-nodes that the pass made which made those are their only ones.
    twinned: HashSet<Id>,
}

impl<'a> Ways<'a> {
    fn of(egraph: &'a EGraph) -> Ways<'a> {
        let by_twins = |term: &Term| egraph.analysis.trace.is_by(term, LAYOUT);
        let twinned = egraph.analysis.twins.iter().map(|(class, _)| egraph.find(*class));
        Ways { egraph, twinned: twinned.filter(|id| egraph[*id].nodes.iter().any(by_twins)).collect() }
    }

    fn terms(&self, id: Id) -> impl Iterator<Item = &'a Term> {
        let (egraph, all) = (self.egraph, !self.twinned.contains(&id));
        egraph[id].nodes.iter().filter(move |term| all || egraph.analysis.trace.is_by(term, LAYOUT))
    }

    /// Operand values of each e-node of a class (attributes left out).
    fn values_below(&self, id: Id) -> impl Iterator<Item = Vec<Id>> {
        let egraph = self.egraph;
        self.terms(id).map(move |term| {
            term.children.iter().map(|c| egraph.find(*c)).filter(|c| !egraph[*c].data.types.is_empty()).collect()
        })
    }
}

/// Tarjan's strongly connected components, operands first, without recursion: models are deeper than a thread's stack.
struct Components {
    order: HashMap<Id, u32>,
    low: HashMap<Id, u32>,
    on_stack: HashSet<Id>,
    stack: Vec<Id>,
    found: Vec<Vec<Id>>,
}

impl Components {
    fn of(ways: &Ways, roots: &[Id]) -> Vec<Vec<Id>> {
        let mut s = Components {
            order: HashMap::new(),
            low: HashMap::new(),
            on_stack: Default::default(),
            stack: Vec::new(),
            found: Vec::new(),
        };
        let below = |id: Id| {
            let mut all: Vec<Id> = ways.values_below(id).flatten().collect();
            all.sort();
            all.dedup();
            all
        };
        for root in roots.iter().map(|r| ways.egraph.find(*r)) {
            if s.order.contains_key(&root) {
                continue;
            }
            let mut frames = vec![(root, below(root), 0usize)];
            s.enter(root);
            while let Some((id, children, next)) = frames.last_mut() {
                let id = *id;
                if let Some(&child) = children.get(*next) {
                    *next += 1;
                    if !s.order.contains_key(&child) {
                        s.enter(child);
                        frames.push((child, below(child), 0));
                    } else if s.on_stack.contains(&child) {
                        let low = s.low[&id].min(s.order[&child]);
                        s.low.insert(id, low);
                    }
                    continue;
                }
                frames.pop();
                if let Some((parent, _, _)) = frames.last() {
                    let low = s.low[parent].min(s.low[&id]);
                    s.low.insert(*parent, low);
                }
                if s.low[&id] == s.order[&id] {
                    let at = s.stack.iter().rposition(|x| *x == id).unwrap_or(0);
                    let component = s.stack.split_off(at);
                    for c in &component {
                        s.on_stack.remove(c);
                    }
                    s.found.push(component);
                }
            }
        }
        s.found
    }

    fn enter(&mut self, id: Id) {
        let n = self.order.len() as u32;
        self.order.insert(id, n);
        self.low.insert(id, n);
        self.stack.push(id);
        self.on_stack.insert(id);
    }
}
