//! What can be done with a tensor: leaves, elementwise, reductions, products, shapes.

use crate::{
    Binary, Compare, DType, Prim, Real, Reduce, ShapeError, Spec, Tensor, Unary, Value,
    broadcast_shapes,
};
use std::{ops::Range, sync::Arc};

type Shaped = Result<Spec, ShapeError>;

fn axis_of(axis: isize, rank: usize) -> Result<usize, ShapeError> {
    let at = if axis < 0 { axis + rank as isize } else { axis };
    if (0..rank as isize).contains(&at) {
        return Ok(at as usize);
    }
    Err(format!("axis {axis} does not exist in rank {rank}").into())
}

macro_rules! unary {
    ($($(#[$doc:meta])* $method:ident => $variant:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[track_caller]
        pub fn $method(&self) -> Tensor { self.unary(Unary::$variant) }
    )* };
}

macro_rules! binary {
    ($($(#[$doc:meta])* $method:ident => $variant:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[track_caller]
        pub fn $method(&self, other: &Tensor) -> Tensor { self.binary(other, Binary::$variant) }
    )* };
}

macro_rules! compare {
    ($($(#[$doc:meta])* $method:ident => $variant:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[track_caller]
        pub fn $method(&self, other: &Tensor) -> Tensor { self.compare(other, Compare::$variant) }
    )* };
}

/// Leaves.
impl Tensor {
    /// The program's input of this position. [`crate::Graph::trace`] makes them.
    #[track_caller]
    pub fn input_of(index: usize, spec: Spec) -> Tensor {
        Tensor::prim_node(Prim::Input(index), &[], Ok(spec))
    }

    /// The weight of this name, bound when the graph is compiled.
    #[track_caller]
    pub fn param(name: &str, spec: Spec) -> Tensor {
        Tensor::prim_node(Prim::Param(Arc::from(name)), &[], Ok(spec))
    }

    /// A known value.
    #[track_caller]
    pub fn constant(value: Value) -> Tensor {
        let spec = value.spec().clone();
        Tensor::prim_node(Prim::Constant(value), &[], Ok(spec))
    }

    /// A known number of rank 0, rounded to `dtype`.
    #[track_caller]
    pub fn scalar(dtype: DType, number: f64) -> Tensor {
        match Value::from_f64(Spec::new(dtype, []), &[number]) {
            Ok(value) => Tensor::constant(value),
            Err(e) => Tensor::poison("constant", e),
        }
    }

    /// One number everywhere.
    #[track_caller]
    pub fn full(spec: Spec, number: f64) -> Tensor {
        Tensor::scalar(spec.dtype, number).broadcast_to(&spec.shape)
    }

    /// 0, 1, 2, ... along `axis`.
    #[track_caller]
    pub fn iota(spec: Spec, axis: isize) -> Tensor {
        match axis_of(axis, spec.rank()) {
            Ok(axis) => Tensor::prim_node(Prim::Iota(axis), &[], Ok(spec)),
            Err(e) => Tensor::poison("iota", e),
        }
    }
}

/// Elementwise.
impl Tensor {
    /// Applies a function of one operand.
    #[track_caller]
    pub fn unary(&self, f: Unary) -> Tensor {
        let d = self.dtype();
        let ok = match f {
            Unary::Not => d == DType::Bool,
            Unary::Neg => d.is_float() || matches!(d, DType::I64 | DType::I32),
            Unary::Abs => d.is_float() || d.is_integer(),
            _ => d.is_float(),
        };
        let spec = match ok {
            true => Ok(self.spec().clone()),
            false => Err(format!("does not take {}", self.spec()).into()),
        };
        Tensor::prim_node(Prim::Unary(f), &[self], spec)
    }

    /// Applies a function of two operands, which broadcast.
    #[track_caller]
    pub fn binary(&self, other: &Tensor, f: Binary) -> Tensor {
        let logical = matches!(f, Binary::And | Binary::Or);
        let (a, b, mut spec) = self.pair(other);
        if spec.is_ok() && logical != (a.dtype() == DType::Bool) {
            let wanted = if logical { "booleans" } else { "numbers" };
            spec = Err(format!("wants {wanted}, got {}", a.spec()).into());
        }
        Tensor::prim_node(Prim::Binary(f), &[&a, &b], spec)
    }

    /// Compares two operands, which broadcast.
    #[track_caller]
    pub fn compare(&self, other: &Tensor, f: Compare) -> Tensor {
        let (a, b, spec) = self.pair(other);
        Tensor::prim_node(Prim::Compare(f), &[&a, &b], spec.map(|s| s.with_dtype(DType::Bool)))
    }

    /// Both operands broadcast to their common shape.
    #[track_caller]
    fn pair(&self, other: &Tensor) -> (Tensor, Tensor, Shaped) {
        if self.is_poisoned() || other.is_poisoned() {
            return (self.clone(), other.clone(), Ok(self.spec().clone()));
        }
        if self.dtype() != other.dtype() {
            let e =
                format!("operands must have one type, got {} and {}", self.spec(), other.spec());
            return (self.clone(), other.clone(), Err(e.into()));
        }
        match broadcast_shapes(self.shape(), other.shape()) {
            Some(shape) => {
                let spec = self.spec().with_shape(shape.clone());
                (self.broadcast_to(&shape), other.broadcast_to(&shape), Ok(spec))
            }
            None => {
                let e = format!("{} and {} do not broadcast", self.spec(), other.spec());
                (self.clone(), other.clone(), Err(e.into()))
            }
        }
    }

    unary! {
        /// `|x|`
        abs => Abs,
        /// `e^x`
        exp => Exp,
        /// Natural logarithm.
        log => Log,
        /// `sqrt(x)`
        sqrt => Sqrt,
        /// `1 / sqrt(x)`
        rsqrt => Rsqrt,
        /// Sine.
        sin => Sin,
        /// Cosine.
        cos => Cos,
        /// Hyperbolic tangent.
        tanh => Tanh,
        /// The error function.
        erf => Erf,
        /// `1 / (1 + e^-x)`
        sigmoid => Sigmoid,
        /// Largest integer not above.
        floor => Floor,
        /// Smallest integer not below.
        ceil => Ceil,
        /// Nearest integer, halves to even.
        round => Round,
        /// Logical not.
        logical_not => Not,
    }

    binary! {
        /// `a^b`
        pow => Pow,
        /// The larger of two.
        maximum => Max,
        /// The smaller of two.
        minimum => Min,
        /// Logical and.
        logical_and => And,
        /// Logical or.
        logical_or => Or,
    }

    compare! {
        /// `a == b`
        eq => Eq,
        /// `a != b`
        ne => Ne,
        /// `a < b`
        lt => Lt,
        /// `a <= b`
        le => Le,
        /// `a > b`
        gt => Gt,
        /// `a >= b`
        ge => Ge,
    }

    /// `self ? a : b`; `self` is boolean, all three broadcast.
    #[track_caller]
    pub fn select(&self, a: &Tensor, b: &Tensor) -> Tensor {
        let (a, b, spec) = a.pair(b);
        let both = match spec {
            Ok(s) if !self.is_poisoned() => s,
            spec => return Tensor::prim_node(Prim::Select, &[self, &a, &b], spec),
        };
        let shape = broadcast_shapes(self.shape(), &both.shape);
        let spec = match shape {
            Some(shape) if self.dtype() == DType::Bool => Ok(both.with_shape(shape)),
            _ => Err(format!("condition {} does not choose among {both}", self.spec()).into()),
        };
        match &spec {
            Ok(s) => {
                let parts = [self, &a, &b].map(|t| t.broadcast_to(&s.shape));
                Tensor::prim_node(Prim::Select, &parts.each_ref(), spec)
            }
            Err(_) => Tensor::prim_node(Prim::Select, &[self, &a, &b], spec),
        }
    }

    /// The value in another element type; itself if it has that type.
    #[track_caller]
    pub fn cast(&self, dtype: DType) -> Tensor {
        if self.dtype() == dtype {
            return self.clone();
        }
        Tensor::prim_node(Prim::Cast, &[self], Ok(self.spec().with_dtype(dtype)))
    }

    /// The same bytes (little-endian) as elements of another type; itself if it has that type. The
    /// last axis is scaled by the ratio of the sizes: `[.., 2c]` of u8 is `[.., c]` of f16.
    ///
    /// ```
    /// use frit_graph::{DType, Spec, Tensor};
    /// let bytes = Tensor::input_of(0, Spec::new(DType::U8, [3, 8]));
    /// assert_eq!(bytes.bitcast(DType::F16).spec().to_string(), "f16[3, 4]");
    /// assert!(Tensor::input_of(0, Spec::new(DType::U8, [3, 5])).bitcast(DType::F16).is_poisoned());
    /// ```
    #[track_caller]
    pub fn bitcast(&self, dtype: DType) -> Tensor {
        if self.dtype() == dtype || self.is_poisoned() {
            return self.clone();
        }
        let (from, to) = (self.dtype().size(), dtype.size());
        let mut spec = self.spec().with_dtype(dtype);
        let last = spec.shape.last_mut();
        let fits = match last {
            // The bytes are as many as before, so that this cannot overflow.
            Some(last) if *last * from % to == 0 => {
                *last = *last * from / to;
                true
            }
            _ => from == to,
        };
        let spec = match fits && self.dtype() != DType::Bool && dtype != DType::Bool {
            true => Ok(spec),
            false => Err(format!("the bytes of {} are no {dtype}", self.spec()).into()),
        };
        Tensor::prim_node(Prim::Bitcast, &[self], spec)
    }
}

/// Reductions.
impl Tensor {
    /// Reduces over `axes` (negative from the end), kept as extent 1.
    #[track_caller]
    pub fn reduce(&self, f: Reduce, axes: &[isize]) -> Tensor {
        let mut found: Vec<usize> = Vec::new();
        let mut spec: Shaped = Ok(self.spec().clone());
        for &axis in axes {
            match (axis_of(axis, self.rank()), &mut spec) {
                (Ok(a), Ok(s)) if !found.contains(&a) => {
                    found.push(a);
                    s.shape[a] = 1;
                }
                (Ok(_), _) => spec = Err(format!("axes {axes:?} repeat").into()),
                (Err(e), _) => spec = Err(e),
            }
        }
        if self.dtype() == DType::Bool {
            spec = Err(format!("wants numbers, got {}", self.spec()).into());
        }
        found.sort_unstable();
        Tensor::prim_node(Prim::Reduce(f, found), &[self], spec)
    }

    /// Sum over `axes`, kept as extent 1.
    #[track_caller]
    pub fn sum(&self, axes: &[isize]) -> Tensor {
        self.reduce(Reduce::Sum, axes)
    }

    /// Largest over `axes`, kept as extent 1.
    #[track_caller]
    pub fn max(&self, axes: &[isize]) -> Tensor {
        self.reduce(Reduce::Max, axes)
    }

    /// Arithmetic mean over `axes`, kept as extent 1.
    #[track_caller]
    pub fn mean(&self, axes: &[isize]) -> Tensor {
        let sum = self.sum(axes);
        let count = self.spec().numel() / sum.spec().numel().max(1);
        sum / count as f64
    }

    /// Index (i64) of the first largest element along `axis`, kept as extent 1.
    #[track_caller]
    pub fn argmax(&self, axis: isize) -> Tensor {
        let at = axis_of(axis, self.rank());
        let spec = at.clone().and_then(|a| {
            if self.shape()[a] == 0 {
                return Err("of nothing does not exist".into());
            }
            let mut s = self.spec().with_dtype(DType::I64);
            s.shape[a] = 1;
            Ok(s)
        });
        Tensor::prim_node(Prim::ArgMax(at.unwrap_or(0)), &[self], spec)
    }

    /// Running sum along `axis`.
    #[track_caller]
    pub fn cumsum(&self, axis: isize) -> Tensor {
        let at = axis_of(axis, self.rank());
        let spec = at.clone().map(|_| self.spec().clone());
        Tensor::prim_node(Prim::CumSum(at.unwrap_or(0)), &[self], spec)
    }
}

/// Products.
impl Tensor {
    /// `[.., m, k] x [.., k, n] -> [.., m, n]`; leading axes broadcast.
    #[track_caller]
    pub fn matmul(&self, other: &Tensor) -> Tensor {
        if self.is_poisoned() || other.is_poisoned() {
            return Tensor::prim_node(Prim::MatMul, &[self, other], Ok(self.spec().clone()));
        }
        let (a, b) = (self.shape(), other.shape());
        let wrong = || -> ShapeError {
            let (a, b) = (self.spec(), other.spec());
            format!("wants [.., m, k] and [.., k, n] of one type, got {a} and {b}").into()
        };
        let fail = |e| Tensor::prim_node(Prim::MatMul, &[self, other], Err(e));
        if a.len() < 2 || b.len() < 2 || self.dtype() != other.dtype() {
            return fail(wrong());
        }
        let ((la, ma), (lb, mb)) = (a.split_at(a.len() - 2), b.split_at(b.len() - 2));
        let number = self.dtype().is_float() || self.dtype() == DType::I32;
        let Some(lead) = broadcast_shapes(la, lb).filter(|_| ma[1] == mb[0] && number) else {
            return fail(wrong());
        };
        let full = |tail: &[usize]| [&lead[..], tail].concat();
        let (x, y) = (self.broadcast_to(&full(ma)), other.broadcast_to(&full(mb)));
        let spec = self.spec().with_shape(full(&[ma[0], mb[1]]));
        Tensor::prim_node(Prim::MatMul, &[&x, &y], Ok(spec))
    }

    /// Slices along `axis` chosen by integer `indices`, whose axes take its place.
    #[track_caller]
    pub fn gather(&self, axis: isize, indices: &Tensor) -> Tensor {
        let at = axis_of(axis, self.rank());
        let spec = at.clone().and_then(|a| {
            if !indices.dtype().is_integer() {
                return Err(format!("indices must be integers, got {}", indices.spec()).into());
            }
            let (head, tail) = (&self.shape()[..a], &self.shape()[a + 1..]);
            Ok(self.spec().with_shape([head, indices.shape(), tail].concat()))
        });
        Tensor::prim_node(Prim::Gather(at.unwrap_or(0)), &[self, indices], spec)
    }

    /// This tensor with `part` written over it along `axis` from `start` (an integer scalar, or
    /// one start for each row of axis 0).
    #[track_caller]
    pub fn update(&self, axis: isize, part: &Tensor, start: &Tensor) -> Tensor {
        let at = axis_of(axis, self.rank());
        let spec = at.clone().and_then(|a| {
            let fits = part.rank() == self.rank()
                && part.dtype() == self.dtype()
                && (0..self.rank()).all(|i| match i == a {
                    true => part.shape()[i] <= self.shape()[i],
                    false => part.shape()[i] == self.shape()[i],
                });
            if !fits {
                let (p, s) = (part.spec(), self.spec());
                return Err(format!("part {p} does not fit in {s} along axis {a}").into());
            }
            let per_row = a != 0 && start.shape() == [self.shape()[0]];
            if !start.dtype().is_integer() || !(start.rank() == 0 || per_row) {
                let got = start.spec();
                return Err(format!("start must be an integer scalar or [rows], got {got}").into());
            }
            Ok(self.spec().clone())
        });
        Tensor::prim_node(Prim::Update(at.unwrap_or(0)), &[self, part, start], spec)
    }
}

/// Shapes.
impl Tensor {
    /// The same elements in another shape.
    #[track_caller]
    pub fn reshape(&self, shape: &[usize]) -> Tensor {
        if self.shape() == shape || self.is_poisoned() {
            return self.clone();
        }
        let to = self.spec().with_shape(shape);
        let spec = match to.checked_numel() == self.spec().checked_numel() {
            true => Ok(to),
            false => Err(format!("{} has not the elements of {shape:?}", self.spec()).into()),
        };
        Tensor::prim_node(Prim::Reshape, &[self], spec)
    }

    /// Axis `i` of the result is axis `perm[i]` of this tensor.
    #[track_caller]
    pub fn transpose(&self, perm: &[usize]) -> Tensor {
        let mut sorted = perm.to_vec();
        sorted.sort_unstable();
        let spec = match sorted.iter().copied().eq(0..self.rank()) {
            true => Ok(self
                .spec()
                .with_shape(perm.iter().map(|&p| self.shape()[p]).collect::<Vec<_>>())),
            false => {
                Err(format!("{perm:?} is no permutation of the axes of {}", self.spec()).into())
            }
        };
        if spec.is_ok() && perm.is_sorted() {
            return self.clone();
        }
        Tensor::prim_node(Prim::Transpose(perm.to_vec()), &[self], spec)
    }

    /// Exchanges two axes.
    #[track_caller]
    pub fn swap_axes(&self, a: isize, b: isize) -> Tensor {
        match (axis_of(a, self.rank()), axis_of(b, self.rank())) {
            (Ok(a), Ok(b)) => {
                let mut perm: Vec<usize> = (0..self.rank()).collect();
                perm.swap(a, b);
                self.transpose(&perm)
            }
            (Err(e), _) | (_, Err(e)) if !self.is_poisoned() => Tensor::poison("transpose", e),
            _ => self.clone(),
        }
    }

    /// Broadcasts to `shape` by the rules of NumPy (new axes come in front).
    #[track_caller]
    pub fn broadcast_to(&self, shape: &[usize]) -> Tensor {
        if self.shape() == shape || self.is_poisoned() {
            return self.clone();
        }
        if broadcast_shapes(self.shape(), shape).as_deref() != Some(shape) {
            let e = format!("{} does not broadcast to {shape:?}", self.spec());
            return Tensor::prim_node(Prim::Broadcast, &[self], Err(e.into()));
        }
        let mut front = vec![1; shape.len() - self.rank()];
        front.extend_from_slice(self.shape());
        let x = self.reshape(&front);
        if x.shape() == shape {
            return x;
        }
        Tensor::prim_node(Prim::Broadcast, &[&x], Ok(self.spec().with_shape(shape)))
    }

    /// Puts an axis of extent 1 at `axis` of the result.
    #[track_caller]
    pub fn unsqueeze(&self, axis: isize) -> Tensor {
        match axis_of(axis, self.rank() + 1) {
            _ if self.is_poisoned() => self.clone(),
            Ok(a) => {
                let mut shape = self.shape().to_vec();
                shape.insert(a, 1);
                self.reshape(&shape)
            }
            Err(e) => Tensor::poison("unsqueeze", e),
        }
    }

    /// Takes away an axis of extent 1.
    #[track_caller]
    pub fn squeeze(&self, axis: isize) -> Tensor {
        match axis_of(axis, self.rank()) {
            _ if self.is_poisoned() => self.clone(),
            Ok(a) if self.shape()[a] == 1 => {
                let mut shape = self.shape().to_vec();
                shape.remove(a);
                self.reshape(&shape)
            }
            Ok(a) => Tensor::poison("squeeze", format!("axis {a} of {} is not 1", self.spec())),
            Err(e) => Tensor::poison("squeeze", e),
        }
    }

    /// The elements `range` along `axis`.
    #[track_caller]
    pub fn slice(&self, axis: isize, range: Range<usize>) -> Tensor {
        let count = range.end.saturating_sub(range.start);
        self.slice_step(axis, range.start, 1, count)
    }

    /// `count` elements along `axis` from `start`, `step` apart (negative: backwards).
    #[track_caller]
    pub fn slice_step(&self, axis: isize, start: usize, step: isize, count: usize) -> Tensor {
        let at = axis_of(axis, self.rank());
        let mut starts = vec![0; self.rank()];
        let mut steps = vec![1; self.rank()];
        let spec = at.and_then(|a| {
            let extent = self.shape()[a];
            let last = count
                .checked_sub(1)
                .and_then(|n| (n as isize).checked_mul(step)?.checked_add_unsigned(start));
            let inside = match last {
                None => count == 0 && start <= extent,
                Some(last) => start < extent && (0..extent as isize).contains(&last),
            };
            if !inside || step == 0 {
                let what = format!("{count} elements from {start} by {step}");
                return Err(format!("{what} do not exist on axis {a} of {}", self.spec()).into());
            }
            (starts[a], steps[a]) = (start, step);
            let mut spec = self.spec().clone();
            spec.shape[a] = count;
            Ok(spec)
        });
        if spec.as_ref().is_ok_and(|s| s == self.spec()) && step == 1 {
            return self.clone();
        }
        Tensor::prim_node(Prim::Slice { start: starts, step: steps }, &[self], spec)
    }

    /// The elements in reverse order along `axis`.
    #[track_caller]
    pub fn flip(&self, axis: isize) -> Tensor {
        match axis_of(axis, self.rank()) {
            Ok(a) if self.shape()[a] > 0 => {
                let n = self.shape()[a];
                self.slice_step(axis, n - 1, -1, n)
            }
            Err(e) if !self.is_poisoned() => Tensor::poison("slice", e),
            _ => self.clone(),
        }
    }

    /// Tensors one after the other along `axis`.
    #[track_caller]
    pub fn concat(parts: &[&Tensor], axis: isize) -> Tensor {
        let Some(first) = parts.first() else {
            return Tensor::poison("concat", "wants at least one tensor");
        };
        let at = axis_of(axis, first.rank());
        let spec = at.clone().and_then(|a| {
            let mut spec = first.spec().clone();
            spec.shape[a] = 0;
            for p in parts.iter().filter(|p| !p.is_poisoned()) {
                let fits = p.dtype() == first.dtype()
                    && p.rank() == first.rank()
                    && (0..p.rank()).all(|i| i == a || p.shape()[i] == first.shape()[i]);
                if !fits {
                    let (f, p) = (first.spec(), p.spec());
                    return Err(format!("{p} does not follow {f} along axis {a}").into());
                }
                spec.shape[a] = spec.shape[a].saturating_add(p.shape()[a]);
            }
            Ok(spec)
        });
        if parts.len() == 1 && spec.is_ok() {
            return parts[0].clone();
        }
        Tensor::prim_node(Prim::Concat(at.unwrap_or(0)), parts, spec)
    }

    /// `number` put before and after along `axis`.
    #[track_caller]
    pub fn pad(&self, axis: isize, before: usize, after: usize, number: f64) -> Tensor {
        if before == 0 && after == 0 {
            return self.clone();
        }
        let (mut low, mut high) = (vec![0; self.rank()], vec![0; self.rank()]);
        let spec = axis_of(axis, self.rank()).map(|a| {
            (low[a], high[a]) = (before, after);
            let mut spec = self.spec().clone();
            spec.shape[a] = spec.shape[a].saturating_add(before).saturating_add(after);
            spec
        });
        Tensor::prim_node(Prim::Pad { low, high, value: Real(number) }, &[self], spec)
    }
}
