//! Compile errors a person can read: the kernel, the line, the source around it.

use std::fmt;

/// Where a message points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A line of the kernel's CUDA C, from 1.
    Source(u32),
    /// A line of the PTX made from it, from 1: the assembler's complaint, of inline PTX as a rule.
    Ptx(u32),
    /// No line.
    Whole,
}

/// One message of the compiler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The line at fault.
    pub place: Place,
    /// The message, without position or severity.
    pub message: String,
}

/// A kernel that does not compile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileFailure {
    /// Name of the kernel.
    pub kernel: String,
    /// The architecture it was compiled for.
    pub arch: String,
    /// The errors, in the compiler's order. Empty if the log has a shape not known here.
    pub errors: Vec<Diagnostic>,
    /// Everything the compiler printed.
    pub log: String,
    source: String,
    ptx: String,
}

/// Errors shown in full; the rest are counted.
const SHOWN: usize = 5;
/// Lines of source shown on either side of an error.
const CONTEXT: usize = 2;

impl CompileFailure {
    /// Reads the errors from NVRTC's log; `file` is the name the source had.
    pub(crate) fn new(kernel: &str, arch: &str, source: &str, file: &str, log: String) -> Self {
        let mut errors: Vec<Diagnostic> = log.lines().filter_map(|line| parse_line(line, file)).collect();
        // ptxas closes with a line that only says that there were errors.
        if errors.iter().any(|error| error.place != Place::Whole) {
            errors.retain(|error| !error.message.contains("aborted due to errors"));
        }
        let (kernel, arch, source) = (kernel.to_owned(), arch.to_owned(), source.to_owned());
        Self { kernel, arch, errors, log, source, ptx: String::new() }
    }

    /// True if a line of PTX is at fault, so that having the PTX would help.
    pub(crate) fn needs_ptx(&self) -> bool {
        self.errors.iter().any(|error| matches!(error.place, Place::Ptx(_)))
    }

    /// The same with the PTX, whose lines are then shown.
    pub(crate) fn with_ptx(self, ptx: String) -> Self {
        Self { ptx, ..self }
    }
}

fn parse_line(line: &str, file: &str) -> Option<Diagnostic> {
    if let Some(rest) = line.strip_prefix(file).and_then(|rest| rest.strip_prefix('(')) {
        let (number, rest) = rest.split_once("): ")?;
        let (severity, message) = rest.split_once(": ")?;
        let place = number.parse().map_or(Place::Whole, Place::Source);
        return severity.contains("error").then(|| Diagnostic { place, message: message.trim().to_owned() });
    }
    // "ptxas application ptx input, line 14; error   : Unexpected instruction types..."
    let (head, message) = line.strip_prefix("ptxas ")?.split_once(':')?;
    if !head.contains("error") && !head.contains("fatal") {
        return None;
    }
    let number = head.split_once("line ").and_then(|(_, rest)| rest.split(';').next()?.trim().parse().ok());
    Some(Diagnostic { place: number.map_or(Place::Whole, Place::Ptx), message: message.trim().to_owned() })
}

impl fmt::Display for CompileFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel `{}` does not compile for {}", self.kernel, self.arch)?;
        if self.errors.is_empty() {
            return write!(f, "; the compiler says:\n{}", self.log.trim());
        }
        for error in self.errors.iter().take(SHOWN) {
            match error.place {
                Place::Whole => write!(f, "\n{}", error.message)?,
                Place::Source(line) => {
                    write!(f, "\nline {line}: {}", error.message)?;
                    excerpt(f, &self.source, line)?;
                }
                Place::Ptx(line) => {
                    write!(f, "\nassembler, PTX line {line}: {}", error.message)?;
                    excerpt(f, &self.ptx, line)?;
                }
            }
        }
        if self.errors.len() > SHOWN {
            write!(f, "\nand {} more", self.errors.len() - SHOWN)?;
        }
        Ok(())
    }
}

/// The lines around `line`, which is marked; nothing if the text has no such line.
fn excerpt(f: &mut fmt::Formatter<'_>, text: &str, line: u32) -> fmt::Result {
    let line = line as usize;
    let first = line.saturating_sub(CONTEXT).max(1);
    let shown = text.lines().enumerate().map(|(at, text)| (at + 1, text));
    for (at, text) in shown.skip(first - 1).take_while(|&(at, _)| at <= line + CONTEXT) {
        let mark = if at == line { '>' } else { ' ' };
        write!(f, "\n{mark} {at:>5} | {text}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_source_around_the_error() {
        let source = "one\ntwo\nthree\nfour\nfive\nsix";
        let log = "k.cu(4): error: identifier \"four\" is undefined\n  four\n  ^\n\nk.cu(2): warning #1-D: odd\n\n1 error detected";
        let failure = CompileFailure::new("rows", "sm_80", source, "k.cu", log.to_owned());
        assert_eq!(
            failure.errors,
            [Diagnostic { place: Place::Source(4), message: "identifier \"four\" is undefined".to_owned() }]
        );
        let text = failure.to_string();
        assert!(text.starts_with("kernel `rows` does not compile for sm_80\nline 4: identifier"), "{text}");
        assert!(
            text.contains(">     4 | four") && text.contains("      2 | two") && text.contains("      6 | six"),
            "{text}"
        );
        assert!(!text.contains("| one"), "{text}");
    }

    #[test]
    fn assembler_errors_and_unknown_logs_are_kept() {
        let log = "ptxas application ptx input, line 14; error   : Feature 'wgmma' not supported on .target 'sm_80'\nptxas fatal   : Ptx assembly aborted due to errors";
        let failure = CompileFailure::new("k", "sm_80", "x", "k.cu", log.to_owned());
        assert_eq!(failure.errors.len(), 1, "{:?}", failure.errors);
        assert!(failure.needs_ptx());
        let text = failure.with_ptx((1..30).map(|i| format!("ptx{i}\n")).collect()).to_string();
        assert!(text.contains("PTX line 14: Feature 'wgmma'") && text.contains(">    14 | ptx14\n"), "{text}");
        let fatal = "ptxas fatal   : Unresolved extern function 'f'";
        let failure = CompileFailure::new("k", "sm_80", "x", "k.cu", fatal.to_owned());
        assert!(failure.to_string().ends_with("\nUnresolved extern function 'f'"), "{failure}");
        let failure = CompileFailure::new("k", "sm_80", "x", "k.cu", "something else".to_owned());
        assert!(failure.to_string().contains("something else"));
        // A line number past the end of the source must not fail.
        let failure = CompileFailure::new("k", "sm_80", "x", "k.cu", "k.cu(900): error: odd".to_owned());
        assert!(failure.to_string().contains("line 900: odd"));
    }
}
