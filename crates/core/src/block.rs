//! Blocks: the open set of operations. A Block is an options struct that carries its own meaning.

use crate::{ShapeError, Spec, Tensor};
use std::{
    any::{Any, TypeId},
    fmt::Debug,
};

/// An operation with a name, a shape rule and a meaning written in primitives and other Blocks.
///
/// A backend that has a kernel for it runs it as one step; every other backend runs
/// [`compose`](Block::compose). A Block has one output: what has several (the keys and values of a
/// cache, say) is several Blocks over the same inputs, and a backend is free to join them.
///
/// ```
/// use frit_graph::{Block, ShapeError, Spec, Tensor, operands};
///
/// /// `y = x + x`
/// #[derive(Clone, Debug, PartialEq)]
/// struct Twice;
///
/// operands!(/// Inputs of [`Twice`].
///     TwiceInputs { x } optional {});
///
/// impl Block for Twice {
///     type Inputs<T> = TwiceInputs<T>;
///     const NAME: &'static str = "example.twice";
///     fn infer(&self, inputs: TwiceInputs<&Spec>) -> Result<Spec, ShapeError> {
///         Ok(inputs.x.clone())
///     }
///     fn compose(&self, inputs: TwiceInputs<Tensor>) -> Tensor {
///         &inputs.x + &inputs.x
///     }
/// }
/// ```
pub trait Block: Clone + Debug + PartialEq + Send + Sync + 'static {
    /// Named operand slots; see [`operands!`](crate::operands).
    type Inputs<T>: Operands<T>;
    /// The published name, prefixed by the library's where it is not of the catalogue.
    const NAME: &'static str;
    /// Whether this Block only holds others (a layer, a model): composing it is then no loss.
    const CONTAINER: bool = false;

    /// The spec of the output.
    ///
    /// # Errors
    /// What it wanted and what it got, without the name, which is put in front by the caller.
    fn infer(&self, inputs: Self::Inputs<&Spec>) -> Result<Spec, ShapeError>;

    /// The meaning. Called only with operands that [`infer`](Block::infer) accepts.
    fn compose(&self, inputs: Self::Inputs<Tensor>) -> Tensor;
}

/// One operand slot of a Block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: &'static str,
    /// Whether it may be absent.
    pub optional: bool,
}

/// The operands of a Block by name, generic over what stands in the slots.
pub trait Operands<T>: Sized {
    /// The slots in order; a variadic Block has one slot that repeats.
    fn slots() -> &'static [Slot];
    /// To a list in the order of [`slots`](Operands::slots).
    fn flatten(self) -> Vec<Option<T>>;
    /// From such a list; `None` where a required operand is absent.
    fn unflatten(list: Vec<Option<T>>) -> Option<Self>;
}

/// Declares the operands of a Block: `operands!(pub RmsNormInputs { x } optional { weight })`.
#[macro_export]
macro_rules! operands {
    ($(#[$m:meta])* $vis:vis $name:ident { $($req:ident),* $(,)? }
        optional { $($opt:ident),* $(,)? }) => {
        $(#[$m])*
        #[derive(Clone, Debug)]
        $vis struct $name<T> {
            $(#[doc = concat!("The operand `", stringify!($req), "`.")] $vis $req: T,)*
            $(#[doc = concat!("The operand `", stringify!($opt), "`, if given.")]
                $vis $opt: Option<T>,)*
        }

        impl<T> $crate::Operands<T> for $name<T> {
            fn slots() -> &'static [$crate::Slot] {
                &[$($crate::Slot { name: stringify!($req), optional: false },)*
                  $($crate::Slot { name: stringify!($opt), optional: true },)*]
            }
            fn flatten(self) -> Vec<Option<T>> {
                vec![$(Some(self.$req),)* $(self.$opt,)*]
            }
            fn unflatten(list: Vec<Option<T>>) -> Option<Self> {
                let mut list = list.into_iter();
                Some($name { $($req: list.next().flatten()?,)* $($opt: list.next().flatten(),)* })
            }
        }
    };
}

/// Any number of operands, for variadic Blocks.
#[derive(Clone, Debug)]
pub struct Many<T>(pub Vec<T>);

impl<T> Operands<T> for Many<T> {
    fn slots() -> &'static [Slot] {
        &[Slot { name: "operand", optional: false }]
    }
    fn flatten(self) -> Vec<Option<T>> {
        self.0.into_iter().map(Some).collect()
    }
    fn unflatten(list: Vec<Option<T>>) -> Option<Self> {
        Some(Many(list.into_iter().flatten().collect()))
    }
}

/// The object-safe face of [`Block`], implemented once for all.
pub trait DynBlock: Debug + Send + Sync {
    /// [`Block::NAME`].
    fn name(&self) -> &'static str;
    /// [`Block::CONTAINER`].
    fn is_container(&self) -> bool;
    /// The Rust type of the Block.
    fn block_type(&self) -> TypeId;
    /// For downcasting.
    fn as_any(&self) -> &dyn Any;
    /// [`Block::infer`] over a list.
    ///
    /// # Errors
    /// As [`Block::infer`], and where a required operand is absent.
    fn infer_list(&self, inputs: &[Option<&Spec>]) -> Result<Spec, ShapeError>;
    /// [`Block::compose`] over a list; `None` where a required operand is absent.
    fn compose_list(&self, inputs: &[Option<Tensor>]) -> Option<Tensor>;
    /// Whether the other Block is of the same type with equal options.
    fn same(&self, other: &dyn DynBlock) -> bool;
}

impl<B: Block> DynBlock for B {
    fn name(&self) -> &'static str {
        B::NAME
    }
    fn is_container(&self) -> bool {
        B::CONTAINER
    }
    fn block_type(&self) -> TypeId {
        TypeId::of::<B>()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn infer_list(&self, inputs: &[Option<&Spec>]) -> Result<Spec, ShapeError> {
        let inputs = B::Inputs::unflatten(inputs.to_vec()).ok_or("a required operand is absent")?;
        self.infer(inputs)
    }
    fn compose_list(&self, inputs: &[Option<Tensor>]) -> Option<Tensor> {
        Some(self.compose(B::Inputs::unflatten(inputs.to_vec())?))
    }
    fn same(&self, other: &dyn DynBlock) -> bool {
        other.as_any().downcast_ref::<B>() == Some(self)
    }
}

impl dyn DynBlock + '_ {
    /// The Block as its own type, if it is of that type.
    pub fn downcast<B: Block>(&self) -> Option<&B> {
        self.as_any().downcast_ref()
    }
}
