//! The fully connected layer.

use super::prelude::*;
use crate::tensor::elements;
use kernels::{Output, linear};

/// x `[N,K]` times the transpose of the weight `[out,K]`, plus the bias `[out]` when there is one: `[N,out]`.
pub fn linear(tape: &Tape, x: Var, weight: Var, bias: Option<Var>) -> Result<Var> {
    let (input, matrix, shift) = (tape.value(x), tape.value(weight), bias.map(|b| tape.value(b)));
    let (device, [n, k], [out, inner]) = (tape.device(), input.matrix("linear")?, matrix.matrix("linear")?);
    if inner != k {
        return Err(Error::Shape {
            op: "linear",
            expected: format!("a weight [outputs, {k}]"),
            got: matrix.shape().to_vec(),
        });
    }
    if let Some(shift) = shift.as_ref().filter(|b| b.shape() != [out]) {
        return Err(Error::Shape {
            op: "linear",
            expected: format!("a bias [{out}]"),
            got: shift.shape().to_vec(),
        });
    }
    let product = Product::new(n, k, out)?;
    let mut result = Tensor::uninit(device, &[n, out])?;
    product.forward(&input, &matrix, shift.as_deref(), &mut result)?;
    let parents: Vec<Var> = [x, weight].into_iter().chain(bias).collect();
    tape.push(result, &parents, move |grad, sink| {
        if let Some((into, accumulate)) = sink.slot(x)? {
            product.backward_input(grad, &matrix, into, accumulate)?;
        }
        if let Some((into, accumulate)) = sink.slot(weight)? {
            product.backward_weight(grad, &input, into, accumulate)?;
        }
        if let Some((into, accumulate)) = bias.map(|b| sink.slot(b)).transpose()?.flatten() {
            let device = grad.device();
            let grid = (out.div_ceil(linear::COLUMNS.on(device)), 1);
            linear::backward_bias(device, grid, grad, into, n, out, accumulate)?;
        }
        Ok(())
    })
}

/// The sizes of a product of x `[rows, inputs]` with the transpose of w `[outputs, inputs]`.
#[derive(Clone, Copy)]
pub(super) struct Product {
    rows: usize,
    inputs: usize,
    outputs: usize,
}

impl Product {
    /// Errors: a matrix of 2^31 elements or more.
    pub fn new(rows: usize, inputs: usize, outputs: usize) -> Result<Product> {
        for shape in [[rows, inputs], [outputs, inputs], [rows, outputs]] {
            elements(&shape)?;
        }
        Ok(Product { rows, inputs, outputs })
    }

    /// out = x * transposed(w) + bias, `[rows, outputs]`.
    pub fn forward(
        self,
        x: &Buffer<f32>,
        w: &Buffer<f32>,
        bias: Option<&Buffer<f32>>,
        out: &mut dyn Output,
    ) -> Result<()> {
        let (device, Product { rows, inputs, outputs }) = (x.device(), self);
        let tiles =
            rows.div_ceil(linear::TILE_ROWS.on(device)) * outputs.div_ceil(linear::TILE_OUTPUTS.on(device));
        let grid = tiles.div_ceil(linear::GROUPS.on(device));
        linear::forward(device, grid, x, w, bias, out, rows, inputs, outputs)
    }

    /// dx (+)= g * w, `[rows, inputs]`.
    pub fn backward_input(
        self,
        g: &Buffer<f32>,
        w: &Buffer<f32>,
        into: &mut Buffer<f32>,
        accumulate: bool,
    ) -> Result<()> {
        let (device, Product { rows, inputs, outputs }) = (g.device(), self);
        let grid = self.grid(device, rows);
        linear::backward_input(device, grid, g, w, into, rows, inputs, outputs, accumulate)
    }

    /// dw (+)= transposed(g) * x, `[outputs, inputs]`.
    pub fn backward_weight(
        self,
        g: &Buffer<f32>,
        x: &Buffer<f32>,
        into: &mut Buffer<f32>,
        accumulate: bool,
    ) -> Result<()> {
        let (device, Product { rows, inputs, outputs }) = (g.device(), self);
        let grid = self.grid(device, outputs);
        linear::backward_weight(device, grid, g, x, into, rows, inputs, outputs, accumulate)
    }

    /// The grid of a backward kernel that writes this many rows of `inputs` columns.
    fn grid(self, device: &Device, written: usize) -> (usize, usize) {
        (
            self.inputs.div_ceil(linear::COLUMNS.on(device)),
            written.div_ceil(linear::TILE.on(device) * linear::TILES.on(device)),
        )
    }
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    fn oracle([n, k, out]: [usize; 3], x: &[Vec<f64>]) -> Vec<f64> {
        let dot = |i: usize, o: usize| (0..k).map(|j| x[0][i * k + j] * x[1][o * k + j]).sum::<f64>();
        (0..n * out).map(|at| dot(at / out, at % out) + x.get(2).map_or(0.0, |b| b[at % out])).collect()
    }
    // The outputs are of order 1 whatever K is.
    let inputs = |[n, k, out]: [usize; 3]| {
        [
            Input::normal(&[n, k]),
            Input::normal_seeded(&[out, k], 1).scaled((k as f32).powf(-0.5)),
            Input::normal_seeded(&[out], 2),
        ]
    };
    let name = |[n, k, out]: [usize; 3]| format!("[{n},{k}] x [{out},{k}]");
    let mut cases = Vec::new();
    for sizes in [[1, 1, 1], [3, 7, 2], [5, 33, 3], [128, 64, 10], [17, 530, 21], [4, 2048, 10], [9, 65, 200]]
    {
        let run = |tape: &Tape, v: &[Var]| linear(tape, v[0], v[1], Some(v[2]));
        cases.push(Case::op(name(sizes), inputs(sizes), run, move |x| oracle(sizes, x)));
    }
    for sizes in [[1, 64, 10], [6, 19, 5]] {
        let [x, weight, _] = inputs(sizes);
        let run = |tape: &Tape, v: &[Var]| linear(tape, v[0], v[1], None);
        cases.push(Case::op(format!("{} without bias", name(sizes)), [x, weight], run, move |x| {
            oracle(sizes, x)
        }));
    }
    for wanted in 0..3 {
        let sizes = [6, 40, 7];
        let mut inputs = inputs(sizes);
        inputs.iter_mut().enumerate().for_each(|(i, input)| input.differentiable = i == wanted);
        let run = |tape: &Tape, v: &[Var]| linear(tape, v[0], v[1], Some(v[2]));
        cases.push(Case::op(format!("gradient of input {wanted} only"), inputs, run, move |x| {
            oracle(sizes, x)
        }));
    }
    let sizes = [5, 40, 10];
    let [x, weight, bias] = inputs(sizes);
    let run = |tape: &Tape, v: &[Var]| linear(tape, v[0], v[1], Some(v[2]));
    cases.push(
        Case::op("+-300", [x.scaled(300.0), weight, bias], run, move |x| oracle(sizes, x))
            .tolerance(1e-3, 1e-5),
    );
    cases
}
