//! Products, sums and means: every order and bracketing of their terms, and their inverses.

use super::{Frame, Goals, Search, State, Want, one, push};
use crate::{
    Binary, Prim, Reduce, Tensor, Unary,
    pattern::{
        Axis, Kind, Pattern,
        known::{number_of, slack},
        near,
    },
};

impl Search<'_> {
    pub(super) fn mean(
        &mut self,
        axis: Axis,
        p: &Pattern,
        t: &Tensor,
        frame: &Frame,
        next: &Goals,
        mut state: State,
    ) -> Option<State> {
        let (mut total, mut frame, mut inside) = (t.clone(), frame.clone(), vec![t.clone()]);
        let mut count = None;
        if let (Some(Prim::Binary(b @ (Binary::Mul | Binary::Div))), Some(x), Some(y)) =
            (t.prim(), t.input(0), t.input(1))
        {
            match (number_of(x), number_of(y)) {
                (_, Some(n)) => {
                    total = x.clone();
                    count = Some(if *b == Binary::Div { n } else { 1.0 / n });
                }
                (Some(n), _) if *b == Binary::Mul => {
                    total = y.clone();
                    count = Some(1.0 / n);
                }
                _ => return None,
            }
        }
        while !matches!(total.prim(), Some(Prim::Reduce(..))) {
            let (inner, f) = self.through(&total, &frame)?;
            // A division below the broadcast is found from there.
            if !total.is(t) {
                inside.push(total.clone());
            }
            (total, frame) = (inner, f);
            if matches!(total.prim(), Some(Prim::Binary(Binary::Mul | Binary::Div))) {
                if count.is_some() {
                    return None;
                }
                state.interior.extend(inside);
                return self.mean(axis, p, &total, &frame, next, state);
            }
        }
        let (Some(Prim::Reduce(Reduce::Sum, axes)), Some(x)) = (total.prim(), total.input(0))
        else {
            return None;
        };
        state.done += 1;
        let frame = self.reduced(axis, axes, &total, &frame, &mut state, "mean")?;
        let extent: usize = axes.iter().map(|&a| x.shape()[a]).product();
        let n = count.unwrap_or(1.0);
        // A narrow type holds an inverse only nearly, and a large extent too.
        if (n - extent as f64).abs() > slack(t.dtype()).max(1e-6) * extent as f64 {
            return self.miss(&state, || {
                format!("the sum over {extent} elements is divided by {n}: it is no mean")
            });
        }
        state.interior.extend(inside);
        state.interior.push(total.clone());
        self.run(push(one(p), x, &frame, next), state)
    }

    pub(super) fn product(
        &mut self,
        items: &[Pattern],
        t: &Tensor,
        frame: &Frame,
        next: &Goals,
        state: State,
    ) -> Option<State> {
        if let [single] = items {
            return self.run(push(one(single), t, frame, next), state);
        }
        let deeper = State { done: state.done + 1, ..state.clone() };
        let deeper = || {
            let mut s = deeper.clone();
            s.interior.push(t.clone());
            s
        };
        let (prim, x, y) = (t.prim()?, t.input(0)?, t.input(1));
        let equal = items.iter().all(|i| i.same(&items[0]));
        match prim {
            Prim::Binary(Binary::Mul) => splits(items).find_map(|(a, b)| {
                let goals = push(Want::Product(b), y?, frame, next);
                self.run(push(Want::Product(a), x, frame, &goals), deeper())
            }),
            Prim::Binary(Binary::Div) => {
                let whole = (Vec::new(), items.to_vec());
                splits(items).chain([whole]).find_map(|(a, b)| {
                    let b = b.iter().map(Pattern::inverted).collect();
                    let a = if a.is_empty() { one(&near(1.0)) } else { Want::Product(a) };
                    let goals = push(Want::Product(b), y?, frame, next);
                    self.run(push(a, x, frame, &goals), deeper())
                })
            }
            Prim::Binary(Binary::Pow) if equal && number_of(y?) == Some(items.len() as f64) => {
                self.run(push(one(&items[0]), x, frame, next), deeper())
            }
            Prim::Unary(Unary::Neg) => {
                let at = items.iter().position(|i| matches!(*i.0, Kind::Near(_)))?;
                let mut items = items.to_vec();
                items[at] = items[at].negated();
                self.run(push(Want::Product(items), x, frame, next), deeper())
            }
            _ => self.below(Want::Product(items.to_vec()), t, frame, next, state),
        }
    }

    pub(super) fn sum(
        &mut self,
        items: &[Pattern],
        t: &Tensor,
        frame: &Frame,
        next: &Goals,
        state: State,
    ) -> Option<State> {
        if let [single] = items {
            return self.run(push(one(single), t, frame, next), state);
        }
        let deeper = || {
            let mut s = state.clone();
            s.done += 1;
            s.interior.push(t.clone());
            s
        };
        let (prim, x, y) = (t.prim()?, t.input(0)?, t.input(1));
        match prim {
            Prim::Binary(Binary::Add) => splits(items).find_map(|(a, b)| {
                let goals = push(Want::Sum(b), y?, frame, next);
                self.run(push(Want::Sum(a), x, frame, &goals), deeper())
            }),
            Prim::Binary(Binary::Sub) => splits(items).find_map(|(a, b)| {
                let b = b.iter().map(Pattern::negated).collect();
                let goals = push(Want::Sum(b), y?, frame, next);
                self.run(push(Want::Sum(a), x, frame, &goals), deeper())
            }),
            Prim::Unary(Unary::Neg) => {
                let items = items.iter().map(Pattern::negated).collect();
                self.run(push(Want::Sum(items), x, frame, next), deeper())
            }
            _ => self.below(Want::Sum(items.to_vec()), t, frame, next, state),
        }
    }
}

/// Every way to part a list in two that are not empty.
fn splits(items: &[Pattern]) -> impl Iterator<Item = (Vec<Pattern>, Vec<Pattern>)> {
    (1..(1usize << items.len()) - 1).map(move |mask| {
        let side = |wanted: bool| {
            let chosen = (0..items.len()).filter(move |i| (mask >> i & 1 == 1) == wanted);
            chosen.map(|i| items[i].clone()).collect()
        };
        (side(true), side(false))
    })
}
