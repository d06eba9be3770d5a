//! What a launch reports.

use crate::check::FindingKind;
use crate::counters::CounterReport;

/// One thing a kernel did wrong. The same instruction doing the same wrong again only raises `count`.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Finding {
    /// What is wrong.
    pub kind: FindingKind,
    /// Kernel name.
    pub kernel: String,
    /// Source file, when the PTX has line information.
    pub file: String,
    /// Source line, 0 when unknown.
    pub line: u32,
    /// Line of the PTX text.
    pub ptx_line: u32,
    /// CTA of the first occurrence.
    pub block: [u32; 3],
    /// Thread of the first occurrence.
    pub thread: [u32; 3],
    /// State space and address of the first occurrence.
    pub address: Option<(String, u64)>,
    /// What exactly happened, with the other access where there are two.
    pub message: String,
    /// Occurrences.
    pub count: u64,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} in `{}`", self.kind, self.message, self.kernel)?;
        if self.line > 0 {
            write!(f, " at {}:{}", self.file, self.line)?;
        }
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(f, " (PTX line {}), block ({bx},{by},{bz}) thread ({tx},{ty},{tz})", self.ptx_line)?;
        if let Some((space, at)) = &self.address {
            write!(f, ", {space} address {at:#x}")?;
        }
        if self.count > 1 {
            write!(f, ", {} times", self.count)?;
        }
        Ok(())
    }
}

/// The outcome of a launch.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Report {
    /// What the kernel did wrong, by position in the program.
    pub findings: Vec<Finding>,
    /// Warp instructions executed.
    pub instructions: u64,
    /// Counters, if they were asked for.
    pub counters: Option<CounterReport>,
}

impl Report {
    /// Whether nothing was found.
    pub fn clean(&self) -> bool {
        self.findings.is_empty()
    }
}
