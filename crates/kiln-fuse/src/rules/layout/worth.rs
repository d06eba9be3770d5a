//! Whether twins save more than they cost: convolutions read runs of channels, and what enters or leaves in another order is laid out anew.

use super::super::merge::{Use, shape};
use super::{Layout, OpKind};
use crate::egraph::{EGraph, op_of};
use crate::options::TYPICAL;
use crate::{Options, typical_sizes};
use egg::Id;
use kiln_graph::{Bindings, ConvSpec, DType, Dim, Op, TensorType};
use kiln_target::{Target, Work};
use std::collections::{BTreeMap, BTreeSet};

pub(super) struct Worth<'a> {
    layout: &'a Layout,
    /// The number of each value's component: values hang together through ops that see both.
    component: BTreeMap<Id, usize>,
    /// Seconds that are saved by each component.
    saved: Vec<f64>,
}

impl<'a> Worth<'a> {
    pub fn of(egraph: &EGraph, layout: &'a Layout, options: &Options) -> Worth<'a> {
        let component = components(layout);
        let dims = layout.orders.keys().filter_map(|id| shape(egraph, *id)).flatten().collect::<Vec<_>>();
        let sizes = typical_sizes(&dims, &egraph.analysis.symbols, &options.sizes);
        let costs = Seconds { egraph, target: &options.target, sizes };
        let mut saved = vec![0.0; component.values().max().map_or(0, |n| n + 1)];
        let mut convolutions: BTreeMap<Id, f64> = BTreeMap::new();
        let mut entries: BTreeSet<Id> = BTreeSet::new();
        for (class, op, operands) in &layout.tasks {
            if let (Op::Conv { .. }, &[x, w]) = (op, &operands[..]) {
                // What comes from outside is read as it lies.
                if !layout.orders.contains_key(&x) {
                    continue;
                }
                let own = convolutions.entry(*class).or_default();
                *own = own.max(costs.gathered(op, [x, w], *class));
            } else if op.kind() == OpKind::Elementwise || matches!(op, Op::Concat { .. }) {
                let outside = |id: &&Id| !layout.orders.contains_key(id) && !seen_or_folded(egraph, **id);
                for id in operands.iter().filter(outside) {
                    // Read through a permute by what computes with it.
                    if let (true, Some(n)) = (entries.insert(*id), component.get(class)) {
                        saved[*n] -= costs.moved(*id);
                    }
                }
            }
        }
        convolutions.iter().for_each(|(class, seconds)| saved[component[class]] += seconds);
        // Convolutions and what follows elementwise write either order, but one of them.
        let read: BTreeSet<Id> = layout.tasks.iter().flat_map(|task| layout.twinned(task)).collect();
        let writes =
            |task: &&Use| matches!(task.1.kind(), OpKind::Conv | OpKind::Elementwise) && !read.contains(&task.0);
        let written: BTreeSet<Id> = layout.tasks.iter().filter(writes).map(|task| task.0).collect();
        for class in layout.wanted.iter().filter(|class| !written.contains(class)) {
            saved[component[class]] -= costs.moved(*class) + options.target.launch_seconds();
        }
        Worth { layout, component, saved }
    }

    /// The values of those components that save time.
    pub fn components(&self) -> BTreeSet<Id> {
        self.layout.orders.keys().copied().filter(|id| self.saved[self.component[id]] > 0.0).collect()
    }
}

/// Whether a value is a view, repeats something, or is known when the plan is built.
fn seen_or_folded(egraph: &EGraph, id: Id) -> bool {
    let view = |op: &Op| matches!(op, Op::Broadcast { .. } | Op::Permute { .. } | Op::Reshape { .. });
    egraph[id].data.weight_only
        || egraph[id].data.shapely
        || egraph[id].nodes.iter().filter_map(|term| op_of(egraph, term)).any(|(op, _)| view(&op))
}

fn components(layout: &Layout) -> BTreeMap<Id, usize> {
    let ids: Vec<Id> = layout.orders.keys().copied().collect();
    let number: BTreeMap<Id, usize> = ids.iter().enumerate().map(|(i, id)| (*id, i)).collect();
    let mut above: Vec<usize> = (0..ids.len()).collect();
    let root = |above: &mut Vec<usize>, mut i: usize| {
        while above[i] != i {
            above[i] = above[above[i]];
            i = above[i];
        }
        i
    };
    // What is made of twins in its own order, of which more may follow.
    let direct = layout.tasks.iter().filter(|task| !number.contains_key(&task.0));
    let direct: BTreeMap<Id, Id> = direct.filter_map(|task| Some((task.0, *layout.twinned(task).first()?))).collect();
    for task in &layout.tasks {
        let mut met = layout.twinned(task);
        met.extend(task.2.iter().filter_map(|id| direct.get(id)).chain([&task.0]));
        let met: Vec<usize> = met.iter().filter_map(|id| number.get(id)).copied().collect();
        for pair in met.windows(2) {
            let (a, b) = (root(&mut above, pair[0]), root(&mut above, pair[1]));
            above[a.max(b)] = a.min(b);
        }
    }
    ids.iter().enumerate().map(|(i, id)| (*id, root(&mut above, i))).collect()
}

/// Channels that a convolution's kernel reads side by side, where they lie so: those of a group, or of all groups that have one each.
pub(crate) fn neighbours(spec: &ConvSpec, image: &[Dim]) -> Dim {
    let groups = Dim::from(spec.groups);
    image[1].exact_div(&groups).filter(|channels| !channels.is(1)).unwrap_or_else(|| image[1].clone())
}

struct Seconds<'a> {
    egraph: &'a EGraph,
    target: &'a Target,
    sizes: Bindings,
}

impl Seconds<'_> {
    fn count(&self, ty: &TensorType) -> f64 {
        ty.shape.iter().map(|d| d.eval(&self.sizes).map_or(TYPICAL as f64, |n| n.max(0) as f64)).product()
    }

    fn ty(&self, id: Id) -> Option<&TensorType> {
        self.egraph[id].data.types.first()
    }

    fn bytes(&self, id: Id) -> f64 {
        self.ty(id).map_or(0.0, |ty| self.count(ty) * f64::from(ty.dtype.bits()) / 8.0)
    }

    /// What laying a value out anew takes, without a launch.
    fn moved(&self, id: Id) -> f64 {
        let (bytes, operands) = (2.0 * self.bytes(id), DType::F32);
        self.target.seconds(&Work { bytes, scalar_ops: 0.0, matrix_ops: 0.0, operands, tf32: false })
    }

    /// What a convolution takes longer that gathers its image one element at a time.
    fn gathered(&self, op: &Op, [x, w]: [Id; 2], class: Id) -> f64 {
        let (Op::Conv { spec, .. }, Some(image), Some(filter), Some(result)) =
            (op, self.ty(x), self.ty(w), self.ty(class))
        else {
            return 0.0;
        };
        // Of one tap it is a contraction, which reads either order.
        let plain = spec.groups == 1
            && spec.strides.iter().all(|stride| *stride == 1)
            && filter.shape[2..].iter().all(|extent| extent.is(1));
        let loss = self.target.gather_loss(neighbours(spec, &image.shape).as_const(), image.dtype);
        if plain || loss <= 1.0 {
            return 0.0;
        }
        let taps = TensorType { shape: filter.shape[1..].to_vec(), ..filter.clone() };
        let work = Work {
            bytes: self.bytes(x) + self.bytes(w) + self.bytes(class),
            scalar_ops: 0.0,
            matrix_ops: 2.0 * self.count(result) * self.count(&taps),
            operands: image.dtype,
            tf32: false,
        };
        (loss - 1.0) * self.target.seconds(&work)
    }
}
