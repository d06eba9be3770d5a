//! The loop of a server: each thread has a session of its own, all share one copy of code and weights.

use kiln::engine::UserMemory;
use kiln::prelude::*;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// The model that is served.
#[kiln::model]
pub fn scores<B>(x: Tensor<f32, B, 64>) -> Tensor<f32, B, 16> {
    x.matmul(weight!("w", f32, [64, 16])).softmax(-1)
}

/// Rows of 64 values, and where their scores go.
pub struct Request {
    pub x: Vec<f32>,
    pub reply: Sender<Vec<f32>>,
}

/// Answers requests on so many threads until nobody sends any more.
pub fn serve(engine: &Engine, device: &str, threads: usize, requests: Receiver<Request>) -> kiln::Result<()> {
    let first = engine.session(device)?;
    let mut sessions = (1..threads).map(|_| first.fork()).collect::<Result<Vec<_>, _>>()?;
    sessions.push(first);
    let requests = Mutex::new(requests);
    thread::scope(|scope| {
        let workers: Vec<_> = sessions.into_iter().map(|session| scope.spawn(|| work(session, &requests))).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// Rows of a request, at most.
const ROWS: usize = 64;

/// What a request brings and gets, where the session reads and writes it: nothing is copied to or from memory of the session's own.
#[repr(C, align(64))]
struct Room {
    x: [f32; ROWS * 64],
    scores: [f32; ROWS * 16],
}

fn memory(values: &mut [f32]) -> UserMemory {
    let address = values.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: the room lives longer than the session, and is used only between the session's calls.
    unsafe { UserMemory::new(address, size_of_val(values)) }
}

fn work(mut session: Session, requests: &Mutex<Receiver<Request>>) -> kiln::Result<()> {
    let mut room = Box::new(Room { x: [0.0; ROWS * 64], scores: [0.0; ROWS * 16] });
    loop {
        // The lock is held while waiting, by one thread: the others wait for the lock.
        let next = requests.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Request { x, reply }) = next else { return Ok(()) };
        let rows = x.len() / 64;
        // Whose request is no rows, or too many, finds its channel closed.
        if !(1..=ROWS).contains(&rows) || x.len() != rows * 64 {
            continue;
        }
        room.x[..x.len()].copy_from_slice(&x);
        session.bind_device("x", &[rows, 64], memory(&mut room.x))?;
        session.bind_output("output", memory(&mut room.scores))?;
        session.run_bound()?;
        session.synchronize()?;
        // A client that has gone is no error of the server's.
        let _ = reply.send(room.scores[..rows * 16].to_vec());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn every_request_gets_its_own_answer() {
        let model = Model::from(scores::graph().unwrap()).with_random_weights(5).unwrap();
        let engine = EngineBuilder::new(&model).target("cpu").unwrap().build().unwrap();
        let (send, requests) = channel();
        let seed = std::process::id() as usize;
        thread::scope(|scope| {
            for client in 0..5 {
                let (send, model) = (send.clone(), &model);
                scope.spawn(move || {
                    for rows in 1..=6usize {
                        let (reply, refused) = channel();
                        send.send(Request { x: vec![1.0; 65 * 64 + rows], reply }).unwrap();
                        assert!(refused.recv().is_err());
                        let x: Vec<f32> = (0..rows * 64).map(|i| ((seed + client * 997 + i) as f32).sin()).collect();
                        let (reply, answer) = channel();
                        send.send(Request { x: x.clone(), reply }).unwrap();
                        let x = Tensor::from_slice(&[rows, 64], &x).unwrap();
                        let expected = kiln::graph::interpret(model.graph(), &[x]).unwrap()[0].to_f64_vec();
                        let found = answer.recv().unwrap();
                        assert_eq!(found.len(), expected.len());
                        let apart = expected.iter().zip(&found).map(|(e, f)| (e - f64::from(*f)).abs());
                        assert!(apart.fold(0.0, f64::max) < 1e-5, "client {client}, {rows} rows");
                    }
                });
            }
            drop(send);
            serve(&engine, "cpu:1", 3, requests).unwrap();
        });
    }
}
