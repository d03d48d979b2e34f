//! Activations.

use super::{
    super::{
        call::{Answer, Call, one, takes_blocks, unsupported},
        elem::Item,
    },
    Handler, in_f32,
};
use frit_graph::Tensor;
use frit_ops::{GeluForm, fast};
use std::f64::consts::{FRAC_1_SQRT_2, PI};

pub(super) const TABLE: &[(&str, Handler)] = &[
    ("Relu", |c| one(c.item(0)?.with(c.t(0)?.maximum(&zero(c.t(0)?))))),
    ("LeakyRelu", |c| {
        let alpha = c.float("alpha", 0.01);
        by(c, |x| x.lt(&zero(x)).select(&(x * alpha), x))
    }),
    ("PRelu", |c| {
        let x = c.t(0)?;
        one(c.item(0)?.with(x.lt(&zero(x)).select(&(x * c.t(1)?), x)))
    }),
    ("ThresholdedRelu", |c| {
        let alpha = c.float("alpha", 1.0);
        by(c, |x| x.gt(&Tensor::scalar(x.dtype(), alpha)).select(x, &zero(x)))
    }),
    ("Elu", |c| {
        let alpha = c.float("alpha", 1.0);
        by(c, |x| exponential(x, alpha, 1.0))
    }),
    ("Celu", |c| {
        let alpha = c.float("alpha", 1.0);
        by(c, |x| exponential(x, alpha, alpha))
    }),
    ("Selu", |c| {
        let (alpha, gamma) = (c.float("alpha", 1.673_263_2), c.float("gamma", 1.050_701));
        by(c, |x| exponential(x, alpha, 1.0) * gamma)
    }),
    ("Softplus", |c| by(c, softplus)),
    ("Softsign", |c| by(c, |x| x / (x.abs() + 1.0))),
    ("Mish", |c| by(c, |x| x * softplus(x).tanh())),
    ("Shrink", shrink),
    ("HardSigmoid", |c| {
        let (alpha, beta) = (c.float("alpha", 0.2), c.float("beta", 0.5));
        by(c, |x| hard_sigmoid(x, alpha, beta))
    }),
    ("HardSwish", |c| by(c, |x| x * hard_sigmoid(x, 1.0 / 6.0, 0.5))),
    ("Gelu", |c| match &*c.text("approximate", "none") {
        "none" => one(c.item(0)?.with(gelu(c.t(0)?, GeluForm::Erf))),
        "tanh" => one(c.item(0)?.with(gelu(c.t(0)?, GeluForm::Tanh))),
        other => unsupported(format!("approximate {other}")),
    }),
    ("Swish", |c| one(swish(c.item(0)?, c.float("alpha", 1.0)))),
    ("SwiGLU", swiglu),
];

fn zero(x: &Tensor) -> Tensor {
    Tensor::scalar(x.dtype(), 0.0)
}

fn by(c: &Call<'_>, f: impl FnOnce(&Tensor) -> Tensor) -> Answer {
    one(c.item(0)?.with(in_f32(c.t(0)?, f)))
}

/// `x` above zero, `alpha (e^(x/scale) - 1)` below.
fn exponential(x: &Tensor, alpha: f64, scale: f64) -> Tensor {
    // The branch that is not taken must not overflow.
    let below = x.minimum(&zero(x));
    let below = ((below / scale).exp() - 1.0) * alpha;
    x.lt(&zero(x)).select(&below, x)
}

/// `log(1 + e^x)`, without overflow.
fn softplus(x: &Tensor) -> Tensor {
    ((-x.abs()).exp() + 1.0).log() + x.maximum(&zero(x))
}

fn hard_sigmoid(x: &Tensor, alpha: f64, beta: f64) -> Tensor {
    let one = Tensor::scalar(x.dtype(), 1.0);
    (x * alpha + beta).maximum(&zero(x)).minimum(&one)
}

fn shrink(c: &Call<'_>) -> Answer {
    let (lambda, bias) = (c.float("lambd", 0.5), c.float("bias", 0.0));
    by(c, |x| {
        let at = |n: f64| Tensor::scalar(x.dtype(), n);
        let middle = x.gt(&at(lambda)).select(&(x - bias), &zero(x));
        x.lt(&at(-lambda)).select(&(x + bias), &middle)
    })
}

/// GELU, as the Block where it takes the type.
pub(super) fn gelu(x: &Tensor, form: GeluForm) -> Tensor {
    if takes_blocks(x) {
        return fast::gelu(x, form);
    }
    match form {
        GeluForm::Erf => x * 0.5 * ((x * FRAC_1_SQRT_2).erf() + 1.0),
        GeluForm::Tanh => {
            let inner = (x + x * x * x * 0.044715) * (2.0 / PI).sqrt();
            x * 0.5 * (inner.tanh() + 1.0)
        }
        GeluForm::Quick => x * (x * 1.702).sigmoid(),
    }
}

/// `x sigmoid(alpha x)`.
pub(super) fn swish(x: &Item, alpha: f64) -> Item {
    let t = &x.t;
    if alpha == 1.0 && takes_blocks(t) {
        return x.with(fast::silu(t));
    }
    x.with(in_f32(t, |t| t * (t * alpha).sigmoid()))
}

/// `b swish(a)`.
fn swiglu(c: &Call<'_>) -> Answer {
    let (a, b, alpha) = (c.item(0)?, c.t(1)?, c.float("alpha", 1.0));
    if alpha == 1.0 && takes_blocks(&a.t) && a.t.spec() == b.spec() {
        return one(a.with(fast::swiglu(&a.t, b)));
    }
    one(a.with(swish(a, alpha).t * b))
}
