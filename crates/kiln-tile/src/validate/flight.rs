//! Registers that products use while they run, of one group of threads.

use super::Finding;
use std::collections::HashMap;

/// A product's use of registers.
#[derive(Clone, Copy)]
struct Use {
    /// Its group.
    group: u32,
    /// Whether they are its sum: else it only reads them.
    sum: bool,
}

/// Which registers are in flight, and which were used since the last fence.
#[derive(Default)]
pub(super) struct Registers {
    flying: HashMap<usize, Use>,
    /// When they were used in the ordinary way last.
    used: HashMap<usize, u64>,
    fence: Option<u64>,
    clock: u64,
}

impl Registers {
    pub fn fence(&mut self) {
        self.clock += 1;
        self.fence = Some(self.clock);
    }

    /// Whether products of groups after `landed` hold a register.
    fn held(&self, registers: usize, landed: u32) -> Option<Use> {
        self.flying.get(&registers).copied().filter(|flying| flying.group > landed)
    }

    /// Ordinary use.
    pub fn touch(&mut self, registers: &[usize], landed: u32) -> Result<(), (Finding, String)> {
        self.clock += 1;
        for register in registers {
            if let Some(flying) = self.held(*register, landed) {
                let as_what = if flying.sum { "the sum" } else { "the left operand" };
                let what =
                    format!("they are {as_what} of a product of group {}, group {landed} is waited for", flying.group);
                return Err((Finding::Registers, what));
            }
            self.used.insert(*register, self.clock);
        }
        Ok(())
    }

    /// A product of a group.
    pub fn product(
        &mut self,
        left: Option<usize>,
        sum: usize,
        group: u32,
        landed: u32,
    ) -> Result<(), (Finding, String)> {
        let late = |register: &usize| self.used.get(register).is_some_and(|used| self.fence.is_none_or(|f| f < *used));
        if self.fence.is_none() || late(&sum) || left.as_ref().is_some_and(late) {
            let what = "its registers were used since the last `fence wgmma`, or there was none".to_owned();
            return Err((Finding::ProductFence, what));
        }
        if let Some(flying) = left.and_then(|left| self.held(left, landed))
            && flying.sum
        {
            let what = format!("its left operand is the sum of a product of group {} that still runs", flying.group);
            return Err((Finding::Registers, what));
        }
        // Products add to one sum in their order.
        if let Some(flying) = self.held(sum, landed)
            && !flying.sum
        {
            let what = format!("its sum is the left operand of a product of group {} that still runs", flying.group);
            return Err((Finding::Registers, what));
        }
        left.into_iter().for_each(|left| _ = self.flying.insert(left, Use { group, sum: false }));
        self.flying.insert(sum, Use { group, sum: true });
        Ok(())
    }
}
