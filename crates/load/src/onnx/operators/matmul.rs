//! Products of matrices.

use super::{
    super::call::{Answer, Call, Fault, one, product, takes_blocks},
    Handler,
};
use frit_graph::{DType, Tensor};
use frit_ops::fast;

pub(super) const TABLE: &[(&str, Handler)] = &[
    ("MatMul", |c| one(c.item(0)?.with(matmul(c.t(0)?, c.t(1)?)?))),
    ("Gemm", gemm),
    ("Einsum", einsum),
];

/// The product by the rules of NumPy: vectors are rows or columns, leading axes broadcast.
pub(super) fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor, Fault> {
    if a.rank() == 0 || b.rank() == 0 {
        return Err(format!("wants no scalars, got {} and {}", a.spec(), b.spec()).into());
    }
    if !a.dtype().is_float() && a.dtype() != DType::I32 {
        // The product takes 32-bit integers and floats.
        let y = matmul(&a.cast(DType::F64), &b.cast(DType::F64))?;
        return Ok(y.cast(a.dtype()));
    }
    let x = if a.rank() == 1 { a.unsqueeze(0) } else { a.clone() };
    let w = if b.rank() == 1 { b.unsqueeze(1) } else { b.clone() };
    let mut y = match (w.rank(), x.rank()) {
        // A weight: one product over all rows.
        (2, 3..) => {
            let (k, rows) = (x.shape()[x.rank() - 1], product(&x.shape()[..x.rank() - 1]));
            let mut shape = x.shape().to_vec();
            shape[x.rank() - 1] = w.shape()[1];
            let flat: [usize; 2] = [rows, k];
            x.reshape(&flat).matmul(&w).reshape(&shape)
        }
        _ => x.matmul(&w),
    };
    if b.rank() == 1 && !y.is_poisoned() {
        y = y.squeeze(-1);
    }
    if a.rank() == 1 && !y.is_poisoned() {
        y = y.squeeze(if b.rank() == 1 { -1 } else { -2 });
    }
    Ok(y)
}

fn gemm(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let turned = |t: &Tensor, flag: &str| match c.flag(flag) {
        true => t.swap_axes(0, 1),
        false => t.clone(),
    };
    let (a, b) = (turned(&x.t, "transA"), turned(c.t(1)?, "transB"));
    if a.rank() != 2 || b.rank() != 2 {
        return Err(format!("wants matrices, got {} and {}", a.spec(), b.spec()).into());
    }
    let (alpha, beta) = (c.float("alpha", 1.0), c.float("beta", 1.0));
    let mut y = matmul(&a, &b)?;
    if alpha != 1.0 {
        y = y * alpha;
    }
    if let Some(bias) = c.opt_t(2) {
        let bias = if beta == 1.0 { bias.clone() } else { bias * beta };
        y = y + bias;
    }
    one(x.with(y))
}

fn einsum(c: &Call<'_>) -> Answer {
    let x = c.item(0)?;
    let d = x.t.dtype();
    let equation = c.text("equation", "");
    let operands: Vec<&Tensor> = c.inputs.iter().flatten().map(|i| &i.t).collect();
    if operands.iter().all(|t| takes_blocks(t)) {
        return one(x.with(fast::einsum(&equation, &operands)));
    }
    // Other types are summed in f32: the Block has no wider one.
    let narrow: Vec<Tensor> = operands.iter().map(|t| t.cast(DType::F32)).collect();
    one(x.with(fast::einsum(&equation, &narrow.iter().collect::<Vec<_>>()).cast(d)))
}
