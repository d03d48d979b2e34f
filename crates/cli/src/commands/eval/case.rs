//! A conformance case: a safetensors file with operands by name, `expected`, and in its metadata
//! the operation, its options and the bounds.

use std::path::Path;

use frit::graph::{
    Backend, DType, DynBlock, Graph, Params, Policy, Slot, Spec, Tensor, Value, compile,
};
use frit::load::safetensors;
use frit::ops::{OptionValue, Options};
use serde_json::Value as Json;
use std::sync::Arc;

/// The tensor that the result is held against.
const EXPECTED: &str = "expected";

/// What the metadata says, before anything is made of it.
pub(super) struct Header {
    /// The operation, as it is called there.
    pub(super) op: String,
    /// What the case guards.
    pub(super) why: String,
}

/// A case that can be run.
pub(super) struct Case {
    block: Arc<dyn DynBlock>,
    /// Operands in slot order.
    slots: Vec<Option<Value>>,
    /// The type that the output must have.
    dtype: DType,
    expected: Option<Value>,
    bounds: Result<(f64, f64), String>,
}

/// How far a result is from the expected one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Difference {
    /// Largest absolute difference.
    pub(super) max_abs: f64,
    /// Largest relative difference of what is larger than the absolute bound.
    pub(super) max_rel: f64,
}

/// A judgement: the difference where there is one to tell, and what is wrong, if anything is.
pub(super) type Judgement = (Option<Difference>, Result<(), String>);

/// Reads the file; the header is told even if the rest makes no sense.
pub(super) fn read(path: &Path) -> (Option<Header>, Result<Case, String>) {
    let file = match safetensors::read(path) {
        Ok(file) => file,
        Err(error) => return (None, Err(error.to_string())),
    };
    let text = |key: &str| file.metadata.get(key);
    let Some(op) = text("op").cloned() else {
        return (None, Err("its metadata has no `op`: not a conformance case".into()));
    };
    let header = Header { op: op.clone(), why: text("why").cloned().unwrap_or_default() };
    let case = || {
        if let Some((name, dtype)) = file.unsupported.iter().next() {
            return Err(format!("`{name}` is stored as {dtype}, which is not supported"));
        }
        let line =
            frit::ops::find(&op).ok_or_else(|| format!("there is no operation `{op}` (yet)"))?;
        let mut options = options(text("options").map_or("{}", String::as_str))?;
        let block = (line.parse)(&mut options)?;
        options.finish()?;
        let mut tensors = file.params.clone();
        let expected = tensors.remove(EXPECTED);
        let slots = operands((line.slots)(), &tensors)?;
        let main = tensors.get(line.main).or(slots.first().and_then(Option::as_ref));
        let main = main.ok_or("it has no operand")?.dtype();
        // Packed bytes have no type that an output could have: its options say it.
        let specs: Vec<Option<&Spec>> = slots.iter().map(|s| s.as_ref().map(Value::spec)).collect();
        let said = || block.infer_list(&specs).map_or(main, |spec| spec.dtype);
        let dtype = if main.is_float() { main } else { said() };
        let bound = |key: &str| {
            let number = text(key).and_then(|t| t.trim().parse::<f64>().ok());
            number
                .filter(|n| n.is_finite() && *n >= 0.0)
                .ok_or_else(|| format!("its metadata has no number `{key}` from 0"))
        };
        let bounds = bound("rtol").and_then(|rtol| Ok((rtol, bound("atol")?)));
        Ok(Case { block, slots, dtype, expected, bounds })
    };
    (Some(header), case())
}

/// Options from JSON.
fn options(text: &str) -> Result<Options, String> {
    let json: Json = serde_json::from_str(text).map_err(|e| format!("its `options`: {e}"))?;
    let Json::Object(object) = json else {
        return Err(format!("its `options` must be a JSON object, got {json}"));
    };
    object.into_iter().map(|(name, value)| Ok((name.clone(), option(&name, value)?))).collect()
}

fn option(name: &str, value: Json) -> Result<OptionValue, String> {
    let wrong = |got: &Json| {
        let wanted = "null, true, false, a number, a text or a list of numbers";
        format!("option `{name}` must be {wanted}, got {got}")
    };
    Ok(match &value {
        Json::Null => OptionValue::Null,
        Json::Bool(b) => OptionValue::Bool(*b),
        Json::Number(n) => OptionValue::Number(n.as_f64().ok_or_else(|| wrong(&value))?),
        Json::String(text) => OptionValue::Text(text.clone()),
        Json::Array(list) => {
            let numbers: Option<Vec<f64>> = list.iter().map(Json::as_f64).collect();
            OptionValue::List(numbers.ok_or_else(|| wrong(&value))?)
        }
        Json::Object(_) => return Err(wrong(&value)),
    })
}

/// Puts tensors into slots by name. A variadic operation has one slot `operand`; its tensors are
/// called `operand0`, `operand1` and so on.
fn operands(slots: &[Slot], tensors: &Params) -> Result<Vec<Option<Value>>, String> {
    let names: Vec<String> = match slots {
        [slot] if slot.name == "operand" => {
            (0..tensors.len()).map(|n| format!("{}{n}", slot.name)).collect()
        }
        _ => slots.iter().map(|slot| slot.name.to_string()).collect(),
    };
    if let Some((unknown, _)) = tensors.iter().find(|(name, _)| !names.iter().any(|n| n == name)) {
        let names = names.join(", ");
        return Err(format!("unknown operand `{unknown}`; its operands are {names}"));
    }
    let missing = names.iter().enumerate().find(|(at, name)| {
        tensors.get(name).is_none() && !slots.get(*at).is_some_and(|s| s.optional)
    });
    match missing {
        Some((_, name)) => Err(format!("operand `{name}` is missing")),
        None => Ok(names.iter().map(|name| tensors.get(name).cloned()).collect()),
    }
}

impl Case {
    /// Runs it.
    pub(super) fn run(&self, backend: &dyn Backend) -> Result<Value, frit::graph::Error> {
        let values: Vec<Value> = self.slots.iter().flatten().cloned().collect();
        let specs: Vec<Spec> = values.iter().map(|v| v.spec().clone()).collect();
        let graph = Graph::trace(&specs, |x| {
            let mut x = x.iter().cloned();
            let slots = self.slots.iter().map(|s| s.as_ref().and_then(|_| x.next())).collect();
            vec![Tensor::dyn_block(self.block.clone(), slots)]
        })?;
        let program = compile(&graph, backend, &Params::new(), Policy::Allow)?;
        Ok(program.run(values)?.remove(0))
    }

    /// Holds a result against the expected one: type, shape, and
    /// `|got - expected| <= atol + rtol * |expected|` everywhere.
    pub(super) fn judge(&self, got: &Value) -> Judgement {
        let expected = match &self.expected {
            Some(expected) => expected,
            None => return (None, Err(format!("it has no tensor `{EXPECTED}` to judge by"))),
        };
        let (relative, absolute) = match &self.bounds {
            Ok(bounds) => *bounds,
            Err(missing) => return (None, Err(missing.clone())),
        };
        if got.shape() != expected.shape() {
            let (got, wanted) = (got.shape(), expected.shape());
            return (None, Err(format!("shape {got:?}, expected {wanted:?}")));
        }
        if got.dtype() != self.dtype {
            return (None, Err(format!("type {}, expected {}", got.dtype(), self.dtype)));
        }
        compare(&got.to_f64(), &expected.to_f64(), relative, absolute)
    }
}

fn compare(got: &[f64], expected: &[f64], relative: f64, absolute: f64) -> Judgement {
    let mut difference = Difference { max_abs: 0.0, max_rel: 0.0 };
    let mut worst: Option<(f64, usize)> = None;
    for (at, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let error = if got == expected { 0.0 } else { (got - expected).abs() };
        let over = error - (absolute + relative * expected.abs());
        if (over > 0.0 || over.is_nan())
            && worst.is_none_or(|(most, _)| over.is_nan() || over > most)
        {
            worst = Some((over, at));
        }
        let larger =
            |most: f64, x: f64| if most.is_nan() || x.is_nan() { f64::NAN } else { most.max(x) };
        difference.max_abs = larger(difference.max_abs, error);
        if expected.abs() > absolute {
            difference.max_rel = larger(difference.max_rel, error / expected.abs());
        }
    }
    let judgement = match worst {
        None => Ok(()),
        Some((_, at)) => Err(format!(
            "max abs {:.3e}, max rel {:.3e}; at {at}: got {}, expected {}",
            difference.max_abs, difference.max_rel, got[at], expected[at]
        )),
    };
    (Some(difference), judgement)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_absolute_plus_relative_and_nan_is_past_every_bound() {
        let judge = |got: &[f64], expected: &[f64]| compare(got, expected, 0.1, 0.5);
        let (difference, ok) = judge(&[1.5, 11.5], &[1.0, 10.0]);
        assert_eq!(difference, Some(Difference { max_abs: 1.5, max_rel: 0.5 }));
        assert_eq!(ok, Ok(()));
        let (_, wrong) = judge(&[1.0, 11.6], &[1.0, 10.0]);
        assert!(wrong.is_err_and(|e| e.ends_with("at 1: got 11.6, expected 10")));
        for (got, expected) in [(f64::NAN, 0.0), (0.0, f64::NAN), (f64::INFINITY, 0.0)] {
            assert!(judge(&[1.0, got], &[1.0, expected]).1.is_err(), "{got} {expected}");
        }
        assert!(judge(&[f64::INFINITY], &[f64::INFINITY]).1.is_ok());
        assert!(judge(&[], &[]).1.is_ok());
    }

    #[test]
    fn options_are_read_from_json_and_what_has_no_meaning_is_named() {
        let mut good = options(r#"{"a": 1e-5, "b": null, "c": true, "d": "x", "e": [3, 0]}"#)
            .expect("these are options");
        assert_eq!(good.number("a", 0.0), Ok(1e-5));
        assert_eq!(good.number("b", 7.0), Ok(7.0));
        assert_eq!(good.flag("c", false), Ok(true));
        assert_eq!(good.text("d"), Ok(Some("x".into())));
        assert_eq!(good.pair("e"), Ok(Some((3, 0))));
        assert_eq!(good.finish(), Ok(()));
        for (text, says) in [
            ("{", "its `options`: "),
            ("[1]", "must be a JSON object, got [1]"),
            (r#"{"a": {"b": 1}}"#, "option `a` must be null"),
            (r#"{"a": ["x"]}"#, "option `a` must be null"),
        ] {
            assert!(options(text).is_err_and(|e| e.contains(says)), "{text}");
        }
    }

    #[test]
    fn tensors_find_their_slots_by_name() {
        let slot = |name, optional| Slot { name, optional };
        let tensors = |names: &[&str]| -> Params {
            names.iter().map(|n| (n.to_string(), Value::scalar(1.0f32))).collect()
        };
        let norm = [slot("x", false), slot("weight", true)];
        let filled = |names: &[&str]| {
            operands(&norm, &tensors(names)).map(|s| s.iter().map(Option::is_some).collect())
        };
        assert_eq!(filled(&["weight", "x"]), Ok(vec![true, true]));
        assert_eq!(filled(&["x"]), Ok(vec![true, false]));
        assert_eq!(filled(&["weight"]), Err("operand `x` is missing".into()));
        let unknown = Err("unknown operand `y`; its operands are x, weight".into());
        assert_eq!(filled(&["x", "y"]), unknown);

        let many =
            |names: &[&str]| operands(&[slot("operand", false)], &tensors(names)).map(|s| s.len());
        assert_eq!(many(&["operand0", "operand1", "operand2"]), Ok(3));
        assert!(many(&["operand0", "operand2"]).is_err_and(|e| e.contains("`operand2`")));
    }
}
