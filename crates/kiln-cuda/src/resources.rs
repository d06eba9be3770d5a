//! What ptxas says a kernel uses: registers, spills, stack, shared memory, and the notes that mark a slow kernel.

use serde::{Deserialize, Serialize};

/// Resources of one function in a cubin.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FunctionResources {
    /// The function's (mangled) name.
    pub name: String,
    /// True for a `__global__` function, false for a device function that was not inlined.
    pub entry: bool,
    /// Registers a thread (0 for device functions: their caller's count covers them).
    pub registers: u32,
    /// Bytes a thread writes to local memory because registers ran out.
    pub spill_stores: u32,
    /// Bytes a thread reads back from there.
    pub spill_loads: u32,
    /// Bytes of stack frame a thread.
    pub stack: u32,
    /// Bytes of statically declared shared memory a block.
    pub static_smem: u32,
    /// Hardware barriers a block.
    pub barriers: u32,
}

/// The parsed output of `--ptxas-options=-v`, and the compiler's warnings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ResourceLog {
    /// One record a function, in ptxas's order.
    pub functions: Vec<FunctionResources>,
    /// Warnings and performance notes, one line each (C7510 and C7511 among them).
    pub warnings: Vec<String>,
}

impl ResourceLog {
    /// Parses a program log. Lines it does not know are passed over.
    pub fn parse(log: &str) -> Self {
        let mut parsed = Self::default();
        let mut current: Option<usize> = None;
        for line in log.lines() {
            let text = line.trim();
            if let Some(rest) = after(text, "Compiling entry function '") {
                current = Some(parsed.function(rest.split('\'').next().unwrap_or(rest)));
                if let Some(index) = current {
                    parsed.functions[index].entry = true;
                }
            } else if let Some(name) = after(text, "Function properties for ") {
                current = Some(parsed.function(name.trim()));
            } else if text.contains("bytes stack frame") {
                if let Some(function) = current.and_then(|index| parsed.functions.get_mut(index)) {
                    function.stack = number_before(text, " bytes stack frame");
                    function.spill_stores = number_before(text, " bytes spill stores");
                    function.spill_loads = number_before(text, " bytes spill loads");
                }
            } else if let Some(used) = after(text, ": Used ") {
                // ptxas prints "Used" after the properties of the entry, which may follow those of its callees.
                let index = current.filter(|&i| parsed.functions[i].entry);
                let index = index.or_else(|| parsed.functions.iter().rposition(|function| function.entry));
                if let Some(function) = index.and_then(|i| parsed.functions.get_mut(i)) {
                    function.registers = number_before(used, " registers");
                    function.barriers = number_before(used, " barriers");
                    function.static_smem = number_before(used, " bytes smem");
                }
            } else if text.contains("(C75") || text.contains(": warning") || text.starts_with("ptxas warning") {
                parsed.warnings.push(text.to_owned());
            }
        }
        parsed
    }

    fn function(&mut self, name: &str) -> usize {
        match self.functions.iter().position(|function| function.name == name) {
            Some(index) => index,
            None => {
                self.functions.push(FunctionResources { name: name.to_owned(), ..FunctionResources::default() });
                self.functions.len() - 1
            }
        }
    }

    /// The record of one `__global__` function.
    pub fn entry(&self, name: &str) -> Option<&FunctionResources> {
        self.functions.iter().find(|function| function.entry && function.name == name)
    }

    /// Registers a thread: the most of any function.
    pub fn registers(&self) -> u32 {
        self.most(|function| function.registers)
    }

    /// Bytes of stack: the most of any function.
    pub fn stack(&self) -> u32 {
        self.most(|function| function.stack)
    }

    /// Bytes of static shared memory: the most of any function.
    pub fn static_smem(&self) -> u32 {
        self.most(|function| function.static_smem)
    }

    /// Bytes of spill stores, over all functions.
    pub fn spill_stores(&self) -> u32 {
        self.functions.iter().map(|function| function.spill_stores).sum()
    }

    /// Bytes of spill loads, over all functions.
    pub fn spill_loads(&self) -> u32 {
        self.functions.iter().map(|function| function.spill_loads).sum()
    }

    /// True if registers spilled anywhere.
    pub fn spills(&self) -> bool {
        self.spill_stores() + self.spill_loads() > 0
    }

    /// True if ptxas serialized wgmma instructions (notes C7510, C7511 and C7514 among others): correct but slow.
    pub fn wgmma_serialized(&self) -> bool {
        self.warnings.iter().any(|warning| warning.contains("wgmma.mma_async instructions are serialized"))
    }

    /// True if ptxas put synchronization of its own between wgmma instructions, whose operands something wrote there (notes C7519 and others).
    pub fn wgmma_interrupted(&self) -> bool {
        self.warnings.iter().any(|warning| warning.contains("is injected"))
    }

    fn most(&self, of: impl Fn(&FunctionResources) -> u32) -> u32 {
        self.functions.iter().map(of).max().unwrap_or(0)
    }
}

fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.split_once(mark).map(|(_, rest)| rest)
}

/// The number that ends where `mark` starts; 0 if there is none, which is what ptxas means by leaving an item out.
fn number_before(text: &str, mark: &str) -> u32 {
    let Some((head, _)) = text.split_once(mark) else { return 0 };
    let start = head.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
    head[start..].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
kernel.cu(3): warning #177-D: variable \"unused\" was declared but never referenced

Remark: The warnings can be suppressed with \"-diag-suppress <warning-number>\"

ptxas info    : 12 bytes gmem
ptxas info    : Compiling entry function 'rows' for 'sm_90a'
ptxas info    : Function properties for rows
    40 bytes stack frame, 36 bytes spill stores, 52 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 40 bytes cumulative stack size, 8448 bytes smem
ptxas info    : Compile time = 4.1 ms
ptxas info    : Function properties for helper
    16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to \
function call in function 'rows'
ptxas info    : (C7519) warpgroup.arrive is injected in around line 12 by compiler to allow use of registers in GMMA in \
function 'rows'
ptxas info    : Compiling entry function 'small' for 'sm_90a'
ptxas info    : Function properties for small
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers, 384 bytes cmem[0]
";

    #[test]
    fn reads_every_figure() {
        let log = ResourceLog::parse(LOG);
        let rows = log.entry("rows").unwrap();
        assert_eq!((rows.registers, rows.stack, rows.spill_stores, rows.spill_loads), (255, 40, 36, 52));
        assert_eq!((rows.static_smem, rows.barriers), (8448, 1));
        let small = log.entry("small").unwrap();
        assert_eq!((small.registers, small.static_smem, small.barriers), (8, 0, 0));
        assert!(log.entry("helper").is_none(), "a device function is no entry");
        assert_eq!((log.registers(), log.stack(), log.static_smem()), (255, 40, 8448));
        assert!(log.spills() && log.wgmma_serialized() && log.wgmma_interrupted());
        assert_eq!(log.warnings.len(), 3);
    }

    #[test]
    fn an_empty_log_claims_nothing() {
        let log = ResourceLog::parse("");
        assert!(log.functions.is_empty() && !log.spills() && !log.wgmma_serialized());
    }
}
