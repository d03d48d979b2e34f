//! The convolution as a product: the weight times the unfolded input.
//!
//! Row `c * taps + j` of the unfolded input is channel c as tap j sees it. It exists only as the
//! panels of the columns that a task is at.

use frit_ops::{Activation, Conv};

use super::finish::Bias;
use super::pack::{Columns, Rows, Strided};
use super::product::{Local, Sink, local_products};
use super::tile::MC;
use super::{Raw, lines, on, share, take};
use crate::Pool;
use crate::kernel::Combine;
use crate::simd::{Element, Isa, MAX_LANES, Simd, WithSimd, isa};

/// A window that slides along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sweep {
    pub(crate) length: usize,
    pub(crate) taps: usize,
    pub(crate) stride: usize,
    pub(crate) dilation: usize,
    /// Zeros in front.
    pub(crate) before: usize,
    pub(crate) outputs: usize,
}

impl Sweep {
    /// Whether no window reaches past an end.
    fn stays_inside(&self) -> bool {
        let last = self.outputs.saturating_sub(1) * self.stride;
        self.before == 0 && last + (self.taps - 1) * self.dilation < self.length
    }
}

/// The extents of a convolution: x `[batch, channels, ..]`, weight `[out, channels / groups, ..]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConvShape {
    pub(crate) batch: usize,
    pub(crate) channels: usize,
    pub(crate) groups: usize,
    pub(crate) out: usize,
    pub(crate) sweeps: Vec<Sweep>,
    pub(crate) activation: Activation,
}

impl ConvShape {
    /// Of operands of these shapes; without outputs where they do not fit.
    pub(crate) fn new(options: &Conv, x: &[usize], weight: &[usize]) -> ConvShape {
        let outputs = options.extents(x, weight).unwrap_or_default();
        let sweep = |(i, &outputs): (usize, &usize)| Sweep {
            length: x[i + 2],
            taps: weight[i + 2],
            stride: options.strides[i],
            dilation: options.dilations[i],
            before: options.pads[i].0,
            outputs,
        };
        ConvShape {
            batch: x[0],
            channels: x[1],
            groups: options.groups,
            out: weight[0],
            sweeps: outputs.iter().enumerate().map(sweep).collect(),
            activation: options.activation,
        }
    }

    /// Elements of a channel of x.
    pub(crate) fn plane(&self) -> usize {
        self.sweeps.iter().map(|s| s.length).product()
    }

    /// Elements of a channel of the output.
    pub(crate) fn places(&self) -> usize {
        self.sweeps.iter().map(|s| s.outputs).product()
    }

    fn taps(&self) -> usize {
        self.sweeps.iter().map(|s| s.taps).product()
    }

    /// Whether every output sees one element of each channel, at its own place.
    fn is_pointwise(&self) -> bool {
        let alone = |s: &Sweep| s.taps == 1 && s.stride == 1 && s.outputs == s.length;
        self.sweeps.iter().all(alone)
    }

    fn local<T: Element>(&self, isa: Isa) -> Local {
        Local {
            isa,
            outer: self.batch * self.groups,
            m: self.out / self.groups,
            n: self.places(),
            k: self.channels / self.groups * self.taps(),
            size: size_of::<T>(),
        }
    }

    /// # Panics
    /// If the slices do not fit the shape.
    pub(crate) fn check<T, W>(&self, x: &[T], weight: &[W], bias: Option<&[f32]>, out: &[T]) {
        let &ConvShape { batch, channels, groups, out: filters, .. } = self;
        let divides = channels.is_multiple_of(groups) && filters.is_multiple_of(groups);
        assert!(divides, "{groups} groups do not divide {self:?}");
        let k = channels / groups * self.taps();
        assert_eq!(x.len(), batch * channels * self.plane(), "x is not {self:?}");
        assert_eq!(weight.len(), filters * k, "the weight is not {self:?}");
        let wanted = batch * filters * self.places();
        assert_eq!(out.len(), wanted, "the output is not that of {self:?}");
        assert!(bias.is_none_or(|b| b.len() == filters), "the bias is not {self:?}");
    }
}

/// Bytes of scratch that [`conv`] needs.
pub(crate) fn conv_scratch_bytes<T: Element, W: Element>(
    shape: &ConvShape,
    threads: usize,
) -> usize {
    conv_scratch_bytes_on::<T, W>(isa(), shape, threads)
}

pub(super) fn conv_scratch_bytes_on<T: Element, W: Element>(
    isa: Isa,
    shape: &ConvShape,
    threads: usize,
) -> usize {
    let local = shape.local::<T>(isa);
    let widened = if W::IS_F32 { 0 } else { shape.out * local.k };
    lines(widened * size_of::<f32>()) + local.scratch_bytes(threads)
}

/// The convolution, all operands dense. `scratch` is aligned to 64 bytes.
///
/// # Panics
/// If a slice does not fit the shape, or the channels do not divide into the groups.
pub(crate) fn conv<T: Element, W: Element>(
    pool: &Pool,
    shape: &ConvShape,
    x: &[T],
    weight: &[W],
    bias: Option<&[f32]>,
    out: &mut [T],
    scratch: &mut [u8],
) {
    conv_on(isa(), pool, shape, x, weight, bias, out, scratch);
}

#[expect(clippy::too_many_arguments, reason = "the operands of the layer")]
pub(super) fn conv_on<T: Element, W: Element>(
    isa: Isa,
    pool: &Pool,
    shape: &ConvShape,
    x: &[T],
    weight: &[W],
    bias: Option<&[f32]>,
    out: &mut [T],
    mut scratch: &mut [u8],
) {
    shape.check(x, weight, bias, out);
    if out.is_empty() {
        return;
    }
    let e = shape.local::<T>(isa);
    let (m, n, k, groups) = (e.m, e.n, e.k, shape.groups);
    let (x, weight) = (Raw(x.as_ptr().cast_mut()), Raw(weight.as_ptr().cast_mut()));
    let c = Raw(out.as_mut_ptr());
    let weight: Raw<f32> = match W::IS_F32 {
        true => Raw(weight.0.cast()),
        false => {
            let to = take::<f32>(&mut scratch, shape.out * k);
            share(pool, shape.out.div_ceil(MC), 8 * MC * k, &|i| {
                let rows = Rows { at: Raw(weight.add(i * MC * k)), row: k as isize, step: 1 };
                // SAFETY: these rows exist, and their room is this task's alone.
                unsafe { rows.widen(isa, MC.min(shape.out - i * MC), k, to.add(i * MC * k)) };
            });
            to
        }
    };
    // A place is a group of a batch row.
    let rows = |place: usize| Rows {
        at: Raw(weight.add(place % groups * m * k)),
        row: k as isize,
        step: 1,
    };
    let sink = |place: usize| Sink {
        c: Raw(c.add(place * m * n)),
        row: n as isize,
        column: 1,
        bias: bias.map_or(Bias::None, |b| Bias::Rows(&b[place % groups * m..][..m])),
        activation: shape.activation,
        combine: Combine::Replace,
    };
    let (channels, plane) = (shape.channels / groups, shape.plane());
    let at = |place: usize| Raw(x.add(place * channels * plane));
    // SAFETY: the slices are as long as the shape says.
    unsafe {
        if shape.is_pointwise() {
            let columns = |p| Strided { at: at(p), k, columns: n, step: plane as isize, column: 1 };
            local_products(pool, &e, rows, columns, sink, scratch);
        } else {
            let columns = |p| Unfolded { at: at(p), channels, plane, shape };
            local_products(pool, &e, rows, columns, sink, scratch);
        }
    }
}

/// Channels that are unfolded at a time, so that the rows of all taps meet in the cache.
const CHANNELS: usize = 16;
/// Taps that are unfolded at a time.
const TAPS: usize = 32;
/// The widest panel.
const WIDEST: usize = 2 * MAX_LANES;
/// The place of a column that a tap does not meet.
const OUTSIDE: usize = usize::MAX;

/// The unfolded channels of one group.
#[derive(Clone, Copy)]
struct Unfolded<'a, T> {
    at: Raw<T>,
    channels: usize,
    plane: usize,
    shape: &'a ConvShape,
}

impl<T: Element> Columns for Unfolded<'_, T> {
    type T = T;

    unsafe fn pack(self, first: usize, width: usize, panel: *mut T) {
        // Compiled for the widest vectors, though it only moves elements.
        on(isa(), Pack { from: self, first, width, panel });
    }
}

/// The packing of one panel.
struct Pack<'a, T> {
    from: Unfolded<'a, T>,
    first: usize,
    width: usize,
    panel: *mut T,
}

impl<T: Element> WithSimd for Pack<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        match self.width {
            8 => self.of::<8>(),
            16 => self.of::<16>(),
            _ => self.of::<WIDEST>(),
        }
    }
}

impl<T: Element> Pack<'_, T> {
    #[inline(always)]
    fn of<const N: usize>(self) {
        let Unfolded { at, channels, plane, shape } = self.from;
        let (sweeps, taps) = (&shape.sweeps[..], shape.taps());
        let columns = N.min(shape.places() - self.first);
        // Where no tap leaves the plane, all see what the first one sees, further on.
        let first = Met::<N>::new(sweeps, 0, self.first, columns, plane);
        let alike = columns == N && sweeps.iter().all(Sweep::stays_inside);
        for tap in (0..taps).step_by(TAPS) {
            let some = TAPS.min(taps - tap);
            let mut met = [Met::<N>::NOTHING; TAPS];
            for (i, met) in met[..some].iter_mut().enumerate() {
                *met = match alike {
                    true => first.further(offset(sweeps, tap + i), plane),
                    false => Met::new(sweeps, tap + i, self.first, columns, plane),
                };
            }
            for channel in (0..channels).step_by(CHANNELS) {
                for (i, met) in met[..some].iter().enumerate() {
                    for c in channel..channels.min(channel + CHANNELS) {
                        let row = self.panel.wrapping_add((c * taps + tap + i) * N);
                        // SAFETY: the panel has `channels * taps` rows of N, and the group so
                        // many channels of one plane each.
                        unsafe { met.row(at.add(c * plane).cast_const(), row) };
                    }
                }
            }
        }
    }
}

/// What a tap meets of a channel in the columns of a panel.
#[derive(Clone, Copy)]
struct Met<const N: usize> {
    kind: Kind,
    /// The place of each column, or [`OUTSIDE`].
    from: [usize; N],
}

#[derive(Clone, Copy)]
enum Kind {
    /// Columns that follow each other.
    Run,
    /// Every other element.
    Pairs,
    /// Elements of the plane, anywhere.
    Inside,
    /// One run up to a column and another from there on, each given by where it had begun if it
    /// began with the panel. Columns may be outside.
    Two {
        second: usize,
        starts: [usize; 2],
    },
    Any,
}

impl<const N: usize> Met<N> {
    const NOTHING: Met<N> = Met { kind: Kind::Any, from: [OUTSIDE; N] };

    #[inline(always)]
    fn new(sweeps: &[Sweep], tap: usize, first: usize, columns: usize, plane: usize) -> Met<N> {
        let mut from = [OUTSIDE; N];
        places(sweeps, tap, first, &mut from[..columns]);
        let follow = |step: usize| from.windows(2).all(|w| w[1] == w[0].wrapping_add(step));
        let inside = from.iter().all(|&f| f != OUTSIDE);
        let two = || Kind::two(&from, plane);
        let kind = match inside {
            true if follow(1) => Kind::Run,
            true if follow(2) => Kind::Pairs,
            true => two().unwrap_or(Kind::Inside),
            false => two().unwrap_or(Kind::Any),
        };
        Met { kind, from }
    }

    /// The same so many elements further on, all in the plane.
    #[inline(always)]
    fn further(mut self, offset: usize, plane: usize) -> Met<N> {
        self.from.iter_mut().for_each(|f| *f += offset);
        if let Kind::Two { second, starts } = self.kind {
            let starts = starts.map(|s| s + offset);
            self.kind = match starts.iter().all(|s| s + N <= plane) {
                true => Kind::Two { second, starts },
                false => Kind::Inside,
            };
        }
        self
    }

    /// Writes the row of a channel.
    ///
    /// # Safety
    /// The channel is a whole plane, and the row has room for N elements.
    #[inline(always)]
    unsafe fn row<T: Element>(&self, x: *const T, row: *mut T) {
        let from = &self.from;
        // SAFETY: places are inside of the plane, and so are N elements from both starts.
        unsafe {
            match self.kind {
                Kind::Run => (0..N).for_each(|i| *row.add(i) = *x.add(from[0] + i)),
                Kind::Pairs => (0..N).for_each(|i| *row.add(i) = *x.add(from[0] + 2 * i)),
                Kind::Inside => (0..N).for_each(|i| *row.add(i) = *x.add(from[i])),
                Kind::Two { second, starts: [a, b] } => {
                    for (i, &f) in from.iter().enumerate() {
                        let (a, b) = (*x.add(a + i), *x.add(b + i));
                        let v = if i < second { a } else { b };
                        *row.add(i) = if f == OUTSIDE { T::ZERO } else { v };
                    }
                }
                Kind::Any => {
                    for (i, &f) in from.iter().enumerate() {
                        *row.add(i) = if f == OUTSIDE { T::ZERO } else { *x.add(f) };
                    }
                }
            }
        }
    }
}

impl Kind {
    /// The kind of two runs, if it is that, and all that would be read for it is in the plane.
    fn two(from: &[usize], plane: usize) -> Option<Kind> {
        let start = |i: usize| (from[i] != OUTSIDE).then(|| from[i].wrapping_sub(i));
        let mut starts = (0..from.len()).filter_map(|i| Some((i, start(i)?)));
        let all = starts.clone();
        let a = starts.next()?.1;
        let (second, b) = starts.find(|s| s.1 != a).unwrap_or((from.len(), a));
        let fits = { all }.all(|(i, s)| s == if i < second { a } else { b });
        let room = [a, b].iter().all(|s| s.checked_add(from.len()).is_some_and(|end| end <= plane));
        (fits && room).then_some(Kind::Two { second, starts: [a, b] })
    }
}

/// How much further on than the first a tap meets a channel.
fn offset(sweeps: &[Sweep], mut tap: usize) -> usize {
    let (mut offset, mut step) = (0, 1);
    for s in sweeps.iter().rev() {
        offset += tap % s.taps * s.dilation * step;
        tap /= s.taps;
        step *= s.length;
    }
    offset
}

/// The places of a channel that a tap meets in the columns from `first` on.
fn places(sweeps: &[Sweep], tap: usize, first: usize, from: &mut [usize]) {
    from.fill(0);
    let (mut tap, mut run, mut step) = (tap, 1, 1);
    for s in sweeps.iter().rev() {
        let shift = tap % s.taps * s.dilation;
        tap /= s.taps;
        // The coordinate of the first column, and how many columns share it.
        let (mut p, mut left) = (first / run % s.outputs, run - first % run);
        for f in from.iter_mut() {
            let at = (p * s.stride + shift).wrapping_sub(s.before);
            *f = if at < s.length && *f != OUTSIDE { *f + at * step } else { OUTSIDE };
            left -= 1;
            if left == 0 {
                left = run;
                p = if p + 1 == s.outputs { 0 } else { p + 1 };
            }
        }
        run *= s.outputs;
        step *= s.length;
    }
}
