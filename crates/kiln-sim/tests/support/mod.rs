//! Helpers of the integration tests.
#![allow(dead_code)]

use kiln_sim::{Arg, Device, Kernel, LaunchConfig, Module, Options, Report};

/// The generator of the graph crate's tests, in the numbers that these want. What the fixtures record depends on its sequence.
pub struct Rng(kiln_graph::Rng);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(kiln_graph::Rng::new(seed))
    }

    pub fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Uniform in [-1, 1).
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Bits of `q / 1024` for |q| < 1024, exact in f16.
pub fn half(q: i32) -> u16 {
    if q == 0 {
        return 0;
    }
    let e = 31 - q.unsigned_abs().leading_zeros() as i32;
    (((e + 5) as u16) << 10) | ((q.unsigned_abs() << (10 - e)) as u16 & 0x3ff) | if q < 0 { 0x8000 } else { 0 }
}

/// The nearest bf16, ties to even; `x` is finite.
pub fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// A bf16 by its bits.
pub fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Decodes kernel `name` of `tests/ptx/{file}.ptx`.
pub fn kernel(file: &str, name: &str) -> Kernel {
    let path = format!("{}/tests/ptx/{file}.ptx", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    Module::parse(&text).and_then(|m| m.kernel(name)).unwrap_or_else(|e| panic!("{file}/{name}: {e}"))
}

/// Plain numbers as device bytes.
pub trait Pod: Copy {
    fn bytes(self) -> Vec<u8>;
    fn parse(bytes: &[u8]) -> Self;
    const SIZE: usize;
}

macro_rules! pod {
    ($($t:ty),*) => {$(
        impl Pod for $t {
            fn bytes(self) -> Vec<u8> { self.to_le_bytes().to_vec() }
            fn parse(b: &[u8]) -> Self { <$t>::from_le_bytes(b.try_into().expect("size")) }
            const SIZE: usize = std::mem::size_of::<$t>();
        }
    )*};
}
pod!(u8, i8, u16, u32, i32, u64, f32, f64);

pub fn put<T: Pod>(d: &Device, data: &[T]) -> u64 {
    let bytes: Vec<u8> = data.iter().flat_map(|v| v.bytes()).collect();
    let at = d.alloc(bytes.len() as u64).expect("alloc");
    d.upload(at, &bytes).expect("upload");
    at
}

pub fn get<T: Pod>(d: &Device, at: u64, n: usize) -> Vec<T> {
    let mut bytes = vec![0; n * T::SIZE];
    d.download(at, &mut bytes).expect("download");
    bytes.chunks(T::SIZE).map(T::parse).collect()
}

/// Launches and expects no finding.
pub fn run(d: &Device, k: &Kernel, config: LaunchConfig, args: &[Arg], options: &Options) -> Report {
    let r = d.launch(k, config, args, options).unwrap_or_else(|e| panic!("{e}"));
    assert!(r.clean(), "{}", r.findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    r
}

/// Largest error relative to the largest magnitude.
pub fn assert_close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(1e-30f64, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*g) - w).abs() / scale;
        assert!(error <= tolerance, "{what}[{i}]: {g} for {w}, error {error:e} of the largest value");
    }
}
