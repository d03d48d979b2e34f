//! Convolutions of channels that do not mix, over one axis or two.
//!
//! A task has a band of rows of one channel. It copies the rows of x that the band sees, with zeros
//! around them and, where columns are strided, with the columns sorted by their remainder: then what
//! a tap sees of a row of outputs is contiguous, and sums stay in registers over all taps.

use frit_ops::Activation;

use crate::gemm::{Bias, ConvShape, Finish, Raw, Rooms, Sweep, lines, share};
use crate::kernel::Combine;
use crate::simd::{Element, MAX_LANES, Simd, WithSimd, dispatch};
use crate::threads::Pool;

/// More taps go the way of all convolutions.
const TAPS: usize = 64;
/// Bytes of rows that a band sees, about.
const BAND: usize = 64 << 10;

/// Whether [`depthwise`] is for this convolution.
pub(crate) fn is_depthwise(shape: &ConvShape) -> bool {
    let taps: usize = shape.sweeps.iter().map(|s| s.taps).product();
    shape.groups == shape.channels && matches!(shape.sweeps.len(), 1 | 2) && taps <= TAPS
}

/// How bands are cut and copied.
#[derive(Clone, Copy)]
struct Cut {
    rows: Sweep,
    columns: Sweep,
    /// Columns of one remainder in a copied row.
    part: usize,
    /// Rows of outputs in a band.
    band: usize,
}

impl Cut {
    fn new(shape: &ConvShape) -> Cut {
        let one = Sweep { length: 1, taps: 1, stride: 1, dilation: 1, before: 0, outputs: 1 };
        let (rows, columns) = match shape.sweeps[..] {
            [rows, columns] => (rows, columns),
            [columns, ..] => (one, columns),
            [] => (one, one),
        };
        let shift = (columns.taps - 1) * columns.dilation / columns.stride;
        let part = columns.outputs.next_multiple_of(MAX_LANES) + shift + 1;
        let mut cut = Cut { rows, columns, part, band: 1 };
        let most = BAND / (cut.pitch() * size_of::<f32>());
        cut.band = (most.saturating_sub(cut.span()) / rows.stride).clamp(1, rows.outputs.max(1));
        cut
    }

    /// Elements of a copied row.
    fn pitch(&self) -> usize {
        self.part * self.columns.stride
    }

    /// Rows of x that a row of outputs goes over.
    fn span(&self) -> usize {
        (self.rows.taps - 1) * self.rows.dilation + 1
    }

    /// Rows of x that `n` rows of outputs go over.
    fn seen(&self, n: usize) -> usize {
        (n - 1) * self.rows.stride + self.span()
    }

    /// Copied rows, and the sums of two rows of outputs.
    fn room(&self) -> usize {
        let elements = self.seen(self.band) * self.pitch() + 2 * self.wide();
        lines(elements * size_of::<f32>())
    }

    /// The columns of outputs in whole vectors.
    fn wide(&self) -> usize {
        self.columns.outputs.next_multiple_of(MAX_LANES)
    }
}

/// Bytes of scratch that [`depthwise`] needs.
pub(crate) fn depthwise_scratch_bytes(shape: &ConvShape, threads: usize) -> usize {
    Cut::new(shape).room() * threads
}

/// The convolution, all operands dense. `scratch` is aligned to 64 bytes.
///
/// # Panics
/// If a slice does not fit the shape.
pub(crate) fn depthwise<T: Element, W: Element>(
    pool: &Pool,
    shape: &ConvShape,
    x: &[T],
    weight: &[W],
    bias: Option<&[f32]>,
    out: &mut [T],
    scratch: &mut [u8],
) {
    shape.check(x, weight, bias, out);
    if out.is_empty() {
        return;
    }
    let cut = Cut::new(shape);
    let rooms = Rooms::new(scratch, pool.threads(), cut.room());
    let bands = cut.rows.outputs.div_ceil(cut.band);
    let taps = cut.rows.taps * cut.columns.taps;
    let (plane, places) = (shape.plane(), shape.places());
    let (x, weight) = (Raw(x.as_ptr().cast_mut()), Raw(weight.as_ptr().cast_mut()));
    let to = Raw(out.as_mut_ptr());
    let work = (taps + 2) * cut.band * cut.columns.outputs;
    share(pool, shape.batch * shape.out * bands, work, &|i| {
        let (channel, first) = (i / bands, i % bands * cut.band);
        let (row, o) = (channel / shape.out, channel % shape.out);
        let from = row * shape.channels + o / (shape.out / shape.channels);
        let mut weights = [0.0; TAPS];
        for (t, w) in weights[..taps].iter_mut().enumerate() {
            // SAFETY: every output channel has so many taps.
            *w = unsafe { *weight.add(o * taps + t) }.to_f32();
        }
        rooms.with(|room| {
            dispatch(Band {
                cut,
                x: x.add(from * plane).cast_const(),
                weights: &weights[..taps],
                bias: bias.map_or(0.0, |b| b[o]),
                activation: shape.activation,
                first,
                rows: cut.band.min(cut.rows.outputs - first),
                room: room.cast(),
                out: to.add(channel * places + first * cut.columns.outputs),
            });
        });
    });
}

/// Some rows of outputs of one channel.
struct Band<'a, T> {
    cut: Cut,
    /// The channel of x.
    x: *const T,
    weights: &'a [f32],
    bias: f32,
    activation: Activation,
    first: usize,
    rows: usize,
    room: *mut f32,
    /// The first of these rows.
    out: *mut T,
}

impl<T: Element> WithSimd for Band<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Cut { rows, columns, part, .. } = self.cut;
        // Where each tap begins in the copied rows.
        let mut places = [0; TAPS];
        for (t, place) in places[..self.weights.len()].iter_mut().enumerate() {
            let shift = t % columns.taps * columns.dilation;
            let row = t / columns.taps * rows.dilation * self.cut.pitch();
            *place = row + shift % columns.stride * part + shift / columns.stride;
        }
        let places = &places[..self.weights.len()];
        let width = S::LANES;
        // SAFETY: the room is for the rows that the band sees, whole vectors past the last column
        // among them; the rows of outputs exist.
        unsafe {
            for r in 0..self.cut.seen(self.rows) {
                self.copy(s, r);
            }
            let sums = self.room.add(self.cut.seen(self.rows) * self.cut.pitch());
            let mut row = 0;
            while row < self.rows {
                let two = row + 1 < self.rows;
                let mut at = 0;
                while at < columns.outputs {
                    let left = (columns.outputs - at).div_ceil(width);
                    let vectors = match (two, left) {
                        (true, 4..) => self.sums::<S, 2, 4>(s, places, row, at, sums),
                        (true, 2..) => self.sums::<S, 2, 2>(s, places, row, at, sums),
                        (true, _) => self.sums::<S, 2, 1>(s, places, row, at, sums),
                        (false, 4..) => self.sums::<S, 1, 4>(s, places, row, at, sums),
                        (false, 2..) => self.sums::<S, 1, 2>(s, places, row, at, sums),
                        (false, _) => self.sums::<S, 1, 1>(s, places, row, at, sums),
                    };
                    at += vectors * width;
                }
                let rows = 1 + usize::from(two);
                let finish = Finish {
                    sums,
                    pitch: self.cut.wide(),
                    rows,
                    columns: columns.outputs,
                    bias: Bias::None,
                    activation: self.activation,
                    combine: Combine::Replace,
                    c: self.out.wrapping_add(row * columns.outputs),
                    c_row: columns.outputs as isize,
                    c_column: 1,
                };
                finish.run(s);
                row += rows;
            }
        }
    }
}

impl<T: Element> Band<'_, T> {
    /// Copies row `r` of what the band sees.
    ///
    /// # Safety
    /// The room has that row.
    #[inline(always)]
    unsafe fn copy<S: Simd>(&self, s: S, r: usize) {
        let Cut { rows, columns, part, .. } = self.cut;
        let pitch = self.cut.pitch();
        let to = self.room.wrapping_add(r * pitch);
        let y = (self.first * rows.stride + r).wrapping_sub(rows.before);
        if y >= rows.length {
            // SAFETY: the row is in the room.
            unsafe { std::slice::from_raw_parts_mut(to, pitch).fill(0.0) };
            return;
        }
        let x = self.x.wrapping_add(y * columns.length);
        let Sweep { length, stride, before, .. } = columns;
        for remainder in 0..stride {
            // Element i is that of column `i * stride + remainder - before`.
            let low = before.saturating_sub(remainder).div_ceil(stride).min(part);
            let high = (length + before).saturating_sub(remainder).div_ceil(stride);
            let high = high.clamp(low, part);
            let to = to.wrapping_add(remainder * part);
            let from = x.wrapping_add((low * stride + remainder).wrapping_sub(before));
            // SAFETY: low..high are inside of the part, and their columns inside of the row.
            unsafe {
                std::slice::from_raw_parts_mut(to, low).fill(0.0);
                std::slice::from_raw_parts_mut(to.add(high), part - high).fill(0.0);
                if stride == 1 {
                    let mut i = low;
                    while i < high {
                        let n = S::LANES.min(high - i);
                        let v = super::load(s, from.add(i - low), n);
                        match n == S::LANES {
                            true => s.store(to.add(i), v),
                            false => s.store_partial(to.add(i), n, v),
                        }
                        i += n;
                    }
                } else {
                    for i in low..high {
                        *to.add(i) = (*from.add((i - low) * stride)).to_f32();
                    }
                }
            }
        }
    }

    /// `V` vectors of `R` rows of sums, from row `row` and column `at` on. Gives `V`.
    ///
    /// # Safety
    /// These rows exist, and at least one column of the last vector; `to` has room for two rows.
    #[expect(clippy::needless_range_loop, reason = "iterators leave the sums in memory")]
    #[inline(always)]
    unsafe fn sums<S: Simd, const R: usize, const V: usize>(
        &self,
        s: S,
        places: &[usize],
        row: usize,
        at: usize,
        to: *mut f32,
    ) -> usize {
        let step = self.cut.rows.stride * self.cut.pitch();
        let from = self.room.wrapping_add(row * step + at).cast_const();
        let mut sums = [[s.splat(self.bias); V]; R];
        for (&w, &place) in self.weights.iter().zip(places) {
            let w = s.splat(w);
            for r in 0..R {
                for v in 0..V {
                    // SAFETY: the room has whole vectors of every row and tap.
                    let x = unsafe { s.load(from.add(place + r * step + v * S::LANES)) };
                    sums[r][v] = s.fma(x, w, sums[r][v]);
                }
            }
        }
        for r in 0..R {
            for v in 0..V {
                // SAFETY: the room of the sums has whole vectors of two rows.
                unsafe { s.store(to.add(r * self.cut.wide() + at + v * S::LANES), sums[r][v]) };
            }
        }
        V
    }
}
