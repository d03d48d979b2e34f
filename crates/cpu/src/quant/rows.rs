//! Packed rows as plain numbers.

use super::Weight;
use super::format::{Format, with_format};
use crate::Pool;
use crate::gemm::{Raw, on, share};
use crate::simd::{Element, Isa, Simd, WithSimd};

/// Numbers that are unpacked at a time.
const AT_ONCE: usize = 512;

/// Unpacks groups of a row: a product and a sum, each rounded, as the composition has it.
pub(super) struct Unpack<F> {
    pub(super) format: F,
    pub(super) row: usize,
    pub(super) first: usize,
    pub(super) groups: usize,
    pub(super) to: *mut f32,
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
    with_format!(weight, f => {
        let groups = width / group_of(f);
        // About a vector operation for every number.
        share(pool, rows, 4 * width, &|row| {
            let mut wide = [0f32; AT_ONCE];
            let step = AT_ONCE / group_of(f);
            for first in (0..groups).step_by(step) {
                let groups = step.min(groups - first);
                let n = groups * group_of(f);
                let to = to.add(row * width + first * group_of(f));
                let unpack = Unpack { format: f, row, first, groups, to: wide.as_mut_ptr() };
                on(isa, unpack);
                on(isa, Narrow { from: wide.as_ptr(), to, n });
            }
        });
    });
}

fn group_of<F: Format>(_: F) -> usize {
    F::GROUP
}
