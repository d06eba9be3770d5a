//! Statements and expressions: each is interpreted on an abstract graph and rewritten into Rust that builds the real one.

use crate::call::Known;
use crate::expand::support;
use crate::scope::{Host, Scopes, Val};
use crate::signature::Signature;
use crate::types::{TensorSpec, bare, tensor_spec};
use kiln_graph::{Builder, Constraint, DType, Dim, Relation, Requirement, Symbols, TensorType, ValueId};
use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use std::collections::{BTreeMap, BTreeSet};
use syn::spanned::Spanned;
use syn::{BinOp, Block, Error, Expr, Ident, Local, Pat, Stmt, UnOp};

/// Why lowering stops.
pub(crate) enum Stop {
    /// A mistake in the model.
    Error(Error),
    /// The signature of this model is needed first.
    Want(syn::Path),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Error(error)
    }
}

/// Result of lowering.
pub(crate) type Res<T> = Result<T, Stop>;

/// An expression's abstract value, and the Rust that computes the real one.
pub(crate) struct Lowered {
    /// What is known.
    pub val: Val,
    /// What is emitted.
    pub tokens: TokenStream,
}

/// Interpretation of one model's body.
pub(crate) struct Lower<'a> {
    /// The graph on abstract types: config dims are symbols in it.
    pub graph: Builder,
    /// Variables.
    pub scopes: Scopes,
    /// The model's symbols.
    pub symbols: BTreeSet<String>,
    /// The dtypes that stand for the model's dtype parameters.
    pub dtypes: BTreeMap<String, DType>,
    /// Names of config values that are in use.
    pub taken: BTreeSet<String>,
    /// Mistakes found so far.
    pub errors: Vec<Error>,
    /// Signatures of the models that this one calls, as far as they were asked for.
    pub known: &'a Known,
    /// Name of the model.
    pub model: String,
    /// Constraints of the graph that have been judged.
    judged: usize,
    temporaries: usize,
}

impl<'a> Lower<'a> {
    /// Starts with nothing but the names of symbols, and the dtypes of one check ([`Class::sample`]).
    pub(crate) fn new(signature: &Signature, known: &'a Known, check: usize) -> Lower<'a> {
        let model = signature.ident.to_string();
        let mut graph = Builder::new(model.as_str());
        for symbol in &signature.symbols {
            graph.symbol(&symbol.to_string(), 1, i64::MAX);
        }
        let mut scopes = Scopes::default();
        scopes.enter();
        let dtypes = signature.dtypes.iter().enumerate().map(|(i, c)| (c.ident.to_string(), c.sample(i, check)));
        Lower {
            graph,
            scopes,
            symbols: signature.symbols.iter().map(Ident::to_string).collect(),
            dtypes: dtypes.collect(),
            taken: BTreeSet::new(),
            errors: Vec::new(),
            known,
            model,
            judged: 0,
            temporaries: 0,
        }
    }

    /// A written dtype: what it is in this check, and Rust of type `DType`.
    pub(crate) fn element(&self, path: &syn::Path) -> Res<(DType, TokenStream)> {
        let parameter = path.get_ident().and_then(|ident| Some((ident, *self.dtypes.get(&ident.to_string())?)));
        match parameter {
            Some((ident, dtype)) => Ok((dtype, ident.to_token_stream())),
            None => {
                let dtype = crate::types::dtype(path)?;
                Ok((dtype, dtype_tokens(dtype)))
            }
        }
    }

    /// The variable that holds the builder in the generated code.
    pub(crate) fn builder(&self) -> Ident {
        crate::expand::builder()
    }

    /// A fresh variable of the generated code.
    pub(crate) fn temporary(&mut self) -> Ident {
        self.temporaries += 1;
        format_ident!("t{}", self.temporaries, span = Span::mixed_site())
    }

    /// The type of an abstract value.
    pub(crate) fn ty(&self, id: ValueId) -> TensorType {
        self.graph.ty(id).clone()
    }

    /// The symbols' ranges.
    pub(crate) fn ranges(&self) -> &Symbols {
        &self.graph.graph().symbols
    }

    /// A new abstract value of some type.
    pub(crate) fn value(&mut self, ty: TensorType, source: &impl ToTokens) -> Res<ValueId> {
        let name = format!("%{}", self.graph.graph().values.len());
        self.graph.input(&name, ty.dtype, &ty.shape).map_err(|e| Error::new_spanned(source, e).into())
    }

    /// Whether a dim depends on symbols only, so that what cannot be proved of it at expansion will never be.
    pub(crate) fn settled(&self, dim: &Dim) -> bool {
        let mut names = BTreeSet::new();
        dim.symbols(&mut names);
        names.is_subset(&self.symbols)
    }

    /// Turns the outcome of an abstract step into a value, or into an error at `source`. Equalities between symbols that do not hold for
    /// every value are errors too; those that involve config values are left to the build of the graph.
    pub(crate) fn judge<T>(&mut self, outcome: kiln_graph::Result<T>, source: &impl ToTokens) -> Res<T> {
        let value = outcome.map_err(|e| Error::new_spanned(source, e))?;
        let all = &self.graph.graph().constraints;
        let fresh = &all[self.judged.min(all.len())..];
        let broken = fresh.iter().find(|c| {
            let Requirement { left, relation, right } = &c.requirement;
            !matches!(relation, Relation::AtMost | Relation::Multiple) && self.settled(left) && self.settled(right)
        });
        let message = broken.map(|Constraint { requirement: Requirement { left, relation, right }, why }| match relation {
            Relation::Broadcasts => format!(
                "{why}: {left} is 1 or {right} only for some values of the symbols; use one symbol for extents that are equal"
            ),
            _ => format!("{why}: expected {left}, found {right}, which are equal only for some values of the symbols"),
        });
        self.judged = all.len();
        match message {
            Some(message) => Err(Error::new_spanned(source, message).into()),
            None => Ok(value),
        }
    }

    /// `.map_err(..)?` that places an error of the build at `source`.
    pub(crate) fn attempt(&self, source: &impl ToTokens) -> TokenStream {
        let p = support();
        let span = source.to_token_stream().into_iter().next().map_or_else(Span::call_site, |t| t.span());
        let line = span.unwrap().line();
        let place = format!("{} (line {line}: `{}`)", self.model, excerpt(&source.to_token_stream()));
        quote!(.map_err(#p::at(#place))?)
    }

    /// Whether some identifier of the tokens satisfies a predicate. The receiver of `.dim(..)` is looked at as well.
    pub(crate) fn any_ident(&self, tokens: &TokenStream, test: &dyn Fn(&str) -> bool) -> bool {
        let mut after_dot = false;
        for token in tokens.clone() {
            let hit = match &token {
                TokenTree::Ident(ident) => !after_dot && test(&ident.to_string()),
                TokenTree::Group(group) => self.any_ident(&group.stream(), test),
                _ => false,
            };
            if hit {
                return true;
            }
            after_dot = matches!(&token, TokenTree::Punct(p) if p.as_char() == '.') && !after_dot;
        }
        false
    }

    /// The value of a variable, for places that take nothing else.
    pub(crate) fn place(&self, expr: &Expr) -> Res<Val> {
        let found = crate::types::as_ident(expr).and_then(|i| self.scopes.get(&i.to_string()));
        found
            .map(|v| v.val.clone())
            .ok_or_else(|| Error::new_spanned(expr, "expected a tensor variable here; bind it with `let` first").into())
    }

    /// The statements of a block in a scope of their own, without braces.
    pub(crate) fn block(&mut self, block: &Block) -> Res<Lowered> {
        self.scopes.enter();
        let lowered = self.statements(&block.stmts);
        self.scopes.leave();
        lowered
    }

    /// Statements in the present scope. A mistake in one is noted, and the next are still checked.
    pub(crate) fn statements(&mut self, stmts: &[Stmt]) -> Res<Lowered> {
        let mut tokens = TokenStream::new();
        let mut val = Val::Unit;
        let depth = self.scopes.depth();
        for stmt in stmts {
            match self.statement(stmt) {
                Ok(lowered) => {
                    tokens.extend(lowered.tokens);
                    val = lowered.val;
                }
                Err(Stop::Error(error)) => {
                    self.errors.push(error);
                    self.scopes.truncate(depth);
                    val = Val::Tensor(None);
                    if let Stmt::Local(local) = stmt {
                        self.declare_unknown(&local.pat);
                    }
                }
                Err(want) => return Err(want),
            }
        }
        Ok(Lowered { val, tokens })
    }

    fn statement(&mut self, stmt: &Stmt) -> Res<Lowered> {
        match stmt {
            Stmt::Local(local) => self.local(local).map(|tokens| Lowered { val: Val::Unit, tokens }),
            Stmt::Expr(expr, None) => self.expr(expr),
            Stmt::Expr(expr, Some(semi)) => {
                let Lowered { tokens, .. } = self.expr(expr)?;
                Ok(Lowered { val: Val::Unit, tokens: quote!(#tokens #semi) })
            }
            Stmt::Item(_) | Stmt::Macro(_) => Ok(match stmt {
                Stmt::Macro(mac) if mac.mac.path.is_ident("weight") => {
                    let mut lowered = self.weight(&mac.mac)?;
                    if let Some(semi) = &mac.semi_token {
                        lowered.tokens.extend(semi.to_token_stream());
                        lowered.val = Val::Unit;
                    }
                    lowered
                }
                _ => Lowered { val: Val::Unit, tokens: stmt.to_token_stream() },
            }),
        }
    }

    fn local(&mut self, local: &Local) -> Res<TokenStream> {
        let (pat, annotation) = match &local.pat {
            Pat::Type(typed) => (&*typed.pat, Some(&*typed.ty)),
            pat => (pat, None),
        };
        let spec = annotation.map(tensor_spec).transpose()?.flatten();
        let Some(init) = &local.init else {
            return Err(Error::new_spanned(local, "a variable of a model needs its value where it is declared").into());
        };
        if !self.tensorial(&init.expr) && spec.is_none() {
            let (host, tokens) = self.host(&init.expr)?;
            let (attrs, ty) = (&local.attrs, annotation.map(|ty| quote!(: #ty)));
            let diverge = init.diverge.as_ref().map(|(token, expr)| quote!(#token #expr));
            self.declare_host(pat, host);
            return Ok(quote!(#(#attrs)* let #pat #ty = #tokens #diverge;));
        }
        if let Some((_, diverge)) = &init.diverge {
            return Err(Error::new_spanned(diverge, "`else` has no meaning for a tensor").into());
        }
        let mut lowered = self.expr(&init.expr)?;
        if let Some(spec) = spec {
            lowered = self.expect(&spec, lowered, &init.expr, "the annotated type")?;
        }
        let names = self.bind(pat, lowered.val, &init.expr)?;
        let tokens = lowered.tokens;
        Ok(quote_spanned!(local.span()=> let #pat = #tokens; #names))
    }

    /// Declares the variables of a pattern; yields the statements that name the values after them.
    fn bind(&mut self, pat: &Pat, val: Val, source: &Expr) -> Res<TokenStream> {
        match (pat, val) {
            (Pat::Wild(_), _) => Ok(TokenStream::new()),
            (Pat::Ident(pat), val) if pat.subpat.is_none() && pat.by_ref.is_none() => {
                let (p, b, ident) = (support(), self.builder(), &pat.ident);
                let naming = match &val {
                    Val::Tensor(_) => {
                        let name = ident.to_string();
                        quote!(#p::name(#b, #ident, #name);)
                    }
                    _ => TokenStream::new(),
                };
                self.scopes.declare(ident, val, pat.mutability.is_some());
                Ok(naming)
            }
            (Pat::Tuple(pat), Val::Tuple(vals)) if pat.elems.len() == vals.len() => {
                pat.elems.iter().zip(vals).map(|(pat, val)| self.bind(pat, val, source)).collect()
            }
            (Pat::Tuple(pat), Val::Tuple(vals)) => {
                let message = format!("expected a tuple of {}, found one of {}", pat.elems.len(), vals.len());
                Err(Error::new_spanned(source, message).into())
            }
            (pat, Val::Tensor(None)) => {
                self.declare_unknown(pat);
                Ok(TokenStream::new())
            }
            (pat, val) => {
                let message = format!("{} is bound to a plain name or a tuple of names", val.describe());
                Err(Error::new_spanned(pat, message).into())
            }
        }
    }

    /// Declares the variables of a pattern over a config value.
    pub(crate) fn declare_host(&mut self, pat: &Pat, host: Host) {
        match pat {
            Pat::Ident(pat) if pat.subpat.is_none() => {
                let host = Host { name: host.name.or_else(|| Some(self.unique(&pat.ident.to_string()))), ..host };
                self.scopes.declare(&pat.ident, Val::Host(host), pat.mutability.is_some());
            }
            pat => {
                for (ident, mutable) in idents(pat) {
                    let name = Some(self.unique(&ident.to_string()));
                    self.scopes.declare(&ident, Val::Host(Host { name, ..Host::default() }), mutable);
                }
            }
        }
    }

    fn declare_unknown(&mut self, pat: &Pat) {
        for (ident, mutable) in idents(pat) {
            self.scopes.declare(&ident, Val::Tensor(None), mutable);
        }
    }

    /// Lowers any expression.
    pub(crate) fn expr(&mut self, expr: &Expr) -> Res<Lowered> {
        if crate::args::none(expr) {
            return Ok(Lowered { val: Val::Optional(None), tokens: expr.to_token_stream() });
        }
        if !self.tensorial(expr) {
            let (host, tokens) = self.host(expr)?;
            return Ok(Lowered { val: Val::Host(host), tokens });
        }
        if let Some(lowered) = self.chain(expr)? {
            return Ok(lowered);
        }
        match expr {
            Expr::Path(_) => {
                let val = self.place(expr)?;
                Ok(Lowered { val, tokens: expr.to_token_stream() })
            }
            Expr::Paren(_) | Expr::Group(_) => self.expr(bare(expr)),
            Expr::Reference(reference) => self.expr(&reference.expr),
            Expr::Block(block) if block.label.is_none() => {
                let Lowered { val, tokens } = self.block(&block.block)?;
                Ok(Lowered { val, tokens: quote!({ #tokens }) })
            }
            Expr::Tuple(tuple) => {
                let items = tuple.elems.iter().map(|e| self.expr(e)).collect::<Res<Vec<_>>>()?;
                let tokens = items.iter().map(|i| &i.tokens);
                let tokens = quote!((#(#tokens,)*));
                Ok(Lowered { val: Val::Tuple(items.into_iter().map(|i| i.val).collect()), tokens })
            }
            Expr::Binary(binary) => self.operator(binary, expr),
            Expr::Unary(unary) => match unary.op {
                UnOp::Neg(_) => self.method("neg", &unary.expr, &[], expr, unary.op.span()),
                UnOp::Not(_) => self.method("not", &unary.expr, &[], expr, unary.op.span()),
                _ => Err(Error::new_spanned(expr, "a tensor is a value and cannot be dereferenced").into()),
            },
            Expr::MethodCall(call) => {
                let args: Vec<&Expr> = call.args.iter().collect();
                self.method(&call.method.to_string(), &call.receiver, &args, expr, call.method.span())
            }
            Expr::Call(call) => self.call(call, expr),
            Expr::Macro(mac) if mac.mac.path.is_ident("weight") => self.weight(&mac.mac),
            Expr::Assign(assign) => self.assign(&assign.left, &assign.right, |lowered, tokens| {
                let left = &lowered;
                quote!(#left = #tokens)
            }),
            Expr::If(branch) => self.branch(branch),
            Expr::Match(arms) => self.arms(arms),
            Expr::ForLoop(repeat) => self.repeat(repeat),
            Expr::Field(field) => self.field(field),
            Expr::Index(_) => Err(Error::new_spanned(
                expr,
                "a tensor is not indexed with `[..]`; use `.slice(axis, start..end)` or `.index(axis, i)`",
            )
            .into()),
            Expr::Return(_) | Expr::Try(_) | Expr::While(_) | Expr::Loop(_) | Expr::Closure(_) => Err(Error::new_spanned(
                expr,
                "tensors flow through `let`, assignment, `for`, `if`, `match`, methods and calls of models; this form is not one of them",
            )
            .into()),
            _ => Err(Error::new_spanned(expr, "this expression has no meaning for tensors").into()),
        }
    }

    fn field(&mut self, field: &syn::ExprField) -> Res<Lowered> {
        let Lowered { val, tokens } = self.expr(&field.base)?;
        let member = &field.member;
        match (val, member) {
            (Val::Tuple(vals), syn::Member::Unnamed(index)) if (index.index as usize) < vals.len() => {
                let val = vals[index.index as usize].clone();
                Ok(Lowered { val, tokens: quote!(#tokens.#member) })
            }
            (val, _) => {
                Err(Error::new_spanned(member, format!("{} has no field `{}`", val.describe(), quote!(#member))).into())
            }
        }
    }

    fn operator(&mut self, binary: &syn::ExprBinary, expr: &Expr) -> Res<Lowered> {
        let (left, right) = (&*binary.left, &*binary.right);
        let (name, compound) = match binary.op {
            BinOp::Add(_) => ("add", false),
            BinOp::Sub(_) => ("sub", false),
            BinOp::Mul(_) => ("mul", false),
            BinOp::Div(_) => ("div", false),
            BinOp::Rem(_) => ("rem", false),
            BinOp::BitAnd(_) | BinOp::And(_) => ("and", false),
            BinOp::BitOr(_) | BinOp::Or(_) => ("or", false),
            BinOp::BitXor(_) => ("xor", false),
            BinOp::AddAssign(_) => ("add", true),
            BinOp::SubAssign(_) => ("sub", true),
            BinOp::MulAssign(_) => ("mul", true),
            BinOp::DivAssign(_) => ("div", true),
            _ => {
                let message = "tensors have no such operator; comparisons are methods: `.lt(..)`, `.eq(..)`, ..";
                return Err(Error::new_spanned(expr, message).into());
            }
        };
        let span = binary.op.span();
        if !compound {
            return self.method(name, left, &[right], expr, span);
        }
        let Lowered { val, tokens } = self.method(name, left, &[right], expr, span)?;
        self.store(left, val, expr)?;
        Ok(Lowered { val: Val::Unit, tokens: quote!(#left = #tokens) })
    }

    fn assign(&mut self, left: &Expr, right: &Expr, emit: impl Fn(&Expr, &TokenStream) -> TokenStream) -> Res<Lowered> {
        let Lowered { val, tokens } = self.expr(right)?;
        self.store(left, val, right)?;
        Ok(Lowered { val: Val::Unit, tokens: emit(left, &tokens) })
    }

    fn store(&mut self, left: &Expr, val: Val, source: &Expr) -> Res<()> {
        let name = crate::types::as_ident(left).map(Ident::to_string);
        match name.and_then(|n| self.scopes.get_mut(&n)) {
            Some(var) if var.val.is_tensor() == val.is_tensor() => {
                var.val = val;
                var.assigned = Some(source.to_token_stream());
                Ok(())
            }
            Some(var) => {
                let message =
                    format!("cannot assign {} to a variable that holds {}", val.describe(), var.val.describe());
                Err(Error::new_spanned(source, message).into())
            }
            None => Err(Error::new_spanned(left, "a tensor is assigned to a variable declared with `let mut`").into()),
        }
    }

    /// Requires a value of the written type; the value is known to have it afterwards.
    pub(crate) fn expect(
        &mut self,
        spec: &TensorSpec,
        lowered: Lowered,
        source: &impl ToTokens,
        what: &str,
    ) -> Res<Lowered> {
        let (ty, built) = self.spec(spec)?;
        let Lowered { val, tokens } = lowered;
        let Val::Tensor(found) = val else {
            return Err(Error::new_spanned(source, format!("{what} is {ty}, found {}", val.describe())).into());
        };
        let id = match found {
            Some(id) => {
                let outcome = self.graph.expect(id, &ty, what);
                self.judge(outcome, source)?;
                self.value(ty, source)?
            }
            None => self.value(ty, source)?,
        };
        let (b, t, attempt) = (self.builder(), self.temporary(), self.attempt(source));
        let tokens = quote!({ let #t = #tokens; #b.expect(#t, &#built, #what)#attempt; #t });
        Ok(Lowered { val: Val::Tensor(Some(id)), tokens })
    }

    /// A written type: its abstract value, and Rust that makes the `TensorType`.
    pub(crate) fn spec(&mut self, spec: &TensorSpec) -> Res<(TensorType, TokenStream)> {
        let p = support();
        let (mut shape, mut built) = (Vec::new(), Vec::new());
        for expr in &spec.dims {
            let (dim, tokens) = self.dim(expr)?;
            shape.push(dim);
            built.push(tokens);
        }
        let (dtype, element) = self.element(&spec.dtype)?;
        Ok((TensorType { dtype, shape }, quote!(#p::TensorType { dtype: #element, shape: ::std::vec![#(#built),*] })))
    }
}

/// The path of a dtype in generated code.
pub(crate) fn dtype_tokens(dtype: kiln_graph::DType) -> TokenStream {
    let p = support();
    let variant = format_ident!("{}", format!("{dtype:?}"));
    quote!(#p::DType::#variant)
}

fn idents(pat: &Pat) -> Vec<(Ident, bool)> {
    struct Idents(Vec<(Ident, bool)>);
    impl<'ast> syn::visit::Visit<'ast> for Idents {
        fn visit_pat_ident(&mut self, pat: &'ast syn::PatIdent) {
            self.0.push((pat.ident.clone(), pat.mutability.is_some()));
            syn::visit::visit_pat_ident(self, pat);
        }
    }
    let mut all = Idents(Vec::new());
    syn::visit::Visit::visit_pat(&mut all, pat);
    all.0
}

/// Source of an expression, shortened, for messages of the build.
fn excerpt(tokens: &TokenStream) -> String {
    const MOST: usize = 60;
    let text = tokens.to_string();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= MOST { text } else { text.chars().take(MOST).chain("..".chars()).collect() }
}
