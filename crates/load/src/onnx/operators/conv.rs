//! Convolutions over any number of axes.

use super::{
    super::call::{Answer, Call, Fault, one, product, sizes, takes_blocks, unsupported},
    Handler,
    pool::{Sweep, met, padded, sweeps, taps},
};
use frit_graph::{Block, ShapeError, Spec, Tensor, operands};
use frit_ops::{Conv1d, fast};

pub(super) const TABLE: &[(&str, Handler)] = &[("Conv", conv), ("ConvTranspose", conv_transpose)];

/// `y[b, o, p] = sum over taps and channels of x[b, c, p * stride + tap * dilation] w[o, c, tap]`,
/// plus a bias, over one or more axes.
///
/// A Block of its own, so that a backend can have a kernel for it; composed it is one product of
/// matrices over the elements that the taps meet, or a sum over taps where channels do not mix.
///
/// # Inputs
/// - `x`: `[B, C, ..]`
/// - `weight`: `[O, C / groups, ..]`
/// - `bias` (optional): `[O]`
///
/// # Output
/// `[B, O, ..]` in the type of `x`.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    sweeps: Vec<Sweep>,
    groups: usize,
}

operands!(/// Inputs of [`Conv`].
    pub ConvInputs { x, weight } optional { bias });

impl Conv {
    /// Distances between windows, along each axis.
    pub fn strides(&self) -> Vec<usize> {
        self.sweeps.iter().map(|s| s.stride).collect()
    }

    /// Distances between taps, along each axis.
    pub fn dilations(&self) -> Vec<usize> {
        self.sweeps.iter().map(|s| s.dilation).collect()
    }

    /// Zeros before and after, along each axis.
    pub fn pads(&self) -> Vec<(usize, usize)> {
        self.sweeps.iter().map(|s| (s.before, s.after)).collect()
    }

    /// Groups of channels that do not mix.
    pub fn groups(&self) -> usize {
        self.groups
    }
}

impl Block for Conv {
    type Inputs<T> = ConvInputs<T>;
    const NAME: &'static str = "onnx.conv";

    fn infer(&self, i: ConvInputs<&Spec>) -> Result<Spec, ShapeError> {
        let (x, w, n) = (&i.x.shape, &i.weight.shape, self.sweeps.len());
        let fits = x.len() == n + 2
            && w.len() == n + 2
            && self.groups > 0
            && x[1].checked_div(self.groups) == Some(w[1])
            && x[1].is_multiple_of(self.groups)
            && w[0].is_multiple_of(self.groups)
            && self.sweeps.iter().zip(&w[2..]).all(|(s, &taps)| s.taps == taps);
        if !fits || i.x.dtype != i.weight.dtype {
            let (x, w, g) = (i.x, i.weight, self.groups);
            return Err(format!("weight {w} does not fit x {x} in {g} groups").into());
        }
        if let Some(b) = i.bias
            && (b.shape != [w[0]] || b.dtype != i.x.dtype)
        {
            return Err(format!("bias must be [{}] like x, got {b}", w[0]).into());
        }
        let mut shape = vec![x[0], w[0]];
        shape.extend(self.sweeps.iter().map(|s| s.count));
        Ok(i.x.with_shape(shape))
    }

    fn compose(&self, i: ConvInputs<Tensor>) -> Tensor {
        let dtype = i.x.dtype();
        let x = i.x.cast(dtype.compute());
        let w = i.weight.cast(dtype.compute());
        let (b, channels, out) = (x.shape()[0], x.shape()[1], w.shape()[0]);
        let (g, n) = (self.groups, self.sweeps.len());
        let counts: Vec<usize> = self.sweeps.iter().map(|s| s.count).collect();
        let places = product(&counts);
        let wide = padded(&x, &self.sweeps, 0.0);
        let parts = taps(&self.sweeps).map(|tap| met(&wide, &self.sweeps, &tap));
        let taps: usize = self.sweeps.iter().map(|s| s.taps).product();
        let y = if g == channels && g == out && g > 1 {
            // Channels by themselves: every tap has one number a channel.
            let vectors = w.reshape(&[channels, taps]);
            let mut shape = vec![1; n + 2];
            shape[1] = channels;
            let vector = |t: usize| vectors.slice(1, t..t + 1).reshape(&shape);
            let products = parts.enumerate().map(|(t, x)| x * vector(t));
            match products.reduce(|a, b| a + b) {
                Some(sum) => sum,
                None => return Tensor::poison("onnx.conv", "no taps"),
            }
        } else {
            // [B, groups, C/groups * taps, places] against [groups, O/groups, C/groups * taps].
            let inner = channels / g;
            let met: Vec<Tensor> = parts.map(|x| x.reshape(&[b, g, inner, 1, places])).collect();
            let met = Tensor::concat(&met.iter().collect::<Vec<_>>(), 3);
            let (met, w) = match g {
                1 => (met.reshape(&[b, inner * taps, places]), w.reshape(&[out, inner * taps])),
                _ => {
                    let met = met.reshape(&[b, g, inner * taps, places]);
                    (met, w.reshape(&[g, out / g, inner * taps]))
                }
            };
            w.matmul(&met)
        };
        let mut shape = vec![b, out];
        shape.extend(&counts);
        let mut y = y.reshape(&shape);
        if let Some(bias) = i.bias {
            let mut line = vec![1; n + 2];
            line[1] = out;
            y = y + bias.cast(dtype.compute()).reshape(&line);
        }
        y.cast(dtype)
    }
}

/// The groups and the extents of the window, checked.
fn window(c: &Call<'_>, x: &Tensor, w: &Tensor) -> Result<(usize, Vec<usize>), Fault> {
    let groups = sizes(&[c.int("group", 1)])?[0];
    let taps = w.shape().get(2..).unwrap_or(&[]).to_vec();
    let given = c.ints("kernel_shape").map(sizes).transpose()?;
    let fits = x.rank() == w.rank() && given.is_none_or(|k| k == taps);
    let count = taps.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    match (fits && groups > 0, count) {
        (true, Some(1..=0x1_0000)) => Ok((groups, taps)),
        (true, _) => unsupported(format!("a window of {taps:?}")),
        (false, _) => Err(format!("weight {} does not fit {}", w.spec(), x.spec()).into()),
    }
}

fn conv(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    one(x.with(convolved(c, &x.t, c.t(1)?, c.opt_t(2))?))
}

/// The convolution that the attributes of a node say.
pub(super) fn convolved(
    c: &Call<'_>,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor, Fault> {
    let (groups, taps) = window(c, x, w)?;
    let sweeps = sweeps(c, x.shape(), &taps)?;
    if let [s] = sweeps[..]
        && s.before == s.after
        && takes_blocks(x)
        && takes_blocks(w)
        && Conv1d::default().length(x.shape()[2] + 2 * s.before, 1).is_some()
    {
        let options = Conv1d {
            stride: s.stride,
            padding: s.before,
            dilation: s.dilation,
            groups,
            ..Conv1d::default()
        };
        return Ok(fast::conv1d(x, w, bias, options));
    }
    let inputs = ConvInputs { x: x.clone(), weight: w.clone(), bias: bias.cloned() };
    Ok(Tensor::block(Conv { sweeps, groups }, inputs))
}

/// The other way round: every element of x is spread over a window of y.
fn conv_transpose(c: &Call<'_>) -> Answer {
    let (x, w) = (c.item(0)?, c.t(1)?);
    let (groups, taps) = window(c, &x.t, w)?;
    let n = taps.len();
    let shape = x.t.shape().to_vec();
    let list = |name: &str, default: usize| -> Result<Vec<usize>, Fault> {
        let list = c.ints(name).filter(|l| !l.is_empty()).map_or(Ok(vec![default; n]), sizes)?;
        match list.len() == n && list.iter().all(|&v| v < 1 << 31) {
            true => Ok(list),
            false => Err(format!("`{name}` is {list:?} for {n} axes").into()),
        }
    };
    let (strides, dilations) = (list("strides", 1)?, list("dilations", 1)?);
    let mut extra = list("output_padding", 0)?;
    let pads = c.ints("pads").filter(|p| p.len() == 2 * n).map(|p| p.to_vec());
    let wanted = c.ints("output_shape").filter(|s| s.len() >= n).map(|s| s[s.len() - n..].to_vec());
    let auto = c.text("auto_pad", "NOTSET");
    if shape.len() != n + 2
        || groups == 0
        || shape[1] == 0
        || shape[1] != w.shape()[0]
        || !shape[1].is_multiple_of(groups)
    {
        return Err(format!("weight {} does not fit {}", w.spec(), x.t.spec()).into());
    }
    if strides.contains(&0)
        || dilations.contains(&0)
        || shape[2..].iter().any(|&d| d == 0 || d >= 1 << 31)
    {
        return Err("an extent, stride or dilation is 0".into());
    }
    // Signed, because pads may take more away than there is.
    let mut ends = Vec::new();
    for i in 0..n {
        let span = ((taps[i] - 1) * dilations[i] + 1) as i64;
        let full = (shape[i + 2] - 1) as i64 * strides[i] as i64 + span + extra[i] as i64;
        let same = matches!(&*auto, "SAME_UPPER" | "SAME_LOWER");
        let target = match &wanted {
            Some(s) => Some(s[i]),
            None if same => Some((shape[i + 2] * strides[i]) as i64),
            None => None,
        };
        // What is missing is appended.
        let more = target.map_or(0, |t| t.saturating_sub(full).clamp(0, 1 << 31));
        extra[i] += more as usize;
        let full = full + more;
        let (low, high) = match target {
            Some(target) => {
                let total = full.saturating_sub(target).max(0);
                if &*auto == "SAME_UPPER" {
                    (total / 2, total - total / 2)
                } else {
                    (total - total / 2, total / 2)
                }
            }
            None => pads.as_ref().map_or((0, 0), |p| (p[i], p[n + i])),
        };
        ends.push((low, full.saturating_sub(low).saturating_sub(high), full));
    }
    let out = w.shape()[1] * groups;
    let plain =
        groups == 1 && (0..n).all(|i| strides[i] == taps[i] && dilations[i] == 1 && extra[i] == 0);
    let d = x.t.dtype();
    let (wide, w) = (x.t.cast(d.compute()), w.cast(d.compute()));
    let mut y = match plain {
        true => tiled(&wide, &w, &taps),
        false => spread(&wide, &w, groups, &strides, &dilations, &extra),
    };
    for (i, &(low, length, full)) in ends.iter().enumerate() {
        let end = low.saturating_add(length);
        if low < 0 || length < 1 || end > full {
            return Err(format!("pads leave {length} elements from {low} of {full}").into());
        }
        y = y.slice(i as isize + 2, low as usize..end as usize);
    }
    if let Some(bias) = c.opt_t(2) {
        let mut line = vec![1; n + 2];
        line[1] = out;
        y = y + bias.cast(d.compute()).reshape(&line);
    }
    one(x.with(y.cast(d)))
}

/// Windows that touch and do not overlap: one product, then the windows side by side.
fn tiled(x: &Tensor, w: &Tensor, taps: &[usize]) -> Tensor {
    let (shape, n) = (x.shape().to_vec(), taps.len());
    let (b, channels, out) = (shape[0], shape[1], w.shape()[1]);
    let places = product(&shape[2..]);
    let all = product(taps);
    let rows = w.reshape(&[channels, out * all]).swap_axes(0, 1);
    let y = rows.matmul(&x.reshape(&[b, channels, places]));
    // [B, O, taps.., places..] to [B, O, place, tap, place, tap, ..].
    let mut split = vec![b, out];
    split.extend(taps);
    split.extend(&shape[2..]);
    let mut perm = vec![0, 1];
    perm.extend((0..n).flat_map(|i| [2 + n + i, 2 + i]));
    let mut joined = vec![b, out];
    joined.extend((0..n).map(|i| shape[2 + i] * taps[i]));
    y.reshape(&split).transpose(&perm).reshape(&joined)
}

/// Zeros between the elements, then an ordinary convolution with the window turned around.
fn spread(
    x: &Tensor,
    w: &Tensor,
    groups: usize,
    strides: &[usize],
    dilations: &[usize],
    extra: &[usize],
) -> Tensor {
    let (n, inner, out) = (strides.len(), w.shape()[0] / groups, w.shape()[1]);
    let mut x = x.clone();
    for (i, &stride) in strides.iter().enumerate().filter(|(_, s)| **s > 1) {
        let axis = i + 2;
        let mut joined = x.shape().to_vec();
        joined[axis] *= stride;
        let length = joined[axis] - (stride - 1);
        let sparse = x.unsqueeze(axis as isize + 1).pad(axis as isize + 1, 0, stride - 1, 0.0);
        x = sparse.reshape(&joined).slice(axis as isize, 0..length);
    }
    // [C, O/g, ..] to [O, C/g, ..], every axis of the window reversed.
    let mut grouped = vec![groups, inner, out];
    grouped.extend(&w.shape()[2..]);
    let mut turned = vec![groups * out, inner];
    turned.extend(&w.shape()[2..]);
    let mut w = w.reshape(&grouped).swap_axes(1, 2).reshape(&turned);
    for axis in 2..n + 2 {
        w = w.flip(axis as isize);
    }
    let sweeps = (0..n).map(|i| {
        let taps = w.shape()[i + 2];
        let margin = (taps - 1) * dilations[i];
        let count = x.shape()[i + 2] + margin + extra[i];
        Sweep {
            taps,
            stride: 1,
            dilation: dilations[i],
            before: margin,
            after: margin + extra[i],
            count,
        }
    });
    let conv = Conv { sweeps: sweeps.collect(), groups };
    Tensor::block(conv, ConvInputs { x: x.clone(), weight: w, bias: None })
}
