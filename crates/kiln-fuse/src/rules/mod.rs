//! Rewrite rules, one family a file. A rule carries its whole premise: nothing is legal because a later stage would filter it.

mod broadcast;
mod concat;
mod contraction;
mod functions;
mod layout;
mod merge;
mod online;
mod reduce;
mod repeat;
mod scale;
mod simplify;
mod split;
mod views;

#[cfg(test)]
mod tests;

pub(crate) use layout::{NAME as LAYOUT, layout, neighbours};
pub(crate) use merge::merge;
pub(crate) use repeat::repeat;

use crate::egraph::{Attributes, EGraph, Facts, Head, Knowledge, LeftHandSide, Put, Term};
use crate::report::RuleReport;
use crate::{Error, Numerics, Options, Result};
use egg::{
    Applier, Id, Pattern, PatternAst, Rewrite, Runner, Searcher, SimpleScheduler, StopReason, Subst, Symbol, Var,
};
use kiln_graph::{Dim, Op, TensorType};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// One rewrite rule.
pub(crate) struct Rule {
    pub name: String,
    /// Why both sides are equal, or what that is good for, in a line.
    reason: &'static str,
    pub numerics: Numerics,
    rewrite: Rewrite<Term, Knowledge>,
}

/// What a rule's right-hand side sees: the e-graph, and the class it matched.
pub(crate) struct Match<'a> {
    egraph: &'a mut EGraph,
    /// The class that the left-hand side matched.
    pub root: Id,
}

impl Match<'_> {
    /// Adds an op if it types under what the graph already requires.
    pub fn add(&mut self, op: Op, operands: &[Id]) -> Option<Id> {
        self.egraph.try_put(&op, operands)
    }

    /// The class of an op with attributes, if there is one already.
    pub fn find(&self, op: &Op, operands: &[Id]) -> Option<Id> {
        let attr = Term { head: Head::Attr(self.egraph.analysis.known(op)?), children: vec![] };
        let children = std::iter::once(self.egraph.lookup(attr)?).chain(operands.iter().copied()).collect();
        self.egraph.lookup(Term { head: Head::Op(op.code()), children })
    }

    /// The attributes behind a pattern variable.
    pub fn attr(&self, id: Id) -> Option<Op> {
        self.egraph.attr(id).cloned()
    }

    pub fn facts(&self, id: Id) -> &Facts {
        &self.egraph[id].data
    }

    pub fn ty(&self, id: Id) -> Option<TensorType> {
        self.facts(id).types.first().cloned()
    }

    /// The type of the class that matched.
    pub fn root_ty(&self) -> Option<TensorType> {
        self.ty(self.root)
    }

    /// The value that all elements of a class have, if known.
    pub fn splat(&self, id: Id) -> Option<f64> {
        self.facts(id).splat
    }

    /// The shape of a value.
    pub fn shape(&self, id: Id) -> Option<Vec<Dim>> {
        self.ty(id).map(|t| t.shape)
    }

    pub fn weight_only(&self, id: Id) -> bool {
        self.facts(id).weight_only
    }

    /// Whether two values are known to be one.
    pub fn same(&self, a: Id, b: Id) -> bool {
        self.egraph.find(a) == self.egraph.find(b)
    }

    /// Ops by which a class can be computed, with operands. For premises that look deeper than the pattern.
    pub fn ways(&self, id: Id) -> Vec<(Op, Vec<Id>)> {
        self.egraph[id].nodes.iter().filter_map(|t| crate::egraph::op_of(self.egraph, t)).collect()
    }
}

/// The right-hand side of a rule with `N` pattern variables, which it gets in textual order.
struct Action<const N: usize, F> {
    vars: [Var; N],
    left: Arc<LeftHandSide>,
    apply: F,
}

impl<const N: usize, F> Applier<Term, Knowledge> for Action<N, F>
where
    F: Fn(&mut Match, [Id; N]) -> Option<Id>,
{
    fn apply_one(
        &self,
        egraph: &mut EGraph,
        eclass: Id,
        subst: &Subst,
        _: Option<&PatternAst<Term>>,
        rule: Symbol,
    ) -> Vec<Id> {
        let ids = self.vars.map(|v| subst[v]);
        let before = egraph.nodes().len();
        egraph.analysis.trace.enter();
        let found = (self.apply)(&mut Match { egraph, root: eclass }, ids);
        let made = egraph.analysis.trace.leave();
        let Some(id) = found else { return vec![] };
        // Dims that are equal but not in one canonical form would make the class's type depend on the order of rewriting.
        if egraph[id].data.types != egraph[eclass].data.types {
            return vec![];
        }
        let more = egraph.nodes().len() > before;
        let new = egraph.union(eclass, id);
        if (more || new) && !made.is_empty() {
            egraph.analysis.trace.fired(rule, made, &self.left, ids);
        }
        if new { vec![eclass] } else { vec![] }
    }
}

/// A rule from a pattern and its right-hand side; `reason` says in a line why it holds, for people.
pub(crate) fn rule<const N: usize>(
    name: impl Into<String>,
    reason: &'static str,
    numerics: Numerics,
    pattern: &str,
    apply: impl Fn(&mut Match, [Id; N]) -> Option<Id> + Send + Sync + 'static,
) -> Result<Rule> {
    let name = name.into();
    let broken = |why: String| Error::Unsound(format!("rule `{name}`: {why}"));
    let pattern: Pattern<Term> = pattern.parse().map_err(|e| broken(format!("{e}")))?;
    let vars: Vec<Var> = Searcher::<Term, Knowledge>::vars(&pattern);
    let count = vars.len();
    let vars = <[Var; N]>::try_from(vars).map_err(|_| broken(format!("takes {N} variables, pattern has {count}")))?;
    let left = Arc::new(LeftHandSide { pattern: pattern.ast.clone(), vars: vars.to_vec() });
    let action = Action { vars, left, apply };
    let rewrite = Rewrite::new(name.as_str(), pattern, action).map_err(broken)?;
    Ok(Rule { name, reason, numerics, rewrite })
}

/// Every rule. Patterns are parsed once a process.
pub(crate) fn all() -> Result<&'static [Rule]> {
    static ALL: LazyLock<Result<Vec<Rule>>> = LazyLock::new(|| {
        let families = [
            simplify::rules,
            views::rules,
            broadcast::rules,
            concat::rules,
            reduce::rules,
            contraction::rules,
            scale::rules,
            online::rules,
        ];
        let rules = families.into_iter().map(|family| family()).collect::<Result<Vec<_>>>()?;
        Ok(rules.into_iter().flatten().collect())
    });
    ALL.as_deref().map_err(Error::clone)
}

/// [`all`], and those that are for the functions of kernels alone.
pub(crate) fn of_functions() -> Result<Vec<&'static Rule>> {
    static OWN: LazyLock<Result<Vec<Rule>>> = LazyLock::new(functions::rules);
    Ok(of_models(true)?.into_iter().chain(OWN.as_deref().map_err(Error::clone)?).collect())
}

/// [`all`], and those for models in which functions are looked for.
pub(crate) fn of_models(functions: bool) -> Result<Vec<&'static Rule>> {
    static OWN: LazyLock<Result<Vec<Rule>>> = LazyLock::new(functions::rules_of_models);
    let own = if functions { OWN.as_deref().map_err(Error::clone)? } else { &[] };
    Ok(all()?.iter().chain(own).collect())
}

/// What there is to say of the rewrite rule of this name.
pub fn named(name: &str) -> Option<RuleReport> {
    static KNOWN: LazyLock<BTreeMap<&'static str, &'static Rule>> = LazyLock::new(|| {
        let rules = of_functions().unwrap_or_default();
        rules.into_iter().map(|rule| (rule.name.as_str(), rule)).collect()
    });
    if name == merge::NAME {
        let reason = "one product reads its operand once, and is one launch".to_owned();
        return Some(RuleReport { name: name.to_owned(), numerics: Numerics::Exact, reason });
    }
    if name == split::NAME {
        let reason = "halves of one product that meet again are one kernel".to_owned();
        return Some(RuleReport { name: name.to_owned(), numerics: Numerics::Exact, reason });
    }
    if name == repeat::NAME {
        let reason = "what is repeated along part of a batch axis is read once, where it lies".to_owned();
        return Some(RuleReport { name: name.to_owned(), numerics: Numerics::Exact, reason });
    }
    if name == LAYOUT {
        let reason = "convolutions read and write runs of channels".to_owned();
        return Some(RuleReport { name: name.to_owned(), numerics: Numerics::Exact, reason });
    }
    let Rule { name, reason, numerics, .. } = KNOWN.get(name)?;
    Some(RuleReport { name: name.clone(), numerics: *numerics, reason: (*reason).to_owned() })
}

/// Saturation stops when the e-graph is this many times as large as the model, plus something for small ones: rules that gain more
/// than that are running away.
const GROWTH: usize = 6;
const GROWTH_SMALL: usize = 1000;

/// What saturation did.
#[derive(Debug)]
pub(crate) struct Saturation {
    pub fired: BTreeMap<String, usize>,
    pub stopped: String,
    pub nodes: usize,
    pub iterations: usize,
}

/// Rewrites until nothing new is found or a limit is met.
pub(crate) fn saturate<'r>(
    mut egraph: EGraph,
    rules: impl IntoIterator<Item = &'r Rule>,
    options: &Options,
) -> Result<(EGraph, Saturation)> {
    egraph.analysis.trace.start(egraph.nodes().len());
    let active: Vec<&Rewrite<Term, Knowledge>> =
        rules.into_iter().filter(|r| r.numerics <= options.numerics).map(|r| &r.rewrite).collect();
    let limit = options.node_limit.min(GROWTH * egraph.total_size() + GROWTH_SMALL);
    let knowledge = Knowledge::default();
    let runner = Runner::<Term, Knowledge>::new(knowledge)
        .with_egraph(egraph)
        .with_scheduler(SimpleScheduler)
        .with_iter_limit(options.iter_limit)
        .with_node_limit(limit)
        // Only counts stop saturation: a clock would make plans depend on how busy the machine is.
        .with_time_limit(Duration::MAX)
        .run(active);
    let mut fired = BTreeMap::new();
    for iteration in &runner.iterations {
        for (name, n) in &iteration.applied {
            *fired.entry(name.to_string()).or_insert(0) += n;
        }
    }
    if let Some(why) = runner.egraph.analysis.unsound.first() {
        return Err(Error::Unsound(why.clone()));
    }
    let stopped = match runner.stop_reason {
        Some(StopReason::Saturated) => "saturated".to_owned(),
        Some(StopReason::IterationLimit(n)) => format!("iteration limit {n}"),
        Some(StopReason::NodeLimit(n)) => format!("node limit {n}"),
        Some(other) => format!("{other:?}"),
        None => "not run".to_owned(),
    };
    let nodes = runner.egraph.total_size();
    Ok((runner.egraph, Saturation { fired, stopped, nodes, iterations: runner.iterations.len() }))
}
