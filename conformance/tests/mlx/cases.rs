//! The catalogue and the primitives.

use frit_conformance::{compare, expect_none, judge, mlx::mlx, primitives, run_case};
use frit_graph::{Backend, DType, Outcome, Params, Policy, Reference, Spec, compile};
use frit_mlx::Mlx;
use frit_ops::{CATALOGUE, DynCase};
use std::{collections::BTreeMap, fs, path::Path};

fn cases() -> impl Iterator<Item = DynCase> {
    CATALOGUE.iter().flat_map(|l| (l.cases)())
}

/// Bounds of a case where MLX's own call rounds more than once, and why. Everything else keeps the
/// bounds of all backends.
fn wider(case: &DynCase, dtype: DType) -> Option<((f64, f64), &'static str)> {
    let rounds = match case.op {
        "layer_norm" => "each step of the norm is rounded",
        "rope" => "cosine, sine and products are rounded",
        "scaled_dot_product_attention" => "scores and their softmax are rounded",
        "conv1d" => "rounded before bias and activation are added",
        _ => return None,
    };
    match (case.op, dtype) {
        (_, DType::F16) => Some(((2e-3, 2e-3), rounds)),
        (_, DType::BF16) => Some(((1.6e-2, 1.6e-2), rounds)),
        _ => None,
    }
}

/// Cases in the types they are run in: bench cases only in f32 and where they are not too large
/// for their oracle.
fn judged() -> Vec<(DynCase, DType)> {
    let small =
        |c: &DynCase| c.flops(DType::F32).unwrap_or(0.0) < 2e8 && c.bytes(DType::F32) < 10_000_000;
    let types = |c: &DynCase| if c.bench { &[DType::F32][..] } else { c.dtypes };
    let cases = cases().filter(|c| !c.bench || small(c));
    cases.flat_map(|c| types(&c).iter().map(|d| (c.clone(), *d)).collect::<Vec<_>>()).collect()
}

/// Every case that is not within the bounds of all backends: its name, and the measured
/// error; or what is wrong.
fn measured(mlx: &Mlx) -> Result<BTreeMap<String, (f64, &'static str)>, Vec<String>> {
    let (mut found, mut complaints) = (BTreeMap::new(), Vec::new());
    for (case, dtype) in judged() {
        let Err(complaint) = judge(&case, dtype, mlx) else { continue };
        let values = case.values(dtype);
        let want = case.expected(&values).expect("an oracle");
        let within = wider(&case, dtype).and_then(|(bound, why)| {
            let (got, _) = run_case(&case, &values, mlx).ok()?;
            let d = compare(&got.to_f64(), &want.data, bound);
            (got.shape() == want.shape && d.within).then_some((d.max_abs, why))
        });
        match within {
            Some(error) => drop(found.insert(format!("{}/{} {dtype}", case.op, case.name), error)),
            None => complaints.push(complaint),
        }
    }
    if complaints.is_empty() { Ok(found) } else { Err(complaints) }
}

/// How many cases go to MLX's own call, how many are composed and why.
fn taken(mlx: &Mlx) -> String {
    let mut text = String::from(
        "| operation | by MLX's own call | composed of MLX's operations | why |\n|---|---|---|---|\n",
    );
    for line in CATALOGUE {
        let (mut own, mut composed, mut reasons) = (0, 0, Vec::new());
        for case in (line.cases)().iter().filter(|c| !c.bench) {
            for &dtype in case.dtypes {
                let specs = case.specs(dtype);
                let slots: Vec<Option<&Spec>> = specs.iter().map(Option::as_ref).collect();
                match mlx.accept(&*case.block, &slots) {
                    Ok(()) => own += 1,
                    Err(why) => {
                        composed += 1;
                        reasons.push(why.to_string());
                    }
                }
            }
        }
        reasons.sort();
        reasons.dedup();
        let why = reasons.join("; ");
        text += &format!("| {} | {own} | {composed} | {why} |\n", line.name);
    }
    text
}

#[test]
fn every_case_passes_composed() {
    let Some(mlx) = mlx() else { return };
    let mut complaints = Vec::new();
    for case in cases().filter(|c| !c.bench) {
        for &dtype in case.dtypes {
            complaints.extend(judge(&case, dtype, &mlx.without_fused()).err());
        }
    }
    expect_none(complaints);
}

#[test]
fn every_case_passes_and_each_wider_bound_is_listed_with_its_error() {
    let Some(mlx) = mlx() else { return };
    let found = match measured(&mlx) {
        Ok(found) => found,
        Err(complaints) => return expect_none(complaints),
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/mlx.md");
    if std::env::var_os("FRIT_BLESS").is_some() {
        let mut text = taken(&mlx);
        text += "\n| case | largest error | why |\n|---|---|---|\n";
        for (case, (error, why)) in &found {
            text += &format!("| {case} | {error:.1e} | {why} |\n");
        }
        fs::write(&path, text).expect("written");
    }
    let page = fs::read_to_string(&path).expect("the list");
    assert!(page.starts_with(&taken(&mlx)), "bless the list of what MLX takes");
    let listed: BTreeMap<&str, f64> = page
        .lines()
        .filter_map(|l| {
            let mut cells = l.split('|').map(str::trim);
            Some((cells.nth(1)?, cells.next()?.parse().ok()?))
        })
        .collect();
    for (case, (error, _)) in &found {
        // Another processor rounds elsewhere, but not otherwise.
        let listed = listed.get(case.as_str()).unwrap_or_else(|| panic!("{case} is not listed"));
        assert!(*error <= 2.0 * listed, "{case}: {error:.1e}, listed with {listed:.1e}");
    }
}

#[test]
fn simple_blocks_of_ggml_stay_packed_where_it_is_wanted_as_on_a_gpu() {
    let Some(mlx) = mlx() else { return };
    let (mlx, mut complaints, mut packed) = (mlx.with_packed(true), Vec::new(), 0);
    for case in cases().filter(|c| !c.bench && c.op == "quantized_matmul") {
        for &dtype in case.dtypes {
            complaints.extend(judge(&case, dtype, &mlx).err());
            packed += usize::from(run_case(&case, &case.values(dtype), &mlx).expect(case.name).1);
        }
    }
    // Beside the affine ones, three encodings in one row and in many, and some in all types.
    assert!(packed >= 14 + 6, "{packed} cases by MLX's product");
    expect_none(complaints);
}

#[test]
fn every_primitive_agrees_with_the_reference_on_views_of_every_kind() {
    let Some(mlx) = mlx() else { return };
    let mut complaints = Vec::new();
    for dtype in primitives::DTYPES {
        for (name, graph) in primitives::graphs(dtype) {
            let inputs = primitives::inputs(&graph);
            let run = |b: &dyn Backend| {
                let program = compile(&graph, b, &Params::new(), Policy::Allow)?;
                Ok::<_, frit_graph::Error>(program.run(inputs.clone())?.remove(0))
            };
            let want = run(&Reference).expect(&name);
            let got = match run(&mlx) {
                Ok(got) => got,
                Err(e) => {
                    complaints.push(format!("{name} {dtype}: {e}"));
                    continue;
                }
            };
            // The BLAS of the wheel adds up one product after the other.
            let product = name.starts_with("matmul") && dtype == DType::F32;
            let bound = if product { 1e-5 } else { primitives::bound(dtype) };
            let d = compare(&got.to_f64(), &want.to_f64(), (bound, bound));
            if got.spec() != want.spec() || !d.within {
                complaints.push(format!("{name} {dtype}: max abs {:.3e} at {}", d.max_abs, d.at));
            }
        }
    }
    expect_none(complaints);
}

#[test]
fn what_mlx_cannot_say_is_declined_with_the_reason() {
    let Some(mlx) = mlx() else { return };
    let mut reasons = BTreeMap::new();
    for case in cases() {
        let values = case.specs(DType::F32);
        let specs: Vec<Spec> = values.iter().flatten().cloned().collect();
        let graph = frit_graph::Graph::trace(&specs, |x| {
            let mut x = x.iter().cloned();
            let slots = values.iter().map(|v| v.as_ref().and_then(|_| x.next())).collect();
            vec![frit_graph::Tensor::dyn_block(case.block.clone(), slots)]
        })
        .expect(case.name);
        let (_, report) = frit_graph::lower(&graph, &mlx).expect(case.name);
        for line in &report.lines {
            if let Outcome::Composed(why) = &line.outcome {
                reasons
                    .insert(format!("{}/{}: {}", case.op, case.name, line.block), why.to_string());
            }
        }
    }
    let of = |name: &str| reasons.get(name).map(String::as_str);
    let attention = "scaled_dot_product_attention";
    assert_eq!(of(&format!("{attention}/softcap: {attention}")), Some("MLX has no softcap"));
    assert_eq!(
        of("quantized_matmul/q4_1: quantized_matmul"),
        Some("on a CPU, weights are unpacked once")
    );
    assert_eq!(of("quantized_matmul/q6_k: quantized_matmul"), Some("MLX has no Q6_K"));
    assert_eq!(
        of("linear/mixed: linear"),
        Some("x is f32 and the weight f16"),
        "a weight of another type"
    );
    assert_eq!(of("swiglu/plain: swiglu").or(Some("no kernel")), Some("no kernel"));
    let others = ["rms_norm", "layer_norm", "rope", "einsum", "softmax"];
    let taken = |name: &&String| !others.iter().any(|o| name.starts_with(&format!("{o}/")));
    assert_eq!(reasons.keys().filter(taken).count(), reasons.len(), "{reasons:#?}");
}
