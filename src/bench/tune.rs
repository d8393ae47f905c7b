//! The tiles of the convolutions of a network, measured on the GPU at hand: `saddle bench kernels --tune`.

use super::kernels::{KernelsRequest, detail, reads_images};
use super::step_kernels::{Shared, StepKernels};
use super::timing::time_launches;
use super::work::{Numbers, Work, filter};
use crate::device::{Buffer, Choices, Device};
use crate::error::{Error, Result, ensure};
use crate::ops::conv2d::{Conv, Epilogue, Precision};
use crate::ops::conv2d_mma::{self, Packed, Pass, Passes, Tile};
use half::bf16;
use serde::Serialize;
use std::path::PathBuf;
use std::rc::Rc;

/// The times of one pass of a convolution.
#[derive(Clone, Debug, Serialize)]
pub struct TunedPass {
    pub pass: String,
    /// Sizes.
    pub detail: String,
    pub layers: Vec<String>,
    /// Median seconds with each tile.
    pub times: Vec<(String, f64)>,
    /// The fastest tile, and the one that is taken where nothing was measured.
    pub fastest: String,
    pub expected: String,
}

/// What was measured, and the file that keeps the fastest tiles.
#[derive(Clone, Debug, Serialize)]
pub struct Tuned {
    pub passes: Vec<TunedPass>,
    pub file: PathBuf,
}

/// Measures every tile of every convolution, and keeps the fastest ones for devices that are opened from now
/// on.
///
/// Errors: this is not a GPU; the precision, or the GPU, has no choice of tiles.
pub fn tune(device: &Device, request: &KernelsRequest) -> Result<Tuned> {
    // Before any work, because only a GPU can keep what is measured.
    device.keep_tuning(Choices::new())?;
    let &KernelsRequest { ref job, batch, precision, seconds } = request;
    ensure(precision != Precision::F32, || {
        Error::value("precision", precision, "has one kernel for each pass: --tune takes tf32 or bf16")
    })?;
    let step = StepKernels::of(device, job, batch, precision)?;
    let (mut passes, mut choices) = (Vec::new(), Choices::new());
    for Shared { what: conv, layers } in &step.convolutions {
        if reads_images(conv, job) || !conv2d_mma::supports(conv.w_shape(), device) {
            continue;
        }
        for pass in Pass::ALL {
            let (name, works) = match precision {
                Precision::Bf16 => (pass.name::<bf16>(conv), candidates::<bf16>(device, *conv, pass)?),
                _ => (pass.name::<f32>(conv), candidates::<f32>(device, *conv, pass)?),
            };
            let times = time_launches(device, seconds, works)?;
            let times: Vec<(Tile, f64)> =
                pass.tiles().iter().copied().zip(times.iter().map(|time| time.median)).collect();
            let expected = pass.expected_tile(conv, device.multiprocessors());
            let fastest =
                times.iter().min_by(|(_, a), (_, b)| a.total_cmp(b)).map_or(expected, |(tile, _)| *tile);
            choices.insert(name, fastest.to_string());
            passes.push(TunedPass {
                pass: pass.to_string(),
                detail: detail(conv),
                layers: layers.clone(),
                times: times.into_iter().map(|(tile, seconds)| (tile.to_string(), seconds)).collect(),
                fastest: fastest.to_string(),
                expected: expected.to_string(),
            });
        }
    }
    ensure(!passes.is_empty(), || {
        let problem = format!("has no convolution for the tensor cores of {}", device.describe());
        Error::value("model", job.model, problem)
    })?;
    Ok(Tuned { passes, file: device.keep_tuning(choices)?.to_owned() })
}

/// A pass with each of its tiles.
fn candidates<T: Numbers>(device: &Device, conv: Conv, pass: Pass) -> Result<Vec<Work>> {
    let (x, y) = (T::random(device, &conv.in_shape())?, T::random(device, &conv.out_shape())?);
    let weight = filter(device, &conv)?;
    let weights = Rc::new(Packed::<T>::new(&weight, None, Passes::Both)?);
    let work = |tile: Tile| -> Result<Work> {
        let (x, y, weights, tile) = (x.clone(), y.clone(), weights.clone(), Some(tile));
        Ok(match pass {
            Pass::Forward => {
                let mut out = Buffer::uninit(device, y.len())?;
                Box::new(move || {
                    conv2d_mma::forward(&conv, &x, &weights, Epilogue::default(), None, &mut out, tile)
                })
            }
            Pass::InputGrad => {
                let mut out = Buffer::uninit(device, x.len())?;
                Box::new(move || {
                    conv2d_mma::input_grad(&conv, &y, &weights, None, None, &mut out, false, tile)
                })
            }
            Pass::WeightGrad => {
                let mut out = Buffer::uninit(device, weight.len())?;
                Box::new(move || conv2d_mma::weight_grad(&conv, &x, &y, None, &mut out, false, tile))
            }
        })
    };
    pass.tiles().iter().copied().map(work).collect()
}
