//! The steps of an epoch in device memory: each takes its batch and its numbers from there, so that one
//! recorded step can be replayed for all.

use super::prelude::*;
use kernels::feed;

/// The steps of an epoch, and which comes next.
pub struct Feed {
    /// The images of all batches.
    order: Buffer<i32>,
    /// The learning rate of each step.
    rates: Buffer<f32>,
    /// DICAR's r of each step.
    mixes: Buffer<f32>,
    /// The next step, and the one under way: `[2]`.
    at: Buffer<i32>,
    /// Images of a batch; the last one may have fewer.
    batch: usize,
}

/// What a step takes of its feed.
pub struct Portion {
    /// The indices of its images in the data set `[N]`.
    pub images: Buffer<i32>,
    /// Their labels `[N]`.
    pub labels: Buffer<i32>,
    /// The learning rate `[1]`.
    pub lr: Buffer<f32>,
    /// DICAR's r `[1]`.
    pub mix: Tensor,
}

impl Portion {
    /// Room for a batch of n images.
    pub fn uninit(device: &Device, n: usize) -> Result<Portion> {
        Ok(Portion {
            images: Buffer::uninit(device, n)?,
            labels: Buffer::uninit(device, n)?,
            lr: Buffer::uninit(device, 1)?,
            mix: Tensor::uninit(device, &[1])?,
        })
    }
}

impl Feed {
    /// An epoch over the images `order`, `batch` a step, with the learning rate and r of each step, which
    /// begins with step `next`.
    pub fn new(
        device: &Device,
        order: &[i32],
        batch: usize,
        rates: &[f32],
        mixes: &[f32],
        next: usize,
    ) -> Result<Feed> {
        let steps = order.len().div_ceil(batch.max(1));
        if rates.len() != steps || mixes.len() != steps {
            let expected = format!("the numbers of {steps} steps");
            return Err(Error::Shape { op: "feed", expected, got: vec![rates.len(), mixes.len()] });
        }
        Ok(Feed {
            order: Buffer::from_slice(device, order)?,
            rates: Buffer::from_slice(device, rates)?,
            mixes: Buffer::from_slice(device, mixes)?,
            at: Buffer::from_slice(device, &[next as i32, next as i32])?,
            batch,
        })
    }

    /// Takes the portion of the next step, with labels out of those of the data set.
    pub fn take(&mut self, labels: &Buffer<i32>, portion: &mut Portion) -> Result<()> {
        let n = portion.images.len();
        if n > self.batch {
            let expected = format!("at most {} images", self.batch);
            return Err(Error::Shape { op: "feed", expected, got: vec![n] });
        }
        feed::Next {
            order: &self.order,
            labels,
            rates: &self.rates,
            mixes: &self.mixes,
            at: &mut self.at,
            indices: &mut portion.images,
            y: &mut portion.labels,
            rate: &mut portion.lr,
            mix: &mut portion.mix,
            batch: self.batch,
            n,
            images: self.order.len(),
            known: labels.len(),
            steps: self.rates.len(),
        }
        .launch(labels.device(), 1)
    }

    /// The step after the one under way, and that one: `[2]`.
    pub fn at(&self) -> &Buffer<i32> {
        &self.at
    }
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    let mut cases = Vec::new();
    for (images, batch, next) in [(1, 1, 0), (7, 3, 0), (7, 3, 2), (1000, 300, 1), (2500, 1300, 0), (5, 9, 0)]
    {
        let steps = usize::div_ceil(images, batch);
        // Every index twice, and one past the labels.
        let order: Vec<i32> = (0..images as i32).map(|i| (i * 5 + 2) % (images as i32 / 2 + 1)).collect();
        let known = images / 2;
        let of_run = order.clone();
        // One step more than the epoch has.
        let run = move |device: &Device, t: &[Tensor]| {
            let labels: Vec<i32> = (0..known as i32).map(|i| 10 * i).collect();
            let labels = Buffer::from_slice(device, &labels)?;
            let (rates, mixes) = (t[0].to_vec()?, t[1].to_vec()?);
            let mut feed = Feed::new(device, &of_run, batch, &rates, &mixes, next)?;
            let mut seen = Vec::new();
            for step in next..=steps {
                let n = if step < steps { batch.min(images - step * batch) } else { batch };
                let mut portion = Portion::uninit(device, n)?;
                feed.take(&labels, &mut portion)?;
                let integers = [portion.images.to_vec()?, portion.labels.to_vec()?, feed.at().to_vec()?];
                seen.extend(integers.concat().into_iter().map(|value| value as f32));
                seen.extend([portion.lr.to_vec()?, portion.mix.to_vec()?].concat());
            }
            Ok(seen)
        };
        let want = move |v: &[Vec<f64>]| {
            let label = |i: &i32| if *i >= 0 && (*i as usize) < known { 10 * i } else { -1 };
            let mut want = Vec::new();
            for step in next..=steps {
                let chunk = order.chunks(batch).nth(step).map_or_else(|| vec![-1; batch], <[i32]>::to_vec);
                let labels: Vec<i32> = chunk.iter().map(label).collect();
                let at = [step as i32 + 1, step as i32];
                want.extend([&chunk[..], &labels, &at].concat().into_iter().map(f64::from));
                want.extend([0, 1].map(|side: usize| v[side].get(step).copied().unwrap_or(f64::NAN)));
            }
            want
        };
        let inputs = [Input::uniform(&[steps], 0.0, 1.0), Input::normal(&[steps])];
        cases.push(Case::kernel(format!("{images} images by {batch} from {next}"), inputs, run, want));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_sizes_are_errors() {
        let device = Device::host().unwrap();
        let feed = |rates: &[f32], mixes: &[f32]| Feed::new(&device, &[0, 1, 2], 2, rates, mixes, 0);
        assert!(feed(&[0.1; 3], &[0.5; 2]).is_err() && feed(&[0.1; 2], &[0.5; 1]).is_err());
        let labels = Buffer::from_slice(&device, &[0, 1, 2]).unwrap();
        let mut portion = Portion::uninit(&device, 3).unwrap();
        assert!(feed(&[0.1; 2], &[0.5; 2]).unwrap().take(&labels, &mut portion).is_err());
    }
}
