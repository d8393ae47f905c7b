//! The steps of FAB on the rows of a batch: projections onto a hyperplane within the box `[0,1]`, and the
//! closest point so far.
//!
//! `l2` says how distances are measured: in L2, or else in Linf. Everything happens on the device, row by
//! row: what a row becomes does not depend on the other rows.

use super::cross_entropy::labelled;
use super::prelude::*;
use kernels::fab;

/// How far a step goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stride {
    /// The largest weight of the step that starts at the clean image.
    pub alpha_max: f32,
    /// Factor on the way to the hyperplane; above 1 it goes beyond.
    pub eta: f32,
}

/// One step of the points `walk`, in place, towards where the linear model `h[n] + <w[n], . - walk[n]>` is 0:
/// `clip01((1 - al)(walk + eta d1) + al (x + eta d2))`, with d1 and d2 the shortest steps from `walk` and
/// from `x` within the box and `al = min(|d1| / (|d1| + |d2|), alpha_max)`. A hyperplane out of reach is
/// approached as far as the box allows.
pub fn step(l2: bool, walk: &mut Tensor, x: &Tensor, w: &Tensor, h: &Tensor, stride: Stride) -> Result<()> {
    same_shape("fab step", walk, x)?;
    same_shape("fab step", walk, w)?;
    let (rows, size) = rows_of("fab step", x, h.len())?;
    let (device, Stride { alpha_max, eta }) = (x.device(), stride);
    match l2 {
        true => fab::step_l2(device, rows, walk, x, w, h, alpha_max, eta, size),
        false => fab::step_linf(device, rows, walk, x, w, h, alpha_max, eta, size),
    }
}

/// Where `correct` is 0: `adv <- walk` and `best <- |walk - x|` if that is less than `best`; then `walk <- x
/// + beta (walk - x)`.
pub fn keep(
    l2: bool,
    walk: &mut Tensor,
    x: &Tensor,
    correct: &Buffer<i32>,
    best: &mut Buffer<f32>,
    adv: &mut Tensor,
    beta: f32,
) -> Result<()> {
    same_shape("fab keep", walk, x)?;
    same_shape("fab keep", walk, adv)?;
    let (rows, size) = rows_of("fab keep", x, best.len())?;
    labelled("fab keep", correct, rows)?;
    match l2 {
        true => fab::keep_l2(x.device(), rows, walk, x, correct, best, adv, beta, size),
        false => fab::keep_linf(x.device(), rows, walk, x, correct, best, adv, beta, size),
    }
}

/// 1 where the distance `best` is at most eps, else 0, also where it is NaN.
pub fn within(best: &Buffer<f32>, eps: f32) -> Result<Buffer<i32>> {
    let (device, n) = (best.device(), best.len());
    let mut flags = Buffer::uninit(device, n)?;
    fab::within(device, elementwise(device, n), best, &mut flags, eps, n)?;
    Ok(flags)
}

/// For each row the hyperplane `(h, w)` that is nearest to the point where it was taken.
pub struct Nearest {
    pub h: Tensor,
    pub w: Tensor,
    distance: Buffer<f32>,
    offered: bool,
}

impl Nearest {
    /// For points of the shape of `x`; nothing is in it before the first [`Nearest::offer`].
    pub fn new(x: &Tensor) -> Result<Nearest> {
        let (device, rows) = (x.device(), x.shape().first().copied().unwrap_or(0));
        let h = Tensor::uninit(device, &[rows])?;
        Ok(Nearest {
            h,
            w: Tensor::uninit(device, x.shape())?,
            distance: Buffer::uninit(device, rows)?,
            offered: false,
        })
    }

    /// Takes the hyperplane of class `k` in the rows where `|h| / (|w|_dual + 1e-12)` is less than so far and
    /// `k` is not the label. The first offer is taken in all rows.
    pub fn offer(&mut self, l2: bool, k: usize, h: &Tensor, w: &Tensor, labels: &Buffer<i32>) -> Result<()> {
        same_shape("fab nearest", &self.w, w)?;
        same_shape("fab nearest", &self.h, h)?;
        let (rows, size) = rows_of("fab nearest", w, h.len())?;
        labelled("fab nearest", labels, rows)?;
        let (device, dual, first) = (w.device(), if l2 { 2 } else { 1 }, !self.offered);
        let (w_k, h_k, Nearest { w, h, distance, .. }) = (w, h, &mut *self);
        fab::Nearest { w_k, h_k, labels, w, h, distance, k, dual, first, size }.launch(device, rows)?;
        self.offered = true;
        Ok(())
    }
}

fn rows_of(op: &'static str, x: &Tensor, values: usize) -> Result<(usize, usize)> {
    let rows = x.shape().first().copied().unwrap_or(0);
    if rows != values {
        return Err(Error::Shape { op, expected: format!("{values} rows"), got: x.shape().to_vec() });
    }
    Ok((rows, x.len() / rows.max(1)))
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    let mut cases = Vec::new();
    let shapes: [&[usize]; 8] =
        [&[3, 1], &[5, 7], &[5, 12], &[3, 33], &[5, 8, 8, 1], &[3, 7, 5, 3], &[2, 32, 32, 3], &[1, 4097]];
    for (shape, l2) in shapes.into_iter().flat_map(|shape| [(shape, false), (shape, true)]) {
        let (n, size) = (shape[0], shape[1..].iter().product::<usize>());
        let clean = Input::uniform(shape, 0.0, 1.0);
        let near = |scale: f32| {
            let mut walk = Input::normal_seeded(shape, 9).scaled(scale);
            walk.values.iter_mut().zip(&clean.values).for_each(|(d, x)| *d = (*d + x).clamp(0.0, 1.0));
            walk
        };
        let corners =
            || Input::values(shape, clean.values.iter().map(|v| (*v > 0.3) as i32 as f32).collect());
        let normal = || Input::normal_seeded(shape, 4);
        let sparse = || {
            let mut w = normal();
            w.values.iter_mut().enumerate().for_each(|(i, w)| *w = if i % 3 == 0 { 0.0 } else { *w });
            w
        };
        let steep = || {
            let mut w = normal();
            w.values.iter_mut().for_each(|w| *w = w.signum() * (4.0 * *w).exp());
            w
        };
        let ties = || {
            let mut w = normal();
            w.values.iter_mut().for_each(|w| *w = if *w > 0.0 { 1.0 } else { -1.0 });
            w
        };
        // How much of the largest possible change of the linear model h asks for: nothing, little, nearly
        // all, more than there is.
        let settings = [
            ("", near(0.03), clean.values.clone(), normal(), 0.02),
            ("from the image itself", near(0.0), clean.values.clone(), normal(), 0.01),
            ("zeros in w", near(0.1), clean.values.clone(), sparse(), -0.1),
            ("steep w", near(0.1), clean.values.clone(), steep(), 0.2),
            ("equal weights", near(0.1), clean.values.clone(), ties(), -0.3),
            ("from corners", corners(), corners().values, normal(), -0.2),
            ("all from one value", Input::filled(shape, 0.5), vec![0.25; n * size], ties(), 0.4),
            ("on the hyperplane", near(0.1), clean.values.clone(), normal(), 0.0),
            ("far", near(0.1), clean.values.clone(), normal(), 0.97),
            ("out of reach", near(0.1), clean.values.clone(), normal(), -1.5),
            ("w = 0", near(0.1), clean.values.clone(), Input::filled(shape, 0.0), 0.5),
            ("tiny w", near(0.1), clean.values.clone(), normal().scaled(1e-30), 0.05),
            ("huge w", near(0.1), clean.values.clone(), normal().scaled(1e25), 0.05),
        ];
        for (name, walk, x, w, part) in settings {
            let total = |row: usize| w.values[row * size..][..size].iter().map(|w| w.abs()).sum::<f32>();
            let h: Vec<f32> =
                (0..n).map(|row| if total(row) == 0.0 { part } else { 0.5 * part * total(row) }).collect();
            // alpha_max 0 and eta 1 show the step from the walk alone, alpha_max 1 weighs both.
            for (alpha_max, eta) in [(0.0, 1.0), (0.1, 1.05), (1.0, 1.0)] {
                let inputs =
                    [walk.values.clone(), x.clone(), w.values.clone()].map(|v| Input::values(shape, v));
                let inputs = inputs.into_iter().chain([Input::values(&[n], h.clone())]);
                let run = move |_: &Device, t: &[Tensor]| {
                    let mut walk = t[0].clone();
                    step(l2, &mut walk, &t[1], &t[2], &t[3], Stride { alpha_max, eta })?;
                    walk.to_vec()
                };
                let name = format!("step {shape:?} l2 {l2} {name} alpha {alpha_max}");
                let case = Case::kernel(name, inputs.collect::<Vec<_>>(), run, move |v| {
                    let row = |i: usize, n: usize| v[i][n * size..][..size].to_vec();
                    let one = |n: usize| {
                        let (alpha, eta) = (alpha_max as f64, eta as f64);
                        oracle::step(l2, &row(0, n), &row(1, n), &row(2, n), v[3][n], alpha, eta)
                    };
                    (0..n).flat_map(one).collect()
                });
                // The sum <w, d> has an error of 1e-7 of its terms, and near the last corner all of it falls
                // on few coordinates.
                cases.push(case.tolerance(2e-5, 1e-5));
            }
        }
        let mut walk = near(0.05);
        walk.values[0] = f32::NAN;
        let inputs = [walk, Input::values(shape, clean.values.clone()), normal()];
        let run = move |device: &Device, t: &[Tensor]| {
            let (mut walk, mut adv) = (t[0].clone(), t[2].clone());
            let correct: Vec<i32> = (0..n as i32).map(|i| i % 2).collect();
            let bests: Vec<f32> = (0..n).map(|i| if i == 2 { 1e-3 } else { f32::INFINITY }).collect();
            let (correct, mut best) =
                (Buffer::from_slice(device, &correct)?, Buffer::from_slice(device, &bests)?);
            keep(l2, &mut walk, &t[1], &correct, &mut best, &mut adv, 0.9)?;
            Ok([walk.to_vec()?, adv.to_vec()?, best.to_vec()?].concat())
        };
        cases.push(Case::kernel(format!("keep {shape:?} l2 {l2}"), inputs, run, move |v| {
            let (mut walks, mut advs, mut bests) = (vec![], vec![], vec![]);
            for n in 0..n {
                let row = |i: usize| &v[i][n * size..][..size];
                let d: Vec<f64> = row(0).iter().zip(row(1)).map(|(a, b)| a - b).collect();
                // Row 0 has a NaN: it is never kept.
                let norm = if n == 0 { f64::NAN } else { oracle::norm(l2, &d) };
                let before = if n == 2 { 1e-3 } else { f64::INFINITY };
                let (wrong, closer) = (n % 2 == 0, norm < before);
                bests.push(if wrong && closer { norm } else { before });
                advs.extend_from_slice(if wrong && closer { row(0) } else { row(2) });
                walks.extend((0..size).map(|i| if wrong { row(1)[i] + 0.9 * d[i] } else { row(0)[i] }));
            }
            [walks, advs, bests].concat()
        }));
        let inputs = [
            normal(),
            Input::normal_seeded(shape, 5).scaled(2.0),
            Input::normal_seeded(shape, 6).scaled(0.5),
        ];
        let run = move |device: &Device, t: &[Tensor]| {
            let labels = Buffer::from_slice(device, &(0..n as i32).map(|i| i % 4).collect::<Vec<_>>())?;
            let mut nearest = Nearest::new(&t[0])?;
            for (k, w) in t.iter().enumerate() {
                let h: Vec<f32> = (0..n).map(|i| (i + k) as f32 - 1.5).collect();
                nearest.offer(l2, k, &Tensor::from_slice(device, &[n], &h)?, w, &labels)?;
            }
            Ok([nearest.w.to_vec()?, nearest.h.to_vec()?].concat())
        };
        cases.push(Case::kernel(format!("nearest {shape:?} l2 {l2}"), inputs, run, move |v| {
            let (mut ws, mut hs) = (vec![], vec![]);
            for n in 0..n {
                let row = |k: usize| &v[k][n * size..][..size];
                let dual = |k: usize| {
                    if l2 { oracle::norm(true, row(k)) } else { row(k).iter().map(|w| w.abs()).sum() }
                };
                let h = |k: usize| (n + k) as f64 - 1.5;
                let far = |k: usize| if n % 4 == k { f64::INFINITY } else { h(k).abs() / (dual(k) + 1e-12) };
                let k = (0..3).fold(0, |best, k| if far(k) < far(best) { k } else { best });
                ws.extend_from_slice(row(k));
                hs.push(h(k));
            }
            [ws, hs].concat()
        }));
    }
    cases.push(Case::kernel(
        "within",
        [Input::values(&[15], [0.25, 0.24, 0.26, f32::INFINITY, f32::NAN].repeat(3))],
        |_, x| Ok(within(x[0].buffer(), 0.25)?.to_vec()?.iter().map(|f| *f as f32).collect()),
        |_| [1.0, 1.0, 0.0, 0.0, 0.0].repeat(3),
    ));
    cases
}

#[cfg(test)]
mod oracle {
    /// The shortest step within the box from v to where h + <w, . - v> is 0, by sorting the walls.
    pub fn shortest(l2: bool, v: &[f64], w: &[f64], h: f64) -> Vec<f64> {
        let slope: Vec<f64> = w.iter().map(|w| if h < 0.0 { -w } else { *w }).collect();
        let rate = |i: usize| if l2 { slope[i].abs() } else { 1.0 };
        let room = |i: usize| if slope[i] > 0.0 { v[i] } else { 1.0 - v[i] };
        let mut moving: Vec<usize> = (0..v.len()).filter(|i| slope[*i] != 0.0).collect();
        moving.sort_by(|a, b| (room(*a) / rate(*a)).total_cmp(&(room(*b) / rate(*b))));
        // What is gained at each wall, in order: the first piece that gains enough holds the root.
        let mut rise: f64 = moving.iter().map(|i| slope[*i].abs() * rate(*i)).sum();
        let (mut fixed, mut l) = (0.0, f64::INFINITY);
        for i in moving.iter().copied() {
            if fixed + rise * (room(i) / rate(i)) >= h.abs() {
                l = (h.abs() - fixed) / rise;
                break;
            }
            fixed += slope[i].abs() * room(i);
            rise -= slope[i].abs() * rate(i);
        }
        let mut d = vec![0.0; v.len()];
        for i in moving {
            let far = if l.is_finite() { (l * rate(i)).min(room(i)) } else { room(i) };
            d[i] = -slope[i].signum() * far;
        }
        d
    }

    pub fn norm(l2: bool, d: &[f64]) -> f64 {
        if l2 {
            d.iter().map(|d| d * d).sum::<f64>().sqrt()
        } else {
            d.iter().fold(0.0, |m, d| m.max(d.abs()))
        }
    }

    pub fn step(l2: bool, walk: &[f64], x: &[f64], w: &[f64], h: f64, alpha_max: f64, eta: f64) -> Vec<f64> {
        let there = h + w.iter().zip(x.iter().zip(walk)).map(|(w, (x, v))| w * (x - v)).sum::<f64>();
        let (d1, d2) = (shortest(l2, walk, w, h), shortest(l2, x, w, there));
        let (a1, a2) = (norm(l2, &d1).max(1e-8), norm(l2, &d2).max(1e-8));
        let al = (a1 / (a1 + a2)).min(alpha_max);
        let point = |i: usize| (1.0 - al) * (walk[i] + eta * d1[i]) + al * (x[i] + eta * d2[i]);
        (0..x.len()).map(|i| point(i).clamp(0.0, 1.0)).collect()
    }
}
