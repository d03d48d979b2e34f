//! Arguments: help, versions, bad usage, and a reader that goes away.

use std::process::Stdio;

use crate::common::{frit, run, status, stderr, stdout, temp};

#[test]
fn without_a_command_it_prints_help() {
    let home = temp();
    let bare = run(home.path(), &[]);
    let help = run(home.path(), &["--help"]);
    assert_eq!((status(&bare), status(&help)), (0, 0));
    assert_eq!(stdout(&bare), stdout(&help));
    for command in [
        "demo",
        "transcribe",
        "generate",
        "chat",
        "embed",
        "bench",
        "eval",
        "forward",
        "inspect",
        "run",
        "fuse",
        "verify",
        "doctor",
    ] {
        assert!(stdout(&bare).contains(command), "{command}");
        let help = run(home.path(), &[command, "--help"]);
        assert_eq!(status(&help), 0, "{command}");
        assert!(stdout(&help).contains("Example"), "{command} teaches by example");
    }
}

#[test]
fn it_tells_its_version() {
    let version = run(temp().path(), &["--version"]);
    assert_eq!(stdout(&version), format!("frit {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn bad_usage_ends_with_status_2_and_nothing_on_the_standard_output() {
    let home = temp();
    for arguments in [
        &["dance"][..],
        &["--dance"],
        &["eval"],
        &["eval", "x", "--backend", "abacus"],
        &["eval", "x", "--threads", "0"],
        &["eval", "x", "--threads", "many"],
        &["forward", "model"],
        &["inspect"],
        &["transcribe"],
        &["transcribe", "a.wav", "--format", "smoke"],
        &["transcribe", "a.wav", "--format", "srt", "--json"],
        &["transcribe", "a.wav", "b.wav", "--format", "srt"],
        &["transcribe", "a.wav", "--language", "Atlantean"],
        &["transcribe", "a.wav", "--temperature", "nan"],
        &["bench", "--dtype", "i8"],
        &["bench", "--seconds", "-1"],
        &["demo", "--runs", "0"],
        &["doctor", "--threads", "2"],
    ] {
        let output = run(home.path(), arguments);
        assert_eq!(status(&output), 2, "{arguments:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{arguments:?}");
        assert!(stderr(&output).contains("error: "), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn a_case_that_nobody_benches_is_answered_with_those_that_are() {
    let output = run(temp().path(), &["bench", "--only", "perpetuum mobile"]);
    assert_eq!(status(&output), 1);
    let said = stderr(&output);
    assert!(said.contains("perpetuum mobile") && said.contains("rms_norm_decode"), "{said}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let home = temp();
    let mut child = frit(home.path())
        .args(["doctor", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run frit");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("wait for frit");
    assert_eq!((status(&output), stderr(&output)), (0, String::new()));
}
