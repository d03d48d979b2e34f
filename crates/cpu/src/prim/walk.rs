//! Going through strided operands line by line.
//!
//! Axes that run on in every operand are joined first, so that lines are as long as can be.

use crate::{
    Pool,
    kernel::{Out, View},
};

/// Lines are cut to this, so that long ones can be shared out.
const SPAN: usize = 16 * 1024;

/// Address of the first element of a view, or of the output where it stands there.
pub(crate) fn address<T>(x: &View<'_>, out: &Out<'_>) -> *const T {
    if x.is_out {
        out.bytes.as_ptr().cast()
    } else {
        x.bytes.as_ptr().cast::<T>().wrapping_add(x.layout.offset)
    }
}

/// A dense output and N strided operands of one shape, as lines.
pub(crate) struct Walk<const N: usize> {
    dims: Vec<usize>,
    strides: Vec<[isize; N]>,
    /// Elements of a line.
    line: usize,
    /// Stride of each operand within a line.
    pub(crate) step: [isize; N],
}

impl<const N: usize> Walk<N> {
    pub(crate) fn new(shape: &[usize], operands: [&[isize]; N]) -> Walk<N> {
        let mut axes: Vec<(usize, [isize; N])> = Vec::new();
        for (i, &d) in shape.iter().enumerate().filter(|(_, d)| **d != 1) {
            let s = operands.map(|o| o[i]);
            match axes.last_mut() {
                Some((old, t)) if (0..N).all(|k| t[k] == s[k] * d as isize) => {
                    *old *= d;
                    *t = s;
                }
                _ => axes.push((d, s)),
            }
        }
        let (line, step) = axes.pop().unwrap_or((1, [1; N]));
        let (dims, strides) = axes.into_iter().unzip();
        Walk { dims, strides, line, step }
    }

    /// Calls `f(first, n, places)` for pieces of lines: the output's elements `first .. first + n`,
    /// and the place of each operand's first element.
    pub(crate) fn run(
        &self,
        pool: &Pool,
        least: usize,
        f: &(dyn Fn(usize, usize, [isize; N]) + Sync),
    ) {
        let lines: usize = self.dims.iter().product();
        if lines * self.line == 0 {
            return;
        }
        let pieces = self.line.div_ceil(SPAN);
        let size = self.line.min(SPAN);
        pool.run_chunks(lines * pieces, least.div_ceil(size), &|units| {
            let mut at = self.coordinates(units.start / pieces);
            let mut piece = units.start % pieces;
            for unit in units {
                let from = piece * SPAN;
                let mut places = [0; N];
                for (i, c) in at.iter().enumerate() {
                    (0..N).for_each(|k| places[k] += *c as isize * self.strides[i][k]);
                }
                (0..N).for_each(|k| places[k] += from as isize * self.step[k]);
                let n = (self.line - from).min(SPAN);
                f(unit / pieces * self.line + from, n, places);
                piece += 1;
                if piece == pieces {
                    piece = 0;
                    self.advance(&mut at);
                }
            }
        });
    }

    fn coordinates(&self, line: usize) -> Vec<usize> {
        let mut rest = line;
        let mut at = vec![0; self.dims.len()];
        for (c, d) in at.iter_mut().zip(&self.dims).rev() {
            (*c, rest) = (rest % d, rest / d);
        }
        at
    }

    fn advance(&self, at: &mut [usize]) {
        for (c, d) in at.iter_mut().zip(&self.dims).rev() {
            *c += 1;
            if *c < *d {
                return;
            }
            *c = 0;
        }
    }
}

/// A pointer that may go to other threads; what it is used for there is the sender's affair.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(pub(crate) T);

// SAFETY: it only carries an address; every dereference has its own reasons.
unsafe impl<T: Copy> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Copy> Sync for Shared<T> {}

impl<T: Copy> Shared<T> {
    /// The pointer. (A method, so that closures capture the whole and not the field.)
    pub(crate) fn get(self) -> T {
        self.0
    }
}
