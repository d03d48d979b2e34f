//! Rows of a table by index.

use crate::{
    Array, Case, Entry, Options, check,
    catalogue::{integers, normal},
};
use frit_graph::{Block, Prim, Rewrite, Rule, ShapeError, Spec, Tensor, operands};

/// `y[.., c] = weight[ids[..], c]`.
///
/// # Inputs
/// - `weight`: `[V, C]`, f32, f16 or bf16
/// - `ids`: integers of any shape, each in `0..V` (checked when the program runs)
///
/// # Output
/// `[ids.., C]` in the type of `weight`.
///
/// # Numerics
/// A copy.
///
/// # Example
/// ```
/// use frit_graph::{DType, Graph, Spec};
/// use frit_ops::fast;
/// let specs = [Spec::new(DType::F32, [10, 4]), Spec::new(DType::F32, [3])];
/// let wrong = Graph::trace(&specs, |x| vec![fast::embedding(&x[0], &x[1])]);
/// assert!(wrong.unwrap_err().to_string().starts_with(
///     "[embedding] ids must be integers, got f32[3] --> "
/// ));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding;

operands!(/// Inputs of [`Embedding`].
    pub EmbeddingInputs { weight, ids } optional {});

/// [`Embedding`] of `ids` in `weight`.
#[track_caller]
pub fn embedding(weight: &Tensor, ids: &Tensor) -> Tensor {
    Tensor::block(Embedding, EmbeddingInputs { weight: weight.clone(), ids: ids.clone() })
}

impl Block for Embedding {
    type Inputs<T> = EmbeddingInputs<T>;
    const NAME: &'static str = "embedding";

    fn infer(&self, i: EmbeddingInputs<&Spec>) -> Result<Spec, ShapeError> {
        check::float("weight", i.weight)?;
        check::not_empty("ids", i.ids)?;
        if i.weight.rank() != 2 {
            return Err(format!("weight must be [V, C], got {}", i.weight).into());
        }
        if !i.ids.dtype.is_integer() {
            return Err(format!("ids must be integers, got {}", i.ids).into());
        }
        Ok(i.weight.with_shape([&i.ids.shape[..], &i.weight.shape[1..]].concat()))
    }

    fn compose(&self, i: EmbeddingInputs<Tensor>) -> Tensor {
        i.weight.gather(0, &i.ids)
    }
}

impl Entry for Embedding {
    const FORMULA: &'static str = "weight[ids]";
    const MAIN: &'static str = "weight";

    fn parse(_: &mut Options) -> Result<Embedding, String> {
        Ok(Embedding)
    }

    fn oracle(&self, i: EmbeddingInputs<&Array>) -> Array {
        let c = i.weight.last();
        let rows = i.ids.data.iter().map(|&r| &i.weight.data[r as usize * c..][..c]);
        let data = rows.flatten().copied().collect();
        Array { shape: [&i.ids.shape[..], &[c]].concat(), data }
    }

    fn recognise() -> Vec<Rule> {
        vec![
            Rule::new(Self::NAME, |site| match (site.node().prim(), site.node().inputs()) {
                (Some(Prim::Gather(0)), [Some(weight), Some(ids)])
                    if weight.rank() == 2 && weight.dtype().is_float() =>
                {
                    Rewrite::of(site.node(), embedding(weight, ids))
                }
                _ => Rewrite::NoMatch,
            })
            .at(["gather"]),
        ]
    }

    fn cases() -> Vec<Case<Embedding>> {
        let ids = integers(&[2, 3], &[0, 4, 2, 9, 9, 1]);
        let inputs = EmbeddingInputs { weight: normal(&[10, 7]), ids };
        let scalar = EmbeddingInputs { weight: normal(&[3, 5]), ids: integers(&[], &[2]) };
        vec![
            Case::new("plain", "rows in any order", Embedding, inputs).floats(),
            Case::new("scalar", "one id", Embedding, scalar),
        ]
    }
}
