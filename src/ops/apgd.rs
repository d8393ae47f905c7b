//! Auto-PGD's step and its state per image; nothing of it is read back while the attack runs.

use super::prelude::*;
use kernels::apgd;

/// APGD's state of the images of a batch: step sizes, losses, counters, and which attacks succeeded.
pub struct State {
    /// `[N, MEMORY]`: eta, f_best, f_best at the last checkpoint, the loss before, increases since the
    /// checkpoint, halved there.
    images: Buffer<f32>,
    /// `[N]`: 1 where the clean image or an iterate so far was misclassified.
    pub success: Buffer<i32>,
    /// `[N]`: what [`keep`] is to copy.
    verdict: Buffer<i32>,
}

/// The place of a pass in an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// At its start x_0.
    Start,
    /// After a step.
    Step,
    /// After a step that ends a window of this many.
    Checkpoint(usize),
}

impl State {
    /// For n images; the first update fills it.
    pub fn new(device: &Device, n: usize) -> Result<State> {
        Ok(State {
            images: Buffer::uninit(device, n * apgd::MEMORY.on(device))?,
            success: Buffer::uninit(device, n)?,
            verdict: Buffer::uninit(device, n)?,
        })
    }

    /// Takes in a pass: the losses `[N]`, and whether the iterates and the clean images are classified
    /// correctly. A misclassified clean image counts as a success, and nothing is kept for it.
    pub fn update(
        &mut self,
        losses: &Tensor,
        adv_correct: &Buffer<i32>,
        clean_correct: &Buffer<i32>,
        eps: f32,
        phase: Phase,
    ) -> Result<()> {
        let n = self.success.len();
        for got in [losses.len(), adv_correct.len(), clean_correct.len()] {
            if got != n {
                return Err(Error::Shape {
                    op: "apgd",
                    expected: format!("a value for each of {n} images"),
                    got: vec![got],
                });
            }
        }
        let (first, window) = match phase {
            Phase::Start => (true, 0),
            Phase::Step => (false, 0),
            Phase::Checkpoint(window) => (false, window),
        };
        let device = losses.device();
        let grid = n.div_ceil(apgd::IMAGES.on(device));
        let State { images: memory, success, verdict } = self;
        apgd::Judge {
            loss: losses,
            held: adv_correct,
            right: clean_correct,
            memory,
            success,
            verdict,
            eps,
            first,
            window,
            n,
        }
        .launch(device, grid)
    }

    /// The elements of an image, for kernels that give a block to each.
    fn size(&self, x: &Tensor) -> Result<usize> {
        let n = self.success.len();
        if x.shape().first() != Some(&n) {
            return Err(Error::Shape {
                op: "apgd",
                expected: format!("{n} images"),
                got: x.shape().to_vec(),
            });
        }
        Ok(x.len() / n.max(1))
    }
}

/// One step of Linf: `prev`, x_{k-1}, becomes x_{k+1}, from `adv`, x_k, and its gradient. `a` is the weight
/// of the step against momentum.
pub fn step_linf(
    adv: &Tensor,
    prev: &mut Tensor,
    x: &Tensor,
    grad: &Tensor,
    memory: &State,
    eps: f32,
    a: f32,
) -> Result<()> {
    let size = equal(memory, x, &[adv, prev, grad])?;
    apgd::step_linf(x.device(), memory.success.len(), adv, prev, x, grad, &memory.images, eps, a, size)
}

/// One step of L2, as [`step_linf`].
pub fn step_l2(
    adv: &Tensor,
    prev: &mut Tensor,
    x: &Tensor,
    grad: &Tensor,
    memory: &State,
    eps: f32,
    a: f32,
) -> Result<()> {
    let size = equal(memory, x, &[adv, prev, grad])?;
    apgd::step_l2(x.device(), memory.success.len(), adv, prev, x, grad, &memory.images, eps, a, size)
}

/// The iterates of an attack and their gradients, each `[N,H,W,C]`.
pub struct Iterates {
    /// x_k, and the gradient there.
    pub adv: Tensor,
    pub grad: Tensor,
    /// The iterate of the largest loss, and the gradient there.
    pub best: Tensor,
    pub best_grad: Tensor,
    /// The last misclassified iterate; the clean image where there is none.
    pub found: Tensor,
}

impl Iterates {
    /// Copies the iterates that the last update chose.
    pub fn keep(&mut self, memory: &State) -> Result<()> {
        let size = equal(memory, &self.adv, &[&self.grad, &self.best, &self.best_grad, &self.found])?;
        let device = memory.verdict.device();
        let Iterates { adv, grad, best, best_grad, found } = self;
        apgd::keep(device, memory.success.len(), &memory.verdict, adv, grad, best, best_grad, found, size)
    }
}

fn equal(memory: &State, x: &Tensor, others: &[&Tensor]) -> Result<usize> {
    others.iter().try_for_each(|other| same_shape("apgd", x, other))?;
    memory.size(x)
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    let mut cases = vec![trace()];
    cases.extend([&[8, 5, 3, 3][..], &[8, 12], &[8, 39], &[8, 4, 4, 1]].map(kept));
    for shape in SAMPLES {
        for (eps, a) in [(0.03f32, 1.0f32), (0.5, 0.75), (0.0, 0.75), (100.0, 0.75)] {
            let (n, size) = (shape[0], shape[1..].iter().product::<usize>());
            let clean = Input::uniform(shape, 0.0, 1.0);
            let near = |seed| {
                let mut adv = Input::normal_seeded(shape, seed).scaled(0.02);
                adv.values.iter_mut().zip(&clean.values).for_each(|(d, x)| *d = (*d + x).clamp(0.0, 1.0));
                adv
            };
            let mut grad = Input::normal(shape);
            grad.values.iter_mut().step_by(5).for_each(|g| *g = 0.0);
            for (kind, grad) in [("", grad), (" no gradient", Input::filled(shape, 0.0))] {
                for l2 in [false, true] {
                    let run = move |device: &Device, t: &[Tensor]| {
                        let mut memory = State::new(device, n)?;
                        let ones = Buffer::from_slice(device, &vec![1; n])?;
                        memory.update(&Tensor::zeros(device, &[n])?, &ones, &ones, eps, Phase::Start)?;
                        let mut prev = t[1].clone();
                        let step = if l2 { step_l2 } else { step_linf };
                        step(&t[0], &mut prev, &t[2], &t[3], &memory, eps, a)?;
                        prev.to_vec()
                    };
                    let (eps, a) = (eps as f64, a as f64);
                    let want = move |v: &[Vec<f64>]| {
                        let row = |n: usize| {
                            let of = |at: usize| v[at][n * size..(n + 1) * size].to_vec();
                            next(&of(0), &of(1), &of(2), &of(3), eps, 2.0 * eps, a, l2)
                        };
                        (0..n).flat_map(row).collect()
                    };
                    let inputs = [
                        near(1),
                        near(2),
                        Input::values(shape, clean.values.clone()),
                        Input::values(shape, grad.values.clone()),
                    ];
                    let name = format!("step{kind} l2 {l2} {shape:?} eps {eps} a {a}");
                    cases.push(Case::kernel(name, inputs, run, want));
                }
            }
        }
    }
    cases
}

/// x_{k+1} of one image in float64.
#[cfg(test)]
#[allow(clippy::too_many_arguments)]
fn next(
    adv: &[f64],
    prev: &[f64],
    x: &[f64],
    grad: &[f64],
    eps: f64,
    eta: f64,
    a: f64,
    l2: bool,
) -> Vec<f64> {
    let norm = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
    let project = |v: Vec<f64>| -> Vec<f64> {
        let u: Vec<f64> = v.iter().zip(x).map(|(v, x)| v - x).collect();
        let length = norm(&u);
        let inside = |u: f64| if l2 { u / (length + 1e-12) * length.min(eps) } else { u.clamp(-eps, eps) };
        u.iter().zip(x).map(|(u, x)| (x + inside(*u)).clamp(0.0, 1.0)).collect()
    };
    let length = norm(grad);
    let direction = |g: f64| {
        if l2 { g / (length + 1e-12) } else { g.partial_cmp(&0.0).map_or(f64::NAN, |o| o as i8 as f64) }
    };
    let w = project(adv.iter().zip(grad).map(|(v, g)| v + eta * direction(*g)).collect());
    project((0..x.len()).map(|i| adv[i] + a * (w[i] - adv[i]) + (1.0 - a) * (adv[i] - prev[i])).collect())
}

/// The [`State`] of eight images, whose losses and hits are written out by hand, after a start,
/// three steps, a checkpoint, two steps and another checkpoint.
#[cfg(test)]
fn trace() -> super::testing::Case {
    use super::testing::*;
    // f(x_0), window of four, window of three. 0.75 * 4 = 3 increases are too few, and so are two of 0.75 * 3
    // = 2.25.
    let losses: [[f32; 8]; 8] = [
        // Rises always: never halved. The first loss counts as an increase because it is above 0, although it
        // is below f(x_0).
        [5.0, 1.0, 2.0, 3.0, 6.0, 7.0, 8.0, 9.0],
        // The same below 0: three increases of four, halved. The second window rises.
        [-1.0, -5.0, -4.0, -3.0, -2.0, -1.5, -1.0, 0.5],
        // Zero is no increase over nothing.
        [-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        // f_best stays in the first window, which is forgiven, and in the second: not halved before, so
        // halved there.
        [9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
        // Falls always; f_best stays in the second window, which the halving before forgives, but two of
        // three increases are too few.
        [1.0, 0.9, 0.8, 0.7, 0.6, 0.7, 0.8, 0.7],
        // Halved first, then three increases below f_best: forgiven.
        [1.0, 0.9, 0.8, 0.7, 0.6, 0.7, 0.8, 0.9],
        // An equal loss is neither an increase nor better.
        [2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0],
        // NaN is never better and never an increase.
        [1.0, f32::NAN, f32::NAN, 2.0, 3.0, 4.0, 5.0, 6.0],
    ];
    let moments = [
        Phase::Start,
        Phase::Step,
        Phase::Step,
        Phase::Step,
        Phase::Checkpoint(4),
        Phase::Step,
        Phase::Step,
        Phase::Checkpoint(3),
    ];
    let run = move |device: &Device, _: &[Tensor]| {
        let mut memory = State::new(device, 8)?;
        let mut values = Vec::new();
        for (k, moment) in moments.into_iter().enumerate() {
            let f: Vec<f32> = losses.iter().map(|image| image[k]).collect();
            // Image 0 is wrong once, image 1 at the start, image 2 is wrong when clean, the others never.
            let held: Vec<i32> = (0..8).map(|i| !matches!((i, k), (0, 2) | (1, 0) | (2, 5)) as i32).collect();
            let right: Vec<i32> = (0..8).map(|i| (i != 2) as i32).collect();
            let of = |flags: &[i32]| Buffer::from_slice(device, flags);
            memory.update(&Tensor::from_slice(device, &[8], &f)?, &of(&held)?, &of(&right)?, 0.5, moment)?;
            values.extend(memory.verdict.to_vec()?.iter().map(|v| *v as f32));
            values.extend(memory.success.to_vec()?.iter().map(|v| *v as f32));
            // eta and f_best.
            values.extend(memory.images.to_vec()?.chunks(6).flat_map(|m| [m[0], m[1]]));
        }
        Ok(values)
    };
    Case::kernel("a trace by hand", [], run, |_| {
        // Verdicts: 1 broken, 2 better, 4 restart.
        let verdicts: [[i32; 8]; 8] = [
            [2, 1 + 2, 2, 2, 2, 2, 2, 2],
            [0, 0, 2, 0, 0, 0, 0, 0],
            [1, 0, 2, 0, 0, 0, 0, 0],
            [0, 0, 2, 0, 0, 0, 0, 2],
            [2, 4, 2 + 4, 0, 4, 4, 4, 2 + 4],
            [2, 0, 2, 0, 0, 0, 0, 2],
            [2, 0, 2, 0, 0, 0, 0, 2],
            [2, 2, 2, 4, 4, 0, 4, 2],
        ];
        let success = |k: usize| [(k >= 2) as i32, 1, 1, 0, 0, 0, 0, 0];
        let etas: [[f64; 8]; 3] =
            [[1.0; 8], [1.0, 0.5, 0.5, 1.0, 0.5, 0.5, 0.5, 0.5], [1.0, 0.5, 0.5, 0.5, 0.25, 0.5, 0.25, 0.5]];
        let best: [[f32; 8]; 8] = [
            [5.0, -1.0, -1.0, 9.0, 1.0, 1.0, 2.0, 1.0],
            [5.0, -1.0, 0.0, 9.0, 1.0, 1.0, 2.0, 1.0],
            [5.0, -1.0, 1.0, 9.0, 1.0, 1.0, 2.0, 1.0],
            [5.0, -1.0, 2.0, 9.0, 1.0, 1.0, 2.0, 2.0],
            [6.0, -1.0, 3.0, 9.0, 1.0, 1.0, 2.0, 3.0],
            [7.0, -1.0, 4.0, 9.0, 1.0, 1.0, 2.0, 4.0],
            [8.0, -1.0, 5.0, 9.0, 1.0, 1.0, 2.0, 5.0],
            [9.0, 0.5, 6.0, 9.0, 1.0, 1.0, 2.0, 6.0],
        ];
        let after = |k: usize| {
            let flags = verdicts[k].into_iter().chain(success(k)).map(f64::from);
            let eta = etas[if k == 7 { 2 } else { (k >= 4) as usize }];
            flags
                .chain(eta.into_iter().zip(best[k]).flat_map(|(eta, best)| [eta, best as f64]))
                .collect::<Vec<f64>>()
        };
        (0..8).flat_map(after).collect()
    })
}

/// Every verdict's copies.
#[cfg(test)]
fn kept(shape: &[usize]) -> super::testing::Case {
    use super::testing::*;
    let size: usize = shape[1..].iter().product();
    let inputs: Vec<Input> = (0..5).map(|seed| Input::normal_seeded(shape, seed)).collect();
    let run = |device: &Device, t: &[Tensor]| {
        let mut memory = State::new(device, 8)?;
        memory.verdict = Buffer::from_slice(device, &(0..8).collect::<Vec<i32>>())?;
        let [adv, grad, best, best_grad, found] = [0, 1, 2, 3, 4].map(|at| t[at].clone());
        let mut carried = Iterates { adv, grad, best, best_grad, found };
        carried.keep(&memory)?;
        let Iterates { adv, grad, best, best_grad, found } = &carried;
        Ok([adv, grad, best, best_grad, found]
            .map(|t| t.to_vec())
            .into_iter()
            .collect::<Result<Vec<_>>>()?
            .concat())
    };
    Case::kernel(format!("every verdict {shape:?}"), inputs, run, move |v| {
        let pick = |of: fn(usize) -> usize| {
            (0..8).flat_map(|n| v[of(n)][n * size..(n + 1) * size].to_vec()).collect::<Vec<f64>>()
        };
        let adv = pick(|n| if n & 6 == 4 { 2 } else { 0 });
        let grad = pick(|n| if n & 6 == 4 { 3 } else { 1 });
        let best = pick(|n| if n & 2 == 2 { 0 } else { 2 });
        let best_grad = pick(|n| if n & 2 == 2 { 1 } else { 3 });
        let found = pick(|n| if n & 1 == 1 { 0 } else { 4 });
        [adv, grad, best, best_grad, found].concat()
    })
}
