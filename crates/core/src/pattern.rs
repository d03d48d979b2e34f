//! Patterns: formulas that are looked for in a graph.
//!
//! A pattern is written as the formula that it finds. `*` and `+` stand for every order and every
//! bracketing of a product and a sum, `/` and `-` for their inverses: `x / sqrt(v) * w` also finds
//! `w * (x * rsqrt(v))` and `x * (w * (1 / sqrt(v)))`. Casts between floats, broadcasts and axes of
//! extent 1 that come and go are looked through; what they do to axes is followed, so that a mean
//! over one axis is not taken for one over another. A name that stands twice must be one value.
//!
//! A formula with the Block that stands for it is a [`crate::Rule::formula`], for [`crate::recognise`]. A
//! crate of your own finds its own Block like this:
//!
//! ```
//! use frit_graph::{
//!     Block, DType, Graph, Rule, ShapeError, Spec, Tensor, operands, pattern::any, recognise,
//! };
//!
//! /// `x * e^(-x^2)`
//! #[derive(Clone, Debug, PartialEq)]
//! struct Wavelet;
//! operands!(/// Its operand.
//!     Operand { x } optional {});
//!
//! impl Block for Wavelet {
//!     type Inputs<T> = Operand<T>;
//!     const NAME: &'static str = "example.wavelet";
//!     fn infer(&self, i: Operand<&Spec>) -> Result<Spec, ShapeError> {
//!         Ok(i.x.clone())
//!     }
//!     fn compose(&self, i: Operand<Tensor>) -> Tensor {
//!         &i.x * (-(&i.x * &i.x)).exp()
//!     }
//! }
//!
//! let x = any("x");
//! let formula = &x * (-(&x * &x)).exp();
//! let rule = Rule::formula("example.wavelet", [("as composed", formula)], |m| {
//!     Ok(Tensor::block(Wavelet, Operand { x: m.main("x")? }))
//! });
//!
//! // Somebody else's graph, in another order, with a division.
//! let graph = Graph::trace(&[Spec::new(DType::F32, [4])], |x| {
//!     let x = &x[0];
//!     vec![x / (x * x).exp(), (x * x * -1.0).exp() * x]
//! })?;
//! let (graph, report) = recognise(&graph, &[rule])?;
//! assert_eq!(report.replaced(), 1, "x / e^(x^2) is another spelling: {report}");
//! assert_eq!(graph.histogram()["example.wavelet"], 1);
//! # Ok::<(), frit_graph::Error>(())
//! ```

mod known;
mod matcher;
#[cfg(test)]
mod tests;

pub use known::{before_widening, known, number_of, passes, same_value, tidy};
pub use matcher::Match;
pub(crate) use matcher::{Attempt, attempt, leaks};

use crate::{Binary, Compare, Reduce, Tensor, Unary};
use std::{
    collections::BTreeSet,
    fmt,
    ops::{Add, Div, Mul, Neg, Sub},
    sync::Arc,
};

/// Which axis a reduction is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// The last one.
    Last,
    /// Any one, captured under this name; the same wherever the name stands.
    Named(&'static str),
}

pub(crate) type Check = Arc<dyn Fn(&Tensor) -> bool + Send + Sync>;

pub(crate) enum Kind {
    /// Any tensor, by name.
    Any(&'static str),
    /// A vector along the last axis of the root, by name.
    Vector(&'static str),
    /// A known number, by name.
    Number(&'static str),
    /// A known number near this one.
    Near(f64),
    Unary(Unary, Pattern),
    /// All of these multiplied, in any order.
    Product(Vec<Pattern>),
    /// All of these added, in any order.
    Sum(Vec<Pattern>),
    Over(Pattern),
    Neg(Pattern),
    Binary(Binary, Pattern, Pattern),
    Compare(Compare, Pattern, Pattern),
    Select(Pattern, Pattern, Pattern),
    MatMul(Pattern, Pattern),
    Reduce(Reduce, Axis, Pattern),
    Mean(Axis, Pattern),
    OneOf(Vec<Pattern>),
    Named(&'static str, Pattern),
    Where(Pattern, &'static str, Check),
}

/// A formula to look for. Cloning shares it.
#[derive(Clone)]
pub struct Pattern(pub(crate) Arc<Kind>);

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Kind::Any(name) | Kind::Vector(name) | Kind::Number(name) => f.write_str(name),
            Kind::Near(n) => write!(f, "{n}"),
            Kind::Unary(u, p) => write!(f, "{}({p:?})", u.name()),
            Kind::Product(items) => f.debug_tuple("product").field(items).finish(),
            Kind::Sum(items) => f.debug_tuple("sum").field(items).finish(),
            Kind::Over(p) => write!(f, "1/({p:?})"),
            Kind::Neg(p) => write!(f, "-({p:?})"),
            Kind::Binary(b, x, y) => write!(f, "{}({x:?}, {y:?})", b.name()),
            Kind::Compare(c, x, y) => write!(f, "{}({x:?}, {y:?})", c.name()),
            Kind::Select(c, x, y) => write!(f, "select({c:?}, {x:?}, {y:?})"),
            Kind::MatMul(x, y) => write!(f, "matmul({x:?}, {y:?})"),
            Kind::Reduce(r, axis, p) => write!(f, "{}({p:?}, {axis:?})", r.name()),
            Kind::Mean(axis, p) => write!(f, "mean({p:?}, {axis:?})"),
            Kind::OneOf(items) => f.debug_tuple("one of").field(items).finish(),
            Kind::Named(name, p) => write!(f, "{name} = {p:?}"),
            Kind::Where(p, why, _) => write!(f, "{p:?} where {why}"),
        }
    }
}

fn new(kind: Kind) -> Pattern {
    Pattern(Arc::new(kind))
}

/// Any tensor, captured by name. It is captured before a cast that widens it.
pub fn any(name: &'static str) -> Pattern {
    new(Kind::Any(name))
}

/// A tensor that has extents along the last axis of the root only: the weight of a norm.
pub fn vector(name: &'static str) -> Pattern {
    new(Kind::Vector(name))
}

/// A number that is known from constants alone, captured by name.
pub fn number(name: &'static str) -> Pattern {
    new(Kind::Number(name))
}

/// A known number as near to this one as its type can hold it.
pub fn near(number: f64) -> Pattern {
    new(Kind::Near(number))
}

/// The first of these that is found.
pub fn one_of(patterns: impl IntoIterator<Item = Pattern>) -> Pattern {
    new(Kind::OneOf(patterns.into_iter().collect()))
}

/// `1 / sqrt(p)`
pub fn rsqrt(p: impl Into<Pattern>) -> Pattern {
    new(Kind::Unary(Unary::Rsqrt, p.into()))
}

/// `sqrt(p)`
pub fn sqrt(p: impl Into<Pattern>) -> Pattern {
    new(Kind::Unary(Unary::Sqrt, p.into()))
}

/// The error function.
pub fn erf(p: impl Into<Pattern>) -> Pattern {
    new(Kind::Unary(Unary::Erf, p.into()))
}

/// The logistic function, also as `1 / (1 + exp(-p))`.
pub fn sigmoid(p: impl Into<Pattern>) -> Pattern {
    new(Kind::Unary(Unary::Sigmoid, p.into()))
}

/// A function of one operand.
pub fn unary(f: Unary, p: impl Into<Pattern>) -> Pattern {
    new(Kind::Unary(f, p.into()))
}

/// A function of two operands. Products and sums are written by operators.
pub fn binary(f: Binary, a: impl Into<Pattern>, b: impl Into<Pattern>) -> Pattern {
    new(Kind::Binary(f, a.into(), b.into()))
}

/// A comparison; also found the other way round.
pub fn compare(f: Compare, a: impl Into<Pattern>, b: impl Into<Pattern>) -> Pattern {
    new(Kind::Compare(f, a.into(), b.into()))
}

/// `condition ? a : b`
pub fn select(
    condition: impl Into<Pattern>,
    a: impl Into<Pattern>,
    b: impl Into<Pattern>,
) -> Pattern {
    new(Kind::Select(condition.into(), a.into(), b.into()))
}

/// A product of matrices.
pub fn matmul(a: impl Into<Pattern>, b: impl Into<Pattern>) -> Pattern {
    new(Kind::MatMul(a.into(), b.into()))
}

/// A reduction over one axis.
pub fn reduce(f: Reduce, p: impl Into<Pattern>, axis: Axis) -> Pattern {
    new(Kind::Reduce(f, axis, p.into()))
}

/// A mean: a sum divided by the extent, or multiplied by its inverse.
pub fn mean(p: impl Into<Pattern>, axis: Axis) -> Pattern {
    new(Kind::Mean(axis, p.into()))
}

impl From<&Pattern> for Pattern {
    fn from(p: &Pattern) -> Pattern {
        p.clone()
    }
}

impl From<f64> for Pattern {
    fn from(n: f64) -> Pattern {
        near(n)
    }
}

impl Pattern {
    /// The same, and captures what it finds by name.
    pub fn named(&self, name: &'static str) -> Pattern {
        new(Kind::Named(name, self.clone()))
    }

    /// The same where `check` holds of what it finds; `why` says why not.
    pub fn when(
        &self,
        why: &'static str,
        check: impl Fn(&Tensor) -> bool + Send + Sync + 'static,
    ) -> Pattern {
        new(Kind::Where(self.clone(), why, Arc::new(check)))
    }

    /// `e^p`
    pub fn exp(&self) -> Pattern {
        unary(Unary::Exp, self)
    }

    /// `tanh(p)`
    pub fn tanh(&self) -> Pattern {
        unary(Unary::Tanh, self)
    }

    /// `p * p`, also as a power.
    pub fn squared(&self) -> Pattern {
        self * self
    }

    /// `p * p * p`, also as a power.
    pub fn cubed(&self) -> Pattern {
        new(Kind::Product(vec![self.clone(); 3]))
    }

    pub(crate) fn same(&self, other: &Pattern) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// `-p`
    pub(crate) fn negated(&self) -> Pattern {
        match &*self.0 {
            Kind::Neg(p) => p.clone(),
            Kind::Near(n) => near(-n),
            Kind::Product(items) => {
                let mut items = items.clone();
                match items.iter().position(|i| matches!(*i.0, Kind::Near(_))) {
                    Some(at) => items[at] = items[at].negated(),
                    None => return new(Kind::Neg(self.clone())),
                }
                new(Kind::Product(items))
            }
            _ => new(Kind::Neg(self.clone())),
        }
    }

    /// `1 / p`
    pub(crate) fn inverted(&self) -> Pattern {
        match &*self.0 {
            Kind::Over(p) => p.clone(),
            Kind::Near(n) => near(1.0 / n),
            Kind::Unary(Unary::Rsqrt, p) => sqrt(p),
            Kind::Unary(Unary::Sqrt, p) => rsqrt(p),
            Kind::Unary(Unary::Sigmoid, p) => p.negated().exp() + 1.0,
            _ => new(Kind::Over(self.clone())),
        }
    }

    /// How many operations it takes at least to be this, up to the first alternative.
    pub(crate) fn operations(&self) -> usize {
        match &*self.0 {
            Kind::Any(_) | Kind::Vector(_) | Kind::Number(_) | Kind::Near(_) => 0,
            Kind::Unary(_, p) | Kind::Reduce(_, _, p) | Kind::Mean(_, p) | Kind::Over(p) => {
                1 + p.operations()
            }
            Kind::Neg(p) => 1 + p.operations(),
            Kind::Product(items) | Kind::Sum(items) => {
                items.iter().map(Pattern::operations).sum::<usize>() + items.len() - 1
            }
            Kind::Binary(_, a, b) | Kind::Compare(_, a, b) | Kind::MatMul(a, b) => {
                1 + a.operations() + b.operations()
            }
            Kind::Select(a, b, c) => 1 + a.operations() + b.operations() + c.operations(),
            Kind::OneOf(items) => items.iter().map(Pattern::operations).min().unwrap_or(0),
            Kind::Named(_, p) | Kind::Where(p, _, _) => p.operations(),
        }
    }

    /// Functions without which nothing is near it, each by the names that it may be spelled with:
    /// products and sums with a wrong number are met everywhere.
    pub(crate) fn telling(&self, into: &mut Vec<&'static [&'static str]>) {
        match &*self.0 {
            Kind::Unary(f, p) => {
                match f {
                    Unary::Erf => into.push(&["erf"]),
                    Unary::Tanh => into.push(&["tanh"]),
                    Unary::Sigmoid | Unary::Exp => into.push(&["sigmoid", "exp"]),
                    Unary::Sqrt | Unary::Rsqrt => into.push(&["sqrt", "rsqrt", "pow"]),
                    _ => {}
                }
                p.telling(into);
            }
            Kind::Product(items) | Kind::Sum(items) => items.iter().for_each(|p| p.telling(into)),
            Kind::Reduce(_, _, p)
            | Kind::Mean(_, p)
            | Kind::Over(p)
            | Kind::Neg(p)
            | Kind::Named(_, p)
            | Kind::Where(p, _, _) => p.telling(into),
            Kind::Binary(_, a, b) | Kind::Compare(_, a, b) | Kind::MatMul(a, b) => {
                a.telling(into);
                b.telling(into);
            }
            Kind::Select(a, b, c) => [a, b, c].iter().for_each(|p| p.telling(into)),
            // Which one it is is open.
            Kind::OneOf(_) | Kind::Any(_) | Kind::Vector(_) | Kind::Number(_) | Kind::Near(_) => {}
        }
    }

    /// Names of the nodes that it can be rooted at, casts aside.
    pub(crate) fn roots(&self, into: &mut BTreeSet<&'static str>) {
        match &*self.0 {
            Kind::Any(_) | Kind::Vector(_) | Kind::Number(_) | Kind::Near(_) => {}
            Kind::Unary(Unary::Sigmoid, _) => into.extend(["sigmoid", "div"]),
            Kind::Unary(Unary::Sqrt, _) => into.extend(["sqrt", "pow"]),
            Kind::Unary(Unary::Rsqrt, _) => into.extend(["rsqrt", "pow", "div"]),
            Kind::Unary(u, _) => into.extend([u.name()]),
            Kind::Product(_) | Kind::Mean(..) => into.extend(["mul", "div", "pow"]),
            Kind::Sum(_) => into.extend(["add", "sub"]),
            Kind::Over(_) => into.extend(["div", "pow", "rsqrt"]),
            Kind::Neg(_) => into.extend(["neg", "sub", "mul"]),
            Kind::Binary(b, ..) => into.extend([b.name()]),
            Kind::Compare(c, ..) => into.extend([c.name(), mirrored(*c).name()]),
            Kind::Select(..) => into.extend(["select"]),
            Kind::MatMul(..) => into.extend(["matmul"]),
            Kind::Reduce(Reduce::Sum, ..) => into.extend(["reduce_sum"]),
            Kind::Reduce(Reduce::Prod, ..) => into.extend(["reduce_prod"]),
            Kind::Reduce(Reduce::Max, ..) => into.extend(["reduce_max"]),
            Kind::Reduce(Reduce::Min, ..) => into.extend(["reduce_min"]),
            Kind::OneOf(items) => items.iter().for_each(|i| i.roots(into)),
            Kind::Named(_, p) | Kind::Where(p, _, _) => p.roots(into),
        }
    }
}

/// The comparison with its operands exchanged.
pub(crate) fn mirrored(c: Compare) -> Compare {
    match c {
        Compare::Lt => Compare::Gt,
        Compare::Gt => Compare::Lt,
        Compare::Le => Compare::Ge,
        Compare::Ge => Compare::Le,
        same => same,
    }
}

fn product(a: Pattern, b: Pattern) -> Pattern {
    let items = |p: &Pattern| match &*p.0 {
        Kind::Product(items) => items.clone(),
        _ => vec![p.clone()],
    };
    new(Kind::Product([items(&a), items(&b)].concat()))
}

fn sum(a: Pattern, b: Pattern) -> Pattern {
    let items = |p: &Pattern| match &*p.0 {
        Kind::Sum(items) => items.clone(),
        _ => vec![p.clone()],
    };
    new(Kind::Sum([items(&a), items(&b)].concat()))
}

fn difference(a: Pattern, b: Pattern) -> Pattern {
    sum(a, b.negated())
}

fn quotient(a: Pattern, b: Pattern) -> Pattern {
    product(a, b.inverted())
}

macro_rules! operator {
    ($($trait:ident $method:ident $make:ident),* $(,)?) => { $(
        impl<P: Into<Pattern>> $trait<P> for Pattern {
            type Output = Pattern;
            fn $method(self, other: P) -> Pattern { $make(self, other.into()) }
        }
        impl<P: Into<Pattern>> $trait<P> for &Pattern {
            type Output = Pattern;
            fn $method(self, other: P) -> Pattern { $make(self.clone(), other.into()) }
        }
        impl $trait<Pattern> for f64 {
            type Output = Pattern;
            fn $method(self, other: Pattern) -> Pattern { $make(self.into(), other) }
        }
        impl $trait<&Pattern> for f64 {
            type Output = Pattern;
            fn $method(self, other: &Pattern) -> Pattern { $make(self.into(), other.clone()) }
        }
    )* };
}
operator!(Add add sum, Sub sub difference, Mul mul product, Div div quotient);

impl Neg for Pattern {
    type Output = Pattern;
    fn neg(self) -> Pattern {
        self.negated()
    }
}

impl Neg for &Pattern {
    type Output = Pattern;
    fn neg(self) -> Pattern {
        self.negated()
    }
}
