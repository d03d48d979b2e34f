//! What a step of a program does: it adds operations to MLX's graph.

use crate::{
    MlxError,
    ffi::{Array, Session},
    results,
};
use frit_graph::{
    Decline, Error, Operands, Spec, Value,
    reference::{index_error, update_error},
};
use std::{collections::HashMap, sync::OnceLock};

/// Operands of up to so many elements are kept on the host too, where they are whole numbers.
pub(crate) const HOST: usize = 1024;

/// An operand while a graph is built.
///
/// Small whole numbers (positions, lengths) are known on the host before the graph is built, so
/// that a length can be a slice instead of a mask; they become arrays only where one is needed.
#[derive(Clone)]
pub(crate) struct Operand {
    array: OnceLock<Array>,
    host: Option<Value>,
    pub(crate) spec: Spec,
}

impl Operand {
    pub(crate) fn of_array(array: Array, spec: &Spec) -> Operand {
        Operand { array: OnceLock::from(array), host: None, spec: spec.clone() }
    }

    pub(crate) fn of_value(value: Value) -> Operand {
        Operand { array: OnceLock::new(), spec: value.spec().clone(), host: Some(value) }
    }

    /// The array.
    pub(crate) fn array(&self, session: &Session) -> Result<Array, MlxError> {
        match (self.array.get(), &self.host) {
            (Some(array), _) => Ok(array.clone()),
            (None, Some(value)) => {
                let array = results::array_of(session, value)?;
                Ok(self.array.get_or_init(|| array).clone())
            }
            (None, None) => Err(MlxError::Call { call: "operand", message: "absent".into() }),
        }
    }

    /// The numbers, computed now if they are not known yet.
    pub(crate) fn numbers(&self, session: &Session) -> Result<Vec<f64>, Error> {
        if let Some(value) = &self.host {
            return Ok(value.to_f64());
        }
        let array = session.contiguous(&self.array(session)?)?;
        session.eval(&[&array])?;
        let contents = session.contents(&array)?;
        Ok(Value::from_bytes(self.spec.clone(), contents.as_ref())?.to_f64())
    }

    /// The numbers, if they are known on the host.
    pub(crate) fn host(&self) -> Option<&Value> {
        self.host.as_ref()
    }
}

/// What must hold of values that are not known while the graph is built. It is looked at after the
/// evaluation; until then what it guards reads some place that exists.
pub(crate) struct Guard {
    /// A boolean without axes: whether something is wrong.
    pub(crate) wrong: Array,
    /// The integers it was found in (i64).
    pub(crate) numbers: Array,
    pub(crate) kind: GuardKind,
}

/// What is guarded.
#[derive(Clone, Copy)]
pub(crate) enum GuardKind {
    /// Indices into an axis of this extent.
    Index { extent: usize },
    /// Starts of a write of `length` positions into `extent`.
    Start { length: usize, extent: usize },
}

impl GuardKind {
    /// The error of the first number that is wrong.
    pub(crate) fn error(self, numbers: &[i64]) -> Option<Error> {
        let outside = |n: i64, room: i64| n < 0 || n >= room;
        match self {
            GuardKind::Index { extent } => numbers
                .iter()
                .find(|n| outside(**n, extent as i64))
                .map(|n| index_error("gather", *n, extent)),
            GuardKind::Start { length, extent } => numbers
                .iter()
                .find(|n| outside(**n, (extent - length) as i64 + 1))
                .map(|n| update_error(*n, length, extent)),
        }
    }
}

/// What a kernel may use while it adds to the graph.
pub(crate) struct Context<'a> {
    pub(crate) session: &'a Session,
    pub(crate) guards: Vec<Guard>,
    /// What rotary embeddings are made by, which all layers share.
    pub(crate) tables: Tables,
}

/// Small arrays by the bits of the numbers that they are made of.
pub(crate) type Tables = HashMap<Vec<u64>, Array>;

impl<'a> Context<'a> {
    pub(crate) fn new(session: &'a Session) -> Context<'a> {
        Context { session, guards: Vec::new(), tables: HashMap::new() }
    }
}

/// A step.
pub(crate) trait Kernel: Send + Sync {
    /// Adds it to the graph.
    fn lower(&self, c: &mut Context<'_>, x: &[Option<&Operand>]) -> Result<Array, Error>;
}

/// A Block that MLX has a call of its own for.
pub(crate) trait MlxKernel: frit_graph::Block {
    /// Takes operands of these specs, or says why not.
    fn accept(&self, inputs: &Self::Inputs<&Spec>) -> Result<(), Decline>;

    /// Adds it to the graph. The result has the spec `out`, but for its type, which is cast.
    fn lower(
        &self,
        c: &mut Context<'_>,
        inputs: Self::Inputs<&Operand>,
        out: &Spec,
    ) -> Result<Array, Error>;
}

/// A kernel with its type erased.
pub(crate) struct Fused<B>(pub(crate) B, pub(crate) Spec);

impl<B: MlxKernel> Kernel for Fused<B> {
    fn lower(&self, c: &mut Context<'_>, x: &[Option<&Operand>]) -> Result<Array, Error> {
        let absent = || Error::Run(format!("[{}] a required operand is absent", B::NAME));
        let inputs = B::Inputs::unflatten(x.to_vec()).ok_or_else(absent)?;
        let y = self.0.lower(c, inputs, &self.1)?;
        Ok(c.session.cast(&y, self.1.dtype)?)
    }
}

/// Declines with this reason.
pub(crate) fn declined<T>(why: impl Into<String>) -> Result<T, Decline> {
    Err(Decline::Unsupported(why.into()))
}
