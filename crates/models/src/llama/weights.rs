//! The weights of a checkpoint as tensors of a graph, packed or not.

use frit_graph::{DType, Params, Spec, Tensor};
use frit_load::Checkpoint;
use frit_ops::Encoding;
use std::collections::BTreeMap;

/// Weights by their Hugging Face names.
#[derive(Clone, Debug)]
pub struct Weights {
    /// The values; all floats of one type.
    pub params: Params,
    /// How the packed ones among them are encoded.
    pub packed: BTreeMap<String, Encoding>,
    /// The type of the floats, and of what a packed weight stands for.
    pub dtype: DType,
}

impl Weights {
    /// The weights of a checkpoint with every float in `dtype`.
    pub fn of(checkpoint: &Checkpoint, dtype: DType) -> Weights {
        Weights { params: checkpoint.cast(dtype), packed: checkpoint.packed.clone(), dtype }
    }

    /// The weight of this name, which must have this shape (`[n, k]` for one that may be packed).
    #[track_caller]
    pub fn weight(&self, name: &str, shape: &[usize]) -> Tensor {
        match self.packed.get(name) {
            Some(encoding) => packed(name, *encoding, Spec::new(self.dtype, shape)),
            None => Tensor::param(name, Spec::new(self.dtype, shape)),
        }
    }

    /// Every name given another one.
    pub fn renamed(self, name: impl Fn(&str) -> String) -> Weights {
        let params = self.params.iter().map(|(n, v)| (name(n), v.clone())).collect();
        let packed = self.packed.iter().map(|(n, e)| (name(n), *e)).collect();
        Weights { params, packed, ..self }
    }
}

/// The matrix that a packed weight stands for.
#[track_caller]
fn packed(name: &str, encoding: Encoding, _stands_for: Spec) -> Tensor {
    Tensor::poison("weight", format!("`{name}` is packed as {encoding}, which is not supported"))
}
