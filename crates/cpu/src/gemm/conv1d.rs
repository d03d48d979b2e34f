//! The convolution along one axis as a product: the weight times the unfolded input.
//!
//! Row `c * taps + j` of the unfolded input is channel c as tap j sees it. It exists only as
//! panels, a few megabytes at a time.

use frit_ops::Conv1d;

use super::Raw;
use super::finish::Bias;
use super::pack::{Columns, Rows};
use super::product::{Extents, Sink, products};
use crate::Pool;
use crate::simd::{Element, Isa, isa};

/// The extents of a convolution: x `[batch, channels, length]`, weight
/// `[out, channels / groups, taps]`. The options have the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConvShape {
    pub(crate) batch: usize,
    pub(crate) channels: usize,
    pub(crate) length: usize,
    pub(crate) out: usize,
    pub(crate) taps: usize,
}

impl ConvShape {
    /// The length of the output; 0 where the taps do not fit.
    fn outputs(&self, options: &Conv1d) -> usize {
        options.length(self.length, self.taps).unwrap_or(0)
    }

    fn extents<T: Element, W: Element>(&self, isa: Isa, options: &Conv1d) -> Extents {
        let k = self.channels / options.groups * self.taps;
        Extents {
            isa,
            outer: self.batch * options.groups,
            inner: 1,
            m: self.out / options.groups,
            n: self.outputs(options),
            k,
            size: size_of::<T>(),
            ready: Rows::<W>::ready(1, k),
        }
    }
}

/// Bytes of scratch that [`conv1d`] needs.
pub(crate) fn conv1d_scratch_bytes<T: Element, W: Element>(
    shape: &ConvShape,
    options: &Conv1d,
) -> usize {
    conv1d_scratch_bytes_on::<T, W>(isa(), shape, options)
}

pub(super) fn conv1d_scratch_bytes_on<T: Element, W: Element>(
    isa: Isa,
    shape: &ConvShape,
    options: &Conv1d,
) -> usize {
    shape.extents::<T, W>(isa, options).scratch_bytes()
}

/// The convolution of [`Conv1d`], all operands dense. `scratch` is aligned to 64 bytes.
///
/// # Panics
/// If a slice does not fit the shape, or the channels do not divide into the groups.
#[expect(clippy::too_many_arguments, reason = "the operands of the layer")]
pub(crate) fn conv1d<T: Element, W: Element>(
    pool: &Pool,
    shape: &ConvShape,
    options: &Conv1d,
    x: &[T],
    weight: &[W],
    bias: Option<&[f32]>,
    out: &mut [T],
    scratch: &mut [u8],
) {
    conv1d_on(isa(), pool, shape, options, x, weight, bias, out, scratch);
}

#[expect(clippy::too_many_arguments, reason = "the operands of the layer")]
pub(super) fn conv1d_on<T: Element, W: Element>(
    isa: Isa,
    pool: &Pool,
    shape: &ConvShape,
    options: &Conv1d,
    x: &[T],
    weight: &[W],
    bias: Option<&[f32]>,
    out: &mut [T],
    scratch: &mut [u8],
) {
    let &ConvShape { batch, channels, length, out: filters, taps } = shape;
    let groups = options.groups;
    let divides = channels.is_multiple_of(groups) && filters.is_multiple_of(groups);
    assert!(divides, "{groups} groups do not divide {shape:?}");
    let e = shape.extents::<T, W>(isa, options);
    let (m, n, k) = (e.m, e.n, e.k);
    assert_eq!(x.len(), batch * channels * length, "x is not {shape:?}");
    assert_eq!(weight.len(), filters * k, "the weight is not {shape:?}");
    assert_eq!(out.len(), batch * filters * n, "the output is not that of {shape:?}");
    assert!(bias.is_none_or(|b| b.len() == filters), "the bias is not {shape:?}");
    if out.is_empty() {
        return;
    }
    let (x, weight) = (Raw(x.as_ptr().cast_mut()), Raw(weight.as_ptr().cast_mut()));
    let c = Raw(out.as_mut_ptr());
    // A place is a group of a batch row.
    let rows = |place: usize, _| {
        let at = Raw(weight.add(place % groups * m * k));
        Rows { at, row: k as isize, step: 1 }
    };
    let columns = |place: usize| Unfolded {
        at: Raw(x.add(place * (channels / groups) * length)),
        channels: channels / groups,
        length,
        taps,
        outputs: n,
        stride: options.stride,
        dilation: options.dilation,
        padding: options.padding,
    };
    let sink = |place: usize, _| Sink {
        c: Raw(c.add(place * m * n)),
        row: n as isize,
        column: 1,
        bias: bias.map_or(Bias::None, |b| Bias::Rows(&b[place % groups * m..][..m])),
        activation: options.activation,
    };
    // SAFETY: the slices are as long as the shape says.
    unsafe { products(pool, &e, rows, columns, sink, scratch) };
}

/// The unfolded channels of one group.
#[derive(Clone, Copy)]
struct Unfolded<T> {
    at: Raw<T>,
    channels: usize,
    length: usize,
    taps: usize,
    outputs: usize,
    stride: usize,
    dilation: usize,
    padding: usize,
}

impl<T: Element> Columns for Unfolded<T> {
    type T = T;

    unsafe fn pack(self, first: usize, width: usize, panel: *mut T) {
        let columns = width.min(self.outputs - first);
        for tap in 0..self.taps {
            // The columns whose place in x, `(first + i) * stride + shift - padding`, exists.
            let shift = first * self.stride + tap * self.dilation;
            let missing = self.padding.saturating_sub(shift);
            let from = missing.div_ceil(self.stride).min(columns);
            let end = (self.length + self.padding).saturating_sub(shift);
            let to = end.div_ceil(self.stride).clamp(from, columns);
            let start = if from < to { from * self.stride + shift - self.padding } else { 0 };
            for channel in 0..self.channels {
                // SAFETY: the panel has `channels * taps` rows of `width`, and the places from
                // `start` on exist, as many as from..to has.
                unsafe {
                    let row = panel.add((channel * self.taps + tap) * width);
                    let row = std::slice::from_raw_parts_mut(row, width);
                    let x = self.at.add(channel * self.length + start).cast_const();
                    if to - from < width {
                        row.fill(T::ZERO);
                    }
                    let row = &mut row[from..to];
                    match self.stride {
                        1 => std::ptr::copy_nonoverlapping(x, row.as_mut_ptr(), row.len()),
                        2 => row.iter_mut().enumerate().for_each(|(i, y)| *y = *x.add(2 * i)),
                        n => row.iter_mut().enumerate().for_each(|(i, y)| *y = *x.add(n * i)),
                    }
                }
            }
        }
    }
}
