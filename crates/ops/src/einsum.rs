//! Sums of products by the summation convention of Einstein.

mod equation;

pub use equation::{Contraction, Equation, Letter};

use crate::{Array, Case, Entry, Options, catalogue::normal, check};
use equation::Term;
use frit_graph::{Block, DType, Many, ShapeError, Spec, Tensor};

/// The sum of products that an equation such as `"bhid,bhjd->bhij"` describes.
///
/// Letters name axes; a letter that the output lacks is summed over. Without an arrow the output
/// has the letters that occur once, in the order of the alphabet, after the ellipsis. A letter
/// that repeats within an operand takes the diagonal. `...` stands for leading axes that
/// broadcast; extents of 1 broadcast. Operands are contracted pair by pair in the order that costs
/// least.
///
/// # Inputs
/// - `operand` (any number): f32, f16 or bf16, of one type
///
/// # Output
/// As the equation says, in the type of the operands.
///
/// # Numerics
/// f32; rounded once.
///
/// # Example
/// ```
/// use frit_graph::{DType, Graph, Spec};
/// use frit_ops::fast;
/// let spec = |shape: &[usize]| Spec::new(DType::F32, shape);
/// let y = Graph::trace(&[spec(&[3, 4]), spec(&[4, 5])], |x| {
///     vec![fast::einsum("ij,jk->ik", &[&x[0], &x[1]])]
/// })?;
/// assert_eq!(y.outputs()[0].shape(), [3, 5]);
///
/// let wrong = Graph::trace(&[spec(&[3, 4]), spec(&[6, 5])], |x| {
///     vec![fast::einsum("ij,jk->ik", &[&x[0], &x[1]])]
/// });
/// assert!(wrong.unwrap_err().to_string().starts_with(
///     "[einsum] `ij,jk->ik`: j is 4 in operand 0 and 6 in operand 1 --> "
/// ));
/// # Ok::<(), frit_graph::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Einsum {
    /// The equation.
    pub equation: String,
}

/// [`Einsum`] of operands.
#[track_caller]
pub fn einsum(equation: &str, operands: &[&Tensor]) -> Tensor {
    let operands = operands.iter().map(|&t| t.clone()).collect();
    Tensor::block(Einsum { equation: equation.to_string() }, Many(operands))
}

impl Einsum {
    /// The equation bound to operands of these shapes.
    ///
    /// # Errors
    /// A malformed equation, or extents that disagree.
    pub fn bind(&self, shapes: &[&[usize]]) -> Result<Equation, ShapeError> {
        Equation::bind(&self.equation, shapes)
            .map_err(|e| ShapeError(format!("`{}`: {e}", self.equation)))
    }
}

impl Block for Einsum {
    type Inputs<T> = Many<T>;
    const NAME: &'static str = "einsum";

    fn infer(&self, i: Many<&Spec>) -> Result<Spec, ShapeError> {
        let Some(first) = i.0.first() else { return Err("wants at least one operand".into()) };
        for (n, s) in i.0.iter().enumerate() {
            check::float(&format!("operand {n}"), s)?;
            check::same_dtype(&format!("operand {n}"), s, ("operand 0", first))?;
        }
        let shapes: Vec<&[usize]> = i.0.iter().map(|s| &s.shape[..]).collect();
        let bound = self.bind(&shapes)?;
        Ok(first.with_shape(bound.output_shape()))
    }

    fn compose(&self, i: Many<Tensor>) -> Tensor {
        let shapes: Vec<&[usize]> = i.0.iter().map(Tensor::shape).collect();
        let bound = match self.bind(&shapes) {
            Ok(b) => b,
            Err(e) => return Tensor::poison("einsum", e),
        };
        let dtype = i.0[0].dtype();
        let mut terms: Vec<(Tensor, Term)> = i
            .0
            .iter()
            .zip(bound.operands())
            .map(|(t, letters)| diagonal(t.cast(DType::F32), letters.clone()))
            .collect();
        for c in bound.path() {
            let (b, a) = (terms.remove(c.right), terms.remove(c.left));
            terms.push(contract(&bound, a, b, &c));
        }
        let (t, letters) = sum_out(terms.remove(0), bound.output());
        let perm: Vec<usize> = bound
            .output()
            .iter()
            .filter_map(|l| letters.iter().position(|m| m == l))
            .collect();
        t.transpose(&perm).broadcast_to(&bound.output_shape()).cast(dtype)
    }
}

/// Takes the diagonal of every letter that repeats.
fn diagonal(mut t: Tensor, mut letters: Term) -> (Tensor, Term) {
    while let Some((a, b)) = repeated(&letters) {
        // The two axes go to the end, are one axis, and every (n+1)-th element is the diagonal.
        let n = t.shape()[a];
        let mut perm: Vec<usize> = (0..t.rank()).filter(|i| *i != a && *i != b).collect();
        letters = perm.iter().map(|&p| letters[p]).chain([letters[a]]).collect();
        perm.extend([a, b]);
        t = t.transpose(&perm);
        let mut flat = t.shape()[..t.rank() - 2].to_vec();
        flat.push(n * n);
        t = t.reshape(&flat).slice_step(-1, 0, n as isize + 1, n);
    }
    (t, letters)
}

fn repeated(letters: &[Letter]) -> Option<(usize, usize)> {
    (0..letters.len()).find_map(|b| {
        let a = letters[..b].iter().position(|l| *l == letters[b])?;
        Some((a, b))
    })
}

/// Sums over the letters that are not in `keep`.
fn sum_out((t, letters): (Tensor, Term), keep: &[Letter]) -> (Tensor, Term) {
    let gone: Vec<usize> = (0..letters.len()).filter(|&i| !keep.contains(&letters[i])).collect();
    if gone.is_empty() {
        return (t, letters);
    }
    let axes: Vec<isize> = gone.iter().map(|&i| i as isize).collect();
    let kept: Vec<usize> = (0..letters.len()).filter(|i| !gone.contains(i)).collect();
    let shape: Vec<usize> = kept.iter().map(|&i| t.shape()[i]).collect();
    (t.sum(&axes).reshape(&shape), kept.iter().map(|&i| letters[i]).collect())
}

/// One pair as a batched matrix product.
fn contract(e: &Equation, a: (Tensor, Term), b: (Tensor, Term), c: &Contraction) -> (Tensor, Term) {
    let keep_with = |other: &Term| -> Term { c.keep.iter().chain(other).copied().collect() };
    // What neither the other operand nor anything later wants is summed first.
    let a = sum_out((a.0, a.1.clone()), &keep_with(&b.1));
    let b = sum_out((b.0, b.1.clone()), &keep_with(&a.1));
    let shared = |l: &&Letter| a.1.contains(l) && b.1.contains(l);
    let batch: Term = c.keep.iter().filter(shared).copied().collect();
    let inner: Term = a.1.iter().filter(shared).filter(|l| !c.keep.contains(l)).copied().collect();
    let left: Term = a.1.iter().filter(|l| !b.1.contains(l)).copied().collect();
    let right: Term = b.1.iter().filter(|l| !a.1.contains(l)).copied().collect();
    let full = |ls: &Term, t: &(Tensor, Term), u: &(Tensor, Term)| -> Vec<usize> {
        ls.iter().map(|l| extent(l, t).max(extent(l, u))).collect()
    };
    let (bs, ks) = (full(&batch, &a, &b), full(&inner, &a, &b));
    let (ms, ns) = (full(&left, &a, &a), full(&right, &b, &b));
    let size = |s: &[usize]| s.iter().product::<usize>();
    let arrange = |t: &(Tensor, Term), parts: [(&Term, &[usize]); 3]| {
        let order = parts.iter().flat_map(|p| p.0.iter());
        let perm: Vec<usize> =
            order.filter_map(|l| t.1.iter().position(|m| m == l)).collect();
        let shape: Vec<usize> = parts.iter().flat_map(|p| p.1.iter().copied()).collect();
        let flat = parts.map(|p| size(p.1));
        t.0.transpose(&perm).broadcast_to(&shape).reshape(&flat)
    };
    let x = arrange(&a, [(&batch, &bs), (&left, &ms), (&inner, &ks)]);
    let y = arrange(&b, [(&batch, &bs), (&inner, &ks), (&right, &ns)]);
    let letters: Term = [batch, left, right].concat();
    debug_assert!(letters.iter().all(|l| e.knows(l)));
    (x.matmul(&y).reshape(&[bs, ms, ns].concat()), letters)
}

fn extent(l: &Letter, t: &(Tensor, Term)) -> usize {
    t.1.iter().position(|m| m == l).map_or(1, |i| t.0.shape()[i])
}

impl Entry for Einsum {
    const FORMULA: &'static str = "the sum of products that the equation describes";
    const MAIN: &'static str = "operand0";

    fn parse(o: &mut Options) -> Result<Einsum, String> {
        let equation = o.text("equation")?.ok_or("option `equation` is missing")?;
        Ok(Einsum { equation })
    }

    fn oracle(&self, i: Many<&Array>) -> Array {
        let shapes: Vec<&[usize]> = i.0.iter().map(|a| &a.shape[..]).collect();
        let Ok(bound) = self.bind(&shapes) else { return Array::zeros(&[]) };
        // Every assignment of all letters, one after the other.
        let letters = bound.letters();
        let extents: Vec<usize> = letters.iter().map(|l| l.1).collect();
        let mut y = Array::zeros(&bound.output_shape());
        for n in 0..extents.iter().product() {
            let strides = frit_graph::row_major(&extents);
            let at = |l: &Letter| {
                let k = letters.iter().position(|m| m.0 == *l).unwrap_or(0);
                n / strides[k] % extents[k]
            };
            let place = |shape: &[usize], term: &[Letter]| {
                let along = term.iter().zip(shape);
                along.fold(0, |p, (l, &d)| p * d + if d == 1 { 0 } else { at(l) })
            };
            let terms = i.0.iter().zip(bound.operands());
            let product: f64 = terms.map(|(a, t)| a.data[place(&a.shape, t)]).product();
            let to = place(&y.shape, bound.output());
            y.data[to] += product;
        }
        y
    }

    fn cases() -> Vec<Case<Einsum>> {
        let case = |name, why, equation: &str, shapes: &[&[usize]]| {
            let operands = Many(shapes.iter().map(|s| normal(s)).collect());
            let block = Einsum { equation: equation.to_string() };
            Case::new(name, why, block, operands).within(1e-5, 1e-5)
        };
        vec![
            case("matmul", "two operands", "ij,jk->ik", &[&[3, 4], &[4, 5]]).floats(),
            case("batched", "shared batch", "bij,bjk->bik", &[&[2, 3, 4], &[2, 4, 5]]).floats(),
            case("scores", "q k^T", "bhid,bhjd->bhij", &[&[2, 3, 4, 5], &[2, 3, 6, 5]]).floats(),
            case("values", "p v", "bhij,bjhd->bihd", &[&[2, 3, 4, 6], &[2, 6, 3, 5]]).floats(),
            case("chain", "the order matters", "ij,jk,kl->il", &[&[2, 30], &[30, 4], &[4, 50]]),
            case("implicit", "no arrow", "ij,jk", &[&[3, 4], &[4, 5]]),
            case("implicit_order", "by the alphabet", "ba", &[&[3, 4]]),
            case("implicit_trace", "a repeated letter", "ii", &[&[5, 5]]),
            case("trace", "to a scalar", "ii->", &[&[6, 6]]),
            case("diagonal", "kept", "ii->i", &[&[6, 6]]),
            case("triple", "three times", "iiji->ji", &[&[3, 3, 4, 3]]),
            case("diagonals", "in both operands", "iij,jj->i", &[&[4, 4, 3], &[3, 3]]),
            case("ellipsis", "batch", "...ij,...jk->...ik", &[&[2, 1, 3, 4], &[5, 4, 2]]).floats(),
            case("ellipsis_implicit", "no arrow", "...ij,...jk", &[&[2, 1, 3, 4], &[5, 4, 2]]),
            case("ellipsis_moved", "at the end", "...i->i...", &[&[2, 3, 4]]),
            case("ellipsis_inside", "between letters", "a...b,b->a...", &[&[2, 3, 4, 5], &[5]]),
            case("ones", "size 1 broadcasts", "ij,ij->ij", &[&[3, 1], &[1, 4]]),
            case("ones_summed", "size 1, summed", "ij,jk->ik", &[&[3, 1], &[4, 5]]),
            case("transpose", "one operand", "ijk->kij", &[&[2, 3, 4]]),
            case("outer", "no shared letter", "i,j->ij", &[&[3], &[4]]),
            case("sum_out", "summed away", "ijk->j", &[&[2, 3, 4]]),
            case("sum_first", "summed before", "ij,k->i", &[&[3, 4], &[5]]),
            case("scalars", "rank 0", ",i->i", &[&[], &[4]]),
            case("hadamard", "no sum", "ij,ij->ij", &[&[3, 4], &[3, 4]]),
            case("dot", "to a scalar", "i,i->", &[&[7], &[7]]),
            case("spaces", "are ignored", " i j , j k -> i k ", &[&[3, 4], &[4, 5]]),
            case("capitals", "are letters too", "aB,Bc->ac", &[&[3, 4], &[4, 5]]),
            case("four", "four operands", "ab,bc,cd,de->ae", &[&[9, 2], &[2, 8], &[8, 3], &[3, 7]]),
            case("einsum_scores", "q k^T of whisper", "bhid,bhjd->bhij", &[
                &[1, 6, 300, 64],
                &[1, 6, 1500, 64],
            ])
            .bench(),
            case("einsum_bthd", "without a transpose", "bihd,bjhd->bhij", &[
                &[1, 300, 6, 64],
                &[1, 1500, 6, 64],
            ])
            .bench(),
        ]
    }
}
