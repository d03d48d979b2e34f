//! Weights packed by GGML as MLX's affine groups, before a program is planned.
//!
//! The simple blocks of 32 say `w = d q + m`, as an affine group does; only their elements lie in
//! another order. So `Q4_0`, `Q4_1` and `Q8_0` become what MLX's product reads, without a change of a
//! number. It is said in primitives, and what depends on weights alone is computed once.

use frit_graph::{Binary, DType, Error, Graph, Tensor};
use frit_ops::{Encoding, QuantizedMatmul, QuantizedMatmulInputs};

/// Whether an encoding of GGML says what an affine group says.
pub(crate) fn is_simple(encoding: Encoding) -> bool {
    bits_of(encoding).is_some()
}

/// Bits of the affine group that holds the same numbers.
fn bits_of(encoding: Encoding) -> Option<usize> {
    match encoding {
        Encoding::Q4_0 | Encoding::Q4_1 => Some(4),
        Encoding::Q8_0 => Some(8),
        _ => None,
    }
}

/// The graph with such products in MLX's layout.
pub(crate) fn repacked(graph: &Graph) -> Result<Graph, Error> {
    graph.map(|t| product(t).unwrap_or_else(|| t.clone()))
}

fn product(t: &Tensor) -> Option<Tensor> {
    let block = t.block::<QuantizedMatmul>()?;
    let bits = bits_of(block.encoding)?;
    let (x, packed) = (t.input(0)?, t.input(1)?);
    let (words, scales, biases) = groups(block.encoding, packed);
    let encoding = Encoding::Affine { bits, group_size: 32 };
    let (scales, biases) = (Some(scales), Some(biases));
    let inputs = QuantizedMatmulInputs { x: x.clone(), packed: words, scales, biases };
    Some(Tensor::block(QuantizedMatmul { encoding, ..block.clone() }, inputs))
}

/// Words, scales and biases.
fn groups(encoding: Encoding, packed: &Tensor) -> (Tensor, Tensor, Tensor) {
    let (rows, size) = (packed.shape()[0], encoding.block_bytes());
    let blocks = packed.shape()[1] / size;
    let bytes = packed.reshape(&[rows, blocks, size]);
    let half = |at: usize| {
        let number = bytes.slice(2, at..at + 2).bitcast(DType::F16);
        number.cast(DType::F32).reshape(&[rows, blocks])
    };
    let scales = half(0);
    let number = |n: f64| Tensor::scalar(DType::U8, n);
    let (quants, biases) = match encoding {
        Encoding::Q4_0 => (bytes.slice(2, 2..18), &scales * -8.0),
        Encoding::Q4_1 => (bytes.slice(2, 4..20), half(2)),
        // Signed bytes, moved up by 128: the addition wraps.
        _ => (bytes.slice(2, 2..34) + number(128.0), &scales * -128.0),
    };
    let quants = match bits_of(encoding) {
        // The first half of a block stands in the low halves of its bytes; here neighbours share one.
        Some(4) => {
            let low = quants.binary(&number(16.0), Binary::Rem);
            let high = &quants / &number(16.0);
            let all = Tensor::concat(&[&low, &high], 2).reshape(&[rows, blocks, 16, 2]);
            let (even, odd) = (all.slice(3, 0..1), all.slice(3, 1..2));
            (even + odd * number(16.0)).reshape(&[rows, blocks * 16])
        }
        _ => quants.reshape(&[rows, blocks * 32]),
    };
    (quants.bitcast(DType::U32), scales, biases)
}
