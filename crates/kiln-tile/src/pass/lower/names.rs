//! Gives every variable a C identifier of its own.

use crate::builder::identifier;
use std::collections::HashSet;

/// The names in use, by scope: a name may be used again after the block it was declared in.
///
/// Every name begins with a letter and ends in an underscore. No keyword of C++ does, nothing that CUDA declares or defines, and nothing
/// in the prelude: whatever a model calls its values, a generated name is never one that generated code has another use for.
#[derive(Default)]
pub struct Names {
    used: HashSet<String>,
    order: Vec<String>,
}

impl Names {
    /// An identifier like `wanted` that nothing else uses.
    pub fn fresh(&mut self, wanted: &str) -> String {
        let base = identifier(wanted);
        let base = match base.trim_start_matches('_') {
            digits if digits.starts_with(|c: char| c.is_ascii_digit()) => format!("n{digits}"),
            base => base.to_owned(),
        };
        let mut name = format!("{base}_");
        let mut number = 2;
        while !self.used.insert(name.clone()) {
            name = format!("{base}_{number}_");
            number += 1;
        }
        self.order.push(name.clone());
        name
    }

    /// The start of a block, for [`Names::close`].
    pub fn open(&self) -> usize {
        self.order.len()
    }

    /// Frees the names made since the block was opened.
    pub fn close(&mut self, block: usize) {
        for name in self.order.drain(block..) {
            self.used.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::print::prelude::Helper;
    use kiln_target::arch::Arch;

    /// Whether `word` could come from [`Names::fresh`].
    fn generated(word: &str) -> bool {
        word.starts_with(|c: char| c.is_ascii_alphabetic()) && word.ends_with('_') && !word.contains("__")
    }

    #[test]
    fn names_are_of_their_own_kind_and_unique() {
        let mut names = Names::default();
        let wanted = ["tanh", "tanh", "tanh_2", "_", "", "__CUDA_ARCH__", "2d", "_Bool", "int", "x.y", "Größe", "M_PI"];
        let mut seen = HashSet::new();
        for wanted in wanted {
            let name = names.fresh(wanted);
            assert!(generated(&name), "`{wanted}` became `{name}`");
            assert!(seen.insert(name.clone()), "`{name}` is given twice");
        }
    }

    #[test]
    fn nothing_in_the_prelude_has_such_a_name() {
        for arch in [Arch::Sm75, Arch::Sm80, Arch::Sm90a] {
            for helper in Helper::ALL {
                let source = helper.source(arch);
                let mut words = source.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                assert_eq!(words.find(|word| generated(word)), None, "{helper:?}");
            }
        }
    }
}
