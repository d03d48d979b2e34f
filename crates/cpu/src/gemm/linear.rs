//! The linear layer: rows of x times the rows of a weight, with bias and activation.

use frit_ops::Activation;

use super::Raw;
use super::dot::{FEW, few};
use super::finish::Bias;
use super::pack::{Columns, Packed, Rows, Strided};
use super::product::{Extents, Sink, packed_product, products};
use crate::Pool;
use crate::kernel::Combine;
use crate::simd::{Element, Isa, isa};

/// What happens to the products of a linear layer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Epilogue<'a> {
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) activation: Activation,
    /// With what the output holds; a gate has no activation.
    pub(crate) combine: Combine,
}

impl<'a> Epilogue<'a> {
    /// Into dense rows of `n`.
    fn sink<T>(self, out: Raw<T>, n: usize) -> Sink<'a, T> {
        let Epilogue { bias, activation, combine } = self;
        let bias = bias.map_or(Bias::None, Bias::Columns);
        Sink { c: out, row: n as isize, column: 1, bias, activation, combine }
    }
}

/// The extents of a linear layer: `out [m, n] = x [m, k] * (weight [n, k])^T`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinearShape {
    /// Rows of x.
    pub(crate) m: usize,
    /// Rows of the weight.
    pub(crate) n: usize,
    /// Width of both.
    pub(crate) k: usize,
    /// Elements from row to row of x; `k` if it is dense.
    pub(crate) x_row: usize,
}

impl LinearShape {
    fn extents<T: Element, W: Element>(&self, isa: Isa) -> Extents {
        let &LinearShape { m, n, k, .. } = self;
        let ready = Rows::<T>::ready(1, k);
        Extents { isa, outer: 1, inner: 1, m, n, k, size: size_of::<W>(), ready }
    }

    fn is_empty(&self) -> bool {
        self.m == 0 || self.n == 0
    }

    /// # Panics
    /// If the slices are shorter than the extents say.
    fn check<X, T>(&self, x: &[X], then: Epilogue<'_>, out: &[T]) {
        let &LinearShape { m, n, k, x_row } = self;
        assert!(m == 0 || (m - 1) * x_row + k <= x.len(), "x is shorter than {self:?}");
        assert_eq!(out.len(), m * n, "the output is not {self:?}");
        assert!(then.bias.is_none_or(|b| b.len() == n), "the bias is not {self:?}");
    }

    fn rows<T>(&self, x: &[T]) -> Rows<T> {
        Rows { at: Raw(x.as_ptr().cast_mut()), row: self.x_row as isize, step: 1 }
    }
}

/// Bytes of scratch that [`linear`] needs. It is enough for [`linear_packed`] too.
pub(crate) fn linear_scratch_bytes<T: Element, W: Element>(shape: &LinearShape) -> usize {
    linear_scratch_bytes_on::<T, W>(isa(), shape)
}

pub(super) fn linear_scratch_bytes_on<T: Element, W: Element>(
    isa: Isa,
    shape: &LinearShape,
) -> usize {
    if shape.is_empty() {
        return 0;
    }
    let e = shape.extents::<T, W>(isa);
    if shape.m <= FEW { e.few_scratch_bytes() } else { e.scratch_bytes() }
}

/// `out = activation(x weight^T + bias)`, or that together with what it holds: `weight` and `out`
/// are dense, x has rows at any distance. `scratch` is aligned to 64 bytes.
///
/// # Panics
/// If a slice does not fit the shape.
pub(crate) fn linear<T: Element, W: Element>(
    pool: &Pool,
    shape: &LinearShape,
    x: &[T],
    weight: &[W],
    then: Epilogue<'_>,
    out: &mut [T],
    scratch: &mut [u8],
) {
    linear_on(isa(), pool, shape, x, weight, then, out, scratch);
}

#[expect(clippy::too_many_arguments, reason = "the operands of the layer")]
pub(super) fn linear_on<T: Element, W: Element>(
    isa: Isa,
    pool: &Pool,
    shape: &LinearShape,
    x: &[T],
    weight: &[W],
    then: Epilogue<'_>,
    out: &mut [T],
    scratch: &mut [u8],
) {
    shape.check(x, then, out);
    let &LinearShape { m, n, k, .. } = shape;
    assert_eq!(weight.len(), n * k, "the weight is not {shape:?}");
    if shape.is_empty() {
        return;
    }
    let e = shape.extents::<T, W>(isa);
    let weight = Raw(weight.as_ptr().cast_mut());
    let c = Raw(out.as_mut_ptr());
    let rows = shape.rows(x);
    let rows = |_, _| rows;
    let columns = |_| Strided { at: weight, k, columns: n, step: 1, column: k as isize };
    let sink = |_, _| then.sink(c, n);
    // SAFETY: the slices are as long as the shape says.
    unsafe {
        match m <= FEW {
            true => few(pool, &e, rows, columns, sink, scratch),
            false => products(pool, &e, rows, columns, sink, scratch),
        }
    }
}

/// As [`linear`] with the weight packed. `shape` must have the weight's `n` and `k`.
///
/// # Panics
/// If a slice or the weight does not fit the shape.
pub(crate) fn linear_packed<T: Element, W: Element>(
    pool: &Pool,
    shape: &LinearShape,
    x: &[T],
    weight: &Packed<W>,
    then: Epilogue<'_>,
    out: &mut [T],
    scratch: &mut [u8],
) {
    shape.check(x, then, out);
    let &LinearShape { m, n, k, .. } = shape;
    assert_eq!((weight.n, weight.k), (n, k), "the weight is not {shape:?}");
    if m == 0 || n == 0 {
        return;
    }
    let e = shape.extents::<T, W>(weight.isa);
    let c = Raw(out.as_mut_ptr());
    let rows = shape.rows(x);
    let sink = |_, _| then.sink(c, n);
    // SAFETY: the slices are as long as the shape says, and so are the panels.
    unsafe { packed_product(pool, &e, |_, _| rows, weight.panels(), sink, scratch) };
}

/// Bytes of scratch that [`linear_from`] needs.
pub(crate) fn linear_from_scratch_bytes<T: Element>(isa: Isa, shape: &LinearShape) -> usize {
    if shape.is_empty() { 0 } else { shape.extents::<T, f32>(isa).scratch_bytes() }
}

/// The product of x with columns that somebody lays out as panels when they are asked for, some
/// megabytes at a time.
///
/// # Panics
/// If a slice does not fit the shape.
#[expect(clippy::too_many_arguments, reason = "the operands of the layer")]
pub(crate) fn linear_from<X: Element, T: Element, C: Columns<T = f32>>(
    isa: Isa,
    pool: &Pool,
    shape: &LinearShape,
    x: &[X],
    columns: C,
    then: Epilogue<'_>,
    out: &mut [T],
    scratch: &mut [u8],
) {
    shape.check(x, then, out);
    if shape.is_empty() {
        return;
    }
    let e = shape.extents::<X, f32>(isa);
    let (c, rows) = (Raw(out.as_mut_ptr()), shape.rows(x));
    let sink = |_, _| then.sink(c, shape.n);
    // SAFETY: the slices are as long as the shape says.
    unsafe { products(pool, &e, |_, _| rows, |_| columns, sink, scratch) };
}
