//! Files as shared bytes: mapped into memory, so that opening a large one costs nothing and
//! weights that nobody reads are never fetched from the disk.

use crate::LoadError;
use std::{fs, io, path::Path, sync::Arc};

/// Bytes that many values are windows of.
pub(crate) type Shared = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Maps a whole file for reading.
pub(crate) fn map(path: &Path) -> Result<Shared, LoadError> {
    // Looked at before it is opened: opening a named pipe would wait for a writer.
    let kind = fs::metadata(path).map_err(|e| LoadError::io("open", path, e))?;
    if !kind.is_file() {
        let cause = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
        return Err(LoadError::io("open", path, cause));
    }
    let file = fs::File::open(path).map_err(|e| LoadError::io("open", path, e))?;
    let length = file.metadata().map_err(|e| LoadError::io("open", path, e))?.len();
    if length == 0 {
        // Some systems refuse to map nothing.
        return Ok(Arc::new(Vec::new()));
    }
    // SAFETY: the mapping is read-only, private to this process and owned by the `Arc`, so it
    // outlives every slice of it. What the compiler cannot see is another process that changes or
    // cuts the file meanwhile; the crate's documentation asks users not to, as every user of
    // mapped weights has to.
    let mapping = unsafe { memmap2::Mmap::map(&file) };
    Ok(Arc::new(mapping.map_err(|e| LoadError::io("map", path, e))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_file_has_the_bytes_of_the_file() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("some");
        fs::write(&path, b"\x01\x02\x03").expect("written");
        let bytes = map(&path).expect("mapped");
        assert_eq!((*bytes).as_ref(), [1, 2, 3]);
    }

    #[test]
    fn an_empty_file_is_empty_bytes() {
        let file = tempfile::NamedTempFile::new().expect("file");
        assert!((*map(file.path()).expect("mapped")).as_ref().is_empty());
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error_with_its_path() {
        let folder = tempfile::tempdir().expect("folder");
        for path in [folder.path().join("absent"), folder.path().to_path_buf()] {
            let error = map(&path).err().expect("refused").to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
    }
}
