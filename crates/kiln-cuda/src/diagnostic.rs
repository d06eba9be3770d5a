//! Compile errors a person can read: the kernel, the line, the source around it.

use std::fmt;

/// One message of the compiler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Line in the kernel's source, from 1; `None` when the assembler complains about the PTX.
    pub line: Option<u32>,
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
}

/// Errors shown in full; the rest are counted.
const SHOWN: usize = 5;
/// Lines of source shown on either side of an error.
const CONTEXT: usize = 2;

impl CompileFailure {
    /// Reads the errors from NVRTC's log; `file` is the name the source had.
    pub(crate) fn new(kernel: &str, arch: &str, source: &str, file: &str, log: String) -> Self {
        let errors = log.lines().filter_map(|line| parse_line(line, file)).collect();
        Self { kernel: kernel.to_owned(), arch: arch.to_owned(), errors, log, source: source.to_owned() }
    }
}

fn parse_line(line: &str, file: &str) -> Option<Diagnostic> {
    if let Some(rest) = line.strip_prefix(file).and_then(|rest| rest.strip_prefix('(')) {
        let (number, rest) = rest.split_once("): ")?;
        let (severity, message) = rest.split_once(": ")?;
        return severity
            .contains("error")
            .then(|| Diagnostic { line: number.parse().ok(), message: message.trim().to_owned() });
    }
    // "ptxas application ptx input, line 14; error   : Unexpected instruction types..."
    let assembler = line.strip_prefix("ptxas ")?;
    let (place, message) = assembler.split_once(':')?;
    let (place, fault) = (place.trim(), place.contains("error") || place.contains("fatal"));
    let at = place.split_once("line ").and_then(|(_, rest)| rest.split(';').next());
    fault.then(|| Diagnostic {
        line: None,
        message: match at {
            Some(at) => format!("assembler, PTX line {}: {}", at.trim(), message.trim()),
            None => format!("assembler: {}", message.trim()),
        },
    })
}

impl fmt::Display for CompileFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel `{}` does not compile for {}", self.kernel, self.arch)?;
        if self.errors.is_empty() {
            return write!(f, "; the compiler says:\n{}", self.log.trim());
        }
        let lines: Vec<&str> = self.source.lines().collect();
        for error in self.errors.iter().take(SHOWN) {
            match error.line {
                None => write!(f, "\n{}", error.message)?,
                Some(number) => {
                    write!(f, "\nline {number}: {}", error.message)?;
                    let at = number as usize;
                    let last = (at + CONTEXT).min(lines.len());
                    for shown in at.saturating_sub(CONTEXT).max(1)..=last {
                        let mark = if shown == at { '>' } else { ' ' };
                        write!(f, "\n{mark} {shown:>5} | {}", lines[shown - 1])?;
                    }
                }
            }
        }
        if self.errors.len() > SHOWN {
            write!(f, "\nand {} more", self.errors.len() - SHOWN)?;
        }
        Ok(())
    }
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
            [Diagnostic { line: Some(4), message: "identifier \"four\" is undefined".to_owned() }]
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
        assert_eq!(failure.errors.len(), 2);
        assert!(failure.to_string().contains("PTX line 14: Feature 'wgmma'"), "{failure}");
        let failure = CompileFailure::new("k", "sm_80", "x", "k.cu", "something else".to_owned());
        assert!(failure.to_string().contains("something else"));
        // A line number past the end of the source must not fail.
        let failure = CompileFailure::new("k", "sm_80", "x", "k.cu", "k.cu(900): error: odd".to_owned());
        assert!(failure.to_string().contains("line 900: odd"));
    }
}
