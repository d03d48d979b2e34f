//! `frit forward`: one pass of a checkpoint on given inputs, to hold a model against another
//! implementation of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use frit::graph::{Backend, DType, Policy, Value};
use frit::load::{Checkpoint, safetensors};
use frit::models::encoder::{self, Encoder};
use frit::models::llama::{self, Llama};
use frit::models::whisper::config::WhisperConfig;
use frit::models::whisper::model::{LoadOptions, Whisper};
use serde_json::Value as Json;

use super::profile::Profiling;
use super::{Failure, Machine, Out, Verdict};

const EXAMPLES: &str = "\
Inputs and outputs have the names of Hugging Face; other tensors among the inputs are ignored.
  whisper   input_features, decoder_input_ids -> encoder_last_hidden_state, logits
  llama, mistral, qwen2, qwen3, gemma3_text, smollm3, phi3
            input_ids, [attention_mask], [position_ids] -> logits
  bert, distilbert, modernbert
            input_ids, [attention_mask], [token_type_ids] (bert) -> last_hidden_state
  vit       pixel_values -> last_hidden_state

Example:
  frit forward whisper-tiny/ --inputs inputs.safetensors --out outputs.safetensors";

/// Arguments of `frit forward`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ForwardArgs {
    /// Folder of a checkpoint: safetensors or CTranslate2, with its config.json
    model: PathBuf,
    /// Inputs by name
    #[arg(long, value_name = "FILE.safetensors")]
    inputs: PathBuf,
    /// Where the outputs go
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    profiling: Profiling,
}

/// Outputs by name.
type Outputs = Vec<(&'static str, Value)>;

type Forward = fn(&Run<'_>) -> Result<Outputs, Failure>;

/// What there is a forward pass for, by the `model_type` of the configuration, or the architecture
/// of a GGUF file.
const MODELS: &[(&str, Forward)] = &[
    ("whisper", whisper),
    ("llama", decoder),
    ("mistral", decoder),
    ("qwen2", decoder),
    ("qwen3", decoder),
    ("gemma3_text", decoder),
    ("gemma3", decoder),
    ("smollm3", decoder),
    ("phi3", decoder),
    ("bert", encoder),
    ("distilbert", encoder),
    ("modernbert", encoder),
    ("vit", encoder),
];

/// What a forward pass is made of.
struct Run<'a> {
    args: &'a ForwardArgs,
    checkpoint: Checkpoint,
    inputs: Checkpoint,
    backend: Arc<dyn Backend>,
}

/// Runs the command.
///
/// # Errors
/// Files that are missing or damaged, a model that is not known here, inputs that do not fit it.
pub fn run(args: &ForwardArgs, out: &mut Out) -> Result<Verdict, Failure> {
    let checkpoint = frit::load::open(&args.model)?;
    let kind = match &checkpoint.config["general.architecture"] {
        Json::Null => &checkpoint.config["model_type"],
        architecture => architecture,
    };
    let known = MODELS.iter().find(|(name, _)| kind == name);
    let (_, forward) = known.ok_or_else(|| {
        let names: Vec<&str> = MODELS.iter().map(|(name, _)| *name).collect();
        let (model, names) = (args.model.display(), names.join(", "));
        let what = match kind.as_str() {
            Some(kind) => format!("a checkpoint of model_type `{}`", super::plain(kind)),
            None => "a checkpoint without a model_type in config.json".to_string(),
        };
        Failure::Input(format!("{model}: {what}; supported: {names}"))
    })?;
    let inputs = safetensors::read(&args.inputs)?;
    let watch = args.profiling.watch();
    let backend = watch.backend(args.machine, &args.machine.threads.pool())?;
    let outputs = forward(&Run { args, checkpoint, inputs, backend })?;
    watch.tell()?;
    let tensors: Vec<(&str, &Value)> = outputs.iter().map(|(name, value)| (*name, value)).collect();
    frit::load::write(&args.out, &tensors, &BTreeMap::new())?;
    for (name, value) in &outputs {
        out.line(&format!("{name} {}", value.spec()))?;
    }
    Ok(Verdict::Passed)
}

fn whisper(run: &Run<'_>) -> Result<Outputs, Failure> {
    let features = run.inputs.tensor("input_features")?;
    let ids = run.inputs.tensor("decoder_input_ids")?;
    let config = WhisperConfig::from_json(&run.checkpoint.config).map_err(|source| {
        frit::models::Error::Config { path: run.args.model.display().to_string(), source }
    })?;
    let (rules, policy, dtype) = (run.args.machine.rules(), Policy::Allow, DType::F32);
    let options = LoadOptions { rules, policy, dtype };
    let params = run.checkpoint.params_for(dtype);
    let mut model = Whisper::new(config, params, run.backend.clone(), options);
    let (hidden, logits) = model.forward(features, ids)?;
    Ok(vec![("encoder_last_hidden_state", hidden), ("logits", logits)])
}

/// The llama family: decoders alone.
fn decoder(run: &Run<'_>) -> Result<Outputs, Failure> {
    let ids = run.inputs.tensor("input_ids")?;
    let maybe = |name| run.inputs.params.get(name);
    let rules = run.args.machine.rules();
    let options = llama::LoadOptions { rules, ..llama::LoadOptions::default() };
    let mut model = Llama::from_checkpoint(&run.checkpoint, run.backend.clone(), options)
        .map_err(|e| Failure::Input(e.to_string()))?;
    let logits = model
        .forward(ids, maybe("attention_mask"), maybe("position_ids"))
        .map_err(|e| Failure::Input(e.to_string()))?;
    Ok(vec![("logits", logits)])
}

/// Encoders of texts and pictures.
fn encoder(run: &Run<'_>) -> Result<Outputs, Failure> {
    let rules = run.args.machine.rules();
    let options = encoder::LoadOptions { rules, ..encoder::LoadOptions::default() };
    let mut model = Encoder::from_checkpoint(&run.checkpoint, run.backend.clone(), options)?;
    let names = model.config().inputs();
    let mut inputs = vec![(names[0], run.inputs.tensor(names[0])?)];
    let others = names[1..].iter();
    inputs.extend(others.filter_map(|name| Some((*name, run.inputs.params.get(name)?))));
    Ok(vec![("last_hidden_state", model.forward(&inputs)?)])
}
