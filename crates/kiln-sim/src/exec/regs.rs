//! The register file of a warp and the typed views that instructions take of it.

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;
/// All lanes.
pub(crate) const FULL: u32 = u32::MAX;

/// Registers of one warp: one row a register, one column a lane. Constants live in rows too, so that an operand
/// is always a row number.
#[derive(Clone, Default)]
pub(crate) struct Regs {
    /// Registers of up to 32 bits, zero-extended.
    pub r: Vec<[u32; LANES]>,
    /// 64-bit registers.
    pub d: Vec<[u64; LANES]>,
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
                let row = &regs.$file[row as usize];
                std::array::from_fn(|i| $from(row[i]))
            }
            #[inline(always)]
            fn put(regs: &mut Regs, row: u32, values: &[Self; LANES], mask: u32) {
                let row = &mut regs.$file[row as usize];
                if mask == FULL {
                    for i in 0..LANES {
                        row[i] = $to(values[i]) as $word;
                    }
                } else {
                    for i in 0..LANES {
                        row[i] = if mask >> i & 1 != 0 { $to(values[i]) as $word } else { row[i] };
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
        let mut bits = 0;
        for (i, v) in values.iter().enumerate() {
            bits |= u32::from(*v) << i;
        }
        let row = &mut regs.p[row as usize];
        *row = *row & !mask | bits & mask;
    }
}

/// The work of an arithmetic instruction on the lanes of a mask.
pub(crate) type AluFn = Box<dyn Fn(&mut Regs, u32) + Send + Sync>;

/// `d = f(a)` on every lane.
pub(crate) fn f1<D: Lane, A: Lane>(d: u32, a: u32, f: impl Fn(A) -> D + Send + Sync + 'static) -> AluFn {
    Box::new(move |regs, mask| {
        let a = A::get(regs, a);
        let out = std::array::from_fn(|i| f(a[i]));
        D::put(regs, d, &out, mask);
    })
}

/// `d = f(a, b)` on every lane.
pub(crate) fn f2<D: Lane, A: Lane, B: Lane>(
    d: u32,
    [a, b]: [u32; 2],
    f: impl Fn(A, B) -> D + Send + Sync + 'static,
) -> AluFn {
    Box::new(move |regs, mask| {
        let (a, b) = (A::get(regs, a), B::get(regs, b));
        let out = std::array::from_fn(|i| f(a[i], b[i]));
        D::put(regs, d, &out, mask);
    })
}

/// `d = f(a, b, c)` on every lane.
pub(crate) fn f3<D: Lane, A: Lane, B: Lane, C: Lane>(
    d: u32,
    [a, b, c]: [u32; 3],
    f: impl Fn(A, B, C) -> D + Send + Sync + 'static,
) -> AluFn {
    Box::new(move |regs, mask| {
        let (a, b, c) = (A::get(regs, a), B::get(regs, b), C::get(regs, c));
        let out = std::array::from_fn(|i| f(a[i], b[i], c[i]));
        D::put(regs, d, &out, mask);
    })
}

/// Runs `f` compiled for the widest vectors this processor has; `f` must be `#[inline(always)]`.
#[inline(always)]
pub(crate) fn wide<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// [`f3`] with wide vectors, and a hardware multiply-add where the processor has one.
pub(crate) fn f3_wide<T: Lane>(
    d: u32,
    [a, b, c]: [u32; 3],
    f: impl Fn(T, T, T) -> T + Copy + Send + Sync + 'static,
) -> AluFn {
    Box::new(move |regs, mask| {
        wide(
            #[inline(always)]
            || {
                let (a, b, c) = (T::get(regs, a), T::get(regs, b), T::get(regs, c));
                let mut out = a;
                for i in 0..LANES {
                    out[i] = f(a[i], b[i], c[i]);
                }
                T::put(regs, d, &out, mask);
            },
        );
    })
}

/// [`f2`] with wide vectors.
pub(crate) fn f2_wide<T: Lane>(
    d: u32,
    [a, b]: [u32; 2],
    f: impl Fn(T, T) -> T + Copy + Send + Sync + 'static,
) -> AluFn {
    f3_wide(d, [a, b, a], move |x, y, _| f(x, y))
}

/// [`f1`] with wide vectors.
pub(crate) fn f1_wide<T: Lane>(d: u32, a: u32, f: impl Fn(T) -> T + Copy + Send + Sync + 'static) -> AluFn {
    f3_wide(d, [a, a, a], move |x, _, _| f(x))
}
