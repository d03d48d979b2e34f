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

    /// Whether the `n` keys from these places on say the same.
    fn same_rows(&self, at: &[usize], n: usize) -> bool {
        fn same<M: bytemuck::Pod>(m: &[M], at: &[usize], n: usize) -> bool {
            let bytes = |at: usize| bytemuck::cast_slice::<M, u8>(&m[at..at + n]);
            at.iter().all(|&i| i == at[0] || bytes(i) == bytes(at[0]))
        }
        let n = if self.strides[3] == 0 { n.min(1) } else { n };
        match self.data {
            MaskData::Bool(m) => same(m, at, n),
            MaskData::F32(m) => same(m, at, n),
            MaskData::F16(m) => same(m, at, n),
            MaskData::BF16(m) => same(m, at, n),
        }
    }
}

/// What a mask of some type adds to scores.
trait Numbers {
    /// To `n <= LANES` keys from place `at` on, `step` (0 or 1) apart.
    ///
    /// # Safety
    /// These places exist.
    unsafe fn lanes<S: Simd>(&self, s: S, at: usize, step: usize, n: usize) -> S::F;

    /// Place `at`, if the numbers can be read there as they are.
    fn in_place(&self, at: usize) -> Option<*const f32> {
        let _ = at;
        None
    }
}

struct Added<'a, M>(&'a [M]);

impl<M: Element> Numbers for Added<'_, M> {
    #[inline(always)]
    unsafe fn lanes<S: Simd>(&self, s: S, at: usize, step: usize, n: usize) -> S::F {
        // SAFETY: the caller's contract.
        unsafe {
            let m = self.0.as_ptr().add(at);
            if step == 0 {
                return s.splat((*m).to_f32());
            }
            if n == S::LANES { M::load(s, m) } else { M::load_partial(s, m, n) }
        }
    }

    #[inline(always)]
    fn in_place(&self, at: usize) -> Option<*const f32> {
        M::IS_F32.then(|| self.0.as_ptr().wrapping_add(at).cast())
    }
}

struct Bool<'a>(&'a [u8]);

impl Numbers for Bool<'_> {
    #[inline(always)]
    unsafe fn lanes<S: Simd>(&self, s: S, at: usize, step: usize, n: usize) -> S::F {
        // SAFETY: the caller's contract; the copy has MAX_LANES >= LANES bytes.
        unsafe {
            let m = self.0.as_ptr().add(at);
            let mut bytes = [0u8; MAX_LANES];
            let kept = if step == 0 {
                s.splat_i(i32::from(*m))
            } else if n == S::LANES {
                s.load_u8(m)
            } else {
                m.copy_to_nonoverlapping(bytes.as_mut_ptr(), n);
                s.load_u8(bytes.as_ptr())
            };
            s.select(s.eq_i(kept, s.splat_i(0)), s.splat(f32::NEG_INFINITY), s.zero())
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

    /// Writes what is added for all rows to the scores of `keys`; `None` if that is nothing.
    #[inline(always)]
    pub(super) fn key_bias<S: Simd>(
        &self,
        s: S,
        batch: usize,
        keys: &Range<usize>,
        to: &mut [f32],
    ) -> Option<Kept> {
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
        Some(Kept::of(to))
    }
}

/// What a mask leaves of some keys.
pub(super) struct Kept {
    /// The keys, counted from the first, without the removed ones at both ends.
    pub(super) keys: Range<usize>,
    /// What is added to the scores of these.
    pub(super) bias: Bias,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Bias {
    None,
    /// A number for each key.
    Keys,
    /// A number for each key and row.
    Rows,
}

impl Kept {
    /// Of what is added to each key.
    fn of(bias: &[f32]) -> Kept {
        let removed = |x: &&f32| **x == f32::NEG_INFINITY;
        let start = bias.iter().take_while(removed).count();
        let keys = start..bias.len() - bias[start..].iter().rev().take_while(removed).count();
        let any = bias[keys.clone()].iter().any(|&x| x != 0.0);
        Kept { keys, bias: if any { Bias::Keys } else { Bias::None } }
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
        let (at, step) = (self.at, self.mask.strides[3]);
        // SAFETY: whoever made this vouches for the places.
        unsafe {
            match self.mask.data {
                MaskData::Bool(m) => copy(s, &Bool(m), at, step, self.to),
                MaskData::F32(m) => copy(s, &Added(m), at, step, self.to),
                MaskData::F16(m) => copy(s, &Added(m), at, step, self.to),
                MaskData::BF16(m) => copy(s, &Added(m), at, step, self.to),
            }
        }
    }
}

/// # Safety
/// As many places exist as `to` has, from `at` on.
#[inline(always)]
unsafe fn copy<S: Simd>(s: S, mask: &impl Numbers, at: usize, step: usize, to: &mut [f32]) {
    let mut j = 0;
    while j < to.len() {
        let n = S::LANES.min(to.len() - j);
        // SAFETY: the caller's contract; n elements are left in `to`.
        unsafe {
            let x = mask.lanes(s, at + j * step, step, n);
            s.store_partial(to.as_mut_ptr().add(j), n, x);
        }
        j += n;
    }
}

/// What a mask adds to `n` keys of a panel's rows; that of row `i` begins at place `at[i]`, and the
/// keys from there on must exist. Written as `[key][row]`, unless it is the same for all rows.
pub(super) struct Panel<'a> {
    pub(super) mask: &'a Mask<'a>,
    pub(super) at: &'a [usize],
    pub(super) n: usize,
    /// Added for all rows, besides the mask.
    pub(super) key_bias: Option<&'a [f32]>,
    /// Room for whole vectors of keys.
    pub(super) to: &'a mut [f32],
    pub(super) block: &'a mut [f32],
}

impl WithSimd for Panel<'_> {
    type Output = Kept;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Kept {
        let n = self.n;
        if self.mask.same_rows(self.at, n) {
            let to = &mut self.to[..n];
            Row { mask: self.mask, at: self.at[0], to }.run(s);
            if let Some(more) = self.key_bias {
                to.iter_mut().zip(more).for_each(|(to, more)| *to += more);
            }
            return Kept::of(to);
        }
        let (w, lanes) = (self.at.len(), S::LANES);
        let vectors = w / lanes;
        assert!(self.to.len() >= n.next_multiple_of(lanes) * w);
        assert!(w.is_multiple_of(lanes) && self.block.len() >= lanes * lanes);
        let to = self.to.as_mut_ptr();
        // SAFETY: whoever made this vouches for the places; a transposed block may reach past key
        // `n`, but not past whole vectors of keys.
        unsafe {
            let (step, block) = (self.mask.strides[3], self.block.as_mut_ptr());
            match self.mask.data {
                MaskData::Bool(m) => turn(s, &Bool(m), self.at, step, n, to, block),
                MaskData::F32(m) => turn(s, &Added(m), self.at, step, n, to, block),
                MaskData::F16(m) => turn(s, &Added(m), self.at, step, n, to, block),
                MaskData::BF16(m) => turn(s, &Added(m), self.at, step, n, to, block),
            }
            let mut keys = 0..n;
            while keys.start < keys.end && !is_kept(s, to.add(keys.start * w), vectors) {
                keys.start += 1;
            }
            while keys.start < keys.end && !is_kept(s, to.add((keys.end - 1) * w), vectors) {
                keys.end -= 1;
            }
            Kept { keys, bias: Bias::Rows }
        }
    }
}

/// The distance of places that follow each other at equal distances.
fn apart(at: &[usize]) -> Option<usize> {
    let apart = at[1].checked_sub(at[0])?;
    at.windows(2).all(|two| two[1].checked_sub(two[0]) == Some(apart)).then_some(apart)
}

/// Writes `[key][row]`.
///
/// # Safety
/// As in [`Panel`].
#[inline(always)]
unsafe fn turn<S: Simd>(
    s: S,
    mask: &impl Numbers,
    at: &[usize],
    step: usize,
    n: usize,
    to: *mut f32,
    block: *mut f32,
) {
    let (w, lanes) = (at.len(), S::LANES);
    // SAFETY: the caller's contract.
    unsafe {
        let mut j = 0;
        while j < n {
            let few = lanes.min(n - j);
            for (r, at) in at.chunks_exact(lanes).enumerate() {
                let to = to.add(j * w + r * lanes);
                let from = mask.in_place(at[0] + j).filter(|_| few == lanes && step == 1);
                if let Some((from, apart)) = from.zip(apart(at)) {
                    s.transpose(from, apart, to, w);
                    continue;
                }
                for (i, at) in at.iter().enumerate() {
                    s.store(block.add(i * lanes), mask.lanes(s, at + j * step, step, few));
                }
                s.transpose(block, lanes, to, w);
            }
            j += lanes;
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
