//! Convolution over any number of axes.

mod recognise;

use crate::{Activation, Array, Case, Entry, Options, catalogue::normal, check};
use frit_graph::{Block, Rule, ShapeError, Spec, Tensor, operands, row_major};

/// `y[b, o, p] = activation(bias[o] + sum_{c, j} weight[o, c, j] x[b, c, p*stride + j*dilation - before])`,
/// the sum over the channels of o's group; places p and taps j have a coordinate for each axis, and
/// x is zero outside.
///
/// [`crate::Conv1d`] is the same over one axis, padded equally on both sides.
///
/// # Inputs
/// - `x`: `[B, Cin, ..]`, f32, f16 or bf16
/// - `weight`: `[Cout, Cin/groups, ..]`, any of these types
/// - `bias` (optional): `[Cout]`
///
/// # Output
/// `[B, Cout, ..]` in the type of `x`, each axis
/// `(L + before + after - dilation (taps-1) - 1) / stride + 1` long.
///
/// # Numerics
/// Products and sums in f32; rounded once, after the activation.
///
/// # Example
/// ```
/// use frit_graph::{DType, Graph, Spec};
/// use frit_ops::{Conv, fast};
/// let specs = [Spec::new(DType::F32, [1, 3, 8, 8]), Spec::new(DType::F32, [4, 2, 3, 3])];
/// let wrong = Graph::trace(&specs, |x| vec![fast::conv(&x[0], &x[1], None, Conv::over(2))]);
/// assert!(wrong.unwrap_err().to_string().starts_with(
///     "[conv] weight must be [Cout, 3, ..] for x [1, 3, 8, 8] in 1 groups, got [4, 2, 3, 3] --> "
/// ));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// Distances between outputs, along each axis.
    pub strides: Vec<usize>,
    /// Distances between taps, along each axis.
    pub dilations: Vec<usize>,
    /// Zeros put before and after, along each axis.
    pub pads: Vec<(usize, usize)>,
    /// Groups of channels that do not mix.
    pub groups: usize,
    /// What follows.
    pub activation: Activation,
}

operands!(/// Inputs of [`Conv`].
    pub ConvInputs { x, weight } optional { bias });

/// [`Conv`] of `x`.
#[track_caller]
pub fn conv(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, options: Conv) -> Tensor {
    let inputs = ConvInputs { x: x.clone(), weight: weight.clone(), bias: bias.cloned() };
    Tensor::block(options, inputs)
}

/// Outputs along an axis of `length`, if there are any.
fn outputs(
    length: usize,
    taps: usize,
    stride: usize,
    dilation: usize,
    pads: (usize, usize),
) -> Option<usize> {
    let span = dilation.checked_mul(taps.checked_sub(1)?)?.checked_add(1)?;
    let room = length.checked_add(pads.0)?.checked_add(pads.1)?.checked_sub(span)?;
    Some(room.checked_div(stride)? + 1)
}

/// The place `i` of a shape.
fn place(i: usize, shape: &[usize]) -> Vec<usize> {
    row_major(shape).iter().zip(shape).map(|(s, n)| i / s % n).collect()
}

impl Conv {
    /// Over this many axes, with everything at its default: strides and dilations of one, no zeros
    /// around, one group, no activation.
    pub fn over(axes: usize) -> Conv {
        Conv {
            strides: vec![1; axes],
            dilations: vec![1; axes],
            pads: vec![(0, 0); axes],
            groups: 1,
            activation: Activation::Identity,
        }
    }

    /// The extents of the output after the channels, for x and a weight of these shapes; `None`
    /// where the shapes do not fit.
    pub fn extents(&self, x: &[usize], weight: &[usize]) -> Option<Vec<usize>> {
        let n = self.strides.len();
        let fits = self.dilations.len() == n
            && self.pads.len() == n
            && x.len() == n + 2
            && weight.len() == n + 2;
        let along = |i: usize| {
            outputs(x[i + 2], weight[i + 2], self.strides[i], self.dilations[i], self.pads[i])
        };
        fits.then(|| (0..n).map(along).collect())?
    }
}

impl Block for Conv {
    type Inputs<T> = ConvInputs<T>;
    const NAME: &'static str = "conv";

    fn infer(&self, i: ConvInputs<&Spec>) -> Result<Spec, ShapeError> {
        check::float("x", i.x)?;
        check::float("weight", i.weight)?;
        let (x, w, n) = (&i.x.shape, &i.weight.shape, self.strides.len());
        if n == 0 || x.len() != n + 2 {
            return Err(format!("x must be [B, Cin, ..] with {n} axes more, got {}", i.x).into());
        }
        if self.dilations.len() != n || self.pads.len() != n {
            let (d, p) = (self.dilations.len(), self.pads.len());
            return Err(format!("{n} strides, but {d} dilations and {p} pads").into());
        }
        if self.strides.contains(&0) || self.dilations.contains(&0) || self.groups == 0 {
            return Err("strides, dilations and groups must be at least 1".into());
        }
        let groups = self.groups;
        if !x[1].is_multiple_of(groups) {
            return Err(format!("{} channels of x do not divide into {groups} groups", x[1]).into());
        }
        let inner = x[1] / groups;
        if w.len() != n + 2 || w[1] != inner || !w[0].is_multiple_of(groups) {
            return Err(format!(
                "weight must be [Cout, {inner}, ..] for x {x:?} in {groups} groups, got {w:?}"
            )
            .into());
        }
        if let Some(bias) = i.bias {
            check::float("bias", bias)?;
            if bias.shape != [w[0]] {
                return Err(format!("bias must be [{}], got {:?}", w[0], bias.shape).into());
            }
        }
        let Some(extents) = self.extents(x, w) else {
            return Err(format!("the taps of weight {w:?} are more than the padded x {x:?}").into());
        };
        Ok(i.x.with_shape([&[x[0], w[0]], &extents[..]].concat()))
    }

    fn compose(&self, i: ConvInputs<Tensor>) -> Tensor {
        let dtype = i.x.dtype();
        let (x, w) = (i.x.cast(dtype.compute()), i.weight.cast(dtype.compute()));
        let Some(counts) = self.extents(x.shape(), w.shape()) else {
            return Tensor::poison("conv", "no output");
        };
        let (b, channels, out) = (x.shape()[0], x.shape()[1], w.shape()[0]);
        let (g, n, inner) = (self.groups, self.strides.len(), w.shape()[1]);
        let axes = w.shape()[2..].to_vec();
        let (taps, places) = (axes.iter().product::<usize>(), counts.iter().product::<usize>());
        let pads = self.pads.iter().enumerate();
        let wide = pads.fold(x, |x, (a, &(low, high))| x.pad(a as isize + 2, low, high, 0.0));
        // What one tap meets at all places.
        let parts = (0..taps).map(|t| {
            let at = place(t, &axes);
            (0..n).fold(wide.clone(), |x, a| {
                let first = at[a] * self.dilations[a];
                x.slice_step(a as isize + 2, first, self.strides[a] as isize, counts[a])
            })
        });
        let y = if g == channels && g == out && g > 1 {
            // Channels by themselves: every tap has one number a channel.
            let vectors = w.reshape(&[channels, taps]);
            let mut line = vec![1; n + 2];
            line[1] = channels;
            let vector = |t: usize| vectors.slice(1, t..t + 1).reshape(&line);
            let products = parts.enumerate().map(|(t, x)| x * vector(t));
            match products.reduce(|a, b| a + b) {
                Some(sum) => sum,
                None => return Tensor::poison("conv", "no taps"),
            }
        } else {
            // [B, groups, C/groups * taps, places] against [groups, O/groups, C/groups * taps].
            let met: Vec<Tensor> = parts.map(|x| x.reshape(&[b, g, inner, 1, places])).collect();
            let met = Tensor::concat(&met.iter().collect::<Vec<_>>(), 3);
            match g {
                1 => {
                    let met = met.reshape(&[b, inner * taps, places]);
                    w.reshape(&[out, inner * taps]).matmul(&met)
                }
                _ => {
                    let met = met.reshape(&[b, g, inner * taps, places]);
                    w.reshape(&[g, out / g, inner * taps]).matmul(&met)
                }
            }
        };
        let mut y = y.reshape(&[&[b, out], &counts[..]].concat());
        if let Some(bias) = i.bias {
            let mut line = vec![1; n + 2];
            line[1] = out;
            y = y + bias.cast(dtype.compute()).reshape(&line);
        }
        self.activation.compose(y).cast(dtype)
    }
}

impl Entry for Conv {
    const FORMULA: &'static str = "activation(weight * x + bias), * the cross-correlation";
    const MAIN: &'static str = "x";

    fn parse(o: &mut Options) -> Result<Conv, String> {
        let axes = o.count("axes", Some(2))?;
        let list = |list: Option<Vec<usize>>, name: &str, n: usize, default: usize| match list {
            None => Ok(vec![default; n]),
            Some(l) if l.len() == n => Ok(l),
            Some(l) => Err(format!("option `{name}` must be {n} numbers for {axes} axes, got {l:?}")),
        };
        let pads = list(o.counts("pads")?, "pads", 2 * axes, 0)?;
        let (before, after) = pads.split_at(axes);
        Ok(Conv {
            strides: list(o.counts("strides")?, "strides", axes, 1)?,
            dilations: list(o.counts("dilations")?, "dilations", axes, 1)?,
            pads: before.iter().copied().zip(after.iter().copied()).collect(),
            groups: o.count("groups", Some(1))?,
            activation: Activation::parse(o)?,
        })
    }

    fn oracle(&self, i: ConvInputs<&Array>) -> Array {
        let (x, w) = (&i.x.shape, &i.weight.shape);
        let extents = self.extents(x, w).unwrap_or_default();
        let taps: usize = w[2..].iter().product();
        let shape = [&[x[0], w[0]], &extents[..]].concat();
        let mut y = Array::zeros(&shape);
        for n in 0..y.data.len() {
            let at = place(n, &shape);
            let first = at[1] / (w[0] / self.groups) * w[1];
            let mut sum = i.bias.map_or(0.0, |bias| bias.data[at[1]]);
            for (c, j) in (0..w[1]).flat_map(|c| (0..taps).map(move |j| (c, j))) {
                let tap = place(j, &w[2..]);
                let axes = 0..extents.len();
                let from: Option<Vec<usize>> = axes
                    .map(|a| {
                        let p = at[a + 2] * self.strides[a] + tap[a] * self.dilations[a];
                        p.checked_sub(self.pads[a].0).filter(|&p| p < x[a + 2])
                    })
                    .collect();
                if let Some(from) = from {
                    let from = [&[at[0], first + c], &from[..]].concat();
                    sum += i.weight.data[(at[1] * w[1] + c) * taps + j] * i.x.at(&from);
                }
            }
            y.data[n] = self.activation.oracle(sum);
        }
        y
    }

    fn flops(&self, i: ConvInputs<&Spec>) -> Option<f64> {
        let places: usize = self.extents(&i.x.shape, &i.weight.shape)?.iter().product();
        Some(2.0 * (i.x.shape[0] * places * i.weight.numel()) as f64)
    }

    fn recognise() -> Vec<Rule> {
        recognise::rules()
    }

    fn cases() -> Vec<Case<Conv>> {
        let case = |name, why, block: Conv, x: &[usize], out, taps: &[usize], bias: bool| {
            let inner = x[1] / block.groups;
            let fan: usize = inner * taps.iter().product::<usize>();
            let weight =
                normal(&[&[out, inner], taps].concat()).normal(0.0, 1.0 / (fan as f64).sqrt());
            let bias = bias.then(|| normal(&[out]));
            Case::new(name, why, block, ConvInputs { x: normal(x), weight, bias }).within(1e-5, 1e-5)
        };
        let same = |taps: usize| Conv { pads: vec![(taps / 2, taps / 2); 2], ..Conv::over(2) };
        let depthwise = |taps, groups| Conv { groups, ..same(taps) };
        let strides = |a, b, conv| Conv { strides: vec![a, b], ..conv };
        let hard = |conv| Conv { activation: Activation::HardSwish, ..conv };
        let uneven = Conv { pads: vec![(0, 2), (3, 1)], ..Conv::over(2) };
        let apart = Conv { dilations: vec![2, 3], pads: vec![(2, 2), (0, 3)], ..Conv::over(2) };
        let patches = |n| strides(n, n, Conv::over(2));
        let relu = Conv { activation: Activation::Relu, ..strides(2, 2, same(3)) };
        vec![
            case("plain", "no padding", Conv::over(2), &[2, 5, 9, 11], 7, &[3, 3], false).floats(),
            case("padded", "bias", same(3), &[2, 3, 7, 19], 13, &[3, 3], true).floats(),
            case("uneven", "padding of four widths", uneven, &[1, 4, 6, 7], 5, &[3, 5], true),
            case("strided", "relu", relu, &[1, 3, 13, 20], 8, &[3, 3], true).floats(),
            case("dilated", "taps apart", apart, &[1, 4, 9, 17], 3, &[3, 2], true),
            case("pointwise", "a product", Conv::over(2), &[2, 20, 5, 9], 50, &[1, 1], true).floats(),
            case("pointwise_strided", "every other place", strides(2, 2, Conv::over(2)), &[1, 6, 5, 9], 4, &[1, 1], true),
            case("grouped", "two groups", Conv { groups: 2, ..same(3) }, &[2, 6, 5, 9], 4, &[3, 3], true),
            case("depthwise", "hard swish", hard(depthwise(3, 11)), &[2, 11, 7, 37], 11, &[3, 3], true).floats(),
            case("depthwise_strided", "rows and columns", strides(2, 3, depthwise(5, 3)), &[1, 3, 12, 40], 3, &[5, 5], true),
            case("depthwise_dilated", "taps apart", Conv { groups: 4, ..Conv { dilations: vec![1, 2], ..Conv::over(2) } }, &[1, 4, 8, 21], 4, &[2, 3], false),
            case("multiplied", "two outputs a channel", depthwise(3, 3), &[1, 3, 5, 9], 6, &[3, 3], true),
            case("patches", "windows that touch", patches(4), &[2, 3, 8, 12], 10, &[4, 4], true).floats(),
            case("whole", "one output", Conv::over(2), &[1, 3, 4, 5], 4, &[4, 5], true),
            case("one_axis", "pads that differ", Conv { pads: vec![(2, 0)], ..Conv::over(1) }, &[2, 4, 21], 5, &[3], true).floats(),
            case("one_axis_depthwise", "a causal filter", Conv { pads: vec![(3, 0)], groups: 6, activation: Activation::Silu, ..Conv::over(1) }, &[2, 6, 25], 6, &[4], true),
            case("three_axes", "a volume", Conv { pads: vec![(1, 1); 3], strides: vec![1, 2, 1], ..Conv::over(3) }, &[1, 3, 4, 5, 6], 4, &[3, 3, 3], true),
            case("conv_3x3", "a residual network", Conv { activation: Activation::Relu, ..same(3) }, &[1, 64, 56, 56], 64, &[3, 3], true).bench(),
            case("conv_pointwise", "a text recogniser", hard(Conv::over(2)), &[1, 128, 12, 160], 128, &[1, 1], true).bench(),
            case("conv_depthwise", "a text recogniser", hard(depthwise(5, 240)), &[1, 240, 12, 80], 240, &[5, 5], true).bench(),
            case("conv_patches", "a vision transformer", patches(16), &[1, 3, 224, 224], 384, &[16, 16], true).bench(),
        ]
    }
}
