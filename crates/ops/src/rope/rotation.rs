//! Rotations of pairs in graphs of primitives: halves or neighbours, by concatenation or by
//! `x cos + rotate_half(x) sin`, with the rest of the head copied or not.
//!
//! A rotation is found by its formula, whatever its cosines and sines are; the rules of `rope` and
//! `apply_rope` then look at these.

use super::RopeLayout;
use frit_graph::{
    Prim, Rewrite, Rule, Site, Tensor, Unary,
    pattern::{Match, Pattern, any, before_widening, same_value},
};

/// The leading `dims` elements of `x`, rotated; the rest is copied.
pub(crate) struct Rotation {
    pub(crate) x: Tensor,
    pub(crate) dims: usize,
    pub(crate) layout: RopeLayout,
    /// What multiplies, in the frame of `x`: a column for each pair or for each element.
    pub(crate) cos: Tensor,
    pub(crate) sin: Tensor,
}

struct Patterns {
    first: Pattern,
    second: Pattern,
    half: Pattern,
}

/// A rule that makes something of every rotation, or says why not.
pub(crate) fn rule(
    name: &'static str,
    make: fn(&Rotation) -> Result<Tensor, String>,
) -> Rule {
    let is_part = |t: &Tensor| part(t).is_some_and(|p| p.count < p.of.shape()[p.of.rank() - 1]);
    let (a, b) = (any("a").when("it is no part", is_part), any("b").when("it is no part", is_part));
    let rotated = any("rotated").when("it is no rotated half", |t| {
        let first = joined(t, &mut Vec::new()).map(|(u, ..)| before_widening(&u).clone());
        first.is_some_and(|u| u.prim() == Some(&Prim::Unary(Unary::Neg)))
    });
    let (x, cos, sin) = (any("x"), any("cos"), any("sin"));
    let patterns = Patterns {
        first: &a * &cos - &b * &sin,
        second: &a * &sin + &b * &cos,
        half: &x * &cos + &rotated * &sin,
    };
    let apply = move |site: Site<'_>| {
        match rotation(site, &patterns).map(|found| found.and_then(|r| make(&r))) {
            None => Rewrite::NoMatch,
            Some(Ok(new)) => Rewrite::of(site.node(), new),
            Some(Err(_)) if matches!(site.node().prim(), Some(Prim::Cast)) => Rewrite::NoMatch,
            Some(Err(why)) => Rewrite::Refused(why),
        }
    };
    Rule::new(name, apply).at(["concat", "reshape", "add", "sub", "cast"])
}

/// Elements of the last axis of a tensor.
struct Part {
    of: Tensor,
    start: usize,
    step: usize,
    count: usize,
}

fn part(t: &Tensor) -> Option<Part> {
    let last = t.rank().checked_sub(1)?;
    let t = before_widening(t);
    let (x, count) = (t.input(0), t.shape()[last]);
    match t.prim() {
        Some(Prim::Slice { start, step }) => {
            let x = x?;
            let rest = (0..last).all(|a| x.shape()[a] == t.shape()[a] && step[a] == 1);
            let inner = part(x).filter(|_| rest)?;
            let by = usize::try_from(step[last]).ok()?;
            let start = inner.start + inner.step * start[last];
            Some(Part { of: inner.of, start, step: inner.step * by, count })
        }
        // The pairs as an axis of their own: [.., D/2, 2] and one of the two.
        Some(Prim::Reshape) => {
            let x = x?;
            let (Some(Prim::Slice { start, .. }), [lead @ .., n, 1]) = (x.prim(), x.shape()) else {
                return Some(Part { of: t.clone(), start: 0, step: 1, count });
            };
            let pairs = x.input(0).filter(|p| {
                p.shape().ends_with(&[*n, 2]) && p.rank() == x.rank() && p.prim() == Some(&Prim::Reshape)
            });
            let from = pairs.and_then(|p| p.input(0)).filter(|f| {
                let whole = [lead, &[2 * n]].concat();
                f.shape() == whole && t.shape() == [lead, &[*n]].concat()
            });
            match from {
                Some(f) if start[..x.rank() - 1].iter().all(|&s| s == 0) => {
                    let inner = part(f)?;
                    let start = inner.start + inner.step * start[x.rank() - 1];
                    Some(Part { of: inner.of, start, step: inner.step * 2, count })
                }
                _ => Some(Part { of: t.clone(), start: 0, step: 1, count }),
            }
        }
        _ => Some(Part { of: t.clone(), start: 0, step: 1, count }),
    }
}

/// Elements `start .. start + dims` of the last axis of `x`, rotated.
struct Turn {
    x: Tensor,
    dims: usize,
    start: usize,
    layout: RopeLayout,
    cos: Tensor,
    sin: Tensor,
}

fn concat_of(t: &Tensor) -> Option<Vec<&Tensor>> {
    match t.prim() {
        Some(Prim::Concat(axis)) if axis + 1 == t.rank() => {
            Some(t.inputs().iter().flatten().collect())
        }
        _ => None,
    }
}

/// The pairs that two parts are, if they are halves or neighbours of the same elements.
fn pairs(a: &Part, b: &Part) -> Option<RopeLayout> {
    let same = same_value(&a.of, &b.of) && a.count == b.count && a.step == b.step;
    match (same, a.step) {
        (true, 1) if b.start == a.start + a.count => Some(RopeLayout::Split),
        (true, 2) if b.start == a.start + 1 => Some(RopeLayout::Interleaved),
        _ => None,
    }
}

/// Two parts that are put side by side: as halves, or as pairs of an axis that is then folded.
fn joined(t: &Tensor, inside: &mut Vec<Tensor>) -> Option<(Tensor, Tensor, RopeLayout)> {
    let t = before_widening(t);
    if let Some(parts) = concat_of(t) {
        let [u, v] = parts[..] else { return None };
        inside.push(t.clone());
        return Some((u.clone(), v.clone(), RopeLayout::Split));
    }
    let c = t.input(0).filter(|_| t.prim() == Some(&Prim::Reshape))?;
    let parts = concat_of(c)?;
    let [u, v] = parts[..] else { return None };
    let flat = |p: &Tensor| {
        let x = p.input(0).filter(|_| p.prim() == Some(&Prim::Reshape))?;
        let fits = p.shape().split_last() == Some((&1, x.shape()));
        fits.then(|| x.clone())
    };
    let (a, b) = (flat(u)?, flat(v)?);
    let whole = t.shape().split_last()?;
    let fits = a.shape().split_last() == Some((&(whole.0 / 2), whole.1)) && whole.0 % 2 == 0;
    inside.extend([t, c, u, v].map(Clone::clone));
    fits.then_some((a, b, RopeLayout::Interleaved))
}

fn turn(t: &Tensor, p: &Patterns, inside: &mut Vec<Tensor>) -> Option<Turn> {
    if let Some(m) = p.half.find(t) {
        // transformers and the exporters of torch: x cos + rotate_half(x) sin.
        let (x, cos, sin) = (m.tensor("x")?, m.tensor("cos")?, m.tensor("sin")?);
        inside.extend_from_slice(m.interior());
        let (u, v, layout) = joined(m.tensor("rotated")?, inside)?;
        let negative = before_widening(&u);
        let minus = negative.input(0).filter(|_| negative.prim() == Some(&Prim::Unary(Unary::Neg)))?;
        inside.push(negative.clone());
        let (a, b) = (part(&v)?, part(minus)?);
        (pairs(&a, &b)? == layout).then_some(())?;
        // The order of a product is open: what is rotated is the factor that the halves are of.
        let is_x = |t: &&Tensor| {
            part(t).is_some_and(|whole| {
                let place = (whole.start, whole.step, whole.count);
                same_value(&a.of, &whole.of) && place == (a.start, 1, 2 * a.count)
            })
        };
        let (x, cos) = [(x, cos), (cos, x)].into_iter().find(|(x, _)| is_x(x))?;
        let x = part(x)?;
        let (cos, sin) = (cos.clone(), sin.clone());
        return Some(Turn { x: x.of, dims: x.count, start: x.start, layout, cos, sin });
    }
    let (u, v, layout) = joined(t, inside)?;
    let (f, s) = (p.first.find(before_widening(&u))?, p.second.find(before_widening(&v))?);
    inside.extend_from_slice(f.interior());
    inside.extend_from_slice(s.interior());
    let two = |m: &Match, names: [&str; 2]| -> Option<[Tensor; 2]> {
        Some([m.tensor(names[0])?.clone(), m.tensor(names[1])?.clone()])
    };
    let (ac, bs) = (two(&f, ["a", "cos"])?, two(&f, ["b", "sin"])?);
    let second = [two(&s, ["a", "sin"])?, two(&s, ["b", "cos"])?];
    let same = |x: &[Tensor; 2], a: &Tensor, b: &Tensor| {
        let is = |x: &Tensor, y: &Tensor, a, b| same_value(x, a) && same_value(y, b);
        is(&x[0], &x[1], a, b) || is(&x[1], &x[0], a, b)
    };
    // The order of products and of a sum is open, and tables may be parts of something as well.
    let orders = [(0, 0), (0, 1), (1, 0), (1, 1)];
    orders.into_iter().find_map(|(i, j)| {
        let ([a, cos], [b, sin]) = ([&ac[i], &ac[1 - i]], [&bs[j], &bs[1 - j]]);
        let [p, q] = &second;
        let agrees = same(p, a, sin) && same(q, b, cos) || same(q, a, sin) && same(p, b, cos);
        // What is rotated is not broadcast.
        let whole = a.spec().numel() == u.spec().numel();
        let (x, other) = (part(a)?, part(b)?);
        let fits = agrees && whole && pairs(&x, &other) == Some(layout);
        let (cos, sin) = (cos.clone(), sin.clone());
        fits.then(|| Turn { dims: 2 * x.count, start: x.start, x: x.of, layout, cos, sin })
    })
}

/// The rotation that a node is, if it is one; an error where something inside is needed elsewhere.
fn rotation(site: Site<'_>, p: &Patterns) -> Option<Result<Rotation, String>> {
    let root = site.node();
    let mut inside = vec![root.clone()];
    let mut t = root;
    while let (Some(Prim::Cast), Some(x)) = (t.prim(), t.input(0).filter(|x| x.dtype().is_float())) {
        t = x;
        inside.push(x.clone());
    }
    let mut found = None;
    if let Some(parts) = concat_of(t)
        && let [turned, rest] = parts[..]
    {
        let mut more = inside.clone();
        let rest = part(rest)?;
        more.push(turned.clone());
        found = turn(turned, p, &mut more)
            .filter(|f| {
                let d = f.x.shape()[f.x.rank() - 1];
                let follows = rest.start == f.dims && rest.step == 1 && rest.count == d - f.dims;
                f.start == 0 && follows && same_value(&rest.of, &f.x)
            })
            .map(|f| (f, true, more));
    }
    if found.is_none() {
        let mut more = inside;
        found = turn(t, p, &mut more).map(|f| (f, false, more));
    }
    let (turn, with_rest, inside) = found?;
    if let Some(why) = site.leaks(&inside) {
        return Some(Err(why));
    }
    let last = turn.x.rank() - 1;
    let mut x = turn.x;
    if !with_rest && turn.dims != x.shape()[last] {
        x = x.slice(-1, turn.start..turn.start + turn.dims);
    }
    let to = root.dtype();
    if x.dtype() != to && !matches!(root.prim(), Some(Prim::Cast)) {
        x = x.cast(to);
    }
    let Turn { dims, layout, cos, sin, .. } = turn;
    Some(Ok(Rotation { x, dims, layout, cos, sin }))
}

