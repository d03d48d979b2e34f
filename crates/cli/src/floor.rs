//! What the machine itself can do: the floors that kernels and models are held against.

use std::hint::black_box;
use std::time::Instant;

/// Bytes that are read: more than any cache holds.
const BYTES: usize = 256 << 20;
/// The best of so many rounds.
const ROUNDS: usize = 4;

/// Bytes a second that so many threads read from memory together, measured in about 0.2 s.
///
/// ```
/// let one = frit_cli::floor::read_bandwidth(1);
/// assert!(one > 1e8, "{one}");
/// ```
#[must_use]
pub fn read_bandwidth(threads: usize) -> f64 {
    // Not zeros, which would be one page many times.
    let block = vec![0x0101_0101_0101_0101u64; BYTES / size_of::<u64>()];
    let part = block.len().div_ceil(threads.max(1));
    let round = || {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for part in block.chunks(part) {
                scope.spawn(|| black_box(sum(part)));
            }
        });
        BYTES as f64 / started.elapsed().as_secs_f64()
    };
    (0..ROUNDS).map(|_| round()).fold(0.0, f64::max)
}

/// A sum in so many lanes that it waits for memory and nothing else.
fn sum(part: &[u64]) -> u64 {
    let mut lanes = [0u64; 32];
    for chunk in part.chunks_exact(lanes.len()) {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*x);
        }
    }
    lanes.iter().fold(0, |a, b| a.wrapping_add(*b))
}
