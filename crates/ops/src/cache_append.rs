//! Writing new keys or values into a cache.

use crate::{
    Array, Case, Entry, Options, check,
    catalogue::{integers, normal},
};
use frit_graph::{Block, Prim, Rewrite, Rule, ShapeError, Spec, Tensor, operands};

/// The cache with `new` written over it from position `start` of the sequence axis.
///
/// A value in and a value out; a backend updates the memory in place when nobody else holds it.
///
/// # Inputs
/// - `cache`: `[B, K, S, D]`
/// - `new`: `[B, K, T, D]`, T at most S
/// - `start`: integer scalar or `[B]`; `start + T` beyond S is an error when the program runs
///
/// # Output
/// `[B, K, S, D]`
///
/// # Numerics
/// A copy.
///
/// # Example
/// ```
/// use frit_graph::{DType, Graph, Spec};
/// use frit_ops::fast;
/// let specs = [
///     Spec::new(DType::F32, [1, 2, 16, 8]),
///     Spec::new(DType::F32, [1, 2, 17, 8]),
///     Spec::new(DType::I64, []),
/// ];
/// let wrong = Graph::trace(&specs, |x| vec![fast::cache_append(&x[0], &x[1], &x[2])]);
/// assert!(wrong.unwrap_err().to_string().starts_with(
///     "[cache_append] new must be f32 [1, 2, T, 8] with T at most 16, got f32[1, 2, 17, 8] --> "
/// ));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct CacheAppend;

operands!(/// Inputs of [`CacheAppend`].
    pub CacheAppendInputs { cache, new, start } optional {});

/// [`CacheAppend`] of `new` at `start`.
#[track_caller]
pub fn cache_append(cache: &Tensor, new: &Tensor, start: &Tensor) -> Tensor {
    let (cache, new, start) = (cache.clone(), new.clone(), start.clone());
    Tensor::block(CacheAppend, CacheAppendInputs { cache, new, start })
}

impl Block for CacheAppend {
    type Inputs<T> = CacheAppendInputs<T>;
    const NAME: &'static str = "cache_append";

    fn infer(&self, i: CacheAppendInputs<&Spec>) -> Result<Spec, ShapeError> {
        check::float("cache", i.cache)?;
        check::float("new", i.new)?;
        if i.cache.rank() != 4 {
            return Err(format!("cache must be [B, K, S, D], got {}", i.cache).into());
        }
        let [b, k, s, d] = [0, 1, 2, 3].map(|a| i.cache.shape[a]);
        let fits = i.new.rank() == 4
            && i.new.dtype == i.cache.dtype
            && (i.new.shape[0], i.new.shape[1], i.new.shape[3]) == (b, k, d)
            && i.new.shape[2] <= s;
        if !fits {
            let t = i.cache.dtype;
            return Err(format!(
                "new must be {t} [{b}, {k}, T, {d}] with T at most {s}, got {}",
                i.new
            )
            .into());
        }
        if !i.start.dtype.is_integer() || !(i.start.shape.is_empty() || i.start.shape == [b]) {
            return Err(format!("start must be an integer scalar or [{b}], got {}", i.start).into());
        }
        Ok(i.cache.clone())
    }

    fn compose(&self, i: CacheAppendInputs<Tensor>) -> Tensor {
        i.cache.update(2, &i.new, &i.start)
    }
}

impl Entry for CacheAppend {
    const FORMULA: &'static str = "cache[:, :, start : start + T] = new";
    const MAIN: &'static str = "cache";

    fn parse(_: &mut Options) -> Result<CacheAppend, String> {
        Ok(CacheAppend)
    }

    fn oracle(&self, i: CacheAppendInputs<&Array>) -> Array {
        let [_, k, s, d] = [0, 1, 2, 3].map(|a| i.cache.shape[a]);
        let t = i.new.shape[2];
        let mut y = i.cache.clone();
        for (n, v) in i.new.data.iter().enumerate() {
            let (lead, at, c) = (n / (t * d), n / d % t, n % d);
            let start = i.start.data[lead / k % i.start.data.len()] as usize;
            y.data[(lead * s + start + at) * d + c] = *v;
        }
        y
    }

    fn recognise() -> Vec<Rule> {
        vec![
            Rule::new(Self::NAME, |site| match (site.node().prim(), site.node().inputs()) {
                (Some(Prim::Update(2)), [Some(cache), Some(new), Some(start)])
                    if cache.rank() == 4 && cache.dtype().is_float() =>
                {
                    Rewrite::of(site.node(), cache_append(cache, new, start))
                }
                _ => Rewrite::NoMatch,
            })
            .at(["update"]),
        ]
    }

    fn cases() -> Vec<Case<CacheAppend>> {
        let case = |name, why, t, start: &[i64]| {
            let at = if start.len() == 1 { vec![] } else { vec![start.len()] };
            let inputs = CacheAppendInputs {
                cache: normal(&[3, 2, 12, 5]),
                new: normal(&[3, 2, t, 5]),
                start: integers(&at, start),
            };
            Case::new(name, why, CacheAppend, inputs).floats()
        };
        vec![
            case("step", "one position", 1, &[7]),
            case("chunk", "several", 4, &[8]),
            case("rows", "every row elsewhere", 2, &[0, 10, 3]),
            case("whole", "all of it", 12, &[0]),
        ]
    }
}
