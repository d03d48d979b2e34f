//! The rules that put fused operations in the place of plain layers, with the same parameters.

use crate::nn;
use frit_graph::{DType, Operands, Rewrite, Rule, Site, Tensor};
use frit_ops as ops;

/// Every rule, for [`frit_graph::rewrite`].
///
/// ```
/// use frit_graph::{DType, Graph, Spec, rewrite};
/// use frit_models::{fast_kernels, nn::layer};
/// let graph = Graph::trace(&[Spec::new(DType::F32, [2, 8])], |x| vec![layer::gelu(x[0].clone())])?;
/// let (fast, report) = rewrite(&graph, &fast_kernels())?;
/// assert_eq!(report.replaced(), 1);
/// assert_eq!(fast.histogram().get("gelu"), Some(&1));
/// # Ok::<(), frit_graph::Error>(())
/// ```
pub fn fast_kernels() -> Vec<Rule> {
    vec![
        Rule::block::<nn::LayerNorm>("layer_norm", |b, i| {
            let inputs = ops::LayerNormInputs { x: i.x, weight: Some(i.weight), bias: i.bias };
            Rewrite::Replaced(Tensor::block(ops::LayerNorm { eps: b.eps }, inputs))
        }),
        packed_linear(ops::Activations::Exact),
        Rule::block::<nn::Linear>("linear", |_, i| {
            let inputs = ops::LinearInputs { x: i.x, weight: i.weight, bias: i.bias };
            Rewrite::Replaced(Tensor::block(ops::Linear::default(), inputs))
        }),
        Rule::new("activation_of_product", activation_of_product),
        Rule::block::<nn::Gelu>("gelu", |b, i| Rewrite::Replaced(ops::fast::gelu(&i.x, b.form))),
        Rule::block::<nn::Embedding>("packed_embedding", |_, i| packed_embedding(i)),
        Rule::block::<nn::Embedding>("embedding", |_, i| {
            Rewrite::Replaced(ops::fast::embedding(&i.weight, &i.ids))
        }),
        Rule::block::<nn::Conv1d>("conv1d", |b, i| {
            let block =
                ops::Conv1d { stride: b.stride, padding: b.padding, ..ops::Conv1d::default() };
            Rewrite::Replaced(ops::fast::conv1d(&i.x, &i.weight, Some(&i.bias), block))
        }),
        Rule::block::<nn::Cache>("cache_append", |_, i| {
            Rewrite::Replaced(ops::fast::cache_append(&i.cache, &i.new, &i.start))
        }),
        Rule::block::<nn::Attention>("scaled_dot_product_attention", |b, i| {
            let block = ops::ScaledDotProductAttention {
                scale: b.scale,
                causal: b.causal,
                // Where it is causal, nothing is to the right.
                window: b.window.map(|w| w.saturating_sub(1)).map(|w| match b.causal {
                    true => (w, 0),
                    false => (w, w),
                }),
                softcap: b.softcap,
            };
            let inputs = ops::AttentionInputs {
                q: i.q,
                k: i.k,
                v: i.v,
                mask: None,
                key_mask: i.key_mask,
                key_length: i.key_length,
                sinks: None,
            };
            Rewrite::Replaced(Tensor::block(block, inputs))
        }),
        Rule::block::<nn::RmsNorm>("rms_norm", |b, i| {
            let weight = match b.offset {
                0.0 => i.weight,
                offset => i.weight.cast(DType::F32) + offset,
            };
            Rewrite::Replaced(ops::fast::rms_norm(&i.x, Some(&weight), b.eps))
        }),
        Rule::block::<nn::Rope>("rope", |b, i| {
            let block = ops::Rope {
                dims: b.dims,
                base: b.base,
                scale: b.scale,
                amplitude: b.amplitude,
                layout: b.layout,
                sequence_axis: ops::SequenceAxis::ThirdLast,
            };
            let (x, at) = (&i.x, &i.position_ids);
            Rewrite::Replaced(ops::fast::rope_at(x, at, i.inv_freqs.as_ref(), block))
        }),
        Rule::block::<nn::Gate>("gate", |b, i| {
            let gelu = |form| ops::fast::gelu(&i.gate, form) * &i.up;
            Rewrite::Replaced(match b.activation {
                nn::GateActivation::Silu => ops::fast::swiglu(&i.gate, &i.up),
                nn::GateActivation::Gelu => gelu(ops::GeluForm::Erf),
                nn::GateActivation::GeluTanh => gelu(ops::GeluForm::Tanh),
            })
        }),
    ]
}

/// The rule that multiplies by packed weights as they are, with activations as they are
/// ([`Activations::Exact`](ops::Activations), which is one of [`fast_kernels`]) or rounded to 8 bits.
/// To opt in to the latter, put it before the other rules:
///
/// ```
/// use frit_models::{fast_kernels, packed_linear};
/// use frit_ops::Activations;
/// let rules = [vec![packed_linear(Activations::EightBit)], fast_kernels()].concat();
/// # assert_eq!(rules[0].name(), "packed_linear");
/// ```
pub fn packed_linear(activations: ops::Activations) -> Rule {
    Rule::block::<nn::Linear>("packed_linear", move |_, i| {
        let Some((&ops::Dequantize { encoding, .. }, w)) = packed(&i.weight) else {
            return Rewrite::NoMatch;
        };
        let block = ops::QuantizedMatmul { encoding, transposed: true, activations };
        let (packed, scales, biases) = (w.packed, w.scales, w.biases);
        let inputs = ops::QuantizedMatmulInputs { x: i.x, packed, scales, biases };
        let y = Tensor::block(block, inputs);
        Rewrite::Replaced(i.bias.map_or(y.clone(), |b| y + b))
    })
}

/// A weight that is unpacked, and from what.
fn packed(weight: &Tensor) -> Option<(&ops::Dequantize, ops::DequantizeInputs<Tensor>)> {
    let inputs = ops::DequantizeInputs::unflatten(weight.inputs().to_vec())?;
    Some((weight.block::<ops::Dequantize>()?, inputs))
}

/// Of a packed table only the rows are unpacked that are looked up.
fn packed_embedding(i: nn::EmbeddingInputs<Tensor>) -> Rewrite {
    let Some((&ops::Dequantize { encoding, dtype }, w)) = packed(&i.weight) else {
        return Rewrite::NoMatch;
    };
    let rows = |t: &Tensor| t.gather(0, &i.ids);
    let (scales, biases) = (w.scales.as_ref().map(rows), w.biases.as_ref().map(rows));
    let rows = rows(&w.packed);
    let rows = ops::fast::dequantize(&rows, scales.as_ref(), biases.as_ref(), encoding, dtype);
    Rewrite::Replaced(rows)
}

/// An activation whose operand is a product that nobody else needs becomes part of the product.
fn activation_of_product(site: Site<'_>) -> Rewrite {
    let Some((gelu, x)) = site.node().block::<nn::Gelu>().zip(site.node().input(0)) else {
        return Rewrite::NoMatch;
    };
    let activation = ops::Activation::Gelu(gelu.form);
    let inputs = x.inputs().to_vec();
    let alone = site.uses(x) == 1;
    let identity = ops::Activation::Identity;
    let refused = || Rewrite::Refused("the product is used elsewhere too".into());
    if x.block::<ops::Linear>().is_some_and(|b| b.activation == identity) {
        match ops::LinearInputs::unflatten(inputs) {
            Some(i) if alone => Rewrite::Replaced(Tensor::block(ops::Linear { activation }, i)),
            _ => refused(),
        }
    } else if let Some(b) = x.block::<ops::Conv1d>().filter(|b| b.activation == identity) {
        let block = ops::Conv1d { activation, ..b.clone() };
        match ops::Conv1dInputs::unflatten(inputs) {
            Some(i) if alone => Rewrite::Replaced(Tensor::block(block, i)),
            _ => refused(),
        }
    } else {
        Rewrite::NoMatch
    }
}
