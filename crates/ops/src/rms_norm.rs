//! Root-mean-square normalisation (Zhang and Sennrich, 2019).

mod recognise;

use crate::{
    Array, Case, Entry, Options, check,
    catalogue::{Operand, normal, weight},
};
use frit_graph::{Block, DType, Rule, ShapeError, Spec, Tensor, operands};

/// `y = x / sqrt(mean(x^2) + eps) * weight`, over the last axis.
///
/// # Inputs
/// - `x`: `[.., C]`, f32, f16 or bf16
/// - `weight` (optional): `[C]`, any of these types
///
/// # Output
/// `[.., C]` in the type of `x`.
///
/// # Numerics
/// Sums and products in f32; rounded once.
///
/// # Example
/// ```
/// use frit_graph::{DType, Graph, Spec};
/// use frit_ops::fast;
/// let spec = |shape: &[usize]| Spec::new(DType::F32, shape);
/// let y = Graph::trace(&[spec(&[2, 8]), spec(&[8])], |x| {
///     vec![fast::rms_norm(&x[0], Some(&x[1]), 1e-6)]
/// })?;
/// assert_eq!(y.outputs()[0].shape(), [2, 8]);
///
/// let wrong = Graph::trace(&[spec(&[2, 8]), spec(&[7])], |x| {
///     vec![fast::rms_norm(&x[0], Some(&x[1]), 1e-6)]
/// });
/// assert!(wrong.unwrap_err().to_string().starts_with(
///     "[rms_norm] weight must be [8] (last axis of x [2, 8]), got [7] --> "
/// ));
/// # Ok::<(), frit_graph::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct RmsNorm {
    /// Added under the root.
    pub eps: f64,
}

operands!(/// Inputs of [`RmsNorm`].
    pub RmsNormInputs { x } optional { weight });

/// [`RmsNorm`] of `x`.
#[track_caller]
pub fn rms_norm(x: &Tensor, weight: Option<&Tensor>, eps: f64) -> Tensor {
    Tensor::block(RmsNorm { eps }, RmsNormInputs { x: x.clone(), weight: weight.cloned() })
}

impl Block for RmsNorm {
    type Inputs<T> = RmsNormInputs<T>;
    const NAME: &'static str = "rms_norm";

    fn infer(&self, i: RmsNormInputs<&Spec>) -> Result<Spec, ShapeError> {
        check::float("x", i.x)?;
        check::not_negative("eps", self.eps)?;
        if i.x.rank() == 0 {
            return Err(format!("x must have at least 1 axis, got {}", i.x).into());
        }
        i.weight.map_or(Ok(()), |w| check::vector("weight", w, i.x))?;
        Ok(i.x.clone())
    }

    fn compose(&self, i: RmsNormInputs<Tensor>) -> Tensor {
        let x = i.x.cast(DType::F32);
        let y = &x * ((&x * &x).mean(&[-1]) + self.eps).rsqrt();
        let y = i.weight.map_or(y.clone(), |w| y * w.cast(DType::F32));
        y.cast(i.x.dtype())
    }
}

impl Entry for RmsNorm {
    const FORMULA: &'static str = "x / sqrt(mean(x^2) + eps) * weight";
    const MAIN: &'static str = "x";

    fn parse(o: &mut Options) -> Result<RmsNorm, String> {
        Ok(RmsNorm { eps: o.number("eps", 1e-6)? })
    }

    fn oracle(&self, i: RmsNormInputs<&Array>) -> Array {
        let mut y = i.x.clone();
        for row in y.data.chunks_mut(i.x.last()) {
            let mean = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
            for (c, v) in row.iter_mut().enumerate() {
                *v = *v / (mean + self.eps).sqrt() * i.weight.map_or(1.0, |w| w.data[c]);
            }
        }
        y
    }

    fn recognise() -> Vec<Rule> {
        recognise::rules()
    }

    fn cases() -> Vec<Case<RmsNorm>> {
        let case = |name, why, eps, x: Operand, with_weight: bool| {
            let width = x.shape[x.shape.len() - 1];
            let weight = with_weight.then(|| weight(&[width]));
            Case::new(name, why, RmsNorm { eps }, RmsNormInputs { x, weight })
        };
        let tails = "tails of every vector width";
        let mut all = vec![
            case("hidden_1024", "a small block", 1e-6, normal(&[2, 5, 1024]), true).floats(),
            case("no_weight", "weight is optional", 1e-6, normal(&[2, 64]), false).floats(),
            case("rank_1", "a single row", 1e-6, normal(&[64]), true),
            case("rank_5", "many leading axes", 1e-6, normal(&[2, 1, 3, 2, 16]), true),
            case("tiny_values", "eps decides", 1e-6, normal(&[2, 64]).normal(0.0, 1e-6), true),
            case("large_f16", "squares overflow f16", 1e-6, normal(&[2, 64]).normal(0.0, 5e3), true)
                .floats(),
            case("zeros", "zero rows stay zero", 1e-6, normal(&[2, 8]).normal(0.0, 0.0), true),
            Case {
                inputs: RmsNormInputs {
                    x: normal(&[3, 40]),
                    weight: Some(weight(&[40]).of(DType::F32)),
                },
                ..case("f32_weight", "weight of its own type", 1e-6, normal(&[3, 40]), true)
            }
            .floats(),
            case("rms_norm_decode", "one token", 1e-6, normal(&[1, 1, 576]), true).bench(),
            case("rms_norm_block", "a block", 1e-6, normal(&[4, 128, 1024]), true).bench(),
            case("rms_norm_prefill", "beyond the caches", 1e-6, normal(&[1, 2048, 4096]), true)
                .bench(),
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
            all.push(case(name, tails, 1e-5, normal(&[3, c]), true).floats());
        }
        all
    }
}
