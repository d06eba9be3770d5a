//! All integration tests of the crate as one program: the libraries are linked once.

#[path = "../examples/text_embedding/bert.rs"]
mod bert;
mod bert_model;
mod cases;
mod draw_cli;
mod example_parts;
mod experts;
mod files_cli;
mod howto;
mod inspect_cli;
mod jit;
mod kernel_cli;
mod listed;
mod minilm;
mod model_macro;
mod model_methods;
mod observe_cli;
mod own_kernel;
mod report_cli;
mod sim_cli;
mod why_cli;
