//! The reference backend: every primitive as one readable loop, in f64 or i64, rounded once to the
//! type of the result. Small and slow: the oracle of the other backends, the folder of constants,
//! and what makes the examples run.

mod arithmetic;
mod movement;
mod special;

pub use crate::value::{round_bf16, round_f16};
pub use movement::{index_error, update_error};
pub use special::erf;

use crate::{
    Backend, Decline, DynBlock, Error, Executable, Graph, Op, Params, Prim, Spec, Tensor, Value,
    row_major,
};
use std::collections::HashMap;

/// The reference backend. It has no fused kernel: every Block is composed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

impl Backend for Reference {
    fn name(&self) -> &str {
        "reference"
    }

    fn accept(&self, _: &dyn DynBlock, _: &[Option<&Spec>]) -> Result<(), Decline> {
        Err(Decline::NoKernel)
    }

    fn prepare(&self, graph: &Graph, params: &Params) -> Result<Box<dyn Executable>, Error> {
        let nodes = graph.nodes();
        Ok(Box::new(Evaluation { graph: graph.clone(), nodes, params: params.clone() }))
    }
}

struct Evaluation {
    graph: Graph,
    nodes: Vec<Tensor>,
    params: Params,
}

impl Executable for Evaluation {
    fn run(&self, inputs: Vec<Value>) -> Result<Vec<Value>, Error> {
        let mut done: HashMap<u64, Value> = HashMap::new();
        for t in &self.nodes {
            let value = match t.op() {
                Op::Prim(Prim::Input(i)) => inputs[*i].clone(),
                Op::Prim(Prim::Param(name)) => match self.params.get(name) {
                    Some(v) => v.clone(),
                    None => {
                        let (name, wanted) = (name.to_string(), t.spec().clone());
                        return Err(Error::MissingParam { name, wanted });
                    }
                },
                Op::Prim(prim) => {
                    let operands: Vec<&Value> =
                        t.inputs().iter().flatten().map(|i| &done[&i.id()]).collect();
                    eval(prim, t.spec(), &operands)?
                }
                _ => {
                    let message = format!("cannot run {}", t.name());
                    return Err(Error::Backend { backend: "reference".into(), message });
                }
            };
            done.insert(t.id(), value);
        }
        Ok(self.graph.outputs().iter().map(|t| done[&t.id()].clone()).collect())
    }

    /// It frees nothing while it runs, so this is the sum.
    fn peak_bytes(&self) -> usize {
        let made = self.nodes.iter().filter(|t| t.prim().is_none_or(|p| !p.is_leaf()));
        made.map(|t| t.spec().bytes()).sum()
    }

    fn steps(&self) -> usize {
        self.nodes.iter().filter(|t| t.prim().is_none_or(|p| !p.is_leaf())).count()
    }
}

/// Computes one primitive that is neither an input nor a weight.
///
/// # Errors
/// An index out of range, a write past the end.
pub fn eval(prim: &Prim, out: &Spec, x: &[&Value]) -> Result<Value, Error> {
    match prim {
        Prim::Constant(v) => Ok(v.clone()),
        Prim::Iota(axis) => {
            let (stride, extent) = (row_major(&out.shape)[*axis], out.shape[*axis].max(1));
            let data: Vec<f64> = (0..out.numel()).map(|i| ((i / stride) % extent) as f64).collect();
            Value::from_f64(out.clone(), &data)
        }
        Prim::Input(_) | Prim::Param(_) => Err(Error::Run("a leaf has no value of its own".into())),
        Prim::Unary(_)
        | Prim::Binary(_)
        | Prim::Compare(_)
        | Prim::Select
        | Prim::Cast
        | Prim::Reduce(..)
        | Prim::ArgMax(_)
        | Prim::CumSum(_)
        | Prim::MatMul => arithmetic::eval(prim, out, x),
        Prim::Bitcast
        | Prim::Reshape
        | Prim::Transpose(_)
        | Prim::Broadcast
        | Prim::Slice { .. }
        | Prim::Concat(_)
        | Prim::Pad { .. }
        | Prim::Gather(_)
        | Prim::Update(_) => movement::eval(prim, out, x),
    }
}
