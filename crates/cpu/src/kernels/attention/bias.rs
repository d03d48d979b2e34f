//! Masks as numbers that are added to scores: 0 keeps, -inf removes.
//!
//! A mask that says the same for all rows over one key head becomes one number a key, together
//! with the key mask; any other is read for each row. Keys at either end of a tile that nobody
//! keeps are found here too, so that they cost no products.

use std::ops::Range;

use super::{Attention, Mask, MaskData};
use crate::simd::{Element, MAX_LANES, Simd, WithSimd};

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

    /// What it adds to `n <= LANES` keys from the one `skip` after that of place `at`.
    ///
    /// # Safety
    /// These places exist.
    #[inline(always)]
    unsafe fn lanes<S: Simd>(&self, s: S, at: usize, skip: usize, n: usize) -> S::F {
        let at = at + skip * self.strides[3];
        // SAFETY: the caller's contract; one place stands for all n where the stride is 0.
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

    /// Writes what is added for all rows to the scores of `keys`, and returns `keys` without the
    /// removed ones at both ends; `None` if nothing is added.
    #[inline(always)]
    pub(super) fn key_bias<S: Simd>(
        &self,
        s: S,
        batch: usize,
        keys: Range<usize>,
        to: &mut [f32],
    ) -> Option<Range<usize>> {
        let common = self.common_mask();
        if common.is_none() && self.key_mask.is_none() {
            return None;
        }
        let to = &mut to[..keys.len()];
        match common {
            // SAFETY: the mask covers all keys.
            Some(mask) => s.call(Row { mask, at: mask.at(batch, 0, 0, keys.start), to }),
            None => to.fill(0.0),
        }
        if let Some(m) = self.key_mask {
            let m = &m[batch * self.k.shape[2]..][keys.clone()];
            for (to, _) in to.iter_mut().zip(m).filter(|(_, m)| **m == 0) {
                *to = f32::NEG_INFINITY;
            }
        }
        let removed = |x: &&f32| **x == f32::NEG_INFINITY;
        let start = to.iter().take_while(removed).count();
        let end = to[start..].iter().rev().take_while(removed).count();
        Some(keys.start + start..keys.end - end)
    }
}

/// Writes what a mask adds to the keys of one row, from place `at` on. They must exist.
pub(super) struct Row<'a> {
    pub(super) mask: &'a Mask<'a>,
    pub(super) at: usize,
    pub(super) to: &'a mut [f32],
}

impl WithSimd for Row<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut j = 0;
        while j < self.to.len() {
            let n = S::LANES.min(self.to.len() - j);
            // SAFETY: whoever made this vouches for the places; n elements are left in `to`.
            unsafe {
                let x = self.mask.lanes(s, self.at, j, n);
                s.store_partial(self.to.as_mut_ptr().add(j), n, x);
            }
            j += n;
        }
    }
}

/// Writes the mask of a panel's rows as `[key][row]` for `n` keys; that of row `i` begins at place
/// `at[i]`, and the keys from there on must exist. Returns which of the `n` keys are left without
/// those at both ends that no row keeps.
pub(super) struct Panel<'a> {
    pub(super) mask: &'a Mask<'a>,
    pub(super) at: &'a [usize],
    pub(super) n: usize,
    /// Room for whole vectors of keys.
    pub(super) to: &'a mut [f32],
    pub(super) block: &'a mut [f32],
}

impl WithSimd for Panel<'_> {
    type Output = Range<usize>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Range<usize> {
        let (w, lanes, n) = (self.at.len(), S::LANES, self.n);
        let vectors = w / lanes;
        assert!(self.to.len() >= n.next_multiple_of(lanes) * w);
        assert!(w.is_multiple_of(lanes) && self.block.len() >= lanes * lanes);
        let (to, block) = (self.to.as_mut_ptr(), self.block.as_mut_ptr());
        // SAFETY: whoever made this vouches for the places; a transposed block may reach past key
        // `n`, but not past whole vectors of keys.
        unsafe {
            let mut j = 0;
            while j < n {
                let few = lanes.min(n - j);
                for r in 0..vectors {
                    for i in 0..lanes {
                        let x = self.mask.lanes(s, self.at[r * lanes + i], j, few);
                        s.store(block.add(i * lanes), x);
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
