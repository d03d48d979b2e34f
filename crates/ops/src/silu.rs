//! Sigmoid linear unit (Elfwing, Uchibe and Doya, 2017).

use crate::{Array, Case, Entry, Options, UnaryInputs, catalogue::normal, check};
use frit_graph::{
    Block, DType, Rule, ShapeError, Spec, Tensor,
    pattern::{any, sigmoid},
};

/// `y = x * sigmoid(x)`, elementwise.
///
/// # Inputs
/// - `x`: any shape, f32, f16 or bf16
///
/// # Output
/// As `x`.
///
/// # Numerics
/// f32; neither end overflows; rounded once.
///
/// # Example
/// ```
/// use frit_graph::{DType, Graph, Spec};
/// use frit_ops::fast;
/// let wrong = Graph::trace(&[Spec::new(DType::Bool, [2])], |x| vec![fast::silu(&x[0])]);
/// assert!(wrong.unwrap_err().to_string().starts_with(
///     "[silu] x must be f32, f16 or bf16, got bool[2] --> "
/// ));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Silu;

/// [`Silu`] of `x`.
#[track_caller]
pub fn silu(x: &Tensor) -> Tensor {
    Tensor::block(Silu, UnaryInputs { x: x.clone() })
}

impl Block for Silu {
    type Inputs<T> = UnaryInputs<T>;
    const NAME: &'static str = "silu";

    fn infer(&self, i: UnaryInputs<&Spec>) -> Result<Spec, ShapeError> {
        check::float("x", i.x)?;
        Ok(i.x.clone())
    }

    fn compose(&self, i: UnaryInputs<Tensor>) -> Tensor {
        let x = i.x.cast(DType::F32);
        (&x * x.sigmoid()).cast(i.x.dtype())
    }
}

impl Entry for Silu {
    const FORMULA: &'static str = "x * sigmoid(x)";
    const MAIN: &'static str = "x";

    fn parse(_: &mut Options) -> Result<Silu, String> {
        Ok(Silu)
    }

    fn oracle(&self, i: UnaryInputs<&Array>) -> Array {
        let data = i.x.data.iter().map(|x| x / (1.0 + (-x).exp())).collect();
        Array { shape: i.x.shape.clone(), data }
    }

    fn recognise() -> Vec<Rule> {
        let x = any("x");
        // Also x / (1 + exp(-x)), as a sigmoid that was taken apart.
        let spellings = [("x sigmoid(x)", &x * sigmoid(&x))];
        vec![Rule::formula(Self::NAME, spellings, |m| Ok(silu(&m.main("x")?)))]
    }

    fn cases() -> Vec<Case<Silu>> {
        let case = |name, why, shape: &[usize], scale| {
            let x = normal(shape).normal(0.0, scale);
            Case::new(name, why, Silu, UnaryInputs { x })
        };
        vec![
            case("plain", "odd length", &[3, 41], 2.0).floats(),
            case("far_ends", "no overflow, no NaN", &[3, 41], 60.0).floats(),
            case("silu_prefill", "512 tokens", &[512, 3072], 1.0).bench(),
        ]
    }
}
