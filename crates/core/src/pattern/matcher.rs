//! Finding a pattern at a node: depth first over the ways that alternatives and orders leave open.
//!
//! Every operand carries a *frame*: which axis of the root each of its axes is. Broadcasts keep it,
//! axes of extent 1 may come and go, and what is captured twice must be seen in one frame.

mod arithmetic;

use super::{
    Axis, Kind, Pattern,
    known::{before_widening, number_of, passes, same_value, slack, tidy, widens},
    mirrored,
};
use crate::{Binary, Prim, Site, Tensor, Unary};
use std::rc::Rc;

/// A pattern leaves few ways open; one that leaves more is given up.
const STEPS: usize = 50_000;

type Frame = Rc<[Option<usize>]>;

/// What a name stands for.
#[derive(Clone, Debug)]
enum Captured {
    Tensor(Tensor, Frame),
    Number(f64),
    Axis(usize),
}

#[derive(Clone)]
enum Want {
    One(Pattern),
    Product(Vec<Pattern>),
    Sum(Vec<Pattern>),
}

struct Goal {
    want: Want,
    tensor: Tensor,
    frame: Frame,
    next: Goals,
}

type Goals = Option<Rc<Goal>>;

#[derive(Clone, Default)]
struct State {
    captured: Vec<(&'static str, Captured)>,
    interior: Vec<Tensor>,
    done: usize,
}

/// A pattern found: what its names stand for.
#[derive(Clone, Debug)]
pub struct Match {
    root: Tensor,
    spelling: &'static str,
    captured: Vec<(&'static str, Captured)>,
    interior: Vec<Tensor>,
}

/// How an attempt ended.
pub(crate) enum Attempt {
    No,
    Near(String),
    Found(Match),
}

impl Match {
    fn captured(&self, name: &str) -> Option<&Captured> {
        self.captured.iter().find(|c| c.0 == name).map(|c| &c.1)
    }

    /// The node that was found.
    pub fn root(&self) -> &Tensor {
        &self.root
    }

    /// The nodes that the formula takes up, its root among them; what they are computed of is not.
    pub fn interior(&self) -> &[Tensor] {
        &self.interior
    }

    /// The name of the spelling.
    pub fn spelling(&self) -> &'static str {
        self.spelling
    }

    /// The tensor of this name, if the spelling has it.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        match self.captured(name)? {
            Captured::Tensor(t, _) => Some(t),
            _ => None,
        }
    }

    /// The tensor of this name in the type of the root, as long as that loses nothing: the operand
    /// that decides the type of the result.
    ///
    /// # Errors
    /// Where the spelling has no such name.
    pub fn main(&self, name: &str) -> Result<Tensor, String> {
        let t = self.tensor(name).ok_or_else(|| format!("`{name}` is not in the spelling"))?;
        // Under a cast the root's type is another one: then another node is the root.
        let cast = matches!(self.root.prim(), Some(Prim::Cast));
        match !cast && widens(t.dtype(), self.root.dtype()) {
            true => Ok(t.cast(self.root.dtype())),
            false => Ok(t.clone()),
        }
    }

    /// The vector of this name with one axis, if the spelling has it.
    pub fn vector(&self, name: &str) -> Option<Tensor> {
        let t = self.tensor(name)?;
        Some(t.reshape(&[t.spec().numel()]))
    }

    /// The number of this name, if the spelling has it.
    pub fn number(&self, name: &str) -> Option<f64> {
        match self.captured(name)? {
            Captured::Number(n) => Some(*n),
            _ => None,
        }
    }

    /// The axis of the root of this name, if the spelling has it.
    pub fn axis(&self, name: &str) -> Option<usize> {
        match self.captured(name)? {
            Captured::Axis(a) => Some(*a),
            _ => None,
        }
    }
}

/// Looks for the patterns at the node of a site; the first that is found wins.
pub(crate) fn attempt(site: Site<'_>, patterns: &[(&'static str, Pattern)]) -> Attempt {
    let root = site.node();
    let mut inner = root;
    while let (Some(Prim::Cast), Some(from)) = (inner.prim(), inner.input(0)) {
        inner = from;
    }
    if matches!(inner.prim(), Some(Prim::Broadcast | Prim::Reshape)) {
        return Attempt::No;
    }
    let mut nearest: Option<(usize, String)> = None;
    for (spelling, pattern) in patterns {
        let mut search = Search { root, steps: 0, nearest: None };
        match search.start(pattern, spelling) {
            Some(m) => match leaks(site, &m.interior) {
                None => return Attempt::Found(m),
                Some(why) => nearest = Some((usize::MAX, why)),
            },
            None => {
                let wanted = (pattern.operations() * 3).div_ceil(5).max(3);
                if let Some(near) = search.nearest.filter(|n| n.0 >= wanted)
                    && has_functions_of(root, pattern)
                    && nearest.as_ref().is_none_or(|n| n.0 < near.0)
                {
                    nearest = Some(near);
                }
            }
        }
    }
    nearest.map_or(Attempt::No, |n| Attempt::Near(n.1))
}

/// Nodes below a root that are looked at for the functions of a pattern.
const NEARBY: usize = 48;

/// Whether the functions that tell a pattern are below the root, with primitives between.
fn has_functions_of(root: &Tensor, pattern: &Pattern) -> bool {
    let mut telling = Vec::new();
    pattern.telling(&mut telling);
    let mut nearby = vec![root];
    let mut at = 0;
    while at < nearby.len() && nearby.len() < NEARBY {
        let inputs = nearby[at].inputs().iter().flatten();
        nearby.extend(inputs.filter(|t| t.prim().is_some()));
        at += 1;
    }
    telling.iter().all(|names| nearby.iter().any(|t| names.contains(&t.name())))
}

impl Pattern {
    /// Looks for the pattern at a node, for rules that are no single formula.
    pub fn find(&self, at: &Tensor) -> Option<Match> {
        Search { root: at, steps: 0, nearest: None }.start(self, "")
    }
}

/// Why what lies inside a match is needed outside of it, if it is.
pub(crate) fn leaks(site: Site<'_>, interior: &[Tensor]) -> Option<String> {
    let mut inside: Vec<&Tensor> = Vec::new();
    for t in interior {
        if !inside.iter().any(|i| i.is(t)) {
            inside.push(t);
        }
    }
    let root = site.node();
    for t in inside.iter().filter(|t| !t.is(root)) {
        if site.is_output(t) {
            return Some(format!("the {} inside ({}) is an output of the graph", t.name(), t.at()));
        }
        let users =
            inside.iter().copied().chain((!inside.iter().any(|i| i.is(root))).then_some(root));
        let edges: usize =
            users.map(|u| u.inputs().iter().flatten().filter(|i| i.is(t)).count()).sum();
        if site.uses(t) > edges {
            return Some(format!("the {} inside ({}) is used elsewhere too", t.name(), t.at()));
        }
    }
    None
}

struct Search<'a> {
    root: &'a Tensor,
    steps: usize,
    nearest: Option<(usize, String)>,
}

impl Search<'_> {
    fn start(&mut self, pattern: &Pattern, spelling: &'static str) -> Option<Match> {
        let root = self.root.clone();
        let frame: Frame = (0..root.rank()).map(Some).collect();
        let state = self.run(push(one(pattern), &root, &frame, &None), State::default())?;
        let State { captured, interior, .. } = state;
        Some(Match { root, spelling, captured, interior })
    }

    fn miss(&mut self, state: &State, why: impl FnOnce() -> String) -> Option<State> {
        if self.nearest.as_ref().is_none_or(|n| n.0 < state.done) {
            self.nearest = Some((state.done, why()));
        }
        None
    }

    fn run(&mut self, goals: Goals, mut state: State) -> Option<State> {
        let Some(goal) = goals else { return Some(state) };
        self.steps += 1;
        if self.steps > STEPS {
            return None;
        }
        let (t, frame, next) = (&goal.tensor, &goal.frame, &goal.next);
        let pattern = match &goal.want {
            Want::One(p) => p.clone(),
            Want::Product(items) => return self.product(items, t, frame, next, state),
            Want::Sum(items) => return self.sum(items, t, frame, next, state),
        };
        match &*pattern.0 {
            Kind::Product(items) => self.product(items, t, frame, next, state),
            Kind::Sum(items) => self.sum(items, t, frame, next, state),
            Kind::OneOf(all) => {
                all.iter().find_map(|p| self.run(push(one(p), t, frame, next), state.clone()))
            }
            Kind::Named(name, p) => {
                self.bind(name, Captured::Tensor(t.clone(), frame.clone()), &mut state)?;
                self.run(push(one(p), t, frame, next), state)
            }
            Kind::Where(p, why, check) => match check(t) {
                true => self.run(push(one(p), t, frame, next), state),
                false => self.miss(&state, || why.to_string()),
            },
            Kind::Any(name) => {
                let base = before_widening(t).clone();
                self.bind(name, Captured::Tensor(base, frame.clone()), &mut state)?;
                self.run(next.clone(), state)
            }
            Kind::Vector(name) => {
                let (v, frame) = self.vector(name, t, frame, &state)?;
                self.bind(name, Captured::Tensor(v, frame), &mut state)?;
                self.run(next.clone(), state)
            }
            Kind::Number(name) => {
                let n = number_of(t)?;
                self.bind(name, Captured::Number(tidy(n, t.dtype())), &mut state)?;
                self.run(next.clone(), state)
            }
            Kind::Near(wanted) => {
                let n = number_of(t)?;
                let near = n == *wanted || (n - wanted).abs() <= slack(t.dtype()) * wanted.abs();
                match near {
                    true => self.run(next.clone(), state),
                    false => self.miss(&state, || format!("a constant is {n}, not {wanted}")),
                }
            }
            _ => self.operation(&pattern, t, frame, next, state),
        }
    }

    /// A name that is bound already must be bound to the same.
    fn bind(&mut self, name: &'static str, new: Captured, state: &mut State) -> Option<()> {
        let Some((_, old)) = state.captured.iter().find(|c| c.0 == name) else {
            state.captured.push((name, new));
            return Some(());
        };
        let why = match (old, &new) {
            (Captured::Tensor(a, f), Captured::Tensor(b, g)) => {
                if !same_value(a, b) {
                    format!("`{name}` stands for two tensors, {a:?} and {b:?}")
                } else if !agree(f, g, a.shape()) {
                    format!("`{name}` is turned against itself: its axes are exchanged")
                } else {
                    return Some(());
                }
            }
            (Captured::Number(a), Captured::Number(b)) if a == b => return Some(()),
            (Captured::Axis(a), Captured::Axis(b)) if a == b => return Some(()),
            (Captured::Axis(a), Captured::Axis(b)) => {
                format!("one reduction is over axis {a}, another over axis {b}")
            }
            _ => format!("`{name}` stands for two things"),
        };
        self.miss(state, || why);
        None
    }

    fn vector(
        &mut self,
        name: &str,
        t: &Tensor,
        frame: &Frame,
        state: &State,
    ) -> Option<(Tensor, Frame)> {
        let (mut t, mut frame) = (t.clone(), frame.clone());
        while let Some((inner, f)) = self.through(&t, &frame) {
            let wider = matches!(t.prim(), Some(Prim::Cast)) && !widens(inner.dtype(), t.dtype());
            if wider {
                break;
            }
            (t, frame) = (inner, f);
        }
        let last = self.root.rank().checked_sub(1)?;
        let extent = self.root.shape()[last];
        let along = t.shape().iter().zip(frame.iter()).all(|(&d, f)| d == 1 || *f == Some(last));
        if !along || t.spec().numel() != extent {
            self.miss(state, || {
                format!("`{name}` is {}, not a vector along the last axis", t.spec())
            });
            return None;
        }
        Some((t, frame))
    }

    /// What a node only passes on: the operand of a broadcast, of a cast between floats that
    /// keeps what the root keeps, of a reshape that moves axes of extent 1.
    fn through(&self, t: &Tensor, frame: &Frame) -> Option<(Tensor, Frame)> {
        let x = t.input(0)?;
        match t.prim()? {
            Prim::Cast => passes(t, self.root.dtype()).then(|| (x.clone(), frame.clone())),
            Prim::Broadcast => Some((x.clone(), frame.clone())),
            Prim::Reshape => {
                let long =
                    |s: &[usize]| -> Vec<usize> { (0..s.len()).filter(|&i| s[i] != 1).collect() };
                let (from, to) = (long(x.shape()), long(t.shape()));
                let same = from.len() == to.len()
                    && from.iter().zip(&to).all(|(&a, &b)| x.shape()[a] == t.shape()[b]);
                same.then(|| {
                    let mut new = vec![None; x.rank()];
                    from.iter().zip(&to).for_each(|(&a, &b)| new[a] = frame[b]);
                    (x.clone(), new.into())
                })
            }
            _ => None,
        }
    }

    /// Goes on below a node that only passes on, if it is one.
    fn below(
        &mut self,
        want: Want,
        t: &Tensor,
        frame: &Frame,
        next: &Goals,
        mut state: State,
    ) -> Option<State> {
        let (inner, frame) = self.through(t, frame)?;
        state.interior.push(t.clone());
        self.run(push(want, &inner, &frame, next), state)
    }

    fn operation(
        &mut self,
        pattern: &Pattern,
        t: &Tensor,
        frame: &Frame,
        next: &Goals,
        mut state: State,
    ) -> Option<State> {
        let prim = t.prim()?;
        let (x, y) = (t.input(0)?, t.input(1));
        let mut found = |parts: &[(&Pattern, &Tensor)], frame: &Frame| {
            let mut state = state.clone();
            state.done += 1;
            state.interior.push(t.clone());
            let goals =
                parts.iter().rev().fold(next.clone(), |g, (p, t)| push(one(p), t, frame, &g));
            self.run(goals, state)
        };
        let power = |n: f64| y.and_then(number_of) == Some(n);
        match (&*pattern.0, prim) {
            (Kind::Unary(wanted, p), Prim::Unary(u)) if wanted == u => found(&[(p, x)], frame),
            (Kind::Unary(Unary::Sqrt, p), Prim::Binary(Binary::Pow)) if power(0.5) => {
                found(&[(p, x)], frame)
            }
            (Kind::Unary(Unary::Rsqrt, p), Prim::Binary(Binary::Pow)) if power(-0.5) => {
                found(&[(p, x)], frame)
            }
            (Kind::Unary(Unary::Rsqrt | Unary::Sigmoid, _), Prim::Binary(Binary::Div)) => {
                found(&[(&super::near(1.0), x), (&pattern.inverted(), y?)], frame)
            }
            (Kind::Over(p), Prim::Binary(Binary::Div)) => {
                found(&[(&super::near(1.0), x), (p, y?)], frame)
            }
            (Kind::Over(p), Prim::Binary(Binary::Pow)) if power(-1.0) => found(&[(p, x)], frame),
            (Kind::Neg(p), Prim::Unary(Unary::Neg)) => found(&[(p, x)], frame),
            (Kind::Neg(p), Prim::Binary(Binary::Sub)) => {
                found(&[(&super::near(0.0), x), (p, y?)], frame)
            }
            (Kind::Neg(p), Prim::Binary(Binary::Mul)) => found(&[(&(p * -1.0), t)], frame),
            (Kind::Binary(wanted, p, q), Prim::Binary(b)) if wanted == b => {
                let y = y?;
                found(&[(p, x), (q, y)], frame).or_else(|| {
                    let commutes =
                        matches!(b, Binary::Max | Binary::Min | Binary::And | Binary::Or);
                    commutes.then(|| found(&[(p, y), (q, x)], frame)).flatten()
                })
            }
            (Kind::Compare(wanted, p, q), Prim::Compare(c)) => {
                let y = y?;
                let straight = (wanted == c).then(|| found(&[(p, x), (q, y)], frame)).flatten();
                straight.or_else(|| {
                    (mirrored(*wanted) == *c).then(|| found(&[(p, y), (q, x)], frame)).flatten()
                })
            }
            (Kind::Select(c, p, q), Prim::Select) => {
                found(&[(c, x), (p, y?), (q, t.input(2)?)], frame)
            }
            (Kind::MatMul(p, q), Prim::MatMul) => {
                // The axes of the factors are not those of the product.
                let none: Frame = vec![None; x.rank()].into();
                found(&[(p, x), (q, y?)], &none)
            }
            (Kind::Reduce(wanted, axis, p), Prim::Reduce(r, axes)) if wanted == r => {
                let frame = self.reduced(*axis, axes, t, frame, &mut state, r.name())?;
                state.done += 1;
                state.interior.push(t.clone());
                self.run(push(one(p), x, &frame, next), state)
            }
            (Kind::Mean(axis, p), _) => self.mean(*axis, p, t, frame, next, state),
            _ => self.below(one(pattern), t, frame, next, state),
        }
    }

    /// The frame of the operand of a reduction, if that is over the axis it should be over.
    fn reduced(
        &mut self,
        wanted: Axis,
        axes: &[usize],
        t: &Tensor,
        frame: &Frame,
        state: &mut State,
        what: &str,
    ) -> Option<Frame> {
        let rank = self.root.rank();
        let mut full = frame.to_vec();
        if full.len() == rank {
            let mut free = (0..rank).filter(|a| !frame.contains(&Some(*a)));
            full.iter_mut().filter(|f| f.is_none()).for_each(|f| *f = free.next());
        }
        let over: Vec<Option<usize>> =
            axes.iter().map(|&a| full.get(a).copied().flatten()).collect();
        match (wanted, &over[..]) {
            (Axis::Last, [Some(a)]) if a + 1 == rank => {}
            (Axis::Named(name), [Some(a)]) => self.bind(name, Captured::Axis(*a), state)?,
            _ => {
                self.miss(state, || match over.iter().all(Option::is_some) && axes.len() == 1 {
                    true => {
                        format!("the {what} is over axis {axes:?} of {}, not the last", t.spec())
                    }
                    false => format!("the {what} is over axes {axes:?} of {}, not one", t.spec()),
                });
                return None;
            }
        }
        Some(full.into())
    }
}

fn one(p: &Pattern) -> Want {
    Want::One(p.clone())
}

fn push(want: Want, t: &Tensor, frame: &Frame, next: &Goals) -> Goals {
    let (tensor, frame, next) = (t.clone(), frame.clone(), next.clone());
    Some(Rc::new(Goal { want, tensor, frame, next }))
}

/// Whether two frames do not contradict one another on axes that have extents.
fn agree(a: &Frame, b: &Frame, shape: &[usize]) -> bool {
    a.len() == b.len()
        && (0..a.len())
            .all(|i| shape.get(i) == Some(&1) || a[i].is_none() || b[i].is_none() || a[i] == b[i])
}
