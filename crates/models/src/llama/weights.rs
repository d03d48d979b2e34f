//! The weights of a checkpoint as tensors of a graph, packed or not.

use crate::nn::stored;
use frit_graph::{DType, Params, Spec, Tensor};
use frit_load::Checkpoint;
use frit_ops::{Encoding, fast::dequantize};
use std::collections::BTreeMap;

/// Weights by their Hugging Face names.
#[derive(Clone, Debug)]
pub struct Weights {
    /// The values, as they are stored where `dtype` holds every number of their type.
    pub params: Params,
    /// How the packed ones among them are encoded.
    pub packed: BTreeMap<String, Encoding>,
    /// What the model computes in: the type of every weight in the graph, packed or not.
    pub dtype: DType,
}

impl Weights {
    /// The weights of a checkpoint for a model that computes in `dtype`.
    pub fn of(checkpoint: &Checkpoint, dtype: DType) -> Weights {
        Weights { params: checkpoint.params_for(dtype), packed: checkpoint.packed.clone(), dtype }
    }

    /// The weight of this name, which must have this shape (`[n, k]` for one that may be packed).
    #[track_caller]
    pub fn weight(&self, name: &str, shape: &[usize]) -> Tensor {
        match self.packed.get(name) {
            Some(&encoding) => self.unpacked(name, encoding, shape),
            None => stored(&self.params, name, shape, self.dtype),
        }
    }

    /// The matrix that a packed weight stands for.
    #[track_caller]
    fn unpacked(&self, name: &str, encoding: Encoding, shape: &[usize]) -> Tensor {
        let (&[n, k], Some(bytes)) = (shape, shape.last().and_then(|&k| encoding.row_bytes(k)))
        else {
            let message = format!("`{name}` is packed as {encoding}, which cannot be {shape:?}");
            return Tensor::poison("weight", message);
        };
        let Encoding::Affine { group_size, .. } = encoding else {
            let packed = Tensor::param(name, Spec::new(DType::U8, [n, bytes]));
            return dequantize(&packed, None, None, encoding, self.dtype);
        };
        let packed = Tensor::param(name, Spec::new(DType::U32, [n, bytes / 4]));
        let [scales, biases] = ["scales", "biases"].map(|part| {
            let name = name.strip_suffix("weight").unwrap_or(name);
            stored(&self.params, &format!("{name}{part}"), &[n, k / group_size], self.dtype)
        });
        dequantize(&packed, Some(&scales), Some(&biases), encoding, self.dtype)
    }

    /// Bytes of all weights but this one.
    pub fn bytes_without(&self, name: &str) -> usize {
        let others = self.params.iter().filter(|(n, _)| *n != name);
        others.map(|(_, v)| v.spec().bytes()).sum()
    }

    /// Every name given another one.
    pub fn renamed(self, name: impl Fn(&str) -> String) -> Weights {
        let params = self.params.iter().map(|(n, v)| (name(n), v.clone())).collect();
        let packed = self.packed.iter().map(|(n, e)| (name(n), *e)).collect();
        Weights { params, packed, ..self }
    }
}
