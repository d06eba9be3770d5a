//! Packing: operands into panels that the microkernels read from end to end.

use super::{Columns, DEPTH, Lines, Matrix};
use bytemuck::Pod;
use smallvec::SmallVec;

/// Columns of a product made of windows over an image: row `c * taps.len() + t` holds tap `t` of channel `c` at each position.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows<'a, T> {
    /// The channels, one plane after the other.
    pub(crate) data: &'a [T],
    /// Elements of a plane.
    pub(crate) plane: usize,
    /// Where each tap is, from the place of the first.
    pub(crate) taps: &'a [usize],
    /// Extents of the last two axes of positions.
    pub(crate) extents: [usize; 2],
    /// Elements from a position to the next along all axes but the last, along which positions are neighbours.
    pub(crate) steps: [usize; 2],
    /// The position of column 0.
    pub(crate) first: usize,
}

/// Columns that lie side by side in [`Panels`]: a multiple of the columns of every register tile.
pub(crate) const PANEL: usize = 64;

/// Where the rows of a panel lie.
const PANEL_LINES: [usize; DEPTH] = {
    let (mut lines, mut row) = ([0; DEPTH], 0);
    while row < DEPTH {
        lines[row] = row * PANEL;
        row += 1;
    }
    lines
};

/// Columns laid out for reading in place, [`PANEL`] at a time: a panel is its `rows` rows one after the other, the last one is padded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) rows: usize,
    /// The place of column 0.
    pub(crate) first: usize,
}

impl<T: Pod> Matrix<'_, T> {
    /// Copies `rows` rows of `k` elements to rows [`DEPTH`] elements apart.
    #[inline(always)]
    pub(super) fn copy_rows(&self, dst: &mut [T], rows: usize, k: usize) {
        for r in 0..rows {
            let (at, to) = (self.index(r, 0), &mut dst[r * DEPTH..][..k]);
            if self.col == 1 {
                to.copy_from_slice(&self.data[at..at + k]);
            } else {
                for (kk, to) in to.iter_mut().enumerate() {
                    *to = self.data[self.index(r, kk)];
                }
            }
        }
    }
}

impl<T: Pod + Default> Columns<'_, T> {
    /// Packs `k.1` rows from `k.0` of `n.1` columns from `n.0` into panels of `width` columns, the last padded with zeros.
    #[inline(always)]
    pub(super) fn pack(&self, dst: &mut [T], k: (usize, usize), n: (usize, usize), width: usize) {
        match self {
            Columns::Matrix(b) => pack(dst, b.shifted(k.0, n.0).transposed(), n.1, k.1, width),
            Columns::Windows(b) => b.pack(dst, k, n, width),
            // Never asked for: every tile has its neighbours.
            Columns::Panels(_) => {}
        }
    }

    /// Where `count` rows from `first` lie, from the place of row 0.
    pub(super) fn lines<'a>(&self, first: usize, count: usize, lines: &'a mut Lines) -> &'a [usize] {
        let rows = first..first + count;
        lines.clear();
        match self {
            Columns::Matrix(b) => lines.extend(rows.map(|r| r * b.row.unsigned_abs())),
            Columns::Windows(b) => lines.extend(rows.map(|r| r / b.taps.len() * b.plane + b.taps[r % b.taps.len()])),
            Columns::Panels(_) if first == 0 && count <= DEPTH => return &PANEL_LINES[..count],
            Columns::Panels(_) => lines.extend(rows.map(|r| r * PANEL)),
        }
        lines
    }

    /// Row 0 from column `first`, if `width` columns from there are neighbours in memory, of which the first `count` matter.
    pub(super) fn neighbours(&self, first: usize, count: usize, width: usize) -> Option<&[T]> {
        match self {
            Columns::Matrix(b) => (count == width && b.col == 1 && b.row > 0).then(|| &b.data[b.index(0, first)..]),
            Columns::Windows(b) => {
                let [along, from] = b.place(b.first + first);
                (count == width && along + count <= b.extents[1]).then(|| &b.data[from..])
            }
            Columns::Panels(b) => {
                let at = b.first + first;
                Some(&b.data[at / PANEL * PANEL * b.rows + at % PANEL..])
            }
        }
    }
}

/// Elements that a copy of a run moves at a time. What it writes beyond the run is overwritten by what comes next.
const CHUNK: usize = 16;

/// Positions of a line of a panel that are neighbours in the image.
struct Run {
    /// Places in the panels, of the first row.
    to: std::ops::Range<usize>,
    /// End of the line in the panels.
    line: usize,
    /// The place of the first tap in the image.
    from: usize,
}

impl<T: Pod + Default> Windows<'_, T> {
    /// Where a position is along its line, and where its first tap lies.
    fn place(&self, position: usize) -> [usize; 2] {
        let [height, run] = self.extents;
        let (line, along) = (position / run, position % run);
        [along, line / height * self.steps[0] + line % height * self.steps[1] + along]
    }

    fn runs(&self, k: usize, n: (usize, usize), width: usize) -> SmallVec<[Run; 64]> {
        let mut runs = SmallVec::new();
        let mut at = 0;
        while at < n.1 {
            let column = at % width;
            let [along, from] = self.place(self.first + n.0 + at);
            let len = (self.extents[1] - along).min(width - column).min(n.1 - at);
            let start = at / width * width * k;
            runs.push(Run { to: start + column..start + column + len, line: start + width, from });
            at += len;
        }
        runs
    }

    /// A row at a time, which reads along the image.
    #[inline(always)]
    fn pack(&self, dst: &mut [T], k: (usize, usize), n: (usize, usize), width: usize) {
        let runs = self.runs(k.1, n, width);
        let taps = self.taps.len();
        let (mut plane, mut tap) = (k.0 / taps * self.plane, k.0 % taps);
        for row in (0..k.1).map(|r| r * width) {
            for run in &runs {
                let (mut to, end, line) = (row + run.to.start, row + run.to.end, row + run.line);
                let mut from = plane + self.taps[tap] + run.from;
                while to < end {
                    match self.data.get(from..from + CHUNK) {
                        Some(data) if to + CHUNK <= line => dst[to..to + CHUNK].copy_from_slice(data),
                        _ => dst[to..end].copy_from_slice(&self.data[from..from + end - to]),
                    }
                    (to, from) = (to + CHUNK, from + CHUNK);
                }
            }
            if let Some(last) = runs.last() {
                dst[row + last.to.end..row + last.line].fill(T::default());
            }
            tap += 1;
            if tap == taps {
                (tap, plane) = (0, plane + self.plane);
            }
        }
    }
}

/// Packs `rows x k` of `src` into panels of `width` rows, each panel k-major, the last padded with zeros.
#[inline(always)]
fn pack<T: Pod + Default>(dst: &mut [T], src: Matrix<'_, T>, rows: usize, k: usize, width: usize) {
    if src.row == 1 {
        // A row of the panels at a time, which reads along memory.
        for kk in 0..k {
            let from = &src.data[src.index(0, kk)..][..rows];
            let (whole, rest) = from.split_at(rows / width * width);
            for (p, from) in whole.chunks_exact(width).enumerate() {
                dst[p * width * k + kk * width..][..width].copy_from_slice(from);
            }
            if !rest.is_empty() {
                let line = &mut dst[whole.len() * k + kk * width..][..width];
                line[..rest.len()].copy_from_slice(rest);
                line[rest.len()..].fill(T::default());
            }
        }
        return;
    }
    for (p, panel) in dst.chunks_exact_mut(width * k).take(rows.div_ceil(width)).enumerate() {
        let first = p * width;
        let live = width.min(rows - first);
        if live < width {
            panel.fill(T::default());
        }
        if src.col == 1 {
            // Read along memory, in blocks of K whose lines of the panel stay in the L1 cache.
            const STEP: usize = 128;
            for k0 in (0..k).step_by(STEP) {
                let kb = STEP.min(k - k0);
                let block = &mut panel[k0 * width..(k0 + kb) * width];
                let row = |r: usize| {
                    let at = src.index(first + r, k0);
                    &src.data[at..at + kb]
                };
                let fours = live / 4 * 4;
                for r in (0..fours).step_by(4) {
                    transpose(block, width, r, [row(r), row(r + 1), row(r + 2), row(r + 3)]);
                }
                for r in fours..live {
                    for (line, &x) in block.chunks_exact_mut(width).zip(row(r)) {
                        line[r] = x;
                    }
                }
            }
        } else {
            for (kk, line) in panel.chunks_exact_mut(width).enumerate() {
                for (r, slot) in line[..live].iter_mut().enumerate() {
                    *slot = src.data[src.index(first + r, kk)];
                }
            }
        }
    }
}

/// Writes four rows of a panel as its columns `r..r + 4`, in squares of four, which compile to shuffles of vectors.
#[inline(always)]
fn transpose<T: Pod>(panel: &mut [T], width: usize, r: usize, rows: [&[T]; 4]) {
    let [a, b, c, d] = rows.map(|row| row.as_chunks::<4>());
    for (((lines, a), (b, c)), d) in panel.chunks_exact_mut(4 * width).zip(a.0).zip(b.0.iter().zip(c.0)).zip(d.0) {
        for i in 0..4 {
            lines[i * width + r..][..4].copy_from_slice(&[a[i], b[i], c[i], d[i]]);
        }
    }
    let done = a.0.len() * 4;
    for (i, line) in panel[done * width..].chunks_exact_mut(width).enumerate() {
        line[r..r + 4].copy_from_slice(&[a.1[i], b.1[i], c.1[i], d.1[i]]);
    }
}
