//! Which tiles of 16-bit floats are words of two from where they are rounded on: those that are left operands of products in registers and
//! nothing else. As halves they would be put together in front of every product, and where a loop carries them the assembler does so between
//! products that run (C7519).

use super::storage::Storage;
use crate::dtype::DType;
use crate::expr::{Expr, ExprKind};
use crate::ir::{Block, Op, Operand, Program, Scalar, ValueId};
use std::collections::HashSet;

/// The classes of `storage` whose arrays hold words.
pub(super) fn words(program: &Program, storage: &Storage) -> HashSet<usize> {
    let mut scan = Scan { program, storage, rounded: HashSet::new(), others: HashSet::new(), moves: vec![] };
    scan.block(&program.body);
    let mut found = scan.rounded;
    found.retain(|class| !scan.others.contains(class));
    // What is copied from array to array is words on both sides or on neither.
    while let Some((a, b)) = scan.moves.iter().find(|(a, b)| found.contains(a) != found.contains(b)) {
        found.remove(a);
        found.remove(b);
    }
    found
}

struct Scan<'a> {
    program: &'a Program,
    storage: &'a Storage,
    /// Classes of what is rounded two at a time.
    rounded: HashSet<usize>,
    /// Classes of what is made or used as single elements.
    others: HashSet<usize>,
    /// Pairs of classes of which one is handed over to the other.
    moves: Vec<(usize, usize)>,
}

impl Scan<'_> {
    fn block(&mut self, block: &Block) {
        let storage = self.storage;
        let class = |value: &ValueId| storage.class(*value);
        for stmt in block {
            let results: Vec<usize> = stmt.results.iter().map(class).collect();
            match &stmt.op {
                Op::Map { args, body, results: values, .. } => {
                    self.others.extend(args.iter().map(|(_, value)| class(value)));
                    let loads = holds_load(body, values);
                    for ((result, made), value) in stmt.results.iter().zip(results).zip(values) {
                        let pairs = !loads && self.rounds(*result, value);
                        let classes = if pairs { &mut self.rounded } else { &mut self.others };
                        classes.insert(made);
                    }
                }
                Op::For { carried, yields, .. } => {
                    let firsts = carried.iter().map(|(inside, first)| (class(first), class(inside)));
                    let next = carried.iter().zip(yields).map(|((inside, _), next)| (class(next), class(inside)));
                    self.moves.extend(firsts.chain(next));
                }
                Op::If { then, otherwise, .. } => {
                    let branches = [then, otherwise].into_iter();
                    let yields = branches.flat_map(|(_, yields)| yields.iter().map(class).zip(results.iter().copied()));
                    self.moves.extend(yields);
                }
                Op::Dot { a, acc, .. } => {
                    let left = |value: &ValueId| matches!(a, Operand::Tile(tile) if tile == value);
                    let used = stmt.op.uses();
                    self.others.extend(used.iter().filter(|value| !left(value) || *value == acc).map(class));
                    self.others.extend(results);
                }
                op => {
                    self.others.extend(op.uses().iter().map(class));
                    self.others.extend(results);
                }
            }
            stmt.op.blocks().into_iter().for_each(|block| self.block(block));
        }
    }

    /// Whether an instruction rounds neighbouring registers of a result together.
    fn rounds(&self, result: ValueId, value: &Expr) -> bool {
        let wide = matches!(value.kind(), ExprKind::Cast(wide) if wide.ty() == DType::F32);
        let result = self.program.value(result);
        let first = result.layout.as_ref().and_then(|layout| layout.register_modes().first());
        let small = result.dtype == DType::F16 || result.dtype == DType::BF16;
        wide && small && first.is_some_and(|mode| mode.extent.is_multiple_of(2))
    }
}

/// Whether a map loads: then what lies together in memory is handled together, not what lies together in registers.
fn holds_load(body: &[Scalar], values: &[Expr]) -> bool {
    let bodies = body.iter().flat_map(|scalar| match scalar {
        Scalar::Bind { value, .. } => vec![value],
        Scalar::Check { violated, code, .. } => vec![violated, code],
    });
    bodies.chain(values).any(|e| e.any(&mut |e| matches!(e.kind(), ExprKind::Load(..))))
}
