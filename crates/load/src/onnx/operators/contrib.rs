//! Fused operators that onnxruntime writes when it optimises a model (domain `com.microsoft`).

use super::{
    super::{
        call::{Answer, Call, Fault, one, sizes, takes_blocks, unsupported},
        elem::Item,
    },
    Handler,
    activation::gelu,
    attention::{attended, heads, rotary},
    matmul::matmul,
    norm::layer_normed,
};
use frit_graph::{DType, Spec, Tensor};
use frit_ops::{GeluForm, ScaledDotProductAttention, fast};

pub(super) const TABLE: &[(&str, Handler)] = &[
    ("FusedMatMul", fused_matmul),
    ("Gelu", |c| one(c.item(0)?.with(gelu(c.t(0)?, GeluForm::Erf)))),
    ("QuickGelu", quick_gelu),
    ("FastGelu", |c| biased(c, GeluForm::Tanh)),
    ("BiasGelu", |c| biased(c, GeluForm::Erf)),
    ("LayerNormalization", layer_norm),
    ("SkipLayerNormalization", skip_layer_norm),
    ("SkipSimplifiedLayerNormalization", skip_rms_norm),
    ("SimplifiedLayerNormalization", simplified),
    ("EmbedLayerNormalization", embed_layer_norm),
    ("Attention", attention),
    ("MultiHeadAttention", multi_head_attention),
    ("RotaryEmbedding", |c| rotary(c, 1)),
];

fn biased(c: &Call<'_>, form: GeluForm) -> Answer {
    let x = c.item(0)?;
    let sum = c.opt_t(1).map_or(x.t.clone(), |b| &x.t + b);
    one(x.with(gelu(&sum, form)))
}

fn quick_gelu(c: &Call<'_>) -> Answer {
    match c.float("alpha", 1.702) {
        alpha if (alpha - 1.702).abs() < 1e-6 => {
            one(c.item(0)?.with(gelu(c.t(0)?, GeluForm::Quick)))
        }
        alpha => one(super::activation::swish(c.item(0)?, alpha)),
    }
}

fn fused_matmul(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    if c.flag("transBatchA") || c.flag("transBatchB") {
        return unsupported("transposed batches");
    }
    let turned = |t: &Tensor, flag: &str| match c.flag(flag) && t.rank() > 1 {
        true => t.swap_axes(-1, -2),
        false => t.clone(),
    };
    let y = matmul(&turned(&x.t, "transA"), &turned(c.t(1)?, "transB"))?;
    let alpha = c.float("alpha", 1.0);
    one(x.with(if alpha == 1.0 { y } else { y * alpha }))
}

/// The last axis, of operators that normalise no other.
fn last(x: &Tensor) -> Result<usize, Fault> {
    x.rank().checked_sub(1).ok_or_else(|| "a scalar is not normalised".into())
}

fn layer_norm(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let axis = super::super::call::axis_of(c.int("axis", -1), x.t.rank())?;
    let eps = c.float("epsilon", 1e-5);
    one(x.with(layer_normed(&x.t, c.opt_t(1), c.opt_t(2), axis, eps)))
}

/// Input, skip and bias together.
fn skipped(c: &Call<'_>, bias: usize) -> Result<Tensor, Fault> {
    let sum = c.t(0)? + c.t(1)?;
    Ok(c.opt_t(bias).map_or(sum.clone(), |b| &sum + b))
}

fn skip_layer_norm(c: &Call<'_>) -> Answer {
    let (x, sum) = (c.item(0)?, skipped(c, 4)?);
    let axis = last(&sum)?;
    let eps = c.float("epsilon", 1e-12);
    let y = layer_normed(&sum, c.opt_t(2), c.opt_t(3), axis, eps);
    if c.wants(1) || c.wants(2) {
        return unsupported("mean and inv_std_var");
    }
    // The sum is output 3; 1 and 2 have no name.
    Ok(vec![x.with(y), x.with(sum.clone()), x.with(sum.clone()), x.with(sum)])
}

fn root_mean_square(x: &Tensor, weight: Option<&Tensor>, eps: f64) -> Result<Tensor, Fault> {
    match takes_blocks(x) && x.rank() > 0 {
        true => Ok(fast::rms_norm(x, weight, eps)),
        false => unsupported(format!("of {}", x.spec())),
    }
}

fn skip_rms_norm(c: &Call<'_>) -> Answer {
    let (x, sum) = (c.item(0)?, skipped(c, 3)?);
    if c.wants(1) || c.wants(2) {
        return unsupported("mean and inv_std_var");
    }
    let y = root_mean_square(&sum, c.opt_t(2), c.float("epsilon", 1e-12))?;
    Ok(vec![x.with(y), x.with(sum.clone()), x.with(sum.clone()), x.with(sum)])
}

fn simplified(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    one(x.with(root_mean_square(&x.t, c.opt_t(1), c.float("epsilon", 1e-5))?))
}

/// Rows of three tables, added and normalised.
fn embed_layer_norm(c: &Call<'_>) -> Answer {
    let (ids, words, positions) = (c.t(0)?, c.item(2)?, c.t(3)?);
    let &[b, s] = ids.shape() else {
        return Err(format!("input_ids must have 2 axes, got {}", ids.spec()).into());
    };
    let at = match c.opt_t(8) {
        Some(p) => p.clone(),
        None => Tensor::iota(Spec::new(DType::I64, [1, s]), 1),
    };
    let mut sum = words.t.gather(0, ids) + positions.gather(0, &at);
    if let (Some(segments), Some(table)) = (c.opt_t(1), c.opt_t(4)) {
        sum = sum + table.gather(0, segments);
    }
    let axis = last(&sum)?;
    let y = layer_normed(&sum, c.opt_t(5), c.opt_t(6), axis, c.float("epsilon", 1e-12));
    // How many tokens of a row are no padding.
    let mask = match c.opt_t(7) {
        Some(m) if m.rank() == 2 => m.cast(DType::I32).sum(&[-1]).squeeze(-1),
        Some(m) => return Err(format!("mask must have 2 axes, got {}", m.spec()).into()),
        None => Tensor::full(Spec::new(DType::I32, [b]), 0.0),
    };
    Ok(vec![words.with(y), Item::plain(mask), words.with(sum)])
}

fn options(c: &Call<'_>) -> ScaledDotProductAttention {
    let scale = Some(c.float("scale", 0.0)).filter(|&s| s != 0.0);
    let causal = c.flag("unidirectional");
    ScaledDotProductAttention { scale, causal, ..Default::default() }
}

/// A mask of integers or a bias, as one mask of the Block.
fn masked(
    c: &Call<'_>,
    mask: Option<&Tensor>,
    bias: Option<&Tensor>,
    q: &Tensor,
    k: &Tensor,
) -> Result<Option<Tensor>, Fault> {
    let keep = match mask.map(|m| (m, m.rank())) {
        None => None,
        // Lengths, one a row.
        Some((m, 1)) if q.shape().first() == m.shape().first() => {
            let s = k.shape().get(2).copied().unwrap_or(0);
            let column = Tensor::iota(Spec::new(DType::I32, [1, 1, 1, s]), 3);
            let lengths = m.cast(DType::I32).reshape(&[m.shape()[0], 1, 1, 1]);
            Some(column.lt(&lengths).cast(DType::I32))
        }
        Some((m, 2)) => Some(m.unsqueeze(1).unsqueeze(1)),
        Some((m, 3)) => Some(m.unsqueeze(1)),
        Some((m, _)) => return unsupported(format!("mask {}", m.spec())),
    };
    let keep = keep.map(|m| m.ne(&Tensor::scalar(m.dtype(), 0.0)));
    Ok(match (keep, bias) {
        (Some(keep), Some(bias)) => {
            let low = c.float("mask_filter_value", -10000.0);
            let none = Tensor::scalar(bias.dtype(), low);
            Some(keep.select(&Tensor::scalar(bias.dtype(), 0.0), &none) + bias)
        }
        (keep, bias) => keep.or(bias.cloned()),
    })
}

/// One product makes queries, keys and values.
fn attention(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let count = sizes(&[c.int("num_heads", 0)])?[0];
    if c.opt(4).is_some() || c.flag("do_rotary") || c.wants(1) {
        return unsupported("a past, or a rotation inside");
    }
    let mut all = matmul(&x.t, c.t(1)?)?;
    if let Some(b) = c.opt_t(2) {
        all = all + b;
    }
    let width = all.shape().last().copied().unwrap_or(0);
    let parts = match c.ints("qkv_hidden_sizes").filter(|s| s.len() == 3) {
        Some(list) => sizes(list)?,
        None => vec![width / 3; 3],
    };
    if parts.iter().sum::<usize>() != width || !takes_blocks(&all) {
        return Err(format!("{} is no queries, keys and values", all.spec()).into());
    }
    let mut start = 0;
    let mut part = |n: usize| {
        start += n;
        heads(&all.slice(-1, start - n..start), count)
    };
    let (q, k, v) = (part(parts[0])?, part(parts[1])?, part(parts[2])?);
    let mask = masked(c, c.opt_t(3), c.opt_t(5), &q, &k)?;
    one(attended(q, k, v, mask, options(c)))
}

fn multi_head_attention(c: &Call<'_>) -> Answer {
    let count = sizes(&[c.int("num_heads", 0)])?[0];
    let (Some(k), Some(v)) = (c.opt_t(1), c.opt_t(2)) else {
        return unsupported("packed operands");
    };
    if c.opt(6).is_some() || c.opt(7).is_some() || c.wants(1) {
        return unsupported("a past");
    }
    let q = c.t(0)?;
    let (mut q, mut k, mut v) = (q.clone(), k.clone(), v.clone());
    if k.rank() == 5 {
        return unsupported("packed operands");
    }
    if let Some(bias) = c.opt_t(3) {
        let mut start = 0;
        for t in [&mut q, &mut k, &mut v] {
            let n = match t.rank() {
                3 => t.shape()[2],
                _ => return unsupported("a bias of heads"),
            };
            *t = &*t + bias.slice(0, start..start + n);
            start += n;
        }
    }
    let of = |t: &Tensor| if t.rank() == 3 { heads(t, count) } else { Ok(t.clone()) };
    let (q, k, v) = (of(&q)?, of(&k)?, of(&v)?);
    if ![&q, &k, &v].into_iter().all(takes_blocks) {
        return unsupported(format!("{}", q.spec()));
    }
    let mask = masked(c, c.opt_t(4), c.opt_t(5), &q, &k)?;
    one(attended(q, k, v, mask, options(c)))
}
