//! What this machine can do at best: the floors that kernels are held against.
//!
//! Each is a loop with nothing in it but what it measures, on the threads and with the instructions
//! of the kernels. A caller times it, in turn with what it is to be compared with.

use crate::Pool;
use crate::simd::{Simd, WithSimd, dispatch};
use std::hint::black_box;
use std::ops::Range;

/// Elements that a task takes at least.
const CHUNK: usize = 4096;

/// Reads all of `x`, in as many lanes as the processor has.
///
/// ```
/// use frit_cpu::{Pool, floor};
/// floor::read(Pool::global(), &vec![1.0; 1 << 16]);
/// ```
pub fn read(pool: &Pool, x: &[f32]) {
    pool.run_chunks(x.len(), CHUNK, &|range| {
        black_box(dispatch(Read(&x[range])));
    });
}

/// How a copy writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stores {
    /// Through the caches.
    Cached,
    /// Past the caches, where the processor can.
    Streamed,
}

/// Copies `from` to `to`.
///
/// ```
/// use frit_cpu::{Pool, floor};
/// let (from, mut to) = (vec![1.5f32; 9000], vec![0.0; 9000]);
/// floor::copy(Pool::global(), &from, &mut to, floor::Stores::Streamed);
/// assert_eq!(from, to);
/// ```
///
/// # Panics
/// If they are not equally long.
pub fn copy(pool: &Pool, from: &[f32], to: &mut [f32], stores: Stores) {
    assert_eq!(from.len(), to.len(), "a copy is as long as what is copied");
    let start = Start(to.as_mut_ptr());
    pool.run_chunks(from.len(), CHUNK, &|range| {
        // SAFETY: ranges of different tasks do not overlap, and lie inside of `to`.
        let to = unsafe { start.part(&range) };
        dispatch(Copy { from: &from[range], to, stores });
    });
}

/// Multiplies and adds in registers, `rounds` times on each of `tasks` tasks; gives how many
/// operations that were (two for each lane of a multiply-add).
///
/// ```
/// use frit_cpu::{Pool, floor};
/// assert!(floor::multiply_add(Pool::global(), 2, 100) >= 2.0 * 100.0 * 2.0);
/// ```
#[must_use]
pub fn multiply_add(pool: &Pool, tasks: usize, rounds: usize) -> f64 {
    pool.run(tasks, &|_| {
        black_box(dispatch(MultiplyAdd(rounds)));
    });
    tasks as f64 * rounds as f64 * dispatch(Width) * CHAINS as f64 * 2.0
}

struct Start(*mut f32);

// SAFETY: tasks take disjoint parts of it, see `copy`.
unsafe impl Sync for Start {}

impl Start {
    /// # Safety
    /// The range lies inside of the slice, and no other part overlaps it.
    #[expect(clippy::mut_from_ref, reason = "parts are disjoint")]
    unsafe fn part(&self, range: &Range<usize>) -> &mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(range.start), range.len()) }
    }
}

struct Read<'a>(&'a [f32]);

impl WithSimd for Read<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.zero(); 8];
        let blocks = self.0.chunks_exact(8 * S::LANES);
        let rest: f32 = blocks.remainder().iter().sum();
        for block in blocks {
            for (k, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the block holds eight vectors.
                *sum = s.add(*sum, unsafe { s.load(block.as_ptr().add(k * S::LANES)) });
            }
        }
        let sum = sums.into_iter().fold(s.zero(), |a, b| s.add(a, b));
        rest + s.reduce_sum(sum)
    }
}

struct Copy<'a> {
    from: &'a [f32],
    to: &'a mut [f32],
    stores: Stores,
}

impl WithSimd for Copy<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Streaming stores want whole vectors at their own alignment.
        let aligned = match self.stores {
            Stores::Cached => self.to.len(),
            Stores::Streamed => self.to.as_ptr().align_offset(4 * S::LANES).min(self.to.len()),
        };
        let (from, rest) = self.from.split_at(aligned);
        let (to, after) = self.to.split_at_mut(aligned);
        to.copy_from_slice(from);
        let whole = rest.len() / S::LANES * S::LANES;
        for at in (0..whole).step_by(S::LANES) {
            // SAFETY: `at + LANES` is within both, and `after` begins at an aligned address.
            unsafe { s.store_stream(after.as_mut_ptr().add(at), s.load(rest.as_ptr().add(at))) };
        }
        after[whole..].copy_from_slice(&rest[whole..]);
        s.stream_fence();
    }
}

/// Sums that do not wait for each other: enough for two units of a latency of five.
const CHAINS: usize = 12;

struct MultiplyAdd(usize);

impl WithSimd for MultiplyAdd {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (a, b) = (s.splat(black_box(0.999)), s.splat(black_box(0.001)));
        let mut sums = [b; CHAINS];
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = s.fma(*sum, a, b);
            }
        }
        s.reduce_sum(sums.into_iter().fold(s.zero(), |a, b| s.add(a, b)))
    }
}

struct Width;

impl WithSimd for Width {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f64 {
        S::LANES as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_whole_at_any_offset_and_length() {
        let from: Vec<f32> = (0..20_000).map(|i| i as f32).collect();
        let pool = Pool::new(2);
        for stores in [Stores::Cached, Stores::Streamed] {
            for (skip, len) in [(0, 0), (1, 3), (3, 19_000), (5, 8192), (7, 12_345)] {
                let mut to = vec![-1.0; 20_000];
                copy(&pool, &from[skip..skip + len], &mut to[skip..skip + len], stores);
                assert_eq!(to[skip..skip + len], from[skip..skip + len], "{stores:?} {skip} {len}");
                assert!(to[..skip].iter().chain(&to[skip + len..]).all(|&x| x == -1.0));
            }
        }
    }

    #[test]
    fn a_read_meets_every_number_once() {
        let x: Vec<f32> = (0..1003).map(|i| i as f32).collect();
        assert_eq!(dispatch(Read(&x)), 1002.0 * 1003.0 / 2.0);
    }
}
