//! The passes that make a graph smaller before it is lowered. Each is named and pure.

use super::Graph;
use crate::{Binary, Error, Op, Prim, Real, Spec, Tensor, Value, reference};
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

/// A known result larger than this is left to the backend rather than kept in the program.
const FOLD_LIMIT: usize = 1 << 20;

impl Graph {
    /// All passes in their order: simplify, fold constants, share common nodes. Dead nodes need
    /// no pass: what no output reaches is not part of a graph.
    ///
    /// # Errors
    /// An error met while computing a constant.
    pub fn optimise(&self) -> Result<Graph, Error> {
        self.simplify()?.fold()?.share()
    }

    /// Takes away what changes nothing: `x + 0`, `x * 1`, double transposes, reshapes of reshapes,
    /// casts of what is repeated.
    ///
    /// # Errors
    /// None in practice: the rules keep every spec.
    pub fn simplify(&self) -> Result<Graph, Error> {
        self.map(|t| simpler(t).unwrap_or_else(|| t.clone()))
    }

    /// Computes what depends on constants alone, by the reference.
    ///
    /// # Errors
    /// When a constant expression is wrong, such as an index out of range.
    pub fn fold(&self) -> Result<Graph, Error> {
        let mut failed = None;
        let graph = self.map(|t| match fold_one(t) {
            Some(Ok(value)) => Tensor::constant(value),
            Some(Err(e)) => {
                failed.get_or_insert(e);
                t.clone()
            }
            None => t.clone(),
        })?;
        failed.map_or(Ok(graph), Err)
    }

    /// Makes one node of nodes that are the same operation on the same operands.
    ///
    /// # Errors
    /// None in practice: nothing changes but sharing.
    pub fn share(&self) -> Result<Graph, Error> {
        let mut known: HashMap<u64, Vec<Tensor>> = HashMap::new();
        self.map(|t| {
            let same = known.entry(key(t)).or_default();
            match same.iter().find(|o| equal(o, t)) {
                Some(old) => old.clone(),
                None => {
                    same.push(t.clone());
                    t.clone()
                }
            }
        })
    }
}

fn key(t: &Tensor) -> u64 {
    let mut h = DefaultHasher::new();
    t.name().hash(&mut h);
    t.spec().hash(&mut h);
    for i in t.inputs() {
        i.as_ref().map(|i| i.id()).hash(&mut h);
    }
    if let Some(Prim::Constant(v)) = t.prim() {
        v.bytes()[..v.bytes().len().min(256)].hash(&mut h);
    }
    h.finish()
}

fn equal(a: &Tensor, b: &Tensor) -> bool {
    let inputs = a.inputs().len() == b.inputs().len()
        && a.inputs().iter().zip(b.inputs()).all(|(a, b)| match (a, b) {
            (Some(a), Some(b)) => a.is(b),
            (None, None) => true,
            _ => false,
        });
    let op = match (a.op(), b.op()) {
        (Op::Prim(a), Op::Prim(b)) => a == b,
        (Op::Block(a), Op::Block(b)) => a.same(&**b),
        _ => false,
    };
    inputs && op && a.spec() == b.spec()
}

fn fold_one(t: &Tensor) -> Option<Result<Value, Error>> {
    let prim = t.prim()?;
    // Broadcasts stay: they are free as views and large as values.
    let skip =
        matches!(prim, Prim::Input(_) | Prim::Param(_) | Prim::Constant(_) | Prim::Broadcast);
    if skip || t.spec().numel() > FOLD_LIMIT {
        return None;
    }
    let known: Option<Vec<Value>> = t
        .inputs()
        .iter()
        .flatten()
        .map(|i| match i.prim()? {
            Prim::Constant(v) => Some(v.clone()),
            // A broadcast constant is written out here only, to be consumed at once.
            Prim::Broadcast if i.spec().numel() <= FOLD_LIMIT => match i.input(0)?.prim()? {
                Prim::Constant(v) => reference::eval(&Prim::Broadcast, i.spec(), &[v]).ok(),
                _ => None,
            },
            _ => None,
        })
        .collect();
    let known = known?;
    Some(reference::eval(prim, t.spec(), &known.iter().collect::<Vec<_>>()))
}

/// The number a tensor holds everywhere, if that is known.
pub(crate) fn uniform(t: &Tensor) -> Option<f64> {
    match t.prim()? {
        Prim::Constant(v) if v.spec().numel() == 1 => Some(v.to_f64()[0]),
        Prim::Broadcast | Prim::Reshape => uniform(t.input(0)?),
        _ => None,
    }
}

fn simpler(t: &Tensor) -> Option<Tensor> {
    let x = t.input(0)?;
    match t.prim()? {
        Prim::Binary(b) => {
            let y = t.input(1)?;
            let (l, r) = (uniform(x), uniform(y));
            match b {
                // -0.0 + 0.0 is 0.0, so only -0.0 is neutral on floats.
                Binary::Add if neutral_zero(r, t.spec()) => Some(x.clone()),
                Binary::Add if neutral_zero(l, t.spec()) => Some(y.clone()),
                Binary::Sub if r.is_some_and(|r| Real(r) == Real(0.0)) => Some(x.clone()),
                Binary::Mul | Binary::Div if r == Some(1.0) => Some(x.clone()),
                Binary::Mul if l == Some(1.0) => Some(y.clone()),
                _ => None,
            }
        }
        Prim::Cast => match x.prim()? {
            // Widening and back is the identity.
            Prim::Cast if x.input(0)?.spec() == t.spec() && widens(x) => x.input(0).cloned(),
            // What is repeated is cast once.
            Prim::Broadcast if x.input(0)?.spec().numel() < x.spec().numel() => {
                Some(x.input(0)?.cast(t.dtype()).broadcast_to(t.shape()))
            }
            _ => None,
        },
        Prim::Reshape => match x.prim()? {
            Prim::Reshape => Some(x.input(0)?.reshape(t.shape())),
            _ if x.spec() == t.spec() => Some(x.clone()),
            _ => None,
        },
        Prim::Transpose(outer) => match x.prim()? {
            Prim::Transpose(inner) => {
                let perm: Vec<usize> = outer.iter().map(|&o| inner[o]).collect();
                Some(x.input(0)?.transpose(&perm))
            }
            _ => None,
        },
        Prim::Broadcast => match x.prim()? {
            Prim::Broadcast => Some(x.input(0)?.broadcast_to(t.shape())),
            _ => None,
        },
        _ => None,
    }
}

fn neutral_zero(number: Option<f64>, spec: &Spec) -> bool {
    number.is_some_and(|n| n == 0.0 && (n.is_sign_negative() || !spec.dtype.is_float()))
}

fn widens(cast: &Tensor) -> bool {
    use crate::DType::{BF16, F16, F32, F64};
    cast.input(0).is_some_and(|from| {
        matches!((from.dtype(), cast.dtype()), (F16 | BF16, F32 | F64) | (F32, F64))
    })
}

/// Graphs are shared between threads by programs; the compiler checks it here.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Graph>();
    shared::<Arc<Tensor>>();
};
