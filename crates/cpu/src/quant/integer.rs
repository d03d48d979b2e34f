//! Activations of 8 bits: products and sums of integers, scaled group by group.

use super::Weight;
use super::format::{Format, Q4_0, Q4_1, Q8_0};
use super::panels::Panels;
use crate::Pool;
use crate::gemm::{self, Epilogue, LinearShape, Raw, lines, on, share, take};
use crate::simd::{Element, Isa, Simd, WithSimd};
use frit_ops::Encoding;
use half::f16;
use std::mem::MaybeUninit;

/// Numbers with one scale, of weights and activations alike.
const GROUP: usize = 32;
/// Rows of activations that one pass over the weight takes.
const ROWS: usize = 4;
/// Packed bytes that a task reads: they stay in L1 while all activations pass.
const TASK_BYTES: usize = 16 << 10;
/// Rows of the weight that a task takes at most.
const MOST: usize = 256;

/// Whether a weight of this encoding is multiplied in integers.
pub(crate) fn takes_eight_bit(encoding: Encoding) -> bool {
    matches!(encoding, Encoding::Q4_0 | Encoding::Q4_1 | Encoding::Q8_0)
}

/// From so many rows on, products of the rounded numbers in f32 are faster than in integers: 512 x
/// 576 by 1536 takes 5.2 ms that way and 8.2 in integers on two threads of a Zen 3, whose products
/// of bytes have no sums of their own.
const MANY: usize = 16;

/// Bytes of scratch that [`eight_bit`] needs.
pub(crate) fn eight_bit_scratch_bytes(isa: Isa, shape: &LinearShape) -> usize {
    let &LinearShape { m, k, .. } = shape;
    let rounded = lines(m * k) + 2 * lines(m * (k / GROUP) * 4);
    match m < MANY {
        true => rounded,
        false => rounded + lines(m * k * 4) + gemm::linear_from_scratch_bytes::<f32>(isa, shape),
    }
}

/// A [`Format`] whose groups of 32 can be multiplied in integers.
trait Integers: Format {
    /// The products of a group with 32 bytes, summed in some lanes.
    ///
    /// # Safety
    /// Row and group exist, and so do 32 bytes of `x`, none of them -128.
    unsafe fn dot<S: Simd>(self, s: S, row: usize, group: usize, x: *const i8) -> S::I;
}

macro_rules! integers {
    ($($format:ident, $dot:ident, $size:literal, $from:literal;)*) => { $(
        impl Integers for $format {
            #[inline(always)]
            unsafe fn dot<S: Simd>(self, s: S, row: usize, group: usize, x: *const i8) -> S::I {
                let q = self.0.block(row, group, $size).wrapping_add($from);
                // SAFETY: the caller's contract.
                unsafe { s.$dot(q.cast(), x) }
            }
        }
    )* };
}

integers! {
    Q4_0, dot_nibbles, 18, 2;
    Q4_1, dot_nibbles, 20, 4;
    Q8_0, dot_bytes, 34, 2;
}

/// `out = x W^T` with x rounded to 8 bits. Rows are dense.
///
/// # Panics
/// If a slice does not fit the shape, or the encoding is not one that [`takes_eight_bit`].
pub(crate) fn eight_bit<T: Element>(
    isa: Isa,
    pool: &Pool,
    shape: &LinearShape,
    x: &[T],
    weight: &Weight<'_>,
    out: &mut [T],
    mut scratch: &mut [u8],
) {
    let &LinearShape { m, n, k, .. } = shape;
    assert_eq!((weight.rows, weight.width), (n, k), "the weight is not {shape:?}");
    assert_eq!((x.len(), out.len()), (m * k, m * n), "not {shape:?}");
    if m * n == 0 {
        return;
    }
    let groups = k / GROUP;
    let whole = take::<i8>(&mut scratch, m * k);
    let scales = take::<f32>(&mut scratch, m * groups);
    let sums = take::<f32>(&mut scratch, m * groups);
    let x = Raw(x.as_ptr().cast_mut());
    share(pool, m, 4 * k, &|i| {
        let (x, whole) = (x.add(i * k), whole.add(i * k));
        let (scales, sums) = (scales.add(i * groups), sums.add(i * groups));
        on(isa, Round { x, whole, scales, sums, groups });
    });
    if m >= MANY {
        let wide = take::<f32>(&mut scratch, m * k);
        share(pool, m, 2 * k, &|i| {
            for at in i * k..(i + 1) * k {
                // SAFETY: the row is this task's alone, and its numbers are rounded.
                unsafe {
                    *wide.add(at) = *scales.add(at / GROUP) * f32::from(*whole.add(at));
                }
            }
        });
        // SAFETY: all rows were written above, and nothing else uses them.
        let wide = unsafe { std::slice::from_raw_parts(wide.add(0), m * k) };
        let columns = Panels { isa, weight: *weight, transposed: true };
        return gemm::linear_from(
            isa,
            pool,
            shape,
            wide,
            columns,
            Epilogue::default(),
            out,
            scratch,
        );
    }
    let y = Raw(out.as_mut_ptr());
    let chunk = (TASK_BYTES * n / weight.bytes.len().max(1)).clamp(4, MOST);
    share(pool, n.div_ceil(chunk), m.max(4) * chunk * k / 2, &|task| {
        let first = task * chunk;
        let rows = chunk.min(n - first);
        let mut to = [const { MaybeUninit::<f32>::uninit() }; ROWS * MOST];
        let to = to.as_mut_ptr().cast::<f32>();
        for pass in (0..m).step_by(ROWS) {
            let part = Part {
                first,
                rows,
                groups,
                x: whole.add(pass * k),
                scales: scales.add(pass * groups),
                sums: sums.add(pass * groups),
                count: ROWS.min(m - pass),
                to,
            };
            dots(isa, weight, part);
            for i in 0..part.count {
                for j in 0..rows {
                    // SAFETY: these rows and columns of the output are this task's alone, and `dots`
                    // has written their sums.
                    unsafe {
                        *y.add((pass + i) * n + first + j) = T::from_f32(*to.add(i * MOST + j));
                    }
                }
            }
        }
    });
}

/// `to[i][j] = x row i * weight row first + j`, with a pitch of [`MOST`].
#[derive(Clone, Copy)]
struct Part {
    first: usize,
    rows: usize,
    groups: usize,
    x: *const i8,
    scales: *const f32,
    sums: *const f32,
    /// Rows of x, at most [`ROWS`].
    count: usize,
    to: *mut f32,
}

/// # Panics
/// If the encoding is not one that [`takes_eight_bit`].
fn dots(isa: Isa, weight: &Weight<'_>, part: Part) {
    match weight.encoding {
        Encoding::Q4_0 => on(isa, Dots { format: Q4_0(weight.bytes()), part }),
        Encoding::Q4_1 => on(isa, Dots { format: Q4_1(weight.bytes()), part }),
        Encoding::Q8_0 => on(isa, Dots { format: Q8_0(weight.bytes()), part }),
        other => panic!("{other} is not multiplied in integers"),
    }
}

/// Rounds a row: `x = scale * whole` in each group, with `sums = scale * sum(whole)`; the scale is an
/// f16 that is kept as f32.
struct Round<T> {
    x: *const T,
    whole: *mut i8,
    scales: *mut f32,
    sums: *mut f32,
    groups: usize,
}

impl<T: Element> WithSimd for Round<T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for g in 0..self.groups {
            let mut wide = [0f32; GROUP];
            let (mut largest, mut nothing) = (s.zero(), s.zero());
            for at in (0..GROUP).step_by(S::LANES) {
                // SAFETY: the row has this group.
                unsafe {
                    let v = T::load(s, self.x.add(g * GROUP + at));
                    largest = s.max(s.abs(v), largest);
                    // Not a number where x is not finite.
                    nothing = s.add(nothing, s.mul(v, s.zero()));
                    s.store(wide.as_mut_ptr().add(at), v);
                }
            }
            let scale = (s.reduce_max(largest) / 127.0).max(f32::MIN_POSITIVE);
            let mut sum = s.zero();
            for at in (0..GROUP).step_by(S::LANES) {
                // SAFETY: as above.
                unsafe {
                    let p = wide.as_mut_ptr().add(at);
                    let q = s.round_even(s.div(s.load(p), s.splat(scale)));
                    sum = s.add(sum, q);
                    s.store(p, q);
                }
            }
            let scale = f16::from_f32(scale).to_f32() + s.reduce_sum(nothing);
            // SAFETY: a scale and a sum for every group, and room for its bytes.
            unsafe {
                for (i, &q) in wide.iter().enumerate() {
                    *self.whole.add(g * GROUP + i) = q as i8;
                }
                *self.scales.add(g) = scale;
                *self.sums.add(g) = scale * s.reduce_sum(sum);
            }
        }
    }
}

struct Dots<F> {
    format: F,
    part: Part,
}

impl<F: Integers> WithSimd for Dots<F> {
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

impl<F: Integers> Dots<F> {
    /// # Safety
    /// The pointers are valid for what the fields say, and there are `M` rows of x from `row` on.
    #[inline(always)]
    unsafe fn all<S: Simd, const M: usize>(&self, s: S, row: usize) {
        let Dots { format, part: Part { first, rows, groups, x, scales, sums, to, .. } } = *self;
        for j in 0..rows {
            let mut acc = [s.zero(); M];
            let mut offsets = [0f32; M];
            for g in 0..groups {
                // SAFETY: the group exists in the weight and in every row.
                unsafe {
                    let (scale, offset) = format.scale(s, first + j, g);
                    for i in 0..M {
                        let at = (row + i) * groups + g;
                        let dot = s.to_f(format.dot(s, first + j, g, x.add(at * GROUP)));
                        acc[i] = s.fma(s.splat(scale * *scales.add(at)), dot, acc[i]);
                        if F::OFFSET {
                            offsets[i] += offset * *sums.add(at);
                        }
                    }
                }
            }
            for i in 0..M {
                // SAFETY: j < MOST, and there are M rows.
                unsafe { *to.add((row + i) * MOST + j) = s.reduce_sum(acc[i]) + offsets[i] };
            }
        }
    }
}
