//! Reading an equation and choosing the order of its contractions.

use std::fmt;

/// One axis label: a letter, or an axis of the ellipsis counted from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Letter {
    /// An axis of the ellipsis; 0 is the last one.
    Dots(usize),
    /// A letter.
    Named(char),
}

impl fmt::Display for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Letter::Dots(_) => f.write_str("..."),
            Letter::Named(c) => write!(f, "{c}"),
        }
    }
}

/// The letters of an operand, one an axis.
pub(crate) type Term = Vec<Letter>;

/// An equation bound to shapes.
#[derive(Clone, Debug, PartialEq)]
pub struct Equation {
    operands: Vec<Term>,
    output: Term,
    letters: Vec<(Letter, usize)>,
}

/// One step of the path: the operands at `left < right` are taken out of the list and their
/// product, with the letters that `keep` wants, is put at its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Contraction {
    /// Place of the first operand.
    pub left: usize,
    /// Place of the second operand.
    pub right: usize,
    /// Letters that the output or a later operand needs.
    pub keep: Vec<Letter>,
}

impl Equation {
    pub(crate) fn bind(text: &str, shapes: &[&[usize]]) -> Result<Equation, String> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (inputs, output) = match text.split_once("->") {
            Some((i, o)) => (i.to_string(), Some(o.to_string())),
            None => (text.clone(), None),
        };
        let terms: Vec<&str> = inputs.split(',').collect();
        if terms.len() != shapes.len() {
            let (t, s) = (terms.len(), shapes.len());
            return Err(format!("{t} operands in the equation, got {s}"));
        }
        let mut operands = Vec::new();
        for (n, (term, shape)) in terms.iter().zip(shapes).enumerate() {
            operands.push(read(term, Some(shape.len())).map_err(|e| format!("operand {n}: {e}"))?);
        }
        let mut letters: Vec<(Letter, usize, usize)> = Vec::new();
        for (n, (term, shape)) in operands.iter().zip(shapes).enumerate() {
            for (l, &d) in term.iter().zip(*shape) {
                match letters.iter_mut().find(|k| k.0 == *l) {
                    None => letters.push((*l, d, n)),
                    Some(k) if k.1 == d || d == 1 => {}
                    Some(k) if k.1 == 1 => (k.1, k.2) = (d, n),
                    Some(k) => {
                        let (was, from) = (k.1, k.2);
                        return Err(format!("{l} is {was} in operand {from} and {d} in operand {n}"));
                    }
                }
                // A diagonal of extents that differ has no meaning, not even for 1.
                let own = term.iter().zip(*shape).find(|(m, _)| *m == l);
                if own.is_some_and(|(_, &e)| e != d) {
                    return Err(format!("{l} repeats with two extents in operand {n}"));
                }
            }
        }
        let dots = letters.iter().filter(|l| matches!(l.0, Letter::Dots(_))).count();
        let output = match output {
            Some(o) => {
                let found = read(&o, None)?;
                let all = expand(&found, dots);
                for (i, l) in all.iter().enumerate() {
                    if !letters.iter().any(|k| k.0 == *l) {
                        return Err(format!("{l} stands in the output only"));
                    }
                    if all[..i].contains(l) {
                        return Err(format!("{l} stands twice in the output"));
                    }
                }
                all
            }
            None => {
                let count = |l: &Letter| operands.iter().flatten().filter(|m| *m == l).count();
                let mut once: Term = letters
                    .iter()
                    .map(|l| l.0)
                    .filter(|l| matches!(l, Letter::Named(_)) && count(l) == 1)
                    .collect();
                once.sort_unstable();
                (0..dots).rev().map(Letter::Dots).chain(once).collect()
            }
        };
        let letters = letters.into_iter().map(|l| (l.0, l.1)).collect();
        Ok(Equation { operands, output, letters })
    }

    /// The letters of each operand.
    pub fn operands(&self) -> &[Vec<Letter>] {
        &self.operands
    }

    /// The letters of the output.
    pub fn output(&self) -> &[Letter] {
        &self.output
    }

    /// Every letter with its extent.
    pub fn letters(&self) -> &[(Letter, usize)] {
        &self.letters
    }

    /// Extents of the output.
    pub fn output_shape(&self) -> Vec<usize> {
        self.output.iter().map(|l| self.extent(l)).collect()
    }

    pub(crate) fn knows(&self, l: &Letter) -> bool {
        self.letters.iter().any(|k| k.0 == *l)
    }

    fn extent(&self, l: &Letter) -> usize {
        self.letters.iter().find(|k| k.0 == *l).map_or(1, |k| k.1)
    }

    /// The contractions in the order that costs the fewest multiplications: the best of all orders
    /// up to five operands, the cheapest next pair beyond.
    pub fn path(&self) -> Vec<Contraction> {
        let terms: Vec<Term> = self.operands.clone();
        match terms.len() {
            0 | 1 => Vec::new(),
            2..=5 => self.best(&terms).1,
            _ => self.greedy(terms),
        }
    }

    fn step(&self, terms: &[Term], left: usize, right: usize) -> (f64, Vec<Term>, Contraction) {
        let mut rest = terms.to_vec();
        let (b, a) = (rest.remove(right), rest.remove(left));
        let later = |l: &Letter| self.output.contains(l) || rest.iter().any(|t| t.contains(l));
        let mut all: Term = Vec::new();
        a.iter().chain(&b).for_each(|l| {
            if !all.contains(l) {
                all.push(*l);
            }
        });
        let cost = all.iter().map(|l| self.extent(l) as f64).product();
        let keep: Term = all.into_iter().filter(later).collect();
        rest.push(keep.clone());
        (cost, rest, Contraction { left, right, keep })
    }

    fn best(&self, terms: &[Term]) -> (f64, Vec<Contraction>) {
        let mut best = (f64::INFINITY, Vec::new());
        for right in 1..terms.len() {
            for left in 0..right {
                let (cost, rest, step) = self.step(terms, left, right);
                let (more, path) =
                    if rest.len() > 1 { self.best(&rest) } else { (0.0, Vec::new()) };
                if cost + more < best.0 || best.1.is_empty() {
                    best = (cost + more, [vec![step], path].concat());
                }
            }
        }
        best
    }

    fn greedy(&self, mut terms: Vec<Term>) -> Vec<Contraction> {
        let mut path = Vec::new();
        while terms.len() > 1 {
            let pairs = (1..terms.len()).flat_map(|r| (0..r).map(move |l| (l, r)));
            let steps = pairs.map(|(l, r)| self.step(&terms, l, r));
            let Some((_, rest, step)) = steps.min_by(|a, b| a.0.total_cmp(&b.0)) else { break };
            terms = rest;
            path.push(step);
        }
        path
    }
}

/// Reads a term. With a rank the ellipsis is expanded to the axes that the letters leave;
/// without one it stays a single marker, `Dots(usize::MAX)`.
fn read(term: &str, rank: Option<usize>) -> Result<Term, String> {
    let named = term.chars().filter(|c| c.is_ascii_alphabetic()).count();
    let (mut out, mut chars, mut dotted) = (Term::new(), term.chars().peekable(), false);
    while let Some(c) = chars.next() {
        match c {
            c if c.is_ascii_alphabetic() => out.push(Letter::Named(c)),
            '.' if !dotted && chars.next() == Some('.') && chars.next() == Some('.') => {
                dotted = true;
                match rank {
                    Some(r) => {
                        let n = r.checked_sub(named).ok_or(format!("`{term}` wants more axes"))?;
                        out.extend((0..n).rev().map(Letter::Dots));
                    }
                    None => out.push(Letter::Dots(usize::MAX)),
                }
            }
            other => return Err(format!("`{other}` is neither a letter nor an ellipsis")),
        }
    }
    match rank {
        Some(r) if out.len() != r => {
            Err(format!("`{term}` names {} axes, the operand has {r}", out.len()))
        }
        _ => Ok(out),
    }
}

fn expand(term: &[Letter], dots: usize) -> Term {
    let each = |l: &Letter| match l {
        Letter::Dots(usize::MAX) => (0..dots).rev().map(Letter::Dots).collect(),
        other => vec![*other],
    };
    term.iter().flat_map(each).collect()
}
