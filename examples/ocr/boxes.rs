//! From the detector's map of text probability to boxes: threshold, connected components, the smallest rectangle around each, and its
//! expansion, after "Real-time Scene Text Detection with Differentiable Binarization" (Liao et al., 2020).

use std::collections::VecDeque;

/// Probability above which a pixel is text.
const THRESHOLD: f32 = 0.3;
/// Mean probability that a box needs.
const BOX_THRESHOLD: f32 = 0.5;
/// The map shows text shrunk; boxes grow by this times area over perimeter.
const UNCLIP: f32 = 1.6;
/// Shortest side, in pixels of the map, of a box before and after it grows.
const SHORTEST: (f32, f32) = (3.0, 5.0);

/// A point, x to the right and y down.
pub type Point = [f32; 2];

/// A rectangle at any angle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rect {
    /// Middle.
    pub centre: Point,
    /// Unit vector along the first side; the second is a quarter turn clockwise from it on the screen.
    pub axis: Point,
    /// Lengths of the sides.
    pub sides: [f32; 2],
}

/// A map of probabilities.
pub struct Map<'a> {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Row-major.
    pub data: &'a [f32],
}

impl Rect {
    /// Corners: top left, top right, bottom right, bottom left when the rectangle is upright.
    pub fn corners(&self) -> [Point; 4] {
        let [ax, ay] = self.axis;
        let [w, h] = self.sides.map(|s| s / 2.0);
        let corner = |u: f32, v: f32| [self.centre[0] + ax * u - ay * v, self.centre[1] + ay * u + ax * v];
        [corner(-w, -h), corner(w, -h), corner(w, h), corner(-w, h)]
    }

    fn contains(&self, p: Point) -> bool {
        let d = [p[0] - self.centre[0], p[1] - self.centre[1]];
        let [ax, ay] = self.axis;
        let (u, v) = (d[0] * ax + d[1] * ay, d[1] * ax - d[0] * ay);
        u.abs() <= self.sides[0] / 2.0 + 0.5 && v.abs() <= self.sides[1] / 2.0 + 0.5
    }

    fn shortest(&self) -> f32 {
        self.sides[0].min(self.sides[1])
    }

    /// Grown on every side by `area * UNCLIP / perimeter`.
    fn unclipped(&self) -> Rect {
        let [w, h] = self.sides;
        let by = w * h * UNCLIP / (2.0 * (w + h));
        Rect { sides: self.sides.map(|s| s + 2.0 * by), ..*self }
    }

    /// The same rectangle described so that the first side runs to the right, less than 45 degrees off.
    fn upright(self) -> Rect {
        let [x, y] = self.axis;
        let [w, h] = self.sides;
        let (axis, sides) = if x.abs() >= y.abs() { ([x, y], [w, h]) } else { ([y, -x], [h, w]) };
        let axis = if axis[0] < 0.0 { [-axis[0], -axis[1]] } else { axis };
        Rect { axis, sides, ..self }
    }
}

/// Boxes around text, in pixels of an image of the given size, in reading order.
pub fn boxes(map: &Map, height: usize, width: usize) -> Vec<Rect> {
    let (sx, sy) = (width as f32 / map.width as f32, height as f32 / map.height as f32);
    let mut found = Vec::new();
    for component in components(map) {
        let Some(rect) = smallest_rect(&component) else { continue };
        if rect.shortest() < SHORTEST.0 || score(map, &rect) < BOX_THRESHOLD {
            continue;
        }
        let rect = rect.unclipped();
        if rect.shortest() < SHORTEST.1 {
            continue;
        }
        // The map may be scaled differently along its axes; the corners decide the rectangle in the image.
        let corners = rect.corners().map(|[x, y]| [(x * sx).round(), (y * sy).round()]);
        if let Some(rect) = smallest_rect(&corners).map(Rect::upright)
            && rect.shortest() > 3.0
        {
            found.push(rect);
        }
    }
    in_reading_order(found)
}

/// Pixels of each 8-connected component above the threshold, after dilation by one pixel to the right and down.
fn components(map: &Map) -> Vec<Vec<Point>> {
    let (h, w) = (map.height, map.width);
    let text = |row: usize, column: usize| map.data[row * w + column] > THRESHOLD;
    let dilated = |i: usize| {
        let (row, column) = (i / w, i % w);
        (row.saturating_sub(1)..=row).any(|r| (column.saturating_sub(1)..=column).any(|c| text(r, c)))
    };
    let mask: Vec<bool> = (0..h * w).map(dilated).collect();
    let mut seen = vec![false; h * w];
    let mut all = Vec::new();
    for start in 0..h * w {
        if !mask[start] || seen[start] {
            continue;
        }
        seen[start] = true;
        let mut queue = VecDeque::from([start]);
        let mut component = Vec::new();
        while let Some(i) = queue.pop_front() {
            let (row, column) = (i / w, i % w);
            component.push([column as f32, row as f32]);
            for r in row.saturating_sub(1)..(row + 2).min(h) {
                for c in column.saturating_sub(1)..(column + 2).min(w) {
                    let next = r * w + c;
                    if mask[next] && !seen[next] {
                        seen[next] = true;
                        queue.push_back(next);
                    }
                }
            }
        }
        all.push(component);
    }
    all
}

/// Mean probability inside a rectangle.
fn score(map: &Map, rect: &Rect) -> f32 {
    let corners = rect.corners();
    let span = |axis: usize, n: usize| {
        let low = corners.iter().map(|c| c[axis]).fold(f32::INFINITY, f32::min).floor().clamp(0.0, n as f32 - 1.0);
        let high = corners.iter().map(|c| c[axis]).fold(f32::NEG_INFINITY, f32::max).ceil().clamp(0.0, n as f32 - 1.0);
        low as usize..=high as usize
    };
    let (mut sum, mut count) = (0f64, 0usize);
    for row in span(1, map.height) {
        for column in span(0, map.width) {
            if rect.contains([column as f32, row as f32]) {
                sum += f64::from(map.data[row * map.width + column]);
                count += 1;
            }
        }
    }
    if count == 0 { 0.0 } else { (sum / count as f64) as f32 }
}

/// The rectangle of least area around some points: one of its sides lies on an edge of their convex hull.
fn smallest_rect(points: &[Point]) -> Option<Rect> {
    let hull = convex_hull(points);
    let edges = hull.iter().zip(hull.iter().cycle().skip(1));
    let mut best: Option<Rect> = None;
    for (a, b) in edges {
        let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
        let length = dx.hypot(dy);
        if length == 0.0 {
            continue;
        }
        let [ax, ay] = [dx / length, dy / length];
        let extent = |f: &dyn Fn(&Point) -> f32| {
            let low = hull.iter().map(f).fold(f32::INFINITY, f32::min);
            let high = hull.iter().map(f).fold(f32::NEG_INFINITY, f32::max);
            ((low + high) / 2.0, high - low)
        };
        let (u, w) = extent(&|p| p[0] * ax + p[1] * ay);
        let (v, h) = extent(&|p| p[1] * ax - p[0] * ay);
        let rect = Rect { centre: [u * ax - v * ay, u * ay + v * ax], axis: [ax, ay], sides: [w, h] };
        if best.is_none_or(|b| w * h < b.sides[0] * b.sides[1]) {
            best = Some(rect);
        }
    }
    best
}

/// Andrew's monotone chain.
fn convex_hull(points: &[Point]) -> Vec<Point> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    sorted.dedup();
    let turn = |o: Point, a: Point, b: Point| (a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0]);
    let chain = |points: &mut dyn Iterator<Item = Point>| {
        let mut chain: Vec<Point> = Vec::new();
        for p in points {
            while chain.len() >= 2 && turn(chain[chain.len() - 2], chain[chain.len() - 1], p) <= 0.0 {
                chain.pop();
            }
            chain.push(p);
        }
        chain.pop();
        chain
    };
    let mut hull = chain(&mut sorted.iter().copied());
    hull.extend(chain(&mut sorted.iter().rev().copied()));
    hull
}

/// Lines from top to bottom, boxes of a line from left to right. Boxes whose tops are less than 10 pixels apart are one line.
fn in_reading_order(mut boxes: Vec<Rect>) -> Vec<Rect> {
    const LINE: f32 = 10.0;
    let top = |r: &Rect| r.corners()[0][1];
    boxes.sort_by(|a, b| top(a).total_cmp(&top(b)));
    let mut line = 0;
    let mut keyed = Vec::with_capacity(boxes.len());
    for (i, rect) in boxes.iter().enumerate() {
        if i > 0 && top(rect) - top(&boxes[i - 1]) >= LINE {
            line += 1;
        }
        keyed.push((line, *rect));
    }
    keyed.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.corners()[0][0].total_cmp(&b.1.corners()[0][0])));
    keyed.into_iter().map(|(_, rect)| rect).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: Point, b: Point) -> bool {
        (a[0] - b[0]).abs() < 1e-3 && (a[1] - b[1]).abs() < 1e-3
    }

    #[test]
    fn the_smallest_rectangle_follows_a_tilt() {
        let rect = Rect { centre: [20.0, 12.0], axis: [0.8, 0.6], sides: [15.0, 5.0] };
        let mut points = rect.corners().to_vec();
        points.extend([rect.centre, [21.0, 12.5], [19.0, 11.0]]);
        let found = smallest_rect(&points).unwrap().upright();
        assert!(
            close(found.centre, rect.centre) && close(found.axis, rect.axis) && close(found.sides, rect.sides),
            "{found:?}"
        );
        for (a, b) in found.corners().into_iter().zip(rect.corners()) {
            assert!(close(a, b));
        }
        assert!(smallest_rect(&[[1.0, 1.0]]).is_none());
    }

    #[test]
    fn separate_blobs_become_boxes_in_reading_order() {
        let (height, width) = (40, 60);
        let mut data = vec![0.05f32; height * width];
        let mut fill = |rows: std::ops::Range<usize>, columns: std::ops::Range<usize>, p: f32| {
            for r in rows {
                data[r * width + columns.start..r * width + columns.end].fill(p);
            }
        };
        fill(21..27, 5..25, 0.9);
        fill(4..10, 34..54, 0.9);
        fill(5..11, 3..23, 0.9);
        fill(30..36, 30..50, 0.4); // too faint
        fill(34..35, 3..5, 0.9); // too small
        let found = boxes(&Map { height, width, data: &data }, height * 2, width * 2);
        let centres: Vec<[i32; 2]> = found.iter().map(|r| r.centre.map(|v| v.round() as i32)).collect();
        assert_eq!(centres, [[26, 16], [88, 14], [30, 48]]);
        // 20 x 6 pixels with the dilation; grown by area * 1.6 / perimeter on each side; doubled.
        let by = 20.0 * 6.0 * UNCLIP / (2.0 * 26.0);
        assert!((found[0].sides[0] - 2.0 * (20.0 + 2.0 * by)).abs() <= 2.0, "{:?}", found[0]);
        assert!((found[0].sides[1] - 2.0 * (6.0 + 2.0 * by)).abs() <= 2.0, "{:?}", found[0]);
    }

    #[test]
    fn an_empty_map_has_no_boxes() {
        assert!(boxes(&Map { height: 4, width: 4, data: &[0.0; 16] }, 8, 8).is_empty());
    }
}
