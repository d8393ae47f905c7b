//! Facts about a step, besides its loss, that a method wants recorded.

use crate::device::Buffer;
use crate::tensor::Tensor;
use std::rc::Rc;

/// A fact about a step; nothing of it has been read from the device yet. An epoch's record has the mean over
/// its samples, or quantiles.
#[derive(Clone)]
pub enum LogValue {
    /// A flag for each sample: recorded is the part of the samples that have it.
    Flags(Rc<Buffer<u8>>),
    /// A number of images `[1]`: recorded is the part of the images.
    Count(Rc<Buffer<i32>>),
    /// A number for each sample `[N]`: recorded are quantiles.
    Values(Tensor),
    /// Recorded as null, beside the other facts of a related method.
    Absent,
}

/// Facts by name, in the order of the record.
pub type Log = Vec<(&'static str, LogValue)>;
