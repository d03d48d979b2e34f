//! A loaded model: programs compiled once, weights shared among them, and the state of one
//! conversation or batch.
//!
//! Two kinds of program: the whole pass of [`Llama::forward`], and one that takes some tokens and a
//! cache and gives the logits of the last and the cache back. The latter serves prompts, in lengths
//! of a few sizes, and single steps. The caches go in as values and come back as values; nobody
//! else holds them, so they are written in place.
//!
//! Prompts of a batch are put on their right ends: shorter ones get padding on the left, which a
//! mask hides. Padding on the right, up to the size of the program, is overwritten by what follows.

mod session;

use super::{
    config::LlamaConfig,
    names,
    network::{KeyValue, Network, Past, Tokens},
    weights::Weights,
};
use crate::program::{Compiled, Traced};
use frit_graph::{
    Backend, DType, Graph, Policy, Program, Rule, Spec, Tensor, Value, compile, rewrite,
};
use std::{collections::BTreeMap, path::Path, sync::Arc};

/// How a model is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Rules that rewrite the graphs; [`crate::fast_kernels`] for the fused operations.
    pub rules: Vec<Rule>,
    /// What a composed Block means.
    pub policy: Policy,
    /// The type that weights and activations have.
    pub dtype: DType,
    /// The type that keys and values are kept in.
    pub cache: DType,
}

impl Default for LoadOptions {
    /// Rewritten to the fused operations, all of it f32.
    fn default() -> LoadOptions {
        let (policy, dtype, cache) = (Policy::Allow, DType::F32, DType::F32);
        LoadOptions { rules: crate::fast_kernels(), policy, dtype, cache }
    }
}

/// A model of the family on a backend, and the session that it is in.
pub struct Llama {
    config: LlamaConfig,
    weights: Weights,
    backend: Arc<dyn Backend>,
    options: LoadOptions,
    programs: BTreeMap<String, Compiled>,
    session: session::Session,
}

fn call<T>(message: String) -> Result<T, crate::Error> {
    Err(crate::Error::Call(message))
}

impl Llama {
    /// Loads a folder (or file) in any format that [`frit_load::open`] reads.
    ///
    /// # Errors
    /// Files that are missing or damaged, a configuration that makes no sense or is not supported.
    pub fn open(
        path: &Path,
        backend: Arc<dyn Backend>,
        options: LoadOptions,
    ) -> Result<Llama, crate::Error> {
        Llama::from_checkpoint(&frit_load::open(path)?, backend, options)
    }

    /// A model of a checkpoint at hand, from Hugging Face or GGUF.
    ///
    /// # Errors
    /// A configuration that makes no sense or is not supported.
    pub fn from_checkpoint(
        checkpoint: &frit_load::Checkpoint,
        backend: Arc<dyn Backend>,
        options: LoadOptions,
    ) -> Result<Llama, crate::Error> {
        let json = &checkpoint.config;
        let architecture = json.get("general.architecture").and_then(|a| a.as_str());
        let config = match architecture {
            Some(_) => LlamaConfig::from_gguf(json, &checkpoint.params),
            None => LlamaConfig::from_json(json),
        };
        let path = || checkpoint.path.display().to_string();
        let config = config.map_err(|source| crate::Error::Config { path: path(), source })?;
        let mut weights = Weights::of(checkpoint, options.dtype);
        if let Some(a) = architecture {
            weights = weights.renamed(|n| names::hugging_face(a, n).unwrap_or(n.to_string()));
        }
        Ok(Llama::new(config, weights, backend, options))
    }

    /// A model of weights at hand, whose floats must be of the type that the options name.
    pub fn new(
        config: LlamaConfig,
        weights: Weights,
        backend: Arc<dyn Backend>,
        options: LoadOptions,
    ) -> Llama {
        // The bare model (without the language head) has names without the prefix.
        let bare = weights.params.get("embed_tokens.weight").is_some();
        let weights = if bare { weights.renamed(|n| format!("model.{n}")) } else { weights };
        let (programs, session) = (BTreeMap::new(), session::Session::default());
        Llama { config, weights, backend, options, programs, session }
    }

    /// The sizes.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The programs compiled so far, by name.
    pub fn programs(&self) -> impl Iterator<Item = (&str, &Compiled)> {
        self.programs.iter().map(|(n, p)| (n.as_str(), p))
    }

    fn program(
        &mut self,
        name: String,
        inputs: &[Spec],
        build: impl Fn(&Network<'_>, &[Tensor]) -> Vec<Tensor>,
    ) -> Result<Program, crate::Error> {
        if let Some(c) = self.programs.get(&name) {
            return Ok(c.program.clone());
        }
        let network = Network::new(&self.config, &self.weights);
        let graph = Graph::trace(inputs, |x| build(&network, x))?;
        let traced = graph.histogram();
        let (graph, rewrites) = rewrite(&graph, &self.options.rules)?;
        let policy = self.options.policy;
        let program = compile(&graph, &*self.backend, &self.weights.params, policy)?;
        self.programs.insert(name, Compiled { program: program.clone(), rewrites, traced });
        Ok(program)
    }

    /// Inverse frequencies of the schedules that follow the length of the text, as inputs.
    fn frequencies(&self, length: usize) -> Result<Vec<Value>, crate::Error> {
        let follows = self.config.ropes.iter().filter(|r| r.follows_length());
        let values = follows.map(|r| {
            let all: Vec<f32> = r.inv_freqs(length).iter().map(|&f| f as f32).collect();
            Value::new([all.len()], all)
        });
        Ok(values.collect::<Result<_, _>>()?)
    }

    fn check_ids(&self, ids: impl IntoIterator<Item = i64>) -> Result<(), crate::Error> {
        let known = 0..self.config.vocab_size as i64;
        match ids.into_iter().find(|id| !known.contains(id)) {
            None => Ok(()),
            Some(id) => {
                call(format!("token {id} is outside the vocabulary of {}", self.config.vocab_size))
            }
        }
    }

    /// One pass over everything: token ids `[B, T]` to logits `[B, T, V]`.
    ///
    /// `attention_mask` `[B, T]` is zero at padding; `position_ids` `[B, T]` count the tokens that
    /// are not padding unless they are given. What stands at padding has no meaning in the result.
    ///
    /// # Errors
    /// Inputs that do not fit the model; tensors that are missing or misshapen.
    pub fn forward(
        &mut self,
        input_ids: &Value,
        attention_mask: Option<&Value>,
        position_ids: Option<&Value>,
    ) -> Result<Value, crate::Error> {
        let pass = self.pass(input_ids, attention_mask, position_ids)?;
        let specs: Vec<Spec> = pass.inputs.iter().map(|v| v.spec().clone()).collect();
        let masked = pass.masked;
        let program = self.program(pass.name, &specs, |network, x| whole(network, x, masked))?;
        Ok(program.run(pass.inputs)?.remove(0))
    }

    /// The pass of [`Llama::forward`] as a graph of plain layers, with its weights and inputs.
    ///
    /// # Errors
    /// As [`Llama::forward`].
    pub fn trace(
        &self,
        input_ids: &Value,
        attention_mask: Option<&Value>,
        position_ids: Option<&Value>,
    ) -> Result<Traced, crate::Error> {
        let Pass { inputs, masked, .. } = self.pass(input_ids, attention_mask, position_ids)?;
        let specs: Vec<Spec> = inputs.iter().map(|v| v.spec().clone()).collect();
        let network = Network::new(&self.config, &self.weights);
        let graph = Graph::trace(&specs, |x| whole(&network, x, masked))?;
        Ok(Traced { graph, params: self.weights.params.clone(), inputs })
    }

    fn pass(
        &self,
        input_ids: &Value,
        attention_mask: Option<&Value>,
        position_ids: Option<&Value>,
    ) -> Result<Pass, crate::Error> {
        let shape = input_ids.shape().to_vec();
        let integers = input_ids.dtype().is_integer();
        if shape.len() != 2 || shape.contains(&0) || !integers {
            let got = input_ids.spec();
            return call(format!("input_ids must be integers [B, T], got {got}"));
        }
        let also = [("attention_mask", attention_mask), ("position_ids", position_ids)];
        for (name, value) in also.into_iter().filter_map(|(n, v)| Some((n, v?))) {
            if value.shape() != shape || value.dtype().is_float() {
                let got = value.spec();
                return call(format!("{name} must be integers {shape:?}, got {got}"));
            }
        }
        self.check_ids(input_ids.to_i64())?;
        let (b, t) = (shape[0], shape[1]);
        let mask = attention_mask.map(|m| m.to_i64().iter().map(|&m| m != 0).collect::<Vec<_>>());
        let positions = match (position_ids, &mask) {
            (Some(p), _) => p.to_i64(),
            (None, Some(mask)) => mask.chunks(t).flat_map(count_up).collect(),
            (None, None) => (0..b).flat_map(|_| 0..t as i64).collect(),
        };
        let last = positions.iter().copied().max().unwrap_or(0);
        let length = usize::try_from(last).unwrap_or(0) + 1;

        let mut inputs = vec![input_ids.cast(DType::I64), Value::new(shape.clone(), positions)?];
        let masked = mask.is_some();
        if let Some(mask) = mask {
            inputs.push(Value::bools(shape, &mask)?);
        }
        inputs.extend(self.frequencies(length)?);
        let name = format!("forward of {b} x {t}{}", if masked { ", masked" } else { "" });
        Ok(Pass { name, inputs, masked })
    }
}

/// A pass over everything, before its graph is made.
struct Pass {
    name: String,
    inputs: Vec<Value>,
    masked: bool,
}

/// The graph of a pass: ids, positions, the mask if there is one, frequencies.
fn whole(network: &Network<'_>, x: &[Tensor], masked: bool) -> Vec<Tensor> {
    let tokens = Tokens {
        ids: x[0].clone(),
        positions: x[1].clone(),
        key_mask: masked.then(|| x[2].clone()),
        frequencies: &x[2 + usize::from(masked)..],
        past: None,
    };
    vec![network.logits(&network.decode(&tokens).hidden)]
}

/// Positions that count what the mask keeps.
fn count_up(mask: &[bool]) -> Vec<i64> {
    let mut next = 0;
    let of = |&kept: &bool| {
        let at = next;
        next += i64::from(kept);
        at
    };
    mask.iter().map(of).collect()
}
