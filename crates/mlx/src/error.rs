//! What can be wrong with the MLX of this machine, and what helps.

use crate::find::VERSION;
use std::path::PathBuf;

/// Why there is no MLX backend, or why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MlxError {
    /// No MLX in any of the places it is looked for in.
    #[error("no MLX found ({looked}); `frit setup mlx` fetches it, or: {}", advice())]
    NotFound {
        /// The places, in words.
        looked: String,
    },
    /// An MLX of another version: its C++ interface changes with every release.
    #[error(
        "{} is MLX {found}, but Frit needs {VERSION}: {}",
        folder.display(), advice()
    )]
    Version {
        /// Where it is.
        folder: PathBuf,
        /// Its version.
        found: String,
    },
    /// No C++ compiler for the bridge.
    #[error(
        "the bridge to MLX must be compiled once, and there is no C++ compiler (tried {tried}): \
         install g++ or clang++ (on a Mac: xcode-select --install), or name one in CXX"
    )]
    NoCompiler {
        /// The commands that were tried.
        tried: String,
    },
    /// The compiler refused the bridge.
    #[error("{command} could not compile the bridge to MLX (it must know C++20):\n{said}")]
    Compile {
        /// The compiler.
        command: String,
        /// The end of what it said.
        said: String,
    },
    /// The bridge or MLX itself cannot be loaded.
    #[error(
        "cannot load {}: {why} (what it names must be installed, or lie beside MLX as in its package)",
        path.display()
    )]
    Load {
        /// The library.
        path: PathBuf,
        /// What the loader said.
        why: String,
    },
    /// The wanted device is not there.
    #[error("this MLX has no {device}")]
    NoDevice {
        /// Which.
        device: &'static str,
    },
    /// A file or folder could not be used.
    #[error("cannot {doing} {}: {why}", path.display())]
    Io {
        /// What was wanted.
        doing: &'static str,
        /// Of which file or folder.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// A call of MLX failed.
    #[error("[{call}] {message}")]
    Call {
        /// Which.
        call: &'static str,
        /// What MLX said.
        message: String,
    },
}

fn advice() -> String {
    let extra = if cfg!(target_os = "macos") { "mlx" } else { "mlx[cpu]" };
    format!(
        "pip install \"{extra}=={VERSION}\", or set MLX_DIR to the folder of its include and lib"
    )
}

impl From<MlxError> for frit_graph::Error {
    fn from(e: MlxError) -> frit_graph::Error {
        frit_graph::Error::Backend { backend: "mlx".into(), message: e.to_string() }
    }
}
