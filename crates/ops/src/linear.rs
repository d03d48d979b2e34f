//! The affine layer, with the activation that follows it.

mod recognise;

pub(crate) use recognise::{activations, widened};

use crate::{Array, Case, Entry, GeluForm, Options, catalogue::{Operand, normal}, check};
use frit_graph::{Block, DType, Rule, ShapeError, Spec, Tensor, operands};

/// The function after a linear layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// None.
    #[default]
    Identity,
    /// [`crate::Gelu`].
    Gelu(GeluForm),
    /// [`crate::Silu`].
    Silu,
    /// `max(x, 0)`
    Relu,
    /// `tanh(x)`
    Tanh,
    /// `x min(max(x + 3, 0), 6) / 6` (Howard et al., 2019)
    HardSwish,
}

impl Activation {
    /// The composition on an f32 tensor.
    pub(crate) fn compose(self, x: Tensor) -> Tensor {
        match self {
            Activation::Identity => x,
            Activation::Gelu(form) => form.compose(&x),
            Activation::Silu => &x * x.sigmoid(),
            Activation::Relu => x.maximum(&Tensor::scalar(x.dtype(), 0.0)),
            Activation::Tanh => x.tanh(),
            Activation::HardSwish => {
                let number = |n| Tensor::scalar(x.dtype(), n);
                let gate = (&x + number(3.0)).maximum(&number(0.0)).minimum(&number(6.0));
                &x * gate / number(6.0)
            }
        }
    }

    /// The value in float64.
    pub(crate) fn oracle(self, x: f64) -> f64 {
        match self {
            Activation::Identity => x,
            Activation::Gelu(form) => form.oracle(x),
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Relu => x.max(0.0),
            Activation::Tanh => x.tanh(),
            Activation::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
        }
    }

    pub(crate) fn parse(o: &mut Options) -> Result<Activation, String> {
        match o.text("activation")?.as_deref() {
            None | Some("identity") => Ok(Activation::Identity),
            Some("gelu") => Ok(Activation::Gelu(GeluForm::parse(o)?)),
            Some("silu") => Ok(Activation::Silu),
            Some("relu") => Ok(Activation::Relu),
            Some("tanh") => Ok(Activation::Tanh),
            Some("hard_swish") => Ok(Activation::HardSwish),
            Some(other) => Err(format!(
                "option `activation` must be identity, gelu, silu, relu, tanh or hard_swish, got {other}"
            )),
        }
    }
}

/// `y = activation(x weight^T + bias)`.
///
/// # Inputs
/// - `x`: `[.., k]`, f32, f16 or bf16
/// - `weight`: `[n, k]`, any of these types
/// - `bias` (optional): `[n]`
///
/// # Output
/// `[.., n]` in the type of `x`.
///
/// # Numerics
/// Products and sums in f32; rounded once, after the activation.
///
/// # Example
/// ```
/// use frit_graph::{DType, Graph, Spec};
/// use frit_ops::{Activation, fast};
/// let specs = [Spec::new(DType::F32, [2, 8]), Spec::new(DType::F32, [4, 7])];
/// let wrong = Graph::trace(&specs, |x| {
///     vec![fast::linear(&x[0], &x[1], None, Activation::Identity)]
/// });
/// assert!(wrong.unwrap_err().to_string().starts_with(
///     "[linear] weight must be [n, 8] (last axis of x [2, 8]), got [4, 7] --> "
/// ));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Linear {
    /// What follows.
    pub activation: Activation,
}

operands!(/// Inputs of [`Linear`].
    pub LinearInputs { x, weight } optional { bias });

/// [`Linear`] of `x`.
#[track_caller]
pub fn linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    activation: Activation,
) -> Tensor {
    let inputs = LinearInputs { x: x.clone(), weight: weight.clone(), bias: bias.cloned() };
    Tensor::block(Linear { activation }, inputs)
}

impl Block for Linear {
    type Inputs<T> = LinearInputs<T>;
    const NAME: &'static str = "linear";

    fn infer(&self, i: LinearInputs<&Spec>) -> Result<Spec, ShapeError> {
        check::float("x", i.x)?;
        check::float("weight", i.weight)?;
        let Some(k) = i.x.last() else {
            return Err(format!("x must have at least 1 axis, got {}", i.x).into());
        };
        if i.weight.rank() != 2 || i.weight.shape[1] != k {
            return Err(format!(
                "weight must be [n, {k}] (last axis of x {:?}), got {:?}",
                i.x.shape, i.weight.shape
            )
            .into());
        }
        let n = i.weight.shape[0];
        if let Some(b) = i.bias {
            check::float("bias", b)?;
            if b.shape != [n] {
                return Err(format!("bias must be [{n}], got {:?}", b.shape).into());
            }
        }
        let mut y = i.x.clone();
        y.shape[i.x.rank() - 1] = n;
        Ok(y)
    }

    fn compose(&self, i: LinearInputs<Tensor>) -> Tensor {
        let (shape, k) = (i.x.shape().to_vec(), i.weight.shape()[1]);
        let rows: usize = shape[..shape.len() - 1].iter().product();
        let x = i.x.cast(DType::F32).reshape(&[rows, k]);
        let mut y = x.matmul(&i.weight.cast(DType::F32).swap_axes(0, 1));
        if let Some(b) = i.bias {
            y = y + b.cast(DType::F32);
        }
        let mut full = shape;
        let last = full.len() - 1;
        full[last] = i.weight.shape()[0];
        self.activation.compose(y).reshape(&full).cast(i.x.dtype())
    }
}

impl Entry for Linear {
    const FORMULA: &'static str = "activation(x weight^T + bias)";
    const MAIN: &'static str = "x";

    fn parse(o: &mut Options) -> Result<Linear, String> {
        Ok(Linear { activation: Activation::parse(o)? })
    }

    fn oracle(&self, i: LinearInputs<&Array>) -> Array {
        let (k, n) = (i.x.last(), i.weight.shape[0]);
        let mut data = Vec::new();
        for x in i.x.data.chunks(k) {
            for c in 0..n {
                let w = &i.weight.data[c * k..][..k];
                let dot: f64 = x.iter().zip(w).map(|(a, b)| a * b).sum();
                data.push(self.activation.oracle(dot + i.bias.map_or(0.0, |b| b.data[c])));
            }
        }
        let mut shape = i.x.shape.clone();
        let last = shape.len() - 1;
        shape[last] = n;
        Array { shape, data }
    }

    fn flops(&self, i: LinearInputs<&Spec>) -> Option<f64> {
        Some(2.0 * (i.x.numel() * i.weight.shape[0]) as f64)
    }

    fn recognise() -> Vec<Rule> {
        recognise::rules()
    }

    fn cases() -> Vec<Case<Linear>> {
        let case = |name, why, activation, x: &[usize], n, bias: bool| {
            let k = x[x.len() - 1];
            let scale = 1.0 / (k as f64).sqrt();
            let weight: Operand = normal(&[n, k]).normal(0.0, scale);
            let inputs = LinearInputs { x: normal(x), weight, bias: bias.then(|| normal(&[n])) };
            Case::new(name, why, Linear { activation }, inputs).within(1e-5, 1e-5)
        };
        let (none, gelu) = (Activation::Identity, Activation::Gelu(GeluForm::Erf));
        vec![
            case("plain", "no bias", none, &[2, 3, 33], 17, false).floats(),
            case("bias", "bias", none, &[5, 64], 40, true).floats(),
            case("one_row", "a vector", none, &[64], 100, true).floats(),
            case("gelu", "activation", gelu, &[2, 3, 33], 17, true).floats(),
            case("tanh_gelu", "activation", Activation::Gelu(GeluForm::Tanh), &[7, 20], 9, true),
            case("quick_gelu", "activation", Activation::Gelu(GeluForm::Quick), &[7, 20], 9, true),
            case("silu", "activation", Activation::Silu, &[2, 3, 33], 17, true).floats(),
            case("relu", "activation", Activation::Relu, &[2, 3, 33], 17, true),
            case("tanh", "activation", Activation::Tanh, &[1, 12], 12, true),
            case("hard_swish", "activation", Activation::HardSwish, &[7, 20], 9, true),
            Case {
                inputs: LinearInputs {
                    x: normal(&[3, 48]),
                    weight: normal(&[20, 48]).normal(0.0, 0.15).of(DType::F16),
                    bias: Some(normal(&[20]).of(DType::F32)),
                },
                ..case("mixed", "weights of their own type", none, &[3, 48], 20, true)
            }
            .floats(),
            case("linear_whisper", "feed-forward of the encoder", gelu, &[1500, 384], 1536, true)
                .bench(),
            case("linear_decode", "feed-forward of a decoder, one token", gelu, &[1, 384], 1536, true).bench(),
        ]
    }
}
