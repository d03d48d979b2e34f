//! A prepared program and its runs. A run builds MLX's lazy graph, evaluates it once, and gives the
//! results out.

use crate::{
    Mlx,
    ffi::{Array, Compiled, Session},
    kernel::{Context, Guard, GuardKind, Kernel, Operand},
    known::Known,
    results,
};
use frit_graph::{DType, Error, Executable, Prim, Spec, Value, reference};
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) struct Step {
    pub(crate) kernel: Box<dyn Kernel>,
    /// What small whole numbers are computed by on the host.
    pub(crate) on_host: Option<Prim>,
    pub(crate) inputs: Vec<Option<usize>>,
    pub(crate) out: usize,
    pub(crate) spec: Spec,
    /// Places that no later step reads.
    pub(crate) free: Vec<usize>,
}

/// Where an output comes from.
pub(crate) enum Exit {
    /// An input, as it is.
    Same(usize),
    /// A weight or constant, as it is.
    Value(Value),
    /// A place.
    Place(usize, Spec),
}

/// The steps and where they begin and end.
pub(crate) struct Walk {
    pub(crate) places: usize,
    /// Places that hold the same in every run.
    pub(crate) known: Vec<(usize, Arc<Known>, Spec)>,
    /// Small whole numbers that are the same in every run.
    pub(crate) numbers: Vec<(usize, Value)>,
    /// The place of each input, if a step reads it.
    pub(crate) inputs: Vec<Option<usize>>,
    pub(crate) steps: Vec<Step>,
    pub(crate) exits: Vec<Exit>,
}

/// A graph of MLX that is not evaluated yet.
struct Built {
    /// One for each exit that is a place, contiguous.
    arrays: Vec<Array>,
    guards: Vec<Guard>,
}

impl Walk {
    /// Builds the graph over these inputs.
    fn build(&self, session: &Session, inputs: Vec<Option<Operand>>) -> Result<Built, Error> {
        let mut places: Vec<Option<Operand>> = vec![None; self.places];
        for (place, known, spec) in &self.known {
            places[*place] = Some(Operand::of_array(known.array.clone(), spec));
        }
        for (place, value) in &self.numbers {
            places[*place] = Some(Operand::of_value(value.clone()));
        }
        for (place, operand) in self.inputs.iter().zip(inputs) {
            if let Some(place) = place {
                places[*place] = operand;
            }
        }
        let mut c = Context::new(session);
        for step in &self.steps {
            let made = step.lower(&mut c, &places)?;
            step.free.iter().for_each(|&p| places[p] = None);
            places[step.out] = Some(made);
        }
        let mut arrays = Vec::new();
        for exit in &self.exits {
            if let Exit::Place(place, _) = exit
                && let Some(operand) = &places[*place]
            {
                arrays.push(session.contiguous(&operand.array(session)?)?);
            }
        }
        Ok(Built { arrays, guards: c.guards })
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

/// Computes arrays and looks at what was guarded.
pub(crate) fn evaluate(
    session: &Session,
    arrays: &[&Array],
    guards: &[Guard],
) -> Result<(), Error> {
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

/// Whether `mx::compile` takes the program.
enum Compilation {
    Untried,
    Done(Box<Compiled>, Arc<Mutex<Vec<GuardKind>>>),
    /// It looks at numbers while it is built.
    Refused,
}

/// A prepared graph.
pub(crate) struct Plan {
    mlx: Mlx,
    walk: Arc<Walk>,
    compilation: Mutex<Compilation>,
    peak: usize,
}

impl Plan {
    pub(crate) fn new(mlx: Mlx, walk: Walk, peak: usize) -> Plan {
        let untried = Mutex::new(Compilation::Untried);
        Plan { mlx, walk: Arc::new(walk), compilation: untried, peak }
    }

    /// The graph by `mx::compile`, if that is wanted and it takes the program.
    fn compiled(&self, session: &Session, inputs: &[Value]) -> Result<Option<Built>, Error> {
        let mut compilation = self.compilation.lock().unwrap_or_else(PoisonError::into_inner);
        let first = matches!(*compilation, Compilation::Untried);
        if first {
            *compilation = self.compile(session, inputs)?;
        }
        let Compilation::Done(compiled, kinds) = &*compilation else { return Ok(None) };
        let arrays: Vec<Array> = self
            .used(inputs)
            .map(|(_, value)| results::array_of(session, value))
            .collect::<Result<_, _>>()?;
        match session.call_compiled(compiled, &arrays) {
            Ok(mut arrays) => {
                let kinds = kinds.lock().unwrap_or_else(PoisonError::into_inner);
                let mut rest = arrays.split_off(arrays.len() - 2 * kinds.len()).into_iter();
                let guard = |kind: &GuardKind| {
                    Some(Guard { wrong: rest.next()?, numbers: rest.next()?, kind: *kind })
                };
                Ok(Some(Built { arrays, guards: kinds.iter().filter_map(guard).collect() }))
            }
            // It was traced for the first time, and may only be run as it is.
            Err(_) if first => {
                *compilation = Compilation::Refused;
                Ok(None)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// The inputs that a step reads, with their places in the list.
    fn used<'a>(&self, inputs: &'a [Value]) -> impl Iterator<Item = (usize, &'a Value)> {
        let used = |(i, place): (usize, &Option<usize>)| place.map(|_| i);
        let used: Vec<usize> = self.walk.inputs.iter().enumerate().filter_map(used).collect();
        used.into_iter().map(|i| (i, &inputs[i]))
    }

    fn compile(&self, session: &Session, inputs: &[Value]) -> Result<Compilation, Error> {
        let (walk, mlx, kinds) = (self.walk.clone(), self.mlx, Arc::new(Mutex::default()));
        let specs: Vec<(usize, Spec)> =
            self.used(inputs).map(|(i, v)| (i, v.spec().clone())).collect();
        let told: Arc<Mutex<Vec<GuardKind>>> = kinds.clone();
        let build = move |arrays: Vec<Array>| -> Result<Vec<Array>, Error> {
            let session = mlx.session()?;
            let mut operands = vec![None; walk.inputs.len()];
            for ((i, spec), array) in specs.iter().zip(arrays) {
                operands[*i] = Some(Operand::of_array(array, spec));
            }
            let Built { mut arrays, guards } = walk.build(&session, operands)?;
            *told.lock().unwrap_or_else(PoisonError::into_inner) =
                guards.iter().map(|g| g.kind).collect();
            arrays.extend(guards.into_iter().flat_map(|g| [g.wrong, g.numbers]));
            Ok(arrays)
        };
        Ok(Compilation::Done(Box::new(session.compile(Box::new(build))?), kinds))
    }
}

impl Executable for Plan {
    fn run(&self, inputs: Vec<Value>) -> Result<Vec<Value>, Error> {
        let session = self.mlx.session()?;
        let mut same: Vec<Option<Value>> = Vec::new();
        for exit in &self.walk.exits {
            same.push(match exit {
                Exit::Same(i) => Some(inputs[*i].clone()),
                Exit::Value(v) => Some(v.clone()),
                Exit::Place(..) => None,
            });
        }
        let compiled = match self.mlx.is_compiled() {
            true => self.compiled(&session, &inputs)?,
            false => None,
        };
        let built = match compiled {
            Some(built) => built,
            None => {
                // The values go here, and nothing but the graph holds their arrays: so they may be
                // written over. Whole numbers are looked at before.
                let operand = |value: Value| match value.dtype().is_float() {
                    false => Ok(Operand::of_value(value)),
                    true => {
                        let array = results::array_of(&session, &value)?;
                        Ok::<_, Error>(Operand::of_array(array, value.spec()))
                    }
                };
                let inputs = inputs.into_iter().map(|v| operand(v).map(Some));
                self.walk.build(&session, inputs.collect::<Result<_, _>>()?)?
            }
        };
        evaluate(&session, &built.arrays.iter().collect::<Vec<_>>(), &built.guards)?;
        let mut arrays = built.arrays.into_iter();
        let mut out = Vec::new();
        for (exit, same) in self.walk.exits.iter().zip(same) {
            let array = if same.is_none() { arrays.next() } else { None };
            match (exit, same, array) {
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
        self.walk.steps.len()
    }
}
