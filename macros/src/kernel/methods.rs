//! The methods of tiles.

use crate::methods::suggest::nearest;
use proc_macro2::TokenStream;
use quote::format_ident;

/// What a method does to elements; `x[0]` is the receiver's.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Method {
    /// A function of floats, as an expression of the tile IR: its name there.
    Float(&'static str),
    /// The same of numbers of any type.
    Number(&'static str),
    /// A formula of this crate's, of floats.
    Formula(&'static str),
    /// Whether something holds of a float.
    Test(&'static str),
    /// A function of two numbers.
    Binary(&'static str),
    /// The same of two conditions, or of two integers.
    Logical(&'static str),
    /// A comparison.
    Compare(&'static str),
    /// A reduction along an axis; of conditions or of numbers.
    Reduce(&'static str),
    /// Those with a form of their own.
    Other,
}

/// All of them.
pub(crate) const METHODS: &[(&str, Method)] = &[
    ("neg", Method::Number("Neg")),
    ("abs", Method::Number("Abs")),
    ("exp", Method::Float("Exp")),
    ("exp2", Method::Float("Exp2")),
    ("ln", Method::Float("Log")),
    ("log2", Method::Float("Log2")),
    ("ln_1p", Method::Float("Log1p")),
    ("sqrt", Method::Float("Sqrt")),
    ("rsqrt", Method::Float("Rsqrt")),
    ("sin", Method::Float("Sin")),
    ("cos", Method::Float("Cos")),
    ("tanh", Method::Float("Tanh")),
    ("erf", Method::Float("Erf")),
    ("floor", Method::Float("Floor")),
    ("ceil", Method::Float("Ceil")),
    ("trunc", Method::Float("Trunc")),
    ("round", Method::Float("Round")),
    ("recip", Method::Formula("recip")),
    ("sigmoid", Method::Formula("sigmoid")),
    ("silu", Method::Formula("silu")),
    ("gelu", Method::Formula("gelu")),
    ("gelu_tanh", Method::Formula("gelu_tanh")),
    ("square", Method::Other),
    ("relu", Method::Other),
    ("is_nan", Method::Test("IsNan")),
    ("is_infinite", Method::Test("IsInf")),
    ("not", Method::Other),
    ("add", Method::Binary("Add")),
    ("sub", Method::Binary("Sub")),
    ("mul", Method::Binary("Mul")),
    ("div", Method::Binary("Div")),
    ("rem", Method::Binary("Rem")),
    ("min", Method::Binary("Min")),
    ("max", Method::Binary("Max")),
    ("powf", Method::Binary("Pow")),
    ("and", Method::Logical("And")),
    ("or", Method::Logical("Or")),
    ("xor", Method::Logical("Xor")),
    ("eq", Method::Compare("Eq")),
    ("ne", Method::Compare("Ne")),
    ("lt", Method::Compare("Lt")),
    ("le", Method::Compare("Le")),
    ("gt", Method::Compare("Gt")),
    ("ge", Method::Compare("Ge")),
    ("sum", Method::Reduce("Sum")),
    ("prod", Method::Reduce("Prod")),
    ("amax", Method::Reduce("Max")),
    ("amin", Method::Reduce("Min")),
    ("all", Method::Reduce("And")),
    ("any", Method::Reduce("Or")),
    ("clamp", Method::Other),
    ("select", Method::Other),
    ("cast", Method::Other),
    ("t", Method::Other),
    ("clone", Method::Other),
    ("tile", Method::Other),
    ("tile_or", Method::Other),
    ("store", Method::Other),
];

/// Names of other languages, and what to write here.
const MEANT: &[(&[&str], &str)] = &[
    (&["mean"], "write `x.sum(axis) / (K as f32)`: a tile may reach past the end"),
    (&["max_axis", "reduce_max", "maximum_over"], "did you mean `amax`?"),
    (&["min_axis", "reduce_min"], "did you mean `amin`?"),
    (&["to", "astype", "to_dtype", "convert"], "did you mean `cast`?"),
    (&["where", "where_", "if_else"], "write `condition.select(if_true, if_false)`"),
    (&["load", "at", "get"], "write `x.tile([..])`"),
    (&["transpose", "T", "mT", "permute", "trans"], "did you mean `t`?"),
    (&["matmul", "mm", "dot"], "write `dot(a, b)`"),
    (&["log"], "did you mean `ln`?"),
    (&["reciprocal", "inv"], "did you mean `recip`?"),
    (&["maximum"], "did you mean `max`?"),
    (&["minimum"], "did you mean `min`?"),
    (&["swish"], "did you mean `silu`?"),
    (&["pow", "powi"], "did you mean `powf`?"),
    (&["softmax", "log_softmax"], "write it out: `amax`, `exp` and `sum` along the axis"),
];

pub(crate) fn find(name: &str) -> Option<Method> {
    METHODS.iter().find(|row| row.0 == name).map(|row| row.1)
}

/// What to write instead of a name that is no method.
pub(crate) fn advice(name: &str) -> String {
    if let Some((_, meant)) = MEANT.iter().find(|(names, _)| names.contains(&name)) {
        return format!("; {meant}");
    }
    match nearest(name, METHODS.iter().map(|row| row.0)) {
        Some(near) => format!("; did you mean `{near}`?"),
        None => "; docs/howto/write-a-kernel.md lists those there are".to_owned(),
    }
}

/// The element for those `x[0]`, `x[1]` of the operands.
pub(crate) fn element(method: Method, p: &TokenStream) -> TokenStream {
    match method {
        Method::Float(op) | Method::Number(op) | Method::Test(op) => {
            let op = format_ident!("{op}");
            code!(x[0].unary(#p::kernel::UnaryOp::#op))
        }
        Method::Formula(name) => {
            let name = format_ident!("{name}");
            code!(#p::kernel::#name(&x[0]))
        }
        Method::Binary(op) | Method::Logical(op) => {
            let op = format_ident!("{op}");
            code!(x[0].binary(#p::kernel::BinaryOp::#op, &x[1]))
        }
        Method::Compare(op) => {
            let op = format_ident!("{op}");
            code!(x[0].compare(#p::kernel::CompareOp::#op, &x[1]))
        }
        Method::Reduce(_) | Method::Other => code!(x[0].clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_suggested_exists_and_what_it_is_suggested_for_does_not() {
        for (names, meant) in MEANT {
            for name in *names {
                assert!(find(name).is_none(), "`{name}` exists");
            }
            if let Some(method) = meant.strip_prefix("did you mean `").and_then(|rest| rest.split('`').next()) {
                assert!(find(method).is_some(), "{method}");
            }
        }
        assert_eq!(advice("rsqr"), "; did you mean `rsqrt`?");
    }

    #[test]
    fn the_page_lists_all_methods() {
        let page = include_str!("../../../docs/howto/write-a-kernel.md");
        for (name, _) in METHODS {
            assert!(
                page.contains(&format!("`{name}`")) || page.contains(&format!("`{name}(")),
                "`{name}` is not listed"
            );
        }
    }
}
