//! A ledger of training steps in device memory: a row of floats and a row of counts for each step, read
//! together after some of them.

use super::prelude::*;
use kernels::ledger;

/// The rows of the last steps.
pub struct Ledger {
    floats: Rows<f32>,
    counts: Rows<i32>,
    rows: usize,
}

struct Rows<T: crate::device::Element> {
    values: Buffer<T>,
    width: usize,
}

impl<T: crate::device::Element> Rows<T> {
    fn check(&self, place: usize, n: usize) -> Result<()> {
        if place + n <= self.width {
            return Ok(());
        }
        Err(Error::Shape { op: "ledger", expected: format!("{} columns", self.width), got: vec![place, n] })
    }
}

/// The numbers of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LedgerRow<'a> {
    pub floats: &'a [f32],
    pub counts: &'a [i32],
}

/// The content of a ledger.
pub struct LedgerPage {
    floats: Vec<f32>,
    counts: Vec<i32>,
    rows: usize,
}

impl Ledger {
    /// Room for the last `rows` steps, each with so many floats and counts.
    pub fn new(device: &Device, rows: usize, floats: usize, counts: usize) -> Result<Ledger> {
        let rows = rows.max(1);
        Ok(Ledger {
            floats: Rows { values: Buffer::zeros(device, rows * floats)?, width: floats },
            counts: Rows { values: Buffer::zeros(device, rows * counts)?, width: counts },
            rows,
        })
    }

    /// Enters floats from column `place` on, for the step under way (`at`: [`super::feed::Feed::at`]).
    pub fn enter(&mut self, at: &Buffer<i32>, place: usize, values: &Tensor) -> Result<()> {
        let (n, out) = (values.len(), &mut self.floats);
        out.check(place, n)?;
        let grid = n.div_ceil(256);
        ledger::floats(at.device(), grid, values, at, &mut out.values, self.rows, out.width, place, n)
    }

    /// Enters the sum of values.
    pub fn enter_sum(&mut self, at: &Buffer<i32>, place: usize, values: &Buffer<i32>) -> Result<()> {
        let (n, out) = (values.len(), &mut self.counts);
        out.check(place, 1)?;
        ledger::sum(at.device(), 1, values, at, &mut out.values, self.rows, out.width, place, n)
    }

    /// Enters the number of flags that are not 0.
    pub fn enter_flags(&mut self, at: &Buffer<i32>, place: usize, flags: &Buffer<u8>) -> Result<()> {
        let (n, out) = (flags.len(), &mut self.counts);
        out.check(place, 1)?;
        ledger::flags(at.device(), 1, flags, at, &mut out.values, self.rows, out.width, place, n)
    }

    /// All rows; waits for the device.
    pub fn read(&self) -> Result<LedgerPage> {
        let (floats, counts) = (self.floats.values.to_vec()?, self.counts.values.to_vec()?);
        Ok(LedgerPage { floats, counts, rows: self.rows })
    }
}

impl LedgerPage {
    /// The row of a step, one of the last that were entered.
    pub fn row(&self, step: usize) -> LedgerRow<'_> {
        let row = step % self.rows;
        let (floats, counts) = (self.floats.len() / self.rows, self.counts.len() / self.rows);
        LedgerRow {
            floats: &self.floats[row * floats..][..floats],
            counts: &self.counts[row * counts..][..counts],
        }
    }
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    let mut cases = Vec::new();
    // Rows, values of a step, steps.
    for (rows, n, steps) in [(1, 1, 2usize), (3, 7, 5), (4, 300, 4), (2, 1025, 3)] {
        let sets = move |step: usize| (0..n).map(move |i| ((i * 7 + step) % 5) as u8);
        let inputs: Vec<Input> = (0..steps).map(|step| Input::normal_seeded(&[n], step as u64)).collect();
        let run = move |device: &Device, t: &[Tensor]| {
            let mut ledger = Ledger::new(device, rows, n + 2, 3)?;
            for (step, values) in t.iter().enumerate() {
                let at = Buffer::from_slice(device, &[step as i32 + 1, step as i32])?;
                let flags: Vec<u8> = sets(step).collect();
                let integers: Vec<i32> = flags.iter().map(|flag| i32::from(*flag) - 1).collect();
                ledger.enter(&at, 1, values)?;
                ledger.enter_sum(&at, 2, &Buffer::from_slice(device, &integers)?)?;
                ledger.enter_flags(&at, 0, &Buffer::from_slice(device, &flags)?)?;
            }
            let page = ledger.read()?;
            let row = |step: usize| {
                let LedgerRow { floats, counts } = page.row(step);
                floats.iter().copied().chain(counts.iter().map(|count| *count as f32)).collect::<Vec<f32>>()
            };
            Ok((steps.saturating_sub(rows)..steps).flat_map(row).collect())
        };
        let want = move |v: &[Vec<f64>]| {
            let row = |step: usize| {
                let set = sets(step).filter(|flag| *flag != 0).count() as f64;
                let sum = sets(step).map(|flag| f64::from(flag) - 1.0).sum::<f64>();
                [&[0.0][..], &v[step], &[0.0, set, 0.0, sum]].concat()
            };
            (steps.saturating_sub(rows)..steps).flat_map(row).collect()
        };
        let name = format!("{steps} steps of {n} values in {rows} rows");
        cases.push(Case::kernel(name, inputs, run, want).tolerance(0.0, 0.0));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_do_not_exist_are_errors() {
        let device = Device::host().unwrap();
        let mut ledger = Ledger::new(&device, 2, 3, 1).unwrap();
        let at = Buffer::from_slice(&device, &[1, 0]).unwrap();
        let values = Tensor::zeros(&device, &[2]).unwrap();
        assert!(ledger.enter(&at, 1, &values).is_ok() && ledger.enter(&at, 2, &values).is_err());
        let flags = Buffer::zeros(&device, 5).unwrap();
        assert!(ledger.enter_flags(&at, 0, &flags).is_ok() && ledger.enter_flags(&at, 1, &flags).is_err());
    }
}
