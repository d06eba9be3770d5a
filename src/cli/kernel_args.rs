//! `kiln sim --arg`: what a kernel is called with, as text.

use super::tensors::parse_shape;
use kiln_graph::{DType, Tensor};
use kiln_import::npy;
use kiln_sim::{Arg, Device, Swizzle, TensorMap, TensorType};
use miette::{Context, IntoDiagnostic, Result, miette};
use std::path::{Path, PathBuf};

/// One kernel argument as it was written.
#[derive(Clone, Debug, PartialEq)]
enum Spec {
    Number(Arg),
    /// Passed by its address.
    Array(Array),
    /// Passed as a tensor map.
    Map(Array, Tile),
}

/// Device memory.
#[derive(Clone, Debug, PartialEq)]
enum Array {
    File { dtype: DType, from: PathBuf, to: Option<PathBuf> },
    Fresh { dtype: DType, shape: Vec<usize>, to: PathBuf },
}

/// What a tensor map says beyond its array; extents innermost last.
#[derive(Clone, Debug, PartialEq)]
struct Tile {
    dtype: TensorType,
    extents: Vec<u32>,
    steps: Option<Vec<u32>>,
    swizzle: Swizzle,
    nan_fill: bool,
}

/// An array on the device.
#[derive(Clone)]
struct Placed {
    address: u64,
    dtype: DType,
    shape: Vec<usize>,
    bytes: usize,
}

/// Device memory to be saved after the launch.
pub struct Saved {
    array: Placed,
    to: PathBuf,
}

impl Saved {
    /// Writes what the memory holds now.
    pub fn save(&self, device: &Device) -> Result<()> {
        let mut data = vec![0; self.array.bytes];
        device.download(self.array.address, &mut data).into_diagnostic()?;
        let tensor = Tensor::new(self.array.dtype, self.array.shape.clone(), data.into()).into_diagnostic()?;
        npy::save(&self.to, &tensor).into_diagnostic()
    }
}

impl std::fmt::Display for Saved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{:?} -> {}", self.array.dtype, self.array.shape, self.to.display())
    }
}

/// Puts the memory of all arguments on the device.
pub fn place(device: &Device, args: &[String]) -> Result<(Vec<Arg>, Vec<Saved>)> {
    let specs = args.iter().map(|text| parse_arg(text)).collect::<Result<Vec<_>>>()?;
    let mut saved = Vec::new();
    let values = specs.into_iter().zip(args).map(|(spec, text)| match spec {
        Spec::Number(value) => Ok(value),
        Spec::Array(array) => Ok(Arg::U64(array.place(device, &mut saved)?.address)),
        Spec::Map(array, tile) => {
            let array = array.place(device, &mut saved)?;
            tile.over(&array).wrap_err_with(|| format!("`--arg {text}` over {}{:?}", array.dtype, array.shape))
        }
    });
    Ok((values.collect::<Result<_>>()?, saved))
}

fn parse_arg(text: &str) -> Result<Spec> {
    let parsed = match text.strip_prefix("tma:") {
        Some(map) => parse_map(map),
        None => parse(text),
    };
    parsed.map_err(|why| {
        miette!(
            help = "write `i32:5`, `f32:in.npy`, `out:f32:2x3:out.npy`, `inout:f32:in.npy:out.npy` or `tma:f32:in.npy:box=8x32`",
            "`--arg {text}`: {why}"
        )
    })
}

fn parse(text: &str) -> std::result::Result<Spec, String> {
    let dtype = |name: &str| name.parse::<DType>().map_err(|e| e.to_string());
    let savable = |name: &str| match dtype(name)? {
        dtype if dtype == DType::BF16 || dtype.is_f8() || dtype.bits() == 4 => {
            Err(format!("NumPy has no dtype for {dtype}; name the unsigned integer of its width to move its bits"))
        }
        dtype => Ok(dtype),
    };
    let parts: Vec<&str> = text.splitn(4, ':').collect();
    Ok(match parts[..] {
        ["out", ty, shape, to] => {
            let shape = parse_shape(shape).map_err(|e| e.to_string())?;
            Spec::Array(Array::Fresh { dtype: savable(ty)?, shape, to: to.into() })
        }
        ["inout", ty, from, to] => {
            Spec::Array(Array::File { dtype: savable(ty)?, from: from.into(), to: Some(to.into()) })
        }
        ["out" | "inout", ..] => return Err("parts are missing".into()),
        [ty, value] if value.ends_with(".npy") => {
            Spec::Array(Array::File { dtype: savable(ty)?, from: value.into(), to: None })
        }
        [ty, value] => Spec::Number(number(dtype(ty)?, value)?),
        _ => return Err("not an argument".into()),
    })
}

/// A number passed by value, as the bytes that the parameter holds.
fn number(dtype: DType, text: &str) -> std::result::Result<Arg, String> {
    let Some((min, max)) = dtype.int_range() else {
        let value: f64 = text.parse().map_err(|_| format!("`{text}` is neither a number nor a .npy file"))?;
        // Read at the parameter's own width: rounding by way of f64 would round twice.
        if dtype == DType::F32 {
            return text.parse().map(Arg::F32).map_err(|e| format!("`{text}`: {e}"));
        }
        let tensor = Tensor::from_f64(dtype, &[], &[value]).map_err(|e| e.to_string())?;
        return Ok(Arg::Bytes(tensor.data().to_vec()));
    };
    let value: i128 = text.parse().map_err(|_| format!("`{text}` is neither an integer nor a .npy file"))?;
    if dtype.bits() < 8 || value < min || value > max {
        return Err(format!("{value} is not a value that a {dtype} parameter can hold"));
    }
    Ok(Arg::Bytes(value.to_le_bytes()[..dtype.bits() as usize / 8].to_vec()))
}

/// A tensor map: an array, then options, which are the last parts that have a `=`.
fn parse_map(text: &str) -> std::result::Result<Spec, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let options = parts.iter().rposition(|part| !part.contains('=')).map_or(0, |last| last + 1);
    let Spec::Array(array) = parse(&parts[..options].join(":"))? else {
        return Err("a tensor map is of an array, not of a number".into());
    };
    let (mut extents, mut steps, mut swizzle, mut nan_fill) = (None, None, Swizzle::None, false);
    for option in &parts[options..] {
        match option.split_once('=') {
            Some(("box", value)) => extents = Some(numbers(value)?),
            Some(("step", value)) => steps = Some(numbers(value)?),
            Some(("swizzle", "none")) => swizzle = Swizzle::None,
            Some(("swizzle", "32")) => swizzle = Swizzle::B32,
            Some(("swizzle", "64")) => swizzle = Swizzle::B64,
            Some(("swizzle", "128")) => swizzle = Swizzle::B128,
            Some(("fill", "zero")) => nan_fill = false,
            Some(("fill", "nan")) => nan_fill = true,
            _ => {
                return Err(format!(
                    "`{option}` is not an option; expected box=8x32, step=2x1, swizzle=none|32|64|128 or fill=zero|nan"
                ));
            }
        }
    }
    let extents = extents.ok_or("the box is missing; add for instance `:box=8x32`, innermost extent last")?;
    let dtype = array.map_type()?;
    Ok(Spec::Map(array, Tile { dtype, extents, steps, swizzle, nan_fill }))
}

/// `8x32` as numbers.
fn numbers(text: &str) -> std::result::Result<Vec<u32>, String> {
    let number = |part: &str| part.parse().map_err(|_| format!("`{text}` is not numbers joined by x"));
    text.split('x').map(number).collect()
}

impl Array {
    fn map_type(&self) -> std::result::Result<TensorType, String> {
        let (Array::File { dtype, .. } | Array::Fresh { dtype, .. }) = self;
        Ok(match dtype {
            DType::U8 => TensorType::U8,
            DType::U16 => TensorType::U16,
            DType::U32 => TensorType::U32,
            DType::I32 => TensorType::I32,
            DType::U64 => TensorType::U64,
            DType::I64 => TensorType::I64,
            DType::F16 => TensorType::F16,
            DType::F32 => TensorType::F32,
            DType::F64 => TensorType::F64,
            _ => {
                return Err(format!(
                    "a tensor map cannot hold {dtype}; expected u8, u16, u32, i32, u64, i64, f16, f32 or f64"
                ));
            }
        })
    }

    fn place(self, device: &Device, saved: &mut Vec<Saved>) -> Result<Placed> {
        let (placed, to) = match self {
            Array::File { dtype, from, to } => {
                let tensor = load(dtype, &from)?;
                let bytes = tensor.data().len();
                let address = device.alloc(bytes as u64).into_diagnostic()?;
                device.upload(address, tensor.data()).into_diagnostic()?;
                (Placed { address, dtype, shape: tensor.shape().to_vec(), bytes }, to)
            }
            Array::Fresh { dtype, shape, to } => {
                let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
                let bytes = elements
                    .and_then(|n| dtype.bytes_for(n))
                    .ok_or_else(|| miette!("{}: {dtype}{shape:?} is too large", to.display()))?;
                // The device fills what it allocates with NaNs, so a value that the kernel leaves out shows.
                let address = device.alloc(bytes as u64).into_diagnostic()?;
                (Placed { address, dtype, shape, bytes }, Some(to))
            }
        };
        if let Some(to) = to {
            saved.push(Saved { array: placed.clone(), to });
        }
        Ok(placed)
    }
}

impl Tile {
    /// The tensor map of an array whose elements lie one after another.
    fn over(&self, array: &Placed) -> Result<Arg> {
        let rank = array.shape.len();
        let innermost_first = |what: &str, list: &[u32]| {
            if list.len() == rank {
                Ok(list.iter().rev().copied().collect::<Vec<u32>>())
            } else {
                Err(miette!("{what} has {} numbers, the array {rank} dimensions", list.len()))
            }
        };
        let element_strides =
            self.steps.as_ref().map(|s| innermost_first("`step`", s)).transpose()?.unwrap_or_default();
        if let Some(step) = element_strides.first().filter(|step| **step != 1) {
            return Err(miette!("the innermost element stride is {step}; the hardware has none, expected 1"));
        }
        let dims: Vec<u64> = array.shape.iter().rev().map(|d| *d as u64).collect();
        let strides = dims.iter().scan(u64::from(self.dtype.bytes()), |bytes, dim| {
            *bytes = bytes.saturating_mul(*dim);
            Some(*bytes)
        });
        let map = TensorMap {
            dtype: self.dtype,
            address: array.address,
            strides: strides.take(rank.saturating_sub(1)).collect(),
            dims,
            box_dims: innermost_first("`box`", &self.extents)?,
            element_strides,
            swizzle: self.swizzle,
            nan_fill: self.nan_fill,
        };
        Ok(Arg::Bytes(map.encode().into_diagnostic()?.to_vec()))
    }
}

fn load(dtype: DType, path: &Path) -> Result<Tensor> {
    let tensor = npy::load(path).into_diagnostic()?;
    if tensor.dtype() != dtype {
        return Err(miette!("{}: holds {}, the argument says {dtype}", path.display(), tensor.dtype()));
    }
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_as_written() {
        assert_eq!(parse_arg("i32:-5").unwrap(), Spec::Number(Arg::Bytes((-5i32).to_le_bytes().to_vec())));
        assert_eq!(parse_arg("u64:18446744073709551615").unwrap(), Spec::Number(Arg::Bytes(vec![0xff; 8])));
        assert_eq!(parse_arg("f32:0.1").unwrap(), Spec::Number(Arg::F32(0.1)));
        assert_eq!(parse_arg("f16:-2").unwrap(), Spec::Number(Arg::Bytes(vec![0x00, 0xc0])));
        assert_eq!(
            parse_arg("out:f16:2x3:a:b.npy").unwrap(),
            Spec::Array(Array::Fresh { dtype: DType::F16, shape: vec![2, 3], to: "a:b.npy".into() })
        );
        assert_eq!(
            parse_arg("inout:u8:a.npy:b.npy").unwrap(),
            Spec::Array(Array::File { dtype: DType::U8, from: "a.npy".into(), to: Some("b.npy".into()) })
        );
        let tile = Tile {
            dtype: TensorType::F16,
            extents: vec![64, 32],
            steps: None,
            swizzle: Swizzle::None,
            nan_fill: false,
        };
        let from = || Array::File { dtype: DType::F16, from: "a.npy".into(), to: None };
        assert_eq!(parse_arg("tma:f16:a.npy:box=64x32").unwrap(), Spec::Map(from(), tile.clone()));
        assert_eq!(
            parse_arg("tma:f16:a.npy:step=2x1:fill=nan:box=64x32:swizzle=64").unwrap(),
            Spec::Map(from(), Tile { steps: Some(vec![2, 1]), swizzle: Swizzle::B64, nan_fill: true, ..tile.clone() })
        );
        assert_eq!(
            parse_arg("tma:out:f16:2x3:a=b:c.npy:box=64x32").unwrap(),
            Spec::Map(Array::Fresh { dtype: DType::F16, shape: vec![2, 3], to: "a=b:c.npy".into() }, tile)
        );
        for wrong in [
            "",
            "5",
            "i32:",
            "i32:2147483648",
            "u8:-1",
            "i32:1.5",
            "i4:1",
            "q7:1",
            "out:f32:2x3",
            "bf16:a.npy",
            "out:bf16:2:a.npy",
            "tma:f32:5:box=4",
            "tma:f32:a.npy",
            "tma:f32:a.npy:box=",
            "tma:f32:a.npy:box=4:swizzle=96",
            "tma:f32:a.npy:box=4:b.npy",
            "tma:i16:a.npy:box=4",
        ] {
            assert!(parse_arg(wrong).is_err(), "{wrong}");
        }
    }
}
