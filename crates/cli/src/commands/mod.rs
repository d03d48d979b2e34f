//! The commands, a file each, and what they share: the machine that they run on, and how they fail.
//!
//! A command is a struct of arguments and a function `run` that takes them and an [`Out`]. Results
//! go to [`Out`], which is the standard output; everything else goes to the standard error through
//! [`note`]. What a command finds bad about its subject (a case that fails, tokens that differ) is
//! a [`Verdict`]; what keeps it from doing its work is a [`Failure`].

pub mod bench;
pub mod chat;
pub mod demo;
pub mod doctor;
pub mod embed;
pub mod eval;
pub mod forward;
pub mod fuse;
pub mod generate;
mod given;
pub mod inspect;
mod language;
mod out;
mod profile;
pub mod run;
pub mod setup;
mod speech;
pub mod transcribe;
pub mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use frit::cpu::{Cpu, Pool};
use frit::graph::{Backend, Error, Reference, Rule};
use frit::load::LoadError;
use frit::models::chat::ChatError;
use frit::models::fast_kernels;
use frit::models::generate::GenerateError;
use frit::models::tokenizer::TokenizerError;
use frit::models::whisper::tokens::TokensError;
use frit::models::whisper::transcribe::TranscribeError;

use crate::assets::AssetError;

pub use out::{Out, note};

/// What came of a command that could do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All is well.
    Passed,
    /// Something is not as it should be, and was told.
    Failed,
}

/// What kept a command from doing its work.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Something of the table of assets is not there.
    #[error(transparent)]
    Asset(#[from] AssetError),
    /// A checkpoint or a safetensors file.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A model.
    #[error(transparent)]
    Model(#[from] frit::models::Error),
    /// A language model at work.
    #[error(transparent)]
    Generate(Box<GenerateError>),
    /// The tokenizer of a language model.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A chat template.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// A graph, or the backend.
    #[error(transparent)]
    Graph(#[from] Error),
    /// A tokenizer.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// A recording.
    #[error("{}: {source}", path.display())]
    Speech {
        /// The recording.
        path: PathBuf,
        /// What went wrong.
        source: TranscribeError,
    },
    /// The operating system refused something.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was wanted.
        doing: &'static str,
        /// Of which file or folder.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The standard output takes no more.
    #[error("cannot write the results: {0}")]
    Output(std::io::Error),
    /// What the user gave does not do.
    #[error("{0}")]
    Input(String),
    /// Arguments that do not go together: the exit status is 2.
    #[error("{0}")]
    Usage(String),
}

impl Failure {
    fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Failure {
        Failure::Io { doing, path: path.to_path_buf(), source }
    }
}

/// How many threads work.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Threads {
    /// Threads that share the work; the results are the same for any number
    ///
    /// [default: the environment variable FRIT_THREADS, or one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    threads: Option<u16>,
}

impl Threads {
    /// The threads.
    fn pool(self) -> Pool {
        match self.threads {
            Some(threads) => Pool::new(threads.into()),
            None => Pool::global().clone(),
        }
    }
}

/// A backend by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendName {
    /// This machine's processor.
    Cpu,
    /// Apple's MLX, on the GPU if it has one here (see `frit setup`).
    Mlx,
    /// Plain loops in float64: slow, and always composed.
    Reference,
}

/// What a build without MLX says when it is asked for it.
#[cfg(not(feature = "mlx"))]
const WITHOUT_MLX: &str = "this frit was built without it: build it with --features mlx";

/// A failure to get at MLX.
fn no_mlx(why: impl std::fmt::Display) -> Failure {
    Failure::Input(format!("no backend mlx: {why}"))
}

/// MLX with its version, device and place, in words.
#[cfg(feature = "mlx")]
fn about_mlx(mlx: &frit::mlx::Mlx) -> String {
    let (version, device, name) = (frit::mlx::VERSION, mlx.device().name(), mlx.device_name());
    let name = if name.is_empty() { name } else { format!(" ({name})") };
    format!("MLX {version} on the {device}{name}, in {}", mlx.folder().display())
}

#[cfg(feature = "mlx")]
fn mlx_backend(composed: bool) -> Result<Arc<dyn Backend>, Failure> {
    let mlx = frit::mlx::Mlx::new().map_err(no_mlx)?;
    Ok(Arc::new(if composed { mlx.without_fused() } else { mlx }))
}

#[cfg(not(feature = "mlx"))]
fn mlx_backend(_: bool) -> Result<Arc<dyn Backend>, Failure> {
    Err(no_mlx(WITHOUT_MLX))
}

/// What runs where nothing is asked for: MLX where it is built in and has a GPU, else the processor.
fn default_backend() -> BackendName {
    #[cfg(feature = "mlx")]
    if frit::mlx::Mlx::on_gpu().is_some() {
        return BackendName::Mlx;
    }
    BackendName::Cpu
}

/// What runs the graphs.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Machine {
    /// What runs the graphs
    ///
    /// [default: cpu; mlx where it is built in and has a GPU]
    #[arg(long, value_enum)]
    backend: Option<BackendName>,
    /// Turn every fused kernel off
    #[arg(long)]
    composed: bool,
    #[command(flatten)]
    threads: Threads,
}

impl Machine {
    /// The backend on these threads.
    fn backend(self, pool: &Pool) -> Result<Arc<dyn Backend>, Failure> {
        Ok(match (self.name(), self.composed) {
            (BackendName::Reference, _) => Arc::new(Reference),
            (BackendName::Mlx, composed) => mlx_backend(composed)?,
            (BackendName::Cpu, true) => Arc::new(Cpu::on(pool.clone()).without_fused()),
            (BackendName::Cpu, false) => Arc::new(Cpu::on(pool.clone())),
        })
    }

    fn name(self) -> BackendName {
        self.backend.unwrap_or_else(default_backend)
    }

    /// The rules that a model's graphs are rewritten by.
    fn rules(self) -> Vec<Rule> {
        if self.composed { Vec::new() } else { fast_kernels() }
    }

    /// The backend in words: `cpu, 2 threads`, `cpu, composed, 1 thread`, `mlx`, `reference`.
    fn words(self, pool: &Pool) -> String {
        let composed = if self.composed { ", composed" } else { "" };
        match self.name() {
            BackendName::Reference => "reference".into(),
            BackendName::Mlx => format!("mlx{composed}"),
            BackendName::Cpu => {
                format!("cpu{composed}, {}", count(pool.threads(), "thread"))
            }
        }
    }
}

/// `1 case`, `2 cases`.
fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Text from a file, fit for a terminal: no control characters, not endless.
pub(crate) fn plain(text: &str) -> String {
    const MOST: usize = 600;
    let clean = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
    let mut out: String = text.chars().take(MOST).map(clean).collect();
    if text.chars().nth(MOST).is_some() {
        out.push_str("...");
    }
    out
}

/// The most memory that this process had so far, where the system tells.
fn peak_memory() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_peak_of_memory_grows_with_what_is_touched() {
        let before = peak_memory().expect("Linux tells it");
        // Not zeros, which would be one page many times.
        let block = std::hint::black_box(vec![7u8; before + (8 << 20)]);
        let after = peak_memory().expect("Linux tells it");
        assert!(after > block.len(), "{before} {after} {}", block.len());
    }

    #[test]
    fn text_from_files_loses_control_characters_and_endless_tails() {
        assert_eq!(plain("a\u{1b}[31mb\nc"), "a\u{fffd}[31mb\nc");
        assert_eq!(plain(&"x".repeat(600)).len(), 600);
        assert_eq!(plain(&"x".repeat(601)), "x".repeat(600) + "...");
    }

    #[test]
    fn a_machine_is_put_in_words() {
        let pool = Pool::new(1);
        let cpu = Some(BackendName::Cpu);
        let cpu = Machine { backend: cpu, composed: true, ..Machine::default() };
        assert_eq!(cpu.words(&pool), "cpu, composed, 1 thread");
        let reference = Some(BackendName::Reference);
        let reference = Machine { backend: reference, ..Machine::default() };
        assert_eq!(reference.words(&pool), "reference");
        assert_eq!(reference.backend(&pool).expect("it is there").name(), "reference");
    }

    #[cfg(not(feature = "mlx"))]
    #[test]
    fn without_mlx_built_in_asking_for_it_says_how_to_build_it() {
        let mlx = Machine { backend: Some(BackendName::Mlx), ..Machine::default() };
        let failure = mlx.backend(&Pool::new(1)).err().expect("it is not built in");
        assert_eq!(
            failure.to_string(),
            "no backend mlx: this frit was built without it: build it with --features mlx"
        );
    }
}
