//! One node being imported: its operands, its attributes, and what is known of them.

use super::{
    data::Files,
    elem::{Elem, Item},
    known::Known,
    proto::{self, Attribute},
};
use frit_graph::{DType, Tensor, Value};

/// Why a node could not be imported.
#[derive(Debug)]
pub(super) enum Fault {
    /// The standard allows it, and it is not supported here.
    Unsupported(String),
    /// The file breaks a rule.
    Wrong(String),
}

impl From<String> for Fault {
    fn from(message: String) -> Fault {
        Fault::Wrong(message)
    }
}

impl From<&str> for Fault {
    fn from(message: &str) -> Fault {
        Fault::Wrong(message.into())
    }
}

pub(super) type Answer = Result<Vec<Item>, Fault>;

/// A fault that says what is not supported.
pub(super) fn unsupported<T>(what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Unsupported(what.into()))
}

/// One result.
pub(super) fn one(item: Item) -> Answer {
    Ok(vec![item])
}

/// A node with its operands in place.
pub(super) struct Call<'a> {
    pub(super) operator: &'a str,
    pub(super) attributes: &'a [Attribute],
    pub(super) inputs: Vec<Option<Item>>,
    /// Which results have a name.
    pub(super) wanted: Vec<bool>,
    /// The version of the operator's set.
    pub(super) opset: i64,
    pub(super) known: &'a Known,
    pub(super) files: &'a Files,
}

impl Call<'_> {
    /// A required operand.
    pub(super) fn item(&self, i: usize) -> Result<&Item, Fault> {
        self.opt(i).ok_or_else(|| Fault::Wrong(format!("input {i} is missing")))
    }

    /// A required operand as a tensor.
    pub(super) fn t(&self, i: usize) -> Result<&Tensor, Fault> {
        Ok(&self.item(i)?.t)
    }

    /// An operand that may be absent.
    pub(super) fn opt(&self, i: usize) -> Option<&Item> {
        self.inputs.get(i)?.as_ref()
    }

    pub(super) fn opt_t(&self, i: usize) -> Option<&Tensor> {
        self.opt(i).map(|i| &i.t)
    }

    /// Whether result `i` is asked for.
    pub(super) fn wants(&self, i: usize) -> bool {
        self.wanted.get(i).copied().unwrap_or(false)
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|a| a.name == name)
    }

    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).and_then(|a| a.int).unwrap_or(default)
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.int(name, 0) != 0
    }

    pub(super) fn float(&self, name: &str, default: f32) -> f64 {
        f64::from(self.attribute(name).and_then(|a| a.float).unwrap_or(default))
    }

    /// A list of integers, if the attribute is there.
    pub(super) fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|a| &a.ints[..])
    }

    pub(super) fn text(&self, name: &str, default: &str) -> String {
        let text = self.attribute(name).and_then(|a| a.text.as_deref());
        text.map_or(default.to_string(), |t| String::from_utf8_lossy(t).into_owned())
    }

    /// The value of a tensor attribute.
    pub(super) fn value(&self, tensor: &proto::Tensor) -> Result<(Elem, Value), Fault> {
        self.files.value(tensor).map_err(|m| Fault::Wrong(format!("its value {m}")))
    }

    /// The integers of an operand that must be known now; `None` where it is absent.
    pub(super) fn static_ints(&self, i: usize) -> Result<Option<Vec<i64>>, Fault> {
        let Some(t) = self.opt_t(i) else { return Ok(None) };
        match self.known.demanded(t) {
            Some(v) => Ok(Some(v.to_i64())),
            None => unsupported(format!("input {i} depends on values at run time")),
        }
    }

    /// The numbers of an operand that must be known now; `None` where it is absent.
    pub(super) fn static_floats(&self, i: usize) -> Result<Option<Vec<f64>>, Fault> {
        let Some(t) = self.opt_t(i) else { return Ok(None) };
        match self.known.demanded(t) {
            Some(v) => Ok(Some(v.to_f64())),
            None => unsupported(format!("input {i} depends on values at run time")),
        }
    }

    /// Integers that are an attribute in old versions and an operand in new ones.
    pub(super) fn ints_of(&self, name: &str, i: usize) -> Result<Option<Vec<i64>>, Fault> {
        match self.ints(name) {
            Some(list) => Ok(Some(list.to_vec())),
            None => self.static_ints(i),
        }
    }
}

/// An axis counted from the front.
pub(super) fn axis_of(axis: i64, rank: usize) -> Result<usize, Fault> {
    let at = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    match usize::try_from(at) {
        Ok(at) if at < rank => Ok(at),
        _ => Err(Fault::Wrong(format!("axis {axis} does not exist in rank {rank}"))),
    }
}

/// Extents from integers.
pub(super) fn sizes(list: &[i64]) -> Result<Vec<usize>, Fault> {
    let size = |&n: &i64| usize::try_from(n).map_err(|_| Fault::Wrong(format!("{n} is no size")));
    list.iter().map(size).collect()
}

/// The product of extents. It stops at the end of the numbers: an extent of zero elsewhere may hide
/// that they are beyond it.
pub(super) fn product(shape: &[usize]) -> usize {
    shape.iter().fold(1, |n, &d| n.saturating_mul(d))
}

/// Whether the Blocks of the catalogue take it.
pub(super) fn takes_blocks(t: &Tensor) -> bool {
    matches!(t.dtype(), DType::F32 | DType::F16 | DType::BF16) && !t.shape().contains(&0)
}
