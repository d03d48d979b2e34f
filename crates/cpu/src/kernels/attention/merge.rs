//! Puts the parts of rows together whose keys were shared out, always in the same order.

use std::ops::Range;

use super::plan::TASKS;
use super::row::inverse;
use super::{Job, Sizes};
use crate::kernels::load;
use crate::simd::{Element, Isa, Simd, WithSimd, dispatch_on};
use crate::threads::Pool;

/// Fewer results than this are not worth another thread.
const MIN_ELEMENTS: usize = 8192;

impl<T> Job<'_, T> {
    /// The part of a key head (counted over all batches) that covers a range of its keys.
    #[inline(always)]
    pub(super) fn part(&self, head: usize, split: usize) -> *mut f32 {
        self.parts.wrapping_add((head * self.plan.splits + split) * self.plan.part())
    }
}

/// Merges all rows.
pub(super) fn run<T: Element>(isa: Isa, pool: &Pool, job: &Job<'_, T>) {
    let Sizes { batch, key_heads, value, .. } = job.plan.sizes;
    let rows = batch * key_heads * job.plan.rows;
    let least = MIN_ELEMENTS.div_ceil(value * job.plan.splits);
    pool.run_chunks(rows, least, &|rows| {
        dispatch_on(isa, Merge { job, rows });
    });
}

struct Merge<'a, T> {
    job: &'a Job<'a, T>,
    rows: Range<usize>,
}

impl<T: Element> WithSimd for Merge<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let job = self.job;
        let (plan, value) = (job.plan, job.plan.sizes.value);
        for index in self.rows {
            let (above, row) = (index / plan.rows, index % plan.rows);
            let (batch, key_head) = (above / plan.sizes.key_heads, above % plan.sizes.key_heads);
            let head = key_head * plan.group + row % plan.group;
            let to = job.out_row(batch, head, row / plan.group);
            // SAFETY: every part has been written whole; this row of the result is no other's.
            unsafe {
                let splits = plan.parts(job.attention, batch, row / plan.chunk).count();
                let state = |split: usize| {
                    let state = job.part(above, split).add(plan.rows * value + row);
                    (*state, *state.add(plan.rows))
                };
                let top = (0..splits).fold(f32::NEG_INFINITY, |top, i| top.max(state(i).0));
                let (mut weights, mut sum) = ([0.0; TASKS], 0.0);
                for (split, weight) in weights[..splits].iter_mut().enumerate() {
                    let (own, part) = state(split);
                    *weight = if own > f32::NEG_INFINITY { (own - top).exp() } else { 0.0 };
                    sum += *weight * part;
                }
                let inverse = inverse(sum);
                for c in (0..value).step_by(S::LANES) {
                    let n = S::LANES.min(value - c);
                    let mut all = s.zero();
                    for (split, weight) in weights[..splits].iter().enumerate() {
                        let part = job.part(above, split).add(row * value + c);
                        all = s.fma(s.splat(weight * inverse), load(s, part, n), all);
                    }
                    match n == S::LANES {
                        true => T::store(s, to.add(c), all),
                        false => T::store_partial(s, to.add(c), n, all),
                    }
                }
            }
        }
    }
}
