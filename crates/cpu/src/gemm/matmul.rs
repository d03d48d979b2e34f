//! Batched products of matrices anywhere in memory.

use frit_ops::Activation;

use super::Raw;
use super::dot::{FEW, few};
use super::finish::Bias;
use super::pack::{Rows, Strided};
use super::product::{Extents, Sink, products};
use crate::Pool;
use crate::kernel::Combine;
use crate::simd::{Element, Isa, isa};

/// One axis of a batch: its extent, and the distance in elements from one matrix to the next in
/// each operand; 0 where it broadcasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchAxis {
    pub(crate) count: usize,
    pub(crate) a: isize,
    pub(crate) b: isize,
    pub(crate) c: isize,
}

/// `C = A B` for each place of a batch: A is `m x k`, B is `k x n`.
///
/// Strides are in elements and of any sign: `[row, column]`. C does not overlap with itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Product {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) a: [isize; 2],
    pub(crate) b: [isize; 2],
    pub(crate) c: [isize; 2],
    /// From the outermost axis to the innermost.
    pub(crate) batch: Vec<BatchAxis>,
}

impl Product {
    /// A product of dense row-major matrices without a batch.
    #[cfg(test)]
    pub(crate) fn dense(m: usize, n: usize, k: usize) -> Product {
        let [across_k, across_n] = [k as isize, n as isize];
        let (a, b, c) = ([across_k, 1], [across_n, 1], [across_n, 1]);
        Product { m, n, k, a, b, c, batch: Vec::new() }
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.m == 0 || self.n == 0 || self.batch.iter().any(|x| x.count == 0)
    }

    /// The number of matrices C.
    pub(super) fn count(&self) -> usize {
        self.batch.iter().map(|x| x.count).product()
    }

    /// Where the matrices of a place stand.
    pub(super) fn offsets(&self, mut place: usize) -> [isize; 3] {
        let mut at = [0; 3];
        for axis in self.batch.iter().rev() {
            let i = (place % axis.count) as isize;
            place /= axis.count;
            at = [at[0] + i * axis.a, at[1] + i * axis.b, at[2] + i * axis.c];
        }
        at
    }

    /// The same product with its axes in the best places, and whether A and B changed places for
    /// it: few rows rather than few columns, columns of C side by side; batch axes that share B
    /// become rows of A where they can, and come last otherwise.
    fn canonical(&self) -> (Product, bool) {
        let mut p = self.clone();
        p.batch.retain(|x| x.count != 1);
        p.fold_rows();
        let few_columns = p.n <= FEW && p.m > p.n;
        let swap = few_columns || (p.m > FEW && p.c[1] != 1 && p.c[0] == 1);
        if swap {
            p.transpose();
            p.fold_rows();
        }
        (p, swap)
    }

    fn fold_rows(&mut self) {
        // Stable: the axes keep their order but for this.
        self.batch.sort_by_key(|x| x.b == 0);
        while let Some(&last) = self.batch.last() {
            let m = self.m as isize;
            if last.b == 0 && self.m == 1 {
                (self.a[0], self.c[0]) = (last.a, last.c);
            } else if last.b != 0 || last.a != self.a[0] * m || last.c != self.c[0] * m {
                return;
            }
            self.m *= last.count;
            self.batch.pop();
        }
    }

    /// C^T = B^T A^T
    fn transpose(&mut self) {
        std::mem::swap(&mut self.m, &mut self.n);
        (self.a, self.b) = ([self.b[1], self.b[0]], [self.a[1], self.a[0]]);
        self.c.swap(0, 1);
        self.batch.iter_mut().for_each(|x| std::mem::swap(&mut x.a, &mut x.b));
    }

    /// Outer places have a B of their own, inner places share one.
    fn extents<T: Element>(&self, isa: Isa) -> Extents {
        let shared = self.batch.iter().filter(|x| x.b == 0).map(|x| x.count).product();
        Extents {
            isa,
            outer: self.count() / shared,
            inner: shared,
            m: self.m,
            n: self.n,
            k: self.k,
            size: size_of::<T>(),
            ready: Rows::<T>::ready(self.a[1], self.k),
        }
    }

    /// Whether B is read where it is, because there are few rows in A.
    fn few(&self) -> bool {
        // Dot products of few terms are mostly overhead.
        let dots = self.b[0] == 1 && (self.k >= 8 || self.n == 1);
        self.m <= FEW && (self.b[1] == 1 || dots)
    }
}

/// Bytes of scratch that [`matmul`] needs.
pub(crate) fn matmul_scratch_bytes<T: Element>(product: &Product) -> usize {
    matmul_scratch_bytes_on::<T>(isa(), product)
}

pub(super) fn matmul_scratch_bytes_on<T: Element>(isa: Isa, product: &Product) -> usize {
    let (p, _) = product.canonical();
    if p.is_empty() {
        return 0;
    }
    let extents = p.extents::<T>(isa);
    if p.few() { extents.few_scratch_bytes() } else { extents.scratch_bytes() }
}

/// Computes `product` in f32, rounded once at the store. `scratch` is aligned to 64 bytes.
///
/// # Safety
/// `a`, `b` and `c` are valid for all that the product describes, and C overlaps with neither A
/// nor B.
pub(crate) unsafe fn matmul<T: Element>(
    pool: &Pool,
    product: &Product,
    a: *const T,
    b: *const T,
    c: *mut T,
    scratch: &mut [u8],
) {
    // SAFETY: the caller's contract is the same.
    unsafe { matmul_on(isa(), pool, product, a, b, c, scratch) }
}

/// # Safety
/// As for [`matmul`].
pub(super) unsafe fn matmul_on<T: Element>(
    isa: Isa,
    pool: &Pool,
    product: &Product,
    a: *const T,
    b: *const T,
    c: *mut T,
    scratch: &mut [u8],
) {
    let (p, swapped) = product.canonical();
    if p.is_empty() {
        return;
    }
    let (a, b) = if swapped { (b, a) } else { (a, b) };
    let (a, b, c) = (Raw(a.cast_mut()), Raw(b.cast_mut()), Raw(c));
    let extents = p.extents::<T>(isa);
    let place = |outer, inner| outer * extents.inner + inner;
    let rows = |outer, inner| {
        let [at, ..] = p.offsets(place(outer, inner));
        Rows { at: Raw(a.offset(at)), row: p.a[0], step: p.a[1] }
    };
    let columns = |outer| {
        let [_, at, _] = p.offsets(place(outer, 0));
        Strided { at: Raw(b.offset(at)), k: p.k, columns: p.n, step: p.b[0], column: p.b[1] }
    };
    let sink = |outer, inner| {
        let [.., at] = p.offsets(place(outer, inner));
        Sink {
            c: Raw(c.offset(at)),
            row: p.c[0],
            column: p.c[1],
            bias: Bias::None,
            activation: Activation::Identity,
            combine: Combine::Replace,
        }
    };
    // SAFETY: the caller vouches for the matrices; canonical() describes the same.
    unsafe {
        match p.few() {
            true => few(pool, &extents, rows, columns, sink, scratch),
            false => products(pool, &extents, rows, columns, sink, scratch),
        }
    }
}
