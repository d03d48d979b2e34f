//! The same elements in other places.

use super::{
    super::call::{Answer, Call, Fault, axis_of, one, product, sizes, unsupported},
    Handler,
};
use crate::onnx::elem::{Item, integers};
use frit_graph::{DType, Tensor, broadcast_shapes};

pub(super) const TABLE: &[(&str, Handler)] = &[
    ("Reshape", reshape),
    ("Flatten", flatten),
    ("Squeeze", squeeze),
    ("Unsqueeze", unsqueeze),
    ("Transpose", transpose),
    ("Expand", expand),
    ("Tile", tile),
    ("Concat", concat),
    ("Split", split),
    ("Slice", slice),
    ("Pad", pad),
    ("CenterCropPad", center_crop_pad),
    ("DepthToSpace", depth_to_space),
    ("SpaceToDepth", space_to_depth),
    ("Dropout", dropout),
];

fn reshape(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let Some(wanted) = c.ints_of("shape", 1)? else { return Err("has no shape".into()) };
    let mut shape = Vec::with_capacity(wanted.len());
    let mut open = None;
    for (i, &n) in wanted.iter().enumerate() {
        shape.push(match n {
            -1 if open.is_none() => {
                open = Some(i);
                1
            }
            0 if !c.flag("allowzero") => match x.t.shape().get(i) {
                Some(&n) => n,
                None => return Err(format!("{wanted:?} keeps axis {i} of {}", x.t.spec()).into()),
            },
            n => sizes(&[n])?[0],
        });
    }
    if let Some(i) = open {
        let rest = x.t.spec().with_shape(shape.clone()).numel();
        shape[i] = x.t.spec().numel().checked_div(rest).unwrap_or(0);
    }
    one(x.with(x.t.reshape(&shape)))
}

/// `[rows, columns]`: the axes before and from `axis`.
pub(super) fn flat(t: &Tensor, axis: usize) -> [usize; 2] {
    let (head, tail) = t.shape().split_at(axis);
    [product(head), product(tail)]
}

fn flatten(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let axis = c.int("axis", 1);
    let at = match axis == x.t.rank() as i64 {
        true => x.t.rank(),
        false => axis_of(axis, x.t.rank())?,
    };
    one(x.with(x.t.reshape(&flat(&x.t, at))))
}

/// Axes counted from the front, ascending, each once.
pub(super) fn axes(list: &[i64], rank: usize) -> Result<Vec<usize>, Fault> {
    let mut axes = list.iter().map(|&a| axis_of(a, rank)).collect::<Result<Vec<_>, _>>()?;
    axes.sort_unstable();
    match axes.windows(2).any(|w| w[0] == w[1]) {
        true => Err(format!("axes {list:?} repeat").into()),
        false => Ok(axes),
    }
}

fn squeeze(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let shape = x.t.shape();
    let gone = match c.ints_of("axes", 1)? {
        Some(list) => axes(&list, shape.len())?,
        None => (0..shape.len()).filter(|&a| shape[a] == 1).collect(),
    };
    let kept: Vec<usize> =
        (0..shape.len()).filter(|a| !gone.contains(a)).map(|a| shape[a]).collect();
    one(x.with(x.t.reshape(&kept)))
}

fn unsqueeze(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let list = c.ints_of("axes", 1)?.unwrap_or_default();
    let mut shape = x.t.shape().to_vec();
    for axis in axes(&list, shape.len() + list.len())? {
        shape.insert(axis, 1);
    }
    one(x.with(x.t.reshape(&shape)))
}

fn transpose(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let perm = match c.ints("perm") {
        Some(perm) => sizes(perm)?,
        None => (0..x.t.rank()).rev().collect(),
    };
    one(x.with(x.t.transpose(&perm)))
}

fn expand(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let shape = sizes(&c.static_ints(1)?.unwrap_or_default())?;
    match broadcast_shapes(x.t.shape(), &shape) {
        Some(both) => one(x.with(x.t.broadcast_to(&both))),
        None => Err(format!("{} does not broadcast with {shape:?}", x.t.spec()).into()),
    }
}

fn tile(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let times = sizes(&c.static_ints(1)?.unwrap_or_default())?;
    let shape = x.t.shape();
    if times.len() != shape.len() {
        return Err(format!("{} repeats for {}", times.len(), x.t.spec()).into());
    }
    let mut t = x.t.clone();
    for (axis, &n) in times.iter().enumerate().filter(|(_, n)| **n != 1) {
        let mut wide = t.shape().to_vec();
        wide.insert(axis, n);
        let mut joined = t.shape().to_vec();
        joined[axis] = match joined[axis].checked_mul(n) {
            Some(all) => all,
            None => return Err(format!("{n} repeats of {} are too many", x.t.spec()).into()),
        };
        t = t.unsqueeze(axis as isize).broadcast_to(&wide).reshape(&joined);
    }
    one(x.with(t))
}

fn concat(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let parts: Vec<&Tensor> = c.inputs.iter().flatten().map(|i| &i.t).collect();
    let axis = axis_of(c.int("axis", 0), x.t.rank())?;
    one(x.with(Tensor::concat(&parts, axis as isize)))
}

fn split(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let axis = axis_of(c.int("axis", 0), x.t.rank())?;
    let extent = x.t.shape()[axis];
    let parts = match c.ints_of("split", 1)? {
        Some(list) => sizes(&list)?,
        None => {
            let count = sizes(&[c.int("num_outputs", c.wanted.len() as i64)])?[0];
            if count == 0 || count > c.wanted.len() {
                return Err(format!("{count} parts for {} outputs", c.wanted.len()).into());
            }
            let each = extent.div_ceil(count);
            let part = |i: usize| extent.saturating_sub(i * each).min(each);
            (0..count).map(part).collect()
        }
    };
    let mut start = 0usize;
    let mut items = Vec::new();
    for n in parts {
        let end = start.saturating_add(n);
        if end > extent {
            return Err(format!("the parts are longer than axis {axis} of {}", x.t.spec()).into());
        }
        items.push(x.with(x.t.slice(axis as isize, start..end)));
        start = end;
    }
    Ok(items)
}

fn slice(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let starts = c.ints_of("starts", 1)?.unwrap_or_default();
    let ends = c.ints_of("ends", 2)?.unwrap_or_default();
    let along = c.ints_of("axes", 3)?.unwrap_or((0..starts.len() as i64).collect());
    let steps = c.static_ints(4)?.unwrap_or(vec![1; starts.len()]);
    if ends.len() != starts.len() || along.len() != starts.len() || steps.len() != starts.len() {
        return Err("starts, ends, axes and steps are not of one length".into());
    }
    let mut t = x.t.clone();
    for i in 0..starts.len() {
        let axis = axis_of(along[i], t.rank())?;
        let n = t.shape()[axis] as i64;
        let step = steps[i];
        let from_front = |at: i64| if at < 0 { at.saturating_add(n) } else { at };
        let (start, end) = (from_front(starts[i]), from_front(ends[i]));
        let (start, count) = match step {
            0 => return Err("a step is 0".into()),
            1.. => {
                let (start, end) = (start.clamp(0, n), end.clamp(0, n));
                (start, (end - start).max(0).unsigned_abs().div_ceil(step.unsigned_abs()))
            }
            _ => {
                let (start, end) = (start.clamp(-1, n - 1), end.clamp(-1, n - 1));
                (start, (start - end).max(0).unsigned_abs().div_ceil(step.unsigned_abs()))
            }
        };
        let first = if count == 0 { 0 } else { start as usize };
        let step = if count < 2 { 1 } else { step as isize };
        t = t.slice_step(axis as isize, first, step, count as usize);
    }
    one(x.with(t))
}

fn pad(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let Some(pads) = c.ints_of("pads", 1)? else { return Err("has no pads".into()) };
    let along = match c.static_ints(3)? {
        Some(list) => list,
        None => (0..x.t.rank() as i64).collect(),
    };
    if pads.len() != along.len() * 2 {
        return Err(format!("{} pads for {} axes", pads.len(), along.len()).into());
    }
    let value = match c.opt(2) {
        Some(item) => item.t.reshape(&[]),
        None => Tensor::scalar(x.t.dtype(), c.float("value", 0.0)),
    };
    let mode = c.text("mode", "constant");
    let mut t = x.t.clone();
    for (i, &axis) in along.iter().enumerate() {
        let axis = axis_of(axis, t.rank())?;
        let (before, after) = (pads[i], pads[i + along.len()]);
        t = match &*mode {
            "constant" => constant_pad(c, &t, axis, (before, after), &value)?,
            _ => mirrored(&t, axis, (before, after), &mode)?,
        };
    }
    one(x.with(t))
}

fn constant_pad(
    c: &Call<'_>,
    t: &Tensor,
    axis: usize,
    (before, after): (i64, i64),
    value: &Tensor,
) -> Result<Tensor, Fault> {
    let n = t.shape()[axis] as i64;
    // Negative pads take elements away.
    let (start, end) = (before.saturating_neg().clamp(0, n), n.saturating_add(after.min(0)).max(0));
    let t = t.slice(axis as isize, start as usize..end.max(start) as usize);
    let (before, after) = (sizes(&[before.max(0)])?[0], sizes(&[after.max(0)])?[0]);
    if let Some(v) = c.known.value(value) {
        return Ok(t.pad(axis as isize, before, after, v.to_f64()[0]));
    }
    let side = |n: usize| {
        let mut shape = t.shape().to_vec();
        shape[axis] = n;
        value.broadcast_to(&shape)
    };
    Ok(Tensor::concat(&[&side(before), &t, &side(after)], axis as isize))
}

/// Longer axes are not made by indices.
const MOST: i64 = 1 << 28;

/// Every element is another one along the axis.
fn mirrored(
    t: &Tensor,
    axis: usize,
    (before, after): (i64, i64),
    mode: &str,
) -> Result<Tensor, Fault> {
    let n = t.shape()[axis] as i64;
    let total = n.saturating_add(before).saturating_add(after);
    if n == 0 || !(0..MOST).contains(&total) || !(-MOST..MOST).contains(&before) {
        return Err(format!("pads {before} and {after} do not fit {}", t.spec()).into());
    }
    let from = |i: i64| match mode {
        "edge" => Ok(i.clamp(0, n - 1)),
        "wrap" => Ok(i.rem_euclid(n)),
        "reflect" if n == 1 => Ok(0),
        "reflect" => {
            let turn = i.rem_euclid(2 * (n - 1));
            Ok(turn.min(2 * (n - 1) - turn))
        }
        other => unsupported(format!("mode {other}")),
    };
    if before == 0 && after == 0 {
        return Ok(t.clone());
    }
    let places = (-before..n + after).map(from).collect::<Result<Vec<i64>, _>>()?;
    Ok(t.gather(axis as isize, &integers(&[places.len()], places)))
}

fn center_crop_pad(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let shape = sizes(&c.static_ints(1)?.unwrap_or_default())?;
    let all: Vec<i64> = (0..x.t.rank() as i64).collect();
    let along = c.ints("axes").unwrap_or(&all);
    if along.len() != shape.len() {
        return Err(format!("{} extents for {} axes", shape.len(), along.len()).into());
    }
    let mut t = x.t.clone();
    for (&axis, &wanted) in along.iter().zip(&shape) {
        let axis = axis_of(axis, t.rank())?;
        let n = t.shape()[axis];
        t = if wanted <= n {
            let start = (n - wanted) / 2;
            t.slice(axis as isize, start..start + wanted)
        } else {
            let before = (wanted - n) / 2;
            t.pad(axis as isize, before, wanted - n - before, 0.0)
        };
    }
    one(x.with(t))
}

fn image(c: &Call<'_>) -> Result<([usize; 4], usize), Fault> {
    let x = c.t(0)?;
    let block = sizes(&[c.int("blocksize", 0)])?[0];
    match (<[usize; 4]>::try_from(x.shape()), block) {
        (Ok(shape), 1..=0xffff) => Ok((shape, block)),
        _ => Err(format!("wants [N, C, H, W] and a blocksize, got {}", x.spec()).into()),
    }
}

fn depth_to_space(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let ([n, ch, h, w], b) = image(c)?;
    let depth = ch / (b * b);
    let t = match &*c.text("mode", "DCR") {
        "DCR" => x.t.reshape(&[n, b, b, depth, h, w]).transpose(&[0, 3, 4, 1, 5, 2]),
        _ => x.t.reshape(&[n, depth, b, b, h, w]).transpose(&[0, 1, 4, 2, 5, 3]),
    };
    one(x.with(t.reshape(&[n, depth, h * b, w * b])))
}

fn space_to_depth(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let ([n, ch, h, w], b) = image(c)?;
    let perm = match &*c.text("mode", "DCR") {
        "DCR" => [0, 3, 5, 1, 2, 4],
        _ => [0, 1, 3, 5, 2, 4],
    };
    let t = x.t.reshape(&[n, ch, h / b, b, w / b, b]).transpose(&perm);
    one(x.with(t.reshape(&[n, ch * b * b, h / b, w / b])))
}

/// Nothing is dropped where nothing is trained.
fn dropout(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let training = c.static_ints(2)?.is_some_and(|t| t.first() == Some(&1));
    let ratio = c.static_floats(1)?.and_then(|r| r.first().copied()).unwrap_or(0.5);
    if training && ratio != 0.0 {
        return unsupported("training_mode");
    }
    let mask = Tensor::full(x.t.spec().with_dtype(DType::Bool), 1.0);
    Ok(vec![x.clone(), Item::plain(mask)])
}
