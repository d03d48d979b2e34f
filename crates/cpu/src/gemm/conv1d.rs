//! The convolution along one axis as a product: the weight times the unfolded input.
//!
//! Row `c * taps + j` of the unfolded input is channel c as tap j sees it. It exists only as
//! panels, a few megabytes at a time.

use std::ops::Range;

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

/// Channels that are unfolded at a time.
const CHANNELS: usize = 16;

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
        // Some channels at a time, so that the rows of all taps meet in the cache.
        for channel in (0..self.channels).step_by(CHANNELS) {
            let x = self.at.add(channel * self.length);
            let panel = panel.wrapping_add(channel * self.taps * width);
            let some = Unfolded { channels: CHANNELS.min(self.channels - channel), ..self };
            for tap in 0..self.taps {
                // The columns whose place in x, `(first + i) * stride + shift - padding`, exists.
                let shift = first * self.stride + tap * self.dilation;
                let missing = self.padding.saturating_sub(shift);
                let from = missing.div_ceil(self.stride).min(columns);
                let end = (self.length + self.padding).saturating_sub(shift);
                let to = end.div_ceil(self.stride).clamp(from, columns);
                let start = if from < to { from * self.stride + shift - self.padding } else { 0 };
                let x = x.wrapping_add(start).cast_const();
                let row = panel.wrapping_add(tap * width);
                // SAFETY: the panel has `channels * taps` rows of `width`, and the places from
                // `start` on exist, as many as from..to has.
                unsafe {
                    match ((from, to) == (0, width), width, self.stride) {
                        (true, 16, 1) => some.whole::<16, 1>(x, row),
                        (true, 16, 2) => some.whole::<16, 2>(x, row),
                        (true, 32, 1) => some.whole::<32, 1>(x, row),
                        (true, 32, 2) => some.whole::<32, 2>(x, row),
                        _ => some.part(x, row, width, from..to),
                    }
                }
            }
        }
    }
}

impl<T: Element> Unfolded<T> {
    /// The rows of a tap, one a channel; constants make it a copy of vectors.
    ///
    /// # Safety
    /// As for [`Unfolded::part`], with all of `N` columns.
    unsafe fn whole<const N: usize, const STRIDE: usize>(self, x: *const T, row: *mut T) {
        for channel in 0..self.channels {
            let x = x.wrapping_add(channel * self.length);
            let row = row.wrapping_add(channel * self.taps * N);
            for i in 0..N {
                // SAFETY: the caller's contract.
                unsafe { *row.add(i) = *x.add(i * STRIDE) };
            }
        }
    }

    /// The rows of a tap, one a channel, `width` wide, zero but for `inside`.
    ///
    /// # Safety
    /// The panel has such a row for every channel, the first at `row`; x has what belongs into
    /// `inside`, the first place of the first channel at `x`.
    unsafe fn part(self, x: *const T, row: *mut T, width: usize, inside: Range<usize>) {
        for channel in 0..self.channels {
            let x = x.wrapping_add(channel * self.length);
            let row = row.wrapping_add(channel * self.taps * width);
            for i in 0..width {
                // SAFETY: the caller's contract.
                unsafe {
                    let here = inside.contains(&i);
                    let value =
                        if here { *x.add((i - inside.start) * self.stride) } else { T::ZERO };
                    *row.add(i) = value;
                }
            }
        }
    }
}
