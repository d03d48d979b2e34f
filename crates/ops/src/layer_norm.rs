//! Layer normalisation (Ba, Kiros and Hinton, 2016).

use crate::{
    Array, Case, Entry, Options, check,
    catalogue::{Operand, normal, weight},
};
use frit_graph::{
    Block, DType, Rule, ShapeError, Spec, Tensor, operands,
    pattern::{Axis, any, mean, number, one_of, rsqrt, vector},
};

/// `y = (x - mean) / sqrt(var + eps) * weight + bias`, over the last axis, with the biased variance.
///
/// # Inputs
/// - `x`: `[.., C]`, f32, f16 or bf16
/// - `weight` (optional): `[C]`
/// - `bias` (optional): `[C]`
///
/// # Output
/// `[.., C]` in the type of `x`.
///
/// # Numerics
/// f32 in two passes: the variance is the mean of squared differences, so rows far from zero keep
/// their digits. Rounded once.
///
/// # Example
/// ```
/// use frit_graph::{DType, Graph, Spec};
/// use frit_ops::fast;
/// let spec = |shape: &[usize]| Spec::new(DType::F32, shape);
/// let wrong = Graph::trace(&[spec(&[2, 8]), spec(&[8]), spec(&[4])], |x| {
///     vec![fast::layer_norm(&x[0], Some(&x[1]), Some(&x[2]), 1e-5)]
/// });
/// assert!(wrong.unwrap_err().to_string().starts_with(
///     "[layer_norm] bias must be [8] (last axis of x [2, 8]), got [4] --> "
/// ));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f64,
}

operands!(/// Inputs of [`LayerNorm`].
    pub LayerNormInputs { x } optional { weight, bias });

/// [`LayerNorm`] of `x`.
#[track_caller]
pub fn layer_norm(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Tensor {
    let (weight, bias) = (weight.cloned(), bias.cloned());
    Tensor::block(LayerNorm { eps }, LayerNormInputs { x: x.clone(), weight, bias })
}

impl Block for LayerNorm {
    type Inputs<T> = LayerNormInputs<T>;
    const NAME: &'static str = "layer_norm";

    fn infer(&self, i: LayerNormInputs<&Spec>) -> Result<Spec, ShapeError> {
        check::float("x", i.x)?;
        check::not_negative("eps", self.eps)?;
        if i.x.rank() == 0 {
            return Err(format!("x must have at least 1 axis, got {}", i.x).into());
        }
        i.weight.map_or(Ok(()), |w| check::vector("weight", w, i.x))?;
        i.bias.map_or(Ok(()), |b| check::vector("bias", b, i.x))?;
        Ok(i.x.clone())
    }

    fn compose(&self, i: LayerNormInputs<Tensor>) -> Tensor {
        let x = i.x.cast(DType::F32);
        let centred = &x - x.mean(&[-1]);
        let variance = (&centred * &centred).mean(&[-1]);
        let mut y = centred * (variance + self.eps).rsqrt();
        if let Some(w) = i.weight {
            y = y * w.cast(DType::F32);
        }
        if let Some(b) = i.bias {
            y = y + b.cast(DType::F32);
        }
        y.cast(i.x.dtype())
    }
}

impl Entry for LayerNorm {
    const FORMULA: &'static str = "(x - mean) / sqrt(var + eps) * weight + bias";
    const MAIN: &'static str = "x";

    fn parse(o: &mut Options) -> Result<LayerNorm, String> {
        Ok(LayerNorm { eps: o.number("eps", 1e-5)? })
    }

    fn oracle(&self, i: LayerNormInputs<&Array>) -> Array {
        let mut y = i.x.clone();
        for row in y.data.chunks_mut(i.x.last()) {
            let n = row.len() as f64;
            let mean = row.iter().sum::<f64>() / n;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            for (c, v) in row.iter_mut().enumerate() {
                *v = (*v - mean) / (variance + self.eps).sqrt();
                *v = *v * i.weight.map_or(1.0, |w| w.data[c]) + i.bias.map_or(0.0, |b| b.data[c]);
            }
        }
        y
    }

    fn recognise() -> Vec<Rule> {
        let (x, weight, bias) = (any("x"), vector("weight"), vector("bias"));
        let average = mean(&x, Axis::Last);
        let centred = &x - &average;
        // TensorFlow's squared difference may stand either way round.
        let squares = one_of([centred.squared(), (&average - &x).squared()]);
        // The standard's own expansion in ONNX: the mean of squares less the square of the mean.
        let variance = one_of([
            mean(squares, Axis::Last),
            mean(x.squared(), Axis::Last) - average.squared(),
        ]);
        let inverse = rsqrt(variance + number("eps"));
        let norm = &centred * &inverse;
        let spellings = [
            // torch's exporters (Pow, Sqrt, Div), paddle2onnx, transformers (Mul, Rsqrt).
            ("weight and bias", &norm * &weight + &bias),
            ("weight", &norm * &weight),
            ("bias", &norm + &bias),
            ("plain", norm),
            // Keras and tf2onnx: tf.nn.batch_normalization, the weight drawn into the inverse.
            ("scale and shift", &x * &inverse * &weight + (&bias - &average * &inverse * &weight)),
        ];
        vec![Rule::formula(Self::NAME, spellings, |m| {
            let eps = m.number("eps").ok_or("no epsilon")?;
            let (weight, bias) = (m.vector("weight"), m.vector("bias"));
            Ok(layer_norm(&m.main("x")?, weight.as_ref(), bias.as_ref(), eps))
        })]
    }

    fn cases() -> Vec<Case<LayerNorm>> {
        let case = |name, why, x: Operand, with: (bool, bool)| {
            let width = x.shape[x.shape.len() - 1];
            let weight = with.0.then(|| weight(&[width]));
            let bias = with.1.then(|| normal(&[width]));
            Case::new(name, why, LayerNorm { eps: 1e-5 }, LayerNormInputs { x, weight, bias })
        };
        let (tails, both) = ("tails of every vector width", (true, true));
        let mut all = vec![
            case("hidden_384", "whisper-tiny's width", normal(&[2, 5, 384]), both).floats(),
            case("no_bias", "weight only", normal(&[2, 64]), (true, false)).floats(),
            case("no_weight", "bias only", normal(&[2, 64]), (false, true)).floats(),
            case("plain", "neither", normal(&[2, 64]), (false, false)).floats(),
            case("far_from_zero", "mean 1000", normal(&[4, 256]).normal(1000.0, 1.0), both)
                .within(2e-4, 2e-4),
            case("constant_rows", "variance zero", normal(&[2, 8]).normal(3.0, 0.0), both),
            case("layer_norm_block", "a block", normal(&[4, 128, 1024]), both).bench(),
            case("layer_norm_whisper", "whisper encoder", normal(&[1, 1500, 384]), both).bench(),
        ];
        for (name, c) in [
            ("width_1", 1),
            ("width_2", 2),
            ("width_3", 3),
            ("width_7", 7),
            ("width_31", 31),
            ("width_32", 32),
            ("width_33", 33),
            ("width_257", 257),
            ("width_4099", 4099),
        ] {
            all.push(case(name, tails, normal(&[3, c]), both).floats());
        }
        all
    }
}
