//! The gradients of a backward pass while their contributions come in.

use super::{Node, NodeId, Var};
use crate::device::trace::Range;
use crate::device::{Buffer, Device, Real};
use crate::error::Result;
use crate::ops;
use crate::tensor::Tensor;
use std::any::Any;
use std::rc::Rc;

/// Where a backward rule puts the gradients of its parents.
pub struct Sink<'a> {
    device: &'a Device,
    nodes: &'a [Node],
    pub(super) entries: Vec<Entry>,
}

/// The gradient of a node while its contributions come in.
pub(super) struct Entry {
    /// A tensor of the type of the node's value.
    pub grad: Option<Box<dyn Any>>,
    /// Whether the node's ReLU mask has been applied to the whole sum.
    pub masked: bool,
    /// Contributions that are still to come.
    pub pending: usize,
    /// Whether `grad` holds the leaf itself after its step, which went along the gradient.
    pub moved: bool,
}

/// The place for a contribution to a gradient, and the mask that the whole sum is to get.
pub struct MaskedSlot<'a, T: Real = f32> {
    pub into: &'a mut Buffer<T>,
    /// Whether to add to `into`; else it holds garbage.
    pub accumulate: bool,
    /// Zero the sum where these bits are.
    pub mask: Option<Rc<Buffer<u8>>>,
}

/// A step of images in the Linf ball: to clip01(clip(x_adv + alpha sign(gradient), x - eps, x + eps)).
#[derive(Clone)]
pub struct SignStep {
    /// The centres of the balls, of the shape of x_adv.
    pub x: Tensor,
    pub alpha: f32,
    pub eps: f32,
}

/// The place for images that step along the sign of a gradient.
pub struct StepSlot<'a> {
    pub step: &'a SignStep,
    pub x_adv: &'a Tensor,
    /// The images' gradient is that of the value before, times this for each channel, with the channels as
    /// the period.
    pub factor: Option<&'a Buffer<f32>>,
    /// Holds garbage.
    pub moved: &'a mut Buffer<f32>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(device: &'a Device, nodes: &'a [Node], output: usize) -> Sink<'a> {
        let entry = |node: &Node| Entry { grad: None, masked: false, pending: node.uses, moved: false };
        Sink { device, nodes, entries: nodes[..=output].iter().map(entry).collect() }
    }

    /// The gradient of a node, taken out: an inner one is not needed any more once it has been passed on. It
    /// is zero where the node's ReLU was.
    pub(super) fn take_masked<T: Real>(&mut self, node: NodeId) -> Result<Option<Tensor<T>>> {
        let (node, entry) = (&self.nodes[node.0], &mut self.entries[node.0]);
        let Some(gradient) = entry.grad.take().and_then(|gradient| gradient.downcast().ok()) else {
            return Ok(None);
        };
        let gradient: Tensor<T> = match &node.relu_mask {
            Some(mask) if !entry.masked => ops::relu::mask_gradient(&gradient, mask)?,
            _ => *gradient,
        };
        if node.retains_grad {
            entry.grad = Some(Box::new(gradient.clone()));
        }
        Ok(Some(gradient))
    }

    /// The buffer for the gradient of `parent` and whether the kernel adds to it (else it writes; the content
    /// is garbage), or `None` when this gradient is not wanted.
    pub fn slot<T: Real>(&mut self, parent: Var<T>) -> Result<Option<(&mut Buffer<T>, bool)>> {
        Ok(self.slot_masked(parent, false)?.map(|slot| (slot.into, slot.accumulate)))
    }

    /// [`Sink::slot`] for a rule that, if it `can_mask`, may get the ReLU mask of `parent` to apply. Only the
    /// last contribution gets it, since the mask is for the sum of all.
    pub fn slot_masked<T: Real>(
        &mut self,
        parent: Var<T>,
        can_mask: bool,
    ) -> Result<Option<MaskedSlot<'_, T>>> {
        let (node, entry) = (&self.nodes[parent.0.0], &mut self.entries[parent.0.0]);
        if !node.needs_grad {
            return Ok(None);
        }
        entry.arrive();
        let mask = node.relu_mask.clone().filter(|_| can_mask && entry.pending == 0);
        entry.masked = mask.is_some();
        let accumulate = entry.grad.is_some();
        if entry.grad.is_none() {
            let _kind = node.backward.is_none().then(|| self.device.scope(Range::Gradient));
            entry.grad = Some(Box::new(Tensor::<T>::uninit(self.device, &node.shape)?));
        }
        match entry.gradient_mut::<T>() {
            Some(gradient) => Ok(Some(MaskedSlot { into: gradient.make_mut()?, accumulate, mask })),
            None => Ok(None),
        }
    }

    /// The place for the step of [`super::Tape::stepping_leaf`], for a rule that can make it: where `parent`
    /// is that leaf, or a multiple of it, and nothing else has a part in the leaf's gradient.
    pub fn step_slot<T: Real>(&mut self, parent: Var<T>) -> Result<Option<StepSlot<'_>>> {
        let nodes = self.nodes;
        let through = &nodes[parent.0.0];
        let (at, factor) = match &through.scaled {
            Some((leaf, factor)) => (leaf.0, Some(&**factor)),
            None => (parent.0.0, None),
        };
        let leaf = &nodes[at];
        let alone = |node: &Node| node.uses == 1 && !node.retains_grad;
        let images = leaf.value.downcast_ref::<Tensor>();
        let (Some(step), Some(x_adv), true) = (&leaf.step, images, alone(leaf) && alone(through)) else {
            return Ok(None);
        };
        let entry = &mut self.entries[at];
        entry.moved = true;
        entry.grad = Some(Box::new(Tensor::<f32>::uninit(self.device, &leaf.shape)?));
        match entry.gradient_mut::<f32>() {
            Some(moved) => Ok(Some(StepSlot { step, x_adv, factor, moved: moved.make_mut()? })),
            None => Ok(None),
        }
    }

    /// Whether a gradient of `parent` is wanted.
    pub fn wants(&self, parent: impl Into<NodeId>) -> bool {
        self.nodes[parent.into().0].needs_grad
    }

    /// Adds `gradient` to the gradient of `parent`; the first contribution is shared instead of copied.
    pub fn pass<T: Real>(&mut self, parent: Var<T>, gradient: &Tensor<T>) -> Result<()> {
        let (node, entry) = (&self.nodes[parent.0.0], &mut self.entries[parent.0.0]);
        if !node.needs_grad {
            return Ok(());
        }
        let gradient = gradient.reshape(&node.shape)?;
        entry.arrive();
        match entry.gradient_mut::<T>() {
            Some(sum) => ops::add::accumulate(sum, &gradient),
            None => {
                entry.grad = Some(Box::new(gradient));
                Ok(())
            }
        }
    }
}

impl Entry {
    /// Of a gradient that is complete.
    pub fn new<T: Real>(gradient: Tensor<T>) -> Entry {
        Entry { grad: Some(Box::new(gradient)), masked: false, pending: 0, moved: false }
    }

    fn gradient_mut<T: Real>(&mut self) -> Option<&mut Tensor<T>> {
        self.grad.as_mut()?.downcast_mut()
    }

    /// Counts a contribution. It is not masked, so neither is the sum any more; masking a part of it twice
    /// does no harm.
    fn arrive(&mut self) {
        self.pending = self.pending.saturating_sub(1);
        self.masked = false;
    }
}
