//! What a boolean mask says of rows and columns, where it is made of counting and comparing.

use frit_graph::{
    Binary, Compare, Prim, Tensor, Unary,
    pattern::{number_of, same_value},
};

const DEPTH: usize = 16;

/// `sum of coef[axis] * index[axis] + constant + factor * term`, of integers.
#[derive(Clone, Debug)]
struct Affine {
    coef: Vec<i64>,
    constant: i64,
    term: Option<(Tensor, i64)>,
    /// The axis that the term runs along, if it is not one number.
    along: Option<usize>,
}

/// What one comparison keeps of `[.., T, S]`, with the rows aligned to the end of the keys.
#[derive(Clone, Debug)]
pub(super) enum Bound {
    /// Everything.
    Always,
    /// No key after the row's own position, or this many after it.
    Right(usize, Option<Length>),
    /// This many keys before the row's own position.
    Left(usize, Option<Length>),
    /// The keys before a length.
    Exists(Length),
}

/// `term + offset`: how many keys there are.
#[derive(Clone, Debug)]
pub(super) struct Length {
    term: Tensor,
    offset: i64,
}

impl Length {
    pub(super) fn same(&self, other: &Length) -> bool {
        self.offset == other.offset && same_value(&self.term, &other.term)
    }

    /// How many more keys than the other, which counts from the same term.
    pub(super) fn beyond(&self, other: &Length) -> Option<i64> {
        same_value(&self.term, &other.term).then(|| self.offset - other.offset)
    }

    /// As an operand: a scalar or one a row.
    pub(super) fn tensor(&self) -> Tensor {
        let n = self.term.spec().numel();
        let t = match n {
            1 => self.term.reshape(&[]),
            _ => self.term.reshape(&[n]),
        };
        match self.offset {
            0 => t,
            offset => &t + offset as f64,
        }
    }
}

impl Affine {
    fn number(rank: usize, constant: i64) -> Affine {
        Affine { coef: vec![0; rank], constant, term: None, along: None }
    }

    fn scaled(mut self, by: i64) -> Option<Affine> {
        self.coef.iter_mut().try_for_each(|c| c.checked_mul(by).map(|n| *c = n))?;
        self.constant = self.constant.checked_mul(by)?;
        self.term = match self.term {
            Some((t, f)) => Some((t, f.checked_mul(by)?)),
            None => None,
        };
        Some(self)
    }

    fn plus(mut self, other: Affine) -> Option<Affine> {
        for (a, b) in self.coef.iter_mut().zip(&other.coef) {
            *a = a.checked_add(*b)?;
        }
        self.constant = self.constant.checked_add(other.constant)?;
        match (&mut self.term, other.term) {
            (_, None) => {}
            (none @ None, some) => {
                *none = some;
                self.along = other.along;
            }
            (Some((a, f)), Some((b, g))) if same_value(a, &b) => *f += g,
            _ => return None,
        }
        Some(self)
    }

    /// The same of axes in another order; axes that are left out have one place only.
    fn moved(&self, rank: usize, to: impl Fn(usize) -> Option<usize>) -> Affine {
        let mut coef = vec![0; rank];
        for (from, c) in self.coef.iter().enumerate() {
            if let Some(at) = to(from) {
                coef[at] = *c;
            }
        }
        Affine { coef, along: self.along.and_then(to), ..self.clone() }
    }
}

fn integer(n: f64) -> Option<i64> {
    (n.fract() == 0.0 && n.abs() < 9e15).then_some(n as i64)
}

/// Where the axes with extents are in another shape, if both have the same ones in one order.
fn unit_moves(from: &[usize], to: &[usize]) -> Option<Vec<Option<usize>>> {
    let long = |s: &[usize]| -> Vec<usize> { (0..s.len()).filter(|&i| s[i] != 1).collect() };
    let (a, b) = (long(from), long(to));
    let same = a.len() == b.len() && a.iter().zip(&b).all(|(&i, &j)| from[i] == to[j]);
    same.then(|| {
        let mut map = vec![None; from.len()];
        a.iter().zip(&b).for_each(|(&i, &j)| map[i] = Some(j));
        map
    })
}

fn affine(t: &Tensor, depth: usize) -> Option<Affine> {
    let (rank, depth) = (t.rank(), depth.checked_sub(1)?);
    if let Some(n) = number_of(t) {
        return Some(Affine::number(rank, integer(n)?));
    }
    let of = |i: usize| affine(t.input(i)?, depth);
    match t.prim() {
        Some(Prim::Iota(axis)) => {
            let mut a = Affine::number(rank, 0);
            a.coef[*axis] = i64::from(t.shape()[*axis] > 1);
            Some(a)
        }
        Some(Prim::Constant(v)) => {
            let long: Vec<usize> = (0..rank).filter(|&a| t.shape()[a] > 1).collect();
            let ([axis], true) = (&long[..], t.spec().numel() <= 1 << 20) else { return None };
            let numbers = v.to_f64();
            let (first, step) = (integer(numbers[0])?, integer(numbers[1] - numbers[0])?);
            let even = |(i, n): (usize, &f64)| *n == first as f64 + step as f64 * i as f64;
            let mut a = Affine::number(rank, first);
            a.coef[*axis] = step;
            numbers.iter().enumerate().all(even).then_some(a)
        }
        Some(Prim::Cast | Prim::Broadcast) if t.input(0)?.dtype() != frit_graph::DType::Bool => {
            of(0)
        }
        Some(Prim::Reshape) => {
            let map = unit_moves(t.input(0)?.shape(), t.shape())?;
            Some(of(0)?.moved(rank, |a| map[a]))
        }
        Some(Prim::Transpose(perm)) => {
            Some(of(0)?.moved(rank, |a| perm.iter().position(|&p| p == a)))
        }
        Some(Prim::Slice { start, step }) => {
            let mut a = of(0)?;
            if a.along.is_some() {
                return None;
            }
            for axis in 0..rank {
                a.constant += a.coef[axis] * start[axis] as i64;
                a.coef[axis] *= if t.shape()[axis] > 1 { step[axis] as i64 } else { 0 };
            }
            Some(a)
        }
        Some(Prim::Binary(Binary::Add)) => of(0)?.plus(of(1)?),
        Some(Prim::Binary(Binary::Sub)) => of(0)?.plus(of(1)?.scaled(-1)?),
        Some(Prim::Binary(Binary::Mul)) => match number_of(t.input(1)?) {
            Some(n) => of(0)?.scaled(integer(n)?),
            None => of(1)?.scaled(integer(number_of(t.input(0)?)?)?),
        },
        Some(Prim::Unary(Unary::Neg)) => of(0)?.scaled(-1),
        _ if t.dtype().is_integer() => {
            let long: Vec<usize> = (0..rank).filter(|&a| t.shape()[a] > 1).collect();
            let along = match long[..] {
                [] => None,
                [axis] => Some(axis),
                _ => return None,
            };
            let term = Some((t.clone(), 1));
            Some(Affine { term, along, ..Affine::number(rank, 0) })
        }
        _ => None,
    }
}

/// The form that is at most 0 exactly where the boolean tensor is true.
fn form(t: &Tensor, negated: bool, depth: usize) -> Option<Affine> {
    let depth = depth.checked_sub(1)?;
    let (x, rank) = (t.input(0)?, t.rank());
    match t.prim()? {
        Prim::Compare(c) => {
            let d = affine(x, depth)?.plus(affine(t.input(1)?, depth)?.scaled(-1)?)?;
            let one = Affine::number(rank, 1);
            let n = match c {
                Compare::Le => d,
                Compare::Lt => d.plus(one.clone())?,
                Compare::Ge => d.scaled(-1)?,
                Compare::Gt => d.scaled(-1)?.plus(one.clone())?,
                _ => return None,
            };
            // Of integers, not n <= 0 is 1 - n <= 0.
            if negated { n.scaled(-1)?.plus(one) } else { Some(n) }
        }
        Prim::Broadcast => form(x, negated, depth),
        Prim::Reshape => {
            let map = unit_moves(x.shape(), t.shape())?;
            Some(form(x, negated, depth)?.moved(rank, |a| map[a]))
        }
        Prim::Transpose(perm) => {
            let n = form(x, negated, depth)?;
            Some(n.moved(rank, |a| perm.iter().position(|&p| p == a)))
        }
        Prim::Unary(Unary::Not) => form(x, !negated, depth),
        _ => None,
    }
}

/// What a boolean tensor over `[.., T, S]` keeps, where that is a bound of one of these kinds.
pub(super) fn bound(t: &Tensor, negated: bool, full: &[usize]) -> Option<Bound> {
    let n = form(t, negated, DEPTH)?;
    let rank = full.len();
    if n.coef.len() != rank || n.along.is_some_and(|a| a != 0 || rank < 4) {
        return None;
    }
    let (rows, columns) = (full[rank - 2] as i64, full[rank - 1] as i64);
    let largest: i64 = n.coef.iter().zip(full).map(|(c, &d)| (c * (d as i64 - 1)).max(0)).sum();
    if n.term.is_none() && largest + n.constant <= 0 {
        return Some(Bound::Always);
    }
    if n.coef[..rank - 2].iter().any(|c| *c != 0) {
        return None;
    }
    let by_row = rows > 1;
    // The position of row t among the keys is t + length - rows.
    match (n.coef[rank - 1], n.coef[rank - 2], n.term) {
        (1, 0, Some((term, -1))) if columns > 1 => {
            Some(Bound::Exists(Length { term, offset: 1 - n.constant }))
        }
        (1, -1, Some((term, -1))) if by_row => {
            Some(Bound::Right(0, Some(Length { term, offset: rows - n.constant })))
        }
        (-1, row, Some((term, 1))) if row == i64::from(by_row) => {
            Some(Bound::Left(0, Some(Length { term, offset: rows + n.constant })))
        }
        (1, -1, None) if by_row => {
            let right = rows - columns - n.constant;
            Some(Bound::Right(usize::try_from(right).ok()?, None))
        }
        (-1, row, None) if row == i64::from(by_row) => {
            let left = columns - rows - n.constant;
            Some(Bound::Left(usize::try_from(left).ok()?, None))
        }
        _ => None,
    }
}

/// The length that a boolean tensor compares one axis with, where it is true before it.
pub(super) fn length_along(t: &Tensor, axis: usize) -> Option<Length> {
    let n = form(t, false, DEPTH)?;
    let others = (0..n.coef.len()).all(|a| n.coef[a] == i64::from(a == axis));
    match n.term {
        Some((term, -1)) if others => Some(Length { term, offset: 1 - n.constant }),
        _ => None,
    }
}
