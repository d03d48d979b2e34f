//! Blocks that MLX has a call of its own for, one file each as in the catalogue.
//!
//! A file says which operands its call takes and how Frit's meaning is put in MLX's words. What
//! has no line here (activations, gates, lookups, caches) MLX says in primitives too.

mod conv1d;
mod dequantize;
mod einsum;
mod layer_norm;
mod linear;
mod quantized_matmul;
mod rms_norm;
mod rope;
mod scaled_dot_product_attention;
mod softmax;

use crate::kernel::{Fused, Kernel, MlxKernel, declined};
use frit_graph::{Decline, DynBlock, Operands, Spec};
use std::any::TypeId;

type Accept = fn(&dyn DynBlock, &[Option<&Spec>]) -> Result<(), Decline>;
type Make = fn(&dyn DynBlock, &Spec) -> Option<Box<dyn Kernel>>;

/// A kernel with its type erased.
pub(crate) struct Entry {
    pub(crate) block: fn() -> TypeId,
    pub(crate) accept: Accept,
    pub(crate) make: Make,
}

impl Entry {
    const fn of<B: MlxKernel>() -> Entry {
        Entry {
            block: TypeId::of::<B>,
            accept: |block, inputs| match (
                block.downcast::<B>(),
                B::Inputs::unflatten(inputs.to_vec()),
            ) {
                (Some(block), Some(inputs)) => block.accept(&inputs),
                _ => declined("a required operand is absent"),
            },
            make: |block, out| {
                let block = block.downcast::<B>()?.clone();
                Some(Box::new(Fused(block, out.clone())))
            },
        }
    }
}

/// All of them.
pub(crate) static FUSED: &[Entry] = &[
    Entry::of::<frit_ops::RmsNorm>(),
    Entry::of::<frit_ops::LayerNorm>(),
    Entry::of::<frit_ops::Rope>(),
    Entry::of::<frit_ops::ScaledDotProductAttention>(),
    Entry::of::<frit_ops::Einsum>(),
    Entry::of::<frit_ops::Softmax>(),
    Entry::of::<frit_ops::Linear>(),
    Entry::of::<frit_ops::Conv1d>(),
    Entry::of::<frit_ops::Dequantize>(),
    Entry::of::<frit_ops::QuantizedMatmul>(),
];
