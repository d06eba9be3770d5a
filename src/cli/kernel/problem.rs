//! What `kiln kernel` makes kernels of: small graphs of the builder's functions, each fused into one region.

use kiln_fuse::{Anchor, Options, Region, fuse};
use kiln_graph::{Builder, ConvSpec, DType, Dim, EinsumSpec, Op, ValueId};
use kiln_kernels::families::{self, Built, Offer, Subject};
use kiln_target::{Gpu, Target};
use kiln_tile::ir;
use miette::{IntoDiagnostic, Result, miette};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Sizes of a problem. Those left out are samples.
#[derive(clap::Args, Clone, Debug)]
pub struct Sizes {
    /// Rows of a matrix product.
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    m: Option<u32>,
    /// Columns of a matrix product.
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    n: Option<u32>,
    /// Depth of a matrix product.
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    k: Option<u32>,
    /// Matrix products, or sequences of an attention.
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    batch: Option<u32>,
    /// Groups of rows that have a matrix each.
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    groups: Option<u32>,
    /// Rows.
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    rows: Option<u32>,
    /// Elements of a row.
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    cols: Option<u32>,
    /// Query heads.
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    heads: Option<u32>,
    /// Key heads; as many as query heads unless given.
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    kv_heads: Option<u32>,
    /// Queries of a sequence.
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    queries: Option<u32>,
    /// Keys of a sequence; as many as queries unless given.
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    keys: Option<u32>,
    /// Elements of a head.
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    dim: Option<u32>,
    /// Queries do not see the keys after them.
    #[arg(long)]
    causal: bool,
}

fn at_least_one() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}

impl Sizes {
    /// By the name of the option.
    fn given(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let Sizes { m, n, k, batch, groups, rows, cols, heads, kv_heads, queries, keys, dim, causal } = self;
        let all = [
            ("m", *m),
            ("n", *n),
            ("k", *k),
            ("batch", *batch),
            ("groups", *groups),
            ("rows", *rows),
            ("cols", *cols),
            ("heads", *heads),
            ("kv-heads", *kv_heads),
            ("queries", *queries),
            ("keys", *keys),
            ("dim", *dim),
            ("causal", causal.then_some(1)),
        ];
        all.into_iter().filter_map(|(name, size)| Some((name, size?)))
    }
}

/// What elements of operands are: of a type, or f32 that products may round to TF32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    pub dtype: DType,
    pub tf32: bool,
}

impl Element {
    const TF32: Element = Element { dtype: DType::F32, tf32: true };

    pub const fn of(dtype: DType) -> Element {
        Element { dtype, tf32: false }
    }

    fn all() -> impl Iterator<Item = Element> {
        DType::ALL.into_iter().map(Element::of).chain([Element::TF32])
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tf32 { "tf32" } else { self.dtype.name() })
    }
}

impl Serialize for Element {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Element {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Element, String> {
        match text {
            "tf32" => Ok(Element::TF32),
            _ => text.parse::<DType>().map(Element::of).map_err(|e| format!("{e}, and `tf32`")),
        }
    }
}

/// A size that is not given.
#[derive(Clone, Copy)]
enum Sample {
    Is(u32),
    /// As another, which stands before it.
    As(&'static str),
}

/// Every size of a problem, by the name of its option.
pub type Extents = BTreeMap<&'static str, u32>;

/// Something to compute.
pub struct Problem {
    /// Which family makes it.
    pub family: &'static str,
    /// What it is called.
    pub op: &'static str,
    /// What it computes, and of which shapes.
    pub text: &'static str,
    sizes: &'static [(&'static str, Sample)],
    /// Operations of contractions; 0 where there are none.
    matrix_ops: fn(&Extents) -> f64,
    build: fn(&mut Builder, DType, &Extents) -> kiln_graph::Result<ValueId>,
}

const ROWS: &[(&str, Sample)] = &[("rows", Sample::Is(64)), ("cols", Sample::Is(1024))];
const PRODUCT: &[(&str, Sample)] =
    &[("m", Sample::Is(256)), ("n", Sample::Is(256)), ("k", Sample::Is(256)), ("batch", Sample::Is(1))];
const GROUPED: &[(&str, Sample)] =
    &[("m", Sample::Is(256)), ("n", Sample::Is(256)), ("k", Sample::Is(256)), ("groups", Sample::Is(4))];
const IMAGES: &[(&str, Sample)] = &[
    ("batch", Sample::Is(1)),
    ("rows", Sample::Is(14)),
    ("cols", Sample::Is(14)),
    ("k", Sample::Is(64)),
    ("n", Sample::Is(64)),
    ("dim", Sample::Is(3)),
];
const CHANNELS: &[(&str, Sample)] = &[
    ("batch", Sample::Is(1)),
    ("rows", Sample::Is(14)),
    ("cols", Sample::Is(14)),
    ("k", Sample::Is(64)),
    ("dim", Sample::Is(3)),
];
const ATTENTION: &[(&str, Sample)] = &[
    ("batch", Sample::Is(1)),
    ("heads", Sample::Is(2)),
    ("kv-heads", Sample::As("heads")),
    ("queries", Sample::Is(128)),
    ("keys", Sample::As("queries")),
    ("dim", Sample::Is(64)),
    ("causal", Sample::Is(0)),
];

/// All problems; of a family's the first is the one that its name alone means.
pub const PROBLEMS: [Problem; 11] = [
    Problem {
        family: "map",
        op: "geglu",
        text: "gelu(x[rows, cols]) * y[rows, cols]",
        sizes: ROWS,
        matrix_ops: |_| 0.0,
        build: |b, dtype, size| {
            let [x, y] = ["x", "y"].map(|name| input(b, name, dtype, size, &["rows", "cols"]));
            let x = b.gelu(x?)?;
            b.mul(x, y?)
        },
    },
    Problem {
        family: "map",
        op: "add",
        text: "x[rows, cols] + y[rows, cols]",
        sizes: ROWS,
        matrix_ops: |_| 0.0,
        build: |b, dtype, size| {
            let [x, y] = ["x", "y"].map(|name| input(b, name, dtype, size, &["rows", "cols"]));
            b.plus(x?, y?)
        },
    },
    Problem {
        family: "rows",
        op: "softmax",
        text: "softmax(x[rows, cols]) along cols",
        sizes: ROWS,
        matrix_ops: |_| 0.0,
        build: |b, dtype, size| {
            let x = input(b, "x", dtype, size, &["rows", "cols"])?;
            b.softmax(x, -1)
        },
    },
    Problem {
        family: "rows",
        op: "layer_norm",
        text: "layer_norm(x[rows, cols]) * scale[cols] + bias[cols]",
        sizes: ROWS,
        matrix_ops: |_| 0.0,
        build: |b, dtype, size| {
            let x = input(b, "x", dtype, size, &["rows", "cols"])?;
            let [scale, bias] = ["scale", "bias"].map(|name| input(b, name, dtype, size, &["cols"]));
            b.layer_norm(x, -1, Some(scale?), Some(bias?), 1e-5)
        },
    },
    Problem {
        family: "rows",
        op: "rms_norm",
        text: "rms_norm(x[rows, cols]) * scale[cols]",
        sizes: ROWS,
        matrix_ops: |_| 0.0,
        build: |b, dtype, size| {
            let x = input(b, "x", dtype, size, &["rows", "cols"])?;
            let scale = input(b, "scale", dtype, size, &["cols"])?;
            b.rms_norm(x, -1, Some(scale), 1e-5)
        },
    },
    Problem {
        family: "gemm",
        op: "matmul",
        text: "x[batch, m, k] w[batch, k, n]; products of 8-bit floats are bf16, of integers i32",
        sizes: PRODUCT,
        matrix_ops: product_ops,
        build: |b, dtype, size| product(b, dtype, size, false),
    },
    Problem {
        family: "gemm",
        op: "linear",
        text: "x[batch, m, k] w[batch, n, k]^T; products of 8-bit floats are bf16, of integers i32",
        sizes: PRODUCT,
        matrix_ops: product_ops,
        build: |b, dtype, size| product(b, dtype, size, true),
    },
    Problem {
        family: "gemm",
        op: "grouped",
        text: "x[m, k] w[groups, k, n] by groups of as many rows; products of 8-bit floats are bf16, of integers i32",
        sizes: GROUPED,
        matrix_ops: |size| ["m", "n", "k"].iter().map(|name| f64::from(size[name])).product::<f64>() * 2.0,
        build: |b, dtype, size| {
            let (x, w) = (input(b, "x", dtype, size, &["m", "k"])?, input(b, "w", dtype, size, &["groups", "k", "n"])?);
            let ends = input(b, "ends", DType::I32, size, &["groups"])?;
            let op = Op::GroupedMatmul { transposed: false, acc: dtype.accumulator(), out: stored(dtype) };
            b.add1(op, &[x, w, ends])
        },
    },
    Problem {
        family: "conv",
        op: "conv",
        text: "x[batch, rows, cols, k] * w[n, dim, dim, k], padded; products of 8-bit floats are bf16, of integers i32",
        sizes: IMAGES,
        matrix_ops: |size| convolution_ops(size) * f64::from(size["k"]) * f64::from(size["n"]),
        build: |b, dtype, size| {
            let w = input(b, "w", dtype, size, &["n", "dim", "dim", "k"])?;
            let w = b.transpose(w, &[0, 3, 1, 2])?;
            convolution(b, dtype, size, w, 1)
        },
    },
    Problem {
        family: "conv_direct",
        op: "depthwise",
        text: "x[batch, rows, cols, k] * w[k, dim, dim], padded; products of 8-bit floats are bf16, of integers i32",
        sizes: CHANNELS,
        matrix_ops: |size| convolution_ops(size) * f64::from(size["k"]),
        build: |b, dtype, size| {
            let [k, dim] = ["k", "dim"].map(|name| Dim::from(size[name] as usize));
            let w = b.input("w", dtype, &[k, Dim::from(1), dim.clone(), dim])?;
            convolution(b, dtype, size, w, size["k"] as usize)
        },
    },
    Problem {
        family: "attention",
        op: "attention",
        text: "softmax(q[batch, heads, queries, dim] k[batch, kv-heads, keys, dim]^T / sqrt(dim)) v[batch, kv-heads, keys, dim]",
        sizes: ATTENTION,
        matrix_ops: |size| {
            let [batch, heads, dim] = ["batch", "heads", "dim"].map(|name| f64::from(size[name]));
            4.0 * batch * heads * dim * seen(size)
        },
        build: |b, dtype, size| {
            let q = input(b, "q", dtype, size, &["batch", "heads", "queries", "dim"])?;
            let [k, v] = ["k", "v"].map(|name| input(b, name, dtype, size, &["batch", "kv-heads", "keys", "dim"]));
            let offset = (size["causal"] > 0).then(|| Dim::from(diagonal(size) as usize));
            b.attention(q, k?, v?, None, None, offset.as_ref())
        },
    },
];

/// An input whose extents are the sizes of those names.
fn input(b: &mut Builder, name: &str, dtype: DType, size: &Extents, axes: &[&str]) -> kiln_graph::Result<ValueId> {
    let shape: Vec<Dim> = axes.iter().map(|axis| Dim::from(size[axis] as usize)).collect();
    b.input(name, dtype, &shape)
}

/// One product, or a batch of more.
fn product(b: &mut Builder, dtype: DType, size: &Extents, transposed: bool) -> kiln_graph::Result<ValueId> {
    let axes: &[&str] = if size["batch"] > 1 { &["batch"] } else { &[] };
    let right = if transposed { ["n", "k"] } else { ["k", "n"] };
    let x = input(b, "x", dtype, size, &[axes, &["m", "k"]].concat())?;
    let w = input(b, "w", dtype, size, &[axes, &right].concat())?;
    let labels = |last: [&str; 2]| [axes, &last].concat().iter().filter_map(|axis| axis.chars().next()).collect();
    let spec = EinsumSpec { lhs: labels(["m", "k"]), rhs: labels(right), out: labels(["m", "n"]) };
    b.contract(spec, x, w, dtype.accumulator(), stored(dtype))
}

/// A convolution of images whose channels lie side by side, as do those of the result; padding keeps the size of what has an odd number of taps.
fn convolution(
    b: &mut Builder,
    dtype: DType,
    size: &Extents,
    w: ValueId,
    groups: usize,
) -> kiln_graph::Result<ValueId> {
    let x = input(b, "x", dtype, size, &["batch", "rows", "cols", "k"])?;
    let x = b.transpose(x, &[0, 3, 1, 2])?;
    let pad = size["dim"] as usize / 2;
    let spec = ConvSpec { strides: vec![1; 2], pads: vec![(pad, pad); 2], dilations: vec![1; 2], groups };
    let y = b.conv_as(x, w, spec, dtype.accumulator(), stored(dtype))?;
    b.transpose(y, &[0, 2, 3, 1])
}

/// Operations of a convolution, of one channel by one filter.
fn convolution_ops(size: &Extents) -> f64 {
    let [batch, rows, cols, dim] = ["batch", "rows", "cols", "dim"].map(|name| f64::from(size[name]));
    // An even number of taps makes one more place.
    let more = 1.0 - dim % 2.0;
    2.0 * batch * (rows + more) * (cols + more) * dim * dim
}

/// The type of a product's result.
fn stored(dtype: DType) -> DType {
    match dtype {
        dtype if dtype.is_f8() => DType::BF16,
        dtype if dtype.is_float() => dtype,
        dtype => dtype.accumulator(),
    }
}

fn product_ops(size: &Extents) -> f64 {
    ["m", "n", "k", "batch"].iter().map(|name| f64::from(size[name])).product::<f64>() * 2.0
}

/// By how many keys a causal attention's diagonal is moved, so that the last query sees all.
fn diagonal(size: &Extents) -> u32 {
    size["keys"].saturating_sub(size["queries"])
}

/// Pairs of a query and a key that it sees.
fn seen(size: &Extents) -> f64 {
    let [queries, keys] = ["queries", "keys"].map(|name| f64::from(size[name]));
    if size["causal"] == 0 {
        return queries * keys;
    }
    // Rows grow by one from `first` until they see all keys.
    let first = f64::from(diagonal(size)) + 1.0;
    let growing = queries.min(keys - first + 1.0);
    growing * first + growing * (growing - 1.0) / 2.0 + (queries - growing) * keys
}

/// The problems of a family that exists.
///
/// # Errors
/// No family or problem of that name: those that are there.
pub fn find(family: &str, op: Option<&str>) -> Result<&'static Problem> {
    let of: Vec<&Problem> = PROBLEMS.iter().filter(|problem| problem.family == family).collect();
    if of.is_empty() || !families::names().any(|name| name == family) {
        let there: Vec<&str> = families::names().collect();
        return Err(miette!("no kernel family is called `{family}`; there are {}", there.join(", ")));
    }
    let wanted = |problem: &&&Problem| op.is_none_or(|op| problem.op == op);
    of.iter().find(wanted).copied().ok_or_else(|| {
        let there: Vec<&str> = of.iter().map(|problem| problem.op).collect();
        miette!("`{family}` has no `--op {}`; there are {}", op.unwrap_or_default(), there.join(", "))
    })
}

impl Problem {
    /// The names of its sizes.
    pub fn sizes(&self) -> impl Iterator<Item = &'static str> {
        self.sizes.iter().map(|(name, _)| *name)
    }

    /// Its sizes where nothing is given.
    pub fn samples(&self) -> Extents {
        self.completed(Extents::new())
    }

    /// The sizes that are given, and samples of the rest.
    ///
    /// # Errors
    /// A size that it has not.
    pub fn extents(&self, given: &Sizes) -> Result<Extents> {
        if let Some((name, _)) = given.given().find(|(name, _)| !self.sizes().any(|known| known == *name)) {
            let known: Vec<String> = self.sizes().map(|name| format!("--{name}")).collect();
            return Err(miette!("`{}` has no `--{name}`; its sizes are {}", self.op, known.join(", ")));
        }
        Ok(self.completed(given.given().collect()))
    }

    fn completed(&self, mut sizes: Extents) -> Extents {
        for (name, sample) in self.sizes {
            let size = match sample {
                Sample::Is(size) => *size,
                Sample::As(other) => sizes[other],
            };
            sizes.entry(name).or_insert(size);
        }
        sizes
    }

    /// Operations of its contractions.
    pub fn matrix_ops(&self, size: &Extents) -> f64 {
        (self.matrix_ops)(size)
    }

    /// The region that fusion makes of it.
    ///
    /// # Errors
    /// Types that it is not defined on; sizes that fusion makes several kernels of.
    fn region(&self, dtype: DType, size: &Extents, gpu: &Gpu) -> Result<Region> {
        let mut b = Builder::new(self.op);
        let y = (self.build)(&mut b, dtype, size).into_diagnostic()?;
        b.output("y", y);
        if self.family.starts_with("conv") {
            // Which way images lie the problem says, not fusion.
            let (name, summary) = (self.op.to_owned(), self.text.to_owned());
            return Ok(Region { name, summary, anchor: Anchor::Conv, graph: b.finish() });
        }
        let fused = fuse(&b.finish(), &Options::new(Target::Gpu(gpu.clone()))).into_diagnostic()?;
        let [region] = <[Region; 1]>::try_from(fused.plan.regions).map_err(|regions| {
            let parts: Vec<&str> = regions.iter().map(|region| region.summary.as_str()).collect();
            miette!("fusion makes {} kernels of it: {}", parts.len(), parts.join("; "))
        })?;
        Ok(region)
    }

    /// Its region, and every way in which its family makes that.
    ///
    /// # Errors
    /// As [`Problem::region`]; a family that does not take it.
    pub fn offers(&self, element: Element, size: &Extents, gpu: &Gpu) -> Result<(Arc<Subject>, Vec<Offer>)> {
        let region = self.region(element.dtype, size, gpu)?;
        let subject = Arc::new(Subject::of(&region).with_tf32(element.tf32));
        let mut offers = families::offers(&subject, gpu).into_diagnostic()?;
        offers.retain(|offer| offer.family == self.family);
        if offers.is_empty() {
            return Err(miette!("the family `{}` does not take {}", self.family, region.summary));
        }
        if element.tf32 && !offers.iter().any(|offer| offer.build().is_ok_and(|built| rounds(&built))) {
            return Err(miette!("`{}` rounds nothing to TF32 on {}", self.op, gpu.arch));
        }
        Ok((subject, offers))
    }

    /// The types that kernels of these sizes are made for.
    pub fn dtypes(&self, size: &Extents, gpu: &Gpu) -> Vec<Element> {
        Element::all().filter(|element| self.offers(*element, size, gpu).is_ok()).collect()
    }
}

/// Whether operands of its products are rounded to TF32.
fn rounds(built: &Built) -> bool {
    let mut found = false;
    for stmt in built.launches.iter().flat_map(|launch| &launch.program.body) {
        stmt.walk(&mut |stmt| found |= matches!(stmt.op, ir::Op::Dot { tf32: Some(_), .. }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_one_region_of_its_familys_anchor() {
        let gpu = Gpu::named("h100").unwrap();
        for problem in &PROBLEMS {
            let anchor = match problem.family {
                "map" => Anchor::Map,
                "rows" => Anchor::Reduce,
                "gemm" => Anchor::Contract,
                "conv" | "conv_direct" => Anchor::Conv,
                _ => Anchor::Attention,
            };
            for (name, size) in [("batch", 3), ("causal", 1), ("heads", 4), ("kv-heads", 2), ("cols", 77)] {
                let mut sizes = problem.samples();
                if let Some(size_of) = sizes.get_mut(name) {
                    *size_of = size;
                }
                let region =
                    problem.region(DType::BF16, &sizes, &gpu).unwrap_or_else(|e| panic!("{}: {e}", problem.op));
                assert_eq!(region.anchor, anchor, "{} {name}", problem.op);
            }
        }
    }

    #[test]
    fn every_family_has_a_problem() {
        for family in families::names() {
            assert!(find(family, None).is_ok(), "`{family}` cannot be asked for");
        }
    }

    #[test]
    fn causal_pairs_are_counted() {
        for (queries, keys) in [(1, 1), (5, 5), (3, 8), (8, 3), (1, 9)] {
            let size = Extents::from([("queries", queries), ("keys", keys), ("causal", 1)]);
            let offset = keys.saturating_sub(queries);
            let counted: u32 = (0..queries).map(|i| keys.min(i + offset + 1)).sum();
            assert_eq!(seen(&size), f64::from(counted), "{queries} {keys}");
        }
    }
}
