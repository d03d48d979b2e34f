//! What is known of a value while importing: everything that no input decides.
//!
//! Shapes are static here, so the arithmetic that models do on shapes is all known. It is imported
//! like any other arithmetic, and evaluated by the reference backend when an operator asks for the
//! numbers of an operand.

use frit_graph::{Op, Params, Prim, Tensor, Value, reference};
use std::{cell::RefCell, collections::HashMap};

/// Larger results are left to the backend: nothing that decides a shape is as large.
const MOST: usize = 1 << 22;

/// Values of nodes, as far as they were asked for.
pub(super) struct Known {
    params: Params,
    fixed: RefCell<HashMap<u64, bool>>,
    values: RefCell<HashMap<u64, Value>>,
}

impl Known {
    pub(super) fn new(params: Params) -> Known {
        Known { params, fixed: RefCell::default(), values: RefCell::default() }
    }

    /// Whether no input decides its value.
    pub(super) fn is_fixed(&self, t: &Tensor) -> bool {
        let mut fixed = self.fixed.borrow_mut();
        let mut stack = vec![(t.clone(), false)];
        while let Some((t, ready)) = stack.pop() {
            if fixed.contains_key(&t.id()) {
                continue;
            }
            let operands = || t.inputs().iter().flatten();
            if ready {
                let leaf = !matches!(t.op(), Op::Prim(Prim::Input(_)) | Op::Poison(_));
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

    /// The value, if no input decides it.
    pub(super) fn value(&self, t: &Tensor) -> Option<Value> {
        if !self.is_fixed(t) {
            return None;
        }
        let mut values = self.values.borrow_mut();
        self.evaluate(t, &mut values)
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
    fn what_an_input_decides_is_not_known_and_everything_else_is() {
        let known = Known::new(Params::new());
        let x = Tensor::input_of(0, Spec::new(DType::I64, [2]));
        let two = Tensor::scalar(DType::I64, 2.0);
        assert!(known.value(&(&x + &two)).is_none());
        let sum = Tensor::iota(Spec::new(DType::I64, [3]), 0) + &two;
        assert_eq!(known.value(&sum).expect("known").to_i64(), [2, 3, 4]);
    }

    #[test]
    fn large_results_are_not_computed() {
        let known = Known::new(Params::new());
        let wide = Tensor::full(Spec::new(DType::F32, [MOST + 1]), 1.0);
        assert!(known.value(&wide).is_none());
    }
}
