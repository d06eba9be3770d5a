//! Keys of a tile that several CTAs share (Dao et al., "Flash-Decoding"): each leaves what it has of its rows, the greatest score, the sum and the weighted
//! sums, and a second kernel puts them together, a row a CTA. Few rows would else keep few SMs busy, though keys and values may be long.

use super::Problem;
use super::config::Config;
use super::program::{Emit, F32, base_of, faded, launch_of};
use crate::Result;
use crate::families::TileLaunch;
use crate::value::dims::numel;
use kiln_graph::Dim;
use kiln_tile::expr::Expr;
use kiln_tile::ir::{Builder, Place, Schedule, Tile, View};
use kiln_tile::{Access, Buffer, ReduceOp};

/// Columns of a row of what CTAs leave, past the weighted sums: the greatest score, the sum, and two that keep rows whole vectors.
const BESIDE: i64 = 4;
/// Warps that put a row together.
const WARPS: u32 = 4;

/// Extents of what CTAs leave, in f32: parts, the grid's, rows, columns.
fn shape(problem: &Problem, config: &Config) -> Vec<Dim> {
    let streamed = &problem.streamed;
    let mut shape = vec![Dim::from(i64::from(config.parts))];
    shape.extend(streamed.grid.iter().map(|(_, extent)| extent.clone()));
    shape.push(streamed.rows.total());
    shape.push(Dim::from(i64::from(config.padded(problem.heads[1])) + BESIDE));
    shape
}

/// Bytes of what CTAs leave.
pub fn scratch_bytes(problem: &Problem, config: &Config) -> Dim {
    match config.parts {
        1 => Dim::from(0),
        _ => numel(&shape(problem, config)) * Dim::from(4),
    }
}

/// The kernel that puts parts together.
pub fn combination(problem: &Problem, config: &Config) -> Result<TileLaunch> {
    let row = Config { bm: 1, parts: 1, ..*config };
    launch_of(problem, &row, Schedule { warps: WARPS, ..Schedule::default() }, |emit, k| {
        let left = emit.left(k, problem, config, Access::Read);
        emit.tiles(k, 1);
        let [most, total, sums] = emit.together(k, &left, config.parts);
        emit.results(k, &most, &total, &sums)?;
        emit.of_rows(k, &most, &total)
    })
}

impl Emit<'_> {
    /// Where CTAs leave what they have.
    pub fn left(&mut self, k: &mut Builder, problem: &Problem, config: &Config, access: Access) -> Buffer {
        self.values.scratch(k, "parts", F32, &shape(problem, config), access)
    }

    /// Leaves what a part has.
    pub fn leave(&self, k: &mut Builder, left: &Buffer, part: &Expr, [most, total, sums]: &[Tile; 3]) {
        let columns = i64::from(sums.shape[1]);
        for (tile, column) in [(sums, 0), (most, columns), (total, columns + 1)] {
            let view = self.of_left(left, part.clone(), column, (self.rows_axis(), tile.shape.clone()));
            k.store(Place::View(view), tile);
        }
    }

    /// The greatest score, the sum and the weighted sums of the CTA's row over all parts.
    fn together(&mut self, k: &mut Builder, left: &Buffer, parts: u32) -> [Tile; 3] {
        let columns = self.heads[1];
        let mut load = |name: &str, column: i64, wide: u32| {
            let view = self.of_left(left, Expr::index(0), column, (0, vec![parts, wide]));
            k.load(name, view)
        };
        let [sums, peaks, totals] =
            [load("sums", 0, columns), load("peaks", columns.into(), 1), load("totals", i64::from(columns) + 1, 1)];
        let most = k.reduce("most", ReduceOp::Max, &peaks, 0);
        let factor = self.factor();
        let weights = k.map("weights", &[parts, 1], &[&peaks, &most], |_, x, _| faded(&x[0], &base_of(&x[1]), factor));
        let mut add = |name: &str, of: &Tile| {
            let weighed = k.map(name, &of.shape.clone(), &[of, &weights], |_, x, _| &x[0] * &x[1]);
            k.reduce(name, ReduceOp::Sum, &weighed, 0)
        };
        let [total, sums] = [add("total", &totals), add("acc", &sums)];
        [most, total, sums]
    }

    /// The axis of what CTAs leave that is rows.
    fn rows_axis(&self) -> usize {
        1 + self.grid.len()
    }

    /// A box of what CTAs leave, whose lines walk along an axis and whose columns begin at one.
    fn of_left(&self, left: &Buffer, part: Expr, column: i64, (lines, shape): (usize, Vec<u32>)) -> View {
        let mut origin = vec![part];
        origin.extend(self.grid.iter().map(|(_, at)| at.clone()));
        origin.extend([self.first.clone(), Expr::index(column)]);
        let rank = origin.len();
        let axes = (0..rank).map(|axis| match axis {
            _ if axis == lines => Some(0),
            _ if axis == rank - 1 => Some(1),
            _ => None,
        });
        View { tensor: left.clone(), axes: axes.collect(), walks: vec![], shape, masked: vec![true; rank], origin }
    }
}
