//! Convolutions over any number of axes.

use super::{
    super::call::{Answer, Call, Fault, one, sizes, takes_blocks, unsupported},
    Handler,
    pool::sweeps,
};
use frit_graph::{Block, Tensor};
use frit_ops::{Conv, Conv1d, ConvInputs, fast};

pub(super) const TABLE: &[(&str, Handler)] = &[("Conv", conv), ("ConvTranspose", conv_transpose)];

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
    let options = Conv {
        strides: sweeps.iter().map(|s| s.stride).collect(),
        dilations: sweeps.iter().map(|s| s.dilation).collect(),
        pads: sweeps.iter().map(|s| (s.before, s.after)).collect(),
        groups,
        ..Conv::over(sweeps.len())
    };
    checked(&options, x, w, bias)?;
    Ok(applied(options, x, w, bias))
}

/// Whether the shapes fit; the Block says the same, but not of the types it does not take.
fn checked(c: &Conv, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<(), Fault> {
    let (xs, ws) = (x.shape(), w.shape());
    let fits = c.extents(xs, ws).is_some()
        && xs[1].is_multiple_of(c.groups)
        && xs[1] / c.groups == ws[1]
        && ws[0].is_multiple_of(c.groups)
        && x.dtype() == w.dtype();
    if !fits {
        let (x, w, g) = (x.spec(), w.spec(), c.groups);
        return Err(format!("weight {w} does not fit x {x} in {g} groups").into());
    }
    match bias {
        Some(b) if b.shape() != [ws[0]] || b.dtype() != x.dtype() => {
            Err(format!("bias must be [{}] like x, got {}", ws[0], b.spec()).into())
        }
        _ => Ok(()),
    }
}

/// The Block where it takes these types, else what it is composed of.
fn applied(options: Conv, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Tensor {
    if [Some(x), Some(w), bias].into_iter().flatten().all(takes_blocks) {
        return fast::conv(x, w, bias, options);
    }
    options.compose(ConvInputs { x: x.clone(), weight: w.clone(), bias: bias.cloned() })
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
    if let Some(b) = c.opt_t(2)
        && (b.shape() != [w.shape()[1] * groups] || b.dtype() != x.t.dtype())
    {
        return Err(format!("bias {} does not fit weight {}", b.spec(), w.spec()).into());
    }
    for &(low, length, full) in &ends {
        let end = low.saturating_add(length);
        if low < 0 || length < 1 || end > full {
            return Err(format!("pads leave {length} elements from {low} of {full}").into());
        }
    }
    // Below 2^31 by the checks above.
    let window: Vec<(usize, usize)> =
        ends.iter().map(|&(low, length, _)| (low as usize, length as usize)).collect();
    let spread = Spread { groups, strides: &strides, dilations: &dilations, window: &window };
    one(x.with(spread.of(&x.t, w, c.opt_t(2))))
}

/// A convolution the other way round.
struct Spread<'a> {
    groups: usize,
    strides: &'a [usize],
    dilations: &'a [usize],
    /// What is kept of each axis of the result: the first place and how many.
    window: &'a [(usize, usize)],
}

impl Spread<'_> {
    /// Places of the result that have the same remainder by the stride see the same taps: each
    /// remainder is an ordinary convolution of x, and all of them are one with more outputs.
    fn of(&self, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Tensor {
        let (n, g) = (self.strides.len(), self.groups);
        let (inner, out) = (w.shape()[0] / g, w.shape()[1]);
        let w = self.apart(w);
        // [C, O/g, ..] to [g, C/g, O/g, taps of a remainder, remainder, ..], the taps turned around.
        let (mut w, mut split) = (w.clone(), vec![g, inner, out]);
        let mut taps = Vec::new();
        for (i, &stride) in self.strides.iter().enumerate() {
            let length = w.shape()[i + 2];
            let each = length.div_ceil(stride);
            w = w.pad(i as isize + 2, 0, each * stride - length, 0.0);
            split.extend([each, stride]);
            taps.push(each);
        }
        let mut w = w.reshape(&split);
        for i in 0..n {
            w = w.flip(3 + 2 * i as isize);
        }
        // Remainders become outputs: [g, O/g, remainder.., C/g, taps..].
        let remainders = (0..n).map(|i| 4 + 2 * i);
        let perm: Vec<usize> = [0, 2]
            .into_iter()
            .chain(remainders)
            .chain([1])
            .chain((0..n).map(|i| 3 + 2 * i))
            .collect();
        let every: usize = self.strides.iter().product();
        let shape = [&[g * out * every, inner], &taps[..]].concat();
        let w = w.transpose(&perm).reshape(&shape);
        let bias = bias.map(|b| {
            let each = b.reshape(&[g * out, 1]).broadcast_to(&[g * out, every]);
            each.reshape(&[g * out * every])
        });
        let places: Vec<usize> = self
            .window
            .iter()
            .zip(self.strides)
            .zip(&x.shape()[2..])
            .map(|((&(low, length), &stride), &l)| (low + length).div_ceil(stride).max(l))
            .collect();
        let pads = (0..n).map(|i| (taps[i] - 1, places[i] - x.shape()[i + 2]));
        let options = Conv { pads: pads.collect(), groups: g, ..Conv::over(n) };
        let y = applied(options, x, &w, bias.as_ref());
        // [B, O, remainder.., place..] to [B, O, place, remainder, place, remainder, ..].
        let b = x.shape()[0];
        let mut perm = vec![0, 1];
        perm.extend((0..n).flat_map(|i| [2 + n + i, 2 + i]));
        let split = [&[b, g * out], self.strides, &places[..]].concat();
        let joined = places.iter().zip(self.strides).map(|(p, s)| p * s);
        let joined: Vec<usize> = [b, g * out].into_iter().chain(joined).collect();
        let mut y = y.reshape(&split).transpose(&perm).reshape(&joined);
        for (i, &(low, length)) in self.window.iter().enumerate() {
            y = y.slice(i as isize + 2, low..low + length);
        }
        y
    }

    /// The weight with zeros between its taps.
    fn apart(&self, w: &Tensor) -> Tensor {
        let mut w = w.clone();
        for (i, &dilation) in self.dilations.iter().enumerate().filter(|(_, d)| **d > 1) {
            let axis = i + 2;
            let mut joined = w.shape().to_vec();
            joined[axis] *= dilation;
            let length = joined[axis] - (dilation - 1);
            let sparse =
                w.unsqueeze(axis as isize + 1).pad(axis as isize + 1, 0, dilation - 1, 0.0);
            w = sparse.reshape(&joined).slice(axis as isize, 0..length);
        }
        w
    }
}
