//! Gives every variable a C identifier of its own.

use crate::builder::identifier;
use std::collections::HashSet;

/// Words that generated code may not use as names: C++ keywords, CUDA built-ins and the prelude.
const RESERVED: &str = "alignas alignof and asm auto bitand bitor bool break case catch char class compl const constexpr \
    continue decltype default delete do double else enum explicit export extern false float for friend goto if inline int \
    long mutable namespace new noexcept not nullptr operator or private protected public register return short signed \
    sizeof static struct switch template this throw true try typedef typeid typename union unsigned using virtual void \
    volatile wchar_t while xor blockIdx blockDim gridDim threadIdx warpSize min max abs exp log pow sin cos tan sqrt load \
    store Vec f16 bf16 e4m3 e5m2 to_f32 to_f16 to_bf16 to_e4m3 to_e5m2 load_i4 load_u4 min_of max_of Sum Prod Min Max And \
    Or warp_reduce block_reduce erf floor ceil round trunc fma rint half float2 float4 int2 int4 dim3 swizzled copy_async \
    copy_async_commit copy_async_wait load_matrix load_matrix_transposed mma_f16 mma_bf16 b_run";

/// The names in use, by scope: a name may be used again after the block it was declared in.
pub struct Names {
    used: HashSet<String>,
    order: Vec<String>,
}

impl Names {
    /// Only the reserved words are in use.
    pub fn new() -> Names {
        Names { used: RESERVED.split_whitespace().map(str::to_owned).collect(), order: vec![] }
    }

    /// An identifier like `wanted` that nothing else uses.
    pub fn fresh(&mut self, wanted: &str) -> String {
        let base = identifier(wanted);
        let mut name = base.clone();
        let mut number = 2;
        while !self.used.insert(name.clone()) {
            name = format!("{base}_{number}");
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
