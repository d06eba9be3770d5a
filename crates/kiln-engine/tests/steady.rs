//! A run on bound inputs whose shapes were seen before allocates nothing.
#![allow(missing_docs, unsafe_code)]

#[allow(dead_code)]
#[path = "it/models.rs"]
mod models;

use kiln_engine::{Session, open_device};
use kiln_graph::{Builder, DType, Graph, Tensor};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the allocations of all threads.
struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all calls go to the system's allocator as they are.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn map() -> Graph {
    let mut b = Builder::new("map");
    let x = b.input("x", DType::F32, &[64.into()]).unwrap();
    let y = b.tanh(x).unwrap();
    b.output("y", y);
    b.finish()
}

fn rows() -> Graph {
    let mut b = Builder::new("rows");
    let x = b.input("x", DType::F32, &[300.into(), 2000.into()]).unwrap();
    let y = b.softmax(x, -1).unwrap();
    b.output("y", y);
    b.finish()
}

// One test: others would be counted with it.
#[test]
fn steady_runs_allocate_nothing() {
    let cases = [
        (map(), "x", vec![64]),
        (rows(), "x", vec![300, 2000]),
        (models::block(), "x", vec![2, 50, 24]),
        (models::convnet(), "image", vec![1, 3, 40, 31]),
    ];
    for (graph, name, shape) in cases {
        let engine = models::engine(&graph, &["cpu"], std::path::Path::new("unused"));
        for device in ["cpu:1", "cpu:2"] {
            let mut s = Session::new(&engine, open_device(device).unwrap()).unwrap();
            s.bind_tensor(name, &Tensor::random(DType::F32, &shape, 1).unwrap()).unwrap();
            let output = s.outputs().next().unwrap().0.to_owned();
            let mut y = vec![
                0f32;
                {
                    s.run_bound().unwrap();
                    s.output_shape(&output).unwrap().iter().product()
                }
            ];
            s.read(&output, &mut y).unwrap();
            let expected = y.clone();
            const RUNS: usize = 60;
            let mut window = || {
                let before = COUNT.load(Ordering::Relaxed);
                for _ in 0..RUNS {
                    s.run_bound().unwrap();
                    s.read(&output, &mut y).unwrap();
                }
                COUNT.load(Ordering::Relaxed) - before
            };
            // A run that enters the thread pool is a job in its queue, which takes memory for some tens of them at a time. A thread that works for
            // the first time, at whatever run that is, gets what it will keep: so the best of some windows counts.
            let queue = if graph.name == "map" { 0 } else { RUNS / 30 + 1 };
            let least = (0..8).map(|_| window()).min().unwrap();
            assert!(least <= queue, "{} on {device}: {least} allocations in {RUNS} runs", graph.name);
            assert_eq!(y, expected);
        }
    }
}
