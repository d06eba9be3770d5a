//! Which rule made which e-node, and of what. egg's explanations would tell as much, but prove every union, which is slow.

use super::{EGraph, Head, Term};
use egg::{ENodeOrVar, Id, Language, PatternAst, Symbol, Var};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A rule that found something new.
#[derive(Debug)]
struct Firing {
    rule: Symbol,
    /// The e-nodes that it put, be it that some were there.
    made: Vec<Term>,
    left: Arc<LeftHandSide>,
    /// The classes of its variables.
    ids: Vec<Id>,
}

/// What a rule matches.
#[derive(Debug)]
pub(crate) struct LeftHandSide {
    pub pattern: PatternAst<Term>,
    /// In textual order.
    pub vars: Vec<Var>,
}

impl LeftHandSide {
    /// The e-nodes of a rebuilt e-graph that this matched when its variables were these classes.
    fn matched(&self, egraph: &EGraph, ids: &[Id]) -> Vec<Term> {
        let mut places: Vec<Option<Id>> = Vec::with_capacity(self.pattern.len());
        let mut terms = Vec::new();
        for node in self.pattern.iter() {
            let place = match node {
                ENodeOrVar::Var(var) => self.vars.iter().position(|v| v == var).map(|i| egraph.find(ids[i])),
                ENodeOrVar::ENode(Term { head, children }) => {
                    let children: Option<Vec<Id>> = children.iter().map(|c| places[usize::from(*c)]).collect();
                    children.and_then(|children| {
                        let term = Term { head: *head, children };
                        let class = egraph.lookup(term.clone());
                        terms.push(term);
                        class.map(|class| egraph.find(class))
                    })
                }
            };
            places.push(place);
        }
        terms
    }
}

/// What rules did to an e-graph, in order.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// What the match at hand has put; none between matches.
    current: Option<Vec<Term>>,
    firings: Vec<Firing>,
    /// How many e-nodes there were before the first rule.
    written: usize,
    /// Once settled: the firing that made an e-node first, of those that the model did not write.
    origin: HashMap<Term, usize>,
    /// Once settled: of each firing those that made what it matched. They came before it.
    led: Vec<Vec<usize>>,
}

impl Trace {
    /// Rules begin here: all e-nodes so far are the model's.
    pub fn start(&mut self, written: usize) {
        self.written = written;
    }

    /// A rule has matched.
    pub fn enter(&mut self) {
        self.current = Some(Vec::new());
    }

    /// An e-node was put; attributes and results of tuples are no work of their own.
    pub fn put(&mut self, term: &Term) {
        if let Some(current) = &mut self.current
            && matches!(term.head, Head::Op(_))
        {
            current.push(term.clone());
        }
    }

    /// The rule is done with its match: what it has put.
    pub fn leave(&mut self) -> Vec<Term> {
        self.current.take().unwrap_or_default()
    }

    /// What a rule has put was new, and is equal to what it matched with these classes for its variables.
    pub fn fired(&mut self, rule: Symbol, made: Vec<Term>, left: &Arc<LeftHandSide>, ids: impl Into<Vec<Id>>) {
        self.firings.push(Firing { rule, made, left: left.clone(), ids: ids.into() });
    }

    /// The firing that made an e-node of a settled e-graph; none of those that the model wrote.
    pub fn origin(&self, term: &Term) -> Option<usize> {
        self.origin.get(term).copied()
    }

    /// Whether a rule of this name made an e-node of a settled e-graph.
    pub fn is_by(&self, term: &Term, rule: &str) -> bool {
        self.origin(term).is_some_and(|firing| self.firings[firing].rule.as_str() == rule)
    }

    /// The rules of firings and of those that led to them, each once, in the order in which they fired.
    pub fn rules(&self, firings: impl IntoIterator<Item = usize>) -> Vec<&'static str> {
        let mut all: BTreeSet<usize> = BTreeSet::new();
        let mut stack: Vec<usize> = firings.into_iter().collect();
        while let Some(firing) = stack.pop() {
            if all.insert(firing) {
                stack.extend(&self.led[firing]);
            }
        }
        let mut rules: Vec<&'static str> = Vec::new();
        for rule in all.into_iter().map(|firing| self.firings[firing].rule.as_str()) {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        rules
    }
}

/// Says of each e-node of a saturated, rebuilt e-graph which firing made it: unions have changed what the e-nodes' operands are called since.
pub(crate) fn settle(egraph: &mut EGraph) {
    let now = |term: &Term| term.clone().map_children(|c| egraph.find(c));
    let trace = &egraph.analysis.trace;
    let mut origin: HashMap<Term, Option<usize>> = HashMap::new();
    origin.extend(egraph.nodes()[..trace.written].iter().map(|term| (now(term), None)));
    for (i, firing) in trace.firings.iter().enumerate() {
        for term in &firing.made {
            origin.entry(now(term)).or_insert(Some(i));
        }
    }
    // What a rule matched was there before, and is its own work only where unions made both one.
    let before = |(i, firing): (usize, &Firing)| -> Vec<usize> {
        let matched = firing.left.matched(egraph, &firing.ids);
        let made = matched.iter().filter_map(|term| *origin.get(term)?);
        made.filter(|earlier| *earlier < i).collect()
    };
    let led = trace.firings.iter().enumerate().map(before).collect();
    let origin = origin.into_iter().filter_map(|(term, firing)| Some((term, firing?))).collect();
    let trace = &mut egraph.analysis.trace;
    (trace.origin, trace.led) = (origin, led);
}
