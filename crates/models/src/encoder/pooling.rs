//! From a vector for every token to one for the text.

use frit_graph::Value;

/// How the vectors of the tokens become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// The first of them.
    Cls,
    /// The largest of each element.
    Max,
}

impl Pooling {
    /// One vector for each row of `hidden` `[B, T, C]`, of the tokens that `keep` `[B, T]` has;
    /// zeros for a row without any.
    ///
    /// ```
    /// use frit_graph::Value;
    /// use frit_models::encoder::Pooling;
    /// let hidden = Value::new([1, 3, 2], vec![1.0f32, -4.0, 3.0, -2.0, 100.0, 100.0])?;
    /// let keep = [true, true, false];
    /// assert_eq!(Pooling::Mean.pool(&hidden, &keep), [[2.0, -3.0]]);
    /// assert_eq!(Pooling::Cls.pool(&hidden, &keep), [[1.0, -4.0]]);
    /// assert_eq!(Pooling::Max.pool(&hidden, &keep), [[3.0, -2.0]]);
    /// assert_eq!(Pooling::Mean.pool(&hidden, &[false; 3]), [[0.0, 0.0]]);
    /// # Ok::<(), frit_graph::Error>(())
    /// ```
    #[must_use]
    pub fn pool(self, hidden: &Value, keep: &[bool]) -> Vec<Vec<f32>> {
        let &[b, t, c] = hidden.shape() else { return Vec::new() };
        let all = hidden.to_f32();
        let row = |row: usize| {
            let kept = (row * t..(row + 1) * t).filter(|&i| keep.get(i) == Some(&true));
            let mut tokens = kept.map(|i| &all[i * c..(i + 1) * c]).peekable();
            let Some(first) = tokens.peek().map(|first| first.to_vec()) else {
                return vec![0.0; c];
            };
            match self {
                Pooling::Cls => first,
                Pooling::Max => tokens.skip(1).fold(first, |mut top, token| {
                    top.iter_mut().zip(token).for_each(|(top, x)| *top = top.max(*x));
                    top
                }),
                Pooling::Mean => {
                    let (mut sum, mut count) = (vec![0f64; c], 0.0);
                    for token in tokens {
                        sum.iter_mut().zip(token).for_each(|(sum, x)| *sum += f64::from(*x));
                        count += 1.0;
                    }
                    sum.iter().map(|sum| (sum / count) as f32).collect()
                }
            }
        };
        (0..b).map(row).collect()
    }
}

/// Makes the length of a vector 1 (in the sense of squares); zeros stay.
///
/// ```
/// let mut x = [3.0, 4.0];
/// frit_models::encoder::normalise(&mut x);
/// assert_eq!(x, [0.6, 0.8]);
/// ```
pub fn normalise(x: &mut [f32]) {
    let length = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        x.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}
