//! The life of an asset in the cache.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, SystemTime};

use super::super::cache::sweep;
use super::*;

/// A client that brings the given bytes and counts its calls.
struct Fake {
    archive: Vec<u8>,
    calls: AtomicUsize,
}

impl Fake {
    fn good() -> Self {
        Self { archive: zip_of(&good_entries()), calls: AtomicUsize::new(0) }
    }

    fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }
}

impl Client for Fake {
    fn download(
        &self,
        package: &Package,
        room: &Path,
        watch: &mut dyn FnMut(u64),
    ) -> Result<PathBuf, Failure> {
        assert!(names_in(room).is_empty(), "the room is not empty");
        self.calls.fetch_add(1, SeqCst);
        // Long enough for other threads to arrive.
        std::thread::sleep(Duration::from_millis(20));
        watch(package.bytes);
        let path = room.join("package.whl");
        fs::write(&path, &self.archive).expect("write an archive");
        Ok(path)
    }
}

/// A client that is never there.
struct Absent;

impl Client for Absent {
    fn download(
        &self,
        package: &Package,
        _: &Path,
        _: &mut dyn FnMut(u64),
    ) -> Result<PathBuf, Failure> {
        let command = format!("pip download {}", package.spec());
        let attempts = vec![Attempt { command, outcome: Outcome::NotFound }];
        Err(Failure::new(package.registry, attempts))
    }
}

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|meta| meta.modified()).expect("time of change")
}

fn set_modified(path: &Path, at: SystemTime) {
    let file = fs::File::options().write(true).open(path).expect("open for writing");
    file.set_modified(at).expect("set the time of change");
}

#[test]
fn an_asset_is_fetched_once_and_then_found() {
    let (dir, client) = (temp(), Fake::good());
    let cache = Cache::new(dir.path().join("not/yet/there"));
    assert_eq!(cache.cached(&ZIPPED), None);
    let folder = cache.ensure(&ZIPPED, &client, true).expect("fetch");
    assert_eq!(folder, dir.path().join("not/yet/there/assets/zipped"));
    assert_good(&folder);
    assert_eq!(cache.cached(&ZIPPED), Some(folder.clone()));
    assert_eq!(cache.ensure(&ZIPPED, &client, true).expect("find"), folder);
    assert_eq!(cache.verify(&ZIPPED).expect("verify"), folder);
    assert_eq!(client.calls(), 1);
    // Nothing temporary stays behind.
    let left = names_in(&dir.path().join("not/yet/there/assets"));
    assert_eq!(left, HashSet::from(["zipped".into(), ".zipped.lock".into()]));
    let files = names_in(&folder);
    assert_eq!(
        files,
        HashSet::from(["abc.txt".into(), "million.bin".into(), ".frit-checked".into()])
    );
}

#[test]
fn a_file_of_the_wrong_size_or_an_absent_one_is_fetched_again() {
    let (dir, client) = (temp(), Fake::good());
    let cache = Cache::new(dir.path());
    let folder = cache.ensure(&ZIPPED, &client, true).expect("fetch");
    fs::write(folder.join("million.bin"), b"short").expect("spoil a file");
    assert_eq!(cache.cached(&ZIPPED), None);
    assert_good(&cache.ensure(&ZIPPED, &client, true).expect("mend"));
    assert_eq!(client.calls(), 2);
    fs::remove_file(folder.join("abc.txt")).expect("remove a file");
    assert!(matches!(cache.verify(&ZIPPED), Err(AssetError::Absent { .. })));
    assert_good(&cache.ensure(&ZIPPED, &client, true).expect("mend"));
    assert_eq!(client.calls(), 3);
    assert_good(&cache.ensure(&ZIPPED, &client, true).expect("find"));
    assert_eq!(client.calls(), 3);
}

#[test]
fn the_stamp_spares_the_hash_and_verify_ignores_the_stamp() {
    let (dir, client) = (temp(), Fake::good());
    let cache = Cache::new(dir.path());
    let folder = cache.ensure(&ZIPPED, &client, true).expect("fetch");
    let file = folder.join("abc.txt");
    let at = modified(&file);
    fs::write(&file, b"xyz").expect("spoil a file");
    set_modified(&file, at);
    // Same size, same time: only the hash can tell, and only verify computes it.
    assert_eq!(cache.cached(&ZIPPED), Some(folder.clone()));
    let Err(AssetError::WrongHash { expected, .. }) = cache.verify(&ZIPPED) else {
        panic!("verify does not see the change")
    };
    assert_eq!(expected, ABC);
    // A failed verify takes the stamp away, so that the file is replaced.
    assert_eq!(cache.cached(&ZIPPED), None);
    assert_good(&cache.ensure(&ZIPPED, &client, true).expect("mend"));
    assert_eq!(client.calls(), 2);
}

#[test]
fn another_time_of_change_costs_a_hash_and_no_download() {
    let (dir, client) = (temp(), Fake::good());
    let cache = Cache::new(dir.path());
    let folder = cache.ensure(&ZIPPED, &client, true).expect("fetch");
    let file = folder.join("abc.txt");
    let later = modified(&file) + Duration::from_secs(7);
    set_modified(&file, later);
    let stamp = fs::read(folder.join(".frit-checked")).expect("read the stamp");
    assert_eq!(cache.ensure(&ZIPPED, &client, true).expect("find"), folder);
    assert_ne!(fs::read(folder.join(".frit-checked")).expect("read the stamp"), stamp);
    // Other bytes with another time are seen at once.
    fs::write(&file, b"xyz").expect("spoil a file");
    set_modified(&file, later + Duration::from_secs(7));
    assert_eq!(cache.cached(&ZIPPED), None);
    assert_eq!(client.calls(), 1);
}

#[test]
fn a_folder_filled_by_hand_is_used_and_a_useless_stamp_is_not_believed() {
    let dir = temp();
    let cache = Cache::new(dir.path());
    let folder = cache.folder(&ZIPPED);
    fs::create_dir_all(&folder).expect("make the folder");
    fs::write(folder.join("abc.txt"), b"abc").expect("write abc.txt");
    fs::write(folder.join("million.bin"), million()).expect("write million.bin");
    fs::write(folder.join(".frit-checked"), b"frit 1\n").expect("write a stamp");
    assert_eq!(cache.ensure(&ZIPPED, &Absent, true).expect("find"), folder);
}

#[test]
fn mending_a_folder_keeps_what_else_lies_in_it() {
    let (dir, client) = (temp(), Fake::good());
    let cache = Cache::new(dir.path());
    let folder = cache.folder(&ZIPPED);
    fs::create_dir_all(&folder).expect("make the folder");
    fs::write(folder.join("notes.txt"), b"mine").expect("write notes");
    fs::write(folder.join("abc.txt"), b"wrong").expect("write abc.txt");
    assert_good(&cache.ensure(&ZIPPED, &client, true).expect("mend"));
    assert_eq!(fs::read(folder.join("notes.txt")).expect("read notes"), b"mine");
}

#[test]
fn a_wrong_package_leaves_nothing_behind() {
    let mut entries = good_entries();
    entries[1].1[500_000] = b'b';
    let client = Fake { archive: zip_of(&entries), calls: AtomicUsize::new(0) };
    let dir = temp();
    let cache = Cache::new(dir.path());
    let error = cache.ensure(&ZIPPED, &client, true).expect_err("wrong bytes");
    assert!(matches!(error, AssetError::WrongHash { .. }), "{error}");
    assert_eq!(names_in(&dir.path().join("assets")), HashSet::from([".zipped.lock".into()]));
}

#[test]
fn many_at_once_download_once() {
    let (dir, client) = (temp(), Fake::good());
    let cache = Cache::new(dir.path());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_good(&cache.ensure(&ZIPPED, &client, true).expect("fetch")));
        }
    });
    assert_eq!(client.calls(), 1);
}

#[test]
fn without_a_lock_the_first_to_finish_wins_and_the_others_use_its_files() {
    let dir = temp();
    let cache = Cache::new(dir.path());
    fs::create_dir_all(dir.path().join("assets")).expect("make the folder");
    std::thread::scope(|scope| {
        for turn in 0..8 {
            let (cache, dir) = (&cache, dir.path());
            scope.spawn(move || {
                let files = dir.join(format!("files-{turn}"));
                fs::create_dir(&files).expect("make a folder");
                fs::write(files.join("abc.txt"), b"abc").expect("write abc.txt");
                fs::write(files.join("million.bin"), million()).expect("write million.bin");
                let folder = cache.publish(&ZIPPED, &files).expect("publish");
                assert_good(&folder);
            });
        }
    });
    let losers = names_in(dir.path()).iter().filter(|name| name.starts_with("files-")).count();
    assert_eq!(losers, 7, "more than one folder was moved");
}

#[test]
fn only_old_temporary_folders_are_swept() {
    let dir = temp();
    for name in [".partial-x", "zipped"] {
        fs::create_dir_all(dir.path().join(name).join("files")).expect("make a folder");
    }
    sweep(dir.path(), Duration::from_secs(3600));
    assert_eq!(names_in(dir.path()).len(), 2);
    sweep(dir.path(), Duration::ZERO);
    assert_eq!(names_in(dir.path()), HashSet::from(["zipped".into()]));
}

#[test]
fn the_error_without_a_client_says_what_was_tried_and_what_helps() {
    let dir = temp();
    let cache = Cache::new(dir.path());
    let error = cache.ensure(&ZIPPED, &Absent, true).expect_err("no client");
    let wanted = format!(
        "cannot fetch Zipped test files (package zip-pkg 1.2.3)\n\
         tried:\n\
         \x20 pip download zip-pkg==1.2.3: no such program\n\
         pip is not installed\n\
         what helps:\n\
         \x20 - install Python with pip (a Python without pip gets it by `python3 -m ensurepip` \
         or from the system's package manager)\n\
         \x20 - or put abc.txt, million.bin into {}\n\
         \x20 - or set FRIT_HOME to a folder that has assets/zipped already\n\
         \x20 - or pass a file of your own",
        cache.folder(&ZIPPED).display()
    );
    assert_eq!(error.to_string(), wanted);
}

#[test]
fn a_home_that_cannot_be_made_is_named() {
    let dir = temp();
    let home = dir.path().join("file");
    fs::write(&home, b"in the way").expect("write a file");
    let error = Cache::new(&home).ensure(&ZIPPED, &Fake::good(), true).expect_err("no folder");
    let start = format!("cannot create {}: ", home.join("assets").display());
    assert!(error.to_string().starts_with(&start), "{error}");
}
