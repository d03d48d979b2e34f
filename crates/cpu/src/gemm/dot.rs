//! Products of few rows: B is read once and where it is, at the speed of memory.
//!
//! Where k lies densely (the weight of a linear layer), an element of C is a dot product, several
//! at a time so that loads and sums overlap. Where the columns do, the tiles read B unpacked.

use super::finish::Finish;
use super::pack::{Rows, Strided};
use super::product::{Extents, Sink};
use super::tile::{NC, Sums, Target};
use super::{on, share, take};
use crate::Pool;
use crate::simd::{Element, Simd, WithSimd};

/// Up to so many rows go this way: packing B costs about as much as a product with 20 rows.
pub(crate) const FEW: usize = 16;
/// The same where B is packed once for many products.
pub(crate) const FEW_PACKED: usize = 6;
/// Rows that are computed at a time.
const ROWS: usize = 4;

/// Bytes of B that a task reads.
const TASK_BYTES: usize = 64 << 10;

/// Computes all products of at most [`FEW`] rows, `rows(outer, inner)` times `columns(outer)` into
/// `sink(outer, inner)`. B has steps of 1 along k or along its columns.
///
/// # Safety
/// What the functions give is valid for the extents; the sinks overlap with nothing.
pub(super) unsafe fn few<'a, A: Element, W: Element, T: Element>(
    pool: &Pool,
    e: &Extents,
    rows: impl Fn(usize, usize) -> Rows<A> + Sync,
    columns: impl Fn(usize) -> Strided<W> + Sync,
    sink: impl Fn(usize, usize) -> Sink<'a, T> + Sync,
    mut scratch: &mut [u8],
) {
    let places = e.outer * e.inner;
    let matrix = e.m * e.k;
    let widened = take::<f32>(&mut scratch, if e.ready { 0 } else { places * matrix });
    if !e.ready {
        share(pool, places, 8 * matrix, &|z| {
            let from = rows(z / e.inner, z % e.inner);
            // SAFETY: the rows exist, and their room is this task's alone.
            unsafe { from.widen(e.isa, e.m, e.k, widened.add(z * matrix)) };
        });
    }
    let chunk = (TASK_BYTES / (e.k * e.size).max(1)).clamp(1, NC).next_multiple_of(32).min(NC);
    let chunks = e.n.div_ceil(chunk);
    // Memory is slower than sums of so few rows.
    share(pool, places * chunks, e.m.max(8) * chunk * e.k, &|i| {
        let (z, first) = (i / chunks, i % chunks * chunk);
        let (outer, inner) = (z / e.inner, z % e.inner);
        let n = chunk.min(e.n - first);
        let (a, a_row) = match e.ready {
            true => rows(outer, inner).as_f32(),
            false => (widened.add(z * matrix).cast_const(), e.k as isize),
        };
        let b = columns(outer);
        let at = b.at.offset(first as isize * b.column).cast_const();
        let mut sums = [const { std::mem::MaybeUninit::<f32>::uninit() }; FEW * NC];
        let sums = sums.as_mut_ptr().cast::<f32>();
        if b.step == 1 && (b.column != 1 || e.n == 1) {
            let (m, k, b_column) = (e.m, e.k, b.column);
            on(e.isa, Dots { a, a_row, b: at, b_column, k, rows: m, columns: n, sums });
        } else {
            let (b_row, to) = (Some(b.step), Target::NONE);
            on(e.isa, Sums { a, a_row, b: at, b_row, k: e.k, rows: e.m, columns: n, sums, to });
        }
        let Sink { c, row, column, bias, activation, combine } = sink(outer, inner);
        let c = c.offset(first as isize * column);
        let bias = bias.of(0, e.m, first, n);
        let finish = Finish {
            sums,
            pitch: NC,
            rows: e.m,
            columns: n,
            bias,
            activation,
            combine,
            c,
            c_row: row,
            c_column: column,
        };
        on(e.isa, finish);
    });
}

/// `sums[i][j] = a row i * b column j`, with a pitch of [`NC`].
struct Dots<W> {
    a: *const f32,
    a_row: isize,
    b: *const W,
    b_column: isize,
    k: usize,
    /// At most [`FEW`].
    rows: usize,
    columns: usize,
    sums: *mut f32,
}

impl<W: Element> WithSimd for Dots<W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Dots { a, a_row, b, b_column, k, rows, columns, sums } = self;
        for first in (0..rows).step_by(ROWS) {
            let rows = ROWS.min(rows - first);
            let a = a.wrapping_offset(first as isize * a_row);
            let sums = sums.wrapping_add(first * NC);
            let dots = Dots { a, a_row, b, b_column, k, rows, columns, sums };
            // SAFETY: who makes a Dots vouches for its pointers.
            unsafe {
                match rows {
                    1 => dots.all::<S, 1, 1, 4>(s),
                    2 => dots.all::<S, 2, 1, 4>(s),
                    3 => dots.all::<S, 3, 3, 1>(s),
                    _ => dots.all::<S, 4, 1, 2>(s),
                }
            }
        }
    }
}

impl<W: Element> Dots<W> {
    /// # Safety
    /// The pointers are valid for what the fields say, and `MR` is `rows`.
    #[inline(always)]
    unsafe fn all<S: Simd, const MR: usize, const NR: usize, const KU: usize>(&self, s: S) {
        let mut j = 0;
        // SAFETY: columns j.. exist.
        unsafe {
            while j + NR <= self.columns {
                self.some::<S, MR, NR, KU>(s, j);
                j += NR;
            }
            while j < self.columns {
                self.some::<S, MR, 1, KU>(s, j);
                j += 1;
            }
        }
    }

    /// `NR` columns, with `KU` sums an element that overlap.
    ///
    /// # Safety
    /// As for `all`; the columns `first..first + NR` exist.
    #[inline(always)]
    unsafe fn some<S: Simd, const MR: usize, const NR: usize, const KU: usize>(
        &self,
        s: S,
        first: usize,
    ) {
        let b = self.b.wrapping_offset(first as isize * self.b_column);
        let mut acc = [[[s.zero(); MR]; NR]; KU];
        let mut p = 0;
        // SAFETY: no more than k elements of these rows and columns are read.
        unsafe {
            while p + KU * S::LANES <= self.k {
                for acc in &mut acc {
                    self.step(s, b, p, S::LANES, acc);
                    p += S::LANES;
                }
            }
            while p < self.k {
                let n = S::LANES.min(self.k - p);
                self.step(s, b, p, n, &mut acc[0]);
                p += n;
            }
        }
        for j in 0..NR {
            for i in 0..MR {
                let mut sum = acc[0][j][i];
                for acc in &acc[1..] {
                    sum = s.add(sum, acc[j][i]);
                }
                // SAFETY: the sums have room for these rows and columns.
                unsafe { *self.sums.add(i * NC + first + j) = s.reduce_sum(sum) };
            }
        }
    }

    /// Adds the `n` products from `p` on, at most a vector of them.
    ///
    /// # Safety
    /// `p + n <= k`, and there are `MR` rows and `NR` columns from `b` on.
    #[inline(always)]
    unsafe fn step<S: Simd, const MR: usize, const NR: usize>(
        &self,
        s: S,
        b: *const W,
        p: usize,
        n: usize,
        acc: &mut [[S::F; MR]; NR],
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            let mut rows = [s.zero(); MR];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = load::<S, f32>(s, self.a.offset(i as isize * self.a_row).add(p), n);
            }
            for (j, acc) in acc.iter_mut().enumerate() {
                let b = load::<S, W>(s, b.offset(j as isize * self.b_column).add(p), n);
                for (acc, row) in acc.iter_mut().zip(rows) {
                    *acc = s.fma(row, b, *acc);
                }
            }
        }
    }
}

/// # Safety
/// `p` is valid for `n` elements, and `n` is at most a vector.
#[inline(always)]
unsafe fn load<S: Simd, W: Element>(s: S, p: *const W, n: usize) -> S::F {
    // SAFETY: the caller's contract.
    unsafe { if n == S::LANES { W::load(s, p) } else { W::load_partial(s, p, n) } }
}
