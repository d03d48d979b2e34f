//! Rotations of pairs in graphs of primitives: halves or neighbours, by concatenation or by
//! `x cos + rotate_half(x) sin`, with the rest of the head copied or not.
//!
//! A rotation is found by its formula; its cosines and sines are then followed to where the
//! angles come from (`tables.rs`). What is no product of positions and frequencies is refused.

use super::{Rope, RopeInputs, RopeLayout, SequenceAxis, tables};
use frit_graph::{
    Block, DType, Prim, Rewrite, Rule, Site, Tensor, Unary,
    pattern::{Pattern, any, before_widening, same_value},
};

struct Patterns {
    first: Pattern,
    second: Pattern,
    half: Pattern,
}

pub(super) fn rules() -> Vec<Rule> {
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
    let apply = move |site: Site<'_>| match rotation(site, &patterns) {
        None => Rewrite::NoMatch,
        Some(Ok(new)) => Rewrite::of(site.node(), new),
        Some(Err(_)) if matches!(site.node().prim(), Some(Prim::Cast)) => Rewrite::NoMatch,
        Some(Err(why)) => Rewrite::Refused(why),
    };
    vec![Rule::new(Rope::NAME, apply).at(["concat", "reshape", "add", "sub", "cast"])]
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

/// A rotation of the leading elements of `x`.
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
        // The order of a product is open: what is rotated is the factor that the halves are of.
        let is_x = |t: &Tensor| part(t).is_some_and(|p| same_value(&p.of, &a.of));
        let (x, cos) = if is_x(x) { (x, cos) } else { (cos, x) };
        let whole = part(x)?;
        let fits = pairs(&a, &b)? == layout
            && same_value(&a.of, &whole.of)
            && (whole.start, whole.step, whole.count) == (a.start, 1, 2 * a.count);
        return fits.then(|| Turn {
            x: whole.of,
            dims: whole.count,
            start: whole.start,
            layout,
            cos: cos.clone(),
            sin: sin.clone(),
        });
    }
    let (u, v, layout) = joined(t, inside)?;
    let (f, s) = (p.first.find(before_widening(&u))?, p.second.find(before_widening(&v))?);
    let agree = |names: [&str; 4]| {
        let pairs = ["a", "b", "cos", "sin"].into_iter().zip(names);
        pairs.into_iter().all(|(m, n)| {
            f.tensor(m).zip(s.tensor(n)).is_some_and(|(x, y)| same_value(x, y))
        })
    };
    // The order of a sum is open, so both terms of the second may be found the other way round.
    let same = agree(["a", "b", "cos", "sin"]) || agree(["b", "a", "sin", "cos"]);
    inside.extend_from_slice(f.interior());
    inside.extend_from_slice(s.interior());
    let (a, b) = (part(f.tensor("a")?)?, part(f.tensor("b")?)?);
    (same && pairs(&a, &b)? == layout).then_some(())?;
    let (cos, sin) = (f.tensor("cos")?.clone(), f.tensor("sin")?.clone());
    Some(Turn { dims: 2 * a.count, start: a.start, x: a.of, layout, cos, sin })
}

fn rotation(site: Site<'_>, p: &Patterns) -> Option<Result<Tensor, String>> {
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
    Some(block(root, &turn, with_rest))
}

fn block(root: &Tensor, turn: &Turn, with_rest: bool) -> Result<Tensor, String> {
    let (mut x, last) = (turn.x.clone(), turn.x.rank() - 1);
    if !with_rest && turn.dims != x.shape()[last] {
        x = x.slice(-1, turn.start..turn.start + turn.dims);
    }
    let to = root.dtype();
    if x.dtype() != to && !matches!(root.prim(), Some(Prim::Cast)) {
        x = x.cast(to);
    }
    let half = turn.dims / 2;
    let found = tables::angles(&turn.cos, &turn.sin, x.shape(), half, turn.layout)?;
    let (rank, shape) = (x.rank(), x.shape().to_vec());
    let axis = found.axis.or_else(|| {
        // One token: any axis of one place is the sequence.
        [rank.checked_sub(2)?, rank.checked_sub(3)?].into_iter().find(|&a| a > 0 && shape[a] == 1)
    });
    let sequence_axis = match axis.map(|a| rank - a) {
        Some(2) if rank > 2 => SequenceAxis::SecondLast,
        Some(3) if rank > 3 => SequenceAxis::ThirdLast,
        _ => return Err("the sequence is on another axis than -2 or -3".into()),
    };
    let rope = Rope {
        dims: turn.dims,
        base: found.base,
        scale: found.scale,
        amplitude: found.amplitude,
        layout: turn.layout,
        sequence_axis,
    };
    let (b, tokens) = (shape[0], rope.tokens(&shape));
    let position_ids = match found.ids {
        None => None,
        Some(ids) => {
            let n = ids.spec().numel();
            let rows = if n == b * tokens { b } else { 1 };
            if n != rows * tokens {
                return Err(format!("positions {} do not fit x {}", ids.spec(), x.spec()));
            }
            Some(ids.reshape(&[rows, tokens]).broadcast_to(&[b, tokens]))
        }
    };
    let offset = found.offset.map(|o| match o.spec().numel() {
        1 => o.reshape(&[]),
        n => o.reshape(&[n]),
    });
    let inv_freqs = found.inv_freqs.map(|f| f.cast(DType::F32));
    Ok(Tensor::block(rope, RopeInputs { x, offset, position_ids, inv_freqs }))
}
