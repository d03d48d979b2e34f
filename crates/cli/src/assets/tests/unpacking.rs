//! Packages good and bad.

use super::super::unpack::unpack;
use super::*;

/// Unpacks `archive` as `asset` and returns what came of it and the folder.
fn unpacked(asset: &Asset, archive: &[u8]) -> (Result<(), AssetError>, tempfile::TempDir) {
    let dir = temp();
    let path = dir.path().join("package");
    fs::write(&path, archive).expect("write an archive");
    fs::create_dir(dir.path().join("files")).expect("make a folder");
    (unpack(asset, &path, &dir.path().join("files")), dir)
}

/// Both kinds of archive from the same entries.
fn both(entries: &[(&str, Vec<u8>)]) -> [(&'static Asset, Vec<u8>); 2] {
    [(&ZIPPED, zip_of(entries)), (&TARRED, tgz_of(entries))]
}

#[test]
fn only_the_wanted_files_come_out_of_an_archive() {
    for (asset, archive) in both(&good_entries()) {
        let (result, dir) = unpacked(asset, &archive);
        result.expect("unpack a good archive");
        let files = dir.path().join("files");
        assert_good(&files);
        assert_eq!(names_in(&files), HashSet::from(["abc.txt".into(), "million.bin".into()]));
    }
}

#[test]
fn other_bytes_of_the_same_size_are_refused() {
    let mut entries = good_entries();
    entries[2].1 = b"abd".to_vec();
    for (asset, archive) in both(&entries) {
        let (result, _dir) = unpacked(asset, &archive);
        let Err(AssetError::WrongHash { file, expected, got }) = result else {
            panic!("{}: {result:?}", asset.id)
        };
        assert!(file.starts_with("pkg/deep/abc.txt of "), "{file}");
        assert_eq!(expected, ABC);
        // SHA-256 of "abd", from coreutils.
        assert_eq!(got, "a52d159f262b2c6ddb724a61840befc36eb30c88877a4030b65cbe86298449c9");
    }
}

#[test]
fn a_longer_or_a_shorter_file_is_refused_and_never_written_past_its_size() {
    for (bytes, wanted_got) in [(b"abcd".to_vec(), 4), (b"ab".to_vec(), 2), (vec![], 0)] {
        let mut entries = good_entries();
        entries[2].1 = bytes;
        for (asset, archive) in both(&entries) {
            let (result, dir) = unpacked(asset, &archive);
            let Err(AssetError::WrongSize { expected: 3, got, .. }) = result else {
                panic!("{}: {result:?}", asset.id)
            };
            assert_eq!(got, wanted_got);
            let written = fs::metadata(dir.path().join("files/abc.txt")).expect("look at the file");
            assert!(written.len() <= 3);
        }
    }
    // A bomb is read one buffer further than the size that is known, not to its end.
    let mut entries = good_entries();
    entries[2].1 = vec![0; 64 << 20];
    for (asset, archive) in both(&entries) {
        let (result, _dir) = unpacked(asset, &archive);
        let Err(AssetError::WrongSize { expected: 3, got, .. }) = result else {
            panic!("{}: {result:?}", asset.id)
        };
        assert!(got <= 1 << 20, "read {got} bytes");
    }
}

#[test]
fn an_absent_file_is_named() {
    let entries = &good_entries()[..2];
    for (asset, archive) in both(entries) {
        let (result, _dir) = unpacked(asset, &archive);
        let text = result.expect_err("abc.txt is absent").to_string();
        let spec = asset.package.spec();
        assert_eq!(text, format!("package {spec} has no file pkg/deep/abc.txt"));
    }
}

#[test]
fn names_that_only_resemble_a_wanted_one_are_neither_taken_nor_written() {
    let hostile = ["../abc.txt", "/pkg/deep/abc.txt", "pkg/deep/../deep/abc.txt", "abc.txt"];
    let mut entries: Vec<_> = hostile.map(|path| (path, b"abc".to_vec())).into();
    entries.push(("pkg/million", million()));
    for (asset, archive) in both(&entries) {
        let (result, dir) = unpacked(asset, &archive);
        assert!(matches!(result, Err(AssetError::NoMember { .. })), "{}: {result:?}", asset.id);
        assert!(!names_in(&dir.path().join("files")).contains("abc.txt"));
        assert_eq!(names_in(dir.path()), HashSet::from(["files".into(), "package".into()]));
    }
}

#[test]
fn a_link_with_a_wanted_name_is_not_followed() {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "pkg/deep/abc.txt", "/etc/hostname").expect("append a link");
    let archive = gzip(&tar.into_inner().expect("finish a tar archive"));
    let (result, dir) = unpacked(&TARRED, &archive);
    assert!(matches!(result, Err(AssetError::NoMember { .. })), "{result:?}");
    assert!(names_in(&dir.path().join("files")).is_empty());
}

#[test]
fn an_archive_cut_anywhere_gives_an_error_or_the_right_files() {
    for (asset, archive) in both(&good_entries()) {
        let mut errors = 0;
        for length in (0..archive.len()).step_by(37) {
            let (result, dir) = unpacked(asset, &archive[..length]);
            match result {
                Ok(()) => assert_good(&dir.path().join("files")),
                Err(_) => errors += 1,
            }
        }
        assert!(errors * 37 > archive.len() / 2, "{}: only {errors} errors", asset.id);
        let (result, _dir) = unpacked(asset, &archive[..archive.len() / 2]);
        assert!(matches!(result, Err(AssetError::Archive { .. })), "{}: {result:?}", asset.id);
    }
}

#[test]
fn noise_is_no_archive() {
    let noise: Vec<u8> =
        (0..9000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for asset in [&ZIPPED, &TARRED] {
        for bytes in [&noise[..], &[]] {
            let (result, _dir) = unpacked(asset, bytes);
            let text = result.expect_err("noise").to_string();
            assert!(text.contains("package: not a readable package: "), "{text}");
        }
    }
}

#[test]
fn an_archive_header_that_claims_a_vast_size_is_refused() {
    let mut header = tar::Header::new_gnu();
    header.set_path("pkg/deep/abc.txt").expect("set a path");
    header.set_size(1 << 50);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(vec![b'a'; 1024]);
    let (result, _dir) = unpacked(&TARRED, &gzip(&bytes));
    assert!(matches!(result, Err(AssetError::WrongSize { .. })), "{result:?}");

    let zip = zip_of(&good_entries());
    // The size of an entry stands at byte 24 of its central record.
    let record = zip.windows(4).rposition(|four| four == b"PK\x01\x02").expect("a record");
    let mut vast = zip.clone();
    vast[record + 24..record + 28].copy_from_slice(&0xffff_fff0_u32.to_le_bytes());
    let (result, dir) = unpacked(&ZIPPED, &vast);
    // The claim is not believed: either the archive is refused or the three bytes come out.
    match result {
        Ok(()) => assert_good(&dir.path().join("files")),
        Err(error) => assert!(matches!(error, AssetError::Archive { .. }), "{error}"),
    }
}

#[test]
fn a_tar_archive_is_not_read_without_end() {
    for (filler, good) in [(1 << 20, true), (65 << 20, false)] {
        let mut entries = vec![("pkg/filler", vec![0; filler])];
        entries.extend(good_entries());
        let (result, _dir) = unpacked(&TARRED, &tgz_of(&entries));
        assert_eq!(result.is_ok(), good, "{filler}: {result:?}");
    }
}
