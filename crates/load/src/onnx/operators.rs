//! The operators: a table of names, and one function each that writes the operator in primitives
//! or as a Block of the catalogue.
//!
//! The files are by kind. A function takes the [`Call`] and gives the results; it neither looks at
//! names nor at other nodes.

mod activation;
mod attention;
mod contrib;
mod conv;
mod elementwise;
mod gather;
mod loss;
mod matmul;
mod movement;
mod norm;
mod packed;
mod pool;
mod quantize;
mod reduce;
mod resize;
mod shape;

use super::{
    call::{Answer, Call, one, unsupported},
    elem::{Elem, Item, integers, numbers},
};
use frit_graph::{DType, Tensor};

/// What imports one operator.
pub(super) type Handler = fn(&Call<'_>) -> Answer;

/// Operators of one domain by name.
type Table = &'static [(&'static str, Handler)];

const STANDARD: &[Table] = &[
    activation::TABLE,
    attention::TABLE,
    conv::TABLE,
    elementwise::TABLE,
    gather::TABLE,
    loss::TABLE,
    matmul::TABLE,
    movement::TABLE,
    norm::TABLE,
    pool::TABLE,
    quantize::TABLE,
    reduce::TABLE,
    resize::TABLE,
    shape::TABLE,
];

/// The function that imports this operator.
pub(super) fn find(domain: &str, operator: &str) -> Option<Handler> {
    let tables = match domain {
        "" => STANDARD,
        "com.microsoft" => &[contrib::TABLE, packed::TABLE][..],
        _ => return None,
    };
    let all = tables.iter().flat_map(|t| t.iter());
    all.copied().find(|(name, _)| *name == operator).map(|(_, handler)| handler)
}

/// The value of a Constant node.
pub(super) fn constant(c: &Call<'_>) -> Answer {
    let Some(a) = c.attributes.first() else { return Err("has no value".into()) };
    if let Some(tensor) = &a.tensor {
        let (e, value) = c.value(tensor)?;
        return one(Item { t: Tensor::constant(value), e });
    }
    match &*a.name {
        "value_int" => one(Item::plain(integers(&[], vec![a.int.unwrap_or(0)]))),
        "value_ints" => one(Item::plain(integers(&[a.ints.len()], a.ints.clone()))),
        "value_float" => {
            one(Item::plain(Tensor::scalar(DType::F32, f64::from(a.float.unwrap_or(0.0)))))
        }
        "value_floats" => {
            let list: Vec<f64> = a.floats.iter().map(|&f| f64::from(f)).collect();
            one(Item::plain(numbers(DType::F32, &[list.len()], &list)))
        }
        other => unsupported(format!("attribute {other}")),
    }
}

/// The element type of this code.
fn elem(code: i64) -> Result<Elem, super::call::Fault> {
    Elem::of(code).map_err(|name| super::call::Fault::Unsupported(format!("type {name}")))
}

/// `f` of `x` in f32, rounded once; wider types stay.
fn in_f32(x: &Tensor, f: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
    f(&x.cast(x.dtype().compute())).cast(x.dtype())
}
