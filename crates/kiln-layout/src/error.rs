//! Why a layout cannot be.

/// A layout that does not exist, or a text that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// Strides along an axis that reach some element twice or not at all.
    #[error(
        "modes along axis {axis} do not cover its extent {extent} exactly: the mode after {covered} elements has stride {found}"
    )]
    Cover {
        /// Axis of the tile.
        axis: usize,
        /// Its extent.
        extent: u32,
        /// Elements that the modes before cover; the next stride must be this.
        covered: u64,
        /// The stride that follows, or 0 where none does.
        found: u32,
    },
    /// An axis that the tile does not have, or an order that is no permutation of its axes.
    #[error("{what}: expected {expected} of a tile with {rank} axes")]
    Axes {
        /// What was given.
        what: String,
        /// What it must be.
        expected: &'static str,
        /// Axes of the tile.
        rank: usize,
    },
    /// Extents that are not multiples of what is to tile them.
    #[error("a tile of {shape:?} is not made of whole pieces of {piece:?}")]
    Divide {
        /// The tile.
        shape: Vec<u32>,
        /// What should divide it.
        piece: Vec<u32>,
    },
    /// Two layouts of different tiles.
    #[error("layouts of different tiles: {from:?} and {to:?}")]
    Shape {
        /// One tile.
        from: Vec<u32>,
        /// The other.
        to: Vec<u32>,
    },
    /// Two coordinates at one place of shared memory.
    #[error(
        "elements overlap in shared memory: {extent} steps of {stride} elements reach into the next stride, {next}"
    )]
    Overlap {
        /// Extent of the step.
        extent: u32,
        /// Its stride in elements.
        stride: u32,
        /// The next larger stride.
        next: u32,
    },
    /// An extent, width or swizzle that no layout has.
    #[error("{what} is {found}; expected {expected}")]
    Value {
        /// Which number.
        what: &'static str,
        /// What it is.
        found: u64,
        /// What it must be.
        expected: &'static str,
    },
    /// A text that is no layout.
    #[error("`{text}` is no {what}; expected a text such as `{example}`")]
    Text {
        /// The kind of layout.
        what: &'static str,
        /// What was given.
        text: String,
        /// A text that is one.
        example: &'static str,
    },
}
