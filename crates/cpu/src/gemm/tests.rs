//! All products against loops in f64, on every instruction set, with one thread and with three.

mod conv;
mod linear;
mod matmul;

use frit_graph::Value;
use frit_ops::{Activation, GeluForm};

use super::Raw;
use crate::Pool;
use crate::simd::Element;

/// Uniform numbers from -1 to 1 (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn vec<T: Element>(&mut self, n: usize) -> Vec<T> {
        (0..n).map(|_| T::from_f32((self.next() >> 40) as f32 / 8_388_608.0 - 1.0)).collect()
    }
}

fn wide<T: Element>(x: T) -> f64 {
    f64::from(x.to_f32())
}

/// Memory for a scratch, aligned, and full of NaN so that nothing unwritten is read unnoticed.
struct Scratch(Vec<u8>, usize, usize);

impl Scratch {
    fn new(bytes: usize) -> Scratch {
        let room = vec![0xff; bytes + 64];
        let skip = room.as_ptr().align_offset(64);
        Scratch(room, skip, bytes)
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.0[self.1..self.1 + self.2]
    }
}

/// The relative error of a rounding to `T`, and half of the smallest step.
fn rounding<T: Element>() -> (f64, f64) {
    // The machine epsilon tells the type.
    let next = T::from_f32(1.0 + 1.0 / 256.0).to_f32();
    match (T::IS_F32, next == 1.0) {
        (true, _) => (2f64.powi(-24), 0.0),
        (false, true) => (2f64.powi(-8), 0.0),
        (false, false) => (2f64.powi(-11), 2f64.powi(-25)),
    }
}

/// Whether `got` is `want` but for the rounding at the store and errors of f32 sums, of which
/// `size` is the sum of the magnitudes.
fn near<T: Element>(got: T, want: f64, size: f64) -> bool {
    let (relative, step) = rounding::<T>();
    (wide(got) - want).abs() <= relative * want.abs() * 1.01 + step + 4e-7 * (size + want.abs())
}

fn bits<T: Element>(x: &[T]) -> Vec<u32> {
    x.iter().map(|x| x.to_f32().to_bits()).collect()
}

const ACTIVATIONS: [Activation; 8] = [
    Activation::Identity,
    Activation::Gelu(GeluForm::Erf),
    Activation::Gelu(GeluForm::Tanh),
    Activation::Gelu(GeluForm::Quick),
    Activation::Silu,
    Activation::Relu,
    Activation::Tanh,
    Activation::HardSwish,
];

/// In f64. The error function is from its series and continued fraction.
fn activated(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Identity => x,
        Activation::Gelu(GeluForm::Erf) => 0.5 * x * erfc(-x / std::f64::consts::SQRT_2),
        Activation::Gelu(GeluForm::Tanh) => {
            let slope = (2.0 / std::f64::consts::PI).sqrt();
            0.5 * x * (1.0 + (slope * (x + 0.044715 * x * x * x)).tanh())
        }
        Activation::Gelu(GeluForm::Quick) => x / (1.0 + (-1.702 * x).exp()),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
        Activation::Tanh => x.tanh(),
        Activation::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
    }
}

fn erfc(x: f64) -> f64 {
    let root = std::f64::consts::PI.sqrt();
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return 1.0 - 2.0 / root * sum;
    }
    let fraction = (1..60).rev().fold(x, |f, n| x + f64::from(n) / 2.0 / f);
    (-x * x).exp() / root / fraction
}

/// A number by which a case of the catalogue is read.
fn slice<T: frit_graph::Element>(value: &Value) -> &[T] {
    value.slice::<T>().expect("the type was asked for")
}

/// Calls with `$T` bound to the storage type of a float dtype.
macro_rules! for_float {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            DType::F16 => {
                type $T = half::f16;
                $body
            }
            DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            _ => {
                type $T = f32;
                $body
            }
        }
    };
}
use for_float;

/// Compares with the expected numbers of a case of the catalogue.
fn compare<T: Element>(name: &str, got: &[T], want: &[f64], (relative, absolute): (f64, f64)) {
    assert_eq!(got.len(), want.len(), "{name}");
    for (i, (&got, want)) in got.iter().zip(want).enumerate() {
        let error = (wide(got) - want).abs();
        assert!(
            error <= relative * want.abs() + absolute,
            "{name} [{i}]: {} instead of {want}",
            wide(got)
        );
    }
}

#[test]
fn error_function_of_the_tests_is_right() {
    // Abramowitz and Stegun, table 7.1, and erfc(4).
    for (x, want) in [(0.5, 0.479_500_122_2), (1.0, 0.157_299_207_1), (2.0, 4.677_734_98e-3)] {
        assert!((erfc(x) - want).abs() < 1e-9, "{x}");
    }
    assert!((erfc(4.0) / 1.541_725_79e-8 - 1.0).abs() < 1e-8);
}

#[test]
fn small_items_are_shared_out_once_each() {
    let pool = Pool::new(3);
    for (items, work) in [(0, 1), (1, 1), (7, 1 << 20), (1000, 1 << 14), (13, 0)] {
        let mut seen = vec![0u8; items];
        let at = Raw(seen.as_mut_ptr());
        super::share(&pool, items, work, &|i| {
            // SAFETY: i < items, and every item comes once.
            unsafe { *at.add(i) += 1 };
        });
        assert!(seen.iter().all(|&n| n == 1), "{items} items of {work}");
    }
}
