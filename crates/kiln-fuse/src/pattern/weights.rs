//! Weights under the order of axes that a function takes them in.
//!
//! A model holds a matrix of weights as `[K, N]` where the function has `[N, K]`, and multiplies by it as it is. Permuted when the plan is made, it costs nothing at run time; so the
//! model's contractions are also had with the labels of the function's, over the permuted weight.

use super::Pattern;
use super::search::exchanged;
use crate::canonical::relabel;
use crate::egraph::{EGraph, Head, Put, Term, op_of};
use crate::{Numerics, Result};
use egg::Id;
use kiln_graph::{EinsumSpec, Op, OpKind};
use std::collections::HashSet;
use std::sync::Arc;

/// Most axes of a weight that is permuted.
const MAX_RANK: usize = 4;

/// Adds contractions of permuted weights to an e-graph where a function has such a contraction.
pub(crate) fn permute(egraph: &mut EGraph, patterns: &[Arc<Pattern>], numerics: Numerics) -> Result<()> {
    let mut wanted: HashSet<Op> = HashSet::new();
    for pattern in patterns {
        for variant in pattern.variants(numerics)? {
            let contractions = variant.heads.all().filter(|op| op.kind() == OpKind::Contract);
            wanted.extend(contractions.flat_map(|op| [Some(op.clone()), exchanged(op)]).flatten());
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let contractions: Vec<(Id, Op, Vec<Id>)> = egraph
        .classes()
        .flat_map(|class| class.nodes.iter().map(|term| (class.id, term)))
        .filter(|(_, term): &(Id, &Term)| matches!(term.head, Head::Op(code) if code.kind() == OpKind::Contract))
        .filter_map(|(id, term)| op_of(egraph, term).map(|(op, operands)| (id, op, operands)))
        .collect();
    for (id, op, operands) in contractions {
        let (Op::Contract { spec, acc, out }, [lhs, rhs]) = (op, &operands[..]) else { continue };
        for left in [true, false] {
            let (weight, labels) = if left { (*lhs, &spec.lhs) } else { (*rhs, &spec.rhs) };
            if !egraph[weight].data.weight_only || labels.len() > MAX_RANK {
                continue;
            }
            for perm in permutations(labels.len()).into_iter().skip(1) {
                let permuted: Vec<char> = perm.iter().map(|&a| labels[a]).collect();
                let own = match left {
                    true => EinsumSpec { lhs: permuted, ..spec.clone() },
                    false => EinsumSpec { rhs: permuted, ..spec.clone() },
                };
                let mut head = own.clone();
                relabel(&mut head);
                if !wanted.contains(&Op::Contract { spec: head, acc, out }) {
                    continue;
                }
                let Some(turned) = egraph.try_put(&Op::Permute { perm }, &[weight]) else { continue };
                let operands = if left { [turned, *rhs] } else { [*lhs, turned] };
                if let Some(same) = egraph.try_put(&Op::Contract { spec: own, acc, out }, &operands) {
                    egraph.union(id, same);
                }
            }
        }
    }
    egraph.rebuild();
    Ok(())
}

/// All permutations of so many axes, the identity first.
fn permutations(n: usize) -> Vec<Vec<usize>> {
    let Some(last) = n.checked_sub(1) else { return vec![vec![]] };
    let longer = |at: usize, mut perm: Vec<usize>| {
        perm.insert(at, last);
        perm
    };
    permutations(last).into_iter().flat_map(|perm| (0..n).rev().map(move |at| longer(at, perm.clone()))).collect()
}
