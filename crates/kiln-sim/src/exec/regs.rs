//! The register file of a warp and the typed views that instructions take of it.

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;
/// All lanes.
pub(crate) const FULL: u32 = u32::MAX;

/// The lanes of a register, where no vector crosses a cache line.
#[repr(align(128))]
#[derive(Clone, Copy)]
pub(crate) struct Row<T>(pub [T; LANES]);

impl<T> std::ops::Deref for Row<T> {
    type Target = [T; LANES];

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<T> std::ops::DerefMut for Row<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

/// Registers of one warp: one row a register, one column a lane. Constants live in rows too, so that an operand
/// is always a row number.
#[derive(Clone, Default)]
pub(crate) struct Regs {
    /// Registers of up to 32 bits, zero-extended.
    pub r: Vec<Row<u32>>,
    /// 64-bit registers.
    pub d: Vec<Row<u64>>,
    /// Predicates, a bit a lane.
    pub p: Vec<u32>,
}

/// A value type of one lane.
pub(crate) trait Lane: Copy {
    fn get(regs: &Regs, row: u32) -> [Self; LANES];
    fn put(regs: &mut Regs, row: u32, values: &[Self; LANES], mask: u32);
}

macro_rules! lane {
    ($ty:ty, $file:ident, $word:ty, $from:expr, $to:expr) => {
        impl Lane for $ty {
            #[inline(always)]
            fn get(regs: &Regs, row: u32) -> [Self; LANES] {
                let row = &regs.$file[row as usize].0;
                std::array::from_fn(|i| $from(row[i]))
            }
            #[inline(always)]
            fn put(regs: &mut Regs, row: u32, values: &[Self; LANES], mask: u32) {
                let row = &mut regs.$file[row as usize].0;
                if mask == FULL {
                    for i in 0..LANES {
                        row[i] = $to(values[i]) as $word;
                    }
                } else {
                    for i in 0..LANES {
                        // In masks of words, where a choice would become a branch a lane.
                        let keep = ((mask >> i & 1) as $word).wrapping_sub(1);
                        row[i] = row[i] & keep | ($to(values[i]) as $word) & !keep;
                    }
                }
            }
        }
    };
}

lane!(u32, r, u32, |w| w, |v| v);
lane!(i32, r, u32, |w| w as i32, |v| v);
lane!(f32, r, u32, f32::from_bits, |v: f32| v.to_bits());
lane!(u16, r, u32, |w| w as u16, |v| v);
lane!(i16, r, u32, |w| w as i16, |v| v as u16);
lane!(u8, r, u32, |w| w as u8, |v| v);
lane!(i8, r, u32, |w| w as i8, |v| v as u8);
lane!(u64, d, u64, |w| w, |v| v);
lane!(i64, d, u64, |w| w as i64, |v| v);
lane!(f64, d, u64, f64::from_bits, |v: f64| v.to_bits());

impl Lane for bool {
    #[inline(always)]
    fn get(regs: &Regs, row: u32) -> [Self; LANES] {
        let bits = regs.p[row as usize];
        std::array::from_fn(|i| bits >> i & 1 != 0)
    }
    #[inline(always)]
    fn put(regs: &mut Regs, row: u32, values: &[Self; LANES], mask: u32) {
        let bits = ballot(|i| values[i]);
        let row = &mut regs.p[row as usize];
        *row = *row & !mask | bits & mask;
    }
}

/// The work of an arithmetic instruction on the lanes of a mask.
pub(crate) type AluFn = Box<dyn Fn(&mut Regs, u32) + Send + Sync>;

/// Runs `f` compiled for the widest vectors this processor has, with a hardware multiply-add where it has one; `f` must
/// be `#[inline(always)]`, and is quickest with up to six words of captures, which go in registers.
#[inline(always)]
pub(crate) fn wide<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// One bit a lane, in a form the compiler vectorises.
#[inline(always)]
pub(crate) fn ballot(f: impl Fn(usize) -> bool) -> u32 {
    let mut bits = [0; LANES];
    for (i, bit) in bits.iter_mut().enumerate() {
        *bit = if f(i) { 1 << i } else { 0 };
    }
    bits.iter().fold(0, |all, bit| all | bit)
}

/// `d = f(a)` on every lane.
pub(crate) fn f1<D: Lane, A: Lane>(d: u32, a: u32, f: impl Fn(A) -> D + Send + Sync + 'static) -> AluFn {
    f3(d, [a, a, a], move |x: A, _: A, _: A| f(x))
}

/// `d = f(a, b)` on every lane.
pub(crate) fn f2<D: Lane, A: Lane, B: Lane>(
    d: u32,
    [a, b]: [u32; 2],
    f: impl Fn(A, B) -> D + Send + Sync + 'static,
) -> AluFn {
    f3(d, [a, b, b], move |x: A, y: B, _: B| f(x, y))
}

/// `d = f(a, b, c)` on every lane.
pub(crate) fn f3<D: Lane, A: Lane, B: Lane, C: Lane>(
    d: u32,
    [a, b, c]: [u32; 3],
    f: impl Fn(A, B, C) -> D + Send + Sync + 'static,
) -> AluFn {
    Box::new(move |regs, mask| {
        let f = &f;
        wide(
            #[inline(always)]
            move || {
                let (a, b, c) = (A::get(regs, a), B::get(regs, b), C::get(regs, c));
                // A loop, because `array::from_fn` is not compiled with the features of its caller.
                let mut out = [f(a[0], b[0], c[0]); LANES];
                for i in 0..LANES {
                    out[i] = f(a[i], b[i], c[i]);
                }
                D::put(regs, d, &out, mask);
            },
        );
    })
}
