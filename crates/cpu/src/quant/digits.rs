//! Products of few rows with weights of 4 bits, exact, in integers.
//!
//! Unpacking 4 bits to f32 lanes costs more than reading them. So each 32 activations become whole
//! numbers of 24 bits with one scale, and these three digits of base 256, from -128 to 127. Products
//! of digits and nibbles are summed by the processor's products of bytes, and put together with one
//! rounding; what is lost before is half a unit of 2^-23 of the largest of each 32, as f32 loses of
//! that number alone.
//!
//! The weight is laid out anew once, eight rows side by side, so that a row is a lane: no sum over
//! lanes, and scales come eight at a time. It costs the packed bytes once more in memory.
//!
//! Measured on two threads of a Zen 3 (us a product of one row, unpacking to f32 lanes before and
//! digits after): see `docs/performance.md`.

use super::Weight;
use crate::gemm::{LinearShape, Raw, lines, on, take};
use crate::simd::{Element, Isa, Simd, WithSimd};
use crate::{Pool, slab::Piece};
use frit_ops::Encoding;
use half::f16;

/// Rows side by side.
const ROWS: usize = 8;
/// Numbers with one scale.
const GROUP: usize = 32;
/// Packed bytes of a group of eight rows.
const NIBBLES: usize = ROWS * GROUP / 2;
/// Digits of an activation.
const DIGITS: usize = 3;
/// The largest whole number: a first digit of 127.
const LARGEST: f32 = (127 << 16) as f32;
/// Groups whose largest number is smaller are left to f32, where they are still numbers.
const LEAST: f32 = 1e-30;
/// Packed bytes that a task reads, at most: in shorter runs memory is slower, and the threads wait
/// for each other's claims (tokens/s of SmolLM2 on two threads: 131 with 8 KB, 172 with 32, 178
/// with 96, 172 with 400; Zen 3, 2026-11).
const TASK_BYTES: usize = 96 << 10;

/// A weight of eight rows side by side. For each eight rows and each group of 32 columns: eight
/// scales (f16), eight offsets (f16, if the encoding has any), and 128 bytes of nibbles: of each
/// eight columns, for each row, four bytes with the first four in the low and the others in the
/// high nibbles.
pub(crate) struct Interleaved {
    bytes: Piece,
    offsets: bool,
    rows: usize,
    groups: usize,
}

/// Whether weights of this encoding are multiplied by digits.
pub(crate) fn takes_digits(encoding: Encoding) -> bool {
    matches!(encoding, Encoding::Q4_0 | Encoding::Q4_1)
}

impl Interleaved {
    /// Lays a weight out anew.
    ///
    /// # Panics
    /// If its encoding is not one that [`takes_digits`].
    pub(crate) fn new(pool: &Pool, weight: &Weight<'_>) -> Interleaved {
        assert!(takes_digits(weight.encoding), "{} has no digits", weight.encoding);
        let offsets = weight.encoding == Encoding::Q4_1;
        let (rows, groups) = (weight.rows, weight.width / GROUP);
        let row = groups * group_bytes(offsets);
        let bytes = Piece::zeroed(rows.div_ceil(ROWS) * row);
        let mut new = Interleaved { bytes, offsets, rows, groups };
        let to = Raw(new.bytes.as_mut_ptr());
        pool.run(rows.div_ceil(ROWS), &|block| {
            let first = block * ROWS;
            for r in 0..ROWS.min(rows - first) {
                // SAFETY: each task writes its own block, which has room for all groups.
                unsafe { lay(weight, first + r, r, to.add(block * row), offsets, groups) };
            }
        });
        new
    }

    fn group_bytes(&self) -> usize {
        group_bytes(self.offsets)
    }
}

const fn group_bytes(offsets: bool) -> usize {
    NIBBLES + 2 * ROWS * (1 + offsets as usize)
}

/// Lays a row of a weight into its lane of a block.
///
/// # Safety
/// `to` has room for a block, and nobody else touches its lane `r`.
unsafe fn lay(
    weight: &Weight<'_>,
    row: usize,
    r: usize,
    to: *mut u8,
    offsets: bool,
    groups: usize,
) {
    const LOW: u32 = 0x0f0f_0f0f;
    let (size, skip) = if offsets { (20, 4) } else { (18, 2) };
    let from = &weight.bytes[row * groups * size..(row + 1) * groups * size];
    for (g, block) in from.chunks_exact(size).enumerate() {
        let words: [u32; 4] = std::array::from_fn(|i| {
            let at = skip + 4 * i;
            u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
        });
        let [a, b, c, d] = words;
        let eights = [
            a & LOW | (b & LOW) << 4,
            c & LOW | (d & LOW) << 4,
            a >> 4 & LOW | b & !LOW,
            c >> 4 & LOW | d & !LOW,
        ];
        // SAFETY: within group g of the block, in the lane of the row.
        unsafe {
            let group = to.add(g * group_bytes(offsets));
            group.add(2 * r).cast::<[u8; 2]>().write([block[0], block[1]]);
            if offsets {
                let at = group.add(2 * ROWS + 2 * r);
                at.cast::<[u8; 2]>().write([block[2], block[3]]);
            }
            let nibbles = group.add(group_bytes(offsets) - NIBBLES);
            for (t, eight) in eights.iter().enumerate() {
                let at = nibbles.add(t * 4 * ROWS + 4 * r);
                at.cast::<[u8; 4]>().write(eight.to_le_bytes());
            }
        }
    }
}

/// Bytes of scratch that [`digits`] needs.
pub(super) fn scratch_bytes(shape: &LinearShape) -> usize {
    let &LinearShape { m, k, .. } = shape;
    lines(DIGITS * m * k) + 2 * lines(m * (k / GROUP) * 4)
}

/// `out = x W^T` of a few dense rows. Says `false`, and does nothing, where x holds something that
/// digits cannot say: what is not finite, or next to nothing.
pub(super) fn digits<T: Element>(
    isa: Isa,
    pool: &Pool,
    shape: &LinearShape,
    x: &[T],
    weight: &Interleaved,
    out: &mut [T],
    mut scratch: &mut [u8],
) -> bool {
    let &LinearShape { m, n, k, .. } = shape;
    assert_eq!((x.len(), out.len()), (m * k, m * n), "not {shape:?}");
    assert_eq!((weight.rows, weight.groups * GROUP), (n, k), "not {shape:?}");
    if m * n == 0 {
        return true;
    }
    let whole = take::<i8>(&mut scratch, DIGITS * m * k);
    let scales = take::<f32>(&mut scratch, m * weight.groups);
    let sums = take::<f32>(&mut scratch, m * weight.groups);
    let groups = m * weight.groups;
    let (whole, scales, sums) = (whole.add(0), scales.add(0), sums.add(0));
    if !on(isa, Split { x: x.as_ptr(), whole, scales, sums, groups }) {
        return false;
    }
    let (whole, scales, sums) = (Raw(whole), Raw(scales), Raw(sums));
    let block = weight.groups * weight.group_bytes();
    let blocks = n.div_ceil(ROWS);
    // As many tasks for each thread, all of about the same size.
    let threads = pool.threads();
    let tasks = threads * (blocks * block).div_ceil(threads * TASK_BYTES);
    let chunk = blocks.div_ceil(tasks).max(1);
    let y = Raw(out.as_mut_ptr());
    let start = Raw(weight.bytes.as_ptr().cast_mut());
    pool.run(blocks.div_ceil(chunk), &|task| {
        for b in task * chunk..blocks.min((task + 1) * chunk) {
            let rows = ROWS.min(n - b * ROWS);
            for first in (0..m).step_by(4) {
                let part = Part {
                    weight: start.add(b * block),
                    groups: weight.groups,
                    x: whole.add(first * DIGITS * k),
                    scales: scales.add(first * weight.groups),
                    sums: sums.add(first * weight.groups),
                    to: y.add(first * n + b * ROWS),
                    pitch: n,
                    rows,
                    count: 4.min(m - first),
                };
                match weight.offsets {
                    true => on(isa, Dots::<T, true>(part)),
                    false => on(isa, Dots::<T, false>(part)),
                }
            }
        }
    });
    true
}

/// Splits activations into digits: of each group 32 first digits, 32 second, 32 third; with the
/// scale of the group and the sum of its numbers. Says whether all could be said.
struct Split<T> {
    x: *const T,
    whole: *mut i8,
    scales: *mut f32,
    sums: *mut f32,
    groups: usize,
}

impl<T: Element> WithSimd for Split<T> {
    type Output = bool;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> bool {
        /// Added to a number of less than 22 bits, its bits end in the whole number.
        const MAGIC: f32 = (3 << 22) as f32;
        const HALF: f32 = 4096.0;
        let whole = |v| s.sub_i(s.bits(s.add(v, s.splat(MAGIC))), s.bits(s.splat(MAGIC)));
        let mut fine = true;
        for g in 0..self.groups {
            let mut wide = [0f32; GROUP];
            let (mut largest, mut sum) = (s.zero(), s.zero());
            for at in (0..GROUP).step_by(S::LANES) {
                // SAFETY: x has this group.
                unsafe {
                    let v = T::load(s, self.x.add(g * GROUP + at));
                    largest = s.max(s.abs(v), largest);
                    sum = s.add(sum, v);
                    s.store(wide.as_mut_ptr().add(at), v);
                }
            }
            // The sum is no finite number where one of x is none.
            let (largest, sum) = (s.reduce_max(largest), s.reduce_sum(sum));
            fine &= sum.is_finite() && (largest == 0.0 || largest >= LEAST);
            let by = if largest > 0.0 { LARGEST / largest } else { 0.0 };
            let mut digits = [[0i32; GROUP]; DIGITS];
            for at in (0..GROUP).step_by(S::LANES) {
                // SAFETY: every array has GROUP numbers.
                unsafe {
                    let v = s.mul(s.load(wide.as_ptr().add(at)), s.splat(by));
                    let high = s.round_even(s.mul(v, s.splat(1.0 / HALF)));
                    let low = whole(s.fnma(high, s.splat(HALF), v));
                    let q = s.add_i(s.shl_i::<12>(whole(high)), low);
                    let last = |q| {
                        let up = s.and_i(s.add_i(q, s.splat_i(128)), s.splat_i(255));
                        s.sub_i(up, s.splat_i(128))
                    };
                    let third = last(q);
                    let q = s.sar_i::<8>(s.sub_i(q, third));
                    let second = last(q);
                    let first = s.sar_i::<8>(s.sub_i(q, second));
                    for (to, digit) in digits.iter_mut().zip([first, second, third]) {
                        s.store(to.as_mut_ptr().add(at).cast(), s.from_bits(digit));
                    }
                }
            }
            // SAFETY: there is room for the digits, a scale and a sum of every group.
            unsafe {
                let to = self.whole.add(g * DIGITS * GROUP);
                for (d, digits) in digits.iter().enumerate() {
                    for (i, &digit) in digits.iter().enumerate() {
                        *to.add(d * GROUP + i) = digit as i8;
                    }
                }
                *self.scales.add(g) = largest / LARGEST;
                *self.sums.add(g) = sum;
            }
        }
        fine
    }
}

/// Some rows of x against eight rows of the weight.
#[derive(Clone, Copy)]
struct Part<T> {
    weight: *const u8,
    groups: usize,
    x: *const i8,
    scales: *const f32,
    sums: *const f32,
    /// Where the first row of x meets the first row of the weight.
    to: *mut T,
    /// From a row of the output to the next.
    pitch: usize,
    /// Rows of the weight that are there.
    rows: usize,
    /// Rows of x, at most 4.
    count: usize,
}

struct Dots<T, const OFFSETS: bool>(Part<T>);

impl<T: Element, const OFFSETS: bool> WithSimd for Dots<T, OFFSETS> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: who makes a Dots vouches for its pointers.
        unsafe {
            match self.0.count {
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

impl<T: Element, const OFFSETS: bool> Dots<T, OFFSETS> {
    /// # Safety
    /// The pointers are valid for what the fields say, and there are `M` rows of x from `row` on.
    #[inline(always)]
    unsafe fn all<S: Simd, const M: usize>(&self, s: S, row: usize) {
        let Part { weight, groups, x, scales, sums, to, pitch, rows, .. } = self.0;
        // Eight lanes: one or two vectors, or half of one.
        let vectors = const { ROWS.div_ceil(S::LANES) };
        let mut acc = [[s.zero(); 2]; M];
        for g in 0..groups {
            // SAFETY: the group exists in the weight and in every row.
            unsafe {
                let group = weight.add(g * group_bytes(OFFSETS));
                let nibbles = group.add(group_bytes(OFFSETS) - NIBBLES);
                let mut dots = [[0f32; ROWS]; M];
                for (i, dots) in dots.iter_mut().enumerate() {
                    let x = x.add(((row + i) * groups + g) * DIGITS * GROUP);
                    s.nibble_digits(nibbles, x, dots.as_mut_ptr());
                }
                let mut v = 0;
                while v < vectors {
                    let scale = halves(s, group.cast(), v);
                    let offset = match OFFSETS {
                        true => halves(s, group.add(2 * ROWS).cast(), v),
                        false => s.mul(scale, s.splat(-8.0)),
                    };
                    for i in 0..M {
                        let at = (row + i) * groups + g;
                        let dot = dots[i].as_ptr().add(v * S::LANES);
                        let dot =
                            if S::LANES > ROWS { s.load_partial(dot, ROWS) } else { s.load(dot) };
                        let scale = s.mul(scale, s.splat(*scales.add(at)));
                        let sum = s.fma(scale, dot, acc[i][v]);
                        acc[i][v] = s.fma(offset, s.splat(*sums.add(at)), sum);
                    }
                    v += 1;
                }
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            let mut lanes = [0f32; ROWS];
            for (v, &acc) in acc.iter().enumerate().take(vectors) {
                // SAFETY: `vectors` of them, or part of one, fill the lanes.
                unsafe {
                    let at = lanes.as_mut_ptr().add(v * S::LANES);
                    if S::LANES > ROWS { s.store_partial(at, ROWS, acc) } else { s.store(at, acc) }
                }
            }
            for (r, &lane) in lanes.iter().enumerate().take(rows) {
                // SAFETY: these rows and columns of the output are this task's alone.
                unsafe { *to.add((row + i) * pitch + r) = T::from_f32(lane) };
            }
        }
    }
}

/// Vector `v` of eight f16.
///
/// # Safety
/// Eight can be read.
#[inline(always)]
unsafe fn halves<S: Simd>(s: S, p: *const f16, v: usize) -> S::F {
    // SAFETY: the caller's contract.
    unsafe {
        match S::LANES > ROWS {
            true => s.load_f16_partial(p, ROWS),
            false => s.load_f16(p.add(v * S::LANES)),
        }
    }
}
