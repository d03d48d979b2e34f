//! Tests that walk the catalogue: every operation on every backend, fused and composed, against
//! its float64 oracle. This crate holds what those tests share.

#[cfg(feature = "mlx")]
pub mod mlx;
pub mod primitives;

use frit_graph::{Backend, DType, Graph, Params, Policy, Spec, Tensor, Value, compile};
use frit_ops::{Array, DynCase};

/// How far a result is from the expected one.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Largest relative difference where the expected value is not tiny.
    pub max_rel: f64,
    /// The element that exceeds the bound most, or differs most.
    pub at: usize,
    /// Whether every element is within the bound and none is NaN that should not be.
    pub within: bool,
}

/// Compares under `|got - want| <= absolute + relative * |want|`.
pub fn compare(got: &[f64], want: &[f64], (relative, absolute): (f64, f64)) -> Difference {
    let mut d = Difference { max_abs: 0.0, max_rel: 0.0, at: 0, within: got.len() == want.len() };
    let mut worst = f64::NEG_INFINITY;
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = if g == w { 0.0 } else { (g - w).abs() };
        let over = error - relative * w.abs() - absolute;
        d.max_abs = d.max_abs.max(error);
        if w.abs() > 1e-3 {
            d.max_rel = d.max_rel.max(error / w.abs());
        }
        if over > worst || error.is_nan() {
            (worst, d.at) = (over, i);
        }
        d.within &= over <= 0.0;
    }
    d
}

/// Compiles and runs one case.
///
/// # Errors
/// What the graph or the backend says.
pub fn run_case(
    case: &DynCase,
    values: &[Option<Value>],
    backend: &dyn Backend,
) -> Result<(Value, bool), frit_graph::Error> {
    let specs: Vec<Spec> = values.iter().flatten().map(|v| v.spec().clone()).collect();
    let graph = Graph::trace(&specs, |x| {
        let mut x = x.iter().cloned();
        let slots = values.iter().map(|v| v.as_ref().and_then(|_| x.next())).collect();
        vec![Tensor::dyn_block(case.block.clone(), slots)]
    })?;
    let program = compile(&graph, backend, &Params::new(), Policy::Allow)?;
    let mut out = program.run(values.iter().flatten().cloned().collect())?;
    Ok((out.remove(0), program.report().fused() == 1))
}

/// Runs a case in a type and says what is wrong, if anything is.
///
/// # Errors
/// A text that names the case and shows the largest differences.
pub fn judge(case: &DynCase, dtype: DType, backend: &dyn Backend) -> Result<Difference, String> {
    let what = format!("{}/{} {dtype} on {}", case.op, case.name, backend.name());
    let values = case.values(dtype);
    let Some(want) = case.expected(&values) else { return Err(format!("{what}: no oracle")) };
    let (got, _) = run_case(case, &values, backend).map_err(|e| format!("{what}: {e}"))?;
    judge_value(&what, &got, &want, case.tolerance(dtype))
}

/// Compares a value with what an oracle says.
///
/// # Errors
/// A text that shows the largest differences.
pub fn judge_value(
    what: &str,
    got: &Value,
    want: &Array,
    tolerance: (f64, f64),
) -> Result<Difference, String> {
    if got.shape() != want.shape {
        return Err(format!("{what}: shape {:?}, expected {:?}", got.shape(), want.shape));
    }
    let numbers = got.to_f64();
    let d = compare(&numbers, &want.data, tolerance);
    match d.within {
        true => Ok(d),
        false => Err(format!(
            "{what}: max abs {:.3e}, max rel {:.3e}, at {}: got {}, expected {}",
            d.max_abs,
            d.max_rel,
            d.at,
            numbers.get(d.at).copied().unwrap_or(f64::NAN),
            want.data.get(d.at).copied().unwrap_or(f64::NAN)
        )),
    }
}

/// Fails with every complaint at once.
///
/// # Panics
/// When there is a complaint.
pub fn expect_none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "{} failed:\n{}", complaints.len(), complaints.join("\n"));
}
