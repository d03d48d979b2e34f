//! Where MLX is: `MLX_DIR`, what `frit setup mlx` fetched, or the Python interpreter's packages.
//!
//! A place is good when it holds `include/mlx/version.h` and the library in `lib`. The library's
//! neighbours (Metal's kernels, the bundled BLAS) are found by itself, so nothing is ever moved.

use crate::MlxError;
use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The one version of MLX that Frit works with.
pub const VERSION: &str = "0.32.4";

/// The name of MLX's library on this platform.
const LIBRARY: &str = if cfg!(target_os = "macos") { "libmlx.dylib" } else { "libmlx.so" };

/// An MLX of the right version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// The folder with `include` and `lib`.
    pub folder: PathBuf,
    /// What led there: `MLX_DIR`, `frit setup mlx` or the interpreter.
    pub found_by: String,
}

impl Installation {
    /// The folder of the headers.
    pub fn include(&self) -> PathBuf {
        self.folder.join("include")
    }

    /// The folder of the library.
    pub fn lib(&self) -> PathBuf {
        self.folder.join("lib")
    }
}

/// The folder in which Frit keeps what it fetched and compiled for MLX: `mlx` in `$FRIT_HOME`, or
/// else in `frit` in the platform's place for caches.
pub fn home() -> PathBuf {
    let var = |name: &str| env::var_os(name).filter(|v: &OsString| !v.is_empty());
    let user = || env::home_dir().filter(|h| !h.as_os_str().is_empty());
    let frit = match var("FRIT_HOME").map(PathBuf::from) {
        Some(home) => Some(home),
        None if cfg!(windows) => {
            let local = var("LOCALAPPDATA").map(PathBuf::from);
            local.or(user().map(|u| u.join("AppData").join("Local"))).map(|c| c.join("frit"))
        }
        None if cfg!(target_os = "macos") => {
            user().map(|u| u.join("Library").join("Caches").join("frit"))
        }
        None => {
            let caches = var("XDG_CACHE_HOME").map(PathBuf::from).filter(|c| c.is_absolute());
            caches.or(user().map(|u| u.join(".cache"))).map(|c| c.join("frit"))
        }
    };
    let home = frit.unwrap_or_else(|| PathBuf::from(".frit")).join("mlx");
    std::path::absolute(&home).unwrap_or(home)
}

/// Where `frit setup mlx` puts MLX: the wheel's content, `mlx` and its neighbours.
pub fn fetched() -> PathBuf {
    home().join(format!("{VERSION}-{}-{}", env::consts::OS, env::consts::ARCH))
}

/// The MLX of this machine.
///
/// # Errors
/// When there is none, or one of another version.
pub fn find() -> Result<Installation, MlxError> {
    if let Some(folder) = env::var_os("MLX_DIR").filter(|v| !v.is_empty()).map(PathBuf::from) {
        let looked =
            format!("MLX_DIR is {}, without include/mlx and lib/{LIBRARY}", folder.display());
        return checked(&folder, "MLX_DIR").unwrap_or(Err(MlxError::NotFound { looked }));
    }
    // A wrong version in one place does not hide a right one in another.
    let mut wrong = None;
    let places = [(vec![fetched()], "frit setup mlx"), (site_packages(), "Python's packages")];
    for (folders, how) in places {
        for folder in folders {
            match checked(&folder, how) {
                Some(Ok(found)) => return Ok(found),
                Some(Err(e)) => wrong = wrong.or(Some(e)),
                None => {}
            }
        }
    }
    let looked = "MLX_DIR is not set, nothing was fetched, and Python's packages lack it".into();
    Err(wrong.unwrap_or(MlxError::NotFound { looked }))
}

/// The folder itself, or `mlx` in it, if that is an MLX.
fn checked(folder: &Path, how: &str) -> Option<Result<Installation, MlxError>> {
    let folder = std::path::absolute(folder).unwrap_or(folder.to_path_buf());
    let holds = |f: &PathBuf| {
        f.join("include/mlx/version.h").is_file() && f.join("lib").join(LIBRARY).is_file()
    };
    let folder = [folder.clone(), folder.join("mlx")].into_iter().find(holds)?;
    let text = fs::read_to_string(folder.join("include/mlx/version.h")).unwrap_or_default();
    let found = version_in(&text).unwrap_or_else(|| "of no known version".into());
    Some(match found == VERSION {
        true => Ok(Installation { folder, found_by: how.to_string() }),
        false => Err(MlxError::Version { folder, found }),
    })
}

/// The version that the header says.
fn version_in(text: &str) -> Option<String> {
    let part = |name: &str| {
        let line = text.lines().find(|l| l.starts_with("#define") && l.contains(name))?;
        line.split_whitespace().last()?.parse::<u32>().ok()
    };
    let [a, b, c] = ["VERSION_MAJOR", "VERSION_MINOR", "VERSION_PATCH"].map(part);
    Some(format!("{}.{}.{}", a?, b?, c?))
}

/// Folders of packages named `mlx`, as the user's interpreter sees them. Nothing of it is run: the
/// interpreter only says where it would look.
fn site_packages() -> Vec<PathBuf> {
    const ASK: &str = "import importlib.util as u; s = u.find_spec('mlx'); \
                       print('\\n'.join(s.submodule_search_locations or []) if s else '')";
    let said = ["python3", "python"].iter().find_map(|python| {
        let mut command = Command::new(python);
        // Not from the current folder: it may hold a module of this name.
        command.args(["-I", "-c", ASK]).stdin(Stdio::null()).stderr(Stdio::null());
        command.output().ok().filter(|o| o.status.success())
    });
    let text = said.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().filter(|l| !l.is_empty()).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::{VERSION, checked, version_in};
    use std::fs;

    const HEADER: &str = "#pragma once\n#define MLX_VERSION_MAJOR 0\n#define MLX_VERSION_MINOR 31\n\
                          #define MLX_VERSION_PATCH 7\n#define MLX_VERSION_NUMERIC (100 * MLX_VERSION_MAJOR)\n";

    #[test]
    fn the_version_is_read_from_the_header() {
        assert_eq!(version_in(HEADER).as_deref(), Some("0.31.7"));
        assert_eq!(version_in("#pragma once"), None);
    }

    #[test]
    fn another_version_is_an_error_that_names_both_and_says_what_to_install() {
        let folder = std::env::temp_dir().join(format!("frit-mlx-{}", std::process::id()));
        fs::create_dir_all(folder.join("mlx/include/mlx")).expect("a folder");
        fs::create_dir_all(folder.join("mlx/lib")).expect("a folder");
        fs::write(folder.join("mlx/include/mlx/version.h"), HEADER).expect("a header");
        assert!(checked(&folder, "a test").is_none(), "without a library it is no MLX");
        fs::write(folder.join("mlx/lib").join(super::LIBRARY), "").expect("a library");
        let error = checked(&folder, "a test").expect("an MLX").expect_err("of another version");
        let text = error.to_string();
        fs::remove_dir_all(&folder).expect("removed");
        assert!(
            text.contains(&format!("is MLX 0.31.7, but Frit needs {VERSION}: pip install")),
            "{text}"
        );
    }
}
