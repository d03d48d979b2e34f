//! `frit eval` on cases of a few numbers.

use std::fs;
use std::path::Path;

use crate::common::{doubling, floats, json, run, status, stderr, stdout, temp, write};
use frit::graph::DType;
use frit::load::safetensors;

const DOUBLED: [f32; 4] = [2.0, 4.0, 6.0, 8.0];

/// Every way to run a case.
const MACHINES: [&[&str]; 4] = [
    &["--threads", "1"],
    &["--threads", "2"],
    &["--composed", "--threads", "2"],
    &["--backend", "reference"],
];

/// One good case, one that expects something else, and whatever else can be wrong with a file.
fn fill(folder: &Path) {
    let file = |name: &str| folder.join("deep/er").join(format!("{name}.safetensors"));
    doubling(file("good"), &DOUBLED, &[]);
    doubling(file("just_good"), &DOUBLED.map(|x| x * 1.4), &[("rtol", "0.286")]);
    doubling(file("other_number"), &[2.0, 4.0, 6.0, 9.0], &[]);
    doubling(file("other_shape"), &[2.0; 3], &[]);
    doubling(file("not_a_number"), &[2.0, 4.0, 6.0, f32::NAN], &[]);
    doubling(file("unknown_op"), &DOUBLED, &[("op", "transmute")]);
    doubling(
        file("unknown_option"),
        &DOUBLED,
        &[("options", r#"{"equation": "i,->i", "flux": 1}"#)],
    );
    doubling(file("wrong_option"), &DOUBLED, &[("options", r#"{"equation": 7}"#)]);
    doubling(file("no_json"), &DOUBLED, &[("options", "{")]);
    doubling(file("no_bound"), &DOUBLED, &[("atol", "none")]);
    let x = floats(&[1, 2], &[3.0, 4.0]);
    let norm = [("op", "rms_norm"), ("rtol", "1e-5"), ("atol", "1e-6")];
    write(&file("unknown_operand"), &[("x", &x), ("wait", &x), ("expected", &x)], &norm);
    write(&file("missing_operand"), &[("weight", &x), ("expected", &x)], &norm);
    write(&file("wrong_shape"), &[("x", &x), ("weight", &x), ("expected", &x)], &norm);
    write(&file("no_expected"), &[("x", &x)], &norm);
    write(&file("no_case"), &[("x", &x)], &[]);
    fs::write(file("broken"), b"not a safetensors file").expect("write a file");
    fs::write(folder.join("deep/readme.txt"), "no case").expect("write a file");
}

/// What has to be said of each case that fails.
const SAYS: [(&str, &str); 14] = [
    ("other_number", "at 3: got 8, expected 9"),
    ("other_shape", "shape [4], expected [3]"),
    ("not_a_number", "expected NaN"),
    ("unknown_op", "there is no operation `transmute`"),
    ("unknown_option", "unknown options: flux"),
    ("wrong_option", "option `equation` must be a text"),
    ("no_json", "its `options`: "),
    ("no_bound", "`atol`"),
    ("unknown_operand", "unknown operand `wait`; its operands are x, weight"),
    ("missing_operand", "operand `x` is missing"),
    ("wrong_shape", "[rms_norm] "),
    ("no_expected", "no tensor `expected`"),
    ("no_case", "no `op`"),
    ("broken", "broken.safetensors"),
];

#[test]
fn cases_are_judged_on_every_machine_and_each_failure_says_why() {
    let home = temp();
    fill(home.path());
    for machine in MACHINES {
        let output = run(home.path(), &[&["eval", "deep", "--json"], machine].concat());
        assert_eq!(status(&output), 1, "{}", stderr(&output));
        let json = json(&output);
        assert_eq!((json["passed"].as_u64(), json["total"].as_u64()), (Some(2), Some(16)));
        let cases = json["cases"].as_array().expect("a list");
        let case = |name: &str| cases.iter().find(|c| c["name"] == name).expect("a case");
        for good in ["good", "just_good"] {
            assert_eq!(case(good)["passed"], true, "{machine:?}");
        }
        assert_eq!(case("good")["max_abs"], 0.0);
        for (name, says) in SAYS {
            let error = case(name)["error"].as_str().unwrap_or_default();
            assert!(case(name)["passed"] == false && error.contains(says), "{name}: {error}");
        }
    }
}

#[test]
fn the_text_has_failures_and_a_table_by_operation() {
    let home = temp();
    fill(home.path());
    let output = run(home.path(), &["eval", "deep/er", "--composed", "--threads", "1"]);
    let text = stdout(&output);
    assert!(text.contains("FAILED einsum/other_number (doubling): max abs 1.000e0"), "{text}");
    let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    for wanted in [["einsum", "2", "9"], ["rms_norm", "0", "4"], ["transmute", "0", "1"]] {
        assert!(rows.iter().any(|row| row == &wanted), "{wanted:?}\n{text}");
    }
    assert!(text.ends_with("2 of 16 passed on cpu, composed, 1 thread\n"), "{text}");
}

#[test]
fn good_cases_end_with_status_0() {
    let home = temp();
    fill(home.path());
    let file = "deep/er/good.safetensors";
    // The same file twice is one case.
    let output = run(home.path(), &["eval", file, file, "--json"]);
    assert_eq!((status(&output), &json(&output)["total"]), (0, &1.into()));
}

#[test]
fn outputs_are_written_by_operation_and_name_in_the_type_of_the_operands() {
    let home = temp();
    let x = floats(&[1, 2], &[3.0, 4.0]).cast(DType::BF16);
    let metadata = [("op", "sdpa"), ("options", r#"{"causal": false, "window": null}"#)];
    let q = x.reshaped([1, 1, 1, 2]).expect("two numbers");
    write(&home.path().join("c/one.safetensors"), &[("q", &q), ("k", &q), ("v", &q)], &metadata);
    doubling(home.path().join("c/two.safetensors"), &[0.0; 4], &[]);
    for machine in MACHINES {
        let output = run(home.path(), &[&["eval", "c", "--out", "o"], machine].concat());
        assert_eq!(status(&output), 0, "{}{}", stdout(&output), stderr(&output));
        // One key: attention gives its value back, exactly.
        let one = safetensors::read(home.path().join("o/sdpa/one.safetensors")).expect("written");
        assert_eq!(one.params.get("out"), Some(&q));
        let two = safetensors::read(home.path().join("o/einsum/two.safetensors")).expect("written");
        let out = two.params.get("out").expect("one tensor `out`");
        assert_eq!((out.to_f32(), two.params.len()), (DOUBLED.to_vec(), 1));
        fs::remove_dir_all(home.path().join("o")).expect("remove a folder");
    }
}

#[test]
fn no_case_writes_outside_of_the_folder_or_over_another() {
    let home = temp();
    doubling(home.path().join("c/a/x.safetensors"), &DOUBLED, &[]);
    doubling(home.path().join("c/b/x.safetensors"), &DOUBLED, &[]);
    doubling(home.path().join("c/c/y.safetensors"), &DOUBLED, &[("op", "../../up")]);
    let output = run(home.path(), &["eval", "c", "--out", "d/o", "--json"]);
    assert_eq!((status(&output), &json(&output)["passed"]), (1, &1.into()));
    assert!(stdout(&output).contains("an earlier case wrote this file"));
    assert!(!home.path().join("up").exists() && !home.path().join("d/up").exists());
}

#[test]
fn a_path_that_is_not_there_or_holds_no_case_is_named() {
    let home = temp();
    for (path, says) in [("nowhere", "nowhere"), (".", "no .safetensors file")] {
        let output = run(home.path(), &["eval", path]);
        assert_eq!((status(&output), stdout(&output)), (1, String::new()));
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
    }
}
