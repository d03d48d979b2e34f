//! Shapes as values, and values made of shapes.

use super::{
    super::{
        call::{Answer, Call, Fault, axis_of, one, sizes},
        elem::{Elem, Item, integers},
    },
    Handler, elem,
};
use frit_graph::{DType, Spec, Tensor};

pub(super) const TABLE: &[(&str, Handler)] = &[
    ("Shape", shape),
    ("Size", |c| one(Item::plain(integers(&[], vec![c.t(0)?.spec().numel() as i64])))),
    ("ConstantOfShape", constant_of_shape),
    ("Range", range),
    ("EyeLike", eye_like),
    ("OneHot", one_hot),
    ("Trilu", trilu),
    ("NonZero", non_zero),
];

fn shape(c: &Call<'_>) -> Answer {
    let shape = c.t(0)?.shape();
    let rank = shape.len() as i64;
    let clamp = |n: i64| (if n < 0 { n.saturating_add(rank) } else { n }).clamp(0, rank) as usize;
    let (start, end) = (clamp(c.int("start", 0)), clamp(c.int("end", rank)));
    let part: Vec<i64> = shape.get(start..end).unwrap_or(&[]).iter().map(|&n| n as i64).collect();
    one(Item::plain(integers(&[part.len()], part)))
}

fn constant_of_shape(c: &Call<'_>) -> Answer {
    let shape = sizes(&c.static_ints(0)?.unwrap_or_default())?;
    let Some(value) = c.attribute("value").and_then(|a| a.tensor.as_deref()) else {
        return one(Item::plain(Tensor::full(Spec::new(DType::F32, shape), 0.0)));
    };
    let (e, value) = c.value(value)?;
    let t = Tensor::constant(value.reshaped([]).map_err(|e| Fault::Wrong(e.to_string()))?);
    one(Item { t: t.broadcast_to(&shape), e })
}

fn range(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let number = |i: usize| -> Result<f64, Fault> {
        let list = c.static_floats(i)?.unwrap_or_default();
        list.first().copied().ok_or_else(|| Fault::Wrong(format!("input {i} has no element")))
    };
    let (start, limit, delta) = (number(0)?, number(1)?, number(2)?);
    let count = ((limit - start) / delta).ceil().max(0.0);
    if count.is_nan() || count >= 1e15 {
        return Err(format!("from {start} to {limit} by {delta} has no end").into());
    }
    let spec = Spec::new(x.t.dtype().compute(), [count as usize]);
    if spec.rank() == 1 && count == 0.0 {
        return one(x.with(Tensor::full(x.t.spec().with_shape([0]), 0.0)));
    }
    let y = Tensor::iota(spec, 0) * delta + start;
    one(x.with(y.cast(x.t.dtype())))
}

/// Rows and columns of the last two axes, as integers.
fn rows_and_columns(shape: &[usize]) -> Result<(Tensor, Tensor), Fault> {
    let [.., rows, columns] = shape else { return Err("wants at least 2 axes".into()) };
    let column = Tensor::iota(Spec::new(DType::I64, [1, *columns]), 1);
    Ok((Tensor::iota(Spec::new(DType::I64, [*rows, 1]), 0), column))
}

fn eye_like(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let (row, column) = rows_and_columns(x.t.shape())?;
    let on = (row + c.int("k", 0) as f64).eq(&column);
    let e = match c.attribute("dtype").and_then(|a| a.int) {
        Some(code) => elem(code)?,
        None => x.e,
    };
    one(Item { t: on.cast(e.carrier()), e })
}

fn trilu(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let k = c.static_ints(1)?.and_then(|k| k.first().copied()).unwrap_or(0);
    let k = k.clamp(-(1 << 50), 1 << 50) as f64;
    let (row, column) = rows_and_columns(x.t.shape())?;
    let edge = row + k;
    let keep = if c.int("upper", 1) != 0 { column.ge(&edge) } else { column.le(&edge) };
    one(x.with(keep.select(&x.t, &Tensor::scalar(x.t.dtype(), 0.0))))
}

fn one_hot(c: &Call<'_>) -> Answer {
    let (indices, values) = (c.t(0)?, c.item(2)?);
    let depth = c.static_ints(1)?.and_then(|d| d.first().copied()).unwrap_or(0);
    let depth = sizes(&[depth])?[0];
    let axis = axis_of(c.int("axis", -1), indices.rank() + 1)?;
    let indices = indices.cast(DType::I64);
    let zero = Tensor::scalar(DType::I64, 0.0);
    let indices = indices.lt(&zero).select(&(&indices + depth as f64), &indices);
    let mut shape = vec![1; indices.rank() + 1];
    shape[axis] = depth;
    let hot = indices
        .unsqueeze(axis as isize)
        .eq(&Tensor::iota(Spec::new(DType::I64, shape), axis as isize));
    if values.t.shape() != [2] {
        return Err(format!("values must be [2], got {}", values.t.spec()).into());
    }
    let value = |i: usize| values.t.slice(0, i..i + 1).reshape(&[]);
    one(values.with(hot.select(&value(1), &value(0))))
}

/// Only of what is known: its length is a shape.
fn non_zero(c: &Call<'_>) -> Answer {
    let shape = c.t(0)?.shape().to_vec();
    let Some(numbers) = c.static_floats(0)? else { return Err("input 0 is missing".into()) };
    let places: Vec<usize> = (0..numbers.len()).filter(|&i| numbers[i] != 0.0).collect();
    let strides = frit_graph::row_major(&shape);
    let list = strides
        .iter()
        .zip(&shape)
        .flat_map(|(stride, extent)| places.iter().map(move |p| (p / stride % extent) as i64));
    let list = list.collect();
    one(Item { t: integers(&[shape.len(), places.len()], list), e: Elem::Plain(DType::I64) })
}
