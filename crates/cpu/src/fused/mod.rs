//! The fused kernels of the catalogue: `fused/x.rs` is the kernel of `ops/x.rs`.

use crate::kernel::Entry;
pub(crate) use quantized_matmul::Together;
pub(crate) use rope::AngleTable;

macro_rules! fused {
    ($($module:ident :: $block:ident),* $(,)?) => {
        $(mod $module;)*

        /// Every fused kernel.
        pub(crate) const FUSED: &[Entry] = &[$(Entry::of::<frit_ops::$block>()),*];
    };
}

fused! {
    rms_norm::RmsNorm,
    layer_norm::LayerNorm,
    rope::Rope,
    apply_rope::ApplyRope,
    swiglu::SwiGlu,
    einsum::Einsum,
    gelu::Gelu,
    silu::Silu,
    softmax::Softmax,
    scaled_dot_product_attention::ScaledDotProductAttention,
    linear::Linear,
    conv::Conv,
    conv1d::Conv1d,
    embedding::Embedding,
    cache_append::CacheAppend,
    dequantize::Dequantize,
    quantized_matmul::QuantizedMatmul,
}

/// Calls with `$T` bound to the storage type of a float dtype.
macro_rules! for_float {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            frit_graph::DType::F16 => {
                type $T = half::f16;
                $body
            }
            frit_graph::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            _ => {
                type $T = f32;
                $body
            }
        }
    };
}
use for_float;

use crate::kernel::{Out, View};
use crate::kernels::InOut;
use frit_graph::{Element, Error};

/// The operand and the output, which may be one memory.
fn in_out<'a, T: Element>(x: &View<'a>, out: &'a mut Out<'_>) -> Result<InOut<'a, T>, Error> {
    Ok(match x.is_out() {
        true => InOut::in_place(out.slice_mut::<T>()?),
        false => InOut::new(x.slice::<T>()?, out.slice_mut::<T>()?),
    })
}

use crate::quant::{Numbers, Weight};
use frit_graph::DType;
use frit_ops::Encoding;

fn numbers<'a>(x: Option<&View<'a>>) -> Result<Numbers<'a>, Error> {
    Ok(match x {
        None => Numbers::None,
        Some(x) => match x.dtype() {
            DType::F16 => Numbers::F16(x.slice()?),
            DType::BF16 => Numbers::BF16(x.slice()?),
            _ => Numbers::F32(x.slice()?),
        },
    })
}

/// A packed operand with its scales and biases; all of its leading axes are rows.
fn weight<'a>(
    encoding: Encoding,
    packed: &View<'a>,
    scales: Option<&View<'a>>,
    biases: Option<&View<'a>>,
) -> Result<Weight<'a>, Error> {
    let bytes = match packed.dtype() {
        DType::U32 => bytemuck::cast_slice(packed.slice::<u32>()?),
        _ => packed.slice::<u8>()?,
    };
    let shape = packed.shape();
    let rows = shape[..shape.len() - 1].iter().product();
    Ok(Weight::new(encoding, bytes, numbers(scales)?, numbers(biases)?, rows))
}
