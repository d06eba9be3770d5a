//! Weights that are copied to the device ahead of their step.

use crate::models::{engine_at, half_block, home};
use crate::own::devices;
use kiln_engine::{Engine, Error, Memory, Session, SessionOptions, open_device};
use kiln_graph::{Builder, DType, Graph, Rng, Tensor};

/// Layers of several sizes, the first of which is used twice, at the start and at the end.
fn layers() -> Graph {
    let mut b = Builder::new("layers");
    let rows = b.symbol("R", 1, 64);
    let mut x = b.input("x", DType::F16, &[rows, 64.into()]).unwrap();
    let weight = |b: &mut Builder, name: &str, shape: &[usize], seed| {
        b.weight_data(name, Tensor::random(DType::F16, shape, seed).unwrap()).unwrap()
    };
    let first = weight(&mut b, "first", &[64, 64], 99);
    x = b.linear(x, first, None, false).unwrap();
    for (i, width) in [96, 64, 128, 80, 64, 96, 64].into_iter().enumerate() {
        let seed = 2 * i as u64;
        let (up, bias) = (
            weight(&mut b, &format!("up{i}"), &[64, width], seed),
            weight(&mut b, &format!("bias{i}"), &[width], seed),
        );
        let down = weight(&mut b, &format!("down{i}"), &[width, 64], seed + 1);
        x = b.linear(x, up, Some(bias), false).unwrap();
        x = b.softmax(x, -1).unwrap();
        x = b.linear(x, down, None, false).unwrap();
    }
    x = b.linear(x, first, None, false).unwrap();
    b.output("y", x);
    b.finish()
}

fn within(engine: &Engine, device: Box<dyn kiln_engine::Device>, budget: usize) -> Result<Session, Error> {
    Session::with_options(engine, device, &SessionOptions { weight_budget: Some(budget as u64) })
}

fn run(session: &mut Session, x: &Tensor) -> Tensor {
    session.poison(0xcb).unwrap();
    session.run(&[("x", x)]).unwrap().remove(0).1
}

fn rng() -> Rng {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    Rng::new(seed)
}

#[test]
fn results_are_the_same_to_the_bit_within_any_budget() {
    let mut rng = rng();
    for (graph, some) in [(layers(), true), (half_block(), false)] {
        for target in ["sm_80", "sm_90a"] {
            let engine = engine_at(&graph, &[target], home());
            for at in 0..devices(target).len() {
                let device = || devices(target).swap_remove(at);
                let mut whole = Session::new(&engine, device()).unwrap();
                let inputs: Vec<Tensor> = [3 + rng.next_u64() as usize % 20, 1, 37]
                    .map(|rows| Tensor::random(DType::F16, &[rows, 64], rng.next_u64()).unwrap())
                    .into();
                let expected: Vec<Tensor> = inputs.iter().map(|x| run(&mut whole, x)).collect();
                let total = whole.memory().weights;
                let least = match within(&engine, device(), 0).err() {
                    Some(Error::WeightBudget { budget: 0, least }) => least,
                    other => panic!("{other:?}"),
                };
                assert!(!some || least < total / 2, "{least} of {total}");
                for budget in [least, least + (rng.next_u64() as usize) % (total - least.min(total) + 1), 2 * total] {
                    let mut session = within(&engine, device(), budget).unwrap();
                    for round in 0..2 {
                        for (x, expected) in inputs.iter().zip(&expected) {
                            assert_eq!(&run(&mut session, x), expected, "{target}, {budget} bytes, round {round}");
                        }
                    }
                    let Memory { weights, streamed, .. } = session.memory();
                    assert!(weights + streamed <= budget, "{weights} + {streamed} > {budget}");
                    assert_eq!(weights == total, streamed == 0);
                    assert!(budget < 2 * total || streamed == 0);
                    assert!(!some || budget > least || (streamed > 0 && weights < total / 2), "{weights} {streamed}");
                }
            }
        }
    }
}

#[test]
fn sessions_that_share_weights_have_buffers_of_their_own() {
    let engine = engine_at(&layers(), &["sm_80", "sm_90a"], home());
    let mut rng = rng();
    for device in devices("sm_80").into_iter().chain(devices("sm_90a")) {
        let target = device.target();
        let mut whole = engine.session(&format!("sim:{target}")).unwrap();
        let first = within(&engine, device, whole.memory().weights * 2 / 3).unwrap();
        let mut sessions: Vec<Session> = (0..2).map(|_| first.fork().unwrap()).collect();
        sessions.push(first);
        let all: Vec<(Tensor, Tensor)> = sessions
            .iter()
            .map(|_| {
                let x = Tensor::random(DType::F16, &[1 + rng.next_u64() as usize % 30, 64], rng.next_u64()).unwrap();
                let y = run(&mut whole, &x);
                (x, y)
            })
            .collect();
        std::thread::scope(|scope| {
            for (mut session, (x, y)) in sessions.into_iter().zip(&all) {
                scope.spawn(move || {
                    let bits = !session.device_name().starts_with("cuda");
                    let before = run(&mut session, x);
                    assert!(!bits || before == *y, "{}", session.device_name());
                    for _ in 0..4 {
                        assert_eq!(run(&mut session, x), before, "{}", session.device_name());
                    }
                    assert!(session.memory().streamed > 0);
                });
            }
        });
    }
}

#[test]
fn a_budget_holds_for_kernels_that_are_taken_later() {
    let engine = engine_at(&layers(), &["sm_80"], home());
    for device in devices("sm_80") {
        let x = Tensor::random(DType::F16, &[9, 64], rng().next_u64()).unwrap();
        let budget = engine.weight_bytes() / 2;
        let mut session = within(&engine, device, budget).unwrap();
        let mut fork = session.fork().unwrap();
        let expected = run(&mut session, &x);
        let before = session.memory();
        for round in 1..4 {
            session.swap(&engine).unwrap();
            assert_eq!(run(&mut session, &x), expected);
            assert_eq!(run(&mut fork, &x), expected);
            assert_eq!((session.swaps(), fork.swaps()), (round, round));
            let Memory { weights, streamed, .. } = session.memory();
            assert_eq!((weights, streamed), (before.weights, before.streamed));
            assert!(weights + streamed <= budget && streamed > 0);
        }
    }
}

#[test]
fn where_the_host_s_memory_is_shared_a_budget_changes_nothing() {
    let engine = engine_at(&layers(), &["cpu"], home());
    let x = Tensor::random(DType::F16, &[7, 64], rng().next_u64()).unwrap();
    let mut whole = engine.session("cpu:2").unwrap();
    let mut session = within(&engine, open_device("cpu:2").unwrap(), 0).unwrap();
    assert_eq!(run(&mut session, &x), run(&mut whole, &x));
    assert_eq!((session.memory().streamed, session.memory().weights), (0, whole.memory().weights));
}
