//! Arithmetic, comparisons and conversions, element by element.

use super::{
    super::{
        call::{Answer, Call, Fault, one, unsupported},
        elem::{Elem, Item, modulo},
    },
    Handler, elem, in_f32,
};
use frit_graph::{Binary, Compare, DType, Tensor, Unary};

pub(super) const TABLE: &[(&str, Handler)] = &[
    ("Abs", |c| unary(c, Unary::Abs)),
    ("Neg", |c| unary(c, Unary::Neg)),
    ("Exp", |c| unary(c, Unary::Exp)),
    ("Log", |c| unary(c, Unary::Log)),
    ("Sqrt", |c| unary(c, Unary::Sqrt)),
    ("Sin", |c| unary(c, Unary::Sin)),
    ("Cos", |c| unary(c, Unary::Cos)),
    ("Tanh", |c| unary(c, Unary::Tanh)),
    ("Erf", |c| unary(c, Unary::Erf)),
    ("Sigmoid", |c| unary(c, Unary::Sigmoid)),
    ("Floor", |c| unary(c, Unary::Floor)),
    ("Ceil", |c| unary(c, Unary::Ceil)),
    ("Round", |c| unary(c, Unary::Round)),
    ("Not", |c| unary(c, Unary::Not)),
    ("Reciprocal", |c| float(c, |x| 1.0 / x.clone())),
    ("Tan", |c| float(c, |x| x.sin() / x.cos())),
    ("Sinh", |c| float(c, |x| (x.exp() - (-x).exp()) * 0.5)),
    ("Cosh", |c| float(c, |x| (x.exp() + (-x).exp()) * 0.5)),
    ("Asinh", |c| float(c, |x| sign(x) * (x.abs() + (x * x + 1.0).sqrt()).log())),
    ("Acosh", |c| float(c, |x| (x + (x * x - 1.0).sqrt()).log())),
    ("Atanh", |c| float(c, |x| ((x + 1.0) / (1.0 - x.clone())).log() * 0.5)),
    ("Sign", |c| one(c.item(0)?.with(sign(c.t(0)?)))),
    ("IsNaN", |c| one(Item::plain(c.t(0)?.ne(c.t(0)?)))),
    ("IsInf", is_inf),
    ("Identity", |c| one(c.item(0)?.clone())),
    ("Add", |c| binary(c, Binary::Add)),
    ("Sub", |c| binary(c, Binary::Sub)),
    ("Mul", |c| binary(c, Binary::Mul)),
    ("Div", |c| binary(c, Binary::Div)),
    ("And", |c| binary(c, Binary::And)),
    ("Or", |c| binary(c, Binary::Or)),
    ("Xor", |c| one(Item::plain(c.t(0)?.ne(c.t(1)?)))),
    ("Pow", pow),
    ("Mod", remainder),
    ("Max", |c| many(c, Binary::Max)),
    ("Min", |c| many(c, Binary::Min)),
    ("Sum", |c| many(c, Binary::Add)),
    ("Mean", |c| {
        let sum = many(c, Binary::Add)?.remove(0).t;
        one(Item::plain(sum / c.inputs.len() as f64))
    }),
    ("Equal", |c| compare(c, Compare::Eq)),
    ("Less", |c| compare(c, Compare::Lt)),
    ("LessOrEqual", |c| compare(c, Compare::Le)),
    ("Greater", |c| compare(c, Compare::Gt)),
    ("GreaterOrEqual", |c| compare(c, Compare::Ge)),
    ("Where", |c| one(c.item(1)?.with(c.t(0)?.select(c.t(1)?, c.t(2)?)))),
    ("Clip", clip),
    ("BitShift", shift),
    ("BitwiseNot", |c| {
        // -1 - x, which is what turning every bit round does to a signed number.
        let x = c.item(0)?;
        one(x.wrapped((-1.0 - x.t.cast(DType::I64)).cast(x.t.dtype())))
    }),
    ("Cast", |c| cast(c.item(0)?, elem(c.int("to", 1))?)),
    ("CastLike", |c| cast(c.item(0)?, c.item(1)?.e)),
];

/// -1, 0 or 1.
pub(super) fn sign(x: &Tensor) -> Tensor {
    let zero = Tensor::scalar(x.dtype(), 0.0);
    x.gt(&zero).cast(x.dtype()) - x.lt(&zero).cast(x.dtype())
}

fn unary(c: &Call<'_>, f: Unary) -> Answer {
    let x = c.item(0)?;
    if matches!(f, Unary::Abs) && !x.e.is_signed() {
        return one(x.clone());
    }
    one(x.wrapped(x.t.unary(f)))
}

fn float(c: &Call<'_>, f: impl FnOnce(&Tensor) -> Tensor) -> Answer {
    one(c.item(0)?.with(in_f32(c.t(0)?, f)))
}

/// Both operands broadcast, after the rules of this version or the `axis` of old ones.
fn pair(c: &Call<'_>) -> Result<(Item, Item), Fault> {
    Ok((c.item(0)?.clone(), c.item(1)?.clone()))
}

fn binary(c: &Call<'_>, f: Binary) -> Answer {
    let (a, b) = pair(c)?;
    one(a.wrapped(a.t.binary(&b.t, f)))
}

fn compare(c: &Call<'_>, f: Compare) -> Answer {
    let (a, b) = pair(c)?;
    one(Item::plain(a.t.compare(&b.t, f)))
}

fn many(c: &Call<'_>, f: Binary) -> Answer {
    let mut sum = c.item(0)?.clone();
    for i in 1..c.inputs.len() {
        sum = sum.wrapped(sum.t.binary(c.t(i)?, f));
    }
    one(sum)
}

fn pow(c: &Call<'_>) -> Answer {
    let (a, b) = pair(c)?;
    let x = &a.t;
    let exponent =
        c.known.value(&b.t).filter(|v| v.spec().numel() == 1 && v.spec().rank() <= x.rank());
    let y = match exponent.map(|v| v.to_f64()[0]) {
        Some(2.0) => x * x,
        Some(3.0) => x * x * x,
        Some(0.5) if x.dtype().is_float() => x.sqrt(),
        _ if x.dtype().is_integer() && b.t.dtype().is_float() => {
            x.cast(DType::F64).pow(&b.t.cast(DType::F64)).cast(x.dtype())
        }
        _ => x.pow(&b.t.cast(x.dtype())),
    };
    one(a.wrapped(y))
}

fn remainder(c: &Call<'_>) -> Answer {
    let (a, b) = pair(c)?;
    match c.flag("fmod") {
        true => one(a.with(a.t.binary(&b.t, Binary::Rem))),
        false => one(a.with(modulo(&a.t, &b.t))),
    }
}

fn is_inf(c: &Call<'_>) -> Answer {
    let x = c.t(0)?;
    let is = |number: f64| x.eq(&Tensor::scalar(x.dtype(), number));
    let (up, down) = (c.int("detect_positive", 1) != 0, c.int("detect_negative", 1) != 0);
    let y = match (up, down) {
        (true, true) => is(f64::INFINITY).logical_or(&is(f64::NEG_INFINITY)),
        (true, false) => is(f64::INFINITY),
        (false, true) => is(f64::NEG_INFINITY),
        (false, false) => Tensor::full(x.spec().with_dtype(DType::Bool), 0.0),
    };
    one(Item::plain(y))
}

fn clip(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let bound = |name: &str, i: usize| match c.attribute(name).and_then(|a| a.float) {
        Some(f) => Some(Tensor::scalar(x.t.dtype(), f64::from(f))),
        None => c.opt_t(i).cloned(),
    };
    let mut y = x.t.clone();
    if let Some(low) = bound("min", 1) {
        y = y.maximum(&low);
    }
    if let Some(high) = bound("max", 2) {
        y = y.minimum(&high);
    }
    one(x.with(y))
}

/// Shifts are products and quotients of powers of two.
fn shift(c: &Call<'_>) -> Answer {
    let (a, b) = pair(c)?;
    let left = match &*c.text("direction", "") {
        "LEFT" => true,
        "RIGHT" if a.e == Elem::U64 => return unsupported("u64 to the right"),
        "RIGHT" => false,
        other => return Err(format!("direction `{other}`").into()),
    };
    // As far as the type is wide and farther, nothing is left but the sign.
    let number = |n: f64| Tensor::scalar(DType::I64, n);
    let (by, width) = (b.t.cast(DType::I64), a.e.bits() as f64);
    let far = by.lt(&number(0.0)).logical_or(&by.ge(&number(width)));
    let power = number(2.0).pow(&far.select(&number(0.0), &by));
    let x = a.t.cast(DType::I64);
    let (y, rest) = match left {
        true => (&x * &power, number(0.0).broadcast_to(x.shape())),
        // Rounded down, not to zero.
        false => {
            let down = (&x - modulo(&x, &power)).binary(&power, Binary::Div);
            (down, x.lt(&number(0.0)).select(&number(-1.0), &number(0.0)))
        }
    };
    one(a.wrapped(far.select(&rest, &y).cast(a.t.dtype())))
}

/// The item in another element type.
pub(super) fn cast(x: &Item, to: Elem) -> Answer {
    if x.e == to {
        return one(x.clone());
    }
    if to == Elem::U64 && x.e.is_float() {
        // The carrier ends at half of what the type could hold.
        return one(Item { t: x.t.cast(DType::I64), e: to });
    }
    let t = match (x.e.is_float(), to) {
        // Floats do not wrap where the type is as wide as its carrier.
        (_, Elem::Plain(d)) => x.t.cast(d),
        (true, _) => x.t.cast(DType::I64),
        (false, _) => x.t.cast(DType::I64),
    };
    let wide = matches!(to, Elem::Plain(_));
    let item = Item { t, e: to };
    one(if wide {
        item
    } else {
        Item { t: item.wrapped(item.t.clone()).t.cast(to.carrier()), e: to }
    })
}
