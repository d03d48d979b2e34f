//! Attention in one pass over the keys: the scores never exist as a whole.
//!
//! `softmax(q k^T * scale + mask) v` for blocks of query rows, key tile after key tile, with a
//! running maximum and sum for each row (Milakov and Gimelshein, 2018; Dao et al., 2022). The
//! query heads of a group are stacked: they are more rows over the same keys, so that keys and
//! values are read once for all of them and never tiled.
//!
//! There are two ways to go:
//! - **panels** (`panel`, `tile`): the rows lie in lanes. A panel is two vectors of rows; scores
//!   stand as `[key][row]` and results as `[value column][row]`, so that in both products the lanes
//!   come from the panel and the other factor, an element of a key or of a value, is broadcast from
//!   where it lies: f32 keys and values are not even copied. Softmax runs down the lanes, without
//!   a horizontal sum.
//! - **dots** (`dots`): for very few rows (decoding). Keys are read once, at the speed of memory;
//!   the lanes lie along the head.
//!
//! `plan` cuts the work into tasks: (batch, key head, rows, range of keys). The cut depends on
//! shapes and lengths only and never on the number of threads, so that the bits of a result do not
//! either. Where the keys of one row are shared out, `merge` puts the parts together, in order.
//! `bias` turns masks of all kinds into numbers that are added to scores.
//!
//! Letters: B batch, T query length, S key length, H query heads, K key heads, D head size.

mod bias;
mod dots;
mod merge;
mod panel;
mod plan;
mod row;
#[expect(clippy::needless_range_loop, reason = "accumulators stay in registers only when indexed")]
mod tile;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};

use half::{bf16, f16};

use crate::simd::{Element, Isa, Simd, WithSimd, dispatch_on, isa};
use crate::threads::Pool;
use plan::{Plan, Task};

/// A `[d0, d1, d2, d3]` operand with strides in elements; the last axis is contiguous.
#[derive(Clone, Copy)]
pub(crate) struct Grid<'a, T> {
    data: &'a [T],
    shape: [usize; 4],
    strides: [usize; 3],
}

impl<'a, T> Grid<'a, T> {
    /// A view of `data`. All its elements must be inside.
    pub(crate) fn new(data: &'a [T], shape: [usize; 4], strides: [usize; 3]) -> Grid<'a, T> {
        assert!(extent(shape, strides) <= data.len(), "{shape:?} by {strides:?} is too large");
        Grid { data, shape, strides }
    }

    /// A row-major view of `data`.
    #[cfg(test)]
    pub(crate) fn dense(data: &'a [T], shape: [usize; 4]) -> Grid<'a, T> {
        Grid::new(data, shape, row_major(shape))
    }

    /// The place of row `[i, j, k]`. Nothing is read.
    #[inline(always)]
    fn row(&self, i: usize, j: usize, k: usize) -> *const T {
        let [a, b, c] = self.strides;
        self.data.as_ptr().wrapping_add(i * a + j * b + k * c)
    }
}

/// Where a `[d0, d1, d2, d3]` result goes: as [`Grid`], for writing. No two rows may overlap.
pub(crate) struct GridMut<'a, T> {
    data: &'a mut [T],
    shape: [usize; 4],
    strides: [usize; 3],
}

impl<'a, T> GridMut<'a, T> {
    /// A view of `data`. All its elements must be inside and no two of them the same.
    pub(crate) fn new(data: &'a mut [T], shape: [usize; 4], strides: [usize; 3]) -> Self {
        assert!(extent(shape, strides) <= data.len(), "{shape:?} by {strides:?} is too large");
        let mut axes = [0, 1, 2].map(|a| (strides[a], shape[a]));
        axes.sort_unstable();
        let mut inner = shape[3];
        for (stride, size) in axes.into_iter().filter(|&(_, size)| size > 1) {
            assert!(stride >= inner, "rows of {shape:?} by {strides:?} overlap");
            inner = stride * size;
        }
        GridMut { data, shape, strides }
    }

    /// A row-major view of `data`.
    pub(crate) fn dense(data: &'a mut [T], shape: [usize; 4]) -> Self {
        GridMut::new(data, shape, row_major(shape))
    }
}

fn row_major(shape: [usize; 4]) -> [usize; 3] {
    let [_, b, c, d] = shape;
    [b * c * d, c * d, d]
}

/// One past the last element.
fn extent(shape: [usize; 4], strides: [usize; 3]) -> usize {
    if shape.contains(&0) {
        return 0;
    }
    let last = (0..3).fold(0, |at, a| at + (shape[a] - 1) * strides[a]);
    last + shape[3]
}

/// The numbers of a mask.
#[derive(Clone, Copy)]
pub(crate) enum MaskData<'a> {
    /// Non-zero keeps.
    Bool(&'a [u8]),
    /// Added to the scores.
    F32(&'a [f32]),
    /// Added to the scores.
    F16(&'a [f16]),
    /// Added to the scores.
    BF16(&'a [bf16]),
}

/// A mask that broadcasts to `[B, H, T, S]`: strides in elements, 0 along broadcast axes, the last
/// one 0 or 1.
#[derive(Clone, Copy)]
pub(crate) struct Mask<'a> {
    pub(crate) data: MaskData<'a>,
    pub(crate) strides: [usize; 4],
}

/// Scaled dot-product attention of `q` `[B, H, T, D]`, `k` `[B, K, S, D]`, `v` `[B, K, S, Dv]`.
#[derive(Clone, Copy)]
pub(crate) struct Attention<'a, T> {
    pub(crate) q: Grid<'a, T>,
    pub(crate) k: Grid<'a, T>,
    pub(crate) v: Grid<'a, T>,
    pub(crate) mask: Option<Mask<'a>>,
    /// `[B, S]`; non-zero keeps.
    pub(crate) key_mask: Option<&'a [u8]>,
    /// How many keys exist: one number, or one for each batch; taken as within `0..=S`.
    pub(crate) key_length: Option<&'a [i64]>,
    /// `[H]`; join the denominator.
    pub(crate) sinks: Option<&'a [f32]>,
    pub(crate) scale: f32,
    pub(crate) causal: bool,
    /// Keys seen to the left and to the right of a row's own position.
    pub(crate) window: Option<(usize, usize)>,
    pub(crate) softcap: Option<f32>,
}

/// The sizes that the need for scratch memory depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    pub(crate) heads: usize,
    pub(crate) key_heads: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    /// D.
    pub(crate) head: usize,
    /// Dv.
    pub(crate) value: usize,
}

impl Sizes {
    /// Bytes of scratch memory that [`Attention::run`] needs with a pool of so many threads.
    pub(crate) fn scratch_bytes(&self, threads: usize) -> usize {
        Plan::new(*self).scratch(threads) * size_of::<f32>()
    }
}

impl<T: Element> Attention<'_, T> {
    /// The sizes of the operands.
    pub(crate) fn sizes(&self) -> Sizes {
        let [batch, heads, queries, head] = self.q.shape;
        let [_, key_heads, keys, value] = self.v.shape;
        Sizes { batch, heads, key_heads, queries, keys, head, value }
    }

    /// Writes the result to `out` `[B, H, T, Dv]`. `scratch` begins at a multiple of 64 and has
    /// [`Sizes::scratch_bytes`]; what it holds before does not matter.
    pub(crate) fn run(&self, pool: &Pool, out: GridMut<'_, T>, scratch: &mut [u8]) {
        self.run_on(isa(), pool, out, scratch);
    }

    /// [`Attention::run`] with the instruction set of choice.
    fn run_on(&self, isa: Isa, pool: &Pool, out: GridMut<'_, T>, scratch: &mut [u8]) {
        self.check(&out);
        let plan = Plan::new(self.sizes());
        let threads = pool.threads();
        assert!(scratch.len() >= plan.scratch(threads) * size_of::<f32>(), "too little scratch");
        assert!(scratch.as_ptr().addr().is_multiple_of(64), "scratch is not aligned");
        if plan.tasks == 0 || plan.sizes.value == 0 {
            return;
        }
        let scratch: *mut f32 = scratch.as_mut_ptr().cast();
        let job = Job {
            attention: self,
            plan: &plan,
            out: out.data.as_mut_ptr(),
            out_strides: out.strides,
            parts: scratch.wrapping_add(plan.slots(threads) * plan.room.all),
            rooms: scratch,
        };
        let next = AtomicUsize::new(0);
        // Each slot is one scratch room, and whoever has it takes tasks until there are none.
        pool.run(plan.slots(threads), &|slot| {
            let worker = Worker { job: &job, next: &next, slot };
            dispatch_on(isa, worker);
        });
        if plan.splits > 1 {
            merge::run(isa, pool, &job);
        }
    }

    /// Refuses what would reach outside of an operand.
    fn check(&self, out: &GridMut<'_, T>) {
        let n = self.sizes();
        let Sizes { batch, heads, key_heads, queries, keys, head, value } = n;
        assert_eq!(self.k.shape, [batch, key_heads, keys, head], "k of {n:?}");
        assert_eq!(self.v.shape, [batch, key_heads, keys, value], "v of {n:?}");
        assert_eq!(out.shape, [batch, heads, queries, value], "result of {n:?}");
        let groups = heads == 0 || (key_heads > 0 && heads.is_multiple_of(key_heads));
        assert!(groups, "heads of {n:?}");
        if let Some(m) = self.mask {
            let len = match m.data {
                MaskData::Bool(m) => m.len(),
                MaskData::F32(m) => m.len(),
                MaskData::F16(m) => m.len(),
                MaskData::BF16(m) => m.len(),
            };
            let [a, b, c, d] = m.strides;
            let last = if d == 0 { 1 } else { keys };
            assert!(d <= 1 && extent([batch, heads, queries, last], [a, b, c]) <= len, "mask");
        }
        assert!(self.key_mask.is_none_or(|m| m.len() == batch * keys), "key_mask of {n:?}");
        assert!(self.key_length.is_none_or(|l| [1, batch].contains(&l.len())), "key_length");
        assert!(self.sinks.is_none_or(|z| z.len() == heads), "sinks of {n:?}");
    }

    /// How many keys exist in a batch.
    fn length(&self, batch: usize) -> usize {
        let keys = self.k.shape[2];
        match self.key_length {
            Some(l) => l[if l.len() == 1 { 0 } else { batch }].clamp(0, keys as i64) as usize,
            None => keys,
        }
    }
}

/// What all tasks of a run share.
struct Job<'a, T> {
    attention: &'a Attention<'a, T>,
    plan: &'a Plan,
    out: *mut T,
    out_strides: [usize; 3],
    /// Partial results, where the keys of a row are shared out.
    parts: *mut f32,
    /// The scratch rooms of the slots.
    rooms: *mut f32,
}

// SAFETY: operands are only read; every task writes rows of its own of `out` and of `parts`, and
// every slot, which one thread runs, has a room of its own.
unsafe impl<T: Sync> Sync for Job<'_, T> {}

impl<T> Job<'_, T> {
    /// The place of a row of the result.
    #[inline(always)]
    fn out_row(&self, batch: usize, head: usize, query: usize) -> *mut T {
        let [a, b, c] = self.out_strides;
        self.out.wrapping_add(batch * a + head * b + query * c)
    }
}

/// Takes tasks until there are none.
struct Worker<'a, T> {
    job: &'a Job<'a, T>,
    next: &'a AtomicUsize,
    slot: usize,
}

impl<T: Element> WithSimd for Worker<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Worker { job, next, slot } = self;
        let all = job.plan.room.all;
        // SAFETY: the caller gave as many rooms as there are slots, and a slot runs once.
        let room = unsafe { std::slice::from_raw_parts_mut(job.rooms.add(slot * all), all) };
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= job.plan.tasks {
                return;
            }
            // Later rows see more keys where attention is causal: the long tasks go first.
            let Some(task) = Task::new(job, job.plan.tasks - 1 - i) else { continue };
            match job.plan.dots {
                true => dots::run(s, job, &task, room),
                false => panel::run(s, job, &task, room),
            }
        }
    }
}
