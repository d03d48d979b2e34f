//! What stands around a convolution and becomes part of it: products and sums with numbers or with
//! one number a channel (a normalisation with known statistics is such), and the activation.
//!
//! Behind a convolution they change its weight and bias; before one that has no zeros around x they
//! do so too. What they become of weights is computed once, as everything that weights alone decide.

use super::{Conv, ConvInputs};
use crate::{
    Activation, Conv1d, Conv1dInputs, Gelu, Silu,
    linear::{activations, widened},
};
use frit_graph::{
    Binary, DType, Operands, Prim, Rewrite, Rule, Site, Tensor, pattern::before_widening,
};

pub(super) fn rules() -> Vec<Rule> {
    let spellings = activations();
    let behind = move |site: Site<'_>| {
        let (mut t, mut activation) = (site.node().clone(), Activation::Identity);
        let mut inside = vec![t.clone()];
        if let Some(a) = activation_block(&t) {
            let Some(x) = t.input(0).cloned() else { return Rewrite::NoMatch };
            (activation, t) = (a, x);
        } else if let Some((a, m)) =
            spellings.iter().find_map(|(a, p)| Some((*a, p.find(&t)?)))
            && let Some(x) = m.tensor("x").cloned()
        {
            inside.extend_from_slice(m.interior());
            inside.extend(widened(&x, m.interior()));
            (activation, t) = (a, x);
        }
        let line = Line::over(&t);
        let Some((conv, inputs)) = convolution(&line.base) else { return Rewrite::NoMatch };
        let nothing = line.steps.is_empty() && activation == Activation::Identity;
        if nothing || conv.activation() != Activation::Identity {
            return Rewrite::NoMatch;
        }
        inside.extend(line.inside());
        if let Some(why) = site.leaks(&inside) {
            return Rewrite::Refused(why);
        }
        Rewrite::of(site.node(), conv.with(activation).of(line.behind(inputs)))
    };
    let before = |site: Site<'_>| {
        let Some((conv, inputs)) = convolution(site.node()) else { return Rewrite::NoMatch };
        let line = Line::over(&inputs.x);
        if line.steps.is_empty() || conv.has_zeros_around() || conv.groups() != 1 {
            return Rewrite::NoMatch;
        }
        // The values before are often needed elsewhere, and then nothing is lost.
        let mut inside = line.inside();
        inside.pop();
        inside.push(site.node().clone());
        if site.leaks(&inside).is_some() {
            return Rewrite::NoMatch;
        }
        Rewrite::of(site.node(), conv.of(line.before(inputs)))
    };
    let ends = ["add", "sub", "mul", "div", "max", "min", "tanh", "gelu", "silu"];
    vec![
        Rule::new("conv", behind).at(ends),
        Rule::new("conv", before).at(["conv", "conv1d"]),
    ]
}

fn activation_block(t: &Tensor) -> Option<Activation> {
    let gelu = t.block::<Gelu>().map(|g| Activation::Gelu(g.form));
    gelu.or_else(|| t.block::<Silu>().map(|_| Activation::Silu))
}

/// Either of the two Blocks.
#[derive(Clone)]
enum Either {
    Any(Conv),
    One(Conv1d),
}

impl Either {
    fn activation(&self) -> Activation {
        match self {
            Either::Any(c) => c.activation,
            Either::One(c) => c.activation,
        }
    }

    fn groups(&self) -> usize {
        match self {
            Either::Any(c) => c.groups,
            Either::One(c) => c.groups,
        }
    }

    fn has_zeros_around(&self) -> bool {
        match self {
            Either::Any(c) => c.pads.iter().any(|p| *p != (0, 0)),
            Either::One(c) => c.padding > 0,
        }
    }

    fn with(mut self, activation: Activation) -> Either {
        match &mut self {
            Either::Any(c) => c.activation = activation,
            Either::One(c) => c.activation = activation,
        }
        self
    }

    fn of(self, i: ConvInputs<Tensor>) -> Tensor {
        match self {
            Either::Any(c) => Tensor::block(c, i),
            Either::One(c) => {
                let ConvInputs { x, weight, bias } = i;
                Tensor::block(c, Conv1dInputs { x, weight, bias })
            }
        }
    }
}

fn convolution(t: &Tensor) -> Option<(Either, ConvInputs<Tensor>)> {
    let any = t.block::<Conv>().map(|c| Either::Any(c.clone()));
    let conv = any.or_else(|| t.block::<Conv1d>().map(|c| Either::One(c.clone())))?;
    Some((conv, ConvInputs::unflatten(t.inputs().to_vec())?))
}

/// `base` times and plus numbers that weights alone decide, in steps.
struct Line {
    base: Tensor,
    /// From the outermost: what is done, with one number or one a channel, in f32.
    steps: Vec<(Binary, Tensor)>,
    nodes: Vec<Tensor>,
}

impl Line {
    /// What `t` is a line over.
    fn over(t: &Tensor) -> Line {
        let mut line = Line { base: t.clone(), steps: Vec::new(), nodes: Vec::new() };
        while let Some((step, x)) = step(&line.base) {
            line.nodes.push(line.base.clone());
            line.steps.push(step);
            line.base = x;
        }
        line
    }

    /// The nodes that the line is made of, its base among them, last.
    fn inside(&self) -> Vec<Tensor> {
        self.nodes.iter().chain([&self.base]).cloned().collect()
    }

    /// The factor and the term that all steps come to, if any step has one.
    fn total(&self) -> (Option<Tensor>, Option<Tensor>) {
        let (mut factor, mut term): (Option<Tensor>, Option<Tensor>) = (None, None);
        for (f, v) in self.steps.iter().rev() {
            match f {
                Binary::Mul => {
                    factor = Some(factor.map_or(v.clone(), |f| f * v));
                    term = term.map(|t| t * v);
                }
                Binary::Div => {
                    factor = Some(factor.unwrap_or_else(|| Tensor::scalar(DType::F32, 1.0)) / v);
                    term = term.map(|t| t / v);
                }
                Binary::Sub => term = Some(term.map_or(-v, |t| t - v)),
                _ => term = Some(term.map_or(v.clone(), |t| t + v)),
            }
        }
        (factor, term)
    }

    /// The operands of a convolution that the line is behind.
    fn behind(&self, i: ConvInputs<Tensor>) -> ConvInputs<Tensor> {
        let (factor, term) = self.total();
        let out = i.weight.shape()[0];
        let mut line = vec![1; i.weight.rank()];
        line[0] = out;
        let (mut weight, mut bias) = (i.weight, i.bias);
        if let Some(f) = factor {
            let f = along(&f, out);
            weight = weight.cast(DType::F32) * f.reshape(&line);
            bias = bias.map(|b| b.cast(DType::F32) * &f);
        }
        if let Some(t) = term {
            let t = along(&t, out);
            bias = Some(bias.map_or(t.clone(), |b| b.cast(DType::F32) + &t));
        }
        ConvInputs { x: i.x, weight, bias }
    }

    /// The operands of a convolution that the line is before.
    fn before(&self, i: ConvInputs<Tensor>) -> ConvInputs<Tensor> {
        let (factor, term) = self.total();
        let (out, channels) = (i.weight.shape()[0], i.weight.shape()[1]);
        let mut line = vec![1; i.weight.rank()];
        line[1] = channels;
        let (mut weight, mut bias) = (i.weight.cast(DType::F32), i.bias);
        if let Some(t) = term {
            let rest: Vec<isize> = (1..weight.rank() as isize).collect();
            let sum = (&weight * along(&t, channels).reshape(&line)).sum(&rest).reshape(&[out]);
            bias = Some(bias.map_or(sum.clone(), |b| b.cast(DType::F32) + &sum));
        }
        if let Some(f) = factor {
            weight = weight * along(&f, channels).reshape(&line);
        }
        ConvInputs { x: self.base.clone(), weight, bias }
    }
}

fn along(v: &Tensor, n: usize) -> Tensor {
    v.reshape(&[v.spec().numel()]).broadcast_to(&[n])
}

/// `x` times, divided by, plus or minus a number for all or one for each channel.
fn step(t: &Tensor) -> Option<((Binary, Tensor), Tensor)> {
    let Some(Prim::Binary(f @ (Binary::Add | Binary::Sub | Binary::Mul | Binary::Div))) = t.prim()
    else {
        return None;
    };
    let (a, b) = (t.input(0)?, t.input(1)?);
    if let Some(v) = numbers(b) {
        return Some(((*f, v), a.clone()));
    }
    let turns = matches!(f, Binary::Add | Binary::Mul);
    let v = numbers(a).filter(|_| turns)?;
    Some(((*f, v), b.clone()))
}

/// The number, or those of each channel, that weights alone decide, in f32.
fn numbers(t: &Tensor) -> Option<Tensor> {
    let channels = *t.shape().get(1)?;
    let mut v = t;
    // What only repeats it.
    while matches!(v.prim(), Some(Prim::Broadcast)) {
        v = v.input(0)?;
    }
    let numel = v.spec().numel();
    let others = v.shape().iter().enumerate().all(|(i, &d)| i == 1 || d == 1);
    let fits = numel == 1 || (v.rank() == t.rank() && others && numel == channels);
    let mut left = 32;
    let constant = fits && t.dtype().is_float() && of_weights(v, &mut left);
    constant.then(|| before_widening(v).cast(DType::F32).reshape(&[numel]))
}

fn of_weights(t: &Tensor, left: &mut usize) -> bool {
    if *left == 0 || matches!(t.prim(), Some(Prim::Input(_))) {
        return false;
    }
    *left -= 1;
    t.inputs().iter().flatten().all(|x| of_weights(x, left))
}
