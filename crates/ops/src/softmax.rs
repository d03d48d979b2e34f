//! Softmax over one axis.

use crate::{Array, Case, Entry, Options, UnaryInputs, catalogue::normal, check};
use frit_graph::{
    Block, DType, Reduce, Rule, ShapeError, Spec, Tensor,
    pattern::{Axis, any, reduce},
};

/// `y = exp(x - max(x)) / sum(exp(x - max(x)))`, along `axis`.
///
/// # Inputs
/// - `x`: at least one axis, f32, f16 or bf16
///
/// # Output
/// As `x`.
///
/// # Numerics
/// f32; rounded once. A row of nothing but -inf is plain arithmetic: NaN.
///
/// # Example
/// ```
/// use frit_graph::{DType, Graph, Spec};
/// use frit_ops::fast;
/// let wrong =
///     Graph::trace(&[Spec::new(DType::F32, [2, 3])], |x| vec![fast::softmax(&x[0], 2)]);
/// assert!(wrong.unwrap_err().to_string().starts_with(
///     "[softmax] axis 2 does not exist in x f32[2, 3] --> "
/// ));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Softmax {
    /// The axis, from the end where negative.
    pub axis: isize,
}

/// [`Softmax`] of `x` along `axis`.
#[track_caller]
pub fn softmax(x: &Tensor, axis: isize) -> Tensor {
    Tensor::block(Softmax { axis }, UnaryInputs { x: x.clone() })
}

impl Softmax {
    /// The axis counted from the front.
    pub fn axis_of(&self, rank: usize) -> Option<usize> {
        let axis = if self.axis < 0 { self.axis + rank as isize } else { self.axis };
        usize::try_from(axis).ok().filter(|&a| a < rank)
    }
}

impl Block for Softmax {
    type Inputs<T> = UnaryInputs<T>;
    const NAME: &'static str = "softmax";

    fn infer(&self, i: UnaryInputs<&Spec>) -> Result<Spec, ShapeError> {
        check::float("x", i.x)?;
        match self.axis_of(i.x.rank()) {
            Some(_) => Ok(i.x.clone()),
            None => Err(format!("axis {} does not exist in x {}", self.axis, i.x).into()),
        }
    }

    fn compose(&self, i: UnaryInputs<Tensor>) -> Tensor {
        let x = i.x.cast(DType::F32);
        let e = (&x - x.max(&[self.axis])).exp();
        (&e / e.sum(&[self.axis])).cast(i.x.dtype())
    }
}

impl Entry for Softmax {
    const FORMULA: &'static str = "exp(x - max) / sum(exp(x - max))";
    const MAIN: &'static str = "x";

    fn parse(o: &mut Options) -> Result<Softmax, String> {
        Ok(Softmax { axis: o.number("axis", -1.0)? as isize })
    }

    fn oracle(&self, i: UnaryInputs<&Array>) -> Array {
        let axis = self.axis_of(i.x.shape.len()).unwrap_or(0);
        let inner: usize = i.x.shape[axis + 1..].iter().product();
        let extent = i.x.shape[axis];
        let mut y = i.x.clone();
        for line in 0..y.data.len() / extent {
            let first = line / inner * inner * extent + line % inner;
            let places = || (0..extent).map(move |j| first + j * inner);
            let top = places().map(|p| i.x.data[p]).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = places().map(|p| (i.x.data[p] - top).exp()).sum();
            places().for_each(|p| y.data[p] = (i.x.data[p] - top).exp() / sum);
        }
        y
    }

    fn recognise() -> Vec<Rule> {
        let (x, axis) = (any("x"), Axis::Named("axis"));
        let plain = x.exp();
        let stable = (&x - reduce(Reduce::Max, &x, axis)).exp();
        let spellings = [
            ("stable", &stable / reduce(Reduce::Sum, &stable, axis)),
            ("plain", &plain / reduce(Reduce::Sum, &plain, axis)),
        ];
        vec![Rule::formula(Self::NAME, spellings, |m| {
            let axis = m.axis("axis").ok_or("no axis")?;
            let last = axis + 1 == m.root().rank();
            Ok(softmax(&m.main("x")?, if last { -1 } else { axis as isize }))
        })]
    }

    fn cases() -> Vec<Case<Softmax>> {
        let case = |name, why, axis, shape: &[usize]| {
            let x = normal(shape).normal(0.0, 3.0);
            Case::new(name, why, Softmax { axis }, UnaryInputs { x })
        };
        vec![
            case("last", "odd width", -1, &[3, 5, 37]).floats(),
            case("width_1", "always one", -1, &[3, 1]),
            case("first", "strided", 0, &[7, 5]).floats(),
            case("middle", "strided", 1, &[2, 9, 5]).floats(),
            case("softmax_scores", "scores of whisper", -1, &[6, 500, 1500]).bench(),
        ]
    }
}
