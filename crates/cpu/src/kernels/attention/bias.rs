//! Masks as numbers that are added to scores: 0 keeps, -inf removes.
//!
//! A mask that says the same for all rows over one key head becomes one number a key, together
//! with the key mask; any other is read for each row. Keys at either end of a tile that nobody
//! keeps are found here too, so that they cost no products.

use std::ops::Range;

use super::{Attention, Mask, MaskData};
use crate::simd::{Element, MAX_LANES, Simd};

impl Mask<'_> {
    /// Whether it says the same for all queries and heads.
    fn is_per_key(&self, heads: usize, queries: usize) -> bool {
        let [_, head, query, _] = self.strides;
        (head == 0 || heads == 1) && (query == 0 || queries == 1)
    }

    /// The place of its number for `[batch, head, query, key]`.
    #[inline(always)]
    pub(super) fn at(&self, batch: usize, head: usize, query: usize, key: usize) -> usize {
        let [a, b, c, d] = self.strides;
        batch * a + head * b + query * c + key * d
    }

    /// What it adds to `n <= LANES` keys from place `at` on.
    ///
    /// # Safety
    /// These places exist.
    #[inline(always)]
    pub(super) unsafe fn lanes<S: Simd>(&self, s: S, at: usize, n: usize) -> S::F {
        // SAFETY: the caller's contract; `load` reads n elements, or one if they are all the same.
        unsafe {
            match self.data {
                MaskData::Bool(m) => {
                    let m = m.as_ptr().add(at);
                    let mut bytes = [0u8; MAX_LANES];
                    let m = match (self.strides[3], n == S::LANES) {
                        (0, _) => {
                            bytes = [*m; MAX_LANES];
                            bytes.as_ptr()
                        }
                        (_, true) => m,
                        (_, false) => {
                            m.copy_to_nonoverlapping(bytes.as_mut_ptr(), n);
                            bytes.as_ptr()
                        }
                    };
                    let removed = s.eq_i(s.load_u8(m), s.splat_i(0));
                    s.select(removed, s.splat(f32::NEG_INFINITY), s.zero())
                }
                MaskData::F32(m) => self.load(s, m.as_ptr().add(at), n),
                MaskData::F16(m) => self.load(s, m.as_ptr().add(at), n),
                MaskData::BF16(m) => self.load(s, m.as_ptr().add(at), n),
            }
        }
    }

    #[inline(always)]
    unsafe fn load<S: Simd, M: Element>(&self, s: S, m: *const M, n: usize) -> S::F {
        // SAFETY: the caller's contract.
        unsafe {
            match (self.strides[3], n == S::LANES) {
                (0, _) => s.splat((*m).to_f32()),
                (_, true) => M::load(s, m),
                (_, false) => M::load_partial(s, m, n),
            }
        }
    }
}

impl<'a, T> Attention<'a, T> {
    /// The mask, if it must be read for each row.
    pub(super) fn row_mask(&self) -> Option<&Mask<'a>> {
        let [_, heads, queries, _] = self.q.shape;
        self.mask.as_ref().filter(|m| !m.is_per_key(heads, queries))
    }

    /// The mask, if it is the same for all rows of a batch.
    fn common_mask(&self) -> Option<&Mask<'a>> {
        let [_, heads, queries, _] = self.q.shape;
        self.mask.as_ref().filter(|m| m.is_per_key(heads, queries))
    }
}

/// Writes what is added for all rows to the scores of `keys`; false if there is no such thing.
#[inline(always)]
pub(super) fn for_keys<S: Simd, T>(
    s: S,
    a: &Attention<'_, T>,
    batch: usize,
    keys: &Range<usize>,
    to: &mut [f32],
) -> bool {
    let to = &mut to[..keys.len()];
    let common = a.common_mask();
    if common.is_none() && a.key_mask.is_none() {
        return false;
    }
    to.fill(0.0);
    if let Some(m) = common {
        let mut j = 0;
        while j < to.len() {
            let n = S::LANES.min(to.len() - j);
            // SAFETY: the mask covers all keys; n elements are left in `to`.
            unsafe {
                let x = m.lanes(s, m.at(batch, 0, 0, keys.start + j), n);
                s.store_partial(to.as_mut_ptr().add(j), n, x);
            }
            j += n;
        }
    }
    if let Some(m) = a.key_mask {
        let m = &m[batch * a.k.shape[2]..][keys.clone()];
        for (to, _) in to.iter_mut().zip(m).filter(|(_, m)| **m == 0) {
            *to = f32::NEG_INFINITY;
        }
    }
    true
}

/// The part of `keys` without the removed ones at both ends; `bias` holds their numbers, the first
/// for key `base`.
pub(super) fn trim_keys(keys: Range<usize>, bias: &[f32], base: usize) -> Range<usize> {
    let removed = |j: &usize| bias[j - base] == f32::NEG_INFINITY;
    let start = keys.start + keys.clone().take_while(removed).count();
    let end = keys.end - (start..keys.end).rev().take_while(removed).count();
    start..end
}

/// Writes the mask of a panel's rows, `[key][row]` for some vectors of rows; the mask of row `i`
/// begins at place `at[i]`. Returns the range of keys, counted from the first, that any row keeps.
///
/// # Safety
/// `n` keys exist from each of these places on; `at` and `to` hold a whole panel.
#[inline(always)]
pub(super) unsafe fn for_panel<S: Simd>(
    s: S,
    m: &Mask<'_>,
    at: &[usize],
    vectors: usize,
    n: usize,
    to: &mut [f32],
    block: &mut [f32],
) -> Range<usize> {
    let (w, lanes) = (vectors * S::LANES, S::LANES);
    let padded = n.next_multiple_of(lanes);
    assert!(at.len() >= w && to.len() >= padded * w && block.len() >= lanes * lanes);
    let (to, block) = (to.as_mut_ptr(), block.as_mut_ptr());
    let mut j = 0;
    // SAFETY: the caller's contract and the lengths above; a transposed block may reach past key
    // `n` but not past `padded`.
    unsafe {
        while j < n {
            let few = lanes.min(n - j);
            let step = if m.strides[3] == 0 { 0 } else { j };
            for r in 0..vectors {
                for i in 0..lanes {
                    s.store(block.add(i * lanes), m.lanes(s, at[r * lanes + i] + step, few));
                }
                s.transpose(block, lanes, to.add(j * w + r * lanes), w);
            }
            j += lanes;
        }
        let mut keys = 0..n;
        while keys.start < keys.end && !is_kept(s, to.add(keys.start * w), vectors) {
            keys.start += 1;
        }
        while keys.start < keys.end && !is_kept(s, to.add((keys.end - 1) * w), vectors) {
            keys.end -= 1;
        }
        keys
    }
}

/// Whether any of these vectors of rows keeps a key.
///
/// # Safety
/// `p` is valid for as many vectors.
#[inline(always)]
unsafe fn is_kept<S: Simd>(s: S, p: *const f32, vectors: usize) -> bool {
    let mut top = s.splat(f32::NEG_INFINITY);
    for r in 0..vectors {
        // SAFETY: the caller's contract.
        top = s.max(unsafe { s.load(p.add(r * S::LANES)) }, top);
    }
    s.any(s.lt(s.splat(f32::NEG_INFINITY), top))
}
