//! What comes from the table of ops: the enum, its mnemonics, text form, kinds, type rules and reference.

/// A field's key in the text form: its name unless the row gives another.
macro_rules! key {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $key:literal) => {
        $key
    };
}

/// The mnemonic of a row, which the member of a choice may be part of.
macro_rules! mnemonic {
    ($mnemonic:literal) => {
        $mnemonic
    };
    ($prefix:literal $choice:ident $name:ident) => {
        $choice.$name()
    };
}

/// The code of a row if `$word` is its mnemonic.
macro_rules! decoded {
    ($word:ident, $variant:ident $mnemonic:literal) => {
        ($word == $mnemonic).then_some(OpCode::$variant)
    };
    ($word:ident, $variant:ident $prefix:literal $Choice:ident) => {
        $word.strip_prefix($prefix).and_then($Choice::from_name).map(OpCode::$variant)
    };
}

/// The operands of a row in words: those that are always there, then those of which there may be any number.
macro_rules! operands {
    (;) => {
        ""
    };
    ($one:ident;) => {
        stringify!($one)
    };
    ($one:ident; $($many:ident)+) => {
        concat!(stringify!($one), ", ", operands!(; $($many)+))
    };
    ($one:ident $($more:ident)+; $($many:ident)*) => {
        concat!(stringify!($one), ", ", operands!($($more)+; $($many)*))
    };
    (; $many:ident) => {
        concat!(stringify!($many), "..")
    };
    (; $many:ident $($more:ident)+) => {
        concat!(stringify!($many), ".., ", operands!(; $($more)+))
    };
}

/// All mnemonics of a row.
macro_rules! mnemonics {
    ($variant:ident) => {
        vec![OpCode::$variant.name()]
    };
    ($variant:ident $Choice:ident) => {
        $Choice::ALL.iter().map(|&op| OpCode::$variant(op).name()).collect()
    };
}

/// The table's rows to an enum and everything that matches on all of it. A row:
///
/// ```text
/// /// What it means.
/// Variant "mnemonic" (operand, .. ; any number..) Kind [choice: Choice, method that gives the mnemonic] {
///     field as "key in the text form": Type,
/// } => |inference| type rule, |call| reference;
/// ```
///
/// `functions` are parametrized by a function, whose name is the mnemonic, and have no attributes; `plain` ops have none at all.
macro_rules! ops {
    (
        functions {$(
            $(#[doc = $fdoc:literal])+
            $F:ident ($fop:ident: $FOp:ident) ($($foperand:ident),*) $fkind:ident
                => |$fcx:ident| $frule:expr, |$fcall:ident| $fvalue:expr;
        )*}
        plain {$(
            $(#[doc = $pdoc:literal])+
            $P:ident $pname:literal ($($poperand:ident),*) $pkind:ident
                => |$pcx:ident| $prule:expr, |$pcall:ident| $pvalue:expr;
        )*}
        with_attributes {$(
            $(#[doc = $doc:literal])+
            $V:ident $mnemonic:literal ($($operand:ident),* $(; $($many:ident..),+)?) $kind:ident
                $([$(#[doc = $cdoc:literal])+ $choice:ident: $Choice:ident, $cname:ident])? {
                $($(#[doc = $adoc:literal])+ $field:ident $(as $key:literal)?: $Type:ty,)*
            } => |$cx:ident| $rule:expr, |$call:ident| $value:expr;
        )*}
    ) => {
        /// One primitive. Shapes and dtypes follow from [`crate::infer`]; operands are listed in the order the doc names them.
        ///
        /// Elementwise ops take operands of *equal* shape: broadcasting is always an explicit [`Op::Broadcast`], so that rules see it.
        #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum Op {
            $(
                $(#[doc = $fdoc])+
                #[doc = concat!("\n\nOperands: `(", operands!($($foperand)*;), ")`.")]
                $F($FOp),
            )*
            $(
                $(#[doc = $pdoc])+
                #[doc = concat!("\n\nOperands: `(", operands!($($poperand)*;), ")`.")]
                $P,
            )*
            $(
                $(#[doc = $doc])+
                #[doc = concat!("\n\nOperands: `(", operands!($($operand)*; $($($many)+)?), ")`.")]
                $V {
                    $($(#[doc = $cdoc])+ $choice: $Choice,)?
                    $($(#[doc = $adoc])+ $field: $Type,)*
                },
            )*
        }

        /// Which op, without its attributes. Ordered by mnemonic, so that another op leaves the order of the rest.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[allow(missing_docs, reason = "named after the ops")]
        pub enum OpCode {
            $($F($FOp),)*
            $($P,)*
            $($V $(($Choice))?,)*
        }

        impl OpCode {
            /// The mnemonic, for instance `contract` or `reduce_sum`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(OpCode::$F($fop) => $fop.name(),)*
                    $(OpCode::$P => $pname,)*
                    $(OpCode::$V $(($choice))? => mnemonic!($mnemonic $($choice $cname)?),)*
                }
            }

            /// The op with that mnemonic.
            pub fn from_name(word: &str) -> Option<OpCode> {
                None
                    $(.or_else(|| $FOp::from_name(word).map(OpCode::$F)))*
                    $(.or_else(|| (word == $pname).then_some(OpCode::$P)))*
                    $(.or_else(|| decoded!(word, $V $mnemonic $($Choice)?)))*
            }

            /// The op itself, if it has no attributes.
            pub const fn without_attributes(self) -> Option<Op> {
                match self {
                    $(OpCode::$F(op) => Some(Op::$F(op)),)*
                    $(OpCode::$P => Some(Op::$P),)*
                    _ => None,
                }
            }

            /// How its results depend on its operands.
            pub const fn kind(self) -> OpKind {
                match self {
                    $(OpCode::$F(_) => OpKind::$fkind,)*
                    $(OpCode::$P => OpKind::$pkind,)*
                    $(OpCode::$V { .. } => OpKind::$kind,)*
                }
            }

            /// The number of operands, unless that differs from node to node.
            pub(crate) const fn arity(self) -> Option<usize> {
                match self {
                    $(OpCode::$F(_) => Some([$(stringify!($foperand)),*].len()),)*
                    $(OpCode::$P => Some([$(stringify!($poperand)),*].len()),)*
                    $(OpCode::$V { .. } => {
                        let (fixed, many): (&[&str], &[&str]) =
                            (&[$(stringify!($operand)),*], &[$($(stringify!($many)),+)?]);
                        if many.is_empty() { Some(fixed.len()) } else { None }
                    })*
                }
            }
        }

        impl Op {
            /// Which op it is.
            pub const fn code(&self) -> OpCode {
                match self {
                    $(Op::$F(op) => OpCode::$F(*op),)*
                    $(Op::$P => OpCode::$P,)*
                    $(Op::$V { $($choice,)? .. } => OpCode::$V $((*$choice))?,)*
                }
            }

            /// Result types, by the op's rule.
            #[allow(unused_variables, reason = "a rule need not read all attributes")]
            pub(crate) fn types(&self, cx: &mut Cx) -> Result<Vec<TensorType>> {
                match self {
                    $(Op::$F($fop) => { let $fcx = cx; Ok($frule?.several()) })*
                    $(Op::$P => { let $pcx = cx; Ok($prule?.several()) })*
                    $(Op::$V { $($choice,)? $($field,)* } => { let $cx = cx; Ok($rule?.several()) })*
                }
            }

            /// Results, by the reference.
            #[allow(unused_variables, reason = "results need not depend on all attributes")]
            pub(crate) fn values(&self, call: &Call) -> Eval<Vec<Array>> {
                match self {
                    $(Op::$F($fop) => { let $fcall = call; Ok($fvalue?.several()) })*
                    $(Op::$P => { let $pcall = call; Ok($pvalue?.several()) })*
                    $(Op::$V { $($choice,)? $($field,)* } => { let $call = call; Ok($value?.several()) })*
                }
            }

            /// The attributes as text.
            pub(crate) fn print(&self, to: &mut Text) {
                match self {
                    $(Op::$F(_) => {})*
                    $(Op::$P => {})*
                    $(Op::$V { $($field,)* .. } => {
                        $(Attribute::print($field, key!($field $($key)?), to);)*
                    })*
                }
            }

            /// The attributes as bytes.
            pub(crate) fn encode(&self, to: &mut Encoder) {
                match self {
                    $(Op::$F(_) => {})*
                    $(Op::$P => {})*
                    $(Op::$V { $($field,)* .. } => {
                        $(Structure::encode($field, to);)*
                    })*
                }
            }

            /// Shows the dims among the attributes, in order. Those of graphs inside are their own.
            pub fn dims(&self, f: &mut dyn FnMut(&Dim)) {
                match self {
                    $(Op::$F(_) => {})*
                    $(Op::$P => {})*
                    $(Op::$V { $($field,)* .. } => {
                        $(Structure::dims($field, f);)*
                    })*
                }
            }

            /// [`Op::dims`], to be changed.
            pub fn dims_mut(&mut self, f: &mut dyn FnMut(&mut Dim)) {
                match self {
                    $(Op::$F(_) => {})*
                    $(Op::$P => {})*
                    $(Op::$V { $($field,)* .. } => {
                        $(Structure::dims_mut($field, f);)*
                    })*
                }
            }

            /// The op with this code, its attributes read from text.
            pub(crate) fn read(code: OpCode, from: &mut Reader) -> Result<Op> {
                Ok(match code {
                    $(OpCode::$F(op) => Op::$F(op),)*
                    $(OpCode::$P => Op::$P,)*
                    $(OpCode::$V $(($choice))? => {
                        $(let $field = Attribute::read(key!($field $($key)?), from)?;)*
                        Op::$V { $($choice,)? $($field,)* }
                    })*
                })
            }

            /// Completes what [`Op::read`] could not know: what the result types tell.
            pub(crate) fn declare(&mut self, from: &mut Reader, types: Option<&[TensorType]>) -> Result<()> {
                match self {
                    $(Op::$F(_) => {})*
                    $(Op::$P => {})*
                    $(Op::$V { $($field,)* .. } => {
                        $(Attribute::declare($field, from, types)?;)*
                    })*
                }
                Ok(())
            }

            /// The graphs inside, with the word that introduces each.
            pub(crate) fn subgraphs(&self) -> Vec<(&'static str, &Graph)> {
                let found: Vec<(&'static str, Option<&Graph>)> = match self {
                    $(Op::$F(_) => vec![],)*
                    $(Op::$P => vec![],)*
                    $(Op::$V { $($field,)* .. } => vec![$((key!($field $($key)?), Attribute::graph($field))),*],)*
                };
                found.into_iter().filter_map(|(word, graph)| Some((word, graph?))).collect()
            }
        }

        /// The table of ops, for documents and tools.
        pub fn ops() -> Vec<OpInfo> {
            vec![
                $(OpInfo {
                    mnemonics: $FOp::ALL.iter().map(|op| op.name()).collect(),
                    kind: OpKind::$fkind,
                    operands: operands!($($foperand)*;),
                    attributes: vec![],
                    doc: concat!($($fdoc),+),
                },)*
                $(OpInfo {
                    mnemonics: vec![$pname],
                    kind: OpKind::$pkind,
                    operands: operands!($($poperand)*;),
                    attributes: vec![],
                    doc: concat!($($pdoc),+),
                },)*
                $(OpInfo {
                    mnemonics: mnemonics!($V $($Choice)?),
                    kind: OpKind::$kind,
                    operands: operands!($($operand)*; $($($many)+)?),
                    attributes: vec![$((stringify!($field), stringify!($Type))),*],
                    doc: concat!($($doc),+),
                },)*
            ]
        }
    };
}
pub(super) use {decoded, key, mnemonic, mnemonics, operands, ops};
