//! `frit setup`: brings what Frit can use but does not carry.

use clap::{Args, ValueEnum};

use super::{Failure, Out, Verdict};

/// Arguments of `frit setup`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
MLX is looked for in MLX_DIR, in what this command fetched before, and in Python's packages; the
package for this platform is fetched where there is none. Then the bridge to it is compiled, which
needs a C++ compiler (c++, g++, clang++, or what CXX names).

Example:
  frit setup mlx")]
pub struct SetupArgs {
    /// What to bring
    what: What,
    /// Do not tell about the download
    #[arg(long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Apple's MLX, for `--backend mlx`
    Mlx,
}

/// Runs the command.
///
/// # Errors
/// A package that cannot be fetched, a bridge that cannot be compiled.
pub fn run(args: &SetupArgs, out: &mut Out) -> Result<Verdict, Failure> {
    match args.what {
        What::Mlx => mlx(args.quiet, out),
    }
}

#[cfg(feature = "mlx")]
fn mlx(quiet: bool, out: &mut Out) -> Result<Verdict, Failure> {
    use crate::assets::{UserClients, wheel};
    use frit::mlx::{Mlx, MlxError, find};
    use std::env;

    let missing = |e: &MlxError| matches!(e, MlxError::NotFound { .. } | MlxError::Version { .. });
    match find::find() {
        Err(e) if missing(&e) && env::var_os("MLX_DIR").is_none() => {
            let (os, arch) = (env::consts::OS, env::consts::ARCH);
            let Some(wheel) = wheel::mlx(os, arch) else {
                return Err(Failure::Input(format!(
                    "there is no package of MLX for {os}, {arch}: {e}"
                )));
            };
            wheel.fetch(&find::fetched(), &UserClients::default(), quiet)?;
        }
        found => drop(found.map_err(super::no_mlx)?),
    }
    let mlx = Mlx::new().map_err(super::no_mlx)?;
    out.text(&format!("{}\n", super::about_mlx(&mlx)))?;
    Ok(Verdict::Passed)
}

#[cfg(not(feature = "mlx"))]
fn mlx(_: bool, _: &mut Out) -> Result<Verdict, Failure> {
    Err(super::no_mlx(super::WITHOUT_MLX))
}
