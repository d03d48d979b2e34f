//! A task by dot products, for very few rows over many keys: decoding.
//!
//! The lanes lie along the head. Each key and each value is read once, in order, for all rows: the
//! speed is that of memory.

use std::ops::Range;

use super::plan::{Buffers, DOT_ROWS, Task};
use super::tile::exp_down;
use super::{Job, bias};
use crate::simd::{Element, MAX_LANES, Simd, WithSimd, math};

/// Runs a task in its scratch room.
#[inline(always)]
pub(super) fn run<S: Simd, T: Element>(s: S, job: &Job<'_, T>, task: &Task, room: &mut [f32]) {
    let b = job.plan.room.buffers(room);
    const { assert!(DOT_ROWS == 4) };
    match task.rows.len() {
        1 => s.call(Dots::<T, 1, 8> { job, task, b }),
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
        self.finish(s);
    }
}

impl<T: Element, const R: usize, const N: usize> Dots<'_, T, R, N> {
    /// Scales the queries, padded with zeros; sets maxima, sums and results to none.
    #[inline(always)]
    fn begin<S: Simd>(&mut self, s: S) {
        let (a, plan, task, b) = (self.job.attention, self.job.plan, self.task, &mut self.b);
        let (head, wide) = (plan.sizes.head, padded(plan.sizes.head));
        b.o.fill(0.0);
        b.q.fill(0.0);
        for r in 0..R {
            let of = task.key_head * plan.group + r % plan.group;
            let from = a.q.row(task.batch, of, r / plan.group);
            let to = b.q[r * wide..][..wide].as_mut_ptr();
            for x in (0..head).step_by(S::LANES) {
                let n = S::LANES.min(head - x);
                // SAFETY: the row has `head` elements, its copy has whole vectors.
                unsafe {
                    let elements = T::load_partial(s, from.add(x), n);
                    s.store(to.add(x), s.mul(elements, s.splat(a.scale)));
                }
            }
            let sink = task.sink(a, of);
            b.top[r] = sink;
            b.sum[r] = if sink > f32::NEG_INFINITY { 1.0 } else { 0.0 };
        }
    }

    /// Takes some keys into account.
    #[inline(always)]
    fn tile<S: Simd>(&mut self, s: S, keys: Range<usize>) {
        let (a, plan, task) = (self.job.attention, self.job.plan, self.task);
        let base = keys.start;
        let has_key_bias = bias::for_keys(s, a, task.batch, &keys, self.b.key_bias);
        let keys = match has_key_bias {
            true => bias::trim_keys(keys, self.b.key_bias, base),
            false => keys,
        };
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
            for r in 0..R {
                let key_bias = has_key_bias.then_some(keys.start - base);
                self.softmax(s, r, &keys, key_bias);
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
            while x < whole {
                for (i, acc) in acc.iter_mut().enumerate() {
                    let key = T::load(s, k.wrapping_add(i * stride + x));
                    for (r, acc) in acc.iter_mut().enumerate() {
                        *acc = s.fma(key, s.load(q.add(r * wide + x)), *acc);
                    }
                }
                x += S::LANES;
            }
            if x < head {
                for (i, acc) in acc.iter_mut().enumerate() {
                    let key = T::load_partial(s, k.wrapping_add(i * stride + x), head - x);
                    for (r, acc) in acc.iter_mut().enumerate() {
                        *acc = s.fma(key, s.load(q.add(r * wide + x)), *acc);
                    }
                }
            }
            let p = self.b.p.as_mut_ptr();
            for (i, acc) in acc.iter().enumerate() {
                for (r, acc) in acc.iter().enumerate() {
                    *p.add(r * tile + j + i) = s.reduce_sum(*acc);
                }
            }
        }
    }

    /// Caps and masks the scores of row `r`, turns them into exponentials, brings maximum, sum and
    /// results up to date.
    ///
    /// # Safety
    /// `keys` fit a tile; `run` has checked the buffers.
    #[inline(always)]
    unsafe fn softmax<S: Simd>(
        &mut self,
        s: S,
        r: usize,
        keys: &Range<usize>,
        key_bias: Option<usize>,
    ) {
        let (a, plan, task, b) = (self.job.attention, self.job.plan, self.task, &mut self.b);
        let (query, of) = (r / plan.group, task.key_head * plan.group + r % plan.group);
        let mask = a.row_mask().map(|m| (m, m.at(task.batch, of, query, keys.start)));
        let n = keys.len();
        let lowest = s.splat(f32::NEG_INFINITY);
        let p = b.p[r * plan.key_tile..][..plan.key_tile].as_mut_ptr();
        // SAFETY: whole vectors end inside the tile's row; masks cover n keys.
        unsafe {
            for j in n..n.next_multiple_of(S::LANES) {
                *p.add(j) = f32::NEG_INFINITY;
            }
            let mut top = lowest;
            if a.softcap.is_some() || key_bias.is_some() || mask.is_some() {
                for j in (0..n).step_by(S::LANES) {
                    let few = S::LANES.min(n - j);
                    let mut x = s.load(p.add(j));
                    if let Some(cap) = a.softcap {
                        let capped = math::tanh(s, s.mul(x, s.splat(1.0 / cap)));
                        x = s.select(s.lt(lowest, x), s.mul(capped, s.splat(cap)), x);
                    }
                    if let Some(skip) = key_bias {
                        x = s.add(x, s.load_partial(b.key_bias.as_ptr().add(skip + j), few));
                    }
                    if let Some((m, at)) = mask {
                        let step = if m.strides[3] == 0 { 0 } else { j };
                        x = s.add(x, m.lanes(s, at + step, few));
                    }
                    s.store(p.add(j), x);
                }
            }
            let own = task.reach.of(query);
            for j in (keys.start..own.start.min(keys.end)).chain(own.end.max(keys.start)..keys.end)
            {
                *p.add(j - keys.start) = f32::NEG_INFINITY;
            }
            for j in (0..n).step_by(S::LANES) {
                top = s.max(s.load(p.add(j)), top);
            }
            let before = b.top[r];
            let now = before.max(s.reduce_max(top));
            b.top[r] = now;
            let minus = s.splat(if now > f32::NEG_INFINITY { now } else { 0.0 });
            let alpha = exp_down(s, s.sub(s.splat(before), minus));
            let mut sum = s.zero();
            for j in (0..n).step_by(S::LANES) {
                let e = exp_down(s, s.sub(s.load(p.add(j)), minus));
                s.store(p.add(j), e);
                sum = s.add(sum, e);
            }
            let mut factor = [0.0; MAX_LANES];
            s.store(factor.as_mut_ptr(), alpha);
            b.sum[r] = b.sum[r] * factor[0] + s.reduce_sum(sum);
            let values = padded(plan.sizes.value);
            let o = b.o[r * values..][..values].as_mut_ptr();
            for c in (0..values).step_by(S::LANES) {
                s.store(o.add(c), s.mul(s.load(o.add(c)), alpha));
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
            for c in (0..value).step_by(S::LANES) {
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
            }
        }
    }

    /// Writes the rows: results, or parts of them.
    #[inline(always)]
    fn finish<S: Simd>(&mut self, s: S) {
        let (job, plan, task, b) = (self.job, self.job.plan, self.task, &mut self.b);
        let value = plan.sizes.value;
        for r in 0..R {
            let o = b.o[r * padded(value)..][..padded(value)].as_ptr();
            // SAFETY: these rows of the result or of the part are no other task's.
            unsafe {
                if plan.splits == 1 {
                    let of = task.key_head * plan.group + r % plan.group;
                    let to = job.out_row(task.batch, of, r / plan.group);
                    let factor = if b.sum[r] > 0.0 { 1.0 / b.sum[r] } else { 0.0 };
                    for c in (0..value).step_by(S::LANES) {
                        let x = s.mul(s.load(o.add(c)), s.splat(factor));
                        T::store_partial(s, to.add(c), S::LANES.min(value - c), x);
                    }
                } else {
                    let part = job.part(task);
                    o.copy_to_nonoverlapping(part.add(r * value), value);
                    let state = part.add(plan.rows * value + r);
                    *state = b.top[r];
                    *state.add(plan.rows) = b.sum[r];
                }
            }
        }
    }
}
