//! What the examples do before and after their models: the modules bring their own tests, which `cargo test` does not run in examples.
#![allow(dead_code, reason = "the tests use parts of each module")]

#[path = "../examples/ocr/boxes.rs"]
mod boxes;
#[path = "../examples/file_type/features.rs"]
mod features;
#[path = "../examples/ocr/lines.rs"]
mod lines;
#[path = "../examples/ocr/picture.rs"]
mod picture;
#[path = "../examples/serve/server.rs"]
mod server;
