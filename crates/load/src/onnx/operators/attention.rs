//! Attention and rotary embeddings of the standard.

use super::{
    super::{
        call::{Answer, Call, Fault, one, sizes, takes_blocks, unsupported},
        elem::Item,
    },
    Handler,
    reduce::softmax,
};
use frit_graph::{DType, Spec, Tensor};
use frit_ops::{
    ApplyRope, AttentionInputs, RopeLayout, ScaledDotProductAttention, SequenceAxis,
    fast::apply_rope,
};

pub(super) const TABLE: &[(&str, Handler)] =
    &[("Attention", attention), ("RotaryEmbedding", |c| rotary(c, 3))];

/// `[B, T, H D]` to `[B, H, T, D]`.
pub(super) fn heads(t: &Tensor, heads: usize) -> Result<Tensor, Fault> {
    match *t.shape() {
        [b, s, c] if heads > 0 && c.is_multiple_of(heads) => {
            Ok(t.reshape(&[b, s, heads, c / heads]).transpose(&[0, 2, 1, 3]))
        }
        _ => Err(format!("{heads} heads of {}", t.spec()).into()),
    }
}

/// `[B, H, T, D]` to `[B, T, H D]`.
pub(super) fn joined(t: &Tensor) -> Tensor {
    match *t.shape() {
        [b, h, s, d] => t.transpose(&[0, 2, 1, 3]).reshape(&[b, s, h * d]),
        _ => t.clone(),
    }
}

fn attention(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let (q, k, v) = (&x.t, c.t(1)?, c.t(2)?);
    let flat = q.rank() == 3;
    let of = |t: &Tensor, name: &str| match t.rank() {
        3 => heads(t, sizes(&[c.int(name, 0)])?[0]),
        4 => Ok(t.clone()),
        _ => Err(format!("wants 3 or 4 axes, got {}", t.spec()).into()),
    };
    let q = of(q, "q_num_heads")?;
    let (mut k, mut v) = (of(k, "kv_num_heads")?, of(v, "kv_num_heads")?);
    let mut past = 0;
    if let (Some(pk), Some(pv)) = (c.opt_t(4), c.opt_t(5)) {
        past = pk.shape().get(2).copied().unwrap_or(0);
        (k, v) = (Tensor::concat(&[pk, &k], 2), Tensor::concat(&[pv, &v], 2));
    }
    let valid = c.opt_t(6);
    let same =
        k.rank() == 4 && q.rank() == 4 && v.rank() == 4 && !k.is_poisoned() && !v.is_poisoned();
    if !same || ![&q, &k, &v].into_iter().all(takes_blocks) {
        return unsupported(format!("{}, {} and {}", q.spec(), k.spec(), v.spec()));
    }
    let (t, s) = (q.shape()[2], k.shape()[2]);
    let (left, right) = (c.int("left_window_size", -1), c.int("right_window_size", -1));
    let mut options = ScaledDotProductAttention {
        scale: c.attribute("scale").and_then(|a| a.float).map(f64::from),
        causal: c.flag("is_causal"),
        window: None,
        softcap: Some(c.float("softcap", 0.0)).filter(|&cap| cap > 0.0),
    };
    let side = |n: i64| usize::try_from(n).map_or(s + t, |n| n.min(s + t));
    if left >= 0 || right >= 0 {
        options.window = Some((side(left), side(right)));
    }
    let mut mask = c.opt_t(3).map(|m| padded(m, s));
    // The Block puts the last row at the last key. Where the standard does not, a mask says it.
    if valid.is_none() && past + t != s && (options.causal || options.window.is_some()) {
        let allowed = allowed(t, s, past, options.causal, options.window);
        (options.causal, options.window) = (false, None);
        mask = Some(match mask {
            None => allowed,
            Some(m) if m.dtype() == DType::Bool => m.logical_and(&allowed),
            Some(m) => allowed.select(&m, &Tensor::scalar(m.dtype(), f64::NEG_INFINITY)),
        });
    }
    let scores = match c.wants(3) {
        true => vec![scores(c, &options, &q, &k, mask.as_ref(), valid, past)?],
        false => Vec::new(),
    };
    let key_length = valid.map(|v| v.cast(DType::I64));
    let (present, values) = (k.clone(), v.clone());
    let inputs = AttentionInputs { q, k, v, mask, key_mask: None, key_length, sinks: None };
    let y = Tensor::block(options, inputs);
    let y = if flat { joined(&y) } else { y };
    let mut all = vec![x.with(y), c.item(1)?.with(present), c.item(2)?.with(values)];
    all.extend(scores.into_iter().map(|t| x.with(t)));
    Ok(all)
}

/// A mask of as many columns as there are keys.
fn padded(mask: &Tensor, keys: usize) -> Tensor {
    let have = mask.shape().last().copied().unwrap_or(keys);
    if have >= keys || have == 1 {
        return mask.clone();
    }
    let number = if mask.dtype() == DType::Bool { 0.0 } else { f64::NEG_INFINITY };
    mask.pad(-1, 0, keys - have, number)
}

/// What causality and the window leave, with row 0 at position `past`.
fn allowed(
    t: usize,
    s: usize,
    past: usize,
    causal: bool,
    window: Option<(usize, usize)>,
) -> Tensor {
    let row = Tensor::iota(Spec::new(DType::I64, [t, 1]), 0) + past as f64;
    let column = Tensor::iota(Spec::new(DType::I64, [1, s]), 1);
    let mut ok = column.ge(&Tensor::scalar(DType::I64, 0.0)).broadcast_to(&[t, s]);
    if causal {
        ok = ok.logical_and(&column.le(&row));
    }
    if let Some((left, right)) = window {
        let near = column.ge(&(&row - left as f64)).logical_and(&column.le(&(&row + right as f64)));
        ok = ok.logical_and(&near);
    }
    ok
}

/// The scores that the debugging output shows, composed.
fn scores(
    c: &Call<'_>,
    options: &ScaledDotProductAttention,
    q: &Tensor,
    k: &Tensor,
    mask: Option<&Tensor>,
    valid: Option<&Tensor>,
    past: usize,
) -> Result<Tensor, Fault> {
    let [b, h, t, d] = [0, 1, 2, 3].map(|a| q.shape()[a]);
    let (kv, s) = (k.shape()[1], k.shape()[2]);
    if kv == 0 || h % kv != 0 {
        return Err(format!("{kv} heads of keys for {h} of queries").into());
    }
    let wide = |x: &Tensor| x.cast(DType::F32);
    let grouped = wide(q).reshape(&[b, kv, h / kv, t, d]);
    let keys = wide(k).unsqueeze(2).swap_axes(-1, -2);
    let mut y = grouped.matmul(&keys).reshape(&[b, h, t, s]) * options.scale_for(d);
    let mode = c.int("qk_matmul_output_mode", 0);
    if let (Some(cap), 1..) = (options.softcap, mode) {
        y = (y / cap).tanh() * cap;
    }
    if mode < 2 {
        return Ok(y.cast(q.dtype()));
    }
    let never = Tensor::scalar(DType::F32, f64::NEG_INFINITY);
    let zero = Tensor::scalar(DType::F32, 0.0);
    let mut bias = Tensor::full(Spec::new(DType::F32, [b, h, t, s]), 0.0);
    if let Some(m) = mask {
        bias = match m.dtype() {
            DType::Bool => m.select(&bias, &never),
            _ => bias + wide(m),
        };
    }
    if valid.is_some() && (options.causal || options.window.is_some()) {
        return unsupported("scores with nonpad_kv_seqlen");
    }
    if options.causal || options.window.is_some() {
        bias = allowed(t, s, past, options.causal, options.window).select(&bias, &never);
    }
    if let Some(v) = valid {
        let column = Tensor::iota(Spec::new(DType::I64, [1, 1, 1, s]), 3);
        bias = column.lt(&v.cast(DType::I64).reshape(&[b, 1, 1, 1])).select(&bias, &never);
    }
    y = y + &bias;
    if mode == 2 {
        return Ok(y.cast(q.dtype()));
    }
    let none = bias.max(&[-1]).eq(&never);
    let rows = softmax(&none.select(&zero, &y), -1);
    Ok(none.select(&zero, &rows).cast(q.dtype()))
}

/// Rotary embedding with tables of cosines and sines; `ids` is the operand of positions.
pub(super) fn rotary(c: &Call<'_>, ids: usize) -> Answer {
    let (cos, sin) = if ids == 3 { (c.t(1)?, c.t(2)?) } else { (c.t(2)?, c.t(3)?) };
    let x = c.item(0)?;
    let mut count = sizes(&[c.int("num_heads", 0)])?[0];
    let given = sizes(&[c.int("rotary_embedding_dim", 0)])?[0];
    if count == 0 && ids != 3 {
        // The older operator has the head size in its tables.
        let half = cos.shape().last().copied().unwrap_or(0);
        count = x.t.spec().last().and_then(|n| n.checked_div(2 * half)).unwrap_or(0);
    }
    // [B, H, T, D], or [B, T, H D].
    let (t, sequence_axis) = match *x.t.shape() {
        [_, _, _, _] => (x.t.clone(), SequenceAxis::SecondLast),
        [b, s, n] if count > 0 && n.is_multiple_of(count) => {
            (x.t.reshape(&[b, s, count, n / count]), SequenceAxis::ThirdLast)
        }
        [_, _, _] => return Err(format!("{count} heads of {}", x.t.spec()).into()),
        _ => return Err(format!("wants 3 or 4 axes, got {}", x.t.spec()).into()),
    };
    if ![&t, cos, sin].into_iter().all(takes_blocks) {
        return unsupported(format!("{}, {} and {}", x.t.spec(), cos.spec(), sin.spec()));
    }
    let layout = match c.flag("interleaved") {
        true => RopeLayout::Interleaved,
        false => RopeLayout::Split,
    };
    let options = ApplyRope { layout, sequence_axis };
    let (b, s, d) = (t.shape()[0], options.tokens(t.shape()), t.shape()[3]);
    let dims = if given == 0 { d } else { given };
    if dims > d || !dims.is_multiple_of(2) {
        return Err(format!("{dims} of {d} elements of a head are rotated").into());
    }
    // [T, dims/2] or [B, T, dims/2]
    let table = |t: &Tensor| -> Result<Tensor, Fault> {
        let rows = match c.opt_t(if ids == 3 { 3 } else { 1 }) {
            None => t.clone(),
            Some(p) if p.spec().numel() == 1 && s != 1 => {
                let at =
                    Tensor::iota(Spec::new(DType::I64, [s]), 0) + p.cast(DType::I64).reshape(&[]);
                t.gather(0, &at)
            }
            Some(p) => t.gather(0, p),
        };
        let half = dims / 2;
        match *rows.shape() {
            [m, w] if m == s && w == half => Ok(rows),
            [n, m, w] if n == b && m == s && w == half => Ok(rows),
            [1, m, w] if m == s && w == half => Ok(rows.squeeze(0)),
            _ => Err(format!("table {} for {}", t.spec(), x.t.spec()).into()),
        }
    };
    let y = apply_rope(&t, &table(cos)?, &table(sin)?, options);
    one(x.with(y.reshape(x.t.shape())))
}

/// Results for operators that give one tensor.
pub(super) fn attended(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Option<Tensor>,
    options: ScaledDotProductAttention,
) -> Item {
    let inputs = AttentionInputs { q, k, v, mask, key_mask: None, key_length: None, sinks: None };
    Item::plain(joined(&Tensor::block(options, inputs)))
}
