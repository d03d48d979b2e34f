//! Products of few rows: the packed bytes are read once, rows of the weight are shared out.

use super::Weight;
use super::format::{Format, group, with_format};
use crate::Pool;
use crate::gemm::{Bias, Finish, LinearShape, Raw, lines, on, share, take};
use crate::kernel::Combine;
use crate::simd::{Element, Isa, MAX_LANES, Simd, WithSimd};
use frit_ops::{Activation, Encoding};
use std::mem::MaybeUninit;

/// Up to so many rows go this way.
pub(crate) const FEW: usize = 8;
/// Rows of activations that one pass over the weight takes.
const ROWS: usize = 4;
/// Packed bytes that a task reads.
const TASK_BYTES: usize = 32 << 10;
/// Rows of the weight that a task takes at most.
const MOST: usize = 256;

/// Bytes of scratch that [`few`] needs.
pub(super) fn scratch_bytes<T: Element>(shape: &LinearShape, encoding: Encoding) -> usize {
    let &LinearShape { m, k, .. } = shape;
    let widened = if T::IS_F32 { 0 } else { lines(m * k * 4) };
    widened + lines(m * (k / group(encoding)) * MAX_LANES * 4)
}

/// `out = x W^T`, or that together with what it holds, of at most [`FEW`] dense rows.
#[expect(clippy::too_many_arguments, reason = "the operands of the product")]
pub(super) fn few<T: Element>(
    isa: Isa,
    pool: &Pool,
    shape: &LinearShape,
    x: &[T],
    weight: &Weight<'_>,
    combine: Combine,
    out: &mut [T],
    mut scratch: &mut [u8],
) {
    let &LinearShape { m, n, k, .. } = shape;
    assert_eq!((x.len(), out.len()), (m * k, m * n), "not {shape:?}");
    if m * n == 0 {
        return;
    }
    let groups = k / group(weight.encoding);
    let wide = take::<f32>(&mut scratch, if T::IS_F32 { 0 } else { m * k });
    let sums = take::<f32>(&mut scratch, m * groups * MAX_LANES);
    let group = group(weight.encoding);
    on(isa, Prepare { x: x.as_ptr(), wide: wide.add(0), sums: sums.add(0), n: m * k, group });
    let wide = if T::IS_F32 { Raw(x.as_ptr().cast_mut().cast()) } else { wide };

    let chunk = (TASK_BYTES * n / weight.bytes.len().max(1)).clamp(4, MOST);
    let out = Raw(out.as_mut_ptr());
    // Memory and unpacking are slower than sums of so few rows.
    share(pool, n.div_ceil(chunk), m.max(4) * chunk * k, &|task| {
        let first = task * chunk;
        let rows = chunk.min(n - first);
        let mut to = [const { MaybeUninit::<f32>::uninit() }; ROWS * MOST];
        let to = to.as_mut_ptr().cast::<f32>();
        for pass in (0..m).step_by(ROWS) {
            let part = Part {
                first,
                rows,
                groups,
                x: wide.add(pass * k),
                sums: sums.add(0),
                pass,
                count: ROWS.min(m - pass),
                to,
            };
            dots(isa, weight, part);
            // These rows and columns of the output are this task's alone, and `dots` has written
            // their sums.
            let finish = Finish {
                sums: to,
                pitch: MOST,
                rows: part.count,
                columns: rows,
                bias: Bias::None,
                activation: Activation::Identity,
                combine,
                c: out.add(pass * n + first),
                c_row: n as isize,
                c_column: 1,
            };
            on(isa, finish);
        }
    });
}

/// `to[i][j] = x row i * weight row first + j`, with a pitch of [`MOST`].
#[derive(Clone, Copy)]
struct Part {
    first: usize,
    rows: usize,
    groups: usize,
    x: *const f32,
    /// Of all rows, a vector a group.
    sums: *const f32,
    /// The first row of x.
    pass: usize,
    /// Rows of x, at most [`ROWS`].
    count: usize,
    to: *mut f32,
}

/// For all types of activations, which would otherwise each have their own code.
fn dots(isa: Isa, weight: &Weight<'_>, part: Part) {
    with_format!(weight, format => on(isa, Dots { format, part }));
}

/// Widens x where it must be, and sums each group of it, lane by lane.
struct Prepare<T> {
    x: *const T,
    wide: *mut f32,
    sums: *mut f32,
    n: usize,
    group: usize,
}

impl<T: Element> WithSimd for Prepare<T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Prepare { x, wide, sums, n, group } = self;
        for (g, from) in (0..n).step_by(group).enumerate() {
            let mut sum = s.zero();
            for at in (from..from + group).step_by(S::LANES) {
                // SAFETY: n is a multiple of the group, which is one of every vector.
                unsafe {
                    let v = T::load(s, x.add(at));
                    if !T::IS_F32 {
                        s.store(wide.add(at), v);
                    }
                    sum = s.add(sum, v);
                }
            }
            // SAFETY: a vector of sums for every group.
            unsafe { s.store(sums.add(g * S::LANES), sum) };
        }
    }
}

struct Dots<F> {
    format: F,
    part: Part,
}

impl<F: Format> WithSimd for Dots<F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: who makes a Dots vouches for its pointers.
        unsafe {
            match self.part.count {
                1 => self.all::<S, 1>(s, 0),
                2 => self.all::<S, 2>(s, 0),
                3 => {
                    self.all::<S, 2>(s, 0);
                    self.all::<S, 1>(s, 2);
                }
                _ => self.all::<S, 4>(s, 0),
            }
        }
    }
}

impl<F: Format> Dots<F> {
    /// # Safety
    /// The pointers are valid for what the fields say, and there are `M` rows of x from `row` on.
    #[inline(always)]
    unsafe fn all<S: Simd, const M: usize>(&self, s: S, row: usize) {
        let Dots { format, part: Part { first, rows, groups, x, sums, pass, to, .. } } = *self;
        let k = groups * F::GROUP;
        let x = x.wrapping_add(row * k);
        let sums = sums.wrapping_add((pass + row) * groups * S::LANES);
        for j in 0..rows {
            let mut acc = [s.zero(); M];
            for g in 0..groups {
                // SAFETY: the group exists in the row and in x.
                unsafe {
                    let (scale, offset) = format.scale(s, first + j, g);
                    // One, two or four vectors, spelt out: a loop over them is not always unrolled.
                    let vectors = const { F::GROUP / S::LANES };
                    let row = first + j;
                    let a = format.whole(s, row, g, 0);
                    let b = if vectors > 1 { format.whole(s, row, g, 1) } else { a };
                    let c = if vectors > 2 { format.whole(s, row, g, 2) } else { a };
                    let d = if vectors > 2 { format.whole(s, row, g, 3) } else { a };
                    let (scale, offset) = (s.splat(scale), s.splat(offset));
                    for (i, acc) in acc.iter_mut().enumerate() {
                        let x = x.add(i * k + g * F::GROUP);
                        let mut dot = s.mul(a, s.load(x));
                        if vectors > 1 {
                            dot = s.fma(b, s.load(x.add(S::LANES)), dot);
                        }
                        if vectors > 2 {
                            dot = s.fma(c, s.load(x.add(2 * S::LANES)), dot);
                            dot = s.fma(d, s.load(x.add(3 * S::LANES)), dot);
                        }
                        // Offsets often cancel most of the product: group by group, little is lost.
                        if F::OFFSET {
                            let sum = s.load(sums.add((i * groups + g) * S::LANES));
                            *acc = s.fma(offset, sum, *acc);
                        }
                        *acc = s.fma(scale, dot, *acc);
                    }
                }
            }
            for (i, &acc) in acc.iter().enumerate() {
                // SAFETY: j < MOST, and there are M rows.
                unsafe { *to.add((row + i) * MOST + j) = s.reduce_sum(acc) };
            }
        }
    }
}
