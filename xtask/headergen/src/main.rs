//! `headergen SOURCE`: prints the C header of one Rust file.
#![forbid(unsafe_code)]

use cbindgen::{Builder, Config, DocumentationStyle, Language};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let source = std::env::args_os().nth(1).ok_or("usage: headergen SOURCE")?;
    let config = Config {
        language: Language::C,
        cpp_compat: true,
        include_guard: Some("KILN_H".into()),
        no_includes: true,
        sys_includes: vec!["stddef.h".into(), "stdint.h".into()],
        usize_is_size_t: true,
        header: Some("/* Engines from C. Made from crates/kiln-c by `cargo xtask header`. */".into()),
        documentation_style: DocumentationStyle::C99,
        line_length: 120,
        ..Config::default()
    };
    Builder::new().with_config(config).with_src(source).generate()?.write(std::io::stdout());
    Ok(())
}
