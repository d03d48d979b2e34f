//! Tests of fetching with assets of a few bytes, self-made packages and fake package clients.
//!
//! The files are the messages whose hashes the SHA-256 standard publishes, so that the expected
//! hashes do not come from the code under test.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::*;

mod caching;
#[cfg(unix)]
mod clients;
mod unpacking;

const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
const MILLION_A: &str = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

const MEMBERS: &[Member] = &[
    Member { path: "pkg/deep/abc.txt", file: "abc.txt", sha256: ABC, bytes: 3 },
    Member { path: "pkg/million", file: "million.bin", sha256: MILLION_A, bytes: 1_000_000 },
];

static ZIPPED: Asset = Asset {
    id: "zipped",
    title: "Zipped test files",
    licence: "none",
    instead: "pass a file of your own",
    package: Package { registry: Registry::PyPi, name: "zip-pkg", version: "1.2.3", bytes: 4096 },
    members: MEMBERS,
};

static TARRED: Asset = Asset {
    id: "tarred",
    package: Package { registry: Registry::Npm, name: "tar-pkg", version: "4.5.6", bytes: 4096 },
    ..ZIPPED
};

fn million() -> Vec<u8> {
    vec![b'a'; 1_000_000]
}

fn good_entries() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("pkg/other.txt", b"not wanted".to_vec()),
        ("pkg/million", million()),
        ("pkg/deep/abc.txt", b"abc".to_vec()),
    ]
}

fn zip_of(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    for (path, bytes) in entries {
        zip.start_file(*path, zip::write::SimpleFileOptions::default()).expect("start a zip entry");
        zip.write_all(bytes).expect("write a zip entry");
    }
    zip.finish().expect("finish a zip archive").into_inner()
}

fn tgz_of(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in entries {
        let mut header = tar::Header::new_ustar();
        // Written by hand, because the writer refuses the hostile paths that a reader has to
        // survive.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, bytes.as_slice()).expect("append a tar entry");
    }
    gzip(&tar.into_inner().expect("finish a tar archive"))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(bytes).expect("compress");
    gz.finish().expect("finish a gzip stream")
}

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("make a temporary folder")
}

fn names_in(folder: &Path) -> HashSet<String> {
    let entries = fs::read_dir(folder).expect("list a folder");
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn assert_good(folder: &Path) {
    assert_eq!(fs::read(folder.join("abc.txt")).expect("read abc.txt"), b"abc");
    assert_eq!(fs::read(folder.join("million.bin")).expect("read million.bin"), million());
}

#[test]
fn the_table_is_well_formed() {
    let ids: HashSet<_> = ALL.iter().map(|asset| asset.id).collect();
    assert_eq!(ids.len(), ALL.len(), "an id stands twice");
    let plain = |text: &str| {
        let letter = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        !text.is_empty() && !text.starts_with('.') && text.chars().all(letter)
    };
    for asset in ALL {
        assert!(plain(asset.id) && plain(asset.package.name), "{}", asset.id);
        assert!(plain(asset.package.version), "{}", asset.id);
        assert!(asset.package.bytes > 1_000_000 && !asset.members.is_empty(), "{}", asset.id);
        let files: HashSet<_> = asset.members.iter().map(|member| member.file).collect();
        assert_eq!(files.len(), asset.members.len(), "{}", asset.id);
        for Member { path, file, sha256, bytes } in asset.members {
            assert!(plain(file) && path.ends_with(&format!("/{file}")), "{path}");
            let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
            assert!(sha256.len() == 64 && sha256.chars().all(hex), "{path}");
            assert!(*bytes > 0, "{path}");
        }
    }
}

#[test]
fn no_source_of_this_module_names_a_host() {
    let sources = [
        include_str!("../assets.rs"),
        include_str!("cache.rs"),
        include_str!("failure.rs"),
        include_str!("fetch.rs"),
        include_str!("progress.rs"),
        include_str!("table.rs"),
        include_str!("unpack.rs"),
    ];
    for source in sources {
        for word in ["://", ".org", ".com", ".net", "www."] {
            assert!(!source.contains(word), "{word} stands in {}", &source[..60]);
        }
    }
}

// What counts as an absolute path is another matter on Windows.
#[cfg(unix)]
#[test]
fn the_cache_folder_follows_the_variables_and_the_platform() {
    type Case<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>, &'a str, &'a str);
    let all = [("FRIT_HOME", "/f"), ("XDG_CACHE_HOME", "/x"), ("LOCALAPPDATA", "/l")];
    let cases: [Case; 12] = [
        (&all, Some("/u"), "linux", "/f"),
        (&all, Some("/u"), "macos", "/f"),
        (&all, Some("/u"), "windows", "/f"),
        (&all[1..], Some("/u"), "linux", "/x/frit"),
        (&all[1..], Some("/u"), "macos", "/u/Library/Caches/frit"),
        (&all[1..], Some("/u"), "windows", "/l/frit"),
        (&[], Some("/u"), "linux", "/u/.cache/frit"),
        (&[], Some("/u"), "freebsd", "/u/.cache/frit"),
        (&[], Some("/u"), "windows", "/u/AppData/Local/frit"),
        (&[("XDG_CACHE_HOME", "relative")], Some("/u"), "linux", "/u/.cache/frit"),
        (&[("FRIT_HOME", ""), ("XDG_CACHE_HOME", "")], Some("/u"), "linux", "/u/.cache/frit"),
        (&[], None, "linux", ".frit"),
    ];
    for (vars, user, os, wanted) in cases {
        let var = |name: &str| {
            vars.iter().find(|(found, _)| *found == name).map(|(_, value)| OsString::from(value))
        };
        let got = home_from(&var, user.map(PathBuf::from), os);
        assert_eq!(got, Path::new(wanted), "{vars:?} {user:?} {os}");
    }
}
