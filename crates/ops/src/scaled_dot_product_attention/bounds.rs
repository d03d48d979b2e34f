//! What a boolean mask says of rows and columns, where it is made of counting and comparing.

use crate::counting::{Counted, counted, unit_moves};
use frit_graph::{Compare, Prim, Tensor, Unary, pattern::same_value};

const DEPTH: usize = 16;

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

/// The form that is at most 0 exactly where the boolean tensor is true.
fn form(t: &Tensor, negated: bool, depth: usize) -> Option<Counted> {
    let depth = depth.checked_sub(1)?;
    let (x, rank) = (t.input(0)?, t.rank());
    match t.prim()? {
        Prim::Compare(c) => {
            let d = counted(x)?.plus(counted(t.input(1)?)?.scaled(-1)?)?;
            let one = Counted::number(rank, 1);
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
