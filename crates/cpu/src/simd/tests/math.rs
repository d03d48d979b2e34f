//! The elementary functions against f64.

use super::super::{Isa, Simd, WithSimd, available, dispatch_on, math};

/// erf and erfc in f64, by the series near zero and by the continued fraction away from it.
pub(crate) fn erf_pair(x: f64) -> (f64, f64) {
    let t = x.abs();
    let (erf, erfc) = if t < 2.5 {
        let (mut term, mut sum, mut n) = (t, t, 0.0);
        while term.abs() > 1e-20 * sum {
            n += 1.0;
            term *= -t * t / n;
            sum += term / (2.0 * n + 1.0);
        }
        let erf = sum * 2.0 / std::f64::consts::PI.sqrt();
        (erf, 1.0 - erf)
    } else {
        let mut tail = t;
        for k in (1..=120).rev() {
            tail = t + f64::from(k) / 2.0 / tail;
        }
        let erfc = (-t * t).exp() / (tail * std::f64::consts::PI.sqrt());
        (1.0 - erfc, erfc)
    };
    if x < 0.0 { (-erf, 2.0 - erfc) } else { (erf, erfc) }
}

#[test]
fn the_truth_for_erf_has_known_values() {
    for (x, erf, erfc) in [
        (0.5, 0.520_499_877_813_046_5, 0.479_500_122_186_953_5),
        (1.0, 0.842_700_792_949_714_9, 0.157_299_207_050_285_13),
        (3.0, 0.999_977_909_503_001_4, 2.209_049_699_858_544e-5),
        (5.0, 0.999_999_999_998_462_5, 1.537_459_794_428_034_8e-12),
        (-1.0, -0.842_700_792_949_714_9, 1.842_700_792_949_715),
    ] {
        let got = erf_pair(x);
        assert!((got.0 - erf).abs() < 1e-15 && (got.1 - erfc).abs() < erfc * 2e-13, "{x} {got:?}");
    }
}

/// The distance of two neighbouring f32 around `x`.
fn ulp(x: f64) -> f64 {
    let exponent = x.abs().log2().floor().max(-126.0);
    (exponent - 23.0).exp2()
}

/// Points from `from` to `to`, evenly spaced, then 20 to each power of two of either sign.
fn grid(from: f32, to: f32) -> Vec<f32> {
    let steps = 200_000;
    let mut xs: Vec<f32> =
        (0..=steps).map(|i| from + (to - from) * (i as f32 / steps as f32)).collect();
    for i in -2600..=2560 {
        let x = (f64::from(i) / 20.0).exp2() as f32;
        xs.extend([x, -x].into_iter().filter(|x| (from..=to).contains(x)));
    }
    xs
}

/// Fails with the worst point if the error is over `most` ulp (plus `slack` absolute) anywhere.
fn check(
    isa: Isa,
    name: &str,
    xs: &[f32],
    got: &[f32],
    (most, slack): (f64, f64),
    truth: impl Fn(f64) -> f64,
) {
    let mut worst = (0.0, 0.0, 0.0, 0.0);
    for (&x, &y) in xs.iter().zip(got) {
        let want = truth(f64::from(x));
        if want.abs() > f64::from(f32::MAX) * (1.0 + 3e-8) {
            assert_eq!(f64::from(y), want.signum() * f64::INFINITY, "{isa}: {name}({x:e})");
            continue;
        }
        let error = ((f64::from(y) - want).abs() - slack).max(0.0) / ulp(want);
        if error.is_nan() || error > worst.0 {
            worst = (error, x.into(), y.into(), want);
        }
        if error.is_nan() {
            break;
        }
    }
    let (error, x, y, want) = worst;
    println!("{isa}: {name}: {error:.3} ulp at {x:e}: {y:e} for {want:e}");
    assert!(error <= most, "{isa}: {name}({x:e}) is {y:e}, not {want:e}: {error} ulp");
}

macro_rules! holds {
    ($f:ident, $from:expr, $to:expr, $limits:expr, $truth:expr) => {
        let xs = grid($from, $to);
        for &isa in available() {
            let got = on_lanes!(isa, &xs, |s, v| math::$f(s, v));
            check(isa, stringify!($f), &xs, &got, $limits, $truth);
        }
    };
}

macro_rules! values {
    ($f:ident, $cases:expr) => {
        for &isa in available() {
            for (x, want) in $cases {
                let got: f32 = on_lanes!(isa, &[x], |s, v| math::$f(s, v))[0];
                let same = got.to_bits() == f32::to_bits(want) || (got.is_nan() && want.is_nan());
                assert!(same, "{isa}: {}({x:e}) is {got:e}, not {want:e}", stringify!($f));
            }
        }
    };
}

const INF: f32 = f32::INFINITY;
const NAN: f32 = f32::NAN;
/// A NaN with other bits: they must not leak into the arithmetic on exponents.
const ODD_NAN: f32 = f32::from_bits(0xffc0_0355);

#[test]
fn exp_is_right_from_underflow_to_overflow() {
    holds!(exp, -110.0, 95.0, (1.2, 0.0), f64::exp);
    holds!(exp, -1.0, 1.0, (1.2, 0.0), f64::exp);
    let same = [(NAN, NAN), (ODD_NAN, NAN), (INF, INF), (-INF, 0.0), (-1e30, 0.0), (0.0, 1.0)];
    values!(exp, same);
    values!(exp, [(1e30, INF), (-0.0, 1.0), (f32::MAX, INF), (-105.0, 0.0)]);
}

#[test]
fn fast_exp_is_right_where_softmax_needs_it() {
    holds!(exp_fast, -87.0, 88.0, (1.2, 0.0), f64::exp);
    holds!(exp_fast, -3.0, 0.0, (1.2, 0.0), f64::exp);
    values!(exp_fast, [(NAN, NAN), (ODD_NAN, NAN), (-INF, 0.0), (-87.8, 0.0), (0.0, 1.0)]);
    values!(exp_fast, [(INF, INF), (1e30, INF), (89.0, INF), (88.4, INF), (88.7, INF)]);
}

#[test]
fn log_is_right_down_to_subnormals() {
    holds!(log, 1e-45, 3e38, (1.2, 0.0), f64::ln);
    holds!(log, 0.3, 3.0, (1.2, 0.0), f64::ln);
    holds!(log, 1e-45, 1e-37, (1.2, 0.0), f64::ln);
    values!(log, [(0.0, -INF), (-0.0, -INF), (-1.0, NAN), (-INF, NAN), (INF, INF), (1.0, 0.0)]);
    values!(log, [(NAN, NAN), (ODD_NAN, NAN), (-1e-40, NAN)]);
}

#[test]
fn tanh_is_right_from_nearly_linear_to_one() {
    holds!(tanh, -12.0, 12.0, (2.0, 0.0), f64::tanh);
    holds!(tanh, -1.0, 1.0, (2.0, 0.0), f64::tanh);
    values!(tanh, [(INF, 1.0), (-INF, -1.0), (NAN, NAN), (ODD_NAN, NAN), (-0.0, -0.0)]);
}

#[test]
fn erf_is_right_from_nearly_linear_to_one() {
    holds!(erf, -5.0, 5.0, (1.6, 0.0), |x| erf_pair(x).0);
    holds!(erf, -1.1, 1.1, (1.6, 0.0), |x| erf_pair(x).0);
    values!(erf, [(INF, 1.0), (-INF, -1.0), (NAN, NAN), (ODD_NAN, NAN), (-0.0, -0.0)]);
}

#[test]
fn sigmoid_and_silu_keep_their_digits_on_both_sides() {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    holds!(sigmoid, -88.0, 90.0, (2.5, 0.0), sigmoid);
    holds!(sigmoid, -4.0, 4.0, (2.5, 0.0), sigmoid);
    holds!(silu, -88.0, 90.0, (3.0, 0.0), |x| x * sigmoid(x));
    holds!(silu, -4.0, 4.0, (3.0, 0.0), |x| x * sigmoid(x));
    values!(sigmoid, [(INF, 1.0), (-INF, 0.0), (NAN, NAN), (ODD_NAN, NAN), (0.0, 0.5)]);
    values!(silu, [(INF, INF), (NAN, NAN), (1e30, 1e30), (-200.0, -0.0), (0.0, 0.0)]);
    values!(silu, [(-INF, NAN), (-89.0, -0.0), (-88.5, -0.0), (-1e30, -0.0)]);
}

#[test]
fn gelu_keeps_its_digits_in_the_negative_tail() {
    let gelu = |x: f64| x * 0.5 * erf_pair(-x / std::f64::consts::SQRT_2).1;
    holds!(gelu_erf, 0.0, 14.0, (6.0, 0.0), gelu);
    holds!(gelu_erf, -2.0, 14.0, (12.0, 0.0), gelu);
    holds!(gelu_erf, -4.0, -1.0, (24.0, 0.0), gelu);
    holds!(gelu_erf, -6.0, -2.0, (140.0, 0.0), gelu);
    holds!(gelu_erf, -30.0, 0.0, (140.0, 1e-14), gelu);
    values!(gelu_erf, [(INF, INF), (NAN, NAN), (ODD_NAN, NAN), (1e30, 1e30), (-30.0, 0.0)]);
    values!(gelu_erf, [(-INF, 0.0), (0.0, 0.0), (-0.0, -0.0)]);
    let xs = grid(-12.0, 12.0);
    for &isa in available() {
        let bits = |y: Vec<f32>| y.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let alone = bits(on_lanes!(isa, &xs, |s, v| math::gelu_erf(s, v)));
        let among = bits(on_lanes!(isa, &xs, |s, v| {
            math::gelu_erf_several(s, [s.zero(), s.neg(v), v, v])[2]
        }));
        assert!(alone == among, "{isa}: of several");
    }
}

#[test]
fn the_other_forms_of_gelu_follow_their_formulas() {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let c = (2.0 / std::f64::consts::PI).sqrt();
    let tanh_form = |x: f64| x * sigmoid(2.0 * c * (x + 0.044715 * x * x * x));
    // The error grows with the exponent, which is 13 at -5 and 80 at -9.
    holds!(gelu_tanh, -2.0, 9.0, (8.0, 0.0), tanh_form);
    holds!(gelu_tanh, -5.0, 0.0, (50.0, 0.0), tanh_form);
    let quick = |x: f64| x * sigmoid(f64::from(1.702f32) * x);
    holds!(quick_gelu, -2.0, 9.0, (5.0, 0.0), quick);
    holds!(quick_gelu, -9.0, 0.0, (16.0, 0.0), quick);
    values!(gelu_tanh, [(INF, INF), (NAN, NAN), (ODD_NAN, NAN), (1e30, 1e30), (-30.0, -0.0)]);
}

#[test]
fn activations_of_numbers_are_numbers() {
    let xs = grid(-120.0, 120.0);
    for &isa in available() {
        let all = [
            ("sigmoid", on_lanes!(isa, &xs, |s, v| math::sigmoid(s, v))),
            ("silu", on_lanes!(isa, &xs, |s, v| math::silu(s, v))),
            ("gelu_erf", on_lanes!(isa, &xs, |s, v| math::gelu_erf(s, v))),
            ("gelu_tanh", on_lanes!(isa, &xs, |s, v| math::gelu_tanh(s, v))),
            ("quick_gelu", on_lanes!(isa, &xs, |s, v| math::quick_gelu(s, v))),
            ("tanh", on_lanes!(isa, &xs, |s, v| math::tanh(s, v))),
        ];
        for (name, ys) in all {
            let bad = xs.iter().zip(ys).find(|(_, y)| !y.is_finite());
            assert!(bad.is_none(), "{isa}: {name} of {bad:?}");
        }
    }
}

#[test]
fn sine_and_cosine_are_right_at_any_size() {
    for (from, to) in [(-4.0, 4.0), (-999.0, 999.0), (-1e4, 1e4), (-1e38, 1e38)] {
        holds!(sin, from, to, (1.6, 0.0), f64::sin);
        holds!(cos, from, to, (1.6, 0.0), f64::cos);
    }
    values!(sin, [(0.0, 0.0), (-0.0, -0.0), (INF, NAN), (-INF, NAN), (NAN, NAN)]);
    values!(cos, [(0.0, 1.0), (-0.0, 1.0), (INF, NAN), (-INF, NAN), (NAN, NAN)]);
}

#[test]
fn one_over_the_root_is_right_to_the_last_place() {
    holds!(rsqrt, 1e-40, 3e38, (1.6, 0.0), |x| 1.0 / x.sqrt());
    holds!(rsqrt, 0.01, 4.0, (1.6, 0.0), |x| 1.0 / x.sqrt());
    values!(rsqrt, [(0.0, INF), (-1.0, NAN), (INF, 0.0), (NAN, NAN), (4.0, 0.5)]);
}
