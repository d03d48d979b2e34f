//! The gate of feed-forward layers (Shazeer, 2020).

use crate::{Array, Case, Entry, Options, catalogue::normal, check};
use frit_graph::{
    Block, DType, Prim, Rule, ShapeError, Spec, Tensor, operands,
    pattern::{any, sigmoid},
};

/// `y = gate * sigmoid(gate) * up`, elementwise.
///
/// # Inputs
/// - `gate`, `up`: `[.., F]`, equal in shape and type
///
/// # Output
/// `[.., F]` in the type of `gate`.
///
/// # Numerics
/// f32; neither end overflows; rounded once.
///
/// # Example
/// ```
/// use frit_graph::{DType, Graph, Spec};
/// use frit_ops::fast;
/// let spec = |shape: &[usize]| Spec::new(DType::F32, shape);
/// let wrong =
///     Graph::trace(&[spec(&[2, 8]), spec(&[8])], |x| vec![fast::swiglu(&x[0], &x[1])]);
/// assert!(wrong.unwrap_err().to_string().starts_with(
///     "[swiglu] gate f32[2, 8] and up f32[8] must be equal --> "
/// ));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SwiGlu;

operands!(/// Inputs of [`SwiGlu`].
    pub SwiGluInputs { gate, up } optional {});

/// [`SwiGlu`] of `gate` and `up`.
#[track_caller]
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Tensor {
    Tensor::block(SwiGlu, SwiGluInputs { gate: gate.clone(), up: up.clone() })
}

impl Block for SwiGlu {
    type Inputs<T> = SwiGluInputs<T>;
    const NAME: &'static str = "swiglu";

    fn infer(&self, i: SwiGluInputs<&Spec>) -> Result<Spec, ShapeError> {
        check::float("gate", i.gate)?;
        match i.gate == i.up {
            true => Ok(i.gate.clone()),
            false => Err(format!("gate {} and up {} must be equal", i.gate, i.up).into()),
        }
    }

    fn compose(&self, i: SwiGluInputs<Tensor>) -> Tensor {
        let gate = i.gate.cast(DType::F32);
        let y = &gate * gate.sigmoid() * i.up.cast(DType::F32);
        y.cast(i.gate.dtype())
    }
}

impl Entry for SwiGlu {
    const FORMULA: &'static str = "gate * sigmoid(gate) * up";
    const MAIN: &'static str = "gate";

    fn parse(_: &mut Options) -> Result<SwiGlu, String> {
        Ok(SwiGlu)
    }

    fn oracle(&self, i: SwiGluInputs<&Array>) -> Array {
        let pairs = i.gate.data.iter().zip(&i.up.data);
        let data = pairs.map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
        Array { shape: i.gate.shape.clone(), data }
    }

    fn recognise() -> Vec<Rule> {
        let gate = any("gate");
        // What is broadcast is a scale and no projection.
        let up = any("up").when("the other factor is broadcast", |t| {
            !matches!(t.prim(), Some(Prim::Broadcast | Prim::Constant(_)))
        });
        let spellings = [("silu(gate) up", &gate * sigmoid(&gate) * up)];
        vec![Rule::formula(Self::NAME, spellings, |m| {
            Ok(swiglu(&m.main("gate")?, &m.main("up")?))
        })]
    }

    fn cases() -> Vec<Case<SwiGlu>> {
        let case = |name, why, shape: &[usize], scale| {
            let (gate, up) = (normal(shape), normal(shape));
            let (gate, up) = (gate.normal(0.0, scale), up.normal(0.0, scale));
            Case::new(name, why, SwiGlu, SwiGluInputs { gate, up })
        };
        vec![
            case("plain", "feed-forward gate", &[2, 3, 100], 1.0).floats(),
            case("extreme", "no overflow at either end", &[4, 64], 60.0).floats(),
            case("odd_length", "vector tails", &[1, 37], 1.0).floats(),
            case("scalar", "rank 0", &[], 1.0),
            case("swiglu_prefill", "512 tokens", &[512, 3072], 1.0).bench(),
            case("swiglu_decode", "one token", &[1, 1536], 1.0).bench(),
        ]
    }
}
