//! The step that is no matrix product: every result is a sum over a few axes, or a single product.
//!
//! Where both terms run on along the innermost summed axis, a result is summed along it; otherwise
//! the lanes are neighbours in the result, each summed by itself. Results are computed each in one
//! order, whoever computes them.

use std::ops::Range;

use crate::gemm::BatchAxis;
use crate::kernels::{MIN_MOVED, Terms, load, sum};
use crate::simd::{Element, MAX_LANES, Simd, WithSimd, dispatch};
use crate::threads::Pool;

/// Products added in f32 before their sum is added to the others.
const BLOCK: usize = 512;
/// Vectors of results that are computed side by side.
const WIDE: usize = 4;
const NOTHING: BatchAxis = BatchAxis { count: 1, a: 0, b: 0, c: 0 };

/// `c = a b`, summed over the axes that c lacks.
#[derive(Debug)]
pub(super) struct Fold {
    /// The innermost axis of c, and the others.
    line: BatchAxis,
    rows: Vec<BatchAxis>,
    /// The innermost summed axis, and the others.
    inner: BatchAxis,
    repeats: Vec<BatchAxis>,
}

fn count(axes: &[BatchAxis]) -> usize {
    axes.iter().map(|x| x.count).product()
}

/// Where place `i` of a row-major walk stands in a, b and c.
fn offsets(axes: &[BatchAxis], mut i: usize) -> [isize; 3] {
    let mut at = [0; 3];
    for x in axes.iter().rev() {
        let j = (i % x.count) as isize;
        i /= x.count;
        at = [at[0] + j * x.a, at[1] + j * x.b, at[2] + j * x.c];
    }
    at
}

impl Fold {
    /// Over axes from the outermost of c to the innermost, then those that c lacks.
    pub(super) fn new(axes: &[BatchAxis]) -> Fold {
        let (mut repeats, mut rows): (Vec<_>, Vec<_>) = axes.iter().partition(|x| x.c == 0);
        let line = rows.pop().unwrap_or(NOTHING);
        let inner = repeats.pop().unwrap_or(NOTHING);
        if line.a > 1 || line.b > 1 {
            // Rows that follow each other read from the same cache lines.
            rows.sort_by_key(|x| std::cmp::Reverse(x.a.max(x.b)));
        }
        Fold { line, rows, inner, repeats }
    }

    /// Whether results are summed along the innermost summed axis. b has no stride there only
    /// where it is one.
    fn along(&self) -> bool {
        self.inner.a == 1 && (self.inner.b == 1 || self.inner.b == 0)
    }

    /// Whether results are dot products of lines, many with the same line: a matrix and a vector,
    /// which [`matmul`](crate::gemm::matmul) takes several rows at a time.
    pub(super) fn is_product(&self) -> bool {
        let shares = |x: &BatchAxis| x.a == 0 || x.b == 0;
        let shared = shares(&self.line) || self.rows.iter().any(shares);
        (self.inner.a, self.inner.b) == (1, 1) && self.repeats.is_empty() && shared
    }

    /// Computes all results.
    ///
    /// # Safety
    /// `a` and `b` are of type `A`, valid for the axes, and apart from `c`, which is of type `C`.
    pub(super) unsafe fn run<A: Element, C: Element>(
        &self,
        pool: &Pool,
        a: *const u8,
        b: *const u8,
        c: *mut u8,
    ) {
        let each = self.inner.count * count(&self.repeats);
        // Lines are cut so that long ones can be shared out.
        let strided = self.line.a > 1 || self.line.b > 1;
        let most = if strided { 256 } else { 4096 };
        let span = (MIN_MOVED / each.max(1)).clamp(64, most).next_multiple_of(64);
        let pieces = self.line.count.div_ceil(span);
        let least = MIN_MOVED / (each * span.min(self.line.count)).max(1);
        let (a, b, c) = (a.cast::<A>(), b.cast::<A>(), c.cast::<C>());
        let lines = count(&self.rows);
        let all = Lines { fold: self, a, b, c, span, lines, units: 0..0 };
        pool.run_chunks(lines * pieces, least, &|units| {
            dispatch(Lines { units, ..all.clone() });
        });
    }
}

/// Pieces of lines of results.
#[derive(Clone)]
struct Lines<'a, A, C> {
    fold: &'a Fold,
    a: *const A,
    b: *const A,
    c: *mut C,
    span: usize,
    lines: usize,
    /// The first pieces of all lines, then their second ones, and so on.
    units: Range<usize>,
}

// SAFETY: a and b are only read, and every piece writes elements of c of its own.
unsafe impl<A: Sync, C: Send> Sync for Lines<'_, A, C> {}

impl<A: Element, C: Element> WithSimd for Lines<'_, A, C> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Fold { line, rows, inner, repeats } = self.fold;
        for unit in self.units.clone() {
            let first = unit / self.lines * self.span;
            let n = self.span.min(line.count - first);
            let [a, b, c] = offsets(rows, unit % self.lines);
            let i = first as isize;
            let at = [a + i * line.a, b + i * line.b, c + i * line.c];
            // SAFETY: these results exist, and are this unit's alone.
            unsafe {
                if self.fold.along() {
                    self.along(s, at, n);
                } else if inner.count == 1 && repeats.is_empty() && (line.a > 1 || line.b > 1) {
                    self.one_by_one(at, n);
                } else {
                    self.across(s, at, n);
                }
            }
        }
    }
}

impl<A: Element, C: Element> Lines<'_, A, C> {
    /// Computes `n` results of a line, each along the summed axis.
    ///
    /// # Safety
    /// The results exist from `at` on, and nobody else touches them.
    #[inline(always)]
    unsafe fn along<S: Simd>(&self, s: S, at: [isize; 3], n: usize) {
        let Fold { line, inner, repeats, .. } = self.fold;
        for i in 0..n as isize {
            let mut total = 0.0;
            for r in 0..count(repeats) {
                let [a, b, _] = offsets(repeats, r);
                let x = self.a.wrapping_offset(at[0] + i * line.a + a);
                let y = self.b.wrapping_offset(at[1] + i * line.b + b);
                // SAFETY: the terms are valid for their axes.
                let [part] = unsafe {
                    match inner.b == 0 {
                        true => sum(s, inner.count, Line(x)),
                        false => sum(s, inner.count, Dot(x, y)),
                    }
                };
                total += part;
            }
            // SAFETY: the caller's contract.
            unsafe { *self.c.offset(at[2] + i * line.c) = C::from_f32(total as f32) };
        }
    }

    /// Computes `n` results of a line that are single products.
    ///
    /// # Safety
    /// As for `along`.
    #[inline(always)]
    unsafe fn one_by_one(&self, at: [isize; 3], n: usize) {
        let line = self.fold.line;
        let (a, b) = (self.a.wrapping_offset(at[0]), self.b.wrapping_offset(at[1]));
        for i in 0..n as isize {
            // SAFETY: the terms are valid for their axes; the innermost axis of c is contiguous.
            unsafe {
                let (x, y) = (*a.offset(i * line.a), *b.offset(i * line.b));
                *self.c.offset(at[2] + i) = C::from_f32(x.to_f32() * y.to_f32());
            }
        }
    }

    /// Computes `n` results of a line, which are neighbours, in lanes.
    ///
    /// # Safety
    /// As for `along`.
    #[inline(always)]
    unsafe fn across<S: Simd>(&self, s: S, mut at: [isize; 3], mut n: usize) {
        let line = self.fold.line;
        while n > 0 {
            let wide = n >= WIDE * S::LANES;
            let done = if wide { WIDE * S::LANES } else { S::LANES.min(n) };
            // SAFETY: the next `done` results exist.
            unsafe {
                match (wide, line.a, line.b) {
                    (true, 1, 1) => self.vectors::<S, 1, 1, WIDE>(s, at, S::LANES),
                    (true, 1, 0) => self.vectors::<S, 1, 0, WIDE>(s, at, S::LANES),
                    (true, 0, 1) => self.vectors::<S, 0, 1, WIDE>(s, at, S::LANES),
                    (true, ..) => self.vectors::<S, ANY, ANY, WIDE>(s, at, S::LANES),
                    (false, ..) => self.vectors::<S, ANY, ANY, 1>(s, at, done),
                }
            }
            let i = done as isize;
            at = [at[0] + i * line.a, at[1] + i * line.b, at[2] + i * line.c];
            n -= done;
        }
    }

    /// Computes `V` vectors of results, of `n` lanes each; `P` and `Q` are the strides of the line.
    ///
    /// # Safety
    /// As for `along`.
    #[inline(always)]
    unsafe fn vectors<S: Simd, const P: isize, const Q: isize, const V: usize>(
        &self,
        s: S,
        at: [isize; 3],
        n: usize,
    ) {
        let Fold { line, inner, repeats, .. } = self.fold;
        let p = if P == ANY { line.a } else { P };
        let q = if Q == ANY { line.b } else { Q };
        // The neutral element of addition, so that a copy keeps the sign of zero.
        let zero = s.splat(-0.0);
        let mut totals = [zero; V];
        for r in 0..count(repeats) {
            let [a, b, _] = offsets(repeats, r);
            let (a, b) = (self.a.wrapping_offset(at[0] + a), self.b.wrapping_offset(at[1] + b));
            for first in (0..inner.count).step_by(BLOCK) {
                let mut sums = [zero; V];
                for k in first..inner.count.min(first + BLOCK) {
                    let (x, y) = (k as isize * inner.a, k as isize * inner.b);
                    let (x, y) = (a.wrapping_offset(x), b.wrapping_offset(y));
                    for (v, sum) in sums.iter_mut().enumerate() {
                        let i = (v * S::LANES) as isize;
                        // SAFETY: the terms are valid for their axes.
                        unsafe {
                            let x = lanes(s, x.wrapping_offset(i * p), p, n);
                            let y = lanes(s, y.wrapping_offset(i * q), q, n);
                            *sum = s.fma(x, y, *sum);
                        }
                    }
                }
                for (total, sum) in totals.iter_mut().zip(sums) {
                    *total = s.add(*total, sum);
                }
            }
        }
        for (v, total) in totals.into_iter().enumerate() {
            // SAFETY: the caller's contract; the innermost axis of c is contiguous.
            unsafe {
                let to = self.c.offset(at[2]).add(v * S::LANES);
                match n == S::LANES {
                    true => C::store(s, to, total),
                    false => C::store_partial(s, to, n, total),
                }
            }
        }
    }
}

/// A stride that is known only when the step runs.
const ANY: isize = isize::MAX;

/// The first `n` lanes from elements that are `step` apart.
///
/// # Safety
/// They are readable, and `n <= LANES`.
#[inline(always)]
unsafe fn lanes<S: Simd, A: Element>(s: S, p: *const A, step: isize, n: usize) -> S::F {
    // SAFETY: the caller's contract; LANES is at most MAX_LANES.
    unsafe {
        match step {
            1 => load(s, p, n),
            0 => s.splat((*p).to_f32()),
            _ => {
                let mut x = [0.0; MAX_LANES];
                for (i, x) in x[..n].iter_mut().enumerate() {
                    *x = (*p.offset(i as isize * step)).to_f32();
                }
                s.load(x.as_ptr())
            }
        }
    }
}

/// Terms of a sum along a line.
struct Line<A>(*const A);

/// Terms of a dot product of two lines.
struct Dot<A>(*const A, *const A);

impl<A> Clone for Line<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Line<A> {}

impl<A> Clone for Dot<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Dot<A> {}

impl<S: Simd, A: Element> Terms<S, 1> for Line<A> {
    #[inline(always)]
    unsafe fn add(self, s: S, [sum]: [S::F; 1], at: usize, n: usize) -> [S::F; 1] {
        // SAFETY: the caller's contract; lanes past n are zero.
        unsafe { [s.add(sum, load(s, self.0.add(at), n))] }
    }
}

impl<S: Simd, A: Element> Terms<S, 1> for Dot<A> {
    #[inline(always)]
    unsafe fn add(self, s: S, [sum]: [S::F; 1], at: usize, n: usize) -> [S::F; 1] {
        // SAFETY: as above.
        unsafe { [s.fma(load(s, self.0.add(at), n), load(s, self.1.add(at), n), sum)] }
    }
}
