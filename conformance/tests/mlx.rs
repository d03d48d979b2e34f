//! MLX against the float64 oracles and the reference.

use frit_conformance::{compare, expect_none, judge, primitives, run_case};
use frit_graph::{Backend, DType, Params, Policy, Reference, compile};
use frit_mlx::{Device, Mlx};
use frit_ops::{CATALOGUE, DynCase};

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
fn every_case_passes_composed() {
    all_cases_pass(&Mlx::on(Device::Cpu).expect("mlx").without_fused());
}

#[test]
fn every_case_passes() {
    all_cases_pass(&Mlx::on(Device::Cpu).expect("mlx"));
}

#[test]
fn every_primitive_agrees_with_the_reference_on_views_of_every_kind() {
    let mut complaints = Vec::new();
    let mlx = Mlx::on(Device::Cpu).expect("mlx");
    for dtype in primitives::DTYPES {
        for (name, graph) in primitives::graphs(dtype) {
            let inputs = primitives::inputs(&graph);
            let run = |b: &dyn Backend| {
                let program = compile(&graph, b, &Params::new(), Policy::Allow).expect(&name);
                program.run(inputs.clone()).map(|mut y| y.remove(0))
            };
            let want = run(&Reference).expect(&name);
            let got = match run(&mlx) {
                Ok(got) => got,
                Err(e) => { complaints.push(format!("{name} {dtype}: {e}")); continue }
            };
            let bound = primitives::bound(dtype);
            let d = compare(&got.to_f64(), &want.to_f64(), (bound, bound));
            if got.spec() != want.spec() || !d.within {
                complaints.push(format!("{name} {dtype}: max abs {:.3e} at {}", d.max_abs, d.at));
            }
        }
    }
    expect_none(complaints);
}
