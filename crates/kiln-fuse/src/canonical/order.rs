//! A total order of units and symbols that depends on structure alone: colour refinement, and where that leaves several alike, the least form of all choices.
//!
//! Units and symbols begin as one class. Each round tells apart those whose op, types, operands, users, and (for symbols) occurrences fall into different classes, until a round
//! tells nothing more. Inputs or symbols that are still alike are mostly interchangeable: two choices that lead to one form show a symmetry, and one of them is enough.
//! (McKay, Practical graph isomorphism, 1981.)

use super::units::Units;
use super::{Form, Rank, write};
use kiln_graph::Encoder;
use std::collections::{BTreeMap, BTreeSet};

/// Forms that are written before the search takes the least so far. Only graphs that are regular and yet not symmetric get there; equal ones may then have different forms.
const MOST_FORMS: usize = 2000;

/// The least form.
pub(super) fn least(units: &Units) -> Form {
    let mut search = Search { graph: Coloured::of(units), forms: 0, best: None };
    let start = search.graph.refined(vec![0; search.graph.size()]);
    search.run(start);
    match search.best {
        Some((_, form)) => form,
        // Never: a search writes at least one.
        None => write(units, &vec![0; search.graph.size()]).0,
    }
}

/// What tells forms apart, and which unit or symbol stands where.
type Key = (Vec<u8>, Vec<Rank>);

struct Search<'u, 'g> {
    graph: Coloured<'u, 'g>,
    forms: usize,
    best: Option<(Key, Form)>,
}

impl Search<'_, '_> {
    /// Tries what `ranks` leaves open.
    fn run(&mut self, ranks: Vec<Rank>) {
        let alike = self.graph.alike(&ranks);
        if alike.is_empty() {
            self.form(&ranks);
            return;
        }
        let mut seen: BTreeSet<Key> = BTreeSet::new();
        for (i, vertex) in alike.into_iter().enumerate() {
            if i > 0 && self.forms >= MOST_FORMS {
                return;
            }
            let chosen = self.graph.refined(single_out(&ranks, vertex));
            // The first way down from here: where it ends in the form of an earlier choice, the two are images of each other.
            let mut way = chosen.clone();
            while let Some(&next) = self.graph.alike(&way).first() {
                way = self.graph.refined(single_out(&way, next));
            }
            if seen.insert(self.form(&way)) {
                self.run(chosen);
            }
        }
    }

    fn form(&mut self, ranks: &[Rank]) -> Key {
        self.forms += 1;
        let (form, places) = write(self.graph.units, ranks);
        let key = (form.graph.structural_bytes(), places);
        if self.best.as_ref().is_none_or(|(best, _)| key < *best) {
            self.best = Some((key.clone(), form));
        }
        key
    }
}

/// `ranks` with `vertex` before all that are like it.
fn single_out(ranks: &[Rank], vertex: usize) -> Vec<Rank> {
    let own = ranks[vertex];
    let others = |(v, &r): (usize, &Rank)| if r == own && v != vertex { r + 1 } else { r };
    ranks.iter().enumerate().map(others).collect()
}

/// Units, then symbols, and how they hang together.
struct Coloured<'u, 'g> {
    units: &'u Units<'g>,
    /// For each unit: users, the place of the operand there, and which result is used.
    users: Vec<Vec<(usize, u64, u32)>>,
    /// Symbols in each unit's op and types.
    symbols: Vec<Vec<usize>>,
    /// Op and types of each unit where they have no symbols.
    fixed: Vec<Vec<u8>>,
}

impl<'u, 'g> Coloured<'u, 'g> {
    fn of(units: &'u Units<'g>) -> Coloured<'u, 'g> {
        let n = units.units.len();
        let mut users = vec![Vec::new(); n];
        let (mut symbols, mut fixed) = (Vec::with_capacity(n), Vec::with_capacity(n));
        for (u, unit) in units.units.iter().enumerate() {
            for (i, &(from, result)) in unit.operands.iter().enumerate() {
                users[from].push((u, if unit.commutes { 0 } else { i as u64 }, result));
            }
            let mut own = BTreeSet::new();
            let mut meet = |d: &kiln_graph::Dim| own.extend(units.symbols_of(d));
            unit.op.dims(&mut meet);
            unit.types.iter().flat_map(|ty| &ty.shape).for_each(&mut meet);
            symbols.push(own.into_iter().collect::<Vec<_>>());
            let mut bytes = Encoder::new();
            unit.encode(&mut bytes);
            fixed.push(bytes.finish());
        }
        Coloured { units, users, symbols, fixed }
    }

    /// Units and symbols together.
    fn size(&self) -> usize {
        self.units.units.len() + self.units.symbols.len()
    }

    /// The first inputs or symbols of equal rank, if there are several: once they differ all else does, for no two nodes are the same.
    fn alike(&self, ranks: &[Rank]) -> Vec<usize> {
        let n = self.units.units.len();
        let mut classes: BTreeMap<Rank, Vec<usize>> = BTreeMap::new();
        for (v, rank) in ranks.iter().enumerate() {
            if v >= n || self.units.units[v].input.is_some() {
                classes.entry(*rank).or_default().push(v);
            }
        }
        classes.into_values().find(|class| class.len() > 1).unwrap_or_default()
    }

    /// Ranks that tell apart whatever `ranks` and structure do, in the order of `ranks`. A rank is the number of units and symbols before.
    fn refined(&self, mut ranks: Vec<Rank>) -> Vec<Rank> {
        let mut classes = 0;
        loop {
            let mut sorted: Vec<(Vec<u8>, usize)> = self.signatures(&ranks).into_iter().zip(0..).collect();
            sorted.sort();
            let mut found = 0;
            for at in 0..sorted.len() {
                let new = at == 0 || sorted[at].0 != sorted[at - 1].0;
                found += usize::from(new);
                ranks[sorted[at].1] = if new { at as Rank } else { ranks[sorted[at - 1].1] };
            }
            if found == classes {
                return ranks;
            }
            classes = found;
        }
    }

    /// What is known of each unit and symbol in one round. The present rank comes first, so that their order stays.
    fn signatures(&self, ranks: &[Rank]) -> Vec<Vec<u8>> {
        let n = self.units.units.len();
        let numbers: BTreeMap<String, u64> =
            self.units.symbols.iter().cloned().zip(ranks[n..].iter().copied()).collect();
        let units = (0..n).map(|u| self.unit(u, ranks, &numbers));
        let symbols = (0..self.units.symbols.len()).map(|s| self.symbol(s, ranks, &numbers));
        units.chain(symbols).collect()
    }

    /// Op and types of a unit, with symbols as numbers.
    fn own(&self, u: usize, numbers: &BTreeMap<String, u64>) -> Vec<u8> {
        if self.symbols[u].is_empty() {
            return self.fixed[u].clone();
        }
        let mut to = Encoder::numbering(numbers);
        self.units.units[u].encode(&mut to);
        to.finish()
    }

    fn unit(&self, u: usize, ranks: &[Rank], numbers: &BTreeMap<String, u64>) -> Vec<u8> {
        let unit = &self.units.units[u];
        let mut to = Encoder::new();
        // Big endian, so that bytes compare as numbers do.
        to.bytes(&ranks[u].to_be_bytes());
        to.bytes(&self.own(u, numbers));
        let operands: Vec<Vec<u8>> =
            unit.operands.iter().map(|&(from, result)| numbers_of([ranks[from], u64::from(result)])).collect();
        if unit.commutes {
            to.sorted(operands);
        } else {
            operands.iter().for_each(|operand| to.bytes(operand));
        }
        to.sorted(
            self.users[u].iter().map(|&(user, at, result)| numbers_of([ranks[user], at, u64::from(result)])).collect(),
        );
        let results = self.units.outputs.iter().filter(|(from, _)| *from == u);
        to.sorted(results.map(|(_, result)| numbers_of([u64::from(*result)])).collect());
        to.finish()
    }

    fn symbol(&self, s: usize, ranks: &[Rank], numbers: &BTreeMap<String, u64>) -> Vec<u8> {
        let n = self.units.units.len();
        let (low, high) = self.units.ranges[s];
        let mut to = Encoder::new();
        to.bytes(&ranks[n + s].to_be_bytes());
        to.number(low as u64);
        to.number(high as u64);
        let mut marked = numbers.clone();
        marked.insert(self.units.symbols[s].clone(), u64::MAX);
        let within = (0..n).filter(|&u| self.symbols[u].contains(&s));
        to.sorted(within.map(|u| [numbers_of([ranks[u]]), self.own(u, &marked)].concat()).collect());
        let facts = self.units.facts.iter().map(|fact| {
            let mut one = Encoder::numbering(&marked);
            one.requirement(fact);
            one.finish()
        });
        to.sorted(facts.collect());
        to.finish()
    }
}

fn numbers_of<const N: usize>(numbers: [u64; N]) -> Vec<u8> {
    let mut to = Encoder::new();
    numbers.into_iter().for_each(|n| to.number(n));
    to.finish()
}
