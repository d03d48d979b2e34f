//! A loaded Whisper: programs compiled once, weights shared among them, and the state of one
//! window.
//!
//! Four kinds of program: the encoder with the keys and values of the cross attention; one step of
//! the decoder; the prompt, in lengths of powers of two; and the whole of both for
//! [`Whisper::forward`]. The caches go into a step as values and come back as values; nobody else
//! holds them, so they are written in place.

use super::{
    config::WhisperConfig,
    decode::{Begin, ModelError, SpeechModel},
    network::{KeyValue, Network},
};
pub use crate::program::Compiled;
use crate::program::Traced;
use frit_graph::{
    Backend, DType, Graph, Params, Policy, Program, Rule, Spec, Tensor, Value, compile, rewrite,
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
}

impl Default for LoadOptions {
    /// Rewritten to the fused operations, f32.
    fn default() -> LoadOptions {
        let (policy, dtype) = (Policy::Allow, DType::F32);
        LoadOptions { rules: crate::fast_kernels(), policy, dtype }
    }
}

/// A Whisper checkpoint on a backend.
pub struct Whisper {
    config: WhisperConfig,
    params: Params,
    backend: Arc<dyn Backend>,
    options: LoadOptions,
    programs: BTreeMap<String, Compiled>,
    cross: Vec<Value>,
    caches: Vec<Value>,
    position: usize,
}

impl Whisper {
    /// Loads a folder (or file) in any format that [`frit_load::open`] reads.
    ///
    /// # Errors
    /// Files that are missing or damaged, a configuration that makes no sense.
    pub fn open(
        path: &Path,
        backend: Arc<dyn Backend>,
        options: LoadOptions,
    ) -> Result<Whisper, crate::Error> {
        let checkpoint = frit_load::open(path)?;
        let config = WhisperConfig::from_json(&checkpoint.config)
            .map_err(|source| crate::Error::Config { path: path.display().to_string(), source })?;
        Ok(Whisper::new(config, checkpoint.params_for(options.dtype), backend, options))
    }

    /// A model of weights at hand, of the type that the options name or a narrower one.
    pub fn new(
        config: WhisperConfig,
        params: Params,
        backend: Arc<dyn Backend>,
        options: LoadOptions,
    ) -> Whisper {
        // The bare model (without the language head) has names without the prefix.
        let bare = params.get("model.encoder.conv1.weight").is_none()
            && params.get("encoder.conv1.weight").is_some();
        let params = match bare {
            true => params.iter().map(|(n, v)| (format!("model.{n}"), v.clone())).collect(),
            false => params,
        };
        let programs = BTreeMap::new();
        let (cross, caches, position) = (Vec::new(), Vec::new(), 0);
        Whisper { config, params, backend, options, programs, cross, caches, position }
    }

    /// The sizes.
    pub fn config(&self) -> &WhisperConfig {
        &self.config
    }

    /// The programs compiled so far, by name.
    pub fn programs(&self) -> impl Iterator<Item = (&str, &Compiled)> {
        self.programs.iter().map(|(n, p)| (n.as_str(), p))
    }

    /// Compiles what every transcription needs, so that errors come early.
    ///
    /// # Errors
    /// Tensors that are missing or misshapen; Blocks that the policy denies.
    pub fn warm_up(&mut self) -> Result<(), crate::Error> {
        self.encoder_program()?;
        self.decoder_program(1)?;
        Ok(())
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
        let network = Network::new(&self.config, &self.params, self.options.dtype);
        let graph = Graph::trace(inputs, |x| build(&network, x))?;
        let traced = graph.histogram();
        let (graph, rewrites) = rewrite(&graph, &self.options.rules)?;
        let program = compile(&graph, &*self.backend, &self.params, self.options.policy)?;
        let compiled = Compiled { program: program.clone(), rewrites, traced };
        self.programs.insert(name, compiled);
        Ok(program)
    }

    fn mel_spec(&self, batch: usize) -> Spec {
        let shape = [batch, self.config.num_mel_bins, self.config.frames()];
        Spec::new(self.options.dtype, shape)
    }

    fn cache_spec(&self, batch: usize, length: usize) -> Spec {
        let c = &self.config;
        let shape = [batch, c.decoder_attention_heads, length, c.decoder_head()];
        Spec::new(self.options.dtype, shape)
    }

    fn encoder_program(&mut self) -> Result<Program, crate::Error> {
        let mel = self.mel_spec(1);
        self.program("encoder".into(), &[mel], |network, x| {
            let hidden = network.encoder(&x[0]);
            let cross = flat(network.cross(&hidden));
            [vec![hidden], cross].concat()
        })
    }

    /// Inputs: ids `[1, T]`, start, rows `[2]` that logits are wanted of (T > 1), caches, cross.
    fn decoder_program(&mut self, tokens: usize) -> Result<Program, crate::Error> {
        let i64 = |shape: &[usize]| Spec::new(DType::I64, shape);
        let mut inputs = vec![i64(&[1, tokens]), i64(&[]), i64(&[2])];
        let layers = 2 * self.config.decoder_layers;
        let cache = self.cache_spec(1, self.config.max_target_positions);
        let cross = self.cache_spec(1, self.config.max_source_positions);
        inputs.extend(std::iter::repeat_n(cache, layers));
        inputs.extend(std::iter::repeat_n(cross, layers));
        self.program(format!("decoder of {tokens}"), &inputs, |network, x| {
            let (caches, cross) = x[3..].split_at(layers);
            let decoded = network.decoder(&x[0], &x[1], &pairs(caches), &pairs(cross));
            // All rows of a prompt would be a product as large as the rest of the network.
            let hidden = match tokens {
                1 => decoded.hidden,
                _ => decoded.hidden.gather(1, &x[2]),
            };
            [vec![network.logits(&hidden)], flat(decoded.caches)].concat()
        })
    }

    /// Runs the decoder on tokens that stand at the current position; gives the logits of the
    /// rows asked for, or of the only one.
    fn decode(
        &mut self,
        ids: &[u32],
        length: usize,
        rows: [usize; 2],
    ) -> Result<Vec<f32>, crate::Error> {
        let room = self.config.max_target_positions;
        if self.position + ids.len() > room {
            return Err(crate::Error::Call(format!(
                "{} tokens do not fit in the {room} positions of the decoder",
                self.position + ids.len()
            )));
        }
        if self.cross.is_empty() {
            return Err(crate::Error::Call("no audio was encoded before decoding".into()));
        }
        let program = self.decoder_program(length)?;
        let mut padded: Vec<i64> = ids.iter().map(|&id| id as i64).collect();
        // What stands after the prompt is overwritten by the tokens that follow it.
        padded.resize(length, 0);
        let rows = rows.map(|r| r as i64).to_vec();
        let mut inputs = vec![
            Value::new([1, length], padded)?,
            Value::scalar(self.position as i64),
            Value::new([2], rows)?,
        ];
        inputs.append(&mut self.caches);
        inputs.extend(self.cross.iter().cloned());
        let mut out = program.run(inputs)?;
        self.caches = out.split_off(1);
        self.position += ids.len();
        Ok(out[0].to_f32())
    }

    fn clear(&mut self) -> Result<(), crate::Error> {
        let layers = 2 * self.config.decoder_layers;
        // Old entries are past the key length and never read, so the memory is kept as it is.
        if self.caches.len() != layers {
            let spec = self.cache_spec(1, self.config.max_target_positions);
            self.caches = (0..layers).map(|_| Value::zeros(&spec)).collect::<Result<_, _>>()?;
        }
        self.position = 0;
        Ok(())
    }

    /// Encodes one window of log-mel `[M, frames]`; gives the hidden states `[1, S, C]`.
    ///
    /// # Errors
    /// A window of the wrong size; tensors that are missing or misshapen.
    pub fn encode_window(&mut self, window: &[f32]) -> Result<Value, crate::Error> {
        let program = self.encoder_program()?;
        let spec = self.mel_spec(1);
        if window.len() != spec.numel() {
            let (m, f) = (self.config.num_mel_bins, self.config.frames());
            let wanted = format!("the encoder hears [{m}, {f}] numbers of log-mel");
            return Err(crate::Error::Call(format!("{wanted}, got {}", window.len())));
        }
        let mel = Value::new(spec.shape.clone(), window.to_vec())?.cast(self.options.dtype);
        let mut out = program.run(vec![mel])?;
        self.cross = out.split_off(1);
        self.position = 0;
        Ok(out.remove(0))
    }

    /// One pass over everything: `input_features` `[B, M, frames]` and `decoder_input_ids` `[B, T]`
    /// to `encoder_last_hidden_state` `[B, S, C]` and `logits` `[B, T, V]`.
    ///
    /// # Errors
    /// Inputs that do not fit the model.
    pub fn forward(
        &mut self,
        features: &Value,
        ids: &Value,
    ) -> Result<(Value, Value), crate::Error> {
        let pass = self.pass(features, ids)?;
        let [batch, tokens] = pass.sizes;
        let c = self.config.clone();
        let cache = self.cache_spec(batch, tokens);
        let specs: Vec<Spec> = pass.inputs.iter().map(|v| v.spec().clone()).collect();
        let name = format!("forward of {batch} x {tokens}");
        let build = |network: &Network<'_>, x: &[Tensor]| whole(network, x, &c, &cache);
        let mut out = self.program(name, &specs, build)?.run(pass.inputs)?;
        let logits = out.remove(1);
        Ok((out.remove(0), logits))
    }

    /// The pass of [`Whisper::forward`] as a graph of plain layers, with its weights and inputs.
    ///
    /// # Errors
    /// As [`Whisper::forward`].
    pub fn trace(&self, features: &Value, ids: &Value) -> Result<Traced, crate::Error> {
        let Pass { inputs, sizes: [batch, tokens] } = self.pass(features, ids)?;
        let specs: Vec<Spec> = inputs.iter().map(|v| v.spec().clone()).collect();
        let cache = self.cache_spec(batch, tokens);
        let network = Network::new(&self.config, &self.params, self.options.dtype);
        let graph = Graph::trace(&specs, |x| whole(&network, x, &self.config, &cache))?;
        Ok(Traced { graph, params: self.params.clone(), inputs })
    }

    fn pass(&self, features: &Value, ids: &Value) -> Result<Pass, crate::Error> {
        let c = &self.config;
        let batch = features.shape().first().copied().unwrap_or(0);
        let wanted = self.mel_spec(batch);
        if features.shape() != wanted.shape || batch == 0 {
            return Err(crate::Error::Call(format!(
                "input_features must be [B, {}, {}], got {}",
                c.num_mel_bins,
                c.frames(),
                features.spec()
            )));
        }
        let tokens = ids.shape().get(1).copied().unwrap_or(0);
        let fits = ids.shape() == [batch, tokens]
            && (1..=c.max_target_positions).contains(&tokens)
            && ids.dtype().is_integer();
        if !fits {
            return Err(crate::Error::Call(format!(
                "decoder_input_ids must be integers [{batch}, T] with T from 1 to {}, got {}",
                c.max_target_positions,
                ids.spec()
            )));
        }
        let inputs = vec![features.cast(self.options.dtype), ids.cast(DType::I64)];
        Ok(Pass { inputs, sizes: [batch, tokens] })
    }
}

/// A pass over everything, before its graph is made: the inputs, and how many of how many tokens.
struct Pass {
    inputs: Vec<Value>,
    sizes: [usize; 2],
}

/// The graph of a pass: the hidden states of the encoder, and logits over an empty cache.
fn whole(network: &Network<'_>, x: &[Tensor], c: &WhisperConfig, cache: &Spec) -> Vec<Tensor> {
    let hidden = network.encoder(&x[0]);
    let cross = network.cross(&hidden);
    let empty = Tensor::full(cache.clone(), 0.0);
    let cache = KeyValue { key: empty.clone(), value: empty };
    let caches = vec![cache; c.decoder_layers];
    let start = Tensor::scalar(DType::I64, 0.0);
    let decoded = network.decoder(&x[1], &start, &caches, &cross);
    vec![hidden, network.logits(&decoded.hidden)]
}

fn flat(pairs: Vec<KeyValue>) -> Vec<Tensor> {
    pairs.into_iter().flat_map(|p| [p.key, p.value]).collect()
}

fn pairs(flat: &[Tensor]) -> Vec<KeyValue> {
    flat.chunks(2).map(|p| KeyValue { key: p[0].clone(), value: p[1].clone() }).collect()
}

impl SpeechModel for Whisper {
    fn vocab(&self) -> usize {
        self.config.vocab_size
    }

    fn n_mels(&self) -> usize {
        self.config.num_mel_bins
    }

    fn window_frames(&self) -> usize {
        self.config.frames()
    }

    fn max_positions(&self) -> usize {
        self.config.max_target_positions
    }

    fn encode(&mut self, window: &[f32]) -> Result<(), ModelError> {
        self.encode_window(window)?;
        Ok(())
    }

    fn begin(&mut self, prompt: &[u32], start: usize) -> Result<Begin, ModelError> {
        let n = prompt.len();
        if start >= n {
            return Err(format!("token {start} of a prompt of {n} does not exist").into());
        }
        self.clear()?;
        let room = self.config.max_target_positions;
        let length = n.next_power_of_two().min(room.max(n));
        let mut logits = self.decode(prompt, length, [start, n - 1])?;
        let last = match n {
            1 => logits.clone(),
            _ => logits.split_off(self.config.vocab_size),
        };
        Ok(Begin { start: logits, last })
    }

    fn step(&mut self, token: u32) -> Result<Vec<f32>, ModelError> {
        Ok(self.decode(&[token], 1, [0, 0])?)
    }
}
