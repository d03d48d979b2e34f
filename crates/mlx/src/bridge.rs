//! Compiles the bridge: one file of C++ against the headers of the MLX that was found, once.
//!
//! MLX's interface is C++ and changes with every release, so the bridge cannot be shipped compiled;
//! and a build of Frit must not need MLX, so it is compiled when MLX is first used (or by `frit
//! setup mlx`) and kept under a name that says for what.

use crate::{
    MlxError,
    find::{Installation, home},
};
use std::{
    env, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const SOURCE: &str = include_str!("../bridge/bridge.cpp");
/// How much of a compiler's complaint is shown.
const SHOWN: usize = 2000;

/// The compiled bridge for this MLX, compiled now if it is not there.
///
/// # Errors
/// No compiler, one that refuses, a folder that cannot be written.
pub(crate) fn ensure(mlx: &Installation) -> Result<PathBuf, MlxError> {
    let path = place(mlx);
    if path.is_file() {
        return Ok(path);
    }
    let folder = home();
    let io = |doing, path: &Path, e: std::io::Error| MlxError::Io {
        doing,
        path: path.to_path_buf(),
        why: e.to_string(),
    };
    fs::create_dir_all(&folder).map_err(|e| io("create", &folder, e))?;
    let source = path.with_extension(format!("{}.cpp", std::process::id()));
    let output = path.with_extension(format!("{}.partial", std::process::id()));
    fs::write(&source, SOURCE).map_err(|e| io("write", &source, e))?;
    let compiled = compile(mlx, &source, &output);
    // What is left of a failure helps nobody.
    let _ = fs::remove_file(&source);
    let renamed =
        compiled.and_then(|()| fs::rename(&output, &path).map_err(|e| io("write", &path, e)));
    let _ = fs::remove_file(&output);
    renamed.map(|()| path)
}

/// Where the bridge for this MLX lies: the name depends on all that it is compiled of.
fn place(mlx: &Installation) -> PathBuf {
    let library = fs::metadata(mlx.lib()).and_then(|m| m.modified()).ok();
    let key = format!("{}\n{library:?}\n{SOURCE}", mlx.folder.display());
    // FNV-1a, which stays the same from one compiler to the next.
    let mix = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325, mix);
    let end = if cfg!(target_os = "macos") { "dylib" } else { "so" };
    home().join(format!("bridge-{}-{hash:016x}.{end}", crate::VERSION))
}

fn compile(mlx: &Installation, source: &Path, output: &Path) -> Result<(), MlxError> {
    let named = env::var("CXX").ok().filter(|c| !c.trim().is_empty());
    let tried = match named {
        Some(one) => vec![one],
        None => ["c++", "g++", "clang++"].map(str::to_string).to_vec(),
    };
    for compiler in &tried {
        // CXX may hold options too, such as a launcher.
        let mut words = compiler.split_whitespace();
        let Some(program) = words.next() else { continue };
        let mut command = Command::new(program);
        command.args(words).args(["-std=c++20", "-O2", "-fPIC", "-w", "-fvisibility=hidden"]);
        command.arg(if cfg!(target_os = "macos") { "-dynamiclib" } else { "-shared" });
        command.arg("-I").arg(mlx.include()).arg(source).arg("-L").arg(mlx.lib());
        let mut rpath = std::ffi::OsString::from("-Wl,-rpath,");
        rpath.push(mlx.lib());
        command.arg("-lmlx").arg(rpath).arg("-o").arg(output).stdin(Stdio::null());
        let ended = match command.output() {
            Ok(ended) => ended,
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => {
                let said = e.to_string();
                return Err(MlxError::Compile { command: compiler.clone(), said });
            }
        };
        if ended.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        // The first complaint is the one that says why.
        let first = said.find("error:").map_or(0, |at| said[..at].rfind('\n').map_or(0, |n| n + 1));
        let said = said[first..].chars().take(SHOWN).collect();
        return Err(MlxError::Compile { command: compiler.clone(), said });
    }
    Err(MlxError::NoCompiler { tried: tried.join(", ") })
}
