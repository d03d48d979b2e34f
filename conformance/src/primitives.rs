//! Graphs of one primitive each, over operands that are views of every kind: for backends to be
//! compared with the reference.

use frit_graph::{Binary, Compare, DType, Graph, Reduce, Spec, Tensor, Unary, Value};

/// The types they are run in.
pub const DTYPES: [DType; 7] =
    [DType::F32, DType::F64, DType::F16, DType::BF16, DType::I64, DType::I32, DType::U8];

/// How far a result may be from the reference, relatively and absolutely.
pub fn bound(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-12,
        DType::F16 => 2e-3,
        DType::BF16 => 1.6e-2,
        _ => 3e-6,
    }
}

/// Inputs for such a graph: small positive numbers, whole where they must be.
///
/// # Panics
/// When a spec is larger than memory.
pub fn inputs(graph: &Graph) -> Vec<Value> {
    let make = |(k, s): (usize, &Spec)| {
        let wave = |i: usize| ((i * 37 + k * 11) % 101) as f64 / 20.0 + 0.1;
        let whole = |i: usize| (((i * 37 + k * 11) % 9) + 1) as f64;
        let f = |i| if s.dtype.is_float() { wave(i) } else { whole(i) };
        Value::from_f64(s.clone(), &(0..s.numel()).map(f).collect::<Vec<_>>()).expect("a value")
    };
    graph.inputs().iter().enumerate().map(make).collect()
}

/// Every primitive that takes `dtype`, over every kind of view, with a name.
///
/// # Panics
/// When a graph cannot be traced.
pub fn graphs(dtype: DType) -> Vec<(String, Graph)> {
    let spec = Spec::new(dtype, [3, 40, 70]);
    type View = fn(&Tensor) -> Tensor;
    let views: Vec<(&str, View)> = vec![
        ("dense", |x| x.clone()),
        ("transposed", |x| x.transpose(&[2, 0, 1])),
        ("swapped", |x| x.transpose(&[1, 0, 2])),
        ("sliced", |x| x.slice_step(2, 3, 2, 30).slice(1, 5..25)),
        ("reversed", |x| x.flip(2).flip(0)),
        ("row", |x| x.slice(1, 4..5).broadcast_to(&[3, 40, 70])),
        ("column", |x| x.slice(2, 4..5).broadcast_to(&[3, 40, 70])),
        ("one", |x| x.slice(0, 0..1).slice(1, 1..2).slice(2, 2..3).broadcast_to(&[2, 5, 600])),
        ("merged", |x| x.transpose(&[1, 0, 2]).reshape(&[40, 210])),
    ];
    let float = dtype.is_float();
    let mut out = Vec::new();
    let mut add = |name: String, f: &dyn Fn(&Tensor, &Tensor) -> Tensor| {
        let graph = Graph::trace(&[spec.clone(), spec.clone()], |x| vec![f(&x[0], &x[1])]);
        out.push((name.clone(), graph.expect(&name)));
    };
    for (view, v) in &views {
        for &u in Unary::ALL {
            let takes = match u {
                Unary::Not => false,
                Unary::Neg => float || dtype != DType::U8,
                Unary::Abs => true,
                _ => float,
            };
            if takes {
                add(format!("{} {view}", u.name()), &|x, _| v(x).unary(u));
            }
        }
        for &b in Binary::ALL.iter().filter(|b| !matches!(b, Binary::And | Binary::Or)) {
            // Powers of large integers only wrap; keep them small.
            add(format!("{} {view}", b.name()), &|x, y| v(x).binary(&v(y), b));
            add(format!("{} {view} by one", b.name()), &|x, y| {
                v(x).binary(&y.slice(0, 0..1).slice(1, 0..1).slice(2, 0..1).reshape(&[]), b)
            });
        }
        for &c in Compare::ALL {
            add(format!("{} {view}", c.name()), &|x, y| v(x).compare(&v(y), c).cast(dtype));
        }
        for &r in &[Reduce::Sum, Reduce::Max, Reduce::Min] {
            for axes in [&[-1][..], &[0], &[0, -1], &[0, 1]] {
                add(format!("{r:?} {axes:?} {view}"), &|x, _| v(x).reduce(r, axes));
            }
        }
        add(format!("prod {view}"), &|x, _| {
            let two = Tensor::scalar(dtype, 2.0);
            v(x).minimum(&two).slice(0, 0..2).reduce(Reduce::Prod, &[0])
        });
        add(format!("select {view}"), &|x, y| v(x).lt(&v(y)).select(&v(x), &v(y)));
        add(format!("argmax {view}"), &|x, _| v(x).argmax(0).cast(dtype));
        add(format!("cumsum {view}"), &|x, _| v(x).slice(0, 0..2).cumsum(0));
        add(format!("pad {view}"), &|x, _| v(x).pad(-1, 2, 3, 7.0).pad(0, 1, 0, 0.0));
        add(format!("concat {view}"), &|x, y| Tensor::concat(&[&v(x), &v(y), &v(x)], -1));
        add(format!("gather {view}"), &|x, _| {
            let at = Tensor::constant(Value::new([2, 2], vec![1i64, 0, 1, 1]).expect("a value"));
            v(x).gather(0, &at)
        });
        add(format!("update {view}"), &|x, y| {
            let start = Tensor::scalar(DType::I32, 1.0);
            v(x).update(0, &v(y).slice(0, 0..1), &start)
        });
        for to in [DType::F32, DType::F16, DType::BF16, DType::F64, DType::I64, DType::I32] {
            add(format!("cast to {to} {view}"), &|x, _| v(x).cast(to));
        }
        if dtype != DType::F64 {
            add(format!("bitcast {view}"), &|x, _| {
                // As bytes, and from any byte that is a multiple of four as i32.
                let bytes = v(x).bitcast(DType::U8);
                let whole = bytes.shape()[bytes.rank() - 1] / 4 * 4;
                let words = bytes.slice(-1, 0..whole).bitcast(DType::I32);
                Tensor::concat(&[&bytes.cast(DType::I32), &words], -1)
            });
        }
        add(format!("cast to bool {view}"), &|x, _| v(x).cast(DType::Bool));
        if float || dtype == DType::I32 {
            add(format!("matmul {view}"), &|x, y| v(x).matmul(&v(y).swap_axes(-1, -2)));
            add(format!("matmul broadcast {view}"), &|x, y| {
                v(x).matmul(
                    &y.slice(0, 0..1)
                        .reshape(&[40, 70])
                        .slice(0, 0..v(x).shape()[v(x).rank() - 1].min(40))
                        .pad(0, 0, v(x).shape()[v(x).rank() - 1].saturating_sub(40), 1.0),
                )
            });
        }
    }
    out
}
