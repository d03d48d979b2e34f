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
    Identity => |_s, x| x;
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

#[derive(Clone, Copy)]
struct GeluErf;

impl Map1 for GeluErf {
    #[inline(always)]
    fn lanes<S: Simd>(self, s: S, x: S::F) -> S::F {
        math::gelu_erf(s, x)
    }

    #[inline(always)]
    fn several<S: Simd, const V: usize>(self, s: S, x: [S::F; V]) -> [S::F; V] {
        math::gelu_erf_several(s, x)
    }
}

/// Work that ends in a function of each lane.
pub(crate) trait WithMap {
    /// What it gives.
    type Output;
    /// Does it. Implementations are `#[inline(always)]`.
    fn run<M: Map1>(self, map: M) -> Self::Output;
}

/// Does the work with the function of an activation, or without any: what it loops over is compiled
/// for each function, and does not ask in every round which one it is.
#[inline(always)]
pub(crate) fn with<W: WithMap>(activation: Option<Activation>, work: W) -> W::Output {
    match activation {
        None => work.run(Identity),
        Some(Activation::GeluErf) => work.run(GeluErf),
        Some(Activation::GeluTanh) => work.run(GeluTanh),
        Some(Activation::QuickGelu) => work.run(QuickGelu),
        Some(Activation::Silu) => work.run(Silu),
        Some(Activation::Relu) => work.run(Relu),
        Some(Activation::Tanh) => work.run(Tanh),
        Some(Activation::HardSwish) => work.run(HardSwish),
    }
}

/// `out = activation(x)`, elementwise.
pub(crate) fn apply<T: Element>(pool: &Pool, activation: Activation, io: InOut<'_, T>) {
    with(Some(activation), Whole { pool, io })
}

struct Whole<'a, T> {
    pool: &'a Pool,
    io: InOut<'a, T>,
}

impl<T: Element> WithMap for Whole<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<M: Map1>(self, map: M) {
        map1(self.pool, self.io, MIN_COMPUTED, map)
    }
}
