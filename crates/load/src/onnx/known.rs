//! What is known of a value while importing: everything that no input decides.
//!
//! Shapes are static here, so the arithmetic that models do on shapes is all known. It is imported
//! like any other arithmetic, and evaluated by the reference backend when an operator asks for the
//! numbers of an operand.

use frit_graph::{Op, Params, Prim, Tensor, Value, reference};
use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
};

/// Larger results are left to the backend: nothing that decides a shape is as large.
const MOST: usize = 1 << 22;

/// What was found out of nodes so far.
#[derive(Default)]
struct Memory {
    fixed: HashMap<u64, bool>,
    values: HashMap<u64, Value>,
}

/// Values of nodes, as far as they were asked for.
#[derive(Default)]
pub(super) struct Known {
    params: Params,
    /// Values of inputs, by position: the graph may be made for them.
    given: HashMap<usize, Value>,
    /// Without the inputs, and with them.
    memory: [RefCell<Memory>; 2],
    /// The inputs whose values the graph is made for.
    used: RefCell<BTreeSet<usize>>,
}

impl Known {
    pub(super) fn new(params: Params, given: HashMap<usize, Value>) -> Known {
        Known { params, given, ..Known::default() }
    }

    /// The value, if no input decides it.
    pub(super) fn value(&self, t: &Tensor) -> Option<Value> {
        self.find(t, false)
    }

    /// The value that the graph cannot be made without: inputs whose values are given may decide
    /// it, and the graph is for these values then.
    pub(super) fn demanded(&self, t: &Tensor) -> Option<Value> {
        self.find(t, false).or_else(|| self.find(t, true))
    }

    /// Positions of the inputs whose values were demanded.
    pub(super) fn used(self) -> BTreeSet<usize> {
        self.used.into_inner()
    }

    fn find(&self, t: &Tensor, given: bool) -> Option<Value> {
        let memory = &mut *self.memory[usize::from(given)].borrow_mut();
        match self.is_fixed(t, given, &mut memory.fixed) {
            true => self.evaluate(t, &mut memory.values),
            false => None,
        }
    }

    /// Whether everything that decides its value is known.
    fn is_fixed(&self, t: &Tensor, given: bool, fixed: &mut HashMap<u64, bool>) -> bool {
        let mut stack = vec![(t.clone(), false)];
        while let Some((t, ready)) = stack.pop() {
            if fixed.contains_key(&t.id()) {
                continue;
            }
            let operands = || t.inputs().iter().flatten();
            if ready {
                let leaf = match t.op() {
                    Op::Prim(Prim::Input(i)) => given && self.given.contains_key(i),
                    Op::Poison(_) => false,
                    _ => true,
                };
                let small = t.spec().numel() <= MOST;
                let all = leaf && small && operands().all(|o| fixed.get(&o.id()) == Some(&true));
                fixed.insert(t.id(), all);
            } else {
                stack.push((t.clone(), true));
                stack.extend(operands().map(|o| (o.clone(), false)));
            }
        }
        fixed.get(&t.id()) == Some(&true)
    }

    fn evaluate(&self, t: &Tensor, values: &mut HashMap<u64, Value>) -> Option<Value> {
        let mut stack = vec![(t.clone(), false)];
        while let Some((t, ready)) = stack.pop() {
            if values.contains_key(&t.id()) {
                continue;
            }
            if !ready {
                stack.push((t.clone(), true));
                stack.extend(t.inputs().iter().flatten().map(|o| (o.clone(), false)));
                continue;
            }
            let value = match t.op() {
                Op::Prim(Prim::Param(name)) => self.params.get(name)?.clone(),
                Op::Prim(Prim::Input(i)) => {
                    self.used.borrow_mut().insert(*i);
                    self.given.get(i)?.clone()
                }
                Op::Prim(prim) => {
                    let operands: Option<Vec<&Value>> =
                        t.inputs().iter().flatten().map(|o| values.get(&o.id())).collect();
                    reference::eval(prim, t.spec(), &operands?).ok()?
                }
                Op::Block(block) => {
                    let inner = block.compose_list(t.inputs())?;
                    self.evaluate(&inner, values)?
                }
                Op::Poison(_) => return None,
            };
            values.insert(t.id(), value);
        }
        values.get(&t.id()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frit_graph::{DType, Spec};

    #[test]
    fn what_an_input_decides_is_known_only_on_demand() {
        let value = Value::new([2], vec![3i64, 4]).expect("a value");
        let known = Known::new(Params::new(), HashMap::from([(0, value)]));
        let x = Tensor::input_of(0, Spec::new(DType::I64, [2]));
        let other = Tensor::input_of(1, Spec::new(DType::I64, [2]));
        let two = Tensor::scalar(DType::I64, 2.0);
        assert!(known.value(&(&x + &two)).is_none());
        assert!(known.demanded(&(&x + &other)).is_none());
        assert!(known.used.borrow().is_empty());
        assert_eq!(known.demanded(&(&x + &two)).expect("given").to_i64(), [5, 6]);
        assert_eq!(known.used(), BTreeSet::from([0]));
    }

    #[test]
    fn what_no_input_decides_is_known() {
        let known = Known::default();
        let sum = Tensor::iota(Spec::new(DType::I64, [3]), 0) + 2.0;
        assert_eq!(known.value(&sum).expect("known").to_i64(), [2, 3, 4]);
    }

    #[test]
    fn large_results_are_not_computed() {
        let known = Known::default();
        let wide = Tensor::full(Spec::new(DType::F32, [MOST + 1]), 1.0);
        assert!(known.value(&wide).is_none());
    }
}
