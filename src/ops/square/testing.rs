//! The cases of `square`, and its oracle in float64.

use super::*;
use crate::ops::testing::*;

pub fn cases() -> Vec<Case> {
    use crate::rng::Purpose;
    const EPS: f32 = 0.3;
    let key = Key::new(7, Purpose::Square, 3, 1);
    let mut cases = Vec::new();
    // Windows on a corner, apart, overlapping, the same, and of the whole height.
    let shapes = [
        ([4, 8, 8, 1], 3, [0, 0], [5, 5]),
        ([4, 7, 5, 3], 3, [2, 1], [3, 2]),
        ([4, 32, 32, 3], 21, [11, 0], [2, 11]),
    ];
    let more = [
        ([4, 3, 4, 2], 3, [0, 1], [0, 1]),
        ([4, 2, 3, 1], 2, [0, 1], [0, 0]),
        ([4, 3, 4, 1], 2, [1, 2], [0, 0]),
        ([4, 5, 6, 5], 3, [0, 1], [2, 3]),
        ([4, 64, 48, 3], 7, [3, 40], [57, 2]),
    ];
    for (shape, side, to, from) in shapes.into_iter().chain(more) {
        let [n, h, w, c] = shape;
        let images = move || oracle::Images { shape, indices: vec![3, 0, 49_999, 17] };
        let index = move |device: &Device| Buffer::from_slice(device, &images().indices);
        let clean = || Input::uniform(&shape, 0.0, 1.0);
        let moved = |seed| {
            let mut v = Input::normal_seeded(&shape, seed).scaled(0.02);
            v.values.iter_mut().zip(&clean().values).for_each(|(d, x)| *d = (*d + x).clamp(0.0, 1.0));
            v
        };
        // Better, worse, broken just now although not better, and broken before.
        let least = |device: &Device| Buffer::from_slice(device, &[1.0, 1.0, 0.5, 0.0]);
        let margins = [0.5f32, 2.0, 0.0, -1.0];
        let keeps = [true, false, true, false];
        let after = [0.5, 1.0, 0.0, 0.0];
        let size = h * w * c;
        let pick = move |v: &[Vec<f64>]| -> Vec<f64> {
            (0..n * size).map(|i| if keeps[i / size] { v[2][i] } else { v[1][i] }).collect()
        };
        let result = |search: Search| {
            Ok([search.best.to_vec()?, search.trial.to_vec()?, search.best_margin.to_vec()?].concat())
        };
        let patch = Patch {
            window: Window { top: to[0], left: to[1], height: side - side / 5, width: side },
            signs: 0b101,
        };
        for next in [Some(patch), None] {
            let turn = move |device: &Device, t: &[Tensor]| {
                let mut search = Search {
                    x: t[0].clone(),
                    best: t[1].clone(),
                    trial: t[2].clone(),
                    best_margin: least(device)?,
                };
                search.turn_linf(
                    &Tensor::from_slice(device, &[n], &margins)?,
                    EPS,
                    Window::whole(h, w),
                    next,
                )?;
                result(search)
            };
            cases.push(Case::kernel(
                format!("turn linf {shape:?}"),
                [clean(), moved(5), moved(6)],
                turn,
                move |v| {
                    let (best, eps) = (pick(v), EPS as f64);
                    let one = |(x, b): (&[f64], &[f64])| {
                        next.map_or(b.to_vec(), |next| images().patched(x, b, eps, next))
                    };
                    let trial = v[0].chunks(size).zip(best.chunks(size)).flat_map(one).collect();
                    [best.clone(), trial, after.to_vec()].concat()
                },
            ));
        }
        for transposed in [Some(false), Some(true), None] {
            let turn = move |device: &Device, t: &[Tensor]| {
                let mut search = Search {
                    x: t[0].clone(),
                    best: t[1].clone(),
                    trial: t[2].clone(),
                    best_margin: least(device)?,
                };
                let pyramid = Pyramid::new(device, side)?;
                let next =
                    transposed.map(|transposed| Transfer { pyramid: &pyramid, to, from, transposed, key });
                search.turn_l2(&Tensor::from_slice(device, &[n], &margins)?, EPS, &index(device)?, next)?;
                result(search)
            };
            cases.push(Case::kernel(
                format!("turn l2 {shape:?}"),
                [clean(), moved(5), moved(6)],
                turn,
                move |v| {
                    let (best, eps) = (pick(v), EPS as f64);
                    let pyramid = Pyramid::new(&Device::host().unwrap(), side).unwrap();
                    let row = |v: &[f64], row: usize| v[row * size..][..size].to_vec();
                    let one = |n: usize| match transposed {
                        Some(transposed) => {
                            let (image, next) = (
                                images().indices[n],
                                Transfer { pyramid: &pyramid, to, from, transposed, key },
                            );
                            images().transferred(image, &row(&v[0], n), &row(&best, n), eps, next)
                        }
                        // Without a next trial the last one stays.
                        None => row(&v[2], n),
                    };
                    [best.clone(), (0..n).flat_map(one).collect(), after.to_vec()].concat()
                },
            ));
        }
        let start = move |device: &Device, t: &[Tensor]| {
            Ok([
                start_linf(&t[0], EPS, key, &index(device)?)?.to_vec()?,
                start_l2(&t[0], EPS, key, &index(device)?)?.to_vec()?,
            ]
            .concat())
        };
        cases.push(Case::kernel(format!("start {shape:?}"), [clean()], start, move |v| {
            let eps = EPS as f64;
            let sign =
                |i: usize, image| if oracle::bits(key, i % (w * c), image) & 1 == 1 { eps } else { -eps };
            let stripes = images().each(&v[0], |image, x| {
                x.iter().enumerate().map(|(i, x)| (x + sign(i, image)).clamp(0.0, 1.0)).collect()
            });
            let tiles =
                images().each(&v[0], |image, x| oracle::normalised(x, &images().grid(image, key), eps));
            [stripes, tiles].concat()
        }));
    }
    cases.push(Case::kernel(
        "begin",
        [Input::filled(&[15, 2, 2, 1], 0.5), Input::filled(&[15, 2, 2, 1], 0.25)],
        |device, t| {
            let correct = Buffer::from_slice(device, &[1, 0, 1].repeat(5))?;
            let search = Search::begin(t[0].clone(), t[1].clone(), &correct)?;
            search.best_margin.to_vec()
        },
        |_| [f64::INFINITY, 0.0, f64::INFINITY].repeat(5),
    ));
    cases
}

mod oracle {
    use super::*;
    use crate::rng::philox;

    /// Images of `[h,w,c]` as f64.
    pub struct Images {
        pub shape: [usize; 4],
        pub indices: Vec<i32>,
    }

    pub fn bits(key: Key, at: usize, image: i32) -> u32 {
        philox(key.bits(), [at as u32, image as u32, 0, 0])[0]
    }

    fn length(d: impl Iterator<Item = f64>) -> f64 {
        d.map(|d| d * d).sum::<f64>().sqrt()
    }

    /// clip01(x + eps d / |d|).
    pub fn normalised(x: &[f64], d: &[f64], eps: f64) -> Vec<f64> {
        let scale = eps / (1e-12 + length(d.iter().copied()));
        x.iter().zip(d).map(|(x, d)| (x + scale * d).clamp(0.0, 1.0)).collect()
    }

    impl Images {
        fn size(&self) -> usize {
            self.shape[1..].iter().product()
        }

        pub fn each(&self, x: &[f64], f: impl Fn(i32, &[f64]) -> Vec<f64>) -> Vec<f64> {
            x.chunks(self.size()).zip(&self.indices).flat_map(|(x, image)| f(*image, x)).collect()
        }

        /// The elements of channel c of the pixels that `inside` admits.
        fn elements(&self, c: usize, inside: impl Fn(usize, usize) -> bool) -> Vec<usize> {
            let [_, h, w, channels] = self.shape;
            let pixels = (0..h * w).filter(|i| inside(i / w, i % w));
            pixels.map(|i| i * channels + c).collect()
        }

        pub fn patched(&self, x: &[f64], best: &[f64], eps: f64, patch: Patch) -> Vec<f64> {
            let mut trial = best.to_vec();
            for c in 0..self.shape[3] {
                let sign = if patch.signs >> c & 1 == 1 { 2.0 } else { -2.0 };
                for i in self.elements(c, |row, column| within(patch.window, row, column)) {
                    trial[i] = (best[i] + sign * eps).max(x[i] - eps).min(x[i] + eps).clamp(0.0, 1.0);
                }
            }
            trial
        }

        pub fn transferred(
            &self,
            image: i32,
            x: &[f64],
            best: &[f64],
            eps: f64,
            transfer: Transfer,
        ) -> Vec<f64> {
            let (side, channels) = (transfer.pyramid.side, self.shape[3]);
            let shape = pyramid(side);
            let square = |[top, left]: [usize; 2]| Window { top, left, height: side, width: side };
            let (one, two) = (square(transfer.to), square(transfer.from));
            let d: Vec<f64> = best.iter().zip(x).map(|(b, x)| b - x).collect();
            let all =
                |c, both: bool| self.elements(c, |r, q| within(one, r, q) || (both && within(two, r, q)));
            let union: f64 = (0..channels).flat_map(|c| all(c, true)).map(|i| d[i] * d[i]).sum();
            let left = (eps * eps - d.iter().map(|d| d * d).sum::<f64>()).max(0.0);
            let mass = (left / channels as f64 + union).sqrt();
            let mut new = d.clone();
            for c in 0..channels {
                self.elements(c, |r, q| within(two, r, q)).into_iter().for_each(|i| new[i] = 0.0);
                let (places, sign) =
                    (all(c, false), if bits(transfer.key, c, image) & 1 == 1 { 1.0 } else { -1.0 });
                let old = length(places.iter().map(|i| d[*i])) + 1e-12;
                let hill = |n: usize| shape[if transfer.transposed { n % side * side + n / side } else { n }];
                let u: Vec<f64> =
                    places.iter().enumerate().map(|(n, i)| sign * hill(n) + d[*i] / old).collect();
                let scale = mass / (1e-12 + length(u.iter().copied()));
                places.iter().zip(u).for_each(|(i, u)| new[*i] = scale * u);
            }
            normalised(x, &new, eps)
        }

        /// The grid of pyramids of the L2 start.
        pub fn grid(&self, image: i32, key: Key) -> Vec<f64> {
            let [_, h, w, channels] = self.shape;
            let side = (h / 5).max(1);
            let (shape, origin) = (pyramid(side), h.saturating_sub(5 * side) / 2);
            let mut d = vec![0.0; self.size()];
            for (tr, tc, c) in (0..h / side)
                .flat_map(|r| (0..w / side).flat_map(move |q| (0..channels).map(move |c| (r, q, c))))
            {
                let drawn = bits(key, (tr * (w / side) + tc) * channels + c, image);
                for (r, q) in (0..side).flat_map(|r| (0..side).map(move |q| (r, q))) {
                    let (row, column) = (origin + tr * side + r, origin + tc * side + q);
                    if row < h && column < w {
                        let value = if drawn & 2 == 2 { shape[q * side + r] } else { shape[r * side + q] };
                        d[(row * w + column) * channels + c] = if drawn & 1 == 1 { value } else { -value };
                    }
                }
            }
            d
        }
    }

    fn within(window: Window, row: usize, column: usize) -> bool {
        (window.top..window.top + window.height).contains(&row)
            && (window.left..window.left + window.width).contains(&column)
    }
}
