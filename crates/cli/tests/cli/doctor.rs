//! `frit doctor`.

use crate::common::{json, run, status, stdout, temp};

#[test]
fn it_tells_versions_threads_backends_and_an_empty_cache_as_json() {
    let home = temp();
    let output = run(home.path(), &["doctor", "--json"]);
    assert_eq!(status(&output), 0);
    let json = json(&output);
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(json["arch"], std::env::consts::ARCH);
    assert!(json["threads"].as_u64().is_some_and(|n| n > 0));
    let backend = |name| {
        let list = json["backends"].as_array().expect("a list");
        list.iter().find(|b| b["name"] == name).expect(name)["available"].clone()
    };
    assert_eq!((backend("cpu"), backend("reference")), (true.into(), true.into()));
    assert_eq!((backend("mlx"), backend("gpu")), (false.into(), false.into()));
    assert_eq!(json["cache"]["home"], home.path().to_str().expect("a plain path"));
    let assets = json["cache"]["assets"].as_array().expect("a list");
    assert!(assets.iter().any(|a| a["id"] == "whisper-tiny.en"));
    assert!(assets.iter().all(|a| a["folder"].is_null()), "nothing is cached");
    // No program can be found in these tests.
    assert!(json["clients"].as_array().is_some_and(|c| c.iter().all(|c| c["version"].is_null())));
}

#[test]
fn the_instruction_set_and_the_threads_follow_the_environment() {
    let home = temp();
    let mut command = crate::common::frit(home.path());
    command.args(["doctor", "--json"]).env("FRIT_SIMD", "portable").env("FRIT_THREADS", "3");
    let json = json(&command.output().expect("run frit"));
    assert_eq!(json["processor"]["isa"], "portable");
    assert_eq!(json["threads"], 3);
}

#[test]
fn it_tells_the_same_as_text() {
    let text = stdout(&run(temp().path(), &["doctor"]));
    for words in ["frit ", "threads", "reference", "not built in", "whisper-tiny.en", "not found"] {
        assert!(text.contains(words), "{words}\n{text}");
    }
}
