//! Softmax over rows: the maximum, then the exponentials and their sum, then the quotient.
//!
//! In f32 the exponentials wait in the output for their sum (in the first cache they wait no better:
//! 1.65 ms against 2.0 for 4.5 million scores, two threads of a Zen 3, 2026-11). Narrower outputs
//! could not hold them: those of a row that is not too long wait in the first cache, others are
//! computed twice. A row without a finite maximum is plain arithmetic: NaN.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::{Body, InOut, MIN_COMPUTED, Terms, load, only_first, rows_of, sum, sweep};
use crate::simd::{Element, Simd, WithSimd, dispatch, math};
use crate::threads::Pool;

/// `exp(x - max(x)) / sum(exp(x - max(x)))`, over rows of `width`.
pub(crate) fn softmax<T: Element>(pool: &Pool, io: InOut<'_, T>, width: usize) {
    let rows = io.rows(width);
    pool.run_chunks(rows, rows_of(MIN_COMPUTED, width), &|rows| {
        dispatch(Rows { io: &io, width, rows });
    });
}

/// The widest row of narrow elements whose exponentials wait in the first cache.
const SHORT: usize = 4096;

struct Rows<'a, T> {
    io: &'a InOut<'a, T>,
    width: usize,
    rows: Range<usize>,
}

impl<T: Element> WithSimd for Rows<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.width;
        let mut short = [const { MaybeUninit::<f32>::uninit() }; SHORT];
        for row in self.rows.clone() {
            // SAFETY: `rows` are rows of both slices, and no other task writes there. The
            // exponentials have room where they wait.
            unsafe {
                let (x, out) = self.io.at(row * width);
                let next = x.wrapping_add(if row + 1 < self.rows.end { width } else { 0 });
                let top = s.splat(row_max(s, x, width));
                let wait: *mut f32 = match T::IS_F32 {
                    true => out.cast(),
                    false => short.as_mut_ptr().cast(),
                };
                let keep = T::IS_F32 || width <= SHORT;
                let [total] = sum(s, width, Exponentials { x, next, wait, keep, top });
                let scale = s.splat((1.0 / total) as f32);
                if keep {
                    sweep::<S, T, 2>(s, out, width, false, Scaled { x: wait.cast_const(), scale });
                } else {
                    sweep::<S, T, 2>(s, out, width, false, Quotients { x, top, scale });
                }
            }
        }
    }
}

/// The largest of `len` elements that are numbers; -inf if there are none.
///
/// # Safety
/// `x` is valid for `len` elements.
#[inline(always)]
unsafe fn row_max<S: Simd, T: Element>(s: S, x: *const T, len: usize) -> f32 {
    let mut tops = [s.splat(f32::NEG_INFINITY); 4];
    let mut at = 0;
    // SAFETY: at + n <= len in all loads below.
    unsafe {
        while len - at >= 4 * S::LANES {
            for (j, top) in tops.iter_mut().enumerate() {
                // NaN as the first operand loses.
                *top = s.max(T::load(s, x.add(at + j * S::LANES)), *top);
            }
            at += 4 * S::LANES;
        }
        while len - at >= S::LANES {
            tops[0] = s.max(T::load(s, x.add(at)), tops[0]);
            at += S::LANES;
        }
        let top = s.max(s.max(tops[0], tops[1]), s.max(tops[2], tops[3]));
        let mut top = s.reduce_max(top);
        while at < len {
            top = top.max((*x.add(at)).to_f32());
            at += 1;
        }
        top
    }
}

/// The terms `exp(x - top)`, which are also written to `wait` if they are to be kept.
#[derive(Clone, Copy)]
struct Exponentials<T, F> {
    x: *const T,
    /// The next row, which is asked for meanwhile.
    next: *const T,
    wait: *mut f32,
    keep: bool,
    top: F,
}

impl<S: Simd, T: Element> Terms<S, 1> for Exponentials<T, S::F> {
    #[inline(always)]
    unsafe fn add(self, s: S, [total]: [S::F; 1], at: usize, n: usize) -> [S::F; 1] {
        // SAFETY: the caller's contract, and that of the kernel for `wait`.
        unsafe {
            s.prefetch(self.next.wrapping_add(at));
            let mut e = math::exp_fast(s, s.sub(load(s, self.x.add(at), n), self.top));
            if n < S::LANES {
                e = only_first(s, e, n);
            }
            if self.keep && n == S::LANES {
                s.store(self.wait.add(at), e);
            } else if self.keep {
                s.store_partial(self.wait.add(at), n, e);
            }
            [s.add(total, e)]
        }
    }
}

/// `x * scale`
#[derive(Clone, Copy)]
struct Scaled<F> {
    x: *const f32,
    scale: F,
}

impl<S: Simd> Body<S> for Scaled<S::F> {
    #[inline(always)]
    unsafe fn lanes(self, s: S, at: usize, n: usize) -> S::F {
        // SAFETY: the caller's contract.
        s.mul(unsafe { load(s, self.x.add(at), n) }, self.scale)
    }
}

/// `exp(x - top) * scale`
#[derive(Clone, Copy)]
struct Quotients<T, F> {
    x: *const T,
    top: F,
    scale: F,
}

impl<S: Simd, T: Element> Body<S> for Quotients<T, S::F> {
    #[inline(always)]
    unsafe fn lanes(self, s: S, at: usize, n: usize) -> S::F {
        // SAFETY: the caller's contract.
        let x = unsafe { load(s, self.x.add(at), n) };
        s.mul(math::exp_fast(s, s.sub(x, self.top)), self.scale)
    }
}
