//! A whole package from PyPI, opened into a folder of its own: a library with its neighbours, which
//! must stay side by side.
//!
//! The package is one file with one pinned hash a platform, checked before it is opened.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::progress::Progress;
use super::{Asset, AssetError, Client, NotFetched, Package, Registry};

/// No such package holds more than this, unpacked.
const MOST: u64 = 1 << 30;

/// A package and what its file must hash to, on each of the platforms that pip may choose it for.
#[derive(Clone, Copy, Debug)]
pub struct Wheel {
    /// What it is, and where it comes from; it has no members.
    pub asset: &'static Asset,
    /// SHA-256 of the file, of which one must fit.
    pub sha256: &'static [&'static str],
}

macro_rules! mlx {
    ($id:literal, $package:literal, $bytes:literal, $hashes:expr) => {
        Wheel {
            asset: &Asset {
                id: $id,
                title: "MLX 0.32.4",
                licence: "MIT",
                instead: "set MLX_DIR to an MLX of this version",
                package: Package {
                    registry: Registry::PyPi,
                    name: $package,
                    version: "0.32.4",
                    bytes: $bytes,
                },
                members: &[],
            },
            sha256: $hashes,
        }
    };
}

static LINUX_X86_64: Wheel = mlx!(
    "mlx-linux-x86_64",
    "mlx-cpu",
    10_486_971,
    &["0e0a24fa2ce8b6b94d2e6a90604e8813aa8e29fcb918bb2aa01cfb6d133d8cee"]
);
static LINUX_AARCH64: Wheel = mlx!(
    "mlx-linux-aarch64",
    "mlx-cpu",
    8_957_465,
    &["1289e85e64af1fd16380bf331438bfe4afe875d27afc3e0bcf35f427c488fadd"]
);
/// For macOS 14, 15 and 26.
static MACOS_AARCH64: Wheel = mlx!(
    "mlx-macos-aarch64",
    "mlx-metal",
    44_958_619,
    &[
        "8019b2db622599267d66cc168b2f0dbf5af929790a6c3b3913e00eabc42a7947",
        "9f0a3cc26d89724434d9684932fc6f3e4e83669d2a895d858ed2c8a55eb84e8b",
        "514df92d41a286895d2564b4b18f4da45096bd7a4a0c47e1042f345ad5a7f936",
    ]
);

/// The package of MLX for a platform, if there is one.
#[must_use]
pub fn mlx(os: &str, arch: &str) -> Option<&'static Wheel> {
    match (os, arch) {
        ("linux", "x86_64") => Some(&LINUX_X86_64),
        ("linux", "aarch64") => Some(&LINUX_AARCH64),
        ("macos", "aarch64") => Some(&MACOS_AARCH64),
        _ => None,
    }
}

impl Wheel {
    /// Fetches the package and opens it into `folder`, which does not exist yet: it appears when
    /// all of it is there. Progress goes to stderr unless `quiet`.
    ///
    /// # Errors
    /// [`AssetError`] if the package cannot be fetched, is not the pinned one, or cannot be stored.
    pub fn fetch(
        &self,
        folder: &Path,
        client: &dyn Client,
        quiet: bool,
    ) -> Result<PathBuf, AssetError> {
        let parent = folder.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(|e| AssetError::io("create", parent, e))?;
        let room = tempfile::Builder::new()
            .prefix(".partial-")
            .tempdir_in(parent)
            .map_err(|e| AssetError::io("create a folder in", parent, e))?;
        let progress = Progress::start(self.asset, quiet);
        let archive = client
            .download(&self.asset.package, room.path(), &mut |bytes| progress.arrived(bytes))
            .map_err(|failure| {
                let folder = folder.to_path_buf();
                AssetError::Fetch(Box::new(NotFetched { asset: self.asset, folder, failure }))
            })?;
        progress.unpacking();
        self.check(&archive)?;
        let files = room.path().join("files");
        open(&archive, &files)?;
        match fs::rename(&files, folder) {
            // Somebody else may have been faster.
            Err(e) if !folder.is_dir() => return Err(AssetError::io("move MLX to", folder, e)),
            _ => progress.done(self.asset),
        }
        Ok(folder.to_path_buf())
    }

    fn check(&self, archive: &Path) -> Result<(), AssetError> {
        let io = |e| AssetError::io("read", archive, e);
        let mut file = File::open(archive).map_err(io)?;
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; 256 << 10]);
        loop {
            match file.read(&mut buffer).map_err(io)? {
                0 => break,
                n => hash.update(&buffer[..n]),
            }
        }
        let got: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if self.sha256.contains(&got.as_str()) {
            return Ok(());
        }
        let file = archive.display().to_string();
        Err(AssetError::WrongHash { file, expected: self.sha256.join(" or "), got })
    }
}

/// Opens an archive whose hash is known into a new folder. Its names are still not trusted.
fn open(archive: &Path, into: &Path) -> Result<(), AssetError> {
    let file = File::open(archive).map_err(|e| AssetError::io("open", archive, e))?;
    let bad = |e: &dyn std::fmt::Display| AssetError::archive(archive, e);
    let mut zip = zip::ZipArchive::new(BufReader::new(file)).map_err(|e| bad(&e))?;
    let mut left = MOST;
    for n in 0..zip.len() {
        let mut entry = zip.by_index(n).map_err(|e| bad(&e))?;
        let Some(name) = entry.enclosed_name() else { return Err(bad(&"a name that leads out")) };
        let path = into.join(name);
        if entry.is_dir() {
            continue;
        }
        let parent = path.parent().unwrap_or(into);
        fs::create_dir_all(parent).map_err(|e| AssetError::io("create", parent, e))?;
        let mut out = File::create(&path).map_err(|e| AssetError::io("create", &path, e))?;
        let written = std::io::copy(&mut (&mut entry).take(left + 1), &mut out)
            .map_err(|e| AssetError::io("write", &path, e))?;
        left = left.checked_sub(written).ok_or_else(|| bad(&"it holds more than 1 GB"))?;
        out.sync_all().map_err(|e| AssetError::io("write", &path, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assets::{Attempt, Failure, Outcome};
    use std::io::Write;

    /// Brings an archive of these files.
    struct Brings(&'static [(&'static str, &'static str)]);

    impl Client for Brings {
        fn download(
            &self,
            package: &Package,
            room: &Path,
            watch: &mut dyn FnMut(u64),
        ) -> Result<PathBuf, Failure> {
            if self.0.is_empty() {
                let command = format!("pip download {}", package.spec());
                let attempts = vec![Attempt { command, outcome: Outcome::NotFound }];
                return Err(Failure::new(package.registry, attempts));
            }
            let path = room.join("package.whl");
            let mut zip = zip::ZipWriter::new(File::create(&path).expect("a file"));
            for (name, text) in self.0 {
                let options = zip::write::SimpleFileOptions::default();
                zip.start_file(*name, options).expect("an entry");
                zip.write_all(text.as_bytes()).expect("written");
            }
            zip.finish().expect("an archive");
            watch(1);
            Ok(path)
        }
    }

    #[test]
    fn every_platform_with_a_package_has_a_hash_that_could_be_one() {
        for (os, arch) in [("linux", "x86_64"), ("linux", "aarch64"), ("macos", "aarch64")] {
            let wheel = mlx(os, arch).expect("a package");
            assert!(!wheel.sha256.is_empty());
            for hash in wheel.sha256 {
                assert!(hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{hash}");
            }
        }
        assert!(mlx("windows", "x86_64").is_none() && mlx("macos", "x86_64").is_none());
    }

    #[test]
    fn another_package_than_the_pinned_one_is_not_opened() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("mlx");
        let error = LINUX_X86_64
            .fetch(&folder, &Brings(&[("mlx/lib/libmlx.so", "not it")]), true)
            .expect_err("not the pinned one");
        assert!(matches!(error, AssetError::WrongHash { .. }), "{error}");
        let none = LINUX_X86_64.fetch(&folder, &Brings(&[]), true).expect_err("no client");
        assert!(matches!(none, AssetError::Fetch(_)), "{none}");
        assert!(!folder.exists());
    }

    #[test]
    fn an_archive_is_opened_with_its_folders_and_no_name_leads_out() {
        let home = tempfile::tempdir().expect("a folder");
        let package = &LINUX_X86_64.asset.package;
        let files = Brings(&[("mlx/lib/a", "one"), ("mlx_cpu.libs/b", "two")]);
        let archive = files.download(package, home.path(), &mut |_| {}).expect("an archive");
        let into = home.path().join("files");
        open(&archive, &into).expect("opened");
        assert_eq!(fs::read_to_string(into.join("mlx/lib/a")).expect("a file"), "one");
        assert_eq!(fs::read_to_string(into.join("mlx_cpu.libs/b")).expect("a file"), "two");
        let archive = Brings(&[("../out", "x")]).download(package, home.path(), &mut |_| {});
        let error = open(&archive.expect("an archive"), &into).expect_err("it leads out");
        assert!(error.to_string().contains("leads out"), "{error}");
        assert!(!home.path().join("out").exists());
    }
}
