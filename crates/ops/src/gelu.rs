//! Gaussian error linear unit (Hendrycks and Gimpel, 2016).

use crate::{Array, Case, Entry, Options, catalogue::normal, check};
use frit_graph::{
    Block, DType, Rule, ShapeError, Spec, Tensor, operands,
    pattern::{Pattern, any, erf as erf_of, one_of, sigmoid},
    reference::erf,
};
use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// How the Gaussian distribution function is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GeluForm {
    /// `x/2 (1 + erf(x/sqrt 2))`, exactly.
    #[default]
    Erf,
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
    Tanh,
    /// `x sigmoid(1.702 x)`.
    Quick,
}

/// `y = x * P(X <= x)` for a standard normal X, elementwise.
///
/// # Inputs
/// - `x`: any shape, f32, f16 or bf16
///
/// # Output
/// As `x`.
///
/// # Numerics
/// f32; rounded once.
///
/// # Example
/// ```
/// use frit_graph::{DType, Graph, Spec};
/// use frit_ops::{GeluForm, fast};
/// let wrong = Graph::trace(&[Spec::new(DType::I64, [2])], |x| {
///     vec![fast::gelu(&x[0], GeluForm::Erf)]
/// });
/// assert!(wrong.unwrap_err().to_string().starts_with(
///     "[gelu] x must be f32, f16 or bf16, got i64[2] --> "
/// ));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gelu {
    /// Exact or one of two approximations.
    pub form: GeluForm,
}

operands!(/// The operand of an elementwise activation.
    pub UnaryInputs { x } optional {});

/// [`Gelu`] of `x`.
#[track_caller]
pub fn gelu(x: &Tensor, form: GeluForm) -> Tensor {
    Tensor::block(Gelu { form }, UnaryInputs { x: x.clone() })
}

impl GeluForm {
    /// The composition on an f32 tensor.
    pub(crate) fn compose(self, x: &Tensor) -> Tensor {
        match self {
            GeluForm::Erf => x * 0.5 * ((x * FRAC_1_SQRT_2).erf() + 1.0),
            GeluForm::Tanh => {
                let inner = (x + x * x * x * 0.044715) * (2.0 / PI).sqrt();
                x * 0.5 * (inner.tanh() + 1.0)
            }
            GeluForm::Quick => x * (x * 1.702).sigmoid(),
        }
    }

    /// How others write it, of the operand `x`: every form with its spelling.
    pub(crate) fn spellings(x: &Pattern) -> Vec<(GeluForm, &'static str, Pattern)> {
        let root = (2.0 / PI).sqrt();
        // The cubic of the tanh form times a number: as a sum, as a product, multiplied out.
        let cubic = |by: f64| {
            one_of([
                (x + x.cubed() * 0.044715) * by,
                x * (1.0 + x.squared() * 0.044715) * by,
                x * by + x.cubed() * (0.044715 * by),
            ])
        };
        let halves = |f: Pattern| {
            [
                // torch, transformers, paddle2onnx, Keras: the order of the factors is open.
                x * 0.5 * (1.0 + &f),
                // tf2onnx: the distribution function first, multiplied out.
                x * (0.5 + &f * 0.5),
                x * 0.5 + x * 0.5 * &f,
            ]
        };
        let [erf_a, erf_b, erf_c] = halves(erf_of(x * FRAC_1_SQRT_2));
        let [tanh_a, tanh_b, tanh_c] = halves(cubic(root).tanh());
        vec![
            (GeluForm::Erf, "x/2 (1 + erf)", erf_a),
            (GeluForm::Erf, "x (1/2 + erf/2)", erf_b),
            (GeluForm::Erf, "x/2 + x/2 erf", erf_c),
            (GeluForm::Tanh, "x/2 (1 + tanh)", tanh_a),
            (GeluForm::Tanh, "x (1/2 + tanh/2)", tanh_b),
            (GeluForm::Tanh, "x/2 + x/2 tanh", tanh_c),
            (GeluForm::Tanh, "x sigmoid of twice the cubic", x * sigmoid(cubic(2.0 * root))),
            (GeluForm::Quick, "x sigmoid(1.702 x)", x * sigmoid(x * 1.702)),
        ]
    }

    /// The value in float64.
    pub(crate) fn oracle(self, x: f64) -> f64 {
        match self {
            GeluForm::Erf => 0.5 * x * (1.0 + erf(x / 2.0f64.sqrt())),
            GeluForm::Tanh => {
                0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
            GeluForm::Quick => x / (1.0 + (-1.702 * x).exp()),
        }
    }

    pub(crate) fn parse(o: &mut Options) -> Result<GeluForm, String> {
        match o.text("approximate")?.as_deref() {
            None | Some("none") => Ok(GeluForm::Erf),
            Some("tanh") => Ok(GeluForm::Tanh),
            Some("quick") => Ok(GeluForm::Quick),
            Some(other) => {
                Err(format!("option `approximate` must be none, tanh or quick, got {other}"))
            }
        }
    }
}

impl Block for Gelu {
    type Inputs<T> = UnaryInputs<T>;
    const NAME: &'static str = "gelu";

    fn infer(&self, i: UnaryInputs<&Spec>) -> Result<Spec, ShapeError> {
        check::float("x", i.x)?;
        Ok(i.x.clone())
    }

    fn compose(&self, i: UnaryInputs<Tensor>) -> Tensor {
        self.form.compose(&i.x.cast(DType::F32)).cast(i.x.dtype())
    }
}

impl Entry for Gelu {
    const FORMULA: &'static str = "x/2 (1 + erf(x/sqrt 2)), or by tanh or sigmoid";
    const MAIN: &'static str = "x";

    fn parse(o: &mut Options) -> Result<Gelu, String> {
        Ok(Gelu { form: GeluForm::parse(o)? })
    }

    fn oracle(&self, i: UnaryInputs<&Array>) -> Array {
        let data = i.x.data.iter().map(|&x| self.form.oracle(x)).collect();
        Array { shape: i.x.shape.clone(), data }
    }

    fn recognise() -> Vec<Rule> {
        let rule = |wanted: GeluForm| {
            let all = GeluForm::spellings(&any("x")).into_iter();
            let spellings = all.filter(|s| s.0 == wanted).map(|s| (s.1, s.2));
            Rule::formula(Self::NAME, spellings, move |m| Ok(gelu(&m.main("x")?, wanted)))
        };
        vec![rule(GeluForm::Erf), rule(GeluForm::Tanh), rule(GeluForm::Quick)]
    }

    fn cases() -> Vec<Case<Gelu>> {
        let case = |name, why, form, scale| {
            let x = normal(&[3, 41]).normal(0.0, scale);
            Case::new(name, why, Gelu { form }, UnaryInputs { x }).floats()
        };
        let x = || UnaryInputs { x: normal(&[1, 1500, 1536]) };
        vec![
            case("erf", "exact", GeluForm::Erf, 2.0),
            case("tanh", "GPT-2's", GeluForm::Tanh, 2.0),
            case("quick", "CLIP's", GeluForm::Quick, 2.0),
            case("far_ends", "no overflow, no NaN", GeluForm::Erf, 60.0),
            case("far_ends_tanh", "no overflow, no NaN", GeluForm::Tanh, 60.0),
            case("near_zero", "no cancellation", GeluForm::Erf, 1e-4),
            Case::new("gelu_whisper", "feed-forward of the encoder", Gelu::default(), x()).bench(),
        ]
    }
}
