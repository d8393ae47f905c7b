//! Two-dimensional convolution on tensor cores: the pieces of [`super::conv2d`] for maps of bf16, or of
//! float32 whose numbers are rounded to tf32 before they are multiplied.

use super::batch_norm::ChunkStatistics;
use super::conv2d::{Conv, Epilogue, check_mask, expect, launch};
use super::prelude::*;
use crate::device::{Real, Table};
use kernels::{conv2d_mma, conv2d_mma_weight, conv2d_weight};

/// Whether these kernels compute convolutions with weights `[Cout,kh,kw,Cin]` on this device: one with tensor
/// cores, channel counts that are multiples of 16, and at most 32 taps.
pub fn supports([cout, kh, kw, cin]: [usize; 4], device: &Device) -> bool {
    cout.is_multiple_of(16) && cin.is_multiple_of(16) && kh * kw <= 32 && device.has_tensor_cores()
}

fn check_support(conv: &Conv, device: &Device) -> Result<()> {
    if supports(conv.w_shape(), device) {
        return Ok(());
    }
    let expected = "a GPU from compute capability 8.0 on, channels that are multiples of 16, at most 32 taps";
    let got = conv.w_shape().to_vec();
    Err(Error::Shape { op: "conv2d on tensor cores", expected: expected.into(), got })
}

/// The part of a product that a block computes: rows x columns. It is a choice of speed alone: every tile
/// gives the same bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, strum::Display)]
pub enum Tile {
    #[strum(to_string = "128x128")]
    T128x128,
    #[strum(to_string = "128x64")]
    T128x64,
    #[strum(to_string = "64x64")]
    T64x64,
}

/// A pass of a convolution.
#[derive(Clone, Copy, PartialEq, Eq, Debug, strum::Display)]
#[strum(serialize_all = "kebab-case")]
pub enum Pass {
    Forward,
    InputGrad,
    WeightGrad,
}

impl Pass {
    pub const ALL: [Pass; 3] = [Pass::Forward, Pass::InputGrad, Pass::WeightGrad];

    /// The tiles that there are kernels of.
    pub fn tiles(self) -> &'static [Tile] {
        match self {
            Pass::Forward | Pass::InputGrad => &Tile::ALL,
            Pass::WeightGrad => &Tile::OF_WEIGHTS,
        }
    }

    /// A convolution with maps of T, as the choices of a device name it.
    pub fn name<T: Real>(self, conv: &Conv) -> String {
        let Conv { kernel_height: kh, kernel_width: kw, stride, pad, out_channels, .. } = conv;
        let ([n, h, w, c], precision) = (conv.in_shape(), T::of("tf32", "bf16"));
        format!("{self} {precision} {n}x{h}x{w}x{c}, {kh}x{kw} s{stride} p{pad} to {out_channels}")
    }

    /// The tile that was measured to be the fastest on this device (`saddle bench kernels --tune`), or else
    /// the one that is expected to be.
    pub fn tile<T: Real>(self, conv: &Conv, device: &Device) -> Tile {
        let tuned = device.tuned(|| self.name::<T>(conv));
        let tuned = tuned.and_then(|name| self.tiles().iter().find(|tile| tile.to_string() == name));
        tuned.copied().unwrap_or_else(|| self.expected_tile(conv, device.multiprocessors()))
    }

    /// The tile that is expected to be the fastest on a GPU with so many multiprocessors.
    pub fn expected_tile(self, conv: &Conv, multiprocessors: usize) -> Tile {
        let pixels = conv.images * conv.out_height * conv.out_width;
        match self {
            Pass::Forward => Tile::of(&Tile::ALL, pixels, conv.out_channels, multiprocessors),
            Pass::InputGrad => {
                let rows = rows_of_phase(conv) * conv.stride * conv.stride;
                Tile::of(&Tile::ALL, rows, conv.in_channels, multiprocessors)
            }
            Pass::WeightGrad => Tile::of_weights(conv.out_channels),
        }
    }
}

impl Tile {
    pub const ALL: [Tile; 3] = [Tile::T128x128, Tile::T128x64, Tile::T64x64];
    /// Those of the weight gradient.
    pub const OF_WEIGHTS: [Tile; 2] = [Tile::T128x64, Tile::T64x64];

    /// Rows and columns, and the part of the tensor cores' speed that the tile's loads from shared memory
    /// are expected to leave (an estimate, not measured).
    fn sizes(self) -> (usize, usize, f64) {
        match self {
            Tile::T128x128 => (128, 128, 1.0),
            Tile::T128x64 => (128, 64, 0.95),
            Tile::T64x64 => (64, 64, 0.75),
        }
    }

    /// The one that wastes no rows of a weight gradient.
    fn of_weights(rows: usize) -> Tile {
        if rows > 64 { Tile::T128x64 } else { Tile::T64x64 }
    }

    fn blocks(self, rows: usize, columns: usize) -> usize {
        let (tile_rows, tile_columns, _) = self.sizes();
        rows.div_ceil(tile_rows) * columns.div_ceil(tile_columns)
    }

    /// The one of `candidates` that is expected to compute rows x columns first: the multiprocessor with
    /// most blocks decides.
    fn of(candidates: &[Tile], rows: usize, columns: usize, multiprocessors: usize) -> Tile {
        let time = |tile: &Tile| {
            let (tile_rows, tile_columns, speed) = tile.sizes();
            let most = tile.blocks(rows, columns).div_ceil(multiprocessors);
            (most * tile_rows * tile_columns) as f64 / speed
        };
        candidates.iter().copied().min_by(|a, b| time(a).total_cmp(&time(b))).unwrap_or(Tile::T64x64)
    }
}

/// Rows of the largest phase of an input gradient: every phase gets blocks for as many.
fn rows_of_phase(conv: &Conv) -> usize {
    conv.images * conv.height.div_ceil(conv.stride) * conv.width.div_ceil(conv.stride)
}

/// Copies of the weights as these kernels read them.
pub struct Packed<T: Real> {
    forward: Option<Buffer<T>>,
    transposed: Option<Buffer<T>>,
}

/// The passes that weights are packed for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Passes {
    Forward,
    InputGrad,
    Both,
}

impl<T: Real> Packed<T> {
    /// From weights `[Cout,kh,kw,Cin]`, times `scale[Cout]`.
    pub fn new(weight: &Tensor, scale: Option<&Tensor>, passes: Passes) -> Result<Packed<T>> {
        let packed = Packed::all(weight.device(), &[(weight, scale)], passes)?.pop();
        packed.ok_or_else(|| Error::Internal { what: "a filter was not packed".into() })
    }

    /// The same of any number of filters in one launch.
    pub fn all(
        device: &Device,
        filters: &[(&Tensor, Option<&Tensor>)],
        passes: Passes,
    ) -> Result<Vec<Packed<T>>> {
        let mut table = Table::new(device);
        let mut all = Vec::with_capacity(filters.len());
        for (weight, scale) in filters {
            let [co, kh, kw, ci] = weight.nhwc("conv2d weights")?;
            if let Some(scale) = scale {
                expect("conv2d scale", scale.shape(), &[co])?;
            }
            let buffer = |other| (passes != other).then(|| Buffer::uninit(device, weight.len())).transpose();
            let (mut forward, mut transposed) = (buffer(Passes::InputGrad)?, buffer(Passes::Forward)?);
            let tile = conv2d_mma::PACK_TILE.on(device);
            let row = table.row(ci.div_ceil(tile) * co.div_ceil(tile) * kh * kw).read(weight.buffer());
            row.read(scale.map(Tensor::buffer)).write(forward.as_mut()).write(transposed.as_mut());
            row.value(co).value(kh * kw).value(ci);
            all.push(Packed { forward, transposed });
        }
        conv2d_mma::pack::<T>(device, table.blocks(), &table.buffer()?, table.rows())?;
        Ok(all)
    }
}

fn packed<'a, T: Real>(weights: &'a Option<Buffer<T>>, pass: &str) -> Result<&'a Buffer<T>> {
    let missing = || Error::Internal { what: format!("weights were not packed for the {pass}") };
    weights.as_ref().ok_or_else(missing)
}

/// Launches the kernel of a tile: the variants of one struct, with the same fields.
macro_rules! launch_tile {
    ($tile:expr, $module:ident::{ $($variant:ident => $kernel:ident),* } $fields:tt, $conv:expr, $device:expr,
     $grid:expr) => {
        match $tile {
            $(Tile::$variant => launch!($module::$kernel $fields, $conv, $device, $grid),)*
        }
    };
}

/// conv(x, w) into `y`, with an epilogue before it is rounded. Past the first `num_valid` images the
/// convolution counts as 0. `tile` overrides the choice.
pub fn forward<T: Real>(
    conv: &Conv,
    x: &Buffer<T>,
    weights: &Packed<T>,
    epilogue: Epilogue<T>,
    num_valid: Option<&Buffer<i32>>,
    y: &mut Buffer<T>,
    tile: Option<Tile>,
) -> Result<()> {
    let tile = tile.unwrap_or_else(|| Pass::Forward.tile::<T>(conv, y.device()));
    launch_forward(conv, x, weights, epilogue, None, num_valid, y, tile)
}

/// conv(x, w) into `y`, and the statistics per channel of what is stored there for the valid images. Their
/// chunks are the rows of blocks: `tile` decides how sums are rounded, y is the same with each. Unless it is
/// given, it is that of one GPU on all of them, not one that was measured.
pub fn forward_with_statistics<T: Real>(
    conv: &Conv,
    x: &Buffer<T>,
    weights: &Packed<T>,
    num_valid: Option<&Buffer<i32>>,
    y: &mut Buffer<T>,
    tile: Option<Tile>,
) -> Result<ChunkStatistics> {
    let tile = tile.unwrap_or_else(|| Pass::Forward.expected_tile(conv, H200_MULTIPROCESSORS));
    let (rows_per_chunk, ..) = tile.sizes();
    let chunks = (conv.images * conv.out_height * conv.out_width).div_ceil(rows_per_chunk);
    let mut partial = Buffer::uninit(y.device(), chunks * 2 * conv.out_channels)?;
    launch_forward(conv, x, weights, Epilogue::default(), Some(&mut partial), num_valid, y, tile)?;
    Ok(ChunkStatistics { partial, rows_per_chunk })
}

#[allow(clippy::too_many_arguments)]
fn launch_forward<T: Real>(
    conv: &Conv,
    x: &Buffer<T>,
    weights: &Packed<T>,
    epilogue: Epilogue<T>,
    statistics: Option<&mut Buffer<f32>>,
    num_valid: Option<&Buffer<i32>>,
    y: &mut Buffer<T>,
    tile: Tile,
) -> Result<()> {
    let device = &y.device().clone();
    check_support(conv, device)?;
    let (inputs, outputs) = (conv.in_shape().iter().product(), conv.out_shape().iter().product());
    expect("conv2d x", &[x.len()], &[inputs])?;
    expect("conv2d y", &[y.len()], &[outputs])?;
    let Epilogue { shift, residual, relu, relu_mask } = epilogue;
    if let Some(shift) = shift {
        expect("conv2d shift", shift.shape(), &[conv.out_channels])?;
    }
    if let Some(residual) = residual {
        expect("conv2d residual", residual.shape(), &conv.out_shape())?;
    }
    let residual = residual.map(Tensor::buffer);
    check_mask(relu_mask.as_deref(), conv.out_shape())?;
    let rows = conv.images * conv.out_height * conv.out_width;
    let (weights, shift) = (packed(&weights.forward, "forward pass")?, shift.map(Tensor::buffer));
    launch_tile!(
        tile,
        conv2d_mma::{ T128x128 => Forward128x128, T128x64 => Forward128x64, T64x64 => Forward64x64 }
        { x, weights, shift, residual, y, relu_mask, statistics, num_valid, relu, },
        conv,
        device,
        tile.blocks(rows, conv.out_channels)
    )
}

/// The gradient of x into `into`, written or (`accumulate`) added; with `input_mask`, the sum is then
/// zeroed where the bit is 0, which is the gradient through the ReLU that made x. Past the first `num_valid`
/// images the gradient is 0. `tile` overrides the choice.
#[allow(clippy::too_many_arguments)]
pub fn input_grad<T: Real>(
    conv: &Conv,
    grad_out: &Buffer<T>,
    weights: &Packed<T>,
    input_mask: Option<&Buffer<u8>>,
    num_valid: Option<&Buffer<i32>>,
    into: &mut Buffer<T>,
    accumulate: bool,
    tile: Option<Tile>,
) -> Result<()> {
    let device = &into.device().clone();
    check_support(conv, device)?;
    expect("conv2d gradient", &[grad_out.len()], &[conv.out_shape().iter().product()])?;
    expect("conv2d gradient", &[into.len()], &[conv.in_shape().iter().product()])?;
    check_mask(input_mask, conv.in_shape())?;
    let tile = tile.unwrap_or_else(|| Pass::InputGrad.tile::<T>(conv, device));
    let weights = packed(&weights.transposed, "input gradient")?;
    launch_tile!(
        tile,
        conv2d_mma::{ T128x128 => InputGrad128x128, T128x64 => InputGrad128x64, T64x64 => InputGrad64x64 }
        { grad_out, weights, input_mask, grad_in: into, num_valid, accumulate, },
        conv,
        device,
        tile.blocks(rows_of_phase(conv), conv.in_channels) * conv.stride * conv.stride
    )
}

/// For choices that decide how sums are rounded: the same on every GPU.
const H200_MULTIPROCESSORS: usize = 132;

/// Blocks of a weight gradient that are wanted: two waves of an H200 with three blocks a multiprocessor. It
/// is the same for every tile, too, because the bits of a sum depend on its parts.
const WANTED_BLOCKS: usize = 2 * 3 * H200_MULTIPROCESSORS;

/// Pixels that a block multiplies at a time are 64 or 32; a split of fewer than this many is not worth its
/// partial sums.
const SPLIT_PIXELS: usize = 256;

/// The parts that the pixels of a weight gradient are summed in.
fn splits(conv: &Conv, rows: usize, columns: usize) -> usize {
    let tile = Tile::of_weights(rows);
    let pixels = conv.images * conv.out_height * conv.out_width;
    (WANTED_BLOCKS / tile.blocks(rows, columns)).min(pixels / SPLIT_PIXELS).max(1)
}

/// The gradient of w `[Cout,kh,kw,Cin]` into `into`, written or (`accumulate`) added; summed over the
/// first `num_valid` images. `tile` overrides the choice.
#[allow(clippy::too_many_arguments)]
pub fn weight_grad<T: Real>(
    conv: &Conv,
    x: &Buffer<T>,
    grad_out: &Buffer<T>,
    num_valid: Option<&Buffer<i32>>,
    into: &mut Buffer<f32>,
    accumulate: bool,
    tile: Option<Tile>,
) -> Result<()> {
    let device = &into.device().clone();
    check_support(conv, device)?;
    expect("conv2d x", &[x.len()], &[conv.in_shape().iter().product()])?;
    expect("conv2d gradient", &[grad_out.len()], &[conv.out_shape().iter().product()])?;
    let (rows, columns) = (conv.out_channels, conv.kernel_height * conv.kernel_width * conv.in_channels);
    expect("conv2d gradient", &[into.len()], &[rows * columns])?;
    let tile = tile.unwrap_or_else(|| Pass::WeightGrad.tile::<T>(conv, device));
    let blocks = tile.blocks(rows, columns);
    let splits = splits(conv, rows, columns);
    let launch = |out: &mut Buffer<f32>, accumulate| match tile {
        Tile::T64x64 => launch!(
            conv2d_mma_weight::Grad64x64 { x, grad_out, out, num_valid, accumulate },
            conv,
            device,
            (blocks, splits)
        ),
        _ => launch!(
            conv2d_mma_weight::Grad128x64 { x, grad_out, out, num_valid, accumulate },
            conv,
            device,
            (blocks, splits)
        ),
    };
    if splits == 1 {
        return launch(into, accumulate);
    }
    let mut parts = Buffer::uninit(device, splits * into.len())?;
    launch(&mut parts, false)?;
    let elements = into.len();
    conv2d_weight::reduce(device, elementwise(device, elements), &parts, into, splits, elements, accumulate)
}

#[cfg(test)]
mod testing;
#[cfg(test)]
pub use testing::cases;
