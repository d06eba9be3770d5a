//! PTX text with numbered operands, as CUDA's inline assembly wants it.

/// What an operand of an instruction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A word of the sums, in and out.
    Accumulator,
    /// A word of the left operand, or its descriptor.
    A,
    /// A word of the right operand, or its descriptor.
    B,
    /// Whether wgmma adds to the sums (else it overwrites them): a 32-bit integer.
    Accumulate,
    /// A word that is loaded or stored.
    Value,
    /// Address that is written: 64 bits in global memory, 32 in shared.
    To,
    /// Address that is read.
    From,
    /// Bytes that exist at the source, at most those of the copy; the others become zero.
    Bytes,
    /// Address of the tensor map.
    Map,
    /// A coordinate of the box's first element, the tensor map's fastest axis first.
    At,
    /// Where in windows the pixels are, the tensor map's fastest axis of space first: 16 bits each.
    Offset,
    /// Address of the barrier in shared memory.
    Barrier,
    /// Bits of the cluster's blocks that receive the box.
    Blocks,
}

impl Role {
    /// The name after `$` in a template.
    fn name(self) -> &'static str {
        match self {
            Role::Accumulator => "acc",
            Role::A => "a",
            Role::B => "b",
            Role::Accumulate => "accumulate",
            Role::Value => "value",
            Role::To => "to",
            Role::From => "from",
            Role::Bytes => "bytes",
            Role::Map => "map",
            Role::At => "at",
            Role::Offset => "offset",
            Role::Barrier => "barrier",
            Role::Blocks => "blocks",
        }
    }
}

/// One numbered operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// What it is.
    pub role: Role,
    /// Which of its role.
    pub index: u32,
    /// Constraint of the inline assembly (`"+f"`, `"r"`).
    pub constraint: &'static str,
}

/// An `asm` statement without its C expressions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asm {
    /// PTX with `%0`, `%1`...
    pub text: String,
    /// Operands that are written (and read, with `+`), in order.
    pub outputs: Vec<Slot>,
    /// Operands that are only read, numbered after those.
    pub inputs: Vec<Slot>,
    /// Whether it reads or writes memory or waits: then it is volatile, and memory is clobbered.
    pub memory: bool,
}

impl Asm {
    /// Numbers the operands `(role, how many, constraint)` in a template, where `$acc` is the first operand of a role and `$acc*` the
    /// vector of them all. Outputs come before inputs.
    pub(super) fn new(template: &str, operands: &[(Role, u32, &'static str)], memory: bool) -> Self {
        let mut slots = Vec::new();
        let mut starts = Vec::new();
        for &(role, count, constraint) in operands {
            starts.push((role, slots.len(), count as usize));
            slots.extend((0..count).map(|index| Slot { role, index, constraint }));
        }
        // The longer name first: `$accumulate` is not `$acc`.
        starts.sort_by_key(|(role, ..)| std::cmp::Reverse(role.name().len()));
        let mut text = template.to_owned();
        for (role, start, count) in starts {
            let all: Vec<String> = (start..start + count).map(|i| format!("%{i}")).collect();
            text = text.replace(&format!("${}*", role.name()), &format!("{{{}}}", all.join(", ")));
            text = text.replace(&format!("${}", role.name()), &format!("%{start}"));
        }
        let (outputs, inputs) = slots.into_iter().partition(|slot| slot.constraint.starts_with(['+', '=']));
        Self { text, outputs, inputs, memory }
    }

    /// The statement, with a C expression for each operand.
    pub fn statement(&self, expression: impl Fn(Role, u32) -> String) -> String {
        let list = |slots: &[Slot]| {
            let slot = |slot: &Slot| format!("\"{}\"({})", slot.constraint, expression(slot.role, slot.index));
            slots.iter().map(slot).collect::<Vec<_>>().join(", ")
        };
        let (volatile, clobber) = if self.memory { (" volatile", " : \"memory\"") } else { ("", "") };
        format!("asm{volatile}(\"{}\" : {} : {}{clobber});", self.text, list(&self.outputs), list(&self.inputs))
    }
}
