//! Boxes of tensors in global memory, and the windows of images.

use crate::expr::Expr;
use crate::program::Buffer;

/// A box of a tensor in global memory: the element of the tile at coordinates `c` is the tensor's at `origin[a] + c[axes[a]]` along each axis
/// `a`, `origin[a]` where `axes[a]` is `None`, and further along the axes of [`View::walks`]. Elements outside of the tensor do not exist: they load as
/// the fill value and are not stored.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The tensor.
    pub tensor: Buffer,
    /// Index of the first element.
    pub origin: Vec<Expr>,
    /// For each axis of the tensor the axis of the tile that walks along it.
    pub axes: Vec<Option<usize>>,
    /// Extents of the tile.
    pub shape: Vec<u32>,
    /// For each axis of the tensor whether the box may reach outside; what is proved not to needs no mask.
    pub masked: Vec<bool>,
    /// Axes of the tile that walk along several axes of the tensor.
    pub walks: Vec<Walk>,
}

/// An axis of a tile that walks along several axes of a tensor: its coordinate, from `first` on, is a row-major index of all parts. So a tile's rows
/// are the places of a convolution's windows, or its columns their taps and channels.
#[derive(Clone, Debug, PartialEq)]
pub struct Walk {
    /// The axis of the tile.
    pub axis: usize,
    /// The row-major index of its first element, not negative.
    pub first: Expr,
    /// From this index on there are no elements.
    pub end: Expr,
    /// What the index is taken apart into, outermost first.
    pub parts: Vec<Part>,
}

/// A part of a row-major index, and how far it moves along an axis of a tensor: `base + step * part`.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The axis of the tensor.
    pub axis: usize,
    /// Values of the part.
    pub extent: Expr,
    /// How far the first value moves.
    pub base: i64,
    /// How far from one value to the next, positive.
    pub step: i64,
    /// How far the last value may be moved at most, counted from the last element of the tensor's axis: the extent follows from it, and copies that
    /// find windows themselves are told.
    pub last: i64,
}

impl Walk {
    /// The row-major index at a coordinate of the tile.
    pub fn position(&self, coordinate: &Expr) -> Expr {
        &self.first + coordinate
    }

    /// The values of the parts at a coordinate of the tile.
    pub fn values(&self, coordinate: &Expr) -> Vec<Expr> {
        let position = self.position(coordinate);
        let mut inner = Expr::index(1);
        let mut values = vec![];
        for (i, part) in self.parts.iter().enumerate().rev() {
            let value = &position / &inner;
            values.push(if i == 0 { value } else { value % &part.extent });
            inner = inner * &part.extent;
        }
        values.reverse();
        values
    }
}

impl View {
    /// Index in the tensor of the element at `coordinates` of the tile.
    pub fn index(&self, coordinates: &[Expr]) -> Vec<Expr> {
        let along = |(origin, axis): (&Expr, &Option<usize>)| match axis {
            Some(axis) => origin + &coordinates[*axis],
            None => origin.clone(),
        };
        let mut index: Vec<Expr> = self.origin.iter().zip(&self.axes).map(along).collect();
        for walk in &self.walks {
            for (part, value) in walk.parts.iter().zip(walk.values(&coordinates[walk.axis])) {
                index[part.axis] = &index[part.axis] + (value * part.step + part.base);
            }
        }
        index
    }

    /// Whether the element at `coordinates` exists, as far as that is not proved.
    pub fn mask(&self, coordinates: &[Expr]) -> Expr {
        let index = self.index(coordinates);
        let axes = index.iter().zip(&self.tensor.shape).zip(&self.masked).filter(|(_, masked)| **masked);
        let inside = axes.fold(Expr::bool(true), |mask, ((i, extent), _)| mask.and(i.ge(0)).and(i.lt(extent)));
        let walks = self.walks.iter();
        walks.fold(inside, |mask, walk| mask.and(walk.position(&coordinates[walk.axis]).lt(&walk.end)))
    }

    /// The axis of the tile that walks along the tensor's last one.
    pub fn inner(&self) -> Option<usize> {
        let last = self.axes.len().checked_sub(1)?;
        let walks = |walk: &&Walk| walk.parts.last().is_some_and(|part| part.axis == last);
        self.axes[last].or_else(|| self.walks.iter().find(walks).map(|walk| walk.axis))
    }

    /// The parts of walks along an axis of the tensor.
    pub fn parts(&self, axis: usize) -> impl Iterator<Item = &Part> {
        self.walks.iter().flat_map(|walk| &walk.parts).filter(move |part| part.axis == axis)
    }

    /// The scalars that say where the box is.
    pub fn origins_mut(&mut self) -> impl Iterator<Item = &mut Expr> {
        self.origin.iter_mut().chain(self.walks.iter_mut().map(|walk| &mut walk.first))
    }

    /// The same box read with the tile's axes in another order: axis `i` of the new tile is axis `perm[i]` of this one.
    pub fn transposed(&self, perm: &[usize]) -> View {
        let place = |axis: usize| perm.iter().position(|&p| p == axis);
        let walk = |walk: &Walk| Some(Walk { axis: place(walk.axis)?, ..walk.clone() });
        View {
            axes: self.axes.iter().map(|axis| axis.and_then(place)).collect(),
            shape: perm.iter().map(|&axis| self.shape[axis]).collect(),
            walks: self.walks.iter().filter_map(walk).collect(),
            ..self.clone()
        }
    }
}
