//! The primitives on the CPU: vectorised, threaded, over strided views. The composed form of an
//! operation runs on these, so they are a fair opponent of the fused kernels.

mod cast;
mod chain;
mod elementwise;
mod matmul;
mod movement;
mod number;
mod reduce;
mod scan;
mod walk;

use crate::kernel::{Context, Kernel, Out, View, Wants};
use crate::plan::Layout;
pub(crate) use chain::{ALIVE, Chain, Function, Link, OPERANDS, Source};
use frit_graph::{DType, Error, Prim, Spec};
pub(crate) use movement::{Copy, pick, pick_widened, write};

/// Elements below which another thread costs more than it brings.
pub(crate) const LEAST: usize = 16 * 1024;

/// The kernel of a primitive that is neither a leaf nor a view.
pub(crate) fn kernel(prim: &Prim, out: &Spec) -> Option<Box<dyn Kernel>> {
    Some(match prim {
        Prim::Unary(f) => Box::new(elementwise::Map(*f)),
        Prim::Binary(f) => Box::new(elementwise::Zip(*f)),
        Prim::Compare(f) => Box::new(elementwise::Relation(*f)),
        Prim::Select => Box::new(elementwise::Choose),
        Prim::Cast => Box::new(cast::Convert),
        Prim::Bitcast => Box::new(movement::Bytes),
        Prim::Reduce(f, axes) => Box::new(reduce::Fold { f: *f, axes: axes.clone() }),
        Prim::ArgMax(axis) => Box::new(scan::Best(*axis)),
        Prim::CumSum(axis) => Box::new(scan::Running(*axis)),
        Prim::MatMul => Box::new(matmul::Product { batch: out.shape.len() - 2 }),
        Prim::Concat(axis) => Box::new(movement::Join(*axis)),
        Prim::Pad { low, value, .. } => {
            Box::new(movement::Frame { low: low.clone(), value: value.0 })
        }
        Prim::Gather(axis) => Box::new(movement::Pick(*axis)),
        Prim::Update(axis) => Box::new(movement::Write(*axis)),
        _ => return None,
    })
}

/// A primitive kernel: what most of them leave at its default.
pub(crate) trait Primitive: Send + Sync {
    fn wants(&self, slot: usize) -> Wants {
        let _ = slot;
        Wants::Strided
    }
    fn in_place(&self) -> Vec<usize> {
        Vec::new()
    }
    fn updates(&self) -> bool {
        false
    }
    fn is_sum(&self) -> bool {
        false
    }
    fn scratch(&self, inputs: &[&Layout], threads: usize) -> usize {
        let _ = (inputs, threads);
        0
    }
    fn run(&self, x: &[View<'_>], out: &mut Out<'_>, c: &mut Context<'_>) -> Result<(), Error>;
}

impl<P: Primitive> Kernel for P {
    fn wants(&self, slot: usize) -> Wants {
        Primitive::wants(self, slot)
    }
    fn in_place(&self) -> Vec<usize> {
        Primitive::in_place(self)
    }
    fn updates(&self) -> bool {
        Primitive::updates(self)
    }
    fn is_sum(&self) -> bool {
        Primitive::is_sum(self)
    }
    fn scratch(&self, inputs: &[Option<&Layout>], threads: usize) -> usize {
        Primitive::scratch(self, &inputs.iter().copied().flatten().collect::<Vec<_>>(), threads)
    }
    fn run(
        &self,
        inputs: &[Option<View<'_>>],
        out: &mut Out<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), Error> {
        let inputs: Vec<View<'_>> = inputs.iter().copied().flatten().collect();
        Primitive::run(self, &inputs, out, context)
    }
}

/// The error of a type that a primitive has no loop for; shape rules keep it from happening.
pub(crate) fn no_loop(name: &str, dtype: DType) -> Error {
    Error::Backend { backend: "cpu".into(), message: format!("{name} has no loop for {dtype}") }
}
