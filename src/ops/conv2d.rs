//! Two-dimensional convolution of x `[N,H,W,Cin]` with w `[Cout,kh,kw,Cin]`: the operation on a tape, and the
//! four pieces it is made of, for callers that fuse (attacks, inference): [`Filter`], and the functions of
//! [`Convolve`]: forward, input_grad, weight_grad. Those of this file compute in float32.

mod filter;
mod grid;
mod precision;

use super::batch_norm::Measured;
use super::conv2d_step::step_images;
use super::prelude::*;
use super::valid::Rows;
use crate::tape::NodeId;
use crate::tensor::elements;
use grid::{implicit_gemm_grid, panel_width};
use kernels::{conv2d, conv2d_weight};
use std::rc::Rc;

pub use filter::Filter;
pub use precision::{Convolve, Precision};

/// The sizes of one convolution. Every tensor must have fewer than 2^31 elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    pub images: usize,
    pub height: usize,
    pub width: usize,
    pub in_channels: usize,
    pub out_height: usize,
    pub out_width: usize,
    pub out_channels: usize,
    pub kernel_height: usize,
    pub kernel_width: usize,
    pub stride: usize,
    pub pad: usize,
}

impl Conv {
    /// From the shapes of x and w. Errors: shapes that do not fit, a filter that is larger than the padded
    /// image, stride 0.
    pub fn new(x: &[usize], w: &[usize], stride: usize, pad: usize) -> Result<Conv> {
        let wrong = |expected: &str, got: &[usize]| {
            Err(Error::Shape { op: "conv2d", expected: expected.into(), got: got.to_vec() })
        };
        let &[images, height, width, in_channels] = x else { return wrong("x [N,H,W,Cin]", x) };
        let &[out_channels, kernel_height, kernel_width, channels] = w else {
            return wrong("w [Cout,kh,kw,Cin]", w);
        };
        if channels != in_channels || w.contains(&0) {
            return wrong(&format!("w [Cout,kh,kw,{in_channels}]"), w);
        }
        if stride == 0 || height + 2 * pad < kernel_height || width + 2 * pad < kernel_width {
            return wrong(
                &format!(
                    "x with at least {kernel_height}x{kernel_width} pixels with pad {pad}, and a stride \
                     above 0"
                ),
                x,
            );
        }
        let out_height = (height + 2 * pad - kernel_height) / stride + 1;
        let out_width = (width + 2 * pad - kernel_width) / stride + 1;
        let conv = Conv {
            images,
            height,
            width,
            in_channels,
            out_height,
            out_width,
            out_channels,
            kernel_height,
            kernel_width,
            stride,
            pad,
        };
        elements(&conv.out_shape())?;
        elements(&conv.in_shape())?;
        Ok(conv)
    }

    /// `[N,OH,OW,Cout]`.
    pub fn out_shape(&self) -> [usize; 4] {
        [self.images, self.out_height, self.out_width, self.out_channels]
    }

    /// `[Cout,kh,kw,Cin]`.
    pub fn w_shape(&self) -> [usize; 4] {
        [self.out_channels, self.kernel_height, self.kernel_width, self.in_channels]
    }

    /// `[N,H,W,Cin]`.
    pub fn in_shape(&self) -> [usize; 4] {
        [self.images, self.height, self.width, self.in_channels]
    }

    /// Whether the input gradient takes the kernel for few channels, which reads the panels of the forward
    /// pass.
    pub(super) fn narrow(&self, device: &Device) -> bool {
        self.in_channels <= conv2d::NARROW_CHANNELS.on(device)
    }
}

/// Launches a kernel with these fields and the sizes of a convolution.
macro_rules! launch {
    ($module:ident::$kernel:ident { $($field:tt)* }, $conv:expr, $device:expr, $grid:expr) => {
        $module::$kernel {
            images: $conv.images,
            height: $conv.height,
            width: $conv.width,
            channels: $conv.in_channels,
            out_height: $conv.out_height,
            out_width: $conv.out_width,
            out_channels: $conv.out_channels,
            kernel_h: $conv.kernel_height,
            kernel_w: $conv.kernel_width,
            stride: $conv.stride,
            pad: $conv.pad,
            $($field)*
        }
        .launch($device, $grid)
    };
}
pub(super) use launch;

/// Operations of [`Convolve::forward`] on each output before it is written.
pub struct Epilogue<'a, T: Real = f32> {
    /// Added per output channel: `[Cout]`.
    pub shift: Option<&'a Tensor>,
    /// Added: `[N,OH,OW,Cout]`.
    pub residual: Option<&'a Tensor<T>>,
    /// max(., 0) at the end.
    pub relu: bool,
    /// Gets a bit per output, 1 where it is positive; [`mask_bytes`] long; only with `relu` and when
    /// [`masks_fit`].
    pub relu_mask: Option<&'a mut Buffer<u8>>,
}

impl<T: Real> Default for Epilogue<'_, T> {
    fn default() -> Self {
        Epilogue { shift: None, residual: None, relu: false, relu_mask: None }
    }
}

/// Whether a bit mask may be read or written by a fused epilogue with this many channels.
pub fn masks_fit(channels: usize) -> bool {
    channels.is_multiple_of(16)
}

pub(super) fn check_mask(mask: Option<&Buffer<u8>>, shape: [usize; 4]) -> Result<()> {
    match mask {
        Some(mask) if mask.len() != mask_bytes(shape.iter().product()) || !masks_fit(shape[3]) => {
            Err(Error::Shape {
                op: "conv2d mask",
                expected: format!("bits of {shape:?}, channels a multiple of 16"),
                got: vec![mask.len()],
            })
        }
        _ => Ok(()),
    }
}

/// [`Convolve::forward`] of float32, with results of either type.
fn forward<Y: Real>(
    conv: &Conv,
    x: &Tensor,
    filter: &Filter,
    epilogue: Epilogue<Y>,
    num_valid: Option<&Buffer<i32>>,
) -> Result<Tensor<Y>> {
    let device = x.device();
    expect("conv2d x", x.shape(), &conv.in_shape())?;
    expect(
        "conv2d w",
        filter.weight().shape(),
        &[conv.out_channels, conv.kernel_height, conv.kernel_width, conv.in_channels],
    )?;
    if let Some(shift) = epilogue.shift {
        expect("conv2d shift", shift.shape(), &[conv.out_channels])?;
    }
    if let Some(residual) = epilogue.residual {
        expect("conv2d residual", residual.shape(), &conv.out_shape())?;
    }
    check_mask(epilogue.relu_mask.as_deref(), conv.out_shape())?;
    let mut out = Tensor::<Y>::uninit(device, &conv.out_shape())?;
    let pixels = (conv.out_height, conv.out_width);
    let grid = implicit_gemm_grid(device, conv.images, pixels, conv.out_channels, 1, num_valid.is_some());
    launch!(
        conv2d::Forward {
            x,
            panels: filter.panels(false)?,
            shift: epilogue.shift.map(Tensor::buffer),
            residual: epilogue.residual.map(|residual| residual.buffer()),
            y: &mut out,
            relu_mask: epilogue.relu_mask,
            num_valid,
            relu: epilogue.relu,
        },
        conv,
        device,
        grid
    )?;
    Ok(out)
}

/// [`Convolve::input_grad`] of float32.
fn input_grad(
    conv: &Conv,
    grad: &Tensor,
    filter: &Filter,
    input_mask: Option<&Buffer<u8>>,
    num_valid: Option<&Buffer<i32>>,
    into: &mut Buffer<f32>,
    accumulate: bool,
) -> Result<()> {
    let device = grad.device();
    check_mask(input_mask, conv.in_shape())?;
    if conv.narrow(device) {
        return input_grad_narrow(conv, grad, filter, num_valid, into, accumulate);
    }
    expect("conv2d gradient", grad.shape(), &conv.out_shape())?;
    expect("conv2d gradient", &[into.len()], &[conv.in_shape().iter().product()])?;
    let (pixels, phases) = ((conv.height, conv.width), conv.stride);
    let grid = implicit_gemm_grid(device, conv.images, pixels, conv.in_channels, phases, num_valid.is_some());
    let panels = filter.panels(true)?;
    launch!(
        conv2d::InputGrad { grad_out: grad, panels, input_mask, grad_in: into, num_valid, accumulate },
        conv,
        device,
        grid
    )
}

/// [`input_grad`] for few input channels, which no ReLU made.
fn input_grad_narrow<Y: Real>(
    conv: &Conv,
    grad: &Tensor<Y>,
    filter: &Filter,
    num_valid: Option<&Buffer<i32>>,
    into: &mut Buffer<f32>,
    accumulate: bool,
) -> Result<()> {
    let device = grad.device();
    expect("conv2d gradient", grad.shape(), &conv.out_shape())?;
    expect("conv2d gradient", &[into.len()], &[conv.in_shape().iter().product()])?;
    let grid = (conv.images * conv.height * conv.width).div_ceil(conv2d::NARROW_PIXELS.on(device));
    let panels = filter.panels(false)?;
    launch!(
        conv2d::InputGradNarrow { grad_out: grad, panels, grad_in: into, num_valid, accumulate },
        conv,
        device,
        grid
    )
}

/// [`Convolve::weight_grad`] of float32.
fn weight_grad(
    conv: &Conv,
    x: &Tensor,
    grad: &Tensor,
    num_valid: Option<&Buffer<i32>>,
    into: &mut Buffer<f32>,
    accumulate: bool,
) -> Result<()> {
    let device = grad.device();
    expect("conv2d x", x.shape(), &conv.in_shape())?;
    expect("conv2d gradient", grad.shape(), &conv.out_shape())?;
    let columns = conv.kernel_height * conv.kernel_width * conv.in_channels;
    expect("conv2d gradient", &[into.len()], &[conv.out_channels * columns])?;
    let width = match conv.in_channels {
        c if c % 64 == 0 => 64,
        c if c % 32 == 0 => 32,
        c if c % 16 == 0 => 16,
        _ => panel_width(columns),
    };
    let blocks = conv.out_channels.div_ceil(conv2d_weight::TILE.on(device)) * columns.div_ceil(width);
    // The host wants at least so many blocks, to keep its cores busy; a GPU at most, or a few of them would
    // run alone at the end.
    let wanted = conv2d_weight::WANTED_BLOCKS.on(device);
    let splits = if device.has_one_thread_blocks() { wanted.div_ceil(blocks) } else { wanted / blocks };
    let splits = splits.clamp(1, conv.images.max(1));
    if splits == 1 {
        return launch!(
            conv2d_weight::Grad { x, grad_out: grad, out: into, num_valid, accumulate },
            conv,
            device,
            (blocks, 1)
        );
    }
    let mut parts = Buffer::uninit(device, splits * into.len())?;
    launch!(
        conv2d_weight::Grad { x, grad_out: grad, out: &mut parts, num_valid, accumulate: false },
        conv,
        device,
        (blocks, splits)
    )?;
    let elements = into.len();
    conv2d_weight::reduce(device, elementwise(device, elements), &parts, into, splits, elements, accumulate)
}

pub(super) fn expect(op: &'static str, got: &[usize], expected: &[usize]) -> Result<()> {
    if got == expected {
        Ok(())
    } else {
        Err(Error::Shape { op, expected: format!("{expected:?}"), got: got.to_vec() })
    }
}

/// The convolution of x `[N,H,W,Cin]` with w `[Cout,kh,kw,Cin]`, zero padding `pad` on every side:
/// `[N,OH,OW,Cout]`.
pub fn conv2d(tape: &Tape, x: Var, w: Var, stride: usize, pad: usize) -> Result<Var> {
    let filter = Rc::new(Filter::new(tape.value(w), Precision::F32));
    conv2d_prepared(tape, x, w, &filter, stride, pad, &Rows::All)
}

/// The same for the images of `rows`, with a filter made from w before, so that its copies serve many calls.
pub fn conv2d_prepared<X: Convolve<Y>, Y: Real>(
    tape: &Tape,
    x: Var<X>,
    w: Var,
    filter: &Rc<Filter>,
    stride: usize,
    pad: usize,
    rows: &Rows,
) -> Result<Var<Y>> {
    let input = tape.value(x);
    let conv = Conv::new(input.shape(), filter.weight().shape(), stride, pad)?;
    let y = X::forward(&conv, &input, filter, Epilogue::default(), rows.num_valid()?)?;
    push(tape, conv, y, x, w, filter, rows)
}

/// [`conv2d_prepared`] for a batch norm, with the statistics that it reads where the kernel has them.
pub fn conv2d_measured<X: Convolve<Y>, Y: Real>(
    tape: &Tape,
    x: Var<X>,
    w: Var,
    filter: &Rc<Filter>,
    stride: usize,
    pad: usize,
    rows: &Rows,
) -> Result<Measured<Y>> {
    let input = tape.value(x);
    let conv = Conv::new(input.shape(), filter.weight().shape(), stride, pad)?;
    let (y, statistics) = X::forward_with_statistics(&conv, &input, filter, rows.num_valid()?)?;
    Ok(Measured { x: push(tape, conv, y, x, w, filter, rows)?, statistics })
}

/// y = conv(x, w) with its backward rule.
fn push<X: Convolve<Y>, Y: Real>(
    tape: &Tape,
    conv: Conv,
    y: Tensor<Y>,
    x: Var<X>,
    w: Var,
    filter: &Rc<Filter>,
    rows: &Rows,
) -> Result<Var<Y>> {
    let (filter, rows) = (filter.clone(), rows.clone());
    let input = tape.needs(w).then(|| tape.value(x));
    tape.push(y, &[NodeId::from(x), w.into()], move |grad, sink| {
        let moved = rows.num_valid()?.is_none() && step_images(&conv, grad, &filter, x, sink)?;
        if !moved && let Some((into, accumulate)) = sink.slot(x)? {
            X::input_grad(&conv, grad, &filter, None, rows.num_valid()?, into, accumulate)?;
        }
        if let (Some(input), Some((into, accumulate))) = (&input, sink.slot(w)?) {
            X::weight_grad(&conv, input, grad, &filter, rows.num_valid()?, into, accumulate)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod testing;
#[cfg(test)]
pub use testing::cases;
#[cfg(test)]
pub(super) use testing::{input_oracle, oracle, weight_oracle};
