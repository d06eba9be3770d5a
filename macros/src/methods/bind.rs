//! Which argument belongs to which parameter: by place first, then by name, as in `x.conv(w, pads = 1, groups = 4)`.

use super::{Call, Param, suggest};
use crate::lower::Res;
use crate::types::as_ident;
use std::borrow::Cow;
use syn::spanned::Spanned;
use syn::{Error, Expr, Ident};

/// Name and value of an argument that is given by name.
fn named(expr: &Expr) -> Option<(&Ident, &Expr)> {
    match expr {
        Expr::Assign(assign) => Some((as_ident(&assign.left)?, &assign.right)),
        _ => None,
    }
}

/// The signature of a method, as messages and the page of methods show it.
pub(super) fn signature(name: &str, params: &[Param]) -> String {
    let params: Vec<String> = params
        .iter()
        .map(|p| match p.default {
            Some(default) => format!("{} = {default}", p.name),
            None => p.name.to_owned(),
        })
        .collect();
    format!("{name}({})", params.join(", "))
}

impl<'e> Call<'e> {
    /// An argument for each parameter.
    pub(super) fn bind(&self, params: &[Param]) -> Res<Vec<Cow<'e, Expr>>> {
        let mut bound: Vec<Option<&'e Expr>> = vec![None; params.len()];
        let mut by_name = false;
        for (place, &arg) in self.args.iter().enumerate() {
            let (at, value) = match named(arg) {
                Some((name, value)) => {
                    by_name = true;
                    let Some(at) = params.iter().position(|p| name == p.name) else {
                        return Err(self.no_option(name, params).into());
                    };
                    (at, value)
                }
                None if by_name => {
                    return Err(Error::new_spanned(arg, "arguments by place come before arguments by name").into());
                }
                None if place >= params.len() => return Err(self.count(Some(arg), params).into()),
                None => (place, arg),
            };
            if bound[at].replace(value).is_some() {
                let message = format!("`{}` is given twice", params[at].name);
                return Err(Error::new_spanned(arg, message).into());
            }
        }
        params
            .iter()
            .zip(bound)
            .map(|(param, given)| match (given, param.default) {
                (Some(given), _) => Ok(Cow::Borrowed(given)),
                (None, Some(default)) => Ok(Cow::Owned(syn::parse_str(default)?)),
                (None, None) => Err(self.count(None, params).into()),
            })
            .collect()
    }

    fn count(&self, surplus: Option<&Expr>, params: &[Param]) -> Error {
        let (least, most) = (params.iter().filter(|p| p.default.is_none()).count(), params.len());
        let range = if least == most { most.to_string() } else { format!("{least} to {most}") };
        let plural = if most == 1 { "" } else { "s" };
        let message =
            format!("`{}` takes {range} argument{plural}, found {}", signature(self.name, params), self.args.len());
        Error::new(surplus.map_or(self.span, Spanned::span), message)
    }

    fn no_option(&self, name: &Ident, params: &[Param]) -> Error {
        let hint = match suggest::option(&name.to_string(), params) {
            Some(near) => format!("; did you mean `{near}`?"),
            None if params.is_empty() => "; it has none".to_owned(),
            None => format!("; it is `{}`", signature(self.name, params)),
        };
        Error::new(name.span(), format!("`{}` has no option `{name}`{hint}", self.name))
    }
}
