//! The moves of the Square attack's random search on a batch: where it starts, what a query changes, and
//! whether that is kept.
//!
//! A query is judged and the next one made by one kernel (`turn`), which in Linf touches nothing but the two
//! windows. Nothing is read back.

use super::cross_entropy::labelled;
use super::prelude::*;
use crate::rng::Key;
use kernels::square::*;

/// A part of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub top: usize,
    pub left: usize,
    pub height: usize,
    pub width: usize,
}

impl Window {
    /// All of an image.
    pub fn whole(height: usize, width: usize) -> Window {
        Window { top: 0, left: 0, height, width }
    }

    /// No pixel.
    const NONE: Window = Window { top: 0, left: 0, height: 0, width: 0 };

    fn numbers(self, [_, h, w, _]: [usize; 4]) -> Result<[i32; 4]> {
        if self.top + self.height > h || self.left + self.width > w {
            return Err(Error::Shape {
                op: "square",
                expected: format!("windows inside [{h},{w}]"),
                got: vec![self.top, self.left],
            });
        }
        Ok([int(self.top)?, int(self.left)?, int(self.height)?, int(self.width)?])
    }
}

/// A change in Linf: a window and a sign per channel, bit c of `signs`.
#[derive(Clone, Copy, Debug)]
pub struct Patch {
    pub window: Window,
    pub signs: u32,
}

/// A change in L2: where the pyramid goes and where its mass comes from, both squares of the pyramid's side.
#[derive(Clone, Copy)]
pub struct Transfer<'a> {
    pub pyramid: &'a Pyramid,
    /// Top and left of the square that gets the pyramid.
    pub to: [usize; 2],
    /// Top and left of the square that gives its mass.
    pub from: [usize; 2],
    /// Whether the pyramid's halves lie side by side, not above each other.
    pub transposed: bool,
    /// Of the signs per image and channel.
    pub key: Key,
}

/// The search on a batch.
pub struct Search {
    /// The clean images `[N,H,W,C]`.
    pub x: Tensor,
    /// The images with the smallest margins so far.
    pub best: Tensor,
    /// The images that are asked about.
    pub trial: Tensor,
    /// `[N]`: the smallest margins so far; rows at 0 or below are done and stay as they are.
    pub best_margin: Buffer<f32>,
}

impl Search {
    /// Keeps, in each row, the trial if its `margin` `[N]` is below the smallest so far or not above 0, and
    /// makes the `next` trial. The last trial may differ from `best` inside the window `before` only.
    pub fn turn_linf(
        &mut self,
        margin: &Tensor,
        eps: f32,
        before: Window,
        next: Option<Patch>,
    ) -> Result<()> {
        let (rows, shape, size) = self.sizes(margin)?;
        let [_, _, w, c] = shape;
        let Patch { window, signs } = next.unwrap_or(Patch { window: Window::NONE, signs: 0 });
        let ([t, l, h, b], [top, left, height, width]) = (before.numbers(shape)?, window.numbers(shape)?);
        if c > 32 {
            return Err(Error::Shape {
                op: "square",
                expected: "at most 32 channels".into(),
                got: shape.to_vec(),
            });
        }
        let Search { x, best, trial, best_margin } = self;
        let (best, trial, m, columns, channels) =
            (best.make_mut()?, trial.make_mut()?, margin.buffer(), int(w)?, int(c)?);
        let x = x.buffer();
        square_turn_linf(
            x.device(),
            rows,
            x,
            best,
            trial,
            best_margin,
            m,
            eps,
            signs,
            t,
            l,
            h,
            b,
            top,
            left,
            height,
            width,
            columns,
            channels,
            size,
        )
    }

    /// The same in L2, where a trial may differ anywhere; `images` `[N]` are the indices in the data set.
    pub fn turn_l2(
        &mut self,
        margin: &Tensor,
        eps: f32,
        images: &Buffer<i32>,
        next: Option<Transfer>,
    ) -> Result<()> {
        let (rows, shape, size) = self.sizes(margin)?;
        labelled("square", images, rows)?;
        let Search { x, best, trial, best_margin } = self;
        let (best, trial, m) = (best.make_mut()?, trial.make_mut()?, margin.buffer());
        let (x, [_, _, w, c]) = (x.buffer(), shape);
        let (columns, channels) = (int(w)?, int(c)?);
        let Some(Transfer { pyramid, to, from, transposed, key }) = next else {
            // Any buffer stands for the pyramid that is not read.
            let none = x;
            return square_turn_l2(
                x.device(),
                rows,
                x,
                best,
                trial,
                best_margin,
                m,
                images,
                none,
                0,
                eps,
                0,
                0,
                0,
                0,
                0,
                0,
                columns,
                channels,
                size,
            );
        };
        let square = |[top, left]: [usize; 2]| {
            Window { top, left, height: pyramid.side, width: pyramid.side }.numbers(shape)
        };
        let ([top, left, side, _], [other_top, other_left, ..]) = (square(to)?, square(from)?);
        let (shaped, key) = (&pyramid.values, key.bits());
        square_turn_l2(
            x.device(),
            rows,
            x,
            best,
            trial,
            best_margin,
            m,
            images,
            shaped,
            key,
            eps,
            transposed as i32,
            side,
            top,
            left,
            other_top,
            other_left,
            columns,
            channels,
            size,
        )
    }

    /// The search from where `trial` is, which every image takes that `correct` says is classified correctly;
    /// the others are done.
    pub fn begin(x: Tensor, trial: Tensor, correct: &Buffer<i32>) -> Result<Search> {
        let (device, n) = (x.device(), correct.len());
        let mut best_margin = Buffer::uninit(device, n)?;
        square_begin(device, elementwise(device, n), correct, &mut best_margin, int(n)?)?;
        Ok(Search { best: x.clone(), x, trial, best_margin })
    }

    fn sizes(&self, margin: &Tensor) -> Result<(usize, [usize; 4], i32)> {
        let shape = self.x.nhwc("square")?;
        same_shape("square", &self.x, &self.best)?;
        same_shape("square", &self.x, &self.trial)?;
        if margin.len() != shape[0] || self.best_margin.len() != shape[0] {
            return Err(Error::Shape {
                op: "square",
                expected: format!("{} margins", shape[0]),
                got: margin.shape().to_vec(),
            });
        }
        int(self.x.len())?;
        Ok((shape[0], shape, int(shape[1..].iter().product())?))
    }
}

/// clip01(x + eps s) with a random sign s for each image, column and channel.
pub fn start_linf(x: &Tensor, eps: f32, key: Key, images: &Buffer<i32>) -> Result<Tensor> {
    let [n, h, w, c] = x.nhwc("square")?;
    labelled("square", images, n)?;
    int(x.len())?;
    let mut trial = Buffer::uninit(x.device(), x.len())?;
    square_start_linf(
        x.device(),
        n,
        x.buffer(),
        images,
        &mut trial,
        key.bits(),
        eps,
        int(w * c)?,
        int(h * w * c)?,
    )?;
    Tensor::new(trial, x.shape())
}

/// clip01(x + eps d / |d|) with d five by five pyramids (more where tiles of a fifth of the height fit more
/// often), each with a random direction and sign for each image and channel.
pub fn start_l2(x: &Tensor, eps: f32, key: Key, images: &Buffer<i32>) -> Result<Tensor> {
    let [n, h, w, c] = x.nhwc("square")?;
    labelled("square", images, n)?;
    int(x.len())?;
    let (device, side) = (x.device(), (h / 5).max(1));
    let (pyramid, origin) = (Pyramid::new(device, side)?, h.saturating_sub(5 * side) / 2);
    let mut trial = Buffer::uninit(device, x.len())?;
    let (key, side, origin) = (key.bits(), int(side)?, int(origin)?);
    let (rows, columns, channels) = (int(h)?, int(w)?, int(c)?);
    square_start_l2(
        device,
        n,
        x.buffer(),
        images,
        &mut trial,
        &pyramid.values,
        key,
        eps,
        side,
        origin,
        rows,
        columns,
        channels,
    )?;
    Tensor::new(trial, x.shape())
}

/// The L2 attack's pattern on a square: a hill above a hole, of length 1.
pub struct Pyramid {
    pub side: usize,
    values: Buffer<f32>,
}

impl Pyramid {
    pub fn new(device: &Device, side: usize) -> Result<Pyramid> {
        let values: Vec<f32> = pyramid(side).iter().map(|v| *v as f32).collect();
        Ok(Pyramid { side, values: Buffer::from_slice(device, &values)? })
    }
}

/// The upper half, of `side / 2` rows, is a hill of length 1, the rest the hole; their union has length 1.
fn pyramid(side: usize) -> Vec<f64> {
    let (hill, hole) = (hill(side / 2, side), hill(side - side / 2, side));
    let both: Vec<f64> = hill.into_iter().chain(hole.into_iter().map(|v| -v)).collect();
    unit(both)
}

/// Nested rectangles around the middle: the j-th, of half width j - 1, adds 1 / j^2.
fn hill(height: usize, width: usize) -> Vec<f64> {
    let (middle, layers) = ([height / 2, width / 2], (height / 2 + 1).max(width / 2 + 1));
    let layer = |row: usize, column: usize| row.abs_diff(middle[0]).max(column.abs_diff(middle[1]));
    let value = |row, column| (layer(row, column)..layers).map(|j| 1.0 / ((j + 1) * (j + 1)) as f64).sum();
    unit((0..height * width).map(|i| value(i / width, i % width)).collect())
}

fn unit(values: Vec<f64>) -> Vec<f64> {
    let length = values.iter().map(|v| v * v).sum::<f64>().sqrt();
    values.into_iter().map(|v| v / length).collect()
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
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
        let best_margin = |device: &Device| Buffer::from_slice(device, &[1.0, 1.0, 0.5, 0.0]);
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
            window: Window { top: to[0], left: to[1], height: side.min(2), width: side },
            signs: 0b101,
        };
        for next in [Some(patch), None] {
            let turn = move |device: &Device, t: &[Tensor]| {
                let mut search = Search {
                    x: t[0].clone(),
                    best: t[1].clone(),
                    trial: t[2].clone(),
                    best_margin: best_margin(device)?,
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
                    best_margin: best_margin(device)?,
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
        [Input::filled(&[3, 2, 2, 1], 0.5), Input::filled(&[3, 2, 2, 1], 0.25)],
        |device, t| {
            let search = Search::begin(t[0].clone(), t[1].clone(), &Buffer::from_slice(device, &[1, 0, 1])?)?;
            search.best_margin.to_vec()
        },
        |_| vec![f64::INFINITY, 0.0, f64::INFINITY],
    ));
    cases
}

#[cfg(test)]
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
