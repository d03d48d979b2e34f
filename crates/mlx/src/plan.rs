//! A prepared program: steps over places. A run builds MLX's lazy graph, evaluates it once, and
//! gives the results out.

use crate::{
    Mlx, MlxError,
    ffi::{Array, Session},
    kernel::{Context, Guard, HOST, Kernel, Operand},
    known::{self, Identity, Known},
    prim::{Primitive, iota},
    results,
};
use frit_graph::{
    DType, Error, Executable, Graph, Op, Params, Prim, Spec, Tensor, Value, reference,
};
use std::{collections::HashMap, sync::Arc};

struct Step {
    kernel: Box<dyn Kernel>,
    /// What small whole numbers are computed by on the host.
    on_host: Option<Prim>,
    inputs: Vec<Option<usize>>,
    out: usize,
    spec: Spec,
    /// Places that no later step reads.
    free: Vec<usize>,
}

/// Where an output comes from.
enum Exit {
    /// An input or a weight, as it is.
    Same(usize),
    /// A weight, as it is.
    Value(Value),
    /// A place.
    Place(usize, Spec),
}

/// A prepared graph.
pub(crate) struct Plan {
    mlx: Mlx,
    places: usize,
    /// Places that hold the same in every run.
    known: Vec<(usize, Arc<Known>, Spec)>,
    /// Small whole numbers that are the same in every run.
    numbers: Vec<(usize, Value)>,
    inputs: Vec<Option<usize>>,
    steps: Vec<Step>,
    exits: Vec<Exit>,
    peak: usize,
}

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
        Ok(Plan {
            mlx: *mlx,
            places: specs.len(),
            known: known.map(|(p, k)| (p, k, specs[p].clone())).collect(),
            numbers: numbers.into_iter().filter(|(p, _)| used(p)).collect(),
            inputs: (0..graph.inputs().len())
                .map(|i| inputs.get(&i).copied().filter(|p| used(p)))
                .collect(),
            steps,
            exits,
            peak,
        })
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

/// Computes arrays and looks at what was guarded.
fn evaluate(session: &Session, arrays: &[&Array], guards: &[Guard]) -> Result<(), Error> {
    let flags = guards.iter().map(|g| &g.wrong);
    let all: Vec<&Array> = arrays.iter().copied().chain(flags).collect();
    if all.is_empty() {
        return Ok(());
    }
    session.eval(&all)?;
    for guard in guards {
        let flag = session.contents(&guard.wrong)?;
        if flag.as_ref() == [0] {
            continue;
        }
        session.eval(&[&guard.numbers])?;
        let numbers = session.contents(&guard.numbers)?;
        let (words, _) = numbers.as_ref().as_chunks::<8>();
        let numbers: Vec<i64> = words.iter().map(|w| i64::from_le_bytes(*w)).collect();
        if let Some(error) = guard.kind.error(&numbers) {
            return Err(error);
        }
    }
    Ok(())
}

impl Executable for Plan {
    fn run(&self, inputs: Vec<Value>) -> Result<Vec<Value>, Error> {
        let session = self.mlx.session()?;
        let mut places: Vec<Option<Operand>> = vec![None; self.places];
        for (place, known, spec) in &self.known {
            places[*place] = Some(Operand::of_array(known.array.clone(), spec));
        }
        for (place, value) in &self.numbers {
            places[*place] = Some(Operand::of_value(value.clone()));
        }
        let mut same: Vec<Option<Value>> = Vec::new();
        for exit in &self.exits {
            same.push(match exit {
                Exit::Same(i) => Some(inputs[*i].clone()),
                Exit::Value(v) => Some(v.clone()),
                Exit::Place(..) => None,
            });
        }
        for (value, place) in inputs.into_iter().zip(&self.inputs) {
            let Some(place) = place else { continue };
            // Otherwise the value goes here, and nothing but the graph holds its array.
            places[*place] = Some(match !value.dtype().is_float() {
                true => Operand::of_value(value),
                false => Operand::of_array(results::array_of(&session, &value)?, value.spec()),
            });
        }
        let mut c = Context::new(&session);
        for step in &self.steps {
            let made = step.lower(&mut c, &places)?;
            step.free.iter().for_each(|&p| places[p] = None);
            places[step.out] = Some(made);
        }
        let guards = std::mem::take(&mut c.guards);
        let mut arrays = Vec::new();
        for exit in &self.exits {
            if let Exit::Place(place, _) = exit
                && let Some(operand) = &places[*place]
            {
                arrays.push(session.contiguous(&operand.array(&session)?)?);
            }
        }
        drop(places);
        evaluate(&session, &arrays.iter().collect::<Vec<_>>(), &guards)?;
        let mut arrays = arrays.into_iter();
        let mut out = Vec::new();
        for (exit, same) in self.exits.iter().zip(same) {
            match (exit, same, exit.needs_array().then(|| arrays.next()).flatten()) {
                (_, Some(value), _) => out.push(value),
                (Exit::Place(_, spec), _, Some(a)) => {
                    out.push(results::value_of(&session, &a, spec)?)
                }
                _ => return Err(Error::Run("an output was not computed".into())),
            }
        }
        Ok(out)
    }

    fn peak_bytes(&self) -> usize {
        self.peak
    }

    fn steps(&self) -> usize {
        self.steps.len()
    }
}

impl Exit {
    fn needs_array(&self) -> bool {
        matches!(self, Exit::Place(..))
    }
}

impl Step {
    fn lower(&self, c: &mut Context<'_>, places: &[Option<Operand>]) -> Result<Operand, Error> {
        let x: Vec<Option<&Operand>> =
            self.inputs.iter().map(|i| i.and_then(|i| places[i].as_ref())).collect();
        if let Some(prim) = &self.on_host {
            let hosts: Option<Vec<&Value>> = x
                .iter()
                .map(|o| o.and_then(|o| o.host()).filter(|v| v.dtype() != DType::F64))
                .collect();
            if let Some(hosts) = hosts {
                return Ok(Operand::of_value(reference::eval(prim, &self.spec, &hosts)?));
            }
        }
        Ok(Operand::of_array(self.kernel.lower(c, &x)?, &self.spec))
    }
}
