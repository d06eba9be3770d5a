//! `#[derive(kiln::Config)]`: the values of each field make the space of a kernel's Configs.

use crate::expand::support;
use proc_macro2::TokenStream;
use quote::format_ident;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Expr, Field, Fields, Ident, Result, Token, Type};

/// What a kernel's schedule takes from a field of this name, and its type.
const SCHEDULE: &[(&str, &str)] = &[
    ("warps", "u32"),
    ("raster", "u32"),
    ("row_threads", "u32"),
    ("specialise", "bool"),
    ("persistent", "bool"),
    ("staged_epilogue", "bool"),
    ("overlap", "bool"),
    ("ping_pong", "bool"),
];

/// Expands the derive.
pub(crate) fn derive(input: TokenStream) -> TokenStream {
    syn::parse2(input).and_then(|input| expand(&input)).unwrap_or_else(Error::into_compile_error)
}

/// A field, its type, and Rust for the list of its values.
struct Member<'i> {
    ident: &'i Ident,
    ty: &'i Type,
    name: String,
    values: TokenStream,
}

fn member(field: &Field) -> Result<Member<'_>> {
    let wants = "a Config has named fields, as in `struct Tiles { #[one_of(64, 128)] bm: u32 }`";
    let ident = field.ident.as_ref().ok_or_else(|| Error::new(field.span(), wants))?;
    let ty = &field.ty;
    let name = match ty {
        Type::Path(path) => path.path.get_ident().map(Ident::to_string),
        _ => None,
    };
    let Some(name) = name.filter(|name| ["u32", "i64", "bool"].contains(&name.as_str())) else {
        return Err(Error::new_spanned(ty, "fields of a Config are u32, i64 or bool"));
    };
    if let Some((field, expected)) = SCHEDULE.iter().find(|row| ident == row.0 && name != row.1) {
        return Err(Error::new_spanned(ty, format!("`{field}` decides the schedule, and is {expected}")));
    }
    let mut values = None;
    for attribute in &field.attrs {
        let found = if attribute.path().is_ident("one_of") {
            let list = attribute.parse_args_with(syn::punctuated::Punctuated::<Expr, Token![,]>::parse_terminated)?;
            if list.is_empty() {
                return Err(Error::new_spanned(attribute, "`one_of` takes one value at least"));
            }
            code!(<[#ty]>::to_vec(&[#list]))
        } else if attribute.path().is_ident("range") {
            let range: Expr = attribute.parse_args()?;
            if name == "bool" || !matches!(&range, Expr::Range(range) if range.start.is_some() && range.end.is_some()) {
                return Err(Error::new_spanned(attribute, "a range of a number has both ends: `#[range(2..=4)]`"));
            }
            code!(::core::iter::Iterator::collect::<::std::vec::Vec<#ty>>(#range))
        } else {
            continue;
        };
        if values.replace(found).is_some() {
            return Err(Error::new_spanned(attribute, "a field has one list of values"));
        }
    }
    let values = match values {
        Some(values) => values,
        None if name == "bool" => code!(::std::vec![false, true]),
        None => {
            return Err(Error::new_spanned(
                ident,
                format!("say what `{ident}` may be: `#[one_of(64, 128)]` or `#[range(2..=4)]`"),
            ));
        }
    };
    Ok(Member { ident, ty, name, values })
}

fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let wants = "a Config is a struct with named fields, without generics";
    let Data::Struct(data) = &input.data else { return Err(Error::new_spanned(&input.ident, wants)) };
    let Fields::Named(fields) = &data.fields else { return Err(Error::new_spanned(&input.ident, wants)) };
    if !input.generics.params.is_empty() {
        return Err(Error::new_spanned(&input.generics, wants));
    }
    let members = fields.named.iter().map(member).collect::<Result<Vec<_>>>()?;
    if members.is_empty() {
        return Err(Error::new_spanned(
            &input.ident,
            "a Config has a field at least; a kernel without one takes no Config",
        ));
    }
    let mut legal = None;
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("config")) {
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("legal") {
                return Err(
                    meta.error("there is `#[config(legal = path)]`, a function of the Config that gives a bool")
                );
            }
            legal = Some(meta.value()?.parse::<syn::Path>()?);
            Ok(())
        })?;
    }
    let (p, ident) = (support(), &input.ident);
    let (names, types): (Vec<_>, Vec<_>) = members.iter().map(|member| (member.ident, member.ty)).unzip();
    let texts: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    let count = members.len();
    let legal = legal.map(|path| code!(space.retain(|config| #path(config));));
    let loops = members.iter().rev().fold(code!(space.push(#ident { #(#names),* });), |inner, member| {
        let (name, values) = (member.ident, &member.values);
        code!(for #name in #values { #inner })
    });
    let schedule = members.iter().filter(|member| SCHEDULE.contains(&(&member.ident.to_string(), &member.name)));
    let schedule = schedule.map(|member| {
        let name = member.ident;
        code!(schedule.#name = self.#name;)
    });
    let serde = code!(#p::kernel::serde).to_string().replace(' ', "");
    let mirror = format_ident!("Mirror");
    Ok(code! {
        const _: () = {
            #[derive(#p::kernel::serde::Serialize, #p::kernel::serde::Deserialize)]
            #[serde(crate = #serde, deny_unknown_fields)]
            struct #mirror { #(#names: #types),* }

            impl #ident {
                /// What it is compared and hashed by.
                fn key(&self) -> [i64; #count] {
                    [#(self.#names as i64),*]
                }
            }

            impl ::core::clone::Clone for #ident {
                fn clone(&self) -> Self {
                    *self
                }
            }

            impl ::core::marker::Copy for #ident {}

            impl ::core::cmp::PartialEq for #ident {
                fn eq(&self, other: &Self) -> bool {
                    self.key() == other.key()
                }
            }

            impl ::core::cmp::Eq for #ident {}

            impl ::core::cmp::PartialOrd for #ident {
                fn partial_cmp(&self, other: &Self) -> ::core::option::Option<::core::cmp::Ordering> {
                    ::core::option::Option::Some(::core::cmp::Ord::cmp(self, other))
                }
            }

            impl ::core::cmp::Ord for #ident {
                fn cmp(&self, other: &Self) -> ::core::cmp::Ordering {
                    ::core::cmp::Ord::cmp(&self.key(), &other.key())
                }
            }

            impl ::core::hash::Hash for #ident {
                fn hash<H: ::core::hash::Hasher>(&self, state: &mut H) {
                    ::core::hash::Hash::hash(&self.key(), state);
                }
            }

            impl ::core::fmt::Debug for #ident {
                fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                    ::core::fmt::Display::fmt(self, f)
                }
            }

            impl ::core::fmt::Display for #ident {
                fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                    let parts = [#(::std::format!("{} {}", #texts, self.#names)),*];
                    f.write_str(&parts.join(", "))
                }
            }

            impl #p::kernel::serde::Serialize for #ident {
                fn serialize<S: #p::kernel::serde::Serializer>(&self, serializer: S) -> ::core::result::Result<S::Ok, S::Error> {
                    #p::kernel::serde::Serialize::serialize(&#mirror { #(#names: self.#names),* }, serializer)
                }
            }

            impl<'de> #p::kernel::serde::Deserialize<'de> for #ident {
                fn deserialize<D: #p::kernel::serde::Deserializer<'de>>(deserializer: D) -> ::core::result::Result<Self, D::Error> {
                    let #mirror { #(#names),* } = #p::kernel::serde::Deserialize::deserialize(deserializer)?;
                    ::core::result::Result::Ok(#ident { #(#names),* })
                }
            }

            impl #p::kernel::Config for #ident {
                fn space() -> ::std::vec::Vec<Self> {
                    let mut space = ::std::vec::Vec::new();
                    #loops
                    #legal
                    space
                }

                fn schedule(&self, schedule: &mut #p::kernel::Schedule) {
                    #(#schedule)*
                }
            }
        };
    })
}
