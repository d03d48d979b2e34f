//! Weights of f32 that are halves: most checkpoints are stored in f16 or bf16 and widened when they
//! are loaded. Products of few rows read a weight once, at the speed of memory, so that they read
//! its halves in half the time, and widen them to the very same numbers.
//!
//! Measured on two threads of a Zen 3 (35 GB/s): the head of Whisper tiny.en, 80 MB in f32, takes 1.3 ms
//! a token; to read it as it is would take 2.3. See `docs/performance.md`.

use crate::Pool;
use crate::simd::{Element, Simd, WithSimd, dispatch};
use half::{bf16, f16};
use std::sync::atomic::{AtomicBool, Ordering};

/// Weights with fewer numbers stay in the caches.
const WORTH: usize = 1 << 16;
/// Numbers that a task turns.
const CHUNK: usize = 1 << 14;

/// A weight in the narrow type that holds all of its numbers exactly, if there is one.
pub(crate) enum Halves {
    None,
    F16(Vec<f16>),
    BF16(Vec<bf16>),
}

impl Halves {
    /// Looks for one.
    pub(crate) fn of(pool: &Pool, weight: &[f32]) -> Halves {
        if weight.len() < WORTH {
            return Halves::None;
        }
        let first = narrowed(pool, weight).map(Halves::BF16);
        first.or_else(|| narrowed(pool, weight).map(Halves::F16)).unwrap_or(Halves::None)
    }
}

/// All numbers in another type, if it has them all.
fn narrowed<T: Element>(pool: &Pool, weight: &[f32]) -> Option<Vec<T>> {
    let all = AtomicBool::new(true);
    let mut to = vec![T::ZERO; weight.len()];
    let start = super::Raw(to.as_mut_ptr());
    pool.run_chunks(weight.len(), CHUNK, &|range| {
        // Most weights that are not all halves have one among the first that is none.
        if all.load(Ordering::Relaxed) {
            let from = &weight[range.clone()];
            // SAFETY: ranges of different tasks do not overlap, and lie inside.
            let to = unsafe { std::slice::from_raw_parts_mut(start.add(range.start), from.len()) };
            if !dispatch(Narrow { from, to }) {
                all.store(false, Ordering::Relaxed);
            }
        }
    });
    all.into_inner().then_some(to)
}

/// Narrows numbers and says whether they all stayed the same.
struct Narrow<'a, T> {
    from: &'a [f32],
    to: &'a mut [T],
}

impl<T: Element> WithSimd for Narrow<'_, T> {
    type Output = bool;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> bool {
        let Narrow { from, to } = self;
        let whole = from.len() / S::LANES * S::LANES;
        for at in (0..whole).step_by(S::LANES) {
            // SAFETY: a vector from `at` on is within both.
            let (bits, back) = unsafe {
                let x = s.load(from.as_ptr().add(at));
                T::store(s, to.as_mut_ptr().add(at), x);
                (s.bits(x), s.bits(T::load(s, to.as_ptr().add(at))))
            };
            let apart = s.to_f(s.xor_i(bits, back));
            if s.any(s.lt(s.zero(), s.abs(apart))) {
                return false;
            }
        }
        from[whole..].iter().zip(&mut to[whole..]).all(|(&x, y)| {
            *y = T::from_f32(x);
            y.to_f32().to_bits() == x.to_bits()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_narrowed_only_where_every_number_stays_the_same() {
        let pool = Pool::new(2);
        let n = WORTH + 5;
        let halves: Vec<f32> = (0..n).map(|i| f16::from_bits(i as u16).to_f32()).collect();
        let finite: Vec<f32> = halves.iter().map(|x| if x.is_nan() { -0.0 } else { *x }).collect();
        match Halves::of(&pool, &finite) {
            Halves::F16(got) => {
                let same = |(a, b): (&f16, &f32)| a.to_f32().to_bits() == b.to_bits();
                assert!(got.len() == n && got.iter().zip(&finite).all(same));
            }
            _ => panic!("every number is an f16"),
        }
        let brains = (0..n).map(|i| f32::from_bits((i as u32) << 16));
        let brains: Vec<f32> = brains.map(|x| if x.is_nan() { -0.0 } else { x }).collect();
        match Halves::of(&pool, &brains) {
            Halves::BF16(got) => {
                let same = |(a, b): (&bf16, &f32)| u32::from(a.to_bits()) << 16 == b.to_bits();
                assert!(got.len() == n && got.iter().zip(&brains).all(same));
            }
            _ => panic!("every number is a bf16"),
        }
        for at in [0, n - 1] {
            let mut other = finite.clone();
            other[at] = 0.1;
            assert!(matches!(Halves::of(&pool, &other), Halves::None), "{at}");
        }
        assert!(matches!(Halves::of(&pool, &finite[..100]), Halves::None));
    }
}
