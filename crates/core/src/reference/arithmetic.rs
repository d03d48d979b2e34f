//! Primitives that compute: floats in f64, integers in i64 (wrapping to their width at the end).

use super::special::erf;
use crate::{Binary, Compare, DType, Error, Prim, Reduce, Spec, Unary, Value, row_major};

/// Numbers in the width they are computed in.
enum Wide {
    F(Vec<f64>),
    I(Vec<i64>),
}

fn widen(v: &Value) -> Wide {
    if v.dtype().is_float() { Wide::F(v.to_f64()) } else { Wide::I(v.to_i64()) }
}

fn narrow(spec: &Spec, wide: Wide) -> Result<Value, Error> {
    let shape = spec.shape.clone();
    match (wide, spec.dtype) {
        (Wide::F(x), _) => Value::from_f64(spec.clone(), &x),
        (Wide::I(x), DType::I64) => Value::new(shape, x),
        (Wide::I(x), DType::I32) => Value::new(shape, x.iter().map(|&x| x as i32).collect()),
        (Wide::I(x), DType::U32) => Value::new(shape, x.iter().map(|&x| x as u32).collect()),
        (Wide::I(x), DType::U8) => Value::new(shape, x.iter().map(|&x| x as u8).collect()),
        (Wide::I(x), DType::Bool) => {
            Value::bools(shape, &x.iter().map(|&x| x != 0).collect::<Vec<_>>())
        }
        (Wide::I(x), _) => {
            Value::from_f64(spec.clone(), &x.iter().map(|&x| x as f64).collect::<Vec<_>>())
        }
    }
}

pub(super) fn eval(prim: &Prim, out: &Spec, x: &[&Value]) -> Result<Value, Error> {
    let result = match prim {
        Prim::Unary(f) => match widen(x[0]) {
            Wide::F(x) => Wide::F(x.into_iter().map(|x| unary(*f, x)).collect()),
            Wide::I(x) => Wide::I(x.into_iter().map(|x| unary_integer(*f, x)).collect()),
        },
        Prim::Binary(f) => match (widen(x[0]), widen(x[1])) {
            (Wide::F(a), Wide::F(b)) => Wide::F(zip(&a, &b, |a, b| binary(*f, a, b))),
            (Wide::I(a), Wide::I(b)) => Wide::I(zip(&a, &b, |a, b| binary_integer(*f, a, b))),
            _ => return Err(Error::Run("operands of two kinds".into())),
        },
        Prim::Compare(f) => match (widen(x[0]), widen(x[1])) {
            (Wide::F(a), Wide::F(b)) => Wide::I(zip(&a, &b, |a, b| compare(*f, a, b) as i64)),
            (Wide::I(a), Wide::I(b)) => Wide::I(zip(&a, &b, |a, b| compare(*f, a, b) as i64)),
            _ => return Err(Error::Run("operands of two kinds".into())),
        },
        Prim::Select => {
            let size = out.dtype.size();
            let (a, b) = (x[1].bytes().chunks_exact(size), x[2].bytes().chunks_exact(size));
            let chosen = x[0].bytes().iter().zip(a.zip(b));
            let bytes = chosen.flat_map(|(&c, (a, b))| if c != 0 { a } else { b }.to_vec());
            return Value::from_bytes(out.clone(), &bytes.collect::<Vec<u8>>());
        }
        // A float becomes an integer by truncation that saturates at the type's ends.
        Prim::Cast => match (widen(x[0]), out.dtype) {
            (Wide::F(x), DType::I64) => Wide::I(x.into_iter().map(|x| x as i64).collect()),
            (wide, _) => wide,
        },
        Prim::Reduce(f, axes) => reduce(*f, axes, out, x[0]),
        Prim::ArgMax(axis) => {
            let x = (x[0].shape(), x[0].to_f64());
            let best = |lane: &mut dyn Iterator<Item = f64>| {
                let mut best = (0, f64::NAN);
                for (i, v) in lane.enumerate() {
                    if i == 0 || v > best.1 || (v.is_nan() && !best.1.is_nan()) {
                        best = (i, v);
                    }
                }
                best.0 as i64
            };
            Wide::I(lanes(x.0, *axis).map(|l| best(&mut l.map(|i| x.1[i]))).collect())
        }
        Prim::CumSum(axis) => {
            let shape = x[0].shape();
            match widen(x[0]) {
                Wide::F(mut x) => {
                    lanes(shape, *axis).for_each(|l| {
                        let mut sum = 0.0;
                        l.for_each(|i| (sum, x[i]) = (sum + x[i], sum + x[i]));
                    });
                    Wide::F(x)
                }
                Wide::I(mut x) => {
                    lanes(shape, *axis).for_each(|l| {
                        let mut sum = 0i64;
                        l.for_each(|i| {
                            sum = sum.wrapping_add(x[i]);
                            x[i] = sum;
                        });
                    });
                    Wide::I(x)
                }
            }
        }
        Prim::MatMul => matmul(out, x[0], x[1]),
        _ => return Err(Error::Run(format!("{prim} is no arithmetic"))),
    };
    narrow(out, result)
}

fn zip<T: Copy, R>(a: &[T], b: &[T], f: impl Fn(T, T) -> R) -> Vec<R> {
    a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect()
}

/// The positions of each line of elements along `axis`, lines in row-major order.
fn lanes(shape: &[usize], axis: usize) -> impl Iterator<Item = impl Iterator<Item = usize>> {
    let (stride, extent) = (row_major(shape)[axis], shape[axis]);
    let lines = shape.iter().product::<usize>().checked_div(extent).unwrap_or(0);
    (0..lines).map(move |l| {
        let first = (l / stride) * stride * extent + l % stride;
        (0..extent).map(move |i| first + i * stride)
    })
}

fn unary(f: Unary, x: f64) -> f64 {
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
        Unary::Not => (x == 0.0) as u8 as f64,
    }
}

fn unary_integer(f: Unary, x: i64) -> i64 {
    match f {
        Unary::Neg => x.wrapping_neg(),
        Unary::Abs => x.wrapping_abs(),
        Unary::Not => (x == 0) as i64,
        _ => x,
    }
}

fn binary(f: Binary, a: f64, b: f64) -> f64 {
    let nan = a.is_nan() || b.is_nan();
    match f {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Rem => a % b,
        Binary::Pow => a.powf(b),
        Binary::Max => {
            if nan {
                f64::NAN
            } else {
                a.max(b)
            }
        }
        Binary::Min => {
            if nan {
                f64::NAN
            } else {
                a.min(b)
            }
        }
        Binary::And => (a != 0.0 && b != 0.0) as u8 as f64,
        Binary::Or => (a != 0.0 || b != 0.0) as u8 as f64,
    }
}

fn binary_integer(f: Binary, a: i64, b: i64) -> i64 {
    match f {
        Binary::Add => a.wrapping_add(b),
        Binary::Sub => a.wrapping_sub(b),
        Binary::Mul => a.wrapping_mul(b),
        Binary::Div => {
            if b == 0 {
                0
            } else {
                a.wrapping_div(b)
            }
        }
        Binary::Rem => {
            if b == 0 {
                0
            } else {
                a.wrapping_rem(b)
            }
        }
        Binary::Pow => match u32::try_from(b) {
            Ok(b) => a.wrapping_pow(b),
            Err(_) => (a as f64).powf(b as f64) as i64,
        },
        Binary::Max => a.max(b),
        Binary::Min => a.min(b),
        Binary::And => (a != 0 && b != 0) as i64,
        Binary::Or => (a != 0 || b != 0) as i64,
    }
}

fn compare<T: PartialOrd>(f: Compare, a: T, b: T) -> bool {
    match f {
        Compare::Eq => a == b,
        Compare::Ne => a != b,
        Compare::Lt => a < b,
        Compare::Le => a <= b,
        Compare::Gt => a > b,
        Compare::Ge => a >= b,
    }
}

fn reduce(f: Reduce, axes: &[usize], out: &Spec, x: &Value) -> Wide {
    let (shape, from, to) = (x.shape(), row_major(x.shape()), row_major(&out.shape));
    let kept: Vec<usize> = (0..shape.len()).filter(|a| !axes.contains(a)).collect();
    let place =
        |i: usize| kept.iter().map(|&a| (i / from[a]) % shape[a].max(1) * to[a]).sum::<usize>();
    let b = match f {
        Reduce::Sum => Binary::Add,
        Reduce::Prod => Binary::Mul,
        Reduce::Max => Binary::Max,
        Reduce::Min => Binary::Min,
    };
    match widen(x) {
        Wide::F(x) => {
            let start = match f {
                Reduce::Sum => 0.0,
                Reduce::Prod => 1.0,
                Reduce::Max => f64::NEG_INFINITY,
                Reduce::Min => f64::INFINITY,
            };
            let mut r = vec![start; out.numel()];
            x.iter().enumerate().for_each(|(i, &v)| r[place(i)] = binary(b, r[place(i)], v));
            Wide::F(r)
        }
        Wide::I(x) => {
            let (low, high) = match out.dtype {
                DType::I32 => (i32::MIN as i64, i32::MAX as i64),
                DType::U32 => (0, u32::MAX as i64),
                DType::U8 => (0, u8::MAX as i64),
                _ => (i64::MIN, i64::MAX),
            };
            let start = match f {
                Reduce::Sum => 0,
                Reduce::Prod => 1,
                Reduce::Max => low,
                Reduce::Min => high,
            };
            let mut r = vec![start; out.numel()];
            x.iter()
                .enumerate()
                .for_each(|(i, &v)| r[place(i)] = binary_integer(b, r[place(i)], v));
            Wide::I(r)
        }
    }
}

fn matmul(out: &Spec, a: &Value, b: &Value) -> Wide {
    let (m, k) = (a.shape()[a.shape().len() - 2], a.shape()[a.shape().len() - 1]);
    let n = b.shape()[b.shape().len() - 1];
    let cell = |i: usize| (i / (m * n).max(1), (i / n.max(1)) % m.max(1), i % n.max(1));
    match (widen(a), widen(b)) {
        (Wide::I(a), Wide::I(b)) => Wide::I(
            (0..out.numel())
                .map(|i| {
                    let (z, r, c) = cell(i);
                    let at = |l: usize| a[(z * m + r) * k + l].wrapping_mul(b[(z * k + l) * n + c]);
                    (0..k).fold(0i64, |s, l| s.wrapping_add(at(l)))
                })
                .collect(),
        ),
        (a, b) => {
            let (a, b) = (floats(a), floats(b));
            Wide::F(
                (0..out.numel())
                    .map(|i| {
                        let (z, r, c) = cell(i);
                        (0..k).map(|l| a[(z * m + r) * k + l] * b[(z * k + l) * n + c]).sum()
                    })
                    .collect(),
            )
        }
    }
}

fn floats(x: Wide) -> Vec<f64> {
    match x {
        Wide::F(x) => x,
        Wide::I(x) => x.into_iter().map(|x| x as f64).collect(),
    }
}
