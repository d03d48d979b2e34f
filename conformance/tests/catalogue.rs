//! Every operation of the catalogue, in every type, against its float64 oracle.

use frit_conformance::{expect_none, judge};
use frit_graph::{DType, Graph, Reference, Spec, Tensor};
use frit_ops::{CATALOGUE, DynCase};
use std::{collections::BTreeSet, fs, path::Path};

fn small_cases() -> impl Iterator<Item = DynCase> {
    CATALOGUE.iter().flat_map(|l| (l.cases)()).filter(|c| !c.bench)
}

fn traced(case: &DynCase, dtype: DType) -> (Tensor, Vec<Option<Tensor>>) {
    let slots: Vec<Option<Tensor>> = case
        .inputs
        .iter()
        .enumerate()
        .map(|(i, o)| o.as_ref().map(|o| Tensor::input_of(i, o.spec(dtype))))
        .collect();
    (Tensor::dyn_block(case.block.clone(), slots.clone()), slots)
}

#[test]
fn every_composed_form_agrees_with_its_oracle_on_the_reference() {
    let mut complaints = Vec::new();
    for case in small_cases() {
        for &dtype in case.dtypes {
            complaints.extend(judge(&case, dtype, &Reference).err());
        }
    }
    expect_none(complaints);
}

#[test]
fn every_shape_rule_equals_the_spec_of_the_traced_composition() {
    for case in CATALOGUE.iter().flat_map(|l| (l.cases)()) {
        for &dtype in case.dtypes {
            let (block, slots) = traced(&case, dtype);
            block.check().expect(case.name);
            let composed = case.block.compose_list(&slots).expect("all operands are there");
            composed.check().expect(case.name);
            assert_eq!(block.spec(), composed.spec(), "{}/{}", case.op, case.name);
        }
    }
}

#[test]
fn every_file_of_the_catalogue_is_in_its_list() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/ops/src");
    let not_operations =
        ["lib.rs", "catalogue.rs", "check.rs", "counting.rs", "encoding.rs", "options.rs"];
    let on_disk: BTreeSet<String> = fs::read_dir(folder)
        .expect("the folder of the operations")
        .map(|e| e.expect("an entry").file_name().into_string().expect("a plain name"))
        .filter(|f| f.ends_with(".rs") && !not_operations.contains(&f.as_str()))
        .collect();
    let listed: BTreeSet<String> = CATALOGUE.iter().map(|l| l.file.to_string()).collect();
    assert_eq!(on_disk, listed);
}

#[test]
fn every_operation_is_documented() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/ops/src");
    for line in CATALOGUE {
        let text = fs::read_to_string(folder.join(line.file)).expect("a source file");
        for wanted in ["//! ", "/// # Inputs", "/// # Output", "/// # Numerics", "/// # Example"] {
            assert!(text.contains(wanted), "{} has no `{wanted}`", line.file);
        }
    }
}

#[test]
fn every_operation_refuses_empty_operands() {
    for line in CATALOGUE {
        let case = (line.cases)().swap_remove(0);
        let empty = |spec: Spec| spec.with_shape(spec.shape.iter().map(|_| 0).collect::<Vec<_>>());
        let specs: Vec<Option<Spec>> =
            case.inputs.iter().map(|o| o.as_ref().map(|o| empty(o.spec(DType::F32)))).collect();
        let slots: Vec<Option<&Spec>> = specs.iter().map(Option::as_ref).collect();
        assert!(case.block.infer_list(&slots).is_err(), "{} takes nothing at all", line.name);
    }
}

#[test]
fn every_composed_form_is_made_of_primitives() {
    for case in small_cases() {
        let (block, _) = traced(&case, DType::F32);
        let inputs = case.inputs.iter().flatten().count();
        let specs: Vec<Spec> = case
            .inputs
            .iter()
            .map(|o| o.as_ref().map_or(Spec::new(DType::F32, []), |o| o.spec(DType::F32)))
            .collect();
        let graph = Graph::new(specs, vec![block]).expect("a graph").composed().expect("composed");
        let histogram = graph.histogram();
        assert!(histogram.get("input").is_some_and(|n| *n <= inputs), "{}", case.name);
        assert!(!histogram.contains_key(case.op), "{}", case.name);
    }
}
