//! The layers of decoders such as Llama, in small operations: norm, rotary positions, gate.

use super::same;
use frit_graph::{Block, DType, ShapeError, Spec, Tensor, operands};
use frit_ops::{GeluForm, RopeLayout};

/// Root-mean-square normalisation over the last axis: `x / sqrt(mean(x^2) + eps) * (offset + weight)`.
#[derive(Clone, Debug, PartialEq)]
pub struct RmsNorm {
    /// Added under the root.
    pub eps: f64,
    /// Added to the weight: 0, or 1 where checkpoints keep what is above 1 (Gemma).
    pub offset: f64,
}

operands!(/// Inputs of [`RmsNorm`]: `x` `[.., C]`, `weight` `[C]`.
    pub RmsNormInputs { x, weight } optional {});

impl Block for RmsNorm {
    type Inputs<T> = RmsNormInputs<T>;
    const NAME: &'static str = "nn.rms_norm";

    fn infer(&self, i: RmsNormInputs<&Spec>) -> Result<Spec, ShapeError> {
        let wanted: Vec<usize> = i.x.last().into_iter().collect();
        match i.weight.shape == wanted {
            true => same(i.x),
            false => {
                Err(format!("weight must be {wanted:?} for x {}, got {}", i.x, i.weight).into())
            }
        }
    }

    fn compose(&self, i: RmsNormInputs<Tensor>) -> Tensor {
        let dtype = i.x.dtype();
        // Squares of half precision overflow.
        let x = i.x.cast(DType::F32);
        let root = ((&x * &x).mean(&[-1]) + self.eps).sqrt();
        let weight = i.weight.cast(DType::F32);
        let weight = if self.offset == 0.0 { weight } else { weight + self.offset };
        (x / root * weight).cast(dtype)
    }
}

/// Rotary positions of `x` `[B, T, H, D]`: pairs of the leading `dims` elements of each head turn by
/// `position * scale * inv_freq`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// How many leading elements of a head turn; even.
    pub dims: usize,
    /// Base of the inverse frequencies `base^(-2i/dims)`, where they are no operand.
    pub base: f64,
    /// Multiplies positions.
    pub scale: f64,
    /// Multiplies cosine and sine.
    pub amplitude: f64,
    /// Which elements are pairs.
    pub layout: RopeLayout,
}

operands!(/// Inputs of [`Rope`]: `x` `[B, T, H, D]`, integer `position_ids` `[B, T]`, and f32
    /// `inv_freqs` `[dims/2]` if the base does not give them.
    pub RopeInputs { x, position_ids } optional { inv_freqs });

impl Block for Rope {
    type Inputs<T> = RopeInputs<T>;
    const NAME: &'static str = "nn.rope";

    fn infer(&self, i: RopeInputs<&Spec>) -> Result<Spec, ShapeError> {
        super::axes(i.x, 4, "x")?;
        let d = i.x.shape[3];
        if self.dims == 0 || !self.dims.is_multiple_of(2) || self.dims > d {
            return Err(format!("dims must be even and at most {d}, got {}", self.dims).into());
        }
        if !i.position_ids.dtype.is_integer() || i.position_ids.shape != i.x.shape[..2] {
            let wanted = &i.x.shape[..2];
            let got = i.position_ids;
            return Err(format!("position_ids must be integers {wanted:?}, got {got}").into());
        }
        match i.inv_freqs {
            Some(f) if f.shape != [self.dims / 2] => {
                Err(format!("inv_freqs must be f32[{}], got {f}", self.dims / 2).into())
            }
            _ => same(i.x),
        }
    }

    fn compose(&self, i: RopeInputs<Tensor>) -> Tensor {
        let [b, t, h, d] = [0, 1, 2, 3].map(|a| i.x.shape()[a]);
        let (half, f64) = (self.dims / 2, DType::F64);
        let inverse = match &i.inv_freqs {
            Some(f) => f.cast(f64),
            None => {
                let exponent = Tensor::iota(Spec::new(f64, [half]), 0) * (-1.0 / half as f64);
                (exponent * self.base.ln()).exp()
            }
        };
        // Angles of far positions need f64.
        let angle = (i.position_ids.cast(f64) * self.scale).unsqueeze(-1) * inverse;
        let table = |t: Tensor| (t * self.amplitude).cast(i.x.dtype()).unsqueeze(2);
        let (cos, sin) = (table(angle.cos()), table(angle.sin()));
        let (a, b_) = match self.layout {
            RopeLayout::Split => (i.x.slice(-1, 0..half), i.x.slice(-1, half..self.dims)),
            RopeLayout::Interleaved => {
                (i.x.slice_step(-1, 0, 2, half), i.x.slice_step(-1, 1, 2, half))
            }
        };
        let (u, v) = (&a * &cos - &b_ * &sin, &a * &sin + &b_ * &cos);
        let turned = match self.layout {
            RopeLayout::Split => Tensor::concat(&[&u, &v], -1),
            RopeLayout::Interleaved => {
                let pairs = Tensor::concat(&[&u.unsqueeze(-1), &v.unsqueeze(-1)], -1);
                pairs.reshape(&[b, t, h, self.dims])
            }
        };
        match self.dims == d {
            true => turned,
            false => Tensor::concat(&[&turned, &i.x.slice(-1, self.dims..d)], -1),
        }
    }
}

/// The Gaussian error linear unit in primitives.
pub(super) fn gelu(x: &Tensor, form: GeluForm) -> Tensor {
    let twice = match form {
        GeluForm::Erf => (x / std::f64::consts::SQRT_2).erf(),
        GeluForm::Tanh => ((x + x * x * x * 0.044715) * (2.0 / std::f64::consts::PI).sqrt()).tanh(),
        // x sigmoid(1.702 x), as sigmoid(2 a) is (1 + tanh a) / 2.
        GeluForm::Quick => (x * 0.851).tanh(),
    };
    x * ((twice + 1.0) * 0.5)
}

/// The function of a [`Gate`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GateActivation {
    /// `x sigmoid(x)`
    #[default]
    Silu,
    /// `x/2 (1 + erf(x / sqrt 2))`
    Gelu,
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`
    GeluTanh,
}

/// `activation(gate) * up`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gate {
    /// The function.
    pub activation: GateActivation,
}

operands!(/// Inputs of [`Gate`]: `gate` and `up`, alike.
    pub GateInputs { gate, up } optional {});

impl Block for Gate {
    type Inputs<T> = GateInputs<T>;
    const NAME: &'static str = "nn.gate";

    fn infer(&self, i: GateInputs<&Spec>) -> Result<Spec, ShapeError> {
        match i.gate == i.up {
            true => same(i.gate),
            false => Err(format!("gate {} and up {} must be equal", i.gate, i.up).into()),
        }
    }

    fn compose(&self, i: GateInputs<Tensor>) -> Tensor {
        let x = i.gate;
        let open = match self.activation {
            GateActivation::Silu => &x * x.sigmoid(),
            GateActivation::Gelu => gelu(&x, GeluForm::Erf),
            GateActivation::GeluTanh => gelu(&x, GeluForm::Tanh),
        };
        open * i.up
    }
}
