//! Layouts of tiles in registers and in shared memory.

use std::fmt;
use std::str::FromStr;

macro_rules! layout {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            shape: Vec<u32>,
        }

        impl $name {
            /// Extents of the tile.
            pub fn shape(&self) -> &[u32] {
                &self.shape
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let extents: Vec<String> = self.shape.iter().map(u32::to_string).collect();
                write!(f, "{}", extents.join("x"))
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<$name, Self::Err> {
                let extents = text.split('x').filter(|extent| !extent.is_empty());
                Ok($name { shape: extents.map(str::parse).collect::<Result<_, _>>()? })
            }
        }
    };
}

layout! {
    /// Which thread holds which element.
    RegisterLayout
}
layout! {
    /// Where elements lie in shared memory.
    SharedLayout
}
