//! Convolution nets with channels last. What convolutions make, and what follows from that by ops that treat each axis by itself, has a *twin*: the same value with its axes in
//! another order. A convolution of a twin is the one that there is between two permutes, which kernels read and write in place; all other ops are of twins, with their axes mapped.
//! Values come back to their own order where something else needs them.
//!
//! Which order a net is in is chosen here, for all values that hang together: flow begins anew at what is in memory under any cover, and could not carry a choice that reaches
//! through the whole net. Where twins are worth it, they are the only way to have the values.
//!
//! Exact: every element is what it was. A pass of its own, as rules that move permutes would move all permutes of a model.

mod through;
mod turn;
mod worth;

use super::Saturation;
use super::merge::{Use, shape, uses};
use crate::Options;
use crate::egraph::{EGraph, LeftHandSide, Put, op_of};
use egg::{Id, PatternAst};
use kiln_graph::{Dim, Op, OpKind};
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use through::{Order, Through, channels_last, inverse, is_identity, ordered, through};
use turn::{Turned, permuted};
use worth::Worth;
pub(crate) use worth::neighbours;

/// The name of this pass among rules.
pub(crate) const NAME: &str = "channels-last";
/// Input channels from which an image that comes with channels apart may be laid out anew.
const WIDE: i64 = 16;
/// Elementwise ops behind a convolution that are also had in the model's order, where a result is wanted in that.
const BEHIND: usize = 16;

/// Adds twins to a saturated e-graph for a GPU, where they save time.
pub(crate) fn layout(egraph: &mut EGraph, done: &mut Saturation, outputs: &[Id], options: &Options) {
    let windows = |op: &Op| matches!(op.kind(), OpKind::Conv | OpKind::Window);
    // A kernel that somebody wrote takes images as its function has them.
    let written = options.patterns.iter().any(|p| p.graph().nodes.iter().any(|node| windows(&node.op)));
    if options.target.arch().is_some() && !written {
        twin(egraph, done, outputs, |layout, egraph| Worth::of(egraph, layout, options).components());
    }
}

/// Adds twins of the values that `keep` says, a number of each component.
pub(super) fn twin(
    egraph: &mut EGraph,
    done: &mut Saturation,
    outputs: &[Id],
    keep: impl FnOnce(&Layout, &EGraph) -> BTreeSet<Id>,
) {
    let mut layout = Layout::of(egraph, outputs);
    if layout.orders.is_empty() {
        return;
    }
    let kept = keep(&layout, egraph);
    layout.keep(&kept);
    egraph.analysis.trace.enter();
    layout.build(egraph);
    layout.come_back(egraph);
    for (a, b) in &layout.equal {
        egraph.union(*a, *b);
    }
    egraph.rebuild();
    if !layout.twins.is_empty() {
        done.fired.insert(NAME.to_owned(), layout.twins.len());
    }
    let left = LeftHandSide { pattern: PatternAst::default(), vars: vec![] };
    let made = egraph.analysis.trace.leave();
    egraph.analysis.trace.fired(NAME.into(), made, &Arc::new(left), []);
    // A value of axes of one element may be its own twin.
    layout.twins.retain(|class, twin| egraph.find(*class) != egraph.find(*twin) && !layout.plain.contains(class));
    egraph.analysis.twins = layout.twins.into_iter().collect();
    done.nodes = egraph.total_size();
}

/// Values with twins, and how these come about.
pub(super) struct Layout {
    /// The order of each value that has a twin.
    orders: BTreeMap<Id, Order>,
    /// E-nodes that are to be had of twins.
    tasks: Vec<Use>,
    /// Values that are needed in their own order.
    exits: BTreeSet<Id>,
    /// Those that something reads which is not had of twins.
    wanted: BTreeSet<Id>,
    twins: BTreeMap<Id, Id>,
    /// What convolutions make of twins, in the model's order.
    results: BTreeMap<Id, Id>,
    /// Results of convolutions that are the model's own.
    plain: BTreeSet<Id>,
    turned: Turned,
    equal: Vec<(Id, Id)>,
}

impl Layout {
    /// What is reached from convolutions.
    fn of(egraph: &EGraph, outputs: &[Id]) -> Layout {
        let mut orders: BTreeMap<Id, Order> = BTreeMap::new();
        let (mut tasks, mut seen) = (vec![], HashSet::new());
        let mut classes: Vec<Id> = egraph.classes().filter(|c| !c.data.weight_only).map(|c| c.id).collect();
        classes.sort_unstable();
        for class in classes {
            for (op, operands) in egraph[class].nodes.iter().filter_map(|term| op_of(egraph, term)) {
                if let (Op::Conv { .. }, Some(ty)) = (&op, egraph[class].data.types.first()) {
                    orders.insert(class, channels_last(ty.rank()));
                    let task = (class, op, operands.iter().map(|id| egraph.find(*id)).collect::<Vec<Id>>());
                    seen.insert(task.clone());
                    tasks.push(task);
                }
            }
        }
        let mut exits: BTreeSet<Id> = outputs.iter().map(|id| egraph.find(*id)).collect();
        let mut all: BTreeMap<Id, Vec<Id>> = BTreeMap::new();
        let mut queue: VecDeque<Id> = orders.keys().copied().collect();
        while let Some(class) = queue.pop_front() {
            let users = all.entry(class).or_default();
            for task in uses(egraph, class) {
                users.push(task.0);
                if egraph[task.0].data.weight_only || matches!(task.1, Op::Conv { .. }) {
                    continue;
                }
                let Some(Through { order, .. }) = passed(egraph, &task, |id| orders.get(&id).cloned()) else {
                    continue;
                };
                let direct = is_identity(&order);
                let mut found = vec![];
                if direct {
                    // Reduced axes that are put back stand where they were.
                    found.extend(kept(egraph, &task).into_iter().map(|task| (task, orders[&class].clone())));
                } else {
                    found.push((task.clone(), order));
                }
                for (task, order) in found {
                    let known = orders.entry(task.0).or_insert_with(|| {
                        queue.push_back(task.0);
                        order.clone()
                    });
                    if *known == order && seen.insert(task.clone()) {
                        tasks.push(task);
                    }
                }
                if direct && seen.insert(task.clone()) {
                    tasks.push(task);
                }
            }
        }
        exits.retain(|class| orders.contains_key(class));
        let mut wanted = exits.clone();
        let made: BTreeSet<Id> = tasks.iter().map(|task| task.0).collect();
        for (class, users) in all {
            if users.iter().any(|user| !orders.contains_key(user)) {
                exits.insert(class);
            }
            if users.iter().any(|user| !orders.contains_key(user) && !made.contains(user)) {
                wanted.insert(class);
            }
        }
        let (twins, results, plain) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Layout { orders, tasks, exits, wanted, twins, results, plain, turned: Turned::default(), equal: vec![] }
    }

    /// All values that are to have twins.
    #[cfg(test)]
    pub fn all(&self) -> BTreeSet<Id> {
        self.orders.keys().copied().collect()
    }

    /// Leaves the others out.
    fn keep(&mut self, kept: &BTreeSet<Id>) {
        self.orders.retain(|class, _| kept.contains(class));
        self.exits.retain(|class| kept.contains(class));
        self.tasks.retain(|(class, _, operands)| kept.contains(class) || operands.iter().any(|id| kept.contains(id)));
    }

    /// The operands of an e-node that have twins, each once; of a convolution its image.
    fn twinned(&self, (_, op, operands): &Use) -> BTreeSet<Id> {
        let read = if matches!(op, Op::Conv { .. }) { &operands[..1] } else { &operands[..] };
        read.iter().copied().filter(|id| self.orders.contains_key(id)).collect()
    }

    /// Builds each e-node once all of its operands have their twins.
    fn build(&mut self, egraph: &mut EGraph) {
        let tasks = std::mem::take(&mut self.tasks);
        let mut waits: Vec<usize> = Vec::with_capacity(tasks.len());
        let mut users: BTreeMap<Id, Vec<usize>> = BTreeMap::new();
        for (i, task) in tasks.iter().enumerate() {
            let operands = self.twinned(task);
            waits.push(operands.len());
            operands.into_iter().for_each(|id| users.entry(id).or_default().push(i));
        }
        let mut ready: VecDeque<usize> = (0..tasks.len()).filter(|i| waits[*i] == 0).collect();
        while let Some(i) = ready.pop_front() {
            let task = &tasks[i];
            let made = match &task.1 {
                Op::Conv { .. } => self.convolution(egraph, task),
                _ => self.of_twins(egraph, task),
            };
            let Some((id, direct)) = made else { continue };
            let class = task.0;
            match self.twins.get(&class) {
                _ if direct => self.equal.push((class, id)),
                Some(known) => self.equal.push((*known, id)),
                None => {
                    self.twins.insert(class, id);
                    for user in users.get(&class).into_iter().flatten() {
                        waits[*user] -= 1;
                        if waits[*user] == 0 {
                            ready.push_back(*user);
                        }
                    }
                }
            }
        }
        self.tasks = tasks;
        self.orders.retain(|class, _| self.twins.contains_key(class));
        self.exits.retain(|class| self.twins.contains_key(class));
    }

    /// The twin of a convolution's result.
    fn convolution(&mut self, egraph: &mut EGraph, (class, op, operands): &Use) -> Option<(Id, bool)> {
        let &[x, w] = &operands[..] else { return None };
        let order = self.orders.get(class)?.clone();
        let filter = self.filter(egraph, w, &order)?;
        let image = match (self.twins.get(&x), self.orders.get(&x)) {
            (Some(twin), Some(own)) => permuted(egraph, *twin, &inverse(own))?,
            // It comes from outside: read as it is.
            _ => x,
        };
        let result = egraph.try_put(op, &[image, filter])?;
        self.results.entry(*class).or_insert(result);
        if filter == w {
            self.plain.insert(*class);
        }
        let twin = permuted(egraph, result, &order)?;
        let channels = shape(egraph, x)?.get(1)?.as_const();
        if image == x && channels.is_none_or(|channels| channels >= WIDE) {
            let laid_out = self.turn(egraph, x, &order)?;
            let image = permuted(egraph, laid_out, &inverse(&order))?;
            let result = egraph.try_put(op, &[image, filter])?;
            let again = permuted(egraph, result, &order)?;
            self.equal.push((twin, again));
        }
        Some((twin, false))
    }

    /// A filter as one whose channels are side by side in memory: its own class, so that convolutions of twins are none of the model's.
    fn filter(&mut self, egraph: &mut EGraph, w: Id, order: &[usize]) -> Option<Id> {
        if self.orders.contains_key(&w) {
            self.exits.insert(w);
        }
        let last = permuted(egraph, w, order)?;
        permuted(egraph, last, &inverse(order))
    }

    /// An e-node of twins, and whether it makes the value itself.
    fn of_twins(&mut self, egraph: &mut EGraph, task: &Use) -> Option<(Id, bool)> {
        let (class, own, operands) = task;
        if let (Op::Reshape { shape: to }, Some(order)) = (own, self.orders.get(class))
            && !self.orders.contains_key(&operands[0])
        {
            let to = ordered(to, order);
            return Some((turn::in_shape(egraph, operands[0], &to)?, false));
        }
        let Through { op, order, operands: read } = passed(egraph, task, |id| self.orders.get(&id).cloned())?;
        let direct = is_identity(&order);
        if self.orders.get(class) != Some(&order).filter(|_| !direct) {
            return None;
        }
        let mut own = Vec::with_capacity(operands.len());
        for (id, order) in operands.iter().zip(read) {
            own.push(match order {
                Some(order) => self.turn(egraph, *id, &order)?,
                None => *id,
            });
        }
        self.exits.extend(operands.iter().zip(&own).filter(|(a, b)| a == b).map(|(a, _)| *a));
        self.exits.retain(|id| self.orders.contains_key(id));
        let made = match op {
            Some(op) => egraph.try_put(&op, &own)?,
            None => own[0],
        };
        let expected = ordered(&shape(egraph, *class)?, &order);
        let fits = shape(egraph, made)? == expected
            && egraph[made].data.types[0].dtype == egraph[*class].data.types.first()?.dtype;
        fits.then_some((made, direct))
    }

    /// A value in another order.
    fn turn(&mut self, egraph: &mut EGraph, id: Id, order: &[usize]) -> Option<Id> {
        let id = egraph.find(id);
        match (self.twins.get(&id), self.orders.get(&id)) {
            (Some(twin), Some(own)) if own == order => return Some(*twin),
            (_, Some(_)) => {
                self.exits.insert(id);
            }
            _ => {}
        }
        self.turned.of(egraph, id, order)
    }

    /// Has values that are needed so in their own order: as views of their twins, and as convolutions with what follows elementwise make them.
    fn come_back(&mut self, egraph: &mut EGraph) {
        let mut makers: BTreeMap<Id, Vec<usize>> = BTreeMap::new();
        for (i, (class, op, _)) in self.tasks.iter().enumerate() {
            let plain = op.kind() == OpKind::Elementwise && !matches!(op, Op::Quantize { .. } | Op::Dequantize { .. });
            if plain && self.twins.contains_key(class) {
                makers.entry(*class).or_default().push(i);
            }
        }
        let mut known = BTreeMap::new();
        for class in self.exits.clone() {
            let Some(back) = self.back(egraph, class) else { continue };
            self.equal.push((class, back));
            if let Some(made) = self.behind(egraph, &makers, &mut known, class, BEHIND) {
                self.equal.push((class, made));
            }
        }
    }

    /// A value as a view of its twin.
    fn back(&self, egraph: &mut EGraph, class: Id) -> Option<Id> {
        permuted(egraph, *self.twins.get(&class)?, &inverse(self.orders.get(&class)?))
    }

    /// A value in its own order, by elementwise ops behind convolutions of twins.
    fn behind(
        &mut self,
        egraph: &mut EGraph,
        makers: &BTreeMap<Id, Vec<usize>>,
        known: &mut BTreeMap<Id, Option<Id>>,
        class: Id,
        steps: usize,
    ) -> Option<Id> {
        if let Some(result) = self.results.get(&class) {
            return Some(*result);
        }
        if let Some(known) = known.get(&class) {
            return *known;
        }
        known.insert(class, None);
        let ways = makers.get(&class).filter(|_| steps > 0)?;
        let mut found: Option<Id> = None;
        for way in ways {
            let (_, op, operands) = self.tasks[*way].clone();
            let made: Vec<Option<Id>> =
                operands.iter().map(|id| self.behind(egraph, makers, known, *id, steps - 1)).collect();
            if made.iter().all(Option::is_none) {
                continue;
            }
            let own: Option<Vec<Id>> = operands
                .iter()
                .zip(made)
                .map(|(id, made)| match self.twins.contains_key(id) {
                    true => made.or_else(|| self.back(egraph, *id)),
                    false => Some(*id),
                })
                .collect();
            let Some(id) = own.and_then(|own| egraph.try_put(&op, &own)) else { continue };
            match found {
                Some(first) => self.equal.push((first, id)),
                None => found = Some(id),
            }
        }
        known.insert(class, found);
        found
    }
}

/// What puts the axes back that a reduction has removed.
fn kept(egraph: &EGraph, (class, op, operands): &Use) -> Vec<Use> {
    let axes = match op {
        Op::Reduce { axes, .. } => axes.clone(),
        Op::ArgReduce { axis, .. } => vec![*axis],
        _ => return vec![],
    };
    let Some(mut to) = shape(egraph, operands[0]) else { return vec![] };
    axes.iter().for_each(|axis| to[*axis] = Dim::from(1));
    let back = |task: &Use| matches!(&task.1, Op::Reshape { shape } if *shape == to);
    uses(egraph, *class).into_iter().filter(back).collect()
}

/// What an e-node does to operands of which some have twins.
fn passed(egraph: &EGraph, (class, op, operands): &Use, order: impl Fn(Id) -> Option<Order>) -> Option<Through> {
    let from: Vec<Vec<Dim>> = operands.iter().map(|id| shape(egraph, *id)).collect::<Option<_>>()?;
    let known: Vec<Option<Order>> = operands.iter().map(|id| order(*id)).collect();
    through(op, &from, &shape(egraph, *class)?, &known)
}
