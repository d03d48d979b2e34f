//! `frit doctor`: what this machine has and what of it is used.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::Args;
use frit::cpu::{Pool, isa};
use serde::Serialize;

use super::out::{row, table};
use super::{Failure, Out, Verdict};
use crate::assets;

/// Arguments of `frit doctor`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Nothing is fetched; with MLX, the bridge to it is compiled the first time. Environment variables that matter:
  FRIT_HOME     where models and audio are kept
  FRIT_THREADS  threads, where --threads is not given
  FRIT_SIMD     instruction set: portable, avx2 or avx512
  MLX_DIR       the folder of MLX, where it is not among Python's packages

Example:
  frit doctor --json")]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Doctor {
    version: &'static str,
    build: &'static str,
    os: &'static str,
    arch: &'static str,
    processor: Processor,
    threads: usize,
    backends: Vec<Backend>,
    cache: Cache,
    clients: Vec<Client>,
}

#[derive(Serialize)]
struct Processor {
    logical: usize,
    features: Vec<&'static str>,
    isa: String,
}

#[derive(Serialize)]
struct Backend {
    name: &'static str,
    available: bool,
    about: String,
}

#[derive(Serialize)]
struct Cache {
    home: PathBuf,
    assets: Vec<Cached>,
}

#[derive(Serialize)]
struct Cached {
    id: &'static str,
    title: &'static str,
    bytes: u64,
    folder: Option<PathBuf>,
}

#[derive(Serialize)]
struct Client {
    name: &'static str,
    /// The command that answered, and what it said.
    command: Option<String>,
    version: Option<String>,
}

fn backends() -> Vec<Backend> {
    let backend =
        |name, available, about: &str| Backend { name, available, about: about.to_string() };
    let (available, about) = match mlx() {
        Ok(about) => (true, about),
        Err(why) => (false, why),
    };
    vec![
        backend("cpu", true, "fused kernels, threads, planned memory"),
        backend("reference", true, "plain loops in float64, the oracle"),
        backend("mlx", available, &about),
        backend("gpu", false, "not built in"),
    ]
}

/// Which MLX there is, after it has run one kernel; or why there is none.
#[cfg(feature = "mlx")]
fn mlx() -> Result<String, String> {
    use frit::prelude::*;
    let mlx = Mlx::new().map_err(|e| e.to_string())?;
    let norm = Jit::new(mlx, |x| vec![fast::rms_norm(&x[0], None, 0.0)]).with_policy(Policy::Deny);
    let x = Value::new([1, 2], vec![3.0f32, -3.0]).map_err(|e| e.to_string())?;
    let y = norm.call(vec![x]).map_err(|e| e.to_string())?;
    let ran = match y[0].to_f64() == [1.0, -1.0] {
        true => "it ran rms_norm".to_string(),
        false => return Err(format!("rms_norm of [3, -3] gave {:?}", y[0].to_f64())),
    };
    let gpus = super::count(mlx.gpus(), "GPU");
    Ok(format!("{}; {gpus}; {ran}", super::about_mlx(&mlx)))
}

#[cfg(not(feature = "mlx"))]
fn mlx() -> Result<String, String> {
    Err("not built in (--features mlx)".into())
}

/// Runs the command.
///
/// # Errors
/// Results that cannot be written.
pub fn run(args: &DoctorArgs, out: &mut Out) -> Result<Verdict, Failure> {
    let doctor = examine();
    if args.json {
        out.json(&doctor)?
    } else {
        out.text(&text(&doctor))?
    }
    Ok(Verdict::Passed)
}

fn examine() -> Doctor {
    let cached = |asset: &&'static assets::Asset| Cached {
        id: asset.id,
        title: asset.title,
        bytes: asset.bytes(),
        folder: assets::cached(asset),
    };
    let npm = if cfg!(windows) { "npm.cmd" } else { "npm" };
    Doctor {
        version: env!("CARGO_PKG_VERSION"),
        build: if cfg!(debug_assertions) { "development" } else { "release" },
        os: std::env::consts::OS,
        arch: std::env::consts::ARCH,
        processor: Processor {
            logical: std::thread::available_parallelism().map_or(1, |n| n.get()),
            features: features(),
            isa: isa().to_string(),
        },
        threads: Pool::global().threads(),
        backends: backends(),
        cache: Cache { home: assets::home(), assets: assets::ALL.iter().map(cached).collect() },
        clients: vec![
            client("pip", &[&["python3", "-m", "pip"], &["python", "-m", "pip"], &["pip"]]),
            client("npm", &[&[npm]]),
        ],
    }
}

/// The first of these commands that answers to `--version`.
fn client(name: &'static str, commands: &[&[&str]]) -> Client {
    let answer = |words: &&[&str]| {
        let (program, arguments) = words.split_first()?;
        let mut command = Command::new(program);
        command.args(arguments).arg("--version").stdin(Stdio::null());
        let output = command.output().ok().filter(|output| output.status.success())?;
        let said = String::from_utf8_lossy(&output.stdout);
        Some((words.join(" "), super::plain(said.lines().next()?.trim())))
    };
    let (command, version) = commands.iter().find_map(answer).unzip();
    Client { name, command, version }
}

/// What the processor has of the instructions that matter here.
fn features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    macro_rules! has {
        ($($name:tt),*) => { [$(($name, std::arch::is_x86_feature_detected!($name))),*] };
    }
    #[cfg(target_arch = "x86_64")]
    let found = has!(
        "sse4.1",
        "sse4.2",
        "avx",
        "f16c",
        "fma",
        "avx2",
        "avx512f",
        "avx512bw",
        "avx512dq",
        "avx512vl",
        "avx512vnni",
        "avx512bf16",
        "avx512fp16"
    );
    #[cfg(target_arch = "aarch64")]
    macro_rules! has {
        ($($name:tt),*) => { [$(($name, std::arch::is_aarch64_feature_detected!($name))),*] };
    }
    #[cfg(target_arch = "aarch64")]
    let found = has!("neon", "fp16", "dotprod", "bf16", "i8mm", "sve");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let found: [(&'static str, bool); 0] = [];
    found.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
}

fn text(d: &Doctor) -> String {
    let mut rows = vec![
        vec!["frit".into(), format!("{} ({} build)", d.version, d.build)],
        vec!["system".into(), format!("{}, {}", d.os, d.arch)],
        vec!["processors".into(), d.processor.logical.to_string()],
        vec!["features".into(), d.processor.features.join(" ")],
        vec!["kernels for".into(), d.processor.isa.clone()],
        vec!["threads".into(), d.threads.to_string()],
    ];
    for (at, b) in d.backends.iter().enumerate() {
        let head = if at == 0 { "backends" } else { "" };
        rows.push(vec![head.into(), format!("{:<10} {}", b.name, b.about)]);
    }
    rows.push(vec!["cache".into(), d.cache.home.display().to_string()]);
    for asset in &d.cache.assets {
        let here = if asset.folder.is_some() { "cached" } else { "not cached" };
        let size = format!("{:.1} MB", asset.bytes as f64 / 1e6);
        rows.push(row(["", &format!("{:<28} {here:<10}  {size:>9}  {}", asset.id, asset.title)]));
    }
    for client in &d.clients {
        let found = match (&client.command, &client.version) {
            (Some(command), Some(version)) => format!("{version} ({command})"),
            _ => "not found: it fetches models and audio".into(),
        };
        rows.push(vec![client.name.into(), found]);
    }
    table(2, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_is_not_there_is_not_found() {
        let none = client("pip", &[&["frit-no-such-program-7"], &[]]);
        assert_eq!((none.command, none.version), (None, None));
    }

    #[cfg(unix)]
    #[test]
    fn the_first_client_that_answers_is_taken() {
        // `echo` answers with its own argument.
        let echo = client("npm", &[&["frit-no-such-program-7"], &["false"], &["echo", "v"]]);
        assert_eq!(echo.command.as_deref(), Some("echo v"));
        assert_eq!(echo.version.as_deref(), Some("v --version"));
    }
}
