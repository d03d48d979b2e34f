//! Queries, keys and values before what others do to them on the way into a product.

use super::masks::Shape;
use frit_graph::{
    Binary, Prim, Tensor,
    pattern::{before_widening, number_of},
};

/// The tensor before widening casts and scales, which may stand between views, and the scale.
/// Where keys that do not exist are set to zero, the condition goes to `zeroed`.
pub(super) fn bare(t: &Tensor, zeroed: &mut Vec<Tensor>) -> (Tensor, f64) {
    let unchanged = (t.clone(), 1.0);
    let (Some(prim), Some(x)) = (t.prim(), t.input(0)) else { return unchanged };
    match prim {
        Prim::Cast if !before_widening(t).is(t) => bare(x, zeroed),
        Prim::Binary(b @ (Binary::Mul | Binary::Div)) => {
            let Some(y) = t.input(1) else { return unchanged };
            let (x, by) = match (number_of(x), number_of(y), b) {
                (_, Some(n), Binary::Div) if n != 0.0 => (x, 1.0 / n),
                (_, Some(n), Binary::Mul) => (x, n),
                (Some(n), _, Binary::Mul) => (y, n),
                _ => return unchanged,
            };
            let (x, more) = bare(x, zeroed);
            (x, by * more)
        }
        Prim::Select if t.input(2).and_then(number_of) == Some(0.0) => {
            let Some(y) = t.input(1) else { return unchanged };
            zeroed.push(x.clone());
            bare(y, zeroed)
        }
        Prim::Transpose(_) | Prim::Reshape | Prim::Broadcast => {
            let (y, by) = bare(x, zeroed);
            if y.is(x) {
                return (t.clone(), by);
            }
            let y = match prim {
                Prim::Transpose(perm) => y.transpose(perm),
                Prim::Reshape => y.reshape(t.shape()),
                _ => y.broadcast_to(t.shape()),
            };
            (y, by)
        }
        _ => unchanged,
    }
}

/// The tensor with its last two axes exchanged, without a transpose where it is one already.
pub(super) fn transposed(t: &Tensor) -> Tensor {
    let n = t.rank();
    let swapped = |shape: &[usize]| {
        let mut shape = shape.to_vec();
        shape.swap(n - 1, n - 2);
        shape
    };
    match (t.prim(), t.input(0)) {
        (Some(Prim::Transpose(perm)), Some(x)) => {
            let mut perm = perm.clone();
            perm.swap(n - 1, n - 2);
            x.transpose(&perm)
        }
        (Some(Prim::Broadcast), Some(x)) => transposed(x).broadcast_to(&swapped(t.shape())),
        (Some(Prim::Cast), Some(x)) => transposed(x).cast(t.dtype()),
        (Some(Prim::Reshape), Some(x))
            if x.rank() >= 2 && x.shape()[x.rank() - 2..] == t.shape()[n - 2..] =>
        {
            transposed(x).reshape(&swapped(t.shape()))
        }
        (Some(Prim::Binary(b @ (Binary::Mul | Binary::Div))), Some(x))
            if t.input(1).and_then(number_of).is_some() =>
        {
            let number = t.input(1).and_then(number_of).unwrap_or(1.0);
            transposed(x).binary(&Tensor::scalar(t.dtype(), number), *b)
        }
        _ => t.swap_axes(-1, -2),
    }
}

/// Keys or values `[.., S, D]` as `[B, K, S, D]`, before they are repeated for every query head.
pub(super) fn repeated(t: &Tensor, shape: &Shape, s: usize) -> Tensor {
    let (b, h, d) = (shape.b, shape.h, t.shape()[t.rank() - 1]);
    let mut x = t;
    while let (Some(Prim::Reshape), Some(inner)) = (x.prim(), x.input(0)) {
        x = inner;
    }
    if let (Some(Prim::Broadcast), Some(inner)) = (x.prim(), x.input(0)) {
        match (inner.shape(), x.shape()) {
            // transformers: unsqueeze, expand, reshape.
            ([b1, k, 1, s1, d1], [b2, k2, g, ..])
                if (b1, s1, d1) == (&b, &s, &d) && (b2, k2) == (&b, k) && k * g == h =>
            {
                return inner.reshape(&[b, *k, s, d]);
            }
            // One head for all.
            ([b1, 1, s1, d1], [_, h2, ..]) if (b1, s1, d1, h2) == (&b, &s, &d, &h) => {
                return inner.clone();
            }
            _ => {}
        }
    }
    t.reshape(&[b, h, s, d])
}
