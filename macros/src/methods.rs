//! The table of tensor methods. An entry names the builder's function, the kinds of the arguments (see [`crate::args`]) and what is passed
//! after them. Elementwise functions are in `kiln_graph`'s own tables.

use crate::args::{Arg, Lend};
use crate::expand::support;
use crate::lower::{Lower, Lowered, Res};
use crate::scope::Val;
use kiln_graph::{BinaryOp, Builder, CompareOp, ConvSpec, DType, Pool, TensorType, UnaryOp, ValueId, WindowSpec};
use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::spanned::Spanned;
use syn::{Error, Expr, Lit};

/// A method call.
struct Call<'e> {
    name: &'e str,
    args: &'e [&'e Expr],
    whole: &'e Expr,
    span: Span,
}

impl<'e> Call<'e> {
    /// The arguments, which must be as many as the method has parameters.
    fn exactly<const N: usize>(&self, params: [&str; N]) -> Res<[&'e Expr; N]> {
        <[&Expr; N]>::try_from(self.args.to_vec()).map_err(|_| {
            let message =
                format!("`{}({})` takes {N} arguments, found {}", self.name, params.join(", "), self.args.len());
            match self.args.get(N) {
                Some(surplus) => Error::new_spanned(surplus, message).into(),
                None => Error::new(self.span, message).into(),
            }
        })
    }
}

macro_rules! table {
    ($($name:ident => $builder:ident($($arg:ident: $kind:ident),* $(; $($fixed:literal),+)?);)*) => {
        /// Names in the table.
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        impl Lower<'_> {
            /// A method of the table, or `None`.
            #[allow(unused_variables, reason = "a method may have no arguments")]
            fn tabled(&mut self, call: &Call, x: &Arg<ValueId>) -> Option<Res<(Val, TokenStream)>> {
                match call.name {
                    $(stringify!($name) => Some((|| {
                        let [$($arg),*] = call.exactly([$(stringify!($arg)),*])?;
                        $(let $arg = self.$kind($arg)?;)*
                        let val = match (x.value, $($arg.value.as_ref()),*) {
                            #[allow(unused_parens, reason = "a pattern of one")]
                            (Some(x), $(Some($arg)),*) => {
                                let outcome = self.graph.$builder(x, $(Lend::lend($arg),)* $($($fixed),+)?);
                                Some(self.judge(outcome, call.whole)?)
                            }
                            _ => None,
                        };
                        let passed: Vec<TokenStream> = vec![$($arg.tokens.clone(),)* $($($fixed.into_token_stream()),+)?];
                        let tokens = self.invoke(stringify!($builder), &x.tokens, &passed, call.whole);
                        Ok((Val::Tensor(val), tokens))
                    })()),)*
                    _ => None,
                }
            }
        }
    };
}

table! {
    relu => relu();
    leaky_relu => leaky_relu(slope: number);
    sigmoid => sigmoid();
    silu => silu();
    gelu => gelu();
    gelu_tanh => gelu_tanh();
    elu => elu(alpha: number);
    hard_swish => hard_swish();
    softplus => softplus();
    mish => mish();
    clamp => clip(low: bound, high: bound);
    cast => cast(dtype: dtype);

    softmax => softmax(axis: integer);
    log_softmax => log_softmax(axis: integer);
    logsumexp => logsumexp(axes: axes; false);
    sum => sum(axes: axes; false);
    sum_keep => sum(axes: axes; true);
    mean => mean(axes: axes; false);
    mean_keep => mean(axes: axes; true);
    var => var(axes: axes; 0, false);
    var_keep => var(axes: axes; 0, true);
    amax => reduce_max(axes: axes; false);
    amax_keep => reduce_max(axes: axes; true);
    argmax => argmax(axis: integer);
    cumsum => cumsum(axis: integer; false, false);

    matmul => matmul(rhs: tensor);
    layer_norm => layer_norm(axis: integer, scale: given, bias: given, eps: number);
    rms_norm => rms_norm(axis: integer, scale: given, eps: number);
    batch_norm => batch_norm(scale: tensor, bias: tensor, mean: tensor, var: tensor, eps: number);
    group_norm => group_norm(groups: index, scale: given, bias: given, eps: number);

    reshape => reshape_infer(shape: dims);
    permute => transpose(axes: indices);
    transpose => swap_axes(a: integer, b: integer);
    unsqueeze => unsqueeze(axes: axes);
    squeeze => squeeze(axes: axes);
    flatten => flatten(axis: integer);
    broadcast_to => broadcast_to(shape: dims);
    index => index_axis(axis: integer, at: integer);
    flip => flip(axis: integer);
    tril => tril(diagonal: integer);
    triu => triu(diagonal: integer);

    gather => gather(indices: tensor, axis: integer);
    gather_elements => gather_elements(indices: tensor, axis: integer);
    embedding => embedding(ids: tensor);
    global_avg_pool => global_avg_pool();
    global_max_pool => global_max_pool();
}

/// Methods with a form of their own.
const OTHER: [&str; 11] =
    ["select", "linear", "attention", "slice", "topk", "chunk", "conv", "max_pool", "avg_pool", "dim", "clone"];

impl Lower<'_> {
    /// Lowers a method, or an operator under its method's name.
    pub(crate) fn method(
        &mut self,
        name: &str,
        receiver: &Expr,
        args: &[&Expr],
        whole: &Expr,
        span: Span,
    ) -> Res<Lowered> {
        let call = Call { name, args, whole, span };
        if let Some(op) = BinaryOp::ALL.iter().find(|op| op.method() == name) {
            let [rhs] = call.exactly(["rhs"])?;
            return self.pair(receiver, rhs, &call, op.function(), quote!(), |g, a, b| g.binary(*op, a, b));
        }
        if let Some(op) = CompareOp::from_name(name) {
            let [rhs] = call.exactly(["rhs"])?;
            let (p, variant) = (support(), format_ident!("{}", format!("{op:?}")));
            return self.pair(receiver, rhs, &call, "compare", quote!(#p::CompareOp::#variant,), |g, a, b| {
                g.compare(op, a, b)
            });
        }
        let x = match self.expr(receiver)? {
            Lowered { val: Val::Tensor(value), tokens } => Arg { value, tokens },
            Lowered { val, .. } => {
                let message = format!("`{name}` is a method of tensors, and this is {}", val.describe());
                return Err(Error::new_spanned(receiver, message).into());
            }
        };
        if let Some(op) = UnaryOp::ALL.iter().find(|op| op.method() == name) {
            let [] = call.exactly([])?;
            let outcome = x.value.map(|x| self.graph.unary(*op, x));
            return self.applied(outcome, op.name(), &x, &[], whole);
        }
        if let Some(result) = self.tabled(&call, &x) {
            return result.map(|(val, tokens)| Lowered { val, tokens });
        }
        match name {
            "clone" => call.exactly([]).map(|[]| Lowered { val: Val::Tensor(x.value), tokens: x.tokens }),
            "linear" => {
                if args.is_empty() || args.len() > 2 {
                    call.exactly(["weight", "bias"])?;
                }
                let w = self.tensor(args[0])?;
                let bias = match args.get(1) {
                    Some(bias) => self.given(bias)?,
                    None => Arg { value: Some(None), tokens: quote!(::core::option::Option::None) },
                };
                let outcome = known3(&x, &w, &bias).map(|(x, w, bias)| self.graph.linear(x, w, bias, true));
                self.applied(outcome, "linear", &x, &[w.tokens, bias.tokens, quote!(true)], whole)
            }
            "attention" => {
                if !(2..=4).contains(&args.len()) {
                    call.exactly(["keys", "values", "mask", "scale"])?;
                }
                let none = || quote!(::core::option::Option::None);
                let (k, v) = (self.tensor(args[0])?, self.tensor(args[1])?);
                let mask = match args.get(2) {
                    Some(mask) => self.given(mask)?,
                    None => Arg { value: Some(None), tokens: none() },
                };
                let scale = match args.get(3) {
                    Some(scale) => self.bound(scale)?.tokens,
                    None => none(),
                };
                // The scale is 1/sqrt(D) if it is not given, which has a value when the graph is built; types do not depend on it.
                let outcome = known3(&x, &k, &v).zip(mask.value);
                let outcome = outcome.map(|((q, k, v), mask)| self.graph.attention(q, k, v, mask, Some(1.0), None));
                self.applied(outcome, "attention", &x, &[k.tokens, v.tokens, mask.tokens, scale, none()], whole)
            }
            "slice" => {
                let [axis, range] = call.exactly(["axis", "start..end"])?;
                let (axis, (start, end)) = (self.integer(axis)?, self.range(range)?);
                let outcome = match (x.value, axis.value, &start.value, &end.value) {
                    (Some(x), Some(axis), Some(start), Some(end)) => {
                        Some(self.graph.slice_range(x, axis, start, end, 1))
                    }
                    _ => None,
                };
                self.applied(outcome, "slice_range", &x, &[axis.tokens, start.tokens, end.tokens, quote!(1)], whole)
            }
            "topk" => {
                let [axis, k] = call.exactly(["axis", "k"])?;
                let (axis, k) = (self.integer(axis)?, self.extent(k)?);
                let pair = match (x.value, axis.value, &k.value) {
                    (Some(x), Some(axis), Some(k)) => {
                        let outcome = self.graph.topk(x, axis, k, true);
                        let (values, indices) = self.judge(outcome, whole)?;
                        [Some(values), Some(indices)]
                    }
                    _ => [None, None],
                };
                let tokens = self.invoke("topk", &x.tokens, &[axis.tokens, k.tokens, quote!(true)], whole);
                Ok(Lowered { val: Val::Tuple(pair.map(Val::Tensor).to_vec()), tokens })
            }
            "chunk" => {
                let [axis, n] = call.exactly(["axis", "n"])?;
                let (axis, n) = (self.integer(axis)?, self.index(n)?);
                let Some(count) = n.value else {
                    return Err(Error::new_spanned(
                        args[1],
                        "the number of chunks is a literal: it decides what the result is",
                    )
                    .into());
                };
                let vals = match (x.value, axis.value) {
                    (Some(x), Some(axis)) => {
                        let outcome = self.graph.chunk(x, axis, count);
                        self.judge(outcome, whole)?.into_iter().map(Some).collect()
                    }
                    _ => vec![None; count],
                };
                let (all, made) = (self.temporary(), self.invoke("chunk", &x.tokens, &[axis.tokens, n.tokens], whole));
                let items = (0..count).map(|i| quote!(#all[#i]));
                let tokens = quote!({ let #all = #made; (#(#items,)*) });
                Ok(Lowered { val: Val::Tuple(vals.into_iter().map(Val::Tensor).collect()), tokens })
            }
            "conv" => self.conv(&call, &x),
            "max_pool" | "avg_pool" => self.pool(&call, &x),
            "select" => {
                let [a, b] = call.exactly(["if_true", "if_false"])?;
                let (la, lb) = (self.expr(a)?, self.expr(b)?);
                let (ta, tb) = (self.temporary(), self.temporary());
                let (va, vb) = self.alike(&la, &lb, a, b)?;
                let outcome = match (x.value, va, vb) {
                    (Some(x), Some(a), Some(b)) => Some(self.graph.select(x, a, b)),
                    _ => None,
                };
                let lets = self.operands((&ta, la, a), (&tb, lb, b));
                let (cond, passed) = (self.temporary(), [ta.to_token_stream(), tb.to_token_stream()]);
                let val = outcome.map(|o| self.judge(o, whole)).transpose()?;
                let made = self.invoke("select", &cond.to_token_stream(), &passed, whole);
                let x = x.tokens;
                Ok(Lowered { val: Val::Tensor(val), tokens: quote!({ let #cond = #x; #lets #made }) })
            }
            _ => {
                let message = match nearest(name) {
                    Some(near) => format!("tensors have no method `{name}`; did you mean `{near}`?"),
                    None => format!("tensors have no method `{name}`"),
                };
                Err(Error::new(span, message).into())
            }
        }
    }

    /// The free functions.
    pub(crate) fn function(&mut self, name: &str, args: &[&Expr], whole: &Expr) -> Res<Lowered> {
        let call = Call { name, args, whole, span: whole.span() };
        let (p, b, attempt) = (support(), self.builder(), self.attempt(whole));
        let (val, tokens) = match name {
            "concat" | "stack" => {
                let [list, axis] = call.exactly(["[tensors..]", "axis"])?;
                let (list, axis) = (self.tensors(list)?, self.integer(axis)?);
                let outcome = list.value.zip(axis.value).map(|(list, axis)| match name {
                    "concat" => self.graph.concat(&list, axis),
                    _ => self.graph.stack(&list, axis),
                });
                let (t, list, axis, function) = (self.temporary(), list.tokens, axis.tokens, format_ident!("{name}"));
                (outcome, quote!({ let #t = #list; #b.#function(#t, #axis)#attempt }))
            }
            "einsum" => {
                let Some((equation, operands)) = args.split_first() else {
                    return Err(call
                        .exactly(["equation", "a", "b"])
                        .err()
                        .unwrap_or_else(|| Error::new(call.span, "einsum").into()));
                };
                let equation = self.text(equation)?;
                let operands = operands.iter().map(|a| self.tensor(a)).collect::<Res<Vec<_>>>()?;
                let list: Option<Vec<ValueId>> = operands.iter().map(|a| a.value).collect();
                let outcome = list.map(|list| self.graph.einsum(&equation, &list));
                let (t, tokens) = (self.temporary(), operands.iter().map(|a| &a.tokens));
                (outcome, quote!({ let #t = &[#(#tokens),*]; #b.einsum(#equation, #t)#attempt }))
            }
            "full" => {
                let [dtype, shape, value] = call.exactly(["dtype", "shape", "value"])?;
                let (dtype, shape, value) = (self.dtype(dtype)?, self.dims(shape)?, self.number(value)?);
                let made = dtype.value.zip(shape.value).map(|(dtype, shape)| TensorType { dtype, shape });
                let val = made.map(|ty| self.value(ty, whole)).transpose()?;
                let (dtype, shape, value) = (dtype.tokens, shape.tokens, value.tokens);
                (val.map(Ok), quote!(#p::full(#b, #dtype, #shape, #value)#attempt))
            }
            _ => {
                let [dtype, shape, axis] = call.exactly(["dtype", "shape", "axis"])?;
                let (dtype, shape, axis) = (self.dtype(dtype)?, self.dims(shape)?, self.index(axis)?);
                let outcome = match (dtype.value, shape.value, axis.value) {
                    (Some(dtype), Some(shape), Some(axis)) => Some(self.graph.iota(dtype, &shape, axis)),
                    _ => None,
                };
                let (dtype, shape, axis) = (dtype.tokens, shape.tokens, axis.tokens);
                (outcome, quote!(#b.iota(#dtype, #shape, #axis)#attempt))
            }
        };
        let val = val.map(|outcome| self.judge(outcome, whole)).transpose()?;
        Ok(Lowered { val: Val::Tensor(val), tokens })
    }

    /// Two operands that broadcast together; a number takes the dtype of the tensor beside it.
    fn pair(
        &mut self,
        left: &Expr,
        right: &Expr,
        call: &Call,
        builder: &str,
        first: TokenStream,
        run: impl FnOnce(&mut Builder, ValueId, ValueId) -> kiln_graph::Result<ValueId>,
    ) -> Res<Lowered> {
        let (l, r) = (self.expr(left)?, self.expr(right)?);
        let (a, b) = self.alike(&l, &r, left, right)?;
        let outcome = a.zip(b).map(|(a, b)| run(&mut self.graph, a, b));
        let val = outcome.map(|o| self.judge(o, call.whole)).transpose()?;
        let (ta, tb) = (self.temporary(), self.temporary());
        let lets = self.operands((&ta, l, left), (&tb, r, right));
        let (g, function, attempt) = (self.builder(), format_ident!("{builder}"), self.attempt(call.whole));
        let tokens = quote!({ #lets #g.#function(#first #ta, #tb)#attempt });
        Ok(Lowered { val: Val::Tensor(val), tokens })
    }

    /// Abstract values of two operands, of which one may be a number.
    fn alike(
        &mut self,
        l: &Lowered,
        r: &Lowered,
        left: &Expr,
        right: &Expr,
    ) -> Res<(Option<ValueId>, Option<ValueId>)> {
        match (&l.val, &r.val) {
            (Val::Tensor(a), Val::Tensor(b)) => Ok((*a, *b)),
            (Val::Tensor(a), Val::Host(_)) => Ok((*a, self.number_like(*a, right)?)),
            (Val::Host(_), Val::Tensor(b)) => Ok((self.number_like(*b, left)?, *b)),
            (Val::Host(_), Val::Host(_)) => Err(Error::new_spanned(left, "one of the two must be a tensor").into()),
            (Val::Tensor(_), val) => {
                Err(Error::new_spanned(right, format!("expected a tensor or a number, found {}", val.describe()))
                    .into())
            }
            (val, _) => {
                Err(Error::new_spanned(left, format!("expected a tensor or a number, found {}", val.describe())).into())
            }
        }
    }

    fn number_like(&mut self, like: Option<ValueId>, source: &Expr) -> Res<Option<ValueId>> {
        let Some(like) = like else { return Ok(None) };
        let ty = self.ty(like);
        let fraction = matches!(crate::types::bare(source), Expr::Lit(lit) if matches!(lit.lit, Lit::Float(_)));
        if ty.dtype == DType::Bool || fraction && ty.dtype.is_int() {
            let message =
                format!("`{}` is no {} and cannot meet {ty}; insert a cast", source.to_token_stream(), ty.dtype);
            return Err(Error::new_spanned(source, message).into());
        }
        self.value(TensorType { dtype: ty.dtype, shape: Vec::new() }, source).map(Some)
    }

    /// `let` statements for two operands, tensors before numbers.
    fn operands(&self, l: (&syn::Ident, Lowered, &Expr), r: (&syn::Ident, Lowered, &Expr)) -> TokenStream {
        let (p, b) = (support(), self.builder());
        let number = |name: &syn::Ident, tokens: &TokenStream, val: &Val, like: &syn::Ident, source: &Expr| {
            let attempt = self.attempt(source);
            match val {
                Val::Host(host) if host.symbolic => quote!(let #name = #p::symbolic(#b, #like, &#tokens)#attempt;),
                _ => quote!(let #name = #p::number(#b, #like, (#tokens) as f64)#attempt;),
            }
        };
        let ((ln, l, left), (rn, r, right)) = (l, r);
        let (lt, rt) = (&l.tokens, &r.tokens);
        match (&l.val, &r.val) {
            (Val::Host(_), _) => {
                let second = number(ln, lt, &l.val, rn, left);
                quote!(let #rn = #rt; #second)
            }
            (_, Val::Host(_)) => {
                let second = number(rn, rt, &r.val, ln, right);
                quote!(let #ln = #lt; #second)
            }
            _ => quote!(let #ln = #lt; let #rn = #rt;),
        }
    }

    /// `{ let x = ..; builder.function(x, ..)? }`. Arguments may use the builder, so they are evaluated first.
    fn invoke(&mut self, function: &str, x: &TokenStream, args: &[TokenStream], whole: &Expr) -> TokenStream {
        let (b, function, attempt, t) =
            (self.builder(), format_ident!("{function}"), self.attempt(whole), self.temporary());
        let names: Vec<syn::Ident> = args.iter().map(|_| self.temporary()).collect();
        quote!({ let #t = #x; #(let #names = #args;)* #b.#function(#t, #(#names),*)#attempt })
    }

    fn applied(
        &mut self,
        outcome: Option<kiln_graph::Result<ValueId>>,
        function: &str,
        x: &Arg<ValueId>,
        args: &[TokenStream],
        whole: &Expr,
    ) -> Res<Lowered> {
        let val = outcome.map(|o| self.judge(o, whole)).transpose()?;
        let tokens = self.invoke(function, &x.tokens, args, whole);
        Ok(Lowered { val: Val::Tensor(val), tokens })
    }

    /// `x.conv(w, strides, pads)` or `x.conv(w, strides, pads, groups)`: a pad is added on both sides of its axis.
    fn conv(&mut self, call: &Call, x: &Arg<ValueId>) -> Res<Lowered> {
        let [w, strides, pads, groups] = match call.args {
            [w, strides, pads] => [*w, *strides, *pads, &syn::parse_quote!(1)],
            _ => call.exactly(["weight", "strides", "pads", "groups"])?,
        };
        let w = self.tensor(w)?;
        let (strides, pads, groups) = (self.indices(strides)?, self.indices(pads)?, self.index(groups)?);
        let outcome = match (x.value, w.value, strides.value, pads.value, groups.value) {
            (Some(x), Some(w), Some(strides), Some(pads), Some(groups)) => {
                let dilations = vec![1; strides.len()];
                let spec = ConvSpec { strides, pads: pads.into_iter().map(|p| (p, p)).collect(), dilations, groups };
                Some(self.graph.conv(x, w, None, spec))
            }
            _ => None,
        };
        let p = support();
        let (strides, pads, groups) = (strides.tokens, pads.tokens, groups.tokens);
        let spec = quote!(#p::conv_spec(#strides, #pads, #groups));
        self.applied(outcome, "conv", x, &[w.tokens, quote!(::core::option::Option::None), spec], call.whole)
    }

    /// `x.max_pool(window, strides, pads)`.
    fn pool(&mut self, call: &Call, x: &Arg<ValueId>) -> Res<Lowered> {
        let [window, strides, pads] = call.exactly(["window", "strides", "pads"])?;
        let (window, strides, pads) = (self.indices(window)?, self.indices(strides)?, self.indices(pads)?);
        let outcome = match (x.value, window.value, strides.value, pads.value) {
            (Some(x), Some(window), Some(strides), Some(pads)) => {
                let dilations = vec![1; window.len()];
                let spec = WindowSpec { window, strides, pads: pads.into_iter().map(|p| (p, p)).collect(), dilations };
                let pool = Pool { spec, ceil_mode: false };
                Some(match call.name {
                    "max_pool" => self.graph.max_pool(x, &pool),
                    _ => self.graph.avg_pool(x, &pool, false),
                })
            }
            _ => None,
        };
        let (p, window, strides, pads) = (support(), window.tokens, strides.tokens, pads.tokens);
        let mut args = vec![quote!(&#p::pool(#window, #strides, #pads))];
        if call.name == "avg_pool" {
            args.push(quote!(false));
        }
        self.applied(outcome, call.name, x, &args, call.whole)
    }
}

fn known3<T: Copy>(x: &Arg<ValueId>, a: &Arg<ValueId>, b: &Arg<T>) -> Option<(ValueId, ValueId, T)> {
    Some((x.value?, a.value?, b.value?))
}

/// The method whose name is closest, if it is close.
fn nearest(name: &str) -> Option<&'static str> {
    let functions = UnaryOp::ALL.iter().map(|op| op.method()).chain(BinaryOp::ALL.iter().map(|op| op.method()));
    let all = functions.chain(CompareOp::ALL.iter().map(|op| op.name())).chain(NAMES.iter().copied()).chain(OTHER);
    let best = all.map(|n| (edits(name, n), n)).min()?;
    (best.0 <= 1 + name.len() / 4).then_some(best.1)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != *y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{edits, nearest};

    #[test]
    fn the_nearest_method_is_suggested() {
        assert_eq!((edits("kitten", "sitting"), edits("", "abc"), edits("abc", "abc")), (3, 3, 0));
        assert_eq!(
            (nearest("sofmax"), nearest("powff"), nearest("atannh")),
            (Some("softmax"), Some("powf"), Some("atanh"))
        );
        assert_eq!(nearest("frobnicate"), None);
    }
}
