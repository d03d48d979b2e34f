//! Affine layers in graphs of primitives: a product with a transposed weight, a bias and an
//! activation, any of them with views and casts between.
//!
//! The weight must be a leaf: what is computed is no weight to be packed, and a quantised weight
//! (a cast and a product before the transpose) is another operation. One that stands as `[k, n]`
//! is transposed, which a backend does once, as with everything that weights alone decide; a
//! matrix that is an input would be transposed at every call, and stays.

use super::{Activation, Linear, LinearInputs};
use crate::GeluForm;
use frit_graph::{
    Binary, Block, DType, Prim, Rewrite, Rule, Site, Tensor, Unary,
    pattern::{Pattern, any, before_widening, binary, one_of, passes, sigmoid, unary, vector},
};

/// How activations of `x` are spelled.
pub(crate) fn activations() -> Vec<(Activation, Pattern)> {
    let x = any("x");
    let mut activations: Vec<(Activation, Pattern)> = GeluForm::spellings(&x)
        .into_iter()
        .map(|(form, _, p)| (Activation::Gelu(form), p))
        .collect();
    activations.push((Activation::Silu, &x * sigmoid(&x)));
    activations.push((Activation::Relu, binary(Binary::Max, &x, 0.0)));
    activations.push((Activation::Tanh, unary(Unary::Tanh, &x)));
    let (shifted, max, min) = (&x + 3.0, Binary::Max, Binary::Min);
    let gate = one_of([
        binary(min, binary(max, &shifted, 0.0), 6.0),
        binary(max, binary(min, &shifted, 6.0), 0.0),
    ]);
    let sixth = binary(max, 0.0, binary(min, 1.0, &x * (1.0 / 6.0) + 0.5));
    activations.push((Activation::HardSwish, &x * gate / 6.0));
    activations.push((Activation::HardSwish, &x * sixth));
    activations
}

pub(super) fn rules() -> Vec<Rule> {
    let activations = activations();
    let is_product = |t: &Tensor| under_views(t).prim() == Some(&Prim::MatMul);
    let biased = any("x").when("it is no product", is_product) + vector("bias");
    let apply = move |site: Site<'_>| match layer(site, &activations, &biased) {
        None => Rewrite::NoMatch,
        Some(Ok(new)) => Rewrite::of(site.node(), new),
        // Views of a layer: the layer itself tells why.
        Some(Err(_)) if is_view(site.node()) => Rewrite::NoMatch,
        Some(Err(why)) => Rewrite::Refused(why),
    };
    let roots = ["matmul", "add", "mul", "div", "max", "tanh", "reshape", "cast"];
    vec![Rule::new(Linear::NAME, apply).at(roots)]
}

fn is_view(t: &Tensor) -> bool {
    matches!(t.prim(), Some(Prim::Cast | Prim::Reshape))
}

fn under_views(t: &Tensor) -> &Tensor {
    let mut t = t;
    while let Some(x) = t.input(0).filter(|_| is_view(t)) {
        t = x;
    }
    t
}

/// Views of `t` that keep its last axis and what the root keeps, into `inside`, and what is under
/// them.
fn rows(t: &Tensor, root: DType, inside: &mut Vec<Tensor>) -> Tensor {
    let mut t = t.clone();
    while let Some(x) = t.input(0).cloned().filter(|x| {
        is_view(&t) && (x.dtype() == t.dtype() || passes(&t, root)) && x.spec().last() == t.spec().last()
    }) {
        inside.push(t);
        t = x;
    }
    t
}

/// The layer that ends in the node of the site, if one does, or why it must stay.
fn layer(
    site: Site<'_>,
    activations: &[(Activation, Pattern)],
    biased: &Pattern,
) -> Option<Result<Tensor, String>> {
    let root = site.node();
    if !root.dtype().is_float() {
        return None;
    }
    let mut inside = vec![root.clone()];
    let mut t = rows(root, root.dtype(), &mut inside);
    let mut activation = Activation::Identity;
    let found = activations.iter().find_map(|(a, p)| Some((*a, p.find(&t)?)));
    if let Some((a, m)) = found {
        let x = m.tensor("x")?.clone();
        inside.extend_from_slice(m.interior());
        inside.extend(widened(&x, m.interior()));
        (activation, t) = (a, rows(&x, root.dtype(), &mut inside));
    }
    let mut bias = None;
    if let Some(m) = biased.find(&t) {
        let x = m.tensor("x")?.clone();
        bias = m.vector("bias").map(|b| before_widening(&b).clone());
        inside.extend_from_slice(m.interior());
        inside.extend(widened(&x, m.interior()));
        t = rows(&x, root.dtype(), &mut inside);
    }
    let (Some(Prim::MatMul), Some(x), Some(right)) = (t.prim(), t.input(0), t.input(1)) else {
        return None;
    };
    inside.push(t.clone());
    let weight = weight(right)?;
    if let Some(why) = site.leaks(&inside) {
        return Some(Err(why));
    }
    // Rows of the operand before views that keep them.
    let mut x = x.clone();
    while let Some(y) = x.input(0).cloned().filter(|y| {
        let rows = x.prim() == Some(&Prim::Reshape) && y.spec().last() == x.spec().last();
        rows || !before_widening(&x).is(&x)
    }) {
        x = y;
    }
    let (from, to) = (x.dtype(), root.dtype());
    if from != to {
        // A root of another type is a cast that is no part of the layer.
        if is_view(root) || before_widening(&x.cast(to)).dtype() != from {
            return None;
        }
        x = x.cast(to);
    }
    let inputs = LinearInputs { x, weight, bias };
    Some(Ok(Tensor::block(Linear { activation }, inputs).reshape(root.shape())))
}

/// Casts that stand between what was captured and the formula.
pub(crate) fn widened(x: &Tensor, interior: &[Tensor]) -> Vec<Tensor> {
    let operands = interior.iter().flat_map(|t| t.inputs().iter().flatten());
    operands.filter(|t| !t.is(x) && before_widening(t).is(x)).cloned().collect()
}

/// The weight `[n, k]` of a right operand that is its transpose, seen through repetition for a
/// batch.
fn weight(right: &Tensor) -> Option<Tensor> {
    let shape = right.shape();
    let matrix = &shape[shape.len() - 2..];
    let mut t = right;
    loop {
        let x = t.input(0);
        match t.prim()? {
            Prim::Broadcast | Prim::Reshape if x?.shape().ends_with(matrix) => t = x?,
            Prim::Cast if !before_widening(t).is(t) => t = x?,
            Prim::Transpose(perm) if perm[..] == [1, 0] => {
                let w = before_widening(x?);
                return leaf(w).then(|| w.clone());
            }
            Prim::Param(_) | Prim::Constant(_) if t.rank() == 2 => {
                return Some(t.transpose(&[1, 0]));
            }
            _ => return None,
        }
    }
}

fn leaf(t: &Tensor) -> bool {
    t.rank() == 2 && t.prim().is_some_and(Prim::is_leaf)
}
