//! Functions of one, two and three operands, element by element.
//!
//! A line whose operands are contiguous goes straight through the vector loop; another is gathered
//! into a small dense piece first. Narrow floats are widened at the load and rounded at the store.

use super::{
    LEAST, Primitive,
    number::{Number, for_dtype, holds},
    walk::{Shared, Walk, address},
};
use crate::{
    kernel::{Context, Out, View},
    simd::{Element, Simd, WithSimd, dispatch, math},
};
use frit_graph::{Binary, Compare, DType, Error, Unary};
use half::{bf16, f16};
use std::mem::MaybeUninit;

/// Elements gathered at a time.
pub(super) const PIECE: usize = 512;

/// Where [`gathered`] puts them.
type Room<T> = [MaybeUninit<T>; PIECE];

/// A room with nothing in it: filling it costs more than most lines.
const fn room<T>() -> Room<T> {
    [const { MaybeUninit::uninit() }; PIECE]
}

/// `n` elements from `p`, `step` apart: in place where they are contiguous, else gathered.
///
/// # Safety
/// All of them can be read, and `n <= PIECE` unless `step` is 1.
unsafe fn gathered<T: Copy>(p: *const T, step: isize, n: usize, room: &mut Room<T>) -> *const T {
    if step == 1 {
        return p;
    }
    if step == 0 {
        // SAFETY: the caller's promise.
        room[..n].fill(MaybeUninit::new(unsafe { *p }));
    } else {
        for (i, r) in room[..n].iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            r.write(unsafe { *p.offset(i as isize * step) });
        }
    }
    room.as_ptr().cast()
}

/// Cuts a line into pieces that fit [`gathered`].
fn pieces(n: usize, contiguous: bool, mut f: impl FnMut(usize, usize)) {
    let size = if contiguous { n } else { PIECE };
    let mut at = 0;
    while at < n {
        let m = size.min(n - at);
        f(at, m);
        at += m;
    }
}

/// A function of one operand.
pub(crate) struct Map(pub(crate) Unary);

impl Primitive for Map {
    fn in_place(&self) -> Vec<usize> {
        vec![0]
    }

    fn run(&self, x: &[View<'_>], out: &mut Out<'_>, c: &mut Context<'_>) -> Result<(), Error> {
        match out.spec.dtype {
            DType::F32 => map_lanes::<f32>(self.0, &x[0], out, c),
            DType::F16 => map_lanes::<f16>(self.0, &x[0], out, c),
            DType::BF16 => map_lanes::<bf16>(self.0, &x[0], out, c),
            d => for_dtype!(d, T => map_plain::<T>(self.0, &x[0], out, c)),
        }
        Ok(())
    }
}

fn each1<T: Copy + bytemuck::Pod + Send + Sync>(
    x: &View<'_>,
    out: &mut Out<'_>,
    c: &Context<'_>,
    f: &(dyn Fn(*const T, *mut T, usize) + Sync),
) {
    let from = Shared(address::<T>(x, out));
    let to = Shared(out.bytes.as_mut_ptr().cast::<T>());
    let walk = Walk::new(x.shape(), [x.strides()]);
    walk.run(c.pool, LEAST, &|first, n, [place]| {
        let mut room = room();
        pieces(n, walk.step[0] == 1, |at, m| {
            // SAFETY: the walk stays inside the operand and gives each output element once.
            unsafe {
                let p = from.get().offset(place + at as isize * walk.step[0]);
                let p = gathered(p, walk.step[0], m, &mut room);
                f(p, to.get().add(first + at), m);
            }
        });
    });
}

fn map_lanes<T: Element + bytemuck::Pod>(
    f: Unary,
    x: &View<'_>,
    out: &mut Out<'_>,
    c: &Context<'_>,
) {
    each1::<T>(x, out, c, &|x, out, n| dispatch(MapRun { f, x, out, n }));
}

fn map_plain<T: Number>(f: Unary, x: &View<'_>, out: &mut Out<'_>, c: &Context<'_>) {
    each1::<T>(x, out, c, &|x, out, n| {
        for i in 0..n {
            // SAFETY: n elements can be read and written.
            unsafe { *out.add(i) = (*x.add(i)).unary(f) };
        }
    });
}

/// A loop over lanes with a partial end: `$v` is the vector at `$at`.
macro_rules! lanes {
    ($s:ident, $n:expr, $out:expr, |$at:ident, $m:ident| $value:expr) => {{
        let (mut $at, n, out) = (0, $n, $out);
        // SAFETY: `at + m <= n` elements of every operand and of the output exist.
        unsafe {
            while n - $at >= S::LANES {
                let $m = S::LANES;
                T::store($s, out.add($at), $value);
                $at += S::LANES;
            }
            if $at < n {
                let $m = n - $at;
                T::store_partial($s, out.add($at), $m, $value);
            }
        }
    }};
}

pub(super) struct MapRun<T> {
    pub(super) f: Unary,
    pub(super) x: *const T,
    pub(super) out: *mut T,
    pub(super) n: usize,
}

impl<T: Element> WithSimd for MapRun<T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        macro_rules! map {
            (|$v:ident| $value:expr) => {
                lanes!(s, self.n, self.out, |at, m| {
                    let $v = crate::kernels::load(s, self.x.add(at), m);
                    $value
                })
            };
        }
        match self.f {
            Unary::Neg => map!(|v| s.neg(v)),
            Unary::Abs => map!(|v| s.abs(v)),
            Unary::Exp => map!(|v| math::exp(s, v)),
            Unary::Log => map!(|v| math::log(s, v)),
            Unary::Sqrt => map!(|v| s.sqrt(v)),
            Unary::Rsqrt => map!(|v| math::rsqrt(s, v)),
            Unary::Sin => map!(|v| math::sin(s, v)),
            Unary::Cos => map!(|v| math::cos(s, v)),
            Unary::Tanh => map!(|v| math::tanh(s, v)),
            Unary::Erf => map!(|v| math::erf(s, v)),
            Unary::Sigmoid => map!(|v| math::sigmoid(s, v)),
            Unary::Floor => map!(|v| s.floor(v)),
            Unary::Ceil => map!(|v| s.neg(s.floor(s.neg(v)))),
            Unary::Round => map!(|v| s.round_even(v)),
            Unary::Not => map!(|v| s.select(s.eq(v, s.zero()), s.splat(1.0), s.zero())),
        }
    }
}

/// A function of two operands.
pub(crate) struct Zip(pub(crate) Binary);

impl Primitive for Zip {
    fn in_place(&self) -> Vec<usize> {
        vec![0, 1]
    }

    fn is_sum(&self) -> bool {
        self.0 == Binary::Add
    }

    fn run(&self, x: &[View<'_>], out: &mut Out<'_>, c: &mut Context<'_>) -> Result<(), Error> {
        let slow = matches!(self.0, Binary::Rem | Binary::Pow);
        match out.spec.dtype {
            DType::F32 if !slow => zip_lanes::<f32>(self.0, x, out, c),
            DType::F16 if !slow => zip_lanes::<f16>(self.0, x, out, c),
            DType::BF16 if !slow => zip_lanes::<bf16>(self.0, x, out, c),
            d => for_dtype!(d, T => zip_plain::<T>(self.0, x, out, c)),
        }
        Ok(())
    }
}

/// The second element of a pair says whether that operand is one number.
fn each2<T: bytemuck::Pod + Send + Sync, U: Copy>(
    x: &[View<'_>],
    out: &mut Out<'_>,
    c: &Context<'_>,
    splat: bool,
    f: &(dyn Fn((*const T, bool), (*const T, bool), *mut U, usize) + Sync),
) {
    let from = Shared([address::<T>(&x[0], out), address::<T>(&x[1], out)]);
    let to = Shared(out.bytes.as_mut_ptr().cast::<U>());
    let walk = Walk::new(x[0].shape(), [x[0].strides(), x[1].strides()]);
    let one = walk.step.map(|s| splat && s == 0);
    let contiguous = (0..2).all(|k| walk.step[k] == 1 || one[k]);
    walk.run(c.pool, LEAST, &|first, n, places| {
        let mut rooms = [room(), room()];
        pieces(n, contiguous, |at, m| {
            let mut p = [std::ptr::null(); 2];
            for k in 0..2 {
                // SAFETY: the walk stays inside the operand.
                p[k] = unsafe {
                    let start = from.get()[k].offset(places[k] + at as isize * walk.step[k]);
                    if one[k] { start } else { gathered(start, walk.step[k], m, &mut rooms[k]) }
                };
            }
            // SAFETY: the walk gives each output element once.
            f((p[0], one[0]), (p[1], one[1]), unsafe { to.get().add(first + at) }, m);
        });
    });
}

fn zip_lanes<T: Element + bytemuck::Pod>(
    f: Binary,
    x: &[View<'_>],
    out: &mut Out<'_>,
    c: &Context<'_>,
) {
    each2::<T, T>(x, out, c, true, &|x, y, out, n| dispatch(ZipRun { f, x, y, out, n }));
}

fn zip_plain<T: Number>(f: Binary, x: &[View<'_>], out: &mut Out<'_>, c: &Context<'_>) {
    each2::<T, T>(x, out, c, false, &|x, y, out, n| {
        for i in 0..n {
            // SAFETY: n elements can be read and written.
            unsafe { *out.add(i) = (*x.0.add(i)).binary(*y.0.add(i), f) };
        }
    });
}

/// The second element of an operand says whether it is one number.
pub(super) struct ZipRun<T> {
    pub(super) f: Binary,
    pub(super) x: (*const T, bool),
    pub(super) y: (*const T, bool),
    pub(super) out: *mut T,
    pub(super) n: usize,
}

impl<T: Element> WithSimd for ZipRun<T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        macro_rules! zip {
            (|$a:ident, $b:ident| $value:expr) => {
                match (self.x.1, self.y.1) {
                    (false, false) => lanes!(s, self.n, self.out, |at, m| {
                        let $a = crate::kernels::load(s, self.x.0.add(at), m);
                        let $b = crate::kernels::load(s, self.y.0.add(at), m);
                        $value
                    }),
                    (false, true) => {
                        // SAFETY: at least one element can be read.
                        let $b = s.splat(unsafe { (*self.y.0).to_f32() });
                        lanes!(s, self.n, self.out, |at, m| {
                            let $a = crate::kernels::load(s, self.x.0.add(at), m);
                            $value
                        })
                    }
                    (one, _) => {
                        // SAFETY: at least one element can be read.
                        let $a = s.splat(unsafe { (*self.x.0).to_f32() });
                        debug_assert!(one);
                        if self.y.1 {
                            // SAFETY: as above.
                            let $b = s.splat(unsafe { (*self.y.0).to_f32() });
                            lanes!(s, self.n, self.out, |at, m| {
                                let _ = m;
                                $value
                            })
                        } else {
                            lanes!(s, self.n, self.out, |at, m| {
                                let $b = crate::kernels::load(s, self.y.0.add(at), m);
                                $value
                            })
                        }
                    }
                }
            };
        }
        match self.f {
            Binary::Add => zip!(|a, b| s.add(a, b)),
            Binary::Sub => zip!(|a, b| s.sub(a, b)),
            Binary::Mul => zip!(|a, b| s.mul(a, b)),
            Binary::Div => zip!(|a, b| s.div(a, b)),
            // The lane operations give b where either is NaN; NaN must come out where a is.
            Binary::Max => zip!(|a, b| s.select(s.eq(a, a), s.max(a, b), a)),
            Binary::Min => zip!(|a, b| s.select(s.eq(a, a), s.min(a, b), a)),
            Binary::Rem | Binary::Pow | Binary::And | Binary::Or => {
                unreachable!("these have a plain loop")
            }
        }
    }
}

/// A comparison of two operands.
pub(crate) struct Relation(pub(crate) Compare);

impl Primitive for Relation {
    fn run(&self, x: &[View<'_>], out: &mut Out<'_>, c: &mut Context<'_>) -> Result<(), Error> {
        for_dtype!(x[0].dtype(), T => compare::<T>(self.0, x, out, c));
        Ok(())
    }
}

fn compare<T: Number>(f: Compare, x: &[View<'_>], out: &mut Out<'_>, c: &Context<'_>) {
    each2::<T, u8>(x, out, c, false, &|x, y, out, n| {
        macro_rules! go {
            ($f:expr) => {
                for i in 0..n {
                    // SAFETY: n elements can be read and written.
                    unsafe { *out.add(i) = holds(*x.0.add(i), *y.0.add(i), $f) as u8 };
                }
            };
        }
        // One loop a comparison: each is a straight line for the compiler to vectorise.
        match f {
            Compare::Eq => go!(Compare::Eq),
            Compare::Ne => go!(Compare::Ne),
            Compare::Lt => go!(Compare::Lt),
            Compare::Le => go!(Compare::Le),
            Compare::Gt => go!(Compare::Gt),
            Compare::Ge => go!(Compare::Ge),
        }
    });
}

/// `condition ? a : b`.
pub(crate) struct Choose;

impl Primitive for Choose {
    fn in_place(&self) -> Vec<usize> {
        vec![1, 2]
    }

    fn run(&self, x: &[View<'_>], out: &mut Out<'_>, c: &mut Context<'_>) -> Result<(), Error> {
        match out.spec.dtype.size() {
            8 => choose::<u64>(x, out, c),
            4 => choose::<u32>(x, out, c),
            2 => choose::<u16>(x, out, c),
            _ => choose::<u8>(x, out, c),
        }
        Ok(())
    }
}

fn choose<T: bytemuck::Pod + Send + Sync>(x: &[View<'_>], out: &mut Out<'_>, c: &Context<'_>) {
    let (condition, a, b) =
        (address::<u8>(&x[0], out), address::<T>(&x[1], out), address::<T>(&x[2], out));
    let from = Shared((condition, a, b));
    let to = Shared(out.bytes.as_mut_ptr().cast::<T>());
    let walk = Walk::new(x[0].shape(), [x[0].strides(), x[1].strides(), x[2].strides()]);
    let contiguous = walk.step == [1; 3];
    walk.run(c.pool, LEAST, &|first, n, places| {
        let (mut conditions, mut rooms) = (room(), [room(), room()]);
        let (condition, a, b) = from.get();
        pieces(n, contiguous, |at, m| {
            let start = |k: usize| places[k] + at as isize * walk.step[k];
            let [first_room, second_room] = &mut rooms;
            // SAFETY: the walk stays inside the operands and gives each output element once.
            unsafe {
                let w = gathered(condition.offset(start(0)), walk.step[0], m, &mut conditions);
                let a = gathered(a.offset(start(1)), walk.step[1], m, first_room);
                let b = gathered(b.offset(start(2)), walk.step[2], m, second_room);
                let out = to.get().add(first + at);
                for i in 0..m {
                    *out.add(i) = if *w.add(i) != 0 { *a.add(i) } else { *b.add(i) };
                }
            }
        });
    });
}
