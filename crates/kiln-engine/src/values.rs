//! Elements of tensors as numbers that people and scripts read. Integers stay integers.

use kiln_graph::{DType, Tensor};
use serde::{Serialize, Serializer};
use std::fmt;

/// One element, exactly. Its JSON is a number, or `"NaN"`, `"inf"`, `"-inf"`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// Of an integer or bool tensor.
    Int(i128),
    /// Of a float of 32 bits or fewer.
    F32(f32),
    /// Of an f64.
    F64(f64),
}

impl Number {
    /// The nearest f64.
    pub fn to_f64(self) -> f64 {
        match self {
            Number::Int(v) => v as f64,
            Number::F32(v) => v.into(),
            Number::F64(v) => v,
        }
    }

    /// As [`fmt::Display`] for integers; a few digits of a float.
    pub fn brief(self) -> String {
        let v = self.to_f64();
        match self {
            Number::Int(v) => v.to_string(),
            _ if v == 0.0 || !v.is_finite() || (1e-4..1e9).contains(&v.abs()) => format!("{v:.6}"),
            _ => format!("{v:.6e}"),
        }
    }
}

impl Default for Number {
    fn default() -> Number {
        Number::Int(0)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Number::Int(v) => v.fmt(f),
            Number::F32(v) => v.fmt(f),
            Number::F64(v) => v.fmt(f),
        }
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match *self {
            Number::Int(v) => match (i64::try_from(v), u64::try_from(v)) {
                (Ok(v), _) => s.serialize_i64(v),
                (_, Ok(v)) => s.serialize_u64(v),
                _ => s.serialize_i128(v),
            },
            Number::F32(v) if v.is_finite() => s.serialize_f32(v),
            Number::F64(v) if v.is_finite() => s.serialize_f64(v),
            _ => s.collect_str(self),
        }
    }
}

/// Elements converted at once: even, so that 4-bit integers divide between bytes.
const CHUNK: usize = 1 << 12;

/// The elements of a tensor in row-major order. No copy of the tensor is made.
pub fn numbers(tensor: &Tensor) -> impl Iterator<Item = Number> {
    let (dtype, len) = (tensor.dtype(), tensor.len());
    (0..len).step_by(CHUNK).flat_map(move |from| {
        let n = CHUNK.min(len - from);
        // Neither is more than the tensor has.
        let [start, end] = [from, from + n].map(|at| dtype.bytes_for(at).unwrap_or_default());
        match Tensor::new(dtype, vec![n], tensor.data().slice(start..end)) {
            Ok(chunk) => convert(&chunk),
            Err(_) => Vec::new(),
        }
    })
}

fn convert(tensor: &Tensor) -> Vec<Number> {
    if let Some(ints) = tensor.to_i128_vec() {
        return ints.into_iter().map(Number::Int).collect();
    }
    let float = |v: f64| if tensor.dtype() == DType::F64 { Number::F64(v) } else { Number::F32(v as f32) };
    tensor.to_f64_vec().into_iter().map(float).collect()
}

/// What is in a tensor, in a few numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// Smallest finite element; none where no element is finite.
    pub min: Option<Number>,
    /// Largest finite element.
    pub max: Option<Number>,
    /// Mean of the finite elements, summed in f64 (integers exactly).
    pub mean: Option<f64>,
    /// Elements that are NaN.
    pub nan: usize,
    /// Elements that are infinite.
    pub infinite: usize,
}

impl Statistics {
    /// Looks at every element once.
    pub fn of(tensor: &Tensor) -> Statistics {
        let mut s = Statistics::default();
        let (mut count, mut ints, mut floats) = (0usize, 0i128, 0f64);
        for number in numbers(tensor) {
            let v = number.to_f64();
            if !v.is_finite() {
                *(if v.is_nan() { &mut s.nan } else { &mut s.infinite }) += 1;
                continue;
            }
            count += 1;
            match number {
                Number::Int(v) => ints += v,
                _ => floats += v,
            }
            let less = |a: Number, b: Number| match (a, b) {
                (Number::Int(a), Number::Int(b)) => a < b,
                _ => a.to_f64() < b.to_f64(),
            };
            s.min = Some(s.min.filter(|&min| !less(number, min)).unwrap_or(number));
            s.max = Some(s.max.filter(|&max| !less(max, number)).unwrap_or(number));
        }
        s.mean = (count > 0).then(|| (ints as f64 + floats) / count as f64);
        s
    }
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let (Some(min), Some(max), Some(mean)) = (self.min, self.max, self.mean) {
            parts.push(format!("min {}, max {}, mean {}", min.brief(), max.brief(), Number::F64(mean).brief()));
        }
        if self.nan > 0 {
            parts.push(format!("{} NaN", self.nan));
        }
        if self.infinite > 0 {
            parts.push(format!("{} infinite", self.infinite));
        }
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json<T: Serialize>(value: &T) -> String {
        serde_json::to_string(value).unwrap()
    }

    #[test]
    fn integers_of_any_size_stay_integers() {
        let t = Tensor::from_slice(&[4], &[i64::MIN, -1, (1 << 53) + 1, i64::MAX]).unwrap();
        let all: Vec<Number> = numbers(&t).collect();
        let text = "-9223372036854775808,-1,9007199254740993,9223372036854775807";
        assert_eq!(all.iter().map(Number::to_string).collect::<Vec<_>>().join(","), text);
        assert_eq!(json(&all), format!("[{text}]"));
        assert_eq!(all[2].brief(), "9007199254740993");
        let s = Statistics::of(&t);
        assert_eq!((s.min, s.max), (Some(all[0]), Some(all[3])));
        assert_eq!(s.mean, Some(((1i64 << 53) - 1) as f64 / 4.0));
        assert_eq!(json(&numbers(&Tensor::scalar(u64::MAX)).collect::<Vec<_>>()), "[18446744073709551615]");
        assert_eq!(json(&numbers(&Tensor::from_slice(&[2], &[true, false]).unwrap()).collect::<Vec<_>>()), "[1,0]");
    }

    #[test]
    fn floats_print_their_shortest_digits_and_what_is_not_finite_is_counted() {
        let t = Tensor::from_slice(&[5], &[0.1f32, f32::NAN, -2.5, f32::INFINITY, f32::NEG_INFINITY]).unwrap();
        let all: Vec<Number> = numbers(&t).collect();
        assert_eq!(json(&all), r#"[0.1,"NaN",-2.5,"inf","-inf"]"#);
        let s = Statistics::of(&t);
        assert_eq!((s.min, s.max, s.nan, s.infinite), (Some(all[2]), Some(all[0]), 1, 2));
        assert_eq!(s.mean, Some((f64::from(0.1f32) - 2.5) / 2.0));
        assert_eq!(s.to_string(), "min -2.500000, max 0.100000, mean -1.200000, 1 NaN, 2 infinite");
        assert_eq!(Number::F64(-3.0e-9).brief(), "-3.000000e-9");
        assert_eq!(Statistics::of(&Tensor::from_slice::<f32>(&[0], &[]).unwrap()), Statistics::default());
    }

    #[test]
    fn chunks_join_without_a_gap_for_every_width() {
        for dtype in DType::ALL {
            let t = Tensor::random(dtype, &[3, CHUNK - 5], 4).unwrap();
            let values: Vec<f64> = numbers(&t).map(Number::to_f64).collect();
            assert_eq!(values, t.to_f64_vec(), "{dtype}");
        }
    }
}
