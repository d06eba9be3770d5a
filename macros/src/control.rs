//! Control flow over config values: both sides of a branch must agree, and a loop must leave the types it carries as they were.

use crate::chain;
use crate::lower::{Lower, Lowered, Res};
use crate::scope::{Scopes, Val};
use crate::types::as_ident;
use kiln_graph::{Dim, Requirement, TensorType, ValueId};
use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::visit::Visit;
use syn::{Error, Expr, ExprForLoop, ExprIf, ExprMatch, Pat};

/// How two types relate as far as expansion can tell.
enum Relation {
    Equal,
    Undecided,
    Different,
}

impl Lower<'_> {
    /// Whether an expression holds a tensor, so that it belongs to the graph and not to the config.
    pub(crate) fn tensorial(&self, expr: &Expr) -> bool {
        // Along a chain without recursion: it may be long.
        let mut at = expr;
        while let Some(left) = chain::left(at) {
            let beside = match at {
                Expr::MethodCall(call) if of_config(call) => return false,
                Expr::MethodCall(call) => call.args.iter().any(|arg| self.tensorial(arg)),
                Expr::Binary(binary) => self.tensorial(&binary.right),
                _ => false,
            };
            if beside {
                return true;
            }
            at = left;
        }
        let mut search = Search { lower: self, found: false };
        search.visit_expr(at);
        search.found
    }

    pub(crate) fn branch(&mut self, branch: &ExprIf) -> Res<Lowered> {
        let cond = &branch.cond;
        let optional = match &**cond {
            Expr::Let(binding) => self.optional(&binding.expr),
            _ => None,
        };
        if optional.is_none() {
            self.host_only(cond, "the condition of `if`", "use `.select(a, b)` on a bool tensor")?;
        }
        self.scopes.enter();
        if let Expr::Let(binding) = &**cond {
            match optional {
                Some(present) => self.declare_present(&binding.pat, present)?,
                None => self.declare_host(&binding.pat, Default::default()),
            }
        }
        let before = self.scopes.clone();
        let then = self.block(&branch.then_branch);
        let then_scopes = std::mem::replace(&mut self.scopes, before);
        let Lowered { val: then_val, tokens: then } = then?;
        let (val, tokens) = match &branch.else_branch {
            Some((_, other)) => {
                let Lowered { val, tokens } = self.expr(other)?;
                let val = self.join(then_val, val, other)?;
                (val, quote!(if #cond { #then } else { #tokens }))
            }
            None => (Val::Unit, quote!(if #cond { #then })),
        };
        self.merge(&then_scopes)?;
        self.scopes.leave();
        Ok(Lowered { val, tokens })
    }

    pub(crate) fn arms(&mut self, arms: &ExprMatch) -> Res<Lowered> {
        let optional = self.optional(&arms.expr);
        if optional.is_none() {
            self.host_only(&arms.expr, "the subject of `match`", "use `.select(a, b)` on bool tensors")?;
        }
        let subject = &arms.expr;
        let before = self.scopes.clone();
        let mut tokens = TokenStream::new();
        let mut joined: Option<(Val, Scopes)> = None;
        for arm in &arms.arms {
            self.scopes = before.clone();
            self.scopes.enter();
            match optional {
                Some(present) => self.declare_present(&arm.pat, present)?,
                None => self.declare_host(&arm.pat, Default::default()),
            }
            let Lowered { val, tokens: body } = self.expr(&arm.body)?;
            self.scopes.leave();
            let pat = &arm.pat;
            tokens.extend(quote!(#pat => { #body }));
            let val = match joined.take() {
                Some((first, scopes)) => {
                    self.merge(&scopes)?;
                    self.join(first, val, &arm.body)?
                }
                None => val,
            };
            joined = Some((val, self.scopes.clone()));
        }
        let val = joined.map_or(Val::Unit, |(val, _)| val);
        Ok(Lowered { val, tokens: quote!(match #subject { #tokens }) })
    }

    /// The tensor in a variable that may hold one: `Some(..)` around what is known of it.
    fn optional(&self, expr: &Expr) -> Option<Option<ValueId>> {
        let ident = match expr {
            Expr::Reference(reference) => as_ident(&reference.expr)?,
            expr => as_ident(expr)?,
        };
        match self.scopes.get(&ident.to_string())?.val {
            Val::Optional(value) => Some(value),
            _ => None,
        }
    }

    /// Declares the variable of a pattern over an optional tensor: `Some(x)` holds one, others none.
    fn declare_present(&mut self, pat: &Pat, value: Option<ValueId>) -> Res<()> {
        match pat {
            Pat::TupleStruct(some) if some.path.is_ident("Some") && some.elems.len() == 1 => match &some.elems[0] {
                Pat::Ident(inner) if inner.subpat.is_none() && inner.by_ref.is_none() => {
                    self.scopes.declare(&inner.ident, Val::Tensor(value), inner.mutability.is_some());
                    Ok(())
                }
                Pat::Wild(_) => Ok(()),
                other => Err(Error::new_spanned(other, "the tensor is bound to a plain name: `Some(x)`").into()),
            },
            Pat::Wild(_) => Ok(()),
            Pat::Ident(none) if none.ident == "None" => Ok(()),
            Pat::Path(none) if none.path.is_ident("None") => Ok(()),
            other => Err(Error::new_spanned(other, "a tensor that may be absent is `Some(x)` or `None`").into()),
        }
    }

    pub(crate) fn repeat(&mut self, repeat: &ExprForLoop) -> Res<Lowered> {
        self.host_only(
            &repeat.expr,
            "what a loop runs over",
            "a loop repeats over config values, such as `0..cfg.layers`",
        )?;
        let (pat, iter) = (&repeat.pat, &repeat.expr);
        let before = self.scopes.clone();
        self.scopes.enter();
        self.declare_host(pat, Default::default());
        let Lowered { tokens, .. } = self.block(&repeat.body)?;
        self.scopes.leave();
        let mut changed = Vec::new();
        for (name, var, old) in self.scopes.zip(&before) {
            if let (Val::Tensor(now), Val::Tensor(then)) = (&var.val, &old.val)
                && now != then
            {
                changed.push((name.clone(), *now, *then, var.assigned.clone()));
            }
        }
        for (name, now, then, assigned) in changed {
            let relation = self.relation(now, then);
            if let (Relation::Different, Some(now), Some(then)) = (&relation, now, then) {
                let message = format!(
                    "`{name}` is carried around the loop and must keep its type: {} before the loop, {} after one turn",
                    self.ty(then),
                    self.ty(now)
                );
                self.errors.push(Error::new_spanned(assigned.unwrap_or_else(|| pat.to_token_stream()), message));
            }
            if let Some(var) = self.scopes.get_mut(&name) {
                var.val = Val::Tensor(if matches!(relation, Relation::Equal) { then } else { None });
            }
        }
        // Nodes of a turn are named by its number. A scope is left where the next begins, so that `continue` and `break` do no harm.
        let (label, b, turn) = (&repeat.label, self.builder(), self.temporary());
        let tokens = quote!({
            let mut #turn = 0usize;
            #label for #pat in #iter {
                if #turn > 0 {
                    #b.pop_scope();
                }
                #b.push_scope(#turn.to_string());
                #turn += 1;
                #tokens
            }
            if #turn > 0 {
                #b.pop_scope();
            }
        });
        Ok(Lowered { val: Val::Unit, tokens })
    }

    fn host_only(&self, expr: &Expr, what: &str, instead: &str) -> Res<()> {
        if self.tensorial(expr) {
            let message = format!("{what} is known when the graph is built, and a tensor is not; {instead}");
            return Err(Error::new_spanned(expr, message).into());
        }
        Ok(())
    }

    /// Joins variables that the other branch may have assigned.
    fn merge(&mut self, other: &Scopes) -> Res<()> {
        let pairs: Vec<_> = self
            .scopes
            .zip(other)
            .filter(|(_, a, _)| a.val.is_tensor())
            .map(|(n, a, b)| {
                (n.clone(), a.val.clone(), b.val.clone(), b.assigned.clone().or_else(|| a.assigned.clone()))
            })
            .collect();
        for (name, a, b, assigned) in pairs {
            let joined = self.join(b, a, &assigned.unwrap_or_default())?;
            if let Some(var) = self.scopes.get_mut(&name) {
                var.val = joined;
            }
        }
        Ok(())
    }

    /// The value of an expression that is `a` on one branch and `b` on another.
    fn join(&mut self, a: Val, b: Val, source: &impl ToTokens) -> Res<Val> {
        match (a, b) {
            (Val::Tensor(a), Val::Tensor(b)) => match (self.relation(a, b), a, b) {
                (Relation::Equal, ..) => Ok(Val::Tensor(a)),
                (Relation::Different, Some(a), Some(b)) => {
                    let message =
                        format!("branches must agree in type: one is {}, this one {}", self.ty(a), self.ty(b));
                    Err(Error::new_spanned(source, message).into())
                }
                _ => Ok(Val::Tensor(None)),
            },
            (Val::Tuple(a), Val::Tuple(b)) if a.len() == b.len() => {
                let items = a.into_iter().zip(b).map(|(a, b)| self.join(a, b, source)).collect::<Res<_>>()?;
                Ok(Val::Tuple(items))
            }
            (Val::Optional(a), Val::Optional(b)) => match (a, b) {
                // One of them may be `None`, which is of any type.
                (Some(one), None) | (None, Some(one)) => Ok(Val::Optional(Some(one))),
                (a, b) => Ok(match self.join(Val::Tensor(a), Val::Tensor(b), source)? {
                    Val::Tensor(value) => Val::Optional(value),
                    other => other,
                }),
            },
            (Val::Host(_), Val::Host(_)) => Ok(Val::Host(Default::default())),
            // `None` as a config value.
            (Val::Host(_), Val::Optional(None)) | (Val::Optional(None), Val::Host(_)) => {
                Ok(Val::Host(Default::default()))
            }
            (Val::Unit, Val::Unit) => Ok(Val::Unit),
            (a, b) => {
                let message = format!("branches must agree: one is {}, this one {}", a.describe(), b.describe());
                Err(Error::new_spanned(source, message).into())
            }
        }
    }

    fn relation(&mut self, a: Option<ValueId>, b: Option<ValueId>) -> Relation {
        let (Some(a), Some(b)) = (a, b) else { return Relation::Undecided };
        let (a, b): (TensorType, TensorType) = (self.ty(a), self.ty(b));
        if a == b {
            return Relation::Equal;
        }
        if a.dtype != b.dtype || a.rank() != b.rank() {
            return Relation::Different;
        }
        let graph = self.graph.graph();
        let equal = |x: &Dim, y: &Dim| {
            x == y || Requirement::equal(x.clone(), y.clone()).follows_from_all(&graph.constraints, &graph.symbols)
        };
        if a.shape.iter().zip(&b.shape).all(|(x, y)| equal(x, y)) {
            return Relation::Equal;
        }
        let differ = a.shape.iter().zip(&b.shape).filter(|(x, y)| !equal(x, y)).any(|(x, y)| {
            let (low, high) = (x.clone() - y.clone()).bounds(self.ranges());
            low > 0 || high < 0 || self.settled(x) && self.settled(y)
        });
        if differ { Relation::Different } else { Relation::Undecided }
    }
}

/// Whether a method's result is a config value even of a tensor: an extent, or whether it is there.
fn of_config(call: &syn::ExprMethodCall) -> bool {
    ["dim", "is_some", "is_none"].iter().any(|m| call.method == m)
}

/// Looks for tensors, except where only their extents are read.
struct Search<'a, 'b> {
    lower: &'a Lower<'b>,
    found: bool,
}

impl<'ast> Visit<'ast> for Search<'_, '_> {
    fn visit_expr(&mut self, expr: &'ast Expr) {
        if let Some(ident) = as_ident(expr)
            && let Some(var) = self.lower.scopes.get(&ident.to_string())
        {
            self.found |= var.val.is_tensor();
        }
        match expr {
            Expr::MethodCall(call) if of_config(call) => {}
            Expr::Macro(mac) => self.found |= mac.mac.path.is_ident("weight"),
            Expr::Call(call) if crate::call::creates(&call.func).is_some() => self.found = true,
            expr => syn::visit::visit_expr(self, expr),
        }
    }

    fn visit_stmt_macro(&mut self, mac: &'ast syn::StmtMacro) {
        self.found |= mac.mac.path.is_ident("weight");
    }
}
