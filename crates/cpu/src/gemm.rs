//! Matrix products, and what is made of them: the linear layer and the convolution.
//!
//! All f32 work (f16 and bf16 are widened) goes one way:
//!
//! ```text
//! columns of B --pack--> panels [k][NR]      rows of A --widen, if they must be--> f32 [m][k]
//!                  \                         /
//!           block of C, MC x NC sums (tile.rs), in L1 and L2
//!                  |
//!           bias, activation, rounding, store (finish.rs)
//! ```
//!
//! - `product` drives it: how much is packed at a time, and the blocks as tasks of the pool.
//!   Convolutions pack the columns of a task in that task (`local_products`).
//! - `pack` makes panels; the panels of a constant weight are made once ([`Packed`]).
//! - `dot` does products of few rows, which read a matrix once and are bound by memory.
//! - `matmul`, `linear` and `conv` say where operands lie; `wide` has f64 and i32.
//!
//! **Same bits on any number of threads.** The partition comes from the shapes alone, and every
//! element of C is summed in one order: chains of at most `KC` fused steps, then those sums in turn.
//!
//! The pool shares out tasks that write disjoint parts of C; pointers go to them as `Raw`.

mod conv;
mod dot;
mod finish;
mod linear;
mod matmul;
mod pack;
mod product;
#[cfg(test)]
mod tests;
mod tile;
mod wide;

pub(crate) use conv::{ConvShape, Sweep, conv, conv_scratch_bytes};
pub(crate) use dot::FEW_PACKED;
pub(crate) use finish::{Bias, Finish};
pub(crate) use linear::{
    Epilogue, LinearShape, linear, linear_from, linear_from_scratch_bytes, linear_packed,
    linear_scratch_bytes,
};
pub(crate) use matmul::{BatchAxis, Product, matmul, matmul_scratch_bytes};
pub(crate) use pack::{Columns, Packed};
pub(crate) use wide::{matmul_f64, matmul_i32};

use std::sync::atomic::{AtomicBool, Ordering};

use crate::Pool;
use crate::simd::{self, Isa, WithSimd, dispatch, dispatch_on};

/// A pointer that tasks may share: they write disjoint parts of what it points to.
pub(crate) struct Raw<T>(pub(crate) *mut T);

impl<T> Clone for Raw<T> {
    fn clone(&self) -> Raw<T> {
        *self
    }
}

impl<T> Copy for Raw<T> {}

// SAFETY: whoever uses the pointer answers for the access; it is only an address here.
unsafe impl<T: Send> Send for Raw<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Raw<T> {}

impl<T> Raw<T> {
    /// `at` elements on. Arithmetic wraps, so that an address may be formed before it is needed.
    #[inline(always)]
    pub(crate) fn add(self, at: usize) -> *mut T {
        self.0.wrapping_add(at)
    }

    #[inline(always)]
    fn offset(self, at: isize) -> *mut T {
        self.0.wrapping_offset(at)
    }
}

/// Calls `f` for `0..items`, as many to a task as make sharing worth it; `work` is the number of
/// multiplications of an item.
pub(crate) fn share(pool: &Pool, items: usize, work: usize, f: &(dyn Fn(usize) + Sync)) {
    /// About ten microseconds.
    const WORTH: usize = 1 << 18;
    let grain = (WORTH / work.max(1)).max(1);
    if grain == 1 {
        return pool.run(items, f);
    }
    pool.run(items.div_ceil(grain), &|i| (i * grain..items.min((i + 1) * grain)).for_each(f));
}

/// Runs `work` with the instructions of `isa`, which is the usual one but in tests.
pub(crate) fn on<W: WithSimd>(isa: Isa, work: W) -> W::Output {
    if isa == simd::isa() { dispatch(work) } else { dispatch_on(isa, work) }
}

/// `bytes` up to a multiple of a cache line.
pub(crate) fn lines(bytes: usize) -> usize {
    bytes.next_multiple_of(64)
}

/// Takes `n` elements of `T` (a plain number type) from the front of the caller's scratch.
///
/// # Panics
/// If the scratch is smaller than what the matching `*_scratch_bytes` said, or not aligned to 64.
pub(crate) fn take<T>(scratch: &mut &mut [u8], n: usize) -> Raw<T> {
    let bytes = lines(n * size_of::<T>());
    let (mine, rest) = std::mem::take(scratch).split_at_mut(bytes);
    *scratch = rest;
    assert!(n == 0 || mine.as_ptr().addr().is_multiple_of(64), "scratch is not aligned");
    Raw(mine.as_mut_ptr().cast())
}

/// Rooms in a scratch, one for each task that runs at a time.
pub(crate) struct Rooms {
    at: Raw<u8>,
    bytes: usize,
    taken: Vec<AtomicBool>,
}

impl Rooms {
    /// As many rooms of `bytes` (a multiple of 64) as there are threads.
    ///
    /// # Panics
    /// If the scratch is too small or not aligned to 64 bytes.
    pub(crate) fn new(mut scratch: &mut [u8], threads: usize, bytes: usize) -> Rooms {
        let at = take::<u8>(&mut scratch, threads * bytes);
        Rooms { at, bytes, taken: (0..threads).map(|_| AtomicBool::new(false)).collect() }
    }

    /// Calls `f` with the first byte of a room that nobody else has meanwhile.
    pub(crate) fn with(&self, f: impl FnOnce(*mut u8)) {
        let free = |t: &AtomicBool| !t.swap(true, Ordering::Acquire);
        // No more tasks run at a time than there are threads.
        let n = loop {
            if let Some(n) = self.taken.iter().position(free) {
                break n;
            }
            std::hint::spin_loop();
        };
        f(self.at.add(n * self.bytes));
        self.taken[n].store(false, Ordering::Release);
    }
}
