//! Weights of f32 that are halves: most checkpoints are stored in f16 or bf16 and widened when they
//! are loaded. Products of few rows read a weight once, at the speed of memory, so that they read
//! its halves in half the time, and widen them to the very same numbers.
//!
//! Measured on two threads of a Zen 3 (35 GB/s): a token of Whisper tiny.en, whose weights of 113 MB
//! are f16 in the file, took 4.1 ms before; see `docs/performance.md`.

use crate::Pool;
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
        let f16 = || {
            narrowed(pool, weight, |x| {
                let y = f16::from_f32(x);
                (y.to_f32().to_bits() == x.to_bits()).then_some(y)
            })
        };
        let bf16 = || {
            narrowed(pool, weight, |x| {
                let y = bf16::from_bits((x.to_bits() >> 16) as u16);
                (x.to_bits() & 0xffff == 0).then_some(y)
            })
        };
        let first = bf16().map(Halves::BF16);
        first.or_else(|| f16().map(Halves::F16)).unwrap_or(Halves::None)
    }
}

/// All numbers in another type, if it has them all.
fn narrowed<T: Copy + Default + Send + Sync>(
    pool: &Pool,
    weight: &[f32],
    narrow: impl Fn(f32) -> Option<T> + Sync,
) -> Option<Vec<T>> {
    // Most weights that are not all halves have one among the first that is none.
    if weight.iter().take(1024).any(|&x| narrow(x).is_none()) {
        return None;
    }
    let all = AtomicBool::new(true);
    let mut to = vec![T::default(); weight.len()];
    let start = super::Raw(to.as_mut_ptr());
    pool.run_chunks(weight.len(), CHUNK, &|range| {
        for i in range {
            match narrow(weight[i]) {
                // SAFETY: ranges of different tasks do not overlap, and lie inside.
                Some(y) => unsafe { *start.add(i) = y },
                None => return all.store(false, Ordering::Relaxed),
            }
        }
    });
    all.into_inner().then_some(to)
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
        let brains: Vec<f32> = (0..n).map(|i| f32::from_bits((i as u32) << 16)).collect();
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
