//! Losses of classes, which exported training graphs carry along.

use super::{
    super::{
        call::{Call, Fault, one, unsupported},
        elem::Item,
    },
    Handler,
};
use frit_graph::{DType, Spec, Tensor};

pub(super) const TABLE: &[(&str, Handler)] = &[
    ("NegativeLogLikelihoodLoss", |c| {
        let x = c.item(0)?;
        one(x.with(likelihood(c, &x.t.cast(x.t.dtype().compute()))?.cast(x.t.dtype())))
    }),
    ("SoftmaxCrossEntropyLoss", |c| {
        let x = c.item(0)?;
        let wide = x.t.cast(x.t.dtype().compute());
        if wide.rank() < 2 {
            return Err(format!("wants classes on axis 1, got {}", x.t.spec()).into());
        }
        let low = &wide - wide.max(&[1]);
        let log = &low - low.exp().sum(&[1]).log();
        let loss = likelihood(c, &log)?;
        Ok([loss, log]
            .into_iter()
            .map(|t: Tensor| -> Item { x.with(t.cast(x.t.dtype())) })
            .collect())
    }),
];

/// The loss of logarithms of probabilities `x` `[N, C, ..]` for the classes of operand 1.
fn likelihood(c: &Call<'_>, x: &Tensor) -> Result<Tensor, Fault> {
    let target = c.t(1)?.cast(DType::I64);
    let rest = [x.shape().get(..1).unwrap_or(&[]), x.shape().get(2..).unwrap_or(&[])].concat();
    if x.rank() < 2 || target.shape() != rest {
        return Err(format!("classes {} for {}", target.spec(), x.spec()).into());
    }
    let d = x.dtype();
    let mut line = vec![1; x.rank()];
    line[1] = x.shape()[1];
    let hot = Tensor::iota(Spec::new(DType::I64, line.clone()), 1).eq(&target.unsqueeze(1));
    let zero = Tensor::scalar(d, 0.0);
    let picked = |t: &Tensor| hot.select(t, &zero).sum(&[1]).squeeze(1);
    let mut weight = match c.opt_t(2) {
        Some(w) if w.shape() == [x.shape()[1]] => picked(&w.cast(d).reshape(&line)),
        Some(w) => return Err(format!("weight {} for {}", w.spec(), x.spec()).into()),
        None => Tensor::full(Spec::new(d, target.shape()), 1.0),
    };
    if let Some(ignored) = c.attribute("ignore_index").and_then(|a| a.int) {
        let counts = target.ne(&super::integers(&[], vec![ignored]));
        weight = counts.select(&weight, &zero);
    }
    let loss = -(picked(x) * &weight);
    let axes: Vec<isize> = (0..loss.rank()).map(|a| a as isize).collect();
    match &*c.text("reduction", "mean") {
        "none" => Ok(loss),
        "sum" => Ok(loss.sum(&axes).reshape(&[])),
        "mean" => Ok((loss.sum(&axes) / weight.sum(&axes)).reshape(&[])),
        other => unsupported(format!("reduction {other}")),
    }
}
