//! The catalogue of Frit: every fused operation as a [`Block`](frit_graph::Block), one file each.
//!
//! A file reads from top to bottom: what it is, its options and operands, the function of
//! [`fast`], the shape rule, the composition, the names of its options in files, its meaning in
//! float64, its cases. The last lines of this file are the list of them.

#![forbid(unsafe_code)]

pub mod catalogue;
mod check;
mod counting;
mod encoding;
mod options;

pub use catalogue::{Array, Case, DynCase, Entry, FLOATS, Fill, Line, Operand};
pub use encoding::Encoding;
pub use options::{OptionValue, Options};

macro_rules! catalogue {
    ($($module:ident :: $block:ident { $($more:ident),* } fast { $($function:ident),* };)*) => {
        $(
            mod $module;
            pub use $module::{$block, $($more),*};
        )*

        /// Functions that apply the operations: one fused kernel on a backend that has it, the
        /// composed form everywhere else.
        pub mod fast {
            $(pub use crate::$module::{$($function),*};)*
        }

        /// Every operation.
        pub static CATALOGUE: &[Line] =
            &[$(Line::of::<$block>(concat!(stringify!($module), ".rs"))),*];
    };
}

catalogue! {
    rms_norm::RmsNorm { RmsNormInputs } fast { rms_norm };
    layer_norm::LayerNorm { LayerNormInputs } fast { layer_norm };
    rope::Rope { RopeInputs, RopeLayout, SequenceAxis } fast { rope, rope_at };
    apply_rope::ApplyRope { ApplyRopeInputs } fast { apply_rope };
    scaled_dot_product_attention::ScaledDotProductAttention { AttentionInputs }
        fast { scaled_dot_product_attention };
    swiglu::SwiGlu { SwiGluInputs } fast { swiglu };
    einsum::Einsum { Contraction, Equation, Letter } fast { einsum };
    gelu::Gelu { GeluForm, UnaryInputs } fast { gelu };
    silu::Silu {} fast { silu };
    softmax::Softmax {} fast { softmax };
    linear::Linear { Activation, LinearInputs } fast { linear };
    conv::Conv { ConvInputs } fast { conv };
    conv1d::Conv1d { Conv1dInputs } fast { conv1d };
    embedding::Embedding { EmbeddingInputs } fast { embedding };
    cache_append::CacheAppend { CacheAppendInputs } fast { cache_append };
    dequantize::Dequantize { DequantizeInputs } fast { dequantize };
    quantized_matmul::QuantizedMatmul { Activations, QuantizedMatmulInputs }
        fast { quantized_matmul };
}

/// Every rule that finds an operation in a graph of primitives, for [`frit_graph::recognise`]:
/// where two formulas end in the same node, the larger one comes first, and the one that says more of
/// its operands.
pub fn recognisers() -> Vec<frit_graph::Rule> {
    let larger = [
        "scaled_dot_product_attention",
        "linear",
        "conv",
        "layer_norm",
        "rope",
        "apply_rope",
        "swiglu",
    ];
    let place = |l: &&Line| larger.iter().position(|n| *n == l.name).unwrap_or(larger.len());
    let mut lines: Vec<&Line> = CATALOGUE.iter().collect();
    lines.sort_by_key(place);
    lines.into_iter().flat_map(|l| (l.recognise)()).collect()
}

/// The operation of this name; `sdpa` is short for `scaled_dot_product_attention`.
pub fn find(name: &str) -> Option<&'static Line> {
    let name = if name == "sdpa" { "scaled_dot_product_attention" } else { name };
    CATALOGUE.iter().find(|l| l.name == name)
}
