//! A packed weight laid out anew: sixteen rows side by side, so that a row is a lane.

use crate::gemm::Raw;
use crate::quant::Weight;
use crate::{Pool, slab::Piece};
use frit_ops::Encoding;

/// Rows side by side.
pub(super) const ROWS: usize = 16;
/// Numbers with one scale.
pub(super) const GROUP: usize = 32;

/// A weight of sixteen rows side by side. For each sixteen rows and each group of 32 columns:
/// sixteen scales (f16), sixteen offsets (f16, if the encoding has any), and the numbers.
///
/// - Of 4 bits: of each eight columns, for each row, four bytes with the first four columns in the
///   low and the others in the high nibbles.
/// - Of 8 bits: of each two columns, for each row, a byte each.
pub(crate) struct Interleaved {
    bytes: Piece,
    /// 8 bits, not 4.
    pub(super) wide: bool,
    pub(super) offsets: bool,
    pub(super) rows: usize,
    pub(super) groups: usize,
}

impl Interleaved {
    /// Whether weights of this encoding are laid out so.
    pub(crate) fn takes(encoding: Encoding) -> bool {
        matches!(encoding, Encoding::Q4_0 | Encoding::Q4_1 | Encoding::Q8_0)
    }

    /// Lays a weight out anew.
    ///
    /// # Panics
    /// If its encoding is not one that [`Interleaved::takes`].
    pub(crate) fn new(pool: &Pool, weight: &Weight<'_>) -> Interleaved {
        assert!(Interleaved::takes(weight.encoding), "{} has no digits", weight.encoding);
        let wide = weight.encoding == Encoding::Q8_0;
        let offsets = weight.encoding == Encoding::Q4_1;
        let (rows, groups) = (weight.rows, weight.width / GROUP);
        let block = groups * group_bytes(wide, offsets);
        let bytes = Piece::zeroed(rows.div_ceil(ROWS) * block);
        let mut new = Interleaved { bytes, wide, offsets, rows, groups };
        let to = Raw(new.bytes.as_mut_ptr());
        pool.run(rows.div_ceil(ROWS), &|b| {
            let first = b * ROWS;
            for r in 0..ROWS.min(rows - first) {
                // SAFETY: each task writes its own block, which has room for all groups.
                unsafe { new.lay(weight, first + r, r, to.add(b * block)) };
            }
        });
        new
    }

    /// The first byte.
    pub(super) fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }

    /// Bytes of a group of sixteen rows.
    pub(super) fn group_bytes(&self) -> usize {
        group_bytes(self.wide, self.offsets)
    }

    /// Lays a row of a weight into its lane of a block.
    ///
    /// # Safety
    /// `to` has room for a block, and nobody else touches its lane `r`.
    unsafe fn lay(&self, weight: &Weight<'_>, row: usize, r: usize, to: *mut u8) {
        let size = weight.encoding.block_bytes();
        let from = &weight.bytes[row * self.groups * size..(row + 1) * self.groups * size];
        for (g, block) in from.chunks_exact(size).enumerate() {
            // SAFETY: within group g of the block, in the lane of the row.
            unsafe {
                let mut to = to.add(g * self.group_bytes());
                let heads = 1 + usize::from(self.offsets);
                for head in block[..2 * heads].chunks_exact(2) {
                    to.add(2 * r).copy_from_nonoverlapping(head.as_ptr(), 2);
                    to = to.add(2 * ROWS);
                }
                let numbers = &block[2 * heads..];
                let step = if self.wide { 2 } else { 4 };
                let nibbles = if self.wide { [0; 16] } else { eights(numbers) };
                let numbers = if self.wide { numbers } else { &nibbles };
                for (t, part) in numbers.chunks_exact(step).enumerate() {
                    let lane = to.add(step * (t * ROWS + r));
                    lane.copy_from_nonoverlapping(part.as_ptr(), step);
                }
            }
        }
    }
}

/// Bytes of a group of sixteen rows.
pub(super) const fn group_bytes(wide: bool, offsets: bool) -> usize {
    ROWS * GROUP / 2 * (1 + wide as usize) + 2 * ROWS * (1 + offsets as usize)
}

/// The nibbles of a block of 32, whose low halves come first, by eights: of each four bytes.
fn eights(nibbles: &[u8]) -> [u8; 16] {
    const LOW: u32 = 0x0f0f_0f0f;
    let word = |i: usize| {
        let at = 4 * i;
        u32::from_le_bytes([nibbles[at], nibbles[at + 1], nibbles[at + 2], nibbles[at + 3]])
    };
    let [a, b, c, d] = std::array::from_fn(word);
    let words = [
        a & LOW | (b & LOW) << 4,
        c & LOW | (d & LOW) << 4,
        a >> 4 & LOW | b & !LOW,
        c >> 4 & LOW | d & !LOW,
    ];
    let mut bytes = [0; 16];
    for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}
