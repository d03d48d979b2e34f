//! Memory for what is made of weights: many pieces side by side in a few mappings of huge pages.
//!
//! A packed weight is often smaller than a huge page, but a model has hundreds, which are read one
//! after the other: in pages of 4 KB, reading 100 MB for each token costs as many walks through
//! the table of pages as there are pages (SmolLM2 on two threads of a Zen 3, 2026-11: 160 tokens/s
//! so, 175 in huge pages). Pieces are given away until a slab is full, and none is given twice; the slab
//! goes when its last piece goes.

use frit_graph::{ALIGN, Memory};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Bytes of a slab; larger pieces have one of their own.
const SLAB: usize = 32 << 20;

/// The memory that pieces are parts of. Only they touch it, each its own part.
struct Slab {
    start: *mut u8,
    _memory: Memory,
}

// SAFETY: the pointer is into memory that the slab owns and never touches itself.
unsafe impl Send for Slab {}
// SAFETY: as above; pieces are disjoint.
unsafe impl Sync for Slab {}

impl Slab {
    fn new(bytes: usize) -> Arc<Slab> {
        let mut memory = Memory::zeroed(bytes);
        // The bytes stay where they are when the memory is moved.
        Arc::new(Slab { start: memory.bytes_mut().as_mut_ptr(), _memory: memory })
    }
}

/// The slab that still has room, and how much of it is given away.
static OPEN: Mutex<(Weak<Slab>, usize)> = Mutex::new((Weak::new(), 0));

/// Some bytes of a slab, zero at first, that are this piece's alone; they begin at a cache line.
pub(crate) struct Piece {
    slab: Arc<Slab>,
    first: usize,
}

impl Piece {
    /// So many zeros.
    pub(crate) fn zeroed(len: usize) -> Piece {
        let room = len.next_multiple_of(ALIGN);
        if room >= SLAB {
            return Piece { slab: Slab::new(len), first: 0 };
        }
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let there = open.0.upgrade().filter(|_| open.1 + room <= SLAB);
        let slab = there.unwrap_or_else(|| {
            let slab = Slab::new(SLAB);
            *open = (Arc::downgrade(&slab), 0);
            slab
        });
        let first = open.1;
        open.1 += room;
        Piece { slab, first }
    }

    /// The first byte.
    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.slab.start.wrapping_add(self.first)
    }

    /// The first byte, to write up to the piece's length from there.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.slab.start.wrapping_add(self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_apart_aligned_and_zero() {
        let sizes = [1, 64, 100, 5000, SLAB / 2, SLAB / 2, 3, SLAB, SLAB + 1, 0, 64];
        let mut pieces: Vec<Piece> = sizes.iter().map(|&n| Piece::zeroed(n)).collect();
        for (i, piece) in pieces.iter_mut().enumerate() {
            assert_eq!(piece.as_ptr().align_offset(ALIGN), 0);
            let (start, len) = (piece.as_mut_ptr(), sizes[i]);
            for at in [0, len / 2, len.saturating_sub(1)].into_iter().filter(|&at| at < len) {
                // SAFETY: within the piece, which is borrowed for writing.
                unsafe { *start.add(at) = i as u8 + 1 };
            }
        }
        for (i, piece) in pieces.iter().enumerate().filter(|(i, _)| sizes[*i] > 0) {
            // SAFETY: the piece's own bytes, and nobody writes them.
            let bytes = unsafe { std::slice::from_raw_parts(piece.as_ptr(), sizes[i]) };
            let mut places = vec![0, bytes.len() / 2, bytes.len() - 1];
            places.dedup();
            let others = bytes.iter().enumerate().filter(|(at, _)| !places.contains(at));
            assert!(others.into_iter().all(|(_, &b)| b == 0), "piece {i}");
            assert!(places.iter().all(|&at| bytes[at] == i as u8 + 1), "piece {i}");
        }
    }
}
