//! Quantised weights in graphs of primitives: `(cast(W) - zero) * scale` before a product, as
//! exporters of weight-only quantisation write it.
//!
//! From the right operand of a product down, every step is a view, a cast, or a sum or product with
//! numbers that stay the same over whole groups along k ([`groups`]). What is under the steps must be
//! integers whose range is known ([`integers`]): they become the fields of affine groups, of 2, 4 or
//! 8 bits, and the steps their scales and biases. All of it weights alone decide, so a backend
//! computes it once.
//!
//! `scale q + bias` rounds where `(q - zero) scale` does not: a weight differs by up to half a last
//! bit of `scale zero`, which is 2^-17 of a step for the zero points that 8 bits can hold.

mod groups;
mod integers;

use super::{Activations, QuantizedMatmul, QuantizedMatmulInputs};
use crate::Encoding;
use frit_graph::{Binary, Block, DType, Prim, Rewrite, Rule, Site, Tensor, pattern::passes};
use groups::{run, sample};
use integers::{of_weights, range};

/// Elements that share a scale, as kernels take them.
const GROUPS: [usize; 3] = [128, 64, 32];
/// Steps between the product and the integers.
const STEPS: usize = 24;

pub(super) fn rules() -> Vec<Rule> {
    let apply = |site: Site<'_>| match product(site) {
        None => Rewrite::NoMatch,
        Some(Ok(new)) => Rewrite::of(site.node(), new),
        Some(Err(why)) => Rewrite::Refused(why),
    };
    vec![Rule::new(QuantizedMatmul::NAME, apply).at(["matmul"])]
}

/// The product with a packed weight that this node is, or why it must stay.
fn product(site: Site<'_>) -> Option<Result<Tensor, String>> {
    let root = site.node();
    let (x, right) = (root.input(0)?, root.input(1)?);
    if !matches!(root.dtype(), DType::F32 | DType::F16 | DType::BF16) {
        return None;
    }
    let weight = match Weight::under(right, root)? {
        Ok(weight) => weight,
        Err(why) => return Some(Err(why)),
    };
    if let Some(why) = site.leaks(&weight.inside) {
        return Some(Err(why));
    }
    Some(weight.packed().map(|(encoding, packed, scales, biases)| {
        let block =
            QuantizedMatmul { encoding, transposed: true, activations: Activations::Exact };
        let (scales, x) = (Some(scales), x.clone());
        Tensor::block(block, QuantizedMatmulInputs { x, packed, scales, biases })
    }))
}

/// A view that stands between a tensor and the weight `[n, k]`.
enum View {
    Reshape(Vec<usize>),
    Transpose(Vec<usize>),
}

/// A weight `[n, k]` as it was found.
struct Weight {
    /// From the product down.
    inside: Vec<Tensor>,
    /// From the outermost: what is done to the integers, with numbers of `[n, k]`.
    steps: Vec<(Binary, Tensor)>,
    integers: Tensor,
    range: (i64, i64),
    k: usize,
}

impl Weight {
    /// What is under the right operand of `root`, if it is a quantised weight; why it must stay if
    /// it looks like one.
    fn under(right: &Tensor, root: &Tensor) -> Option<Result<Weight, String>> {
        let (shape, mut t) = (right.shape(), right.clone());
        let &[k, n] = shape.last_chunk()?;
        let mut inside = vec![root.clone()];
        // What repeats it for a batch.
        while let (Some(Prim::Broadcast | Prim::Reshape), Some(x)) = (t.prim(), t.input(0).cloned())
            && x.shape().ends_with(&[k, n])
        {
            inside.push(t);
            t = x;
        }
        if t.spec().numel() != k * n || k * n == 0 {
            return None;
        }
        let mut views = vec![View::Transpose(vec![1, 0]), View::Reshape(vec![k, n])];
        let mut steps = Vec::new();
        let mut along_k = false;
        for _ in 0..STEPS {
            let next = match t.prim()? {
                Prim::Reshape => {
                    views.push(View::Reshape(t.shape().to_vec()));
                    t.input(0)?.clone()
                }
                Prim::Transpose(perm) => {
                    views.push(View::Transpose(perm.clone()));
                    t.input(0)?.clone()
                }
                Prim::Cast if keeps(&t, root.dtype()) => t.input(0)?.clone(),
                Prim::Binary(f @ (Binary::Add | Binary::Sub | Binary::Mul))
                    if computes(*f, t.dtype(), root.dtype()) =>
                {
                    let (a, b) = (t.input(0)?, t.input(1)?);
                    let (left, right) = (brought(a, &views), brought(b, &views));
                    let fits = |v: &Tensor| run(v, 1).is_multiple_of(32);
                    match (fits(&left), fits(&right)) {
                        (false, true) => {
                            steps.push((*f, right));
                            a.clone()
                        }
                        (true, false) if *f != Binary::Sub => {
                            steps.push((*f, left));
                            b.clone()
                        }
                        // Integers put together of integers are the core.
                        _ if !t.dtype().is_float() => break,
                        (false, false) => {
                            along_k = true;
                            if is_wide(a) { a.clone() } else { b.clone() }
                        }
                        _ => return None,
                    }
                }
                _ => break,
            };
            inside.push(t);
            t = next;
        }
        let scaled = along_k || steps.iter().any(|s| s.0 == Binary::Mul);
        if !t.dtype().is_integer() || !scaled {
            return None;
        }
        if along_k {
            let why = "a scale or zero point changes along k inside of 32 elements";
            return Some(Err(why.into()));
        }
        let range = match range(&t) {
            Some(range) => range,
            // Bytes of which others are made are packed already.
            None if !matches!(t.prim(), Some(p) if p.is_leaf()) => return None,
            None => {
                let why = format!("nobody knows the range of the weight, which is {}", t.spec());
                return Some(Err(why));
            }
        };
        let all = steps.iter().map(|s| &s.1).chain([&t]);
        if !all.into_iter().all(of_weights) {
            return Some(Err("the weight depends on an input of the call".into()));
        }
        let integers = brought(&t, &views);
        Some(Ok(Weight { inside, steps, integers, range, k }))
    }

    /// The encoding, and the words, scales and biases of it.
    fn packed(&self) -> Result<(Encoding, Tensor, Tensor, Option<Tensor>), String> {
        let k = self.k;
        let runs: Vec<usize> = self.steps.iter().map(|(_, v)| run(v, 1)).chain([k]).collect();
        let fits = |g: &&usize| runs.iter().all(|r| r.is_multiple_of(**g));
        let Some(&group_size) = GROUPS.iter().find(fits) else {
            return Err(format!("rows of {k} are no whole groups of 32"));
        };
        // Bytes count from 0, others from their smallest.
        let (least, most) = self.range;
        let least = if self.integers.dtype() == DType::U8 { 0 } else { least };
        let bits = match most.saturating_sub(least) {
            0..=3 => 2,
            4..=15 => 4,
            16..=255 => 8,
            _ => return Err(format!("the weight has numbers from {least} to {most}")),
        };
        let mut bytes = self.integers.clone();
        if least != 0 {
            bytes = bytes - least as f64;
        }
        let packed = words(&bytes.cast(DType::U8), bits);

        let groups = k / group_size;
        let shape = [self.integers.shape()[0], groups];
        let (mut scale, mut bias) = (None::<Tensor>, None::<Tensor>);
        if least != 0 {
            bias = Some(Tensor::scalar(DType::F32, least as f64));
        }
        for (f, v) in self.steps.iter().rev() {
            let v = sample(v, 1, group_size).cast(DType::F32);
            match f {
                Binary::Mul => {
                    bias = bias.map(|b| b * &v);
                    scale = Some(scale.map_or(v.clone(), |s| s * &v));
                }
                Binary::Sub => bias = Some(bias.map_or(-&v, |b| b - &v)),
                _ => bias = Some(bias.map_or(v.clone(), |b| b + &v)),
            }
        }
        let scale = scale.unwrap_or_else(|| Tensor::scalar(DType::F32, 1.0));
        let (scale, bias) = (scale.broadcast_to(&shape), bias.map(|b| b.broadcast_to(&shape)));
        Ok((Encoding::Affine { bits, group_size }, packed, scale, bias))
    }
}

/// Whether a cast changes nothing that a product of type `root` sees.
fn keeps(cast: &Tensor, root: DType) -> bool {
    let Some(from) = cast.input(0).map(Tensor::dtype) else { return false };
    match (from.is_float(), cast.dtype().is_float()) {
        (true, true) => passes(cast, root),
        (false, true) => from != DType::Bool,
        // Wider integers.
        (false, false) => from.size() < cast.dtype().size() && from.is_integer(),
        (true, false) => false,
    }
}

/// Whether a function of this type is as exact as a product of type `root`, and does not wrap.
fn computes(f: Binary, d: DType, root: DType) -> bool {
    let wide = matches!(d, DType::I32 | DType::I64) && f != Binary::Mul;
    d == root || wide || matches!(d, DType::F32 | DType::F64)
}

/// Whether it comes of integers of its own size, casts and views aside.
fn is_wide(t: &Tensor) -> bool {
    let mut x = t;
    for _ in 0..STEPS {
        let Some(next) = x.input(0) else { break };
        if next.spec().numel() != t.spec().numel() {
            return false;
        }
        x = next;
    }
    x.dtype().is_integer()
}

/// A tensor on the way as it stands in the weight `[n, k]`.
fn brought(t: &Tensor, views: &[View]) -> Tensor {
    views.iter().rev().fold(t.clone(), |t, view| match view {
        View::Reshape(shape) if t.shape() == shape => t,
        View::Reshape(shape) => t.reshape(shape),
        View::Transpose(perm) => t.transpose(perm),
    })
}

/// Numbers of `bits` bits, one a byte, `[n, k]`, as u32 words from the low bits on.
fn words(bytes: &Tensor, bits: usize) -> Tensor {
    let (n, k, parts) = (bytes.shape()[0], bytes.shape()[1], 8 / bits);
    if parts == 1 {
        return bytes.bitcast(DType::U32);
    }
    let fields = bytes.reshape(&[n, k / parts, parts]);
    let part = |i: usize| fields.slice(-1, i..i + 1) * f64::from(1u32 << (bits * i));
    let all = (1..parts).fold(part(0), |sum, i| sum + part(i));
    all.reshape(&[n, k / parts]).bitcast(DType::U32)
}
