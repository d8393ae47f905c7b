//! Reverse-mode differentiation: a list of values, each with the rule that sends its gradient to its parents.
//!
//! Gradients flow only to leaves that asked for them and through nodes on the way: inside an attack the image
//! alone is such a leaf, so no weight gradient is ever computed. A backward rule adds to its parents'
//! gradients; the first contribution is written, not added, so that no buffer has to be cleared.

use crate::device::trace::Range;
use crate::device::{Buffer, Device};
use crate::error::{Error, Result};
use crate::ops;
use crate::tensor::Tensor;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// A value on a tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Var(usize);

type Backward = dyn Fn(&Tensor, &mut Sink) -> Result<()>;

struct Node {
    value: Tensor,
    needs_grad: bool,
    backward: Option<Box<Backward>>,
    /// The bits of the ReLU that ends the operation: the backward rule wants a gradient that is zero where
    /// they are.
    relu_mask: Option<Rc<Buffer<u8>>>,
    /// How many operations read this value.
    uses: usize,
    /// The layer of the network that it is of, where somebody listens to the device.
    layer: Option<Arc<str>>,
}

/// The record of one or several forward passes.
pub struct Tape {
    device: Device,
    nodes: RefCell<Vec<Node>>,
}

impl Tape {
    pub fn new(device: &Device) -> Tape {
        Tape { device: device.clone(), nodes: RefCell::default() }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A value that is not differentiated.
    pub fn constant(&self, value: Tensor) -> Var {
        self.add(value, false, None, None)
    }

    /// A value whose gradient is wanted.
    pub fn leaf(&self, value: Tensor) -> Var {
        self.add(value, true, None, None)
    }

    /// The result of an operation on `parents` with its backward rule, which gets the gradient of the result.
    /// Without a parent that needs a gradient the rule, and all that it saved, is dropped.
    pub fn push(
        &self,
        value: Tensor,
        parents: &[Var],
        backward: impl Fn(&Tensor, &mut Sink) -> Result<()> + 'static,
    ) -> Result<Var> {
        self.push_masked(value, None, parents, backward)
    }

    /// [`Tape::push`] for an operation that ends in a ReLU with these mask bits: its rule gets a gradient
    /// that is already zero where the bit is. The operation that reads the result may apply the mask to the
    /// gradient it gives back (see [`Sink::slot_masked`]), which saves a pass over it.
    pub fn push_masked(
        &self,
        value: Tensor,
        relu_mask: Option<Buffer<u8>>,
        parents: &[Var],
        backward: impl Fn(&Tensor, &mut Sink) -> Result<()> + 'static,
    ) -> Result<Var> {
        let needs_grad = parents.iter().any(|p| self.needs(*p));
        let backward: Option<Box<Backward>> = if needs_grad { Some(Box::new(backward)) } else { None };
        if needs_grad {
            let mut nodes = self.nodes.borrow_mut();
            parents.iter().for_each(|p| nodes[p.0].uses += 1);
        }
        Ok(self.add(value, needs_grad, backward, relu_mask.map(Rc::new)))
    }

    fn add(
        &self,
        value: Tensor,
        needs_grad: bool,
        backward: Option<Box<Backward>>,
        relu_mask: Option<Rc<Buffer<u8>>>,
    ) -> Var {
        let layer = self.device.open_layer();
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(Node { value, needs_grad, backward, relu_mask, uses: 0, layer });
        Var(nodes.len() - 1)
    }

    /// The value (shared, not copied).
    pub fn value(&self, var: Var) -> Tensor {
        self.nodes.borrow()[var.0].value.clone()
    }

    /// Whether a gradient flows to or through this value.
    pub fn needs(&self, var: Var) -> bool {
        self.nodes.borrow()[var.0].needs_grad
    }

    /// The same value, cut off from what it was computed from.
    pub fn detach(&self, var: Var) -> Var {
        self.constant(self.value(var))
    }

    /// Gradients of `sum(upstream * output)`; `upstream` is 1 for a scalar output when `None`.
    pub fn backward(&self, output: Var, upstream: Option<Tensor>) -> Result<Gradients> {
        let _backward = self.device.scope(Range::Backward);
        let nodes = self.nodes.borrow();
        let value = &nodes[output.0].value;
        let upstream = match upstream {
            Some(upstream) if upstream.shape() == value.shape() => upstream,
            Some(other) => {
                return Err(Error::Shape {
                    op: "backward",
                    expected: format!("{:?}", value.shape()),
                    got: other.shape().to_vec(),
                });
            }
            None if value.len() == 1 => ops::fill::full(&self.device, value.shape(), 1.0)?,
            None => {
                return Err(Error::Shape {
                    op: "backward",
                    expected: "a scalar loss".into(),
                    got: value.shape().to_vec(),
                });
            }
        };
        let entry = |node: &Node| Entry { grad: None, masked: false, pending: node.uses };
        let mut sink = Sink { nodes: &nodes, entries: nodes[..=output.0].iter().map(entry).collect() };
        if nodes[output.0].needs_grad {
            sink.entries[output.0].grad = Some(upstream);
        }
        for index in (0..=output.0).rev() {
            let Some(backward) = &nodes[index].backward else { continue };
            let _layer = self.device.reopen(nodes[index].layer.as_ref());
            // An inner gradient is not needed any more once it has been passed on.
            let entry = &mut sink.entries[index];
            let (Some(mut grad), masked) = (entry.grad.take(), entry.masked) else { continue };
            if let Some(mask) = nodes[index].relu_mask.as_ref().filter(|_| !masked) {
                grad = ops::relu::mask_gradient(&grad, mask)?;
            }
            backward(&grad, &mut sink)?;
        }
        Ok(Gradients(sink.entries.into_iter().map(|entry| entry.grad).collect()))
    }
}

/// Where a backward rule puts the gradients of its parents.
pub struct Sink<'a> {
    nodes: &'a [Node],
    entries: Vec<Entry>,
}

/// The gradient of a node while its contributions come in.
struct Entry {
    grad: Option<Tensor>,
    /// Whether the node's ReLU mask has been applied to the whole sum.
    masked: bool,
    /// Contributions that are still to come.
    pending: usize,
}

/// The place for a contribution to a gradient, and the mask that the whole sum is to get.
pub struct MaskedSlot<'a> {
    pub into: &'a mut Buffer<f32>,
    /// Whether to add to `into`; else it holds garbage.
    pub accumulate: bool,
    /// Zero the sum where these bits are.
    pub mask: Option<Rc<Buffer<u8>>>,
}

impl Sink<'_> {
    /// The buffer for the gradient of `parent` and whether the kernel adds to it (else it writes; the content
    /// is garbage), or `None` when this gradient is not wanted.
    pub fn slot(&mut self, parent: Var) -> Result<Option<(&mut Buffer<f32>, bool)>> {
        Ok(self.slot_masked(parent, false)?.map(|slot| (slot.into, slot.accumulate)))
    }

    /// [`Sink::slot`] for a rule that, if it `can_mask`, may get the ReLU mask of `parent` to apply. Only the
    /// last contribution gets it, since the mask is for the sum of all.
    pub fn slot_masked(&mut self, parent: Var, can_mask: bool) -> Result<Option<MaskedSlot<'_>>> {
        let (node, entry) = (&self.nodes[parent.0], &mut self.entries[parent.0]);
        if !node.needs_grad {
            return Ok(None);
        }
        entry.arrive();
        let mask = node.relu_mask.clone().filter(|_| can_mask && entry.pending == 0);
        entry.masked = mask.is_some();
        let accumulate = entry.grad.is_some();
        let grad = match &mut entry.grad {
            Some(grad) => grad,
            empty => {
                let _kind = node.backward.is_none().then(|| node.value.device().scope(Range::Gradient));
                empty.insert(Tensor::uninit(node.value.device(), node.value.shape())?)
            }
        };
        Ok(Some(MaskedSlot { into: grad.make_mut()?, accumulate, mask }))
    }

    /// Whether a gradient of `parent` is wanted.
    pub fn wants(&self, parent: Var) -> bool {
        self.nodes[parent.0].needs_grad
    }

    /// Adds `gradient` to the gradient of `parent`; the first contribution is shared instead of copied.
    pub fn pass(&mut self, parent: Var, gradient: &Tensor) -> Result<()> {
        let (node, entry) = (&self.nodes[parent.0], &mut self.entries[parent.0]);
        if !node.needs_grad {
            return Ok(());
        }
        let gradient = gradient.reshape(node.value.shape())?;
        entry.arrive();
        match &mut entry.grad {
            Some(sum) => ops::add::accumulate(sum, &gradient),
            empty => {
                *empty = Some(gradient);
                Ok(())
            }
        }
    }
}

impl Entry {
    /// Counts a contribution. It is not masked, so neither is the sum any more; masking a part of it twice
    /// does no harm.
    fn arrive(&mut self) {
        self.pending = self.pending.saturating_sub(1);
        self.masked = false;
    }
}

/// The gradients of leaves after [`Tape::backward`].
pub struct Gradients(Vec<Option<Tensor>>);

impl Gradients {
    /// The gradient of a leaf; `None` when the output does not depend on it or no gradient was
    /// wanted.
    pub fn get(&self, leaf: Var) -> Option<&Tensor> {
        self.0.get(leaf.0)?.as_ref()
    }

    /// Takes the gradient of a leaf out.
    pub fn take(&mut self, leaf: Var) -> Option<Tensor> {
        self.0.get_mut(leaf.0)?.take()
    }
}
