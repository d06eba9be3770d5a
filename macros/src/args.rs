//! Arguments of tensor methods: each kind yields what the abstract builder takes and what the generated code passes.

use crate::expand::support;
use crate::host::literal;
use crate::lower::{Lower, Lowered, Res};
use crate::scope::Val;
use crate::types::{as_ident, bare};
use kiln_graph::{DType, Dim, ValueId};
use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Error, Expr, Lit};

/// An argument. `value` is `None` if only the build of the graph can tell.
pub(crate) struct Arg<T> {
    /// For the abstract builder.
    pub value: Option<T>,
    /// For the generated code.
    pub tokens: TokenStream,
}

/// How the builder takes an argument.
pub(crate) trait Lend {
    /// The parameter's type.
    type As<'a>
    where
        Self: 'a;
    /// Lends the value.
    fn lend(&self) -> Self::As<'_>;
}

macro_rules! lend {
    ($($owned:ty => $lent:ty: |$x:ident| $body:expr;)*) => {$(
        impl Lend for $owned {
            type As<'a> = $lent;
            fn lend(&self) -> Self::As<'_> {
                let $x = self;
                $body
            }
        }
    )*};
}

lend! {
    ValueId => ValueId: |x| *x;
    Option<ValueId> => Option<ValueId>: |x| *x;
    i64 => i64: |x| *x;
    usize => usize: |x| *x;
    f64 => f64: |x| *x;
    bool => bool: |x| *x;
    DType => DType: |x| *x;
    Option<f64> => Option<f64>: |x| *x;
    Option<DType> => Option<DType>: |x| *x;
    Option<Dim> => Option<Dim>: |x| x.clone();
    String => &'a str: |x| x;
    Vec<f64> => &'a [f64]: |x| x;
    Vec<(usize, usize)> => &'a [(usize, usize)]: |x| x;
    Vec<(Dim, Dim)> => &'a [(Dim, Dim)]: |x| x;
    Dim => &'a Dim: |x| x;
    Vec<i64> => &'a [i64]: |x| x;
    Vec<usize> => &'a [usize]: |x| x;
    Vec<Dim> => &'a [Dim]: |x| x;
}

impl Lower<'_> {
    /// A tensor.
    pub(crate) fn tensor(&mut self, expr: &Expr) -> Res<Arg<ValueId>> {
        let lowered = self.expr(expr)?;
        match lowered.val {
            Val::Tensor(value) => Ok(Arg { value, tokens: lowered.tokens }),
            val => Err(Error::new_spanned(expr, format!("expected a tensor, found {}", val.describe())).into()),
        }
    }

    /// A tensor in an optional place: a tensor, one that may be absent, or `None`.
    pub(crate) fn given(&mut self, expr: &Expr) -> Res<Arg<Option<ValueId>>> {
        if none(expr) {
            return Ok(Arg { value: Some(None), tokens: absent() });
        }
        let Lowered { val, tokens } = self.expr(expr)?;
        match val {
            Val::Tensor(value) => {
                Ok(Arg { value: value.map(Some), tokens: quote!(::core::option::Option::Some(#tokens)) })
            }
            Val::Optional(value) => Ok(Arg { value: value.map(Some), tokens }),
            val => Err(Error::new_spanned(expr, format!("expected a tensor, found {}", val.describe())).into()),
        }
    }

    /// A list of tensors.
    pub(crate) fn tensors(&mut self, expr: &Expr) -> Res<Arg<Vec<ValueId>>> {
        let items = self.list(expr)?.iter().map(|e| self.tensor(e)).collect::<Res<Vec<_>>>()?;
        let tokens = items.iter().map(|i| &i.tokens);
        let tokens = quote!(&[#(#tokens),*]);
        Ok(Arg { value: items.iter().map(|i| i.value).collect(), tokens })
    }

    /// An integer.
    pub(crate) fn integer(&mut self, expr: &Expr) -> Res<Arg<i64>> {
        self.config(expr, "an integer")?;
        Ok(Arg { value: literal(expr), tokens: quote!(((#expr) as i64)) })
    }

    /// A number that counts or indexes.
    pub(crate) fn index(&mut self, expr: &Expr) -> Res<Arg<usize>> {
        self.config(expr, "an integer")?;
        let value = match literal(expr).map(usize::try_from) {
            Some(Err(_)) => return Err(Error::new_spanned(expr, "this number cannot be negative").into()),
            Some(Ok(value)) => Some(value),
            None => None,
        };
        Ok(Arg { value, tokens: quote!(((#expr) as usize)) })
    }

    /// One axis or a list of axes.
    pub(crate) fn axes(&mut self, expr: &Expr) -> Res<Arg<Vec<i64>>> {
        let items = match bare(expr) {
            Expr::Array(_) => self.list(expr)?.iter().map(|e| self.integer(e)).collect::<Res<Vec<_>>>()?,
            one => vec![self.integer(one)?],
        };
        let tokens = items.iter().map(|i| &i.tokens);
        let tokens = quote!(&[#(#tokens),*]);
        Ok(Arg { value: items.iter().map(|i| i.value).collect(), tokens })
    }

    /// A list of numbers that count or index.
    pub(crate) fn indices(&mut self, expr: &Expr) -> Res<Arg<Vec<usize>>> {
        let items = self.list(expr)?.iter().map(|e| self.index(e)).collect::<Res<Vec<_>>>()?;
        let tokens = items.iter().map(|i| &i.tokens);
        let tokens = quote!(&[#(#tokens),*]);
        Ok(Arg { value: items.iter().map(|i| i.value).collect(), tokens })
    }

    /// A dim.
    pub(crate) fn extent(&mut self, expr: &Expr) -> Res<Arg<Dim>> {
        let (dim, tokens) = self.dim(expr)?;
        Ok(Arg { value: Some(dim), tokens: quote!(&#tokens) })
    }

    /// A shape.
    pub(crate) fn dims(&mut self, expr: &Expr) -> Res<Arg<Vec<Dim>>> {
        let (mut dims, mut tokens) = (Vec::new(), Vec::new());
        for item in self.list(expr)? {
            let (dim, built) = self.dim(item)?;
            dims.push(dim);
            tokens.push(built);
        }
        Ok(Arg { value: Some(dims), tokens: quote!(&[#(#tokens),*]) })
    }

    /// A real number. Types do not depend on it.
    pub(crate) fn number(&mut self, expr: &Expr) -> Res<Arg<f64>> {
        self.config(expr, "a number")?;
        Ok(Arg { value: Some(1.0), tokens: quote!(((#expr) as f64)) })
    }

    /// A number or a list of numbers that count: one for all axes.
    pub(crate) fn counts(&mut self, expr: &Expr) -> Res<Arg<Vec<usize>>> {
        if let Expr::Array(_) = bare(expr) {
            return self.indices(expr);
        }
        let Arg { value, tokens } = self.index(expr)?;
        Ok(Arg { value: value.map(|v| vec![v]), tokens: quote!(&[#tokens]) })
    }

    /// What is added before and after each axis: a number, or a list of numbers and `(before, after)`.
    pub(crate) fn sides(&mut self, expr: &Expr) -> Res<Arg<Vec<(usize, usize)>>> {
        let pairs = self.pairs(expr, |lower, side| lower.index(side))?;
        let tokens = pairs.iter().map(|(a, b)| (&a.tokens, &b.tokens)).map(|(a, b)| quote!((#a, #b)));
        let tokens = quote!(&[#(#tokens),*]);
        Ok(Arg { value: pairs.iter().map(|(a, b)| a.value.zip(b.value)).collect(), tokens })
    }

    /// The same in dims, which may be negative.
    pub(crate) fn edges(&mut self, expr: &Expr) -> Res<Arg<Vec<(Dim, Dim)>>> {
        let pairs = self.pairs(expr, |lower, side| lower.dim(side))?;
        let tokens = pairs.iter().map(|((_, a), (_, b))| quote!((#a, #b)));
        let tokens = quote!(&[#(#tokens),*]);
        Ok(Arg { value: Some(pairs.into_iter().map(|((a, _), (b, _))| (a, b)).collect()), tokens })
    }

    fn pairs<T>(&mut self, expr: &Expr, mut side: impl FnMut(&mut Self, &Expr) -> Res<T>) -> Res<Vec<(T, T)>> {
        let items = match bare(expr) {
            Expr::Array(array) => array.elems.iter().collect(),
            one => vec![one],
        };
        items
            .into_iter()
            .map(|item| match bare(item) {
                Expr::Tuple(pair) if pair.elems.len() == 2 => {
                    Ok((side(self, &pair.elems[0])?, side(self, &pair.elems[1])?))
                }
                Expr::Tuple(_) => Err(Error::new_spanned(item, "expected a number or `(before, after)`").into()),
                both => Ok((side(self, both)?, side(self, both)?)),
            })
            .collect()
    }

    /// A list of real numbers that types depend on.
    pub(crate) fn ratios(&mut self, expr: &Expr) -> Res<Arg<Vec<f64>>> {
        let items = self.list(expr)?;
        let items = items.into_iter().map(|e| Ok((real(e), self.number(e)?.tokens))).collect::<Res<Vec<_>>>()?;
        let tokens = items.iter().map(|(_, tokens)| tokens);
        let tokens = quote!(&[#(#tokens),*]);
        Ok(Arg { value: items.iter().map(|(value, _)| *value).collect(), tokens })
    }

    /// Yes or no.
    pub(crate) fn flag(&mut self, expr: &Expr) -> Res<Arg<bool>> {
        self.config(expr, "`true` or `false`")?;
        let value = match bare(expr) {
            Expr::Lit(lit) => match &lit.lit {
                Lit::Bool(flag) => Some(flag.value),
                _ => return Err(Error::new_spanned(expr, "expected `true` or `false`").into()),
            },
            _ => None,
        };
        Ok(Arg { value, tokens: expr.to_token_stream() })
    }

    /// A choice that is named by a string.
    pub(crate) fn word(&mut self, expr: &Expr) -> Res<Arg<String>> {
        self.config(expr, "a string")?;
        match bare(expr) {
            Expr::Lit(_) => Ok(Arg { value: Some(self.text(expr)?), tokens: expr.to_token_stream() }),
            _ => Ok(Arg { value: None, tokens: quote!(&*(#expr)) }),
        }
    }

    /// A dim in an optional place.
    pub(crate) fn some_extent(&mut self, expr: &Expr) -> Res<Arg<Option<Dim>>> {
        if none(expr) {
            return Ok(Arg { value: Some(None), tokens: absent() });
        }
        let (dim, tokens) = self.dim(expr)?;
        Ok(Arg { value: Some(Some(dim)), tokens: quote!(::core::option::Option::Some(#tokens)) })
    }

    /// A dtype in an optional place.
    pub(crate) fn some_dtype(&mut self, expr: &Expr) -> Res<Arg<Option<DType>>> {
        if none(expr) {
            return Ok(Arg { value: Some(None), tokens: absent() });
        }
        let Arg { value, tokens } = self.dtype(expr)?;
        Ok(Arg { value: value.map(Some), tokens: quote!(::core::option::Option::Some(#tokens)) })
    }

    /// A factor in an optional place. What stands for it where it is left out may have a value only when the graph is built; no type depends on
    /// it.
    pub(crate) fn scale(&mut self, expr: &Expr) -> Res<Arg<Option<f64>>> {
        let tokens = self.bound(expr)?.tokens;
        Ok(Arg { value: Some(Some(1.0)), tokens })
    }

    /// A real number in an optional place.
    pub(crate) fn bound(&mut self, expr: &Expr) -> Res<Arg<Option<f64>>> {
        if none(expr) {
            return Ok(Arg { value: Some(None), tokens: absent() });
        }
        let Arg { value, tokens } = self.number(expr)?;
        Ok(Arg { value: value.map(Some), tokens: quote!(::core::option::Option::Some(#tokens)) })
    }

    /// A dtype.
    pub(crate) fn dtype(&mut self, expr: &Expr) -> Res<Arg<DType>> {
        let Expr::Path(path) = bare(expr) else {
            return Err(Error::new_spanned(expr, "expected a dtype, such as f32").into());
        };
        let (dtype, tokens) = self.element(&path.path)?;
        Ok(Arg { value: Some(dtype), tokens })
    }

    /// `start..end`: each end a dim; an absent end is the axis's.
    pub(crate) fn range(&mut self, expr: &Expr) -> Res<(Arg<Dim>, Arg<Dim>)> {
        let Expr::Range(range) = bare(expr) else {
            return Err(Error::new_spanned(expr, "expected a range, such as 0..n").into());
        };
        if matches!(range.limits, syn::RangeLimits::Closed(_)) {
            return Err(Error::new_spanned(expr, "the range excludes its end: write `a..b`").into());
        }
        let p = support();
        let open = |n: i64| Arg { value: Some(Dim::from(n)), tokens: quote!(&#p::dim(&(#n))) };
        let start = range.start.as_ref().map_or_else(|| Ok(open(0)), |e| self.extent(e))?;
        let end = range.end.as_ref().map_or_else(|| Ok(open(i64::MAX)), |e| self.extent(e))?;
        Ok((start, end))
    }

    /// A string literal.
    pub(crate) fn text(&self, expr: &Expr) -> Res<String> {
        match bare(expr) {
            Expr::Lit(lit) if let Lit::Str(text) = &lit.lit => Ok(text.value()),
            _ => Err(Error::new_spanned(expr, "expected a string literal").into()),
        }
    }

    /// The elements of an array expression.
    pub(crate) fn list<'e>(&self, expr: &'e Expr) -> Res<Vec<&'e Expr>> {
        match bare(expr) {
            Expr::Array(array) => Ok(array.elems.iter().collect()),
            Expr::Reference(reference) => self.list(&reference.expr),
            _ => Err(Error::new_spanned(expr, "expected a list in brackets, such as `[0, 1]`").into()),
        }
    }

    /// Requires something other than a tensor.
    fn config(&mut self, expr: &Expr, what: &str) -> Res<()> {
        if self.tensorial(expr) {
            let message = format!("expected {what} that is known when the graph is built, found a tensor");
            return Err(Error::new_spanned(expr, message).into());
        }
        if self.symbolic(expr) {
            let message = format!(
                "expected {what} that is known when the graph is built, found a symbol: `{}`",
                expr.to_token_stream()
            );
            return Err(Error::new_spanned(expr, message).into());
        }
        Ok(())
    }
}

/// Whether this is `None`.
pub(crate) fn none(expr: &Expr) -> bool {
    as_ident(expr).is_some_and(|i| i == "None")
}

fn absent() -> TokenStream {
    quote!(::core::option::Option::None)
}

/// The value of a literal number.
fn real(expr: &Expr) -> Option<f64> {
    match bare(expr) {
        Expr::Lit(lit) => match &lit.lit {
            Lit::Float(number) => number.base10_parse().ok(),
            Lit::Int(number) => number.base10_parse().ok(),
            _ => None,
        },
        _ => None,
    }
}
