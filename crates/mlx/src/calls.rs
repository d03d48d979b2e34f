//! MLX's operations as methods, with Frit's meaning of options.

use crate::{
    MlxError,
    ffi::{Array, Call, Session, code},
};
use frit_graph::{Binary, Compare, DType, Reduce, Spec, Unary, Value};

type Result<T = Array> = std::result::Result<T, MlxError>;

pub(crate) fn ints(from: &[usize]) -> Vec<i64> {
    from.iter().map(|&n| n as i64).collect()
}

fn place<T: PartialEq>(all: &[T], one: T) -> i64 {
    all.iter().position(|x| *x == one).map_or(-1, |p| p as i64)
}

impl Session {
    fn plain(&self, call: Call, operands: &[&Array], ints: &[i64]) -> Result {
        let operands: Vec<Option<&Array>> = operands.iter().map(|a| Some(*a)).collect();
        self.call(call, &operands, ints, &[], "")
    }

    pub(crate) fn cast(&self, x: &Array, to: DType) -> Result {
        if x.dtype() == to {
            return Ok(x.clone());
        }
        self.plain(Call::Cast, &[x], &[code(to)])
    }

    pub(crate) fn bitcast(&self, x: &Array, to: DType) -> Result {
        self.plain(Call::Bitcast, &[x], &[code(to)])
    }

    /// 0, 1, 2, ...
    pub(crate) fn count(&self, n: usize, dtype: DType) -> Result {
        self.plain(Call::Count, &[], &[n as i64, code(dtype)])
    }

    pub(crate) fn zeros(&self, spec: &Spec) -> Result {
        self.plain(Call::Zeros, &[], &[&[code(spec.dtype)][..], &ints(&spec.shape)].concat())
    }

    /// One number without axes.
    pub(crate) fn scalar(&self, dtype: DType, x: f64) -> Result {
        let failed =
            |e: frit_graph::Error| MlxError::Call { call: "scalar", message: e.to_string() };
        let value = Value::from_f64(Spec::new(dtype, []), &[x]).map_err(failed)?;
        self.array(&value)
    }

    pub(crate) fn contiguous(&self, x: &Array) -> Result {
        self.plain(Call::Contiguous, &[x], &[])
    }

    pub(crate) fn reshape(&self, x: &Array, shape: &[usize]) -> Result {
        self.plain(Call::Reshape, &[x], &ints(shape))
    }

    pub(crate) fn transpose(&self, x: &Array, perm: &[usize]) -> Result {
        self.plain(Call::Transpose, &[x], &ints(perm))
    }

    pub(crate) fn broadcast(&self, x: &Array, shape: &[usize]) -> Result {
        self.plain(Call::Broadcast, &[x], &ints(shape))
    }

    /// Every `step`-th element from `start`, as many as `shape` says.
    pub(crate) fn slice(
        &self,
        x: &Array,
        start: &[usize],
        step: &[isize],
        shape: &[usize],
    ) -> Result {
        let from = x.shape();
        // One step past the last element; before the first it is counted from the far end.
        let stop = |i: usize| {
            let last = start[i] as i64 + (shape[i] as i64 - 1) * step[i] as i64;
            match last + step[i].signum() as i64 {
                -1 => -(from[i] as i64) - 1,
                stop => stop,
            }
        };
        let stops: Vec<i64> = (0..from.len()).map(stop).collect();
        let steps: Vec<i64> = step.iter().map(|&s| s as i64).collect();
        self.plain(Call::Slice, &[x], &[&ints(start)[..], &stops, &steps].concat())
    }

    /// The first `n` along an axis.
    pub(crate) fn first(&self, x: &Array, axis: usize, n: usize) -> Result {
        let mut shape = x.shape();
        if shape[axis] == n {
            return Ok(x.clone());
        }
        shape[axis] = n;
        self.slice(x, &vec![0; shape.len()], &vec![1; shape.len()], &shape)
    }

    pub(crate) fn concat(&self, x: &[&Array], axis: usize) -> Result {
        self.plain(Call::Concat, x, &[axis as i64])
    }

    pub(crate) fn pad(&self, x: &Array, low: &[usize], high: &[usize], value: f64) -> Result {
        self.call(Call::Pad, &[Some(x)], &ints(&[low, high].concat()), &[value], "")
    }

    pub(crate) fn take(&self, x: &Array, indices: &Array, axis: usize) -> Result {
        self.plain(Call::Take, &[x, indices], &[axis as i64])
    }

    pub(crate) fn update(&self, x: &Array, part: &Array, start: &Array, axis: usize) -> Result {
        self.plain(Call::Update, &[x, part, start], &[axis as i64])
    }

    pub(crate) fn put_along(&self, x: &Array, at: &Array, part: &Array, axis: usize) -> Result {
        self.plain(Call::PutAlong, &[x, at, part], &[axis as i64])
    }

    pub(crate) fn unary(&self, f: Unary, x: &Array) -> Result {
        self.plain(Call::Unary, &[x], &[place(Unary::ALL, f)])
    }

    pub(crate) fn binary(&self, f: Binary, a: &Array, b: &Array) -> Result {
        self.plain(Call::Binary, &[a, b], &[place(Binary::ALL, f)])
    }

    pub(crate) fn mul(&self, a: &Array, b: &Array) -> Result {
        self.binary(Binary::Mul, a, b)
    }

    pub(crate) fn add(&self, a: &Array, b: &Array) -> Result {
        self.binary(Binary::Add, a, b)
    }

    pub(crate) fn scaled(&self, a: &Array, by: f64) -> Result {
        self.mul(a, &self.scalar(a.dtype(), by)?)
    }

    pub(crate) fn and(&self, a: &Array, b: &Array) -> Result {
        self.binary(Binary::And, a, b)
    }

    pub(crate) fn compare(&self, f: Compare, a: &Array, b: &Array) -> Result {
        self.plain(Call::Compare, &[a, b], &[place(Compare::ALL, f)])
    }

    pub(crate) fn select(&self, c: &Array, a: &Array, b: &Array) -> Result {
        self.plain(Call::Select, &[c, a, b], &[])
    }

    pub(crate) fn reduce(&self, f: Reduce, x: &Array, axes: &[usize]) -> Result {
        self.plain(Call::Reduce, &[x], &[&[place(Reduce::ALL, f)][..], &ints(axes)].concat())
    }

    pub(crate) fn argmax(&self, x: &Array, axis: usize) -> Result {
        self.plain(Call::ArgMax, &[x], &[axis as i64])
    }

    pub(crate) fn cumsum(&self, x: &Array, axis: usize) -> Result {
        self.plain(Call::CumSum, &[x], &[axis as i64])
    }

    /// The primitive: narrow floats in f32, integers too.
    pub(crate) fn matmul(&self, a: &Array, b: &Array) -> Result {
        self.plain(Call::MatMul, &[a, b], &[])
    }

    /// MLX's own product of floats, `c +` if given.
    pub(crate) fn product(&self, c: Option<&Array>, a: &Array, b: &Array) -> Result {
        match c {
            Some(c) => self.plain(Call::AddProduct, &[c, a, b], &[]),
            None => self.plain(Call::Product, &[a, b], &[]),
        }
    }

    /// Whether any is true, without axes.
    pub(crate) fn any(&self, x: &Array) -> Result {
        self.plain(Call::Any, &[x], &[])
    }

    /// Whether any is true along the last axis, which stays as 1.
    pub(crate) fn any_last(&self, x: &Array) -> Result {
        self.plain(Call::AnyAlong, &[x], &[-1])
    }

    pub(crate) fn softmax(&self, x: &Array, axis: usize) -> Result {
        self.plain(Call::Softmax, &[x], &[axis as i64])
    }
}
