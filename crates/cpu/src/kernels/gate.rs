//! SwiGLU: `silu(gate) * up`.

use super::{InOut, MIN_COMPUTED, Map2, map2};
use crate::simd::{Element, Simd, math};
use crate::threads::Pool;

#[derive(Clone, Copy)]
struct Swiglu;

impl Map2 for Swiglu {
    #[inline(always)]
    fn lanes<S: Simd>(self, s: S, gate: S::F, up: S::F) -> S::F {
        s.mul(math::silu(s, gate), up)
    }
}

/// `out = silu(gate) * up`, elementwise; `gate` comes in `io`.
pub(crate) fn swiglu<T: Element>(pool: &Pool, io: InOut<'_, T>, up: &[T]) {
    map2(pool, io, up, MIN_COMPUTED, Swiglu);
}
