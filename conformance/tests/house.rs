//! The rules of the house, and the document of what is covered.

use frit_conformance::judge;
use frit_cpu::{Cpu, Pool};
use frit_graph::{Backend, Reference};
use frit_ops::CATALOGUE;
use std::{collections::BTreeMap, fs, path::Path, process::Command};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the root of the workspace")
}

/// What each crate may use of ours.
const EDGES: &[(&str, &[&str])] = &[
    ("frit-graph", &[]),
    ("frit-ops", &["frit-graph"]),
    ("frit-cpu", &["frit-graph", "frit-ops"]),
    ("frit-mlx", &["frit-graph", "frit-ops"]),
    ("frit-load", &["frit-graph", "frit-ops"]),
    ("frit-models", &["frit-graph", "frit-load", "frit-ops"]),
    ("frit", &["frit-cpu", "frit-graph", "frit-load", "frit-mlx", "frit-models", "frit-ops"]),
    ("frit-cli", &["frit"]),
];

#[test]
fn crates_use_only_the_crates_below_them() {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo metadata");
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let allowed: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    let mut seen = 0;
    for package in json["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        let Some(allowed) = allowed.get(name) else {
            assert_eq!(name, "frit-conformance", "{name} is in no table");
            continue;
        };
        seen += 1;
        for d in package["dependencies"].as_array().expect("dependencies") {
            let used = d["name"].as_str().expect("a name");
            let ours = used == "frit" || used.starts_with("frit-");
            assert!(!ours || allowed.contains(&used), "{name} must not use {used}");
        }
    }
    assert_eq!(seen, EDGES.len());
}

#[test]
fn source_files_stay_short() {
    let mut long = Vec::new();
    let mut folders = vec![root().join("crates"), root().join("conformance")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let lines = fs::read_to_string(&path).expect("a source file").lines().count();
                if lines > 800 {
                    long.push(format!("{}: {lines}", path.display()));
                }
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

/// Everything that is left out, with the reason.
const LEFT_OUT: &[(&str, &str)] = &[
    ("softmax over another axis than the last, CPU fused", "composed: no model needs the kernel"),
    (
        "activations of 8 bits with other weights than Q4_0, Q4_1 and Q8_0, CPU fused",
        "composed: their blocks have no kernel in integers yet",
    ),
    (
        "AVX-512",
        "compiled and dispatched at run time; runs its tests only where a processor has it",
    ),
    (
        "NEON",
        "the portable kernels, which the compiler vectorises; the tests of `frit-cpu` pass under QEMU's emulation of aarch64, no such machine has run them",
    ),
    (
        "MLX on Metal, on CUDA and on aarch64",
        "built for, never run: no such machine has run the tests",
    ),
    ("bench cases on the reference", "minutes each; their small siblings run everywhere"),
];

#[test]
fn the_coverage_document_says_what_passes() {
    let one = || Cpu::on(Pool::new(2));
    let backends: [(&str, Box<dyn Backend>); 3] = [
        ("reference", Box::new(Reference)),
        ("cpu, composed", Box::new(one().without_fused())),
        ("cpu, fused", Box::new(one())),
    ];
    let mut text = String::from(
        "# Coverage\n\nWritten by `FRIT_BLESS=1 cargo test -p frit-conformance --test house`; the same \
         test fails where this page is not true.\n\nCases passed of cases run (a case in three types \
         counts three times), against float64.\n\n| operation |",
    );
    for (name, _) in &backends {
        text += &format!(" {name} |");
    }
    text += " formula |\n|---|---|---|---|---|\n";
    for line in CATALOGUE {
        text += &format!("| {} |", line.name);
        for (_, backend) in &backends {
            let (mut passed, mut run) = (0, 0);
            for case in (line.cases)().iter().filter(|c| !c.bench) {
                for &dtype in case.dtypes {
                    run += 1;
                    passed += judge(case, dtype, &**backend).is_ok() as usize;
                }
            }
            text += &format!(" {passed} of {run} |");
        }
        text += &format!(" `{}` |\n", line.formula);
    }
    text += "\n## Left out\n\n| what | why |\n|---|---|\n";
    for (what, why) in LEFT_OUT {
        text += &format!("| {what} | {why} |\n");
    }
    text += "\n## MLX\n\nWritten by the tests of MLX on a Linux CPU. All cases pass; those of the second table with \
             bounds of their own, since MLX rounds more than once in half precision.\n\n";
    text += include_str!("../golden/mlx.md");
    let path = root().join("docs/coverage.md");
    if std::env::var_os("FRIT_BLESS").is_some() {
        fs::write(&path, &text).expect("written");
    }
    let page = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(page, text, "docs/coverage.md is not what the tests find: bless it");
}
