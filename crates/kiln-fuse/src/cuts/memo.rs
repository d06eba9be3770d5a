//! Cuts are enumerated once for all classes that see the same: those of equal layers, and those of one class in another pass. What [`cuts_of`] consults is written down as a
//! key, with places in the order of the classes for their numbers; under an equal key the cuts are the same but for these numbers, to the last tie.

use super::cut::{Cut, Inner, is_literal};
use super::enumerate::{Ranking, cuts_of};
use crate::Anchor;
use crate::egraph::ClassIx;
use kiln_graph::OpKind;
use std::collections::HashMap;

/// Cuts that are known.
pub(super) struct Memo<'a> {
    ranking: &'a Ranking<'a>,
    /// What each class can be seen as in place: the class that is read then, and what is between.
    views: Vec<Vec<(ClassIx, Vec<Inner>)>>,
    /// By key, with places for the numbers of classes.
    known: HashMap<Vec<u64>, Vec<Cut>>,
}

impl<'a> Memo<'a> {
    pub fn new(ranking: &'a Ranking<'a>) -> Memo<'a> {
        let views = |c| ranking.views.cones(c).map(|(leaf, cone)| (leaf, cone.inner)).collect();
        Memo { ranking, views: ranking.dag.indices().map(views).collect(), known: HashMap::new() }
    }

    /// [`cuts_of`].
    pub fn cuts_of(&mut self, class: ClassIx, earlier: &[Vec<Cut>], flow: &[f64]) -> Vec<Cut> {
        // Costs then depend on the numbers of classes.
        if self.ranking.costs.is_perturbed() {
            return cuts_of(self.ranking, class, earlier, flow);
        }
        let seen = Seen::from(self, class, earlier);
        let key = seen.key(self, flow);
        if let Some(known) = self.known.get(&key) {
            return known.iter().map(|cut| renumbered(cut, |place| seen.classes[place.index()])).collect();
        }
        let found = cuts_of(self.ranking, class, earlier, flow);
        let places = found.iter().map(|cut| renumbered(cut, |c| ClassIx(seen.place(c) as u32)));
        self.known.insert(key, places.collect());
        found
    }
}

/// What the cuts of a class depend on.
struct Seen<'s> {
    class: ClassIx,
    /// All classes, sorted.
    classes: Vec<ClassIx>,
    /// Those of them whose flow counts, sorted.
    read: Vec<ClassIx>,
    /// Those that can be seen as something else in place, as far as that counts.
    viewed: Vec<ClassIx>,
    /// Inner classes and their nodes, sorted.
    inner: Vec<Inner>,
    /// Cuts below.
    below: Vec<&'s [Cut]>,
}

impl<'s> Seen<'s> {
    fn from(memo: &Memo, class: ClassIx, earlier: &'s [Vec<Cut>]) -> Seen<'s> {
        let dag = memo.ranking.dag;
        let nodes = &dag.class(class).nodes;
        let mut operands: Vec<ClassIx> = nodes.iter().flat_map(|node| node.operands.iter().copied()).collect();
        operands.sort();
        operands.dedup();
        let mut below: Vec<&[Cut]> = operands.iter().map(|o| &earlier[o.index()][..]).collect();
        let (mut read, mut inner): (Vec<ClassIx>, Vec<Inner>) = (operands.clone(), vec![]);
        let is = |kind: OpKind| nodes.iter().any(|n| n.op.as_ref().is_some_and(|op| op.kind() == kind));
        let (contracts, convolves) = (is(OpKind::Contract), is(OpKind::Conv));
        let own = below.len();
        if contracts {
            // Scores are below the weights of attention.
            let softmax = below.iter().flat_map(|cuts| cuts.iter()).filter(|cut| cut.anchor == Anchor::Reduce);
            let mut scores: Vec<ClassIx> = softmax.flat_map(|cut| cut.leaves.iter().copied()).collect();
            scores.sort();
            scores.dedup();
            below.extend(scores.iter().map(|x| &earlier[x.index()][..]));
        }
        for (i, cut) in below.iter().enumerate().flat_map(|(i, cuts)| cuts.iter().map(move |cut| (i, cut))) {
            inner.extend(&cut.inner);
            read.extend(&cut.leaves);
            // What scores multiply may be had as part of something else.
            read.extend(cut.inner.iter().map(|at| at.0).filter(|_| i >= own));
        }
        read.sort();
        read.dedup();
        let mut viewed = vec![];
        if contracts || convolves {
            viewed.extend(read.iter().copied().filter(|c| !memo.views[c.index()].is_empty()));
            for (leaf, between) in viewed.iter().flat_map(|c| &memo.views[c.index()]) {
                inner.extend(between);
                read.push(*leaf);
            }
            read.sort();
            read.dedup();
        }
        inner.sort();
        inner.dedup();
        let mut classes: Vec<ClassIx> = inner.iter().map(|at| at.0).chain(read.iter().copied()).collect();
        classes.push(class);
        classes.sort();
        classes.dedup();
        Seen { class, classes, read, viewed, inner, below }
    }

    fn place(&self, c: ClassIx) -> usize {
        // All that cuts are made of was seen.
        self.classes.binary_search(&c).unwrap_or_default()
    }

    fn key(&self, memo: &Memo, flow: &[f64]) -> Vec<u64> {
        let Ranking { dag, likeness, .. } = *memo.ranking;
        let place = |c: &ClassIx| self.place(*c) as u64;
        let mut key: Vec<u64> = Vec::with_capacity(16 * self.classes.len());
        let list = |key: &mut Vec<u64>, classes: &[ClassIx]| {
            key.push(classes.len() as u64);
            key.extend(classes.iter().map(place));
        };
        let cone = |key: &mut Vec<u64>, inner: &[Inner]| {
            key.push(inner.len() as u64);
            key.extend(inner.iter().map(|(c, node)| place(c) << 16 | u64::from(*node)));
        };
        let node = |key: &mut Vec<u64>, (c, node): Inner| {
            key.extend(likeness.node((c, node)));
            list(key, &dag.class(c).nodes[usize::from(node)].operands);
        };
        let lengths = [self.classes.len(), self.below.len(), self.viewed.len(), dag.class(self.class).nodes.len()];
        key.extend(lengths.map(|n| n as u64));
        key.push(place(&self.class));
        (0..dag.class(self.class).nodes.len()).for_each(|n| node(&mut key, (self.class, n as u16)));
        for c in &self.classes {
            let class = dag.class(*c);
            let flags = [class.literal, class.tuple, is_literal(dag, *c), memo.ranking.made[c.index()]];
            key.extend(likeness.class(*c));
            key.push(flags.iter().fold(0, |bits, flag| bits << 1 | u64::from(*flag)));
        }
        list(&mut key, &self.read);
        key.extend(self.read.iter().map(|c| flow[c.index()].to_bits()));
        cone(&mut key, &self.inner);
        self.inner.iter().for_each(|at| node(&mut key, *at));
        for cuts in &self.below {
            key.push(cuts.len() as u64);
            for cut in cuts.iter() {
                key.push(cut.anchor as u64);
                cone(&mut key, &cut.inner);
                list(&mut key, &cut.leaves);
                list(&mut key, &cut.anchors);
            }
        }
        for c in &self.viewed {
            let only = memo.ranking.views.instead(dag, *c).is_some();
            key.extend([place(c), memo.views[c.index()].len() as u64, u64::from(only)]);
            for (leaf, between) in &memo.views[c.index()] {
                key.push(place(leaf));
                cone(&mut key, between);
            }
        }
        key
    }
}

/// A cut with other numbers for its classes, in the same order.
fn renumbered(cut: &Cut, of: impl Fn(ClassIx) -> ClassIx) -> Cut {
    Cut {
        inner: cut.inner.iter().map(|(c, node)| (of(*c), *node)).collect(),
        leaves: cut.leaves.iter().map(|c| of(*c)).collect(),
        anchors: cut.anchors.iter().map(|c| of(*c)).collect(),
        ..*cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuts::Costs;
    use crate::cuts::likeness::Likeness;
    use crate::cuts::views::Views;
    use crate::egraph::{Dag, build};
    use crate::{Options, rules};
    use kiln_graph::{Builder, ConvSpec, DType, Graph, Result, Tensor, ValueId};

    /// Layers of a norm, attention with heads of one product, and a gated product, each beside a residual.
    fn layers(n: usize) -> Graph {
        let mut b = Builder::new("layers");
        let mut x = b.input("x", DType::F16, &[32.into(), 64.into()]).unwrap();
        let layer = |b: &mut Builder, x: ValueId, i: usize| -> Result<ValueId> {
            let weight = |b: &mut Builder, name: &str, shape: &[usize]| {
                b.weight_data(&format!("{i}.{name}"), Tensor::random(DType::F16, shape, 3)?)
            };
            let g = weight(b, "g", &[64])?;
            let y = b.rms_norm(x, -1, Some(g), 1e-5)?;
            let mut heads = vec![];
            for name in ["q", "k", "v"] {
                let w = weight(b, name, &[64, 64])?;
                let p = b.linear(y, w, None, true)?;
                let p = b.reshape(p, &[32.into(), 2.into(), 32.into()])?;
                heads.push(b.transpose(p, &[1, 0, 2])?);
            }
            let a = b.attention(heads[0], heads[1], heads[2], None, None, None)?;
            let a = b.transpose(a, &[1, 0, 2])?;
            let a = b.reshape(a, &[32.into(), 64.into()])?;
            let x = b.plus(x, a)?;
            let (gate, up) = (weight(b, "gate", &[96, 64])?, weight(b, "up", &[96, 64])?);
            let (gate, up) = (b.linear(x, gate, None, true)?, b.linear(x, up, None, true)?);
            let gate = b.silu(gate)?;
            let y = b.mul(gate, up)?;
            let down = weight(b, "down", &[64, 96])?;
            let y = b.linear(y, down, None, true)?;
            b.plus(x, y)
        };
        for i in 0..n {
            x = layer(&mut b, x, i).unwrap();
        }
        b.output("y", x);
        b.finish()
    }

    /// Convolutions beside residuals.
    fn blocks(n: usize) -> Graph {
        let mut b = Builder::new("blocks");
        let mut x = b.input("x", DType::F16, &[2.into(), 32.into(), 14.into(), 14.into()]).unwrap();
        let block = |b: &mut Builder, x: ValueId, i: usize| -> Result<ValueId> {
            let mut y = x;
            for (name, taps) in [("a", 3), ("b", 1), ("c", 3)] {
                let data = Tensor::random(DType::F16, &[32, 32, taps, taps], 3)?;
                let w = b.weight_data(&format!("{i}.{name}"), data)?;
                let (one, pads) = (vec![1; 2], vec![(taps / 2, taps / 2); 2]);
                let spec = ConvSpec { strides: one.clone(), pads, dilations: one, groups: 1 };
                y = b.conv(y, w, None, spec)?;
                y = if name == "c" { b.plus(x, y)? } else { y };
                y = b.relu(y)?;
            }
            Ok(y)
        };
        for i in 0..n {
            x = block(&mut b, x, i).unwrap();
        }
        b.output("y", x);
        b.finish()
    }

    #[test]
    fn known_cuts_are_those_that_enumeration_gives() {
        for (graph, target) in
            [layers(4), blocks(4)].iter().flat_map(|graph| ["cpu", "sm_80", "sm_90a"].map(|target| (graph, target)))
        {
            let options = Options::new(target.parse().unwrap());
            let built = build(graph).unwrap();
            let rules = rules::of_models(false).unwrap();
            let (mut egraph, mut done) = rules::saturate(built.egraph, rules, &options).unwrap();
            let root = built.class_of[graph.outputs[0].1.index()].unwrap();
            rules::merge(&mut egraph, &mut done, options.target.arch().is_some());
            rules::layout(&mut egraph, &mut done, &[root], &options);
            let dag = Dag::new(&egraph, &[root]);
            let costs = Costs::new(&dag, graph, &options);
            let (views, likeness) = (Views::of(&dag, &costs), Likeness::of(&dag));
            let made = vec![costs.makes(); dag.classes.len()];
            let ranking = Ranking { dag: &dag, costs: &costs, likeness: &likeness, views: &views, made: &made };
            let mut memo = Memo::new(&ranking);
            // What is read twice is divided among its readers in one pass and not in the other; flow begins anew at sums, which residuals are.
            for shares in [1.0, 2.0, 1.0] {
                let (mut flow, mut earlier): (Vec<f64>, Vec<Vec<Cut>>) = (vec![], vec![]);
                for c in dag.indices() {
                    let found = memo.cuts_of(c, &earlier, &flow);
                    let expected = cuts_of(&ranking, c, &earlier, &flow);
                    assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{target}: class {}", c.0);
                    let anew = dag.class(c).types[0].shape == graph.ty(graph.outputs[0].1).shape;
                    let least = found.iter().map(|cut| cut.flow).fold(f64::INFINITY, f64::min);
                    flow.push(if found.is_empty() || anew { 0.0 } else { least / shares });
                    earlier.push(found);
                }
            }
            // Of three passes two differ: without equal layers each class would be known twice.
            assert!(memo.known.len() < 2 * dag.classes.len(), "{} of {}", memo.known.len(), dag.classes.len());
        }
    }
}
