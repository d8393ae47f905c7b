//! The supervised contrastive loss of adversarial feature alignment (arXiv 2402.12187), with adversarial
//! images as anchors.

use super::cross_entropy::labelled;
use super::linear::Product;
use super::prelude::*;
use super::reduce::{Reduction, Upstream, per_row};
use kernels::contrastive;

/// A feature shorter than this is divided by it instead of by its norm.
const NORM_FLOOR: f32 = 1e-12;

/// The features that an anchor is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum ContrastSet {
    /// The clean images, its own among them.
    Clean,
    /// The clean and the adversarial images, without the anchor itself.
    #[strum(to_string = "clean+adv")]
    CleanAdv,
}

/// `-1/|P(i)| * sum over p in P(i) of log(exp(s_ip) / sum over a of exp(s_ia))` for every adversarial image
/// i, from features `[N,D]` of the clean images and of the adversarial ones: a runs over the contrast set,
/// P(i) are its members with the label of i, s is the cosine of two features over `tau` > 0. The anchor's own
/// clean image is always a positive.
pub fn contrastive(
    tape: &Tape,
    clean: Var,
    adv: Var,
    labels: &Buffer<i32>,
    tau: f32,
    set: ContrastSet,
    reduction: Reduction,
) -> Result<Var> {
    let (features, anchors) = (tape.value(clean), tape.value(adv));
    same_shape("contrastive", &features, &anchors)?;
    let (device, [n, d]) = (tape.device(), features.matrix("contrastive")?);
    labelled("contrastive", labels, n)?;
    if tau.is_nan() || tau <= 0.0 {
        return Err(Error::value("tau", tau, "must be above 0"));
    }
    let (product, grid) = (Product::new(n, d, n)?, n.div_ceil(contrastive::ROWS.on(device)));
    let (members, queries) = (Units::new(&features)?, Units::new(&anchors)?);
    let mut against_clean = Buffer::uninit(device, n * n)?;
    product.forward(&queries.units, &members.units, None, &mut against_clean)?;
    let mut against_adv = match set {
        ContrastSet::Clean => None,
        ContrastSet::CleanAdv => Some(Buffer::uninit(device, n * n)?),
    };
    if let Some(similarities) = &mut against_adv {
        product.forward(&queries.units, &queries.units, None, similarities)?;
    }
    let mut losses = Tensor::uninit(device, &[n])?;
    let (clean_slopes, adv_slopes) = (&mut against_clean, against_adv.as_mut());
    contrastive::rows(device, grid, clean_slopes, adv_slopes, labels, &mut losses, 1.0 / tau, n)?;
    per_row(tape, losses, &[clean, adv], reduction, move |Upstream { grad_out, stride, factor }, sink| {
        let device = grad_out.device();
        let scaled = |slopes: &Buffer<f32>| -> Result<Buffer<f32>> {
            let mut out = Buffer::uninit(device, n * n)?;
            contrastive::scale(device, grid, grad_out, slopes, &mut out, stride, factor, n)?;
            Ok(out)
        };
        let mut grad_units = Buffer::uninit(device, n * d)?;
        let slopes = scaled(&against_clean)?;
        if let Some((into, accumulate)) = sink.slot(clean)? {
            product.backward_weight(&slopes, &queries.units, &mut grad_units, false)?;
            members.backward(&grad_units, into, accumulate)?;
        }
        if let Some((into, accumulate)) = sink.slot(adv)? {
            product.backward_input(&slopes, &members.units, &mut grad_units, false)?;
            if let Some(slopes) = &against_adv {
                // Each adversarial feature is an anchor and a member of the set.
                let slopes = scaled(slopes)?;
                product.backward_input(&slopes, &queries.units, &mut grad_units, true)?;
                product.backward_weight(&slopes, &queries.units, &mut grad_units, true)?;
            }
            queries.backward(&grad_units, into, accumulate)?;
        }
        Ok(())
    })
}

/// Features `[N,D]`, each divided by its Euclidean norm. Not differentiated.
pub fn unit_rows(features: &Tensor) -> Result<Tensor> {
    Tensor::new(Units::new(features)?.units, features.shape())
}

/// Features divided by their norms, and the norms.
struct Units {
    units: Buffer<f32>,
    norms: Buffer<f32>,
    grid: usize,
    sizes: [usize; 2],
}

impl Units {
    fn new(features: &Tensor) -> Result<Units> {
        let (device, [n, d]) = (features.device(), features.matrix("contrastive")?);
        let grid = n.div_ceil(contrastive::ROWS.on(device));
        let (mut units, mut norms) = (Buffer::uninit(device, n * d)?, Buffer::uninit(device, n)?);
        contrastive::units(device, grid, features, &mut units, &mut norms, NORM_FLOOR, n, d)?;
        Ok(Units { units, norms, grid, sizes: [n, d] })
    }

    /// The gradient of the features from that of the units.
    fn backward(&self, grad: &Buffer<f32>, into: &mut Buffer<f32>, accumulate: bool) -> Result<()> {
        let (Units { units, norms, grid, sizes: [n, d] }, device) = (self, grad.device());
        contrastive::units_backward(device, *grid, grad, units, norms, into, NORM_FLOOR, *n, *d, accumulate)
    }
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::reduce::reduce_wide;
    use super::testing::*;
    use ContrastSet::*;

    fn oracle(x: &[Vec<f64>], labels: &[i32], tau: f64, set: ContrastSet) -> Vec<f64> {
        let n = labels.len();
        let units = |f: &Vec<f64>| -> Vec<Vec<f64>> {
            let unit = |row: &[f64]| {
                let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(NORM_FLOOR as f64);
                row.iter().map(|v| v / norm).collect()
            };
            f.chunks(f.len() / n).map(unit).collect()
        };
        let (clean, adv) = (units(&x[0]), units(&x[1]));
        let loss = |i: usize| {
            let similar = |u: &[f64]| adv[i].iter().zip(u).map(|(a, b)| a * b).sum::<f64>() / tau;
            let mut members: Vec<(f64, bool)> =
                (0..n).map(|a| (similar(&clean[a]), labels[a] == labels[i])).collect();
            if set == CleanAdv {
                members
                    .extend((0..n).filter(|a| *a != i).map(|a| (similar(&adv[a]), labels[a] == labels[i])));
            }
            let top = members.iter().fold(f64::NEG_INFINITY, |m, (s, _)| m.max(*s));
            let log_sum = top + members.iter().map(|(s, _)| (s - top).exp()).sum::<f64>().ln();
            let positives: Vec<f64> =
                members.iter().filter(|(_, positive)| *positive).map(|(s, _)| s - log_sum).collect();
            -positives.iter().sum::<f64>() / positives.len() as f64
        };
        (0..n).map(loss).collect()
    }
    let case = |name: &str,
                [clean, adv]: [Input; 2],
                labels: Vec<i32>,
                tau: f32,
                set: ContrastSet,
                reduction: Reduction| {
        let name = format!("{name} {:?} tau {tau} {set:?} {reduction:?}", clean.shape);
        let wide = labels.clone();
        Case::op(
            name,
            [clean, adv],
            move |tape, v| {
                contrastive(
                    tape,
                    v[0],
                    v[1],
                    &Buffer::from_slice(tape.device(), &labels)?,
                    tau,
                    set,
                    reduction,
                )
            },
            move |x| reduce_wide(oracle(x, &wide, tau as f64, set), reduction),
        )
    };
    let features = |n: usize, d: usize| [Input::normal_seeded(&[n, d], 1), Input::normal_seeded(&[n, d], 2)];
    let classes = |n: usize, k: i32| (0..n as i32).map(|i| (i * 7 + i / 3) % k).collect::<Vec<i32>>();
    let mut cases = Vec::new();
    for set in [Clean, CleanAdv] {
        // Batches of one and two, tails of every tile, more than one block of rows, of features and of
        // products.
        for (n, d) in [(1, 3), (2, 1), (3, 33), (7, 64), (37, 257), (130, 20), (9, 1030)] {
            cases.push(case("random", features(n, d), classes(n, 3), 0.5, set, Reduction::Mean));
        }
        for reduction in [Reduction::Sum, Reduction::PerSample] {
            cases.push(case("reduced", features(6, 20), classes(6, 3), 0.1, set, reduction));
        }
        // One class: no negatives. Every image a class of its own: in `Clean` its clean image is the only
        // positive. Labels outside of 0..K.
        cases.push(case("one class", features(5, 8), vec![4; 5], 0.1, set, Reduction::PerSample));
        cases.push(case(
            "own classes",
            features(5, 8),
            vec![3, -1, 900, 0, 7],
            0.1,
            set,
            Reduction::PerSample,
        ));
        let [clean, adv] = features(6, 12);
        cases.push(case("clean constant", [clean.constant(), adv], classes(6, 3), 0.1, set, Reduction::Sum));
        let [clean, adv] = features(6, 12);
        cases.push(case("adv constant", [clean, adv.constant()], classes(6, 3), 0.1, set, Reduction::Sum));
        // Anchors on their clean images: exponents up to 1/tau = 100 above the others.
        let [clean, _] = features(8, 6);
        let same = Input::values(&clean.shape, clean.values.clone());
        let close = case("steep", [clean, same], classes(8, 3), 0.01, set, Reduction::PerSample);
        cases.push(close.tolerance(1e-4, 1e-5));
        let large = features(4, 10).map(|f| f.scaled(300.0));
        cases.push(case("+-300", large, classes(4, 2), 0.1, set, Reduction::Mean));
        // A feature of zeros has cosine 0 with every other; it is at a kink of the norm's floor, and not
        // differentiated here.
        let [mut clean, mut adv] = features(4, 10).map(Input::constant);
        clean.values[..10].fill(0.0);
        adv.values[10..20].fill(0.0);
        cases.push(case("zeros", [clean, adv], classes(4, 2), 0.1, set, Reduction::PerSample));
    }
    // A batch of one: its clean image is the whole set.
    let alone = |device: &Device, x: &[Tensor]| {
        let tape = Tape::new(device);
        let (clean, adv) = (tape.leaf(x[0].clone()), tape.leaf(x[1].clone()));
        let loss =
            contrastive(&tape, clean, adv, &Buffer::from_slice(device, &[5])?, 0.1, Clean, Reduction::Mean)?;
        let gradients = tape.backward(loss, None)?;
        let mut values = tape.value(loss).to_vec()?;
        for side in [clean, adv] {
            values.extend(gradients.get(side).map(Tensor::to_vec).transpose()?.unwrap_or_default());
        }
        Ok(values)
    };
    cases.push(
        Case::kernel("a batch of one has loss 0", features(1, 9), alone, |_| vec![0.0; 19])
            .tolerance(0.0, 0.0),
    );
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_settings_are_refused() {
        let device = Device::host().unwrap();
        let attempt = |rows: usize, labels: usize, tau: f32| {
            let tape = Tape::new(&device);
            let leaf = |rows: usize| tape.leaf(Tensor::zeros(&device, &[rows, 3]).unwrap());
            let labels = Buffer::from_slice(&device, &vec![0; labels]).unwrap();
            contrastive(&tape, leaf(2), leaf(rows), &labels, tau, ContrastSet::Clean, Reduction::Mean)
                .unwrap_err()
                .to_string()
        };
        for tau in [0.0, -0.1, f32::NAN] {
            assert_eq!(attempt(2, 2, tau), format!("tau = {tau}: must be above 0"));
        }
        assert_eq!(attempt(3, 2, 0.1), "contrastive: expected [2, 3] for both, got shape [3, 3]");
        assert_eq!(attempt(2, 3, 0.1), "contrastive: expected 2 labels, got shape [3]");
    }
}
