//! What loops over any element type need: arithmetic in the width it is computed in.

use frit_graph::reference::{erf, round_bf16, round_f16};
use frit_graph::{Binary, Compare, Unary};
use half::{bf16, f16};

/// One element of any type. Narrow floats widen to f32, integers compute in their own width.
pub(crate) trait Number: Copy + Send + Sync + PartialOrd + bytemuck::Pod {
    const FLOAT: bool;
    fn to_f64(self) -> f64;
    fn to_i64(self) -> i64;
    /// Rounds once; integers truncate and saturate.
    fn from_f64(x: f64) -> Self;
    /// Rounds once; integers wrap.
    fn from_i64(x: i64) -> Self;
    fn unary(self, f: Unary) -> Self;
    fn binary(self, other: Self, f: Binary) -> Self;
}

fn unary_f64(x: f64, f: Unary) -> f64 {
    match f {
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Sqrt => x.sqrt(),
        Unary::Rsqrt => 1.0 / x.sqrt(),
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Tanh => x.tanh(),
        Unary::Erf => erf(x),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Round => x.round_ties_even(),
        Unary::Not => f64::from(x == 0.0),
    }
}

macro_rules! binary_float {
    ($a:expr, $b:expr, $f:expr) => {{
        let (a, b) = ($a, $b);
        match $f {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
            Binary::Rem => a % b,
            Binary::Pow => a.powf(b),
            // NaN where either is.
            Binary::Max => {
                if a > b || a.is_nan() {
                    a
                } else {
                    b
                }
            }
            Binary::Min => {
                if a < b || a.is_nan() {
                    a
                } else {
                    b
                }
            }
            Binary::And => {
                if a != 0.0 && b != 0.0 {
                    1.0
                } else {
                    0.0
                }
            }
            Binary::Or => {
                if a != 0.0 || b != 0.0 {
                    1.0
                } else {
                    0.0
                }
            }
        }
    }};
}

macro_rules! float {
    ($t:ty, $wide:ty, $to:expr, $from:expr, $from_wide:expr, $to_wide:expr) => {
        impl Number for $t {
            const FLOAT: bool = true;
            fn to_f64(self) -> f64 {
                $to(self)
            }
            fn to_i64(self) -> i64 {
                self.to_f64() as i64
            }
            fn from_f64(x: f64) -> $t {
                $from(x)
            }
            fn from_i64(x: i64) -> $t {
                $from_wide(x as $wide)
            }
            fn unary(self, f: Unary) -> $t {
                $from(unary_f64(self.to_f64(), f))
            }
            fn binary(self, other: $t, f: Binary) -> $t {
                $from_wide(binary_float!($to_wide(self), $to_wide(other), f))
            }
        }
    };
}
float!(f64, f64, |x: f64| x, |x: f64| x, |x: f64| x, |x: f64| x);
float!(f32, f32, f64::from, |x: f64| x as f32, |x: f32| x, |x: f32| x);
float!(f16, f64, f16::to_f64, round_f16, round_f16, f16::to_f64);
float!(bf16, f64, bf16::to_f64, round_bf16, round_bf16, bf16::to_f64);

macro_rules! integer {
    ($($t:ty),*) => { $(
        impl Number for $t {
            const FLOAT: bool = false;
            fn to_f64(self) -> f64 {
                self as f64
            }
            fn to_i64(self) -> i64 {
                self as i64
            }
            fn from_f64(x: f64) -> $t {
                x as $t
            }
            fn from_i64(x: i64) -> $t {
                x as $t
            }
            fn unary(self, f: Unary) -> $t {
                match f {
                    Unary::Neg => (0 as $t).wrapping_sub(self),
                    Unary::Abs if self < (0 as $t) => (0 as $t).wrapping_sub(self),
                    Unary::Not => (self == 0) as $t,
                    _ => self,
                }
            }
            fn binary(self, other: $t, f: Binary) -> $t {
                match f {
                    Binary::Add => self.wrapping_add(other),
                    Binary::Sub => self.wrapping_sub(other),
                    Binary::Mul => self.wrapping_mul(other),
                    Binary::Div => if other == 0 { 0 } else { self.wrapping_div(other) },
                    Binary::Rem => if other == 0 { 0 } else { self.wrapping_rem(other) },
                    Binary::Pow => match u32::try_from(other as i64) {
                        Ok(n) => self.wrapping_pow(n),
                        Err(_) => (self as f64).powf(other as f64) as $t,
                    },
                    Binary::Max => self.max(other),
                    Binary::Min => self.min(other),
                    Binary::And => (self != 0 && other != 0) as $t,
                    Binary::Or => (self != 0 || other != 0) as $t,
                }
            }
        }
    )* };
}
integer!(i64, i32, u32, u8);

/// A comparison.
#[inline(always)]
pub(crate) fn holds<T: PartialOrd>(a: T, b: T, f: Compare) -> bool {
    match f {
        Compare::Eq => a == b,
        Compare::Ne => a != b,
        Compare::Lt => a < b,
        Compare::Le => a <= b,
        Compare::Gt => a > b,
        Compare::Ge => a >= b,
    }
}

/// Calls a generic function or block with `$T` bound to the storage type of a dtype.
macro_rules! for_dtype {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            frit_graph::DType::F64 => {
                type $T = f64;
                $body
            }
            frit_graph::DType::F32 => {
                type $T = f32;
                $body
            }
            frit_graph::DType::F16 => {
                type $T = half::f16;
                $body
            }
            frit_graph::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            frit_graph::DType::I64 => {
                type $T = i64;
                $body
            }
            frit_graph::DType::I32 => {
                type $T = i32;
                $body
            }
            frit_graph::DType::U32 => {
                type $T = u32;
                $body
            }
            _ => {
                type $T = u8;
                $body
            }
        }
    };
}
pub(crate) use for_dtype;
