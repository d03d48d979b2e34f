//! Sums of products: an equation as few steps.
//!
//! A [`Plan`] follows from the equation and the shapes alone, so that it is made twice: for the
//! size of the scratch, and for the run. Each step takes two terms to one. A term is letters with
//! strides over an operand or over scratch, and that is why diagonals, transposes and broadcasts
//! cost nothing: they are other strides. A step is
//! - a **product** where both terms have letters of their own and share letters that are summed:
//!   one call of the batched matrix product, written where the result belongs. Of the letters of
//!   each side the longest run is m or n; the others are axes of the batch that the other term
//!   lacks. The summed letters must be one run, k; a term is copied where they are not;
//! - a **fold** otherwise ([`Fold`]): sums, scalings, outer products, dot products of rows, copies.
//!   Terms with nothing to multiply are multiplied by one. (A matrix of contiguous rows and a
//!   vector are a product after all.)
//!
//! Letters that one term alone has and nobody needs later are summed before its contraction. f16
//! and bf16 are widened where they are read, and scratch is f32: the result is rounded once.

mod fold;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;

use frit_graph::row_major;
use frit_ops::{Equation, Letter};

use crate::gemm::{BatchAxis, Product, matmul, matmul_scratch_bytes};
use crate::simd::Element;
use crate::threads::Pool;
use fold::Fold;

/// Where a term stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Operand(usize),
    /// From this element of the scratch on, in f32.
    Scratch(usize),
    /// The number one, without letters.
    One,
    Output,
}

/// Letters over memory. Axes of extent 1 are left out: where another operand gives their letter a
/// larger extent, they broadcast.
#[derive(Clone, Debug, PartialEq)]
struct Term {
    place: Place,
    axes: Vec<Axis>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    letter: Letter,
    extent: usize,
    stride: isize,
}

impl Term {
    /// Strides of a letter that repeats add up: its diagonal.
    fn new(place: Place, letters: &[Letter], shape: &[usize]) -> Term {
        let mut axes: Vec<Axis> = Vec::new();
        let each = letters.iter().zip(shape).zip(row_major(shape));
        for ((&letter, &extent), stride) in each.filter(|e| *e.0.1 != 1) {
            let stride = stride as isize;
            match axes.iter_mut().find(|a| a.letter == letter) {
                Some(a) => a.stride += stride,
                None => axes.push(Axis { letter, extent, stride }),
            }
        }
        Term { place, axes }
    }

    fn one() -> Term {
        Term { place: Place::One, axes: Vec::new() }
    }

    fn has(&self, letter: Letter) -> bool {
        self.axes.iter().any(|a| a.letter == letter)
    }

    /// 0 for a letter that the term lacks.
    fn stride(&self, letter: Letter) -> isize {
        self.axes.iter().find(|a| a.letter == letter).map_or(0, |a| a.stride)
    }

    fn size(&self) -> usize {
        self.axes.iter().map(|a| a.extent).product()
    }

    /// The axes that `wanted` takes, as they follow in memory.
    fn axes(&self, wanted: impl Fn(Letter) -> bool) -> Vec<Axis> {
        let mut axes: Vec<Axis> = self.axes.iter().copied().filter(|a| wanted(a.letter)).collect();
        axes.sort_by_key(|a| std::cmp::Reverse(a.stride));
        axes
    }

    /// Whether axes in this order are one run of the term.
    fn chains(&self, order: &[Axis]) -> bool {
        let next = |w: &[Axis]| self.stride(w[1].letter) * w[1].extent as isize;
        order.windows(2).all(|w| self.stride(w[0].letter) == next(w))
    }
}

/// The axes of `c = a b`, runs joined: those of c from the outermost to the innermost, then those
/// that are summed, which have stride 0 in c.
fn joined(a: &Term, b: &Term, c: &Term) -> Vec<BatchAxis> {
    let more = b.axes.iter().filter(|x| !a.has(x.letter));
    let mut axes: Vec<BatchAxis> = a
        .axes
        .iter()
        .chain(more)
        .map(|&Axis { letter, extent, .. }| BatchAxis {
            count: extent,
            a: a.stride(letter),
            b: b.stride(letter),
            c: c.stride(letter),
        })
        .collect();
    axes.sort_by_key(|x| std::cmp::Reverse((x.c, x.a)));
    let mut out: Vec<BatchAxis> = Vec::new();
    for x in axes {
        let n = x.count as isize;
        match out.last_mut() {
            Some(o) if [o.a, o.b, o.c] == [x.a * n, x.b * n, x.c * n] => {
                *o = BatchAxis { count: o.count * x.count, ..x };
            }
            _ => out.push(x),
        }
    }
    out
}

/// The product over axes that have one run of summed letters at most.
fn product(mut batch: Vec<BatchAxis>) -> Product {
    let mut longest = |is: fn(&BatchAxis) -> bool| {
        let some = (0..batch.len()).filter(|&i| is(&batch[i])).max_by_key(|&i| batch[i].count);
        some.map_or(BatchAxis { count: 1, a: 0, b: 0, c: 0 }, |i| batch.remove(i))
    };
    let (k, m, n) = (longest(|x| x.c == 0), longest(|x| x.b == 0), longest(|x| x.a == 0));
    Product {
        m: m.count,
        n: n.count,
        k: k.count,
        a: [m.a, k.a],
        b: [k.b, n.b],
        c: [m.c, n.c],
        batch,
    }
}

#[derive(Debug)]
enum Work {
    Product(Product),
    Fold(Fold),
}

#[derive(Debug)]
struct Step {
    a: Place,
    b: Place,
    c: Place,
    work: Work,
}

/// The steps of an equation over operands of type `T`.
pub(crate) struct Plan<T> {
    /// None where a letter has no extent: then every sum is empty.
    steps: Vec<Step>,
    /// Elements of operands and output.
    lengths: (Vec<usize>, usize),
    /// Elements of scratch for terms, and bytes for products.
    floats: usize,
    bytes: usize,
    element: PhantomData<T>,
}

impl<T: Element> Plan<T> {
    /// The plan of an equation that was bound to these shapes.
    pub(crate) fn new(equation: &Equation, shapes: &[&[usize]]) -> Plan<T> {
        let size = |shape: &[usize]| shape.iter().product::<usize>();
        let shape = equation.output_shape();
        let lengths = (shapes.iter().map(|s| size(s)).collect(), size(&shape));
        let (steps, element) = (Vec::new(), PhantomData);
        let mut plan = Plan { steps, lengths, floats: 0, bytes: 0, element };
        if equation.letters().iter().any(|l| l.1 == 0) {
            return plan;
        }
        let output = Term::new(Place::Output, equation.output(), &shape);
        let mut terms: Vec<Term> = (equation.operands().iter().zip(shapes).enumerate())
            .map(|(i, (letters, shape))| Term::new(Place::Operand(i), letters, shape))
            .collect();
        for c in equation.path() {
            let (y, x) = (terms.remove(c.right), terms.remove(c.left));
            let kept = |l: Letter| output.has(l) || terms.iter().any(|t| t.has(l));
            let target = terms.is_empty().then_some(&output);
            let z = plan.contract(x, y, &kept, target);
            terms.push(z);
        }
        if let Some(x) = terms.first().filter(|x| x.place != Place::Output) {
            plan.fold(x, &Term::one(), &output);
        }
        plan
    }

    fn scratch(&mut self, axes: &[Axis]) -> Term {
        let letters: Vec<Letter> = axes.iter().map(|a| a.letter).collect();
        let shape: Vec<usize> = axes.iter().map(|a| a.extent).collect();
        let term = Term::new(Place::Scratch(self.floats), &letters, &shape);
        // Each term begins at a cache line.
        self.floats += term.size().next_multiple_of(16);
        term
    }

    fn fold(&mut self, a: &Term, b: &Term, c: &Term) {
        let fold = Fold::new(&joined(a, b, c));
        let one_type = T::IS_F32
            || matches!(
                (a.place, b.place, c.place),
                (Place::Operand(_), Place::Operand(_), Place::Output)
                    | (Place::Scratch(_), Place::Scratch(_), Place::Scratch(_))
            );
        if fold.is_product() && one_type {
            return self.product(a, b, c);
        }
        let work = Work::Fold(fold);
        self.steps.push(Step { a: a.place, b: b.place, c: c.place, work });
    }

    fn product(&mut self, a: &Term, b: &Term, c: &Term) {
        let product = product(joined(a, b, c));
        let bytes = match a.place {
            Place::Operand(_) => matmul_scratch_bytes::<T>(&product),
            _ => matmul_scratch_bytes::<f32>(&product),
        };
        self.bytes = self.bytes.max(bytes);
        let work = Work::Product(product);
        self.steps.push(Step { a: a.place, b: b.place, c: c.place, work });
    }

    /// A dense copy of a term in scratch, summed over the letters that are not wanted.
    fn copied(&mut self, x: &Term, axes: &[Axis]) -> Term {
        let y = self.scratch(axes);
        self.fold(x, &Term::one(), &y);
        y
    }

    /// The term without the letters that are not wanted.
    fn summed(&mut self, x: Term, wanted: impl Fn(Letter) -> bool) -> Term {
        match x.axes.iter().all(|a| wanted(a.letter)) {
            true => x,
            false => self.copied(&x, &x.axes(wanted)),
        }
    }

    /// The term in f32.
    fn widened(&mut self, x: Term) -> Term {
        match x.place {
            Place::Operand(_) if !T::IS_F32 => self.copied(&x, &x.axes(|_| true)),
            _ => x,
        }
    }

    /// The terms with their summed letters as one run of both.
    fn chained(&mut self, x: Term, y: Term, kept: &dyn Fn(Letter) -> bool) -> (Term, Term) {
        let (of_x, of_y) = (x.axes(|l| !kept(l)), y.axes(|l| !kept(l)));
        let (in_x, in_y) = (x.chains(&of_x), y.chains(&of_y));
        if in_x && y.chains(&of_x) {
            return (x, y);
        }
        let mut last = |t: &Term, order: &[Axis]| self.copied(t, &[&t.axes(kept), order].concat());
        match (in_x, in_y) {
            (true, false) => (x, last(&y, &of_x)),
            (true, true) if y.size() <= x.size() => (x, last(&y, &of_x)),
            (_, true) => (last(&x, &of_y), y),
            (false, false) => (last(&x, &of_x), last(&y, &of_x)),
        }
    }

    /// Contracts two terms, to the target or to scratch.
    fn contract(
        &mut self,
        x: Term,
        y: Term,
        kept: &dyn Fn(Letter) -> bool,
        target: Option<&Term>,
    ) -> Term {
        let x = self.summed(x, |l| kept(l) || y.has(l));
        let y = self.summed(y, |l| kept(l) || x.has(l));
        let (own_x, own_y) = (x.axes(|l| !y.has(l)), y.axes(|l| !x.has(l)));
        let shared = x.axes(|l| y.has(l) && kept(l));
        let inner = x.axes.iter().any(|a| !kept(a.letter));
        let natural = [shared, own_x.clone(), own_y.clone()].concat();
        if !inner || own_x.is_empty() || own_y.is_empty() {
            let mixed =
                matches!(x.place, Place::Operand(_)) != matches!(y.place, Place::Operand(_));
            let (x, y) = if mixed { (self.widened(x), self.widened(y)) } else { (x, y) };
            let z = target.cloned().unwrap_or_else(|| self.scratch(&natural));
            self.fold(&x, &y, &z);
            return z;
        }
        let (mut x, mut y) = self.chained(x, y, kept);
        let whole = [&x, &y].iter().all(|t| matches!(t.place, Place::Operand(_)));
        // The product reads and writes one type.
        let narrow = !(T::IS_F32 || whole && target.is_some());
        if narrow {
            (x, y) = (self.widened(x), self.widened(y));
        }
        match target {
            Some(target) if !narrow => {
                self.product(&x, &y, target);
                target.clone()
            }
            Some(target) => {
                let z = self.scratch(&target.axes(|_| true));
                self.product(&x, &y, &z);
                self.fold(&z, &Term::one(), target);
                target.clone()
            }
            None => {
                let z = self.scratch(&natural);
                self.product(&x, &y, &z);
                z
            }
        }
    }

    /// Bytes of scratch that [`Plan::run`] needs.
    pub(crate) fn scratch_bytes(&self) -> usize {
        self.floats * size_of::<f32>() + self.bytes
    }

    /// Computes the output from dense operands. `scratch` begins at a multiple of 64 and has
    /// [`Plan::scratch_bytes`]; what it holds before does not matter.
    pub(crate) fn run(&self, pool: &Pool, operands: &[&[T]], out: &mut [T], scratch: &mut [u8]) {
        assert!(operands.iter().map(|o| o.len()).eq(self.lengths.0.iter().copied()), "operands");
        assert_eq!(out.len(), self.lengths.1, "length of the output");
        assert!(scratch.len() >= self.scratch_bytes(), "too little scratch");
        assert!(scratch.as_ptr().addr().is_multiple_of(64), "scratch is not aligned");
        if self.steps.is_empty() {
            return out.fill(T::ZERO);
        }
        let (floats, bytes) = scratch.split_at_mut(self.floats * size_of::<f32>());
        let (floats, out): (*mut f32, *mut T) = (floats.as_mut_ptr().cast(), out.as_mut_ptr());
        let (one, wide_one) = (T::from_f32(1.0), 1.0f32);
        let wide = |p: Place| matches!(p, Place::Scratch(_));
        for Step { a, b, c, work } in &self.steps {
            let at = |p: Place| match p {
                Place::Operand(i) => operands[i].as_ptr().cast_mut().cast::<u8>(),
                Place::Scratch(i) => floats.wrapping_add(i).cast(),
                Place::One if wide(*a) => (&raw const wide_one).cast_mut().cast(),
                Place::One => (&raw const one).cast_mut().cast(),
                Place::Output => out.cast(),
            };
            let (x, y, z) = (at(*a), at(*b), at(*c));
            // SAFETY: strides and extents are those of the operands, of the scratch and of the
            // output, whose sizes are checked above. Scratch is f32 and all else is T, which is f32
            // itself where a step has both. No step writes what it reads.
            unsafe {
                match (work, wide(*a), wide(*c)) {
                    (Work::Product(p), false, false) => {
                        matmul::<T>(pool, p, x.cast(), y.cast(), z.cast(), bytes);
                    }
                    (Work::Product(p), ..) => {
                        matmul::<f32>(pool, p, x.cast(), y.cast(), z.cast(), bytes);
                    }
                    (Work::Fold(f), false, false) => f.run::<T, T>(pool, x, y, z),
                    (Work::Fold(f), false, true) => f.run::<T, f32>(pool, x, y, z),
                    (Work::Fold(f), true, false) => f.run::<f32, T>(pool, x, y, z),
                    (Work::Fold(f), true, true) => f.run::<f32, f32>(pool, x, y, z),
                }
            }
        }
    }
}
