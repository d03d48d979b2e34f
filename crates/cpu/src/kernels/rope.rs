//! Rotary position embedding: a table of cosines and sines, and the rotation.
//!
//! The table holds one row for each position and is computed in f64, unless it is given; the
//! rotation of all heads reads it. Angles are reduced by a multiple of pi/2 in two parts, exact up to [`FAR`]; larger
//! ones (and what is not finite) go through the standard library.

use std::ops::Range;

use super::{InOut, MIN_COMPUTED, MIN_MOVED, load, rows_of};
use crate::simd::{Element, MAX_LANES, Simd, WithSimd, dispatch};
use crate::threads::Pool;

/// The shape of an input of [`rope`]: contiguous `[batch, outer, tokens, inner, size]`.
///
/// With the sequence on axis -2, `inner` is 1 and `outer` the number of heads; on axis -3 it is
/// the other way round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RopeShape {
    pub(crate) batch: usize,
    /// Heads before the sequence axis.
    pub(crate) outer: usize,
    /// The length of the sequence.
    pub(crate) tokens: usize,
    /// Heads between the sequence axis and the last.
    pub(crate) inner: usize,
    /// D, the length of the last axis.
    pub(crate) size: usize,
    /// How many leading elements of the last axis are rotated; even.
    pub(crate) dims: usize,
    /// Pairs are (2i, 2i + 1) rather than (i, i + dims / 2).
    pub(crate) interleaved: bool,
}

impl RopeShape {
    fn rows(&self) -> usize {
        self.batch * self.outer * self.tokens * self.inner
    }
}

/// Rotates the leading `dims` of each row and copies the rest.
///
/// `cos` and `sin` are `[1 or batch, tokens, dims / 2]`, as [`rope_table`] fills them, in a type of
/// their own.
pub(crate) fn rope<T: Element, C: Element>(
    pool: &Pool,
    io: InOut<'_, T>,
    shape: RopeShape,
    cos: &[C],
    sin: &[C],
) {
    let rows = shape.rows();
    let table = shape.tokens * shape.dims / 2;
    assert_eq!(io.len, rows * shape.size, "the slices have another length than the shape");
    assert!(shape.dims.is_multiple_of(2) && shape.dims <= shape.size, "dims do not fit the size");
    assert!(cos.len() == sin.len(), "cosines and sines differ in length");
    assert!(cos.len() == table || cos.len() == shape.batch * table, "the table is too short");
    if io.len == 0 {
        return;
    }
    let per_batch = cos.len() != table;
    pool.run_chunks(rows, rows_of(MIN_MOVED, shape.size), &|rows| {
        dispatch(Rows { io: &io, shape, cos, sin, per_batch, rows });
    });
}

/// Some rows of [`rope`].
struct Rows<'a, T, C> {
    io: &'a InOut<'a, T>,
    shape: RopeShape,
    cos: &'a [C],
    sin: &'a [C],
    per_batch: bool,
    rows: Range<usize>,
}

impl<T: Element, C: Element> WithSimd for Rows<'_, T, C> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let RopeShape { outer, tokens, inner, size, dims, .. } = self.shape;
        let half = dims / 2;
        // The row's own place, counted along instead of divided out for each row.
        let mut head = self.rows.start % inner;
        let mut token = self.rows.start / inner % tokens;
        let mut block = self.rows.start / (inner * tokens);
        for row in self.rows {
            let batch = if self.per_batch { block / outer } else { 0 };
            let table = (batch * tokens + token) * half..(batch * tokens + token + 1) * half;
            let (cos, sin) = (self.cos[table.clone()].as_ptr(), self.sin[table].as_ptr());
            // SAFETY: `rows` are rows of `size` elements in both slices, which no other task
            // writes; the table rows hold dims / 2 elements.
            unsafe {
                let (x, out) = self.io.at(row * size);
                if self.shape.interleaved {
                    interleaved(s, x, out, dims, cos, sin);
                } else {
                    split(s, x, out, half, cos, sin);
                }
                if !std::ptr::eq(x, out) {
                    std::ptr::copy_nonoverlapping(x.add(dims), out.add(dims), size - dims);
                }
            }
            head += 1;
            if head == inner {
                head = 0;
                token += 1;
                if token == tokens {
                    token = 0;
                    block += 1;
                }
            }
        }
    }
}

/// Rotates the pairs `(i, i + half)` of one row.
///
/// # Safety
/// `x` and `out` are valid for `2 * half` elements and are equal or apart; `cos` and `sin` are
/// valid for `half`.
#[inline(always)]
unsafe fn split<S: Simd, T: Element, C: Element>(
    s: S,
    x: *const T,
    out: *mut T,
    half: usize,
    cos: *const C,
    sin: *const C,
) {
    // SAFETY: at + n <= half in all accesses; both halves are read before either is written.
    unsafe {
        let mut at = 0;
        while at < half {
            let n = S::LANES.min(half - at);
            let (a, b) = (load(s, x.add(at), n), load(s, x.add(half + at), n));
            let (c, z) = (load(s, cos.add(at), n), load(s, sin.add(at), n));
            let low = s.fnma(b, z, s.mul(a, c));
            let high = s.fma(a, z, s.mul(b, c));
            if n == S::LANES {
                T::store(s, out.add(at), low);
                T::store(s, out.add(half + at), high);
            } else {
                T::store_partial(s, out.add(at), n, low);
                T::store_partial(s, out.add(half + at), n, high);
            }
            at += n;
        }
    }
}

/// Rotates the pairs `(2i, 2i + 1)` of one row.
///
/// # Safety
/// `x` and `out` are valid for `dims` elements and are equal or apart; `cos` and `sin` are valid
/// for `dims / 2`; `dims` is even.
#[inline(always)]
unsafe fn interleaved<S: Simd, T: Element, C: Element>(
    s: S,
    x: *const T,
    out: *mut T,
    dims: usize,
    cos: *const C,
    sin: *const C,
) {
    const { assert!(S::LANES <= MAX_LANES) };
    // a cos - b sin in even lanes, b cos + a sin in odd ones.
    static SIGNS: [f32; MAX_LANES] =
        [-0., 0., -0., 0., -0., 0., -0., 0., -0., 0., -0., 0., -0., 0., -0., 0.];
    // SAFETY: at + n <= dims in all accesses, n is even, and SIGNS holds MAX_LANES elements.
    unsafe {
        let signs = s.bits(s.load(SIGNS.as_ptr()));
        let mut at = 0;
        while dims - at >= S::LANES {
            let pairs = T::load(s, x.add(at));
            let c = C::load_partial(s, cos.add(at / 2), S::LANES / 2);
            let z = C::load_partial(s, sin.add(at / 2), S::LANES / 2);
            T::store(s, out.add(at), rotated(s, signs, pairs, c, z));
            at += S::LANES;
        }
        let n = dims - at;
        if n > 0 {
            let pairs = T::load_partial(s, x.add(at), n);
            let c = C::load_partial(s, cos.add(at / 2), n / 2);
            let z = C::load_partial(s, sin.add(at / 2), n / 2);
            T::store_partial(s, out.add(at), n, rotated(s, signs, pairs, c, z));
        }
    }
}

/// Rotates the pairs of neighbouring lanes by the cosines and sines in the lower half of `c`, `z`.
#[inline(always)]
fn rotated<S: Simd>(s: S, signs: S::I, pairs: S::F, c: S::F, z: S::F) -> S::F {
    let signed = s.from_bits(s.xor_i(s.bits(s.twice_low(z)), signs));
    s.fma(s.swap_pairs(pairs), signed, s.mul(pairs, s.twice_low(c)))
}

/// `cos` and `sin` of `position * scale * inv_freq`, times `amplitude`: a row of
/// `inv_freqs.len()` for each position, in f64 up to the rounding to f32.
pub(crate) fn rope_table(
    pool: &Pool,
    positions: &[i64],
    (scale, amplitude): (f64, f64),
    inv_freqs: &[f64],
    cos: &mut [f32],
    sin: &mut [f32],
) {
    let width = inv_freqs.len();
    let len = positions.len() * width;
    assert!(cos.len() == len && sin.len() == len, "the table does not fit the positions");
    if len == 0 {
        return;
    }
    let (cos, sin) = (InOut::in_place(cos), InOut::in_place(sin));
    pool.run_chunks(positions.len(), rows_of(MIN_COMPUTED, width), &|rows| {
        for row in rows {
            // SAFETY: `row` is a row of both tables, which no other task writes.
            let (cos, sin) = unsafe {
                (
                    std::slice::from_raw_parts_mut(cos.at(row * width).1, width),
                    std::slice::from_raw_parts_mut(sin.at(row * width).1, width),
                )
            };
            let position = positions[row] as f64 * scale;
            dispatch(Angles { position, amplitude, inv_freqs, cos, sin });
        }
    });
}

/// One row of the table: plain f64 code, which becomes vectors inside of [`dispatch`].
struct Angles<'a> {
    position: f64,
    amplitude: f64,
    inv_freqs: &'a [f64],
    cos: &'a mut [f32],
    sin: &'a mut [f32],
}

/// Up to here pi/2 has few enough multiples that the reduction is exact.
const FAR: f64 = 25_000_000.0;

impl WithSimd for Angles<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Angles { position, amplitude, inv_freqs, cos, sin } = self;
        let mut far = false;
        for ((&inv_freq, cos), sin) in inv_freqs.iter().zip(&mut *cos).zip(&mut *sin) {
            let angle = position * inv_freq;
            far |= angle.abs() > FAR || angle.is_nan();
            let (s, c) = sin_cos(angle);
            *cos = (c * amplitude) as f32;
            *sin = (s * amplitude) as f32;
        }
        if far {
            for ((&inv_freq, cos), sin) in inv_freqs.iter().zip(cos).zip(sin) {
                let (s, c) = (position * inv_freq).sin_cos();
                *cos = (c * amplitude) as f32;
                *sin = (s * amplitude) as f32;
            }
        }
    }
}

/// Sine and cosine for angles up to [`FAR`], with an absolute error below 1e-12 and a relative
/// error below 1e-11 near their zeros.
#[inline(always)]
fn sin_cos(angle: f64) -> (f64, f64) {
    // Adding 1.5 * 2^52 rounds to a whole number, in the low bits of the sum.
    const ROUNDER: f64 = 6_755_399_441_055_744.0;
    // pi/2 in two parts; the first has 29 bits, so that its multiples up to 2^24 are exact.
    const HIGH: f64 = f64::from_bits(0x3FF921FB54000000);
    const LOW: f64 = 9.920935796805404e-10;
    let shifted = angle * std::f64::consts::FRAC_2_PI + ROUNDER;
    let n = shifted - ROUNDER;
    let r = (angle - n * HIGH) - n * LOW;
    // The series of Taylor are short enough on -pi/4 ..= pi/4.
    let rr = r * r;
    let tail = -1.0 / 39_916_800.0 + rr * (1.0 / 6_227_020_800.0);
    let tail = 1.0 / 362_880.0 + rr * tail;
    let tail = 1.0 / 120.0 + rr * (-1.0 / 5040.0 + rr * tail);
    let sine = r + r * rr * (-1.0 / 6.0 + rr * tail);
    let tail = 1.0 / 40_320.0 + rr * (-1.0 / 3_628_800.0 + rr * (1.0 / 479_001_600.0));
    let cosine = 1.0 + rr * (-0.5 + rr * (1.0 / 24.0 + rr * (-1.0 / 720.0 + rr * tail)));
    let quadrant = shifted.to_bits();
    let odd = quadrant & 1 == 1;
    let (s, c) = if odd { (cosine, sine) } else { (sine, cosine) };
    let signed = |x: f64, quadrant: u64| f64::from_bits(x.to_bits() ^ ((quadrant & 2) << 62));
    (signed(s, quadrant), signed(c, quadrant.wrapping_add(1)))
}
