//! The primitives: the closed set of small operations that every backend implements.
//!
//! Arithmetic primitives are strict: operands have one type and one shape, and broadcasting is a
//! node of its own ([`Prim::Broadcast`]). The methods of [`crate::Tensor`] put it there.
//! Narrow floats are computed in f32 and rounded once at the end of each primitive.

use crate::Value;
use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

/// A number that compares and hashes by its bits, for options inside a primitive.
#[derive(Clone, Copy, Debug)]
pub struct Real(pub f64);

impl PartialEq for Real {
    fn eq(&self, other: &Real) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Real {}

impl Hash for Real {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

macro_rules! names {
    ($(#[$doc:meta])* $enum:ident { $($(#[$vdoc:meta])* $variant:ident = $name:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $enum { $($(#[$vdoc])* $variant),* }

        impl $enum {
            /// Every variant.
            pub const ALL: &'static [$enum] = &[$($enum::$variant),*];

            /// The name in lower case.
            pub const fn name(self) -> &'static str {
                match self { $($enum::$variant => $name),* }
            }
        }
    };
}

names! {
    /// Elementwise functions of one operand.
    Unary {
        /// `-x`
        Neg = "neg",
        /// `|x|`
        Abs = "abs",
        /// `e^x`
        Exp = "exp",
        /// Natural logarithm.
        Log = "log",
        /// `sqrt(x)`
        Sqrt = "sqrt",
        /// `1 / sqrt(x)`
        Rsqrt = "rsqrt",
        /// Sine of radians.
        Sin = "sin",
        /// Cosine of radians.
        Cos = "cos",
        /// Hyperbolic tangent.
        Tanh = "tanh",
        /// `2 / sqrt(pi)` times the integral of `e^(-t^2)` from 0 to x.
        Erf = "erf",
        /// `1 / (1 + e^-x)`
        Sigmoid = "sigmoid",
        /// Largest integer not above x.
        Floor = "floor",
        /// Smallest integer not below x.
        Ceil = "ceil",
        /// Nearest integer, halves to even.
        Round = "round",
        /// Logical not, of booleans.
        Not = "not",
    }
}

names! {
    /// Elementwise functions of two operands of one type.
    Binary {
        /// `a + b`
        Add = "add",
        /// `a - b`
        Sub = "sub",
        /// `a * b`
        Mul = "mul",
        /// `a / b`; integers truncate, and give 0 where b is 0.
        Div = "div",
        /// Remainder with the sign of a; integers give 0 where b is 0.
        Rem = "rem",
        /// `a^b`
        Pow = "pow",
        /// The larger; NaN where either is.
        Max = "max",
        /// The smaller; NaN where either is.
        Min = "min",
        /// Logical and, of booleans.
        And = "and",
        /// Logical or, of booleans.
        Or = "or",
    }
}

names! {
    /// Comparisons of two operands of one type; the result is boolean.
    Compare {
        /// `a == b`
        Eq = "eq",
        /// `a != b`
        Ne = "ne",
        /// `a < b`
        Lt = "lt",
        /// `a <= b`
        Le = "le",
        /// `a > b`
        Gt = "gt",
        /// `a >= b`
        Ge = "ge",
    }
}

names! {
    /// Reductions over axes, which stay as extent 1.
    Reduce {
        /// Sum; 0 over nothing.
        Sum = "sum",
        /// Product; 1 over nothing.
        Prod = "prod",
        /// Largest; the lowest number (-inf for floats) over nothing.
        Max = "max",
        /// Smallest; the highest number (inf for floats) over nothing.
        Min = "min",
    }
}

/// One primitive. The shape and type of the result stand in the node's spec.
#[derive(Clone, Debug, PartialEq)]
pub enum Prim {
    /// The program's input of this position.
    Input(usize),
    /// The weight of this name.
    Param(Arc<str>),
    /// A known value.
    Constant(Value),
    /// 0, 1, 2, ... along this axis.
    Iota(usize),
    /// A function of one operand.
    Unary(Unary),
    /// A function of two operands.
    Binary(Binary),
    /// A comparison of two operands.
    Compare(Compare),
    /// `condition ? a : b`, elementwise; the condition is boolean.
    Select,
    /// Conversion to the type of the node's spec. Floats round to nearest even; floats become
    /// integers by truncation, saturating; anything but zero becomes `true`.
    Cast,
    /// The same bytes (little-endian) as elements of the type of the node's spec: the last axis is
    /// scaled by the ratio of the sizes. Not for booleans.
    Bitcast,
    /// A reduction over these axes (ascending), kept as extent 1.
    Reduce(Reduce, Vec<usize>),
    /// Index (i64) of the first largest element along this axis, kept as extent 1.
    ArgMax(usize),
    /// Running sum along this axis, the element itself included.
    CumSum(usize),
    /// `[.., m, k] x [.., k, n] -> [.., m, n]`; leading axes are equal. Accumulates in f32 or wider.
    MatMul,
    /// The same elements in row-major order in another shape.
    Reshape,
    /// Axis `i` of the result is axis `perm[i]` of the operand.
    Transpose(Vec<usize>),
    /// Extents of 1 repeated; the rank stays.
    Broadcast,
    /// Every `step`-th element from `start` along each axis; steps may be negative.
    Slice {
        /// First index along each axis.
        start: Vec<usize>,
        /// Step along each axis, not 0.
        step: Vec<isize>,
    },
    /// Operands one after the other along this axis.
    Concat(usize),
    /// `value` put before and after, along each axis.
    Pad {
        /// Elements before.
        low: Vec<usize>,
        /// Elements after.
        high: Vec<usize>,
        /// What they are.
        value: Real,
    },
    /// Slices of operand 0 along this axis chosen by the integer operand 1, whose axes take its
    /// place. An index out of range is an error when the program runs.
    Gather(usize),
    /// Operand 0 with operand 1 written over it along this axis from the integer operand 2 (a
    /// scalar, or one start for each row of axis 0). Done in place when nobody else holds operand
    /// 0. A write past the end is an error when the program runs.
    Update(usize),
}

impl Prim {
    /// The name in lower case, as printed.
    pub fn name(&self) -> &'static str {
        match self {
            Prim::Input(_) => "input",
            Prim::Param(_) => "param",
            Prim::Constant(_) => "constant",
            Prim::Iota(_) => "iota",
            Prim::Unary(u) => u.name(),
            Prim::Binary(b) => b.name(),
            Prim::Compare(c) => c.name(),
            Prim::Select => "select",
            Prim::Cast => "cast",
            Prim::Bitcast => "bitcast",
            Prim::Reduce(Reduce::Sum, _) => "reduce_sum",
            Prim::Reduce(Reduce::Prod, _) => "reduce_prod",
            Prim::Reduce(Reduce::Max, _) => "reduce_max",
            Prim::Reduce(Reduce::Min, _) => "reduce_min",
            Prim::ArgMax(_) => "argmax",
            Prim::CumSum(_) => "cumsum",
            Prim::MatMul => "matmul",
            Prim::Reshape => "reshape",
            Prim::Transpose(_) => "transpose",
            Prim::Broadcast => "broadcast",
            Prim::Slice { .. } => "slice",
            Prim::Concat(_) => "concat",
            Prim::Pad { .. } => "pad",
            Prim::Gather(_) => "gather",
            Prim::Update(_) => "update",
        }
    }

    /// Whether it has no operands.
    pub fn is_leaf(&self) -> bool {
        matches!(self, Prim::Input(_) | Prim::Param(_) | Prim::Constant(_) | Prim::Iota(_))
    }
}

impl fmt::Display for Prim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Prim::Input(i) => write!(f, "({i})"),
            Prim::Param(name) => write!(f, "({name})"),
            Prim::Constant(v) if v.spec().numel() == 1 => write!(f, "({})", v.to_f64()[0]),
            Prim::Iota(axis) | Prim::ArgMax(axis) | Prim::CumSum(axis) => write!(f, "({axis})"),
            Prim::Concat(axis) | Prim::Gather(axis) | Prim::Update(axis) => write!(f, "({axis})"),
            Prim::Reduce(_, axes) => write!(f, "{axes:?}"),
            Prim::Transpose(perm) => write!(f, "{perm:?}"),
            Prim::Slice { start, step } => write!(f, "(start {start:?}, step {step:?})"),
            Prim::Pad { low, high, value } => write!(f, "({low:?}, {high:?}, {})", value.0),
            _ => Ok(()),
        }
    }
}
