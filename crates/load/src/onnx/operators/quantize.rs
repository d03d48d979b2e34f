//! Numbers as small integers with a scale and a zero point.

use super::{
    super::{
        call::{Answer, Call, Fault, axis_of, one, sizes, takes_blocks, unsupported},
        elem::{Elem, Item},
    },
    Handler,
    conv::convolved,
    elem,
    matmul::matmul,
};
use frit_graph::{DType, Reduce, Tensor};

pub(super) const TABLE: &[(&str, Handler)] = &[
    ("QuantizeLinear", quantize),
    ("DequantizeLinear", dequantize),
    ("DynamicQuantizeLinear", dynamic),
    ("MatMulInteger", matmul_integer),
    ("ConvInteger", conv_integer),
    ("QLinearMatMul", linear_matmul),
    ("QLinearConv", linear_conv),
];

/// A scale or zero point beside `x`: one number, one a slice of the axis, or one a block of it.
fn beside(c: &Call<'_>, x: &Tensor, t: &Tensor) -> Result<Tensor, Fault> {
    if t.spec().numel() == 1 && t.rank() <= 1 {
        return Ok(t.reshape(&[]));
    }
    let axis = axis_of(c.int("axis", 1), x.rank())?;
    if t.rank() == 1 {
        let mut shape = vec![1; x.rank()];
        shape[axis] = t.shape()[0];
        return Ok(t.reshape(&shape));
    }
    let block = sizes(&[c.int("block_size", 0)])?[0];
    let fits = t.rank() == x.rank()
        && block > 0
        && t.shape()[axis].checked_mul(block).is_some_and(|n| n >= x.shape()[axis]);
    if !fits {
        return Err(format!("scale {} in blocks of {block} for {}", t.spec(), x.spec()).into());
    }
    let mut wide = t.shape().to_vec();
    wide.insert(axis + 1, block);
    let mut joined = t.shape().to_vec();
    joined[axis] *= block;
    let repeated = t.unsqueeze(axis as isize + 1).broadcast_to(&wide).reshape(&joined);
    Ok(repeated.slice(axis as isize, 0..x.shape()[axis]))
}

/// Rounded, moved by the zero point, and cut to the range of the type.
fn narrowed(x: Tensor, zero: Option<Tensor>, to: Elem) -> Result<Item, Fault> {
    if to.is_float() {
        return unsupported(format!("to {}", to.name()));
    }
    let d = x.dtype();
    let mut y = x.round();
    if let Some(zero) = zero {
        y = y + zero.cast(d);
    }
    let (low, high) = to.range();
    let y = y.maximum(&Tensor::scalar(d, low)).minimum(&Tensor::scalar(d, high));
    Ok(Item { t: y.cast(to.carrier()), e: to })
}

fn quantize(c: &Call<'_>) -> Answer {
    let (x, scale, zero) = (c.t(0)?, c.t(1)?, c.opt(2));
    let to = match (zero, c.int("output_dtype", 0)) {
        (Some(zero), _) => zero.e,
        (None, 0) => Elem::Plain(DType::U8),
        (None, code) => elem(code)?,
    };
    let precision = match c.int("precision", 0) {
        0 => x.dtype(),
        code => elem(code)?.carrier(),
    };
    let scale = beside(c, x, scale)?.cast(precision);
    let zero = zero.map(|z| beside(c, x, &z.t)).transpose()?;
    // The zero point is added in f32 or wider: narrow floats do not hold every integer.
    let y = (x.cast(precision) / scale).cast(precision.compute());
    one(narrowed(y, zero, to)?)
}

fn dequantize(c: &Call<'_>) -> Answer {
    let (x, scale) = (c.item(0)?, c.item(1)?);
    if x.e.is_float() {
        return unsupported(format!("from {}", x.e.name()));
    }
    let mut y = x.t.cast(DType::F32);
    if let Some(zero) = c.opt_t(2) {
        y = y - beside(c, &x.t, zero)?.cast(DType::F32);
    }
    let y = y * beside(c, &x.t, &scale.t)?.cast(DType::F32);
    let to = match c.int("output_dtype", 0) {
        0 => scale.e,
        code => elem(code)?,
    };
    one(Item { t: y.cast(to.carrier()), e: to })
}

fn dynamic(c: &Call<'_>) -> Answer {
    let x = c.t(0)?.cast(DType::F32);
    let axes: Vec<isize> = (0..x.rank()).map(|a| a as isize).collect();
    let zero = Tensor::scalar(DType::F32, 0.0);
    let top = x.max(&axes).reshape(&[]).maximum(&zero);
    let bottom = x.reduce(Reduce::Min, &axes).reshape(&[]).minimum(&zero);
    let span = &top - &bottom;
    let span = span.eq(&zero).select(&Tensor::scalar(DType::F32, 1.0), &span);
    let scale = span / 255.0;
    let full = Tensor::scalar(DType::F32, 255.0);
    let point = (-&bottom / &scale).maximum(&zero).minimum(&full).round();
    let y = narrowed(x / &scale, Some(point.clone()), Elem::Plain(DType::U8))?;
    Ok(vec![y, Item::plain(scale), Item::plain(point.cast(DType::U8))])
}

/// The operand less its zero point, which may be one a row (`axis` -2) or a column (-1).
fn centred(c: &Call<'_>, i: usize, zero: usize, axis: isize, to: DType) -> Result<Tensor, Fault> {
    let x = c.t(i)?;
    let Some(zero) = c.opt_t(zero) else { return Ok(x.cast(to)) };
    let zero = match zero.rank() {
        1 if zero.spec().numel() == 1 => zero.reshape(&[]),
        1 if axis == -2 && x.rank() > 1 => zero.unsqueeze(-1),
        _ => zero.clone(),
    };
    Ok(x.cast(to) - zero.cast(to))
}

fn matmul_integer(c: &Call<'_>) -> Answer {
    let a = centred(c, 0, 2, -2, DType::I32)?;
    let b = centred(c, 1, 3, -1, DType::I32)?;
    one(Item::plain(matmul(&a, &b)?))
}

/// The operand less its zero points, which are one an output channel of a weight.
fn centred_image(c: &Call<'_>, i: usize, zero: usize) -> Result<Tensor, Fault> {
    let x = c.t(i)?.cast(DType::F32);
    let Some(zero) = c.opt_t(zero) else { return Ok(x) };
    let zero = zero.cast(DType::F32);
    if zero.spec().numel() == 1 {
        return Ok(x - zero.reshape(&[]));
    }
    let mut shape = vec![1; x.rank()];
    shape[0] = zero.spec().numel();
    Ok(x - zero.reshape(&shape))
}

/// In f32, which is exact while the sums stay below 2^24.
fn conv_integer(c: &Call<'_>) -> Answer {
    let (x, w) = (centred_image(c, 0, 2)?, centred_image(c, 1, 3)?);
    one(Item::plain(convolved(c, &x, &w, None)?.cast(DType::I32)))
}

fn linear_matmul(c: &Call<'_>) -> Answer {
    let a = centred(c, 0, 2, -2, DType::I32)?;
    let b = centred(c, 3, 5, -1, DType::I32)?;
    let zero = c.item(7)?;
    let scale = |i: usize| Ok::<_, Fault>(c.t(i)?.cast(DType::F32));
    let factor = scale(1)? * scale(4)? / scale(6)?;
    let y = matmul(&a, &b)?.cast(DType::F32) * factor;
    one(narrowed(y, Some(zero.t.clone()), zero.e)?)
}

fn linear_conv(c: &Call<'_>) -> Answer {
    let (x, w) = (centred_image(c, 0, 2)?, centred_image(c, 3, 5)?);
    let zero = c.item(7)?;
    let bias = c.opt_t(8).map(|b| b.cast(DType::F32));
    if !takes_blocks(&x) {
        return Err("an operand is empty".into());
    }
    let y = convolved(c, &x, &w, bias.as_ref())?;
    let scale = c.t(4)?.cast(DType::F32);
    let scale = match scale.spec().numel() {
        1 => scale.reshape(&[]),
        n => {
            let mut shape = vec![1; y.rank()];
            shape[1] = n;
            scale.reshape(&shape)
        }
    };
    let factor = c.t(1)?.cast(DType::F32) * scale / c.t(6)?.cast(DType::F32);
    one(narrowed(y * factor, Some(zero.t.clone()), zero.e)?)
}
