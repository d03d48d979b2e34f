//! Activation functions, over a whole tensor or as the last step of another kernel.

use super::{InOut, MIN_COMPUTED, Map1, map1};
use crate::simd::{Element, Simd, math};
use crate::threads::Pool;

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Activation {
    /// `x/2 (1 + erf(x / sqrt(2)))`
    GeluErf,
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`
    GeluTanh,
    /// `x sigmoid(1.702 x)`
    QuickGelu,
    /// `x sigmoid(x)`
    Silu,
    /// `max(x, 0)`; NaN stays.
    Relu,
    /// Hyperbolic tangent.
    Tanh,
    /// `x min(max(x + 3, 0), 6) / 6`
    HardSwish,
}

/// Makes a type of each function, so that a loop is compiled for it alone.
macro_rules! functions {
    ($($name:ident => |$s:ident, $x:ident| $body:expr;)*) => {$(
        #[derive(Clone, Copy)]
        struct $name;
        impl Map1 for $name {
            #[inline(always)]
            fn lanes<S: Simd>(self, $s: S, $x: S::F) -> S::F {
                $body
            }
        }
    )*};
}

functions! {
    GeluErf => |s, x| math::gelu_erf(s, x);
    GeluTanh => |s, x| math::gelu_tanh(s, x);
    QuickGelu => |s, x| math::quick_gelu(s, x);
    Silu => |s, x| math::silu(s, x);
    Relu => |s, x| s.max(s.zero(), x);
    Tanh => |s, x| math::tanh(s, x);
    HardSwish => |s, x| {
        let gate = s.min(s.splat(6.0), s.max(s.zero(), s.add(x, s.splat(3.0))));
        s.mul(s.mul(x, gate), s.splat(1.0 / 6.0))
    };
}

/// Evaluates `$call` with `$map` bound to the type of `$activation`.
macro_rules! with_activation {
    ($activation:expr, |$map:ident| $call:expr) => {{
        macro_rules! on {
            ($name:ident) => {{
                let $map = $name;
                $call
            }};
        }
        match $activation {
            Activation::GeluErf => on!(GeluErf),
            Activation::GeluTanh => on!(GeluTanh),
            Activation::QuickGelu => on!(QuickGelu),
            Activation::Silu => on!(Silu),
            Activation::Relu => on!(Relu),
            Activation::Tanh => on!(Tanh),
            Activation::HardSwish => on!(HardSwish),
        }
    }};
}

/// The activation of some lanes, for the last step of another kernel.
#[inline(always)]
pub(crate) fn activate<S: Simd>(s: S, activation: Activation, x: S::F) -> S::F {
    with_activation!(activation, |map| map.lanes(s, x))
}

/// `out = activation(x)`, elementwise.
pub(crate) fn apply<T: Element>(pool: &Pool, activation: Activation, io: InOut<'_, T>) {
    with_activation!(activation, |map| map1(pool, io, MIN_COMPUTED, map))
}
