//! The statements of a kernel: each becomes Rust that adds it to the program, for one choice of dtype and Config.

use super::kinds::{Dim, Ext, Kind, Ty, shown, text};
use super::signature::KernelSignature;
use crate::expand::support;
use crate::types::as_ident;
use proc_macro2::{Span, TokenStream, TokenTree};
use quote::ToTokens;
use std::collections::BTreeMap;
use syn::{BinOp, Block, Error, Expr, ExprForLoop, Ident, Local, Pat, Result, Stmt};

/// A variable of the body.
pub(crate) struct Var {
    pub kind: Kind,
    pub mutable: bool,
}

/// The translation of one kernel.
pub(crate) struct Lower<'s> {
    pub signature: &'s KernelSignature,
    pub scopes: Vec<BTreeMap<String, Var>>,
    pub errors: Vec<Error>,
    /// Outputs that something is stored to.
    pub stored: Vec<String>,
    /// The greatest rank of a tile, and where a product stands.
    pub rank: usize,
    pub product: Option<Span>,
}

impl<'s> Lower<'s> {
    pub(crate) fn new(signature: &'s KernelSignature) -> Lower<'s> {
        let mut scope = BTreeMap::new();
        for view in &signature.views {
            scope.insert(view.ident.to_string(), Var { kind: Kind::View(view.ident.to_string()), mutable: false });
        }
        for dim in signature.dims() {
            scope.insert(dim.to_string(), Var { kind: Kind::Index, mutable: false });
        }
        if let Some((config, _)) = &signature.config {
            scope.insert(config.to_string(), Var { kind: Kind::Host(None), mutable: false });
        }
        Lower { signature, scopes: vec![scope], errors: vec![], stored: vec![], rank: 0, product: None }
    }

    /// The body's variable in the generated code.
    pub(crate) fn body() -> Ident {
        Ident::new("body", Span::mixed_site())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Var> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name))
    }

    pub(crate) fn declare(&mut self, ident: &Ident, kind: Kind, mutable: bool) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(ident.to_string(), Var { kind, mutable });
        }
    }

    /// Whether some syntax mentions anything that is not an ordinary Rust value.
    pub(crate) fn mentions_tiles(&self, syntax: &impl ToTokens) -> bool {
        fn within(tokens: TokenStream, is: &dyn Fn(&Ident) -> bool) -> bool {
            // A field's name is no variable.
            let mut field = false;
            for token in tokens {
                let found = match &token {
                    TokenTree::Ident(ident) => !field && is(ident),
                    TokenTree::Group(group) => within(group.stream(), is),
                    _ => false,
                };
                if found {
                    return true;
                }
                field = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '.');
            }
            false
        }
        let is = |ident: &Ident| self.get(&ident.to_string()).is_some_and(|var| !matches!(var.kind, Kind::Host(_)));
        within(syntax.to_token_stream(), &is)
    }

    /// The whole body: Rust values, then the grid.
    pub(crate) fn whole(&mut self, block: &Block) -> TokenStream {
        let mut tokens = TokenStream::new();
        let mut grid = false;
        for stmt in &block.stmts {
            let lowered = match stmt {
                Stmt::Expr(Expr::ForLoop(each), _) if called(&each.expr, "grid").is_some() => {
                    if grid {
                        Err(Error::new_spanned(each, "a kernel has one grid"))
                    } else {
                        grid = true;
                        self.grid(each)
                    }
                }
                Stmt::Local(local) if !grid && !self.mentions_tiles(local) => self.local(local),
                stmt if grid => Err(Error::new_spanned(stmt, "the grid is the last statement of a kernel")),
                stmt => Err(Error::new_spanned(
                    stmt,
                    "before the grid there are Rust values alone, as in `let half = cfg.bn / 2;`",
                )),
            };
            match lowered {
                Ok(lowered) => tokens.extend(lowered),
                Err(error) => self.errors.push(error),
            }
        }
        if !grid && self.errors.is_empty() {
            let message = "a kernel needs a grid, as in `for [m, n] in grid([M, N], [cfg.bm, cfg.bn]) { .. }`";
            self.errors.push(Error::new_spanned(&self.signature.ident, message));
        }
        for view in self.signature.views.iter().filter(|view| view.output) {
            if self.errors.is_empty() && !self.stored.iter().any(|name| view.ident == name) {
                self.errors.push(Error::new(view.ident.span(), format!("`{}` is never stored to", view.ident)));
            }
        }
        if let Some(span) = self.product.filter(|_| self.rank > 2) {
            let message = format!(
                "a product in a kernel that has tiles of {} axes: those of 2 at most can be multiplied; walk along the others with extent 1",
                self.rank
            );
            self.errors.push(Error::new(span, message));
        }
        tokens
    }

    /// Statements in a scope of their own.
    pub(crate) fn block(&mut self, block: &Block) -> TokenStream {
        self.scopes.push(BTreeMap::new());
        let tokens = block.stmts.iter().map(|stmt| match self.stmt(stmt) {
            Ok(tokens) => tokens,
            Err(error) => {
                self.errors.push(error);
                TokenStream::new()
            }
        });
        let tokens = tokens.collect();
        self.scopes.pop();
        tokens
    }

    fn stmt(&mut self, stmt: &Stmt) -> Result<TokenStream> {
        match stmt {
            Stmt::Local(local) => self.local(local),
            Stmt::Expr(expr, _) => self.effect(expr),
            Stmt::Item(item) => Ok(item.to_token_stream()),
            Stmt::Macro(mac) if !self.mentions_tiles(mac) => Ok(mac.to_token_stream()),
            Stmt::Macro(mac) => Err(Error::new_spanned(mac, "no macro takes tiles")),
        }
    }

    fn local(&mut self, local: &Local) -> Result<TokenStream> {
        let Some(init) = local.init.as_ref().filter(|init| init.diverge.is_none()) else {
            return Err(Error::new_spanned(local, "a variable of a kernel has a value from the start: `let x = ..;`"));
        };
        let pat = match &local.pat {
            Pat::Type(typed) if !self.mentions_tiles(&init.expr) => &*typed.pat,
            pat => pat,
        };
        let (kind, tokens) = self.value(&init.expr)?;
        let ident = match pat {
            Pat::Ident(ident) if ident.subpat.is_none() && ident.by_ref.is_none() => ident,
            pat if matches!(kind, Kind::Host(_)) => {
                for ident in idents(pat) {
                    self.declare(&ident, Kind::Host(None), false);
                }
                return Ok(local.to_token_stream());
            }
            pat => return Err(Error::new_spanned(pat, "a tile takes a plain name, without a type: `let x = ..;`")),
        };
        let (name, mutable) = (&ident.ident, ident.mutability.is_some());
        if let Kind::Host(alias) = kind {
            let alias = alias.or_else(|| Some(text(&init.expr))).filter(|_| !mutable);
            self.declare(name, Kind::Host(alias), mutable);
            return Ok(local.to_token_stream());
        }
        self.declare(name, kind, mutable);
        Ok(code!(let mut #name = #tokens;))
    }

    /// A statement that is an expression.
    fn effect(&mut self, expr: &Expr) -> Result<TokenStream> {
        match expr {
            Expr::Assign(assign) => self.assign(&assign.left, None, &assign.right, expr),
            Expr::Binary(binary) if compound(&binary.op).is_some() => {
                self.assign(&binary.left, compound(&binary.op), &binary.right, expr)
            }
            Expr::ForLoop(each) => self.each(each),
            Expr::If(branch) => self.branch(branch),
            Expr::Block(block) => {
                let tokens = self.block(&block.block);
                Ok(code!({ #tokens }))
            }
            Expr::MethodCall(call) if call.method == "store" => self.store(call),
            expr if !self.mentions_tiles(expr) => Ok(code!(#expr;)),
            expr => {
                let (kind, _) = self.value(expr)?;
                Err(Error::new_spanned(expr, format!("{kind} that nothing uses: store it, or give it a name")))
            }
        }
    }

    fn assign(&mut self, left: &Expr, op: Option<&str>, right: &Expr, whole: &Expr) -> Result<TokenStream> {
        let Some(ident) = as_ident(left) else {
            return match self.mentions_tiles(whole) {
                true => Err(Error::new_spanned(
                    left,
                    "only variables are assigned to; a tensor is stored to: `y.tile([m, n]).store(value)`",
                )),
                false => Ok(code!(#whole;)),
            };
        };
        let Some(var) = self.get(&ident.to_string()) else {
            return Err(Error::new_spanned(ident, format!("no variable is called `{ident}`")));
        };
        let (expected, mutable) = (var.kind.clone(), var.mutable);
        match &expected {
            Kind::Host(_) if !self.mentions_tiles(right) => return Ok(code!(#whole;)),
            Kind::View(_) => {
                return Err(Error::new_spanned(
                    left,
                    format!("`{ident}` is a tensor: store to it, as in `{ident}.tile([m, n]).store(value)`"),
                ));
            }
            _ => {}
        }
        if !mutable {
            return Err(Error::new_spanned(
                left,
                format!("`{ident}` does not change; declare it with `let mut {ident}`"),
            ));
        }
        // A product is added where its sums are.
        let (kind, tokens) = match (op, called(right, "dot"), &expected) {
            (Some("Add"), Some(args), Kind::Tile(..)) => self.dot(args, Some(left), right)?,
            (Some(op), _, _) => self.binary(op, left, right, whole)?,
            (None, ..) => self.value(right)?,
        };
        let same = match (&kind, &expected) {
            (Kind::Tile(a, x), Kind::Tile(b, y)) => a == b && x == y,
            (a, b) => a == b,
        };
        if !same {
            return Err(Error::new_spanned(right, format!("`{ident}` is {expected}, and this would make it {kind}")));
        }
        Ok(code!(#ident = #tokens;))
    }

    fn store(&mut self, call: &syn::ExprMethodCall) -> Result<TokenStream> {
        let (p, body) = (support(), Self::body());
        let args: Vec<&Expr> = call.args.iter().collect();
        let [value] = args[..] else {
            return Err(Error::new_spanned(&call.method, "`store` takes what is stored"));
        };
        let (place, at) = self.expr(&call.receiver)?;
        let Kind::Place { view, shape } = place else {
            return Err(Error::new_spanned(
                &call.receiver,
                format!("{place} cannot be stored to; a tile of an output can: `y.tile([m, n])`"),
            ));
        };
        let own = self.signature.views.iter().find(|own| own.ident == view);
        let Some(own) = own.filter(|own| own.output) else {
            return Err(Error::new_spanned(
                &call.receiver,
                format!("`{view}` is an input; outputs are declared `{view}: ViewMut<..>`"),
            ));
        };
        let (kind, tokens) = self.value(value)?;
        let (kind, tokens) = match kind {
            Kind::Host(_) => (None, code!(#p::kernel::Value::Number(#p::kernel::Number::number(#tokens)))),
            Kind::Scalar(dtype) => (Some((Ty::Known(dtype), vec![])), tokens),
            Kind::Tile(ty, shape) => (Some((ty, shape)), tokens),
            kind => return Err(Error::new_spanned(value, format!("{kind} cannot be stored; a tile or a number can"))),
        };
        if let Some((ty, found)) = kind {
            if !super::kinds::broadcast(&found, &shape).is_ok_and(|both| both == shape) {
                return Err(Error::new_spanned(
                    value,
                    format!("a tile of extents {} is stored to one of {}", shown(&found), shown(&shape)),
                ));
            }
            let (from, to) = (ty.compute(), own.ty.compute());
            if ty != own.ty && (from != to || !to.is_float()) {
                let message = format!(
                    "`{view}` is of {}, and this of {ty}: convert it where it should be rounded, by `.cast({})`",
                    own.ty, own.ty
                );
                return Err(Error::new_spanned(value, message));
            }
        }
        self.stored.push(view.clone());
        let tensor = &own.ident;
        Ok(code! {{
            let value = #tokens;
            #body.store(&#tensor, &#at, &value)?;
        }})
    }

    // ---- control flow -----------------------------------------------------------------------------------------------

    fn grid(&mut self, each: &ExprForLoop) -> Result<TokenStream> {
        let args = called(&each.expr, "grid").unwrap_or_default();
        let [dims, extents] = args[..] else {
            return Err(Error::new_spanned(
                &each.expr,
                "`grid` takes dims and extents: `grid([M, N], [cfg.bm, cfg.bn])`",
            ));
        };
        let names: Vec<&Ident> = match &*each.pat {
            Pat::Slice(slice) => slice.elems.iter().map(plain).collect::<Result<_>>()?,
            pat => vec![plain(pat)?],
        };
        let (dims, extents) = (elements(dims), elements(extents));
        if names.len() != dims.len() || names.len() != extents.len() {
            let message = format!("{} positions, {} dims and {} extents", names.len(), dims.len(), extents.len());
            return Err(Error::new_spanned(&each.expr, message));
        }
        let body = Self::body();
        let (mut axes, mut lets, mut takes) = (vec![], vec![], vec![]);
        let mut walks = vec![];
        for (i, ((name, dim), extent)) in names.iter().zip(dims).zip(extents).enumerate() {
            let (dim, ext, dim_tokens, extent_tokens) = self.step(dim, extent)?;
            let (d, e, text) = (temporary("d", i), temporary("e", i), name.to_string());
            lets.push(code!(let #d = #dim_tokens; let #e = #extent_tokens;));
            axes.push(code!((#text, &#d, #e)));
            takes.push(code!(let #name = walks[#i].clone();));
            walks.push((*name, Kind::Walk { dim, index: ext.is_one(), ext }));
        }
        self.scopes.push(BTreeMap::new());
        walks.into_iter().for_each(|(name, kind)| self.declare(name, kind, false));
        let inner = self.block(&each.body);
        self.scopes.pop();
        Ok(code! {{
            #(#lets)*
            let walks = #body.grid(&[#(#axes),*]);
            #(#takes)*
            #inner
        }})
    }

    /// A dim that is walked along, and the extent of a step.
    fn step(&mut self, dim: &Expr, extent: &Expr) -> Result<(Dim, Ext, TokenStream, TokenStream)> {
        let (p, body) = (support(), Self::body());
        let found = match dim {
            Expr::Lit(syn::ExprLit { lit: syn::Lit::Int(int), .. }) => Dim::Lit(int.base10_parse()?),
            dim => match as_ident(dim) {
                Some(ident) if self.signature.has(ident) => Dim::Sym(ident.clone()),
                _ => {
                    let dims: Vec<String> = self.signature.dims().iter().map(Ident::to_string).collect();
                    let message =
                        format!("`{}` is no dim of this kernel; its tensors have {}", text(dim), dims.join(", "));
                    return Err(Error::new_spanned(dim, message));
                }
            },
        };
        let (kind, tokens) = self.expr(extent)?;
        let Kind::Host(alias) = kind else {
            return Err(Error::new_spanned(
                extent,
                format!("the extent of a tile is a number of the Config, found {kind}"),
            ));
        };
        let dim_tokens = found.tokens(&p);
        Ok((found, Ext::of(extent, alias.as_deref()), dim_tokens, code!(#body.extent(#tokens)?)))
    }

    fn each(&mut self, each: &ExprForLoop) -> Result<TokenStream> {
        let (p, body) = (support(), Self::body());
        if called(&each.expr, "grid").is_some() {
            return Err(Error::new_spanned(&each.expr, "a grid in a loop; the grid is around everything"));
        }
        let (args, pipelined) = match (called(&each.expr, "pipeline"), called(&each.expr, "range")) {
            (Some(args), _) => (args, true),
            (_, Some(args)) => (args, false),
            _ if self.mentions_tiles(&each.expr) => {
                return Err(Error::new_spanned(
                    &each.expr,
                    "a loop walks along a dim: `for k in range(K, cfg.bk)`, or `pipeline(K, cfg.bk, cfg.stages)`",
                ));
            }
            _ => {
                // Unrolled: turns over Rust values.
                self.scopes.push(BTreeMap::new());
                idents(&each.pat).iter().for_each(|ident| self.declare(ident, Kind::Host(None), false));
                let inner = self.block(&each.body);
                self.scopes.pop();
                let (pat, over) = (&each.pat, &each.expr);
                return Ok(code!(for #pat in #over { #inner }));
            }
        };
        let (dim, extent, stages) = match (pipelined, &args[..]) {
            (true, [dim, extent, stages]) => (dim, extent, Some(stages)),
            (false, [dim, extent]) => (dim, extent, None),
            (true, _) => {
                return Err(Error::new_spanned(
                    &each.expr,
                    "`pipeline` takes a dim, the extent of a step and stages: `pipeline(K, cfg.bk, cfg.stages)`",
                ));
            }
            (false, _) => {
                return Err(Error::new_spanned(
                    &each.expr,
                    "`range` takes a dim and the extent of a step: `range(K, cfg.bk)`",
                ));
            }
        };
        let name = plain(&each.pat)?;
        let (dim, ext, dim_tokens, extent_tokens) = self.step(dim, extent)?;
        let stages = match stages {
            None => code!(::core::option::Option::None),
            Some(stages) => {
                let (kind, tokens) = self.expr(stages)?;
                if !matches!(kind, Kind::Host(_)) {
                    return Err(Error::new_spanned(stages, format!("stages are a number of the Config, found {kind}")));
                }
                code!(::core::option::Option::Some(#body.extent(#tokens)?))
            }
        };
        let names = self.changes(&each.body);
        self.scopes.push(BTreeMap::new());
        self.declare(name, Kind::Walk { dim, index: ext.is_one(), ext }, false);
        let inner = self.block(&each.body);
        self.scopes.pop();
        let label = name.to_string();
        let places: Vec<usize> = (0..names.len()).collect();
        Ok(code! {{
            let dim = #dim_tokens;
            let extent = #extent_tokens;
            let stages = #stages;
            let changed = #body.walk(#label, (&dim, extent), stages, &[#(&#names),*], |#body, walk, carried| {
                let #name = walk.clone();
                #(let mut #names = carried[#places].clone();)*
                #inner
                ::core::result::Result::Ok::<::std::vec::Vec<#p::kernel::Value>, _>(::std::vec![#(#names),*])
            })?;
            #(#names = changed[#places].clone();)*
        }})
    }

    fn branch(&mut self, branch: &syn::ExprIf) -> Result<TokenStream> {
        let (p, body) = (support(), Self::body());
        let otherwise = match &branch.else_branch {
            None => None,
            Some((_, otherwise)) => match &**otherwise {
                Expr::Block(block) => Some(block.block.clone()),
                other => Some(syn::parse_quote!({ #other })),
            },
        };
        let (kind, cond) = self.expr(&branch.cond)?;
        let mut names = self.changes(&branch.then_branch);
        for ident in otherwise.iter().flat_map(|block| self.changes(block)) {
            if !names.contains(&ident) {
                names.push(ident);
            }
        }
        let places: Vec<usize> = (0..names.len()).collect();
        let then = self.block(&branch.then_branch);
        let otherwise = otherwise.as_ref().map(|block| self.block(block));
        match kind {
            Kind::Host(_) => Ok(code!(if #cond { #then } else { #otherwise })),
            Kind::Cond => Ok(code! {{
                let cond = #cond;
                let changed = #body.branch(&cond, |#body, holds| {
                    #(let mut #names = #names.clone();)*
                    if holds { #then } else { #otherwise }
                    ::core::result::Result::Ok::<::std::vec::Vec<#p::kernel::Value>, _>(::std::vec![#(#names),*])
                })?;
                #(#names = changed[#places].clone();)*
            }}),
            kind => Err(Error::new_spanned(
                &branch.cond,
                format!(
                    "{kind} is no condition that all threads share; choose between elements by `condition.select(a, b)`"
                ),
            )),
        }
    }

    /// The tiles from outside that a block assigns to.
    fn changes(&self, block: &Block) -> Vec<Ident> {
        struct Assigned(Vec<Ident>);
        impl<'ast> syn::visit::Visit<'ast> for Assigned {
            fn visit_expr(&mut self, expr: &'ast Expr) {
                let left = match expr {
                    Expr::Assign(assign) => as_ident(&assign.left),
                    Expr::Binary(binary) if compound(&binary.op).is_some() => as_ident(&binary.left),
                    _ => None,
                };
                if let Some(ident) = left.filter(|ident| !self.0.contains(ident)) {
                    self.0.push(ident.clone());
                }
                syn::visit::visit_expr(self, expr);
            }
        }
        let mut assigned = Assigned(vec![]);
        syn::visit::Visit::visit_block(&mut assigned, block);
        let tile = |ident: &Ident| self.get(&ident.to_string()).is_some_and(|var| matches!(var.kind, Kind::Tile(..)));
        assigned.0.into_iter().filter(tile).collect()
    }
}

/// The arguments of a call of a function of this name.
pub(crate) fn called<'e>(expr: &'e Expr, name: &str) -> Option<Vec<&'e Expr>> {
    match expr {
        Expr::Call(call) if as_ident(&call.func).is_some_and(|ident| ident == name) => Some(call.args.iter().collect()),
        Expr::Paren(paren) => called(&paren.expr, name),
        _ => None,
    }
}

/// The elements of an array, or the one expression.
pub(crate) fn elements(expr: &Expr) -> Vec<&Expr> {
    match expr {
        Expr::Array(array) => array.elems.iter().collect(),
        expr => vec![expr],
    }
}

fn temporary(name: &str, i: usize) -> Ident {
    Ident::new(&format!("{name}{i}"), Span::mixed_site())
}

/// The operation of `+=` and its like.
fn compound(op: &BinOp) -> Option<&'static str> {
    Some(match op {
        BinOp::AddAssign(_) => "Add",
        BinOp::SubAssign(_) => "Sub",
        BinOp::MulAssign(_) => "Mul",
        BinOp::DivAssign(_) => "Div",
        BinOp::RemAssign(_) => "Rem",
        BinOp::BitAndAssign(_) => "And",
        BinOp::BitOrAssign(_) => "Or",
        BinOp::BitXorAssign(_) => "Xor",
        _ => return None,
    })
}

fn plain(pat: &Pat) -> Result<&Ident> {
    match pat {
        Pat::Ident(ident) if ident.subpat.is_none() => Ok(&ident.ident),
        pat => Err(Error::new_spanned(pat, "a position takes a plain name")),
    }
}

/// The names that a pattern binds.
fn idents(pat: &Pat) -> Vec<Ident> {
    struct Idents(Vec<Ident>);
    impl<'ast> syn::visit::Visit<'ast> for Idents {
        fn visit_pat_ident(&mut self, pat: &'ast syn::PatIdent) {
            self.0.push(pat.ident.clone());
            syn::visit::visit_pat_ident(self, pat);
        }
    }
    let mut idents = Idents(vec![]);
    syn::visit::Visit::visit_pat(&mut idents, pat);
    idents.0
}
