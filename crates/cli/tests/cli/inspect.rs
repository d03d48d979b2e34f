//! `frit inspect`.

use std::fs;

use crate::common::{floats, json, run, status, stderr, stdout, temp, write};
use frit::graph::Value;

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A GGUF file with a text, a list of ten numbers, an f32 vector and two rows of Q8_0.
fn gguf() -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend([3u64, 3].iter().flat_map(|n| n.to_le_bytes()));
    let kind = |n: u32| n.to_le_bytes();
    out.extend([&text("general.name")[..], &kind(8), &text("a\u{1b}[31mname")].concat());
    out.extend([&text("some.list")[..], &kind(9), &kind(0), &10u64.to_le_bytes()].concat());
    out.extend(0..10u8);
    out.extend([&text("some.eps")[..], &kind(6), &1e-5f32.to_le_bytes()].concat());
    let mut tensor = |name: &str, extents: &[u64], code: u32, offset: u64| {
        out.extend([&text(name)[..], &kind(extents.len() as u32)].concat());
        out.extend(extents.iter().flat_map(|n| n.to_le_bytes()));
        out.extend([&kind(code)[..], &offset.to_le_bytes()].concat());
    };
    tensor("norm", &[5], 0, 0);
    tensor("blk.0.weight", &[64, 2], 8, 32);
    tensor("odd", &[256], 16, 192);
    out.resize(out.len().next_multiple_of(32) + 192 + 66, 0);
    out
}

#[test]
fn it_tells_what_a_gguf_file_holds() {
    let home = temp();
    fs::write(home.path().join("a.gguf"), gguf()).expect("write a file");
    let output = run(home.path(), &["inspect", "a.gguf"]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let said = stdout(&output);
    let words: Vec<String> =
        said.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "file a.gguf",
        "format GGUF",
        "holds 2 tensors, 133 elements, 156 bytes",
        "general.name a\u{fffd}[31mname",
        "some.list [0, 1, 2, 3, 4, 5, 6, 7, and 2 more]",
        "some.eps 0.00001",
        "gguf.version 3",
        "blk.0.weight Q8_0 [2, 64] 136",
        "norm f32 [5] 20",
        "odd IQ2_XXS",
        "Q8_0 1 128 136",
        "f32 1 5 20",
    ] {
        assert!(words.iter().any(|w| w == line), "{line}\n{said}");
    }
    let json = json(&run(home.path(), &["inspect", "a.gguf", "--json"]));
    assert_eq!(json["config"]["some.list"].as_array().map(Vec::len), Some(10));
    assert_eq!(json["tensors"][0]["name"], "blk.0.weight");
    assert_eq!(json["tensors"][0]["shape"], serde_json::json!([2, 64]));
    assert_eq!(json["totals"][0]["elements"], 128);
    assert_eq!(json["unsupported"]["odd"], "IQ2_XXS");
}

#[test]
fn it_tells_what_a_folder_holds_and_how_it_is_quantised() {
    let home = temp();
    let words = Value::new([3, 16], vec![7u32; 48]).expect("words");
    let (scales, norm) = (floats(&[3, 2], &[1.0; 6]), floats(&[4], &[1.0; 4]));
    let tensors = [
        ("x.weight", &words),
        ("x.scales", &scales),
        ("x.biases", &scales),
        ("norm.weight", &norm),
    ];
    write(&home.path().join("m/model.safetensors"), &tensors, &[("format", "mlx")]);
    let config = r#"{"model_type": "llama", "quantization": {"bits": 4, "group_size": 64}}"#;
    fs::write(home.path().join("m/config.json"), config).expect("write a file");
    let json = json(&run(home.path(), &["inspect", "m", "--json"]));
    assert_eq!(
        (&json["format"], &json["metadata"]["format"]),
        (&"safetensors".into(), &"mlx".into())
    );
    assert_eq!(json["config"]["model_type"], "llama");
    let x = json["tensors"].as_array().expect("a list").iter().find(|t| t["name"] == "x.weight");
    let x = x.expect("the packed weight");
    assert_eq!((&x["type"], &x["bytes"]), (&"affine(4 bits, groups of 64)".into(), &192.into()));
    assert_eq!(x["shape"], serde_json::json!([3, 128]));
    let said = stdout(&run(home.path(), &["inspect", "m"]));
    assert!(said.contains("holds   4 tensors") && said.contains("affine(4 bits"), "{said}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let home = temp();
    fs::write(home.path().join("cut.gguf"), &gguf()[..100]).expect("write a file");
    for (file, says) in [("cut.gguf", "cut.gguf`: "), ("none", "none"), (".", "one *.gguf")] {
        if file == "." {
            fs::remove_file(home.path().join("cut.gguf")).expect("remove a file");
        }
        let output = run(home.path(), &["inspect", file]);
        assert_eq!((status(&output), stdout(&output)), (1, String::new()), "{file}");
        assert!(stderr(&output).contains(says), "{file}: {}", stderr(&output));
    }
}
