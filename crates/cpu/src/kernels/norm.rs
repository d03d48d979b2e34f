//! RMS norm and layer norm over rows.
//!
//! Sums are f32 lanes within a block and f64 from block to block. Layer norm goes over a row three
//! times: for the mean; for the deviations from it and their squares (the deviations add up to
//! what the mean was off by, which matters for rows far from zero); and for the result.

use std::ops::Range;

use super::{Body, InOut, MIN_MOVED, Terms, load, only_first, rows_of, sum, sweep};
use crate::simd::{Element, Simd, WithSimd, dispatch};
use crate::threads::Pool;

/// `x / sqrt(mean(x^2) + eps) * weight`, over rows of `width`.
pub(crate) fn rms_norm<T: Element, W: Element>(
    pool: &Pool,
    io: InOut<'_, T>,
    weight: Option<&[W]>,
    eps: f32,
    width: usize,
) {
    norm::<T, W, false>(pool, io, weight, None, eps, width);
}

/// `(x - mean) / sqrt(var + eps) * weight + bias` with the biased variance, over rows of `width`.
pub(crate) fn layer_norm<T: Element, W: Element>(
    pool: &Pool,
    io: InOut<'_, T>,
    weight: Option<&[W]>,
    bias: Option<&[W]>,
    eps: f32,
    width: usize,
) {
    norm::<T, W, true>(pool, io, weight, bias, eps, width);
}

fn norm<T: Element, W: Element, const CENTRED: bool>(
    pool: &Pool,
    io: InOut<'_, T>,
    weight: Option<&[W]>,
    bias: Option<&[W]>,
    eps: f32,
    width: usize,
) {
    let rows = io.rows(width);
    for affine in [weight, bias].into_iter().flatten() {
        assert_eq!(affine.len(), width, "weight or bias is not as long as a row");
    }
    pool.run_chunks(rows, rows_of(MIN_MOVED, width), &|rows| {
        dispatch(Rows::<T, W, CENTRED> { io: &io, weight, bias, eps, width, rows });
    });
}

/// Some rows of a norm; layer norm if `CENTRED`, else RMS norm.
struct Rows<'a, T, W, const CENTRED: bool> {
    io: &'a InOut<'a, T>,
    weight: Option<&'a [W]>,
    bias: Option<&'a [W]>,
    eps: f32,
    width: usize,
    rows: Range<usize>,
}

impl<T: Element, W: Element, const CENTRED: bool> WithSimd for Rows<'_, T, W, CENTRED> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let stream = self.io.stream();
        match (self.weight, self.bias) {
            (None, None) => self.all(s, stream, Plain),
            (Some(w), None) => self.all(s, stream, Scale(w.as_ptr())),
            (None, Some(b)) => self.all(s, stream, Shift(b.as_ptr())),
            (Some(w), Some(b)) => self.all(s, stream, ScaleShift(w.as_ptr(), b.as_ptr())),
        }
        if stream {
            s.stream_fence();
        }
    }
}

impl<T: Element, W: Element, const CENTRED: bool> Rows<'_, T, W, CENTRED> {
    #[inline(always)]
    fn all<S: Simd>(&self, s: S, stream: bool, affine: impl Affine<S>) {
        let (width, count) = (self.width, self.width as f64);
        let eps = f64::from(self.eps);
        for row in self.rows.clone() {
            // SAFETY: `rows` are rows of both slices, which no other task writes; weight and bias
            // are as long as a row.
            unsafe {
                let (x, out) = self.io.at(row * width);
                let next = x.wrapping_add(if row + 1 < self.rows.end { width } else { 0 });
                if CENTRED {
                    let [total] = sum(s, width, Plainly(x));
                    let mean = (total / count) as f32;
                    let [off, squares] = sum(s, width, Deviations { x, mean: s.splat(mean) });
                    let off = off / count;
                    let scale = 1.0 / (squares / count - off * off + eps).sqrt();
                    let body = Normal {
                        x,
                        next,
                        mean: s.splat(mean),
                        scale: s.splat(scale as f32),
                        shift: s.splat((-off * scale) as f32),
                        affine,
                    };
                    sweep::<S, T, 2>(s, out, width, stream, body);
                } else {
                    let [squares] = sum(s, width, Squares(x));
                    let scale = 1.0 / (squares / count + eps).sqrt();
                    let body = Scaled { x, next, scale: s.splat(scale as f32), affine };
                    sweep::<S, T, 2>(s, out, width, stream, body);
                }
            }
        }
    }
}

/// The terms x.
#[derive(Clone, Copy)]
struct Plainly<T>(*const T);

impl<S: Simd, T: Element> Terms<S, 1> for Plainly<T> {
    #[inline(always)]
    unsafe fn add(self, s: S, [total]: [S::F; 1], at: usize, n: usize) -> [S::F; 1] {
        // SAFETY: the caller's contract.
        [s.add(total, unsafe { load(s, self.0.add(at), n) })]
    }
}

/// The terms x^2.
#[derive(Clone, Copy)]
struct Squares<T>(*const T);

impl<S: Simd, T: Element> Terms<S, 1> for Squares<T> {
    #[inline(always)]
    unsafe fn add(self, s: S, [squares]: [S::F; 1], at: usize, n: usize) -> [S::F; 1] {
        // SAFETY: the caller's contract.
        let x = unsafe { load(s, self.0.add(at), n) };
        [s.fma(x, x, squares)]
    }
}

/// The terms x - mean and (x - mean)^2.
#[derive(Clone, Copy)]
struct Deviations<T, F> {
    x: *const T,
    mean: F,
}

impl<S: Simd, T: Element> Terms<S, 2> for Deviations<T, S::F> {
    #[inline(always)]
    unsafe fn add(self, s: S, [off, squares]: [S::F; 2], at: usize, n: usize) -> [S::F; 2] {
        // SAFETY: the caller's contract.
        let mut d = s.sub(unsafe { load(s, self.x.add(at), n) }, self.mean);
        if n < S::LANES {
            d = only_first(s, d, n);
        }
        [s.add(off, d), s.fma(d, d, squares)]
    }
}

/// What weight and bias make of the normal values `at .. at + n`.
trait Affine<S: Simd>: Copy {
    /// # Safety
    /// Weight and bias must reach to `at + n`, `n <= LANES`.
    unsafe fn apply(self, s: S, y: S::F, at: usize, n: usize) -> S::F;
}

#[derive(Clone, Copy)]
struct Plain;
#[derive(Clone, Copy)]
struct Scale<W>(*const W);
#[derive(Clone, Copy)]
struct Shift<W>(*const W);
#[derive(Clone, Copy)]
struct ScaleShift<W>(*const W, *const W);

impl<S: Simd> Affine<S> for Plain {
    #[inline(always)]
    unsafe fn apply(self, _: S, y: S::F, _: usize, _: usize) -> S::F {
        y
    }
}

impl<S: Simd, W: Element> Affine<S> for Scale<W> {
    #[inline(always)]
    unsafe fn apply(self, s: S, y: S::F, at: usize, n: usize) -> S::F {
        // SAFETY: the caller's contract.
        s.mul(y, unsafe { load(s, self.0.add(at), n) })
    }
}

impl<S: Simd, W: Element> Affine<S> for Shift<W> {
    #[inline(always)]
    unsafe fn apply(self, s: S, y: S::F, at: usize, n: usize) -> S::F {
        // SAFETY: the caller's contract.
        s.add(y, unsafe { load(s, self.0.add(at), n) })
    }
}

impl<S: Simd, W: Element> Affine<S> for ScaleShift<W> {
    #[inline(always)]
    unsafe fn apply(self, s: S, y: S::F, at: usize, n: usize) -> S::F {
        // SAFETY: the caller's contract.
        let (w, b) = unsafe { (load(s, self.0.add(at), n), load(s, self.1.add(at), n)) };
        s.fma(y, w, b)
    }
}

/// `affine(x * scale)`
#[derive(Clone, Copy)]
struct Scaled<T, F, A> {
    x: *const T,
    /// The next row, which is asked for meanwhile.
    next: *const T,
    scale: F,
    affine: A,
}

impl<S: Simd, T: Element, A: Affine<S>> Body<S> for Scaled<T, S::F, A> {
    #[inline(always)]
    unsafe fn lanes(self, s: S, at: usize, n: usize) -> S::F {
        // SAFETY: the caller's contract.
        unsafe {
            s.prefetch(self.next.wrapping_add(at));
            let y = s.mul(load(s, self.x.add(at), n), self.scale);
            self.affine.apply(s, y, at, n)
        }
    }
}

/// `affine((x - mean) * scale + shift)`
#[derive(Clone, Copy)]
struct Normal<T, F, A> {
    x: *const T,
    /// The next row, which is asked for meanwhile.
    next: *const T,
    mean: F,
    scale: F,
    shift: F,
    affine: A,
}

impl<S: Simd, T: Element, A: Affine<S>> Body<S> for Normal<T, S::F, A> {
    #[inline(always)]
    unsafe fn lanes(self, s: S, at: usize, n: usize) -> S::F {
        // SAFETY: the caller's contract.
        unsafe {
            s.prefetch(self.next.wrapping_add(at));
            let d = s.sub(load(s, self.x.add(at), n), self.mean);
            self.affine.apply(s, s.fma(d, self.scale, self.shift), at, n)
        }
    }
}
