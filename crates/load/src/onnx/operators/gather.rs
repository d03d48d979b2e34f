//! Elements chosen by indices.

use super::{
    super::{
        call::{Answer, Call, Fault, axis_of, one, product, unsupported},
        elem::{Item, integers},
    },
    Handler,
};
use frit_graph::{DType, Spec, Tensor, Value, row_major};

pub(super) const TABLE: &[(&str, Handler)] = &[
    ("Gather", gather),
    ("GatherElements", gather_elements),
    ("GatherND", gather_nd),
    ("ScatterElements", scatter_elements),
    ("Scatter", scatter_elements),
    ("ScatterND", scatter_nd),
    ("TensorScatter", tensor_scatter),
    ("Compress", compress),
];

/// Larger tensors are not written to by indices.
const MOST: usize = 1 << 26;
/// One element is updated at most so often.
const MOST_ROUNDS: usize = 64;

/// Indices from the front, below `extent`; negative ones count from the end.
fn from_front(c: &Call<'_>, indices: &Tensor, extent: usize) -> Tensor {
    if let Some(known) = c.known.value(indices) {
        let turned = known.to_i64().into_iter().map(|i| if i < 0 { i + extent as i64 } else { i });
        return integers(known.shape(), turned.collect());
    }
    let zero = Tensor::scalar(indices.dtype(), 0.0);
    match indices.dtype() {
        DType::I64 | DType::I32 => indices.lt(&zero).select(&(indices + extent as f64), indices),
        _ => indices.clone(),
    }
}

fn gather(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let axis = axis_of(c.int("axis", 0), x.t.rank())?;
    let indices = from_front(c, c.t(1)?, x.t.shape()[axis]);
    one(x.with(x.t.gather(axis as isize, &indices)))
}

/// The place of each element of `shape` in a tensor of strides, leaving out `axis`.
fn places(shape: &[usize], strides: &[usize], without: Option<usize>) -> Tensor {
    let mut sum = integers(&[], vec![0]).broadcast_to(shape);
    for (axis, &stride) in strides.iter().enumerate() {
        if Some(axis) != without && shape[axis] > 1 {
            let mut line = vec![1; shape.len()];
            line[axis] = shape[axis];
            let along = Tensor::iota(Spec::new(DType::I64, line), axis as isize);
            sum = sum + along * stride as f64;
        }
    }
    sum
}

/// The places in `x` that the indices of GatherElements and ScatterElements mean.
fn element_places(c: &Call<'_>, x: &Tensor, indices: &Tensor) -> Result<Tensor, Fault> {
    let axis = axis_of(c.int("axis", 0), x.rank())?;
    let inside = indices.rank() == x.rank()
        && (0..x.rank()).all(|a| a == axis || indices.shape()[a] <= x.shape()[a]);
    if !inside {
        return Err(format!("indices {} do not fit {}", indices.spec(), x.spec()).into());
    }
    let strides = row_major(x.shape());
    let along = from_front(c, indices, x.shape()[axis]).cast(DType::I64);
    Ok(along * strides[axis] as f64 + places(indices.shape(), &strides, Some(axis)))
}

fn gather_elements(c: &Call<'_>) -> Answer {
    let (x, indices) = (c.item(0)?, c.t(1)?);
    let places = element_places(c, &x.t, indices)?;
    one(x.with(x.t.reshape(&[x.t.spec().numel()]).gather(0, &places)))
}

/// The first places of the slices that the last axis of `indices` means, and their shape.
fn slice_places(
    c: &Call<'_>,
    x: &Tensor,
    indices: &Tensor,
    batch: usize,
) -> Result<(Tensor, Vec<usize>), Fault> {
    let wrong = || Fault::Wrong(format!("indices {} do not fit {}", indices.spec(), x.spec()));
    let depth = indices.shape().last().copied().ok_or_else(wrong)?;
    let same = batch < indices.rank()
        && depth.checked_add(batch).is_some_and(|d| d <= x.rank())
        && indices.shape()[..batch] == x.shape()[..batch];
    if !same {
        return Err(wrong());
    }
    let strides = row_major(x.shape());
    let outer = &indices.shape()[..indices.rank() - 1];
    let mut line = vec![0; outer.len()];
    line[..batch].copy_from_slice(&strides[..batch]);
    let mut sum = places(outer, &line, None);
    for i in 0..depth {
        let index = indices.slice(-1, i..i + 1).squeeze(-1);
        let index = from_front(c, &index, x.shape()[batch + i]).cast(DType::I64);
        sum = sum + index * strides[batch + i] as f64;
    }
    Ok((sum, x.shape()[batch + depth..].to_vec()))
}

fn gather_nd(c: &Call<'_>) -> Answer {
    let (x, indices) = (c.item(0)?, c.t(1)?);
    let batch = usize::try_from(c.int("batch_dims", 0)).unwrap_or(usize::MAX);
    let (first, rest) = slice_places(c, &x.t, indices, batch)?;
    let inner = product(&rest);
    let rows = x.t.reshape(&[x.t.spec().numel() / inner.max(1), inner]);
    let row = first.binary(&integers(&[], vec![inner.max(1) as i64]), frit_graph::Binary::Div);
    let y = rows.gather(0, &row);
    let shape = [&indices.shape()[..indices.rank() - 1], &rest].concat();
    one(x.with(y.reshape(&shape)))
}

/// `x` with `updates` written to known places: every element of the result is chosen from both.
/// Where several updates meet, each one is a round of its own.
fn write(c: &Call<'_>, x: &Item, places: &Tensor, updates: &Tensor) -> Answer {
    let Some(known) = c.known.demanded(places) else {
        return unsupported("indices that depend on values at run time");
    };
    let reduction = c.text("reduction", "none");
    let n = x.t.spec().numel();
    if n > MOST {
        return unsupported(format!("writing to {}", x.t.spec()));
    }
    let mut rounds: Vec<Vec<i64>> = Vec::new();
    let mut met = vec![0usize; n];
    for (i, place) in known.to_i64().into_iter().enumerate() {
        let place = usize::try_from(place).ok().filter(|&p| p < n);
        let Some(place) = place else { return Err("an index is out of range".into()) };
        // Of plain writes the last one wins.
        let round = if reduction == "none" { 0 } else { met[place] };
        met[place] += 1;
        if rounds.len() == round {
            rounds.push(vec![-1; n]);
        }
        rounds[round][place] = i as i64;
    }
    if rounds.len() > MOST_ROUNDS {
        return unsupported(format!("{} updates of one element", rounds.len()));
    }
    let part = updates.reshape(&[updates.spec().numel()]);
    let mut y = x.t.clone();
    for from in rounds {
        let chosen = integers(x.t.shape(), from);
        let zero = Tensor::scalar(DType::I64, 0.0);
        let new = part.gather(0, &chosen.maximum(&zero));
        let new = match &*reduction {
            "none" => new,
            "add" => &y + new,
            "mul" => &y * new,
            "max" => y.maximum(&new),
            "min" => y.minimum(&new),
            other => return unsupported(format!("reduction {other}")),
        };
        y = chosen.ge(&zero).select(&new, &y);
    }
    one(x.wrapped(y))
}

fn scatter_elements(c: &Call<'_>) -> Answer {
    let (x, indices, updates) = (c.item(0)?, c.t(1)?, c.t(2)?);
    if indices.shape() != updates.shape() {
        return Err(format!("indices {} for updates {}", indices.spec(), updates.spec()).into());
    }
    write(c, x, &element_places(c, &x.t, indices)?, updates)
}

fn scatter_nd(c: &Call<'_>) -> Answer {
    let (x, indices, updates) = (c.item(0)?, c.t(1)?, c.t(2)?);
    let (first, rest) = slice_places(c, &x.t, indices, 0)?;
    let shape = [&first.shape().to_vec()[..], &rest].concat();
    if updates.shape() != shape {
        return Err(format!("updates must be {shape:?}, got {}", updates.spec()).into());
    }
    if product(&rest) > MOST {
        return unsupported(format!("slices of {}", x.t.spec()));
    }
    let inner = integers(&rest, (0..product(&rest) as i64).collect());
    let ones = vec![1; rest.len()];
    let wide = [first.shape(), &ones].concat();
    write(c, x, &(first.reshape(&wide) + inner), updates)
}

/// A cache with a part written over it, each batch row from its own start.
fn tensor_scatter(c: &Call<'_>) -> Answer {
    let (x, update) = (c.item(0)?, c.t(1)?);
    let axis = axis_of(c.int("axis", -2), x.t.rank())?;
    let extent = x.t.shape()[axis];
    let start = match c.opt_t(2) {
        Some(s) => s.cast(DType::I64),
        None => integers(&[x.t.shape()[0]], vec![0; x.t.shape()[0]]),
    };
    if &*c.text("mode", "linear") == "linear" && axis > 0 {
        return one(x.with(x.t.update(axis as isize, update, &start)));
    }
    // In a ring, every place asks which element of the update falls on it.
    let n = update.shape().get(axis).copied().unwrap_or(0);
    let mut line = vec![1; x.t.rank()];
    line[axis] = extent;
    let mut rows = vec![1; x.t.rank()];
    rows[0] = x.t.shape()[0];
    let at = Tensor::iota(Spec::new(DType::I64, line), axis as isize) - start.reshape(&rows);
    let turn = crate::onnx::elem::modulo(&at, &integers(&[], vec![extent as i64]));
    let fresh = turn.lt(&integers(&[], vec![n as i64]));
    let last = integers(&[], vec![n.saturating_sub(1) as i64]);
    let chosen = turn.minimum(&last).broadcast_to(x.t.shape());
    let strides = row_major(update.shape());
    if update.rank() != x.t.rank() || axis == 0 {
        return unsupported(format!("update {} of {}", update.spec(), x.t.spec()));
    }
    let place = chosen * strides[axis] as f64 + places(x.t.shape(), &strides, Some(axis));
    let part = update.reshape(&[update.spec().numel()]).gather(0, &place);
    one(x.with(fresh.select(&part, &x.t)))
}

/// Only with a known condition: its length is a shape.
fn compress(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let condition = c.static_ints(1)?.unwrap_or_default();
    let kept: Vec<i64> =
        (0..condition.len()).filter(|&i| condition[i] != 0).map(|i| i as i64).collect();
    let kept =
        Tensor::constant(Value::new([kept.len()], kept).map_err(|e| Fault::Wrong(e.to_string()))?);
    match c.attribute("axis").and_then(|a| a.int) {
        Some(axis) => {
            let axis = axis_of(axis, x.t.rank())?;
            one(x.with(x.t.gather(axis as isize, &kept)))
        }
        None => one(x.with(x.t.reshape(&[x.t.spec().numel()]).gather(0, &kept))),
    }
}
