//! One row: in as f32, out as what the tensors hold.

use super::plan::Task;
use super::{Job, Sizes};
use crate::simd::{Element, Simd};

/// Writes `n` elements, times a factor, as f32 and in whole vectors: zeros follow.
///
/// # Safety
/// `from` is valid for `n` elements.
#[inline(always)]
pub(super) unsafe fn widen<S: Simd, T: Element>(
    s: S,
    from: *const T,
    n: usize,
    factor: f32,
    to: &mut [f32],
) {
    assert!(to.len() >= n.next_multiple_of(S::LANES));
    let (to, factor) = (to.as_mut_ptr(), s.splat(factor));
    // SAFETY: the caller's contract and the length above.
    unsafe {
        let mut x = 0;
        while x + S::LANES <= n {
            s.store(to.add(x), s.mul(T::load(s, from.add(x)), factor));
            x += S::LANES;
        }
        if x < n {
            s.store(to.add(x), s.mul(T::load_partial(s, from.add(x), n - x), factor));
        }
    }
}

/// Writes `n` numbers, times a factor, rounded once.
///
/// # Safety
/// `to` is valid for `n` elements.
#[inline(always)]
unsafe fn narrow<S: Simd, T: Element>(s: S, from: &[f32], factor: f32, n: usize, to: *mut T) {
    assert!(from.len() >= n.next_multiple_of(S::LANES));
    let (from, factor) = (from.as_ptr(), s.splat(factor));
    // SAFETY: the caller's contract and the length above.
    unsafe {
        let mut x = 0;
        while x + S::LANES <= n {
            T::store(s, to.add(x), s.mul(s.load(from.add(x)), factor));
            x += S::LANES;
        }
        if x < n {
            T::store_partial(s, to.add(x), n - x, s.mul(s.load(from.add(x)), factor));
        }
    }
}

impl<T: Element> Job<'_, T> {
    /// Writes the row of a query and a head (counted within the group): the result, or its part
    /// if the keys of a row are shared out. `o` is in whole vectors.
    ///
    /// # Safety
    /// The row is one of the task's.
    #[inline(always)]
    pub(super) unsafe fn finish<S: Simd>(
        &self,
        s: S,
        task: &Task,
        (query, of): (usize, usize),
        o: &[f32],
        top: f32,
        sum: f32,
    ) {
        let Sizes { value, key_heads, .. } = self.plan.sizes;
        // SAFETY: rows of the result and of the parts are no other task's; a part has room for the
        // rows, their maxima and their sums.
        unsafe {
            if self.plan.splits == 1 {
                let to = self.out_row(task.batch, task.key_head * self.plan.group + of, query);
                narrow(s, o, inverse(sum), value, to);
            } else {
                let row = query * self.plan.group + of;
                let part = self.part(task.batch * key_heads + task.key_head, task.split);
                narrow(s, o, 1.0, value, part.add(row * value));
                let state = part.add(self.plan.rows * value + row);
                *state = top;
                *state.add(self.plan.rows) = sum;
            }
        }
    }
}

/// What a result is multiplied by; zero for a row that keeps no key.
pub(super) fn inverse(sum: f32) -> f32 {
    if sum > 0.0 { 1.0 / sum } else { 0.0 }
}
