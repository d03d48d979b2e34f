//! Convolution along one axis.

use crate::{Activation, Array, Case, Conv, Entry, Options, catalogue::normal, check};
use frit_graph::{Block, DType, ShapeError, Spec, Tensor, operands};

/// `y[b, o, t] = activation(bias[o] + sum_{c, j} weight[o, c, j] x[b, c, t*stride + j*dilation - padding])`,
/// the sum over the channels of o's group; x is zero outside.
///
/// # Inputs
/// - `x`: `[B, Cin, L]`, f32, f16 or bf16
/// - `weight`: `[Cout, Cin/groups, k]`
/// - `bias` (optional): `[Cout]`
///
/// # Output
/// `[B, Cout, (L + 2 padding - dilation (k-1) - 1) / stride + 1]` in the type of `x`.
///
/// # Numerics
/// Products and sums in f32; rounded once, after the activation.
///
/// # Example
/// ```
/// use frit_graph::{DType, Graph, Spec};
/// use frit_ops::{Conv1d, fast};
/// let specs = [Spec::new(DType::F32, [1, 80, 30]), Spec::new(DType::F32, [8, 40, 3])];
/// let wrong = Graph::trace(&specs, |x| {
///     vec![fast::conv1d(&x[0], &x[1], None, Conv1d::default())]
/// });
/// assert!(wrong.unwrap_err().to_string().starts_with(
///     "[conv1d] weight must be [Cout, 80, k] for x [1, 80, 30] in 1 groups, got [8, 40, 3] --> "
/// ));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Conv1d {
    /// Distance between outputs.
    pub stride: usize,
    /// Zeros put before and after.
    pub padding: usize,
    /// Distance between taps.
    pub dilation: usize,
    /// Groups of channels that do not mix.
    pub groups: usize,
    /// What follows.
    pub activation: Activation,
}

impl Default for Conv1d {
    fn default() -> Conv1d {
        let activation = Activation::Identity;
        Conv1d { stride: 1, padding: 0, dilation: 1, groups: 1, activation }
    }
}

operands!(/// Inputs of [`Conv1d`].
    pub Conv1dInputs { x, weight } optional { bias });

/// [`Conv1d`] of `x`.
#[track_caller]
pub fn conv1d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, options: Conv1d) -> Tensor {
    let inputs = Conv1dInputs { x: x.clone(), weight: weight.clone(), bias: bias.cloned() };
    Tensor::block(options, inputs)
}

impl Conv1d {
    /// The length of the output, if there is one.
    pub fn length(&self, x: usize, taps: usize) -> Option<usize> {
        let span = self.dilation.checked_mul(taps.checked_sub(1)?)?.checked_add(1)?;
        let room = x.checked_add(self.padding.checked_mul(2)?)?.checked_sub(span)?;
        Some(room.checked_div(self.stride)? + 1)
    }
}

impl From<&Conv1d> for Conv {
    fn from(c: &Conv1d) -> Conv {
        Conv {
            strides: vec![c.stride],
            dilations: vec![c.dilation],
            pads: vec![(c.padding, c.padding)],
            groups: c.groups,
            activation: c.activation,
        }
    }
}

impl Block for Conv1d {
    type Inputs<T> = Conv1dInputs<T>;
    const NAME: &'static str = "conv1d";

    fn infer(&self, i: Conv1dInputs<&Spec>) -> Result<Spec, ShapeError> {
        check::float("x", i.x)?;
        check::float("weight", i.weight)?;
        if i.x.rank() != 3 {
            return Err(format!("x must be [B, Cin, L], got {}", i.x).into());
        }
        if self.stride == 0 || self.dilation == 0 || self.groups == 0 {
            return Err("stride, dilation and groups must be at least 1".into());
        }
        let (b, channels, l) = (i.x.shape[0], i.x.shape[1], i.x.shape[2]);
        let fits = i.weight.rank() == 3
            && channels.is_multiple_of(self.groups)
            && i.weight.shape[0].is_multiple_of(self.groups)
            && i.weight.shape[1] == channels / self.groups;
        if !fits {
            return Err(format!(
                "weight must be [Cout, {}, k] for x {:?} in {} groups, got {:?}",
                channels / self.groups,
                i.x.shape,
                self.groups,
                i.weight.shape
            )
            .into());
        }
        if let Some(bias) = i.bias {
            check::float("bias", bias)?;
            if bias.shape != [i.weight.shape[0]] {
                let n = i.weight.shape[0];
                return Err(format!("bias must be [{n}], got {:?}", bias.shape).into());
            }
        }
        let Some(length) = self.length(l, i.weight.shape[2]) else {
            return Err(format!(
                "the {} taps of weight {:?} are longer than the padded x {:?}",
                i.weight.shape[2], i.weight.shape, i.x.shape
            )
            .into());
        };
        Ok(i.x.with_shape([b, i.weight.shape[0], length]))
    }

    fn compose(&self, i: Conv1dInputs<Tensor>) -> Tensor {
        let [b, channels, l] = [0, 1, 2].map(|a| i.x.shape()[a]);
        let [out, inner, taps] = [0, 1, 2].map(|a| i.weight.shape()[a]);
        let Some(length) = self.length(l, taps) else {
            return Tensor::poison("conv1d", "no output");
        };
        let x = i.x.cast(DType::F32).pad(2, self.padding, self.padding, 0.0);
        // One slice a tap makes a matrix of the taps, and the rest is a product.
        let slices: Vec<Tensor> = (0..taps)
            .map(|j| x.slice_step(2, j * self.dilation, self.stride as isize, length).unsqueeze(2))
            .collect();
        let unfolded = Tensor::concat(&slices.iter().collect::<Vec<_>>(), 2);
        let g = self.groups;
        let unfolded = unfolded.reshape(&[b, g, channels / g * taps, length]);
        let weight = i.weight.cast(DType::F32).reshape(&[1, g, out / g, inner * taps]);
        let mut y = weight.matmul(&unfolded).reshape(&[b, out, length]);
        if let Some(bias) = i.bias {
            y = y + bias.cast(DType::F32).reshape(&[1, out, 1]);
        }
        self.activation.compose(y).cast(i.x.dtype())
    }
}

impl Entry for Conv1d {
    const FORMULA: &'static str = "activation(weight * x + bias), * the cross-correlation";
    const MAIN: &'static str = "x";

    fn parse(o: &mut Options) -> Result<Conv1d, String> {
        Ok(Conv1d {
            stride: o.count("stride", Some(1))?,
            padding: o.count("padding", Some(0))?,
            dilation: o.count("dilation", Some(1))?,
            groups: o.count("groups", Some(1))?,
            activation: Activation::parse(o)?,
        })
    }

    fn oracle(&self, i: Conv1dInputs<&Array>) -> Array {
        let [b, channels, l] = [0, 1, 2].map(|a| i.x.shape[a]);
        let [out, inner, taps] = [0, 1, 2].map(|a| i.weight.shape[a]);
        let length = self.length(l, taps).unwrap_or(0);
        let mut y = Array::zeros(&[b, out, length]);
        for n in 0..b * out * length {
            let (row, o, t) = (n / (out * length), n / length % out, n % length);
            let first = o / (out / self.groups) * inner;
            let mut sum = i.bias.map_or(0.0, |bias| bias.data[o]);
            for c in 0..inner {
                for j in 0..taps {
                    let at = (t * self.stride + j * self.dilation).checked_sub(self.padding);
                    if let Some(at) = at.filter(|&at| at < l) {
                        sum += i.weight.data[(o * inner + c) * taps + j]
                            * i.x.data[(row * channels + first + c) * l + at];
                    }
                }
            }
            y.data[n] = self.activation.oracle(sum);
        }
        y
    }

    fn flops(&self, i: Conv1dInputs<&Spec>) -> Option<f64> {
        let length = self.length(i.x.shape[2], i.weight.shape[2])?;
        Some(2.0 * (i.x.shape[0] * length * i.weight.numel()) as f64)
    }

    fn cases() -> Vec<Case<Conv1d>> {
        let case = |name, why, block: Conv1d, x: [usize; 3], out, taps, bias: bool| {
            let inner = x[1] / block.groups;
            let weight = normal(&[out, inner, taps])
                .normal(0.0, 1.0 / ((inner * taps) as f64).sqrt());
            let bias = bias.then(|| normal(&[out]));
            Case::new(name, why, block, Conv1dInputs { x: normal(&x), weight, bias })
                .within(1e-5, 1e-5)
        };
        let plain = Conv1d::default;
        let gelu = Activation::Gelu(crate::GeluForm::Erf);
        let whisper = |stride| Conv1d { stride, padding: 1, activation: gelu, ..plain() };
        vec![
            case("plain", "no padding", plain(), [2, 5, 19], 7, 3, false).floats(),
            case("padded", "whisper's first", whisper(1), [1, 8, 20], 6, 3, true).floats(),
            case("strided", "whisper's second", whisper(2), [1, 6, 20], 6, 3, true).floats(),
            case("dilated", "taps apart", Conv1d { dilation: 3, ..plain() }, [1, 4, 20], 3, 3, true),
            case("grouped", "two groups", Conv1d { groups: 2, ..plain() }, [2, 6, 9], 4, 2, true),
            case("one_tap", "a linear layer", plain(), [1, 6, 9], 4, 1, true),
            case("whole", "one output", plain(), [1, 6, 9], 4, 9, true),
            case("conv1d_whisper", "second layer", whisper(2), [1, 384, 3000], 384, 3, true).bench(),
        ]
    }
}
