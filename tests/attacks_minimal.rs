//! FAB and Square against closed forms on linear models, their invariants, and that a point's result does not
//! depend on its batch.

use saddle::attack::{Attack, AttackResult, Ball, Fab, FabT, Model, Norm, Params, Points, Square};
use saddle::device::testing::device;
use saddle::device::{Buffer, Device, Order};
use saddle::error::Result;
use saddle::nn::{Arch, Net, Shape};
use saddle::numeric::max_abs;
use saddle::ops::linear::linear;
use saddle::rng::Stream;
use saddle::tape::{Tape, Var};
use saddle::tensor::Tensor;

const SHAPE: [usize; 3] = [5, 4, 3];
const SIZE: usize = 60;

/// Logits W x + b.
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// K rows of normal weights.
    fn new(device: &Device, classes: usize, stream: &mut Stream) -> Linear {
        let weight: Vec<f32> = (0..classes * SIZE).map(|_| stream.normal() as f32).collect();
        Linear {
            weight: Tensor::from_slice(device, &[classes, SIZE], &weight).unwrap(),
            bias: Tensor::zeros(device, &[classes]).unwrap(),
        }
    }
    /// z_1 - z_0 of each image, and the gradient's lengths in L1 and L2.
    fn two_classes(&self, x: &[f32]) -> (Vec<f64>, f64, f64) {
        let w = self.weight.to_vec().unwrap();
        let difference: Vec<f64> = (0..SIZE).map(|i| w[SIZE + i] as f64 - w[i] as f64).collect();
        let h = x.chunks(SIZE).map(|x| x.iter().zip(&difference).map(|(x, w)| *x as f64 * w).sum()).collect();
        let l1 = difference.iter().map(|w| w.abs()).sum();
        (h, l1, difference.iter().map(|w| w * w).sum::<f64>().sqrt())
    }
}

impl Model for Linear {
    fn logits(&mut self, tape: &Tape, x: Var) -> Result<Var> {
        let images = tape.value(x);
        let rows = images.reshape(&[images.shape()[0], SIZE])?;
        let flat = tape.push(rows, &[x], move |grad, sink| sink.pass(x, grad))?;
        linear(tape, flat, tape.constant(self.weight.clone()), Some(tape.constant(self.bias.clone())))
    }
    fn classes(&self) -> usize {
        self.weight.shape()[0]
    }
}

fn ints(device: &Device, values: &[i32]) -> Buffer<i32> {
    Buffer::from_slice(device, values).unwrap()
}

fn images(device: &Device, values: &[f32]) -> Tensor {
    Tensor::from_slice(device, &[&[values.len() / SIZE], &SHAPE[..]].concat(), values).unwrap()
}

/// Values around the middle of the box, so that its walls are far.
fn central(n: usize, stream: &mut Stream) -> Vec<f32> {
    (0..n * SIZE).map(|_| 0.45 + 0.1 * stream.uniform()).collect()
}

/// What each image is classified as.
fn classes(model: &mut dyn Model, x: &Tensor) -> Vec<i32> {
    let tape = Tape::new(x.device());
    let leaf = tape.constant(x.clone());
    let z = model.logits(&tape, leaf).unwrap();
    let k = model.classes();
    let z = tape.value(z).to_vec().unwrap();
    z.chunks(k)
        .map(|row| (1..k).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as i32)
        .collect()
}

fn distance(norm: Norm, a: &[f32], b: &[f32]) -> f64 {
    let d = a.iter().zip(b).map(|(a, b)| *a as f64 - *b as f64);
    match norm {
        Norm::Linf => max_abs(d),
        Norm::L2 => d.map(|d| d * d).sum::<f64>().sqrt(),
    }
}

/// Everything that holds for the result of any attack.
fn check(
    name: &str,
    model: &mut dyn Model,
    norm: Norm,
    eps: f32,
    x: &Tensor,
    y: &[i32],
    found: &AttackResult,
) {
    let (clean, adv, success) =
        (x.to_vec().unwrap(), found.x_adv.to_vec().unwrap(), found.success.to_vec().unwrap());
    let size = clean.len() / y.len();
    let (before, after) = (classes(model, x), classes(model, &found.x_adv));
    for n in 0..y.len() {
        let (a, b) = (&adv[n * size..][..size], &clean[n * size..][..size]);
        assert!(a.iter().all(|v| (0.0..=1.0).contains(v)), "{name} {n}: outside of the box");
        assert!(
            distance(norm, a, b) <= eps as f64 * (1.0 + 1e-5) + 1e-6,
            "{name} {n}: {} from x",
            distance(norm, a, b)
        );
        assert_eq!(success[n], (after[n] != y[n]) as i32, "{name} {n}");
        // FAB has no image to show where it fails; Square has the one that came closest.
        let shows = success[n] == 1 || name.starts_with("square");
        if before[n] != y[n] || !shows {
            assert_eq!(a, b, "{name} {n}: changed");
        } else if eps > 0.0 {
            assert_ne!(a, b, "{name} {n}: unchanged");
        }
    }
}

fn params(norm: Norm, eps: f32) -> Params {
    Params { ball: Ball { norm, eps }, ..Params::default() }
}

/// Every attack of this file in one ball, with few steps.
fn attacks(norm: Norm, eps: f32) -> Vec<Box<dyn Attack>> {
    let few = Params { steps: Some(8), targets: 3, restarts: 2, seed: 3, ..params(norm, eps) };
    let square = Square::new(&Params { steps: Some(120), ..few });
    vec![Box::new(FabT::new(&few)), Box::new(Fab::new(&few)), Box::new(square)]
}

/// How far FAB's closest point is from x on a linear model without walls, in units of the distance to the
/// hyperplane: its own steps on a line.
fn overshoot() -> f64 {
    let (mut at, mut closest) = (0.0, f64::INFINITY);
    for _ in 0..100 {
        let al = f64::min((1.0 - at) / ((1.0 - at) + 1.0), 0.1);
        at = (1.0 - al) * (at + 1.05 * (1.0 - at)) + al * 1.05;
        closest = closest.min(at);
        at *= 0.9;
    }
    closest
}

#[test]
fn fab_finds_the_distance_to_a_hyperplane() {
    let (device, mut stream) = (device(), Stream::new(1, "fab"));
    for norm in [Norm::Linf, Norm::L2] {
        let mut model = Linear::new(&device, 2, &mut stream);
        // Signs are random, so margins are small against the box.
        let values = central(12, &mut stream);
        let x = images(&device, &values);
        let y = classes(&mut model, &x);
        let (h, l1, l2) = model.two_classes(&values);
        let dual = if norm == Norm::Linf { l1 } else { l2 };
        let (labels, index) = (ints(&device, &y), ints(&device, &(0..12).collect::<Vec<_>>()));
        let walks: [Box<dyn Attack>; 2] =
            [Box::new(FabT::new(&params(norm, 1.0))), Box::new(Fab::new(&params(norm, 1.0)))];
        for attack in walks {
            let found = attack.run(&mut model, Points { x: &x, y: &labels, images: &index }).unwrap();
            assert_eq!(found.success.to_vec().unwrap(), [1; 12]);
            let adv = found.x_adv.to_vec().unwrap();
            for n in 0..12 {
                let (got, want) = (
                    distance(norm, &adv[n * SIZE..][..SIZE], &values[n * SIZE..][..SIZE]),
                    h[n].abs() / dual,
                );
                assert!(
                    (got - want * overshoot()).abs() <= 1e-4 * want + 1e-6,
                    "{norm:?} {n}: {got}, the hyperplane is at {want}"
                );
            }
        }
    }
}

#[test]
fn fab_counts_what_is_inside_the_ball_only() {
    let (device, mut stream) = (device(), Stream::new(2, "fab"));
    for norm in [Norm::Linf, Norm::L2] {
        let mut model = Linear::new(&device, 2, &mut stream);
        let values = central(40, &mut stream);
        let x = images(&device, &values);
        let y = classes(&mut model, &x);
        let (h, l1, l2) = model.two_classes(&values);
        let reach: Vec<f64> =
            h.iter().map(|h| overshoot() * h.abs() / if norm == Norm::Linf { l1 } else { l2 }).collect();
        let mut sorted = reach.clone();
        sorted.sort_by(f64::total_cmp);
        let eps = (0.5 * (sorted[19] + sorted[20])) as f32;
        let found = FabT::new(&params(norm, eps))
            .run(&mut model, Points { x: &x, y: &ints(&device, &y), images: &ints(&device, &[0; 40]) })
            .unwrap();
        let want: Vec<i32> = reach.iter().map(|r| (*r <= eps as f64) as i32).collect();
        assert_eq!(found.success.to_vec().unwrap(), want, "{norm:?}");
        check("fab-t", &mut model, norm, eps, &x, &y, &found);
    }
}

#[test]
fn square_comes_near_the_closed_form_and_never_passes_it() {
    let (device, mut stream) = (device(), Stream::new(3, "square"));
    for norm in [Norm::Linf, Norm::L2] {
        let mut model = Linear::new(&device, 2, &mut stream);
        let values = central(60, &mut stream);
        let x = images(&device, &values);
        let y = classes(&mut model, &x);
        let (h, l1, l2) = model.two_classes(&values);
        let dual = if norm == Norm::Linf { l1 } else { l2 };
        // Random search reaches a part of the best change only; small windows never get to the last row and
        // column.
        let index = ints(&device, &(0..60).collect::<Vec<_>>());
        let eps = (h.iter().map(|h| h.abs()).sum::<f64>() / 60.0 / dual) as f32;
        let square = Square::new(&Params { steps: Some(2000), ..params(norm, eps) });
        let found = square.run(&mut model, Points { x: &x, y: &ints(&device, &y), images: &index }).unwrap();
        check("square", &mut model, norm, eps, &x, &y, &found);
        let near = if norm == Norm::Linf { 0.8 } else { 0.6 };
        for (n, success) in found.success.to_vec().unwrap().into_iter().enumerate() {
            let needed = h[n].abs() / (eps as f64 * dual);
            assert!(
                success == 0 || needed <= 1.0 + 1e-5,
                "{norm:?} {n}: broken, but {needed} of the ball was needed"
            );
            assert!(success == 1 || needed > near, "{norm:?} {n}: not broken with {needed} of the ball");
        }
    }
}

#[test]
fn results_are_valid_and_mistakes_stay() {
    let mut stream = Stream::new(4, "invariants");
    for device in [device(), Device::host_checked(Order::Shuffled(3)).unwrap()] {
        let mut model = Linear::new(&device, 5, &mut stream);
        // Pixels at the walls too.
        let values: Vec<f32> =
            (0..20 * SIZE).map(|_| (1.4 * stream.uniform() - 0.2).clamp(0.0, 1.0)).collect();
        let x = images(&device, &values);
        let mut y = classes(&mut model, &x);
        y.iter_mut().step_by(4).for_each(|y| *y = (*y + 1) % 5);
        let (labels, index) = (ints(&device, &y), ints(&device, &(100..120).collect::<Vec<_>>()));
        for (norm, eps) in
            [(Norm::Linf, 0.08), (Norm::Linf, 0.0), (Norm::Linf, 2.0), (Norm::L2, 0.4), (Norm::L2, 0.0)]
        {
            for attack in attacks(norm, eps) {
                let name = format!("{} {norm:?} {eps}", attack.name());
                let found = attack.run(&mut model, Points { x: &x, y: &labels, images: &index }).unwrap();
                check(&name, &mut model, norm, eps, &x, &y, &found);
                let broken = found.success.to_vec().unwrap().iter().sum::<i32>();
                if eps == 0.0 {
                    assert_eq!(broken, 5, "{name}");
                    assert_eq!(found.x_adv.to_vec().unwrap(), values, "{name}");
                } else {
                    assert!(broken > 5, "{name}: nothing was broken");
                }
                // The same again gives the same bits.
                let again = attack.run(&mut model, Points { x: &x, y: &labels, images: &index }).unwrap();
                assert_eq!(again.x_adv.to_vec().unwrap(), found.x_adv.to_vec().unwrap(), "{name}");
            }
        }
    }
}

#[test]
fn a_point_does_not_depend_on_its_batch() {
    let (device, mut stream) = (device(), Stream::new(5, "batches"));
    let shape = Shape { channels: 1, height: 8, classes: 10, mean: vec![0.3], std: vec![0.4] };
    let mut net = Net::new(&device, Arch::find("resnet-mini").unwrap(), &shape, 3).unwrap();
    let n = 23;
    let values: Vec<f32> = (0..n * 64).map(|_| stream.uniform()).collect();
    let batch = |rows: &[usize]| {
        let pixels: Vec<f32> = rows.iter().flat_map(|row| values[row * 64..][..64].to_vec()).collect();
        Tensor::from_slice(&device, &[rows.len(), 8, 8, 1], &pixels).unwrap()
    };
    let all: Vec<usize> = (0..n).collect();
    let y = classes(&mut net, &batch(&all));
    // In another order, and less of them.
    let some: Vec<usize> = [17, 3, 22, 4, 0, 9, 11].to_vec();
    for attack in [attacks(Norm::Linf, 0.05), attacks(Norm::L2, 0.3)].into_iter().flatten() {
        let mut run = |rows: &[usize]| {
            let of =
                |f: &dyn Fn(usize) -> i32| ints(&device, &rows.iter().map(|row| f(*row)).collect::<Vec<_>>());
            let found = attack
                .run(
                    &mut net,
                    Points { x: &batch(rows), y: &of(&|row| y[row]), images: &of(&|row| 1000 + row as i32) },
                )
                .unwrap();
            (found.x_adv.to_vec().unwrap(), found.success.to_vec().unwrap())
        };
        let (whole, part) = (run(&all), run(&some));
        assert!(whole.1.contains(&1), "{}: nothing was broken", attack.name());
        for (at, row) in some.iter().enumerate() {
            assert_eq!(part.1[at], whole.1[*row], "{}: row {row}", attack.name());
            assert_eq!(part.0[at * 64..][..64], whole.0[row * 64..][..64], "{}: row {row}", attack.name());
        }
    }
    // Targets of one image packed into one batch.
    let targeted = FabT::new(&params(Norm::Linf, 0.05));
    let mut run = |rows: &[usize], ranks: &[i32]| {
        let of =
            |f: &dyn Fn(usize) -> i32| ints(&device, &rows.iter().map(|row| f(*row)).collect::<Vec<_>>());
        let points = Points { x: &batch(rows), y: &of(&|row| y[row]), images: &of(&|row| row as i32) };
        let found = targeted.run_once(&mut net, points, &ints(&device, ranks), 0).unwrap();
        (found.x_adv.to_vec().unwrap(), found.success.to_vec().unwrap())
    };
    let pairs = [(6, 2), (6, 3), (8, 2), (6, 9), (8, 5)];
    let packed = run(&pairs.map(|(row, _)| row), &pairs.map(|(_, rank)| rank));
    for (at, (row, rank)) in pairs.into_iter().enumerate() {
        let alone = run(&[row], &[rank]);
        assert_eq!(
            (alone.0.as_slice(), alone.1[0]),
            (&packed.0[at * 64..][..64], packed.1[at]),
            "row {row}, rank {rank}"
        );
    }
}
