//! Integers that are counted along axes: what masks compare and positions are made of.

use frit_graph::{
    Binary, DType, Prim, Tensor, Unary,
    pattern::{number_of, same_value},
};

const DEPTH: usize = 16;

/// `sum of coef[axis] * index[axis] + constant + factor * term`, of integers.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    /// By axis.
    pub(crate) coef: Vec<i64>,
    /// Added.
    pub(crate) constant: i64,
    /// A tensor that is not known, and its factor.
    pub(crate) term: Option<(Tensor, i64)>,
    /// The axis that the term runs along, if it is not one number.
    pub(crate) along: Option<usize>,
}

impl Counted {
    pub(crate) fn number(rank: usize, constant: i64) -> Counted {
        Counted { coef: vec![0; rank], constant, term: None, along: None }
    }

    pub(crate) fn scaled(mut self, by: i64) -> Option<Counted> {
        self.coef.iter_mut().try_for_each(|c| c.checked_mul(by).map(|n| *c = n))?;
        self.constant = self.constant.checked_mul(by)?;
        self.term = match self.term {
            Some((t, f)) => Some((t, f.checked_mul(by)?)),
            None => None,
        };
        Some(self)
    }

    pub(crate) fn plus(mut self, other: Counted) -> Option<Counted> {
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
    pub(crate) fn moved(&self, rank: usize, to: impl Fn(usize) -> Option<usize>) -> Counted {
        let mut coef = vec![0; rank];
        for (from, c) in self.coef.iter().enumerate() {
            if let Some(at) = to(from) {
                coef[at] = *c;
            }
        }
        Counted { coef, along: self.along.and_then(to), ..self.clone() }
    }
}

fn integer(n: f64) -> Option<i64> {
    (n.fract() == 0.0 && n.abs() < 9e15).then_some(n as i64)
}

/// Where the axes with extents are in another shape, if both have the same ones in one order.
pub(crate) fn unit_moves(from: &[usize], to: &[usize]) -> Option<Vec<Option<usize>>> {
    let long = |s: &[usize]| -> Vec<usize> { (0..s.len()).filter(|&i| s[i] != 1).collect() };
    let (a, b) = (long(from), long(to));
    let same = a.len() == b.len() && a.iter().zip(&b).all(|(&i, &j)| from[i] == to[j]);
    same.then(|| {
        let mut map = vec![None; from.len()];
        a.iter().zip(&b).for_each(|(&i, &j)| map[i] = Some(j));
        map
    })
}

fn count(t: &Tensor, depth: usize) -> Option<Counted> {
    let (rank, depth) = (t.rank(), depth.checked_sub(1)?);
    if let Some(n) = number_of(t) {
        return Some(Counted::number(rank, integer(n)?));
    }
    let of = |i: usize| count(t.input(i)?, depth);
    match t.prim() {
        Some(Prim::Iota(axis)) => {
            let mut a = Counted::number(rank, 0);
            a.coef[*axis] = i64::from(t.shape()[*axis] > 1);
            Some(a)
        }
        Some(Prim::Constant(v)) => {
            let long: Vec<usize> = (0..rank).filter(|&a| t.shape()[a] > 1).collect();
            let ([axis], true) = (&long[..], t.spec().numel() <= 1 << 20) else { return None };
            let numbers = v.to_f64();
            let (first, step) = (integer(numbers[0])?, integer(numbers[1] - numbers[0])?);
            let even = |(i, n): (usize, &f64)| *n == first as f64 + step as f64 * i as f64;
            let mut a = Counted::number(rank, first);
            a.coef[*axis] = step;
            numbers.iter().enumerate().all(even).then_some(a)
        }
        Some(Prim::Cast | Prim::Broadcast) if t.input(0)?.dtype() != DType::Bool => of(0),
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
            Some(Counted { term, along, ..Counted::number(rank, 0) })
        }
        _ => None,
    }
}

/// The tensor as counting, if it is nothing else.
pub(crate) fn counted(t: &Tensor) -> Option<Counted> {
    count(t, DEPTH)
}
