//! The lazy tensor: a node of the graph. Making one computes nothing.
//!
//! A tensor that breaks a shape rule is *poisoned*: it carries the message and the line of the
//! caller, everything made from it is the same poison, and compiling reports the first one. So
//! model code needs no `?`. The methods stand in [`methods`](self) order: leaves, elementwise,
//! reductions, products, shapes; operators are in `operators.rs`.

use crate::{Block, DType, DynBlock, Error, Operands, Prim, ShapeError, Spec};
use std::{
    fmt,
    panic::Location,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// What a node does.
#[derive(Clone, Debug)]
pub enum Op {
    /// A primitive.
    Prim(Prim),
    /// A Block.
    Block(Arc<dyn DynBlock>),
    /// A shape error met while tracing.
    Poison(String),
}

/// One node of a graph.
pub struct Node {
    id: u64,
    op: Op,
    inputs: Vec<Option<Tensor>>,
    spec: Spec,
    at: &'static Location<'static>,
}

impl Node {
    /// A number no other node has.
    pub fn id(&self) -> u64 {
        self.id
    }
    /// What it does.
    pub fn op(&self) -> &Op {
        &self.op
    }
    /// The primitive it is, if it is one.
    pub fn prim(&self) -> Option<&Prim> {
        match &self.op {
            Op::Prim(p) => Some(p),
            _ => None,
        }
    }
    /// The Block it is, if it is one of this type.
    pub fn block<B: Block>(&self) -> Option<&B> {
        match &self.op {
            Op::Block(b) => b.downcast(),
            _ => None,
        }
    }
    /// Operands; an absent optional operand of a Block is `None`.
    pub fn inputs(&self) -> &[Option<Tensor>] {
        &self.inputs
    }
    /// The operand of this position, if it is there.
    pub fn input(&self, i: usize) -> Option<&Tensor> {
        self.inputs.get(i)?.as_ref()
    }
    /// Type and shape of the result.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }
    /// The line that made it.
    pub fn at(&self) -> &'static Location<'static> {
        self.at
    }
    /// The name of the primitive or Block.
    pub fn name(&self) -> &'static str {
        match &self.op {
            Op::Prim(p) => p.name(),
            Op::Block(b) => b.name(),
            Op::Poison(_) => "poison",
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{} = {} : {}", self.id, self.name(), self.spec)
    }
}

impl Drop for Node {
    /// A long chain would overflow the stack if each node dropped the next by recursion.
    fn drop(&mut self) {
        let mut doomed: Vec<Tensor> = self.inputs.drain(..).flatten().collect();
        while let Some(t) = doomed.pop() {
            if let Some(mut node) = Arc::into_inner(t.0) {
                doomed.extend(node.inputs.drain(..).flatten());
            }
        }
    }
}

/// A lazy tensor: a shared node.
#[derive(Clone)]
pub struct Tensor(Arc<Node>);

impl std::ops::Deref for Tensor {
    type Target = Node;
    fn deref(&self) -> &Node {
        &self.0
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Tensor {
    #[track_caller]
    pub(crate) fn node(
        op: Op,
        inputs: Vec<Option<Tensor>>,
        spec: Result<Spec, ShapeError>,
    ) -> Tensor {
        Tensor::node_at(op, inputs, spec, Location::caller())
    }

    pub(crate) fn node_at(
        op: Op,
        inputs: Vec<Option<Tensor>>,
        spec: Result<Spec, ShapeError>,
        at: &'static Location<'static>,
    ) -> Tensor {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        if let Some(poison) = inputs.iter().flatten().find(|t| t.is_poisoned()) {
            return poison.clone();
        }
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let spec = spec.and_then(|spec| match spec.checked_numel() {
            Some(_) => Ok(spec),
            None => Err(ShapeError(format!("a result of {spec} is larger than memory"))),
        });
        Tensor(Arc::new(match spec {
            Ok(spec) => Node { id, op, inputs, spec, at },
            Err(ShapeError(why)) => {
                let name = match &op {
                    Op::Prim(p) => p.name(),
                    Op::Block(b) => b.name(),
                    Op::Poison(_) => "error",
                };
                let op = Op::Poison(format!("[{name}] {why}"));
                Node { id, op, inputs: Vec::new(), spec: Spec::new(DType::F32, []), at }
            }
        }))
    }

    #[track_caller]
    pub(crate) fn prim_node(
        prim: Prim,
        inputs: &[&Tensor],
        spec: Result<Spec, ShapeError>,
    ) -> Tensor {
        let inputs = inputs.iter().map(|&t| Some(t.clone())).collect();
        Tensor::node(Op::Prim(prim), inputs, spec)
    }

    /// The same operation on other operands. The specs of the operands must be those of the old
    /// ones: passes use this to rebuild a graph.
    pub fn with_inputs(&self, inputs: Vec<Option<Tensor>>) -> Tensor {
        let same = self.inputs.iter().zip(&inputs).all(|(a, b)| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(&a.0, &b.0),
            (None, None) => true,
            _ => false,
        });
        if same && self.inputs.len() == inputs.len() {
            return self.clone();
        }
        Tensor::node_at(self.op.clone(), inputs, Ok(self.spec.clone()), self.at)
    }

    /// The same operation as if another line had made it, for rules: what they put in the place of
    /// a node belongs to the line that made the node.
    pub(crate) fn relocated(&self, at: &'static Location<'static>) -> Tensor {
        if self.at == at || self.inputs.is_empty() {
            return self.clone();
        }
        Tensor::node_at(self.op.clone(), self.inputs.clone(), Ok(self.spec.clone()), at)
    }

    /// A Block applied to its operands.
    #[track_caller]
    pub fn block<B: Block>(block: B, inputs: B::Inputs<Tensor>) -> Tensor {
        Tensor::dyn_block(Arc::new(block), inputs.flatten())
    }

    /// A Block whose type is erased, applied to a list of operands.
    #[track_caller]
    pub fn dyn_block(block: Arc<dyn DynBlock>, inputs: Vec<Option<Tensor>>) -> Tensor {
        let specs: Vec<_> = inputs.iter().map(|t| t.as_ref().map(|t| &t.spec)).collect();
        // Poisoned operands have a spec of no meaning: `node` passes the poison on.
        let spec = match inputs.iter().flatten().any(|t| t.is_poisoned()) {
            true => Err("poisoned operand".into()),
            false => block.infer_list(&specs),
        };
        Tensor::node(Op::Block(block), inputs, spec)
    }

    /// A tensor that is an error, at the caller's line: for functions that find out before they
    /// can make a node.
    #[track_caller]
    pub fn poison(operation: &str, message: impl fmt::Display) -> Tensor {
        Tensor(Arc::new(Node {
            id: u64::MAX,
            op: Op::Poison(format!("[{operation}] {message}")),
            inputs: Vec::new(),
            spec: Spec::new(DType::F32, []),
            at: Location::caller(),
        }))
    }

    /// Whether it is the result of a shape error.
    pub fn is_poisoned(&self) -> bool {
        matches!(self.op, Op::Poison(_))
    }

    /// The shape error, if the tensor is poisoned.
    ///
    /// # Errors
    /// [`Error::Shape`] with the message and the line that made it.
    pub fn check(&self) -> Result<(), Error> {
        match &self.op {
            Op::Poison(message) => Err(Error::Shape { message: message.clone(), at: self.at }),
            _ => Ok(()),
        }
    }

    /// Extents.
    pub fn shape(&self) -> &[usize] {
        &self.spec.shape
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.spec.dtype
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.spec.rank()
    }

    /// Whether both are the very same node.
    pub fn is(&self, other: &Tensor) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
