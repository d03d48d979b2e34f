//! A task by dot products, for very few rows over many keys: decoding.
//!
//! The lanes lie along the head. Each key and each value is read once, in order, for all rows: the
//! speed is that of memory.

use std::ops::Range;

use super::Job;
use super::bias::{self, Bias};
use super::plan::{Buffers, DOT_ROWS, Task};
use super::row::widen;
use super::tile::exp_down;
use crate::simd::{Element, MAX_LANES, Simd, WithSimd, math};

/// Runs a task in its scratch room.
#[inline(always)]
pub(super) fn run<S: Simd, T: Element>(s: S, job: &Job<'_, T>, task: &Task, room: &mut [f32]) {
    let b = job.plan.room.buffers(room);
    const { assert!(DOT_ROWS == 4) };
    match task.rows.len() {
        1 => s.call(Dots::<T, 1, 4> { job, task, b }),
        2 => s.call(Dots::<T, 2, 4> { job, task, b }),
        3 => s.call(Dots::<T, 3, 4> { job, task, b }),
        _ => s.call(Dots::<T, 4, 3> { job, task, b }),
    }
}

/// `R` rows, `N` keys at a time.
struct Dots<'a, T, const R: usize, const N: usize> {
    job: &'a Job<'a, T>,
    task: &'a Task,
    b: Buffers<'a>,
}

/// To whole vectors of any instruction set.
fn padded(n: usize) -> usize {
    n.next_multiple_of(MAX_LANES)
}

/// How many bytes ahead memory is asked for.
const AHEAD: usize = 4096;
/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for the memory that some rows read next, while they are worked through a vector of each at
/// a time.
///
/// That order leaps from row to row, which the processor's own prefetchers do not follow. Rows that
/// lie end to end are asked for in the order in which they lie: decoding over 2048 keys of 32 heads
/// of 64 takes 1200 to 1380 us so, from memory, and 1680 to 1950 when each line is asked for with
/// the line 4 KiB before it; reading alone takes 930 to 1130 (two threads of an AVX2 EPYC).
struct Ahead<T> {
    /// Some rows further on.
    rows: *const T,
    stride: usize,
    end_to_end: bool,
}

impl<T: Element> Ahead<T> {
    /// Of rows of `width` that begin at `rows`.
    #[inline(always)]
    fn of(rows: *const T, width: usize, stride: usize) -> Ahead<T> {
        let ahead = (AHEAD / size_of::<T>()).div_ceil(width.max(1)) * stride;
        Ahead { rows: rows.wrapping_add(ahead), stride, end_to_end: stride == width }
    }

    /// As much as `M` vectors, those at element `x` of `M` rows, need elsewhere.
    #[inline(always)]
    fn ask<S: Simd, const M: usize>(&self, x: usize) {
        if self.end_to_end {
            let bytes = M * S::LANES * size_of::<T>();
            for line in 0..bytes.div_ceil(LINE) {
                prefetch(self.rows.wrapping_add(M * x + line * (LINE / size_of::<T>())));
            }
        } else if (x * size_of::<T>()).is_multiple_of(LINE) {
            for row in 0..M {
                prefetch(self.rows.wrapping_add(row * self.stride + x));
            }
        }
    }
}

/// Asks for the cache line at `p`, which need not exist.
#[inline(always)]
fn prefetch<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch does not access memory as far as the program can tell.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

impl<T: Element, const R: usize, const N: usize> WithSimd for Dots<'_, T, R, N> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let (plan, task) = (self.job.plan, self.task);
        assert_eq!(task.rows, 0..R);
        let heads = padded(plan.sizes.head) * R;
        let values = padded(plan.sizes.value) * R;
        assert!(self.b.q.len() >= heads && self.b.o.len() >= values);
        assert!(self.b.p.len() >= plan.key_tile * R && plan.key_tile.is_multiple_of(MAX_LANES));
        self.begin(s);
        let mut start = task.keys.start;
        while start < task.keys.end {
            let keys = start..(start + plan.key_tile).min(task.keys.end);
            start = keys.end;
            self.tile(s, keys);
        }
        for (row, place) in plan.places(task.rows.clone()).enumerate() {
            let o = &self.b.o[row * padded(plan.sizes.value)..];
            // SAFETY: this is a row of this task.
            unsafe { self.job.finish(s, task, place, o, self.b.top[row], self.b.sum[row]) };
        }
    }
}

impl<T: Element, const R: usize, const N: usize> Dots<'_, T, R, N> {
    /// Scales the queries, padded with zeros; sets maxima, sums and results to none.
    #[inline(always)]
    fn begin<S: Simd>(&mut self, s: S) {
        let (a, plan, task, b) = (self.job.attention, self.job.plan, self.task, &mut self.b);
        let wide = padded(plan.sizes.head);
        b.o.fill(0.0);
        b.q.fill(0.0);
        for (row, (query, of)) in plan.places(task.rows.clone()).enumerate() {
            let from = a.q.row(task.batch, task.key_head * plan.group + of, query);
            let to = &mut b.q[row * wide..][..wide];
            // SAFETY: this is a row of q.
            unsafe { widen(s, from, plan.sizes.head, a.scale, to) };
            (b.top[row], b.sum[row]) = task.sink(a, plan, of);
        }
    }

    /// Takes some keys into account.
    #[inline(always)]
    fn tile<S: Simd>(&mut self, s: S, keys: Range<usize>) {
        let (a, plan, task) = (self.job.attention, self.job.plan, self.task);
        let base = keys.start;
        let common = a.key_bias(s, task.batch, &keys, self.b.key_bias);
        let keys = common.as_ref().map_or(keys, |c| base + c.keys.start..base + c.keys.end);
        let common = common.filter(|c| c.bias != Bias::None).is_some();
        if keys.is_empty() {
            return;
        }
        let n = keys.len();
        let k = a.k.row(task.batch, task.key_head, keys.start);
        let v = a.v.row(task.batch, task.key_head, keys.start);
        // SAFETY: both have n rows from here on. The buffers' lengths are checked in `run`.
        unsafe {
            let mut j = 0;
            while j + N <= n {
                self.scores::<S, N>(s, k.wrapping_add(j * a.k.strides[2]), j);
                j += N;
            }
            while j < n {
                self.scores::<S, 1>(s, k.wrapping_add(j * a.k.strides[2]), j);
                j += 1;
            }
            for (row, (query, of)) in plan.places(task.rows.clone()).enumerate() {
                let b = &mut self.b;
                let of = task.key_head * plan.group + of;
                let mask = a.row_mask();
                if let Some(mask) = mask {
                    let at = mask.at(task.batch, of, query, keys.start);
                    s.call(bias::Row { mask, at, to: &mut b.bias[..n] });
                }
                let seen = task.reach.of(query);
                let (start, end) = (seen.start.max(keys.start), seen.end.min(keys.end));
                let values = padded(plan.sizes.value);
                s.call(Softmax {
                    n,
                    p: &mut b.p[row * plan.key_tile..][..plan.key_tile],
                    softcap: a.softcap,
                    key_bias: common.then(|| &b.key_bias[keys.start - base..]),
                    bias: mask.map(|_| &*b.bias),
                    seen: if start < end { start - keys.start..end - keys.start } else { 0..0 },
                    top: &mut b.top[row],
                    sum: &mut b.sum[row],
                    o: &mut b.o[row * values..][..values],
                });
            }
            let mut j = 0;
            while j + N <= n {
                self.weigh::<S, N>(s, v.wrapping_add(j * a.v.strides[2]), j);
                j += N;
            }
            while j < n {
                self.weigh::<S, 1>(s, v.wrapping_add(j * a.v.strides[2]), j);
                j += 1;
            }
        }
    }

    /// The scores of `M` keys, the first of them key `j` of the tile.
    ///
    /// # Safety
    /// `k` is valid for `M` rows; `run` has checked the buffers.
    #[inline(always)]
    unsafe fn scores<S: Simd, const M: usize>(&mut self, s: S, k: *const T, j: usize) {
        let (head, tile) = (self.job.plan.sizes.head, self.job.plan.key_tile);
        let (wide, stride) = (padded(head), self.job.attention.k.strides[2]);
        let q = self.b.q.as_ptr();
        let mut acc = [[s.zero(); R]; M];
        // SAFETY: the caller's contract.
        unsafe {
            let whole = head / S::LANES * S::LANES;
            let mut x = 0;
            let ahead = Ahead::of(k, head, stride);
            while x < whole {
                ahead.ask::<S, M>(x);
                for (i, acc) in acc.iter_mut().enumerate() {
                    let key = T::load(s, k.wrapping_add(i * stride + x));
                    for (r, acc) in acc.iter_mut().enumerate() {
                        *acc = s.fma(key, s.load(q.add(r * wide + x)), *acc);
                    }
                }
                x += S::LANES;
            }
            if x < head {
                ahead.ask::<S, M>(x);
                for (i, acc) in acc.iter_mut().enumerate() {
                    let key = T::load_partial(s, k.wrapping_add(i * stride + x), head - x);
                    for (r, acc) in acc.iter_mut().enumerate() {
                        *acc = s.fma(key, s.load(q.add(r * wide + x)), *acc);
                    }
                }
            }
            let p = self.b.p.as_mut_ptr();
            let all = acc.as_flattened();
            for at in (0..M * R).step_by(4) {
                let few = 4.min(M * R - at);
                let mut four = [s.zero(); 4];
                four[..few].copy_from_slice(&all[at..at + few]);
                for (i, sum) in s.reduce_sums(four).into_iter().enumerate().take(few) {
                    let (key, row) = ((at + i) / R, (at + i) % R);
                    *p.add(row * tile + j + key) = sum;
                }
            }
        }
    }

    /// Adds `M` weighted values to the results, the first of them that of key `j` of the tile.
    ///
    /// # Safety
    /// `v` is valid for `M` rows; `run` has checked the buffers.
    #[inline(always)]
    unsafe fn weigh<S: Simd, const M: usize>(&mut self, s: S, v: *const T, j: usize) {
        let (value, tile) = (self.job.plan.sizes.value, self.job.plan.key_tile);
        let (wide, stride) = (padded(value), self.job.attention.v.strides[2]);
        let (p, o) = (self.b.p.as_ptr(), self.b.o.as_mut_ptr());
        let mut weights = [[s.zero(); M]; R];
        // SAFETY: the caller's contract.
        unsafe {
            for (r, weights) in weights.iter_mut().enumerate() {
                for (i, weight) in weights.iter_mut().enumerate() {
                    *weight = s.splat(*p.add(r * tile + j + i));
                }
            }
            let mut c = 0;
            let ahead = Ahead::of(v, value, stride);
            while c < value {
                ahead.ask::<S, M>(c);
                let few = value - c;
                let mut values = [s.zero(); M];
                for (i, x) in values.iter_mut().enumerate() {
                    let v = v.wrapping_add(i * stride + c);
                    *x = match few >= S::LANES {
                        true => T::load(s, v),
                        false => T::load_partial(s, v, few),
                    };
                }
                for (r, weights) in weights.iter().enumerate() {
                    let o = o.add(r * wide + c);
                    let mut sum = s.load(o);
                    for (weight, value) in weights.iter().zip(&values) {
                        sum = s.fma(*weight, *value, sum);
                    }
                    s.store(o, sum);
                }
                c += S::LANES;
            }
        }
    }
}

/// Caps and masks the scores of a row, turns them into exponentials, and brings maximum, sum and
/// results up to date. f32 whatever the tensors hold.
struct Softmax<'a> {
    /// How many scores there are; `p` has whole vectors of them.
    n: usize,
    p: &'a mut [f32],
    softcap: Option<f32>,
    /// Added to the scores.
    key_bias: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
    /// Which of the `n` keys the row sees by its position.
    seen: Range<usize>,
    top: &'a mut f32,
    sum: &'a mut f32,
    /// Whole vectors.
    o: &'a mut [f32],
}

impl WithSimd for Softmax<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.n;
        let lowest = s.splat(f32::NEG_INFINITY);
        let whole = n.next_multiple_of(S::LANES);
        assert!(self.p.len() >= whole && self.o.len().is_multiple_of(S::LANES));
        assert!([self.key_bias, self.bias].iter().flatten().all(|bias| bias.len() >= n));
        let p = self.p.as_mut_ptr();
        // SAFETY: the lengths are checked.
        unsafe {
            if self.softcap.is_some() || self.key_bias.is_some() || self.bias.is_some() {
                let cap = self.softcap.unwrap_or(1.0);
                let (cap, inverse) = (s.splat(cap), s.splat(1.0 / cap));
                let mut j = 0;
                while j < n {
                    let few = S::LANES.min(n - j);
                    let mut x = s.load_partial(p.add(j), few);
                    if self.softcap.is_some() {
                        x = s.mul(math::tanh(s, s.mul(x, inverse)), cap);
                    }
                    for bias in [self.key_bias, self.bias].into_iter().flatten() {
                        x = s.add(x, s.load_partial(bias.as_ptr().add(j), few));
                    }
                    s.store(p.add(j), x);
                    j += S::LANES;
                }
            }
            self.p[..self.seen.start].fill(f32::NEG_INFINITY);
            self.p[self.seen.end..whole].fill(f32::NEG_INFINITY);
            let p = self.p.as_mut_ptr();
            let (mut top, mut j) = (lowest, 0);
            while j < whole {
                top = s.max(s.load(p.add(j)), top);
                j += S::LANES;
            }
            let before = *self.top;
            let now = before.max(s.reduce_max(top));
            *self.top = now;
            // A row that has seen no key yet: all its scores are -inf, less any number.
            let minus = s.splat(if now > f32::NEG_INFINITY { now } else { 0.0 });
            let alpha = exp_down(s, s.sub(s.splat(before), minus));
            let (mut sum, mut j) = (s.zero(), 0);
            while j < whole {
                let e = exp_down(s, s.sub(s.load(p.add(j)), minus));
                s.store(p.add(j), e);
                sum = s.add(sum, e);
                j += S::LANES;
            }
            let mut factor = [0.0; MAX_LANES];
            s.store(factor.as_mut_ptr(), alpha);
            *self.sum = *self.sum * factor[0] + s.reduce_sum(sum);
            let mut c = 0;
            while c < self.o.len() {
                let o = self.o.as_mut_ptr().add(c);
                s.store(o, s.mul(s.load(o), alpha));
                c += S::LANES;
            }
        }
    }
}
