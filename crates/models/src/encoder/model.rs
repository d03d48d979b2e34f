//! A loaded encoder: programs compiled once for each shape of input, weights shared among them.

use super::{
    config::{EncoderConfig, Reads},
    names,
    network::Network,
};
use crate::{llama::weights::Weights, program::Compiled};
use frit_graph::{
    Backend, DType, Graph, Policy, Program, Rule, Spec, Tensor, Value, compile, rewrite,
};
use frit_load::Checkpoint;
use std::{collections::BTreeMap, path::Path, sync::Arc};

/// How an encoder is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Rules that rewrite the graphs; [`crate::fast_kernels`] for the fused operations.
    pub rules: Vec<Rule>,
    /// What a composed Block means.
    pub policy: Policy,
    /// The type that weights and activations have.
    pub dtype: DType,
}

impl Default for LoadOptions {
    /// Rewritten to the fused operations, all of it f32.
    fn default() -> LoadOptions {
        LoadOptions { rules: crate::fast_kernels(), policy: Policy::Allow, dtype: DType::F32 }
    }
}

/// An encoder on a backend.
pub struct Encoder {
    config: EncoderConfig,
    weights: Weights,
    backend: Arc<dyn Backend>,
    options: LoadOptions,
    programs: BTreeMap<String, Compiled>,
}

fn call<T>(message: String) -> Result<T, crate::Error> {
    Err(crate::Error::Call(message))
}

impl Encoder {
    /// Loads a folder (or file) in any format that [`frit_load::open`] reads.
    ///
    /// # Errors
    /// Files that are missing or damaged, a configuration that makes no sense or is not supported.
    pub fn open(
        path: &Path,
        backend: Arc<dyn Backend>,
        options: LoadOptions,
    ) -> Result<Encoder, crate::Error> {
        Encoder::from_checkpoint(&frit_load::open(path)?, backend, options)
    }

    /// An encoder of a checkpoint at hand, with or without a head, which is not used.
    ///
    /// # Errors
    /// A configuration that makes no sense or is not supported.
    pub fn from_checkpoint(
        checkpoint: &Checkpoint,
        backend: Arc<dyn Backend>,
        options: LoadOptions,
    ) -> Result<Encoder, crate::Error> {
        let config = EncoderConfig::from_json(&checkpoint.config).map_err(|source| {
            crate::Error::Config { path: checkpoint.path.display().to_string(), source }
        })?;
        let names = names::of(&config.model_type);
        let weights = Weights::of(checkpoint, options.dtype).renamed(|n| names::usual(names, n));
        Ok(Encoder { config, weights, backend, options, programs: BTreeMap::new() })
    }

    /// The sizes.
    pub fn config(&self) -> &EncoderConfig {
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
        build: impl Fn(&Network<'_>, &[Tensor]) -> Tensor,
    ) -> Result<Program, crate::Error> {
        if let Some(c) = self.programs.get(&name) {
            return Ok(c.program.clone());
        }
        let network = Network::new(&self.config, &self.weights);
        let graph = Graph::trace(inputs, |x| vec![build(&network, x)])?;
        let traced = graph.histogram();
        let (graph, rewrites) = rewrite(&graph, &self.options.rules)?;
        let policy = self.options.policy;
        let program = compile(&graph, &*self.backend, &self.weights.params, policy)?;
        self.programs.insert(name, Compiled { program: program.clone(), rewrites, traced });
        Ok(program)
    }

    /// One pass: inputs by their Hugging Face names ([`EncoderConfig::inputs`]) to the last hidden
    /// state, `[B, T, C]`.
    ///
    /// Texts are `input_ids` `[B, T]`, with `attention_mask` `[B, T]`, which is zero at padding
    /// (none, if it is absent), and `token_type_ids` `[B, T]` (zeros). What stands at padding has no
    /// meaning in the result. Pictures are `pixel_values` `[B, channels, size, size]`.
    ///
    /// # Errors
    /// Inputs that do not fit the model; tensors that are missing or misshapen.
    pub fn forward(&mut self, inputs: &[(&str, &Value)]) -> Result<Value, crate::Error> {
        let known = self.config.inputs();
        if let Some((name, _)) = inputs.iter().find(|(name, _)| !known.contains(name)) {
            let (model, known) = (&self.config.model_type, known.join(", "));
            return call(format!("{model} has no input `{name}`; it has {known}"));
        }
        let of = |name: &str| inputs.iter().find(|(n, _)| *n == name).map(|(_, value)| *value);
        let Some(first) = of(known[0]) else {
            return call(format!("{} needs the input `{}`", self.config.model_type, known[0]));
        };
        match self.config.reads {
            Reads::Image { size, channels, .. } => self.image(first, channels, size),
            Reads::Text { .. } => self.text(first, of("attention_mask"), of("token_type_ids")),
        }
    }

    fn image(
        &mut self,
        pixels: &Value,
        channels: usize,
        size: usize,
    ) -> Result<Value, crate::Error> {
        let b = pixels.shape().first().copied().unwrap_or(0);
        if b == 0 || pixels.shape() != [b, channels, size, size] || !pixels.dtype().is_float() {
            let got = pixels.spec();
            let wanted = format!("floats [B, {channels}, {size}, {size}]");
            return call(format!("pixel_values must be {wanted}, got {got}"));
        }
        let pixels = pixels.cast(self.options.dtype);
        let specs = [pixels.spec().clone()];
        let program = self.program(format!("forward of {b}"), &specs, |n, x| n.image(&x[0]))?;
        Ok(program.run(vec![pixels])?.remove(0))
    }

    fn text(
        &mut self,
        ids: &Value,
        mask: Option<&Value>,
        types: Option<&Value>,
    ) -> Result<Value, crate::Error> {
        let Reads::Text { vocab_size, positions, types: kinds } = self.config.reads else {
            return call(format!("{} reads no text", self.config.model_type));
        };
        let shape = ids.shape().to_vec();
        if shape.len() != 2 || shape.contains(&0) || !ids.dtype().is_integer() {
            return call(format!("input_ids must be integers [B, T], got {}", ids.spec()));
        }
        let (b, t) = (shape[0], shape[1]);
        if let Some(most) = positions.filter(|&most| t > most) {
            return call(format!("input_ids has {t} positions, the model only {most}"));
        }
        let also = [("attention_mask", mask), ("token_type_ids", types)];
        for (name, value) in also.into_iter().filter_map(|(n, v)| Some((n, v?))) {
            if value.shape() != shape || value.dtype().is_float() {
                let got = value.spec();
                return call(format!("{name} must be integers {shape:?}, got {got}"));
            }
        }
        within("input_ids", ids, vocab_size)?;
        if let Some(types) = types {
            within("token_type_ids", types, kinds.unwrap_or(0))?;
        }
        // A mask that hides nothing is none.
        let mask = mask.map(|m| m.to_i64().iter().map(|&m| m != 0).collect::<Vec<_>>());
        let mask = mask.filter(|m| m.contains(&false));

        let grid = Spec::new(DType::I64, shape.clone());
        let (mut specs, mut inputs) = (vec![grid.clone()], vec![ids.cast(DType::I64)]);
        let mut name = format!("forward of {b} x {t}");
        let (masked, typed) = (mask.is_some(), types.is_some());
        if let Some(mask) = mask {
            specs.push(Spec::new(DType::Bool, shape.clone()));
            inputs.push(Value::bools(shape, &mask)?);
            name += ", masked";
        }
        if let Some(types) = types {
            specs.push(grid);
            inputs.push(types.cast(DType::I64));
            name += ", with types";
        }
        let program = self.program(name, &specs, |network, x| {
            let key_mask = masked.then(|| &x[1]);
            network.text(&x[0], key_mask, typed.then(|| &x[1 + usize::from(masked)]))
        })?;
        Ok(program.run(inputs)?.remove(0))
    }
}

/// Whether all of these are rows of a table.
fn within(name: &str, ids: &Value, rows: usize) -> Result<(), crate::Error> {
    match ids.to_i64().into_iter().find(|id| !(0..rows as i64).contains(id)) {
        None => Ok(()),
        Some(id) => call(format!("{name}: {id} is not one of 0 to {}", rows.saturating_sub(1))),
    }
}
