//! Reductions over axes.
//!
//! The axes are put in the order kept, reduced. Where the innermost reduced axis is contiguous,
//! each result is a sum along a line; where the innermost kept axis is, lines are added to a line
//! of results; otherwise elements are taken one by one. The order of additions depends on shapes
//! alone.

use super::{
    Primitive,
    number::{Number, for_dtype},
    walk::{Shared, address},
};
use crate::{
    kernel::{Context, Out, View},
    simd::{Element, Simd, WithSimd, dispatch},
};
use frit_graph::{Binary, DType, Error, Reduce};
use half::{bf16, f16};

/// A reduction over ascending axes.
pub(crate) struct Fold {
    pub(crate) f: Reduce,
    pub(crate) axes: Vec<usize>,
}

/// Results computed at a time by adding lines to a line.
const ACROSS: usize = 256;

type Axis = (usize, isize);

/// Axes of a view as (extent, stride), joined where they run on.
fn joined(axes: impl Iterator<Item = Axis>) -> Vec<Axis> {
    let mut out: Vec<Axis> = Vec::new();
    for (d, s) in axes.filter(|a| a.0 != 1) {
        match out.last_mut() {
            Some((e, t)) if *t == s * d as isize => (*e, *t) = (*e * d, s),
            _ => out.push((d, s)),
        }
    }
    out
}

/// The place of element `i` of a row-major walk over axes.
fn place(mut i: usize, axes: &[Axis]) -> isize {
    let mut p = 0;
    for (d, s) in axes.iter().rev() {
        p += (i % d) as isize * s;
        i /= d;
    }
    p
}

impl Primitive for Fold {
    fn run(&self, x: &[View<'_>], out: &mut Out<'_>, c: &mut Context<'_>) -> Result<(), Error> {
        let x = &x[0];
        let axes = || x.shape().iter().copied().zip(x.strides().iter().copied()).enumerate();
        let (inside, outside): (Vec<_>, Vec<_>) = axes().partition(|a| self.axes.contains(&a.0));
        let kept = joined(outside.into_iter().map(|a| a.1));
        let reduced = joined(inside.into_iter().map(|a| a.1));
        let lines = Lines { f: self.f, kept, reduced };
        match out.spec.dtype {
            DType::F32 => lines.floats::<f32>(x, out, c),
            DType::F16 => lines.floats::<f16>(x, out, c),
            DType::BF16 => lines.floats::<bf16>(x, out, c),
            d => for_dtype!(d, T => lines.plain::<T>(x, out, c)),
        }
        Ok(())
    }
}

struct Lines {
    f: Reduce,
    kept: Vec<Axis>,
    reduced: Vec<Axis>,
}

impl Lines {
    fn count(&self) -> usize {
        self.reduced.iter().map(|a| a.0).product()
    }

    fn start(&self) -> f64 {
        match self.f {
            Reduce::Sum => 0.0,
            Reduce::Prod => 1.0,
            Reduce::Max => f64::NEG_INFINITY,
            Reduce::Min => f64::INFINITY,
        }
    }

    fn binary(&self) -> Binary {
        match self.f {
            Reduce::Sum => Binary::Add,
            Reduce::Prod => Binary::Mul,
            Reduce::Max => Binary::Max,
            Reduce::Min => Binary::Min,
        }
    }

    fn floats<T: Element + Number>(&self, x: &View<'_>, out: &mut Out<'_>, c: &Context<'_>) {
        let (from, to) = (Shared(address::<T>(x, out)), Shared(out.bytes.as_mut_ptr().cast::<T>()));
        let (n, count) = (out.spec.numel(), self.count());
        let least = super::LEAST.div_ceil(count.max(1));
        let along = self.reduced.last().is_some_and(|a| a.1 == 1);
        let across = self.kept.last().is_some_and(|a| a.1 == 1);
        if along && count > 0 {
            let (line, rest) = self.reduced.split_last().map_or((1, &[][..]), |(l, r)| (l.0, r));
            c.pool.run_chunks(n, least, &|range| {
                for i in range {
                    let at = place(i, &self.kept);
                    let mut total = self.start();
                    for j in 0..count / line {
                        // SAFETY: places stay inside the operand.
                        let x = unsafe { from.get().offset(at + place(j, rest)) };
                        let sum = dispatch(Along { f: self.f, x, n: line });
                        total = total.binary(sum, self.binary());
                    }
                    // SAFETY: each result is written once.
                    unsafe { *to.get().add(i) = Number::from_f64(total) };
                }
            });
        } else if across && count > 0 {
            let (line, rest) = self.kept.split_last().map_or((1, &[][..]), |(l, r)| (l.0, r));
            let pieces = line.div_ceil(ACROSS);
            c.pool.run_chunks(n / line * pieces, least.div_ceil(ACROSS), &|range| {
                for unit in range {
                    let (row, from_column) = (unit / pieces, unit % pieces * ACROSS);
                    let m = ACROSS.min(line - from_column);
                    let at = place(row, rest) + from_column as isize;
                    let mut totals = [self.start() as f32; ACROSS];
                    for j in 0..count {
                        // SAFETY: places stay inside the operand.
                        let x = unsafe { from.get().offset(at + place(j, &self.reduced)) };
                        dispatch(Across { f: self.f, x, totals: &mut totals[..m] });
                    }
                    for (k, t) in totals[..m].iter().enumerate() {
                        // SAFETY: each result is written once.
                        unsafe {
                            *to.get().add(row * line + from_column + k) = Element::from_f32(*t);
                        }
                    }
                }
            });
        } else {
            self.plain::<T>(x, out, c);
        }
    }

    fn plain<T: Number>(&self, x: &View<'_>, out: &mut Out<'_>, c: &Context<'_>) {
        let (from, to) = (Shared(address::<T>(x, out)), Shared(out.bytes.as_mut_ptr().cast::<T>()));
        let (n, count) = (out.spec.numel(), self.count());
        c.pool.run_chunks(n, super::LEAST.div_ceil(count.max(1)), &|range| {
            for i in range {
                let at = place(i, &self.kept);
                // SAFETY: places stay inside the operand; each result is written once.
                let read = |j: usize| unsafe { *from.get().offset(at + place(j, &self.reduced)) };
                let result = if T::FLOAT {
                    let all = (0..count).map(|j| read(j).to_f64());
                    T::from_f64(all.fold(self.start(), |s, v| s.binary(v, self.binary())))
                } else {
                    let all = (0..count).map(read);
                    all.reduce(|s, v| s.binary(v, self.binary()))
                        .unwrap_or(T::from_f64(self.start()))
                };
                // SAFETY: as above.
                unsafe { *to.get().add(i) = result };
            }
        });
    }
}

/// Reduces one contiguous line.
struct Along<T> {
    f: Reduce,
    x: *const T,
    n: usize,
}

impl<T: Element> WithSimd for Along<T> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        macro_rules! fold {
            ($start:expr, |$a:ident, $b:ident| $value:expr, $one:expr) => {{
                let start = s.splat($start);
                let mut sums = [start; 4];
                let mut at = 0;
                // SAFETY: `at + m <= n` elements exist.
                unsafe {
                    while self.n - at >= 4 * S::LANES {
                        for (k, sum) in sums.iter_mut().enumerate() {
                            let ($a, $b) = (*sum, T::load(s, self.x.add(at + k * S::LANES)));
                            *sum = $value;
                        }
                        at += 4 * S::LANES;
                    }
                    while self.n - at >= S::LANES {
                        let ($a, $b) = (sums[0], T::load(s, self.x.add(at)));
                        sums[0] = $value;
                        at += S::LANES;
                    }
                }
                let ($a, $b) = (sums[0], sums[1]);
                let left = $value;
                let ($a, $b) = (sums[2], sums[3]);
                let right = $value;
                let ($a, $b) = (left, right);
                let all = $value;
                let mut lanes = [0.0f32; crate::simd::MAX_LANES];
                // SAFETY: LANES is at most MAX_LANES; the rest of the line exists.
                unsafe {
                    s.store(lanes.as_mut_ptr(), all);
                    let one: fn(f64, f64) -> f64 = $one;
                    let mut total = f64::from($start);
                    for l in &lanes[..S::LANES] {
                        total = one(total, f64::from(*l));
                    }
                    for i in at..self.n {
                        total = one(total, f64::from((*self.x.add(i)).to_f32()));
                    }
                    total
                }
            }};
        }
        match self.f {
            Reduce::Sum => fold!(0.0f32, |a, b| s.add(a, b), |a, b| a + b),
            Reduce::Prod => fold!(1.0f32, |a, b| s.mul(a, b), |a, b| a * b),
            // NaN in the running value stays, and max(a, b) gives b where b is NaN.
            Reduce::Max => {
                fold!(f32::NEG_INFINITY, |a, b| s.select(s.eq(a, a), s.max(a, b), a), |a, b| {
                    a.binary(b, Binary::Max)
                })
            }
            Reduce::Min => {
                fold!(f32::INFINITY, |a, b| s.select(s.eq(a, a), s.min(a, b), a), |a, b| {
                    a.binary(b, Binary::Min)
                })
            }
        }
    }
}

/// Adds a contiguous line to a line of results.
struct Across<'a, T> {
    f: Reduce,
    x: *const T,
    totals: &'a mut [f32],
}

impl<T: Element> WithSimd for Across<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.totals.len();
        let out = self.totals.as_mut_ptr();
        macro_rules! fold {
            (|$a:ident, $b:ident| $value:expr) => {{
                let mut at = 0;
                // SAFETY: `at + m <= n` elements of both exist.
                unsafe {
                    while n - at >= S::LANES {
                        let ($a, $b) = (s.load(out.add(at)), T::load(s, self.x.add(at)));
                        s.store(out.add(at), $value);
                        at += S::LANES;
                    }
                    if at < n {
                        let m = n - at;
                        let $a = s.load_partial(out.add(at), m);
                        let $b = T::load_partial(s, self.x.add(at), m);
                        s.store_partial(out.add(at), m, $value);
                    }
                }
            }};
        }
        match self.f {
            Reduce::Sum => fold!(|a, b| s.add(a, b)),
            Reduce::Prod => fold!(|a, b| s.mul(a, b)),
            Reduce::Max => fold!(|a, b| s.select(s.eq(a, a), s.max(a, b), a)),
            Reduce::Min => fold!(|a, b| s.select(s.eq(a, a), s.min(a, b), a)),
        }
    }
}
