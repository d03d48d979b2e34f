//! The masks of a recognised attention: what comparisons say becomes options, the rest an operand.

use super::{
    bounds::{Bound, Length, bound},
    recognise::{LOW, Scores, Step, Stop},
};
use frit_graph::{
    Binary, Compare, DType, Prim, Tensor, Unary,
    pattern::{before_widening, known, number_of, same_value},
};

/// Constant masks up to so many elements are read.
const READ: usize = 1 << 22;

/// Extents of a recognised attention, and how tensors of other ranks are seen as `[B, H, ..]`.
pub(super) struct Shape {
    pub(super) b: usize,
    pub(super) h: usize,
    pub(super) t: usize,
    pub(super) s: usize,
}

impl Shape {
    pub(super) fn of(shapes: &[Vec<usize>]) -> Option<Shape> {
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
    pub(super) fn mask(&self, m: &Tensor) -> Option<Tensor> {
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

/// A conjunct, whether it is negated, and what it says of rows and columns.
type Part = (Tensor, bool, Option<Bound>);

#[derive(Default)]
pub(super) struct Masks {
    pub(super) causal: bool,
    pub(super) left: Option<usize>,
    pub(super) right: Option<usize>,
    pub(super) length: Option<Length>,
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
    pub(super) fn read(s: &Scores, full: &[usize], shape: &Shape) -> Step<Masks> {
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
        let mut found: Vec<Vec<Part>> = Vec::new();
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
        // A finite number keeps a row alive that keeps no key: only what gives every row a key can
        // become an option there, anything else stays a mask that is added, and sets no length.
        let mut added = vec![false; keeps.len()];
        loop {
            let open = || found.iter().zip(&added).filter(|(_, added)| !**added);
            let bounds = || open().flat_map(|(parts, _)| parts).filter_map(|(.., b)| b.as_ref());
            let shortest = |of: &dyn Fn(&Bound) -> Option<&Length>| {
                let all: Vec<&Length> = bounds().filter_map(of).collect();
                let first = *all.first()?;
                let alike = all.into_iter().filter(|l| l.beyond(first).is_some());
                alike.min_by_key(|l| l.beyond(first))
            };
            all.length = shortest(&|b| if let Bound::Exists(l) = b { Some(l) } else { None })
                .or_else(|| shortest(&|b| if let Bound::Right(_, l) = b { l.as_ref() } else { None }))
                .cloned();
            let alive = shape.t <= shape.s || all.length.is_some();
            let bounded = |p: &Part| all.clone_with(p.2.as_ref()).is_some();
            let stays = |n: usize| {
                let exact = keeps[n].2 == f64::NEG_INFINITY;
                !added[n] && !exact && (!alive || !found[n].iter().all(bounded))
            };
            match (0..keeps.len()).find(|&n| stays(n)) {
                Some(n) => added[n] = true,
                None => break,
            }
        }
        for ((parts, (condition, negated, low)), added) in found.iter().zip(&keeps).zip(added) {
            if added {
                let c = if *negated { condition.logical_not() } else { condition.clone() };
                let c = shape.mask(&c).ok_or(Stop::No)?;
                let causal = all.length.is_none() && is_causal(&c, shape);
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
    pub(super) fn operand(&mut self, shape: &Shape) -> Step<Option<Tensor>> {
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

