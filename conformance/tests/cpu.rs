//! The CPU backend, fused and composed, against the float64 oracles.

use frit_conformance::{expect_none, judge, primitives, run_case};
use frit_cpu::{Cpu, Pool};
use frit_graph::{Backend, DType, Graph, Params, Policy, Reference, Spec, compile};
use frit_ops::{CATALOGUE, DynCase};
use std::{collections::BTreeSet, fs, path::Path};

fn cases() -> impl Iterator<Item = DynCase> {
    CATALOGUE.iter().flat_map(|l| (l.cases)())
}

fn all_cases_pass(backend: &dyn Backend) {
    let mut complaints = Vec::new();
    for case in cases().filter(|c| !c.bench) {
        for &dtype in case.dtypes {
            complaints.extend(judge(&case, dtype, backend).err());
        }
    }
    expect_none(complaints);
}

#[test]
fn every_case_passes_fused_on_one_thread() {
    all_cases_pass(&Cpu::on(Pool::new(1)));
}

#[test]
fn every_case_passes_fused_on_two_threads() {
    all_cases_pass(&Cpu::on(Pool::new(2)));
}

#[test]
fn every_case_passes_composed_on_one_thread() {
    all_cases_pass(&Cpu::on(Pool::new(1)).without_fused());
}

#[test]
fn every_case_passes_composed_on_two_threads() {
    all_cases_pass(&Cpu::on(Pool::new(2)).without_fused());
}

#[test]
fn bench_cases_pass_too() {
    // The large ones would keep the oracle busy for minutes; their shapes are only timed.
    let small =
        |c: &DynCase| c.flops(DType::F32).unwrap_or(0.0) < 2e8 && c.bytes(DType::F32) < 10_000_000;
    let mut complaints = Vec::new();
    let mut run = 0;
    for case in cases().filter(|c| c.bench && small(c)) {
        complaints.extend(judge(&case, DType::F32, &Cpu::default()).err());
        run += 1;
    }
    assert!(run >= 8, "only {run} bench cases are small");
    expect_none(complaints);
}

#[test]
fn every_operation_of_the_catalogue_has_a_fused_kernel_that_takes_its_cases() {
    let cpu = Cpu::default();
    // Softmax over another axis than the last has no kernel: it is composed, and says so.
    let declined = ["softmax/first", "softmax/middle"];
    for case in cases() {
        for &dtype in case.dtypes {
            let specs = case.specs(dtype);
            let slots: Vec<Option<&Spec>> = specs.iter().map(Option::as_ref).collect();
            let taken = cpu.accept(&*case.block, &slots).is_ok();
            let name = format!("{}/{}", case.op, case.name);
            assert_eq!(taken, !declined.contains(&name.as_str()), "{name} in {dtype}");
        }
    }
}

#[test]
fn every_file_of_fused_kernels_is_in_its_list() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/cpu/src/fused");
    let on_disk: BTreeSet<String> = fs::read_dir(folder)
        .expect("the folder of the kernels")
        .map(|e| e.expect("an entry").file_name().into_string().expect("a plain name"))
        .filter(|f| f.ends_with(".rs") && f != "mod.rs")
        .collect();
    let listed: BTreeSet<String> = CATALOGUE.iter().map(|l| l.file.to_string()).collect();
    assert_eq!(on_disk, listed);
}

#[test]
fn results_are_the_same_bits_on_any_number_of_threads() {
    let pools = [1, 2, 3, 4].map(|n| Cpu::on(Pool::new(n)));
    let medium =
        |c: &DynCase| c.flops(DType::F32).unwrap_or(0.0) < 4e8 && c.bytes(DType::F32) < 20_000_000;
    for case in cases().filter(medium) {
        for &dtype in case.dtypes {
            let values = case.values(dtype);
            for fused in [true, false] {
                let run = |cpu: &Cpu| {
                    let cpu = if fused { cpu.clone() } else { cpu.clone().without_fused() };
                    run_case(&case, &values, &cpu).expect(case.name).0
                };
                let one = run(&pools[0]);
                for cpu in &pools[1..] {
                    let n = cpu.pool().threads();
                    assert_eq!(
                        one.bytes(),
                        run(cpu).bytes(),
                        "{}/{} {dtype}, fused: {fused}, on {n} threads",
                        case.op,
                        case.name
                    );
                }
            }
        }
    }
}

#[test]
fn the_memory_of_attention_is_linear_in_the_number_of_keys() {
    let block = || frit_ops::ScaledDotProductAttention::default();
    let peak = |s: usize| {
        let spec = |t: usize| Spec::new(DType::F32, [1, 4, t, 64]);
        let graph = Graph::trace(&[spec(256), spec(s), spec(s)], |x| {
            vec![frit_ops::fast::scaled_dot_product_attention(&x[0], &x[1], &x[2], None, block())]
        })
        .expect("a graph");
        compile(&graph, &Cpu::on(Pool::new(2)), &Params::new(), Policy::Deny)
            .expect("fused")
            .peak_bytes()
    };
    let (short, long) = (peak(4096), peak(65_536));
    // The scores alone would be 4 heads x 256 rows x 65536 keys x 4 bytes = 268 MB.
    assert!(long < 80 << 20, "{long} bytes");
    assert!(long <= 16 * short + (1 << 20), "{short} bytes for 4096 keys, {long} for 65536");
}

/// Primitives on strided views against the reference, in every type that they take.
#[test]
fn every_primitive_agrees_with_the_reference_on_views_of_every_kind() {
    let mut complaints = Vec::new();
    for dtype in primitives::DTYPES {
        for (name, graph) in primitives::graphs(dtype) {
            let inputs = primitives::inputs(&graph);
            let run = |b: &dyn Backend| {
                let program = compile(&graph, b, &Params::new(), Policy::Allow).expect(&name);
                program.run(inputs.clone()).expect(&name).remove(0)
            };
            let (want, got) = (run(&Reference), run(&Cpu::on(Pool::new(2))));
            let bound = primitives::bound(dtype);
            let d = frit_conformance::compare(&got.to_f64(), &want.to_f64(), (bound, bound));
            if got.spec() != want.spec() || !d.within {
                complaints.push(format!("{name} {dtype}: max abs {:.3e} at {}", d.max_abs, d.at));
            }
        }
    }
    expect_none(complaints);
}
