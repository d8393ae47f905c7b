//! A convolution with everything after it in one kernel: folded batch norm, residual, ReLU. For passes whose
//! weights are frozen.

use super::conv2d::{Conv, Convolve, Epilogue, Filter, masks_fit};
use super::conv2d_step::step_images;
use super::prelude::*;
use crate::tape::NodeId;
use std::rc::Rc;

/// A filter with the scale of a batch norm in it, and the batch norm's shift `[Cout]`.
pub struct Folded {
    pub filter: Filter,
    pub shift: Tensor,
}

/// relu(conv(x, w) + shift + residual), with residual and ReLU as asked; gradients to x and the residual
/// only.
pub fn conv2d_folded<X: Convolve<Y>, Y: Real>(
    tape: &Tape,
    x: Var<X>,
    folded: &Rc<Folded>,
    residual: Option<Var<Y>>,
    relu: bool,
    stride: usize,
    pad: usize,
) -> Result<Var<Y>> {
    let input = tape.value(x);
    let conv = Conv::new(input.shape(), folded.filter.weight().shape(), stride, pad)?;
    let added = residual.map(|r| tape.value(r));
    let parents: Vec<NodeId> = [x.into()].into_iter().chain(residual.map(NodeId::from)).collect();
    let wanted = parents.iter().any(|p| tape.needs(*p));
    if relu && wanted && !masks_fit(conv.out_channels) {
        let sum = conv2d_folded(tape, x, folded, residual, false, stride, pad)?;
        return super::relu::relu(tape, sum);
    }
    let mut mask = None;
    if relu && wanted {
        mask = Some(Buffer::<u8>::uninit(tape.device(), mask_bytes(conv.out_shape().iter().product()))?);
    }
    let epilogue =
        Epilogue { shift: Some(&folded.shift), residual: added.as_ref(), relu, relu_mask: mask.as_mut() };
    let out = X::forward(&conv, &input, &folded.filter, epilogue, None)?;
    let folded = folded.clone();
    tape.push_masked(out, mask, &parents, move |grad, sink| {
        let moved = step_images(&conv, grad, &folded.filter, x, sink)?;
        if !moved && let Some(slot) = sink.slot_masked(x, masks_fit(conv.in_channels))? {
            let mask = slot.mask.as_deref();
            X::input_grad(&conv, grad, &folded.filter, mask, None, slot.into, slot.accumulate)?;
        }
        match residual {
            Some(residual) => sink.pass(residual, grad),
            None => Ok(()),
        }
    })
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::cast::{to_bf16, to_f32};
    use super::conv2d::Precision;
    use super::testing::*;
    let mut cases = Vec::new();
    for (channels, relu, with_residual) in
        [(16, true, true), (32, true, false), (16, false, true), (5, true, true), (3, false, false)]
    {
        let (x, w, out) = ([2, 5, 4, 3], [channels, 3, 3, 3], [2, 5, 4, channels]);
        let run = move |tape: &Tape, v: &[Var]| {
            let filter = Filter::scaled(tape.value(v[1]), tape.value(v[2]), Precision::F32)?;
            let folded = Rc::new(Folded { filter, shift: tape.value(v[3]) });
            conv2d_folded(tape, v[0], &folded, with_residual.then_some(v[4]), relu, 1, 1)
        };
        let oracle = move |v: &[Vec<f64>]| -> Vec<f64> {
            let conv = Conv::new(&x, &w, 1, 1).unwrap();
            let convolved = super::conv2d::oracle(&conv, &v[0], &v[1]);
            let finish = |(i, value): (usize, &f64)| {
                let channel = i % channels;
                let sum = value * v[2][channel] + v[3][channel] + if with_residual { v[4][i] } else { 0.0 };
                if relu { sum.max(0.0) } else { sum }
            };
            convolved.iter().enumerate().map(finish).collect()
        };
        let mut residual = Input::normal_seeded(&out, 3);
        if !with_residual {
            residual = residual.constant();
        }
        let inputs = [
            Input::normal(&x),
            Input::normal(&w).scaled(0.3).constant(),
            Input::uniform(&[channels], 0.5, 1.5).constant(),
            Input::normal_seeded(&[channels], 9).constant(),
            residual,
        ];
        cases.push(Case::op(
            format!("folded {channels} channels, relu {relu}, residual {with_residual}"),
            inputs,
            run,
            oracle,
        ));
    }
    for (relu, with_residual) in [(true, true), (true, false), (false, true)] {
        let (x, w, out) = ([2, 5, 4, 16], [32, 3, 3, 16], [2, 5, 4, 32]);
        let conv = Conv::new(&x, &w, 1, 1).unwrap();
        let run = move |tape: &Tape, v: &[Var]| {
            let filter = Filter::new(tape.value(v[1]), Precision::Bf16);
            let folded = Rc::new(Folded { filter, shift: tape.value(v[2]) });
            let residual = with_residual.then(|| to_bf16(tape, v[3])).transpose()?;
            to_f32(tape, conv2d_folded(tape, to_bf16(tape, v[0])?, &folded, residual, relu, 1, 1)?)
        };
        let oracle = move |v: &[Vec<f64>]| -> Vec<f64> {
            let sum = |(i, y): (usize, &f64)| {
                let sum = y + v[2][i % 32] + if with_residual { v[3][i] } else { 0.0 };
                if relu { sum.max(0.0) } else { sum }
            };
            super::conv2d::oracle(&conv, &v[0], &v[1]).iter().enumerate().map(sum).collect()
        };
        let residual = Input::normal_seeded(&out, 3).in_bf16();
        let inputs = [
            Input::normal(&x).in_bf16(),
            Input::normal(&w).in_bf16().constant(),
            Input::normal_seeded(&[32], 9).constant(),
            if with_residual { residual } else { residual.constant() },
        ];
        let name = format!("folded bf16, relu {relu}, residual {with_residual}");
        cases.push(Case::op(name, inputs, run, oracle).in_bf16());
    }
    cases
}
