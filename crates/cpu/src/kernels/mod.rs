//! The kernels on rows and on single elements: norms, rope, gates, softmax, activations.
//!
//! All take slices of an [`Element`], compute in f32 lanes and round once, at the store. Rows are
//! shared out over a [`Pool`]; each row (or element) is computed by itself and in a fixed order,
//! so the bits of a result depend on no number of threads. Input and output come as an [`InOut`],
//! which may be one and the same slice.
//!
//! To read: [`InOut`] (what comes in), [`sweep`] (the loop that writes), [`sum`] (the loop that
//! adds up), [`map1`] and [`map2`] (elementwise functions), then the kernel files.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod depthwise;
pub(crate) mod einsum;
pub(crate) mod gate;
pub(crate) mod norm;
pub(crate) mod rope;
pub(crate) mod softmax;

#[cfg(test)]
mod tests;

use std::marker::PhantomData;
use std::ops::Range;

use crate::simd::{Element, MAX_LANES, Simd, WithSimd, dispatch};
use crate::threads::Pool;

/// Fewer elements than this are not worth another thread, where the kernel mostly moves memory.
pub(crate) const MIN_MOVED: usize = 16 * 1024;
/// The same where the kernel evaluates an exponential or more for each element.
pub(crate) const MIN_COMPUTED: usize = 4 * 1024;
/// f32 results of more bytes than this are written past the caches, which do not hold them. On
/// an EPYC with 32 MiB of L3 (2026-11) that made 32 MiB of RMS norm 1.6 times as fast; at 9 MiB
/// a plain store was faster by a quarter.
const STREAM_BYTES: usize = 16 << 20;
/// Elements between two ends of chunks in elementwise kernels, so that no two threads write to
/// one cache line.
const GRAIN: usize = 256;

/// What a kernel reads and what it writes: two slices of one length, or one slice for both.
pub(crate) struct InOut<'a, T> {
    x: *const T,
    out: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a shared and an exclusive slice, or an exclusive one; T is Send and Sync.
unsafe impl<T: Send + Sync> Sync for InOut<'_, T> {}

impl<'a, T> InOut<'a, T> {
    /// Reads `x` and writes `out`. The lengths must be equal.
    pub(crate) fn new(x: &'a [T], out: &'a mut [T]) -> InOut<'a, T> {
        assert_eq!(x.len(), out.len(), "input and output differ in length");
        InOut { x: x.as_ptr(), out: out.as_mut_ptr(), len: out.len(), borrow: PhantomData }
    }

    /// Reads and overwrites `x`.
    pub(crate) fn in_place(x: &'a mut [T]) -> InOut<'a, T> {
        let out = x.as_mut_ptr();
        InOut { x: out, out, len: x.len(), borrow: PhantomData }
    }

    /// The number of rows of `width` elements, of which there must be a whole number.
    fn rows(&self, width: usize) -> usize {
        if self.len == 0 {
            return 0;
        }
        assert!(
            width > 0 && self.len.is_multiple_of(width),
            "{} is no multiple of {width}",
            self.len
        );
        self.len / width
    }

    /// Where element `i` is read and where it is written.
    ///
    /// # Safety
    /// `i` is at most the length. Two tasks must not write the same elements.
    #[inline(always)]
    unsafe fn at(&self, i: usize) -> (*const T, *mut T) {
        // SAFETY: both slices reach to `i`.
        unsafe { (self.x.add(i), self.out.add(i)) }
    }

    /// Whether the result is so large, and other memory than the input, that it is written past
    /// the caches.
    fn stream(&self) -> bool {
        self.len * size_of::<T>() > STREAM_BYTES && !std::ptr::eq(self.x, self.out)
    }
}

/// Rows of `width` elements that make up at least `items`.
fn rows_of(items: usize, width: usize) -> usize {
    (items / width.max(1)).max(1)
}

/// Loads `n` lanes, whole or partial.
///
/// # Safety
/// `p` is valid for `n` elements, `n <= LANES`.
#[inline(always)]
pub(crate) unsafe fn load<S: Simd, T: Element>(s: S, p: *const T, n: usize) -> S::F {
    // SAFETY: the caller's contract.
    unsafe { if n == S::LANES { T::load(s, p) } else { T::load_partial(s, p, n) } }
}

/// `ONES[MAX_LANES - n..]` begins with n ones and goes on with zeros.
static ONES: [f32; 2 * MAX_LANES] = {
    let mut ones = [0.0; 2 * MAX_LANES];
    let mut i = 0;
    while i < MAX_LANES {
        ones[i] = 1.0;
        i += 1;
    }
    ones
};

/// `x` in the first `n` lanes and zero in the others.
#[inline(always)]
fn only_first<S: Simd>(s: S, x: S::F, n: usize) -> S::F {
    assert!(n <= MAX_LANES);
    // SAFETY: MAX_LANES >= LANES elements begin there, because n <= MAX_LANES.
    let ones = unsafe { s.load(ONES.as_ptr().add(MAX_LANES - n)) };
    s.select(s.lt(s.zero(), ones), x, s.zero())
}

/// Computes the lanes of an output vector, for [`sweep`].
pub(crate) trait Body<S: Simd>: Copy {
    /// Outputs `at .. at + n`, in the first `n` lanes.
    ///
    /// # Safety
    /// The inputs must reach to `at + n`, `n <= LANES`.
    unsafe fn lanes(self, s: S, at: usize, n: usize) -> S::F;

    /// `V` whole vectors of outputs from `at` on.
    ///
    /// # Safety
    /// The inputs must reach to `at + V * LANES`.
    #[inline(always)]
    unsafe fn several<const V: usize>(self, s: S, at: usize) -> [S::F; V] {
        let mut y = [s.zero(); V];
        for (v, y) in y.iter_mut().enumerate() {
            // SAFETY: the caller's contract.
            *y = unsafe { self.lanes(s, at + v * S::LANES, S::LANES) };
        }
        y
    }
}

/// Writes `body` to `len` elements at `out`, `V` vectors at a time, past the caches if `stream` (and
/// `T` is f32).
///
/// # Safety
/// `out` is valid for writes of `len` elements and the inputs of `body` for reads. An input may be
/// `out` itself: each vector is read before it is written.
#[inline(always)]
pub(crate) unsafe fn sweep<S: Simd, T: Element, const V: usize>(
    s: S,
    out: *mut T,
    len: usize,
    stream: bool,
    body: impl Body<S>,
) {
    let mut at = 0;
    // SAFETY: at + n <= len in all calls below; streamed vectors begin at an aligned address.
    unsafe {
        if stream && T::IS_F32 {
            let vector = 4 * S::LANES;
            at = ((out.addr().wrapping_neg() & (vector - 1)) / 4).min(len);
            if at > 0 {
                T::store_partial(s, out, at, body.lanes(s, 0, at));
            }
            while len - at >= V * S::LANES {
                for (v, y) in body.several::<V>(s, at).into_iter().enumerate() {
                    s.store_stream(out.add(at + v * S::LANES).cast(), y);
                }
                at += V * S::LANES;
            }
            while len - at >= S::LANES {
                s.store_stream(out.add(at).cast(), body.lanes(s, at, S::LANES));
                at += S::LANES;
            }
        } else {
            while len - at >= V * S::LANES {
                for (v, y) in body.several::<V>(s, at).into_iter().enumerate() {
                    T::store(s, out.add(at + v * S::LANES), y);
                }
                at += V * S::LANES;
            }
            while len - at >= S::LANES {
                T::store(s, out.add(at), body.lanes(s, at, S::LANES));
                at += S::LANES;
            }
        }
        if at < len {
            T::store_partial(s, out.add(at), len - at, body.lanes(s, at, len - at));
        }
    }
}

/// Terms of `N` sums over a row, for [`sum`].
pub(crate) trait Terms<S: Simd, const N: usize>: Copy {
    /// Adds the terms `at .. at + n` to the lanes of `sums`; lanes past `n` add zero.
    ///
    /// # Safety
    /// The inputs must reach to `at + n`, `n <= LANES`.
    unsafe fn add(self, s: S, sums: [S::F; N], at: usize, n: usize) -> [S::F; N];
}

/// Elements whose lanes are added in f32; such partial sums are added in f64.
const SUM_BLOCK: usize = 2048;

/// Sums over a row, in an order that depends on nothing but its length and the lanes.
///
/// # Safety
/// The inputs of `terms` are valid for `len` elements.
#[inline(always)]
pub(crate) unsafe fn sum<S: Simd, const N: usize>(
    s: S,
    len: usize,
    terms: impl Terms<S, N>,
) -> [f64; N] {
    let mut total = [0.0; N];
    let mut at = 0;
    while at < len {
        let end = len.min(at + SUM_BLOCK);
        // Four sums side by side hide the latency of an addition.
        let mut sums = [[s.zero(); N]; 4];
        // SAFETY: at + n <= end <= len in all calls below.
        unsafe {
            while end - at >= 4 * S::LANES {
                for (j, sums) in sums.iter_mut().enumerate() {
                    *sums = terms.add(s, *sums, at + j * S::LANES, S::LANES);
                }
                at += 4 * S::LANES;
            }
            while end - at >= S::LANES {
                sums[0] = terms.add(s, sums[0], at, S::LANES);
                at += S::LANES;
            }
            if at < end {
                sums[1] = terms.add(s, sums[1], at, end - at);
                at = end;
            }
        }
        let [a, b, c, d] = sums;
        for i in 0..N {
            total[i] += f64::from(s.reduce_sum(s.add(s.add(a[i], b[i]), s.add(c[i], d[i]))));
        }
    }
    total
}

/// An elementwise function of one operand.
pub(crate) trait Map1: Copy + Send + Sync {
    /// The function. Implementations are `#[inline(always)]`.
    fn lanes<S: Simd>(self, s: S, x: S::F) -> S::F;

    /// The same of several vectors, to the very same bits.
    #[inline(always)]
    fn several<S: Simd, const V: usize>(self, s: S, mut x: [S::F; V]) -> [S::F; V] {
        for x in &mut x {
            *x = self.lanes(s, *x);
        }
        x
    }
}

/// Vectors that a loop gives to [`Map1::several`].
pub(crate) const SEVERAL: usize = 4;

/// An elementwise function of two operands.
pub(crate) trait Map2: Copy + Send + Sync {
    /// The function. Implementations are `#[inline(always)]`.
    fn lanes<S: Simd>(self, s: S, x: S::F, y: S::F) -> S::F;
}

struct MapBody<T, U, M> {
    x: *const T,
    y: *const U,
    map: M,
}

impl<T, U, M: Copy> Clone for MapBody<T, U, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, U, M: Copy> Copy for MapBody<T, U, M> {}

/// Marks the absent second operand of a [`Map1`].
struct Nothing;

impl<S: Simd, T: Element, M: Map1> Body<S> for MapBody<T, Nothing, M> {
    #[inline(always)]
    unsafe fn lanes(self, s: S, at: usize, n: usize) -> S::F {
        // SAFETY: the caller's contract.
        self.map.lanes(s, unsafe { load(s, self.x.add(at), n) })
    }

    #[inline(always)]
    unsafe fn several<const V: usize>(self, s: S, at: usize) -> [S::F; V] {
        let mut x = [s.zero(); V];
        for (v, x) in x.iter_mut().enumerate() {
            // SAFETY: the caller's contract.
            *x = unsafe { T::load(s, self.x.add(at + v * S::LANES)) };
        }
        self.map.several(s, x)
    }
}

impl<S: Simd, T: Element, M: Map2> Body<S> for MapBody<T, T, M> {
    #[inline(always)]
    unsafe fn lanes(self, s: S, at: usize, n: usize) -> S::F {
        // SAFETY: the caller's contract.
        let (x, y) = unsafe { (load(s, self.x.add(at), n), load(s, self.y.add(at), n)) };
        self.map.lanes(s, x, y)
    }
}

/// A [`sweep`] over one chunk, as work for [`dispatch`].
struct Chunk<T, U, M> {
    body: MapBody<T, U, M>,
    out: *mut T,
    len: usize,
    stream: bool,
}

macro_rules! run_chunk {
    ($second:ty, $map:ident, $several:expr) => {
        impl<T: Element, M: $map> WithSimd for Chunk<T, $second, M> {
            type Output = ();
            #[inline(always)]
            fn run<S: Simd>(self, s: S) {
                // SAFETY: a Chunk is built below, inside of the bounds of its slices.
                unsafe { sweep::<S, T, $several>(s, self.out, self.len, self.stream, self.body) };
                if self.stream {
                    s.stream_fence();
                }
            }
        }
    };
}

run_chunk!(Nothing, Map1, SEVERAL);
run_chunk!(T, Map2, 2);

/// `out[i] = map(x[i])` of `n` elements, which may be the same memory.
///
/// # Safety
/// `x` is valid for reads of `n` elements and `out` for writes.
#[inline(always)]
pub(crate) unsafe fn map_lanes<S: Simd>(
    s: S,
    x: *const f32,
    out: *mut f32,
    n: usize,
    map: impl Map1,
) {
    let body = MapBody { x, y: std::ptr::null::<Nothing>(), map };
    // SAFETY: the caller's contract.
    unsafe { sweep::<S, f32, SEVERAL>(s, out, n, false, body) };
}

/// Calls `f` with ranges that cover `0..len`, each of at least `least` elements.
fn chunks(pool: &Pool, len: usize, least: usize, f: &(dyn Fn(Range<usize>) + Sync)) {
    pool.run_chunks(len.div_ceil(GRAIN), least.div_ceil(GRAIN), &|grains| {
        f(grains.start * GRAIN..(grains.end * GRAIN).min(len))
    });
}

/// `out[i] = map(x[i])`; `least` elements are worth a thread.
pub(crate) fn map1<T: Element>(pool: &Pool, io: InOut<'_, T>, least: usize, map: impl Map1) {
    let stream = io.stream();
    chunks(pool, io.len, least, &|range| {
        // SAFETY: the range lies in both slices, and no other task writes there.
        let (x, out) = unsafe { io.at(range.start) };
        let body = MapBody { x, y: std::ptr::null::<Nothing>(), map };
        dispatch(Chunk { body, out, len: range.len(), stream });
    });
}

/// `out[i] = map(x[i], y[i])`; `least` elements are worth a thread.
pub(crate) fn map2<T: Element>(
    pool: &Pool,
    io: InOut<'_, T>,
    y: &[T],
    least: usize,
    map: impl Map2,
) {
    assert_eq!(io.len, y.len(), "operands differ in length");
    let stream = io.stream();
    chunks(pool, io.len, least, &|range| {
        // SAFETY: the range lies in all three slices, and no other task writes there.
        let (x, out) = unsafe { io.at(range.start) };
        let body = MapBody { x, y: y[range.clone()].as_ptr(), map };
        dispatch(Chunk { body, out, len: range.len(), stream });
    });
}
