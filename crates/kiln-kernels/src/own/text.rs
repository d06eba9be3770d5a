//! The text form of kernels of one's own, which files called `.tile` hold: what [`to_text`] writes, [`from_text`] reads.
//!
//! ```text
//! kiln kernels 1
//! == kernel gemm_gelu
//! == function
//! graph "linear_gelu" { ... }
//! == config {"bm":64,"bn":128}
//! kernel gemm_gelu "..." level tile
//! ...
//! == end 1
//! ```
//!
//! Sections begin with `== `: a kernel, the function of each of its instances in the text form of graphs, each Config with its program in the text form
//! of the tile IR. The end says how many programs there are, so that a file that lost its end is seen.

use super::{Candidate, Kernel};
use crate::{Error, Result};
use kiln_graph::Graph;
use kiln_tile::TileError;
use kiln_tile::ir::Program;
use std::borrow::Borrow;
use std::fmt::Write;

/// The version of the text form.
pub const VERSION: u32 = 1;

/// The largest file that is read.
pub const MOST_BYTES: u64 = 64 << 20;

const MAGIC: &str = "kiln kernels ";

/// The text of kernels.
pub fn to_text(kernels: &[impl Borrow<Kernel>]) -> String {
    let mut text = format!("{MAGIC}{VERSION}\n");
    let mut programs = 0;
    for kernel in kernels {
        let kernel: &Kernel = kernel.borrow();
        let _ = writeln!(text, "== kernel {}", kernel.name);
        for instance in &kernel.instances {
            let _ = write!(text, "== function\n{}", instance.function);
            for candidate in &instance.candidates {
                let _ = write!(text, "== config {}\n{}", candidate.config, candidate.program);
                programs += 1;
            }
        }
    }
    let _ = writeln!(text, "== end {programs}");
    text
}

/// Reads the text of kernels.
///
/// # Errors
/// Text of another version or that is none of kernels, with the line; kernels that are not what they say.
pub fn from_text(text: &str) -> Result<Vec<Kernel>> {
    let wrong = |line: usize, what: String| Error::Text { line: line + 1, what };
    let first = text.lines().next().unwrap_or_default();
    match first.strip_prefix(MAGIC).map(str::trim) {
        Some(version) if version == VERSION.to_string() => {}
        Some(version) => {
            return Err(wrong(0, format!("kernels of version {}, expected {VERSION}", shown(version))));
        }
        None => return Err(wrong(0, format!("expected `{MAGIC}{VERSION}`, found `{}`", shown(first)))),
    }
    let mut reader = Reader::default();
    let mut section: Option<(usize, &str)> = None;
    let mut body = String::new();
    for (line, content) in text.lines().enumerate().skip(1) {
        let Some(head) = content.strip_prefix("== ") else {
            body.push_str(content);
            body.push('\n');
            continue;
        };
        if let Some((at, head)) = section.replace((line, head)) {
            reader.section(at, head, &body)?;
        } else if !body.trim().is_empty() {
            return Err(wrong(1, "expected a section, as `== kernel NAME`".into()));
        }
        body.clear();
    }
    let last = text.lines().count();
    let Some((at, head)) = section else { return Err(wrong(last, "there is no kernel".into())) };
    let Some(count) = head.strip_prefix("end ") else {
        return Err(wrong(last, "the file has lost its end: there is no `== end`".into()));
    };
    if !body.trim().is_empty() || count.trim() != reader.programs.to_string() {
        return Err(wrong(at, format!("it ends after {} programs, and says {}", reader.programs, shown(count))));
    }
    reader.close()?;
    Ok(reader.kernels)
}

/// What a message shows of a line.
fn shown(text: &str) -> String {
    text.chars().take(60).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// What was read so far: of the last kernel, its instances; of the last instance, its programs.
#[derive(Default)]
struct Reader {
    kernels: Vec<Kernel>,
    function: Option<(usize, Graph)>,
    candidates: Vec<Candidate>,
    programs: usize,
}

impl Reader {
    fn section(&mut self, line: usize, head: &str, body: &str) -> Result<()> {
        let wrong = |what: String| Error::Text { line: line + 1, what };
        let (word, rest) = head.split_once(' ').unwrap_or((head, ""));
        match word {
            "kernel" => {
                self.close()?;
                let kernel = Kernel::new(rest).map_err(|e| wrong(e.to_string()))?;
                if self.kernels.iter().any(|other| other.name == kernel.name) {
                    return Err(wrong(format!("a second kernel is called `{}`", kernel.name)));
                }
                self.kernels.push(kernel);
                if !body.trim().is_empty() {
                    return Err(wrong("expected `== function` behind the kernel's name".into()));
                }
            }
            "function" => {
                self.close()?;
                if self.kernels.is_empty() {
                    return Err(wrong("a function without a kernel".into()));
                }
                let graph = body.parse().map_err(|e| wrong(format!("the function: {e}")))?;
                self.function = Some((line, graph));
            }
            "config" => {
                if self.function.is_none() {
                    return Err(wrong("a Config without a function".into()));
                }
                let config =
                    serde_json::from_str(rest).map_err(|e| wrong(format!("the Config `{}`: {e}", shown(rest))))?;
                let program: Program = body.parse().map_err(|e| match e {
                    TileError::Text { line: within, column, expected, found } => Error::Text {
                        line: line + 1 + within,
                        what: format!("column {column}: expected {expected}, found {found}"),
                    },
                    e => wrong(e.to_string()),
                })?;
                self.candidates.push(Candidate { config, program });
                self.programs += 1;
            }
            _ => {
                return Err(wrong(format!(
                    "no section is called `{}`; there are kernel, function, config, end",
                    shown(word)
                )));
            }
        }
        Ok(())
    }

    /// Ends an instance.
    fn close(&mut self) -> Result<()> {
        let Some((line, function)) = self.function.take() else { return Ok(()) };
        let Some(kernel) = self.kernels.pop() else { return Ok(()) };
        let candidates = std::mem::take(&mut self.candidates);
        let made = kernel.instance(function, candidates);
        self.kernels.push(made.map_err(|e| Error::Text { line: line + 1, what: e.to_string() })?);
        Ok(())
    }
}
