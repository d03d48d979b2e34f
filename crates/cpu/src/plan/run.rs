//! Running a plan.

use super::{Buffer, Exit, Label, Place, Step};
use crate::{
    Cpu, Event, EventKind, Pool, Profile,
    kernel::{Combine, Context, Out, View},
    prepacked::Known,
};
use frit_graph::{ALIGN, Error, Executable, Memory, Spec, Value};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A planned program.
pub(crate) struct Plan {
    pool: Pool,
    profile: Option<Profile>,
    buffers: Vec<Buffer>,
    steps: Vec<Step>,
    exits: Vec<(Exit, Spec)>,
    outputs: Vec<(usize, Spec)>,
    block_bytes: usize,
    /// Blocks of memory that no run uses at the moment.
    idle: Mutex<Vec<Memory>>,
}

/// An address of the alignment that kernels expect.
#[repr(align(64))]
struct Line;

const _: () = assert!(align_of::<Line>() == ALIGN);

/// Memory of every buffer in one run: first byte and length.
#[derive(Clone, Copy)]
struct Span(*mut u8, usize);

impl Span {
    const NONE: Span = Span(std::ptr::null_mut(), 0);

    fn reading(bytes: &[u8]) -> Span {
        Span(bytes.as_ptr().cast_mut(), bytes.len())
    }

    /// # Safety
    /// The memory lives for `'a` and nothing writes it meanwhile.
    unsafe fn get<'a>(self) -> &'a [u8] {
        match self.1 {
            0 => &[],
            // SAFETY: the caller's promise; spans are made of slices or of a block's range.
            n => unsafe { std::slice::from_raw_parts(self.0, n) },
        }
    }

    /// # Safety
    /// The memory lives for `'a`, may be written, and nothing else reads or writes it meanwhile.
    unsafe fn get_mut<'a>(self) -> &'a mut [u8] {
        // Nothing, but at an address that is aligned as kernels expect.
        let nothing = std::ptr::NonNull::<Line>::dangling().as_ptr().cast();
        let start = if self.1 == 0 { nothing } else { self.0 };
        // SAFETY: the caller's promise; spans are made of slices or of a block's range.
        unsafe { std::slice::from_raw_parts_mut(start, self.1) }
    }
}

impl Plan {
    pub(super) fn new(
        cpu: &Cpu,
        buffers: Vec<Buffer>,
        mut steps: Vec<Step>,
        exits: Vec<(Exit, Spec)>,
        block_bytes: usize,
    ) -> Plan {
        // There is nothing to compute for what has no elements.
        steps.retain(|step| step.out_spec.numel() > 0);
        let mut outputs: Vec<(usize, Spec)> = Vec::new();
        for b in &buffers {
            if let Place::Output(k) = b.place {
                outputs.push((k, b.spec.clone()));
            }
        }
        outputs.sort_by_key(|o| o.0);
        let (pool, profile) = (cpu.pool().clone(), cpu.profile().cloned());
        let idle = Mutex::default();
        Plan { pool, profile, buffers, steps, exits, outputs, block_bytes, idle }
    }
}

#[cfg(test)]
impl Plan {
    /// The values that a program holds, weights among them.
    pub(super) fn known(&self) -> Vec<&Value> {
        let mut values = Vec::new();
        for b in &self.buffers {
            if let Place::Known(k) = &b.place {
                values.push(&k.value);
            }
        }
        values
    }
}

impl Executable for Plan {
    fn run(&self, mut inputs: Vec<Value>) -> Result<Vec<Value>, Error> {
        let lock = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = lock().pop();
        let mut block = idle.unwrap_or_else(|| Memory::zeroed(self.block_bytes));
        let mut made: Vec<(usize, Value)> = Vec::with_capacity(self.outputs.len());
        for (k, spec) in &self.outputs {
            made.push((*k, Value::unset(spec)?));
        }

        let base = block.bytes_mut().as_mut_ptr();
        let mut spans = Vec::with_capacity(self.buffers.len());
        for b in &self.buffers {
            spans.push(match &b.place {
                Place::Known(k) => Span::reading(k.value.bytes()),
                // SAFETY: the plan keeps every place inside the block.
                Place::Block(at) => Span(unsafe { base.add(*at) }, b.bytes),
                Place::Input { index, taken: false } => Span::reading(inputs[*index].bytes()),
                Place::Input { index, taken: true } => writable(&mut inputs[*index])?,
                Place::Output(k) => match made.iter_mut().find(|m| m.0 == *k) {
                    Some((_, v)) => writable(v)?,
                    None => Span::NONE,
                },
                Place::Early | Place::Nowhere => Span::NONE,
            });
        }
        let mut watch = self.profile.as_ref().map(Watch::new);
        for step in &self.steps {
            // SAFETY: the range is the step's own while it runs, and inside the block.
            let scratch = Span(unsafe { base.add(step.scratch.0) }, step.scratch.1);
            execute(&self.pool, &self.buffers, step, &spans, scratch)?;
            if let Some(watch) = &mut watch {
                watch.step(step);
            }
        }
        if let Some(watch) = watch {
            watch.end(self.exits.first().map(|(_, spec)| spec.clone()));
        }
        lock().push(block);

        let mut out = Vec::with_capacity(self.exits.len());
        for (e, spec) in &self.exits {
            let (Exit::Buffer(b) | Exit::Same(b)) = e;
            let value = match &self.buffers[*b].place {
                Place::Input { index, .. } => &inputs[*index],
                Place::Known(k) => &k.value,
                Place::Output(k) => match made.iter().find(|m| m.0 == *k) {
                    Some((_, v)) => v,
                    None => return Err(Error::Run("an output was not made".into())),
                },
                _ => return Err(Error::Run("an output was not kept".into())),
            };
            // An output may be another shape of the same bytes.
            out.push(value.reshaped(spec.shape.clone())?);
        }
        Ok(out)
    }

    fn peak_bytes(&self) -> usize {
        self.block_bytes + self.outputs.iter().map(|o| o.1.bytes()).sum::<usize>()
    }

    fn steps(&self) -> usize {
        self.steps.len()
    }
}

/// Times the steps of one run.
struct Watch<'a> {
    profile: &'a Profile,
    began: Duration,
    last: Duration,
    events: Vec<Event>,
}

impl<'a> Watch<'a> {
    fn new(profile: &'a Profile) -> Watch<'a> {
        let began = profile.elapsed();
        Watch { profile, began, last: began, events: Vec::new() }
    }

    /// The step that ends now began when the one before ended.
    fn step(&mut self, step: &Step) {
        let operands = step.inputs.iter().flatten().map(|l| l.spec.bytes());
        let Label { kind, name, at } = step.label;
        let (start, now) = (self.last, self.profile.elapsed());
        self.last = now;
        self.events.push(Event {
            kind,
            name,
            spec: Some(step.out_spec.clone()),
            at,
            bytes: operands.sum::<usize>() + step.out_spec.bytes(),
            start,
            took: now - start,
        });
    }

    fn end(mut self, spec: Option<Spec>) {
        let (start, took) = (self.began, self.profile.elapsed() - self.began);
        let bytes = self.events.iter().map(|e| e.bytes).sum();
        let (kind, name, at) = (EventKind::Program, "program", None);
        self.events.push(Event { kind, name, spec, at, bytes, start, took });
        self.profile.add(self.events);
    }
}

/// The bytes of a value for writing; copied first if somebody else holds them.
fn writable(value: &mut Value) -> Result<Span, Error> {
    if value.bytes_mut().is_none() {
        *value = Value::from_bytes(value.spec().clone(), value.bytes())?;
    }
    match value.bytes_mut() {
        Some(bytes) => Ok(Span(bytes.as_mut_ptr(), bytes.len())),
        None => Err(Error::Run("a fresh value is not writable".into())),
    }
}

fn execute(
    pool: &Pool,
    buffers: &[Buffer],
    step: &Step,
    spans: &[Span],
    scratch: Span,
) -> Result<(), Error> {
    let known = |b: usize| -> Option<&Known> {
        match &buffers[b].place {
            Place::Known(k) => Some(&**k),
            _ => None,
        }
    };
    let mut views: Vec<Option<View<'_>>> = Vec::with_capacity(step.inputs.len());
    for l in &step.inputs {
        views.push(l.as_ref().map(|layout| {
            let is_out = layout.buffer == step.out;
            // SAFETY: the span lives through the run; the plan gives the step's output memory that
            // no operand shares, but for the one it writes over, which gets no bytes of its own.
            let bytes = if is_out { &[] } else { unsafe { spans[layout.buffer].get() } };
            View { layout, bytes, is_out, known: known(layout.buffer) }
        }));
    }
    // SAFETY: as above; the output and the scratch are disjoint ranges.
    let (bytes, scratch) = unsafe { (spans[step.out].get_mut(), scratch.get_mut()) };
    let mut out = Out { spec: &step.out_spec, bytes };
    step.kernel.run(&views, &mut out, &mut Context { pool, scratch, combine: Combine::Replace })
}

/// Runs one step whose operands are all known.
pub(super) fn once(cpu: &Cpu, buffers: &[Buffer], step: &Step) -> Result<Value, Error> {
    let mut out = Value::zeros(&step.out_spec)?;
    if step.out_spec.numel() == 0 {
        return Ok(out);
    }
    let mut spans: Vec<Span> = buffers
        .iter()
        .map(|b| match &b.place {
            Place::Known(k) => Span::reading(k.value.bytes()),
            _ => Span::NONE,
        })
        .collect();
    spans[step.out] = writable(&mut out)?;
    let mut block = Memory::zeroed(step.scratch.1);
    let scratch = Span(block.bytes_mut().as_mut_ptr(), step.scratch.1);
    execute(cpu.pool(), buffers, step, &spans, scratch)?;
    Ok(out)
}
