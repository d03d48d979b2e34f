use frit_ops::Einsum;
use half::{bf16, f16};
use proptest::prelude::*;

use super::*;
use crate::simd::{available, with_isa};

/// Letters of the operands by number, extents of the axes, and letters of the output.
#[derive(Debug)]
struct Case {
    equation: String,
    operands: Vec<Vec<usize>>,
    shapes: Vec<Vec<usize>>,
    output: Vec<usize>,
    extents: Vec<usize>,
}

/// Letters that are written; those after them are the axes of an ellipsis.
const NAMES: &str = "abcdefgh";
const LETTERS: usize = NAMES.len();

impl Case {
    fn new(
        operands: Vec<Vec<usize>>,
        output: Vec<usize>,
        extents: &[usize],
        is_one: impl Fn(usize, usize) -> bool,
    ) -> Case {
        let text = |term: &[usize]| -> String {
            let name = |&l: &usize| NAMES.chars().nth(l).expect("a letter");
            let dots = if term.iter().any(|&l| l >= LETTERS) { "..." } else { "" };
            let named: String = term.iter().filter(|l| **l < LETTERS).map(name).collect();
            format!("{dots}{named}")
        };
        let terms: Vec<String> = operands.iter().map(|t| text(t)).collect();
        let equation = format!("{}->{}", terms.join(","), text(&output));
        let size = |i: usize, l: usize| if is_one(i, l) { 1 } else { extents[l] };
        let shape = |(i, t): (usize, &Vec<usize>)| t.iter().map(|&l| size(i, l)).collect();
        let shapes: Vec<Vec<usize>> = operands.iter().enumerate().map(shape).collect();
        // A letter that is 1 wherever it stands is 1.
        let largest = |l: usize| {
            let each = operands.iter().zip(&shapes).flat_map(|(t, s)| t.iter().zip(s));
            let sizes: Vec<usize> = each.filter(|x| *x.0 == l).map(|x| *x.1).collect();
            sizes.iter().copied().find(|&d| d != 1).unwrap_or(1)
        };
        let extents = (0..extents.len()).map(largest).collect();
        Case { equation, operands, shapes, output, extents }
    }

    /// From letters with their extents.
    fn named(equation: &str, extents: &[(char, usize)]) -> Case {
        let number = |c: char| NAMES.find(c).expect("a letter");
        let term = |t: &str| -> Vec<usize> { t.chars().map(number).collect() };
        let (inputs, output) = equation.split_once("->").expect("an arrow");
        let mut sizes = vec![1; LETTERS];
        extents.iter().for_each(|e| sizes[number(e.0)] = e.1);
        Case::new(inputs.split(',').map(term).collect(), term(output), &sizes, |_, _| false)
    }

    fn plan<T: Element>(&self) -> Plan<T> {
        let shapes: Vec<&[usize]> = self.shapes.iter().map(|s| &s[..]).collect();
        let bound = Einsum { equation: self.equation.clone() }.bind(&shapes);
        Plan::new(&bound.expect(&self.equation), &shapes)
    }

    /// Sums and sums of magnitudes, in f64, over every assignment of all letters.
    fn truth<T: Element>(&self, x: &[Vec<T>]) -> Vec<(f64, f64)> {
        let size: usize = self.output.iter().map(|&l| self.extents[l]).product();
        let mut y = vec![(0.0, 0.0); size];
        let used = |l: usize| self.operands.iter().any(|t| t.contains(&l));
        let extents: Vec<usize> =
            (0..self.extents.len()).map(|l| if used(l) { self.extents[l] } else { 1 }).collect();
        for n in 0..extents.iter().product::<usize>() {
            let mut rest = n;
            let at: Vec<usize> = extents
                .iter()
                .map(|d| {
                    let i = rest % d;
                    rest /= d;
                    i
                })
                .collect();
            let place = |term: &[usize], shape: &[usize]| {
                let axes = term.iter().zip(shape);
                axes.fold(0, |p, (&l, &d)| p * d + if d == 1 { 0 } else { at[l] })
            };
            let terms = self.operands.iter().zip(&self.shapes).zip(x);
            let product: f64 =
                terms.map(|((t, s), x)| f64::from(x[place(t, s)].to_f32())).product();
            let shape: Vec<usize> = self.output.iter().map(|&l| self.extents[l]).collect();
            let to = &mut y[place(&self.output, &shape)];
            *to = (to.0 + product, to.1 + product.abs());
        }
        y
    }

    /// Runs it on one thread and on three, and on every instruction set where no matrix product
    /// takes part (those have tests of their own); all but the latter with the same bits.
    fn results<T: Element>(&self, x: &[Vec<T>]) -> Vec<Vec<T>> {
        let plan = self.plan::<T>();
        let operands: Vec<&[T]> = x.iter().map(|x| &x[..]).collect();
        let run = |threads: usize| {
            let mut out = vec![T::from_f32(77.0); plan.lengths.1];
            // Full of NaN, so that nothing unwritten is read unnoticed.
            let mut room = vec![0xffu8; plan.scratch_bytes() + 64];
            let skip = room.as_ptr().align_offset(64);
            let scratch = &mut room[skip..][..plan.scratch_bytes()];
            plan.run(&Pool::new(threads), &operands, &mut out, scratch);
            out
        };
        let (one, three) = (run(1), run(3));
        let bits = |x: &[T]| x.iter().map(|x| x.to_f32().to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&one), bits(&three), "{}: threads show", self.equation);
        let folds = plan.steps.iter().all(|s| matches!(s.work, Work::Fold(_)));
        let sets = available().iter().filter(|_| folds);
        sets.map(|&isa| with_isa(isa, || run(1))).chain([one]).collect()
    }

    /// Whole numbers from -2 to 2, of which all sums are exact in f32, so that the result must be
    /// the truth rounded once.
    fn is_exact<T: Element>(&self) {
        let mut random = Random(self.equation.len() as u64);
        let x: Vec<Vec<T>> = self
            .shapes
            .iter()
            .map(|s| (0..s.iter().product()).map(|_| T::from_f32(random.whole())).collect())
            .collect();
        let truth = self.truth(&x);
        for got in self.results(&x) {
            assert_eq!(got.len(), truth.len(), "{self:?}");
            for (got, want) in got.iter().zip(&truth) {
                let want = T::from_f32(want.0 as f32).to_f32();
                assert_eq!(got.to_f32(), want, "{self:?} {:?}", self.plan::<T>().steps);
            }
        }
    }

    /// Uniform numbers from -1 to 1: within a rounding to `T` and errors of f32 sums.
    fn is_near<T: Element>(&self, rounding: f64) {
        let mut random = Random(7);
        let x: Vec<Vec<T>> = self
            .shapes
            .iter()
            .map(|s| (0..s.iter().product()).map(|_| T::from_f32(random.uniform())).collect())
            .collect();
        let truth = self.truth(&x);
        for got in self.results(&x) {
            for (got, &(want, size)) in got.iter().zip(&truth) {
                let room = rounding * want.abs() + 6e-8 + 4e-7 * size;
                let off = (f64::from(got.to_f32()) - want).abs();
                assert!(off <= room, "{self:?}: {} instead of {want}", got.to_f32());
            }
        }
    }
}

/// splitmix64
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / 8_388_608.0 - 1.0
    }

    fn whole(&mut self) -> f32 {
        (self.next() % 5) as f32 - 2.0
    }
}

/// Up to four operands of up to four letters, any of them twice, with an ellipsis of up to two
/// axes, any letter of an operand being 1 there.
fn cases() -> impl Strategy<Value = Case> {
    let term = (prop::collection::vec(0..6usize, 0..5), 0..3usize, any::<[bool; 10]>());
    let order = Just(vec![0, 1, 2, 3, 4, 5]).prop_shuffle();
    let terms = prop::collection::vec(term, 1..5);
    let extents = prop::collection::vec(1..6usize, 10);
    (terms, order, 0..64usize, any::<bool>(), extents, any::<bool>()).prop_map(
        |(terms, order, mask, with_dots, extents, ones)| {
            let all = |(named, dots, _): &(Vec<usize>, usize, _)| -> Vec<usize> {
                // The last axis of an ellipsis has the lower number.
                (0..*dots).rev().map(|d| LETTERS + d).chain(named.iter().copied()).collect()
            };
            let operands: Vec<Vec<usize>> = terms.iter().map(all).collect();
            let used = |l: &usize| operands.iter().any(|t| t.contains(l));
            let dots = [LETTERS + 1, LETTERS].into_iter().filter(|l| with_dots && used(l));
            let named = order.into_iter().filter(|l| mask >> l & 1 == 1 && used(l));
            let output: Vec<usize> = dots.chain(named).collect();
            Case::new(operands, output, &extents, |i, l| ones && terms[i].2[l])
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_equation_is_the_exact_sum_over_all_letters(case in cases()) {
        case.is_exact::<f32>();
        case.is_exact::<f16>();
        case.is_exact::<bf16>();
    }
}

/// Equations whose steps are of every kind, large enough to be shared out.
fn large() -> Vec<Case> {
    let sizes = |list: &[usize]| -> Vec<(char, usize)> {
        NAMES.chars().zip(list.iter().copied()).collect()
    };
    let case = |equation: &str, list: &[usize]| Case::named(equation, &sizes(list));
    vec![
        // Products: plain, transposed, batched, into other orders.
        case("ab,bc->ac", &[70, 65, 133]),
        case("ba,cb->ca", &[70, 65, 133]),
        case("abcd,aecd->acbe", &[2, 40, 3, 20, 50]),
        case("abcd,ecda->abe", &[3, 9, 4, 10, 30]),
        case("abc,cde->dabe", &[5, 6, 40, 7, 8]),
        case("abc,cde->eadb", &[5, 6, 40, 7, 8]),
        // Summed letters that are no run in one, or in both.
        case("abc,dcb->ad", &[40, 9, 8, 50]),
        case("bac,dbc->da", &[40, 9, 8, 50]),
        case("bac,cdb->ad", &[40, 9, 8, 50]),
        case("bac,cbd->da", &[20, 9, 8, 90]),
        // Diagonals, letters of one operand alone.
        case("aab,bcc->ac", &[30, 40, 20]),
        case("abe,bcd->ca", &[30, 20, 40, 3, 4]),
        // Folds: vectors, rows, elements, outer products, sums, copies.
        case("ab,b->a", &[700, 301]),
        case("ab,a->b", &[700, 301]),
        case("abc,ac->ab", &[30, 50, 33]),
        case("abc,abc->ab", &[30, 50, 33]),
        case("abc,acb->b", &[30, 50, 33]),
        case("ab,ba->ab", &[130, 150]),
        case("ab,a->ab", &[130, 150]),
        case("a,b->ba", &[130, 150]),
        case("a,a->", &[40_000]),
        case("abc->b", &[30, 50, 33]),
        case("abc->ac", &[30, 50, 33]),
        case("abc->", &[30, 50, 33]),
        case("aab->b", &[30, 500]),
        case("abc->cab", &[30, 50, 33]),
        case("abcd->dbac", &[7, 20, 13, 11]),
        // More operands.
        case("ab,bc,cd->ad", &[9, 30, 8, 40]),
        case("ab,cb,cd,ad->ac", &[20, 9, 30, 8]),
        case("abc,abd,acd->bcd", &[6, 7, 8, 9]),
        case("a,b,c,d,e,f->fbd", &[3, 4, 5, 6, 7, 8]),
    ]
}

#[test]
fn large_f32_sums_are_those_of_f64_loops() {
    large().iter().for_each(|c| c.is_near::<f32>(6e-8));
}

#[test]
fn large_f16_sums_are_those_of_f64_loops() {
    large().iter().for_each(|c| c.is_near::<f16>(4.9e-4));
}

#[test]
fn large_bf16_sums_are_those_of_f64_loops() {
    large().iter().for_each(|c| c.is_near::<bf16>(3.91e-3));
}

fn kinds<T: Element>(case: &Case) -> (Vec<&'static str>, usize) {
    let plan = case.plan::<T>();
    let kind = |s: &Step| if matches!(s.work, Work::Product(_)) { "product" } else { "fold" };
    (plan.steps.iter().map(kind).collect(), plan.floats)
}

#[test]
fn a_contraction_is_one_product_into_the_output_without_a_copy() {
    let sizes = [('a', 2), ('b', 30), ('c', 6), ('d', 64), ('e', 50)];
    for equation in [
        "bd,ed->be",
        "acbd,aced->acbe",
        "abcd,aecd->acbe",
        "acbe,aecd->abcd",
        "abcd,ecd->aeb",
        "dcb,cde->eb",
    ] {
        let case = Case::named(equation, &sizes);
        let copies = equation.starts_with("dcb");
        let want = if copies { vec!["fold", "product"] } else { vec!["product"] };
        assert_eq!(kinds::<f32>(&case).0, want, "{equation}");
        if !copies {
            assert_eq!(kinds::<f16>(&case), (want, 0), "{equation}");
        }
    }
}

#[test]
fn the_smaller_term_is_copied_where_the_summed_letters_are_no_run() {
    let sizes = [('a', 10), ('b', 8), ('c', 16), ('d', 100)];
    for (equation, copied) in [("bca,cbd->ad", 10 * 8 * 16), ("cbd,bca->ad", 10 * 8 * 16)] {
        assert_eq!(kinds::<f32>(&Case::named(equation, &sizes)).1, copied, "{equation}");
    }
}

#[test]
fn a_result_is_rounded_once_and_intermediates_never() {
    // 300 * 300 is not finite in f16.
    let case = Case::named("a,a,a->a", &[('a', 3)]);
    let x: Vec<Vec<f16>> =
        [[300.0; 3], [300.0; 3], [1.0, 0.5, 0.25]].map(|x| x.map(f16::from_f32).to_vec()).to_vec();
    for got in case.results(&x) {
        assert_eq!(
            got.iter().map(|x| x.to_f32()).collect::<Vec<_>>(),
            [f32::INFINITY, 45e3, 22.5e3].map(|x| f16::from_f32(x).to_f32())
        );
    }
}

#[test]
fn infinities_and_nan_stay_where_they_belong() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let (a, b) = (vec![1.0, inf, 0.0, -2.0, nan], vec![2.0, 1.0, inf, 3.0, 1.0]);
    let case = Case::named("a,a->a", &[('a', 5)]);
    for got in case.results(&[a.clone(), b.clone()]) {
        assert_eq!((got[0], got[1], got[3]), (2.0, inf, -6.0));
        assert!(got[2].is_nan() && got[4].is_nan(), "{got:?}");
    }
    let case = Case::named("a,b->ab", &[('a', 5), ('b', 5)]);
    for got in case.results(&[a, b]) {
        assert_eq!(got[..5], [2.0, 1.0, inf, 3.0, 1.0]);
        assert!(got[20..].iter().all(|x| x.is_nan()) && got[12].is_nan(), "{got:?}");
        assert_eq!((got[10], got[17]), (0.0, -inf));
    }
}

#[test]
fn a_transpose_moves_bits() {
    let x: Vec<f32> = (0..35).map(|i| if i % 3 == 0 { -0.0 } else { i as f32 }).collect();
    for got in Case::named("ab->ba", &[('a', 5), ('b', 7)]).results(std::slice::from_ref(&x)) {
        for (i, got) in got.iter().enumerate() {
            assert_eq!(got.to_bits(), x[i % 5 * 7 + i / 5].to_bits(), "element {i}");
        }
    }
}

#[test]
fn sums_over_nothing_are_zero_and_empty_results_are_empty() {
    let sizes = [('a', 3), ('b', 0), ('c', 4)];
    for (equation, want) in
        [("ab,bc->ac", 12), ("ab,bc->", 1), ("ab->a", 3), ("ab,bc->abc", 0), ("b,ac->c", 4)]
    {
        let case = Case::named(equation, &sizes);
        let x: Vec<Vec<f32>> = case.shapes.iter().map(|s| vec![1.0; s.iter().product()]).collect();
        for got in case.results(&x) {
            assert_eq!(got, vec![0.0; want], "{equation}");
        }
    }
}
