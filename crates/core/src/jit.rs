//! Calling a traced closure like a function: compiled once for each set of input specs.

use crate::{
    Backend, Error, Graph, Params, Policy, Program, Rule, Spec, Tensor, Value, compile, rewrite,
};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

type Traced = dyn Fn(&[Tensor]) -> Vec<Tensor> + Send + Sync;

/// A closure over tensors with a cache of its programs.
///
/// ```
/// use frit_graph::{Jit, Reference, Value};
/// let double = Jit::new(Reference, |x| vec![&x[0] + &x[0]]);
/// assert_eq!(double.call(vec![Value::scalar(4.0f32)])?[0].to_f64(), [8.0]);
/// double.call(vec![Value::scalar(5.0f32)])?;
/// double.call(vec![Value::new([2], vec![1.0f32, 2.0])?])?;
/// assert_eq!(double.compiled(), 2); // one for f32[], one for f32[2]
/// # Ok::<(), frit_graph::Error>(())
/// ```
pub struct Jit {
    function: Box<Traced>,
    backend: Arc<dyn Backend>,
    params: Params,
    policy: Policy,
    rules: Vec<Rule>,
    programs: Mutex<HashMap<Vec<Spec>, Program>>,
}

impl fmt::Debug for Jit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jit({}, {} programs)", self.backend.name(), self.compiled())
    }
}

impl Jit {
    /// A function without weights, compiled with [`Policy::Allow`].
    pub fn new(
        backend: impl Backend + 'static,
        function: impl Fn(&[Tensor]) -> Vec<Tensor> + Send + Sync + 'static,
    ) -> Jit {
        Jit::shared(Arc::new(backend), function)
    }

    /// The same over a backend that others use too.
    pub fn shared(
        backend: Arc<dyn Backend>,
        function: impl Fn(&[Tensor]) -> Vec<Tensor> + Send + Sync + 'static,
    ) -> Jit {
        Jit {
            function: Box::new(function),
            backend,
            params: Params::new(),
            policy: Policy::Allow,
            rules: Vec::new(),
            programs: Mutex::default(),
        }
    }

    /// With these weights.
    pub fn with_params(mut self, params: Params) -> Jit {
        self.params = params;
        self
    }

    /// With another policy.
    pub fn with_policy(mut self, policy: Policy) -> Jit {
        self.policy = policy;
        self
    }

    /// With rules that rewrite the traced graph.
    pub fn with_rules(mut self, rules: Vec<Rule>) -> Jit {
        self.rules = rules;
        self
    }

    /// The program for inputs of these specs, compiled at the first call.
    ///
    /// # Errors
    /// As [`compile`].
    pub fn program(&self, specs: &[Spec]) -> Result<Program, Error> {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = programs.get(specs) {
            return Ok(program.clone());
        }
        let mut graph = Graph::trace(specs, |x| (self.function)(x))?;
        if !self.rules.is_empty() {
            graph = rewrite(&graph, &self.rules)?.0;
        }
        let program = compile(&graph, &*self.backend, &self.params, self.policy)?;
        programs.insert(specs.to_vec(), program.clone());
        Ok(program)
    }

    /// Runs the function.
    ///
    /// # Errors
    /// As [`compile`] and [`Program::run`].
    pub fn call(&self, inputs: Vec<Value>) -> Result<Vec<Value>, Error> {
        let specs: Vec<Spec> = inputs.iter().map(|v| v.spec().clone()).collect();
        self.program(&specs)?.run(inputs)
    }

    /// How many programs were compiled.
    pub fn compiled(&self) -> usize {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
