use frit_graph::DType;
use frit_ops::{Activation, Conv};
use half::{bf16, f16};

use super::super::conv::{conv_on, conv_scratch_bytes_on};
use super::super::{ConvShape, conv, conv_scratch_bytes};
use super::{ACTIVATIONS, Random, Scratch, activated, bits, compare, for_float, near, slice, wide};
use crate::Pool;
use crate::kernels::depthwise::{depthwise, depthwise_scratch_bytes, is_depthwise};
use crate::simd::{Element, available, with_isa};

/// Extents of x after the channels, and one axis of the window for each.
type Axes<'a> = &'a [(usize, usize)];

struct Case<'a> {
    batch: usize,
    channels: usize,
    out: usize,
    axes: Axes<'a>,
    options: Conv,
}

/// One batch row, with everything at its default.
fn plain(channels: usize, out: usize, axes: Axes<'_>) -> Case<'_> {
    Case { batch: 1, channels, out, axes, options: Conv::over(axes.len()) }
}

impl Case<'_> {
    fn batch(mut self, batch: usize) -> Self {
        self.batch = batch;
        self
    }
    fn groups(mut self, groups: usize) -> Self {
        self.options.groups = groups;
        self
    }
    fn strides(mut self, strides: &[usize]) -> Self {
        self.options.strides = strides.to_vec();
        self
    }
    fn dilations(mut self, dilations: &[usize]) -> Self {
        self.options.dilations = dilations.to_vec();
        self
    }
    fn pads(mut self, pads: &[(usize, usize)]) -> Self {
        self.options.pads = pads.to_vec();
        self
    }
    fn then(mut self, activation: Activation) -> Self {
        self.options.activation = activation;
        self
    }

    /// The definition: sums over the channels of the group and the taps that meet x. Each result
    /// comes with the sum of the magnitudes of its terms.
    fn truth<T: Element, W: Element>(
        &self,
        x: &[T],
        weight: &[W],
        shape: &ConvShape,
    ) -> Vec<(f64, f64)> {
        let (inner, filters) =
            (self.channels / self.options.groups, self.out / self.options.groups);
        let (places, plane) = (shape.places(), shape.plane());
        let taps: usize = shape.sweeps.iter().map(|s| s.taps).product();
        let mut want = Vec::new();
        for i in 0..self.batch * self.out * places {
            let (row, f, place) = (i / (self.out * places), i / places % self.out, i % places);
            let (mut sum, mut size) = (0.0, 0.0);
            for (c, tap) in (0..inner * taps).map(|i| (i / taps, i % taps)) {
                let (mut place, mut tap_left, mut at, mut step) = (place, tap, Some(0), 1);
                for s in shape.sweeps.iter().rev() {
                    let p = place % s.outputs * s.stride + tap_left % s.taps * s.dilation;
                    let p = p.checked_sub(s.before).filter(|&p| p < s.length);
                    at = at.zip(p).map(|(at, p)| at + p * step);
                    (place, tap_left, step) =
                        (place / s.outputs, tap_left / s.taps, step * s.length);
                }
                let Some(at) = at else { continue };
                let channel = row * self.channels + f / filters * inner + c;
                let term =
                    wide(weight[(f * inner + c) * taps + tap]) * wide(x[channel * plane + at]);
                sum += term;
                size += term.abs();
            }
            want.push((sum, size));
        }
        want
    }

    fn holds<T: Element, W: Element>(&self) {
        let options = &self.options;
        let lengths: Vec<usize> = self.axes.iter().map(|a| a.0).collect();
        let taps: Vec<usize> = self.axes.iter().map(|a| a.1).collect();
        let inner = self.channels / options.groups;
        let x_shape = [&[self.batch, self.channels], &lengths[..]].concat();
        let w_shape = [&[self.out, inner], &taps[..]].concat();
        let shape = ConvShape::new(options, &x_shape, &w_shape);
        let mut random = Random((self.channels * 100 + lengths[0]) as u64);
        let x = random.vec::<T>(x_shape.iter().product());
        let weight = random.vec::<W>(w_shape.iter().product());
        let bias = random.vec::<f32>(self.out);
        let sums = self.truth(&x, &weight, &shape);
        assert!(!sums.is_empty(), "the taps fit: {options:?}");
        for bias in [None, Some(&bias[..])] {
            let of = |i: usize| bias.map_or(0.0, |b| f64::from(b[i / shape.places() % self.out]));
            let want: Vec<(f64, f64)> = sums
                .iter()
                .enumerate()
                .map(|(i, &(sum, size))| {
                    (activated(options.activation, sum + of(i)), 1.2 * (size + of(i).abs()))
                })
                .collect();
            for &isa in available() {
                let run = |threads| {
                    let mut out = vec![T::from_f32(77.0); want.len()];
                    let bytes = conv_scratch_bytes_on::<T, W>(isa, &shape, threads);
                    let (pool, mut scratch) = (Pool::new(threads), Scratch::new(bytes));
                    conv_on(isa, &pool, &shape, &x, &weight, bias, &mut out, scratch.bytes());
                    out
                };
                let out = run(1);
                assert_eq!(bits(&out), bits(&run(3)), "{isa} {shape:?}: threads show");
                judge(&format!("{isa} {shape:?}"), &out, &want);
                if is_depthwise(&shape) {
                    let out = alone(&shape, &x, &weight, bias, 1, || Some(isa));
                    judge(&format!("{isa} depthwise {shape:?}"), &out, &want);
                }
            }
            if is_depthwise(&shape) {
                let [one, three] = [1, 3].map(|n| alone(&shape, &x, &weight, bias, n, || None));
                assert_eq!(bits(&one), bits(&three), "depthwise {shape:?}: threads show");
            }
        }
    }
}

/// The loop for channels that do not mix.
fn alone<T: Element, W: Element>(
    shape: &ConvShape,
    x: &[T],
    weight: &[W],
    bias: Option<&[f32]>,
    threads: usize,
    on: impl Fn() -> Option<crate::Isa>,
) -> Vec<T> {
    let mut out = vec![T::from_f32(77.0); shape.batch * shape.out * shape.places()];
    let mut scratch = Scratch::new(depthwise_scratch_bytes(shape, threads));
    let pool = Pool::new(threads);
    let mut go = || depthwise(&pool, shape, x, weight, bias, &mut out, scratch.bytes());
    match on() {
        Some(isa) => with_isa(isa, go),
        None => go(),
    }
    out
}

fn judge<T: Element>(what: &str, out: &[T], want: &[(f64, f64)]) {
    for (i, (&got, &(want, size))) in out.iter().zip(want).enumerate() {
        assert!(near(got, want, size), "{what} [{i}]: {} for {want}", wide(got));
    }
}

fn one_axis<T: Element, W: Element>() {
    plain(3, 5, &[(50, 1)]).holds::<T, W>();
    plain(8, 60, &[(301, 3)]).batch(2).pads(&[(1, 1)]).holds::<T, W>();
    plain(8, 7, &[(301, 3)]).strides(&[2]).pads(&[(1, 1)]).holds::<T, W>();
    plain(4, 6, &[(90, 5)]).strides(&[3]).pads(&[(4, 4)]).dilations(&[2]).batch(2).holds::<T, W>();
    plain(6, 9, &[(40, 3)]).groups(3).pads(&[(2, 2)]).batch(2).holds::<T, W>();
    // A filter for each channel.
    plain(10, 10, &[(70, 4)]).groups(10).pads(&[(3, 3)]).holds::<T, W>();
    // More padding than taps, a stride longer than the taps, and one output.
    plain(2, 2, &[(3, 2)]).pads(&[(7, 7)]).holds::<T, W>();
    plain(2, 2, &[(60, 2)]).strides(&[5]).pads(&[(1, 1)]).holds::<T, W>();
    plain(12, 20, &[(16, 16)]).strides(&[16]).holds::<T, W>();
    plain(2, 3, &[(1, 3)]).strides(&[4]).pads(&[(5, 5)]).dilations(&[3]).holds::<T, W>();
}

fn several_axes<T: Element, W: Element>() {
    plain(5, 13, &[(7, 3), (19, 3)]).pads(&[(1, 1), (1, 1)]).batch(2).holds::<T, W>();
    plain(3, 8, &[(13, 3), (40, 5)]).strides(&[2, 2]).pads(&[(0, 3), (2, 1)]).holds::<T, W>();
    plain(20, 50, &[(5, 1), (9, 1)]).batch(2).holds::<T, W>();
    plain(6, 4, &[(6, 1), (40, 1)]).strides(&[1, 2]).holds::<T, W>();
    plain(4, 6, &[(9, 3), (17, 2)]).dilations(&[2, 3]).groups(2).holds::<T, W>();
    plain(3, 10, &[(8, 4), (36, 4)]).strides(&[4, 4]).holds::<T, W>();
    plain(2, 3, &[(4, 2), (5, 3), (6, 2)]).pads(&[(1, 0), (1, 1), (0, 2)]).holds::<T, W>();
}

fn alone_on_their_channels<T: Element, W: Element>() {
    plain(3, 3, &[(9, 3), (75, 3)]).groups(3).pads(&[(1, 1), (1, 1)]).batch(2).holds::<T, W>();
    plain(2, 4, &[(6, 5), (13, 5)]).groups(2).pads(&[(2, 2), (2, 2)]).holds::<T, W>();
    plain(2, 2, &[(11, 5), (70, 3)])
        .groups(2)
        .strides(&[2, 3])
        .pads(&[(2, 1), (4, 0)])
        .holds::<T, W>();
    plain(2, 2, &[(9, 2), (40, 3)]).groups(2).strides(&[1, 2]).dilations(&[3, 5]).holds::<T, W>();
    plain(2, 2, &[(1, 3), (1, 3)]).groups(2).pads(&[(2, 2), (2, 2)]).holds::<T, W>();
    // So wide that a band has few rows, and so high that there are many bands.
    plain(1, 1, &[(7, 3), (5000, 3)]).groups(1).pads(&[(1, 1), (1, 1)]).holds::<T, W>();
    plain(1, 2, &[(900, 4), (40, 1)]).groups(1).pads(&[(3, 0), (0, 0)]).holds::<T, W>();
}

#[test]
fn convolutions_over_one_axis_are_their_definition() {
    one_axis::<f32, f32>();
}

#[test]
fn convolutions_over_several_axes_are_their_definition() {
    several_axes::<f32, f32>();
}

#[test]
fn convolutions_of_channels_that_do_not_mix_are_their_definition() {
    alone_on_their_channels::<f32, f32>();
}

#[test]
fn convolutions_of_narrow_types_are_their_definition() {
    one_axis::<f16, f16>();
    one_axis::<bf16, bf16>();
    several_axes::<f32, f16>();
    several_axes::<f16, f32>();
    alone_on_their_channels::<f16, f16>();
    alone_on_their_channels::<bf16, f32>();
}

#[test]
fn activations_follow_the_bias() {
    for activation in ACTIVATIONS {
        plain(5, 7, &[(40, 3)]).pads(&[(1, 1)]).then(activation).holds::<f32, f32>();
        plain(4, 4, &[(6, 3), (40, 3)]).groups(4).then(activation).holds::<f32, f32>();
    }
}

#[test]
fn an_input_of_many_channels_holds() {
    // 300 * 5 rows are more than a task packs whole panels of.
    let case = plain(300, 3, &[(900, 5)]).pads(&[(2, 2)]);
    case.then(Activation::Silu).holds::<f32, f32>();
    plain(400, 200, &[(6, 1), (7, 1)]).holds::<f32, f32>();
}

#[test]
fn cases_of_the_catalogue_hold() {
    let pool = Pool::new(2);
    let line = frit_ops::find("conv").expect("it is in the catalogue");
    let mut cases = 0;
    for case in (line.cases)().into_iter().filter(|c| !c.bench) {
        let options = case.block.downcast::<Conv>().expect("cases are of their own operation");
        for &dtype in case.dtypes {
            let values = case.values(dtype);
            let want = case.expected(&values).expect("the operands are those of the case");
            let [Some(x), Some(weight), bias] = &values[..] else {
                panic!("{} has other operands", case.name);
            };
            let shape = ConvShape::new(options, x.shape(), weight.shape());
            let bias = bias.as_ref().map(frit_graph::Value::to_f32);
            for_float!(dtype, T => for_float!(weight.dtype(), W => {
                let (x, weight) = (slice::<T>(x), slice::<W>(weight));
                let mut out = vec![<T as Element>::ZERO; want.data.len()];
                let mut scratch = Scratch::new(conv_scratch_bytes::<T, W>(&shape, 2));
                conv(&pool, &shape, x, weight, bias.as_deref(), &mut out, scratch.bytes());
                let name = format!("{} {dtype}", case.name);
                compare(&name, &out, &want.data, case.tolerance(dtype));
            }));
            cases += 1;
        }
    }
    assert!(cases > 20);
}
