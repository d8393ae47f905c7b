//! A filter, and the copies of it that kernels read.

use super::Precision;
use super::grid::panel_width;
use crate::ops::conv2d_mma::{self, Packed, Passes};
use crate::ops::prelude::*;
use half::bf16;
use kernels::conv2d;
use std::cell::OnceCell;

/// Weights `[Cout,kh,kw,Cin]` and the copies that the kernels read, which are made when first needed. Make a
/// new one when weights change.
pub struct Filter {
    weight: Tensor,
    scale: Option<Tensor>,
    pub(super) precision: Precision,
    forward: OnceCell<Buffer<f32>>,
    transposed: OnceCell<Buffer<f32>>,
    bf16: OnceCell<Packed<bf16>>,
    tf32: OnceCell<Packed<f32>>,
}

impl Filter {
    /// A filter of this precision, where [`Precision::of_channels`] allows it.
    pub fn new(weight: Tensor, precision: Precision) -> Filter {
        let channels = |at| weight.shape().get(at).copied().unwrap_or(1);
        let precision = precision.of_channels(channels(0), channels(3));
        let (forward, transposed) = (OnceCell::new(), OnceCell::new());
        let (bf16, tf32) = (OnceCell::new(), OnceCell::new());
        Filter { weight, scale: None, precision, forward, transposed, bf16, tf32 }
    }

    /// Weights times `scale[Cout]`, as if the output were scaled: a batch normalisation with fixed
    /// statistics.
    pub fn scaled(weight: Tensor, scale: Tensor, precision: Precision) -> Result<Filter> {
        if weight.shape().first() != Some(&scale.len()) {
            return Err(Error::Shape {
                op: "Filter::scaled",
                expected: format!("{:?} values", weight.shape().first()),
                got: scale.shape().to_vec(),
            });
        }
        Ok(Filter { scale: Some(scale), ..Filter::new(weight, precision) })
    }

    /// The weights without the scale.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    pub(in crate::ops) fn panels(&self, transposed: bool) -> Result<&Buffer<f32>> {
        let cell = if transposed { &self.transposed } else { &self.forward };
        made_once(cell, || self.prepare(transposed))
    }

    /// Makes the copies for tensor cores of all filters in one launch: a network's after each update.
    pub fn pack_all<'a>(filters: impl Iterator<Item = &'a Filter> + Clone) -> Result<()> {
        fill(filters.clone().filter(|filter| filter.packs(Precision::Bf16)), |filter| &filter.bf16)?;
        fill(filters.filter(|filter| filter.packs(Precision::Tf32)), |filter| &filter.tf32)
    }

    /// Whether tensor cores multiply these weights in this precision.
    fn packs(&self, precision: Precision) -> bool {
        let shape = self.weight.nhwc("conv2d weights");
        self.precision == precision && shape.is_ok_and(|w| conv2d_mma::supports(w, self.weight.device()))
    }

    /// The copies in bf16 for tensor cores, where these multiply the weights.
    pub(super) fn packed_bf16(&self) -> Result<Option<&Packed<bf16>>> {
        if self.packs(Precision::Bf16) { made_once(&self.bf16, || self.pack()).map(Some) } else { Ok(None) }
    }

    /// The same in tf32.
    pub(super) fn packed_tf32(&self) -> Result<Option<&Packed<f32>>> {
        if self.packs(Precision::Tf32) { made_once(&self.tf32, || self.pack()).map(Some) } else { Ok(None) }
    }

    fn pack<T: Real>(&self) -> Result<Packed<T>> {
        Packed::new(&self.weight, self.scale.as_ref(), Passes::Both)
    }

    fn prepare(&self, transposed: bool) -> Result<Buffer<f32>> {
        let device = self.weight.device();
        let [out_channels, kh, kw, in_channels] = self.weight.nhwc("conv2d weights")?;
        let (columns, depth) =
            if transposed { (in_channels, out_channels) } else { (out_channels, in_channels) };
        let width = panel_width(columns);
        let (panels, rows) = (columns.div_ceil(width), (kh * kw * depth).next_multiple_of(4));
        let mut buffer = Buffer::uninit(device, panels * rows * width)?;
        let grid = (rows.div_ceil(conv2d::PREPARE_ROWS.on(device)), panels);
        let scale = self.scale.as_ref().map(Tensor::buffer);
        let (co, taps, ci) = (out_channels, kh * kw, in_channels);
        let (to_tf32, to_bf16) = (self.precision == Precision::Tf32, self.precision == Precision::Bf16);
        conv2d::Prepare {
            w: &self.weight,
            scale,
            panels: &mut buffer,
            out_channels: co,
            taps,
            in_channels: ci,
            transposed,
            to_tf32,
            to_bf16,
        }
        .launch(device, grid)?;
        Ok(buffer)
    }
}

/// Packs filters into their cells.
fn fill<'a, T: Real>(
    filters: impl Iterator<Item = &'a Filter>,
    cell: fn(&Filter) -> &OnceCell<Packed<T>>,
) -> Result<()> {
    let filters: Vec<&Filter> = filters.collect();
    let Some(first) = filters.first() else { return Ok(()) };
    let weights: Vec<_> = filters.iter().map(|filter| (&filter.weight, filter.scale.as_ref())).collect();
    let packed = Packed::all(first.weight.device(), &weights, Passes::Both)?;
    for (filter, packed) in filters.into_iter().zip(packed) {
        let _ = cell(filter).set(packed);
    }
    Ok(())
}

/// What a cell holds, made if it is empty.
fn made_once<T>(cell: &OnceCell<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    if cell.get().is_none() {
        let _ = cell.set(make()?);
    }
    cell.get().ok_or_else(|| Error::Internal { what: "a filter was prepared twice".into() })
}
