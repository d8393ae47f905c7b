//! What steps report: kept in device memory, and read for several steps at once.

use super::step::StepOutput;
use crate::device::Buffer;
use crate::error::{Error, Result, ensure};
use crate::method::{Log, LogValue};
use crate::ops::ledger::{Ledger, LedgerRow};

/// The numbers that a step reports.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Images of its batch.
    pub images: usize,
    pub loss: f32,
    pub terms: Vec<(&'static str, f32)>,
    /// Labels that its training pass was compared with, and the number of right predictions.
    pub labels: usize,
    pub hits: usize,
    pub log: Vec<(&'static str, Logged)>,
}

/// A fact about a step ([`LogValue`]) as the program reads it.
#[derive(Clone, Debug, PartialEq)]
pub enum Logged {
    /// So many of so many samples or images.
    Part {
        count: u64,
        of: u64,
    },
    Values(Vec<f32>),
    Absent,
}

/// The reports of the last steps with batches of one size, in device memory.
pub struct StepReports {
    layout: Layout,
    ledger: Ledger,
}

/// What a report consists of. In a row of the ledger the loss comes first, then terms and logged values; of
/// counts the hits, then the log's.
#[derive(Clone, Debug, PartialEq)]
struct Layout {
    images: usize,
    terms: Vec<&'static str>,
    /// 0: accuracy is not counted.
    labels: usize,
    log: Vec<(&'static str, Kind)>,
}

/// A fact of the log: flags of samples, a number of images, values of samples.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Flags(usize),
    Count,
    Values(usize),
    Absent,
}

impl Layout {
    fn of(output: &StepOutput, images: usize) -> Layout {
        let kind = |value: &LogValue| match value {
            LogValue::Flags(flags) => Kind::Flags(flags.len()),
            LogValue::Count(_) => Kind::Count,
            LogValue::Values(values) => Kind::Values(values.len()),
            LogValue::Absent => Kind::Absent,
        };
        Layout {
            images,
            terms: output.terms.iter().map(|(name, _)| *name).collect(),
            labels: output.hits.as_ref().map_or(0, Buffer::len),
            log: output.log.iter().map(|(name, value)| (*name, kind(value))).collect(),
        }
    }

    fn floats(&self) -> usize {
        let values = |(_, kind): &(_, Kind)| if let Kind::Values(n) = kind { *n } else { 0 };
        1 + self.terms.len() + self.log.iter().map(values).sum::<usize>()
    }

    fn counts(&self) -> usize {
        1 + self.log.iter().filter(|(_, kind)| matches!(kind, Kind::Flags(_) | Kind::Count)).count()
    }

    fn report(&self, LedgerRow { floats, counts }: LedgerRow) -> StepReport {
        let (mut floats, mut counts) = (floats.iter().copied(), counts.iter().map(|n| *n as u64));
        let loss = floats.next().unwrap_or(f32::NAN);
        let hits = counts.next().unwrap_or(0) as usize;
        let terms = self.terms.iter().copied().zip(floats.by_ref()).collect();
        let mut part = |of: usize| Logged::Part { count: counts.next().unwrap_or(0), of: of as u64 };
        let mut logged = |kind: Kind| match kind {
            Kind::Flags(samples) => part(samples),
            Kind::Count => part(self.images),
            Kind::Values(n) => Logged::Values(floats.by_ref().take(n).collect()),
            Kind::Absent => Logged::Absent,
        };
        let log = self.log.iter().map(|(name, kind)| (*name, logged(*kind))).collect();
        StepReport { images: self.images, loss, terms, labels: self.labels, hits, log }
    }
}

impl StepReports {
    /// Room for `rows` steps on batches of so many images, which report what `output` has.
    pub fn new(output: &StepOutput, images: usize, rows: usize) -> Result<StepReports> {
        let layout = Layout::of(output, images);
        let ledger = Ledger::new(output.loss.device(), rows, layout.floats(), layout.counts())?;
        Ok(StepReports { layout, ledger })
    }

    /// Enters the report of the step under way (`at`: [`Feed::at`](crate::ops::feed::Feed::at)).
    ///
    /// Errors: it reports something else than the steps before.
    pub fn enter(&mut self, at: &Buffer<i32>, output: &StepOutput) -> Result<()> {
        let layout = Layout::of(output, self.layout.images);
        ensure(layout == self.layout, || Error::Internal {
            what: format!("a step reports {layout:?} after {:?}", self.layout),
        })?;
        let StepOutput { loss, terms, hits, log } = output;
        let logged =
            log.iter().filter_map(|(_, value)| if let LogValue::Values(v) = value { Some(v) } else { None });
        let mut place = 0;
        for values in [loss].into_iter().chain(terms.iter().map(|(_, term)| term)).chain(logged) {
            self.ledger.enter(at, place, values)?;
            place += values.len();
        }
        if let Some(hits) = hits {
            self.ledger.enter_sum(at, 0, hits)?;
        }
        self.enter_counts(at, log)
    }

    fn enter_counts(&mut self, at: &Buffer<i32>, log: &Log) -> Result<()> {
        let mut place = 1;
        for (_, value) in log {
            match value {
                LogValue::Flags(flags) => self.ledger.enter_flags(at, place, flags)?,
                LogValue::Count(count) => self.ledger.enter_sum(at, place, count)?,
                LogValue::Values(_) | LogValue::Absent => continue,
            }
            place += 1;
        }
        Ok(())
    }

    /// The reports of these steps; waits for the device.
    pub fn read(&self, steps: &[usize]) -> Result<Vec<StepReport>> {
        let page = self.ledger.read()?;
        Ok(steps.iter().map(|step| self.layout.report(page.row(*step))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::tensor::Tensor;
    use std::rc::Rc;

    /// The output of a step on two images; everything in it follows from its number.
    fn output(device: &Device, step: usize, hits: bool) -> StepOutput {
        let tensor = |values: &[f32]| Tensor::from_slice(device, &[values.len()], values).unwrap();
        let flags = |flags: [u8; 4]| LogValue::Flags(Rc::new(Buffer::from_slice(device, &flags).unwrap()));
        let count = |n: i32| LogValue::Count(Rc::new(Buffer::from_slice(device, &[n]).unwrap()));
        let s = step as f32;
        StepOutput {
            loss: tensor(&[s]),
            terms: vec![("ce", tensor(&[s + 0.25])), ("kl", tensor(&[s + 0.5]))],
            hits: hits.then(|| Buffer::from_slice(device, &[1, 0, 1, (step % 2) as i32]).unwrap()),
            log: vec![
                ("flags", flags([1, 0, 0, (step % 2) as u8])),
                ("values", LogValue::Values(tensor(&[s, -s, 7.0]))),
                ("nothing", LogValue::Absent),
                ("count", count(step as i32)),
            ],
        }
    }

    #[test]
    fn reports_are_read_as_they_were_entered() {
        let device = Device::host().unwrap();
        for hits in [true, false] {
            let mut reports = StepReports::new(&output(&device, 0, hits), 2, 3).unwrap();
            for step in 4..7 {
                let at = Buffer::from_slice(&device, &[step as i32 + 1, step as i32]).unwrap();
                reports.enter(&at, &output(&device, step, hits)).unwrap();
            }
            let want = |step: usize| {
                let (s, odd) = (step as f32, step as u64 % 2);
                StepReport {
                    images: 2,
                    loss: s,
                    terms: vec![("ce", s + 0.25), ("kl", s + 0.5)],
                    labels: if hits { 4 } else { 0 },
                    hits: if hits { 2 + step % 2 } else { 0 },
                    log: vec![
                        ("flags", Logged::Part { count: 1 + odd, of: 4 }),
                        ("values", Logged::Values(vec![s, -s, 7.0])),
                        ("nothing", Logged::Absent),
                        ("count", Logged::Part { count: step as u64, of: 2 }),
                    ],
                }
            };
            assert_eq!(reports.read(&[5, 6]).unwrap(), [want(5), want(6)]);
        }
    }

    #[test]
    fn a_report_of_another_kind_is_an_error() {
        let device = Device::host().unwrap();
        let mut reports = StepReports::new(&output(&device, 0, true), 2, 3).unwrap();
        let at = Buffer::from_slice(&device, &[1, 0]).unwrap();
        assert!(reports.enter(&at, &output(&device, 1, false)).is_err());
    }
}
