//! Elementwise functions: activations, alone, after a bias or inside of another kernel, and the
//! elementary functions of one operand.

use std::ops::Range;

use super::{Body, InOut, MIN_COMPUTED, MIN_MOVED, Map1, load, map1, rows_of, sweep};
use crate::simd::{Element, Simd, WithSimd, dispatch, math};
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
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
}

/// An elementary function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Function {
    /// `-x`
    Neg,
    /// `|x|`
    Abs,
    /// `e^x`
    Exp,
    /// Natural logarithm.
    Log,
    /// Square root.
    Sqrt,
    /// `1 / sqrt(x)`
    Rsqrt,
    /// `1 / x`
    Recip,
    /// Sine of radians.
    Sin,
    /// Cosine of radians.
    Cos,
    /// Hyperbolic tangent.
    Tanh,
    /// Error function.
    Erf,
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// The largest whole number not above x.
    Floor,
    /// The smallest whole number not below x.
    Ceil,
    /// The nearest whole number, halves to even.
    Round,
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
    Sigmoid => |s, x| math::sigmoid(s, x);
    Tanh => |s, x| math::tanh(s, x);
    Identity => |_s, x| x;
    Neg => |s, x| s.neg(x);
    Abs => |s, x| s.abs(x);
    Exp => |s, x| math::exp(s, x);
    Log => |s, x| math::log(s, x);
    Sqrt => |s, x| s.sqrt(x);
    Rsqrt => |s, x| math::rsqrt(s, x);
    Recip => |s, x| s.div(s.splat(1.0), x);
    Sin => |s, x| math::sin(s, x);
    Cos => |s, x| math::cos(s, x);
    Erf => |s, x| math::erf(s, x);
    Floor => |s, x| s.floor(x);
    Ceil => |s, x| s.neg(s.floor(s.neg(x)));
    Round => |s, x| s.round_even(x);
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
            Activation::Sigmoid => on!(Sigmoid),
            Activation::Tanh => on!(Tanh),
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

/// `out = function(x)`, elementwise.
pub(crate) fn unary<T: Element>(pool: &Pool, function: Function, io: InOut<'_, T>) {
    match function {
        Function::Neg => map1(pool, io, MIN_MOVED, Neg),
        Function::Abs => map1(pool, io, MIN_MOVED, Abs),
        Function::Exp => map1(pool, io, MIN_COMPUTED, Exp),
        Function::Log => map1(pool, io, MIN_COMPUTED, Log),
        Function::Sqrt => map1(pool, io, MIN_MOVED, Sqrt),
        Function::Rsqrt => map1(pool, io, MIN_MOVED, Rsqrt),
        Function::Recip => map1(pool, io, MIN_MOVED, Recip),
        Function::Sin => map1(pool, io, MIN_COMPUTED, Sin),
        Function::Cos => map1(pool, io, MIN_COMPUTED, Cos),
        Function::Tanh => map1(pool, io, MIN_COMPUTED, Tanh),
        Function::Erf => map1(pool, io, MIN_COMPUTED, Erf),
        Function::Sigmoid => map1(pool, io, MIN_COMPUTED, Sigmoid),
        Function::Floor => map1(pool, io, MIN_MOVED, Floor),
        Function::Ceil => map1(pool, io, MIN_MOVED, Ceil),
        Function::Round => map1(pool, io, MIN_MOVED, Round),
    }
}

/// `out = activation(x + bias)`, over rows of `width`; either may be absent.
pub(crate) fn bias_activation<T: Element, W: Element>(
    pool: &Pool,
    io: InOut<'_, T>,
    bias: Option<&[W]>,
    activation: Option<Activation>,
    width: usize,
) {
    let least = if activation.is_some() { MIN_COMPUTED } else { MIN_MOVED };
    let Some(bias) = bias else {
        return match activation {
            Some(activation) => apply(pool, activation, io),
            None => map1(pool, io, least, Identity),
        };
    };
    assert_eq!(bias.len(), width, "the bias is not as long as a row");
    let rows = io.rows(width);
    pool.run_chunks(rows, rows_of(least, width), &|rows| {
        dispatch(BiasRows { io: &io, bias, activation, rows });
    });
}

/// Some rows of [`bias_activation`].
struct BiasRows<'a, T, W> {
    io: &'a InOut<'a, T>,
    bias: &'a [W],
    activation: Option<Activation>,
    rows: Range<usize>,
}

impl<T: Element, W: Element> WithSimd for BiasRows<'_, T, W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.activation {
            Some(activation) => with_activation!(activation, |map| self.all(s, map)),
            None => self.all(s, Identity),
        }
    }
}

impl<T: Element, W: Element> BiasRows<'_, T, W> {
    #[inline(always)]
    fn all<S: Simd>(&self, s: S, map: impl Map1) {
        let (width, stream) = (self.bias.len(), self.io.stream());
        for row in self.rows.clone() {
            // SAFETY: `rows` are rows of both slices, which no other task writes; the bias is as
            // long as a row.
            unsafe {
                let (x, out) = self.io.at(row * width);
                sweep(s, out, width, stream, Biased { x, bias: self.bias.as_ptr(), map });
            }
        }
        if stream {
            s.stream_fence();
        }
    }
}

/// `map(x + bias)`
#[derive(Clone, Copy)]
struct Biased<T, W, M> {
    x: *const T,
    bias: *const W,
    map: M,
}

impl<S: Simd, T: Element, W: Element, M: Map1> Body<S> for Biased<T, W, M> {
    #[inline(always)]
    unsafe fn lanes(self, s: S, at: usize, n: usize) -> S::F {
        // SAFETY: the caller's contract.
        let (x, bias) = unsafe { (load(s, self.x.add(at), n), load(s, self.bias.add(at), n)) };
        self.map.lanes(s, s.add(x, bias))
    }
}
