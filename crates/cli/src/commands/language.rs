//! A language model with its tokenizer, and how tokens are chosen: what `generate` and `chat`
//! share.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use frit::cpu::Pool;
use frit::graph::{DType, Policy};
use frit::models::generate::{
    Finish, GenerateError, GenerateOptions, Generated, Sampling, Stats, TextGenerator,
};
use frit::models::llama::{Llama, LoadOptions};
use frit::models::packed_linear;
use frit::models::tokenizer::Tokenizer;
use frit::ops::Activations;

use super::profile::{Profiling, Watch};
use super::speech::explained;
use super::{Failure, Machine, count, note};
use crate::assets::{self, SMOLLM2_135M_INSTRUCT};
use crate::floor::read_bandwidth;

/// How tokens are chosen.
#[derive(Args, Clone, Debug)]
pub(super) struct Choosing {
    /// The most new tokens
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_tokens: usize,
    /// Always the most probable token: the same text every time
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p", "min_p", "seed"])]
    greedy: bool,
    /// Above 1 wilder, below 1 tamer, 0 greedy
    #[arg(long, value_name = "T", default_value_t = 0.7)]
    temperature: f32,
    /// Choose among the N most probable tokens only [default: all]
    #[arg(long, value_name = "N")]
    top_k: Option<usize>,
    /// Choose among the most probable tokens that have this probability together
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    top_p: f32,
    /// Choose among tokens that have at least this part of the probability of the first
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    min_p: f32,
    /// Makes tokens less probable that stand in the text already; 1 changes nothing
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Begins the random numbers: the same seed gives the same text [default: the time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// End before this text; can be given again
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on after the model ended its text, up to --max-tokens
    #[arg(long)]
    ignore_eos: bool,
}

impl Choosing {
    pub(super) fn options(&self) -> Result<GenerateOptions, Failure> {
        let now =
            || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
        let sampling = Sampling {
            temperature: if self.greedy { 0.0 } else { self.temperature },
            top_k: self.top_k.unwrap_or(0),
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed.unwrap_or_else(now),
        };
        sampling.check().map_err(Failure::Usage)?;
        Ok(GenerateOptions {
            max_tokens: self.max_tokens,
            sampling,
            stop: self.stop.clone(),
            stop_tokens: Vec::new(),
            ignore_end: self.ignore_eos,
        })
    }
}

/// What the keys and values of earlier tokens are kept in.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum CacheType {
    #[default]
    F32,
    /// Half the memory; keys and values are rounded
    F16,
}

/// What packed weights are multiplied with.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum ActivationsName {
    /// f32 activations: what the weights say, exactly
    #[default]
    Exact,
    /// Activations rounded to 8 bits, integer products, as llama.cpp does
    EightBit,
}

/// How the model runs.
#[derive(Args, Clone, Debug)]
pub(super) struct Running {
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    profiling: Profiling,
    /// What keys and values of earlier tokens are kept in
    #[arg(long, value_enum, default_value_t)]
    cache: CacheType,
    /// What packed weights are multiplied with
    #[arg(long, value_enum, default_value_t)]
    activations: ActivationsName,
    /// Print tokens a second, and bytes a token against the bandwidth of the memory
    #[arg(long)]
    pub(super) stats: bool,
    /// Print what was rewritten, fused and composed, and why, to the standard error
    #[arg(long)]
    explain: bool,
}

/// A model that generates.
pub(super) struct Language {
    pub(super) generator: TextGenerator<Llama>,
    /// Tokens that end a text, where no tokenizer tells them.
    pub(super) ends: Vec<u32>,
    pub(super) watch: Watch,
    pool: Pool,
    running: Running,
}

impl Language {
    /// Opens a file or folder; without one SmolLM2, fetched once.
    pub(super) fn open(model: Option<&Path>, running: &Running) -> Result<Language, Failure> {
        let path = match model {
            Some(path) => path.to_path_buf(),
            None => {
                let folder = assets::ensure(&SMOLLM2_135M_INSTRUCT, false)?;
                folder.join(SMOLLM2_135M_INSTRUCT.members[0].file)
            }
        };
        let pool = running.machine.threads.pool();
        let checkpoint = frit::load::open(&path)?;
        // A folder without one still goes on from token ids.
        let folder = if path.is_dir() { &*path } else { path.parent().unwrap_or(&path) };
        let bare = checkpoint.vocabulary.is_none() && !folder.join("tokenizer.json").exists();
        let tokenizer = if bare { None } else { Some(Tokenizer::of(&checkpoint)?) };
        let ends = if bare { ends(&checkpoint.config) } else { Vec::new() };
        let options = LoadOptions {
            rules: match running.activations {
                ActivationsName::Exact => running.machine.rules(),
                ActivationsName::EightBit => {
                    let eight = packed_linear(Activations::EightBit);
                    [vec![eight], running.machine.rules()].concat()
                }
            },
            policy: Policy::Allow,
            dtype: DType::F32,
            cache: match running.cache {
                CacheType::F32 => DType::F32,
                CacheType::F16 => DType::F16,
            },
        };
        let watch = running.profiling.watch();
        let backend = watch.backend(running.machine, &pool)?;
        let model = Llama::from_checkpoint(&checkpoint, backend, options)?;
        let generator = TextGenerator::new(model, tokenizer);
        Ok(Language { generator, ends, watch, pool, running: running.clone() })
    }

    /// A failure that names the model.
    pub(super) fn failure(error: GenerateError) -> Failure {
        match error {
            GenerateError::Options(what) => Failure::Usage(what),
            other => Failure::Generate(Box::new(other)),
        }
    }

    /// What happened, to the standard error, where it is asked for.
    pub(super) fn tell(&self, generated: &Generated) {
        if self.running.stats {
            note(self.stats(generated).trim_end());
        }
        if self.running.explain {
            note(explained(self.generator.model().programs()).trim_end());
        }
    }

    /// Rates, and how near decoding comes to reading memory as fast as this machine can.
    pub(super) fn stats(&self, generated: &Generated) -> String {
        let s = &generated.stats;
        let mut out = rates(s, generated.ids.len(), generated.finish);
        let middle = s.prompt_tokens + generated.ids.len() / 2;
        let bytes = self.generator.model().bytes_per_token(middle) as f64;
        let bandwidth = read_bandwidth(&self.pool);
        let moved = bytes * s.decode_rate();
        out += &format!(
            "memory   {:.1} MB a token, {:.1} GB/s of the {:.1} GB/s that {} can read ({:.0}%)\n",
            bytes / 1e6,
            moved / 1e9,
            bandwidth / 1e9,
            count(self.pool.threads(), "thread"),
            100.0 * moved / bandwidth,
        );
        out
    }
}

fn rates(s: &Stats, new: usize, finish: Finish) -> String {
    let reused = match s.reused_tokens {
        0 => String::new(),
        n => format!(", {n} of them read before"),
    };
    let why = match finish {
        Finish::Length => "as many as wanted",
        Finish::End => "the model ended its text",
        Finish::Stop => "a stop text came",
        Finish::Full => "the model takes no more",
        Finish::Cancelled => "cancelled",
    };
    format!(
        "prefill  {} in {:.0} ms{reused}: {:.1} tokens/s\n\
         decode   {} in {:.0} ms ({why}): {:.1} tokens/s\n",
        count(s.prompt_tokens, "token"),
        s.prefill.as_secs_f64() * 1e3,
        s.prefill_rate(),
        count(new, "token"),
        s.decode.as_secs_f64() * 1e3,
        s.decode_rate(),
    )
}

/// `eos_token_id` of a configuration: a number or a list of them.
fn ends(config: &serde_json::Value) -> Vec<u32> {
    let id = |v: &serde_json::Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    match &config["eos_token_id"] {
        serde_json::Value::Array(list) => list.iter().filter_map(id).collect(),
        one => id(one).into_iter().collect(),
    }
}

/// A path, if the text is one that exists.
pub(super) fn path(text: &str) -> Result<PathBuf, Failure> {
    let path = PathBuf::from(text);
    match path.exists() {
        true => Ok(path),
        false => Err(Failure::Input(format!("{}: no such file or folder", super::plain(text)))),
    }
}
