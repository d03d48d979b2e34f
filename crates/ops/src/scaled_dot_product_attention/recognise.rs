//! Attention in graphs of primitives: a softmax of scores between two products of matrices.
//!
//! It is no single formula: scales stand on queries, keys or scores, masks are added or chosen, in
//! any number, heads are grouped by repeating keys, and views of three, four and five axes come
//! and go. So the weights are found by formulas and the rest is followed from there:
//!
//! 1. the product `weights v`, under casts and reshapes, and the softmax that makes the weights;
//! 2. from the softmax through masks, softcap and scales to the product `q k^T`;
//! 3. what masks say of rows and columns (`bounds.rs`), the rest stays a mask;
//! 4. q, k and v before casts, scales and the repetition of heads.
//!
//! Where a row keeps no key, plain arithmetic gives NaN and the Block zeros; everything else is
//! the same number for number.

use super::{
    AttentionInputs, ScaledDotProductAttention,
    bounds::{Bound, Length, bound, length_along},
    operands::{bare, repeated, transposed},
};
use crate::Softmax;
use frit_graph::{
    Binary, Block, Compare, DType, Prim, Reduce, Rewrite, Rule, Site, Tensor, Unary,
    pattern::{
        Axis, Pattern, any, before_widening, binary, compare, known, near, number_of, one_of,
        reduce, same_value, select,
    },
};

/// A number at most this is as good as minus infinity under a softmax.
const LOW: f64 = -1e4;
/// Constant masks up to so many elements are read.
const READ: usize = 1 << 22;

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
}

/// Whether a reshape leaves the last two axes alone.
fn keeps_matrix(t: &Tensor, x: &Tensor) -> bool {
    let tail = |t: &Tensor| t.shape().get(t.rank().wrapping_sub(2)..).map(<[usize]>::to_vec);
    tail(t).is_some() && tail(t) == tail(x)
}

fn softmax_of(p: &Tensor, patterns: &[Pattern], inside: &mut Vec<Tensor>) -> Option<Weights> {
    let mut t = p;
    while let (Some(Prim::Cast | Prim::Reshape), Some(x)) = (t.prim(), t.input(0)) {
        if !keeps_matrix(t, x) || !x.dtype().is_float() {
            return None;
        }
        inside.push(t.clone());
        t = x;
    }
    if let Some(s) = t.block::<Softmax>() {
        inside.push(t.clone());
        let last = s.axis_of(t.rank())? + 1 == t.rank();
        let scores = t.input(0).filter(|_| last)?.clone();
        return Some(Weights { scores, sinks: None });
    }
    if let (Some(Prim::Slice { start, step }), Some(x)) = (t.prim(), t.input(0)) {
        // gpt-oss in transformers: the sinks are one more column, which is cut off afterwards.
        inside.push(t.clone());
        let first = start.iter().all(|&s| s == 0) && step.iter().all(|&s| s == 1);
        let w = softmax_of(x, patterns, inside).filter(|w| first && w.sinks.is_none())?;
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
            .then(|| Weights { scores: s.clone(), sinks: Some(z.clone()) });
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
    Some(Weights { scores, sinks })
}

/// Scores on the way from the softmax to the product.
struct Scores {
    keeps: Vec<(Tensor, bool, f64)>,
    adds: Vec<Tensor>,
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
fn follow(scores: &Tensor, s: &mut Scores, inside: &mut Vec<Tensor>) -> Step<Tensor> {
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
            Some(Prim::Cast) if x.dtype().is_float() => x,
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

/// Extents of a recognised attention, and how tensors of other ranks are seen as `[B, H, ..]`.
pub(super) struct Shape {
    pub(super) b: usize,
    pub(super) h: usize,
    t: usize,
    s: usize,
}

impl Shape {
    fn of(shapes: &[Vec<usize>]) -> Option<Shape> {
        let of_rank = |r: usize| shapes.iter().find(|s| s.len() == r);
        let any = shapes.first()?;
        let (t, s) = (any[any.len() - 2], any[any.len() - 1]);
        let (b, h) = match (of_rank(4), of_rank(5), of_rank(3)) {
            (Some(f), ..) => (f[0], f[1]),
            (_, Some(f), _) => (f[0], f[1] * f[2]),
            (.., Some(f)) => (f[0], 1),
            _ => (1, 1),
        };
        let same = |f: &Vec<usize>| f[..f.len() - 2].iter().product::<usize>() == b * h;
        shapes.iter().all(same).then_some(Shape { b, h, t, s })
    }

    /// A mask that is broadcast to scores of its rank as one that broadcasts to `[B, H, T, S]`.
    fn mask(&self, m: &Tensor) -> Option<Tensor> {
        let full = m.shape().to_vec();
        let mut m = m;
        while let (Some(Prim::Broadcast | Prim::Cast), Some(x)) = (m.prim(), m.input(0)) {
            let widened = !before_widening(m).is(m);
            if matches!(m.prim(), Some(Prim::Cast)) && !widened {
                break;
            }
            m = x;
        }
        let (lead, tail) = m.shape().split_at(m.rank() - 2);
        let with = |lead: [usize; 2]| m.reshape(&[&lead[..], tail].concat());
        Some(match lead {
            _ if lead.iter().product::<usize>() == 1 => with([1, 1]),
            [_, _] => m.clone(),
            [b, 1, 1] => with([*b, 1]),
            [b, ..] if full.len() == 5 => {
                let lead = [*b, full[1], full[2]];
                m.broadcast_to(&[&lead[..], tail].concat())
                    .reshape(&[&[*b, self.h][..], tail].concat())
            }
            [n] if *n == self.b * self.h => with([self.b, self.h]),
            _ => return None,
        })
    }
}

/// The conjuncts of a boolean tensor, each with whether it is negated.
fn conjuncts(t: &Tensor, negated: bool, out: &mut Vec<(Tensor, bool)>) {
    let parts = match (t.prim(), negated) {
        (Some(Prim::Binary(Binary::And)), false) | (Some(Prim::Binary(Binary::Or)), true) => 2,
        (Some(Prim::Unary(Unary::Not)), _) => {
            return t.input(0).into_iter().for_each(|x| conjuncts(x, !negated, out));
        }
        (Some(Prim::Broadcast), _) => {
            return t.input(0).into_iter().for_each(|x| conjuncts(x, negated, out));
        }
        // What is reshaped after it was joined may as well be reshaped before.
        (Some(Prim::Reshape), _) => match t.input(0).map(|x| (x, x.prim())) {
            Some((x, Some(&Prim::Binary(b @ (Binary::And | Binary::Or))))) => {
                let parts: Vec<Tensor> =
                    x.inputs().iter().flatten().map(|p| p.reshape(t.shape())).collect();
                let [a, b2] = &parts[..] else { return out.push((t.clone(), negated)) };
                return conjuncts(&a.binary(b2, b), negated, out);
            }
            Some((x, Some(Prim::Unary(Unary::Not)))) => {
                let Some(y) = x.input(0) else { return out.push((t.clone(), negated)) };
                return conjuncts(&y.reshape(t.shape()), !negated, out);
            }
            _ => 0,
        },
        _ => 0,
    };
    match parts {
        0 => out.push((t.clone(), negated)),
        _ => t.inputs().iter().flatten().for_each(|x| conjuncts(x, negated, out)),
    }
}

#[derive(Default)]
struct Masks {
    causal: bool,
    left: Option<usize>,
    right: Option<usize>,
    length: Option<Length>,
    booleans: Vec<Tensor>,
    floats: Vec<Tensor>,
}

/// Whether the keys that a known mask keeps are those up to the row's own position.
fn is_causal(m: &Tensor, shape: &Shape) -> bool {
    let (t, s) = (shape.t, shape.s);
    if m.spec().numel() != t * s || t > s || t == 1 {
        return false;
    }
    let Some(v) = known(m, READ) else { return false };
    let kept = |n: f64| match m.dtype() {
        DType::Bool => Some(n != 0.0),
        _ if n == 0.0 => Some(true),
        _ => (n <= LOW).then_some(false),
    };
    let right = |(i, n): (usize, &f64)| kept(*n) == Some(i % s <= i / s + s - t);
    v.to_f64().iter().enumerate().all(right)
}

impl Masks {
    /// What comparisons say, as options where they agree with one another.
    fn read(s: &Scores, full: &[usize], shape: &Shape) -> Step<Masks> {
        let mut all = Masks::default();
        let mut keeps = s.keeps.clone();
        for m in &s.adds {
            // A choice between nothing and a low number that is added keeps as well.
            let mut x = m;
            while let (Some(Prim::Broadcast | Prim::Cast), Some(inner)) = (x.prim(), x.input(0)) {
                x = inner;
            }
            let numbers = |i: usize| x.input(i).and_then(number_of);
            match (x.prim(), numbers(1), numbers(2), x.input(0)) {
                (Some(Prim::Select), Some(0.0), Some(low), Some(c)) if low <= LOW => {
                    keeps.push((c.clone(), false, low));
                }
                (Some(Prim::Select), Some(low), Some(0.0), Some(c)) if low <= LOW => {
                    keeps.push((c.clone(), true, low));
                }
                _ => all.floats.push(m.clone()),
            }
        }
        let mut found: Vec<Vec<(Tensor, bool, Option<Bound>)>> = Vec::new();
        for (c, negated, _) in &keeps {
            let mut parts = Vec::new();
            conjuncts(c, *negated, &mut parts);
            // Minus infinity in a mask that is added removes by itself.
            parts.retain(|(t, negated)| *negated || !all.floats.iter().any(|m| finite(t, m)));
            let of = |(t, n): (Tensor, bool)| {
                let b = (t.rank() == full.len()).then(|| bound(&t, n, full)).flatten();
                (t, n, b)
            };
            found.push(parts.into_iter().map(of).collect());
        }
        let lengths = || found.iter().flatten().filter_map(|(.., b)| b.as_ref());
        let shortest = |of: &dyn Fn(&Bound) -> Option<&Length>| {
            let all: Vec<&Length> = lengths().filter_map(of).collect();
            let first = *all.first()?;
            all.iter().copied().filter(|l| l.beyond(first).is_some()).min_by_key(|l| l.beyond(first))
        };
        all.length = shortest(&|b| if let Bound::Exists(l) = b { Some(l) } else { None })
            .or_else(|| shortest(&|b| if let Bound::Right(_, l) = b { l.as_ref() } else { None }))
            .cloned();
        for (parts, (condition, negated, low)) in found.iter().zip(&keeps) {
            // A finite number keeps a row alive that keeps no key: only minus infinity and bounds
            // that leave every row a key are left out.
            let alive = shape.t <= shape.s || all.length.is_some();
            let exact = *low == f64::NEG_INFINITY;
            let bounded = |p: &(Tensor, bool, Option<Bound>)| all.clone_with(p.2.as_ref()).is_some();
            if !exact && !(alive && parts.iter().all(bounded)) {
                let c = if *negated { condition.logical_not() } else { condition.clone() };
                let c = shape.mask(&c).ok_or(Stop::No)?;
                let causal = is_causal(&c, shape);
                all.causal |= causal;
                if !causal {
                    let (zero, low) =
                        (Tensor::scalar(DType::F32, 0.0), Tensor::scalar(DType::F32, *low));
                    all.booleans_or_floats(c.select(&zero, &low), false);
                }
                continue;
            }
            for (t, n, b) in parts {
                match all.clone_with(b.as_ref()) {
                    Some(new) => all = new,
                    None => {
                        let t = if *n { t.logical_not() } else { t.clone() };
                        all.booleans_or_floats(t, true);
                    }
                }
            }
        }
        Ok(all)
    }

    fn booleans_or_floats(&mut self, t: Tensor, boolean: bool) {
        if boolean { self.booleans.push(t) } else { self.floats.push(t) }
    }

    /// The options with a bound, if they can say it.
    fn clone_with(&self, b: Option<&Bound>) -> Option<Masks> {
        let Masks { causal, left, right, length, booleans, floats } = self;
        let (booleans, floats) = (booleans.clone(), floats.clone());
        let mut new = Masks {
            causal: *causal,
            left: *left,
            right: *right,
            length: length.clone(),
            booleans,
            floats,
        };
        let beyond = |l: &Option<Length>, sign: i64| match (l, length) {
            (None, None) => Some(0),
            (Some(a), Some(b)) => usize::try_from(sign * a.beyond(b)?).ok(),
            _ => None,
        };
        match b? {
            Bound::Always => {}
            Bound::Exists(l) => {
                usize::try_from(l.beyond(length.as_ref()?)?).ok()?;
            }
            Bound::Right(n, l) => match n + beyond(l, 1)? {
                0 => new.causal = true,
                n => new.right = Some(right.map_or(n, |r| r.min(n))),
            },
            Bound::Left(n, l) => {
                let n = n + beyond(l, -1)?;
                new.left = Some(left.map_or(n, |m| m.min(n)));
            }
        }
        Some(new)
    }

    /// The mask that is left to be an operand.
    fn operand(&mut self, shape: &Shape) -> Step<Option<Tensor>> {
        let see = |m: &Tensor| shape.mask(m).ok_or(Stop::Refused("a mask is of no known shape".into()));
        let mut take = |from: Vec<Tensor>| -> Step<Vec<Tensor>> {
            let mut kept = Vec::new();
            for m in from {
                let m = see(&m)?;
                match self.length.is_none() && is_causal(&m, shape) {
                    true => self.causal = true,
                    false => kept.push(m),
                }
            }
            Ok(kept)
        };
        let booleans = take(std::mem::take(&mut self.booleans))?;
        let floats = take(std::mem::take(&mut self.floats))?;
        let keep = booleans.into_iter().reduce(|a, b| a.logical_and(&b));
        let single = floats.len() == 1;
        let added = floats
            .into_iter()
            .map(|m| if single { m } else { m.cast(DType::F32) })
            .reduce(|a, b| a + b);
        Ok(match (keep, added) {
            (Some(k), Some(m)) => {
                Some(k.select(&m, &Tensor::scalar(m.dtype(), f64::NEG_INFINITY)))
            }
            (k, m) => k.or(m),
        })
    }
}

/// Whether `t` says that the mask `m` is above minus infinity.
fn finite(t: &Tensor, m: &Tensor) -> bool {
    let base = |t: &Tensor| {
        let mut t = t;
        while let (Some(Prim::Broadcast | Prim::Cast), Some(x)) = (t.prim(), t.input(0)) {
            t = x;
        }
        t.clone()
    };
    matches!(t.prim(), Some(Prim::Compare(Compare::Gt)))
        && t.input(1).and_then(number_of) == Some(f64::NEG_INFINITY)
        && t.input(0).is_some_and(|x| same_value(&base(x), &base(m)))
}

fn recognise(site: Site<'_>, patterns: &[Pattern]) -> Step<Tensor> {
    let root = site.node();
    let mut inside = vec![root.clone()];
    let mut product = root;
    while let (Some(Prim::Cast | Prim::Reshape), Some(x)) = (product.prim(), product.input(0)) {
        product = x;
        inside.push(x.clone());
    }
    let (Some(Prim::MatMul), Some(p), Some(v)) =
        (product.prim(), product.input(0), product.input(1))
    else {
        return Err(Stop::No);
    };
    let w = softmax_of(p, patterns, &mut inside).ok_or(Stop::No)?;
    let mut scores = Scores {
        keeps: Vec::new(),
        adds: Vec::new(),
        scale: 1.0,
        softcap: None,
        shapes: Vec::new(),
    };
    let qk = follow(&w.scores, &mut scores, &mut inside)?;
    let (Some(q), Some(kt)) = (qk.input(0), qk.input(1)) else { return Err(Stop::No) };
    if let Some(why) = site.leaks(&inside) {
        return refused(why);
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
