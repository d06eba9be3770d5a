use crate::models::{block, convnet, engine};
use kiln_engine::{Error, Session, Tolerance, first_departure, open_device};
use kiln_graph::{DType, Graph, Tensor, interpret};

fn session(graph: &Graph) -> (kiln_engine::Engine, Session) {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(graph, &["cpu"], dir.path());
    let session = Session::new(&engine, open_device("cpu:2").unwrap()).unwrap();
    (engine, session)
}

fn agrees(graph: &Graph, session: &mut Session, name: &str, shape: &[usize], seed: u64) {
    let x = Tensor::random(DType::F32, shape, seed).unwrap();
    let expected = interpret(graph, std::slice::from_ref(&x)).unwrap();
    session.poison(0xcb).unwrap();
    let found = session.run(&[(name, &x)]).unwrap();
    for (e, (name, f)) in expected.iter().zip(&found) {
        let d = Tolerance { rtol: 1e-4, atol: 1e-5 }.compare(e, f);
        assert!(d.agrees(), "{shape:?} {name}: {d}");
    }
}

#[test]
fn one_engine_serves_every_shape_of_its_profile() {
    let graph = block();
    let (_, mut s) = session(&graph);
    for (i, shape) in [[1, 1, 24], [2, 17, 24], [8, 64, 24], [2, 17, 24], [1, 5, 24]].iter().enumerate() {
        agrees(&graph, &mut s, "x", shape, i as u64);
    }
    let graph = convnet();
    let (_, mut s) = session(&graph);
    for (i, shape) in [[1, 3, 5, 5], [1, 3, 40, 23], [1, 3, 11, 6]].iter().enumerate() {
        agrees(&graph, &mut s, "image", shape, 40 + i as u64);
    }
}

#[test]
fn memory_is_planned_close_to_its_lower_bound() {
    let graph = block();
    let (_, mut s) = session(&graph);
    agrees(&graph, &mut s, "x", &[8, 64, 24], 3);
    let m = s.memory();
    assert!(m.arena >= m.lower_bound && m.arena <= 2 * m.lower_bound, "{m:?}");
    assert_eq!(m.weights, 4 * (24 * 2 + 3 * 24 * 24));
}

#[test]
fn wrong_inputs_name_what_was_expected_and_found() {
    let (_, mut s) = session(&block());
    let ok = Tensor::random(DType::F32, &[1, 2, 24], 1).unwrap();
    let message = |r: Result<Vec<(String, Tensor)>, Error>| r.unwrap_err().to_string();
    assert!(message(s.run(&[])).contains("`x`"));
    assert!(message(s.run(&[("y", &ok)])).contains("no such input"));
    for (shape, hint) in [(vec![1, 2, 25], "24"), (vec![9, 2, 24], "8"), (vec![2, 24], "f32"), (vec![0, 2, 24], "1")] {
        let x = Tensor::random(DType::F32, &shape, 1).unwrap();
        let text = message(s.run(&[("x", &x)]));
        assert!(text.contains('x') && text.contains(hint), "{shape:?}: {text}");
    }
    let ints = Tensor::random(DType::I32, &[1, 2, 24], 1).unwrap();
    assert!(message(s.run(&[("x", &ints)])).contains("i32"));
    s.run(&[("x", &ok)]).unwrap();
}

#[test]
fn comparison_finds_no_departure_in_good_kernels() {
    let graph = block();
    let (engine, mut s) = session(&graph);
    let x = Tensor::random(DType::F32, &[2, 9, 24], 8).unwrap();
    let found = first_departure(&engine, &mut s, &[("x", &x)], Tolerance { rtol: 1e-4, atol: 1e-5 }).unwrap();
    assert!(found.is_none(), "{found:?}");
    // A tolerance that nothing meets must be noticed: this is what keeps the test above honest.
    let strict = Tolerance { rtol: 0.0, atol: 0.0 };
    assert!(first_departure(&engine, &mut s, &[("x", &x)], strict).unwrap().is_some());
}
