//! Runs a loop with the widest vector instructions that this machine has.

use pulp::{Arch, Simd, WithSimd};

/// Compiles `f` once for each instruction set and runs the best. `f` and what it calls must be `#[inline(always)]` to profit.
#[inline]
pub(crate) fn widest<F: Loop>(f: F) -> F::Output {
    struct Run<F>(F);
    impl<F: Loop> WithSimd for Run<F> {
        type Output = F::Output;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> F::Output {
            self.0.run()
        }
    }
    Arch::new().dispatch(Run(f))
}

/// A loop body that can be compiled for several instruction sets.
pub(crate) trait Loop {
    /// What it gives.
    type Output;
    /// The loop; implementations are `#[inline(always)]`.
    fn run(self) -> Self::Output;
}

/// `dst[i] = f(a[i])`.
pub(crate) fn map1<D, A: Copy, F: Fn(A) -> D>(dst: &mut [D], a: &[A], f: F) {
    struct Map<'a, D, A, F>(&'a mut [D], &'a [A], F);
    impl<D, A: Copy, F: Fn(A) -> D> Loop for Map<'_, D, A, F> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            for (d, &a) in self.0.iter_mut().zip(self.1) {
                *d = (self.2)(a);
            }
        }
    }
    widest(Map(dst, a, f));
}

/// `dst[i] = f(a[i], b[i])`.
pub(crate) fn map2<D, A: Copy, B: Copy, F: Fn(A, B) -> D>(dst: &mut [D], a: &[A], b: &[B], f: F) {
    struct Map<'a, D, A, B, F>(&'a mut [D], &'a [A], &'a [B], F);
    impl<D, A: Copy, B: Copy, F: Fn(A, B) -> D> Loop for Map<'_, D, A, B, F> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            for ((d, &a), &b) in self.0.iter_mut().zip(self.1).zip(self.2) {
                *d = (self.3)(a, b);
            }
        }
    }
    widest(Map(dst, a, b, f));
}

/// `dst[i] = f(dst[i], a[i])`.
pub(crate) fn update<D: Copy, A: Copy, F: Fn(D, A) -> D>(dst: &mut [D], a: &[A], f: F) {
    struct Map<'a, D, A, F>(&'a mut [D], &'a [A], F);
    impl<D: Copy, A: Copy, F: Fn(D, A) -> D> Loop for Map<'_, D, A, F> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            for (d, &a) in self.0.iter_mut().zip(self.1) {
                *d = (self.2)(*d, a);
            }
        }
    }
    widest(Map(dst, a, f));
}

/// Folds a slice in `LANES` independent lanes, then the lanes in order.
pub(crate) fn fold<A: Copy, F: Fn(A, A) -> A>(xs: &[A], identity: A, f: F) -> A {
    const LANES: usize = 32;
    struct Fold<'a, A, F>(&'a [A], A, F);
    impl<A: Copy, F: Fn(A, A) -> A> Loop for Fold<'_, A, F> {
        type Output = A;

        #[inline(always)]
        fn run(self) -> A {
            let Fold(xs, identity, f) = self;
            let mut lanes = [identity; LANES];
            let chunks = xs.chunks_exact(LANES);
            let rest = chunks.remainder();
            for c in chunks {
                for (l, &x) in lanes.iter_mut().zip(c) {
                    *l = f(*l, x);
                }
            }
            for (l, &x) in lanes.iter_mut().zip(rest) {
                *l = f(*l, x);
            }
            let mut width = LANES / 2;
            while width > 0 {
                for i in 0..width {
                    lanes[i] = f(lanes[i], lanes[i + width]);
                }
                width /= 2;
            }
            lanes[0]
        }
    }
    widest(Fold(xs, identity, f))
}

/// `xs[i] = f(xs[i])`.
pub(crate) fn update1<T: Copy, F: Fn(T) -> T>(xs: &mut [T], f: F) {
    struct Map<'a, T, F>(&'a mut [T], F);
    impl<T: Copy, F: Fn(T) -> T> Loop for Map<'_, T, F> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            for x in self.0 {
                *x = (self.1)(*x);
            }
        }
    }
    widest(Map(xs, f));
}
