//! From a lowered graph to steps over planned memory.
//!
//! 1. [`build`]: every node becomes a view of a buffer or a step that writes one. Reshapes,
//!    transposes, slices and broadcasts are views; an operand that a kernel cannot read as it
//!    stands is copied by a step of its own; elementwise functions in a row are one step
//!    ([`chains`]), and so are products of one operand with several packed weights ([`join`]), and
//!    a product and the sum or the gate that it goes into ([`combine`]). Rotations by the same
//!    angles share their cosines and sines ([`angles`]).
//! 2. [`Builder::reuse`]: a step writes over an operand that dies there, where its kernel can.
//! 3. [`Builder::compute`]: what depends on weights alone and is needed by another step is computed
//!    now, once for all programs of the backend ([`recipe`]); what only led there is dropped. Like
//!    the weights it stands outside of the block, and does not count in the peak.
//! 4. [`memory::place`]: the remaining buffers get places in one block, by their lifetimes. Its
//!    size is the peak, known before anything runs.

mod angles;
mod chains;
mod combine;
mod join;
mod layout;
mod memory;
mod recipe;
mod run;
#[cfg(test)]
mod tests;

pub(crate) use layout::Layout;
pub(crate) use recipe::{Recipe, Recipes};
pub(crate) use run::Plan;

use crate::{
    Cpu, EventKind,
    kernel::{Kernel, Wants},
    prepacked::Known,
    prim,
};
use chains::Chains;
use frit_graph::{
    Error, Graph, Op, Params, Prim, Spec, Tensor, Value, pattern::before_widening, reference,
};
use memory::Life;
use recipe::What;
use std::{collections::HashMap, panic::Location, sync::Arc};

/// Where a buffer is.
pub(crate) enum Place {
    /// The program's input; `taken` where a step writes over it.
    Input { index: usize, taken: bool },
    /// A weight or constant.
    Known(Box<Known>),
    /// Of weights alone: computed before the program is there.
    Early,
    /// In the block of memory, from this byte.
    Block(usize),
    /// The program's output, allocated when it runs.
    Output(usize),
    /// Merged into another buffer, or never used.
    Nowhere,
}

pub(crate) struct Buffer {
    pub(crate) spec: Spec,
    /// Of the spec, which would have to be counted at every run.
    pub(crate) bytes: usize,
    pub(crate) place: Place,
}

pub(crate) struct Step {
    pub(crate) kernel: Box<dyn Kernel>,
    pub(crate) inputs: Vec<Option<Layout>>,
    pub(crate) out: usize,
    pub(crate) out_spec: Spec,
    /// First byte and size of its working memory in the block.
    pub(crate) scratch: (usize, usize),
    pub(crate) label: Label,
}

/// What a step is of.
#[derive(Clone, Copy)]
pub(crate) struct Label {
    pub(crate) kind: EventKind,
    pub(crate) name: &'static str,
    pub(crate) at: Option<&'static Location<'static>>,
}

/// How an output of the program comes about.
pub(crate) enum Exit {
    /// It is the memory of this buffer: an output, or an input that was written over.
    Buffer(usize),
    /// It is an input or a weight, untouched.
    Same(usize),
}

struct Builder<'a> {
    cpu: &'a Cpu,
    buffers: Vec<Buffer>,
    steps: Vec<Step>,
    /// Steps on weights alone, which run before the program is there.
    early: Vec<Step>,
    /// Of each buffer that is known or will be.
    recipes: HashMap<usize, Arc<Recipe>>,
    chains: Chains,
    layouts: HashMap<u64, Layout>,
    dense: HashMap<u64, Layout>,
    /// The line that made the node at hand.
    at: Option<&'static Location<'static>>,
}

/// Plans a lowered graph.
pub(crate) fn build(cpu: &Cpu, graph: &Graph, params: &Params) -> Result<Plan, Error> {
    let mut b = Builder {
        cpu,
        buffers: Vec::new(),
        steps: Vec::new(),
        early: Vec::new(),
        recipes: HashMap::new(),
        // What is composed for comparison runs step by step.
        chains: if cpu.is_fused() { Chains::of(graph) } else { Chains::default() },
        layouts: HashMap::new(),
        dense: HashMap::new(),
        at: None,
    };
    for (index, spec) in graph.inputs().iter().enumerate() {
        b.buffer(spec, Place::Input { index, taken: false });
    }
    for node in graph.nodes() {
        if b.chains.contain(&node) {
            continue;
        }
        b.at = Some(node.at());
        let layout = b.node(&node, params)?;
        b.layouts.insert(node.id(), layout);
    }
    let mut exits = Vec::new();
    for (k, t) in graph.outputs().iter().enumerate() {
        exits.push((b.exit(k, t)?, t.spec().clone()));
    }
    b.share_angles();
    b.join();
    b.combine();
    b.reuse(&mut exits);
    b.compute(&exits)?;
    Ok(b.finish(exits))
}

impl Builder<'_> {
    fn buffer(&mut self, spec: &Spec, place: Place) -> usize {
        self.buffers.push(Buffer { spec: spec.clone(), bytes: spec.bytes(), place });
        self.buffers.len() - 1
    }

    fn known(&mut self, value: Value, what: What) -> Layout {
        let spec = value.spec().clone();
        let shelf = self.cpu.shelf().clone();
        let recipe = shelf.recipes.find(what, &spec, Vec::new());
        let known = Known::new(value, shelf, recipe.clone());
        let id = self.buffer(&spec, Place::Known(Box::new(known)));
        self.recipes.insert(id, recipe);
        Layout::dense(id, &spec)
    }

    fn node(&mut self, t: &Tensor, params: &Params) -> Result<Layout, Error> {
        let spec = t.spec();
        let operand = |i: usize| t.input(i).map(|t| &self.layouts[&t.id()]);
        match t.op() {
            Op::Prim(Prim::Input(i)) => return Ok(Layout::dense(*i, spec)),
            Op::Prim(Prim::Param(name)) => {
                let missing = || {
                    let (name, wanted) = (name.to_string(), spec.clone());
                    Error::MissingParam { name, wanted }
                };
                let value = params.get(name).ok_or_else(missing)?.clone();
                return Ok(self.known(value.clone(), What::Weight(value)));
            }
            Op::Prim(Prim::Constant(v)) => {
                return Ok(self.known(v.clone(), What::Constant(v.clone())));
            }
            Op::Prim(p @ Prim::Iota(_)) => {
                return Ok(self.known(reference::eval(p, spec, &[])?, What::Prim(p.clone())));
            }
            Op::Prim(Prim::Transpose(perm)) => {
                if let Some(x) = operand(0) {
                    return Ok(x.transposed(perm));
                }
            }
            Op::Prim(Prim::Broadcast) => {
                if let Some(x) = operand(0) {
                    return Ok(x.broadcast(spec));
                }
            }
            Op::Prim(Prim::Slice { start, step }) => {
                if let Some(x) = operand(0) {
                    return Ok(x.sliced(start, step, spec));
                }
            }
            Op::Prim(Prim::Bitcast) => {
                let aligned = operand(0).filter(|x| self.is_aligned(x, spec));
                if let Some(view) = aligned.and_then(|x| x.bitcast(spec)) {
                    return Ok(view);
                }
            }
            Op::Prim(Prim::Reshape) => {
                if let Some(x) = t.input(0) {
                    let view = self.layouts[&x.id()].reshaped(spec);
                    let dense = |b: &mut Self| b.dense(x).map(|d| d.reshaped(spec));
                    return match view {
                        Some(v) => Ok(v),
                        None => dense(self)?.ok_or_else(|| internal("a dense reshape")),
                    };
                }
            }
            _ => {}
        }
        if let Some((chain, operands)) = self.chains.take(t) {
            let what = match t.op() {
                Op::Block(b) => What::Block(b.clone()),
                _ => What::Prim(t.prim().cloned().ok_or_else(|| internal("a chain"))?),
            };
            let inputs = operands.iter().map(|x| Some(self.layouts[&x.id()].clone())).collect();
            return self.step(Box::new(chain), what, inputs, spec);
        }
        let (kernel, what): (Box<dyn Kernel>, What) = match t.op() {
            Op::Prim(p) => {
                (prim::kernel(p, spec).ok_or_else(|| internal(p.name()))?, What::Prim(p.clone()))
            }
            Op::Block(b) => {
                (self.cpu.make(&**b).ok_or_else(|| internal(b.name()))?, What::Block(b.clone()))
            }
            Op::Poison(message) => return Err(internal(message)),
        };
        let mut inputs = Vec::new();
        for (slot, x) in t.inputs().iter().enumerate() {
            inputs.push(match x {
                None => None,
                Some(x) if kernel.widens(slot) => {
                    Some(self.as_wanted(self.stored(x), kernel.wants(slot))?)
                }
                Some(x) => Some(self.as_wanted(x, kernel.wants(slot))?),
            });
        }
        self.step(kernel, what, inputs, spec)
    }

    /// Whether the buffer of a view is surely aligned for elements of `spec`: what comes from
    /// outside is aligned for its own type only.
    fn is_aligned(&self, view: &Layout, spec: &Spec) -> bool {
        match &self.buffers[view.buffer].place {
            Place::Known(known) => {
                known.value.bytes().as_ptr().addr().is_multiple_of(spec.dtype.size())
            }
            Place::Input { .. } => spec.dtype.size() <= view.dtype().size(),
            _ => true,
        }
    }

    /// A weight before it is widened, where weights alone decide it.
    fn stored<'t>(&self, x: &'t Tensor) -> &'t Tensor {
        let from = before_widening(x);
        let known = self.layouts.get(&from.id());
        let known = known.is_some_and(|l| self.recipes.contains_key(&l.buffer));
        if known && from.dtype().size() == 2 { from } else { x }
    }

    /// The operand in a form that a kernel reads.
    fn as_wanted(&mut self, x: &Tensor, wants: Wants) -> Result<Layout, Error> {
        let layout = &self.layouts[&x.id()];
        let fits = match wants {
            Wants::Dense => layout.is_dense(),
            Wants::Rows => layout.has_rows(),
            Wants::Strided => true,
        };
        if fits { Ok(layout.clone()) } else { self.dense(x) }
    }

    /// The tensor with its elements one after the other, copied once if need be.
    fn dense(&mut self, x: &Tensor) -> Result<Layout, Error> {
        if let Some(l) = self.dense.get(&x.id()) {
            return Ok(l.clone());
        }
        let from = self.layouts[&x.id()].clone();
        let layout = match from.is_dense() {
            true => from,
            false => self.step(Box::new(prim::Copy), What::Copy, vec![Some(from)], x.spec())?,
        };
        self.dense.insert(x.id(), layout.clone());
        Ok(layout)
    }

    fn step(
        &mut self,
        kernel: Box<dyn Kernel>,
        what: What,
        inputs: Vec<Option<Layout>>,
        spec: &Spec,
    ) -> Result<Layout, Error> {
        let recipe = |l: &Layout| Some((self.recipes.get(&l.buffer)?.clone(), l.clone()));
        let from: Option<Vec<_>> =
            inputs.iter().map(|l| l.as_ref().map_or(Some(None), |l| recipe(l).map(Some))).collect();
        let out = self.buffer(spec, Place::Nowhere);
        let refs: Vec<Option<&Layout>> = inputs.iter().map(Option::as_ref).collect();
        let scratch = (0, kernel.scratch(&refs, self.cpu.pool().threads()));
        let out_spec = spec.clone();
        let label = Label { at: self.at, ..what.label() };
        let step = Step { kernel, inputs, out, out_spec, scratch, label };
        if let Some(from) = from.filter(|f| f.iter().any(Option::is_some)) {
            self.recipes.insert(out, self.cpu.shelf().recipes.find(what, spec, from));
            self.buffers[out].place = Place::Early;
            self.early.push(step);
            return Ok(Layout::dense(out, spec));
        }
        self.steps.push(step);
        Ok(Layout::dense(out, spec))
    }

    fn exit(&mut self, k: usize, t: &Tensor) -> Result<Exit, Error> {
        let layout = self.layouts[&t.id()].clone();
        let whole = layout.is_dense()
            && layout.offset == 0
            && layout.dtype() == self.buffers[layout.buffer].spec.dtype
            && layout.spec.numel() == self.buffers[layout.buffer].spec.numel();
        match self.buffers[layout.buffer].place {
            Place::Known(_) | Place::Early | Place::Input { .. } if whole => {
                return Ok(Exit::Same(layout.buffer));
            }
            Place::Nowhere if whole => {
                self.buffers[layout.buffer].place = Place::Output(k);
                return Ok(Exit::Buffer(layout.buffer));
            }
            _ => {}
        }
        // A view, or a buffer that is an output already.
        let inputs = vec![Some(layout)];
        let out = self.buffer(t.spec(), Place::Output(k));
        let (kernel, out_spec) = (Box::new(prim::Copy), t.spec().clone());
        let label = Label { at: Some(t.at()), ..What::Copy.label() };
        let step = Step { kernel, inputs, out, out_spec, scratch: (0, 0), label };
        self.steps.push(step);
        Ok(Exit::Buffer(out))
    }

    /// Lets steps write over operands that die there.
    fn reuse(&mut self, exits: &mut [(Exit, Spec)]) {
        let mut last = vec![0; self.buffers.len()];
        for (n, step) in self.steps.iter().enumerate() {
            step.inputs.iter().flatten().for_each(|l| last[l.buffer] = n);
        }
        for (e, _) in exits.iter() {
            // An input that is also an output must outlive every step.
            if let Exit::Same(b) = e {
                last[*b] = usize::MAX;
            }
        }
        let mut renamed: Vec<usize> = (0..self.buffers.len()).collect();
        for n in 0..self.steps.len() {
            for l in self.steps[n].inputs.iter_mut().flatten() {
                l.buffer = renamed[l.buffer];
            }
            let Some((from, to)) = self.reusable(n, &last) else { continue };
            // The output's buffer goes on living in the operand's.
            last[from] = last[to];
            renamed[to] = from;
            let place = std::mem::replace(&mut self.buffers[to].place, Place::Nowhere);
            match (&mut self.buffers[from].place, place) {
                (Place::Input { taken, .. }, _) => *taken = true,
                (old, Place::Output(k)) => *old = Place::Output(k),
                _ => {}
            }
            self.steps[n].out = from;
        }
        for (e, _) in exits.iter_mut() {
            if let Exit::Buffer(b) = e {
                *b = renamed[*b];
            }
        }
    }

    /// The operand's buffer that step `n` may write over, and the buffer it would have written.
    fn reusable(&self, n: usize, last: &[usize]) -> Option<(usize, usize)> {
        let step = &self.steps[n];
        let out = &self.buffers[step.out];
        step.kernel.in_place().into_iter().find_map(|slot| {
            let l = step.inputs.get(slot)?.as_ref()?;
            let buffer = &self.buffers[l.buffer];
            let free = match buffer.place {
                Place::Nowhere => true,
                Place::Input { taken, .. } => step.kernel.updates() && !taken,
                _ => false,
            };
            // Every other operand must stand elsewhere: the kernel writes while it reads.
            let others = step.inputs.iter().enumerate().filter(|(i, _)| *i != slot);
            let alone = others.flat_map(|(_, o)| o).all(|o| o.buffer != l.buffer);
            let whole = l.is_dense() && l.offset == 0 && buffer.spec.bytes() == out.spec.bytes();
            let whole = whole && buffer.spec.dtype == out.spec.dtype;
            let fits = whole && l.spec == out.spec && last[l.buffer] == n;
            (free && alone && fits && l.buffer != step.out).then_some((l.buffer, step.out))
        })
    }

    /// Computes what steps need of weights alone, or takes what another program has computed.
    fn compute(&mut self, exits: &[(Exit, Spec)]) -> Result<(), Error> {
        // How many steps are still to read each buffer; an exit reads it for ever.
        let mut readers = vec![0usize; self.buffers.len()];
        for step in &self.steps {
            step.inputs.iter().flatten().for_each(|l| readers[l.buffer] += 1);
        }
        for (e, _) in exits {
            let (Exit::Buffer(b) | Exit::Same(b)) = e;
            readers[*b] += 1;
        }
        let early = std::mem::take(&mut self.early);
        let mut needed = Vec::new();
        for step in early.iter().rev() {
            if readers[step.out] == 0 {
                continue;
            }
            match self.recipes.get(&step.out).and_then(|r| r.made()) {
                Some(value) => self.settle(step.out, value),
                None => {
                    step.inputs.iter().flatten().for_each(|l| readers[l.buffer] += 1);
                    needed.push(step);
                }
            }
        }
        for step in needed.iter().rev() {
            let value = run::once(self.cpu, &self.buffers, step)?;
            let value = match self.recipes.get(&step.out) {
                Some(recipe) => recipe.make(value),
                None => Arc::new(value),
            };
            self.settle(step.out, value);
            for l in step.inputs.iter().flatten() {
                readers[l.buffer] -= 1;
                if readers[l.buffer] == 0 {
                    self.buffers[l.buffer].place = Place::Nowhere;
                }
            }
        }
        for (buffer, readers) in self.buffers.iter_mut().zip(readers) {
            match buffer.place {
                Place::Known(_) if readers == 0 => buffer.place = Place::Nowhere,
                // Nothing to compute, or nobody to read it.
                Place::Early => buffer.place = Place::Nowhere,
                _ => {}
            }
        }
        Ok(())
    }

    /// Puts a value in the place of an early step.
    fn settle(&mut self, buffer: usize, value: Arc<Value>) {
        if let Some(recipe) = self.recipes.get(&buffer) {
            let known = Known::made(value, self.cpu.shelf().clone(), recipe.clone());
            self.buffers[buffer].place = Place::Known(Box::new(known));
        }
    }

    fn finish(mut self, exits: Vec<(Exit, Spec)>) -> Plan {
        let mut lives: Vec<Option<Life>> = self.buffers.iter().map(|_| None).collect();
        for (n, step) in self.steps.iter().enumerate() {
            let touched = step.inputs.iter().flatten().map(|l| l.buffer).chain([step.out]);
            for b in touched.filter(|&b| matches!(self.buffers[b].place, Place::Nowhere)) {
                let bytes = self.buffers[b].bytes;
                lives[b].get_or_insert(Life { bytes, from: n, to: n }).to = n;
            }
        }
        let (mut all, mut owners) = (Vec::new(), Vec::new());
        for (b, life) in lives.iter().enumerate() {
            if let Some(l) = life {
                all.push(*l);
                owners.push(b);
            }
        }
        for (n, step) in self.steps.iter().enumerate().filter(|(_, s)| s.scratch.1 > 0) {
            all.push(Life { bytes: step.scratch.1, from: n, to: n });
            owners.push(usize::MAX);
        }
        let (offsets, size) = memory::place(&all);
        for (b, &at) in owners.iter().zip(&offsets).filter(|(b, _)| **b != usize::MAX) {
            self.buffers[*b].place = Place::Block(at);
        }
        let mut at =
            offsets[offsets.len() - owners.iter().filter(|b| **b == usize::MAX).count()..].iter();
        for step in self.steps.iter_mut().filter(|s| s.scratch.1 > 0) {
            step.scratch.0 = at.next().copied().unwrap_or(0);
        }
        Plan::new(self.cpu, self.buffers, self.steps, exits, size)
    }
}

fn internal(what: impl std::fmt::Display) -> Error {
    Error::Backend { backend: "cpu".into(), message: format!("cannot plan {what}") }
}
