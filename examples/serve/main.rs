//! A server in one process: threads that share an engine, and clients that ask them.
//!
//! ```text
//! cargo run --release --example serve
//! ```

mod server;

use kiln::prelude::*;
use server::{Request, serve};
use std::sync::mpsc::channel;
use std::thread;

fn main() -> kiln::Result<()> {
    let model = Model::from(server::scores::graph()?).with_random_weights(1)?;
    let engine = EngineBuilder::new(&model).target("cpu")?.build()?;
    let (send, requests) = channel();
    thread::scope(|scope| {
        for client in 0..3 {
            let send = send.clone();
            scope.spawn(move || {
                for rows in 1..=4 {
                    let x = (0..rows * 64).map(|i| ((client * 97 + i) as f32 * 0.37).sin()).collect();
                    let (reply, answer) = channel();
                    // Whoever is gone gets no answer.
                    if send.send(Request { x, reply }).is_err() {
                        return;
                    }
                    if let Ok(scores) = answer.recv() {
                        println!("client {client}, {rows} rows: {:.3?}", &scores[..4]);
                    }
                }
            });
        }
        drop(send);
        serve(&engine, "cpu:1", 2, requests)
    })
}
