//! Inputs, outputs and activations in memory of the user's.

use crate::models::{block, engine_at, half_block, home};
use kiln_cuda::{CudaDevice, DeviceBuffer};
use kiln_engine::{Engine, Error, Session, SimDevice, UserMemory, open_device};
use kiln_graph::{BinaryOp, Builder, DType, Dim, Graph, Rng, ScatterOp, Tensor, ValueId, interpret};
use std::sync::Arc;

/// Where a user has memory that a device can use.
enum Place {
    Host,
    Sim(Arc<kiln_sim::Device>),
    Gpu(CudaDevice),
}

/// Memory of a user's, 256 bytes more than it says on either side, which nobody may write.
enum Block {
    Host(Vec<Line>),
    Sim(Arc<kiln_sim::Device>, u64),
    Gpu(DeviceBuffer),
}

#[derive(Clone, Copy)]
#[repr(C, align(256))]
struct Line([u8; 256]);

const EDGE: usize = 256;
const MARK: u8 = 0xa7;

impl Place {
    fn alloc(&self, bytes: usize) -> Owned {
        let total = bytes + 2 * EDGE;
        let block = match self {
            Place::Host => Block::Host(vec![Line([0; 256]); total.div_ceil(256)]),
            Place::Sim(device) => Block::Sim(device.clone(), device.alloc(total as u64).unwrap()),
            Place::Gpu(device) => Block::Gpu(device.alloc(total).unwrap()),
        };
        let gpu = match self {
            Place::Gpu(device) => Some(device.new_stream().unwrap()),
            _ => None,
        };
        let mut owned = Owned { block, bytes, stream: gpu };
        owned.store(0, &vec![MARK; total]);
        owned
    }

    fn of(&self, data: &[u8]) -> Owned {
        let mut owned = self.alloc(data.len());
        owned.write(data);
        owned
    }
}

struct Owned {
    block: Block,
    bytes: usize,
    stream: Option<kiln_cuda::Stream>,
}

impl Owned {
    fn store(&mut self, at: usize, data: &[u8]) {
        match &mut self.block {
            Block::Host(lines) => bytes_mut(lines)[at..at + data.len()].copy_from_slice(data),
            Block::Sim(device, base) => device.upload(*base + at as u64, data).unwrap(),
            Block::Gpu(buffer) => self.stream.as_ref().unwrap().upload(buffer, at, data).unwrap(),
        }
    }

    fn all(&self) -> Vec<u8> {
        let mut data = vec![0; self.bytes + 2 * EDGE];
        match &self.block {
            Block::Host(lines) => data.copy_from_slice(&bytes_of(lines)[..self.bytes + 2 * EDGE]),
            Block::Sim(device, base) => device.download(*base, &mut data).unwrap(),
            Block::Gpu(buffer) => self.stream.as_ref().unwrap().download(buffer, 0, &mut data).unwrap(),
        }
        data
    }

    fn write(&mut self, data: &[u8]) {
        self.store(EDGE, data);
    }

    /// What is there, with nothing written beside it.
    fn read(&self) -> Vec<u8> {
        let mut all = self.all();
        let end = all.split_off(EDGE + self.bytes);
        assert!(all[..EDGE].iter().chain(&end).all(|&byte| byte == MARK), "written outside of the memory");
        all.split_off(EDGE)
    }

    fn at(&mut self, offset: usize, bytes: usize) -> UserMemory {
        let base = match &mut self.block {
            Block::Host(lines) => lines.as_mut_ptr().expose_provenance() as u64,
            Block::Sim(_, base) => *base,
            Block::Gpu(buffer) => buffer.ptr().address(),
        };
        // SAFETY: the tests keep the memory as long as sessions may use it, and use it only between their calls.
        unsafe { UserMemory::new(base + (EDGE + offset) as u64, bytes) }
    }

    fn user(&mut self) -> UserMemory {
        self.at(0, self.bytes)
    }
}

fn bytes_of(lines: &[Line]) -> &[u8] {
    // SAFETY: lines are plain bytes without padding.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * 256) }
}

fn bytes_mut(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 256) }
}

fn built(graph: &Graph) -> Engine {
    engine_at(graph, &["cpu", "sm_80", "sm_90a"], home())
}

/// A session on each kind of device, with a place for a user's memory.
fn sessions(engine: &Engine) -> Vec<(Session, Place)> {
    let mut all = vec![(Session::new(engine, open_device("cpu:2").unwrap()).unwrap(), Place::Host)];
    for target in ["sm_80", "sm_90a"] {
        let device = SimDevice::new(target, kiln_sim::Options::default());
        let place = Place::Sim(device.simulated());
        all.push((Session::new(engine, Box::new(device)).unwrap(), place));
    }
    if let (Ok(device), Ok(gpu)) = (open_device("cuda:0"), CudaDevice::new(0))
        && let Ok(session) = Session::new(engine, device)
    {
        all.push((session, Place::Gpu(gpu)));
    }
    all
}

fn rng() -> Rng {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    Rng::new(seed)
}

fn close(graph: &Graph, x: &Tensor, found: &[u8], apart: f64, what: &str) {
    let expected = interpret(graph, std::slice::from_ref(x)).unwrap().remove(0);
    let found = Tensor::new(expected.dtype(), expected.shape().to_vec(), bytes::Bytes::copy_from_slice(found)).unwrap();
    let pairs = expected.to_f64_vec().into_iter().zip(found.to_f64_vec());
    let worst = pairs.map(|(e, f)| if f.is_nan() { f64::INFINITY } else { (e - f).abs() }).fold(0.0, f64::max);
    assert!(worst <= apart, "{what}: {worst}");
}

#[test]
fn runs_read_and_write_the_memory_of_the_user() {
    let mut rng = rng();
    for (graph, dtype, width, apart) in [(block(), DType::F32, 24, 1e-3), (half_block(), DType::F16, 64, 0.05)] {
        let engine = built(&graph);
        for (mut session, place) in sessions(&engine) {
            let device = session.device_name();
            let shape = |rows: usize| if dtype == DType::F32 { vec![1, rows, width] } else { vec![rows, width] };
            // Two memories in turn, larger than they need be and not; then one input after another in the same.
            let sizes = [3 + rng.next_u64() as usize % 30, 33 + rng.next_u64() as usize % 30];
            let tensor = |rows: usize, seed| Tensor::random(dtype, &shape(rows), seed).unwrap();
            let mut inputs: Vec<Owned> = sizes.iter().map(|&rows| place.of(tensor(rows, 1).data())).collect();
            let mut outputs: Vec<Owned> = sizes.iter().map(|&rows| place.alloc(tensor(rows, 1).data().len())).collect();
            let most = session.arena_bytes(&[("x", &shape(64))]).unwrap();
            let mut arena = place.alloc(most);
            for round in 0..6usize {
                let at = round % 2;
                let x = tensor(sizes[at], rng.next_u64());
                inputs[at].write(x.data());
                if round == 2 {
                    session.bind_arena(arena.user()).unwrap();
                }
                session.bind_device("x", &shape(sizes[at]), inputs[at].user()).unwrap();
                session.bind_output("y", outputs[at].user()).unwrap();
                session.poison(0xcb).unwrap();
                session.run_bound().unwrap();
                session.synchronize().unwrap();
                close(&graph, &x, &outputs[at].read(), apart, &format!("{device}, round {round}"));
                assert_eq!(session.output("y").unwrap().data(), &outputs[at].read()[..]);
                assert_eq!(inputs[at].read(), x.data()[..]);
            }
            assert!(arena.read().iter().any(|&byte| byte != MARK), "{device}: activations lie elsewhere");
            let memory = session.memory();
            assert_eq!(memory.user, most + inputs[1].bytes + outputs[1].bytes);
            assert_eq!((memory.arena, memory.bound), (most, inputs[1].bytes + outputs[1].bytes));
            // And back to memory of its own: nothing more is written to the user's.
            session.unbind_output("y").unwrap();
            session.unbind_arena().unwrap();
            let before = (inputs[1].read(), outputs[1].read(), arena.read());
            let x = tensor(7, rng.next_u64());
            session.bind_tensor("x", &x).unwrap();
            session.poison(0xcb).unwrap();
            session.run_bound().unwrap();
            close(&graph, &x, session.output("y").unwrap().data(), apart, &device);
            assert_eq!(session.memory().user, 0);
            assert!(before == (inputs[1].read(), outputs[1].read(), arena.read()), "{device}");
        }
    }
}

/// `next = state + x`, `y = next * x`, and `y` in another shape.
fn step() -> Graph {
    let mut b = Builder::new("step");
    let rows = b.symbol("R", 1, 64);
    let shape = [rows, 6.into()];
    let (x, state) = (b.input("x", DType::F32, &shape).unwrap(), b.input("state", DType::F32, &shape).unwrap());
    let next = b.binary(BinaryOp::Add, state, x).unwrap();
    let y = b.binary(BinaryOp::Mul, next, x).unwrap();
    let flat = b.reshape(y, &[Dim::sym("R"), 2.into(), 3.into()]).unwrap();
    for (name, value) in [("next", next), ("y", y), ("flat", flat)] {
        b.output(name, value);
    }
    b.finish()
}

#[test]
fn bound_and_donated_memory_go_together() {
    let graph = step();
    let mut rng = rng();
    let engine = built(&graph);
    for (mut session, place) in sessions(&engine) {
        let device = session.device_name();
        let mut y = place.alloc(5 * 6 * 4);
        session.bind_output("y", y.user()).unwrap();
        session.donate("next", "state").unwrap();
        let mut state = Tensor::random(DType::F32, &[5, 6], rng.next_u64()).unwrap();
        session.bind_tensor("state", &state).unwrap();
        let mut inputs: Vec<Owned> = (0..3).map(|_| place.alloc(5 * 6 * 4)).collect();
        for run in 0..9 {
            let x = Tensor::random(DType::F32, &[5, 6], rng.next_u64()).unwrap();
            inputs[run % 3].write(x.data());
            session.bind_device("x", &[5, 6], inputs[run % 3].user()).unwrap();
            if run == 5 {
                // The others keep their memory.
                session.unbind_output("y").unwrap();
            }
            session.poison(0xcb).unwrap();
            session.run_bound().unwrap();
            let expected = interpret(&graph, &[x.clone(), state]).unwrap();
            for ((name, found), expected) in
                ["next", "y", "flat"].map(|o| (o, session.output(o).unwrap())).iter().zip(&expected)
            {
                assert_eq!(found, expected, "{device}, run {run}, {name}");
            }
            let same = y.read() == expected[1].data()[..];
            assert_eq!(same, run < 5, "{device}, run {run}");
            state = expected[0].clone();
        }
    }
}

#[test]
fn more_memory_than_is_kept_is_right_too() {
    let graph = step();
    let engine = built(&graph);
    let mut rng = rng();
    for (mut session, place) in sessions(&engine) {
        let mut all: Vec<Owned> = (0..120).map(|_| place.alloc(2 * 6 * 4)).collect();
        for _ in 0..2 {
            for three in all.chunks_mut(3) {
                let inputs = [0, 1].map(|_| Tensor::random(DType::F32, &[2, 6], rng.next_u64()).unwrap());
                let [x, state, y] = three else { unreachable!() };
                x.write(inputs[0].data());
                state.write(inputs[1].data());
                session.bind_device("x", &[2, 6], x.user()).unwrap();
                session.bind_device("state", &[2, 6], state.user()).unwrap();
                session.bind_output("y", y.user()).unwrap();
                session.run_bound().unwrap();
                session.synchronize().unwrap();
                assert_eq!(y.read(), interpret(&graph, &inputs).unwrap()[1].data()[..], "{}", session.device_name());
            }
        }
    }
}

#[test]
fn memory_that_cannot_be_is_refused_before_anything_runs() {
    let engine = built(&step());
    for (mut session, place) in sessions(&engine) {
        let device = session.device_name();
        let text = |r: Result<(), Error>| r.unwrap_err().to_string();
        let expect = |found: String, words: &[&str]| {
            words.iter().for_each(|w| assert!(found.contains(w), "{device}: {w}: {found}"))
        };
        let (mut a, mut b, mut c) = (place.alloc(4096), place.alloc(4096), place.alloc(4096));
        // SAFETY: refused, or never used.
        let at = |address, bytes| unsafe { UserMemory::new(address, bytes) };
        expect(text(session.bind_device("x", &[2, 6], at(0, 48))), &["input `x`", "address 0"]);
        expect(text(session.bind_device("x", &[2, 6], a.at(8, 48))), &["input `x`", "expected a multiple of"]);
        expect(text(session.bind_device("x", &[2, 6], a.at(0, 47))), &["input `x`", "at least 48 bytes, found 47"]);
        expect(
            text(session.bind_device("x", &[2, 6], at(u64::MAX - 255, 4096))),
            &["input `x`", "which no memory has"],
        );
        expect(text(session.bind_device("x", &[2], a.user())), &["expected f32[R, 6]"]);
        expect(text(session.bind_device("z", &[2, 6], a.user())), &["no such input"]);
        expect(text(session.bind_device("x", &[1 << 40, 1 << 40], a.user())), &["more than can be counted"]);
        expect(text(session.bind_output("z", a.user())), &["no such output"]);
        expect(text(session.bind_output("y", at(0, 48))), &["output `y`", "address 0"]);
        expect(text(session.bind_arena(a.at(64, 512))), &["arena", "a multiple of 256"]);
        if !matches!(place, Place::Host) {
            expect(text(session.bind_device("x", &[2, 6], at(0x7f00_0000_0000, 48))), &["0x7f0000000000"]);
            expect(text(session.bind_device("x", &[2, 6], a.at(0, 4096 + EDGE + 4096))), &["bytes"]);
        }
        session.bind_device("x", &[2, 6], a.at(0, 512)).unwrap();
        expect(text(session.bind_device("state", &[2, 6], a.at(256, 512))), &["input `state`", "overlaps"]);
        expect(text(session.bind_output("y", a.at(0, 48))), &["output `y`", "overlaps"]);
        expect(text(session.bind_arena(a.at(0, 2048))), &["arena", "overlaps"]);
        session.bind_device("state", &[2, 6], a.at(512, 512)).unwrap();
        // Its own place is free to it.
        session.bind_device("x", &[2, 6], a.at(256, 256)).unwrap();
        session.bind_output("y", b.at(0, 47)).unwrap();
        expect(text(session.bind_output("flat", c.user())), &["`flat`", "no memory of its own", "the same as"]);
        expect(text(session.donate("y", "x")), &["the user's"]);
        expect(text(session.run_bound()), &["output `y`", "at least 48 bytes, found 47"]);
        expect(text(session.read("y", &mut [0f32; 12])), &["before a run"]);
        session.bind_output("y", b.at(0, 48)).unwrap();
        let needed = session.arena_bytes(&[("x", &[2, 6]), ("state", &[2, 6])]).unwrap();
        assert!(needed > 0, "{device}");
        expect(text(session.arena_bytes(&[("x", &[2, 6])]).map(|_| ())), &["`state`: missing"]);
        expect(text(session.arena_bytes(&[("x", &[2, 6]), ("state", &[3, 6])]).map(|_| ())), &["R"]);
        expect(text(session.arena_bytes(&[("z", &[2, 6])]).map(|_| ())), &["no such input"]);
        session.bind_arena(c.at(0, needed - 1)).unwrap();
        expect(text(session.run_bound()), &["arena", &format!("at least {needed} bytes, found {}", needed - 1)]);
        let mut fits = place.alloc(needed);
        session.bind_arena(fits.user()).unwrap();
        let inputs = [3, 4].map(|seed| Tensor::random(DType::F32, &[2, 6], seed).unwrap());
        a.store(EDGE + 256, inputs[0].data());
        a.store(EDGE + 512, inputs[1].data());
        session.poison(0xcb).unwrap();
        session.run_bound().unwrap();
        session.synchronize().unwrap();
        let (found, expected) = (b.read(), interpret(&step(), &inputs).unwrap());
        assert_eq!(found[..48], expected[1].data()[..], "{device}");
        assert!(found[48..].iter().all(|&byte| byte == MARK), "{device}");
        assert_eq!(session.output("next").unwrap(), expected[0], "{device}");
        fits.read();
    }
}

/// A cache `[2, 9, 6]` whose rows at `at` are `rows`, and the sums over what it then holds; `twice`: rows are put there and, doubled, one further; `old`: and the cache as it was, doubled.
fn caching(dtype: DType, twice: bool, old: bool) -> Graph {
    let mut b = Builder::new("caching");
    let count = b.symbol("N", 1, 4);
    let cache = b.input("cache", dtype, &[2, 9, 6].map(Dim::from)).unwrap();
    let at = b.input("at", DType::I64, std::slice::from_ref(&count)).unwrap();
    let rows = b.input("rows", dtype, &[2.into(), count, 6.into()]).unwrap();
    let two = |b: &mut Builder, x: ValueId| b.plus(x, x).unwrap();
    let mut next = b.scatter(cache, at, rows, 1, ScatterOp::Set).unwrap();
    if twice {
        let one = b.scalar_int(DType::I64, 1).unwrap();
        let after = b.plus(at, one).unwrap();
        let more = two(&mut b, rows);
        next = b.scatter(next, after, more, 1, ScatterOp::Set).unwrap();
    }
    let sums = b.sum(next, &[1], false).unwrap();
    b.output("next", next);
    b.output("sums", sums);
    if old {
        // Made of the sums, so that it cannot be before them.
        let wide = b.unsqueeze(sums, &[1]).unwrap();
        let doubled = b.plus(cache, wide).unwrap();
        b.output("old", doubled);
    }
    b.finish()
}

/// Random places, some of them counted from the end, some alike, and rows.
fn update(rng: &mut Rng, dtype: DType, twice: bool) -> [Tensor; 2] {
    let count = rng.range(1, 4) as usize;
    let places: Vec<i128> = (0..count).map(|_| rng.range(-9, if twice { 7 } else { 8 }).into()).collect();
    // One further than the last from the end is the first.
    let places: Vec<i128> = places.into_iter().map(|at| if twice && at == -1 { 3 } else { at }).collect();
    let at = Tensor::from_i128(DType::I64, &[count], &places).unwrap();
    [at, Tensor::random(dtype, &[2, count, 6], rng.next_u64()).unwrap()]
}

#[test]
fn an_output_may_update_an_input_where_it_lies() {
    let mut rng = rng();
    for (dtype, twice) in [(DType::F16, false), (DType::F32, true), (DType::F32, false)] {
        let graph = caching(dtype, twice, false);
        let engine = built(&graph);
        for (mut session, place) in sessions(&engine) {
            let device = session.device_name();
            assert_eq!((session.updates("next").unwrap(), session.updates("sums").unwrap()), (Some("cache"), None));
            let mut cache = Tensor::random(dtype, &[2, 9, 6], rng.next_u64()).unwrap();
            let bytes = cache.data().len();
            let (mut memory, mut other) = (place.of(cache.data()), place.alloc(bytes));
            session.bind_device("cache", &[2, 9, 6], memory.user()).unwrap();
            for run in 0..9 {
                // In place, then to memory of its own, then by memory of the session's, and in place again.
                let in_place = !(3..6).contains(&run);
                match run {
                    0 | 6 => session.bind_output("next", memory.user()).unwrap(),
                    3 => session.bind_output("next", other.user()).unwrap(),
                    5 => session.unbind_output("next").unwrap(),
                    _ => {}
                }
                let [at, rows] = update(&mut rng, dtype, twice);
                session.bind_tensor("at", &at).unwrap();
                session.bind_tensor("rows", &rows).unwrap();
                session.poison(0xcb).unwrap();
                session.run_bound().unwrap();
                session.synchronize().unwrap();
                let expected = interpret(&graph, &[cache.clone(), at, rows]).unwrap();
                let what = format!("{device}, {dtype}, run {run}");
                assert_eq!(session.output("next").unwrap(), expected[0], "{what}");
                let apart = expected[1].to_f64_vec().into_iter().zip(session.output("sums").unwrap().to_f64_vec());
                apart.for_each(|(e, f)| assert!((e - f).abs() < 0.05, "{what}: {e} {f}"));
                if in_place {
                    cache = expected[0].clone();
                    // There is no other memory that it could be copied from.
                    assert_eq!(session.memory().user, bytes, "{what}");
                }
                assert_eq!(memory.read(), cache.data()[..], "{what}: the input");
                assert!(run != 3 && run != 4 || other.read() == expected[0].data()[..], "{what}");
            }
        }
    }
}

#[test]
fn a_donated_output_that_updates_its_input_stays_where_it_is() {
    let mut rng = rng();
    let graph = caching(DType::F16, false, false);
    let engine = built(&graph);
    for (mut session, _) in sessions(&engine) {
        let device = session.device_name();
        session.donate("next", "cache").unwrap();
        let mut cache = Tensor::random(DType::F16, &[2, 9, 6], rng.next_u64()).unwrap();
        for run in 0..6 {
            if run % 3 == 0 {
                session.bind_tensor("cache", &cache).unwrap();
            }
            let [at, rows] = update(&mut rng, DType::F16, false);
            session.bind_tensor("at", &at).unwrap();
            session.bind_tensor("rows", &rows).unwrap();
            session.poison(0xcb).unwrap();
            session.run_bound().unwrap();
            cache = interpret(&graph, &[cache, at, rows]).unwrap().remove(0);
            assert_eq!(session.output("next").unwrap(), cache, "{device}, run {run}");
            // The cache once, and room for the places and rows, which grow.
            assert!(session.memory().bound < 2 * cache.data().len(), "{device}: {:?}", session.memory());
        }
    }
}

#[test]
fn memory_is_updated_only_where_all_of_it_is_one_and_nothing_reads_it_after() {
    let mut rng = rng();
    let engine = built(&caching(DType::F32, false, false));
    for (mut session, place) in sessions(&engine) {
        let device = session.device_name();
        let mut memory = place.alloc(2 * 9 * 6 * 4 + 512);
        let bytes = 2 * 9 * 6 * 4;
        session.bind_device("cache", &[2, 9, 6], memory.at(256, bytes)).unwrap();
        for user in [memory.at(0, bytes), memory.at(512, bytes), memory.at(256, bytes + 64), memory.at(256, 256)] {
            let error = session.bind_output("next", user).unwrap_err().to_string();
            for word in ["output `next`", "overlaps", "exactly that memory"] {
                assert!(error.contains(word), "{device}: {word}: {error}");
            }
        }
        let error = session.bind_output("sums", memory.at(256, bytes)).unwrap_err().to_string();
        assert!(error.contains("overlaps") && !error.contains("exactly"), "{device}: {error}");
        session.bind_output("next", memory.at(256, bytes)).unwrap();
        let error = session.bind_device("cache", &[2, 9, 6], memory.at(0, bytes)).unwrap_err().to_string();
        assert!(error.contains("input `cache`") && error.contains("exactly that memory"), "{device}: {error}");
    }
    let graph = caching(DType::F32, false, true);
    let engine = built(&graph);
    for (mut session, place) in sessions(&engine) {
        let device = session.device_name();
        let cache = Tensor::random(DType::F32, &[2, 9, 6], rng.next_u64()).unwrap();
        let mut memory = place.of(cache.data());
        assert_eq!(session.updates("next").unwrap(), None, "{device}");
        session.bind_device("cache", &[2, 9, 6], memory.user()).unwrap();
        assert!(session.bind_output("next", memory.user()).unwrap_err().to_string().contains("overlaps"), "{device}");
        let [at, rows] = update(&mut rng, DType::F32, false);
        session.bind_tensor("at", &at).unwrap();
        session.bind_tensor("rows", &rows).unwrap();
        session.run_bound().unwrap();
        let expected = interpret(&graph, &[cache.clone(), at, rows]).unwrap();
        assert_eq!(session.output("next").unwrap(), expected[0], "{device}");
        let pairs = expected[2].to_f64_vec().into_iter().zip(session.output("old").unwrap().to_f64_vec());
        pairs.into_iter().for_each(|(e, f)| assert!((e - f).abs() < 1e-4, "{device}: {e} {f}"));
        assert_eq!(memory.read(), cache.data()[..], "{device}");
    }
}
