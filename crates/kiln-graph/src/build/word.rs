//! Choices that are named by a word, as ONNX and other frameworks name them.

/// An enum whose variants have words: [`std::str::FromStr`] reads them, and its error lists them.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$about])* $variant,)*
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(word: &str) -> std::result::Result<$name, String> {
                match word {
                    $($word => Ok($name::$variant),)*
                    other => Err(format!("expected one of {}, found `{other}`", [$($word),*].join(", "))),
                }
            }
        }
    };
}

pub(super) use words;
