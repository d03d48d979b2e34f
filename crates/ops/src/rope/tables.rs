//! Where the cosines and sines of a rotation come from: known tables, tables that positions choose
//! from, or the cosine and sine of positions times frequencies.

use super::RopeLayout;
use crate::counting::{Counted, counted};
use frit_graph::{
    Binary, DType, Prim, Tensor, Unary, Value,
    pattern::{before_widening, known, number_of, same_value},
};

const READ: usize = 1 << 22;

/// How a rotation gets its angles.
pub(super) struct Angles {
    pub(super) base: f64,
    pub(super) scale: f64,
    pub(super) amplitude: f64,
    pub(super) offset: Option<Tensor>,
    pub(super) ids: Option<Tensor>,
    pub(super) inv_freqs: Option<Tensor>,
    /// The axis of x that positions run along, if there are several.
    pub(super) axis: Option<usize>,
}

type Frame = Vec<Option<usize>>;

/// A tensor seen in the axes of x.
#[derive(Clone)]
struct Seen {
    t: Tensor,
    frame: Frame,
}

impl Seen {
    fn of(t: &Tensor, rank: usize) -> Seen {
        let skip = rank - t.rank().min(rank);
        Seen { t: t.clone(), frame: (0..t.rank()).map(|a| Some(a + skip)).collect() }
    }

    /// The axes of x along which it has several places.
    fn along(&self) -> Option<Vec<usize>> {
        (0..self.t.rank()).filter(|&a| self.t.shape()[a] > 1).map(|a| self.frame[a]).collect()
    }

    /// Its operand, where the node only moves axes or casts.
    fn below(&self) -> Option<Seen> {
        let x = self.t.input(0)?;
        let frame = match self.t.prim()? {
            Prim::Cast | Prim::Broadcast => self.frame.clone(),
            Prim::Transpose(perm) => {
                let mut f = vec![None; perm.len()];
                perm.iter().enumerate().for_each(|(to, &from)| f[from] = self.frame[to]);
                f
            }
            Prim::Reshape => {
                let long = |s: &[usize]| -> Vec<usize> {
                    (0..s.len()).filter(|&i| s[i] != 1).collect()
                };
                let (a, b) = (long(x.shape()), long(self.t.shape()));
                let same = a.len() == b.len()
                    && a.iter().zip(&b).all(|(&i, &j)| x.shape()[i] == self.t.shape()[j]);
                same.then_some(())?;
                let mut f = vec![None; x.rank()];
                a.iter().zip(&b).for_each(|(&i, &j)| f[i] = self.frame[j]);
                f
            }
            _ => return None,
        };
        Some(Seen { t: x.clone(), frame })
    }

    fn on(&self, t: &Tensor) -> Seen {
        Seen { t: t.clone(), frame: self.frame.clone() }
    }

    /// One half of a tensor that repeats itself along the last axis as the layout wants it.
    fn halved(&self, half: usize, layout: RopeLayout) -> Option<Seen> {
        if self.t.spec().last() == Some(half) {
            return Some(self.clone());
        }
        match self.t.prim()? {
            Prim::Concat(axis) if axis + 1 == self.t.rank() && layout == RopeLayout::Split => {
                let (a, b) = (self.t.input(0)?, self.t.input(1)?);
                let twice = self.t.inputs().len() == 2 && same_value(a, b);
                (twice && a.spec().last() == Some(half)).then(|| self.on(a))
            }
            // repeat_interleave: a new last axis of two, broadcast and folded.
            Prim::Reshape if layout == RopeLayout::Interleaved => {
                let wide = self.t.input(0).filter(|w| w.shape().ends_with(&[half, 2]))?;
                let x = wide.input(0).filter(|_| wide.prim() == Some(&Prim::Broadcast))?;
                x.shape().ends_with(&[half, 1]).then_some(())?;
                let narrow = x.reshape(&x.shape()[..x.rank() - 1]);
                (narrow.rank() == self.t.rank()).then(|| self.on(&narrow))
            }
            _ => None,
        }
    }
}

/// The cosine or sine under views, casts, and a number that multiplies it; or what it is instead.
struct Table {
    seen: Seen,
    amplitude: f64,
    is_angle: bool,
}

fn table(
    t: &Tensor,
    rank: usize,
    half: usize,
    layout: RopeLayout,
    f: Unary,
) -> Result<Table, String> {
    let mut seen = Seen::of(t, rank);
    let (mut amplitude, mut is_angle) = (1.0, false);
    loop {
        if let Some(h) = seen.halved(half, layout).filter(|h| !h.t.is(&seen.t)) {
            seen = h;
            continue;
        }
        if let Some(below) = seen.below() {
            seen = below;
            continue;
        }
        let (x, y) = (seen.t.input(0), seen.t.input(1));
        match (seen.t.prim(), x) {
            (Some(Prim::Unary(u)), Some(x)) if *u == f && !is_angle => {
                seen = seen.on(x);
                is_angle = true;
            }
            (Some(Prim::Binary(Binary::Mul)), Some(x)) if !is_angle => {
                match (number_of(x), y.and_then(number_of)) {
                    (_, Some(n)) => (seen, amplitude) = (seen.on(x), amplitude * n),
                    (Some(n), _) => {
                        let y = y.ok_or("a product of one")?;
                        (seen, amplitude) = (seen.on(y), amplitude * n);
                    }
                    _ => return Err("the cosines are a product".into()),
                }
            }
            _ => return Ok(Table { seen, amplitude, is_angle }),
        }
    }
}

pub(super) fn angles(
    cos: &Tensor,
    sin: &Tensor,
    x: &[usize],
    half: usize,
    layout: RopeLayout,
) -> Result<Angles, String> {
    let rank = x.len();
    let (c, s) = (
        table(cos, rank, half, layout, Unary::Cos)?,
        table(sin, rank, half, layout, Unary::Sin)?,
    );
    if c.amplitude != s.amplitude || c.seen.frame != s.seen.frame {
        return Err("cosine and sine are not treated alike".into());
    }
    match (c.is_angle, s.is_angle) {
        (true, true) if same_value(&c.seen.t, &s.seen.t) => {
            let mut a = product(&c.seen, x, half, layout)?;
            a.amplitude = c.amplitude;
            Ok(a)
        }
        (true, true) => Err("cosine and sine are of different angles".into()),
        (false, false) => stored(&c, &s, x, half, layout),
        _ => Err("only one of cosine and sine is computed".into()),
    }
}

/// Angles that are positions times frequencies.
fn product(angle: &Seen, x: &[usize], half: usize, layout: RopeLayout) -> Result<Angles, String> {
    let last = x.len() - 1;
    let (p, q, outer) = match (angle.t.prim(), angle.t.input(0), angle.t.input(1)) {
        (Some(Prim::Binary(Binary::Mul)), Some(p), Some(q)) => (p, q, false),
        // transformers: a product of matrices with an inner extent of 1.
        (Some(Prim::MatMul), Some(p), Some(q)) if p.spec().last() == Some(1) => (p, q, true),
        _ => return Err("the angles are no product of positions and frequencies".into()),
    };
    let side = |t: &Tensor, gone: usize| {
        let mut s = angle.on(t);
        if outer {
            let n = s.frame.len();
            s.frame[n - gone] = None;
        }
        // Down to what is not repeated.
        while let (Some(Prim::Broadcast), Some(below)) = (s.t.prim(), s.below()) {
            s = below;
        }
        s
    };
    let (p, q) = (side(p, 1), side(q, 2));
    let is_frequency = |s: &Seen| s.along() == Some(if half > 1 { vec![last] } else { vec![] });
    let (frequency, position) = match (is_frequency(&q), is_frequency(&p)) {
        (true, _) => (q, p),
        (_, true) => (p, q),
        _ => return Err("the frequencies do not run along the last axis".into()),
    };
    let mut found = frequencies(&frequency.t, half, layout)?;
    positions(position, x, &mut found)?;
    Ok(found)
}

fn plain() -> Angles {
    Angles {
        base: 10000.0,
        scale: 1.0,
        amplitude: 1.0,
        offset: None,
        ids: None,
        inv_freqs: None,
        axis: None,
    }
}

fn frequencies(t: &Tensor, half: usize, layout: RopeLayout) -> Result<Angles, String> {
    let mut a = plain();
    match known(t, READ) {
        Some(v) => {
            let all = v.to_f64();
            let f: Vec<f64> = (0..half.min(all.len())).map(|i| all[of_pair(i, all.len(), half, layout)]).collect();
            let repeats = |(i, n): (usize, &f64)| f.get(pair(i, all.len(), half, layout)) == Some(n);
            if f.len() != half || !all.iter().enumerate().all(repeats) {
                return Err(format!("{} frequencies do not fit {half} pairs", all.len()));
            }
            set_frequencies(&mut a, &f, 1e-6)?;
        }
        None => {
            let mut t = t;
            while let (Some(Prim::Reshape | Prim::Broadcast | Prim::Cast), Some(x)) =
                (t.prim(), t.input(0))
            {
                t = x;
            }
            if t.dtype() != DType::F32 || t.spec().numel() != half {
                return Err(format!("the frequencies are {}, not f32[{half}]", t.spec()));
            }
            a.inv_freqs = Some(t.reshape(&[half]));
        }
    }
    Ok(a)
}

/// Base and scale of known frequencies, or the frequencies themselves.
fn set_frequencies(a: &mut Angles, f: &[f64], tolerance: f64) -> Result<(), String> {
    let half = f.len();
    if half == 0 || f.iter().any(|n| !n.is_finite()) {
        return Err("a frequency is no number".into());
    }
    let scale = if (f[0] - 1.0).abs() <= 1e-6 { 1.0 } else { f[0] };
    let dims = 2.0 * half as f64;
    let exact = (f[half - 1] / scale).ln() * -dims / (2.0 * (half - 1) as f64);
    let exact = if half == 1 { 10000.0f64.ln() } else { exact };
    // The bases that people choose are round numbers.
    let raw = exact.exp();
    let digits = 10f64.powf(raw.log10().floor() - 3.0);
    for base in [(raw / digits).round() * digits, raw] {
        let of = |i: usize| scale * base.powf(-2.0 * i as f64 / dims);
        if base > 0.0 && (0..half).all(|i| (f[i] - of(i)).abs() <= tolerance * of(i).abs()) {
            (a.base, a.scale) = (base, scale);
            return Ok(());
        }
    }
    let v = Value::new([half], f.iter().map(|&n| n as f32).collect()).map_err(|e| e.to_string())?;
    a.inv_freqs = Some(Tensor::constant(v));
    Ok(())
}

/// Positions `[B or 1, T]`, in any axes: counted from an offset, or given one by one.
fn positions(mut p: Seen, x: &[usize], a: &mut Angles) -> Result<(), String> {
    let along = p.along().ok_or("the axes of the positions are not followed")?;
    let sequence: Vec<usize> = along.iter().copied().filter(|&n| n != 0).collect();
    if sequence.len() > 1 {
        return Err("the positions run along several axes".into());
    }
    a.axis = sequence.first().copied();
    // A number times positions is a scale.
    loop {
        let (b, y) = (p.t.prim().cloned(), p.t.input(1));
        let next = match (&b, p.t.input(0), y, y.and_then(number_of)) {
            (Some(Prim::Binary(Binary::Mul)), Some(x), _, Some(n)) => Some((p.on(x), n)),
            (Some(Prim::Binary(Binary::Div)), Some(x), _, Some(n)) => Some((p.on(x), 1.0 / n)),
            (Some(Prim::Binary(Binary::Mul)), Some(x), Some(y), None) => {
                number_of(x).map(|n| (p.on(y), n))
            }
            _ if counted(&p.t).is_none() => p.below().map(|s| (s, 1.0)),
            _ => None,
        };
        let Some((s, n)) = next else {
            // Views above a scale.
            match p.below().filter(|s| s.t.prim().is_some_and(|p| !p.is_leaf()) && scaled(&s.t)) {
                Some(s) => {
                    p = s;
                    continue;
                }
                None => break,
            }
        };
        a.scale *= n;
        p = s;
    }
    let Some(Counted { coef, constant, term, along }) = counted(&p.t) else {
        return given(&p, a);
    };
    let steps: Vec<usize> = (0..coef.len()).filter(|&i| coef[i] != 0).collect();
    let by_one = match (steps[..].first(), a.axis) {
        (Some(&i), Some(axis)) => steps.len() == 1 && coef[i] == 1 && p.frame[i] == Some(axis),
        (None, None) => true,
        _ => false,
    };
    let batch = along.is_none_or(|i| p.frame[i] == Some(0) && p.t.shape()[i] == x[0]);
    match term {
        _ if !by_one || !batch => given(&p, a),
        None if constant == 0 => Ok(()),
        None => {
            a.offset = Some(Tensor::scalar(DType::I64, constant as f64));
            Ok(())
        }
        Some((t, 1)) => {
            a.offset = Some(if constant == 0 { t } else { t + constant as f64 });
            Ok(())
        }
        Some(_) => Err("the offset is multiplied".into()),
    }
}

fn scaled(t: &Tensor) -> bool {
    let mut t = t;
    while let (Some(Prim::Cast | Prim::Broadcast | Prim::Reshape), Some(x)) = (t.prim(), t.input(0)) {
        t = x;
    }
    matches!(t.prim(), Some(Prim::Binary(Binary::Mul | Binary::Div)))
}

fn given(p: &Seen, a: &mut Angles) -> Result<(), String> {
    let mut p = p.clone();
    while !p.t.dtype().is_integer() {
        p = p.below().ok_or("the positions are no integers")?;
    }
    let axes = p.along().ok_or("the axes of the positions are not followed")?;
    if !axes.is_sorted() {
        return Err("the positions are transposed".into());
    }
    a.ids = Some(p.t);
    Ok(())
}

/// The pair that a column of a table is for.
fn pair(column: usize, width: usize, half: usize, layout: RopeLayout) -> usize {
    match layout {
        RopeLayout::Interleaved if width > half => column / 2,
        _ => column % half,
    }
}

/// The first column of a table for a pair.
fn of_pair(pair: usize, width: usize, half: usize, layout: RopeLayout) -> usize {
    match layout {
        RopeLayout::Interleaved if width > half => 2 * pair,
        _ => pair,
    }
}

/// Tables that are known, row for row of the positions 0, 1, 2, ... or chosen from by positions.
fn stored(
    c: &Table,
    s: &Table,
    x: &[usize],
    half: usize,
    layout: RopeLayout,
) -> Result<Angles, String> {
    let unknown = "the cosines are a table that is not known when the graph is compiled";
    let mut a = plain();
    let (cos, sin) = match (c.seen.t.prim(), s.seen.t.prim()) {
        (Some(Prim::Gather(0)), Some(Prim::Gather(0))) => {
            let (Some(ct), Some(ci), Some(st), Some(si)) =
                (c.seen.t.input(0), c.seen.t.input(1), s.seen.t.input(0), s.seen.t.input(1))
            else {
                return Err(unknown.into());
            };
            if !same_value(ci, si) {
                return Err("cosine and sine are of different positions".into());
            }
            let along = c.seen.along().ok_or("the axes of the table are not followed")?;
            a.axis = along.into_iter().find(|&n| n != 0 && n + 1 != x.len());
            a.ids = Some(ci.clone());
            (ct.clone(), st.clone())
        }
        _ => {
            let along = c.seen.along().ok_or("the axes of the table are not followed")?;
            let rows: Vec<usize> = along.into_iter().filter(|n| n + 1 != x.len()).collect();
            if rows.len() > 1 {
                return Err("the table has more axes than positions and frequencies".into());
            }
            a.axis = rows.first().copied();
            if a.axis == Some(0) {
                return Err("the table has one row for each of the batch".into());
            }
            (c.seen.t.clone(), s.seen.t.clone())
        }
    };
    let read = |t: &Tensor| known(before_widening(t), READ).map(|v| v.to_f64()).ok_or(unknown);
    let (cos, sin) = (read(&cos)?, read(&sin)?);
    let width = c.seen.t.spec().last().unwrap_or(0);
    if (width != half && width != 2 * half) || cos.len() != sin.len() {
        return Err("the tables do not fit the pairs".into());
    }
    let at = |t: &[f64], row: usize, i: usize| t[row * width + i];
    let rows = cos.len() / width;
    a.amplitude = (at(&cos, 0, 0).powi(2) + at(&sin, 0, 0).powi(2)).sqrt();
    if (a.amplitude - 1.0).abs() < 1e-6 {
        a.amplitude = 1.0;
    }
    if rows > 1 {
        let f: Vec<f64> = (0..half)
            .map(|i| of_pair(i, width, half, layout))
            .map(|i| at(&sin, 1, i).atan2(at(&cos, 1, i)))
            .collect();
        set_frequencies(&mut a, &f, 1e-5)?;
    }
    let scale = a.scale;
    let given = a.inv_freqs.as_ref().and_then(|f| known(f, READ)).map(|v| v.to_f64());
    let frequency = |i: usize| match &given {
        Some(f) => f[i],
        None => scale * a.base.powf(-(i as f64) / half as f64),
    };
    // Tables are made in f32: their angles are as exact as that.
    for row in 0..rows {
        for i in 0..width {
            let (s, c) = (row as f64 * frequency(pair(i, width, half, layout))).sin_cos();
            let bound = 4e-7 * (1.0 + row as f64);
            let off = (at(&cos, row, i) - c * a.amplitude)
                .abs()
                .max((at(&sin, row, i) - s * a.amplitude).abs());
            if off > bound {
                return Err(format!(
                    "the table differs by {off:.1e} from frequencies times positions at row {row}, \
                     column {i}"
                ));
            }
        }
    }
    Ok(a)
}
