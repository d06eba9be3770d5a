//! Enums whose members parametrize an op, as part of its mnemonic or a word among its attributes.

/// Names of the members of an enum: all of them, to a word and back.
macro_rules! named {
    ($ty:ident { $($variant:ident $name:literal,)* }) => {
        impl $ty {
            /// Every member.
            pub const ALL: &[$ty] = &[$($ty::$variant),*];

            /// The lower-case mnemonic.
            pub const fn name(self) -> &'static str {
                match self {
                    $($ty::$variant => $name),*
                }
            }

            /// The member with that mnemonic.
            pub fn from_name(name: &str) -> Option<$ty> {
                match name {
                    $($name => Some($ty::$variant),)*
                    _ => None,
                }
            }
        }

        impl std::str::FromStr for $ty {
            type Err = String;

            fn from_str(name: &str) -> std::result::Result<$ty, String> {
                let names = [$($name),*].join(", ");
                $ty::from_name(name).ok_or_else(|| format!("expected one of {names}, found `{name}`"))
            }
        }

        impl std::fmt::Display for $ty {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}
pub(super) use named;

/// Mnemonics of ops that the members parametrize: a function for each prefix.
macro_rules! prefixed {
    ($ty:ident [] $members:tt) => {};
    ($ty:ident [$function:ident $prefix:literal $(, $($rest:tt)*)?] { $($variant:ident $name:literal,)* }) => {
        impl $ty {
            #[doc = concat!("The mnemonic of the op that starts with `", $prefix, "`.")]
            pub(super) const fn $function(self) -> &'static str {
                match self {
                    $($ty::$variant => concat!($prefix, $name)),*
                }
            }
        }
        prefixed!($ty [$($($rest)*)?] { $($variant $name,)* });
    };
}

/// A row: member and mnemonic. In brackets, which ops have it in theirs: the function that gives the whole mnemonic, and what stands before the member's.
macro_rules! choice {
    ($(#[$meta:meta])* $ty:ident $prefixes:tt { $($(#[doc = $doc:literal])* $variant:ident $name:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[allow(missing_docs, reason = "self-explaining")]
        pub enum $ty {
            $($(#[doc = $doc])* $variant,)*
        }
        named!($ty { $($variant $name,)* });
        prefixed!($ty $prefixes { $($variant $name,)* });
    };
}
pub(super) use {choice, prefixed};
