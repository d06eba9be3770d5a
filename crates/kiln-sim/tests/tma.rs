//! Tensor copies of every rank and mode against a plain reading of the ISA: boxes over the edges, element types, swizzles, strides,
//! im2col, stores and reductions, maps changed by `tensormap.replace`, and the limits that are findings.

use crate::support::{Rng, get, put};
use kiln_sim::{
    Arg, Device, Finding, FindingKind, Im2colMap, LaunchConfig, Module, Options, Swizzle, TensorMap, TensorType,
};

/// Bytes of shared memory for a box; the mbarrier comes behind.
const BOX: u32 = 40960;

/// `words` of 32 bits, one a thread and turn, from one space to the other.
fn copy_words(label: &str, load: &str, from: &str, store: &str, to: &str) -> String {
    format!(
        "mov.u32 i, %tid.x;\n{label}: setp.ge.u32 p, i, words; @p bra {label}_END;\n\
         mul.wide.u32 at, i, 4; cvt.u32.u64 small, at;\n{from}; {load} v, [source];\n{to}; {store} [target], v;\n\
         add.u32 i, i, 64; bra {label};\n{label}_END:"
    )
}

/// A kernel of 64 threads with a map, an array, five coordinates, three offsets and a number of words.
fn module(body: &str) -> Module {
    let scalars: String = (0..9).map(|i| format!(", .param .u32 s{i}")).collect();
    let loads: String = (0..5).map(|i| format!("ld.param.u32 c{i}, [s{i}];\n")).collect();
    let offsets: String = (0..3).map(|i| format!("ld.param.u32 v, [s{}]; cvt.u16.u32 o{i}, v;\n", i + 5)).collect();
    let text = format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 box[];\n\
         .visible .entry k(.param .align 64 .b8 map[128], .param .u64 array{scalars}) {{\n\
         .reg .pred p; .reg .b32 i, v, words, bytes, small, shared, bar, c<5>; .reg .b16 o<3>;\n\
         .reg .b64 m, at, base, source, target, g;\n\
         mov.b64 m, map; cvta.param.u64 m, m; ld.param.u64 base, [array]; cvta.to.global.u64 base, base;\n\
         {loads}{offsets}ld.param.u32 words, [s8]; mul.lo.u32 bytes, words, 4;\n\
         mov.u32 shared, box; add.u32 bar, shared, {BOX};\n{body}\nret;\n}}"
    );
    Module::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// One thread issues `copy`; all wait for it and copy the box to the array.
fn loading(copy: &str) -> Module {
    let out = copy_words(
        "OUT",
        "ld.shared.u32",
        "add.u32 small, small, shared; cvt.u64.u32 source, small",
        "st.global.u32",
        "add.u64 target, base, at",
    );
    module(&format!(
        "mov.u32 i, %tid.x; setp.ne.u32 p, i, 0; @p bra WAIT;\n\
         mbarrier.init.shared::cta.b64 [bar], 1; fence.mbarrier_init.release.cluster;\n\
         mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], bytes;\n{copy}\n\
         WAIT: bar.sync 0;\nAGAIN: mbarrier.try_wait.parity.shared::cta.b64 p, [bar], 0; @!p bra AGAIN;\n{out}"
    ))
}

/// All copy the array into the box; one thread issues `copy`.
fn storing(copy: &str) -> Module {
    let fill = copy_words(
        "IN",
        "ld.global.u32",
        "add.u64 source, base, at",
        "st.shared.u32",
        "add.u32 small, small, shared; cvt.u64.u32 target, small",
    );
    module(&format!(
        "{fill}\nfence.proxy.async.shared::cta; bar.sync 0;\nmov.u32 i, %tid.x; setp.ne.u32 p, i, 0; @p bra END;\n\
         {copy}\ncp.async.bulk.commit_group; cp.async.bulk.wait_group 0;\nEND:"
    ))
}

fn coordinates(rank: usize) -> String {
    (0..rank).map(|i| format!("c{i}")).collect::<Vec<_>>().join(", ")
}

fn load_text(rank: usize) -> String {
    let c = coordinates(rank);
    format!(
        "cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [shared], [m, {{{c}}}], [bar];"
    )
}

fn im2col_text(rank: usize) -> String {
    let (c, o) = (coordinates(rank), ["o0", "o0, o1", "o0, o1, o2"][rank - 3]);
    format!(
        "cp.async.bulk.tensor.{rank}d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [shared], [m, {{{c}}}], [bar], {{{o}}};"
    )
}

fn launch(
    d: &Device,
    module: &Module,
    map: [u8; 128],
    array: u64,
    (coords, offsets): (&[i32], &[u32]),
    words: usize,
    seed: u64,
) -> Vec<Finding> {
    let mut args = vec![Arg::Bytes(map.to_vec()), Arg::U64(array)];
    args.extend((0..5).map(|i| Arg::I32(coords.get(i).copied().unwrap_or(0))));
    args.extend((0..3).map(|i| Arg::U32(offsets.get(i).copied().unwrap_or(0))));
    args.push(Arg::U32(words as u32));
    let config = LaunchConfig { shared: BOX + 8, ..LaunchConfig::linear(1, 64) };
    let options = Options { seed: seed.checked_sub(1), ..Options::default() };
    d.launch(&module.kernel("k").unwrap(), config, &args, &options).unwrap().findings
}

#[track_caller]
fn assert_none(findings: &[Finding], what: &str) {
    let list: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(list.is_empty(), "{what}: {list:#?}");
}

const TYPES: [TensorType; 10] = [
    TensorType::U8,
    TensorType::U16,
    TensorType::U32,
    TensorType::I32,
    TensorType::U64,
    TensorType::I64,
    TensorType::F16,
    TensorType::F32,
    TensorType::F64,
    TensorType::Bf16,
];

/// Where byte `at` of a box lies: 16-byte chunks of a span change places with the number of their 128 bytes.
fn swizzled(swizzle: Swizzle, at: usize) -> usize {
    let chunks = match swizzle {
        Swizzle::None => 1,
        Swizzle::B32 => 2,
        Swizzle::B64 => 4,
        Swizzle::B128 => 8,
    };
    let (line, chunk, byte) = (at / 128, at / 16 % 8, at % 16);
    128 * line + 16 * (chunk ^ (line % 8 % chunks)) + byte
}

/// Draws a map whose tensor is filled with random bytes.
struct Case {
    device: Device,
    map: TensorMap,
    memory: Vec<u8>,
    coords: Vec<i32>,
}

/// The same place or one before it where a row of the box may start.
fn aligned(at: &mut i32, elem: u64) {
    *at -= at.rem_euclid(16 / elem as i32);
}

impl Case {
    fn draw(rng: &mut Rng, rank: usize) -> Case {
        let dtype = TYPES[rng.below(TYPES.len() as u64) as usize];
        let elem = u64::from(dtype.bytes());
        let swizzle = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128][rng.below(4) as usize];
        let span = [128, 32, 64, 128][swizzle as usize];
        let inner = 16 * (1 + rng.below(span / 16)) / elem;
        // Inner boxes that fill the span when there is a swizzle, as the layouts of wgmma want them.
        let inner = if swizzle == Swizzle::None { inner } else { span / elem };
        let mut dims = vec![1 + rng.below(2 * inner)];
        let mut box_dims = vec![inner as u32];
        let mut element_strides = vec![1];
        let (mut strides, mut bytes) = (vec![], (dims[0] * elem).next_multiple_of(16) + 16 * rng.below(2));
        for _ in 1..rank {
            strides.push(bytes);
            dims.push(1 + rng.below(9));
            box_dims.push(1 + rng.below(if rank == 2 { 40 } else { 5 }) as u32);
            element_strides.push(1 + rng.below(3) as u32);
            bytes = bytes * dims[dims.len() - 1] + 16 * rng.below(2);
        }
        let coords = dims.iter().zip(&box_dims).map(|(d, b)| rng.below(d + 2 * u64::from(*b)) as i32 - *b as i32);
        let mut coords: Vec<i32> = coords.collect();
        aligned(&mut coords[0], elem);
        let device = Device::default();
        let memory: Vec<u8> = (0..bytes).map(|_| rng.next() as u8).collect();
        let address = put(&device, &memory);
        let nan_fill = matches!(dtype, TensorType::F16 | TensorType::F32 | TensorType::Bf16) && rng.below(2) == 0;
        let map = TensorMap { dtype, address, dims, strides, box_dims, element_strides, swizzle, nan_fill };
        Case { device, map, memory, coords }
    }

    /// Of each element of the box, in order: its byte offset in the tensor's memory, if it is inside.
    fn elements(&self) -> Vec<Option<usize>> {
        let taken: Vec<u64> =
            self.map.box_dims.iter().zip(&self.map.element_strides).map(|(b, s)| u64::from(b.div_ceil(*s))).collect();
        (0..taken.iter().product::<u64>())
            .map(|mut i| {
                let mut at = 0;
                for (d, taken) in taken.iter().enumerate() {
                    let x = i64::from(self.coords[d]) + (i % taken) as i64 * i64::from(self.map.element_strides[d]);
                    i /= taken;
                    if x < 0 || x >= self.map.dims[d] as i64 {
                        return None;
                    }
                    at += x as u64 * if d == 0 { u64::from(self.map.dtype.bytes()) } else { self.map.strides[d - 1] };
                }
                Some(at as usize)
            })
            .collect()
    }

    /// What shared memory holds after a load.
    fn expected(&self) -> Vec<u8> {
        let n = self.map.dtype.bytes() as usize;
        expected(&self.elements(), &self.memory, n, self.map.swizzle, self.map.nan_fill)
    }
}

fn expected(elements: &[Option<usize>], memory: &[u8], n: usize, swizzle: Swizzle, nan_fill: bool) -> Vec<u8> {
    // Swizzles move chunks inside 128 bytes, so that the last ones may move past the box.
    let mut out = vec![0xff; (elements.len() * n).next_multiple_of(128)];
    for (i, from) in elements.iter().enumerate() {
        for byte in 0..n {
            let outside = match (nan_fill, byte == n - 1) {
                (false, _) => 0,
                (true, last) => 0xff >> u32::from(last),
            };
            out[swizzled(swizzle, i * n + byte)] = from.map_or(outside, |at| memory[at + byte]);
        }
    }
    out
}

#[test]
fn tiles_of_every_rank_are_loaded() {
    let mut rng = Rng::new(41);
    for round in 0..150 {
        let rank = 1 + round % 5;
        let case = Case::draw(&mut rng, rank);
        let want = case.expected();
        let bytes = case.elements().len() * case.map.dtype.bytes() as usize;
        let out = case.device.alloc(want.len() as u64).unwrap();
        let map = case.map.encode().unwrap();
        let found = launch(
            &case.device,
            &loading(&load_text(rank)),
            map,
            out,
            (&case.coords, &[]),
            bytes / 4,
            round as u64 % 4,
        );
        assert_none(&found, &format!("{:?} at {:?}", case.map, case.coords));
        let got = get::<u8>(&case.device, out, bytes);
        // A box that does not fill its last 128 bytes swizzles some of it past its end.
        let whole = bytes / 128 * 128;
        let checked = if case.map.swizzle == Swizzle::None { bytes } else { whole };
        assert!(got[..checked] == want[..checked], "{:?} at {:?}", case.map, case.coords);
    }
}

#[test]
fn tiles_of_every_rank_are_stored() {
    let mut rng = Rng::new(42);
    for round in 0..100 {
        let rank = 1 + round % 5;
        let mut case = Case::draw(&mut rng, rank);
        case.map.nan_fill = false;
        let elements = case.elements();
        let n = case.map.dtype.bytes() as usize;
        let bytes = (elements.len() * n).next_multiple_of(128);
        let data: Vec<u8> = (0..bytes).map(|_| rng.next() as u8).collect();
        let mut want = case.memory.clone();
        for (i, to) in elements.iter().enumerate() {
            for byte in 0..n {
                if let Some(to) = to {
                    want[to + byte] = data[swizzled(case.map.swizzle, i * n + byte)];
                }
            }
        }
        let from = put(&case.device, &data);
        let copy = format!(
            "cp.async.bulk.tensor.{rank}d.global.shared::cta.tile.bulk_group [m, {{{}}}], [shared];",
            coordinates(rank)
        );
        let map = case.map.encode().unwrap();
        let found = launch(&case.device, &storing(&copy), map, from, (&case.coords, &[]), bytes / 4, round as u64 % 4);
        assert_none(&found, &format!("{:?} at {:?}", case.map, case.coords));
        let got = get::<u8>(&case.device, case.map.address, case.memory.len());
        assert!(got == want, "{:?} at {:?}", case.map, case.coords);
    }
}

type Reduction = fn(u32, u32) -> u32;

#[test]
fn tiles_are_reduced_into_the_tensor() {
    let mut rng = Rng::new(43);
    let draw = |rng: &mut Rng| rng.below(1 << 20) as u32;
    let ops: [(&str, Reduction); 6] = [
        ("add", |a, b| a + b),
        ("min", |a, b| a.min(b)),
        ("max", |a, b| a.max(b)),
        ("and", |a, b| a & b),
        ("or", |a, b| a | b),
        ("xor", |a, b| a ^ b),
    ];
    for (op, f) in ops {
        let d = Device::default();
        let old: Vec<u32> = (0..12 * 10).map(|_| draw(&mut rng)).collect();
        let data: Vec<u32> = (0..8 * 8).map(|_| draw(&mut rng)).collect();
        let (address, from) = (put(&d, &old), put(&d, &data));
        let map = |dtype| TensorMap {
            dtype,
            address,
            dims: vec![12, 10],
            strides: vec![48],
            box_dims: vec![8, 8],
            element_strides: vec![],
            swizzle: Swizzle::None,
            nan_fill: false,
        };
        let copy = format!(
            "cp.reduce.async.bulk.tensor.2d.global.shared::cta.{op}.tile.bulk_group [m, {{c0, c1}}], [shared];"
        );
        let m = storing(&copy);
        let found = launch(&d, &m, map(TensorType::U32).encode().unwrap(), from, (&[8, 5], &[]), 64, 0);
        assert_none(&found, op);
        let got = get::<u32>(&d, address, 120);
        for (i, (got, old)) in got.iter().zip(&old).enumerate() {
            let (x, y) = (i % 12, i / 12);
            let want = if x >= 8 && y >= 5 { f(*old, data[(y - 5) * 8 + x - 8]) } else { *old };
            assert_eq!(*got, want, "{op} at {x}, {y}");
        }
        // Floats are added only.
        let found = launch(&d, &m, map(TensorType::F32).encode().unwrap(), from, (&[0, 0], &[]), 64, 0);
        assert_eq!(found.iter().any(|f| f.kind == FindingKind::InvalidOperand), op != "add", "{op}");
    }
}

#[test]
fn tf32_is_rounded_to_nearest_even_as_it_is_loaded() {
    let d = Device::default();
    let cases = [
        (0x3f80_0000_u32, 0x3f80_0000_u32),
        (0x3f80_0fff, 0x3f80_0000),
        (0x3f80_1000, 0x3f80_0000),
        (0x3f80_1001, 0x3f80_2000),
        (0x3f80_3000, 0x3f80_4000),
        (0xbfff_ffff, 0xc000_0000),
        (0x7f80_0000, 0x7f80_0000),
        (0x0000_2fff, 0x0000_2000),
    ];
    let address = put(&d, &cases.map(|c| c.0));
    let map = TensorMap {
        dtype: TensorType::Tf32,
        address,
        dims: vec![8],
        strides: vec![],
        box_dims: vec![8],
        element_strides: vec![],
        swizzle: Swizzle::None,
        nan_fill: false,
    };
    let out = d.alloc(32).unwrap();
    assert_none(&launch(&d, &loading(&load_text(1)), map.encode().unwrap(), out, (&[0], &[]), 8, 0), "tf32");
    assert_eq!(get::<u32>(&d, out, 8), cases.map(|c| c.1));
}

/// Every pixel that windows start at, image after image, then those past the last image; a copy takes some of this list.
fn windows(map: &Im2colMap) -> Vec<Vec<i32>> {
    let spatial = map.dims.len() - 2;
    let axis = |d: usize| -> Vec<i32> {
        let last = map.dims[d + 1] as i32 - 1 + map.upper_corner[d];
        (map.lower_corner[d]..=last).step_by(map.element_strides[d + 1] as usize).collect()
    };
    let mut list: Vec<Vec<i32>> = vec![vec![]];
    for d in 0..spatial {
        // Each later dimension is slower.
        list = axis(d).into_iter().flat_map(|x| list.iter().map(move |l| [&l[..], &[x]].concat())).collect();
    }
    let images = map.dims[spatial + 1] as i32 + 3;
    (0..images).flat_map(|n| list.iter().map(move |l| [&l[..], &[n]].concat())).collect()
}

#[test]
fn im2col_of_every_rank_is_loaded() {
    let mut rng = Rng::new(44);
    for round in 0..120 {
        let rank = 3 + round % 3;
        let dtype = [TensorType::F16, TensorType::F32, TensorType::U8, TensorType::Bf16][rng.below(4) as usize];
        let elem = u64::from(dtype.bytes());
        let swizzle = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128][rng.below(4) as usize];
        let channels = match swizzle {
            Swizzle::None => 16 * (1 + rng.below(8)) / elem,
            s => [0, 32, 64, 128][s as usize] / elem,
        };
        let spatial = rank - 2;
        let mut dims = vec![1 + rng.below(3 * channels)];
        let (mut strides, mut bytes) = (vec![], (dims[0] * elem).next_multiple_of(16));
        let (mut lower, mut upper, mut steps, mut filter) = (vec![], vec![], vec![1], vec![]);
        for d in 0..=spatial {
            strides.push(bytes);
            let extent = 1 + rng.below(7);
            bytes *= extent;
            dims.push(extent);
            steps.push(if d < spatial { 1 + rng.below(2) as u32 } else { 1 });
            if d < spatial {
                // A filter of up to 3, padded so that something is left.
                let size = 1 + rng.below(3);
                let pad = if extent < size { size } else { rng.below(size) };
                lower.push(-(pad as i32));
                upper.push(pad as i32 - (size as i32 - 1));
                filter.push(size);
            }
        }
        let device = Device::default();
        let memory: Vec<u8> = (0..bytes).map(|_| rng.next() as u8).collect();
        let map = Im2colMap {
            dtype,
            address: put(&device, &memory),
            dims: dims.clone(),
            strides: strides.clone(),
            lower_corner: lower,
            upper_corner: upper,
            channels_per_pixel: channels as u32,
            pixels_per_column: 1 + rng.below(60) as u32,
            element_strides: steps,
            swizzle,
            nan_fill: dtype == TensorType::F16 && rng.below(2) == 0,
        };
        let windows = windows(&map);
        let pixels = map.pixels_per_column as usize;
        let first = rng.below(windows.len().saturating_sub(pixels).max(1) as u64) as usize;
        let mut c = rng.below(dims[0] + channels) as i32 - channels as i32 / 2;
        aligned(&mut c, elem);
        let offsets: Vec<u32> = filter.iter().map(|f| rng.below(*f) as u32).collect();
        if first + pixels > windows.len() {
            continue;
        }
        let mut elements = Vec::new();
        for pixel in &windows[first..first + pixels] {
            for channel in 0..channels as i32 {
                let place = [&[c + channel], &pixel[..]].concat();
                let mut at = Some(0);
                for (d, x) in place.iter().enumerate() {
                    let x = x + if d > 0 { offsets.get(d - 1).map_or(0, |o| *o as i32) } else { 0 };
                    let stride = if d == 0 { elem } else { strides[d - 1] };
                    at = at.filter(|_| x >= 0 && (x as u64) < dims[d]).map(|at| at + x as u64 * stride);
                }
                elements.push(at.map(|at| at as usize));
            }
        }
        let n = elem as usize;
        let (bytes, want) = (elements.len() * n, expected(&elements, &memory, n, swizzle, map.nan_fill));
        let out = device.alloc(want.len() as u64).unwrap();
        let coords = [&[c], &windows[first][..]].concat();
        let encoded = map.encode().unwrap();
        let found = launch(
            &device,
            &loading(&im2col_text(rank)),
            encoded,
            out,
            (&coords, &offsets),
            bytes / 4,
            round as u64 % 4,
        );
        assert_none(&found, &format!("{map:?} at {coords:?}"));
        let got = get::<u8>(&device, out, bytes);
        let checked = if swizzle == Swizzle::None { bytes } else { bytes / 128 * 128 };
        assert!(got[..checked] == want[..checked], "{map:?} at {coords:?} + {offsets:?}");
    }
}

/// A map of 16 x 8 f16, its memory, and what a copy of it at (0, 0) finds wrong.
fn small(copy: &str, change: impl FnOnce(&mut TensorMap), words: usize) -> Vec<Finding> {
    let d = Device::default();
    let address = put(&d, &[0x3c00u16; 128]);
    let mut map = TensorMap {
        dtype: TensorType::F16,
        address,
        dims: vec![16, 8],
        strides: vec![32],
        box_dims: vec![16, 8],
        element_strides: vec![],
        swizzle: Swizzle::None,
        nan_fill: false,
    };
    change(&mut map);
    let out = d.alloc(4096).unwrap();
    launch(&d, &loading(copy), map.encode().unwrap(), out, (&[], &[]), words, 0)
}

#[track_caller]
fn assert_finds(found: &[Finding], kind: FindingKind, text: &str) {
    let list: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(found.iter().any(|f| f.kind == kind && f.message.contains(text)), "expected {kind}: {text}; {list:#?}");
}

#[test]
fn copies_that_the_hardware_refuses_are_findings() {
    assert_none(&small(&load_text(2), |_| {}, 64), "a good copy");
    assert_finds(&small(&load_text(3), |_| {}, 64), FindingKind::InvalidOperand, "3 coordinates");
    let im2col = im2col_text(4);
    assert_finds(&small(&im2col, |_| {}, 64), FindingKind::InvalidOperand, "a tensor map for tiles");
    for at in ["1", "-4", "12"] {
        let between = load_text(2).replacen(&coordinates(2), &format!("{at}, 0"), 1);
        assert_finds(&small(&between, |_| {}, 64), FindingKind::InvalidOperand, "expected a multiple of 16");
    }
    assert_none(
        &small(&load_text(2).replacen(&coordinates(2), "-8, 3", 1), |_| {}, 64),
        "a box that starts at 16 bytes",
    );
    let odd = load_text(2).replace("[shared]", "[shared+64]");
    assert_finds(&small(&odd, |_| {}, 64), FindingKind::Misaligned, "multiple of 128");
    let map = load_text(2).replace("[m,", "[base,");
    assert_finds(&small(&map, |_| {}, 64), FindingKind::InvalidOperand, "no tensor map");
    let moved = format!("add.u64 m, m, 32; {}", load_text(2));
    assert_finds(&small(&moved, |_| {}, 64), FindingKind::Misaligned, "multiple of 64");
    // The box is larger than the shared memory that is left.
    let far = load_text(2).replace("[shared]", &format!("[shared+{}]", BOX - 128));
    assert_finds(&small(&far, |_| {}, 64), FindingKind::OutOfBounds, "bulk copy");
    // Two dimensions more than the memory has.
    let beyond = small(&load_text(2), |m| m.dims[1] = 80, 64);
    assert_none(&beyond, "rows that the box does not touch");
    let beyond = small(&load_text(2), |m| (m.dims[1], m.box_dims[1]) = (80, 80), 640);
    assert_finds(&beyond, FindingKind::OutOfBounds, "tensor copy");
}

/// A kernel that changes a map in shared memory, field by field, publishes it in global memory and loads through it.
fn replacing(fields: &str, publish: &str, acquire: &str) -> (Vec<Finding>, Vec<u8>) {
    let d = Device::default();
    let memory: Vec<u8> = (0..4096u32).map(|i| (i * 7 + i / 256) as u8).collect();
    let address = put(&d, &memory);
    let map = TensorMap {
        dtype: TensorType::U8,
        address: address + 1024,
        dims: vec![16],
        strides: vec![],
        box_dims: vec![16],
        element_strides: vec![],
        swizzle: Swizzle::None,
        nan_fill: false,
    };
    let (place, out) = (d.alloc(128).unwrap(), d.alloc(4096).unwrap());
    let scalars: String = (0..4).map(|i| format!("ld.param.v4.u32 {{w0, w1, w2, w3}}, [map+{}]; st.shared.v4.u32 [box+{}], {{w0, w1, w2, w3}};\nld.param.v4.u32 {{w0, w1, w2, w3}}, [map+{}]; st.shared.v4.u32 [box+{}], {{w0, w1, w2, w3}};\n", 32 * i, 32 * i, 32 * i + 16, 32 * i + 16)).collect();
    let text = format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 box[];\n\
         .visible .entry k(.param .align 64 .b8 map[128], .param .u64 place, .param .u64 out, .param .u64 base) {{\n\
         .reg .pred p, q; .reg .b32 t, w0, w1, w2, w3, shared, bar, zero; .reg .b64 m, b, to;\n\
         ld.param.u64 m, [place]; ld.param.u64 b, [base]; ld.param.u64 to, [out]; mov.u32 zero, 0;\n\
         mov.u32 shared, box; add.u32 bar, shared, 2048; mov.u32 t, %tid.x; setp.ne.u32 p, t, 0; @p bra ALL;\n\
         mbarrier.init.shared::cta.b64 [bar], 1; fence.mbarrier_init.release.cluster;\n{scalars}{fields}\n\
         ALL: bar.warp.sync 0xffffffff;\n{publish}\n{acquire}\n@p bra WAIT;\n\
         mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 128;\n\
         cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [shared+1024], [m, {{zero, zero}}], [bar];\n\
         WAIT: bar.sync 0;\nAGAIN: mbarrier.try_wait.parity.shared::cta.b64 q, [bar], 0; @!q bra AGAIN;\n\
         shl.b32 t, t, 2; add.u32 shared, shared, t; ld.shared.u32 w0, [shared+1024]; cvt.u64.u32 b, t; add.u64 to, to, b;\n\
         st.global.u32 [to], w0;\nret;\n}}"
    );
    let kernel = Module::parse(&text).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let args = [Arg::Bytes(map.encode().unwrap().to_vec()), Arg::U64(place), Arg::U64(out), Arg::U64(address)];
    let config = LaunchConfig { shared: 4096, ..LaunchConfig::linear(1, 32) };
    let found = d.launch(&kernel, config, &args, &Options::default()).unwrap().findings;
    (found, get::<u8>(&d, out, 128))
}

const REPLACED: &str = "tensormap.replace.tile.global_address.shared::cta.b1024.b64 [shared], b;\n\
    tensormap.replace.tile.rank.shared::cta.b1024.b32 [shared], 1;\n\
    tensormap.replace.tile.elemtype.shared::cta.b1024.b32 [shared], 6;\n\
    tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [shared], 0, 20;\n\
    tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [shared], 1, 3;\n\
    tensormap.replace.tile.global_stride.shared::cta.b1024.b64 [shared], 0, 256;\n\
    tensormap.replace.tile.box_dim.shared::cta.b1024.b32 [shared], 0, 16;\n\
    tensormap.replace.tile.box_dim.shared::cta.b1024.b32 [shared], 1, 8;\n\
    tensormap.replace.tile.element_stride.shared::cta.b1024.b32 [shared], 1, 2;\n\
    tensormap.replace.tile.interleave_layout.shared::cta.b1024.b32 [shared], 0;\n\
    tensormap.replace.tile.swizzle_mode.shared::cta.b1024.b32 [shared], 1;\n\
    tensormap.replace.tile.fill_mode.shared::cta.b1024.b32 [shared], 1;";
const PUBLISH: &str =
    "tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [m], [shared], 128;";
const ACQUIRE: &str = "fence.proxy.tensormap::generic.acquire.gpu [m], 128;";

#[test]
fn a_map_that_the_kernel_changed() {
    let (found, got) = replacing(REPLACED, PUBLISH, ACQUIRE);
    assert_none(&found, "tensormap.replace");
    // Every second of three rows of 256 bytes, 16 f16 of each; then NaNs. Four rows of 32 bytes do not reach a swizzle's second line.
    let want: Vec<u8> = (0..4usize)
        .flat_map(|row| (0..32usize).map(move |x| (row, x)))
        .map(|(row, x)| match row < 2 {
            true => {
                let i = (row * 512 + x) as u32;
                (i * 7 + i / 256) as u8
            }
            false => [0xff, 0x7f][x % 2],
        })
        .collect();
    assert_eq!(got, want);
}

#[test]
fn maps_changed_wrongly_are_findings() {
    let (found, _) = replacing(REPLACED, PUBLISH, "");
    assert_finds(&found, FindingKind::ProxyFence, "not acquired");
    // Changed in global memory, and not released.
    let in_place = "@p bra HERE; tensormap.replace.tile.rank.global.b1024.b32 [m], 1; HERE:";
    let (found, _) = replacing(REPLACED, &format!("{PUBLISH}\n{in_place}"), ACQUIRE);
    assert_finds(&found, FindingKind::ProxyFence, "not released");
    let released = format!("{PUBLISH}\n{in_place}\nfence.proxy.tensormap::generic.release.gpu;");
    assert_none(&replacing(REPLACED, &released, ACQUIRE).0, "released");
    let with = |more: &str| replacing(&format!("{REPLACED}\n{more}"), PUBLISH, ACQUIRE).0;
    let replace = |field: &str| format!("tensormap.replace.tile.{field};");
    let invalid = FindingKind::InvalidOperand;
    assert_finds(&with(&replace("rank.shared::cta.b1024.b32 [shared], 5")), invalid, "no value 5");
    assert_finds(&with(&replace("global_dim.shared::cta.b1024.b32 [shared], 5, 1")), invalid, "dimension 5");
    assert_finds(&with(&replace("elemtype.shared::cta.b1024.b32 [shared], 99")), invalid, "no value 99");
    assert_finds(&with(&replace("interleave_layout.shared::cta.b1024.b32 [shared], 1")), invalid, "no value 1");
    // The map is complete and breaks a rule of the driver: found when it is used.
    assert_finds(&with(&replace("global_stride.shared::cta.b1024.b64 [shared], 0, 200")), invalid, "stride of 200");
    assert_finds(&with(&replace("box_dim.shared::cta.b1024.b32 [shared], 0, 32")), invalid, "swizzle span");
    let misaligned = with(&replace("rank.shared::cta.b1024.b32 [shared+64], 1"));
    assert_finds(&misaligned, FindingKind::Misaligned, "multiple of 128");
}
