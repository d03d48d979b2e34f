//! Packed rows as plain numbers.

use super::Weight;
use super::format::{Format, group, with_format};
use crate::Pool;
use crate::gemm::{Raw, on, share};
use crate::simd::{Element, Isa, Simd, WithSimd};

/// Numbers that are unpacked at a time.
const AT_ONCE: usize = 512;

/// Unpacks `groups` groups of a row from `first` on.
///
/// # Safety
/// The groups exist, and `to` has room for their numbers.
pub(super) unsafe fn unpack(
    isa: Isa,
    weight: &Weight<'_>,
    row: usize,
    first: usize,
    groups: usize,
    to: *mut f32,
) {
    with_format!(weight, format => on(isa, Unpack { format, row, first, groups, to }));
}

/// Groups of a row: a product and a sum, each rounded, as the composition has it.
struct Unpack<F> {
    format: F,
    row: usize,
    first: usize,
    groups: usize,
    to: *mut f32,
}

impl<F: Format> WithSimd for Unpack<F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Unpack { format, row, first, groups, to } = self;
        for g in 0..groups {
            // SAFETY: who makes an Unpack vouches for the groups and the room.
            unsafe {
                let (scale, offset) = format.scale(s, row, first + g);
                let (scale, offset) = (s.splat(scale), s.splat(offset));
                for v in 0..F::GROUP / S::LANES {
                    let mut y = s.mul(format.whole(s, row, first + g, v), scale);
                    if F::OFFSET {
                        y = s.add(y, offset);
                    }
                    s.store(to.add(g * F::GROUP + v * S::LANES), y);
                }
            }
        }
    }
}

struct Narrow<T> {
    from: *const f32,
    to: *mut T,
    n: usize,
}

impl<T: Element> WithSimd for Narrow<T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for at in (0..self.n).step_by(S::LANES) {
            // SAFETY: n is a multiple of every vector, and both have n elements.
            unsafe { T::store(s, self.to.add(at), s.load(self.from.add(at))) };
        }
    }
}

/// Writes all numbers of a packed matrix.
///
/// # Panics
/// If `out` has not its size.
pub(crate) fn dequantize<T: Element>(isa: Isa, pool: &Pool, weight: &Weight<'_>, out: &mut [T]) {
    let &Weight { rows, width, .. } = weight;
    assert_eq!(out.len(), rows * width, "the output is not {rows} rows of {width}");
    let to = Raw(out.as_mut_ptr());
    let group = group(weight.encoding);
    let (groups, step) = (width / group, AT_ONCE / group);
    // About a vector operation for every number.
    share(pool, rows, 4 * width, &|row| {
        let mut wide = [0f32; AT_ONCE];
        for first in (0..groups).step_by(step) {
            let groups = step.min(groups - first);
            let to = to.add(row * width + first * group);
            // SAFETY: the groups are in the row, and at most as many as `wide` has room for.
            unsafe { unpack(isa, weight, row, first, groups, wide.as_mut_ptr()) };
            on(isa, Narrow { from: wide.as_ptr(), to, n: groups * group });
        }
    });
}
