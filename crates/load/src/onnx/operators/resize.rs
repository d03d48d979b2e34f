//! Resizing along axes, one after the other.
//!
//! What an axis becomes is known while importing: nearest neighbours are a gather, everything else
//! is one small matrix of weights that the axis is multiplied by.

use super::{
    super::{
        call::{Answer, Call, Fault, axis_of, one, sizes, unsupported},
        elem::{integers, numbers},
    },
    Handler,
};
use frit_graph::{DType, Tensor, Value};

pub(super) const TABLE: &[(&str, Handler)] = &[("Resize", resize), ("Upsample", resize)];

/// Elements and weights of one axis are at most this many.
const MOST: usize = 1 << 24;

struct Axis {
    axis: usize,
    /// Elements before and after.
    from: usize,
    to: usize,
    /// What the file says the factor is; `to` is rounded.
    scale: f64,
    region: (f64, f64),
}

struct Modes {
    mode: String,
    coordinate: String,
    nearest: String,
    cubic: f64,
    exclude_outside: bool,
    antialias: bool,
    extrapolation: f64,
}

fn resize(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let old = c.opset < 11 || c.operator == "Upsample";
    let modes = Modes {
        mode: c.text("mode", "nearest"),
        coordinate: c
            .text("coordinate_transformation_mode", if old { "asymmetric" } else { "half_pixel" }),
        nearest: c.text("nearest_mode", if old { "floor" } else { "round_prefer_floor" }),
        cubic: c.float("cubic_coeff_a", -0.75),
        exclude_outside: c.flag("exclude_outside"),
        antialias: c.flag("antialias"),
        extrapolation: c.float("extrapolation_value", 0.0),
    };
    let mut t = x.t.clone();
    for axis in plan(c, x.t.shape(), old, &modes)? {
        t = match &*modes.mode {
            "nearest" => nearest(&t, &axis, &modes)?,
            "linear" | "bilinear" | "cubic" => weighted(&t, &axis, &modes)?,
            other => return unsupported(format!("mode {other}")),
        };
    }
    one(x.with(t))
}

/// The axes that change, and how.
fn plan(c: &Call<'_>, shape: &[usize], old: bool, modes: &Modes) -> Result<Vec<Axis>, Fault> {
    let all: Vec<i64> = (0..shape.len() as i64).collect();
    let axes = c.ints("axes").filter(|a| !a.is_empty()).unwrap_or(&all);
    let axes = axes.iter().map(|&a| axis_of(a, shape.len())).collect::<Result<Vec<_>, _>>()?;
    let scales = match c.attribute("scales") {
        Some(a) => Some(a.floats.iter().map(|&f| f64::from(f)).collect()),
        None => c.static_floats(if old { 1 } else { 2 })?.filter(|s| !s.is_empty()),
    };
    let wanted = if old { None } else { c.static_ints(3)?.filter(|s| !s.is_empty()) };
    let mut plan: Vec<Axis> = Vec::new();
    match (scales, wanted) {
        (Some(scales), None) if scales.len() == axes.len() => {
            for (&axis, &scale) in axes.iter().zip(&scales) {
                let to = (shape[axis] as f64 * scale).floor();
                if !(scale > 0.0 && to < 1e9) {
                    return Err(format!("scale {scale}").into());
                }
                let (from, to) = (shape[axis], to as usize);
                plan.push(Axis { axis, from, to, scale, region: (0.0, 1.0) });
            }
        }
        (None, Some(wanted)) if wanted.len() == axes.len() => {
            let wanted = sizes(&wanted)?;
            let factor = |i: usize| wanted[i] as f64 / shape[axes[i]] as f64;
            let factors = (0..axes.len()).map(factor);
            let policy = c.text("keep_aspect_ratio_policy", "stretch");
            let shared = match &*policy {
                "stretch" => None,
                "not_larger" => factors.reduce(f64::min),
                "not_smaller" => factors.reduce(f64::max),
                other => return unsupported(format!("keep_aspect_ratio_policy {other}")),
            };
            for (i, &axis) in axes.iter().enumerate() {
                let from = shape[axis];
                let (scale, to) = match shared {
                    Some(s) => (s, (s * from as f64 + 0.5).floor() as usize),
                    None => (factor(i), wanted[i]),
                };
                plan.push(Axis { axis, from, to, scale, region: (0.0, 1.0) });
            }
        }
        _ => return Err("wants either scales or sizes, one for each axis".into()),
    }
    if modes.coordinate == "tf_crop_and_resize" {
        let region = c.static_floats(1)?.unwrap_or_default();
        if region.len() != 2 * plan.len() {
            return Err(format!("roi has {} numbers for {} axes", region.len(), plan.len()).into());
        }
        let n = plan.len();
        plan.iter_mut().enumerate().for_each(|(i, a)| a.region = (region[i], region[n + i]));
    }
    if plan.iter().any(|a| a.from == 0 && a.to > 0) {
        return Err("an axis is empty".into());
    }
    if plan.iter().any(|a| a.to > MOST) {
        return unsupported("an axis that becomes too long");
    }
    let crop = modes.coordinate == "tf_crop_and_resize";
    plan.retain(|a| crop || a.from != a.to || a.scale != 1.0);
    Ok(plan)
}

/// Where each element of the result lies on the axis before.
fn places(a: &Axis, modes: &Modes) -> Result<Vec<f64>, Fault> {
    let (from, width) = (a.from as f64, a.scale * a.from as f64);
    let centre = |i: f64| (i + 0.5) / a.scale - 0.5;
    let place = |i: f64| {
        Ok(match &*modes.coordinate {
            "align_corners" if width == 1.0 => 0.0,
            "align_corners" => i * (from - 1.0) / (width - 1.0),
            "asymmetric" => i / a.scale,
            "half_pixel" => centre(i),
            "pytorch_half_pixel" if width == 1.0 => -0.5,
            "pytorch_half_pixel" => centre(i),
            "half_pixel_symmetric" => from / 2.0 * (1.0 - a.to as f64 / width) + centre(i),
            "tf_half_pixel_for_nn" => (i + 0.5) / a.scale,
            "tf_crop_and_resize" => {
                let (start, end) = a.region;
                match width == 1.0 {
                    true => (start + end) * (from - 1.0) / 2.0,
                    false => {
                        start * (from - 1.0) + i * (end - start) * (from - 1.0) / (width - 1.0)
                    }
                }
            }
            other => return unsupported(format!("coordinate_transformation_mode {other}")),
        })
    };
    (0..a.to).map(|i| place(i as f64)).collect()
}

/// Elements that came from outside are another number.
fn outside(t: Tensor, a: &Axis, modes: &Modes, places: &[f64]) -> Result<Tensor, Fault> {
    if modes.coordinate != "tf_crop_and_resize" {
        return Ok(t);
    }
    let inside: Vec<bool> =
        places.iter().map(|p| (0.0..=a.from as f64 - 1.0).contains(p)).collect();
    let mut shape = vec![1; t.rank()];
    shape[a.axis] = a.to;
    let mask = Value::bools(shape, &inside).map_err(|e| Fault::Wrong(e.to_string()))?;
    let number = Tensor::scalar(t.dtype(), modes.extrapolation);
    Ok(Tensor::constant(mask).select(&t, &number))
}

fn nearest(t: &Tensor, a: &Axis, modes: &Modes) -> Result<Tensor, Fault> {
    let places = places(a, modes)?;
    let near = |&p: &f64| {
        let i = match &*modes.nearest {
            "round_prefer_floor" => (p - 0.5).ceil(),
            "round_prefer_ceil" => (p + 0.5).floor(),
            "floor" => p.floor(),
            "ceil" => p.ceil(),
            other => return unsupported(format!("nearest_mode {other}")),
        };
        Ok(i.clamp(0.0, a.from as f64 - 1.0) as i64)
    };
    let indices = places.iter().map(near).collect::<Result<Vec<i64>, _>>()?;
    let y = t.gather(a.axis as isize, &integers(&[indices.len()], indices));
    outside(y, a, modes, &places)
}

/// The weight of an element at this distance.
fn kernel(modes: &Modes, distance: f64) -> f64 {
    let (d, a) = (distance.abs(), modes.cubic);
    match &*modes.mode {
        "cubic" if d <= 1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
        "cubic" if d < 2.0 => ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a,
        "cubic" => 0.0,
        _ => (1.0 - d).max(0.0),
    }
}

fn weighted(t: &Tensor, a: &Axis, modes: &Modes) -> Result<Tensor, Fault> {
    let places = places(a, modes)?;
    if a.from.saturating_mul(a.to) > MOST {
        return unsupported(format!("from {} to {} elements", a.from, a.to));
    }
    // Wider where the axis shrinks, so that no element is left out.
    let narrow = if modes.antialias { a.scale.min(1.0) } else { 1.0 };
    let reach = if modes.mode == "cubic" { 2.0 } else { 1.0 } / narrow;
    let mut matrix = vec![0.0; a.to * a.from];
    for (row, &p) in matrix.chunks_mut(a.from).zip(&places) {
        let (first, last) = ((p - reach).floor() as i64, (p + reach).ceil() as i64);
        let mut sum = 0.0;
        for i in first..=last {
            let weight = kernel(modes, (i as f64 - p) * narrow);
            let inside = (0..a.from as i64).contains(&i);
            if inside || !modes.exclude_outside {
                row[i.clamp(0, a.from as i64 - 1) as usize] += weight;
                sum += weight;
            }
        }
        row.iter_mut().for_each(|w| *w /= sum);
    }
    let d = if t.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let matrix = numbers(d, &[a.to, a.from], &matrix);
    let (x, last) = (t.cast(d), t.rank() - 1);
    let y = match last - a.axis {
        0 => x.matmul(&matrix.swap_axes(0, 1)),
        1 => matrix.matmul(&x),
        _ => {
            let (axis, end) = (a.axis as isize, last as isize);
            x.swap_axes(axis, end).matmul(&matrix.swap_axes(0, 1)).swap_axes(axis, end)
        }
    };
    let y = if t.dtype().is_float() { y } else { y.round() };
    outside(y.cast(t.dtype()), a, modes, &places)
}
