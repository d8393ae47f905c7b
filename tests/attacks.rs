//! Gradient attacks: closed forms on linear models, APGD against a float64 reimplementation, and what must
//! hold for every attack.

use saddle::attack::{
    Apgd, ApgdLoss, Attack, AttackResult, Ball, Model, Norm, Objective, Params, Points, attacks, by_name,
    logits,
};
use saddle::device::testing::device;
use saddle::device::{Buffer, Device};
use saddle::nn::{Arch, Net, Shape};
use saddle::numeric::max_abs;
use saddle::ops::global_avg_pool::global_avg_pool;
use saddle::ops::linear::linear;
use saddle::ops::random_start::{Noise, surface};
use saddle::ops::relu::relu;
use saddle::rng::{Key, Purpose, Stream};
use saddle::tape::{Tape, Var};
use saddle::tensor::Tensor;

/// Linear layers with ReLUs between them, on images `[N,1,1,D]`.
struct Dense {
    layers: Vec<(Tensor, Tensor)>,
    classes: usize,
}

impl Model for Dense {
    fn logits(&mut self, tape: &Tape, x: Var) -> saddle::Result<Var> {
        let mut hidden = global_avg_pool(tape, x)?;
        for (i, (weight, bias)) in self.layers.iter().enumerate() {
            if i > 0 {
                hidden = relu(tape, hidden)?;
            }
            hidden = linear(tape, hidden, tape.constant(weight.clone()), Some(tape.constant(bias.clone())))?;
        }
        Ok(hidden)
    }

    fn classes(&self) -> usize {
        self.classes
    }
}

/// The same network in float64.
struct Wide {
    layers: Vec<(Vec<Vec<f64>>, Vec<f64>)>,
}

/// A network of these widths with normal weights, of unit variance behind each layer times `gain`; biases of
/// half that size.
fn dense(device: &Device, widths: &[usize], gain: f64, name: &str) -> (Dense, Wide) {
    let mut random = Stream::new(1, name);
    let layer = |pair: &[usize]| {
        let mut draw = |n: usize, scale: f64| {
            (0..n).map(|_| (scale * random.normal()) as f32 as f64).collect::<Vec<f64>>()
        };
        let scale = gain / (pair[0] as f64).sqrt();
        ((0..pair[1]).map(|_| draw(pair[0], scale)).collect(), draw(pair[1], gain / 2.0))
    };
    let wide = Wide { layers: widths.windows(2).map(layer).collect() };
    (wide.narrow(device), wide)
}

impl Wide {
    fn narrow(&self, device: &Device) -> Dense {
        let tensor = |shape: &[usize], values: &[f64]| {
            Tensor::from_slice(device, shape, &values.iter().map(|v| *v as f32).collect::<Vec<_>>()).unwrap()
        };
        let layer = |(weight, bias): &(Vec<Vec<f64>>, Vec<f64>)| {
            (tensor(&[weight.len(), weight[0].len()], &weight.concat()), tensor(&[bias.len()], bias))
        };
        Dense {
            layers: self.layers.iter().map(layer).collect(),
            classes: self.layers.last().unwrap().1.len(),
        }
    }

    fn layer(&self, at: usize, x: &[f64]) -> Vec<f64> {
        let (weight, bias) = &self.layers[at];
        weight
            .iter()
            .zip(bias)
            .map(|(row, b)| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + b)
            .collect()
    }

    fn logits(&self, x: &[f64]) -> Vec<f64> {
        (1..self.layers.len())
            .fold(self.layer(0, x), |z, at| self.layer(at, &z.iter().map(|v| v.max(0.0)).collect::<Vec<_>>()))
    }

    /// What becomes of a gradient in the logits on its way to the image.
    fn pull_back(&self, x: &[f64], mut grad: Vec<f64>) -> Vec<f64> {
        let mut before = vec![self.layer(0, x)];
        for at in 1..self.layers.len() {
            let active: Vec<f64> = before[at - 1].iter().map(|v| v.max(0.0)).collect();
            before.push(self.layer(at, &active));
        }
        for at in (0..self.layers.len()).rev() {
            let (weight, _) = &self.layers[at];
            grad = (0..weight[0].len())
                .map(|i| weight.iter().zip(&grad).map(|(row, g)| row[i] * g).sum())
                .collect();
            if at > 0 {
                grad.iter_mut().zip(&before[at - 1]).filter(|(_, v)| **v <= 0.0).for_each(|(g, _)| *g = 0.0);
            }
        }
        grad
    }
}

/// Classes in the order of falling logits.
fn ranked(z: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..z.len()).collect();
    order.sort_by(|a, b| z[*b].total_cmp(&z[*a]));
    order
}

fn uniform(name: &str, n: usize, low: f32, high: f32) -> Vec<f32> {
    let mut random = Stream::new(2, name);
    (0..n).map(|_| low + (high - low) * random.uniform()).collect()
}

fn indices(device: &Device, n: usize) -> Buffer<i32> {
    Buffer::from_slice(device, &(0..n as i32).map(|i| 7 * i + 3).collect::<Vec<_>>()).unwrap()
}

fn predicted(z: &Tensor) -> Vec<i32> {
    let k = z.shape()[1];
    let best = |row: &[f32]| (0..k).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as i32;
    z.to_vec().unwrap().chunks(k).map(best).collect()
}

fn bits(found: &AttackResult) -> (Vec<u32>, Vec<i32>) {
    (found.x_adv.to_vec().unwrap().iter().map(|v| v.to_bits()).collect(), found.success.to_vec().unwrap())
}

fn norm(d: &[f64], norm: Norm) -> f64 {
    match norm {
        Norm::Linf => max_abs(d.iter().copied()),
        Norm::L2 => d.iter().map(|v| v * v).sum::<f64>().sqrt(),
    }
}

#[test]
fn linear_models_are_attacked_to_the_closed_form() {
    let device = device();
    let (n, d) = (24, 30);
    let (mut model, wide) = dense(&device, &[d, 2], 3.0, "linear");
    // Far enough from 0 and 1 that only the ball bounds.
    let pixels = uniform("linear images", n * d, 0.4, 0.6);
    let x = Tensor::from_slice(&device, &[n, 1, 1, d], &pixels).unwrap();
    let labels = predicted(&logits(&mut model, &x).unwrap());
    let y = Buffer::from_slice(&device, &labels).unwrap();
    let w: Vec<f64> = (0..d).map(|i| wide.layers[0].0[0][i] - wide.layers[0].0[1][i]).collect();
    let margin = |x: &[f32], y: i32| {
        let z = wide.logits(&x.iter().map(|v| *v as f64).collect::<Vec<_>>());
        if y == 0 { z[0] - z[1] } else { z[1] - z[0] }
    };
    let clean: Vec<f64> = pixels.chunks(d).zip(&labels).map(|(x, y)| margin(x, *y)).collect();
    for ball in [Norm::Linf, Norm::L2] {
        // The most by which a perturbation of size 1 lowers the margin. The radius breaks half of the points.
        let reach =
            if ball == Norm::Linf { w.iter().map(|w| w.abs()).sum::<f64>() } else { norm(&w, Norm::L2) };
        let mut sorted = clean.clone();
        sorted.sort_by(f64::total_cmp);
        let eps = 0.5 * (sorted[n / 2 - 1] + sorted[n / 2]) / reach;
        let steepest = w.iter().fold(0.0, |m: f64, w| m.max(w.abs()));
        let largest = if ball == Norm::Linf { eps } else { eps * steepest / reach };
        assert!(largest < 0.4, "the box must not bind, but a pixel moves by {largest}");
        for name in ["fgsm", "pgd100", "cw100", "mim20", "apgd-ce"] {
            let params = Params { ball: Ball { norm: ball, eps: eps as f32 }, ..Params::default() };
            let found = by_name(name, &params)
                .unwrap()
                .run(&mut model, Points { x: &x, y: &y, images: &indices(&device, n) })
                .unwrap();
            let (x_adv, success) = (found.x_adv.to_vec().unwrap(), found.success.to_vec().unwrap());
            for i in 0..n {
                let best = clean[i] - eps * reach;
                assert_eq!(success[i] == 1, best < 0.0, "{name} {ball:?}: point {i}");
                if success[i] == 1 {
                    let got = margin(&x_adv[i * d..(i + 1) * d], labels[i]);
                    assert!(
                        (got - best).abs() < 1e-4 * clean[i].max(1.0),
                        "{name} {ball:?}: margin {got} instead of {best}"
                    );
                }
            }
        }
    }
}

/// What [`reference`] tells of a run.
struct Run {
    broken: bool,
    found: Vec<f64>,
    halvings: usize,
    /// DLR is 1 wherever the label is third: its gradient there is rounding noise, and nobody's path on from
    /// there is the right one.
    plateau: bool,
}

/// APGD on one image in float64, from x_0 on, as the paper and the authors' rules tell it.
fn reference(model: &Wide, apgd: &Apgd, x: &[f64], y: usize, x0: &[f64]) -> Run {
    let eps = apgd.ball.eps as f64;
    let target = ranked(&model.logits(x))[1];
    let mut plateau = false;
    let mut value = |at: &[f64]| {
        let z = model.logits(at);
        let (order, k) = (ranked(&z), z.len());
        let place = |i: usize| z[order[i - 1]];
        let mut g = vec![0.0; k];
        let f = match apgd.loss {
            ApgdLoss::CrossEntropy => {
                let total: f64 = z.iter().map(|v| (v - place(1)).exp()).sum();
                (0..k).for_each(|i| g[i] = (z[i] - place(1)).exp() / total - (i == y) as i32 as f64);
                total.ln() + place(1) - z[y]
            }
            loss => {
                let targeted = loss == ApgdLoss::DlrTargeted;
                let rival = if targeted { target } else { order[(order[0] == y) as usize] };
                let low = if targeted { 0.5 * (place(3) + place(4)) } else { place(3) };
                let (up, down) = (z[y] - z[rival], place(1) - low + 1e-12);
                g[y] -= 1.0 / down;
                g[rival] += 1.0 / down;
                g[order[0]] += up / down.powi(2);
                g[order[2]] -= up / down.powi(2) * if targeted { 0.5 } else { 1.0 };
                if targeted {
                    g[order[3]] -= 0.5 * up / down.powi(2);
                }
                -up / down
            }
        };
        plateau |= apgd.loss == ApgdLoss::Dlr && order[2] == y;
        (f, model.pull_back(at, g), order[0] != y)
    };
    let project = |v: Vec<f64>| -> Vec<f64> {
        let u: Vec<f64> = v.iter().zip(x).map(|(v, x)| v - x).collect();
        let length = norm(&u, Norm::L2);
        let inside = |u: f64| {
            if apgd.ball.norm == Norm::L2 {
                u / (length + 1e-12) * length.min(eps)
            } else {
                u.clamp(-eps, eps)
            }
        };
        u.iter().zip(x).map(|(u, x)| (x + inside(*u)).clamp(0.0, 1.0)).collect()
    };
    let (mut now, mut before) = (x0.to_vec(), x0.to_vec());
    let (mut f_best, mut g, wrong) = value(&now);
    let (mut broken, mut found) = (wrong, if wrong { now.clone() } else { x.to_vec() });
    let (mut x_best, mut g_best) = (now.clone(), g.clone());
    let (mut eta, mut halvings) = (2.0 * eps, 0);
    // Entry k is f(x_{k+1}); an entry before the first is 0.
    let mut losses: Vec<f64> = Vec::new();
    let (mut checked, mut halved) = (f_best, true);
    for k in 0..apgd.steps {
        let a = if k == 0 { 1.0 } else { 0.75 };
        let length = norm(&g, Norm::L2);
        let direction = |g: f64| {
            if apgd.ball.norm == Norm::L2 {
                g / (length + 1e-12)
            } else if g == 0.0 {
                0.0
            } else {
                g.signum()
            }
        };
        let w = project(now.iter().zip(&g).map(|(v, g)| v + eta * direction(*g)).collect());
        let next = project(
            (0..x.len()).map(|i| now[i] + a * (w[i] - now[i]) + (1.0 - a) * (now[i] - before[i])).collect(),
        );
        (before, now) = (now, next);
        let (f, gradient, wrong) = value(&now);
        g = gradient;
        if wrong {
            (broken, found) = (true, now.clone());
        }
        if f > f_best {
            (f_best, x_best, g_best) = (f, now.clone(), g.clone());
        }
        losses.push(f);
        let checkpoints = [22, 41, 57, 70, 80, 87, 93, 99];
        if let Some(at) = checkpoints.iter().position(|c| *c == k + 1) {
            let window = if at == 0 { 22 } else { checkpoints[at] - checkpoints[at - 1] };
            let rose = |j: usize| losses[j] > if j == 0 { 0.0 } else { losses[j - 1] };
            let increases = (k + 1 - window..=k).filter(|j| rose(*j)).count();
            let restart = increases as f64 <= 0.75 * window as f64 || (!halved && checked >= f_best);
            (halved, checked) = (restart, f_best);
            if restart {
                eta /= 2.0;
                halvings += 1;
                (now, g) = (x_best.clone(), g_best.clone());
            }
        }
    }
    Run { broken, found: if broken { found } else { x_best }, halvings, plateau }
}

#[test]
fn apgd_follows_the_specification() {
    let device = device();
    let (n, d) = (12, 6);
    let (mut model, wide) = dense(&device, &[d, 24, 24, 6], 1.6, "apgd");
    let pixels = uniform("apgd images", n * d, 0.0, 1.0);
    let x = Tensor::from_slice(&device, &[n, 1, 1, d], &pixels).unwrap();
    let labels = predicted(&logits(&mut model, &x).unwrap());
    let (y, images) = (Buffer::from_slice(&device, &labels).unwrap(), indices(&device, n));
    let widen = |values: &[f32]| values.iter().map(|v| *v as f64).collect::<Vec<f64>>();
    let (mut broken, mut plateaus, mut halvings, mut strays) = (0, 0, Vec::new(), Vec::new());
    for (ball, eps) in [(Norm::Linf, 0.25f32), (Norm::L2, 0.5)] {
        for loss in [ApgdLoss::CrossEntropy, ApgdLoss::Dlr, ApgdLoss::DlrTargeted] {
            let apgd = Apgd::new(
                loss,
                &Params { ball: Ball { norm: ball, eps }, targets: 1, seed: 5, ..Params::default() },
            );
            let found = apgd.run(&mut model, Points { x: &x, y: &y, images: &images }).unwrap();
            let (x_adv, success) = (widen(&found.x_adv.to_vec().unwrap()), found.success.to_vec().unwrap());
            let rank = if loss == ApgdLoss::DlrTargeted { 2 } else { 0 };
            let ranks = Buffer::from_slice(&device, &vec![rank; n]).unwrap();
            let noise = if ball == Norm::L2 { Noise::L2(eps) } else { Noise::Linf(eps) };
            let start =
                surface(&x, noise, Key::new(5, Purpose::Apgd, loss as u32, 0), &images, &ranks).unwrap();
            let start = widen(&start.to_vec().unwrap());
            for i in 0..n {
                let row = |values: &[f64]| values[i * d..(i + 1) * d].to_vec();
                let (clean, y) = (row(&widen(&pixels)), labels[i] as usize);
                let Run { broken: wrong, found, halvings: halved, plateau } =
                    reference(&wide, &apgd, &clean, y, &row(&start));
                assert_eq!(success[i] == 1, wrong, "{loss:?} {ball:?}: point {i}");
                let moved: Vec<f64> = row(&x_adv).iter().zip(&found).map(|(a, b)| a - b).collect();
                let apart = norm(&moved, Norm::Linf);
                // A hundred steps in float32; another halving or restart is a hundred times as far.
                if !plateau && apart >= 1e-4 {
                    strays.push(format!("{loss:?} {ball:?}: point {i} is {apart} away, {halved} halvings"));
                }
                plateaus += plateau as usize;
                broken += wrong as usize;
                halvings.push(halved);
            }
        }
    }
    // Two losses that are one in float32 may tell a rule otherwise than in float64, for a point or two of the
    // 72.
    assert!(strays.len() <= 2, "{strays:?}");
    // The comparison says something: points that broke and points that held, steps halved seldom and often.
    assert!(
        (20..60).contains(&broken) && plateaus < 12,
        "{broken} of {} broken, {plateaus} plateaus",
        halvings.len()
    );
    assert!(halvings.iter().any(|h| *h <= 4) && halvings.iter().any(|h| *h >= 7), "{halvings:?}");
}

#[test]
fn targets_go_from_the_runner_up_down_and_the_first_success_stays() {
    let device = device();
    let (n, d) = (60, 8);
    let (_, mut wide) = dense(&device, &[d, 5], 1.0, "targets");
    // Class 1 follows class 0 wherever that goes: the runner-up that never gets ahead.
    let (weight, bias) = &mut wide.layers[0];
    weight[1] = weight[0].clone();
    *bias = vec![0.5, 0.45, 0.0, 0.0, 0.0];
    let mut model = wide.narrow(&device);
    let pixels = uniform("target images", n * d, 0.0, 1.0);
    let x = Tensor::from_slice(&device, &[n, 1, 1, d], &pixels).unwrap();
    let labels = predicted(&logits(&mut model, &x).unwrap());
    let (y, images) = (Buffer::from_slice(&device, &labels).unwrap(), indices(&device, n));
    // Nine targets are asked for; five classes have four.
    let params = Params { ball: Ball::linf(0.2), steps: Some(20), ..Params::default() };
    let apgd = Apgd::new(ApgdLoss::DlrTargeted, &params);
    let (x_adv, success) = bits(&apgd.run(&mut model, Points { x: &x, y: &y, images: &images }).unwrap());
    let mut ranks_of_success = std::collections::BTreeSet::new();
    let points = Points { x: &x, y: &y, images: &images };
    let run = |model: &mut Dense, rank: i32| {
        let ranks = Buffer::from_slice(&device, &vec![rank; n]).unwrap();
        bits(&apgd.run_once(model, points, &ranks, 0).unwrap())
    };
    let by_rank: Vec<_> = (2..=5).map(|rank| run(&mut model, rank)).collect();
    for i in 0..n {
        let first = by_rank.iter().position(|(_, success)| success[i] == 1);
        assert_eq!(success[i] == 1, first.is_some(), "point {i}");
        let (want, _) = &by_rank[first.unwrap_or(by_rank.len() - 1)];
        assert_eq!(x_adv[i * d..(i + 1) * d], want[i * d..(i + 1) * d], "point {i}, attempt {first:?}");
        ranks_of_success.insert(first);
    }
    assert!(ranks_of_success.len() >= 3, "{ranks_of_success:?}");
    // Several ranks of one point in one batch: each as alone.
    let rows: Vec<(usize, i32)> = vec![(3, 5), (3, 2), (7, 4), (3, 3), (0, 2)];
    let of = |values: Vec<i32>| Buffer::from_slice(&device, &values).unwrap();
    let packed: Vec<f32> = rows.iter().flat_map(|(i, _)| pixels[i * d..(i + 1) * d].to_vec()).collect();
    let packed = Tensor::from_slice(&device, &[rows.len(), 1, 1, d], &packed).unwrap();
    let y = of(rows.iter().map(|(i, _)| labels[*i]).collect());
    let images = of(rows.iter().map(|(i, _)| 7 * *i as i32 + 3).collect());
    let ranks = of(rows.iter().map(|(_, rank)| *rank).collect());
    let (x_adv, success) =
        bits(&apgd.run_once(&mut model, Points { x: &packed, y: &y, images: &images }, &ranks, 0).unwrap());
    for (at, (i, rank)) in rows.iter().enumerate() {
        let (want, flags) = &by_rank[*rank as usize - 2];
        assert_eq!(
            (success[at], &x_adv[at * d..(at + 1) * d]),
            (flags[*i], &want[i * d..(i + 1) * d]),
            "row {at}"
        );
    }
    // An attack towards a class of the clean image ends there more often than elsewhere.
    let ends = |rank: usize| {
        let (found, flags) = &by_rank[rank - 2];
        let end = |i: usize| {
            ranked(&wide.logits(
                &found[i * d..(i + 1) * d].iter().map(|b| f32::from_bits(*b) as f64).collect::<Vec<_>>(),
            ))[0]
        };
        let aimed = |i: usize| {
            ranked(&wide.logits(&pixels[i * d..(i + 1) * d].iter().map(|v| *v as f64).collect::<Vec<_>>()))
                [rank - 1]
        };
        let broken: Vec<usize> = (0..n).filter(|i| flags[*i] == 1).collect();
        (broken.iter().filter(|i| end(**i) == aimed(**i)).count(), broken.len())
    };
    let (hit, all) = ends(2);
    assert!(all > 0 && 2 * hit > all, "{hit} of {all}");
}

/// A small network, images and labels; the labels of the last two images are wrong.
fn digits_like(device: &Device, n: usize) -> (Net, Tensor, Vec<i32>) {
    let shape = Shape { channels: 1, height: 8, classes: 10, mean: vec![], std: vec![] };
    let mut net = Net::new(device, Arch::find("resnet-mini").unwrap(), &shape, 3).unwrap();
    let x = Tensor::from_slice(device, &[n, 8, 8, 1], &uniform("digits", n * 64, 0.0, 1.0)).unwrap();
    let mut labels = predicted(&logits(&mut net, &x).unwrap());
    labels[n - 2..].iter_mut().for_each(|y| *y = (*y + 1) % 10);
    (net, x, labels)
}

fn every_attack(norm: Norm, eps: f32) -> Vec<Box<dyn Attack>> {
    let params = Params {
        ball: Ball { norm, eps },
        steps: Some(12),
        restarts: 2,
        targets: 3,
        seed: 4,
        ..Params::default()
    };
    attacks().map(|entry| by_name(entry.name.trim_end_matches('K'), &params).unwrap()).collect()
}

#[test]
fn every_attack_keeps_to_its_rules() {
    let device = device();
    let n = 11;
    let (mut net, x, labels) = digits_like(&device, n);
    let (y, images) = (Buffer::from_slice(&device, &labels).unwrap(), indices(&device, n));
    let clean = x.to_vec().unwrap();
    let mut outcomes = std::collections::BTreeSet::new();
    for (ball, eps) in
        [(Norm::Linf, 0.004f32), (Norm::L2, 0.03), (Norm::Linf, 0.1), (Norm::Linf, 0.0), (Norm::L2, 0.0)]
    {
        for attack in every_attack(ball, eps) {
            let what = format!("{} {ball:?} {eps}", attack.name());
            let found = attack.run(&mut net, Points { x: &x, y: &y, images: &images }).unwrap();
            let (x_adv, success) = (found.x_adv.to_vec().unwrap(), found.success.to_vec().unwrap());
            let classes = predicted(&logits(&mut net, &found.x_adv).unwrap());
            for i in 0..n {
                let rows = x_adv[i * 64..(i + 1) * 64].iter().zip(&clean[i * 64..(i + 1) * 64]);
                let d: Vec<f64> = rows.clone().map(|(a, b)| *a as f64 - *b as f64).collect();
                assert!(
                    rows.clone().all(|(a, _)| (0.0..=1.0).contains(a)),
                    "{what}: point {i} leaves [0, 1]"
                );
                assert!(
                    norm(&d, ball) <= eps as f64 * (1.0 + 1e-6) + 6e-8,
                    "{what}: point {i} leaves the ball"
                );
                assert_eq!(success[i] == 1, classes[i] != labels[i], "{what}: point {i}");
                let same = d.iter().all(|d| *d == 0.0);
                let mistake = i >= n - 2;
                assert!(same || eps > 0.0, "{what}: point {i} has changed");
                // PGD and its kin attack every image, as training does.
                let of_autoattack = ["apgd", "fab", "square"].iter().any(|name| what.starts_with(name));
                if of_autoattack && mistake {
                    assert!(same && success[i] == 1, "{what}: mistake {i}");
                }
                if what.starts_with("fab") && success[i] == 0 {
                    assert!(same, "{what}: point {i} has changed");
                } else if eps > 0.0 && !(of_autoattack && mistake) {
                    assert!(!same, "{what}: point {i} has not changed");
                }
            }
            outcomes.insert((eps > 0.0, success[..n - 2].contains(&1), success.contains(&0)));
        }
    }
    // Some attack broke some points and not all of them.
    assert!(outcomes.contains(&(true, true, true)), "{outcomes:?}");
    assert!(outcomes.iter().all(|(moves, broke, _)| *moves || !broke), "{outcomes:?}");
}

#[test]
fn results_do_not_depend_on_the_batch() {
    let device = device();
    let n = 13;
    let (mut net, x, labels) = digits_like(&device, n);
    let pixels = x.to_vec().unwrap();
    for (ball, eps) in [(Norm::Linf, 0.01f32), (Norm::L2, 0.06)] {
        for attack in every_attack(ball, eps) {
            let mut run = |rows: &[usize]| {
                let images: Vec<f32> =
                    rows.iter().flat_map(|i| pixels[i * 64..(i + 1) * 64].to_vec()).collect();
                let x = Tensor::from_slice(&device, &[rows.len(), 8, 8, 1], &images).unwrap();
                let of = |value: &dyn Fn(usize) -> i32| {
                    Buffer::from_slice(&device, &rows.iter().map(|i| value(*i)).collect::<Vec<_>>()).unwrap()
                };
                let (x_adv, success) = bits(
                    &attack
                        .run(
                            &mut net,
                            Points { x: &x, y: &of(&|i| labels[i]), images: &of(&|i| 7 * i as i32 + 3) },
                        )
                        .unwrap(),
                );
                rows.iter()
                    .zip(success)
                    .map(|(i, s)| (*i, s))
                    .zip(x_adv.chunks(64).map(<[u32]>::to_vec))
                    .collect::<Vec<_>>()
            };
            let mut whole = run(&(0..n).collect::<Vec<_>>());
            let mut parts = run(&[4]);
            parts.extend(run(&[9, 0, 12, 7, 2]));
            parts.extend(run(&[1, 3, 5, 6, 8, 10, 11]));
            whole.sort();
            parts.sort();
            assert!(whole == parts, "{} {ball:?}", attack.name());
        }
    }
}

#[test]
fn network_passes_do_not_depend_on_the_batch() {
    let device = device();
    for (arch, side, channels) in [("resnet-mini", 8, 1), ("resnet-mini", 32, 3), ("preact-resnet18", 8, 3)] {
        let shape = Shape {
            channels,
            height: side,
            classes: 10,
            mean: vec![0.4; channels],
            std: vec![0.3; channels],
        };
        let mut net = Net::new(&device, Arch::find(arch).unwrap(), &shape, 3).unwrap();
        let (n, size) = (40, side * side * channels);
        let pixels = uniform(arch, n * size, 0.0, 1.0);
        let labels: Vec<i32> = (0..n as i32).map(|i| i % 10).collect();
        let mut pass = |rows: std::ops::Range<usize>| {
            let images = &pixels[rows.start * size..rows.end * size];
            let x = Tensor::from_slice(&device, &[rows.len(), side, side, channels], images).unwrap();
            let y = Buffer::from_slice(&device, &labels[rows]).unwrap();
            let pass = Objective::Dlr.evaluate(&mut net, &x, &y).unwrap();
            [pass.logits, pass.losses, pass.grad]
                .map(|t| t.to_vec().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>())
        };
        let whole = pass(0..n);
        for rows in [0..1, 5..6, 3..10, 8..39, 17..33] {
            for (part, whole) in pass(rows.clone()).iter().zip(&whole) {
                let of_one = whole.len() / n;
                assert!(*part == whole[rows.start * of_one..rows.end * of_one], "{arch} {side}: {rows:?}");
            }
        }
    }
}

#[test]
fn restarts_add_and_several_passes_are_averaged() {
    let device = device();
    let (n, d) = (200, 8);
    let (mut model, _) = dense(&device, &[d, 32, 5], 2.0, "restarts");
    let x = Tensor::from_slice(&device, &[n, 1, 1, d], &uniform("restart images", n * d, 0.0, 1.0)).unwrap();
    let y = Buffer::from_slice(&device, &predicted(&logits(&mut model, &x).unwrap())).unwrap();
    let images = indices(&device, n);
    let mut broken = |name: &str, params: Params| {
        bits(
            &by_name(name, &params)
                .unwrap()
                .run(&mut model, Points { x: &x, y: &y, images: &images })
                .unwrap(),
        )
    };
    let params = Params { ball: Ball::linf(0.06), steps: Some(1), ..Params::default() };
    for name in ["pgd", "apgd-ce", "apgd-dlr", "square", "fab-t"] {
        let (first, once) = broken(name, params);
        let (kept, often) = broken(name, Params { restarts: 8, ..params });
        assert!(once.iter().sum::<i32>() < often.iter().sum::<i32>(), "{name}: {once:?} {often:?}");
        for i in (0..n).filter(|i| once[*i] == 1) {
            assert!(
                often[i] == 1 && kept[i * d..(i + 1) * d] == first[i * d..(i + 1) * d],
                "{name}: point {i}"
            );
        }
        let reseeded = broken(name, Params { seed: 1, ..params }).0;
        assert!(
            (reseeded == first) == (name == "fab-t"),
            "{name}: the seed decides the start, if that is random"
        );
    }
    // The mean over passes that are equal is the gradient of one: its signs are the same.
    let params = Params { steps: Some(20), ..params };
    assert_eq!(broken("apgd-dlr", params), broken("apgd-dlr", Params { eot_iter: 3, ..params }));
}

#[test]
fn names_and_errors() {
    let params = Params { restarts: 2, ..Params::default() };
    for (name, called) in [
        ("FGSM", "fgsm"),
        ("pgd20", "pgd20"),
        ("pgd-100", "pgd100"),
        ("pgd", "pgd20"),
        ("cw", "cw100"),
        ("cw_20", "cw20"),
        ("mim", "mim10"),
        ("apgd_ce", "apgd-ce"),
        ("apgd-dlr", "apgd-dlr"),
        ("apgd-t", "apgd-t"),
    ] {
        assert_eq!(by_name(name, &params).unwrap().name(), called);
    }
    let error = |name: &str, params: &Params| by_name(name, params).err().unwrap().to_string();
    assert!(error("apgd-cd", &params).contains("did you mean 'apgd-ce'?"));
    for name in ["fgsm7", "apgd-t9", "", "20"] {
        assert!(error(name, &params).starts_with(&format!("unknown attack '{name}'")), "{name}");
    }
    assert!(error("pgd99999999999999999999", &params).contains("takes at most 2147483647"));
    assert_eq!(error("pgd0", &params), "steps = 0: the attack pgd0 needs at least 1");
    assert_eq!(
        error("cw", &Params { restarts: 0, ..params }),
        "restarts = 0: the attack cw needs at least 1"
    );
    assert_eq!(
        error("cw", &Params { ball: Ball::linf(-1.0), ..params }),
        "eps = -1: must be a number, 0 or more"
    );
    let device = device();
    let (mut model, _) = dense(&device, &[4, 3], 1.0, "three classes");
    let x = Tensor::from_slice(&device, &[2, 1, 1, 4], &[0.5; 8]).unwrap();
    let (two, three) =
        (Buffer::from_slice(&device, &[0, 1]).unwrap(), Buffer::from_slice(&device, &[0, 1, 2]).unwrap());
    let run = |model: &mut Dense, name: &str, y: &Buffer<i32>| {
        by_name(name, &params).unwrap().run(model, Points { x: &x, y, images: &two }).map(|_| ())
    };
    let error = run(&mut model, "apgd-t", &two).unwrap_err().to_string();
    assert_eq!(error, "targeted DLR: expected logits of at least 4 classes, got shape [2, 3]");
    assert!(run(&mut model, "apgd-dlr", &two).is_ok());
    let error = run(&mut model, "pgd20", &three).unwrap_err().to_string();
    assert_eq!(error, "attack: expected images for 3 labels and 2 indices, got shape [2, 1, 1, 4]");
    let none = Tensor::zeros(&device, &[0, 1, 1, 4]).unwrap();
    let empty = Buffer::from_slice(&device, &[]).unwrap();
    for name in ["fgsm", "pgd20", "apgd-ce", "apgd-t"] {
        let found = by_name(name, &params)
            .unwrap()
            .run(&mut model, Points { x: &none, y: &empty, images: &empty })
            .unwrap();
        assert!(found.x_adv.is_empty() && found.success.is_empty(), "{name}");
    }
}
