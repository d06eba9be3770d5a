//! Loops and branches as tapes, against the interpreter run step by step.

use crate::support::{bind, dims, epsilon, random};
use kiln_cpu::{BoundKernel, Command, Error, Loop, Place, Tape};
use kiln_graph::{BinaryOp, Builder, DType, EinsumSpec, Graph, Rng, Tensor, interpret};
use std::ops::Range;
use std::sync::{Arc, LazyLock};

fn memory(range: Range<usize>) -> Place {
    Place::Memory(range.into())
}

/// Runs a tape on two threads of its own.
fn run(tape: &mut Tape, arena: &mut [u8]) -> kiln_cpu::Result<()> {
    static POOL: LazyLock<rayon::ThreadPool> =
        LazyLock::new(|| rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap());
    tape.run(&POOL, &mut [arena])
}

/// An arena on a cache line, whose ranges are handed out from its start.
struct Arena {
    words: Vec<u64>,
    end: usize,
}

impl Arena {
    fn new() -> Arena {
        Arena { words: vec![0xCBCB_CBCB_CBCB_CBCB; 1 << 19], end: 0 }
    }

    fn bytes(&mut self) -> &mut [u8] {
        let all: &mut [u8] = bytemuck::cast_slice_mut(&mut self.words);
        let skip = all.as_ptr().align_offset(64);
        &mut all[skip..]
    }

    fn take(&mut self, bytes: usize) -> Range<usize> {
        let start = self.end.next_multiple_of(64);
        self.end = start + bytes;
        start..self.end
    }

    fn put(&mut self, data: &[u8]) -> Range<usize> {
        let range = self.take(data.len());
        self.bytes()[range.clone()].copy_from_slice(data);
        range
    }
}

fn launch(arena: &mut Arena, kernel: BoundKernel, inputs: Vec<Place>, outputs: &[&Range<usize>]) -> Command {
    let scratch = arena.take(kernel.scratch_bytes());
    Command::Launch {
        kernel: Arc::new(kernel),
        inputs,
        outputs: outputs.iter().map(|&o| o.clone().into()).collect(),
        scratch: scratch.into(),
    }
}

/// `y = tanh(s w + x)`, with operands whose labels are given.
fn step(dtype: DType, spec: &EinsumSpec, state: &[usize], weight: &[usize]) -> Graph {
    let mut b = Builder::new(format!("{dtype} {state:?} {weight:?}"));
    let s = b.input("s", dtype, &dims(state)).unwrap();
    let w = b.input("w", dtype, &dims(weight)).unwrap();
    let x = b.input("x", dtype, &dims(state)).unwrap();
    let p = b.contract(spec.clone(), s, w, dtype.accumulator(), dtype).unwrap();
    let y = b.binary(BinaryOp::Add, p, x).unwrap();
    let y = b.tanh(y).unwrap();
    b.output("y", y);
    b.finish()
}

const TRIPS: i64 = 4;

/// Runs `step` in a loop, its state carried and stacked, and compares all of it.
fn check(graph: &Graph, state: &Tensor, weight: &Tensor, x: &Tensor, fixed: bool) {
    let mut expected = Vec::new();
    let mut s = state.clone();
    for _ in 0..TRIPS {
        s = interpret(graph, &[s, weight.clone(), x.clone()]).unwrap().remove(0);
        expected.extend(s.to_f64_vec());
    }
    let mut arena = Arena::new();
    let kernel = bind(graph, &[state.clone(), weight.clone(), x.clone()]);
    let (trip, go) = (arena.put(&TRIPS.to_le_bytes()), arena.put(&[1]));
    let (index, s) = (arena.take(8), arena.put(state.data()));
    let w = if fixed { Place::Fixed(weight.data().clone()) } else { memory(arena.put(weight.data())) };
    let x = memory(arena.put(x.data()));
    let bytes = state.data().len();
    let (y, all) = (arena.take(bytes), arena.take(bytes * TRIPS as usize));
    let body = vec![launch(&mut arena, kernel, vec![memory(s.clone()), w, x], &[&y])];
    let tape = Command::Loop(Loop {
        trip: memory(trip),
        go: memory(go),
        index: index.into(),
        body,
        carried: vec![(memory(y.clone()), s.clone().into())],
        scans: vec![(memory(y), all.clone().into())],
    });
    let mut tape = Tape::new(&[tape]).unwrap();
    // Twice, for what a tape keeps must not outlive a run.
    for _ in 0..2 {
        arena.bytes()[s.clone()].copy_from_slice(state.data());
        arena.bytes()[all.clone()].fill(0xCB);
        run(&mut tape, arena.bytes()).unwrap();
        let shape = [expected.len()];
        let found = Tensor::new(state.dtype(), shape.to_vec(), arena.bytes()[all.clone()].to_vec().into()).unwrap();
        for (i, (e, f)) in expected.iter().zip(found.to_f64_vec()).enumerate() {
            let near = (e - f).abs() <= 64.0 * epsilon(state.dtype()) * e.abs().max(1.0);
            assert!(near, "{} element {i}: expected {e}, found {f}", graph.name);
        }
    }
}

#[test]
fn products_of_what_stays_the_same() {
    let labels = |s: &str| s.chars().collect::<Vec<char>>();
    let mut rng = Rng::new(61);
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for (l, r, o) in [("mk", "nk", "mn"), ("mk", "kn", "mn"), ("bmk", "bnk", "bmn"), ("bmk", "kn", "bmn")] {
            let spec = EinsumSpec { lhs: labels(l), rhs: labels(r), out: labels(o) };
            for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
                for (m, k) in [(1, 32), (1, 100), (3, 64), (5, 7), (17, 65), (1, 1), (1, 330)] {
                    let extent = |l: &char| match l {
                        'b' => 2,
                        'm' => m,
                        _ => k,
                    };
                    let state: Vec<usize> = spec.lhs.iter().map(extent).collect();
                    let weight: Vec<usize> = spec.rhs.iter().map(extent).collect();
                    let graph = step(dtype, &spec, &state, &weight);
                    let w = random(dtype, &weight, &mut rng, false).to_f64_vec();
                    let w: Vec<f64> = w.iter().map(|w| w / (k as f64).sqrt()).collect();
                    let w = Tensor::from_f64(dtype, &weight, &w).unwrap();
                    let (s, x) = (random(dtype, &state, &mut rng, false), random(dtype, &state, &mut rng, false));
                    for fixed in [false, true] {
                        pool.install(|| check(&graph, &s, &w, &x, fixed));
                    }
                }
            }
        }
    }
}

/// `y = s * w` where the body itself then writes `w`.
#[test]
fn operands_that_the_body_writes_are_read_anew() {
    let mut b = Builder::new("square");
    let w = b.input("w", DType::F32, &dims(&[8, 8])).unwrap();
    let spec = EinsumSpec { lhs: vec!['m', 'k'], rhs: vec!['n', 'k'], out: vec!['m', 'n'] };
    let y = b.contract(spec, w, w, DType::F32, DType::F32).unwrap();
    let y = b.tanh(y).unwrap();
    b.output("y", y);
    let graph = b.finish();
    let w = Tensor::random(DType::F32, &[8, 8], 5).unwrap();
    let mut expected = w.clone();
    for _ in 0..3 {
        expected = interpret(&graph, &[expected]).unwrap().remove(0);
    }
    let mut arena = Arena::new();
    let (trip, go, index) = (arena.put(&3i64.to_le_bytes()), arena.put(&[1]), arena.take(8));
    let (at, y) = (arena.put(w.data()), arena.take(256));
    let body = vec![launch(&mut arena, bind(&graph, &[w]), vec![memory(at.clone())], &[&y])];
    let carried = vec![(memory(y), at.clone().into())];
    let (trip, go) = (memory(trip), memory(go));
    let commands = [Command::Loop(Loop { trip, go, index: index.into(), body, carried, scans: Vec::new() })];
    run(&mut Tape::new(&commands).unwrap(), arena.bytes()).unwrap();
    let found: &[f32] = bytemuck::cast_slice(&arena.bytes()[at]);
    for (e, f) in expected.to_f64_vec().iter().zip(found) {
        assert!((e - f64::from(*f)).abs() < 1e-5, "expected {e}, found {f}");
    }
}

#[test]
fn conditions_end_loops_and_choose_branches() {
    let mut arena = Arena::new();
    let (yes, no, flag) = (arena.put(&[1]), arena.put(&[0]), arena.put(&[1]));
    let (trip, index, last) = (arena.put(&10i64.to_le_bytes()), arena.take(8), arena.take(8));
    let stacked = arena.take(80);
    let place = |r: &Range<usize>| memory(r.clone());
    let copy = |from: &Range<usize>, to: &Range<usize>| Command::Copy { from: place(from), to: to.clone().into() };
    // The body notes its number and stops.
    let repeat = |scans| {
        Command::Loop(Loop {
            trip: place(&trip),
            go: place(&flag),
            index: index.clone().into(),
            body: vec![copy(&index, &last)],
            carried: vec![(place(&no), flag.clone().into())],
            scans,
        })
    };
    let branch = Command::If { cond: place(&flag), branches: [Vec::new(), vec![copy(&yes, &flag)]] };
    run(&mut Tape::new(&[repeat(Vec::new()), branch]).unwrap(), arena.bytes()).unwrap();
    assert_eq!((arena.bytes()[last.clone()][0], arena.bytes()[flag.clone()][0]), (0, 1));
    let mut stops = Tape::new(&[repeat(vec![(place(&index), stacked.clone().into())])]).unwrap();
    assert!(matches!(run(&mut stops, arena.bytes()), Err(Error::Loop { expected: 10, found: 1 })));
    let mut short = Tape::new(&[repeat(vec![(place(&index), (stacked.start..stacked.end - 8).into())])]).unwrap();
    assert!(matches!(run(&mut short, arena.bytes()), Err(Error::Loop { expected: 9, found: 10 })));
}

#[test]
fn places_that_do_not_suit_are_refused() {
    let mut b = Builder::new("double");
    let x = b.input("x", DType::F32, &dims(&[4])).unwrap();
    let y = b.mul_scalar(x, 2.0).unwrap();
    b.output("y", y);
    let graph = b.finish();
    let kernel = Arc::new(bind(&graph, &[Tensor::random(DType::F32, &[4], 1).unwrap()]));
    let tape = |x: Range<usize>, y: Range<usize>| {
        Tape::new(&[Command::Launch {
            kernel: Arc::clone(&kernel),
            inputs: vec![memory(x)],
            outputs: vec![y.into()],
            scratch: (1024..1024 + kernel.scratch_bytes()).into(),
        }])
    };
    assert!(tape(0..16, 16..32).is_ok());
    for (x, y) in [(0..16, 8..24), (2..18, 32..48), (0..16, 34..50), (0..16, 1020..1036)] {
        assert!(matches!(tape(x.clone(), y.clone()), Err(Error::Tape { .. })), "{x:?} {y:?}");
    }
    assert!(matches!(tape(0..12, 16..32), Err(Error::Size { .. })));
    let copy = Command::Copy { from: memory(0..8), to: (4..12).into() };
    assert!(matches!(Tape::new(&[copy]), Err(Error::Tape { .. })));
    // Two carried values that change places: the second would read what the first has become.
    let swap = Command::Loop(Loop {
        trip: memory(64..72),
        go: memory(72..73),
        index: (80..88).into(),
        body: Vec::new(),
        carried: vec![(memory(0..8), (8..16).into()), (memory(8..16), (0..8).into())],
        scans: Vec::new(),
    });
    assert!(matches!(Tape::new(&[swap]), Err(Error::Tape { .. })));
    let mut small = [0u8; 16];
    assert!(matches!(run(&mut tape(0..16, 16..32).unwrap(), &mut small), Err(Error::Tape { .. })));
}
