//! Products of few rows with weights of 4 or 8 bits, exact, in integers.
//!
//! Unpacking weights to f32 lanes costs more than reading them. So each 32 activations become whole
//! numbers of 24 bits with one scale ([`split`]): three digits of base 256, from -128 to 127, for
//! weights of 4 bits, and two of base 4096 for weights of 8. Products of digits and weights are
//! summed by the processor's products of integers, and put together with one rounding; what is lost
//! before is half a unit of 2^-23 of the largest of each 32, as f32 loses of that number alone.
//!
//! The weight is laid out anew once, sixteen rows side by side ([`lay`]), so that a row is a lane: no
//! sum over lanes, and scales come by the vector. It costs the packed bytes once more in memory.
//!
//! Measured (tokens/s of SmolLM2 in turn, two threads of a Zen 3, 2026-11, weights of 4 bits): eight
//! rows side by side 174, sixteen 173 (the compiler took the sums apart and spilt them), in a loop
//! that stays one 178, with memory asked for ahead 195. Without that the processor's own prefetch
//! is late: 24 us for 0.55 MB, and 19 with it. For one row of x the loop is in assembler
//! (`simd/nibbles.rs`: 243 to 250 and then 252 to 258). More in `docs/performance.md`.

mod lay;
mod split;

use crate::Pool;
use crate::gemm::{Bias, Finish, LinearShape, Raw, lines, on, take};
use crate::kernel::Combine;
use crate::simd::{AHEAD, Element, Isa, NibbleRow, Simd, WithSimd};
use frit_ops::Activation;
pub(crate) use lay::Interleaved;
use lay::{GROUP, ROWS, group_bytes};
use split::{Split, digit_bytes};
use std::ops::Range;

/// Packed bytes that a thread takes of its run at a time.
const GRAIN_BYTES: usize = 16 << 10;

/// Bytes of scratch that [`few_together`] needs.
pub(super) fn scratch_bytes(shape: &LinearShape) -> usize {
    let groups = shape.m * (shape.k / GROUP);
    lines(groups * digit_bytes(true).max(digit_bytes(false))) + 2 * lines(groups * 4)
}

/// `x W^T` of a few dense rows with each of some weights of one encoding, one after the other in
/// `out`, or together with what it holds. Says `false`, and does nothing, where a weight is not laid
/// out, or `x` holds what digits cannot say: what is not finite, or next to nothing.
///
/// # Panics
/// If a slice does not fit, or the weights differ in encoding or width.
#[expect(clippy::too_many_arguments, reason = "the operands of the product")]
pub(crate) fn few_together<T: Element>(
    isa: Isa,
    pool: &Pool,
    m: usize,
    x: &[T],
    weights: &[Option<&Interleaved>],
    combine: Combine,
    out: &mut [T],
    mut scratch: &mut [u8],
) -> bool {
    let Some(Some(first)) = weights.first() else { return false };
    let (k, kind) = (first.groups * GROUP, (first.wide, first.offsets));
    let mut n = 0;
    for weight in weights {
        let Some(weight) = weight else { return false };
        let same = (weight.groups * GROUP, (weight.wide, weight.offsets)) == (k, kind);
        assert!(same, "weights of other encodings or widths");
        n += weight.rows;
    }
    assert_eq!((x.len(), out.len()), (m * k, m * n), "not {m} rows of {k} to {n}");
    if m * n == 0 {
        return true;
    }
    let groups = m * first.groups;
    let size = digit_bytes(first.wide);
    let digits = take::<u8>(&mut scratch, groups * size);
    let scales = take::<f32>(&mut scratch, groups);
    let sums = take::<f32>(&mut scratch, groups);
    let split = Split {
        x: x.as_ptr(),
        wide: first.wide,
        digits: digits.add(0),
        scales: scales.add(0),
        sums: sums.add(0),
        groups,
    };
    if !on(isa, split) {
        return false;
    }
    let block = (first.groups * first.group_bytes()).max(1);
    let blocks = weights.iter().flatten().map(|w| w.rows.div_ceil(ROWS)).sum();
    let y = Raw(out.as_mut_ptr());
    let all = Products { weights, m, digits, scales, sums, y, combine };
    pool.run_runs(blocks, GRAIN_BYTES.div_ceil(block), &|range| {
        let all = &all;
        match (first.wide, first.offsets) {
            (false, true) => on(isa, Task::<T, false, true> { all, range }),
            (false, false) => on(isa, Task::<T, false, false> { all, range }),
            (true, _) => on(isa, Task::<T, true, false> { all, range }),
        }
    });
    true
}

/// The rows of x against all weights.
struct Products<'a, T> {
    weights: &'a [Option<&'a Interleaved>],
    m: usize,
    digits: Raw<u8>,
    scales: Raw<f32>,
    sums: Raw<f32>,
    y: Raw<T>,
    combine: Combine,
}

/// Some blocks of sixteen rows, counted through all weights: with weights of 8 bits if `WIDE`, else
/// of 4, with offsets or counted from -8. One function goes through them all: to enter one with
/// other instructions for each block took 5% of the time of a token.
struct Task<'a, T, const WIDE: bool, const OFFSETS: bool> {
    all: &'a Products<'a, T>,
    range: Range<usize>,
}

impl<T: Element, const WIDE: bool, const OFFSETS: bool> WithSimd for Task<'_, T, WIDE, OFFSETS> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let &Products { weights, m, y, .. } = self.all;
        let (mut b, mut y, mut left) = (self.range.start, y.add(0), self.range.len());
        for weight in weights.iter().flatten() {
            // The part of the task that is in this weight.
            let blocks = weight.rows.div_ceil(ROWS);
            for b in b..blocks.min(b + left) {
                let block = Block {
                    weight: weight.as_ptr().wrapping_add(b * weight.groups * weight.group_bytes()),
                    groups: weight.groups,
                    to: y.wrapping_add(b * ROWS),
                    pitch: weight.rows,
                    rows: ROWS.min(weight.rows - b * ROWS),
                };
                let mut row = 0;
                // SAFETY: who makes a Task vouches for its pointers.
                unsafe {
                    while row + 4 <= m {
                        self.rows::<S, 4>(s, &block, row);
                        row += 4;
                    }
                    if row + 2 <= m {
                        self.rows::<S, 2>(s, &block, row);
                        row += 2;
                    }
                    if row < m {
                        self.rows::<S, 1>(s, &block, row);
                    }
                }
                left -= 1;
            }
            b = b.saturating_sub(blocks);
            y = y.wrapping_add(m * weight.rows);
        }
    }
}

/// Sixteen rows of a weight.
struct Block<T> {
    weight: *const u8,
    groups: usize,
    /// Where the first row of x meets the first of these.
    to: *mut T,
    /// From a row of the output to the next.
    pitch: usize,
    /// Rows that are there.
    rows: usize,
}

impl<T: Element, const WIDE: bool, const OFFSETS: bool> Task<'_, T, WIDE, OFFSETS> {
    /// # Safety
    /// The pointers are valid for what the fields say, and there are `M` rows of x from `row` on.
    #[inline(always)]
    unsafe fn rows<S: Simd, const M: usize>(&self, s: S, block: &Block<T>, row: usize) {
        let &Block { weight, groups, to, pitch, rows } = block;
        let &Products { digits, scales, sums, combine, .. } = self.all;
        let (x, scales, sums) = (digits.add(0), scales.add(0), sums.add(0));
        let vectors = const { ROWS / S::LANES };
        let size = group_bytes(WIDE, OFFSETS);
        let mut acc = [[s.zero(); 4]; M];
        let one = (M == 1 && !WIDE && OFFSETS && groups > 0).then(|| NibbleRow {
            weight,
            groups,
            x: x.wrapping_add(row * groups * digit_bytes(false)),
            scales: scales.wrapping_add(row * groups),
            sums: sums.wrapping_add(row * groups),
        });
        // SAFETY: these are groups and a row of the caller's.
        let one = unsafe { one.and_then(|one| s.nibble_row(&one)) };
        acc[0] = one.unwrap_or(acc[0]);
        let left = if one.is_some() { 0 } else { groups };
        for g in 0..left {
            // SAFETY: the group exists in the weight and in every row.
            unsafe {
                let group = weight.add(g * size);
                for line in (0..size).step_by(64) {
                    s.prefetch(group.wrapping_add(AHEAD + line));
                }
                let halves = |at: usize| s.load_f16(group.add(2 * at).cast());
                let numbers = group.add(2 * ROWS * (1 + OFFSETS as usize));
                for (i, acc) in acc.iter_mut().enumerate() {
                    let at = (row + i) * groups + g;
                    let x = x.add(at * digit_bytes(WIDE));
                    let dots = match WIDE {
                        true => s.byte_digits(numbers.cast(), x.cast()),
                        false => s.nibble_digits(numbers, x.cast()),
                    };
                    let mut v = 0;
                    while v < vectors {
                        let scale = halves(v * S::LANES);
                        let scaled = s.mul(scale, s.splat(*scales.add(at)));
                        acc[v] = s.fma(scaled, dots[v], acc[v]);
                        if !WIDE {
                            let offset = match OFFSETS {
                                true => halves(ROWS + v * S::LANES),
                                false => s.mul(scale, s.splat(-8.0)),
                            };
                            acc[v] = s.fma(offset, s.splat(*sums.add(at)), acc[v]);
                        }
                        v += 1;
                    }
                }
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            if rows == ROWS && combine != Combine::Gate {
                for (v, &acc) in acc.iter().enumerate().take(vectors) {
                    // SAFETY: sixteen columns of the output, which are this task's alone.
                    unsafe {
                        let to = to.add((row + i) * pitch + v * S::LANES);
                        let sum = match combine {
                            Combine::Add => s.add(T::load(s, to), acc),
                            _ => acc,
                        };
                        T::store(s, to, sum);
                    }
                }
                continue;
            }
            let mut lanes = [0f32; ROWS];
            for (v, &acc) in acc.iter().enumerate().take(vectors) {
                // SAFETY: `vectors` of them fill the lanes.
                unsafe { s.store(lanes.as_mut_ptr().add(v * S::LANES), acc) };
            }
            // These rows and columns of the output are this task's alone.
            let finish = Finish {
                sums: lanes.as_ptr(),
                pitch: ROWS,
                rows: 1,
                columns: rows,
                bias: Bias::None,
                activation: Activation::Identity,
                combine,
                c: to.wrapping_add((row + i) * pitch),
                c_row: 0,
                c_column: 1,
            };
            s.call(finish);
        }
    }
}
