//! From a lowered graph to steps over places. What depends on weights alone is computed here, once.

use crate::{
    Mlx, MlxError,
    ffi::{Array, Session},
    kernel::{Context, Guard, HOST, Kernel, Operand},
    known::{self, Identity, Known},
    prim::{Primitive, iota},
    run::{Exit, Plan, Step, Walk, evaluate},
};
use frit_graph::{Error, Graph, Op, Params, Prim, Spec, Tensor, Value};
use std::{collections::HashMap, sync::Arc};

fn whole(spec: &Spec) -> bool {
    !spec.dtype.is_float() && spec.numel() <= HOST
}

/// MLX counts in 32 bits.
fn fits(t: &Tensor) -> Result<(), Error> {
    let most = i32::MAX as usize;
    if t.shape().iter().all(|&d| d <= most) && t.spec().numel() <= most {
        return Ok(());
    }
    let message = format!("{} of {} is too large: MLX counts in 32 bits", t.name(), t.spec());
    Err(MlxError::Call { call: "prepare", message }.into())
}

#[derive(Default)]
struct Builder {
    place: HashMap<u64, usize>,
    known: HashMap<usize, Arc<Known>>,
    numbers: HashMap<usize, Value>,
    specs: Vec<Spec>,
    inputs: HashMap<usize, usize>,
    steps: Vec<Step>,
    guards: Vec<Guard>,
    /// What was computed of weights and is not evaluated yet.
    early: Vec<usize>,
}

/// Makes a lowered graph ready to run.
pub(crate) fn build(mlx: &Mlx, graph: &Graph, params: &Params) -> Result<Plan, Error> {
    let session = mlx.session()?;
    let mut b = Builder::default();
    for t in graph.nodes() {
        fits(&t)?;
        b.node(mlx, &session, &t, params)?;
    }
    let mut exits = Vec::new();
    for t in graph.outputs() {
        exits.push(match t.prim() {
            Some(Prim::Input(i)) => Exit::Same(*i),
            Some(Prim::Param(name)) => Exit::Value(param(params, name, t.spec())?),
            Some(Prim::Constant(v)) => Exit::Value(v.clone()),
            _ => Exit::Place(b.place[&t.id()], t.spec().clone()),
        });
    }
    b.finish(mlx, &session, graph, exits)
}

fn param(params: &Params, name: &str, wanted: &Spec) -> Result<Value, Error> {
    let missing = || Error::MissingParam { name: name.to_string(), wanted: wanted.clone() };
    params.get(name).cloned().ok_or_else(missing)
}

impl Builder {
    fn new_place(&mut self, t: &Tensor) -> usize {
        self.specs.push(t.spec().clone());
        self.place.insert(t.id(), self.specs.len() - 1);
        self.specs.len() - 1
    }

    fn node(
        &mut self,
        mlx: &Mlx,
        session: &Session,
        t: &Tensor,
        params: &Params,
    ) -> Result<(), Error> {
        let inputs: Vec<Option<usize>> =
            t.inputs().iter().map(|x| x.as_ref().map(|x| self.place[&x.id()])).collect();
        let place = self.new_place(t);
        let value = match t.op() {
            Op::Prim(Prim::Input(i)) => {
                self.inputs.insert(*i, place);
                return Ok(());
            }
            Op::Prim(Prim::Param(name)) => Some(param(params, name, t.spec())?),
            Op::Prim(Prim::Constant(v)) => Some(v.clone()),
            Op::Prim(Prim::Iota(axis)) => Some(iota(*axis, t.spec())?),
            _ => None,
        };
        if let Some(value) = value {
            match whole(t.spec()) {
                true => drop(self.numbers.insert(place, value)),
                false => drop(self.known.insert(place, known::value(session, &value)?)),
            }
            return Ok(());
        }
        let out = t.spec().clone();
        let kernel: Box<dyn Kernel> = match t.op() {
            Op::Prim(p) => Box::new(Primitive { prim: p.clone(), out: out.clone() }),
            Op::Block(block) => mlx.make(&**block, &out).ok_or_else(|| {
                let message = format!("no kernel for {}", block.name());
                Error::Backend { backend: "mlx".into(), message }
            })?,
            Op::Poison(message) => return Err(Error::Run(message.clone())),
        };
        if let Some(from) = self.fixed(session, &inputs, &out)? {
            // It depends on weights alone: the same in every run, and in every program.
            let what = match t.op() {
                Op::Block(block) => format!("{block:?} {out}"),
                _ => format!("{:?} {out}", t.prim()),
            };
            let identity = Identity::of_recipe(what, &from);
            let new = match known::find(&identity) {
                Some(known) => known,
                None => {
                    let operand = |(k, i): (&Option<Arc<Known>>, &Option<usize>)| {
                        Some(Operand::of_array(k.as_ref()?.array.clone(), &self.specs[(*i)?]))
                    };
                    let operands: Vec<Option<Operand>> =
                        from.iter().zip(&inputs).map(operand).collect();
                    let refs: Vec<Option<&Operand>> = operands.iter().map(Option::as_ref).collect();
                    let mut c = Context::new(session);
                    let array = kernel.lower(&mut c, &refs)?;
                    self.guards.append(&mut c.guards);
                    self.early.push(place);
                    Arc::new(Known { identity, array })
                }
            };
            self.known.insert(place, new);
            return Ok(());
        }
        let computes = |p: &&Prim| !matches!(p, Prim::Bitcast | Prim::Gather(_) | Prim::Update(_));
        let on_host = t.prim().filter(computes).filter(|_| whole(&out)).cloned();
        self.steps.push(Step { kernel, on_host, inputs, out: place, spec: out, free: Vec::new() });
        Ok(())
    }

    /// The operands, if they are the same in every run and the result is worth keeping.
    fn fixed(
        &self,
        session: &Session,
        inputs: &[Option<usize>],
        out: &Spec,
    ) -> Result<Option<Vec<Option<Arc<Known>>>>, MlxError> {
        let known = |i: &usize| self.known.contains_key(i);
        let fixed = |i: &usize| known(i) || self.numbers.contains_key(i);
        let worth = !whole(out) || inputs.iter().flatten().any(known);
        if !worth || !inputs.iter().flatten().all(fixed) {
            return Ok(None);
        }
        let find = |i: &usize| match (self.known.get(i), self.numbers.get(i)) {
            (Some(known), _) => Ok(Some(known.clone())),
            (None, Some(value)) => known::value(session, value).map(Some),
            (None, None) => Ok(None),
        };
        inputs.iter().map(|i| i.as_ref().map_or(Ok(None), find)).collect::<Result<_, _>>().map(Some)
    }

    fn finish(
        mut self,
        mlx: &Mlx,
        session: &Session,
        graph: &Graph,
        exits: Vec<Exit>,
    ) -> Result<Plan, Error> {
        let mut last: HashMap<usize, usize> = HashMap::new();
        for (n, step) in self.steps.iter().enumerate() {
            last.extend(step.inputs.iter().flatten().map(|i| (*i, n)));
        }
        for exit in &exits {
            if let Exit::Place(i, _) = exit {
                last.insert(*i, usize::MAX);
            }
        }
        // What was computed of weights is evaluated where a step reads it; the rest goes away.
        let early: Vec<usize> = self.early.drain(..).filter(|p| last.contains_key(p)).collect();
        let arrays: Vec<&Array> = early.iter().map(|place| &self.known[place].array).collect();
        evaluate(session, &arrays, &self.guards)?;
        early.iter().for_each(|place| known::keep(&self.known[place]));
        for (&place, &n) in &last {
            if let Some(step) = self.steps.get_mut(n) {
                step.free.push(place);
            }
        }
        let peak = self.peak(&last);
        let Builder { known, numbers, specs, inputs, steps, .. } = self;
        let used = |place: &usize| last.contains_key(place);
        let known = known.into_iter().filter(|(p, _)| used(p));
        let walk = Walk {
            places: specs.len(),
            known: known.map(|(p, k)| (p, k, specs[p].clone())).collect(),
            numbers: numbers.into_iter().filter(|(p, _)| used(p)).collect(),
            inputs: (0..graph.inputs().len())
                .map(|i| inputs.get(&i).copied().filter(|p| used(p)))
                .collect(),
            steps,
            exits,
        };
        Ok(Plan::new(*mlx, walk, peak))
    }

    /// Bytes that live at the same time, if MLX computes in the order of the steps.
    fn peak(&self, last: &HashMap<usize, usize>) -> usize {
        let (mut now, mut peak) = (0usize, 0usize);
        for step in &self.steps {
            now += step.spec.bytes();
            peak = peak.max(now);
            let computed =
                |p: &&usize| !self.known.contains_key(p) && !self.inputs.values().any(|i| i == *p);
            let freed = step.free.iter().filter(computed).map(|p| self.specs[*p].bytes());
            now = now.saturating_sub(freed.sum());
            if !last.contains_key(&step.out) {
                now = now.saturating_sub(step.spec.bytes());
            }
        }
        peak
    }
}
