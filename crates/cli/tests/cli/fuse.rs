//! `frit fuse`, on operator tests of ONNX that spell an operation out in small ones.

use std::fs;
use std::path::Path;

use crate::common::{json, operator, run, status, stderr, stdout, temp};

#[test]
fn what_must_stay_is_told_with_the_reason() {
    let home = temp();
    operator(home.path(), "test_layer_normalization_default_axis_expanded");
    let arguments = ["fuse", "model.onnx", "--seconds", "0.01"];
    let fused = run(home.path(), &arguments);
    assert_eq!(status(&fused), 0, "{}", stderr(&fused));
    let text = stdout(&fused);
    assert!(text.starts_with("nothing was recognised"), "{text}");
    assert!(text.contains("largest difference") && text.contains("times as fast"), "{text}");
    // The mean and the deviation are outputs too, so this one must stay, and it is told why.
    assert!(text.contains("refused") && text.contains("is used elsewhere too"), "{text}");
}

#[test]
fn an_attention_becomes_one_operation_with_the_same_numbers() {
    let home = temp();
    operator(home.path(), "test_attention_4d_gqa_causal_expanded");
    let arguments = ["fuse", "model.onnx", "--seconds", "0.01", "--json", "--random", "7"];
    let said = json(&run(home.path(), &arguments));
    assert_eq!(said["recognised"][0]["name"], "scaled_dot_product_attention", "{said}");
    assert_eq!(said["recognised"][0]["recognised"], 1, "{said}");
    let total = |key: &str| said["total"][key].as_u64().expect("a number");
    assert!(total("after") < total("before"), "{said}");
    let difference = said["outputs"][0]["max_abs"].as_f64().expect("a number");
    assert!(difference < 1e-5, "{said}");
    assert!(said["rounds"].as_u64().expect("a number") >= 5, "{said}");
}

#[test]
fn the_report_is_one_page_that_loads_nothing() {
    let home = temp();
    operator(home.path(), "test_gelu_tanh_2_expanded");
    let arguments = ["fuse", "model.onnx", "--seconds", "0.01", "--html", "graph.html"];
    let fused = run(home.path(), &arguments);
    assert_eq!(status(&fused), 0, "{}", stderr(&fused));
    let page = fs::read_to_string(home.path().join("graph.html")).expect("a page");
    assert!(page.contains("gelu \u{d7} 1") && page.contains("<svg"), "{page}");
    assert!(!page.contains("<script") && !page.contains("://"), "{page}");
}

#[test]
fn extents_that_the_file_does_not_name_are_bad_usage() {
    let home = temp();
    operator(home.path(), "test_gelu_tanh_2_expanded");
    for dim in ["sequence=4", "four"] {
        let output = run(home.path(), &["fuse", "model.onnx", "--dim", dim]);
        assert_eq!(status(&output), 2, "{}", stderr(&output));
        assert!(stderr(&output).contains("--dim"), "{}", stderr(&output));
    }
    let output = run(home.path(), &["fuse", "model.onnx", "--html", "no/such/folder/x.html"]);
    assert_eq!(status(&output), 1, "{}", stderr(&output));
    assert!(!Path::new("no").exists());
}
