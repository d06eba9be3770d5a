//! Einstein summation over any number of operands, lowered to pairwise contractions.

use super::Builder;
use crate::{CompareOp, DType, EinsumSpec, ReduceOp, Result, ValueId};

/// Labels that stand for the axes under an ellipsis, counted from the right.
const ELLIPSIS: u32 = 0xe000;

struct Term {
    value: ValueId,
    labels: Vec<char>,
}

impl Builder {
    /// `einsum("bij,bjk->bik", [a, b])`: numpy's rules, with ellipsis, repeated labels (diagonals) and an implicit result. Operands are
    /// contracted from left to right.
    pub fn einsum(&mut self, equation: &str, operands: &[ValueId]) -> Result<ValueId> {
        self.scoped("einsum", |b| {
            let (mut terms, out) = b.parse_einsum(equation, operands)?;
            for term in &mut terms {
                b.take_diagonals(term)?;
            }
            // What is rounded between contractions, or summed before one, is computed wide.
            let dtype = b.dtype(terms[0].value);
            let alone = |l: &char| !out.contains(l) && terms.iter().filter(|t| t.labels.contains(l)).count() == 1;
            let steps = terms.len() > 2 || terms.len() == 2 && terms.iter().any(|t| t.labels.iter().any(alone));
            if steps && dtype.is_float() {
                for term in &mut terms {
                    term.value = b.widen(term.value)?;
                }
            }
            while terms.len() > 1 {
                let (right, left) = (terms.remove(1), terms.remove(0));
                let needed = |l: char| out.contains(&l) || terms.iter().any(|t: &Term| t.labels.contains(&l));
                let joined = b.join(left, right, needed)?;
                terms.insert(0, joined);
            }
            let mut last = terms.remove(0);
            b.sum_unneeded(&mut last, |l| out.contains(&l))?;
            let mut perm = Vec::with_capacity(out.len());
            for l in &out {
                match last.labels.iter().position(|x| x == l) {
                    Some(i) => perm.push(i),
                    None => return b.fail("einsum", format!("result label `{l}` of \"{equation}\" is in no operand")),
                }
            }
            let y = b.transpose(last.value, &perm)?;
            b.cast(y, dtype)
        })
    }

    fn parse_einsum(&self, equation: &str, operands: &[ValueId]) -> Result<(Vec<Term>, Vec<char>)> {
        let text: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
        let (inputs, explicit) = match text.split_once("->") {
            Some((i, o)) => (i, Some(o)),
            None => (text.as_str(), None),
        };
        let parts: Vec<&str> = inputs.split(',').collect();
        if parts.len() != operands.len() {
            return self
                .fail("einsum", format!("\"{equation}\" takes {} operands, found {}", parts.len(), operands.len()));
        }
        let mut terms = Vec::with_capacity(parts.len());
        let mut hidden = 0;
        for (part, &value) in parts.iter().zip(operands) {
            let named = part.replace("...", "").chars().count();
            let rank = self.rank(value);
            let under = if part.contains("...") { rank.checked_sub(named) } else { (rank == named).then_some(0) };
            let Some(under) = under else {
                return self.fail("einsum", format!("\"{part}\" does not fit {}", self.ty(value)));
            };
            hidden = hidden.max(under);
            terms.push(Term { value, labels: self.labels(part, under)? });
        }
        let out = match explicit {
            Some(o) => self.labels(o, hidden)?,
            None => {
                let all: Vec<char> = terms.iter().flat_map(|t| t.labels.iter().copied()).collect();
                let mut once: Vec<char> = all
                    .iter()
                    .copied()
                    .filter(|l| l.is_ascii_alphabetic() && all.iter().filter(|x| *x == l).count() == 1)
                    .collect();
                once.sort_unstable();
                self.labels("...", hidden)?.into_iter().chain(once).collect()
            }
        };
        if let Some((_, l)) = out.iter().enumerate().find(|(i, l)| out[..*i].contains(l)) {
            return self.fail("einsum", format!("result label `{l}` of \"{equation}\" occurs twice"));
        }
        Ok((terms, out))
    }

    fn labels(&self, part: &str, under: usize) -> Result<Vec<char>> {
        let dots: String = (0..under).rev().filter_map(|i| char::from_u32(ELLIPSIS + i as u32)).collect();
        let labels: Vec<char> = part.replacen("...", &dots, 1).chars().collect();
        match labels.iter().find(|l| !l.is_ascii_alphabetic() && !dots.contains(**l)) {
            Some(l) => self.fail("einsum", format!("`{l}` in \"{part}\" is not a label; use letters and one ellipsis")),
            None => Ok(labels),
        }
    }

    /// Keeps `i == j` of two axes with one label, and sums one of them away.
    fn take_diagonals(&mut self, term: &mut Term) -> Result<()> {
        while let Some(j) = (0..term.labels.len()).find(|&j| term.labels[..j].contains(&term.labels[j])) {
            let Some(i) = term.labels.iter().position(|l| *l == term.labels[j]) else { break };
            let shape = self.shape(term.value).to_vec();
            self.agree(&shape[i], &shape[j], || format!("axes {i} and {j} of a diagonal"))?;
            let row = self.iota(DType::I64, &shape, i)?;
            let column = self.iota(DType::I64, &shape, j)?;
            let on = self.compare(CompareOp::Eq, row, column)?;
            let zero = self.scalar(self.dtype(term.value), 0.0)?;
            let kept = self.select(on, term.value, zero)?;
            term.value = self.reduce(ReduceOp::Sum, kept, &[j as i64], false)?;
            term.labels.remove(j);
        }
        Ok(())
    }

    /// Sums away the axes whose labels nobody needs.
    fn sum_unneeded(&mut self, term: &mut Term, needed: impl Fn(char) -> bool) -> Result<()> {
        let axes: Vec<i64> = (0..term.labels.len()).filter(|&i| !needed(term.labels[i])).map(|i| i as i64).collect();
        term.value = self.reduce(ReduceOp::Sum, term.value, &axes, false)?;
        term.labels.retain(|&l| needed(l));
        Ok(())
    }

    /// Drops axes of extent 1 that face a longer axis of the same label.
    fn drop_ones(&mut self, term: &mut Term, facing: &Term) -> Result<()> {
        let axes: Vec<i64> = (0..term.labels.len())
            .filter(|&i| {
                let other = facing.labels.iter().position(|l| *l == term.labels[i]);
                self.shape(term.value)[i].is(1) && other.is_some_and(|j| !self.shape(facing.value)[j].is(1))
            })
            .map(|i| i as i64)
            .collect();
        if !axes.is_empty() {
            term.value = self.squeeze(term.value, &axes)?;
            let mut at = 0;
            term.labels.retain(|_| {
                at += 1;
                !axes.contains(&(at - 1))
            });
        }
        Ok(())
    }

    /// Repeats axes that may be 1 where that of the same label is longer.
    fn meet_labels(&mut self, term: &mut Term, facing: &Term) -> Result<()> {
        let mut shape = self.shape(term.value).to_vec();
        for (d, l) in shape.iter_mut().zip(&term.labels) {
            if let Some(j) = facing.labels.iter().position(|x| x == l) {
                *d = self.facing(d, &self.shape(facing.value)[j]);
            }
        }
        term.value = self.broadcast_to(term.value, &shape)?;
        Ok(())
    }

    fn join(&mut self, mut left: Term, mut right: Term, needed: impl Fn(char) -> bool) -> Result<Term> {
        self.meet_labels(&mut left, &right)?;
        self.meet_labels(&mut right, &left)?;
        self.drop_ones(&mut left, &right)?;
        self.drop_ones(&mut right, &left)?;
        let (in_left, in_right) = (left.labels.clone(), right.labels.clone());
        self.sum_unneeded(&mut left, |l| needed(l) || in_right.contains(&l))?;
        self.sum_unneeded(&mut right, |l| needed(l) || in_left.contains(&l))?;
        let mut out: Vec<char> = left.labels.iter().copied().filter(|&l| needed(l)).collect();
        out.extend(right.labels.iter().copied().filter(|&l| needed(l) && !left.labels.contains(&l)));
        let dtype = self.dtype(left.value);
        let spec = EinsumSpec { lhs: left.labels, rhs: right.labels, out: out.clone() };
        let value = self.contract(spec, left.value, right.value, dtype.accumulator(), dtype)?;
        Ok(Term { value, labels: out })
    }
}
