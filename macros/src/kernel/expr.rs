//! The expressions of a kernel: what they are, and the Rust that makes them.

use super::body::{Lower, called, elements};
use super::kinds::{Dim, Ext, Kind, Ty, broadcast, shown, text};
use super::methods::{Method, advice, element, find};
use crate::expand::support;
use crate::types::as_ident;
use kiln_graph::DType;
use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident};
use syn::spanned::Spanned;
use syn::{BinOp, Error, Expr, ExprMethodCall, GenericArgument, PathArguments, Result, Type, UnOp};

/// A kind, and Rust of the type `Value`, of an ordinary type, or of a list of `At`.
type Lowered = (Kind, TokenStream);

impl Lower<'_> {
    /// An expression that is used as a value: tiles are loaded, positions are indices.
    pub(crate) fn value(&mut self, expr: &Expr) -> Result<Lowered> {
        let p = support();
        let (kind, tokens) = self.expr(expr)?;
        match kind {
            Kind::Place { view, shape } => self.load(&view, shape, &tokens, &code!(0.0), expr),
            Kind::Walk { .. } => Ok((Kind::Index, code!(#p::kernel::Value::Scalar(#tokens.origin.clone())))),
            Kind::View(name) => {
                let message = format!("`{name}` is a tensor; a tile of it is `{name}.tile([..])`");
                Err(Error::new_spanned(expr, message))
            }
            kind => Ok((kind, tokens)),
        }
    }

    /// An expression as it stands.
    pub(crate) fn expr(&mut self, expr: &Expr) -> Result<Lowered> {
        let p = support();
        match expr {
            Expr::Paren(paren) => self.expr(&paren.expr),
            Expr::Group(group) => self.expr(&group.expr),
            Expr::Reference(reference) if self.mentions_tiles(&reference.expr) => self.expr(&reference.expr),
            Expr::Path(_) => match as_ident(expr).and_then(|ident| Some((ident, self.get(&ident.to_string())?))) {
                Some((ident, var)) => Ok(match &var.kind {
                    Kind::Index if self.signature.has(ident) && self.is_dim(&ident.to_string()) => {
                        (Kind::Index, code!(#p::kernel::Value::Scalar(#ident.clone())))
                    }
                    Kind::Host(alias) => (Kind::Host(alias.clone()), ident.to_token_stream()),
                    kind => (kind.clone(), code!(#ident.clone())),
                }),
                None => Ok((Kind::Host(None), expr.to_token_stream())),
            },
            Expr::Unary(unary) if self.mentions_tiles(expr) => {
                let (name, whole) = match unary.op {
                    UnOp::Neg(_) => ("neg", expr),
                    UnOp::Not(_) => ("not", expr),
                    _ => return Err(Error::new_spanned(expr, "no operator of tiles")),
                };
                let value = self.value(&unary.expr)?;
                self.applied(name, value, whole)
            }
            Expr::Binary(binary) if self.mentions_tiles(expr) => {
                self.binary(operator(&binary.op, expr)?, &binary.left, &binary.right, expr)
            }
            Expr::Cast(cast) if self.mentions_tiles(expr) => self.number(&cast.expr, &cast.ty, expr),
            Expr::MethodCall(call) if self.mentions_tiles(&call.receiver) => self.method(call, expr),
            Expr::MethodCall(call) if self.mentions_tiles(expr) => {
                let message =
                    format!("a Rust value has no `{}` that takes a tile; write it the other way round", call.method);
                Err(Error::new_spanned(call, message))
            }
            Expr::Call(_) => self.call(expr),
            expr if !self.mentions_tiles(expr) => Ok((Kind::Host(None), expr.to_token_stream())),
            Expr::If(_) | Expr::Match(_) => Err(Error::new_spanned(
                expr,
                "a choice between tiles is `condition.select(a, b)`, or a statement `if` that assigns to one",
            )),
            Expr::Index(index) => {
                let message = format!("a part of a tensor is a tile: `{}.tile([..])`", text(&index.expr));
                Err(Error::new_spanned(expr, message))
            }
            expr => Err(Error::new_spanned(expr, "no expression of tiles")),
        }
    }

    /// Whether a name still means the dim that it meant in the signature.
    fn is_dim(&self, name: &str) -> bool {
        !self.scopes[1..].iter().any(|scope| scope.contains_key(name))
    }

    fn call(&mut self, expr: &Expr) -> Result<Lowered> {
        let (p, body) = (support(), Self::body());
        if let Some(args) = called(expr, "dot") {
            return self.dot(args, None, expr);
        }
        let Expr::Call(call) = expr else { return Err(Error::new_spanned(expr, "no call")) };
        let name = match &*call.func {
            Expr::Path(path) => path.path.segments.last().filter(|_| path.path.segments.len() == 1),
            _ => None,
        };
        let Some(segment) = name.filter(|segment| segment.ident == "zeros" || segment.ident == "full") else {
            for name in ["grid", "range", "pipeline"] {
                if called(expr, name).is_some() {
                    return Err(Error::new_spanned(expr, format!("`{name}` is what a `for` goes over")));
                }
            }
            return match self.mentions_tiles(&call.args) {
                true => {
                    let message = format!(
                        "`{}` takes no tiles; functions of tiles are `dot`, `zeros` and `full`, all else are methods",
                        text(&call.func)
                    );
                    Err(Error::new_spanned(&call.func, message))
                }
                false => Ok((Kind::Host(None), expr.to_token_stream())),
            };
        };
        let ty = match &segment.arguments {
            PathArguments::AngleBracketed(arguments) if arguments.args.len() == 1 => match &arguments.args[0] {
                GenericArgument::Type(ty) => self.ty(ty)?,
                other => return Err(Error::new_spanned(other, "expected a dtype")),
            },
            _ => return Err(Error::new_spanned(segment, format!("say of which type: `{}::<f32>(..)`", segment.ident))),
        };
        let args: Vec<&Expr> = call.args.iter().collect();
        let (value, extents) = match (segment.ident == "full", &args[..]) {
            (true, [value, extents]) => {
                let (kind, tokens) = self.expr(value)?;
                if !matches!(kind, Kind::Host(_)) {
                    return Err(Error::new_spanned(value, format!("`full` takes a number, found {kind}")));
                }
                (code!(#p::kernel::Number::number(#tokens)), extents)
            }
            (false, [extents]) => (code!(0.0), extents),
            (true, _) => {
                return Err(Error::new_spanned(
                    expr,
                    "`full` takes a number and extents: `full::<f32>(1.0, [cfg.bm, cfg.bn])`",
                ));
            }
            (false, _) => {
                return Err(Error::new_spanned(expr, "`zeros` takes extents: `zeros::<f32>([cfg.bm, cfg.bn])`"));
            }
        };
        let (mut shape, mut tokens) = (vec![], vec![]);
        for extent in elements(extents) {
            let (kind, number) = self.expr(extent)?;
            let Kind::Host(alias) = kind else {
                return Err(Error::new_spanned(
                    extent,
                    format!("the extent of a tile is a number of the Config, found {kind}"),
                ));
            };
            shape.push(Ext::of(extent, alias.as_deref()));
            tokens.push(code!(#body.extent(#number)?));
        }
        self.rank = self.rank.max(shape.len());
        let dtype = ty.tokens();
        let made = code!({ let extents = [#(#tokens),*]; #body.full(#dtype, &extents, #value) });
        Ok((Kind::Tile(ty, shape), made))
    }

    pub(crate) fn ty(&self, ty: &Type) -> Result<Ty> {
        let Type::Path(path) = ty else { return Err(Error::new_spanned(ty, "expected a dtype")) };
        match path.path.get_ident() {
            Some(ident) if Some(ident) == self.signature.generic.as_ref() => Ok(Ty::Generic(ident.clone())),
            _ => Ok(Ty::Known(crate::types::dtype(&path.path)?)),
        }
    }

    /// `x as f32`
    fn number(&mut self, expr: &Expr, ty: &Type, whole: &Expr) -> Result<Lowered> {
        let body = Self::body();
        let (kind, tokens) = self.value(expr)?;
        let ty = self.ty(ty)?;
        let dtype = ty.compute();
        match kind {
            Kind::Index | Kind::Scalar(_) if ty == Ty::Known(dtype) => {
                let of = ty.tokens();
                Ok((Kind::Scalar(dtype), code!({ let number = #tokens; #body.cast(&number, #of)? })))
            }
            Kind::Index | Kind::Scalar(_) => {
                Err(Error::new_spanned(whole, format!("numbers are f32, f64, i32 or i64, found {ty}")))
            }
            kind => Err(Error::new_spanned(
                whole,
                format!(
                    "`as` is for numbers that all threads share, found {kind}; a tile is converted by `.cast({ty})`"
                ),
            )),
        }
    }

    // ---- tiles ------------------------------------------------------------------------------------------------------

    fn load(
        &mut self,
        view: &str,
        shape: Vec<Ext>,
        at: &TokenStream,
        fill: &TokenStream,
        expr: &Expr,
    ) -> Result<Lowered> {
        let body = Self::body();
        let Some(own) = self.signature.views.iter().find(|own| own.ident == view) else {
            return Err(Error::new_spanned(expr, "no such tensor"));
        };
        if own.output {
            return Err(Error::new_spanned(expr, format!("`{view}` is an output: it can be stored to, not read")));
        }
        let tensor = &own.ident;
        Ok((Kind::Tile(own.ty.clone(), shape), code!(#body.load(&#tensor, &#at, #fill)?)))
    }

    /// `x.tile([m, k])`: a place, and the list of what its axes are.
    fn place(&mut self, view: &str, index: &Expr, call: &ExprMethodCall) -> Result<Lowered> {
        let p = support();
        let signature = self.signature;
        let Some(own) = signature.views.iter().find(|own| own.ident == view) else {
            return Err(Error::new_spanned(call, "no such tensor"));
        };
        let Expr::Array(array) = index else {
            return Err(Error::new_spanned(index, format!("a tile names its axes in brackets: `{view}.tile([..])`")));
        };
        let named = array.elems.iter().filter(|at| !matches!(at, Expr::Infer(_))).count();
        if named != own.dims.len() {
            let dims: Vec<String> = own.dims.iter().map(ToString::to_string).collect();
            let message = format!("`{view}` has {} axes, {}, and this names {named}", own.dims.len(), dims.join(", "));
            return Err(Error::new_spanned(index, message));
        }
        let (mut axis, mut shape, mut list) = (0, vec![], vec![]);
        for at in &array.elems {
            if let Expr::Infer(_) = at {
                shape.push(Ext::one());
                list.push(code!(#p::kernel::At::New));
                continue;
            }
            let dim = &own.dims[axis];
            axis += 1;
            if matches!(at, Expr::Range(range) if range.start.is_none() && range.end.is_none()) {
                let Dim::Lit(extent) = dim else {
                    return Err(Error::new_spanned(
                        at,
                        format!("`..` is a whole axis of constant extent, and this is {dim}; walk along it in a loop"),
                    ));
                };
                shape.push(Ext(extent.to_string()));
                list.push(code!(#p::kernel::At::All));
                continue;
            }
            match self.expr(at)? {
                (Kind::Walk { dim: walked, ext, index }, tokens) => {
                    if walked != *dim {
                        let message =
                            format!("axis {} of `{view}` is {dim}, and `{}` walks along {walked}", axis - 1, text(at));
                        return Err(Error::new_spanned(at, message));
                    }
                    if index {
                        list.push(code!(#p::kernel::At::One(#tokens.origin)));
                    } else {
                        shape.push(ext);
                        let ident = at.to_token_stream();
                        list.push(code!(#p::kernel::At::Walk(&#ident)));
                    }
                }
                (Kind::Index, tokens) => list.push(code!(#p::kernel::At::One(#p::kernel::index(#tokens)))),
                (Kind::Host(_), tokens) => {
                    list.push(
                        code!(#p::kernel::At::One(#p::kernel::Expr::index(#p::kernel::Number::number(#tokens) as i64))),
                    );
                }
                (kind, _) => {
                    let message = format!(
                        "an axis of a tile is a position of the grid or of a loop, `..`, `_` or one index, found {kind}"
                    );
                    return Err(Error::new_spanned(at, message));
                }
            }
        }
        self.rank = self.rank.max(shape.len());
        Ok((Kind::Place { view: view.to_owned(), shape }, code!([#(#list),*])))
    }

    /// `dot(a, b)`, added to the tile `sums`.
    pub(crate) fn dot(&mut self, args: Vec<&Expr>, sums: Option<&Expr>, whole: &Expr) -> Result<Lowered> {
        let body = Self::body();
        let [a, b] = args[..] else {
            return Err(Error::new_spanned(whole, "`dot` takes two tiles: `dot(x.tile([m, k]), w.tile([n, k]).t())`"));
        };
        let ((left, a_tokens), (right, b_tokens)) = (self.value(a)?, self.value(b)?);
        let (Kind::Tile(x, rows), Kind::Tile(y, columns)) = (&left, &right) else {
            return Err(Error::new_spanned(whole, format!("`dot` multiplies tiles, found {left} and {right}")));
        };
        if x != y {
            return Err(Error::new_spanned(
                whole,
                format!("`dot` multiplies tiles of one type, found {x} and {y}; convert one by `.cast({x})`"),
            ));
        }
        let ([m, depth], [k, n]) = (&rows[..], &columns[..]) else {
            let message = format!("`dot` multiplies [M, K] by [K, N], found {} and {}", shown(rows), shown(columns));
            return Err(Error::new_spanned(whole, message));
        };
        if depth != k {
            let hint = if depth == n { "; the right tile needs `.t()`" } else { "" };
            let message = format!("`dot` sums over {} of the left tile and {} of the right one{hint}", depth.0, k.0);
            return Err(Error::new_spanned(b, message));
        }
        self.product.get_or_insert(whole.span());
        let dtype = match x.compute() {
            dtype if dtype.is_int() => DType::I32,
            dtype => dtype,
        };
        let kind = Kind::Tile(Ty::Known(dtype), vec![m.clone(), n.clone()]);
        let sums = match sums {
            None => code!(::core::option::Option::None),
            Some(expr) => {
                let (found, _) = self.value(expr)?;
                if found != kind {
                    return Err(Error::new_spanned(
                        whole,
                        format!("`{}` is {found}, and this product {kind}", text(expr)),
                    ));
                }
                code!(::core::option::Option::Some(&#expr))
            }
        };
        Ok((kind, code!({ let (left, right) = (#a_tokens, #b_tokens); #body.dot(&left, &right, #sums)? })))
    }

    // ---- operators and methods --------------------------------------------------------------------------------------

    pub(crate) fn binary(&mut self, op: &str, left: &Expr, right: &Expr, whole: &Expr) -> Result<Lowered> {
        let (a, b) = (self.value(left)?, self.value(right)?);
        self.pair(op, a, b, whole)
    }

    /// Two operands of a function of elements, or of numbers.
    fn pair(&mut self, op: &str, a: Lowered, b: Lowered, whole: &Expr) -> Result<Lowered> {
        let p = support();
        let compares = matches!(op, "Eq" | "Ne" | "Lt" | "Le" | "Gt" | "Ge");
        let op_ident = format_ident!("{op}");
        let element = match compares {
            true => code!(x[0].compare(#p::kernel::CompareOp::#op_ident, &x[1])),
            false => code!(x[0].binary(#p::kernel::BinaryOp::#op_ident, &x[1])),
        };
        let uniform = |kind: &Kind| matches!(kind, Kind::Index | Kind::Host(_) | Kind::Scalar(_) | Kind::Cond);
        if let (Kind::Cond, Kind::Cond) = (&a.0, &b.0)
            && matches!(op, "And" | "Or")
        {
            return Ok((Kind::Cond, Self::mapped(&[a, b], &element)));
        }
        let (ty, shape) = self.meet(&[&a.0, &b.0], whole)?;
        let all_uniform = uniform(&a.0) && uniform(&b.0);
        let kind = match (all_uniform, compares, ty) {
            (true, true, _) => Kind::Cond,
            (true, false, None) => Kind::Index,
            (true, false, Some(dtype)) => Kind::Scalar(dtype),
            (false, true, _) => Kind::Tile(Ty::Known(DType::Bool), shape),
            (false, false, dtype) => Kind::Tile(Ty::Known(dtype.unwrap_or(DType::F32)), shape),
        };
        Ok((kind, Self::mapped(&[a, b], &element)))
    }

    /// The type and extents that operands have together; no type for indices alone.
    fn meet(&self, kinds: &[&Kind], whole: &Expr) -> Result<(Option<DType>, Vec<Ext>)> {
        let (mut ty, mut shape): (Option<Option<DType>>, Vec<Ext>) = (None, vec![]);
        for kind in kinds {
            let own = match kind {
                Kind::Host(_) => continue,
                Kind::Tile(own, extents) => {
                    shape = broadcast(&shape, extents).map_err(|(a, b)| {
                        Error::new_spanned(
                            whole,
                            format!("extents {} and {} in one formula: tiles broadcast where one has 1", a.0, b.0),
                        )
                    })?;
                    Some(own.compute())
                }
                Kind::Scalar(dtype) => Some(*dtype),
                Kind::Index => None,
                kind => return Err(Error::new_spanned(whole, format!("{kind} is no number"))),
            };
            match ty {
                Some(other) if other != own => {
                    let name = |ty: Option<DType>| ty.map_or("an index".to_owned(), |ty| ty.to_string());
                    let help = match (other, own) {
                        (None, Some(dtype)) | (Some(dtype), None) => format!("write `(K as {dtype})` of an index `K`"),
                        _ => "convert one by `.cast(dtype)`".to_owned(),
                    };
                    return Err(Error::new_spanned(
                        whole,
                        format!("{} and {} do not mix; {help}", name(other), name(own)),
                    ));
                }
                _ => ty = Some(own),
            }
        }
        Ok((ty.flatten(), shape))
    }

    /// Rust that maps operands by an expression of `x[0]`, `x[1]`..
    fn mapped(args: &[Lowered], element: &TokenStream) -> TokenStream {
        let (p, body) = (support(), Self::body());
        let args = args.iter().map(|(kind, tokens)| match kind {
            Kind::Host(_) => code!(#p::kernel::Value::Number(#p::kernel::Number::number(#tokens))),
            _ => tokens.clone(),
        });
        code!({ let args = [#(#args),*]; #body.map("v", &args, |x| #element)? })
    }

    /// A function of one value without arguments.
    fn applied(&mut self, name: &str, value: Lowered, whole: &Expr) -> Result<Lowered> {
        let p = support();
        let (kind, _) = &value;
        let (dtype, make): (DType, Box<dyn Fn(DType) -> Kind>) = match kind.clone() {
            Kind::Tile(ty, shape) => (ty.compute(), Box::new(move |dtype| Kind::Tile(Ty::Known(dtype), shape.clone()))),
            Kind::Scalar(dtype) => (dtype, Box::new(Kind::Scalar)),
            Kind::Cond if name == "not" => (DType::Bool, Box::new(|_| Kind::Cond)),
            kind => {
                return Err(Error::new_spanned(
                    whole,
                    format!("`{name}` of {kind}; it is for tiles, and for numbers as `(K as f32)`"),
                ));
            }
        };
        let method = find(name).unwrap_or(Method::Other);
        let refused = |wants: &str| {
            Err(Error::new_spanned(whole, format!("`{name}` is for {wants}, found {dtype}; convert by `.cast(dtype)`")))
        };
        let (tokens, result) = match (method, name) {
            (Method::Float(_) | Method::Formula(_) | Method::Test(_), _) if !dtype.is_float() => {
                return refused("floats");
            }
            (Method::Test(_), _) => (element(method, &p), DType::Bool),
            (Method::Float(_) | Method::Formula(_) | Method::Number(_), _) if dtype != DType::Bool => {
                (element(method, &p), dtype)
            }
            (_, "square") if dtype != DType::Bool => (code!(&x[0] * &x[0]), dtype),
            (_, "relu") if dtype != DType::Bool => (code!(x[0].max(0.0)), dtype),
            (_, "not") if !dtype.is_float() => (code!(!x[0].clone()), dtype),
            (_, "not") => return refused("conditions and integers"),
            _ => return refused("numbers"),
        };
        Ok((make(result), Self::mapped(&[value], &tokens)))
    }

    fn method(&mut self, call: &ExprMethodCall, whole: &Expr) -> Result<Lowered> {
        let (p, body) = (support(), Self::body());
        let name = call.method.to_string();
        let args: Vec<&Expr> = call.args.iter().collect();
        let count = |n: usize, what: &str| match args.len() == n {
            true => Ok(()),
            false => Err(Error::new_spanned(&call.method, format!("`{name}` takes {what}"))),
        };
        let Some(method) = find(&name) else {
            return Err(Error::new_spanned(&call.method, format!("tiles have no method `{name}`{}", advice(&name))));
        };
        let (receiver, tokens) = self.expr(&call.receiver)?;
        if let Kind::View(view) = &receiver {
            return match (&name[..], &args[..]) {
                ("tile", [index]) => self.place(view, index, call),
                ("tile_or", [index, fill]) => {
                    let (kind, fill) = self.expr(fill)?;
                    if !matches!(kind, Kind::Host(_)) {
                        return Err(Error::new_spanned(
                            whole,
                            format!("what is past the end is a number, found {kind}"),
                        ));
                    }
                    let (place, at) = self.place(view, index, call)?;
                    let Kind::Place { view, shape } = place else { return Ok((place, at)) };
                    self.load(&view, shape, &at, &code!(#p::kernel::Number::number(#fill)), whole)
                }
                ("tile", _) => {
                    Err(Error::new_spanned(&call.method, format!("`tile` takes one list: `{view}.tile([..])`")))
                }
                ("tile_or", _) => Err(Error::new_spanned(
                    &call.method,
                    format!("`tile_or` takes a list and a number: `{view}.tile_or([..], 0.0)`"),
                )),
                _ => Err(Error::new_spanned(
                    &call.method,
                    format!("`{view}` is a tensor; a tile of it is `{view}.tile([..])`"),
                )),
            };
        }
        if matches!(name.as_str(), "tile" | "tile_or") {
            return Err(Error::new_spanned(&call.method, format!("`{name}` is for tensors, found {receiver}")));
        }
        if name == "store" {
            return Err(Error::new_spanned(whole, "a store is a statement of its own"));
        }
        drop((receiver, tokens));
        let value = self.value(&call.receiver)?;
        match (method, name.as_str()) {
            (Method::Binary(op), _) => {
                count(1, "one operand")?;
                let other = self.value(args[0])?;
                self.pair(op, value, other, whole)
            }
            (Method::Compare(op), _) => {
                count(1, "one operand")?;
                let other = self.value(args[0])?;
                self.pair(op, value, other, whole)
            }
            (Method::Logical(op), _) => {
                count(1, "one operand")?;
                let other = self.value(args[0])?;
                if let Kind::Tile(ty, _) = &value.0
                    && ty.compute().is_float()
                {
                    return Err(Error::new_spanned(
                        whole,
                        format!("`{name}` is for conditions and integers, found {ty}"),
                    ));
                }
                self.pair(op, value, other, whole)
            }
            (Method::Reduce(op), _) => {
                count(1, "an axis")?;
                self.reduced(op, value, args[0], whole)
            }
            (_, "clamp") => {
                count(2, "the least and the greatest value")?;
                let low = self.value(args[0])?;
                let raised = self.pair("Max", value, low, whole)?;
                let high = self.value(args[1])?;
                self.pair("Min", raised, high, whole)
            }
            (_, "select") => {
                count(2, "two values")?;
                let cond = matches!(&value.0, Kind::Cond)
                    || matches!(&value.0, Kind::Tile(ty, _) if ty.compute() == DType::Bool);
                if !cond {
                    return Err(Error::new_spanned(
                        &call.receiver,
                        format!("`select` is of a condition, found {}", value.0),
                    ));
                }
                let (a, b) = (self.value(args[0])?, self.value(args[1])?);
                let (ty, shape) = self.meet(&[&a.0, &b.0], whole)?;
                let own = if let Kind::Tile(_, own) = &value.0 { own.clone() } else { vec![] };
                let shape = broadcast(&own, &shape).map_err(|(a, b)| {
                    Error::new_spanned(whole, format!("extents {} and {} in one formula", a.0, b.0))
                })?;
                let tiles = [&value.0, &a.0, &b.0].iter().any(|kind| matches!(kind, Kind::Tile(..)));
                let dtype = ty.unwrap_or(DType::F32);
                let kind = if tiles { Kind::Tile(Ty::Known(dtype), shape) } else { Kind::Scalar(dtype) };
                let tokens = Self::mapped(&[value, a, b], &code!(x[0].select(&x[1], &x[2])));
                Ok((kind, tokens))
            }
            (_, "cast") => {
                count(1, "a dtype")?;
                let Expr::Path(path) = args[0] else { return Err(Error::new_spanned(args[0], "expected a dtype")) };
                let ty = self.ty(&Type::Path(syn::TypePath { attrs: vec![], qself: None, path: path.path.clone() }))?;
                let Kind::Tile(_, shape) = value.0 else {
                    return Err(Error::new_spanned(
                        whole,
                        format!("`cast` is for tiles, found {}; write `as` for numbers", value.0),
                    ));
                };
                let (of, tokens) = (ty.tokens(), value.1);
                Ok((Kind::Tile(ty, shape), code!({ let value = #tokens; #body.cast(&value, #of)? })))
            }
            (_, "t") => {
                count(0, "nothing")?;
                match value {
                    (Kind::Tile(ty, shape), tokens) if shape.len() == 2 => {
                        let shape = shape.into_iter().rev().collect();
                        Ok((Kind::Tile(ty, shape), code!({ let value = #tokens; #body.transpose(&value)? })))
                    }
                    (kind, _) => {
                        Err(Error::new_spanned(whole, format!("`t` exchanges the axes of a tile of 2, found {kind}")))
                    }
                }
            }
            (_, "clone") => Ok(value),
            _ => {
                count(0, "nothing")?;
                self.applied(&name, value, whole)
            }
        }
    }

    fn reduced(&mut self, op: &str, value: Lowered, axis: &Expr, whole: &Expr) -> Result<Lowered> {
        let (p, body) = (support(), Self::body());
        let (Kind::Tile(ty, mut shape), tokens) = value else {
            return Err(Error::new_spanned(whole, format!("a reduction of {}; it is for tiles", value.0)));
        };
        let Some(found) = crate::host::literal(axis) else {
            return Err(Error::new_spanned(axis, "the axis of a reduction is an integer"));
        };
        let rank = shape.len() as i64;
        let place = if found < 0 { found + rank } else { found };
        if !(0..rank).contains(&place) {
            return Err(Error::new_spanned(axis, format!("axis {found} of a tile of extents {}", shown(&shape))));
        }
        let dtype = ty.compute();
        if (dtype == DType::Bool) != matches!(op, "And" | "Or") {
            let wants = match dtype == DType::Bool {
                true => "conditions are combined by `all` and `any`",
                false => "`all` and `any` are for conditions",
            };
            return Err(Error::new_spanned(whole, format!("{wants}, found {dtype}")));
        }
        let from_last = (rank - 1 - place) as usize;
        shape[place as usize] = Ext::one();
        let op = format_ident!("{op}");
        let made = code!({ let value = #tokens; #body.reduce(#p::kernel::ReduceOp::#op, &value, #from_last)? });
        Ok((Kind::Tile(Ty::Known(dtype), shape), made))
    }
}

/// The operation of an operator.
fn operator(op: &BinOp, expr: &Expr) -> Result<&'static str> {
    Ok(match op {
        BinOp::Add(_) => "Add",
        BinOp::Sub(_) => "Sub",
        BinOp::Mul(_) => "Mul",
        BinOp::Div(_) => "Div",
        BinOp::Rem(_) => "Rem",
        BinOp::And(_) | BinOp::BitAnd(_) => "And",
        BinOp::Or(_) | BinOp::BitOr(_) => "Or",
        BinOp::BitXor(_) => "Xor",
        BinOp::Eq(_) => "Eq",
        BinOp::Ne(_) => "Ne",
        BinOp::Lt(_) => "Lt",
        BinOp::Le(_) => "Le",
        BinOp::Gt(_) => "Gt",
        BinOp::Ge(_) => "Ge",
        _ => return Err(Error::new_spanned(expr, "no operator of tiles")),
    })
}
