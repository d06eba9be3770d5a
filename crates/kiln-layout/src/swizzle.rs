//! Which bits of a shared-memory address are crossed with which.

use crate::LayoutError;

/// Bits `[m, m + b)` of a byte address are xored with bits `[m + s, m + s + b)`: the notation of CuTe, on bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Swizzle {
    bits: u32,
    base: u32,
    shift: u32,
}

/// The swizzles that TMA and wgmma know (PTX ISA, "Swizzling Modes"): 16-byte pieces of a span of so many bytes, over 8 spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SwizzleMode {
    /// Addresses stay.
    None,
    /// 32 bytes.
    B32,
    /// 64 bytes.
    B64,
    /// 128 bytes.
    B128,
}

impl Swizzle {
    /// No bits.
    pub const NONE: Swizzle = Swizzle { bits: 0, base: 4, shift: 3 };

    /// A swizzle of `bits` bits from bit `base`, by those `shift` above.
    ///
    /// # Errors
    /// [`LayoutError::Value`] where the bits would cross themselves (`bits > shift`) or leave 24 bits.
    pub fn new(bits: u32, base: u32, shift: u32) -> Result<Self, LayoutError> {
        if bits > shift || base > 24 || shift > 24 || base + shift + bits > 24 {
            let expected = "at most `shift`, and the highest bit below 24";
            return Err(LayoutError::Value { what: "bits of a swizzle", found: u64::from(bits), expected });
        }
        Ok(if bits == 0 { Self::NONE } else { Self { bits, base, shift } })
    }

    /// `b`: how many bits are crossed.
    pub fn bits(self) -> u32 {
        self.bits
    }

    /// `m`: the lowest of them; `1 << m` bytes stay together.
    pub fn base(self) -> u32 {
        self.base
    }

    /// `s`: how far above them those are that cross them.
    pub fn shift(self) -> u32 {
        self.shift
    }

    /// `address ^ (address >> shift & mask())`: an involution.
    pub fn apply(self, address: u32) -> u32 {
        address ^ (address >> self.shift & self.mask())
    }

    /// The bits that change.
    pub fn mask(self) -> u32 {
        ((1 << self.bits) - 1) << self.base
    }

    /// Bytes that stay together, aligned.
    pub fn chunk(self) -> u32 {
        1 << self.base
    }

    /// Bytes, aligned, that the swizzle permutes among themselves.
    pub fn window(self) -> u32 {
        if self.bits == 0 { 1 } else { 1 << (self.base + self.bits) }
    }

    /// Bytes after which the pattern repeats: what a buffer must be aligned to.
    pub fn period(self) -> u32 {
        if self.bits == 0 { 1 } else { 1 << (self.base + self.shift + self.bits) }
    }

    /// The hardware's mode, where it is one.
    pub fn mode(self) -> Option<SwizzleMode> {
        SwizzleMode::ALL.into_iter().find(|mode| mode.swizzle() == self)
    }
}

impl SwizzleMode {
    /// Every mode, the narrowest first.
    pub const ALL: [SwizzleMode; 4] = [SwizzleMode::None, SwizzleMode::B32, SwizzleMode::B64, SwizzleMode::B128];

    /// Bytes of a row of the pattern; without a swizzle, those of one row of a core matrix.
    pub fn span(self) -> u32 {
        match self {
            SwizzleMode::None => 16,
            SwizzleMode::B32 => 32,
            SwizzleMode::B64 => 64,
            SwizzleMode::B128 => 128,
        }
    }

    /// What it does to addresses.
    pub fn swizzle(self) -> Swizzle {
        Swizzle { bits: self.span().trailing_zeros() - 4, ..Swizzle::NONE }
    }

    /// Its code in bits 62 and 63 of a wgmma matrix descriptor.
    pub fn descriptor_code(self) -> u64 {
        match self {
            SwizzleMode::None => 0,
            SwizzleMode::B128 => 1,
            SwizzleMode::B64 => 2,
            SwizzleMode::B32 => 3,
        }
    }
}
