//! The Square attack (Andriushchenko et al.: Square attack: a query-efficient black-box adversarial attack
//! via random search, arXiv 1912.00049), as in AutoAttack: a random search that uses no gradient.
//!
//! ```text
//! x' <- a random start;  best <- margin(x'),  margin(x') = z_y - max_{i != y} z_i
//! repeat T times, for images with best > 0:
//!     x'' <- x' changed in a random window, whose side shrinks with the queries
//!     if margin(x'') < best or margin(x'') <= 0:  x' <- x'',  best <- margin(x'')
//! ```
//! The window of a query is the same for all images and follows from seed and query alone, signs from seed,
//! query and image: the result for an image does not depend on its batch. Images on which the attack has
//! succeeded leave the batch from time to time; nothing else is read back.
//!
//! Kept from AutoAttack's code, where it differs from the paper: in Linf the signs of a window are shared by
//! the batch; the last row and column are out of a window's reach unless its side is theirs, since positions
//! are floor(U (H - s)); in L2 the mass of both windows is summed over the channels before it is given to
//! each. Different from it: the random numbers, which are keyed as above; windows are never larger than the
//! image; in the L2 start each tile of each image and channel has a direction of its own, where there a
//! tile's is shared by the batch.

use super::attempts::{Points, attempts};
use super::ball::{Ball, Norm};
use super::objective::logits;
use super::{Attack, AttackEntry, AttackResult, Model, Parameter, Params};
use crate::device::trace::Range;
use crate::device::{Buffer, Device};
use crate::error::Result;
use crate::ops::augment::gather_i32;
use crate::ops::gather::{gather, scatter};
use crate::ops::margin::margin;
use crate::ops::predict::correct;
use crate::ops::square::{Patch, Pyramid, Search, Transfer, Window, start_l2, start_linf};
use crate::rng::{Key, Purpose, philox};
use crate::tape::Tape;
use crate::tensor::Tensor;

pub(super) const ATTACKS: &[AttackEntry] = &[AttackEntry {
    name: "square",
    about: "random search over windows of falling size with 5000 queries, without a gradient",
    paper: "Andriushchenko et al., arXiv 1912.00049",
    parameters: &[Parameter::Steps, Parameter::Restarts],
    build: |params| Box::new(Square::new(params)),
}];

/// Random search over windows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Square {
    pub ball: Ball,
    /// T, the queries about an image after the start.
    pub queries: usize,
    /// Searches, each on the points that withstood the earlier ones.
    pub restarts: usize,
    pub seed: u64,
}

/// The fraction of the image that the first windows cover, and the queries after which it is halved.
const FRACTION: f64 = 0.8;
const HALVED_AFTER: [usize; 9] = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000];
/// Images on which the attack has succeeded leave the batch each time after this many queries, and also after
/// the first and the tenth.
const CHECK_EVERY: usize = 100;
/// The last word of the counters of a query's windows; those of signs are numbered by channel
/// (`kernels/square.cu`) and end in another word.
const WINDOWS: u32 = 3;

impl Square {
    /// With these parameters, whose steps are the queries; 5000 by default.
    pub fn new(params: &Params) -> Square {
        let &Params { ball, steps, restarts, seed, .. } = params;
        Square { ball, queries: steps.unwrap_or(5000), restarts, seed }
    }

    /// The side of the window of query `query`, counted from 0, in images `[H,W]`.
    pub fn side(&self, query: usize, [h, w]: [usize; 2]) -> usize {
        let halvings = HALVED_AFTER.iter().filter(|after| query > **after).count() as i32;
        let side = (FRACTION / 2f64.powi(halvings) * (h * w) as f64).sqrt().round_ties_even() as usize;
        let max = h.min(w);
        match self.ball.norm {
            Norm::Linf => side.max(1).min(max),
            // Odd, and at least 3, where the image has room for that.
            Norm::L2 => (side.max(3) | 1).min(max.saturating_sub(1) | 1),
        }
    }

    /// One search. A margin of exactly 0 counts as a success here, though the label may still be predicted.
    fn search(&self, model: &mut dyn Model, points: Points, restart: u32) -> Result<Tensor> {
        let Points { x, y, images } = points;
        let (device, [n, h, w, _]) = (x.device(), x.nhwc("square")?);
        let _attack = device.scope(Range::Attack);
        let key = |number: usize| Key::new(self.seed, Purpose::Square, number as u32, restart);
        let clean_correct = correct(device, &logits(model, x)?, y)?;
        let Ball { norm, eps } = self.ball;
        let (start, pyramids) = match norm {
            Norm::Linf => (start_linf(x, eps, key(0), images)?, vec![]),
            Norm::L2 => (start_l2(x, eps, key(0), images)?, self.pyramids(device, [h, w])?),
        };
        let rows: Vec<i32> = (0..n as i32).collect();
        let mut batch = Batch {
            search: Search::begin(x.clone(), start, &clean_correct)?,
            y: y.duplicate()?,
            images: images.duplicate()?,
            rows: Buffer::from_slice(device, &rows)?,
            changed: Window::whole(h, w),
        };
        let mut x_adv = x.clone();
        for asked in 0..=self.queries {
            let _step = device.scope(Range::AttackStep(asked + 1));
            if asked.is_multiple_of(CHECK_EVERY) || asked == 1 || asked == 10 {
                batch.drop_succeeded(&mut x_adv)?;
            }
            if batch.y.is_empty() {
                break;
            }
            let margin = batch.margins(model, asked == 0)?;
            // The start has key 0.
            let next = (asked < self.queries).then(|| self.change(asked, key(asked + 1), [h, w]));
            match norm {
                Norm::Linf => batch.advance_linf(&margin, eps, next)?,
                Norm::L2 => batch.advance_l2(&margin, eps, next, &pyramids)?,
            }
        }
        batch.drop_succeeded(&mut x_adv)?;
        let Batch { search: Search { best, .. }, rows, .. } = batch;
        scatter(&mut x_adv, &rows, &best, &Buffer::from_slice(device, &vec![1; rows.len()])?)?;
        Ok(x_adv)
    }

    /// The change of query `query`, counted from 0, of images `[H,W]`.
    fn change(&self, query: usize, key: Key, [h, w]: [usize; 2]) -> Change {
        let side = self.side(query, [h, w]);
        let words = philox(key.bits(), [0, 0, 0, WINDOWS]);
        let bits = philox(key.bits(), [1, 0, 0, WINDOWS])[0];
        // floor(U (H - s)) with U of 24 bits.
        let place = |word: u32, room: usize| (((word >> 8) as usize) * (room - side)) >> 24;
        let to = [place(words[0], h), place(words[1], w)];
        let from = [place(words[2], h), place(words[3], w)];
        Change { side, to, from, bits, key }
    }

    /// One pyramid for each side of a window.
    fn pyramids(&self, device: &Device, size: [usize; 2]) -> Result<Vec<Pyramid>> {
        let first = [0].into_iter().chain(HALVED_AFTER.map(|after| after + 1));
        let mut sides: Vec<usize> = first.map(|query| self.side(query, size)).collect();
        sides.dedup();
        sides.into_iter().map(|side| Pyramid::new(device, side)).collect()
    }
}

/// The random choices of a query, which all images share.
struct Change {
    /// Of the windows.
    side: usize,
    /// Top and left of the window that changes.
    to: [usize; 2],
    /// L2: top and left of the window that gives its mass.
    from: [usize; 2],
    /// Linf: bit c is the sign of channel c. L2: bit 0 transposes the pyramid.
    bits: u32,
    /// L2: of the signs per image and channel.
    key: Key,
}

/// The images on which the search has not succeeded.
struct Batch {
    search: Search,
    y: Buffer<i32>,
    images: Buffer<i32>,
    /// Their rows in the whole batch.
    rows: Buffer<i32>,
    /// Linf: the window in which the trial may differ from the best image.
    changed: Window,
}

impl Batch {
    /// Takes the margins of all trials, keeps the better images, and makes the next trials.
    fn advance_linf(&mut self, margin: &Tensor, eps: f32, next: Option<Change>) -> Result<()> {
        let [_, h, w, _] = self.search.x.nhwc("square")?;
        let patch = next.map(|Change { side, to: [top, left], bits, .. }| Patch {
            window: Window { top, left, height: side, width: side },
            signs: bits,
        });
        self.search.turn_linf(margin, eps, self.changed, patch)?;
        self.changed = patch.map_or(Window::whole(h, w), |patch| patch.window);
        Ok(())
    }

    /// The same in L2.
    fn advance_l2(
        &mut self,
        margin: &Tensor,
        eps: f32,
        next: Option<Change>,
        pyramids: &[Pyramid],
    ) -> Result<()> {
        let transfer = next.and_then(|Change { side, to, from, bits, key }| {
            let pyramid = pyramids.iter().find(|pyramid| pyramid.side == side)?;
            Some(Transfer { pyramid, to, from, transposed: bits & 1 == 1, key })
        });
        self.search.turn_l2(margin, eps, &self.images, transfer)
    }

    /// The margin `[M]` of each trial. On the host, trials equal to the best image are not asked about: they
    /// get an infinite margin, which like their own is no improvement. (Small windows often draw the signs
    /// that are there already; a GPU would have to wait to know.)
    fn margins(&self, model: &mut dyn Model, first: bool) -> Result<Tensor> {
        let ask = |model: &mut dyn Model, trial: Tensor, y: &Buffer<i32>| {
            let _evaluation = trial.device().scope(Range::Evaluation);
            let tape = Tape::new(trial.device());
            let trial = tape.constant(trial);
            let z = model.logits(&tape, trial)?;
            let margin = margin(&tape, z, y)?;
            Ok(tape.value(margin))
        };
        let Search { best, trial, .. } = &self.search;
        let (device, n) = (trial.device(), self.y.len());
        if first || !device.is_host() {
            return ask(model, trial.clone(), &self.y);
        }
        let (old, new, size) = (best.to_vec()?, trial.to_vec()?, trial.len() / n);
        let differs = |row: &i32| {
            let row = *row as usize * size..(*row as usize + 1) * size;
            old[row.clone()] != new[row]
        };
        let rows: Vec<i32> = (0..n as i32).filter(differs).collect();
        if rows.len() == n {
            return ask(model, trial.clone(), &self.y);
        }
        let mut margins = vec![f32::INFINITY; n];
        if !rows.is_empty() {
            let asked = Buffer::from_slice(device, &rows)?;
            let new = ask(model, gather(trial, &asked)?, &gather_i32(&self.y, &asked)?)?.to_vec()?;
            rows.iter().zip(new).for_each(|(row, margin)| margins[*row as usize] = margin);
        }
        Tensor::from_slice(device, &[n], &margins)
    }

    /// Moves the best images of the rows that succeeded to `x_adv`, and continues with the others.
    fn drop_succeeded(&mut self, x_adv: &mut Tensor) -> Result<()> {
        let device = self.search.x.device().clone();
        let best_margin = self.search.best_margin.to_vec()?;
        let succeeded: Vec<i32> = best_margin.iter().map(|margin| (*margin <= 0.0) as i32).collect();
        if succeeded.iter().all(|succeeded| *succeeded == 0) {
            return Ok(());
        }
        scatter(x_adv, &self.rows, &self.search.best, &Buffer::from_slice(&device, &succeeded)?)?;
        let left: Vec<i32> = (0..).zip(&succeeded).filter(|(_, s)| **s == 0).map(|(row, _)| row).collect();
        let rows = Buffer::from_slice(&device, &left)?;
        let kept: Vec<f32> = left.iter().map(|row| best_margin[*row as usize]).collect();
        let Search { x, best, trial, .. } = &self.search;
        let (x, best, trial) = (gather(x, &rows)?, gather(best, &rows)?, gather(trial, &rows)?);
        self.search = Search { x, best, trial, best_margin: Buffer::from_slice(&device, &kept)? };
        self.y = gather_i32(&self.y, &rows)?;
        self.images = gather_i32(&self.images, &rows)?;
        self.rows = gather_i32(&self.rows, &rows)?;
        Ok(())
    }
}

impl Attack for Square {
    fn name(&self) -> String {
        "square".into()
    }

    fn run(&self, model: &mut dyn Model, points: Points) -> Result<AttackResult> {
        attempts(points, 0..self.restarts, |restart, points| {
            let x_adv = self.search(model, points, restart as u32)?;
            AttackResult::of(model, points.y, x_adv)
        })
    }

    fn passes(&self) -> usize {
        self.restarts * (self.queries + 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(norm: Norm) -> Square {
        Square::new(&Params { ball: Ball { norm, eps: 0.1 }, ..Params::default() })
    }

    #[test]
    fn windows_have_the_published_sides() {
        let changes = |norm: Norm, size: [usize; 2]| {
            let square = square(norm);
            let last = [0, 10].into_iter().chain([50, 200, 500, 1000, 2000, 4000, 5000]);
            last.map(|query| square.side(query, size)).collect::<Vec<_>>()
        };
        assert_eq!(changes(Norm::Linf, [32, 32]), [29, 29, 20, 14, 10, 7, 5, 4, 3]);
        assert_eq!(changes(Norm::L2, [32, 32]), [29, 29, 21, 15, 11, 7, 5, 5, 3]);
        assert_eq!(changes(Norm::Linf, [8, 8]), [7, 7, 5, 4, 3, 2, 1, 1, 1]);
        assert_eq!(changes(Norm::L2, [8, 8]), [7, 7, 5, 5, 3, 3, 3, 3, 3]);
        let linf = square(Norm::Linf);
        assert_eq!([11, 51, 201, 4001].map(|query| linf.side(query, [32, 32])), [20, 14, 10, 3]);
        // Long images: never more than the short side.
        for (norm, size, side) in
            [(Norm::Linf, [4, 64], 4), (Norm::L2, [4, 64], 3), (Norm::L2, [2, 2], 1), (Norm::L2, [1, 1], 1)]
        {
            assert_eq!(square(norm).side(0, size), side, "{norm:?} {size:?}");
        }
    }
}
