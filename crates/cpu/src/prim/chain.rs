//! Several elementwise functions as one step: a piece of every operand goes through all of them
//! while it is in the cache, so that memory is read and written once.
//!
//! Each function is that of its own step, so the bits are the same.

use super::{
    LEAST,
    elementwise::{MapRun, PIECE, ZipRun},
    walk::{Shared, Walk, address},
};
use crate::{
    kernel::{Context, Kernel, Out, View, Wants},
    kernels::activation::{self, Activation, WithMap},
    kernels::{Map1, map_lanes},
    plan::Layout,
    simd::{Simd, WithSimd, dispatch},
};
use frit_graph::{Binary, Error, Unary};
use std::mem::MaybeUninit;

/// Operands of a chain, at most.
pub(crate) const OPERANDS: usize = 8;
/// Results that are alive at a time, at most.
pub(crate) const ALIVE: usize = 6;

/// A function of a chain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Function {
    Unary(Unary),
    Binary(Binary),
    Activation(Activation),
}

/// Where a function reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// An operand of the chain.
    Operand(usize),
    /// What an earlier function wrote into this place.
    Place(usize),
}

/// One function of a chain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Link {
    pub(crate) function: Function,
    /// The second one of a binary function only.
    pub(crate) from: [Source; 2],
    /// Where the result goes; that of the last link is the output.
    pub(crate) to: usize,
}

/// Elementwise functions of f32 operands of one shape.
pub(crate) struct Chain {
    pub(crate) links: Vec<Link>,
    pub(crate) operands: usize,
}

impl Kernel for Chain {
    fn wants(&self, _: usize) -> Wants {
        Wants::Strided
    }

    fn in_place(&self) -> Vec<usize> {
        (0..self.operands).collect()
    }

    fn scratch(&self, _: &[Option<&Layout>], _: usize) -> usize {
        0
    }

    fn run(
        &self,
        inputs: &[Option<View<'_>>],
        out: &mut Out<'_>,
        c: &mut Context<'_>,
    ) -> Result<(), Error> {
        let x: Vec<View<'_>> = inputs.iter().copied().flatten().collect();
        let n = x.len().min(OPERANDS);
        let still = vec![0; out.spec.rank()];
        let mut strides = [&still[..]; OPERANDS];
        let mut from = [std::ptr::null::<f32>(); OPERANDS];
        for (i, view) in x[..n].iter().enumerate() {
            strides[i] = view.strides();
            from[i] = address::<f32>(view, out);
        }
        let (from, to) = (Shared(from), Shared(out.bytes.as_mut_ptr().cast::<f32>()));
        let walk = Walk::new(&out.spec.shape, strides);
        let least = (LEAST / self.links.len()).max(1024);
        walk.run(c.pool, least, &|first, n, places| {
            let mut start = from.get();
            for (p, place) in start.iter_mut().zip(places) {
                *p = p.wrapping_offset(place);
            }
            let out = to.get().wrapping_add(first);
            dispatch(Pieces { chain: self, from: start, step: walk.step, out, n });
        });
        Ok(())
    }
}

/// A line of all operands.
struct Pieces<'a> {
    chain: &'a Chain,
    from: [*const f32; OPERANDS],
    step: [isize; OPERANDS],
    out: *mut f32,
    n: usize,
}

impl WithSimd for Pieces<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let count = self.chain.operands;
        // Not cleared: lines may be short.
        let mut rooms = [const { MaybeUninit::<[f32; PIECE]>::uninit() }; OPERANDS];
        let rooms = rooms.each_mut().map(|r| r.as_mut_ptr().cast::<f32>());
        let mut places = [const { MaybeUninit::<[f32; PIECE]>::uninit() }; ALIVE];
        let places = places.each_mut().map(|p| p.as_mut_ptr().cast::<f32>());
        for at in (0..self.n).step_by(PIECE) {
            let n = PIECE.min(self.n - at);
            let mut operands = [(std::ptr::null(), false); OPERANDS];
            for i in 0..count {
                let start = self.from[i].wrapping_offset(at as isize * self.step[i]);
                operands[i] = match self.step[i] {
                    step @ (0 | 1) => (start, step == 0),
                    step => {
                        for j in 0..n {
                            // SAFETY: the walk stays inside the operand, and n fits into the room.
                            unsafe { *rooms[i].add(j) = *start.offset(j as isize * step) };
                        }
                        (rooms[i].cast_const(), false)
                    }
                };
            }
            let read = |from: Source| match from {
                Source::Operand(i) => operands[i],
                Source::Place(i) => (places[i].cast_const(), false),
            };
            for (i, link) in self.chain.links.iter().enumerate() {
                let last = i + 1 == self.chain.links.len();
                let out = if last { self.out.wrapping_add(at) } else { places[link.to] };
                let x = read(link.from[0]);
                match link.function {
                    Function::Binary(f) => {
                        ZipRun { f, x, y: read(link.from[1]), out, n }.run(s);
                    }
                    _ if x.1 => {
                        // One number: everything becomes its value.
                        // SAFETY: n elements can be written, and one read.
                        unsafe { std::slice::from_raw_parts_mut(out, n).fill(*x.0) };
                        link.function.of(s, out.cast_const(), out, n);
                    }
                    f => f.of(s, x.0, out, n),
                }
            }
        }
    }
}

/// `n` elements that can be read and written.
struct Piece<S> {
    s: S,
    x: *const f32,
    out: *mut f32,
    n: usize,
}

impl<S: Simd> WithMap for Piece<S> {
    type Output = ();
    #[inline(always)]
    fn run<M: Map1>(self, map: M) {
        // SAFETY: n elements can be read and written.
        unsafe { map_lanes(self.s, self.x, self.out, self.n, map) };
    }
}

impl Function {
    /// A function of one operand over `n` elements that can be read and written.
    #[inline(always)]
    fn of<S: Simd>(self, s: S, x: *const f32, out: *mut f32, n: usize) {
        match self {
            Function::Unary(f) => MapRun { f, x, out, n }.run(s),
            Function::Activation(f) => activation::with(Some(f), Piece { s, x, out, n }),
            Function::Binary(_) => unreachable!("it has two operands"),
        }
    }
}
