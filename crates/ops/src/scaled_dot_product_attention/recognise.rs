//! Attention in graphs of primitives: a softmax of scores between two products of matrices.
//!
//! It is no single formula: scales stand on queries, keys or scores, masks are added or chosen, in
//! any number, heads are grouped by repeating keys, and views of three, four and five axes come
//! and go. So the weights are found by formulas and the rest is followed from there:
//!
//! 1. the product `weights v`, under casts and reshapes, and the softmax that makes the weights,
//!    which may be set to zero where a mask leaves no key;
//! 2. from the softmax through masks, softcap and scales to the product `q k^T`;
//! 3. what masks say of rows and columns (`bounds.rs`), the rest stays a mask;
//! 4. q, k and v before casts, scales and the repetition of heads.
//!
//! Where a row keeps no key, plain arithmetic under minus infinity gives NaN and the Block zeros;
//! a length is taken to count the rows themselves. Everything else is the same.

use super::{
    AttentionInputs, ScaledDotProductAttention,
    bounds::{Length, length_along},
    masks::{Masks, Shape},
    operands::{bare, repeated, transposed},
};
use crate::Softmax;
use frit_graph::{
    Binary, Block, Compare, DType, Prim, Reduce, Rewrite, Rule, Site, Tensor, Unary,
    pattern::{
        Axis, Pattern, any, before_widening, binary, compare, near, number_of, one_of, passes,
        reduce, same_value, select,
    },
};

/// A number at most this is as good as minus infinity under a softmax.
pub(super) const LOW: f64 = -1e4;

pub(super) enum Stop {
    /// It is no attention.
    No,
    /// It is, but must stay.
    Refused(String),
}

pub(super) type Step<T> = Result<T, Stop>;

fn refused<T>(why: impl Into<String>) -> Step<T> {
    Err(Stop::Refused(why.into()))
}

pub(super) fn rules() -> Vec<Rule> {
    let weights = weights_patterns();
    let apply = move |site: Site<'_>| {
        let root = site.node();
        match recognise(site, &weights) {
            Ok(new) => Rewrite::of(root, new),
            // A cast or a reshape of an attention: the product itself tells why.
            Err(Stop::Refused(why)) if matches!(root.prim(), Some(Prim::MatMul)) => {
                Rewrite::Refused(why)
            }
            Err(_) => Rewrite::NoMatch,
        }
    };
    vec![Rule::new(ScaledDotProductAttention::NAME, apply).at(["matmul", "cast", "reshape"])]
}

/// The weights of `scores`: a softmax, guarded against rows without keys or not, with sinks or not.
fn weights_patterns() -> Vec<Pattern> {
    let (scores, sinks) = (any("scores"), any("sinks"));
    let low = || near(f64::NEG_INFINITY);
    let top = reduce(Reduce::Max, &scores, Axis::Last);
    let guarded = |t: &Pattern| {
        one_of([select(compare(Compare::Gt, t, low()), t, 0.0), t.clone()])
    };
    let safe = |t: &Pattern| one_of([select(compare(Compare::Gt, t, 0.0), t, 1.0), t.clone()]);
    let of = |e: Pattern, more: Option<Pattern>| {
        let sum = reduce(Reduce::Sum, &e, Axis::Last);
        let sum = more.map_or(sum.clone(), |m| sum + m);
        e / safe(&sum)
    };
    let plain = guarded(&top);
    let sunk = guarded(&binary(Binary::Max, &top, &sinks));
    vec![
        of((&scores - &plain).exp(), None),
        of((&scores - &sunk).exp(), Some((&sinks - &sunk).exp())),
        of(scores.exp(), None),
    ]
}

struct Weights {
    scores: Tensor,
    sinks: Option<Tensor>,
    /// The mask whose rows of nothing but minus infinity have weights of zero.
    guard: Option<Tensor>,
}

/// What a tensor repeats over leading axes.
fn unrepeated(t: &Tensor) -> &Tensor {
    let mut t = t;
    while let Some(x) = t.input(0) {
        let leading = t.rank().saturating_sub(x.rank());
        let aligned = match t.prim() {
            Some(Prim::Broadcast) => true,
            Some(Prim::Reshape) => {
                t.shape().ends_with(x.shape()) && t.shape()[..leading].iter().all(|&d| d == 1)
            }
            _ => false,
        };
        if !aligned {
            break;
        }
        t = x;
    }
    t
}

/// The mask that a condition says to be minus infinity all along a row, as ONNX's own expansion of
/// attention has it.
fn empty_rows(condition: &Tensor) -> Option<Tensor> {
    let c = unrepeated(condition);
    let Some(Prim::Compare(Compare::Eq)) = c.prim() else { return None };
    let (x, y) = (c.input(0)?, c.input(1)?);
    let top = match (number_of(x), number_of(y)) {
        (_, Some(f64::NEG_INFINITY)) => x,
        (Some(f64::NEG_INFINITY), _) => y,
        _ => return None,
    };
    let top = unrepeated(top);
    let mask = top.input(0)?;
    let along = matches!(top.prim()?, Prim::Reduce(Reduce::Max, axes) if axes[..] == [mask.rank() - 1]);
    along.then(|| unrepeated(mask).clone())
}

/// Whether a reshape leaves the last two axes alone.
fn keeps_matrix(t: &Tensor, x: &Tensor) -> bool {
    let tail = |t: &Tensor| t.shape().get(t.rank().wrapping_sub(2)..).map(<[usize]>::to_vec);
    tail(t).is_some() && tail(t) == tail(x)
}

fn softmax_of(
    p: &Tensor,
    root: DType,
    patterns: &[Pattern],
    inside: &mut Vec<Tensor>,
) -> Option<Weights> {
    let mut t = p;
    while let (Some(Prim::Cast | Prim::Reshape), Some(x)) = (t.prim(), t.input(0)) {
        if !keeps_matrix(t, x) || !(x.dtype() == t.dtype() || passes(t, root)) {
            return None;
        }
        inside.push(t.clone());
        t = x;
    }
    if let (Some(Prim::Select), [Some(condition), Some(zero), Some(rest)]) = (t.prim(), t.inputs())
        && number_of(zero) == Some(0.0)
        && let Some(mask) = empty_rows(condition)
    {
        inside.push(t.clone());
        let w = softmax_of(rest, root, patterns, inside).filter(|w| w.guard.is_none())?;
        // A mask that is one finite number has no such rows.
        let guard = (!number_of(&mask).is_some_and(f64::is_finite)).then_some(mask);
        return Some(Weights { guard, ..w });
    }
    if let Some(s) = t.block::<Softmax>() {
        inside.push(t.clone());
        let last = s.axis_of(t.rank())? + 1 == t.rank();
        let scores = t.input(0).filter(|_| last)?.clone();
        return Some(Weights { scores, sinks: None, guard: None });
    }
    if let (Some(Prim::Slice { start, step }), Some(x)) = (t.prim(), t.input(0)) {
        // gpt-oss in transformers: the sinks are one more column, which is cut off afterwards.
        inside.push(t.clone());
        let first = start.iter().all(|&s| s == 0) && step.iter().all(|&s| s == 1);
        let w = softmax_of(x, root, patterns, inside).filter(|w| first && w.sinks.is_none())?;
        let mut c = &w.scores;
        if let (Some(Prim::Binary(Binary::Sub)), Some(a), Some(b)) =
            (c.prim(), c.input(0), c.input(1))
            && let Some(m) = reduce(Reduce::Max, any("x"), Axis::Last).find(b)
            && m.tensor("x").is_some_and(|x| same_value(x, before_widening(a)))
        {
            // A softmax does not change when all its scores do.
            inside.push(c.clone());
            inside.extend_from_slice(m.interior());
            c = a;
        }
        let (Some(Prim::Concat(axis)), [Some(s), Some(z)]) = (c.prim(), c.inputs()) else {
            return None;
        };
        inside.push(c.clone());
        let fits = *axis + 1 == c.rank() && s.spec().last() == t.spec().last();
        return (fits && z.spec().last() == Some(1))
            .then(|| Weights { scores: s.clone(), sinks: Some(z.clone()), guard: None });
    }
    let found = patterns.iter().find_map(|p| p.find(t))?;
    inside.extend_from_slice(found.interior());
    let (scores, sinks) = (found.tensor("scores")?.clone(), found.tensor("sinks").cloned());
    // The casts that the scores were captured before.
    let operands = found.interior().iter().flat_map(|t| t.inputs().iter().flatten());
    let mut casts: Vec<Tensor> =
        operands.filter(|t| !t.is(&scores) && before_widening(t).is(&scores)).cloned().collect();
    while let Some(c) = casts.pop().filter(|c| !c.is(&scores)) {
        casts.extend(c.input(0).cloned());
        inside.push(c);
    }
    Some(Weights { scores, sinks, guard: None })
}

/// Scores on the way from the softmax to the product.
pub(super) struct Scores {
    /// What is chosen by: the condition, whether it is negated, and what stands where it fails.
    pub(super) keeps: Vec<(Tensor, bool, f64)>,
    pub(super) adds: Vec<Tensor>,
    scale: f64,
    softcap: Option<f64>,
    shapes: Vec<Vec<usize>>,
}

/// Whether a chain of masks and scales ends in a product of matrices.
fn leads_to_product(t: &Tensor, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    let next = |i: usize| t.input(i).is_some_and(|x| leads_to_product(x, depth));
    match t.prim() {
        Some(Prim::MatMul) => true,
        Some(Prim::Cast | Prim::Reshape | Prim::Unary(Unary::Tanh)) => next(0),
        Some(Prim::Binary(Binary::Mul | Binary::Div | Binary::Add)) => next(0) || next(1),
        Some(Prim::Binary(Binary::Sub)) => next(0),
        Some(Prim::Select) => next(1) || next(2),
        _ => false,
    }
}

/// Follows the scores to their product, which it gives.
fn follow(scores: &Tensor, root: DType, s: &mut Scores, inside: &mut Vec<Tensor>) -> Step<Tensor> {
    let mut t = scores.clone();
    loop {
        inside.push(t.clone());
        s.shapes.push(t.shape().to_vec());
        let (x, y) = (t.input(0).ok_or(Stop::No)?, t.input(1));
        let masked = || match s.softcap {
            None => Ok(()),
            Some(_) => refused("a mask stands inside of the softcap"),
        };
        let next = match t.prim() {
            Some(Prim::MatMul) => return Ok(t),
            Some(Prim::Cast) if passes(&t, root) => x,
            Some(Prim::Reshape) if keeps_matrix(&t, x) => x,
            Some(Prim::Unary(Unary::Tanh)) if s.softcap.is_none() => {
                s.softcap = Some(s.scale);
                x
            }
            Some(Prim::Select) => {
                let (a, b) = (y.ok_or(Stop::No)?, t.input(2).ok_or(Stop::No)?);
                masked()?;
                let low = |t: &Tensor| number_of(t).map(|n| n * s.scale).filter(|n| *n <= LOW);
                let (other, negated, low) = match (low(a), low(b)) {
                    (_, Some(n)) => (a, false, n),
                    (Some(n), None) => (b, true, n),
                    _ => return Err(Stop::No),
                };
                if s.scale <= 0.0 {
                    return refused("a mask is scaled by a number that is not positive");
                }
                s.keeps.push((x.clone(), negated, low));
                other
            }
            Some(Prim::Binary(Binary::Add)) => {
                let y = y.ok_or(Stop::No)?;
                let (spine, mask) = match (leads_to_product(x, 24), leads_to_product(y, 24)) {
                    (true, _) => (x, y),
                    (false, true) => (y, x),
                    _ => return Err(Stop::No),
                };
                masked()?;
                s.adds.push(if s.scale == 1.0 { mask.clone() } else { mask * s.scale });
                spine
            }
            Some(Prim::Binary(b @ (Binary::Mul | Binary::Div))) => {
                let y = y.ok_or(Stop::No)?;
                match (number_of(x), number_of(y), b) {
                    (_, Some(n), Binary::Div) if n != 0.0 => {
                        s.scale /= n;
                        x
                    }
                    (_, Some(n), Binary::Mul) => {
                        s.scale *= n;
                        x
                    }
                    (Some(n), _, Binary::Mul) => {
                        s.scale *= n;
                        y
                    }
                    _ => return Err(Stop::No),
                }
            }
            _ => return Err(Stop::No),
        };
        t = next.clone();
    }
}

fn recognise(site: Site<'_>, patterns: &[Pattern]) -> Step<Tensor> {
    let root = site.node();
    let mut inside = vec![root.clone()];
    let mut product = root;
    while let (Some(Prim::Cast | Prim::Reshape), Some(x)) = (product.prim(), product.input(0)) {
        if x.dtype() != product.dtype() && !passes(product, root.dtype()) {
            return Err(Stop::No);
        }
        product = x;
        inside.push(x.clone());
    }
    let (Some(Prim::MatMul), Some(p), Some(v)) =
        (product.prim(), product.input(0), product.input(1))
    else {
        return Err(Stop::No);
    };
    let w = softmax_of(p, root.dtype(), patterns, &mut inside).ok_or(Stop::No)?;
    let mut scores = Scores {
        keeps: Vec::new(),
        adds: Vec::new(),
        scale: 1.0,
        softcap: None,
        shapes: Vec::new(),
    };
    let qk = follow(&w.scores, root.dtype(), &mut scores, &mut inside)?;
    let (Some(q), Some(kt)) = (qk.input(0), qk.input(1)) else { return Err(Stop::No) };
    if let Some(why) = site.leaks(&inside) {
        return refused(why);
    }
    if let Some(guard) = &w.guard
        && !scores.adds.iter().any(|m| same_value(unrepeated(m), guard))
    {
        return refused("rows without keys are those of another mask");
    }
    let Some(shape) = Shape::of(&scores.shapes) else {
        return refused("the scores have no axes of batch and heads");
    };
    let Shape { b, h, t, s } = shape;
    let full = scores.shapes[0].clone();
    let mut masks = Masks::read(&scores, &full, &shape)?;

    let mut zeroed = Vec::new();
    let (q, by_q) = bare(q, &mut Vec::new());
    let (k, by_k) = bare(&transposed(kt), &mut zeroed);
    let (v, by_v) = bare(v, &mut zeroed);
    if by_v != 1.0 {
        return refused("the values are scaled");
    }
    for c in &zeroed {
        let l = c.rank().checked_sub(2).and_then(|axis| length_along(c, axis));
        if !masks.length.as_ref().zip(l).is_some_and(|(a, b)| a.same(&b)) {
            return refused("keys or values are set to zero by something else than their length");
        }
    }
    let scale = scores.scale * by_q * by_k;
    let d = q.shape()[q.rank() - 1];
    let usual = 1.0 / (d as f64).sqrt();
    let scale = ((scale - usual).abs() > 1e-6 * usual).then_some(scale);

    let q = q.reshape(&[b, h, t, d]);
    let (mut k4, mut v4) = (repeated(&k, &shape, s), repeated(&v, &shape, s));
    let dv = v.shape()[v.rank() - 1];
    if k4.shape()[1] != v4.shape()[1] {
        (k4, v4) = (k.reshape(&[b, h, s, d]), v.reshape(&[b, h, s, dv]));
    }
    let target = root.dtype();
    let mut operands = [q, k4, v4];
    for x in &mut operands {
        if product.dtype() != target && x.dtype() != target {
            // The cast is no part of it.
            return Err(Stop::No);
        }
        *x = if before_widening(&x.cast(target)).is(x) { x.cast(target) } else { x.clone() };
        if x.dtype() != target {
            return refused(format!("{} does not become {target}", x.spec()));
        }
    }
    let [q, k, v] = operands;
    let mask = masks.operand(&shape)?;
    let sinks = match &w.sinks {
        Some(z) => Some(sink_vector(z, h).ok_or(Stop::Refused("the sinks are not one a head".into()))?),
        None => None,
    };
    let window = match (masks.left, masks.right) {
        (None, None) => None,
        (l, r) => Some((l.unwrap_or(s), r.unwrap_or(if masks.causal { 0 } else { s }))),
    };
    let block = ScaledDotProductAttention {
        scale,
        causal: masks.causal,
        window,
        softcap: scores.softcap,
    };
    let key_length = masks.length.as_ref().map(Length::tensor);
    let inputs = AttentionInputs { q, k, v, mask, key_mask: None, key_length, sinks };
    Ok(Tensor::block(block, inputs).reshape(root.shape()))
}

/// One number a head, from a tensor that is broadcast over everything else.
fn sink_vector(z: &Tensor, h: usize) -> Option<Tensor> {
    let mut z = z;
    while z.spec().numel() != h || z.rank() > 1 {
        match z.prim()? {
            Prim::Broadcast | Prim::Reshape => z = z.input(0)?,
            Prim::Cast if !before_widening(z).is(z) => z = z.input(0)?,
            _ => break,
        }
    }
    let z = before_widening(z);
    (z.spec().numel() == h).then(|| z.reshape(&[h]))
}
