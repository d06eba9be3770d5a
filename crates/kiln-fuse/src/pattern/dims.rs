//! Which dims of a model the symbols of a function stand for.
//!
//! The symbols of functions are written with a mark before them, as variables, so that they never are symbols of the model. A variable is found where one dim of the function has no
//! other and is linear in it; what cannot be solved yet waits until others are known.

use super::function::is_variable;
use kiln_graph::{Atom, Constraint, Dim, Relation, Requirement, Symbols};
use std::collections::{BTreeMap, BTreeSet};

/// What the names of variables begin with: no model's symbol can.
pub(super) const VARIABLE: char = '?';

/// The variable of a function's symbol.
pub(super) fn variable(symbol: &str) -> String {
    format!("{VARIABLE}{symbol}")
}

/// What is known of a model's symbols.
#[derive(Clone, Copy)]
pub(super) struct Facts<'a> {
    pub symbols: &'a Symbols,
    pub constraints: &'a [Constraint],
}

impl Facts<'_> {
    /// Whether something always holds.
    pub fn prove(&self, requirement: &Requirement) -> bool {
        let Requirement { left, relation, right } = requirement;
        if let (Some(a), Some(b)) = (left.as_const(), right.as_const()) {
            return relation.holds(a, b);
        }
        let plain = match relation {
            Relation::Equal => left == right,
            Relation::Broadcasts => left == right || left.is(1),
            Relation::AtMost => (left.clone() - right.clone()).bounds(self.symbols).1 <= 0,
            Relation::Multiple => right.bounds(self.symbols).0 > 0 && left.exact_div(right).is_some(),
        };
        plain || requirement.follows_from_all(self.constraints, self.symbols) || self.of_multiples(requirement)
    }

    /// Whether every factor of one term is a multiple of what is left to be one of: `S*K` is a multiple of 8 if `S` is of 4 and `K` of 2.
    fn of_multiples(&self, requirement: &Requirement) -> bool {
        let (Relation::Multiple, Some(by)) = (requirement.relation, requirement.right.as_const()) else { return false };
        by > 0 && requirement.left.terms().all(|(atoms, c)| self.factor(atoms, c).is_some_and(|f| f % by == 0))
    }

    /// What a term is known to be a multiple of.
    fn factor(&self, atoms: &[Atom], coefficient: i64) -> Option<i64> {
        atoms.iter().try_fold(coefficient, |known, atom| {
            let of = |c: &Constraint| {
                let Requirement { left, relation, right } = &c.requirement;
                let own = matches!(left.terms().collect::<Vec<_>>()[..], [([one], 1)] if one == atom);
                (own && *relation == Relation::Multiple).then(|| right.as_const()).flatten()
            };
            known.checked_mul(self.constraints.iter().filter_map(of).max().unwrap_or(1))
        })
    }

    fn equal(&self, a: &Dim, b: &Dim) -> bool {
        self.prove(&Requirement::equal(a.clone(), b.clone()))
    }
}

/// What variables stand for so far, and what has to be equal once more of them are known.
#[derive(Clone, Default)]
pub(super) struct Unified {
    pub variables: BTreeMap<String, Dim>,
    waiting: Vec<(Dim, Dim)>,
}

impl Unified {
    /// Makes a dim of the function equal to one of the model. False: it cannot be.
    pub fn unify(&mut self, own: &Dim, model: &Dim, facts: Facts) -> bool {
        match self.solve(own, model, facts) {
            Some(known) => known,
            None => {
                self.waiting.push((own.clone(), model.clone()));
                true
            }
        }
    }

    /// Whether everything is known by now, and agrees.
    pub fn settle(&mut self, facts: Facts) -> bool {
        while !self.waiting.is_empty() {
            let before = self.waiting.len();
            for (own, model) in std::mem::take(&mut self.waiting) {
                if !self.unify(&own, &model, facts) {
                    return false;
                }
            }
            if self.waiting.len() == before {
                return false;
            }
        }
        true
    }

    /// Whether two dims are equal, which may tell what a variable is. None: too little is known.
    fn solve(&mut self, own: &Dim, model: &Dim, facts: Facts) -> Option<bool> {
        let own = own.substitute(&self.variables);
        let mut unknown = BTreeSet::new();
        own.symbols(&mut unknown);
        unknown.retain(|s| is_variable(s));
        let Some(name) = unknown.pop_first() else { return Some(facts.equal(&own, model)) };
        if !unknown.is_empty() {
            return None;
        }
        // own = slope * variable + rest.
        let (mut slope, mut rest) = (Dim::from(0), Dim::from(0));
        let this = Atom::Sym(name.clone());
        for (atoms, c) in own.terms() {
            let with = atoms.iter().filter(|a| **a == this).count();
            let mut others = BTreeSet::new();
            let factors: Vec<Dim> = atoms.iter().filter(|a| **a != this).map(dim_of).collect();
            factors.iter().for_each(|d| d.symbols(&mut others));
            if with > 1 || others.contains(&name) {
                return None;
            }
            let term = factors.into_iter().fold(Dim::from(c), |a, b| a * b);
            let part = if with == 1 { &mut slope } else { &mut rest };
            *part = part.clone() + term;
        }
        let product = model.clone() - rest;
        let whole = || facts.prove(&Requirement::multiple(product.clone(), slope.clone()));
        let value = product.exact_div(&slope).or_else(|| whole().then(|| product.floor_div(&slope)));
        let found = value.is_some();
        self.variables.extend(value.map(|value| (name, value)));
        Some(found)
    }
}

/// An atom as a dim.
fn dim_of(atom: &Atom) -> Dim {
    match atom {
        Atom::Sym(s) => Dim::sym(s.clone()),
        Atom::FloorDiv(a, b) => a.floor_div(b),
        Atom::Min(a, b) => a.minimum(b),
        Atom::Max(a, b) => a.maximum(b),
        Atom::Broadcast(a, b) => a.broadcast(b, &Symbols::default()),
    }
}
