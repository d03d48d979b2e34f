//! What is known of a tensor without running the program: numbers, values, and whether two nodes
//! compute the same.

use crate::{DType, Op, Prim, Spec, Tensor, Value, graph::topological, reference};

/// A constant is looked through for being one number up to this many elements.
const UNIFORM_LIMIT: usize = 4096;
/// Constants are made of a few operations; deeper ones are not looked at.
const DEPTH: usize = 12;

/// The number a tensor holds everywhere, if constants alone decide it.
///
/// ```
/// use frit_graph::{DType, Tensor, pattern::number_of};
/// let root = Tensor::scalar(DType::F32, 64.0).sqrt().broadcast_to(&[2, 3]);
/// assert_eq!(number_of(&root), Some(8.0));
/// ```
pub fn number_of(t: &Tensor) -> Option<f64> {
    scalar(t, DEPTH)?.to_f64().first().copied()
}

fn scalar(t: &Tensor, depth: usize) -> Option<Value> {
    let spec = Spec::new(t.dtype(), []);
    match t.prim()? {
        Prim::Constant(v) if v.spec().numel() == 1 => v.reshaped([]).ok(),
        Prim::Constant(v) if (2..=UNIFORM_LIMIT).contains(&v.spec().numel()) => {
            let numbers = v.to_f64();
            let first = numbers[0];
            let one = numbers.iter().all(|n| n.to_bits() == first.to_bits());
            one.then(|| Value::from_f64(spec, &[first]).ok()).flatten()
        }
        Prim::Broadcast | Prim::Reshape | Prim::Transpose(_) | Prim::Slice { .. } => {
            scalar(t.input(0)?, depth.checked_sub(1)?)
        }
        p @ (Prim::Cast | Prim::Unary(_) | Prim::Binary(_)) => {
            let depth = depth.checked_sub(1)?;
            let inputs: Option<Vec<Value>> =
                t.inputs().iter().flatten().map(|i| scalar(i, depth)).collect();
            reference::eval(p, &spec, &inputs?.iter().collect::<Vec<_>>()).ok()
        }
        _ => None,
    }
}

/// The value of a tensor that depends on constants alone, if no step on the way has more than
/// `limit` elements.
pub fn known(t: &Tensor, limit: usize) -> Option<Value> {
    let nodes = topological(std::slice::from_ref(t));
    let fits = |n: &Tensor| {
        let leaf = matches!(n.prim(), None | Some(Prim::Input(_) | Prim::Param(_)));
        !leaf && n.spec().numel() <= limit
    };
    if nodes.len() > 64 || !nodes.iter().all(fits) {
        return None;
    }
    let mut done: std::collections::HashMap<u64, Value> = std::collections::HashMap::new();
    for n in &nodes {
        let inputs: Option<Vec<&Value>> =
            n.inputs().iter().flatten().map(|i| done.get(&i.id())).collect();
        let value = reference::eval(n.prim()?, n.spec(), &inputs?).ok()?;
        done.insert(n.id(), value);
    }
    done.remove(&t.id())
}

/// Whether two tensors are the same computation on the same operands. It looks a few operations
/// deep, so what it does not know to be the same it takes for different.
pub fn same_value(a: &Tensor, b: &Tensor) -> bool {
    let mut budget = 128;
    same(a, b, DEPTH, &mut budget)
}

fn same(a: &Tensor, b: &Tensor, depth: usize, budget: &mut usize) -> bool {
    if a.is(b) {
        return true;
    }
    if depth == 0 || *budget == 0 || a.spec() != b.spec() || a.inputs().len() != b.inputs().len() {
        return false;
    }
    *budget -= 1;
    let op = match (a.op(), b.op()) {
        (Op::Prim(a), Op::Prim(b)) => a == b,
        (Op::Block(a), Op::Block(b)) => a.same(&**b),
        _ => false,
    };
    op && a.inputs().iter().zip(b.inputs()).all(|(a, b)| match (a, b) {
        (Some(a), Some(b)) => same(a, b, depth - 1, budget),
        (None, None) => true,
        _ => false,
    })
}

/// The shortest decimal that is the same number in this type: an epsilon as people write it.
pub fn tidy(number: f64, dtype: DType) -> f64 {
    let shortest = match dtype {
        DType::F32 => format!("{}", number as f32).parse().ok(),
        DType::F16 | DType::BF16 => (1..=6)
            .filter_map(|digits| format!("{number:.digits$e}").parse::<f64>().ok())
            .find(|n| rounded(*n, dtype) == Some(number)),
        _ => None,
    };
    shortest.filter(|n: &f64| n.is_finite()).unwrap_or(number)
}

fn rounded(number: f64, dtype: DType) -> Option<f64> {
    Value::from_f64(Spec::new(dtype, []), &[number]).ok()?.to_f64().first().copied()
}

/// How far a number of this type may be from the one that was meant, relatively.
pub(crate) fn slack(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 6e-4,
        DType::BF16 => 4e-3,
        _ => 2e-6,
    }
}

/// How exact a float type is; `None` for other types.
pub(crate) fn exactness(dtype: DType) -> Option<u8> {
    match dtype {
        DType::BF16 => Some(0),
        DType::F16 => Some(1),
        DType::F32 => Some(2),
        DType::F64 => Some(3),
        _ => None,
    }
}

/// Whether every number of one float type is also one of the other.
pub(crate) fn widens(from: DType, to: DType) -> bool {
    from != to && to.holds(from)
}

/// Whether a node is a cast between floats that loses nothing that a result of type `root` keeps:
/// a narrow type in the middle of a wide graph is meant.
pub fn passes(cast: &Tensor, root: DType) -> bool {
    let (Some(Prim::Cast), Some(x)) = (cast.prim(), cast.input(0)) else { return false };
    match (exactness(cast.dtype()), exactness(x.dtype()), exactness(root)) {
        (Some(to), Some(from), Some(root)) => to >= root || to >= from,
        _ => false,
    }
}

/// The tensor before casts that change no number.
pub fn before_widening(t: &Tensor) -> &Tensor {
    let mut t = t;
    while let (Some(Prim::Cast), Some(from)) = (t.prim(), t.input(0)) {
        if !widens(from.dtype(), t.dtype()) {
            break;
        }
        t = from;
    }
    t
}
