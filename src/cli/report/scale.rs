//! Logarithmic axes, and figures for people.

/// A logarithmic axis: values from `low` to `high` lie between two places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Log {
    pub low: f64,
    pub high: f64,
    places: (f64, f64),
}

/// Marks of a decade.
const MARKS: [f64; 3] = [1.0, 2.0, 5.0];
/// Above this many decades only powers of ten have a mark; and of powers of ten no more than twice as many have one.
const FEW: i32 = 4;

impl Log {
    /// An axis that has room for all of these that are positive and finite, from a mark to a mark; none if there are none.
    pub fn over(values: impl IntoIterator<Item = f64>, places: (f64, f64)) -> Option<Log> {
        let positive = values.into_iter().filter(|value| value.is_normal() && *value > 0.0);
        let (low, high) = positive.fold((f64::MAX, 0.0f64), |(low, high), value| (low.min(value), high.max(value)));
        if high == 0.0 {
            return None;
        }
        let marks = |around: f64| {
            let decade = around.log10().floor() as i32;
            (decade - 1..=decade + 1).flat_map(|decade| MARKS.map(|mark| mark * 10f64.powi(decade)))
        };
        let below = marks(low).filter(|mark| *mark <= low).fold(0.0, f64::max);
        let above = marks(high).filter(|mark| *mark >= high).fold(f64::MAX, f64::min);
        // One value has room on both sides.
        let (low, high) = if below < above { (below, above) } else { (below / 2.0, above * 2.0) };
        Some(Log { low, high, places })
    }

    /// The place of a value; those outside have the place of the end.
    pub fn at(&self, value: f64) -> f64 {
        let [low, high, value] = [self.low, self.high, value.clamp(self.low, self.high)].map(f64::ln);
        let share = (value - low) / (high - low);
        self.places.0 + share * (self.places.1 - self.places.0)
    }

    /// Values with a mark, in order.
    pub fn ticks(&self) -> Vec<f64> {
        // What a power of ten lacks to itself is no reason to leave it out.
        let inside = |value: &f64| (self.low * (1.0 - 1e-9)..=self.high * (1.0 + 1e-9)).contains(value);
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let marks: &[f64] = if last - first <= FEW { &MARKS } else { &MARKS[..1] };
        let every = 1 + (last - first) / (2 * FEW + 1);
        let decades = (first..=last).filter(|decade| decade.rem_euclid(every) == 0);
        decades.flat_map(|decade| marks.iter().map(move |mark| mark * 10f64.powi(decade))).filter(inside).collect()
    }
}

const PREFIXES: [(f64, &str); 9] =
    [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")];

/// Three digits with a decimal prefix: `4.25 µs`.
pub fn si(value: f64, unit: &str) -> String {
    let (scaled, prefix) = prefixed(value);
    let digits = if scaled.abs() >= 99.95 { 0 } else { usize::from(scaled.abs() < 9.995) + 1 };
    format!("{scaled:.digits$} {prefix}{unit}").trim_end().to_owned()
}

/// A mark, which has one digit: with a decimal prefix where it has a unit.
pub fn mark(value: f64, unit: &str) -> String {
    let (scaled, prefix) = if unit.is_empty() { (value, "") } else { prefixed(value) };
    let digits = (-scaled.log10()).ceil().clamp(0.0, 12.0) as usize;
    format!("{scaled:.digits$} {prefix}{unit}").trim_end().to_owned()
}

fn prefixed(value: f64) -> (f64, &'static str) {
    // What would be rounded to the next prefix has it.
    let prefix = PREFIXES.iter().find(|(scale, _)| value.abs() >= scale * 0.9995).unwrap_or(&PREFIXES[8]);
    if value == 0.0 { (0.0, "") } else { (value / prefix.0, prefix.1) }
}

/// Operations a second that memory of this bandwidth and units of this rate allow at so many operations a byte.
pub fn roof(intensity: f64, bandwidth: f64, peak: f64) -> f64 {
    (intensity * bandwidth).min(peak)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_reach_from_mark_to_mark_and_decades_are_equally_far() {
        let axis = Log::over([3e-6, 0.0, f64::NAN, -1.0, 4.7e-5, f64::INFINITY], (100.0, 500.0)).unwrap();
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-9;
        assert!(near(axis.low, 2e-6) && near(axis.high, 5e-5), "{axis:?}");
        assert!((axis.at(2e-6) - 100.0).abs() < 1e-6 && (axis.at(5e-5) - 500.0).abs() < 1e-6);
        assert!(near(axis.at(2e-5) - axis.at(2e-6), axis.at(4e-5) - axis.at(4e-6)));
        // What lies outside stays in the picture.
        assert_eq!((axis.at(0.0), axis.at(1.0)), (axis.at(2e-6), axis.at(5e-5)));
        let ticks = axis.ticks();
        assert!(ticks.len() == 5 && ticks.iter().zip([2e-6, 5e-6, 1e-5, 2e-5, 5e-5]).all(|(a, b)| near(*a, b)));
        // Upward on a screen.
        let up = Log::over([1.0, 1e3], (300.0, 0.0)).unwrap();
        assert!((up.at(10.0) - 200.0).abs() < 1e-9);
    }

    #[test]
    fn any_values_have_an_axis_with_few_marks() {
        assert_eq!(Log::over([0.0, -3.0, f64::NAN], (0.0, 1.0)), None);
        let one = Log::over([10.0], (0.0, 100.0)).unwrap();
        assert!(one.low < 10.0 && one.high > 10.0);
        let mut rng = kiln_graph::Rng::new(11);
        for _ in 0..2000 {
            let values: Vec<f64> = (0..3).map(|_| 10f64.powf(40.0 * rng.signed())).collect();
            let axis = Log::over(values.iter().copied(), (0.0, 100.0)).unwrap();
            assert!(values.iter().all(|value| (axis.low..=axis.high).contains(value)), "{values:?} {axis:?}");
            let ticks = axis.ticks();
            assert!(ticks.is_sorted() && (1..=16).contains(&ticks.len()), "{axis:?} {ticks:?}");
            let places: Vec<f64> = ticks.iter().map(|tick| axis.at(*tick)).collect();
            assert!(places.is_sorted() && places.iter().all(|place| (-1e-6..=100.0 + 1e-6).contains(place)));
        }
    }

    #[test]
    fn figures_have_three_digits_and_a_prefix() {
        for (value, text) in [
            (4.25e-6, "4.25 µs"),
            (9.996e-6, "10.0 µs"),
            (9.9996e-4, "1.00 ms"),
            (123.4e-6, "123 µs"),
            (0.0, "0.00 s"),
            (2.5, "2.50 s"),
            (3.2e-10, "0.32 ns"),
        ] {
            assert_eq!(si(value, "s"), text, "{value}");
        }
        let marks = [mark(5e-7, "s"), mark(2e12, "FLOP/s"), mark(0.02, ""), mark(1e3, "")];
        assert_eq!(marks, ["500 ns", "2 TFLOP/s", "0.02", "1000"]);
    }

    #[test]
    fn the_roof_is_memory_s_up_to_the_ridge_and_flat_beyond() {
        let (bandwidth, peak) = (4.8e12, 989e12);
        let ridge = peak / bandwidth;
        assert!((roof(ridge / 4.0, bandwidth, peak) / peak - 0.25).abs() < 1e-12);
        assert_eq!([roof(ridge * 2.0, bandwidth, peak), roof(1e9, bandwidth, peak)], [peak; 2]);
    }
}
