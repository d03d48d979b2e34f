//! Windows that slide over the axes from the third on, and what pooling makes of them.

use super::{
    super::{
        call::{Answer, Call, Fault, one, product, sizes, unsupported},
        elem::{Item, integers, numbers},
    },
    Handler,
};
use frit_graph::{Tensor, row_major};

pub(super) const TABLE: &[(&str, Handler)] = &[
    ("MaxPool", max_pool),
    ("AveragePool", average_pool),
    ("LpPool", lp_pool),
    ("GlobalAveragePool", |c| global(c, |x, a| x.mean(a))),
    ("GlobalMaxPool", |c| global(c, |x, a| x.max(a))),
];

/// A window that slides along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sweep {
    pub(crate) taps: usize,
    pub(crate) stride: usize,
    pub(crate) dilation: usize,
    pub(crate) before: usize,
    pub(crate) after: usize,
    pub(crate) count: usize,
}

impl Sweep {
    /// The elements of a padded axis that one tap meets. They must exist.
    pub(crate) fn tap(&self, x: &Tensor, axis: usize, tap: usize) -> Tensor {
        x.slice_step(axis as isize, tap * self.dilation, self.stride as isize, self.count)
    }
}

/// Extents, pads and counts are below this.
const MOST: usize = 1 << 27;

/// The windows along each axis from the third on, from the attributes that they share.
pub(super) fn sweeps(c: &Call<'_>, shape: &[usize], taps: &[usize]) -> Result<Vec<Sweep>, Fault> {
    let n = taps.len();
    if shape.len() != n + 2 || n == 0 {
        return Err(format!("a window of {n} axes on a shape {shape:?}").into());
    }
    let list = |name: &str, default: usize, length: usize| -> Result<Vec<usize>, Fault> {
        let list = match c.ints(name).filter(|l| !l.is_empty()) {
            Some(list) => sizes(list)?,
            None => vec![default; length],
        };
        match list.len() == length && list.iter().all(|&n| n < MOST) {
            true => Ok(list),
            false => Err(format!("`{name}` is {list:?} for {n} axes").into()),
        }
    };
    let (strides, dilations) = (list("strides", 1, n)?, list("dilations", 1, n)?);
    let pads = list("pads", 0, 2 * n)?;
    let auto = c.text("auto_pad", "NOTSET");
    let ceil = c.flag("ceil_mode");
    (0..n)
        .map(|i| {
            let (x, taps, stride, dilation) = (shape[i + 2], taps[i], strides[i], dilations[i]);
            if taps == 0 || stride == 0 || dilation == 0 || taps >= MOST || x >= MOST {
                return Err(Fault::Wrong("a window, stride or dilation is 0".into()));
            }
            let span = (taps - 1) * dilation + 1;
            let (before, after) = match &*auto {
                "SAME_UPPER" | "SAME_LOWER" => {
                    let count = x.div_ceil(stride);
                    let total = ((count.max(1) - 1) * stride + span).saturating_sub(x);
                    let small = total / 2;
                    if &*auto == "SAME_UPPER" {
                        (small, total - small)
                    } else {
                        (total - small, small)
                    }
                }
                "VALID" => (0, 0),
                _ => (pads[i], pads[n + i]),
            };
            let room = before + x + after;
            let Some(room) = room.checked_sub(span) else {
                let message = format!("a window of {span} on {room} elements of {shape:?}");
                return Err(Fault::Wrong(message));
            };
            let mut count = room / stride + 1;
            // A last window that is cut, if it starts inside.
            if ceil && !room.is_multiple_of(stride) && count * stride < x + before {
                count += 1;
            }
            let needed = (count - 1) * stride + span;
            let after = after.max(needed.saturating_sub(before + x));
            Ok(Sweep { taps, stride, dilation, before, after, count })
        })
        .collect()
}

/// The places of the taps of a window, last axis fastest.
pub(crate) fn taps(sweeps: &[Sweep]) -> impl Iterator<Item = Vec<usize>> {
    let shape: Vec<usize> = sweeps.iter().map(|s| s.taps).collect();
    let strides = row_major(&shape);
    (0..product(&shape)).map(move |i| strides.iter().zip(&shape).map(|(s, n)| i / s % n).collect())
}

/// `x` with `number` around it.
pub(crate) fn padded(x: &Tensor, sweeps: &[Sweep], number: f64) -> Tensor {
    let pad = |x: Tensor, (i, s): (usize, &Sweep)| x.pad(i as isize + 2, s.before, s.after, number);
    sweeps.iter().enumerate().fold(x.clone(), pad)
}

/// What one tap of every window meets.
pub(crate) fn met(x: &Tensor, sweeps: &[Sweep], tap: &[usize]) -> Tensor {
    let along = |x: Tensor, i: usize| sweeps[i].tap(&x, i + 2, tap[i]);
    (0..sweeps.len()).fold(x.clone(), along)
}

fn windows(c: &Call<'_>, x: &Tensor) -> Result<Vec<Sweep>, Fault> {
    let Some(shape) = c.ints("kernel_shape") else { return Err("has no kernel_shape".into()) };
    let shape = sizes(shape)?;
    match shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) {
        Some(n) if n <= 1 << 16 => sweeps(c, x.shape(), &shape),
        _ => unsupported(format!("a window of {shape:?}")),
    }
}

fn max_pool(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let sweeps = windows(c, &x.t)?;
    let low = if x.e.is_float() { f64::NEG_INFINITY } else { x.e.range().0 };
    let wide = padded(&x.t, &sweeps, low);
    let mut all = taps(&sweeps).map(|tap| met(&wide, &sweeps, &tap));
    let Some(first) = all.next() else { return Err("the window is empty".into()) };
    if !c.wants(1) {
        return one(x.with(all.fold(first, |a, b| a.maximum(&b))));
    }
    // The place of the largest: those of all elements go through the same windows.
    let shape = x.t.shape();
    let n = product(shape);
    if n > MOST {
        return unsupported(format!("indices of {}", x.t.spec()));
    }
    let order: Vec<usize> = match c.flag("storage_order") {
        false => (0..shape.len()).collect(),
        // Columns first, among the last axes only.
        true => (0..2).chain((2..shape.len()).rev()).collect(),
    };
    let turned: Vec<usize> = order.iter().map(|&a| shape[a]).collect();
    let mut back = vec![0; order.len()];
    order.iter().enumerate().for_each(|(i, &a)| back[a] = i);
    let places = integers(&turned, (0..n as i64).collect()).transpose(&back);
    let places = padded(&places, &sweeps, 0.0);
    let mut best = (first, met(&places, &sweeps, &vec![0; sweeps.len()]));
    for tap in taps(&sweeps).skip(1) {
        let (value, place) = (met(&wide, &sweeps, &tap), met(&places, &sweeps, &tap));
        let better = value.gt(&best.0);
        best = (better.select(&value, &best.0), better.select(&place, &best.1));
    }
    Ok(vec![x.with(best.0), Item::plain(best.1)])
}

/// How many elements of `x` itself (or of `x` and its pads) each window meets.
fn counts(x: &Tensor, sweeps: &[Sweep], pads: Option<&[i64]>) -> Tensor {
    let n = sweeps.len();
    let mut product = Tensor::scalar(x.dtype(), 1.0);
    for (i, s) in sweeps.iter().enumerate() {
        let (x_len, after) = (x.shape()[i + 2], pads.map(|p| p.get(n + i).copied().unwrap_or(0)));
        let inside = |p: usize| match after {
            // The pads that were asked for count; those of a cut last window do not.
            Some(after) => p < s.before + x_len + after.max(0) as usize,
            None => (s.before..s.before + x_len).contains(&p),
        };
        let count =
            |o: usize| (0..s.taps).filter(|t| inside(o * s.stride + t * s.dilation)).count() as f64;
        let mut shape = vec![1; n + 2];
        shape[i + 2] = s.count;
        let line: Vec<f64> = (0..s.count).map(count).collect();
        product = product * numbers(x.dtype(), &shape, &line);
    }
    product
}

fn average_pool(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let sweeps = windows(c, &x.t)?;
    let wide = x.t.cast(x.t.dtype().compute());
    let zeros = padded(&wide, &sweeps, 0.0);
    let sum = taps(&sweeps).map(|tap| met(&zeros, &sweeps, &tap)).reduce(|a, b| a + b);
    let Some(sum) = sum else { return Err("the window is empty".into()) };
    let auto = c.text("auto_pad", "NOTSET");
    let own: Vec<i64> = match &*auto {
        "NOTSET" => c.ints("pads").unwrap_or(&[]).to_vec(),
        _ => sweeps.iter().chain(&sweeps).map(|s| s.after as i64).collect(),
    };
    let pads = c.flag("count_include_pad").then_some(&own[..]);
    one(x.with((sum / counts(&wide, &sweeps, pads)).cast(x.t.dtype())))
}

fn lp_pool(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let sweeps = windows(c, &x.t)?;
    let p = c.int("p", 2) as f64;
    let power = |t: Tensor, p: f64| {
        let exponent = Tensor::scalar(t.dtype(), p);
        t.pow(&exponent)
    };
    let zeros = padded(&power(x.t.cast(x.t.dtype().compute()).abs(), p), &sweeps, 0.0);
    let sum = taps(&sweeps).map(|tap| met(&zeros, &sweeps, &tap)).reduce(|a, b| a + b);
    let Some(sum) = sum else { return Err("the window is empty".into()) };
    one(x.with(power(sum, 1.0 / p).cast(x.t.dtype())))
}

fn global(c: &Call<'_>, f: impl FnOnce(&Tensor, &[isize]) -> Tensor) -> Answer {
    let x = c.item(0)?;
    let axes: Vec<isize> = (2..x.t.rank()).map(|a| a as isize).collect();
    one(x.with(super::in_f32(&x.t, |t| f(t, &axes))))
}
