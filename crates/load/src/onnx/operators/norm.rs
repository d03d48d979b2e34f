//! Normalisations.

use super::{
    super::{
        call::{Answer, Call, Fault, axis_of, one, takes_blocks, unsupported},
        elem::Item,
    },
    Handler, in_f32,
};
use frit_graph::{DType, Tensor};
use frit_ops::fast;

pub(super) const TABLE: &[(&str, Handler)] = &[
    ("LayerNormalization", layer_norm),
    ("RMSNormalization", rms_norm),
    ("BatchNormalization", batch_norm),
    ("InstanceNormalization", instance_norm),
    ("GroupNormalization", group_norm),
    ("MeanVarianceNormalization", mean_variance),
    ("LpNormalization", lp_norm),
    ("LRN", local_response),
];

/// The operand as rows of the axes from `axis`, if these weights are vectors of such a row.
fn as_rows(
    x: &Tensor,
    axis: usize,
    weights: &[Option<&Tensor>],
) -> Option<(Tensor, Vec<Option<Tensor>>)> {
    let tail = &x.shape()[axis..];
    let fits = |w: &&Tensor| w.shape() == tail && w.dtype() != DType::F64;
    if !takes_blocks(x) || !weights.iter().flatten().all(fits) {
        return None;
    }
    let width: usize = tail.iter().product();
    let mut shape = x.shape()[..axis].to_vec();
    shape.push(width);
    let vectors = weights.iter().map(|w| w.map(|w| w.reshape(&[width])));
    Some((x.reshape(&shape), vectors.collect()))
}

/// Mean and inverse deviation over the axes from `axis`, in f32 or wider.
fn moments(x: &Tensor, axis: usize, eps: f64) -> (Tensor, Tensor) {
    let axes: Vec<isize> = (axis..x.rank()).map(|a| a as isize).collect();
    let wide = x.cast(x.dtype().compute());
    let mean = wide.mean(&axes);
    let centred = wide - &mean;
    let inverse = ((&centred * &centred).mean(&axes) + eps).rsqrt();
    (mean, inverse)
}

fn layer_norm(c: &Call<'_>) -> Answer {
    let eps = c.float("epsilon", 1e-5);
    let x = c.item(0)?;
    let axis = axis_of(c.int("axis", -1), x.t.rank())?;
    let mut all = vec![x.with(layer_normed(&x.t, c.opt_t(1), c.opt_t(2), axis, eps))];
    if c.wants(1) || c.wants(2) {
        let (mean, inverse) = moments(&x.t, axis, eps);
        all.extend([Item::plain(mean), Item::plain(inverse)]);
    }
    Ok(all)
}

/// Layer normalisation over the axes from `axis`, as the Block where it takes them.
pub(super) fn layer_normed(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    axis: usize,
    eps: f64,
) -> Tensor {
    if let Some((rows, vectors)) = as_rows(x, axis, &[weight, bias]) {
        let y = fast::layer_norm(&rows, vectors[0].as_ref(), vectors[1].as_ref(), eps);
        return y.reshape(x.shape());
    }
    let wide = x.cast(x.dtype().compute());
    let (mean, inverse) = moments(x, axis, eps);
    let mut y = (wide - mean) * inverse;
    if let Some(w) = weight {
        y = y.clone() * w.cast(y.dtype());
    }
    if let Some(b) = bias {
        y = y.clone() + b.cast(y.dtype());
    }
    y.cast(x.dtype())
}

fn rms_norm(c: &Call<'_>) -> Answer {
    let eps = c.float("epsilon", 1e-5);
    let (x, weight) = (c.item(0)?, c.opt_t(1));
    let axis = axis_of(c.int("axis", -1), x.t.rank())?;
    if let Some((rows, vectors)) = as_rows(&x.t, axis, &[weight]) {
        let y = fast::rms_norm(&rows, vectors[0].as_ref(), eps);
        return one(x.with(y.reshape(x.t.shape())));
    }
    let axes: Vec<isize> = (axis..x.t.rank()).map(|a| a as isize).collect();
    let wide = x.t.cast(x.t.dtype().compute());
    let mut y = &wide * ((&wide * &wide).mean(&axes) + eps).rsqrt();
    if let Some(w) = weight {
        y = y.clone() * w.cast(y.dtype());
    }
    one(x.with(y.cast(x.t.dtype())))
}

/// A vector of channels beside `x` of this rank.
fn channels(t: &Tensor, rank: usize) -> Tensor {
    let mut shape = vec![1; rank.max(2)];
    shape[1] = t.spec().numel();
    shape.truncate(rank);
    t.reshape(&shape)
}

fn batch_norm(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let (rank, eps) = (x.t.rank(), c.float("epsilon", 1e-5));
    if rank < 2 {
        return Err(format!("wants channels on axis 1, got {}", x.t.spec()).into());
    }
    let wide = x.t.cast(x.t.dtype().compute());
    let d = wide.dtype();
    let vector = |i: usize| Ok::<_, Fault>(c.t(i)?.cast(d));
    let (scale, bias, mean, variance) = (vector(1)?, vector(2)?, vector(3)?, vector(4)?);
    if !c.flag("training_mode") {
        // One product and one sum: what the statistics do is known before.
        let factor = scale * (variance + eps).rsqrt();
        let offset = bias - mean * &factor;
        let y = wide * channels(&factor, rank) + channels(&offset, rank);
        return one(x.with(y.cast(x.t.dtype())));
    }
    let axes: Vec<isize> = (0..rank).filter(|&a| a != 1).map(|a| a as isize).collect();
    let now = wide.mean(&axes);
    let centred = wide - &now;
    let spread = (&centred * &centred).mean(&axes);
    let y = centred * (&spread + eps).rsqrt() * channels(&scale, rank) + channels(&bias, rank);
    let momentum = c.float("momentum", 0.9);
    let running = |i: usize, old: &Tensor, new: &Tensor| -> Result<Item, Fault> {
        let mixed = old * momentum + new.reshape(old.shape()) * (1.0 - momentum);
        let like = c.item(i)?;
        Ok(like.with(mixed.cast(like.t.dtype())))
    };
    Ok(vec![x.with(y.cast(x.t.dtype())), running(3, &mean, &now)?, running(4, &variance, &spread)?])
}

fn instance_norm(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let (rank, eps) = (x.t.rank(), c.float("epsilon", 1e-5));
    if rank < 3 {
        return Err(format!("wants at least 3 axes, got {}", x.t.spec()).into());
    }
    let (scale, bias) = (channels(c.t(1)?, rank), channels(c.t(2)?, rank));
    one(x.with(in_f32(&x.t, |t| {
        let (mean, inverse) = moments(t, 2, eps);
        (t - mean) * inverse * scale.cast(t.dtype()) + bias.cast(t.dtype())
    })))
}

fn group_norm(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let (shape, eps) = (x.t.shape().to_vec(), c.float("epsilon", 1e-5));
    let groups = usize::try_from(c.int("num_groups", 0)).unwrap_or(0);
    if shape.len() < 2 || groups == 0 || shape[1] == 0 || !shape[1].is_multiple_of(groups) {
        return Err(format!("{groups} groups of {}", x.t.spec()).into());
    }
    let (scale, bias) = (c.t(1)?, c.t(2)?);
    // Old versions scale a group, new ones a channel.
    let each = if scale.spec().numel() == groups { groups } else { shape[1] };
    let fold = |n: usize| {
        let mut folded = vec![shape[0], n, shape[1] / n];
        folded.extend(&shape[2..]);
        folded
    };
    one(x.with(in_f32(&x.t, |t| {
        let rows = t.reshape(&fold(groups));
        let (mean, inverse) = moments(&rows, 2, eps);
        let y = ((rows - mean) * inverse).reshape(&fold(each));
        let rank = y.rank();
        let y = &y * channels(&scale.cast(t.dtype()), rank) + channels(&bias.cast(t.dtype()), rank);
        y.reshape(&shape)
    })))
}

fn mean_variance(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let list = c.ints("axes").unwrap_or(&[0, 2, 3]);
    let axes = super::movement::axes(list, x.t.rank())?;
    let axes: Vec<isize> = axes.into_iter().map(|a| a as isize).collect();
    one(x.with(in_f32(&x.t, |t| {
        let centred = t - t.mean(&axes);
        let deviation = (&centred * &centred).mean(&axes).sqrt();
        centred / (deviation + 1e-9)
    })))
}

fn lp_norm(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let axis = axis_of(c.int("axis", -1), x.t.rank())? as isize;
    let p = c.int("p", 2);
    if p != 1 && p != 2 {
        return unsupported(format!("p {p}"));
    }
    one(x.with(in_f32(&x.t, |t| {
        let norm = match p {
            1 => t.abs().sum(&[axis]),
            _ => (t * t).sum(&[axis]).sqrt(),
        };
        let zero = Tensor::scalar(t.dtype(), 0.0);
        let divisor = norm.eq(&zero).select(&Tensor::scalar(t.dtype(), 1.0), &norm);
        t / divisor
    })))
}

fn local_response(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let size = usize::try_from(c.int("size", 1)).unwrap_or(0);
    if x.t.rank() < 2 || size == 0 || size > 1 << 16 {
        return Err(format!("size {size} on {}", x.t.spec()).into());
    }
    let (alpha, beta) = (c.float("alpha", 1e-4), c.float("beta", 0.75));
    let bias = c.float("bias", 1.0);
    one(x.with(in_f32(&x.t, |t| {
        let n = t.shape()[1];
        let before = (size - 1) / 2;
        let squares = (t * t).pad(1, before, size - 1 - before, 0.0);
        let sum = (1..size).fold(squares.slice(1, 0..n), |s, i| s + squares.slice(1, i..i + n));
        t / (sum * (alpha / size as f64) + bias).pow(&Tensor::scalar(t.dtype(), beta))
    })))
}
