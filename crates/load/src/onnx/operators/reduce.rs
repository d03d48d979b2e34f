//! Axes reduced to one number, and functions along an axis.

use super::{
    super::{
        call::{Answer, Call, Fault, axis_of, one, takes_blocks, unsupported},
        elem::Item,
    },
    Handler, in_f32,
    movement::{axes, flat},
};
use frit_graph::{DType, Reduce, Spec, Tensor};
use frit_ops::fast;

pub(super) const TABLE: &[(&str, Handler)] = &[
    ("ReduceSum", |c| reduce(c, |x, a| x.sum(a))),
    ("ReduceMean", |c| reduce(c, |x, a| x.mean(a))),
    ("ReduceProd", |c| reduce(c, |x, a| x.reduce(Reduce::Prod, a))),
    ("ReduceMax", |c| extreme(c, Reduce::Max)),
    ("ReduceMin", |c| extreme(c, Reduce::Min)),
    ("ReduceL1", |c| reduce(c, |x, a| x.abs().sum(a))),
    ("ReduceL2", |c| reduce(c, |x, a| (x * x).sum(a).sqrt())),
    ("ReduceSumSquare", |c| reduce(c, |x, a| (x * x).sum(a))),
    ("ReduceLogSum", |c| reduce(c, |x, a| x.sum(a).log())),
    ("ReduceLogSumExp", |c| reduce(c, log_sum_exp)),
    ("ArgMax", |c| arg(c, false)),
    ("ArgMin", |c| arg(c, true)),
    ("Softmax", |c| along(c, softmax)),
    ("LogSoftmax", |c| along(c, log_softmax)),
    ("Hardmax", |c| along(c, hardmax)),
    ("CumSum", cumsum),
    ("TopK", top_k),
];

/// Lanes longer than this are not sorted: every element is compared with every other.
const LONGEST: usize = 4096;

/// The axes to reduce; `None` where nothing is to be reduced.
fn reduced(c: &Call<'_>, rank: usize) -> Result<Option<Vec<usize>>, Fault> {
    match c.ints_of("axes", 1)?.filter(|list| !list.is_empty()) {
        Some(list) => Ok(Some(axes(&list, rank)?)),
        None if c.flag("noop_with_empty_axes") => Ok(None),
        None => Ok(Some((0..rank).collect())),
    }
}

fn dropped(c: &Call<'_>, t: Tensor, axes: &[usize]) -> Tensor {
    if c.int("keepdims", 1) != 0 || t.is_poisoned() {
        return t;
    }
    let kept = (0..t.rank()).filter(|a| !axes.contains(a)).map(|a| t.shape()[a]);
    t.reshape(&kept.collect::<Vec<_>>())
}

fn reduce(c: &Call<'_>, f: impl FnOnce(&Tensor, &[isize]) -> Tensor) -> Answer {
    let x = c.item(0)?;
    let axes = reduced(c, x.t.rank())?;
    let signed: Vec<isize> = axes.iter().flatten().map(|&a| a as isize).collect();
    // Roots and logarithms of integers are taken in f64.
    let wide = x.t.dtype().is_integer()
        && !matches!(c.operator, "ReduceSum" | "ReduceProd" | "ReduceMean");
    let y = match wide {
        true => f(&x.t.cast(DType::F64), &signed).cast(x.t.dtype()),
        false => in_f32(&x.t, |t| f(t, &signed)),
    };
    one(x.wrapped(dropped(c, y, axes.as_deref().unwrap_or(&[]))))
}

fn extreme(c: &Call<'_>, f: Reduce) -> Answer {
    let x = c.item(0)?;
    let axes = reduced(c, x.t.rank())?;
    let signed: Vec<isize> = axes.iter().flatten().map(|&a| a as isize).collect();
    let y = match x.t.dtype() {
        DType::Bool => x.t.cast(DType::U8).reduce(f, &signed).ne(&Tensor::scalar(DType::U8, 0.0)),
        _ => x.t.reduce(f, &signed),
    };
    // Over nothing, the type of the file decides.
    let y = match x.t.spec().numel() {
        0 if x.t.dtype() != DType::Bool && !x.e.is_float() && !y.is_poisoned() => {
            let (low, high) = x.e.range();
            Tensor::full(y.spec().clone(), if f == Reduce::Max { low } else { high })
        }
        0 if x.t.dtype() == DType::Bool && !y.is_poisoned() => {
            Tensor::full(y.spec().clone(), f64::from(f == Reduce::Min))
        }
        _ => y,
    };
    one(x.with(dropped(c, y, axes.as_deref().unwrap_or(&[]))))
}

fn log_sum_exp(x: &Tensor, axes: &[isize]) -> Tensor {
    let top = x.max(axes);
    // Of nothing but -inf, or of nothing at all, the largest is no number to subtract.
    let finite = top.abs().lt(&Tensor::scalar(x.dtype(), f64::INFINITY));
    let top = finite.select(&top, &Tensor::scalar(x.dtype(), 0.0));
    (x - &top).exp().sum(axes).log() + top
}

fn arg(c: &Call<'_>, smallest: bool) -> Answer {
    let x = c.t(0)?;
    let axis = axis_of(c.int("axis", 0), x.rank())?;
    let last = c.flag("select_last_index");
    let mut t = match x.dtype() {
        DType::U8 | DType::U32 | DType::Bool => x.cast(DType::I64),
        _ => x.clone(),
    };
    if smallest {
        t = -t;
    }
    let n = x.shape()[axis];
    let at = axis as isize;
    let y = match last {
        true => (n as f64 - 1.0) - t.flip(at).argmax(at),
        false => t.argmax(at),
    };
    one(Item::plain(dropped(c, y, &[axis])))
}

/// A function along the last axis of a matrix in old versions, along one axis in new ones.
fn along(c: &Call<'_>, f: impl FnOnce(&Tensor, isize) -> Tensor) -> Answer {
    let x = c.item(0)?;
    let rank = x.t.rank();
    if c.opset >= 13 {
        let axis = axis_of(c.int("axis", -1), rank)?;
        let axis = if axis + 1 == rank { -1 } else { axis as isize };
        return one(x.with(f(&x.t, axis)));
    }
    let axis = axis_of(c.int("axis", 1), rank)?;
    if axis + 1 == rank {
        return one(x.with(f(&x.t, -1)));
    }
    let rows = x.t.reshape(&flat(&x.t, axis));
    one(x.with(f(&rows, -1).reshape(x.t.shape())))
}

/// Softmax, as the Block where it takes the type.
pub(super) fn softmax(x: &Tensor, axis: isize) -> Tensor {
    if takes_blocks(x) {
        return fast::softmax(x, axis);
    }
    let e = (x - x.max(&[axis])).exp();
    &e / e.sum(&[axis])
}

fn log_softmax(x: &Tensor, axis: isize) -> Tensor {
    in_f32(x, |x| {
        let low = x - x.max(&[axis]);
        &low - low.exp().sum(&[axis]).log()
    })
}

fn hardmax(x: &Tensor, axis: isize) -> Tensor {
    let best = x.argmax(axis);
    let mut line = vec![1; x.rank()];
    let at = if axis < 0 { axis + x.rank() as isize } else { axis } as usize;
    line[at] = x.shape()[at];
    best.eq(&Tensor::iota(Spec::new(DType::I64, line), axis)).cast(x.dtype())
}

fn cumsum(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let axis = c.static_ints(1)?.and_then(|a| a.first().copied()).unwrap_or(0);
    let axis = axis_of(axis, x.t.rank())? as isize;
    let (exclusive, reverse) = (c.flag("exclusive"), c.flag("reverse"));
    let t = if reverse { x.t.flip(axis) } else { x.t.clone() };
    let n = t.shape()[axis as usize];
    let mut y = t.cumsum(axis);
    if exclusive && n > 0 {
        y = y.slice(axis, 0..n - 1).pad(axis, 1, 0, 0.0);
    }
    one(x.wrapped(if reverse { y.flip(axis) } else { y }))
}

/// Every element counts those that come before it; rank r is the one that r come before.
fn top_k(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let axis = axis_of(c.int("axis", -1), x.t.rank())?;
    let k = match c.attribute("k").and_then(|a| a.int) {
        Some(k) => k,
        None => c.static_ints(1)?.and_then(|k| k.first().copied()).unwrap_or(0),
    };
    let n = x.t.shape()[axis];
    let Some(k) = usize::try_from(k).ok().filter(|&k| k <= n) else {
        return Err(format!("k is {k} on axis {axis} of {}", x.t.spec()).into());
    };
    if n > LONGEST {
        return unsupported(format!("an axis of {n} elements"));
    }
    let last = x.t.rank() - 1;
    let mut perm: Vec<usize> = (0..x.t.rank()).filter(|&a| a != axis).collect();
    perm.push(axis);
    let t = x.t.transpose(&perm);
    let (own, other) = (t.unsqueeze(-1), t.unsqueeze(-2));
    let line = |axis: usize| {
        let mut shape = vec![1; last + 2];
        shape[axis] = n;
        Tensor::iota(Spec::new(DType::I64, shape), axis as isize)
    };
    let earlier = line(last + 1).lt(&line(last));
    let before = if c.int("largest", 1) != 0 { other.gt(&own) } else { other.lt(&own) };
    let before = before.logical_or(&other.eq(&own).logical_and(&earlier));
    let rank = before.cast(DType::I64).sum(&[-1]);
    // [.., n, 1] ranks against [k] places.
    let mut places = vec![1; last + 2];
    places[last + 1] = k;
    let hit = rank.eq(&Tensor::iota(Spec::new(DType::I64, places), -1));
    let index = hit.cast(DType::I64) * line(last);
    let index = index.sum(&[-2]).squeeze(-2);
    let zero = Tensor::scalar(x.t.dtype(), 0.0);
    let values = hit.select(&own, &zero).sum(&[-2]).squeeze(-2);
    let mut back = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(i, &p)| back[p] = i);
    Ok(vec![x.with(values.transpose(&back)), Item::plain(index.transpose(&back))])
}
