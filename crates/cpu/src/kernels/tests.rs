use half::{bf16, f16};

use super::activation::{Activation, apply};
use super::gate::swiglu;
use super::norm::{layer_norm, rms_norm};
use super::softmax::softmax;
use super::*;
use crate::simd::tests::math::erf_pair;
use crate::simd::{available, with_isa};

/// A storage type with what the tests need to know of its rounding.
trait Stored: Element + PartialEq + std::fmt::Debug {
    const NAME: &'static str;
    /// The largest relative error of one rounding, and the absolute one near zero.
    const HALF_ULP: f64;
    const TINY: f64;
    fn bits(self) -> u32;
}

impl Stored for f32 {
    const NAME: &'static str = "f32";
    const HALF_ULP: f64 = 5.961e-8;
    const TINY: f64 = 1e-44;
    fn bits(self) -> u32 {
        self.to_bits()
    }
}

impl Stored for f16 {
    const NAME: &'static str = "f16";
    const HALF_ULP: f64 = 4.8829e-4;
    const TINY: f64 = 2.9803e-8;
    fn bits(self) -> u32 {
        self.to_bits().into()
    }
}

impl Stored for bf16 {
    const NAME: &'static str = "bf16";
    const HALF_ULP: f64 = 3.90626e-3;
    const TINY: f64 = 1e-40;
    fn bits(self) -> u32 {
        self.to_bits().into()
    }
}

/// Roughly normal numbers with the given mean and deviation, the same for the same seed.
fn normal<T: Element>(n: usize, seed: u64, mean: f32, deviation: f32) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    };
    let mut one = || uniform() + uniform() + uniform() + uniform();
    (0..n).map(|_| T::from_f32(mean + deviation * 1.732 * one())).collect()
}

fn wide<T: Element>(x: &[T]) -> Vec<f64> {
    x.iter().map(|x| f64::from(x.to_f32())).collect()
}

/// Each value within one rounding of the truth, plus `relative` and `absolute`.
fn check<T: Stored>(what: &str, got: &[T], want: &[f64], relative: f64, absolute: f64) {
    assert_eq!(got.len(), want.len());
    let worst = got.iter().zip(want).enumerate().map(|(i, (got, &want))| {
        let got = f64::from(got.to_f32());
        let room = want.abs() * (T::HALF_ULP + relative) + T::TINY + absolute;
        let off = if got.is_nan() && want.is_nan() || got == want {
            0.0
        } else {
            (got - want).abs() / room
        };
        (if off.is_nan() { f64::INFINITY } else { off }, i, got, want)
    });
    if let Some((off, i, got, want)) = worst.max_by(|a, b| a.0.total_cmp(&b.0)) {
        let name = T::NAME;
        assert!(off <= 1.0, "{what} {name}: [{i}] is {got:e}, not {want:e}: {off} times the room");
    }
}

fn assert_same_bits<T: Stored>(what: &str, a: &[T], b: &[T]) {
    let differs = a.iter().zip(b).position(|(a, b)| a.bits() != b.bits());
    assert_eq!((a.len(), differs), (b.len(), None), "{what} {}", T::NAME);
}

/// Runs a kernel on one thread on every instruction set, and on three threads and in place, which
/// must not change a bit. Returns the results, one for each instruction set.
fn everywhere<T: Stored>(what: &str, x: &[T], f: impl Fn(&Pool, InOut<'_, T>)) -> Vec<Vec<T>> {
    let (one, three) = (Pool::new(1), Pool::new(3));
    let mut first = vec![T::from_f32(7.0); x.len()];
    f(&one, InOut::new(x, &mut first));
    let mut again = vec![T::from_f32(8.0); x.len()];
    f(&three, InOut::new(x, &mut again));
    assert_same_bits(&format!("{what} on three threads"), &again, &first);
    let results = available().iter().map(|&isa| {
        let (mut out, mut inside) = (vec![T::from_f32(9.0); x.len()], x.to_vec());
        with_isa(isa, || {
            f(&one, InOut::new(x, &mut out));
            f(&one, InOut::in_place(&mut inside));
        });
        assert_same_bits(&format!("{what} in place, {isa}"), &inside, &out);
        out
    });
    results.collect()
}

/// Calls a generic test for each storage type.
macro_rules! for_each_type {
    ($test:ident) => {
        $test::<f32>();
        $test::<f16>();
        $test::<bf16>();
    };
}

mod rope;

const WIDTHS: [usize; 12] = [1, 2, 3, 7, 8, 17, 64, 127, 576, 1024, 4099, 20_011];

/// Enough rows that three threads share them, few enough to be quick.
fn rows_for(width: usize) -> usize {
    (70_000 / width).clamp(3, 300)
}

fn rms_truth(x: &[f64], weight: Option<&[f64]>, eps: f64, width: usize) -> Vec<f64> {
    let rows = x.chunks(width).flat_map(|row| {
        let mean = row.iter().map(|x| x * x).sum::<f64>() / width as f64;
        let scale = 1.0 / (mean + eps).sqrt();
        row.iter().enumerate().map(move |(i, x)| x * scale * weight.map_or(1.0, |w| w[i]))
    });
    rows.collect()
}

fn rms_norm_case<T: Stored>() {
    for width in WIDTHS {
        let x = normal::<T>(rows_for(width) * width, width as u64, 0.3, 1.0);
        let weight = normal::<T>(width, 5, 1.0, 0.2);
        let other = normal::<f32>(width, 6, 1.0, 0.2);
        let what = format!("rms_norm {width}");
        let plain = rms_truth(&wide(&x), None, 1e-6, width);
        for got in everywhere(&what, &x, |p, io| rms_norm::<T, T>(p, io, None, 1e-6, width)) {
            check(&what, &got, &plain, 4e-7, 0.0);
        }
        let weighted = rms_truth(&wide(&x), Some(&wide(&weight)), 1e-6, width);
        for got in everywhere(&what, &x, |p, io| rms_norm(p, io, Some(&weight), 1e-6, width)) {
            check(&what, &got, &weighted, 4e-7, 0.0);
        }
        let weighted = rms_truth(&wide(&x), Some(&wide(&other)), 0.5, width);
        for got in everywhere(&what, &x, |p, io| rms_norm(p, io, Some(&other), 0.5, width)) {
            check(&what, &got, &weighted, 4e-7, 0.0);
        }
    }
}

#[test]
fn rms_norm_equals_the_formula() {
    for_each_type!(rms_norm_case);
}

fn layer_truth(x: &[f64], w: Option<&[f64]>, b: Option<&[f64]>, width: usize) -> Vec<f64> {
    let rows = x.chunks(width).flat_map(|row| {
        let mean = row.iter().sum::<f64>() / width as f64;
        let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
        let scale = 1.0 / (var + 1e-5).sqrt();
        row.iter().enumerate().map(move |(i, x)| {
            (x - mean) * scale * w.map_or(1.0, |w| w[i]) + b.map_or(0.0, |b| b[i])
        })
    });
    rows.collect()
}

fn layer_norm_case<T: Stored>() {
    for width in WIDTHS {
        let x = normal::<T>(rows_for(width) * width, width as u64, -0.7, 2.0);
        let (w, b) = (normal::<T>(width, 5, 1.0, 0.2), normal::<T>(width, 6, 0.0, 0.5));
        let (wide_x, wide_w, wide_b) = (wide(&x), wide(&w), wide(&b));
        for (w, b) in [(None, None), (Some(&w), None), (None, Some(&b)), (Some(&w), Some(&b))] {
            let (ww, wb) = (w.map(|_| &wide_w[..]), b.map(|_| &wide_b[..]));
            let want = layer_truth(&wide_x, ww, wb, width);
            let (w, b) = (w.map(|w| &w[..]), b.map(|b| &b[..]));
            let what = format!("layer_norm {width} {} {}", w.is_some(), b.is_some());
            for got in everywhere(&what, &x, |p, io| layer_norm(p, io, w, b, 1e-5, width)) {
                check(&what, &got, &want, 4e-7, 5e-7);
            }
        }
    }
}

#[test]
fn layer_norm_equals_the_formula() {
    for_each_type!(layer_norm_case);
}

#[test]
fn layer_norm_survives_rows_far_from_zero() {
    for (width, mean, deviation) in [(64, 1000.0, 1.0), (4099, 1000.0, 1.0), (768, -3e4, 0.5)] {
        let x = normal::<f32>(5 * width, 3, mean, deviation);
        let want = layer_truth(&wide(&x), None, None, width);
        let what = format!("layer_norm {width} around {mean}");
        for got in
            everywhere(&what, &x, |p, io| layer_norm::<_, f32>(p, io, None, None, 1e-5, width))
        {
            check(&what, &got, &want, 4e-7, 5e-7);
        }
    }
    let got = everywhere("constant", &[1e6f32; 39], |p, io| {
        layer_norm::<_, f32>(p, io, None, None, 1e-5, 13)
    });
    assert!(got.iter().flatten().all(|&y| y == 0.0), "{got:?}");
}

#[test]
fn results_too_large_for_the_caches_have_the_same_bits() {
    let (rows, width) = (1030, 4099);
    assert!(rows * width * 4 > STREAM_BYTES);
    let x = normal::<f32>(rows * width, 9, 0.0, 1.0);
    let w = normal::<f32>(width, 10, 1.0, 0.1);
    let pool = Pool::new(2);
    let mut want = vec![0.0; x.len()];
    for (x, out) in x.chunks(width).zip(want.chunks_mut(width)) {
        rms_norm(&pool, InOut::new(x, out), Some(&w), 1e-6, width);
    }
    let mut out = vec![0.0; x.len()];
    rms_norm(&pool, InOut::new(&x, &mut out), Some(&w), 1e-6, width);
    assert_same_bits("rms_norm", &out, &want);
    apply(&pool, Activation::Silu, InOut::new(&x, &mut out));
    for (x, out) in x.chunks(width).zip(want.chunks_mut(width)) {
        apply(&pool, Activation::Silu, InOut::new(x, out));
    }
    assert_same_bits("silu", &out, &want);
}

fn swiglu_case<T: Stored>() {
    for n in [0, 1, 5, 8, 255, 257, 50_001] {
        let (gate, up) = (normal::<T>(n, 1, 0.0, 3.0), normal::<T>(n, 2, 0.0, 2.0));
        let truth = |(g, u): (&f64, &f64)| g / (1.0 + (-g).exp()) * u;
        let want: Vec<f64> = wide(&gate).iter().zip(&wide(&up)).map(truth).collect();
        for got in everywhere("swiglu", &gate, |p, io| swiglu(p, io, &up)) {
            check("swiglu", &got, &want, 5e-7, 0.0);
        }
    }
}

#[test]
fn swiglu_equals_the_formula() {
    for_each_type!(swiglu_case);
}

fn softmax_truth(x: &[f64], width: usize) -> Vec<f64> {
    let rows = x.chunks(width).flat_map(|row| {
        let top = row.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
        let total: f64 = row.iter().map(|x| (x - top).exp()).sum();
        row.iter().map(move |x| (x - top).exp() / total)
    });
    rows.collect()
}

fn softmax_case<T: Stored>() {
    for width in WIDTHS {
        let mut x = normal::<T>(rows_for(width) * width, width as u64, 40.0, 5.0);
        if width > 2 {
            x[1] = T::from_f32(f32::NEG_INFINITY);
            x[width + 2] = T::from_f32(-30_000.0);
        }
        let want = softmax_truth(&wide(&x), width);
        let what = format!("softmax {width}");
        for got in everywhere(&what, &x, |p, io| softmax(p, io, width)) {
            // The rounding of x - max is a relative error of what is far below the maximum.
            check(&what, &got, &want, 6e-7, 1e-10);
        }
    }
}

#[test]
fn softmax_equals_the_formula() {
    for_each_type!(softmax_case);
}

#[test]
fn softmax_of_a_row_without_a_finite_maximum_is_nan() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    for width in [3, 8, 21] {
        for (fill, other) in [(-inf, -inf), (1.0, inf), (1.0, nan), (nan, nan)] {
            let mut x = vec![fill; 2 * width];
            x[width - 1] = other;
            x[width..].fill(0.5);
            for got in everywhere("softmax", &x, |p, io| softmax(p, io, width)) {
                assert!(got[..width].iter().all(|y| y.is_nan()), "{fill} {other}: {got:?}");
                let want = vec![1.0 / width as f64; width];
                check("softmax", &got[width..], &want, 2e-7, 0.0);
            }
        }
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn truth_of(activation: Activation) -> fn(f64) -> f64 {
    match activation {
        Activation::GeluErf => |x| x * 0.5 * erf_pair(-x / std::f64::consts::SQRT_2).1,
        Activation::GeluTanh => |x| x * sigmoid(1.595_769_121_605_731 * (x + 0.044715 * x.powi(3))),
        Activation::QuickGelu => |x| x * sigmoid(1.702 * x),
        Activation::Silu => |x| x * sigmoid(x),
        Activation::Relu => |x| x.max(0.0),
        Activation::Tanh => f64::tanh,
        Activation::HardSwish => |x| x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
    }
}

const ACTIVATIONS: [Activation; 7] = [
    Activation::GeluErf,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Silu,
    Activation::Relu,
    Activation::Tanh,
    Activation::HardSwish,
];

fn activation_case<T: Stored>() {
    let x = normal::<T>(20_003, 1, 0.0, 3.0);
    for activation in ACTIVATIONS {
        let want: Vec<f64> = wide(&x).into_iter().map(truth_of(activation)).collect();
        let what = format!("{activation:?}");
        // The exponents of two forms of GELU are rounded, which shows where the result is tiny.
        let (relative, absolute) = match activation {
            Activation::GeluTanh => (1.2e-5, 0.0),
            Activation::GeluErf => (1.2e-5, 1e-13),
            _ => (1e-6, 0.0),
        };
        for got in everywhere(&what, &x, |p, io| apply(p, activation, io)) {
            check(&what, &got, &want, relative, absolute);
        }
    }
}

#[test]
fn activations_equal_their_formulas() {
    for_each_type!(activation_case);
}
