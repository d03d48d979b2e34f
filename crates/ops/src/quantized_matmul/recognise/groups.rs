//! Over how many neighbours along an axis a tensor holds the same number, as its views tell, and one
//! number of each such run.

use frit_graph::{Prim, Tensor, pattern::number_of};
use std::ops::Range;

/// A run over the whole axis: a multiple of every number.
const EVERYWHERE: usize = 0;
/// No more tensors than this are looked at.
const MOST: usize = 256;

/// The length of the runs from the start of an axis on in which nothing changes: [`EVERYWHERE`], or 1
/// where nothing is known.
pub(super) fn run(t: &Tensor, axis: usize) -> usize {
    deep(t, axis, &mut { MOST })
}

fn deep(t: &Tensor, axis: usize, left: &mut usize) -> usize {
    let Some(&extent) = t.shape().get(axis) else { return 1 };
    if extent <= 1 {
        return EVERYWHERE;
    }
    let (Some(prim), Some(fewer)) = (t.prim(), left.checked_sub(1)) else { return 1 };
    *left = fewer;
    let Some(x) = t.input(0) else {
        return if number_of(t).is_some() { EVERYWHERE } else { 1 };
    };
    match prim {
        Prim::Broadcast | Prim::Cast | Prim::Unary(_) => deep(x, axis, left),
        Prim::Transpose(perm) => deep(x, perm[axis], left),
        Prim::Binary(_) => {
            t.inputs().iter().flatten().fold(EVERYWHERE, |r, x| gcd(r, deep(x, axis, left)))
        }
        Prim::Slice { start, step } => match deep(x, axis, left) {
            EVERYWHERE => EVERYWHERE,
            r if step[axis] == 1 => gcd(r, start[axis]),
            _ => 1,
        },
        Prim::Reshape => {
            let Some((from, to)) = block(x.shape(), t.shape(), axis) else { return 1 };
            // The run of all axes of the block as one.
            let (mut all, mut ends) = (1, false);
            for a in from.rev() {
                let extent = x.shape()[a];
                match deep(x, a, left) {
                    EVERYWHERE => all *= extent,
                    r => {
                        (all, ends) = (all * gcd(r, extent), true);
                        break;
                    }
                }
            }
            let behind: usize = t.shape()[axis + 1..to.end].iter().product();
            match all % behind {
                _ if !ends => EVERYWHERE,
                0 if (all / behind).is_multiple_of(extent) => EVERYWHERE,
                0 => gcd(all / behind, extent),
                _ => 1,
            }
        }
        _ => 1,
    }
}

/// Every `step`-th number along an axis whose extent is a multiple of it; what repeats numbers is not
/// written out for it.
pub(super) fn sample(t: &Tensor, axis: usize, step: usize) -> Tensor {
    sampled(t, axis, step, &mut { MOST })
}

fn sampled(t: &Tensor, axis: usize, step: usize, left: &mut usize) -> Tensor {
    if step == 1 {
        return t.clone();
    }
    below(t, axis, step, left).unwrap_or_else(|| {
        let count = t.shape()[axis] / step;
        t.slice_step(axis as isize, 0, step as isize, count)
    })
}

/// The same from samples of its operands.
fn below(t: &Tensor, axis: usize, step: usize, left: &mut usize) -> Option<Tensor> {
    *left = left.checked_sub(1)?;
    let x = t.input(0)?;
    let mut inner = |x: &Tensor, axis: usize, step: usize| sampled(x, axis, step, left);
    let mut shape = t.shape().to_vec();
    shape[axis] /= step;
    match t.prim()? {
        Prim::Broadcast if x.shape()[axis] == 1 => Some(x.broadcast_to(&shape)),
        Prim::Broadcast => Some(inner(x, axis, step).broadcast_to(&shape)),
        Prim::Cast => Some(inner(x, axis, step).cast(t.dtype())),
        Prim::Unary(f) => Some(inner(x, axis, step).unary(*f)),
        Prim::Binary(f) => {
            Some(inner(x, axis, step).binary(&inner(t.input(1)?, axis, step), *f))
        }
        Prim::Transpose(perm) => Some(inner(x, perm[axis], step).transpose(perm)),
        Prim::Reshape => {
            let (from, to) = block(x.shape(), t.shape(), axis)?;
            if to.len() != 1 {
                return None;
            }
            let (mut x, mut rest) = (x.clone(), step);
            for a in from.rev() {
                let extent = x.shape()[a];
                let part = if rest.is_multiple_of(extent) { extent } else { rest };
                if !extent.is_multiple_of(part) {
                    return None;
                }
                x = inner(&x, a, part);
                rest /= part;
            }
            (rest == 1).then(|| x.reshape(&shape))
        }
        _ => None,
    }
}

/// The axes before and after a reshape that hold the same numbers in the same order, and among which
/// `axis` is.
fn block(from: &[usize], to: &[usize], axis: usize) -> Option<(Range<usize>, Range<usize>)> {
    let (mut i, mut j) = (0, 0);
    while j <= axis {
        let (first, start) = (i, j);
        let (mut p, mut q) = (*from.get(i)?, *to.get(j)?);
        (i, j) = (i + 1, j + 1);
        while p != q {
            if p < q {
                p *= *from.get(i)?;
                i += 1;
            } else {
                q *= *to.get(j)?;
                j += 1;
            }
        }
        if (start..j).contains(&axis) {
            return Some((first..i, start..j));
        }
    }
    None
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frit_graph::{DType, Graph, Params, Policy, Reference, Spec, Value, compile};

    fn input(shape: &[usize]) -> Tensor {
        Tensor::input_of(0, Spec::new(DType::F32, shape))
    }

    /// What a tensor over one input of these extents is.
    fn computed(t: &Tensor, shape: &[usize]) -> Vec<f64> {
        let spec = Spec::new(DType::F32, shape);
        let count: usize = shape.iter().product();
        let numbers: Vec<f64> = (0..count).map(|i| i as f64).collect();
        let graph = Graph::new(vec![spec.clone()], vec![t.clone()]).expect("a graph");
        let program = compile(&graph, &Reference, &Params::new(), Policy::Allow).expect("compiled");
        let value = Value::from_f64(spec, &numbers).expect("a value");
        program.run(vec![value]).expect("it runs")[0].to_f64()
    }

    #[test]
    fn runs_are_those_of_the_numbers() {
        let rows = |x: &Tensor| x.broadcast_to(&[3, 128]);
        let blocks = |x: &Tensor| x.unsqueeze(2).broadcast_to(&[3, 4, 32]).reshape(&[3, 128]);
        type Build = fn(&Tensor) -> Tensor;
        let cases: [(&[usize], Build, usize); 7] = [
            (&[3, 1], |x| x.broadcast_to(&[3, 128]), EVERYWHERE),
            (&[1, 128], |x| x.broadcast_to(&[3, 128]), 1),
            (&[3, 4], |x| x.unsqueeze(2).broadcast_to(&[3, 4, 32]).reshape(&[3, 128]), 32),
            (
                &[4, 3],
                |x| {
                    let wide = x.unsqueeze(1).broadcast_to(&[4, 32, 3]).reshape(&[128, 3]);
                    wide.slice(0, 0..96).transpose(&[1, 0])
                },
                32,
            ),
            (
                &[3, 2],
                |x| {
                    let x = x.reshape(&[3, 2, 1, 1]).broadcast_to(&[3, 2, 2, 32]);
                    x.reshape(&[3, 128])
                },
                64,
            ),
            // Tiled, not repeated.
            (&[3, 4], |x| x.unsqueeze(1).broadcast_to(&[3, 32, 4]).reshape(&[3, 128]), 1),
            // Another reading of rows: a row has numbers of two.
            (&[4, 1], |x| x.broadcast_to(&[4, 96]).reshape(&[3, 128]), 32),
        ];
        for (shape, build, want) in cases {
            let t = build(&input(shape));
            assert_eq!(run(&t, 1), want, "{shape:?}");
            let all = computed(&t, shape);
            let k = t.shape()[1];
            let step = if want == EVERYWHERE { k } else { want };
            for row in all.chunks(k) {
                assert!(row.chunks(step).all(|r| r.iter().all(|x| *x == r[0])), "{shape:?}");
            }
            let few = sample(&t, 1, step);
            let picked: Vec<f64> = all.iter().copied().step_by(step).collect();
            assert_eq!(computed(&few, shape), picked, "{shape:?}");
        }
        let (a, b) = (input(&[3, 1]), input(&[3, 4]));
        assert_eq!(run(&(rows(&a) + blocks(&b)), 1), 32);
        let halves = (-blocks(&b) * 0.5).cast(DType::F16).cast(DType::F32);
        let picked = sample(&halves, 1, 32);
        assert_eq!(computed(&picked, &[3, 4])[..3], [0.0, -0.5, -1.0]);
        let widest = |t: &Tensor| t.inputs().iter().flatten().map(|x| x.spec().numel()).max();
        assert_eq!(widest(&picked), Some(12), "nothing is written out for it");
    }
}
