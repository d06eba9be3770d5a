//! Sessions that share code and weights, each on a thread of its own.

use crate::models::{block, convnet, engine_at, half_block, home};
use crate::own::devices;
use kiln_engine::{Device, Engine, Error, Session, SimDevice, open_device};
use kiln_graph::{BinaryOp, Builder, DType, Dim, Graph, Rng, Tensor};
use std::thread;

const TARGETS: [&str; 3] = ["cpu", "sm_80", "sm_90a"];

/// Every device that an engine for [`TARGETS`] runs on here.
fn all() -> impl Iterator<Item = Box<dyn Device>> {
    std::iter::once(open_device("cpu:2").unwrap()).chain(devices("sm_80")).chain(devices("sm_90a"))
}

/// Seeds that are others in every process.
fn rng() -> Rng {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    Rng::new(seed)
}

fn run(session: &mut Session, name: &str, x: &Tensor) -> Vec<Tensor> {
    session.poison(0xcb).unwrap();
    session.run(&[(name, x)]).unwrap().into_iter().map(|(_, y)| y).collect()
}

#[test]
fn threads_get_what_one_session_gets() {
    type Shape = fn(u64) -> Vec<usize>;
    let cases: [(Graph, &str, DType, Shape); 3] = [
        (block(), "x", DType::F32, |r| vec![1 + r as usize % 3, 1 + (r >> 8) as usize % 40, 24]),
        (convnet(), "image", DType::F32, |r| vec![1, 3, 5 + r as usize % 9, 5 + (r >> 8) as usize % 9]),
        (half_block(), "x", DType::F16, |r| vec![1 + r as usize % 70, 64]),
    ];
    let mut rng = rng();
    for (graph, name, dtype, shape) in cases {
        let engine = engine_at(&graph, &TARGETS, home());
        for device in all() {
            let mut alone = Session::new(&engine, device).unwrap();
            // Some shapes again and again, of which every thread has its own order.
            let inputs: Vec<Tensor> =
                (0..5).map(|_| Tensor::random(dtype, &shape(rng.next_u64()), rng.next_u64()).unwrap()).collect();
            let expected: Vec<Vec<Tensor>> = inputs.iter().map(|x| run(&mut alone, name, x)).collect();
            let forks: Vec<Session> = (0..3).map(|_| alone.fork().unwrap()).collect();
            let memory = alone.memory();
            assert_eq!((memory.weights, memory.sessions), (forks[0].memory().weights, 4));
            thread::scope(|scope| {
                for (i, mut session) in forks.into_iter().chain([alone]).enumerate() {
                    let (inputs, expected) = (&inputs, &expected);
                    scope.spawn(move || {
                        for at in (0..2 * inputs.len()).map(|n| (n * (i + 1) + i) % inputs.len()) {
                            let device = session.device_name();
                            assert_eq!(run(&mut session, name, &inputs[at]), expected[at], "{device}, thread {i}");
                        }
                    });
                }
            });
        }
    }
}

/// `next = state + w`, `y = x[at] * 2`.
fn counter() -> Graph {
    let mut b = Builder::new("counter");
    let rows = b.symbol("R", 1, 32);
    let state = b.input("state", DType::F32, &[Dim::from(7)]).unwrap();
    let x = b.input("x", DType::F32, &[rows, 7.into()]).unwrap();
    let at = b.input("at", DType::I64, &[3.into()]).unwrap();
    let w = b.weight_data("w", Tensor::random(DType::F32, &[7], 3).unwrap()).unwrap();
    let next = b.binary(BinaryOp::Add, state, w).unwrap();
    let y = b.gather(x, at, 0).unwrap();
    let y = b.binary(BinaryOp::Add, y, y).unwrap();
    b.output("next", next);
    b.output("y", y);
    b.finish()
}

#[test]
fn what_is_bound_donated_or_wrong_is_of_one_session() {
    let engine = engine_at(&counter(), &TARGETS, home());
    let mut rng = rng();
    for device in all() {
        let mut first = Session::new(&engine, device).unwrap();
        first.donate("next", "state").unwrap();
        first.bind("state", &[7], &[0f32; 7]).unwrap();
        let mut second = first.fork().unwrap();
        let missing = second.run_bound().unwrap_err().to_string();
        assert!(missing.contains("`state`: missing"), "{missing}");
        second.bind("state", &[7], &[0f32; 7]).unwrap();
        let (rows, other) = (1 + rng.next_u64() as usize % 16, 17 + rng.next_u64() as usize % 16);
        for (session, rows) in [(&mut first, rows), (&mut second, other)] {
            session.bind_tensor("x", &Tensor::random(DType::F32, &[rows, 7], rng.next_u64()).unwrap()).unwrap();
            session.bind("at", &[3], &[rows as i64 - 1, 0, -(rows as i64)]).unwrap();
        }
        // One reads rows that there are not, while the other is right and counts on.
        first.bind("at", &[3], &[0, rows as i64, 0]).unwrap();
        let w = engine.weights["w"].to_vec::<f32>().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..4 {
                    let error = first.run_bound().and_then(|()| first.output("y")).unwrap_err();
                    // On a GPU by the call that waits, which says of which run it is.
                    let error = match error {
                        Error::Run { source, .. } => *source,
                        error => error,
                    };
                    let known = matches!(error, Error::OutOfRange { .. } | Error::Cpu(kiln_cpu::Error::Index { .. }));
                    assert!(known, "{error}");
                }
            });
            scope.spawn(|| {
                for _ in 0..4 {
                    second.poison(0xcb).unwrap();
                    second.run_bound().unwrap();
                    let mut next = [0f32; 7];
                    second.read("next", &mut next).unwrap();
                    // Nothing is donated here.
                    assert_eq!(next, w[..], "{}", second.device_name());
                    second.output("y").unwrap();
                }
            });
        });
    }
}

/// Memory of the simulator comes one block after the other: what lies between two says what was allocated meanwhile.
#[test]
fn a_fork_takes_no_memory_for_code_and_weights() {
    let engine = engine_at(&block(), &["sm_80"], home());
    let device = SimDevice::new("sm_80", kiln_sim::Options::default());
    let simulated = device.simulated();
    let at = || simulated.alloc(1).unwrap();
    let (before, next) = (at(), at());
    let first = Session::new(&engine, Box::new(device)).unwrap();
    let loaded = at();
    assert!(loaded - next > engine.weight_bytes() as u64);
    let mut fork = first.fork().unwrap();
    assert_eq!(at() - loaded, next - before);
    run(&mut fork, "x", &Tensor::random(DType::F32, &[1, 3, 24], rng().next_u64()).unwrap());
}

#[test]
fn sessions_go_in_any_order() {
    let graph = block();
    let engine = engine_at(&graph, &TARGETS, home());
    let x = Tensor::random(DType::F32, &[2, 9, 24], rng().next_u64()).unwrap();
    for device in all() {
        let mut first = Session::new(&engine, device).unwrap();
        let expected = run(&mut first, "x", &x);
        let mut second = first.fork().unwrap();
        let mut third = second.fork().unwrap();
        assert_eq!(first.memory().sessions, 3);
        drop(first);
        assert_eq!(run(&mut third, "x", &x), expected);
        drop(third);
        // What the others had of the device went with them.
        assert_eq!((second.memory().sessions, second.memory().arena), (1, 0));
        assert_eq!(run(&mut second, "x", &x), expected);
    }
}

#[test]
fn engines_and_what_sessions_share_may_go_between_threads() {
    fn sent<T: Send>() {}
    fn shared<T: Send + Sync>() {}
    sent::<Session>();
    shared::<Engine>();
}

/// Weights of kernels that were not taken after all are freed while recordings of those that run stay.
#[test]
fn freeing_what_is_shared_leaves_recordings() {
    for name in ["cpu", "sim:sm_80"] {
        let mut device = open_device(name).unwrap();
        let shared = device.map(vec![1; 64].into()).unwrap();
        let own = device.alloc(64).unwrap();
        let recording = device.record(&[]).unwrap().expect(name);
        device.free(shared).unwrap();
        device.replay(recording).unwrap();
        device.free(own).unwrap();
    }
}
