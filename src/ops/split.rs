//! RAAT's boundary split: margins at the clean, the adversarial and the reduced image, and which images lie
//! at the boundary.

use super::cross_entropy::labelled;
use super::prelude::*;
use kernels::split;

/// Whose definition of RAAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Variant {
    /// The authors' released code.
    Code,
    /// The paper.
    Paper,
}

/// The result of [`split()`] for a batch of N images, on the device.
pub struct Split {
    /// z_y - max over k != y of z_k, `[N]`, at X.
    pub clean: Tensor,
    /// The same at X'.
    pub adv: Tensor,
    /// The same at X''.
    pub reduced: Tensor,
    /// 1 where the image lies at the boundary, else 0.
    pub boundary: Buffer<u8>,
    /// 1 where h(X) = y, else 0.
    pub correct: Buffer<u8>,
}

/// Margins and split by the logits `[N,K]`, K >= 2, of X, of X' and of X'' = X + rho (X' - X).
///
/// `Code`: boundary is h(X) = y, h(X') != y and h(X'') != y; `Paper`: h(X'') != y. The first largest logit
/// decides, NaN before all numbers: with a margin of 0 the lower class. A label outside 0..K gives NaN
/// margins and is never correct.
pub fn split(
    device: &Device,
    z: &Tensor,
    z_adv: &Tensor,
    z_reduced: &Tensor,
    y: &Buffer<i32>,
    variant: Variant,
) -> Result<Split> {
    let [n, k] = z.matrix("split")?;
    same_shape("split", z, z_adv)?;
    same_shape("split", z, z_reduced)?;
    labelled("split", y, n)?;
    if k < 2 {
        return Err(Error::Shape { op: "split", expected: "at least two classes".into(), got: vec![n, k] });
    }
    let (mut boundary, mut correct) = (Buffer::uninit(device, n)?, Buffer::uninit(device, n)?);
    let margins = || Tensor::uninit(device, &[n]);
    let (mut clean, mut adv, mut reduced) = (margins()?, margins()?, margins()?);
    split::Margins {
        z,
        z_adv,
        z_reduced,
        labels: y,
        clean: &mut clean,
        adv: &mut adv,
        reduced: &mut reduced,
        boundary: &mut boundary,
        correct: &mut correct,
        strict: variant == Variant::Code,
        n,
        k,
    }
    .launch(device, n.div_ceil(split::ROWS.on(device)))?;
    Ok(Split { clean, adv, reduced, boundary, correct })
}

/// 1 where the first largest logit is the label's, else 0: [`Split::correct`] of one set of logits.
pub fn correct(device: &Device, z: &Tensor, y: &Buffer<i32>) -> Result<Buffer<u8>> {
    Ok(split(device, z, z, z, y, Variant::Code)?.correct)
}

/// Image n of the result is a's where `flags[n]` is not 0, else b's, bit for bit; a and b have one shape
/// `[N,...]`.
pub fn select(device: &Device, a: &Tensor, b: &Tensor, flags: &Buffer<u8>) -> Result<Tensor> {
    same_shape("select", a, b)?;
    let images = a.shape().first().copied().unwrap_or(0);
    if flags.len() != images {
        return Err(Error::Shape {
            op: "select",
            expected: format!("{images} flags"),
            got: vec![flags.len()],
        });
    }
    let n = a.len();
    let mut out = Tensor::uninit(device, a.shape())?;
    if n > 0 {
        split::select(device, elementwise(device, n), a, b, flags, &mut out, n, n / images)?;
    }
    Ok(out)
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::cross_entropy::test_labels;
    use super::reduce::ugly_logits;
    use super::testing::*;
    fn all(split: Split) -> Result<Vec<f32>> {
        let mut values = [split.clean.to_vec()?, split.adv.to_vec()?, split.reduced.to_vec()?].concat();
        for flags in [split.boundary, split.correct] {
            values.extend(flags.to_vec()?.iter().map(|f| *f as f32));
        }
        Ok(values)
    }
    let run = |labels: Vec<i32>, variant: Variant| {
        move |device: &Device, x: &[Tensor]| {
            all(split(device, &x[0], &x[1], &x[2], &Buffer::from_slice(device, &labels)?, variant)?)
        }
    };
    let mut cases = Vec::new();
    for variant in [Variant::Code, Variant::Paper] {
        let three = ugly_logits(1).into_iter().zip(ugly_logits(2)).zip(ugly_logits(3));
        for (((name, z), (_, z_adv)), (_, z_reduced)) in three.filter(|((z, _), _)| z.1.shape[1] >= 2) {
            let (n, k) = (z.shape[0], z.shape[1]);
            let oracle = move |x: &[Vec<f64>]| {
                let labels = test_labels(n, k);
                let rows = |v: usize| x[v].chunks(k).zip(labels.iter().map(|y| *y as usize));
                let margin = |(row, y): (&[f64], usize)| {
                    let rivals = row.iter().enumerate().filter(|(i, _)| *i != y);
                    row[y] - rivals.fold(f64::NEG_INFINITY, |m, (_, z)| m.max(*z))
                };
                let right = |(row, y): (&[f64], usize)| {
                    (0..k).all(|i| row[i] < row[y] || (i >= y && row[i] == row[y]))
                };
                let right: Vec<Vec<bool>> = (0..3).map(|v| rows(v).map(right).collect()).collect();
                let boundary = |i: usize| match variant {
                    Variant::Code => right[0][i] && !right[1][i] && !right[2][i],
                    Variant::Paper => !right[2][i],
                };
                let flags = (0..n)
                    .map(|i| boundary(i) as i32 as f64)
                    .chain((0..n).map(|i| right[0][i] as i32 as f64));
                (0..3).flat_map(|v| rows(v).map(margin).collect::<Vec<_>>()).chain(flags).collect()
            };
            let inputs = [z, z_adv, z_reduced];
            cases.push(
                Case::kernel(format!("{name} {variant:?}"), inputs, run(test_labels(n, k), variant), oracle)
                    .tolerance(1e-4, 1e-5),
            );
        }
    }
    // By hand, label 1 of 3 but in the last rows: ties at 0, below the label and above it; NaN; labels
    // outside.
    let nan = f32::NAN;
    let clean =
        vec![0., 2., 1., 2., 2., 1., 1., 2., 2., 0., 2., 1., 0., 2., 1., 0., nan, 9., 0., 2., 1., 0., 2., 1.];
    let adv =
        vec![3., 2., 1., 3., 2., 1., 3., 2., 1., 0., 2., 1., 3., 2., 1., 3., 2., 1., nan, 2., 1., 3., 2., 1.];
    let reduced =
        vec![2., 2., 1., 2., 2., 1., 0., 2., 4., 3., 2., 1., 1., 2., 2., 3., 2., 1., 3., 2., nan, 3., 2., 1.];
    let labels = vec![1, 1, 1, 1, 1, 1, 1, 3];
    let far = f64::NAN;
    let margins = [
        // At X, row 1 ties with the lower class 0 and is wrong, row 2 with class 2 and is right.
        [1., 0., 0., 1., 1., far, 1., far],
        [-1., -1., -1., 1., -1., -1., far, far],
        [0., 0., -2., -1., 0., -1., far, far],
    ];
    let correct = [1., 0., 1., 1., 1., 1., 1., 0.];
    let strict = [1., 0., 1., 0., 0., 1., 1., 0.];
    let loose = [1., 1., 1., 1., 0., 1., 1., 1.];
    for (variant, boundary) in [(Variant::Code, strict), (Variant::Paper, loose)] {
        let inputs = [&clean, &adv, &reduced].map(|v| Input::values(&[8, 3], v.clone()));
        let want = move |_: &[Vec<f64>]| [margins.concat(), boundary.to_vec(), correct.to_vec()].concat();
        cases.push(Case::kernel(format!("by hand, {variant:?}"), inputs, run(labels.clone(), variant), want));
    }
    for shape in ugly_shapes() {
        let (images, n) = (shape[0], shape.iter().product::<usize>());
        let flag = |i: usize| [0u8, 1, 0, 0, 255][i % 5];
        let inputs = [Input::normal_seeded(&shape, 1), Input::normal_seeded(&shape, 2)];
        let run = move |device: &Device, x: &[Tensor]| {
            let flags: Vec<u8> = (0..images).map(flag).collect();
            select(device, &x[0], &x[1], &Buffer::from_slice(device, &flags)?)?.to_vec()
        };
        let want = move |x: &[Vec<f64>]| {
            (0..n).map(|i| if flag(i / (n / images)) != 0 { x[0][i] } else { x[1][i] }).collect()
        };
        cases.push(Case::kernel(format!("select {shape:?}"), inputs, run, want).tolerance(0.0, 0.0));
    }
    cases
}
