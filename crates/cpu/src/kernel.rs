//! What a kernel is: one step of a program, with its operands as views.
//!
//! A crate that defines a [`Block`] gives it a kernel by implementing [`CpuKernel`] and registering
//! it with [`crate::Cpu::with`]; the kernels of the catalogue, in `fused/`, come in by the same
//! trait.

use crate::{Pool, plan::Layout, prepacked::Known};
use frit_graph::{Block, DType, Decline, DynBlock, Element, Error, Operands, Spec};
use std::{
    any::{Any, TypeId},
    sync::Arc,
};

/// How an operand must stand in memory for a kernel; it is copied where it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// One element after the other.
    Dense,
    /// The last axis contiguous, the others at any stride.
    Rows,
    /// Any strides.
    Strided,
}

/// What a kernel does with what the output holds already. Its own results are not rounded before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Combine {
    /// `out = y`
    #[default]
    Replace,
    /// `out = out + y`, as the residual connections of transformers.
    Add,
    /// `out = silu(out) y`, as [`frit_ops::SwiGlu`].
    Gate,
}

/// A fused kernel for a Block.
///
/// ```
/// use frit_cpu::{Context, Cpu, CpuKernel, Out, View};
/// use frit_graph::*;
///
/// /// `y = x + x`
/// #[derive(Clone, Debug, PartialEq)]
/// struct Twice;
/// operands!(TwiceInputs { x } optional {});
/// impl Block for Twice {
///     type Inputs<T> = TwiceInputs<T>;
///     const NAME: &'static str = "example.twice";
///     fn infer(&self, i: TwiceInputs<&Spec>) -> Result<Spec, ShapeError> {
///         Ok(i.x.clone())
///     }
///     fn compose(&self, i: TwiceInputs<Tensor>) -> Tensor {
///         &i.x + &i.x
///     }
/// }
/// impl CpuKernel for Twice {
///     fn accept(&self, i: &TwiceInputs<&Spec>) -> Result<(), Decline> {
///         match i.x.dtype {
///             DType::F32 => Ok(()),
///             other => Err(Decline::Unsupported(format!("{other} is not f32"))),
///         }
///     }
///     fn run(
///         &self,
///         i: TwiceInputs<View<'_>>,
///         out: &mut Out<'_>,
///         _: &mut Context<'_>,
///     ) -> Result<(), Error> {
///         let y = out.slice_mut::<f32>()?;
///         y.iter_mut().zip(i.x.slice::<f32>()?).for_each(|(y, x)| *y = 2.0 * x);
///         Ok(())
///     }
/// }
///
/// let cpu = Cpu::default().with::<Twice>();
/// let graph = Graph::trace(&[Spec::new(DType::F32, [2])], |x| {
///     vec![Tensor::block(Twice, TwiceInputs { x: x[0].clone() })]
/// })?;
/// let program = compile(&graph, &cpu, &Params::new(), Policy::Deny)?;
/// let y = program.run(vec![Value::new([2], vec![1.0f32, 4.0])?])?;
/// assert_eq!(y[0].to_f64(), [2.0, 8.0]);
/// # Ok::<(), Error>(())
/// ```
pub trait CpuKernel: Block {
    /// Takes operands of these specs, or says why not.
    ///
    /// # Errors
    /// Why the Block must be composed instead.
    fn accept(&self, inputs: &Self::Inputs<&Spec>) -> Result<(), Decline>;

    /// How the operand of a slot must stand in memory.
    fn wants(&self, slot: usize) -> Wants {
        let _ = slot;
        Wants::Dense
    }

    /// Whether the kernel reads the operand of a slot as well where it is narrower: a weight of
    /// halves that the graph widens first is then given as it is stored, and [`CpuKernel::run`]
    /// must widen each number to the very same.
    fn widens(&self, slot: usize) -> bool {
        let _ = slot;
        false
    }

    /// The slot whose memory may become that of the output. Where it does, the operand's
    /// [`View::is_out`] is true, it has no elements of its own, and they stand in the output.
    fn in_place(&self) -> Option<usize> {
        None
    }

    /// Whether the operand of the in-place slot is meant to be overwritten even if it is an input
    /// of the program, as a cache is. It is copied first if somebody else holds it.
    fn updates(&self) -> bool {
        false
    }

    /// Whether the kernel can do this with what the output holds, where [`Context::combine`] says
    /// so: a sum with its results, or their gate, is then no step of its own. The output holds the
    /// other operand of that step then, so that the operand of [`CpuKernel::in_place`] never stands
    /// there.
    fn combines(&self, how: Combine) -> bool {
        how == Combine::Replace
    }

    /// Bytes of working memory; [`Context::scratch`] gives them.
    fn scratch(&self, inputs: &Self::Inputs<&Spec>, threads: usize) -> usize {
        let _ = (inputs, threads);
        0
    }

    /// Computes the output, together with what it holds if need be ([`Context::combine`]).
    ///
    /// # Errors
    /// What only the values show.
    fn run(
        &self,
        inputs: Self::Inputs<View<'_>>,
        out: &mut Out<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), Error>;
}

/// An operand while a program runs.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) bytes: &'a [u8],
    pub(crate) is_out: bool,
    pub(crate) known: Option<&'a Known>,
}

impl<'a> View<'a> {
    /// Type and shape.
    pub fn spec(&self) -> &'a Spec {
        &self.layout.spec
    }

    /// Extents.
    pub fn shape(&self) -> &'a [usize] {
        &self.layout.spec.shape
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.layout.spec.dtype
    }

    /// Distance in elements along each axis.
    pub fn strides(&self) -> &'a [isize] {
        &self.layout.strides
    }

    /// Whether the elements stand in the memory of the output.
    pub fn is_out(&self) -> bool {
        self.is_out
    }

    /// The elements: exactly those of the view if it is dense; otherwise from its first element to
    /// the end of the memory it stands in, to be read by [`View::strides`].
    ///
    /// # Errors
    /// When they are not of type `T` (booleans are read as `u8`).
    pub fn slice<T: Element>(&self) -> Result<&'a [T], Error> {
        let same = T::DTYPE == self.dtype() || (T::DTYPE, self.dtype()) == (DType::U8, DType::Bool);
        let all: Option<&[T]> = bytemuck::try_cast_slice(self.bytes).ok().filter(|_| same);
        let Some(all) = all else {
            let (is, read) = (self.dtype(), T::DTYPE);
            return Err(Error::Value(format!("an operand of {is} was read as {read}")));
        };
        let from = &all[self.layout.offset.min(all.len())..];
        Ok(if self.layout.is_dense() { &from[..self.spec().numel().min(from.len())] } else { from })
    }

    /// The integers of a small dense operand (offsets, lengths).
    ///
    /// # Errors
    /// When they are not integers.
    pub fn integers(&self) -> Result<Vec<i64>, Error> {
        Ok(match self.dtype() {
            DType::I64 => self.slice::<i64>()?.to_vec(),
            DType::I32 => self.slice::<i32>()?.iter().map(|&x| x as i64).collect(),
            DType::U32 => self.slice::<u32>()?.iter().map(|&x| x as i64).collect(),
            _ => self.slice::<u8>()?.iter().map(|&x| x as i64).collect(),
        })
    }

    /// The floats of a small dense operand, widened.
    ///
    /// # Errors
    /// When they are not floats.
    pub fn floats(&self) -> Result<Vec<f32>, Error> {
        Ok(match self.dtype() {
            DType::F16 => self.slice::<half::f16>()?.iter().map(|x| x.to_f32()).collect(),
            DType::BF16 => self.slice::<half::bf16>()?.iter().map(|x| x.to_f32()).collect(),
            _ => self.slice::<f32>()?.to_vec(),
        })
    }

    /// Something made once of a weight and shared by all programs of the backend, such as the
    /// weight packed for a product. `None` where the operand is not a whole weight.
    pub fn prepacked<P: Any + Send + Sync>(
        &self,
        make: impl FnOnce(&frit_graph::Value) -> P,
    ) -> Option<Arc<P>> {
        let whole = self.layout.is_dense() && self.layout.offset == 0;
        let known =
            self.known.filter(|k| whole && k.value.spec().bytes() == self.spec().bytes())?;
        Some(known.prepacked(make))
    }
}

/// The output while a program runs: dense.
pub struct Out<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) bytes: &'a mut [u8],
}

impl Out<'_> {
    /// Type and shape.
    pub fn spec(&self) -> &Spec {
        self.spec
    }

    /// The elements, row-major.
    ///
    /// # Errors
    /// When they are not of type `T` (booleans are written as `u8`).
    pub fn slice_mut<T: Element>(&mut self) -> Result<&mut [T], Error> {
        let is = self.spec.dtype;
        let same = T::DTYPE == is || (T::DTYPE, is) == (DType::U8, DType::Bool);
        match bytemuck::try_cast_slice_mut(self.bytes) {
            Ok(all) if same => Ok(all),
            _ => Err(Error::Value(format!("an output of {is} was written as {}", T::DTYPE))),
        }
    }
}

/// What a kernel may use while it runs.
pub struct Context<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) scratch: &'a mut [u8],
    pub(crate) combine: Combine,
}

impl<'a> Context<'a> {
    /// The threads.
    pub fn pool(&self) -> &'a Pool {
        self.pool
    }

    /// What to do with what the output holds; nothing that the kernel does not offer
    /// ([`CpuKernel::combines`]).
    pub fn combine(&self) -> Combine {
        self.combine
    }

    /// The working memory that the kernel asked for, not cleared, aligned to 64 bytes.
    pub fn scratch(&mut self) -> &mut [u8] {
        self.scratch
    }
}

/// A kernel with its types erased.
pub(crate) trait Kernel: Send + Sync {
    /// The Block that it computes, if it is one.
    fn block(&self) -> Option<&dyn DynBlock> {
        None
    }
    fn wants(&self, slot: usize) -> Wants;
    fn widens(&self, slot: usize) -> bool {
        let _ = slot;
        false
    }
    /// Slots whose memory may become that of the output, in order of preference.
    fn in_place(&self) -> Vec<usize>;
    /// Whether it can do this with what the output holds.
    fn combines(&self, how: Combine) -> bool {
        how == Combine::Replace
    }
    /// Whether it is the sum of its two operands and nothing else.
    fn is_sum(&self) -> bool {
        false
    }
    fn updates(&self) -> bool {
        false
    }
    fn scratch(&self, inputs: &[Option<&Layout>], threads: usize) -> usize;
    fn run(
        &self,
        inputs: &[Option<View<'_>>],
        out: &mut Out<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), Error>;
}

struct Fused<B: CpuKernel>(B);

fn absent(name: &str) -> Error {
    Error::Run(format!("[{name}] a required operand is absent"))
}

impl<B: CpuKernel> Kernel for Fused<B> {
    fn block(&self) -> Option<&dyn DynBlock> {
        Some(&self.0)
    }

    fn wants(&self, slot: usize) -> Wants {
        self.0.wants(slot)
    }

    fn widens(&self, slot: usize) -> bool {
        self.0.widens(slot)
    }

    fn in_place(&self) -> Vec<usize> {
        self.0.in_place().into_iter().collect()
    }

    fn combines(&self, how: Combine) -> bool {
        self.0.combines(how)
    }

    fn updates(&self) -> bool {
        self.0.updates()
    }

    fn scratch(&self, inputs: &[Option<&Layout>], threads: usize) -> usize {
        let specs = inputs.iter().map(|l| l.map(|l| &l.spec)).collect();
        B::Inputs::unflatten(specs).map_or(0, |i| self.0.scratch(&i, threads))
    }

    fn run(
        &self,
        inputs: &[Option<View<'_>>],
        out: &mut Out<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), Error> {
        let inputs = B::Inputs::unflatten(inputs.to_vec()).ok_or_else(|| absent(B::NAME))?;
        self.0.run(inputs, out, context)
    }
}

/// Says whether a kernel takes a Block on these operands.
type Accept = fn(&dyn DynBlock, &[Option<&Spec>]) -> Result<(), Decline>;

/// How a kernel is found and made for a Block of one type.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) block: fn() -> TypeId,
    pub(crate) accept: Accept,
    pub(crate) make: fn(&dyn DynBlock) -> Option<Box<dyn Kernel>>,
}

impl Entry {
    pub(crate) const fn of<B: CpuKernel>() -> Entry {
        Entry {
            block: TypeId::of::<B>,
            accept: |block, inputs| {
                let inputs = B::Inputs::unflatten(inputs.to_vec());
                match (block.downcast::<B>(), inputs) {
                    (Some(block), Some(inputs)) => block.accept(&inputs),
                    _ => Err(Decline::NoKernel),
                }
            },
            make: |block| Some(Box::new(Fused(block.downcast::<B>()?.clone()))),
        }
    }
}
